"""The sessions of single exchanges, read from the snapshot that ships with the package.

The snapshot is built by ``tools/build_sessions.py`` and holds, for each exchange, its ordinary
local hours by effective date, those of single days of the week, and every exception to them. Here
it is only read, with the standard library: one file an exchange, on first use.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from importlib.resources import files
from typing import Any
from zoneinfo import ZoneInfo

from prometheus.core.sessions import Session
from prometheus.errors import SnapshotError, UnknownMarketError

WEEKEND = "weekend"
"""The reason for a day outside the exchange's trading week."""

FORMAT = 1
_ONE_DAY = timedelta(days=1)
_DATA = files("prometheus.core") / "data" / "sessions"
_CLOCK = re.compile(r"(\d\d):(\d\d)(?::(\d\d))?(?:([+-]\d)d)?")
_WEEK = re.compile(r"[01]{7}")


@dataclass(frozen=True, slots=True)
class LocalTime:
    """A time of day at an exchange, counted from the date of the session it belongs to."""

    at: time
    days: int = 0
    """-1 when it falls on the calendar day before the session's date, as futures open."""

    @classmethod
    def parse(cls, text: str) -> LocalTime:
        """Read ``"09:30"``, ``"09:30:15"`` or ``"17:00-1d"``."""
        found = _CLOCK.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is not a local time such as 09:30 or 17:00-1d")
        hour, minute, second, days = found.groups()
        return cls(time(int(hour), int(minute), int(second or 0)), int(days or 0))

    def __str__(self) -> str:
        """Write it as it is read."""
        text = self.at.isoformat("seconds" if self.at.second else "minutes")
        return f"{text}{self.days:+}d" if self.days else text

    @property
    def offset(self) -> timedelta:
        """How far it is from the first midnight of the session's date on the clock's face."""
        at = self.at
        return timedelta(days=self.days, hours=at.hour, minutes=at.minute, seconds=at.second)

    def on(self, day: date, zone: ZoneInfo) -> datetime:
        """
        Find the instant on a session's date, aware UTC.

        The zone's rules for that date decide, so that hours stay put when clocks change.
        """
        if self.days:
            day += self.days * _ONE_DAY
        return datetime.combine(day, self.at, zone).astimezone(UTC)


Break = tuple[LocalTime, LocalTime]


@dataclass(frozen=True, slots=True)
class Hours:
    """Local hours of a session."""

    open: LocalTime
    close: LocalTime
    breaks: tuple[Break, ...] = ()
    """In order, inside the session."""


@dataclass(frozen=True, slots=True)
class SpecialHours:
    """How one session's hours differ from the ordinary; ``None`` where they do not."""

    reason: str
    open: LocalTime | None
    close: LocalTime | None
    breaks: tuple[Break, ...] | None


