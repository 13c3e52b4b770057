"""The one SQLAlchemy ``MetaData`` of all tables, and instants: their column type and the clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, DateTime, Dialect, MetaData, String, TypeDecorator
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """
    An aware UTC instant: ``timestamptz`` on PostgreSQL, ISO text in UTC on SQLite.

    Naive values are refused on the way in; what comes out is always aware UTC.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.utcoffset() is None:
            raise ValueError(f"naive datetime {value.isoformat()} for a UTC column")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(
        self,
        value: datetime | None,
        dialect: Dialect,  # noqa: ARG002  the signature is SQLAlchemy's
    ) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class database_now(FunctionElement[datetime]):  # noqa: N801  reads as an SQL function
    """The database's own clock, to the microsecond on PostgreSQL and millisecond on SQLite."""

    type = UtcDateTime()
    inherit_cache = True


class database_later(FunctionElement[datetime]):  # noqa: N801  reads as an SQL function
    """The database's own clock in so many seconds."""

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, seconds: ColumnElement[float]) -> None:
        super().__init__(seconds)


class unhurried(FunctionElement[str]):  # noqa: N801  reads as an SQL function
    """
    Have the transaction's end not wait for the disk: a crash of the server may undo it.

    In what a change returns; for one that is soon made again, and that it does no harm to lose.
    """

    type = String()
    inherit_cache = True


@compiles(unhurried, "postgresql")
def _unhurried_postgresql(_element: object, _compiler: object, **_: object) -> str:
    return "set_config('synchronous_commit', 'off', true)"


@compiles(unhurried, "sqlite")
def _unhurried_sqlite(_element: object, _compiler: object, **_: object) -> str:
    return "NULL"


@compiles(database_now, "postgresql")
def _now_postgresql(_element: object, _compiler: object, **_: object) -> str:
    return "clock_timestamp()"


@compiles(database_now, "sqlite")
def _now_sqlite(_element: object, _compiler: object, **_: object) -> str:
    # Six decimals, as SQLAlchemy writes instants, so that texts compare as the instants do.
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


@compiles(database_later, "postgresql")
def _later_postgresql(element: database_later, compiler: SQLCompiler, **options: Any) -> str:
    seconds = compiler.process(element.clauses, **options)
    return f"clock_timestamp() + make_interval(secs => {seconds})"


@compiles(database_later, "sqlite")
def _later_sqlite(element: database_later, compiler: SQLCompiler, **options: Any) -> str:
    seconds = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', ({seconds}) || ' seconds')"
