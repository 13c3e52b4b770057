"""What operators keep from starting, in the rows."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import update

from prometheus.orchestration.dag import DAG
from prometheus.orchestration.pauses import Pause
from prometheus.persistence import executions, pauses, runs, tables
from prometheus.persistence.clock import read_now
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.executions import Refused, Started
from prometheus.persistence.operators import OperatorError
from tests.integration.persistence.world import DAY, HOUR, World, job

SECOND = timedelta(seconds=1)


def pause(
    world: World,
    market: str | None = None,
    pipeline: str | None = None,
    *,
    until: datetime | None = None,
) -> int:
    with writing(world.engine) as connection:
        return pauses.pause(
            connection,
            market_id=market,
            pipeline=pipeline,
            reason="a bad feed",
            until=until,
            actor="ann@desk",
        )


def resume(world: World, market: str | None = None, pipeline: str | None = None) -> Pause:
    with writing(world.engine) as connection:
        return pauses.resume(connection, market_id=market, pipeline=pipeline, actor="bob@desk")


def hold(world: World, dag: DAG, job_id: str) -> int:
    with writing(world.engine) as connection:
        return pauses.hold(connection, dag.dag_id, job_id, reason="wait", actor="ann@desk")


def release(world: World, dag: DAG, job_id: str) -> Pause:
    with writing(world.engine) as connection:
        return pauses.release(connection, dag.dag_id, job_id, actor="bob@desk")


def seen(world: World, pipeline: str) -> None:
    """Let the database have seen a pipeline, in two markets."""
    now = world.now()
    with writing(world.engine) as connection:
        for market_id in ("US_EQ", "EU_EQ"):
            runs.first_seen(connection, pipeline, market_id, "every session", now)


def due(world: World) -> list[str]:
    """Return the executions that want a message."""
    with reading(world.engine) as connection:
        later = read_now(connection).wall_at + SECOND
        found = executions.unpublished(connection, later)
        found += [each for each, _ in executions.waiting_in_queue(connection, later)]
        return [each.execution_id for each in found]


@pytest.fixture
def queued(world: World) -> DAG:
    """A run whose only job waits in its queue."""
    dag = world.run(job("a"))
    (sent,) = world.claim(world.starts(dag, "a"))
    with writing(world.engine) as connection:
        executions.mark_published(connection, [sent.execution_id])
    return dag


@pytest.mark.parametrize(
    "target",
    [("US_EQ", None), (None, "test"), ("US_EQ", "test")],
    ids=["market", "pipeline", "both"],
)
def test_what_waits_does_not_start_while_it_is_paused(
    world: World, queued: DAG, target: tuple[str | None, str | None]
) -> None:
    seen(world, "test")
    execution_id = world.ids(queued)["a"]
    worker = world.worker()
    pause(world, *target)
    assert due(world) == []
    refused = world.start(execution_id, worker)
    assert isinstance(refused, Refused)
    assert "an operator keeps it from starting" in refused.reason
    assert world.row(execution_id).published_at is None  # another message when it may
    assert due(world) == []
    resume(world, *target)
    assert due(world) == [execution_id]
    assert isinstance(world.start(execution_id, worker), Started)


@pytest.mark.parametrize(
    "target", [("EU_EQ", None), (None, "other"), ("US_EQ", "other"), ("EU_EQ", "test")]
)
def test_others_go_on(world: World, queued: DAG, target: tuple[str | None, str | None]) -> None:
    seen(world, "test")
    seen(world, "other")
    pause(world, *target)
    assert due(world) == [world.ids(queued)["a"]]
    assert isinstance(world.start(world.ids(queued)["a"], world.worker()), Started)


def test_one_job_is_held_and_released(world: World) -> None:
    dag = world.run(job("a"), job("b"))
    other = world.run(job("a"), day=DAY + timedelta(days=1))
    worker = world.worker()
    hold(world, dag, "a")
    for run in (dag, other):
        world.claim(world.starts(run, *run.jobs))
    assert isinstance(world.start(world.ids(dag)["a"], worker), Refused)
    assert isinstance(world.start(world.ids(dag)["b"], worker), Started)
    assert isinstance(world.start(world.ids(other)["a"], worker), Started)
    release(world, dag, "a")
    assert isinstance(world.start(world.ids(dag)["a"], worker), Started)
    assert [action for _, action, _ in world.audited()] == ["hold", "release"]


def test_it_ends_by_itself(world: World, queued: DAG) -> None:
    with reading(world.engine) as connection:
        now = read_now(connection).wall_at
    pause(world, "US_EQ", until=now + HOUR)
    with reading(world.engine) as connection:
        (found,) = pauses.read_pauses(connection)
    assert (found.until, found.author, found.reason) == (now + HOUR, "ann@desk", "a bad feed")
    with writing(world.engine) as connection:
        connection.execute(update(tables.pauses).values(until=now))
    with reading(world.engine) as connection:
        assert pauses.read_pauses(connection) == ()
    assert due(world) == [world.ids(queued)["a"]]
    assert isinstance(world.start(world.ids(queued)["a"], world.worker()), Started)
    pause(world, "US_EQ")  # it may be paused again


def test_what_can_not_be_done_is_refused_and_says_why(world: World) -> None:
    dag = world.run(job("a"))
    seen(world, "test")
    pause(world, "US_EQ")
    with pytest.raises(OperatorError, match=r"paused already: US_EQ, since .* by ann@desk"):
        pause(world, "US_EQ")
    with pytest.raises(OperatorError, match=r"EU_EQ is not paused. Paused: US_EQ, since"):
        resume(world, "EU_EQ")
    with pytest.raises(OperatorError, match=r"no pipeline 'tset'. Did you mean 'test'"):
        pause(world, None, "tset")
    with pytest.raises(OperatorError, match=r"No run was ever due in XNYS\. Known: EU_EQ, US_EQ"):
        pause(world, "XNYS")
    with pytest.raises(OperatorError, match=r"No run of test was ever due in JP_EQ"):
        pause(world, "JP_EQ", "test")
    with pytest.raises(OperatorError, match="has passed already"):
        pause(world, "EU_EQ", until=world.now() - HOUR)
    with pytest.raises(OperatorError, match="has no job 'b'"):
        hold(world, dag, "b")
    with pytest.raises(OperatorError, match=f"{dag.dag_id} is not paused"):
        release(world, dag, "a")
    resume(world, "US_EQ")
    world.finish(dag, world.worker(), "a")
    with pytest.raises(OperatorError, match="a is SUCCESS"):
        hold(world, dag, "a")
    assert [action for _, action, _ in world.audited()] == ["pause", "resume"]
