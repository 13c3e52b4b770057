"""Where runs stand, read from the database: what boards, progress lines and summaries show."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select, tuple_, union

from prometheus.orchestration.lifecycle import FINAL, JobStatus, RunStatus
from prometheus.persistence.clock import Now, read_now
from prometheus.persistence.tables import dag_runs, is_open, job_executions

_r = dag_runs.c
_e = job_executions.c
_MOST_NAMES = 200


@dataclass(frozen=True, slots=True)
class JobProgress:
    """A job, as its latest attempt is."""

    job_id: str
    execution_id: str
    status: JobStatus
    attempt_number: int
    scheduled_at: datetime | None
    """Wall time before which a QUEUED attempt does not start."""
    named_at: datetime | None
    """When its worker last said that it is running it."""
    started_market_at: datetime | None
    error: str | None
    """Of the latest attempt, or of the one before while a retry waits."""


@dataclass(frozen=True, slots=True)
class RunProgress:
    """A run and its jobs."""

    dag_id: str
    pipeline: str
    market_id: str
    session_date: date
    status: RunStatus
    jobs: tuple[JobProgress, ...]
    """In the order of the DAG."""

    @property
    def finished(self) -> int:
        """How many of its jobs have reached a final state."""
        return sum(job.status in FINAL for job in self.jobs)

    def moved_at(self, now: Now) -> datetime:
        """
        Return the market time of what happened to it last.

        A clock that leaps stands while anything is queued or runs, and may have leapt on since its
        last job ended, which was when that was started. What time or an operator ended was not.
        """
        ended_otherwise = self.named(JobStatus.EXPIRED, JobStatus.CANCELLED)
        starts = [job.started_market_at for job in self.jobs if job.started_market_at is not None]
        if not now.jumps or ended_otherwise or not starts:
            return now.market_at
        return max(starts)

    def named(self, *statuses: JobStatus) -> list[str]:
        """List its jobs in some states."""
        return [job.job_id for job in self.jobs if job.status in statuses]

    def counts(self) -> dict[JobStatus, int]:
        """Count its jobs by state, without states that no job is in."""
        found = Counter(job.status for job in self.jobs)
        return {status: found[status] for status in JobStatus if found[status]}


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at the database."""

    now: Now
    runs: tuple[RunProgress, ...]
    """Those asked for, oldest session first."""

    def of_market(self, market_id: str) -> list[RunProgress]:
        """Return the runs of one market, oldest session first."""
        return [run for run in self.runs if run.market_id == market_id]

    def fingerprint(self) -> object:
        """
        Return a value that differs whenever something has happened.

        Workers name what they run every few seconds, so that a long job counts as something.
        """
        clock = self.now.clock.anchor_market_at
        states = tuple(
            (
                run.dag_id,
                run.status,
                *((job.execution_id, job.status, job.named_at) for job in run.jobs),
            )
            for run in self.runs
        )
        return clock, states

    def waits_for_time(self) -> bool:
        """Say whether there is a reason for nothing to happen: a retry's delay, or the clock."""
        delayed = any(
            job.status is JobStatus.QUEUED
            and job.scheduled_at is not None
            and job.scheduled_at > self.now.wall_at
            for run in self.runs
            for job in run.jobs
        )
        live = any(run.named(JobStatus.QUEUED, JobStatus.RUNNING) for run in self.runs)
        return delayed or (not live and not self.now.jumps)


def read_progress(
    connection: Connection,
    *,
    since: datetime | None = None,
    dag_ids: Collection[str] = (),
    market_id: str | None = None,
    now: Now | None = None,
) -> Progress:
    """
    Read the open runs with their jobs, and runs that have finished.

    Args:
        since: Also the runs that finished since then, by wall time.
        dag_ids: Also these, whatever their state.
        market_id: Of this market alone, and also the latest session's run of each pipeline.
        now: If it was read in this transaction already.
    """
    now = now or read_now(connection)
    wanted: list[ColumnElement[bool]] = [is_open]
    if since is not None:
        wanted.append(_r.completed_at >= since)
    if dag_ids:
        wanted.append(_r.dag_id.in_(dag_ids))
    of_market = []
    if market_id is not None:
        of_market.append(_r.market_id == market_id)
        latest = select(_r.pipeline, func.max(_r.as_of_date)).where(*of_market)
        wanted.append(tuple_(_r.pipeline, _r.as_of_date).in_(latest.group_by(_r.pipeline)))
    # Each by its own index: of an OR, PostgreSQL expects half of all runs, and reads all attempts.
    chosen = union(*(select(_r.dag_id).where(each, *of_market) for each in wanted))
    rows = connection.execute(
        select(
            *(_r.dag_id, _r.pipeline, _r.market_id, _r.as_of_date, _r.status.label("run_status")),
            *(_e.job_id, _e.execution_id, _e.status, _e.attempt_number, _e.scheduled_at),
            *(_e.named_at, _e.started_market_at, _e.error_message),
        )
        .outerjoin_from(dag_runs, job_executions, _e.dag_id == _r.dag_id)
        .where(_r.dag_id.in_(chosen))
        .order_by(_r.as_of_date, _r.dag_id, _e.attempt_number, _e.created_at, _e.job_id)
    )
    return Progress(
        now, tuple(_run(list(of_run)) for _, of_run in groupby(rows, key=attrgetter("dag_id")))
    )


