"""What happens to one attempt, told by whoever knows: its worker, or the scheduler."""

from __future__ import annotations

import logging
import math
import os
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from celery.utils.time import get_exponential_backoff_interval
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError

from prometheus.core.durations import format_duration
from prometheus.dispatch.limits import message_of
from prometheus.errors import PrometheusError
from prometheus.masking import safe_text
from prometheus.persistence import executions, logs
from prometheus.persistence.engine import (
    PATIENCE_SECONDS,
    each_alone,
    is_contended,
    is_unavailable,
    reading,
    writing,
)
from prometheus.persistence.executions import (
    HARD_LIMIT_GRACE,
    Attempt,
    Beside,
    Cancelled,
    Failed,
    FailedForGood,
    FailOutcome,
    Failure,
    Following,
    GaveUp,
    NotOurs,
    Polled,
    Refused,
    Retried,
    Started,
    Succeeded,
    Unsettled,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_MESSAGE = 2_000
"""Characters of an error's message that are kept."""
MAX_TRACEBACK = 20_000
"""Characters of a traceback that are kept; its end says most."""
START_WITHIN = 30.0
"""Wall seconds for which a start is tried again while the database is away."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Wall seconds before the second try of a write, doubled with each further one up to a bound."""


class FencedError(PrometheusError):
    """An attempt was taken from its worker while it ran; what it was writing is rolled back."""

    def __init__(self, execution_id: str) -> None:
        self.execution_id = execution_id
        super().__init__(
            f"attempt {execution_id} is no longer this worker's: it was cancelled, or its worker "
            f"was given up as lost. Nothing of this transaction was kept."
        )


class CutOffError(PrometheusError):
    """A worker ended a job because it could not renew its lease."""

    def __init__(self, lease: timedelta) -> None:
        super().__init__(
            f"worker cut off: it could not renew its lease of {format_duration(lease)} while "
            f"others had the database, and ended what it was running"
        )


class Outage:
    """A stretch of time without the database: told once, and tried ever more rarely."""

    def __init__(self) -> None:
        self._pause = 0.0
        self._told = False

    @property
    def lasts(self) -> bool:
        """Whether the last try failed."""
        return self._pause > 0

    def goes_on(self, error: DBAPIError) -> float:
        """Note a try that failed; return the seconds until the next."""
        if not (self._told or is_contended(error)):
            log.warning("database_unavailable", extra={"error": str(error.orig)})
            self._told = True
        self._pause = min(2 * self._pause or FIRST_PAUSE, LONGEST_PAUSE)
        return self._pause

    def is_over(self) -> None:
        """Note a try that succeeded."""
        if self._told:
            log.warning("database_back")
        self._pause = 0.0
        self._told = False


class Attempts:
    """The changes of state of single attempts, each in a transaction of its own."""

    def __init__(self, engine: Engine, *, max_lost: int, worker_lease: timedelta) -> None:
        """
        Args:
            engine: The database.
            max_lost: How often a job's worker may be lost before the job fails for good.
            worker_lease: How long a worker that says nothing keeps its attempts.
        """
        self._engine = engine
        self._max_lost = max_lost
        self._worker_lease = worker_lease

    def start(
        self,
        execution_id: str,
        *,
        worker: str,
        incarnation: str,
        within: float = START_WITHIN,
        like: str | None = None,
    ) -> Started | Refused:
        """
        Begin an attempt, at most once; see `prometheus.persistence.executions.try_start`.

        Tried again for a while when the database is away.
        """
        asked: dict[str, Any] = {
            "execution_id": execution_id,
            "worker": worker,
            "incarnation": incarnation,
            "pid": os.getpid(),
        }

        in_doubt = False

        def begin(connection: Connection, again: bool) -> Started | Refused | Unsettled:
            nonlocal in_doubt
            in_doubt = again
            return executions.try_start(connection, **asked, again=again, like=like)

        def settle(connection: Connection, again: bool) -> Started | Refused:
            return executions.start(connection, **asked, again=again or in_doubt)

        outcome = self._written(begin, within=within, begin=each_alone)
        if not isinstance(outcome, Unsettled):
            return outcome
        return self._written(settle, within=within)

    def succeed(
        self,
        execution_id: str,
        *,
        incarnation: str,
        result: Any,
        follow: Following | Beside | None = None,
    ) -> Succeeded | None:
        """
        Report success; tried again for as long as the database is away.

        What bounds it is the attempt's hard time limit, at which the process is killed.

        Args:
            follow: What starts with it, as `Scheduler.decide_after` says.

        Returns:
            ``None`` when the attempt is no longer this worker's to report.
        """

        def write(connection: Connection, again: bool) -> Succeeded | None:
            asked = {"incarnation": incarnation, "result": result}
            done: Succeeded | None = None
            match follow:
                case Following():
                    done = executions.succeed_and_claim(
                        connection, execution_id, **asked, following=follow
                    )
                case Beside():
                    done = executions.succeed_beside(
                        connection, execution_id, **asked, beside=follow
                    )
                case None:
                    dag_id = executions.succeed(connection, execution_id, **asked)
                    done = None if dag_id is None else Succeeded(dag_id)
            if done is None and again:
                dag_id = executions.succeeded(connection, execution_id, incarnation)
                if dag_id is not None and isinstance(follow, Following):
                    executions.forget_following(connection, follow)
                done = None if dag_id is None else Succeeded(dag_id)
            return done

        return self._written(write, within=math.inf, begin=each_alone)

    def poll(
        self, execution_id: str, *, incarnation: str, ready: bool, found: Mapping[str, Any]
    ) -> Polled | None:
        """Report a sensor's answer, as `succeed` reports success; see `executions.poll`."""

        def write(connection: Connection, again: bool) -> Polled | None:
            outcome = executions.poll(
                connection, execution_id, incarnation=incarnation, ready=ready, found=found
            )
            if outcome is None and again:
                outcome = executions.polled(connection, execution_id, incarnation)
            return outcome

        return self._written(write, within=math.inf)

    def fail(
        self,
        execution_id: str,
        failure: Failure,
        *,
        countdown: int | None = None,
        incarnation: str | None = None,
        pid: int | None = None,
        guard: Callable[[Connection], None] = lambda _: None,
        patient: bool = False,
    ) -> FailOutcome:
        """
        Report a failure, and write the next attempt in the same transaction if there is one.

        Args:
            failure: What happened.
            countdown: Delay that Celery drew; drawn here when no code of Celery could.
            incarnation: Only an attempt of this worker; ``None`` for the scheduler.
            pid: Only one that this process of its pool has begun; ``None``: whichever did.
            guard: Called first in the transaction; what it raises ends it.
            patient: Try again for as long as the database is away, as `succeed` does.
        """

        def draw(bound: int) -> int:
            if countdown is not None:
                return countdown
            delay: int = get_exponential_backoff_interval(bound, 0, bound, full_jitter=True)
            return delay

        def write(connection: Connection, again: bool) -> FailOutcome:
            guard(connection)
            outcome = executions.fail(
                connection,
                execution_id,
                failure,
                draw_delay=draw,
                max_lost=self._max_lost,
                incarnation=incarnation,
                pid=pid,
            )
            if again and incarnation is not None and isinstance(outcome, NotOurs):
                outcome = executions.failed(connection, execution_id, incarnation)
            return outcome

        outcome = self._written(write, within=math.inf if patient else 0)
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
            case GaveUp():
                log.error(
                    "sensor_gave_up",
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

    def hand_back(self, incarnation: str) -> None:
        """Give up what a worker that stops has not ended: its next attempts cost nothing."""
        with reading(self._engine) as connection:
            left = executions.running_on(connection, incarnation)
        failure = Failure("handed back: worker stopped", {"type": "stop"}, handed_back=True)
        for execution_id in left:
            try:
                self.fail(execution_id, failure, incarnation=incarnation)
            except (PrometheusError, DBAPIError) as error:
                # A run that can not be read, or a row that is held, keeps back no other.
                if is_unavailable(error) and not is_contended(error):
                    raise
                log.exception("not_handed_back", extra={"execution": execution_id})

    def results_of(self, attempt: Attempt, job_ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """
        Return what jobs of an attempt's run have returned; see `executions.results_of`.

        Waits while the database is away, as a job's transaction does.
        """

        def read(connection: Connection, _: bool) -> dict[str, dict[str, Any]]:
            return executions.results_of(connection, attempt.dag.dag_id, job_ids)

        return self._written(read, within=math.inf, begin=reading)

    def earlier_results(self, attempt: Attempt, most: int) -> list[dict[str, Any]]:
        """Return what the job returned in earlier sessions, likewise."""

        def read(connection: Connection, _: bool) -> list[dict[str, Any]]:
            return executions.earlier_results(connection, attempt, most)

        return self._written(read, within=math.inf, begin=reading)

    def keep_log(self, execution_id: str, part: int, text: str, end: str, *, last: bool) -> None:
        """
        Keep some lines that an attempt has written, and the newest of all; see `attempt_log.Keep`.

        Raises:
            SQLAlchemyError: They were not kept. It is tried once, for as long as one transaction
                waits for the database; the last ones until it is back, as what follows them is.
        """

        def write(connection: Connection, _: bool) -> None:
            if text:
                logs.append(connection, execution_id, part, text)
            if end:
                logs.replace_end(connection, execution_id, end)

        self._written(write, within=math.inf if last else 0)

    def cancel_asked(self, execution_id: str, incarnation: str) -> bool:
        """Say whether a running attempt should end; see `executions.cancel_asked`."""
        try:
            with reading(self._engine) as connection:
                return executions.cancel_asked(connection, execution_id, incarnation)
        except DBAPIError as error:  # a job that only asks must not fail of it
            log.warning("database_unavailable", extra={"error": str(error.orig)})
            return False

    def end_cancelled(self, guard: Callable[[Connection], None]) -> None:
        """
        End the attempts that were asked to end and have not done so in time.

        Args:
            guard: Called first in the transaction; what it raises ends it.
        """
        with writing(self._engine) as connection:
            guard(connection)
            late = executions.end_cancelled(connection)
        for execution_id in late:
            log.warning("cancelled_by_force", extra={"execution": execution_id})

    def take_failure(self, execution_id: str) -> Failed | None:
        """Take the call of ``on_failure`` for a final failure; nobody gets it twice."""
        with writing(self._engine) as connection:
            return executions.take_failure(connection, execution_id)

    def mark_published(self, execution_id: str) -> None:
        """Note that a message for the attempt was sent."""
        with each_alone(self._engine) as connection:
            executions.mark_published(connection, [execution_id])

    @contextmanager
    def transaction(self, execution_id: str, incarnation: str | None) -> Iterator[Connection]:
        """
        Open a transaction for a job, which commits only while the attempt is its worker's.

        Opening it waits while the database is away; what fails later is the job's to handle.

        Args:
            incarnation: The worker process; ``None`` for an attempt that has ended, whose
                ``on_failure`` may write all the same.

        Raises:
            FencedError: At the end of the block, when it is not; everything is rolled back.
        """
        with ExitStack() as stack:
            connection = self._begin(stack)
            yield connection
            if incarnation is None:
                return
            # From here on it holds the row, for which its worker's renewal waits.
            _be_patient(connection, timedelta(seconds=PATIENCE_SECONDS))
            if executions.fenced(connection, execution_id, incarnation):
                raise FencedError(execution_id)

    def _begin(self, stack: ExitStack) -> Connection:
        """Begin a job's transaction; waits while the database is away."""
        outage = Outage()
        while True:
            try:
                with ExitStack() as begun:
                    connection = begun.enter_context(writing(self._engine))
                    # A job may think for longer than our own code does, but one that is frozen
                    # must not hold locks that the attempt after it needs.
                    _be_patient(connection, self._worker_lease)
                    stack.enter_context(begun.pop_all())
            except DBAPIError as error:
                if not is_unavailable(error):
                    raise
                time.sleep(outage.goes_on(error))
            else:
                outage.is_over()
                return connection

    def _written(
        self,
        write: Callable[[Connection, bool], T],
        *,
        within: float,
        begin: Callable[[Engine], AbstractContextManager[Connection]] | None = None,
    ) -> T:
        """
        Write in a transaction of its own, again and again while the database is away.

        Args:
            write: Told whether an earlier try may have been committed: when the answer to a COMMIT,
                or to what is committed by itself, is lost, nobody knows.
            within: Wall seconds after which the error is raised.
            begin: Begins it; by default `writing`.
        """
        deadline = time.monotonic() + within
        outage = Outage()
        while True:
            try:
                with (begin or writing)(self._engine) as connection:
                    written = write(connection, outage.lasts)
            except DBAPIError as error:
                if not is_unavailable(error) or time.monotonic() >= deadline:
                    raise
                time.sleep(outage.goes_on(error))
            else:
                outage.is_over()
                return written


def _be_patient(connection: Connection, limit: timedelta) -> None:
    """Let a transaction stand still, and wait for locks, for so long; on PostgreSQL, which asks."""
    if connection.dialect.name == "postgresql":
        names = ("idle_in_transaction_session_timeout", "lock_timeout")
        value = f"{limit / timedelta(milliseconds=1):.0f}ms"
        connection.execute(select(*(func.set_config(name, value, True) for name in names)))


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
        grace = HARD_LIMIT_GRACE.total_seconds()
        text = f"{grace:g} s of its time limit, {error.args[0] - grace:g} s: killed"
        return Failure(f"did not end within {text}", details)
    if isinstance(error, CutOffError):
        return Failure(str(error), details, lost=True)
    if isinstance(error, WorkerLostError):
        return Failure(f"its process ended: {storable(str(error))}", details)
    whole = message_of(error)
    text = storable(whole[: 2 * MAX_MESSAGE])  # before the cut, which could halve a password's URL
    if len(text) > MAX_MESSAGE:
        text = f"{text[:MAX_MESSAGE]}... ({len(whole)} characters)"
    failure = Failure(f"{type(error).__qualname__}: {text or 'no message'}", details)
    if not isinstance(error, PrometheusError):
        return failure
    at = error.not_before
    # One without a zone means nothing, and an attempt must end whatever its error has.
    known = isinstance(at, datetime) and at.utcoffset() is not None
    return replace(failure, final=not error.retryable, not_before=at if known else None)


def storable(text: str) -> str:
    """
    Make a text fit to be kept and shown.

    What no database takes, NUL and half a surrogate pair, becomes escapes; passwords in URLs
    become ``***``.
    """
    text = text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
    return safe_text(text)
