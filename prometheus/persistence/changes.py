"""Whether anything has changed that people look at, by one cheap statement."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence.tables import (
    alerts,
    attempt_logs,
    backfills,
    dag_runs,
    in_state,
    is_live,
    is_open,
    is_proposed,
    job_executions,
    market_holidays,
)

_e = job_executions.c
_running = is_live & in_state(job_executions, JobStatus.RUNNING)
_open = alerts.c.resolved_at.is_(None)
_CHANGES = select(
    select(func.count()).select_from(dag_runs).where(is_open).scalar_subquery(),
    select(func.max(dag_runs.c.created_at)).where(is_open).scalar_subquery(),
    select(func.count()).select_from(job_executions).where(is_live).scalar_subquery(),
    select(func.count()).select_from(job_executions).where(_running).scalar_subquery(),
    select(func.max(_e.scheduled_at)).where(is_live).scalar_subquery(),
    select(func.max(_e.started_at)).where(_running).scalar_subquery(),
    select(func.max(_e.cancel_at)).where(_running).scalar_subquery(),
    select(func.max(_e.cancel_asked_at)).where(_running).scalar_subquery(),
    select(func.max(_e.completed_at)).scalar_subquery(),
    select(func.sum(attempt_logs.c.part))  # the newest part is renewed under a new number
    .where(attempt_logs.c.execution_id.in_(select(_e.execution_id).where(_running)))
    .scalar_subquery(),
    select(func.count()).select_from(alerts).where(_open).scalar_subquery(),
    select(func.max(alerts.c.alert_id)).where(_open).scalar_subquery(),
    select(func.max(alerts.c.acknowledged_at)).where(_open).scalar_subquery(),
    select(func.max(backfills.c.backfill_id)).scalar_subquery(),
    select(func.count())
    .select_from(backfills)
    .where(backfills.c.ended_at.is_(None))
    .scalar_subquery(),
    select(func.count()).select_from(market_holidays).where(is_proposed).scalar_subquery(),
    select(func.max(market_holidays.c.fetched_at)).where(is_proposed).scalar_subquery(),
)
"""Each of them by an index: it is asked once a second."""


def read_changes(connection: Connection) -> str:
    """
    Return what is another text when something has changed that has no number of its own.

    A run, an execution, a log, an alert, a backfill, or what feeds propose.
    """
    return str(tuple(connection.execute(_CHANGES).one()))
