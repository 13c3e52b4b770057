"""Jobs as Celery tasks: one registered task a job, whose argument is the execution id."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import WeakSet

from celery import Celery, Task
from celery.exceptions import Ignore, Retry
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from prometheus.core.markets import get_market
from prometheus.core.sessions import Session
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.attempt_log import AttemptLog
from prometheus.dispatch.attempts import START_WITHIN, Attempts, failure_of
from prometheus.dispatch.context import AskedToEnd, JobContext
from prometheus.dispatch.limits import limited, unlimited
from prometheus.dispatch.publisher import ON_FAILURE, task_name
from prometheus.errors import HorizonError, PrometheusError
from prometheus.memory import memory_given_back
from prometheus.orchestration.dag import DAG
from prometheus.orchestration.pipeline import JobDefinition, Pipeline
from prometheus.orchestration.sensor import Readiness
from prometheus.persistence.engine import first_line, is_unavailable
from prometheus.persistence.executions import (
    Attempt,
    Beside,
    Cancelled,
    FailedForGood,
    Following,
    GaveUp,
    Refused,
    Retried,
    Succeeded,
)
from prometheus.sources.protocol import Sources

log = logging.getLogger(__name__)

EARLIER = 20
"""Sessions whose answers a sensor is told."""
MAX_RESULT = 65_536
"""Bytes of JSON that a job may return; more belongs in the job's own store."""
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""A NUL in JSON, not a text that speaks of one."""


class JobFailedError(PrometheusError):
    """What Celery is told of a job's error: the message that was kept, whatever the error is."""


class JobResultError(PrometheusError):
    """A job returned something that can not be kept with its attempt."""


@dataclass(kw_only=True)
class Workplace:
    """What every task of a worker process shares; the process fills it in when it starts."""

    attempts: Attempts
    advance: Callable[[str], object]
    """Decides again for one run: `prometheus.dispatch.scheduler.Scheduler.advance`."""
    decide_after: Callable[[Attempt], Following | Beside | None]
    """Decides what starts with a job's success: likewise, `Scheduler.decide_after`."""
    advance_after: Callable[[DAG, str, Succeeded], object]
    """Starts what waited for a job: likewise, `Scheduler.advance_after`."""
    sources: Callable[[], Sources]
    """Made on first use: a process that runs no job reads no prices."""
    incarnation: Callable[[], str]
    """Identity of the worker process, which its pool's children share; it may change."""
    memory: int | None
    """Bytes that a process may use while it runs a job."""
    running: dict[str, Attempt] = field(default_factory=dict)
    """Attempts that this process is running, by execution id."""

    def advance_quietly(self, dag_id: str, decide: Callable[[], object] | None = None) -> None:
        """
        Decide again for a run; what goes wrong is left to the next tick.

        Args:
            decide: Does it; by default for the whole of the run.
        """
        try:
            decide() if decide is not None else self.advance(dag_id)
        except Exception as error:  # what has been reported stays so
            if is_unavailable(error):
                log.warning("not_advanced", extra={"dag": dag_id, "error": first_line(error)})
            else:
                log.exception("not_advanced", extra={"dag": dag_id})

    @contextmanager
    def context(self, attempt: Attempt) -> Iterator[JobContext]:
        """
        Give what a job is told about itself, and hold the job to its limits.

        Transactions that it leaves open are rolled back.
        """
        session, previous = _sessions(attempt.dag)
        opened: WeakSet[Generator[Connection]] = WeakSet()

        def begin() -> AbstractContextManager[Connection]:
            transaction = self.attempts.transaction(attempt.execution_id, attempt.incarnation)
            opened.add(transaction.gen)
            return transaction

        def ask() -> bool:
            by = attempt.incarnation
            return by is not None and self.attempts.cancel_asked(attempt.execution_id, by)

        dag, job = attempt.dag, attempt.job
        sensors = dag.sensors and dag.sensors.intersection(dag.get_dependency_chain(job.job_id))
        readiness = self.attempts.results_of(attempt, sensors) if sensors else {}
        last_poll = readiness.pop(job.job_id, None)
        sources = self.sources()
        for name, found in sorted(readiness.items()):
            rule = dag.jobs[name].sensor
            if found["state"] == Readiness.MISSING and rule is not None and rule.source is not None:
                sources = sources.instead(dag.market_id, rule.source)
        context = JobContext(
            market_id=attempt.dag.market_id,
            session=session,
            previous_session=previous,
            pipeline=attempt.dag.pipeline,
            dag_id=attempt.dag.dag_id,
            job_id=attempt.job.job_id,
            attempt_number=attempt.attempt_number,
            execution_id=attempt.execution_id,
            begin=begin,
            asked_to_end=AskedToEnd(ask),
            sources=sources,
            last_poll=last_poll,
            earlier=self.attempts.earlier_results(attempt, EARLIER) if job.sensor else (),
            readiness=readiness,
            parameters=attempt.parameters,
            logger=logging.getLogger(f"prometheus.job.{attempt.dag.pipeline}.{attempt.job.job_id}"),
        )
        written = AttemptLog(partial(self.attempts.keep_log, attempt.execution_id))
        left = ExitStack()
        left.enter_context(memory_given_back())
        # Late, because on SQLite a transaction that the job left open would keep it out.
        left.callback(written.close)
        try:
            with limited(self.memory, written.write):
                yield context
        finally:
            with unlimited(), left:
                for transaction in opened:
                    left.callback(transaction.close)


