"""Volatilities: published figures, real series, and Brownian motion."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from prometheus.pipelines.equities.panel import Floats
from prometheus.pipelines.equities.volatility import (
    EWMA_DECAY,
    annualised,
    close_to_close,
    ewma_variance,
    garman_klass_variance,
    parkinson_variance,
)
from prometheus.sources import bundled
from tests.unit.pipelines.equities import real_series


def _index_log_returns() -> Floats:
    returns: Floats = np.diff(np.log(real_series.index().values), axis=0)
    return returns


def _within(first: date, last: date) -> slice:
    days = real_series.index().dates[1:]
    inside = [number for number, day in enumerate(days) if first <= day <= last]
    return slice(inside[0], inside[-1] + 1)


def test_decay_halves_in_eleven_days_and_forgets_in_seventy_four() -> None:
    """RiskMetrics Technical Document (1996), table 5.7: 74 days at 1 %."""
    assert np.log(0.5) / np.log(EWMA_DECAY) == pytest.approx(11.20, abs=0.005)
    assert np.log(0.01) / np.log(EWMA_DECAY) == pytest.approx(74.4, abs=0.05)


def test_ewma_of_the_index_peaks_in_march_2020() -> None:
    index = real_series.index()
    found = annualised(ewma_variance(_index_log_returns(), seed_returns=1))[:, 0]
    peak = int(np.nanargmax(found))
    assert index.dates[peak + 1] == date(2020, 3, 24)
    assert found[peak] == pytest.approx(0.8483, abs=5e-5)
    assert found[index.row("2022-12-28") - 1] == pytest.approx(0.2084, abs=5e-5)


def test_seed_is_the_mean_of_the_first_squares_and_then_forgotten() -> None:
    returns = _index_log_returns()
    found = ewma_variance(returns)[:, 0]
    assert np.isnan(found[:20]).all()
    assert found[20] == pytest.approx(np.mean(returns[:21, 0] ** 2))
    assert found[21] == pytest.approx(0.94 * found[20] + 0.06 * returns[21, 0] ** 2)
    other = ewma_variance(returns[:400], seed_returns=1)[:, 0]
    assert found[399] == pytest.approx(other[399], rel=1e-9)


def test_a_missing_return_leaves_the_variance_as_it_was() -> None:
    returns = np.full((30, 1), 0.01)
    returns[25] = np.nan
    found = ewma_variance(returns)[:, 0]
    assert found[25] == found[24]


@pytest.mark.parametrize(
    ("first", "last", "log_figure", "simple_figure"),
    [
        (date(2008, 10, 1), date(2008, 12, 31), 0.673, 0.675),
        (date(2017, 1, 1), date(2017, 12, 31), 0.0669, 0.0669),
    ],
)
def test_realised_volatility_of_a_storm_and_of_a_calm(
    first: date, last: date, log_figure: float, simple_figure: float
) -> None:
    """The figure published for the fourth quarter of 2008, 67.5 %, is that of simple returns."""
    returns = _index_log_returns()[_within(first, last)]
    assert close_to_close(returns)[0] == pytest.approx(log_figure, abs=5e-4)
    assert close_to_close(np.expm1(returns))[0] == pytest.approx(simple_figure, abs=5e-4)


@pytest.mark.parametrize(
    ("symbol", "open_close", "parkinson", "garman_klass"),
    [
        ("AAPL", 0.3781, 0.3871, 0.3905),
        ("IBM", 0.2310, 0.2367, 0.2389),
        ("MSFT", 0.2644, 0.2706, 0.2729),
    ],
)
def test_range_volatilities_of_real_bars(
    symbol: str, open_close: float, parkinson: float, garman_klass: float
) -> None:
    bars = bundled.load_series()[symbol].values.T[:, :, None]
    opened, high, low, close = bars[:4]
    day_moves = np.mean(np.log(close / opened) ** 2, axis=0)
    assert annualised(day_moves)[0] == pytest.approx(open_close, abs=5.1e-5)
    assert annualised(parkinson_variance(high, low))[0] == pytest.approx(parkinson, abs=5.1e-5)
    found = annualised(garman_klass_variance(opened, high, low, close))[0]
    assert found == pytest.approx(garman_klass, abs=5.1e-5)


def test_range_volatilities_are_as_efficient_as_their_authors_say() -> None:
    """
    Variance of the squared return over that of each estimator, for Brownian motion.

    4.91 for Parkinson, ``2 / (9 zeta(3) / (4 ln 2)**2 - 1)``, and 7.4 for Garman and Klass in
    continuous time; 2,000 steps a day see a little less of the range (means 0.965 and 0.952).
    """
    random = np.random.default_rng(1980)
    opens, highs, lows, closes = [], [], [], []
    for _ in range(20):
        path = np.cumsum(random.standard_normal((1000, 2000), dtype=np.float32) / 2000**0.5, axis=1)
        opens.append(np.zeros(1000))
        highs.append(np.maximum(path.max(axis=1), 0.0))
        lows.append(np.minimum(path.min(axis=1), 0.0))
        closes.append(path[:, -1])
    opened, high, low, close = (
        np.exp(np.concatenate(parts).astype(float))[None] for parts in (opens, highs, lows, closes)
    )
    squares = np.log(close / opened)[0] ** 2
    parkinson = parkinson_variance(high, low)
    garman_klass = garman_klass_variance(opened, high, low, close)
    assert parkinson.mean() == pytest.approx(0.965, abs=0.02)
    assert garman_klass.mean() == pytest.approx(0.952, abs=0.02)
    assert 4.5 < squares.var() / parkinson.var() < 5.6
    assert 6.9 < squares.var() / garman_klass.var() < 8.6


def test_a_window_with_too_many_gaps_has_no_volatility() -> None:
    returns = np.random.default_rng(3).standard_normal((21, 2)) / 100
    returns[:4, 0] = np.nan
    returns[:5, 1] = np.nan
    found = close_to_close(returns)
    assert np.isfinite(found[0])
    assert np.isnan(found[1])
