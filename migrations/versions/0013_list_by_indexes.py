"""
List executions, runs and the audit without reading all that was.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_INDEXES = (
    ("ix_job_executions_created_at", "job_executions", ("created_at",), None),
    ("ix_job_executions_status", "job_executions", ("status", "created_at"), "status <> 'SUCCESS'"),
    ("ix_job_executions_job", "job_executions", ("job_id",), None),
    ("ix_job_executions_worker", "job_executions", ("worker",), "worker IS NOT NULL"),
    ("ix_job_executions_started_at", "job_executions", ("started_at",), "started_at IS NOT NULL"),
    ("ix_dag_runs_session", "dag_runs", ("as_of_date",), None),
    ("ix_audit_actor", "audit", ("actor", "audit_id"), None),
    ("ix_audit_action", "audit", ("action", "audit_id"), None),
    ("ix_audit_target", "audit", ("target", "audit_id"), None),
)
"""Name, table, columns, and of which rows."""


def upgrade() -> None:
    """Add the indexes."""
    for name, table, columns, condition in _INDEXES:
        where = sa.text(condition) if condition is not None else None
        op.create_index(
            name, table, list(columns), unique=False, postgresql_where=where, sqlite_where=where
        )


def downgrade() -> None:
    """Drop them."""
    for name, table, _, _ in reversed(_INDEXES):
        op.drop_index(name, table_name=table)
