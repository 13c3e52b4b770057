"""The checker on rows that the product wrote, on both databases."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text, update

from prometheus.core.market_state import MarketState
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.scheduler import Pace, Scheduler
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.planning import SessionRange
from prometheus.persistence import executions, leases, operators, pauses, tables
from prometheus.persistence.clock import start_replay
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.executions import Failure, Started
from prometheus.verification import Expectation, Report, StartRecord, check
from tests.history_triggers import record_changes
from tests.integration.dispatch.schedulers import RecordingBroker, make_scheduler, register_worker
from tests.integration.persistence.world import LOST, World, job

FIRST, LAST = date(2012, 11, 21), date(2012, 11, 26)
EXPECTED = Expectation({"small": ["US_EQ", "EU_EQ"]}, FIRST, LAST)


def checked(engine: Engine, **asked: Any) -> Report:
    with reading(engine) as connection:
        return check(connection, **asked)


def rules(engine: Engine, **asked: Any) -> set[str]:
    return {violation.rule for violation in checked(engine, **asked).violations}


def break_it(engine: Engine, statement: str) -> None:
    with writing(engine) as connection:
        assert connection.execute(text(statement)).rowcount > 0


class Floor:
    """A replay in this process: the product's scheduler, and the test as its worker."""

    def __init__(self, engine: Engine) -> None:
        small = Pipeline("small", markets=["US_EQ", "EU_EQ"])
        small.add("nowhere:prices", required_state=MarketState.POST_CLOSE, retry_base="1s")
        small.add("nowhere:returns", after=["prices"], after_previous=True)
        small.add(
            "nowhere:report", required_state=MarketState.SESSION, window="state", max_retries=0
        )
        self.engine = engine
        self.broker = RecordingBroker()
        with writing(engine) as connection:
            start_replay(
                connection,
                market_at=min(
                    TradingCalendar(name).phases(FIRST).pre_open_at for name in small.markets
                ),
                speed=0,
                only=SessionRange(FIRST, LAST),
                markets=list(small.markets),
            )
        self.scheduler: Scheduler = make_scheduler(
            engine,
            self.broker,
            pipelines={"small": small},
            create_runs=True,
            # Retries are sent by the tick here, for want of a Celery that does.
            pace=Pace(publish_after=timedelta(0)),
        )
        self.incarnation = register_worker(engine)
        self.starts: list[StartRecord] = []

    def work(self) -> None:
        """Run everything to its end; some attempts fail, and one worker is lost."""
        for _ in range(200):
            self.scheduler.tick()
            waiting, self.broker.published = self.broker.published, []
            for each in waiting:
                self._run(each.execution_id)
            if self._closed() == 7:
                return
        raise AssertionError("the replay did not end")

    def _closed(self) -> int:
        with reading(self.engine) as connection:
            number = text("SELECT count(*) FROM dag_runs WHERE status <> 'OPEN'")
            return int(connection.execute(number).scalar_one())

    def _run(self, execution_id: str) -> None:
        with writing(self.engine) as connection:
            started = executions.start(
                connection, execution_id, worker="w", incarnation=self.incarnation
            )
        if not isinstance(started, Started):
            return
        self.starts.append(StartRecord(execution_id, datetime.now(UTC)))
        attempt = started.attempt
        number = attempt.attempt_number
        fails = attempt.job.job_id == "prices" and attempt.dag.as_of_date.day == 23 and number < 3
        fails |= attempt.job.job_id == "report" and attempt.dag.market_id == "EU_EQ"
        with writing(self.engine) as connection:
            if fails:
                failure = LOST if number == 2 else Failure("ValueError: no", {"type": "ValueError"})
                executions.fail(
                    connection, execution_id, failure, draw_delay=lambda _: 0, max_lost=3
                )
            else:
                executions.succeed(
                    connection, execution_id, incarnation=self.incarnation, result=None
                )


@pytest.fixture
def floor(engine: Engine) -> Floor:
    record_changes(engine)
    made = Floor(engine)
    made.work()
    return made


