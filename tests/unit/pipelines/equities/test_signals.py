"""Signals across a market."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prometheus.pipelines.equities.signals import (
    WEIGHTS,
    combined,
    winsorised,
    without_sector_means,
    z_scores,
)

NAN = np.nan


def test_weights_of_the_signals_sum_to_one() -> None:
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)


def test_winsorising_pulls_in_one_percent_on_each_side() -> None:
    values = np.arange(1000.0)
    found = winsorised(values)
    assert (found.min(), found.max()) == (pytest.approx(9.99), pytest.approx(989.01))
    np.testing.assert_array_equal(found[20:980], values[20:980])


@given(
    st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(NAN)), min_size=1, max_size=40).filter(
        lambda values: np.nanstd(values) > 1e-6 if not np.isnan(values).all() else True
    )
)
def test_z_scores_have_mean_zero_and_deviation_one(values: list[float]) -> None:
    array = np.array(values)
    found = z_scores(array)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(array))
    known = found[~np.isnan(found)]
    if len(known) > 1:
        assert known.mean() == pytest.approx(0.0, abs=1e-6)
        assert known.std(ddof=1) == pytest.approx(1.0)


@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0, 2.0], [5.0, NAN]])
def test_a_market_without_differences_scores_zero(values: list[float]) -> None:
    found = z_scores(np.array(values))
    assert (found[~np.isnan(values)] == 0).all()


def test_two_names_differ_by_the_same_amount() -> None:
    np.testing.assert_allclose(z_scores(np.array([1.0, 9.0])), [-(0.5**0.5), 0.5**0.5])


def test_a_name_without_one_signal_has_no_score() -> None:
    columns = {name: np.array([1.0, 1.0]) for name in WEIGHTS}
    columns["momentum"] = np.array([1.0, NAN])
    np.testing.assert_allclose(combined(columns), [1.0, NAN])


def test_sector_means_are_taken_out_and_small_sectors_pooled() -> None:
    values = np.array([1.0, 2.0, 6.0, 10.0, 20.0, NAN, 30.0])
    sectors = ["A", "A", "A", "B", None, "A", None]
    found = without_sector_means(values, sectors)
    np.testing.assert_allclose(found, [-2, -1, 3, -10, 0, NAN, 10])
