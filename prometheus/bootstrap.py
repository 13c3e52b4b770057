"""Everything a process is made of, built from the settings in one place."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from multiprocessing.sharedctypes import RawArray

from celery import Celery
from kombu.entity import Exchange, Queue
from sqlalchemy import Engine

from prometheus.configured import sound_pipelines
from prometheus.core.markets import get_market
from prometheus.dispatch.attempts import Attempts
from prometheus.dispatch.canary import CanaryTask
from prometheus.dispatch.limits import memory_limit
from prometheus.dispatch.names import PRIORITY_STEPS, SEPARATOR
from prometheus.dispatch.publisher import Publisher
from prometheus.dispatch.scheduler import Pace, Scheduler
from prometheus.dispatch.tasks import Workplace, register_jobs
from prometheus.dispatch.transport import use_transport
from prometheus.errors import PipelineError
from prometheus.orchestration.pipeline import Pipeline
from prometheus.persistence.engine import create_engine
from prometheus.settings import Settings
from prometheus.sources.protocol import Sources


@dataclass(frozen=True, slots=True)
class Runtime:
    """The parts of one process."""

    settings: Settings
    engine: Engine
    pipelines: dict[str, Pipeline]
    faults: list[str]
    """What is wrong with the pipelines that are left out."""
    app: Celery
    publisher: Publisher
    scheduler: Scheduler
    attempts: Attempts
    incarnation: Incarnation


class Incarnation:
    """
    Identity of a worker process, a uuid that the children of its pool see as their parent has it.

    The parent takes a new one when its lease was lost, and so goes on working.
    """

    def __init__(self) -> None:
        self._shared = RawArray("c", 36)
        self.renew()

    def __call__(self) -> str:
        """Return it as it is now."""
        return bytes(self._shared.raw).decode()

    def renew(self) -> None:
        """Become another."""
        self._shared.raw = str(uuid.uuid4()).encode()


def make_runtime(settings: Settings) -> Runtime:
    """
    Build the parts of a process; nothing is connected yet.

    A pipeline with faults is left out, and holds up no other.

    Raises:
        PrometheusError: The settings name something that does not exist, or no pipeline is sound.
    """
    for market in settings.markets.enabled:
        get_market(market)
    engine = create_engine(settings.database.url.get_secret_value())
    pipelines, faults = sound_pipelines(settings)
    if not pipelines:
        raise PipelineError("pipelines", faults)
    app = make_celery(settings)
    incarnation = Incarnation()
    publisher = Publisher(app)
    attempts = Attempts(
        engine, max_lost=settings.workers.max_lost, worker_lease=settings.workers.lease
    )
    scheduler = Scheduler(
        engine,
        publisher,
        attempts,
        pipelines,
        markets=frozenset(settings.markets.enabled),
        owner=f"{socket.gethostname()}:{os.getpid()}:{incarnation()}",
        pace=Pace(
            max_wait=settings.scheduler.max_wait,
            lease=settings.scheduler.lease,
            worker_lease=settings.workers.lease,
            reconcile_every=settings.scheduler.reconcile_every,
        ),
        election=settings.scheduler.leader_election,
        create_runs=settings.scheduler.create_runs,
    )

    @cache
    def sources() -> Sources:
        from prometheus.sources.registry import build_sources  # numpy: only where jobs run

        return build_sources(settings.sources, seed=settings.seed, eodhd=settings.eodhd.feed())

    app.register_task(CanaryTask())
    register_jobs(
        app,
        pipelines,
        Workplace(
            attempts=attempts,
            advance=scheduler.advance,
            decide_after=scheduler.decide_after,
            advance_after=scheduler.advance_after,
            sources=sources,
            incarnation=incarnation,
            memory=memory_limit(settings.workers.memory_limit),
        ),
    )
    return Runtime(
        settings, engine, pipelines, faults, app, publisher, scheduler, attempts, incarnation
    )


def make_celery(settings: Settings) -> Celery:
    """Make the Celery application, without tasks."""
    use_transport()
    app = Celery("prometheus", set_as_current=True)
    visibility = int(settings.broker.visibility_timeout / timedelta(seconds=1))
    app.conf.update(
        broker_url=settings.broker.url.get_secret_value(),
        result_backend=None,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        enable_utc=True,
        timezone="UTC",
        # One queue a market. A message for any other is a mistake, not a new queue.
        task_queues=[_queue(market) for market in settings.markets.enabled],
        task_create_missing_queues=False,
        task_default_queue=settings.markets.enabled[0],
        # The row decides whether an attempt starts; a message that comes twice is dropped.
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_eta_task_limit=1000,
        worker_concurrency=settings.workers.concurrency,
        worker_max_memory_per_child=_kept_kilobytes(settings),
        worker_consumer="prometheus.dispatch.transport:Consumer",
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_acquire_timeout=10,
        broker_transport_options={
            "visibility_timeout": visibility,
            "queue_order_strategy": "priority",
            # Longer than the second for which a consumer waits in Redis, shorter than a leader's
            # lease: a Redis that hangs must not cost the beat its lead.
            "socket_timeout": 4,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            # Of publishing, which must not hold up a tick while Redis is away; consumers reconnect
            # for as long as it takes.
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.2,
            "sep": SEPARATOR,
            "priority_steps": list(PRIORITY_STEPS),
        },
        beat_scheduler="workers.scheduler:MarketScheduler",
        beat_max_loop_interval=settings.scheduler.max_wait.total_seconds(),
    )
    return app


def _kept_kilobytes(settings: Settings) -> int | None:
    """Return what a process may have used and still run a next job: half of what a job may use."""
    memory = memory_limit(settings.workers.memory_limit)
    return memory // 2 // 1024 if memory else None


def _queue(market: str) -> Queue:
    # Left out, the exchange would be that of the default queue, for every market.
    return Queue(  # type: ignore[no-untyped-call]  # kombu has no types
        market,
        Exchange(market),  # type: ignore[no-untyped-call]
        routing_key=market,
    )
