"""
Wrong replies by the thousand: what the client makes of them, and what a job stores.

Each question is put to a client whose replies are good ones that were damaged, or never were any:
cut, bent, of another question, packed, without end, with the token in every place. Whatever comes,
the client must return a whole typed value or raise one of its own errors, in time, without the
token; and `ingest_prices` must store all of a delivery or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import csv
import gzip
import io
import json
import logging
import random
import shutil
import tempfile
import time
import traceback
import zlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from prometheus.errors import PrometheusError
from prometheus.log_lines import QUIET
from prometheus.persistence.engine import create_engine
from prometheus.pipelines.equities.prices import ingest_prices
from prometheus.sources.eodhd import replies
from prometheus.sources.eodhd.client import EodhdClient
from prometheus.sources.eodhd.errors import EodhdError
from prometheus.sources.eodhd.naming import EodhdFeed
from prometheus.sources.eodhd.prices import EodhdPrices
from prometheus.sources.protocol import Sources
from prometheus.sources.registry import build_sources
from prometheus.sources.sessions import members
from tests.eodhd.server import TOKEN, Answer, Imitation
from tests.integration.pipelines.runs import (
    ListedSources,
    context,
    create_tables,
    everything,
)

NOW = datetime(2012, 11, 21, 23, tzinfo=UTC)
DAY = date(2012, 11, 21)
DEADLINE = timedelta(seconds=0.05)
LONGEST_SECONDS = 60.0
"""For one question: it takes milliseconds, on a busy machine seconds, and in a hang for ever."""
OVER_HTTP = 20
"""Every so many questions go over a real connection."""
INTO_TABLES = 150
"""Every so many questions are those of a job that stores."""
SYMBOLS = ("XNAS:AAPL", "XNAS:MSFT", "XNYS:IBM")

Question = tuple[str, dict[str, str], Callable[[EodhdClient], Awaitable[Any]]]

QUESTIONS: tuple[Question, ...] = (
    (
        "eod/AAPL.US",
        {"from": "2012-10-01", "to": "2012-11-21"},
        lambda each: each.bars("AAPL", "US", date(2012, 10, 1), DAY),
    ),
    ("eod/AAPL.US", {"filter": "last_date"}, lambda each: each.last_date("AAPL", "US")),
    ("splits/AAPL.US", {}, lambda each: each.splits("AAPL", "US")),
    (
        "eod-bulk-last-day/US",
        {"type": "eod", "filter": "extended"},
        lambda each: each.bulk_bars("US", None, ["AAPL", "IBM"]),
    ),
    ("eod-bulk-last-day/US", {"type": "splits"}, lambda each: each.bulk_splits("US")),
    ("eod-bulk-last-day/US", {"type": "dividends"}, lambda each: each.bulk_dividends("US")),
    ("exchanges-list", {}, lambda each: each.exchanges()),
    ("exchange-details/US", {}, lambda each: each.exchange_details("US")),
    ("v2/exchange-details", {}, lambda each: each.exchange_codes_2()),
    ("v2/exchange-details/US", {}, lambda each: each.exchange_details_2("US")),
    ("user", {}, lambda each: each.account()),
)

JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, -0.0, 1e308, 10**40, 10**400, float("nan"), float("inf")),
    *("", " ", "x", "x" * 10_000, "None", "nan", "1e999", "1_000", "٣", "\ud800", "\x00", TOKEN),
    *("2012-11-21", "2012-02-30", "0000-00-00", "9999-12-31", "20121121", "13:00", "25:00"),
    *("US/Eastern", "../../etc/passwd", "1/0", "0/1", "1e300/1e-300", "Official", "EarlyClose"),
    *([], {}, [[]], [None], {"0": None}, {"data": []}, {TOKEN: TOKEN}, {"code": 402}, [[[[1]]]]),
)

ERRORS: tuple[bytes, ...] = (
    b"",
    b"Ticker Not Found.",
    b"You exceeded your daily API requests limit. Please contact support.",
    b"Only EOD data allowed for free users. Please, contact our support team",
    b"<!DOCTYPE html><html><body>Just a moment...</body></html>",
    b"<html><body><h1>502 Bad Gateway</h1></body></html>",
    f"Unauthenticated: /api/eod/AAPL.US?api_token={TOKEN}&fmt=json".encode(),
    b'{"error": "Forbidden", "code": 403}',
    b'{"code": 429, "errorMessage": "slow down"}',
    b'{"code": 402, "message": "limit"}',
    b'{"code": 1e3, "message": "x"}',
    b'{"message": "The from is not a valid date."}',
)

LARGE = b"[%s0]" % (b"0," * 1_000_000)
"""Has a million faults."""

RETRY_AFTER: tuple[str, ...] = (
    *("", "0", "1", "60", "-3", "1e5", "9" * 30, "x", TOKEN),
    "Wed, 21 Nov 2012 23:00:20 GMT",
    "Wed, 21 Nov 9999 23:00:20 GMT",
    "Wed, 99 Foo 2012 99:99:99 +9999",
)


@dataclass
class Report:
    """What came of it."""

    replies: int = 0
    questions: int = 0
    jobs: int = 0
    stored: int = 0
    """Jobs that stored a delivery, whole."""
    over_http: int = 0
    longest_seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)


class BrokenPromiseError(AssertionError):
    """The client or the job did what it must not; the message has the seed that repeats it."""


class _Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.getMessage()} {vars(record)}")


class _Body(httpx.AsyncByteStream):
    def __init__(self, body: bytes, fails: Exception | None, *, hangs: bool) -> None:
        self._body = body
        self._fails = fails
        self._hangs = hangs

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), 65_536):
            yield self._body[start : start + 65_536]
        if self._hangs:
            await asyncio.Event().wait()
        if self._fails is not None:
            raise self._fails


class _Transport(httpx.AsyncBaseTransport):
    """Hands out one answer after the other, without a network."""

    def __init__(self, answers: Iterator[tuple[Answer, Exception | None]], report: Report) -> None:
        self._answers = answers
        self._report = report

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert TOKEN in str(request.url)
        self._report.replies += 1
        answer, fails = next(self._answers)
        if fails is not None and not answer.body:
            raise fails
        hangs = answer.hold_seconds > 0
        if hangs and not answer.body:
            await asyncio.Event().wait()
        return httpx.Response(
            answer.status,
            headers=[(name.encode(), value.encode("latin-1")) for name, value in answer.headers],
            stream=_Body(answer.body, fails, hangs=hangs),
            extensions={"reason_phrase": (answer.reason or "").encode("latin-1")},
        )


def good_replies(*, always_csv: bool = False) -> dict[int, bytes]:
    """Make one whole reply to each question."""
    imitation = Imitation(NOW, always_csv=always_csv)
    return {
        number: imitation.answer(path, {"api_token": TOKEN, "fmt": "json", **parameters}).body
        for number, (path, parameters, _) in enumerate(QUESTIONS)
    }


def _is_csv(body: bytes) -> bool:
    return body[:5] in (b"Date,", b"Code,")


def _junk(rng: random.Random) -> Any:
    # A copy: a later change of the document must not change what the next one is given.
    return copy.deepcopy(rng.choice(JUNK))


def _bent(rng: random.Random, document: Any) -> Any:
    """Replace, remove or add one thing somewhere in a document."""
    places: list[tuple[Any, Any]] = []
    heap = [document]
    while heap:
        each = heap.pop()
        keys = list(each) if isinstance(each, dict) else list(range(len(each)))
        places += [(each, key) for key in keys]
        heap += [each[key] for key in keys if isinstance(each[key], dict | list)]
    if not places:
        return _junk(rng)
    holder, key = rng.choice(places)
    match rng.randrange(4):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(("", "new", TOKEN, "date", "code", "\x00"))] = _junk(rng)
        case 2 if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]) if rng.random() < 0.1 else _junk(rng))
        case _:
            holder[key] = _junk(rng)
    return document


def _damaged(rng: random.Random, good: bytes, others: dict[int, bytes]) -> tuple[bytes, bool]:
    """Return a body, and whether it is a document that was cut short."""
    is_csv = _is_csv(good)
    kind = rng.randrange(12)
    if kind <= 1:
        return good, False
    if kind == 2:
        at = rng.randrange(max(1, len(good)))
        # Where a CSV is cut between two lines, nobody can tell.
        is_cut = good[at - 1 : at] != b"\n" if is_csv else good[:1] in (b"[", b"{")
        return good[:at], is_cut and len(good) > 2
    if kind <= 4 or (kind <= 7 and is_csv):
        body = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(body) + 1)
            body[at : at + rng.randrange(3)] = rng.choice(
                (b"", b"\x00", b"\xff", b'"', b"{", b"]", b",", b"\\", b"\\u0041", rng.randbytes(2))
            )
        return bytes(body), False
    if kind <= 7:
        document = json.loads(good)
        if isinstance(document, dict | list):
            for _ in range(rng.choice((1, 1, 1, 3))):
                if isinstance(document, dict | list):
                    document = _bent(rng, document)
        else:
            document = _junk(rng)
        text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
        return text.encode("utf-8", "surrogatepass"), False
    if kind == 8:
        return rng.choice((*others.values(), *ERRORS)), False
    if kind == 9:
        at = rng.randrange(len(good) + 1)
        folded = "".join(f"\\u{ord(letter):04X}" for letter in TOKEN)
        return good[:at] + rng.choice((TOKEN, folded)).encode() + good[at:], False
    if kind == 10:
        depth = rng.choice((10, 500, 5_000, 100_000))
        opening = rng.choice((b"[", b'{"a":', b'[{"date":'))
        return opening * depth + rng.choice((b"", b"]" * depth)), False
    if rng.random() < 0.1:
        return LARGE, False
    text = good.decode()
    return rng.choice(
        (
            rng.randbytes(rng.randrange(200)),
            text.encode("utf-16"),
            b"\xef\xbb\xbf" + good,
            b"Date,Open,High,Low,Close,Adjusted_close,Volume\n" + rng.randbytes(50),
            b"Date,Open,High,Low,Close,Adjusted_close,Volume\n2012-11-21,1,2,1,1.5,1.5,9\n12\n",
            b'Code,Ex,Date\n"2012-11-21,1\n',
            b" " * rng.choice((1, 100_000)) + good,
        )
    ), False


def wrong_answer(
    rng: random.Random, good: bytes, others: dict[int, bytes]
) -> tuple[Answer, Exception | None, bool]:
    """Make an answer; say whether it is a document that was cut short and nothing else."""
    body, is_cut = _damaged(rng, good, others)
    status = rng.choice(
        (*[200] * 14, 201, 204, 301, 302, 400, 401, 402, 403, 404, 418, 422, 429, 429, 500, 502)
    )
    headers: list[tuple[str, str]] = []
    if status == 429 or rng.random() < 0.02:
        value = rng.choice(RETRY_AFTER)
        headers.append(("Retry-After", value))
    if rng.random() < 0.05:
        name = rng.choice(("X-RateLimit-Limit", "X-RateLimit-Remaining"))
        headers.append((name, rng.choice(("1000", "0", "-1", "", "many", "9" * 40, TOKEN))))
    if status in (301, 302):
        headers.append(("Location", rng.choice(("/x", "", "http://[", f"//x/?t={TOKEN}", "a:b"))))
    if rng.random() < 0.03:
        headers.append(("Set-Cookie", rng.choice((f"a={TOKEN}", "=;;=", "a=b; expires=never"))))
    if rng.random() < 0.04:
        packed = rng.choice((gzip.compress(body), zlib.compress(body), body))
        if rng.random() < 0.3:
            packed = packed[: rng.randrange(len(packed) + 1)]
            is_cut = False
        body = packed
        headers.append(("Content-Encoding", rng.choice(("gzip", "deflate", "gzip, gzip", "zz"))))
        is_cut = False
    fails: Exception | None = None
    if rng.random() < 0.03:
        kinds = (httpx.ConnectError, httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError)
        fails = rng.choice(kinds)(f"while asking https://x/?api_token={TOKEN}")
        body = rng.choice((b"", body))
    hold = 1.0 if rng.random() < 0.0005 else 0.0
    answer = Answer(status, body, tuple(headers), reason=TOKEN, hold_seconds=hold)
    return answer, fails, is_cut and status == 200 and fails is None and not hold


def _whole(value: Any) -> bool:
    """Say whether every part of a result is of the type that it should be."""
    match value:
        case replies.DailyBar():
            return type(value.day) is date and all(type(each) is float for each in value[1:])
        case replies.BulkBar(code, bar):
            return type(code) is str and _whole(bar)
        case replies.SplitRow(day, ratio) | replies.BulkSplit(_, day, ratio):
            return type(day) is date and 0.0 < ratio < float("inf")
        case replies.BulkDividend():
            return type(value.day) is date and type(value.value) is float
        case replies.Account():
            return value.requests >= 0 and value.daily_limit >= 0
        case replies.ExchangeDetails():
            days = [holiday.day for holiday in value.holidays]
            return bool(value.hours.weekdays) and days == sorted(days)
        case tuple() | frozenset():
            return all(_whole(each) for each in value)
    return isinstance(value, str | date)


def _check_texts(where: str, texts: list[str]) -> None:
    for text in texts:
        if TOKEN in text:
            raise BrokenPromiseError(f"{where}: the token is in {text[:2000]!r}")


def _check_error(where: str, error: BaseException) -> None:
    if error.__cause__ is not None or error.__context__ is not None:
        raise BrokenPromiseError(f"{where}: {error!r} carries {error.__context__!r}")
    texts = [repr(error), str(error), str(error.args), repr(vars(error))]
    _check_texts(where, texts + traceback.format_exception(error))


async def _no_time(seconds: float) -> None:
    if not 0.0 <= seconds <= 200.0:
        raise BrokenPromiseError(f"a wait of {seconds} seconds")


class Fuzz:
    """One series of questions, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.report = Report()
        self._number = 0
        self._good = good_replies()
        tables = good_replies(always_csv=True)
        self._csv = self._good | {key: body for key, body in tables.items() if _is_csv(body)}
        self._lines = _Lines()

    def run(self, replies_wanted: int) -> Report:
        """
        Put questions until so many replies have come; goes on where it stood.

        Raises:
            BrokenPromiseError: With the number of the question, which `ask` repeats.
        """
        root = logging.getLogger()
        level = root.level
        root.addHandler(self._lines)
        root.setLevel(logging.DEBUG)
        core = logging.getLogger("httpcore")
        if core.name in QUIET:
            core.setLevel(logging.WARNING)
        try:
            with Imitation(NOW) as server, _Tables(self) as tables, asyncio.Runner() as runner:
                # One loop for all questions; to make one takes longer than to answer.
                self._runner = runner
                while self.report.replies < replies_wanted:
                    if self._number % INTO_TABLES == INTO_TABLES - 1:
                        tables.ingest(self._number)
                    else:
                        self.ask(self._number, server)
                    self._number += 1
        finally:
            root.removeHandler(self._lines)
            root.setLevel(level)
            core.setLevel(logging.NOTSET)
        return self.report

    def answers(
        self, rng: random.Random, good: bytes, cut: list[bool]
    ) -> Iterator[tuple[Answer, Exception | None]]:
        """Give wrong answers to one question without end, or one and the same."""
        stubborn = rng.random() < 0.2
        answer, fails, cut[0] = wrong_answer(rng, good, self._good)
        while True:
            yield answer, fails
            if not stubborn:
                answer, fails, cut[0] = wrong_answer(rng, good, self._good)

    def ask(self, number: int, server: Imitation) -> None:
        """Put one question, and look at what comes of it."""
        where = f"seed {self.seed}, question {number}"
        rng = random.Random(f"{self.seed}/{number}")
        which = rng.randrange(len(QUESTIONS))
        cut = [False]
        good = self._csv if rng.random() < 0.2 else self._good
        answers = self.answers(rng, good[which], cut)
        over_http = number % OVER_HTTP == OVER_HTTP - 1
        if over_http:
            self._arm(rng, server, answers)
        client = EodhdClient(
            SecretStr(TOKEN),
            url=server.url,
            deadline=timedelta(seconds=2) if over_http else DEADLINE,
            make_transport=None if over_http else lambda: _Transport(answers, self.report),
            now=lambda: NOW,
            sleep=_no_time,
        )

        async def asked() -> Any:
            async with client:
                return await QUESTIONS[which][2](client)

        began = time.monotonic()
        try:
            result = self._runner.run(asked())
        except EodhdError as error:
            outcome = type(error).__name__
            _check_error(where, error)
        except BrokenPromiseError as error:
            raise BrokenPromiseError(f"{where}: {error}") from error
        except Exception as error:
            raise BrokenPromiseError(f"{where}: {error!r}") from error
        else:
            outcome = "answered"
            _check_texts(where, [repr(result)])
            if not _whole(result):
                raise BrokenPromiseError(f"{where}: {result!r} is not whole")
            if cut[0] and not over_http:
                raise BrokenPromiseError(f"{where}: half a reply was taken for {result!r}")
        self._took(where, began)
        self.report.questions += 1
        self.report.outcomes[outcome] += 1
        if over_http:
            self.report.over_http += 1
            self.report.replies += len(server.asked)
            server.asked.clear()

    def _arm(
        self,
        rng: random.Random,
        server: Imitation,
        answers: Iterator[tuple[Answer, Exception | None]],
    ) -> None:
        """Let the server give wrong answers, also such as are no HTTP."""
        server.answers.clear()
        for _ in range(4):
            answer, fails = next(answers)
            if fails is not None:
                answer = Answer(answer.status, answer.body, cut_after=len(answer.body) // 2)
            if rng.random() < 0.1:
                raw = rng.choice(
                    (
                        b"",
                        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[]",
                        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n[]",
                        b"HTTP/1.1 200 " + TOKEN.encode() + b"\r\n\r\n" + answer.body[:500],
                        b"HTTP/9.9 999 \r\n\r\n",
                        rng.randbytes(100),
                    )
                )
                answer = Answer(raw=raw)
            elif answer.status == 204:
                answer = Answer(204)
            server.answers.append(Answer(**{**_fields(answer), "hold_seconds": 0.0}))

    def _took(self, where: str, began: float) -> None:
        took = time.monotonic() - began
        self.report.longest_seconds = max(self.report.longest_seconds, took)
        if took > LONGEST_SECONDS:
            raise BrokenPromiseError(f"{where}: it took {took:.1f} s")
        _check_texts(where, self._lines.lines)
        self._lines.lines.clear()


def _fields(answer: Answer) -> dict[str, Any]:
    return {name: getattr(answer, name) for name in Answer.__dataclass_fields__}


class _Tables:
    """A database with a history, of which every job gets a copy."""

    def __init__(self, fuzz: Fuzz) -> None:
        self._fuzz = fuzz

    def __enter__(self) -> _Tables:
        self._folder = Path(tempfile.mkdtemp(prefix="prometheus-fuzz-"))
        self._template = self._folder / "template.db"
        engine = create_engine(f"sqlite:///{self._template}")
        create_tables(engine)
        with Imitation(NOW - timedelta(days=1)) as server:
            feed = EodhdFeed(SecretStr(TOKEN), url=server.url, symbols=SYMBOLS)
            before = date(2012, 11, 20)
            sources = build_sources({"US_EQ": "eodhd"}, eodhd=feed, now=lambda: server.now)
            ingest_prices(context(engine, "US_EQ", before, sources=sources))
        self._before = everything(engine)
        engine.dispose()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder)

    def ingest(self, number: int) -> None:
        """Run the job with a few wrong answers among good ones."""
        fuzz = self._fuzz
        where = f"seed {fuzz.seed}, question {number}"
        rng = random.Random(f"{fuzz.seed}/{number}")
        path = self._folder / "job.db"
        shutil.copyfile(self._template, path)
        engine = create_engine(f"sqlite:///{path}")
        share = rng.choice((0.0, 0.1, 0.3))
        imitation = Imitation(NOW)
        transport = _Between(imitation, fuzz, rng, share)
        client = EodhdClient(
            SecretStr(TOKEN),
            deadline=DEADLINE,
            make_transport=lambda: transport,
            now=lambda: NOW,
            sleep=_no_time,
        )
        listings = EodhdFeed(symbols=SYMBOLS).listings
        feed = EodhdPrices(client, listings, members=members, now=lambda: NOW)
        sources: Sources = ListedSources(feed)
        began = time.monotonic()
        try:
            ingest_prices(context(engine, "US_EQ", DAY, sources=sources))
        except PrometheusError as error:
            _check_error(where, error)
            if everything(engine) != self._before:
                raise BrokenPromiseError(f"{where}: {error!r}, and something was stored") from None
            outcome = f"job: {type(error).__name__}"
        except Exception as error:
            raise BrokenPromiseError(f"{where}: {error!r}") from error
        else:
            outcome = "job: stored"
            fuzz.report.stored += 1
            after = everything(engine)
            _check_texts(where, [repr(after)])
            _check_stored(where, self._before, after, transport)
            if share == 0.0 and len(after["eq_prices"]) != len(self._before["eq_prices"]) + 3:
                raise BrokenPromiseError(f"{where}: a good delivery was not stored whole")
        finally:
            engine.dispose()
        fuzz._took(where, began)
        fuzz.report.jobs += 1
        fuzz.report.outcomes[outcome] += 1


