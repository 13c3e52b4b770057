"""eodhd.com as a feed of prices and of factor returns."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any, TypeVar

from prometheus.errors import HorizonError
from prometheus.sources.bundled import LARGEST_MOVE
from prometheus.sources.eodhd.client import EodhdClient
from prometheus.sources.eodhd.errors import NoSuchExchangeError, NotFoundError
from prometheus.sources.eodhd.naming import FactorSymbol, Listing
from prometheus.sources.eodhd.replies import DailyBar, SplitRow
from prometheus.sources.protocol import Bar, FactorReturn, Instrument, SourceLabel, Split
from prometheus.sources.sessions import Members, SessionDates

logger = logging.getLogger(__name__)

NAME = "eodhd: daily prices of eodhd.com"

_LONGEST_GAP = timedelta(days=15)
"""Between two sessions of a market; the return of the first one asked for needs the one before."""

T = TypeVar("T")


class EodhdPrices:
    """
    The daily bars of the configured symbols: two calls a symbol, for its bars and its splits.

    Two things are undone, so that bars are as the protocol wants them: the volume's adjustment for
    splits, and prices in hundredths of a currency. A row without trading, which the feed fills with
    the last price, is left out.
    """

    name = NAME
    is_synthetic = False

    def __init__(
        self,
        client: EodhdClient,
        listings: Sequence[Listing],
        *,
        members: Members,
        named_codes: frozenset[str] = frozenset(),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """
        Make a feed.

        Args:
            client: Asks the questions.
            listings: Symbols, of all markets.
            members: Market to its exchanges.
            named_codes: Exchanges that are asked though the feed does not list them.
            now: The wall clock: a split that is still to come has changed no volume yet.
        """
        self._client = client
        self._listings = tuple(listings)
        self._members = members
        self._named_codes = named_codes
        self._now = now
        self._splits: dict[tuple[str, str], tuple[SplitRow, ...]] = {}

    def label(self, on: date) -> SourceLabel:  # noqa: ARG002  all sessions alike
        return SourceLabel(NAME, is_synthetic=False)

    def instruments(
        self,
        market_id: str,
        on: date,  # noqa: ARG002  the configured symbols, on every session
    ) -> Sequence[Instrument]:
        mics = self._members(market_id)
        wanted = sorted(
            (each for each in self._listings if each.mic in mics),
            key=lambda each: (each.mic, each.symbol),
        )
        codes = {each.mic: each.code for each in wanted if each.mic not in self._named_codes}
        served = asyncio.run(self._exchanges()) if codes else frozenset()
        missing = {mic: code for mic, code in codes.items() if code not in served}
        for mic, code in missing.items():
            logger.warning(
                "eodhd_no_such_exchange", extra={"market": market_id, "mic": mic, "code": code}
            )
        listed = [
            # The feed's names, sectors and currencies are of other calls and plans.
            Instrument(each.mic, each.symbol, each.symbol, None, each.currency)
            for each in wanted
            if each.mic not in missing
        ]
        if missing and not listed:
            raise NoSuchExchangeError(market_id, missing)
        return listed

    def bars(self, mic: str, symbols: Sequence[str], start: date, end: date) -> Sequence[Bar]:
        wanted = self._wanted(mic, symbols)
        answers = asyncio.run(self._bars(wanted, start, end))
        today = self._now().date()
        found: list[Bar] = []
        for listing, (rows, splits) in zip(wanted, answers, strict=True):
            self._splits[listing.mic, listing.symbol] = splits
            effective = [split for split in splits if split.day <= today]
            found += [
                _bar(listing, row, effective)
                for row in rows
                if start <= row.day <= end and not _is_filled(row)
            ]
        return found

    def splits(self, mic: str, symbols: Sequence[str], start: date, end: date) -> Sequence[Split]:
        # A job asks for bars first, with which the splits came.
        wanted = self._wanted(mic, symbols)
        unknown = [each for each in wanted if (each.mic, each.symbol) not in self._splits]
        if unknown:
            for listing, (_, splits) in zip(
                unknown, asyncio.run(self._bars(unknown, start, end)), strict=True
            ):
                self._splits[listing.mic, listing.symbol] = splits
        return [
            Split(mic, each.symbol, split.day, split.ratio)
            for each in wanted
            for split in self._splits[mic, each.symbol]
            if start <= split.day <= end
        ]

    def _wanted(self, mic: str, symbols: Sequence[str]) -> list[Listing]:
        return [each for each in self._listings if each.mic == mic and each.symbol in symbols]

    async def _exchanges(self) -> frozenset[str]:
        async with self._client as client:
            return await client.exchanges()

    async def _bars(
        self, listings: Sequence[Listing], start: date, end: date
    ) -> list[tuple[tuple[DailyBar, ...], tuple[SplitRow, ...]]]:
        """Fetch the bars and splits of some symbols: of all, or it raises."""
        async with self._client:
            answers = await _together(self._of_symbol(each, start, end) for each in listings)
        if listings and all(answer is None for answer in answers):
            raise NotFoundError(
                f"eod/{listings[0].symbol}.{listings[0].code}"
                + (f" and {len(listings) - 1} more" if len(listings) > 1 else "")
            )
        return [answer or ((), ()) for answer in answers]

    async def _of_symbol(
        self, listing: Listing, start: date, end: date
    ) -> tuple[tuple[DailyBar, ...], tuple[SplitRow, ...]] | None:
        symbol, code = listing.symbol, listing.code
        try:
            rows = await self._client.bars(symbol, code, start, end)
            return rows, await self._client.splits(symbol, code)
        except NotFoundError:
            logger.warning("eodhd_symbol_unknown", extra={"mic": listing.mic, "symbol": symbol})
            return None


class EodhdFactors:
    """The total return of a fund or an index for each factor: one call each."""

    name = "eodhd: daily returns of funds and indices of eodhd.com"

    def __init__(
        self,
        client: EodhdClient,
        symbols: Sequence[FactorSymbol],
        *,
        session_dates: SessionDates,
    ) -> None:
        """
        Make a feed.

        Args:
            client: Asks the questions.
            symbols: What stands for each factor, of all markets.
            session_dates: Sessions of a market.
        """
        self._client = client
        self._symbols = tuple(symbols)
        self._session_dates = session_dates

    def returns(self, market_id: str, start: date, end: date) -> Sequence[FactorReturn]:
        try:
            sessions = self._session_dates(market_id, start - _LONGEST_GAP, end)
        except HorizonError:
            sessions = self._session_dates(market_id, start, end)
        if len(sessions) < 2:
            return []
        wanted = sorted(
            (each for each in self._symbols if each.market_id == market_id),
            key=lambda each: each.factor,
        )
        answers = asyncio.run(self._bars(wanted, sessions[0], end))
        found: list[FactorReturn] = []
        for each, rows in zip(wanted, answers, strict=True):
            source = f"eodhd: {each.symbol}.{each.code}"
            moves = _moves({row.day: row.adjusted_close for row in rows}, sessions, source)
            found += [
                FactorReturn(each.factor, day, move, day, source, False)
                for day, move in moves.items()
                if start <= day <= end
            ]
        return found

    async def _bars(
        self, wanted: Sequence[FactorSymbol], start: date, end: date
    ) -> list[tuple[DailyBar, ...]]:
        async with self._client as client:
            return await _together(
                client.bars(each.symbol, each.code, start, end) for each in wanted
            )


def _moves(
    closes: Mapping[date, float], sessions: Sequence[date], source: str
) -> dict[date, float]:
    """Return simple returns between neighbouring sessions that both have a price."""
    moves = {}
    for before, day in pairwise(sessions):
        old, new = closes.get(before, 0.0), closes.get(day, 0.0)
        if not (0.0 < old < math.inf and 0.0 < new < math.inf):
            continue
        if abs(math.log(new) - math.log(old)) > LARGEST_MOVE:
            # No whole market moves like this; one wrong price would bend every regression.
            logger.warning(
                "factor_left_out", extra={"source": source, "session_date": day.isoformat()}
            )
            continue
        moves[day] = new / old - 1.0
    return moves


def _is_filled(row: DailyBar) -> bool:
    """Say whether a row stands for a day without trading."""
    return row.volume == 0.0 and row.open == row.high == row.low == row.close


def _bar(listing: Listing, row: DailyBar, splits: Iterable[SplitRow]) -> Bar:
    later = math.prod(split.ratio for split in splits if split.day > row.day)
    volume = row.volume
    if later != 1.0:
        # Whole shares again, so that the same day has the same volume before and after a split.
        shares = volume / later if later else math.nan
        volume = float(round(shares)) if math.isfinite(shares) else math.nan
    unit = listing.unit
    return Bar(
        listing.mic,
        listing.symbol,
        row.day,
        row.open / unit,
        row.high / unit,
        row.low / unit,
        row.close / unit,
        volume,
        row.adjusted_close / unit,
    )


async def _together(questions: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Ask several questions at once; when one fails, the others are given up."""
    tasks = [asyncio.ensure_future(question) for question in questions]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
