"""What is kept of a run in ``benchmarks/results.json``, and comparing another run with it."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NotRequired, TypedDict

import psutil

from benchmarks.figures import Row, Rows, ratio
from benchmarks.rabbit import find_rabbitmq
from tests.servers import PostgresServer, RedisServer

FILE = Path(__file__).with_suffix(".json")
WORSE = 1.5
"""A ratio that is so many times as bad as the stored one is worse."""
ALONE = 0.9
"""Where this share of the cores is not to be had, others are at work and ratios say little."""


class Circumstances(TypedDict):
    """When and where rows were measured."""

    date: str
    machine: dict[str, str]
    share: float
    """See `share_of_cores`; the least of before and after."""


class Part(TypedDict):
    """What one module measures."""

    seconds: float
    """What measuring it took."""
    rows: Rows
    apart: NotRequired[Circumstances]
    """Its own, where it is of another run than the other parts."""


class Run(Circumstances):
    """One run of all parts."""

    seconds: float
    """What all parts took in it, also where some are of another run by now."""
    parts: dict[str, Part]


Results = dict[str, Run]
"""Form (``full``, ``quick`` or ``scaling``) -> the stored run of it."""


def load() -> Results:
    """Read what is stored."""
    results: Results = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    return results


def store(results: Results) -> None:
    """Write what is stored."""
    FILE.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def run_of(parts: dict[str, Part], share: float) -> Run:
    """Name the day and the machine of a run, and sum up what its parts took."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": _machine(),
        "share": share,
        "seconds": sum(part["seconds"] for part in parts.values()),
        "parts": parts,
    }


def with_parts(stored: Run, run: Run) -> Run:
    """Put the parts of a run, perhaps on another machine, in the place of those of a stored one."""
    apart: Circumstances = {
        "date": run["date"],
        "machine": run["machine"],
        "share": run["share"],
    }
    new = {name: Part(**{**part, "apart": apart}) for name, part in run["parts"].items()}
    return {**stored, "parts": stored["parts"] | new}


def share_of_cores() -> float:
    """Return what part of all cores one process for each gets in a second: 1 if they are alone."""
    spin = (
        "import time\nend = time.monotonic() + 1\n"
        "while time.monotonic() < end: pass\nprint(time.process_time())"
    )
    spinning = [
        subprocess.Popen([sys.executable, "-S", "-c", spin], stdout=subprocess.PIPE, text=True)
        for _ in range(os.cpu_count() or 1)
    ]
    return sum(float(each.communicate()[0]) for each in spinning) / len(spinning)


def _machine() -> dict[str, str]:
    told = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", told.read_text()) if told.exists() else None
    machine = {
        "processor": model[1] if model else platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "Celery": version("celery"),
    }
    with PostgresServer() as postgres, postgres.connect() as connection:
        machine["PostgreSQL"] = str(connection.info.parameter_status("server_version"))
    with RedisServer() as redis, redis.client() as client:
        machine["Redis"] = client.info("server")["redis_version"]
    if rabbitmq := find_rabbitmq():
        found = re.search(r"rabbitmq_server-([\d.]+)", str(Path(rabbitmq).resolve()))
        machine["RabbitMQ"] = found[1] if found else "of unknown version"
    return machine


class Change(TypedDict):
    """A ratio of two runs."""

    stored: float
    now: float
    worse: float
    """How many times as bad it is now."""


Changes = dict[tuple[str, str], Change]
"""What was measured, and the reference -> how its ratio has changed."""


def compare(stored: Rows, now: Rows) -> Changes:
    """Compare the ratios of the medians, where both runs have them."""
    return {
        (what, reference): _change(stored[what], row, reference)
        for what, row in now.items()
        if what in stored
        for reference in row["references"]
        if reference in stored[what]["references"]
    }


def _change(stored: Row, now: Row, reference: str) -> Change:
    before, after = ratio(stored, reference), ratio(now, reference)
    more_is_better = now["unit"].endswith("a second")
    worse = before / after if more_is_better else after / before
    return {"stored": before, "now": after, "worse": worse}


def worse(changes: Changes) -> set[tuple[str, str]]:
    """Name the ratios that have become worse."""
    return {name for name, change in changes.items() if change["worse"] > WORSE}


def worse_twice(stored: Rows, first: Rows, again: Callable[[], Rows]) -> Changes:
    """
    Find the ratios that are worse, and are so again when all of it is measured once more.

    Args:
        stored: What is compared with.
        first: The first measurement.
        again: Measures once more; not called where nothing is worse.

    Returns:
        How they are the second time.
    """
    if not (suspects := worse(compare(stored, first))):
        return {}
    second = compare(stored, again())
    return {name: second[name] for name in sorted(suspects & worse(second))}