def _run(rows: list[Any]) -> RunProgress:
    """Make one of all attempts of a run; of a row without one where there is none."""
    latest: dict[str, JobProgress] = {}
    for row in rows:
        if row.job_id is None:
            continue
        before = latest.get(row.job_id)
        latest[row.job_id] = JobProgress(
            row.job_id,
            row.execution_id,
            JobStatus(row.status),
            row.attempt_number,
            row.scheduled_at,
            row.named_at,
            row.started_market_at,
            row.error_message or (before.error if before else None),
        )
    run = rows[0]
    return RunProgress(
        run.dag_id,
        run.pipeline,
        run.market_id,
        run.as_of_date,
        RunStatus(run.run_status),
        tuple(latest.values()),
    )


def chunks(names: Collection[str], size: int = 500) -> list[list[str]]:
    """Divide names among statements: SQLite takes a limited number of parameters."""
    listed = list(names)
    return [listed[start : start + size] for start in range(0, len(listed), size)]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What became of a run."""

    dag_id: str
    pipeline: str
    market_id: str
    session_date: date
    status: RunStatus
    trigger: str
    jobs: Mapping[str, int]
    """State of the latest attempt -> number of jobs."""
    attempts: int
    """Attempts that were started."""
    lasted: timedelta | None
    """Wall time from the first start to the last end."""
    first_start_market_at: datetime | None
    """Market time of the first start."""
    errors: tuple[tuple[str, int, str], ...]
    """Job, attempt and message of every attempt that did not succeed."""

    def document(self) -> dict[str, Any]:
        """Describe the run for machines."""
        return {
            "dag_id": self.dag_id,
            "pipeline": self.pipeline,
            "market": self.market_id,
            "session_date": self.session_date,
            "status": self.status,
            "trigger": self.trigger,
            "jobs": dict(self.jobs),
            "attempts": self.attempts,
            "seconds": self.lasted and round(self.lasted.total_seconds(), 3),
            "first_start_market_at": self.first_start_market_at,
            "errors": [
                {"job": job, "attempt": attempt, "error": message}
                for job, attempt, message in self.errors
            ],
        }


def summarise(connection: Connection, dag_ids: Collection[str] | None = None) -> list[RunSummary]:
    """
    Say what became of runs.

    Args:
        dag_ids: Which; all of the database if not given.

    Returns:
        By session, then by the start of the first job.
    """
    query = select(_r.dag_id, _r.pipeline, _r.market_id, _r.as_of_date, _r.status, _r.trigger)
    attempts = select(
        _e.dag_id,
        _e.job_id,
        _e.status,
        _e.attempt_number,
        _e.started_at,
        _e.started_market_at,
        _e.completed_at,
        _e.created_at,
        _e.error_message,
    ).order_by(_e.attempt_number)
    if dag_ids is not None:
        query = query.where(_r.dag_id.in_(dag_ids))
        attempts = attempts.where(_e.dag_id.in_(dag_ids))
    rows: dict[str, list[Any]] = defaultdict(list)
    for row in connection.execute(attempts):
        rows[row.dag_id].append(row)
    found = [_summary(run, rows[run.dag_id]) for run in connection.execute(query)]
    return sorted(found, key=lambda run: (run.session_date, _start(run), run.dag_id))


def _start(run: RunSummary) -> float:
    at = run.first_start_market_at
    return at.timestamp() if at else float("inf")


def _summary(run: Any, rows: list[Any]) -> RunSummary:
    latest = {row.job_id: row.status for row in rows}
    starts = [row.started_at for row in rows if row.started_at is not None]
    ends = [row.completed_at for row in rows if row.completed_at is not None]
    market_starts = [row.started_market_at for row in rows if row.started_market_at is not None]
    return RunSummary(
        dag_id=run.dag_id,
        pipeline=run.pipeline,
        market_id=run.market_id,
        session_date=run.as_of_date,
        status=RunStatus(run.status),
        trigger=run.trigger,
        jobs=dict(Counter(latest.values())),
        attempts=len(starts),
        lasted=max(ends) - min(starts) if starts and ends else None,
        first_start_market_at=min(market_starts, default=None),
        errors=tuple(
            (row.job_id, row.attempt_number, row.error_message)
            for row in sorted(rows, key=lambda row: row.completed_at or row.created_at)
            if row.error_message
        ),
    )
