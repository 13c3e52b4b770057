"""What attempts print and log, in parts as it came."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, String, and_, bindparam, func, insert, or_, select

from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence.listings import UnknownExecutionError
from prometheus.persistence.tables import attempt_logs, job_executions

_e = job_executions.c
_l = attempt_logs.c
_ID = bindparam("id", type_=String)

_APPEND = insert(attempt_logs).from_select(
    ["execution_id", "part", "text"],
    select(
        _ID,
        select(func.coalesce(func.max(_l.part), 0) + 1)
        .where(_l.execution_id == _ID)
        .scalar_subquery(),
        bindparam("text", type_=String),
    ),
)


@dataclass(frozen=True, slots=True)
class LogPart:
    """Some lines of one attempt."""

    part: int
    """Its number within the attempt, from 1."""
    at: datetime
    """When they were kept, by the database's clock: seconds after they were written."""
    text: str


@dataclass(frozen=True, slots=True)
class LoggedAttempt:
    """One attempt, and what it has logged since somebody last looked."""

    execution_id: str
    dag_id: str
    job_id: str
    attempt_number: int
    status: JobStatus
    worker: str | None
    started_at: datetime | None
    completed_at: datetime | None
    error: str | None
    traceback: str | None
    parts: tuple[LogPart, ...]


def append(connection: Connection, execution_id: str, text: str) -> None:
    """Keep some whole lines of an attempt, after what was kept of it before."""
    connection.execute(_APPEND, {"id": execution_id, "text": text})


def read(
    connection: Connection,
    dag_id: str,
    job_id: str | None = None,
    attempt_number: int | None = None,
    *,
    after: Mapping[str, int],
    ended: Collection[str] = (),
) -> list[LoggedAttempt]:
    """
    Read what attempts of a run have logged.

    Args:
        job_id: Of one job.
        attempt_number: Of its one attempt.
        after: Execution id -> the last part of it that is known; those that are not named are read
            from the beginning.
        ended: Executions of which everything is known.

    Returns:
        All other attempts that have started or ended, in that order.
    """
    statement = select(job_executions).where(
        _e.dag_id == dag_id, _e.started_at.is_not(None) | _e.completed_at.is_not(None)
    )
    if job_id is not None:
        statement = statement.where(_e.job_id == job_id)
    if attempt_number is not None:
        statement = statement.where(_e.attempt_number == attempt_number)
    begun = func.coalesce(_e.started_at, _e.completed_at)
    statement = statement.order_by(begun, _e.job_id, _e.attempt_number)
    rows = [row for row in connection.execute(statement) if row.execution_id not in ended]
    parts: dict[str, list[LogPart]] = {row.execution_id: [] for row in rows}
    wanted = or_(
        _l.execution_id.in_([each for each in parts if each not in after]),
        *(and_(_l.execution_id == each, _l.part > after[each]) for each in parts if each in after),
    )
    logged = select(attempt_logs).where(wanted).order_by(_l.execution_id, _l.part)
    for each in connection.execute(logged):
        parts[each.execution_id].append(LogPart(each.part, each.at, each.text))
    return [_logged(row, parts[row.execution_id]) for row in rows]


def read_attempt(connection: Connection, execution_id: str, *, after: int) -> LoggedAttempt:
    """
    Read what one attempt has logged behind a part of it that is known; 0 for all of it.

    Raises:
        UnknownExecutionError: There is no such attempt.
    """
    row = connection.execute(
        select(job_executions).where(_e.execution_id == execution_id)
    ).one_or_none()
    if row is None:
        raise UnknownExecutionError(f"There is no execution {execution_id!r}.")
    logged = connection.execute(
        select(attempt_logs)
        .where(_l.execution_id == row.execution_id, _l.part > after)
        .order_by(_l.part)
    )
    return _logged(row, [LogPart(each.part, each.at, each.text) for each in logged])


def _logged(row: Row[Any], parts: Iterable[LogPart]) -> LoggedAttempt:
    return LoggedAttempt(
        row.execution_id,
        row.dag_id,
        row.job_id,
        row.attempt_number,
        JobStatus(row.status),
        row.worker,
        row.started_at,
        row.completed_at,
        row.error_message,
        traceback_of(row),
        tuple(parts),
    )


def traceback_of(row: Row[Any]) -> str | None:
    """Return the traceback of an attempt that has failed, if it has one."""
    return None if row.error_details is None else row.error_details.get("traceback")
