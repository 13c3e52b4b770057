"""One execution's way: claimed, published, started, ended; each at most once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, Row, Table, event, func, insert, select, text, update

from prometheus.core.overrides import in_force, put_in_force
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.dag import DAG, JobPriority
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.orchestration.planning import SessionRange
from prometheus.orchestration.windows import Window
from prometheus.persistence import clock, executions, leases, runs
from prometheus.persistence.clock import Now, now_of, read_now
from prometheus.persistence.engine import create_engine, each_alone, reading, writing
from prometheus.persistence.executions import (
    Following,
    NotOurs,
    Publication,
    Refused,
    Started,
    Succeeded,
    Unsettled,
)
from prometheus.persistence.overrides import refresh
from prometheus.persistence.runs import end_waiting
from prometheus.persistence.tables import (
    calendar_overrides,
    dag_runs,
    pauses,
    worker_incarnations,
)
from tests.integration.persistence.world import DAY, HOUR, World, at_once, job
from tests.servers import wait_until

MINUTE = timedelta(minutes=1)


class TestClaim:
    def test_claimed_execution_is_queued_with_its_window(self, world: World) -> None:
        dag = world.run(job("a", priority=JobPriority.CRITICAL, timeout=timedelta(minutes=5)))
        (start,) = world.starts(dag)
        before = world.now()
        assert world.claim([start]) == [
            Publication(start.execution_id, dag.dag_id, "test", "a", "US_EQ", 1, "schedule", 0, 300)
        ]
        row = world.row(start.execution_id)
        assert row.status == "QUEUED"
        assert (row.window_opens_at, row.window_closes_at) == (
            start.window.opens_at,
            start.window.closes_at,
        )
        assert before <= row.scheduled_at <= world.now()
        assert row.scheduled_market_at >= before
        assert row.published_at is None

    def test_each_claim_names_the_pipeline_of_its_own_run(self, world: World) -> None:
        first = world.run(job("a"), pipeline="first")
        second = world.run(job("a"), pipeline="second")
        claimed = world.claim(world.starts(second) + world.starts(first))
        assert [(each.dag_id, each.pipeline) for each in claimed] == [
            (second.dag_id, "second"),
            (first.dag_id, "first"),
        ]

    def test_claims_come_back_in_the_order_of_the_decisions(self, world: World) -> None:
        dag = world.run(*(job(name) for name in "abcdef"))
        starts = world.starts(dag, "d", "a", "f", closes=HOUR) + world.starts(
            dag, "b", "e", closes=2 * HOUR
        )
        assert [each.job_type for each in world.claim(starts)] == ["d", "a", "f", "b", "e"]

    def test_nothing_is_claimed_twice(self, world: World) -> None:
        dag = world.run(job("a"), job("b"))
        old = world.starts(dag)
        assert len(world.claim(old[:1])) == 1
        assert [each.job_type for each in world.claim(old)] == ["b"]
        assert world.claim(old) == []

    def test_nothing_to_claim_is_no_claim(self, world: World) -> None:
        assert world.claim([]) == []

    @pytest.mark.parametrize(
        ("opens", "closes", "claimed"),
        [(-HOUR, HOUR, 1), (MINUTE, HOUR, 0), (-HOUR, -MINUTE, 0), (-HOUR, timedelta(0), 0)],
    )
    @pytest.mark.promise("P3")
    def test_window_must_hold_the_time_of_the_claim(
        self, world: World, opens: timedelta, closes: timedelta, claimed: int
    ) -> None:
        dag = world.run()
        assert len(world.claim(world.starts(dag, opens=opens, closes=closes))) == claimed

    def test_forced_start_is_claimed_whatever_its_window(self, world: World) -> None:
        dag = world.run(job("a"), job("b"))
        early = world.starts(dag, "a", opens=HOUR, closes=2 * HOUR, forced=True)
        late = world.starts(dag, "b", opens=-2 * HOUR, closes=-HOUR, forced=True)
        assert len(world.claim(early + late)) == 2

    def test_run_must_be_open(self, world: World) -> None:
        dag = world.run()
        starts = world.starts(dag)
        with writing(world.engine) as connection:
            connection.execute(
                update(dag_runs).values(status="CANCELLED", completed_at=world.now())
            )
        assert world.claim(starts) == []
        assert world.statuses(dag) == {"a": "PENDING"}

    @pytest.mark.promise("P2")
    def test_each_row_is_claimed_by_exactly_one_of_many(self, world: World) -> None:
        for number in range(5):
            dag = world.run(*(job(f"j{n}") for n in range(24)), day=DAY + timedelta(days=number))
            starts = world.starts(dag)
            # Everybody meets the rows in another order.
            orders = [starts[shift:] + starts[:shift] for shift in range(0, 24, 3)]
            orders += [list(reversed(order)) for order in orders[:2]]

            found = at_once([partial(world.claim, order) for order in orders])
            counted = Counter(each.execution_id for claim in found for each in claim)
            assert counted == dict.fromkeys(world.ids(dag).values(), 1)

    def test_claim_does_not_wait_for_rows_that_another_holds(self, postgresql_url: str) -> None:
        world = World(create_engine(postgresql_url))
        dag = world.run(job("a"), job("b"))
        starts = world.starts(dag)
        with writing(world.engine) as first:
            now = read_now(first)
            assert len(executions.claim(first, starts[:1], now)) == 1
            assert [each.job_type for each in world.claim(starts)] == ["b"]
        assert world.statuses(dag) == {"a": "QUEUED", "b": "QUEUED"}
        world.engine.dispose()


class TestPublished:
    def test_executions_without_a_message_are_found_once_due(self, world: World) -> None:
        dag = world.run(job("a"), job("b", priority=JobPriority.CRITICAL), job("c"))
        world.claim(world.starts(dag, "a", "b"))
        with reading(world.engine) as connection:
            now = leases.wall_time(connection)
            found = executions.unpublished(connection, now)
            assert executions.unpublished(connection, now - MINUTE) == []
            assert executions.waiting_in_queue(connection, now) == []
        assert [each.job_type for each in found] == ["b", "a"]

    def test_message_is_counted_and_stamped(self, world: World) -> None:
        dag = world.run(job("a"))
        world.claim(world.starts(dag))
        execution_id = world.ids(dag)["a"]
        for count in (1, 2):
            with writing(world.engine) as connection:
                executions.mark_published(connection, [execution_id])
            with reading(world.engine) as connection:
                now = leases.wall_time(connection)
                assert executions.unpublished(connection, now) == []
                ((publication, published_at),) = executions.waiting_in_queue(connection, now)
            assert publication.execution_id == execution_id
            assert published_at <= now
            assert world.latest(dag)["a"].publish_count == count

    @pytest.mark.promise("P5")
    def test_message_noted_late_leaves_a_finished_row_as_it_is(self, world: World) -> None:
        dag = world.run()
        worker = world.worker()
        world.finish(dag, worker, "a")
        before = world.rows()
        with writing(world.engine) as connection:
            executions.mark_published(connection, [world.ids(dag)["a"]])
            executions.mark_published(connection, [])
        assert world.rows() == before

    def test_next_due_is_the_first_delay_to_end(self, world: World) -> None:
        worker = world.worker()
        dag = world.run(job("a"), job("b"))
        with reading(world.engine) as connection:
            assert executions.read_news(connection, world.now()).due is None
        for name, delay in (("a", 50), ("b", 20)):
            world.fail(world.running(dag, name, worker), draw=partial(min, delay))
        with reading(world.engine) as connection:
            due = executions.read_news(connection, world.now()).due
            assert due == world.latest(dag)["b"].scheduled_at


class TestClaimToSend:
    def test_messages_that_are_noted_with_a_claim_are_of_one_instant(self, world: World) -> None:
        """Or their places in the queue would follow the order in which rows are written."""
        dag = world.run(*(job(name) for name in "abcdef"))
        starts = world.starts(dag)
        with writing(world.engine) as connection:
            claimed = executions.claim(connection, starts, read_now(connection), to_send=True)
        rows = world.latest(dag).values()
        assert len(claimed) == len(rows) == 6
        assert {row.publish_count for row in rows} == {1}
        (instant,) = {row.published_at for row in rows}
        assert instant is not None


class TestStart:
    def test_started_execution_runs_in_its_workers_name(self, world: World) -> None:
        dag = world.run(job("a", timeout=timedelta(minutes=5)))
        worker = world.worker()
        world.claim(world.starts(dag))
        execution_id = world.ids(dag)["a"]
        before = world.now()
        started = world.start(execution_id, worker)
        assert isinstance(started, Started)
        attempt = started.attempt
        assert (attempt.execution_id, attempt.attempt_number) == (execution_id, 1)
        assert attempt.parameters == {"answer": 42}
        assert attempt.job == dag.jobs["a"]
        assert attempt.dag.dag_id == dag.dag_id
        row = world.row(execution_id)
        assert (row.status, row.worker, row.incarnation) == ("RUNNING", "w@h", worker)
        assert before <= row.started_at <= world.now()
        assert row.started_market_at >= before
        limit = timedelta(minutes=5, seconds=30)
        assert before + limit <= row.hard_limit_at <= row.started_at + limit

    @pytest.mark.promise("P2")
    def test_one_of_many_starts_it(self, world: World) -> None:
        workers = [world.worker() for _ in range(8)]
        for number in range(5):
            dag = world.run(day=DAY + timedelta(days=number))
            world.claim(world.starts(dag))
            execution_id = world.ids(dag)["a"]

            outcomes = at_once([partial(world.start, execution_id, worker) for worker in workers])
            assert sum(isinstance(each, Started) for each in outcomes) == 1
            reasons = {each.reason for each in outcomes if isinstance(each, Refused)}
            assert reasons <= {
                "it is RUNNING",
                (
                    "another worker was first, this one was given up, the clock was set back, "
                    "or its time just passed"
                ),
            }

    @pytest.mark.parametrize("status", sorted(set(JobStatus) - {JobStatus.QUEUED}))
    @pytest.mark.promise("P8")
    def test_only_a_queued_execution_starts(self, world: World, status: JobStatus) -> None:
        dag = world.run()
        (start,) = world.starts(dag)
        now = world.now()
        final = status not in (JobStatus.PENDING, JobStatus.RUNNING)
        world.change(
            start.execution_id,
            status=status,
            scheduled_at=now,
            started_at=now,
            completed_at=now if final else None,
        )
        before = world.rows()
        assert world.start(start.execution_id, world.worker()) == Refused(f"it is {status}")
        assert world.rows() == before

    def test_unknown_execution_does_not_start(self, world: World) -> None:
        assert world.start("nobody", world.worker()) == Refused("there is no such execution")

    @pytest.mark.promise("P3")
    def test_window_that_has_closed_expires_the_execution(self, world: World) -> None:
        dag = world.run()
        world.claim(world.starts(dag, opens=-2 * HOUR, closes=-HOUR, forced=True))
        row = world.latest(dag)["a"]
        refused = world.start(row.execution_id, world.worker())
        assert isinstance(refused, Refused)
        assert refused.expired == dag.dag_id
        expired = world.latest(dag)["a"]
        assert expired.status == "EXPIRED"
        assert expired.error_message == refused.reason
        assert refused.reason == (
            f"its window closed at {row.window_closes_at:%Y-%m-%d %H:%M:%S} UTC"
        )

    @pytest.mark.promise("P3")
    def test_execution_whose_window_is_yet_to_open_stays_queued(self, world: World) -> None:
        dag = world.run()
        world.claim(world.starts(dag, opens=HOUR, closes=2 * HOUR, forced=True))
        refused = world.start(world.ids(dag)["a"], world.worker())
        assert isinstance(refused, Refused)
        assert refused.reason.startswith("its window opens at ")
        assert refused.expired is None
        assert world.statuses(dag) == {"a": "QUEUED"}

    @pytest.mark.promise("P3")
    def test_window_that_closes_while_the_worker_stands_still_starts_nothing(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dag = world.run()
        world.claim(world.starts(dag, closes=timedelta(seconds=1)))
        row = world.latest(dag)["a"]

        def load_slowly(connection: Connection, *args: str) -> DAG:
            closed = lambda: leases.wall_time(connection) >= row.window_closes_at  # noqa: E731
            wait_until(closed, timeout=30, message="its window closes")
            return runs.load_dag(connection, *args)

        monkeypatch.setattr("prometheus.persistence.executions.load_dag", load_slowly)
        refused = world.start(row.execution_id, world.worker())
        assert isinstance(refused, Refused)
        assert refused.reason.endswith("its time just passed")
        assert world.statuses(dag) == {"a": "QUEUED"}

    @pytest.mark.promise("P3")
    def test_clock_that_is_set_back_to_before_the_window_as_a_worker_looks_starts_nothing(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dag = world.run()
        world.claim(world.starts(dag, opens=HOUR, closes=2 * HOUR, forced=True))
        worker = world.worker()

        def read_early(row: Row[Any]) -> Now:
            now = now_of(row)
            return replace(
                now, wall_at=now.wall_at + 1.5 * HOUR, market_at=now.market_at + 1.5 * HOUR
            )

        monkeypatch.setattr("prometheus.persistence.executions.now_of", read_early)
        refused = world.start(world.ids(dag)["a"], worker)
        assert isinstance(refused, Refused)
        assert refused.reason.endswith("the clock was set back, or its time just passed")
        assert refused.expired is None
        assert world.statuses(dag) == {"a": "QUEUED"}

    def test_worker_that_stood_still_since_it_looked_starts_nothing(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What it saw, that nobody had paused it for one, may not be so any more."""
        monkeypatch.setattr("prometheus.persistence.executions.PATIENCE_SECONDS", 0.5)
        dag = world.run(forced=True)
        world.claim(world.starts(dag, forced=True))
        row = world.latest(dag)["a"]

        def load_slowly(connection: Connection, *args: str) -> DAG:
            seen_at = leases.wall_time(connection)
            later = lambda: leases.wall_time(connection) - seen_at >= MINUTE / 120  # noqa: E731
            wait_until(later, timeout=30, message="time passes")
            return runs.load_dag(connection, *args)

        monkeypatch.setattr("prometheus.persistence.executions.load_dag", load_slowly)
        refused = world.start(row.execution_id, world.worker())
        assert isinstance(refused, Refused)
        assert refused.reason.endswith("its time just passed")
        assert world.statuses(dag) == {"a": "QUEUED"}

    @pytest.mark.promise("P3")
    def test_window_that_closes_while_the_row_is_held_starts_nothing(
        self, postgresql_url: str
    ) -> None:
        world = World(create_engine(postgresql_url))
        dag = world.run()
        worker = world.worker()
        world.claim(world.starts(dag, closes=timedelta(seconds=1)))
        row = world.latest(dag)["a"]
        waiting = select(func.count()).select_from(text("pg_locks")).where(text("NOT granted"))
        with ThreadPoolExecutor() as threads, writing(world.engine) as holder:
            runs.lock_in_order(holder, [row.execution_id])
            started = threads.submit(world.start, row.execution_id, worker)
            wait_until(lambda: holder.execute(waiting).scalar_one(), timeout=30, message="it waits")
            closed = lambda: world.now() >= row.window_closes_at  # noqa: E731
            wait_until(closed, timeout=30, message="its window closes")
            holder.rollback()
            assert isinstance(started.result(), Refused)
        assert world.statuses(dag) == {"a": "QUEUED"}
        world.engine.dispose()

    @pytest.mark.promise("P2")
    def test_worker_that_is_given_up_while_the_row_is_held_starts_nothing(
        self, postgresql_url: str
    ) -> None:
        world = World(create_engine(postgresql_url))
        dag = world.run()
        worker = world.worker()
        world.claim(world.starts(dag))
        execution_id = world.ids(dag)["a"]
        waiting = select(func.count()).select_from(text("pg_locks")).where(text("NOT granted"))
        with ThreadPoolExecutor() as threads, writing(world.engine) as holder:
            runs.lock_in_order(holder, [execution_id])
            started = threads.submit(world.start, execution_id, worker)
            wait_until(lambda: holder.execute(waiting).scalar_one(), timeout=30, message="it waits")
            with writing(world.engine) as connection:
                leases.end_worker(connection, worker)
            holder.rollback()
            assert isinstance(started.result(), Refused)
        assert world.statuses(dag) == {"a": "QUEUED"}
        world.engine.dispose()

    @pytest.mark.parametrize("opens", [-2 * HOUR, HOUR])
    def test_windows_do_not_count_in_a_forced_run(self, world: World, opens: timedelta) -> None:
        dag = world.run(forced=True)
        world.running(dag, "a", world.worker(), opens=opens, closes=opens + HOUR, forced=True)

    @pytest.mark.parametrize("opens", [-2 * HOUR, HOUR])
    def test_windows_do_not_count_for_a_forced_execution(
        self, world: World, opens: timedelta
    ) -> None:
        dag = world.run()
        world.change(world.ids(dag)["a"], forced=True)
        world.running(dag, "a", world.worker(), opens=opens, closes=opens + HOUR, forced=True)

    def test_worker_that_was_given_up_starts_nothing(self, world: World) -> None:
        dag = world.run()
        world.claim(world.starts(dag))
        execution_id = world.ids(dag)["a"]
        ended = world.worker()
        with writing(world.engine) as connection:
            leases.end_worker(connection, ended)
        for worker in (ended, "never registered"):
            assert world.start(execution_id, worker) == Refused(
                "another worker was first, this one was given up, the clock was set back, "
                "or its time just passed"
            )
        assert world.statuses(dag) == {"a": "QUEUED"}
        assert isinstance(world.start(execution_id, world.worker()), Started)

    def test_worker_whose_lease_ran_out_in_an_outage_starts_until_it_is_given_up(
        self, world: World
    ) -> None:
        dag = world.run()
        world.claim(world.starts(dag))
        late = world.worker(lease=timedelta(seconds=-1))
        assert isinstance(world.start(world.ids(dag)["a"], late), Started)


