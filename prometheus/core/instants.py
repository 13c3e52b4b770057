"""Checks on the dates and instants that callers pass in."""

from __future__ import annotations

from datetime import UTC, date, datetime

from prometheus.errors import NaiveDatetimeError


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
