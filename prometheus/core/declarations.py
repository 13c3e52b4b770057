"""Markets as TOML declares them: members, or hours of their own; buffers, holidays.

``[markets.NAME]`` has either ``members``, the MICs whose states the market unites, or a ``zone``
with ``hours`` by weekday or with a daily ``cut``. Whatever is wrong is collected, not raised, so
that a file's author reads all of it at once: a check leaves out what could not be read, and holds
the rest against each other.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from prometheus.core.durations import parse_duration
from prometheus.core.exchanges import (
    Break,
    Exchange,
    Hours,
    LocalTime,
    SpecialHours,
    exchange_mics,
    load_exchange,
)
from prometheus.core.instants import nearest_zone
from prometheus.core.states import Buffer, MarketStateConfig
from prometheus.errors import nearest

if TYPE_CHECKING:
    from holidays import HolidayBase

HOLIDAYS_KNOWN_TO = date(2027, 12, 31)
"""How far days off by rule of ``holidays`` are believed, unless a market's ``last`` says more."""

FIRST = date(1990, 1, 1)
"""From when hours without a date hold."""

EARLIEST, LATEST = date(1900, 1, 1), date(2100, 12, 31)
"""Between which a date in a declaration must be."""
LONGEST_BUFFER = timedelta(hours=24)

_BUFFERS = ("pre_open", "post_close")
_WITHOUT_BUFFERS = MarketStateConfig(pre_open=timedelta(0), post_close=timedelta(0))
"""Of a market that is cut into days: what is after one session is the next one."""
_OF_OWN_HOURS = ("zone", "hours", "cut", "holidays", "closed", "special", "last")
_KEYS = ("members", *_OF_OWN_HOURS, *_BUFFERS)
_HOURS_KEYS = ("days", "open", "close", "breaks", "from")
_EXAMPLE_HOURS = '{ days = "Mon-Fri", open = "09:00", close = "17:00" }'
_SPECIAL_KEYS = ("open", "close", "breaks", "reason")
_SOURCES = ("country", "market", "exchange")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_KEPT = ("enabled", "GLOBAL", "celery", "unacked", "unacked_index", "unacked_mutex")
"""A setting beside the markets, the DAG that spans them, and keys of Celery's in Redis."""
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_ONE_DAY = timedelta(days=1)
_NOON = timedelta(hours=12)
_NO_REASON = "closed as declared"

Path = tuple[str | int, ...]
"""Keys and positions that lead to a value, from the market's name on."""

Timetable = Mapping[int, Hours]
"""Day of the week, Monday is 0 -> hours of its session; a day that is missing has none."""


@dataclass(frozen=True, slots=True)
class DaysOff:
    """Where a market's closed days come from, besides those it lists."""

    kind: str
    """``country`` or ``market`` of ``holidays``, or ``exchange`` of the snapshot."""
    code: str
    subdivision: str | None = None

    def listed(self, years: Iterable[int] = ()) -> HolidayBase:
        """
        Ask ``holidays``, which is imported here because it takes a while.

        Raises:
            NotImplementedError: it knows no such code.
        """
        from holidays import country_holidays, financial_holidays

        find = country_holidays if self.kind == "country" else financial_holidays
        return find(self.code, subdiv=self.subdivision, years=years, language="en_US")

    def bounds(self) -> tuple[date, date]:
        """First and last date of which it says anything."""
        if self.kind == "exchange":
            exchange = load_exchange(self.code)
            return exchange.first, exchange.last
        listed = self.listed()
        return date(listed.start_year, 1, 1), date(listed.end_year, 12, 31)

    def closures(self, first: date, last: date) -> Mapping[date, str]:
        """Closed days and their names."""
        if self.kind == "exchange":
            return load_exchange(self.code).closures
        return dict(self.listed(range(first.year, last.year + 1)))

    def early_closes(self, zone: ZoneInfo) -> Iterator[tuple[date, str, LocalTime]]:
        """Short days: each with its reason and its close on the clocks of a zone."""
        if self.kind != "exchange":
            return
        exchange = load_exchange(self.code)
        for day, special in exchange.special_hours.items():
            close = exchange.bounds(day)[1]
            if close < exchange.ordinary_bounds(day)[1]:
                local = close.astimezone(zone)
                yield day, special.reason, LocalTime(local.time(), (local.date() - day).days)

    def __str__(self) -> str:
        if self.kind == "exchange":
            return f"closed days of {self.code} ({load_exchange(self.code).horizon_source})"
        return f"closed days of {self.code} by rule of holidays"


