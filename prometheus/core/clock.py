"""The market clock: what time it is in the markets, given what time it is on the wall."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from prometheus.core.instants import as_utc


@dataclass(frozen=True, slots=True)
class MarketClock:
    """
    A straight line from wall time to market time.

    Live, both are equal. In a replay market time runs from an anchor at a speed, or stands at the
    anchor (speed 0) until a clock with another anchor replaces this one. The value holds no clock:
    wall time is an argument.

    Raises:
        NaiveDatetimeError: an anchor has no zone.
        ValueError: only one anchor is given, the speed is negative or not finite, or a live clock
            has a speed other than 1.
    """

    anchor_market_at: datetime | None = None
    """Market time at the wall time of the anchor, kept in UTC; ``None`` for the live clock."""
    anchor_wall_at: datetime | None = None
    """Wall time of the anchor, kept in UTC; ``None`` for the live clock."""
    speed: float = 1.0
    """Market seconds that pass in a second of wall time; 0 makes the clock stand."""

    def __post_init__(self) -> None:
        if (self.anchor_market_at is None) != (self.anchor_wall_at is None):
            raise ValueError("a replay clock needs both anchors, the live clock neither")
        if not (math.isfinite(self.speed) and self.speed >= 0):
            raise ValueError(f"speed is {self.speed}: it must be zero or more, and finite")
        if self.anchor_market_at is None or self.anchor_wall_at is None:
            if self.speed != 1:
                raise ValueError(f"speed is {self.speed}, but the live clock runs at speed 1")
            return
        object.__setattr__(
            self, "anchor_market_at", as_utc("anchor_market_at", self.anchor_market_at)
        )
        object.__setattr__(self, "anchor_wall_at", as_utc("anchor_wall_at", self.anchor_wall_at))

    @property
    def is_live(self) -> bool:
        """Whether market time is wall time."""
        return self.anchor_market_at is None

    @property
    def stands(self) -> bool:
        """Whether market time only moves by being set: jump mode."""
        return self.speed == 0

    def market_time(self, wall_now: datetime) -> datetime:
        """
        Tell the market time at a wall time, in UTC.

        Raises:
            NaiveDatetimeError: ``wall_now`` has no zone.
        """
        wall_now = as_utc("wall_now", wall_now)
        if self.anchor_market_at is None or self.anchor_wall_at is None:
            return wall_now
        return self.anchor_market_at + (wall_now - self.anchor_wall_at) * self.speed

    def wall_delay(self, market_delay: timedelta) -> timedelta:
        """
        Tell how long a countdown of market time takes on the wall.

        On a standing clock it is zero: nothing is waited for there, the clock leaps instead.
        """
        if self.stands:
            return timedelta(0)
        return market_delay / self.speed
