"""What happens to one attempt, told by whoever knows: its worker, or the scheduler."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from celery.utils.time import get_exponential_backoff_interval
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
)

from prometheus.errors import PrometheusError
from prometheus.masking import safe_text
from prometheus.persistence import executions
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.executions import (
    Cancelled,
    Failed,
    FailedForGood,
    FailOutcome,
    Failure,
    NotOurs,
    Refused,
    Retried,
    Started,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_MESSAGE = 2_000
"""Characters of an error's message that are kept."""
MAX_TRACEBACK = 20_000
"""Characters of a traceback that are kept; its end says most."""
RETRY_WRITE_EVERY = 1.0
"""Wall seconds between two tries to write a result while the database is away."""


class FencedError(PrometheusError):
    """An attempt was taken from its worker while it ran; what it was writing is rolled back."""

    def __init__(self, execution_id: str) -> None:
        self.execution_id = execution_id
        super().__init__(
            f"attempt {execution_id} is no longer this worker's: it was cancelled, or its worker "
            f"was given up as lost. Nothing of this transaction was kept."
        )


class Attempts:
    """The changes of state of single attempts, each in a transaction of its own."""

    def __init__(self, engine: Engine, *, max_lost: int, write_for: timedelta) -> None:
        """
        Args:
            engine: The database.
            max_lost: How often a job's worker may be lost before the job fails for good.
            write_for: How long to go on trying to write a result while the database is away:
                a worker's lease, after which somebody else has decided.
        """
        self._engine = engine
        self._max_lost = max_lost
        self._write_for = write_for.total_seconds()

    def start(self, execution_id: str, *, worker: str, incarnation: str) -> Started | Refused:
        """Begin an attempt, at most once; see `prometheus.persistence.executions.start`."""
        with writing(self._engine) as connection:
            return executions.start(
                connection, execution_id, worker=worker, incarnation=incarnation
            )

    def succeed(self, execution_id: str, *, incarnation: str, result: Any) -> str | None:
        """
        Report success; tried again while the database is away.

        Returns:
            The dag id; ``None`` when the attempt is no longer this worker's to report.
        """

        def write(connection: Connection) -> str | None:
            return executions.succeed(
                connection, execution_id, incarnation=incarnation, result=result
            )

        return self._written(write)

    def fail(
        self,
        execution_id: str,
        failure: Failure,
        *,
        countdown: int | None = None,
        incarnation: str | None = None,
        guard: Callable[[Connection], None] = lambda _: None,
    ) -> FailOutcome:
        """
        Report a failure, and write the next attempt in the same transaction if there is one.

        Args:
            failure: What happened.
            countdown: Delay that Celery drew; drawn here when no code of Celery could.
            incarnation: Only an attempt of this worker; ``None`` for the scheduler.
            guard: Called first in the transaction; what it raises ends it.
        """

        def draw(bound: int) -> int:
            if countdown is not None:
                return countdown
            delay: int = get_exponential_backoff_interval(bound, 0, bound, full_jitter=True)
            return delay

        def write(connection: Connection) -> FailOutcome:
            guard(connection)
            return executions.fail(
                connection,
                execution_id,
                failure,
                draw_delay=draw,
                max_lost=self._max_lost,
                incarnation=incarnation,
            )

        outcome = self._written(write)
        match outcome:
            case Retried():
                log.warning(
                    "attempt_failed",
                    extra={
                        "execution": execution_id,
                        "dag": outcome.dag_id,
                        "error": failure.message,
                        "next": outcome.successor_id,
                        "countdown": outcome.countdown,
                    },
                )
            case FailedForGood():
                log.error(
                    "job_failed",
                    extra={
                        "execution": execution_id,
                        "dag": outcome.dag_id,
                        "error": outcome.message,
                    },
                )
            case Cancelled():
                log.info(
                    "attempt_cancelled",
                    extra={
                        "execution": execution_id,
                        "dag": outcome.dag_id,
                        "error": failure.message,
                    },
                )
            case NotOurs():
                log.info("report_came_late", extra={"execution": execution_id})
        return outcome

    def cancel_asked(self, execution_id: str, incarnation: str) -> bool:
        """Say whether a running attempt should end; see `executions.cancel_asked`."""
        try:
            with reading(self._engine) as connection:
                return executions.cancel_asked(connection, execution_id, incarnation)
        except DBAPIError as error:  # a job that only asks must not fail of it
            log.warning("database_unavailable", extra={"error": str(error.orig)})
            return False

    def end_cancelled(self) -> None:
        """End the attempts that were asked to end and have not done so in time."""
        with writing(self._engine) as connection:
            late = executions.end_cancelled(connection)
        for execution_id in late:
            log.warning("cancelled_by_force", extra={"execution": execution_id})

    def take_failure(self, execution_id: str) -> Failed | None:
        """Take the call of ``on_failure`` for a final failure; nobody gets it twice."""
        with writing(self._engine) as connection:
            return executions.take_failure(connection, execution_id)

    def mark_published(self, execution_id: str) -> None:
        """Note that a message for the attempt was sent."""
        with writing(self._engine) as connection:
            executions.mark_published(connection, [execution_id])

    @contextmanager
    def transaction(self, execution_id: str, incarnation: str | None) -> Iterator[Connection]:
        """
        Open a transaction for a job, which commits only while the attempt is its worker's.

        Args:
            incarnation: The worker process; ``None`` for an attempt that has ended, whose
                ``on_failure`` may write all the same.

        Raises:
            FencedError: At the end of the block, when it is not; everything is rolled back.
        """
        with writing(self._engine) as connection:
            yield connection
            if incarnation is not None and executions.fenced(connection, execution_id, incarnation):
                raise FencedError(execution_id)

    def _written(self, write: Callable[[Connection], T]) -> T:
        deadline = time.monotonic() + self._write_for
        while True:
            try:
                with writing(self._engine) as connection:
                    return write(connection)
            except (DataError, IntegrityError, NotSupportedError, ProgrammingError):
                raise  # the statement's own fault, which no waiting mends
            except DBAPIError as error:
                if time.monotonic() >= deadline:
                    raise
                log.warning("database_unavailable", extra={"error": str(error.orig)})
                time.sleep(RETRY_WRITE_EVERY)


