"""Which runs were written to since the leader last looked."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    bindparam,
    delete,
    exists,
    literal_column,
    select,
)
from sqlalchemy.sql.dml import ReturningDelete

from prometheus.persistence.metadata import database_later
from prometheus.persistence.tables import leases, run_changes

TAKEN_AT_ONCE = 50_000
"""Notes that one transaction takes. While a client reads very many, PostgreSQL ends its
transaction, as one in which nothing is done; and so at each further try."""


def _take_some(row: str) -> ReturningDelete[str]:
    own: ColumnElement[Any] = literal_column(row)
    some = select(own).select_from(run_changes).limit(TAKEN_AT_ONCE).correlate(None)
    return delete(run_changes).where(own.in_(some)).returning(run_changes.c.dag_id)


_TAKE = {"postgresql": _take_some("ctid"), "sqlite": _take_some("rowid")}
"""By what each database calls a row that has no key."""


def take(connection: Connection) -> tuple[set[str], bool]:
    """
    Take what was noted, or some of it.

    Returns:
        Runs that were written to, and whether there may be more to take, in another transaction.
    """
    noted = connection.execute(_TAKE[connection.dialect.name]).scalars().all()
    return set(noted), len(noted) == TAKEN_AT_ONCE


_DROP_UNLED = delete(run_changes).where(
    ~exists().where(
        leases.c.name == bindparam("what"),
        leases.c.expires_at > database_later(bindparam("seconds")),
    )
)


def drop_unled(connection: Connection, name: str, *, for_long: timedelta) -> None:
    """
    Drop what nobody takes, because nobody has led for so long.

    Args:
        name: What is led.
        for_long: After which whoever led goes by none of it any more.
    """
    asked = {"what": name, "seconds": -for_long.total_seconds()}
    connection.execute(_DROP_UNLED, asked)
