"""Runs and executions as they are listed, page after page, and one run with all that it has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Integer,
    Row,
    Select,
    Text,
    bindparam,
    case,
    cast,
    func,
    literal,
    literal_column,
    select,
    tuple_,
)

from prometheus.errors import PrometheusError, nearest
from prometheus.orchestration.dag import DAG
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.persistence.runs import stored_dag
from prometheus.persistence.tables import (
    audit,
    dag_runs,
    in_state,
    is_live,
    is_open,
    is_paused,
    job_executions,
    pipelines,
)

_r = dag_runs.c
_e = job_executions.c
_a = audit.c

_KNOWN_RUNS = 200
"""So many of the last runs are looked through for a name like one that there is not."""
_RUN_COLUMNS = (
    _r.dag_id,
    _r.pipeline,
    _r.market_id,
    _r.as_of_date,
    _r.status,
    _r.forced,
    _r.trigger,
    _r.calendar_version,
    _r.opens_at,
    _r.created_at,
    _r.completed_at,
)


_WITH_DEFINITION: Select[Any] = select(
    *_RUN_COLUMNS, _r.definition_hash, cast(_r.definition, Text).label("definition")
).where(_r.dag_id == bindparam("dag_id"))
"""What `stored_dag` needs, and the rest of a run."""


class UnknownRunError(PrometheusError):
    """The database has no run of that name."""


class UnknownJobError(PrometheusError):
    """The run has no job of that name."""


class UnknownExecutionError(PrometheusError):
    """The database has no execution of that id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs are meant; what is ``None`` does not matter."""

    market_id: str | None = None
    pipeline: str | None = None
    status: RunStatus | None = None
    first: date | None = None
    last: date | None = None
    """Session dates, both included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionFilter:
    """Which executions are meant; what is ``None`` does not matter."""

    dag_id: str | None = None
    job_id: str | None = None
    market_id: str | None = None
    status: JobStatus | None = None
    worker: str | None = None
    started_from: datetime | None = None
    started_before: datetime | None = None
    """Wall time of their start, half-open."""


def list_runs(
    connection: Connection, which: RunFilter, *, after: tuple[date, str] | None, limit: int
) -> list[Row[Any]]:
    """
    List runs, the latest session first.

    Args:
        after: Session date and dag id of the last run of the page before; neither ever changes, so
            that no run is on two pages or on none because others come.
        limit: The most to return.
    """
    wanted = _equal(
        {_r.market_id: which.market_id, _r.pipeline: which.pipeline, _r.status: which.status}
    )
    if which.first is not None:
        wanted.append(_r.as_of_date >= which.first)
    if which.last is not None:
        wanted.append(_r.as_of_date <= which.last)
    query = select(*_RUN_COLUMNS).where(*wanted)
    return _page(connection, query, (_r.as_of_date, _r.dag_id), after, limit)


