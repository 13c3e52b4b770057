"""Sessions and closed days in words."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from prometheus.cli import sessions
from prometheus.core.trading_calendar import TradingCalendar

MARKETS = ("US_EQ", "EU_EQ", "ASIA_EQ")


def test_remarks_of_the_three_days() -> None:
    found = sessions.remarks(MARKETS, date(2012, 11, 21), date(2012, 11, 23))
    assert [(str(remark), remark.closed) for remark in found] == [
        ("US_EQ 2012-11-22: Thanksgiving Day", True),
        ("ASIA_EQ 2012-11-23: Tokyo closed (Labor Thanksgiving Day), Hong Kong open", False),
    ]


def test_weekends_are_not_remarked_upon() -> None:
    assert sessions.remarks(MARKETS, date(2012, 11, 24), date(2012, 11, 25)) == []


def test_an_early_close_is_said_with_its_reason() -> None:
    session = TradingCalendar("US_EQ").session(date(2012, 11, 23))
    assert sessions.hours(session) == "14:30-18:00 UTC"
    assert sessions.special(session) == "early close 18:00 UTC, Day after Thanksgiving Day"
    ordinary = TradingCalendar("US_EQ").session(date(2012, 11, 21))
    assert sessions.special(ordinary) is None


@pytest.mark.parametrize(
    ("market", "day", "hours"),
    [
        ("CMES", date(2026, 11, 25), "Tue 23:00-Wed 23:00 UTC"),  # opens the evening before
        ("XASX", date(2026, 11, 25), "Tue 23:00-Wed 05:00 UTC"),
        ("US_EQ", date(2026, 11, 25), "14:30-21:00 UTC"),
        ("24x7", date(2026, 11, 25), "00:00-Thu 00:00 UTC"),
    ],
)
def test_hours_name_a_day_that_is_not_the_sessions(market: str, day: date, hours: str) -> None:
    assert sessions.hours(TradingCalendar(market).session(day)) == hours


def test_exchanges_are_named_by_city_only_where_that_tells_them_apart() -> None:
    asia, us = TradingCalendar("ASIA_EQ"), TradingCalendar("US_EQ")
    assert sessions.cities(asia.exchanges) == {"XTKS": "Tokyo", "XHKG": "Hong Kong"}
    assert sessions.cities(us.exchanges) == {"XNYS": "XNYS", "XNAS": "XNAS"}


@pytest.mark.parametrize(
    ("mic", "local"),
    [
        ("XDUS", "Fri 19:00 Düsseldorf"),
        ("XHAM", "Fri 19:00 Hamburg"),
        ("XETR", "Fri 19:00 Frankfurt"),
        ("XMIL", "Fri 19:00 Milan"),
        ("XBOM", "Fri 23:30 Mumbai"),
        ("XBRU", "Fri 19:00 Brussels"),
    ],
)
def test_an_exchange_is_where_it_is_and_not_where_its_zone_has_its_name_from(
    mic: str, local: str
) -> None:
    exchanges = TradingCalendar(mic).exchanges
    assert sessions.local_times(exchanges, datetime(2012, 11, 23, 18, tzinfo=UTC)) == [local]


def test_local_times_name_each_zone_once() -> None:
    at = datetime(2012, 11, 23, 18, tzinfo=UTC)
    us, eu = TradingCalendar("US_EQ"), TradingCalendar("EU_EQ")
    assert sessions.local_times(us.exchanges, at) == ["Fri 13:00 New York"]
    assert sorted(sessions.local_times(eu.exchanges, at)) == ["Fri 18:00 London", "Fri 19:00 Paris"]
