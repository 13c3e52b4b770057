"""Time-outs of waiting, where a worker or a failure meets them before the scheduler does."""

from __future__ import annotations

from datetime import timedelta

import pytest

from prometheus.orchestration.decisions import RunState
from prometheus.persistence import executions, runs
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.executions import FailedForGood, Refused, Retried, Started
from tests.integration.persistence.world import HOUR, MINUTE, World, job

SECOND = timedelta(seconds=1)


class TestStart:
    def test_job_that_was_in_its_queue_for_too_long_expires_instead(self, world: World) -> None:
        dag = world.run(job("a", queue_timeout=10 * MINUTE), job("b", queue_timeout=10 * MINUTE))
        world.claim(world.starts(dag))
        ids, worker, now = world.ids(dag), world.worker(), world.now()
        world.change(ids["a"], scheduled_at=now - 10 * MINUTE)
        world.change(ids["b"], scheduled_at=now - 9 * MINUTE)
        reason = "no worker took it from its queue within its queue_timeout, 10m"

        assert world.start(ids["a"], worker) == Refused(reason, dag.dag_id)
        assert isinstance(world.start(ids["b"], worker), Started)
        row = world.row(ids["a"])
        assert (row.status, row.error_message) == ("EXPIRED", reason)

    @pytest.mark.parametrize("forced", [False, True])
    def test_job_of_a_run_that_has_had_its_time_expires_instead(
        self, world: World, forced: bool
    ) -> None:
        dag = world.run(job("a"), run_timeout=4 * HOUR, forced=forced)
        world.claim(world.starts(dag, forced=forced))
        world.made(dag, ago=4 * HOUR)

        refused = world.start(world.ids(dag)["a"], world.worker())

        assert refused == Refused("its run took longer than its run_timeout, 4h", dag.dag_id)
        assert world.statuses(dag) == {"a": "EXPIRED"}

    def test_attempt_of_an_operator_starts_all_the_same(self, world: World) -> None:
        dag = world.run(job("a"), run_timeout=4 * HOUR)
        execution_id = world.ids(dag)["a"]
        world.claim(world.starts(dag))
        world.change(execution_id, forced=True)
        world.made(dag, ago=40 * HOUR)
        assert isinstance(world.start(execution_id, world.worker()), Started)


class TestRetry:
    @pytest.mark.parametrize("forced", [False, True])
    def test_none_is_scheduled_at_or_past_the_runs_end(self, world: World, forced: bool) -> None:
        worker = world.worker()
        dag = world.run(job("a"), job("b"), run_timeout=HOUR, forced=forced)
        for name in ("a", "b"):
            world.running(dag, name, worker, forced=forced)
        world.made(dag, ago=HOUR - 50 * SECOND)
        end = world.run_row(dag).created_at + HOUR
        ids = world.ids(dag)

        assert isinstance(world.fail(ids["a"], draw=lambda _: 20), Retried)
        outcome = world.fail(ids["b"], draw=lambda _: 50)

        assert isinstance(outcome, FailedForGood)
        assert outcome.message.startswith("ValueError: boom (not tried again: the retry at ")
        assert outcome.message.endswith(
            f"UTC would be at or past the end of its run, {end:%Y-%m-%d %H:%M:%S} UTC "
            f"(run_timeout 1h))"
        )

    def test_attempt_of_an_operator_is_tried_again_all_the_same(self, world: World) -> None:
        dag = world.run(run_timeout=HOUR)
        execution_id = world.running(dag, "a", world.worker())
        world.change(execution_id, forced=True)
        world.made(dag, ago=2 * HOUR)
        assert isinstance(world.fail(execution_id), Retried)


def test_only_what_runs_is_asked_to_end_and_only_once(world: World) -> None:
    dag = world.run(job("a"), job("b"))
    worker = world.worker()
    execution_id = world.running(dag, "a", worker)
    asked_by = dict.fromkeys(world.ids(dag).values(), "its run_timeout, 4h")
    for expected in ([execution_id], []):
        with writing(world.engine) as connection:
            asked = executions.ask_to_end(connection, asked_by, grace=HOUR)
        assert asked == expected
    row = world.row(execution_id)
    assert (row.status, row.cancel_asked_by) == ("RUNNING", "its run_timeout, 4h")
    assert row.cancel_at == row.cancel_asked_at + HOUR
    assert world.latest(dag)["b"].cancel_asked_at is None

    world.succeed(execution_id, worker)
    row = world.row(execution_id)
    assert (row.status, row.error_message) == ("CANCELLED", "cancelled by its run_timeout, 4h")


def test_decision_reads_what_it_needs_for_them(world: World) -> None:
    dag = world.run(job("a", queue_timeout=10 * MINUTE), job("b"), run_timeout=4 * HOUR)
    (start, _) = world.starts(dag)
    world.claim([start])

    with reading(world.engine) as connection:
        (run,) = runs.read_open_runs(connection, lambda _: None)

    assert isinstance(run, RunState)
    assert run.dag.run_timeout == 4 * HOUR
    assert run.dag.jobs["a"].queue_timeout == 10 * MINUTE
    assert run.created_at == world.run_row(dag).created_at
    assert run.jobs["a"].scheduled_at == world.latest(dag)["a"].scheduled_at
    assert run.jobs["b"].scheduled_at is None
