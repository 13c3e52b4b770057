"""
A leader that keeps the open runs notices whatever changes one, however it is written.

At each tick, what it keeps is held against the database, and what it leaves alone against `decide`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, delete, event, func, insert, select, text

from prometheus.core.drafts import Draft, read_draft
from prometheus.core.market_state import MarketState
from prometheus.core.overrides import Overrides, put_in_force
from prometheus.dispatch.open_runs import OpenRuns
from prometheus.dispatch.scheduler import Scheduler
from prometheus.orchestration.dag import DAG
from prometheus.orchestration.lifecycle import RunStatus
from prometheus.orchestration.planning import SessionRange
from prometheus.orchestration.sensor import SensorRule
from prometheus.persistence import clock, executions, operators, pauses
from prometheus.persistence.clock import read_now
from prometheus.persistence.engine import writing
from prometheus.persistence.overrides import lock_overrides, read_overrides, record
from prometheus.persistence.run_changes import TAKEN_AT_ONCE
from prometheus.persistence.tables import dag_runs, run_changes
from tests.integration.dispatch.schedulers import RecordingBroker, make_scheduler
from tests.integration.persistence.world import World, job
from tests.servers import wait_until
from tests.simulation.open_runs import CheckedOpenRuns

WHY: dict[str, Any] = {"actor": "ada", "reason": "a test"}
SENSOR = SensorRule(
    every=timedelta(minutes=5),
    up_to=timedelta(minutes=15),
    expected=None,
    give_up=timedelta(hours=6),
    otherwise="fail",
)
LATER: dict[str, Any] = {"required_state": MarketState.POST_CLOSE}


class Desk(World):
    """A database whose market clock stands in the SESSION of 2025-12-02, and who leads on it."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.turn(datetime(2025, 12, 2, 18, tzinfo=UTC))
        self.incarnation = self.worker()
        self.leader = self.make_leader()

    def make_leader(self) -> Scheduler:
        leader = make_scheduler(self.engine, RecordingBroker(), markets=["US_EQ"], election=True)
        leader._open = CheckedOpenRuns({"US_EQ"}, leader._previous_run, self.engine)
        return leader

    def turn(self, market_at: datetime) -> None:
        only = SessionRange(date(2025, 12, 1), date(2025, 12, 5))
        with writing(self.engine) as connection:
            clock.start_replay(
                connection, market_at=market_at, speed=1, only=only, markets=["US_EQ"]
            )

    def write(self, act: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        with writing(self.engine) as connection:
            act(connection, *arguments, **options)

    def settle(self) -> None:
        """Tick until there is nothing to do."""
        self.leader.tick()
        while self.leader._open.sums().restless:
            self.leader.tick()

    def finish(self, dag: DAG, incarnation: str, *job_ids: str) -> None:
        """Run jobs to SUCCESS; the scheduler starts one after the other."""
        for name in job_ids:
            while self.statuses(dag)[name] == "PENDING":
                self.leader.tick()
            super().finish(dag, incarnation, name)

    def become(self, dag: DAG, **wanted: str) -> None:
        """Tick once, and see what has become of jobs."""
        self.leader.tick()
        assert {name: self.statuses(dag)[name] for name in wanted} == wanted


@pytest.fixture
def desk(engine: Engine) -> Iterator[Desk]:
    put_in_force(Overrides())
    yield Desk(engine)
    put_in_force(Overrides())


@pytest.fixture
def chain(desk: Desk) -> DAG:
    """A run whose first job is QUEUED."""
    dag = desk.run(job("a", max_retries=0), job("b", "a"))
    desk.settle()
    assert desk.statuses(dag) == {"a": "QUEUED", "b": "PENDING"}
    return dag


def test_run_that_is_made(desk: Desk, chain: DAG) -> None:
    desk.become(desk.run(job("x"), pipeline="other"), x="QUEUED")


def test_job_that_succeeds(desk: Desk, chain: DAG) -> None:
    desk.finish(chain, desk.incarnation, "a")
    desk.become(chain, b="QUEUED")


def test_job_that_fails_and_is_retried(desk: Desk, chain: DAG) -> None:
    desk.fail_for_good(chain, "a", desk.incarnation)
    desk.become(chain, b="SKIPPED")
    desk.settle()
    assert desk.run_status(chain) is RunStatus.FAILED
    desk.write(operators.retry, chain.dag_id, "a", **WHY)
    desk.become(chain, a="QUEUED", b="PENDING")


def test_run_that_is_run_again(desk: Desk, chain: DAG) -> None:
    desk.finish(chain, desk.incarnation, "a", "b")
    desk.settle()
    assert desk.run_status(chain) is RunStatus.SUCCESS
    desk.write(operators.rerun, chain.dag_id, **WHY)
    desk.become(chain, a="QUEUED", b="PENDING")


def test_job_that_is_skipped(desk: Desk, chain: DAG) -> None:
    desk.write(operators.skip, chain.dag_id, "a", **WHY)
    desk.become(chain, b="SKIPPED")


def test_job_that_counts_as_succeeded(desk: Desk, chain: DAG) -> None:
    desk.write(operators.force_success, chain.dag_id, "a", **WHY)
    desk.become(chain, b="QUEUED")


def test_job_that_is_cancelled(desk: Desk, chain: DAG) -> None:
    desk.write(operators.cancel, chain.dag_id, "a", **WHY)
    desk.become(chain, b="SKIPPED")


def test_job_that_is_held_and_released(desk: Desk, chain: DAG) -> None:
    desk.write(pauses.hold, chain.dag_id, "b", **WHY)
    desk.finish(chain, desk.incarnation, "a")
    desk.become(chain, b="PENDING")
    desk.settle()
    desk.write(pauses.release, chain.dag_id, "b", **WHY)
    desk.become(chain, b="QUEUED")


def test_market_that_is_paused_and_resumed(desk: Desk, chain: DAG) -> None:
    execution_id = desk.running(chain, "a", desk.incarnation)
    desk.write(pauses.pause, market_id="US_EQ", **WHY)
    desk.succeed(execution_id, desk.incarnation)
    desk.become(chain, b="PENDING")
    desk.settle()
    desk.write(pauses.resume, market_id="US_EQ", **WHY)
    desk.become(chain, b="QUEUED")


def test_pause_that_ends_by_itself(desk: Desk, chain: DAG) -> None:
    until = desk.now() + timedelta(seconds=2)
    desk.write(pauses.hold, chain.dag_id, "b", until=until, **WHY)
    desk.finish(chain, desk.incarnation, "a")
    desk.become(chain, b="PENDING")
    wait_until(lambda: desk.now() > until, timeout=10, message="the pause is over")
    desk.become(chain, b="QUEUED")


def test_window_that_opens_and_one_that_closes(desk: Desk) -> None:
    dag = desk.run(job("a", **LATER), job("b", "a", **LATER))
    desk.settle()
    desk.become(dag, a="PENDING")
    desk.turn(datetime(2025, 12, 2, 21, tzinfo=UTC))
    desk.become(dag, a="QUEUED")
    desk.settle()
    desk.turn(datetime(2025, 12, 4, 18, tzinfo=UTC))
    desk.become(dag, a="EXPIRED", b="EXPIRED")


def test_run_that_has_had_its_time(desk: Desk) -> None:
    dag = desk.run(job("a"), run_timeout=timedelta(seconds=3))
    desk.leader.tick()
    execution_id = desk.running(dag, "a", desk.incarnation)
    desk.settle()
    assert desk.row(execution_id).cancel_asked_at is None

    def is_asked() -> bool:
        desk.leader.tick()
        return desk.row(execution_id).cancel_asked_at is not None

    wait_until(is_asked, timeout=10, message="the job is asked to end")


def test_calendar_that_is_overridden(desk: Desk, chain: DAG) -> None:
    with writing(desk.engine) as connection:
        lock_overrides(connection)
        draft = Draft(
            target="US_EQ",
            session="2025-12-02",
            kind="closed",
            close=None,
            reason="storm",
            source="nyse.com",
            author="ada",
        )
        found = read_overrides(connection)
        record(connection, read_draft(draft, found, now=read_now(connection).market_at))
    desk.become(chain, a="CANCELLED", b="CANCELLED")


def two_sessions(desk: Desk) -> tuple[DAG, DAG]:
    jobs = job("a"), job("b", "a", after_previous=True)
    before, after = (desk.run(*jobs, day=date(2025, 12, day), forced=True) for day in (1, 2))
    desk.settle()
    desk.finish(after, desk.incarnation, "a")
    desk.settle()
    desk.become(after, b="PENDING")
    return before, after


def test_session_before_that_finishes(desk: Desk) -> None:
    before, after = two_sessions(desk)
    desk.finish(before, desk.incarnation, "a", "b")
    desk.become(after, b="QUEUED")


def test_session_before_that_is_removed(desk: Desk) -> None:
    before, after = two_sessions(desk)
    desk.write(Connection.execute, delete(dag_runs).where(dag_runs.c.dag_id == before.dag_id))
    desk.become(after, b="QUEUED")


def test_sensor_that_is_polled(desk: Desk) -> None:
    dag = desk.run(job("ready", sensor=SENSOR), job("prices", "ready"))
    desk.settle()
    for ready, then in ((False, "PENDING"), (True, "QUEUED")):
        execution_id = desk.ids(dag)["ready"]
        desk.change(execution_id, scheduled_at=desk.now())  # its next poll is not awaited
        desk.running(dag, "ready", desk.incarnation)
        desk.settle()
        desk.write(
            executions.poll, execution_id, incarnation=desk.incarnation, ready=ready, found={}
        )
        desk.become(dag, prices=then)


def test_change_that_is_committed_long_after_it_was_made(desk: Desk, chain: DAG) -> None:
    if not desk.is_postgresql:
        pytest.skip("on SQLite nobody else writes meanwhile")
    execution_id = desk.running(chain, "a", desk.incarnation)
    desk.settle()
    with writing(desk.engine) as connection:
        executions.succeed(connection, execution_id, incarnation=desk.incarnation, result={})
        desk.finish(desk.run(job("x"), pipeline="other"), desk.incarnation, "x")
        desk.settle()
        desk.become(chain, a="RUNNING", b="PENDING")
    desk.become(chain, b="QUEUED")


def test_leader_that_takes_over_and_one_that_comes_back(desk: Desk, chain: DAG) -> None:
    first, desk.leader = desk.leader, desk.make_leader()
    first.resign()
    desk.finish(chain, desk.incarnation, "a")
    desk.become(chain, b="QUEUED")
    desk.settle()
    desk.leader.resign()
    desk.finish(chain, desk.incarnation, "b")
    desk.leader = first
    desk.become(chain, b="SUCCESS")
    assert desk.run_status(chain) is RunStatus.SUCCESS


def test_leader_that_comes_back_when_another_has_ended_all(desk: Desk, chain: DAG) -> None:
    first, desk.leader = desk.leader, desk.make_leader()
    first.resign()
    desk.finish(chain, desk.incarnation, "a", "b")
    desk.settle()
    assert desk.run_status(chain) is RunStatus.SUCCESS
    desk.settle()
    desk.leader.resign()
    first.tick()
    assert not first.advance().busy


def test_one_that_ticks_without_election_takes_nothing_from_a_leader(
    desk: Desk, chain: DAG
) -> None:
    desk.finish(chain, desk.incarnation, "a")
    other = make_scheduler(desk.engine, RecordingBroker(), markets=["EU_EQ"])
    other.tick()
    desk.become(chain, b="QUEUED")


def test_what_nobody_takes_does_not_pile_up(desk: Desk, chain: DAG) -> None:
    desk.finish(chain, desk.incarnation, "a")
    with writing(desk.engine) as connection:
        connection.execute(text("DELETE FROM leases"))
    make_scheduler(desk.engine, RecordingBroker(), markets=["EU_EQ"]).tick()
    with writing(desk.engine) as connection:
        assert connection.execute(select(func.count()).select_from(run_changes)).scalar() == 0


def test_leader_whose_tables_are_all_published(desk: Desk, chain: DAG) -> None:
    if not desk.is_postgresql:
        pytest.skip("SQLite publishes nothing")
    with writing(desk.engine) as connection:
        connection.execute(text("CREATE PUBLICATION everything FOR ALL TABLES"))
    desk.finish(chain, desk.incarnation, "a")
    desk.become(chain, b="QUEUED")


def test_change_by_one_who_names_the_schema(desk: Desk, chain: DAG) -> None:
    if not desk.is_postgresql:
        pytest.skip("SQLite has no search_path")
    with writing(desk.engine) as connection:
        connection.execute(text("SET LOCAL search_path = ''"))
        connection.execute(
            text("UPDATE public.job_executions SET status = 'PENDING' WHERE job_id = 'a'")
        )
    desk.become(chain, a="QUEUED")


def test_what_has_piled_up_is_taken_in_parts_by_one_tick(desk: Desk, chain: DAG) -> None:
    desk.finish(chain, desk.incarnation, "a")
    piled_up = [{"dag_id": "long gone"}] * (2 * TAKEN_AT_ONCE + 1)
    with writing(desk.engine) as connection:
        connection.execute(insert(run_changes), piled_up)
    taken: list[int] = []

    def count(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("DELETE FROM run_changes"):
            taken.append(cursor.rowcount)

    event.listen(desk.engine, "after_cursor_execute", count)
    desk.become(chain, b="QUEUED")
    event.remove(desk.engine, "after_cursor_execute", count)
    assert len(taken) == 3
    assert max(taken) <= TAKEN_AT_ONCE


def test_quiet_tick_reads_no_run(desk: Desk, chain: DAG) -> None:
    desk.leader._open = OpenRuns({"US_EQ"}, desk.leader._previous_run)  # the other compares
    desk.settle()
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    event.listen(desk.engine, "before_cursor_execute", note)
    desk.leader.tick()
    event.remove(desk.engine, "before_cursor_execute", note)
    assert [each for each in asked if "calendar_version" in each or "attempt_number" in each] == []
    verbs = [each.split()[0] for each in asked]
    # The lead, and whether there is anything to do.
    assert [each for each in verbs if each not in ("PRAGMA", "BEGIN")] == ["UPDATE", "SELECT"]
