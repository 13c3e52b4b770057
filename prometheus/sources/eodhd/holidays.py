"""What eodhd.com says of an exchange's holidays, refused whole where it can not be true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from prometheus.core.exchanges import Exchange, load_exchange
from prometheus.core.holidays import Holiday, HolidayKind
from prometheus.sources.eodhd.errors import EodhdError
from prometheus.sources.eodhd.replies import ExchangeDetails

if TYPE_CHECKING:
    from prometheus.sources.eodhd.client import EodhdClient

CODES: Mapping[str, str] = {"XNYS": "US", "XNAS": "US", "XLON": "LSE", "XMAD": "BMEX"}
"""
MIC to its code in the second version of the feed, which for all other exchanges is the MIC itself.

It is not the code in prices. Taken from the feed's own list of exchanges on 2026-11-23.
"""

_MOST_CLOSED = 60
"""Days of a year; Athens had 38 in 2015, when its banks were shut."""


class ImplausibleHolidaysError(EodhdError):
    """
    A reply that could be read can not be true; nothing of it was used.

    Attributes:
        faults: All that is wrong with it.
    """

    def __init__(self, question: str, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__(question, f"{'; '.join(faults)}. Nothing of it was used.")


async def fetch_holidays(client: EodhdClient, mic: str, year: int) -> tuple[Holiday, ...]:
    """
    Ask which days of a year an exchange does not trade as usual.

    Args:
        client: Inside ``async with``.
        mic: One of the calendar's exchanges.
        year: The present one: the feed's second version tells of no other.

    Returns:
        By date, at most one a date.

    Raises:
        EodhdError: There was no answer, or it can not be read or be true.
    """
    code = CODES.get(mic, mic)
    details = await client.exchange_details_2(code)
    faults = _faults(load_exchange(mic), code, details, year)
    if faults:
        raise ImplausibleHolidaysError(f"v2/exchange-details/{code}", faults)
    return details.holidays


def _faults(exchange: Exchange, code: str, details: ExchangeDetails, year: int) -> list[str]:
    faults = []
    if details.code.upper() != code:
        faults.append(f"{code} was asked for, and the holidays of another exchange came")
    if not _same_clocks(details.zone, exchange.zone, year):
        faults.append(
            f"its time zone is {details.zone.key}, that of {exchange.mic} is {exchange.zone.key}"
        )
    if not any(each.day.year == year for each in details.holidays):
        faults.append(f"it lists no holiday of {year}")
    faults += [f"{each.day} is not in {year}" for each in details.holidays if each.day.year != year]
    closed = sum(each.kind is HolidayKind.CLOSED for each in details.holidays)
    if closed > _MOST_CLOSED:
        faults.append(f"it lists {closed} closed days in a year, which no exchange has")
    for each in details.holidays:
        if each.close is not None and not _inside(exchange, each.day, each.close):
            faults.append(
                f"an early close at {each.close:%H:%M} on {each.day} is not within the usual hours"
            )
    return faults


def _same_clocks(left: ZoneInfo, right: ZoneInfo, year: int) -> bool:
    """Say whether two zones, perhaps of different names, show the same time all year."""
    first = datetime(year, 1, 1, tzinfo=UTC)
    return all(
        at.astimezone(left).utcoffset() == at.astimezone(right).utcoffset()
        for at in (first + timedelta(days=days) for days in range(0, 365, 7))
    )


def _inside(exchange: Exchange, day: date, close: time) -> bool:
    opens, closes = exchange.ordinary_bounds(day)
    return opens < datetime.combine(day, close, exchange.zone) < closes
