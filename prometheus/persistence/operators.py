"""What operators do: each action adds rows and leaves an audit row in the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import PrometheusError, nearest
from prometheus.orchestration.dag import DAG
from prometheus.orchestration.lifecycle import (
    BLOCKING,
    FINAL,
    SKIPPED_BY,
    JobStatus,
    RunStatus,
    Trigger,
    allowed_from,
)
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.planning import session_bounds
from prometheus.orchestration.sensor import Readiness
from prometheus.orchestration.windows import Window, run_opens_at
from prometheus.persistence.audits import record_audit
from prometheus.persistence.clock import read_now
from prometheus.persistence.leases import wall_time
from prometheus.persistence.metadata import database_now
from prometheus.persistence.overrides import read_overrides
from prometheus.persistence.runs import (
    close_run,
    create_run,
    insert_executions,
    load_dag,
    new_execution,
)
from prometheus.persistence.tables import dag_runs, job_executions

CANCEL_GRACE = timedelta(seconds=30)
"""How long a running job that is cancelled may take to end, unless the operator says otherwise."""

_e = job_executions.c


class OperatorError(PrometheusError):
    """An operator asked for something that can not be done; nothing was changed."""


class UnknownTargetError(OperatorError):
    """What an operator named is not there."""


class RunExistsError(OperatorError):
    """There is a run already, and it was not asked to run again."""

    def __init__(self, dag_id: str, status: RunStatus) -> None:
        self.dag_id = dag_id
        self.status = status
        if status is RunStatus.OPEN:
            told = "and is not finished."
        else:
            told = f"and is {status}. To run all of it again, ask for a rerun."
        super().__init__(f"The run {dag_id} exists already, {told}")


@dataclass(frozen=True, slots=True)
class _Run:
    dag_id: str
    status: RunStatus
    latest: Mapping[str, Row[Any]]
    """Job id -> its latest execution."""
    load: Callable[[], DAG]

    @property
    def dag(self) -> DAG:
        """Its DAG; raises `UnreadableRunError`."""
        return self.load()


def retry(
    connection: Connection,
    dag_id: str,
    job_id: str | None = None,
    *,
    downstream: bool = False,
    actor: str,
    reason: str | None = None,
) -> list[str]:
    """
    Give jobs a new attempt, and reopen what was skipped because of them.

    The new attempts start as soon as their upstream jobs have succeeded; windows do not count,
    because an operator says so.

    Args:
        job_id: The job; if not given, every job that failed, expired or was cancelled.
        downstream: Also run again what depends on the job, whatever became of it; what has not
            started waits for it as ever.
        actor: Who asks.
        reason: Why, for the audit.

    Returns:
        The jobs that got a new attempt, in running order.

    Raises:
        OperatorError: Nothing to retry; or the job is unfinished, or blocked by an upstream job;
            or the run's session is closed.
    """
    run = _locked(connection, dag_id)
    _check_session(connection, run.dag)
    if job_id is None:
        chosen = {
            job
            for job, row in run.latest.items()
            if row.status in BLOCKING and row.status != JobStatus.SKIPPED
        }
        if not chosen:
            raise OperatorError(f"{dag_id} has no job that failed, expired or was cancelled.")
    else:
        chosen = {_known(run, job_id)}
    below = {name for job in chosen for name in run.dag.downstream_of(job)}
    if downstream:  # what is PENDING waits for them anyway, and needs no other attempt
        below = {name for name in below if run.latest[name].status != JobStatus.PENDING}
    again = _skipped_because_of(run, chosen | (below if downstream else set()))
    unfinished = sorted(job for job in again if run.latest[job].status not in FINAL)
    if unfinished and (job_id in unfinished or downstream):
        states = ", ".join(f"{job} is {run.latest[job].status}" for job in unfinished)
        raise OperatorError(
            f"{states}: a job must have finished to be tried again. "
            f"Wait, or: prometheus cancel {dag_id} {unfinished[0]}"
        )
    for job in sorted(chosen):
        if blocking := _blocking(run, job, again):
            raise OperatorError(
                f"{job} would be skipped at once, because {blocking[0]} is "
                f"{run.latest[blocking[0]].status}. Retry that: "
                f"prometheus retry {dag_id} {blocking[0]}"
            )
    jobs = _new_attempts(connection, run, again)
    details = {"job": job_id, "new_attempts": jobs}
    _record_change(connection, run, actor, "retry", jobs, details, reason)
    return jobs


def ignored_windows(
    connection: Connection, dag_id: str, jobs: Collection[str]
) -> dict[str, tuple[Window, datetime]]:
    """Return the windows of those jobs that could not start now by them, and market time."""
    definition = connection.execute(
        select(dag_runs.c.definition_hash).where(dag_runs.c.dag_id == dag_id)
    ).scalar_one()
    dag = load_dag(connection, dag_id, definition)
    try:
        bounds = session_bounds(TradingCalendar(dag.market_id), dag.as_of_date)
    except PrometheusError:
        return {}  # a calendar that has changed does not keep an operator from what he asks for
    now = read_now(connection).market_at
    windows = {job_id: bounds.window(dag.jobs[job_id]) for job_id in jobs}
    return {job_id: (window, now) for job_id, window in windows.items() if now not in window}


def rerun(
    connection: Connection,
    dag_id: str,
    *,
    actor: str,
    reason: str | None = None,
    backfill: int | None = None,
) -> list[str]:
    """
    Give every job of a finished run a new attempt, whatever became of it.

    Args:
        actor: Who asks.
        reason: Why, for the audit.
        backfill: Of which backfill it is.

    Raises:
        OperatorError: The run is not finished, or its session is closed.
    """
    run = _locked(connection, dag_id)
    _check_session(connection, run.dag)
    if run.status is RunStatus.OPEN:
        raise OperatorError(
            f"{dag_id} is not finished. Wait for it, or: prometheus cancel {dag_id}"
        )
    jobs = _new_attempts(connection, run, set(run.dag.jobs))
    if backfill is not None:  # its jobs yield to live ones, whatever made it
        connection.execute(
            update(dag_runs).where(dag_runs.c.dag_id == dag_id).values(trigger=Trigger.BACKFILL)
        )
    _record_change(connection, run, actor, "rerun", jobs, _part_of(backfill), reason)
    return jobs


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What became of one job that an operator cancelled."""

    job_id: str
    execution_id: str
    was_running: bool
    cancel_at: datetime | None
    """When it will be ended if it has not by itself; ``None``: it was ended at once."""


