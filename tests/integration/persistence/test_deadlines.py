"""What became of deadlines, by real rows: of past sessions, and of one that is to come."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine, event

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.dag import DAG
from prometheus.orchestration.deadlines import Deadline
from prometheus.persistence import operators
from prometheus.persistence.clock import read_now
from prometheus.persistence.deadlines import Due, read_deadlines
from prometheus.persistence.engine import reading, writing
from tests.integration.persistence.world import DAY, World, job

TO_COME = TradingCalendar("US_EQ").next_trading_day(datetime.now(UTC).date() + timedelta(days=7))


@pytest.fixture
def world(engine: Engine) -> World:
    return World(engine)


def read(world: World, since: date = DAY) -> dict[str | None, Due]:
    with reading(world.engine) as connection:
        found = read_deadlines(connection, read_now(connection), markets=["US_EQ"], since=since)
    return {each.job_id: each for each in found}


def a_run(world: World, day: date) -> DAG:
    late = {"deadline": Deadline.parse("close+1h")}
    second = job("b", "a", max_retries=0)
    return world.run(job("a", **late), second, day=day, deadline="next_open-30m")


def test_what_is_to_come_is_met_once_it_has_succeeded(world: World) -> None:
    dag, worker = a_run(world, TO_COME), world.worker()
    due = read(world)
    assert list(due) == [None, "a"]
    assert not any(each.missed or each.done_at for each in due.values())
    world.succeed(world.running(dag, "a", worker), worker)
    assert read(world)["a"].done_at is not None
    assert read(world)[None].done_at is None
    world.succeed(world.running(dag, "b", worker), worker)
    world.close(dag)
    due = read(world, since=TO_COME)
    assert due[None].done_at is not None
    assert not any(each.missed for each in due.values())


def test_what_is_past_is_missed_whether_it_succeeds_late_or_fails(world: World) -> None:
    dag, worker = a_run(world, DAY), world.worker()
    due = read(world)
    assert due["a"].deadline_at == datetime(2025, 12, 2, 22, tzinfo=UTC)
    assert due[None].deadline_at == datetime(2025, 12, 3, 14, tzinfo=UTC)
    assert [each.missed for each in due.values()] == [True, True]
    world.succeed(world.running(dag, "a", worker), worker)
    due = read(world)
    assert due["a"].missed
    assert due["a"].done_at is not None
    world.fail_for_good(dag, "b", worker)
    world.close(dag)
    assert read(world)[None].missed
    assert read(world)[None].done_at is None
    assert read(world, since=DAY + timedelta(days=1)) == {}


def test_what_was_cancelled_has_none_any_more(world: World) -> None:
    late = {"deadline": Deadline.parse("close+1h")}
    dag = world.run(job("a", **late), job("b"), deadline="close+2h")
    assert list(read(world)) == [None, "a"]
    for job_id, left in (("a", [None]), ("b", [])):
        with writing(world.engine) as connection:
            operators.cancel(connection, dag.dag_id, job_id, actor="ann", grace=timedelta(0))
        assert list(read(world)) == left


def test_runs_without_any_cost_one_statement(world: World) -> None:
    for offset in range(3):
        world.run(job("a"), day=DAY + timedelta(days=offset))
    read(world)  # what they were made of is kept
    statements: list[str] = []

    def note(*args: object) -> None:
        statements.append(str(args[2]))

    with reading(world.engine) as connection:
        now = read_now(connection)
        event.listen(world.engine, "before_cursor_execute", note)
        assert not read_deadlines(connection, now, markets=["US_EQ"], since=DAY)
    event.remove(world.engine, "before_cursor_execute", note)
    assert len(statements) == 1
