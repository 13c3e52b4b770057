"""
Made-up prices and factors on true session dates, for markets without a feed.

Every number depends on the seed, the instrument and the *calendar day* alone. Paths are drawn for
all days since `EPOCH` and read off on session dates, so neither the range asked for nor a later
correction of a calendar changes a bar that was delivered before. Symbols begin with ``SY`` and
names with "Synthetic", so that nobody takes them for companies.

The model: log prices are sums of slowly mean-reverting parts (exchange, styles, sector, company),
so that four decades of days stay within sensible prices, with a volatility that drifts and is
common to all. Loadings are fixed for each company, so regressions on the factors find them again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from prometheus.errors import HorizonError
from prometheus.sources.errors import SourceError
from prometheus.sources.protocol import Bar, FactorReturn, Instrument, SourceLabel, Split
from prometheus.sources.sessions import Members, SessionDates, members, session_dates

Floats = NDArray[np.float64]

NAME = "synthetic: made-up prices on true session dates"
FACTOR_NAME = "synthetic: made-up factor returns on true session dates"
EPOCH = date(1990, 1, 1)
DEFAULT_SEED = 20121121

MARKET_FACTOR = "MKT"
STYLE_FACTORS = ("MOM", "QUAL", "SIZE", "MINVOL", "VALUE")
"""Styles of the five US factor funds that users know (MTUM, QUAL, SIZE, USMV, VLUE)."""

_MARKET_STD = 0.010
_STYLE_STD = 0.004
_SECTOR_STD = 0.005
_WEEKEND_SHARE = 0.05
"""Variance of a Saturday or Sunday, as a share of a weekday's: special sessions move little."""
_PERSISTENCE = 0.999
"""Of a deviation from trend, from one calendar day to the next: half of it is gone in 1.9 years."""
_YEARLY_GROWTH = 0.02
_LARGEST_MOVE = 0.15
"""Of one part in one day, in log terms: keeps honest bars below the jump limit of 0.5."""
_KEPT_YEARS = 2
"""Before the last one that was asked for: a process that has served all markets keeps 4 MB."""


@dataclass(frozen=True, slots=True)
class _Company:
    instrument: Instrument
    price: float
    listed: date = EPOCH
    halted_share: float = 0.0
    splits: tuple[tuple[date, float], ...] = ()


@dataclass(frozen=True, slots=True)
class _Paths:
    """Companies of one exchange on every calendar day of the years that were asked for."""

    symbols: dict[str, int]
    bars: Floats
    """(companies, days, 6): open, high, low, close, volume, adjusted close; NaN without trading."""


_EXCHANGES: dict[str, tuple[str, float]] = {
    "XNYS": ("USD", 55.0),
    "XNAS": ("USD", 70.0),
    "XPAR": ("EUR", 45.0),
    "XLON": ("GBP", 18.0),
    "XTKS": ("JPY", 2500.0),
    "XHKG": ("HKD", 90.0),
}
"""Currency and usual price; others are in USD at 50."""

_SECTORS = ("Financials", "Industrials", "Information Technology", "Health Care", None, "Energy")
_THIN = frozenset({"XNYS", "XPAR", "XHKG"})
"""Exchanges whose sixth company rarely trades and whose fourth is cheap."""
_NEW = frozenset({"XNAS", "XLON", "XTKS"})
"""Exchanges with young listings, one in 2012 and one in 2026."""
_SPLITS = ((date(2012, 3, 14), 2.0), (date(2026, 3, 11), 3.0))


@lru_cache(maxsize=64)
def _companies(mic: str) -> tuple[_Company, ...]:
    currency, usual_price = _EXCHANGES.get(mic, ("USD", 50.0))
    made = []
    for number, sector in enumerate([*_SECTORS, "Industrials"], start=1):
        new = mic in _NEW and number in (6, 7)
        if number == 7 and not new:
            continue
        thin = mic in _THIN
        instrument = Instrument(
            mic=mic,
            symbol=f"SY{mic[1:]}{number:02}",
            name=f"Synthetic {mic} {number:02}",
            sector=sector,
            currency=currency,
        )
        made.append(
            _Company(
                instrument,
                price=usual_price * (0.05 if thin and number == 4 else 0.7 + 0.15 * number),
                listed=(date(2012, 6, 4) if number == 6 else date(2026, 6, 1)) if new else EPOCH,
                halted_share=0.08 if thin and number == 6 else 0.0,
                splits=_SPLITS if number == 2 else (),
            )
        )
    return tuple(made)


def _normals(seed: int, name: str, days: int, columns: int) -> Floats:
    """
    Draw standard normals, (days, columns), the same ones first however many days are asked for.

    `RandomState` is the generator whose numbers NumPy promises never to change (NEP 19).
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    state = np.random.RandomState(int.from_bytes(digest[:4], "big"))
    return state.standard_normal((days, columns))


@lru_cache(maxsize=4)
def _day_std(seed: int, days: int) -> Floats:
    """Return what a day's standard deviation is multiplied by: calm and nervous times, weekends."""
    drift = _revert(0.06 * _normals(seed, "volatility", days, 1)[:, 0], 0.98)
    first = EPOCH.weekday()
    weekend = (np.arange(days) + first) % 7 >= 5
    share: Floats = np.exp(drift - 0.03) * np.where(weekend, np.sqrt(_WEEKEND_SHARE), 1.0)
    return share


