"""What `prometheus.orchestration.reasons` is asked with: one run, and who is at work on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from statistics import median
from typing import Any

from sqlalchemy import (
    Connection,
    ScalarSelect,
    Select,
    String,
    bindparam,
    exists,
    literal,
    select,
    union_all,
)

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import PrometheusError
from prometheus.orchestration.dag import DAG, dag_id_for
from prometheus.orchestration.decisions import RunState, Snapshot
from prometheus.orchestration.facts import (
    AtWork,
    Execution,
    Facts,
    JobRef,
    Leader,
    Running,
    Waiting,
    Worker,
)
from prometheus.orchestration.following import why_closed
from prometheus.orchestration.lifecycle import BACKGROUND_TRIGGERS, FINAL, JobStatus
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.planning import LOOKS_BACK, session_bounds
from prometheus.orchestration.reasons import Unmade
from prometheus.orchestration.windows import SessionBounds
from prometheus.persistence import leases
from prometheus.persistence.backfills import read_turn
from prometheus.persistence.clock import Now, read_now
from prometheus.persistence.pauses import read_pauses
from prometheus.persistence.runs import UnreadableRunError, read_runs, sessions_with_runs
from prometheus.persistence.tables import (
    audit,
    dag_runs,
    in_state,
    is_live,
    is_open,
    job_executions,
    pipelines,
    worker_incarnations,
)

SESSIONS_COUNTED = 20
"""Sessions before a run's own of which the median duration of a job is taken."""
_MOST_TIMED = 200
"""Jobs of a run to come of which it is taken; of one that has more, it is of those that run."""
_MOST_OCCUPANTS = 20
"""Runs whose jobs occupy workers of which it is taken."""
_ENDED_WORKERS = 50
"""Workers that are looked at to find the last one that served a queue."""
_ASKED_FOR = ("retry", "rerun", "run")
"""Actions of operators that give jobs attempts."""

_r = dag_runs.c
_e = job_executions.c
_w = worker_incarnations.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What an explanation takes from the settings, not from the database."""

    markets: Collection[str]
    """Those it works for."""
    leadership: str
    """Name of the lease of the scheduler that leads."""
    silent_after: timedelta
    """Without a complete tick for so long, a scheduler that leads is silent."""
    makes_runs: bool
    """Whether sessions make runs, or operators alone."""


@dataclass(frozen=True, slots=True)
class Case:
    """A run and all that explains it."""

    now: Now
    snapshot: Snapshot
    facts: Facts

    @property
    def run(self) -> RunState:
        """The run."""
        return self.snapshot.runs[0]


def read_case(connection: Connection, dag_id: str, installation: Installation) -> Case | None:
    """
    Read a run, open or finished, and what explains it.

    Args:
        connection: Of a transaction that sees one state of the database.

    Returns:
        ``None`` if there is no such run.

    Raises:
        UnreadableRunError: This release can not read it.
    """
    now = read_now(connection)
    row = connection.execute(
        select(_r.trigger, _r.opens_at, _r.completed_at).where(_r.dag_id == dag_id)
    ).first()
    if row is None:
        return None
    states = read_runs(connection, [dag_id], _previous_run)
    if not states:
        raise UnreadableRunError(dag_id)
    (run,) = states
    dag = run.dag
    sitting = _look_at_session(connection, run)
    statuses = {state.status for state in run.jobs.values()}
    pauses = read_pauses(connection)
    queue = JobStatus.QUEUED in statuses
    at_work = read_at_work(connection, dag.market_id, now, installation, queue=queue)
    usual = _usual(connection, _timed(run, at_work))
    previous_run = _previous_run(dag) if dag.after_previous else None
    executions, previous = _executions(connection, dag_id, previous_run)
    facts = Facts(
        at_work=replace(
            at_work,
            running=tuple(replace(each, usual=usual.get(each.job)) for each in at_work.running),
        ),
        clock=now.clock,
        opens_at=row.opens_at,
        trigger=row.trigger,
        completed_at=row.completed_at,
        executions=executions,
        calendar=sitting.calendar,
        held=sitting.held,
        closed=sitting.closed,
        previous_run=previous_run,
        previous=previous,
        orphans=_orphans(connection, now) if JobStatus.RUNNING in statuses else {},
        usual={each.job_id: took for each, took in usual.items() if each.dag_id == dag_id},
        asked_by=_asked_by(connection, dag_id),
        turn=read_turn(connection, dag.pipeline, dag.market_id, dag.as_of_date, pauses),
    )
    bounds = {(dag.market_id, dag.as_of_date): sitting.bounds} if sitting.bounds else {}
    snapshot = Snapshot((run,), bounds, now.wall_at, pauses)
    return Case(now, snapshot, facts)


def _previous_run(dag: DAG) -> str | None:
    try:
        before = dag.sessions.previous(TradingCalendar(dag.market_id), dag.as_of_date)
    except PrometheusError:
        return None
    return dag_id_for(dag.pipeline, dag.market_id, before)


@dataclass(frozen=True, slots=True)
class _Sitting:
    """What the calendar says of a run's session."""

    calendar: TradingCalendar | None = None
    bounds: SessionBounds | None = None
    held: str | None = None
    closed: str | None = None


