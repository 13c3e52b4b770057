"""Connections and transactions, on PostgreSQL and SQLite."""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import URL, Connection, Dialect, Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidatePoolError, OperationalError

from prometheus.errors import DatabaseError, PrometheusError

_READ = "prometheus_read"
BUSY_TIMEOUT_SECONDS = 20.0
PATIENCE_SECONDS = 5
"""How long, on PostgreSQL, a transaction may wait for a lock, or hold its own and do nothing."""

_USED_AT = "prometheus_used_at"
_RESTS_SINCE = "prometheus_rests_since"
_IDLE_SECONDS = 0.5
"""After which a connection of the pool is asked whether it is still there, before it is used."""

_PASSING_CLASSES = ("08", "40", "53", "57", "58")
"""SQLSTATE classes: connection, rollback (serialization, deadlock), resources, operator, system."""
_PASSING_STATES = frozenset(
    {
        "25006",  # read only: a standby, or a server that protects a full disk
        "25P03",  # idle in a transaction for too long
        "55P03",  # a lock was not granted in time
    }
)
_PASSING_SQLITE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)


class DatabaseUrlError(PrometheusError):
    """A database URL that can not be used."""

    def __init__(self, shown: str, why: str) -> None:
        super().__init__(
            f"database URL {shown!r}: {why}. It must look like "
            "postgresql://user:password@host/database or sqlite:////absolute/path.db "
            "(PROMETHEUS__DATABASE__URL, or [database] url in prometheus.toml)."
        )


def shown_url(url: URL) -> str:
    """Write a database URL for people: without its password, wherever that stands."""
    kind = url.get_backend_name()  # without the driver, which is our choice
    return url.set(query={}, drivername=kind).render_as_string(hide_password=True)


