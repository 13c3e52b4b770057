"""Dates, instants and zones that callers pass in or write: read, checked, or refused."""

from __future__ import annotations

import difflib
import re
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo, available_timezones

from prometheus.errors import NaiveDatetimeError

_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]*")
_CLOSE = 0.75
"""How alike two names are of which one was probably meant for the other, from 0 to 1."""


def write_instant(value: datetime) -> str:
    """Write an instant as the API has it: ISO 8601 in UTC, with a Z."""
    return f"{value.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"


def as_utc(argument: str, value: datetime) -> datetime:
    """
    Convert an aware datetime to UTC.

    Args:
        argument: Name of the caller's argument, for the message.
        value: An instant in any zone.

    Raises:
        NaiveDatetimeError: the value has no zone, or a zone without an offset.
        TypeError: the value is not a datetime.
    """
    if not isinstance(value, datetime):
        raise TypeError(
            f"{argument} is {value!r}, a {type(value).__name__}: pass an aware datetime"
        )
    if value.utcoffset() is None:
        raise NaiveDatetimeError(argument, value)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        # Within a day of year 1 or 9999: far from every calendar, in whatever zone.
        return value.replace(tzinfo=UTC)


def as_day(argument: str, value: date) -> date:
    """
    Insist on a plain date.

    A datetime is also a ``date`` to Python, but which session it belongs to depends on its zone,
    so it is refused instead of cut.

    Raises:
        TypeError: the value is a datetime, or no date at all.
    """
    if isinstance(value, datetime):
        raise TypeError(
            f"{argument} is {value!r}, an instant: pass the session date, a datetime.date"
        )
    if not isinstance(value, date):
        raise TypeError(f"{argument} is {value!r}, a {type(value).__name__}: pass a datetime.date")
    return value


def parse_instant(text: str) -> datetime:
    """
    Read an instant with its offset or its zone; one without either is refused, never guessed.

    ``2012-11-23T17:30Z``, ``2012-11-23T12:30-05:00`` or ``2012-11-23 12:30 America/New_York``.

    Returns:
        It in UTC.

    Raises:
        ValueError: It is none, or could be several; says what to write instead.
    """
    stamp, _, place = text.strip().rpartition(" ")
    zone = find_zone(place) if stamp and _ZONE.fullmatch(place) else None
    try:
        instant = datetime.fromisoformat(text if zone is None else stamp)
    except ValueError:
        raise ValueError(f"{text!r} is not an instant such as 2012-11-23T17:30Z") from None
    if zone is not None:
        instant = _on_the_clocks_of(instant, zone, text)
    if instant.utcoffset() is None:
        raise ValueError(
            f"{text!r} has no time zone, so it could be any of 24 hours. "
            f"Write {_with_zone(text)} for UTC."
        )
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is outside the years that have dates") from None


def _on_the_clocks_of(stamp: datetime, zone: ZoneInfo, text: str) -> datetime:
    """Place a local time; where clocks skip it or show it twice, it is refused."""
    if stamp.utcoffset() is not None:
        raise ValueError(f"{text!r} has both an offset and a zone; write one of them")
    first, second = (stamp.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return first
    shown = first.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == stamp
    either = " or ".join(f"{each.isoformat()}" for each in (first, second))
    raise ValueError(
        f"{text!r} comes twice, as clocks are set back. Write {either}."
        if shown
        else f"{text!r} does not exist: clocks are set forward over it"
    )


def _with_zone(text: str) -> str:
    return f"{text}Z" if len(text) > len("2012-11-23") else f"{text}T00:00Z"


def find_zone(name: str) -> ZoneInfo:
    """
    Find a time zone.

    Raises:
        ValueError: There is none of that name; says which was probably meant.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # a folder of zones is an OSError
        raise ValueError(f"{name!r} is not a time zone.{nearest_zone(name)}") from None


def nearest_zone(name: str) -> str:
    """
    Say which zone was probably meant, by its name or that of its city alone.

    Returns:
        ``" Did you mean 'Europe/Paris'?"``, or how one is written when none is close.
    """
    zones: dict[str, str] = {}
    for zone in sorted(available_timezones()):
        zones.setdefault(zone.rpartition("/")[2].casefold(), zone)
        zones[zone.casefold()] = zone
    wanted = name.strip().casefold().replace(" ", "_")
    close = difflib.get_close_matches(wanted, zones, n=1, cutoff=_CLOSE)
    return f" Did you mean {zones[close[0]]!r}?" if close else " Write one such as Europe/Paris."
