"""Which bars are computed on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prometheus.pipelines.equities.panel import Floats
from prometheus.pipelines.equities.screening import (
    FAULTS,
    FINE,
    Fault,
    find_faults,
    find_jumps,
    infer_splits,
    rows_needed,
)
from prometheus.sources import bundled

NAN = np.nan
GOOD = (10.0, 11.0, 9.0, 10.5, 1000.0, 10.5)


def _verdict(bar: tuple[float, ...]) -> Fault | None:
    values = np.array(bar)[:, None, None]
    index = int(find_faults(values, np.ones((1, 1), dtype=bool))[0, 0])
    return None if index == FINE else FAULTS[index]


def _jumps(
    close: list[float], adjusted: list[float] | None = None, split_at: int = -1
) -> list[int]:
    prices = np.array(close)[:, None]
    basis = prices if adjusted is None else np.array(adjusted)[:, None]
    splits = np.zeros(prices.shape)
    if split_at >= 0:
        splits[split_at] = np.log(2.0)
    usable = ~np.isnan(prices)
    return [int(row) for row in np.flatnonzero(find_jumps(prices, basis, usable, splits)[:, 0])]


@pytest.mark.parametrize(
    ("bar", "fault"),
    [
        (GOOD, None),
        ((10.0, 9.0, 11.0, 10.5, 1000.0, 10.5), Fault.HIGH_BELOW_LOW),
        ((10.0, 10.2, 9.0, 10.5, 1000.0, 10.5), Fault.OUTSIDE_RANGE),
        ((10.0, 11.0, 10.2, 10.5, 1000.0, 10.5), Fault.OUTSIDE_RANGE),
        ((10.0, 11.0, 0.0, 10.5, 1000.0, 10.5), Fault.NOT_POSITIVE),
        ((10.0, 11.0, 9.0, 10.5, 1000.0, -1.0), Fault.NOT_POSITIVE),
        ((0.0, 0.0, 0.0, 0.0, 0.0, 0.0), Fault.NOT_POSITIVE),
        ((10.0, 11.0, 9.0, NAN, 1000.0, 10.5), Fault.NOT_A_NUMBER),
        ((10.0, np.inf, 9.0, 10.5, 1000.0, 10.5), Fault.NOT_A_NUMBER),
        ((10.0, 11.0, 9.0, 10.5, -1.0, 10.5), Fault.NEGATIVE_VOLUME),
        ((10.0, 10.0, 10.0, 10.0, 0.0, 10.0), None),
    ],
)
def test_a_bar_by_itself(bar: tuple[float, ...], fault: Fault | None) -> None:
    """A session without volume, with one price, is dull but not wrong."""
    assert _verdict(bar) is fault


def test_bars_that_are_not_there_have_no_fault() -> None:
    values = np.full((6, 2, 2), NAN)
    assert (find_faults(values, np.zeros((2, 2), dtype=bool)) == FINE).all()


def test_one_wrong_bar_is_held_back_and_the_next_one_passes() -> None:
    assert _jumps([100, 101, 1010, 102, 103]) == [2]


def test_of_a_true_change_of_level_only_the_first_bar_is_held_back() -> None:
    assert _jumps([100, 101, 40, 41, 42]) == [2]


def test_moves_up_to_the_limit_pass() -> None:
    assert _jumps([100, 100 * np.exp(0.4999), 100]) == []
    assert _jumps([100, 100 * np.exp(0.5001)]) == [1]


def test_a_split_passes_when_the_adjusted_close_goes_on() -> None:
    assert _jumps([100, 101, 50.5, 51], [50, 50.5, 50.5, 51]) == []


def test_a_split_that_the_feed_names_passes_even_if_it_was_not_adjusted_for() -> None:
    assert _jumps([100, 101, 50.5, 51], split_at=2) == []
    assert _jumps([100, 101, 50.5, 51]) == [2]


def test_an_adjusted_close_that_jumps_alone_is_held_back() -> None:
    assert _jumps([100, 101, 102], [100, 101, 10]) == [2]


def test_a_gap_does_not_excuse_a_jump() -> None:
    assert _jumps([100, NAN, NAN, 10, 10.1]) == [3]


def test_first_bar_is_believed() -> None:
    assert _jumps([NAN, 1e6, 1e6]) == []


def test_of_the_real_bars_only_apples_crash_is_held_back() -> None:
    """Three splits pass; a fall of 51.85 % is real and still needs a person's word."""
    held = {}
    for symbol, series in bundled.load_series().items():
        close, adjusted = series.values[:, 3:4], series.values[:, 5:6]
        usable = np.ones(close.shape, dtype=bool)
        assert (find_faults(series.values.T[:, :, None], usable) == FINE).all()
        jumps = find_jumps(close, adjusted, usable, np.zeros(close.shape))
        held[symbol] = [str(series.dates[row]) for row in np.flatnonzero(jumps[:, 0])]
    assert held == {"AAPL": ["2000-09-29"], "FB": [], "GOOG": [], "IBM": [], "MSFT": []}


def test_splits_of_the_real_bars_are_inferred() -> None:
    found = {}
    for symbol in ("AAPL", "IBM", "MSFT"):
        series = bundled.load_series()[symbol]
        close, adjusted = series.values[:, 3:4], series.values[:, 5:6]
        ratios = infer_splits(close, adjusted, np.ones(close.shape, dtype=bool))
        rows = np.flatnonzero(ratios[:, 0] != 1.0)
        found[symbol] = [(str(series.dates[row]), round(float(ratios[row, 0]), 3)) for row in rows]
    assert found == {
        "AAPL": [("2000-06-21", 2.0), ("2005-02-28", 2.0)],
        "IBM": [],
        "MSFT": [("2003-02-18", 2.0)],
    }


@given(
    st.lists(st.floats(0.01, 1e4), min_size=1, max_size=40),
    st.data(),
)
def test_accepted_closes_follow_a_bar_they_can_be_believed_after(
    prices: list[float], data: st.DataObject
) -> None:
    """Each accepted close is within the limit of the last accepted or of the bar before."""
    close: Floats = np.array(prices)[:, None]
    gaps = data.draw(st.sets(st.integers(0, len(prices) - 1)))
    usable = np.ones(close.shape, dtype=bool)
    usable[sorted(gaps)] = False
    jumps = find_jumps(close, close, usable, np.zeros(close.shape))
    assert not (jumps & ~usable).any()
    last_good: float | None = None
    last: float | None = None
    for row in np.flatnonzero(usable[:, 0]):
        steps = [abs(np.log(close[row, 0] / before)) for before in (last_good, last) if before]
        if not jumps[row, 0]:
            assert not steps or min(steps) <= 0.5 + 1e-12
            last_good = float(close[row, 0])
        else:
            assert min(steps) > 0.5 - 1e-12
        last = float(close[row, 0])


@pytest.mark.parametrize(
    ("counts", "needed"),
    [
        ([100] * 5, 95),
        ([500, 10, 500, 500, 500], 475),
        ([6] * 5, 5),
        ([1] * 5, 1),
        ([0] * 5, 0),
        ([], 0),
        ([4], 3),
        ([1000, 100, 100, 100, 100, 100], 95),
    ],
)
def test_a_session_is_complete_with_95_percent_of_the_five_before(
    counts: list[int], needed: int
) -> None:
    assert rows_needed(np.array(counts, dtype=np.int64)) == needed
