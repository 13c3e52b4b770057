"""
Index the ends of workers: each mark of a scheduler names those that were given up lately.

Revision ID: 0010
Revises: 0009
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    op.create_index("ix_worker_incarnations_ended", "worker_incarnations", ["ended_at"])


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_worker_incarnations_ended", "worker_incarnations")
