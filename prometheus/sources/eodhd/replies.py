"""
What eodhd.com answers, read whole into typed values or not at all.

Unknown fields are passed over, as its makers ask for; a field that is wanted and is missing or of
another kind makes the whole reply unreadable. Values that are merely wrong (a price of zero, a high
below the low) are delivered as they are: the job that stores bars examines them. Facts about the
formats were taken from the official OpenAPI file, the official documentation and captured replies
in public tests, on 2026-11-23.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, time
from typing import Annotated, Any, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_pascal
from pydantic_core import from_json

from prometheus.core.holidays import Holiday, HolidayKind

_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_TIME = re.compile(r"(\d\d):(\d\d)(?::(\d\d))?")
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TEXT_LENGTH = 200
_FAULTS_TOLD = 10
"""Of one reply; a bulk may have one in each of 50,000 rows."""
_MOST_HOLIDAYS = 1000
"""Of one exchange; a year has some ten."""

T = TypeVar("T")


class UnreadableError(ValueError):
    """A reply is not what it should be; says where, and never what stood there."""


class DailyBar(NamedTuple):
    """One row of ``eod``, as the feed has it: volume adjusted for splits, prices not."""

    day: date
    open: float
    high: float
    low: float
    close: float
    adjusted_close: float
    volume: float


class BulkBar(NamedTuple):
    """One row of ``eod-bulk-last-day``."""

    code: str
    bar: DailyBar


class BulkSplit(NamedTuple):
    """A split: `ratio` new shares for one old, first traded on `day`."""

    code: str
    day: date
    ratio: float


class BulkDividend(NamedTuple):
    """A dividend and the dates that are known of it."""

    code: str
    day: date
    value: float
    currency: str
    declared_on: date | None
    recorded_on: date | None
    paid_on: date | None
    period: str
    unadjusted_value: float
    """NaN where it is not known."""


class SplitRow(NamedTuple):
    """One row of ``splits``; see `BulkSplit`."""

    day: date
    ratio: float


@dataclass(frozen=True, slots=True)
class Account:
    """What a token may ask and has asked."""

    requests: int
    """Calls counted on `requests_on`; a new day's count begins with its first call."""
    requests_on: date | None
    daily_limit: int
    extra_limit: int
    plan: str


@dataclass(frozen=True, slots=True)
class TradingHours:
    """Local hours of an exchange; what it does not have is ``None``."""

    open: time
    close: time
    weekdays: frozenset[int]
    """0 for Monday."""
    lunch: tuple[time, time] | None = None
    pre_market: tuple[time, time] | None = None
    after_hours: tuple[time, time] | None = None


@dataclass(frozen=True, slots=True)
class ExchangeDetails:
    """What the feed says of an exchange. Its hours in UTC are left out: they are today's only."""

    code: str
    name: str
    zone: ZoneInfo
    hours: TradingHours
    holidays: tuple[Holiday, ...]
    """By date."""
    mics: tuple[str, ...] = ()
    """Of the first version only, as all that follow."""
    country: str = ""
    currency: str = ""
    is_open: bool | None = None
    active_tickers: int | None = None
    """Seen within two months."""
    updated_tickers: int | None = None
    """Those that have the present session's prices."""
    previous_day_updated_tickers: int | None = None


def _day(value: object) -> date:
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError("a date such as 2026-11-27 was wanted")
    return date.fromisoformat(value)


def _day_or_none(value: object) -> date | None:
    return None if value in ("", None, "0000-00-00") else _day(value)


def _time(value: object) -> time:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a time such as 13:00 was wanted")
    hour, minute, second = match.groups()
    return time(int(hour), int(minute), int(second or 0))


def _time_or_none(value: object) -> time | None:
    return None if value in ("", None) else _time(value)


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number was wanted")
    return float("nan") if value in ("", None) else value


