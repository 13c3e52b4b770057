"""What a leader sees in one statement: whether there may be anything to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import delete, insert, update

from prometheus.orchestration.dag import DAG
from prometheus.persistence import executions, leases, pauses, tables
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.glance import Glance, glance
from prometheus.persistence.tables import backfills, run_changes
from tests.integration.persistence.world import DAY, HOUR, World, job

MINUTE = timedelta(minutes=1)


def look(world: World) -> Glance:
    at = world.now()
    with reading(world.engine) as connection:
        return glance(
            connection,
            at,
            due_by=at - MINUTE,
            over_limit_since=at - MINUTE,
            given_up_since=at - HOUR,
        )


def take_notes(world: World) -> None:
    with writing(world.engine) as connection:
        connection.execute(delete(run_changes))


@pytest.fixture
def dag(world: World) -> DAG:
    """A run of which one job runs on a worker that renews, one waits in a queue, and one waits."""
    dag = world.run(job("runs"), job("sent"), job("waits", "sent"), job("unsent"))
    world.running(dag, "runs", world.worker())
    world.claim(world.starts(dag, "sent"))
    with writing(world.engine) as connection:
        executions.mark_published(connection, [world.ids(dag)["sent"]])
    take_notes(world)
    return dag


def hold(world: World, dag: DAG) -> None:
    with writing(world.engine) as connection:
        pauses.hold(connection, dag.dag_id, "waits", reason="not now", actor="test")


def request_backfill(world: World, _dag: DAG) -> None:
    with writing(world.engine) as connection:
        connection.execute(
            insert(backfills).values(
                pipeline="other",
                market_id="US_EQ",
                first_session=DAY,
                last_session=DAY,
                reprocess="none",
                max_active_runs=1,
                reason="new",
                author="test",
            )
        )


def ask_to_end(world: World, dag: DAG) -> None:
    with writing(world.engine) as connection:
        asked = {world.ids(dag)["runs"]: "test"}
        executions.ask_to_end(connection, asked, grace=timedelta(0))


def claim(world: World, dag: DAG) -> None:
    world.claim(world.starts(dag, "unsent"))
    world.change(world.ids(dag)["unsent"], scheduled_at=world.now() - 2 * MINUTE)


def write_to_a_run(world: World, dag: DAG) -> None:
    world.claim(world.starts(dag, "unsent"))


def lose_an_idle_worker(world: World, _dag: DAG) -> None:
    world.worker(lease=-MINUTE)


def overrun(world: World, dag: DAG) -> None:
    world.change(world.ids(dag)["runs"], hard_limit_at=world.now() - 2 * MINUTE)


def give_an_idle_worker_up(world: World, _dag: DAG) -> None:
    world.worker(lease=-MINUTE)
    with writing(world.engine) as connection:
        leases.give_up_workers(connection, world.now())


def test_nothing_is_to_be_done_where_what_runs_is_named_and_what_is_due_was_sent(
    world: World, dag: DAG
) -> None:
    seen = look(world)
    assert seen.quiet
    assert seen.due is None
    world.fail(world.ids(dag)["runs"], draw=lambda _: 50)
    take_notes(world)
    seen = look(world)
    assert seen.quiet
    assert seen.due == world.latest(dag)["runs"].scheduled_at


def test_pause_whose_time_is_over_is_nothing_to_look_after(world: World, dag: DAG) -> None:
    with writing(world.engine) as connection:
        paused = {"market_id": "US_EQ", "reason": "r", "author": "test"}
        connection.execute(insert(tables.pauses).values(**paused, until=world.now() + MINUTE))
    assert not look(world).quiet
    with writing(world.engine) as connection:
        connection.execute(update(tables.pauses).values(until=world.now()))
    assert look(world).quiet


@pytest.mark.parametrize(
    ("act", "noted"),
    [
        (hold, False),
        (request_backfill, False),
        (ask_to_end, False),
        (claim, False),
        (write_to_a_run, True),
        (lose_an_idle_worker, False),
        (overrun, False),
        (give_an_idle_worker_up, False),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_whatever_a_tick_looks_after_is_seen(
    world: World, dag: DAG, act: Callable[[World, DAG], None], noted: bool
) -> None:
    assert look(world).quiet
    act(world, dag)
    if not noted:
        take_notes(world)
    assert not look(world).quiet