@dataclass(frozen=True, slots=True)
class OwnHours:
    """The hours of a market that is no exchange of the snapshot."""

    zone: ZoneInfo
    timetables: tuple[tuple[date, Timetable], ...]
    """Effective date -> the whole week from then on."""
    days_off: tuple[DaysOff, ...]
    closed: Mapping[date, str]
    special: Mapping[date, SpecialHours]
    """Sessions of other hours; also sessions on days that have none otherwise."""
    last: date | None
    """As declared; ``None`` for as far as can be believed."""
    grounds: str

    def timetable(self, day: date) -> Timetable:
        """Return the week that holds on a date."""
        found = self.timetables[0][1]
        for since, timetable in self.timetables:
            if since <= day:
                found = timetable
        return found

    def known(self) -> tuple[date, date]:
        """First and last date of which it is known whether there is a session."""
        return _known(self.timetables[0][0], self.days_off, self.last)

    def exchange(self, name: str) -> Exchange:
        """Lay the hours out as those of an exchange."""
        first, last = self.known()
        closures: dict[date, str] = {}
        special: dict[date, SpecialHours] = {}
        for source in self.days_off:
            closures |= source.closures(first, last)
            for day, reason, close in source.early_closes(self.zone):
                hours = self.timetable(day).get(day.weekday())
                if hours is not None and hours.open.offset < close.offset < hours.close.offset:
                    special[day] = SpecialHours(reason, None, close, None)
        closures = {day: name.replace(";", ",") for day, name in closures.items()} | dict(
            self.closed
        )
        special |= self.special
        weeks = tuple(
            (since, "".join(str(int(weekday in timetable)) for weekday in range(7)))
            for since, timetable in self.timetables
        )
        of_weekday: dict[int, list[tuple[date, Hours]]] = {}
        if any(len(set(timetable.values())) > 1 for _, timetable in self.timetables):
            for since, timetable in self.timetables:
                for weekday, hours in timetable.items():
                    of_weekday.setdefault(weekday, []).append((since, hours))
        return Exchange(
            mic=name,
            zone=self.zone,
            first=first,
            last=last,
            horizon_source="; ".join([self.grounds, *map(str, self.days_off)]),
            weeks=weeks,
            hours=tuple((since, next(iter(week.values()))) for since, week in self.timetables),
            weekday_hours={weekday: tuple(steps) for weekday, steps in of_weekday.items()},
            closures={
                day: reason
                for day, reason in closures.items()
                if day.weekday() in self.timetable(day) and day not in self.special
            },
            extra_sessions={
                day: hours.reason
                for day, hours in self.special.items()
                if day.weekday() not in self.timetable(day)
            },
            special_hours=special,
        )


@dataclass(frozen=True, slots=True)
class Declaration:
    """One ``[markets.NAME]``."""

    market_id: str
    members: tuple[str, ...]
    """MICs; its own name if it has hours of its own; empty if only buffers are declared."""
    config: MarketStateConfig
    own_hours: OwnHours | None
    version: str
    """A digest of all that was declared."""
    faults: tuple[str, ...] = ()
    """What is wrong with it. Then the market is held: nothing but its name is to be relied on."""
    misnamed: bool = False
    """Whether the name itself is wrong, so that there can be no such market, not even held."""


def read_declarations(
    tables: Mapping[str, Any],
    *,
    where: Callable[[Path], str],
    grounds: str,
    shipped: Mapping[str, Declaration],
) -> tuple[tuple[Declaration, ...], list[str]]:
    """
    Read markets as TOML has them.

    Args:
        tables: Name -> what is below ``[markets.NAME]``.
        where: Says where a value stands in the file; what it is given may be a whole market.
        grounds: On what grounds hours are known that stand in this file.
        shipped: Markets whose names are taken, of which only the buffers can be declared.

    Returns:
        The declarations in order, those with faults too, and all faults.
    """
    reading = _Reading(where, grounds, shipped)
    found = [reading.market(name, table, tables) for name, table in tables.items()]
    return tuple(found), reading.faults


