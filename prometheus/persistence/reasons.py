"""What `prometheus.orchestration.reasons` is asked with: one run, and who is at work on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from operator import attrgetter
from statistics import median
from typing import Any

from sqlalchemy import (
    Connection,
    ScalarSelect,
    Select,
    String,
    Text,
    bindparam,
    case,
    cast,
    exists,
    select,
    union_all,
)

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import PrometheusError
from prometheus.orchestration.dag import DAG, dag_id_for
from prometheus.orchestration.decisions import JobState, RunState, Snapshot
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
from prometheus.orchestration.pauses import Pause
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.planning import LOOKS_BACK, session_bounds
from prometheus.orchestration.reasons import Unmade
from prometheus.orchestration.windows import SessionBounds
from prometheus.persistence import leases
from prometheus.persistence.backfills import TURN, turn_of
from prometheus.persistence.clock import READ_NOW, Now, now_of
from prometheus.persistence.pauses import HOLDING, pause_of
from prometheus.persistence.runs import (
    OF_JOBS,
    RUNS,
    SESSIONS_WITH_RUNS,
    job_states,
    keep_dags,
    known_definitions,
    load_dag,
    run_state,
)
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
from prometheus.persistence.tables import leases as leases_table
from prometheus.persistence.together import Together

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
_l = leases_table.c


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


@dataclass(frozen=True, slots=True)
class NoRun:
    """That there is no run of a name, and what is known without it."""

    now: Now
    at_work: AtWork
    pauses: tuple[Pause, ...]
    first_seen: Mapping[tuple[str, str], datetime]
    """Pipeline and market -> market time when this database first saw them together."""


_later = job_executions.alias("later")
_ATTEMPTS: Select[Any] = select(
    *OF_JOBS,
    _e.attempt_number,
    _e.created_at,
    _e.timeout_seconds,
    _e.retries,
    _e.published_at,
    _e.started_at,
    _e.completed_at,
    _e.hard_limit_at,
    _e.worker,
    _e.incarnation,
    _e.cancel_asked_by,
    _e.cancel_at,
    _e.error_message,
    _e.result,
).where(
    # A sensor that waits for hours has hundreds; these are the last two.
    ~exists().where(
        _later.c.dag_id == _e.dag_id,
        _later.c.job_id == _e.job_id,
        _later.c.attempt_number > _e.attempt_number + 1,
    ),
)
_LEADER = select(_l.owner, _l.expires_at, _l.ticked_at, _l.broker_lost_at).where(
    _l.name == bindparam("leadership")
)
_WORKERS = select(
    _w.incarnation, _w.worker, _w.queues, _w.started_at, _w.renewed_at, _w.expires_at
).where(_w.ended_at.is_(None))
_BY_NAME = Together(
    READ_NOW,
    RUNS.add_columns(
        *(_r.pipeline, _r.market_id, _r.as_of_date, _r.trigger, _r.opens_at, _r.completed_at),
        case(
            (
                _r.definition_hash.not_in(bindparam("known", expanding=True)),
                cast(_r.definition, Text),
            )
        ).label("definition"),
    ).where(_r.dag_id == bindparam("of")),
    _ATTEMPTS.where(_e.dag_id == bindparam("of")),
    HOLDING,
    _LEADER,
    _WORKERS,
    select(
        _e.execution_id, _e.dag_id, _e.job_id, _e.incarnation, _e.hard_limit_at, _e.started_at
    ).where(is_live, in_state(job_executions, JobStatus.RUNNING)),
    select(audit.c.actor, audit.c.details)
    .where(audit.c.target == bindparam("of"), audit.c.action.in_(_ASKED_FOR))
    .order_by(audit.c.audit_id.desc())
    .limit(1),
    select(pipelines.c.name, pipelines.c.market_id, pipelines.c.first_seen_at).where(
        ~exists().where(_r.dag_id == bindparam("of"))
    ),
)
"""What can be asked of a run by its name alone."""


@cache
def _besides(timed: int) -> Together:
    """Ask what only who has read the run can, and how long jobs of so many runs usually take."""
    took = [_took(number) for number in range(timed)]
    return Together(
        _ATTEMPTS.where(
            _e.dag_id == bindparam("previous"), _e.job_id.in_(bindparam("jobs", expanding=True))
        ),
        select(_r.as_of_date).distinct().where(is_open, _r.market_id == bindparam("market")),
        TURN,
        leases.ORPHANS,
        select(_e.execution_id, _e.dag_id, _e.job_id, _e.priority, _e.published_at, _r.trigger)
        .join_from(job_executions, dag_runs)
        .where(
            is_live,
            in_state(job_executions, JobStatus.QUEUED),
            _e.queue == bindparam("queue"),
            _e.scheduled_at <= bindparam("now"),
        ),
        select(_w.worker, _w.queues, _w.ended_at)
        .where(_w.ended_at.is_not(None))
        .order_by(_w.ended_at.desc())
        .limit(_ENDED_WORKERS),
        *([union_all(*took)] if took else []),
    )


def read_case(
    connection: Connection,
    dag_id: str,
    installation: Installation,
    follow: Callable[[Connection, Now], object],
) -> Case | NoRun:
    """
    Read a run, open or finished, and what explains it, in two statements.

    Args:
        connection: Of a transaction that sees one state of the database.
        follow: Lets calendars go by the overrides of that state.

    Raises:
        UnreadableRunError: This release can not read it.
    """
    (at,), found, attempts, holding, led, crew, running, asked, seen = _BY_NAME.read(
        connection,
        {"of": dag_id, "known": known_definitions(), "leadership": installation.leadership},
    )
    now = now_of(at)
    follow(connection, now)
    pauses = tuple(map(pause_of, sorted(holding, key=attrgetter("pause_id"))))
    at_work = _at_work(now, installation, led, crew)
    if not found:
        first_seen = {(each.name, each.market_id): each.first_seen_at for each in seen}
        return NoRun(now, at_work, pauses, first_seen)
    (row,) = found
    keep_dags(found, [row] if row.definition is not None else [])
    dag = load_dag(connection, dag_id, row.definition_hash)
    jobs, executions = _attempts(attempts)
    statuses = {state.status for state in jobs[dag_id].values()}
    queue = dag.market_id if JobStatus.QUEUED in statuses else None
    running = sorted(running, key=attrgetter("started_at")) if queue else []
    timed = _timed(dag, jobs[dag_id], at_work.workers, running)
    previous_run = _previous_run(dag) if dag.after_previous else None
    before, open_sessions, turn, orphans, waiting, ended, *took = _besides(len(timed)).read(
        connection,
        {
            "previous": previous_run,
            "jobs": list(dag.after_previous),
            "market": dag.market_id,
            "pipeline": dag.pipeline,
            "day": dag.as_of_date,
            # Also what the scheduler will only give up a minute later.
            "now": now.wall_at,
            "limit": now.wall_at,
            "queue": queue,
            **{f"of_{number}": of for number, of in enumerate(timed)},
            **{f"timed_{number}": sorted(of) for number, of in enumerate(timed.values())},
        },
    )
    usual = _usual(took[0] if took else ())
    statuses_before, executions_before = _attempts(before)
    sitting = _look_at_session(dag, [each.as_of_date for each in open_sessions])
    facts = Facts(
        at_work=replace(
            at_work,
            enabled=dag.market_id in installation.markets,
            last_worker=_last_worker(ended, queue) if queue else None,
            running=_running(running, usual),
            waiting=_waiting(waiting),
        ),
        clock=now.clock,
        opens_at=row.opens_at,
        trigger=row.trigger,
        completed_at=row.completed_at,
        executions=executions.get(dag_id, {}),
        calendar=sitting.calendar,
        held=sitting.held,
        closed=sitting.closed,
        previous_run=previous_run,
        previous={
            job_id: last
            for job_id, (*_, last) in executions_before.get(previous_run or "", {}).items()
            if last.status in (JobStatus.QUEUED, JobStatus.RUNNING)
        },
        orphans=_orphans(orphans, now) if JobStatus.RUNNING in statuses else {},
        usual={each.job_id: span for each, span in usual.items() if each.dag_id == dag_id},
        asked_by=_asked_by(asked),
        turn=turn_of(turn, dag.pipeline, dag.market_id, pauses),
    )
    previous = {
        job_id: state.status
        for job_id, state in statuses_before.get(previous_run or "", {}).items()
    }
    run = run_state(row, dag, jobs[dag_id], previous or None)
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


def _look_at_session(dag: DAG, open_sessions: Iterable[date]) -> _Sitting:
    """Ask the calendar all that the scheduler asks it before it decides about a market's runs."""
    market_id, day = dag.market_id, dag.as_of_date
    calendar = None
    try:
        calendar = TradingCalendar(market_id)
        if not calendar.is_trading_day(day):
            return _Sitting(calendar, closed=why_closed(calendar, day))
        bounds = session_bounds(calendar, day)
        for other in open_sessions:
            if calendar.is_trading_day(other):
                session_bounds(calendar, other)  # it holds up the others where it has no answer
    except PrometheusError as error:
        return _Sitting(calendar, held=str(error))
    return _Sitting(calendar, bounds)


