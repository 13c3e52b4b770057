"""The same chain in Celery alone: each task sends the next one itself, and nothing is recorded."""

from __future__ import annotations

import os
import time

from celery import Celery
from redis import Redis

from benchmarks.jobs import LINKS

BROKER = os.environ.get("BENCH_BROKER", "redis://127.0.0.1:6379/1")

app = Celery("bare", broker=BROKER)
app.conf.update(
    task_ignore_result=True,
    task_default_queue="bare",
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)

_times: list[Redis] = []


def times() -> Redis:
    """Return this process' connection to the list of measured times."""
    if not _times:
        _times.append(Redis.from_url(BROKER))
    return _times[0]


@app.task(name="bare.link")  # type: ignore[untyped-decorator]  # Celery has no types
def link(number: int) -> None:
    """Note when the body began and ended, and send the next link."""
    began = time.time()
    ended = time.time()
    if number + 1 < LINKS:
        link.delay(number + 1)
    times().rpush("bare:times", f"{number} {began!r} {ended!r}")