@dataclass(frozen=True, slots=True)
class _Weeks:
    """Hours, as far as they could be read."""

    steps: tuple[tuple[date, Mapping[int, Hours | None]], ...] = ()
    """As `OwnHours.timetables`, with ``None`` for a day whose hours are not known; empty if nothing
    is."""

    def hours(self, day: date) -> Hours | None:
        """Return the hours of a date, if it has any that are known."""
        return self._week(day).get(day.weekday())

    def are_none(self, day: date) -> bool:
        """Say whether it is known that a date has no hours."""
        return bool(self.steps) and day.weekday() not in self._week(day)

    def _week(self, day: date) -> Mapping[int, Hours | None]:
        found = self.steps[0][1] if self.steps else {}
        for since, week in self.steps:
            if since <= day:
                found = week
        return found


class _Reading:
    """One reading of a file's markets, and what is wrong with them."""

    def __init__(
        self,
        where: Callable[[Path], str],
        grounds: str,
        shipped: Mapping[str, Declaration],
    ) -> None:
        self.faults: list[str] = []
        self._where = where
        self._grounds = grounds
        self._shipped = shipped

    def _fault(self, path: Path, text: str) -> None:
        self.faults.append(f"{self._where(path)}: {text}")

    def _unknown_keys(
        self,
        path: Path,
        table: Mapping[str, Any],
        keys: tuple[str, ...],
        of_hours: tuple[str, ...] = (),
    ) -> None:
        for key in table:
            if key in of_hours:
                example = f"hours = [{_EXAMPLE_HOURS}]"
                self._fault((*path, key), f"no such key. It belongs inside hours: {example}")
            elif key not in keys:
                self._fault((*path, key), f"no such key.{nearest(key, keys)}")

    def _table(self, path: Path, value: object, example: str) -> Mapping[str, Any] | None:
        if isinstance(value, dict):
            return value
        self._fault(path, f"{value!r} must be a table such as {example}")
        return None

    # --- a market ---------------------------------------------------------------------------

    def market(self, name: str, table: object, all_tables: Iterable[str]) -> Declaration:
        before = len(self.faults)
        self._name(name, all_tables)
        misnamed = len(self.faults) > before
        found = None
        if isinstance(table, dict):
            found = self._market((name,), table)
        else:
            self._fault((name,), f"a market is one table: write [markets.{name}] once")
            for number, each in enumerate(table if isinstance(table, list) else ()):
                if isinstance(each, dict):
                    self._market((name, number), each)
        faults = tuple(self.faults[before:])
        if found is not None and not faults:
            return found
        # Its members stand for those that were meant; nothing is asked of them.
        members = () if self._is_taken(name) else ("24x7",)
        return Declaration(name, members, MarketStateConfig(), None, "", faults, misnamed)

    def _market(self, path: Path, table: Mapping[str, Any]) -> Declaration | None:
        before = len(self.faults)
        name = str(path[0])
        self._unknown_keys(path, table, _KEYS, of_hours=_HOURS_KEYS)
        misspelt = len(self.faults) > before
        taken = [key for key in table if key in _KEYS and key not in _BUFFERS]
        others = [key for key in table if key in _OF_OWN_HOURS]
        is_taken, has_members = self._is_taken(name), "members" in table
        has_hours = "hours" in table or "cut" in table
        if is_taken and taken:
            self._fault(
                (*path, taken[0]),
                f"the name {name} is taken, by a market or an exchange that is shipped; only "
                f"its pre_open and post_close can be set. Choose another name",
            )
        elif has_members and others:
            self._fault(
                (*path, others[0]),
                f"a market has either members or hours of its own, and {', '.join(others)} belong "
                f"to hours",
            )
        elif not (is_taken or has_members or has_hours or misspelt):
            self._fault(
                path, 'it says nothing of when it trades; write members = ["XNYS"], hours or cut'
            )
        members: tuple[str, ...] = ()
        if has_members:
            members = self._members((*path, "members"), table["members"])
        if has_hours and not (is_taken or has_members) and "zone" not in table:
            self._fault(path, 'its zone is missing; write zone = "Europe/Paris"')
        weeks, own_hours = self._own_hours(path, table)
        buffers = self._buffers(path, table)
        if is_taken:
            shipped = self._shipped.get(name)
            self._clocks(path, buffers, _ordinary(shipped.members if shipped else (name,)))
        elif has_members and not others:
            self._clocks(path, buffers, _ordinary(members))
        elif weeks.steps and not has_members:
            self._clocks(path, buffers, {each for each in weeks.steps[-1][1].values() if each})
        if len(self.faults) > before:
            return None
        config = MarketStateConfig(**buffers)
        members = (name,) if own_hours else members
        return Declaration(name, members, config, own_hours, _digest(table, own_hours))

    def _is_taken(self, name: str) -> bool:
        return name in self._shipped or name in exchange_mics()

    def _name(self, name: str, all_tables: Iterable[str]) -> None:
        if self._is_taken(name):
            return
        if not _NAME.fullmatch(name):
            self._fault(
                (name,),
                f"{name!r} cannot be the name of a queue; write letters, digits and underscores, a "
                f"letter first, at most 40",
            )
            return
        if name.casefold() in (kept.casefold() for kept in _KEPT):
            self._fault((name,), f"the name {name} is kept for something else. Choose another name")
            return
        for other in (*self._shipped, *exchange_mics(), *all_tables):
            if other != name and other.casefold() == name.casefold():
                self._fault((name,), f"{name!r} differs from {other!r} in its capitals only")

    def _members(self, path: Path, value: object) -> tuple[str, ...]:
        """Return those that there are."""
        if not isinstance(value, list) or not value or not all(isinstance(m, str) for m in value):
            self._fault(path, f'{value!r} must be a list of MICs such as ["XNYS", "XNAS"]')
            return ()
        for mic in dict.fromkeys(value):
            if mic not in exchange_mics():
                hint = nearest(mic, exchange_mics())
                if mic in self._shipped:
                    mics = ", ".join(self._shipped[mic].members)
                    hint = f" It is a market, and members are exchanges; those of {mic}: {mics}."
                self._fault(path, f"no exchange is called {mic!r}.{hint}")
            if value.count(mic) > 1:
                self._fault(path, f"{mic} is named twice")
        return tuple(mic for mic in value if mic in exchange_mics())

    def _buffers(self, path: Path, table: Mapping[str, Any]) -> dict[str, Buffer]:
        shipped = self._shipped.get(str(path[0]))
        own = _WITHOUT_BUFFERS if "cut" in table else MarketStateConfig()
        usual = own if shipped is None else shipped.config
        found = {
            key: self._buffer((*path, key), table[key]) if key in table else getattr(usual, key)
            for key in _BUFFERS
        }
        return {key: buffer for key, buffer in found.items() if buffer is not None}

    def _clocks(self, path: Path, buffers: Mapping[str, Buffer], hours: Iterable[Hours]) -> None:
        """Hold buffers that are times of day against the latest hours."""
        clocks = {key: at for key, at in buffers.items() if isinstance(at, LocalTime)}
        known = set(hours) if clocks else set()
        if not known:
            return
        opens = min((each.open for each in known), key=lambda at: at.offset)
        closes = max((each.close for each in known), key=lambda at: at.offset)
        if "pre_open" in clocks and clocks["pre_open"].offset > opens.offset:
            self._fault((*path, "pre_open"), f"{clocks['pre_open']} is after the open, {opens}")
        if "post_close" in clocks and clocks["post_close"].offset < closes.offset:
            self._fault(
                (*path, "post_close"), f"{clocks['post_close']} is before the close, {closes}"
            )

    def _buffer(self, path: Path, value: object) -> Buffer | None:
        wanted = (
            'write a duration such as "90m" or "0s", at most 1d, or a local time such as "08:00" '
            'or "18:00-1d"'
        )
        if isinstance(value, str):
            try:
                if ":" in value:
                    clock = LocalTime.parse(value)
                    if abs(clock.days) <= 1:
                        return clock
                else:
                    return _short(parse_duration(value))
            except (ValueError, OverflowError):
                pass
        self._fault(path, f"{value!r} is no buffer; {wanted}")
        return None

    # --- hours of its own -------------------------------------------------------------------

    def _own_hours(self, path: Path, table: Mapping[str, Any]) -> tuple[_Weeks, OwnHours | None]:
        before = len(self.faults)
        zone = self._zone((*path, "zone"), table["zone"]) if "zone" in table else None
        weeks = _Weeks()
        if "cut" in table:
            weeks = self._cut((*path, "cut"), table["cut"])
        if "hours" in table:
            weeks = self._hours((*path, "hours"), table["hours"])
        if "hours" in table and "cut" in table:
            self._fault((*path, "cut"), "a market has either hours or a cut, not both")
            weeks = _Weeks()
        days_off = self._days_off((*path, "holidays"), table.get("holidays", []))
        closed = self._closed((*path, "closed"), table.get("closed", {}), weeks)
        special = self._special((*path, "special"), table.get("special", {}), weeks, closed)
        last = self._date((*path, "last"), table["last"]) if "last" in table else None
        sure = bool(weeks.steps) and (last is not None or "last" not in table)
        if sure and (last is not None or weeks.steps[0][0] > FIRST):
            begins, ends = _known(weeks.steps[0][0], days_off, last)
            if begins > ends:
                self._fault(
                    (*path, "last" if last else "hours"),
                    f"it is known from {begins} to {ends}, which is no day at all; last says how "
                    f"far hours and rules hold",
                )
            for key, days in (("closed", closed), ("special", special)):
                for day in days:
                    if last is not None and begins <= last < day:
                        self._fault((*path, key, str(day)), f"{day} is after last, {last}")
        if len(self.faults) > before or zone is None or not weeks.steps:
            return weeks, None
        timetables = tuple(
            (since, {weekday: each for weekday, each in week.items() if each})
            for since, week in weeks.steps
        )
        own = OwnHours(zone, timetables, days_off, closed, special, last, self._grounds)
        return weeks, own

    def _zone(self, path: Path, value: object) -> ZoneInfo | None:
        try:
            if isinstance(value, str):
                return ZoneInfo(value)
        except (OSError, ValueError, KeyError):  # the last for a name that is not known
            pass
        hint = nearest_zone(value) if isinstance(value, str) else ""
        self._fault(path, f"no zone is called {value!r}.{hint}")
        return None

    def _cut(self, path: Path, value: object) -> _Weeks:
        cut = self._time(path, value)
        if cut is None:
            return _Weeks()
        if cut.days:
            self._fault(path, f"{cut} must be a time of day alone, such as 17:00")
            return _Weeks()
        # A session carries the date of its last moment, and midnight ends the day before.
        end = cut if cut.offset else LocalTime(cut.at, 1)
        hours = Hours(LocalTime(end.at, end.days - 1), end)
        return _Weeks(((FIRST, dict.fromkeys(range(7), hours)),))

    def _hours(self, path: Path, value: object) -> _Weeks:
        entries = [value] if isinstance(value, dict) else value
        if not isinstance(entries, list) or not entries:
            self._fault(path, f"{entries!r} must be a list of tables of {', '.join(_HOURS_KEYS)}")
            return _Weeks()
        weeks: dict[date, dict[int, Hours | None]] = {}
        unsure: set[date] = set()
        since = FIRST
        in_order = True
        for number, each in enumerate(entries):
            at = (*path, number)
            entry = self._table(at, each, _EXAMPLE_HOURS)
            if entry is None:
                in_order = False
                continue
            self._unknown_keys(at, entry, _HOURS_KEYS)
            begins = self._date((*at, "from"), entry["from"]) if "from" in entry else FIRST
            if begins is not None and weeks and begins < since:
                self._fault(
                    (*at, "from") if "from" in entry else at,
                    f"from {begins} comes after from {since}; write the hours in the order of "
                    f"their dates",
                )
                begins = None
            hours = self._one(at, entry, needed=("open", "close"))
            before = len(self.faults)
            weekdays = self._weekdays((*at, "days"), entry.get("days"))
            if begins is None:
                in_order = False
                continue
            if len(self.faults) > before:
                unsure.add(begins)
            week = weeks.setdefault(begins, {})
            twice = [_DAYS[weekday] for weekday in weekdays if weekday in week]
            if twice:
                self._fault((*at, "days"), f"{', '.join(twice)} from {begins} has hours already")
            for weekday in weekdays:
                week.setdefault(weekday, hours)
            since = begins
        if not in_order:
            return _Weeks()
        for week in (weeks[begins] for begins in unsure):
            for weekday in range(7):  # any day may be the one that was meant
                week.setdefault(weekday, None)
        found = tuple(weeks.items())
        self._overlaps(path, found)
        return _Weeks(found)

    def _one(
        self, path: Path, entry: Mapping[str, Any], needed: tuple[str, ...] = ()
    ) -> Hours | None:
        """Read the hours of a session, or as much of them as there is; `needed` must be there."""
        before = len(self.faults)
        missing = [key for key in needed if key not in entry]
        if missing:
            self._fault(path, f'its {" and ".join(missing)} must be said, such as "09:00"')
        bounds = {
            key: self._time((*path, key), entry[key]) for key in ("open", "close") if key in entry
        }
        for key, bound in bounds.items():
            if bound is not None and abs(bound.offset - _NOON) > _ONE_DAY:
                self._fault(
                    (*path, key),
                    f"{bound} is too far from the session's date; it must lie between 12:00-1d and "
                    f"12:00+1d",
                )
        opens, closes = bounds.get("open"), bounds.get("close")
        if opens and closes and closes.offset <= opens.offset:
            self._fault(
                (*path, "close"),
                f"{closes} is not after the open, {opens}; the day before is {closes}-1d, the day "
                f"after {closes}+1d",
            )
            opens = closes = None
        sound = len(self.faults) == before
        breaks = self._breaks((*path, "breaks"), entry.get("breaks", []), opens, closes)
        return Hours(opens, closes, breaks) if sound and opens and closes else None

    def _breaks(
        self, path: Path, value: object, opens: LocalTime | None, closes: LocalTime | None
    ) -> tuple[Break, ...]:
        pauses = value if isinstance(value, list) else [value]
        found: list[Break] = []
        for pause in pauses:
            pair = re.fullmatch(r"(\d\d:\d\d(?:[+-]1d)?)-(\d\d:\d\d(?:[+-]1d)?)", str(pause))
            if pair is None:
                self._fault(path, f'{pause!r} is no break such as "12:00-13:00"')
                continue
            start, end = (self._time(path, text) for text in pair.groups())
            if start is None or end is None:
                continue
            if start.offset >= end.offset:
                self._fault(path, f"break {pause} does not end after it has begun")
            elif opens and closes and not opens.offset < start.offset < end.offset < closes.offset:
                self._fault(path, f"break {pause} is not inside the session, {opens} to {closes}")
            elif found and start.offset <= found[-1][1].offset:
                self._fault(path, f"break {pause} begins before the one before it has ended")
            else:
                found.append((start, end))
        return tuple(found)

    def _overlaps(
        self, path: Path, steps: tuple[tuple[date, Mapping[int, Hours | None]], ...]
    ) -> None:
        """Look for sessions that begin before the one of the day before has ended."""
        # (day of the week, the week that holds on it, that of the day after, from when)
        pairs = [(day, week, week, since) for since, week in steps for day in range(7)]
        pairs += [
            ((since - _ONE_DAY).weekday(), earlier, later, since)
            for (_, earlier), (since, later) in pairwise(steps)
        ]
        told = set()
        for day, week, next_week, since in pairs:
            hours, following = week.get(day), next_week.get((day + 1) % 7)
            if (
                hours
                and following
                and hours.close.offset > following.open.offset + _ONE_DAY
                and (hours, following) not in told
            ):
                told.add((hours, following))
                self._fault(
                    path,
                    f"from {since} the session of {_DAYS[day]} closes at {hours.close}, after that "
                    f"of {_DAYS[(day + 1) % 7]} has opened at {following.open}",
                )

    def _weekdays(self, path: Path, value: object) -> list[int]:
        if value is None:
            self._fault(path[:-1], 'its days are missing; write days = "Mon-Fri"')
            return []
        if not isinstance(value, str):
            self._fault(path, f'{value!r} must be days such as "Mon-Fri" or "Mon, Wed"')
            return []
        found: list[int] = []
        for part in value.split(","):
            ends = [self._weekday(path, day.strip()) for day in part.split("-", 1)]
            first, last = ends[0], ends[-1]
            if first is not None and last is not None:
                found += [(first + n) % 7 for n in range((last - first) % 7 + 1)]
        return found

    def _weekday(self, path: Path, text: str) -> int | None:
        for number, name in enumerate(_DAYS):
            if text.casefold() == name.casefold():
                return number
        self._fault(path, f"no day is called {text!r}.{nearest(text, _DAYS)}")
        return None

    # --- days off and special days ----------------------------------------------------------

    def _days_off(self, path: Path, value: object) -> tuple[DaysOff, ...]:
        if isinstance(value, list):
            found = [self._one_source((*path, n), entry) for n, entry in enumerate(value)]
        else:
            found = [self._one_source(path, value)]
        return tuple(each for each in found if each is not None)

    def _one_source(self, path: Path, entry: object) -> DaysOff | None:
        table = self._table(path, entry, '{ country = "US" } or { market = "XNYS" }')
        if table is None:
            return None
        self._unknown_keys(path, table, (*_SOURCES, "subdivision"))
        kinds = [key for key in _SOURCES if key in table]
        if len(kinds) != 1:
            self._fault(path, f"it needs one of {', '.join(_SOURCES)}, and has {len(kinds)}")
        found = [self._source(path, kind, table) for kind in kinds]
        return found[0] if len(found) == 1 else None

    def _source(self, path: Path, kind: str, table: Mapping[str, Any]) -> DaysOff | None:
        code, subdivision = str(table[kind]), table.get("subdivision")
        source = DaysOff(kind, code, None if subdivision is None else str(subdivision))
        if kind == "exchange":
            if code in exchange_mics():
                return source
            self._fault(path, f"no exchange is called {code!r}.{nearest(code, exchange_mics())}")
            return None
        from holidays.registry import EntityLoader  # listing what it supports imports all of it

        codes = (
            EntityLoader.get_country_codes
            if kind == "country"
            else EntityLoader.get_financial_codes
        )
        if code not in (supported := list(codes())):
            self._fault(path, f"holidays has no {kind} {code!r}.{nearest(code, supported)}")
            return None
        try:
            source.listed()
        except NotImplementedError:
            hint = nearest(str(subdivision), DaysOff(kind, code).listed().subdivisions)
            self._fault(path, f"holidays has no subdivision {subdivision!r} of {code}.{hint}")
            return None
        return source

    def _closed(self, path: Path, value: object, weeks: _Weeks) -> dict[date, str]:
        if isinstance(value, list):
            value = {str(day): _NO_REASON for day in value}
        found = {}
        table = self._table(path, value, '{ 2026-12-24 = "Christmas Eve" }') or {}
        for text, reason in table.items():
            day = self._date((*path, text), text)
            said = self._reason((*path, text), reason)
            if day is not None:
                found[day] = said
                if weeks.are_none(day):
                    self._fault((*path, text), f"{day:%A} has no hours; it is closed anyway")
        return found

    def _reason(self, path: Path, value: object) -> str:
        if not isinstance(value, str) or not value.strip():
            self._fault(path, f'{value!r} is no reason such as "Christmas Eve"')
        return str(value)

    def _special(
        self, path: Path, value: object, weeks: _Weeks, closed: Mapping[date, str]
    ) -> dict[date, SpecialHours]:
        found: dict[date, tuple[Path, Hours, SpecialHours]] = {}
        unread: set[date] = set()
        table = self._table(path, value, '{ 2026-12-24 = { close = "13:00" } }') or {}
        for text, words in table.items():
            at = (*path, text)
            day = self._date(at, text)
            entry = self._table(at, words, '{ close = "13:00", reason = "Christmas Eve" }')
            special = None if entry is None else self._one_special(at, day, entry, weeks)
            if day is None:
                continue
            if day in closed:
                self._fault(at, f"{day} is listed as closed too")
            if special is None:
                unread.add(day)
            else:
                found[day] = (at, *special)

        def hours(day: date) -> Hours | None:
            if day in found:
                return found[day][1]
            return None if day in closed or day in unread else weeks.hours(day)

        for day, (at, _, _) in found.items():
            for other in (day - _ONE_DAY, day + _ONE_DAY):
                earlier, later = hours(min(day, other)), hours(max(day, other))
                if earlier and later and earlier.close.offset > later.open.offset + _ONE_DAY:
                    self._fault(at, f"its session overlaps that of {other}")
                    break
        return {day: special for day, (_, _, special) in found.items()}

    def _one_special(
        self, path: Path, day: date | None, entry: Mapping[str, Any], weeks: _Weeks
    ) -> tuple[Hours, SpecialHours] | None:
        self._unknown_keys(path, entry, _SPECIAL_KEYS)
        reason = self._reason((*path, "reason"), entry.get("reason", "special hours"))
        usual = None if day is None else weeks.hours(day)
        has_both = "open" in entry and "close" in entry
        if day is not None and weeks.are_none(day) and not has_both:
            self._fault(path, f"{day:%A} has no hours; a session on it needs open and close")
        words = {key: entry[key] for key in ("open", "close", "breaks") if key in entry}
        if usual is not None:
            words = {"open": str(usual.open), "close": str(usual.close)} | words
        hours = self._one(path, words)
        if hours is None:
            return None
        return hours, SpecialHours(
            reason=reason,
            open=hours.open if "open" in entry else None,
            close=hours.close if "close" in entry else None,
            # A day without hours has no breaks of its own; other days' are none of its business.
            breaks=hours.breaks if "breaks" in entry or usual is None else None,
        )

    # --- single values ----------------------------------------------------------------------

    def _time(self, path: Path, value: object) -> LocalTime | None:
        try:
            if isinstance(value, str):
                found = LocalTime.parse(value)
                if abs(found.days) <= 1:
                    return found
        except ValueError:
            pass
        self._fault(
            path,
            f'{value!r} is no local time; write "09:30", "17:00-1d" for the day before or '
            f'"00:00+1d" for the midnight that ends the day',
        )
        return None

    def _date(self, path: Path, value: object) -> date | None:
        day = None
        try:
            if isinstance(value, str):
                day = date.fromisoformat(value)
            elif isinstance(value, date) and not isinstance(value, datetime):
                day = value
        except ValueError:
            pass
        if day is None:
            self._fault(path, f"{value!r} is no date such as 2026-12-24")
        elif not EARLIEST <= day <= LATEST:
            self._fault(path, f"{day} is too far off; write a date from {EARLIEST} to {LATEST}")
            day = None
        return day


