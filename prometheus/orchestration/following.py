"""
What becomes of runs when the calendar of their market changes.

Pure: what an operator is shown before he records an override, and what the scheduler then does,
come from the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from enum import StrEnum

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.dag import DAG, JobMetadata
from prometheus.orchestration.decisions import (
    Expire,
    JobState,
    RunState,
    Skip,
    Snapshot,
    Start,
    decide,
)
from prometheus.orchestration.lifecycle import FINAL, JobStatus, RunStatus, run_status
from prometheus.orchestration.pauses import Pause
from prometheus.orchestration.planning import session_bounds
from prometheus.orchestration.windows import SessionBounds, Window, run_opens_at

CLOSED = "session closed: "
"""How the reason of a job begins whose session there is no more; a session that is back brings
such a job back."""
_MOVED = "its window moved: "


@dataclass(frozen=True, slots=True)
class Following:
    """What a run does to follow a calendar."""

    cancelled: Mapping[str, str] = field(default_factory=dict)
    """Execution that has not started -> why it is CANCELLED."""
    again: tuple[str, ...] = ()
    """Jobs that wait anew, PENDING in a new execution."""
    windows: Mapping[str, Window] = field(default_factory=dict)
    """Execution that is queued or running -> its window from now on."""
    opens_at: datetime | None = None
    """When the run opens; ``None`` without a session."""


def follow(run: RunState, calendar: TradingCalendar, now: datetime) -> Following:
    """
    Say what a run does to follow a calendar.

    Without its session, nothing more of it starts; what runs goes on. With one, what was cancelled
    for the lack of it comes back, and what waits in a queue for a window that has not opened now
    waits for that.

    Args:
        run: Open, or finished.
        calendar: Of its market, as it is from now on.
        now: Market time.

    Raises:
        HorizonError: The session is outside the calendar.
    """
    unstarted = {
        job_id: state
        for job_id, state in run.jobs.items()
        if state.status in (JobStatus.PENDING, JobStatus.QUEUED)
    }
    if not calendar.is_trading_day(run.dag.as_of_date):
        reason = CLOSED + why_closed(calendar, run.dag.as_of_date)
        return Following({state.execution_id: reason for state in unstarted.values()})
    bounds = session_bounds(calendar, run.dag.as_of_date)
    again = [job_id for job_id, state in run.jobs.items() if state.dropped]
    cancelled: dict[str, str] = {}
    windows: dict[str, Window] = {}
    for job_id, state in run.jobs.items():
        if run.forced or state.forced:
            continue
        if state.status not in (JobStatus.QUEUED, JobStatus.RUNNING):
            continue
        window = bounds.window(run.dag.jobs[job_id])
        if state.status is JobStatus.QUEUED and now < window.opens_at:
            cancelled[state.execution_id] = (
                f"{_MOVED}it opens at {window.opens_at:%Y-%m-%d %H:%M:%S} UTC"
            )
            again.append(job_id)
        else:
            windows[state.execution_id] = window
    return Following(cancelled, tuple(again), windows, run_opens_at(bounds.phases, run.dag))


def why_closed(calendar: TradingCalendar, day: date) -> str:
    """Say why there is no session, and which override says so if one does."""
    overrides = calendar.overrides_on(day)
    reason = calendar.reason(day) or "no session"
    return f"{reason} (override {overrides[-1].override_id})" if overrides else reason


def is_behind(run: RunState, calendar: TradingCalendar) -> bool:
    """
    Say whether a run has to be brought to its calendar.

    Raises:
        HorizonError: The session is outside the calendar.
    """
    if run.calendar_version != calendar.version:
        return True
    if calendar.is_trading_day(run.dag.as_of_date):
        return False
    # The retry of a job that ran on: there is nothing to run it for.
    return any(state.status in (JobStatus.PENDING, JobStatus.QUEUED) for state in run.jobs.values())


# --- before it is so ----------------------------------------------------------------------------


class Effect(StrEnum):
    """What an override does to a run."""

    CANCELLED = "cancelled"
    """Nothing of it is running: it is CANCELLED with the reason."""
    ENDS = "ends"
    """What is running finishes, the rest is CANCELLED at once, and then the run."""
    MOVES = "moves"
    """Its times change, and with them perhaps what starts or expires at once."""
    REOPENS = "reopens"
    """What was cancelled for the lack of a session waits again."""
    STARTS = "starts"
    """It is made at once."""
    VANISHES = "vanishes"
    """It would have been made, and will not be."""
    APPEARS = "appears"
    """It will be made when its session opens."""
    SHIFTS = "shifts"
    """It will be made, as it would have been, and its times are others."""


@dataclass(frozen=True, slots=True)
class JobChange:
    """What becomes of one job; that of a run that is not made yet is PENDING, before and after."""

    job_id: str
    before: JobStatus
    after: JobStatus
    """After the scheduler's next tick."""
    window_before: Window | None
    window_after: Window | None
    gives_up_before: datetime | None
    """Of a sensor."""
    gives_up_after: datetime | None

    @property
    def moves(self) -> bool:
        """Whether it may start, or gives up, at other times."""
        before = self.window_before, self.gives_up_before
        return before != (self.window_after, self.gives_up_after)


def job_change(
    job: JobMetadata,
    before: JobStatus,
    after: JobStatus,
    was: SessionBounds | None,
    becomes: SessionBounds | None,
) -> JobChange:
    """Say what becomes of a job, as one calendar has its session and as another does."""
    return JobChange(
        job.job_id,
        before,
        after,
        was.window(job) if was else None,
        becomes.window(job) if becomes else None,
        was.gives_up_at(job) if was else None,
        becomes.gives_up_at(job) if becomes else None,
    )


