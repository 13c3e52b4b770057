"""
Real daily prices that are in the wheel: five US companies, 2000-03-01 to 2013-03-01.

Origin, licence and checksums of the file are in ``data/SOURCE.md``.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from prometheus.sources.protocol import (
    Bar,
    FactorReturn,
    Instrument,
    SourceLabel,
    Split,
)

NAME = "bundled: real daily prices of five US companies, 2000-2013 (Quandl WIKI, public domain)"
MARKET_FACTOR_NAME = "bundled: equal-weighted mean return of the bundled US companies"
FIRST_DATE = date(2000, 3, 1)
LAST_DATE = date(2013, 3, 1)
LARGEST_MOVE = 0.5
"""Of one company in one session, |ln|, for its return to count in the market factor."""

_SECTOR = "Information Technology"
"""GICS had all five here in these years; GOOG and FB moved to Communication Services in 2018-09."""

INSTRUMENTS = (
    Instrument("XNAS", "AAPL", "Apple Inc.", _SECTOR, "USD"),
    Instrument("XNAS", "FB", "Facebook, Inc.", _SECTOR, "USD"),
    Instrument("XNAS", "GOOG", "Google Inc.", _SECTOR, "USD"),
    Instrument("XNAS", "MSFT", "Microsoft Corporation", _SECTOR, "USD"),
    Instrument("XNYS", "IBM", "International Business Machines Corporation", _SECTOR, "USD"),
)

SPLITS = (
    Split("XNAS", "AAPL", date(2000, 6, 21), 2.0),
    Split("XNAS", "AAPL", date(2005, 2, 28), 2.0),
    Split("XNAS", "MSFT", date(2003, 2, 18), 2.0),
)
"""All splits of the file; there the close halves and the adjusted close does not."""


@dataclass(frozen=True, slots=True)
class Series:
    """All bars of one symbol, ascending."""

    dates: NDArray[np.datetime64]
    values: NDArray[np.float64]
    """(rows, 6): open, high, low, close, volume, adjusted close."""


@cache
def load_series() -> dict[str, Series]:
    """Read the file once a process; symbol to its bars."""
    packed = resources.files("prometheus.sources").joinpath("data", "us_stocks.csv.gz")
    lines = gzip.decompress(packed.read_bytes()).decode("ascii").splitlines()
    header, *rows = (line.split(",") for line in lines)
    if header != ["Ticker", "Date", "Open", "High", "Low", "Close", "Volume", "Adj Close"]:
        raise ValueError(f"us_stocks.csv.gz has other columns than expected: {header}")
    columns = list(zip(*rows, strict=True))
    symbols = np.array(columns[0])
    dates = np.array(columns[1], dtype="datetime64[D]")
    values = np.array([list(map(float, column)) for column in columns[2:]]).T
    return {
        str(symbol): Series(dates[symbols == symbol], values[symbols == symbol])
        for symbol in np.unique(symbols)
    }


def covers(day: date) -> bool:
    """Say whether a session lies within the years of the file."""
    return FIRST_DATE <= day <= LAST_DATE


class BundledPrices:
    """The price feed of the bundled file."""

    name = NAME
    is_synthetic = False

    def __init__(self, mics: Sequence[str]) -> None:
        """
        Serve the companies of some exchanges.

        Args:
            mics: Exchanges of the market that is served.
        """
        self._instruments = tuple(i for i in INSTRUMENTS if i.mic in mics)

    def label(self, on: date) -> SourceLabel:  # noqa: ARG002  all sessions alike
        return SourceLabel(NAME, is_synthetic=False)

    def instruments(
        self,
        market_id: str,  # noqa: ARG002  all of its exchanges' companies
        on: date,  # noqa: ARG002  on every session the same
    ) -> Sequence[Instrument]:
        return self._instruments

    def bars(self, mic: str, symbols: Sequence[str], start: date, end: date) -> Sequence[Bar]:
        known = {i.symbol for i in self._instruments if i.mic == mic}
        found: list[Bar] = []
        for symbol in symbols:
            if symbol not in known:
                continue
            series = load_series()[symbol]
            first = np.searchsorted(series.dates, np.datetime64(start, "D"), side="left")
            last = np.searchsorted(series.dates, np.datetime64(end, "D"), side="right")
            days: list[date] = series.dates[first:last].tolist()
            rows: list[list[float]] = series.values[first:last].tolist()
            found += [Bar(mic, symbol, day, *row) for day, row in zip(days, rows, strict=True)]
        return found

    def splits(self, mic: str, symbols: Sequence[str], start: date, end: date) -> Sequence[Split]:
        return [
            split
            for split in SPLITS
            if split.mic == mic and split.symbol in symbols and start <= split.session_date <= end
        ]


def market_returns(mics: Sequence[str], start: date, end: date) -> list[FactorReturn]:
    """
    Return the market factor of the bundled years: the mean return of the companies that traded.

    Simple returns of the adjusted close over consecutive rows, equally weighted each session. A
    company's move of more than `LARGEST_MOVE` is left out of the mean (AAPL on 2000-09-29, the only
    one): the equity jobs hold back such bars of one company, so the market must not contain them.
    """
    totals: dict[date, list[float]] = {}
    for instrument in INSTRUMENTS:
        if instrument.mic not in mics:
            continue
        series = load_series()[instrument.symbol]
        adjusted = series.values[:, 5]
        days: list[date] = series.dates[1:].tolist()
        changes: list[float] = (adjusted[1:] / adjusted[:-1] - 1.0).tolist()
        for day, change in zip(days, changes, strict=True):
            if start <= day <= end and abs(np.log1p(change)) <= LARGEST_MOVE:
                totals.setdefault(day, []).append(change)
    return [
        FactorReturn("MKT", day, sum(values) / len(values), day, MARKET_FACTOR_NAME, False)
        for day, values in sorted(totals.items())
    ]
