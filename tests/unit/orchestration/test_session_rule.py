"""
On which sessions a pipeline runs, at dates taken from New York's published holidays.

Closed on Good Friday (2012-04-06, 2013-03-29), Thanksgiving (2012-11-22), Christmas and New Year,
Martin Luther King's day (2013-01-21), and for a storm on 2012-10-29 and 30; closed early on
2012-11-23 and 2012-12-24.
"""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import HorizonError
from prometheus.orchestration.session_rule import EVERY, SessionRule, ShortSessions
from prometheus.verification.windows import runs_on, session_before

US = TradingCalendar("US_EQ")
MARKETS = ("US_EQ", "EU_EQ", "ASIA_EQ")
TEXTS = [
    "every",
    *(f"{place} of week" for place in ("first", "2nd", "5th", "last")),
    *(f"{place} of month" for place in ("first", "3rd", "11th", "21st", "23rd", "last")),
]


def chosen(text: str, start: str, end: str, short: ShortSessions = ShortSessions.RUN) -> list[str]:
    rule = SessionRule.parse(text, short)
    days = rule.sessions(US, date.fromisoformat(start), date.fromisoformat(end))
    return [day.isoformat()[5:] for day in days]


@pytest.mark.parametrize(
    ("text", "start", "end", "expected"),
    [
        ("every", "2012-11-19", "2012-11-26", ["11-19", "11-20", "11-21", "11-23", "11-26"]),
        ("first of week", "2013-01-14", "2013-01-31", ["01-14", "01-22", "01-28"]),
        ("last of week", "2012-03-26", "2012-04-13", ["03-30", "04-05", "04-13"]),
        ("5th of week", "2012-11-12", "2012-11-30", ["11-16", "11-30"]),
        # A week over the turn of the year.
        ("2nd of week", "2012-12-31", "2013-01-11", ["01-02", "01-08"]),
        ("first of month", "2012-12-01", "2013-02-28", ["12-03", "01-02", "02-01"]),
        ("3rd of month", "2012-12-01", "2013-02-28", ["12-05", "01-04", "02-05"]),
        ("last of month", "2012-10-01", "2013-03-31", [
            "10-31", "11-30", "12-31", "01-31", "02-28", "03-28"
        ]),
    ],
)  # fmt: skip
def test_sessions_are_counted_and_holidays_are_not(
    text: str, start: str, end: str, expected: list[str]
) -> None:
    assert chosen(text, start, end) == expected


def test_short_sessions_are_left_out_and_not_made_up_for() -> None:
    skip = ShortSessions.SKIP
    assert chosen("every", "2012-11-20", "2012-11-27", skip) == ["11-20", "11-21", "11-26", "11-27"]
    assert chosen("last of week", "2012-11-12", "2012-11-30", skip) == ["11-16", "11-30"]
    # It is counted: Monday is not the 4th of a week whose 4th session was short.
    assert chosen("4th of week", "2012-11-19", "2012-11-30", skip) == ["11-29"]


@pytest.mark.parametrize("text", [*TEXTS, "2nd of month", "22nd of month", "12th of month"])
def test_rule_is_written_as_it_is_read(text: str) -> None:
    assert str(SessionRule.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "Every", "monthly", "1th of month", "2th of week", "0th of week", "last of year",
     "3 of month", "last  of month", "11st of month", "1st of week", "100th of month"],
)  # fmt: skip
def test_what_is_no_rule_is_refused(text: str) -> None:
    if text == "1st of week":
        assert str(SessionRule.parse(text)) == "first of week"
        return
    with pytest.raises(ValueError, match="such as 'last of month'"):
        SessionRule.parse(text)


def test_last_session_of_a_period_that_the_calendar_cuts_off_is_not_guessed() -> None:
    """Of the calendar's last month it is known of all but the last session."""
    horizon = US.horizon
    assert (horizon + timedelta(days=1)).day == 1, "the shipped calendar ends with a month"
    cut = TradingCalendar("US_EQ")
    cut.horizon = date(2026, 11, 18)
    rule = SessionRule.parse("last of month")
    assert not rule.includes(cut, date(2026, 11, 17))
    assert rule.includes(cut, date(2026, 10, 30))
    with pytest.raises(HorizonError, match="2026-11-19 is after the last date"):
        rule.includes(cut, date(2026, 11, 18))
    assert runs_on(cut, date(2026, 11, 18), "last of month", "run") is None
    # The week's Friday is beyond it too, but the Sunday of a week that is over is not needed.
    with pytest.raises(HorizonError):
        SessionRule.parse("last of week").includes(cut, date(2026, 11, 18))
    assert SessionRule.parse("3rd of week").includes(cut, date(2026, 11, 18))


def test_place_in_a_period_that_begins_before_the_calendar_is_not_guessed() -> None:
    cut = TradingCalendar("US_EQ")
    cut.first = date(2026, 11, 18)
    with pytest.raises(HorizonError):
        SessionRule.parse("first of week").includes(cut, date(2026, 11, 18))
    assert runs_on(cut, date(2026, 11, 18), "first of week", "run") is None


def test_session_before_is_the_pipelines_own() -> None:
    rule = SessionRule.parse("last of month")
    assert rule.previous(US, date(2012, 12, 31)) == date(2012, 11, 30)
    assert rule.previous(US, date(2012, 12, 3)) == date(2012, 11, 30)
    assert EVERY.previous(US, date(2012, 11, 26)) == date(2012, 11, 23)
    skipping = SessionRule(short_sessions=ShortSessions.SKIP)
    assert skipping.previous(US, date(2012, 11, 26)) == date(2012, 11, 21)


def test_a_place_that_no_period_has_does_not_occur() -> None:
    assert SessionRule.parse("23rd of month").occurs(US)
    assert not SessionRule.parse("24th of month").occurs(US)
    assert SessionRule.parse("5th of week").occurs(US)
    assert not SessionRule.parse("6th of week").occurs(US)


@pytest.mark.parametrize("market", MARKETS)
@pytest.mark.parametrize("text", TEXTS)
def test_the_checkers_work_of_the_rules_agrees(text: str, market: str) -> None:
    calendar = TradingCalendar(market)
    for short in ShortSessions:
        rule = SessionRule.parse(text, short)
        for day in calendar.trading_days(date(2024, 12, 1), date(2026, 1, 31)):
            due = rule.includes(calendar, day)
            assert runs_on(calendar, day, text, short.value) is due, (day, short)
    day = date(2026, 2, 2)
    assert session_before(calendar, day, text, "skip") == rule.previous(calendar, day)


@given(st.sampled_from(TEXTS[1:]), st.dates(date(2000, 1, 3), date(2025, 12, 31)))
def test_a_period_has_at_most_one_session_of_a_rule(text: str, day: date) -> None:
    rule = SessionRule.parse(text)
    start = day - timedelta(days=day.weekday()) if rule.period == "week" else day.replace(day=1)
    days = 6 if rule.period == "week" else 27
    assert len(rule.sessions(US, start, start + timedelta(days=days))) <= 1