def cancel(
    connection: Connection,
    dag_id: str,
    job_id: str | None = None,
    *,
    actor: str,
    reason: str | None = None,
    grace: timedelta = CANCEL_GRACE,
) -> list[Cancelled]:
    """
    End jobs that have not finished: at once what has not started, what runs after it was asked.

    A job that was asked and ends in time, whatever way, is CANCELLED; so is one that has not ended
    by then, and its worker kills it. To ask again can only shorten the time that is left.

    Args:
        job_id: The job; if not given, all of the run's.
        actor: Who asks.
        reason: Why, for the audit.
        grace: How long a running job may take to end; nothing ends it at once.

    Raises:
        OperatorError: Nothing is left to cancel.
    """
    run = _locked(connection, dag_id)
    names = list(run.latest) if job_id is None else [_known(run, job_id)]
    cancelled: list[Cancelled] = []
    unfinished = (
        select(_e.job_id, _e.execution_id, _e.status, _e.cancel_at)
        .where(
            _e.dag_id == dag_id,
            _e.job_id.in_(names),
            _e.status.in_(allowed_from(JobStatus.CANCELLED)),
        )
        .order_by(_e.execution_id)
    )
    asked: set[str] = set()
    # Until none is left: an attempt that fails while its row is waited for leaves a successor,
    # which only a later statement sees.
    while {row.execution_id for row in connection.execute(unfinished)} - asked:
        rows = connection.execute(unfinished.with_for_update(key_share=True)).all()
        now = wall_time(connection)
        for row in rows:
            if row.execution_id in asked:
                continue
            running = row.status == JobStatus.RUNNING
            waits = running and grace > timedelta(0)
            cancel_at = min(now + grace, row.cancel_at or now + grace)
            end = {
                "status": JobStatus.CANCELLED,
                "error_message": f"cancelled by {actor}",
                "completed_at": now,
            }
            ask = {
                "cancel_asked_at": func.coalesce(_e.cancel_asked_at, now),
                "cancel_asked_by": func.coalesce(_e.cancel_asked_by, actor),
                "cancel_at": cancel_at,
            }
            connection.execute(
                update(job_executions)
                .where(_e.execution_id == row.execution_id)
                .values(
                    **(ask if running else {}), **({} if waits else end), updated_at=database_now()
                )
            )
            cancelled.append(
                Cancelled(row.job_id, row.execution_id, running, cancel_at if waits else None)
            )
            if waits:
                asked.add(row.execution_id)
    if not cancelled:
        what = dag_id if job_id is None else f"{job_id} of {dag_id}"
        raise OperatorError(f"{what} has finished already; there is nothing to cancel.")
    close_run(connection, dag_id)
    details = {
        "jobs": [each.job_id for each in cancelled],
        "asked": [each.job_id for each in cancelled if each.cancel_at is not None],
    }
    _record_change(connection, run, actor, "cancel", details["jobs"], details, reason)
    return cancelled


