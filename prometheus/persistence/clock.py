"""The two clocks, as the database has them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, exists, func, select, true, update

from prometheus.core.clock import MarketClock
from prometheus.orchestration.planning import SessionRange
from prometheus.persistence.metadata import database_now
from prometheus.persistence.tables import (
    backfills,
    calendar_overrides,
    market_clock,
    pause_holds,
    pauses,
)


@dataclass(frozen=True, slots=True)
class Now:
    """One reading of both clocks."""

    wall_at: datetime
    """The database's own time: leases, limits, delays, stamps."""
    market_at: datetime
    """Sessions, windows, catch-up. Equal to ``wall_at`` except in a replay."""
    clock: MarketClock
    only: SessionRange | None
    """The sessions a replay is bound to."""
    markets: frozenset[str] | None
    """The markets a replay is bound to."""
    latest_override: int = 0
    """The last calendar override that was recorded by then; 0 if there is none."""
    standing_pauses: int = 0
    """How many pauses are in force."""
    open_backfills: int = 0
    """How many backfills have not ended."""

    @property
    def jumps(self) -> bool:
        """Whether market time stands until the scheduler moves it on."""
        return self.clock.speed == 0


LATEST_OVERRIDE = select(
    func.coalesce(func.max(calendar_overrides.c.override_id), 0)
).scalar_subquery()
IS_LIVE_TIME = exists().where(market_clock.c.anchor_market_at.is_(None))
"""Whether market time is wall time, as it is but in a replay."""
READ_NOW = select(
    database_now().label("wall_at"),
    market_clock.c.anchor_market_at,
    market_clock.c.anchor_wall_at,
    market_clock.c.speed,
    market_clock.c.first_session,
    market_clock.c.last_session,
    market_clock.c.markets,
    LATEST_OVERRIDE.label("latest_override"),
    select(func.count())
    .select_from(pauses)
    .where(pause_holds)
    .scalar_subquery()
    .label("standing_pauses"),
    select(func.count())
    .where(backfills.c.ended_at.is_(None))
    .scalar_subquery()
    .label("open_backfills"),
).where(true())


def read_now(connection: Connection) -> Now:
    """Read both clocks in one statement."""
    return now_of(connection.execute(READ_NOW).one())


def now_of(row: Row[Any]) -> Now:
    """Make one of a row of `READ_NOW`, which may have other columns, too."""
    clock = MarketClock(row.anchor_market_at, row.anchor_wall_at, row.speed)
    only = SessionRange(row.first_session, row.last_session) if row.first_session else None
    return Now(
        wall_at=row.wall_at,
        market_at=clock.market_time(row.wall_at),
        clock=clock,
        only=only,
        markets=frozenset(row.markets) if row.markets is not None else None,
        latest_override=row.latest_override,
        standing_pauses=row.standing_pauses,
        open_backfills=row.open_backfills,
    )


def start_replay(
    connection: Connection,
    *,
    market_at: datetime,
    speed: float,
    only: SessionRange,
    markets: list[str],
) -> None:
    """Turn the market clock of a new database back to ``market_at``; speed 0 jumps."""
    connection.execute(
        update(market_clock).values(
            anchor_market_at=market_at,
            anchor_wall_at=database_now(),
            speed=speed,
            first_session=only.first,
            last_session=only.last,
            markets=markets,
        )
    )


def jump_to(connection: Connection, market_at: datetime, *, seen: datetime) -> bool:
    """
    Move a standing market clock on.

    Args:
        market_at: Where to.
        seen: Where it stood when the decision was made; it moves only from there.
    """
    moved = connection.execute(
        update(market_clock)
        .where(market_clock.c.speed == 0, market_clock.c.anchor_market_at == seen)
        .values(anchor_market_at=market_at, anchor_wall_at=database_now())
    )
    return moved.rowcount == 1
