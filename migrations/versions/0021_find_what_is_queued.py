"""
Find what of a run is queued.

Revision ID: 0021
Revises: 0020
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add an index of the few executions that wait in a queue."""
    queued = sa.text("status = 'QUEUED'")
    op.create_index(
        "ix_job_executions_queued",
        "job_executions",
        ["dag_id"],
        postgresql_where=queued,
        sqlite_where=queued,
    )


def downgrade() -> None:
    """Drop it; to find them takes longer."""
    op.drop_index("ix_job_executions_queued", table_name="job_executions")
