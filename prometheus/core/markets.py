"""Markets: one or more exchanges under one name."""

from __future__ import annotations

from dataclasses import dataclass, field

from prometheus.core.exchanges import exchange_mics
from prometheus.core.states import MarketStateConfig
from prometheus.errors import UnknownMarketError


@dataclass(frozen=True, slots=True)
class Market:
    """
    A market: its name, the exchanges whose states it unites, and its buffers.

    A value, so that a market of the user's own can be passed wherever a name can.

    Raises:
        ValueError: there are no members, or one is named twice.
    """

    market_id: str
    """The name in job ids, queues and rows, such as ``US_EQ``; of a lone exchange its MIC."""
    members: tuple[str, ...]
    """MICs; their order is that of the answers."""
    config: MarketStateConfig = field(default_factory=MarketStateConfig)
    """Buffers of all members, unless a caller gives others."""

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError(f"market {self.market_id} has no members")
        if len(set(self.members)) != len(self.members):
            raise ValueError(f"market {self.market_id} names a member twice: {self.members}")


_BUILT_IN = {
    market.market_id: market
    for market in (
        Market("US_EQ", ("XNYS", "XNAS")),
        Market("EU_EQ", ("XPAR", "XLON")),
        Market("ASIA_EQ", ("XTKS", "XHKG")),
    )
}


def markets() -> tuple[Market, ...]:
    """The markets that come with the product: US_EQ, EU_EQ, ASIA_EQ."""
    return tuple(_BUILT_IN.values())


def get_market(name: str | Market) -> Market:
    """
    Find a market by its name, or make one of a single exchange by its MIC.

    Args:
        name: ``"US_EQ"``, ``"XNYS"``, or a `Market`, which is returned as it is.

    Raises:
        UnknownMarketError: neither a market nor an exchange has this name; the message names the
            nearest.
    """
    if isinstance(name, Market):
        return name
    market = _BUILT_IN.get(name)
    if market is not None:
        return market
    if name in exchange_mics():
        return Market(name, (name,))
    raise UnknownMarketError(name, (*_BUILT_IN, *exchange_mics()))