def _look_at_session(connection: Connection, run: RunState) -> _Sitting:
    """Ask the calendar all that the scheduler asks it before it decides about a market's runs."""
    market_id, day = run.dag.market_id, run.dag.as_of_date
    calendar = None
    try:
        calendar = TradingCalendar(market_id)
        if not calendar.is_trading_day(day):
            return _Sitting(calendar, closed=why_closed(calendar, day))
        bounds = session_bounds(calendar, day)
        for other in _open_sessions(connection, market_id):
            if calendar.is_trading_day(other):
                session_bounds(calendar, other)  # it holds up the others where it has no answer
    except PrometheusError as error:
        return _Sitting(calendar, held=str(error))
    return _Sitting(calendar, bounds)


def _open_sessions(connection: Connection, market_id: str) -> list[date]:
    found = select(_r.as_of_date).distinct().where(is_open, _r.market_id == market_id)
    return list(connection.execute(found).scalars())


_later = job_executions.alias("later")
_LAST_TWO = (
    select(
        _e.dag_id,
        _e.job_id,
        _e.execution_id,
        _e.attempt_number,
        _e.status,
        _e.created_at,
        _e.timeout_seconds,
        _e.retries,
        _e.scheduled_at,
        _e.published_at,
        _e.started_at,
        _e.completed_at,
        _e.hard_limit_at,
        _e.worker,
        _e.incarnation,
        _e.cancel_asked_at,
        _e.cancel_asked_by,
        _e.cancel_at,
        _e.error_message,
        _e.result,
    )
    .where(
        _e.dag_id.in_((bindparam("of"), bindparam("previous"))),
        (_e.dag_id == bindparam("of")) | is_live,
        # A sensor that waits for hours has hundreds.
        ~exists().where(
            _later.c.dag_id == _e.dag_id,
            _later.c.job_id == _e.job_id,
            _later.c.attempt_number > _e.attempt_number + 1,
        ),
    )
    .order_by(_e.attempt_number)
)


def _executions(
    connection: Connection, dag_id: str, previous: str | None
) -> tuple[dict[str, tuple[Execution, ...]], dict[str, Execution]]:
    """Read the last two attempts of each job of a run, and what is live of the one before it."""
    found: dict[str, tuple[Execution, ...]] = defaultdict(tuple)
    before: dict[str, Execution] = {}
    for row in connection.execute(_LAST_TWO, {"of": dag_id, "previous": previous or dag_id}):
        execution = Execution(
            execution_id=row.execution_id,
            attempt_number=row.attempt_number,
            status=JobStatus(row.status),
            created_at=row.created_at,
            timeout=timedelta(seconds=row.timeout_seconds),
            retries=row.retries,
            scheduled_at=row.scheduled_at,
            published_at=row.published_at,
            started_at=row.started_at,
            completed_at=row.completed_at,
            hard_limit_at=row.hard_limit_at,
            worker=row.worker,
            incarnation=row.incarnation,
            cancel_asked_at=row.cancel_asked_at,
            cancel_asked_by=row.cancel_asked_by,
            cancel_at=row.cancel_at,
            error=row.error_message,
            result=row.result,
        )
        if row.dag_id == dag_id:
            found[row.job_id] += (execution,)
        else:
            before[row.job_id] = execution
    return found, before


