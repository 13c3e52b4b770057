"""``/api/v1/executions``: every attempt of every job."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field
from sqlalchemy import Row

from prometheus.configured import check_names
from prometheus.masking import safe_text, safe_value
from prometheus.monitoring.api.models import Instant, Interval, Model, Name, Reply, times
from prometheus.monitoring.api.paging import Page, read_cursor, read_instant, write_cursor
from prometheus.monitoring.installation import Here
from prometheus.orchestration.dag import JobPriority
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence.listings import ExecutionFilter, list_executions

router = APIRouter(prefix="/api/v1", tags=["executions"])

_PRIORITIES = {int(each): each.name for each in JobPriority}
"""Any other number, which somebody wrote by hand, counts as STANDARD."""


class ExecutionQuestion(Page):
    """Which executions are meant."""

    run: Name | None = None
    job: Name | None = None
    market: Name | None = None
    status: JobStatus | None = None
    worker: Name | None = None
    started_from: Annotated[Instant | None, Field(alias="from")] = None
    """Those that started from this instant on, by wall time."""
    started_before: Annotated[Instant | None, Field(alias="to")] = None
    """Those that started before it."""


class Execution(Model):
    """One attempt of one job in one run."""

    execution_id: str
    """Also Celery's task id."""
    dag_id: str
    job: str
    job_type: str
    market: str
    session_date: date
    status: JobStatus
    attempt: int
    """1 for the first."""
    retries: int
    """Failures before this one."""
    lost: int
    """Workers that were lost before this one."""
    queue: str
    priority: str
    forced: bool
    """Whether its window does not count."""
    timeout_seconds: int
    window: Interval | None
    """Market time; set when it is claimed."""
    created_at: Instant
    scheduled_at: Instant | None
    """When it may start."""
    scheduled_market_at: Instant | None
    published_at: Instant | None
    """When the last message for it was sent."""
    started_at: Instant | None
    started_market_at: Instant | None
    named_at: Instant | None
    """When its worker last said that it runs it."""
    completed_at: Instant | None
    worker: str | None
    pid: int | None
    cancel_asked_at: Instant | None
    cancel_asked_by: str | None
    cancel_at: Instant | None
    """When it is ended if it has not by itself."""
    error: str | None
    result: Any
    """What the job returned."""


class Executions(Reply):
    """A page of executions, those that were written last first."""

    items: list[Execution]
    next: str | None
    """``cursor`` of the next page; ``null`` on the last one."""


@router.get("/executions")
def executions(here: Here, question: Annotated[ExecutionQuestion, Query()]) -> Executions:
    """List executions, those that were written last first."""
    which = ExecutionFilter(
        dag_id=question.run,
        job_id=question.job,
        market_id=question.market,
        status=question.status,
        worker=question.worker,
        started_from=question.started_from,
        started_before=question.started_before,
    )
    after = read_cursor(question.cursor, read_instant)
    with here.look() as look:
        rows = list_executions(look.connection, which, after=after, limit=question.limit + 1)
        if not rows:
            check_names(look.connection, here.pipelines[0], market=question.market)
    page = rows[: question.limit]
    more = len(rows) > len(page)
    return Executions(
        **times(look.now),
        items=[tell_execution(row) for row in page],
        next=write_cursor(page[-1].created_at, page[-1].execution_id) if more else None,
    )


def tell_execution(row: Row[Any]) -> Execution:
    """Describe a row of ``job_executions``; what its job said is told without secrets."""
    window = None
    if row.window_opens_at is not None and row.window_closes_at is not None:
        window = Interval(opens_at=row.window_opens_at, closes_at=row.window_closes_at)
    return Execution(
        execution_id=row.execution_id,
        dag_id=row.dag_id,
        job=row.job_id,
        job_type=row.job_type,
        market=row.market_id,
        session_date=row.as_of_date,
        status=JobStatus(row.status),
        attempt=row.attempt_number,
        retries=row.retries,
        lost=row.lost,
        queue=row.queue,
        priority=_PRIORITIES.get(row.priority, JobPriority.STANDARD.name),
        forced=row.forced,
        timeout_seconds=row.timeout_seconds,
        window=window,
        created_at=row.created_at,
        scheduled_at=row.scheduled_at,
        scheduled_market_at=row.scheduled_market_at,
        published_at=row.published_at,
        started_at=row.started_at,
        started_market_at=row.started_market_at,
        named_at=row.named_at,
        completed_at=row.completed_at,
        worker=row.worker,
        pid=row.pid,
        cancel_asked_at=row.cancel_asked_at,
        cancel_asked_by=row.cancel_asked_by,
        cancel_at=row.cancel_at,
        error=safe_text(row.error_message) if row.error_message else None,
        result=safe_value(row.result),
    )
