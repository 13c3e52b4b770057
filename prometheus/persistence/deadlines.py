"""Which deadlines runs and their jobs have, and what became of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, or_, select

from prometheus.core.clock import MarketClock
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import HorizonError, NoSessionError, SnapshotError, UnknownMarketError
from prometheus.orchestration.dag import DAG, JobPriority
from prometheus.orchestration.deadlines import Deadline
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.orchestration.planning import session_bounds
from prometheus.persistence.clock import Now
from prometheus.persistence.runs import load_dags
from prometheus.persistence.tables import dag_runs, is_open, job_executions

_r = dag_runs.c
_e = job_executions.c


@dataclass(frozen=True, slots=True)
class Due:
    """By when a run, or a job of it, must have succeeded; all of it market time."""

    dag_id: str
    market_id: str
    pipeline: str
    job_id: str | None
    """``None``: the whole run."""
    priority: JobPriority
    """Of a run, that of its most important job."""
    deadline_at: datetime
    done_at: datetime | None
    """When it succeeded; ``None``: it has not."""
    missed: bool


def deadlines_of(
    dag: DAG, run_status: RunStatus, latest: Mapping[str, Row[Any]], now: Now
) -> list[Due]:
    """
    Say what became of a run's deadlines, by the calendar in force.

    What was cancelled has none any more; nor does any of a session that the calendar does not have.

    Args:
        latest: The last attempt of each job: ``status``, ``started_market_at``, ``completed_at``.
    """
    if not dag.has_deadlines or run_status is RunStatus.CANCELLED:
        return []
    try:
        calendar = TradingCalendar(dag.market_id)
        bounds = session_bounds(calendar, dag.as_of_date)
    except (HorizonError, NoSessionError, SnapshotError, UnknownMarketError):
        return []
    done = {
        job_id: _done_at(row, now.clock)
        for job_id, row in latest.items()
        if row.status == JobStatus.SUCCESS
    }
    found: list[Due] = []

    def tell(
        job_id: str | None, priority: JobPriority, told: Deadline | None, at: datetime | None
    ) -> None:
        deadline_at = told.of(calendar, bounds) if told is not None else None
        if deadline_at is not None:
            missed = deadline_at < (at or now.market_at)
            of = (dag.dag_id, dag.market_id, dag.pipeline)
            found.append(Due(*of, job_id, priority, deadline_at, at, missed))

    succeeded = run_status is RunStatus.SUCCESS
    most = min((job.priority for job in dag), default=JobPriority.STANDARD)
    tell(None, most, dag.deadline, max(done.values(), default=None) if succeeded else None)
    for job in dag:
        row = latest.get(job.job_id)
        if row is None or row.status != JobStatus.CANCELLED:
            tell(job.job_id, job.priority, job.deadline, done.get(job.job_id))
    return found


def _done_at(row: Row[Any], clock: MarketClock) -> datetime:
    """Return when an attempt had succeeded; a clock that leaps stood while it ran."""
    if clock.stands and row.started_market_at is not None:
        started: datetime = row.started_market_at
        return started
    return clock.market_time(row.completed_at)


def read_deadlines(
    connection: Connection, now: Now, *, markets: Collection[str], since: date
) -> list[Due]:
    """
    Read the deadlines of the runs of some markets' last sessions.

    One statement where no run has any.

    Args:
        since: The first session's date; of earlier ones only runs that are still open.
    """
    runs = connection.execute(
        select(_r.dag_id, _r.definition_hash, _r.status).where(
            or_(is_open, _r.market_id.in_(markets) & (_r.as_of_date >= since))
        )
    ).all()
    dags = load_dags(connection, [(row.dag_id, row.definition_hash) for row in runs])
    due = [row for row in runs if row.dag_id in dags and dags[row.dag_id].has_deadlines]
    latest: dict[str, dict[str, Row[Any]]] = defaultdict(dict)
    if due:
        query: Select[Any] = (
            select(_e.dag_id, _e.job_id, _e.status, _e.started_market_at, _e.completed_at)
            .where(_e.dag_id.in_([row.dag_id for row in due]))
            .order_by(_e.attempt_number)
        )
        for attempt in connection.execute(query):
            latest[attempt.dag_id][attempt.job_id] = attempt
    return [
        each
        for row in due
        for each in deadlines_of(dags[row.dag_id], RunStatus(row.status), latest[row.dag_id], now)
    ]
