"""
The tables of the scheduler.

Every ``_at`` is an aware UTC instant. ``_market_at`` and ``window_`` columns are market time, which
differs from wall time only in a replay; all others are stamps of the database's own clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from sqlalchemy import (
    DDL,
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Date,
    Double,
    ForeignKey,
    FromClause,
    Index,
    Integer,
    String,
    Table,
    Text,
    Time,
    UniqueConstraint,
    event,
    exists,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from prometheus.actors import Role
from prometheus.core.holidays import HolidayKind, HolidayState
from prometheus.core.overrides import OverrideKind
from prometheus.orchestration.alerts import AlertKind, Severity, Told
from prometheus.orchestration.backfill import Reprocess
from prometheus.orchestration.lifecycle import FINAL, JobStatus, RunStatus
from prometheus.persistence.metadata import UtcDateTime, database_now, metadata

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def _one_of(column: str, values: list[str]) -> str:
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


def in_state(table: FromClause, *states: JobStatus | RunStatus) -> ColumnElement[bool]:
    """
    Compare a row's status with states that are written out in the statement.

    Only so does a database see that a partial index will do; and SQLite would prepare a statement
    anew each time that compares the column of such an index with a parameter.
    """
    written: list[ColumnElement[str]] = [literal_column(f"'{state.value}'") for state in states]
    column: ColumnElement[str] = table.c.status
    return column.in_(written) if len(written) > 1 else column == written[0]


def is_still(table: FromClause, *states: JobStatus | RunStatus) -> ColumnElement[bool]:
    """
    Compare the status of rows that are found by something else, such as their keys.

    As no index that begins with the status has it: where PostgreSQL last counted when nothing was
    in these states, it would read all that are by now, to find one.
    """
    written: list[ColumnElement[str]] = [literal_column(f"'{state.value}'") for state in states]
    # Not by coalesce(), by which `is_queued` finds its own index. That of `is_unsent` is found by
    # this, but only where it is asked as well that there is no message.
    status: ColumnElement[str] = func.nullif(table.c.status, literal_column("''"))
    return status.in_(written) if len(written) > 1 else status == written[0]


def _checks(name: str, condition: str, states: Iterable[JobStatus]) -> Iterator[CheckConstraint]:
    """
    Make a check of each row that is written, for both databases.

    PostgreSQL reads the text of each again for every statement that writes, and a list of single
    texts is a long one.

    Args:
        condition: With a place for whether the status is one of these, or for whether it is not.
    """
    values = [state.value for state in states]
    listed = f"({', '.join(map(repr, values))})"
    array = f"('{{{','.join(values)}}}'::text[])"
    for dialect, among, not_among in (
        ("postgresql", f"status = ANY {array}", f"status <> ALL {array}"),
        ("sqlite", f"status IN {listed}", f"status NOT IN {listed}"),
    ):
        check = CheckConstraint(condition.format(among=among, not_among=not_among), name=name)
        yield check.ddl_if(dialect=dialect)


dag_runs = Table(
    "dag_runs",
    metadata,
    Column("dag_id", String(200), primary_key=True),
    Column("pipeline", String(100), nullable=False),
    Column("market_id", String(40), nullable=False),
    Column("as_of_date", Date, nullable=False, comment="the session's date"),
    Column("status", String(10), nullable=False),
    Column("forced", Boolean, nullable=False, comment="windows do not count"),
    Column(
        "trigger",
        String(20),
        nullable=False,
        comment="why it was made: schedule, catch_up, operator or backfill",
    ),
    Column("definition", Json, nullable=False, comment="the DAG as it was when the run was made"),
    Column("definition_hash", String(64), nullable=False),
    Column("parameters", Json, nullable=False, comment="handed to every job"),
    Column("calendar_version", String(100), nullable=False),
    Column("opens_at", UtcDateTime, nullable=False, comment="market time"),
    Column("created_at", UtcDateTime, nullable=False, server_default=database_now()),
    Column("updated_at", UtcDateTime, nullable=False, server_default=database_now()),
    Column("completed_at", UtcDateTime),
    UniqueConstraint("pipeline", "market_id", "as_of_date"),
    CheckConstraint(_one_of("status", [status.value for status in RunStatus]), name="status"),
    CheckConstraint("(status = 'OPEN') = (completed_at IS NULL)", name="completed"),
)
Index(
    "ix_dag_runs_open",
    dag_runs.c.market_id,
    postgresql_where=text("status = 'OPEN'"),
    sqlite_where=text("status = 'OPEN'"),
)
is_open = in_state(dag_runs, RunStatus.OPEN)
"""Whether a run is open, and so in `ix_dag_runs_open`."""
Index("ix_dag_runs_market_session", dag_runs.c.market_id, dag_runs.c.as_of_date)
Index("ix_dag_runs_session", dag_runs.c.as_of_date)

job_executions = Table(
    "job_executions",
    metadata,
    Column("execution_id", String(36), primary_key=True, comment="also Celery's task id"),
    Column("dag_id", ForeignKey("dag_runs.dag_id", ondelete="CASCADE"), nullable=False),
    Column("job_id", String(200), nullable=False),
    Column("job_type", String(100), nullable=False),
    Column("market_id", String(40), nullable=False),
    Column("as_of_date", Date, nullable=False),
    Column("status", String(10), nullable=False),
    Column("attempt_number", Integer, nullable=False, comment="1 for the first"),
    Column("retries", Integer, nullable=False, comment="failures before this one"),
    Column("lost", Integer, nullable=False, comment="workers lost before this one"),
    Column("queue", String(40), nullable=False),
    Column("priority", Integer, nullable=False, comment="1 CRITICAL, 2 STANDARD, 3 OPTIONAL"),
    Column("forced", Boolean, nullable=False, comment="its window does not count"),
    Column("timeout_seconds", Integer, nullable=False, comment="soft limit"),
    Column("window_opens_at", UtcDateTime, comment="market time, set by the claim"),
    Column("window_closes_at", UtcDateTime, comment="market time, set by the claim"),
    Column("scheduled_at", UtcDateTime, comment="when it may start: the claim, or after a delay"),
    Column("scheduled_market_at", UtcDateTime),
    Column("published_at", UtcDateTime, comment="last message sent; only information"),
    Column("publish_count", Integer, nullable=False),
    Column("started_at", UtcDateTime),
    Column("started_market_at", UtcDateTime),
    Column("named_at", UtcDateTime, comment="its worker last said that it is running it"),
    Column("hard_limit_at", UtcDateTime, comment="when its worker must have ended it"),
    Column("worker", String(200), comment="node name of the worker that started it"),
    Column("incarnation", String(36), comment="worker process that started it"),
    Column("retry_bound_seconds", Integer, comment="upper bound of the delay before this attempt"),
    Column("retry_delay_seconds", Integer, comment="delay drawn between 0 and the bound"),
    Column("completed_at", UtcDateTime),
    Column("error_message", Text),
    Column("error_details", Json),
    Column("result", Json, comment="what the job returned"),
    Column("created_at", UtcDateTime, nullable=False, server_default=database_now()),
    Column("updated_at", UtcDateTime, nullable=False, server_default=database_now()),
    Column("pid", Integer, comment="process of the worker's pool that started it"),
    Column("cancel_asked_at", UtcDateTime, comment="an operator asked the running job to end"),
    Column("cancel_asked_by", String(200)),
    Column("cancel_at", UtcDateTime, comment="when it is ended if it has not by itself"),
    UniqueConstraint("dag_id", "job_id", "attempt_number"),
    *_checks("status", "{among}", JobStatus),
    *_checks(
        "completed",
        "({among}) = (completed_at IS NOT NULL)",
        [status for status in JobStatus if status in FINAL],
    ),
    *_checks(
        "started",
        "{not_among} OR started_at IS NOT NULL",
        [JobStatus.RUNNING, JobStatus.SUCCESS, JobStatus.FAILED],
    ),
    CheckConstraint(
        "status = 'PENDING' OR completed_at IS NOT NULL OR scheduled_at IS NOT NULL",
        name="scheduled",
    ),
    CheckConstraint("attempt_number >= 1", name="attempt_number"),
)
_live = "status IN ('QUEUED', 'RUNNING')"
Index(
    "ix_job_executions_live",
    job_executions.c.status,
    job_executions.c.market_id,
    job_executions.c.scheduled_at,
    postgresql_where=text(_live),
    sqlite_where=text(_live),
)
_queued = "coalesce(status, '') = 'QUEUED'"
Index(
    "ix_job_executions_queued",
    # In the order in which they are sent.
    job_executions.c.dag_id,
    job_executions.c.priority,
    job_executions.c.job_id,
    postgresql_where=text(_queued),
    sqlite_where=text(_queued),
)


def is_queued(executions: FromClause) -> ColumnElement[bool]:
    """
    Say whether an execution is in `ix_job_executions_queued`, to be asked of a run.

    As no index of all runs has it: PostgreSQL would take one of those where it last counted when
    nothing was queued.
    """
    status: ColumnElement[str] = func.coalesce(executions.c.status, literal_column("''"))
    return status == literal_column(f"'{JobStatus.QUEUED}'")


_unsent = "nullif(status, '') = 'QUEUED' AND published_at IS NULL"
Index(
    "ix_job_executions_unsent",
    job_executions.c.scheduled_at,
    postgresql_where=text(_unsent),
    sqlite_where=text(_unsent),
)
is_unsent = is_still(job_executions, JobStatus.QUEUED) & job_executions.c.published_at.is_(None)
"""
Whether an execution is in `ix_job_executions_unsent`: every tick asks for those that are due.

