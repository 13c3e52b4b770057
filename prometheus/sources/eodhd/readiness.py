"""Whether eodhd.com has a session's prices yet; a look costs 3 to about 220 calls an exchange."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from datetime import date
from statistics import median
from typing import Any

from prometheus.sources.eodhd.client import EodhdClient
from prometheus.sources.eodhd.errors import AccessRefusedError, EodhdError, NotFoundError
from prometheus.sources.eodhd.naming import READINESS, Listing
from prometheus.sources.sessions import Members, SessionDates, session_dates

BELLWETHERS = 3
"""Symbols of an exchange whose newest date is asked for: the first that are configured."""
USUAL_SHARE = 0.9
"""Of an exchange's tickers that are updated, until enough sessions have told what is usual."""
ENOUGH = 5
"""Sessions from which what is usual is learnt."""
NEARLY = 0.95
"""Of what is usual."""


class EodhdReadiness:
    """
    Looks at a session's prices, cheapest first, and stops at the first thing that is missing.

    The newest date of three symbols (a call each); how many of the exchange's tickers have been
    updated, against the sessions before (5 calls); how many rows the bulk file has, likewise, and
    whether two looks in a row have found the same (100 calls). Of a session that a later one has
    followed, nothing is counted, nor waited for to change: counts are of the newest.

    That the feed does not answer is no failure of the sensor, but one more reason to wait.
    """

    def __init__(
        self,
        client: EodhdClient,
        listings: Sequence[Listing],
        *,
        members: Members,
        depth: str,
        session_dates: SessionDates = session_dates,
    ) -> None:
        """
        Make it.

        Args:
            client: Asks the questions.
            listings: Symbols, of all markets.
            members: Market to its exchanges.
            depth: The last of these things to look at, one of `READINESS`.
            session_dates: Sessions of an exchange.
        """
        self._client = client
        self._listings = tuple(listings)
        self._members = members
        self._looks = READINESS[: READINESS.index(depth) + 1]
        self._session_dates = session_dates

    def __call__(
        self,
        market_id: str,
        on: date,
        *,
        last: Mapping[str, Any] | None,
        earlier: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any]:
        if self._client.is_resting:
            return {"ready": False, "why": "the feed's daily maintenance is until 06:00 GMT"}
        try:
            return asyncio.run(self._look(market_id, on, last or {}, earlier))
        except EodhdError as error:
            if not error.retryable:
                raise
            return {"ready": False, "why": str(error)}

    async def _look(
        self,
        market_id: str,
        on: date,
        last: Mapping[str, Any],
        earlier: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any]:
        found: dict[str, Any] = {"ready": True}
        async with self._client:
            codes: dict[str, list[Listing]] = {}
            for mic in self._members(market_id):
                here = [each for each in self._listings if each.mic == mic]
                if here and self._session_dates(mic, on, on):
                    codes.setdefault(here[0].code, []).extend(here)
            for code, listings in codes.items():
                newest = await self._newest(code, listings)
                if why := _missing(newest, on):
                    return {**found, "ready": False, "why": why}
                settled = any(day > on for day in newest.values())
                if "tickers" in self._looks and not settled:
                    share = await self._share(code)
                    found[f"share:{code}"] = share
                    if why := _too_few(f"share:{code}", share, earlier, USUAL_SHARE):
                        return {**found, "ready": False, "why": why}
                if "bulk" in self._looks:
                    rows, digest = await self._bulk(code, on)
                    found |= {f"rows:{code}": rows, f"digest:{code}": digest}
                    if why := _too_few(f"rows:{code}", rows, earlier, 1):
                        return {**found, "ready": False, "why": why}
                    same = settled or last.get(f"digest:{code}") == digest
                    if rows is not None and not same:
                        why = f"the bulk file of {code} is not yet known to stay as it is"
                        return {**found, "ready": False, "why": why}
        return found

    async def _newest(self, code: str, listings: Sequence[Listing]) -> dict[str, date]:
        """Return the date of the newest bar of some symbols that the feed knows."""
        newest = {}
        for listing in listings[:BELLWETHERS]:
            try:
                found = await self._client.last_date(listing.symbol, code)
            except NotFoundError:
                continue  # whatever it is, it is not late
            newest[f"{listing.symbol}.{code}"] = found
        return newest

    async def _share(self, code: str) -> float | None:
        try:
            details = await self._client.exchange_details(code)
        except (AccessRefusedError, NotFoundError):
            return None  # another plan has it
        if not details.active_tickers or details.updated_tickers is None:
            return None
        return round(details.updated_tickers / details.active_tickers, 4)

    async def _bulk(self, code: str, on: date) -> tuple[int | None, str]:
        try:
            rows = await self._client.bulk_bars(code, on)
        except (AccessRefusedError, NotFoundError):
            return None, ""
        text = "\n".join(sorted(map(repr, rows)))
        return len(rows), hashlib.sha256(text.encode()).hexdigest()[:16]


def _missing(newest: Mapping[str, date], on: date) -> str | None:
    """Say which symbols have no bar of a session yet."""
    missing = [f"{name} ({day.isoformat()})" for name, day in newest.items() if day < on]
    return f"of {', '.join(missing)} there is no newer bar" if missing else None


def _too_few(
    name: str, value: float | None, earlier: Sequence[Mapping[str, Any]], usual: float
) -> str | None:
    """Say that a figure is below what is usual; ``None`` if it is not, or is not known."""
    if value is None:
        return None
    known = [found[name] for found in earlier if isinstance(found.get(name), (int, float))]
    wanted = NEARLY * median(known) if len(known) >= ENOUGH else usual
    return None if value >= wanted else f"{name} is {value:g}, and at least {wanted:.4g} is usual"
