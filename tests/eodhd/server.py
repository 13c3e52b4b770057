"""
A server that answers as eodhd.com does, oddities included, by a clock that the test sets.

What it does was taken from the official OpenAPI file, the official documentation and captured
replies in public tests, on 2026-11-23; what could not be seen (the words of a 404, ``[]`` for an
empty range) is a guess, and the client must not depend on it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from prometheus.core.exchanges import load_exchange
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.sources import bundled

TOKEN = "65a1b2c3d4e5f6.12345678"

REVISED_AFTER = timedelta(hours=6)
"""From the close until the volume of a US share is the final one."""

CALENDARS = {"US": "XNYS", "LSE": "XLON", "PA": "XPAR"}
"""Exchanges with prices."""
LAGS = {"US": timedelta(minutes=15), "LSE": timedelta(hours=3), "PA": timedelta(hours=2.5)}
V2_CODES = {"US": "XNYS", "LSE": "XLON", "XPAR": "XPAR", "XTKS": "XTKS", "XHKG": "XHKG"}
OTHERS = {
    "US": ("VTI", "MTUM", "QUAL", "SIZE", "USMV", "VLUE"),
    "LSE": ("VOD", "BARC", "CPG"),
    "PA": ("AIR", "MC"),
}
"""Symbols with made-up prices; those in London are in pence, but for CPG in dollars."""
DEMO = frozenset({"AAPL.US", "MSFT.US", "VTI.US"})


@dataclass(frozen=True, slots=True)
class Row:
    """A bar as it is in the end, volume as traded."""

    day: date
    open: float
    high: float
    low: float
    close: float
    volume: float
    adjusted_close: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes instead of an ordinary answer."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    reason: str | None = None
    hold_seconds: float = 0.0
    """Before the first byte."""
    drip_seconds: float = 0.0
    """Between two bytes of the body."""
    drip_head_seconds: float = 0.0
    """Between two bytes of the head."""
    cut_after: int | None = None
    """Bytes of the body, then the connection is closed."""
    raw: bytes | None = None
    """Everything that is sent, instead of all of the above."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came."""

    path: str
    parameters: dict[str, str]


