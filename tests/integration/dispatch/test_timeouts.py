"""Jobs that wait for too long: told in words, and in time."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.integration.dispatch.conftest import Installation
from tests.integration.dispatch.schedulers import RecordingBroker, make_scheduler
from tests.servers import is_written, wait_until


@pytest.mark.promise("P7")
def test_job_that_no_worker_takes_expires_and_on_failure_is_called(
    installation: Installation, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    dag_id = installation.make_run("impatient", parameters={"told": str(told)})
    installation.beat()

    installation.wait_for_run(dag_id, "FAILED")

    (waited,) = installation.attempts(dag_id, "waits_two_seconds")
    (below,) = installation.attempts(dag_id, "waits_for_it")
    reason = "no worker took it from its queue within its queue_timeout, 2s"
    assert (waited.status, waited.error_message) == ("EXPIRED", reason)
    assert (below.status, below.error_message) == (
        "SKIPPED",
        "upstream waits_two_seconds is EXPIRED",
    )
    # The tick came for it: not a whole pause later.
    assert waited.completed_at - waited.scheduled_at < timedelta(seconds=4.5)
    assert waited.completed_at - waited.scheduled_at >= timedelta(seconds=2)

    installation.worker()
    wait_until(lambda: is_written(told), timeout=60, message="on_failure is called")
    assert told.read_text() == f"waits_two_seconds 1 {reason}\n"


def test_job_that_runs_when_its_run_has_had_its_time_is_asked_to_end_and_on_failure_is_called(
    installation: Installation, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    beat = installation.beat()
    installation.worker()
    wait_until(installation.workers, timeout=60, message="the worker registers")
    parameters = {"folder": str(tmp_path), "told": str(told)}
    dag_id = installation.make_run("overdue", parameters=parameters)

    installation.wait_for_run(dag_id, "CANCELLED")

    (row,) = installation.attempts(dag_id)
    assert (row.status, row.error_message) == ("CANCELLED", "cancelled by its run_timeout, 15s")
    assert (tmp_path / "asked").exists()
    assert beat.output().count("job_asked_to_end") == 1
    wait_until(lambda: is_written(told), timeout=30, message="on_failure is called")
    assert told.read_text() == f"works_until_it_is_asked 1 {row.error_message}\n"


def test_run_that_takes_too_long_ends(installation: Installation) -> None:
    dag_id = installation.make_run("hurried")
    scheduler = make_scheduler(installation.engine, RecordingBroker())

    assert scheduler.tick() < timedelta(seconds=3)

    wait_until(
        lambda: scheduler.tick() and installation.run_status(dag_id) == "FAILED",
        timeout=30,
        interval=0.2,
        message="the run ends",
    )
    (row,) = installation.attempts(dag_id)
    assert (row.status, row.error_message) == (
        "EXPIRED",
        "its run took longer than its run_timeout, 3s",
    )
