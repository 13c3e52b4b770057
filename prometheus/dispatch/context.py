"""What a job is told about itself, and the few things it is handed to work with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from sqlalchemy import Connection

from prometheus.core.sessions import Session
from prometheus.sources.protocol import Sources


@dataclass(frozen=True, kw_only=True)
class JobContext:
    """The one argument of every job function."""

    market_id: str
    session: Session
    """The market's session the run is for: date, open, close, early close."""
    previous_session: Session | None
    """The market's session before it; ``None`` where the calendar knows none."""
    pipeline: str
    dag_id: str
    job_id: str
    attempt_number: int
    """1 for the first attempt."""
    execution_id: str
    """Unique to this attempt: use it as the idempotency key towards other systems."""
    begin: Callable[[], AbstractContextManager[Connection]]
    """Opens a database transaction; jobs call `transaction`."""
    sources: Sources
    """Where prices and factors come from, by market."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("prometheus.job"))

    @property
    def session_date(self) -> date:
        """The date the run is for."""
        return self.session.date

    def transaction(self) -> AbstractContextManager[Connection]:
        """
        Open a transaction in Prometheus' own database.

        Committed when the block ends, unless this attempt has meanwhile been taken from its worker
        (lease lost, cancelled): then everything in the block is rolled back and `FencedError` is
        raised. Keep it short: on SQLite it holds the only write lock.
        """
        return self.begin()