class TestReplay:
    def test_what_the_scheduler_wrote_is_sound(self, floor: Floor) -> None:
        report = checked(floor.engine, starts=floor.starts, expect=EXPECTED)
        assert report.violations == ()
        counts = report.counts
        # Thanksgiving: New York had no session on the 22nd.
        assert (counts.runs, counts.jobs, counts.executions) == (7, 21, 25)
        assert counts.without_success == {"failed: no retry was left": 4}
        assert counts.windows == 25
        assert counts.starts == 25
        assert counts.changes > 75

    @pytest.mark.parametrize(
        ("statement", "found"),
        [
            (
                (
                    "UPDATE job_executions SET started_market_at = '2012-11-23 17:59:00+00:00'"
                    " WHERE job_id = 'prices' AND dag_id = 'us_eq_small_2012-11-23'"
                ),
                {"outside-window", "changed-after-end"},
            ),
            ("DELETE FROM dag_runs WHERE dag_id = 'eu_eq_small_2012-11-22'", {"run-missing"}),
            (
                "UPDATE dag_runs SET status = 'SUCCESS' WHERE dag_id = 'eu_eq_small_2012-11-22'",
                {"run-status"},
            ),
            (
                (
                    "UPDATE dag_runs SET status = 'OPEN', completed_at = NULL "
                    "WHERE dag_id = 'eu_eq_small_2012-11-22'"
                ),
                {"unfinished"},
            ),
            (
                "UPDATE job_executions SET error_message = 'x' WHERE status = 'FAILED'",
                {"changed-after-end", "not-retried", "counters"},
            ),
        ],
    )
    def test_what_was_changed_afterwards_is_found(
        self, floor: Floor, statement: str, found: set[str]
    ) -> None:
        if floor.engine.dialect.name == "sqlite":
            statement = statement.replace("+00:00", ".000000")
        break_it(floor.engine, statement)
        assert found <= rules(floor.engine, starts=floor.starts, expect=EXPECTED)

    def test_a_second_run_of_one_execution_is_found(self, floor: Floor) -> None:
        again = [*floor.starts, floor.starts[0]]
        assert rules(floor.engine, starts=again) == {"doubled-start"}


class TestOperators:
    def test_retries_and_cancels_are_sound(self, world: World) -> None:
        record_changes(world.engine)
        dag = world.run(
            job("a", max_retries=0), job("b", "a"), job("c", "b", "d"), job("d"), job("e", "d")
        )
        worker = world.worker()
        world.fail_for_good(dag, "a", worker)
        ids = world.ids(dag)
        world.end_waiting({ids["b"]: "upstream a is FAILED", ids["c"]: "b is"}, JobStatus.SKIPPED)
        world.finish(dag, worker, "d", "e")
        world.close(dag)
        with writing(world.engine) as connection:
            operators.retry(connection, dag.dag_id, actor="ann@desk")
        world.finish(dag, worker, "a", "b", "c")
        world.close(dag)
        other = world.run(job("a"), job("b", "a"), pipeline="other")
        with writing(world.engine) as connection:
            operators.cancel(connection, other.dag_id, actor="ann@desk")
        report = checked(world.engine)
        assert report.violations == ()
        assert report.counts.successes == 5
        assert report.counts.without_success == {"cancelled": 2}

    def test_skips_and_forced_successes_are_sound(self, world: World) -> None:
        record_changes(world.engine)
        dag = world.run(job("a", max_retries=0), job("b", "a"), job("c"), job("d", "c"))
        worker = world.worker()
        world.fail_for_good(dag, "a", worker)
        world.end_waiting({world.ids(dag)["b"]: "upstream a is FAILED"}, JobStatus.SKIPPED)
        with writing(world.engine) as connection:
            operators.skip(connection, dag.dag_id, "d", actor="ann@desk", reason="no data")
            for each in ("a", "c"):
                operators.force_success(
                    connection, dag.dag_id, each, actor="ann@desk", reason="by hand"
                )
        world.finish(dag, worker, "b")
        world.close(dag)
        # What an operator has skipped stays so.
        assert world.statuses(dag) == {
            "a": "SUCCESS", "b": "SUCCESS", "c": "SUCCESS", "d": "SKIPPED",
        }  # fmt: skip
        starts = [
            StartRecord(row.execution_id, row.started_at)
            for row in world.rows(dag.dag_id)
            if row.worker is not None
        ]
        assert checked(world.engine, starts=starts).violations == ()
        break_it(world.engine, "DELETE FROM audit WHERE action = 'force_success'")
        assert {"columns", "operator-without-audit", "success-without-start"} <= rules(
            world.engine, starts=starts
        )

    def test_what_is_paused_waits_and_a_start_meanwhile_is_found(self, world: World) -> None:
        dag = world.run(job("a"), job("b"))
        worker = world.worker(lease=timedelta(hours=1))
        world.claim(world.starts(dag, "a"))
        with writing(world.engine) as connection:
            pauses.pause(connection, market_id="US_EQ", reason="a bad feed", actor="ann@desk")
            pauses.hold(connection, dag.dag_id, "b", reason="wait", actor="ann@desk")
        later = world.now() + timedelta(minutes=20)
        assert "stuck" not in rules(world.engine, finished=False, now=later)
        break_it(world.engine, "DELETE FROM pauses WHERE dag_id IS NULL")
        assert "stuck" in rules(world.engine, finished=False, now=later)
        break_it(world.engine, "DELETE FROM pauses")
        world.finish(dag, worker, "b")
        assert "started-paused" not in rules(world.engine, finished=False)
        with writing(world.engine) as connection:
            pauses.pause(connection, market_id="US_EQ", reason="a bad feed", actor="ann@desk")
            connection.execute(
                update(tables.pauses).values(paused_at=world.now() - timedelta(hours=1))
            )
        assert "started-paused" in rules(world.engine, finished=False)

    def test_an_attempt_that_nobody_asked_for_is_found(self, world: World) -> None:
        dag = world.run(job("a"))
        worker = world.worker()
        world.finish(dag, worker, "a")
        world.close(dag)
        with writing(world.engine) as connection:
            operators.rerun(connection, dag.dag_id, actor="ann@desk")
        world.finish(dag, worker, "a")
        world.close(dag)
        assert checked(world.engine).counts.again == 1
        break_it(world.engine, "DELETE FROM audit")
        assert rules(world.engine) == {"operator-without-audit"}

    def test_what_is_open_is_let_be_while_work_goes_on(self, world: World) -> None:
        dag = world.run(job("a"), job("b", "a"))
        world.running(dag, "a", world.worker())
        assert rules(world.engine) == {"unfinished"}
        assert rules(world.engine, finished=False) == set()


