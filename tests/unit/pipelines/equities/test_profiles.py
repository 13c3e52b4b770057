"""Profiles, against real series with known answers."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest

from prometheus.pipelines.equities.factors import compound_between
from prometheus.pipelines.equities.panel import Floats
from prometheus.pipelines.equities.profiles import (
    amihud,
    betas,
    blume,
    carried,
    factor_loadings,
    max_drawdown,
    mean_of,
    momentum_12_1,
    return_over_month,
    trade_ages,
)
from tests.unit.pipelines.equities import real_series

NAN = np.nan


def _simple(values: Floats) -> Floats:
    returns: Floats = values[1:] / values[:-1] - 1.0
    return returns


def _five_years() -> tuple[Floats, Floats]:
    """Returns of the stocks and the index, 2018-01 to 2022-12."""
    stocks, index = real_series.stocks(), real_series.index()
    inside = [day >= date(2018, 1, 1) for day in stocks.dates[1:]]
    return _simple(stocks.values)[inside], _simple(index.values)[inside][:, 0]


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("AAPL", 1.228),
        ("AMD", 1.586),
        ("MSFT", 1.213),
        ("JPM", 1.103),
        ("JNJ", 0.567),
        ("WMT", 0.514),
        ("XOM", 0.907),
    ],
)
def test_betas_of_real_stocks(symbol: str, expected: float) -> None:
    beta, _, _ = betas(*_five_years())
    assert beta[real_series.stocks().column(symbol)] == pytest.approx(expected, abs=5e-4)


def test_regression_parts_add_up() -> None:
    returns, market = _five_years()
    beta, r_squared, idiosyncratic = betas(returns, market)
    one = real_series.stocks().column("JPM")
    slope, constant = np.polyfit(market, returns[:, one], 1)
    left = returns[:, one] - slope * market - constant
    assert beta[one] == pytest.approx(slope)
    assert r_squared[one] == pytest.approx(1 - left.var() / returns[:, one].var())
    assert idiosyncratic[one] == pytest.approx(np.sqrt((left**2).sum() / (len(left) - 2) * 252))


def test_beta_needs_sixty_pairs() -> None:
    returns, market = _five_years()
    returns, market = returns[:252, :2].copy(), market[:252]
    returns[:-60, 0] = NAN
    returns[:-59, 1] = NAN
    beta, r_squared, idiosyncratic = betas(returns, market)
    assert np.isfinite(beta[0])
    assert np.isnan([beta[1], r_squared[1], idiosyncratic[1]]).all()


def test_blume_draws_towards_one() -> None:
    np.testing.assert_allclose(blume(np.array([0.5, 1.0, 2.0])), [0.665, 1.0, 1.67])


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("XOM", 0.8507),
        ("CVX", 0.5586),
        ("RRC", 0.4909),
        ("MRK", 0.4477),
        ("LLY", 0.3413),
        ("HD", -0.2000),
        ("MSFT", -0.2849),
        ("AMD", -0.5221),
    ],
)
def test_momentum_of_real_stocks_at_the_end_of_2022(symbol: str, expected: float) -> None:
    stocks = real_series.stocks()
    found = momentum_12_1(stocks.until("2022-12-28"))
    assert found[stocks.column(symbol)] == pytest.approx(expected, abs=5e-5)


def test_momentum_ranks_real_stocks_in_the_known_order() -> None:
    stocks = real_series.stocks()
    order = np.argsort(-momentum_12_1(stocks.until("2022-12-28")))
    names = [stocks.symbols[number] for number in order]
    assert names[:5] == ["XOM", "CVX", "RRC", "MRK", "LLY"]
    assert names[-3:] == ["HD", "MSFT", "AMD"]


@pytest.mark.parametrize(("day", "expected"), [("2009-03-09", -0.5678), ("2020-03-23", -0.3392)])
def test_drawdowns_of_the_index_that_everybody_knows(day: str, expected: float) -> None:
    index = real_series.index()
    prices = index.until(day)[-400:]
    assert max_drawdown(prices)[0] == pytest.approx(expected, abs=5e-5)
    # The bottom is that day: a day earlier it was not so deep.
    assert max_drawdown(prices[:-1])[0] > expected


def test_short_histories_have_no_momentum() -> None:
    prices = np.linspace(10, 20, 252)[:, None]
    assert np.isnan(momentum_12_1(prices)).all()
    assert np.isfinite(momentum_12_1(np.vstack([[[9.0]], prices]))).all()
    assert np.isnan(return_over_month(prices[:21])).all()


def test_prices_are_carried_for_five_sessions_at_most() -> None:
    prices = np.array([1.0, NAN, NAN, NAN, NAN, NAN, NAN, 2.0])[:, None]
    np.testing.assert_array_equal(carried(prices)[:, 0], [1, 1, 1, 1, 1, 1, NAN, 2])


def test_trade_age_counts_sessions_since_the_last_bar() -> None:
    close = np.array([[1.0, 1.0, NAN], [1.0, NAN, NAN], [1.0, NAN, NAN]])
    np.testing.assert_array_equal(trade_ages(close), [0, 2, NAN])


def test_amihud_passes_over_sessions_without_volume() -> None:
    returns = np.array([[0.01], [0.02], [-0.03]])
    value = np.array([[1e6], [0.0], [2e6]])
    assert amihud(returns, value)[0] == pytest.approx((0.01 + 0.015) / 2)


def test_mean_of_nothing_is_missing() -> None:
    np.testing.assert_array_equal(mean_of(np.array([[1.0, NAN], [3.0, NAN]])), [2.0, NAN])


def test_loadings_on_real_factor_funds_explain_a_made_up_portfolio() -> None:
    factors = _simple(real_series.factor_funds().values)[-252:]
    portfolio = 0.0002 + factors @ np.array([0.5, 0.0, 0.3, -0.2, 0.4])
    found = factor_loadings(np.column_stack([portfolio, np.full(252, NAN)]), factors)
    np.testing.assert_allclose(found[0], [0.5, 0.0, 0.3, -0.2, 0.4], atol=1e-9)
    assert np.isnan(found[1]).all()


def test_factors_that_can_not_be_told_apart_give_no_loadings() -> None:
    factors = _simple(real_series.factor_funds().values)[-252:, [0, 0]]
    assert np.isnan(factor_loadings(factors[:, :1], factors)).all()


def test_a_factor_is_compounded_over_sessions_on_which_the_exchange_was_closed() -> None:
    sessions = [date(2012, 11, 19) + timedelta(days=n) for n in range(5)]
    market = np.array([[0.01], [0.02], [0.03], [0.04], [NAN]])
    spans = compound_between(market, sessions, [sessions[0], sessions[2], sessions[3], sessions[4]])
    np.testing.assert_allclose(spans[:, 0], [NAN, 1.02 * 1.03 - 1, 0.04, NAN])
