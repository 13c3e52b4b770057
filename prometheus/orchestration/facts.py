"""What an explanation is made of besides a decision: attempts, queue, workers, scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from prometheus.core.clock import MarketClock
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.orchestration.pauses import Pause


class JobRef(NamedTuple):
    """A job of a run."""

    dag_id: str
    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One attempt of a job, as far as an explanation needs it; all times are wall time."""

    execution_id: str
    attempt_number: int
    status: JobStatus
    created_at: datetime
    timeout: timedelta
    """Soft limit."""
    retries: int = 0
    """Failures before this one."""
    scheduled_at: datetime | None = None
    """Since when, or from when on, a worker may start it."""
    published_at: datetime | None = None
    """When its last message was sent; ``None`` if none was."""
    started_at: datetime | None = None
    completed_at: datetime | None = None
    hard_limit_at: datetime | None = None
    worker: str | None = None
    incarnation: str | None = None
    """Worker process that started it."""
    cancel_asked_at: datetime | None = None
    cancel_asked_by: str | None = None
    cancel_at: datetime | None = None
    error: str | None = None
    result: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """The scheduler that leads, or the last one that did; all times are wall time."""

    owner: str
    """Host, process id and more, separated by colons."""
    expires_at: datetime
    """End of its lease."""
    ticked_at: datetime | None = None
    """Its last complete tick."""
    broker_lost_at: datetime | None = None
    """Since when it can not reach the broker."""

    @property
    def process(self) -> str:
        """Host and process id."""
        host, pid, *_ = [*self.owner.split(":"), "?"]
        return f"{host}, pid {pid}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker process that nobody has given up; all times are wall time."""

    incarnation: str
    name: str
    queues: frozenset[str]
    started_at: datetime
    renewed_at: datetime
    expires_at: datetime
    """End of its lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """An execution that waits in the market's queue, or for a message to it."""

    execution_id: str
    job: JobRef
    background: bool
    """Of a session that is caught up: taken after all others."""
    priority: int
    published_at: datetime | None

    def goes_before(self, other: Waiting) -> bool:
        """Say whether its message is taken before another's."""
        if self.published_at is None or other.published_at is None:
            return self.published_at is not None
        return self._order < other._order

    @property
    def _order(self) -> tuple[object, ...]:
        # Messages that are sent together have one stamp, and are sent in the order of decisions.
        job = self.job.job_id, self.job.dag_id
        return self.background, self.priority, self.published_at, *job


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """An execution that a worker is running."""

    execution_id: str
    job: JobRef
    incarnation: str
    hard_limit_at: datetime | None
    started_at: datetime | None = None
    usual: timedelta | None = None
    """How long it usually takes, as `Facts.usual` says of the run's own jobs; ``None`` if that is
    not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtWork:
    """Who works for a market, and what keeps them from it."""

    wall_at: datetime
    """Wall time of the look."""
    leader: Leader | None
    silent_after: timedelta
    """Without a complete tick for so long, a scheduler that leads is silent."""
    workers: tuple[Worker, ...] = ()
    """Those of all queues, whether or not their leases have run out."""
    last_worker: tuple[str, datetime] | None = None
    """Of the queue: the last one that ended or was given up, and when."""
    running: tuple[Running, ...] = ()
    """What the workers run, of whatever market."""
    waiting: tuple[Waiting, ...] = ()
    """What waits in the market's queue and is due."""
    enabled: bool = True
    """Whether this installation works for the market."""
    locked: bool = False
    """Whether it was seen that nobody can write to the database: see `is_held`."""
    broker_fault: str | None = None
    """Why the broker did not answer when it was asked."""
    busy: frozenset[str] | None = None
    """Incarnations all of whose slots are taken; ``None`` where the broker was not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A session of a backfill, whose turn is to come or has come."""

    backfill_id: int
    author: str
    reason: str
    again: bool
    """Whether its run was there, and is run again."""
    begun: bool
    """Whether its turn has come."""
    refused: str | None
    """Why it could not be run then."""
    ahead: int
    """Sessions of the backfill whose turn comes before."""
    active: int
    """Its runs that are open."""
    max_active_runs: int
    pause: Pause | None = None
    """What keeps its runs from starting."""

    def __str__(self) -> str:
        return f"backfill {self.backfill_id} by {self.author} ({self.reason})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a run besides its `RunState`, read in the same transaction."""

    at_work: AtWork
    clock: MarketClock
    opens_at: datetime
    """When the run opens, in market time."""
    trigger: str
    """Why there is the run."""
    executions: Mapping[str, tuple[Execution, ...]]
    """The last two attempts of each job, the latest last."""
    completed_at: datetime | None = None
    """When the run ended, in wall time."""
    calendar: TradingCalendar | None = None
    """Of its market; ``None`` where it can not be read."""
    held: str | None = None
    """Why nothing can be decided about the runs of its market."""
    closed: str | None = None
    """Why its session is none any more."""
    previous_run: str | None = None
    """The run of the session before."""
    previous: Mapping[str, Execution] = field(default_factory=dict)
    """Job id -> its attempt in that run, of those that wait in a queue or run there."""
    orphans: Mapping[str, str] = field(default_factory=dict)
    """Execution id -> why nobody runs it any more, as the scheduler will say."""
    usual: Mapping[str, timedelta] = field(default_factory=dict)
    """Job id -> the median of how long its successes in the sessions before took."""
    asked_by: str | None = None
    """The operator, or the backfill of one, who last asked for attempts of the run."""
    turn: Turn | None = None
    """Of the last backfill that has run it or will."""
