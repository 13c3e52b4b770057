"""Which runs were written to since the leader last looked."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, bindparam, delete, exists

from prometheus.persistence.metadata import database_later
from prometheus.persistence.tables import leases, run_changes

_TAKE = delete(run_changes).returning(run_changes.c.dag_id)


def take(connection: Connection) -> set[str]:
    """Return the runs that were written to since the last call that was committed."""
    return set(connection.execute(_TAKE).scalars())


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
