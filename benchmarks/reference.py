"""
The same graphs in Celery alone, as fast as they can be written by hand.

Each task sends those that waited for it alone, or for it last by a counter in Redis. Nothing else
is recorded; or three commits a job: that it is queued, that it began, and that it ended. Those that
are queued together share one.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import cache

import psycopg
from celery import Celery
from redis import Redis

from benchmarks.jobs import GRAPHS, Graph

REDIS = os.environ.get("BENCH_REDIS", "redis://127.0.0.1:6379/1")
BROKER = os.environ.get("BENCH_BROKER", REDIS)
QUEUE = os.environ.get("BENCH_QUEUE", "reference")
STORE = os.environ.get("BENCH_STORE", "")
"""Nothing, a conninfo of PostgreSQL, or ``sqlite:`` and a path."""

app = Celery("reference", broker=BROKER)
app.conf.update(
    task_ignore_result=True,
    task_default_queue=QUEUE,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)


def _followers(graph: Graph) -> dict[str, list[str]]:
    after: dict[str, list[str]] = defaultdict(list)
    for job, waits_for in graph.items():
        for upstream in waits_for:
            after[upstream].append(job)
    return dict(after)


FOLLOWERS = {name: _followers(graph) for name, graph in GRAPHS.items()}


class Store:
    """Records nothing."""

    def queue(self, run: str, jobs: Sequence[str]) -> None:
        """Record that jobs are queued."""

    def begin(self, run: str, job: str) -> None:
        """Record that one began."""

    def end(self, run: str, job: str, times: list[float]) -> None:
        """Record that one ended, and what it returned."""


class PostgresStore(Store):
    """Each commit is one prepared statement in one round trip."""

    def __init__(self, conninfo: str) -> None:
        self._connection = psycopg.connect(conninfo, autocommit=True, prepare_threshold=0)
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS reference (run text, job text, status text, "
            "queued_at timestamptz, started_at timestamptz, ended_at timestamptz, result jsonb, "
            "PRIMARY KEY (run, job))"
        )

    def queue(self, run: str, jobs: Sequence[str]) -> None:
        self._connection.execute(
            "INSERT INTO reference SELECT %s, unnest(%s::text[]), 'QUEUED', now()", (run, jobs)
        )

    def begin(self, run: str, job: str) -> None:
        self._connection.execute(
            "UPDATE reference SET status = 'RUNNING', started_at = now() "
            "WHERE run = %s AND job = %s AND status = 'QUEUED'",
            (run, job),
        )

    def end(self, run: str, job: str, times: list[float]) -> None:
        self._connection.execute(
            "UPDATE reference SET status = 'SUCCESS', ended_at = now(), result = %s "
            "WHERE run = %s AND job = %s AND status = 'RUNNING'",
            (json.dumps(times), run, job),
        )


class SqliteStore(Store):
    """As `PostgresStore`, in a file of SQLite that is written as ours is."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, timeout=20, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS reference (run TEXT, job TEXT, status TEXT, "
            "queued_at TEXT, started_at TEXT, ended_at TEXT, result TEXT, PRIMARY KEY (run, job))"
        )

    def queue(self, run: str, jobs: Sequence[str]) -> None:
        self._connection.execute(
            "INSERT INTO reference (run, job, status, queued_at) "
            "SELECT ?, value, 'QUEUED', datetime('now', 'subsec') FROM json_each(?)",
            (run, json.dumps(jobs)),
        )

    def begin(self, run: str, job: str) -> None:
        self._connection.execute(
            "UPDATE reference SET status = 'RUNNING', started_at = datetime('now', 'subsec') "
            "WHERE run = ? AND job = ? AND status = 'QUEUED'",
            (run, job),
        )

    def end(self, run: str, job: str, times: list[float]) -> None:
        self._connection.execute(
            "UPDATE reference SET status = 'SUCCESS', ended_at = datetime('now', 'subsec'), "
            "result = ? WHERE run = ? AND job = ? AND status = 'RUNNING'",
            (json.dumps(times), run, job),
        )


@cache
def redis() -> Redis:
    """Return this process' connection to the counters and the measured times."""
    return Redis.from_url(REDIS, decode_responses=True)


@cache
def store() -> Store:
    """Return where this process records what becomes of a job."""
    if STORE.startswith("sqlite:"):
        return SqliteStore(STORE.removeprefix("sqlite:"))
    return PostgresStore(STORE) if STORE else Store()


def start(graph: str, run: str, jobs: Sequence[str]) -> None:
    """Record and send jobs that wait for nothing any more."""
    store().queue(run, jobs)
    if len(jobs) == 1:
        node.apply_async((graph, run, jobs[0]))
        return
    with app.producer_or_acquire() as producer, producer.batch(max_size=500):
        for job in jobs:
            node.apply_async((graph, run, job), producer=producer)


@app.task(name="reference.node")  # type: ignore[untyped-decorator]  # Celery has no types
def node(graph: str, run: str, job: str) -> None:
    """Note when the body began and ended, and send what waited for it."""
    store().begin(run, job)
    began = time.time()
    times = [began, time.time()]
    store().end(run, job, times)
    ready = [
        follower
        for follower in FOLLOWERS[graph].get(job, ())
        if len(GRAPHS[graph][follower]) == 1 or redis().decr(f"{run}:{follower}") == 0
    ]
    if ready:
        start(graph, run, ready)
    redis().rpush(run, f"{job} {times[0]!r} {times[1]!r}")


def begin(graph: str, runs: Sequence[str]) -> None:
    """Begin a graph, as often as there are names for it; print when that began and ended."""
    roots = [job for job, waits_for in GRAPHS[graph].items() if not waits_for]
    counters = {
        f"{run}:{job}": len(waits_for)
        for run in runs
        for job, waits_for in GRAPHS[graph].items()
        if len(waits_for) > 1
    }
    if counters:
        redis().mset(counters)
    began = time.time()
    for run in runs:
        start(graph, run, roots)
    print(repr(began), repr(time.time()), flush=True)


if __name__ == "__main__":
    store()
    for line in sys.stdin:
        graph, *runs = line.split()
        begin(graph, runs)