def _change_run(world: World, dag: DAG, **values: Any) -> None:
    with writing(world.engine) as connection:
        connection.execute(update(dag_runs).where(dag_runs.c.dag_id == dag.dag_id).values(**values))


def _add(world: World, table: Table, **values: Any) -> None:
    with writing(world.engine) as connection:
        connection.execute(insert(table).values(**values))


def _close_session(world: World, session: date) -> None:
    _add(
        world,
        calendar_overrides,
        override_id=1,
        market_id="US_EQ",
        session=session,
        kind="closed",
        reason="r",
        source="s",
        announced_at=world.now(),
        author="a",
    )


def _give_up_workers(world: World) -> None:
    with writing(world.engine) as connection:
        connection.execute(update(worker_incarnations).values(ended_at=world.now()))


def _replay(world: World) -> None:
    with writing(world.engine) as connection:
        only = SessionRange(DAY, DAY)
        at = world.now() - timedelta(days=9)
        clock.start_replay(connection, market_at=at, speed=1, only=only, markets=["US_EQ"])


HINDRANCES: dict[str, Callable[[World, DAG, str], None]] = {
    "its run has ended": lambda world, dag, _: _change_run(
        world, dag, status="CANCELLED", completed_at=world.now()
    ),
    "its market is paused": lambda world, _dag, _: _add(
        world, pauses, market_id="US_EQ", reason="r", author="a"
    ),
    "an override was recorded": lambda world, _dag, _: _close_session(world, DAY),
    "its delay is not over": lambda world, _, key: world.change(
        key, scheduled_at=world.now() + MINUTE, updated_at=world.now()
    ),
    "its window is over": lambda world, _, key: world.change(key, window_closes_at=world.now()),
    "its window is to come": lambda world, _, key: world.change(
        key, window_opens_at=world.now() + MINUTE
    ),
    "it was started": lambda world, _, key: world.change(
        key, status="RUNNING", started_at=world.now()
    ),
    "its worker was given up": lambda world, _dag, _: _give_up_workers(world),
    "market time is another": lambda world, _dag, _: _replay(world),
}


