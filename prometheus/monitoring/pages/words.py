"""States, times and lengths of time as pages write them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from prometheus.core.states import MarketState
from prometheus.orchestration.lifecycle import JobStatus, RunStatus

MARKS: Mapping[str, str] = {
    JobStatus.PENDING: "·",
    JobStatus.QUEUED: "…",
    JobStatus.RUNNING: "▶",
    JobStatus.SUCCESS: "✓",
    JobStatus.FAILED: "✗",
    JobStatus.SKIPPED: "»",
    JobStatus.CANCELLED: "⊘",
    JobStatus.EXPIRED: "◷",
    RunStatus.OPEN: "▶",
}
"""A sign for each state of a job or run, for whoever can not tell their colours apart."""

DEADLINE = "⚑"
"""A sign for a deadline: of a job one that was missed, over time where it is."""

STATE_MARKS: Mapping[str, str] = {
    MarketState.HOLIDAY: "▨",
    MarketState.OVERNIGHT: "☾",
    MarketState.PRE_OPEN: "◔",
    MarketState.SESSION: "●",
    MarketState.POST_CLOSE: "◕",
}
"""A sign for each state of a market."""


def clock_time(at: datetime) -> str:
    """Write the time of an instant, in UTC: ``"14:30"``."""
    return at.astimezone(UTC).strftime("%H:%M")


def day_time(at: datetime) -> str:
    """Write the date and time of an instant, in UTC: ``"2012-11-23 14:30:05"``."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def how_long(span: timedelta) -> str:
    """Write a length of time in its two largest units: ``"1 h 20 min"``."""
    seconds = max(0, round(span.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour} h"
    if hours:
        return f"{hours} h {minute} min"
    return f"{minutes} min {second} s"