def list_executions(
    connection: Connection,
    which: ExecutionFilter,
    *,
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[Row[Any]]:
    """
    List executions, those that were written last first.

    Args:
        after: When the last execution of the page before was written, and its id.
        limit: The most to return.
    """
    wanted = _equal(
        {
            _e.dag_id: which.dag_id,
            _e.job_id: which.job_id,
            _e.market_id: which.market_id,
            _e.status: which.status,
            _e.worker: which.worker,
        }
    )
    if which.started_from is not None:
        wanted.append(_e.started_at >= which.started_from)
    if which.started_before is not None:
        wanted.append(_e.started_at < which.started_before)
    query = select(job_executions).where(*wanted)
    return _page(connection, query, (_e.created_at, _e.execution_id), after, limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which entries of the audit are meant; what is ``None`` does not matter."""

    actor: str | None = None
    action: str | None = None
    target: str | None = None


def list_audit(
    connection: Connection, which: AuditFilter, *, before: int | None = None, limit: int
) -> list[Row[Any]]:
    """
    List what operators did, and what was done for their overrides, the last first.

    Args:
        before: Number of the last entry of the page before.
        limit: The most to return.

    Returns:
        Rows of ``audit``.
    """
    wanted = _equal({_a.actor: which.actor, _a.action: which.action, _a.target: which.target})
    if before is not None:
        wanted.append(_a.audit_id < before)
    query = select(audit).where(*wanted).order_by(_a.audit_id.desc()).limit(limit)
    return list(connection.execute(query))


def _equal(values: Mapping[Column[Any], Any]) -> list[ColumnElement[bool]]:
    return [column == value for column, value in values.items() if value is not None]


def _page(
    connection: Connection,
    query: Select[Any],
    key: tuple[Column[Any], Column[Any]],
    after: tuple[Any, Any] | None,
    limit: int,
) -> list[Row[Any]]:
    if after is not None:
        last = (literal(value, column.type) for column, value in zip(key, after, strict=True))
        query = query.where(tuple_(*key) < tuple_(*last))
    ordered = query.order_by(*(column.desc() for column in key)).limit(limit)
    return list(connection.execute(ordered))


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run with its DAG and all its attempts."""

    row: Row[Any]
    dag: DAG
    attempts: Mapping[str, list[Row[Any]]]
    """Job id -> rows of ``job_executions``, the first attempt first; in the order of the DAG."""


def latest_runs(connection: Connection) -> list[str]:
    """Return the names of the runs that were made last, for who has misspelt one."""
    latest = select(_r.dag_id).order_by(_r.created_at.desc()).limit(_KNOWN_RUNS)
    return list(connection.execute(latest).scalars())


def read_run(connection: Connection, dag_id: str) -> StoredRun:
    """
    Read a run.

    Raises:
        UnknownRunError: There is none of that name; its message names the nearest.
        UnreadableRunError: This release can not read it.
    """
    row: Row[Any] | None = connection.execute(_WITH_DEFINITION, {"dag_id": dag_id}).first()
    if row is None:
        hint = nearest(dag_id, latest_runs(connection))
        raise UnknownRunError(f"There is no run {dag_id!r}.{hint}")
    dag = stored_dag(row)
    attempts: dict[str, list[Row[Any]]] = {job_id: [] for job_id in dag.topological_order()}
    for attempt in connection.execute(
        select(job_executions).where(_e.dag_id == dag_id).order_by(_e.attempt_number)
    ):
        attempts[attempt.job_id].append(attempt)
    return StoredRun(row, dag, attempts)


def read_latest_attempts(
    connection: Connection, dag_ids: Collection[str]
) -> dict[str, dict[str, Row[Any]]]:
    """
    Read the last attempt of every job of some runs: dag id -> job id -> row.

    Returns:
        Rows with ``status``, ``attempt_number``, ``started_at`` and ``completed_at``.
    """
    query: Select[Any] = (
        select(_e.dag_id, _e.job_id, _e.status, _e.attempt_number, _e.started_at, _e.completed_at)
        .where(_e.dag_id.in_(dag_ids))
        .order_by(_e.attempt_number)
    )
    found: dict[str, dict[str, Row[Any]]] = {dag_id: {} for dag_id in dag_ids}
    for row in connection.execute(query):
        found[row.dag_id][row.job_id] = row
    return found


def list_attempts_of(
    connection: Connection, market_id: str, day: date, *, limit: int
) -> list[Row[Any]]:
    """List the attempts of all runs of a session, the job that was due first first."""
    query: Select[Any] = (
        select(
            *(_e.dag_id, _e.job_id, _e.status, _e.attempt_number),
            *(_e.scheduled_at, _e.started_at, _e.completed_at),
        )
        .where(_e.market_id == market_id, _e.as_of_date == day)
        .order_by(_e.scheduled_at.nulls_last(), _e.started_at, _e.job_id, _e.attempt_number)
        .limit(limit)
    )
    return list(connection.execute(query))


def read_running(connection: Connection) -> list[Row[Any]]:
    """Read what runs, the oldest start first: ``dag_id``, ``job_id``, ``incarnation``, start."""
    query = (
        select(_e.dag_id, _e.job_id, _e.incarnation, _e.started_at)
        .where(in_state(job_executions, JobStatus.RUNNING))
        .order_by(_e.started_at)
    )
    return list(connection.execute(query))


def read_dag(connection: Connection, dag_id: str) -> DAG:
    """
    Read the DAG of a run that there is.

    Raises:
        UnreadableRunError: This release can not read it.
    """
    return stored_dag(connection.execute(_WITH_DEFINITION, {"dag_id": dag_id}).one())


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """What waits in a queue, and what of it runs."""

    waiting: int
    """QUEUED, and due; also what an operator keeps from starting."""
    delayed: int
    """QUEUED for a later time, such as a retry or the next poll of a sensor."""
    running: int
    waiting_since: datetime | None
    """Since when the first of those that wait has been due."""

    @property
    def backlog(self) -> int:
        """What needs a worker now."""
        return self.waiting + self.running


def read_loads(connection: Connection, now: datetime) -> dict[str, QueueLoad]:
    """
    Read what is queued and runs: queue -> load; a queue with neither is left out.

    Args:
        now: Wall time.
    """
    queued = in_state(job_executions, JobStatus.QUEUED)
    due = _e.scheduled_at <= now
    rows = connection.execute(
        select(
            _e.queue,
            _count(queued & due).label("waiting"),
            _count(queued & ~due).label("delayed"),
            _count(in_state(job_executions, JobStatus.RUNNING)).label("running"),
            func.min(case((queued & due, _e.scheduled_at))).label("waiting_since"),
        )
        .where(is_live)
        .group_by(_e.queue)
    )
    return {
        row.queue: QueueLoad(row.waiting, row.delayed, row.running, row.waiting_since)
        for row in rows
    }


@dataclass(frozen=True, slots=True)
class OpenWork:
    """The open runs of a pipeline in a market, and their executions that have not ended."""

    runs: int
    pending: int
    queued: int
    running: int
    held: int
    """PENDING or QUEUED, and kept from starting by an operator."""


def read_open_work(connection: Connection) -> dict[tuple[str, str], OpenWork]:
    """Count what is open: pipeline and market -> work; one without an open run is left out."""
    waiting = in_state(job_executions, JobStatus.PENDING, JobStatus.QUEUED)
    not_ended = in_state(job_executions, JobStatus.PENDING, JobStatus.QUEUED, JobStatus.RUNNING)
    # The column by itself would have SQLite read all runs, in the order of another index.
    pipeline = _r.pipeline.concat(literal_column("''"))
    rows = connection.execute(
        select(
            pipeline.label("pipeline"),
            _r.market_id,
            func.count(_r.dag_id.distinct()).label("runs"),
            _count(in_state(job_executions, JobStatus.PENDING)).label("pending"),
            _count(in_state(job_executions, JobStatus.QUEUED)).label("queued"),
            _count(in_state(job_executions, JobStatus.RUNNING)).label("running"),
            _count(waiting & is_paused).label("held"),
        )
        # A run whose last execution has ended is open until the next tick.
        .outerjoin_from(dag_runs, job_executions, (_e.dag_id == _r.dag_id) & not_ended)
        .where(is_open)
        .group_by(pipeline, _r.market_id)
    )
    return {
        (row.pipeline, row.market_id): OpenWork(
            row.runs, row.pending, row.queued, row.running, row.held
        )
        for row in rows
    }


def _count(which: ColumnElement[bool]) -> ColumnElement[int]:
    return func.sum(case((which, 1), else_=0), type_=Integer)


def read_first_seen(connection: Connection) -> dict[tuple[str, str], datetime]:
    """Return since when this database has seen pipelines: name and market -> market time."""
    rows = connection.execute(
        select(pipelines.c.name, pipelines.c.market_id, pipelines.c.first_seen_at)
    )
    return {(row.name, row.market_id): row.first_seen_at for row in rows}
