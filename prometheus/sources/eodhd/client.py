"""
Asking eodhd.com over HTTP: bounded in time and size, patient where that helps, and discreet.

The token travels in the query of every URL, because the server takes it nowhere else. It is put
there below everything that logs or raises (`_WithToken`), and taken out of whatever comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from email.utils import parsedate_to_datetime
from functools import cached_property
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote
from urllib.request import getproxies, proxy_bypass

import httpx
from pydantic import SecretStr
from pydantic_core import from_json, to_json

from prometheus.sources.eodhd import replies
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
from prometheus.sources.eodhd.naming import BASE_URL, REQUESTS_PER_MINUTE
from prometheus.sources.errors import SourceConfigurationError

logger = logging.getLogger(__name__)

ATTEMPTS = 4
"""How often one question is put, the first time included."""
DEADLINE = timedelta(seconds=60)
"""From the first byte sent to the last one received, of one attempt."""
LONGEST_WAIT = timedelta(minutes=2)
"""Between two attempts; a server that wants more is left to a later attempt of the job."""
MOST_BYTES = 64 * 1024 * 1024
"""Of a body, unpacked; the largest real one, a bulk of all US symbols, has about 10 MB."""
AT_ONCE = 4
"""Questions under way at the same time."""

_DEFAULT_RETRY_AFTER = timedelta(seconds=60)
_MINUTE = 60.0
_MAINTENANCE = (time_of_day(5, 30), time_of_day(6, 0))
"""Daily, GMT."""
_PACKED = ("gzip", "deflate", "identity")
"""One of them: packed twice, a few bytes can unpack to more than any machine has."""
_MAY_PASS = (408, 425)
"""It took too long to hear us, or heard us too early."""
_PLAN_GATE = "only eod data allowed"
_PUBLIC_TOKEN = "demo"  # noqa: S105  it is in the vendor's documentation, and in names of companies
_SECONDS = re.compile(r"\d{1,9}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str


@dataclass(frozen=True, slots=True)
class _TryAgain:
    """The attempt failed in a way that may pass."""

    why: str
    after: timedelta | None = None
    """What the server asked for; only of those that come too fast."""


class EodhdClient:
    """
    Puts questions to eodhd.com, inside ``async with``; may be left and entered again, in any loop.

    What it learns about limits it keeps: a spent quota is remembered until midnight GMT, and
    nothing is asked before. (Of one client: each learns by itself, of a worker's process one, of
    each command and each request to the API a new one; a refusal costs nothing.)
    """

    def __init__(
        self,
        token: SecretStr,
        *,
        url: str = BASE_URL,
        requests_per_minute: int = REQUESTS_PER_MINUTE,
        deadline: timedelta = DEADLINE,
        make_transport: Callable[[], httpx.AsyncBaseTransport] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """
        Make a client; nothing is asked yet.

        Args:
            token: What the vendor calls the API token.
            url: Where the interface is.
            requests_per_minute: The most that are sent in any minute.
            deadline: Of one attempt at one question.
            make_transport: What carries requests; by default HTTP, through the proxy of the
                environment if there is one.
            now: The wall clock, aware UTC, for the quota and for dates in headers.
            sleep: Waits for some seconds.
        """
        self._token = token
        self._url = url.rstrip("/")
        self._deadline = deadline
        self._make_transport = make_transport or self._http_transport
        self._now = now
        self._sleep = sleep
        self._per_minute = requests_per_minute
        self._sent: deque[float] = deque(maxlen=requests_per_minute)
        """When the last requests were sent, or will be: by the monotonic clock."""
        self._lowered = requests_per_minute
        self._lowered_until = 0.0
        self._not_before = 0.0
        self._parked_until: datetime | None = None

    async def __aenter__(self) -> Self:
        transport = _WithToken(self._make_transport(), self._token)
        self._http = httpx.AsyncClient(
            transport=transport,
            timeout=httpx.Timeout(self._deadline.total_seconds()),
            headers={
                "User-Agent": "prometheus-markets",
                "Accept": "application/json",
                "Accept-Encoding": "gzip, deflate",
            },
        )
        self._free = asyncio.Semaphore(AT_ONCE)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    @property
    def is_resting(self) -> bool:
        """Whether it is the time of the server's daily maintenance."""
        start, end = _MAINTENANCE
        return start <= self._now().time() < end

    @property
    def parked_until(self) -> datetime | None:
        """When questions will be asked again, while the day's quota is spent."""
        if self._parked_until is not None and self._now() >= self._parked_until:
            self._parked_until = None
        return self._parked_until

    async def bars(
        self, symbol: str, code: str, start: date | None = None, end: date | None = None
    ) -> tuple[replies.DailyBar, ...]:
        """
        Ask for the daily bars of a symbol, both dates included. One call, whatever the length.

        Raises:
            EodhdError: As all questions do; `NotFoundError` where the symbol is not known.
        """
        text, question = await self._ask(
            f"eod/{_quoted(symbol)}.{_quoted(code)}",
            period="d",
            order="a",
            **_range(start, end),
        )
        return self._read(question, replies.read_bars, text)

    async def last_date(self, symbol: str, code: str) -> date:
        """Ask for the date of a symbol's newest bar. One call."""
        text, question = await self._ask(
            f"eod/{_quoted(symbol)}.{_quoted(code)}", filter="last_date"
        )
        return self._read(question, replies.read_last_date, text)

    async def splits(self, symbol: str, code: str) -> tuple[replies.SplitRow, ...]:
        """Ask for all splits of a symbol. One call."""
        text, question = await self._ask(f"splits/{_quoted(symbol)}.{_quoted(code)}")
        return self._read(question, replies.read_splits, text)

    async def bulk_bars(
        self, code: str, on: date | None = None, symbols: Sequence[str] = ()
    ) -> tuple[replies.BulkBar, ...]:
        """
        Ask for one date's bars of a whole exchange: 100 calls, and one for each symbol named.

        Args:
            code: The exchange. Of ``US`` come about 50,000 rows, with funds and unlisted shares.
            on: By default the last day with trading.
            symbols: Only these.
        """
        text, question = await self._bulk(code, "eod", on, symbols)
        wanted = frozenset(symbols)
        return self._read(question, lambda body: replies.read_bulk_bars(body, wanted), text)

    async def bulk_splits(self, code: str, on: date | None = None) -> tuple[replies.BulkSplit, ...]:
        """Ask for one date's splits of a whole exchange. 100 calls."""
        text, question = await self._bulk(code, "splits", on)
        return self._read(question, replies.read_bulk_splits, text)

    async def bulk_dividends(
        self, code: str, on: date | None = None
    ) -> tuple[replies.BulkDividend, ...]:
        """Ask for one date's dividends of a whole exchange. 100 calls."""
        text, question = await self._bulk(code, "dividends", on)
        return self._read(question, replies.read_bulk_dividends, text)

    async def exchanges(self) -> frozenset[str]:
        """Ask which exchanges have prices: their codes. One call."""
        text, question = await self._ask("exchanges-list")
        return self._read(question, replies.read_listed_exchanges, text)

    async def exchange_details(
        self, code: str, start: date | None = None, end: date | None = None
    ) -> replies.ExchangeDetails:
        """
        Ask the first version for an exchange's hours, holidays and tickers. Five calls.

        Args:
            code: Of prices: ``US``, ``LSE``, ``PA``.
            start: Of the holidays; by default six months ago.
            end: Likewise; by default in six months.
        """
        text, question = await self._ask(f"exchange-details/{_quoted(code)}", **_range(start, end))
        return self._read(question, replies.read_exchange_1, text)

    async def exchange_codes_2(self) -> tuple[str, ...]:
        """Ask the second version which exchanges it knows. Five calls."""
        text, question = await self._ask("v2/exchange-details")
        return self._read(question, replies.read_exchange_codes, text)

    async def exchange_details_2(self, code: str) -> replies.ExchangeDetails:
        """
        Ask the second version for an exchange's hours and its holidays of this year. Five calls.

        Args:
            code: A MIC for most; ``US`` and ``LSE`` for New York and London.
        """
        text, question = await self._ask(f"v2/exchange-details/{_quoted(code)}")
        return self._read(question, replies.read_exchange_2, text)

    async def account(self) -> replies.Account:
        """Ask what the token may, and how many calls it has made today."""
        text, question = await self._ask("user")
        return self._read(question, replies.read_account, text)

    async def _bulk(
        self, code: str, kind: str, on: date | None, symbols: Sequence[str] = ()
    ) -> tuple[str, str]:
        parameters = {"type": kind}
        if on is not None:
            parameters["date"] = on.isoformat()
        if symbols:
            parameters["symbols"] = ",".join(symbols)
        return await self._ask(f"eod-bulk-last-day/{_quoted(code)}", **parameters)

    async def _ask(self, question: str, **parameters: str) -> tuple[str, str]:
        """Put a question until it is answered; return the answer and the question."""
        for attempt in range(1, ATTEMPTS + 1):
            async with self._free:
                await self._wait_for_turn(question)
                outcome = await self._attempt(question, {**parameters, "fmt": "json"})
            match outcome:
                case _Answer(text):
                    return text, question
                case EodhdError():
                    if isinstance(outcome, QuotaSpentError):
                        self._park(outcome.until)
                    raise outcome
                case _TryAgain(why, after):
                    wait = self._pause(attempt, after)
                    if attempt == ATTEMPTS or wait > LONGEST_WAIT:
                        break
                    logger.info(
                        "eodhd_retry",
                        extra={
                            "question": question,
                            "why": why,
                            "attempt": attempt,
                            "wait": f"{wait.total_seconds():.1f}s",
                        },
                    )
                    await self._sleep(wait.total_seconds())
        if after is not None:
            times = f", {attempt} times" if attempt > 1 else ""
            raise TooManyRequestsError(question, f"{why}{times}", after)
        raise UnreachableError(
            question,
            f"{why}, {attempt} times. "
            + (
                "Its daily maintenance is from 05:30 to 06:00 GMT."
                if self.is_resting
                else "Check the network and [eodhd] url."
            ),
        )

    async def _wait_for_turn(self, question: str) -> None:
        """Wait until one more request keeps within the limit a minute, unless we are parked."""
        if (until := self.parked_until) is not None:
            raise QuotaSpentError(question, until)
        now = time.monotonic()
        at = max(now, self._not_before)
        lowered = now < self._lowered_until
        limit = min(self._per_minute, self._lowered) if lowered else self._per_minute
        if len(self._sent) >= limit:
            at = max(at, self._sent[-limit] + _MINUTE)
        wait = timedelta(seconds=at - now)
        if lowered and wait > LONGEST_WAIT:
            why = f"it allows {limit} of our requests a minute at present"
            raise TooManyRequestsError(question, why, wait)
        self._sent.append(at)
        if at > now:
            await self._sleep(at - now)

    async def _attempt(
        self, question: str, parameters: dict[str, str]
    ) -> _Answer | _TryAgain | EodhdError:
        """
        Send one request and take in its whole answer.

        Everything is returned, nothing raised, so that no error of ours carries one of httpx's.
        """
        body = bytearray()
        try:
            async with (
                asyncio.timeout(self._deadline.total_seconds()),
                self._http.stream("GET", f"{self._url}/{question}", params=parameters) as response,
            ):
                if response.headers.get("Content-Encoding", "gzip").lower() not in _PACKED:
                    return UnreadableReplyError(question, "it came packed in an unknown way.")
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MOST_BYTES:
                        return UnreadableReplyError(
                            question,
                            f"more than {MOST_BYTES // 1024**2} MB came; nothing of it was used.",
                        )
        except (TimeoutError, httpx.TimeoutException):
            return _TryAgain(f"no whole answer within {self._deadline.total_seconds():g} s")
        except httpx.ConnectError as error:
            return _TryAgain(f"no connection ({self._masked(str(error))})")
        except httpx.DecodingError:
            return UnreadableReplyError(question, "a packed body came that can not be unpacked.")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _TryAgain(f"the connection failed ({type(error).__name__})")
        self._heed(response.headers)
        return self._judge(question, response.status_code, response.headers, bytes(body))

    def _judge(
        self, question: str, status: int, headers: httpx.Headers, body: bytes
    ) -> _Answer | _TryAgain | EodhdError:
        try:
            text = self._masked(body.decode("utf-8-sig"))
        except UnicodeDecodeError:
            text = None
        if status == 200:
            if text is None:
                return UnreadableReplyError(question, "what came is not UTF-8.")
            told = _told_status(text)
            if told is None:
                return _Answer(text)
            status = told
        if status == 429:
            after = _retry_after(headers.get("Retry-After"), self._now())
            self._not_before = time.monotonic() + min(after, LONGEST_WAIT).total_seconds()
            return _TryAgain("too many requests (429)", after)
        if status >= 500 or status in _MAY_PASS:
            return _TryAgain(f"the server is out of order ({status})")
        match status:
            case 401 | 403:
                of_plan = text is not None and _PLAN_GATE in text.lower()
                return AccessRefusedError(question, status, of_plan=of_plan)
            case 402:
                return QuotaSpentError(question, _next_midnight(self._now()))
            case 404:
                return NotFoundError(question)
        return BadQuestionError(question, status)

    def _heed(self, headers: httpx.Headers) -> None:
        """Slow down for a minute to what the server allows, where that is less than we thought."""
        limit, remaining = (
            int(value) if _SECONDS.fullmatch(value := headers.get(name, "")) else None
            for name in ("X-RateLimit-Limit", "X-RateLimit-Remaining")
        )
        if limit:
            self._lowered = limit
            self._lowered_until = time.monotonic() + _MINUTE
        if remaining == 0:
            self._not_before = time.monotonic() + _MINUTE

    def _park(self, until: datetime) -> None:
        if self._parked_until is None:
            logger.warning("eodhd_parked", extra={"until": until.isoformat(), "why": "quota spent"})
        self._parked_until = until

    @staticmethod
    def _pause(attempt: int, after: timedelta | None) -> timedelta:
        """Say how long to wait before the next attempt; the jitter keeps processes apart."""
        if after is not None:
            return after + timedelta(seconds=random.uniform(0.0, 3.0))
        return timedelta(seconds=random.uniform(0.5, 1.0) * 2.0 ** (attempt - 1))

    def _read(self, question: str, read: Callable[[str], T], text: str) -> T:
        """Read an answer whole, or say why it can not be read."""
        try:
            return read(text)
        except replies.UnreadableError as fault:
            said = self._masked(str(fault))
        raise UnreadableReplyError(question, f"{said}. Nothing of it was used.")

    def _masked(self, text: str) -> str:
        """Take the token out of a text; JSON may have it letter by letter, as ``\\u0041``."""
        token = self._token.get_secret_value()
        if token in ("", _PUBLIC_TOKEN):
            return text
        if "\\u" in text:
            # Where it is no JSON, nobody will unfold what is folded in it.
            with contextlib.suppress(ValueError):
                text = to_json(from_json(text)).decode()
        return text.replace(token, "***")

    def _http_transport(self) -> httpx.AsyncBaseTransport:
        """
        Make what carries requests.

        Raises:
            SourceConfigurationError: The address, or that of the proxy, can not be used; without
                either in the message, because a proxy's may have a password.
        """
        fault = "[eodhd] url can not be read: https://host/api was wanted."
        with contextlib.suppress(ValueError, ImportError, httpx.InvalidURL):
            url = httpx.URL(self._url)
            if url.scheme == "http":
                # On this machine: no proxy, and no certificates, which take long to load.
                return httpx.AsyncHTTPTransport(verify=False)
            proxy = None if proxy_bypass(url.host) else getproxies().get("https")
            fault = (
                "the proxy that HTTPS_PROXY names can not be used: http://host:port was wanted, "
                "with http:// or https:// before it. Or name the feed's host in NO_PROXY."
            )
            return httpx.AsyncHTTPTransport(verify=self._tls, proxy=proxy)
        raise SourceConfigurationError(f"eodhd: {fault}")

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()