Said as no other index has it, so that PostgreSQL takes none of all that is queued. Most rows never
are in it, for their messages are noted with their claim. One that is leaves it when its message is
noted, which then writes to every index of the table.
"""
is_live = in_state(job_executions, JobStatus.QUEUED, JobStatus.RUNNING)
"""
Whether an execution is in `ix_job_executions_live`. To be said beside which of the two states is
wanted: SQLite uses the index only where its condition is repeated word for word.
"""
Index("ix_job_executions_market_session", job_executions.c.market_id, job_executions.c.as_of_date)
Index("ix_job_executions_completed_at", job_executions.c.completed_at)
_failed = "status IN ('FAILED', 'EXPIRED', 'CANCELLED')"
Index(
    "ix_job_executions_failed",
    job_executions.c.completed_at,
    postgresql_where=text(_failed),
    sqlite_where=text(_failed),
)
has_failed = in_state(job_executions, JobStatus.FAILED, JobStatus.EXPIRED, JobStatus.CANCELLED)
"""
Whether an execution is in `ix_job_executions_failed`, by which every tick finds the few of a day
that have not gone well; said like `is_live`.
"""

# By these, executions are listed. Every change of one writes to each that it is in, so they have as
# few columns and rows as will do: those of a common job or worker are found by their time.
Index("ix_job_executions_created_at", job_executions.c.created_at)
_unsuccessful = "status <> 'SUCCESS'"
Index(
    "ix_job_executions_status",
    job_executions.c.status,
    job_executions.c.created_at,
    postgresql_where=text(_unsuccessful),
    sqlite_where=text(_unsuccessful),
)
Index("ix_job_executions_job", job_executions.c.job_id)
Index(
    "ix_job_executions_worker",
    job_executions.c.worker,
    postgresql_where=text("worker IS NOT NULL"),
    sqlite_where=text("worker IS NOT NULL"),
)
Index(
    "ix_job_executions_started_at",
    job_executions.c.started_at,
    postgresql_where=text("started_at IS NOT NULL"),
    sqlite_where=text("started_at IS NOT NULL"),
)

run_changes = Table(
    "run_changes",
    metadata,
    # No key, and no reference: nobody who writes here waits for anybody else.
    Column("dag_id", String(200), nullable=False),
    comment="runs that were written to since the leader last looked; by triggers",
)
# In the transaction that makes the change: no writer is forgotten, whatever its release, and what
# can be seen has been noted, however late it was committed.
_NOTE = "BEGIN INSERT INTO run_changes (dag_id) VALUES (NEW.dag_id); END"
_NOTE_REMOVED = "BEGIN INSERT INTO run_changes (dag_id) VALUES (OLD.dag_id); END"
_FUNCTION = """
CREATE FUNCTION note_run_change() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO run_changes (dag_id) VALUES (OLD.dag_id);
    ELSE
        INSERT INTO run_changes (dag_id) VALUES (NEW.dag_id);
    END IF;
    RETURN NULL;
