"""The job ``run_books``: the weights to hold after the session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select

from prometheus.dispatch.context import JobContext
from prometheus.pipelines.equities.errors import MissingInputError
from prometheus.pipelines.equities.panel import Floats, Panel, load_panels, optional
from prometheus.pipelines.equities.parameters import choice, number
from prometheus.pipelines.equities.profiles import mean_of, trade_ages
from prometheus.pipelines.equities.returns import returns_of
from prometheus.pipelines.equities.storage import replace_rows
from prometheus.pipelines.equities.tables import eq_books, eq_signals, eq_universes
from prometheus.pipelines.equities.universes import UNITS_PER_DOLLAR, UNKNOWN_SECTOR, Key
from prometheus.pipelines.equities.volatility import annualised, ewma_variance
from prometheus.pipelines.equities.weights import (
    equal_risk_contribution,
    ewma_covariance,
    fill_with_caps,
    group_numbers,
    limit_trades,
    limit_turnover,
    one_way_turnover,
    project,
    scale_to_volatility,
    volatility_of,
)

STALE_SESSIONS = 5
"""A holding without a bar for so many sessions of its exchange is written off the book."""

SMALLEST_WEIGHT = 1e-10
"""Less is rounding."""

WEIGHTINGS = ("score", "inverse_volatility", "equal_risk")


class Reason(StrEnum):
    """What decided an instrument's weight."""

    HELD = "held"
    SCORE_NOT_POSITIVE = "score_not_positive"
    NO_SCORE = "no_score"
    LEFT_UNIVERSE = "left_universe"
    NOT_TRADED = "not_traded"
    """It has no bar on the day (a holiday of its exchange, a halt): the last weight stays."""
    WRITTEN_OFF = "written_off"
    """No bar for five sessions, or the feed does not list it any more."""


@dataclass(frozen=True)
class BookRules:
    """What limits a book."""

    weighting: str = "score"
    """How the names with a positive score are weighed: one of `WEIGHTINGS`."""
    name_cap: float = 0.10
    sector_cap: float = 0.30
    volatility_target: float = 0.10
    """Per year; the book is scaled down to it, never up."""
    turnover_cap: float = 0.20
    """One way, a session."""
    participation: float = 0.10
    """Largest trade, as a share of the mean traded value of 20 sessions."""
    capital: float = 10e6
    """In dollars; it turns weights into trades."""

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> BookRules:
        """Take any of these from a run's parameters of the same names."""
        share = {"low": 0.0, "high": 1.0}
        return cls(
            weighting=choice(parameters, "weighting", cls.weighting, WEIGHTINGS),
            name_cap=number(parameters, "name_cap", cls.name_cap, **share),
            sector_cap=number(parameters, "sector_cap", cls.sector_cap, **share),
            volatility_target=number(
                parameters, "volatility_target", cls.volatility_target, low=0.0
            ),
            turnover_cap=number(parameters, "turnover_cap", cls.turnover_cap, **share),
            participation=number(parameters, "participation", cls.participation, **share),
            capital=number(parameters, "capital", cls.capital, low=1.0),
        )


@dataclass(frozen=True, slots=True, eq=False)
class BookInputs:
    """Everything a book is made from; arrays are (names,)."""

    score: Floats
    """NaN where there is none."""
    volatility: Floats
    """Per year; NaN where there is none."""
    covariance: Floats
    """(names, names), per year; its rows may be NaN where the volatility is."""
    sectors: tuple[str, ...]
    adv20: Floats
    """In dollars; NaN where there is none."""
    member: NDArray[np.bool_]
    tradable: NDArray[np.bool_]
    """Has a bar on the day."""
    previous: Floats
    """Weights of the last book; 0 for names that were not in it."""


@dataclass(frozen=True, slots=True, eq=False)
class Book:
    """Weights, (names,); the rest of 1 is cash."""

    weights: Floats
    target: Floats
    """Where the book would be without limits to turnover and trades."""
    volatility: float
    """Of `weights`, per year."""
    turnover: float


