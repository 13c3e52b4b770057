"""Deliberate defects, each of which the simulation must find."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

from sqlalchemy import bindparam, func, literal, update

from prometheus.dispatch.scheduler import Scheduler
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence import executions
from prometheus.persistence.metadata import database_now
from prometheus.persistence.tables import job_executions
from tests.simulation.database import Database

_e = job_executions.c


def start(stack: ExitStack, database: Database) -> None:
    """Let a start compare nothing: whoever has a message runs the job."""
    columns = [
        literal("QUEUED").label("status") if each.name == "status" else each
        for each in executions._TO_START.selected_columns
    ]
    _put(stack, "_TO_START", executions._TO_START.with_only_columns(*columns))
    anything = update(job_executions).where(_e.execution_id == bindparam("id"))
    values = dict(executions._START._values or {})
    _put(stack, "_START", anything.values(values).returning(_e.execution_id))


def unique(stack: ExitStack, database: Database) -> None:
    """Take the keys from the table of runs."""
    raw = database.raw
    raw.execute("PRAGMA foreign_keys=OFF")
    raw.execute("PRAGMA legacy_alter_table=ON")
    (text,) = raw.execute("SELECT sql FROM sqlite_master WHERE name = 'dag_runs'").fetchone()
    lines = [
        line for line in text.splitlines() if "UNIQUE" not in line and "PRIMARY KEY" not in line
    ]
    plain = "\n".join(lines).replace("CREATE TABLE dag_runs", "CREATE TABLE plain")
    kept = [
        row[0]
        for row in raw.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'dag_runs'"
        )
    ]
    raw.execute(plain)
    raw.execute("DROP TABLE dag_runs")
    raw.execute("ALTER TABLE plain RENAME TO dag_runs")
    for each in kept:
        raw.execute(each)


def fencing(stack: ExitStack, database: Database) -> None:
    """Let a worker report and write whatever became of its attempt."""
    anything = update(job_executions).where(_e.execution_id == bindparam("id"))
    values = {
        "status": JobStatus.SUCCESS,
        "result": bindparam("returned"),
        "completed_at": database_now(),
        "updated_at": database_now(),
    }
    _put(stack, "_SUCCEED", anything.values(values).returning(_e.dag_id))
    _put(stack, "fenced", lambda *_: False)


def reconciler(stack: ExitStack, database: Database) -> None:
    """Never look for messages that are missing."""
    for name in ("_reconcile", "_refill"):
        stack.enter_context(mock.patch.object(Scheduler, name))


def _put(stack: ExitStack, name: str, value: Any) -> None:
    stack.enter_context(mock.patch.object(executions, name, value))


DEFECTS: dict[str, Callable[[ExitStack, Database], None]] = {
    "start": start,
    "unique": unique,
    "fencing": fencing,
    "reconciler": reconciler,
}

__all__ = ["DEFECTS", "func"]
