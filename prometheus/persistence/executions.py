"""
One execution's way through its states; each change is a compare-and-set.

An expected loss (somebody else was first) is a return value, never an exception.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    BindParameter,
    ColumnElement,
    Connection,
    Date,
    Integer,
    Label,
    Row,
    Select,
    String,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from prometheus.core.durations import format_duration
from prometheus.core.holidays import HolidayKind, HolidayState
from prometheus.core.markets import get_market
from prometheus.core.overrides import override_stamp
from prometheus.core.trading_calendar import Phases, TradingCalendar
from prometheus.errors import (
    HorizonError,
    NoSessionError,
    PrometheusError,
    UnknownMarketError,
    UnreadableError,
)
from prometheus.orchestration.dag import DAG, JobMetadata
from prometheus.orchestration.decisions import Start
from prometheus.orchestration.lifecycle import FINAL, JobStatus, RunStatus, allowed_from
from prometheus.orchestration.planning import session_bounds
from prometheus.orchestration.sensor import (
    CONTINUE_STALE,
    FAIL,
    SKIP,
    Readiness,
    SensorRule,
    show_limit,
)
from prometheus.orchestration.timeouts import RUN_TIMEOUT, Timeout, run_timeout, start_timeout
from prometheus.orchestration.windows import Window
from prometheus.persistence.clock import (
    IS_LIVE_TIME,
    LATEST_OVERRIDE,
    READ_NOW,
    Now,
    now_of,
    read_now,
)
from prometheus.persistence.compiled import fetch
from prometheus.persistence.engine import PATIENCE_SECONDS
from prometheus.persistence.metadata import UtcDateTime, database_later, database_now
from prometheus.persistence.overrides import refresh
from prometheus.persistence.runs import (
    end_waiting,
    insert_new,
    keep_dags,
    load_dag,
    lock_in_order,
    new_execution,
)
from prometheus.persistence.tables import (
    dag_runs,
    failure_calls,
    has_failed,
    in_state,
    is_live,
    is_paused,
    is_queued,
    is_still,
    is_unsent,
    job_executions,
    market_clock,
    market_holidays,
    run_changes,
    worker_incarnations,
)

HARD_LIMIT_GRACE = timedelta(seconds=30)
"""How much later than the soft limit a worker kills the job."""
_CLOCKS_AGREE = timedelta(seconds=1)
"""By how much a worker's clock may be ahead of the database's before a retry is sent anew."""
_LONGEST_WAIT = timedelta(days=366)
"""That an error can ask for: an instant at the end of time can not be reckoned with."""
POISON = "workers were lost with it"
"""How it is said of an attempt that no other worker is risked after it."""
_LONGEST_REASON = 500
"""Characters that are repeated of why a sensor says no; its result has all of them."""
_NEVER = datetime.max.replace(tzinfo=UTC)

_e = job_executions.c
_asked = _e.cancel_asked_at.is_not(None)
_r = dag_runs.c
_h = market_holidays.c
# What runs often is built once: building a statement takes longer than running it. A parameter is
# not named like a column, because an UPDATE would set that.
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution, with the job that it is an attempt of."""

    execution_id: str
    dag: DAG
    job: JobMetadata
    attempt_number: int
    parameters: dict[str, Any]
    incarnation: str | None
    """Worker process that is running it; ``None`` once it has ended."""
    calendar_version: str | None = None
    """Which its run followed when it started."""


