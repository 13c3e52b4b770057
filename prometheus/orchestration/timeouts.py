"""The wall time from which on a job may not start any more; windows are market time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from prometheus.core.durations import format_duration
from prometheus.orchestration.dag import DAG, JobMetadata

RUN_TIMEOUT = "its run_timeout"
"""Who asks a job to end whose run has had its time; what was allowed follows."""


@dataclass(frozen=True, slots=True)
class Timeout:
    """When waiting for something ends, and why."""

    at: datetime
    """Wall time; it is over at this instant already."""
    reason: str
    """What is told of it afterwards, with what was allowed."""
    allowed: timedelta


def run_timeout(dag: DAG, created_at: datetime | None) -> Timeout | None:
    """
    Return when a run's whole time is over; ``None`` if it has no limit.

    Args:
        created_at: When the run was made, in wall time; ``None`` where that is not known.
    """
    if dag.run_timeout is None or created_at is None:
        return None
    reason = f"its run took longer than its run_timeout, {format_duration(dag.run_timeout)}"
    return Timeout(created_at + dag.run_timeout, reason, dag.run_timeout)


def queue_timeout(job: JobMetadata, scheduled_at: datetime | None) -> Timeout | None:
    """
    Return when a job has been in its queue for too long; ``None`` if it has no limit.

    Args:
        scheduled_at: Since when it could have started, in wall time; ``None`` if it is not queued.
    """
    if job.queue_timeout is None or scheduled_at is None:
        return None
    allowed = format_duration(job.queue_timeout)
    reason = f"no worker took it from its queue within its queue_timeout, {allowed}"
    return Timeout(scheduled_at + job.queue_timeout, reason, job.queue_timeout)


def start_timeout(
    dag: DAG,
    job: JobMetadata,
    *,
    created_at: datetime | None,
    scheduled_at: datetime | None,
    forced: bool,
) -> Timeout | None:
    """
    Return from when on a job may not start any more, and why; ``None`` if there is no limit.

    Args:
        created_at: When the run was made.
        scheduled_at: Since when the job could have started, if it is queued.
        forced: An operator gave the job this attempt, whatever time its run has left.
    """
    found = [queue_timeout(job, scheduled_at), None if forced else run_timeout(dag, created_at)]
    return min((each for each in found if each), key=lambda each: each.at, default=None)