class JobTask(Task):
    """
    A job's Celery task.

    Celery's own autoretry decides when and whether to try again; the rows are written first.
    """

    abstract = True
    acks_late = False
    ignore_result = True
    autoretry_for = (Exception,)
    retry_jitter = True

    workplace: Workplace
    definition: JobDefinition

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        """Start the attempt in the database, or drop the message: it may be a second one."""
        place = self.workplace
        try:
            outcome = place.attempts.start(
                task_id,
                worker=self.request.hostname,
                incarnation=place.incarnation(),
                # Celery counts the waiting to the job's time.
                within=min(START_WITHIN, (self.request.timelimit[1] or 3600) / 10),
                like=self._kind(),
            )
        except SQLAlchemyError as error:
            # The row is still QUEUED: the reconciler sends another message.
            log.warning("start_not_written", extra={"execution": task_id, "error": str(error)})
            raise Ignore from None
        if isinstance(outcome, Refused):
            log.info("start_refused", extra={"execution": task_id, "reason": outcome.reason})
            if outcome.expired is not None:
                place.advance_quietly(outcome.expired)
            raise Ignore
        place.running[task_id] = outcome.attempt
        log.info("attempt_started", extra=_facts(outcome.attempt))

    def _kind(self) -> str:
        """Say what this message has in common with others: its pipeline and market."""
        delivered = self.request.delivery_info or {}
        return f"{self.name.removesuffix(self.definition.name)}{delivered.get('routing_key')}"

    def run(self, execution_id: str) -> Any:  # noqa: ARG002  it is also Celery's task id
        """Run the job's function, within its limits, and check what it returns."""
        attempt = self.workplace.running[self.request.id]
        process = os.getpid()
        with self.workplace.context(attempt) as context:
            try:
                result = self.definition.resolve()(context)
                return self._checked(self._answer(result) if attempt.job.sensor else result)
            finally:
                if os.getpid() != process:
                    os._exit(0)  # the job forked: a second one of us would report and take jobs

    def _answer(self, result: Any) -> dict[str, Any]:
        answer = {"ready": result} if isinstance(result, bool) else result
        if not isinstance(answer, dict) or not isinstance(answer.get("ready"), bool):
            raise JobResultError(
                f"the sensor {self.name} returned {type(result).__name__}; return True or False, "
                f"or a dict with 'ready' and what else is to be kept"
            )
        return answer

    def _checked(self, result: Any) -> Any:
        try:
            # As text, because what no database takes must be refused here too.
            text = json.dumps(result, allow_nan=False, ensure_ascii=False)
            size = len(text.encode())
            if _NUL.search(text):
                raise ValueError("it holds a NUL character")
        except (TypeError, ValueError) as error:
            raise JobResultError(
                f"{self.name} returned {type(result).__name__}, which is not JSON ({error}); "
                f"return numbers, texts, lists and dicts of these, or nothing"
            ) from error
        if size > MAX_RESULT:
            raise JobResultError(
                f"{self.name} returned {size} bytes; at most {MAX_RESULT} are kept with an "
                f"attempt, so put the data in a store of its own and return where it is"
            )
        return result

    def retry(  # the signature is Celery's
        self,
        args: Any = None,  # noqa: ARG002
        kwargs: Any = None,  # noqa: ARG002
        exc: BaseException | None = None,
        throw: bool = True,
        eta: Any = None,  # noqa: ARG002
        countdown: float | None = None,
        max_retries: int | None = None,  # noqa: ARG002
        **options: Any,
    ) -> Any:
        """Write this attempt's failure and its successor, then send the successor's message."""
        place = self.workplace
        attempt = place.running[self.request.id]
        with unlimited():
            failure = failure_of(exc, limit=attempt.job.timeout)
            outcome = place.attempts.fail(
                self.request.id,
                failure,
                countdown=None if countdown is None else int(countdown),
                incarnation=attempt.incarnation,
                patient=True,
            )
        del place.running[self.request.id]
        # The error itself may be of any size, and may be none that can be sent to the main process.
        told = JobFailedError(failure.message)
        if not isinstance(outcome, Retried):
            if isinstance(outcome, (FailedForGood, GaveUp, Cancelled)):
                place.advance_quietly(outcome.dag_id)
            raise told.with_traceback(exc.__traceback__ if exc else None) from None
        if failure.not_before is not None:
            # Perhaps hours from now, and the broker gives a message to another worker when it has
            # waited too long. The scheduler sends it when it is due.
            raise Retry(exc=told, when=outcome.countdown)
        try:
            super().retry(
                args=(outcome.successor_id,),
                kwargs={},
                exc=told,
                countdown=outcome.countdown,
                task_id=outcome.successor_id,
                retry=False,
                **options,
            )
        except Retry as sent:
            place.attempts.mark_published(outcome.successor_id)
            if throw:
                raise
            return sent

    def finished(self, execution_id: str, result: Any) -> None:
        """Report success and start what waited for it."""
        place = self.workplace
        attempt = place.running.pop(execution_id)
        with unlimited():
            if attempt.job.sensor is not None:
                self._polled(attempt, result)
                return
            done = place.attempts.succeed(
                execution_id,
                incarnation=str(attempt.incarnation),
                result=result,
                follow=place.decide_after(attempt),
            )
            if done is None:
                log.warning("success_came_late", extra=_facts(attempt))
                return
            follow = partial(place.advance_after, attempt.dag, attempt.job.job_id, done)
            place.advance_quietly(done.dag_id, follow)
            log.info("attempt_returned", extra=_facts(attempt))  # what follows does not wait for it

    def _polled(self, attempt: Attempt, result: dict[str, Any]) -> None:
        """Report a sensor's answer, and start what waited for its last one."""
        place = self.workplace
        outcome = place.attempts.poll(
            attempt.execution_id,
            incarnation=str(attempt.incarnation),
            ready=result["ready"],
            found={key: value for key, value in result.items() if key != "ready"},
        )
        if outcome is None:
            log.warning("success_came_late", extra=_facts(attempt))
            return
        if outcome.state is Readiness.MISSING:
            log.error("sensor_gave_up", extra={**_facts(attempt), "error": outcome.detail})
        else:
            level = logging.WARNING if outcome.state is Readiness.LATE else logging.INFO
            facts = {**_facts(attempt), "state": outcome.state, "detail": outcome.detail}
            log.log(level, "sensor_polled", extra=facts)
        if outcome.state not in (Readiness.NOT_YET, Readiness.LATE):
            place.advance_quietly(outcome.dag_id)

    def failed_here(self, execution_id: str, error: BaseException, trace: str | None) -> None:
        """Report a failure in this process, unless `retry` has."""
        if self.workplace.running.pop(execution_id, None) is not None:
            self.failed(execution_id, error, trace, patient=True)

    def failed(
        self,
        execution_id: str,
        error: BaseException,
        trace: str | None,
        *,
        pid: int | None = None,
        patient: bool = False,
        unheard: bool = False,
    ) -> None:
        """
        Report a failure that no retry could.

        Args:
            pid: Only of what this child has begun; ``None``: whichever did.
            patient: Try again for as long as the database is away.
            unheard: It ended while nothing could be reported.
        """
        place = self.workplace
        failure = failure_of(error, trace=trace)
        if unheard:
            message = f"ended without a report: the database was away, and it {failure.message}"
            failure = replace(failure, message=message, lost=True)
        outcome = place.attempts.fail(
            execution_id,
            failure,
            incarnation=place.incarnation(),
            pid=pid,
            patient=patient,
        )
        if isinstance(outcome, (FailedForGood, GaveUp, Cancelled)):
            place.advance_quietly(outcome.dag_id)


