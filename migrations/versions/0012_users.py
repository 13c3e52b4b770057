"""
Keep users, tokens and sign-ins of the web API.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

from prometheus.persistence.metadata import UtcDateTime, database_now

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_ROLE = "role IN ('viewer', 'operator', 'admin')"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "users",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=10), nullable=False),
        sa.Column(
            "password_hash", sa.Text(), nullable=False, comment="argon2id, with its parameters"
        ),
        sa.Column("created_at", UtcDateTime(), server_default=database_now(), nullable=False),
        sa.Column("password_set_at", UtcDateTime(), server_default=database_now(), nullable=False),
        sa.CheckConstraint(_ROLE, name=op.f("ck_users_role")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_users")),
        comment="who may sign in to the web API",
    )
    op.create_table(
        "api_tokens",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=10), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False, comment="SHA-256"),
        sa.Column("created_at", UtcDateTime(), server_default=database_now(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint(_ROLE, name=op.f("ck_api_tokens_role")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_api_tokens_token_hash")),
        comment="what programs show the web API; one that is revoked is removed",
    )
    op.create_table(
        "sign_ins",
        sa.Column(
            "secret_hash",
            sa.String(length=64),
            nullable=False,
            comment="SHA-256 of what the cookie has",
        ),
        sa.Column("user_name", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=database_now(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_name"],
            ["users.name"],
            name=op.f("fk_sign_ins_user_name"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("secret_hash", name=op.f("pk_sign_ins")),
        comment="browsers in which users are signed in",
    )
    op.create_index(op.f("ix_sign_ins_user_name"), "sign_ins", ["user_name"], unique=False)


def downgrade() -> None:
    """Drop them: users and tokens are gone, and whoever is on the machine is answered."""
    op.drop_index(op.f("ix_sign_ins_user_name"), "sign_ins")
    op.drop_table("sign_ins")
    op.drop_table("api_tokens")
    op.drop_table("users")