def _attempts(
    rows: Iterable[Any],
) -> tuple[dict[str, dict[str, JobState]], dict[str, dict[str, tuple[Execution, ...]]]]:
    """Make of `_ATTEMPTS` the states of jobs, and their last attempts, by their runs."""
    in_order = sorted(rows, key=attrgetter("attempt_number"))
    found: dict[str, dict[str, tuple[Execution, ...]]] = defaultdict(lambda: defaultdict(tuple))
    for row in in_order:
        found[row.dag_id][row.job_id] += (
            Execution(
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
            ),
        )
    return job_states(row[: len(OF_JOBS)] for row in in_order), found


def _orphans(rows: Iterable[Any], now: Now) -> dict[str, str]:
    return {each.execution_id: each.message for each in leases.orphans_of(rows, now.wall_at)}


def _timed(
    dag: DAG, jobs: Mapping[str, JobState], workers: Iterable[Worker], running: Iterable[Any]
) -> dict[str, set[str]]:
    """Choose the jobs by whose usual durations it is told when something ends, by their runs."""
    to_come = {job_id for job_id, state in jobs.items() if state.status not in FINAL}
    if len(to_come) > _MOST_TIMED:
        to_come = {job for job in to_come if jobs[job].status is JobStatus.RUNNING}
    wanted = {dag.dag_id: to_come} if to_come else {}
    serving = {each.incarnation for each in workers if dag.market_id in each.queues}
    for each in running:
        known = each.dag_id in wanted or len(wanted) <= _MOST_OCCUPANTS
        if each.incarnation in serving and known:
            wanted.setdefault(each.dag_id, set()).add(each.job_id)
    return wanted


