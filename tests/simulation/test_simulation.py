"""The simulation finds what is broken, repeats itself, and has found nothing in years once lost."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulation import __main__ as command
from tests.simulation.__main__ import THE_SAME, Saved, saved_seeds
from tests.simulation.defects import DEFECTS
from tests.simulation.year import Year

ONE_OF_EACH = {seed: each.days for seed, each in saved_seeds().items() if each.why != THE_SAME}
"""Of several that found the same fault the first; ``--saved`` replays all of them."""
FOUND_BY = {"unique": 13, "report": 18}
"""Defects that the first seed does not find, and one that does: it is tried first."""


def _history(seed: int, days: int, hash_seed: str) -> str:
    """Simulate in a process of its own; return the line that tells of it, without the time."""
    command = [sys.executable, "-m", "tests.simulation", "--seed", str(seed), "--days", str(days)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith(f"seed {seed}"))
    what, _, history = line.partition(" violations, ")
    return what + history.partition("history")[2]


def test_a_seed_gives_the_same_history_whatever_the_seed_of_hashes() -> None:
    first = _history(11, 16, "1")
    assert "faults, 0" in first
    assert _history(11, 16, "2") == first
    assert _history(12, 16, "1") != first


def test_a_year_is_saved_with_the_last_day_on_which_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Year(8, defect="upstream", days=1).run()
    saved = tmp_path / "seeds.txt"
    saved.write_text(f"# Seeds.\n7  # {THE_SAME}\n8 195  # known\n")
    monkeypatch.setattr(command, "SAVED", saved)

    for seed, days in ((7, 22.3), (8, 100.0), (9, 372.0), (9, 371.2)):
        command._save([replace(found, seed=seed, days=days, violation=f"on {days}")])

    known = {7: Saved("on 22.3", 23), 8: Saved("known", 195), 9: Saved("on 372.0", 372)}
    assert saved_seeds() == known
    command._save([replace(found, seed=8, days=300.2, violation="later")])
    assert saved_seeds() == {**known, 8: Saved("later", 301)}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("defect", sorted(DEFECTS))
def test_deliberate_defect_is_found_within_a_year(defect: str) -> None:
    found = FOUND_BY.get(defect, 8)
    for seed in (found, *(each for each in range(8, 15) if each != found)):
        outcome = Year(seed, defect=defect, days=60).run()
        print(f"{defect}, {seed}: after {outcome.days:.1f} days: {outcome.violation}")
        if outcome.violation is not None:
            # What a process falls over is no promise: the defect itself would be at fault.
            assert outcome.violation.startswith(("P", "what is kept of ")), outcome.violation
            return
    pytest.fail("not found")


@pytest.mark.promise("P1", "P2", "P3", "P4", "P5")
def test_without_a_defect_the_same_days_keep_every_promise() -> None:
    assert Year(8, days=60).run().violation is None


@pytest.mark.promise("P1", "P2", "P3", "P4", "P5")
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("seed", "days"), ONE_OF_EACH.items(), ids=map(str, ONE_OF_EACH))
def test_year_that_once_broke_a_promise_keeps_them_all(seed: int, days: int | None) -> None:
    assert Year(seed, days=days).run().violation is None