@dataclass
class Imitation:
    """The state of the imitation; ``with`` opens the port."""

    now: datetime = datetime(2012, 11, 21, 23, tzinfo=UTC)
    token: str = TOKEN
    holidays_as: str = "object"
    """``object``, ``array``, ``empty_object`` or ``empty_array``: how PHP shows an array."""
    early_close_as: str = "EarlyClose"
    """The field of the first version: in captures this, in the OpenAPI file ``CloseTime``."""
    half_days: bool = True
    """Whether the first version lists the early closes at all."""
    refuse_token_with: int = 401
    free_plan: bool = False
    daily_limit: int = 100_000
    per_minute: int = 1_000
    retry_after: str | None = "seconds"
    """``seconds``, ``date``, or ``None`` for no such header."""
    maintenance: bool = True
    footer: bool = False
    """A line at the end of CSV without a date."""
    ticker_counts: bool = True
    """Whether the first version counts tickers, as it has done for a few months."""
    unknown_fields: bool = True
    always_csv: bool = False
    filled_days: set[tuple[str, date]] = field(default_factory=set)
    """(``AAPL.US``, date) on which nothing was traded, and the last price repeated."""
    changed: dict[tuple[str, date], dict[str, Any]] = field(default_factory=dict)
    """Values of bars to serve instead of the true ones."""
    withheld: set[str] = field(default_factory=set)
    """Symbols whose newest bar does not come."""
    rebased: dict[str, float] = field(default_factory=dict)
    """Symbol to what its adjusted closes are multiplied by, as after a dividend."""
    extra_closures: dict[tuple[str, date], str] = field(default_factory=dict)
    """(code of the second version, date) to the name of a closure announced between two polls."""
    answers: deque[Answer] = field(default_factory=deque)
    """Served first, one a request."""
    asked: list[Asked] = field(default_factory=list)
    counted: int = 0
    """Calls of `counted_on`."""
    counted_on: date | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._minute: tuple[datetime, int] = (self.now, 0)

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Where the interface is."""
        return f"http://127.0.0.1:{self._server.server_port}/api"

    def paths(self) -> list[str]:
        """List what was asked, without parameters."""
        return [each.path for each in self.asked]

    def answer(self, path: str, parameters: dict[str, str]) -> Answer:
        """Answer one request."""
        with self._lock:
            self.asked.append(Asked(path, parameters))
            if self.answers:
                return self.answers.popleft()
            answer = self._answer(path, parameters)
            headers = (
                ("X-RateLimit-Limit", str(self.per_minute)),
                ("X-RateLimit-Remaining", str(max(0, self.per_minute - self._minute[1]))),
            )
            return Answer(answer.status, answer.body, (*answer.headers, *headers))

    def _answer(self, path: str, parameters: dict[str, str]) -> Answer:
        start = self.now.replace(second=0, microsecond=0)
        used = self._minute[1] if self._minute[0] == start else 0
        self._minute = (start, used + 1)
        if self.maintenance and 5.5 <= self.now.hour + self.now.minute / 60 < 6:
            return Answer(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>")
        if used >= self.per_minute:
            return self._too_many(start)
        given = parameters.get("api_token")
        if given not in (self.token, "demo"):
            # Some of its error bodies repeat the question.
            echo = f"Unauthenticated: /api/{path}?api_token={given}"
            return Answer(self.refuse_token_with, echo.encode())
        name, *rest = path.split("/")
        handlers: dict[str, Callable[[list[str], dict[str, str]], Answer]] = {
            "eod": self._eod,
            "splits": self._splits,
            "eod-bulk-last-day": self._bulk,
            "exchange-details": self._details_1,
            "v2": self._details_2,
            "exchanges-list": self._exchanges,
            "exchange-symbol-list": self._symbols,
            "user": self._user,
            "internal-user": self._user,
        }
        if name not in handlers:
            return Answer(404, b"Not found")
        for key in ("from", "to", "date"):
            try:
                date.fromisoformat(parameters.get(key, "2000-01-01"))
            except ValueError:
                return _json(422, {"message": f"The {key} is not a valid date."})
        return handlers[name](rest, parameters)

    def _too_many(self, start: datetime) -> Answer:
        wait = start + timedelta(minutes=1) - self.now
        headers: tuple[tuple[str, str], ...] = ()
        if self.retry_after == "seconds":
            headers = (("Retry-After", str(int(wait.total_seconds()))),)
        elif self.retry_after == "date":
            headers = (("Retry-After", format_datetime(self.now + wait, usegmt=True)),)
        return Answer(429, b"Too many requests", headers)

    def _spend(self, calls: int) -> Answer | None:
        """Count calls; the counter shows the last day's until the first of the new one."""
        if self.counted_on != self.now.date():
            self.counted_on, self.counted = self.now.date(), 0
        if self.counted + calls > self.daily_limit:
            text = "You exceeded your daily API requests limit. Please contact support."
            return Answer(402, text.encode())
        self.counted += calls
        return None

    def _gate(self) -> Answer | None:
        if not self.free_plan:
            return None
        text = "Only EOD data allowed for free users. Please, contact our support team: "
        return Answer(403, (text + "support@eodhistoricaldata.com").encode())

    def _eod(self, rest: list[str], parameters: dict[str, str]) -> Answer:
        name = unquote(rest[0]) if rest else ""
        if parameters["api_token"] == "demo" and name not in DEMO:
            return Answer(403, b"Forbidden. Demo token.")
        if (refused := self._spend(1)) is not None:
            return refused
        if name not in _names():
            return Answer(404, b"Ticker Not Found.")
        first = date.fromisoformat(parameters.get("from", "1900-01-01"))
        last = date.fromisoformat(parameters.get("to", "2100-01-01"))
        if self.free_plan:
            first = max(first, self.now.date() - timedelta(days=365))
        rows = [self._shown(name, row) for row in self._visible(name, first, last)]
        if "filter" in parameters and parameters.get("fmt") == "json":
            column = parameters["filter"].removeprefix("last_")
            newest = self._shown(name, self._visible(name, date.min, date.max)[-1])
            return _json(200, newest[column])
        if parameters.get("order") == "d":
            rows.reverse()
        names = ("Date", "Open", "High", "Low", "Close", "Adjusted_close", "Volume")
        return self._table(parameters, names, rows)

    def _splits(self, rest: list[str], parameters: dict[str, str]) -> Answer:
        name = rest[0] if rest else ""
        if (refused := self._spend(1)) is not None:
            return refused
        if name not in _names():
            return Answer(404, b"Ticker Not Found.")
        rows = [
            {"date": split.session_date.isoformat(), "split": f"{split.ratio:.6f}/1.000000"}
            for split in bundled.SPLITS
            if f"{split.symbol}.US" == name and split.session_date <= self.now.date()
        ]
        return _json(200, rows)

    def _bulk(self, rest: list[str], parameters: dict[str, str]) -> Answer:
        code = rest[0] if rest else ""
        if parameters["api_token"] == "demo":
            return Answer(403, b"Forbidden. Demo token.")
        if (refused := self._gate()) is not None:
            return refused
        if code not in CALENDARS:
            return Answer(404, b"Exchange Not Found.")
        wanted = [each for each in parameters.get("symbols", "").split(",") if each]
        if (refused := self._spend(100 + len(wanted))) is not None:
            return refused
        kind = parameters.get("type", "eod")
        if kind == "splits":
            return _json(200, [{**_key("GE", code, self.now), "split": "1.000000/20.000000"}])
        if kind == "dividends":
            row = {
                **_key("ABCB", code, self.now),
                "dividend": "0.15000",
                "currency": "USD",
                "declarationDate": "",
                "recordDate": "2012-11-19",
                "paymentDate": "",
                "period": "Quarterly",
                "unadjustedValue": "0.1500000000",
            }
            return _json(200, [row])
        rows: list[dict[str, Any]] = []
        for name in _names():
            symbol, _, exchange = name.partition(".")
            if exchange != code or (wanted and symbol not in wanted):
                continue
            day = parameters.get("date")
            bounds = (date.min, date.max) if day is None else (date.fromisoformat(day),) * 2
            if visible := self._visible(name, *bounds):
                row = self._shown(name, visible[-1])
                rows.append({"code": symbol, "exchange_short_name": code, **row})
                if parameters.get("filter") == "extended":
                    rows[-1] |= {"name": symbol, "MarketCapitalization": 0, "ema_50d": None}
        names = ("Code", "Ex", "Date", "Open", "High", "Low", "Close", "Adjusted_close", "Volume")
        return self._table(parameters, names, rows)

    def _details_1(self, rest: list[str], parameters: dict[str, str]) -> Answer:
        code = rest[0] if rest else ""
        if (refused := self._gate() or self._spend(5)) is not None:
            return refused
        if code not in CALENDARS:
            return Answer(404, b"Exchange Not Found.")
        calendar = TradingCalendar(CALENDARS[code])
        half_year = timedelta(days=182)
        first = date.fromisoformat(parameters.get("from", str(self.now.date() - half_year)))
        last = date.fromisoformat(parameters.get("to", str(self.now.date() + half_year)))
        closed = [
            {"Holiday": name, "Date": day.isoformat(), "Type": kind}
            for day, name, kind in self._closures(code, calendar, first, last)
        ]
        early = [
            {
                "Holiday": name,
                "Date": day.isoformat(),
                "Type": "official",
                self.early_close_as: close[:5],
            }
            for day, name, close in _early_closes(calendar, first, last)
            if self.half_days
        ]
        document = {
            "Name": "USA Stocks" if code == "US" else f"Exchange {code}",
            "Code": code,
            "OperatingMIC": "XNAS, XNYS, OTCM" if code == "US" else CALENDARS[code],
            "Country": "USA" if code == "US" else "Europe",
            "Currency": {"US": "USD", "LSE": "GBP", "PA": "EUR"}[code],
            "Timezone": load_exchange(CALENDARS[code]).zone.key,
            "isOpen": False,
            "TradingHours": {
                **_hours(CALENDARS[code]),
                "OpenUTC": "14:30:00",
                "CloseUTC": "21:00:00",
                "WorkingDays": "Mon,Tue,Wed,Thu,Fri",
            },
            "ExchangeHolidays": self._array(closed),
            "ExchangeEarlyCloseDays": self._array(early),
        }
        if self.ticker_counts:
            document |= {
                "ActiveTickers": 50_000,
                "PreviousDayUpdatedTickers": 48_000,
                "UpdatedTickers": int(48_000 * self._share_updated(code, calendar)),
            }
        if self.unknown_fields:
            document["NewField"] = {"a": [1, None]}
        return self._table(parameters, (), document)

    def _details_2(self, rest: list[str], parameters: dict[str, str]) -> Answer:
        if not rest or rest[0] != "exchange-details":
            return Answer(404, b"Not found")
        if (refused := self._gate() or self._spend(5)) is not None:
            return refused
        if len(rest) == 1:
            return _json(200, {"data": ["ASEX", "BMEX", *V2_CODES]})
        code = rest[1].upper()
        if code not in V2_CODES:
            return _json(404, {"message": "Exchange not found"})
        calendar = TradingCalendar(V2_CODES[code])
        year = self.now.year
        first, last = date(year, 1, 1), date(year, 12, 31)
        holidays = {
            day.isoformat(): {"Holiday": name, "Type": kind.title()}
            for day, name, kind in self._closures(code, calendar, first, last)
        } | {
            day.isoformat(): {"Holiday": name, "Type": "EarlyClose", "EarlyClose": close}
            for day, name, close in _early_closes(calendar, first, last)
        }
        hours = {**_hours(V2_CODES[code]), "WorkingDays": "Mon, Tue, Wed, Thu, Fri"}
        if code == "US":
            hours |= {"PreMarketOpen": "04:00:00", "PreMarketClose": "09:30:00"}
            hours |= {"AfterHoursOpen": "16:00:00", "AfterHoursClose": "20:00:00"}
        if code == "XTKS":
            hours |= {"LunchBreakStart": "11:30:00", "LunchBreakEnd": "12:30:00"}
        data = {
            "Name": f"Exchange {code}",
            "Code": code,
            "Timezone": load_exchange(V2_CODES[code]).zone.key,
            "TradingHours": hours,
            "ExchangeHolidays": [] if self.holidays_as == "empty_array" else holidays,
        }
        return _json(200, {"data": data, "meta": [], "links": []})

    def _exchanges(self, rest: list[str], parameters: dict[str, str]) -> Answer:
        if (refused := self._spend(1)) is not None:
            return refused
        return _json(
            200, [{"Name": f"Exchange {code}", "Code": code} for code in (*CALENDARS, "INDX")]
        )

    def _symbols(self, rest: list[str], parameters: dict[str, str]) -> Answer:
        if (refused := self._spend(1)) is not None:
            return refused
        found = [name.partition(".") for name in _names()]
        return _json(
            200,
            [
                # Its currency of a share in London is not to be relied on.
                {"Code": symbol, "Name": symbol, "Exchange": code, "Currency": "GBP"}
                for symbol, _, code in found
                if rest and code == rest[0]
            ],
        )

    def _user(self, rest: list[str], parameters: dict[str, str]) -> Answer:
        return _json(
            200,
            {
                "name": "A Tester",
                "email": "tester@example.com",
                "subscriptionMode": "free" if self.free_plan else "paid",
                "apiRequests": self.counted,
                "apiRequestsDate": None if self.counted_on is None else str(self.counted_on),
                "dailyRateLimit": self.daily_limit,
                "extraLimit": 500,
            },
        )

    def _closures(
        self, code: str, calendar: TradingCalendar, first: date, last: date
    ) -> Iterator[tuple[date, str, str]]:
        for year in range(first.year, last.year + 1):
            for day, name in calendar.holidays(year).items():
                if first <= day <= last:
                    yield day, name, "official"
        if code == "US":
            # Columbus Day: the banks are closed, the exchanges are not.
            for year in range(first.year, last.year + 1):
                day = date(year, 10, 8 + (7 - date(year, 10, 1).weekday()) % 7)
                if first <= day <= last:
                    yield day, "Columbus Day", "bank"
        for (where, day), name in self.extra_closures.items():
            if where == code and first <= day <= last:
                yield day, name, "official"

    def _array(self, rows: list[dict[str, str]]) -> object:
        if self.holidays_as == "array":
            return rows
        if self.holidays_as == "empty_array":
            return []
        if self.holidays_as == "empty_object":
            return {}
        return {str(number): row for number, row in enumerate(rows)}

    def _share_updated(self, code: str, calendar: TradingCalendar) -> float:
        past = calendar.sessions_around(self.now, before=1, after=0)
        if not past:
            return 0.0
        begins = past[-1].close + LAGS[code]
        return min(1.0, max(0.0, (self.now - begins) / timedelta(hours=1)))

    def _visible(self, name: str, first: date, last: date) -> list[Row]:
        """Give the bars that are there by now."""
        code = name.partition(".")[2]
        rows = [row for row in _series(name) if first <= row.day <= last]
        while rows and self._available(code, rows[-1].day) > self.now:
            rows.pop()
        if rows and name in self.withheld and rows[-1] is _newest(name, self.now, code):
            rows.pop()
        return rows

    def _available(self, code: str, day: date) -> datetime:
        return _close(CALENDARS[code], day) + LAGS[code]

    def _shown(self, name: str, row: Row) -> dict[str, Any]:
        """Give a bar as it is by now: the volume adjusted for splits, and not yet final."""
        code = name.partition(".")[2]
        splits = [
            split.ratio
            for split in bundled.SPLITS
            if f"{split.symbol}.US" == name and row.day < split.session_date <= self.now.date()
        ]
        volume = row.volume
        for ratio in splits:
            volume *= ratio
        if code == "US" and self.now < _close("XNYS", row.day) + REVISED_AFTER:
            volume = float(int(volume * 0.97))
        values: dict[str, Any] = {
            "date": row.day.isoformat(),
            "open": row.open,
            "high": row.high,
            "low": row.low,
            "close": row.close,
            "adjusted_close": row.adjusted_close * self.rebased.get(name, 1.0),
            "volume": int(volume) if volume == int(volume) else volume,
        }
        if (name, row.day) in self.filled_days:
            values |= dict.fromkeys(("open", "high", "low"), row.close) | {"volume": 0}
        values |= self.changed.get((name, row.day), {})
        if self.unknown_fields:
            values["warning"] = None
        return values

    def _table(self, parameters: dict[str, str], names: tuple[str, ...], rows: Any) -> Answer:
        """Write rows in the form that was asked for, CSV unless JSON was."""
        if parameters.get("fmt") == "json" and not self.always_csv:
            return _json(200, rows)
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(names)
        keys = {"Ex": "exchange_short_name"}
        for row in rows if isinstance(rows, list) else ():
            writer.writerow([row[keys.get(name, name.lower())] for name in names])
        if self.footer:
            out.write(f"{len(rows)}\n")
        return Answer(200, out.getvalue().encode(), (("Content-Type", "text/csv"),))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, state: Imitation, *connection: Any) -> None:
        self.state = state
        super().__init__(*connection)

    def handle(self) -> None:
        # A client may hang up whenever it likes.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        answer = self.state.answer(parts.path.removeprefix("/api/"), dict(parse_qsl(parts.query)))
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        if answer.hold_seconds:
            time.sleep(answer.hold_seconds)
        if answer.raw is not None:
            self.wfile.write(answer.raw)
            self.close_connection = True
            return
        if answer.drip_head_seconds:
            for number in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 10_000:
                self.wfile.write(bytes([number]))
                time.sleep(answer.drip_head_seconds)
            return
        self.send_response(answer.status, answer.reason)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if answer.cut_after is not None:
            self.wfile.write(answer.body[: answer.cut_after])
            self.close_connection = True
        elif answer.drip_seconds:
            for number in answer.body:
                self.wfile.write(bytes([number]))
                time.sleep(answer.drip_seconds)
        else:
            self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _json(status: int, document: object) -> Answer:
    body = json.dumps(document).encode()
    return Answer(status, body, (("Content-Type", "application/json"),))