def _usual(rows: Iterable[Any]) -> dict[JobRef, timedelta]:
    """Return the median duration of jobs of runs, over the sessions before each run's own."""
    took: dict[JobRef, list[float]] = defaultdict(list)
    for row in rows:
        span = (row.completed_at - row.started_at).total_seconds()
        took[JobRef(row.of, row.job_id)].append(span)
    return {job: timedelta(seconds=median(spans)) for job, spans in took.items()}


def _took(number: int) -> Select[Any]:
    own, before = dag_runs.alias("own"), dag_runs.alias("before")
    dag_id = bindparam(f"of_{number}", type_=String)

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
    return select(dag_id.label("of"), _e.job_id, _e.started_at, _e.completed_at).where(
        _e.dag_id.in_(earlier),
        _e.job_id.in_(bindparam(f"timed_{number}", expanding=True)),
        _e.status == JobStatus.SUCCESS,
        _e.started_at.is_not(None),
    )


def _asked_by(rows: Sequence[Any]) -> str | None:
    if not rows:
        return None
    (row,) = rows
    backfill = row.details.get("backfill")
    return row.actor if backfill is None else f"backfill {backfill} by {row.actor}"


# --- who is at work -----------------------------------------------------------------------------


def _at_work(
    now: Now, installation: Installation, led: Sequence[Any], crew: Iterable[Any]
) -> AtWork:
    """Tell who is at work, by rows of `_LEADER` and `_WORKERS`."""
    return AtWork(
        wall_at=now.wall_at,
        leader=_leader(led[0]) if led else None,
        silent_after=installation.silent_after,
        workers=tuple(map(_worker, sorted(crew, key=attrgetter("worker")))),
    )


