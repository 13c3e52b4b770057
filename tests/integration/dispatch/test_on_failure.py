"""Asking for ``on_failure``: in Redis, while no worker or a slow one takes the messages."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from celery import Celery

from prometheus.dispatch.publisher import Publisher, failure_task_id
from prometheus.dispatch.scheduler import Pace, Scheduler
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence import runs
from prometheus.persistence.engine import writing
from tests.integration.dispatch.conftest import Installation
from tests.integration.dispatch.schedulers import celery_app, make_scheduler, take
from tests.integration.dispatch.trial import hooked

AT_ONCE = Pace(ring_again_after=timedelta(0))


@pytest.fixture
def app(installation: Installation) -> Iterator[Celery]:
    with celery_app(installation) as app:
        yield app


def test_message_is_not_sent_again_while_it_waits(installation: Installation, app: Celery) -> None:
    execution_id = _expire(installation)
    scheduler = _scheduler(installation, app, AT_ONCE)

    for _ in range(5):
        scheduler.tick()

    assert [message.headers["id"] for message in take(app)] == [failure_task_id(execution_id)]


def test_another_scheduler_sees_the_message_that_waits(
    installation: Installation, app: Celery
) -> None:
    """What one scheduler has asked for, its successor after a failover does not know."""
    _expire(installation)

    for _ in range(3):
        _scheduler(installation, app).tick()

    assert len(take(app)) == 1


def test_message_that_was_taken_is_left_to_its_worker_for_a_while(
    installation: Installation, app: Celery
) -> None:
    _expire(installation)
    scheduler = _scheduler(installation, app)

    scheduler.tick()
    assert len(take(app)) == 1
    scheduler.tick()

    assert take(app) == []


def test_message_that_was_lost_is_sent_again(installation: Installation, app: Celery) -> None:
    _expire(installation)
    scheduler = _scheduler(installation, app, AT_ONCE)

    scheduler.tick()
    assert len(take(app)) == 1
    scheduler.tick()

    assert len(take(app)) == 1


def test_on_failure_has_a_time_limit(installation: Installation, app: Celery) -> None:
    """Hard, then soft: it shares its worker with the market's jobs."""
    _expire(installation)

    _scheduler(installation, app).tick()

    (message,) = take(app)
    assert message.headers["timelimit"] == [330, 300]


def test_failure_of_a_market_that_others_serve_is_left_to_them(
    installation: Installation, app: Celery
) -> None:
    """Several installations may share a database; each has the queues of its own markets."""
    _expire(installation, market="EU_EQ")
    ours = _expire(installation)

    _scheduler(installation, app).tick()

    assert [message.headers["id"] for message in take(app)] == [failure_task_id(ours)]
    assert take(app, "EU_EQ") == []


def _expire(installation: Installation, market: str = "US_EQ") -> str:
    """Let a job with an ``on_failure`` end without a success; return its execution."""
    (row,) = installation.attempts(installation.make_run("hooked", market=market))
    with writing(installation.engine) as connection:
        runs.end_waiting(connection, {row.execution_id: "too late"}, JobStatus.EXPIRED)
    return str(row.execution_id)


def _scheduler(installation: Installation, app: Celery, pace: Pace | None = None) -> Scheduler:
    """Make a scheduler of an installation that serves the United States alone."""
    return make_scheduler(
        installation.engine,
        Publisher(app),
        pipelines={hooked.name: hooked},
        markets=["US_EQ"],
        pace=pace,
    )
