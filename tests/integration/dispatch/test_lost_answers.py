"""The database is away for a moment, or its answer to a COMMIT is lost: it costs nothing."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, event, func, select, text

from prometheus.dispatch.attempt_log import AttemptLog
from prometheus.dispatch.attempts import Attempts
from prometheus.persistence import logs, runs
from prometheus.persistence.engine import PATIENCE_SECONDS, create_engine, reading, writing
from prometheus.persistence.executions import (
    FailedForGood,
    Failure,
    GaveUp,
    NotOurs,
    Refused,
    Retried,
    Started,
    Succeeded,
)
from tests.integration.dispatch.conftest import Installation
from tests.integration.dispatch.schedulers import (
    RecordingBroker,
    make_attempts,
    make_scheduler,
    register_worker,
)
from tests.servers import Gate, PostgresServer, wait_until

BOOM = Failure("ValueError: boom", {"type": "ValueError"})


def driver_of(connection: Connection) -> psycopg.Connection[Any]:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


@contextmanager
def at_next_commit(
    engine: Engine, call: Callable[[Connection], None], *, done: bool
) -> Iterator[None]:
    """
    Call something at the next COMMIT, or change that is committed by itself.

    Args:
        done: Once the server has committed it, or else before.
    """

    def in_transaction(connection: Connection) -> None:
        driver = driver_of(connection)
        if not driver.autocommit:
            if done:
                driver.commit()
            call(connection)

    def by_itself(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        driver = driver_of(connection)
        if driver.autocommit and statement.startswith(("UPDATE", "WITH")):
            call(connection)
            if done and driver.closed:  # what it had read of the answer is lost with it
                raise psycopg.OperationalError("the connection is closed")

    when = "after_cursor_execute" if done else "before_cursor_execute"
    event.listen(engine, "commit", in_transaction)
    event.listen(engine, when, by_itself)
    yield
    event.remove(engine, "commit", in_transaction)
    event.remove(engine, when, by_itself)


@contextmanager
def answer_lost(engine: Engine, *, committed: bool = True) -> Iterator[list[bool]]:
    """Let the connection break at the next COMMIT, after the server has done it or before."""
    breaks: list[bool] = []

    def break_off(connection: Connection) -> None:
        if not breaks:
            breaks.append(committed)
            driver_of(connection).close()

    with at_next_commit(engine, break_off, done=committed):
        yield breaks
    assert breaks


@pytest.fixture
def attempts(installation: Installation) -> Attempts:
    return make_attempts(installation.engine)


def queued(
    installation: Installation, pipeline: str = "held", job_id: str | None = None
) -> tuple[str, str]:
    """Claim a job of a run, by default its only one; return the run and the execution."""
    dag_id = installation.make_run(pipeline, parameters={"folder": "unused"})
    broker = RecordingBroker()
    make_scheduler(installation.engine, broker).advance(dag_id)
    (execution_id,) = (
        attempt.execution_id
        for attempt in installation.attempts(dag_id)
        if attempt.status == "QUEUED" and job_id in (None, attempt.job_id)
    )
    return dag_id, execution_id


@pytest.mark.parametrize("committed", [True, False])
def test_start_is_its_own_though_the_answer_was_lost(
    installation: Installation, attempts: Attempts, committed: bool
) -> None:
    dag_id, execution_id = queued(installation)
    incarnation = register_worker(installation.engine)
    with answer_lost(installation.engine, committed=committed):
        outcome = attempts.start(execution_id, worker="test", incarnation=incarnation)
    assert isinstance(outcome, Started)
    assert installation.statuses(dag_id) == {"waits_for_a_file": ["RUNNING"]}


def test_start_is_its_own_though_the_connection_was_lost_while_the_row_was_held(
    installation: Installation,
) -> None:
    """What it had asked the server for must not be done once nobody waits for the answer."""
    dag_id, execution_id = queued(installation)
    incarnation = register_worker(installation.engine)
    engine = create_engine(installation.database_url)
    drivers: list[psycopg.Connection[Any]] = []

    def note(connection: Connection, *_: object) -> None:
        drivers.append(driver_of(connection))

    event.listen(engine, "before_cursor_execute", note)
    waiting = select(func.count()).select_from(text("pg_locks")).where(text("NOT granted"))
    with ThreadPoolExecutor() as threads:
        with writing(installation.engine) as holder:
            runs.lock_in_order(holder, [execution_id])
            started = threads.submit(
                make_attempts(engine).start, execution_id, worker="test", incarnation=incarnation
            )
            wait_until(lambda: holder.execute(waiting).scalar_one() == 1, message="it waits")
            with socket.socket(fileno=os.dup(drivers[-1].fileno())) as wire:
                wire.shutdown(socket.SHUT_RDWR)
            wait_until(lambda: holder.execute(waiting).scalar_one() == 2, message="again")
        assert isinstance(started.result(), Started)
    assert installation.statuses(dag_id) == {"waits_for_a_file": ["RUNNING"]}
    engine.dispose()


def test_second_message_in_the_same_process_is_no_start_of_its_own(
    installation: Installation, attempts: Attempts
) -> None:
    _, execution_id = queued(installation)
    incarnation = register_worker(installation.engine)
    assert isinstance(attempts.start(execution_id, worker="test", incarnation=incarnation), Started)
    assert isinstance(attempts.start(execution_id, worker="test", incarnation=incarnation), Refused)


@pytest.mark.promise("P2")
def test_start_by_another_process_of_the_pool_is_not_taken_for_its_own(
    installation: Installation, attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two messages for one attempt in one worker: the other child was first, in between."""
    _, execution_id = queued(installation)
    incarnation = register_worker(installation.engine)
    other = create_engine(installation.database_url)
    outcomes: list[Started | Refused] = []

    def other_child(connection: Connection) -> None:
        if outcomes:
            return
        driver_of(connection).close()
        with monkeypatch.context() as patch:
            patch.setattr("prometheus.dispatch.attempts.os.getpid", lambda: 1)
            outcomes.append(
                make_attempts(other).start(execution_id, worker="test", incarnation=incarnation)
            )

    with at_next_commit(installation.engine, other_child, done=False):
        mine = attempts.start(execution_id, worker="test", incarnation=incarnation)
    other.dispose()
    assert isinstance(outcomes[0], Started)
    assert mine == Refused("it is RUNNING")


