"""What an override would change, for whoever asks before it is recorded."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from prometheus.core.market_state import MarketState, iter_states
from prometheus.core.markets import get_market
from prometheus.core.overrides import Override, Overrides
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import UnknownMarketError
from prometheus.orchestration.following import Effect, RunChange
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.windows import Window
from prometheus.persistence.clock import read_now
from prometheus.persistence.following import preview_override

EFFECTS: Mapping[Effect, str] = {
    Effect.CANCELLED: "is cancelled",
    Effect.ENDS: "ends with what is running; the rest is cancelled",
    Effect.MOVES: "its times move",
    Effect.REOPENS: "goes on",
    Effect.STARTS: "is made at once",
    Effect.VANISHES: "will not be made",
    Effect.APPEARS: "will be made when its session opens",
    Effect.SHIFTS: "will be made, with other times",
}
"""What becomes of a run, in words."""

Interval = tuple[datetime, datetime, MarketState]
"""From when to when a market is in a state."""


@dataclass(frozen=True, slots=True)
class Change:
    """What an override would change."""

    override: Override
    states: dict[str, tuple[list[Interval], list[Interval]]]
    """Of what it is about and of each market it touches, before and after."""
    zones: dict[str, str]
    """Whose clocks each of these has."""
    others: dict[str, list[str]]
    """Of each of these markets, the members that it is not about and that have a session."""
    runs: tuple[RunChange, ...]
    is_over: bool
    """The session has ended, as it was and as it would be."""

    def document(self) -> dict[str, Any]:
        """Return it for machines, as the API has it."""
        return {
            "states": {
                name: {
                    "before": _states_document(before),
                    "after": _states_document(after),
                    "others": self.others.get(name, []),
                    "zone": self.zones[name],
                }
                for name, (before, after) in self.states.items()
            },
            "runs": [_run_document(run) for run in self.runs],
            "is_over": self.is_over,
        }


def changes_of(
    connection: Connection,
    overrides: Iterable[Override],
    known: Overrides,
    *,
    pipelines: Collection[Pipeline],
    markets: Collection[str],
) -> list[Change]:
    """
    Work out what overrides would change, each laid over those before it.

    Args:
        known: What has been recorded.
        pipelines: Those whose runs the scheduler makes.
        markets: Those it works for.
    """
    changes = []
    now = read_now(connection).market_at
    for override in overrides:
        runs = preview_override(connection, override, known, pipelines=pipelines, markets=markets)
        states = _states(markets, override, known)
        ends = [both[-1][1] for pair in states.values() for both in pair]
        others = {
            name: _others(name, override, known) for name in states if name != override.target
        }
        zones = {name: TradingCalendar(name).zone.key for name in states}
        is_over = bool(ends) and max(ends) <= now
        changes.append(Change(override, states, zones, others, runs, is_over=is_over))
        known = known.plus(override)
    return changes


def _states(
    markets: Collection[str], override: Override, known: Overrides
) -> dict[str, tuple[list[Interval], list[Interval]]]:
    """Return the states of the session's date of what it is about and each market it touches."""
    touched = [name for name in markets if override.touches(get_market(name))]
    states = {}
    target = []
    with suppress(UnknownMarketError):  # an override of what there is not can be withdrawn
        target.append(get_market(override.target).market_id)
    for name in dict.fromkeys([*target, *touched]):
        calendars = [
            TradingCalendar(name, overrides=each) for each in (known, known.plus(override))
        ]
        begin, end = _span(calendars, override.session)
        before, after = (_intervals(each, begin, end) for each in calendars)
        states[name] = before, after
    return states


def _others(name: str, override: Override, known: Overrides) -> list[str]:
    """Return the members of a market that an override is not about, and that have a session."""
    calendar = TradingCalendar(name, overrides=known)
    closed = calendar.closed_members(override.session)
    return [mic for mic in calendar.members if mic != override.target and mic not in closed]


def _span(calendars: list[TradingCalendar], day: date) -> tuple[datetime, datetime]:
    """Find when a date begins and ends, and its session where that reaches further."""
    begins = [calendar.midnight(day) for calendar in calendars]
    ends = [
        exchange.midnight(day + timedelta(days=1))
        for calendar in calendars
        for exchange in calendar.exchanges
    ]
    for calendar in calendars:
        if calendar.is_trading_day(day):
            phases = calendar.phases(day)
            begins.append(phases.pre_open_at)
            ends.append(phases.post_close_ends_at)
    return min(begins), max(ends)


def _intervals(calendar: TradingCalendar, begin: datetime, end: datetime) -> list[Interval]:
    found: list[Interval] = []
    for at, state in iter_states(calendar, begin):
        if found:
            found[-1] = (found[-1][0], min(at, end), found[-1][2])
        if at >= end:
            break
        found.append((at, end, state))
    return found


def _states_document(intervals: Iterable[Interval]) -> list[dict[str, Any]]:
    return [{"from": start, "to": end, "state": state} for start, end, state in intervals]


def _run_document(run: RunChange) -> dict[str, Any]:
    return {
        "dag_id": run.dag_id,
        "market": run.market_id,
        "effect": run.effect,
        "told": EFFECTS[run.effect],
        "status": run.status,
        "jobs": [
            {
                "job": job.job_id,
                "before": job.before,
                "after": job.after,
                "window_before": _window_document(job.window_before),
                "window_after": _window_document(job.window_after),
                "gives_up_before": job.gives_up_before,
                "gives_up_after": job.gives_up_after,
            }
            for job in run.jobs
        ],
    }


def _window_document(window: Window | None) -> dict[str, datetime] | None:
    if window is None:
        return None
    return {"opens_at": window.opens_at, "closes_at": window.closes_at}
