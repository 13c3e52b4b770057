"""
What every page and list but *Why* is read beside: what time it is, who leads, what is paused, and
whether something is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from prometheus.orchestration.pauses import Pause
from prometheus.persistence.clock import READ_NOW, Now, now_of
from prometheus.persistence.pauses import pause_of
from prometheus.persistence.tables import alerts, leases, market_clock, pause_holds, pauses

_l = leases.c
_OF_LEASE = ("owner", "epoch", "expires_at", "ticked_at", "figures")
_LOOK = (
    READ_NOW.add_columns(
        *(_l[name] for name in _OF_LEASE),
        *(column for column in pauses.c if not column.name.startswith("ended_")),
        select(func.count())
        .select_from(alerts)
        .where(alerts.c.resolved_at.is_(None))
        .scalar_subquery()
        .label("open_alerts"),
    )
    .select_from(
        market_clock.outerjoin(leases, _l.name == bindparam("leadership")).outerjoin(
            pauses, pause_holds
        )
    )
    .order_by(pauses.c.pause_id)
)
"""A row for each pause in force; one without a pause where there is none."""


def read_look(
    connection: Connection, leadership: str
) -> tuple[Now, Mapping[str, Any] | None, tuple[Pause, ...], int]:
    """
    Read both clocks, the lease of a name, what operators keep from starting, and how many alerts
    are open, in one statement.

    Returns:
        The lease has ``owner``, ``epoch``, ``expires_at``, ``ticked_at`` and ``figures``; ``None``
        where nobody ever had it.
    """
    rows = connection.execute(_LOOK, {"leadership": leadership}).all()
    lease = {name: getattr(rows[0], name) for name in _OF_LEASE}
    return (
        now_of(rows[0]),
        lease if lease["owner"] is not None else None,
        tuple(pause_of(row) for row in rows if row.pause_id is not None),
        rows[0].open_alerts,
    )
