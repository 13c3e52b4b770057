"""A failed attempt and its successor: written together, within bounds that double."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import insert, text

from prometheus.dispatch.attempts import Attempts
from prometheus.orchestration.planning import SessionRange
from prometheus.persistence import clock, executions
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.executions import (
    Failed,
    FailedForGood,
    Failure,
    NotOurs,
    Refused,
    Retried,
    Started,
)
from prometheus.persistence.runs import new_execution
from prometheus.persistence.tables import job_executions
from tests.integration.persistence.world import (
    BOOM,
    DAY,
    HOUR,
    LOST,
    World,
    at_once,
    dag_of,
    job,
)

MINUTE = timedelta(minutes=1)
LITTLE = timedelta(seconds=1)


class TestSuccessor:
    @pytest.mark.promise("P2")
    def test_failure_and_next_attempt_are_written_together(self, world: World) -> None:
        dag = world.run(job("a", timeout=timedelta(minutes=5)))
        first = world.running(dag, "a", world.worker())
        failure = Failure("ValueError: boom", {"type": "ValueError", "traceback": "..."})
        outcome = world.fail(first, failure, draw=lambda bound: bound // 2)
        before, after = world.rows(dag.dag_id)
        assert outcome == Retried(dag.dag_id, after.execution_id, 1, 30.0)
        assert (before.status, before.error_message) == ("FAILED", "ValueError: boom")
        assert before.error_details == {"type": "ValueError", "traceback": "..."}
        assert (after.status, after.attempt_number, after.retries) == ("QUEUED", 2, 1)
        assert (after.retry_bound_seconds, after.retry_delay_seconds) == (60, 30)
        assert (after.window_opens_at, after.window_closes_at) == (
            before.window_opens_at,
            before.window_closes_at,
        )
        assert (after.queue, after.priority, after.timeout_seconds) == ("US_EQ", 2, 300)
        failed_at = after.scheduled_at - timedelta(seconds=30)
        assert before.started_at <= failed_at <= before.completed_at
        assert after.scheduled_market_at == after.scheduled_at
        assert after.published_at is None
        assert after.started_at is None

    def test_bound_doubles_with_each_retry_up_to_the_cap_and_is_kept(self, world: World) -> None:
        dag = world.run(
            job(
                "a",
                max_retries=7,
                retry_base=timedelta(seconds=10),
                retry_cap=timedelta(seconds=100),
            )
        )
        worker = world.worker()
        asked: list[int] = []

        def draw(bound: int) -> int:
            asked.append(bound)
            return 0

        for _ in range(7):
            assert isinstance(world.fail(world.running(dag, "a", worker), draw=draw), Retried)
        assert asked == [10, 20, 40, 80, 100, 100, 100]
        rows = world.rows(dag.dag_id)
        assert [row.retry_bound_seconds for row in rows] == [None, *asked]
        assert [row.attempt_number for row in rows] == list(range(1, 9))
        assert [row.retries for row in rows] == list(range(8))

    def test_a_job_that_fails_twice_and_then_succeeds_leaves_three_rows(self, world: World) -> None:
        dag = world.run()
        worker = world.worker()
        for _ in range(2):
            world.fail(world.running(dag, "a", worker), draw=lambda _: 0)
        world.finish(dag, worker, "a")
        assert [row.status for row in world.rows()] == ["FAILED", "FAILED", "SUCCESS"]

    def test_successor_of_a_forced_execution_is_forced(self, world: World) -> None:
        dag = world.run()
        world.change(world.ids(dag)["a"], forced=True)
        execution_id = world.running(
            dag, "a", world.worker(), opens=-2 * HOUR, closes=-HOUR, forced=True
        )
        assert isinstance(world.fail(execution_id), Retried)
        assert world.latest(dag)["a"].forced

    def test_delays_lie_within_their_bound_and_average_to_half_of_it(self, world: World) -> None:
        """1,000 draws of Celery's own function, through the function that workers call."""
        random.seed(20251202)
        number = 900
        span = timedelta(seconds=number)
        dag = dag_of(*(job(f"j{n}", retry_base=span, retry_cap=span) for n in range(1000)))
        assert world.create(dag)
        now = world.now()
        with writing(world.engine) as connection:
            connection.execute(
                job_executions.update().values(
                    status="RUNNING",
                    scheduled_at=now,
                    started_at=now,
                    window_opens_at=now - HOUR,
                    window_closes_at=now + 10 * HOUR,
                )
            )
        attempts = Attempts(world.engine, max_lost=3, worker_lease=timedelta(seconds=5))
        for row in world.rows():
            assert isinstance(attempts.fail(row.execution_id, BOOM), Retried)
        delays = [r.retry_delay_seconds for r in world.rows() if r.attempt_number == 2]
        assert len(delays) == 1000
        assert min(delays) >= 0
        assert max(delays) <= number
        assert abs(statistics.mean(delays) - number / 2) <= number / 2 * 0.05

    def test_delay_that_celery_drew_is_kept(self, world: World) -> None:
        dag = world.run()
        attempts = Attempts(world.engine, max_lost=3, worker_lease=timedelta(seconds=5))
        outcome = attempts.fail(world.running(dag, "a", world.worker()), BOOM, countdown=17)
        assert isinstance(outcome, Retried)
        assert outcome.countdown == 17
        assert world.latest(dag)["a"].retry_delay_seconds == 17