class TestStartInOneStatement:
    """What keeps an execution from starting is tested where it starts."""

    @pytest.fixture
    def world(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
        """One whose jobs have been started here before."""
        monkeypatch.setattr("prometheus.persistence.executions._alike", {})
        world = World(engine)
        before = world.run(day=DAY - timedelta(days=1))
        world.claim(world.starts(before))
        assert isinstance(self.start(world, before, world.worker()), Started)
        known = in_force()
        yield world
        put_in_force(known)

    def start(
        self, world: World, dag: DAG, worker: str, again: bool = False, like: str = "x"
    ) -> Started | Refused | Unsettled:
        execution_id = world.ids(dag)["a"]
        with each_alone(world.engine) as connection:
            return executions.try_start(
                connection,
                execution_id,
                worker="w@h",
                incarnation=worker,
                pid=7,
                again=again,
                like=like,
            )

    @contextmanager
    def changes(self, world: World) -> Iterator[list[str]]:
        """Write down with what each statement of the block begins."""
        found: list[str] = []

        def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            found.append(statement.split()[0])

        event.listen(world.engine, "before_cursor_execute", note)
        yield found
        event.remove(world.engine, "before_cursor_execute", note)

    @pytest.mark.promise("P2")
    def test_it_starts_as_in_two(self, world: World) -> None:
        dag, worker = world.run(), world.worker()
        world.claim(world.starts(dag))
        before = world.now()
        with self.changes(world) as sent:
            started = self.start(world, dag, worker)
        assert isinstance(started, Started)
        assert (sent[-1], sent.count("WITH"), sent.count("UPDATE")) == ("WITH", 1, 0)
        attempt, row = started.attempt, world.latest(dag)["a"]
        assert (attempt.execution_id, attempt.dag.dag_id) == (row.execution_id, dag.dag_id)
        assert (attempt.dag.as_of_date, attempt.job) == (DAY, dag.jobs["a"])
        assert (attempt.parameters, attempt.incarnation) == ({"answer": 42}, worker)
        assert (row.status, row.worker, row.incarnation, row.pid) == ("RUNNING", "w@h", worker, 7)
        assert before <= row.started_market_at <= world.now()
        assert row.named_at is None
        limit = timedelta(seconds=row.timeout_seconds) + executions.HARD_LIMIT_GRACE
        assert before + limit <= row.hard_limit_at <= world.now() + limit

    @pytest.mark.promise("P2")
    def test_one_of_many_starts_what_nobody_ends_meanwhile(self, world: World) -> None:
        expired = 0
        for number in range(20):
            dag = world.run(day=DAY + timedelta(days=number))
            world.claim(world.starts(dag))
            execution_id = world.ids(dag)["a"]
            won: list[str] = []

            def start(worker: str, dag: DAG = dag, won: list[str] = won) -> None:
                if isinstance(self.start(world, dag, worker), Started):
                    won.append(worker)

            starts = [partial(start, world.worker()) for _ in range(4)]
            at_once([*starts, partial(self._expire, world, execution_id)])
            row = world.row(execution_id)
            assert row.status == ("RUNNING" if won else "EXPIRED")
            assert won == ([row.incarnation] if won else [])
            expired += row.status == "EXPIRED"
        assert expired < 20

    def _expire(self, world: World, execution_id: str) -> None:
        with writing(world.engine) as connection:
            end_waiting(connection, {execution_id: "its window closed"}, JobStatus.EXPIRED)

    def test_what_was_started_and_not_heard_of_is_its_own(self, world: World) -> None:
        dag, worker = world.run(), world.worker()
        world.claim(world.starts(dag))
        assert isinstance(self.start(world, dag, worker), Started)
        assert isinstance(self.start(world, dag, worker), Refused)
        assert isinstance(self.start(world, dag, worker, again=True), Started)
        assert isinstance(self.start(world, dag, world.worker(), again=True), Refused)

    @pytest.mark.parametrize("hindrance", HINDRANCES)
    @pytest.mark.promise("P3")
    def test_what_may_not_start_does_not(self, world: World, hindrance: str) -> None:
        dag, worker = world.run(), world.worker()
        world.claim(world.starts(dag))
        execution_id = world.ids(dag)["a"]
        HINDRANCES[hindrance](world, dag, execution_id)
        assert isinstance(self.start(world, dag, worker), Refused | Unsettled)
        assert world.row(execution_id).incarnation is None

    @pytest.mark.parametrize("forced", ["run", "job"])
    def test_what_is_forced_starts_outside_its_window(self, world: World, forced: str) -> None:
        dag, worker = world.run(forced=forced == "run"), world.worker()
        world.claim(world.starts(dag))
        over = {"window_closes_at": world.now(), "forced": forced == "job"}
        world.change(world.ids(dag)["a"], **over)
        with self.changes(world) as sent:
            assert isinstance(self.start(world, dag, worker), Started)
        assert sent[-1] == "WITH"

    def test_run_of_another_market_is_told_apart(self, world: World) -> None:
        dag = world.run()
        _change_run(world, dag, market_id="EU_EQ")
        world.claim(world.starts(dag))
        worker = world.worker()
        with self.changes(world) as sent:
            assert isinstance(self.start(world, dag, worker), Started)
        assert sent[-1] == "UPDATE"

    @pytest.mark.promise("P3")
    def test_run_that_follows_another_calendar_is_told_apart(self, world: World) -> None:
        dag = world.run(calendar_version="2")
        world.claim(world.starts(dag))
        started = self.start(world, dag, world.worker())
        assert isinstance(started, Started)
        assert started.attempt.calendar_version == "2"

    @pytest.mark.promise("P3")
    def test_retry_of_what_ran_when_its_session_was_closed_is_not_started(
        self, world: World
    ) -> None:
        """Its run follows the override, like another that was started here before."""
        session = date(2025, 12, 3)
        _close_session(world, session)
        with writing(world.engine) as connection:
            refresh(connection, read_now(connection))
        followed, worker = TradingCalendar("US_EQ").version, world.worker()
        of = {"calendar_version": followed, "pipeline": "closed"}
        other = world.run(job("a", max_retries=3), day=session - timedelta(days=1), **of)
        world.claim(world.starts(other))
        assert isinstance(self.start(world, other, worker), Started)
        dag = world.run(job("a", max_retries=3), day=session, **of)
        world.claim(world.starts(dag))
        execution_id = world.ids(dag)["a"]
        world.change(execution_id, status="RUNNING", started_at=world.now(), incarnation=worker)
        world.fail(execution_id, draw=lambda bound: 0, incarnation=worker)
        assert world.latest(dag)["a"].status == "QUEUED"
        assert isinstance(self.start(world, dag, worker), Refused)

    def test_row_that_another_holds_is_not_waited_for(self, world: World) -> None:
        if not world.is_postgresql:
            pytest.skip("on SQLite nobody can hold a single row")
        dag, worker = world.run(), world.worker()
        world.claim(world.starts(dag))
        with ThreadPoolExecutor() as threads, writing(world.engine) as other:
            runs.lock_in_order(other, [world.ids(dag)["a"]])
            starting = threads.submit(self.start, world, dag, worker)
            assert isinstance(starting.result(60), Unsettled)

    def test_replay_starts_as_before(self, world: World) -> None:
        _replay(world)
        for number in range(2):
            dag = world.run(forced=True, day=DAY + timedelta(days=number), pipeline="replayed")
            world.claim(world.starts(dag, forced=True))
            worker = world.worker()
            with self.changes(world) as sent:
                assert isinstance(self.start(world, dag, worker, like="replayed"), Started)
            assert "WITH" not in sent

    @pytest.mark.promise("P3")
    def test_what_may_have_a_time_out_is_thought_over(self, world: World) -> None:
        for day, ago in ((DAY, 3 * HOUR), (DAY + timedelta(days=1), 4 * HOUR)):
            dag = world.run(job("a"), run_timeout=4 * HOUR, day=day)
            world.claim(world.starts(dag))
            world.made(dag, ago=ago)
            outcome = self.start(world, dag, world.worker())
            assert isinstance(outcome, Started if day == DAY else Unsettled)


def _end_waiting(world: World, execution_id: str) -> None:
    assert world.end_waiting({execution_id: "r"}, JobStatus.CANCELLED)


CLAIM_HINDRANCES: dict[str, Callable[[World, DAG, str], None]] = {
    **{
        name: HINDRANCES[name]
        for name in (
            "its run has ended",
            "its market is paused",
            "an override was recorded",
            "market time is another",
        )
    },
    "its run follows another calendar": lambda world, dag, _: _change_run(
        world, dag, calendar_version="2"
    ),
    "it was cancelled": lambda world, _dag, key: _end_waiting(world, key),
}


class TestSucceedAndClaim:
    """What keeps an execution from being claimed is tested where it is, with a success."""

    @pytest.fixture(autouse=True)
    def _known(self) -> Iterator[None]:
        known = in_force()
        yield
        put_in_force(known)

    def ending(
        self,
        world: World,
        dag: DAG,
        *job_ids: str,
        opens: timedelta = -HOUR,
        closes: timedelta = HOUR,
    ) -> Callable[[], Succeeded | None]:
        """Start a job; return what reports its success, and claims what follows."""
        worker = world.worker()
        running = world.running(dag, "a", worker)
        now = world.now()
        following = Following(dag, job_ids, Window(now + opens, now + closes), "1", 0)

        def end() -> Succeeded | None:
            with each_alone(world.engine) as connection:
                return executions.succeed_and_claim(
                    connection, running, incarnation=worker, result=None, following=following
                )

        return end

    @pytest.mark.parametrize("hindrance", CLAIM_HINDRANCES)
    @pytest.mark.promise("P3")
    def test_what_may_not_start_is_not_claimed(self, world: World, hindrance: str) -> None:
        dag = world.run(job("a"), job("b", "a"))
        end = self.ending(world, dag, "b")
        CLAIM_HINDRANCES[hindrance](world, dag, world.ids(dag)["b"])
        before = world.latest(dag)["b"]
        assert end() == Succeeded(dag.dag_id)
        assert world.latest(dag)["a"].status == "SUCCESS"
        assert world.latest(dag)["b"] == before

    @pytest.mark.parametrize(("opens", "closes"), [(MINUTE, HOUR), (-HOUR, timedelta(0))])
    @pytest.mark.parametrize("forced", [None, "run", "job"])
    @pytest.mark.promise("P3")
    def test_window_must_hold_the_time_unless_it_is_forced(
        self, world: World, opens: timedelta, closes: timedelta, forced: str | None
    ) -> None:
        dag = world.run(job("a"), job("b", "a"), forced=forced == "run")
        if forced == "job":
            world.change(world.ids(dag)["b"], forced=True)
        done = self.ending(world, dag, "b", opens=opens, closes=closes)()
        assert done is not None
        assert done.decided is (forced is not None)
        assert world.latest(dag)["b"].status == ("QUEUED" if forced else "PENDING")

    def test_row_that_another_holds_is_not_waited_for(self, world: World) -> None:
        if not world.is_postgresql:
            pytest.skip("on SQLite nobody can hold a single row")
        dag = world.run(job("a"), job("b", "a"))
        end = self.ending(world, dag, "b")
        with writing(world.engine) as other:
            runs.lock_in_order(other, [world.ids(dag)["b"]])
            assert end() == Succeeded(dag.dag_id)

    def test_several_are_claimed_in_their_order(self, world: World) -> None:
        dag = world.run(job("a"), *(job(name, "a") for name in "dcb"))
        done = self.ending(world, dag, "c", "d", "b")()
        assert done is not None
        assert [each.job_type for each in done.claimed] == ["c", "d", "b"]
        rows = world.latest(dag)
        stamps = {(row.scheduled_at, row.published_at) for name, row in rows.items() if name != "a"}
        assert len(stamps) == 1


class TestSucceed:
    def test_success_keeps_what_the_job_returned(self, world: World) -> None:
        dag = world.run()
        worker = world.worker()
        execution_id = world.running(dag, "a", worker)
        assert world.succeed(execution_id, worker, {"rows": 5}) == dag.dag_id
        row = world.row(execution_id)
        assert (row.status, row.result) == ("SUCCESS", {"rows": 5})
        assert row.completed_at >= row.started_at

    @pytest.mark.promise("P2")
    def test_only_its_own_worker_reports_success(self, world: World) -> None:
        dag = world.run()
        execution_id = world.running(dag, "a", world.worker())
        before = world.rows()
        assert world.succeed(execution_id, world.worker(), "stolen") is None
        assert world.rows() == before

    def test_success_is_reported_once(self, world: World) -> None:
        dag = world.run()
        worker = world.worker()
        execution_id = world.running(dag, "a", worker)
        assert world.succeed(execution_id, worker, 1) == dag.dag_id
        before = world.rows()
        assert world.succeed(execution_id, worker, 2) is None
        assert world.rows() == before

    def test_success_and_failure_reported_at_once_leave_one_of_them(self, world: World) -> None:
        worker = world.worker()
        for number in range(5):
            dag = world.run(job("a", max_retries=0), day=DAY + timedelta(days=number))
            execution_id = world.running(dag, "a", worker)

            def succeed(execution_id: str = execution_id) -> bool:
                return world.succeed(execution_id, worker) is not None

            def fail(execution_id: str = execution_id) -> bool:
                return not isinstance(world.fail(execution_id, incarnation=worker), NotOurs)

            told = at_once([succeed, fail, succeed, fail])
            assert told.count(True) == 1
            succeeded = told[0] or told[2]
            assert world.statuses(dag) == {"a": "SUCCESS" if succeeded else "FAILED"}


class TestFence:
    def test_attempt_of_this_worker_is_not_fenced(self, world: World) -> None:
        worker = world.worker()
        execution_id = world.running(world.run(), "a", worker)
        with writing(world.engine) as connection:
            assert not executions.fenced(connection, execution_id, worker)

    def test_attempt_that_was_taken_is_fenced(self, world: World) -> None:
        worker = world.worker()
        execution_id = world.running(world.run(), "a", worker)
        with writing(world.engine) as connection:
            assert executions.fenced(connection, execution_id, "another worker")
        world.fail(execution_id)
        with writing(world.engine) as connection:
            assert executions.fenced(connection, execution_id, worker)
