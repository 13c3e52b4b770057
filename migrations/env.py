"""Alembic's entry point: runs the revisions on the engine that `prometheus.persistence` made."""

from alembic import context

import prometheus.persistence.tables
import prometheus.pipelines.equities.tables  # noqa: F401  adds its tables to the metadata
from prometheus.persistence.engine import writing
from prometheus.persistence.metadata import metadata

with writing(context.config.attributes["engine"]) as connection:
    if connection.dialect.name == "postgresql":
        # A migration may wait for as long as the tables are in use, and work between statements.
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    context.run_migrations()
