"""The store on both databases, new for each test."""

from __future__ import annotations

import pytest
import sqlalchemy

from tests.integration.persistence.world import World


@pytest.fixture
def world(engine: sqlalchemy.Engine) -> World:
    """A migrated database, on SQLite and on PostgreSQL in turn, and hands to act on it."""
    return World(engine)
