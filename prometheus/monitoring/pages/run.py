"""The page of a run: its jobs as a graph and a table, attempts with their logs, and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from sqlalchemy import Row

from prometheus.errors import nearest
from prometheus.masking import safe_text
from prometheus.monitoring.api import reasons
from prometheus.monitoring.api.executions import Execution, tell_execution
from prometheus.monitoring.api.models import Name
from prometheus.monitoring.api.runs import JobOfRun, RunGraph, tell_run
from prometheus.monitoring.installation import Here
from prometheus.monitoring.pages import actions
from prometheus.monitoring.pages.graphs import Node, draw_graph
from prometheus.monitoring.pages.pulse import STANDING, Version
from prometheus.monitoring.pages.rendering import run_link, show, top_of, zone_of
from prometheus.monitoring.pages.standing import standing_of
from prometheus.monitoring.pages.words import how_long
from prometheus.orchestration.lifecycle import FINAL, JobStatus
from prometheus.orchestration.pauses import Pause
from prometheus.persistence.changes import BACKFILLS, CREW, RUNS, of_log, of_run
from prometheus.persistence.clock import Now
from prometheus.persistence.listings import UnknownExecutionError, UnknownJobError, read_run
from prometheus.persistence.logs import traceback_of

router = APIRouter(include_in_schema=False)

_LONGEST_ERROR = 160
"""Of an error in the table; its attempt has all of it."""


@dataclass(frozen=True, slots=True)
class ShownAttempt:
    """An attempt that was chosen, and what it logged; nothing of it is secret."""

    execution: Execution
    log: str
    traceback: str | None
    ended: bool


@router.get("/runs/{dag_id}")
def run_page(
    request: Request,
    here: Here,
    version: Version,
    dag_id: Name,
    job: Name | None = None,
    attempt: int | None = None,
) -> HTMLResponse:
    """Show a run; of one job also its attempts, and the log of one of them."""
    with here.look() as look:
        standing = standing_of(look, here)
        log_of = (job, attempt) if job is not None else None
        found = read_run(look.connection, dag_id, log_of=log_of)
    shown, rows = None, []
    if job is not None:
        if job not in found.attempts:
            raise UnknownJobError(f"{dag_id} has no job {job!r}.{nearest(job, found.attempts)}")
        rows = found.attempts[job]
        row = next((row for row in rows if row.attempt_number == attempt), None)
        if row is None and attempt is not None:
            raise UnknownExecutionError(f"{job} of {dag_id} has no attempt {attempt}.")
        shown = _shown(row or rows[-1], found.log)
    graph = tell_run(found, look.now)
    paused = [each for each in standing.pauses if _keeps(each, graph, job)]
    held = next((each for each in paused if each.job_id is not None), None)
    top = top_of(request)
    writes = shown is not None and shown.execution.status == JobStatus.RUNNING
    values = {
        "version": version,
        "shows": [STANDING, of_run(dag_id), *([of_log(dag_id)] if writes else [])],
        "standing": standing,
        "paused": paused,
        "run_actions": actions.of_run(graph, here.pipelines[0], paused),
        "job_actions": [
            action
            for each in graph.jobs
            if each.job == job
            for action in actions.of_job(graph, each, held, paused)
        ],
        "run": graph.run,
        "graph": graph,
        "zone": zone_of(graph.run.market) or "UTC",
        "picture": _picture(graph, look.now, top, job),
        "error_limit": _LONGEST_ERROR,
        "why": f"{top}why/{quote(dag_id, safe='')}",
        "job": job,
        "attempts": [tell_execution(row) for row in rows],
        "shown": shown,
        "took": lambda execution: _took(execution, look.now),
        "link_to": lambda *chosen: run_link(top, dag_id, *chosen),
        "query": lambda name: urlencode({"job": name}),
    }
    return show(request, "run.html", values)


@router.get("/why/{dag_id}")
def why_page(
    request: Request, here: Here, version: Version, dag_id: Name, job: Name | None = None
) -> HTMLResponse:
    """Say why a run, or a job of it, does not go on; the page of the run shows it as a part."""
    told = reasons.why_run(here, dag_id) if job is None else reasons.why_job(here, dag_id, job)
    top = top_of(request)
    # What has not ended may wait for other runs, their workers and the broker.
    over = told.status in {*map(str, FINAL)}
    values = {
        "version": version,
        "shows": [STANDING, of_run(dag_id)] if over else [STANDING, RUNS, BACKFILLS, CREW],
        "why": told,
        "zone": zone_of(told.market),
        "link_to": lambda *chosen: run_link(top, *chosen),
    }
    return show(request, "why.html", values)


def _shown(row: Row[Any], log: str) -> ShownAttempt:
    execution, traceback = tell_execution(row), traceback_of(row)
    return ShownAttempt(
        execution=execution,
        log=safe_text(log),
        traceback=safe_text(traceback) if traceback else None,
        ended=execution.status in FINAL,
    )


def _keeps(pause: Pause, graph: RunGraph, job: str | None) -> bool:
    """Say whether a pause is of a run's market or pipeline, or a hold of the job that is shown."""
    if pause.dag_id is not None:
        return (pause.dag_id, pause.job_id) == (graph.run.dag_id, job)
    return pause.covers_all(graph.run.market, graph.run.pipeline)


def _picture(graph: RunGraph, now: Now, top: str, chosen: str | None) -> Any:
    upstream: dict[str, list[str]] = {each.job: [] for each in graph.jobs}
    for edge in graph.edges:
        upstream[edge.downstream].append(edge.upstream)
    nodes = [
        Node(
            each.job,
            each.status,
            _told(each, now),
            run_link(top, graph.run.dag_id, each.job),
            upstream[each.job],
            is_late=each.deadline is not None and each.deadline.missed,
        )
        for each in graph.jobs
    ]
    return draw_graph(nodes, chosen)


def _told(job: JobOfRun, now: Now) -> str:
    took = _took(job.execution, now)
    attempts = f", attempt {job.attempts}" if job.attempts > 1 else ""
    late = ", deadline missed" if job.deadline and job.deadline.missed else ""
    return f"{job.job}: {job.status}{attempts}{f', {took}' if took else ''}{late}"


def _took(execution: Execution, now: Now) -> str:
    """Say how long an attempt ran, or has been running; nothing of one that has not started."""
    if execution.started_at is None:
        return ""
    ended = execution.completed_at or now.wall_at
    return how_long(max(ended - execution.started_at, timedelta(0)))
