"""What is asked of eodhd.com for which exchange and market: texts of the settings, checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydantic import SecretStr

from prometheus.core.markets import get_market
from prometheus.errors import UnknownMarketError, nearest
from prometheus.sources.errors import SourceConfigurationError
from prometheus.sources.sessions import Members

BASE_URL = "https://eodhd.com/api"
REQUESTS_PER_MINUTE = 1000
"""What the vendor allows a token."""
MARKET_FACTOR = "MKT"

DEFAULT_FACTORS = (
    "US_EQ:MKT=VTI.US",
    "US_EQ:MOM=MTUM.US",
    "US_EQ:QUAL=QUAL.US",
    "US_EQ:SIZE=SIZE.US",
    "US_EQ:MINVOL=USMV.US",
    "US_EQ:VALUE=VLUE.US",
)
"""Funds whose total return stands for a factor: of the whole market, and of five styles."""

EXCHANGES: Mapping[str, tuple[str, str]] = {
    "XNYS": ("US", "USD"),
    "XNAS": ("US", "USD"),
    "XLON": ("LSE", "GBX"),
    "XPAR": ("PA", "EUR"),
    "XETR": ("XETRA", "EUR"),
    "XAMS": ("AS", "EUR"),
    "XBRU": ("BR", "EUR"),
    "XLIS": ("LS", "EUR"),
    "XMAD": ("MC", "EUR"),
    "XSWX": ("SW", "CHF"),
    "XTSE": ("TO", "CAD"),
    "XSHG": ("SHG", "CNY"),
    "XSHE": ("SHE", "CNY"),
    "XKRX": ("KO", "KRW"),
    "XASX": ("AU", "AUD"),
    "XTKS": ("TSE", "JPY"),
    "XHKG": ("HK", "HKD"),
}
"""
MIC to its code in prices, and the currency of most of its shares.

In the feed's own list of symbols the currency of some shares in London is wrong (pounds for pence),
so it is not asked. Tokyo and Hong Kong were not in the feed's list of exchanges on 2026-11-23.
"""

MINOR_UNITS: Mapping[str, tuple[str, float]] = {
    "GBX": ("GBP", 100.0),
    "ZAC": ("ZAR", 100.0),
    "ILA": ("ILS", 100.0),
}
"""Currencies in hundredths: pence, cents, agorot."""

_SYMBOL = re.compile(r"([A-Z0-9]{4}):([A-Za-z0-9][A-Za-z0-9._&-]*)(?::([A-Z]{3}))?")
_CODE = re.compile(r"([A-Z0-9]{4})=([A-Za-z0-9]+)")
_FACTOR = re.compile(r"(\w+):([A-Z][A-Z0-9_]*)=([A-Za-z0-9][A-Za-z0-9._&-]*)\.([A-Za-z0-9]+)")


READINESS = ("last_date", "tickers", "bulk")
"""How far it is looked whether a session's prices are there, each with all before it."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A share as the feed knows it."""

    mic: str
    symbol: str
    code: str
    """The exchange in the feed: ``US``."""
    currency: str
    """ISO 4217."""
    unit: float
    """What the feed's prices are divided by: 100 where it quotes pence."""


@dataclass(frozen=True, slots=True)
class FactorSymbol:
    """The fund or index whose return is a factor's."""

    market_id: str
    factor: str
    symbol: str
    code: str


