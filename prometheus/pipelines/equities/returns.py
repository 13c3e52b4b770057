"""The job ``compute_returns``: simple and log returns of each bar over the one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prometheus.dispatch.context import JobContext
from prometheus.pipelines.equities.panel import Floats, Panel, load_panels, optional, read_grid
from prometheus.pipelines.equities.storage import CHUNK, delete_keys, upsert
from prometheus.pipelines.equities.tables import eq_returns

COLUMNS = ("simple_return", "log_return", "overnight_return", "intraday_return")


@dataclass(frozen=True, slots=True, eq=False)
class Returns:
    """Returns of bars, each (sessions, instruments); NaN where there is none."""

    simple: Floats
    """A[t] / A[t-1] - 1, of adjusted closes: to add up across instruments."""
    log: Floats
    """ln(A[t] / A[t-1]): to add up over time."""
    overnight: Floats
    """ln(O[t] / C[t-1]), as traded."""
    intraday: Floats
    """ln(C[t] / O[t]), as traded; with `overnight` it sums to ln(C[t] / C[t-1])."""
    gaps: NDArray[np.int64]
    """Sessions without a bar just before this bar; -1 where there is no bar, or none before it."""


def returns_of(opened: Floats, close: Floats, adjusted: Floats) -> Returns:
    """
    Compute returns from session to session.

    A bar after a gap has no return, and neither has a missing bar: never 0, never over the gap.

    Args:
        opened: Opens as traded, (sessions, instruments), NaN where there is no bar.
        close: Closes as traded.
        adjusted: Closes adjusted for splits and dividends.
    """
    first = np.full((1, close.shape[1]), np.nan)
    ratio = np.vstack([first, adjusted[1:] / adjusted[:-1]])
    previous_close = np.vstack([first, close[:-1]])
    present = ~np.isnan(close)
    rows = np.arange(len(close))[:, None]
    latest = np.maximum.accumulate(np.where(present, rows, -1), axis=0)
    before = np.vstack([np.full((1, close.shape[1]), -1), latest[:-1]])
    return Returns(
        simple=ratio - 1.0,
        log=np.log(ratio),
        overnight=np.log(opened / previous_close),
        intraday=np.log(close / opened),
        gaps=np.where(present & (before >= 0), rows - before - 1, -1),
    )


def compute_returns(ctx: JobContext) -> dict[str, Any]:
    """
    Write the returns of the session, and of earlier bars of the last 400 sessions that lack them.

    A stored return that no longer follows from the prices (a bar was revised) is written anew. The
    first bar of an instrument has no row.

    Returns:
        Rows of the session, rows of history, and bars of the session that follow a gap.
    """
    today = history = after_gap = 0
    for panel in load_panels(ctx):
        returns = returns_of(panel.open, panel.close, panel.adjusted_close)
        if panel.has_session:
            today += int((returns.gaps[-1] >= 0).sum())
            after_gap += int((returns.gaps[-1] > 0).sum())
        history += _store(ctx, panel, returns)
    return {"rows": today, "history_rows": history, "after_gap": after_gap}


def _store(ctx: JobContext, panel: Panel, returns: Returns) -> int:
    """Write what is new or differs; return how many rows are of earlier sessions."""
    fresh = np.stack([returns.simple, returns.log, returns.overnight, returns.intraday])
    grid = read_grid(
        ctx, eq_returns, (*COLUMNS, "gap_sessions"), panel.mic, panel.dates, panel.symbols
    )
    stored = grid.values[:-1]
    same = ((fresh == stored) | (np.isnan(fresh) & np.isnan(stored))).all(axis=0)
    wanted = returns.gaps >= 0
    same &= grid.present & (grid.values[-1] == returns.gaps)
    places = np.argwhere(wanted & ~same).tolist()
    for start in range(0, len(places), CHUNK):
        records = [
            {
                "mic": panel.mic,
                "session_date": panel.dates[row],
                "symbol": panel.instruments[column].symbol,
                **dict(zip(COLUMNS, map(optional, fresh[:, row, column].tolist()), strict=True)),
                "gap_sessions": int(returns.gaps[row, column]),
            }
            for row, column in places[start : start + CHUNK]
        ]
        with ctx.transaction() as connection:
            upsert(connection, eq_returns, records)
    # Of bars that have gone into quarantine since.
    stale = np.argwhere(grid.present & np.isnan(panel.close)).tolist()
    if stale:
        with ctx.transaction() as connection:
            delete_keys(
                connection,
                eq_returns,
                [
                    {
                        "mic": panel.mic,
                        "session_date": panel.dates[row],
                        "symbol": panel.instruments[column].symbol,
                    }
                    for row, column in stale
                ],
            )
    last = len(panel.dates) - 1 if panel.has_session else len(panel.dates)
    return sum(row < last for row, _ in places)
