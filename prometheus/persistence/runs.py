"""Runs: made whole, read for a decision, closed with their last job."""

from __future__ import annotations

import json
import logging
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    JSON,
    BindParameter,
    ColumnElement,
    Connection,
    Insert,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    func,
    insert,
    literal_column,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

from prometheus.errors import PrometheusError
from prometheus.orchestration.dag import DAG, JobMetadata, definition_hash, sessions_of
from prometheus.orchestration.deadlines import Deadline
from prometheus.orchestration.decisions import JobState, RunState, Start
from prometheus.orchestration.following import CLOSED
from prometheus.orchestration.lifecycle import (
    BLOCKING,
    JobStatus,
    RunStatus,
    allowed_from,
    run_status,
)
from prometheus.persistence.clock import READ_NOW, Now, now_of
from prometheus.persistence.metadata import database_now
from prometheus.persistence.tables import (
    dag_runs,
    horizon_warnings,
    is_open,
    is_still,
    job_executions,
    market_clock,
    pipelines,
)

log = logging.getLogger(__name__)

_r = dag_runs.c
_e = job_executions.c
# What runs often is built once: building a statement takes longer than running it. A parameter is
# not named like a column, because an UPDATE would set that.
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)


def insert_new(connection: Connection, table: Table, values: dict[str, Any]) -> bool:
    """Insert one row unless a row with the same key exists; say whether it was inserted."""
    statement = _insert_new(connection.dialect.name, table)
    # SQLAlchemy keeps no row count of an INSERT, so the row itself says that it is new.
    return connection.execute(statement, values).first() is not None


@cache
def _insert_new(dialect: str, table: Table) -> ReturningInsert[Any]:
    kind = postgresql if dialect == "postgresql" else sqlite
    statement: ReturningInsert[Any] = (
        kind.insert(table).on_conflict_do_nothing().returning(*table.primary_key)
    )
    return statement


_FIRST_SEEN = select(pipelines.c.first_seen_at, pipelines.c.sessions).where(
    pipelines.c.name == bindparam("of"), pipelines.c.market_id == bindparam("market")
)


def first_seen(
    connection: Connection, pipeline: str, market_id: str, sessions: str, market_at: datetime
) -> datetime:
    """
    Return when this database first saw a pipeline run on some of a market's sessions.

    Args:
        sessions: Which, in words. Of a pipeline that ran on others until now, those are no sessions
            that it missed.
        market_at: Market time now, which is the answer, and is kept, if it never did.
    """
    asked = {"of": pipeline, "market": market_id}
    seen = connection.execute(_FIRST_SEEN, asked).first()
    if seen is None:
        values = {"name": pipeline, "market_id": market_id, "sessions": sessions}
        insert_new(connection, pipelines, {**values, "first_seen_at": market_at})
        seen = connection.execute(_FIRST_SEEN, asked).one()
    if seen.sessions != sessions:
        connection.execute(
            update(pipelines)
            .where(pipelines.c.name == pipeline, pipelines.c.market_id == market_id)
            .values(first_seen_at=market_at, sessions=sessions)
        )
        return market_at
    at: datetime = seen.first_seen_at
    return at


def seen_since(connection: Connection, pipeline: str, market_id: str) -> datetime:
    """Return what `first_seen` has kept; a later time where old runs have been removed since."""
    at: datetime = connection.execute(_FIRST_SEEN, {"of": pipeline, "market": market_id}).one()[0]
    return at


def note_horizon(connection: Connection, market_id: str, level: str, day: date) -> bool:
    """
    Note that a market's calendar is said to end; say whether it has not been said that day.

    Args:
        level: How loudly. That it is said louder than before is said on the same day, too.
    """
    values = {"market_id": market_id, "level": level, "said_on": day}
    if insert_new(connection, horizon_warnings, values):
        return True
    known = horizon_warnings.c
    changed = connection.execute(
        update(horizon_warnings)
        .where(known.market_id == market_id, (known.level != level) | (known.said_on != day))
        .values(level=level, said_on=day)
    )
    return changed.rowcount == 1


