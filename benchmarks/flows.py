"""
Graphs of jobs, beside the same graphs in Celery alone: gaps, whole graphs, and many at once.

All of them run in turn on one PostgreSQL, one Redis and the same two cores, each with a worker of
two processes. Where RabbitMQ is installed, the references run on that, too.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import islice, pairwise, product
from pathlib import Path

from redis import Redis
from sqlalchemy import Connection, delete, func, select

from benchmarks import jobs
from benchmarks.figures import Rows, beside, in_turn
from benchmarks.jobs import GRAPHS, MARKETS
from benchmarks.rabbit import find_rabbitmq, rabbitmq
from prometheus.bootstrap import make_runtime
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.lifecycle import JobStatus, RunStatus, Trigger
from prometheus.orchestration.pipeline import Pipeline
from prometheus.persistence import migrate, runs
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.tables import dag_runs, job_executions
from prometheus.settings import load_settings
from tests.servers import PostgresServer, Process, RedisServer, wait_until

PATIENCE = 600.0
"""Seconds that one graph may take."""
SLOW = 0.1
"""Seconds between two looks at whether it has ended: whoever looks shares the two cores."""
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


def make_run(
    connection: Connection,
    pipeline: Pipeline,
    calendar: TradingCalendar,
    session: date,
    *,
    forced: bool = True,
) -> None:
    """Make the run of a session, as the scheduler does; forced: its windows do not count."""
    runs.create_run(
        connection,
        pipeline.dag(calendar.market_id, session),
        opens_at=calendar.phases(session).pre_open_at,
        trigger=Trigger.SCHEDULE,
        calendar_version=calendar.version,
        parameters={},
        forced=forced,
    )


class Ours:
    """Prometheus: a beat and a worker on a database of their own, for some markets."""

    def __init__(
        self, name: str, url: str, broker: str, folder: Path, markets: Sequence[str]
    ) -> None:
        migrate.upgrade(url)
        self._name, self._folder = name, folder
        self._processes: list[Process] = []
        self._environment = {
            "PROMETHEUS__DATABASE__URL": url,
            "PROMETHEUS__BROKER__URL": broker,
            "PROMETHEUS__PIPELINES__MODULES": "benchmarks.jobs",
            "PROMETHEUS__SCHEDULER__CREATE_RUNS": "false",
        }
        self._begin(markets)

    def _begin(self, markets: Sequence[str]) -> None:
        self._calendars = [TradingCalendar(market) for market in markets]
        environment = {**self._environment, "PROMETHEUS__MARKETS__ENABLED": ",".join(markets)}
        self._runtime = make_runtime(load_settings(environment))
        self._engine = self._runtime.engine
        for command in (["beat"], ["worker", "--concurrency", "2"]):
            log = self._folder / f"{self._name}-{command[0]}.log"
            self._processes.append(Process(["prometheus", *command], log=log, env=environment))

    def run(self, graph: str, at_once: int = 1) -> Ran:
        """Run a graph, so often at once: in each market, and from there on in its next session."""
        pipeline: Pipeline = getattr(jobs, graph)
        days = self._calendars[0].trading_days(date(2025, 3, 12), date(2025, 12, 31))
        with writing(self._engine) as connection:
            connection.execute(delete(dag_runs))
            for session, calendar in islice(product(days, self._calendars), at_once):
                make_run(connection, pipeline, calendar, session)
        # As the beat does at its next tick, for which the measuring would wait.
        self._runtime.scheduler.advance()
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

    def begin_anew(self, markets: Sequence[str]) -> None:
        """Be there for other markets."""
        self.end()
        self._begin(markets)

    def end(self) -> None:
        """End what it started."""
        while self._processes:
            self._processes.pop().end()
        self._engine.dispose()


class Sender:
    """A process that begins graphs in Celery, ready to."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.reference"],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, graph: str, at_once: int) -> tuple[list[str], float, float]:
        """Begin a graph, so often; return the names of the runs, and when that began and ended."""
        assert self._process.stdin
        assert self._process.stdout
        names = [uuid.uuid4().hex for _ in range(at_once)]
        print(graph, *names, file=self._process.stdin, flush=True)
        began, ended = map(float, self._process.stdout.readline().split())
        return names, began, ended

    def end(self) -> None:
        """End it."""
        self._process.communicate()


class Bare:
    """Celery alone, or with three commits a job; see `benchmarks.reference`."""

    def __init__(
        self, name: str, redis: str, store: str, folder: Path, *, broker: str | None = None
    ) -> None:
        self._redis = Redis.from_url(redis, decode_responses=True)
        environment = {
            "BENCH_REDIS": redis,
            "BENCH_BROKER": broker or redis,
            "BENCH_QUEUE": name,
            "BENCH_STORE": store,
        }
        self._sender = Sender(environment)
        command = [
            "celery",
            "-A",
            "benchmarks.reference",
            "worker",
            "-Q",
            name,
            "-n",
            name,
            "-c",
            "2",
        ]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        log = folder / f"{name}.log"
        self._worker = Process([*command, *quiet], log=log, env=environment)

    @property
    def pid(self) -> int:
        """That of its worker."""
        return self._worker.pid

    def run(self, graph: str, at_once: int = 1) -> Ran:
        """Run a graph, so often at once."""
        names, began, _ = self._sender.begin(graph, at_once)
        size = len(GRAPHS[graph])
        _wait(
            lambda: (
                all(self._redis.llen(name) == size for name in names) or not self._worker.running
            ),
            f"{graph} has run",
        )
        told = []
        for name in names:
            lines = [str(line).split() for line in self._redis.lrange(name, 0, -1)]
            told.append({job: (float(start), float(end)) for job, start, end in lines})
        return Ran(began, told)

    def end(self) -> None:
        """End what it started."""
        self._worker.end()
        self._sender.end()
        self._redis.close()


