"""Durations as people write them: ``"45s"``, ``"30m"``, ``"2h"``, ``"1h30m"``, ``"1d"``."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")


def parse_duration(text: str | timedelta) -> timedelta:
    """
    Read a duration.

    Args:
        text: Days, hours, minutes and seconds in this order, each a number and its letter; or a
            `timedelta`, which is returned as it is.

    Raises:
        ValueError: ``text`` is empty, a bare number or anything else.
    """
    if isinstance(text, timedelta):
        return text
    match = _DURATION.fullmatch(text.strip().lower().replace(" ", ""))
    if match is None or not any(match.groups()):
        raise ValueError(f"{text!r} is not a duration; write 45s, 30m, 2h, 1h30m or 1d")
    parts = dict(zip(_UNITS.values(), match.groups(), strict=True))
    try:
        return timedelta(**{unit: float(number) for unit, number in parts.items() if number})
    except OverflowError:
        raise ValueError(f"{text!r} is longer than {timedelta.max.days} days") from None


def format_duration(duration: timedelta) -> str:
    """Write a duration as `parse_duration` reads it, with at most one decimal of a second."""
    seconds = duration.total_seconds()
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    if seconds < 60 and seconds != int(seconds):
        return f"{sign}{seconds:.1f}s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    parts = [(days, "d"), (hour, "h"), (minute, "m"), (second, "s")]
    return sign + ("".join(f"{number}{letter}" for number, letter in parts if number) or "0s")
