"""Workers that are told to stop: they finish what they do, or hand it back at no cost."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.integration.dispatch.conftest import SHORT_LEASE, Installation
from tests.integration.dispatch.test_cancel import CANCELLED, cancel
from tests.servers import (
    PostgresServer,
    Process,
    RedisServer,
    is_alive,
    is_written,
    wait_until,
)


def start(installation: Installation, folder: Path, pipeline: str = "held") -> tuple[str, int]:
    """Start a job that waits for a file; return its run and its process."""
    parameters = {"folder": str(folder), "then": "goes on"}
    dag_id = installation.make_run(pipeline, parameters=parameters)
    return dag_id, running(folder, 1)


def running(folder: Path, attempt: int) -> int:
    file = folder / f"started-{attempt}"
    wait_until(lambda: is_written(file), timeout=90, message=f"{attempt} runs")
    return int(file.read_text())


def test_warm_stop_lets_jobs_end_and_keeps_the_lease_meanwhile(
    installation: Installation, tmp_path: Path
) -> None:
    installation.settings |= SHORT_LEASE
    installation.beat()
    worker = installation.worker()
    dag_id, _ = start(installation, tmp_path)

    worker.send(signal.SIGTERM)
    worker.wait_for("Warm shutdown")
    installation.wait_for_two_leases()
    (tmp_path / "go-1").touch()
    assert worker.wait(60) == 0
    installation.wait_for_run(dag_id, "SUCCESS")

    assert installation.statuses(dag_id) == {"waits_for_a_file": ["SUCCESS"]}
    assert installation.workers()[0].ended_at is not None


@pytest.mark.promise("P2")
@pytest.mark.parametrize("signals", [[signal.SIGQUIT], [signal.SIGTERM, signal.SIGTERM]])
@pytest.mark.parametrize("pipeline", ["held", "asked"])
def test_cold_stop_hands_jobs_back_at_no_cost(
    installation: Installation, tmp_path: Path, signals: list[signal.Signals], pipeline: str
) -> None:
    """Also one that ignores SIGTERM; they start elsewhere within seconds, not after a lease."""
    installation.beat()
    worker = installation.worker()
    dag_id, pid = start(installation, tmp_path, pipeline)
    installation.worker()
    wait_until(lambda: len(installation.workers()) == 2, timeout=60, message="both work")

    stop(worker, signals)
    worker.wait(60)
    assert not is_alive(pid)
    running(tmp_path, 2)

    job_id = "waits_for_a_file" if pipeline == "held" else "ends_when_asked"
    first, second = installation.attempts(dag_id, job_id)
    assert (first.status, first.error_message) == ("FAILED", "handed back: worker stopped")
    assert (second.status, second.retries, second.lost) == ("RUNNING", 0, 0)
    assert second.started_at - first.completed_at < timedelta(seconds=30)  # its worker's lease
    assert not installation.logged("execution_rescued")


@pytest.mark.promise("P2")
def test_second_sigterm_that_interrupts_the_first_ends_running_jobs(
    installation: Installation, tmp_path: Path
) -> None:
    """It comes between Celery's message and the moment from which a second one counts."""
    eager = tmp_path / "eager.py"
    eager.write_text(
        "import signal\n"
        "from celery.signals import worker_shutting_down\n"
        "from prometheus import Pipeline\n"
        "idle = Pipeline('idle', markets=['US_EQ'])\n"
        "@worker_shutting_down.connect(weak=False)\n"
        "def send_another(**_):\n"
        "    worker_shutting_down.disconnect(send_another)\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
    )
    installation.settings["PROMETHEUS__PIPELINES__MODULES"] = f"{eager},{installation.pipelines}"
    installation.beat()
    worker = installation.worker()
    dag_id, pid = start(installation, tmp_path)

    worker.send(signal.SIGTERM)
    worker.wait(60)

    assert not is_alive(pid)
    first, _ = installation.attempts(dag_id)
    assert (first.status, first.error_message) == ("FAILED", "handed back: worker stopped")


def stop(worker: Process, signals: list[signal.Signals]) -> None:
    for number, each in enumerate(signals):
        worker.send(each)
        if number + 1 < len(signals):
            worker.wait_for("Warm shutdown")


def test_soft_stop_gives_jobs_time_and_hands_the_rest_back(
    installation: Installation, tmp_path: Path
) -> None:
    installation.settings["PROMETHEUS__WORKERS__SOFT_STOP"] = "10s"
    installation.beat()
    worker = installation.worker()
    quick, slow = tmp_path / "quick", tmp_path / "slow"
    for folder in (quick, slow):
        folder.mkdir()
    ends, _ = start(installation, quick, "retried")
    stays, _ = start(installation, slow)

    worker.send(signal.SIGTERM)
    worker.wait_for("Warm shutdown")
    assert is_alive(worker.pid)
    (quick / "go-1").touch()
    worker.wait(60)

    failed = installation.attempts(ends)[0]
    assert failed.error_message == "RuntimeError: told to fail"
    assert installation.attempts(stays)[0].error_message == "handed back: worker stopped"
    assert installation.statuses(stays) == {"waits_for_a_file": ["FAILED", "QUEUED"]}