@dataclass(frozen=True, eq=False)
class Exchange:
    """One exchange: when it trades, between the first and the last date that are known."""

    mic: str
    """ISO 10383 code, such as ``XNYS``; of a market with hours of its own, that market's name."""
    zone: ZoneInfo
    first: date
    """First date for which it is known whether there is a session."""
    last: date
    """Last such date: the horizon."""
    horizon_source: str
    """On what grounds the sessions are known as far as ``last``."""
    weeks: tuple[tuple[date, str], ...]
    """Effective date -> seven flags from Monday, ``1`` for a day of the trading week."""
    hours: tuple[tuple[date, Hours], ...]
    """Effective date -> ordinary hours."""
    weekday_hours: Mapping[int, tuple[tuple[date, Hours], ...]]
    """Day of the week, Monday is 0 -> effective date and the ordinary hours it has of its own."""
    closures: Mapping[date, str]
    """Days of the trading week without a session -> reason."""
    extra_sessions: Mapping[date, str]
    """Sessions outside the trading week -> reason."""
    special_hours: Mapping[date, SpecialHours]
    seat: str | None = None
    """The city it is in, where its zone is named for another one."""
    _since: tuple[list[date], list[date]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        since = ([day for day, _ in self.weeks], [day for day, _ in self.hours])
        object.__setattr__(self, "_since", since)

    @property
    def city(self) -> str:
        """The city whose clocks it goes by, as people call it: ``"New York"``."""
        return self.seat or self.zone.key.rsplit("/", 1)[-1].replace("_", " ")

    def in_week(self, day: date) -> bool:
        """Say whether this is a day of the trading week."""
        if len(self.weeks) == 1:
            return self.weeks[0][1][day.weekday()] == "1"
        index = max(bisect_right(self._since[0], day) - 1, 0)
        return self.weeks[index][1][day.weekday()] == "1"

    def is_session(self, day: date) -> bool:
        """Say whether a session carries this date; ``first <= day <= last`` is the caller's."""
        if self.in_week(day):
            return day not in self.closures
        return day in self.extra_sessions

    def reason(self, day: date) -> str | None:
        """Say why there is no session: ``"weekend"`` or a name; ``None`` if there is one."""
        if self.is_session(day):
            return None
        return self.closures.get(day, WEEKEND)

    def ordinary(self, day: date) -> Hours:
        """The ordinary hours in force on a date."""
        for since, hours in reversed(self.weekday_hours.get(day.weekday(), ())):
            if since <= day:
                return hours
        return self.hours[max(bisect_right(self._since[1], day) - 1, 0)][1]

    def bounds(self, day: date) -> tuple[datetime, datetime]:
        """Open and close of the session of this date, aware UTC."""
        hours = self.ordinary(day)
        opens, closes = hours.open, hours.close
        special = self.special_hours.get(day)
        if special is not None:
            opens = special.open or opens
            closes = special.close or closes
        opens_at = opens.on(day, self.zone)
        # An open that clocks skip comes after a close that they do not.
        return opens_at, max(opens_at, closes.on(day, self.zone))

    def ordinary_bounds(self, day: date) -> tuple[datetime, datetime]:
        """When a session of this date would open and close with ordinary hours, aware UTC."""
        hours = self.ordinary(day)
        return hours.open.on(day, self.zone), hours.close.on(day, self.zone)

    def session(self, day: date) -> Session:
        """The session of this date, which `is_session` must have confirmed."""
        opens, closes = self.bounds(day)
        usual_open, usual_close = self.ordinary_bounds(day)
        special = self.special_hours.get(day)
        pauses = self.ordinary(day).breaks
        if special is not None and special.breaks is not None:
            pauses = special.breaks
        breaks = ((start.on(day, self.zone), end.on(day, self.zone)) for start, end in pauses)
        return Session(
            date=day,
            open=opens,
            close=closes,
            # A short day does without the ordinary breaks it does not reach.
            breaks=tuple((start, end) for start, end in breaks if opens < start < end < closes),
            early_close=closes < usual_close,
            late_open=opens > usual_open,
            reason=special.reason if special is not None else self.extra_sessions.get(day),
        )

    def midnight(self, day: date) -> datetime:
        """
        The first instant of a local date, aware UTC.

        Where clocks skip midnight it is the instant they do; where midnight comes twice, the first.
        """
        return datetime.combine(day, time(), self.zone).astimezone(UTC)


def _dates(text: str) -> list[date]:
    return [date.fromisoformat(day) for day in text.split()]


def parse_breaks(text: str) -> tuple[Break, ...]:
    """Read ``"11:30-12:30"``, several with blanks between."""
    pairs = (re.fullmatch(r"(.+?(?:[+-]\dd)?)-(\d\d:.+)", pause) for pause in text.split())
    return tuple(
        (LocalTime.parse(pair[1]), LocalTime.parse(pair[2])) for pair in pairs if pair is not None
    )


def parse_exchange(document: Mapping[str, Any]) -> Exchange:
    """
    Read one exchange from its JSON document.

    Raises:
        ValueError: the document is of another format, or a time or date in it is unreadable.
        LookupError, TypeError, AttributeError: something in it is missing or of another kind.
    """
    if document["format"] != FORMAT:
        raise ValueError(f"sessions of format {document['format']}, expected {FORMAT}")
    ordinary: dict[str, list[tuple[date, Hours]]] = defaultdict(list)
    for entry in document["hours"]:
        hours = Hours(
            LocalTime.parse(entry["open"]),
            LocalTime.parse(entry["close"]),
            parse_breaks(entry["breaks"]),
        )
        ordinary[entry.get("days", "")].append((date.fromisoformat(entry["from"]), hours))
    special: dict[date, SpecialHours] = {}
    for entry in document["special_hours"]:
        special_hours = SpecialHours(
            reason=entry["reason"],
            open=LocalTime.parse(entry["open"]) if "open" in entry else None,
            close=LocalTime.parse(entry["close"]) if "close" in entry else None,
            breaks=parse_breaks(entry["breaks"]) if "breaks" in entry else None,
        )
        special.update(dict.fromkeys(_dates(entry["dates"]), special_hours))
    weeks = tuple((date.fromisoformat(e["from"]), e["days"]) for e in document["weeks"])
    if not weeks or not all(_WEEK.fullmatch(days) for _, days in weeks):
        raise ValueError(f"weeks are {document['weeks']}, expected seven flags from Monday")
    return Exchange(
        mic=document["mic"],
        zone=ZoneInfo(document["zone"]),
        first=date.fromisoformat(document["first"]),
        last=date.fromisoformat(document["last"]),
        horizon_source=document["horizon_source"],
        weeks=weeks,
        hours=tuple(ordinary.pop("")),
        weekday_hours={days.index("1"): tuple(steps) for days, steps in ordinary.items()},
        closures={day: e["reason"] for e in document["closures"] for day in _dates(e["dates"])},
        extra_sessions={
            day: e["reason"] for e in document["extra_sessions"] for day in _dates(e["dates"])
        },
        special_hours=special,
        seat=document.get("city"),
    )


@cache
def _snapshot() -> tuple[str, tuple[str, ...]]:
    document = json.loads((_DATA / "snapshot.json").read_text(encoding="utf-8"))
    return document["version"], tuple(document["exchanges"])


def snapshot_version() -> str:
    """
    Name the snapshot: versions of exchange_calendars and tzdata, and a digest of its content.

    Two installations with the same version know the same sessions.
    """
    return _snapshot()[0]


def exchange_mics() -> tuple[str, ...]:
    """All exchanges of the snapshot, in its order."""
    return _snapshot()[1]


_own_hours: Mapping[str, Callable[[], Exchange]] = {}
_when_changed: list[Callable[[], object]] = []


def use_own_hours(builders: Mapping[str, Callable[[], Exchange]]) -> None:
    """Let `load_exchange` know these markets with hours of their own, and no others."""
    global _own_hours
    _own_hours = builders
    load_exchange.cache_clear()
    calendars_changed()


def calendars_changed() -> None:
    """Have everything forgotten that was worked out from calendars and kept by a market's name."""
    for forget in _when_changed:
        forget()


def when_calendars_change(forget: Callable[[], object]) -> None:
    """Have something called whenever a name may have begun to stand for other sessions."""
    _when_changed.append(forget)


@cache
def load_exchange(mic: str) -> Exchange:
    """
    Read an exchange from the snapshot, or make that of a market with hours of its own; once.

    Raises:
        UnknownMarketError: there is no such exchange.
        SnapshotError: its file is missing or damaged; those of other exchanges are not.
    """
    build = _own_hours.get(mic)
    if build is not None:
        return build()
    if mic not in exchange_mics():
        raise UnknownMarketError(mic, exchange_mics())
    try:
        return parse_exchange(json.loads((_DATA / f"{mic}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SnapshotError(mic, error) from error
