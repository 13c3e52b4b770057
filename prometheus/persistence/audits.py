"""Who did what, when, why, and what it was before and after: all that writes the audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, update

from prometheus.persistence.tables import audit


def record_audit(
    connection: Connection,
    actor: str,
    action: str,
    target: str,
    details: Mapping[str, Any],
    *,
    before: Any,
    after: Any,
) -> int:
    """
    Write down what was done, in the transaction that does it.

    Args:
        details: Why, and what else there is to tell.
        before: What was so, as a JSON value; ``None`` if there was nothing.
        after: What is so now; ``None`` if there is nothing.

    Returns:
        Its number.
    """
    entry: int = connection.execute(
        insert(audit)
        .values(
            actor=actor,
            action=action,
            target=target,
            details={**details, "before": before, "after": after},
        )
        .returning(audit.c.audit_id)
    ).scalar_one()
    return entry


def change_audit(
    connection: Connection, entry: int, details: Mapping[str, Any], *, before: Any, after: Any
) -> None:
    """Say anew what was done, for what takes many transactions; see `record_audit`."""
    connection.execute(
        update(audit)
        .where(audit.c.audit_id == entry)
        .values(details={**details, "before": before, "after": after})
    )
