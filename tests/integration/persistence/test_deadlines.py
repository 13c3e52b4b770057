"""What became of deadlines, by real rows: of past sessions, and of one that is to come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine, event, update

from prometheus.core.declarations import read_declarations
from prometheus.core.markets import declare, shipped_markets
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.dag import DAG
from prometheus.orchestration.deadlines import Deadline
from prometheus.orchestration.lifecycle import RunStatus
from prometheus.orchestration.planning import SessionRange
from prometheus.orchestration.sensor import SensorRule
from prometheus.orchestration.timeouts import RUN_TIMEOUT
from prometheus.persistence import executions, operators
from prometheus.persistence.clock import jump_to, read_now, start_replay
from prometheus.persistence.deadlines import Due, read_deadlines
from prometheus.persistence.engine import create_engine, reading, writing
from prometheus.persistence.tables import dag_runs
from tests.integration.persistence.world import DAY, HOUR, MINUTE, World, job

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


def test_what_its_run_timeout_ended_misses_it(world: World) -> None:
    """Nobody said that it need not be done."""
    dag, worker = world.run(job("a"), deadline="close+2h"), world.worker()
    execution_id = world.running(dag, "a", worker)
    with writing(world.engine) as connection:
        asked_by = {execution_id: f"{RUN_TIMEOUT}, 4h"}
        assert executions.ask_to_end(connection, asked_by, grace=HOUR) == [execution_id]
    world.succeed(execution_id, worker)
    assert world.close(dag) is RunStatus.CANCELLED
    assert [(due.done_at, due.missed) for due in read(world).values()] == [(None, True)]


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


CLOSE = datetime(2025, 12, 2, 21, tzinfo=UTC)
"""Of the session of `DAY`."""


@pytest.fixture
def small(sqlite_url: str) -> Iterator[World]:
    """On SQLite alone, where the kind of the database does not matter."""
    world = World(create_engine(sqlite_url))
    yield world
    world.engine.dispose()


def replay(world: World, speed: float) -> None:
    """Turn the market's clock back to the close of the session."""
    only = SessionRange(DAY, DAY)
    with writing(world.engine) as connection:
        start_replay(connection, market_at=CLOSE, speed=speed, only=only, markets=["US_EQ"])


def succeed(world: World, dag: DAG, job_id: str, worker: str, at: datetime | None = None) -> None:
    """Run a job to SUCCESS, at an instant of market time, whatever its window is by wall time."""
    execution_id = world.running(dag, job_id, worker, opens=-timedelta(days=36500))
    world.succeed(execution_id, worker)
    if at is not None:
        with reading(world.engine) as connection:
            clock = read_now(connection).clock
        assert clock.anchor_wall_at is not None
        world.change(execution_id, completed_at=clock.anchor_wall_at + (at - CLOSE) / clock.speed)


def test_in_a_replay_what_has_ended_did_so_by_the_markets_clock(small: World) -> None:
    replay(small, speed=60)
    late = {"deadline": Deadline.parse("close+1h")}
    dag, worker = small.run(job("a", **late), job("b", **late)), small.worker()
    succeed(small, dag, "a", worker, CLOSE + HOUR)  # at the last moment
    succeed(small, dag, "b", worker, CLOSE + HOUR + MINUTE)
    assert {of: (due.done_at, due.missed) for of, due in read(small).items()} == {
        "a": (CLOSE + HOUR, False),
        "b": (CLOSE + HOUR + MINUTE, True),
    }


def test_where_the_clock_leaps_what_has_ended_did_so_when_it_started(small: World) -> None:
    replay(small, speed=0)
    dag, worker = small.run(job("a"), job("b"), deadline="close+1h"), small.worker()
    succeed(small, dag, "a", worker)
    succeed(small, dag, "b", worker)
    small.change(small.ids(dag)["b"], started_market_at=CLOSE + HOUR)
    with writing(small.engine) as connection:
        assert jump_to(connection, CLOSE + 9 * HOUR, seen=CLOSE)
    due = read(small)[None]
    assert (due.done_at, due.missed) == (CLOSE + HOUR, False)


def test_what_was_done_in_time_stays_so_whatever_is_run_again(small: World) -> None:
    replay(small, speed=60)
    dag = small.run(job("a", deadline=Deadline.parse("close+1h")), deadline="close+1h")
    worker = small.worker()
    succeed(small, dag, "a", worker, CLOSE + MINUTE)
    small.close(dag)
    with writing(small.engine) as connection:
        operators.rerun(connection, dag.dag_id, actor="ann")
    assert [due.done_at for due in read(small).values()] == [CLOSE + MINUTE] * 2
    succeed(small, dag, "a", worker, CLOSE + 2 * HOUR)
    small.close(dag)
    assert [(due.done_at, due.missed) for due in read(small).values()] == [
        (CLOSE + MINUTE, False)
    ] * 2


def test_a_run_does_not_wait_for_what_was_skipped(small: World) -> None:
    replay(small, speed=60)
    dag = small.run(job("a"), job("b"), deadline="close+1h")
    succeed(small, dag, "a", small.worker(), CLOSE + MINUTE)
    assert read(small)[None].done_at is None
    with writing(small.engine) as connection:
        operators.skip(connection, dag.dag_id, "b", actor="ann", reason="not today")
    assert read(small)[None].done_at == CLOSE + MINUTE


def test_a_poll_that_found_nothing_is_not_the_end_of_a_sensor(small: World) -> None:
    replay(small, speed=60)
    rule = SensorRule(every=MINUTE, up_to=MINUTE, expected=None, give_up=HOUR, otherwise="fail")
    dag = small.run(job("a", sensor=rule, deadline=Deadline.parse("close+1h")))
    worker = small.worker()
    execution_id = small.running(dag, "a", worker, opens=-timedelta(days=36500))
    with writing(small.engine) as connection:
        executions.poll(connection, execution_id, incarnation=worker, ready=False, found={})
    assert read(small)["a"].done_at is None


def test_a_run_of_the_past_that_an_operator_makes_has_none(small: World) -> None:
    dag = small.run(deadline="close+1h")
    assert read(small)[None].missed
    with writing(small.engine) as connection:
        connection.execute(update(dag_runs).values(trigger="operator"))
    assert read(small) == {}
    made_at = CLOSE + 30 * MINUTE
    small.made(dag, small.now() - made_at)
    assert read(small)[None].missed


def test_a_market_in_trouble_leaves_those_of_others_alone(small: World) -> None:
    due = {"deadline": Deadline.parse("close+1h")}
    small.create(
        DAG(
            "eu_eq_test_2025-12-02",
            [replace(job("a", **due), market_id="EU_EQ")],
            pipeline="test",
            market_id="EU_EQ",
            as_of_date=DAY,
        )
    )
    small.run(job("b", **due))
    assert set(read(small)) == {"a", "b"}
    held, _ = read_declarations(
        {"EU_EQ": {"pre_open": "soon"}}, where=str, grounds="g", shipped=shipped_markets()
    )
    assert held[0].faults
    before = declare(held)
    try:
        assert set(read(small)) == {"b"}
    finally:
        declare(before)
