"""How attempts end, on PostgreSQL and Redis with real workers."""

from __future__ import annotations

import os
import signal
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from sqlalchemy import update

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.persistence import operators
from prometheus.persistence.clock import read_now
from prometheus.persistence.engine import writing
from prometheus.persistence.tables import job_executions
from tests.integration.dispatch.conftest import SHORT_LEASE, Installation
from tests.servers import PostgresServer, RedisServer, is_alive, wait_until


def test_job_that_fails_twice_leaves_three_rows_with_doubling_bounds(
    installation: Installation,
) -> None:
    installation.beat()
    for _ in range(3):
        installation.worker()
    dag_id = installation.make_run("flaky")

    installation.wait_for_run(dag_id, "SUCCESS")

    rows = installation.attempts(dag_id)
    assert [row.status for row in rows] == ["FAILED", "FAILED", "SUCCESS"]
    assert [row.attempt_number for row in rows] == [1, 2, 3]
    assert [row.retries for row in rows] == [0, 1, 2]
    assert [row.retry_bound_seconds for row in rows] == [None, 1, 2]
    assert all(0 <= row.retry_delay_seconds <= row.retry_bound_seconds for row in rows[1:])
    assert rows[0].error_message == "RuntimeError: attempt 1 does not work"
    assert "attempt 1 does not work" in rows[0].error_details["traceback"]
    assert rows[2].result == {"attempt": 3}
    for before, after in pairwise(rows):
        assert after.started_at >= after.scheduled_at >= before.completed_at


@pytest.mark.slow
def test_attempt_over_its_limit_times_out_and_is_retried(installation: Installation) -> None:
    installation.beat()
    installation.worker()
    dag_id = installation.make_run("limits")

    installation.wait_for_run(dag_id, "SUCCESS", timeout=120)

    first, second = installation.attempts(dag_id, "too_slow_once")
    assert (first.status, first.error_message) == ("FAILED", "timed out after 2 s")
    assert second.status == "SUCCESS"
    # The soft limit is 3 s; a job that swallows it is killed 30 s later.
    first, second = installation.attempts(dag_id, "swallows_the_soft_limit")
    assert (first.status, first.error_message) == (
        "FAILED",
        "did not end within 30 s of its time limit, 3 s: killed",
    )
    assert second.status == "SUCCESS"
    # Celery counts from when the child took the message, a moment before the row says so.
    assert (first.completed_at - first.started_at).total_seconds() > 30


@pytest.mark.parametrize("fails", [False, True], ids=["success", "failure"])
def test_limit_that_strikes_while_a_write_waits_for_another_changes_nothing(
    sqlite_installation: Installation, tmp_path: Path, fails: bool
) -> None:
    """The job ends in time; only that somebody else writes to the file keeps it from saying so."""
    installation = sqlite_installation
    dag_id = _run_brief(installation, tmp_path, fails=fails)

    with writing(installation.engine):
        _end_and_outlive_the_limit(installation, tmp_path)
        assert installation.statuses(dag_id) == {"ends_when_told": ["RUNNING"]}

    installation.wait_for_run(dag_id, "SUCCESS")
    expected = ["FAILED", "SUCCESS"] if fails else ["SUCCESS"]
    assert installation.statuses(dag_id) == {"ends_when_told": expected}
    if fails:
        first = installation.attempts(dag_id)[0]
        assert first.error_message == "RuntimeError: told to fail"


def test_limit_that_strikes_while_the_database_is_away_does_not_cost_a_success(
    spare_installation: tuple[Installation, PostgresServer], tmp_path: Path
) -> None:
    installation, server = spare_installation
    dag_id = _run_brief(installation, tmp_path, fails=False)

    server.stop()
    _end_and_outlive_the_limit(installation, tmp_path)
    server.start()

    installation.wait_for_run(dag_id, "SUCCESS")
    assert installation.statuses(dag_id) == {"ends_when_told": ["SUCCESS"]}


def _run_brief(installation: Installation, folder: Path, *, fails: bool) -> str:
    installation.beat()
    installation.worker()
    dag_id = installation.make_run("brief", parameters={"folder": str(folder), "fails": fails})
    wait_until(lambda: (folder / "started-1").exists(), timeout=60, message="attempt 1 runs")
    return dag_id