def make_book(inputs: BookInputs, rules: BookRules) -> Book:
    """
    Weigh the names, in this order.

    1. Members with a positive score are weighed by ``score / volatility`` (or as `weighting` says).
    2. Caps by name and sector by water-filling. What can not trade keeps its weight and its room.
    3. The tradable part is scaled down to the volatility target.
    4. The step from the last book is cut to the turnover cap, each trade to its share of the
       traded value.
    5. Caps are applied again: trades that were cut may leave too little room for the others, and
       the last book may have had other caps. Purchases give way first; caps come before the limits
       to trading.

    Returns:
        Weights that are not negative, sum to at most 1 and keep the caps, but for weights that
        can not be traded.
    """
    fixed = ~inputs.tradable & (inputs.previous > 0)
    held = np.where(fixed, inputs.previous, 0.0)
    groups, count = group_numbers(inputs.sectors)
    caps = np.full(count, rules.sector_cap)
    room = np.maximum(caps - np.bincount(groups, weights=held, minlength=count), 0.0)
    shares = _shares(inputs, rules)
    budget = max(1.0 - float(held.sum()), 0.0)
    movable = fill_with_caps(shares, budget, rules.name_cap, groups, room)

    covariance = np.nan_to_num(inputs.covariance, nan=0.0)
    scale = scale_to_volatility(movable, held, covariance, rules.volatility_target)
    target = held + scale * movable
    weights = limit_turnover(inputs.previous, target, rules.turnover_cap)
    largest = np.nan_to_num(rules.participation * inputs.adv20 / rules.capital, nan=0.0)
    weights = limit_trades(inputs.previous, weights, np.where(inputs.tradable, largest, 0.0))
    weights = project(weights, inputs.previous, fixed, rules.name_cap, groups, caps)
    weights = np.where(weights < SMALLEST_WEIGHT, 0.0, weights)
    return Book(
        weights=weights,
        target=target,
        volatility=volatility_of(weights, covariance),
        turnover=one_way_turnover(inputs.previous, weights),
    )


def _shares(inputs: BookInputs, rules: BookRules) -> Floats:
    """Return in which proportion the names would be held without caps."""
    usable = (
        inputs.member
        & inputs.tradable
        & (np.nan_to_num(inputs.score, nan=0.0) > 0)
        & (np.nan_to_num(inputs.volatility, nan=0.0) > 0)
    )
    shares = np.zeros(len(usable))
    if not usable.any():
        return shares
    if rules.weighting == "equal_risk":
        shares[usable] = equal_risk_contribution(inputs.covariance[np.ix_(usable, usable)])
    elif rules.weighting == "inverse_volatility":
        shares[usable] = 1.0 / inputs.volatility[usable]
    else:
        shares[usable] = inputs.score[usable] / inputs.volatility[usable]
    return shares


def run_books(ctx: JobContext) -> dict[str, Any]:
    """
    Write the market's book for the session, starting from its last book before it.

    Returns:
        Names held, invested share and cash, volatility, turnover, and the largest weights.

    Raises:
        MissingInputError: `run_universes` has not run for this session.
    """
    rules = BookRules.from_parameters(ctx.parameters)
    panels = load_panels(ctx)
    with ctx.transaction() as connection:
        members = _read_members(connection, ctx)
        scores = _read_scores(connection, ctx)
        last_date, previous = _read_last_book(connection, ctx)
    if members is None:
        raise MissingInputError("eq_universes", ctx.market_id, ctx.session_date, "run_universes")

    views = {key: view for panel in panels for key, view in _views(panel).items()}
    members &= set(views)
    keys = sorted(members | (set(previous) & set(views)))
    gone = sorted(set(previous) - set(views))
    stale = [key for key in keys if not views[key].age < STALE_SESSIONS and previous.get(key)]
    keys = [key for key in keys if key not in stale]
    inputs = _inputs(keys, views, members, scores, previous)
    book = make_book(inputs, rules)
    rows = _rows(ctx, keys, inputs, book)
    rows += [_written_off(ctx, key, previous[key]) for key in [*gone, *stale]]
    scope = {"market_id": ctx.market_id, "session_date": ctx.session_date}
    replace_rows(ctx, eq_books, scope, rows)
    held = sorted(
        (row for row in rows if row["weight"] > 0), key=lambda row: (-row["weight"], row["symbol"])
    )
    invested = float(book.weights.sum())
    return {
        "rows": len(rows),
        "names": len(held),
        "invested": round(invested, 6),
        "cash": round(1.0 - invested, 6),
        "volatility": round(book.volatility, 6),
        "turnover": round(book.turnover, 6),
        "previous_book": last_date.isoformat() if last_date is not None else None,
        "largest": {row["symbol"]: round(row["weight"], 6) for row in held[:5]},
    }


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """What the panel knows of one instrument."""

    sector: str
    dates: tuple[date, ...]
    log_returns: Floats
    """(sessions,) of its own exchange."""
    volatility: float
    adv20: float
    tradable: bool
    age: float


