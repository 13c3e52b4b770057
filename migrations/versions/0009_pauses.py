"""
Let operators keep markets, pipelines and single jobs from starting.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

from prometheus.persistence.metadata import UtcDateTime, database_now

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "pauses",
        sa.Column("pause_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("market_id", sa.String(length=40), nullable=True, comment="null: any market"),
        sa.Column("pipeline", sa.String(length=100), nullable=True, comment="null: any pipeline"),
        sa.Column("dag_id", sa.String(length=200), nullable=True, comment="of a job that is held"),
        sa.Column("job_id", sa.String(length=200), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("author", sa.String(length=200), nullable=False),
        sa.Column("paused_at", UtcDateTime(), server_default=database_now(), nullable=False),
        sa.Column("until", UtcDateTime(), nullable=True, comment="when it ends by itself"),
        sa.Column("ended_at", UtcDateTime(), nullable=True, comment="when somebody ended it"),
        sa.Column("ended_by", sa.String(length=200), nullable=True),
        sa.CheckConstraint(
            "(dag_id IS NULL) = (job_id IS NULL)"
            " AND (dag_id IS NULL) <> (market_id IS NULL AND pipeline IS NULL)",
            name=op.f("ck_pauses_target"),
        ),
        sa.CheckConstraint("(ended_at IS NULL) = (ended_by IS NULL)", name=op.f("ck_pauses_ended")),
        sa.ForeignKeyConstraint(
            ["dag_id"],
            ["dag_runs.dag_id"],
            name=op.f("fk_pauses_dag_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("pause_id", name=op.f("pk_pauses")),
        comment="what operators keep from starting",
    )
    where = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_pauses_open",
        "pauses",
        ["pause_id"],
        unique=False,
        postgresql_where=where,
        sqlite_where=where,
    )


def downgrade() -> None:
    """Drop it: what is paused starts again."""
    op.drop_index("ix_pauses_open", "pauses")
    op.drop_table("pauses")
