"""What a feed says of holidays: asked for, held against calendars, and kept as proposals."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine

from prometheus.core.durations import format_duration
from prometheus.core.exchanges import exchange_mics
from prometheus.core.holidays import (
    Difference,
    Holiday,
    HolidayKind,
    HolidayState,
    find_differences,
)
from prometheus.core.markets import get_market
from prometheus.errors import PrometheusError
from prometheus.persistence.engine import writing
from prometheus.persistence.holidays import propose_holidays
from prometheus.settings import Settings
from prometheus.sources.eodhd.errors import SOURCE, UnreachableError
from prometheus.sources.eodhd.holidays import fetch_holidays
from prometheus.sources.errors import SourceConfigurationError

if TYPE_CHECKING:
    from prometheus.sources.eodhd.client import EodhdClient

Answers = Mapping[str, tuple[Holiday, ...] | PrometheusError]
"""MIC -> what was answered, or why nothing was."""


@dataclass(frozen=True, slots=True)
class Synced:
    """What came of asking about one exchange."""

    exchange: str
    listed: int
    """Days that the feed lists."""
    differences: tuple[tuple[Difference, HolidayState], ...]
    """By date: where it and the calendar in force do not agree, and what was decided."""
    error: PrometheusError | None = None
    """Why nothing was stored."""


def exchanges(names: Iterable[str]) -> list[str]:
    """
    Return the exchanges of markets, each once.

    What is none is left out: markets with hours of their own or that never close, whose names are
    nobody else's business.
    """
    mics = dict.fromkeys(mic for name in names for mic in get_market(name).members)
    return [mic for mic in mics if mic in exchange_mics() and mic.isupper()]


def make_client(settings: Settings) -> EodhdClient:
    """
    Make what asks the feed.

    Raises:
        SourceConfigurationError: There is no token.
    """
    from prometheus.sources.eodhd.client import EodhdClient  # httpx: only where a feed is asked

    feed = settings.eodhd.feed()
    if not feed.token.get_secret_value():
        raise SourceConfigurationError(
            "eodhd.com answers nobody without a token. Set PROMETHEUS__EODHD__TOKEN, or "
            "PROMETHEUS__EODHD__TOKEN_FILE to a file that has it."
        )
    return EodhdClient(feed.token, url=feed.url, requests_per_minute=feed.requests_per_minute)


def synchronize(
    engine: Engine, client: EodhdClient, mics: Sequence[str], year: int
) -> list[Synced]:
    """Ask for the holidays of exchanges and store them; the trouble of one is not another's."""
    synced = []
    for mic, answer in ask(client, mics, year).items():
        with writing(engine) as connection:
            synced.append(propose(connection, mic, answer, year))
    return synced


def ask(
    client: EodhdClient, mics: Sequence[str], year: int, within: timedelta | None = None
) -> Answers:
    """
    Ask for the holidays of exchanges.

    Args:
        within: How long all of it may take; what did not come by then is an error.
    """
    return asyncio.run(_ask(client, mics, year, within))


async def _ask(
    client: EodhdClient, mics: Sequence[str], year: int, within: timedelta | None
) -> Answers:
    answers: dict[str, tuple[Holiday, ...] | PrometheusError] = {}
    seconds = within.total_seconds() if within is not None else None
    try:
        async with asyncio.timeout(seconds), client:
            for mic in mics:
                try:
                    answers[mic] = await fetch_holidays(client, mic, year)
                except PrometheusError as error:
                    answers[mic] = error
    except TimeoutError:
        late = f"it was not answered within {format_duration(within or timedelta())}"
        for mic in mics:
            answers.setdefault(mic, UnreachableError(f"holidays of {mic}", late))
    return answers


def propose(
    connection: Connection, mic: str, answer: tuple[Holiday, ...] | PrometheusError, year: int
) -> Synced:
    """Hold an answer against the calendar in force, and store what it says."""
    first, last = date(year, 1, 1), date(year, 12, 31)
    try:
        if isinstance(answer, PrometheusError):
            raise answer
        differences = find_differences(mic, answer, first, last)
    except PrometheusError as error:
        return Synced(mic, 0, (), error)
    listed = {each.day for each in answer}
    unlisted = [
        Holiday(each.day, each.name, HolidayKind.OPEN)
        for each in differences
        if each.day not in listed
    ]
    stored = propose_holidays(connection, mic, SOURCE, first, last, [*answer, *unlisted])
    states = {each.holiday.day: each.state for each in stored}
    return Synced(mic, len(answer), tuple((each, states[each.day]) for each in differences))
