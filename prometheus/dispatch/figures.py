"""
What the ticks of all schedulers that have led did and took, as counts that add up.

Each leader keeps them with the lead, and goes on from those of the one before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping

ACTS = ("claimed", "lost_claims", "sent", "rung", "rescued")
"""What is counted of executions, under these names."""
BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, math.inf)
"""Seconds: a tick is counted at the first that it is within."""
MICROSECONDS = "tick_microseconds"
"""What all of them took together."""


def within(bound: float) -> str:
    """Return the name under which the ticks of a bound are counted."""
    return f"ticks_within_{bound:g}"


def note_tick(figures: MutableMapping[str, int], seconds: float) -> None:
    """Count a tick that took so long, in counts that begin with nought by themselves."""
    figures[MICROSECONDS] += round(seconds * 1_000_000)
    figures[within(next(bound for bound in BOUNDS if seconds <= bound))] += 1


def histogram(figures: Mapping[str, int]) -> tuple[list[tuple[float, int]], float]:
    """Return each bound with how many ticks took no longer; and the seconds that all took."""
    buckets, count = [], 0
    for bound in BOUNDS:
        count += figures.get(within(bound), 0)
        buckets.append((bound, count))
    return buckets, figures.get(MICROSECONDS, 0) / 1_000_000
