"""By when a run or a job must be done: told by a session, or by a clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from prometheus.core.exchanges import LocalTime
from prometheus.core.instants import find_zone
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.session_time import SessionTime

if TYPE_CHECKING:
    from prometheus.orchestration.windows import SessionBounds

FORMS = "'close+4h', 'next_open-30m', '22:30' or '06:00+1d Europe/London'"
_NEXT = "next_"


@dataclass(frozen=True, slots=True)
class Deadline:
    """An instant for each session; early closes, late opens, holidays and overrides move it."""

    at: SessionTime | LocalTime
    following: bool = False
    """Of an open or close: the market's next session's, not the run's own."""
    zone: ZoneInfo | None = None
    """Of a local time: whose clocks; ``None``: those of the market's exchanges."""

    @classmethod
    def parse(cls, text: str) -> Deadline:
        """
        Read what `__str__` writes.

        Raises:
            ValueError: ``text`` is anything else; says what is wanted.
        """
        written = " ".join(text.split())
        if written[:1].isdigit():
            clock, _, place = written.partition(" ")
            return cls(_time_of_day(clock), zone=find_zone(place) if place else None)
        if not written.removeprefix(_NEXT).startswith(("open", "close")):
            raise ValueError(f"it must be told by a session or a clock, such as {FORMS}")
        told = SessionTime.parse(written.removeprefix(_NEXT))
        return cls(told, following=written.startswith(_NEXT))

    def __str__(self) -> str:
        if isinstance(self.at, SessionTime):
            return f"{_NEXT if self.following else ''}{self.at}"
        return f"{self.at} {self.zone}" if self.zone else str(self.at)

    def fault(self, calendar: TradingCalendar) -> str | None:
        """Say why it means nothing in a market: its exchanges have clocks of their own."""
        if not isinstance(self.at, LocalTime) or self.zone is not None:
            return None
        zones = list(dict.fromkeys(str(zone) for zone in calendar.zones.values()))
        if len(zones) == 1:
            return None
        return (
            f"{calendar.market_id} has the clocks of {' and '.join(zones)}; say which, such as "
            f"'{self.at} {zones[0]}'"
        )

    def of(self, calendar: TradingCalendar, bounds: SessionBounds) -> datetime | None:
        """
        Return the instant of a session, in market time.

        Returns:
            ``None`` where it is the next session's and that is not known yet.
        """
        if isinstance(self.at, LocalTime):
            zone = self.zone or calendar.zone
            return self.at.on(bounds.phases.session_date, zone)
        phases = bounds.next_phases if self.following else bounds.phases
        return self.at.of(phases) if phases is not None else None


def _time_of_day(text: str) -> LocalTime:
    try:
        return LocalTime.parse(text)
    except ValueError:  # also of an hour that no clock shows, which it tells in its own words
        raise ValueError(f"{text!r} is not a local time such as 22:30 or 06:00+1d") from None
