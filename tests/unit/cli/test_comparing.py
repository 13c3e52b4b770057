"""Where two markets do not trade alike."""

from __future__ import annotations

from datetime import date

from prometheus.cli.comparing import Comparison, compare
from prometheus.core.trading_calendar import TradingCalendar

YEAR = date(2026, 1, 1), date(2026, 12, 31)


def compared(left: str, right: str, first: date = YEAR[0], last: date = YEAR[1]) -> Comparison:
    return compare(TradingCalendar(left), TradingCalendar(right), first, last)


def test_each_has_the_dates_that_only_it_trades_on_and_why() -> None:
    found = compared("XPAR", "XLON")
    assert found.only == (
        {
            date(2026, 5, 4): "May Day",
            date(2026, 5, 25): "Spring Bank Holiday",
            date(2026, 8, 31): "Late Summer Bank Holiday",
            date(2026, 12, 28): "Boxing Day (observed)",
        },
        {date(2026, 5, 1): "Labor Day"},
    )
    assert found.sessions == (found.common + 4, found.common + 1)


def test_hours_of_different_clocks_are_the_same_where_the_instants_are() -> None:
    assert compared("XPAR", "XLON").spans == []


def test_early_closes_at_different_instants_are_named() -> None:
    found = {each.date: each for each in compared("XPAR", "XLON").special}
    assert list(found) == [date(2026, 12, 24), date(2026, 12, 31)]
    eve = found[date(2026, 12, 24)]
    assert [each.utc for each in eve.hours] == ["08:00-13:05", "08:00-12:30"]
    assert [each.local for each in eve.hours] == [("09:00-14:05 Paris",), ("08:00-12:30 London",)]
    assert eve.reasons == ("Christmas Eve", "Christmas Eve")


def test_weeks_between_two_changes_of_clocks_have_hours_of_their_own() -> None:
    found = compared("XNYS", "XLON").spans
    assert [(each.first, each.last, *(hours.utc for hours in each.hours)) for each in found] == [
        (date(2026, 1, 2), date(2026, 3, 6), "14:30-21:00", "08:00-16:30"),
        (date(2026, 3, 9), date(2026, 3, 27), "13:30-20:00", "08:00-16:30"),
        (date(2026, 3, 30), date(2026, 10, 23), "13:30-20:00", "07:00-15:30"),
        (date(2026, 10, 26), date(2026, 10, 30), "13:30-20:00", "08:00-16:30"),
        (date(2026, 11, 2), date(2026, 12, 30), "14:30-21:00", "08:00-16:30"),
    ]
    assert sum(each.sessions for each in found) == 244


def test_breaks_and_the_day_before_belong_to_the_hours() -> None:
    day = date(2026, 11, 20)
    [span] = compared("XTKS", "CMES", day, day).spans
    assert span.hours[0].utc == "00:00-06:30, break 02:30-03:30"
    assert span.hours[1].utc.startswith("23:00-1d-")


def test_nothing_differs_from_itself() -> None:
    found = compared("US_EQ", "XNAS")
    assert (found.only, found.spans, found.special) == (({}, {}), [], [])


def test_only_what_both_know_is_compared() -> None:
    found = compared("XSHG", "XHKG", date(2026, 12, 1), date(2027, 3, 1))
    assert (found.first, found.last) == (date(2026, 12, 1), date(2026, 12, 31))
