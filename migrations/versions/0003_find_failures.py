"""
Find the day's failures without reading all that went well.

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
    """Add the index."""
    failed = sa.text("status IN ('FAILED', 'EXPIRED', 'CANCELLED')")
    op.create_index(
        "ix_job_executions_failed",
        "job_executions",
        ["completed_at"],
        unique=False,
        postgresql_where=failed,
        sqlite_where=failed,
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_job_executions_failed", table_name="job_executions")
