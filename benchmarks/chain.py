"""The gap between dependent jobs, beside the same chain in Celery alone; and memory."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from datetime import date
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles

import psutil
from redis import Redis
from sqlalchemy import Engine, delete, select

from benchmarks.jobs import LINKS, bench_chain
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.persistence import migrate, runs
from prometheus.persistence.engine import create_engine, reading, writing
from prometheus.persistence.tables import dag_runs, job_executions
from tests.servers import PostgresServer, Process, RedisServer, wait_until

SESSION = date(2026, 11, 20)


def measure_chain(rounds: int = 5) -> dict[str, object]:
    """
    Run the chain in turn with Prometheus and with bare Celery, each with a worker of two processes.

    Returns:
        Milliseconds (median and 99th percentile over all gaps of all rounds) of both, and resident
        memory in MB of the beat and of a worker's child.
    """
    with PostgresServer() as postgres, RedisServer() as redis, tempfile.TemporaryDirectory() as tmp:
        url = postgres.url(postgres.create_database())
        migrate.upgrade(url)
        engine = create_engine(url)
        bare_broker = redis.url.replace("/0", "/1")
        env = {
            "PROMETHEUS__DATABASE__URL": url,
            "PROMETHEUS__BROKER__URL": redis.url,
            "PROMETHEUS__PIPELINES__MODULES": "benchmarks.jobs:bench_chain",
            "PROMETHEUS__SCHEDULER__CREATE_RUNS": "false",
            "BENCH_BROKER": bare_broker,
        }
        ours, bare = [], []
        with (
            _workers(Path(tmp), env) as (beat, worker),
            contextlib.closing(Redis.from_url(bare_broker, decode_responses=True)) as client,
        ):
            _run_ours(engine)  # warms both: imports, connections
            _run_bare(client)
            memory = {
                "beat_rss_mb": _rss(beat.pid),
                "worker_child_rss_mb": max(
                    _rss(child.pid) for child in psutil.Process(worker.pid).children()
                ),
            }
            for _ in range(rounds):
                ours += _run_ours(engine)
                bare += _run_bare(client)
        engine.dispose()
    return {"prometheus": _summary(ours), "bare_celery": _summary(bare), **memory}


@contextlib.contextmanager
def _workers(folder: Path, env: dict[str, str]) -> Iterator[tuple[Process, Process]]:
    options = ["-c", "2", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    beat = Process(
        ["celery", "-A", "workers", "beat"], log=folder / "beat.log", env=env, name="beat"
    )
    worker = Process(
        ["celery", "-A", "workers", "worker", "-Q", "US_EQ", *options],
        log=folder / "worker.log", env=env, name="worker",
    )  # fmt: skip
    bare = Process(
        ["celery", "-A", "benchmarks.bare", "worker", "-Q", "bare", *options],
        log=folder / "bare.log", env=env, name="bare",
    )  # fmt: skip
    try:
        yield beat, worker
    finally:
        for process in (beat, worker, bare):
            process.end()


def _run_ours(engine: Engine) -> list[float]:
    dag = bench_chain.dag("US_EQ", SESSION)
    calendar = TradingCalendar("US_EQ")
    with writing(engine) as connection:
        connection.execute(delete(dag_runs).where(dag_runs.c.dag_id == dag.dag_id))
        runs.create_run(
            connection,
            dag,
            opens_at=calendar.phases(SESSION).pre_open_at,
            trigger="schedule",
            calendar_version=calendar.version,
            parameters={},
            forced=True,
        )

    def closed() -> bool:
        with reading(engine) as connection:
            status = connection.execute(
                select(dag_runs.c.status).where(dag_runs.c.dag_id == dag.dag_id)
            ).scalar_one()
        return bool(status == "SUCCESS")

    # Slow polling: the measured processes share the machine's two cores with this one.
    wait_until(closed, timeout=120, interval=0.25, message="the chain has run")
    with reading(engine) as connection:
        rows = connection.execute(
            select(job_executions.c.job_id, job_executions.c.result)
            .where(job_executions.c.dag_id == dag.dag_id)
            .order_by(job_executions.c.job_id)
        ).all()
    return _gaps([tuple(row.result) for row in rows])


def _run_bare(client: Redis) -> list[float]:
    from benchmarks.bare import app

    client.delete("bare:times")
    with app.connection_for_write(client_url(client)) as connection:
        app.send_task("bare.link", args=[0], queue="bare", connection=connection)
    wait_until(
        lambda: client.llen("bare:times") == LINKS,
        timeout=120,
        interval=0.25,
        message="the bare chain has run",
    )
    rows = [str(line).split() for line in client.lrange("bare:times", 0, -1)]
    times = {int(number): (float(began), float(ended)) for number, began, ended in rows}
    return _gaps([times[number] for number in range(LINKS)])


def client_url(client: Redis) -> str:
    """Return the URL of the Redis that a client talks to."""
    options = client.connection_pool.connection_kwargs
    return f"redis://{options['host']}:{options['port']}/{options['db']}"


def _gaps(times: list[tuple[float, ...]]) -> list[float]:
    """Return the milliseconds from each job's end to the next one's beginning."""
    return [(after[0] - before[1]) * 1_000 for before, after in pairwise(times)]


def _summary(gaps: list[float]) -> dict[str, float]:
    return {"median_ms": median(gaps), "p99_ms": quantiles(gaps, n=100)[98], "gaps": len(gaps)}


def _rss(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / 1e6
