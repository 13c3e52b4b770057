"""
The scheduler's one decision: from what is stored and the time, what happens to each job.

Pure: the same snapshot and the same ``now`` give the same decisions, whoever asks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple, assert_never

from prometheus.core.durations import format_duration
from prometheus.errors import UnknownMarketError
from prometheus.orchestration.dag import DAG, JobMetadata, start_order
from prometheus.orchestration.lifecycle import BLOCKING, FINAL, JobStatus, RunStatus
from prometheus.orchestration.pauses import Pause
from prometheus.orchestration.timeouts import RUN_TIMEOUT, Timeout, run_timeout, start_timeout
from prometheus.orchestration.windows import SessionBounds, Window


class JobState(NamedTuple):
    """
    The latest execution of a job, as far as a decision needs it.

    A tuple, because one is made of each job of each open run at each tick, and a frozen dataclass
    takes three times as long to make.
    """

    execution_id: str
    status: JobStatus
    forced: bool = False
    """An operator started it: its window does not count."""
    scheduled_at: datetime | None = None
    """Since when, or from when on, a worker may start it, in wall time."""
    cancel_asked: bool = False
    """It runs, and has been asked to end."""
    dropped: bool = False
    """It was CANCELLED because its session was closed."""


@dataclass(frozen=True, slots=True)
class RunState:
    """One run; a decision is made of open ones."""

    dag: DAG
    jobs: Mapping[str, JobState]
    """Every job of the DAG by id; or those that are decided about, and what they wait for."""
    previous: Mapping[str, JobStatus] | None
    """
    Of the run of the market's previous session, the jobs that a job here may have to wait for, by
    id; ``None`` if there is none.
    """
    forced: bool = False
    """An operator, or an announced catch-up, runs it outside its windows."""
    created_at: datetime | None = None
    """When it was made, in wall time."""
    status: RunStatus = RunStatus.OPEN
    calendar_version: str = ""
    """The calendar it follows."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a decision is made of, read in one transaction."""

    runs: tuple[RunState, ...]
    bounds: Mapping[tuple[str, date], SessionBounds]
    """Of each run's session, by market and session date."""
    wall_at: datetime | None = None
    """Wall time, aware UTC; ``None`` where none passes, and no time-out does either."""
    pauses: tuple[Pause, ...] = ()
    """What operators keep from starting."""


class HoldReason(StrEnum):
    """Why a job does not start now."""

    UPSTREAM = "upstream"
    """A job it depends on has not succeeded yet."""
    WINDOW = "window"
    """Its window has not opened."""
    PREVIOUS = "previous"
    """The same job of the previous session has not finished."""
    PAUSED = "paused"
    """An operator keeps it from starting; that would be all it waits for."""


@dataclass(frozen=True, slots=True)
class Start:
    """Claim the job and hand it to a worker."""

    dag_id: str
    job: JobMetadata
    execution_id: str
    window: Window
    forced: bool
    calendar_version: str
    """The calendar that its run followed when this was decided."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Leave the job as it is."""

    dag_id: str
    job: JobMetadata
    execution_id: str
    reason: HoldReason
    detail: str
    until: datetime | None
    """When the reason ends, if that is known: in market time, of a pause in wall time."""
    also: tuple[HoldReason, ...] = ()
    """What else keeps it, in the order in which it is looked at."""


@dataclass(frozen=True, slots=True)
class Skip:
    """The job can not run any more, because of an upstream job."""

    dag_id: str
    job: JobMetadata
    execution_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Expire:
    """The job's window closed, or its time ran out, before it started."""

    dag_id: str
    job: JobMetadata
    execution_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """The job runs and its run has had its time: ask it to end."""

    dag_id: str
    job: JobMetadata
    execution_id: str
    by: str
    """What asks, as an operator's name stands elsewhere."""


Decision = Start | Hold | Skip | Expire | Cancel


def decide(
    snapshot: Snapshot,
    now: datetime,
    *,
    holds: bool = True,
    jobs: Collection[str] | None = None,
) -> tuple[Decision, ...]:
    """
    Choose what happens to each unfinished job of each open run.

    Args:
        snapshot: Open runs with the latest execution of each of their jobs.
        now: Market time, aware UTC.
        holds: Whether to say of what stays as it is why; who only acts does not ask, and saves half
            of the time.
        jobs: Only these of each run, of which none is a sensor; all if not given.

    Returns:
        At most one decision for each job that is PENDING, and an `Expire` for each that is QUEUED
        past its window or for too long, and a `Cancel` for each that is RUNNING and was not asked
        to end when its run has had its time. Upstream before downstream within a run, except that
        the starts of all runs come first, by priority and id. The order of the snapshot's rows is
        irrelevant.

    Raises:
        UnknownMarketError: A run's session has no bounds in the snapshot.
    """
    starts: list[Start] = []
    others: list[Decision] = []
    for run in sorted(snapshot.runs, key=lambda run: run.dag.dag_id):
        bounds = _bounds(snapshot, run.dag)
        for decision in _decide_run(run, bounds, now, snapshot, holds, jobs):
            if isinstance(decision, Start):
                starts.append(decision)
            else:
                others.append(decision)
    starts.sort(key=lambda start: (start_order(start.job), start.dag_id))
    return (*starts, *others)


