"""
Keep which beats stand by, for whoever looks who would lead next.

Revision ID: 0019
Revises: 0018
"""

import sqlalchemy as sa
from alembic import op

from prometheus.persistence.metadata import UtcDateTime, database_now

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table; those that stand by come into it by themselves."""
    op.create_table(
        "standbys",
        sa.Column("owner", sa.String(length=300), nullable=False, comment="as it would lead"),
        sa.Column("since", UtcDateTime(), server_default=database_now(), nullable=False),
        sa.Column("renewed_at", UtcDateTime(), server_default=database_now(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False, comment="it is silent from then on"),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_standbys")),
        comment="beats that wait for the lead",
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("standbys")
