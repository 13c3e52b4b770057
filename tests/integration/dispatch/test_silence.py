"""A database that takes what it is sent and never answers: no error tells it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from prometheus.dispatch.publisher import Publisher
from tests.integration.dispatch.conftest import SHORT_LEASE, Installation
from tests.integration.dispatch.schedulers import celery_app, make_scheduler
from tests.servers import PostgresServer, wait_until

LEASE_OF_5 = {**SHORT_LEASE, "PROMETHEUS__WORKERS__LEASE": "5s"}


@contextmanager
def silent(server: PostgresServer, installation: Installation) -> Iterator[None]:
    """Stop the backends of all connections that there are; new ones are answered."""
    installation.engine.dispose()
    name = installation.engine.url.database
    with server.connect() as connection:

        def found() -> list[int]:
            rows = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = %s AND state = 'idle'", [name]
            )
            return [pid for (pid,) in rows]

        pids = wait_until(found, timeout=60, message="somebody is connected")
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


@pytest.mark.promise("P4")
def test_worker_whose_database_does_not_answer_leaves_its_queues_and_begins_anew(
    installation: Installation, postgres_server: PostgresServer
) -> None:
    installation.settings |= LEASE_OF_5
    # Of its own, because who waits for a worker's answers leaves some behind in the connection.
    with celery_app(installation) as app, app.connection_for_write() as asked:
        worker = installation.worker(concurrency=1)
        wait_until(
            lambda: app.control.ping(timeout=2, connection=asked), timeout=60, message="it is ready"
        )

        def queues() -> list[object]:
            inspect = app.control.inspect(timeout=1, connection=asked)
            return list((inspect.active_queues() or {}).values())

        assert queues() != [[]]
        with silent(postgres_server, installation):
            wait_until(lambda: queues() == [[]], timeout=30, message="it leaves its queues")
            worker.wait_for("worker_restarts", timeout=30)
            wait_until(
                lambda: len(installation.workers()) == 2, timeout=60, message="it begins anew"
            )
            dag_id = installation.make_run("joined")
            scheduler = make_scheduler(installation.engine, Publisher(app))
            scheduler.tick()
            installation.wait_for_run(dag_id, "SUCCESS")

    first, second = installation.workers()
    assert first.pid == second.pid == worker.pid


@pytest.mark.promise("P4")
def test_beat_whose_database_does_not_answer_ends(
    installation: Installation, postgres_server: PostgresServer
) -> None:
    """Whatever supervises it starts it again; a standby leads meanwhile."""
    installation.settings |= LEASE_OF_5
    beat = installation.beat()
    with silent(postgres_server, installation):
        assert beat.wait(60) == os.EX_UNAVAILABLE
    assert "beat_ends" in beat.output()
