"""What has ended, for who counts it: read again and again, at the cost of what is new."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    Row,
    Select,
    Text,
    and_,
    bindparam,
    exists,
    func,
    literal_column,
    or_,
    select,
)

from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence.executions import POISON
from prometheus.persistence.metadata import UtcDateTime
from prometheus.persistence.tables import dag_runs, in_state, is_open, job_executions

_AT_ONCE = 1000
"""So many ends are handed out together: the parameters of a statement have their limit, too."""

_r = dag_runs.c
_e = job_executions.c
_next = job_executions.alias("next_attempt").c
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)

_OPEN = select(
    *(_r.dag_id, _r.pipeline, _r.market_id),
    *(_r.definition_hash, _r.status, _r.trigger, _r.created_at),
).where(is_open)
_PAIRS = (
    select(_r.market_id, _r.pipeline)
    .join_from(job_executions, dag_runs)
    .where(_e.completed_at > bindparam("since", type_=UtcDateTime))
    .distinct()
)
_ENDED: Select[Any] = select(_e.execution_id, _e.dag_id, _e.completed_at).where(
    _e.completed_at > bindparam("since", type_=UtcDateTime)
)
_ATTEMPTS = (
    select(
        _e.execution_id,
        _e.dag_id,
        _e.job_id,
        _e.market_id,
        _r.pipeline,
        _r.definition_hash,
        _e.status,
        _e.attempt_number,
        _e.worker,
        or_(_e.forced, _r.forced).label("forced"),
        and_(_e.retry_bound_seconds.is_(None), _e.window_opens_at.is_not(None)).label("claimed"),
        _e.window_opens_at,
        _e.scheduled_at,
        _e.scheduled_market_at,
        _e.started_at,
        _e.started_market_at,
        _e.completed_at,
        func.substr(_e.error_message, 1, 60, type_=Text).label("error"),
        and_(
            in_state(job_executions, JobStatus.FAILED),
            ~exists().where(
                _next.dag_id == _e.dag_id,
                _next.job_id == _e.job_id,
                _next.attempt_number == _e.attempt_number + 1,
                # Its own retry. Where an operator was asked for the next, it had failed for good.
                _next.retry_bound_seconds.is_not(None),
            ),
        ).label("for_good"),
        # As `fail` writes it.
        func.coalesce(_e.error_message, "").endswith(f"{POISON})").label("poison"),
    )
    .join_from(job_executions, dag_runs)
    .where(_e.execution_id.in_(_IDS))
)
_RUNS = select(
    _r.dag_id,
    _r.pipeline,
    _r.market_id,
    _r.status,
    _r.trigger,
    _r.forced,
    _r.created_at,
    _r.completed_at,
    exists()
    .where(_e.dag_id == _r.dag_id, _e.attempt_number > 1, _e.retry_bound_seconds.is_(None))
    .label("again"),
).where(_r.dag_id.in_(_IDS), _r.completed_at.is_not(None))
_DEFINITIONS = select(_r.definition_hash, _r.definition).where(_r.dag_id.in_(_IDS))
_SUCCESSES = (
    select(_e.dag_id, _e.job_id, func.max(_e.completed_at).label("at"))
    .where(_e.dag_id.in_(_IDS), _e.status == literal_column(f"'{JobStatus.SUCCESS}'"))
    .group_by(_e.dag_id, _e.job_id)
)


def read_open(connection: Connection) -> list[Row[Any]]:
    """Read the open runs: ``pipeline``, ``market_id``, and what `deadlines_of_runs` needs."""
    return list(connection.execute(_OPEN))


def read_pairs(connection: Connection, since: datetime) -> list[Row[Any]]:
    """Read of which ``market_id`` and ``pipeline`` attempts ended after a wall time."""
    return list(connection.execute(_PAIRS, {"since": since}))


def read_ended(connection: Connection, since: datetime) -> Iterator[Sequence[Row[Any]]]:
    """
    Read which attempts ended after a wall time, in any order, not all at once.

    One can be seen later than others that ended after it: it is written in a transaction.

    Returns:
        Rows of ``execution_id``, ``dag_id``, ``completed_at``.
    """
    result = connection.execute(_ENDED, {"since": since}, execution_options={"yield_per": _AT_ONCE})
    yield from result.partitions()


def read_attempts(connection: Connection, execution_ids: Collection[str]) -> list[Row[Any]]:
    """
    Read some attempts that have ended.

    Returns:
        Rows of ``job_executions`` with their run's pipeline; ``forced``: no window counts;
        ``claimed``: it was queued by a decision and not by the end of another attempt;
        ``for_good``: it is FAILED, and no other follows by itself; ``poison``: because it took its
        workers with it too often.
    """
    return list(connection.execute(_ATTEMPTS, {"ids": list(execution_ids)}))


def read_ended_runs(connection: Connection, dag_ids: Collection[str]) -> list[Row[Any]]:
    """Read which of some runs have ended; ``again``: an operator gave it further attempts."""
    return list(connection.execute(_RUNS, {"ids": list(dag_ids)}))


@dataclass(frozen=True, slots=True)
class Waits:
    """What a job waits for besides its window."""

    jobs: tuple[str, ...]
    previous: bool
    """Whether it waits for the session before."""


def read_waits(connection: Connection, dag_ids: Collection[str]) -> dict[str, Mapping[str, Waits]]:
    """
    Read what the jobs of some runs wait for: definition hash -> job id -> what for.

    A definition that this release can not read has no jobs.
    """
    found: dict[str, Mapping[str, Waits]] = {}
    for row in connection.execute(_DEFINITIONS, {"ids": list(dag_ids)}):
        try:
            found[row.definition_hash] = {
                job["job_id"]: Waits(tuple(job["dependencies"]), job["after_previous"])
                for job in row.definition["jobs"]
            }
        except (KeyError, TypeError):
            found[row.definition_hash] = {}
    return found


def read_successes(
    connection: Connection, dag_ids: Collection[str]
) -> dict[tuple[str, str], datetime]:
    """Read when the jobs of some runs last succeeded: dag id and job id -> wall time."""
    rows = connection.execute(_SUCCESSES, {"ids": list(dag_ids)})
    return {(row.dag_id, row.job_id): row.at for row in rows}
