"""Schedulers in the test's own process, and what they need around them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from celery import Celery
from sqlalchemy import Engine

from prometheus.bootstrap import make_celery
from prometheus.dispatch.attempts import Attempts
from prometheus.dispatch.publisher import Mark
from prometheus.dispatch.scheduler import Broker, Pace, Scheduler
from prometheus.orchestration.pipeline import Pipeline
from prometheus.persistence import leases
from prometheus.persistence.engine import writing
from prometheus.persistence.executions import Publication
from prometheus.settings import load_settings
from tests.integration.dispatch.conftest import Installation

LEASE = timedelta(seconds=30)


class RecordingBroker:
    """Keeps what was published; the tests play the worker."""

    def __init__(self) -> None:
        self.published: list[Publication] = []
        self.mark: Mark | None = None
        self.canaries: list[str] = []

    def publish(self, publications: Sequence[Publication]) -> None:
        self.published += publications

    def announce_failures(self, failures: Sequence[Publication]) -> None:
        raise AssertionError("no pipeline here has an on_failure")

    def waiting_ids(self, queues: Iterable[str]) -> set[str]:
        return {publication.execution_id for publication in self.published}

    def oldest(self, queues: Collection[str]) -> dict[str, bytes | None]:
        return dict.fromkeys(queues)

    def send_canaries(self, queues: Collection[str]) -> None:
        self.canaries += queues

    def busy(self, incarnations: Collection[str]) -> set[str]:
        return set()

    def leave_mark(self, mark: Mark) -> None:
        self.mark = mark

    def read_mark(self, *, within: timedelta | None = None) -> Mark | None:
        return self.mark


@contextmanager
def celery_app(installation: Installation) -> Iterator[Celery]:
    """The product's Celery application on the installation's Redis."""
    app = make_celery(load_settings(installation.env))
    yield app
    app.close()


def take(app: Celery, queue: str = "US_EQ") -> list[Any]:
    """Take all messages from a market's queue, in the order in which a worker would."""
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        taken = []
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            taken.append(message)
        return taken


def make_attempts(engine: Engine) -> Attempts:
    return Attempts(engine, max_lost=3, worker_lease=LEASE)


def make_scheduler(
    engine: Engine,
    broker: Broker,
    *,
    pipelines: Mapping[str, Pipeline] | None = None,
    markets: Iterable[str] = ("US_EQ", "EU_EQ"),
    pace: Pace | None = None,
    election: bool = False,
    create_runs: bool = False,
) -> Scheduler:
    """Make a scheduler that always leads and makes no runs, unless asked to."""
    return Scheduler(
        engine,
        broker,
        make_attempts(engine),
        pipelines or {},
        markets=frozenset(markets),
        owner=str(uuid.uuid4()),
        pace=pace or Pace(),
        election=election,
        create_runs=create_runs,
    )


def register_worker(engine: Engine, *, lease: timedelta = timedelta(hours=1)) -> str:
    """Write the lease of a worker that nobody renews; return its incarnation."""
    incarnation = str(uuid.uuid4())
    with writing(engine) as connection:
        leases.register_worker(
            connection,
            incarnation,
            worker="test",
            host="test",
            pid=os.getpid(),
            queues=["US_EQ"],
            lease=lease,
        )
    return incarnation
