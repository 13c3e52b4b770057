"""
Keep what schedulers' ticks did and took, and how much each worker can run at once.

Revision ID: 0016
Revises: 0015
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    """Add the columns."""
    op.add_column(
        "leases",
        sa.Column("figures", Json, comment="what all its owners have done, as counts that add up"),
    )
    op.add_column(
        "worker_incarnations", sa.Column("slots", sa.Integer(), comment="jobs that it runs at once")
    )


def downgrade() -> None:
    """Drop them: schedulers count from nought again."""
    op.drop_column("worker_incarnations", "slots")
    op.drop_column("leases", "figures")
