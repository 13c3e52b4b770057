"""Alembic's entry point: runs the revisions on the engine that `prometheus.persistence` made."""

from alembic import context

import prometheus.persistence.tables
import prometheus.pipelines.equities.tables  # noqa: F401  adds its tables to the metadata
from prometheus.persistence.engine import writing
from prometheus.persistence.metadata import metadata

with writing(context.config.attributes["engine"]) as connection:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    context.run_migrations()