SESSIONS_WITH_RUNS = select(_r.as_of_date).where(
    _r.pipeline == bindparam("pipeline"),
    _r.market_id == bindparam("market"),
    _r.as_of_date >= bindparam("since"),
)


def sessions_with_runs(
    connection: Connection, pipeline: str, market_id: str, since: date
) -> frozenset[date]:
    """Return the session dates from ``since`` on that have a run."""
    asked = {"pipeline": pipeline, "market": market_id, "since": since}
    return frozenset(connection.execute(SESSIONS_WITH_RUNS, asked).scalars())


def create_run(
    connection: Connection,
    dag: DAG,
    *,
    opens_at: datetime,
    trigger: str,
    calendar_version: str,
    parameters: Mapping[str, Any],
    forced: bool = False,
    missed: str | None = None,
) -> bool:
    """
    Write a run and one execution for each of its jobs, unless the run exists.

    Args:
        dag: What to run; stored as it is now.
        opens_at: When the run opens, in market time.
        trigger: Why it is made, a `Trigger`.
        calendar_version: The calendar its windows are first made of.
        parameters: Handed to every job.
        forced: Its windows do not count.
        missed: Why its jobs are EXPIRED from the start, and the run FAILED with them.

    Returns:
        Whether this call made it.
    """
    definition = dag.definition()
    made = insert_new(
        connection,
        dag_runs,
        {
            "dag_id": dag.dag_id,
            "pipeline": dag.pipeline,
            "market_id": dag.market_id,
            "as_of_date": dag.as_of_date,
            "status": RunStatus.OPEN,
            "forced": forced,
            "trigger": trigger,
            "definition": definition,
            "definition_hash": definition_hash(definition),
            "parameters": dict(parameters),
            "calendar_version": calendar_version,
            "opens_at": opens_at,
        },
    )
    if not made:
        return False
    rows = [new_execution(dag, job) for job in dag]
    insert_executions(connection, rows)
    if missed:
        end_waiting(connection, {row["execution_id"]: missed for row in rows}, JobStatus.EXPIRED)
        close_run(connection, dag.dag_id)
    return True


@cache
def _insert_all(columns: tuple[str, ...]) -> Insert:
    rows = func.json_populate_recordset(
        literal_column("CAST(NULL AS job_executions)"), cast(bindparam("rows", type_=Text), JSON)
    )
    given = rows.table_valued(*columns, name="given")
    return insert(job_executions).from_select(columns, select(*given.c))


