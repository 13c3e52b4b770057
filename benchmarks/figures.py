"""What a measurement comes to."""

from __future__ import annotations

from statistics import median, quantiles

Figure = dict[str, float]
"""``median``, ``least`` and ``most`` of several rounds; of many values their ``p99``."""


def summary(rounds: list[list[float]]) -> Figure:
    """Return the median of the rounds' medians, its least and most, and all rounds' p99."""
    medians = [median(each) for each in rounds]
    everything = [value for each in rounds for value in each]
    figure = {"median": median(medians), "least": min(medians), "most": max(medians)}
    if len(everything) >= 100:
        figure["p99"] = quantiles(everything, n=100)[98]
    return figure
