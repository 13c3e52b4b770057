"""Runs that follow a calendar: what a change would make of them, and what it makes of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from datetime import date, timedelta
from typing import Any

from sqlalchemy import Connection, or_, select, update

from prometheus.core.markets import get_market
from prometheus.core.overrides import Override, Overrides
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import HorizonError, PrometheusError
from prometheus.orchestration.dag import DAG, dag_id_for
from prometheus.orchestration.decisions import RunState
from prometheus.orchestration.following import (
    CLOSED,
    Effect,
    Following,
    JobChange,
    RunChange,
    job_change,
    preview,
)
from prometheus.orchestration.lifecycle import FINAL, LIVE, JobStatus, RunStatus
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.planning import PlannedRun, plan_runs, session_bounds
from prometheus.orchestration.windows import run_opens_at
from prometheus.persistence.audits import record_audit
from prometheus.persistence.clock import Now, read_now
from prometheus.persistence.metadata import database_now
from prometheus.persistence.pauses import read_pauses
from prometheus.persistence.runs import (
    close_run,
    end_waiting,
    insert_executions,
    lock_in_order,
    lock_runs,
    new_execution,
    read_open_runs,
    read_runs,
    sessions_with_runs,
)
from prometheus.persistence.tables import dag_runs, job_executions
from prometheus.persistence.tables import pipelines as table_of_pipelines

_r = dag_runs.c
_e = job_executions.c

SCHEDULER = "scheduler"
"""Who does it, in the audit."""


def runs_closed_by_calendar(
    connection: Connection, sessions: Collection[tuple[str, date]]
) -> list[str]:
    """
    Return the finished runs that had jobs cancelled because their session was closed.

    Args:
        sessions: Market and session date.
    """
    if not sessions:
        return []
    of_session = [
        (_r.market_id == market_id) & (_r.as_of_date == day) for market_id, day in sessions
    ]
    rows = connection.execute(
        select(_r.dag_id)
        .distinct()
        .join_from(dag_runs, job_executions)
        .where(
            _r.status != RunStatus.OPEN,
            or_(*of_session),
            _e.status == JobStatus.CANCELLED,
            _e.error_message.startswith(CLOSED, autoescape=True),
        )
        .order_by(_r.dag_id)
    )
    return list(rows.scalars())


def preview_override(
    connection: Connection,
    override: Override,
    overrides: Overrides,
    *,
    pipelines: Collection[Pipeline],
    markets: Collection[str],
) -> tuple[RunChange, ...]:
    """
    Say what the scheduler's next tick will make of runs if an override is recorded.

    Args:
        override: What would be recorded.
        overrides: What has been recorded.
        pipelines: Those whose runs the scheduler makes.
        markets: Those it works for.

    Returns:
        The runs of which anything changes, by id; those that are not there yet included.
    """
    now = read_now(connection)
    touched = [market_id for market_id in markets if override.touches(get_market(market_id))]
    before = {each: TradingCalendar(each, overrides=overrides) for each in touched}
    after = {each: TradingCalendar(each, overrides=overrides.plus(override)) for each in touched}

    closed = runs_closed_by_calendar(connection, {(each, override.session) for each in touched})
    found = [
        [
            run
            for run in (
                *read_open_runs(connection, _previous_run(calendars)),
                *read_runs(connection, closed, _previous_run(calendars)),
            )
            if run.dag.market_id in touched
        ]
        for calendars in (before, after)
    ]
    changes = preview(
        zip(*found, strict=True),
        before,
        after,
        now=now.market_at,
        wall_at=now.wall_at,
        pauses=read_pauses(connection),
        previous_run=_previous_run(after),
    )
    made = [
        change
        for pipeline in pipelines
        for market_id in touched
        if market_id in pipeline.markets and market_id in (now.markets or markets)
        for change in _made(
            connection, pipeline, before[market_id], after[market_id], override.session, now
        )
    ]
    return tuple(sorted((*changes, *made), key=lambda change: change.dag_id))


def _previous_run(calendars: Mapping[str, TradingCalendar]) -> Callable[[DAG], str | None]:
    def of(dag: DAG) -> str | None:
        try:
            day = dag.sessions.previous(calendars[dag.market_id], dag.as_of_date)
        except (KeyError, PrometheusError):
            return None
        return dag_id_for(dag.pipeline, dag.market_id, day)

    return of


def _made(
    connection: Connection,
    pipeline: Pipeline,
    before: TradingCalendar,
    after: TradingCalendar,
    day: date,
    now: Now,
) -> Iterator[RunChange]:
    """Find the runs that will be made because of a change, or will not, or with other times."""
    market_id = before.market_id
    seen_at = connection.execute(
        select(table_of_pipelines.c.first_seen_at).where(
            table_of_pipelines.c.name == pipeline.name,
            table_of_pipelines.c.market_id == market_id,
        )
    ).scalar_one_or_none()
    if seen_at is None:  # no scheduler has seen it so far
        seen_at = now.market_at
    existing = sessions_with_runs(
        connection, pipeline.name, market_id, seen_at.date() - timedelta(days=30)
    )
    due: list[dict[str, PlannedRun]] = []
    for calendar in (before, after):
        planned: tuple[PlannedRun, ...] = ()
        with suppress(HorizonError):  # as in the scheduler: nothing is made of what is not known
            planned = plan_runs(
                pipeline,
                calendar,
                market_id,
                existing=existing,
                first_seen_at=seen_at,
                now=now.market_at,
                only=now.only,
            )
        due.append({run.dag.dag_id: run for run in planned})
    to_come = [_to_come(pipeline, calendar, day, now) for calendar in (before, after)]
    for dag_id in due[1].keys() - due[0].keys():
        status = RunStatus.FAILED if due[1][dag_id].missed else RunStatus.OPEN
        yield RunChange(dag_id, market_id, Effect.STARTS, status)
    was, will = due[0].keys() | to_come[0].keys(), due[1].keys() | to_come[1].keys()
    has_run = {dag_id_for(pipeline.name, market_id, each) for each in existing}
    for dag_id in was - will - has_run:
        yield RunChange(dag_id, market_id, Effect.VANISHES)
    for dag_id in to_come[1].keys() - was - has_run:
        yield RunChange(dag_id, market_id, Effect.APPEARS)
    at_once = {
        dag_id: run.dag.as_of_date
        for dag_id, run in due[1].items()
        if dag_id in due[0] and not (run.forced or run.missed)
    }
    in_windows = at_once | to_come[1]
    for dag_id in (in_windows.keys() & was) - has_run:
        jobs = _shifted(pipeline.dag(market_id, in_windows[dag_id]), before, after)
        if any(job.moves for job in jobs):
            yield RunChange(dag_id, market_id, Effect.SHIFTS, jobs=jobs)


def _shifted(dag: DAG, before: TradingCalendar, after: TradingCalendar) -> tuple[JobChange, ...]:
    was, becomes = (session_bounds(each, dag.as_of_date) for each in (before, after))
    return tuple(
        job_change(dag.jobs[job_id], JobStatus.PENDING, JobStatus.PENDING, was, becomes)
        for job_id in dag.topological_order()
    )


def _to_come(pipeline: Pipeline, calendar: TradingCalendar, day: date, now: Now) -> dict[str, date]:
    """
    Find the runs of a pipeline that will be made, as far as the session of a date has a say in it.

    It decides about its own, and which others are the first or last of their week or month.
    """
    reach = timedelta(days=31)
    first, last = max(calendar.first, day - reach), min(calendar.horizon, day + reach)
    if now.only is not None:
        first, last = max(first, now.only.first), min(last, now.only.last)
    found = {}
    jobs = tuple(pipeline.jobs.values())
    for each in calendar.trading_days(first, last) if first <= last else ():
        if run_opens_at(calendar.phases(each), jobs) <= now.market_at:
            continue
        with suppress(HorizonError):
            if pipeline.sessions.includes(calendar, each):
                found[dag_id_for(pipeline.name, calendar.market_id, each)] = each
    return found


def lock_run(connection: Connection, run: RunState) -> None:
    """Lock a run and what of it has not finished, against operators, claims and starts."""
    lock_runs(connection, [run.dag.dag_id])
    unfinished = [job.execution_id for job in run.jobs.values() if job.status not in FINAL]
    lock_in_order(connection, unfinished)


def apply_following(
    connection: Connection, run: RunState, following: Following, version: str
) -> RunStatus | None:
    """
    Write what a run does to follow a calendar, and the audit row of a version it had not followed.

    Args:
        run: Read since `lock_run`, in this transaction.
        following: Decided of that.
        version: The calendar's.

    Returns:
        The run's final state, if it has come to one.
    """
    dag_id = run.dag.dag_id
    ended = end_waiting(connection, following.cancelled, JobStatus.CANCELLED)
    again = [
        job_id
        for job_id in following.again
        if (state := run.jobs[job_id]).dropped or state.execution_id in ended
    ]
    _wait_again(connection, run, again)
    for execution_id, window in following.windows.items():
        connection.execute(
            update(job_executions)
            .where(
                _e.execution_id == execution_id,
                _e.status.in_(LIVE),
                or_(
                    _e.window_opens_at != window.opens_at,
                    _e.window_closes_at != window.closes_at,
                ),
            )
            .values(
                window_opens_at=window.opens_at,
                window_closes_at=window.closes_at,
                updated_at=database_now(),
            )
        )
    changed: dict[str, Any] = {"calendar_version": version, "updated_at": database_now()}
    if following.opens_at is not None:
        changed["opens_at"] = following.opens_at
    if again:
        changed |= {"status": RunStatus.OPEN, "completed_at": None}
    connection.execute(update(dag_runs).where(_r.dag_id == dag_id).values(changed))
    if version != run.calendar_version:
        jobs = {state.execution_id: job_id for job_id, state in run.jobs.items()}
        details = {
            "cancelled": sorted(jobs[execution_id] for execution_id in ended),
            "again": sorted(again),
        }
        record_audit(
            connection,
            SCHEDULER,
            "calendar",
            dag_id,
            details,
            before=run.calendar_version,
            after=version,
        )
    return close_run(connection, dag_id)


def _wait_again(connection: Connection, run: RunState, job_ids: Collection[str]) -> None:
    """Write a PENDING execution for each of the jobs, which goes on counting where they were."""
    if not job_ids:
        return
    before = connection.execute(
        select(_e.job_id, _e.attempt_number, _e.retries, _e.lost, _e.forced).where(
            _e.execution_id.in_([run.jobs[job_id].execution_id for job_id in job_ids])
        )
    )
    rows = [
        new_execution(
            run.dag,
            run.dag.jobs[row.job_id],
            attempt_number=row.attempt_number + 1,
            retries=row.retries,
            lost=row.lost,
            forced=row.forced,
        )
        for row in before
    ]
    insert_executions(connection, rows)
