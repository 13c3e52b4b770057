"""
Make or run again the runs of a range of sessions, so many at a time.

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

from prometheus.persistence.metadata import UtcDateTime, database_now

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_BEFORE = "schedule, catch_up or operator"
_AFTER = "why it was made: schedule, catch_up, operator or backfill"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "backfills",
        sa.Column("backfill_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("pipeline", sa.String(length=100), nullable=False),
        sa.Column("market_id", sa.String(length=40), nullable=False),
        sa.Column("first_session", sa.Date(), nullable=False, comment="as asked: included"),
        sa.Column("last_session", sa.Date(), nullable=False, comment="as asked: included"),
        sa.Column(
            "reprocess", sa.String(length=10), nullable=False, comment="which runs it runs again"
        ),
        sa.Column("max_active_runs", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("author", sa.String(length=200), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=database_now(), nullable=False),
        sa.Column(
            "ended_at",
            UtcDateTime(),
            nullable=True,
            comment="its last run ended, or somebody stopped it",
        ),
        sa.Column("stopped_by", sa.String(length=200), nullable=True),
        sa.CheckConstraint(
            "reprocess IN ('none', 'failed', 'finished')", name=op.f("ck_backfills_reprocess")
        ),
        sa.CheckConstraint("max_active_runs > 0", name=op.f("ck_backfills_max_active_runs")),
        sa.CheckConstraint(
            "stopped_by IS NULL OR ended_at IS NOT NULL", name=op.f("ck_backfills_stopped")
        ),
        sa.PrimaryKeyConstraint("backfill_id", name=op.f("pk_backfills")),
        comment="ranges of sessions whose runs are made or run again",
    )
    where = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_backfills_open",
        "backfills",
        ["backfill_id"],
        unique=False,
        postgresql_where=where,
        sqlite_where=where,
    )
    op.create_table(
        "backfill_sessions",
        sa.Column("backfill_id", sa.Integer(), nullable=False),
        sa.Column("as_of_date", sa.Date(), nullable=False),
        sa.Column(
            "dag_id", sa.String(length=200), nullable=False, comment="of its run, made or not"
        ),
        sa.Column(
            "again", sa.Boolean(), nullable=False, comment="its run was there and is run again"
        ),
        sa.Column("begun_at", UtcDateTime(), nullable=True, comment="when its turn came"),
        sa.Column("refused", sa.Text(), nullable=True, comment="why it could not be run then"),
        sa.CheckConstraint(
            "refused IS NULL OR begun_at IS NOT NULL", name=op.f("ck_backfill_sessions_refused")
        ),
        sa.ForeignKeyConstraint(
            ["backfill_id"],
            ["backfills.backfill_id"],
            name=op.f("fk_backfill_sessions_backfill_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("backfill_id", "as_of_date", name=op.f("pk_backfill_sessions")),
        comment="what a backfill does, and has done",
    )
    _tell_triggers(_BEFORE, _AFTER)


def downgrade() -> None:
    """Drop them: runs that backfills have made stay, no further one is."""
    # An operator asked for them, as far as the release before can tell.
    op.execute("UPDATE dag_runs SET trigger = 'operator' WHERE trigger = 'backfill'")
    _tell_triggers(_AFTER, _BEFORE)
    op.drop_table("backfill_sessions")
    op.drop_index("ix_backfills_open", "backfills")
    op.drop_table("backfills")


def _tell_triggers(before: str, after: str) -> None:
    if op.get_context().dialect.name == "postgresql":  # SQLite keeps no comments
        op.alter_column("dag_runs", "trigger", comment=after, existing_comment=before)
