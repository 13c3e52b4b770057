"""
The database: real SQL on a SQLite in memory, by a clock of the simulation's and with its faults.

It stands where an SQLAlchemy engine does. The statements are the product's own, compiled by
SQLAlchemy; only the way from there to the driver is shorter, which a simulated year needs.
"""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

import sqlalchemy
from sqlalchemy import exc
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.pool import StaticPool

from prometheus.core.clock import MarketClock
from prometheus.persistence.clock import Now
from prometheus.persistence.metadata import UtcDateTime, metadata
from tests.simulation.world import Task, Violation, World

DIALECT: Any = sqlite_dialect(paramstyle="qmark")
IDLE_IN_TRANSACTION = 5_000_000
"""Microseconds after which the server ends a transaction that does nothing (PostgreSQL's way)."""


_LIVE = MarketClock()


class Trouble(Exception):  # noqa: N818  what a driver would raise
    """The driver's error under SQLAlchemy's."""

    def __init__(self, text: str, sqlstate: str) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


def unavailable(
    text: str = "the database is away", sqlstate: str = "08006"
) -> exc.OperationalError:
    """Make the error of a database that can not be reached."""
    return exc.OperationalError("(simulated)", None, Trouble(text, sqlstate))


def _bind_instant(value: datetime | None) -> str | None:
    if value is None:
        return None
    if value.tzinfo is not UTC:
        value = value.astimezone(UTC)
    return value.isoformat(" ", "microseconds")[:26]


_instants: dict[str, datetime] = {}


def _read_instant(value: str) -> datetime:
    instant = _instants.get(value)
    if instant is None:
        if len(_instants) > 10_000:
            _instants.clear()
        instant = _instants[value] = datetime.fromisoformat(value).replace(tzinfo=UTC)
    return instant


class Scalars(list[Any]):
    """The first column of a result."""

    def all(self) -> list[Any]:
        return self

    def first(self) -> Any:
        return self[0] if self else None


class Mappings(list[dict[str, Any]]):
    """A result as dictionaries."""

    def first(self) -> Any:
        return self[0] if self else None


class Result(list[Any]):
    """What a statement returned: the part of SQLAlchemy's result that the product uses."""

    __slots__ = ("rowcount",)
    rowcount: int

    def all(self) -> list[Any]:
        return self

    def first(self) -> Any:
        return self[0] if self else None

    def one(self) -> Any:
        if len(self) != 1:
            raise exc.NoResultFound(f"{len(self)} rows")
        return self[0]

    def scalars(self) -> Scalars:
        return Scalars([row[0] for row in self])

    def scalar_one(self) -> Any:
        return self.one()[0]

    def scalar_one_or_none(self) -> Any:
        return self.one()[0] if self else None

    def mappings(self) -> Mappings:
        return Mappings([row._asdict() for row in self])


class Prepared:
    """A statement, compiled: its text between lists of values, and how to read and write values."""

    def __init__(self, statement: Any, keys: Sequence[str] | None, cache_key: Any) -> None:
        self.compiled = statement.compile(
            dialect=DIALECT, cache_key=cache_key, column_keys=list(keys) if keys else None
        )
        compiled = self.compiled
        self.order: list[str] = list(compiled.positiontup or ())
        self.expanding: set[str] = set()
        for bind in compiled.post_compile_params | compiled.literal_execute_params:
            self.expanding.add(compiled.bind_names[bind])
        self.pieces: list[str] = []
        text = compiled.string
        for name in self.order:
            token = f"__[POSTCOMPILE_{name}]" if name in self.expanding else "?"
            before, _, text = text.partition(token)
            self.pieces.append(before)
        self.tail = text
        self.write: dict[str, Callable[[Any], Any] | None] = {}
        for bind, name in compiled.bind_names.items():
            kind = bind.type
            self.write[name] = (
                _bind_instant
                if isinstance(kind, UtcDateTime)
                else kind.dialect_impl(DIALECT).bind_processor(DIALECT)
            )
        columns = compiled._result_columns or ()
        self.returns = bool(columns)
        row = namedtuple("row", [each.keyname for each in columns], rename=True)  # type: ignore[misc]
        self.make_rows = _rows_maker(row, [_reader(each.type) for each in columns])


def _reader(kind: Any) -> Callable[[Any], Any] | None:
    if isinstance(kind, UtcDateTime):
        return _read_instant
    found: Callable[[Any], Any] | None = kind.dialect_impl(DIALECT).result_processor(DIALECT, None)
    return found


