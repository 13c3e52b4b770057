"""A trading session: the instants between which an exchange or a market trades under one date."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime


@dataclass(frozen=True, slots=True)
class Session:
    """One session of an exchange, or of a market (then the union of its members' sessions)."""

    date: date
    """The label the session carries; not always the UTC date of its instants."""
    open: datetime
    """First instant of trading, aware UTC, included."""
    close: datetime
    """End of trading, aware UTC, excluded."""
    breaks: tuple[tuple[datetime, datetime], ...] = ()
    """Half-open pauses inside the session, in order; of a market, those when no member trades."""
    early_close: bool = False
    late_open: bool = False
    reason: str | None = None
    """Why the hours are special ("day after Thanksgiving"); ``None`` for an ordinary session."""
