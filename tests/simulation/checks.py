"""What must always hold: triggers of the database, and a judgement of each run when it closes."""

from __future__ import annotations

from prometheus.orchestration.dag import DAG
from tests.simulation.actors import MAX_LOST
from tests.simulation.database import Database
from tests.simulation.jobs import Script

TRIGGERS = (
    "CREATE TABLE effects (execution_id TEXT, at TEXT)",
    "CREATE INDEX ix_effects ON effects (execution_id)",
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
    WHEN NEW.status = 'RUNNING' AND NOT NEW.forced
        AND NOT (NEW.started_at >= NEW.window_opens_at AND NEW.started_at < NEW.window_closes_at)
        AND NOT (SELECT forced FROM dag_runs WHERE dag_id = NEW.dag_id)
    THEN RAISE(ABORT, 'P3: started outside its window')
    END; END""",
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

_ROWS = """SELECT job_id, status, retries, lost, error_message, execution_id, completed_at
FROM job_executions WHERE dag_id = ? ORDER BY attempt_number"""


def judge_run(database: Database, script: Script, dag: DAG) -> str | None:
    """
    Say what is wrong with a run that has closed: each job must have met its fate.

    A job may fail for good only of its own failures, or because one worker after another was lost
    with it.
    """
    dag_id = dag.dag_id
    fate = script.fate(dag)
    latest: dict[str, tuple[str, int, int, str | None]] = {}
    for job_id, status, retries, lost, message, _, _ in database.raw.execute(_ROWS, (dag_id,)):
        latest[job_id] = (status, retries, lost, message)
    excused = False
    for job_id in dag.topological_order():
        status, retries, lost, message = latest[job_id]
        part = script.part(dag_id, dag.jobs[job_id])
        if status == fate[job_id]:
            if status == "SUCCESS" and retries != part.failures:
                return f"{dag_id} {job_id}: {retries} retries, but it failed {part.failures} times"
        elif status == "FAILED" and lost >= MAX_LOST and "workers were lost" in str(message):
            excused = True
        elif not (excused and status == "SKIPPED"):
            return f"{dag_id} {job_id} is {status}, not {fate[job_id]}: {message}"
    late = database.raw.execute(
        "SELECT e.execution_id FROM effects e JOIN job_executions j USING (execution_id)"
        " WHERE j.dag_id = ? AND j.status <> 'SUCCESS' AND e.at > j.completed_at",
        (dag_id,),
    ).fetchone()
    if late is not None:
        return f"P2: {late[0]} of {dag_id} wrote after it had been taken from its worker"
    return None
