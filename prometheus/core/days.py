"""What a date is to a market: a session, ordinary or not, or a day off."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from prometheus.core.exchanges import WEEKEND

if TYPE_CHECKING:
    from prometheus.core.sessions import Session
    from prometheus.core.trading_calendar import TradingCalendar


class DayKind(StrEnum):
    """What a date is to a market."""

    SESSION = "session"
    """An ordinary session of all members."""
    SPECIAL = "special"
    """A session of special hours, or outside the trading week."""
    PARTIAL = "partial"
    """A session, of ordinary hours, of some members."""
    HOLIDAY = "holiday"
    """A day of the trading week without a session."""
    WEEKEND = "weekend"
    """A day outside the trading week."""
    UNKNOWN = "unknown"
    """Before the first or after the last date that is known."""


@dataclass(frozen=True, slots=True)
class Day:
    """One date of a market, and what there is to say about it."""

    date: date
    kind: DayKind
    session: Session | None
    closed_members: dict[str, str]
    """MIC -> why it has no session."""
    reason: str | None
    """Why it is closed, or its hours special."""
    overrides: tuple[int, ...] = ()
    """Ids of the overrides that say so."""


def describe_day(calendar: TradingCalendar, day: date) -> Day:
    """Say what a date is to a market; one that is not known is no error here."""
    if not calendar.first <= day <= calendar.horizon:
        return Day(day, DayKind.UNKNOWN, None, {}, None)
    closed = calendar.closed_members(day)
    overrides = tuple(each.override_id for each in calendar.overrides_on(day))
    if not calendar.is_trading_day(day):
        reason = calendar.reason(day)
        kind = DayKind.WEEKEND if reason == WEEKEND else DayKind.HOLIDAY
        return Day(day, kind, None, closed, reason, overrides)
    session = calendar.session(day)
    usual = calendar.in_week(day)
    if session.early_close or session.late_open or session.reason or not usual:
        kind = DayKind.SPECIAL
    else:
        kind = DayKind.PARTIAL if closed else DayKind.SESSION
    return Day(day, kind, session, closed, session.reason, overrides)


def date_there(calendar: TradingCalendar, instant: datetime) -> date:
    """Return the date where a market is; of several members, where it is earliest."""
    return min(instant.astimezone(zone).date() for zone in calendar.zones.values())
