"""Every shape in which eodhd.com was seen or said to answer, read whole or not at all."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable
from datetime import date, time
from typing import Any

import pytest

from prometheus.core.holidays import Holiday, HolidayKind
from prometheus.sources.eodhd import replies
from prometheus.sources.eodhd.replies import DailyBar, UnreadableError

ROW: dict[str, Any] = {
    "date": "2012-11-21",
    "open": 10.0,
    "high": 12,
    "low": 9.5,
    "close": 11.0,
    "adjusted_close": 10.9,
    "volume": 2943900.99,
}
BAR = DailyBar(date(2012, 11, 21), 10.0, 12.0, 9.5, 11.0, 10.9, 2943900.99)
CSV = "Date,Open,High,Low,Close,Adjusted_close,Volume\n2012-11-21,10,12,9.5,11,10.9,2943900.99\n"

EXCHANGE: dict[str, Any] = {
    "Name": "USA Stocks",
    "Code": "US",
    "OperatingMIC": "XNAS, XNYS, OTCM",
    "Country": "USA",
    "Currency": "USD",
    "Timezone": "America/New_York",
    "isOpen": False,
    "TradingHours": {
        "Open": "09:30:00",
        "Close": "16:00:00",
        "OpenUTC": "13:30:00",
        "CloseUTC": "20:00:00",
        "WorkingDays": "Mon,Tue,Wed,Thu,Fri",
    },
    "ExchangeHolidays": {},
    "ExchangeEarlyCloseDays": {},
    "ActiveTickers": 50000,
    "PreviousDayUpdatedTickers": 48000,
    "UpdatedTickers": 0,
}
HOLIDAYS = [
    {"Holiday": "Thanksgiving", "Date": "2012-11-22", "Type": "official"},
    {"Holiday": "Columbus Day", "Date": "2012-10-08", "Type": "bank"},
]
LISTED = (
    Holiday(date(2012, 10, 8), "Columbus Day", HolidayKind.BANK),
    Holiday(date(2012, 11, 22), "Thanksgiving", HolidayKind.CLOSED),
)


def read_1(**changes: Any) -> replies.ExchangeDetails:
    return replies.read_exchange_1(json.dumps({**EXCHANGE, **changes}))


def read_2(holidays: object, **hours: str) -> replies.ExchangeDetails:
    data = {
        "Name": "Tokyo",
        "Code": "XTKS",
        "Timezone": "Asia/Tokyo",
        "TradingHours": {
            "Open": "09:00:00",
            "Close": "15:30:00",
            "WorkingDays": "Mon, Tue, Wed, Thu, Fri",
            **hours,
        },
        "ExchangeHolidays": holidays,
    }
    return replies.read_exchange_2(json.dumps({"data": data, "meta": [], "links": []}))


def test_bars_of_json_and_of_csv_are_the_same() -> None:
    assert replies.read_bars(json.dumps([ROW])) == (BAR,)
    assert replies.read_bars(CSV) == (BAR,)


def test_an_empty_range_has_no_bars() -> None:
    assert replies.read_bars("[]") == ()
    assert replies.read_bars(f"{CSV.splitlines()[0]}\n") == ()


@pytest.mark.parametrize("footer", ["1", "Total: 1,,,,,,", ",,"])
def test_a_last_line_of_csv_that_is_no_row_is_passed_over(footer: str) -> None:
    assert replies.read_bars(f"{CSV}{footer}\n") == (BAR,)


def test_bars_come_ascending_and_once() -> None:
    earlier = {**ROW, "date": "2012-11-20"}
    found = replies.read_bars(json.dumps([ROW, earlier, ROW]))
    assert [bar.day.day for bar in found] == [20, 21]


def test_unknown_fields_are_passed_over() -> None:
    assert replies.read_bars(json.dumps([{**ROW, "warning": {"x": [1]}}])) == (BAR,)


def test_faulty_values_are_delivered_for_the_job_to_examine() -> None:
    text = json.dumps([{**ROW, "open": None, "high": -1, "low": "9.5"}])
    [bar] = replies.read_bars(text.replace("10.9", "NaN"))
    assert math.isnan(bar.open)
    assert (bar.high, bar.low) == (-1.0, 9.5)
    assert math.isnan(bar.adjusted_close)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "{}",
        "[",
        "[[]]",
        "<html></html>",
        "Date,Open",
        json.dumps([ROW])[:-3],
        json.dumps([{**ROW, "date": "20121121"}]),
        json.dumps([{**ROW, "date": "2012-11-31"}]),
        json.dumps([{**ROW, "date": 20121121}]),
        json.dumps([{**ROW, "close": "ten"}]),
        json.dumps([{**ROW, "close": True}]),
        json.dumps([{**ROW, "close": [1]}]),
        json.dumps([{key: ROW[key] for key in ROW if key != "volume"}]),
        json.dumps([ROW, {**ROW, "close": 11.5}]),
        CSV[:-1],
        CSV[:-4],
        CSV + "2012-11-22,10,12\n",
        CSV + "2012-11-2,10,12,9.5,11,10.9,5\n",
        CSV + "21/11/2012,10,12,9.5,11,10.9,5\n",
        CSV + ",10,12,9.5,11,10.9,5\n",
        CSV.replace("2012-11-21,", "1\n2012-11-21,"),
        "Date,Open,High,Low,Close,Volume\n2012-11-21,10,12,9.5,11,5\n",
        "[" * 100_000,
    ],
)
def test_a_reply_that_is_not_whole_is_not_read_at_all(text: str) -> None:
    with pytest.raises(UnreadableError):
        replies.read_bars(text)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (replies.read_bars, f"[{'0,' * 1_000_000}0]"),
        (replies.read_exchange_codes, f'{{"data": [{"0.5," * 500_000}0]}}'),
        (
            replies.read_exchange_1,
            json.dumps({**EXCHANGE, "ExchangeHolidays": [0] * 500_000}),
        ),
        (
            replies.read_exchange_2,
            json.dumps({"data": {"ExchangeHolidays": dict.fromkeys(range(200_000), 0)}}),
        ),
    ],
    ids=["bars", "codes", "holidays", "dated holidays"],
)
def test_a_million_faults_cost_no_more_than_the_reply(
    read: Callable[[str], object], text: str
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableError) as caught:
            read(text)
        assert tracemalloc.get_traced_memory()[1] < 50 * 1024**2
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 1000


def test_a_fault_names_its_place_and_not_what_stood_there() -> None:
    with pytest.raises(UnreadableError, match=r"1\.close: ") as caught:
        replies.read_bars(json.dumps([ROW, {**ROW, "date": "2012-11-22", "close": "hunter2"}]))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (replies.read_exchange_2, '{"data": []}', "data: an object was wanted"),
        (replies.read_exchange_2, "[]", "an object was wanted"),
        (replies.read_exchange_1, "[]", "an object was wanted"),
        (replies.read_account, "[]", "an object was wanted"),
        (replies.read_bars, "[[]]", "0: an object was wanted"),
        (replies.read_bars, "{}", "a list was wanted"),
        (replies.read_exchange_codes, '{"data": {}}', "data: a list was wanted"),
    ],
)
def test_a_list_for_an_object_is_told_in_the_feeds_words(
    read: Callable[[str], object], text: str, said: str
) -> None:
    with pytest.raises(UnreadableError) as caught:
        read(text)
    assert str(caught.value) == said


def test_bulk_rows_of_other_codes_are_not_looked_at() -> None:
    rows = [{"code": "AAPL", "exchange_short_name": "US", **ROW}, {"code": "JUNK", "date": "?"}]
    assert replies.read_bulk_bars(json.dumps(rows), {"AAPL"}) == (replies.BulkBar("AAPL", BAR),)
    with pytest.raises(UnreadableError):
        replies.read_bulk_bars(json.dumps(rows))


@pytest.mark.parametrize("code", [[], {}, None, True])
def test_a_bulk_row_without_a_code_may_be_one_that_was_asked_for(code: object) -> None:
    rows = [{"code": "AAPL", **ROW}, {"code": code, **ROW}]
    with pytest.raises(UnreadableError):
        replies.read_bulk_bars(json.dumps(rows), {"AAPL"})


@pytest.mark.parametrize("more", ["", ",Prev_close,Change,Change_%"])
def test_bulk_csv_with_and_without_the_older_columns(more: str) -> None:
    header = f"Code,Ex,Date,Open,High,Low,Close,Adjusted_close,Volume{more}"
    row = "AAPL,US,2012-11-21,10,12,9.5,11,10.9,2943900.99" + ",1,2,3" * bool(more)
    assert replies.read_bulk_bars(f"{header}\n{row}\n") == (replies.BulkBar("AAPL", BAR),)


def test_splits_and_dividends() -> None:
    split = {"code": "GE", "exchange": "US", "date": "2021-08-02", "split": "1.000000/8.000000"}
    assert replies.read_bulk_splits(json.dumps([split]))[0].ratio == 0.125
    assert replies.read_splits('[{"date": "2020-08-31", "split": "4.000000/1.000000"}]') == (
        replies.SplitRow(date(2020, 8, 31), 4.0),
    )
    row = {
        "code": "ABCB",
        "exchange": "US",
        "date": "2012-11-21",
        "dividend": "0.15",
        "currency": "USD",
        "declarationDate": "",
        "recordDate": "2012-11-19",
        "paymentDate": "0000-00-00",
        "period": "Quarterly",
        "unadjustedValue": "",
    }
    [dividend] = replies.read_bulk_dividends(json.dumps([row]))
    assert (dividend.value, dividend.declared_on, dividend.paid_on) == (0.15, None, None)
    assert dividend.recorded_on == date(2012, 11, 19)
    assert math.isnan(dividend.unadjusted_value)


@pytest.mark.parametrize("split", ["", "2", "0/1", "1/0", "-1/2", "a/b", "nan/1", "1e300/1e-300"])
def test_a_split_that_is_none(split: str) -> None:
    with pytest.raises(UnreadableError):
        replies.read_splits(json.dumps([{"date": "2020-08-31", "split": split}]))


@pytest.mark.parametrize("text", ['"2012-11-21"', "2012-11-21", "2012-11-21\n"])
def test_a_bare_date(text: str) -> None:
    assert replies.read_last_date(text) == date(2012, 11, 21)


@pytest.mark.parametrize("text", ["", "[]", "null", "yesterday", "2012-11-31"])
def test_a_bare_date_that_is_none(text: str) -> None:
    with pytest.raises(UnreadableError):
        replies.read_last_date(text)


def test_the_account() -> None:
    document = {
        "name": "A Tester",
        "email": "tester@example.com",
        "subscriptionMode": "paid",
        "apiRequests": 5301,
        "apiRequestsDate": "2012-11-21",
        "dailyRateLimit": "100000",
        "extraLimit": 500,
    }
    account = replies.read_account(json.dumps(document))
    assert account == replies.Account(5301, date(2012, 11, 21), 100_000, 500, "paid")


@pytest.mark.parametrize("encoded", [HOLIDAYS, {"0": HOLIDAYS[0], "1": HOLIDAYS[1]}])
def test_holidays_as_an_array_or_as_an_object_with_numbers(encoded: object) -> None:
    assert read_1(ExchangeHolidays=encoded).holidays == LISTED


@pytest.mark.parametrize("empty", [[], {}])
def test_no_holidays_in_both_ways_to_write_it(empty: object) -> None:
    assert read_1(ExchangeHolidays=empty, ExchangeEarlyCloseDays=empty).holidays == ()
    assert read_2(empty).holidays == ()


@pytest.mark.parametrize("name", ["EarlyClose", "CloseTime"])
@pytest.mark.parametrize("written", ["13:00", "13:00:00"])
def test_early_closes_under_both_names(name: str, written: str) -> None:
    days = {"0": {"Holiday": "Day after", "Date": "2012-11-23", "Type": "official", name: written}}
    [holiday] = read_1(ExchangeEarlyCloseDays=days).holidays
    assert holiday == Holiday(date(2012, 11, 23), "Day after", HolidayKind.EARLY_CLOSE, time(13))


def test_an_exchange_of_the_first_version() -> None:
    details = read_1(SomethingNew=1)
    assert details.mics == ("XNAS", "XNYS", "OTCM")
    assert details.zone.key == "America/New_York"
    assert details.hours.weekdays == frozenset(range(5))
    assert (details.hours.open, details.hours.close) == (time(9, 30), time(16))
    assert (details.is_open, details.active_tickers, details.updated_tickers) == (False, 50000, 0)


def test_an_exchange_of_the_second_version() -> None:
    details = read_2(
        {
            "2026-11-23": {"Holiday": "Labour Thanksgiving", "Type": "Official"},
            "2026-11-27": {"Holiday": "Half", "Type": "EarlyClose", "EarlyClose": "13:00:00"},
            "2026-11-11": {"Holiday": "Banks", "Type": "Bank"},
            "2026-11-12": {"Holiday": "New", "Type": "Settlement"},
        },
        LunchBreakStart="11:30:00",
        LunchBreakEnd="12:30:00",
        PreMarketOpen="",
    )
    assert [(each.day.day, each.kind, each.close) for each in details.holidays] == [
        (11, HolidayKind.BANK, None),
        (12, HolidayKind.UNKNOWN, None),
        (23, HolidayKind.CLOSED, None),
        (27, HolidayKind.EARLY_CLOSE, time(13)),
    ]
    assert details.hours.lunch == (time(11, 30), time(12, 30))
    assert details.hours.pre_market is None


@pytest.mark.parametrize(
    "changes",
    [
        {"ExchangeHolidays": None},
        {"ExchangeHolidays": "none"},
        {"ExchangeHolidays": [{"Holiday": "x", "Date": "soon"}]},
        {"ExchangeEarlyCloseDays": [{"Holiday": "x", "Date": "2012-11-23", "EarlyClose": "25:00"}]},
        {"Timezone": "Mars/Phobos"},
        {"Timezone": "../../etc/passwd"},
        {"Timezone": "America"},
        {"Timezone": None},
        {"TradingHours": {}},
        {"TradingHours": {**EXCHANGE["TradingHours"], "WorkingDays": "Mon,Xyz"}},
        {"TradingHours": {**EXCHANGE["TradingHours"], "Open": "9.30"}},
    ],
)
def test_an_exchange_that_can_not_be_read(changes: dict[str, Any]) -> None:
    with pytest.raises(UnreadableError):
        read_1(**changes)


def test_an_exchange_without_a_list_of_holidays_is_not_one_without_holidays() -> None:
    document = {key: value for key, value in EXCHANGE.items() if key != "ExchangeHolidays"}
    with pytest.raises(UnreadableError, match="ExchangeHolidays"):
        replies.read_exchange_1(json.dumps(document))


def test_texts_can_not_disturb_a_line_or_a_page() -> None:
    days = [{"Holiday": "A\n\x1b[31m B\u202e" + "x" * 500, "Date": "2012-11-22"}]
    [holiday] = read_1(ExchangeHolidays=days).holidays
    assert holiday.name.startswith("A [31m B")
    assert holiday.name.isprintable()
    assert len(holiday.name) == 200


def test_lists_of_exchanges() -> None:
    assert replies.read_exchange_codes('{"data": ["US", "XPAR"]}') == ("US", "XPAR")
    assert replies.read_listed_exchanges('[{"Name": "x", "Code": "US"}]') == frozenset({"US"})