def _text(value: object) -> str:
    """Clean a text that people will see, of whatever could disturb a line of a log or a page."""
    if value is None:
        return ""
    if not isinstance(value, str | int):
        raise ValueError("a text was wanted")
    kept = "".join(each if each.isprintable() else " " for each in str(value))
    return " ".join(kept.split())[:_TEXT_LENGTH]


def _code(value: object) -> str:
    code = "" if isinstance(value, bool) else _text(value)
    if not code:
        raise ValueError("a code such as US was wanted")
    return code


def _ratio(value: object) -> float:
    """Read ``"4.000000/1.000000"``: new shares, old shares."""
    new, slash, old = value.partition("/") if isinstance(value, str) else ("", "", "")
    try:
        ratio = float(new) / float(old) if slash else 0.0
    except (ValueError, ZeroDivisionError):
        ratio = 0.0
    if not 0.0 < ratio < float("inf"):
        raise ValueError("a split such as 4.000000/1.000000 was wanted")
    return ratio


def _weekdays(value: object) -> frozenset[int]:
    parts = value.split(",") if isinstance(value, str) else []
    names = [part.strip()[:3].lower() for part in parts]
    if not names or any(name not in _WEEKDAYS for name in names):
        raise ValueError("working days such as Mon,Tue were wanted")
    return frozenset(map(_WEEKDAYS.index, names))


def _zone(value: object) -> ZoneInfo:
    try:
        return ZoneInfo(str(value))
    except (KeyError, ValueError, OSError):
        raise ValueError("a time zone such as America/New_York was wanted") from None


def _entries(value: object) -> object:
    """Take a PHP array for what it is: an object with keys 0, 1, ..., a list, or either empty."""
    return _few(list(value.values()) if isinstance(value, dict) else value)


def _dated(value: object) -> object:
    """Take an empty PHP array for an empty object."""
    return {} if value == [] else _few(value)


def _few(value: object) -> object:
    if isinstance(value, list | dict) and len(value) > _MOST_HOLIDAYS:
        raise ValueError(f"at most {_MOST_HOLIDAYS} holidays were wanted")
    return value


Day = Annotated[date, BeforeValidator(_day)]
MaybeDay = Annotated[date | None, BeforeValidator(_day_or_none)]
Time = Annotated[time, BeforeValidator(_time)]
MaybeTime = Annotated[time | None, BeforeValidator(_time_or_none)]
Number = Annotated[float, BeforeValidator(_number)]
Text = Annotated[str, BeforeValidator(_text)]
Code = Annotated[str, BeforeValidator(_code)]
Ratio = Annotated[float, BeforeValidator(_ratio)]


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)


class _WireBar(_Wire):
    date: Day
    open: Number
    high: Number
    low: Number
    close: Number
    adjusted_close: Number
    volume: Number

    def bar(self) -> DailyBar:
        return DailyBar(
            self.date,
            self.open,
            self.high,
            self.low,
            self.close,
            self.adjusted_close,
            self.volume,
        )


class _WireBulkBar(_WireBar):
    code: Code


class _WireSplit(_Wire):
    date: Day
    split: Ratio


class _WireBulkSplit(_WireSplit):
    code: Code


class _WireDividend(_Wire):
    code: Code
    date: Day
    dividend: Number
    currency: Text = ""
    declared: MaybeDay = Field(None, alias="declarationDate")
    recorded: MaybeDay = Field(None, alias="recordDate")
    paid: MaybeDay = Field(None, alias="paymentDate")
    period: Text = ""
    unadjusted: Number = Field(float("nan"), alias="unadjustedValue")


class _WireAccount(_Wire):
    requests: int = Field(alias="apiRequests", ge=0)
    requests_on: MaybeDay = Field(None, alias="apiRequestsDate")
    daily_limit: int = Field(alias="dailyRateLimit", ge=0)
    extra_limit: int = Field(0, alias="extraLimit", ge=0)
    plan: Text = Field("", alias="subscriptionMode")


