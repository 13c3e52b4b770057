"""
Keep what attempts print and log.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

from prometheus.persistence.metadata import UtcDateTime, database_now

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "attempt_logs",
        sa.Column("execution_id", sa.String(length=36), nullable=False),
        sa.Column(
            "part", sa.Integer(), autoincrement=False, nullable=False, comment="1 for the first"
        ),
        sa.Column("at", UtcDateTime(), server_default=database_now(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False, comment="whole lines"),
        sa.ForeignKeyConstraint(
            ["execution_id"],
            ["job_executions.execution_id"],
            name=op.f("fk_attempt_logs_execution_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("execution_id", "part", name=op.f("pk_attempt_logs")),
        comment="what attempts printed and logged",
    )


def downgrade() -> None:
    """Drop it, and with it all that was kept."""
    op.drop_table("attempt_logs")