@dataclass(frozen=True, slots=True)
class Started:
    """The execution is ours to run."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Failed:
    """A final failure, whose ``on_failure`` is ours to call."""

    attempt: Attempt
    message: str


@dataclass(frozen=True, slots=True)
class Publication:
    """What a message needs to know of an execution."""

    execution_id: str
    dag_id: str
    pipeline: str
    job_type: str
    queue: str
    priority: int
    trigger: str
    retries: int
    timeout_seconds: int


_OF_EXECUTION = (
    _e.execution_id,
    _e.dag_id,
    _e.job_type,
    _e.queue,
    _e.priority,
    _e.retries,
    _e.timeout_seconds,
)
_OF_RUN = (_r.pipeline, _r.trigger)
_PUBLICATIONS: Select[Any] = select(*_OF_EXECUTION, *_OF_RUN).join_from(job_executions, dag_runs)


def _publication(row: Row[Any]) -> Publication:
    return Publication(
        row.execution_id,
        row.dag_id,
        row.pipeline,
        row.job_type,
        row.queue,
        row.priority,
        row.trigger,
        row.retries,
        row.timeout_seconds,
    )


def _of_its_run(column: ColumnElement[Any]) -> Label[Any]:
    """Return a column of its run with a changed execution."""
    # Written out: SQLAlchemy leaves the table's name away from what SQLite returns.
    of: ColumnElement[str] = literal_column("job_executions.dag_id")
    return select(column).where(_r.dag_id == of).scalar_subquery().label(column.name)


# The ids come first, here and below: a planner without statistics (of a new database, or one that
# was just restored) would begin with all open runs, or all that is PENDING, for an index that it
# could begin with. Locked, or a run could be brought to another calendar between this look at it
# and the change.
_AS_DECIDED = (
    select(_r.dag_id)
    .where(
        _r.dag_id.in_(bindparam("runs", expanding=True)),
        _r.calendar_version == bindparam("followed", type_=String),
        is_still(dag_runs, RunStatus.OPEN),
    )
    .with_for_update(read=True, skip_locked=True)
    .cte("as_decided")
)
# SKIP LOCKED: a row that another claimer holds is being claimed, and waiting for it in whatever
# order two claimers meet their rows could end in a deadlock.
_CLAIMABLE = (
    select(_e.execution_id)
    .where(
        _e.execution_id.in_(_IDS),
        is_still(job_executions, JobStatus.PENDING),
        func.coalesce(_e.dag_id, "").in_(select(_AS_DECIDED.c.dag_id)),
    )
    .with_for_update(key_share=True, skip_locked=True)
)
_CLAIM = (
    update(job_executions)
    .where(_e.execution_id.in_(_CLAIMABLE))  # which says that they are PENDING, and holds them
    .values(
        status=JobStatus.QUEUED,
        scheduled_at=database_now(),
        scheduled_market_at=bindparam("market_at"),
        window_opens_at=bindparam("opens_at"),
        window_closes_at=bindparam("closes_at"),
        updated_at=database_now(),
    )
    .returning(*_OF_EXECUTION, *map(_of_its_run, _OF_RUN))
)
_NOTED = {
    # One instant for all that are sent together: who comes first is not for a row's place.
    "published_at": select(database_now()).scalar_subquery(),
    "publish_count": _e.publish_count + 1,
}
_CLAIM_TO_SEND = _CLAIM.values(_NOTED)


def claim(
    connection: Connection, starts: Collection[Start], now: Now, *, to_send: bool = False
) -> list[Publication]:
    """
    Turn PENDING executions into QUEUED ones.

    Args:
        starts: What was decided, perhaps from an old snapshot: the run must still be open, and
            follow the calendar that it did then, and the window must hold the market time.
        now: Read in this transaction, or a moment ago, by the statement that decided.
        to_send: Note already that their messages were sent: by whoever sends them right after the
            commit, and `forget_messages` where it can not. If it dies in between, they are found
            like messages that were lost.

    Returns:
        What this call claimed, to be published after the commit, in the order of ``starts``;
        an execution that somebody else claimed, or whose run somebody holds, is not in it.
    """
    groups: dict[tuple[Window, str], list[Start]] = defaultdict(list)
    for start in starts:
        if start.forced or now.market_at in start.window:
            groups[start.window, start.calendar_version].append(start)
    claimed: dict[str, Publication] = {}
    for group in groups.values():
        rows = connection.execute(_CLAIM_TO_SEND if to_send else _CLAIM, _to_claim(group, now))
        claimed.update((row.execution_id, _publication(row)) for row in rows)
    return [claimed[start.execution_id] for start in starts if start.execution_id in claimed]


def _to_claim(starts: Sequence[Start], now: Now) -> dict[str, Any]:
    """Return the parameters of a claim of what has one window, in runs that follow one calendar."""
    window = starts[0].window
    return {
        "ids": [start.execution_id for start in starts],
        "runs": list({start.dag_id for start in starts}),
        "followed": starts[0].calendar_version,
        "market_at": now.market_at,
        "opens_at": window.opens_at,
        "closes_at": window.closes_at,
    }


_MARK_PUBLISHED = (
    update(job_executions)
    .where(_e.execution_id.in_(_IDS), is_still(job_executions, JobStatus.QUEUED, JobStatus.RUNNING))
    .values(_NOTED)
)


def mark_published(connection: Connection, execution_ids: Collection[str]) -> None:
    """Note that messages for these executions were sent, unless they have finished already."""
    if len(execution_ids) > 1:  # one row is locked by its own change
        lock_in_order(connection, execution_ids)
    connection.execute(_MARK_PUBLISHED, {"ids": list(execution_ids)})


_FORGET_MESSAGES = (
    update(job_executions)
    .where(_e.execution_id.in_(_IDS), is_still(job_executions, JobStatus.QUEUED))
    .values(published_at=None)
)


def forget_messages(connection: Connection, execution_ids: Collection[str]) -> None:
    """Have other messages sent for those of some executions that have not begun."""
    if len(execution_ids) > 1:
        lock_in_order(connection, execution_ids)
    connection.execute(_FORGET_MESSAGES, {"ids": list(execution_ids)})


_UNPUBLISHED = _PUBLICATIONS.where(
    is_unsent,
    _e.scheduled_at <= bindparam("due_by"),
    ~is_paused,
).order_by(_e.priority, _e.scheduled_at)
_WAITING_IN_QUEUE = (
    _PUBLICATIONS.add_columns(_e.published_at)
    .where(
        is_live,
        in_state(job_executions, JobStatus.QUEUED),
        _e.published_at.is_not(None),
        _e.scheduled_at <= bindparam("due_by"),
        ~is_paused,
    )
    .order_by(_e.priority, _e.scheduled_at)
)


def unpublished(connection: Connection, due_by: datetime) -> list[Publication]:
    """Return the QUEUED executions that were due by a wall time and have no message yet."""
    rows = connection.execute(_UNPUBLISHED, {"due_by": due_by})
    return [_publication(row) for row in rows]


def waiting_in_queue(
    connection: Connection, due_by: datetime
) -> list[tuple[Publication, datetime]]:
    """
    Return the published QUEUED executions that were due by a wall time.

    Returns:
        Each with the stamp of its last message.
    """
    rows = connection.execute(_WAITING_IN_QUEUE, {"due_by": due_by})
    return [(_publication(row), row.published_at) for row in rows]


# What an operator cancels is known to him; what its run's time-out ends is nobody's wish.
_is_failure = or_(
    _e.status.in_([JobStatus.FAILED, JobStatus.EXPIRED]),
    and_(
        _e.status == JobStatus.CANCELLED,
        _e.cancel_asked_by.startswith(RUN_TIMEOUT, autoescape=True),
    ),
)


_next = job_executions.alias("next_attempt")
_UNTOLD = _PUBLICATIONS.where(
    has_failed,
    _is_failure,
    _e.completed_at >= bindparam("since"),
    # In no index so: SQLite, which counts no rows, would begin with all runs of the pipelines.
    func.coalesce(_r.pipeline, "").in_(bindparam("pipelines", expanding=True)),
    ~exists().where(failure_calls.c.execution_id == _e.execution_id),
    ~exists().where(
        _next.c.dag_id == _e.dag_id,
        _next.c.job_id == _e.job_id,
        _next.c.attempt_number == _e.attempt_number + 1,
        # Its own retry. Where an operator was asked for the next, it had failed for good.
        _next.c.retry_bound_seconds.is_not(None),
    ),
)


def untold_failures(
    connection: Connection, pipelines: Collection[str], since: datetime
) -> list[Publication]:
    """
    Return the final failures since a wall time for which ``on_failure`` has not been called.

    Args:
        pipelines: Those that have an ``on_failure``.
    """
    rows = connection.execute(_UNTOLD, {"pipelines": list(pipelines), "since": since})
    return [_publication(row) for row in rows]


def take_failure(connection: Connection, execution_id: str) -> Failed | None:
    """
    Take the call of ``on_failure`` for one final failure; nobody gets it twice.

    Returns:
        ``None`` when somebody else has it, or the sessions of its market can not be read here.
    """
    row = connection.execute(
        select(job_executions, dag_runs.c.definition_hash, dag_runs.c.parameters)
        .join_from(job_executions, dag_runs)
        .where(_e.execution_id == execution_id, _is_failure)
    ).first()
    if row is None or not _is_readable(row.market_id):
        return None  # another worker may be able to tell of its session
    if not insert_new(connection, failure_calls, {"execution_id": execution_id}):
        return None
    dag = load_dag(connection, row.dag_id, row.definition_hash)
    return Failed(
        Attempt(execution_id, dag, dag.jobs[row.job_id], row.attempt_number, row.parameters, None),
        row.error_message,
    )


_LATE = (
    select(_e.execution_id)
    .where(is_live, in_state(job_executions, JobStatus.RUNNING), _e.cancel_at <= database_now())
    .order_by(_e.execution_id)
)
NEWS = select(
    _LATE.exists().label("late"),
    _UNPUBLISHED.exists().label("unsent"),
    exists().select_from(run_changes).label("noted"),
    select(func.min(_e.scheduled_at))
    .where(
        is_unsent,
        # Asked for once: the index ends where this does.
        _e.scheduled_at > select(database_now()).scalar_subquery(),
    )
    .scalar_subquery()
    .label("due"),
)


@dataclass(frozen=True, slots=True)
class News:
    """What a leader has to look at."""

    late: bool
    """Whether `end_cancelled` has anything to do."""
    unsent: bool
    """Whether `unpublished` has."""
    noted: bool
    """Whether changes of runs have been noted that nobody has taken."""
    due: datetime | None
    """The first wall time from now on at which an execution without a message is due."""


def read_news(connection: Connection, due_by: datetime) -> News:
    """
    Read what a leader has to look at.

    Args:
        due_by: As `unpublished` takes it.
    """
    return News(*connection.execute(NEWS, {"due_by": due_by}).one())


@dataclass(frozen=True, slots=True)
class Refused:
    """The execution must not be run by whoever asked."""

    reason: str
    expired: str | None = None
    """The dag id, when the refusal expired the execution: its run wants a new decision."""


@dataclass(frozen=True, slots=True)
class Unsettled:
    """It takes a transaction to go on: the execution is over, or another may hold its row."""

    dag_id: str
    reason: str


_TO_START: Select[Any] = (
    READ_NOW.add_columns(
        _e.execution_id,
        _e.dag_id,
        _e.job_id,
        _e.status,
        _e.incarnation,
        _e.pid,
        _e.attempt_number,
        _e.forced,
        _e.scheduled_at,
        _e.updated_at,
        _e.timeout_seconds,
        _e.window_opens_at,
        _e.window_closes_at,
        _r.status.label("run_status"),
        _r.definition_hash,
        _r.parameters,
        _r.forced.label("run_forced"),
        _r.created_at.label("run_created_at"),
        _r.market_id,
        _r.as_of_date,
        _r.calendar_version,
        is_paused.label("paused"),
    )
    .select_from(job_executions.join(dag_runs).join(market_clock, true()))
    .where(_e.execution_id == bindparam("id"))
)
"""With the time, as of one moment."""


def _take(at: ColumnElement[datetime]) -> ReturningUpdate[tuple[str]]:
    """Build what gives an execution to a worker, unless that has been given up."""
    by: BindParameter[str] = bindparam("by")
    # Where the clock was set back since its worker last renewed, its start has an earlier stamp
    # than renewals that could not name it yet: it would be taken for one that they did not name.
    renewed_later = (
        select(worker_incarnations.c.renewed_at)
        .where(worker_incarnations.c.incarnation == by, worker_incarnations.c.renewed_at > at)
        .scalar_subquery()
    )
    # It waits for no lock: a change that waits has asked for the time, and whether its worker was
    # given up, before; and it is made although nobody is there any more who waits for its answer.
    return (
        update(job_executions)
        .where(
            _e.execution_id
            == select(_e.execution_id)
            .where(_e.execution_id == bindparam("id"))
            .with_for_update(key_share=True, skip_locked=True)
            .scalar_subquery(),
            is_still(job_executions, *allowed_from(JobStatus.RUNNING)),
            exists().where(
                worker_incarnations.c.incarnation == by, worker_incarnations.c.ended_at.is_(None)
            ),
        )
        .values(
            status=JobStatus.RUNNING,
            worker=bindparam("on_worker"),
            incarnation=by,
            pid=bindparam("child"),
            started_at=at,
            named_at=renewed_later,
            error_details=None,  # of workers that did not know the job
            updated_at=at,
        )
        .returning(_e.execution_id)
    )


_START = (
    _take(database_now())
    .where(
        # Again, because whoever asks may have stood still since it read the clock, or that was set
        # back: then its window may have yet to open.
        database_now() >= bindparam("not_before", type_=UtcDateTime),
        database_now() < bindparam("not_from", type_=UtcDateTime),
    )
    .values(started_market_at=bindparam("market_at"), hard_limit_at=bindparam("limit"))
)


_IS_AS_KNOWN = (
    ~is_paused,
    IS_LIVE_TIME,
    bindparam("known", type_=Integer) == LATEST_OVERRIDE,
)
"""Whether nobody keeps an execution from starting, and no override is unknown by which its window
may be another. To be said of it and its run."""


def _one_moment() -> ColumnElement[datetime]:
    """Read the clock once for what a statement tests and stamps; it may be set back meanwhile."""
    moment = select(database_now().label("at")).cte("moment")
    return select(moment.c.at).scalar_subquery()


def _start_alike() -> ReturningUpdate[Any]:
    at = _one_moment()
    limit = database_later(_e.timeout_seconds + HARD_LIMIT_GRACE.total_seconds())
    in_window = and_(_e.window_opens_at <= at, _e.window_closes_at > at)
    return (
        _take(at)
        .where(
            _r.dag_id == _e.dag_id,
            is_still(dag_runs, RunStatus.OPEN),
            # Not as an index has it: a planner without statistics would read all of the market.
            func.coalesce(_r.market_id, "") == bindparam("market", type_=String),
            _r.definition_hash == bindparam("definition", type_=String),
            _r.calendar_version == bindparam("followed", type_=String),
            *_IS_AS_KNOWN,
            # An override may have taken its session from a run that follows it.
            or_(
                bindparam("known", type_=Integer) == literal_column("0"),
                _e.as_of_date == bindparam("session", type_=Date),
            ),
            _e.scheduled_at <= at,
            or_(_e.forced, _r.forced, in_window),
        )
        .values(started_market_at=at, hard_limit_at=limit)
        .returning(
            _e.dag_id,
            _e.job_id,
            _e.attempt_number,
            _e.as_of_date,
            _of_its_run(_r.parameters),
        )
    )


_START_ALIKE = _start_alike()


@dataclass(frozen=True, slots=True)
class _Alike:
    """What runs that start here had in common with the last one; none has time-outs."""

    dag: DAG
    definition_hash: str
    calendar_version: str
    latest_override: int


_alike: dict[str, _Alike] = {}
"""What messages have in common -> what their runs last had; see `try_start`."""


def start(
    connection: Connection,
    execution_id: str,
    *,
    worker: str,
    incarnation: str,
    pid: int | None = None,
    again: bool = False,
) -> Started | Refused:
    """Do what `try_start` does, wait for the row, and make it EXPIRED if it is over."""
    outcome = try_start(
        connection,
        execution_id,
        worker=worker,
        incarnation=incarnation,
        pid=pid,
        again=again,
        waits=True,
    )
    if not isinstance(outcome, Unsettled):
        return outcome
    ended = end_waiting(connection, {execution_id: outcome.reason}, JobStatus.EXPIRED)
    return Refused(outcome.reason, outcome.dag_id if ended else None)


def try_start(
    connection: Connection,
    execution_id: str,
    *,
    worker: str,
    incarnation: str,
    pid: int | None = None,
    again: bool = False,
    waits: bool = False,
    like: str | None = None,
) -> Started | Refused | Unsettled:
    """
    Turn a QUEUED execution into a RUNNING one, at most once.

    Refused unless the run is open and follows every override of its session, which can be read
    here, nobody has paused it or its market or pipeline, the delay of a retry is over, the market
    time is inside the window (or the run or execution is forced) and the worker has not been given
    up. A window that has closed, and a time-out, end it; a sensor that does not fail when it gives
    up is asked once more after its window, while a job that waits for it could still start.

    Args:
        connection: Its statements may be committed one by one: each change stands for itself, and
            what was read for it counts for no longer than a transaction may stand still.
        worker: Node name.
        incarnation: Worker process.
        pid: The process of its pool that runs the job.
        again: Whether the same process has tried before and does not know what became of it: then a
            start that stands in its name is its own.
        waits: Whether to wait for the row where another holds it: in a transaction, because a
            statement that waited would go by what it had seen before.
        like: What its message has in common with others of the same pipeline and market. Where the
            last of those was of a run with the same definition and calendar, one statement tests
            all of this and starts it; what that refuses is looked at.
    """
    # A lease that has run out does not count until somebody gives the worker up: after an outage of
    # the database every lease has, and each renews within seconds.
    asked = {"id": execution_id, "by": incarnation, "on_worker": worker, "child": pid}
    alike = _alike.get(like) if like is not None else None
    if alike is not None:
        outcome = _try_start_alike(connection, asked, alike)
        if outcome is not None:
            return outcome
    row = connection.execute(_TO_START, {"id": execution_id}).first()
    if row is None:
        return Refused("there is no such execution")
    now = now_of(row)
    keep_dags([row], [])
    if again and (row.status, row.incarnation, row.pid) == (JobStatus.RUNNING, incarnation, pid):
        return _started(row, load_dag(connection, row.dag_id, row.definition_hash), incarnation)
    if row.status != JobStatus.QUEUED:
        return Refused(f"it is {row.status}")
    if row.run_status != RunStatus.OPEN:
        return Refused(f"its run is {row.run_status}")
    if not _is_readable(row.market_id):
        # Another worker may be able to, and to start it here would cost an attempt.
        return Refused(f"the sessions of {row.market_id} can not be read here")
    if row.paused:
        forget_messages(connection, [execution_id])  # another is sent when it may
        return Refused("an operator keeps it from starting")
    if now.latest_override:
        refresh(connection, now)
        if not _follows(row):
            forget_messages(connection, [execution_id])  # its window may be another
            return Refused("its run does not follow the calendar in force yet")
    # Celery holds a retry back by its worker's clock. Our own may have been set back since the row
    # was written; then what it says of the delay means nothing.
    if row.updated_at <= now.wall_at < row.scheduled_at - _CLOCKS_AGREE:
        forget_messages(connection, [execution_id])  # another is sent when it is due
        return Refused(f"it is due at {row.scheduled_at:%Y-%m-%d %H:%M:%S} UTC")
    ends = [now.wall_at + timedelta(seconds=PATIENCE_SECONDS)]
    dag = load_dag(connection, row.dag_id, row.definition_hash)
    job = dag.jobs[row.job_id]
    if not (row.forced or row.run_forced):
        closes_at = _asked_until(connection, dag, job, row)
        if now.market_at >= closes_at:
            return Unsettled(
                row.dag_id, f"its window closed at {row.window_closes_at:%Y-%m-%d %H:%M:%S} UTC"
            )
        if now.market_at < row.window_opens_at:
            return Refused(f"its window opens at {row.window_opens_at:%Y-%m-%d %H:%M:%S} UTC")
        if not (now.jumps or closes_at == _NEVER):
            left = now.clock.wall_delay(closes_at - now.market_at)
            ends.append(now.wall_at + left)
    timeout = start_timeout(
        dag,
        job,
        created_at=row.run_created_at,
        scheduled_at=row.scheduled_at,
        forced=row.forced,
    )
    if timeout is not None:
        if now.wall_at >= timeout.at:
            return Unsettled(row.dag_id, timeout.reason)
        ends.append(timeout.at)
    if waits:
        # Not earlier: whoever expires an execution has its run's lock first.
        lock_in_order(connection, [execution_id])
    started = connection.execute(
        _START,
        {
            **asked,
            "market_at": now.market_at,
            "limit": now.wall_at + timedelta(seconds=row.timeout_seconds) + HARD_LIMIT_GRACE,
            "not_before": now.wall_at,
            "not_from": min(ends),
        },
    ).first()
    if started is None:
        reason = (
            "another worker was first, this one was given up, the clock was set back, "
            "or its time just passed"
        )
        return Refused(reason) if waits else Unsettled(row.dag_id, reason)
    if like is not None and now.clock.is_live and not dag.has_timeouts:
        _alike[like] = _Alike(dag, row.definition_hash, row.calendar_version, now.latest_override)
    return _started(row, dag, incarnation)


def _try_start_alike(
    connection: Connection, asked: dict[str, Any], alike: _Alike
) -> Started | None:
    common = {
        "market": alike.dag.market_id,
        "definition": alike.definition_hash,
        "followed": alike.calendar_version,
        "known": alike.latest_override,
        "session": alike.dag.as_of_date,
    }
    rows = fetch(connection, _START_ALIKE, asked | common)
    if not rows:
        return None
    [row] = rows
    dag = alike.dag.alike(row.dag_id, alike.dag.market_id, row.as_of_date)
    attempt = Attempt(
        row.execution_id,
        dag,
        dag.jobs[row.job_id],
        row.attempt_number,
        row.parameters,
        asked["by"],
        alike.calendar_version,
    )
    return Started(attempt)


_UNFINISHED = select(_e.job_id, _e.forced).where(
    _e.dag_id == bindparam("of"),
    _e.job_id.in_(bindparam("jobs", expanding=True)),
    # Not by `completed_at`: where all had ended when PostgreSQL last counted, it would read from
    # that index all that has not by now.
    is_still(job_executions, *(state for state in JobStatus if state not in FINAL)),
)


def _asked_until(connection: Connection, dag: DAG, job: JobMetadata, row: Row[Any]) -> datetime:
    """
    Say until when an execution may start: to the end of its window.

    A sensor that does not fail when it gives up may as long as a job that waits for it could, so
    that this learns which way to go.
    """
    end: datetime = row.window_closes_at
    if job.sensor is None or job.sensor.fails:
        return end
    waiting = [each.job_id for each in dag.waiting_for(job.job_id)]
    rows = connection.execute(_UNFINISHED, {"of": row.dag_id, "jobs": waiting}).all()
    if any(each.forced for each in rows):
        return _NEVER
    try:
        bounds = session_bounds(TradingCalendar(dag.market_id), dag.as_of_date)
    except PrometheusError:
        return end
    return max([end, *(bounds.window(dag.jobs[each.job_id]).closes_at for each in rows)])


def _is_readable(market_id: str) -> bool:
    try:
        TradingCalendar(market_id)
    except UnreadableError:
        return False
    except PrometheusError:
        return True  # of a market that is not known here
    return True


def _follows(row: Row[Any]) -> bool:
    """Say whether the scheduler has brought a run to the overrides in force."""
    try:
        calendar = TradingCalendar(row.market_id)
        # What runs is brought to another release's sessions by the scheduler of that release.
        return calendar.overrides.stamp(get_market(row.market_id)) == override_stamp(
            row.calendar_version
        ) and calendar.is_trading_day(row.as_of_date)
    except PrometheusError:
        return True  # of a market that is not known here, or past its horizon


def _started(row: Row[Any], dag: DAG, incarnation: str) -> Started:
    return Started(
        Attempt(
            row.execution_id,
            dag,
            dag.jobs[row.job_id],
            row.attempt_number,
            row.parameters,
            incarnation,
            row.calendar_version,
        )
    )


_FENCED = (
    select(_e.execution_id)
    .where(
        _e.execution_id == bindparam("id"),
        is_still(job_executions, JobStatus.RUNNING),
        _e.incarnation == bindparam("by"),
    )
    .with_for_update(key_share=True)
)


def fenced(connection: Connection, execution_id: str, incarnation: str) -> bool:
    """
    Say whether an attempt has been taken from its worker.

    The row stays locked until the transaction ends, so that what the attempt commits and its loss
    can not cross.
    """
    return connection.execute(_FENCED, {"id": execution_id, "by": incarnation}).first() is None


_SUCCEED = (
    update(job_executions)
    .where(
        _e.execution_id == bindparam("id"),
        is_still(job_executions, *allowed_from(JobStatus.SUCCESS)),
        _e.incarnation == bindparam("by"),
    )
    .values(
        status=case((_asked, JobStatus.CANCELLED), else_=JobStatus.SUCCESS),
        error_message=case((_asked, "cancelled by " + _e.cancel_asked_by)),
        result=bindparam("returned"),
        completed_at=database_now(),
        updated_at=database_now(),
    )
    .returning(_e.dag_id)
)
_SUCCEED_AS = _SUCCEED.returning(_e.status)


def succeed(
    connection: Connection, execution_id: str, *, incarnation: str, result: Any
) -> str | None:
    """
    Turn a RUNNING execution of this worker into SUCCESS, or CANCELLED if it was asked to end.

    Returns:
        The dag id; ``None`` when the attempt is no longer this worker's to report.
    """
    asked = {"id": execution_id, "by": incarnation, "returned": result}
    return next((row.dag_id for row in fetch(connection, _SUCCEED, asked)), None)


@dataclass(frozen=True, slots=True)
class Following:
    """What is to start as soon as a job has succeeded, because it waits for nothing else."""

    dag: DAG
    job_ids: tuple[str, ...]
    """In the order in which they start."""
    window: Window
    """Of all of them."""
    calendar_version: str
    """Of the calendar that the window is of."""
    latest_override: int
    """The last that it goes by."""


@dataclass(frozen=True, slots=True)
class Beside:
    """Jobs of which each, while it is queued, keeps back all that follows a job's success."""

    job_ids: frozenset[str] | None
    """``None``: all of the run; nothing follows but the end of the run."""