class FailureTask(Task):
    """Calls a pipeline's ``on_failure`` for one final failure, at most once."""

    abstract = True
    ignore_result = True

    workplace: Workplace
    hook: Callable[..., object]

    def run(self, execution_id: str) -> None:
        """Call it with the job's context and the error's message."""
        failed = self.workplace.attempts.take_failure(execution_id)
        if failed is not None:
            with self.workplace.context(failed.attempt) as context:
                type(self).hook(context, failed.message)
            log.info("failure_told", extra=_facts(failed.attempt))


def register_jobs(
    app: Celery, pipelines: Mapping[str, Pipeline], workplace: Workplace
) -> list[str]:
    """
    Register one task for each job of each pipeline.

    Returns:
        The tasks' names, ``pipeline.job``.
    """
    names = []
    for pipeline in pipelines.values():
        tasks: list[Task] = [
            _subclass(
                JobTask,
                task_name(pipeline.name, job.name),
                max_retries=job.max_retries,
                retry_backoff=int(job.retry_base.total_seconds()),
                retry_backoff_max=int(job.retry_cap.total_seconds()),
                workplace=workplace,
                definition=job,
            )
            for job in pipeline.jobs.values()
        ]
        if pipeline.on_failure is not None:
            tasks.append(
                _subclass(
                    FailureTask,
                    task_name(pipeline.name, ON_FAILURE),
                    workplace=workplace,
                    hook=staticmethod(pipeline.on_failure),
                )
            )
        for task in tasks:
            app.register_task(task)
            names.append(task.name)
    return names


def _subclass(base: type[Task], name: str, **attributes: object) -> Task:
    """Make a task of a class of its own: Celery reads a task's options from its class."""
    described = {"name": name, "__module__": __name__, "__doc__": base.__doc__}
    task: Task = type(base.__name__, (base,), {**described, **attributes})()
    return task


def _facts(attempt: Attempt) -> dict[str, object]:
    return {
        "dag": attempt.dag.dag_id,
        "job": attempt.job.job_id,
        "attempt": attempt.attempt_number,
        "execution": attempt.execution_id,
    }


def _sessions(dag: DAG) -> tuple[Session, Session | None]:
    calendar = TradingCalendar(dag.market_id)
    # Closed or taken back while it ran, and then it failed: what is told of it still has the
    # session that there was last.
    for each in reversed(calendar.overrides.touching(get_market(dag.market_id))):
        if calendar.is_trading_day(dag.as_of_date):
            break
        then = calendar.overrides.until(each.override_id - 1)
        calendar = TradingCalendar(dag.market_id, overrides=then)
    session = calendar.session(dag.as_of_date)
    try:
        return session, calendar.session(calendar.previous_trading_day(dag.as_of_date))
    except HorizonError:
        return session, None
