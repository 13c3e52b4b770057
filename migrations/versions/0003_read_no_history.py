"""
Find the day's failures, and the workers that live, without reading all that was.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the indexes."""
    for name, table, column, condition in (
        (
            "ix_job_executions_failed",
            "job_executions",
            "completed_at",
            "status IN ('FAILED', 'EXPIRED', 'CANCELLED')",
        ),
        ("ix_worker_incarnations_alive", "worker_incarnations", "worker", "ended_at IS NULL"),
    ):
        where = sa.text(condition)
        op.create_index(
            name, table, [column], unique=False, postgresql_where=where, sqlite_where=where
        )


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_worker_incarnations_alive", table_name="worker_incarnations")
    op.drop_index("ix_job_executions_failed", table_name="job_executions")
