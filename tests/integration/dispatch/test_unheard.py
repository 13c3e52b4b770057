"""Jobs that their worker's main process does not know of, or not any more."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from prometheus.dispatch.publisher import Publisher
from tests.integration.dispatch.conftest import SHORT_LEASE, Installation
from tests.integration.dispatch.schedulers import celery_app, make_scheduler
from tests.servers import Gate, PostgresServer, RedisServer, is_alive, is_written, wait_until


def running(folder: Path, attempt: int = 1) -> int:
    file = folder / f"started-{attempt}"
    wait_until(lambda: is_written(file), timeout=90, message=f"{attempt} runs")
    return int(file.read_text())


@pytest.mark.slow
@pytest.mark.promise("P2")
def test_job_whose_worker_has_never_heard_of_it_ends_before_the_next_attempt(
    installation: Installation, redis_server: RedisServer, tmp_path: Path
) -> None:
    """Celery forgets what a child has not answered for when the connection to Redis breaks."""
    installation.settings |= SHORT_LEASE
    with celery_app(installation) as app, Gate(("127.0.0.1", redis_server.port)) as gate:
        installation.beat()
        there = installation.redis_url
        installation.redis_url = redis_server.url_at(gate.port)
        worker = installation.worker(concurrency=1)
        installation.redis_url = there
        installation.wait_for_run(installation.make_run("joined"), "SUCCESS")
        (child,) = psutil.Process(worker.pid).children()
        child.suspend()
        dag_id = installation.make_run("held", parameters={"folder": str(tmp_path)})
        wait_until(
            lambda: any((app.control.inspect(timeout=5).reserved() or {}).values()),
            timeout=60,
            message="it is handed to the child",
        )
        gate.cut()
        worker.wait_for("Connection to broker lost", timeout=60)
        wait_until(
            lambda: app.control.ping(timeout=5), timeout=60, message="the worker connects again"
        )
        child.resume()

        first = running(tmp_path)
        running(tmp_path, attempt=2)
        assert not is_alive(first)
        (tmp_path / "go-2").touch()
        installation.wait_for_run(dag_id, "SUCCESS")

    lost, after = installation.attempts(dag_id)
    assert lost.error_message.startswith("ended without a report")
    assert (after.lost, after.retries) == (1, 0)
    assert "unheard" in worker.output()


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
            pid = running(tmp_path)
            connection.execute("COMMIT")
        worker.wait_for("lease_lost", timeout=30)

    wait_until(lambda: not is_alive(pid), timeout=30, message="it is ended")
    assert len(installation.attempts(dag_id)) == 1
    wait_until(lambda: len(installation.workers()) == 2, timeout=30, message="it registers anew")