def _key(symbol: str, code: str, now: datetime) -> dict[str, str]:
    return {"code": symbol, "exchange": code, "date": now.date().isoformat()}


def _hours(mic: str) -> dict[str, str]:
    hours = load_exchange(mic).hours[-1][1]
    return {"Open": f"{hours.open.at}", "Close": f"{hours.close.at}"}


def _early_closes(
    calendar: TradingCalendar, first: date, last: date
) -> Iterator[tuple[date, str, str]]:
    zone = load_exchange(calendar.market_id).zone
    for day in calendar.trading_days(first, last):
        session = calendar.session(day)
        if session.early_close:
            yield day, session.reason or "Early close", f"{session.close.astimezone(zone):%H:%M:%S}"


@cache
def _close(mic: str, day: date) -> datetime:
    return TradingCalendar(mic).session(day).close


@cache
def _names() -> tuple[str, ...]:
    real = [f"{instrument.symbol}.US" for instrument in bundled.INSTRUMENTS]
    return (*real, *(f"{symbol}.{code}" for code, found in OTHERS.items() for symbol in found))


@cache
def _series(name: str) -> tuple[Row, ...]:
    """Give all bars of a symbol: real ones of five US companies, otherwise made up."""
    symbol, _, code = name.partition(".")
    if symbol not in OTHERS[code]:
        series = bundled.load_series()[symbol]
        calendar = TradingCalendar("XNYS")
        return tuple(
            Row(day, *values)
            for day, values in zip(series.dates.tolist(), series.values.tolist(), strict=True)
            if calendar.is_trading_day(day)
        )
    rows = []
    number = sum(map(ord, name))
    for day in TradingCalendar(CALENDARS[code]).trading_days(date(2010, 1, 4), date(2013, 3, 1)):
        number = (number * 1103515245 + 12345) % 2**31
        close = round(100.0 + (number % 1000) / 100.0, 2)
        volume = 1_000_000.0 + number % 1000 + (0.99 if number % 5 == 0 else 0.0)
        rows.append(Row(day, close - 0.5, close + 1.0, close - 1.0, close, volume, close))
    return tuple(rows)


def _newest(name: str, now: datetime, code: str) -> Row:
    visible = [row for row in _series(name) if _close(CALENDARS[code], row.day) + LAGS[code] <= now]
    return visible[-1]