def _orphans(connection: Connection, now: Now) -> dict[str, str]:
    """Ask the scheduler's own question; also of what it will only give up a minute later."""
    found = leases.find_orphans(connection, now.wall_at, over_limit_by=timedelta(0))
    return {each.execution_id: each.message for each in found}


def _timed(run: RunState, at_work: AtWork) -> dict[str, set[str]]:
    """Choose the jobs by whose usual durations it is told when something ends, by their runs."""
    dag = run.dag
    to_come = {job_id for job_id, state in run.jobs.items() if state.status not in FINAL}
    if len(to_come) > _MOST_TIMED:
        to_come = {job for job in to_come if run.jobs[job].status is JobStatus.RUNNING}
    wanted = {dag.dag_id: to_come} if to_come else {}
    serving = {each.incarnation for each in at_work.workers if dag.market_id in each.queues}
    for each in at_work.running:
        known = each.job.dag_id in wanted or len(wanted) <= _MOST_OCCUPANTS
        if each.incarnation in serving and known:
            wanted.setdefault(each.job.dag_id, set()).add(each.job.job_id)
    return wanted


def _usual(connection: Connection, wanted: Mapping[str, set[str]]) -> dict[JobRef, timedelta]:
    """
    Return the median duration of jobs of runs, over the sessions before each run's own.

    Args:
        wanted: Run -> jobs of it.
    """
    if not wanted:
        return {}
    took: dict[JobRef, list[float]] = defaultdict(list)
    asked = union_all(*(_took(dag_id, sorted(jobs)) for dag_id, jobs in wanted.items()))
    for row in connection.execute(asked):
        span = (row.completed_at - row.started_at).total_seconds()
        took[JobRef(row.of, row.job_id)].append(span)
    return {job: timedelta(seconds=median(spans)) for job, spans in took.items()}


def _took(dag_id: str, jobs: list[str]) -> Select[Any]:
    own, before = dag_runs.alias("own"), dag_runs.alias("before")

    def of_own(column: str) -> ScalarSelect[Any]:
        return select(own.c[column]).where(own.c.dag_id == dag_id).scalar_subquery()

    # Not joined: PostgreSQL would look for them among the last sessions of all runs, and go through
    # all where there are not so many.
    earlier = (
        select(before.c.dag_id)
        .where(
            before.c.pipeline == of_own("pipeline"),
            before.c.market_id == of_own("market_id"),
            before.c.as_of_date < of_own("as_of_date"),
        )
        .order_by(before.c.as_of_date.desc())
        .limit(SESSIONS_COUNTED)
    )
    return select(
        literal(dag_id, String).label("of"), _e.job_id, _e.started_at, _e.completed_at
    ).where(
        _e.dag_id.in_(earlier),
        _e.job_id.in_(jobs),
        _e.status == JobStatus.SUCCESS,
        _e.started_at.is_not(None),
    )


def _asked_by(connection: Connection, dag_id: str) -> str | None:
    asked = (
        select(audit.c.actor, audit.c.details)
        .where(audit.c.target == dag_id, audit.c.action.in_(_ASKED_FOR))
        .order_by(audit.c.audit_id.desc())
        .limit(1)
    )
    row = connection.execute(asked).first()
    if row is None:
        return None
    backfill = row.details.get("backfill")
    return row.actor if backfill is None else f"backfill {backfill} by {row.actor}"


# --- who is at work -----------------------------------------------------------------------------