def failure_of(
    error: BaseException | None, *, limit: timedelta | None = None, trace: str | None = None
) -> Failure:
    """
    Describe an error as it is kept with an attempt.

    Args:
        error: What the job raised, or what Celery says of its end.
        limit: The attempt's soft time limit, which the error itself does not know.
        trace: Its traceback, if the error carries none.
    """
    if error is None:
        return Failure("failed without an error", {"type": "unknown"})
    if trace is None and error.__traceback__ is not None:
        trace = "".join(traceback.format_exception(error))
    details: dict[str, Any] = {"type": type(error).__qualname__}
    if trace:
        details["traceback"] = storable(trace[-2 * MAX_TRACEBACK :])[-MAX_TRACEBACK:]
    if isinstance(error, SoftTimeLimitExceeded) and limit is not None:
        return Failure(f"timed out after {limit.total_seconds():g} s", details)
    if isinstance(error, TimeLimitExceeded):
        return Failure(f"timed out after {error.args[0]:g} s (hard limit)", details)
    if isinstance(error, WorkerLostError):
        return Failure(f"its process ended: {storable(str(error))}", details)
    whole = str(error)
    text = storable(whole[: 2 * MAX_MESSAGE])  # before the cut, which could halve a password's URL
    if len(text) > MAX_MESSAGE:
        text = f"{text[:MAX_MESSAGE]}... ({len(whole)} characters)"
    return Failure(f"{type(error).__qualname__}: {text or 'no message'}", details)


def storable(text: str) -> str:
    """
    Make a text fit to be kept and shown.

    What no database takes, NUL and half a surrogate pair, becomes escapes; passwords in URLs
    become ``***``.
    """
    text = text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
    return safe_text(text)
