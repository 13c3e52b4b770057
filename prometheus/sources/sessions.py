"""How feeds learn which sessions an exchange or a market has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date

from prometheus.core.markets import get_market
from prometheus.core.trading_calendar import TradingCalendar

SessionDates = Callable[[str, date, date], Sequence[date]]
"""(exchange or market, start, end) to session dates, both ends included, ascending."""

Members = Callable[[str], Sequence[str]]
"""Market to the MICs of its exchanges."""


def session_dates(calendar_id: str, start: date, end: date) -> Sequence[date]:
    """Return session dates from the shipped calendars."""
    return TradingCalendar(calendar_id).trading_days(start, end)


def members(market_id: str) -> Sequence[str]:
    """Return the exchanges of a market."""
    return get_market(market_id).members
