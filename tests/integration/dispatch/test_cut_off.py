"""The database is away: for one worker alone, whose jobs it ends, or for everybody, who waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from prometheus.dispatch.publisher import Publisher
from prometheus.dispatch.scheduler import Pace
from prometheus.persistence import leases
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.executions import Publication
from prometheus.persistence.leases import wall_time
from tests.integration.dispatch.conftest import SHORT_LEASE, Installation
from tests.integration.dispatch.schedulers import celery_app, make_scheduler
from tests.servers import (
    Gate,
    PostgresServer,
    Process,
    RedisServer,
    is_alive,
    is_written,
    wait_until,
)

LEASE = timedelta(seconds=9)
LEASE_OF_9 = {**SHORT_LEASE, "PROMETHEUS__WORKERS__LEASE": "9s"}


@pytest.fixture
def gates() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def through(gate: Gate, installation: Installation) -> Installation:
    """The same installation, whose database is reached through a gate."""
    name = installation.engine.url.database
    url = f"postgresql+psycopg://postgres@127.0.0.1:{gate.port}/{name}"
    return replace(installation, database_url=url)


def to_postgres(server: PostgresServer) -> Path:
    return server.folder / ".s.PGSQL.5432"


def running(folder: Path, attempt: int = 1) -> int:
    """Wait until an attempt runs; return its process."""
    file = folder / f"started-{attempt}"
    wait_until(lambda: is_written(file), timeout=60, message=f"{attempt} runs")
    return int(file.read_text())


@pytest.mark.promise("P4")
@pytest.mark.parametrize("how", ["shut", "hang"])
def test_worker_that_alone_is_cut_off_ends_its_job_before_its_lease_ends(
    installation: Installation,
    postgres_server: PostgresServer,
    gates: ExitStack,
    tmp_path: Path,
    how: str,
) -> None:
    """Nobody else starts it again while it still runs, and it costs no retry."""
    installation.settings |= LEASE_OF_9
    gate = gates.enter_context(Gate(to_postgres(postgres_server)))
    installation.beat()
    through(gate, installation).worker()
    dag_id = installation.make_run("held", parameters={"folder": str(tmp_path)})
    pid = running(tmp_path)
    installation.worker()

    getattr(gate, how)()
    wait_until(lambda: not is_alive(pid), timeout=30, message="the job is ended")
    with reading(installation.engine) as connection:
        ended_at = wall_time(connection)
    name = installation.attempts(dag_id)[0].worker
    (first,) = (row for row in installation.workers() if row.worker == name)
    assert ended_at < first.expires_at
    running(tmp_path, attempt=2)
    (tmp_path / "go-2").touch()
    installation.wait_for_run(dag_id, "SUCCESS")

    lost, after = installation.attempts(dag_id)
    assert lost.error_message.startswith("worker lost")
    assert (lost.status, after.status) == ("FAILED", "SUCCESS")
    assert (after.lost, after.retries, after.retry_delay_seconds) == (1, 0, 0)


@pytest.mark.promise("P2")
def test_worker_that_is_cut_off_ends_its_job_however_often_it_was_told_to_run_it(
    installation: Installation,
    postgres_server: PostgresServer,
    gates: ExitStack,
    tmp_path: Path,
) -> None:
    """Children that can not ask whether to begin have the job's id as well."""
    installation.settings |= LEASE_OF_9
    gate = gates.enter_context(Gate(to_postgres(postgres_server)))
    installation.beat()
    through(gate, installation).worker(concurrency=6)
    dag_id = installation.make_run("held", parameters={"folder": str(tmp_path)})
    pid = running(tmp_path)
    (row,) = installation.attempts(dag_id)
    again = Publication(
        row.execution_id, dag_id, "held", row.job_type, "US_EQ", row.priority, "operator", 0, 60
    )

    gate.shut()
    Publisher(gates.enter_context(celery_app(installation))).publish([again] * 5)
    wait_until(lambda: not is_alive(pid), timeout=30, message="the job is ended")
    with reading(installation.engine) as connection:
        ended_at = wall_time(connection)
    (worker,) = installation.workers()
    assert ended_at < worker.expires_at


