"""``/api/v1/workers``, ``queues`` and ``overrides``: who is at work, what waits, what was said."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from prometheus.core.overrides import in_force
from prometheus.dispatch.crew import count_listeners, read_crew
from prometheus.monitoring.api.markets import tell_override
from prometheus.monitoring.api.models import Instant, Model, RecordedOverride, Reply, times
from prometheus.monitoring.installation import Here
from prometheus.persistence import leases
from prometheus.persistence.listings import QueueLoad, read_loads

router = APIRouter(prefix="/api/v1", tags=["operations"])


class Scheduler(Model):
    """The scheduler that leads, or the last one that did."""

    owner: str
    epoch: int
    alive: bool
    """Whether its lease holds."""
    last_tick_seconds_ago: float | None


class Worker(Model):
    """A worker process that has not ended, nor been given up."""

    worker: str
    """Node name."""
    incarnation: str
    host: str
    pid: int
    queues: list[str]
    alive: bool
    """Whether its lease holds; otherwise it is given up at the next look of the scheduler."""
    started_at: Instant
    renewed_at: Instant
    expires_at: Instant


class Workers(Reply):
    """Who is at work."""

    scheduler: Scheduler | None
    items: list[Worker]


class Queue(Model):
    """The queue of a market."""

    queue: str
    workers: int
    """How many hold a lease and listen to it."""
    waiting: int
    """Executions that are QUEUED and may start."""
    delayed: int
    """Executions that are QUEUED for a later time, such as a retry."""
    running: int
    waiting_since: Instant | None
    """Since when the first of those that wait may start."""


class Queues(Reply):
    """The queues of the markets that this installation serves, and others in which something is."""

    items: list[Queue]


class OverrideQuestion(Model):
    """Which overrides are meant."""

    all: bool = False
    """Also those that were withdrawn, and the withdrawals."""


class RecordedOverrides(Reply):
    """What was said of single sessions, in that order."""

    items: list[RecordedOverride]


@router.get("/workers")
def workers(here: Here) -> Workers:
    """List the scheduler that leads, and the workers with their leases."""
    with here.look() as look:
        crew = read_crew(look.connection, look.now.wall_at)
    return Workers(
        **times(look.now),
        scheduler=Scheduler(**crew.leader.document()) if crew.leader else None,
        items=[
            _worker(row, alive=alive)
            for rows, alive in ((crew.workers, True), (crew.silent, False))
            for row in rows
        ],
    )


def _worker(row: dict[str, Any], *, alive: bool) -> Worker:
    return Worker(
        worker=row["worker"],
        incarnation=row["incarnation"],
        host=row["host"],
        pid=row["pid"],
        queues=row["queues"],
        alive=alive,
        started_at=row["started_at"],
        renewed_at=row["renewed_at"],
        expires_at=row["expires_at"],
    )


@router.get("/queues")
def queues(here: Here) -> Queues:
    """List the queues: who listens, what waits, what runs."""
    with here.look() as look:
        listeners = count_listeners(leases.live_workers(look.connection, look.now.wall_at))
        loads = read_loads(look.connection, look.now.wall_at)
    empty = QueueLoad(0, 0, 0, None)
    names = dict.fromkeys((*here.markets(look.now), *sorted(loads)))
    return Queues(
        **times(look.now),
        items=[
            Queue(
                queue=name,
                workers=listeners.get(name, 0),
                waiting=load.waiting,
                delayed=load.delayed,
                running=load.running,
                waiting_since=load.waiting_since,
            )
            for name in names
            for load in (loads.get(name, empty),)
        ],
    )


@router.get("/overrides")
def overrides(here: Here, question: Annotated[OverrideQuestion, Query()]) -> RecordedOverrides:
    """List the overrides of calendars that hold, or all that were ever recorded."""
    with here.look() as look:
        known = in_force()
    standing = known.standing()
    told = known.rows if question.all else (*standing, *known.unreadable())
    return RecordedOverrides(
        **times(look.now),
        items=[
            tell_override(each, in_force=each in standing) for each in known.rows if each in told
        ],
    )
