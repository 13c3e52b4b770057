"""The prices that are in the wheel."""

from __future__ import annotations

import gzip
import hashlib
from datetime import date
from importlib import resources

import numpy as np
import pytest

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.sources import bundled
from prometheus.sources.protocol import Split


def _file() -> bytes:
    return resources.files("prometheus.sources").joinpath("data", "us_stocks.csv.gz").read_bytes()


def test_file_is_the_one_its_source_note_describes() -> None:
    note = resources.files("prometheus.sources").joinpath("data", "SOURCE.md").read_text("utf-8")
    assert hashlib.sha256(_file()).hexdigest() in note
    assert hashlib.sha256(gzip.decompress(_file())).hexdigest() in note
    assert "public domain" in note


@pytest.mark.parametrize(
    ("symbol", "first", "rows"),
    [
        ("AAPL", date(2000, 3, 1), 3270),
        ("IBM", date(2000, 3, 1), 3270),
        ("MSFT", date(2000, 3, 1), 3270),
        ("GOOG", date(2004, 8, 19), 2148),
        ("FB", date(2012, 5, 18), 196),
    ],
)
def test_every_company_has_a_bar_on_every_session_since_its_listing(
    symbol: str, first: date, rows: int
) -> None:
    days = bundled.load_series()[symbol].dates.tolist()
    assert len(days) == rows
    assert days == TradingCalendar("XNYS").trading_days(first, bundled.LAST_DATE)


def test_bars_carry_the_files_numbers() -> None:
    prices = bundled.BundledPrices(["XNYS", "XNAS"])
    day = date(2012, 11, 23)
    [bar] = prices.bars("XNAS", ["AAPL", "NOPE"], day, day)
    assert bar == ("XNAS", "AAPL", day, 567.17, 572.0, 562.6, 571.5, 9743800.0, 74.109556622672)


def test_bars_keep_within_the_dates_asked_for() -> None:
    prices = bundled.BundledPrices(["XNYS"])
    bars = prices.bars("XNYS", ["IBM"], date(2012, 11, 21), date(2012, 11, 23))
    assert [bar.session_date.day for bar in bars] == [21, 23]
    assert prices.bars("XNAS", ["AAPL"], date(2012, 11, 21), date(2012, 11, 23)) == []


@pytest.mark.parametrize("split", bundled.SPLITS, ids=lambda split: f"{split.symbol}")
def test_splits_show_in_the_ratio_of_raw_to_adjusted_moves(split: Split) -> None:
    series = bundled.load_series()[split.symbol]
    row = int(np.searchsorted(series.dates, np.datetime64(split.session_date)))
    raw = series.values[row, 3] / series.values[row - 1, 3]
    adjusted = series.values[row, 5] / series.values[row - 1, 5]
    assert adjusted / raw == pytest.approx(split.ratio, rel=1e-4)


def test_market_factor_is_the_mean_of_the_companies_that_traded() -> None:
    [row] = bundled.market_returns(["XNAS"], date(2012, 11, 23), date(2012, 11, 23))
    moves = []
    for symbol in ("AAPL", "FB", "GOOG", "MSFT"):
        series = bundled.load_series()[symbol]
        at = int(np.searchsorted(series.dates, np.datetime64("2012-11-23")))
        moves.append(series.values[at, 5] / series.values[at - 1, 5] - 1.0)
    assert row.value == pytest.approx(np.mean(moves))
    assert not row.is_synthetic


def test_market_factor_leaves_out_the_move_that_prices_hold_back() -> None:
    """AAPL fell by 51.85 % on 2000-09-29; the mean of the other two is left."""
    [row] = bundled.market_returns(["XNYS", "XNAS"], date(2000, 9, 29), date(2000, 9, 29))
    assert abs(row.value) < 0.05
