"""The store on both databases, new for each test."""

from __future__ import annotations

from tests.integration.persistence.conftest import world

__all__ = ["world"]
