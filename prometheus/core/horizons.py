"""How near the end of a calendar is, and how loudly to say so."""

from __future__ import annotations

from datetime import date, timedelta
from enum import StrEnum

WARN_WITHIN = timedelta(days=90)
"""From here on there is time to look for a newer snapshot."""
ALERT_WITHIN = timedelta(days=30)
"""From here on somebody has to."""


class HorizonLevel(StrEnum):
    """What the distance to a horizon asks for."""

    OK = "ok"
    """The end is further than 90 days away."""
    WARNING = "warning"
    """The end is at most 90 days away."""
    ALERT = "alert"
    """The end is at most 30 days away."""
    ERROR = "error"
    """The end is past: the calendar answers nothing about today."""


def horizon_level(last: date, today: date) -> HorizonLevel:
    """
    Say how loudly to speak of a calendar's end.

    Args:
        last: The last date whose sessions are known, an exchange's or a market's.
        today: The date from which the distance is counted.
    """
    left = last - today
    if left < timedelta(0):
        return HorizonLevel.ERROR
    if left <= ALERT_WITHIN:
        return HorizonLevel.ALERT
    if left <= WARN_WITHIN:
        return HorizonLevel.WARNING
    return HorizonLevel.OK
