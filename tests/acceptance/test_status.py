"""What ``prometheus status`` and ``retry`` say of runs whose state takes long to reach."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from prometheus.persistence import operators
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