def skip(connection: Connection, dag_id: str, job_id: str, *, actor: str, reason: str) -> None:
    """
    Have a job that has not started never run; what depends on it is skipped, too.

    Args:
        actor: Who asks.
        reason: Why.

    Raises:
        OperatorError: The job has started or ended.
    """
    run = _locked(connection, dag_id)
    row = run.latest[_known(run, job_id)]
    if not _skip_waiting(connection, row, f"{SKIPPED_BY}{actor}: {reason}"):
        raise OperatorError(
            f"{job_id} is {_status(connection, row)}: only a job that has not started can be "
            f"skipped. {_way_on(dag_id, row)}"
        )
    close_run(connection, dag_id)
    _record_change(connection, run, actor, "skip", [job_id], {"jobs": [job_id]}, reason)


def force_success(
    connection: Connection, dag_id: str, job_id: str, *, actor: str, reason: str
) -> list[str]:
    """
    Have a job count as succeeded without running it, because somebody has seen to its work.

    What was skipped because of it gets a new attempt, as by `retry`.

    Args:
        actor: Who asks.
        reason: Why.

    Returns:
        The jobs that got a new attempt, in running order.

    Raises:
        OperatorError: The job runs, or has succeeded; or the run's session is closed.
    """
    run = _locked(connection, dag_id)
    _check_session(connection, run.dag)
    row = run.latest[_known(run, job_id)]
    if row.status == JobStatus.SUCCESS:
        raise OperatorError(f"{job_id} has succeeded already; there is nothing to force.")
    words = f"success forced by {actor}: {reason}"
    if row.status not in FINAL and not _skip_waiting(connection, row, words):
        raise OperatorError(
            f"{job_id} is {_status(connection, row)}: what runs can not be forced. "
            f"{_way_on(dag_id, row)}"
        )
    now = read_now(connection)
    job = run.dag.jobs[job_id]
    found = {"state": Readiness.READY} if job.sensor is not None else {}
    stamps = ("created_at", "updated_at", "scheduled_at", "started_at", "completed_at")
    succeeded = new_execution(
        run.dag,
        job,
        status=JobStatus.SUCCESS,
        attempt_number=row.attempt_number + 1,
        forced=True,
        **dict.fromkeys(stamps, now.wall_at),
        scheduled_market_at=now.market_at,
        started_market_at=now.market_at,
        result={**found, "forced_by": actor, "reason": reason},
    )
    again = _skipped_because_of(run, {job_id}) - {job_id}
    jobs = _new_attempts(connection, run, again)
    connection.execute(insert(job_executions), succeeded)
    close_run(connection, dag_id)
    changed = [job_id, *jobs]
    details = {"job": job_id, "new_attempts": changed}
    _record_change(connection, run, actor, "force_success", changed, details, reason)
    return jobs


