"""Calendar overrides: recorded, and read into the process when there are new ones."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from prometheus.core.exchanges import Break, LocalTime
from prometheus.core.overrides import (
    Override,
    OverrideKind,
    Overrides,
    in_force,
    put_in_force,
)
from prometheus.persistence.clock import Now
from prometheus.persistence.tables import audit, calendar_overrides

_BREAK = re.compile(r"(.+?(?:[+-]\dd)?)-(\d\d:.+)")


def read_overrides(connection: Connection) -> Overrides:
    """Read all that were recorded, in that order."""
    rows = connection.execute(select(calendar_overrides).order_by(calendar_overrides.c.override_id))
    return Overrides(tuple(_override(row) for row in rows))


def refresh(connection: Connection, now: Now) -> bool:
    """
    Put in force what the database has, if this process does not go by it yet.

    Args:
        now: Read in this transaction.

    Returns:
        Whether there was anything new.
    """
    if in_force().latest == now.latest_override:
        return False
    put_in_force(read_overrides(connection))
    return True


def lock_overrides(connection: Connection) -> None:
    """
    Let nobody else record overrides until the transaction ends.

    So ids grow in the order in which rows can be seen, and the last one says which there are.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE calendar_overrides IN SHARE ROW EXCLUSIVE MODE")


def record(connection: Connection, override: Override) -> None:
    """Write an override, made of what `lock_overrides` has fixed, and its audit row."""
    connection.execute(
        insert(calendar_overrides).values(
            override_id=override.override_id,
            exchange=override.exchange,
            market_id=override.market,
            session=override.session,
            kind=override.kind,
            opens=override.open and str(override.open),
            closes=override.close and str(override.close),
            breaks=written_breaks(override.breaks),
            zone=override.zone,
            reason=override.reason,
            source=override.source,
            announced_at=override.announced_at,
            author=override.author,
            withdraws=override.withdraws,
        )
    )
    details = {
        "override": override.override_id,
        "session": override.session.isoformat(),
        "kind": override.kind,
        "reason": override.reason,
        "withdraws": override.withdraws,
    }
    connection.execute(
        insert(audit).values(
            actor=override.author, action="override", target=override.target, details=details
        )
    )


def written_breaks(breaks: tuple[Break, ...] | None) -> str | None:
    """Write breaks as they are stored."""
    if breaks is None:
        return None
    return " ".join(f"{start}-{end}" for start, end in breaks)


def _override(row: Row[Any]) -> Override:
    return Override(
        override_id=row.override_id,
        exchange=row.exchange,
        market=row.market_id,
        session=row.session,
        kind=OverrideKind(row.kind),
        open=LocalTime.parse(row.opens) if row.opens else None,
        close=LocalTime.parse(row.closes) if row.closes else None,
        breaks=None if row.breaks is None else _breaks(row.breaks),
        zone=row.zone,
        reason=row.reason,
        source=row.source,
        announced_at=row.announced_at,
        author=row.author,
        recorded_at=row.recorded_at,
        withdraws=row.withdraws,
    )


def _breaks(text: str) -> tuple[Break, ...]:
    pairs = (_BREAK.fullmatch(pause) for pause in text.split())
    return tuple((LocalTime.parse(pair[1]), LocalTime.parse(pair[2])) for pair in pairs if pair)
