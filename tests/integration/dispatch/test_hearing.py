"""Queues that have gone deaf: their workers live and have time, and take nothing."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from celery import Celery

from prometheus.dispatch.canary import CANARY
from prometheus.dispatch.publisher import Publisher
from prometheus.dispatch.scheduler import Pace, Scheduler
from tests.integration.dispatch.conftest import Installation
from tests.integration.dispatch.schedulers import celery_app, make_scheduler, register_worker, take
from tests.servers import Gate, Process, RedisServer, wait_until


@pytest.fixture
def app(installation: Installation) -> Iterator[Celery]:
    with celery_app(installation) as app:
        yield app


@pytest.fixture
def scheduler(installation: Installation, app: Celery) -> Scheduler:
    """One that looks at each tick."""
    pace = Pace(canary_every=timedelta(0))
    return make_scheduler(installation.engine, Publisher(app), pace=pace)


def test_canary_is_put_before_all_else_where_a_worker_lives_and_nothing_waits(
    installation: Installation, app: Celery, scheduler: Scheduler
) -> None:
    scheduler.tick()
    assert take(app) == []

    register_worker(installation.engine)
    for _ in range(3):
        scheduler.tick()

    (canary,) = take(app)
    assert canary.headers["task"] == CANARY
    assert canary.headers["expires"] is not None
    assert canary.properties["priority"] == 0
    assert take(app, "EU_EQ") == []


@pytest.mark.promise("P7")
def test_queue_whose_worker_takes_nothing_is_said_once_and_once_when_it_is_over(
    installation: Installation,
    app: Celery,
    scheduler: Scheduler,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    register_worker(installation.engine)
    for stretch in (1, 2):
        for _ in range(5):
            scheduler.tick()
        assert _said(caplog) == ["queue_deaf", "queue_heard"] * (stretch - 1) + ["queue_deaf"]
        assert len(take(app)) == 1
        for _ in range(2):
            scheduler.tick()
            take(app)
        assert _said(caplog) == ["queue_deaf", "queue_heard"] * stretch
    deaf = next(record for record in caplog.records if record.message == "queue_deaf")
    assert (vars(deaf)["queue"], vars(deaf)["workers"]) == ("US_EQ", "test")


def test_queue_whose_workers_are_all_busy_is_not_deaf(
    installation: Installation,
    app: Celery,
    scheduler: Scheduler,
    caplog: pytest.LogCaptureFixture,
) -> None:
    publisher = Publisher(app)
    workers = [register_worker(installation.engine) for _ in range(2)]
    for _ in range(5):
        for worker in workers:
            publisher.note_busy(worker)
        scheduler.tick()
    assert _said(caplog) == []

    # One of them has time from now on; what it has not taken yet says nothing.
    with app.connection_for_read() as connection:
        connection.default_channel.client.delete(f"prometheus:busy:{workers[0]}")
    scheduler.tick()
    assert _said(caplog) == []
    scheduler.tick()
    assert _said(caplog) == ["queue_deaf"]


@pytest.mark.slow
@pytest.mark.promise("P4")
def test_worker_whose_consumer_was_cancelled_begins_anew_and_works_on(
    installation: Installation, app: Celery
) -> None:
    beat, worker = installation.beat(), installation.worker()
    wait_until(
        lambda: app.control.cancel_consumer("US_EQ", reply=True, timeout=5),
        timeout=60,
        message="it does as it is told",
    )

    dag_id = installation.make_run("joined")
    worker.wait_for("worker_deaf", timeout=180)
    worker.wait_for("worker_restarts", timeout=30)

    installation.wait_for_run(dag_id, "SUCCESS", timeout=90)
    first, second = installation.workers()
    assert first.pid == second.pid == worker.pid
    assert first.ended_at is not None
    assert second.ended_at is None
    beat.wait_for("queue_deaf", timeout=30)
    beat.wait_for("queue_heard", timeout=60)
    assert beat.output().count("queue_deaf") == 1
    assert worker.output().count("worker_deaf") == 1


def _worker_that_stands_still(
    installation: Installation, tmp_path: Path, *, stops_within: int
) -> Process:
    stuck = tmp_path / "stuck.py"
    stuck.write_text(
        "import pathlib, time\n"
        "from celery.signals import worker_ready\n"
        "from prometheus import Pipeline\n"
        "idle = Pipeline('idle', markets=['US_EQ'])\n"
        "@worker_ready.connect(weak=False)\n"
        "def stand_still(sender, **_):\n"
        "    from workers import hearing\n"
        f"    hearing.LOOK_EVERY, hearing.STOPS_WITHIN = 0.3, {stops_within}\n"
        "    first = pathlib.Path(__file__).with_name('first')\n"
        "    if not first.exists():\n"
        "        first.touch()\n"
        "        sender.call_soon(time.sleep, 10_000)\n"
    )
    installation.settings["PROMETHEUS__PIPELINES__MODULES"] = f"{stuck},{installation.pipelines}"
    installation.beat()
    worker = installation.worker()
    wait_until((tmp_path / "first").exists, timeout=60, message="its event loop stands still")
    return worker


@pytest.mark.promise("P4")
def test_worker_whose_event_loop_stands_still_begins_anew(
    installation: Installation, tmp_path: Path
) -> None:
    worker = _worker_that_stands_still(installation, tmp_path, stops_within=2)
    dag_id = installation.make_run("joined")

    worker.wait_for("worker_stuck", timeout=60)

    installation.wait_for_run(dag_id, "SUCCESS", timeout=90)
    first, second = installation.workers()
    assert first.pid == second.pid == worker.pid


@pytest.mark.slow
def test_worker_that_is_told_to_stop_while_it_begins_anew_stops(
    installation: Installation, tmp_path: Path
) -> None:
    worker = _worker_that_stands_still(installation, tmp_path, stops_within=15)
    installation.make_run("joined")
    worker.wait_for("worker_restarts", timeout=60)

    worker.send(signal.SIGTERM)

    assert worker.wait(timeout=60) == 0
    assert "worker_stuck" in worker.output()
    assert len(installation.workers()) == 1


@pytest.mark.slow
def test_worker_whose_connections_died_without_a_word_works_on(
    installation: Installation, redis_server: RedisServer
) -> None:
    installation.beat()
    with Gate(("127.0.0.1", redis_server.port)) as gate:
        installation.redis_url = redis_server.url_at(gate.port)
        worker = installation.worker()
        installation.wait_for_run(installation.make_run("joined"), "SUCCESS")

        gate.strand()
        began = time.monotonic()
        dag_id = installation.make_run("joined", session=date(2026, 11, 19))

        installation.wait_for_run(dag_id, "SUCCESS", timeout=180)
        anew = "worker_restarts" in worker.output()
        print(f"it took {time.monotonic() - began:.1f} s; begun anew: {anew}")
        worker.end()


def test_worker_with_one_slot_and_a_long_job_is_busy_not_deaf(
    installation: Installation, tmp_path: Path
) -> None:
    beat, worker = installation.beat(), installation.worker(concurrency=1)
    dag_id = installation.make_run("held", parameters={"folder": str(tmp_path)})
    wait_until(lambda: (tmp_path / "started-1").exists(), timeout=60, message="it runs")
    with celery_app(installation) as app:
        publisher = Publisher(app)
        incarnation = installation.workers()[0].incarnation
        wait_until(lambda: publisher.busy([incarnation]), timeout=60, message="it says it is busy")
    (tmp_path / "go-1").touch()
    installation.wait_for_run(dag_id, "SUCCESS")
    assert "queue_deaf" not in beat.output()
    assert "worker_deaf" not in worker.output()


def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.message for each in caplog.records if each.message.startswith("queue_")]
