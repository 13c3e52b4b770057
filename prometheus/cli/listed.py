"""``prometheus runs`` and ``executions``: what has run and what runs, the last first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from prometheus.cli.options import AsJson, Folder, read_date, read_instant
from prometheus.orchestration.lifecycle import JobStatus, RunStatus

if TYPE_CHECKING:
    from datetime import date, datetime

    from sqlalchemy import Connection, Row

    from prometheus.cli.places import Place

_SAME = (
    *("execution_id", "dag_id", "job_type", "status", "retries", "lost", "queue", "forced"),
    *("timeout_seconds", "created_at", "scheduled_at", "scheduled_market_at", "published_at"),
    *("started_at", "started_market_at", "named_at", "completed_at", "worker", "pid"),
    *("cancel_asked_at", "cancel_asked_by", "cancel_at", "result"),
)
"""Columns of an execution that the API names alike."""
_Limit = Annotated[
    int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many rows at most.")
]
_Market = Annotated[
    str | None, typer.Option("--market", metavar="MARKET", help="Only those of it.")
]


def runs(
    market: _Market = None,
    pipeline: Annotated[
        str | None, typer.Option("--pipeline", metavar="NAME", help="Only those of it.")
    ] = None,
    status: Annotated[
        RunStatus | None,
        typer.Option("--status", case_sensitive=False, help="Only those that are so."),
    ] = None,
    first: Annotated[
        str | None,
        typer.Option("--from", metavar="DATE", help="First session, such as 2012-11-21."),
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", metavar="DATE", help="Last session, included.")
    ] = None,
    limit: _Limit = 50,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """List runs, the latest session first."""
    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence.engine import reading
    from prometheus.persistence.listings import RunFilter, list_runs

    which = RunFilter(
        market_id=market,
        pipeline=pipeline,
        status=status,
        first=_date(first),
        last=_date(last),
    )
    place = find_place(folder)
    with opened(place) as engine, reading(engine) as connection:
        rows = list_runs(connection, which, after=None, limit=limit)
        if not rows:
            check_names(connection, place, market, pipeline)
    found = [
        {
            "dag_id": row.dag_id,
            "pipeline": row.pipeline,
            "market": row.market_id,
            "session_date": row.as_of_date,
            "status": row.status,
            "trigger": row.trigger,
            "forced": row.forced,
            "calendar_version": row.calendar_version,
            "opens_at": row.opens_at,
            "created_at": row.created_at,
            "completed_at": row.completed_at,
            "jobs": dict(counts),
        }
        for row, counts in rows
    ]
    if as_json:
        output.print_json(found)
        return
    if not found:
        print("There are no such runs.")
        return
    table = output.table("RUN", "STATE", "WHY", "CREATED", "ENDED", "JOBS")
    for each in found:
        counts = ", ".join(
            f"{each['jobs'][name]} {name}" for name in JobStatus if name in each["jobs"]
        )
        table.add_row(
            each["dag_id"],
            output.coloured(each["status"]),
            each["trigger"],
            output.utc(each["created_at"]),
            output.utc(each["completed_at"]) if each["completed_at"] else "",
            counts,
        )
    output.console().print(table)


def executions(
    run: Annotated[
        str | None, typer.Option("--run", metavar="DAG_ID", help="Only those of it.")
    ] = None,
    job: Annotated[
        str | None, typer.Option("--job", metavar="JOB", help="Only those of it.")
    ] = None,
    market: _Market = None,
    status: Annotated[
        JobStatus | None,
        typer.Option("--status", case_sensitive=False, help="Only those that are so."),
    ] = None,
    worker: Annotated[
        str | None, typer.Option("--worker", metavar="NODE", help="Only what it ran.")
    ] = None,
    started_from: Annotated[
        str | None,
        typer.Option("--from", metavar="INSTANT", help="Started from then on, by wall time."),
    ] = None,
    started_before: Annotated[
        str | None, typer.Option("--to", metavar="INSTANT", help="Started before then.")
    ] = None,
    limit: _Limit = 50,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """List the attempts of jobs, those that were written last first."""
    from rich.text import Text

    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.masking import safe_text
    from prometheus.persistence.engine import reading
    from prometheus.persistence.listings import ExecutionFilter, list_executions

    which = ExecutionFilter(
        dag_id=run,
        job_id=job,
        market_id=market,
        status=status,
        worker=worker,
        started_from=_instant(started_from),
        started_before=_instant(started_before),
    )
    place = find_place(folder)
    with opened(place) as engine, reading(engine) as connection:
        rows = list_executions(connection, which, after=None, limit=limit)
        if not rows:
            check_names(connection, place, market, None)
    if as_json:
        output.print_json([_execution(row) for row in rows])
        return
    if not rows:
        print("There are no such executions.")
        return
    table = output.table(
        "RUN", "JOB", "ATTEMPT", "STATE", "STARTED", "ENDED", "WORKER", "ERROR", right=("ATTEMPT",)
    )
    for row in rows:
        table.add_row(
            row.dag_id,
            row.job_id,
            str(row.attempt_number),
            output.coloured(row.status),
            output.utc_seconds(row.started_at) if row.started_at else "",
            output.utc_seconds(row.completed_at) if row.completed_at else "",
            row.worker or "",
            Text(output.shortened(safe_text(row.error_message or ""), 80)),
        )
    output.console().print(table)


def _date(text: str | None) -> date | None:
    return None if text is None else read_date(text)


def _instant(text: str | None) -> datetime | None:
    return None if text is None else read_instant(text)


def check_names(
    connection: Connection, place: Place, market: str | None, pipeline: str | None
) -> None:
    """Refuse a name by which nothing can be found; see `prometheus.configured.check_names`."""
    from prometheus import configured

    # Only a pipeline's name is worth the time in which all of them are loaded.
    pipelines = {} if pipeline is None else configured.sound_pipelines(place.settings)[0]
    configured.check_names(connection, pipelines, market=market, pipeline=pipeline)


def _execution(row: Row[Any]) -> dict[str, Any]:
    """Describe an attempt in the words of the API."""
    from prometheus.orchestration.dag import JobPriority

    window = None
    if row.window_opens_at is not None and row.window_closes_at is not None:
        window = {"opens_at": row.window_opens_at, "closes_at": row.window_closes_at}
    priorities = {int(each): each.name for each in JobPriority}
    return {
        **{name: getattr(row, name) for name in _SAME},
        "job": row.job_id,
        "market": row.market_id,
        "session_date": row.as_of_date,
        "attempt": row.attempt_number,
        "error": row.error_message,
        "priority": priorities.get(row.priority, JobPriority.STANDARD.name),
        "window": window,
    }
