"""A worker that stands still, is given up, and comes back."""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Connection, func, select, text, update
from sqlalchemy.exc import DBAPIError

from prometheus.persistence import executions, runs
from prometheus.persistence.engine import PATIENCE_SECONDS, reading, writing
from prometheus.persistence.tables import audit, worker_incarnations
from tests.integration.dispatch.conftest import SHORT_LEASE, Installation
from tests.integration.dispatch.schedulers import (
    LEASE,
    RecordingBroker,
    make_attempts,
    make_scheduler,
    register_worker,
)
from tests.servers import Process, is_alive, is_written, wait_until

ORPHANED_CHILD = Path(__file__).parent / "orphaned_child.py"


def running(folder: Path, attempt: int) -> int:
    file = folder / f"started-{attempt}"
    wait_until(lambda: is_written(file), timeout=90, message=f"{attempt} runs")
    return int(file.read_text())


def send_all(family: list[psutil.Process], number: signal.Signals) -> None:
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def wrote(installation: Installation) -> list[str]:
    """Return the attempts whose transaction was committed."""
    with reading(installation.engine) as connection:
        return list(
            connection.execute(select(audit.c.target).where(audit.c.action == "wrote")).scalars()
        )


@pytest.mark.promise("P2")
@pytest.mark.parametrize("first", ["all", "main"])
@pytest.mark.parametrize("lease", ["6s", pytest.param("30s", marks=pytest.mark.slow)])
def test_worker_that_comes_back_can_not_finish_and_holds_nothing_up(
    installation: Installation, tmp_path: Path, lease: str, first: str
) -> None:
    """
    It is frozen inside a transaction, which holds the row that the next attempt writes too.

    Woken all at once, the attempt may fail at its commit before its main process ends it.
    """
    installation.settings |= {**SHORT_LEASE, "PROMETHEUS__WORKERS__LEASE": lease}
    installation.beat()
    frozen = installation.worker(concurrency=1)
    dag_id = installation.make_run("writes", parameters={"folder": str(tmp_path), "waits": "after"})
    pid = running(tmp_path, 1)
    family = frozen.family()

    send_all(family, signal.SIGSTOP)
    installation.worker(concurrency=1)
    running(tmp_path, 2)  # it has the lock that the frozen attempt had
    (tmp_path / "go-2").touch()
    installation.wait_for_run(dag_id, "SUCCESS")
    (tmp_path / "go-1").touch()
    if first == "all":
        send_all(family, signal.SIGCONT)
    else:
        frozen.send(signal.SIGCONT)
    wait_until(lambda: "lease_lost" in frozen.output(), timeout=60, message="it learns of it")
    wait_until(
        lambda: not is_alive(pid) or (first == "all" and "report_came_late" in frozen.output()),
        timeout=30,
        message="what it ran is ended",
    )
    send_all(family, signal.SIGCONT)

    lost, after = installation.attempts(dag_id)
    assert (lost.status, after.status) == ("FAILED", "SUCCESS")
    assert lost.error_message.startswith("worker lost: host ")
    assert (after.retries, after.lost) == (0, 1)
    assert after.started_at - lost.started_at < timedelta(seconds=45)
    assert wrote(installation) == ["attempt 2"]
    works_again(installation, frozen)


def works_again(installation: Installation, frozen: Process) -> None:
    """It goes on with new work, under a new name."""
    wait_until(lambda: len(installation.workers()) == 3, timeout=30, message="it registers anew")
    assert frozen.running


