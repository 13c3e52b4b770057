"""The paths that were there before the versioned ones, in the words of the tables."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query

from prometheus.core.market_state import MarketState, describe_market
from prometheus.masking import safe_text
from prometheus.monitoring.api.models import Change, Instant, Model, Name, Reply, times
from prometheus.monitoring.api.runs import RunGraph, run
from prometheus.monitoring.installation import Here
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.persistence.progress import RunProgress, read_progress

router = APIRouter(prefix="/api", tags=["known paths"])


class PipelineQuestion(Model):
    """Which market is meant."""

    market_id: Name


class JobState(Model):
    """A job, as its latest row in ``job_executions`` is."""

    job_id: str
    execution_id: str
    status: JobStatus
    attempt_number: int
    scheduled_at: Instant | None
    started_market_at: Instant | None
    error_message: str | None
    """Of the latest attempt, or of the one before while a retry waits."""


class RunState(Model):
    """A run and its jobs."""

    dag_id: str
    pipeline: str
    as_of_date: date
    status: RunStatus
    jobs: list[JobState]


class PipelineStatus(Reply):
    """What a market does, and where its pipelines stand."""

    market_id: str
    market_state: MarketState
    next_transition: Change | None
    runs: list[RunState]
    """Its open runs and, of each pipeline, the latest one; oldest session first."""


@router.get("/status/pipeline")
def status_pipeline(here: Here, question: Annotated[PipelineQuestion, Query()]) -> PipelineStatus:
    """Show a market's state, its open runs and, of each pipeline, the latest, with their jobs."""
    with here.look() as look:
        progress = read_progress(look.connection, market_id=question.market_id, now=look.now)
    market = describe_market(question.market_id, look.now.market_at)
    return PipelineStatus(
        **times(look.now),
        market_id=market.market_id,
        market_state=market.state,
        next_transition=Change.of(market.next_transition),
        runs=[_run(found) for found in progress.runs],
    )


def _run(found: RunProgress) -> RunState:
    return RunState(
        dag_id=found.dag_id,
        pipeline=found.pipeline,
        as_of_date=found.session_date,
        status=found.status,
        jobs=[
            JobState(
                job_id=job.job_id,
                execution_id=job.execution_id,
                status=job.status,
                attempt_number=job.attempt_number,
                scheduled_at=job.scheduled_at,
                started_market_at=job.started_market_at,
                error_message=safe_text(job.error) if job.error else None,
            )
            for job in found.jobs
        ],
    )


@router.get("/dag/{dag_id}", name="dag")
def dag(here: Here, dag_id: Name) -> RunGraph:
    """Show a run as `/api/v1/runs/{dag_id}` does."""
    return run(here, dag_id)
