"""Which runs should exist: the sessions of each market, and what to do about missed ones."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from prometheus.core.market_state import MarketState, iter_states
from prometheus.core.trading_calendar import Phases, TradingCalendar
from prometheus.errors import HorizonError
from prometheus.orchestration.dag import DAG, dag_id_for
from prometheus.orchestration.pipeline import CatchUp, Pipeline
from prometheus.orchestration.session_time import FURTHEST
from prometheus.orchestration.windows import SessionBounds, run_opens_at

MAX_CATCH_UP = 10
"""How many missed sessions in a row the policy ``all`` runs."""
ON_TIME = timedelta(minutes=5)
"""How long after its first window's opening a run still counts as on time."""

LOOKS_BACK = timedelta(days=14)
"""How long before a pipeline was first seen a session may be whose windows had not closed by then:
they may reach to the next session's PRE_OPEN, and holidays can hold that off for a while."""
REACH = timedelta(days=2)
"""How far a session's open and close can be from midnight UTC of its date."""

_DAG_ID = re.compile(r"(.+)_(\d{4}-\d\d-\d\d)")


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run that should be created now."""

    dag: DAG
    bounds: SessionBounds
    forced: bool = False
    """Caught up outside its windows, by the pipeline's policy."""
    missed: str | None = None
    """Why its jobs are EXPIRED from the start; ``None`` for a run that will be worked on."""

    @property
    def opens_at(self) -> datetime:
        """When it opens, in market time."""
        return run_opens_at(self.bounds.phases, self.dag)


@dataclass(frozen=True, slots=True)
class SessionRange:
    """The session dates a replay is bound to, both included."""

    first: date
    last: date


def session_bounds(calendar: TradingCalendar, session_date: date) -> SessionBounds:
    """
    Gather what the windows of one session are made of.

    Raises:
        NoSessionError: The market has no session on this date.
        HorizonError: The date is outside the calendar.
    """
    try:
        following = calendar.phases(calendar.next_trading_day(session_date))
    except HorizonError:
        following = None
    phases = calendar.phases(session_date)
    return SessionBounds(phases, following, _overnight_end(calendar, phases))


def _overnight_end(calendar: TradingCalendar, phases: Phases) -> datetime | None:
    at = phases.post_close_ends_at
    try:
        states = iter_states(calendar, at)
        if next(states).state is not MarketState.OVERNIGHT:
            return at
        following = next(states, None)
    except HorizonError:
        return None
    return following.at if following is not None else None


