"""``/api/v1/runs``: what has run and what runs, and one run as the DAG that it is."""

from __future__ import annotations

from collections import Counter
from datetime import date
from typing import Annotated, Any, Self

from fastapi import APIRouter, Query
from pydantic import Field
from sqlalchemy import Row

from prometheus.configured import check_names
from prometheus.core.market_state import MarketState
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import HorizonError, NoSessionError, SnapshotError, UnknownMarketError
from prometheus.monitoring.api.executions import Execution, tell_execution
from prometheus.monitoring.api.models import (
    Instant,
    Interval,
    IsoDate,
    Model,
    Name,
    Reply,
    SessionHours,
    times,
)
from prometheus.monitoring.api.paging import Page, read_cursor, write_cursor
from prometheus.monitoring.installation import Here
from prometheus.orchestration.dag import DAG, JobMetadata, WindowRule
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.orchestration.planning import session_bounds
from prometheus.orchestration.windows import SessionBounds
from prometheus.persistence.clock import Now
from prometheus.persistence.deadlines import Due, deadlines_of
from prometheus.persistence.listings import RunFilter, StoredRun, list_runs, read_run

router = APIRouter(prefix="/api/v1", tags=["runs"])


class RunQuestion(Page):
    """Which runs are meant."""

    market: Name | None = None
    pipeline: Name | None = None
    status: RunStatus | None = None
    first: Annotated[IsoDate | None, Field(alias="from")] = None
    """First session date."""
    last: Annotated[IsoDate | None, Field(alias="to")] = None
    """Last session date, included."""


class Run(Model):
    """A run."""

    dag_id: str
    pipeline: str
    market: str
    session_date: date
    status: RunStatus
    trigger: str
    """Why it exists: ``schedule``, ``catch_up``, ``operator`` or ``backfill``."""
    forced: bool
    """Whether its windows do not count."""
    calendar_version: str
    opens_at: Instant
    """Market time."""
    created_at: Instant
    completed_at: Instant | None
    jobs: dict[JobStatus, int]
    """How many of its jobs are in each state; states without any are left out."""


class Runs(Reply):
    """A page of runs, the latest session first."""

    items: list[Run]
    next: str | None
    """``cursor`` of the next page; ``null`` on the last one."""


class Deadline(Model):
    """By when something must have succeeded, in market time, by the calendar as it is now."""

    at: Instant
    done_at: Instant | None
    """When it succeeded first."""
    missed: bool

    @classmethod
    def of(cls, due: Due) -> Self:
        """Make one of what the database says."""
        return cls(at=due.deadline_at, done_at=due.done_at, missed=due.missed)


class JobOfRun(Model):
    """A job of a run, as its latest attempt is."""

    job: str
    status: JobStatus
    attempts: int
    required_state: MarketState | None
    start: str | None
    """When its window opens, told by the session, such as ``close+45m``."""
    window_rule: WindowRule
    window: Interval | None
    """In which it may start, in market time, by the calendar as it is now; ``null`` where that has
    no such session, or does not know it."""
    gives_up_at: Instant | None
    """Of a sensor, when it makes no further poll, in market time."""
    priority: str
    max_retries: int
    timeout_seconds: float
    after_previous: bool
    sensor: bool
    deadline: Deadline | None
    execution: Execution
    """Its latest attempt."""


class Edge(Model):
    """A job that waits for another one."""

    upstream: str
    downstream: str


class RunGraph(Reply):
    """A run as the DAG that it was made with."""

    run: Run
    session: SessionHours | None
    """As the calendar has it now; ``null`` where it has none on that date."""
    closed: str | None
    """Why there is no session any more."""
    unknown: str | None
    """Why it is not known what session there is, and so no window either."""
    deadline: Deadline | None
    """Of the whole run; ``null`` where it has none, or none any more."""
    jobs: list[JobOfRun]
    """Upstream before downstream."""
    edges: list[Edge]


