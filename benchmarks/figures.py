"""What measurements come to."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from statistics import median, quantiles
from typing import NotRequired, TypedDict

Figure = dict[str, float]
"""``median``, ``least`` and ``most`` of several rounds; of many values their ``p99``."""


class Row(TypedDict):
    """One thing that was measured, beside what it is compared with in the same run."""

    unit: str
    """More is better of what is told ``a second``, less of all else."""
    ours: Figure
    references: dict[str, Figure]
    limits: NotRequired[dict[str, float]]
    """Key of ``ours`` -> what it may be at most."""


Rows = dict[str, Row]
"""What was measured -> its row."""
FEWEST = 2
"""Rounds, however long they take."""


def summary(rounds: list[list[float]]) -> Figure:
    """Return the median of the rounds' medians, its least and most, and all rounds' p99."""
    medians = [median(each) for each in rounds]
    everything = [value for each in rounds for value in each]
    figure = {"median": median(medians), "least": min(medians), "most": max(medians)}
    if len(everything) >= 100:
        figure["p99"] = quantiles(everything, n=100)[98]
    return figure


def in_turn(
    rounds: int, subjects: Mapping[str, Callable[[], list[float]]], *, within: float = math.inf
) -> dict[str, Figure]:
    """
    Measure each once, and all of them again, so often: whatever disturbs one disturbs all.

    Args:
        within: Seconds after which no further round begins, from the third on.
    """
    found: dict[str, list[list[float]]] = defaultdict(list)
    began = time.monotonic()
    for number in range(rounds):
        if number >= FEWEST and time.monotonic() - began > within:
            break
        for name, measure in subjects.items():
            found[name].append(measure())
    return {name: summary(each) for name, each in found.items()}


def beside(unit: str, figures: Mapping[str, Figure]) -> Row:
    """Make a row: the first is ours, the others are what it is compared with."""
    _, *references = figures
    return {
        "unit": unit,
        "ours": next(iter(figures.values())),
        "references": {name: figures[name] for name in references},
    }


def ratio(row: Row, reference: str, key: str = "median") -> float:
    """Return how many times the reference's figure ours is."""
    return row["ours"][key] / row["references"][reference][key]


def over_limits(rows: Rows) -> list[str]:
    """Name what is over a limit of its own."""
    return [
        what
        for what, row in rows.items()
        if any(row["ours"][key] > most for key, most in row.get("limits", {}).items())
    ]