@dataclass(frozen=True, slots=True)
class Succeeded:
    """A job has returned, and that is written."""

    dag_id: str
    claimed: tuple[Publication, ...] = ()
    """What was claimed with it, to be published."""
    decided: bool = False
    """Whether nobody has to look now what else follows from it."""


def _succeed_beside(*, of_some: bool) -> ReturningUpdate[Any]:
    other = job_executions.alias("other")
    queued: Select[Any] = select(literal_column("true")).where(
        other.c.dag_id == literal_column("job_executions.dag_id"),
        is_queued(other),
    )
    if of_some:
        # Not as an index has it, of all runs: so this may read all that is queued of this one.
        queued = queued.where(func.coalesce(other.c.job_id, "").in_(_IDS))
    # From the last that was sent: of the first, the index still has those that run or have ended.
    last_first = queued.order_by(other.c.priority.desc(), other.c.job_id.desc()).limit(1)
    return _SUCCEED_AS.returning(last_first.scalar_subquery().label("queued"))


_SUCCEED_BESIDE_ANY = _succeed_beside(of_some=False)
_SUCCEED_BESIDE = _succeed_beside(of_some=True)


def succeed_beside(
    connection: Connection, execution_id: str, *, incarnation: str, result: Any, beside: Beside
) -> Succeeded | None:
    """
    Do what `succeed` does, and say whether others, that have not begun, decide what follows.

    Whoever ends one of those looks after that, and most often finds this end: it took less time
    than their beginning and their end. Where this statement was held up, the next tick finds it.
    """
    asked = {"id": execution_id, "by": incarnation, "returned": result}
    if beside.job_ids is None:
        rows = fetch(connection, _SUCCEED_BESIDE_ANY, asked)
    else:
        rows = fetch(connection, _SUCCEED_BESIDE, asked | {"ids": list(beside.job_ids)})
    if not rows:
        return None
    [row] = rows
    return Succeeded(row.dag_id, decided=row.status == JobStatus.SUCCESS and bool(row.queued))


