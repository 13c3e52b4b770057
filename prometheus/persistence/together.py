"""Several lists in one statement, for whoever shows them beside each other."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    Connection,
    SelectBase,
    cast,
    literal_column,
    null,
    select,
    union_all,
)


class Together:
    """
    Queries that have nothing in common, asked on one way to the database and back.

    For lists that are short: each row has the columns of all, and is without those of the others.
    What is asked often is built once, for that takes longer than to run it.
    """

    def __init__(self, *queries: SelectBase) -> None:
        asked = [query.subquery(f"q{number}") for number, query in enumerate(queries)]
        self._statement = union_all(
            *(
                select(
                    literal_column(str(number)).label("part"),
                    *(
                        # With its type, which PostgreSQL guesses of no more than two queries.
                        (column if each is mine else cast(null(), column.type)).label(
                            f"{each.name}_{column.name}"
                        )
                        for each in asked
                        for column in each.c
                    ),
                )
                for number, mine in enumerate(asked)
            )
        )
        self._parts = []
        begin = 1
        for each in asked:
            # mypy wants names that are written here; these are the query's.
            kind: Any = namedtuple(each.name, [column.name for column in each.c])  # type: ignore[misc]
            self._parts.append((kind._make, slice(begin, begin + len(each.c))))
            begin += len(each.c)

    def read(self, connection: Connection, parameters: Mapping[str, Any]) -> list[list[Any]]:
        """
        Ask for all of it.

        Returns:
            For each query its rows, with its columns as attributes; in no order.
        """
        found: list[list[Any]] = [[] for _ in self._parts]
        for row in connection.execute(self._statement, parameters):
            make, own = self._parts[row[0]]
            found[row[0]].append(make(row[own]))
        return found
