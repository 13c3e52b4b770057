"""
A pipeline for long runs under even load, and a stopwatch around the scheduler's tick.

The processes under test load this module.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from prometheus import JobContext, Pipeline
from prometheus.dispatch.scheduler import Scheduler
from tests.chaos.jobs import FOLDER, MARKETS, leave

JOBS = 10
"""Of one run: three stages, of which the middle one is wide."""
TICKS = "ticks"
"""File of the stopwatch: process id, monotonic time and seconds of each tick."""

steady = Pipeline("steady", markets=MARKETS)


def _body(ctx: JobContext) -> None:
    folder = Path(os.environ[FOLDER])
    leave(folder, "began", ctx)
    time.sleep(0.02)
    leave(folder, "ended", ctx)


steady.job(name="first")(_body)
_middle = [f"middle_{number}" for number in range(JOBS - 2)]
for _name in _middle:
    steady.job(name=_name, after=["first"])(_body)
steady.job(name="last", after=_middle)(_body)


def _timed(tick: Callable[..., timedelta], file: Path) -> Callable[..., timedelta]:
    @functools.wraps(tick)
    def wrapper(scheduler: Scheduler) -> timedelta:
        began_at = time.monotonic()
        ticks = scheduler.totals["ticks"]
        try:
            return tick(scheduler)
        finally:
            if scheduler.totals["ticks"] > ticks:  # not of a standby
                now = time.monotonic()
                with file.open("a") as lines:
                    lines.write(f"{os.getpid()} {now} {now - began_at}\n")

    return wrapper


if FOLDER in os.environ:
    Scheduler.tick = _timed(Scheduler.tick, Path(os.environ[FOLDER]).parent / TICKS)  # type: ignore[method-assign]
