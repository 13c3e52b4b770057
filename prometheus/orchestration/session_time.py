"""An instant told by a session: ``"open"``, ``"close+45m"``, ``"open-15m"``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from prometheus.core.durations import format_duration, parse_duration
from prometheus.core.trading_calendar import Phases

_FORM = re.compile(r"(open|close)(?:([+-])(.+))?")
FURTHEST = timedelta(hours=24)
"""How far from its session's open or close an instant may be."""


@dataclass(frozen=True, slots=True)
class SessionTime:
    """So long before or after a session's open or close, as that session has them."""

    event: str
    """``open`` or ``close``: of a market of several exchanges the first open, the last close."""
    offset: timedelta = timedelta(0)

    @classmethod
    def parse(cls, text: str) -> SessionTime:
        """
        Read what `__str__` writes.

        Raises:
            ValueError: ``text`` is anything else, or too far from its session.
        """
        match = _FORM.fullmatch(text.replace(" ", ""))
        if match is None:
            raise ValueError(
                "it must be 'open' or 'close', with or without '+' or '-' and a duration, such as "
                "'close+45m'"
            )
        offset = parse_duration(match[3]) if match[3] else timedelta(0)
        if offset > FURTHEST:
            raise ValueError(
                f"it must be at most {format_duration(FURTHEST)} from its session's {match[1]}"
            )
        return cls(match[1], -offset if match[2] == "-" else offset)

    def __str__(self) -> str:
        if not self.offset:
            return self.event
        sign = "-" if self.offset < timedelta(0) else "+"
        return f"{self.event}{sign}{format_duration(abs(self.offset))}"

    def of(self, phases: Phases) -> datetime:
        """Return the instant of one session."""
        return (phases.open_at if self.event == "open" else phases.close_at) + self.offset
