"""``/api/v1/pipelines``: what is configured to run."""

from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter

from prometheus.core.market_state import MarketState
from prometheus.masking import safe_text
from prometheus.monitoring.api.models import Instant, Model, Reply, times
from prometheus.monitoring.installation import Here
from prometheus.orchestration.dag import WindowRule
from prometheus.orchestration.pipeline import CatchUp, JobDefinition, Pipeline
from prometheus.orchestration.session_rule import ShortSessions
from prometheus.persistence.listings import read_first_seen

router = APIRouter(prefix="/api/v1", tags=["pipelines"])


class PipelineJob(Model):
    """A job as its pipeline defines it."""

    job: str
    after: list[str]
    """The jobs that must succeed first."""
    required_state: MarketState | None
    """The phase of the session that opens its window; ``null``: when the run opens."""
    start: str | None
    """When its window opens, told by the session, such as ``close+45m``."""
    window: WindowRule
    priority: str
    max_retries: int
    timeout_seconds: float
    queue_timeout_seconds: float | None
    after_previous: bool
    sensor: bool
    """Whether it is asked again and again until what it waits for has come."""
    deadline: str | None
    """By when it must have succeeded, such as ``next_open-30m`` or ``22:30``."""


class PipelineMarket(Model):
    """A market that a pipeline follows."""

    market: str
    enabled: bool
    """Whether this installation serves it."""
    first_seen_at: Instant | None
    """Since when this database has seen it run, in market time."""


class ConfiguredPipeline(Model):
    """A pipeline."""

    pipeline: str
    markets: list[PipelineMarket]
    sessions: str
    """On which sessions it runs, such as ``last of month``."""
    short_sessions: ShortSessions
    catch_up: CatchUp
    run_timeout_seconds: float | None
    deadline: str | None
    """By when a run must have succeeded, told as a job's is."""
    jobs: list[PipelineJob]


class Pipelines(Reply):
    """The pipelines of this installation."""

    items: list[ConfiguredPipeline]
    faults: list[str]
    """What is wrong with others, which are left out."""


@router.get("/pipelines")
def pipelines(here: Here) -> Pipelines:
    """List the pipelines as they were configured when this process began."""
    with here.look() as look:
        seen = read_first_seen(look.connection)
    found, faults = here.pipelines
    return Pipelines(
        **times(look.now),
        items=[
            ConfiguredPipeline(
                pipeline=pipeline.name,
                markets=[
                    PipelineMarket(
                        market=market_id,
                        enabled=market_id in here.settings.markets.enabled,
                        first_seen_at=seen.get((pipeline.name, market_id)),
                    )
                    for market_id in pipeline.markets
                ],
                sessions=str(pipeline.sessions),
                short_sessions=pipeline.sessions.short_sessions,
                catch_up=pipeline.catch_up,
                run_timeout_seconds=_seconds(pipeline.run_timeout),
                deadline=str(pipeline.deadline) if pipeline.deadline else None,
                jobs=_jobs(pipeline),
            )
            for pipeline in found.values()
        ],
        faults=[safe_text(fault) for fault in faults],
    )


def _jobs(pipeline: Pipeline) -> list[PipelineJob]:
    return [_job(job) for job in pipeline.jobs.values()]


def _job(job: JobDefinition) -> PipelineJob:
    return PipelineJob(
        job=job.name,
        after=list(job.after),
        required_state=job.required_state,
        start=str(job.start) if job.start else None,
        window=job.window,
        priority=job.priority.name,
        max_retries=job.max_retries,
        timeout_seconds=job.timeout.total_seconds(),
        queue_timeout_seconds=_seconds(job.queue_timeout),
        after_previous=job.after_previous,
        sensor=job.sensor is not None or bool(job.sensor_in),
        deadline=str(job.deadline) if job.deadline else None,
    )


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()
