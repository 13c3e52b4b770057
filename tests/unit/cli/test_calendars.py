"""What ``prometheus calendar`` finds to say about days."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest
from typer.testing import CliRunner

from prometheus.cli import sessions
from prometheus.cli.calendars import application, find_next
from prometheus.cli.markets import next_words
from prometheus.core.days import DayKind, date_there, describe_day
from prometheus.core.exchanges import Exchange, load_exchange
from prometheus.core.market_state import describe_market
from prometheus.core.markets import markets
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import HorizonError


@pytest.mark.parametrize(
    ("market", "day", "kind", "reason"),
    [
        ("US_EQ", date(2026, 11, 25), DayKind.SESSION, None),
        ("US_EQ", date(2026, 11, 26), DayKind.HOLIDAY, "Thanksgiving Day"),
        ("US_EQ", date(2026, 11, 27), DayKind.SPECIAL, "Day after Thanksgiving Day"),
        ("US_EQ", date(2026, 11, 28), DayKind.WEEKEND, "weekend"),
        ("US_EQ", date(2099, 1, 5), DayKind.UNKNOWN, None),
        ("US_EQ", date(1989, 12, 29), DayKind.UNKNOWN, None),
        ("ASIA_EQ", date(2026, 11, 23), DayKind.PARTIAL, None),
        ("XBOM", date(2026, 2, 1), DayKind.SPECIAL, "Union Budget"),
    ],
)
def test_what_a_date_is(market: str, day: date, kind: DayKind, reason: str | None) -> None:
    found = describe_day(TradingCalendar(market), day)
    assert (found.kind, found.reason) == (kind, reason)


def test_a_day_on_which_some_trade_says_who_does_not() -> None:
    found = describe_day(TradingCalendar("ASIA_EQ"), date(2026, 11, 23))
    assert found.session is not None
    assert found.closed_members == {"XTKS": "Labor Thanksgiving Day"}


def test_a_market_that_never_closes_has_no_next_state() -> None:
    status = describe_market("CRYPTO", datetime(2026, 11, 25, 15, tzinfo=UTC))
    horizon = TradingCalendar("CRYPTO").horizon
    assert next_words(status) == [f"none by {horizon}", "where its calendar ends"]


def test_next_is_after_the_instant_and_skips_weekends() -> None:
    found = find_next(TradingCalendar("XNYS"), datetime(2026, 11, 25, 15, tzinfo=UTC))
    days = {name: day and day.date for name, day in found.items()}
    assert days == {
        "session": date(2026, 11, 27),  # the one of the 25th has opened
        "closed": date(2026, 11, 26),
        "special": date(2026, 11, 27),
    }


@pytest.mark.parametrize(
    ("market", "at", "expected"),
    [
        # Thursday evening in New York: Christmas has not begun there, whatever the date in UTC.
        (
            "XNYS",
            datetime(2026, 12, 25, 3, tzinfo=UTC),
            {
                "session": date(2026, 12, 28),
                "closed": date(2026, 12, 25),
                "special": date(2027, 11, 26),
            },
        ),
        (
            "XNYS",
            datetime(2026, 11, 27, 2, tzinfo=UTC),
            {
                "session": date(2026, 11, 27),
                "closed": date(2026, 12, 25),
                "special": date(2026, 11, 27),
            },
        ),
        # New Year's Day has begun in Tokyo: it is not to come.
        (
            "XTKS",
            datetime(2026, 12, 31, 22, tzinfo=UTC),
            {"session": date(2027, 1, 4), "closed": date(2027, 1, 11), "special": None},
        ),
        # The short session opens the evening before, and has opened.
        (
            "CMES",
            datetime(2026, 11, 27, 1, tzinfo=UTC),
            {
                "session": date(2026, 11, 30),
                "closed": date(2026, 12, 25),
                "special": date(2026, 12, 24),
            },
        ),
    ],
)
def test_next_counts_by_the_dates_of_the_market(
    market: str, at: datetime, expected: dict[str, date | None]
) -> None:
    found = find_next(TradingCalendar(market), at)
    assert {name: day and day.date for name, day in found.items()} == expected


def test_days_are_judged_by_the_calendars_own_exchanges() -> None:
    def sundays(mic: str) -> Exchange:
        return replace(
            load_exchange(mic), zone=ZoneInfo("Asia/Tokyo"), weeks=((date(1990, 1, 1), "1111101"),)
        )

    calendar = TradingCalendar("XNYS", exchanges=sundays)
    assert describe_day(calendar, date(2026, 11, 29)).kind is DayKind.SESSION
    assert describe_day(calendar, date(2026, 11, 28)).kind is DayKind.WEEKEND
    at = datetime(2026, 11, 29, 0, 30, tzinfo=UTC)
    assert sessions.local_times(calendar.exchanges, at) == ["Sun 09:30 Tokyo"]
    assert sessions.cities(calendar.exchanges) == {"XNYS": "Tokyo"}


def test_next_invents_nothing_past_the_horizon() -> None:
    calendar = TradingCalendar("XNYS")
    # The evening of the last day in New York is the year after in UTC.
    for last in (datetime(2028, 12, 31, 12, tzinfo=UTC), datetime(2029, 1, 1, 3, tzinfo=UTC)):
        assert find_next(calendar, last) == {"session": None, "closed": None, "special": None}
    with pytest.raises(HorizonError):
        find_next(calendar, datetime(2029, 1, 1, 12, tzinfo=UTC))


def test_a_year_that_is_not_named_is_the_one_where_the_market_is() -> None:
    at = datetime(2026, 12, 31, 20, tzinfo=UTC)
    years = {mic: date_there(TradingCalendar(mic), at).year for mic in ("XTKS", "XNYS", "ASIA_EQ")}
    assert years == {"XTKS": 2027, "XNYS": 2026, "ASIA_EQ": 2027}
    shown = CliRunner().invoke(application, ["show", "24x7", "--json"])
    assert json.loads(shown.stdout)["year"] == datetime.now(UTC).year


@pytest.mark.parametrize("command", [["at", "{}"], ["next", "--at", "{}"]])
@pytest.mark.parametrize(
    ("at", "known"), [("2099-01-05T12:00Z", "known to 2028-12-31"), ("1980-01-07T12:00Z", "from")]
)
def test_markets_without_an_answer_say_briefly_how_far_they_are_known(
    command: list[str], at: str, known: str
) -> None:
    """In one line each, however narrow the window; machines get the whole error."""
    arguments = [each.format(at) for each in command]
    result = CliRunner().invoke(application, arguments, env={"COLUMNS": "80"})
    rows = [line for line in result.stdout.splitlines() if "not known" in line]
    assert result.exit_code == 1
    assert len(rows) == len(markets())
    assert known in rows[0]
    assert "Ask within" not in result.stdout
    told = CliRunner().invoke(application, [*arguments, "--json"])
    assert told.exit_code == 1
    for each in json.loads(told.stdout):
        assert "date for which the sessions of" in each["error"]


@pytest.mark.parametrize(("columns", "across"), [(40, 1), (59, 1), (60, 2), (80, 2), (120, 3)])
def test_a_year_shows_every_day_however_narrow_the_window(columns: int, across: int) -> None:
    shown = CliRunner().invoke(
        application, ["show", "US_EQ", "2026"], env={"COLUMNS": str(columns)}
    )
    table = shown.stdout.split("x closed")[0]
    assert max(line.count("Mo  Tu  We  Th  Fr  Sa  Su") for line in table.splitlines()) == across
    days = re.findall(r"(?<!\d)([ \d]\d)[ x*](?= |$)", table.split("January")[1], re.MULTILINE)
    assert len(days) == 365
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown.stdout


@pytest.mark.parametrize(
    ("market", "at", "code", "said"),
    [
        # The last session of the calendar has closed: what comes next is not known.
        ("XNYS", "2028-12-31T00:00Z", 1, "none to 2028-12-31"),
        ("24x7", "2026-11-26T00:00Z", 0, "none to 2029-12-31"),
    ],
)
def test_next_ends_with_1_where_no_session_is_known(
    market: str, at: str, code: int, said: str
) -> None:
    result = CliRunner().invoke(application, ["next", market, "--at", at])
    assert result.exit_code == code
    assert said in result.stdout
    assert "not known" not in result.stdout
