"""Returns, on real series with known answers and on bars with gaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prometheus.pipelines.equities.returns import returns_of
from prometheus.sources import bundled
from tests.unit.pipelines.equities import real_series

NAN = np.nan


def _column(*values: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array(values, dtype=float)[:, None]


@pytest.mark.parametrize(
    ("day", "expected"),
    [("2020-03-16", -0.11984), ("2020-03-12", -0.09511), ("2008-10-13", 0.11580)],
)
def test_simple_returns_of_the_index_on_its_wildest_days(day: str, expected: float) -> None:
    index = real_series.index()
    found = returns_of(index.values, index.values, index.values)
    assert found.simple[index.row(day), 0] == pytest.approx(expected, abs=5e-6)


def test_simple_return_of_apple_on_its_worst_day() -> None:
    stocks = real_series.stocks()
    found = returns_of(stocks.values, stocks.values, stocks.values)
    value = found.simple[stocks.row("2000-09-29"), stocks.column("AAPL")]
    assert value == pytest.approx(-0.5185, abs=1e-4)
    bars = bundled.load_series()["AAPL"]
    row = int(np.searchsorted(bars.dates, np.datetime64("2000-09-29")))
    adjusted = bars.values[:, 5:]
    again = returns_of(adjusted, adjusted, adjusted).simple[row, 0]
    assert again == pytest.approx(-0.5187, abs=1e-4)


def test_overnight_and_intraday_sum_to_the_raw_log_return() -> None:
    opened, _, _, close, _, adjusted = bundled.load_series()["IBM"].values.T[:, :, None]
    found = returns_of(opened, close, adjusted)
    raw = np.log(close[1:] / close[:-1])
    np.testing.assert_allclose(found.overnight[1:] + found.intraday[1:], raw, atol=1e-14)


@given(st.lists(st.floats(1.0, 1e5), min_size=2, max_size=30))
def test_log_return_is_the_log_of_one_plus_the_simple_return(prices: list[float]) -> None:
    column = _column(*prices)
    found = returns_of(column, column, column)
    np.testing.assert_allclose(found.log[1:], np.log1p(found.simple[1:]), atol=1e-9)


def test_a_bar_after_missing_sessions_has_no_return_and_counts_them() -> None:
    prices = _column(10, NAN, NAN, 12, 13)
    found = returns_of(prices, prices, prices)
    np.testing.assert_array_equal(found.gaps[:, 0], [-1, -1, -1, 2, 0])
    assert np.isnan(found.simple[:4]).all()
    assert found.simple[4, 0] == pytest.approx(13 / 12 - 1)


def test_a_bar_before_the_first_bar_says_nothing_of_gaps() -> None:
    prices = _column(NAN, NAN, 10, 11)
    np.testing.assert_array_equal(returns_of(prices, prices, prices).gaps[:, 0], [-1, -1, -1, 0])


def test_a_split_leaves_no_trace_in_the_return() -> None:
    close, adjusted = _column(100, 51), _column(50, 51)
    found = returns_of(close, close, adjusted)
    assert found.simple[1, 0] == pytest.approx(0.02)
