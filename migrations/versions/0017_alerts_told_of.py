"""
Find the alerts that recipients know of without reading those that are over.

Revision ID: 0017
Revises: 0016
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    told_of = sa.text("told = 'raised' AND acknowledged_at IS NULL")
    op.create_index(
        "ix_alerts_told_of", "alerts", ["told"], postgresql_where=told_of, sqlite_where=told_of
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_alerts_told_of", table_name="alerts")
