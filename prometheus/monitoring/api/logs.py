"""``/api/v1/executions/{execution_id}/log``: what an attempt printed and logged."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from prometheus.masking import safe_text
from prometheus.monitoring.api.models import Instant, Model, Name, Reply, times
from prometheus.monitoring.installation import Here
from prometheus.orchestration.lifecycle import FINAL, JobStatus
from prometheus.persistence import logs

router = APIRouter(prefix="/api/v1", tags=["executions"])


class LogQuestion(Model):
    """Which of it is meant."""

    after: int = Field(default=0, ge=0, le=2**31 - 1)
    """The last part that is known: ``next`` of the reply before."""


class Part(Model):
    """Some lines that were kept together."""

    part: int
    """Its number within the attempt, from 1; higher is newer."""
    end: bool
    """Whether it is the newest of what has come behind the first 128 KB: each such part takes the
    place of the one before it, and begins with how much is left out before its own text."""
    at: Instant
    """When they were kept, up to a second after they were written."""
    text: str
    """Whole lines; what a terminal would have done with them is left out."""


class Log(Reply):
    """What an attempt printed and logged: at most its first 128 KB and its newest 64 KB."""

    execution_id: str
    dag_id: str
    job: str
    attempt: int
    status: JobStatus
    ended: bool
    """Whether no more will come."""
    items: list[Part]
    next: int
    """``after`` of the next question."""
    error: str | None
    traceback: str | None


@router.get("/executions/{execution_id}/log")
def log(here: Here, execution_id: Name, question: Annotated[LogQuestion, Query()]) -> Log:
    """Show what an attempt has printed and logged, or what of it has come since the last look."""
    with here.look() as look:
        found = logs.read_attempt(look.connection, execution_id, after=question.after)
    parts = found.parts
    return Log(
        **times(look.now),
        execution_id=found.execution_id,
        dag_id=found.dag_id,
        job=found.job_id,
        attempt=found.attempt_number,
        status=found.status,
        ended=found.status in FINAL,
        items=[
            Part(part=part.part, end=part.is_end, at=part.at, text=safe_text(part.text))
            for part in parts
        ],
        next=parts[-1].part if parts else question.after,
        error=safe_text(found.error) if found.error else None,
        traceback=safe_text(found.traceback) if found.traceback else None,
    )
