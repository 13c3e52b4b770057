"""Overrides: what people say of single sessions, against or ahead of the snapshot.

An override is a value with an author, a source and a reason; nothing is ever changed in one, and
withdrawing it is another. All that were said up to some time make the calendar as it was believed
to be then. Which of them this process goes by is the one thing kept here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from enum import StrEnum
from functools import lru_cache
from typing import TypeVar
from zoneinfo import ZoneInfo

from prometheus.core.exchanges import (
    Break,
    Exchange,
    LocalTime,
    SpecialHours,
    calendars_changed,
)
from prometheus.core.markets import Market

T = TypeVar("T")


class OverrideKind(StrEnum):
    """What an override says of a session."""

    CLOSED = "closed"
    """There is none."""
    EARLY_CLOSE = "early_close"
    """It closes earlier, if it would still be open then."""
    LATE_OPEN = "late_open"
    """It opens later, if it would be open by then."""
    SPECIAL_SESSION = "special_session"
    """There is one, where there would be none."""
    CHANGED_HOURS = "changed_hours"
    """It opens, closes or pauses at other times."""
    WITHDRAWN = "withdrawn"
    """An earlier override does not hold any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One statement about the session of an exchange or a market."""

    override_id: int
    """Grows with each that is recorded."""
    exchange: str | None = None
    """MIC of the exchange it is about, in whatever market."""
    market: str | None = None
    """Name of the market it is about; its exchanges' own calendars stay as they are."""
    session: date
    """The label of the session."""
    kind: OverrideKind
    open: LocalTime | None = None
    close: LocalTime | None = None
    breaks: tuple[Break, ...] | None = None
    """``None`` leaves them as they are; empty takes them away."""
    zone: str | None = None
    """Whose clocks the times are of; ``None`` for those of each exchange."""
    reason: str
    source: str
    """Where it says so."""
    announced_at: datetime
    """When the world could know it."""
    author: str
    """Who recorded it."""
    recorded_at: datetime | None = None
    """Since when it is believed; ``None`` before it is recorded."""
    withdraws: int | None = None
    """The override that does not hold any more."""
    fault: str | None = None
    """Why what it says can not be told here: then it does not hold, and leaves the others alone."""

    @property
    def target(self) -> str:
        """The exchange or market it is about."""
        return self.exchange or self.market or ""

    def touches(self, market: Market) -> bool:
        """Say whether it is about a market, or about one of its exchanges."""
        return self.exchange in market.members or self.market == market.market_id


@dataclass(frozen=True, eq=False)
class Overrides:
    """All overrides that were recorded up to some time, the withdrawn ones and what withdrew them
    included, in that order."""

    rows: tuple[Override, ...] = ()
    _standing: Mapping[tuple[str | None, str | None], tuple[Override, ...]] = field(
        init=False, repr=False
    )
    """Exchange and market, one of which is ``None`` -> the overrides of it that hold."""
    _laid: dict[tuple[Exchange, str], Exchange] = field(
        default_factory=dict, init=False, repr=False
    )
    """What `over` has answered: every calendar asks, and of few exchanges."""
    _stamps: dict[tuple[str, tuple[str, ...]], int] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        standing: dict[tuple[str | None, str | None], tuple[Override, ...]] = {}
        for each in self.standing():
            key = each.exchange, each.market
            standing[key] = (*standing.get(key, ()), each)
        object.__setattr__(self, "_standing", standing)

    @property
    def latest(self) -> int:
        """The id of the last one; 0 where there is none."""
        return self.rows[-1].override_id if self.rows else 0

    def standing(self) -> tuple[Override, ...]:
        """Those that hold: neither withdrawn nor a withdrawal, nor unreadable."""
        return tuple(each for each in self._not_withdrawn() if each.fault is None)

    def unreadable(self) -> tuple[Override, ...]:
        """Those that would hold if it could be told what they say."""
        return tuple(each for each in self._not_withdrawn() if each.fault is not None)

    def _not_withdrawn(self) -> Iterator[Override]:
        withdrawn = {each.withdraws for each in self.rows}
        for each in self.rows:
            if each.withdraws is None and each.override_id not in withdrawn:
                yield each

    def believed_at(self, instant: datetime) -> Overrides:
        """What was recorded by an instant, as it stood then."""
        return Overrides(
            tuple(each for each in self.rows if each.recorded_at and each.recorded_at <= instant)
        )

    def until(self, override_id: int) -> Overrides:
        """What was recorded up to an override, and it."""
        return Overrides(tuple(each for each in self.rows if each.override_id <= override_id))

    def plus(self, override: Override) -> Overrides:
        """These and one more."""
        return Overrides((*self.rows, override))

    def touching(self, market: Market) -> tuple[Override, ...]:
        """Those about a market or one of its exchanges, whether or not they hold."""
        return tuple(each for each in self.rows if each.touches(market))

    def stamp(self, market: Market) -> int:
        """The last that touches a market; 0 if none does. It names what holds there."""
        key = market.market_id, market.members
        if key not in self._stamps:
            ids = (each.override_id for each in self.touching(market))
            self._stamps[key] = max(ids, default=0)
        return self._stamps[key]

    def on(self, market: Market, day: date) -> tuple[Override, ...]:
        """Those that hold of the session of a market, or of one of its exchanges, oldest first."""
        keys = [*((mic, None) for mic in market.members), (None, market.market_id)]
        found = [each for key in keys for each in self._standing.get(key, ())]
        of_day = (each for each in found if each.session == day)
        return tuple(sorted(of_day, key=lambda each: each.override_id))

    def over(self, exchange: Exchange, market: Market) -> Exchange:
        """An exchange as it is seen through a market; the same value for the same overrides."""
        if not self.rows:
            return exchange
        key = exchange, market.market_id
        if key not in self._laid:
            found = self._standing.get((exchange.mic, None), ())
            found += self._standing.get((None, market.market_id), ())
            in_order = tuple(sorted(found, key=lambda each: each.override_id))
            self._laid[key] = _overlaid(exchange, in_order) if found else exchange
        return self._laid[key]


