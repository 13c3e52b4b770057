"""
Graphs of jobs, beside the same graphs in Celery alone: gaps, whole graphs, and many at once.

All of them run in turn on one PostgreSQL, one Redis and the same two cores, each with a worker of
two processes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path

from redis import Redis
from sqlalchemy import delete, func, select

from benchmarks import jobs
from benchmarks.figures import Figure, summary
from benchmarks.jobs import GRAPHS
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.lifecycle import JobStatus, RunStatus, Trigger
from prometheus.orchestration.pipeline import Pipeline
from prometheus.persistence import migrate, runs
from prometheus.persistence.engine import create_engine, reading, writing
from prometheus.persistence.tables import dag_runs, job_executions
from tests.servers import PostgresServer, Process, RedisServer, wait_until

PATIENCE = 600.0
"""Seconds that one graph may take."""
SLOW = 0.1
"""Seconds between two looks at whether it has ended: whoever looks shares the two cores."""
FLOODS = 10
"""Runs of the graph ``flood``, which has 500 jobs: all at once."""

Times = dict[str, tuple[float, float]]
"""Job -> when its body began and ended, in seconds since 1970."""

_e = job_executions.c


@dataclass(frozen=True)
class Ran:
    """What one graph, or several of them at once, took."""

    began: float
    """When the first were claimed, or began to be sent."""
    runs: list[Times]

    @property
    def gaps(self) -> list[float]:
        """Milliseconds from each body's end to the next one's beginning, in a chain."""
        times = sorted(self.runs[0].values())
        return [(after[0] - before[1]) * 1_000 for before, after in pairwise(times)]

    @property
    def took(self) -> float:
        """Milliseconds from the claim to the end of the last body."""
        return (max(ended for run in self.runs for _, ended in run.values()) - self.began) * 1_000

    @property
    def per_second(self) -> float:
        """Jobs a second."""
        return sum(map(len, self.runs)) / self.took * 1_000


class Ours:
    """Prometheus: a beat and a worker on a database of their own."""

    def __init__(self, name: str, url: str, broker: str, folder: Path) -> None:
        migrate.upgrade(url)
        self._engine = create_engine(url)
        self._calendar = TradingCalendar("US_EQ")
        self._sessions = self._calendar.trading_days(date(2025, 1, 2), date(2025, 12, 31))
        environment = {
            "PROMETHEUS__DATABASE__URL": url,
            "PROMETHEUS__BROKER__URL": broker,
            "PROMETHEUS__PIPELINES__MODULES": "benchmarks.jobs",
            "PROMETHEUS__MARKETS__ENABLED": "US_EQ",
            "PROMETHEUS__SCHEDULER__CREATE_RUNS": "false",
        }
        self._processes = [
            Process(
                ["prometheus", *command], log=folder / f"{name}-{command[0]}.log", env=environment
            )
            for command in (["beat"], ["worker", "--concurrency", "2"])
        ]

    def run(self, graph: str, at_once: int = 1) -> Ran:
        """Run a graph, so often at once."""
        pipeline: Pipeline = getattr(jobs, graph)
        with writing(self._engine) as connection:
            connection.execute(delete(dag_runs))
            for session in self._sessions[:at_once]:
                runs.create_run(
                    connection,
                    pipeline.dag("US_EQ", session),
                    opens_at=self._calendar.phases(session).pre_open_at,
                    trigger=Trigger.SCHEDULE,
                    calendar_version=self._calendar.version,
                    parameters={},
                    forced=True,
                )
        _wait(lambda: not self._open_runs(), f"{graph} has run")
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(_e.dag_id, _e.job_id, _e.result, _e.scheduled_at, _e.status)
            ).all()
        assert {row.status for row in rows} == {JobStatus.SUCCESS}, graph
        told: dict[str, Times] = defaultdict(dict)
        for row in rows:
            began, ended = row.result
            told[row.dag_id][row.job_id] = began, ended
        return Ran(min(row.scheduled_at for row in rows).timestamp(), list(told.values()))

    def _open_runs(self) -> int:
        with reading(self._engine) as connection:
            return connection.execute(
                select(func.count()).where(dag_runs.c.status == RunStatus.OPEN)
            ).scalar_one()

    def end(self) -> None:
        """End what it started."""
        for process in self._processes:
            process.end()
        self._engine.dispose()


class Bare:
    """Celery alone, or with three commits a job; see `benchmarks.reference`."""

    def __init__(self, name: str, broker: str, store: str, folder: Path) -> None:
        self._redis = Redis.from_url(broker, decode_responses=True)
        self._environment = {**os.environ, "BENCH_BROKER": broker, "BENCH_STORE": store}
        command = ["celery", "-A", "benchmarks.reference", "worker", "-Q", "reference", "-c", "2"]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        log = folder / f"{name}.log"
        self._worker = Process([*command, *quiet], log=log, env=self._environment)

    def run(self, graph: str, at_once: int = 1) -> Ran:
        """Run a graph, so often at once."""
        names = [uuid.uuid4().hex for _ in range(at_once)]
        begun = subprocess.run(
            [sys.executable, "-m", "benchmarks.reference", graph, *names],
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        size = len(GRAPHS[graph])
        _wait(lambda: all(self._redis.llen(name) == size for name in names), f"{graph} has run")
        told = []
        for name in names:
            lines = [str(line).split() for line in self._redis.lrange(name, 0, -1)]
            told.append({job: (float(start), float(end)) for job, start, end in lines})
        return Ran(float(begun.stdout), told)

    def end(self) -> None:
        """End what it started."""
        self._worker.end()
        self._redis.close()


def _wait(predicate: Callable[[], bool], message: str) -> None:
    wait_until(predicate, timeout=PATIENCE, interval=SLOW, message=message)


PROMETHEUS, COMMITS, BARE = "Prometheus", "Celery, three commits", "Celery"
EMBEDDED, SQLITE = "Prometheus, SQLite", "Celery, three SQLite commits"
REFERENCES = {PROMETHEUS: COMMITS, EMBEDDED: SQLITE}
"""What is compared with what."""


@contextlib.contextmanager
def _subjects() -> Iterator[dict[str, Ours | Bare]]:
    # On disk, as where it is used: to wait for the disk is a good part of a commit.
    with (
        PostgresServer("--fsync=on", "--full_page_writes=on") as postgres,
        RedisServer() as redis,
        tempfile.TemporaryDirectory() as temporary,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(temporary)
        url = postgres.url(postgres.create_database())
        conninfo = postgres.conninfo(postgres.create_database())
        brokers = [redis.url.removesuffix("0") + str(number) for number in range(5)]
        sqlite = f"{folder}/embedded.db", f"{folder}/celery.db"
        subjects: dict[str, Ours | Bare] = {
            PROMETHEUS: Ours("ours", url, brokers[0], folder),
            COMMITS: Bare("commits", brokers[1], conninfo, folder),
            BARE: Bare("bare", brokers[2], "", folder),
            EMBEDDED: Ours("embedded", f"sqlite:///{sqlite[0]}", brokers[3], folder),
            SQLITE: Bare("sqlite", brokers[4], f"sqlite:{sqlite[1]}", folder),
        }
        for subject in subjects.values():
            stack.callback(subject.end)
        yield subjects


WORKLOADS: dict[str, tuple[str, int, int, Callable[[Ran], list[float]]]] = {
    "gap in a chain of 50, ms": ("chain", 1, 7, lambda ran: ran.gaps),
    "1 -> 200 -> 1, ms": ("wide", 1, 3, lambda ran: [ran.took]),
    "nine jobs, ms": ("nine", 1, 9, lambda ran: [ran.took]),
    "5,000 jobs, a second": ("flood", FLOODS, 1, lambda ran: [ran.per_second]),
}
"""Graph, how many of it at once, how often, and what is taken of each round."""


def measure_flows() -> dict[str, dict[str, Figure]]:
    """
    Run each graph in turn with Prometheus and with its references.

    Returns:
        Workload -> who -> the median of the rounds' medians with the least and the most, and the
        99th percentile of all that was measured.
    """
    figures: dict[str, dict[str, Figure]] = {}
    with _subjects() as subjects:
        for subject in subjects.values():
            subject.run("nine")  # imports, connections
        for workload, (graph, at_once, rounds, taken) in WORKLOADS.items():
            found: dict[str, list[list[float]]] = defaultdict(list)
            for _ in range(rounds):
                for name, subject in subjects.items():
                    found[name].append(taken(subject.run(graph, at_once)))
            figures[workload] = {name: summary(each) for name, each in found.items()}
    return figures
