"""What must always hold: triggers of the database, and a judgement of each run when it closes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus.orchestration.dag import DAG
from tests.simulation.actors import LONG_PAUSE, MAX_LOST, PACE
from tests.simulation.database import Database
from tests.simulation.faults import Faults
from tests.simulation.jobs import Script

TRIGGERS = (
    "CREATE TABLE effects (execution_id TEXT PRIMARY KEY, at TEXT) WITHOUT ROWID",
    "CREATE TABLE needs (job_id TEXT, upstream TEXT, PRIMARY KEY (job_id, upstream)) WITHOUT ROWID",
    # P1
    """CREATE TRIGGER one_run AFTER INSERT ON dag_runs
    WHEN (SELECT count(*) FROM dag_runs WHERE pipeline = NEW.pipeline
          AND market_id = NEW.market_id AND as_of_date = NEW.as_of_date) > 1
    BEGIN SELECT RAISE(ABORT, 'P1: a session has two runs'); END""",
    # P2
    """CREATE TRIGGER started_once BEFORE UPDATE OF started_at ON job_executions
    WHEN OLD.started_at IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'P2: an attempt was started twice'); END""",
    """CREATE TRIGGER one_live AFTER INSERT ON job_executions
    WHEN (SELECT count(*) FROM job_executions WHERE dag_id = NEW.dag_id AND job_id = NEW.job_id
          AND completed_at IS NULL) > 1
    BEGIN SELECT RAISE(ABORT, 'P2: a job has two attempts that have not ended'); END""",
    """CREATE TRIGGER taken AFTER UPDATE OF status ON job_executions
    WHEN NEW.status = 'FAILED' AND OLD.status = 'RUNNING'
        AND (NEW.error_message LIKE 'worker %' OR NEW.error_message LIKE 'ended without %')
    BEGIN SELECT taken(NEW.execution_id, NEW.incarnation, NEW.hard_limit_at); END""",
    """CREATE TRIGGER given_up AFTER UPDATE OF ended_at ON worker_incarnations
    WHEN OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL
    BEGIN SELECT given_up(NEW.incarnation); END""",
    # P2, P3; one trigger, because each costs
    """CREATE TRIGGER changes BEFORE UPDATE OF status ON job_executions
    WHEN NEW.status <> OLD.status BEGIN SELECT CASE
    WHEN OLD.status || '>' || NEW.status NOT IN (
        'PENDING>QUEUED', 'PENDING>SKIPPED', 'PENDING>CANCELLED', 'PENDING>EXPIRED',
        'QUEUED>RUNNING', 'QUEUED>SKIPPED', 'QUEUED>CANCELLED', 'QUEUED>EXPIRED',
        'RUNNING>SUCCESS', 'RUNNING>FAILED', 'RUNNING>CANCELLED')
    THEN RAISE(ABORT, 'P2: a change of state that is not allowed')
    WHEN NEW.status IN ('QUEUED', 'RUNNING')
        AND (SELECT status FROM dag_runs WHERE dag_id = NEW.dag_id) <> 'OPEN'
    THEN RAISE(ABORT, 'P3: went on in a run that is closed')
    WHEN NEW.status = 'RUNNING'
        AND NOT (NEW.started_at >= NEW.window_opens_at AND NEW.started_at < NEW.window_closes_at)
    THEN RAISE(ABORT, 'P3: started outside its window, and nobody here forces anything')
    WHEN NEW.status = 'QUEUED' AND EXISTS (
        SELECT 1 FROM needs WHERE needs.job_id = NEW.job_id AND NOT EXISTS (
            SELECT 1 FROM job_executions AS up WHERE up.dag_id = NEW.dag_id
            AND up.job_id = needs.upstream AND up.status = 'SUCCESS'))
    THEN RAISE(ABORT, 'P2: claimed before what it needs had succeeded')
    END; END""",
    """CREATE TRIGGER nothing_forced AFTER INSERT ON dag_runs WHEN NEW.forced
    BEGIN SELECT RAISE(ABORT, 'P3: a run is forced, and nobody has asked for it'); END""",
    # P5
    """CREATE TRIGGER never_changes BEFORE UPDATE ON job_executions
    WHEN OLD.completed_at IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'P5: a finished row was changed'); END""",
    """CREATE TRIGGER never_deleted BEFORE DELETE ON job_executions
    BEGIN SELECT RAISE(ABORT, 'P5: a row was deleted'); END""",
    """CREATE TRIGGER run_never_changes BEFORE UPDATE ON dag_runs WHEN OLD.status <> 'OPEN'
    BEGIN SELECT RAISE(ABORT, 'P5: a closed run was changed'); END""",
    """CREATE TRIGGER run_closed AFTER UPDATE OF status ON dag_runs WHEN NEW.status <> 'OPEN'
    BEGIN SELECT closed(NEW.dag_id); END""",
)

_A_TICK = LONG_PAUSE + 2
"""Seconds until the next tick has done its work."""
SCHEDULED_WITHIN = PACE.lease.total_seconds() + _A_TICK
"""Seconds in which a scheduler has done what is due, once nothing is wrong any more: the lease of a
leader that has died, and a tick."""
STARTED_WITHIN = (PACE.reconcile_every + PACE.ring_again_after).total_seconds() + _A_TICK
"""In which a message that was lost has been missed, sent again and taken."""
GIVEN_UP_WITHIN = 45.0
"""In which the attempt of a worker that has died is FAILED."""

_ROWS = """SELECT job_id, status, retries, lost, error_message, execution_id, attempt_number,
    window_opens_at, scheduled_at, started_at, completed_at,
    (SELECT renewed_at FROM worker_incarnations AS w WHERE w.incarnation = e.incarnation)
