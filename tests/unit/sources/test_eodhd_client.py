"""The client of eodhd.com against a server that answers as it does, and worse."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr

from prometheus.core.holidays import HolidayKind, find_differences
from prometheus.log_lines import QUIET
from prometheus.sources.eodhd import client as client_module
from prometheus.sources.eodhd.client import ATTEMPTS, EodhdClient
from prometheus.sources.eodhd.errors import (
    AccessRefusedError,
    BadQuestionError,
    EodhdError,
    NotFoundError,
    QuotaSpentError,
    TooManyRequestsError,
    UnreachableError,
    UnreadableReplyError,
)
from prometheus.sources.errors import SourceConfigurationError
from tests.eodhd.server import TOKEN, Answer, Imitation
from tests.servers import free_port

T = TypeVar("T")

WEDNESDAY = date(2012, 11, 21)
ECHO = f"GET /api/eod/AAPL.US?api_token={TOKEN}&fmt=json".encode()


@pytest.fixture
def server() -> Iterator[Imitation]:
    """The imitation, on the evening of Wednesday."""
    with Imitation() as imitation:
        yield imitation


class Waits(list[float]):
    """Takes no time, and remembers for how long it should have."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


def make_client(server: Imitation, waits: Waits | None = None, **options: Any) -> EodhdClient:
    return EodhdClient(
        SecretStr(TOKEN),
        **{
            "url": server.url,
            "now": lambda: server.now,
            "sleep": Waits() if waits is None else waits,
            **options,
        },
    )


def ask(client: EodhdClient, question: Callable[[EodhdClient], Awaitable[T]]) -> T:
    async def asked() -> T:
        async with client:
            return await question(client)

    return asyncio.run(asked())


def ask_bars(client: EodhdClient) -> Any:
    return ask(client, lambda each: each.bars("AAPL", "US", date(2012, 11, 19), WEDNESDAY))


def failure(client: EodhdClient) -> EodhdError:
    with pytest.raises(EodhdError) as caught:
        ask_bars(client)
    return caught.value


def test_every_question_asks_for_json_because_csv_is_what_comes_otherwise(
    server: Imitation,
) -> None:
    client = make_client(server)
    assert [bar.day.day for bar in ask_bars(client)] == [19, 20, 21]
    assert server.asked[0].path == "eod/AAPL.US"
    assert server.asked[0].parameters == {
        "api_token": TOKEN,
        "fmt": "json",
        "from": "2012-11-19",
        "to": "2012-11-21",
        "period": "d",
        "order": "a",
    }


def test_csv_that_comes_all_the_same_is_read(server: Imitation) -> None:
    json_bars = ask_bars(make_client(server))
    server.always_csv = server.footer = True
    assert ask_bars(make_client(server)) == json_bars


def test_a_range_without_bars_is_empty(server: Imitation) -> None:
    day = date(2012, 11, 18)
    assert ask(make_client(server), lambda each: each.bars("AAPL", "US", day, day)) == ()


def test_a_bar_appears_with_the_lag_of_its_exchange(server: Imitation) -> None:
    client = make_client(server)
    seen = {}
    for minute in (0, 14, 16):
        server.now = datetime(2012, 11, 21, 21, minute, tzinfo=UTC)
        seen[minute] = ask(client, lambda each: each.last_date("AAPL", "US")).day
    assert seen == {0: 20, 14: 20, 16: 21}
    server.now = datetime(2012, 11, 21, 19, 0, tzinfo=UTC)
    assert ask(client, lambda each: each.last_date("VOD", "LSE")).day == 20
    server.now = datetime(2012, 11, 21, 19, 45, tzinfo=UTC)
    assert ask(client, lambda each: each.last_date("VOD", "LSE")).day == 21


@pytest.mark.parametrize("encoding", ["object", "array"])
@pytest.mark.parametrize("field", ["EarlyClose", "CloseTime"])
def test_holidays_of_the_first_version_in_all_encodings(
    server: Imitation, encoding: str, field: str
) -> None:
    server.holidays_as, server.early_close_as = encoding, field
    details = ask(make_client(server), lambda each: each.exchange_details("US"))
    found = {holiday.day: (holiday.kind, holiday.close) for holiday in details.holidays}
    assert found[date(2012, 11, 22)] == (HolidayKind.CLOSED, None)
    assert found[date(2012, 11, 23)] == (HolidayKind.EARLY_CLOSE, time_of_day(13))
    assert found[date(2012, 10, 8)] == (HolidayKind.BANK, None)
    first, last = date(2012, 6, 1), date(2013, 5, 1)
    assert find_differences("XNYS", details.holidays, first, last) == ()


