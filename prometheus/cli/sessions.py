"""Sessions and closed days in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from prometheus.core.exchanges import Exchange
from prometheus.core.sessions import Session
from prometheus.core.trading_calendar import TradingCalendar


@dataclass(frozen=True, slots=True)
class Remark:
    """Why a date is not an ordinary session of all of a market."""

    market_id: str
    day: date
    text: str
    closed: bool
    """Whether the market has no session at all."""

    def __str__(self) -> str:
        return f"{self.market_id} {self.day.isoformat()}: {self.text}"


def cities(exchanges: Iterable[Exchange]) -> dict[str, str]:
    """Name the exchanges of a market by their cities, or by their MICs where cities agree."""
    found = {exchange.mic: exchange.city for exchange in exchanges}
    return found if len(set(found.values())) == len(found) else {mic: mic for mic in found}


def clocks(exchanges: Iterable[Exchange]) -> dict[ZoneInfo, str]:
    """Name the zones of a market, each by the city of the first exchange in it."""
    found: dict[ZoneInfo, str] = {}
    for exchange in exchanges:
        found.setdefault(exchange.zone, exchange.city)
    return found


def hours(session: Session) -> str:
    """
    Write a session's hours: ``"14:30-18:00 UTC"``.

    With the day of the week where it is not that of the session's date, as of futures that open
    the evening before, or where it changes: ``"Tue 23:00-Wed 22:00 UTC"``.
    """
    opens, closes = f"{session.open:%H:%M}", f"{session.close:%H:%M}"
    if session.open.date() != session.date:
        opens = f"{session.open:%a} {opens}"
    if session.close.date() != session.open.date():
        closes = f"{session.close:%a} {closes}"
    return f"{opens}-{closes} UTC"


def special(session: Session) -> str | None:
    """Say what is special: ``"early close 18:00 UTC, day after Thanksgiving"``."""
    parts = []
    if session.late_open:
        parts.append(f"late open {session.open:%H:%M} UTC")
    if session.early_close:
        parts.append(f"early close {session.close:%H:%M} UTC")
    if session.reason:
        parts.append(session.reason)
    return ", ".join(parts) or None


def remarks(market_ids: Iterable[str], first: date, last: date) -> list[Remark]:
    """
    Say which days of a range some or all of a market's exchanges are closed, and why.

    Days of ``first`` to ``last``, both included; weekends are left out, as everybody expects them.

    Raises:
        HorizonError: A bound is outside a market's calendar.
    """
    found = []
    for market_id in market_ids:
        calendar = TradingCalendar(market_id)
        day = first
        while day <= last:
            remark = _remark(calendar, day)
            if remark is not None:
                found.append(remark)
            day += timedelta(days=1)
    return sorted(found, key=lambda remark: (remark.day, remark.market_id))


def _remark(calendar: TradingCalendar, day: date) -> Remark | None:
    closed = calendar.closed_members(day)
    if not closed or set(closed.values()) == {"weekend"}:
        return None
    names = cities(calendar.exchanges)
    if not calendar.is_trading_day(day):
        reasons = set(closed.values())
        text = reasons.pop() if len(reasons) == 1 else _each(closed, names)
        return Remark(calendar.market_id, day, text, closed=True)
    still_open = [names[mic] for mic in calendar.members if mic not in closed]
    text = f"{_each(closed, names)}, {', '.join(still_open)} open"
    return Remark(calendar.market_id, day, text, closed=False)


def _each(closed: dict[str, str], names: dict[str, str]) -> str:
    return ", ".join(f"{names[mic]} closed ({reason})" for mic, reason in closed.items())


def local_times(exchanges: Iterable[Exchange], at: datetime) -> list[str]:
    """Write an instant in the zone of each member, each zone once: ``"Fri 13:00 New York"``."""
    return [f"{at.astimezone(zone):%a %H:%M} {city}" for zone, city in clocks(exchanges).items()]


def of_market(market_id: str, day: date) -> Session:
    """Return a market's session of a date that has one."""
    return TradingCalendar(market_id).session(day)
