"""What of the rows is trouble: questions that are asked every few seconds, each by an index."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    case,
    func,
    or_,
    select,
)

from prometheus.orchestration.lifecycle import JobStatus, RunStatus, Trigger
from prometheus.orchestration.sensor import Readiness
from prometheus.orchestration.timeouts import RUN_TIMEOUT
from prometheus.persistence.listings import is_last_attempt
from prometheus.persistence.progress import chunks
from prometheus.persistence.tables import (
    dag_runs,
    has_failed,
    in_state,
    is_live,
    is_open,
    is_paused,
    is_still,
    job_executions,
    was_paused_since,
    worker_incarnations,
)

_e, _r, _w = job_executions.c, dag_runs.c, worker_incarnations.c
# One that an operator has cancelled is as he wants it.
_went_wrong = or_(
    in_state(job_executions, JobStatus.FAILED, JobStatus.EXPIRED),
    and_(
        in_state(job_executions, JobStatus.CANCELLED),
        _e.cancel_asked_by.startswith(RUN_TIMEOUT, autoescape=True),
    ),
)
_MOST_LATE = 500


@dataclass(frozen=True, slots=True)
class Ended:
    """The last attempt of a job that did not end well, or that has not ended again since."""

    dag_id: str
    job_id: str
    pipeline: str
    market_id: str
    priority: int
    status: JobStatus
    attempt: int
    at: datetime
    """When it ended; of one that has not, when it was written."""
    error: str


_ENDED: Select[Any] = select(
    _e.dag_id,
    _e.job_id,
    _r.pipeline,
    _r.market_id,
    _e.priority,
    _e.status,
    _e.attempt_number,
    func.coalesce(_e.completed_at, _e.created_at).label("at"),
    _e.error_message,
).join_from(job_executions, dag_runs)


def failed_since(connection: Connection, since: datetime) -> list[Ended]:
    """List the jobs that have ended for good, and not well, after an instant of wall time."""
    query = _ENDED.where(has_failed, _went_wrong, _e.completed_at > since, is_last_attempt)
    return [_ended(row) for row in connection.execute(query)]


def failed_or_unfinished(connection: Connection, dag_ids: Collection[str]) -> list[Ended]:
    """List the jobs of some runs that have ended, and not well, or that have not ended (again)."""
    found = []
    unfinished = in_state(job_executions, JobStatus.PENDING, JobStatus.QUEUED, JobStatus.RUNNING)
    for some in chunks(sorted(dag_ids)):
        query = _ENDED.where(_e.dag_id.in_(some), or_(_went_wrong, unfinished), is_last_attempt)
        found += [_ended(row) for row in connection.execute(query)]
    return found


def _ended(row: Row[Any]) -> Ended:
    return Ended(
        dag_id=row.dag_id,
        job_id=row.job_id,
        pipeline=row.pipeline,
        market_id=row.market_id,
        priority=row.priority,
        status=JobStatus(row.status),
        attempt=row.attempt_number,
        at=row.at,
        error=row.error_message or "",
    )


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is due in a queue, and nobody keeps from starting."""

    queue: str
    count: int
    since: datetime
    """When the first of it was due, in wall time."""
    priority: int
    """The highest of them."""
    unsent: int
    """How many of them have no message yet."""
    unsent_since: datetime | None
    """When the first of those was due, in wall time."""


def _is_due(now: datetime) -> ColumnElement[bool]:
    return and_(
        is_live,
        in_state(job_executions, JobStatus.QUEUED),
        _e.scheduled_at <= now,
        is_still(dag_runs, RunStatus.OPEN),
        ~is_paused,
    )


def waiting_in_queues(connection: Connection, now: datetime) -> list[Waiting]:
    """
    Count what is due, by queue.

    Args:
        now: Wall time.
    """
    query = (
        select(
            _e.queue,
            func.count().label("number"),
            func.min(_e.scheduled_at).label("since"),
            func.min(_e.priority).label("priority"),
            func.count().filter(_e.published_at.is_(None)).label("unsent"),
            func.min(case((_e.published_at.is_(None), _e.scheduled_at))).label("unsent_since"),
        )
        .join_from(job_executions, dag_runs)
        .where(_is_due(now))
        .group_by(_e.queue)
    )
    return [
        Waiting(row.queue, row.number, row.since, row.priority, row.unsent, row.unsent_since)
        for row in connection.execute(query)
    ]


