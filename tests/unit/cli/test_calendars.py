"""What ``prometheus calendar`` finds to say about days."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from prometheus.cli.calendars import Kind, describe, find_next
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import HorizonError


@pytest.mark.parametrize(
    ("market", "day", "kind", "reason"),
    [
        ("US_EQ", date(2026, 11, 25), Kind.SESSION, None),
        ("US_EQ", date(2026, 11, 26), Kind.HOLIDAY, "Thanksgiving Day"),
        ("US_EQ", date(2026, 11, 27), Kind.SPECIAL, "Day after Thanksgiving Day"),
        ("US_EQ", date(2026, 11, 28), Kind.WEEKEND, "weekend"),
        ("US_EQ", date(2099, 1, 5), Kind.UNKNOWN, None),
        ("US_EQ", date(1989, 12, 29), Kind.UNKNOWN, None),
        ("ASIA_EQ", date(2026, 11, 23), Kind.PARTIAL, None),
        ("XBOM", date(2026, 2, 1), Kind.SPECIAL, "Union Budget"),
    ],
)
def test_what_a_date_is(market: str, day: date, kind: Kind, reason: str | None) -> None:
    found = describe(TradingCalendar(market), day)
    assert (found.kind, found.reason) == (kind, reason)


def test_a_day_on_which_some_trade_says_who_does_not() -> None:
    found = describe(TradingCalendar("ASIA_EQ"), date(2026, 11, 23))
    assert found.session is not None
    assert found.closed_members == {"XTKS": "Labor Thanksgiving Day"}


def test_next_is_after_the_instant_and_skips_weekends() -> None:
    found = find_next(TradingCalendar("XNYS"), datetime(2026, 11, 25, 15, tzinfo=UTC))
    days = {name: day and day.date for name, day in found.items()}
    assert days == {
        "session": date(2026, 11, 27),  # the one of the 25th has opened
        "closed": date(2026, 11, 26),
        "special": date(2026, 11, 27),
    }


def test_next_invents_nothing_past_the_horizon() -> None:
    calendar = TradingCalendar("XNYS")
    assert find_next(calendar, datetime(2028, 12, 31, 12, tzinfo=UTC)) == {
        "session": None,
        "closed": None,
        "special": None,
    }
    with pytest.raises(HorizonError):
        find_next(calendar, datetime(2029, 1, 1, 12, tzinfo=UTC))
