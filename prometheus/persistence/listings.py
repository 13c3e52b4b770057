"""Runs and executions as they are listed, page after page, and one run with all that it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from operator import attrgetter
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
    exists,
    func,
    literal,
    literal_column,
    null,
    select,
    tuple_,
)

from prometheus.errors import PrometheusError, nearest
from prometheus.masking import keep_parameters
from prometheus.orchestration.dag import DAG
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.persistence.alerts import AlertFilter, alerts_query
from prometheus.persistence.leases import STANDBYS
from prometheus.persistence.runs import keep_dags, known_definitions, stored_dag
from prometheus.persistence.tables import (
    attempt_logs,
    audit,
    dag_runs,
    in_state,
    is_live,
    is_open,
    is_paused,
    is_still,
    job_executions,
    pipelines,
    worker_incarnations,
)
from prometheus.persistence.together import Together

_r = dag_runs.c
_e = job_executions.c
_a = audit.c
_l = attempt_logs.c
_w = worker_incarnations.c

_CLOCKS_DIFFER = timedelta(days=1)
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
    _r.definition_hash,
)


_WITH_DEFINITION: Select[Any] = select(
    *_RUN_COLUMNS, _r.parameters, cast(_r.definition, Text).label("definition")
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
) -> list[tuple[Any, Counter[JobStatus]]]:
    """
    List runs, the latest session first, each with how many of its jobs are in which state.

    Args:
        after: Session date and dag id of the last run of the page before; neither ever changes, so
            that no run is on two pages or on none because others come.
        limit: The most to return.
    """
    page = _page(runs_query(which), (_r.as_of_date, _r.dag_id), after, limit).subquery()
    rows = connection.execute(
        select(*page.c, _e.status.label("state"), func.count(_e.job_id).label("jobs"))
        .outerjoin_from(page, job_executions, (_e.dag_id == page.c.dag_id) & is_last_attempt)
        .group_by(*page.c, _e.status)
        .order_by(page.c.as_of_date.desc(), page.c.dag_id.desc())
    )
    found: list[tuple[Any, Counter[JobStatus]]] = []
    for row in rows:
        if not found or found[-1][0].dag_id != row.dag_id:
            found.append((row, Counter()))
        if row.state is not None:
            found[-1][1][JobStatus(row.state)] += row.jobs
    return found


def runs_query(which: RunFilter) -> Select[Any]:
    """Say which runs `list_runs` lists, however many there are."""
    wanted = _equal({_r.market_id: which.market_id, _r.pipeline: which.pipeline})
    if which.status is not None:
        wanted.append(in_state(dag_runs, which.status))
    if which.first is not None:
        wanted.append(_r.as_of_date >= which.first)
    if which.last is not None:
        wanted.append(_r.as_of_date <= which.last)
    return select(*_RUN_COLUMNS).where(*wanted)


_later = job_executions.alias("later")
is_last_attempt = ~exists().where(
    _later.c.dag_id == _e.dag_id,
    _later.c.job_id == _e.job_id,
    _later.c.attempt_number > _e.attempt_number,
)
"""Whether an attempt is the last one of its job; a sensor that waits for hours has hundreds."""


@dataclass(frozen=True, slots=True)
class Sitting:
    """A run, and what became of its jobs."""

    run: Any
    jobs: Mapping[str, Any]
    """Job id -> its last attempt: ``state``, ``attempt_number``, ``started_at``, ``ended_at``."""


def list_sittings(
    connection: Connection,
    which: RunFilter,
    *,
    limit: int,
    most_jobs: int,
    beside: Sequence[Select[Any]] = (),
) -> tuple[list[Sitting], bool, list[list[Any]]]:
    """
    List runs with the last attempts of their jobs, the latest session first, in one statement.

    Args:
        limit: The most runs to return.
        most_jobs: The most jobs of all of them: a run that would bring more is left out, unless it
            is the first, of which one more may be told.
        beside: What else is asked in the same statement.

    Returns:
        The runs, and whether there are more, or may be; and for each of ``beside`` its rows, in no
        order.
    """
    ordered = runs_query(which).order_by(_r.as_of_date.desc(), _r.dag_id.desc())
    latest = ordered.limit(limit + 1).subquery()
    query: Select[Any] = (
        select(
            *latest.c,
            *(_e.job_id, _e.status.label("state"), _e.attempt_number),
            *(_e.started_at, _e.completed_at.label("ended_at")),
        )
        .outerjoin_from(latest, job_executions, (_e.dag_id == latest.c.dag_id) & is_last_attempt)
        .order_by(latest.c.as_of_date.desc(), latest.c.dag_id.desc())
        .limit(most_jobs + 1)
    )
    rows, *others = Together(query, *beside).read(connection, {})
    rows.sort(key=attrgetter("as_of_date", "dag_id"), reverse=True)
    found = [
        Sitting(of_run[0], {row.job_id: row for row in of_run if row.job_id is not None})
        for of_run in (list(each) for _, each in groupby(rows, key=attrgetter("dag_id")))
    ]
    if len(rows) > most_jobs:
        return found[:-1] or found, True, others
    return found[:limit], len(found) > limit, others


def latest_definition(which: RunFilter) -> Select[Any]:
    """Ask for what `stored_dag` needs of the run that `list_sittings` has first."""
    latest = runs_query(which).order_by(_r.as_of_date.desc(), _r.dag_id.desc()).limit(1).subquery()
    return select(*_RUN_COLUMNS, cast(_r.definition, Text).label("definition")).where(
        _r.dag_id == select(latest.c.dag_id).scalar_subquery()
    )


def list_executions(
    connection: Connection,
    which: ExecutionFilter,
    *,
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[Row[Any]]:
    """
    List executions, those that were written last first; secrets of their runs are hidden from now.

    Args:
        after: When the last execution of the page before was written, and its id.
        limit: The most to return.
    """
    wanted = _equal(
        {
            _e.dag_id: which.dag_id,
            _e.job_id: which.job_id,
            _e.market_id: which.market_id,
            _e.worker: which.worker,
        }
    )
    if which.status is not None:
        wanted.append(in_state(job_executions, which.status))
    if which.started_from is not None:
        wanted.append(_e.started_at >= which.started_from)
    if which.started_before is not None:
        wanted.append(_e.started_at < which.started_before)
        # It was written before it started, but for a clock that was set back: this spares reading
        # all that came later, in the order of the list.
        wanted.append(_e.created_at < which.started_before + _CLOCKS_DIFFER)
    # Of the page's rows alone, which a join would not be sure of.
    parameters = select(_r.parameters).where(_r.dag_id == _e.dag_id).scalar_subquery()
    query = select(job_executions, parameters.label("parameters")).where(*wanted)
    page = _page(query, (_e.created_at, _e.execution_id), after, limit)
    rows = list(connection.execute(page))
    for row in {row.dag_id: row for row in rows}.values():
        keep_parameters(row.parameters)
    return rows


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
    return list(connection.execute(_audit_query(which, before).limit(limit)))


def _audit_query(which: AuditFilter, before: int | None = None) -> Select[Any]:
    wanted = _equal({_a.actor: which.actor, _a.action: which.action, _a.target: which.target})
    if before is not None:
        wanted.append(_a.audit_id < before)
    return select(audit).where(*wanted).order_by(_a.audit_id.desc())


def _equal(values: Mapping[Column[Any], Any]) -> list[ColumnElement[bool]]:
    return [column == value for column, value in values.items() if value is not None]


def _page(
    query: Select[Any],
    key: tuple[Column[Any], Column[Any]],
    after: tuple[Any, Any] | None,
    limit: int,
) -> Select[Any]:
    if after is not None:
        last = (literal(value, column.type) for column, value in zip(key, after, strict=True))
        query = query.where(tuple_(*key) < tuple_(*last))
    return query.order_by(*(column.desc() for column in key)).limit(limit)


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run with its DAG and all its attempts."""

    row: Any
    dag: DAG
    attempts: Mapping[str, list[Any]]
    """Job id -> rows of ``job_executions``, the first attempt first; in the order of the DAG."""
    log: str = ""
    """Of the attempt whose log was asked for."""


