"""
Triggers that write down every change of an execution's row, for tests of whole histories.

The checker (`prometheus.verification`) reads the table ``status_changes`` where there is one, and
holds each change against what is allowed.
"""

from __future__ import annotations

from sqlalchemy import Engine, inspect, text

_POSTGRESQL = (
    """
    CREATE TABLE status_changes (
        seq bigserial PRIMARY KEY,
        execution_id text NOT NULL,
        old text,
        new text NOT NULL,
        at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    """
    CREATE FUNCTION note_status_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO status_changes (execution_id, new) VALUES (NEW.execution_id, NEW.status);
        ELSIF TG_OP = 'DELETE' THEN
            INSERT INTO status_changes (execution_id, old, new)
            VALUES (OLD.execution_id, OLD.status, 'DELETED');
        ELSIF OLD.status <> NEW.status
            OR (OLD.completed_at IS NOT NULL AND OLD IS DISTINCT FROM NEW)
        THEN
            INSERT INTO status_changes (execution_id, old, new)
            VALUES (OLD.execution_id, OLD.status, NEW.status);
        END IF;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER note_status_change AFTER INSERT OR UPDATE OR DELETE ON job_executions
    FOR EACH ROW EXECUTE FUNCTION note_status_change()
    """,
)
_SQLITE = (
    """
    CREATE TABLE status_changes (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        execution_id TEXT NOT NULL,
        old TEXT,
        new TEXT NOT NULL,
        at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now'))
    )
    """,
    """
    CREATE TRIGGER note_insert AFTER INSERT ON job_executions BEGIN
        INSERT INTO status_changes (execution_id, new) VALUES (NEW.execution_id, NEW.status);
    END
    """,
    """
    CREATE TRIGGER note_delete AFTER DELETE ON job_executions BEGIN
        INSERT INTO status_changes (execution_id, old, new)
        VALUES (OLD.execution_id, OLD.status, 'DELETED');
    END
    """,
    """
    CREATE TRIGGER note_update AFTER UPDATE ON job_executions
    WHEN OLD.status <> NEW.status OR (OLD.completed_at IS NOT NULL AND ({different}))
    BEGIN
        INSERT INTO status_changes (execution_id, old, new)
        VALUES (OLD.execution_id, OLD.status, NEW.status);
    END
    """,
)


def record_changes(engine: Engine) -> None:
    """Write down, from now on, each change of state and each change of a row that has ended."""
    columns = [column["name"] for column in inspect(engine).get_columns("job_executions")]
    different = " OR ".join(f"OLD.{name} IS NOT NEW.{name}" for name in columns)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            for statement in _POSTGRESQL:
                connection.execute(text(statement))
        else:
            for statement in _SQLITE:
                connection.execute(text(statement.replace("{different}", different)))
