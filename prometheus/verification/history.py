"""
What a database says has happened, read with plain SQL and nothing of the scheduler's code.

The checker has its own reading of the tables, so that a fault in the scheduler's can not hide
itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy
from sqlalchemy import Connection, inspect

from prometheus.core.clock import MarketClock
from prometheus.core.exchanges import LocalTime
from prometheus.core.overrides import Override, OverrideKind, Overrides

PENDING, QUEUED, RUNNING = "PENDING", "QUEUED", "RUNNING"
SUCCESS, FAILED, SKIPPED, CANCELLED, EXPIRED = (
    "SUCCESS", "FAILED", "SKIPPED", "CANCELLED", "EXPIRED",
)  # fmt: skip
OPEN = "OPEN"
FINAL = frozenset({SUCCESS, FAILED, SKIPPED, CANCELLED, EXPIRED})
BLOCKING = FINAL - {SUCCESS}


@dataclass(frozen=True, slots=True)
class Job:
    """One job as the run's stored definition has it."""

    job_id: str
    dependencies: tuple[str, ...] = ()
    required_state: str | None = None
    window: str = "session"
    priority: str = "STANDARD"
    max_retries: int = 3
    timeout_seconds: float = 3600
    retry_base_seconds: float = 60
    retry_cap_seconds: float = 900
    after_previous: bool = False
    queue_timeout_seconds: float | None = None
    start: str | None = None
    polls: tuple[float, float] | None = None
    """Of a sensor: seconds of its first and of its longest pause."""
    otherwise: str | None = None
    """Of a sensor: what it does when it gives up."""
    give_up: str | None = None
    """Of a sensor: until when it asks."""


@dataclass(frozen=True, slots=True)
class Definition:
    """What a run was made of."""

    jobs: Mapping[str, Job] = field(default_factory=dict)
    """By id; empty where the stored definition can not be read."""
    run_timeout_seconds: float | None = None
    sessions: str = "every"
    short_sessions: str = "run"


@dataclass(frozen=True, slots=True)
class Run:
    """A row of ``dag_runs``."""

    dag_id: str
    pipeline: str
    market_id: str
    as_of_date: date
    status: str
    forced: bool
    trigger: str
    definition: str
    """JSON, as it is stored."""
    definition_hash: str
    calendar_version: str
    opens_at: datetime
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Execution:
    """A row of ``job_executions``."""

    execution_id: str
    dag_id: str
    job_id: str
    market_id: str
    as_of_date: date
    status: str
    attempt_number: int
    retries: int
    lost: int
    queue: str
    priority: int
    forced: bool
    timeout_seconds: int
    window_opens_at: datetime | None
    window_closes_at: datetime | None
    scheduled_at: datetime | None
    scheduled_market_at: datetime | None
    published_at: datetime | None
    started_at: datetime | None
    started_market_at: datetime | None
    named_at: datetime | None
    hard_limit_at: datetime | None
    worker: str | None
    incarnation: str | None
    retry_bound_seconds: int | None
    retry_delay_seconds: int | None
    completed_at: datetime | None
    error_message: str | None
    created_at: datetime
    updated_at: datetime
    cancel_asked_at: datetime | None = None
    """Where the table has this column."""

    @property
    def final(self) -> bool:
        """Whether it can not change any more."""
        return self.status in FINAL


@dataclass(frozen=True, slots=True)
class Worker:
    """A row of ``worker_incarnations``: one process of a worker, from its start to its end."""

    incarnation: str
    worker: str
    queues: tuple[str, ...]
    started_at: datetime
    expires_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Audit:
    """A row of ``audit``: what an operator did."""

    at: datetime
    actor: str
    action: str
    target: str
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """One change of an execution's row, written by a trigger where there is one."""

    execution_id: str
    old: str | None
    """State before; ``None`` for a new row."""
    new: str
    """State after; ``DELETED`` for a row that is gone."""
    at: datetime
    seq: int


@dataclass(frozen=True, slots=True)
class Pause:
    """A row of ``pauses``: what an operator kept from starting, and when."""

    market_id: str | None
    pipeline: str | None
    dag_id: str | None
    job_id: str | None
    paused_at: datetime
    until: datetime | None
    ended_at: datetime | None

    @property
    def end(self) -> datetime | None:
        """When it ended or will; ``None``: when somebody ends it."""
        return min((at for at in (self.until, self.ended_at) if at is not None), default=None)


