"""Choosing the feed of each market from plain configuration values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import partial

from prometheus.sources import bundled
from prometheus.sources.choice import (
    BUNDLED,
    BUNDLED_EXCHANGES,
    EODHD,
    SYNTHETIC,
    choose_sources,
)
from prometheus.sources.eodhd.naming import EodhdFeed
from prometheus.sources.protocol import (
    Bar,
    FactorReturn,
    FactorSource,
    Instrument,
    PriceSource,
    ReadinessCheck,
    SourceLabel,
    Split,
)
from prometheus.sources.sessions import Members, SessionDates, members, session_dates
from prometheus.sources.synthetic import (
    DEFAULT_SEED,
    MARKET_FACTOR,
    SyntheticFactors,
    SyntheticPrices,
)


def build_sources(
    assignments: Mapping[str, str] | None = None,
    *,
    seed: int = DEFAULT_SEED,
    eodhd: EodhdFeed | None = None,
    members: Members = members,
    session_dates: SessionDates = session_dates,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> ConfiguredSources:
    """
    Make the feeds of all markets.

    Args:
        assignments: Market to ``"bundled"``, ``"synthetic"`` or ``"eodhd"``, over the defaults of
            `choose_sources`; a market named in neither is synthetic.
        seed: Of everything synthetic.
        eodhd: What is configured of that feed.
        members: Market to its exchanges.
        session_dates: Sessions of an exchange or a market.
        now: The wall clock, by which a feed has its hours and its quota.

    Raises:
        SourceConfigurationError: See `choose_sources`.
    """
    eodhd = eodhd or EodhdFeed()
    chosen = choose_sources(assignments or {}, members, eodhd)
    return ConfiguredSources(
        chosen, seed=seed, eodhd=eodhd, members=members, session_dates=session_dates, now=now
    )


class ConfiguredSources:
    """Feeds by market; see `build_sources`."""

    def __init__(
        self,
        assignments: Mapping[str, str],
        *,
        seed: int,
        eodhd: EodhdFeed,
        members: Members,
        session_dates: SessionDates,
        now: Callable[[], datetime],
    ) -> None:
        self._assignments = dict(assignments)
        self._remade = partial(
            build_sources,
            seed=seed,
            eodhd=eodhd,
            members=members,
            session_dates=session_dates,
            now=now,
        )
        self._members = members
        self._synthetic = SyntheticPrices(seed=seed, members=members, session_dates=session_dates)
        self._synthetic_factors = SyntheticFactors(
            seed=seed, members=members, session_dates=session_dates
        )
        if EODHD in self._assignments.values():
            # httpx, only where it is needed
            from prometheus.sources.eodhd.client import EodhdClient
            from prometheus.sources.eodhd.prices import EodhdFactors, EodhdPrices
            from prometheus.sources.eodhd.readiness import EodhdReadiness

            # One client, so that both feeds heed what one of them learns about limits.
            client = EodhdClient(
                eodhd.token,
                url=eodhd.url,
                requests_per_minute=eodhd.requests_per_minute,
                now=now,
            )
            self._eodhd = EodhdPrices(
                client, eodhd.listings, members=members, named_codes=eodhd.named_codes, now=now
            )
            self._eodhd_readiness = EodhdReadiness(
                client, eodhd.listings, members=members, depth=eodhd.readiness
            )
            self._eodhd_factors = EodhdFactors(
                client, eodhd.factor_symbols, session_dates=session_dates
            )

    def source_name(self, market_id: str) -> str:
        """Return the configured name of a market's feed."""
        return self._assignments.get(market_id, SYNTHETIC)

    def prices(self, market_id: str) -> PriceSource:
        if self.source_name(market_id) == BUNDLED:
            return BundledYears(self._bundled_mics(market_id), self._synthetic)
        if self.source_name(market_id) == EODHD:
            return self._eodhd
        return self._synthetic

    def factors(self, market_id: str) -> FactorSource:
        if self.source_name(market_id) == BUNDLED:
            return BundledYearsFactors(self._bundled_mics(market_id), self._synthetic_factors)
        if self.source_name(market_id) == EODHD:
            return self._eodhd_factors
        return self._synthetic_factors

    def readiness(self, market_id: str) -> ReadinessCheck | None:
        return self._eodhd_readiness if self.source_name(market_id) == EODHD else None

    def instead(self, market_id: str, name: str) -> ConfiguredSources:
        return self._remade({**self._assignments, market_id: name})

    def _bundled_mics(self, market_id: str) -> list[str]:
        return [mic for mic in self._members(market_id) if mic in BUNDLED_EXCHANGES]


class BundledYears:
    """
    The bundled prices for sessions of their years, synthetic ones for all others.

    A run is served wholly by one of the two, chosen by its session date, because the history of a
    run must not change from made-up to real prices half way. The symbols of the two differ.
    """

    name = f"{bundled.NAME}; synthetic in other years"
    is_synthetic = False

    def __init__(self, mics: Sequence[str], synthetic: SyntheticPrices) -> None:
        self._bundled = bundled.BundledPrices(mics)
        self._synthetic = synthetic

    def _serving(self, on: date) -> PriceSource:
        return self._bundled if bundled.covers(on) else self._synthetic

    def label(self, on: date) -> SourceLabel:
        return self._serving(on).label(on)

    def instruments(self, market_id: str, on: date) -> Sequence[Instrument]:
        return self._serving(on).instruments(market_id, on)

    def bars(self, mic: str, symbols: Sequence[str], start: date, end: date) -> Sequence[Bar]:
        # The run for session `end` asks, with the symbols that were listed for it.
        return self._serving(end).bars(mic, symbols, start, end)

    def splits(self, mic: str, symbols: Sequence[str], start: date, end: date) -> Sequence[Split]:
        return self._serving(end).splits(mic, symbols, start, end)


class BundledYearsFactors:
    """
    A real market factor in the bundled years; all other factors, and years, are synthetic.

    Every row says which of the two it is.
    """

    name = f"{bundled.MARKET_FACTOR_NAME}; synthetic styles"

    def __init__(self, mics: Sequence[str], synthetic: SyntheticFactors) -> None:
        self._mics = tuple(mics)
        self._synthetic = synthetic

    def returns(self, market_id: str, start: date, end: date) -> Sequence[FactorReturn]:
        made_up = self._synthetic.returns(market_id, start, end)
        if not bundled.covers(end):
            return made_up
        styles = [row for row in made_up if row.factor != MARKET_FACTOR]
        return [*bundled.market_returns(self._mics, start, end), *styles]
