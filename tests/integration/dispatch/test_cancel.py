"""Cancelling what runs: the job is asked first, and killed when the operator's grace is over."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from prometheus.persistence import operators
from prometheus.persistence.engine import writing
from prometheus.persistence.operators import Cancelled
from tests.integration.dispatch.conftest import Installation
from tests.servers import is_alive, is_written, wait_until

CANCELLED = {"ends_when_asked": ["CANCELLED"], "after_it": ["SKIPPED"]}


def cancel(installation: Installation, dag_id: str, grace: timedelta) -> list[Cancelled]:
    with writing(installation.engine) as connection:
        return operators.cancel(
            connection, dag_id, "ends_when_asked", actor="ann@desk", grace=grace
        )


def started(installation: Installation, folder: Path, then: str) -> tuple[str, int]:
    """Start the job that is to be cancelled; return its run and its process."""
    dag_id = installation.make_run("asked", parameters={"folder": str(folder), "then": then})
    file = folder / "started-1"
    wait_until(lambda: is_written(file), timeout=60, message="attempt 1 runs")
    return dag_id, int(file.read_text())


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ("returns", "cancelled by ann@desk"),
        ("raises", "cancelled by ann@desk: RuntimeError: stopped half way"),
    ],
)
def test_job_that_ends_when_it_is_asked_is_cancelled_however_it_ends(
    any_installation: Installation, tmp_path: Path, then: str, message: str
) -> None:
    any_installation.beat()
    any_installation.worker()
    dag_id, pid = started(any_installation, tmp_path, then)

    cancel(any_installation, dag_id, timedelta(hours=1))
    any_installation.wait_for_run(dag_id, "CANCELLED")

    assert any_installation.statuses(dag_id) == CANCELLED
    assert any_installation.attempts(dag_id, "ends_when_asked")[0].error_message == message
    assert is_alive(pid), "the worker's process goes on with other work"


def test_job_that_does_not_end_in_time_is_killed_and_its_worker_goes_on(
    installation: Installation, tmp_path: Path
) -> None:
    """Its worker learns of it by its lease alone, and takes the kill for no failure."""
    installation.settings["PROMETHEUS__WORKERS__RENEWAL"] = "1s"
    installation.beat()
    worker = installation.worker(concurrency=1)
    dag_id, pid = started(installation, tmp_path, "goes on")

    (asked,) = cancel(installation, dag_id, timedelta(seconds=2))
    installation.wait_for_run(dag_id, "CANCELLED")
    wait_until(lambda: not is_alive(pid), timeout=30, message="the process is killed")

    assert installation.statuses(dag_id) == CANCELLED
    (row,) = installation.attempts(dag_id, "ends_when_asked")
    assert row.error_message == "cancelled by ann@desk: it had not ended in time"
    assert asked.cancel_at is not None
    assert timedelta(0) <= row.completed_at - asked.cancel_at <= timedelta(seconds=15)
    other = installation.make_run("joined")
    installation.wait_for_run(other, "SUCCESS")
    assert len(installation.workers()) == 1
    assert worker.running
    assert not installation.logged("report_came_late")
    assert not installation.logged("job_failed")


def test_job_that_is_cancelled_without_grace_is_killed_at_once(
    installation: Installation, tmp_path: Path
) -> None:
    installation.settings["PROMETHEUS__WORKERS__RENEWAL"] = "1s"
    installation.worker(concurrency=1)
    beat = installation.beat()
    dag_id, pid = started(installation, tmp_path, "goes on")
    beat.end()  # nobody but the operator and the worker is needed

    cancel(installation, dag_id, timedelta(0))
    wait_until(lambda: not is_alive(pid), timeout=30, message="the process is killed")

    assert installation.statuses(dag_id)["ends_when_asked"] == ["CANCELLED"]
