"""
Keep the keys of requests to the web API: none acts twice.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

from prometheus.persistence.metadata import UtcDateTime, database_now

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "request_keys",
        sa.Column("key", sa.String(length=200), nullable=False, comment="made by the client"),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False, comment="JSON, as it was sent"),
        sa.Column("created_at", UtcDateTime(), server_default=database_now(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_request_keys")),
        comment="requests to the web API that have acted and must not act twice",
    )


def downgrade() -> None:
    """Drop it: a request that comes again with its key acts again."""
    op.drop_table("request_keys")
