"""What ``prometheus status`` and ``retry`` say of runs whose state takes long to reach."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from prometheus.dispatch.scheduler import LEADERSHIP
from prometheus.persistence import leases, operators
from prometheus.persistence.engine import create_engine, writing
from tests.acceptance.conftest import RunCommand
from tests.integration.persistence.world import LOST, World, job


@pytest.fixture
def env(sqlite_url: str) -> dict[str, str]:
    """The variables of a command that works on the test's own database."""
    return {"PROMETHEUS__DATABASE__URL": sqlite_url}


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    """The same database, to be changed by the test."""
    engine = create_engine(sqlite_url)
    yield World(engine)
    engine.dispose()


def test_of_a_lost_attempt_nobody_knows_how_long_it_took(
    run_command: RunCommand, world: World, env: dict[str, str]
) -> None:
    dag = world.run(job("a"), job("b"))
    worker = world.worker()
    world.succeed(world.running(dag, "a", worker), worker)
    world.fail(world.running(dag, "b", worker), LOST)

    lines = run_command("status", dag.dag_id, env=env).out.splitlines()

    (a,) = (line.split() for line in lines if line.startswith("a "))
    (b,) = (line.split() for line in lines if line.startswith("b "))
    assert (a[2], a[7]) == ("SUCCESS", "s")
    assert (b[2], b[6]) == ("FAILED", "-")
    found = run_command("status", dag.dag_id, "--json", env=env).document
    assert [each["attempts"][0]["lost"] for each in found["jobs"]] == [False, True]


def test_a_job_that_was_asked_to_end_says_by_whom_and_until_when(
    run_command: RunCommand, world: World, env: dict[str, str]
) -> None:
    dag = world.run(job("a"))
    world.running(dag, "a", world.worker())
    with writing(world.engine) as connection:
        operators.cancel(connection, dag.dag_id, actor="ada", grace=timedelta(hours=1))
    row = world.latest(dag)["a"]

    out = run_command("status", dag.dag_id, env=env).out

    assert (
        f"a, attempt 1: asked to end by ada at {row.cancel_asked_at:%Y-%m-%d %H:%M:%S} UTC; "
        f"if it has not by {row.cancel_at:%Y-%m-%d %H:%M:%S} UTC, it is killed" in out
    )
    (found,) = run_command("status", dag.dag_id, "--json", env=env).document["jobs"]
    (attempt,) = found["attempts"]
    assert attempt["cancel_asked_by"] == "ada"
    assert attempt["cancel_asked_at"] == row.cancel_asked_at.isoformat()
    assert attempt["cancel_at"] == row.cancel_at.isoformat()


def test_a_new_run_says_that_no_scheduler_would_start_it(
    run_command: RunCommand, world: World, env: dict[str, str]
) -> None:
    dag = world.run(job("a"), forced=True)
    out = run_command("status", dag.dag_id, env=env).out
    assert "scheduler NO SCHEDULER IS RUNNING: nothing starts by itself" in out
    assert "a waits: no scheduler is running, which would start it now" in out
    assert run_command("status", dag.dag_id, "--json", env=env).document["scheduler"] is None

    with writing(world.engine) as connection:
        leases.lead(connection, LEADERSHIP, "host:1:x", lease=timedelta(hours=1))
    world.worker()
    out = run_command("status", dag.dag_id, env=env).out
    assert "RUNNING:" not in out
    assert "a waits: the scheduler starts it at its next tick" in out