class TestHandBack:
    def test_row_that_somebody_holds_keeps_no_other_from_being_handed_back(
        self, world: World
    ) -> None:
        if not world.is_postgresql:
            pytest.skip("on SQLite nobody can hold a single row")
        dag = world.run(job("a"), job("b"))
        worker = world.worker()
        held, free = (world.running(dag, name, worker) for name in ("a", "b"))
        attempts = Attempts(world.engine, max_lost=3, worker_lease=timedelta(seconds=5))
        with writing(world.engine) as other:
            other.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            of = job_executions.c.execution_id == held
            other.execute(job_executions.select().where(of).with_for_update())
            attempts.hand_back(worker)
        status = {row.execution_id: row.status for row in world.rows()}
        assert (status[held], status[free]) == ("RUNNING", "FAILED")
        attempts.hand_back(worker)
        assert [row.status for row in world.rows()].count("RUNNING") == 0


class TestNoMore:
    @pytest.mark.parametrize("retries", [0, 2])
    def test_after_max_retries_the_failure_is_final_and_says_so(
        self, world: World, retries: int
    ) -> None:
        dag = world.run(job("a", max_retries=retries))
        worker = world.worker()
        for _ in range(retries):
            world.fail(world.running(dag, "a", worker), draw=lambda _: 0)
        outcome = world.fail(world.running(dag, "a", worker))
        message = (
            f"ValueError: boom (not tried again: attempt {retries + 1}, max_retries is {retries})"
        )
        assert outcome == FailedForGood(dag.dag_id, message)
        assert [row.status for row in world.rows()] == ["FAILED"] * (retries + 1)
        assert world.latest(dag)["a"].error_message == message

    @pytest.mark.promise("P3")
    def test_no_retry_is_scheduled_at_or_past_the_windows_end(self, world: World) -> None:
        worker = world.worker()
        dag = world.run(job("a"), job("b"))
        inside = world.running(dag, "a", worker, closes=10 * MINUTE)
        assert isinstance(world.fail(inside, draw=lambda _: 60), Retried)
        outside = world.running(dag, "b", worker, closes=timedelta(seconds=50))
        end = world.row(outside).window_closes_at
        outcome = world.fail(outside, draw=lambda _: 60)
        assert isinstance(outcome, FailedForGood)
        assert outcome.message.startswith("ValueError: boom (not tried again: the retry at ")
        assert outcome.message.endswith(
            f"UTC would be at or past the end of its window, {end:%Y-%m-%d %H:%M:%S} UTC)"
        )
        assert world.latest(dag)["b"].attempt_number == 1

    def test_retry_at_the_very_end_of_the_window_is_too_late(self, world: World) -> None:
        """On a clock that stands, so that the instants are exact."""
        market_at = datetime(2012, 11, 23, 18, tzinfo=UTC)
        with writing(world.engine) as connection:
            clock.start_replay(
                connection,
                market_at=market_at,
                speed=0,
                only=SessionRange(date(2012, 11, 23), date(2012, 11, 23)),
                markets=["US_EQ"],
            )
        dag = world.run(job("a"), job("b"))
        worker = world.worker()
        ids = world.ids(dag)
        for name in ("a", "b"):
            world.change(
                ids[name],
                status="QUEUED",
                scheduled_at=world.now(),
                window_opens_at=market_at,
                window_closes_at=market_at + MINUTE,
            )
            assert isinstance(world.start(ids[name], worker), Started)
        assert isinstance(world.fail(ids["a"], draw=lambda _: 60), FailedForGood)
        assert isinstance(world.fail(ids["b"], draw=lambda _: 59), Retried)
        row = world.latest(dag)["b"]
        assert row.scheduled_market_at == market_at + timedelta(seconds=59)

    def test_windows_end_keeps_no_forced_run_from_retrying(self, world: World) -> None:
        dag = world.run(forced=True)
        execution_id = world.running(
            dag, "a", world.worker(), opens=-2 * HOUR, closes=-HOUR, forced=True
        )
        assert isinstance(world.fail(execution_id), Retried)

    def test_error_that_says_it_is_hopeless_ends_a_job_with_retries_left(
        self, world: World
    ) -> None:
        dag = world.run(job("a", max_retries=5))
        hopeless = Failure("NoTokenError: no", {"type": "NoTokenError"}, final=True)
        outcome = world.fail(world.running(dag, "a", world.worker()), hopeless)
        message = "NoTokenError: no (not tried again: the error says that it would not help)"
        assert outcome == FailedForGood(dag.dag_id, message)
        assert [row.status for row in world.rows()] == ["FAILED"]