def _claim_following(*, after: CTE | None = None) -> ReturningUpdate[Any]:
    at = _one_moment()
    opens_at, closes_at = (bindparam(name, type_=UtcDateTime) for name in ("opens_at", "closes_at"))
    claimable = (
        select(_e.execution_id)
        .where(
            _e.dag_id == bindparam("of"),
            _e.job_id.in_(bindparam("jobs", expanding=True)),
            is_still(job_executions, JobStatus.PENDING),
            func.coalesce(_e.dag_id, "").in_(select(_AS_DECIDED.c.dag_id)),
        )
        .with_for_update(key_share=True, skip_locked=True)
    )
    if after is not None:
        claimable = claimable.where(exists().where(after.c.status == JobStatus.SUCCESS))
    return (
        update(job_executions)
        .where(
            _e.execution_id.in_(claimable),
            _r.dag_id == _e.dag_id,
            *_IS_AS_KNOWN,
            or_(_e.forced, _r.forced, and_(opens_at <= at, closes_at > at)),
        )
        .values(
            status=JobStatus.QUEUED,
            scheduled_at=at,
            scheduled_market_at=at,
            window_opens_at=opens_at,
            window_closes_at=closes_at,
            published_at=at,
            publish_count=_e.publish_count + 1,
            updated_at=at,
        )
        .returning(_e.job_id, *_OF_EXECUTION, *map(_of_its_run, _OF_RUN))
    )


