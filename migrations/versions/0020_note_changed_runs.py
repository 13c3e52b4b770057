"""
Note which runs were written to.

Revision ID: 0020
Revises: 0019
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_FUNCTION = """
CREATE FUNCTION note_run_change() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO run_changes (dag_id) VALUES (OLD.dag_id);
    ELSE
        INSERT INTO run_changes (dag_id) VALUES (NEW.dag_id);
    END IF;
    RETURN NULL;
END
$$
"""
_NOTE = "BEGIN INSERT INTO run_changes (dag_id) VALUES (NEW.dag_id); END"
_TRIGGERS = (
    ("note_new_attempt", "job_executions", "INSERT", " WHEN (NEW.attempt_number > 1)"),
    (
        "note_changed_attempt",
        "job_executions",
        "UPDATE OF status, forced, scheduled_at, cancel_asked_at",
        "",
    ),
    ("note_new_run", "dag_runs", "INSERT", ""),
    (
        "note_changed_run",
        "dag_runs",
        "UPDATE OF status, forced, created_at, definition_hash, calendar_version",
        "",
    ),
    ("note_removed_run", "dag_runs", "DELETE", ""),
)
"""Name, table, after what, and when only."""


def upgrade() -> None:
    """Add the table, and the triggers that write to it, whichever release makes the change."""
    op.create_table(
        "run_changes",
        sa.Column("dag_id", sa.String(200), nullable=False),
        comment="runs that were written to since the leader last looked; by triggers",
    )
    postgresql = op.get_bind().dialect.name == "postgresql"
    if postgresql:
        # Where all tables are published, rows of one without a key could not be removed otherwise.
        op.execute("ALTER TABLE run_changes REPLICA IDENTITY FULL")
        op.execute(_FUNCTION)
    for name, table, write, only in _TRIGGERS:
        note = _NOTE.replace("NEW", "OLD") if write == "DELETE" else _NOTE
        act = "EXECUTE FUNCTION note_run_change()" if postgresql else note
        op.execute(f"CREATE TRIGGER {name} AFTER {write} ON {table} FOR EACH ROW{only} {act}")


def downgrade() -> None:
    """Drop them; who leads reads all open runs at each tick."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    for name, table, _, _ in _TRIGGERS:
        op.execute(f"DROP TRIGGER {name} ON {table}" if postgresql else f"DROP TRIGGER {name}")
    if postgresql:
        op.execute("DROP FUNCTION note_run_change()")
    op.drop_table("run_changes")
