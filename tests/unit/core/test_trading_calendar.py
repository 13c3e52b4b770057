"""Trading days, sessions and the names of days without one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prometheus.core.markets import Market
from prometheus.core.sessions import Session
from prometheus.core.states import MarketStateConfig
from prometheus.core.trading_calendar import Phases, TradingCalendar
from prometheus.errors import (
    HorizonError,
    NaiveDatetimeError,
    NoSessionError,
    UnknownMarketError,
)

NAMES = ("US_EQ", "EU_EQ", "ASIA_EQ", "XNYS", "XNAS", "XLON", "XPAR", "XTKS", "XHKG")
names = st.sampled_from(NAMES)
days = st.dates(date(1998, 1, 1), date(2027, 12, 1))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# --- days -------------------------------------------------------------------------------------


def test_thanksgiving_is_no_trading_day_and_the_days_around_it_are() -> None:
    calendar = TradingCalendar("US_EQ")
    assert not calendar.is_trading_day(date(2012, 11, 22))
    assert calendar.next_trading_day(date(2012, 11, 22)) == date(2012, 11, 23)
    assert calendar.previous_trading_day(date(2012, 11, 22)) == date(2012, 11, 21)


def test_next_and_previous_are_strictly_after_and_before() -> None:
    calendar = TradingCalendar("US_EQ")
    assert calendar.next_trading_day(date(2012, 11, 23)) == date(2012, 11, 26)
    assert calendar.previous_trading_day(date(2012, 11, 26)) == date(2012, 11, 23)


def test_both_ends_of_a_range_of_trading_days_are_included() -> None:
    calendar = TradingCalendar("US_EQ")
    assert calendar.trading_days(date(2012, 11, 21), date(2012, 11, 26)) == [
        date(2012, 11, 21),
        date(2012, 11, 23),
        date(2012, 11, 26),
    ]


def test_a_range_that_ends_before_it_starts_is_empty() -> None:
    assert TradingCalendar("XNYS").trading_days(date(2012, 11, 26), date(2012, 11, 21)) == []


@given(name=names, day=days)
def test_the_next_trading_day_is_the_first_one_after(name: str, day: date) -> None:
    calendar = TradingCalendar(name)
    following = calendar.next_trading_day(day)
    assert calendar.trading_days(day + timedelta(days=1), following) == [following]
    assert calendar.previous_trading_day(following) <= day


def test_nyse_has_the_sessions_of_an_independent_price_history() -> None:
    """8,313 trading dates from 1990-01-02 to 2022-12-28, counted in a file of S&P 500 prices."""
    found = TradingCalendar("XNYS").trading_days(date(1990, 1, 2), date(2022, 12, 28))
    assert len(found) == 8313


# --- sessions ---------------------------------------------------------------------------------


def test_the_day_after_thanksgiving_closes_early_with_its_reason() -> None:
    assert TradingCalendar("US_EQ").session(date(2012, 11, 23)) == Session(
        date=date(2012, 11, 23),
        open=utc("2012-11-23T14:30"),
        close=utc("2012-11-23T18:00"),
        early_close=True,
        reason="Day after Thanksgiving Day",
    )


def test_a_market_trades_from_its_first_open_to_its_last_close() -> None:
    session = TradingCalendar("ASIA_EQ").session(date(2012, 11, 21))
    assert (session.open, session.close) == (utc("2012-11-21T00:00"), utc("2012-11-21T08:00"))


def test_members_cover_each_others_lunch() -> None:
    assert TradingCalendar("ASIA_EQ").session(date(2012, 11, 21)).breaks == ()
    assert TradingCalendar("XTKS").session(date(2012, 11, 21)).breaks == (
        (utc("2012-11-21T02:30"), utc("2012-11-21T03:30")),
    )


def test_a_market_whose_only_open_member_breaks_for_lunch_breaks_for_lunch() -> None:
    calendar = TradingCalendar("ASIA_EQ")
    assert calendar.closed_members(date(2012, 11, 23)) == {"XTKS": "Labor Thanksgiving Day"}
    assert calendar.reason(date(2012, 11, 23)) is None
    assert calendar.session(date(2012, 11, 23)) == Session(
        date=date(2012, 11, 23),
        open=utc("2012-11-23T01:30"),
        close=utc("2012-11-23T08:00"),
        breaks=((utc("2012-11-23T04:00"), utc("2012-11-23T05:00")),),
    )


def test_a_market_closes_early_when_its_last_member_does() -> None:
    session = TradingCalendar("EU_EQ").session(date(2026, 12, 24))
    assert (session.close, session.early_close) == (utc("2026-12-24T13:05"), True)
    assert session.reason == "Christmas Eve"


def test_a_short_day_of_one_member_is_named_as_its_own() -> None:
    """Hong Kong stops at noon while Tokyo trades on, so the market closes with Tokyo."""
    session = TradingCalendar("ASIA_EQ").session(date(2026, 12, 24))
    assert (session.close, session.early_close) == (utc("2026-12-24T06:30"), True)
    assert session.reason == "XHKG: Christmas Eve"


def test_a_late_open_is_marked_with_its_reason() -> None:
    session = TradingCalendar("XHKG").session(date(2023, 10, 9))
    assert (session.open, session.close) == (utc("2023-10-09T06:00"), utc("2023-10-09T08:00"))
    assert (session.late_open, session.early_close) == (True, False)
    assert session.reason == "Typhoon Koinu and black rainstorm"


@pytest.mark.parametrize(
    ("mic", "day", "hours", "breaks"),
    [
        ("XTKS", date(2011, 11, 18), ("00:00", "06:00"), ("02:00", "03:30")),
        ("XTKS", date(2011, 11, 21), ("00:00", "06:00"), ("02:30", "03:30")),
        ("XTKS", date(2024, 11, 1), ("00:00", "06:00"), ("02:30", "03:30")),
        ("XTKS", date(2024, 11, 5), ("00:00", "06:30"), ("02:30", "03:30")),
        ("XTKS", date(2008, 12, 30), ("00:00", "02:00"), None),
        ("XTKS", date(2009, 12, 30), ("00:00", "06:00"), ("02:00", "03:30")),
        ("XHKG", date(2011, 3, 4), ("02:00", "08:00"), ("04:30", "06:30")),
        ("XHKG", date(2011, 3, 7), ("01:30", "08:00"), ("04:00", "05:30")),
        ("XHKG", date(2012, 3, 2), ("01:30", "08:00"), ("04:00", "05:30")),
        ("XHKG", date(2012, 3, 5), ("01:30", "08:00"), ("04:00", "05:00")),
        ("XLON", date(1998, 7, 17), ("07:30", "15:30"), None),
        ("XLON", date(1998, 7, 20), ("08:00", "15:30"), None),
        ("XLON", date(1999, 9, 17), ("08:00", "15:30"), None),
        ("XLON", date(1999, 9, 20), ("07:00", "15:30"), None),
        ("XNYS", date(2002, 9, 11), ("16:00", "20:00"), None),
        ("XNYS", date(1994, 2, 11), ("14:30", "19:30"), None),
    ],
)
def test_hours_are_those_of_their_time(
    mic: str, day: date, hours: tuple[str, str], breaks: tuple[str, str] | None
) -> None:
    session = TradingCalendar(mic).session(day)
    assert (f"{session.open:%H:%M}", f"{session.close:%H:%M}") == hours
    found = [(f"{start:%H:%M}", f"{end:%H:%M}") for start, end in session.breaks]
    assert found == ([breaks] if breaks else [])


@pytest.mark.parametrize("name", NAMES)
def test_sessions_are_ordered_disjoint_and_hold_their_breaks(name: str) -> None:
    calendar = TradingCalendar(name)
    sessions = [
        calendar.session(day) for day in calendar.trading_days(calendar.first, calendar.horizon)
    ]
    for earlier, later in pairwise(sessions):
        assert earlier.close <= later.open
    for session in sessions:
        edges = [session.open, *(edge for pause in session.breaks for edge in pause), session.close]
        assert edges == sorted(set(edges)), session


def test_a_date_without_a_session_is_answered_with_the_reason_and_the_nearest() -> None:
    with pytest.raises(
        NoSessionError,
        match=r"2012-11-22 \(Thanksgiving Day\).* 2012-11-21 and 2012-11-23",
    ):
        TradingCalendar("US_EQ").session(date(2012, 11, 22))


def test_the_first_date_of_a_calendar_has_a_nearest_session_on_one_side_only() -> None:
    with pytest.raises(NoSessionError, match=r"The nearest session is 1990-01-02\."):
        TradingCalendar("XNYS").session(date(1990, 1, 1))


# --- phases and sessions near an instant ------------------------------------------------------


def test_phases_are_the_session_and_its_buffers() -> None:
    assert TradingCalendar("US_EQ").phases(date(2012, 11, 23)) == Phases(
        session_date=date(2012, 11, 23),
        pre_open_at=utc("2012-11-23T13:30"),
        open_at=utc("2012-11-23T14:30"),
        close_at=utc("2012-11-23T18:00"),
        post_close_ends_at=utc("2012-11-23T20:00"),
    )


def test_phases_follow_the_calendars_own_buffers() -> None:
    config = MarketStateConfig(pre_open=timedelta(0), post_close=timedelta(hours=30))
    phases = TradingCalendar("XNYS", config).phases(date(2012, 11, 20))
    assert phases.pre_open_at == phases.open_at
    assert phases.post_close_ends_at == utc("2012-11-22T03:00")


def test_sessions_around_an_instant_are_the_last_to_open_and_the_next() -> None:
    calendar = TradingCalendar("US_EQ")
    found = calendar.sessions_around(utc("2012-11-23T14:30"))
    assert [session.date.day for session in found] == [20, 21, 23, 26]
    found = calendar.sessions_around(utc("2012-11-23T14:29"), before=1, after=2)
    assert [session.date.day for session in found] == [21, 23, 26]


def test_sessions_around_the_ends_of_the_calendar_are_fewer() -> None:
    calendar = TradingCalendar("XNYS")
    assert calendar.sessions_around(utc("1985-01-01T00:00"), before=2, after=1) == (
        calendar.session(date(1990, 1, 2)),
    )
    last = calendar.sessions_around(utc("2040-01-01T00:00"), before=1, after=1)
    assert last == (calendar.session(date(2028, 12, 29)),)
    assert calendar.sessions_around(datetime.max.replace(tzinfo=UTC), before=1) == last


def test_sessions_between_two_instants_are_those_that_trade_in_between() -> None:
    calendar = TradingCalendar("US_EQ")
    at_close, at_open = utc("2012-11-21T21:00"), utc("2012-11-23T14:30")
    assert calendar.sessions_between(at_close, at_open) == ()
    moment = timedelta(microseconds=1)
    found = calendar.sessions_between(at_close - moment, at_open + moment)
    assert [session.date.day for session in found] == [21, 23]


@given(
    name=names,
    minute=st.integers(0, 15_000_000),
    hours=st.integers(1, 500),
)
def test_sessions_between_are_those_of_the_dates_in_between(
    name: str, minute: int, hours: int
) -> None:
    calendar = TradingCalendar(name)
    start = utc("1998-01-01T00:00") + timedelta(minutes=minute)
    end = start + timedelta(hours=hours)
    near = calendar.trading_days(start.date() - timedelta(days=5), end.date() + timedelta(days=5))
    expected = [
        session
        for session in map(calendar.session, near)
        if session.open < end and start < session.close
    ]
    assert list(calendar.sessions_between(start, end)) == expected


def test_instants_need_a_zone() -> None:
    calendar = TradingCalendar("US_EQ")
    naive = datetime(2012, 11, 23)  # noqa: DTZ001 - the fault under test
    with pytest.raises(NaiveDatetimeError):
        calendar.sessions_around(naive)
    with pytest.raises(NaiveDatetimeError):
        calendar.sessions_between(naive, utc("2012-11-24T00:00"))


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "day", "reason"),
    [
        ("US_EQ", date(2012, 11, 22), "Thanksgiving Day"),
        ("US_EQ", date(2012, 10, 29), "Hurricane Sandy"),
        ("US_EQ", date(2012, 11, 24), "weekend"),
        ("XNYS", date(2025, 1, 9), "National Day of Mourning for former President Jimmy Carter"),
        ("XTKS", date(2012, 11, 23), "Labor Thanksgiving Day"),
        ("XTKS", date(2020, 10, 1), "Trading system failure"),
        ("XHKG", date(2023, 9, 1), "Typhoon Saola"),
        ("XHKG", date(2008, 8, 6), "ad hoc closure"),
        ("XHKG", date(2012, 1, 23), "Chinese New Year"),
        ("EU_EQ", date(2022, 12, 26), "XPAR: Saint Stephen's Day; XLON: Boxing Day"),
        ("EU_EQ", date(2026, 12, 25), "Christmas Day"),
    ],
)
def test_a_day_without_a_session_says_why(name: str, day: date, reason: str) -> None:
    assert TradingCalendar(name).reason(day) == reason


def test_holidays_of_a_year_are_its_closed_weekdays_by_name() -> None:
    found = TradingCalendar("US_EQ").holidays(2012)
    assert len(found) == 11
    assert list(found) == sorted(found)
    assert found[date(2012, 11, 22)] == "Thanksgiving Day"
    assert found[date(2012, 10, 30)] == "Hurricane Sandy"
    assert all(day.weekday() < 5 for day in found)


def test_a_market_is_on_holiday_only_when_all_members_are() -> None:
    """Tokyo and Hong Kong are both closed on one weekday of 2026."""
    assert list(TradingCalendar("ASIA_EQ").holidays(2026)) == [date(2026, 1, 1)]


@pytest.mark.parametrize("name", ["XNYS", "XNAS", "XLON", "XPAR", "XTKS"])
def test_every_closure_has_a_name(name: str) -> None:
    calendar = TradingCalendar(name)
    for year in range(calendar.first.year, calendar.horizon.year + 1):
        assert "ad hoc closure" not in calendar.holidays(year).values()


def test_hong_kong_closures_have_names_since_2014() -> None:
    """Before, weather closures are known by their dates only."""
    calendar = TradingCalendar("XHKG")
    for year in range(2014, 2028):
        assert "ad hoc closure" not in calendar.holidays(year).values()


# --- bounds and bad input ---------------------------------------------------------------------


def test_a_market_is_known_as_far_as_all_of_its_members() -> None:
    calendar = TradingCalendar("ASIA_EQ")
    assert (calendar.first, calendar.horizon) == (date(1997, 1, 1), date(2027, 12, 31))
    mixed = TradingCalendar(Market("MIXED", ("XNYS", "XTKS")))
    assert mixed.horizon == date(2027, 12, 31)
    assert mixed.horizon_source == TradingCalendar("XTKS").horizon_source


def test_all_markets_follow_the_same_version() -> None:
    assert len({TradingCalendar(name).version for name in NAMES}) == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda calendar, day: calendar.is_trading_day(day),
        lambda calendar, day: calendar.next_trading_day(day),
        lambda calendar, day: calendar.previous_trading_day(day),
        lambda calendar, day: calendar.trading_days(day, day),
        lambda calendar, day: calendar.session(day),
        lambda calendar, day: calendar.phases(day),
        lambda calendar, day: calendar.reason(day),
        lambda calendar, day: calendar.closed_members(day),
        lambda calendar, day: calendar.holidays(day.year),
    ],
)
@pytest.mark.parametrize(
    ("day", "message"),
    [
        (date(1989, 12, 29), "before the first date"),
        (date(2029, 1, 2), "after the last date .* newer sessions snapshot"),
    ],
)
def test_outside_the_calendar_there_is_an_error_and_no_guess(
    ask: Callable[[TradingCalendar, date], Any], day: date, message: str
) -> None:
    with pytest.raises(HorizonError, match=message):
        ask(TradingCalendar("US_EQ"), day)


def test_no_next_trading_day_is_invented_after_the_last() -> None:
    calendar = TradingCalendar("US_EQ")
    assert calendar.next_trading_day(date(2028, 12, 28)) == date(2028, 12, 29)
    with pytest.raises(HorizonError):
        calendar.next_trading_day(date(2028, 12, 29))
    with pytest.raises(HorizonError):
        calendar.previous_trading_day(date(1990, 1, 2))


def test_an_instant_is_not_taken_for_a_date() -> None:
    with pytest.raises(TypeError, match="session date"):
        TradingCalendar("US_EQ").is_trading_day(utc("2012-11-23T02:00"))


def test_an_unknown_market_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownMarketError, match="Did you mean 'ASIA_EQ'"):
        TradingCalendar("ASIA_EQUITY")
