"""Comparing a run of the benchmarks with the stored one."""

from __future__ import annotations

import pytest

from benchmarks.figures import Row, Rows, beside, summary
from benchmarks.results import compare, load, worse, worse_twice


def row(unit: str, ours: float, **references: float) -> Row:
    figures = {"ours": ours, **references}
    return beside(unit, {name: summary([[value]]) for name, value in figures.items()})


def test_the_ratios_are_compared_whatever_the_times_are() -> None:
    stored, now = {"gap": row("ms", 6, celery=4)}, {"gap": row("ms", 60, celery=20)}
    assert compare(stored, now) == {("gap", "celery"): {"stored": 1.5, "now": 3.0, "worse": 2.0}}


def test_of_jobs_a_second_less_is_worse() -> None:
    stored = {"rate": row("jobs a second", 800, celery=1_000)}
    now = {"rate": row("jobs a second", 400, celery=1_000)}
    assert compare(stored, now)["rate", "celery"]["worse"] == 2
    assert compare(now, stored)["rate", "celery"]["worse"] == 0.5


def test_what_only_one_of_the_runs_has_is_not_compared() -> None:
    stored = {"gap": row("ms", 6, celery=4, rabbitmq=3), "old": row("ms", 1, celery=1)}
    now = {"gap": row("ms", 6, celery=4, other=2), "new": row("ms", 1, celery=1)}
    assert set(compare(stored, now)) == {("gap", "celery")}


@pytest.mark.parametrize(("ours", "found"), [(15, set()), (15.1, {("gap", "celery")})])
def test_worse_is_what_is_more_than_one_and_a_half_times_as_bad(
    ours: float, found: set[tuple[str, str]]
) -> None:
    stored, now = {"gap": row("ms", 10, celery=10)}, {"gap": row("ms", ours, celery=10)}
    assert worse(compare(stored, now)) == found


def test_a_ratio_counts_as_worse_only_if_it_is_so_twice() -> None:
    names = ("well", "first", "second", "both")

    def rows(*ours: float) -> Rows:
        return {name: row("ms", each, celery=10) for name, each in zip(names, ours, strict=True)}

    found = worse_twice(rows(10, 10, 10, 10), rows(10, 20, 10, 20), lambda: rows(10, 10, 20, 30))
    assert found == {("both", "celery"): {"stored": 1.0, "now": 3.0, "worse": 3.0}}


def test_nothing_is_measured_again_where_nothing_is_worse() -> None:
    rows = {"gap": row("ms", 10, celery=10)}

    def again() -> Rows:
        raise AssertionError("measured again")

    assert worse_twice(rows, rows, again) == {}


def test_the_stored_runs_can_be_compared_with_themselves() -> None:
    for form, run in load().items():
        for name, part in run["parts"].items():
            changes = compare(part["rows"], part["rows"])
            assert changes, (form, name)
            assert worse(changes) == set()
