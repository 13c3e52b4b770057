"""
What a price or factor feed is to the rest of Prometheus.

A feed answers questions about dates and never reads a clock. It may be asked for any range, and
the same question has the same answer until the feed itself revises its data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple, Protocol

from prometheus.sources.errors import UnknownSourceError


class Bar(NamedTuple):
    """
    One session of one instrument.

    A feed delivers what it has, faults included: the job that stores bars examines them.
    """

    mic: str
    symbol: str
    session_date: date
    open: float
    """As traded, like high, low and close: adjusted for nothing."""
    high: float
    low: float
    close: float
    volume: float
    """Shares as traded; a feed that delivers split-adjusted volume must undo that."""
    adjusted_close: float
    """Close adjusted for splits and dividends; only ratios between dates mean anything."""


class Split(NamedTuple):
    """A split: `ratio` new shares for one old, first traded on `session_date`."""

    mic: str
    symbol: str
    session_date: date
    ratio: float


class FactorReturn(NamedTuple):
    """The simple return of one factor over one market session."""

    factor: str
    session_date: date
    value: float
    available_on: date
    """First session on which it may be used: later than `session_date` if published with a lag."""
    source: str
    is_synthetic: bool


@dataclass(frozen=True, slots=True)
class Instrument:
    """A share of one company on one exchange."""

    mic: str
    symbol: str
    """Unique on its exchange."""
    name: str
    sector: str | None
    """``None`` where it is not known; such instruments count as one sector of their own."""
    currency: str
    """ISO 4217; prices are in its main unit (pounds, not pence)."""


@dataclass(frozen=True, slots=True)
class SourceLabel:
    """Where rows come from, in words for people; stored with every row."""

    name: str
    is_synthetic: bool


class PriceSource(Protocol):
    """Daily bars of the instruments of a market."""

    @property
    def name(self) -> str:
        """The feed in words for people, starting with its configured name: ``"bundled: …"``."""
        ...

    @property
    def is_synthetic(self) -> bool:
        """True when nothing it delivers is real."""
        ...

    def label(self, on: date) -> SourceLabel:
        """Say what a run for this session is served with."""
        ...

    def instruments(self, market_id: str, on: date) -> Sequence[Instrument]:
        """
        List the instruments to ask for in a run for session `on`, by exchange and symbol.

        Raises:
            SourceError: The feed does not answer.
        """
        ...

    def bars(self, mic: str, symbols: Sequence[str], start: date, end: date) -> Sequence[Bar]:
        """
        Return the bars of one exchange from `start` to `end`, both included, never a later one.

        Returns:
            Bars in any order; none for a session on which an instrument did not trade, and none
            for symbols the feed does not know.

        Raises:
            SourceError: The feed does not answer, or what it says can not be read.
        """
        ...

    def splits(self, mic: str, symbols: Sequence[str], start: date, end: date) -> Sequence[Split]:
        """Return the splits the feed knows of, `start` and `end` included; maybe none."""
        ...


class FactorSource(Protocol):
    """Daily returns of the factors of a market; ``MKT``, the market itself, is always one."""

    @property
    def name(self) -> str:
        """The feed in words for people."""
        ...

    def returns(self, market_id: str, start: date, end: date) -> Sequence[FactorReturn]:
        """
        Return factor returns of the market's sessions from `start` to `end`, both included.

        Returns:
            At most one row a factor and session, by factor, then date; a missing one is left out,
            never carried forward from the day before.

        Raises:
            SourceError: The feed does not answer.
        """
        ...


class ReadinessCheck(Protocol):
    """Whether a feed has the prices of a session."""

    def __call__(
        self,
        market_id: str,
        on: date,
        *,
        last: Mapping[str, Any] | None,
        earlier: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any]:
        """
        Look, cheapest first.

        Args:
            on: The session.
            last: What the look before this one returned.
            earlier: What the last looks of earlier sessions returned, the latest first.

        Returns:
            JSON values: ``ready``, ``why`` it is not, and what was found. Not ready, too, where the
            feed does not answer.

        Raises:
            PrometheusError: The feed refuses to answer, and asking again does not help.
        """
        ...


class Sources(Protocol):
    """The feeds that were configured, by market."""

    def prices(self, market_id: str) -> PriceSource:
        """
        Return the market's price feed.

        Raises:
            SourceConfigurationError: None can serve this market.
        """
        ...

    def factors(self, market_id: str) -> FactorSource:
        """Return the market's factor feed; raises like `prices`."""
        ...

    def readiness(
        self,
        market_id: str,  # noqa: ARG002  a feed that waits for something has its own
    ) -> ReadinessCheck | None:
        """Return what knows whether a session's prices are there; ``None`` if they always are."""
        return None

    def instead(self, market_id: str, name: str) -> Sources:
        """
        Return the same feeds, but another one for a market.

        Raises:
            SourceConfigurationError: No source has this name, or it can not serve this market.
        """
        raise UnknownSourceError(market_id, name, ())
