"""Run the product under an enemy: ``python -m tests.chaos chaos``."""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import secrets
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from tests.chaos.beats import LEASE, TAKEN_OVER_WITHIN, run_beats
from tests.chaos.chaos import SHORT_JOBS, form_of, run_chaos, save_figures
from tests.chaos.crash_points import KINDS, Crashes, run_crash_points, table_of
from tests.chaos.history import SHOWN
from tests.chaos.points import POINTS
from tests.chaos.soak import run_soak
from tests.chaos.soak import table_of as table_of_soak
from tests.chaos.table import lines_of
from tests.servers import REPOSITORY


def main() -> int:
    """Do what the command line says; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    chaos = commands.add_parser("chaos", help="everything that can go wrong, at random")
    chaos.add_argument(
        "--jobs",
        type=int,
        default=SHORT_JOBS,
        help="at least so many; from 2,000 on with the product's own leases, below with short ones "
        "(a limit is the lease and 15 s for a rescue, the lease and 5 s for a take-over)",
    )
    points = commands.add_parser("crash-points", help="deaths at each point where they matter")
    points.add_argument("--times", type=int, default=2, help="at each point")
    points.add_argument("--database", choices=KINDS, help="only this kind")
    points.add_argument("--beside", type=int, default=4, help="clusters at once")
    beats = commands.add_parser("beats", help="three beats, of which the leader is frozen")
    beats.add_argument("--rounds", type=int, default=10)
    soak = commands.add_parser("soak", help="even load for a long time")
    soak.add_argument("--minutes", type=float, default=2)
    soak.add_argument("--rate", type=float, default=20, help="jobs a second")
    for command in (chaos, points, beats, soak):
        command.add_argument("--seed", default=secrets.token_hex(4))
        command.add_argument("--folder", type=Path, default=REPOSITORY / ".chaos")
    options = parser.parse_args()
    for name in list(os.environ):
        if name.startswith("PROMETHEUS_"):
            del os.environ[name]
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    folder = options.folder / f"{options.command}-{options.seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"seed {options.seed}, logs in {folder}", flush=True)
    match options.command:
        case "chaos":
            return _chaos(options.seed, options.jobs, folder)
        case "beats":
            return _beats(options.seed, options.rounds, folder)
        case "soak":
            return _soak(options.seed, options.minutes, options.rate, folder)
        case _:
            kinds = [options.database] if options.database else list(KINDS)
            return _crash_points(options.seed, options.times, kinds, options.beside, folder)


def _beats(seed: str, rounds: int, folder: Path) -> int:
    result = run_beats(rounds, folder, seed)
    print(f"\nthree beats, seed {seed}; lease of the leader {LEASE:g} s")
    for where, number in sorted(result.frozen.items()):
        print(f"  {number:>7}  frozen {where}")
    print(f"  {result.runs:>7}  runs, {result.executions} executions")
    print(f"  {result.changes_of_lead:>7}  changes of the lead")
    print(
        f"  {result.changes_by_beats:>7}  changes by beats, {result.claims_by_beats} of them claims"
    )
    longest = max(result.take_overs, default=0)
    print(f"  {longest:>7.1f}  seconds, longest take-over (at most {TAKEN_OVER_WITHIN:g})")
    print(f"  {len(result.violations):>7}  violations")
    print("\n".join(f"           {each}" for each in result.violations[:SHOWN]))
    (folder / "figures.json").write_text(json.dumps({"seed": seed, **asdict(result)}, indent=2))
    print("FAILED" if result.violations else "PASSED")
    return 1 if result.violations else 0


def _soak(seed: str, minutes: float, rate: float, folder: Path) -> int:
    result = run_soak(minutes, rate, folder, seed)
    print("\n" + "\n".join(table_of_soak(result)))
    (folder / "figures.json").write_text(json.dumps(asdict(result), indent=2))
    print("FAILED" if result.violations else "PASSED")
    return 1 if result.violations else 0


def _crash_points(seed: str, times: int, kinds: Sequence[str], beside: int, folder: Path) -> int:
    results = {kind: Crashes() for kind in kinds}
    # They wait for leases most of the time, so that several clusters fit beside each other.
    with ProcessPoolExecutor(beside, mp_context=multiprocessing.get_context("fork")) as pool:
        parts = [
            (
                kind,
                pool.submit(
                    run_crash_points,
                    kind,
                    times,
                    folder / f"{kind}-{part}",
                    f"{seed}:{part}",
                    POINTS[part::beside],
                ),
            )
            for part in range(beside)
            for kind in kinds
        ]
        for kind, done in parts:
            results[kind].add(done.result())
    print("\n" + "\n".join(table_of(results)))
    document = {
        kind: {
            **asdict(crashes),
            "deaths": {" ".join(point): count for point, count in crashes.deaths.items()},
        }
        for kind, crashes in results.items()
    }
    (folder / "figures.json").write_text(json.dumps({"seed": seed, **document}, indent=2))
    ok = not any(crashes.violations for crashes in results.values())
    print("PASSED" if ok else "FAILED")
    return 0 if ok else 1


def _chaos(seed: str, jobs: int, folder: Path) -> int:
    form = form_of(jobs)
    figures, enemy = run_chaos(seed, form, folder)
    print(
        f"\nchaos, seed {seed}; leases: worker {form.worker_lease:g} s, "
        f"leader {form.leader_lease:g} s"
    )
    print("\n".join(lines_of(figures, enemy.counts)))
    save_figures(folder, seed, form, figures, enemy)
    return 0 if figures.ok else 1


if __name__ == "__main__":
    sys.exit(main())
