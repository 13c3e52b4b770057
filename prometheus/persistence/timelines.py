"""Runs as lines of time: when their jobs started, by the markets' clocks."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from typing import Any

from sqlalchemy import Connection, Row, func, select

from prometheus.persistence.tables import dag_runs, is_open, job_executions

_r = dag_runs.c
_e = job_executions.c


def read_timelines(
    connection: Connection, market_ids: Collection[str], first: date, last: date, *, limit: int
) -> list[Row[Any]]:
    """
    Read when runs have been at work, the latest session first.

    Args:
        first: Session date; runs of earlier sessions are among them where they are open.
        last: Session date, included.
        limit: The most to return.

    Returns:
        ``dag_id``, ``pipeline``, ``market_id``, ``status``, ``opens_at`` and ``completed_at`` of
        the runs; ``first_started_at`` and ``last_started_at`` of their attempts; in market time.
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
    return list(
        connection.execute(
            select(
                *wanted.c,
                func.min(_e.started_market_at).label("first_started_at"),
                func.max(_e.started_market_at).label("last_started_at"),
            )
            .outerjoin_from(wanted, job_executions, _e.dag_id == wanted.c.dag_id)
            .group_by(*wanted.c)
            .order_by(wanted.c.as_of_date.desc(), wanted.c.dag_id)
        )
    )