def insert_executions(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write executions whose rows have the same columns, on one way to the database and back."""
    if connection.dialect.name == "sqlite":  # to which there is no way
        connection.execute(insert(job_executions), rows)
    else:
        text = json.dumps(rows, default=str)
        connection.execute(_insert_all(tuple(rows[0])), {"rows": text})


def new_execution(dag: DAG, job: JobMetadata, **values: Any) -> dict[str, Any]:
    """Return the row of a job's next execution: its first, unless ``values`` say otherwise."""
    return {
        "execution_id": str(uuid.uuid4()),
        "dag_id": dag.dag_id,
        "job_id": job.job_id,
        "job_type": job.job_type,
        "market_id": dag.market_id,
        "as_of_date": dag.as_of_date,
        "status": JobStatus.PENDING,
        "attempt_number": 1,
        "retries": 0,
        "lost": 0,
        "queue": dag.market_id,
        "priority": int(job.priority),
        "forced": False,
        "timeout_seconds": int(job.timeout.total_seconds()),
        "publish_count": 0,
        **values,
    }


_dags: dict[tuple[str, str], DAG] = {}
_KEPT_DAGS = 256
"""How many a process keeps, or as many as were asked for together, if these are more."""


def load_dags(connection: Connection, runs: Iterable[tuple[str, str]]) -> dict[str, DAG]:
    """
    Return the DAGs of runs as they were stored; parsed once a process.

    Args:
        runs: Pairs of dag id and definition hash.

    Returns:
        Dag id to DAG, without those that this release can not read.
    """
    loaded = {run: _dags.pop(run, None) for run in runs}
    missing = [dag_id for (dag_id, _), dag in loaded.items() if dag is None]
    if missing:
        # The sessions of a pipeline differ in nothing else, and their jobs are most of a DAG.
        kept = (*_dags.items(), *loaded.items())
        alike = {definition: dag for (_, definition), dag in kept if dag is not None}
        columns = dag_runs.c
        for row in connection.execute(
            select(
                columns.dag_id,
                columns.definition_hash,
                # As text: SQLAlchemy would read the JSON of all rows, or of none.
                cast(columns.definition, Text).label("definition"),
                columns.pipeline,
                columns.market_id,
                columns.as_of_date,
            ).where(columns.dag_id.in_(missing))
        ):
            try:
                known = alike.get(row.definition_hash) or _read_dag(row)
            except Exception:  # whatever is wrong with it, it is the trouble of this run alone
                # Written by another release; it waits for one that can read it.
                log.exception("run_unreadable", extra={"dag": row.dag_id})
                continue
            alike[row.definition_hash] = known
            loaded[row.dag_id, row.definition_hash] = known.alike(
                row.dag_id, row.market_id, row.as_of_date
            )
    # What was used last is kept longest.
    _dags.update((run, dag) for run, dag in loaded.items() if dag is not None)
    surplus = len(_dags) - max(_KEPT_DAGS, len(loaded))
    if surplus > 0:
        for run in tuple(_dags)[:surplus]:  # a copy: other threads of the web app are at it, too
            _dags.pop(run, None)
    return {dag_id: dag for (dag_id, _), dag in loaded.items() if dag is not None}


def known_definitions() -> list[str]:
    """Return the hashes of the definitions that `load_dags` need not read, nor anybody for it."""
    return list({definition for _, definition in tuple(_dags)})


def keep_dags(runs: Iterable[Any], definitions: Iterable[Any]) -> None:
    """
    Keep the DAGs of runs for `load_dags`, which then asks for nothing.

    Args:
        runs: Their ``dag_id``, ``definition_hash``, ``market_id`` and ``as_of_date``.
        definitions: What `stored_dag` needs of one run of each definition that was not among the
            `known_definitions`, and its ``definition_hash``.
    """
    alike = {definition: dag for (_, definition), dag in tuple(_dags.items())}
    for row in definitions:
        with suppress(UnreadableRunError):  # it is said where the run is loaded
            alike[row.definition_hash] = stored_dag(row)
    for run in runs:
        key = (run.dag_id, run.definition_hash)
        if key not in _dags and (known := alike.get(run.definition_hash)) is not None:
            _dags[key] = known.alike(run.dag_id, run.market_id, run.as_of_date)


class UnreadableRunError(PrometheusError):
    """A run that this release can not read."""

    def __init__(self, dag_id: str) -> None:
        super().__init__(
            f"The run {dag_id} can not be read: another release wrote it, or its row is damaged. "
            f"The log says more. It can be cancelled."
        )


def load_dag(connection: Connection, dag_id: str, definition_hash: str) -> DAG:
    """
    Return the DAG of one run as it was stored.

    Raises:
        UnreadableRunError: This release can not read it.
    """
    dag = load_dags(connection, [(dag_id, definition_hash)]).get(dag_id)
    if dag is None:
        raise UnreadableRunError(dag_id)
    return dag


def stored_dag(row: Any) -> DAG:
    """
    Return the DAG of a run's row that was read with its definition, as text.

    Raises:
        UnreadableRunError: This release can not read it.
    """
    try:
        return _read_dag(row)
    except Exception:  # whatever is wrong with it, it is the trouble of this run alone
        log.exception("run_unreadable", extra={"dag": row.dag_id})
        raise UnreadableRunError(row.dag_id) from None


def _read_dag(row: Any) -> DAG:
    definition = json.loads(row.definition)
    limit, deadline = definition.get("run_timeout_seconds"), definition.get("deadline")
    dag = DAG(
        row.dag_id,
        [JobMetadata.from_json(job) for job in definition["jobs"]],
        pipeline=row.pipeline,
        market_id=row.market_id,
        as_of_date=row.as_of_date,
        run_timeout=None if limit is None else timedelta(seconds=limit),
        sessions=sessions_of(definition),
        deadline=Deadline.parse(deadline) if deadline else None,
    )
    dag.topological_order()  # raises if no decision could be made of it
    return dag


_STATUS = {status.value: status for status in JobStatus}
RUNS = select(
    _r.dag_id, _r.definition_hash, _r.forced, _r.created_at, _r.status, _r.calendar_version
)
"""What `run_state` needs of a run."""
_OPEN_RUNS = RUNS.where(is_open)
_OPEN_RUN = _OPEN_RUNS.where(_r.dag_id == bindparam("of"))
OF_JOBS: tuple[ColumnElement[Any], ...] = (
    _e.dag_id,
    _e.job_id,
    _e.execution_id,
    _e.status,
    _e.forced,
    _e.scheduled_at,
    _e.cancel_asked_at,
    and_(
        _e.status == literal_column(f"'{JobStatus.CANCELLED}'"),
        _e.error_message.startswith(CLOSED, autoescape=True),
    ).label("dropped"),
)
"""What `job_states` needs of executions."""
_JOBS: Select[Any] = (
    select(*OF_JOBS).join_from(dag_runs, job_executions).order_by(_e.attempt_number)
)
_OPEN_JOBS = _JOBS.where(is_open)
_OPEN_JOBS_OF_RUN = _OPEN_JOBS.where(_r.dag_id == bindparam("of"))
_SOME_RUNS = RUNS.where(_r.dag_id.in_(_IDS))
_JOBS_OF_SOME_RUNS = _JOBS.where(_r.dag_id.in_(_IDS))


def read_open_runs(
    connection: Connection,
    previous_run: Callable[[DAG], str | None],
    *,
    dag_id: str | None = None,
) -> tuple[RunState, ...]:
    """
    Read what a decision about open runs needs.

    Args:
        previous_run: Of a run's DAG, the dag id that the pipeline's session before has or would
            have; ``None`` where there is none.
        dag_id: Only this run, if it is open.
    """
    if dag_id is None:
        found = connection.execute(_OPEN_RUNS).all()
    else:
        found = connection.execute(_OPEN_RUN, {"of": dag_id}).all()
    if not found:
        return ()
    if dag_id is None:
        rows = connection.execute(_OPEN_JOBS)
    else:
        rows = connection.execute(_OPEN_JOBS_OF_RUN, {"of": dag_id})
    return _run_states(connection, found, rows, previous_run)


def read_runs(
    connection: Connection, dag_ids: Collection[str], previous_run: Callable[[DAG], str | None]
) -> tuple[RunState, ...]:
    """Read what `read_open_runs` does, of some runs, whether open or finished."""
    if not dag_ids:
        return ()
    asked = {"ids": list(dag_ids)}
    found = connection.execute(_SOME_RUNS, asked).all()
    rows = connection.execute(_JOBS_OF_SOME_RUNS, asked)
    return _run_states(connection, found, rows, previous_run)


_FOLLOWING = (
    READ_NOW.add_columns(
        _r.forced.label("run_forced"),
        _r.created_at.label("run_created_at"),
        _r.calendar_version.label("run_calendar_version"),
        *OF_JOBS,
    )
    .select_from(dag_runs.join(job_executions).join(market_clock, true()))
    .where(_r.dag_id == bindparam("of"), is_open, _e.job_id.in_(_IDS))
    .order_by(_e.attempt_number)
)


def read_following(
    connection: Connection,
    dag: DAG,
    job_ids: Collection[str],
    previous_run: Callable[[DAG], str | None],
) -> tuple[Now, RunState] | None:
    """
    Read what a decision about some jobs of a run needs, and the time.

    Args:
        previous_run: As `read_open_runs` takes it.

    Returns:
        Of the run only those jobs and what they wait for; ``None`` if it is not open.
    """
    asked = {up for job_id in job_ids for up in dag.jobs[job_id].dependencies}.union(job_ids)
    rows = connection.execute(_FOLLOWING, {"of": dag.dag_id, "ids": list(asked)}).all()
    if not rows:
        return None
    jobs = job_states(row[-len(OF_JOBS) :] for row in rows)[dag.dag_id]
    waiting = [
        job_id
        for job_id in job_ids
        if dag.jobs[job_id].after_previous and jobs[job_id].status is JobStatus.PENDING
    ]
    before = previous_run(dag) if waiting else None
    previous = None if before is None else _statuses_of(connection, [before], waiting).get(before)
    row = rows[0]
    return now_of(row), RunState(
        dag,
        jobs,
        previous,
        forced=row.run_forced,
        created_at=row.run_created_at,
        calendar_version=row.run_calendar_version,
    )


_HELD_UP = (
    select(_e.job_id, _e.status)
    .where(
        _e.dag_id == bindparam("of"),
        _e.job_id.in_(_IDS),
        _e.completed_at.is_(None) | (_e.job_id == bindparam("ended")),
    )
    .order_by(_e.attempt_number)
)


def unfinished_beside(
    connection: Connection, dag_id: str, job_id: str, others: Collection[str]
) -> dict[str, JobStatus] | None:
    """
    Return those of some jobs of a run that have not finished, each with its state.

    Args:
        job_id: One that has ended, as far as the caller knows.

    Returns:
        ``None`` where that one is no SUCCESS.
    """
    asked = {"of": dag_id, "ended": job_id, "ids": [job_id, *others]}
    statuses = {name: _STATUS[status] for name, status in connection.execute(_HELD_UP, asked)}
    return statuses if statuses.pop(job_id, None) is JobStatus.SUCCESS else None


_ANY_LIVE = (
    select(_e.execution_id)
    .where(
        _e.dag_id == bindparam("of"),
        is_still(job_executions, JobStatus.QUEUED, JobStatus.RUNNING),
    )
    .limit(literal_column("1"))
)


def any_live(connection: Connection, dag_id: str) -> bool:
    """Say whether any job of a run is queued or running."""
    return connection.execute(_ANY_LIVE, {"of": dag_id}).first() is not None


def _run_states(
    connection: Connection,
    found: Sequence[Any],
    rows: Iterable[Any],
    previous_run: Callable[[DAG], str | None],
) -> tuple[RunState, ...]:
    dags = load_dags(connection, ((row.dag_id, row.definition_hash) for row in found))
    jobs = job_states(rows)
    before = {
        dag_id: previous
        for dag_id, dag in dags.items()
        if any(
            (job := jobs[dag_id][job_id]).status is JobStatus.PENDING or job.dropped
            for job_id in dag.after_previous
        )
        and (previous := previous_run(dag)) is not None
    }
    waiting = {job_id for dag_id in before for job_id in dags[dag_id].after_previous}
    earlier = _statuses_of(connection, set(before.values()), waiting)
    return tuple(
        run_state(row, dags[row.dag_id], jobs[row.dag_id], earlier.get(before.get(row.dag_id, "")))
        for row in found
        if row.dag_id in dags
    )


def job_states(rows: Iterable[Sequence[Any]]) -> dict[str, dict[str, JobState]]:
    """
    Make the states of jobs, by their runs.

    Args:
        rows: `OF_JOBS`, a later attempt after an earlier one, of which it stays.
    """
    jobs: dict[str, dict[str, JobState]] = defaultdict(dict)
    for of, job_id, execution_id, status, forced, scheduled_at, asked_at, dropped in rows:
        jobs[of][job_id] = JobState(
            execution_id, _STATUS[status], forced, scheduled_at, asked_at is not None, bool(dropped)
        )
    return jobs


def run_state(
    row: Any, dag: DAG, jobs: dict[str, JobState], previous: dict[str, JobStatus] | None
) -> RunState:
    """Make one of a row of `RUNS`."""
    return RunState(
        dag=dag,
        jobs=jobs,
        previous=previous,
        forced=row.forced,
        created_at=row.created_at,
        status=RunStatus(row.status),
        calendar_version=row.calendar_version,
    )


_STATUSES = (
    select(_e.dag_id, _e.job_id, _e.status).where(_e.dag_id.in_(_IDS)).order_by(_e.attempt_number)
)


_STATUSES_OF_JOBS = _STATUSES.where(_e.job_id.in_(bindparam("jobs", expanding=True)))


def _statuses_of(
    connection: Connection, dag_ids: Collection[str], job_ids: Collection[str]
) -> dict[str, dict[str, JobStatus]]:
    """Return what `latest_statuses` does, of some jobs only."""
    statuses: dict[str, dict[str, JobStatus]] = defaultdict(dict)
    if dag_ids:
        asked = {"ids": list(dag_ids), "jobs": list(job_ids)}
        for dag_id, job_id, status in connection.execute(_STATUSES_OF_JOBS, asked):
            statuses[dag_id][job_id] = _STATUS[status]
    return dict(statuses)


def still_ready(connection: Connection, starts: Collection[Start]) -> list[Start]:
    """
    Keep the starts whose upstream jobs have all succeeded.

    Args:
        starts: The caller has locked the runs of those that have upstream jobs, so that no operator
            gives one of these another attempt meanwhile.
    """
    upstream = {job_id for start in starts for job_id in start.job.dependencies}
    waiting = {start.dag_id for start in starts if start.job.dependencies}
    statuses = _statuses_of(connection, waiting, upstream)
    return [
        start
        for start in starts
        if all(
            statuses[start.dag_id].get(job_id) is JobStatus.SUCCESS
            for job_id in start.job.dependencies
        )
    ]


def latest_statuses(
    connection: Connection, dag_ids: Collection[str]
) -> dict[str, dict[str, JobStatus]]:
    """Return the state of every job of some runs: dag id -> job id -> state; no row, no entry."""
    statuses: dict[str, dict[str, JobStatus]] = defaultdict(dict)
    if dag_ids:
        for dag_id, job_id, status in connection.execute(_STATUSES, {"ids": list(dag_ids)}):
            statuses[dag_id][job_id] = _STATUS[status]
    return dict(statuses)


# NO KEY UPDATE, here and everywhere: a plain FOR UPDATE would collide with the foreign key of a
# successor's row, or of a row that a job writes for its own execution.
_LOCK_RUNS = (
    select(_r.dag_id, _r.calendar_version)
    .where(_r.dag_id.in_(_IDS))
    .order_by(_r.dag_id)
    .with_for_update(key_share=True)
)
_LOCK_EXECUTIONS = (
    select(_e.execution_id)
    .where(_e.execution_id.in_(_IDS))
    .order_by(_e.execution_id)
    .with_for_update(key_share=True)
)


def lock_runs(connection: Connection, dag_ids: Collection[str]) -> dict[str, str]:
    """
    Lock runs against operators and each other's closing, always in the same order.

    Taken before any execution's lock, so that no two transactions can wait for each other.

    Returns:
        The version of the calendar that each follows; nobody brings it to another one meanwhile.
    """
    if not dag_ids:
        return {}
    rows = connection.execute(_LOCK_RUNS, {"ids": list(dag_ids)})
    return {row.dag_id: row.calendar_version for row in rows}


def lock_in_order(connection: Connection, execution_ids: Collection[str]) -> None:
    """Lock several executions, always in the same order, until the transaction ends."""
    # A write transaction of SQLite holds the only lock that there is.
    if execution_ids and connection.dialect.name != "sqlite":
        connection.execute(_LOCK_EXECUTIONS, {"ids": list(execution_ids)}).all()


_RUNS_OF_EXECUTIONS = select(_e.execution_id, _e.dag_id).where(_e.execution_id.in_(_IDS))
_LOCK_WAITING = (
    select(_e.execution_id)
    .where(
        _e.execution_id.in_(_IDS),
        _e.status.in_(bindparam("from_statuses", expanding=True)),
    )
    .with_for_update(key_share=True, skip_locked=True)
)
_END = (
    update(job_executions)
    .where(
        _e.execution_id.in_(_IDS),
        _e.status.in_(bindparam("from_statuses", expanding=True)),
    )
    .values(
        status=bindparam("to_status"),
        error_message=bindparam("reason"),
        completed_at=database_now(),
        updated_at=database_now(),
    )
    .returning(_e.execution_id)
)


def end_waiting(connection: Connection, reasons: Mapping[str, str], status: JobStatus) -> list[str]:
    """
    End executions that have not started: SKIPPED, EXPIRED or CANCELLED.

    Args:
        reasons: Execution id -> why.

    Returns:
        The ids that were changed. One stays as it is that has started or ended meanwhile, that is
        being changed in another transaction, or that was to be skipped because of an upstream job
        that an operator has meanwhile given a new attempt.
    """
    if not reasons:
        return []
    found = connection.execute(_RUNS_OF_EXECUTIONS, {"ids": list(reasons)})
    run_of: dict[str, str] = {row.execution_id: row.dag_id for row in found}
    # An operator's new attempts are written under the same lock.
    lock_runs(connection, set(run_of.values()))
    # RUNNING can be cancelled, and a sensor skipped, but it has started.
    unstarted = [each for each in allowed_from(status) if each is not JobStatus.RUNNING]
    asked = {"ids": list(reasons), "from_statuses": unstarted}
    waiting = set(connection.execute(_LOCK_WAITING, asked).scalars())
    if status is JobStatus.SKIPPED:
        waiting = _still_blocked(connection, waiting, run_of)
    by_reason: dict[str, list[str]] = defaultdict(list)
    for execution_id in waiting:
        by_reason[reasons[execution_id]].append(execution_id)
    ended: list[str] = []
    for reason, execution_ids in sorted(by_reason.items()):
        ended += connection.execute(
            _END,
            {
                "ids": execution_ids,
                "from_statuses": unstarted,
                "to_status": status,
                "reason": reason,
            },
        ).scalars()
    return ended


def _still_blocked(
    connection: Connection, execution_ids: set[str], run_of: Mapping[str, str]
) -> set[str]:
    """Keep the executions that have an upstream job which can not succeed any more."""
    dag_ids = {run_of[execution_id] for execution_id in execution_ids}
    if not dag_ids:
        return set()
    dags = load_dags(
        connection,
        (
            (row.dag_id, row.definition_hash)
            for row in connection.execute(
                select(dag_runs.c.dag_id, dag_runs.c.definition_hash).where(
                    dag_runs.c.dag_id.in_(dag_ids)
                )
            )
        ),
    )
    latest: dict[str, dict[str, tuple[str, JobStatus]]] = defaultdict(dict)
    for row in connection.execute(
        select(
            job_executions.c.dag_id,
            job_executions.c.job_id,
            job_executions.c.execution_id,
            job_executions.c.status,
        )
        .where(job_executions.c.dag_id.in_(dag_ids))
        .order_by(job_executions.c.attempt_number)
    ):
        latest[row.dag_id][row.job_id] = (row.execution_id, JobStatus(row.status))
    blocked: set[str] = set()
    for dag_id, dag in dags.items():
        for job_id in dag.topological_order():
            execution_id, _ = latest[dag_id][job_id]
            if execution_id in execution_ids and any(
                latest[dag_id][upstream][1] in BLOCKING or latest[dag_id][upstream][0] in blocked
                for upstream in dag.jobs[job_id].dependencies
            ):
                blocked.add(execution_id)
    return blocked


_LOCK_OPEN_RUN = (
    select(_r.dag_id).where(_r.dag_id == bindparam("of"), is_open).with_for_update(key_share=True)
)
_CLOSE_RUN = (
    update(dag_runs)
    .where(_r.dag_id == bindparam("of"))
    .values(
        status=bindparam("to_status"),
        completed_at=database_now(),
        updated_at=database_now(),
    )
)


def close_run(connection: Connection, dag_id: str) -> RunStatus | None:
    """
    Give an open run its final state, if all its jobs have one.

    Returns:
        The state, or ``None`` when a job is unfinished or the run was closed before.
    """
    # The lock comes in a statement of its own: an operator who reopens a job holds it too, and only
    # a statement that begins after it was granted sees the operator's row.
    locked = connection.execute(_LOCK_OPEN_RUN, {"of": dag_id}).first()
    if locked is None:
        return None
    status = run_status(latest_statuses(connection, [dag_id])[dag_id].values())
    if status is RunStatus.OPEN:
        return None
    connection.execute(_CLOSE_RUN, {"of": dag_id, "to_status": status})
    return status
