"""
Ask running jobs to end before they are ended, and name the process that runs an attempt.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

from prometheus.persistence.metadata import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; rows of the release before stay as they are."""
    process = "process of the worker's pool that started it"
    asked = "an operator asked the running job to end"
    until = "when it is ended if it has not by itself"
    for column in (
        sa.Column("pid", sa.Integer(), nullable=True, comment=process),
        sa.Column("cancel_asked_at", UtcDateTime(), nullable=True, comment=asked),
        sa.Column("cancel_asked_by", sa.String(length=200), nullable=True),
        sa.Column("cancel_at", UtcDateTime(), nullable=True, comment=until),
    ):
        op.add_column("job_executions", column)


def downgrade() -> None:
    """Drop them: a job that was asked to end then ends like any other."""
    for name in ("cancel_at", "cancel_asked_by", "cancel_asked_at", "pid"):
        op.drop_column("job_executions", name)
