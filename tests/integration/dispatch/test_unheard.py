"""Jobs that their worker's main process does not know of, not yet or not any more."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from celery import Celery

from prometheus.dispatch.publisher import Publisher
from tests.integration.dispatch.conftest import SHORT_LEASE, Installation
from tests.integration.dispatch.schedulers import celery_app, make_scheduler
from tests.integration.dispatch.test_stopping import running
from tests.servers import (
    Gate,
    PostgresServer,
    Process,
    RedisServer,
    is_alive,
    wait_until,
)


@dataclass
class OnItsWay:
    """A job that a worker has handed to its only child, which stands still."""

    worker: Process
    child: psutil.Process
    gate: Gate
    """Between the worker and Redis."""
    app: Celery
    dag_id: str

    def lose_redis(self) -> None:
        """Cut the worker's connections; return when it has made others."""
        self.gate.cut()
        self.worker.wait_for("Connection to broker lost", timeout=60)
        wait_until(
            lambda: self.app.control.ping(timeout=5),
            timeout=60,
            message="the worker connects again",
        )


@pytest.fixture
def forgetful(installation: Installation, tmp_path: Path) -> None:
    """Have workers forget what they hand over, as Celery does."""
    module = tmp_path / "forgetful.py"
    module.write_text(
        "from prometheus import Pipeline\n"
        "from workers.pool import Pool\n"
        "del Pool.flush\n"
        "idle = Pipeline('idle', markets=['US_EQ'])\n"
    )
    installation.settings["PROMETHEUS__PIPELINES__MODULES"] = f"{module},{installation.pipelines}"


@pytest.fixture
def on_its_way(
    installation: Installation, redis_server: RedisServer, tmp_path: Path
) -> Iterator[OnItsWay]:
    installation.settings |= SHORT_LEASE
    with celery_app(installation) as app, Gate(("127.0.0.1", redis_server.port)) as gate:
        installation.beat()
        there = installation.redis_url
        installation.redis_url = redis_server.url_at(gate.port)
        worker = installation.worker(concurrency=1)
        installation.redis_url = there
        installation.wait_for_run(installation.make_run("joined"), "SUCCESS")
        wait_until(
            lambda: [*(app.control.inspect(timeout=5).active() or {}).values()] == [[]],
            timeout=60,
            message="its child is idle",
        )
        (child,) = psutil.Process(worker.pid).children()
        child.suspend()
        dag_id = installation.make_run("held", parameters={"folder": str(tmp_path)})
        wait_until(
            lambda: any((app.control.inspect(timeout=5).reserved() or {}).values()),
            timeout=60,
            message="it is handed to the child",
        )
        yield OnItsWay(worker, child, gate, app, dag_id)


@pytest.mark.slow
def test_job_on_its_way_to_a_child_goes_on_when_redis_is_lost(
    on_its_way: OnItsWay, installation: Installation, tmp_path: Path
) -> None:
    on_its_way.lose_redis()
    on_its_way.child.resume()
    running(tmp_path, 1)
    installation.wait_for_two_leases()
    (tmp_path / "go-1").touch()
    installation.wait_for_run(on_its_way.dag_id, "SUCCESS")

    assert installation.statuses(on_its_way.dag_id) == {"waits_for_a_file": ["SUCCESS"]}


@pytest.mark.slow
def test_job_on_its_way_to_a_child_goes_on_when_its_worker_is_told_to_stop(
    on_its_way: OnItsWay, installation: Installation, tmp_path: Path
) -> None:
    on_its_way.worker.send(signal.SIGTERM)
    on_its_way.worker.wait_for("Warm shutdown")
    wait_until(
        lambda: not any(on_its_way.app.control.ping(timeout=2) for _ in range(2)),
        timeout=60,
        message="the worker has left Redis",
    )
    on_its_way.child.resume()
    running(tmp_path, 1)
    installation.wait_for_two_leases()
    (tmp_path / "go-1").touch()

    assert on_its_way.worker.wait(60) == 0
    assert "worker_stuck" not in on_its_way.worker.output()
    assert installation.statuses(on_its_way.dag_id) == {"waits_for_a_file": ["SUCCESS"]}


@pytest.mark.slow
@pytest.mark.promise("P2")
@pytest.mark.usefixtures("forgetful")
def test_job_whose_worker_has_never_heard_of_it_ends_before_the_next_attempt(
    on_its_way: OnItsWay, installation: Installation, tmp_path: Path
) -> None:
    on_its_way.lose_redis()
    on_its_way.child.resume()
    first = running(tmp_path, 1)
    running(tmp_path, 2)
    assert not is_alive(first)
    (tmp_path / "go-2").touch()
    installation.wait_for_run(on_its_way.dag_id, "SUCCESS")

    lost, after = installation.attempts(on_its_way.dag_id)
    assert lost.error_message.startswith("ended without a report")
    assert (after.lost, after.retries) == (1, 0)
    assert "unheard" in on_its_way.worker.output()


def test_job_that_began_while_its_worker_was_given_up_is_ended_too(
    installation: Installation, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    installation.settings |= SHORT_LEASE
    name = str(installation.engine.url.database)
    with celery_app(installation) as app:
        scheduler = make_scheduler(installation.engine, Publisher(app))
        worker = installation.worker(concurrency=1)
        wait_until(lambda: installation.workers(), timeout=60, message="it is registered")
        dag_id = installation.make_run("held", parameters={"folder": str(tmp_path)})
        with postgres_server.connect(name) as connection, postgres_server.connect() as watcher:
            connection.execute("BEGIN")
            connection.execute("UPDATE worker_incarnations SET ended_at = now()")
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            wait_until(
                lambda: watcher.execute(waiting).fetchone(),
                timeout=30,
                message="a renewal waits",
            )
            scheduler.tick()
            pid = running(tmp_path, 1)
            connection.execute("COMMIT")
        worker.wait_for("lease_lost", timeout=30)

    wait_until(lambda: not is_alive(pid), timeout=30, message="it is ended")
    assert len(installation.attempts(dag_id)) == 1
    wait_until(lambda: len(installation.workers()) == 2, timeout=30, message="it registers anew")
