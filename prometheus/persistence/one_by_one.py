"""The cursor of PostgreSQL's connections, which nobody loads who works on SQLite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg


class OneByOne(psycopg.Cursor[Any]):
    """
    Sends each row of an ``executemany`` by itself, and waits for the answer.

    psycopg would send them in a pipeline, in the midst of which PostgreSQL knows no idle time: a
    process that is frozen there would keep its locks until it wakes.
    """

    def executemany(
        self,
        query: Any,
        params_seq: Iterable[Any],
        *,
        returning: bool = False,  # noqa: ARG002  SQLAlchemy does not ask for it
    ) -> None:
        """Execute the same statement with each of the parameters."""
        for params in params_seq:
            self.execute(query, params)