@lru_cache(maxsize=256)
def _overlaid(exchange: Exchange, overrides: tuple[Override, ...]) -> Exchange:
    return overlay(exchange, overrides)


def overlay(exchange: Exchange, overrides: Iterable[Override]) -> Exchange:
    """
    Lay overrides over an exchange, one after the other.

    What is said of a market holds for each member as far as it can: an early close for those that
    would close later, a late open for those that would open earlier, a special session for those
    that have none. A session of which nothing is left is closed.
    """
    for override in overrides:
        if exchange.first <= override.session <= exchange.last:
            exchange = _apply(exchange, override)
    return exchange


def _apply(exchange: Exchange, override: Override) -> Exchange:
    day, kind = override.session, override.kind
    if exchange.is_session(day) == (kind is OverrideKind.SPECIAL_SESSION):
        return exchange
    if kind is OverrideKind.CLOSED:
        return _closed(exchange, override)
    opens, closes = exchange.bounds(day)
    zone = ZoneInfo(override.zone) if override.zone else exchange.zone
    new_open = override.open.on(day, zone) if override.open else None
    new_close = override.close.on(day, zone) if override.close else None
    if kind is OverrideKind.EARLY_CLOSE and new_close is not None and new_close >= closes:
        return exchange
    if kind is OverrideKind.LATE_OPEN and new_open is not None and new_open <= opens:
        return exchange
    if (new_open or opens) >= (new_close or closes):
        return _closed(exchange, override)
    before = SpecialHours("", None, None, None)
    if kind is not OverrideKind.SPECIAL_SESSION:
        before = exchange.special_hours.get(day, before)
    special = SpecialHours(
        override.reason,
        before.open if new_open is None else _local(new_open, day, exchange.zone),
        before.close if new_close is None else _local(new_close, day, exchange.zone),
        before.breaks if override.breaks is None else _local_breaks(override, exchange, zone),
    )
    closures, extra = {**exchange.closures}, {**exchange.extra_sessions}
    if kind is OverrideKind.SPECIAL_SESSION:
        closures.pop(day, None)
        if not exchange.in_week(day):
            extra[day] = override.reason
    return replace(
        exchange,
        closures=closures,
        extra_sessions=extra,
        special_hours={**exchange.special_hours, day: special},
    )


def _closed(exchange: Exchange, override: Override) -> Exchange:
    day = override.session
    return replace(
        exchange,
        closures={**exchange.closures, day: override.reason},
        extra_sessions=_without(exchange.extra_sessions, day),
        special_hours=_without(exchange.special_hours, day),
    )


def _without(days: Mapping[date, T], day: date) -> dict[date, T]:
    return {each: value for each, value in days.items() if each != day}


def _local(instant: datetime, day: date, zone: ZoneInfo) -> LocalTime:
    local = instant.astimezone(zone)
    return LocalTime(local.time(), (local.date() - day).days)


def _local_breaks(override: Override, exchange: Exchange, zone: ZoneInfo) -> tuple[Break, ...]:
    day = override.session
    return tuple(
        (
            _local(start.on(day, zone), day, exchange.zone),
            _local(end.on(day, zone), day, exchange.zone),
        )
        for start, end in override.breaks or ()
    )


_STAMPED = "+override."


def stamped(version: str, stamp: int) -> str:
    """Name a calendar: that of the snapshot, and the last override that touches the market."""
    return f"{version}{_STAMPED}{stamp}" if stamp else version


def override_stamp(version: str) -> int:
    """Return the last override that a calendar's version names; 0 if none."""
    number = version.rpartition(_STAMPED)[2] if _STAMPED in version else ""
    return int(number) if number.isdecimal() else 0


# --- what this process goes by ------------------------------------------------------------------

_in_force = Overrides()


def in_force() -> Overrides:
    """The overrides that calendars of this process are made with, unless they are given others."""
    return _in_force


def put_in_force(overrides: Overrides) -> None:
    """
    Make all calendars from now on with these overrides, in every thread at once.

    A calendar that exists stays as it was made. What is known of exchanges and markets that the
    change does not touch is not worked out again.
    """
    global _in_force
    _in_force = overrides
    calendars_changed()
