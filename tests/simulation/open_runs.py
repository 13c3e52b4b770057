"""What the leader keeps of the open runs, held at each tick against the database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, select

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.names import LEADERSHIP
from prometheus.dispatch.open_runs import OpenRuns
from prometheus.errors import PrometheusError
from prometheus.orchestration.dag import DAG
from prometheus.orchestration.decisions import RunState, Snapshot, decide
from prometheus.orchestration.pauses import Pause
from prometheus.orchestration.planning import session_bounds
from prometheus.persistence import runs
from prometheus.persistence.clock import Now
from prometheus.persistence.engine import reading
from prometheus.persistence.tables import leases, run_changes
from tests.simulation.world import Violation

_NOTED = select(run_changes.c.dag_id)
_LED = select(leases.c.epoch).where(leases.c.name == LEADERSHIP)


class CheckedOpenRuns(OpenRuns):
    """Raises where it would be wrong to go by what is kept."""

    def __init__(
        self, markets: Collection[str], previous_run: Callable[[DAG], str | None], engine: Engine
    ) -> None:
        """
        Args:
            engine: Where to look when there is nothing to read.
        """
        super().__init__(markets, previous_run)
        self._engine = engine

    def read(self, connection: Connection, now: Now, epoch: int | None) -> None:
        """Read, and compare with a reading of everything."""
        super().read(connection, now, epoch)
        self._compare(connection, epoch)

    def is_read(self, now: Now, epoch: int | None) -> bool:
        """Compare also what is gone by without a reading."""
        if not super().is_read(now, epoch):
            return False
        with reading(self._engine) as connection:
            self._compare(connection, epoch)
        return True

    def _compare(self, connection: Connection, epoch: int | None) -> None:
        if epoch is not None and connection.execute(_LED).scalar_one() != epoch:
            return  # another leads since this one stood still: it can not write what it decides
        noted = set(connection.execute(_NOTED).scalars())
        kept = {name: each.state for name, each in self._kept.items()}
        whole = {
            state.dag.dag_id: state
            for state in runs.read_open_runs(connection, self._previous_run)
            if state.dag.market_id in self._markets
        }
        for name in kept.keys() | whole.keys():
            state = kept.get(name) or whole[name]
            # What was noted since they were taken is read at the next tick.
            if not noted.isdisjoint({name, self._previous_run(state.dag)}):
                continue
            if name not in kept or name not in whole or _told(kept[name]) != _told(whole[name]):
                raise Violation(f"what is kept of {name} is not what the database has")

    def take_due(self, now: Now, paused: tuple[Pause, ...]) -> list[RunState]:
        """Return the runs that are due, and make sure that nothing is to be done about others."""
        due = super().take_due(now, paused)
        names = {state.dag.dag_id for state in due}
        for_market: dict[str, list[RunState]] = defaultdict(list)
        for name, each in self._kept.items():
            if name not in names:
                for_market[each.state.dag.market_id].append(each.state)
        for market_id, states in for_market.items():
            _refuse_decisions(market_id, states, now, paused, now.market_at)
        return due


def _told(state: RunState) -> tuple[Any, ...]:
    return (
        dict(state.jobs),
        state.previous,
        state.forced,
        state.created_at,
        state.calendar_version,
    )


def _refuse_decisions(
    market_id: str, states: list[RunState], now: Now, paused: tuple[Pause, ...], at: datetime
) -> None:
    try:
        calendar = TradingCalendar(market_id)
        bounds = {
            (market_id, state.dag.as_of_date): session_bounds(calendar, state.dag.as_of_date)
            for state in states
            if calendar.is_trading_day(state.dag.as_of_date)
        }
    except PrometheusError:
        return
    alive = tuple(s for s in states if (market_id, s.dag.as_of_date) in bounds)
    snapshot = Snapshot(runs=alive, bounds=bounds, wall_at=now.wall_at, pauses=paused)
    if missed := decide(snapshot, at, holds=False):
        raise Violation(f"left alone although there is something to do: {missed[0]}")
