"""
What a feed says about the days on which an exchange does not trade as usual.

A feed's word flips no market. `find_differences` holds it against the calendar in force; what comes
of a difference, a person decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, time, timedelta
from enum import StrEnum

from prometheus.core.drafts import Draft
from prometheus.core.exchanges import WEEKEND
from prometheus.core.overrides import OverrideKind, Overrides
from prometheus.core.trading_calendar import TradingCalendar


class HolidayKind(StrEnum):
    """What a listed day means for trading."""

    CLOSED = "closed"
    """No session."""
    EARLY_CLOSE = "early_close"
    """A session that ends before its usual hour."""
    BANK = "bank"
    """A holiday of the banks, on which the exchange trades as usual."""
    OPEN = "open"
    """A session, because the feed does not list the day; our calendar has it closed."""
    UNKNOWN = "unknown"
    """Of a type that this release does not know; taken for nothing, shown to a person."""


class HolidayState(StrEnum):
    """What a person has made of a feed's word."""

    PROPOSED = "proposed"
    """Nothing yet."""
    CONFIRMED = "confirmed"
    """It is true: the calendar follows it, by an override, as far as it is known that far."""
    REJECTED = "rejected"
    """It is not, and is not proposed again; a person may still confirm it."""


@dataclass(frozen=True, slots=True)
class Holiday:
    """One day that a feed lists for an exchange."""

    day: date
    name: str
    kind: HolidayKind
    close: time | None = None
    """Local time at which an early close ends, where the feed says it."""

    @property
    def can_be_confirmed(self) -> bool:
        """Whether it says all that a calendar needs to know of the day."""
        if self.kind is HolidayKind.EARLY_CLOSE:
            return self.close is not None
        return self.kind is not HolidayKind.UNKNOWN

    @property
    def words(self) -> str:
        """Write what it says of trading: ``"closed"``, ``"early close 13:00"`` and the like."""
        match self.kind:
            case HolidayKind.CLOSED:
                return "closed"
            case HolidayKind.BANK | HolidayKind.OPEN:
                return "open"
            case HolidayKind.EARLY_CLOSE:
                return f"early close {self.close:%H:%M}" if self.close else "early close"
            case HolidayKind.UNKNOWN:
                return "unknown"


@dataclass(frozen=True, slots=True)
class Difference:
    """
    A day on which a feed and the calendar in force do not say the same: a proposal, no more.

    `proposed` and `in_force` are ``"closed"``, ``"open"``, ``"early close 13:00"`` and the like.
    """

    mic: str
    day: date
    proposed: str
    in_force: str
    name: str
    """The holiday, as the feed names it; otherwise as the calendar does."""


def find_differences(
    mic: str, listed: Iterable[Holiday], first: date, last: date
) -> tuple[Difference, ...]:
    """
    Compare what a feed lists with the calendar in force.

    A closed day that the feed does not list is a difference: it would be open. An early close that
    it does not list is none: feeds leave out those to come.

    Args:
        mic: The exchange.
        listed: All days the feed lists between the two dates; others are ignored.
        first: First date the feed speaks of.
        last: Last such date, included. Of days that the calendar does not know, only those that
            the feed lists are differences.

    Returns:
        By date, then as listed.

    Raises:
        UnknownMarketError: There is no calendar of this exchange.
    """
    calendar = TradingCalendar(mic)
    holidays = sorted((each for each in listed if first <= each.day <= last), key=lambda h: h.day)
    found = []
    for holiday in holidays:
        difference = find_difference(calendar, holiday)
        if difference is not None:
            found.append(difference)
    spoken_of = {holiday.day for holiday in holidays}
    day = max(first, calendar.first)
    while day <= min(last, calendar.horizon):
        reason = calendar.reason(day)
        if reason is not None and reason != WEEKEND and day not in spoken_of:
            found.append(Difference(mic, day, "open", "closed", reason))
        day += timedelta(days=1)
    return tuple(sorted(found, key=lambda difference: difference.day))


def find_difference(calendar: TradingCalendar, holiday: Holiday) -> Difference | None:
    """
    Compare a feed's word on one day with a calendar.

    Args:
        calendar: Of the exchange; it may end before the day, which is a difference.
        holiday: What the feed lists.
    """
    in_force = _in_force(calendar, holiday.day)
    if _agree(calendar, holiday, in_force):
        return None
    return Difference(calendar.market_id, holiday.day, holiday.words, in_force, holiday.name)


def is_followed(mic: str, holiday: Holiday, overrides: Overrides) -> bool:
    """Say whether a calendar with these overrides says what a feed does, or ends before the day."""
    calendar = TradingCalendar(mic, overrides=overrides)
    in_force = _in_force(calendar, holiday.day)
    return in_force == _NOT_KNOWN or _agree(calendar, holiday, in_force)


def override_for(
    mic: str, holiday: Holiday, overrides: Overrides, *, source: str, reason: str, author: str
) -> Draft | None:
    """
    Write what a person has confirmed as the override that makes the calendar say so.

    Args:
        mic: The exchange.
        holiday: What was confirmed.
        overrides: What has been recorded so far.
        source: The feed.
        reason: Why it was confirmed.
        author: Who did.

    Returns:
        ``None`` where the calendar says so already, or does not know the date.
    """
    if is_followed(mic, holiday, overrides):
        return None
    calendar = TradingCalendar(mic, overrides=overrides)
    in_force = _in_force(calendar, holiday.day)
    (exchange,) = calendar.exchanges
    close = holiday.close
    if holiday.kind is HolidayKind.CLOSED:
        kind = OverrideKind.CLOSED
    elif in_force == "closed":
        kind = OverrideKind.SPECIAL_SESSION
    elif close is not None and in_force == "open":
        kind = OverrideKind.EARLY_CLOSE
    else:
        kind = OverrideKind.CHANGED_HOURS
        close = close or exchange.ordinary(holiday.day).close.at
    return Draft(
        target=mic,
        session=holiday.day.isoformat(),
        kind=kind,
        close=None if close is None else close.isoformat("minutes"),
        reason=holiday.name,
        source=f"{source}, confirmed: {reason}",
        author=author,
    )


_NOT_KNOWN = "not known"


def _in_force(calendar: TradingCalendar, day: date) -> str:
    if not calendar.first <= day <= calendar.horizon:
        return _NOT_KNOWN
    if not calendar.is_trading_day(day):
        return "closed"
    session = calendar.session(day)
    if not session.early_close:
        return "open"
    zone = calendar.zones[calendar.market_id]
    return f"early close {session.close.astimezone(zone):%H:%M}"


def _agree(calendar: TradingCalendar, holiday: Holiday, in_force: str) -> bool:
    if holiday.kind is HolidayKind.EARLY_CLOSE and holiday.close is None:
        return in_force.startswith("early close")
    if holiday.kind is HolidayKind.BANK:
        # It says only that the banks' day is no reason to close; a weekend is one.
        return in_force != "closed" or calendar.reason(holiday.day) == WEEKEND
    return holiday.words == in_force
