"""The job ``build_numeric_windows``: the last 64 sessions as numbers a model can take in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from sqlalchemy import Connection, select

from prometheus.dispatch.context import JobContext
from prometheus.pipelines.equities.errors import MissingInputError
from prometheus.pipelines.equities.panel import Floats, Panel, load_panels, optional, read_grid
from prometheus.pipelines.equities.storage import replace_rows
from prometheus.pipelines.equities.tables import eq_returns, eq_volatility, eq_windows
from prometheus.pipelines.equities.volatility import ewma_variance

LENGTH = 64
TRAILING = 252
"""Sessions whose mean and standard deviation standardise a feature."""
LEAST_VALUES = 60
"""Of these, so many must be there, or the feature is missing throughout."""
CLIP = 5.0
MOVING_AVERAGE = 20
TINY_STD = 1e-12

FEATURES = (
    "log_return",
    "absolute_log_return",
    "log_range",
    "log_volume_change",
    "log_traded_value",
    "close_to_moving_average",
    "ewma_volatility",
)
"""Channels of a window in their order; after them comes the mask."""


def features_of(
    log_returns: Floats,
    high: Floats,
    low: Floats,
    close: Floats,
    volume: Floats,
    adjusted: Floats,
) -> Floats:
    """
    Compute the seven features of each bar.

    Args:
        log_returns: (sessions, instruments), NaN where missing.
        high: As traded.
        low: As traded.
        close: As traded.
        volume: As traded.
        adjusted: Adjusted close; it takes splits out of the moving average and the volume.

    Returns:
        (features, sessions, instruments), NaN where a feature can not be computed.
    """
    traded = np.where(volume > 0, volume, np.nan)
    # A split multiplies shares as it divides the price; only their product stays.
    log_volume = np.log(traded * close / adjusted)
    change = np.vstack([np.full((1, close.shape[1]), np.nan), np.diff(log_volume, axis=0)])
    average = np.full(adjusted.shape, np.nan)
    if len(adjusted) >= MOVING_AVERAGE:
        average[MOVING_AVERAGE - 1 :] = sliding_window_view(adjusted, MOVING_AVERAGE, axis=0).mean(
            axis=-1
        )
    return np.stack(
        [
            log_returns,
            np.abs(log_returns),
            np.log(high / low),
            change,
            np.log(close * traded),
            adjusted / average - 1.0,
            np.sqrt(ewma_variance(log_returns)),
        ]
    )


def standardised_windows(
    features: Floats,
    *,
    length: int = LENGTH,
    trailing: int = TRAILING,
    least_values: int = LEAST_VALUES,
) -> NDArray[np.float32]:
    """
    Standardise features and cut out the last window.

    ``z = (x - mean) / std`` with the mean and sample standard deviation of the trailing sessions
    that end with the last one, clipped to ±5; a feature that does not vary is 0. A missing value
    is 0 as well; the mask tells the two apart.

    Args:
        features: (features, sessions, instruments), NaN where missing.
        length: Sessions of a window; where fewer are known, the earlier ones are masked.
        trailing: Sessions that mean and deviation are taken from.
        least_values: With fewer values among these, a feature is missing throughout.

    Returns:
        (instruments, length, features + 1); the last channel is the mask, 1 where all features of
        the session are there, otherwise 0.
    """
    recent = features[:, -trailing:]
    count = (~np.isnan(recent)).sum(axis=1)
    mean = np.nansum(recent, axis=1) / np.maximum(count, 1)
    squares = np.nansum((recent - mean[:, None]) ** 2, axis=1)
    std = np.sqrt(squares / np.maximum(count - 1, 1))
    scale = np.where(std < TINY_STD, np.inf, std)
    scale[count < least_values] = np.nan
    window = features[:, -length:]
    z = np.clip((window - mean[:, None]) / scale[:, None], -CLIP, CLIP)
    mask = ~np.isnan(z).any(axis=0)
    kinds, sessions, instruments = z.shape
    tensor = np.zeros((instruments, length, kinds + 1), dtype=np.float32)
    tensor[:, length - sessions :, :kinds] = np.nan_to_num(z, nan=0.0).transpose(2, 1, 0)
    tensor[:, length - sessions :, kinds] = mask.T
    return tensor


def decode(data: bytes, length: int, channels: int) -> NDArray[np.float32]:
    """Turn the stored bytes of a window back into (length, channels)."""
    return np.frombuffer(data, dtype="<f4").astype(np.float32).reshape(length, channels)


def build_numeric_windows(ctx: JobContext) -> dict[str, Any]:
    """
    Write the window of every instrument that traded on the session.

    Returns come from ``eq_returns``, prices from ``eq_prices``, the scale of the returns from
    ``eq_volatility``.

    Returns:
        Rows written, the shape of a window, and the share of its values that are there.

    Raises:
        MissingInputError: `compute_returns` or `compute_volatility` has not run.
    """
    today = 0
    present = 0.0
    for panel in load_panels(ctx):
        if not panel.has_session or not panel.traded.any():
            continue
        log_returns = _read_log_returns(ctx, panel)
        with ctx.transaction() as connection:
            ewma = _read_ewma(connection, ctx, panel)
        features = features_of(
            log_returns, panel.high, panel.low, panel.close, panel.volume, panel.adjusted_close
        )
        tensor = standardised_windows(features)
        rows = [
            {
                "mic": panel.mic,
                "session_date": ctx.session_date,
                "symbol": panel.symbols[column],
                "length": tensor.shape[1],
                "channels": tensor.shape[2],
                "data": tensor[column].astype("<f4").tobytes(),
                "ewma": ewma.get(panel.symbols[column]),
            }
            for column in np.flatnonzero(panel.traded).tolist()
        ]
        replace_rows(ctx, eq_windows, panel.scope, rows)
        today += len(rows)
        present += float(tensor[panel.traded, :, -1].mean(axis=1).sum())
    return {
        "rows": today,
        "shape": [LENGTH, len(FEATURES) + 1],
        "present_share": optional(round(present / today, 4)) if today else None,
    }


def _read_log_returns(ctx: JobContext, panel: Panel) -> Floats:
    grid = read_grid(ctx, eq_returns, ("log_return",), panel.mic, panel.dates, panel.symbols)
    # An instrument's first bar has no return to wait for.
    has_earlier_bar = ~np.isnan(panel.close[:-1]).all(axis=0)
    if (panel.traded & has_earlier_bar & ~grid.present[-1]).any():
        raise MissingInputError("eq_returns", ctx.market_id, ctx.session_date, "compute_returns")
    log_returns: Floats = grid.values[0]
    # The first session has returns only if a run of an earlier day wrote them, and the window must
    # not depend on that.
    log_returns[0] = np.nan
    return log_returns


def _read_ewma(connection: Connection, ctx: JobContext, panel: Panel) -> dict[str, float | None]:
    table = eq_volatility.c
    rows = connection.execute(
        select(table.symbol, table.ewma).where(
            table.mic == panel.mic, table.session_date == panel.session_date
        )
    )
    found: dict[str, float | None] = {row.symbol: row.ewma for row in rows}
    for column in np.flatnonzero(panel.traded).tolist():
        if panel.symbols[column] not in found:
            raise MissingInputError(
                "eq_volatility", ctx.market_id, ctx.session_date, "compute_volatility"
            )
    return found