def _succeed_and_claim() -> Select[Any]:
    ended = _SUCCEED_AS.cte("ended")
    claimed = _claim_following(after=ended).cte("claimed")
    return select(claimed).select_from(ended.outerjoin(claimed, true()))


_CLAIM_FOLLOWING = _claim_following()
_SUCCEED_AND_CLAIM = _succeed_and_claim()


def succeed_and_claim(
    connection: Connection,
    execution_id: str,
    *,
    incarnation: str,
    result: Any,
    following: Following,
) -> Succeeded | None:
    """
    Do what `succeed` does, and `claim` what follows, in one statement where the database can.

    What follows waits for nothing but this execution, so that nobody can have changed whether it
    may start: as long as this one runs, nobody gives its job another attempt. All else that keeps
    it from starting is tested where it is claimed, and it is noted as sent; see `claim`.
    """
    dag = following.dag
    asked = {"id": execution_id, "by": incarnation, "returned": result}
    to_claim = {
        "of": dag.dag_id,
        "runs": [dag.dag_id],
        "jobs": list(following.job_ids),
        "opens_at": following.window.opens_at,
        "closes_at": following.window.closes_at,
        "followed": following.calendar_version,
        "known": following.latest_override,
    }
    if connection.dialect.name == "sqlite":
        ended = connection.execute(_SUCCEED_AS, asked).first()
        if ended is None:
            return None
        is_success = ended.status == JobStatus.SUCCESS
        rows = connection.execute(_CLAIM_FOLLOWING, to_claim).all() if is_success else []
    else:
        rows = fetch(connection, _SUCCEED_AND_CLAIM, asked | to_claim)
        if not rows:
            return None
    claimed = {row.job_id: _publication(row) for row in rows if row.execution_id is not None}
    # What is kept from starting, or somebody else holds or has claimed, is looked at once more.
    in_order = tuple(claimed[job_id] for job_id in following.job_ids if job_id in claimed)
    return Succeeded(dag.dag_id, in_order, decided=len(claimed) == len(following.job_ids))


