"""What attempts print and log, in parts as it came."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    String,
    and_,
    bindparam,
    func,
    insert,
    or_,
    select,
    update,
)

from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence.listings import UnknownExecutionError
from prometheus.persistence.metadata import database_now
from prometheus.persistence.runs import insert_new
from prometheus.persistence.tables import attempt_logs, is_live, job_executions

_e = job_executions.c
_l = attempt_logs.c

_OF_ATTEMPT: tuple[ColumnElement[Any], ...] = (
    *(_e.execution_id, _e.dag_id, _e.job_id, _e.attempt_number, _e.status, _e.worker),
    *(_e.started_at, _e.completed_at, _e.error_message, _e.error_details),
)

ENDS = 1_000_000
"""Number from which on a part is the end of an attempt: it takes the place of the end before it."""

# One row by one statement; written once more, it changes nothing but its number.
_RENEW_END = (
    update(attempt_logs)
    .where(_l.execution_id == bindparam("id", type_=String), _l.part >= ENDS)
    .values(part=_l.part + 1, at=database_now(), text=bindparam("text_of_end", type_=String))
)


@dataclass(frozen=True, slots=True)
class LogPart:
    """Some lines of one attempt."""

    part: int
    """Its number within the attempt, from 1; of the end, from `ENDS`."""
    at: datetime
    """When they were kept, by the database's clock: seconds after they were written."""
    text: str

    @property
    def is_end(self) -> bool:
        """Whether it is the newest of an attempt that has written much."""
        return self.part >= ENDS


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


def append(connection: Connection, execution_id: str, part: int, text: str) -> None:
    """
    Keep some whole lines of an attempt; once more, whose answer was lost, changes nothing.

    Args:
        part: Their number, from 1, by which they are read in order.
    """
    insert_new(connection, attempt_logs, {"execution_id": execution_id, "part": part, "text": text})


def replace_end(connection: Connection, execution_id: str, text: str) -> None:
    """Keep the newest of an attempt in place of what was so before, under a new number."""
    renewed = connection.execute(_RENEW_END, {"id": execution_id, "text_of_end": text})
    if renewed.rowcount == 0:
        end = insert(attempt_logs).values(execution_id=execution_id, part=ENDS, text=text)
        connection.execute(end)


def read(
    connection: Connection,
    dag_id: str,
    job_id: str | None = None,
    attempt_number: int | None = None,
    *,
    after: Mapping[str, int],
    ended: Collection[str] = (),
    since: datetime | None = None,
) -> list[LoggedAttempt]:
    """
    Read what attempts of a run have logged.

    Args:
        job_id: Of one job.
        attempt_number: Of its one attempt.
        after: Execution id -> the last part of it that is known; those that are not named are read
            from the beginning.
        ended: Executions of which everything is known.
        since: Leave out, too, what ended before, in wall time.

    Returns:
        All other attempts that have started or ended, in that order.
    """
    statement = select(*_OF_ATTEMPT).where(
        _e.dag_id == dag_id, _e.started_at.is_not(None) | _e.completed_at.is_not(None)
    )
    if job_id is not None:
        statement = statement.where(_e.job_id == job_id)
    if attempt_number is not None:
        statement = statement.where(_e.attempt_number == attempt_number)
    if since is not None:
        statement = statement.where(is_live | (_e.completed_at >= since))
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
    behind = (_l.execution_id == _e.execution_id) & (_l.part > after)
    rows = connection.execute(
        select(*_OF_ATTEMPT, _l.part, _l.at, _l.text)
        .outerjoin_from(job_executions, attempt_logs, behind)
        .where(_e.execution_id == execution_id)
        .order_by(_l.part)
    ).all()
    if not rows:
        raise UnknownExecutionError(f"There is no execution {execution_id!r}.")
    parts = [LogPart(row.part, row.at, row.text) for row in rows if row.part is not None]
    return _logged(rows[0], parts)


def _logged(row: Any, parts: Iterable[LogPart]) -> LoggedAttempt:
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
