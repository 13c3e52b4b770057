"""
Keep what people say of single sessions.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

from prometheus.persistence.metadata import UtcDateTime, database_now

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, empty."""
    op.create_table(
        "calendar_overrides",
        sa.Column(
            "override_id",
            sa.Integer(),
            autoincrement=False,
            nullable=False,
            comment="in the order of recording",
        ),
        sa.Column("exchange", sa.String(length=10), comment="MIC; or the market"),
        sa.Column("market_id", sa.String(length=40)),
        sa.Column("session", sa.Date(), nullable=False, comment="the session's date"),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("opens", sa.String(length=20), comment="local time, such as 09:30 or 17:00-1d"),
        sa.Column("closes", sa.String(length=20)),
        sa.Column("breaks", sa.String(length=200), comment="11:30-12:30; empty takes them away"),
        sa.Column(
            "zone",
            sa.String(length=60),
            comment="whose clocks the times are of; null: the exchange's",
        ),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("announced_at", UtcDateTime(), nullable=False, comment="market time"),
        sa.Column("author", sa.String(length=200), nullable=False),
        sa.Column("recorded_at", UtcDateTime(), server_default=database_now(), nullable=False),
        sa.Column("withdraws", sa.Integer()),
        sa.CheckConstraint(
            "(exchange IS NULL) <> (market_id IS NULL)",
            name=op.f("ck_calendar_overrides_target"),
        ),
        sa.CheckConstraint(
            "kind IN ('closed', 'early_close', 'late_open', 'special_session', "
            "'changed_hours', 'withdrawn')",
            name=op.f("ck_calendar_overrides_kind"),
        ),
        sa.CheckConstraint(
            "(kind = 'withdrawn') = (withdraws IS NOT NULL)",
            name=op.f("ck_calendar_overrides_withdraws"),
        ),
        sa.ForeignKeyConstraint(
            ["withdraws"],
            ["calendar_overrides.override_id"],
            name=op.f("fk_calendar_overrides_withdraws"),
        ),
        sa.PrimaryKeyConstraint("override_id", name=op.f("pk_calendar_overrides")),
        sa.UniqueConstraint("withdraws", name=op.f("uq_calendar_overrides_withdraws")),
        comment="what people say of single sessions; no row is ever changed",
    )


def downgrade() -> None:
    """Drop it, and so go back to the sessions as they are shipped."""
    op.drop_table("calendar_overrides")