class TestWaitAskedFor:
    """The error names an instant before which trying again does not help."""

    @staticmethod
    def spent(until: datetime) -> Failure:
        return Failure("QuotaSpentError: no", {"type": "QuotaSpentError"}, not_before=until)

    def test_delay_begins_at_the_instant_and_costs_one_retry(self, world: World) -> None:
        dag = world.run()
        until = world.now().replace(microsecond=0) + 20 * MINUTE
        execution_id = world.running(dag, "a", world.worker())
        outcome = world.fail(execution_id, self.spent(until), draw=lambda _: 7)
        before, after = world.rows(dag.dag_id)
        assert isinstance(outcome, Retried)
        assert before.error_message.startswith("QuotaSpentError: no (next try not before ")
        assert timedelta(0) <= after.scheduled_at - until - timedelta(seconds=7) <= LITTLE
        assert after.scheduled_market_at == after.scheduled_at
        assert (after.retries, after.retry_bound_seconds, after.retry_delay_seconds) == (1, 60, 7)

    @pytest.mark.parametrize(
        "until", [lambda now: now + 2 * HOUR, lambda _: datetime.max.replace(tzinfo=UTC)]
    )
    def test_instant_past_the_windows_end_makes_the_failure_final(
        self, world: World, until: Callable[[datetime], datetime]
    ) -> None:
        dag = world.run()
        execution_id = world.running(dag, "a", world.worker())
        outcome = world.fail(execution_id, self.spent(until(world.now())))
        assert isinstance(outcome, FailedForGood)
        assert "would be at or past the end of its window" in outcome.message

    def test_instant_that_has_passed_changes_nothing(self, world: World) -> None:
        dag = world.run()
        execution_id = world.running(dag, "a", world.worker())
        outcome = world.fail(execution_id, self.spent(world.now() - HOUR), draw=lambda _: 30)
        assert isinstance(outcome, Retried)
        assert outcome.countdown == 30
        assert world.rows()[0].error_message == "QuotaSpentError: no"

    def test_replay_passes_it_over(self, world: World) -> None:
        with writing(world.engine) as connection:
            clock.start_replay(
                connection,
                market_at=datetime(2012, 11, 23, 18, tzinfo=UTC),
                speed=60,
                only=SessionRange(date(2012, 11, 23), date(2012, 11, 23)),
                markets=["US_EQ"],
            )
        dag = world.run(forced=True)
        execution_id = world.running(dag, "a", world.worker(), forced=True)
        outcome = world.fail(execution_id, self.spent(world.now() + HOUR), draw=lambda _: 30)
        assert isinstance(outcome, Retried)
        assert outcome.countdown == 0.5