def _wait(predicate: Callable[[], bool], message: str) -> None:
    wait_until(predicate, timeout=PATIENCE, interval=SLOW, message=message)


PROMETHEUS, COMMITS, BARE = "Prometheus", "Celery, three commits", "Celery"
EMBEDDED, SQLITE = "Prometheus, SQLite", "Celery, three SQLite commits"
RABBIT = ", RabbitMQ"

Subjects = dict[str, Ours | Bare]


@contextlib.contextmanager
def _subjects(*, others: bool) -> Iterator[Subjects]:
    # On disk, as where it is used: to wait for the disk is a good part of a commit.
    with (
        PostgresServer("--fsync=on", "--full_page_writes=on") as postgres,
        RedisServer() as redis,
        tempfile.TemporaryDirectory() as temporary,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(temporary)
        url = postgres.url(postgres.create_database())
        brokers = [redis.url.removesuffix("0") + str(number) for number in range(7)]
        rabbit = stack.enter_context(rabbitmq(folder)) if others and find_rabbitmq() else None
        subjects: Subjects = {}
        stack.callback(lambda: _end(subjects.values()))
        subjects[PROMETHEUS] = Ours("ours", url, brokers[0], folder, ["US_EQ"])
        conninfo = postgres.conninfo(postgres.create_database())
        subjects[COMMITS] = Bare("commits", brokers[1], conninfo, folder)
        if others:
            subjects[BARE] = Bare("bare", brokers[2], "", folder)
        paths = f"{folder}/embedded.db", f"{folder}/celery.db"
        subjects[EMBEDDED] = Ours(
            "embedded", f"sqlite:///{paths[0]}", brokers[3], folder, ["US_EQ"]
        )
        subjects[SQLITE] = Bare("sqlite", brokers[4], f"sqlite:{paths[1]}", folder)
        if rabbit:
            conninfo = postgres.conninfo(postgres.create_database())
            subjects[COMMITS + RABBIT] = Bare("rc", brokers[5], conninfo, folder, broker=rabbit)
            subjects[BARE + RABBIT] = Bare("rb", brokers[6], "", folder, broker=rabbit)
        _warm(subjects)
        yield subjects


def _warm(subjects: Subjects) -> None:
    for subject in subjects.values():
        subject.run("nine")  # imports, connections


def _end(subjects: Iterable[Ours | Bare]) -> None:
    # At once: each waits seconds for its queue before it looks at whether it shall end.
    with ThreadPoolExecutor() as threads:
        for ended in [threads.submit(subject.end) for subject in subjects]:
            ended.result()


@dataclass(frozen=True)
class Workload:
    """A graph, or many of it at once."""

    name: str
    unit: str
    graph: str
    at_once: int
    rounds: int
    take: Callable[[Ran], list[float]]
    """What is measured of it."""
    within: float = math.inf
    """Seconds after which no further round begins."""


GAP = "gap in a chain of 50"
WIDE = "1 → 200 → 1"
NINE = "nine jobs"
FLOOD = "5,000 jobs"
OPENING = "20 markets with 50 jobs each"
WORKLOADS = (
    Workload(GAP, "ms", "chain", 1, 7, lambda ran: ran.gaps),
    Workload(WIDE, "ms", "wide", 1, 3, lambda ran: [ran.took]),
    Workload(NINE, "ms", "nine", 1, 9, lambda ran: [ran.took]),
    # The longest by far, and what makes `make bench` longer on a slow machine.
    Workload(FLOOD, "jobs a second", "flood", 10, 5, lambda ran: [ran.per_second], within=120),
)
QUICK_WORKLOADS = (
    Workload(GAP, "ms", "chain", 1, 5, lambda ran: ran.gaps),
    Workload(NINE, "ms", "nine", 1, 9, lambda ran: [ran.took]),
    Workload("500 jobs", "jobs a second", "flood", 1, 3, lambda ran: [ran.per_second]),
)
OPENINGS = (Workload(OPENING, "ms", "fifty", len(MARKETS), 3, lambda ran: [ran.took]),)
"""With a worker of its own: one that takes from twenty queues is slower at all else."""


def measure_flows(*, quick: bool) -> Rows:
    """
    Run each graph in turn with Prometheus and with its references.

    Returns:
        Workload -> its row; with SQLite a row of its own. The quick form is beside the references
        that targets are of alone.
    """
    with _subjects(others=not quick) as subjects:
        if quick:
            return _run(subjects, QUICK_WORKLOADS)
        rows = _run(subjects, WORKLOADS)
        _end(subjects.pop(name) for name in (EMBEDDED, SQLITE))
        ours = subjects[PROMETHEUS]
        assert isinstance(ours, Ours)
        ours.begin_anew(MARKETS)
        _warm(subjects)
        return rows | _run(subjects, OPENINGS)


def _run(subjects: Subjects, workloads: Sequence[Workload]) -> Rows:
    rows: Rows = {}
    for workload in workloads:
        figures = in_turn(
            workload.rounds,
            {name: partial(_measure, subject, workload) for name, subject in subjects.items()},
            within=workload.within,
        )
        if EMBEDDED in figures:
            sqlite = {name: figures.pop(name) for name in (EMBEDDED, SQLITE)}
            rows[f"{workload.name}, SQLite"] = beside(workload.unit, sqlite)
        rows[workload.name] = beside(workload.unit, figures)
    return rows


def _measure(subject: Ours | Bare, workload: Workload) -> list[float]:
    return workload.take(subject.run(workload.graph, workload.at_once))
