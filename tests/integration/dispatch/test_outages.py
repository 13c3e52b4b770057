"""What the beat does while its database is in trouble: it waits, says so once, and goes on."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import pytest
from sqlalchemy.engine import make_url

from tests.integration.dispatch.conftest import Installation
from tests.servers import PostgresServer, Process, wait_until

Trouble = Callable[[PostgresServer, Installation], AbstractContextManager[None]]


@contextmanager
def _away(server: PostgresServer, _: Installation) -> Iterator[None]:
    server.kill()
    yield
    server.start()


@contextmanager
def _read_only(server: PostgresServer, installation: Installation) -> Iterator[None]:
    """As administrators leave a server whose disk is full."""
    name = make_url(installation.database_url).database
    with server.connect() as connection:
        for value in ("on", "off"):
            connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}")
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            )
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
