"""The five states of a market, and the two buffers that shape them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from prometheus.core.exchanges import LocalTime

Buffer = timedelta | LocalTime
"""A duration, or a time on the exchange's clock, counted from the session's date."""


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

    pre_open: Buffer = timedelta(minutes=60)
    """
    Length of PRE_OPEN, which ends at the open, or the local time at which it begins. Zero leaves
    the state out, and so does a time that is not before the open.
    """
    post_close: Buffer = timedelta(minutes=120)
    """
    Length of POST_CLOSE, which begins at the close, or the local time at which it ends. Zero leaves
    the state out, and so does a time that is not after the close.
    """

    def __post_init__(self) -> None:
        for name in ("pre_open", "post_close"):
            value: Buffer = getattr(self, name)
            if isinstance(value, timedelta) and (value < timedelta(0) or value.microseconds):
                raise ValueError(
                    f"{name} is {value}: a buffer is zero or more whole seconds, for example "
                    f"timedelta(minutes=60)"
                )

    def pre_open_at(self, day: date, opens: datetime, zone: ZoneInfo) -> datetime:
        """When PRE_OPEN of an exchange's session begins, aware UTC."""
        if isinstance(self.pre_open, timedelta):
            return opens - self.pre_open
        return min(self.pre_open.on(day, zone), opens)

    def post_close_ends_at(self, day: date, closes: datetime, zone: ZoneInfo) -> datetime:
        """When POST_CLOSE of an exchange's session ends unless something cuts it, aware UTC."""
        if isinstance(self.post_close, timedelta):
            return closes + self.post_close
        return max(self.post_close.on(day, zone), closes)

    @property
    def reach(self) -> timedelta:
        """How far from a session's open and close its buffers can be at most."""
        return max(
            buffer if isinstance(buffer, timedelta) else timedelta(days=abs(buffer.days) + 2)
            for buffer in (self.pre_open, self.post_close)
        )