def forget_following(connection: Connection, following: Following) -> None:
    """Have messages sent for what may have been claimed by a worker that was not told so."""
    of_them = select(_e.execution_id).where(
        _e.dag_id == following.dag.dag_id, _e.job_id.in_(following.job_ids)
    )
    forget_messages(connection, connection.execute(of_them).scalars().all())


def succeeded(connection: Connection, execution_id: str, incarnation: str) -> str | None:
    """Return the dag id of an attempt that a worker has reported to have returned, if it has."""
    return connection.execute(
        select(_e.dag_id).where(
            _e.execution_id == execution_id,
            _e.status.in_([JobStatus.SUCCESS, JobStatus.CANCELLED]),
            _e.incarnation == incarnation,
        )
    ).scalar_one_or_none()


@dataclass(frozen=True, slots=True)
class Polled:
    """What a sensor's attempt came to."""

    dag_id: str
    state: Readiness | None
    """``None`` when it was cancelled, or its end had been written before."""
    detail: str = ""
    """Why it has not come, as the sensor says."""


def poll(
    connection: Connection,
    execution_id: str,
    *,
    incarnation: str,
    ready: bool,
    found: Mapping[str, Any],
) -> Polled | None:
    """
    End a sensor's RUNNING execution with its answer, and write the next poll if there is one.

    One that has found nothing has done its work all the same: it is a SUCCESS, but not the job's
    latest execution. It costs no retry, and gives back those that failures before it have cost.

    Why it has not come is told with what feeds have said against its session: that it may be none.

    Args:
        ready: Whether what the sensor waits for has come.
        found: JSON values that are kept in the result.

    Returns:
        ``None`` when the attempt is no longer this worker's to report.
    """
    now = read_now(connection)
    row = connection.execute(_TO_FAIL, {"id": execution_id}).first()
    if row is None or row.incarnation != incarnation:
        return None
    if row.cancel_asked_at is not None:
        succeed(connection, execution_id, incarnation=incarnation, result=dict(found))
        return Polled(row.dag_id, None)
    dag = load_dag(connection, row.dag_id, row.definition_hash)
    job = dag.jobs[row.job_id]
    rule = job.sensor
    if rule is None:
        raise ValueError(f"{row.job_id} is no sensor")
    if not ready and (doubts := _doubts(connection, dag)):
        found = {**found, "why": "; ".join(filter(None, [str(found.get("why") or ""), *doubts]))}
    why = str(found.get("why") or "")[:_LONGEST_REASON]
    phases: Phases | None = None
    with suppress(HorizonError, NoSessionError):  # without one, nothing will come
        phases = TradingCalendar(dag.market_id).phases(dag.as_of_date)
    expected_at = None if phases is None else rule.expected_at(phases, row.window_opens_at)
    late = expected_at is not None and now.market_at > expected_at
    if ready:
        result = {**found, "state": Readiness.READY} | ({"late": True} if late else {})
        succeed(connection, execution_id, incarnation=incarnation, result=result)
        return Polled(row.dag_id, Readiness.READY)
    gives_up_at = rule.gives_up_at(phases, row.window_opens_at) if phases else now.market_at
    next_at = min(now.market_at + rule.delay(row.attempt_number), gives_up_at)
    end = None
    if phases is None:
        end = "its session is none any more"
    elif now.market_at >= gives_up_at:
        end = f"give_up={show_limit(rule.give_up)}"
    elif not (row.forced or row.run_forced) and next_at >= row.window_closes_at:
        end = f"its window ends at {row.window_closes_at:%Y-%m-%d %H:%M:%S} UTC"
    elif now.jumps:  # the clock stands while anything is queued, and it would never come
        end = "a clock that leaps waits for nothing"
    if end is not None:
        result = {**found, "state": Readiness.MISSING}
        detail = (
            f"MISSING: it had not come at {now.market_at:%Y-%m-%d %H:%M:%S} UTC, when the sensor "
            f"gave up (not tried again: {end}, otherwise={rule.otherwise})"
        )
        detail += f": {why}" if why else ""
        details = {"type": "missing"}
        _give_up(connection, execution_id, row, rule, now, result, detail, details)
        return Polled(row.dag_id, Readiness.MISSING, detail)
    state = Readiness.LATE if late else Readiness.NOT_YET
    succeed(connection, execution_id, incarnation=incarnation, result={**found, "state": state})
    _poll_again(connection, dag, job, row, now, next_at)
    return Polled(row.dag_id, state, why)


_PROPOSED_CLOSURES = (
    select(_h.exchange, _h.name, _h.source)
    .where(
        _h.exchange.in_(bindparam("mics", expanding=True)),
        _h.date == bindparam("on"),
        _h.kind == HolidayKind.CLOSED.value,
        _h.state == HolidayState.PROPOSED.value,
    )
    .order_by(_h.exchange, _h.source)
)


def _doubts(connection: Connection, dag: DAG) -> list[str]:
    """Say which feeds have it that a run's session is none, and nobody has decided on it."""
    try:
        mics = get_market(dag.market_id).members
    except UnknownMarketError:
        return []
    on = dag.as_of_date
    asked = {"mics": list(mics), "on": on}
    return [
        f"{row.source} proposes that {row.exchange} is closed on {on} ({row.name}): decide with "
        f"prometheus calendar sync {row.exchange} --confirm {on} or --reject {on}"
        for row in connection.execute(_PROPOSED_CLOSURES, asked)
        if _has_session(row.exchange, on)
    ]


def _has_session(mic: str, on: date) -> bool:
    try:
        return TradingCalendar(mic).is_trading_day(on)
    except PrometheusError:
        return False


def _poll_again(
    connection: Connection, dag: DAG, job: JobMetadata, row: Row[Any], now: Now, next_at: datetime
) -> None:
    delay = next_at - now.market_at
    seconds = math.ceil(delay.total_seconds())
    successor = new_execution(
        dag,
        job,
        status=JobStatus.QUEUED,
        attempt_number=row.attempt_number + 1,
        lost=row.lost,
        forced=row.forced,
        window_opens_at=row.window_opens_at,
        window_closes_at=row.window_closes_at,
        scheduled_at=now.wall_at + now.clock.wall_delay(delay),
        scheduled_market_at=next_at,
        retry_bound_seconds=seconds,
        retry_delay_seconds=seconds,
    )
    connection.execute(_NEXT_ATTEMPT, successor)


def _give_up(
    connection: Connection,
    execution_id: str,
    row: Row[Any],
    rule: SensorRule,
    now: Now,
    result: dict[str, Any],
    message: str,
    details: dict[str, Any],
) -> None:
    """End a sensor's last attempt in the way that is declared for it."""
    status = {FAIL: JobStatus.FAILED, SKIP: JobStatus.SKIPPED}.get(rule.otherwise)
    if status is None:
        result["stale"] = rule.otherwise == CONTINUE_STALE
        if rule.source is not None:
            result["source"] = rule.source
        succeed(connection, execution_id, incarnation=row.incarnation, result=result)
    else:
        connection.execute(
            update(job_executions)
            .where(_e.execution_id == execution_id)
            .values(
                status=status,
                error_message=message,
                error_details=details,
                result=result,
                completed_at=now.wall_at,
                updated_at=database_now(),
            )
        )


