"""Runs: made whole and once, read for a decision, ended and closed."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from datetime import date, timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from prometheus.orchestration.dag import DAG, definition_hash
from prometheus.orchestration.decisions import RunState
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.orchestration.session_rule import EVERY, SessionRule, ShortSessions
from prometheus.persistence import operators, runs
from prometheus.persistence.engine import create_engine, reading, writing
from prometheus.persistence.executions import FailedForGood, Refused, Retried
from prometheus.persistence.tables import dag_runs
from tests.integration.persistence.world import DAY, World, at_once, dag_of, job
from tests.servers import wait_until

S = JobStatus


class TestCreate:
    def test_run_is_made_with_one_pending_execution_a_job(self, world: World) -> None:
        dag = world.run(job("a"), job("b", "a"), job("c"))
        assert world.run_status(dag) is RunStatus.OPEN
        assert world.statuses(dag) == dict.fromkeys("abc", "PENDING")
        assert {row.attempt_number for row in world.rows()} == {1}
        assert {row.queue for row in world.rows()} == {"US_EQ"}

    def test_run_that_exists_stays_as_it_is(self, world: World) -> None:
        dag = world.run(job("a"))
        before = world.rows()
        assert world.create(dag_of(job("a"), job("b"))) is False
        assert world.rows() == before
        assert world.run_row(dag).definition == dag.definition()

    @pytest.mark.promise("P1")
    def test_of_many_who_make_a_run_at_once_one_does_and_makes_it_whole(self, world: World) -> None:
        jobs = [job(f"j{number}") for number in range(20)]
        for number in range(5):
            dag = dag_of(*jobs, day=DAY + timedelta(days=number))

            def create(dag: DAG = dag) -> bool:
                return world.create(dag)

            made = at_once([create] * 8)
            assert sorted(made) == [False] * 7 + [True]
            assert len(world.rows(dag.dag_id)) == 20

    @pytest.mark.promise("P1")
    def test_run_is_made_whole_or_not_at_all(self, world: World) -> None:
        nameless = replace(job("b"), job_type=None)  # type: ignore[arg-type]  # no column takes it
        with pytest.raises(SQLAlchemyError):
            world.create(dag_of(job("a"), nameless))
        assert world.rows() == []
        with reading(world.engine) as connection:
            assert connection.execute(select(dag_runs)).all() == []

    def test_whatever_the_number_of_its_jobs_it_is_made_by_as_many_statements(
        self, postgresql_url: str
    ) -> None:
        """Each is a way to the server and back, for which the sessions of other markets wait."""
        world = World(create_engine(postgresql_url))
        with writing(world.engine) as connection:
            connection.exec_driver_sql(
                "CREATE TABLE inserts (kept boolean);"
                "CREATE FUNCTION count_insert() RETURNS trigger LANGUAGE plpgsql AS"
                " 'BEGIN INSERT INTO inserts VALUES (true); RETURN NULL; END';"
                "CREATE TRIGGER count AFTER INSERT ON job_executions"
                " FOR EACH STATEMENT EXECUTE FUNCTION count_insert()"
            )
        dag = world.run(*(job(f"j{number}") for number in range(50)))
        assert len(world.rows(dag.dag_id)) == 50
        with reading(world.engine) as connection:
            count = connection.exec_driver_sql("SELECT count(*) FROM inserts").scalar_one()
        assert count == 1

    @pytest.mark.promise("P7")
    def test_missed_run_is_expired_and_failed_from_the_start(self, world: World) -> None:
        dag = world.run(job("a"), job("b", "a"), missed="missed: nobody was there")
        assert world.run_status(dag) is RunStatus.FAILED
        assert world.statuses(dag) == {"a": "EXPIRED", "b": "EXPIRED"}
        assert {row.error_message for row in world.rows()} == {"missed: nobody was there"}

    def test_definition_is_stored_as_it_was_then(self, world: World) -> None:
        dag = world.run(job("a", timeout=timedelta(hours=2)), job("b", "a"))
        row = world.run_row(dag)
        assert row.definition_hash == definition_hash(row.definition)
        runs._dags.clear()
        with reading(world.engine) as connection:
            loaded = runs.load_dags(connection, [(dag.dag_id, row.definition_hash)])[dag.dag_id]
        assert list(loaded) == list(dag)
        assert (loaded.pipeline, loaded.market_id, loaded.as_of_date) == ("test", "US_EQ", DAY)

    def test_sessions_of_a_pipeline_share_their_jobs(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Kept once for each of hundreds of runs, they would be most of what a process holds."""
        monkeypatch.setattr(runs, "_dags", {})
        days = [DAY + timedelta(days=number) for number in range(3)]
        dags = [world.run(job("a"), job("b", "a"), day=day) for day in days]
        changed = world.run(job("a"), job("b"), day=DAY + timedelta(days=9))
        wanted = [(dag.dag_id, definition_hash(dag.definition())) for dag in (*dags, changed)]
        with reading(world.engine) as connection:
            first = runs.load_dags(connection, wanted[:2])
            loaded = first | runs.load_dags(connection, wanted[2:])
        assert len({id(loaded[dag.dag_id].jobs) for dag in dags}) == 1
        assert [loaded[dag.dag_id].dag_id for dag in dags] == [dag.dag_id for dag in dags]
        assert [loaded[dag.dag_id].as_of_date for dag in dags] == days
        assert [list(loaded[dag.dag_id]) for dag in (*dags, changed)] == [
            list(dag) for dag in (*dags, changed)
        ]

    def test_dags_are_kept_within_bounds(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept: dict[tuple[str, str], DAG] = {}
        monkeypatch.setattr(runs, "_dags", kept)
        monkeypatch.setattr(runs, "_KEPT_DAGS", 3)
        dags = [world.run(day=DAY + timedelta(days=number)) for number in range(5)]
        wanted = [(dag.dag_id, definition_hash(dag.definition())) for dag in dags]
        with reading(world.engine) as connection:
            for _ in range(2):
                assert set(runs.load_dags(connection, wanted)) == {dag.dag_id for dag in dags}
                assert len(kept) == 5
                assert set(runs.load_dags(connection, wanted[:2])) == {d.dag_id for d in dags[:2]}
                assert set(kept) == {wanted[4], *wanted[:2]}


class TestFirstSeen:
    def test_a_pipeline_is_first_seen_once(self, world: World) -> None:
        first = world.now()
        every = EVERY.words
        with writing(world.engine) as connection:
            assert runs.first_seen(connection, "daily", "US_EQ", every, first) == first
        with writing(world.engine) as connection:
            later = first + timedelta(days=3)
            assert runs.first_seen(connection, "daily", "US_EQ", every, later) == first
            assert runs.first_seen(connection, "other", "US_EQ", every, later) == later
            assert runs.first_seen(connection, "daily", "EU_EQ", every, later) == later

    def test_a_pipeline_that_runs_on_other_sessions_is_seen_anew(self, world: World) -> None:
        first = world.now()
        monthly = SessionRule.parse("last of month", ShortSessions.SKIP).words
        for words, days, seen in (
            (monthly, 0, 0),
            (monthly, 30, 0),
            (EVERY.words, 60, 60),
            (EVERY.words, 90, 60),
        ):
            with writing(world.engine) as connection:
                found = runs.first_seen(
                    connection, "daily", "US_EQ", words, first + timedelta(days=days)
                )
            assert found == first + timedelta(days=seen)

    def test_sessions_with_runs_are_those_of_the_pipeline_and_market(self, world: World) -> None:
        for number in range(4):
            world.run(day=DAY + timedelta(days=number))
        world.run(pipeline="other", day=DAY + timedelta(days=9))
        with reading(world.engine) as connection:
            found = runs.sessions_with_runs(connection, "test", "US_EQ", DAY + timedelta(days=2))
            assert found == {DAY + timedelta(days=2), DAY + timedelta(days=3)}
            assert runs.sessions_with_runs(connection, "test", "EU_EQ", date(1990, 1, 1)) == set()


class TestRead:
    def read(self, world: World, *, dag_id: str | None = None) -> tuple[RunState, ...]:
        def previous(dag: DAG) -> str | None:
            return f"us_eq_test_{dag.as_of_date - timedelta(days=1)}"

        with reading(world.engine) as connection:
            return runs.read_open_runs(connection, previous, dag_id=dag_id)

    def test_no_open_run_is_nothing_to_read(self, world: World) -> None:
        world.run(missed="missed")
        assert self.read(world) == ()

    def test_jobs_state_is_that_of_its_latest_execution(self, world: World) -> None:
        worker = world.worker()
        dag = world.run(job("a"), job("b"))
        world.fail(world.running(dag, "a", worker))
        (run,) = self.read(world)
        assert run.jobs["a"].status is S.QUEUED
        assert run.jobs["a"].execution_id == world.ids(dag)["a"]
        assert run.jobs["b"].status is S.PENDING
        assert list(run.dag) == list(dag)

    def test_one_run_can_be_read_alone(self, world: World) -> None:
        dags = [world.run(day=DAY + timedelta(days=number)) for number in range(3)]
        assert len(self.read(world)) == 3
        (run,) = self.read(world, dag_id=dags[1].dag_id)
        assert run.dag.dag_id == dags[1].dag_id

    def test_previous_session_is_read_for_jobs_that_wait_for_it(self, world: World) -> None:
        world.run(job("a", after_previous=True))
        world.run(job("a", after_previous=True), day=DAY + timedelta(days=1))
        found = {run.dag.as_of_date: run.previous for run in self.read(world)}
        assert found == {DAY: None, DAY + timedelta(days=1): {"a": S.PENDING}}

    def test_forced_run_is_read_as_forced(self, world: World) -> None:
        world.run(forced=True)
        (run,) = self.read(world)
        assert run.forced
        assert not run.jobs["a"].forced


class TestEndWaiting:
    @pytest.mark.parametrize("status", [S.EXPIRED, S.CANCELLED])
    def test_waiting_executions_end_with_their_reasons(
        self, world: World, status: JobStatus
    ) -> None:
        dag = world.run(job("a"), job("b"), job("c"))
        world.claim(world.starts(dag, "b"))
        ids = world.ids(dag)
        ended = world.end_waiting({ids["a"]: "first", ids["b"]: "second"}, status)
        assert sorted(ended) == sorted([ids["a"], ids["b"]])
        latest = world.latest(dag)
        assert (latest["a"].status, latest["a"].error_message) == (status, "first")
        assert (latest["b"].status, latest["b"].error_message) == (status, "second")
        assert latest["c"].status == "PENDING"

    @pytest.mark.parametrize("status", [S.EXPIRED, S.CANCELLED, S.SKIPPED])
    def test_execution_that_has_started_or_ended_stays_as_it_is(
        self, world: World, status: JobStatus
    ) -> None:
        worker = world.worker()
        dag = world.run(job("a"), job("b"))
        world.running(dag, "a", worker)
        world.finish(dag, worker, "b")
        before = world.rows()
        assert world.end_waiting(dict.fromkeys(world.ids(dag).values(), "x"), status) == []
        assert world.rows() == before

    @pytest.mark.parametrize("status", [S.PENDING, S.RUNNING, S.SUCCESS, S.FAILED])
    def test_nothing_ends_in_a_state_that_is_no_end_of_waiting(
        self, world: World, status: JobStatus
    ) -> None:
        dag = world.run()
        assert world.end_waiting({world.ids(dag)["a"]: "x"}, status) == []
        assert world.statuses(dag) == {"a": "PENDING"}

    def test_nothing_is_ended_by_no_reasons(self, world: World) -> None:
        assert world.end_waiting({}, S.EXPIRED) == []

    def test_skipping_reaches_a_whole_chain_in_one_call(self, world: World) -> None:
        dag = world.run(job("a", max_retries=0), job("b", "a"), job("c", "b"))
        world.fail_for_good(dag, "a", world.worker())
        ids = world.ids(dag)
        assert len(world.end_waiting({ids["c"]: "up", ids["b"]: "up"}, S.SKIPPED)) == 2

    def test_job_is_not_skipped_when_its_upstream_was_retried_meanwhile(self, world: World) -> None:
        dag = world.run(job("a", max_retries=0), job("b", "a"), job("c", "b"))
        world.fail_for_good(dag, "a", world.worker())
        ids = world.ids(dag)  # what a scheduler saw
        with writing(world.engine) as connection:
            operators.retry(connection, dag.dag_id, "a", actor="op")
        assert world.end_waiting({ids["b"]: "up", ids["c"]: "up"}, S.SKIPPED) == []
        assert world.statuses(dag) == dict.fromkeys("abc", "PENDING")

    def test_execution_that_is_being_changed_is_left_alone_not_waited_for(
        self, postgresql_url: str
    ) -> None:
        world = World(create_engine(postgresql_url))
        dag = world.run(job("a"), job("b"))
        ids = world.ids(dag)
        with world.engine.begin() as other:
            other.exec_driver_sql(
                "SELECT 1 FROM job_executions WHERE execution_id = %(id)s FOR UPDATE",
                {"id": ids["a"]},
            )
            assert world.end_waiting(dict.fromkeys(ids.values(), "x"), S.EXPIRED) == [ids["b"]]
        world.engine.dispose()


class TestClose:
    def test_run_with_an_unfinished_job_stays_open(self, world: World) -> None:
        dag = world.run(job("a"), job("b"))
        world.finish(dag, world.worker(), "a")
        assert world.close(dag) is None
        assert world.run_status(dag) is RunStatus.OPEN

    def test_run_is_closed_once_with_the_state_of_its_jobs(self, world: World) -> None:
        dag = world.run(job("a"), job("b"))
        world.finish(dag, world.worker(), "a", "b")
        assert world.close(dag) is RunStatus.SUCCESS
        closed = world.run_row(dag)
        assert closed.completed_at is not None
        assert world.close(dag) is None
        assert world.run_row(dag) == closed

    def test_failed_job_that_has_a_next_attempt_keeps_its_run_open(self, world: World) -> None:
        dag = world.run(job("a", max_retries=1))
        worker = world.worker()
        assert isinstance(world.fail(world.running(dag, "a", worker), draw=lambda _: 0), Retried)
        assert world.close(dag) is None
        assert isinstance(world.fail(world.running(dag, "a", worker)), FailedForGood)
        assert world.close(dag) is RunStatus.FAILED

    def test_run_that_does_not_exist_is_not_closed(self, world: World) -> None:
        assert world.close(dag_of(job("a"), pipeline="nowhere")) is None

    def test_of_many_who_close_a_run_at_once_one_does(self, world: World) -> None:
        worker = world.worker()
        for number in range(5):
            dag = world.run(day=DAY + timedelta(days=number))
            world.finish(dag, worker, "a")

            def close(dag: DAG = dag) -> RunStatus | None:
                return world.close(dag)

            closed = at_once([close] * 6)
            assert [each for each in closed if each is not None] == [RunStatus.SUCCESS]

    def test_closed_run_starts_nothing(self, world: World) -> None:
        dag = world.run(job("a"), job("b"))
        worker = world.worker()
        world.finish(dag, worker, "a", "b")
        world.close(dag)
        # Rows that no history leads to: what if one were left behind?
        left = world.insert(attempt_number=2)
        starts = world.starts(dag, "a")
        assert starts[0].execution_id == left
        assert world.claim(starts) == []
        world.change(left, status="QUEUED", scheduled_at=world.now())
        assert world.start(left, worker) == Refused("its run is SUCCESS")


class TestCloseAgainstReopening:
    """On PostgreSQL two transactions really overlap; no order of them loses the operator's row."""

    @pytest.fixture
    def finished(self, postgresql_url: str) -> tuple[World, DAG]:
        world = World(create_engine(postgresql_url))
        dag = world.run(job("a", max_retries=0), job("b", "a"))
        world.fail_for_good(dag, "a", world.worker())
        world.end_waiting({world.ids(dag)["b"]: "up"}, S.SKIPPED)
        return world, dag

    def test_closing_waits_for_an_operator_who_reopens_and_then_does_not_close(
        self, finished: tuple[World, DAG]
    ) -> None:
        world, dag = finished
        answers: list[RunStatus | None] = []
        closing = threading.Thread(target=lambda: answers.append(world.close(dag)))
        with writing(world.engine) as connection:
            operators.retry(connection, dag.dag_id, "a", actor="op")
            closing.start()
            wait_until(lambda: waiting_for_locks(world) == 1, message="the close waits")
        closing.join(30)
        assert answers == [None]
        assert world.run_status(dag) is RunStatus.OPEN
        assert world.statuses(dag) == {"a": "PENDING", "b": "PENDING"}
        world.engine.dispose()

    def test_operator_waits_for_the_closing_and_then_reopens(
        self, finished: tuple[World, DAG]
    ) -> None:
        world, dag = finished

        def retry() -> None:
            with writing(world.engine) as connection:
                operators.retry(connection, dag.dag_id, "a", actor="op")

        retrying = threading.Thread(target=retry)
        with writing(world.engine) as connection:
            assert runs.close_run(connection, dag.dag_id) is RunStatus.FAILED
            retrying.start()
            wait_until(lambda: waiting_for_locks(world) == 1, message="the operator waits")
        retrying.join(30)
        assert world.run_status(dag) is RunStatus.OPEN
        assert world.statuses(dag) == {"a": "PENDING", "b": "PENDING"}
        world.engine.dispose()

    def test_skipping_waits_for_an_operator_who_retries_and_then_skips_nothing(
        self, postgresql_url: str
    ) -> None:
        world = World(create_engine(postgresql_url))
        dag = world.run(job("a", max_retries=0), job("b", "a"))
        world.fail_for_good(dag, "a", world.worker())
        ids = world.ids(dag)
        answers: list[list[str]] = []
        skipping = threading.Thread(
            target=lambda: answers.append(world.end_waiting({ids["b"]: "up"}, S.SKIPPED))
        )
        with writing(world.engine) as connection:
            operators.retry(connection, dag.dag_id, "a", actor="op")
            skipping.start()
            wait_until(lambda: waiting_for_locks(world) == 1, message="the scheduler waits")
        skipping.join(30)
        assert answers == [[]]
        assert world.statuses(dag) == {"a": "PENDING", "b": "PENDING"}
        world.engine.dispose()


def waiting_for_locks(world: World) -> int:
    with world.engine.connect() as connection:
        return int(
            connection.exec_driver_sql(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ).scalar_one()
        )


def test_threads_of_a_process_may_load_runs_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of the web app do."""
    monkeypatch.setattr(runs, "_KEPT_DAGS", 2)
    monkeypatch.setattr(runs, "_dags", {})
    dags = [world.run(day=DAY + timedelta(days=number)) for number in range(4)]
    of = [(dag.dag_id, world.run_row(dag).definition_hash) for dag in dags]

    def load() -> None:
        with reading(world.engine) as connection:
            for number in range(400):
                run = of[number % 4]
                assert runs.load_dags(connection, [run]).keys() == {run[0]}

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        at_once([load] * 4)
    finally:
        sys.setswitchinterval(before)
