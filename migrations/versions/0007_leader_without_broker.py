"""
Remember since when a leader has lost the broker, so that a standby that has it takes over.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

from prometheus.persistence.metadata import UtcDateTime

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column(
        "leases",
        sa.Column(
            "broker_lost_at",
            UtcDateTime(),
            nullable=True,
            comment="since when the owner can not reach the broker",
        ),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_column("leases", "broker_lost_at")