class TestFinalFailures:
    def test_what_the_product_says_of_them_is_true(self, world: World) -> None:
        dag = world.run(
            job("retries", max_retries=0), job("lost"), job("window"), job("waits"), job("no_help"),
            run_timeout=timedelta(hours=3),
        )  # fmt: skip
        other = world.run(job("run"), pipeline="other", run_timeout=timedelta(seconds=50))
        worker = world.worker()
        world.fail(world.running(dag, "retries", worker))
        for _ in range(3):
            world.fail(world.running(dag, "lost", worker), LOST, max_lost=2)
        world.fail(world.running(dag, "window", worker, closes=timedelta(seconds=50)))
        tomorrow = world.now() + timedelta(days=1)
        waits = Failure("SpentError: no", {"type": "SpentError"}, not_before=tomorrow)
        world.fail(world.running(dag, "waits", worker), waits)
        barred = Failure("BarredError: no", {"type": "BarredError"}, final=True)
        world.fail(world.running(dag, "no_help", worker), barred)
        world.fail(world.running(other, "run", worker))
        world.close(dag)
        world.close(other)
        report = checked(world.engine, max_lost=2)
        assert report.violations == ()
        assert report.counts.without_success == {
            "failed: its error said that trying again would not help": 1,
            "failed: its workers were lost too often": 1,
            "failed: no retry was left": 1,
            "failed: no time was left in its run": 1,
            "failed: no time was left in its window": 2,
        }
        assert rules(world.engine, max_lost=3) == {"not-retried"}
        for job_id in ("window", "run"):
            break_it(
                world.engine,
                "UPDATE job_executions SET error_message = 'no (not tried again: soon)'"
                f" WHERE job_id = '{job_id}'",
            )
        assert rules(world.engine) == {"not-retried"}

    @pytest.mark.parametrize("ended", [True, False])
    def test_an_attempt_that_is_taken_from_a_worker_that_is_there_is_found(
        self, world: World, ended: bool
    ) -> None:
        dag = world.run(job("a", max_retries=0))
        worker = world.worker(lease=timedelta(0))
        execution_id = world.running(dag, "a", worker)
        with writing(world.engine) as connection:
            now = leases.wall_time(connection)
            if ended:
                leases.give_up_workers(connection, now)
            (orphan,) = leases.find_orphans(connection, now, over_limit_by=timedelta(minutes=1))
        lost = Failure(orphan.message, {"type": "orphan"}, lost=True)
        world.fail(execution_id, lost, max_lost=0)
        world.close(dag)
        assert rules(world.engine) == (set() if ended else {"rescued-early"})


@pytest.mark.parametrize("forced", [True, False])
def test_a_job_whose_message_was_lost_is_found(world: World, forced: bool) -> None:
    dag = world.run(job("a"), forced=forced)
    world.worker(lease=timedelta(hours=1))
    world.claim(world.starts(dag, "a", forced=forced))
    found = rules(world.engine, finished=False)
    later = world.now() + timedelta(minutes=20)
    assert rules(world.engine, finished=False, now=later) == found | {"stuck"}


class TestTriggers:
    @pytest.mark.promise("P5")
    def test_every_way_round_the_lifecycle_is_written_down(self, world: World) -> None:
        record_changes(world.engine)
        dag = world.run(job("a"))
        worker = world.worker()
        world.finish(dag, worker, "a")
        world.close(dag)
        assert rules(world.engine) == set()
        # Past the store's functions: the same state, another worker.
        world.change(world.ids(dag)["a"], worker="another")
        assert rules(world.engine) == {"changed-after-end"}

    def test_a_start_taken_twice_is_found(self, world: World) -> None:
        record_changes(world.engine)
        dag = world.run(job("a"))
        worker = world.worker()
        execution_id = world.running(dag, "a", worker)
        world.change(execution_id, status=JobStatus.QUEUED)
        world.start(execution_id, worker)
        world.succeed(execution_id, worker)
        world.close(dag)
        assert rules(world.engine) == {"illegal-change"}


def test_the_time_is_the_databases(world: World) -> None:
    dag = world.run(job("a"))
    execution_id = world.running(dag, "a", world.worker())
    world.change(execution_id, hard_limit_at=world.now() - timedelta(hours=1))
    assert rules(world.engine, finished=False) == {"stuck"}
