"""Sensors: jobs that ask again and again whether something has come, and give up at some time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from prometheus.core.durations import format_duration, parse_duration
from prometheus.core.trading_calendar import Phases
from prometheus.orchestration.session_time import SessionTime

FAIL, SKIP, CONTINUE_STALE = "fail", "skip", "continue_stale"
USE = "use:"
"""Before the name of the source that takes the place of the one that is missing."""


class Readiness(StrEnum):
    """What a sensor says of what it waits for; kept as ``state`` of its result."""

    NOT_YET = "NOT_YET"
    """It has not come; the sensor asks again."""
    LATE = "LATE"
    """It has not come when it was expected; the sensor asks again."""
    READY = "READY"
    """It has come; with ``late`` in the result where that was after it was expected."""
    MISSING = "MISSING"
    """It had not come when the sensor gave up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorRule:
    """How often a sensor asks, until when, and what then."""

    every: timedelta
    """Before the second poll; doubled before each further one."""
    up_to: timedelta
    """Longest pause between two polls."""
    expected: SessionTime | timedelta | None
    """After this it is LATE; a duration counts from the opening of the sensor's window."""
    give_up: SessionTime | timedelta
    """The last poll is made then; a duration counts likewise."""
    otherwise: str
    """After giving up: ``fail``, ``skip``, ``continue_stale``, or ``use:`` and a source."""

    @property
    def fails(self) -> bool:
        """Whether it fails when it gives up, as any job does, or goes another way."""
        return self.otherwise == FAIL

    @property
    def source(self) -> str | None:
        """The source that the jobs after it get when it gives up, if they get one."""
        text = str(self.otherwise)  # a declaration may have anything
        return text.removeprefix(USE) if text.startswith(USE) else None

    def delay(self, attempt_number: int) -> timedelta:
        """Return the pause after an attempt that has found nothing."""
        doubled: int = 2 ** min(attempt_number - 1, 16)
        return min(self.up_to, self.every * doubled)

    def expected_at(self, phases: Phases, opens_at: datetime) -> datetime | None:
        """Return from when on it is late, in market time."""
        return None if self.expected is None else _instant(self.expected, phases, opens_at)

    def gives_up_at(self, phases: Phases, opens_at: datetime) -> datetime:
        """Return when the last poll is made, in market time."""
        return _instant(self.give_up, phases, opens_at)

    def to_json(self) -> dict[str, Any]:
        """Return the rule as JSON values."""
        return {
            "every_seconds": self.every.total_seconds(),
            "up_to_seconds": self.up_to.total_seconds(),
            "expected": None if self.expected is None else show_limit(self.expected),
            "give_up": show_limit(self.give_up),
            "otherwise": self.otherwise,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SensorRule:
        """Read what `to_json` wrote."""
        return cls(
            every=timedelta(seconds=data["every_seconds"]),
            up_to=timedelta(seconds=data["up_to_seconds"]),
            expected=None if data["expected"] is None else read_limit(data["expected"]),
            give_up=read_limit(data["give_up"]),
            otherwise=data["otherwise"],
        )


def read_limit(text: str | timedelta) -> SessionTime | timedelta:
    """
    Read until when: a duration, or a time of the session.

    Raises:
        ValueError: ``text`` is neither.
    """
    if isinstance(text, str) and text.strip().startswith(("open", "close")):
        return SessionTime.parse(text)
    return parse_duration(text)


def show_limit(limit: SessionTime | timedelta) -> str:
    """Write what `read_limit` reads."""
    return str(limit) if isinstance(limit, SessionTime) else format_duration(limit)


def _instant(limit: SessionTime | timedelta, phases: Phases, opens_at: datetime) -> datetime:
    return limit.of(phases) if isinstance(limit, SessionTime) else opens_at + limit