def latest_runs(connection: Connection) -> list[str]:
    """Return the names of the runs that were made last, for who has misspelt one."""
    latest = select(_r.dag_id).order_by(_r.created_at.desc()).limit(_KNOWN_RUNS)
    return list(connection.execute(latest).scalars())


def read_run(
    connection: Connection, dag_id: str, *, log_of: tuple[str, int | None] | None = None
) -> StoredRun:
    """
    Read a run; its secrets, which this process may not know of its pipeline, are hidden from now.

    Args:
        log_of: Also what an attempt has logged: job, and its number or ``None`` for the last one.

    Raises:
        UnknownRunError: There is none of that name; its message names the nearest.
        UnreadableRunError: This release can not read it.
    """
    question = _OF_RUN
    asked: dict[str, Any] = {"dag_id": dag_id}
    if log_of is not None:
        job_id, number = log_of
        question = _OF_RUN_WITH_LOG
        asked |= {"log_of_job": job_id, "log_of_attempt": number}
    found, rows = question.read(connection, asked)
    if not found:
        hint = nearest(dag_id, latest_runs(connection))
        raise UnknownRunError(f"There is no run {dag_id!r}.{hint}")
    (row,) = found
    keep_parameters(row.parameters)
    dag = stored_dag(row)
    attempts: dict[str, list[Any]] = {job_id: [] for job_id in dag.topological_order()}
    log = []
    for attempt in sorted(rows, key=attrgetter("attempt_number", "part")):
        of_job = attempts[attempt.job_id]
        if not of_job or of_job[-1].execution_id != attempt.execution_id:
            of_job.append(attempt)
        if attempt.text is not None:
            log.append(attempt.text)
    return StoredRun(row, dag, attempts, "".join(log))