@dataclass(frozen=True, slots=True)
class History:
    """Everything that is checked."""

    runs: Sequence[Run]
    executions: Sequence[Execution]
    audit: Sequence[Audit]
    wall_at: datetime
    """The database's time when it was read."""
    clock: MarketClock = field(default_factory=MarketClock)
    ticked_at: datetime | None = None
    """When a scheduler last completed a tick, if one ever led."""
    changes: Sequence[Change] | None = None
    """``None`` where no trigger wrote them."""
    overrides: Overrides = field(default_factory=Overrides)
    """Of calendars, where the table is there."""
    workers: Mapping[str, Worker] = field(default_factory=dict)
    """By incarnation."""
    pauses: Sequence[Pause] = ()

    @property
    def live(self) -> bool:
        """Whether market time is wall time."""
        return self.clock.is_live

    @property
    def market_at(self) -> datetime:
        """The market time when it was read."""
        return self.clock.market_time(self.wall_at)


_SESSIONS = re.compile(r"every|(first|last|\d+(st|nd|rd|th)) of (week|month)")
_RUNS = """
    SELECT dag_id, pipeline, market_id, as_of_date, status, forced, trigger,
           CAST(definition AS TEXT), definition_hash, calendar_version, opens_at, created_at,
           updated_at, completed_at
    FROM dag_runs ORDER BY market_id, pipeline, as_of_date
"""
_EXECUTIONS = """
    SELECT execution_id, dag_id, job_id, market_id, as_of_date, status, attempt_number, retries,
           lost, queue, priority, forced, timeout_seconds, window_opens_at, window_closes_at,
           scheduled_at, scheduled_market_at, published_at, started_at, started_market_at, named_at,
           hard_limit_at, worker, incarnation, retry_bound_seconds, retry_delay_seconds,
           completed_at, error_message, created_at, updated_at
    FROM job_executions
"""
_ASKED = _EXECUTIONS.replace("updated_at\n", "updated_at, cancel_asked_at\n")
_AUDIT = "SELECT at, actor, action, target, CAST(details AS TEXT) FROM audit ORDER BY audit_id"
_CLOCK = "SELECT anchor_market_at, anchor_wall_at, speed FROM market_clock"
_TICKED = "SELECT max(ticked_at) FROM leases"
_OVERRIDES = """
    SELECT override_id, exchange, market_id, session, kind, opens, closes, breaks, zone, reason,
           source, announced_at, author, recorded_at, withdraws
    FROM calendar_overrides ORDER BY override_id
"""
_WORKERS = """
    SELECT incarnation, worker, CAST(queues AS TEXT), started_at, expires_at, ended_at
    FROM worker_incarnations
"""
_PAUSES = "SELECT market_id, pipeline, dag_id, job_id, paused_at, until, ended_at FROM pauses"
_CHANGES = "SELECT execution_id, old, new, at, seq FROM status_changes ORDER BY seq"
_NOW = {
    "postgresql": "SELECT clock_timestamp()",
    "sqlite": "SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')",
}


def read_history(connection: Connection) -> History:
    """
    Read all runs and executions.

    Args:
        connection: In a transaction that sees one state of the database, or nothing may change
            meanwhile.
    """
    if connection.dialect.name == "postgresql":
        # To read a long history takes longer than a transaction of ours may stand still.
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
    tables = inspect(connection)
    columns = {column["name"] for column in tables.get_columns("job_executions")}
    runs = [_run(row) for row in _rows(connection, _RUNS)]
    statement = _ASKED if "cancel_asked_at" in columns else _EXECUTIONS
    executions = [_execution(row) for row in _rows(connection, statement)]
    audit = [
        Audit(_instant(at), actor, action, target, json.loads(details))
        for at, actor, action, target, details in _rows(connection, _AUDIT)
    ]
    changes = None
    if tables.has_table("status_changes"):
        changes = [
            Change(execution_id, old, new, _instant(at), seq)
            for execution_id, old, new, at, seq in _rows(connection, _CHANGES)
        ]
    overrides = Overrides()
    if tables.has_table("calendar_overrides"):
        overrides = Overrides(tuple(map(_override, _rows(connection, _OVERRIDES))))
    workers = {
        row[0]: Worker(row[0], row[1], tuple(json.loads(row[2])), *map(_instant, row[3:]))
        for row in _rows(connection, _WORKERS)
    }
    pauses = []
    if tables.has_table("pauses"):
        pauses = [Pause(*row[:4], *map(_instant, row[4:])) for row in _rows(connection, _PAUSES)]
    market_at, wall_at, speed = next(_rows(connection, _CLOCK))
    return History(
        runs=runs,
        executions=executions,
        audit=audit,
        wall_at=_instant(next(_rows(connection, _NOW[connection.dialect.name]))[0]),
        clock=MarketClock(_instant(market_at), _instant(wall_at), speed),
        ticked_at=_instant(next(_rows(connection, _TICKED))[0]),
        changes=changes,
        overrides=overrides,
        workers=workers,
        pauses=pauses,
    )


