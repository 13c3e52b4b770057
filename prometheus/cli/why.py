"""``prometheus why``: what a run, or a job of it, waits for, since when and until when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus.cli.options import AsJson, Folder, Job, RunId
from prometheus.errors import PrometheusError

if TYPE_CHECKING:
    from datetime import date, datetime

    from rich.console import Console
    from sqlalchemy import Connection, Engine

    from prometheus.cli.places import Place
    from prometheus.orchestration.facts import AtWork
    from prometheus.orchestration.pipeline import Pipeline
    from prometheus.orchestration.reasons import Reason
    from prometheus.persistence.clock import Now
    from prometheus.persistence.reasons import Case, Installation


class UnknownJobError(PrometheusError):
    """The run has no job of that name."""


def why(dag_id: RunId, job: Job = None, folder: Folder = None, as_json: AsJson = False) -> None:
    """
    Say why a job does not run: all that it waits for, since when, until when, and what comes then.

    Without a JOB, where the run stands, and the first reason of each job that has not succeeded. Of
    a run that is not there, when it will be made, or why it never is.
    """
    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence.engine import reading
    from prometheus.persistence.reasons import read_case

    place = find_place(folder)
    installation = _installation(place)
    with opened(place) as engine:
        with reading(engine) as connection:
            case = read_case(connection, dag_id, installation)
            if case is None:
                now, found = _of_unmade(connection, engine, place, dag_id, job, installation)
        if case is not None:
            now, found = case.now, _of_run(case, engine, place, job)
    document = {"dag_id": dag_id, "job": job, "wall_at": now.wall_at, "market_at": now.market_at}
    if as_json:
        output.print_json({**document, **_document(found)})
    else:
        _print(output.console(), {**document, **found}, now)


def _installation(place: Place) -> Installation:
    from prometheus.dispatch.crew import SILENT_AFTER_LEASES
    from prometheus.dispatch.names import LEADERSHIP
    from prometheus.persistence.reasons import Installation

    settings = place.settings
    return Installation(
        markets=settings.markets.enabled,
        leadership=LEADERSHIP,
        silent_after=SILENT_AFTER_LEASES * settings.scheduler.lease,
        makes_runs=settings.scheduler.create_runs,
    )


# --- what is asked ------------------------------------------------------------------------------


def _of_run(case: Case, engine: Engine, place: Place, job: str | None) -> dict[str, Any]:
    from dataclasses import replace

    from prometheus.errors import nearest
    from prometheus.orchestration.reasons import explain, explain_run

    jobs, dag_id = case.run.jobs, case.run.dag.dag_id
    if job is not None and job not in jobs:
        raise UnknownJobError(f"{dag_id} has no job {job!r}.{nearest(job, jobs)}")
    at_work = _with_broker(_seen_locked(case.facts.at_work, engine), place)
    facts = replace(case.facts, at_work=at_work)
    if job is not None:
        return {
            "status": jobs[job].status,
            "attempt": facts.executions[job][-1].attempt_number,
            "reasons": explain(case.snapshot, job, case.now.market_at, facts),
        }
    told = explain_run(case.snapshot, case.now.market_at, facts)
    return {"status": told.status, "reasons": told.around, "jobs": told.jobs}


def _seen_locked(at_work: AtWork, engine: Engine) -> AtWork:
    """Find out whether those whose leases have run out could renew them at this moment."""
    from dataclasses import replace

    from prometheus.persistence.engine import is_held

    ends = [each.expires_at for each in at_work.workers]
    ends += [at_work.leader.expires_at] if at_work.leader is not None else []
    lapsed = any(end <= at_work.wall_at for end in ends)
    return replace(at_work, locked=lapsed and is_held(engine))


def _with_broker(at_work: AtWork, place: Place) -> AtWork:
    """Ask Redis which workers have no slot left, where something waits for one."""
    from dataclasses import replace

    from prometheus.dispatch.broker import NoAnswerError, connected
    from prometheus.dispatch.names import BUSY_KEY

    if not at_work.waiting:
        return at_work
    names = [each.incarnation for each in at_work.workers]
    try:
        with connected(place.settings.broker.url) as redis:
            said = redis.mget([f"{BUSY_KEY}{name}" for name in names]) if names else []
    except NoAnswerError as error:
        return replace(at_work, broker_fault=str(error))
    busy = {name for name, value in zip(names, said, strict=True) if value is not None}
    return replace(at_work, busy=frozenset(busy))


def _of_unmade(
    connection: Connection,
    engine: Engine,
    place: Place,
    dag_id: str,
    job: str | None,
    installation: Installation,
) -> tuple[Now, dict[str, Any]]:
    from dataclasses import replace

    from prometheus.errors import nearest
    from prometheus.orchestration.reasons import explain_unmade
    from prometheus.persistence.reasons import read_unmade

    pipeline, market_id, day = _to_come(connection, place, dag_id)
    if job is not None and job not in pipeline.jobs:
        raise UnknownJobError(f"{dag_id} will have no job {job!r}.{nearest(job, pipeline.jobs)}")
    now, unmade = read_unmade(connection, pipeline, market_id, day, installation)
    unmade = replace(unmade, at_work=_seen_locked(unmade.at_work, engine))
    return now, {"status": None, "reasons": explain_unmade(unmade, job, now.market_at)}


def _to_come(connection: Connection, place: Place, dag_id: str) -> tuple[Pipeline, str, date]:
    """Find the pipeline, market and session whose run would have a name."""
    from prometheus.cli.pipelines import runs_on, session_of
    from prometheus.configured import sound_pipelines
    from prometheus.errors import nearest
    from prometheus.persistence.listings import UnknownRunError, latest_runs

    day = session_of(dag_id)
    pipelines, _ = sound_pipelines(place.settings)
    known = runs_on(pipelines, day) if day is not None else {}
    if day is None or dag_id not in known:
        names = [*latest_runs(connection), *known]
        raise UnknownRunError(
            f"There is no run {dag_id!r}, and no pipeline here makes one.{nearest(dag_id, names)}"
        )
    pipeline, market_id = known[dag_id]
    return pipeline, market_id, day


# --- what is told -------------------------------------------------------------------------------


def _document(found: dict[str, Any]) -> dict[str, Any]:
    document = {**found, "reasons": [_reason_document(each) for each in found["reasons"]]}
    if "jobs" in found:
        document["jobs"] = [
            {"job": each.job_id, "status": each.status, "reason": _reason_document(each.reason)}
            for each in found["jobs"]
        ]
    return document


def _reason_document(reason: Reason) -> dict[str, Any]:
    return {
        "kind": reason.kind,
        "job": reason.job_id,
        "text": reason.text,
        "then": reason.then or None,
        "since": reason.since,
        "until": reason.until,
        "clock": "market" if reason.market_time else "wall",
        "refers_to": [{"dag_id": dag_id, "job": job} for dag_id, job in reason.refers_to],
        "wrong": reason.wrong,
    }


def _print(console: Console, found: dict[str, Any], now: Now) -> None:
    from rich.text import Text

    from prometheus.cli import output

    console.print(" ".join(filter(None, [found["dag_id"], found["job"]])), style="bold", end="  ")
    console.print(output.coloured(found["status"] or "there is no such run"), end="")
    console.print(f", attempt {found['attempt']}" if "attempt" in found else "")
    for number, reason in enumerate(found["reasons"], 1):
        console.print()
        of_another = reason.job_id not in (None, found["job"])
        whose = f"{reason.job_id}: " if of_another and reason.job_id else ""
        style = "bold red" if reason.wrong else ""
        console.print(f"{number}. {whose}{reason.text}", style=style, soft_wrap=True)
        if reason.then:
            console.print(f"   {reason.then}", soft_wrap=True)
        if times := _times(reason, now):
            console.print(f"   {times}", style="dim", soft_wrap=True)
    if found.get("jobs"):
        console.print()
        table = output.table("Job", "Status", "Why")
        for each in found["jobs"]:
            style = "bold red" if each.reason.wrong else ""
            table.add_row(
                each.job_id,
                output.coloured(each.status),
                Text(each.reason.text, style),
            )
        console.print(table)


def _times(reason: Reason, now: Now) -> str:
    """Write since when something is so, and until when."""
    from prometheus.cli import output

    at = now.market_at if reason.market_time else now.wall_at
    parts = []
    if reason.since is not None:
        parts.append(f"since {output.utc_seconds(reason.since)}{_ago(at, reason.since)}")
    if reason.until is not None:
        parts.append(f"until {output.utc_seconds(reason.until)}{_ago(at, reason.until)}")
    if parts and reason.market_time and not now.clock.is_live:
        parts.append("in market time")
    return ", ".join(parts)


def _ago(now: datetime, instant: datetime) -> str:
    from prometheus.cli import output

    if instant > now:
        return f" (in {output.in_words(instant - now)})"
    return f" ({output.in_words(now - instant)} ago)"
