"""Windows for models."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prometheus.pipelines.equities.panel import Floats
from prometheus.pipelines.equities.windows import (
    FEATURES,
    LENGTH,
    decode,
    features_of,
    standardised_windows,
)

NAN = np.nan


def _bars(sessions: int = 400, instruments: int = 3) -> list[Floats]:
    random = np.random.default_rng(7)
    close = 50 * np.exp(np.cumsum(random.standard_normal((sessions, instruments)) / 60, axis=0))
    high, low = close * 1.01, close * 0.99
    volume = 1e6 * np.exp(random.standard_normal((sessions, instruments)) / 5)
    log_returns = np.vstack([np.full((1, instruments), NAN), np.diff(np.log(close), axis=0)])
    return [log_returns, high, low, close, volume, close.copy()]


def test_window_has_a_row_a_session_and_a_channel_a_feature_and_the_mask() -> None:
    tensor = standardised_windows(features_of(*_bars()))
    assert tensor.shape == (3, LENGTH, len(FEATURES) + 1)
    assert tensor.dtype == np.float32
    assert (tensor[..., -1] == 1).all()
    assert np.abs(tensor).max() <= 5.0


def test_features_are_standardised_by_the_year_that_ends_with_the_window() -> None:
    features = features_of(*_bars())
    tensor = standardised_windows(features)
    year = features[0, -252:, 1]
    expected = (features[0, -LENGTH:, 1] - year.mean()) / year.std(ddof=1)
    np.testing.assert_allclose(tensor[1, :, 0], np.clip(expected, -5, 5), rtol=1e-5)


def test_moving_average_is_over_twenty_sessions() -> None:
    bars = _bars()
    adjusted = bars[5]
    features = features_of(*bars)
    expected = adjusted[100, 0] / adjusted[81:101, 0].mean() - 1
    np.testing.assert_allclose(features[5, 100, 0], expected)
    assert np.isnan(features[5, :19]).all()


def test_a_missing_session_is_masked_and_zero() -> None:
    bars = _bars()
    for values in bars:
        values[-10, 0] = NAN
    bars[0][-9, 0] = NAN
    tensor = standardised_windows(features_of(*bars))
    assert tensor[0, -10, -1] == 0
    assert (tensor[0, -10, :4] == 0).all()
    assert tensor[0, -1, -1] == 0  # the moving average still contains the gap
    assert tensor[1, -10, -1] == 1


def test_a_short_history_is_masked_throughout() -> None:
    bars = _bars()
    for values in bars:
        values[:-59, 2] = NAN
    tensor = standardised_windows(features_of(*bars))
    assert (tensor[2] == 0).all()


def test_fewer_sessions_than_a_window_fill_its_end() -> None:
    tensor = standardised_windows(features_of(*_bars(sessions=30)))
    assert tensor.shape == (3, LENGTH, len(FEATURES) + 1)
    assert (tensor[:, :34] == 0).all()


def test_a_feature_that_does_not_vary_is_zero_and_present() -> None:
    features = np.ones((7, 300, 2))
    tensor = standardised_windows(features)
    assert (tensor[..., :-1] == 0).all()
    assert (tensor[..., -1] == 1).all()


def test_a_split_leaves_no_trace_in_volume_and_average() -> None:
    log_returns, high, low, close, volume, adjusted = _bars()
    before = features_of(log_returns, high, low, close, volume, adjusted)
    split = slice(0, 350)
    for values in (high, low, close):
        values[split] *= 2
    volume[split] /= 2
    after = features_of(log_returns, high, low, close, volume, adjusted)
    np.testing.assert_allclose(after, before, atol=1e-12)


def test_a_session_without_volume_is_masked_not_infinite() -> None:
    bars = _bars()
    bars[4][-5, 0] = 0.0
    tensor = standardised_windows(features_of(*bars))
    assert np.isfinite(tensor).all()
    assert tensor[0, -5, -1] == 0


@given(
    gaps=st.lists(st.tuples(st.integers(0, 399), st.integers(0, 2)), max_size=300),
    spike=st.floats(0.01, 100.0),
)
def test_windows_are_always_finite_and_clipped(gaps: list[tuple[int, int]], spike: float) -> None:
    bars = _bars()
    for row, column in gaps:
        for values in bars:
            values[row, column] = NAN
    bars[1][200] *= 1 + spike
    tensor = standardised_windows(features_of(*bars))
    assert np.isfinite(tensor).all()
    assert np.abs(tensor).max() <= 5.0
    assert set(np.unique(tensor[..., -1])) <= {0.0, 1.0}


def test_stored_bytes_come_back_as_the_window() -> None:
    window = standardised_windows(features_of(*_bars()))[1]
    again = decode(window.astype("<f4").tobytes(), *window.shape)
    np.testing.assert_array_equal(again, window)
