"""Short forms of what `make chaos`, `crash-points`, `beats` and `soak` do at length."""

from __future__ import annotations

import secrets
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.beats import run_beats
from tests.chaos.chaos import run_chaos, save_figures, short_form
from tests.chaos.crash_points import run_crash_points
from tests.chaos.points import POINTS
from tests.chaos.soak import FLAT, Slope, run_soak, slope_of
from tests.chaos.table import lines_of

pytestmark = pytest.mark.slow


@pytest.mark.promise("P2", "P4")
@pytest.mark.timeout(900)
def test_nothing_is_lost_or_doubled_whatever_dies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    A few faults of every kind within some minutes, from a fresh seed each time.

    `make chaos JOBS=500 SEED=...` does the same to the same pipelines; when exactly what is hit
    depends on the machine.
    """
    seed, folder, form = secrets.token_hex(4), tmp_path / "chaos", short_form(500)
    words = f"chaos of 500 jobs, seed {seed}, logs in {folder}"
    print(words)  # shown with a failure of any kind
    with capsys.disabled():
        print(words, file=sys.stderr, flush=True)

    figures, enemy = run_chaos(seed, form, folder)

    save_figures(folder, seed, form, figures, enemy)
    table = "\n".join([words, *lines_of(figures, enemy.counts)])
    assert figures.ok, table
    assert figures.counts["bodies that began"] > 500, table
    assert sum(enemy.counts.values()) > 40, table


@pytest.mark.promise("P4")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "first"), [("sqlite", 0), ("postgresql", 1)])
def test_every_run_completes_wherever_a_process_dies(kind: str, first: int, tmp_path: Path) -> None:
    """Every point once, on one of the two kinds of database."""
    points = POINTS[first::2]

    crashes = run_crash_points(kind, 1, tmp_path / "crashes", "ci", points)

    assert crashes.violations == []
    assert list(crashes.deaths) == points
    assert crashes.runs >= 10


@pytest.mark.promise("P1")
@pytest.mark.timeout(600)
def test_leader_that_was_frozen_and_woken_changes_no_row(tmp_path: Path) -> None:
    rounds = run_beats(8, tmp_path / "beats", "ci")

    assert rounds.violations == []
    assert rounds.changes_of_lead >= 8
    assert rounds.claims_by_beats > 0


def test_connections_are_as_many_as_processes_not_as_jobs(tmp_path: Path) -> None:
    """A slope of memory needs longer than this to become flat; connections have their limit."""
    soak = run_soak(0.5, 10, tmp_path / "soak", "ci")

    assert soak.jobs >= 290
    assert soak.violations == []
    assert len(soak.connections) == 5


def test_slope_is_that_of_the_line_and_its_error_that_of_the_noise() -> None:
    minutes = range(0, 600, 60)
    assert slope_of([(at, 5 + 0.5 * at / 60) for at in minutes]) == pytest.approx(
        Slope(5, 9.5, 0.5, 0)
    )
    noisy = slope_of([(at, 5 + (-1) ** (at // 60)) for at in minutes])
    assert noisy.error > 0.05
    assert noisy.within(FLAT)
    assert not replace(noisy, a_minute=3 * FLAT).within(FLAT)  # however noisy it is
    assert not slope_of([(at, at / 60) for at in minutes]).within(FLAT)