def _revert(shocks: Floats, persistence: float) -> Floats:
    """
    Sum shocks that fade: ``x[t] = persistence * x[t-1] + shocks[t]``.

    Done as one cumulative sum, in pieces so short that no power leaves the range of a double.
    """
    result = np.empty_like(shocks)
    level = 0.0
    for start in range(0, len(shocks), 4096):
        piece = shocks[start : start + 4096]
        powers = persistence ** np.arange(1, len(piece) + 1)
        values = powers * (level + np.cumsum(piece / powers))
        result[start : start + 4096] = values
        level = float(values[-1])
    return result


def _part(seed: int, name: str, std: float, days: int) -> Floats:
    """Return one part of log prices on every day since `EPOCH`."""
    moves = std * _normals(seed, name, days, 1)[:, 0] * _day_std(seed, days)
    return _revert(np.clip(moves, -_LARGEST_MOVE, _LARGEST_MOVE), _PERSISTENCE)


def _factor(seed: int, mic: str, factor: str, days: int) -> Floats:
    """Return a factor's log path on one exchange: half the world's variance, half its own."""
    std = _MARKET_STD if factor == MARKET_FACTOR else _STYLE_STD
    world = _part(seed, f"world/{factor}", std * np.sqrt(0.5), days)
    local = _part(seed, f"{mic}/{factor}", std * np.sqrt(0.5), days)
    return world + local


@lru_cache(maxsize=8)
def _factors(seed: int, mic: str, first: int, days: int) -> dict[str, Floats]:
    """Return the log paths of all factors on one exchange, of the days that are kept."""
    names = (MARKET_FACTOR, *STYLE_FACTORS)
    return {name: _factor(seed, mic, name, days)[first:].copy() for name in names}


@lru_cache(maxsize=8)
def _paths(seed: int, mic: str, first: int, days: int) -> _Paths:
    companies = _companies(mic)
    factors = [_factor(seed, mic, name, days) for name in (MARKET_FACTOR, *STYLE_FACTORS)]
    names = {company.instrument.sector for company in companies} - {None}
    sectors = {name: _part(seed, f"{mic}/{name}", _SECTOR_STD, days) for name in names}
    bars = np.empty((len(companies), days - first, 6))
    for number, company in enumerate(companies):
        bars[number] = _company_bars(seed, company, factors, sectors, days)[first:]
    return _Paths({c.instrument.symbol: n for n, c in enumerate(companies)}, bars)


def _company_bars(
    seed: int,
    company: _Company,
    factors: list[Floats],
    sectors: dict[str | None, Floats],
    days: int,
) -> Floats:
    mic, symbol = company.instrument.mic, company.instrument.symbol
    traits = _normals(seed, f"{mic}/{symbol}/traits", 1, 2 + len(STYLE_FACTORS))[0]
    loadings = [1.0 + 0.25 * np.clip(traits[0], -2, 2), *(0.5 * traits[2:])]
    own_std = 0.012 * float(np.exp(0.3 * np.clip(traits[1], -2, 2)))
    draws = _normals(seed, f"{mic}/{symbol}", days, 6)
    stds = own_std * _day_std(seed, days)
    own = _revert(np.clip(draws[:, 0] * stds, -_LARGEST_MOVE, _LARGEST_MOVE), _PERSISTENCE)
    if company.instrument.sector is not None:
        own = own + sectors[company.instrument.sector]
    growth = np.arange(days) * (_YEARLY_GROWTH / 365.0)
    log_close = np.log(company.price) + growth + own
    for loading, factor in zip(loadings, factors, strict=True):
        log_close = log_close + loading * factor

    move = np.diff(log_close, prepend=log_close[0])
    log_open = log_close - 0.7 * move + 0.3 * stds * draws[:, 1]
    log_high = np.maximum(log_open, log_close) + 0.5 * stds * np.abs(draws[:, 2])
    log_low = np.minimum(log_open, log_close) - 0.5 * stds * np.abs(draws[:, 3])

    decimals = 0 if company.instrument.currency == "JPY" else 2
    later_splits = np.ones(days)
    for day, ratio in company.splits:
        later_splits[: max(0, min(days, (day - EPOCH).days))] *= ratio
    logs = np.stack([log_open, log_high, log_low, log_close], axis=1)
    # Rounding keeps the order of the four, so bars stay consistent; nothing trades below one tick.
    tick = 10.0**-decimals
    prices = np.maximum(np.round(np.exp(logs) * later_splits[:, None], decimals), tick)
    typical_shares = 4e7 * np.exp(0.5 * traits[1]) / _in_dollars(company)
    shares = np.round(
        typical_shares
        / later_splits
        * np.exp(0.3 * draws[:, 4] + 8.0 * np.minimum(np.abs(move), 0.2))
    )
    bars = np.column_stack([prices, shares, prices[:, 3] / later_splits])
    bars[: max(0, (company.listed - EPOCH).days)] = np.nan
    if company.halted_share:
        threshold = np.quantile(_normals(0, "halts", 4096, 1), company.halted_share)
        bars[draws[:, 5] < threshold] = np.nan
    return bars


