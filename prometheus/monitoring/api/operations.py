"""``/api/v1/workers``, ``queues``, ``overrides`` and ``audit``: who works, and on what."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import Row

from prometheus.core.overrides import in_force
from prometheus.dispatch.crew import count_listeners
from prometheus.masking import safe_text, safe_value
from prometheus.monitoring.api.markets import tell_override
from prometheus.monitoring.api.models import (
    Instant,
    Model,
    Name,
    RecordedOverride,
    Reply,
    times,
)
from prometheus.monitoring.api.paging import Page, read_number
from prometheus.monitoring.installation import Here
from prometheus.persistence.listings import AuditFilter, QueueLoad, list_audit, read_queues

router = APIRouter(prefix="/api/v1", tags=["operations"])


class Scheduler(Model):
    """The scheduler that leads, or the last one that did."""

    owner: str
    epoch: int
    alive: bool
    """Whether its lease holds."""
    last_tick_seconds_ago: float | None


class Standby(Model):
    """A scheduler that waits for the lead."""

    owner: str
    alive: bool
    """Whether it has said so within the time of a lease; otherwise it is silent."""
    since: Instant
    renewed_at: Instant


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
    standbys: list[Standby]
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


class AuditQuestion(Page):
    """Which entries are meant."""

    actor: Name | None = None
    action: Name | None = None
    target: Name | None = None
    """A run, market or pipeline, user or token."""


class Audited(Model):
    """What somebody did."""

    entry: int
    """Its number; later entries have greater ones."""
    at: Instant
    actor: str
    action: str
    target: str
    details: dict[str, Any]
    """What was asked, and what followed; without secrets of the settings."""


class Audit(Reply):
    """What operators did, and what the scheduler did for their overrides, the last first."""

    items: list[Audited]
    next: str | None
    """The cursor of the next page; ``null`` on the last one."""


class OverrideQuestion(Model):
    """Which overrides are meant."""

    all: bool = False
    """Also those that were withdrawn, and the withdrawals."""


class RecordedOverrides(Reply):
    """What was said of single sessions, in that order."""

    items: list[RecordedOverride]


@router.get("/workers")
def workers(here: Here) -> Workers:
    """List the scheduler that leads, those that stand by, and the workers with their leases."""
    with here.look() as look:
        crew = look.crew()
    return Workers(
        **times(look.now),
        scheduler=Scheduler(**crew.leader.document()) if crew.leader else None,
        standbys=[Standby(**each.document()) for each in crew.standbys],
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
        workers, loads = read_queues(look.connection, look.now.wall_at)
    listeners = count_listeners(workers)
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


@router.get("/audit")
def audit(here: Here, question: Annotated[AuditQuestion, Query()]) -> Audit:
    """List who did what, the last first."""
    which = AuditFilter(actor=question.actor, action=question.action, target=question.target)
    before = read_number(question.cursor)
    with here.look() as look:
        rows = list_audit(look.connection, which, before=before, limit=question.limit + 1)
    page = rows[: question.limit]
    more = len(rows) > len(page)
    return Audit(
        **times(look.now),
        items=[tell_audited(row) for row in page],
        next=str(page[-1].audit_id) if more else None,
    )


def tell_audited(row: Row[Any]) -> Audited:
    """Describe a row of ``audit``; what was typed in may be secret by mistake."""
    return Audited(
        entry=row.audit_id,
        at=row.at,
        actor=safe_text(row.actor),
        action=row.action,
        target=row.target,
        details=safe_value(row.details),
    )


@router.get("/overrides")
def overrides(here: Here, question: Annotated[OverrideQuestion, Query()]) -> RecordedOverrides:
    """List the overrides of calendars that hold, or all that were ever recorded."""
    with here.look() as look:
        known = in_force()
    standing = {each.override_id for each in known.standing()}
    told = standing | {each.override_id for each in known.unreadable()}
    return RecordedOverrides(
        **times(look.now),
        items=[
            tell_override(each, in_force=each.override_id in standing)
            for each in known.rows
            if question.all or each.override_id in told
        ],
    )
