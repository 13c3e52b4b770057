"""Even load for a long time: what grows that should not?"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import psutil

from prometheus.core.trading_calendar import TradingCalendar
from tests.chaos import judge
from tests.chaos.cluster import Cluster, Shape, make_run
from tests.chaos.history import check, read_evidence
from tests.chaos.jobs import MARKETS
from tests.chaos.steady import JOBS, TICKS, steady
from tests.servers import wait_until

log = logging.getLogger(__name__)

SAMPLE_EVERY = 5.0
WARM_UP = 0.5
"""Part of the time that is left out of the slopes: caches fill and connections are made."""
FLAT = 0.05
"""
Megabytes a minute by which a process may grow: in a day 72, about as much as it begins with, so
that it can run for days. Noise may excuse as much again, and no more.
"""
FLAT_FROM = 10.0
"""Minutes from which on memory is judged: the second half of less is warming up, and too short for
a line that one sample does not turn."""
RISE = 2
"""By how many connections a process may rise in the time that is judged: some are made late."""
CONNECTIONS = {"beat": 2, "worker": 8, "redis": 40}
"""
Most connections, at any time after warming up: to PostgreSQL, of a beat and of a worker with its
three children, two of each process; and of all to Redis, which a rise with jobs soon passes.
"""
SLOWER = 1.25
"""How many times as long the ticks of the last third may take, at the median and at the 99th."""
SLOWER_BY = 5.0
"""And that by more milliseconds than a machine's own unrest."""
TICKS_TO_JUDGE = 100
"""In each third; of fewer there is no 99th percentile."""
JUDGED_FROM = 2.0
"""Minutes from which on rate and backlog are judged: a shorter soak ends before they are even."""
ACHIEVED = 0.95
"""Part of the jobs asked for that must have ended when the last is made."""
BACKLOG = 30.0
"""Seconds of work that may wait at most at any time; at the end, a sixth of it."""
_SINCE = date(2000, 1, 3)


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line through samples, by least squares."""

    first: float
    last: float
    a_minute: float
    error: float
    """Standard error of the slope."""

    def within(self, limit: float) -> bool:
        """Say whether it grows by no more than a limit; noise excuses as much again at most."""
        return self.a_minute <= limit + min(2 * self.error, limit)


@dataclass(slots=True)
class Soak:
    """What was measured."""

    jobs: int = 0
    seconds: float = 0
    slopes: dict[str, Slope] = field(default_factory=dict)
    ticks: dict[str, tuple[int, float, float]] = field(default_factory=dict)
    """Part of the time -> count, median and 99th percentile in milliseconds."""
    backlog: list[int] = field(default_factory=list)
    """How many jobs had not ended, at each look."""
    ended_in_time: int = 0
    """Jobs that had ended when the last was made."""
    connections: dict[str, float] = field(default_factory=dict)
    """Most at once after warming up."""
    violations: list[str] = field(default_factory=list)


def run_soak(minutes: float, rate: float, folder: Path, seed: str) -> Soak:
    """
    Run jobs at an even rate.

    Args:
        rate: Jobs a second.
        folder: New; keeps logs, evidence and the stopwatch's file.
    """
    result = Soak()
    samples: dict[str, list[tuple[float, float]]] = defaultdict(list)
    shape = Shape(
        beats=2,
        workers=("US_EQ,EU_EQ,ASIA_EQ", "ASIA_EQ,EU_EQ,US_EQ"),
        concurrency=3,
        modules="tests.chaos.steady",
        settings={"SCHEDULER__CREATE_RUNS": "false"},
        gated=False,
    )
    with Cluster(seed, shape, folder) as cluster:
        cluster.start()
        keys = _keys()
        make_run(cluster.engine, steady, *next(keys))
        wait_until(lambda: _unfinished(cluster) == 0, timeout=90, message="the first run ends")
        began_at = time.time()
        made = 0
        sample_at = began_at
        while (now := time.time()) < began_at + 60 * minutes:
            while made < (now - began_at) * rate:
                make_run(cluster.engine, steady, *next(keys))
                made += JOBS
            if now >= sample_at:
                sample_at += SAMPLE_EVERY
                for name, value in _sample(cluster):
                    samples[name].append((now - began_at, value))
                result.backlog.append(_unfinished(cluster))
            time.sleep(0.1)
        result.ended_in_time = made - _unfinished(cluster)
        try:
            # A run is closed in a transaction after that of its last job.
            wait_until(
                lambda: _unfinished(cluster) == _open_runs(cluster) == 0, timeout=60, interval=0.5
            )
        except AssertionError:
            result.violations.append(
                f"{_unfinished(cluster)} jobs have not ended, {_open_runs(cluster)} runs are open"
            )
        result.jobs, result.seconds = made, time.time() - began_at
        report = check(cluster.engine, read_evidence(cluster.evidence))
        result.violations += [f"{each.rule}: {each.message}" for each in report.violations]
        for name, points in samples.items():
            warm = [(at, value) for at, value in points if at >= 60 * minutes * WARM_UP]
            if "connections" in name:
                result.connections[name] = max((value for _, value in warm), default=0)
            if len(warm) >= 3:
                result.slopes[name] = slope_of(warm)
        result.ticks = _thirds(_read_ticks(folder / TICKS, began_at))
    result.violations += judge_soak(result, minutes, rate)
    result.violations += judge.read_complaints(folder)
    return result


def judge_soak(result: Soak, minutes: float, rate: float) -> Iterator[str]:
    """Say what grows, what grows slower, and what was not achieved."""
    for name, slope in result.slopes.items():
        if minutes >= FLAT_FROM and not slope.within(_growth_allowed(name, minutes)):
            yield f"{name} grows by {slope.a_minute:.2f} ± {slope.error:.2f} a minute"
    for name, most in result.connections.items():
        if most > _connections_allowed(name):
            yield f"{name}: {most:g}, at most {_connections_allowed(name)} are needed"
    if len(result.ticks) == 2 and all(
        ticks[0] >= TICKS_TO_JUDGE for ticks in result.ticks.values()
    ):
        first, last = result.ticks.values()
        for what, before, after in zip(("median", "p99"), first[1:], last[1:], strict=True):
            if after > SLOWER * before and after > before + SLOWER_BY:
                yield f"ticks: the {what} rises from {before:.1f} to {after:.1f} ms"
    if minutes < JUDGED_FROM:
        return
    asked = 60 * minutes * rate
    if result.ended_in_time < ACHIEVED * asked:
        yield f"{result.ended_in_time} jobs ended in time of {asked:.0f} that were asked for"
    if max(result.backlog, default=0) > BACKLOG * rate:
        yield f"{max(result.backlog)} jobs waited at once"
    end = result.backlog[-max(1, len(result.backlog) // 3) :]
    if end and statistics.median(end) > BACKLOG / 6 * rate:
        yield f"{statistics.median(end):g} jobs wait in the last third"


def _growth_allowed(name: str, minutes: float) -> float:
    """Return by how much it may grow a minute, where a soak is long enough to be judged."""
    return RISE / (WARM_UP * minutes) if "connections" in name else FLAT


def _connections_allowed(name: str) -> int:
    return CONNECTIONS["redis" if "Redis" in name else name.partition("_")[0]]


def slope_of(points: Sequence[tuple[float, float]]) -> Slope:
    """Fit a line; times are seconds."""
    times = [at / 60 for at, _ in points]
    values = [value for _, value in points]
    fit = statistics.linear_regression(times, values)
    middle = statistics.fmean(times)
    spread = sum((at - middle) ** 2 for at in times)
    rest = sum(
        (value - fit.intercept - fit.slope * at) ** 2
        for at, value in zip(times, values, strict=True)
    )
    error = math.sqrt(rest / (len(points) - 2) / spread)
    return Slope(values[0], values[-1], fit.slope, error)


def table_of(result: Soak) -> Iterator[str]:
    """Write what was measured."""
    backlog = max(result.backlog, default=0)
    yield f"{result.jobs} jobs in {result.seconds:.0f} s, at most {backlog} unfinished"
    yield f"{result.ended_in_time} had ended when the last was made"
    yield f"{'':<36}   first    last   a minute (limit, for {FLAT_FROM:g} minutes and more)"
    for name, slope in sorted(result.slopes.items()):
        line = f"{name:<36}{slope.first:>8.1f}{slope.last:>8.1f}"
        limit = _growth_allowed(name, result.seconds / 60)
        yield f"{line}{slope.a_minute:>9.3f} ± {slope.error:.3f} ({limit:.2f})"
    yield f"{'at most after warming up':<36}        (limit)"
    for name, most in sorted(result.connections.items()):
        yield f"{name:<36}{most:>8g} ({_connections_allowed(name)})"
    yield f"{'tick, in ms':<36}   count  median     p99"
    for part, (count, median, high) in result.ticks.items():
        yield f"{part:<36}{count:>8}{median:>8.1f}{high:>8.1f}"
    yield f"{len(result.violations)} violations"
    yield from result.violations[:20]


def _keys() -> Iterator[tuple[str, date]]:
    calendars = {market_id: TradingCalendar(market_id) for market_id in MARKETS}
    for number in itertools.count():
        day = _SINCE + timedelta(days=number)
        yield from (
            (market_id, day)
            for market_id, calendar in calendars.items()
            if calendar.is_trading_day(day)
        )


def _sample(cluster: Cluster) -> Iterator[tuple[str, float]]:
    for node in cluster.nodes:
        children = sorted(node.children(), key=lambda child: child.pid)
        family = [("", psutil.Process(node.pid))]
        family += [(f" child {number}", child) for number, child in enumerate(children, 1)]
        for name, process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                yield f"{node}{name}, MB", process.memory_info().rss / 2**20
    redis_memory = psutil.Process(cluster.redis.pid).memory_info().rss
    yield "redis, MB", redis_memory / 2**20
    with cluster.connect() as connection:
        rows = connection.execute("SELECT usename, count(*) FROM pg_stat_activity GROUP BY 1")
        connections: dict[str, int] = dict(rows.fetchall())
    for node in cluster.nodes:
        yield f"{node}, connections to PostgreSQL", float(connections.get(node.name, 0))
    with cluster.redis.client() as client:
        yield "connections to Redis", float(len(client.client_list()))


def _read_ticks(file: Path, began_at: float) -> list[tuple[float, float]]:
    """Return each tick's time, in seconds since the beginning, and how long it took in ms."""
    ahead = time.time() - time.monotonic() - began_at
    lines = (line.split() for line in file.read_text().splitlines())
    ticks = [(float(at) + ahead, float(seconds) * 1000) for _, at, seconds in lines]
    return sorted(tick for tick in ticks if tick[0] >= 0)


def _thirds(ticks: Sequence[tuple[float, float]]) -> dict[str, tuple[int, float, float]]:
    """Compare the ticks of the first third of the time with those of the last."""
    begin, end = ticks[0][0], ticks[-1][0]
    thirds = {
        "first third": [ms for at, ms in ticks if at <= begin + (end - begin) / 3],
        "last third": [ms for at, ms in ticks if at >= end - (end - begin) / 3],
    }
    return {
        name: (len(part), statistics.median(part), _p99(part))
        for name, part in thirds.items()
        if len(part) >= 2
    }


def _p99(values: Sequence[float]) -> float:
    # Not beyond the greatest, as the default method goes where there are fewer than a hundred.
    return statistics.quantiles(values, n=100, method="inclusive")[98]


def _unfinished(cluster: Cluster) -> int:
    return cluster.count("job_executions", "completed_at IS NULL")


def _open_runs(cluster: Cluster) -> int:
    return cluster.count("dag_runs", "status = 'OPEN'")
