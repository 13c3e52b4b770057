"""
Find what of a run is queued from its end.

Revision ID: 0022
Revises: 0021
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_NAME, _TABLE = "ix_job_executions_queued", "job_executions"


def upgrade() -> None:
    """Have the index in the order in which messages are sent, and say its own what is queued."""
    _replace(["dag_id", "priority", "job_id"], "coalesce(status, '') = 'QUEUED'")


def downgrade() -> None:
    """Have it in no order, and say that like the others."""
    _replace(["dag_id"], "status = 'QUEUED'")


def _replace(columns: list[str], queued: str) -> None:
    op.drop_index(_NAME, table_name=_TABLE)
    where = sa.text(queued)
    op.create_index(_NAME, _TABLE, columns, postgresql_where=where, sqlite_where=where)