def _known(first: date, days_off: Iterable[DaysOff], last: date | None) -> tuple[date, date]:
    """Say between which dates hours from `first` on and these days off are known."""
    believed = load_exchange("24x7").last
    if any(source.kind != "exchange" for source in days_off):
        believed = min(believed, HOLIDAYS_KNOWN_TO)
    last = last or believed
    for source in days_off:
        begins, ends = source.bounds()
        first, last = max(first, begins), min(last, ends)
    return first, last


def _ordinary(mics: Iterable[str]) -> Iterator[Hours]:
    """Give the ordinary hours of exchanges in the last week that is known."""
    for exchange in map(load_exchange, mics):
        yield from (exchange.ordinary(exchange.last - n * _ONE_DAY) for n in range(7))


def _short(duration: timedelta) -> timedelta:
    if duration.microseconds or duration > LONGEST_BUFFER:
        raise ValueError("not whole seconds, or too long")
    return duration


def _digest(table: Mapping[str, Any], own_hours: OwnHours | None) -> str:
    text = json.dumps(table, sort_keys=True, default=str)
    if own_hours is not None and any(each.kind != "exchange" for each in own_hours.days_off):
        from importlib.metadata import version

        text += version("holidays")
    # Enough to tell one declaration from the next; hashlib takes longer to import than all of this.
    return f"{zlib.crc32(text.encode()):08x}"
