"""
Keep what feeds say of holidays, and how loudly it was said that a calendar ends.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

from prometheus.persistence.metadata import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "horizon_warnings",
        sa.Column("market_id", sa.String(length=40), nullable=False),
        sa.Column("level", sa.String(length=10), nullable=False, comment="how loudly it was said"),
        sa.Column("said_on", sa.Date(), nullable=False, comment="in market time"),
        sa.PrimaryKeyConstraint("market_id", name=op.f("pk_horizon_warnings")),
        comment="when it was last said that a calendar ends",
    )
    op.create_table(
        "market_holidays",
        sa.Column("holiday_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("exchange", sa.String(length=10), nullable=False, comment="MIC"),
        sa.Column(
            "date",
            sa.Date(),
            nullable=False,
            comment="of the session, or of what would have been one",
        ),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column(
            "kind", sa.String(length=20), nullable=False, comment="what it means for trading"
        ),
        sa.Column(
            "close", sa.Time(), nullable=True, comment="local time at which an early close ends"
        ),
        sa.Column("source", sa.String(length=40), nullable=False, comment="the feed that says so"),
        sa.Column("fetched_at", UtcDateTime, nullable=False, comment="when it last did, undecided"),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("decided_at", UtcDateTime, nullable=True),
        sa.Column("decided_by", sa.String(length=200), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True, comment="why a person decided so"),
        sa.CheckConstraint(
            "kind IN ('closed', 'early_close', 'bank', 'open', 'unknown')",
            name=op.f("ck_market_holidays_kind"),
        ),
        sa.CheckConstraint(
            "state IN ('proposed', 'confirmed', 'rejected')",
            name=op.f("ck_market_holidays_state"),
        ),
        sa.CheckConstraint(
            "close IS NULL OR kind = 'early_close'", name=op.f("ck_market_holidays_close")
        ),
        sa.CheckConstraint(
            "(state = 'proposed') = (decided_at IS NULL)"
            " AND (decided_at IS NULL) = (decided_by IS NULL)"
            " AND (decided_at IS NULL) = (reason IS NULL)",
            name=op.f("ck_market_holidays_decided"),
        ),
        sa.PrimaryKeyConstraint("holiday_id", name=op.f("pk_market_holidays")),
        comment="what feeds say of holidays, and what people have decided of it",
    )
    where = sa.text("state = 'proposed'")
    op.create_index(
        "ux_market_holidays_proposed",
        "market_holidays",
        ["exchange", "date", "source"],
        unique=True,
        postgresql_where=where,
        sqlite_where=where,
    )
    op.create_index(
        "ix_market_holidays_exchange_date", "market_holidays", ["exchange", "date"], unique=False
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("market_holidays")
    op.drop_table("horizon_warnings")
