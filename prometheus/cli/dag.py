"""``prometheus dag``: what a pipeline is for a market and a session."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prometheus.cli.options import AsJson, read_date

if TYPE_CHECKING:
    from prometheus.core.trading_calendar import TradingCalendar
    from prometheus.orchestration.dag import DAG
    from prometheus.orchestration.deadlines import Deadline
    from prometheus.orchestration.windows import SessionBounds

application = typer.Typer(no_args_is_help=True, help="Look at pipelines as DAGs.")


@application.callback()
def _group() -> None:
    """Look at pipelines as DAGs."""


@application.command("show")
def show(
    dag_id: Annotated[
        str | None,
        typer.Argument(
            metavar="DAG_ID", help="Such as us_eq_daily_2012-11-23.", show_default=False
        ),
    ] = None,
    market: Annotated[
        str | None, typer.Option(help="The market, instead of a DAG_ID.", show_default=False)
    ] = None,
    day: Annotated[
        date | None,
        typer.Option(
            "--date",
            parser=read_date,
            metavar="DATE",
            help="The session's date; by default the pipeline's last session to have opened.",
        ),
    ] = None,
    pipeline: Annotated[str, typer.Option(help="The pipeline.")] = "daily",
    as_json: AsJson = False,
) -> None:
    """
    Show the jobs of a pipeline for one session, with the times in which each may start.

    This is the DAG as a run of it would be made now; of the database only the overrides of
    calendars are read, if there is one.
    """
    from prometheus.cli import output
    from prometheus.cli.pipelines import find_dag
    from prometheus.core.trading_calendar import TradingCalendar
    from prometheus.orchestration.planning import session_bounds

    if (dag_id is None) == (market is None):
        raise typer.BadParameter("give either a DAG_ID or --market, such as us_eq_daily_2012-11-23")
    dag = find_dag(dag_id=dag_id, market=market, day=day, pipeline=pipeline)
    calendar = TradingCalendar(dag.market_id)
    bounds = session_bounds(calendar, dag.as_of_date)
    if as_json:
        output.print_json(_document(dag, calendar, bounds))
    else:
        _print(dag, calendar, bounds)


def _document(dag: DAG, calendar: TradingCalendar, bounds: SessionBounds) -> dict[str, Any]:
    from prometheus.cli.recorded import overrides_on
    from prometheus.orchestration.windows import run_opens_at

    session = calendar.session(dag.as_of_date)
    return {
        "dag_id": dag.dag_id,
        "pipeline": dag.pipeline,
        "sessions": str(dag.sessions),
        "short_sessions": dag.sessions.short_sessions,
        "included": _is_included(dag, calendar),
        "market": dag.market_id,
        "session": {
            "date": session.date,
            "open": session.open,
            "close": session.close,
            "early_close": session.early_close,
            "late_open": session.late_open,
            "reason": session.reason,
            "closed_members": calendar.closed_members(dag.as_of_date),
            "overrides": overrides_on(calendar, [dag.as_of_date]),
        },
        "opens_at": run_opens_at(bounds.phases, dag),
        "deadline_at": dag.deadline and dag.deadline.of(calendar, bounds),
        "jobs": [
            {
                **dag.jobs[job_id].to_json(),
                "window": {"opens_at": window.opens_at, "closes_at": window.closes_at},
                "deadline_at": deadline and deadline.of(calendar, bounds),
            }
            for job_id in dag.topological_order()
            for window in (bounds.window(dag.jobs[job_id]),)
            for deadline in (dag.jobs[job_id].deadline,)
        ],
    }


def _is_included(dag: DAG, calendar: TradingCalendar) -> bool | None:
    """Say whether the pipeline runs on the DAG's session; ``None`` if that is not known yet."""
    from prometheus.errors import HorizonError

    try:
        return dag.sessions.includes(calendar, dag.as_of_date)
    except HorizonError:
        return None


def _print(dag: DAG, calendar: TradingCalendar, bounds: SessionBounds) -> None:
    from prometheus.cli import output, recorded, sessions
    from prometheus.core.durations import format_duration
    from prometheus.orchestration.sensor import show_limit
    from prometheus.orchestration.session_rule import EVERY
    from prometheus.orchestration.windows import run_opens_at

    def due(deadline: Deadline) -> str:
        at = deadline.of(calendar, bounds)
        return f"{deadline}, {output.utc(at) if at else 'not known yet: the calendar ends'}"

    console = output.console()
    session = calendar.session(dag.as_of_date)
    console.print(dag.dag_id, style="bold")
    about = [f"session {session.date:%a} {session.date}, {sessions.hours(session)}"]
    local_open, local_close = (
        sessions.local_times(calendar.exchanges, at) for at in (session.open, session.close)
    )
    about.append(f"opens {', '.join(local_open)}; closes {', '.join(local_close)}")
    about += filter(None, [sessions.special(session)])
    about += [
        remark.text for remark in sessions.remarks([dag.market_id], dag.as_of_date, dag.as_of_date)
    ]
    if overrides := recorded.overrides_on(calendar, [dag.as_of_date]):
        about.append(f"changed by {recorded.by_overrides(overrides)}")
    if dag.sessions != EVERY:
        included = {
            True: "this is one of them",
            False: "not on this one, unless told to by `prometheus run`",
            None: "whether this is one is not known yet: the calendar ends too soon",
        }[_is_included(dag, calendar)]
        about.append(f"the pipeline runs on {dag.sessions.words}: {included}")
    about.append(f"the run opens {output.utc(run_opens_at(bounds.phases, dag))}")
    if dag.deadline is not None:
        about.append(f"it must have succeeded by {due(dag.deadline)}")
    for line in about:
        console.print(f"  {line}")
    windows = {job_id: bounds.window(dag.jobs[job_id]) for job_id in dag.topological_order()}
    ends = sorted({window.closes_at for window in windows.values()})
    if len(ends) == 1:
        local = ", ".join(sessions.local_times(calendar.exchanges, ends[0]))
        console.print(f"  every job may start until {output.utc(ends[0])}: {local}")
    console.print()
    columns = ["Job", "After", "Priority", "May start from", "At the exchanges"]
    columns += ["Until"] if len(ends) > 1 else []
    columns += ["Done by"] if any(job.deadline for job in dag) else []
    table = output.table(*columns, "Tries")
    for job_id, window in windows.items():
        job = dag.jobs[job_id]
        after = [*job.dependencies]
        if job.after_previous:
            after.append("itself, in the previous session")
        phase = "".join(f"{each}, " for each in (job.required_state, job.start) if each)
        cells = [
            job_id,
            "\n".join(after) or "-",
            job.priority.name,
            f"{phase}{output.utc(window.opens_at)}",
            "\n".join(sessions.local_times(calendar.exchanges, window.opens_at)),
        ]
        cells += [output.utc(window.closes_at)] if len(ends) > 1 else []
        if "Done by" in columns:
            cells.append(due(job.deadline) if job.deadline else "-")
        tries = f"{job.max_retries + 1} of {format_duration(job.timeout)}"
        if job.sensor is not None:
            pauses = f"{format_duration(job.sensor.every)} to {format_duration(job.sensor.up_to)}"
            until = show_limit(job.sensor.give_up)
            tries = f"asks every {pauses} until {until}, then {job.sensor.otherwise}"
        table.add_row(*cells, tries)
    console.print(table)