@pytest.mark.slow
@pytest.mark.promise("P2")
def test_worker_that_is_cut_off_ends_also_what_it_had_ended_before_it_could_begin(
    installation: Installation,
    postgres_server: PostgresServer,
    gates: ExitStack,
    tmp_path: Path,
) -> None:
    """That one is still to be started, so the worker may be told again to run it."""
    # A worker whose database is silent, not gone, listens for three fifths of so long a lease.
    installation.settings |= {**SHORT_LEASE, "PROMETHEUS__WORKERS__LEASE": "20s"}
    gate = gates.enter_context(Gate(to_postgres(postgres_server)))
    installation.beat()
    through(gate, installation).worker()
    wait_until(installation.workers, timeout=60, message="the worker registers")

    gate.hang()
    dag_id = installation.make_run("held", parameters={"folder": str(tmp_path)})
    wait_until(
        lambda: installation.logged("worker_cut_off"), timeout=60, message="the job is ended"
    )
    gate.mend()
    (row,) = installation.attempts(dag_id)
    again = Publication(
        row.execution_id, dag_id, "held", row.job_type, "US_EQ", row.priority, "operator", 0, 60
    )
    Publisher(gates.enter_context(celery_app(installation))).publish([again])
    pid = running(tmp_path)

    gate.shut()
    wait_until(lambda: not is_alive(pid), timeout=60, message="the job is ended again")
    with reading(installation.engine) as connection:
        ended_at = wall_time(connection)
    (row,) = installation.attempts(dag_id)
    (worker,) = (each for each in installation.workers() if each.incarnation == row.incarnation)
    assert ended_at < worker.expires_at


def test_worker_that_is_cut_off_from_redis_too_ends_its_job_and_says_why(
    installation: Installation,
    postgres_server: PostgresServer,
    redis_server: RedisServer,
    gates: ExitStack,
    tmp_path: Path,
) -> None:
    installation.settings |= LEASE_OF_9
    database = gates.enter_context(Gate(to_postgres(postgres_server)))
    broker = gates.enter_context(Gate(("127.0.0.1", redis_server.port)))
    there = through(database, installation)
    there.redis_url = f"redis://127.0.0.1:{broker.port}/0"
    there.worker()
    beat = installation.beat()
    dag_id = installation.make_run("held", parameters={"folder": str(tmp_path)})
    pid = running(tmp_path)
    beat.end()  # nobody gives the worker up

    database.hang()
    broker.hang()
    wait_until(lambda: not is_alive(pid), timeout=30, message="the job is ended")
    database.open()
    broker.open()
    wait_until(lambda: len(installation.attempts(dag_id)) == 2, timeout=60, message="it reports")

    lost, after = installation.attempts(dag_id)
    assert lost.error_message.startswith("worker cut off: it could not renew its lease of 9s")
    assert (after.status, after.lost, after.retries) == ("QUEUED", 1, 0)


@contextmanager
def _away(server: PostgresServer, _: Installation) -> Iterator[None]:
    server.stop()
    yield
    server.start()


@contextmanager
def _full(server: PostgresServer, installation: Installation) -> Iterator[None]:
    """Answer all that is written as a server does that has no room for it."""
    tables = ("dag_runs", "job_executions", "leases", "worker_incarnations")
    with server.connect(str(installation.engine.url.database)) as connection:
        connection.execute(
            "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100';"
            " END $$"
        )
        for table in tables:
            connection.execute(
                f"CREATE TRIGGER no_room BEFORE INSERT OR UPDATE ON {table}"
                " EXECUTE FUNCTION no_room()"
            )
        yield
        for table in tables:
            connection.execute(f"DROP TRIGGER no_room ON {table}")


@pytest.mark.slow
@pytest.mark.promise("P4")
@pytest.mark.parametrize("trouble", [_away, _full])
def test_outage_for_everybody_that_outlasts_a_lease_fails_no_job(
    spare_installation: tuple[Installation, PostgresServer],
    redis_server: RedisServer,
    tmp_path: Path,
    trouble: Callable[[PostgresServer, Installation], AbstractContextManager[None]],
) -> None:
    """One job ends during the outage, and its result is kept; another runs through it."""
    installation, server = spare_installation
    installation.settings |= LEASE_OF_9
    installation.beat()
    worker = installation.worker()
    folders = {market: tmp_path / market for market in ("during", "after")}
    runs = {}
    for (name, folder), pipeline in zip(folders.items(), ("held", "retried"), strict=True):
        folder.mkdir()
        runs[name] = installation.make_run(pipeline, parameters={"folder": str(folder)})
    for folder in folders.values():
        wait_until((folder / "started-1").exists, timeout=60, message="both run")
    installation.engine.dispose()

    with trouble(server, installation):
        with redis_server.client() as client:
            client.flushall()  # no mark is no sign of a leader that has the database
        (folders["during"] / "go-1").touch()
        outlast(worker, 2 * LEASE)
    installation.wait_for_run(runs["during"], "SUCCESS")
    wait_until(
        lambda: (
            installation.workers()[-1].renewed_at > installation.workers()[0].started_at
            and installation.logged("database_back")
        ),
        timeout=30,
        message="the worker renews",
    )
    (folders["after"] / "go-1").touch()
    wait_until(
        lambda: installation.attempts(runs["after"])[0].status == "FAILED",
        timeout=30,
        message="the other one ends as it was told to",
    )

    (during,) = installation.attempts(runs["during"])
    assert during.attempt_number == 1
    assert installation.attempts(runs["after"])[0].error_message == "RuntimeError: told to fail"
    assert len(installation.workers()) == 1
    # Once a stretch, in each process that waits, and not at every try.
    assert worker.output().count("database_unavailable") <= 3
    assert not installation.logged("worker_cut_off")


