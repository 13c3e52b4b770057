"""``/healthz``, ``/readyz`` and ``/version``, on real servers that are there or not."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prometheus.core.exchanges import snapshot_version
from prometheus.dispatch.names import LEADERSHIP
from prometheus.monitoring.app import create_app
from prometheus.persistence import leases, migrate
from prometheus.persistence.engine import create_engine, writing
from prometheus.settings import load_settings
from tests.integration.monitoring.conftest import SECRET, Web, served
from tests.servers import PostgresServer, free_port

HOUR = timedelta(hours=1)


@pytest.fixture
def working(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Web]:
    """An installation of which everything works."""
    lead(database_url)
    with serve(tmp_path, DATABASE__URL=database_url, BROKER__URL=redis_url) as web:
        yield web


def serve(folder: Path, **given: str) -> AbstractContextManager[Web]:
    # A leader is silent after three of them: long, so that a slow machine does not matter.
    given = {"SCHEDULER__LEASE": "10m", **given}
    variables = {f"PROMETHEUS__{name}": value for name, value in given.items()}
    return served(create_app(load_settings(variables, folder)))


def lead(url: str, *, ticked: timedelta | None = timedelta(0), lease: timedelta = HOUR) -> None:
    """Lead as somebody else, whose last tick was some time ago."""
    engine = create_engine(url)
    with writing(engine) as connection:
        leases.lead(connection, LEADERSHIP, "there:7:x", lease=lease)
        ticked_at = leases.wall_time(connection) - ticked if ticked is not None else None
        leases.lead(connection, LEADERSHIP, "there:7:x", lease=lease, ticked_at=ticked_at)
    engine.dispose()


def checks(web: Web) -> dict[str, tuple[bool, str]]:
    """Ask whether it is ready: what was examined -> whether it works, and why or why not."""
    answer = web.ask("/readyz")
    document: dict[str, Any] = answer.json()
    found = {each["name"]: (each["ok"], each["text"]) for each in document["checks"]}
    assert document["ready"] is all(ok for ok, _ in found.values())
    assert answer.status_code == (200 if document["ready"] else 503)
    return found


def faults(web: Web) -> dict[str, str]:
    """What does not work -> why."""
    return {name: text for name, (ok, text) in checks(web).items() if not ok}


def test_what_works_is_ready(working: Web) -> None:
    found = checks(working)
    assert list(found) == [
        *("database", "tables", "scheduler", "broker"),
        *("calendar US_EQ", "calendar EU_EQ", "calendar ASIA_EQ"),
    ]
    assert faults(working) == {}
    assert "there, pid 7 leads; its last tick was" in found["scheduler"][1]
    assert working.ask("/healthz").json() == {"status": "ok"}


def test_version_names_release_tables_and_calendars(working: Web) -> None:
    found = working.get("/version")
    assert found["tables"] == migrate.head()
    assert found["calendars"] == snapshot_version()
    assert working.statements == []


@pytest.mark.parametrize(
    ("ticked", "lease", "why"),
    [
        (timedelta(minutes=50), HOUR, "there, pid 7 leads; its last tick was 3"),
        (None, HOUR, "there, pid 7 leads, and has not completed a tick"),
        (timedelta(0), -HOUR, "no scheduler leads; the last one was there, pid 7"),
    ],
)
def test_a_scheduler_that_does_not_tick_is_told(
    working: Web,
    database_url: str,
    ticked: timedelta | None,
    lease: timedelta,
    why: str,
) -> None:
    lead(database_url, ticked=ticked, lease=lease)
    found = faults(working)
    assert list(found) == ["scheduler"]
    assert found["scheduler"].startswith(why)


def test_no_scheduler_and_no_broker_are_told_at_once(web: Web) -> None:
    found = faults(web)
    assert found["scheduler"] == "no scheduler has led yet"
    assert found["broker"].startswith("redis://:***@127.0.0.1:1/0 does not answer: ")
    assert list(found) == ["scheduler", "broker"]
    assert web.get("/healthz") == {"status": "ok"}


def test_a_database_of_another_release_is_told(empty_database_url: str, tmp_path: Path) -> None:
    if empty_database_url.startswith("sqlite"):
        Path(empty_database_url.removeprefix("sqlite:///")).touch()
    with serve(tmp_path, DATABASE__URL=empty_database_url) as web:
        found = checks(web)
        assert found["database"][0]
        assert "without Prometheus' tables" in found["tables"][1]
        assert "scheduler" not in found


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    with serve(tmp_path, DATABASE__URL=f"sqlite:///{path}") as web:
        assert "There is no database" in faults(web)["database"]
    assert not path.exists()


def test_a_server_that_is_away_is_told_until_it_is_back(
    spare_postgres: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    url = spare_postgres.url(spare_postgres.create_database())
    migrate.upgrade(url)
    lead(url)
    with serve(tmp_path, DATABASE__URL=url, BROKER__URL=redis_url) as web:
        assert faults(web) == {}
        spare_postgres.stop()
        assert list(faults(web)) == ["database"]
        assert web.get("/healthz") == {"status": "ok"}
        spare_postgres.start()
        assert faults(web) == {}


def test_however_many_ask_one_thread_waits_for_what_does_not_answer(
    sqlite_url: str, tmp_path: Path
) -> None:
    """Whoever asks need not be known, and the other threads are for those who are."""
    many = 60
    with (
        socket.create_server(("127.0.0.1", 0), backlog=2 * many) as silent,
        serve(
            tmp_path,
            DATABASE__URL=sqlite_url,
            BROKER__URL=f"redis://127.0.0.1:{silent.getsockname()[1]}/0",
        ) as web,
        ThreadPoolExecutor(many) as pool,
    ):
        asked = [pool.submit(web.ask, "/readyz") for _ in range(many)]
        assert {each.result(60).status_code for each in asked} == {503}
        connections = 0
        silent.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                silent.accept()[0].close()
                connections += 1
    # More than one if some came after others had been answered.
    assert 1 <= connections <= many // 6


def test_of_a_wrong_password_nothing_is_shown(tmp_path: Path) -> None:
    url = f"postgresql://me:{SECRET}@127.0.0.1:{free_port()}/none"
    with serve(tmp_path, DATABASE__URL=url) as web:
        assert "postgresql://me:***@127.0.0.1" in faults(web)["database"]


def test_a_calendar_that_has_ended_is_told_by_its_market(
    redis_url: str, sqlite_url: str, tmp_path: Path
) -> None:
    last = datetime.now(UTC).date() - timedelta(days=2)
    (tmp_path / "prometheus.toml").write_text(
        f'[markets]\nenabled = ["US_EQ", "MINE"]\n[markets.MINE]\nzone = "UTC"\ncut = "22:00"\n'
        f"last = {last}\n"
    )
    lead(sqlite_url)
    with serve(tmp_path, DATABASE__URL=sqlite_url, BROKER__URL=redis_url) as web:
        found = faults(web)
    assert list(found) == ["calendar MINE"]
    assert f"sessions known to {last}" in found["calendar MINE"]


def test_one_damaged_calendar_is_told_by_its_market(
    working: Web, break_sessions: Callable[[str], None]
) -> None:
    break_sessions("XPAR")
    found = faults(working)
    assert list(found) == ["calendar EU_EQ"]
    assert "sessions of XPAR cannot be read" in found["calendar EU_EQ"]