class _Named(_Wire):
    model_config = ConfigDict(alias_generator=to_pascal)


class _WireHours(_Named):
    open: Time
    close: Time
    working_days: Annotated[frozenset[int], BeforeValidator(_weekdays)]
    lunch_break_start: MaybeTime = None
    lunch_break_end: MaybeTime = None
    pre_market_open: MaybeTime = None
    pre_market_close: MaybeTime = None
    after_hours_open: MaybeTime = None
    after_hours_close: MaybeTime = None

    def hours(self) -> TradingHours:
        return TradingHours(
            self.open,
            self.close,
            self.working_days,
            _both(self.lunch_break_start, self.lunch_break_end),
            _both(self.pre_market_open, self.pre_market_close),
            _both(self.after_hours_open, self.after_hours_close),
        )


class _WireExchange(_Named):
    name: Text
    code: Code
    timezone: Annotated[ZoneInfo, BeforeValidator(_zone)]
    trading_hours: _WireHours


class _WireHoliday(_Named):
    """Of the first version; the second has the date as the key."""

    holiday: Text
    date: Day
    type: Text = "official"
    early_close: MaybeTime = None
    close_time: MaybeTime = None


class _WireDatedHoliday(_Named):
    holiday: Text
    type: Text
    early_close: MaybeTime = None


class _WireExchange1(_WireExchange):
    operating_mic: Text = Field("", alias="OperatingMIC")
    country: Text = ""
    currency: Text = ""
    is_open: bool | None = Field(None, alias="isOpen")
    exchange_holidays: Annotated[list[_WireHoliday], BeforeValidator(_entries)]
    exchange_early_close_days: Annotated[list[_WireHoliday], BeforeValidator(_entries)] = []
    active_tickers: int | None = None
    updated_tickers: int | None = None
    previous_day_updated_tickers: int | None = None


class _WireExchange2(_WireExchange):
    exchange_holidays: Annotated[dict[Day, _WireDatedHoliday], BeforeValidator(_dated)]


class _WireReply2(_Wire):
    data: _WireExchange2


class _ListedCode(_Named):
    code: Code


# At the first row that is wrong it ends: a fault takes two hundred times the room of the "0," that
# makes it, and a body may have millions.
_Rows = Annotated[list[T], Field(fail_fast=True)]


class _WireCodes(_Wire):
    data: _Rows[Code]


_BARS = TypeAdapter(_Rows[_WireBar])
_BULK_BARS = TypeAdapter(_Rows[_WireBulkBar])
_SPLITS = TypeAdapter(_Rows[_WireSplit])
_BULK_SPLITS = TypeAdapter(_Rows[_WireBulkSplit])
_DIVIDENDS = TypeAdapter(_Rows[_WireDividend])
_EXCHANGE_1 = TypeAdapter(_WireExchange1)
_EXCHANGE_2 = TypeAdapter(_WireReply2)
_CODES = TypeAdapter(_WireCodes)
_LISTED_CODES = TypeAdapter(_Rows[_ListedCode])
_ACCOUNT = TypeAdapter(_WireAccount)

_FIELDS = frozenset(
    field.alias or name
    for kind in (
        _WireBulkBar,
        _WireBulkSplit,
        _WireDividend,
        _WireAccount,
        _WireHoliday,
        _WireDatedHoliday,
        _WireHours,
        _WireExchange1,
        _WireExchange2,
        _WireReply2,
        _WireCodes,
        _ListedCode,
    )
    for name, field in kind.model_fields.items()
)
"""What fields are called on the wire; all other keys are the server's own."""

_KINDS = {
    "official": HolidayKind.CLOSED,
    "bank": HolidayKind.BANK,
    "earlyclose": HolidayKind.EARLY_CLOSE,
}


