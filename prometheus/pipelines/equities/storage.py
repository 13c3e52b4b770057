"""Writing many rows in short transactions, the same on PostgreSQL and SQLite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

from prometheus.dispatch.context import JobContext

CHUNK = 500
"""Rows a transaction: about 20 ms on SQLite, which has one write lock for everybody."""

Row = Mapping[str, Any]


def upsert(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows, or replace the values of those whose key exists; every row has all columns."""
    if not rows:
        return
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table)
    keys = [column.name for column in table.primary_key]
    values = {c.name: statement.excluded[c.name] for c in table.columns if c.name not in keys}
    connection.execute(
        statement.on_conflict_do_update(index_elements=keys, set_=values), list(rows)
    )


def upsert_rows(ctx: JobContext, table: Table, rows: Sequence[Row]) -> None:
    """Write rows in chunks, each a transaction of its own, in the order of their keys."""
    # One order for all writers, so that two jobs on the same exchange can not deadlock.
    ordered = _in_key_order(table, rows)
    for start in range(0, len(ordered), CHUNK):
        with ctx.transaction() as connection:
            upsert(connection, table, ordered[start : start + CHUNK])


def replace_rows(
    ctx: JobContext, table: Table, scope: Mapping[str, Any], rows: Sequence[Row]
) -> None:
    """
    Make `rows` all there is of a table within `scope`.

    Args:
        ctx: The job; its transactions are used.
        table: Where to write.
        scope: Column to the value, or tuple of values, that marks the rows to replace; all `rows`
            have these.
        rows: What shall be there afterwards. The first chunk is written together with the
            deletion; a job that ends between two chunks leaves a part, which its next attempt
            replaces.
    """
    ordered = _in_key_order(table, rows)
    with ctx.transaction() as connection:
        connection.execute(
            table.delete().where(
                *(
                    table.c[name].in_(value) if isinstance(value, tuple) else table.c[name] == value
                    for name, value in scope.items()
                )
            )
        )
        upsert(connection, table, ordered[:CHUNK])
    upsert_rows(ctx, table, ordered[CHUNK:])


def delete_keys(connection: Connection, table: Table, keys: Iterable[Row]) -> None:
    """Delete the rows with these keys, if they exist."""
    parameters = [{f"key_{name}": value for name, value in key.items()} for key in keys]
    if parameters:
        names = [column.name for column in table.primary_key]
        matches = (table.c[name] == sqlalchemy.bindparam(f"key_{name}") for name in names)
        connection.execute(table.delete().where(*matches), parameters)


def _in_key_order(table: Table, rows: Sequence[Row]) -> list[Row]:
    names = [column.name for column in table.primary_key]
    return sorted(rows, key=lambda row: tuple(row[name] for name in names))