def _views(panel: Panel) -> dict[Key, _View]:
    log_returns = returns_of(panel.open, panel.close, panel.adjusted_close).log
    # Computed here and not read, because names whose exchange is closed today count as well.
    volatility = annualised(ewma_variance(log_returns[1:])[-1]) if len(log_returns) > 1 else None
    adv = mean_of((panel.close * panel.volume)[-20:])
    ages = trade_ages(panel.close)
    traded = panel.traded
    return {
        (item.mic, item.symbol): _View(
            sector=item.sector or UNKNOWN_SECTOR,
            dates=panel.dates,
            log_returns=log_returns[:, column],
            volatility=float(volatility[column]) if volatility is not None else np.nan,
            adv20=float(adv[column]) / UNITS_PER_DOLLAR.get(item.currency, 1.0),
            tradable=bool(traded[column]),
            age=float(ages[column]),
        )
        for column, item in enumerate(panel.instruments)
    }


def _inputs(
    keys: list[Key],
    views: Mapping[Key, _View],
    members: set[Key],
    scores: Mapping[Key, float | None],
    previous: Mapping[Key, float],
) -> BookInputs:
    own = [views[key] for key in keys]
    volatility = np.array([view.volatility for view in own], dtype=float)
    return BookInputs(
        score=np.array([_number(scores.get(key)) for key in keys], dtype=float),
        volatility=volatility,
        covariance=ewma_covariance(_aligned_returns(own), volatility),
        sectors=tuple(view.sector for view in own),
        adv20=np.array([view.adv20 for view in own], dtype=float),
        member=np.array([key in members for key in keys], dtype=bool),
        tradable=np.array([view.tradable for view in own], dtype=bool),
        previous=np.array([previous.get(key, 0.0) for key in keys], dtype=float),
    )


def _aligned_returns(views: list[_View]) -> Floats:
    """Lay the returns of several exchanges side by side, (dates of any of them, names)."""
    days = sorted({day for view in views for day in view.dates})
    row_of = {day: number for number, day in enumerate(days)}
    aligned = np.full((len(days), len(views)), np.nan)
    for column, view in enumerate(views):
        aligned[[row_of[day] for day in view.dates], column] = view.log_returns
    return aligned


def _rows(ctx: JobContext, keys: list[Key], inputs: BookInputs, book: Book) -> list[dict[str, Any]]:
    rows = []
    for position, key in enumerate(keys):
        rows.append(
            {
                "market_id": ctx.market_id,
                "session_date": ctx.session_date,
                "mic": key[0],
                "symbol": key[1],
                "weight": float(book.weights[position]),
                "target_weight": float(book.target[position]),
                "previous_weight": float(inputs.previous[position]),
                "score": optional(inputs.score[position]),
                "volatility": optional(inputs.volatility[position]),
                "reason": _reason(inputs, position).value,
            }
        )
    return rows


def _reason(inputs: BookInputs, position: int) -> Reason:
    score = inputs.score[position]
    if not inputs.tradable[position]:
        return Reason.NOT_TRADED
    if not inputs.member[position]:
        return Reason.LEFT_UNIVERSE
    if np.isnan(score):
        return Reason.NO_SCORE
    return Reason.HELD if score > 0 else Reason.SCORE_NOT_POSITIVE


def _written_off(ctx: JobContext, key: Key, previous: float) -> dict[str, Any]:
    ctx.logger.warning("holding_written_off", extra={"mic": key[0], "symbol": key[1]})
    return {
        "market_id": ctx.market_id,
        "session_date": ctx.session_date,
        "mic": key[0],
        "symbol": key[1],
        "weight": 0.0,
        "target_weight": 0.0,
        "previous_weight": previous,
        "score": None,
        "volatility": None,
        "reason": Reason.WRITTEN_OFF.value,
    }


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _read_members(connection: Connection, ctx: JobContext) -> set[Key] | None:
    """Return the universe of the session, or ``None`` where there is none."""
    table = eq_universes.c
    rows = connection.execute(
        select(table.mic, table.symbol, table.is_member).where(
            table.market_id == ctx.market_id, table.session_date == ctx.session_date
        )
    ).all()
    return {(row.mic, row.symbol) for row in rows if row.is_member} if rows else None


def _read_scores(connection: Connection, ctx: JobContext) -> dict[Key, float | None]:
    table = eq_signals.c
    rows = connection.execute(
        select(table.mic, table.symbol, table.score).where(
            table.market_id == ctx.market_id, table.session_date == ctx.session_date
        )
    )
    return {(row.mic, row.symbol): row.score for row in rows}


def _read_last_book(
    connection: Connection, ctx: JobContext
) -> tuple[date | None, dict[Key, float]]:
    table = eq_books.c
    last = connection.scalar(
        select(func.max(table.session_date)).where(
            table.market_id == ctx.market_id, table.session_date < ctx.session_date
        )
    )
    rows = connection.execute(
        select(table.mic, table.symbol, table.weight).where(
            table.market_id == ctx.market_id, table.session_date == last, table.weight > 0
        )
    )
    return last, {(row.mic, row.symbol): row.weight for row in rows}
