"""The job ``ingest_factors``: daily factor returns from the market's feed into ``eq_factors``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, select

from prometheus.dispatch.context import JobContext
from prometheus.pipelines.equities.panel import HISTORY_SESSIONS, Floats, last_sessions
from prometheus.pipelines.equities.storage import upsert_rows
from prometheus.pipelines.equities.tables import eq_factors
from prometheus.sources.errors import SourceError
from prometheus.sources.protocol import FactorReturn

MARKET_FACTOR = "MKT"


def ingest_factors(ctx: JobContext) -> dict[str, Any]:
    """
    Load the session's factor returns, and whatever of the last 400 market sessions is missing.

    A return that is missing at the feed stays missing: none is carried forward. Running it again
    changes nothing.

    Returns:
        Rows of the session, rows of history, the factors with their sources.

    Raises:
        SourceError: The feed does not answer, has no factor of this session, or a value that is
            no return (retryable).
    """
    result = load_factors(ctx)
    ctx.logger.info("factors_ingested", extra={"ingested": result})
    return result


def load_factors(ctx: JobContext) -> dict[str, Any]:
    """Do the work of `ingest_factors`; also called by a job that can not wait for it."""
    source = ctx.sources.factors(ctx.market_id)
    sessions = last_sessions(ctx.market_id, ctx.session_date, HISTORY_SESSIONS)
    table = eq_factors
    with ctx.transaction() as connection:
        rows = connection.execute(
            select(table).where(
                table.c.market_id == ctx.market_id,
                table.c.session_date >= sessions[0],
                table.c.session_date <= ctx.session_date,
            )
        ).mappings()
        stored = {(row["session_date"], row["factor"]): dict(row) for row in rows}
    known = {day for day, _ in stored}
    # A later run's rows of these sessions may come from another source (real years end), so all
    # are compared; a feed that is costly to ask is asked from the first missing session on.
    start = next((day for day in sessions if day not in known), sessions[-1])
    position = max(sessions.index(start) - 5, 0)
    returns = source.returns(ctx.market_id, sessions[position], ctx.session_date)
    if _from_elsewhere(stored.values(), returns):
        returns = source.returns(ctx.market_id, sessions[0], ctx.session_date)

    fetched_at = datetime.now(UTC)
    fresh: list[dict[str, Any]] = []
    for item in returns:
        if not math.isfinite(item.value) or item.value <= -1.0:
            raise SourceError(
                item.source,
                f"{item.source}: {item.factor} of {ctx.market_id} on "
                f"{item.session_date.isoformat()} is {item.value}; a simple return above -1 was "
                f"wanted. The job tries again; if it stays so, look at the feed.",
            )
        if item.session_date > ctx.session_date:
            continue
        row = {
            "market_id": ctx.market_id,
            "session_date": item.session_date,
            "factor": item.factor,
            "value": item.value,
            "available_on": item.available_on,
            "source": item.source,
            "is_synthetic": item.is_synthetic,
        }
        before = stored.get((item.session_date, item.factor))
        if before is None or any(before[name] != value for name, value in row.items()):
            fresh.append({**row, "fetched_at": fetched_at})
    today = [item for item in returns if item.session_date == ctx.session_date]
    if not today:
        raise SourceError(
            source.name,
            f"{source.name} has no factor of {ctx.market_id} for {ctx.session_date.isoformat()} "
            f"yet; at least {MARKET_FACTOR} was wanted. The job tries again.",
        )
    upsert_rows(ctx, eq_factors, fresh)
    return {
        "rows": len(today),
        "history_rows": sum(row["session_date"] < ctx.session_date for row in fresh),
        "factors": {
            item.factor: {"source": item.source, "is_synthetic": item.is_synthetic}
            for item in today
        },
    }


def _from_elsewhere(stored: Iterable[Mapping[str, Any]], returns: Iterable[FactorReturn]) -> bool:
    """Say whether a stored factor came from another source than it would now."""
    served = {(item.factor, item.source) for item in returns}
    return any((row["factor"], row["source"]) not in served for row in stored)


def read_factors(
    connection: Connection, market_id: str, sessions: Sequence[date]
) -> tuple[tuple[str, ...], Floats, bool]:
    """
    Read factor returns of market sessions, as known on the last of them.

    Args:
        connection: An open transaction.
        market_id: The market.
        sessions: Its sessions, ascending.

    Returns:
        The factors, `MARKET_FACTOR` first; their returns, (sessions, factors), NaN where missing
        or not yet published; and whether any factor is synthetic.
    """
    table = eq_factors.c
    rows = connection.execute(
        select(table.session_date, table.factor, table.value, table.is_synthetic).where(
            table.market_id == market_id,
            table.session_date >= sessions[0],
            table.session_date <= sessions[-1],
            table.available_on <= sessions[-1],
        )
    ).all()
    names = sorted({row.factor for row in rows}, key=lambda name: (name != MARKET_FACTOR, name))
    row_of = {day: number for number, day in enumerate(sessions)}
    column_of = {name: number for number, name in enumerate(names)}
    values = np.full((len(sessions), len(names)), np.nan)
    for row in rows:
        if row.session_date in row_of:
            values[row_of[row.session_date], column_of[row.factor]] = row.value
    return tuple(names), values, any(row.is_synthetic for row in rows)


def compound_between(returns: Floats, sessions: Sequence[date], dates: Sequence[date]) -> Floats:
    """
    Compound a market's factor returns over the sessions of one of its exchanges.

    An exchange that was closed while the market had a session returns, on its next one, over both;
    so must the factor it is compared with.

    Args:
        returns: (sessions, factors), simple.
        sessions: The market's sessions, ascending.
        dates: The exchange's sessions, ascending.

    Returns:
        (dates, factors): simple returns from the exchange's previous session to this one; NaN for
        the first, and where a return in between is missing.
    """
    missing = np.isnan(returns)
    totals = np.cumsum(np.where(missing, 0.0, np.log1p(np.where(missing, 0.0, returns))), axis=0)
    gaps = np.cumsum(missing, axis=0)
    ordinals = np.array([day.toordinal() for day in sessions])
    # Index of the last market session at or before each date.
    at = np.searchsorted(ordinals, [day.toordinal() for day in dates], side="right") - 1
    spans: Floats = np.full((len(dates), returns.shape[1]), np.nan)
    before, after = at[:-1], at[1:]
    known = (before >= 0)[:, None] & (gaps[after] == gaps[np.maximum(before, 0)])
    moves = np.expm1(totals[after] - totals[np.maximum(before, 0)])
    spans[1:] = np.where(known, moves, np.nan)
    return spans
