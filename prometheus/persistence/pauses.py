"""What operators keep from starting: markets, pipelines, single jobs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from prometheus.core.instants import write_instant
from prometheus.errors import nearest
from prometheus.orchestration.pauses import Pause
from prometheus.persistence.audits import record_audit
from prometheus.persistence.leases import wall_time
from prometheus.persistence.operators import (
    OperatorError,
    UnknownTargetError,
    run_with_job,
)
from prometheus.persistence.tables import dag_runs, pause_holds, pauses, pipelines

_p = pauses.c
_LOCK = 7_218_540_173
"""A number of ours among PostgreSQL's advisory locks."""


class PauseEndError(OperatorError):
    """A pause would end before it begins."""


HOLDING = select(pauses).where(pause_holds).order_by(_p.pause_id)
"""What `read_pauses` asks for, whose rows are for `pause_of`."""


def read_pauses(connection: Connection) -> tuple[Pause, ...]:
    """Return what is paused now, in the order in which it was."""
    return tuple(map(pause_of, connection.execute(HOLDING)))


def pauses_of(
    connection: Connection, dag_id: str, jobs: Collection[str] | None = None
) -> list[Pause]:
    """
    Return what keeps jobs of a run from starting.

    Args:
        jobs: Those that are meant; all if not given.
    """
    run = connection.execute(
        select(dag_runs.c.market_id, dag_runs.c.pipeline).where(dag_runs.c.dag_id == dag_id)
    ).one()
    return [
        each
        for each in read_pauses(connection)
        if each.covers_all(run.market_id, run.pipeline)
        or (each.dag_id == dag_id and (jobs is None or each.job_id in jobs))
    ]


def pause_of(row: Any) -> Pause:
    """Make one of a row of ``pauses``."""
    return Pause(
        row.pause_id,
        row.market_id,
        row.pipeline,
        row.dag_id,
        row.job_id,
        row.reason,
        row.author,
        row.paused_at,
        row.until,
    )


def pause(
    connection: Connection,
    *,
    market_id: str | None = None,
    pipeline: str | None = None,
    reason: str,
    until: datetime | None = None,
    actor: str,
) -> int:
    """
    Let no job of a market, of a pipeline, or of a pipeline in a market, start until `resume`.

    What runs goes on. Runs are made as ever, and windows pass as ever: what has not started when
    its own closes is EXPIRED.

    Args:
        until: Wall time at which it ends by itself; for good if not given.

    Returns:
        Its number.

    Raises:
        OperatorError: It is paused already, or no run could be meant.
    """
    seen = connection.execute(select(pipelines.c.name, pipelines.c.market_id)).all()
    if pipeline is not None and pipeline not in (known := {each.name for each in seen}):
        raise UnknownTargetError(f"There is no pipeline {pipeline!r}.{nearest(pipeline, known)}")
    # Runs are of markets: a pause of one of its exchanges would pause nothing.
    there = {each.market_id for each in seen if pipeline in (None, each.name)}
    if market_id is not None and there and market_id not in there:
        of = f" of {pipeline}" if pipeline else ""
        raise OperatorError(f"No run{of} was ever due in {market_id}.{nearest(market_id, there)}")
    return _add(connection, {"market_id": market_id, "pipeline": pipeline}, reason, until, actor)


def resume(
    connection: Connection,
    *,
    market_id: str | None = None,
    pipeline: str | None = None,
    actor: str,
    reason: str | None = None,
) -> Pause:
    """
    End the pause of just this.

    Args:
        reason: Why, for the audit.

    Raises:
        OperatorError: There is none.
    """
    target = {"market_id": market_id, "pipeline": pipeline}
    return _end(connection, target, "resume", actor, reason)


def hold(
    connection: Connection,
    dag_id: str,
    job_id: str,
    *,
    reason: str,
    until: datetime | None = None,
    actor: str,
) -> int:
    """
    Let one job of a run not start until `release`; see `pause`.

    Raises:
        OperatorError: There is no such job, it is held already, or has started or ended.
    """
    status = run_with_job(connection, dag_id, job_id)
    if status not in ("PENDING", "QUEUED"):
        raise OperatorError(f"{job_id} is {status}: only what has not started can be held.")
    return _add(connection, {"dag_id": dag_id, "job_id": job_id}, reason, until, actor)


def release(
    connection: Connection, dag_id: str, job_id: str, *, actor: str, reason: str | None = None
) -> Pause:
    """
    Let a job that is held start.

    Args:
        reason: Why, for the audit.

    Raises:
        OperatorError: There is no such job, or it is not held.
    """
    run_with_job(connection, dag_id, job_id)
    target = {"dag_id": dag_id, "job_id": job_id}
    return _end(connection, target, "release", actor, reason)


def _lock(connection: Connection) -> None:
    """Let no other add or end a pause before this transaction ends."""
    if connection.dialect.name == "postgresql":  # on SQLite only one writes anyway
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def _add(
    connection: Connection,
    target: Mapping[str, str | None],
    reason: str,
    until: datetime | None,
    actor: str,
) -> int:
    _lock(connection)
    if until is not None and until <= wall_time(connection):
        raise PauseEndError(f"{until:%Y-%m-%d %H:%M:%S} UTC has passed already.")
    for found in read_pauses(connection):
        if _is_of(found, target):
            raise OperatorError(f"It is paused already: {found}.")
    row = connection.execute(
        insert(pauses).values(**target, reason=reason, until=until, author=actor).returning(pauses)
    ).one()
    made = pause_of(row)
    action = "hold" if target.get("job_id") else "pause"
    _record(connection, actor, action, target, reason, before=None, after=made)
    return made.pause_id


def _end(
    connection: Connection,
    target: Mapping[str, str | None],
    action: str,
    actor: str,
    reason: str | None,
) -> Pause:
    _lock(connection)
    holding = read_pauses(connection)
    found = next((each for each in holding if _is_of(each, target)), None)
    if found is None:
        others = "; ".join(map(str, holding))
        raise OperatorError(
            f"{_name(target)} is not paused. " + (f"Paused: {others}." if others else "Nothing is.")
        )
    connection.execute(
        update(pauses)
        .where(_p.pause_id == found.pause_id, _p.ended_at.is_(None))
        .values(ended_at=wall_time(connection), ended_by=actor)
    )
    _record(connection, actor, action, target, reason, before=found, after=None)
    return found


def _record(
    connection: Connection,
    actor: str,
    action: str,
    target: Mapping[str, str | None],
    reason: str | None,
    *,
    before: Pause | None,
    after: Pause | None,
) -> None:
    """Write down that a pause began or ended: what kept the target from starting, and what does."""
    details = {key: value for key, value in target.items() if value}
    record_audit(
        connection,
        actor,
        action,
        target.get("dag_id") or _name(target),
        {**details, "reason": reason},
        before=_document(before),
        after=_document(after),
    )


def _document(pause: Pause | None) -> dict[str, Any] | None:
    if pause is None:
        return None
    return {
        "pause": pause.pause_id,
        "author": pause.author,
        "reason": pause.reason,
        "since": write_instant(pause.since),
        "until": pause.until and write_instant(pause.until),
    }


def _is_of(pause: Pause, target: Mapping[str, str | None]) -> bool:
    keys = ("market_id", "pipeline", "dag_id", "job_id")
    return all(getattr(pause, key) == target.get(key) for key in keys)


def _name(target: Mapping[str, str | None]) -> str:
    if target.get("dag_id"):
        return f"{target['job_id']} of {target['dag_id']}"
    return " of ".join(filter(None, (target.get("pipeline"), target.get("market_id"))))