def _bounds(snapshot: Snapshot, dag: DAG) -> SessionBounds:
    bounds = snapshot.bounds.get((dag.market_id, dag.as_of_date))
    if bounds is None:
        raise UnknownMarketError(dag.market_id, {market for market, _ in snapshot.bounds})
    return bounds


def _decide_run(
    run: RunState,
    bounds: SessionBounds,
    now: datetime,
    snapshot: Snapshot,
    holds: bool,
    jobs: Collection[str] | None,
) -> list[Decision]:
    decisions: list[Decision] = []
    wall_at = snapshot.wall_at
    dag_id = run.dag.dag_id
    status = {job_id: state.status for job_id, state in run.jobs.items()}
    has_timeouts = run.dag.has_timeouts
    for job_id in run.dag.topological_order():
        if jobs is not None and job_id not in jobs:
            continue
        state = run.jobs[job_id]
        if state.status in FINAL:
            continue
        job = run.dag.jobs[job_id]
        timeout = _timeout(run, job) if has_timeouts else None
        if timeout is not None and (wall_at is None or wall_at < timeout.at):
            timeout = None  # it has not come
        if state.status is JobStatus.RUNNING and timeout is not None:
            by = f"{RUN_TIMEOUT}, {format_duration(timeout.allowed)}"
            decisions.append(Cancel(dag_id, job, state.execution_id, by))
        if state.status is JobStatus.RUNNING:
            continue
        window = bounds.window(job)
        forced = run.forced or state.forced
        over = now >= window.closes_at and not forced
        if over and _is_asked_late(run, job, bounds, status, now):
            forced = True
        elif over:
            reason = f"its window closed at {_shown(window.closes_at)}"
            decisions.append(Expire(dag_id, job, state.execution_id, reason))
            status[job_id] = JobStatus.EXPIRED
            continue
        if timeout is not None:
            decisions.append(Expire(dag_id, job, state.execution_id, timeout.reason))
            status[job_id] = JobStatus.EXPIRED
            continue
        if state.status is JobStatus.QUEUED:
            continue
        blocked = [up for up in job.dependencies if status[up] in BLOCKING]
        if blocked:
            reason = "; ".join(f"upstream {up} is {status[up]}" for up in sorted(blocked))
            decisions.append(Skip(dag_id, job, state.execution_id, reason))
            status[job_id] = JobStatus.SKIPPED
            continue
        pause = pause_of(snapshot.pauses, run.dag, job) if snapshot.pauses else None
        reason_to_hold = _reason_to_hold(run, job, window, forced, status, now, pause)
        if reason_to_hold is None:
            followed = run.calendar_version
            decisions.append(Start(dag_id, job, state.execution_id, window, forced, followed))
        elif holds:
            decisions.append(_hold(run, job, window, forced, status, now, pause, reason_to_hold))
    return decisions


def _is_asked_late(
    run: RunState,
    job: JobMetadata,
    bounds: SessionBounds,
    status: Mapping[str, JobStatus],
    now: datetime,
) -> bool:
    """
    Say whether a job is asked once more although its window has closed.

    A sensor is that does not fail when it gives up, while a job that waits for it can still start:
    then it gives up at that poll, and that job learns which way to go.
    """
    if job.sensor is None or job.sensor.fails:
        return False
    return any(
        status[below.job_id] not in FINAL
        and (run.jobs[below.job_id].forced or now < bounds.window(below).closes_at)
        and not any(status[up] in BLOCKING for up in below.dependencies)
        for below in run.dag.waiting_for(job.job_id)
    )


def _timeout(run: RunState, job: JobMetadata) -> Timeout | None:
    state = run.jobs[job.job_id]
    if state.status is JobStatus.RUNNING:
        asked = state.forced or state.cancel_asked
        return None if asked else run_timeout(run.dag, run.created_at)
    return start_timeout(
        run.dag,
        job,
        created_at=run.created_at,
        scheduled_at=state.scheduled_at if state.status is JobStatus.QUEUED else None,
        forced=state.forced,
    )


