"""
The database is in trouble: the beat waits, says so once, and goes on; jobs that could not report
lose nothing.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from sqlalchemy.engine import make_url

from prometheus.dispatch.publisher import Publisher
from prometheus.dispatch.scheduler import Pace
from tests.integration.dispatch.conftest import Installation
from tests.integration.dispatch.schedulers import celery_app, make_scheduler
from tests.servers import Gate, PostgresServer, Process, wait_until

Trouble = Callable[[PostgresServer, Installation], AbstractContextManager[None]]


@contextmanager
def _away(server: PostgresServer, _: Installation) -> Iterator[None]:
    server.kill()
    yield
    server.start()


@contextmanager
def _read_only(server: PostgresServer, _: Installation) -> Iterator[None]:
    """As administrators leave a server whose disk is full; open connections see it as well."""
    with server.connect() as connection:
        for value in ("on", "off"):
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
            connection.execute("SELECT pg_reload_conf()")
            if value == "on":
                yield


@contextmanager
def _locked(server: PostgresServer, installation: Installation) -> Iterator[None]:
    with server.connect(str(make_url(installation.database_url).database)) as connection:
        connection.execute("BEGIN")
        connection.execute("LOCK TABLE leases")
        yield


@pytest.mark.promise("P4")
@pytest.mark.parametrize("trouble", [_away, _read_only, _locked])
def test_beat_waits_for_its_postgresql(
    spare_installation: tuple[Installation, PostgresServer], trouble: Trouble
) -> None:
    installation, server = spare_installation
    beat = installation.beat()
    beat.wait_for("leading", timeout=60)
    with trouble(server, installation):
        beat.wait_for("database_unavailable", timeout=30)

    _works_on(installation, beat)


def test_beat_waits_for_a_disk_that_is_full(sqlite_installation: Installation) -> None:
    """No file of its may grow: SQLite says of it what it says of a disk that can not be written."""
    installation = sqlite_installation
    beat = installation.beat()
    beat.wait_for("leading", timeout=60)
    wal = Path(f"{make_url(installation.database_url).database}-wal")
    process = psutil.Process(beat.pid)
    before = process.rlimit(resource.RLIMIT_FSIZE)
    assert before is not None
    # Its log goes through the same limit, so that is left a little room.
    process.rlimit(resource.RLIMIT_FSIZE, (max(beat.log.stat().st_size + 4096, 8192), before[1]))
    assert wal.stat().st_size > 0

    beat.wait_for("database_unavailable", timeout=60)
    process.rlimit(resource.RLIMIT_FSIZE, before)

    _works_on(installation, beat)


def _works_on(installation: Installation, beat: Process) -> None:
    beat.wait_for("database_back", timeout=30)
    dag_id = installation.make_run("joined")
    wait_until(
        lambda: installation.statuses(dag_id)["left"] == ["QUEUED"],
        timeout=30,
        message="it claims again",
    )
    assert beat.output().count("database_unavailable") == 1
    assert "tick_failed" not in beat.output()


AT_ONCE = Pace(
    reconcile_every=timedelta(0), reconcile_after=timedelta(0), ring_again_after=timedelta(0)
)


def _behind(gate: Gate, installation: Installation) -> Installation:
    """The same installation, whose database is reached through a gate."""
    name = str(make_url(installation.database_url).database)
    url = f"postgresql+psycopg://postgres@127.0.0.1:{gate.port}/{name}"
    return replace(installation, database_url=url)


def test_outage_that_outlasts_the_hard_limit_of_a_finished_job_costs_no_retry(
    installation: Installation,
    postgres_server: PostgresServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is killed while it tries to report: nobody knows how it ended, so it is tried again."""
    monkeypatch.setattr("prometheus.dispatch.publisher.HARD_LIMIT_GRACE", timedelta(seconds=4))
    installation.settings["PROMETHEUS__WORKERS__RENEWAL"] = "1s"
    with celery_app(installation) as app, Gate(postgres_server.socket) as gate:
        scheduler = make_scheduler(installation.engine, Publisher(app), pace=AT_ONCE)
        worker = _behind(gate, installation).worker()
        dag_id = installation.make_run(
            "brief", parameters={"folder": str(tmp_path), "fails": False}
        )
        scheduler.tick()
        wait_until((tmp_path / "started-1").exists, timeout=60, message="it runs")

        gate.shut()
        (tmp_path / "go-1").touch()
        wait_until((tmp_path / "ended-1").exists, timeout=10, message="it has ended")
        worker.wait_for("Hard time limit", timeout=30)
        gate.open()
        (tmp_path / "go-2").touch()
        wait_until(
            lambda: scheduler.tick() and installation.run_status(dag_id) != "OPEN",
            timeout=60,
            interval=0.2,
            message=lambda: f"it is tried again: {installation.statuses(dag_id)}",
        )

    lost, after = installation.attempts(dag_id)
    assert (lost.status, after.status) == ("FAILED", "SUCCESS")
    assert lost.error_message.startswith("ended without a report: the database was away, and it")
    assert (after.lost, after.retries, after.retry_delay_seconds) == (1, 0, 0)


def test_waiting_for_a_start_leaves_a_job_most_of_its_time(
    installation: Installation, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """Celery counts the waiting to the job's limit; the message is given up before."""
    # It does not notice the outage otherwise, and takes messages.
    installation.settings |= {
        "PROMETHEUS__WORKERS__LEASE": "10m",
        "PROMETHEUS__WORKERS__RENEWAL": "3m",
    }
    with celery_app(installation) as app, Gate(postgres_server.socket) as gate:
        scheduler = make_scheduler(installation.engine, Publisher(app), pace=AT_ONCE)
        worker = _behind(gate, installation).worker()
        wait_until(installation.workers, timeout=60, message="the worker registers")
        gate.shut()
        dag_id = installation.make_run(
            "brief", parameters={"folder": str(tmp_path), "fails": False}
        )
        scheduler.tick()
        worker.wait_for("start_not_written", timeout=60)
        assert installation.statuses(dag_id) == {"ends_when_told": ["QUEUED"]}

        gate.open()
        (tmp_path / "go-1").touch()
        wait_until(
            lambda: scheduler.tick() and installation.run_status(dag_id) != "OPEN",
            timeout=60,
            interval=0.2,
            message=lambda: f"it starts: {installation.statuses(dag_id)}",
        )

    assert installation.statuses(dag_id) == {"ends_when_told": ["SUCCESS"]}
    assert "SoftTimeLimitExceeded" not in worker.output()
