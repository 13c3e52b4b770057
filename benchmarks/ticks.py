"""What a tick costs: with nothing to do, however much is pending; and with much to start."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import date

from sqlalchemy import delete, func, select

from benchmarks import jobs
from benchmarks.figures import Figure, summary
from prometheus.bootstrap import Runtime, make_runtime
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.lifecycle import Trigger
from prometheus.orchestration.pipeline import Pipeline
from prometheus.persistence import migrate, runs
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.tables import dag_runs, job_executions
from prometheus.settings import load_settings
from tests.servers import PostgresServer, RedisServer

PENDING = (10, 100, 1_000, 10_000, 100_000)
TICKS = 15
BURST = 1_000
_e = job_executions.c


def measure_ticks() -> dict[str, Figure]:
    """
    Measure the scheduler's tick in this process, on a PostgreSQL and a Redis of its own.

    Returns:
        Milliseconds of a tick with nothing to do beside so many pending jobs, each of which waits
        for one that is queued; and of the tick that claims and publishes a burst of jobs.
    """
    figures: dict[str, Figure] = {}
    with _runtime() as runtime:
        for pending in PENDING:
            _fill(runtime, pending)
            runtime.scheduler.tick()  # reads what it keeps
            taken = [_timed(runtime) for _ in range(TICKS)]
            figures[f"{pending:,} pending"] = summary([[each] for each in taken])
        rounds = []
        for _ in range(5):
            _create(runtime, jobs.flood, BURST // len(jobs.GRAPHS["flood"]))
            rounds.append([_timed(runtime)])
            with reading(runtime.engine) as connection:
                published = connection.execute(
                    select(func.count()).where(_e.published_at.is_not(None))
                ).scalar_one()
            assert published == BURST, published
        figures[f"{BURST:,} to start"] = summary(rounds)
    return figures


def _timed(runtime: Runtime) -> float:
    began = time.perf_counter()
    runtime.scheduler.tick()
    return (time.perf_counter() - began) * 1_000


@contextlib.contextmanager
def _runtime() -> Iterator[Runtime]:
    with (
        PostgresServer("--fsync=on", "--full_page_writes=on") as postgres,
        RedisServer() as redis,
    ):
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
            runs.create_run(
                connection,
                pipeline.dag("US_EQ", session),
                opens_at=calendar.phases(session).pre_open_at,
                trigger=Trigger.SCHEDULE,
                calendar_version=calendar.version,
                parameters={},
                forced=True,
            )