@pytest.mark.promise("P2")
def test_commit_of_an_attempt_that_was_given_up_is_refused(
    installation: Installation, tmp_path: Path
) -> None:
    """Only its main process stood still: the job itself goes on, and commits too late."""
    installation.settings |= SHORT_LEASE
    installation.beat()
    # Given up after the beat's lease, long before the worker's own would end the job.
    frozen = replace(installation, settings={}).worker(concurrency=1)
    dag_id = installation.make_run(
        "writes", parameters={"folder": str(tmp_path), "waits": "before"}
    )
    running(tmp_path, 1)

    frozen.send(signal.SIGSTOP)
    with writing(installation.engine) as connection:
        connection.execute(update(worker_incarnations).values(expires_at=func.now()))
    wait_until(
        lambda: installation.attempts(dag_id)[0].status == "FAILED", timeout=60, message="given up"
    )
    (tmp_path / "go-1").touch()
    wait_until(lambda: "report_came_late" in frozen.output(), timeout=60, message="it is refused")
    frozen.send(signal.SIGCONT)

    assert wrote(installation) == []
    assert installation.attempts(dag_id)[0].error_message.startswith("worker lost")
    assert installation.attempts(dag_id)[1].lost == 1


def test_job_does_not_go_on_beside_its_successor_when_its_main_process_stands_still(
    installation: Installation, tmp_path: Path
) -> None:
    installation.settings |= {**SHORT_LEASE, "PROMETHEUS__WORKERS__LEASE": "15s"}
    installation.beat()
    frozen = installation.worker(concurrency=1)
    dag_id = installation.make_run("held", parameters={"folder": str(tmp_path)})
    pid = running(tmp_path, 1)

    frozen.send(signal.SIGSTOP)
    installation.worker(concurrency=1)
    running(tmp_path, 2)
    alive = is_alive(pid)
    (tmp_path / "go-2").touch()
    installation.wait_for_run(dag_id, "SUCCESS")

    assert not alive
    assert "worker_frozen" in frozen.output()
    frozen.send(signal.SIGCONT)
    works_again(installation, frozen)


def test_children_do_not_end_before_their_worker_has_its_first_lease(
    installation: Installation,
) -> None:
    """Celery may start them first, and a busy machine takes its time over the rest."""
    child = installation.start_process("python", ORPHANED_CHILD, env=installation.env, name="child")
    assert child.wait(60) == -signal.SIGKILL, child.output()
    assert "alive without a lease" in child.output()


def test_job_frozen_in_its_commit_does_not_hold_its_row_for_a_lease(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker's renewal waits for the row, and all that the worker runs for the renewal."""
    installation.make_run("held", parameters={"folder": "unused"})
    broker = RecordingBroker()
    make_scheduler(installation.engine, broker).tick()
    (execution_id,) = (each.execution_id for each in broker.published)
    attempts, worker = make_attempts(installation.engine), register_worker(installation.engine)
    attempts.start(execution_id, worker="test", incarnation=worker)
    fenced = executions.fenced
    held_for: list[float] = []

    def stand_still(connection: Connection, *args: str) -> bool:
        taken = fenced(connection, *args)
        began = time.monotonic()
        with writing(installation.engine) as other:
            other.execute(text("SET LOCAL lock_timeout = '90s'"))
            runs.lock_in_order(other, [execution_id])
        held_for.append(time.monotonic() - began)
        return taken

    monkeypatch.setattr(executions, "fenced", stand_still)
    with pytest.raises(DBAPIError), attempts.transaction(execution_id, worker):
        pass
    assert held_for[0] < LEASE.total_seconds() / 2


def test_job_may_think_in_its_transaction_for_longer_than_our_own_code(
    installation: Installation, tmp_path: Path
) -> None:
    installation.beat()
    installation.worker(concurrency=1)
    dag_id = installation.make_run("writes", parameters={"folder": str(tmp_path), "waits": "after"})
    running(tmp_path, 1)

    idle = PATIENCE_SECONDS + 2
    until = time.monotonic() + idle
    wait_until(lambda: time.monotonic() > until, timeout=idle + 30, message="it thinks")
    (tmp_path / "go-1").touch()
    installation.wait_for_run(dag_id, "SUCCESS")

    assert wrote(installation) == ["attempt 1"]