@pytest.mark.parametrize("encoding", ["empty_object", "empty_array"])
def test_no_holidays_in_either_encoding(server: Imitation, encoding: str) -> None:
    server.holidays_as = encoding
    details = ask(make_client(server), lambda each: each.exchange_details("US"))
    assert details.holidays == ()


def test_half_days_that_are_left_out_propose_nothing(server: Imitation) -> None:
    server.half_days = False
    details = ask(make_client(server), lambda each: each.exchange_details("US"))
    assert find_differences("XNYS", details.holidays, date(2012, 11, 1), date(2012, 12, 1)) == ()


@pytest.mark.parametrize(
    ("code", "mic"),
    [("US", "XNYS"), ("lse", "XLON"), ("XPAR", "XPAR"), ("XTKS", "XTKS"), ("XHKG", "XHKG")],
)
def test_the_second_version_agrees_with_our_calendars(
    server: Imitation, code: str, mic: str
) -> None:
    details = ask(make_client(server), lambda each: each.exchange_details_2(code))
    assert details.holidays
    first, last = date(2012, 1, 1), date(2012, 12, 31)
    assert find_differences(mic, details.holidays, first, last) == ()


def test_a_closure_that_shows_up_between_two_polls_is_a_difference(server: Imitation) -> None:
    client = make_client(server)
    year = (date(2012, 1, 1), date(2012, 12, 31))
    before = ask(client, lambda each: each.exchange_details_2("US"))
    server.extra_closures["US", date(2012, 12, 5)] = "Storm"
    after = ask(client, lambda each: each.exchange_details_2("US"))
    assert find_differences("XNYS", before.holidays, *year) == ()
    [found] = find_differences("XNYS", after.holidays, *year)
    assert (found.day, found.proposed, found.in_force) == (date(2012, 12, 5), "closed", "open")


def test_updated_tickers_rise_from_nothing_after_the_close(server: Imitation) -> None:
    client = make_client(server)
    seen = []
    for hour, minute in ((21, 0), (21, 45), (22, 30)):
        server.now = datetime(2012, 11, 21, hour, minute, tzinfo=UTC)
        seen.append(ask(client, lambda each: each.exchange_details("US")).updated_tickers)
    assert seen == [0, 24_000, 48_000]


def test_what_the_other_questions_answer(server: Imitation) -> None:
    client = make_client(server)
    assert "XTKS" in ask(client, lambda each: each.exchange_codes_2())
    assert ask(client, lambda each: each.exchanges()) == {"US", "LSE", "PA", "INDX"}
    [split] = ask(client, lambda each: each.splits("MSFT", "US"))
    assert split.ratio == 2.0
    [bulk] = ask(client, lambda each: each.bulk_bars("US", WEDNESDAY, ["IBM"]))
    assert (bulk.code, bulk.bar.day) == ("IBM", WEDNESDAY)
    assert ask(client, lambda each: each.bulk_splits("US"))[0].ratio == 0.05
    assert ask(client, lambda each: each.bulk_dividends("US"))[0].currency == "USD"
    server.always_csv = server.footer = True
    assert ask(client, lambda each: each.bulk_bars("US", WEDNESDAY, ["IBM"])) == (bulk,)


def test_calls_are_counted_at_their_price(server: Imitation) -> None:
    client = make_client(server)
    for question, price in (
        (lambda each: each.bars("AAPL", "US"), 1),
        (lambda each: each.exchange_details("US"), 5),
        (lambda each: each.exchange_details_2("US"), 5),
        (lambda each: each.bulk_bars("US", WEDNESDAY, ["IBM", "AAPL"]), 102),
        (lambda each: each.bulk_splits("US"), 100),
        (lambda each: each.account(), 0),
    ):
        before = server.counted
        ask(client, question)
        assert server.counted - before == price
    with pytest.raises(NotFoundError):
        ask(client, lambda each: each.bars("NONE", "US"))
    account = ask(client, lambda each: each.account())
    assert (account.requests, account.requests_on, account.daily_limit) == (214, WEDNESDAY, 100_000)
    server.now += timedelta(days=1)
    assert ask(client, lambda each: each.account()).requests == 214, "until the first call"
    ask_bars(client)
    assert ask(client, lambda each: each.account()).requests == 1