@pytest.mark.promise("P2")
def test_worker_that_was_given_up_ends_its_job_whoever_has_the_database_since_when(
    installation: Installation, postgres_server: PostgresServer, gates: ExitStack, tmp_path: Path
) -> None:
    """The scheduler that gave it up may be dead, and another have begun a moment ago."""
    installation.settings |= LEASE_OF_9
    gate = gates.enter_context(Gate(to_postgres(postgres_server)))
    app = gates.enter_context(celery_app(installation))
    # Which goes by no other's mark.
    pace = Pace(lease=timedelta(0))

    def begin() -> None:
        """Leave the mark of a scheduler that has had the database for no time at all."""
        make_scheduler(installation.engine, Publisher(app), pace=pace).tick()

    def is_ended() -> bool:
        begin()
        return not is_alive(pid)

    worker = through(gate, installation).worker()
    installation.make_run("held", parameters={"folder": str(tmp_path)})
    begin()
    pid = running(tmp_path)

    gate.shut()
    outlast(worker, 4 / 3 * LEASE)
    # As far as anybody knows, the database was away for all.
    patience = time.monotonic() + (LEASE / 3).total_seconds()
    wait_until(lambda: is_ended() or time.monotonic() > patience, timeout=30)
    assert is_alive(pid)
    with writing(installation.engine) as connection:
        assert leases.give_up_workers(connection, leases.wall_time(connection))

    wait_until(is_ended, timeout=30, message="the job is ended")
    assert installation.logged("worker_cut_off")


def test_worker_whose_leader_is_back_some_seconds_before_it_keeps_its_job(
    installation: Installation, postgres_server: PostgresServer, gates: ExitStack, tmp_path: Path
) -> None:
    """A fresh mark alone says little: nobody is rescued for one lease after an outage for all."""
    installation.settings |= LEASE_OF_9
    gate = gates.enter_context(Gate(to_postgres(postgres_server)))
    app = gates.enter_context(celery_app(installation))
    pace = Pace(lease=timedelta(seconds=3))
    leader = make_scheduler(installation.engine, Publisher(app), pace=pace)
    worker = through(gate, installation).worker()
    dag_id = installation.make_run("held", parameters={"folder": str(tmp_path)})
    leader.tick()
    pid = running(tmp_path)

    gate.shut()
    worker.wait_for("database_unavailable", timeout=30)
    # For the leader too: it does not tick, and the worker tries ever more rarely.
    outlast(worker, LEASE)
    leader.tick()
    outlast(worker, LEASE / 3)
    leader.tick()
    assert is_alive(pid)
    gate.open()
    worker.wait_for("database_back", timeout=30)

    assert is_alive(pid)
    (tmp_path / "go-1").touch()
    installation.wait_for_run(dag_id, "SUCCESS")
    assert installation.statuses(dag_id) == {"waits_for_a_file": ["SUCCESS"]}
    assert not installation.logged("worker_cut_off")


@pytest.mark.promise("P4")
def test_worker_whose_database_takes_no_new_connections_keeps_the_one_it_has_and_its_job(
    installation: Installation, postgres_server: PostgresServer, gates: ExitStack, tmp_path: Path
) -> None:
    """Like the leader, whose marks would tell it that it alone has been away."""
    installation.settings |= LEASE_OF_9
    app = gates.enter_context(celery_app(installation))
    leader = make_scheduler(installation.engine, Publisher(app))
    worker = installation.worker()
    dag_id = installation.make_run("held", parameters={"folder": str(tmp_path)})
    leader.tick()
    pid = running(tmp_path)

    with postgres_server.connect() as connection:
        name = installation.engine.url.database
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        until = time.monotonic() + LEASE.total_seconds()
        while time.monotonic() < until:
            leader.tick()
            outlast(worker, timedelta(seconds=0.5))
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    assert is_alive(pid)
    (tmp_path / "go-1").touch()
    installation.wait_for_run(dag_id, "SUCCESS")
    assert installation.statuses(dag_id) == {"waits_for_a_file": ["SUCCESS"]}
    assert "database_unavailable" not in worker.output()


def outlast(process: Process, length: timedelta) -> None:
    """Wait for a length of time, in which the process lives on."""
    until = time.monotonic() + length.total_seconds()
    wait_until(
        lambda: time.monotonic() > until or not process.running,
        timeout=length.total_seconds() + 30,
        message="the time passes",
    )
    assert process.running
