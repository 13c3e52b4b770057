"""What operators do: rows are added, never changed back, and each action is audited."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import date, timedelta
from functools import partial

import pytest
from sqlalchemy import update

from prometheus.orchestration.dag import DAG
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.orchestration.pipeline import Pipeline
from prometheus.persistence import executions, operators, runs
from prometheus.persistence.engine import create_engine, writing
from prometheus.persistence.executions import NotOurs, Refused, Retried
from prometheus.persistence.operators import OperatorError
from prometheus.persistence.runs import UnreadableRunError
from prometheus.persistence.tables import dag_runs
from tests.integration.persistence.test_runs import waiting_for_locks
from tests.integration.persistence.world import BOOM, HOUR, LOST, MINUTE, World, at_once, job
from tests.servers import wait_until

S = JobStatus


def retry(
    world: World, dag: DAG, job_id: str | None = None, *, downstream: bool = False
) -> list[str]:
    with writing(world.engine) as connection:
        return operators.retry(
            connection, dag.dag_id, job_id, downstream=downstream, actor="ann@desk"
        )


def rerun(world: World, dag: DAG) -> list[str]:
    with writing(world.engine) as connection:
        return operators.rerun(connection, dag.dag_id, actor="ann@desk")


def cancel(
    world: World, dag: DAG, job_id: str | None = None, *, grace: timedelta = timedelta(0)
) -> list[tuple[str, str, bool]]:
    """Cancel at once, unless there is a grace; return job, execution and whether it was running."""
    with writing(world.engine) as connection:
        cancelled = operators.cancel(connection, dag.dag_id, job_id, actor="ann@desk", grace=grace)
    return [(each.job_id, each.execution_id, each.was_running) for each in cancelled]


@pytest.fixture
def failed(world: World) -> DAG:
    """A finished run: a failed, so b and c were skipped; d and what is below it succeeded."""
    dag = world.run(
        job("a", max_retries=0), job("b", "a"), job("c", "b", "d"), job("d"), job("e", "d")
    )
    worker = world.worker()
    world.fail_for_good(dag, "a", worker)
    ids = world.ids(dag)
    world.end_waiting({ids["b"]: "upstream a is FAILED", ids["c"]: "upstream b is"}, S.SKIPPED)
    world.finish(dag, worker, "d", "e")
    assert world.close(dag) is RunStatus.FAILED
    return dag


class TestRetry:
    @pytest.mark.promise("P5")
    def test_failed_job_and_what_was_skipped_because_of_it_get_new_attempts(
        self, world: World, failed: DAG
    ) -> None:
        before = {row.execution_id: row for row in world.rows()}
        assert retry(world, failed) == ["a", "b", "c"]
        assert world.statuses(failed) == {
            "a": "PENDING",
            "b": "PENDING",
            "c": "PENDING",
            "d": "SUCCESS",
            "e": "SUCCESS",
        }
        new = [row for row in world.rows() if row.execution_id not in before]
        assert [(row.attempt_number, row.forced, row.retries) for row in new] == [(2, True, 0)] * 3
        assert [row for row in world.rows() if row.execution_id in before] == list(before.values())
        assert world.run_status(failed) is RunStatus.OPEN
        assert world.run_row(failed).completed_at is None
        assert world.audited() == [("ann@desk", "retry", failed.dag_id)]

    def test_retried_run_can_finish(self, world: World, failed: DAG) -> None:
        retry(world, failed, "a")
        world.finish(failed, world.worker(), "a", "b", "c")
        assert world.close(failed) is RunStatus.SUCCESS

    def test_downstream_runs_again_whatever_became_of_it(self, world: World, failed: DAG) -> None:
        assert retry(world, failed, "d") == ["d"]
        world.finish(failed, world.worker(), "d")
        assert retry(world, failed, "d", downstream=True) == ["d", "e", "c"]

    def test_job_that_another_upstream_blocks_is_not_reopened(self, world: World) -> None:
        dag = world.run(job("a", max_retries=0), job("b", max_retries=0), job("c", "a", "b"))
        worker = world.worker()
        world.fail_for_good(dag, "a", worker)
        world.fail_for_good(dag, "b", worker)
        world.end_waiting({world.ids(dag)["c"]: "up"}, S.SKIPPED)
        assert retry(world, dag, "a") == ["a"]
        assert world.statuses(dag) == {"a": "PENDING", "b": "FAILED", "c": "SKIPPED"}
        world.finish(dag, worker, "a")
        assert retry(world, dag, "b") == ["b", "c"]

    def test_without_a_job_all_that_failed_expired_or_was_cancelled_run_again(
        self, world: World
    ) -> None:
        dag = world.run(job("a", max_retries=0), job("b"), job("c"), job("d", "a"), job("e"))
        worker = world.worker()
        world.fail_for_good(dag, "a", worker)
        ids = world.ids(dag)
        world.end_waiting({ids["b"]: "late"}, S.EXPIRED)
        world.end_waiting({ids["d"]: "up"}, S.SKIPPED)
        cancel(world, dag, "c")
        world.finish(dag, worker, "e")
        assert retry(world, dag) == ["a", "b", "c", "d"]

    def test_run_that_has_other_jobs_unfinished_can_be_retried(self, world: World) -> None:
        dag = world.run(job("a", max_retries=0), job("b"))
        world.fail_for_good(dag, "a", world.worker())
        assert retry(world, dag) == ["a"]
        assert world.run_status(dag) is RunStatus.OPEN

    @pytest.mark.parametrize(
        ("job_id", "said"),
        [
            ("x", "has no job 'x'. Known: a, b, c, d, e."),
            ("b", "b would be skipped at once, because a is FAILED. Retry that: prometheus retry"),
        ],
    )
    def test_what_can_not_be_retried_is_refused_and_nothing_changes(
        self, world: World, failed: DAG, job_id: str, said: str
    ) -> None:
        before = world.rows()
        with pytest.raises(OperatorError, match=said):
            retry(world, failed, job_id)
        assert world.rows() == before
        assert world.audited() == []

    def test_unfinished_job_is_refused(self, world: World) -> None:
        dag = world.run(job("a"), job("b", "a"))
        worker = world.worker()
        with pytest.raises(OperatorError, match=r"a is PENDING: .* prometheus cancel us_eq_test"):
            retry(world, dag, "a")
        world.finish(dag, worker, "a")
        world.running(dag, "b", worker)
        with pytest.raises(OperatorError, match="b is RUNNING"):
            retry(world, dag, "a", downstream=True)
        assert retry(world, dag, "a") == ["a"]

    def test_what_has_not_started_waits_for_its_upstream_that_runs_again(
        self, world: World
    ) -> None:
        dag = world.run(job("a"), job("b", "a"), job("c", "b"))
        worker = world.worker()
        world.finish(dag, worker, "a", "b")
        assert retry(world, dag, "a", downstream=True) == ["a", "b"]
        assert [row.attempt_number for row in world.rows() if row.job_id == "c"] == [1]
        world.finish(dag, worker, "a", "b")
        assert world.claim(world.starts(dag, "c"))
        with pytest.raises(OperatorError, match="c is QUEUED"):
            retry(world, dag, "a", downstream=True)
        with pytest.raises(OperatorError, match="c is QUEUED"):
            retry(world, dag, "c", downstream=True)

    def test_nothing_to_retry_is_refused(self, world: World) -> None:
        dag = world.run()
        with pytest.raises(OperatorError, match="no job that failed, expired or was cancelled"):
            retry(world, dag)

    def test_unknown_run_names_the_nearest(self, world: World) -> None:
        world.run()
        with (
            pytest.raises(OperatorError, match="Did you mean 'us_eq_test_2025-12-02'"),
            writing(world.engine) as connection,
        ):
            operators.retry(connection, "us_eq_test_2025-12-03", actor="ann")

    def test_two_operators_retrying_at_once_add_one_attempt(
        self, world: World, failed: DAG
    ) -> None:
        def attempt() -> list[str] | str:
            try:
                return retry(world, failed, "a")
            except OperatorError as error:
                return str(error)

        answers = at_once([attempt] * 4)
        assert answers.count(["a", "b", "c"]) == 1
        assert all("a is PENDING" in each for each in answers if isinstance(each, str))
        assert len(world.rows()) == 8


class TestRerun:
    def test_every_job_of_a_finished_run_gets_a_new_attempt(
        self, world: World, failed: DAG
    ) -> None:
        assert rerun(world, failed) == ["a", "d", "b", "e", "c"]
        assert set(world.statuses(failed).values()) == {"PENDING"}
        assert len(world.rows()) == 10
        assert world.run_status(failed) is RunStatus.OPEN
        assert world.audited() == [("ann@desk", "rerun", failed.dag_id)]

    def test_open_run_is_refused(self, world: World) -> None:
        dag = world.run()
        with pytest.raises(OperatorError, match="is not finished"):
            rerun(world, dag)
        assert world.audited() == []


class TestCancel:
    def test_whole_run_is_cancelled_and_closed(self, world: World) -> None:
        dag = world.run(job("a"), job("b"), job("c", "b"), job("d"))
        worker = world.worker()
        world.finish(dag, worker, "d")
        running = world.running(dag, "a", worker)
        world.claim(world.starts(dag, "b"))
        ids = world.ids(dag)
        assert sorted(cancel(world, dag)) == [
            ("a", running, True),
            ("b", ids["b"], False),
            ("c", ids["c"], False),
        ]
        latest = world.latest(dag)
        assert {name: row.status for name, row in latest.items()} == {
            "a": "CANCELLED",
            "b": "CANCELLED",
            "c": "CANCELLED",
            "d": "SUCCESS",
        }
        assert latest["a"].error_message == "cancelled by ann@desk"
        assert latest["c"].scheduled_at is None
        assert world.run_status(dag) is RunStatus.CANCELLED
        assert world.audited() == [("ann@desk", "cancel", dag.dag_id)]

    def test_one_job_is_cancelled_and_the_rest_goes_on(self, world: World) -> None:
        dag = world.run(job("a"), job("b"))
        assert [each[0] for each in cancel(world, dag, "a")] == ["a"]
        assert world.statuses(dag) == {"a": "CANCELLED", "b": "PENDING"}
        assert world.run_status(dag) is RunStatus.OPEN

    def test_worker_of_a_cancelled_job_can_report_nothing(self, world: World) -> None:
        dag = world.run()
        worker = world.worker()
        execution_id = world.running(dag, "a", worker)
        cancel(world, dag)
        before = world.rows()
        assert world.succeed(execution_id, worker) is None
        assert world.fail(execution_id, incarnation=worker) == NotOurs()
        with writing(world.engine) as connection:
            assert executions.fenced(connection, execution_id, worker)
        assert world.rows() == before

    def test_running_job_is_asked_first_and_the_rest_ends_at_once(self, world: World) -> None:
        dag = world.run(job("a"), job("b", "a"))
        running = world.running(dag, "a", world.worker())
        before = world.now()
        with writing(world.engine) as connection:
            cancelled = operators.cancel(connection, dag.dag_id, actor="ann@desk", grace=MINUTE)
        asked, ended = sorted(cancelled, key=lambda each: each.job_id)
        assert (asked.job_id, asked.was_running, ended.job_id, ended.cancel_at) == (
            *("a", True, "b"),
            None,
        )
        row = world.row(running)
        assert (row.status, row.cancel_asked_by, row.completed_at) == ("RUNNING", "ann@desk", None)
        assert row.cancel_at == asked.cancel_at == row.cancel_asked_at + MINUTE
        assert row.cancel_asked_at >= before
        assert world.statuses(dag) == {"a": "RUNNING", "b": "CANCELLED"}
        assert world.run_status(dag) is RunStatus.OPEN
        assert world.audited() == [("ann@desk", "cancel", dag.dag_id)]

    def test_asking_again_only_shortens_what_is_left(self, world: World) -> None:
        dag = world.run()
        running = world.running(dag, "a", world.worker())
        cancel(world, dag, grace=MINUTE)
        first = world.row(running)
        cancel(world, dag, grace=HOUR)
        assert world.row(running).cancel_at == first.cancel_at
        cancel(world, dag, grace=timedelta(seconds=1))
        last = world.row(running)
        assert last.cancel_at < first.cancel_at
        assert last.cancel_asked_at == first.cancel_asked_at
        cancel(world, dag)
        assert world.row(running).status == "CANCELLED"

    @pytest.mark.parametrize("end", ["success", "failure", "lost"])
    def test_job_that_ends_after_it_was_asked_is_cancelled_and_has_no_successor(
        self, world: World, end: str
    ) -> None:
        dag = world.run(job("a", max_retries=5))
        worker = world.worker()
        running = world.running(dag, "a", worker)
        cancel(world, dag, grace=MINUTE)
        message = "cancelled by ann@desk"
        if end == "success":
            assert world.succeed(running, worker, 1) == dag.dag_id
        else:
            failure = BOOM if end == "failure" else LOST
            assert world.fail(running, failure) == executions.Cancelled(dag.dag_id)
            message += f": {failure.message}"
        (row,) = world.rows()
        assert (row.status, row.error_message) == ("CANCELLED", message)
        assert world.close(dag) is RunStatus.CANCELLED

    def test_job_that_has_not_ended_in_time_is_ended(self, world: World) -> None:
        dag = world.run(job("a"), job("b"), job("c"))
        worker = world.worker()
        ids = {name: world.running(dag, name, worker) for name in "abc"}
        cancel(world, dag, "a", grace=MINUTE)
        cancel(world, dag, "b", grace=MINUTE)
        world.change(ids["a"], cancel_at=world.now())
        with writing(world.engine) as connection:
            assert executions.end_cancelled(connection) == [ids["a"]]
            assert executions.end_cancelled(connection) == []
        assert world.statuses(dag) == {"a": "CANCELLED", "b": "RUNNING", "c": "RUNNING"}
        message = "cancelled by ann@desk: it had not ended in time"
        assert world.row(ids["a"]).error_message == message
        assert world.succeed(ids["a"], worker) is None
        with writing(world.engine) as connection:
            asks = {name: executions.cancel_asked(connection, ids[name], worker) for name in "abc"}
        assert asks == {"a": True, "b": True, "c": False}

    def test_run_that_can_not_be_read_can_be_cancelled_and_nothing_else(self, world: World) -> None:
        dag = world.run(job("a"), job("b", "a"))
        with writing(world.engine) as connection:
            connection.execute(
                update(dag_runs).values(definition={"jobs": 1}, definition_hash="another")
            )
        for ask in (retry, rerun):
            with pytest.raises((OperatorError, UnreadableRunError)):
                ask(world, dag)
        assert {name for name, _, _ in cancel(world, dag)} == {"a", "b"}
        assert world.run_status(dag) is RunStatus.CANCELLED
        with pytest.raises(UnreadableRunError, match=f"{dag.dag_id} can not be read"):
            retry(world, dag)

    def test_finished_run_or_job_is_refused(self, world: World, failed: DAG) -> None:
        with pytest.raises(OperatorError, match=f"{failed.dag_id} has finished already"):
            cancel(world, failed)
        with pytest.raises(OperatorError, match=f"d of {failed.dag_id} has finished already"):
            cancel(world, failed, "d")
        with pytest.raises(OperatorError, match="has no job 'x'"):
            cancel(world, failed, "x")
        assert world.audited() == []

    def test_successor_of_an_attempt_that_fails_meanwhile_is_cancelled_too(
        self, postgresql_url: str
    ) -> None:
        world = World(create_engine(postgresql_url))
        dag = world.run(job("a"))
        execution_id = world.running(dag, "a", world.worker())
        answers: list[list[tuple[str, str, bool]]] = []
        cancelling = threading.Thread(target=lambda: answers.append(cancel(world, dag)))
        with writing(world.engine) as connection:
            outcome = executions.fail(
                connection,
                execution_id,
                executions.Failure("boom", {"type": "X"}),
                draw_delay=lambda bound: bound,
                max_lost=3,
            )
            cancelling.start()
            wait_until(lambda: waiting_for_locks(world) == 1, message="the operator waits")
        cancelling.join(30)
        assert isinstance(outcome, Retried)
        assert answers == [[("a", outcome.successor_id, False)]]
        assert [row.status for row in world.rows()] == ["FAILED", "CANCELLED"]
        assert world.run_status(dag) is RunStatus.CANCELLED
        world.engine.dispose()

    def test_cancelling_while_all_else_goes_on_ends_without_deadlock(self, world: World) -> None:
        """Claim, skip, start, report and cancel the same rows at once, in different orders."""
        worker = world.worker()
        for number in range(4):
            dag = world.run(*(job(f"j{n}") for n in range(10)), pipeline=f"p{number}")
            starts = world.starts(dag)
            running = world.running(dag, "j0", worker)
            ids = list(world.ids(dag).values())

            def close(dag: DAG = dag, ids: list[str] = ids) -> None:
                with writing(world.engine) as connection:
                    runs.end_waiting(connection, dict.fromkeys(reversed(ids), "late"), S.EXPIRED)
                world.close(dag)

            def cancel_what_is_left(dag: DAG = dag) -> None:
                with suppress(OperatorError):
                    cancel(world, dag)

            calls: list[Callable[[], object]] = [
                partial(world.claim, starts[::-1]),
                cancel_what_is_left,
                close,
                partial(world.succeed, running, worker),
                partial(world.fail, running),
                partial(world.claim, starts),
            ]
            at_once(calls)
            left = [row.status for row in world.rows(dag.dag_id)]
            assert set(left) <= {"CANCELLED", "EXPIRED", "SUCCESS", "FAILED"}


def skip(world: World, dag: DAG, job_id: str) -> None:
    with writing(world.engine) as connection:
        operators.skip(connection, dag.dag_id, job_id, actor="ann@desk", reason="no data")


def force(world: World, dag: DAG, job_id: str) -> list[str]:
    with writing(world.engine) as connection:
        return operators.force_success(
            connection, dag.dag_id, job_id, actor="ann@desk", reason="by hand"
        )


class TestSkip:
    def test_what_has_not_started_never_runs(self, world: World) -> None:
        dag = world.run(job("a"), job("b"), job("c", "a"))
        worker = world.worker()
        world.claim(world.starts(dag, "a"))
        queued = world.ids(dag)["a"]
        skip(world, dag, "a")
        row = world.row(queued)
        assert (row.status, row.error_message) == ("SKIPPED", "skipped by ann@desk: no data")
        assert isinstance(world.start(queued, worker), Refused)
        skip(world, dag, "b")
        assert world.statuses(dag) == {"a": "SKIPPED", "b": "SKIPPED", "c": "PENDING"}
        assert world.audited() == [("ann@desk", "skip", dag.dag_id)] * 2
        skip(world, dag, "c")
        assert world.run_status(dag) is RunStatus.SUCCESS  # every job was skipped by an operator

    def test_what_has_started_or_ended_is_refused(self, world: World, failed: DAG) -> None:
        with pytest.raises(OperatorError, match=r"a is FAILED.* prometheus retry"):
            skip(world, failed, "a")
        dag = world.run(job("a"), pipeline="other")
        world.running(dag, "a", world.worker())
        with pytest.raises(OperatorError, match=r"a is RUNNING.* prometheus cancel"):
            skip(world, dag, "a")
        with pytest.raises(OperatorError, match="has no job 'x'"):
            skip(world, dag, "x")
        assert world.audited() == []


class TestForceSuccess:
    def test_what_was_skipped_because_of_it_runs_again(self, world: World, failed: DAG) -> None:
        assert force(world, failed, "a") == ["b", "c"]
        assert world.run_status(failed) is RunStatus.OPEN
        row = world.latest(failed)["a"]
        assert (row.status, row.attempt_number, row.forced, row.worker) == (
            "SUCCESS",
            2,
            True,
            None,
        )
        assert row.result == {"forced_by": "ann@desk", "reason": "by hand"}
        assert row.created_at == row.started_at == row.completed_at
        world.finish(failed, world.worker(), "b", "c")
        assert world.close(failed) is RunStatus.SUCCESS
        assert world.audited() == [("ann@desk", "force_success", failed.dag_id)]

    def test_last_job_that_was_missing_closes_the_run(self, world: World) -> None:
        dag = world.run(job("a", max_retries=0))
        world.fail_for_good(dag, "a", world.worker())
        assert world.close(dag) is RunStatus.FAILED
        assert force(world, dag, "a") == []
        assert world.run_status(dag) is RunStatus.SUCCESS

    def test_job_that_waits_never_runs(self, world: World) -> None:
        dag = world.run(job("a"), job("b", "a"))
        world.claim(world.starts(dag, "a"))
        queued = world.ids(dag)["a"]
        assert force(world, dag, "a") == []
        assert world.row(queued).status == "SKIPPED"
        assert isinstance(world.start(queued, world.worker()), Refused)
        assert world.statuses(dag) == {"a": "SUCCESS", "b": "PENDING"}
        assert len(world.claim(world.starts(dag, "b"))) == 1

    def test_job_that_runs_or_has_succeeded_is_refused(self, world: World, failed: DAG) -> None:
        with pytest.raises(OperatorError, match="d has succeeded already"):
            force(world, failed, "d")
        dag = world.run(job("a"), pipeline="other")
        running = world.running(dag, "a", world.worker())
        with pytest.raises(OperatorError, match=r"a is RUNNING.* prometheus cancel"):
            force(world, dag, "a")
        assert world.row(running).status == "RUNNING"
        assert world.audited() == []

    def test_start_and_force_at_once_leave_one_of_them(self, world: World) -> None:
        for number in range(10):
            dag = world.run(job("a"), pipeline=f"other_{number}")
            worker = world.worker()
            world.claim(world.starts(dag, "a"))
            queued = world.ids(dag)["a"]

            def forced(dag: DAG) -> object:
                with suppress(OperatorError):
                    return force(world, dag, "a")
                return None

            calls: list[Callable[[], object]] = [
                partial(forced, dag),
                partial(world.start, queued, worker),
            ]
            at_once(calls)
            assert [row.status for row in world.rows(dag.dag_id)] in (
                ["RUNNING"],
                ["SKIPPED", "SUCCESS"],
            )


def test_run_made_by_an_operator_is_audited(world: World) -> None:
    daily = Pipeline("books", markets=["US_EQ"])
    daily.add("jobs:report")
    with writing(world.engine) as connection:
        dag_id = operators.run_now(
            connection, daily, "US_EQ", date(2012, 11, 21), again=False, actor="ann@desk"
        )
    assert world.audited() == [("ann@desk", "run", dag_id)]


def test_what_an_operator_skipped_stays_so_when_its_upstream_runs_again(world: World) -> None:
    """A book that must not be made is not made because a job before it was tried again."""
    dag = world.run(job("a", max_retries=0), job("b", "a"), job("c", "a"))
    with writing(world.engine) as connection:
        operators.skip(connection, dag.dag_id, "c", actor="ann@desk", reason="no book today")
    world.fail_for_good(dag, "a", world.worker())
    world.end_waiting({world.ids(dag)["b"]: "upstream a is FAILED"}, JobStatus.SKIPPED)
    with writing(world.engine) as connection:
        assert operators.retry(connection, dag.dag_id, "a", actor="bob@desk") == ["a", "b"]
    assert world.statuses(dag) == {"a": "PENDING", "b": "PENDING", "c": "SKIPPED"}
    with writing(world.engine) as connection:  # who says so himself is heard
        assert operators.retry(connection, dag.dag_id, "c", actor="bob@desk") == ["c"]


@pytest.mark.promise("P5")
def test_audit_row_goes_with_an_action_that_is_rolled_back(world: World, failed: DAG) -> None:
    class AwayError(Exception):
        pass

    with pytest.raises(AwayError), writing(world.engine) as connection:
        operators.retry(connection, failed.dag_id, actor="ann@desk")
        raise AwayError
    assert world.audited() == []
    assert world.run_status(failed) is RunStatus.FAILED