@pytest.mark.parametrize("committed", [True, False])
def test_success_counts_once_though_the_answer_was_lost(
    installation: Installation, attempts: Attempts, committed: bool
) -> None:
    dag_id, execution_id = queued(installation)
    incarnation = register_worker(installation.engine)
    attempts.start(execution_id, worker="test", incarnation=incarnation)
    with answer_lost(installation.engine, committed=committed):
        done = attempts.succeed(execution_id, incarnation=incarnation, result=1)
        assert done == Succeeded(dag_id)
    assert installation.statuses(dag_id) == {"waits_for_a_file": ["SUCCESS"]}
    assert attempts.succeed(execution_id, incarnation=incarnation, result=1) is None


@pytest.mark.parametrize("committed", [True, False])
def test_what_was_claimed_with_a_success_is_sent_though_the_answer_was_lost(
    installation: Installation, attempts: Attempts, committed: bool
) -> None:
    dag_id, execution_id = queued(installation, "chain")
    incarnation = register_worker(installation.engine)
    started = attempts.start(execution_id, worker="test", incarnation=incarnation)
    assert isinstance(started, Started)
    broker = RecordingBroker()
    scheduler = make_scheduler(installation.engine, broker)
    with answer_lost(installation.engine, committed=committed):
        done = attempts.succeed(
            execution_id,
            incarnation=incarnation,
            result=1,
            follow=scheduler.decide_after(started.attempt),
        )
    assert done is not None
    if committed:  # nobody was told what it has claimed: that counts as not sent
        assert installation.attempts(dag_id, "link_1")[-1].published_at is None
    scheduler.advance_after(started.attempt.dag, "link_0", done)
    statuses = installation.statuses(dag_id)
    assert (statuses["link_0"], statuses["link_1"]) == (["SUCCESS"], ["QUEUED"])
    wait_until(lambda: scheduler.tick() and broker.published, timeout=30, message="link_1 is sent")
    assert [each.job_type for each in broker.published] == ["link_1"]


