"""A pipeline of 500 jobs as a desk has them, for 100 markets that open at their own times."""

from __future__ import annotations

import random
from pathlib import Path

from benchmarks.jobs import Graph, note_times
from prometheus import MarketState, Pipeline
from prometheus.core.exchanges import exchange_mics

COUNT = 100
_NEVER_CLOSED = {"24x5", "24x7", "CMES", "us_futures"}
"""Whose next session begins before what comes after the close of the last could."""
_MICS = tuple(mic for mic in exchange_mics() if mic not in _NEVER_CLOSED)
DESKS = {f"DESK_{number:02}": _MICS[number] for number in range(COUNT - len(_MICS))}
"""Markets beside the exchanges of the snapshot, by the exchange whose sessions they have."""
MARKETS = (*_MICS, *DESKS)

LAYERS = (
    # name, jobs, how many of the layer before each of them waits for, at most; phase of the roots
    ("reference", 20, 0, MarketState.PRE_OPEN),
    ("check", 40, 2, None),
    ("intraday", 40, 1, MarketState.SESSION),
    ("ingest", 60, 0, MarketState.POST_CLOSE),
    ("feature", 140, 3, None),
    ("signal", 120, 3, None),
    ("book", 60, 3, None),
    ("report", 19, 6, None),
    ("summary", 1, 19, None),
)


def graph() -> Graph:
    """Return the jobs, each with those of the layer before that it waits for."""
    draw = random.Random(7)
    made: dict[str, tuple[str, ...]] = {}
    before: list[str] = []
    for layer, count, waits_for, _ in LAYERS:
        names = [f"{layer}_{number:03}" for number in range(count)]
        for name in names:
            made[name] = tuple(sorted(draw.sample(before, waits_for))) if waits_for else ()
        before = names
    return made


def declare(folder: Path) -> None:
    """Declare the desks in a folder's settings."""
    lines = (f'[markets.{name}]\nmembers = ["{mic}"]\n' for name, mic in DESKS.items())
    (folder / "prometheus.toml").write_text("\n".join(lines), encoding="utf-8")


market_day = Pipeline("market_day", markets=MARKETS)
_states = {layer: state for layer, _, _, state in LAYERS}
for _name, _after in graph().items():
    market_day.job(
        name=_name, after=list(_after), required_state=_states[_name.rpartition("_")[0]]
    )(note_times)
