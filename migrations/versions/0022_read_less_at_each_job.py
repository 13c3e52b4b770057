"""
Have PostgreSQL read less at each job: what is queued of a run from its end, states by short texts.

Revision ID: 0022
Revises: 0021
"""

from collections.abc import Callable

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_TABLE = "job_executions"
_QUEUED = "ix_job_executions_queued"
_CHECKS = (
    ("status", "{among}", "PENDING QUEUED RUNNING SUCCESS FAILED SKIPPED CANCELLED EXPIRED"),
    (
        "completed",
        "({among}) = (completed_at IS NOT NULL)",
        "SUCCESS FAILED SKIPPED CANCELLED EXPIRED",
    ),
    ("started", "{not_among} OR started_at IS NOT NULL", "RUNNING SUCCESS FAILED"),
)
"""Name, condition, and the states of which the status is one, or none."""


def upgrade() -> None:
    """Replace the index by one in the order in which messages are sent, and three checks."""
    _replace_index(["dag_id", "priority", "job_id"], "coalesce(status, '') = 'QUEUED'")
    _replace_checks(
        "status = ANY {}", "status <> ALL {}", lambda s: f"('{{{','.join(s)}}}'::text[])"
    )


def downgrade() -> None:
    """Have the index and checks of before; a job's start and end cost PostgreSQL more."""
    _replace_index(["dag_id"], "status = 'QUEUED'")
    _replace_checks("status IN {}", "status NOT IN {}", lambda s: f"({', '.join(map(repr, s))})")


def _replace_index(columns: list[str], queued: str) -> None:
    op.drop_index(_QUEUED, table_name=_TABLE)
    where = sa.text(queued)
    op.create_index(_QUEUED, _TABLE, columns, postgresql_where=where, sqlite_where=where)


def _replace_checks(among: str, not_among: str, write: Callable[[list[str]], str]) -> None:
    if op.get_bind().dialect.name != "postgresql":
        return  # SQLite has no shorter way, and would have to write the table anew
    changes = []
    for name, condition, states in _CHECKS:
        whole, written = f"ck_{_TABLE}_{name}", write(states.split())
        check = condition.format(among=among.format(written), not_among=not_among.format(written))
        changes += [f"DROP CONSTRAINT {whole}", f"ADD CONSTRAINT {whole} CHECK ({check})"]
    # In one statement, which reads the table once; nothing is written without them.
    op.execute(f"ALTER TABLE {_TABLE} {', '.join(changes)}")