_log_of_attempt = bindparam("log_of_attempt", type_=Integer)
_of_chosen = (
    (_l.execution_id == _e.execution_id)
    & (_e.job_id == bindparam("log_of_job"))
    & ((_e.attempt_number == _log_of_attempt) | (_log_of_attempt.is_(None) & is_last_attempt))
)
_ATTEMPTS: Select[Any] = select(job_executions).where(_e.dag_id == bindparam("dag_id"))
_OF_RUN = Together(
    _WITH_DEFINITION,
    _ATTEMPTS.add_columns(literal(0).label("part"), cast(null(), Text).label("text")),
)
_OF_RUN_WITH_LOG = Together(
    _WITH_DEFINITION,
    # One of the attempts comes once for each part of its log.
    _ATTEMPTS.add_columns(func.coalesce(_l.part, 0).label("part"), _l.text).select_from(
        job_executions.outerjoin(attempt_logs, _of_chosen)
    ),
)


_first = dag_runs.alias("first")
_FIRST_OF_THEIR_DEFINITION: Select[Any] = select(
    *_RUN_COLUMNS, cast(_r.definition, Text).label("definition")
).where(
    _r.dag_id.in_(
        select(func.min(_first.c.dag_id))
        .where(
            _first.c.market_id == bindparam("market"),
            _first.c.as_of_date == bindparam("day"),
            _first.c.definition_hash.not_in(bindparam("known", expanding=True)),
        )
        .group_by(_first.c.definition_hash)
    )
)
_OF_DAY = Together(
    select(*_RUN_COLUMNS)
    .where(_r.market_id == bindparam("market"), _r.as_of_date == bindparam("day"))
    .order_by(_r.dag_id.desc())
    .limit(bindparam("most_runs")),
    select(
        *(_e.dag_id, _e.job_id, _e.status, _e.attempt_number, _e.cancel_asked_by),
        *(_e.scheduled_at, _e.started_at, _e.started_market_at, _e.completed_at),
    )
    .where(_e.market_id == bindparam("market"), _e.as_of_date == bindparam("day"))
    .order_by(_e.scheduled_at.nulls_last(), _e.started_at, _e.job_id, _e.attempt_number)
    .limit(bindparam("most_attempts")),
    _FIRST_OF_THEIR_DEFINITION,
)


def read_day(
    connection: Connection, market_id: str, day: date, *, most_runs: int, most_attempts: int
) -> tuple[list[Any], list[Any]]:
    """
    Read all runs of a session and their attempts, in one statement.

    The definitions that this process has not met are in it, for whoever loads the DAGs of the runs.

    Returns:
        Runs as `list_runs` has them; and of attempts what is drawn and `deadlines_of` needs, the
        job that was due first first.
    """
    asked = {"market": market_id, "day": day, "known": known_definitions()}
    most = {"most_runs": most_runs, "most_attempts": most_attempts}
    runs, attempts, definitions = _OF_DAY.read(connection, asked | most)
    keep_dags(runs, definitions)
    runs.sort(key=attrgetter("dag_id"), reverse=True)
    never = datetime.max.replace(tzinfo=UTC)
    attempts.sort(
        key=lambda row: (
            *(row.scheduled_at or never, row.started_at or never),
            *(row.job_id, row.attempt_number),
        )
    )
    return runs, attempts


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


def _count(which: ColumnElement[bool]) -> ColumnElement[int]:
    return func.sum(case((which, 1), else_=0), type_=Integer)


