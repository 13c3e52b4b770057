"""Statements that come with every job, without what SQLAlchemy does again each time."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Dialect, Executable
from sqlalchemy.exc import DBAPIError, PendingRollbackError

LONGEST_LIST = 50
"""Of longer ones there are so many that their texts would fill the memory, each used once."""
Convert = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A statement in PostgreSQL's words, for lists of some lengths."""

    text: str
    constants: Mapping[str, Any]
    """Parameters that are part of the statement, as the driver wants them."""
    converts: Mapping[str, Convert]
    """What makes others so."""
    lists: Mapping[str, Sequence[str]]
    """What is given as a list -> the parameters of its values."""
    row: Callable[[tuple[Any, ...]], Any]
    """Makes a row that has its columns as attributes."""


def fetch(
    connection: Connection, statement: Executable, parameters: Mapping[str, Any]
) -> list[Any]:
    """
    Execute a statement and return its rows, which have their columns as attributes.

    As ``connection.execute(statement, parameters).all()`` does; but where PostgreSQL commits each
    statement by itself, its text goes to the driver without a detour.

    Args:
        connection: See `prometheus.persistence.engine.each_alone`.
        statement: One that is kept, as what it is compiled to is. It returns nothing of a type that
            SQLAlchemy would have to convert, and takes no such lists.
        parameters: All that it leaves open, and nothing else.

    Raises:
        DBAPIError: As SQLAlchemy raises it.
    """
    dialect = connection.dialect
    driver: Any = None
    if dialect.name == "postgresql":
        if connection.invalidated:  # the next one would not commit each statement by itself
            raise PendingRollbackError("the connection was lost; leave its block, begin another")
        driver = connection.connection.dbapi_connection
    if (
        driver is None
        or not driver.autocommit
        # Whoever listens to the cursor is told by SQLAlchemy.
        or connection.dispatch.before_cursor_execute
        or connection.dispatch.after_cursor_execute
    ):
        return [*connection.execute(statement, parameters)]
    compiled = _compile(statement, dialect, ())
    if compiled.lists:
        lengths = tuple((name, len(parameters[name])) for name in compiled.lists)
        if max(length for _, length in lengths) > LONGEST_LIST:
            return [*connection.execute(statement, parameters)]
        compiled = _compile(statement, dialect, lengths)
    sent = {**compiled.constants, **parameters}
    for name, names in compiled.lists.items():
        sent.update(zip(names, sent.pop(name), strict=True))
    for name, convert in compiled.converts.items():
        sent[name] = convert(sent[name])
    errors = dialect.loaded_dbapi.Error
    try:
        with driver.cursor() as cursor:
            cursor.execute(compiled.text, sent)
            return [*map(compiled.row, cursor.fetchall())]
    except errors as error:
        lost = dialect.is_disconnect(error, driver, None)
        if lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            compiled.text,
            None,
            error,
            errors,
            hide_parameters=True,
            connection_invalidated=lost,
            dialect=dialect,
        ) from error
    except BaseException as error:
        connection.invalidate(error)  # in the midst of an answer: a time limit, or the process' end
        raise


@lru_cache(maxsize=256)
def _compile(statement: Any, dialect: Dialect, lengths: tuple[tuple[str, int], ...]) -> _Compiled:
    compiled = statement.compile(dialect=dialect)
    constants: dict[str, Any] = {}
    converts: dict[str, Convert] = {}
    for bind, name in compiled.bind_names.items():
        convert = bind.type.dialect_impl(dialect).bind_processor(dialect)
        if bind.expanding and (convert is not None or not bind.required):
            raise TypeError(f"the list {name} would have to be converted, or is part of the text")
        if bind.required:
            if convert is not None:
                converts[name] = convert
            continue
        value = bind.effective_value
        if isinstance(value, Enum):
            value = value.value  # psycopg takes longer over what is not quite a str
        constants[name] = value if convert is None else convert(value)
    lists = {bind.key: () for bind in compiled.post_compile_params}
    text = compiled.string
    if lengths:
        told = {**compiled.params, **{name: [None] * length for name, length in lengths}}
        expanded = compiled.construct_expanded_state(told)
        text, lists = expanded.statement, expanded.parameter_expansion
    columns = statement.exported_columns
    for column in columns:
        if column.type.dialect_impl(dialect).result_processor(dialect, None) is not None:
            raise TypeError(f"{column} would have to be converted")
    # mypy wants names that are written here; these are the statement's.
    row: Any = namedtuple("Row", columns.keys())  # type: ignore[misc]
    return _Compiled(text, constants, converts, lists, row._make)