def _skip_waiting(connection: Connection, row: Row[Any], why: str) -> bool:
    """Make an execution SKIPPED if it has not started."""
    now = wall_time(connection)
    changed = connection.execute(
        update(job_executions)
        .where(
            _e.execution_id == row.execution_id,
            _e.status.in_([JobStatus.PENDING, JobStatus.QUEUED]),
        )
        .values(
            status=JobStatus.SKIPPED,
            error_message=why,
            completed_at=now,
            updated_at=database_now(),
        )
    )
    return changed.rowcount == 1


def _status(connection: Connection, row: Row[Any]) -> str:
    """Return an execution's state by now: it may have started a moment ago."""
    found: str = connection.execute(
        select(_e.status).where(_e.execution_id == row.execution_id)
    ).scalar_one()
    return found


def _way_on(dag_id: str, row: Row[Any]) -> str:
    if row.status in FINAL:
        return f"To run it again: prometheus retry {dag_id} {row.job_id}"
    return f"To end it: prometheus cancel {dag_id} {row.job_id}"


def run_now(
    connection: Connection,
    pipeline: Pipeline,
    market_id: str,
    day: date,
    *,
    again: bool,
    actor: str,
    reason: str | None = None,
    backfill: int | None = None,
) -> str:
    """
    Make the run of a session whose windows do not count, or give all jobs of one a new attempt.

    Args:
        pipeline: One that follows the market.
        day: The session's date.
        again: Run again one that has finished, by `rerun`, instead of making it.
        actor: Who asks.
        reason: Why, for the audit.
        backfill: Of which backfill it is.

    Returns:
        The run's id.

    Raises:
        NoSessionError: There is no session on that date.
        HorizonError: It is not known whether there is.
        RunExistsError: There is such a run.
        OperatorError: The session has not begun; or there is no run to run again, or `rerun`
            refuses it.
    """
    calendar = TradingCalendar(market_id)
    calendar.session(day)  # says why there is none, and what is near
    dag = pipeline.dag(calendar.market_id, day)
    opens_at = run_opens_at(calendar.phases(day), dag)
    if not again and opens_at > read_now(connection).market_at:
        raise OperatorError(
            f"The session {day} of {calendar.market_id} has not begun: a run of it opens at "
            f"{opens_at:%Y-%m-%d %H:%M} UTC, and the scheduler makes it then."
        )
    status = connection.execute(
        select(dag_runs.c.status).where(dag_runs.c.dag_id == dag.dag_id)
    ).scalar_one_or_none()
    if again:
        if status is None:
            raise UnknownTargetError(
                f"There is no run {dag.dag_id} to run again: make one instead."
            )
        rerun(connection, dag.dag_id, actor=actor, reason=reason, backfill=backfill)
        return dag.dag_id
    if status is not None:
        raise RunExistsError(dag.dag_id, RunStatus(status))
    made = create_run(
        connection,
        dag,
        opens_at=opens_at,
        trigger=Trigger.OPERATOR if backfill is None else Trigger.BACKFILL,
        calendar_version=calendar.version,
        parameters=pipeline.parameters,
        forced=True,
    )
    if not made:  # somebody made it a moment ago
        raise RunExistsError(dag.dag_id, RunStatus.OPEN)
    details = {**_part_of(backfill), "reason": reason}
    after = {"run": RunStatus.OPEN, "jobs": dict.fromkeys(dag.jobs, JobStatus.PENDING)}
    record_audit(connection, actor, "run", dag.dag_id, details, before=None, after=after)
    return dag.dag_id


def _part_of(backfill: int | None) -> dict[str, int]:
    return {} if backfill is None else {"backfill": backfill}


