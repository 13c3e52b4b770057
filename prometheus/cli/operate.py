"""``prometheus retry`` and ``prometheus cancel``: what operators do to runs."""

from __future__ import annotations

import contextlib
import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from prometheus.cli.options import Actor, AsJson, Folder, Job, RunId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prometheus.cli.places import Place
    from prometheus.cli.scheduling import Crew


def retry(
    dag_id: RunId,
    job: Job = None,
    downstream: Annotated[
        bool, typer.Option("--downstream", help="Run again also what depends on the job.")
    ] = False,
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
    from prometheus.cli.scheduling import read_crew
    from prometheus.cli.summary import Summary, print_summary
    from prometheus.persistence import operators
    from prometheus.persistence.engine import writing

    if downstream and job is None:
        raise typer.BadParameter("--downstream needs a JOB whose dependents it means")
    place = find_place(folder)
    with opened(place) as engine:
        with writing(engine) as connection:
            jobs = operators.retry(
                connection, dag_id, job, downstream=downstream, actor=actor_name(actor)
            )
            crew = read_crew(connection)
            if is_unattended(place, crew):
                check_can_work_on(connection, place, dag_id)
        if not as_json:
            print(f"{dag_id}: a new attempt of {', '.join(jobs)}.")
        summary: Summary | None = None
        if is_unattended(place, crew):
            summary = work_on(engine, place, dag_id, crew=crew, as_json=as_json)
    if as_json:
        document = {"dag_id": dag_id, "jobs": jobs, "scheduler": crew.scheduled}
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
    actor: Actor = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """
    End a run, or one job of it; what runs is terminated.

    Its rows are final at once: a worker that does not hear of it can report nothing any more.
    """
    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence import operators
    from prometheus.persistence.engine import writing

    place = find_place(folder)
    with opened(place) as engine, writing(engine) as connection:
        cancelled = operators.cancel(connection, dag_id, job, actor=actor_name(actor))
    running = [execution_id for _, execution_id, was_running in cancelled if was_running]
    told = terminate(place, running)
    if as_json:
        document = {
            "dag_id": dag_id,
            "jobs": [
                {"job": name, "execution_id": execution_id, "was_running": was_running}
                for name, execution_id, was_running in cancelled
            ],
            "workers_told": told,
        }
        output.print_json(document)
        return
    print(f"{dag_id}: cancelled {', '.join(name for name, _, _ in cancelled)}.")
    if running and not told:
        print(
            f"The broker does not answer, so {output.count(len(running), 'job')} may go on for a "
            f"while; nothing it reports or commits through Prometheus counts any more."
        )


def terminate(place: Place, execution_ids: Sequence[str]) -> bool:
    """
    Ask the workers to end the processes of some attempts, as well as it can be done.

    Returns:
        Whether the broker took the message.
    """
    if not execution_ids:
        return True
    from kombu.exceptions import OperationalError
    from redis.exceptions import RedisError

    from prometheus.bootstrap import make_celery

    app = make_celery(place.settings)
    app.conf.broker_connection_max_retries = 0
    with contextlib.suppress(OperationalError, RedisError, OSError):
        # The names of the attempts are Celery's task ids.
        app.control.revoke(list(execution_ids), terminate=True, signal="SIGTERM")
        return True
    return False


def actor_name(given: str | None) -> str:
    """Return who asks: the name that was given, or the login."""
    if given:
        return given
    with contextlib.suppress(OSError, KeyError, ImportError):
        # A process in a container may have a number without a name.
        return getpass.getuser()
    return "unknown"


def whats_next(crew: Crew) -> str:
    """Say who will do what was written down."""
    if crew.scheduled and crew.workers:
        return "The scheduler starts it as soon as its upstream jobs have succeeded."
    missing = "scheduler" if not crew.scheduled else "worker"
    return f"No {missing} is running: it starts when one does, for example with `prometheus up`."
