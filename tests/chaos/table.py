"""The table of figures."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping

from tests.chaos.enemy import Fault
from tests.chaos.history import SHOWN, Figures


def lines_of(figures: Figures, faults: Mapping[Fault, int]) -> Iterator[str]:
    """
    Write what is wrong, what was done and what was measured.

    What is wrong comes first, because whoever shows a long failure cuts off its end.
    """
    yield "violations"
    for kind, cases in sorted(figures.violations.items(), key=lambda each: not each[1]):
        yield f"  {len(cases):>7}  {kind}"
        yield from (f"             {case}" for case in cases[:SHOWN])
    yield "faults"
    yield from (f"  {number:>7}  {name}" for name, number in sorted(faults.items()))
    yield "counts"
    yield from (f"  {number:>7}  {name}" for name, number in figures.counts.items())
    yield "times, in seconds      count   median      max    limit"
    for name, seconds in figures.times.items():
        limit = f"{figures.limits[name]:8g}" if name in figures.limits else ""
        if seconds:
            middle = f"{statistics.median(seconds):8.1f} {max(seconds):8.1f}"
        else:
            middle = f"{'not measured':>17}"
        yield f"  {name}"
        yield f"                      {len(seconds):>6} {middle} {limit}"
    yield "PASSED" if figures.ok else "FAILED"
