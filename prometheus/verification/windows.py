"""
In which time a job may start, worked out from the calendar alone.

The rules are those of the documentation, written a second time: see "windows follow the run's own
session".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache

from prometheus.core.market_state import iter_states
from prometheus.core.overrides import Overrides
from prometheus.core.states import MarketState
from prometheus.core.trading_calendar import Phases, TradingCalendar
from prometheus.errors import HorizonError, PrometheusError

_A_DAY = timedelta(hours=24)
_TIME = re.compile(r"(?:(open|close)([+-])?)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:([\d.]+)s)?")


@dataclass(frozen=True, slots=True)
class Window:
    """Half-open: from ``opens_at`` to before ``closes_at``; empty if that is not later."""

    opens_at: datetime
    closes_at: datetime

    def __contains__(self, instant: datetime) -> bool:
        return self.opens_at <= instant < self.closes_at

    def __str__(self) -> str:
        return f"{self.opens_at:%Y-%m-%d %H:%M:%S} to {self.closes_at:%Y-%m-%d %H:%M:%S} UTC"


def calendar_of(market_id: str, overrides: Overrides) -> TradingCalendar | None:
    """Return a market's calendar with these overrides; ``None`` if no market has this name."""
    try:
        return TradingCalendar(market_id, overrides=overrides)
    except PrometheusError:
        return None


def runs_on(
    calendar: TradingCalendar, day: date, sessions: str, short_sessions: str
) -> bool | None:
    """
    Say whether a pipeline runs on the session that carries a date.

    Args:
        sessions: As a definition has it: ``every``, ``3rd of month``, ``last of week``.
        short_sessions: ``run`` or ``skip``.

    Returns:
        ``None`` where the calendar does not know the whole week or month that decides.

    Raises:
        ValueError: ``sessions`` is nothing that is known.
    """
    session = calendar.session(day)
    if short_sessions == "skip" and (session.early_close or session.late_open):
        return False
    if sessions == "every":
        return True
    which, _, period = sessions.partition(" of ")
    if period == "week":
        begin = date.fromisocalendar(*day.isocalendar()[:2], 1)
        end = date.fromisocalendar(*day.isocalendar()[:2], 7)
    elif period == "month":
        begin = date(day.year, day.month, 1)
        end = date(day.year + day.month // 12, day.month % 12 + 1, 1) - timedelta(days=1)
    else:
        raise ValueError(f"{sessions!r} names no sessions")
    first, last = max(begin, calendar.first), min(end, calendar.horizon)
    days = calendar.trading_days(first, last)
    place = days.index(day)
    if which == "last":
        return None if place == len(days) - 1 and last < end else place == len(days) - 1
    number = 1 if which == "first" else int(which.rstrip("stndrh"))
    return None if first > begin else place + 1 == number


def session_before(
    calendar: TradingCalendar, day: date, sessions: str, short_sessions: str
) -> date | None:
    """Return the pipeline's session before a date, if the calendar knows it."""
    before = previous_session(calendar, day)
    while before is not None and not runs_on(calendar, before, sessions, short_sessions):
        before = previous_session(calendar, before)
    return before


def is_session(calendar: TradingCalendar, day: date) -> bool | None:
    """Say whether a session carries a date; ``None`` where the calendar does not know."""
    try:
        return calendar.is_trading_day(day)
    except HorizonError:
        return None


def previous_session(calendar: TradingCalendar, day: date) -> date | None:
    """Return the market's session before a date, if the calendar knows it."""
    try:
        return calendar.previous_trading_day(day)
    except HorizonError:
        return None


@lru_cache(maxsize=65_536)
def window_of(
    calendar: TradingCalendar,
    session: date,
    required_state: str | None,
    rule: str,
    start: str | None = None,
) -> Window:
    """
    Work out the window of a job.

    Args:
        calendar: Of the run's market.
        session: The run's session date, which has a session.
        required_state: The phase that opens the window; ``None`` for the run's own opening.
        rule: ``session``, which lasts until the next session, or ``state``, until the phase ends.
        start: When it may start, by its session's open or close: ``close+45m``.

    Raises:
        ValueError: HOLIDAY, which is no phase of a session.
    """
    phases = calendar.phases(session)
    following = _following(calendar, session)
    opens_at = _beginning(phases, required_state, start)
    if rule == "state" and required_state is not None:
        closes_at = _end(calendar, phases, following, required_state)
    elif following is None:
        closes_at = opens_at + _A_DAY
    elif phases.close_at < following.pre_open_at:
        closes_at = following.pre_open_at
    else:  # no gap between the sessions
        closes_at = _beginning(following, required_state, start)
    return Window(opens_at, closes_at)


def _following(calendar: TradingCalendar, session: date) -> Phases | None:
    try:
        return calendar.phases(calendar.next_trading_day(session))
    except HorizonError:
        return None


def _beginning(phases: Phases, state: str | None, start: str | None) -> datetime:
    begins_at = _phase_beginning(phases, state)
    if start is None:
        return begins_at
    starts_at = limit_of(phases, start, begins_at)
    return starts_at if state is None else max(begins_at, starts_at)


def limit_of(phases: Phases, text: str, since: datetime) -> datetime:
    """
    Read a time of a session: ``close+45m``, or ``6h`` after an instant.

    Raises:
        ValueError: It is none.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no time of a session")
    event, sign, days, hours, minutes, seconds = match.groups(default="0")
    away = timedelta(days=int(days), hours=int(hours), minutes=int(minutes), seconds=float(seconds))
    told = {"open": phases.open_at, "close": phases.close_at}.get(event, since)
    return told - away if sign == "-" else told + away


def _phase_beginning(phases: Phases, state: str | None) -> datetime:
    instants = {
        None: phases.pre_open_at,
        "PRE_OPEN": phases.pre_open_at,
        "SESSION": phases.open_at,
        "POST_CLOSE": phases.close_at,
        "OVERNIGHT": phases.post_close_ends_at,
    }
    if state not in instants:
        raise ValueError(f"{state} is no phase of a session")
    return instants[state]


def _end(
    calendar: TradingCalendar, phases: Phases, following: Phases | None, state: str
) -> datetime:
    if state == "PRE_OPEN":
        return phases.open_at
    if state == "SESSION":
        return phases.close_at
    cut = following.pre_open_at if following is not None else None
    if state == "POST_CLOSE":
        return min(phases.post_close_ends_at, cut or phases.post_close_ends_at)
    begins_at = phases.post_close_ends_at
    try:
        states = iter_states(calendar, begins_at)
        if next(states).state is not MarketState.OVERNIGHT:
            return begins_at
        following_state = next(states, None)
    except HorizonError:
        following_state = None
    return following_state.at if following_state else cut or begins_at + _A_DAY