def _leader(row: Any) -> Leader:
    return Leader(
        owner=row.owner,
        expires_at=row.expires_at,
        ticked_at=row.ticked_at,
        broker_lost_at=row.broker_lost_at,
    )


def _worker(row: Any) -> Worker:
    return Worker(
        incarnation=row.incarnation,
        name=row.worker,
        queues=frozenset(row.queues),
        started_at=row.started_at,
        renewed_at=row.renewed_at,
        expires_at=row.expires_at,
    )


def _last_worker(ended: Iterable[Any], queue: str) -> tuple[str, datetime] | None:
    served = [row for row in ended if queue in row.queues]
    last = max(served, key=attrgetter("ended_at"), default=None)
    return (last.worker, last.ended_at) if last is not None else None


def _running(rows: Iterable[Any], usual: Mapping[JobRef, timedelta]) -> tuple[Running, ...]:
    return tuple(
        Running(
            execution_id=row.execution_id,
            job=(job := JobRef(row.dag_id, row.job_id)),
            incarnation=row.incarnation,
            hard_limit_at=row.hard_limit_at,
            started_at=row.started_at,
            usual=usual.get(job),
        )
        for row in rows
    )


def _waiting(rows: Iterable[Any]) -> tuple[Waiting, ...]:
    never = datetime.max.replace(tzinfo=UTC)
    return tuple(
        Waiting(
            execution_id=row.execution_id,
            job=JobRef(row.dag_id, row.job_id),
            background=row.trigger in BACKGROUND_TRIGGERS,
            priority=row.priority,
            published_at=row.published_at,
        )
        for row in sorted(rows, key=lambda row: row.published_at or never)
    )


# --- of a run that is not there -----------------------------------------------------------------


_UNMADE = Together(SESSIONS_WITH_RUNS, TURN)


def read_unmade(
    connection: Connection,
    missing: NoRun,
    pipeline: Pipeline,
    market_id: str,
    session_date: date,
    installation: Installation,
) -> Unmade:
    """Read what decides whether a run that is not there will be, in one statement."""
    first_seen_at = missing.first_seen.get((pipeline.name, market_id))
    since = ((first_seen_at or missing.now.market_at) - LOOKS_BACK).date()
    existing, turn = _UNMADE.read(
        connection,
        {"pipeline": pipeline.name, "market": market_id, "since": since, "day": session_date},
    )
    calendar, held = None, None
    try:
        calendar = TradingCalendar(market_id)
    except PrometheusError as error:
        held = str(error)
    return Unmade(
        pipeline=pipeline,
        market_id=market_id,
        session_date=session_date,
        at_work=replace(missing.at_work, enabled=market_id in installation.markets),
        calendar=calendar,
        held=held,
        existing=frozenset(each.as_of_date for each in existing),
        first_seen_at=first_seen_at,
        only=missing.now.only,
        makes_runs=installation.makes_runs,
        turn=turn_of(turn, pipeline.name, market_id, missing.pauses),
    )