def read_definition(text: str) -> Definition:
    """
    Read a stored definition.

    Raises:
        ValueError, KeyError, TypeError: It is no definition.
    """
    document = json.loads(text)
    jobs: dict[str, Job] = {}
    for each in document["jobs"]:
        sensor = each.get("sensor")
        job = Job(
            job_id=each["job_id"],
            dependencies=tuple(each["dependencies"]),
            required_state=each["required_state"],
            window=each["window"],
            priority=each["priority"],
            max_retries=each["max_retries"],
            timeout_seconds=each["timeout_seconds"],
            retry_base_seconds=each["retry_base_seconds"],
            retry_cap_seconds=each["retry_cap_seconds"],
            after_previous=each["after_previous"],
            queue_timeout_seconds=each.get("queue_timeout_seconds"),
            start=each.get("start"),
            polls=(sensor["every_seconds"], sensor["up_to_seconds"]) if sensor else None,
            otherwise=sensor["otherwise"] if sensor else None,
            give_up=sensor["give_up"] if sensor else None,
        )
        if job.job_id in jobs:
            raise ValueError(f"job {job.job_id!r} is in it twice")
        jobs[job.job_id] = job
    sessions = document.get("sessions", "every")
    if _SESSIONS.fullmatch(sessions) is None:
        raise ValueError(f"{sessions!r} names no sessions")
    return Definition(
        jobs,
        document.get("run_timeout_seconds"),
        sessions,
        document.get("short_sessions", "run"),
    )


def _run(row: Sequence[Any]) -> Run:
    values: list[Any] = [*row]
    values[3] = _day(row[3])
    values[5] = bool(row[5])
    values[10:] = map(_instant, row[10:])
    return Run(*values)


def _execution(row: Sequence[Any]) -> Execution:
    values: list[Any] = [*row]
    values[4] = _day(row[4])
    values[11] = bool(row[11])
    values[13:22] = map(_instant, row[13:22])
    values[26] = _instant(row[26])
    values[28:] = map(_instant, row[28:])
    return Execution(*values)


def _override(row: Sequence[Any]) -> Override:
    """Read an override; one whose words mean nothing here holds for nobody."""
    try:
        said = _said(row)
    except (ValueError, KeyError, OSError) as error:
        said = {"kind": OverrideKind.WITHDRAWN, "fault": str(error)}
    return Override(
        override_id=row[0],
        exchange=row[1],
        market=row[2],
        session=_day(row[3]),
        **said,
        reason=row[9],
        source=row[10],
        announced_at=_instant(row[11]),
        author=row[12],
        recorded_at=_instant(row[13]),
        withdraws=row[14],
    )


def _said(row: Sequence[Any]) -> dict[str, Any]:
    opens, closes = (LocalTime.parse(text) if text else None for text in row[5:7])
    breaks = None
    if row[7] is not None:
        pairs = (pause.split("-") for pause in row[7].split())
        breaks = tuple((LocalTime.parse(start), LocalTime.parse(end)) for start, end in pairs)
    return {
        "kind": OverrideKind(row[4]),
        "open": opens,
        "close": closes,
        "breaks": breaks,
        "zone": row[8] and ZoneInfo(row[8]).key,
    }


def _rows(connection: Connection, statement: str) -> Iterator[Sequence[Any]]:
    return iter(connection.execute(sqlalchemy.text(statement)).all())


def _instant(value: Any) -> Any:
    """Read an instant: PostgreSQL's driver gives one, SQLite has text without a zone, in UTC."""
    if value is None:
        return None
    if isinstance(value, str):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    return value.astimezone(UTC)


def _day(value: Any) -> date:
    return date.fromisoformat(value) if isinstance(value, str) else value