class TestLostWorkers:
    def test_lost_worker_costs_no_retry_and_no_delay(self, world: World) -> None:
        dag = world.run(job("a", max_retries=0))
        outcome = world.fail(
            world.running(dag, "a", world.worker()), LOST, draw=lambda _: pytest.fail("asked")
        )
        assert isinstance(outcome, Retried)
        assert (outcome.retries, outcome.countdown) == (0, 0.0)
        row = world.latest(dag)["a"]
        assert (row.attempt_number, row.retries, row.lost) == (2, 0, 1)
        assert (row.retry_bound_seconds, row.retry_delay_seconds) == (0, 0)
        assert world.rows()[0].error_message == LOST.message

    def test_the_fourth_lost_worker_is_final(self, world: World) -> None:
        dag = world.run(job("a"))
        worker = world.worker()
        for _ in range(3):
            assert isinstance(world.fail(world.running(dag, "a", worker), LOST), Retried)
        outcome = world.fail(world.running(dag, "a", worker), LOST)
        assert isinstance(outcome, FailedForGood)
        assert outcome.message == f"{LOST.message} (not tried again: 4 workers were lost with it)"

    def test_the_two_budgets_are_counted_apart(self, world: World) -> None:
        dag = world.run(job("a", max_retries=2))
        worker = world.worker()
        for failure in (LOST, BOOM, LOST, BOOM, LOST):
            outcome = world.fail(world.running(dag, "a", worker), failure, draw=lambda _: 0)
            assert isinstance(outcome, Retried)
        row = world.latest(dag)["a"]
        assert (row.attempt_number, row.retries, row.lost) == (6, 2, 3)
        # After lost workers the bound goes on where the failures left it.
        assert [r.retry_bound_seconds for r in world.rows()] == [None, 0, 60, 0, 120, 0]
        assert isinstance(world.fail(world.running(dag, "a", worker), BOOM), FailedForGood)

    def test_worker_lost_after_the_window_has_closed_is_final(self, world: World) -> None:
        dag = world.run()
        execution_id = world.running(dag, "a", world.worker())
        world.change(execution_id, window_closes_at=world.now())
        assert isinstance(world.fail(execution_id, LOST), FailedForGood)


class TestLateReports:
    @pytest.mark.promise("P2")
    def test_report_of_another_worker_changes_nothing(self, world: World) -> None:
        dag = world.run()
        worker = world.worker()
        execution_id = world.running(dag, "a", worker)
        before = world.rows()
        assert world.fail(execution_id, incarnation=world.worker()) == NotOurs()
        assert world.rows() == before
        world.change(execution_id, pid=17)
        assert world.fail(execution_id, incarnation=worker, pid=18) == NotOurs()
        assert isinstance(world.fail(execution_id, incarnation=worker, pid=17), Retried)

    def test_second_report_changes_nothing(self, world: World) -> None:
        dag = world.run()
        worker = world.worker()
        execution_id = world.running(dag, "a", worker)
        world.fail(execution_id)
        before = world.rows()
        assert world.fail(execution_id, incarnation=worker) == NotOurs()
        assert world.fail(execution_id, LOST) == NotOurs()
        assert world.succeed(execution_id, worker) is None
        assert world.rows() == before

    def test_failure_of_an_execution_that_does_not_run_changes_nothing(self, world: World) -> None:
        dag = world.run(job("a"), job("b"))
        world.claim(world.starts(dag, "b"))
        before = world.rows()
        for execution_id in (*world.ids(dag).values(), "nobody"):
            assert world.fail(execution_id) == NotOurs()
        assert world.rows() == before

    @pytest.mark.promise("P2")
    def test_failure_told_by_many_at_once_leaves_one_successor(self, world: World) -> None:
        worker = world.worker()
        for number in range(5):
            dag = world.run(day=DAY + timedelta(days=number))
            execution_id = world.running(dag, "a", worker)

            def fail(execution_id: str = execution_id) -> executions.FailOutcome:
                return world.fail(execution_id)

            outcomes = at_once([fail] * 6)
            assert sum(isinstance(outcome, Retried) for outcome in outcomes) == 1
            assert outcomes.count(NotOurs()) == 5
            assert len(world.rows(dag.dag_id)) == 2