def _end_and_outlive_the_limit(installation: Installation, folder: Path) -> None:
    for name in ("go-1", "go-2"):
        (folder / name).touch()
    wait_until(lambda: (folder / "ended-1").exists(), timeout=30, message="attempt 1 ends")
    assert not installation.logged("Soft time limit"), "the job ends in time"
    wait_until(
        lambda: installation.logged("Soft time limit (4s) exceeded"),
        timeout=30,
        message="the limit strikes",
    )


def test_failure_skips_what_is_below_it_and_a_retry_finishes_the_run(
    any_installation: Installation,
) -> None:
    installation = any_installation
    installation.beat()
    installation.worker()
    dag_id = installation.make_run("broken")

    installation.wait_for_run(dag_id, "FAILED")

    assert installation.statuses(dag_id) == {
        "fails": ["FAILED"],
        "below": ["SKIPPED"],
        "further_below": ["SKIPPED"],
        "beside": ["SUCCESS"],
    }
    (below,) = installation.attempts(dag_id, "below")
    assert below.error_message == "upstream fails is FAILED"
    (failed,) = installation.attempts(dag_id, "fails")
    assert failed.error_message == (
        "ValueError: the vendor sent nothing (not tried again: attempt 1, max_retries is 0)"
    )

    with writing(installation.engine) as connection:
        operators.retry(connection, dag_id, actor="test")
    installation.wait_for_run(dag_id, "SUCCESS")

    assert installation.statuses(dag_id) == {
        "fails": ["FAILED", "SUCCESS"],
        "below": ["SKIPPED", "SUCCESS"],
        "further_below": ["SKIPPED", "SUCCESS"],
        "beside": ["SUCCESS"],
    }


@pytest.mark.promise("P2")
def test_child_that_dies_is_recorded_and_tried_again(
    any_installation: Installation, tmp_path: Path
) -> None:
    """
    Several at once: the pool forks new children while the worker writes of the dead ones.

    What they had started ends before the next attempt begins.
    """
    installation = any_installation
    installation.beat()
    installation.worker(concurrency=4)
    sessions = TradingCalendar("US_EQ").trading_days(date(2026, 10, 1), date(2026, 10, 20))[:8]
    left = [tmp_path / f"left-{session}" for session in sessions]
    dag_ids = [
        installation.make_run("dying", session=session, parameters={"left": str(file)})
        for session, file in zip(sessions, left, strict=True)
    ]

    for dag_id in dag_ids:
        installation.wait_for_run(dag_id, "SUCCESS", timeout=120)

    for dag_id in dag_ids:
        first, second = installation.attempts(dag_id)
        assert first.status == "FAILED"
        assert first.error_message.startswith("its process ended: ")
        assert (second.status, second.retries) == ("SUCCESS", 1)
    assert not any(is_alive(int(file.read_text())) for file in left)


def test_result_that_can_not_be_kept_fails_the_attempt(installation: Installation) -> None:
    installation.beat()
    installation.worker()
    dag_id = installation.make_run("returns")

    installation.wait_for_run(dag_id, "FAILED")

    (not_json,) = installation.attempts(dag_id, "returns_a_set")
    assert "returns_a_set returned set, which is not JSON" in not_json.error_message
    (too_much,) = installation.attempts(dag_id, "returns_too_much")
    assert "at most 65536 are kept with an attempt" in too_much.error_message


@pytest.mark.promise("P4")
def test_retry_while_redis_is_away_loses_neither_error_nor_retry(
    installation: Installation, spare_redis: RedisServer, tmp_path: Path
) -> None:
    installation.redis_url = spare_redis.url
    installation.beat()
    installation.worker()
    dag_id = installation.make_run("retried", parameters={"folder": str(tmp_path)})
    wait_until(lambda: (tmp_path / "started-1").exists(), timeout=60, message="attempt 1 runs")

    spare_redis.stop()
    (tmp_path / "go-2").touch()
    (tmp_path / "go-1").touch()
    wait_until(
        lambda: installation.statuses(dag_id)["fails_when_told"] == ["FAILED", "QUEUED"],
        timeout=60,
        message=lambda: f"failure and successor are written: {installation.statuses(dag_id)}",
    )
    spare_redis.start()

    installation.wait_for_run(dag_id, "SUCCESS", timeout=120)
    first, second = installation.attempts(dag_id)
    assert first.error_message == "RuntimeError: told to fail"
    assert (second.status, second.retries) == ("SUCCESS", 1)