FROM job_executions AS e WHERE dag_id = ? ORDER BY attempt_number"""
_RUN = "SELECT opens_at, created_at, completed_at FROM dag_runs WHERE dag_id = ?"
_ENDED = "SELECT max(completed_at) FROM job_executions WHERE dag_id = ? AND job_id = ?"
_EFFECTS = """SELECT execution_id, at FROM effects WHERE execution_id IN (
    SELECT execution_id FROM job_executions WHERE dag_id = ?)"""


@dataclass(frozen=True, slots=True)
class Row:
    """An attempt, as far as a judgement needs it; times as the database writes them."""

    job_id: str
    status: str
    retries: int
    lost: int
    message: str | None
    execution_id: str
    attempt_number: int
    opens_at: str | None
    scheduled_at: str | None
    started_at: str | None
    completed_at: str
    renewed_at: str | None
    """When its worker last renewed its lease."""

    @property
    def is_lost(self) -> bool:
        """Whether its worker was lost."""
        return (self.message or "").startswith("worker lost")

    @property
    def is_forgotten(self) -> bool:
        """Whether its worker lives, and did not tell how it ended."""
        return (self.message or "").startswith("ended without")


def judge_run(
    database: Database, script: Script, faults: Faults, dag: DAG, earlier: str | None
) -> str | None:
    """
    Say what is wrong with a run that has closed.

    Each job must have met its fate, without waiting, and what it wrote must be there. It may fail
    for good only of its own failures, or because one worker after another was lost with it.

    Args:
        earlier: The run of the session before.
    """
    dag_id = dag.dag_id
    rows = [Row(*row) for row in database.raw.execute(_ROWS, (dag_id,))]
    latest = {row.job_id: row for row in rows}
    return (
        _fate_missed(script, dag, latest)
        or _effect_missed(database, script, dag, rows)
        or _wait_in(database, faults, dag, earlier, rows, latest)
    )


def _fate_missed(script: Script, dag: DAG, latest: Mapping[str, Row]) -> str | None:
    fate = script.fate(dag)
    excused = False
    for job_id in dag.topological_order():
        row = latest[job_id]
        part = script.part(dag.dag_id, dag.jobs[job_id])
        name = f"{dag.dag_id} {job_id}"
        if row.status == fate[job_id]:
            if row.status == "SUCCESS" and row.retries != part.failures:
                return f"{name}: {row.retries} retries, but it failed {part.failures} times"
        elif (
            row.status == "FAILED"
            and row.lost >= MAX_LOST
            and "workers were lost" in str(row.message)
        ):
            excused = True  # each of them was judged when it was lost
        elif not (excused and row.status == "SKIPPED"):
            return f"{name} is {row.status}, not {fate[job_id]}: {row.message}"
    return None


def _effect_missed(database: Database, script: Script, dag: DAG, rows: Sequence[Row]) -> str | None:
    effects: dict[str, str] = dict(database.raw.execute(_EFFECTS, (dag.dag_id,)))
    for row in rows:
        at = effects.get(row.execution_id)
        if row.status == "SUCCESS":
            if at is None and script.part(dag.dag_id, dag.jobs[row.job_id]).writes:
                return f"P2: what {row.execution_id} of {dag.dag_id} wrote is not there"
        elif at is not None and at > row.completed_at:
            name = f"{row.execution_id} of {dag.dag_id}"
            return f"P2: {name} wrote after it had been taken from its worker"
    return None


def _wait_in(
    database: Database,
    faults: Faults,
    dag: DAG,
    earlier: str | None,
    rows: Sequence[Row],
    latest: Mapping[str, Row],
) -> str | None:
    """Say what was left waiting while nothing was wrong."""
    raw = database.raw
    opens_at, created_at, closed_at = raw.execute(_RUN, (dag.dag_id,)).fetchone()
    steps: list[tuple[str, Iterable[str | None], str | None, float]] = [
        ("to be made", (opens_at,), created_at, SCHEDULED_WITHIN),
        ("to be closed", (row.completed_at for row in rows), closed_at, SCHEDULED_WITHIN),
    ]
    for row in rows:
        name = f"{row.job_id}, attempt {row.attempt_number}, "
        if row.attempt_number == 1 and row.scheduled_at is not None:
            due = [created_at, row.opens_at]
            due += [latest[each].completed_at for each in dag.jobs[row.job_id].dependencies]
            if earlier is not None and row.job_id in dag.after_previous:
                due += raw.execute(_ENDED, (earlier, row.job_id)).fetchone()
            steps.append((name + "to be claimed", due, row.scheduled_at, SCHEDULED_WITHIN))
        steps.append((name + "to be started", (row.scheduled_at,), row.started_at, STARTED_WITHIN))
        given_up = row.completed_at, GIVEN_UP_WITHIN
        if row.is_lost:
            steps.append((name + "to be given up", (row.started_at, row.renewed_at), *given_up))
        if row.is_forgotten:
            # When that was is written nowhere: after the last thing that went wrong.
            over = database.world.instant(faults.over_at(database.at(row.completed_at)))
            forgotten = f"{over:%Y-%m-%d %H:%M:%S.%f}"
            steps.append((name + "to be given up", (row.started_at, forgotten), *given_up))
    for what, causes, at, within in steps:
        since = max((each for each in causes if each is not None), default=None)
        if at is None or since is None or at <= since:
            continue
        wait = faults.quiet_for(database.at(since), database.at(at))
        if wait > within * 1_000_000:
            return f"P4: {dag.dag_id}: {what} waited {wait / 1e6:.1f} s, and nothing was wrong"
    return None