def parse(text: str) -> Any:
    """
    Read JSON.

    Raises:
        UnreadableError: It is none, or nested without end.
    """
    try:
        return from_json(text)
    except ValueError:
        kind = "a page of HTML" if text.lstrip()[:1] == "<" else "no JSON, or half of it"
        raise UnreadableError(f"{kind} came, of {len(text)} characters") from None


def read_bars(text: str) -> tuple[DailyBar, ...]:
    """
    Read ``eod``, JSON or CSV: one bar a date, ascending.

    JSON is asked for. Of a CSV that ends between two lines nobody can tell whether it is whole.

    Raises:
        UnreadableError: A row is not whole, or two speak of the same date and differ.
    """
    rows = _check(_BARS, _rows(text))
    found: dict[date, DailyBar] = {}
    for row in rows:
        bar = row.bar()
        # By text, so that a missing value equals itself.
        if repr(found.setdefault(bar.day, bar)) != repr(bar):
            raise UnreadableError("two bars of the same date differ")
    return tuple(found[day] for day in sorted(found))


def read_bulk_bars(text: str, codes: Collection[str] = ()) -> tuple[BulkBar, ...]:
    """Read ``eod-bulk-last-day``, JSON or CSV; of some codes, or all. Raises like `read_bars`."""
    rows = _check(_BULK_BARS, _of_codes(_rows(text), codes))
    return tuple(BulkBar(row.code, row.bar()) for row in rows)


def read_splits(text: str) -> tuple[SplitRow, ...]:
    """Read ``splits`` of one symbol, by date."""
    rows = _check(_SPLITS, _rows(text))
    return tuple(sorted(SplitRow(row.date, row.split) for row in rows))


def read_bulk_splits(text: str) -> tuple[BulkSplit, ...]:
    """Read an exchange's splits of one date."""
    rows = _check(_BULK_SPLITS, _rows(text))
    return tuple(BulkSplit(row.code, row.date, row.split) for row in rows)


def read_bulk_dividends(text: str) -> tuple[BulkDividend, ...]:
    """Read an exchange's dividends of one date."""
    return tuple(
        BulkDividend(
            row.code,
            row.date,
            row.dividend,
            row.currency,
            row.declared,
            row.recorded,
            row.paid,
            row.period,
            row.unadjusted,
        )
        for row in _check(_DIVIDENDS, _rows(text))
    )


def read_last_date(text: str) -> date:
    """Read the bare date that ``filter=last_date`` gives, in quotes or without."""
    try:
        return _day(text.strip().strip('"'))
    except ValueError as fault:
        raise UnreadableError(str(fault)) from None


def read_account(text: str) -> Account:
    """Read ``user``."""
    row = _check(_ACCOUNT, parse(text))
    return Account(row.requests, row.requests_on, row.daily_limit, row.extra_limit, row.plan)


def read_listed_exchanges(text: str) -> frozenset[str]:
    """Read ``exchanges-list``: the codes of the exchanges that have prices."""
    return frozenset(row.code for row in _check(_LISTED_CODES, parse(text)))


def read_exchange_codes(text: str) -> tuple[str, ...]:
    """Read the list of the second version's exchanges."""
    return tuple(_check(_CODES, parse(text)).data)


def read_exchange_1(text: str) -> ExchangeDetails:
    """Read ``exchange-details`` of the first version."""
    row = _check(_EXCHANGE_1, parse(text))
    holidays = [
        Holiday(each.date, each.holiday, _kind(each.type)) for each in row.exchange_holidays
    ] + [
        Holiday(
            each.date, each.holiday, HolidayKind.EARLY_CLOSE, each.early_close or each.close_time
        )
        for each in row.exchange_early_close_days
    ]
    return ExchangeDetails(
        row.code,
        row.name,
        row.timezone,
        row.trading_hours.hours(),
        _by_date(holidays),
        tuple(mic.strip() for mic in row.operating_mic.split(",") if mic.strip()),
        row.country,
        row.currency,
        row.is_open,
        row.active_tickers,
        row.updated_tickers,
        row.previous_day_updated_tickers,
    )


