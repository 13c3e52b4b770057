"""The rows as the judgements want them: attempts with what each had to wait for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import psycopg

from prometheus.core.overrides import Overrides
from prometheus.orchestration.dag import dag_id_for
from prometheus.verification.windows import calendar_of, previous_session, window_of
from tests.chaos.cluster import Cluster
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
    ]


def ready_at(
    run: Mapping[str, Any],
    dag_id: str,
    job_id: str,
    ends: _Ends,
    clock: tuple[datetime, float, float],
) -> float | None:
    """Work out from when on the first attempt of a job could have started; ``None``: never."""
    job = run["jobs"][job_id]
    instants: list[float] = [run["created_at"]]
    for upstream in job["dependencies"]:
        status, ended_at = ends[dag_id, upstream]
        if status != "SUCCESS" or ended_at is None:
            return None
        instants.append(ended_at)
    calendar = calendar_of(run["market_id"], Overrides())
    assert calendar is not None
    session: date = run["session"]
    if job.get("after_previous"):
        before = previous_session(calendar, session)
        key = (dag_id_for(run["pipeline"], run["market_id"], before) if before else "", job_id)
        if key in ends:
            ended_at = ends[key][1]
            if ended_at is None:
                return None
            instants.append(ended_at)
    if not run["forced"]:
        window = window_of(
            calendar, session, job.get("required_state"), job.get("window"), job.get("start")
        )
        market_at, wall_at, speed = clock
        instants.append(wall_at + (window.opens_at - market_at).total_seconds() / speed)
    return max(instants)
