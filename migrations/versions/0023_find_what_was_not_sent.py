"""
Find what is queued without a message, however much is queued with one.

Revision ID: 0023
Revises: 0022
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add an index of the few executions whose message is still to be sent."""
    unsent = sa.text("nullif(status, '') = 'QUEUED' AND published_at IS NULL")
    op.create_index(
        "ix_job_executions_unsent",
        "job_executions",
        ["scheduled_at"],
        postgresql_where=unsent,
        sqlite_where=unsent,
    )


def downgrade() -> None:
    """Drop it; a tick reads all that is queued."""
    op.drop_index("ix_job_executions_unsent", table_name="job_executions")