@pytest.mark.parametrize(
    ("form", "least", "most"), [("seconds", 30, 33), ("date", 30, 33), (None, 60, 63)]
)
def test_too_many_requests_wait_for_as_long_as_the_server_says(
    server: Imitation, form: str | None, least: float, most: float
) -> None:
    server.now = server.now.replace(second=30)
    server.per_minute, server.retry_after = 1, form
    waits = Waits()
    client = make_client(server)
    ask_bars(client)

    async def a_minute_later(seconds: float) -> None:
        waits.append(seconds)
        server.now += timedelta(seconds=seconds)

    patient = make_client(server, sleep=a_minute_later)
    assert len(ask_bars(patient)) == 3
    assert least <= waits[0] <= most
    assert len(server.asked) == 3


@pytest.mark.parametrize("asked_for", ["121", "86400", "999999999"])
def test_a_server_that_wants_to_rest_for_long_is_left_alone(
    server: Imitation, asked_for: str
) -> None:
    server.answers.append(Answer(429, b"Too many requests", (("Retry-After", asked_for),)))
    waits = Waits()
    error = failure(make_client(server, waits))
    assert isinstance(error, TooManyRequestsError)
    assert error.retry_after == timedelta(seconds=int(asked_for))
    assert "too many requests (429); it wants to be left alone for" in str(error)
    assert (len(server.asked), waits) == (1, [])


def test_a_server_that_wants_a_short_rest_every_time_is_left_alone(server: Imitation) -> None:
    server.answers.extend([Answer(429, b"")] * ATTEMPTS)
    error = failure(make_client(server))
    assert isinstance(error, TooManyRequestsError)
    assert "too many requests (429), 4 times; it wants to be left" in str(error)


@pytest.mark.parametrize(
    "value", ["-5", "soon", "", "1e9", "Wed, 99 Nov 2012 23:00:00 GMT", "9" * 400, "Ünd"]
)
def test_a_retry_after_that_can_not_be_read_is_a_minute(server: Imitation, value: str) -> None:
    headers = (("Retry-After", value.encode().decode("latin-1")),)
    server.answers.append(Answer(429, b"", headers))
    waits = Waits()
    assert len(ask_bars(make_client(server, waits))) == 3
    assert 60 <= waits[0] <= 63


@pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504, 599])
def test_a_server_out_of_order_is_asked_again_with_growing_jittered_pauses(
    server: Imitation, status: int
) -> None:
    server.answers.extend([Answer(status, ECHO)] * ATTEMPTS)
    waits = Waits()
    error = failure(make_client(server, waits))
    assert isinstance(error, UnreachableError)
    assert f"the server is out of order ({status}), 4 times" in str(error)
    assert len(server.asked) == ATTEMPTS
    bounds = [(0.5, 1.0), (1.0, 2.0), (2.0, 4.0)]
    assert all(low <= wait <= high for wait, (low, high) in zip(waits, bounds, strict=True))
    assert waits != [round(wait, 1) for wait in waits]


def test_one_failure_in_between_costs_only_time(server: Imitation) -> None:
    server.answers.append(Answer(503))
    assert len(ask_bars(make_client(server))) == 3


def test_the_daily_maintenance_is_named(server: Imitation) -> None:
    server.now = datetime(2012, 11, 22, 5, 45, tzinfo=UTC)
    assert "daily maintenance is from 05:30 to 06:00 GMT" in str(failure(make_client(server)))
    server.now = datetime(2012, 11, 22, 6, 0, tzinfo=UTC)
    assert len(ask_bars(make_client(server))) == 3


REFUSALS: list[tuple[int, type[EodhdError], bool]] = [
    (400, BadQuestionError, False),
    (401, AccessRefusedError, False),
    (402, QuotaSpentError, True),
    (403, AccessRefusedError, False),
    (404, NotFoundError, False),
    (410, BadQuestionError, False),
    (418, BadQuestionError, False),
    (422, BadQuestionError, False),
    (204, BadQuestionError, False),
    (301, BadQuestionError, False),
    (302, BadQuestionError, False),
]


