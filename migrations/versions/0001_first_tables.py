# ruff: noqa: E501  generated conditions are long
"""
Create the first tables.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from prometheus.persistence.metadata import UtcDateTime, database_now

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    """Create them, and the clock's one row: live."""
    op.create_table(
        "audit",
        sa.Column("audit_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", UtcDateTime(), server_default=database_now(), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("action", sa.String(length=40), nullable=False),
        sa.Column("target", sa.String(length=300), nullable=False),
        sa.Column("details", Json, nullable=False),
        sa.PrimaryKeyConstraint("audit_id", name=op.f("pk_audit")),
    )
    op.create_table(
        "dag_runs",
        sa.Column("dag_id", sa.String(length=200), nullable=False),
        sa.Column("pipeline", sa.String(length=100), nullable=False),
        sa.Column("market_id", sa.String(length=40), nullable=False),
        sa.Column("as_of_date", sa.Date(), nullable=False, comment="the session's date"),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("forced", sa.Boolean(), nullable=False, comment="windows do not count"),
        sa.Column(
            "trigger",
            sa.String(length=20),
            nullable=False,
            comment="schedule, catch_up or operator",
        ),
        sa.Column(
            "definition", Json, nullable=False, comment="the DAG as it was when the run was made"
        ),
        sa.Column("definition_hash", sa.String(length=64), nullable=False),
        sa.Column("parameters", Json, nullable=False, comment="handed to every job"),
        sa.Column("calendar_version", sa.String(length=100), nullable=False),
        sa.Column("opens_at", UtcDateTime(), nullable=False, comment="market time"),
        sa.Column("created_at", UtcDateTime(), server_default=database_now(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), server_default=database_now(), nullable=False),
        sa.Column("completed_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint(
            "(status = 'OPEN') = (completed_at IS NULL)", name=op.f("ck_dag_runs_completed")
        ),
        sa.CheckConstraint(
            "status IN ('OPEN', 'SUCCESS', 'FAILED', 'CANCELLED')", name=op.f("ck_dag_runs_status")
        ),
        sa.PrimaryKeyConstraint("dag_id", name=op.f("pk_dag_runs")),
        sa.UniqueConstraint(
            "pipeline",
            "market_id",
            "as_of_date",
            name=op.f("uq_dag_runs_pipeline_market_id_as_of_date"),
        ),
    )
    op.create_index(
        "ix_dag_runs_market_session", "dag_runs", ["market_id", "as_of_date"], unique=False
    )
    op.create_index(
        "ix_dag_runs_open",
        "dag_runs",
        ["market_id"],
        unique=False,
        postgresql_where=sa.text("status = 'OPEN'"),
        sqlite_where=sa.text("status = 'OPEN'"),
    )
    op.create_table(
        "eq_books",
        sa.Column("market_id", sa.String(length=40), nullable=False),
        sa.Column("session_date", sa.Date(), nullable=False),
        sa.Column("mic", sa.String(length=10), nullable=False),
        sa.Column("symbol", sa.String(length=40), nullable=False),
        sa.Column(
            "weight", sa.Double(), nullable=False, comment="share of capital; the rest is cash"
        ),
        sa.Column(
            "target_weight", sa.Double(), nullable=False, comment="before turnover and liquidity"
        ),
        sa.Column("previous_weight", sa.Double(), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("volatility", sa.Double(), nullable=True),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint(
            "market_id", "session_date", "mic", "symbol", name=op.f("pk_eq_books")
        ),
    )
    op.create_table(
        "eq_factors",
        sa.Column("market_id", sa.String(length=40), nullable=False),
        sa.Column("session_date", sa.Date(), nullable=False),
        sa.Column("factor", sa.String(length=40), nullable=False),
        sa.Column(
            "value", sa.Double(), nullable=False, comment="simple return over the market's session"
        ),
        sa.Column(
            "available_on", sa.Date(), nullable=False, comment="first session that may use it"
        ),
        sa.Column(
            "source", sa.String(length=200), nullable=False, comment="the feed, in words for people"
        ),
        sa.Column("is_synthetic", sa.Boolean(), nullable=False),
        sa.Column("fetched_at", UtcDateTime(), nullable=False, comment="when these values came"),
        sa.PrimaryKeyConstraint("market_id", "session_date", "factor", name=op.f("pk_eq_factors")),
    )
    op.create_table(
        "eq_instruments",
        sa.Column("market_id", sa.String(length=40), nullable=False),
        sa.Column("session_date", sa.Date(), nullable=False),
        sa.Column("mic", sa.String(length=10), nullable=False),
        sa.Column("symbol", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column(
            "sector", sa.String(length=100), nullable=True, comment="NULL where it is not known"
        ),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column(
            "source", sa.String(length=200), nullable=False, comment="the feed, in words for people"
        ),
        sa.Column("is_synthetic", sa.Boolean(), nullable=False),
        sa.Column("fetched_at", UtcDateTime(), nullable=False, comment="when these values came"),
        sa.PrimaryKeyConstraint(
            "market_id", "session_date", "mic", "symbol", name=op.f("pk_eq_instruments")
        ),
        comment="what the market's feed listed for a session: later jobs look at these only",
    )
    op.create_table(
        "eq_price_revisions",
        sa.Column("mic", sa.String(length=10), nullable=False),
        sa.Column("session_date", sa.Date(), nullable=False),
        sa.Column("symbol", sa.String(length=40), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("open", sa.Double(), nullable=False),
        sa.Column("high", sa.Double(), nullable=False),
        sa.Column("low", sa.Double(), nullable=False),
        sa.Column("close", sa.Double(), nullable=False),
        sa.Column("volume", sa.Double(), nullable=False),
        sa.Column("adjusted_close", sa.Double(), nullable=False),
        sa.Column(
            "source", sa.String(length=200), nullable=False, comment="the feed, in words for people"
        ),
        sa.Column("is_synthetic", sa.Boolean(), nullable=False),
        sa.Column("fetched_at", UtcDateTime(), nullable=False, comment="when these values came"),
        sa.Column("replaced_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint(
            "mic", "session_date", "symbol", "revision", name=op.f("pk_eq_price_revisions")
        ),
        comment="bars as they were before the feed revised them",
    )
    op.create_table(
        "eq_prices",
        sa.Column("mic", sa.String(length=10), nullable=False),
        sa.Column("session_date", sa.Date(), nullable=False),
        sa.Column("symbol", sa.String(length=40), nullable=False),
        sa.Column("open", sa.Double(), nullable=False),
        sa.Column("high", sa.Double(), nullable=False),
        sa.Column("low", sa.Double(), nullable=False),
        sa.Column("close", sa.Double(), nullable=False),
        sa.Column("volume", sa.Double(), nullable=False),
        sa.Column("adjusted_close", sa.Double(), nullable=False),
        sa.Column(
            "source", sa.String(length=200), nullable=False, comment="the feed, in words for people"
        ),
        sa.Column("is_synthetic", sa.Boolean(), nullable=False),
        sa.Column("fetched_at", UtcDateTime(), nullable=False, comment="when these values came"),
        sa.Column(
            "revision",
            sa.Integer(),
            nullable=False,
            comment="0, then 1 more each time values changed",
        ),
        sa.PrimaryKeyConstraint("mic", "session_date", "symbol", name=op.f("pk_eq_prices")),
        comment="bars that passed all checks",
    )
    op.create_index("ix_eq_prices_symbol", "eq_prices", ["symbol", "session_date"], unique=False)
    op.create_table(
        "eq_profiles",
        sa.Column("market_id", sa.String(length=40), nullable=False),
        sa.Column("session_date", sa.Date(), nullable=False),
        sa.Column("mic", sa.String(length=10), nullable=False),
        sa.Column("symbol", sa.String(length=40), nullable=False),
        sa.Column("beta", sa.Double(), nullable=True),
        sa.Column("blume_beta", sa.Double(), nullable=True),
        sa.Column("r_squared", sa.Double(), nullable=True),
        sa.Column("idiosyncratic_volatility", sa.Double(), nullable=True, comment="per year"),
        sa.Column(
            "adv20",
            sa.Double(),
            nullable=True,
            comment="mean traded value, in the instrument's currency",
        ),
        sa.Column("adv60", sa.Double(), nullable=True),
        sa.Column(
            "amihud",
            sa.Double(),
            nullable=True,
            comment="mean |return| per million of traded value",
        ),
        sa.Column("momentum_12_1", sa.Double(), nullable=True),
        sa.Column("return_21", sa.Double(), nullable=True),
        sa.Column("max_drawdown_252", sa.Double(), nullable=True, comment="negative, or 0"),
        sa.Column("price_to_52w_high", sa.Double(), nullable=True),
        sa.Column(
            "last_trade_age", sa.Integer(), nullable=False, comment="sessions since its last bar"
        ),
        sa.Column(
            "bars", sa.Integer(), nullable=False, comment="bars in the history that was read"
        ),
        sa.Column(
            "loadings",
            Json,
            nullable=True,
            comment="factor to its coefficient in one regression on all",
        ),
        sa.Column(
            "factors_synthetic",
            sa.Boolean(),
            nullable=True,
            comment="whether any of these factors is made up",
        ),
        sa.PrimaryKeyConstraint(
            "market_id", "session_date", "mic", "symbol", name=op.f("pk_eq_profiles")
        ),
    )
    op.create_table(
        "eq_quarantine",
        sa.Column("mic", sa.String(length=10), nullable=False),
        sa.Column("session_date", sa.Date(), nullable=False),
        sa.Column("symbol", sa.String(length=40), nullable=False),
        sa.Column("open", sa.Double(), nullable=True),
        sa.Column("high", sa.Double(), nullable=True),
        sa.Column("low", sa.Double(), nullable=True),
        sa.Column("close", sa.Double(), nullable=True),
        sa.Column("volume", sa.Double(), nullable=True),
        sa.Column("adjusted_close", sa.Double(), nullable=True),
        sa.Column(
            "source", sa.String(length=200), nullable=False, comment="the feed, in words for people"
        ),
        sa.Column("is_synthetic", sa.Boolean(), nullable=False),
        sa.Column("fetched_at", UtcDateTime(), nullable=False, comment="when these values came"),
        sa.Column(
            "reason", sa.String(length=40), nullable=False, comment="which check the bar failed"
        ),
        sa.Column("detail", sa.Text(), nullable=False, comment="what it held, in words"),
        sa.PrimaryKeyConstraint("mic", "session_date", "symbol", name=op.f("pk_eq_quarantine")),
        comment="bars that failed a check: kept, reported, never computed on",
    )
    op.create_index("ix_eq_quarantine_fetched_at", "eq_quarantine", ["fetched_at"], unique=False)
    op.create_table(
        "eq_returns",
        sa.Column("mic", sa.String(length=10), nullable=False),
        sa.Column("session_date", sa.Date(), nullable=False),
        sa.Column("symbol", sa.String(length=40), nullable=False),
        sa.Column(
            "simple_return",
            sa.Double(),
            nullable=True,
            comment="of the adjusted close; NULL after a gap",
        ),
        sa.Column("log_return", sa.Double(), nullable=True),
        sa.Column(
            "overnight_return",
            sa.Double(),
            nullable=True,
            comment="ln(open / previous close), as traded",
        ),
        sa.Column(
            "intraday_return", sa.Double(), nullable=True, comment="ln(close / open), as traded"
        ),
        sa.Column(
            "gap_sessions",
            sa.Integer(),
            nullable=False,
            comment="sessions without a bar just before",
        ),
        sa.PrimaryKeyConstraint("mic", "session_date", "symbol", name=op.f("pk_eq_returns")),
    )
    op.create_table(
        "eq_signals",
        sa.Column("market_id", sa.String(length=40), nullable=False),
        sa.Column("session_date", sa.Date(), nullable=False),
        sa.Column("mic", sa.String(length=10), nullable=False),
        sa.Column("symbol", sa.String(length=40), nullable=False),
        sa.Column(
            "momentum",
            sa.Double(),
            nullable=True,
            comment="raw values; NULL where the history is too short",
        ),
        sa.Column("reversal", sa.Double(), nullable=True),
        sa.Column("low_volatility", sa.Double(), nullable=True),
        sa.Column(
            "momentum_z",
            sa.Double(),
            nullable=True,
            comment="winsorised and standardised across the market",
        ),
        sa.Column("reversal_z", sa.Double(), nullable=True),
        sa.Column("low_volatility_z", sa.Double(), nullable=True),
        sa.Column("score", sa.Double(), nullable=True, comment="the weighted sum of the three"),
        sa.PrimaryKeyConstraint(
            "market_id", "session_date", "mic", "symbol", name=op.f("pk_eq_signals")
        ),
    )
    op.create_table(
        "eq_universes",
        sa.Column("market_id", sa.String(length=40), nullable=False),
        sa.Column("session_date", sa.Date(), nullable=False),
        sa.Column("mic", sa.String(length=10), nullable=False),
        sa.Column("symbol", sa.String(length=40), nullable=False),
        sa.Column("is_member", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False, comment="why it is in, or out"),
        sa.Column(
            "rank",
            sa.Integer(),
            nullable=True,
            comment="by traded value among the eligible, from 1",
        ),
        sa.Column(
            "adv60_usd", sa.Double(), nullable=True, comment="by round rates, for comparison only"
        ),
        sa.PrimaryKeyConstraint(
            "market_id", "session_date", "mic", "symbol", name=op.f("pk_eq_universes")
        ),
    )
    op.create_table(
        "eq_volatility",
        sa.Column("mic", sa.String(length=10), nullable=False),
        sa.Column("session_date", sa.Date(), nullable=False),
        sa.Column("symbol", sa.String(length=40), nullable=False),
        sa.Column(
            "close_to_close_21",
            sa.Double(),
            nullable=True,
            comment="all volatilities are per year (252 sessions)",
        ),
        sa.Column("close_to_close_63", sa.Double(), nullable=True),
        sa.Column("close_to_close_252", sa.Double(), nullable=True),
        sa.Column(
            "ewma",
            sa.Double(),
            nullable=True,
            comment="RiskMetrics, for the session after this one",
        ),
        sa.Column(
            "parkinson_63",
            sa.Double(),
            nullable=True,
            comment="intraday: without the overnight move",
        ),
        sa.Column(
            "garman_klass_63",
            sa.Double(),
            nullable=True,
            comment="intraday: without the overnight move",
        ),
        sa.Column("returns_used", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("mic", "session_date", "symbol", name=op.f("pk_eq_volatility")),
    )
    op.create_table(
        "eq_windows",
        sa.Column("mic", sa.String(length=10), nullable=False),
        sa.Column("session_date", sa.Date(), nullable=False),
        sa.Column("symbol", sa.String(length=40), nullable=False),
        sa.Column(
            "length", sa.Integer(), nullable=False, comment="sessions, the last one is session_date"
        ),
        sa.Column("channels", sa.Integer(), nullable=False, comment="features, then the mask"),
        sa.Column(
            "data",
            sa.LargeBinary(),
            nullable=False,
            comment="float32, little endian, row by session",
        ),
        sa.Column(
            "ewma",
            sa.Double(),
            nullable=True,
            comment="volatility per year that brings returns back to scale",
        ),
        sa.PrimaryKeyConstraint("mic", "session_date", "symbol", name=op.f("pk_eq_windows")),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=40), nullable=False, comment="what is led: beat"),
        sa.Column("owner", sa.String(length=300), nullable=False),
        sa.Column(
            "epoch", sa.Integer(), nullable=False, comment="grows with every change of owner"
        ),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column(
            "ticked_at", UtcDateTime(), nullable=True, comment="last complete tick of the owner"
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "market_clock",
        sa.Column("id", sa.Integer(), nullable=False, comment="always 1"),
        sa.Column(
            "anchor_market_at",
            UtcDateTime(),
            nullable=True,
            comment="null: market time is wall time",
        ),
        sa.Column("anchor_wall_at", UtcDateTime(), nullable=True),
        sa.Column(
            "speed", sa.Double(), nullable=False, comment="market seconds a wall second; 0 jumps"
        ),
        sa.Column(
            "first_session",
            sa.Date(),
            nullable=True,
            comment="a replay runs no session before this",
        ),
        sa.Column("last_session", sa.Date(), nullable=True, comment="nor after this"),
        sa.Column("markets", Json, nullable=True, comment="nor any other market"),
        sa.CheckConstraint(
            "(anchor_market_at IS NULL) = (anchor_wall_at IS NULL)",
            name=op.f("ck_market_clock_anchors"),
        ),
        sa.CheckConstraint("id = 1", name=op.f("ck_market_clock_single")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_market_clock")),
    )
    op.create_table(
        "pipelines",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("market_id", sa.String(length=40), nullable=False),
        sa.Column("first_seen_at", UtcDateTime(), nullable=False, comment="market time"),
        sa.PrimaryKeyConstraint("name", "market_id", name=op.f("pk_pipelines")),
    )
    op.create_table(
        "worker_incarnations",
        sa.Column(
            "incarnation",
            sa.String(length=36),
            nullable=False,
            comment="made when the process starts",
        ),
        sa.Column("worker", sa.String(length=200), nullable=False, comment="node name"),
        sa.Column("host", sa.String(length=200), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("queues", Json, nullable=False),
        sa.Column("started_at", UtcDateTime(), server_default=database_now(), nullable=False),
        sa.Column("renewed_at", UtcDateTime(), server_default=database_now(), nullable=False),
        sa.Column(
            "previous_renewed_at",
            UtcDateTime(),
            nullable=True,
            comment="the renewal before the last",
        ),
        sa.Column("expires_at", UtcDateTime(), nullable=False, comment="end of its lease"),
        sa.Column(
            "ended_at",
            UtcDateTime(),
            nullable=True,
            comment="it stopped by itself, or was given up",
        ),
        sa.PrimaryKeyConstraint("incarnation", name=op.f("pk_worker_incarnations")),
    )
    op.create_table(
        "job_executions",
        sa.Column(
            "execution_id", sa.String(length=36), nullable=False, comment="also Celery's task id"
        ),
        sa.Column("dag_id", sa.String(length=200), nullable=False),
        sa.Column("job_id", sa.String(length=200), nullable=False),
        sa.Column("job_type", sa.String(length=100), nullable=False),
        sa.Column("market_id", sa.String(length=40), nullable=False),
        sa.Column("as_of_date", sa.Date(), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("attempt_number", sa.Integer(), nullable=False, comment="1 for the first"),
        sa.Column("retries", sa.Integer(), nullable=False, comment="failures before this one"),
        sa.Column("lost", sa.Integer(), nullable=False, comment="workers lost before this one"),
        sa.Column("queue", sa.String(length=40), nullable=False),
        sa.Column(
            "priority", sa.Integer(), nullable=False, comment="1 CRITICAL, 2 STANDARD, 3 OPTIONAL"
        ),
        sa.Column("forced", sa.Boolean(), nullable=False, comment="its window does not count"),
        sa.Column("timeout_seconds", sa.Integer(), nullable=False, comment="soft limit"),
        sa.Column(
            "window_opens_at", UtcDateTime(), nullable=True, comment="market time, set by the claim"
        ),
        sa.Column(
            "window_closes_at",
            UtcDateTime(),
            nullable=True,
            comment="market time, set by the claim",
        ),
        sa.Column(
            "scheduled_at",
            UtcDateTime(),
            nullable=True,
            comment="when it may start: the claim, or after a delay",
        ),
        sa.Column("scheduled_market_at", UtcDateTime(), nullable=True),
        sa.Column(
            "published_at",
            UtcDateTime(),
            nullable=True,
            comment="last message sent; only information",
        ),
        sa.Column("publish_count", sa.Integer(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=True),
        sa.Column("started_market_at", UtcDateTime(), nullable=True),
        sa.Column(
            "named_at",
            UtcDateTime(),
            nullable=True,
            comment="its worker last said that it is running it",
        ),
        sa.Column(
            "hard_limit_at",
            UtcDateTime(),
            nullable=True,
            comment="when its worker must have ended it",
        ),
        sa.Column(
            "worker",
            sa.String(length=200),
            nullable=True,
            comment="node name of the worker that started it",
        ),
        sa.Column(
            "incarnation",
            sa.String(length=36),
            nullable=True,
            comment="worker process that started it",
        ),
        sa.Column(
            "retry_bound_seconds",
            sa.Integer(),
            nullable=True,
            comment="upper bound of the delay before this attempt",
        ),
        sa.Column(
            "retry_delay_seconds",
            sa.Integer(),
            nullable=True,
            comment="delay drawn between 0 and the bound",
        ),
        sa.Column("completed_at", UtcDateTime(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("error_details", Json, nullable=True),
        sa.Column("result", Json, nullable=True, comment="what the job returned"),
        sa.Column("created_at", UtcDateTime(), server_default=database_now(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), server_default=database_now(), nullable=False),
        sa.CheckConstraint(
            "(status IN ('SUCCESS', 'FAILED', 'SKIPPED', 'CANCELLED', 'EXPIRED')) = (completed_at IS NOT NULL)",
            name=op.f("ck_job_executions_completed"),
        ),
        sa.CheckConstraint(
            "status = 'PENDING' OR completed_at IS NOT NULL OR scheduled_at IS NOT NULL",
            name=op.f("ck_job_executions_scheduled"),
        ),
        sa.CheckConstraint(
            "status IN ('PENDING', 'QUEUED', 'RUNNING', 'SUCCESS', 'FAILED', 'SKIPPED', 'CANCELLED', 'EXPIRED')",
            name=op.f("ck_job_executions_status"),
        ),
        sa.CheckConstraint(
            "status NOT IN ('RUNNING', 'SUCCESS', 'FAILED') OR started_at IS NOT NULL",
            name=op.f("ck_job_executions_started"),
        ),
        sa.CheckConstraint("attempt_number >= 1", name=op.f("ck_job_executions_attempt_number")),
        sa.ForeignKeyConstraint(
            ["dag_id"],
            ["dag_runs.dag_id"],
            name=op.f("fk_job_executions_dag_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("execution_id", name=op.f("pk_job_executions")),
        sa.UniqueConstraint(
            "dag_id",
            "job_id",
            "attempt_number",
            name=op.f("uq_job_executions_dag_id_job_id_attempt_number"),
        ),
    )
    op.create_index(
        "ix_job_executions_completed_at", "job_executions", ["completed_at"], unique=False
    )
    op.create_index(
        "ix_job_executions_live",
        "job_executions",
        ["status", "market_id", "scheduled_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('QUEUED', 'RUNNING')"),
        sqlite_where=sa.text("status IN ('QUEUED', 'RUNNING')"),
    )
    op.create_index(
        "ix_job_executions_market_session",
        "job_executions",
        ["market_id", "as_of_date"],
        unique=False,
    )
    op.create_table(
        "failure_calls",
        sa.Column("execution_id", sa.String(length=36), nullable=False),
        sa.Column("called_at", UtcDateTime(), server_default=database_now(), nullable=False),
        sa.ForeignKeyConstraint(
            ["execution_id"],
            ["job_executions.execution_id"],
            name=op.f("fk_failure_calls_execution_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("execution_id", name=op.f("pk_failure_calls")),
        comment="final failures for which on_failure was called; a finished execution never changes",
    )
    op.execute("INSERT INTO market_clock (id, speed) VALUES (1, 1.0)")


def downgrade() -> None:
    """Drop them with all they hold."""
    op.drop_table("failure_calls")
    op.drop_index("ix_job_executions_market_session", table_name="job_executions")
    op.drop_index(
        "ix_job_executions_live",
        table_name="job_executions",
        postgresql_where=sa.text("status IN ('QUEUED', 'RUNNING')"),
        sqlite_where=sa.text("status IN ('QUEUED', 'RUNNING')"),
    )
    op.drop_index("ix_job_executions_completed_at", table_name="job_executions")
    op.drop_table("job_executions")
    op.drop_table("worker_incarnations")
    op.drop_table("pipelines")
    op.drop_table("market_clock")
    op.drop_table("leases")
    op.drop_table("eq_windows")
    op.drop_table("eq_volatility")
    op.drop_table("eq_universes")
    op.drop_table("eq_signals")
    op.drop_table("eq_returns")
    op.drop_index("ix_eq_quarantine_fetched_at", table_name="eq_quarantine")
    op.drop_table("eq_quarantine")
    op.drop_table("eq_profiles")
    op.drop_index("ix_eq_prices_symbol", table_name="eq_prices")
    op.drop_table("eq_prices")
    op.drop_table("eq_price_revisions")
    op.drop_table("eq_instruments")
    op.drop_table("eq_factors")
    op.drop_table("eq_books")
    op.drop_index(
        "ix_dag_runs_open",
        table_name="dag_runs",
        postgresql_where=sa.text("status = 'OPEN'"),
        sqlite_where=sa.text("status = 'OPEN'"),
    )
    op.drop_index("ix_dag_runs_market_session", table_name="dag_runs")
    op.drop_table("dag_runs")
    op.drop_table("audit")
