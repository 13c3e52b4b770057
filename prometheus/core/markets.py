"""Markets: one or more exchanges, or hours of their own, under one name."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files

from prometheus.core.declarations import Declaration, read_declarations
from prometheus.core.exchanges import exchange_mics, use_own_hours
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
    """MICs; their order is that of the answers. Of a market with hours of its own, its name."""
    config: MarketStateConfig = field(default_factory=MarketStateConfig)
    """Buffers of all members, unless a caller gives others."""
    version: str = ""
    """What tells this declaration in TOML from another one of the same name."""
    faults: tuple[str, ...] = ()
    """What is wrong with its declaration: then it is held, and has no calendar."""

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError(f"market {self.market_id} has no members")
        if len(set(self.members)) != len(self.members):
            raise ValueError(f"market {self.market_id} names a member twice: {self.members}")


def _shipped() -> dict[str, Declaration]:
    text = (files("prometheus.core") / "data" / "markets.toml").read_text(encoding="utf-8")
    declarations, faults = read_declarations(
        tomllib.loads(text)["markets"], where=str, grounds="by its hours, as shipped", shipped={}
    )
    if faults:
        raise ValueError(f"markets.toml as shipped: {faults}")
    return {each.market_id: each for each in declarations}


_SHIPPED = _shipped()
_declared: tuple[Declaration, ...] = ()
_known: dict[str, Market] = {}


def shipped_markets() -> Mapping[str, Declaration]:
    """Name -> what is shipped under it, in order."""
    return _SHIPPED


def declare(declarations: tuple[Declaration, ...]) -> tuple[Declaration, ...]:
    """
    Let this process know these markets besides the shipped ones, and none declared before.

    Of a shipped market or a single exchange, a declaration replaces the buffers. A market whose
    declaration has faults is known, and held.

    Returns:
        Those declared before.
    """
    global _declared, _known
    if declarations == _declared and _known:
        return _declared
    markets_now = {name: _market(each) for name, each in _SHIPPED.items()}
    own_hours = {name: each.own_hours for name, each in _SHIPPED.items()}
    for each in declarations:
        name = each.market_id
        if each.members:
            markets_now[name] = _market(each, each.version)
            own_hours[name] = each.own_hours
        else:
            usual = markets_now.get(name) or Market(name, (name,))
            version = f"{usual.version}.{each.version}".strip(".")
            markets_now[name] = replace(usual, config=each.config, version=version)
        markets_now[name] = replace(markets_now[name], faults=each.faults)
    before, _declared, _known = _declared, declarations, markets_now
    use_own_hours(
        {name: partial(own.exchange, name) for name, own in own_hours.items() if own is not None}
    )
    return before


def _market(declaration: Declaration, version: str = "") -> Market:
    # What is shipped of members alone is told by the version of the snapshot.
    version = declaration.version if declaration.own_hours is not None else version
    return Market(declaration.market_id, declaration.members, declaration.config, version)


declare(())


def markets() -> tuple[Market, ...]:
    """All markets that are known by name: the shipped ones, then those that were declared."""
    return tuple(_known.values())


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
    market = _known.get(name)
    if market is not None:
        return market
    if name in exchange_mics():
        return Market(name, (name,))
    raise UnknownMarketError(name, (*_known, *exchange_mics()))