def polled(connection: Connection, execution_id: str, incarnation: str) -> Polled | None:
    """Return that a poll has been reported before by this worker, if it has."""
    dag_id = connection.execute(
        select(_e.dag_id).where(
            _e.execution_id == execution_id,
            _e.status.notin_([JobStatus.QUEUED, JobStatus.RUNNING]),
            _e.incarnation == incarnation,
        )
    ).scalar_one_or_none()
    return None if dag_id is None else Polled(dag_id, None)


_later = job_executions.alias("later")
# A sensor that waits for hours has hundreds of rows, and only the last ones are asked for.
_RESULTS = select(_e.job_id, _e.result).where(
    _e.dag_id == bindparam("of_run"),
    _e.job_id.in_(_IDS),
    _e.status == JobStatus.SUCCESS,
    ~exists().where(
        _later.c.dag_id == _e.dag_id,
        _later.c.job_id == _e.job_id,
        _later.c.attempt_number > _e.attempt_number,
        _later.c.status == JobStatus.SUCCESS,
    ),
)
_EARLIER = (
    select(_e.result)
    .join_from(dag_runs, job_executions)
    .where(
        _r.pipeline == bindparam("of_pipeline"),
        _r.market_id == bindparam("of_market"),
        _r.as_of_date < bindparam("before"),
        _e.job_id == bindparam("of_job"),
        ~exists().where(
            _later.c.dag_id == _e.dag_id,
            _later.c.job_id == _e.job_id,
            _later.c.attempt_number > _e.attempt_number,
        ),
        _e.result.is_not(None),
    )
    .order_by(_r.as_of_date.desc())
    .limit(bindparam("most"))
)