def _reason_to_hold(
    run: RunState,
    job: JobMetadata,
    window: Window,
    forced: bool,
    status: Mapping[str, JobStatus],
    now: datetime,
    pause: Pause | None,
    known: Collection[HoldReason] = (),
) -> HoldReason | None:
    """Find what keeps a job from starting, besides what is known."""
    if now < window.opens_at and not forced and not (known and HoldReason.WINDOW in known):
        return HoldReason.WINDOW
    for up in job.dependencies:
        if status[up] is not JobStatus.SUCCESS and not (known and HoldReason.UPSTREAM in known):
            return HoldReason.UPSTREAM
    if job.after_previous and run.previous is not None:
        before = run.previous.get(job.job_id)
        if (
            before is not None
            and before not in FINAL
            and not (known and HoldReason.PREVIOUS in known)
        ):
            return HoldReason.PREVIOUS
    if pause is not None and HoldReason.PAUSED not in known:
        return HoldReason.PAUSED
    return None


def pause_of(pauses: tuple[Pause, ...], dag: DAG, job: JobMetadata) -> Pause | None:
    """Return the pause that keeps a job from starting the longest."""
    return next(iter(pauses_of(pauses, dag, job)[-1:]), None)


def pauses_of(pauses: tuple[Pause, ...], dag: DAG, job: JobMetadata) -> list[Pause]:
    """Return all that keep a job from starting, the one that ends last at the end."""
    found = [each for each in pauses if each.covers(dag, job.job_id)]
    return sorted(found, key=lambda each: (each.until is None, each.until or each.since))


def _hold(
    run: RunState,
    job: JobMetadata,
    window: Window,
    forced: bool,
    status: Mapping[str, JobStatus],
    now: datetime,
    pause: Pause | None,
    first: HoldReason,
) -> Hold:
    reasons = [first]
    while more := _reason_to_hold(run, job, window, forced, status, now, pause, reasons):
        reasons.append(more)
    detail, until = _detail(first, run, job, window, status, pause)
    execution_id = run.jobs[job.job_id].execution_id
    return Hold(run.dag.dag_id, job, execution_id, first, detail, until, tuple(reasons[1:]))


def _detail(
    reason: HoldReason,
    run: RunState,
    job: JobMetadata,
    window: Window,
    status: Mapping[str, JobStatus],
    pause: Pause | None,
) -> tuple[str, datetime | None]:
    """Say why a job is held, and until when if that is known."""
    match reason:
        case HoldReason.WINDOW:
            return f"its window opens at {_shown(window.opens_at)}", window.opens_at
        case HoldReason.UPSTREAM:
            waiting = [up for up in job.dependencies if status[up] is not JobStatus.SUCCESS]
            return "; ".join(f"{up} is {status[up]}" for up in sorted(waiting)), None
        case HoldReason.PAUSED:
            return f"paused: {pause}", None if pause is None else pause.until
        case HoldReason.PREVIOUS:
            before = (run.previous or {})[job.job_id]
            return f"in the previous session it is {before}", None
        case _:
            assert_never(reason)


@lru_cache(maxsize=1024)
def _shown(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"


def next_instant(snapshot: Snapshot, now: datetime) -> datetime | None:
    """
    Say when time alone can next change a decision.

    Returns:
        The first opening or closing, after ``now``, of the window of an unfinished job of these
        runs, in market time; ``None`` if there is none.
    """
    instants = []
    for run in snapshot.runs:
        bounds = _bounds(snapshot, run.dag)
        for job_id, state in run.jobs.items():
            if run.forced or state.forced:
                continue
            if state.status in (JobStatus.PENDING, JobStatus.QUEUED):
                window = bounds.window(run.dag.jobs[job_id])
                instants += [window.opens_at, window.closes_at]
    return min((instant for instant in instants if instant > now), default=None)


def next_timeout(snapshot: Snapshot) -> datetime | None:
    """
    Say when wall time alone can next change a decision.

    Returns:
        The first end, after the snapshot's wall time, of what an unfinished job of these runs may
        wait or its run may take; ``None`` if there is none.
    """
    ends = [
        timeout.at
        for run in snapshot.runs
        if run.dag.has_timeouts
        for job_id, state in run.jobs.items()
        if state.status not in FINAL
        and (timeout := _timeout(run, run.dag.jobs[job_id])) is not None
    ]
    wall_at = snapshot.wall_at
    return min((end for end in ends if wall_at is not None and end > wall_at), default=None)