def read_at_work(
    connection: Connection,
    market_id: str,
    now: Now,
    installation: Installation,
    *,
    queue: bool = False,
) -> AtWork:
    """
    Read who works for a market.

    Args:
        queue: Whether also to read what waits in its queue, and what its workers run.
    """
    led = leases.leader(connection, installation.leadership)
    return AtWork(
        wall_at=now.wall_at,
        leader=_leader(led) if led is not None else None,
        silent_after=installation.silent_after,
        workers=tuple(_worker(row) for row in leases.unended_workers(connection)),
        last_worker=_last_worker(connection, market_id) if queue else None,
        running=_running(connection) if queue else (),
        waiting=_waiting(connection, market_id, now.wall_at) if queue else (),
        enabled=market_id in installation.markets,
    )


def _leader(row: Mapping[str, Any]) -> Leader:
    return Leader(
        owner=row["owner"],
        expires_at=row["expires_at"],
        ticked_at=row["ticked_at"],
        broker_lost_at=row["broker_lost_at"],
    )


def _worker(row: Mapping[str, Any]) -> Worker:
    return Worker(
        incarnation=row["incarnation"],
        name=row["worker"],
        queues=frozenset(row["queues"]),
        started_at=row["started_at"],
        renewed_at=row["renewed_at"],
        expires_at=row["expires_at"],
    )


def _last_worker(connection: Connection, queue: str) -> tuple[str, datetime] | None:
    ended = (
        select(_w.worker, _w.queues, _w.ended_at)
        .where(_w.ended_at.is_not(None))
        .order_by(_w.ended_at.desc())
        .limit(_ENDED_WORKERS)
    )
    served = (row for row in connection.execute(ended) if queue in row.queues)
    return next(((row.worker, row.ended_at) for row in served), None)


def _running(connection: Connection) -> tuple[Running, ...]:
    rows = connection.execute(
        select(
            _e.execution_id, _e.dag_id, _e.job_id, _e.incarnation, _e.hard_limit_at, _e.started_at
        )
        .where(is_live, in_state(job_executions, JobStatus.RUNNING))
        .order_by(_e.started_at)
    )
    return tuple(
        Running(
            execution_id=row.execution_id,
            job=JobRef(row.dag_id, row.job_id),
            incarnation=row.incarnation,
            hard_limit_at=row.hard_limit_at,
            started_at=row.started_at,
        )
        for row in rows
    )


def _waiting(connection: Connection, queue: str, now: datetime) -> tuple[Waiting, ...]:
    rows = connection.execute(
        select(_e.execution_id, _e.dag_id, _e.job_id, _e.priority, _e.published_at, _r.trigger)
        .join_from(job_executions, dag_runs)
        .where(
            is_live,
            in_state(job_executions, JobStatus.QUEUED),
            _e.queue == queue,
            _e.scheduled_at <= now,
        )
        .order_by(_e.published_at)
    )
    return tuple(
        Waiting(
            execution_id=row.execution_id,
            job=JobRef(row.dag_id, row.job_id),
            background=row.trigger in BACKGROUND_TRIGGERS,
            priority=row.priority,
            published_at=row.published_at,
        )
        for row in rows
    )


# --- of a run that is not there -----------------------------------------------------------------


def read_unmade(
    connection: Connection,
    pipeline: Pipeline,
    market_id: str,
    session_date: date,
    installation: Installation,
) -> tuple[Now, Unmade]:
    """Read what decides whether a run that is not there will be, and the time of the look."""
    now = read_now(connection)
    first_seen_at = connection.execute(
        select(pipelines.c.first_seen_at).where(
            pipelines.c.name == pipeline.name, pipelines.c.market_id == market_id
        )
    ).scalar_one_or_none()
    since = ((first_seen_at or now.market_at) - LOOKS_BACK).date()
    calendar, held = None, None
    try:
        calendar = TradingCalendar(market_id)
    except PrometheusError as error:
        held = str(error)
    unmade = Unmade(
        pipeline=pipeline,
        market_id=market_id,
        session_date=session_date,
        at_work=read_at_work(connection, market_id, now, installation),
        calendar=calendar,
        held=held,
        existing=sessions_with_runs(connection, pipeline.name, market_id, since),
        first_seen_at=first_seen_at,
        only=now.only,
        makes_runs=installation.makes_runs,
        turn=read_turn(connection, pipeline.name, market_id, session_date, read_pauses(connection)),
    )
    return now, unmade
