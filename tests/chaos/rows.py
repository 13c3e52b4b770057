"""The rows as the judgements want them: attempts with what each had to wait for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import psycopg

from prometheus.core.overrides import Overrides
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.dag import dag_id_for
from prometheus.verification.windows import Window, calendar_of, previous_session, window_of
from tests.chaos.bodies import Effect
from tests.chaos.cluster import Cluster
from tests.chaos.jobs import EFFECTS
from tests.chaos.judge import Attempt, Incarnation, Lead, Life

_Ends = Mapping[tuple[str, str], tuple[str, float | None]]
"""Of each job, by run and name: how its last attempt ended, and when."""


def read_incarnations(connection: psycopg.Connection) -> list[Incarnation]:
    """Read the leases of all workers."""
    return [
        Incarnation(pid=pid, began_at=began_at, ended_at=ended_at)
        for pid, began_at, ended_at in connection.execute(
            "SELECT pid, extract(epoch FROM started_at)::float8, "
            "extract(epoch FROM ended_at)::float8 FROM worker_incarnations"
        )
    ]


def read_leads(connection: psycopg.Connection) -> list[Lead]:
    """Read to which processes the lead passed, and when."""
    return [
        Lead(at, int(owner.split(":")[1]))  # host, pid and incarnation
        for at, owner in connection.execute(
            "SELECT extract(epoch FROM at)::float8, owner FROM chaos_leads ORDER BY number"
        )
    ]


def lives_of(cluster: Cluster) -> tuple[list[Life], list[Life]]:
    """Return the processes of all beats and of all workers."""
    beats = [
        Life(name=node.name, pid=life.pid, began_at=life.began_at)
        for node in cluster.beats
        for life in node.lives
    ]
    workers = [
        Life(
            name=node.name,
            pid=life.pid,
            began_at=life.began_at,
            queues=frozenset(queues.split(",")),
        )
        for node, queues in zip(cluster.workers, cluster.shape.workers, strict=True)
        for life in node.lives
    ]
    return beats, workers


def read_effects(connection: psycopg.Connection) -> list[Effect]:
    """Read what jobs wrote in ``ctx.transaction()``, and when that and its row were committed."""
    return [
        Effect(
            execution_id=execution_id,
            job=(dag_id, job_id),
            block=block,
            committed_at=committed_at,
            ended_at=ended_at,
        )
        for execution_id, dag_id, job_id, block, committed_at, ended_at in connection.execute(
            f"""
            SELECT f.execution_id, e.dag_id, e.job_id, f.block,
                   extract(epoch FROM pg_xact_commit_timestamp(f.xmin))::float8,
                   CASE WHEN e.started_at IS NOT NULL
                   THEN extract(epoch FROM pg_xact_commit_timestamp(e.xmin))::float8 END
            FROM {EFFECTS} f JOIN job_executions e USING (execution_id)
            """
        )
    ]


def read_attempts(connection: psycopg.Connection) -> list[Attempt]:
    """Read all attempts."""
    runs: dict[str, dict[str, Any]] = {}
    for dag_id, pipeline, market_id, session, forced, created_at, jobs in connection.execute(
        "SELECT dag_id, pipeline, market_id, as_of_date, forced, "
        "extract(epoch FROM created_at)::float8, definition->'jobs' FROM dag_runs"
    ):
        runs[dag_id] = {
            "pipeline": pipeline,
            "market_id": market_id,
            "session": session,
            "forced": forced,
            "created_at": created_at,
            "jobs": {job["job_id"]: job for job in jobs},
        }
    clock = connection.execute(
        "SELECT anchor_market_at, extract(epoch FROM anchor_wall_at)::float8, speed "
        "FROM market_clock"
    ).fetchone()
    assert clock is not None
    rows = connection.execute(
        """
        SELECT execution_id, dag_id, job_id, attempt_number, status, error_message, w.pid,
               queue, priority,
               extract(epoch FROM scheduled_at)::float8, publish_count,
               extract(epoch FROM e.started_at)::float8, extract(epoch FROM completed_at)::float8,
               extract(epoch FROM w.expires_at)::float8
        FROM job_executions e LEFT JOIN worker_incarnations w USING (incarnation)
        ORDER BY dag_id, job_id, attempt_number
        """
    ).fetchall()
    ends = {(row[1], row[2]): (row[4], row[12]) for row in rows}
    return [
        Attempt(
            execution_id=execution_id,
            status=status,
            message=message or "",
            pid=pid,
            queue=queue,
            priority=priority,
            ready_at=ready_at(runs[dag_id], dag_id, job_id, ends, clock)
            if number == 1
            else scheduled_at,
            job=(dag_id, job_id),
            number=number,
            opens_at=_at(window.opens_at, clock) if window is not None else None,
            closes_at=_at(window.closes_at, clock) if window is not None else None,
            waits_for=_waits_for(runs[dag_id], dag_id, job_id),
            sent=sent,
            started_at=started_at,
            ended_at=ended_at,
            lease_ends_at=lease_ends_at,
        )
        for (
            execution_id,
            dag_id,
            job_id,
            number,
            status,
            message,
            pid,
            queue,
            priority,
            scheduled_at,
            sent,
            started_at,
            ended_at,
            lease_ends_at,
        ) in rows
        for window in (_window(runs[dag_id], job_id),)
    ]


def ready_at(
    run: Mapping[str, Any],
    dag_id: str,
    job_id: str,
    ends: _Ends,
    clock: tuple[datetime, float, float],
) -> float | None:
    """Work out from when on the first attempt of a job could have started; ``None``: never."""
    instants: list[float] = [run["created_at"]]
    previous = _previous(run, job_id)
    for key in _waits_for(run, dag_id, job_id):
        if key not in ends:
            continue  # the session before it had no run
        status, ended_at = ends[key]
        # Of the session before it does not matter how it ended.
        if ended_at is None or (status != "SUCCESS" and key != previous):
            return None
        instants.append(ended_at)
    window = _window(run, job_id)
    if window is not None:
        instants.append(_at(window.opens_at, clock))
    return max(instants)


def _waits_for(run: Mapping[str, Any], dag_id: str, job_id: str) -> tuple[tuple[str, str], ...]:
    """Return the jobs that must have ended before another, as run and name."""
    upstream = [(dag_id, name) for name in run["jobs"][job_id]["dependencies"]]
    previous = _previous(run, job_id)
    return tuple(upstream if previous is None else [*upstream, previous])


def _previous(run: Mapping[str, Any], job_id: str) -> tuple[str, str] | None:
    """Return the job of the session before, if it must have ended."""
    if not run["jobs"][job_id].get("after_previous"):
        return None
    before = previous_session(_calendar(run), run["session"])
    return (
        None if before is None else (dag_id_for(run["pipeline"], run["market_id"], before), job_id)
    )


def _window(run: Mapping[str, Any], job_id: str) -> Window | None:
    """Return in which time a job may start; ``None`` where that does not count."""
    if run["forced"]:
        return None
    job = run["jobs"][job_id]
    return window_of(
        _calendar(run),
        run["session"],
        job.get("required_state"),
        job.get("window"),
        job.get("start"),
    )


def _calendar(run: Mapping[str, Any]) -> TradingCalendar:
    calendar = calendar_of(run["market_id"], Overrides())
    assert calendar is not None
    return calendar


def _at(market_at: datetime, clock: tuple[datetime, float, float]) -> float:
    """Return when the market clock showed an instant, as wall time."""
    anchor_at, wall_at, speed = clock
    return wall_at + (market_at - anchor_at).total_seconds() / speed
