"""
Keep alerts, and the messages in which they are told.

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from prometheus.persistence.metadata import UtcDateTime

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
_KINDS = (
    "job_failed",
    "window_expired",
    "missed_session",
    "deadline_missed",
    "run_late",
    "scheduler_silent",
    "worker_lost",
    "queue_without_workers",
    "calendar_horizon",
    "feed_disagreement",
)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "alerts",
        sa.Column("alert_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column(
            "key", sa.String(length=300), nullable=False, comment="the same for the same trouble"
        ),
        sa.Column("kind", sa.String(length=30), nullable=False),
        sa.Column("severity", sa.String(length=10), nullable=False),
        sa.Column("markets", Json, nullable=False, comment="those it is about; none: all"),
        sa.Column("pipeline", sa.String(length=100)),
        sa.Column("dag_id", sa.String(length=200), comment="no reference: it outlives the run"),
        sa.Column("priority", sa.Integer(), comment="1 CRITICAL, 2 STANDARD, 3 OPTIONAL"),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("details", Json, nullable=False, comment="lines"),
        sa.Column("subjects", Json, nullable=False, comment="what of it is wrong, such as jobs"),
        sa.Column("since", UtcDateTime(), nullable=False, comment="when the trouble began"),
        sa.Column(
            "raised_at", UtcDateTime(), nullable=False, comment="when it was seen, the last time"
        ),
        sa.Column("times", sa.Integer(), nullable=False, comment="how often it was raised"),
        sa.Column("resolved_at", UtcDateTime(), comment="when it was seen that it is over"),
        sa.Column("told", sa.String(length=10), comment="what recipients were told last"),
        sa.Column("told_at", UtcDateTime()),
        sa.Column("told_subjects", Json, nullable=False),
        sa.Column("acknowledged_at", UtcDateTime(), comment="from then on nothing is told"),
        sa.Column("acknowledged_by", sa.String(length=200)),
        sa.Column("reason", sa.Text(), comment="why it was acknowledged"),
        sa.CheckConstraint(
            f"kind IN ({', '.join(map(repr, _KINDS))})", name=op.f("ck_alerts_kind")
        ),
        sa.CheckConstraint(
            "severity IN ('warning', 'error', 'critical')", name=op.f("ck_alerts_severity")
        ),
        sa.CheckConstraint("told IN ('raised', 'resolved')", name=op.f("ck_alerts_told")),
        sa.CheckConstraint("(told IS NULL) = (told_at IS NULL)", name=op.f("ck_alerts_told_at")),
        sa.CheckConstraint(
            "(acknowledged_at IS NULL) = (acknowledged_by IS NULL)"
            " AND (acknowledged_at IS NULL) = (reason IS NULL)",
            name=op.f("ck_alerts_acknowledged"),
        ),
        sa.PrimaryKeyConstraint("alert_id", name=op.f("pk_alerts")),
        comment="what went wrong, and what recipients know of it",
    )
    unresolved = sa.text("resolved_at IS NULL")
    op.create_index(
        "ux_alerts_open",
        "alerts",
        ["key"],
        unique=True,
        postgresql_where=unresolved,
        sqlite_where=unresolved,
    )
    op.create_index("ix_alerts_resolved_at", "alerts", ["resolved_at"])
    op.create_table(
        "alert_deliveries",
        sa.Column("delivery_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("alert_id", sa.Integer(), nullable=False),
        sa.Column("channel", sa.String(length=64), nullable=False),
        sa.Column("event", sa.String(length=10), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_try_at", UtcDateTime(), nullable=False),
        sa.Column("error", sa.Text(), comment="of the last try that failed"),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), comment="when it was taken, given up or replaced"),
        sa.CheckConstraint(
            "event IN ('raised', 'resolved')", name=op.f("ck_alert_deliveries_event")
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'sent', 'failed', 'replaced')",
            name=op.f("ck_alert_deliveries_state"),
        ),
        sa.CheckConstraint(
            "(state = 'pending') = (ended_at IS NULL)", name=op.f("ck_alert_deliveries_ended")
        ),
        sa.ForeignKeyConstraint(
            ["alert_id"],
            ["alerts.alert_id"],
            name=op.f("fk_alert_deliveries_alert_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("delivery_id", name=op.f("pk_alert_deliveries")),
        comment="messages of alerts, each written before it is sent",
    )
    pending = sa.text("state = 'pending'")
    op.create_index(
        "ix_alert_deliveries_pending",
        "alert_deliveries",
        ["next_try_at"],
        postgresql_where=pending,
        sqlite_where=pending,
    )
    op.create_index("ix_alert_deliveries_alert_id", "alert_deliveries", ["alert_id"])


def downgrade() -> None:
    """Drop them: nobody is told what was not told yet."""
    op.drop_index("ix_alert_deliveries_alert_id", "alert_deliveries")
    op.drop_index("ix_alert_deliveries_pending", "alert_deliveries")
    op.drop_table("alert_deliveries")
    op.drop_index("ix_alerts_resolved_at", "alerts")
    op.drop_index("ux_alerts_open", "alerts")
    op.drop_table("alerts")