@pytest.mark.slow
@pytest.mark.promise("P4")
def test_worker_killed_during_a_job_costs_one_attempt(
    installation: Installation, tmp_path: Path
) -> None:
    installation.beat()
    first_worker = installation.worker()
    dag_id = installation.make_run("held", parameters={"folder": str(tmp_path)})
    wait_until(lambda: (tmp_path / "started-1").exists(), timeout=60, message="attempt 1 runs")
    # The beat rescues nobody before it has had the database for one lease.
    (tmp_path / "go-2").touch()

    os.kill(first_worker.pid, signal.SIGKILL)
    installation.worker()
    wait_until(
        lambda: installation.statuses(dag_id)["waits_for_a_file"][0] == "FAILED",
        timeout=45,
        message=lambda: f"attempt 1 is FAILED: {installation.attempts(dag_id)}",
    )
    installation.wait_for_run(dag_id, "SUCCESS")

    lost, after = installation.attempts(dag_id)
    assert lost.error_message.startswith("worker lost: host ")
    assert f"pid {first_worker.pid}" in lost.error_message
    assert (after.lost, after.retries, after.retry_delay_seconds) == (1, 0, 0)


def test_cancelled_attempt_can_not_be_reported_as_a_success(
    installation: Installation, tmp_path: Path
) -> None:
    installation.beat()
    installation.worker()
    dag_id = installation.make_run("held", parameters={"folder": str(tmp_path)})
    wait_until(lambda: (tmp_path / "started-1").exists(), timeout=60, message="attempt 1 runs")

    with writing(installation.engine) as connection:
        operators.cancel(connection, dag_id, actor="test", grace=timedelta(0))
    (tmp_path / "go-1").touch()

    wait_until(
        lambda: installation.logged("success_came_late"),
        timeout=30,
        message="the late success is refused",
    )
    assert installation.statuses(dag_id) == {"waits_for_a_file": ["CANCELLED"]}
    assert installation.run_status(dag_id) == "CANCELLED"


@pytest.mark.promise("P8")
def test_lost_message_is_sent_again(installation: Installation) -> None:
    dag_id = installation.make_run("flaky")
    # As if a first message had been sent half a minute ago and Redis had lost it.
    with writing(installation.engine) as connection:
        long_ago = read_now(connection).wall_at.replace(year=2020)
        connection.execute(
            update(job_executions).values(
                status="QUEUED", scheduled_at=long_ago, published_at=long_ago, publish_count=1
            )
        )
    installation.worker()
    installation.beat()

    installation.wait_for_run(dag_id, "SUCCESS")
    first = installation.attempts(dag_id)[0]
    assert first.publish_count == 2