@pytest.mark.promise("P2")
@pytest.mark.parametrize("committed", [True, False])
def test_failure_has_one_successor_though_the_answer_was_lost(
    installation: Installation, attempts: Attempts, committed: bool
) -> None:
    dag_id, execution_id = queued(installation, "flaky")
    incarnation = register_worker(installation.engine)
    attempts.start(execution_id, worker="test", incarnation=incarnation)
    with answer_lost(installation.engine, committed=committed):
        outcome = attempts.fail(
            execution_id, BOOM, countdown=60, incarnation=incarnation, patient=True
        )
    failed, successor = installation.attempts(dag_id)
    assert isinstance(outcome, Retried)
    assert (outcome.dag_id, outcome.successor_id, outcome.retries) == (
        *(dag_id, successor.execution_id),
        1,
    )
    assert timedelta(seconds=50) < timedelta(seconds=outcome.countdown) <= timedelta(minutes=1)
    assert (failed.status, successor.status) == ("FAILED", "QUEUED")


def test_final_failure_is_final_though_the_answer_was_lost(
    installation: Installation, attempts: Attempts
) -> None:
    dag_id, execution_id = queued(installation)
    incarnation = register_worker(installation.engine)
    attempts.start(execution_id, worker="test", incarnation=incarnation)
    with answer_lost(installation.engine):
        outcome = attempts.fail(execution_id, BOOM, incarnation=incarnation, patient=True)
    assert isinstance(outcome, FailedForGood)
    assert outcome.message.startswith("ValueError: boom (not tried again")
    assert installation.statuses(dag_id) == {"waits_for_a_file": ["FAILED"]}


@pytest.mark.parametrize(
    ("sensor", "status"), [("kills_its_process", "SKIPPED"), ("takes_too_long", "SUCCESS")]
)
def test_sensor_has_given_up_though_the_answer_was_lost(
    installation: Installation, attempts: Attempts, sensor: str, status: str
) -> None:
    dag_id, execution_id = queued(installation, "perilous", sensor)
    incarnation = register_worker(installation.engine)
    attempts.start(execution_id, worker="test", incarnation=incarnation)
    with answer_lost(installation.engine):
        outcome = attempts.fail(execution_id, BOOM, incarnation=incarnation, patient=True)
    assert isinstance(outcome, GaveUp)
    assert outcome.message.startswith("ValueError: boom (not tried again")
    assert installation.statuses(dag_id)[sensor] == [status]


def test_failure_told_after_a_success_changes_nothing(
    installation: Installation, attempts: Attempts
) -> None:
    """Its answer was lost, and it was tried again, but something else had ended the attempt."""
    dag_id, execution_id = queued(installation)
    incarnation = register_worker(installation.engine)
    attempts.start(execution_id, worker="test", incarnation=incarnation)
    attempts.succeed(execution_id, incarnation=incarnation, result={"state": "MISSING of nothing"})
    with answer_lost(installation.engine):
        outcome = attempts.fail(execution_id, BOOM, incarnation=incarnation, patient=True)
    assert isinstance(outcome, NotOurs)
    assert installation.statuses(dag_id) == {"waits_for_a_file": ["SUCCESS"]}


@pytest.mark.parametrize("committed", [True, False])
def test_last_lines_of_an_attempt_are_kept_once_though_the_answer_was_lost(
    installation: Installation, attempts: Attempts, committed: bool
) -> None:
    """They are tried again, as the success that follows them is."""
    dag_id, execution_id = queued(installation)
    incarnation = register_worker(installation.engine)
    attempts.start(execution_id, worker="test", incarnation=incarnation)
    attempts.keep_log(execution_id, 1, "first\n", "", last=False)
    with answer_lost(installation.engine, committed=committed):
        attempts.keep_log(execution_id, 2, "head\n", "last words\n", last=True)
    with reading(installation.engine) as connection:
        (found,) = logs.read(connection, dag_id, after={})
    assert [part.text for part in found.parts] == ["first\n", "head\n", "last words\n"]