@pytest.mark.parametrize(("status", "kind", "retryable"), REFUSALS)
def test_a_refusal_is_never_asked_again(
    server: Imitation, status: int, kind: type[EodhdError], retryable: bool
) -> None:
    headers = (("Location", f"{server.url}/other?api_token={TOKEN}"),) if status < 400 else ()
    server.answers.append(Answer(status, b"" if status == 204 else ECHO, headers))
    waits = Waits()
    error = failure(make_client(server, waits))
    assert type(error) is kind
    assert error.retryable is retryable
    assert error.question == "eod/AAPL.US"
    assert (len(server.asked), waits) == (1, [])


@pytest.mark.parametrize("with_status", [401, 403])
def test_a_wrong_token_is_told_from_a_plan_that_is_too_small(
    server: Imitation, with_status: int
) -> None:
    server.token, server.refuse_token_with = "another", with_status
    error = failure(make_client(server))
    assert isinstance(error, AccessRefusedError)
    assert not error.of_plan
    assert "the token was refused" in str(error)
    server.token, server.free_plan = TOKEN, True
    with pytest.raises(AccessRefusedError, match="the plan of this token does not include") as told:
        ask(make_client(server), lambda each: each.bulk_bars("US"))
    assert told.value.of_plan


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"error": "Forbidden", "code": 403}, AccessRefusedError),
        ({"code": 402, "errorMessage": "limit"}, QuotaSpentError),
        ({"code": 404, "message": "none"}, NotFoundError),
        ({"error": "Forbidden", "code": "403"}, UnreadableReplyError),
        ({"error": "Forbidden"}, UnreadableReplyError),
        ({"code": 403}, UnreadableReplyError),
    ],
)
def test_an_error_that_comes_as_an_answer(
    server: Imitation, document: dict[str, Any], kind: type[EodhdError]
) -> None:
    server.answers.append(Answer(200, json.dumps(document).encode()))
    assert type(failure(make_client(server))) is kind


def test_a_spent_quota_parks_the_source_until_midnight(
    server: Imitation, caplog: pytest.LogCaptureFixture
) -> None:
    server.daily_limit = 1
    client = make_client(server)
    ask_bars(client)
    midnight = datetime(2012, 11, 22, tzinfo=UTC)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            error = failure(client)
            assert isinstance(error, QuotaSpentError)
            assert error.until == midnight
            assert "The count begins anew at 2012-11-22 00:00 GMT" in str(error)
    assert len(server.asked) == 2, "one that was answered, one that was refused"
    parked = [record for record in caplog.records if record.message == "eodhd_parked"]
    assert [vars(record)["until"] for record in parked] == [midnight.isoformat()]
    assert client.parked_until == midnight
    server.now = midnight - timedelta(seconds=1)
    failure(client)
    assert len(server.asked) == 2
    server.now = midnight
    assert client.parked_until is None
    ask_bars(client)


def test_no_more_is_sent_in_a_minute_than_is_allowed(server: Imitation) -> None:
    waits = Waits()
    client = make_client(server, waits, requests_per_minute=3)
    for _ in range(5):
        ask_bars(client)
    assert len(waits) == 2
    assert all(55 < wait <= 60 for wait in waits)


def test_a_lower_limit_of_the_server_is_heeded(server: Imitation) -> None:
    server.answers.extend([Answer(200, b"[]", (("X-RateLimit-Limit", "2"),))] * 3)
    waits = Waits()
    client = make_client(server, waits)
    for _ in range(3):
        ask_bars(client)
    assert len(waits) == 1