class _WithToken(httpx.AsyncBaseTransport):
    """
    Adds the token to requests, out of sight of httpx.

    httpx logs the URL of every request, and the words after the status, which the server chooses;
    its errors carry the request. What it sees has no token in it.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, token: SecretStr) -> None:
        self._inner = inner
        self._token = token

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url.copy_merge_params({"api_token": self._token.get_secret_value()})
        response = await self._inner.handle_async_request(
            httpx.Request(
                request.method,
                url,
                headers=request.headers,
                stream=request.stream,
                extensions=request.extensions,
            )
        )
        response.extensions.pop("reason_phrase", None)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


def _quoted(code: str) -> str:
    return quote(code, safe="")


def _range(start: date | None, end: date | None) -> dict[str, str]:
    return {
        name: day.isoformat() for name, day in (("from", start), ("to", end)) if day is not None
    }


def _told_status(text: str) -> int | None:
    """Return the status of an error that came as an answer: ``{"error": "...", "code": 403}``."""
    if text.lstrip()[:1] != "{" or len(text) > 10_000 or '"code"' not in text:
        return None
    try:
        document = from_json(text)
    except ValueError:
        return None
    code = document.get("code") if isinstance(document, dict) else None
    named = {"error", "errorMessage", "message"} & document.keys() if code else ()
    return code if named and isinstance(code, int) and 400 <= code < 600 else None


def _retry_after(value: str | None, now: datetime) -> timedelta:
    """Read a ``Retry-After``: seconds or a date."""
    if value is None:
        return _DEFAULT_RETRY_AFTER
    if _SECONDS.fullmatch(value.strip()):
        return timedelta(seconds=int(value))
    try:
        at = parsedate_to_datetime(value)
        after = (at if at.tzinfo else at.replace(tzinfo=UTC)) - now
    except (ValueError, TypeError, IndexError, OverflowError):
        return _DEFAULT_RETRY_AFTER
    return max(after, timedelta(0))


def _next_midnight(now: datetime) -> datetime:
    return datetime.combine(now.date() + timedelta(days=1), time_of_day(0), UTC)
