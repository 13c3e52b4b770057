"""The job ``compute_volatility``: how much each instrument has moved lately, four ways."""

from __future__ import annotations

from typing import Any

import numpy as np

from prometheus.dispatch.context import JobContext
from prometheus.pipelines.equities.panel import Floats, load_panels, optional
from prometheus.pipelines.equities.returns import returns_of
from prometheus.pipelines.equities.storage import replace_rows
from prometheus.pipelines.equities.tables import eq_volatility

SESSIONS_PER_YEAR = 252
EWMA_DECAY = 0.94
EWMA_SEED_RETURNS = 21
CLOSE_TO_CLOSE_WINDOWS = (21, 63, 252)
RANGE_WINDOW = 63
ENOUGH_SHARE = 0.8
"""Of a window's values that must be there for a volatility over it."""


def close_to_close(log_returns: Floats) -> Floats:
    """
    Return the sample standard deviation per year, (instruments,).

    Args:
        log_returns: (sessions, instruments); NaN is left out, and where less than four fifths are
            there the answer is NaN.
    """
    count = (~np.isnan(log_returns)).sum(axis=0)
    safe = np.maximum(count, 1)
    mean = np.nansum(log_returns, axis=0) / safe
    squares = np.nansum((log_returns - mean) ** 2, axis=0)
    deviation = np.sqrt(squares / np.maximum(count - 1, 1))
    enough = count >= max(2, ENOUGH_SHARE * len(log_returns))
    result: Floats = np.where(enough, deviation * np.sqrt(SESSIONS_PER_YEAR), np.nan)
    return result


def ewma_variance(
    log_returns: Floats, *, decay: float = EWMA_DECAY, seed_returns: int = EWMA_SEED_RETURNS
) -> Floats:
    """
    Return the exponentially weighted variance of RiskMetrics (1996), a session each.

    ``s2[t+1] = decay * s2[t] + (1 - decay) * r[t]**2``, zero mean; it begins as the mean of the
    first squared returns. A missing return leaves the variance as it was.

    Args:
        log_returns: (sessions, instruments), NaN where missing.
        decay: 0.94 for daily returns.
        seed_returns: How many returns the beginning is the mean of.

    Returns:
        (sessions, instruments): the forecast made at the end of each session for the one after,
        NaN until the seed is complete.
    """
    result = np.full(log_returns.shape, np.nan)
    columns = log_returns.shape[1]
    variance = np.zeros(columns)
    total = np.zeros(columns)
    count = np.zeros(columns, dtype=int)
    for row, values in enumerate(log_returns):
        present = ~np.isnan(values)
        squares = np.where(present, values, 0.0) ** 2
        seeding = count < seed_returns
        total += squares * seeding
        count += present
        variance = np.where(
            seeding,
            total / np.maximum(count, 1),
            np.where(present, decay * variance + (1 - decay) * squares, variance),
        )
        result[row] = np.where(count >= seed_returns, variance, np.nan)
    return result


def parkinson_variance(high: Floats, low: Floats) -> Floats:
    """
    Return the variance of a session from its range (Parkinson 1980), (instruments,).

    The mean of ``ln(H/L)**2 / (4 ln 2)``. It sees trading hours only, not the overnight move.

    Args:
        high: (sessions, instruments), as traded.
        low: Likewise.
    """
    return _mean_if_enough(np.log(high / low) ** 2 / (4.0 * np.log(2.0)))


def garman_klass_variance(opened: Floats, high: Floats, low: Floats, close: Floats) -> Floats:
    """
    Return the variance of a session from all four prices (Garman and Klass 1980), (instruments,).

    The mean of ``ln(H/L)**2 / 2 - (2 ln 2 - 1) ln(C/O)**2``; trading hours only.
    """
    return _mean_if_enough(
        0.5 * np.log(high / low) ** 2 - (2.0 * np.log(2.0) - 1.0) * np.log(close / opened) ** 2
    )


def annualised(variance: Floats) -> Floats:
    """Turn the variance of a session into a volatility per year."""
    result: Floats = np.sqrt(variance * SESSIONS_PER_YEAR)
    return result


def _mean_if_enough(values: Floats) -> Floats:
    count = (~np.isnan(values)).sum(axis=0)
    means = np.nansum(values, axis=0) / np.maximum(count, 1)
    result: Floats = np.where(count >= max(1, ENOUGH_SHARE * len(values)), means, np.nan)
    return result


def compute_volatility(ctx: JobContext) -> dict[str, Any]:
    """
    Write the volatilities of every instrument that traded on the session.

    A window in which more than a fifth of the values is missing, also because the instrument is
    too young, gives NULL.

    Returns:
        Rows written, and how many have no value over a year.
    """
    today = short = 0
    for panel in load_panels(ctx):
        if not panel.has_session:
            continue
        log_returns = returns_of(panel.open, panel.close, panel.adjusted_close).log
        # Without the window's first session, which has no return.
        log_returns = log_returns[1:]
        columns = {
            f"close_to_close_{window}": _over(log_returns, window)
            for window in CLOSE_TO_CLOSE_WINDOWS
        }
        columns["ewma"] = annualised(ewma_variance(log_returns)[-1])
        last = slice(-RANGE_WINDOW, None)
        ranges = panel.open[last], panel.high[last], panel.low[last], panel.close[last]
        complete = len(panel.dates) >= RANGE_WINDOW
        unknown = np.full(len(panel.instruments), np.nan)
        columns["parkinson_63"] = (
            annualised(parkinson_variance(ranges[1], ranges[2])) if complete else unknown
        )
        columns["garman_klass_63"] = (
            annualised(garman_klass_variance(*ranges)) if complete else unknown
        )
        used = (~np.isnan(log_returns)).sum(axis=0)
        rows = [
            {
                "mic": panel.mic,
                "session_date": ctx.session_date,
                "symbol": panel.symbols[column],
                **{name: optional(values[column]) for name, values in columns.items()},
                "returns_used": int(used[column]),
            }
            for column in np.flatnonzero(panel.traded).tolist()
        ]
        replace_rows(ctx, eq_volatility, panel.scope, rows)
        today += len(rows)
        short += sum(row["close_to_close_252"] is None for row in rows)
    return {"rows": today, "short_history": short}


def _over(log_returns: Floats, window: int) -> Floats:
    if len(log_returns) < window:
        return np.full(log_returns.shape[1], np.nan)
    return close_to_close(log_returns[-window:])
