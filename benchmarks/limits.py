"""What the measurements of `benchmarks.scale` and `benchmarks.day` say of larger installations."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import day, scale
from benchmarks.figures import Figure, Row, Rows

TICK_EVERY = 3.0
"""Seconds between two ticks with nothing to do: `scheduler.max_wait` as it is by default."""

PARTS = (
    # what is told, the row
    ("child of a worker: a job that stands alone", scale.of_flood(scale.CHILDREN)),
    ("main process of a worker: likewise", scale.of_flood(scale.MAIN)),
    ("PostgreSQL: likewise", scale.of_flood(scale.POSTGRES)),
    ("PostgreSQL: a job of a chain", scale.HOP_COST),
    ("Redis: a job that stands alone", scale.of_flood(scale.REDIS)),
    ("scheduler: a job that a tick claims and publishes", day.DAY_COST),
)


def all_of(row: Row) -> Iterator[Figure]:
    """Give the figures of a row: ours, and those beside it."""
    yield row["ours"]
    yield from row["references"].values()


def costs(rows: Rows) -> Iterator[tuple[str, float, float, float]]:
    """
    Say what a job costs each part.

    Returns:
        The part, the least and the most milliseconds of a core, and the jobs a second of which one
        core is full even at the most.
    """
    for told, name in PARTS:
        row = rows[name]
        # Beside the scheduler stands PostgreSQL, which is another part.
        figures = [row["ours"]] if name == day.DAY_COST else list(all_of(row))
        most = max(figure["median"] for figure in figures)
        yield told, min(figure["median"] for figure in figures), most, 1_000 / most


def schedulers(rows: Rows) -> Iterator[tuple[str, float, float]]:
    """
    Say what ticks beside 100 open runs cost.

    Returns:
        Which, milliseconds of a core each, PostgreSQL's with them, and what that is of a core at
        one tick every three seconds, in percent.
    """
    row = rows[day.QUIET_TICK]
    names = [day.LEADER, *row["references"]]
    for name, figure in zip(names, all_of(row), strict=True):
        median = figure["median"]
        yield name, median, median / TICK_EVERY / 10