def create_engine(url: str, *, pool_size: int = 5, keeps_plans: bool = True) -> Engine:
    """
    Make an engine with our conventions; nothing is connected yet.

    On SQLite, write transactions begin IMMEDIATE (one that begins by reading and then writes fails
    at once when another writes, whatever the timeout), and readers never wait (WAL).

    Args:
        pool_size: Connections that are kept.
        keeps_plans: Whether PostgreSQL may keep the plan of a statement that comes often; not where
            the next values may be a thousand times as frequent as those before.

    Raises:
        DatabaseUrlError: The URL does not parse, or names another kind of database.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The text is not shown: what does not parse may still hold a password.
        raise DatabaseUrlError("(hidden)", "it is not a URL") from None
    shown = shown_url(parsed)
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        from prometheus.persistence.one_by_one import OneByOne

        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        engine = sqlalchemy.create_engine(
            parsed,
            pool_size=pool_size,
            hide_parameters=True,
            connect_args={
                "application_name": "prometheus",
                "cursor_factory": OneByOne,
                **({} if keeps_plans else {"prepare_threshold": None}),
                # Also where the database itself was made without an encoding (SQL_ASCII).
                "client_encoding": "utf8",
                # A server that vanishes without a word must not hold a process for ever.
                "connect_timeout": 10,
                "keepalives_idle": 5,
                "keepalives_interval": 3,
                "keepalives_count": 3,
                "tcp_user_timeout": 10_000,
            },
        )
        event.listen(engine, "connect", _prepare_postgresql)
        event.listen(engine, "checkout", partial(_ping_if_idle, engine.dialect))
        event.listen(engine, "checkin", _leave_mode_to_postgresql)
        event.listen(engine, "checkin", _note_use)
        return engine
    if backend != "sqlite":
        raise DatabaseUrlError(shown, f"{backend} is not supported")
    if parsed.database in (None, "", ":memory:"):
        raise DatabaseUrlError(shown, "several processes share it, so it must be a file")
    engine = sqlalchemy.create_engine(
        parsed,
        pool_size=pool_size,
        hide_parameters=True,
        connect_args={"timeout": BUSY_TIMEOUT_SECONDS},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_postgresql(connection: Any, _record: object) -> None:
    # A process that is frozen inside a transaction must not hold up those that take over from it.
    connection.execute(
        f"SET lock_timeout = '{PATIENCE_SECONDS}s'; "
        f"SET idle_in_transaction_session_timeout = '{PATIENCE_SECONDS}s'"
    )
    connection.commit()


def _note_use(_connection: object, record: Any) -> None:
    record.info[_USED_AT] = record.info.pop(_RESTS_SINCE, None) or time.monotonic()


def _ping_if_idle(dialect: Dialect, connection: Any, record: Any, _proxy: object) -> None:
    # One that was in use a moment ago can be lost as well as one that has just been asked.
    used_at = record.info.get(_USED_AT)  # not of one that was made just now
    if used_at is None or time.monotonic() - used_at < _IDLE_SECONDS:
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        # Those that were made before it are lost like it, and the pool makes another.
        raise InvalidatePoolError from error


def _leave_mode_to_postgresql(connection: Any, _record: object) -> None:
    # SQLAlchemy leaves a connection that was read from in the mode READ WRITE, which would override
    # a server that is to take no writes, and which a standby refuses like a feature it lacks.
    if connection is not None and not connection.closed:
        connection.read_only = None
        if connection.autocommit:  # of `each_alone`
            connection.autocommit = False


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError:
            # Several that change the mode of a new file do not wait for each other by themselves,
            # whatever the timeout.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    reads = bool(connection.get_execution_options().get(_READ))
    if connection.info.get(_READ, False) != reads:  # kept as long as the connection is
        connection.exec_driver_sql(f"PRAGMA query_only={int(reads)}")
        connection.info[_READ] = reads
    connection.exec_driver_sql("BEGIN DEFERRED" if reads else "BEGIN IMMEDIATE")


_under_way: dict[object, float] = {}
"""When each transaction of this process that goes on was asked for, by the monotonic clock."""


@contextmanager
def _noted() -> Iterator[None]:
    key = object()
    _under_way[key] = time.monotonic()
    try:
        yield
    finally:
        del _under_way[key]


def longest_under_way() -> float:
    """Return for how many seconds the oldest transaction of this process has been going on."""
    return time.monotonic() - min(tuple(_under_way.values()), default=math.inf)


_resting: dict[Engine, list[Connection]] = {}
"""What `each_alone` keeps for its next block, of engines that `let_rest` was called for."""


def let_rest(engine: Engine) -> None:
    """
    Have `each_alone` keep its connection for its next block, until another transaction begins.

    To give one back to the pool and to take it again costs a good part of what a statement costs.
    For a process that uses one engine as long as it lives, and most often from one thread.
    """
    if engine not in _resting:
        _resting[engine] = []
        os.register_at_fork(
            before=lambda: _give_back(engine), after_in_child=_resting[engine].clear
        )


def _take(engine: Engine) -> Connection | None:
    try:
        return _resting[engine].pop()
    except LookupError:  # of which none rests, or another thread has taken it
        return None


def _give_back(engine: Engine) -> None:
    connection = _take(engine)
    if connection is not None:
        connection.close()


def _rested(engine: Engine) -> Connection | None:
    """Return the connection that rests, unless it has to be asked whether it is still there."""
    connection = _take(engine)
    if connection is None:
        return None
    if time.monotonic() - connection.info[_RESTS_SINCE] < _IDLE_SECONDS:
        del connection.info[_RESTS_SINCE]
        return connection
    connection.close()
    return None


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that sees one state of the database and can change nothing."""
    _give_back(engine)
    options: dict[str, Any] = {_READ: True}
    if engine.dialect.name == "postgresql":
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with (
        _noted(),
        engine.connect().execution_options(**options) as connection,
        connection.begin(),
    ):
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that may write; committed at the end of the block."""
    _give_back(engine)
    with _noted(), engine.begin() as connection:
        yield connection


@contextmanager
def each_alone(engine: Engine, *, reads: bool = False) -> Iterator[Connection]:
    """
    Open a connection on which each statement is committed by itself.

    No more is asked of PostgreSQL than the statements, and a process that is frozen between two of
    them holds nothing. On SQLite, where a transaction costs no round trip, they are one.

    Args:
        reads: Nothing is written: then that transaction takes nobody's right to.
    """
    if engine.dialect.name == "sqlite":
        with reading(engine) if reads else writing(engine) as connection:
            yield connection
        return
    with _noted():
        connection = _rested(engine) or engine.connect()
        try:
            driver: Any = connection.connection.dbapi_connection
            if not driver.autocommit:
                # Not by its isolation level, which takes SQLAlchemy as long as the rest of this.
                driver.autocommit = True
            yield connection
        except BaseException:
            connection.close()
            raise
        resting = _resting.get(engine)
        if resting is None or resting or connection.invalidated:
            connection.close()
        else:
            connection.info[_RESTS_SINCE] = time.monotonic()
            resting.append(connection)


def is_unavailable(error: BaseException) -> bool:
    """
    Say whether an error is the database's trouble, which passes, rather than the statement's fault.

    True of a server that is away, starting, stopping, out of space, connections or patience, and of
    transactions that lost against others: the same transaction may succeed when tried again.
    """
    if not isinstance(error, DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        code: int = getattr(error.orig, "sqlite_errorcode", 0)
        return code & 0xFF in _PASSING_SQLITE  # its higher bits say more about the same
    state: str | None = getattr(error.orig, "sqlstate", None)
    if state is None:  # the client's own words: refused, reset, closed
        return error.connection_invalidated or isinstance(error, OperationalError)
    return state.startswith(_PASSING_CLASSES) or state in _PASSING_STATES


def is_contended(error: BaseException) -> bool:
    """Say whether a transaction lost against others for what it wanted: the database is there."""
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    return state in ("55P03", "40001", "40P01")


def is_locked(error: BaseException) -> bool:
    """Say whether SQLite has waited in vain for a transaction that writes to end."""
    code: int = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_BUSY


def is_held(engine: Engine) -> bool:
    """Say whether, on SQLite, another transaction holds what only one can: the right to write."""
    if engine.dialect.name != "sqlite":
        return False
    with closing(sqlite3.connect(engine.url.database or "", timeout=0)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
        connection.rollback()
    return False


def check_exists(engine: Engine) -> None:
    """
    Refuse a SQLite file that is not there: opening it would make an empty one.

    Raises:
        DatabaseError: Nothing was changed.
    """
    if engine.dialect.name != "sqlite":
        return
    path = Path(engine.url.database or "")
    if not path.is_file():
        raise DatabaseError(
            f"There is no database {path}. Make one with `prometheus db upgrade`, or start "
            f"everything with `prometheus up`; --folder names another data folder."
        )


def what_ails(error: BaseException) -> str:
    """Go on after a database's name: what is the matter with it, and what to do."""
    if is_locked(error):
        return (
            "is locked: another transaction holds it, perhaps that of a job inside "
            "ctx.transaction(). Try again when that has ended."
        )
    return (
        f"does not answer: {first_line(error)}. Look at PROMETHEUS__DATABASE__URL "
        f"([database] url in prometheus.toml) and at the server."
    )


def first_line(error: BaseException) -> str:
    """Return the telling line of a database driver's error."""
    text = str(getattr(error, "orig", None) or error).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