def test_a_lower_limit_of_the_server_holds_for_a_minute(
    server: Imitation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so again with each reply, as long as it means it."""
    server.answers.append(Answer(200, b"[]", (("X-RateLimit-Limit", "1"),)))
    waits = Waits()
    client = make_client(server, waits)
    ask_bars(client)
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 61)
    for _ in range(3):
        ask_bars(client)
    assert waits == []


def test_a_limit_that_no_job_could_keep_to_is_told(server: Imitation) -> None:
    server.answers.extend([Answer(200, b"[]", (("X-RateLimit-Limit", "1"),))] * 5)
    client = make_client(server)
    for _ in range(3):
        ask_bars(client)
    error = failure(client)
    assert isinstance(error, TooManyRequestsError)
    assert "it allows 1 of our requests a minute at present; it wants to be" in str(error)
    assert timedelta(minutes=2) < error.retry_after <= timedelta(minutes=3)
    assert len(server.asked) == 3


def test_a_used_up_minute_is_waited_for(server: Imitation) -> None:
    server.answers.append(Answer(200, b"[]", (("X-RateLimit-Remaining", "0"),)))
    waits = Waits()
    client = make_client(server, waits)
    ask_bars(client)
    ask_bars(client)
    assert len(waits) == 1
    assert 55 < waits[0] <= 60


@pytest.mark.parametrize(
    "slow",
    [
        Answer(200, b"[]", hold_seconds=2),
        Answer(200, b" " * 1000, drip_seconds=0.02),
        Answer(drip_head_seconds=0.02),
    ],
    ids=["silent", "body", "head"],
)
def test_a_slow_answer_is_given_up_in_time(server: Imitation, slow: Answer) -> None:
    """However it is slow: also where every single byte comes soon after the one before."""
    server.answers.extend([slow] * ATTEMPTS)
    began = time.monotonic()
    error = failure(make_client(server, deadline=timedelta(seconds=0.1)))
    assert isinstance(error, UnreachableError)
    assert "no whole answer within 0.1 s, 4 times" in str(error)
    assert time.monotonic() - began < 2.0


def test_a_server_that_is_not_there(server: Imitation) -> None:
    error = failure(make_client(server, url=f"http://127.0.0.1:{free_port()}/api"))
    assert isinstance(error, UnreachableError)
    assert "no connection" in str(error)
    assert str(error).endswith("Check the network and [eodhd] url."), "of jobs it knows nothing"


@pytest.mark.parametrize(
    ("proxy", "url", "said"),
    [
        ("127.0.0.1:3128", "https://eodhd.com/api", "http://host:port was wanted"),
        ("socks5://me:hunter2@127.0.0.1:1080", "https://eodhd.com/api", "that HTTPS_PROXY names"),
        ("ftp://me:hunter2@127.0.0.1", "https://eodhd.com/api", "Or name the feed's host in NO_PR"),
        ("", "https://eodhd.com\x07/api", "[eodhd] url can not be read: https://host/api was"),
    ],
)
def test_an_address_that_can_not_be_used_is_no_crash(
    proxy: str, url: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(SourceConfigurationError) as caught:
        ask_bars(EodhdClient(SecretStr(TOKEN), url=url))
    assert said in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in shown
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "broken",
    [
        Answer(200, b'[{"date": "2012-11-21"', cut_after=5),
        Answer(raw=b""),
        Answer(raw=b"HTTP/1.1 2"),
        Answer(raw=b"\x16\x03\x01 no HTTP"),
        Answer(raw=ECHO + b"\r\n\r\n"),
        Answer(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n[]"),
        Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n[]"),
        Answer(raw=b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000),
    ],
)
def test_a_broken_connection_is_tried_again(server: Imitation, broken: Answer) -> None:
    server.answers.append(broken)
    assert len(ask_bars(make_client(server))) == 3
    assert len(server.asked) == 2
    server.answers.extend([broken] * ATTEMPTS)
    assert isinstance(failure(make_client(server)), UnreachableError)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b'[{"date": "2012-11-21", "open": 1'),
        Answer(200, b"<html><body>Just a moment</body></html>"),
        Answer(200, b""),
        Answer(200, b"null"),
        Answer(200, b"\xff\xfe"),
        Answer(200, b"[1e400]"),
        Answer(200, b"[" * 50_000),
        Answer(200, b"no gzip", (("Content-Encoding", "gzip"),)),
        Answer(200, gzip.compress(b"[]" * 1000)[:-20], (("Content-Encoding", "gzip"),)),
        Answer(200, gzip.compress(gzip.compress(b"[]")), (("Content-Encoding", "gzip, gzip"),)),
        Answer(200, b"[]", (("Content-Encoding", "br"),)),
        Answer(200, ECHO),
    ],
)
def test_half_an_answer_is_none(server: Imitation, answer: Answer) -> None:
    server.answers.append(answer)
    error = failure(make_client(server))
    assert isinstance(error, UnreadableReplyError)
    assert error.retryable
    assert len(server.asked) == 1


def test_a_packed_answer_is_unpacked(server: Imitation) -> None:
    headers = (("Content-Encoding", "gzip"),)
    server.answers.append(Answer(200, gzip.compress(b"[]"), headers))
    assert ask_bars(make_client(server)) == ()


def test_an_answer_without_end_is_cut_off(
    server: Imitation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MOST_BYTES", 2 * 1024 * 1024)
    bomb = gzip.compress(b" " * (16 * 1024 * 1024))
    for answer in (
        Answer(200, b" " * (3 * 1024 * 1024)),
        Answer(200, bomb, (("Content-Encoding", "gzip"),)),
    ):
        server.answers.append(answer)
        assert "more than 2 MB came" in str(failure(make_client(server)))


ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in TOKEN)


@pytest.mark.parametrize(
    "answer",
    [
        *(Answer(status, ECHO) for status in (200, 400, 401, 402, 403, 404, 422, 429, 500, 503)),
        *(Answer(status, f'{{"x": "{ESCAPED}"}}'.encode()) for status in (200, 403)),
        Answer(200, json.dumps([{TOKEN: TOKEN, "date": TOKEN}]).encode()),
        Answer(200, f'[{{"date": "{ESCAPED}", "{ESCAPED}": 1}}]'.encode()),
        Answer(302, b"", (("Location", f"https://x/?api_token={TOKEN}"),)),
        Answer(302, b"", (("Location", f"http://[{TOKEN}"),)),
        Answer(200, b"[", reason=f"/api?api_token={TOKEN}"),
        Answer(500, b"", reason=f"/api?api_token={TOKEN}"),
        Answer(429, b"", (("Retry-After", TOKEN),)),
        Answer(raw=b"HTTP/1.1 200 OK\r\n" + TOKEN.encode() + b"\r\n\r\n"),
        Answer(raw=TOKEN.encode()),
        Answer(200, b"[]", (("Set-Cookie", f"a={TOKEN}; path=/"), ("Content-Encoding", TOKEN))),
    ],
)
def test_the_token_is_nowhere_to_be_read(
    server: Imitation, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the server repeats: in no error, no traceback and no line of a log."""
    server.answers.extend([answer] * ATTEMPTS)
    client = make_client(server)
    shown = [repr(client), str(vars(client))]
    if "httpcore" in QUIET:
        caplog.set_level(logging.WARNING, logger="httpcore")
    with caplog.at_level(logging.DEBUG):
        error = None
        try:
            shown.append(repr(ask_bars(client)))
        except EodhdError as caught:
            error = caught
    if error is not None:
        assert (error.__cause__, error.__context__) == (None, None)
        shown += [repr(error), str(error), str(error.args), repr(vars(error))]
        shown += traceback.format_exception(error)
    shown += [f"{record.getMessage()} {vars(record)}" for record in caplog.records]
    assert any("HTTP Request: GET" in line for line in shown) or answer.raw is not None
    assert not [line for line in shown if TOKEN in line]


def test_the_token_in_a_name_is_not_taken_in(server: Imitation) -> None:
    holidays = {"2012-12-05": {"Holiday": f"x {TOKEN}", "Type": "Official"}}
    data = {
        "Name": TOKEN,
        "Code": "US",
        "Timezone": "America/New_York",
        "TradingHours": {"Open": "09:30", "Close": "16:00", "WorkingDays": "Mon"},
        "ExchangeHolidays": holidays,
    }
    plain = json.dumps({"data": data})
    for body in (plain, plain.replace(TOKEN, ESCAPED)):
        server.answers.append(Answer(200, body.encode()))
        details = ask(make_client(server), lambda each: each.exchange_details_2("US"))
        assert (details.name, details.holidays[0].name) == ("***", "x ***")


def test_the_public_token_is_no_secret(server: Imitation) -> None:
    """It is a part of ordinary words, which must stay what they are."""
    holidays = {"2012-12-05": {"Holiday": "Day of democracy", "Type": "Official"}}
    data = {
        "Name": "x",
        "Code": "US",
        "Timezone": "UTC",
        "TradingHours": {"Open": "09:30", "Close": "16:00", "WorkingDays": "Mon"},
        "ExchangeHolidays": holidays,
    }
    server.answers.append(Answer(200, json.dumps({"data": data}).encode()))
    client = EodhdClient(SecretStr("demo"), url=server.url, now=lambda: server.now)
    details = ask(client, lambda each: each.exchange_details_2("US"))
    assert details.holidays[0].name == "Day of democracy"
    with pytest.raises(AccessRefusedError):
        ask(client, lambda each: each.bars("IBM", "US"))


def test_names_can_not_leave_their_place_in_the_url(server: Imitation) -> None:
    with pytest.raises(NotFoundError):
        ask(make_client(server), lambda each: each.bars("../user?x=", "US"))
    assert server.asked[0].path.startswith("eod/..%2Fuser%3Fx%3D.US")