def late_in_queues(connection: Connection, due_before: datetime) -> list[Row[Any]]:
    """
    List the jobs of scheduled runs that were due before an instant of wall time, and wait.

    What an operator kept from starting since that instant is not among them.

    Returns:
        Rows with run, job, pipeline, market, queue, priority and ``scheduled_at``, oldest first.
    """
    query: Select[Any] = (
        select(
            *(_e.dag_id, _e.job_id, _e.queue, _e.priority, _e.scheduled_at),
            *(_r.pipeline, _r.market_id),
        )
        .join_from(job_executions, dag_runs)
        .where(_is_due(due_before), _r.trigger == Trigger.SCHEDULE, ~was_paused_since(due_before))
        .order_by(_e.scheduled_at, _e.dag_id, _e.job_id)
        .limit(_MOST_LATE)
    )
    return list(connection.execute(query))


def late_sensors(connection: Connection) -> list[Row[Any]]:
    """
    List the sensors that go on asking for what is late.

    Returns:
        Rows with run, job, pipeline, market, priority, and the ``result`` and ``completed_at`` of
        the last poll.
    """
    last = job_executions.alias("last")
    query: Select[Any] = (
        select(
            *(_e.dag_id, _e.job_id, _e.priority, _r.pipeline, _r.market_id),
            *(last.c.result, last.c.completed_at),
        )
        .join_from(job_executions, dag_runs)
        .join(
            last,
            and_(
                last.c.dag_id == _e.dag_id,
                last.c.job_id == _e.job_id,
                last.c.attempt_number == _e.attempt_number - 1,
            ),
        )
        .where(is_live, is_open, _e.attempt_number > 1, last.c.result.is_not(None))
        .where(~is_paused, _r.trigger == Trigger.SCHEDULE)
        .order_by(_e.dag_id, _e.job_id)
    )
    return [
        row
        for row in connection.execute(query)
        if isinstance(row.result, dict) and row.result.get("state") == Readiness.LATE
    ]


def sessions_with_runs_since(connection: Connection, day: date) -> dict[tuple[str, str], set[date]]:
    """Return the sessions from a date on that have runs: pipeline and market -> dates."""
    found: dict[tuple[str, str], set[date]] = {}
    query = select(_r.pipeline, _r.market_id, _r.as_of_date).where(_r.as_of_date >= day)
    for row in connection.execute(query):
        found.setdefault((row.pipeline, row.market_id), set()).add(row.as_of_date)
    return found


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker that was given up."""

    worker: str
    host: str
    pid: int
    queues: tuple[str, ...]
    seen_at: datetime
    """Its last renewal, in wall time."""
    given_up_at: datetime
    """Likewise."""
    replaced: bool
    """Whether one that has started later has its name or its queues."""


def lost_workers(connection: Connection, now: datetime, within: timedelta) -> list[Lost]:
    """
    List the workers that were given up lately; of several of a name, the last.

    Args:
        now: Wall time.
        within: How long ago it may have been.
    """
    given_up = select(worker_incarnations).where(
        _w.ended_at > now - within, _w.ended_at >= _w.expires_at
    )
    lost = {row.worker: row for row in connection.execute(given_up.order_by(_w.renewed_at))}
    if not lost:
        return []
    others = connection.execute(
        select(_w.worker, _w.queues, _w.started_at).where(
            or_(_w.ended_at.is_(None), _w.ended_at > now - within)
        )
    ).all()
    return [
        Lost(
            worker=name,
            host=row.host,
            pid=row.pid,
            queues=tuple(row.queues),
            seen_at=row.renewed_at,
            given_up_at=row.ended_at,
            replaced=any(
                each.started_at > row.renewed_at
                and (each.worker == name or set(row.queues) <= set(each.queues))
                for each in others
            ),
        )
        for name, row in lost.items()
    ]
