"""The five states of a market, and the two durations that shape them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class MarketState(StrEnum):
    """What a market is doing at an instant. Every instant has exactly one state."""

    HOLIDAY = "HOLIDAY"
    """The local date has no session: a weekend, a holiday or an ad hoc closure."""
    OVERNIGHT = "OVERNIGHT"
    """The local date has a session, and none of the three phases around it is on."""
    PRE_OPEN = "PRE_OPEN"
    """The session opens within the pre-open buffer: ``[open - pre, open)``."""
    SESSION = "SESSION"
    """Trading, from the open to the close, lunch break included: ``[open, close)``."""
    POST_CLOSE = "POST_CLOSE"
    """The session closed less than the post-close buffer ago: ``[close, close + post)``, cut by
    the next PRE_OPEN; it may go on past midnight."""


@dataclass(frozen=True, slots=True)
class MarketStateConfig:
    """
    How long PRE_OPEN and POST_CLOSE last.

    Raises:
        ValueError: a buffer is negative or not a whole number of seconds.
    """

    pre_open: timedelta = timedelta(minutes=60)
    """Length of PRE_OPEN, which ends at the open. Zero leaves the state out."""
    post_close: timedelta = timedelta(minutes=120)
    """Length of POST_CLOSE, which begins at the close. Zero leaves the state out."""

    def __post_init__(self) -> None:
        for name in ("pre_open", "post_close"):
            value: timedelta = getattr(self, name)
            if value < timedelta(0) or value.microseconds:
                raise ValueError(
                    f"{name} is {value}: a buffer is zero or more whole seconds, for example "
                    f"timedelta(minutes=60)"
                )