def test_soft_stop_waits_for_no_longer_than_jobs_run(
    installation: Installation, tmp_path: Path
) -> None:
    installation.settings["PROMETHEUS__WORKERS__SOFT_STOP"] = "1h"
    installation.beat()
    worker = installation.worker()
    dag_id, _ = start(installation, tmp_path)

    worker.send(signal.SIGTERM)
    worker.wait_for("Warm shutdown")
    (tmp_path / "go-1").touch()
    assert worker.wait(60) == 0
    installation.wait_for_run(dag_id, "SUCCESS")


def test_job_that_was_asked_to_end_is_not_handed_back(
    installation: Installation, tmp_path: Path
) -> None:
    installation.beat()
    worker = installation.worker()
    dag_id, _ = start(installation, tmp_path, "asked")

    cancel(installation, dag_id, timedelta(hours=1))
    worker.send(signal.SIGQUIT)
    worker.wait(30)
    installation.wait_for_run(dag_id, "CANCELLED")

    assert installation.statuses(dag_id) == CANCELLED


def test_message_that_a_stopping_worker_holds_is_not_lost(
    installation: Installation, tmp_path: Path
) -> None:
    installation.beat()
    worker = installation.worker(concurrency=1)
    dag_id, _ = start(installation, tmp_path)
    waiting = installation.make_run("joined")
    wait_until(
        lambda: installation.attempts(waiting, "left")[0].published_at,
        timeout=30,
        message="its messages are sent",
    )

    worker.send(signal.SIGQUIT)
    worker.wait(30)
    installation.worker()

    installation.wait_for_run(waiting, "SUCCESS", timeout=120)
    (tmp_path / "go-2").touch()
    installation.wait_for_run(dag_id, "SUCCESS")


def test_no_process_is_left_after_a_stop(installation: Installation, tmp_path: Path) -> None:
    worker = installation.worker()
    installation.beat()
    _, pid = start(installation, tmp_path, "asked")
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait(30)
    wait_until(lambda: not is_alive(pid), timeout=10, message="its child dies with it")


def test_idle_worker_ends_while_redis_and_the_database_are_away(
    spare_installation: tuple[Installation, PostgresServer], spare_redis: RedisServer
) -> None:
    installation, server = spare_installation
    worker = replace(installation, redis_url=spare_redis.url).worker()
    wait_until(installation.workers, timeout=60, message="it works")

    spare_redis.kill()
    server.kill()
    worker.send(signal.SIGTERM)

    assert worker.wait(120) == 0


@pytest.mark.slow
def test_worker_that_hands_back_ends_while_redis_and_the_database_are_away(
    spare_installation: tuple[Installation, PostgresServer],
    spare_redis: RedisServer,
    tmp_path: Path,
) -> None:
    """They go while it ends its jobs; then Celery has a heartbeat to send, and tries for ever."""
    installation, server = spare_installation
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import pathlib, time\n"
        "from celery.signals import worker_ready\n"
        "from prometheus import Pipeline\n"
        "idle = Pipeline('idle', markets=['US_EQ'])\n"
        "@worker_ready.connect(weak=False)\n"
        "def take_time(**_):\n"
        "    from workers.requests import JobRequest\n"
        "    cancel = JobRequest.cancel\n"
        "    def cancel_slowly(*arguments, **options):\n"
        "        cancel(*arguments, **options)\n"
        "        folder = pathlib.Path(__file__).parent\n"
        "        (folder / 'ending').touch()\n"
        "        while not (folder / 'gone').exists():\n"
        "            time.sleep(0.1)\n"
        "        time.sleep(4)  # two heartbeats\n"
        "    JobRequest.cancel = cancel_slowly\n"
    )
    installation.settings["PROMETHEUS__PIPELINES__MODULES"] = f"{slow},{installation.pipelines}"
    installation = replace(installation, redis_url=spare_redis.url)
    installation.beat()
    worker = installation.worker()
    _, pid = start(installation, tmp_path)

    worker.send(signal.SIGQUIT)
    wait_until((tmp_path / "ending").exists, timeout=60, message="it ends its job")
    spare_redis.kill()
    server.kill()
    (tmp_path / "gone").touch()

    worker.wait(120)
    assert "worker_stuck" in worker.output()
    assert not is_alive(pid)
