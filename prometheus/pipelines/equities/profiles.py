"""The job ``update_profiles``: what each instrument is like, from a year of its prices."""

from __future__ import annotations

from typing import Any

import numpy as np
from sqlalchemy import select

from prometheus.dispatch.context import JobContext
from prometheus.pipelines.equities.errors import MissingInputError
from prometheus.pipelines.equities.factors import (
    MARKET_FACTOR,
    compound_between,
    load_factors,
    read_factors,
)
from prometheus.pipelines.equities.panel import (
    HISTORY_SESSIONS,
    Floats,
    Panel,
    last_sessions,
    load_panels,
    optional,
)
from prometheus.pipelines.equities.returns import returns_of
from prometheus.pipelines.equities.storage import replace_rows
from prometheus.pipelines.equities.tables import eq_profiles, eq_windows
from prometheus.pipelines.equities.volatility import SESSIONS_PER_YEAR
from prometheus.sources.errors import SourceError

YEAR = 252
MONTH = 21
LEAST_RETURNS = 60
"""With fewer pairs of returns there is no beta and no loadings."""
STALE_SESSIONS = 5
"""A price that is looked up may be this many sessions old; a return never is."""


def betas(returns: Floats, market: Floats) -> tuple[Floats, Floats, Floats]:
    """
    Regress each instrument's returns on the market's.

    Args:
        returns: (sessions, instruments), simple, NaN where missing.
        market: (sessions,), simple, over the same sessions.

    Returns:
        Beta ``cov(R, M) / var(M)``, R squared, and the standard deviation of what is left, per
        year with n - 2 degrees of freedom; (instruments,) each, NaN with fewer than 60 pairs.
    """
    both = ~np.isnan(returns) & ~np.isnan(market)[:, None]
    count = both.sum(axis=0)
    safe = np.maximum(count, 1)
    x = np.where(both, market[:, None], 0.0)
    y = np.where(both, returns, 0.0)
    dx = np.where(both, x - x.sum(axis=0) / safe, 0.0)
    dy = np.where(both, y - y.sum(axis=0) / safe, 0.0)
    sxx, sxy, syy = (dx * dx).sum(axis=0), (dx * dy).sum(axis=0), (dy * dy).sum(axis=0)
    enough = (count >= LEAST_RETURNS) & (sxx > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        beta = np.where(enough, sxy / sxx, np.nan)
        r_squared = np.where(enough & (syy > 0), sxy * sxy / (sxx * syy), np.nan)
        left = np.maximum(syy - beta * sxy, 0.0) / np.maximum(count - 2, 1)
    return beta, r_squared, np.sqrt(left * SESSIONS_PER_YEAR)


def blume(beta: Floats) -> Floats:
    """Draw a beta towards 1 as later betas are seen to go (Blume 1971)."""
    return 0.67 * beta + 0.33


def factor_loadings(returns: Floats, factors: Floats) -> Floats:
    """
    Regress each instrument on all factors at once, with a constant.

    Args:
        returns: (sessions, instruments), NaN where missing.
        factors: (sessions, factors), NaN where missing.

    Returns:
        (instruments, factors); NaN with fewer than 60 complete sessions, or where the factors can
        not be told apart.
    """
    result = np.full((returns.shape[1], factors.shape[1]), np.nan)
    complete = ~np.isnan(factors).any(axis=1)
    for column, own in enumerate(returns.T):
        use = complete & ~np.isnan(own)
        if use.sum() < max(LEAST_RETURNS, 2 * (factors.shape[1] + 1)):
            continue
        design = np.column_stack([np.ones(use.sum()), factors[use]])
        coefficients, _, rank, _ = np.linalg.lstsq(design, own[use], rcond=None)
        if rank == design.shape[1]:
            result[column] = coefficients[1:]
    return result


def carried(prices: Floats, stale_sessions: int = STALE_SESSIONS) -> Floats:
    """Fill gaps in prices with the last one, for at most so many sessions."""
    rows = np.arange(len(prices))[:, None]
    latest = np.maximum.accumulate(np.where(np.isnan(prices), -1, rows), axis=0)
    usable = (latest >= 0) & (rows - latest <= stale_sessions)
    filled: Floats = np.where(
        usable, np.take_along_axis(prices, np.maximum(latest, 0), axis=0), np.nan
    )
    return filled


def momentum_12_1(adjusted: Floats) -> Floats:
    """
    Return ``A[t-21] / A[t-252] - 1``: a year's return without its last month.

    Jegadeesh and Titman (1993), who skip the last month because short returns reverse.

    Args:
        adjusted: Adjusted closes, (sessions, instruments), the last row is t.

    Returns:
        (instruments,); NaN where the history is shorter.
    """
    return _change(adjusted, YEAR, MONTH)


def return_over_month(adjusted: Floats) -> Floats:
    """Return ``A[t] / A[t-21] - 1``, (instruments,); its negative is reversal (Jegadeesh 1990)."""
    return _change(adjusted, MONTH, 0)


def _change(adjusted: Floats, start: int, end: int) -> Floats:
    if len(adjusted) <= start:
        return np.full(adjusted.shape[1], np.nan)
    filled = carried(adjusted)
    result: Floats = filled[-1 - end] / filled[-1 - start] - 1.0
    return result


def max_drawdown(adjusted: Floats) -> Floats:
    """
    Return the deepest fall from an earlier high, as a negative share, (instruments,).

    Args:
        adjusted: Adjusted closes, (sessions, instruments); gaps are passed over.
    """
    prices = np.where(np.isnan(adjusted), -np.inf, adjusted)
    highs = np.maximum.accumulate(prices, axis=0)
    known = np.isfinite(prices)
    falls = np.where(known, adjusted / np.where(known, highs, 1.0) - 1.0, 0.0)
    result: Floats = np.where(known.any(axis=0), falls.min(axis=0), np.nan)
    return result


def amihud(returns: Floats, traded_value: Floats) -> Floats:
    """
    Return how far a million of traded value moves the price (Amihud 2002), (instruments,).

    The mean of ``|R| / (C V)`` times 1e6, over sessions with a return and with volume.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(traded_value > 0, np.abs(returns) / traded_value, np.nan)
    return mean_of(ratios) * 1e6


def mean_of(values: Floats) -> Floats:
    """Return the mean of what is there, (instruments,); NaN where nothing is."""
    count = (~np.isnan(values)).sum(axis=0)
    means = np.nansum(values, axis=0) / np.maximum(count, 1)
    result: Floats = np.where(count > 0, means, np.nan)
    return result


def trade_ages(close: Floats) -> Floats:
    """Return sessions since each instrument's last bar, (instruments,); NaN where it has none."""
    present = ~np.isnan(close)
    ages = np.argmax(present[::-1], axis=0).astype(float)
    result: Floats = np.where(present.any(axis=0), ages, np.nan)
    return result


def update_profiles(ctx: JobContext) -> dict[str, Any]:
    """
    Write the profile of every instrument of the exchanges that had a session.

    Also of one that did not trade on the day; its age says so. Nothing orders this job after
    ``ingest_factors``, so it first loads the factors itself where that has not been done. When
    their feed fails, profiles are written without beta and loadings, and the result says so.

    Returns:
        Rows written, how many have a beta, the factors used.

    Raises:
        MissingInputError: `build_numeric_windows` has not run for this session.
    """
    sessions = last_sessions(ctx.market_id, ctx.session_date, HISTORY_SESSIONS)
    panels = [panel for panel in load_panels(ctx) if panel.has_session]
    with ctx.transaction() as connection:
        _check_windows(ctx, panels, connection.scalar(_window_query(ctx, panels)) is not None)
    problem = None
    try:
        load_factors(ctx)
    except SourceError as error:
        problem = str(error)
        ctx.logger.warning("factors_missing", extra={"reason": problem})
    with ctx.transaction() as connection:
        names, factor_returns, synthetic = read_factors(connection, ctx.market_id, sessions)

    rows: list[dict[str, Any]] = []
    for panel in panels:
        factors = compound_between(factor_returns, sessions, panel.dates)
        rows += _profiles(ctx, panel, names, factors, synthetic)
    scope = {"market_id": ctx.market_id, "session_date": ctx.session_date}
    replace_rows(ctx, eq_profiles, scope, rows)
    result: dict[str, Any] = {
        "rows": len(rows),
        "with_beta": sum(row["beta"] is not None for row in rows),
        "factors": list(names),
        "factors_synthetic": synthetic,
    }
    if problem is not None:
        result["factors_missing"] = problem
    return result


def _window_query(ctx: JobContext, panels: list[Panel]) -> Any:
    table = eq_windows.c
    return (
        select(table.symbol)
        .where(
            table.mic.in_([panel.mic for panel in panels]),
            table.session_date == ctx.session_date,
        )
        .limit(1)
    )


def _check_windows(ctx: JobContext, panels: list[Panel], found: bool) -> None:
    if not found and any(panel.traded.any() for panel in panels):
        raise MissingInputError(
            "eq_windows", ctx.market_id, ctx.session_date, "build_numeric_windows"
        )


def _profiles(
    ctx: JobContext, panel: Panel, names: tuple[str, ...], factors: Floats, synthetic: bool
) -> list[dict[str, Any]]:
    year = slice(-YEAR, None)
    simple = returns_of(panel.open, panel.close, panel.adjusted_close).simple[year]
    value = panel.close * panel.volume
    adjusted = panel.adjusted_close
    market = (
        factors[year, names.index(MARKET_FACTOR)]
        if MARKET_FACTOR in names
        else np.full(len(simple), np.nan)
    )
    beta, r_squared, idiosyncratic = betas(simple, market)
    loadings = factor_loadings(simple, factors[year])
    # The high of the year in adjusted terms, so that a split does not look like a fall.
    high = panel.high[year] * adjusted[year] / panel.close[year]
    known = ~np.isnan(high)
    highest = np.where(known.any(axis=0), np.where(known, high, -np.inf).max(axis=0), np.nan)
    columns = {
        "beta": beta,
        "blume_beta": blume(beta),
        "r_squared": r_squared,
        "idiosyncratic_volatility": idiosyncratic,
        "adv20": mean_of(value[-20:]),
        "adv60": mean_of(value[-60:]),
        "amihud": amihud(simple, value[year]),
        "momentum_12_1": momentum_12_1(adjusted),
        "return_21": return_over_month(adjusted),
        "max_drawdown_252": max_drawdown(adjusted[year]),
        "price_to_52w_high": carried(adjusted)[-1] / highest,
    }
    ages = trade_ages(panel.close)
    bars = (~np.isnan(panel.close)).sum(axis=0)
    return [
        {
            "market_id": ctx.market_id,
            "session_date": ctx.session_date,
            "mic": panel.mic,
            "symbol": panel.symbols[column],
            **{name: optional(values[column]) for name, values in columns.items()},
            "last_trade_age": int(ages[column]),
            "bars": int(bars[column]),
            "loadings": (
                dict(zip(names, loadings[column].tolist(), strict=True))
                if names and np.isfinite(loadings[column]).all()
                else None
            ),
            "factors_synthetic": synthetic if names else None,
        }
        for column in np.flatnonzero(np.isfinite(ages)).tolist()
    ]