def read_exchange_2(text: str) -> ExchangeDetails:
    """Read ``v2/exchange-details`` of one exchange."""
    row = _check(_EXCHANGE_2, parse(text)).data
    holidays = []
    for day, each in row.exchange_holidays.items():
        kind = _kind(each.type)
        close = each.early_close if kind is HolidayKind.EARLY_CLOSE else None
        holidays.append(Holiday(day, each.holiday, kind, close))
    return ExchangeDetails(
        row.code, row.name, row.timezone, row.trading_hours.hours(), _by_date(holidays)
    )


def _kind(text: str) -> HolidayKind:
    return _KINDS.get(text.replace(" ", "").lower(), HolidayKind.UNKNOWN)


def _by_date(holidays: list[Holiday]) -> tuple[Holiday, ...]:
    return tuple(sorted(holidays, key=lambda holiday: holiday.day))


def _both(start: time | None, end: time | None) -> tuple[time, time] | None:
    return None if start is None or end is None else (start, end)


def _check(adapter: TypeAdapter[T], document: object) -> T:
    """
    Give a document its types.

    Raises:
        UnreadableError: It is not so; of its faults the first ten are told, each with its place:
            our names of fields, numbers of rows and dates. Neither values nor other keys are, for
            either could be what the server echoes.
    """
    try:
        return adapter.validate_python(document)
    except ValidationError as error:
        faults = [
            f"{_place(each['loc'])}{_said(each['type'], each['msg'])}"
            for each in error.errors(include_url=False, include_input=False, include_context=False)
        ]
    more = len(faults) - _FAULTS_TOLD
    told = faults[:_FAULTS_TOLD]
    if more > 0:
        told.append(f"and {more} fault{'' if more == 1 else 's'} more")
    raise UnreadableError("; ".join(told))


def _said(kind: str, message: str) -> str:
    """Write what is wrong in the feed's words, which knows none of our types."""
    wanted = {"model_type": "an object was wanted", "list_type": "a list was wanted"}
    said = wanted.get(kind, message.removeprefix("Value error, "))
    return said[:1].lower() + said[1:]


def _place(location: tuple[int | str, ...]) -> str:
    known = [
        str(part)
        for part in location
        if isinstance(part, int) or part in _FIELDS or _DAY.fullmatch(part)
    ]
    return f"{'.'.join(known)}: " if known else ""


def _rows(text: str) -> object:
    """Return the rows of a table, JSON or CSV."""
    if not text.lstrip()[:5].lower().startswith(("date,", "code,")):
        return parse(text)
    if not text.endswith("\n"):
        raise UnreadableError("a CSV came whose last line is not whole")
    try:
        table = csv.reader(io.StringIO(text.lstrip()), strict=True)
        header, *lines = [line for line in table if line]
    except csv.Error:
        raise UnreadableError("no CSV came, or half of it") from None
    names = [name.strip().lower() for name in header]
    if "date" not in names:
        raise UnreadableError("a CSV without dates came")
    # Old versions of the interface wrote a line at the end that was no row: one value, or none.
    if lines and sum(map(bool, lines[-1])) <= 1:
        lines.pop()
    if any(len(line) != len(names) for line in lines):
        raise UnreadableError("a row of the CSV is not whole")
    return [dict(zip(names, line, strict=True)) for line in lines]


def _of_codes(rows: object, codes: Collection[str]) -> object:
    """Leave out the rows of other codes, which may be as odd as they like."""
    if not codes or not isinstance(rows, list):
        return rows
    return [row for row in rows if not _is_other(row, codes)]


def _is_other(row: object, codes: Collection[str]) -> bool:
    code = row.get("code") if isinstance(row, Mapping) else None
    return isinstance(code, str | int) and not isinstance(code, bool) and str(code) not in codes