@dataclass(frozen=True, slots=True)
class RunChange:
    """What becomes of one run."""

    dag_id: str
    market_id: str
    effect: Effect
    status: RunStatus | None = None
    """After the scheduler's next tick; ``None`` of a run that is not there, or not yet."""
    jobs: tuple[JobChange, ...] = ()
    """All of them, in running order; none of a run that appears, vanishes or starts."""


def preview(
    runs: Iterable[tuple[RunState, RunState]],
    before: Mapping[str, TradingCalendar],
    after: Mapping[str, TradingCalendar],
    *,
    now: datetime,
    wall_at: datetime,
    pauses: tuple[Pause, ...],
    previous_run: Callable[[DAG], str | None],
) -> tuple[RunChange, ...]:
    """
    Say what the scheduler's next tick makes of runs if a calendar changes.

    Args:
        runs: The open ones of these markets, and the finished ones of the sessions that change:
            each with what it waits for in the session before as ``before`` has it, and as ``after``
            has it.
        before: Market -> its calendar as it is.
        after: Market -> its calendar as it would be.
        now: Market time.
        wall_at: Wall time.
        pauses: What operators keep from starting.
        previous_run: Of a DAG, that of the session before, as ``after`` has it.

    Returns:
        The runs of which anything changes, by id.
    """
    followed: dict[str, RunState] = {}
    was: dict[str, RunState] = {}
    for run_before, run in runs:
        following = follow(run, after[run.dag.market_id], now)
        if run.status is RunStatus.OPEN or following.again:
            followed[run.dag.dag_id] = _as_followed(run, following)
            was[run.dag.dag_id] = run_before
    states = [_with_previous(run, followed, previous_run) for run in followed.values()]
    still_open = [run for run in was.values() if run.status is RunStatus.OPEN]
    ends = (
        _ends(still_open, before, now, wall_at, pauses),
        _ends(states, after, now, wall_at, pauses),
    )
    changes = [
        _change(run, followed[dag_id], before, after, ends) for dag_id, run in sorted(was.items())
    ]
    return tuple(change for change in changes if change is not None)


_Ends = Mapping[tuple[str, str], JobStatus]
"""Dag id and job id -> the state that the next tick's decision brings."""


def _ends(
    runs: Iterable[RunState],
    calendars: Mapping[str, TradingCalendar],
    now: datetime,
    wall_at: datetime,
    pauses: tuple[Pause, ...],
) -> _Ends:
    there = [run for run in runs if calendars[run.dag.market_id].is_trading_day(run.dag.as_of_date)]
    bounds = {
        (run.dag.market_id, run.dag.as_of_date): session_bounds(
            calendars[run.dag.market_id], run.dag.as_of_date
        )
        for run in there
    }
    ends: dict[tuple[str, str], JobStatus] = {}
    for decision in decide(Snapshot(tuple(there), bounds, wall_at, pauses), now, holds=False):
        key = decision.dag_id, decision.job.job_id
        match decision:
            case Start():
                ends[key] = JobStatus.QUEUED
            case Skip():
                ends[key] = JobStatus.SKIPPED
            case Expire():
                ends[key] = JobStatus.EXPIRED
            case _:
                pass
    return ends


def _as_followed(run: RunState, following: Following) -> RunState:
    jobs = {}
    for job_id, state in run.jobs.items():
        if job_id in following.again:
            state = JobState(f"{state.execution_id}+", JobStatus.PENDING, state.forced)
        elif state.execution_id in following.cancelled:
            state = state._replace(status=JobStatus.CANCELLED)
        jobs[job_id] = state
    return replace(run, jobs=jobs, status=RunStatus.OPEN)


def _with_previous(
    run: RunState, followed: Mapping[str, RunState], previous_run: Callable[[DAG], str | None]
) -> RunState:
    found = followed.get(previous_run(run.dag) or "")
    if found is None or run.previous is None:
        return run
    return replace(run, previous={job_id: job.status for job_id, job in found.jobs.items()})


def _change(
    run: RunState,
    followed: RunState,
    before: Mapping[str, TradingCalendar],
    after: Mapping[str, TradingCalendar],
    ends: tuple[_Ends, _Ends],
) -> RunChange | None:
    dag = run.dag
    was, becomes = (_bounds(each[dag.market_id], dag) for each in (before, after))
    jobs = tuple(
        job_change(
            dag.jobs[job_id],
            run.jobs[job_id].status,
            ends[1].get((dag.dag_id, job_id), followed.jobs[job_id].status),
            was,
            becomes,
        )
        for job_id in dag.topological_order()
    )
    anyway = {job.job_id: ends[0].get((dag.dag_id, job.job_id), job.before) for job in jobs}
    if all(
        job.after == anyway[job.job_id] and (job.before in FINAL or not job.moves) for job in jobs
    ):
        return None
    status = run_status(job.after for job in jobs)
    if becomes is None:
        effect = Effect.CANCELLED if status is not RunStatus.OPEN else Effect.ENDS
    elif any(state.dropped for state in run.jobs.values()):
        effect = Effect.REOPENS
    else:
        effect = Effect.MOVES
    return RunChange(dag.dag_id, dag.market_id, effect, status, jobs)


def _bounds(calendar: TradingCalendar, dag: DAG) -> SessionBounds | None:
    if not calendar.is_trading_day(dag.as_of_date):
        return None
    return session_bounds(calendar, dag.as_of_date)
