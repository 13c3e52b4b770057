"""Which source serves which market: plain names, checked when the settings are read."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus.sources.eodhd.naming import EodhdFeed
from prometheus.sources.errors import SourceConfigurationError, UnknownSourceError
from prometheus.sources.sessions import Members, members

BUNDLED = "bundled"
SYNTHETIC = "synthetic"
EODHD = "eodhd"

SOURCE_NAMES = (BUNDLED, SYNTHETIC, EODHD)
DEFAULT_SOURCES: Mapping[str, str] = {"US_EQ": BUNDLED, "EU_EQ": SYNTHETIC, "ASIA_EQ": SYNTHETIC}
BUNDLED_EXCHANGES = frozenset({"XNYS", "XNAS"})


def choose_sources(
    assignments: Mapping[str, str], members: Members = members, eodhd: EodhdFeed | None = None
) -> dict[str, str]:
    """
    Return the source of each market that is named, over `DEFAULT_SOURCES`.

    Raises:
        UnknownSourceError: A name that is none of `SOURCE_NAMES`.
        SourceConfigurationError: ``"bundled"`` for a market whose exchanges it has no prices of, or
            ``"eodhd"`` where what is configured of it does not serve a market.
    """
    chosen = {**DEFAULT_SOURCES, **assignments}
    for market_id, name in chosen.items():
        if name not in SOURCE_NAMES:
            raise UnknownSourceError(market_id, name, SOURCE_NAMES)
        if name == EODHD:
            (eodhd or EodhdFeed()).check(market_id, members)
        if name == BUNDLED and BUNDLED_EXCHANGES.isdisjoint(members(market_id)):
            raise SourceConfigurationError(
                f"{market_id}: the source 'bundled' has prices of "
                f"{', '.join(sorted(BUNDLED_EXCHANGES))} only, and none of these is in the market. "
                f"Choose 'synthetic'."
            )
    return chosen