_VALUES = ("open", "high", "low", "close", "adjusted_close")
"""Of a bar, as a reply has them and as they are stored; volume is worked out from it and splits."""


def rows_said(body: bytes) -> Iterator[tuple[date, tuple[float, ...], bool]]:
    """
    Read the rows of a reply that have a date, without the code under test and less strictly.

    Yields:
        Day, values, and whether the row stands for a day without trading.
    """
    for unpack in (bytes, gzip.decompress, zlib.decompress):
        try:
            text = unpack(body).decode("utf-8-sig", "replace")
        except (OSError, EOFError, zlib.error):
            continue
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            lines = (line.replace("\x00", "") for line in io.StringIO(text))
            document = list(_csv_rows(lines))
        for row in document if isinstance(document, list) else ():
            try:
                values = tuple(float(row[name]) for name in _VALUES)
                day, volume = date.fromisoformat(row["date"]), float(row["volume"])
            except (ValueError, TypeError, KeyError, OverflowError, AttributeError):
                continue
            yield day, values, volume == 0.0 and len(set(values[:4])) == 1


def _csv_rows(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    rows = csv.reader(lines)
    with contextlib.suppress(csv.Error):
        names = [name.lower() for name in next(rows, ())]
        for cells in rows:
            yield dict(zip(names, cells, strict=False))


def _check_stored(
    where: str,
    before: dict[str, list[dict[str, Any]]],
    after: dict[str, list[dict[str, Any]]],
    heard: _Between,
) -> None:
    """Hold what a job has stored against the replies: as they said it, and all of the last."""
    old = {tuple(row.values()) for row in before["eq_prices"]}
    for row in after["eq_prices"]:
        values = tuple(row[name] for name in _VALUES)
        key = row["symbol"], row["session_date"]
        if tuple(row.values()) not in old and values not in heard.said.get(key, ()):
            raise BrokenPromiseError(f"{where}: {key} is stored with {values}, which nobody said")
    there = {
        (row["symbol"], row["session_date"])
        for table in ("eq_prices", "eq_quarantine")
        for row in after[table]
    }
    missing = sorted(key for keys in heard.last.values() for key in keys if key not in there)
    if missing:
        raise BrokenPromiseError(f"{where}: {missing[:5]} came, and only the others are stored")


class _Between(httpx.AsyncBaseTransport):
    """Passes on the imitation's answers, and puts wrong ones in the place of some."""

    def __init__(self, imitation: Imitation, fuzz: Fuzz, rng: random.Random, share: float) -> None:
        self._imitation = imitation
        self._fuzz = fuzz
        self._rng = rng
        self._share = share
        self.said: dict[tuple[str, date], set[tuple[float, ...]]] = defaultdict(set)
        """Symbol and session -> the values that any reply had for it."""
        self.last: dict[str, set[tuple[str, date]]] = {}
        """Symbol -> the same keys, of the last reply to a question for its bars."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/")
        answer = self._imitation.answer(path, dict(request.url.params))
        fails: Exception | None = None
        if self._rng.random() < self._share:
            answer, fails, _ = wrong_answer(self._rng, answer.body, self._fuzz._good)
        kind, _, name = path.partition("/")
        if kind == "eod":
            self._hear(name.partition(".")[0], answer, request.url.params)
        elif kind == "splits" and answer.status == 404:
            self.last[name.partition(".")[0]] = set()  # a symbol that the feed lacks, after all
        inner = _Transport(iter([(answer, fails)]), self._fuzz.report)
        return await inner.handle_async_request(request)

    def _hear(self, symbol: str, answer: Answer, asked: httpx.QueryParams) -> None:
        self.last[symbol] = set()
        for day, values, is_filled in rows_said(answer.body):
            self.said[symbol, day].add(values)
            if answer.status == 200 and not is_filled and asked["from"] <= str(day) <= asked["to"]:
                self.last[symbol].add((symbol, day))