def results_of(
    connection: Connection, dag_id: str, job_ids: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Return what the latest successes of some jobs of a run have returned, by job id."""
    rows = connection.execute(_RESULTS, {"of_run": dag_id, "ids": list(job_ids)})
    return {row.job_id: row.result for row in rows if isinstance(row.result, dict)}


def earlier_results(connection: Connection, attempt: Attempt, most: int) -> list[dict[str, Any]]:
    """Return what a job's last attempts in earlier sessions have returned, latest session first."""
    dag = attempt.dag
    asked = {
        "of_pipeline": dag.pipeline,
        "of_market": dag.market_id,
        "before": dag.as_of_date,
        "of_job": attempt.job.job_id,
        "most": most,
    }
    found = connection.execute(_EARLIER, asked).scalars()
    return [result for result in found if isinstance(result, dict)]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, and what that may cost."""

    message: str
    details: dict[str, Any]
    """JSON values: at least ``type``; ``traceback`` where there is one."""
    lost: bool = False
    """The worker was lost: its own budget, and no delay."""
    handed_back: bool = False
    """The worker was stopped: no budget, and no delay."""
    final: bool = False
    """Trying again does not help: no further attempt."""
    not_before: datetime | None = None
    """Trying again helps from this wall time on: the next attempt's delay begins there."""

    @property
    def by_the_job(self) -> bool:
        """Whether the attempt itself failed, which costs a retry."""
        return not (self.lost or self.handed_back)


@dataclass(frozen=True, slots=True)
class Retried:
    """A next attempt was written."""

    dag_id: str
    successor_id: str
    retries: int
    countdown: float
    """Wall seconds until it may start."""


@dataclass(frozen=True, slots=True)
class FailedForGood:
    """No further attempt."""

    dag_id: str
    message: str
    """The error, and why it is not tried again."""


@dataclass(frozen=True, slots=True)
class GaveUp:
    """No further attempt; it is a sensor, and goes the way that is declared for that."""

    dag_id: str
    message: str
    """The error, and why it is not tried again."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """An operator had asked it to end: no further attempt."""

    dag_id: str


@dataclass(frozen=True, slots=True)
class NotOurs:
    """The attempt had ended before, or belongs to another worker."""


FailOutcome = Retried | FailedForGood | GaveUp | Cancelled | NotOurs


_TO_FAIL: Select[Any] = (
    select(
        _e.dag_id,
        _e.job_id,
        _e.incarnation,
        _e.pid,
        _e.attempt_number,
        _e.retries,
        _e.lost,
        _e.forced,
        _e.window_opens_at,
        _e.window_closes_at,
        _e.cancel_asked_at,
        _e.cancel_asked_by,
        _r.definition_hash,
        _r.forced.label("run_forced"),
        _r.created_at.label("run_created_at"),
    )
    .join_from(job_executions, dag_runs)
    .where(
        _e.execution_id == bindparam("id"),
        is_still(job_executions, *allowed_from(JobStatus.FAILED)),
    )
    .with_for_update(of=job_executions, key_share=True)
)
_FAIL = (
    update(job_executions)
    .where(_e.execution_id == bindparam("id"))
    .values(
        status=JobStatus.FAILED,
        error_message=bindparam("message"),
        error_details=bindparam("details"),
        completed_at=bindparam("at"),
        updated_at=database_now(),
    )
)
_NEXT_ATTEMPT = insert(job_executions)


def fail(
    connection: Connection,
    execution_id: str,
    failure: Failure,
    *,
    draw_delay: Callable[[int], int],
    max_lost: int,
    incarnation: str | None = None,
    pid: int | None = None,
) -> FailOutcome:
    """
    Turn a RUNNING execution into FAILED and write its next attempt, if it gets one.

    One that was asked to end is CANCELLED instead, and gets none. A sensor that gets none becomes
    what it says of giving up: SKIPPED, or a SUCCESS whose result has the error as ``why``.

    Args:
        failure: What happened.
        draw_delay: Draws the seconds before the next attempt from the bound it is given, which
            doubles with each retry up to the job's cap. Asked only when the job itself failed.
        max_lost: How often the worker of a job may be lost.
        incarnation: Only an attempt of this worker; ``None`` for the scheduler.
        pid: Only one that this process of its pool has begun; ``None``: whichever did.
    """
    now = read_now(connection)
    row = connection.execute(_TO_FAIL, {"id": execution_id}).first()
    if row is None or incarnation not in (None, row.incarnation) or pid not in (None, row.pid):
        return NotOurs()
    if row.cancel_asked_at is not None:
        message = f"cancelled by {row.cancel_asked_by}: {failure.message}"
        connection.execute(
            update(job_executions)
            .where(_e.execution_id == execution_id)
            .values(
                status=JobStatus.CANCELLED,
                error_message=message,
                error_details=failure.details,
                completed_at=now.wall_at,
                updated_at=database_now(),
            )
        )
        return Cancelled(row.dag_id)
    dag = load_dag(connection, row.dag_id, row.definition_hash)
    job = dag.jobs[row.job_id]
    bound = _retry_bound(job, row.retries) if failure.by_the_job else 0
    delay = timedelta(seconds=draw_delay(bound) if bound else 0)
    timeout = None if row.forced else run_timeout(dag, row.run_created_at)
    wait = _wait_asked_for(failure, now)
    no_more = _no_more_attempts(row, job, failure, now, wait + delay, max_lost, timeout)
    note = no_more
    if wait and not no_more:
        note = f"next try not before {now.wall_at + wait:%Y-%m-%d %H:%M:%S} UTC"
    message = f"{failure.message} ({note})" if note else failure.message
    if no_more and job.sensor is not None and not job.sensor.fails:
        found = {"state": Readiness.MISSING, "why": message}
        _give_up(connection, execution_id, row, job.sensor, now, found, message, failure.details)
        return GaveUp(row.dag_id, message)
    connection.execute(
        _FAIL,
        {
            "id": execution_id,
            "message": message,
            "details": failure.details,
            "at": now.wall_at,
        },
    )
    if no_more:
        return FailedForGood(row.dag_id, message)
    countdown = now.clock.wall_delay(wait + delay)
    successor = new_execution(
        dag,
        job,
        status=JobStatus.QUEUED,
        attempt_number=row.attempt_number + 1,
        retries=row.retries + (1 if failure.by_the_job else 0),
        lost=row.lost + (1 if failure.lost else 0),
        forced=row.forced,
        window_opens_at=row.window_opens_at,
        window_closes_at=row.window_closes_at,
        scheduled_at=now.wall_at + countdown,
        scheduled_market_at=now.market_at + wait + delay,
        retry_bound_seconds=bound,
        retry_delay_seconds=int(delay.total_seconds()),
    )
    connection.execute(_NEXT_ATTEMPT, successor)
    return Retried(
        row.dag_id, successor["execution_id"], successor["retries"], countdown.total_seconds()
    )


def failed(connection: Connection, execution_id: str, incarnation: str) -> FailOutcome:
    """Return what a failure came to that a worker may have reported before."""
    successor = job_executions.alias()
    row = connection.execute(
        select(
            _e.dag_id,
            _e.status,
            _e.error_message,
            _e.result,
            database_now().label("now"),
            successor.c.execution_id,
            successor.c.retries,
            successor.c.scheduled_at,
        )
        .join_from(
            job_executions,
            successor,
            (successor.c.dag_id == _e.dag_id)
            & (successor.c.job_id == _e.job_id)
            & (successor.c.attempt_number == _e.attempt_number + 1),
            isouter=True,
        )
        .where(
            _e.execution_id == execution_id,
            _e.status.in_((JobStatus.FAILED, JobStatus.SKIPPED, JobStatus.SUCCESS)),
            _e.incarnation == incarnation,
        )
    ).first()
    if row is None:
        return NotOurs()
    if row.status != JobStatus.FAILED:
        found = row.result or {}
        if found.get("state") != Readiness.MISSING:
            return NotOurs()  # it was no failure that was reported before
        return GaveUp(row.dag_id, row.error_message or found.get("why", ""))
    if row.execution_id is None:
        return FailedForGood(row.dag_id, row.error_message)
    countdown = max(timedelta(0), row.scheduled_at - row.now)
    return Retried(row.dag_id, row.execution_id, row.retries, countdown.total_seconds())


def running_on(connection: Connection, incarnation: str) -> list[str]:
    """Return the executions that a worker process has not ended."""
    mine = select(_e.execution_id).where(
        _e.status == JobStatus.RUNNING, _e.incarnation == incarnation
    )
    return list(connection.execute(mine.order_by(_e.execution_id)).scalars())


def cancel_asked(connection: Connection, execution_id: str, incarnation: str) -> bool:
    """Say whether an attempt should end: an operator asked, or it is its worker's no more."""
    goes_on = select(_e.execution_id).where(
        _e.execution_id == execution_id,
        is_still(job_executions, JobStatus.RUNNING),
        _e.incarnation == incarnation,
        ~_asked,
    )
    return connection.execute(goes_on).first() is None


def ask_to_end(
    connection: Connection, asked_by: Mapping[str, str], *, grace: timedelta
) -> list[str]:
    """
    Ask RUNNING executions to end, as an operator does, unless somebody has.

    Args:
        asked_by: Execution id -> who or what asks.
        grace: How long they may take to end.

    Returns:
        The ids of those that this call asked.
    """
    lock_in_order(connection, asked_by)
    now = read_now(connection).wall_at
    asked: list[str] = []
    for execution_id, by in sorted(asked_by.items()):
        asked += connection.execute(
            update(job_executions)
            .where(
                _e.execution_id == execution_id,
                is_still(job_executions, JobStatus.RUNNING),
                ~_asked,
            )
            .values(
                cancel_asked_at=now,
                cancel_asked_by=by,
                cancel_at=now + grace,
                updated_at=database_now(),
            )
            .returning(_e.execution_id)
        ).scalars()
    return asked


_LATE_LOCKED = _LATE.with_for_update(key_share=True, skip_locked=True)


def end_cancelled(connection: Connection) -> list[str]:
    """
    Make the executions CANCELLED that were asked to end and have not done so in time.

    Returns:
        Their ids. What runs them is killed by their workers, which are told with their next
        renewal.
    """
    late = list(connection.execute(_LATE_LOCKED).scalars())
    if late:
        connection.execute(
            update(job_executions)
            .where(_e.execution_id.in_(late))
            .values(
                status=JobStatus.CANCELLED,
                error_message="cancelled by " + _e.cancel_asked_by + ": it had not ended in time",
                completed_at=database_now(),
                updated_at=database_now(),
            )
        )
    return late


def _retry_bound(job: JobMetadata, retries: int) -> int:
    base, cap = int(job.retry_base.total_seconds()), int(job.retry_cap.total_seconds())
    return min(cap, base << min(retries, 32))


def _wait_asked_for(failure: Failure, now: Now) -> timedelta:
    """Say how long from now trying again does not help, in full seconds."""
    if failure.not_before is None or not now.clock.is_live:
        return timedelta(0)
    wait = min(failure.not_before - now.wall_at, _LONGEST_WAIT)
    return max(timedelta(seconds=math.ceil(wait.total_seconds())), timedelta(0))


def _no_more_attempts(
    row: Row[Any],
    job: JobMetadata,
    failure: Failure,
    now: Now,
    delay: timedelta,
    max_lost: int,
    timeout: Timeout | None,
) -> str | None:
    """Say why there is no further attempt; ``None`` if there is one."""
    if failure.final:
        return "not tried again: the error says that it would not help"
    if failure.lost and row.lost >= max_lost:
        return f"not tried again: {row.lost + 1} {POISON}"
    if failure.by_the_job and row.retries >= job.max_retries:
        return f"not tried again: attempt {row.attempt_number}, max_retries is {job.max_retries}"
    forced = row.forced or row.run_forced
    if not forced and now.market_at + delay >= row.window_closes_at:
        return (
            f"not tried again: the retry at {now.market_at + delay:%Y-%m-%d %H:%M:%S} UTC would be "
            f"at or past the end of its window, {row.window_closes_at:%Y-%m-%d %H:%M:%S} UTC"
        )
    retry_at = now.wall_at + now.clock.wall_delay(delay)
    if timeout is not None and retry_at >= timeout.at:
        return (
            f"not tried again: the retry at {retry_at:%Y-%m-%d %H:%M:%S} UTC would be at or past "
            f"the end of its run, {timeout.at:%Y-%m-%d %H:%M:%S} UTC "
            f"(run_timeout {format_duration(timeout.allowed)})"
        )
    return None
