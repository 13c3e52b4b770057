"""What has changed that people look at, and which of it, by two cheap statements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from zlib import crc32

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    case,
    func,
    literal_column,
    null,
    select,
    union_all,
)

from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence.leases import unended_workers
from prometheus.persistence.metadata import UtcDateTime
from prometheus.persistence.tables import (
    alerts,
    attempt_logs,
    backfills,
    dag_runs,
    in_state,
    is_live,
    is_open,
    is_proposed,
    job_executions,
    leases,
    market_holidays,
    standbys,
)

RUNS = "runs"
"""All runs with their jobs."""
ALERTS = "alerts"
BACKFILLS = "backfills"
HOLIDAYS = "holidays"
"""What feeds propose."""
CREW = "crew"
"""Who is at work, what the scheduler says of the broker, and what it has sent."""
_SHARES = 256
"""Scopes that all runs are divided among."""


def of_market(market_id: str) -> str:
    """Name the runs of a market."""
    return f"market {market_id}"


def of_run(dag_id: str) -> str:
    """Name a run with its jobs, and some others: what is told of all stays short, however many."""
    return f"run {crc32(dag_id.encode()) % _SHARES}"


def of_log(dag_id: str) -> str:
    """Name what the attempts of a run that run write, and of some others."""
    return f"log {crc32(dag_id.encode()) % _SHARES}"


_r = dag_runs.c
_e = job_executions.c
_l = leases.c
_s = standbys.c
_OF_RUN, _LOG = "run", "log"
_queued = is_live & in_state(job_executions, JobStatus.QUEUED)
_running = is_live & in_state(job_executions, JobStatus.RUNNING)
_unresolved = alerts.c.resolved_at.is_(None)
_SINCE = bindparam("since", type_=UtcDateTime)
_NOW = bindparam("now", type_=UtcDateTime)


def _written(text: str) -> ColumnElement[str]:
    return literal_column(f"'{text}'")


def _of_runs(
    what: str, at: ColumnElement[Any], which: ColumnElement[bool], *, scope: str = _OF_RUN
) -> Select[Any]:
    """Count executions of each run, and give the latest of their instants."""
    return (
        select(_written(scope), _written(what), _e.market_id, _e.dag_id, func.count(at))
        .add_columns(func.max(at))
        .where(which)
        .group_by(_e.market_id, _e.dag_id)
    )


def _of_all(scope: str, number: ColumnElement[Any], at: ColumnElement[Any]) -> Select[Any]:
    return select(_written(scope), _written(""), _written(""), _written(""), number, at)


def _new(what: str, at: ColumnElement[Any]) -> Select[Any]:
    named = (_written(what).label("what"), _e.market_id, _e.dag_id, at.label("at"))
    return select(*named).where(at >= _SINCE)


# Grouped where it is read, SQLite would go through all executions in the order of the groups.
_n = union_all(_new("made", _e.created_at), _new("done", _e.completed_at)).subquery().c
_CHANGES = union_all(
    select(_written(_OF_RUN), _written("open"), _r.market_id, _r.dag_id, literal_column("1"))
    .add_columns(_r.updated_at)
    .where(is_open),
    _of_runs("queued", _e.scheduled_at, _queued),
    _of_runs("running", _e.started_at, _running),
    _of_runs("asked to end", _e.cancel_asked_at, _running),
    _of_runs("to end", _e.cancel_at, _running),
    select(
        _written(_OF_RUN), _n.what, _n.market_id, _n.dag_id, func.count(), func.max(_n.at)
    ).group_by(_n.what, _n.market_id, _n.dag_id),
    select(_written(_LOG), _written(""), _e.market_id, _e.dag_id)
    # The newest part is renewed under a new number.
    .add_columns(func.sum(attempt_logs.c.part), null())
    .join_from(job_executions, attempt_logs, attempt_logs.c.execution_id == _e.execution_id)
    .where(_running)
    .group_by(_e.market_id, _e.dag_id),
    _of_runs("sent", _e.published_at, _queued, scope=CREW),
    select(_written(CREW), _written("leads"), _written(""), _l.owner).add_columns(
        case((_l.expires_at > _NOW, 1), else_=0), _l.broker_lost_at
    ),
    select(_written(CREW), _written("stands by"), _written(""), _s.owner).add_columns(
        case((_s.expires_at > _NOW, 1), else_=0), _s.since
    ),
    _of_all(ALERTS, func.count(), func.max(alerts.c.acknowledged_at)).where(_unresolved),
    _of_all(ALERTS, func.max(alerts.c.alert_id), null()).where(_unresolved),
    _of_all(BACKFILLS, func.max(backfills.c.backfill_id), null()),
    _of_all(BACKFILLS, func.count(), null())
    .select_from(backfills)
    .where(backfills.c.ended_at.is_(None)),
    _of_all(HOLIDAYS, func.count(), func.max(market_holidays.c.fetched_at)).where(is_proposed),
)
"""Each of them by an index: it is asked once a second."""


def _standing_of(worker: Mapping[str, Any], now: datetime) -> str:
    """Say of a lease what `prometheus.orchestration.reasons` tells apart."""
    renewed_at, expires_at = worker["renewed_at"], worker["expires_at"]
    if expires_at <= now:
        return "lapsed"
    return "silent" if now - renewed_at > (expires_at - renewed_at) / 2 else "heard"


def minute_of(at: datetime) -> datetime:
    """Return when a minute began."""
    return at.replace(second=0, microsecond=0)


def read_changes(connection: Connection, now: datetime) -> Mapping[str, str]:
    """
    Return by scope what is another text when something of it has changed.

    What ends and is made is told of this minute and the one before, as it takes no index by markets
    and runs to be found. So of two answers of different minutes nothing can be said.

    Args:
        now: Wall time.

    Returns:
        Scope, such as `RUNS` or `of_run` -> what there is of it. A run that is not open, and of
        which nothing is told, is not there; nor is its log while it writes none.
    """
    found: dict[str, list[str]] = defaultdict(list)
    since = minute_of(now) - timedelta(minutes=1)
    for scope, what, market_id, name, number, at in connection.execute(
        _CHANGES, {"since": since, "now": now}
    ):
        told = f"{what} {name} {number} {at}"
        concerns: tuple[str, ...] = (scope,)
        if scope == _OF_RUN:
            concerns = (RUNS, of_market(market_id), of_run(name))
        elif scope == _LOG:
            concerns = (of_log(name),)
        for each in concerns:
            found[each].append(told)
    for worker in unended_workers(connection):
        found[CREW].append(f"{worker['incarnation']} {_standing_of(worker, now)}")
    return {scope: "; ".join(sorted(told)) for scope, told in found.items()}