def _rows_maker(row: Any, readers: list[Callable[[Any], Any] | None]) -> Callable[[Any], list[Any]]:
    """Write a function that makes rows of the driver's, and have Python compile it."""
    names = [f"cell_{n}" for n in range(len(readers))]
    cells = [
        name if reader is None else f"None if {name} is None else read_{n}({name})"
        for n, (name, reader) in enumerate(zip(names, readers, strict=True))
    ]
    known = {f"read_{n}": reader for n, reader in enumerate(readers) if reader}
    found: Callable[[Any], list[Any]] = eval(
        f"lambda found: [new(row, ({', '.join(cells)},)) for {', '.join(names)}, in found]"
        if names
        else "lambda found: []",
        {**known, "new": tuple.__new__, "row": row},
    )
    return found


class Ready:
    """A statement with the values that are its own, and the names of those that it is given."""

    def __init__(
        self, statement: Any, prepared: Prepared, values: Mapping[str, Any], keys: Sequence[str]
    ) -> None:
        self.statement = statement  # kept, so that nothing else gets its id
        self.prepared = prepared
        self.make_rows = prepared.make_rows
        self.returns = prepared.returns
        self.number = len(keys)
        self.steps: list[tuple[str, Callable[[Any], Any] | None, bool, Any]] = []
        for name in prepared.order:
            value, write = values.get(name), prepared.write[name]
            many = name in prepared.expanding
            if many and value is not None:
                own: Any = [write(each) if write else each for each in value]
            else:
                own = write(value) if write and value is not None else value
            self.steps.append((name, write, many, own))
        self.texts: dict[tuple[int, ...], str] = {}
        self.many = any(many for _, _, many, _ in self.steps)
        if not self.many:
            self.text = self._text(())
            self.values = self._values_maker(keys)

    def _values_maker(self, keys: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
        """Write a function that makes the values, of a statement without lists."""
        known: dict[str, Any] = {}
        cells = []
        for n, (name, write, _, own) in enumerate(self.steps):
            if name not in keys:
                known[f"own_{n}"] = own
                cells.append(f"own_{n}")
            elif write is None:
                cells.append(f"params[{name!r}]")
            else:
                known[f"write_{n}"] = write
                cells.append(f"write_{n}(params[{name!r}])")
        made: Callable[[Any], tuple[Any, ...]] = eval(
            f"lambda params: ({''.join(cell + ', ' for cell in cells)})", known
        )
        return made

    def bind(self, params: Mapping[str, Any] | None) -> tuple[str, list[Any]]:
        """Return the text and the values of a statement with lists."""
        given = params or {}
        values: list[Any] = []
        lengths: tuple[int, ...] = ()
        for name, write, many, own in self.steps:
            if name not in given:
                value = own
            elif many:
                value = given[name]
                value = [write(each) for each in value] if write else value
            else:
                value = given[name]
                value = write(value) if write and value is not None else value
            if many:
                values += value
                lengths += (len(value),)
            else:
                values.append(value)
        text = self.texts.get(lengths)
        if text is None:
            text = self.texts[lengths] = self._text(lengths)
        return text, values

    def _text(self, lengths: tuple[int, ...]) -> str:
        text: str = ""
        left = list(lengths)
        for piece, (_, _, many, _) in zip(self.prepared.pieces, self.steps, strict=True):
            text += piece
            if many:
                count = left.pop(0)
                text += ", ".join("?" * count) if count else "NULL"
            else:
                text += "?"
        tail: str = self.prepared.tail
        return text + tail


class Connection:
    """What the product's functions are handed."""

    dialect = DIALECT

    def __init__(self, database: Database) -> None:
        self._database = database
        self._execute = database.raw.execute
        self._ready: dict[int, Ready] = {}
        self._by_keys: dict[Any, Ready] = {}
        self._prepared: dict[Any, Prepared] = {}

    def execute(self, statement: Any, params: Any = None) -> Result:
        database = self._database
        database.before_statement()
        if type(params) is list:
            return self._execute_many(statement, params)
        ready = self._ready.get(id(statement))
        if ready is None or (params and len(params) != ready.number):
            ready = self._get_ready(statement, params or {})
        text, values = ready.bind(params) if ready.many else (ready.text, ready.values(params))
        try:
            cursor = self._execute(text, values)
            if not ready.returns:
                result = Result()
                result.rowcount = cursor.rowcount
                return result
            return Result(ready.make_rows(cursor.fetchall()))
        except sqlite3.IntegrityError as error:
            raise self._translated(error, text) from error

    def _execute_many(self, statement: Any, params: list[Any]) -> Result:
        ready = self._get_ready(statement, params[0])
        try:
            self._database.raw.executemany(ready.text, map(ready.values, params))
        except sqlite3.IntegrityError as error:
            raise self._translated(error, ready.text) from error
        return Result()

    def _translated(self, error: sqlite3.IntegrityError, text: str) -> BaseException:
        if str(error)[:1] == "P" and str(error)[2:3] == ":":
            return Violation(self._database.tell(str(error)))
        return exc.IntegrityError(text, None, error)

    def _get_ready(self, statement: Any, params: Mapping[str, Any]) -> Ready:
        key = (id(statement), *params)
        ready = self._by_keys.get(key)
        if ready is None:
            if len(self._by_keys) > 500:
                self._by_keys.clear()
                self._ready.clear()
            ready = self._by_keys[key] = self._make(statement, params)
        self._ready[id(statement)] = ready
        return ready

    def _make(self, statement: Any, params: Mapping[str, Any]) -> Ready:
        cache_key = statement._generate_cache_key()
        keys = tuple(params)
        key = (cache_key.key, keys) if cache_key is not None else None
        prepared = self._prepared.get(key) if key is not None else None
        if prepared is None:
            prepared = Prepared(statement, keys, cache_key)
            if key is not None:
                self._prepared[key] = prepared
        extracted = cache_key.bindparams if cache_key is not None else None
        values = prepared.compiled.construct_params(
            dict.fromkeys(keys), extracted_parameters=extracted, _check=False
        )
        return Ready(statement, prepared, values, keys)


class _Reading:
    """Stands where ``engine.connect()`` does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def execution_options(self, **_: Any) -> _Reading:
        return self

    def __enter__(self) -> _Begin:
        return _Begin(self._database)

    def __exit__(self, *_: object) -> None: ...


class _Begin:
    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self) -> _Transaction:
        return _Transaction(self._database, False)

    def execute(self, statement: Any, params: Any = None) -> Result:
        return self._database.connection.execute(statement, params)

    @property
    def dialect(self) -> Any:
        return DIALECT


class _Transaction:
    __slots__ = ("_database", "_writes", "dead", "task")

    def __init__(self, database: Database, writes: bool) -> None:
        self._database = database
        self._writes = writes
        self.dead = False
        self.task: Task | None = None

    def __enter__(self) -> Connection:
        self._database.begin(self, self._writes)
        return self._database.connection

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.end(self, self._writes, failed=kind is not None)


class _EachAlone:
    """Stands where a connection does on which each statement is committed by itself."""

    dialect = DIALECT

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> _EachAlone:
        return self

    def __exit__(self, *_: object) -> None: ...

    def execute(self, statement: Any, params: Any = None) -> Result:
        with _Transaction(self._database, True) as connection:
            return connection.execute(statement, params)


class Database:
    """One SQLite, one connection, used by all processes in turn."""

    dialect = DIALECT

    def __init__(self, world: World) -> None:
        self.world = world
        self.raw = sqlite3.connect(":memory:", isolation_level=None, cached_statements=512)
        # No time passes in a statement, so that SQLite need not ask twice.
        self.raw.create_function("strftime", -1, world.strftime, deterministic=True)
        self.connection = Connection(self)
        self.holder: _Transaction | None = None
        self._active_at = 0
        self._changes = 0
        self.away_until = 0
        self.slow_until = 0
        self.lose_answer: Callable[[], bool] = lambda: False
        self.refuse_commit: Callable[[], bool] = lambda: False
        self.commits = 0
        self.transactions = 0

    # --- transactions ----------------------------------------------------------------------------

    def _reach(self) -> None:
        world = self.world
        task = world.task
        if world.now < self.away_until or (
            task is not None and world.now < task.process.no_database_until
        ):
            raise unavailable()

    def begin(self, transaction: _Transaction, writes: bool) -> None:
        world = self.world
        now, task = world.now, world.task
        if now < self.away_until or (task is not None and now < task.process.no_database_until):
            raise unavailable()
        if now < self.slow_until:
            world.sleep(world.random.uniform(0.01, 1.2))
            self._reach()
        elif task is not None and world.random.random() < 0.03:
            world.sleep(world.random.uniform(0.001, 0.05))  # others come in between
            self._reach()
        while self.holder is not None:
            if world.now - self._active_at >= IDLE_IN_TRANSACTION:
                self.drop_holder()
                break
            world.sleep(0.1)
            self._reach()
        self.holder = transaction
        transaction.task = task
        self._active_at = world.now
        self.transactions += 1
        if writes:
            self.raw.execute("BEGIN")
            self._changes = self.raw.total_changes

    def drop_holder(self) -> None:
        """End the transaction under way from the server's side."""
        if self.holder is not None:
            self.holder.dead = True
            self.holder = None
            if self.raw.in_transaction:
                self.raw.execute("ROLLBACK")

    def before_statement(self) -> None:
        world, holder = self.world, self.holder
        if holder is None or holder.task is not world.task:
            raise unavailable("the connection was closed", "57P01")
        if world.now < self.slow_until and world.random.random() < 0.2:
            world.sleep(world.random.uniform(0.01, 0.6))
            if holder.dead:
                raise unavailable("the connection was closed", "57P01")
        self._active_at = world.now

    def end(self, transaction: _Transaction, writes: bool, *, failed: bool) -> None:
        if transaction.dead:
            if not failed:
                raise unavailable("the connection was closed", "57P01")
            return
        self.holder = None
        if not writes:
            return
        if failed:
            self.raw.execute("ROLLBACK")
            return
        if self.raw.total_changes != self._changes:
            self.commits += 1
            if self.refuse_commit():
                self.raw.execute("ROLLBACK")
                raise unavailable("could not serialize access", "40001")
            self.raw.execute("COMMIT")
            if self.lose_answer():
                raise unavailable("the connection was lost during COMMIT")
            return
        self.raw.execute("COMMIT")

    def stamp_renewals(self, incarnations: Sequence[str], at: datetime, lease: timedelta) -> bool:
        """Renew the leases of workers that run nothing; say whether all of them still had one."""
        given = (_bind_instant(at), _bind_instant(at + lease))
        names = ", ".join("?" * len(incarnations))
        alive = f"incarnation IN ({names}) AND ended_at IS NULL"
        found = self.raw.execute(
            f"SELECT count(*) FROM worker_incarnations WHERE {alive}", incarnations
        ).fetchone()
        if found[0] != len(incarnations):
            return False
        self.raw.execute(
            f"UPDATE worker_incarnations SET previous_renewed_at = renewed_at, renewed_at = ?,"
            f" expires_at = ? WHERE {alive}",
            (*given, *incarnations),
        )
        return True

    def read_now(self, _: Connection) -> Now:
        """
        Do what `prometheus.persistence.clock.read_now` does.

        Asked five times a job, and what it would read is the simulation's own: the virtual clock,
        and the row of a market clock that no replay has set.
        """
        self.before_statement()
        wall_at = _read_instant(self.world.database_time())
        return Now(wall_at, wall_at, _LIVE, None, None)

    # --- making and looking ----------------------------------------------------------------------

    def at(self, text: str) -> int:
        """Return a stamp of the database's in microseconds."""
        return self.world.at(_read_instant(text))

    def tell(self, text: str) -> str:
        """Say when and where something went wrong."""
        world = self.world
        who = world.task.process.name if world.task is not None else "nobody"
        return f"{text} [{world.instant(world.now):%Y-%m-%d %H:%M:%S.%f}, {who}]"

    @contextmanager
    def sqlalchemy(self) -> Iterator[sqlalchemy.Connection]:
        """Open a plain SQLAlchemy connection to it, outside of time and faults."""
        engine = sqlalchemy.create_engine(
            "sqlite://", creator=lambda: self.raw, poolclass=StaticPool, pool_reset_on_return=None
        )
        with engine.connect() as connection:
            yield connection

    def create(self, checks: Sequence[str]) -> None:
        """Make the product's tables, and the triggers that watch them."""
        with self.sqlalchemy() as connection:
            metadata.create_all(connection)
        self.raw.execute("PRAGMA foreign_keys=ON")
        self.raw.execute("INSERT INTO market_clock (id, speed) VALUES (1, 1.0)")
        for check in checks:
            self.raw.execute(check)


def as_engine(database: Database) -> sqlalchemy.Engine:
    """Return the database as the product's code names it."""
    return _Engine(database)  # type: ignore[return-value]  # it has what the product uses


class _Engine:
    dialect = DIALECT

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self) -> _Transaction:
        return _Transaction(self._database, True)

    def connect(self) -> _Reading:
        return _Reading(self._database)

    def each_alone(self) -> _EachAlone:
        """Do what `prometheus.persistence.engine.each_alone` does with it on PostgreSQL."""
        return _EachAlone(self._database)

    def read(self) -> _Transaction:
        """Do what `prometheus.persistence.engine.reading` does with it."""
        return _Transaction(self._database, False)


__all__ = ["Database", "as_engine", "unavailable"]
