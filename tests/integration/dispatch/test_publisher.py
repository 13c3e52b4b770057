"""What is sent to Redis, and what a consumer takes from it first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery
from celery._state import _task_stack

from prometheus.dispatch.canary import CanaryTask
from prometheus.dispatch.publisher import BrokerUnavailableError, Publisher
from prometheus.orchestration.dag import JobPriority
from prometheus.persistence.executions import Publication
from tests.integration.dispatch.conftest import Installation
from tests.integration.dispatch.schedulers import celery_app, take
from tests.servers import Gate, RedisServer

PRIORITIES = [
    ("schedule", JobPriority.CRITICAL, 0),
    ("schedule", JobPriority.STANDARD, 3),
    ("schedule", JobPriority.OPTIONAL, 6),
    ("operator", JobPriority.CRITICAL, 0),
    ("operator", JobPriority.STANDARD, 3),
    ("operator", JobPriority.OPTIONAL, 6),
    ("catch_up", JobPriority.CRITICAL, 9),
    ("catch_up", JobPriority.STANDARD, 9),
    ("catch_up", JobPriority.OPTIONAL, 9),
]


@pytest.fixture
def app(installation: Installation) -> Iterator[Celery]:
    with celery_app(installation) as app:
        yield app


def publication(trigger: str, priority: int) -> Publication:
    return Publication(
        execution_id=f"{trigger}-{priority!s}",
        dag_id="us_eq_joined_2026-11-20",
        pipeline="joined",
        job_type="left",
        queue="US_EQ",
        priority=priority,
        trigger=trigger,
        retries=0,
        timeout_seconds=60,
    )


def test_every_message_has_the_priority_of_its_job_unless_it_is_caught_up(app: Celery) -> None:
    """0 is the highest of Redis, and what has none counts as 0."""
    Publisher(app).publish([publication(trigger, priority) for trigger, priority, _ in PRIORITIES])

    assert {message.headers["id"]: message.properties["priority"] for message in take(app)} == {
        f"{trigger}-{priority!s}": number for trigger, priority, number in PRIORITIES
    }


@pytest.mark.parametrize("at_the_end_of", [None, {"id": "first"}, {"id": "b", "root_id": "a"}])
def test_message_is_what_celery_itself_would_send(
    app: Celery, at_the_end_of: dict[str, str] | None
) -> None:
    sent = replace(publication("schedule", JobPriority.STANDARD), retries=2)
    task = app.register_task(CanaryTask())
    with ExitStack() as stack:
        if at_the_end_of is not None:
            _task_stack.push(task)
            stack.callback(_task_stack.pop)
            task.push_request(**at_the_end_of)
            stack.callback(task.pop_request)
        Publisher(app).publish([sent])
        app.send_task(
            "joined.left",
            args=[sent.execution_id],
            task_id=sent.execution_id,
            queue="US_EQ",
            priority=3,
            soft_time_limit=60,
            time_limit=90,
            retries=2,
            ignore_result=True,
        )

    def told(message: Any) -> tuple[object, ...]:
        # Each message has a tag of its own; nobody answers ours.
        own = ("delivery_tag", "reply_to")
        properties = {key: value for key, value in message.properties.items() if key not in own}
        return message.headers, properties, message.body, message.content_type

    ours, theirs = take(app)
    assert told(ours) == told(theirs)


@pytest.mark.promise("P6")
def test_priority_that_somebody_wrote_by_hand_holds_up_no_other_message(app: Celery) -> None:
    Publisher(app).publish([publication("schedule", priority) for priority in (0, 1)])

    taken = {message.headers["id"]: message.properties["priority"] for message in take(app)}
    assert taken == {"schedule-0": 3, "schedule-1": 0}


def test_sessions_that_are_caught_up_yield_to_live_work_that_was_sent_later(app: Celery) -> None:
    critical = publication("catch_up", JobPriority.CRITICAL)
    optional = publication("schedule", JobPriority.OPTIONAL)
    standard = publication("operator", JobPriority.STANDARD)
    publisher = Publisher(app)
    for each in (critical, optional, standard):
        publisher.publish([each])

    taken = [message.headers["id"] for message in take(app)]
    assert taken == [each.execution_id for each in (standard, optional, critical)]


def test_connection_lost_in_the_middle_of_a_batch_means_that_the_broker_is_away(
    installation: Installation, redis_server: RedisServer
) -> None:
    """Kombu then raises an error of a kind of its own, which is no connection error."""
    with Gate(redis_server.socket) as gate:
        gated = replace(installation, redis_url=redis_server.url_at(gate.port))
        with celery_app(gated) as app:
            publisher = Publisher(app)
            publisher.publish([publication("schedule", JobPriority.CRITICAL)])
            gate.mute()
            with pytest.raises(BrokerUnavailableError):
                publisher.publish([publication("schedule", JobPriority.OPTIONAL)])
            gate.mend()
            publisher.publish([publication("operator", JobPriority.OPTIONAL)])