class TestTold:
    """The call of ``on_failure``: once for each final failure."""

    def untold(self, world: World, *, since: timedelta = -HOUR) -> list[str]:
        with reading(world.engine) as connection:
            found = executions.untold_failures(connection, ["test"], world.now() + since)
        return [each.execution_id for each in found]

    def test_final_failures_and_expiries_are_told_and_others_are_not(self, world: World) -> None:
        worker = world.worker()
        dag = world.run(job("a", max_retries=0), job("b"), job("c"), job("d"))
        world.fail_for_good(dag, "a", worker)
        world.fail(world.running(dag, "b", worker))
        world.finish(dag, worker, "c")
        assert self.untold(world) == [world.ids(dag)["a"]]
        assert self.untold(world, since=HOUR) == []
        missed = world.run(pipeline="test", day=DAY + timedelta(days=1), missed="missed")
        world.run(pipeline="other", missed="missed")
        assert set(self.untold(world)) == {world.ids(dag)["a"], world.ids(missed)["a"]}

    @pytest.mark.promise("P7")
    def test_final_failure_is_told_although_an_operator_has_asked_for_another_attempt(
        self, world: World
    ) -> None:
        worker = world.worker()
        dag = world.run(job("a", max_retries=0))
        world.fail_for_good(dag, "a", worker)
        (final,) = world.rows()
        row = new_execution(dag, dag.jobs["a"], attempt_number=2, forced=True)
        with writing(world.engine) as connection:
            connection.execute(insert(job_executions).values(**row))
        assert self.untold(world) == [final.execution_id]
        world.change(row["execution_id"], status="QUEUED", scheduled_at=world.now())
        assert isinstance(world.start(row["execution_id"], worker), Started)
        assert isinstance(world.fail(row["execution_id"], LOST), Retried)
        assert self.untold(world) == [final.execution_id]

    def test_of_many_who_take_it_at_once_one_gets_it(self, world: World) -> None:
        worker = world.worker()
        for number in range(3):
            dag = world.run(job("a", max_retries=0), day=DAY + timedelta(days=number))
            world.fail_for_good(dag, "a", worker)
            execution_id = world.ids(dag)["a"]

            def take(execution_id: str = execution_id) -> Failed | None:
                with writing(world.engine) as connection:
                    return executions.take_failure(connection, execution_id)

            taken = [each for each in at_once([take] * 6) if each is not None]
            assert len(taken) == 1
            assert taken[0].attempt.execution_id == execution_id
            assert taken[0].message.startswith("ValueError: boom")
        assert self.untold(world) == []

    def test_who_can_not_read_the_sessions_leaves_it_to_others(
        self, world: World, break_sessions: Callable[[str], None]
    ) -> None:
        dag = world.run(job("a", max_retries=0))
        world.fail_for_good(dag, "a", world.worker())
        execution_id = world.ids(dag)["a"]
        break_sessions("XNYS")
        with writing(world.engine) as connection:
            assert executions.take_failure(connection, execution_id) is None
        assert self.untold(world) == [execution_id]

    def test_execution_that_has_not_failed_is_taken_by_nobody(self, world: World) -> None:
        dag = world.run()
        with writing(world.engine) as connection:
            assert executions.take_failure(connection, world.ids(dag)["a"]) is None
            assert executions.take_failure(connection, "nobody") is None


def test_start_after_a_retry_is_of_the_successor_only(world: World) -> None:
    dag = world.run()
    worker = world.worker()
    first = world.running(dag, "a", worker)
    outcome = world.fail(first, draw=lambda _: 0)
    assert isinstance(outcome, Retried)
    assert world.start(first, worker) == Refused("it is FAILED")
    started = world.start(outcome.successor_id, worker)
    assert isinstance(started, Started)
    assert started.attempt.attempt_number == 2


@pytest.mark.promise("P8")
def test_retry_whose_message_comes_before_its_time_waits_for_another(world: World) -> None:
    """A worker whose clock is ahead takes it from Celery too early."""
    dag = world.run()
    worker = world.worker()
    outcome = world.fail(world.running(dag, "a", worker), draw=lambda _: 30)
    assert isinstance(outcome, Retried)
    with writing(world.engine) as connection:
        executions.mark_published(connection, [outcome.successor_id])
    refused = world.start(outcome.successor_id, worker)
    row = world.row(outcome.successor_id)
    assert refused == Refused(f"it is due at {row.scheduled_at:%Y-%m-%d %H:%M:%S} UTC")
    assert (row.status, row.published_at) == ("QUEUED", None)
    with reading(world.engine) as connection:
        due = executions.unpublished(connection, row.scheduled_at)
        assert [each.execution_id for each in due] == [outcome.successor_id]

    # Where the database's clock was set back, what was written by it is of no day.
    world.change(outcome.successor_id, updated_at=world.now() + MINUTE)
    assert isinstance(world.start(outcome.successor_id, worker), Started)
