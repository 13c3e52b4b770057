"""``python -m tests.simulation --years 100``: simulate years, and say what came of them."""

from __future__ import annotations

import argparse
import math
import multiprocessing
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.simulation.defects import DEFECTS
from tests.simulation.year import Outcome, Task, live

AT_LEAST = 50
"""How often each kind of fault must have come to pass in a whole year."""
SAVED = Path(__file__).parent / "seeds.txt"
THE_SAME = "the same"
"""Why a seed was saved that found what the one above it had."""


class Saved(NamedTuple):
    """Why the year of a seed had failed, and how much of it had been lived by then."""

    why: str
    days: int | None
    """None where that is not known."""


def saved_seeds() -> dict[int, Saved]:
    """Return the seeds that have failed before; of several lines of one the last counts."""
    found = {}
    for line in SAVED.read_text().splitlines():
        numbers, _, why = line.partition("#")
        if numbers.strip():
            seed, *days = map(int, numbers.split())
            found[seed] = Saved(why.strip(), days[0] if days else None)
    return found


def _save(failed: list[Outcome]) -> None:
    """Have the tests replay the years that have failed, once what broke them is mended."""
    known = saved_seeds()
    with SAVED.open("a") as file:
        for outcome in failed:
            saved, days = known.get(outcome.seed), math.ceil(outcome.days)
            if saved is None or saved.days is None or saved.days < days:
                file.write(f"{outcome.seed} {days}  # {outcome.violation}\n")
                print(f"saved in {SAVED.name}: {outcome.seed}")


def _outcomes(tasks: list[Task], processes: int) -> Iterator[Outcome]:
    if processes == 1 or len(tasks) == 1:
        yield from map(live, tasks)
        return
    # A process for each year: what greenlets and SQLite hold, no garbage collector finds.
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        yield from pool.imap(live, tasks)


def main(arguments: list[str] | None = None) -> int:
    """Simulate; return 1 if a promise was broken (or, with a defect, if none was)."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--years", type=int, default=1, help="how many years, each from a seed")
    parser.add_argument("--seed", type=int, help="of the first year; by default a fresh one")
    parser.add_argument("--days", type=int, help="only so many days of each year")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--defect", choices=sorted(DEFECTS), help="break this on purpose")
    parser.add_argument("--saved", action="store_true", help="the seeds that have failed before")
    given = parser.parse_args(arguments)
    seed = given.seed if given.seed is not None else secrets.randbelow(10**9)
    seeds = list(saved_seeds()) if given.saved else list(range(seed, seed + given.years))
    print(f"{len(seeds)} years from seed {seeds[0] if seeds else '-'}", flush=True)
    began = time.perf_counter()
    done: list[Outcome] = []
    tasks: list[Task] = [(each, given.defect, given.days) for each in seeds]
    for outcome in _outcomes(tasks, given.processes):
        done.append(outcome)
        print(_line(outcome), flush=True)
    print(_summary(done, time.perf_counter() - began, given.days))
    failed = [outcome for outcome in done if outcome.violation is not None]
    whole = [outcome for outcome in done if outcome.violation is None and given.days is None]
    rare = {kind for each in whole for kind, count in each.faults.items() if count < AT_LEAST}
    for kind in sorted(rare):
        print(f"too rare: {kind} came to pass less than {AT_LEAST} times in a year")
    if given.defect is not None:
        return 0 if len(failed) == len(done) else 1
    for outcome in failed:
        print(f"again: python -m tests.simulation --seed {outcome.seed}")
    if given.days is None:
        _save(failed)
    return 1 if failed or rare else 0


def _line(outcome: Outcome) -> str:
    head = f"seed {outcome.seed} ({outcome.year}): "
    if outcome.violation is not None:
        return (
            f"{head}FOUND after {outcome.days:.1f} days, {outcome.jobs} jobs, "
            f"{outcome.wall_seconds:.1f} s: {outcome.violation}"
        )
    return (
        f"{head}{outcome.jobs} jobs, {outcome.attempts} attempts, "
        f"{sum(outcome.faults.values())} faults, 0 violations, "
        f"{outcome.cpu_seconds:.1f} s of CPU, history {outcome.digest[:16]}"
    )


def _summary(done: list[Outcome], wall: float, days: int | None) -> str:
    length = f" of {days} days" if days is not None else ""
    kinds = list(done[0].faults) if done else []
    lines = ["faults a year, least and in all:"]
    for kind in kinds:
        counts = [outcome.faults[kind] for outcome in done]
        lines.append(f"  {kind:36} {min(counts):5} {sum(counts):8}")
    after_dst = [outcome.sessions_after_dst * 20 for outcome in done]
    if done:
        lines.append(
            f"  {'jobs of sessions after a DST change':36} {min(after_dst):5} {sum(after_dst):8}"
        )
    statuses: Counter[str] = Counter()
    for outcome in done:
        statuses.update(outcome.statuses)
    told = ", ".join(f"{count} {name}" for name, count in statuses.items())
    lines.append(f"attempts: {told} (PENDING or RUNNING: of runs still open at the end)")
    cpu = [outcome.cpu_seconds for outcome in done]
    violations = sum(outcome.violation is not None for outcome in done)
    lines.append(
        f"{len(done)} years{length}, {sum(outcome.jobs for outcome in done)} jobs, "
        f"{violations} violations, {sum(cpu) / max(len(cpu), 1):.1f} s of CPU each "
        f"(most: {max(cpu, default=0):.1f}), {wall:.0f} s"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
