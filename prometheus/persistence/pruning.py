"""
Old keys of requests, alerts, backfills, workers and runs are removed, a few at a time, and never
made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Select,
    and_,
    delete,
    func,
    select,
    update,
)

from prometheus.core.instants import write_instant
from prometheus.errors import PrometheusError
from prometheus.orchestration.lifecycle import RunStatus
from prometheus.orchestration.planning import LOOKS_BACK
from prometheus.persistence.alerts import old_alerts
from prometheus.persistence.audits import change_audit, record_audit
from prometheus.persistence.backfills import old_backfills
from prometheus.persistence.clock import read_now
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.leases import old_workers
from prometheus.persistence.requests import old_keys
from prometheus.persistence.tables import (
    alerts,
    backfills,
    dag_runs,
    job_executions,
    pipelines,
    request_keys,
    worker_incarnations,
)

_r = dag_runs.c
_RUNS_AT_ONCE = 50
OTHERS: Mapping[str, tuple[Column[Any], Callable[[datetime], Select[Any]], int]] = {
    "request_keys": (request_keys.c.key, old_keys, 1_000),
    "alerts": (alerts.c.alert_id, old_alerts, 200),  # each with its messages
    "backfills": (backfills.c.backfill_id, old_backfills, 1),  # each with up to 5,000 sessions
    "workers": (worker_incarnations.c.incarnation, old_workers, 1_000),
}
"""What else goes: its key, which of it is old, and how many go in one transaction."""
LEAST_AGE = timedelta(days=30)
"""Of what may be removed: what is younger may still be looked at, or followed by a new run."""


class TooYoungError(PrometheusError):
    """What is to be removed is not old enough."""

    def __init__(self, age: timedelta) -> None:
        super().__init__(
            f"Runs of the last {LEAST_AGE.days} days stay, and {age.days} are asked for. "
            f"Name a longer time, such as 400d."
        )


@dataclass(frozen=True, slots=True)
class Cutoff:
    """What is old: a session before a date, whose run ended before an instant."""

    session: date
    """In market time."""
    completed_at: datetime
    """In wall time: a past session that was run again lately stays."""

    @property
    def old(self) -> ColumnElement[bool]:
        """Whether a run is finished and old."""
        return and_(
            _r.status != RunStatus.OPEN,
            _r.as_of_date < self.session,
            _r.completed_at < self.completed_at,
        )


@dataclass(frozen=True, slots=True)
class Removed:
    """What went, or would."""

    runs: int
    executions: int
    first_session: date | None = None
    last_session: date | None = None
    request_keys: int = 0
    alerts: int = 0
    backfills: int = 0
    workers: int = 0
    """Processes of workers that have ended."""

    def __add__(self, other: Removed) -> Removed:
        firsts = [each for each in (self.first_session, other.first_session) if each]
        lasts = [each for each in (self.last_session, other.last_session) if each]
        return Removed(
            self.runs + other.runs,
            self.executions + other.executions,
            min(firsts, default=None),
            max(lasts, default=None),
            self.request_keys + other.request_keys,
            self.alerts + other.alerts,
            self.backfills + other.backfills,
            self.workers + other.workers,
        )

    def document(self) -> dict[str, Any]:
        """Return it for machines."""
        return {
            "runs": self.runs,
            "executions": self.executions,
            "first_session": self.first_session and self.first_session.isoformat(),
            "last_session": self.last_session and self.last_session.isoformat(),
            **{kind: getattr(self, kind) for kind in OTHERS},
        }


def find_cutoff(connection: Connection, age: timedelta) -> Cutoff:
    """
    Say what is older than an age.

    Raises:
        TooYoungError: It is less than `LEAST_AGE`.
    """
    if age < LEAST_AGE:
        raise TooYoungError(age)
    now = read_now(connection)
    return Cutoff((now.market_at - age).date(), now.wall_at - age)


def count_old(engine: Engine, cutoff: Cutoff) -> Removed:
    """Count what `prune` would remove at this moment."""
    with reading(engine) as connection:
        runs, first, last = connection.execute(
            select(func.count(), func.min(_r.as_of_date), func.max(_r.as_of_date)).where(cutoff.old)
        ).one()
        executions = connection.execute(
            select(func.count()).select_from(job_executions.join(dag_runs)).where(cutoff.old)
        ).scalar_one()
        others = {
            kind: connection.execute(
                select(func.count()).select_from(old(cutoff.completed_at).subquery())
            ).scalar_one()
            for kind, (_, old, _) in OTHERS.items()
        }
    return Removed(runs, executions, first, last, **others)


def prune(
    engine: Engine, cutoff: Cutoff, *, actor: str, reason: str | None = None
) -> Iterator[Removed]:
    """
    Remove old keys of requests, alerts, backfills and workers that were over by then, and old runs
    with their executions, so many in a transaction; who did what stays in `audit`, this too.

    Safe beside schedulers, workers, operators and another of its kind: an open run is never
    touched, nor what somebody holds at that moment.

    Args:
        actor: Who asks.
        reason: Why, for the audit.

    Yields:
        What each transaction has removed, once it is committed.
    """
    _forget_sessions(engine, cutoff)
    details = {
        "sessions_before": cutoff.session.isoformat(),
        "ended_before": write_instant(cutoff.completed_at),
        "reason": reason,
    }
    removed = Removed(0, 0)
    with writing(engine) as connection:
        target = f"sessions before {cutoff.session}"
        entry = record_audit(
            connection, actor, "prune", target, details, before=removed.document(), after=None
        )

    def note(connection: Connection, batch: Removed) -> Removed:
        # With each of its transactions: one that is interrupted has said what is gone.
        so_far = removed + batch
        change_audit(connection, entry, details, before=so_far.document(), after=None)
        return so_far

    for kind in OTHERS:
        while True:
            with writing(engine) as connection:
                count = forget_some(connection, kind, cutoff.completed_at)
                if not count:
                    break
                gone: dict[str, Any] = {kind: count}
                batch = Removed(0, 0, **gone)
                removed = note(connection, batch)
            yield batch
    while True:
        with writing(engine) as connection:
            # Whoever reopens a run holds it; when it is let go, its state is looked at anew.
            dag_ids = connection.execute(
                select(_r.dag_id)
                .where(cutoff.old)
                .order_by(_r.as_of_date, _r.dag_id)
                .limit(_RUNS_AT_ONCE)
                .with_for_update(skip_locked=True)
            ).scalars()
            found = list(dag_ids)
            if not found:
                return
            executions = connection.execute(
                delete(job_executions).where(job_executions.c.dag_id.in_(found))
            ).rowcount
            days = connection.execute(
                delete(dag_runs).where(_r.dag_id.in_(found)).returning(_r.as_of_date)
            ).scalars()
            sessions = list(days)
            batch = Removed(len(sessions), executions, min(sessions), max(sessions))
            removed = note(connection, batch)
        yield batch


def forget_some(connection: Connection, kind: str, before: datetime) -> int:
    """
    Remove a few keys of requests, alerts, backfills or workers that were over before an instant.

    Args:
        connection: In whose transaction they go.
        kind: Of `OTHERS`.
        before: In wall time.

    Returns:
        How many have gone; none: there are no more that nobody holds.
    """
    key, old, at_once = OTHERS[kind]
    # Whoever would wait for another to remove them would find none, and take that for the end.
    some = old(before).order_by(key).limit(at_once).with_for_update(skip_locked=True)
    found = list(connection.execute(some).scalars())
    if found:
        connection.execute(delete(key.table).where(key.in_(found)))
    return len(found)


def _forget_sessions(engine: Engine, cutoff: Cutoff) -> None:
    """
    Let no scheduler take the sessions for missed whose runs are about to go.

    Committed before the first of them goes: whoever plans reads both in one transaction.
    """
    seen_at = datetime.combine(cutoff.session, time(), UTC) + LOOKS_BACK
    known = pipelines.c
    concerned = select(_r.dag_id).where(
        cutoff.old,
        _r.pipeline == known.name,
        _r.market_id == known.market_id,
    )
    with writing(engine) as connection:
        connection.execute(
            update(pipelines)
            .where(known.first_seen_at < seen_at, concerned.exists())
            .values(first_seen_at=seen_at)
        )
