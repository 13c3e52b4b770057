"""What a job is told about itself, and the few things it is handed to work with."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from sqlalchemy import Connection

from prometheus.core.sessions import Session
from prometheus.orchestration.sensor import Readiness
from prometheus.sources.protocol import Sources

LOOK_EVERY_SECONDS = 1.0
"""How often, at most, the database is asked whether a job should end."""


class AskedToEnd:
    """Remembers the answer for a while, and a yes for good."""

    def __init__(self, ask: Callable[[], bool]) -> None:
        self._ask = ask
        self._answer = False
        self._look_at = 0.0

    def __call__(self) -> bool:
        """Return the answer as it was at most a second ago."""
        now = time.monotonic()
        if not self._answer and now >= self._look_at:
            self._answer = self._ask()
            self._look_at = now + LOOK_EVERY_SECONDS
        return self._answer


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
    asked_to_end: Callable[[], bool] = lambda: False
    """Answers `cancelled`."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    readiness: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """
    What the sensors upstream have found, by name: ``state`` is READY, with ``late`` where it was
    expected earlier, or MISSING, with ``stale`` or ``source``, where one gave up and the work goes
    on all the same.
    """
    last_poll: Mapping[str, Any] | None = None
    """Of a sensor: what its poll before this one has found; ``None`` for the first."""
    earlier: Sequence[Mapping[str, Any]] = ()
    """Of a sensor: what it found in up to 20 earlier sessions, the latest first."""
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("prometheus.job"))

    @property
    def session_date(self) -> date:
        """The date the run is for."""
        return self.session.date

    @property
    def stale(self) -> bool:
        """Whether a sensor upstream gave up, and this works on what there was before."""
        return any(
            found["state"] == Readiness.MISSING and found["stale"]
            for found in self.readiness.values()
        )

    @property
    def cancelled(self) -> bool:
        """
        Whether this attempt should end now: an operator cancelled it, or it was given up.

        A long job looks at it now and then, and returns or raises when it is true: whichever it
        does, the attempt ends CANCELLED. One that does not look is killed when the operator's grace
        is over. Looking costs one small read of the database a second, however often it is done.
        """
        return self.asked_to_end()

    def transaction(self) -> AbstractContextManager[Connection]:
        """
        Open a transaction in Prometheus' own database.

        Committed when the block ends, unless this attempt has meanwhile been taken from its worker
        (lease lost, cancelled): then everything in the block is rolled back and `FencedError` is
        raised. Keep it short: on SQLite it holds the only write lock.
        """
        return self.begin()
