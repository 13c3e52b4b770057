"""Executions whose task a worker does not know: another release's worker may, or none ever will."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence.clock import read_now
from prometheus.persistence.leases import live_workers
from prometheus.persistence.runs import end_waiting, lock_runs
from prometheus.persistence.tables import job_executions

ENOUGH = 5
"""Refused messages after which an execution is given up if no worker is left that may know it."""
AT_MOST = 20
"""Refused messages after which it is given up even so; they are about half a minute apart."""

_e = job_executions.c


def refuse(connection: Connection, execution_id: str, *, task: str, incarnation: str) -> str | None:
    """
    Note that a worker got a message and does not know its task.

    The count is kept in the row's ``error_details`` while it is QUEUED. It makes the row EXPIRED
    in the end: a release that leaves a job out does not keep its run open for ever.

    Args:
        task: Its name, ``pipeline.job``.
        incarnation: Of the worker.

    Returns:
        The reason, when the execution was given up.
    """
    dag_id = connection.execute(
        select(_e.dag_id).where(_e.execution_id == execution_id)
    ).scalar_one_or_none()
    if dag_id is None:
        return None
    lock_runs(connection, {dag_id})
    row = connection.execute(
        select(_e.queue, _e.error_details)
        .where(_e.execution_id == execution_id, _e.status == JobStatus.QUEUED)
        .with_for_update(key_share=True)
    ).first()
    if row is None:
        return None
    refused_by: dict[str, int] = dict((row.error_details or {}).get("refused_by", {}))
    refused_by[incarnation] = refused_by.get(incarnation, 0) + 1
    connection.execute(
        update(job_executions)
        .where(_e.execution_id == execution_id)
        .values(error_details={"type": "unknown_task", "refused_by": refused_by})
    )
    count = sum(refused_by.values())
    may_know = any(
        worker["incarnation"] not in refused_by
        for worker in live_workers(connection, read_now(connection).wall_at)
        if row.queue in worker["queues"]
    )
    if count < ENOUGH or (may_know and count < AT_MOST):
        return None
    reason = (
        f"no worker of {row.queue} knows the job {task}: {count} messages for it were refused. "
        f"Give the workers the release that has it, and retry"
    )
    return reason if end_waiting(connection, {execution_id: reason}, JobStatus.EXPIRED) else None
