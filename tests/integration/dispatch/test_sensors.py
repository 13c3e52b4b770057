"""Sensors in real workers: they wait without holding one, and tell what comes after them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from prometheus.persistence.engine import reading
from prometheus.verification import check
from tests.integration.dispatch.conftest import SHORT_LEASE, Installation
from tests.servers import REPOSITORY, wait_until


def test_sensors_wait_give_up_and_tell_the_jobs_after_them(
    any_installation: Installation, tmp_path: Path
) -> None:
    """One process is enough for four sensors that wait at once."""
    installation = any_installation
    installation.beat()
    installation.worker(concurrency=1)
    dag_id = installation.make_run("watchful", parameters={"folder": str(tmp_path)})
    wait_until(
        lambda: len(installation.attempts(dag_id, "sees_a_file")) > 4,
        timeout=60,
        message=lambda: str(installation.statuses(dag_id)),
    )
    shown = ""

    def tells_when_it_asks_again() -> bool:
        nonlocal shown
        shown = _status(installation, dag_id)
        return "waits: it is asked again at 20" in shown and "; no file" in shown

    wait_until(tells_when_it_asks_again, timeout=60, message=lambda: shown)
    (tmp_path / "come").touch()
    installation.wait_for_run(dag_id, "SUCCESS")

    statuses = installation.statuses(dag_id)
    # The vendor was away once; no other poll is a failure.
    assert statuses["sees_a_file"].count("FAILED") == 1
    assert set(statuses["sees_a_file"]) == {"SUCCESS", "FAILED"}
    assert statuses["never_comes"] == statuses["comes_elsewhere"] == ["SUCCESS"]
    assert statuses["is_done_without"] == statuses["is_not_run"] == ["SKIPPED"]
    polls = installation.attempts(dag_id, "sees_a_file")
    assert [row.result["after"] for row in polls if row.status == "SUCCESS"][2] == 3
    assert polls[-1].result["state"] == "READY"
    (then,) = installation.attempts(dag_id, "goes_on")
    assert then.result == {"stale": False, "sees_a_file": polls[-1].result}
    (last,) = installation.attempts(dag_id, "goes_on_with_less")
    assert last.result["stale"] is True
    assert last.result["sensors"] == ["comes_elsewhere", "never_comes", "sees_a_file"]
    # Of US_EQ they would be the bundled ones.
    assert last.result["names"][0] == last.result["names"][1]
    with reading(installation.engine) as connection:
        report = check(connection)
    assert [each for each in report.violations if each.rule != "closed-day"] == []
    said = [line for process in installation.processes for line in process.output().splitlines()]
    told = [line for line in said if "ERROR" in line and "sensor_gave_up" in line]
    assert sorted(line.partition(" job=")[2].split()[0] for line in told) == [
        "comes_elsewhere",
        "is_done_without",
        "never_comes",
    ]

    lines = [line for line in shown.splitlines() if "sees_a_file" in line or "NOT YET" in line]
    assert any("NOT YET" in line for line in lines)
    assert shown.count("NOT YET") <= 2, "one line for all polls in a row"
    (gave_up,) = (line for line in shown.splitlines() if line.startswith("never_comes"))
    assert gave_up.split()[2] == "MISSING"
    assert gave_up.rstrip().endswith('{"stale": true}')


def test_sensors_go_their_way_whatever_ends_them(
    any_installation: Installation, tmp_path: Path
) -> None:
    """Errors, their time, and kill -9 of their process, of their worker and of the scheduler."""
    installation = any_installation
    installation.settings = {**SHORT_LEASE, "PROMETHEUS__WORKERS__MAX_LOST": "0"}
    beat, worker = installation.beat(), installation.worker()
    dag_id = installation.make_run("perilous", parameters={"folder": str(tmp_path)})
    wait_until((tmp_path / "asked").exists, timeout=120, message="it is asked")
    wait_until(  # else its end is that of its worker
        lambda: installation.statuses(dag_id)["kills_its_process"] == ["SKIPPED"],
        timeout=120,
        message=lambda: str(installation.statuses(dag_id)),
    )
    beat.kill()
    worker.kill()
    installation.beat()
    installation.worker()
    installation.wait_for_run(dag_id, "SUCCESS", timeout=120)

    assert installation.statuses(dag_id) == {
        "raises_again": ["FAILED", "SUCCESS"],
        "takes_too_long": ["SUCCESS"],
        "kills_its_process": ["SKIPPED"],
        "has_nothing_to_do": ["SKIPPED"],
        "takes_its_worker_along": ["SUCCESS"],
        "goes_on_all_the_same": ["SUCCESS"],
    }
    (last,) = installation.attempts(dag_id, "goes_on_all_the_same")
    assert last.result["stale"] is True
    assert last.result["source"].startswith("synthetic")
    why = last.result["why"]
    assert why["raises_again"].startswith("RuntimeError: the vendor is away (not tried again: ")
    assert why["takes_too_long"].startswith("timed out after 1 s (not tried again: ")
    assert why["takes_its_worker_along"].startswith("worker lost: ")
    (gone,) = installation.attempts(dag_id, "kills_its_process")
    assert gone.error_message.startswith("its process ended: ")
    with reading(installation.engine) as connection:
        report = check(connection)
    assert [each for each in report.violations if each.rule != "closed-day"] == []


def _status(installation: Installation, dag_id: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prometheus.cli", "status", dag_id],
        env={**os.environ, **installation.env, "COLUMNS": "200", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
