"""From risks to weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from prometheus.pipelines.equities.weights import (
    equal_risk_contribution,
    ewma_covariance,
    fill_with_cap,
    fill_with_caps,
    inverse_volatility,
    limit_trades,
    limit_turnover,
    one_way_turnover,
    project,
    risk_contributions,
    scale_to_volatility,
    volatility_of,
)

VOLATILITIES = np.array([0.10, 0.20, 0.30, 0.40])


def _groups(*numbers: int) -> NDArray[np.intp]:
    return np.array(numbers, dtype=np.intp)


def test_inverse_volatility_of_the_textbook_assets() -> None:
    np.testing.assert_allclose(inverse_volatility(VOLATILITIES), [0.48, 0.24, 0.16, 0.12])


def test_equal_risk_contributions_of_the_papers_example() -> None:
    """Maillard, Roncalli and Teiletche (2010): 38.4, 19.2, 24.3, 18.2 %, at 10.3 %."""
    correlation = np.eye(4)
    correlation[0, 1] = correlation[1, 0] = 0.8
    correlation[2, 3] = correlation[3, 2] = -0.5
    covariance = correlation * np.outer(VOLATILITIES, VOLATILITIES)
    weights = equal_risk_contribution(covariance)
    np.testing.assert_allclose(weights, [0.384, 0.192, 0.243, 0.182], atol=5e-4)
    np.testing.assert_allclose(risk_contributions(weights, covariance), 0.25, atol=1e-9)
    assert volatility_of(weights, covariance) == pytest.approx(0.1029, abs=5e-5)


def test_equal_risk_without_correlation_is_inverse_volatility() -> None:
    weights = equal_risk_contribution(np.diag(VOLATILITIES**2))
    np.testing.assert_allclose(weights, [0.48, 0.24, 0.16, 0.12], atol=1e-9)


def test_covariance_has_the_volatilities_and_real_correlations() -> None:
    random = np.random.default_rng(2)
    common = random.standard_normal((500, 1))
    returns = common + 0.5 * random.standard_normal((500, 3))
    covariance = ewma_covariance(returns, np.array([0.1, 0.2, 0.3]), decay=0.999)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), [0.1, 0.2, 0.3])
    assert covariance[0, 1] / 0.02 == pytest.approx(0.8, abs=0.05)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.9))
def test_covariance_is_positive_semi_definite_whatever_is_missing(
    seed: int, missing: float
) -> None:
    random = np.random.default_rng(seed)
    returns = random.standard_normal((80, 6)) + random.standard_normal((80, 1))
    returns[random.random((80, 6)) < missing] = np.nan
    covariance = ewma_covariance(returns, np.full(6, 0.2))
    assert np.linalg.eigvalsh(covariance).min() > -1e-12


def test_what_a_capped_asset_can_not_take_goes_to_the_others() -> None:
    found = fill_with_cap(np.array([6.0, 3.0, 1.0, 0.0]), 1.0, np.full(4, 0.5))
    np.testing.assert_allclose(found, [0.5, 0.375, 0.125, 0.0])


def test_what_nobody_can_take_is_left_over() -> None:
    found = fill_with_cap(np.array([6.0, 3.0]), 1.0, np.full(2, 0.1))
    np.testing.assert_allclose(found, [0.1, 0.1])


def test_one_sector_leaves_a_small_book_with_cash() -> None:
    found = fill_with_caps(
        np.array([4.0, 2.0, 1.0, 1.0]), 1.0, 0.1, _groups(0, 0, 0, 0), np.array([0.3])
    )
    assert found.sum() == pytest.approx(0.3)
    np.testing.assert_allclose(found, [0.1, 0.1, 0.05, 0.05])


shares_of_assets = st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1e3)), min_size=1, max_size=25)


@given(
    shares=shares_of_assets,
    seed=st.integers(0, 2**16),
    name_cap=st.floats(0.01, 1.0),
    group_cap=st.floats(0.01, 1.0),
    budget=st.floats(0.0, 1.0),
)
def test_water_filling_keeps_every_cap_and_wastes_no_room(
    shares: list[float], seed: int, name_cap: float, group_cap: float, budget: float
) -> None:
    array = np.array(shares)
    groups = np.random.default_rng(seed).integers(0, 4, len(array)).astype(np.intp)
    caps = np.full(4, group_cap)
    found = fill_with_caps(array, budget, name_cap, groups, caps)
    sums = np.bincount(groups, weights=found, minlength=4)
    assert (found >= 0).all()
    assert (found[array == 0] == 0).all()
    assert (found <= name_cap + 1e-9).all()
    assert (sums <= group_cap + 1e-9).all()
    assert found.sum() <= budget + 1e-9
    if found.sum() < budget - 1e-9:
        # Something was left over: every name with a share is at its cap, or its group is.
        free = (array > 0) & (found < name_cap - 1e-9) & (sums[groups] < group_cap - 1e-9)
        assert not free.any()


@given(shares=shares_of_assets, name_cap=st.floats(0.01, 1.0))
def test_uncapped_weights_stay_in_proportion(shares: list[float], name_cap: float) -> None:
    array = np.array(shares)
    found = fill_with_cap(array, 1.0, np.full(len(array), name_cap))
    free = (array > 0) & (found < name_cap - 1e-9)
    assume(free.any())
    ratios = found[free] / array[free]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-6)


def test_scaling_reaches_the_target_exactly_beside_a_fixed_part() -> None:
    covariance = np.diag([0.04, 0.09, 0.16])
    fixed = np.array([0.2, 0.0, 0.0])
    movable = np.array([0.0, 0.4, 0.4])
    k = scale_to_volatility(movable, fixed, covariance, 0.10)
    assert 0 < k < 1
    assert volatility_of(fixed + k * movable, covariance) == pytest.approx(0.10)


def test_scaling_never_gears_up_and_stops_at_nothing() -> None:
    covariance = np.diag([0.01, 0.01])
    small = np.array([0.1, 0.1])
    assert scale_to_volatility(small, np.zeros(2), covariance, 0.10) == 1.0
    assert scale_to_volatility(small, np.array([2.0, 2.0]), covariance, 0.10) == 0.0


def test_turnover_is_cut_to_its_cap_along_the_way() -> None:
    previous, target = np.array([0.5, 0.0, 0.0]), np.array([0.0, 0.3, 0.3])
    found = limit_turnover(previous, target, 0.20)
    assert one_way_turnover(previous, found) == pytest.approx(0.20)
    np.testing.assert_allclose((found - previous) / (target - previous), 0.2 / 0.55)
    np.testing.assert_array_equal(limit_turnover(previous, target, 0.6), target)


def test_trades_are_cut_each_to_its_size() -> None:
    found = limit_trades(np.array([0.1, 0.1]), np.array([0.0, 0.4]), np.array([0.02, 0.2]))
    np.testing.assert_allclose(found, [0.08, 0.3])


def test_projection_leaves_what_can_not_trade_and_shrinks_the_rest() -> None:
    found = project(
        np.array([0.2, 0.15, 0.08]),
        np.array([0.2, 0.10, 0.08]),
        np.array([True, False, False]),
        0.10,
        _groups(0, 0, 1),
        np.array([0.25, 0.25]),
    )
    np.testing.assert_allclose(found, [0.2, 0.05, 0.08])


def test_projection_buys_less_before_it_sells() -> None:
    previous = np.array([0.10, 0.10, 0.10, 0.0])
    found = project(
        np.array([0.10, 0.10, 0.09, 0.05]),
        previous,
        np.zeros(4, dtype=bool),
        0.10,
        _groups(0, 0, 0, 0),
        np.array([0.30]),
    )
    np.testing.assert_allclose(found, [0.10, 0.10, 0.09, 0.01])