@router.get("/runs")
def runs(here: Here, question: Annotated[RunQuestion, Query()]) -> Runs:
    """List runs, the latest session first."""
    which = RunFilter(
        market_id=question.market,
        pipeline=question.pipeline,
        status=question.status,
        first=question.first,
        last=question.last,
    )
    after = read_cursor(question.cursor, date.fromisoformat)
    with here.look() as look:
        rows = list_runs(look.connection, which, after=after, limit=question.limit + 1)
        if not rows:
            names = {"market": question.market, "pipeline": question.pipeline}
            check_names(look.connection, here.pipelines[0], **names)
    page = rows[: question.limit]
    more = len(rows) > len(page)
    return Runs(
        **times(look.now),
        items=[_run(row, counts) for row, counts in page],
        next=write_cursor(page[-1][0].as_of_date, page[-1][0].dag_id) if more else None,
    )


@router.get("/runs/{dag_id}")
def run(here: Here, dag_id: Name) -> RunGraph:
    """Show a run as the DAG it was made with: its jobs, their states and windows, its edges."""
    with here.look() as look:
        found = read_run(look.connection, dag_id)
    return tell_run(found, look.now)


def tell_run(found: StoredRun, now: Now) -> RunGraph:
    """Describe a run that was read."""
    dag = found.dag
    latest = {job_id: attempts[-1] for job_id, attempts in found.attempts.items()}
    calendar, bounds, closed, unknown = _bounds(dag)
    due = {
        each.job_id: Deadline.of(each) for each in deadlines_of(found.row, dag, found.attempts, now)
    }
    return RunGraph(
        **times(now),
        run=_run(found.row, Counter(JobStatus(row.status) for row in latest.values())),
        session=SessionHours.of(calendar.session(dag.as_of_date)) if calendar and bounds else None,
        closed=closed,
        unknown=unknown,
        deadline=due.get(None),
        jobs=[
            _job(dag.jobs[job_id], attempts, bounds, due.get(job_id))
            for job_id, attempts in found.attempts.items()
        ],
        edges=[
            Edge(upstream=upstream, downstream=job.job_id)
            for job in dag
            for upstream in job.dependencies
        ],
    )


def _run(row: Row[Any], counts: Counter[JobStatus]) -> Run:
    return Run(
        dag_id=row.dag_id,
        pipeline=row.pipeline,
        market=row.market_id,
        session_date=row.as_of_date,
        status=RunStatus(row.status),
        trigger=row.trigger,
        forced=row.forced,
        calendar_version=row.calendar_version,
        opens_at=row.opens_at,
        created_at=row.created_at,
        completed_at=row.completed_at,
        jobs={status: counts[status] for status in JobStatus if counts[status]},
    )


def _bounds(
    dag: DAG,
) -> tuple[TradingCalendar | None, SessionBounds | None, str | None, str | None]:
    """
    Return what its windows are made of, by the calendar as it is now; or why there are none, its
    session being closed; or why that is not known.
    """
    try:
        calendar = TradingCalendar(dag.market_id)
        return calendar, session_bounds(calendar, dag.as_of_date), None, None
    except NoSessionError as error:
        return calendar, None, error.reason, None
    except (HorizonError, SnapshotError, UnknownMarketError) as error:
        return None, None, None, str(error)


def _job(
    job: JobMetadata,
    attempts: list[Row[Any]],
    bounds: SessionBounds | None,
    deadline: Deadline | None,
) -> JobOfRun:
    latest = attempts[-1]
    return JobOfRun(
        job=job.job_id,
        status=JobStatus(latest.status),
        attempts=len(attempts),
        required_state=job.required_state,
        start=str(job.start) if job.start else None,
        window_rule=job.window,
        window=Interval.of(bounds.window(job)) if bounds else None,
        gives_up_at=bounds.gives_up_at(job) if bounds else None,
        priority=job.priority.name,
        max_retries=job.max_retries,
        timeout_seconds=job.timeout.total_seconds(),
        after_previous=job.after_previous,
        sensor=job.sensor is not None,
        deadline=deadline,
        execution=tell_execution(latest),
    )
