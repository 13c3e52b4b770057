"""The job ``run_universes``: which instruments the market's book may hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Any

import numpy as np
from sqlalchemy import Connection, func, select

from prometheus.dispatch.context import JobContext
from prometheus.pipelines.equities.panel import Panel, load_panels, optional
from prometheus.pipelines.equities.parameters import number
from prometheus.pipelines.equities.profiles import carried, mean_of, trade_ages
from prometheus.pipelines.equities.storage import replace_rows
from prometheus.pipelines.equities.tables import eq_universes

UNITS_PER_DOLLAR: Mapping[str, float] = {
    "USD": 1.0,
    "EUR": 0.9,
    "GBP": 0.8,
    "JPY": 140.0,
    "HKD": 7.8,
}
"""Round figures for floors and ranks across currencies, not rates to value anything with."""

UNKNOWN_SECTOR = "(unknown)"
"""Instruments without a sector share one: nobody can say that they do not."""

Key = tuple[str, str]
"""MIC and symbol."""


class Reason(StrEnum):
    """Why an instrument is in the universe, or out of it."""

    ENTERED = "entered"
    KEPT = "kept"
    """It was in the last universe and ranks within the buffer."""
    NO_BARS = "no_bars"
    SHORT_HISTORY = "short_history"
    """Fewer than 252 bars."""
    NOT_TRADED = "not_traded"
    """No bar in the last five sessions of its exchange."""
    MISSING_SESSIONS = "missing_sessions"
    """More than 5 % of the last 252 sessions have no bar."""
    LOW_PRICE = "low_price"
    ILLIQUID = "illiquid"
    RANK = "rank"
    """Others are traded more."""
    SECTOR_CAP = "sector_cap"
    """Its sector has its share of seats already."""


@dataclass(frozen=True)
class UniverseRules:
    """What it takes to be in the universe."""

    size: int = 10
    buffer: float = 1.2
    """A member stays until it ranks below `size` times this."""
    sector_share: float = 0.3
    lowest_price: float = 5.0
    """In dollars."""
    lowest_adv: float = 1e6
    """Mean traded value of 60 sessions, in dollars."""
    least_bars: int = 252
    within_sessions: int = 5
    most_missing: float = 0.05

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> UniverseRules:
        """Take ``universe_size``, ``lowest_price`` and ``lowest_adv`` from a run's parameters."""
        return cls(
            size=int(number(parameters, "universe_size", cls.size, low=1)),
            lowest_price=number(parameters, "lowest_price", cls.lowest_price, low=0.0),
            lowest_adv=number(parameters, "lowest_adv", cls.lowest_adv, low=0.0),
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """An instrument that is considered, with what the rules look at."""

    key: Key
    sector: str | None
    adv60: float
    """In dollars; NaN where it never traded."""
    fault: Reason | None
    """Why it is not eligible; ``None`` if it is."""


@dataclass(frozen=True, slots=True)
class Place:
    """What became of a candidate."""

    key: Key
    is_member: bool
    reason: Reason
    rank: int | None
    """Among the eligible, by traded value, from 1."""
    adv60: float


def select_members(
    candidates: list[Candidate], incumbents: frozenset[Key], rules: UniverseRules
) -> list[Place]:
    """
    Fill the seats: incumbents within the buffer first, then the most traded of the others.

    No sector gets more than 30 % of the seats, rounded down; where the eligible are of so few
    sectors that the seats could not be filled, it gets what an even division would give it. Equal
    traded values are ordered by symbol.

    Args:
        candidates: Any order.
        incumbents: Members of the last universe.
        rules: Of the market.

    Returns:
        One place for each candidate, by MIC and symbol.
    """
    eligible = sorted(
        (candidate for candidate in candidates if candidate.fault is None),
        key=lambda candidate: (-candidate.adv60, candidate.key[1], candidate.key[0]),
    )
    ranks = {candidate.key: rank for rank, candidate in enumerate(eligible, start=1)}
    staying = [
        candidate
        for candidate in eligible
        if candidate.key in incumbents and ranks[candidate.key] <= rules.buffer * rules.size
    ]
    others = [candidate for candidate in eligible if candidate not in staying]
    sectors = {candidate.sector or UNKNOWN_SECTOR for candidate in eligible}
    seats_a_sector = max(
        1,
        int(rules.sector_share * rules.size + 1e-9),
        ceil(min(rules.size, len(eligible)) / max(1, len(sectors))),
    )
    taken: dict[str, int] = {}
    decided: dict[Key, Reason] = {}
    members = 0
    for candidate in [*staying, *others]:
        sector = candidate.sector or UNKNOWN_SECTOR
        if members == rules.size:
            decided[candidate.key] = Reason.RANK
        elif taken.get(sector, 0) == seats_a_sector:
            decided[candidate.key] = Reason.SECTOR_CAP
        else:
            taken[sector] = taken.get(sector, 0) + 1
            members += 1
            decided[candidate.key] = Reason.KEPT if candidate.key in incumbents else Reason.ENTERED
    places = []
    for candidate in sorted(candidates, key=lambda candidate: candidate.key):
        reason = candidate.fault or decided[candidate.key]
        places.append(
            Place(
                candidate.key,
                is_member=reason in (Reason.KEPT, Reason.ENTERED),
                reason=reason,
                rank=ranks.get(candidate.key),
                adv60=candidate.adv60,
            )
        )
    return places


def candidates_of(panel: Panel, rules: UniverseRules) -> list[Candidate]:
    """
    Examine the instruments of one exchange at its last session.

    Sessions are the exchange's own, so a holiday of one exchange takes nobody out of the universe.
    """
    recent = panel.close[-rules.least_bars :]
    bars = (~np.isnan(panel.close)).sum(axis=0)
    missing = np.isnan(recent).mean(axis=0)
    ages = trade_ages(panel.close)
    units = np.array([UNITS_PER_DOLLAR.get(item.currency, 1.0) for item in panel.instruments])
    price = carried(panel.close, len(panel.close))[-1] / units
    adv = mean_of((panel.close * panel.volume)[-60:]) / units
    found = []
    for column, item in enumerate(panel.instruments):
        fault: Reason | None = None
        if bars[column] == 0:
            fault = Reason.NO_BARS
        elif not ages[column] < rules.within_sessions:
            fault = Reason.NOT_TRADED
        elif bars[column] < rules.least_bars:
            fault = Reason.SHORT_HISTORY
        elif missing[column] > rules.most_missing:
            fault = Reason.MISSING_SESSIONS
        elif price[column] < rules.lowest_price:
            fault = Reason.LOW_PRICE
        elif not adv[column] >= rules.lowest_adv:
            fault = Reason.ILLIQUID
        found.append(Candidate((item.mic, item.symbol), item.sector, float(adv[column]), fault))
    return found


def run_universes(ctx: JobContext) -> dict[str, Any]:
    """
    Choose the market's members for the session, starting from its last universe before it.

    Every listed instrument gets a row with the reason it is in or out, also those of an exchange
    that is closed on the day: they are judged at its last session.

    Returns:
        Members, how many entered and left, and a count for each reason.
    """
    rules = UniverseRules.from_parameters(ctx.parameters)
    panels = load_panels(ctx)
    with ctx.transaction() as connection:
        incumbents = _last_members(connection, ctx)
    candidates = [item for panel in panels for item in candidates_of(panel, rules)]
    places = select_members(candidates, incumbents, rules)
    rows = [
        {
            "market_id": ctx.market_id,
            "session_date": ctx.session_date,
            "mic": place.key[0],
            "symbol": place.key[1],
            "is_member": place.is_member,
            "reason": place.reason.value,
            "rank": place.rank,
            "adv60_usd": optional(place.adv60),
        }
        for place in places
    ]
    scope = {"market_id": ctx.market_id, "session_date": ctx.session_date}
    replace_rows(ctx, eq_universes, scope, rows)
    members = {place.key for place in places if place.is_member}
    reasons: dict[str, int] = {}
    for place in places:
        reasons[place.reason.value] = reasons.get(place.reason.value, 0) + 1
    return {
        "rows": len(rows),
        "members": len(members),
        "entered": len(members - incumbents),
        "left": len(incumbents - members),
        "reasons": reasons,
    }


def _last_members(connection: Connection, ctx: JobContext) -> frozenset[Key]:
    table = eq_universes.c
    last = (
        select(func.max(table.session_date))
        .where(table.market_id == ctx.market_id, table.session_date < ctx.session_date)
        .scalar_subquery()
    )
    rows = connection.execute(
        select(table.mic, table.symbol).where(
            table.market_id == ctx.market_id, table.session_date == last, table.is_member
        )
    )
    return frozenset((row.mic, row.symbol) for row in rows)
