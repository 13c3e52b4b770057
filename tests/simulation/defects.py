"""Deliberate defects, each of which the simulation must find."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from unittest import mock

from sqlalchemy import Connection, bindparam, literal, select, update

from prometheus.dispatch.attempts import Attempts
from prometheus.dispatch.publisher import Mark
from prometheus.dispatch.scheduler import Scheduler
from prometheus.orchestration import decisions
from prometheus.orchestration.dag import JobMetadata
from prometheus.orchestration.decisions import HoldReason, RunState
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.orchestration.pauses import Pause
from prometheus.orchestration.windows import Window
from prometheus.persistence import executions, leases, runs
from prometheus.persistence.clock import Now
from prometheus.persistence.engine import writing
from prometheus.persistence.metadata import database_now
from prometheus.persistence.tables import job_executions
from tests.simulation import actors
from tests.simulation.broker import Port
from tests.simulation.database import Database

_e = job_executions.c


def start(stack: ExitStack, database: Database) -> None:
    """
    Let a start compare nothing: whoever has a message runs the job.

    Neither its UPDATE nor the SELECT before it, nor what is both. Transactions come one after
    another here, so that the SELECT alone would do; that it does not where they cross, which needs
    a real PostgreSQL, is for ``tests/integration/persistence/test_executions.py`` to show.
    """
    columns = [
        literal("QUEUED").label("status") if each.name == "status" else each
        for each in executions._TO_START.selected_columns
    ]
    _put(stack, "_TO_START", executions._TO_START.with_only_columns(*columns))
    anything = update(job_executions).where(_e.execution_id == bindparam("id"))
    for name in ("_START", "_START_ALIKE"):
        statement = getattr(executions, name)
        careless = anything.values(dict(statement._values)).returning(*statement._returning)
        _put(stack, name, careless)


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


def report(stack: ExitStack, database: Database) -> None:
    """Let a worker report success whatever became of its attempt."""
    anything = update(job_executions).where(_e.execution_id == bindparam("id"))
    values = {
        "status": JobStatus.SUCCESS,
        "result": bindparam("returned"),
        "completed_at": database_now(),
        "updated_at": database_now(),
    }
    _put(stack, "_SUCCEED", anything.values(values).returning(_e.dag_id))
    _put(stack, "_SUCCEED_AS", anything.values(values).returning(_e.dag_id, _e.status))
    for name in ("_SUCCEED_BESIDE", "_SUCCEED_BESIDE_ANY"):
        _put(stack, name, executions._succeed_beside(of_some=name == "_SUCCEED_BESIDE"))


def fence(stack: ExitStack, database: Database) -> None:
    """Let a job commit what it wrote whatever became of its attempt; its worker is not told."""
    _tell_nobody(stack)
    _put(stack, "fenced", lambda *_: False)


def effect(stack: ExitStack, database: Database) -> None:
    """Lose what a job wrote, and say nothing."""

    @contextmanager
    def forgetful(self: Attempts, *_: object) -> Iterator[Connection]:
        with suppress(_ForgottenError), writing(self._engine) as connection:
            yield connection
            raise _ForgottenError

    stack.enter_context(mock.patch.object(Attempts, "transaction", forgetful))


class _ForgottenError(Exception):
    pass


def upstream(stack: ExitStack, database: Database) -> None:
    """Let a job begin while one that it needs still runs: neither decision nor claim minds."""
    reason_to_hold = decisions._reason_to_hold

    def careless(
        run: RunState,
        job: JobMetadata,
        window: Window,
        forced: bool,
        status: Any,
        now: datetime,
        pause: Pause | None,
        known: Collection[HoldReason] = (),
    ) -> HoldReason | None:
        seen = {
            name: JobStatus.SUCCESS if each is JobStatus.RUNNING else each
            for name, each in status.items()
        }
        return reason_to_hold(run, job, window, forced, seen, now, pause, known)

    stack.enter_context(mock.patch.object(decisions, "_reason_to_hold", careless))
    stack.enter_context(mock.patch.object(runs, "still_ready", lambda _, starts: list(starts)))


def forced(stack: ExitStack, database: Database) -> None:
    """Make each run as if an operator had asked for it: no window counts."""
    made = runs.create_run
    stack.enter_context(
        mock.patch.object(
            runs, "create_run", lambda *args, **values: made(*args, **{**values, "forced": True})
        )
    )


def rescuer(stack: ExitStack, database: Database) -> None:
    """Take each attempt for one whose worker is lost."""

    def everything(self: Scheduler, connection: Connection, now: Now) -> list[leases.Orphan]:
        running = select(_e.execution_id).where(_e.status == JobStatus.RUNNING)
        found = connection.execute(running).scalars()
        return [leases.Orphan(each, "worker lost: or so it seems") for each in found]

    stack.enter_context(mock.patch.object(Scheduler, "_find_orphans", everything))


def watch(stack: ExitStack, database: Database) -> None:
    """Let a worker that is cut off from the database run on, whoever has it."""
    stack.enter_context(mock.patch.object(actors.Worker, "_end_cut_off"))


def mark(stack: ExitStack, database: Database) -> None:
    """Let no worker see a scheduler's mark: one that is cut off takes that for everybody's fate."""
    read = Port.read_mark

    def seen_by_schedulers(self: Port, *, within: timedelta | None = None) -> Mark | None:
        found = read(self, within=within)
        return None if within is not None else found

    stack.enter_context(mock.patch.object(Port, "read_mark", seen_by_schedulers))


def grace(stack: ExitStack, database: Database) -> None:
    """Give workers up at once when the database is back."""
    stack.enter_context(mock.patch.object(Scheduler, "_may_rescue", return_value=True))


def reconciler(stack: ExitStack, database: Database) -> None:
    """Look for missing messages every half hour only."""
    half_an_hour = timedelta(minutes=30)
    pace = replace(actors.PACE, reconcile_every=half_an_hour, ring_again_after=half_an_hour)
    stack.enter_context(mock.patch.object(actors, "PACE", pace))


def noted(stack: ExitStack, database: Database) -> None:
    """Let the leader not be told what changes of a job."""
    database.raw.execute("DROP TRIGGER note_changed_attempt")


def _tell_nobody(stack: ExitStack) -> None:
    given_up = leases.given_up

    def nobody(connection: Connection, lately: timedelta) -> tuple[datetime, frozenset[str]]:
        at, _ = given_up(connection, lately)
        return at, frozenset()

    stack.enter_context(mock.patch.object(leases, "given_up", nobody))


def _put(stack: ExitStack, name: str, value: Any) -> None:
    stack.enter_context(mock.patch.object(executions, name, value))


DEFECTS: dict[str, Callable[[ExitStack, Database], None]] = {
    each.__name__: each
    for each in (
        start,
        unique,
        report,
        fence,
        effect,
        upstream,
        forced,
        rescuer,
        watch,
        mark,
        grace,
        reconciler,
        noted,
    )
}
