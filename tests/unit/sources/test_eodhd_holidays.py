"""A feed's holidays of an exchange, taken whole or refused with everything that is wrong."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, date, datetime, time
from typing import Any

import pytest
from pydantic import SecretStr

from prometheus.core.holidays import Holiday, HolidayKind
from prometheus.sources.eodhd.client import EodhdClient
from prometheus.sources.eodhd.errors import EodhdError
from prometheus.sources.eodhd.holidays import ImplausibleHolidaysError, fetch_holidays
from prometheus.sources.eodhd.replies import UnreadableError, read_exchange_2
from tests.eodhd.server import TOKEN, Answer, Imitation


def fetch(server: Imitation, mic: str = "XNYS", year: int = 2012) -> tuple[Holiday, ...]:
    client = EodhdClient(SecretStr(TOKEN), url=server.url, now=lambda: server.now)

    async def asked() -> tuple[Holiday, ...]:
        async with client:
            return await fetch_holidays(client, mic, year)

    return asyncio.run(asked())


def document(**changes: Any) -> dict[str, Any]:
    """What comes for New York, with other values."""
    return {
        "Name": "USA Stocks",
        "Code": "US",
        "Timezone": "America/New_York",
        "TradingHours": {"Open": "09:30", "Close": "16:00", "WorkingDays": "Mon, Tue"},
        "ExchangeHolidays": {"2012-12-25": {"Holiday": "Christmas", "Type": "Official"}},
        **changes,
    }


def holidays(*days: str, **values: str) -> dict[str, Any]:
    return {day: {"Holiday": "A day", "Type": "Official", **values} for day in days}


@pytest.mark.parametrize(
    ("mic", "code"),
    [("XNYS", "US"), ("XNAS", "US"), ("XLON", "LSE"), ("XPAR", "XPAR"), ("XTKS", "XTKS")],
)
def test_an_exchange_is_asked_by_the_feeds_own_code(mic: str, code: str) -> None:
    with Imitation() as server:
        found = fetch(server, mic)
        assert server.paths() == [f"v2/exchange-details/{code}"]
    assert {each.day.year for each in found} == {2012}
    assert found == tuple(sorted(found, key=lambda each: each.day))


def test_kinds_and_times_come_through() -> None:
    with Imitation() as server:
        found = {each.day: each for each in fetch(server)}
    assert found[date(2012, 10, 29)].kind is HolidayKind.CLOSED
    assert found[date(2012, 10, 8)] == Holiday(date(2012, 10, 8), "Columbus Day", HolidayKind.BANK)
    assert (found[date(2012, 11, 23)].kind, found[date(2012, 11, 23)].close) == (
        HolidayKind.EARLY_CLOSE,
        time(13),
    )


def test_a_zone_of_another_name_with_the_same_clocks_is_the_same() -> None:
    with Imitation() as server:
        body = json.dumps({"data": document(Timezone="US/Eastern")}).encode()
        server.answers.append(Answer(200, body))
        assert len(fetch(server)) == 1


WRONG = {
    "another exchange": (document(Code="LSE"), "the holidays of another exchange came"),
    "another zone": (
        document(Timezone="America/Chicago"),
        "its time zone is America/Chicago, that of XNYS is America/New_York",
    ),
    "no holidays": (document(ExchangeHolidays=[]), "it lists no holiday of 2012"),
    "of last year": (
        document(ExchangeHolidays=holidays("2011-12-26")),
        "it lists no holiday of 2012; 2011-12-26 is not in 2012",
    ),
    "all closed": (
        document(
            ExchangeHolidays=holidays(
                *(f"2012-0{m}-{d}" for m in (1, 2, 3, 4, 5, 6, 7, 8) for d in range(10, 19))
            )
        ),
        "it lists 72 closed days",
    ),
    "closed at night": (
        document(ExchangeHolidays=holidays("2012-12-24", Type="EarlyClose", EarlyClose="03:00")),
        "an early close at 03:00 on 2012-12-24 is not within the usual hours",
    ),
    "a date that is none": (
        document(ExchangeHolidays=holidays("2012-13-01")),
        "exchangeHolidays",
    ),
    "a time that is none": (
        document(ExchangeHolidays=holidays("2012-12-24", Type="EarlyClose", EarlyClose="25:00")),
        "exchangeHolidays",
    ),
    "no such zone": (document(Timezone="Mars/Olympus"), "a time zone such as"),
    "no hours": (document(TradingHours=None), "TradingHours"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_can_not_be_true_is_refused_and_says_why(wrong: str) -> None:
    reply, why = WRONG[wrong]
    with Imitation() as server:
        server.answers.append(Answer(200, json.dumps({"data": reply}).encode()))
        with pytest.raises(EodhdError, match="Nothing of it was used") as caught:
            fetch(server)
    assert why.lower() in str(caught.value).lower()
    assert TOKEN not in str(caught.value)


def test_what_can_not_be_true_in_many_ways_gets_a_message_for_each() -> None:
    reply = document(
        Code="LSE",
        Timezone="Europe/London",
        ExchangeHolidays=holidays("2011-12-26", "2013-01-01", "2013-03-29", "2013-12-25")
        | holidays("2013-12-24", Type="EarlyClose", EarlyClose="03:00")
        | holidays("2013-12-31", Type="EarlyClose", EarlyClose="23:00"),
    )
    with Imitation(now=datetime(2012, 11, 21, 23, tzinfo=UTC)) as server:
        server.answers.append(Answer(200, json.dumps({"data": reply}).encode()))
        with pytest.raises(ImplausibleHolidaysError) as caught:
            fetch(server)
    assert list(caught.value.faults) == [
        "US was asked for, and the holidays of another exchange came",
        "its time zone is Europe/London, that of XNYS is America/New_York",
        "it lists no holiday of 2012",
        "2011-12-26 is not in 2012",
        "2013-01-01 is not in 2012",
        "2013-03-29 is not in 2012",
        "2013-12-24 is not in 2012",
        "2013-12-25 is not in 2012",
        "2013-12-31 is not in 2012",
        "an early close at 03:00 on 2013-12-24 is not within the usual hours",
        "an early close at 23:00 on 2013-12-31 is not within the usual hours",
    ]


def test_what_can_not_be_read_in_ten_ways_gets_ten_messages() -> None:
    reply = document(
        Code=[],
        Timezone="Mars/Olympus",
        TradingHours={"Open": "9", "Close": "25:00", "WorkingDays": "Mon, Tue"},
        ExchangeHolidays=holidays("2012-13-01", "20121225", "Christmas")
        | holidays("2012-12-24", Type="EarlyClose", EarlyClose="one")
        | {"2012-12-26": {"Holiday": "Boxing Day"}, "2012-12-31": "closed"},
    )
    with Imitation() as server:
        server.answers.append(Answer(200, json.dumps({"data": reply}).encode()))
        with pytest.raises(EodhdError) as caught:
            fetch(server)
    assert str(caught.value).split(": ", 1)[1].split("; ") == [
        "data.Code: a text was wanted",
        "data.Timezone: a time zone such as America/New_York was wanted",
        "data.TradingHours.Open: a time such as 13:00 was wanted",
        "data.TradingHours.Close: hour must be in 0..23",
        "data.ExchangeHolidays.2012-13-01: month must be in 1..12",
        "data.ExchangeHolidays: a date such as 2026-11-27 was wanted",
        "data.ExchangeHolidays: a date such as 2026-11-27 was wanted",
        "data.ExchangeHolidays.2012-12-24.EarlyClose: a time such as 13:00 was wanted",
        "data.ExchangeHolidays.2012-12-26.Type: field required",
        "data.ExchangeHolidays.2012-12-31: an object was wanted. Nothing of it was used.",
    ]


@pytest.mark.parametrize(
    ("days", "more"), [(10, []), (11, ["and 1 fault more"]), (12, ["and 2 faults more"])]
)
def test_faults_of_different_days_are_told_apart(days: int, more: list[str]) -> None:
    dates = [f"2012-12-{day:02}" for day in range(1, days + 1)]
    early = holidays(*dates, Type="EarlyClose", EarlyClose="one")
    with pytest.raises(UnreadableError) as caught:
        read_exchange_2(json.dumps({"data": document(ExchangeHolidays=early)}))
    assert (
        str(caught.value).split("; ")
        == [
            f"data.ExchangeHolidays.{day}.EarlyClose: a time such as 13:00 was wanted"
            for day in dates[:10]
        ]
        + more
    )


def test_keys_that_the_server_made_up_are_not_told() -> None:
    early = {TOKEN * 100: {"Holiday": [], "Type": ""}}
    with pytest.raises(UnreadableError) as caught:
        read_exchange_2(json.dumps({"data": document(ExchangeHolidays=early)}))
    assert str(caught.value).split("; ") == [
        "data.ExchangeHolidays: a date such as 2026-11-27 was wanted",
        "data.ExchangeHolidays.Holiday: a text was wanted",
    ]