END
$$
"""


def _execute(table: Table, when: str, dialect: str, statement: str) -> None:
    ddl = DDL(statement)  # type: ignore[no-untyped-call]  # SQLAlchemy has not typed it
    event.listen(table, when, ddl.execute_if(dialect=dialect))


# Where all tables are published, rows of one without a key could not be removed otherwise.
_execute(run_changes, "after_create", "postgresql", "ALTER TABLE run_changes REPLICA IDENTITY FULL")
_execute(run_changes, "after_create", "postgresql", _FUNCTION)
_execute(run_changes, "after_drop", "postgresql", "DROP FUNCTION note_run_change()")
for _table, _name, _write, _only, _act in (
    # The first attempts of a run's jobs are made together with it.
    (job_executions, "new_attempt", "INSERT", " WHEN (NEW.attempt_number > 1)", _NOTE),
    # What a decision is made of, and no more: a worker names what it runs every few seconds.
    (
        job_executions,
        "changed_attempt",
        "UPDATE OF status, forced, scheduled_at, cancel_asked_at",
        "",
        _NOTE,
    ),
    (dag_runs, "new_run", "INSERT", "", _NOTE),
    (
        dag_runs,
        "changed_run",
        "UPDATE OF status, forced, created_at, definition_hash, calendar_version",
        "",
        _NOTE,
    ),
    (dag_runs, "removed_run", "DELETE", "", _NOTE_REMOVED),
):
    # This only puts them in order: whoever makes some tables alone has to make that one as well.
    _table.add_is_dependent_on(run_changes)
    _create = f"CREATE TRIGGER note_{_name} AFTER {_write} ON {_table.name} FOR EACH ROW{_only}"
    _execute(_table, "after_create", "postgresql", f"{_create} EXECUTE FUNCTION note_run_change()")
    _execute(_table, "after_create", "sqlite", f"{_create} {_act}")

failure_calls = Table(
    "failure_calls",
    metadata,
    Column(
        "execution_id",
        ForeignKey("job_executions.execution_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("called_at", UtcDateTime, nullable=False, server_default=database_now()),
    comment="final failures for which on_failure was called; a finished execution never changes",
)

attempt_logs = Table(
    "attempt_logs",
    metadata,
    Column(
        "execution_id",
        ForeignKey("job_executions.execution_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("part", Integer, primary_key=True, autoincrement=False, comment="1 for the first"),
    Column("at", UtcDateTime, nullable=False, server_default=database_now()),
    Column("text", Text, nullable=False, comment="whole lines"),
    comment="what attempts printed and logged",
)

pauses = Table(
    "pauses",
    metadata,
    Column("pause_id", Integer, primary_key=True, autoincrement=True),
    Column("market_id", String(40), comment="null: any market"),
    Column("pipeline", String(100), comment="null: any pipeline"),
    Column(
        "dag_id",
        ForeignKey("dag_runs.dag_id", ondelete="CASCADE"),
        comment="of a job that is held",
    ),
    Column("job_id", String(200)),
    Column("reason", Text, nullable=False),
    Column("author", String(200), nullable=False),
    Column("paused_at", UtcDateTime, nullable=False, server_default=database_now()),
    Column("until", UtcDateTime, comment="when it ends by itself"),
    Column("ended_at", UtcDateTime, comment="when somebody ended it"),
    Column("ended_by", String(200)),
    CheckConstraint(
        "(dag_id IS NULL) = (job_id IS NULL)"
        " AND (dag_id IS NULL) <> (market_id IS NULL AND pipeline IS NULL)",
        name="target",
    ),
    CheckConstraint("(ended_at IS NULL) = (ended_by IS NULL)", name="ended"),
    comment="what operators keep from starting",
)
Index(
    "ix_pauses_open",
    pauses.c.pause_id,
    postgresql_where=text("ended_at IS NULL"),
    sqlite_where=text("ended_at IS NULL"),
)
pause_holds = pauses.c.ended_at.is_(None) & (
    pauses.c.until.is_(None) | (pauses.c.until > database_now())
)
"""Whether a pause is in force."""
_keeps_execution = (
    pauses.c.market_id.is_(None) | (pauses.c.market_id == dag_runs.c.market_id),
    pauses.c.pipeline.is_(None) | (pauses.c.pipeline == dag_runs.c.pipeline),
    pauses.c.dag_id.is_(None)
    | ((pauses.c.dag_id == job_executions.c.dag_id) & (pauses.c.job_id == job_executions.c.job_id)),
)
is_paused = exists().where(pause_holds, *_keeps_execution)
"""Whether an operator keeps an execution from starting; to be said of it and its run."""


def was_paused_since(at: datetime) -> ColumnElement[bool]:
    """Say whether `is_paused` was so at any time after an instant, or is so now."""
    return exists().where(
        pauses.c.ended_at.is_(None) | (pauses.c.ended_at > at),
        pauses.c.until.is_(None) | (pauses.c.until > at),
        *_keeps_execution,
    )


backfills = Table(
    "backfills",
    metadata,
    Column("backfill_id", Integer, primary_key=True, autoincrement=True),
    Column("pipeline", String(100), nullable=False),
    Column("market_id", String(40), nullable=False),
    Column("first_session", Date, nullable=False, comment="as asked: included"),
    Column("last_session", Date, nullable=False, comment="as asked: included"),
    Column("reprocess", String(10), nullable=False, comment="which runs it runs again"),
    Column("max_active_runs", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("author", String(200), nullable=False),
    Column("created_at", UtcDateTime, nullable=False, server_default=database_now()),
    Column("ended_at", UtcDateTime, comment="its last run ended, or somebody stopped it"),
    Column("stopped_by", String(200)),
    CheckConstraint(_one_of("reprocess", [each.value for each in Reprocess]), name="reprocess"),
    CheckConstraint("max_active_runs > 0", name="max_active_runs"),
    CheckConstraint("stopped_by IS NULL OR ended_at IS NOT NULL", name="stopped"),
    comment="ranges of sessions whose runs are made or run again",
)
Index(
    "ix_backfills_open",
    backfills.c.backfill_id,
    postgresql_where=text("ended_at IS NULL"),
    sqlite_where=text("ended_at IS NULL"),
)

backfill_sessions = Table(
    "backfill_sessions",
    metadata,
    Column(
        "backfill_id", ForeignKey("backfills.backfill_id", ondelete="CASCADE"), primary_key=True
    ),
    Column("as_of_date", Date, primary_key=True),
    Column("dag_id", String(200), nullable=False, comment="of its run, made or not"),
    Column("again", Boolean, nullable=False, comment="its run was there and is run again"),
    Column("begun_at", UtcDateTime, comment="when its turn came"),
    Column("refused", Text, comment="why it could not be run then"),
    CheckConstraint("refused IS NULL OR begun_at IS NOT NULL", name="refused"),
    comment="what a backfill does, and has done",
)

worker_incarnations = Table(
    "worker_incarnations",
    metadata,
    Column("incarnation", String(36), primary_key=True, comment="made when the process starts"),
    Column("worker", String(200), nullable=False, comment="node name"),
    Column("host", String(200), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("queues", Json, nullable=False),
    Column("started_at", UtcDateTime, nullable=False, server_default=database_now()),
    Column("renewed_at", UtcDateTime, nullable=False, server_default=database_now()),
    Column("previous_renewed_at", UtcDateTime, comment="the renewal before the last"),
    Column("expires_at", UtcDateTime, nullable=False, comment="end of its lease"),
    Column("ended_at", UtcDateTime, comment="it stopped by itself, or was given up"),
    Column("slots", Integer, comment="jobs that it runs at once"),
)
Index(
    "ix_worker_incarnations_alive",
    worker_incarnations.c.worker,  # not what a renewal changes
    postgresql_where=text("ended_at IS NULL"),
    sqlite_where=text("ended_at IS NULL"),
)
Index("ix_worker_incarnations_ended", worker_incarnations.c.ended_at)

leases = Table(
    "leases",
    metadata,
    Column("name", String(40), primary_key=True, comment="what is led: beat"),
    Column("owner", String(300), nullable=False),
    Column("epoch", Integer, nullable=False, comment="grows with every change of owner"),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("ticked_at", UtcDateTime, comment="last complete tick of the owner"),
    Column("broker_lost_at", UtcDateTime, comment="since when the owner can not reach the broker"),
    Column("figures", Json, comment="what all its owners have done, as counts that add up"),
)

standbys = Table(
    "standbys",
    metadata,
    Column("owner", String(300), primary_key=True, comment="as it would lead"),
    Column("since", UtcDateTime, nullable=False, server_default=database_now()),
    Column("renewed_at", UtcDateTime, nullable=False, server_default=database_now()),
    Column("expires_at", UtcDateTime, nullable=False, comment="it is silent from then on"),
    comment="beats that wait for the lead",
)

market_clock = Table(
    "market_clock",
    metadata,
    Column("id", Integer, primary_key=True, comment="always 1"),
    Column("anchor_market_at", UtcDateTime, comment="null: market time is wall time"),
    Column("anchor_wall_at", UtcDateTime),
    Column("speed", Double, nullable=False, comment="market seconds a wall second; 0 jumps"),
    Column("first_session", Date, comment="a replay runs no session before this"),
    Column("last_session", Date, comment="nor after this"),
    Column("markets", Json, comment="nor any other market"),
    CheckConstraint("id = 1", name="single"),
    CheckConstraint("(anchor_market_at IS NULL) = (anchor_wall_at IS NULL)", name="anchors"),
)

pipelines = Table(
    "pipelines",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("market_id", String(40), primary_key=True),
    Column("first_seen_at", UtcDateTime, nullable=False, comment="market time"),
    Column(
        "sessions",
        String(100),
        nullable=False,
        server_default="every session",
        comment="those it has run on since then",
    ),
)

audit = Table(
    "audit",
    metadata,
    Column("audit_id", Integer, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False, server_default=database_now()),
    Column("actor", String(200), nullable=False),
    Column("action", String(40), nullable=False),
    Column("target", String(300), nullable=False),
    Column("details", Json, nullable=False),
)

Index("ix_audit_actor", audit.c.actor, audit.c.audit_id)
Index("ix_audit_action", audit.c.action, audit.c.audit_id)
Index("ix_audit_target", audit.c.target, audit.c.audit_id)

request_keys = Table(
    "request_keys",
    metadata,
    Column("key", String(200), primary_key=True, comment="made by the client"),
    Column("request_hash", String(64), nullable=False),
    Column("answer", Text, nullable=False, comment="JSON, as it was sent"),
    Column("created_at", UtcDateTime, nullable=False, server_default=database_now()),
    comment="requests to the web API that have acted and must not act twice",
)

_role = _one_of("role", [role.value for role in Role])

users = Table(
    "users",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("role", String(10), nullable=False),
    Column("password_hash", Text, nullable=False, comment="argon2id, with its parameters"),
    Column("created_at", UtcDateTime, nullable=False, server_default=database_now()),
    Column("password_set_at", UtcDateTime, nullable=False, server_default=database_now()),
    CheckConstraint(_role, name="role"),
    comment="who may sign in to the web API",
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("role", String(10), nullable=False),
    Column("token_hash", String(64), nullable=False, unique=True, comment="SHA-256"),
    Column("created_at", UtcDateTime, nullable=False, server_default=database_now()),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("allowed", Json, comment="actions it is limited to; NULL: all that its role may"),
    CheckConstraint(_role, name="role"),
    comment="what programs show the web API; one that is revoked is removed",
)

sign_ins = Table(
    "sign_ins",
    metadata,
    Column("secret_hash", String(64), primary_key=True, comment="SHA-256 of what the cookie has"),
    Column("user_name", ForeignKey("users.name", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", UtcDateTime, nullable=False, server_default=database_now()),
    Column("expires_at", UtcDateTime, nullable=False),
    comment="browsers in which users are signed in",
)

horizon_warnings = Table(
    "horizon_warnings",
    metadata,
    Column("market_id", String(40), primary_key=True),
    Column("level", String(10), nullable=False, comment="how loudly it was said"),
    Column("said_on", Date, nullable=False, comment="in market time"),
    comment="when it was last said that a calendar ends",
)

market_holidays = Table(
    "market_holidays",
    metadata,
    Column("holiday_id", Integer, primary_key=True, autoincrement=True),
    Column("exchange", String(10), nullable=False, comment="MIC"),
    Column("date", Date, nullable=False, comment="of the session, or of what would have been one"),
    Column("name", String(200), nullable=False),
    Column("kind", String(20), nullable=False, comment="what it means for trading"),
    Column("close", Time, comment="local time at which an early close ends"),
    Column("source", String(40), nullable=False, comment="the feed that says so"),
    Column("fetched_at", UtcDateTime, nullable=False, comment="when it last did, undecided"),
    Column("state", String(10), nullable=False),
    Column("decided_at", UtcDateTime),
    Column("decided_by", String(200)),
    Column("reason", Text, comment="why a person decided so"),
    CheckConstraint(_one_of("kind", [kind.value for kind in HolidayKind]), name="kind"),
    CheckConstraint(_one_of("state", [state.value for state in HolidayState]), name="state"),
    CheckConstraint("close IS NULL OR kind = 'early_close'", name="close"),
    CheckConstraint(
        "(state = 'proposed') = (decided_at IS NULL)"
        " AND (decided_at IS NULL) = (decided_by IS NULL)"
        " AND (decided_at IS NULL) = (reason IS NULL)",
        name="decided",
    ),
    comment="what feeds say of holidays, and what people have decided of it",
)
_proposed = "state = 'proposed'"
Index(
    "ux_market_holidays_proposed",
    market_holidays.c.exchange,
    market_holidays.c.date,
    market_holidays.c.source,
    unique=True,
    postgresql_where=text(_proposed),
    sqlite_where=text(_proposed),
)
is_proposed: ColumnElement[bool] = literal_column(_proposed)
"""Whether a holiday is in `ux_market_holidays_proposed`; written out, as `in_state` says."""
Index("ix_market_holidays_exchange_date", market_holidays.c.exchange, market_holidays.c.date)

calendar_overrides = Table(
    "calendar_overrides",
    metadata,
    Column(
        "override_id",
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="in the order of recording",
    ),
    Column("exchange", String(10), comment="MIC; or the market"),
    Column("market_id", String(40)),
    Column("session", Date, nullable=False, comment="the session's date"),
    Column("kind", String(20), nullable=False),
    Column("opens", String(20), comment="local time, such as 09:30 or 17:00-1d"),
    Column("closes", String(20)),
    Column("breaks", String(200), comment="11:30-12:30; empty takes them away"),
    Column("zone", String(60), comment="whose clocks the times are of; null: the exchange's"),
    Column("reason", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("announced_at", UtcDateTime, nullable=False, comment="market time"),
    Column("author", String(200), nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False, server_default=database_now()),
    Column("withdraws", ForeignKey("calendar_overrides.override_id"), unique=True),
    CheckConstraint("(exchange IS NULL) <> (market_id IS NULL)", name="target"),
    CheckConstraint(_one_of("kind", [kind.value for kind in OverrideKind]), name="kind"),
    CheckConstraint("(kind = 'withdrawn') = (withdraws IS NOT NULL)", name="withdraws"),
    comment="what people say of single sessions; no row is ever changed",
)

alerts = Table(
    "alerts",
    metadata,
    Column("alert_id", Integer, primary_key=True, autoincrement=True),
    Column("key", String(300), nullable=False, comment="the same for the same trouble"),
    Column("kind", String(30), nullable=False),
    Column("severity", String(10), nullable=False),
    Column("markets", Json, nullable=False, comment="those it is about; none: all"),
    Column("pipeline", String(100)),
    Column("dag_id", String(200), comment="no reference: it outlives the run"),
    Column("priority", Integer, comment="1 CRITICAL, 2 STANDARD, 3 OPTIONAL"),
    Column("summary", Text, nullable=False),
    Column("details", Json, nullable=False, comment="lines"),
    Column("subjects", Json, nullable=False, comment="what of it is wrong, such as jobs"),
    Column("since", UtcDateTime, nullable=False, comment="when the trouble began"),
    Column("raised_at", UtcDateTime, nullable=False, comment="when it was seen, the last time"),
    Column("times", Integer, nullable=False, comment="how often it was raised"),
    Column("resolved_at", UtcDateTime, comment="when it was seen that it is over"),
    Column("told", String(10), comment="what recipients were told last"),
    Column("told_at", UtcDateTime),
    Column("told_subjects", Json, nullable=False),
    Column("acknowledged_at", UtcDateTime, comment="from then on nothing is told"),
    Column("acknowledged_by", String(200)),
    Column("reason", Text, comment="why it was acknowledged"),
    CheckConstraint(_one_of("kind", [kind.value for kind in AlertKind]), name="kind"),
    CheckConstraint(_one_of("severity", [each.value for each in Severity]), name="severity"),
    CheckConstraint(_one_of("told", [told.value for told in Told]), name="told"),
    CheckConstraint("(told IS NULL) = (told_at IS NULL)", name="told_at"),
    CheckConstraint(
        "(acknowledged_at IS NULL) = (acknowledged_by IS NULL)"
        " AND (acknowledged_at IS NULL) = (reason IS NULL)",
        name="acknowledged",
    ),
    comment="what went wrong, and what recipients know of it",
)
_unresolved = "resolved_at IS NULL"
Index(
    "ux_alerts_open",
    alerts.c.key,
    unique=True,
    postgresql_where=text(_unresolved),
    sqlite_where=text(_unresolved),
)
Index("ix_alerts_resolved_at", alerts.c.resolved_at)
_told_of = "told = 'raised' AND acknowledged_at IS NULL"
Index(
    "ix_alerts_told_of",
    alerts.c.told,  # SQLite joins it to others by its column
    postgresql_where=text(_told_of),
    sqlite_where=text(_told_of),
)
is_told_of: ColumnElement[bool] = literal_column(f"({_told_of})")
"""Whether recipients know of an alert, and are told when it is over; said like `is_live`."""

alert_deliveries = Table(
    "alert_deliveries",
    metadata,
    Column("delivery_id", Integer, primary_key=True, autoincrement=True),
    Column("alert_id", ForeignKey("alerts.alert_id", ondelete="CASCADE"), nullable=False),
    Column("channel", String(64), nullable=False),
    Column("event", String(10), nullable=False),
    Column("title", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("state", String(10), nullable=False),
    Column("tries", Integer, nullable=False),
    Column("next_try_at", UtcDateTime, nullable=False),
    Column("error", Text, comment="of the last try that failed"),
    Column("created_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime, comment="when it was taken, given up or replaced"),
    CheckConstraint(_one_of("event", [told.value for told in Told]), name="event"),
    CheckConstraint("state IN ('pending', 'sent', 'failed', 'replaced')", name="state"),
    CheckConstraint("(state = 'pending') = (ended_at IS NULL)", name="ended"),
    comment="messages of alerts, each written before it is sent",
)
_pending = "state = 'pending'"
Index(
    "ix_alert_deliveries_pending",
    alert_deliveries.c.next_try_at,
    postgresql_where=text(_pending),
    sqlite_where=text(_pending),
)
Index("ix_alert_deliveries_alert_id", alert_deliveries.c.alert_id)