def plan_runs(
    pipeline: Pipeline,
    calendar: TradingCalendar,
    market_id: str,
    *,
    existing: Collection[date],
    first_seen_at: datetime,
    now: datetime,
    only: SessionRange | None = None,
    since: date = date.min,
) -> tuple[PlannedRun, ...]:
    """
    List the runs of one pipeline and market that should exist by now and do not.

    Args:
        pipeline: Its catch-up policy decides about sessions whose time has passed.
        calendar: The market's calendar.
        market_id: The market.
        existing: Session dates that have a run already, at least those since ``first_seen_at``.
        first_seen_at: When this database first saw the pipeline, in market time: sessions whose
            windows had closed by then are none of its business.
        now: Market time, aware UTC.
        only: Sessions outside these bounds are never run.
        since: Sessions before this date are known to have their runs.

    Returns:
        Runs in the order of their sessions.

    Raises:
        HorizonError: ``now`` is outside the calendar: which sessions there were is not known. Or
            nothing else is left to do than a session of which it is not known whether the pipeline
            runs on it, such as the last of a month whose end the calendar does not reach: it waits
            for a calendar that does.
    """
    if (now - REACH).date() > calendar.horizon:
        raise HorizonError(market_id, now, calendar.first, calendar.horizon)
    due: list[tuple[DAG, SessionBounds]] = []
    unknown: HorizonError | None = None
    jobs = tuple(pipeline.jobs.values())
    for session_date in _sessions_since(calendar, first_seen_at, now, since):
        if session_date in existing:
            continue
        if only is not None and not only.first <= session_date <= only.last:
            continue
        if run_opens_at(calendar.phases(session_date), jobs) > now:
            continue
        try:
            if not pipeline.sessions.includes(calendar, session_date):
                continue
        except HorizonError as error:
            unknown = error
            continue
        due.append((pipeline.dag(market_id, session_date), session_bounds(calendar, session_date)))
    planned: list[PlannedRun] = []
    missed: list[tuple[DAG, SessionBounds, datetime]] = []
    for dag, bounds in due:
        windows = [bounds.window(job) for job in dag]
        last_chance = max(window.closes_at for window in windows)
        first_start = min(window.opens_at for window in windows)
        if pipeline.catch_up is CatchUp.NONE:
            last_chance = min(last_chance, first_start + ON_TIME)
        if now < last_chance:
            planned.append(PlannedRun(dag, bounds))
        elif last_chance > first_seen_at:
            missed.append((dag, bounds, last_chance))
    caught_up = len(missed) - MAX_CATCH_UP if pipeline.catch_up is CatchUp.ALL else len(missed)
    for number, (dag, bounds, last_chance) in enumerate(missed):
        if number >= caught_up:
            planned.append(PlannedRun(dag, bounds, forced=True))
        else:
            limit = f", at most {MAX_CATCH_UP}" if pipeline.catch_up is CatchUp.ALL else ""
            why = (
                f"missed: no scheduler was running while it was due (until "
                f"{last_chance:%Y-%m-%d %H:%M} UTC), and catch_up is {pipeline.catch_up}{limit}"
            )
            planned.append(PlannedRun(dag, bounds, missed=why))
    if unknown is not None and not planned:
        raise unknown
    return tuple(sorted(planned, key=lambda run: run.dag.as_of_date))


def _sessions_since(
    calendar: TradingCalendar, first_seen_at: datetime, now: datetime, since: date
) -> list[date]:
    """List the sessions from long before ``first_seen_at`` to those that may be open by ``now``."""
    start = max(calendar.first, (first_seen_at - LOOKS_BACK).date(), since)
    # A run may open as long before its session does as a job's start or PRE_OPEN reaches.
    end = min(calendar.horizon, (now + REACH + FURTHEST).date())
    return calendar.trading_days(start, end) if start <= end else []


def next_opening(
    pipeline: Pipeline,
    calendar: TradingCalendar,
    now: datetime,
    *,
    only: SessionRange | None = None,
) -> datetime | None:
    """
    Return when the next run of a pipeline in a market opens, in market time.

    Args:
        only: Sessions outside these bounds are never run.

    Returns:
        ``None`` if no further session of the pipeline is known, or none is inside the bounds.
    """
    jobs = tuple(pipeline.jobs.values())
    session_date = max(calendar.first, (now - REACH).date())
    last = calendar.horizon
    if only is not None:
        session_date, last = max(session_date, only.first), min(last, only.last)
    while session_date <= last:
        if calendar.is_trading_day(session_date):
            opens_at = run_opens_at(calendar.phases(session_date), jobs)
            if opens_at > now and _may_include(pipeline, calendar, session_date):
                return opens_at
        session_date += timedelta(days=1)
    return None


def _may_include(pipeline: Pipeline, calendar: TradingCalendar, session_date: date) -> bool:
    try:
        return pipeline.sessions.includes(calendar, session_date)
    except HorizonError:
        return True  # `plan_runs` says that it is not known


def session_of(dag_id: str) -> date | None:
    """Return the session date that a run's name ends with; ``None`` if it does not."""
    match = _DAG_ID.fullmatch(dag_id)
    try:
        return date.fromisoformat(match[2]) if match else None
    except ValueError:
        return None


def runs_on(pipelines: Mapping[str, Pipeline], day: date) -> dict[str, tuple[Pipeline, str]]:
    """Name the runs that pipelines would have of a session date: their pipelines and markets."""
    return {
        dag_id_for(pipeline.name, market_id, day): (pipeline, market_id)
        for pipeline in pipelines.values()
        for market_id in pipeline.markets
    }