_queued = in_state(job_executions, JobStatus.QUEUED)
_running = is_live & in_state(job_executions, JobStatus.RUNNING)
_due = _e.scheduled_at <= bindparam("now")
_LOADS: Select[Any] = (
    select(
        _e.queue,
        _count(_queued & _due).label("waiting"),
        _count(_queued & ~_due).label("delayed"),
        _count(in_state(job_executions, JobStatus.RUNNING)).label("running"),
        func.min(case((_queued & _due, _e.scheduled_at))).label("waiting_since"),
    )
    .where(is_live)
    .group_by(_e.queue)
)


_QUEUES = Together(
    select(_w.queues).where(_w.ended_at.is_(None), _w.expires_at > bindparam("now")), _LOADS
)


def read_queues(
    connection: Connection, now: datetime
) -> tuple[list[Mapping[str, Any]], dict[str, QueueLoad]]:
    """
    Read who listens to which queues, and what is queued and runs, in one statement.

    Args:
        now: Wall time.

    Returns:
        The ``queues`` of each worker that holds a lease; and queue -> load, where a queue in which
        nothing waits or runs is left out.
    """
    workers, loads = _QUEUES.read(connection, {"now": now})
    return [{"queues": row.queues} for row in workers], _loads_of(loads)


def _loads_of(rows: Iterable[Any]) -> dict[str, QueueLoad]:
    return {
        row.queue: QueueLoad(row.waiting, row.delayed, row.running, row.waiting_since)
        for row in rows
    }


_LOADS_AND_BUSY = Together(
    _LOADS,
    select(_e.incarnation, func.count().label("running")).where(_running).group_by(_e.incarnation),
)


def read_loads_and_busy(
    connection: Connection, now: datetime
) -> tuple[dict[str, QueueLoad], dict[str, int]]:
    """
    Read the loads of `read_queues`, and count what workers run, in one statement.

    Returns:
        Also incarnation -> executions; one that runs nothing is left out.
    """
    loads, busy = _LOADS_AND_BUSY.read(connection, {"now": now})
    return _loads_of(loads), {row.incarnation: row.running for row in busy}


@dataclass(frozen=True, slots=True)
class Bustle:
    """Who is at work and on what, and what was done and is wrong."""

    workers: list[tuple[Any, list[Any]]]
    """Rows of ``worker_incarnations`` that have not ended, nor been given up; and ``dag_id``,
    ``job_id`` and ``begun_at`` of what each runs, the oldest first."""
    loads: Mapping[str, QueueLoad]
    """See `read_queues`."""
    standbys: list[Any]
    """Rows of ``standbys``."""
    alerts: list[Any]
    """Those that are open; see `list_alerts`."""
    audited: list[Any]
    """See `list_audit`."""


_BUSTLE = Together(
    select(worker_incarnations, _e.dag_id, _e.job_id, _e.started_at.label("begun_at"))
    .outerjoin_from(
        worker_incarnations, job_executions, (_e.incarnation == _w.incarnation) & _running
    )
    .where(_w.ended_at.is_(None)),
    _LOADS,
    STANDBYS,
    alerts_query(AlertFilter(is_open=True)).limit(bindparam("most_alerts")),
    _audit_query(AuditFilter()).limit(bindparam("most_audited")),
)


def read_bustle(
    connection: Connection, now: datetime, *, most_alerts: int, most_audited: int
) -> Bustle:
    """
    Read all of it in one statement.

    Args:
        now: Wall time.
    """
    asked = {"now": now, "most_alerts": most_alerts, "most_audited": most_audited}
    crew, loads, standbys, alerts, audited = _BUSTLE.read(connection, asked)
    # Of what runs it is known since when; of a worker without it there is one row.
    crew.sort(key=lambda row: (row.worker, row.incarnation, row.begun_at))
    by_worker = [list(rows) for _, rows in groupby(crew, key=attrgetter("incarnation"))]
    return Bustle(
        [(rows[0], [row for row in rows if row.dag_id is not None]) for rows in by_worker],
        _loads_of(loads),
        standbys,
        sorted(alerts, key=attrgetter("alert_id"), reverse=True),
        sorted(audited, key=attrgetter("audit_id"), reverse=True),
    )


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
    not_ended = is_still(job_executions, JobStatus.PENDING, JobStatus.QUEUED, JobStatus.RUNNING)
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


def read_first_seen(connection: Connection) -> dict[tuple[str, str], datetime]:
    """Return since when this database has seen pipelines: name and market -> market time."""
    rows = connection.execute(
        select(pipelines.c.name, pipelines.c.market_id, pipelines.c.first_seen_at)
    )
    return {(row.name, row.market_id): row.first_seen_at for row in rows}
