"""Nanoseconds of a state look-up, and of validating DAGs."""

from __future__ import annotations

import gc
import json
import random
import subprocess
import time
from bisect import bisect_right
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from graphlib import TopologicalSorter
from pathlib import Path
from zoneinfo import ZoneInfo

from benchmarks.figures import Row, Rows, beside, in_turn, summary
from prometheus.core.market_state import get_market_state
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.dag import DAG, JobMetadata

ORACLE_PYTHON = Path(".venv-sessions/bin/python")
"""The environment of ``make sessions``, which has exchange_calendars."""
ORACLE, BISECT, SORTER = "exchange_calendars", "a bisect of instants", "graphlib"

_ORACLE = """
import json, sys, time
import exchange_calendars, pandas
calendar = exchange_calendars.get_calendar("XNYS", start="2014-12-01", end="2027-01-31")
seconds = json.load(sys.stdin)
minutes = [pandas.Timestamp(s // 60 * 60, unit="s", tz="UTC") for s in seconds]
calendar.is_open_on_minute(minutes[0])
rounds = []
for _ in range(3):
    began = time.process_time_ns()
    for minute in minutes:
        calendar.is_open_on_minute(minute)
    rounds.append((time.process_time_ns() - began) / len(minutes))
print(json.dumps(rounds))
"""


def random_instants(count: int) -> list[datetime]:
    """Return instants of 2015 to 2026, the same ones in each run."""
    draw = random.Random(20261123)
    first = datetime(2015, 1, 2, tzinfo=UTC)
    span = int((datetime(2026, 12, 30, tzinfo=UTC) - first).total_seconds())
    return [first + timedelta(seconds=draw.randrange(span)) for _ in range(count)]


def measure_states(*, quick: bool) -> Rows:
    """
    Measure `get_market_state` on one exchange and on composite markets.

    Returns:
        Nanoseconds of a call, beside those of finding the same instant among all opens and closes
        of XNYS by a bisect, and beside exchange_calendars' quickest equal question, where it is.
    """
    instants = random_instants(20_000 if quick else 100_000)
    paris = [at.astimezone(ZoneInfo("Europe/Paris")) for at in instants]
    calendar = TradingCalendar("XNYS")
    days = calendar.trading_days(date(2014, 12, 1), date(2026, 12, 31))
    phases = [calendar.phases(day) for day in days]
    known = [at.timestamp() for each in phases for at in (each.open_at, each.close_at)]

    def plain() -> None:
        for at in instants:
            bisect_right(known, at.timestamp())

    def asking(market: str, when: list[datetime]) -> Callable[[], None]:
        def ask() -> None:
            for at in when:
                get_market_state(market, at)

        ask()  # builds the tables
        return ask

    subjects = {
        "state of XNYS": asking("XNYS", instants),
        "state of US_EQ": asking("US_EQ", instants),
        "state of ASIA_EQ": asking("ASIA_EQ", instants),
        "state of XNYS, asked in Paris time": asking("XNYS", paris),
    }
    timed = {
        name: _per_call(work, len(instants)) for name, work in {**subjects, BISECT: plain}.items()
    }
    figures = in_turn(7, timed)
    rows = {name: beside("ns", {name: figures[name], BISECT: figures[BISECT]}) for name in subjects}
    if ORACLE_PYTHON.exists():
        oracle = summary([[each] for each in _exchange_calendars(instants[:20_000])])
        rows["state of XNYS"]["references"][ORACLE] = oracle
    return rows


def _per_call(work: Callable[[], None], count: int) -> Callable[[], list[float]]:
    def measure() -> list[float]:
        began = time.process_time_ns()
        work()
        return [(time.process_time_ns() - began) / count]

    return measure


def _exchange_calendars(instants: list[datetime]) -> list[float]:
    done = subprocess.run(
        [ORACLE_PYTHON, "-c", _ORACLE],
        input=json.dumps([int(at.timestamp()) for at in instants]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    rounds: list[float] = json.loads(done.stdout)
    return rounds


def measure_validate() -> Rows:
    """
    Measure `DAG.validate`: each job waits for up to three before it.

    Returns:
        Microseconds a DAG of so many jobs, beside sorting the same graph with graphlib.
    """
    return {f"DAG.validate, {size:,} jobs": _measure_size(size) for size in (100, 1_000, 10_000)}


def _measure_size(size: int) -> Row:
    draw = random.Random(7)
    graph = {
        f"job_{number}": tuple(
            {f"job_{draw.randrange(number)}" for _ in range(3)} if number else ()
        )
        for number in range(size)
    }
    jobs = [
        JobMetadata(job_id=job, job_type="job", market_id="US_EQ", dependencies=after)
        for job, after in graph.items()
    ]

    def ours() -> Callable[[], object]:
        # A new DAG each time: what was examined once is remembered.
        return DAG(
            "bench", jobs, pipeline="bench", market_id="US_EQ", as_of_date=date(2026, 1, 2)
        ).validate

    def plain() -> Callable[[], object]:
        return lambda: list(TopologicalSorter(graph).static_order())

    figures = in_turn(7, {"ours": lambda: _collected(ours()), SORTER: lambda: _collected(plain())})
    return beside("µs", figures)


def _collected(work: Callable[[], object]) -> list[float]:
    """Measure as timeit does: a collection walks everything the process ever loaded."""
    gc.collect()
    gc.disable()
    began = time.process_time_ns()
    work()
    taken = (time.process_time_ns() - began) / 1_000
    gc.enable()
    return [taken]
