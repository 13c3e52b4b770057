"""
Remember on which sessions a pipeline runs, so that a change of them makes none that it missed.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; so far there was nothing to choose."""
    op.add_column(
        "pipelines",
        sa.Column(
            "sessions",
            sa.String(length=100),
            server_default="every session",
            nullable=False,
            comment="those it has run on since then",
        ),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_column("pipelines", "sessions")