@pytest.mark.promise("P7")
def test_on_failure_is_called_once_for_a_final_failure(
    installation: Installation, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    installation.beat()
    worker = installation.worker()
    dag_id = installation.make_run("hooked", parameters={"told": str(told)})

    installation.wait_for_run(dag_id, "FAILED")
    wait_until(told.exists, timeout=30, message="on_failure was called")
    worker.wait_for("failure_told")

    # A second run's call comes after anything that was still on its way for the first.
    other = installation.make_run("hooked", market="EU_EQ", parameters={"told": str(told)})
    installation.worker(queues="EU_EQ")
    installation.wait_for_run(other, "FAILED")
    wait_until(lambda: len(told.read_text().splitlines()) >= 2, timeout=30, message="second call")
    assert (
        told.read_text().splitlines()
        == ["always_fails 2 RuntimeError: no (not tried again: attempt 2, max_retries is 1)"] * 2
    )


@pytest.mark.promise("P4")
def test_worker_keeps_its_lease_while_redis_is_away(
    installation: Installation, spare_redis: RedisServer, tmp_path: Path
) -> None:
    installation.settings |= SHORT_LEASE
    installation.redis_url = spare_redis.url
    installation.beat()
    installation.worker()
    dag_id = installation.make_run("held", parameters={"folder": str(tmp_path)})
    wait_until(lambda: (tmp_path / "started-1").exists(), timeout=60, message="attempt 1 runs")
    spare_redis.stop()
    (stopped,) = installation.workers()

    # For three leases nothing but the worker's own thread keeps it alive.
    wait_until(
        lambda: installation.workers()[0].renewed_at - stopped.renewed_at > timedelta(seconds=18),
        timeout=60,
        message="the lease is renewed all the while",
    )
    (tmp_path / "go-1").touch()
    installation.wait_for_run(dag_id, "SUCCESS")

    assert installation.statuses(dag_id) == {"waits_for_a_file": ["SUCCESS"]}
    spare_redis.start()


def test_worker_that_was_given_up_while_it_stood_still_works_on_as_another(
    installation: Installation, tmp_path: Path
) -> None:
    installation.settings |= SHORT_LEASE
    installation.beat()
    worker = installation.worker(concurrency=1)
    dag_id = installation.make_run("held", parameters={"folder": str(tmp_path)})
    wait_until(lambda: (tmp_path / "started-1").exists(), timeout=60, message="attempt 1 runs")
    pids = [worker.pid, *(child.pid for child in psutil.Process(worker.pid).children())]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    wait_until(
        lambda: installation.statuses(dag_id)["waits_for_a_file"] == ["FAILED", "QUEUED"],
        timeout=60,
        message=lambda: f"the worker is given up: {installation.statuses(dag_id)}",
    )
    for name in ("go-1", "go-2"):
        (tmp_path / name).touch()
    # The pool process first: either could be the faster one, and the worker ends the attempt as
    # soon as it hears that it was given up.
    for pid in pids[1:]:
        os.kill(pid, signal.SIGCONT)
    wait_until(
        lambda: installation.logged("success_came_late"),
        timeout=60,
        message="the success of attempt 1 comes late",
    )
    os.kill(worker.pid, signal.SIGCONT)

    installation.wait_for_run(dag_id, "SUCCESS")

    lost, after = installation.attempts(dag_id)
    assert lost.error_message.startswith("worker lost: ")
    assert after.status == "SUCCESS"
    assert after.worker == lost.worker
    assert after.incarnation != lost.incarnation


def test_error_that_no_database_could_hold_is_kept(installation: Installation) -> None:
    installation.beat()
    installation.worker()
    dag_id = installation.make_run("unprintable")

    installation.wait_for_run(dag_id, "FAILED")

    (raised,) = installation.attempts(dag_id, "raises_it")
    assert raised.error_message.startswith("FileNotFoundError: a\\x00b \\udce9")
    (returned,) = installation.attempts(dag_id, "returns_it")
    assert "is not JSON" in returned.error_message
    (named,) = installation.attempts(dag_id, "returns_its_name")
    assert named.result == ["\\u0000", "\\"]


def test_error_that_says_it_is_hopeless_fails_the_job_at_once(installation: Installation) -> None:
    installation.beat()
    installation.worker()
    dag_id = installation.make_run("hopeless")

    installation.wait_for_run(dag_id, "FAILED")

    (only,) = installation.attempts(dag_id)
    assert only.error_message == (
        "NoTokenError: the token was refused "
        "(not tried again: the error says that it would not help)"
    )


def test_retry_waits_for_the_instant_that_the_error_names(installation: Installation) -> None:
    """Without a message in the meantime: the broker would hand it out twice."""
    installation.beat()
    installation.worker()
    dag_id = installation.make_run("spent")

    installation.wait_for_run(dag_id, "SUCCESS")

    first, second = installation.attempts(dag_id)
    assert first.error_message.startswith("PrometheusError: the quota is spent (next try not ")
    until = first.started_at + timedelta(seconds=5)
    assert until <= second.scheduled_at <= second.started_at
    # What has finished before it was noted that a message was sent is left as it is.
    noted = second.published_at is not None
    assert (second.retries, second.publish_count) == (1, int(noted))
    assert not noted or second.scheduled_at <= second.published_at
