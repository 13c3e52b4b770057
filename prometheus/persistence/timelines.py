"""Runs as lines of time: when their jobs started, by the markets' clocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime
from itertools import groupby
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, case, func, select

from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence.listings import is_last_attempt
from prometheus.persistence.tables import dag_runs, is_open, job_executions

_r = dag_runs.c
_e = job_executions.c


@dataclass(frozen=True, slots=True)
class Timeline:
    """When a run has been at work, in market time, and how far it is."""

    run: Any
    """``dag_id``, ``pipeline``, ``market_id``, ``status``, ``opens_at``, ``completed_at``."""
    first_started_at: datetime | None
    last_started_at: datetime | None
    """Of its attempts."""
    jobs: Counter[JobStatus]
    """How many of its jobs are in which state."""


def read_timelines(
    connection: Connection, market_ids: Collection[str], first: date, last: date, *, limit: int
) -> list[Timeline]:
    """
    Read when runs have been at work, the latest session first, in one statement.

    Args:
        first: Session date; runs of earlier sessions are among them where they are open.
        last: Session date, included.
        limit: The most to return.
    """
    of_run = (
        *(_r.dag_id, _r.pipeline, _r.market_id, _r.as_of_date),
        *(_r.status, _r.opens_at, _r.completed_at),
    )
    wanted = (
        select(*of_run)
        .where(_r.market_id.in_(market_ids), _r.as_of_date.between(first, last) | is_open)
        .order_by(_r.as_of_date.desc(), _r.dag_id)
        .limit(limit)
        .subquery()
    )
    attempts = (
        select(
            *wanted.c,
            # Of attempts that are not the last ones, nothing but when they started.
            case((is_last_attempt, _e.status)).label("state"),
            _e.started_market_at,
        )
        .outerjoin_from(wanted, job_executions, _e.dag_id == wanted.c.dag_id)
        .subquery()
    )
    told = attempts.c
    rows = connection.execute(
        select(
            *(told[column.name] for column in wanted.c),
            told.state,
            func.count().label("attempts"),
            func.min(told.started_market_at).label("first_started_at"),
            func.max(told.started_market_at).label("last_started_at"),
        )
        .group_by(*(told[column.name] for column in wanted.c), told.state)
        .order_by(told.as_of_date.desc(), told.dag_id)
    )
    return [_timeline(list(of_run)) for _, of_run in groupby(rows, key=attrgetter("dag_id"))]


def _timeline(rows: list[Any]) -> Timeline:
    starts = [row.first_started_at for row in rows if row.first_started_at is not None]
    ends = [row.last_started_at for row in rows if row.last_started_at is not None]
    return Timeline(
        rows[0],
        min(starts, default=None),
        max(ends, default=None),
        Counter({JobStatus(row.state): row.attempts for row in rows if row.state is not None}),
    )