@pytest.mark.parametrize("committed", [True, False])
def test_lines_of_an_attempt_are_kept_once_though_the_answer_was_lost(
    installation: Installation, attempts: Attempts, committed: bool
) -> None:
    """Also those in its middle, which are tried again beside what has come since."""
    dag_id, execution_id = queued(installation)
    incarnation = register_worker(installation.engine)
    attempts.start(execution_id, worker="test", incarnation=incarnation)
    written = AttemptLog(partial(attempts.keep_log, execution_id))
    with answer_lost(installation.engine, committed=committed) as breaks:
        written.write("stdout", b"once\n")
        wait_until(lambda: bool(breaks), timeout=60)
        written.write("stdout", b"then\n")
        written.close()
    with reading(installation.engine) as connection:
        (found,) = logs.read(connection, dag_id, after={})
    assert [part.text for part in found.parts] == ["once\n", "then\n"]


@pytest.fixture
def gate(postgres_server: PostgresServer) -> Iterator[Gate]:
    with Gate(postgres_server.folder / ".s.PGSQL.5432") as gate:
        yield gate


@contextmanager
def shut_for_a_while(gate: Gate) -> Iterator[None]:
    gate.shut()
    opening = threading.Timer(2, gate.open)
    opening.start()
    yield
    opening.join()


@pytest.mark.promise("P4")
def test_start_result_and_job_wait_for_the_database_and_say_so_once(
    installation: Installation, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    dag_id, execution_id = queued(installation)
    incarnation = register_worker(installation.engine)
    name = installation.engine.url.database
    engine = create_engine(f"postgresql+psycopg://postgres@127.0.0.1:{gate.port}/{name}")
    attempts = make_attempts(engine)

    with shut_for_a_while(gate):
        outcome = attempts.start(execution_id, worker="test", incarnation=incarnation)
    assert isinstance(outcome, Started)
    with shut_for_a_while(gate), attempts.transaction(execution_id, incarnation) as connection:
        connection.exec_driver_sql("UPDATE market_clock SET speed = 2")
    with shut_for_a_while(gate):
        assert attempts.results_of(outcome.attempt, ["a_sensor"]) == {}
    with shut_for_a_while(gate):
        assert not attempts.cancel_asked(execution_id, incarnation)
        done = attempts.succeed(execution_id, incarnation=incarnation, result=1)
        assert done == Succeeded(dag_id)
    engine.dispose()

    assert installation.statuses(dag_id) == {"waits_for_a_file": ["SUCCESS"]}
    said = [record.message for record in caplog.records if record.message.startswith("database_")]
    assert said == [
        *("database_unavailable", "database_back"),
        *("database_unavailable", "database_back"),
        *("database_unavailable", "database_back"),
        *("database_unavailable", "database_unavailable", "database_back"),
    ]


def test_jobs_wait_for_each_others_locks_for_longer_than_our_own_code(
    installation: Installation, attempts: Attempts
) -> None:
    written: list[float] = []

    def write() -> None:
        with attempts.transaction("second", None) as connection:
            connection.exec_driver_sql("UPDATE market_clock SET speed = 3")
            written.append(time.monotonic())

    second = threading.Thread(target=write, daemon=True)
    with attempts.transaction("first", None) as connection:
        connection.exec_driver_sql("UPDATE market_clock SET speed = 2")
        until = time.monotonic() + PATIENCE_SECONDS + 1
        second.start()
        wait_until(
            lambda: time.monotonic() > until or not second.is_alive(),
            timeout=PATIENCE_SECONDS + 30,
            message="the first one thinks",
        )
    second.join(timeout=30)

    assert written
    assert written[0] > until
