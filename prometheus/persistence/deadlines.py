"""Which deadlines runs and their jobs have, and what became of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import PrometheusError
from prometheus.orchestration.dag import DAG, JobMetadata, JobPriority
from prometheus.orchestration.deadlines import Deadline
from prometheus.orchestration.lifecycle import ASKED_FOR, JobStatus, RunStatus
from prometheus.orchestration.planning import session_bounds
from prometheus.orchestration.timeouts import RUN_TIMEOUT
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
    """When it succeeded first; ``None``: it has not."""
    missed: bool


def deadlines_of(
    run: Row[Any], dag: DAG, attempts: Mapping[str, Sequence[Row[Any]]], now: Now
) -> list[Due]:
    """
    Say what became of a run's deadlines, by the calendar in force.

    What succeeded in time stays so, whatever is run again later. What an operator has cancelled has
    none any more; nor has a run of the past that one makes, nor any of a session that the calendar
    does not have.

    Args:
        run: Its ``status``, ``trigger`` and ``created_at``.
        attempts: Of each job, the first one first: ``status``, ``started_market_at``,
            ``completed_at``, ``cancel_asked_by``.
    """
    if not dag.has_deadlines:
        return []
    cancelled = {job_id for job_id, rows in attempts.items() if _was_cancelled(rows[-1])}
    if cancelled and run.status == RunStatus.CANCELLED:
        return []
    try:
        calendar = TradingCalendar(dag.market_id)
        bounds = session_bounds(calendar, dag.as_of_date)
    except PrometheusError:  # that market's alone, and said where its sessions are asked for
        return []
    done = {job_id: _done_at(dag.jobs[job_id], rows, now) for job_id, rows in attempts.items()}
    found: list[Due] = []

    def tell(
        job_id: str | None, priority: JobPriority, told: Deadline | None, at: datetime | None
    ) -> None:
        deadline_at = told.of(calendar, bounds) if told is not None else None
        if deadline_at is not None and not _is_made_later(run, deadline_at, now):
            missed = deadline_at < (at or now.market_at)
            of = (dag.dag_id, dag.market_id, dag.pipeline)
            found.append(Due(*of, job_id, priority, deadline_at, at, missed))

    most = min((job.priority for job in dag), default=JobPriority.STANDARD)
    tell(None, most, dag.deadline, _run_done_at(run, done))
    for job in dag:
        if job.job_id not in cancelled:
            tell(job.job_id, job.priority, job.deadline, done.get(job.job_id))
    return found


def _was_cancelled(row: Row[Any]) -> bool:
    """Say whether somebody cancelled an attempt; its run's having had its time is nobody."""
    by_time = (row.cancel_asked_by or "").startswith(RUN_TIMEOUT)
    return row.status == JobStatus.CANCELLED and not by_time


def _done_at(job: JobMetadata, rows: Sequence[Row[Any]], now: Now) -> datetime | None:
    """Return when a job succeeded first; a clock that leaps stood while it ran."""
    # A poll that has found nothing is a success, too, and is followed by another one.
    looked_at = rows if job.sensor is None else rows[-1:]
    row = next((each for each in looked_at if each.status == JobStatus.SUCCESS), None)
    if row is None:
        return None
    if now.jumps and row.started_market_at is not None:
        started: datetime = row.started_market_at
        return started
    return now.clock.market_time(row.completed_at)


def _run_done_at(run: Row[Any], done: Mapping[str, datetime | None]) -> datetime | None:
    """Return when all jobs had succeeded; a run that is a SUCCESS does without what was skipped."""
    ends = [at for at in done.values() if at is not None]
    is_done = run.status == RunStatus.SUCCESS or len(ends) == len(done)
    return max(ends, default=None) if is_done else None


def _is_made_later(run: Row[Any], deadline_at: datetime, now: Now) -> bool:
    """Say whether somebody had a run made when its time was over already."""
    # Where the clock leaps, what time it was then is not known.
    asked_for = run.trigger in ASKED_FOR and not now.jumps
    return asked_for and now.clock.market_time(run.created_at) > deadline_at


def read_deadlines(
    connection: Connection, now: Now, *, markets: Collection[str], since: date
) -> list[Due]:
    """
    Read the deadlines of the runs of some markets' last sessions.

    One statement where no run has any.

    Args:
        since: The first session's date; of earlier ones only runs that are still open.
    """
    query: Select[Any] = select(_r.dag_id, _r.definition_hash, _r.status, _r.trigger, _r.created_at)
    closed = _r.market_id.in_(markets) & (_r.as_of_date >= since) & ~is_open
    # Not one condition with an OR: SQLite would read all runs there are.
    runs = connection.execute(query.where(is_open).union_all(query.where(closed))).all()
    return deadlines_of_runs(connection, runs, now)


def deadlines_of_runs(
    connection: Connection,
    runs: Sequence[Row[Any]],
    now: Now,
    known: Iterable[Row[Any]] | None = None,
) -> list[Due]:
    """
    Say what became of the deadlines of runs.

    Args:
        runs: What `deadlines_of` needs of them, ``dag_id`` and ``definition_hash``.
        known: What it needs of all their attempts, ``dag_id``, ``job_id`` and ``attempt_number``,
            if that was read already; otherwise it is, if any run has a deadline.
    """
    dags = load_dags(connection, [(row.dag_id, row.definition_hash) for row in runs])
    due = [row for row in runs if row.dag_id in dags and dags[row.dag_id].has_deadlines]
    attempts: dict[str, dict[str, list[Row[Any]]]] = defaultdict(lambda: defaultdict(list))
    if due and known is None:
        tries: Select[Any] = select(
            *(_e.dag_id, _e.job_id, _e.attempt_number, _e.status, _e.cancel_asked_by),
            *(_e.started_market_at, _e.completed_at),
        )
        known = connection.execute(tries.where(_e.dag_id.in_([row.dag_id for row in due])))
    for attempt in sorted(known or (), key=attrgetter("attempt_number")):
        attempts[attempt.dag_id][attempt.job_id].append(attempt)
    return [
        each
        for row in due
        for each in deadlines_of(row, dags[row.dag_id], attempts[row.dag_id], now)
    ]
