"""``prometheus retry``, ``cancel``, ``skip`` and ``force-success``: what operators do to runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from prometheus.cli.options import (
    Actor,
    AsJson,
    Folder,
    Job,
    MaybeReason,
    Reason,
    RunId,
    TheJob,
    read_duration,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from prometheus.dispatch.crew import Crew
    from prometheus.orchestration.windows import Window


def retry(
    dag_id: RunId,
    job: Job = None,
    downstream: Annotated[
        bool, typer.Option("--downstream", help="Run again also what depends on the job.")
    ] = False,
    reason: MaybeReason = None,
    actor: Actor = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """
    Give jobs of a finished run a new attempt: one job, or all that did not succeed.

    What was skipped because of them runs too. Windows do not count, because you say so. A
    scheduler at work on the database takes it over. Where none is, and the database is a local
    file, one is started, and ended with the run.
    """
    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.cli.running import check_can_work_on, is_unattended, work_on
    from prometheus.cli.summary import Summary, print_summary
    from prometheus.dispatch.crew import read_crew
    from prometheus.persistence import operators
    from prometheus.persistence.engine import writing

    if downstream and job is None:
        raise typer.BadParameter("--downstream needs a JOB whose dependents it means")
    place = find_place(folder)
    with opened(place) as engine:
        with writing(engine) as connection:
            jobs = operators.retry(
                connection,
                dag_id,
                job,
                downstream=downstream,
                actor=actor_name(actor),
                reason=reason,
            )
            crew = read_crew(connection, whole=True)
            if is_unattended(place, crew):
                check_can_work_on(connection, place, dag_id)
            ignored = operators.ignored_windows(connection, dag_id, jobs)
        if not as_json:
            print(f"{dag_id}: a new attempt of {', '.join(jobs)}. Windows do not count for it.")
            for window, names in _by_window(ignored).items():
                print(f"Ignored: {window}, of {', '.join(names)}.")
        summary: Summary | None = None
        if is_unattended(place, crew):
            summary = work_on(engine, place, dag_id, crew=crew, as_json=as_json)
    if as_json:
        document = {
            "dag_id": dag_id,
            "jobs": jobs,
            "ignored_windows": {
                job_id: {"opens_at": window.opens_at, "closes_at": window.closes_at}
                for job_id, (window, _) in ignored.items()
            },
            "scheduler": crew.scheduled,
        }
        output.print_json({**document, **(summary.document() if summary else {})})
    elif summary is not None:
        print_summary(output.console(), summary)
    else:
        print(whats_next(crew))
    if summary is not None and not summary.succeeded:
        raise typer.Exit(1)


def cancel(
    dag_id: RunId,
    job: Job = None,
    grace: Annotated[
        str,
        typer.Option(
            "--grace",
            help="How long a running job may take to end before it is killed; 0s kills it now.",
            metavar="DURATION",
        ),
    ] = "30s",
    reason: MaybeReason = None,
    actor: Actor = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """
    End a run, or one job of it: what waits at once, what runs after it was asked to.

    A running job learns of it by `ctx.cancelled`. One that has not ended when the grace is over is
    killed by its worker; nothing it reports or commits through Prometheus counts from then on.
    """
    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.dispatch.crew import read_crew
    from prometheus.persistence import operators
    from prometheus.persistence.engine import writing

    patience = read_duration(grace)
    with opened(find_place(folder)) as engine, writing(engine) as connection:
        cancelled = operators.cancel(
            connection, dag_id, job, actor=actor_name(actor), reason=reason, grace=patience
        )
        crew = read_crew(connection, whole=True)
    if as_json:
        jobs = [
            {
                "job": each.job_id,
                "execution_id": each.execution_id,
                "was_running": each.was_running,
                "cancel_at": each.cancel_at,
            }
            for each in cancelled
        ]
        output.print_json({"dag_id": dag_id, "jobs": jobs, "scheduler": crew.scheduled})
        return
    ended = [each.job_id for each in cancelled if each.cancel_at is None]
    if ended:
        print(f"{dag_id}: cancelled {', '.join(ended)}.")
    asked = {each.job_id: each.cancel_at for each in cancelled if each.cancel_at is not None}
    for job_id, cancel_at in asked.items():
        print(
            f"{dag_id}: asked {job_id} to end; "
            f"if it has not by {output.utc_seconds(cancel_at)}, it is killed."
        )
    if asked and not crew.scheduled:
        print("No scheduler is running, and without one only --grace 0s ends what does not itself.")


def skip(
    dag_id: RunId,
    job: TheJob,
    reason: Reason,
    actor: Actor = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """
    Have a job that has not started never run; what depends on it is skipped, too.

    To have what depends on it run all the same: force-success.
    """
    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence import operators
    from prometheus.persistence.engine import writing

    with opened(find_place(folder)) as engine, writing(engine) as connection:
        operators.skip(connection, dag_id, job, actor=actor_name(actor), reason=reason)
    if as_json:
        output.print_json({"dag_id": dag_id, "job": job})
    else:
        print(f"{dag_id}: {job} is skipped, and so will be what depends on it.")


def force_success(
    dag_id: RunId,
    job: TheJob,
    reason: Reason,
    actor: Actor = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """
    Have a job count as succeeded without running it, because you have seen to its work.

    What waited for it starts in its window; what was skipped because of it gets a new attempt.
    """
    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.dispatch.crew import read_crew
    from prometheus.persistence import operators
    from prometheus.persistence.engine import writing

    with opened(find_place(folder)) as engine, writing(engine) as connection:
        jobs = operators.force_success(
            connection, dag_id, job, actor=actor_name(actor), reason=reason
        )
        crew = read_crew(connection, whole=True)
    if as_json:
        document = {"dag_id": dag_id, "job": job, "jobs": jobs, "scheduler": crew.scheduled}
        output.print_json(document)
        return
    print(f"{dag_id}: {job} counts as succeeded.")
    if jobs:
        print(f"A new attempt of {', '.join(jobs)}. Windows do not count for it.")
        print(whats_next(crew))


def _by_window(ignored: Mapping[str, tuple[Window, datetime]]) -> dict[str, list[str]]:
    from prometheus.cli import output

    found: dict[str, list[str]] = {}
    for job_id, (window, now) in ignored.items():
        over = "is over" if now >= window.closes_at else "has not opened"
        span = f"{output.utc(window.opens_at)} to {output.utc(window.closes_at)}"
        found.setdefault(f"the window {span}, which {over}", []).append(job_id)
    return found


def actor_name(given: str | None) -> str:
    """Return who asks: the name that was given, or the login."""
    from prometheus.actors import login

    return given or login()


def whats_next(crew: Crew) -> str:
    """Say who will do what was written down, and what is paused meanwhile."""
    return "\n".join([_who_starts_it(crew), *(f"Paused: {pause}." for pause in crew.pauses)])


def _who_starts_it(crew: Crew) -> str:
    if crew.scheduled and crew.workers:
        return "The scheduler starts it as soon as its upstream jobs have succeeded."
    missing = "scheduler" if not crew.scheduled else "worker"
    return f"No {missing} is running: it starts when one does, for example with `prometheus up`."
