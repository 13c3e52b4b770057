"""Databases with the equity tables."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from prometheus.persistence.engine import create_engine
from tests.integration.pipelines.runs import create_tables


@pytest.fixture
def equity_engine(empty_database_url: str) -> Iterator[Engine]:
    """An engine on a new database with empty equity tables; on SQLite, then on PostgreSQL."""
    engine = create_engine(empty_database_url)
    create_tables(engine)
    yield engine
    engine.dispose()
