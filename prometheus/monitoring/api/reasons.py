"""``/api/v1/runs/{dag_id}/why``: what a run, or a job of it, waits for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from fastapi import APIRouter

from prometheus.explaining import answer, read_question
from prometheus.masking import safe_value
from prometheus.monitoring.api.models import Instant, Model, Name, Reply
from prometheus.monitoring.installation import Here, Installation
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.reasons import ReasonKind

router = APIRouter(prefix="/api/v1", tags=["runs"])


class Reference(Model):
    """A job of a run."""

    dag_id: str
    job: str


class WhyReason(Model):
    """One thing that a job waits for, or that has become of it."""

    kind: ReasonKind
    job: str | None
    """Whose reason it is: the job's own, or that of a job it waits for; ``null`` of whole runs."""
    text: str
    """What is so."""
    then: str | None
    """What happens next, or what to do."""
    since: Instant | None
    """Since when it is so, if that is known."""
    until: Instant | None
    """When it is expected to end, if that is known."""
    clock: Literal["market", "wall"]
    """Which ``since`` and ``until`` are of; they differ only in a replay."""
    refers_to: list[Reference]
    """The jobs that it is about."""
    wrong: bool
    """Whether somebody should look: it is not how things go."""


class WhyJob(Model):
    """A job that has not succeeded, and the first of its reasons."""

    job: str
    status: JobStatus
    reason: WhyReason


class Why(Reply):
    """What a run, or a job of it, waits for, as ``prometheus why --json`` has it."""

    dag_id: str
    market: str
    job: str | None
    """The job that was asked about."""
    status: JobStatus | RunStatus | None
    """Of the job or of the run; ``null``: there is no such run, or not yet."""
    attempt: int | None
    """Of the job that was asked about, its latest."""
    reasons: list[WhyReason]
    """What keeps everything, then what keeps the job, then what it waits for."""
    jobs: list[WhyJob] | None
    """Of a run, its jobs that have not succeeded, upstream before downstream."""


@router.get("/runs/{dag_id}/why")
def why_run(here: Here, dag_id: Name) -> Why:
    """Say where a run stands, or when it will be made, and why each of its jobs does not run."""
    return _why(here, dag_id, None)


@router.get("/runs/{dag_id}/jobs/{job}/why")
def why_job(here: Here, dag_id: Name, job: Name) -> Why:
    """Say why a job does not run: all that it waits for, since when, and until when."""
    return _why(here, dag_id, job)


def _why(here: Installation, dag_id: str, job: str | None) -> Why:
    def pipelines() -> Mapping[str, Pipeline]:
        return here.pipelines[0]

    with here.reading() as connection:
        question = read_question(connection, dag_id, job, here.settings, pipelines, here.follow)
    found = answer(question, here.engine, here.settings.broker.url)
    return Why.model_validate(safe_value(found.document()))
