"""The pipelines of the settings, for commands that need no server."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime

from prometheus.cli import recorded
from prometheus.configured import configured_pipelines, find_pipeline
from prometheus.core.markets import get_market
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import PrometheusError, nearest
from prometheus.orchestration.dag import DAG
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.planning import runs_on, session_of


class DagIdError(PrometheusError):
    """A text is no run's name."""


def session_choices(pipelines: Mapping[str, Pipeline]) -> dict[str, tuple[str, str]]:
    """Say of pipelines, by name, on which sessions they run and what they do on short ones."""
    return {
        pipeline.name: (str(pipeline.sessions), pipeline.sessions.short_sessions.value)
        for pipeline in pipelines.values()
    }


def find_dag(*, dag_id: str | None, market: str | None, day: date | None, pipeline: str) -> DAG:
    """
    Build the DAG that a user names, by its id or by market and date, and go by the overrides of
    the database that is configured.

    Raises:
        PrometheusError: There is no such market, pipeline or session.
    """
    from prometheus.settings import load_settings

    pipelines = configured_pipelines(load_settings())
    recorded.follow_overrides()
    if dag_id is not None:
        return _dag_of_id(pipelines, dag_id)
    market_id = get_market(market or "").market_id
    chosen = find_pipeline(pipelines, pipeline, market_id)
    calendar = TradingCalendar(market_id)
    if day is None:
        # Of a market that has not begun, its first.
        day = calendar.sessions_around(datetime.now(UTC), before=1, after=1)[0].date
        if not chosen.sessions.includes(calendar, day):
            day = chosen.sessions.previous(calendar, day)
    calendar.session(day)  # says why there is none
    return chosen.dag(market_id, day)


def _dag_of_id(pipelines: dict[str, Pipeline], dag_id: str) -> DAG:
    day = session_of(dag_id)
    if day is None:
        raise DagIdError(
            f"{dag_id!r} names no run. It must look like us_eq_daily_2012-11-23: market, "
            f"pipeline, session date."
        )
    known = runs_on(pipelines, day)
    if dag_id not in known:
        raise DagIdError(f"No pipeline makes a run {dag_id!r}.{nearest(dag_id, known)}")
    pipeline, market_id = known[dag_id]
    TradingCalendar(market_id).session(day)  # says why there is none
    return pipeline.dag(market_id, day)