@dataclass(frozen=True, slots=True)
class EodhdFeed:
    """Everything that is configured of the feed."""

    token: SecretStr = field(default_factory=lambda: SecretStr(""))
    url: str = BASE_URL
    requests_per_minute: int = REQUESTS_PER_MINUTE
    symbols: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    factors: tuple[str, ...] = DEFAULT_FACTORS
    readiness: str = READINESS[1]
    listings: tuple[Listing, ...] = field(init=False)
    named_codes: frozenset[str] = field(init=False)
    """Exchanges whose code was set by hand."""
    factor_symbols: tuple[FactorSymbol, ...] = field(init=False)

    def __post_init__(self) -> None:
        """
        Take the texts apart.

        Raises:
            SourceConfigurationError: With every fault in them.
        """
        faults: list[str] = []
        codes = {each[0]: each[1] for each in _parts(self.codes, _CODE, 1, "XTKS=TSE", faults)}
        listings = [
            _listing(mic, symbol, currency, codes, faults)
            for mic, symbol, currency in _parts(
                self.symbols, _SYMBOL, 2, "XNAS:AAPL or XLON:CPG:USD", faults
            )
        ]
        factors = _parts(self.factors, _FACTOR, 2, "US_EQ:MKT=VTI.US", faults)
        for market_id in dict.fromkeys(each[0] for each in factors):
            try:
                get_market(market_id)
            except UnknownMarketError as error:
                faults.append(str(error))
        if faults:
            raise SourceConfigurationError(" ".join(faults))
        object.__setattr__(self, "listings", tuple(each for each in listings if each is not None))
        object.__setattr__(self, "named_codes", frozenset(codes))
        object.__setattr__(self, "factor_symbols", tuple(FactorSymbol(*each) for each in factors))

    def check(self, market_id: str, members: Members) -> None:
        """
        Check that the feed can serve a market.

        Raises:
            SourceConfigurationError: There is no token, no symbol on any of its exchanges, or
                nothing that stands for the market itself.
        """
        faults = []
        if not self.token.get_secret_value():
            faults.append(
                "the source 'eodhd' needs a token: set PROMETHEUS__EODHD__TOKEN, or "
                "PROMETHEUS__EODHD__TOKEN_FILE to a file that has it."
            )
        mics = members(market_id)
        if not any(listing.mic in mics for listing in self.listings):
            faults.append(
                f"the source 'eodhd' needs symbols on {' or '.join(mics)}: set [eodhd] symbols, "
                f'such as ["{mics[0]}:ABC"].'
            )
        if not any(
            each.market_id == market_id and each.factor == MARKET_FACTOR
            for each in self.factor_symbols
        ):
            faults.append(
                f"the source 'eodhd' needs a fund or index that stands for the market: set [eodhd] "
                f'factors, such as ["{market_id}:{MARKET_FACTOR}=ABC.US"].'
            )
        if faults:
            raise SourceConfigurationError(f"{market_id}: {' '.join(faults)}")


def _parts(
    texts: Iterable[str], pattern: re.Pattern[str], key: int, example: str, faults: list[str]
) -> list[tuple[str, ...]]:
    """Take entries apart; the first `key` parts of one say what it is about, once."""
    found = []
    about: dict[tuple[str, ...], str] = {}
    for text in texts:
        match = pattern.fullmatch(text)
        if match is None:
            faults.append(f"{text!r} was given; {example} was wanted.")
            continue
        parts = match.groups(default="")
        found.append(parts)
        if parts[:key] in about:
            faults.append(f"{about[parts[:key]]!r} and {text!r} were given; one was wanted.")
        about[parts[:key]] = text
    return found


def _listing(
    mic: str, symbol: str, currency: str, codes: Mapping[str, str], faults: list[str]
) -> Listing | None:
    code, usual = EXCHANGES.get(mic, ("", ""))
    code = codes.get(mic, code)
    currency = currency or usual
    if not code:
        faults.append(
            f"{mic}:{symbol}: the code of {mic} at eodhd.com is not known; set [eodhd] codes, such "
            f"as {mic}=ABC.{nearest(mic, EXCHANGES)}"
        )
        return None
    if not currency:
        faults.append(
            f"{mic}:{symbol}: the currency of its prices is not known; write {mic}:{symbol}:USD."
        )
        return None
    return Listing(mic, symbol, code, *MINOR_UNITS.get(currency, (currency, 1.0)))
