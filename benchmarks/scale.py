"""
What a job costs each part of an installation, so that what each can carry follows from it.

Others may be at work on the machine, and all parts share its cores here: processor time a job says
of each part what one core of a machine of its own would do with it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path

import psutil
import psycopg
from celery import Celery
from kombu.message import Message
from kombu.messaging import Consumer
from sqlalchemy import func, select

from benchmarks import jobs
from benchmarks.figures import Rows, beside, summary
from benchmarks.flows import PATIENCE, SLOW, make_run
from benchmarks.jobs import MARKETS
from benchmarks.spent import used, used_by_family
from prometheus.bootstrap import Runtime, make_celery, make_runtime
from prometheus.core.exchanges import exchange_mics
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.publisher import Publisher
from prometheus.orchestration.lifecycle import RunStatus
from prometheus.orchestration.pipeline import Pipeline
from prometheus.persistence import migrate
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.executions import Publication
from prometheus.persistence.tables import dag_runs
from prometheus.settings import load_settings
from tests.servers import PostgresServer, Process, RedisServer, wait_until

POSTGRES, REDIS, MAIN, CHILDREN, CLAIM = (
    "PostgreSQL",
    "Redis",
    "main processes of workers",
    "children of workers",
    "claiming and publishing",
)
ROUNDS = 3
CONNECTIONS = (1, 2, 4, 8)
CHAINS = 1
"""Of fifty jobs, that each connection runs in one round."""
MESSAGES = 1_000
AT_ONCE = 500
"""Messages that a tick sends together."""
EXCHANGES = 72
"""Queues of a worker of all exchanges."""


@dataclass(frozen=True)
class Crew:
    """So many workers with so many children each, of one market."""

    workers: int
    children: int

    @property
    def name(self) -> str:
        """What it is called in tables."""
        workers = "worker" if self.workers == 1 else "workers"
        children = "child" if self.children == 1 else "children"
        return f"{self.workers} {workers} with {self.children} {children}"


CREWS = (Crew(1, 1), Crew(1, 2), Crew(1, 4), Crew(1, 8), Crew(2, 1), Crew(2, 2), Crew(2, 4))
FLOOD = "500 jobs"


def of_flood(part: str) -> str:
    """Name the row of what a job of the flood costs a part."""
    return f"{FLOOD}: {part}"


HOPS = "jobs of chains, without Celery"
HOP_COST = f"{HOPS}: PostgreSQL"
HOP_CLIENT = f"{HOPS}: their clients"
TRANSACTIONS = "transactions for a job of a chain"
WAL = "written ahead (WAL) for a job of a chain"
KEPT = "kept of a job of a chain, with its indexes"
SENT, SENT_ALONE = "Redis: a message sent with 499 others", "Redis: a message sent alone"
TAKEN, TAKEN_WIDE = "Redis: a message taken", f"Redis: a message taken, {EXCHANGES} queues"


def measure_scale() -> Rows:
    """
    Measure crews of workers, and PostgreSQL and Redis alone.

    Returns:
        Of a flood of jobs with each crew the jobs a second, and what each part's processors spend
        on one; of the statements of a job in a chain the same from so many connections, without
        Celery or Redis; and what a message costs Redis.
    """
    # On disk, as where it is used: to wait for the disk is a good part of a commit.
    with (
        PostgresServer("--fsync=on", "--full_page_writes=on") as postgres,
        RedisServer("--appendonly", "yes") as redis,
        tempfile.TemporaryDirectory() as temporary,
    ):
        rows = _measure_crews(postgres, redis, Path(temporary))
        rows |= _measure_hops(postgres)
        return rows | _measure_redis(redis)


_Rounds = dict[str, dict[str, list[list[float]]]]
"""What was measured -> by whom -> what each round gave."""


def _no_rounds() -> _Rounds:
    return defaultdict(lambda: defaultdict(list))


def _rows(rounds: _Rounds, units: Mapping[str, str]) -> Rows:
    """Make a row of each, in the order of ``units``: who was measured first is ours."""
    return {
        what: beside(unit, {name: summary(values) for name, values in rounds[what].items()})
        for what, unit in units.items()
    }


# --- workers -------------------------------------------------------------------------------------


def _measure_crews(postgres: PostgresServer, redis: RedisServer, folder: Path) -> Rows:
    url = postgres.url(postgres.create_database())
    migrate.upgrade(url)
    markets = dict(zip(CREWS, MARKETS, strict=False))
    environment = {
        "PROMETHEUS__DATABASE__URL": url,
        "PROMETHEUS__BROKER__URL": redis.url,
        "PROMETHEUS__PIPELINES__MODULES": "benchmarks.jobs",
        "PROMETHEUS__MARKETS__ENABLED": ",".join(markets.values()),
        "PROMETHEUS__SCHEDULER__CREATE_RUNS": "false",
    }
    runtime = make_runtime(load_settings(environment))
    crews: dict[Crew, list[psutil.Process]] = {}
    with contextlib.ExitStack() as stack:
        stack.callback(runtime.engine.dispose)
        for crew, market in markets.items():
            crews[crew] = []
            for number in range(crew.workers):
                name = f"{market.lower()}-{number}"
                options = ["--name", name, "--concurrency", str(crew.children)]
                process = Process(
                    ["prometheus", "worker", market, *options],
                    log=folder / f"{name}.log",
                    env=environment,
                )
                stack.callback(process.end)
                crews[crew].append(psutil.Process(process.pid))
        servers = {POSTGRES: psutil.Process(postgres.pid), REDIS: psutil.Process(redis.pid)}
        costs = _no_rounds()
        for crew, market in markets.items():  # imports, connections
            _flood(runtime, market, jobs.fifty, crews[crew], servers)
        for _ in range(2):
            for crew, market in markets.items():
                spent = _flood(runtime, market, jobs.flood, crews[crew], servers)
                for what, value in spent.items():
                    costs[what][crew.name].append([value])
    units = {
        of_flood(part): "ms of a core each" for part in (CHILDREN, MAIN, POSTGRES, REDIS, CLAIM)
    }
    return _rows(costs, {FLOOD: "jobs a second", **units})


def _flood(
    runtime: Runtime,
    market: str,
    pipeline: Pipeline,
    workers: list[psutil.Process],
    servers: Mapping[str, psutil.Process],
) -> dict[str, float]:
    """Run a flood with one crew; return the jobs a second, and milliseconds of a core for each."""
    calendar = TradingCalendar(market)
    with reading(runtime.engine) as connection:
        before = connection.execute(select(func.count()).select_from(dag_runs)).scalar_one()
    session = next(
        islice(calendar.trading_days(date(2020, 1, 6), date(2025, 12, 31)), before, None)
    )
    with writing(runtime.engine) as connection:
        make_run(connection, pipeline, calendar, session)

    def look() -> dict[str, float]:
        families = [used_by_family(each) for each in workers]
        alone = [used([each]) for each in workers]
        return {
            of_flood(CHILDREN): sum(families) - sum(alone),
            of_flood(MAIN): sum(alone),
            **{of_flood(name): used_by_family(each) for name, each in servers.items()},
        }

    def through() -> bool:
        with reading(runtime.engine) as connection:
            open_runs = select(func.count()).where(dag_runs.c.status == RunStatus.OPEN)
            return connection.execute(open_runs).scalar_one() == 0

    then, began = look(), time.perf_counter()
    own = time.process_time()
    runtime.scheduler.advance()
    own = time.process_time() - own
    wait_until(through, timeout=PATIENCE, interval=SLOW, message=f"{market} has run")
    took = time.perf_counter() - began
    count = len(pipeline.jobs)
    spent = {what: (value - then[what]) / count * 1_000 for what, value in look().items()}
    return {FLOOD: count / took, **spent, of_flood(CLAIM): own / count * 1_000}


# --- PostgreSQL ----------------------------------------------------------------------------------


def of_connections(count: int) -> str:
    """Name so many clients of PostgreSQL."""
    return f"{count} connection" + ("s" if count > 1 else "")


class _Client:
    """A process of `benchmarks.hops`."""

    def __init__(self, url: str, market: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.hops", market],
            env={**os.environ, "BENCH_URL": url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, line: str) -> None:
        assert self._process.stdin
        print(line, file=self._process.stdin, flush=True)

    def hear(self) -> list[str]:
        assert self._process.stdout
        return self._process.stdout.readline().split()

    def end(self) -> None:
        self._process.communicate()


def _measure_hops(postgres: PostgresServer) -> Rows:
    database = postgres.create_database()
    url = postgres.url(database)
    migrate.upgrade(url)
    server = psutil.Process(postgres.pid)
    clients = [_Client(url, market) for market in MARKETS[: max(CONNECTIONS)]]
    costs = _no_rounds()
    with contextlib.ExitStack() as stack:
        for client in clients:
            stack.callback(client.end)
        _hop(clients, server)  # imports, connections
        connection = stack.enter_context(postgres.connect(database))
        before = _written(connection)
        total = 0
        for _ in range(ROUNDS):
            for count in CONNECTIONS:
                name = of_connections(count)
                jobs_run, took, own, theirs = _hop(clients[:count], server)
                total += jobs_run
                costs[HOPS][name].append([jobs_run / took])
                costs[HOP_COST][name].append([own / jobs_run * 1_000])
                costs[HOP_CLIENT][name].append([theirs / jobs_run * 1_000])
        for what, value in _written(connection).items():
            costs[what][""].append([(value - before[what]) / total])
    units = {HOPS: "jobs a second", HOP_COST: "ms of a core each", HOP_CLIENT: "ms of a core each"}
    return _rows(costs, {**units, TRANSACTIONS: "", WAL: "bytes", KEPT: "bytes"})


def _hop(clients: list[_Client], server: psutil.Process) -> tuple[int, float, float, float]:
    """Run chains; return how many jobs, seconds, and those of a core of PostgreSQL and clients."""
    for client in clients:
        client.tell(str(CHAINS))
    for client in clients:
        assert client.hear() == ["ready"]
    then = used_by_family(server)
    for client in clients:
        client.tell("go")
    answers = [client.hear() for client in clients]
    own = used_by_family(server) - then
    took = max(float(ended) for _, _, ended, _ in answers) - min(float(a[1]) for a in answers)
    return sum(int(each[0]) for each in answers), took, own, sum(float(each[3]) for each in answers)


def _written(connection: psycopg.Connection) -> dict[str, float]:
    connection.execute("SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot()")
    row = connection.execute(
        "SELECT xact_commit, wal_bytes,"
        " pg_total_relation_size('job_executions') + pg_total_relation_size('dag_runs')"
        " FROM pg_stat_database, pg_stat_wal WHERE datname = current_database()"
    ).fetchone()
    assert row
    return dict(zip((TRANSACTIONS, WAL, KEPT), map(float, row), strict=True))


# --- Redis ---------------------------------------------------------------------------------------


def _measure_redis(redis: RedisServer) -> Rows:
    environment = {
        "PROMETHEUS__BROKER__URL": redis.url.removesuffix("0") + "1",
        "PROMETHEUS__MARKETS__ENABLED": ",".join(exchange_mics()),
    }
    app = make_celery(load_settings(environment))
    publisher = Publisher(app)
    server = psutil.Process(redis.pid)
    message = Publication("", "run", "bench_flood", "single_000", "XLON", 2, "schedule", 0, 3600)
    messages = [replace(message, execution_id=f"{number:036}") for number in range(MESSAGES)]

    def timed(work: Callable[[], None]) -> list[float]:
        then = used([server])
        work()
        return [(used([server]) - then) / MESSAGES * 1e6]

    def send(at_once: int) -> None:
        for begin in range(0, MESSAGES, at_once):
            publisher.publish(messages[begin : begin + at_once])

    figures: dict[str, list[list[float]]] = defaultdict(list)
    for _ in range(ROUNDS):
        figures[SENT].append(timed(partial(send, AT_ONCE)))
        figures[TAKEN].append(timed(partial(_take, app, ["XLON"])))
        figures[SENT_ALONE].append(timed(partial(send, 1)))
        figures[TAKEN_WIDE].append(timed(partial(_take, app, list(exchange_mics()))))
    summed = {name: summary(each) for name, each in figures.items()}
    unit = "µs of Redis' core"
    return {
        SENT: beside(unit, {name: summed[name] for name in (SENT, SENT_ALONE)}),
        TAKEN: beside(unit, {name: summed[name] for name in (TAKEN, TAKEN_WIDE)}),
    }


def _take(app: Celery, queues: list[str]) -> None:
    """Take messages as a worker of some queues does, one at a time."""
    left = MESSAGES

    def on_message(message: Message) -> None:
        nonlocal left
        left -= 1
        message.ack()  # type: ignore[no-untyped-call]  # kombu has no types

    with app.connection_for_read() as connection, connection.channel() as channel:
        wanted = [app.amqp.queues[name] for name in queues]
        consumer = Consumer(  # type: ignore[no-untyped-call]  # kombu has no types
            channel, wanted, on_message=on_message, accept=["json"]
        )
        consumer.qos(prefetch_count=1)  # type: ignore[no-untyped-call]
        with consumer:
            while left:
                connection.drain_events(timeout=10)
