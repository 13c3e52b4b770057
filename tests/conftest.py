"""Fixtures that every folder of tests may use; the servers behind them start when first asked for.

Databases, each new for its test and gone after it:

- ``database_url``: migrated; the test runs once on SQLite and once on PostgreSQL.
- ``empty_database_url``: the same without tables.
- ``sqlite_url``, ``postgresql_url``: migrated, of one kind only.
- ``engine``: an engine on ``database_url``.

Servers: ``postgres_server`` and ``redis_server`` live for the whole session (one of each per
pytest-xdist worker); never stop these. ``redis_url`` is the shared Redis, flushed before the test.
``spare_redis`` and ``spare_postgres`` belong to one test, which may stop, kill and start them.

Calendars: ``break_sessions`` damages the shipped file of an exchange.

Processes: ``start_process`` runs a command of the product and ends it, with all it started, after
the test; when the test fails, the ends of their logs are in its report.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, groupby, pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol

import hypothesis
import pytest
import sqlalchemy

from tests.servers import PostgresServer, Process, RedisServer, tail

# Deadlines of single examples fail on a busy machine and say nothing about the code.
hypothesis.settings.register_profile("prometheus", deadline=None, print_blob=True)
hypothesis.settings.load_profile("prometheus")

_PROCESSES = pytest.StashKey[list[Process]]()
_TEMPLATE = "prometheus_template"


class StartProcess(Protocol):
    """The type of the fixture ``start_process``."""

    def __call__(
        self,
        *command: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        name: str | None = None,
    ) -> Process: ...


def pytest_configure() -> None:
    """Take away settings of the person who runs the tests, and of the shell."""
    if threading.current_thread() is threading.main_thread():
        # A shell without job control lets its background jobs ignore Ctrl-C, and so would theirs.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for name in list(os.environ):
        if name.startswith("PROMETHEUS_"):
            del os.environ[name]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Give each process as much of everything: the slow tests first, and those of units last.

    Otherwise one would have those that wait for leases, and the others nothing to do at the end. At
    first pytest-xdist gives as many of the tests, in their order, to each of its processes.
    """
    processes = int(getattr(config, "workerinput", {}).get("workercount", 1))
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = (item for item in items if not item.get_closest_marker("slow"))
    shares = [slow[number::processes] for number in range(processes)]
    for _, of_file in groupby(others, key=attrgetter("path")):
        min(shares, key=len).extend(of_file)
    ends = [len(items) * number // processes for number in range(processes + 1)]
    sizes = [after - before for before, after in pairwise(ends)]
    spare = [item for share, size in zip(shares, sizes, strict=True) for item in share[size:]]
    for share, size in zip(shares, sizes, strict=True):
        missing = max(0, size - len(share))
        share[size:] = spare[:missing]
        del spare[:missing]
    items[:] = chain.from_iterable(shares)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show what the test's processes printed when it fails."""
    report: pytest.TestReport = yield  # type: ignore[assignment]  # pluggy sends it
    if report.failed:
        for process in item.stash.get(_PROCESSES, []):
            state = "running" if process.running else f"ended, {process.returncode}"
            title = f"{process.name} (pid {process.pid}, {state})"
            report.sections.append((title, tail(process.log)))
    return report  # type: ignore[return-value]


def _upgrade(url: str) -> None:
    """Bring a database to the newest revision with the product's own function."""
    migrate: Any = importlib.import_module("prometheus.persistence.migrate")
    migrate.upgrade(url)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The PostgreSQL that tests share."""
    with PostgresServer(in_memory=True) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of the shared PostgreSQL's maintenance database."""
    return postgres_server.url()


@pytest.fixture(scope="session")
def _postgres_template(postgres_server: PostgresServer) -> str:
    """A migrated database that each test's own is a copy of."""
    with postgres_server.connect() as connection:
        connection.execute(f"CREATE DATABASE {_TEMPLATE}")
    _upgrade(postgres_server.url(_TEMPLATE))
    return _TEMPLATE


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file that each test's own is a copy of."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    _upgrade(f"sqlite:///{path}")
    with sqlite3.connect(path) as connection:
        # A copy of the main file alone must be whole.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


@pytest.fixture
def postgresql_url(postgres_server: PostgresServer, _postgres_template: str) -> Iterator[str]:
    """A new migrated PostgreSQL database."""
    name = postgres_server.create_database(_postgres_template)
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture
def break_sessions(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """A function that damages the shipped sessions of an exchange, until the test ends."""
    exchanges: Any = importlib.import_module("prometheus.core.exchanges")
    with pytest.MonkeyPatch.context() as patch:

        def damage(mic: str) -> None:
            shutil.copytree(str(exchanges._DATA), tmp_path / "sessions")
            (tmp_path / "sessions" / f"{mic}.json").write_text("{")
            patch.setattr(exchanges, "_DATA", tmp_path / "sessions")
            exchanges.load_exchange.cache_clear()

        yield damage
    exchanges.load_exchange.cache_clear()


@pytest.fixture
def sqlite_url(tmp_path: Path, _sqlite_template: Path) -> str:
    """A new migrated SQLite database."""
    path = tmp_path / f"{uuid.uuid4().hex[:8]}.db"
    shutil.copyfile(_sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A new migrated database; the test runs once per kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new database without tables; the test runs once per kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_database()
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
def engine(database_url: str) -> Iterator[sqlalchemy.Engine]:
    """The product's engine on ``database_url``."""
    module: Any = importlib.import_module("prometheus.persistence.engine")
    engine: sqlalchemy.Engine = module.create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The Redis that tests share."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of the shared Redis, which is empty when the test begins."""
    with redis_server.client() as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def spare_redis() -> Iterator[RedisServer]:
    """A Redis for one test, with an append-only file, so that it keeps its data over `stop`."""
    with RedisServer("--appendonly", "yes") as server:
        yield server


@pytest.fixture
def spare_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL for one test, without databases of ours."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def start_process(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StartProcess]:
    """
    A function that starts a command and returns its `Process`.

    Example:
        >>> beat = start_process("python", "-m", "workers", "beat", env={...}, name="beat")
    """
    processes = request.node.stash.setdefault(_PROCESSES, [])
    logs = tmp_path / "logs"

    def start(
        *command: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        name: str | None = None,
    ) -> Process:
        logs.mkdir(exist_ok=True)
        label = name or Path(command[0]).name
        log = logs / f"{len(processes)}-{label}.log"
        process = Process(command, log=log, env=env, cwd=cwd, name=label)
        processes.append(process)
        return process

    yield start
    for process in reversed(processes):
        process.end()
