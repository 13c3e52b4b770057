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
from prometheus.verification import StartRecord, check
from tests.chaos.cluster import Cluster, Shape, make_run
from tests.chaos.history import read_evidence
from tests.chaos.jobs import MARKETS
from tests.chaos.steady import JOBS, TICKS, steady
from tests.servers import wait_until

log = logging.getLogger(__name__)

SAMPLE_EVERY = 5.0
WARM_UP = 0.2
"""Part of the time that is left out of the slopes: caches fill and connections are made."""
FLAT = 0.2
"""Megabytes, or connections, a minute by which something may grow, beyond two standard errors."""
FLAT_TICKS = 1.0
"""Milliseconds a minute by which each minute's slowest ticks may become slower, likewise."""
_SINCE = date(2000, 1, 3)


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line through samples, by least squares."""

    first: float
    last: float
    a_minute: float
    error: float
    """Standard error of the slope."""
    allowed: float = FLAT

    @property
    def flat(self) -> bool:
        """Whether it surely does not grow by more than is allowed."""
        return self.a_minute - 2 * self.error <= self.allowed


@dataclass(slots=True)
class Soak:
    """What was measured."""

    jobs: int = 0
    seconds: float = 0
    slopes: dict[str, Slope] = field(default_factory=dict)
    ticks: dict[str, tuple[int, float, float]] = field(default_factory=dict)
    """Part of the time -> count, median and 99th percentile in milliseconds."""
    backlog: int = 0
    """Most jobs that had not ended at once."""
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
                result.backlog = max(result.backlog, _unfinished(cluster))
            time.sleep(0.1)
        try:
            wait_until(lambda: _unfinished(cluster) == 0, timeout=60, interval=0.5)
        except AssertionError:
            result.violations.append(f"{_unfinished(cluster)} jobs have not ended")
        result.jobs, result.seconds = made, time.time() - began_at
        evidence = read_evidence(cluster.evidence)
        starts = [
            StartRecord(each.execution_id, each.at) for each in evidence if each.what == "began"
        ]
        with cluster.engine.connect() as connection:
            report = check(connection, finished=True, starts=starts)
        result.violations += [f"{each.rule}: {each.message}" for each in report.violations]
        for name, points in samples.items():
            warm = [(at, value) for at, value in points if at >= 60 * minutes * WARM_UP]
            if len(warm) >= 3:
                result.slopes[name] = slope_of(warm)
        ticks = _read_ticks(folder / TICKS, began_at)
        result.ticks = _thirds(ticks)
        slowest = [each for each in _slowest(ticks) if each[0] >= 60 * minutes * WARM_UP]
        if len(slowest) >= 3:
            result.slopes["tick, p99 of a minute in ms"] = slope_of(slowest, allowed=FLAT_TICKS)
    result.violations += [
        f"{name} grows by {slope.a_minute:.2f} ± {slope.error:.2f} a minute"
        for name, slope in result.slopes.items()
        if not slope.flat
    ]
    return result


def slope_of(points: Sequence[tuple[float, float]], *, allowed: float = FLAT) -> Slope:
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
    return Slope(values[0], values[-1], fit.slope, error, allowed)


def table_of(result: Soak) -> Iterator[str]:
    """Write what was measured."""
    yield f"{result.jobs} jobs in {result.seconds:.0f} s, at most {result.backlog} unfinished"
    yield f"{'':<36}   first    last   a minute"
    for name, slope in sorted(result.slopes.items()):
        line = f"{name:<36}{slope.first:>8.1f}{slope.last:>8.1f}"
        yield f"{line}{slope.a_minute:>9.3f} ± {slope.error:.3f}"
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


def _slowest(ticks: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Give the 99th percentile of each whole minute's ticks."""
    by_minute: dict[int, list[float]] = defaultdict(list)
    for at, ms in ticks:
        by_minute[int(at // 60)].append(ms)
    for minute in sorted(by_minute)[:-1]:
        if len(by_minute[minute]) >= 2:
            yield 60.0 * minute + 30, _p99(by_minute[minute])


def _p99(values: Sequence[float]) -> float:
    # Not beyond the greatest, as the default method goes where there are fewer than a hundred.
    return statistics.quantiles(values, n=100, method="inclusive")[98]


def _unfinished(cluster: Cluster) -> int:
    with cluster.connect() as connection:
        (number,) = connection.execute(
            "SELECT count(*) FROM job_executions WHERE completed_at IS NULL"
        ).fetchone() or (0,)
    return int(number)