def _locked(connection: Connection, dag_id: str) -> _Run:
    row = connection.execute(
        select(dag_runs.c.status, dag_runs.c.definition_hash)
        .where(dag_runs.c.dag_id == dag_id)
        .with_for_update(key_share=True)
    ).first()
    if row is None:
        known = connection.execute(
            select(dag_runs.c.dag_id).order_by(dag_runs.c.created_at.desc()).limit(200)
        ).scalars()
        raise UnknownTargetError(f"There is no run {dag_id!r}.{nearest(dag_id, list(known))}")
    executions = connection.execute(
        select(job_executions).where(_e.dag_id == dag_id).order_by(_e.attempt_number)
    )
    return _Run(
        dag_id,
        RunStatus(row.status),
        {execution.job_id: execution for execution in executions},
        lambda: load_dag(connection, dag_id, row.definition_hash),
    )


def _check_session(connection: Connection, dag: DAG) -> None:
    """Refuse a run without a session: the scheduler would cancel new attempts at its next tick."""
    try:
        calendar = TradingCalendar(dag.market_id, overrides=read_overrides(connection))
        if calendar.is_trading_day(dag.as_of_date):
            return
        reason = calendar.reason(dag.as_of_date)
    except PrometheusError:
        return  # a market or a date that is not known any more does not keep an operator from it
    told = f"There is nothing to run {dag.dag_id} for: its session is closed"
    if overrides := calendar.overrides_on(dag.as_of_date):
        number = overrides[-1].override_id
        raise OperatorError(f"{told} by override {number} ({reason}): withdraw that first.")
    raise OperatorError(f"{told} ({reason}).")


def _new_attempts(connection: Connection, run: _Run, jobs: set[str]) -> list[str]:
    """Write a PENDING, forced execution for each of the jobs, and open the run."""
    names = [name for name in run.dag.topological_order() if name in jobs]
    rows = [
        new_execution(
            run.dag,
            run.dag.jobs[name],
            attempt_number=run.latest[name].attempt_number + 1,
            forced=True,
        )
        for name in names
    ]
    if rows:
        insert_executions(connection, rows)
    connection.execute(
        update(dag_runs)
        .where(dag_runs.c.dag_id == run.dag.dag_id)
        .values(status=RunStatus.OPEN, completed_at=None, updated_at=database_now())
    )
    return names


def _skipped_because_of(run: _Run, jobs: set[str]) -> set[str]:
    """
    Add to some jobs those that were skipped, and would not be if these succeeded.

    What an operator has skipped stays so, whatever becomes of what it depends on.
    """
    again = set(jobs)
    for job in run.dag.topological_order():
        waits = any(upstream in again for upstream in run.dag.jobs[job].dependencies)
        row = run.latest[job]
        by_hand = (row.error_message or "").startswith(SKIPPED_BY)
        skipped = waits and row.status == JobStatus.SKIPPED and not by_hand
        # One that another upstream job still blocks would only be skipped again.
        if skipped and not _blocking(run, job, again):
            again.add(job)
    return again


def _blocking(run: _Run, job_id: str, again: Collection[str]) -> list[str]:
    """Return the upstream jobs that keep a job from running, if those in ``again`` run again."""
    return [
        upstream
        for upstream in run.dag.jobs[job_id].dependencies
        if upstream not in again and run.latest[upstream].status in BLOCKING
    ]


def _known(run: _Run, job_id: str) -> str:
    if job_id not in run.latest:
        hint = nearest(job_id, run.latest)
        raise UnknownTargetError(f"{run.dag_id} has no job {job_id!r}.{hint}")
    return job_id


def run_with_job(connection: Connection, dag_id: str, job_id: str) -> str:
    """
    Lock a run, and return the state of one of its jobs.

    Raises:
        OperatorError: There is no such run, or it has no such job.
    """
    run = _locked(connection, dag_id)
    return str(run.latest[_known(run, job_id)].status)


def _record_change(
    connection: Connection,
    run: _Run,
    actor: str,
    action: str,
    jobs: Collection[str],
    details: Mapping[str, Any],
    reason: str | None,
) -> None:
    """Write down what was done to jobs of a run, with their states and its own before and after."""
    before, after = (
        {"run": each.status, "jobs": {job: each.latest[job].status for job in jobs}}
        for each in (run, _locked(connection, run.dag_id))
    )
    told = {**details, "reason": reason}
    record_audit(connection, actor, action, run.dag_id, told, before=before, after=after)
