"""Nanoseconds of a state look-up, and of validating DAGs."""

from __future__ import annotations

import gc
import json
import random
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median

from prometheus.core.market_state import get_market_state
from prometheus.orchestration.dag import DAG, JobMetadata

ORACLE_PYTHON = Path(".venv-sessions/bin/python")
"""The environment of ``make sessions``, which has exchange_calendars."""

_ORACLE = """
import json, sys, time
import exchange_calendars, pandas
calendar = exchange_calendars.get_calendar("XNYS", start="2014-12-01", end="2027-01-31")
seconds = json.load(sys.stdin)
minutes = [pandas.Timestamp(s // 60 * 60, unit="s", tz="UTC") for s in seconds]
calendar.is_open_on_minute(minutes[0])
rounds = []
for _ in range(3):
    began = time.perf_counter_ns()
    for minute in minutes:
        calendar.is_open_on_minute(minute)
    rounds.append((time.perf_counter_ns() - began) / len(minutes))
print(json.dumps(rounds))
"""


def random_instants(count: int) -> list[datetime]:
    """Return instants of 2015 to 2026, the same ones in each run."""
    draw = random.Random(20261123)
    first = datetime(2015, 1, 2, tzinfo=UTC)
    span = int((datetime(2026, 12, 30, tzinfo=UTC) - first).total_seconds())
    return [first + timedelta(seconds=draw.randrange(span)) for _ in range(count)]


def measure_states(count: int = 100_000, rounds: int = 5) -> dict[str, float | None]:
    """Measure `get_market_state` on one exchange and on a composite, beside exchange_calendars."""
    instants = random_instants(count)
    result: dict[str, float | None] = {
        "XNYS_ns": _per_call(
            lambda: [get_market_state("XNYS", at) for at in instants], count, rounds
        ),
        "US_EQ_ns": _per_call(
            lambda: [get_market_state("US_EQ", at) for at in instants], count, rounds
        ),
        "ASIA_EQ_ns": _per_call(
            lambda: [get_market_state("ASIA_EQ", at) for at in instants], count, rounds
        ),
        "exchange_calendars_ns": None,
        "ratio": None,
    }
    oracle = _exchange_calendars(instants[:20_000])
    if oracle is not None:
        result["exchange_calendars_ns"] = oracle
        result["ratio"] = oracle / (result["XNYS_ns"] or 1)
    return result


def _per_call(work: Callable[[], object], count: int, rounds: int) -> float:
    work()  # builds the tables
    taken = []
    for _ in range(rounds):
        began = time.perf_counter_ns()
        work()
        taken.append((time.perf_counter_ns() - began) / count)
    return median(taken)


def _exchange_calendars(instants: list[datetime]) -> float | None:
    if not ORACLE_PYTHON.exists():
        return None
    done = subprocess.run(
        [ORACLE_PYTHON, "-c", _ORACLE],
        input=json.dumps([int(at.timestamp()) for at in instants]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(median(json.loads(done.stdout)))


def measure_validate(sizes: tuple[int, ...] = (100, 1_000, 10_000)) -> dict[int, float]:
    """Measure `DAG.validate` in microseconds: each job waits for up to three before it."""
    draw = random.Random(7)
    result = {}
    for size in sizes:
        jobs = [
            JobMetadata(
                job_id=f"job_{number}",
                job_type="job",
                market_id="US_EQ",
                dependencies=tuple(
                    {f"job_{draw.randrange(number)}" for _ in range(3)} if number else ()
                ),
            )
            for number in range(size)
        ]
        taken = []
        for _ in range(5):
            # A new DAG each time: what was examined once is remembered.
            dag = DAG(
                "bench", jobs, pipeline="bench", market_id="US_EQ", as_of_date=date(2026, 1, 2)
            )
            # As timeit does: a collection walks everything the process ever loaded.
            gc.collect()
            gc.disable()
            began = time.perf_counter_ns()
            faults = dag.validate()
            taken.append((time.perf_counter_ns() - began) / 1_000)
            gc.enable()
            assert faults == ()
        result[size] = median(taken)
    return result
