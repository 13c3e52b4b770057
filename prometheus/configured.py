"""The pipelines of the settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from sqlalchemy import Connection, select

from prometheus.core.markets import get_market
from prometheus.errors import PipelineError, PrometheusError, UnknownMarketError, nearest
from prometheus.orchestration.pipeline import Pipeline
from prometheus.persistence.alerts import AlertFilter, alerts_query
from prometheus.persistence.backfills import backfills_query
from prometheus.persistence.listings import RunFilter, runs_query
from prometheus.pipelines.loading import find_pipelines, load_pipelines
from prometheus.settings import Settings


class UnknownPipelineError(PrometheusError):
    """No pipeline has this name, or it does not follow the market."""


class MarketDisabledError(PrometheusError):
    """Nobody here would work on a run of a market."""

    def __init__(self, market_id: str, enabled: Iterable[str]) -> None:
        super().__init__(
            f"This installation does not work for {market_id}: a run of it would wait for ever. "
            f"markets.enabled has {', '.join(enabled)}."
        )


def configured_pipelines(settings: Settings) -> dict[str, Pipeline]:
    """
    Load the pipelines of the settings.

    Raises:
        PipelineError: With every fault of every one of them.
    """
    return load_pipelines(
        settings.pipelines.modules,
        visibility_timeout=settings.broker.visibility_timeout,
        folder=Path.cwd(),
        feed=settings.eodhd.feed(),
    )


def sound_pipelines(settings: Settings) -> tuple[dict[str, Pipeline], list[str]]:
    """Load the pipelines of the settings; return those without faults, and the others' faults."""
    return find_pipelines(
        settings.pipelines.modules,
        visibility_timeout=settings.broker.visibility_timeout,
        folder=Path.cwd(),
        feed=settings.eodhd.feed(),
    )


def runnable_pipeline(settings: Settings, name: str, market_id: str) -> Pipeline:
    """
    Find a pipeline of which a run of a market can be made; faults of others do not matter.

    Raises:
        UnknownPipelineError: There is none of that name, or it follows other markets.
        PipelineError: It may be one of those that have faults.
        MarketDisabledError: Nobody would work on it.
    """
    found, faults = sound_pipelines(settings)
    if name not in found and faults:
        raise PipelineError(f"the pipeline {name!r} is not among the sound ones", faults)
    pipeline = find_pipeline(found, name, market_id)
    check_enabled(settings, market_id)
    return pipeline


def check_enabled(settings: Settings, market_id: str) -> None:
    """
    Refuse a market that this installation does not work for.

    Raises:
        MarketDisabledError: It is one.
    """
    if market_id not in settings.markets.enabled:
        raise MarketDisabledError(market_id, settings.markets.enabled)


def scheduled_pipelines(settings: Settings) -> list[Pipeline]:
    """Load those without faults, if the scheduler of the settings makes runs of pipelines."""
    return list(sound_pipelines(settings)[0].values()) if settings.scheduler.create_runs else []


def find_pipeline(pipelines: Mapping[str, Pipeline], name: str, market_id: str) -> Pipeline:
    """
    Find a pipeline that follows a market.

    Raises:
        UnknownPipelineError: There is none of that name, or it follows other markets.
    """
    if name not in pipelines:
        raise UnknownPipelineError(f"There is no pipeline {name!r}.{nearest(name, pipelines)}")
    pipeline = pipelines[name]
    if market_id not in pipeline.markets:
        raise UnknownPipelineError(
            f"The pipeline {name!r} does not follow {market_id}, only "
            f"{', '.join(pipeline.markets)} ({pipeline.where})."
        )
    return pipeline


def check_names(
    connection: Connection,
    pipelines: Mapping[str, Pipeline],
    *,
    market: str | None,
    pipeline: str | None = None,
) -> None:
    """
    Refuse a name by which nothing can be found; for a list that is empty.

    A name is known when it is configured; any other, as long as a run, alert or backfill has it.

    Args:
        pipelines: Those of the settings.

    Raises:
        UnknownMarketError, UnknownPipelineError: It is one; the message names the nearest.
    """

    if market is not None:
        try:
            get_market(market)
        except UnknownMarketError:
            if not _has_rows(connection, market_id=market):
                raise
    if pipeline is None or pipeline in pipelines or _has_rows(connection, pipeline=pipeline):
        return
    raise UnknownPipelineError(
        f"There is no pipeline {pipeline!r}, nor anything of one.{nearest(pipeline, pipelines)}"
    )


def _has_rows(
    connection: Connection, *, market_id: str | None = None, pipeline: str | None = None
) -> bool:
    runs = runs_query(RunFilter(market_id=market_id, pipeline=pipeline))
    backfills = backfills_query(market_id=market_id, pipeline=pipeline, limit=1)
    alerts = alerts_query(AlertFilter(market_id=market_id, pipeline=pipeline))
    found: bool = connection.execute(
        select(runs.exists() | backfills.exists() | alerts.exists())
    ).scalar_one()
    return found
