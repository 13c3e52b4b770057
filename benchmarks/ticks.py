"""What a tick costs: with nothing to do, however much is pending; and with much to start."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import date

import psycopg
from sqlalchemy import delete, func, select

from benchmarks import jobs
from benchmarks.figures import Row, Rows, beside, in_turn
from benchmarks.flows import COMMITS, Sender, make_run
from prometheus.bootstrap import Runtime, make_runtime
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.pipeline import Pipeline
from prometheus.persistence import migrate
from prometheus.persistence.engine import let_rest, reading, writing
from prometheus.persistence.tables import dag_runs, job_executions
from prometheus.settings import load_settings
from tests.servers import PostgresServer, RedisServer

PENDING = (10, 100, 1_000, 10_000, 100_000)
BURSTS = (1_000, 5_000)
PLAIN = "plain SQL loop"
_e = job_executions.c


def tick_beside(pending: int) -> str:
    """Name the row of a tick with nothing to do, which others are compared with, too."""
    return f"tick beside {pending:,} pending"


def burst_of(count: int) -> str:
    """Name the row of a burst."""
    return f"{count:,} jobs claimed and published"


def measure_ticks(*, quick: bool) -> Rows:
    """
    Measure the scheduler's tick in this process, on a PostgreSQL and a Redis of its own.

    Returns:
        Milliseconds of a tick with nothing to do beside so many pending jobs, each of which waits
        for one that is queued, beside those of `_plain_loop`; and jobs a second of the tick that
        claims and publishes a burst of them, beside Celery that records all in one commit.
    """
    sizes = (1_000, 10_000) if quick else PENDING
    # On disk, as where it is used: to wait for the disk is a good part of a commit.
    with (
        PostgresServer("--fsync=on", "--full_page_writes=on") as postgres,
        RedisServer() as redis,
        contextlib.ExitStack() as stack,
    ):
        connection = stack.enter_context(postgres.connect(postgres.create_database()))
        runtimes = [stack.enter_context(_runtime(postgres, redis)) for _ in sizes]
        subjects: dict[str, Callable[[], object]] = {PLAIN: _plain_loop(connection)}
        for pending, runtime in zip(sizes, runtimes, strict=True):
            _fill(runtime, pending)
            runtime.scheduler.tick()  # reads what it keeps
            subjects[tick_beside(pending)] = runtime.scheduler.tick
        # All sizes in turn: what works off the rows that were made disturbs each as much.
        figures = in_turn(31, {name: _timed(each) for name, each in subjects.items()})
        plain = figures.pop(PLAIN)
        rows: Rows = {
            name: beside("ms", {name: figure, PLAIN: plain}) for name, figure in figures.items()
        }
        few, many = rows[tick_beside(10_000)], rows.get(tick_beside(100_000))
        if many is not None:
            many["references"][tick_beside(10_000)] = few["ours"]
        sender = Sender(
            {
                "BENCH_REDIS": redis.url.removesuffix("0") + "1",
                "BENCH_STORE": postgres.conninfo(postgres.create_database()),
            }
        )
        sender.begin("flood", 1)  # connections
        for burst in BURSTS[:1] if quick else BURSTS:
            rows[burst_of(burst)] = _measure_burst(runtimes[0], sender, burst)
        sender.end()
    return rows


def _timed(work: Callable[[], object]) -> Callable[[], list[float]]:
    def measure() -> list[float]:
        began = time.perf_counter()
        work()
        return [(time.perf_counter() - began) * 1_000]

    return measure


def _plain_loop(connection: psycopg.Connection) -> Callable[[], None]:
    """
    Make what a loop of a few lines would ask at each turn, prepared, in psycopg alone.

    It is as many round trips as a tick was when this was written, and stays so: a commit of one
    row, and three transactions with ten rows that are found by their key.
    """
    connection.execute("CREATE TABLE plain (id int PRIMARY KEY, at timestamptz)")
    connection.execute("INSERT INTO plain SELECT n, now() FROM generate_series(1, 1000) AS n")
    connection.prepare_threshold = 0

    def go() -> None:
        with connection.transaction():
            connection.execute("UPDATE plain SET at = clock_timestamp() WHERE id = 1")
        for reads in (3, 3, 4):
            with connection.transaction():
                for number in range(reads):
                    connection.execute("SELECT at FROM plain WHERE id = %s", (number,)).fetchall()

    return go


def _measure_burst(runtime: Runtime, sender: Sender, burst: int) -> Row:
    at_once = burst // len(jobs.GRAPHS["flood"])

    def ours() -> list[float]:
        _create(runtime, jobs.flood, at_once)
        began = time.perf_counter()
        runtime.scheduler.tick()
        took = time.perf_counter() - began
        with reading(runtime.engine) as connection:
            published = connection.execute(
                select(func.count()).where(_e.published_at.is_not(None))
            ).scalar_one()
        assert published == burst, published
        return [burst / took]

    def celery() -> list[float]:
        _, began, ended = sender.begin("flood", at_once)
        return [burst / (ended - began)]

    return beside("jobs a second", in_turn(3, {"tick": ours, COMMITS: celery}))


@contextlib.contextmanager
def _runtime(postgres: PostgresServer, redis: RedisServer) -> Iterator[Runtime]:
    url = postgres.url(postgres.create_database())
    migrate.upgrade(url)
    runtime = make_runtime(
        load_settings(
            {
                "PROMETHEUS__DATABASE__URL": url,
                "PROMETHEUS__BROKER__URL": redis.url,
                "PROMETHEUS__PIPELINES__MODULES": "benchmarks.jobs",
                "PROMETHEUS__MARKETS__ENABLED": "US_EQ",
                "PROMETHEUS__SCHEDULER__CREATE_RUNS": "false",
            }
        )
    )
    let_rest(runtime.engine)  # as a beat does
    yield runtime
    runtime.engine.dispose()


def _fill(runtime: Runtime, pending: int) -> None:
    """Have so many jobs wait, each for one that is queued."""
    pipeline, size = (jobs.ten, 10) if pending < 100 else (jobs.hundred, 100)
    _create(runtime, pipeline, pending // size)


def _create(runtime: Runtime, pipeline: Pipeline, count: int) -> None:
    """Have so many open runs of a pipeline, and no others."""
    calendar = TradingCalendar("US_EQ")
    with writing(runtime.engine) as connection:
        connection.execute(delete(dag_runs))
        for session in calendar.trading_days(date(2020, 1, 2), date(2025, 12, 31))[:count]:
            make_run(connection, pipeline, calendar, session)