def _in_dollars(company: _Company) -> float:
    """Return the usual price in dollars, roughly, so that all exchanges trade similar values."""
    per_dollar = {"JPY": 100.0, "HKD": 8.0, "GBP": 0.8}
    return company.price / per_dollar.get(company.instrument.currency, 1.0)


def _first_day(start: date, end: date) -> int:
    """Return from which day on paths are kept: years of which most questions share one."""
    first = date(min(start.year, end.year - _KEPT_YEARS), 1, 1)
    return max((first - EPOCH).days, 0)


def _days_until(end: date) -> int:
    """Return how many days to draw: to the end of the year, so that a year shares one drawing."""
    return (date(end.year, 12, 31) - EPOCH).days + 1


def _check_start(end: date) -> None:
    if end < EPOCH:
        raise SourceError(
            NAME,
            f"Synthetic prices begin on {EPOCH.isoformat()}; {end.isoformat()} was asked for. "
            f"Ask for a later session.",
        )


class SyntheticPrices:
    """A price feed that makes its bars up."""

    name = NAME
    is_synthetic = True

    def __init__(
        self,
        *,
        seed: int = DEFAULT_SEED,
        members: Members = members,
        session_dates: SessionDates = session_dates,
    ) -> None:
        """
        Make a feed; the same seed gives the same bars in every process and on every machine.

        Args:
            seed: Any integer.
            members: Market to its exchanges.
            session_dates: Sessions of an exchange.
        """
        self._seed = seed
        self._members = members
        self._session_dates = session_dates

    def label(self, on: date) -> SourceLabel:  # noqa: ARG002  all sessions alike
        return SourceLabel(NAME, is_synthetic=True)

    def instruments(self, market_id: str, on: date) -> Sequence[Instrument]:
        return [
            company.instrument
            for mic in sorted(self._members(market_id))
            for company in _companies(mic)
            if company.listed <= on
        ]

    def bars(self, mic: str, symbols: Sequence[str], start: date, end: date) -> Sequence[Bar]:
        _check_start(end)
        start = max(start, EPOCH)
        sessions = [day for day in self._session_dates(mic, start, end) if start <= day <= end]
        first = _first_day(start, end)
        offsets = np.array([(day - EPOCH).days - first for day in sessions], dtype=np.intp)
        paths = _paths(self._seed, mic, first, _days_until(end))
        found: list[Bar] = []
        for symbol in symbols:
            number = paths.symbols.get(symbol)
            if number is None:
                continue
            values = paths.bars[number, offsets]
            traded = ~np.isnan(values[:, 3])
            rows: list[list[float]] = values.tolist()
            found += [
                Bar(mic, symbol, day, *row)
                for day, row, here in zip(sessions, rows, traded, strict=True)
                if here
            ]
        return found

    def splits(self, mic: str, symbols: Sequence[str], start: date, end: date) -> Sequence[Split]:
        found = []
        for company in _companies(mic):
            if company.instrument.symbol not in symbols:
                continue
            for day, ratio in company.splits:
                if start <= day <= end:
                    sessions = self._session_dates(mic, day, end)
                    if sessions:
                        found.append(Split(mic, company.instrument.symbol, sessions[0], ratio))
        return found


class SyntheticFactors:
    """A factor feed that makes its returns up; the synthetic prices load on these factors."""

    name = FACTOR_NAME

    def __init__(
        self,
        *,
        seed: int = DEFAULT_SEED,
        members: Members = members,
        session_dates: SessionDates = session_dates,
    ) -> None:
        """Make a feed; with the seed of `SyntheticPrices` the two belong together."""
        self._seed = seed
        self._members = members
        self._session_dates = session_dates

    def returns(self, market_id: str, start: date, end: date) -> Sequence[FactorReturn]:
        _check_start(end)
        # The first session's return needs the session before it, at most two weeks earlier.
        earlier = max(start - timedelta(days=15), EPOCH)
        try:
            sessions = self._session_dates(market_id, earlier, end)
        except HorizonError:
            sessions = self._session_dates(market_id, start, end)
        if len(sessions) < 2:
            return []
        first = _first_day(earlier, end)
        offsets = np.array([(day - EPOCH).days - first for day in sessions], dtype=np.intp)
        parts = [
            _factors(self._seed, mic, first, _days_until(end)) for mic in self._members(market_id)
        ]
        found: list[FactorReturn] = []
        for factor in (MARKET_FACTOR, *STYLE_FACTORS):
            path = np.mean([part[factor] for part in parts], axis=0)
            moves: list[float] = np.expm1(np.diff(path[offsets])).tolist()
            found += [
                FactorReturn(factor, day, move, day, FACTOR_NAME, True)
                for day, move in zip(sessions[1:], moves, strict=True)
                if start <= day <= end
            ]
        return found
