"""
Keep to which actions a token is limited.

Revision ID: 0018
Revises: 0017
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; tokens that there are may all that their role may."""
    json = sa.JSON(none_as_null=True).with_variant(
        postgresql.JSONB(none_as_null=True), "postgresql"
    )
    op.add_column(
        "api_tokens",
        sa.Column(
            "allowed",
            json,
            nullable=True,
            comment="actions it is limited to; NULL: all that its role may",
        ),
    )


def downgrade() -> None:
    """Drop it, and the tokens that are limited: nothing would limit them any more."""
    op.execute("DELETE FROM api_tokens WHERE allowed IS NOT NULL")
    op.drop_column("api_tokens", "allowed")
