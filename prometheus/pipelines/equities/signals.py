"""The job ``run_signals``: three old anomalies, standardised across the market and added up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sqlalchemy import Connection, and_, select

from prometheus.dispatch.context import JobContext
from prometheus.pipelines.equities.errors import MissingInputError
from prometheus.pipelines.equities.panel import Floats, load_instruments, optional, or_nan
from prometheus.pipelines.equities.storage import replace_rows
from prometheus.pipelines.equities.tables import (
    eq_profiles,
    eq_signals,
    eq_volatility,
    eq_windows,
)

WEIGHTS: Mapping[str, float] = {"momentum": 0.5, "reversal": 0.2, "low_volatility": 0.3}
"""
Share of each signal in the score.

Momentum: Jegadeesh and Titman 1993. Reversal: Jegadeesh 1990. Low volatility: Ang, Hodrick, Xing
and Zhang 2006; Blitz and van Vliet 2007.
"""

WINSOR_PERCENT = 1.0
SECTOR_SIZE = 3
"""A sector with fewer names is compared with the whole market instead of with itself."""


def winsorised(values: Floats, percent: float = WINSOR_PERCENT) -> Floats:
    """Pull in what lies beyond the outer percentiles; NaN stays NaN."""
    known = values[~np.isnan(values)]
    if not len(known):
        return values
    low, high = np.percentile(known, [percent, 100.0 - percent])
    return np.clip(values, low, high)


def z_scores(values: Floats) -> Floats:
    """
    Standardise across the market, (instruments,).

    0 for all where they do not differ, so also for a lone name: it says nothing.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return values
    std = float(known.std(ddof=1)) if len(known) > 1 else 0.0
    centred: Floats = values - known.mean()
    return centred / std if std > 1e-12 else np.zeros_like(values) * centred


def without_sector_means(values: Floats, sectors: list[str | None]) -> Floats:
    """
    Subtract each sector's mean, so that only differences within sectors are left.

    Names without a sector, and those of a sector with fewer than three values, form one group.
    """
    groups: dict[str | None, list[int]] = {}
    for position, sector in enumerate(sectors):
        if not np.isnan(values[position]):
            groups.setdefault(sector, []).append(position)
    rest = [
        position
        for sector, positions in groups.items()
        if sector is None or len(positions) < SECTOR_SIZE
        for position in positions
    ]
    result = values.copy()
    whole = [
        positions
        for sector, positions in groups.items()
        if sector is not None and len(positions) >= SECTOR_SIZE
    ]
    for positions in [*whole, rest]:
        if positions:
            result[positions] = values[positions] - values[positions].mean()
    return result


def combined(columns: Mapping[str, Floats], weights: Mapping[str, float] = WEIGHTS) -> Floats:
    """Add up z-scores with fixed weights; NaN where one of them is missing."""
    parts = [weight * columns[name] for name, weight in weights.items()]
    total: Floats = np.sum(parts, axis=0)
    return total


def run_signals(ctx: JobContext) -> dict[str, Any]:
    """
    Score every instrument that traded on the session and has a window for it.

    Each signal is winsorised at 1 and 99 % and standardised; the parameter ``sector_neutral``
    first takes out the sectors' means. Where one signal is missing, because the history is too
    short, there is no score, and the others' scores are as if the name were not there.

    Returns:
        Rows written, how many have a score, and the highest scores.

    Raises:
        MissingInputError: `update_profiles` has not run for this session.
    """
    with ctx.transaction() as connection:
        listed = load_instruments(connection, ctx.market_id, ctx.session_date)
        rows = _read_inputs(connection, ctx)
        if not rows and not _any_profile(connection, ctx):
            raise MissingInputError(
                "eq_profiles", ctx.market_id, ctx.session_date, "update_profiles"
            )
    sector_of = {(item.mic, item.symbol): item.sector for item in listed}
    rows = [row for row in rows if (row.mic, row.symbol) in sector_of]
    sectors = [sector_of[row.mic, row.symbol] for row in rows]
    raw = {
        "momentum": or_nan([row.momentum_12_1 for row in rows]),
        "reversal": -or_nan([row.return_21 for row in rows]),
        "low_volatility": -or_nan([row.close_to_close_252 for row in rows]),
    }
    unscored = np.isnan(combined(raw))
    standard = {}
    for name, values in raw.items():
        pulled_in = winsorised(np.where(unscored, np.nan, values))
        if ctx.parameters.get("sector_neutral"):
            pulled_in = without_sector_means(pulled_in, sectors)
        standard[name] = z_scores(pulled_in)
    score = combined(standard)
    records = [
        {
            "market_id": ctx.market_id,
            "session_date": ctx.session_date,
            "mic": row.mic,
            "symbol": row.symbol,
            **{name: optional(values[position]) for name, values in raw.items()},
            **{f"{name}_z": optional(values[position]) for name, values in standard.items()},
            "score": optional(score[position]),
        }
        for position, row in enumerate(rows)
    ]
    scope = {"market_id": ctx.market_id, "session_date": ctx.session_date}
    replace_rows(ctx, eq_signals, scope, records)
    scored = [record for record in records if record["score"] is not None]
    best = sorted(scored, key=lambda record: (-record["score"], record["symbol"]))[:3]
    return {
        "rows": len(records),
        "scored": len(scored),
        "highest": {record["symbol"]: round(record["score"], 3) for record in best},
    }


def _read_inputs(connection: Connection, ctx: JobContext) -> list[Any]:
    profiles, volatility, windows = eq_profiles.c, eq_volatility.c, eq_windows.c
    return list(
        connection.execute(
            select(
                profiles.mic,
                profiles.symbol,
                profiles.momentum_12_1,
                profiles.return_21,
                volatility.close_to_close_252,
            )
            .join_from(
                eq_profiles,
                eq_volatility,
                and_(
                    volatility.mic == profiles.mic,
                    volatility.session_date == profiles.session_date,
                    volatility.symbol == profiles.symbol,
                ),
            )
            .join(
                eq_windows,
                and_(
                    windows.mic == profiles.mic,
                    windows.session_date == profiles.session_date,
                    windows.symbol == profiles.symbol,
                ),
            )
            .where(profiles.market_id == ctx.market_id, profiles.session_date == ctx.session_date)
            .order_by(profiles.mic, profiles.symbol)
        )
    )


def _any_profile(connection: Connection, ctx: JobContext) -> bool:
    profiles = eq_profiles.c
    query = select(profiles.symbol).where(
        profiles.market_id == ctx.market_id, profiles.session_date == ctx.session_date
    )
    return connection.scalar(query.limit(1)) is not None
