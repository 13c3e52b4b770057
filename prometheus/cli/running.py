"""One run now: recorded, taken over by whoever schedules, or by a stack of its own."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from sqlalchemy import Connection, Engine, select

from prometheus.cli import output
from prometheus.cli.board import Board
from prometheus.cli.embedded import embedded_stack, stoppable
from prometheus.cli.following import STALLED_AFTER, Lines, View, follow
from prometheus.cli.living import folder_option, make_local_database
from prometheus.cli.operate import actor_name
from prometheus.cli.places import Place, find_place, opened
from prometheus.cli.replaying import finished
from prometheus.cli.stack import Stack
from prometheus.cli.summary import Summary, make_summary, print_summary, program
from prometheus.configured import runnable_pipeline, sound_pipelines
from prometheus.core.markets import get_market
from prometheus.core.overrides import put_in_force
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.crew import Crew, read_crew
from prometheus.errors import PipelineError, PrometheusError
from prometheus.orchestration.lifecycle import RunStatus
from prometheus.persistence import operators
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.operators import RunExistsError
from prometheus.persistence.stored import StoredOverridesError, read_stored
from prometheus.persistence.tables import dag_runs


class RunRefusedError(PrometheusError):
    """A run that was not made; nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What an operator asks for."""

    market: str
    day: date
    pipeline: str
    rerun: bool
    wait: bool
    reason: str | None
    actor: str | None
    folder: Path | None
    as_json: bool


def run_now(request: Request) -> bool:
    """
    Record a run, and see to it that somebody works on it.

    Returns:
        Whether the run succeeded; also true when it was left to a scheduler at work.

    Raises:
        PrometheusError: There is no such market, pipeline or session; the run exists already, or
            nobody could work on it.
    """
    place = find_place(request.folder)
    market_id = get_market(request.market).market_id
    pipeline = runnable_pipeline(place.settings, request.pipeline, market_id)
    with suppress(StoredOverridesError):  # `opened` says what ails the database
        put_in_force(read_stored(place.url))
    TradingCalendar(market_id).session(request.day)  # before anything is made for it
    make_local_database(place)
    with opened(place) as engine:
        with writing(engine) as connection:
            crew = read_crew(connection, whole=True)
            try:
                dag_id = operators.run_now(
                    connection,
                    pipeline,
                    market_id,
                    request.day,
                    again=request.rerun,
                    actor=actor_name(request.actor),
                    reason=request.reason,
                )
            except RunExistsError as error:
                raise RunRefusedError(_exists(error, place, request, crew)) from None
        if not request.wait and not is_unattended(place, crew):
            _tell_left(request, dag_id, crew)
            return True
        summary = work_on(engine, place, dag_id, crew=crew, as_json=request.as_json)
    if request.as_json:
        output.print_json({"dag_id": dag_id, "database": place.shown_url, **summary.document()})
    else:
        print_summary(output.console(), summary)
    return summary.succeeded


def is_unattended(place: Place, crew: Crew) -> bool:
    """Say whether nobody but this command could work on what was just written down."""
    # A stack that has just begun has no lead yet.
    return place.is_local and not crew.scheduled and place.stack is None


def _exists(error: RunExistsError, place: Place, request: Request, crew: Crew) -> str:
    dag_id, status = error.dag_id, error.status
    if status is RunStatus.OPEN:
        who = (
            "the scheduler works on it" if crew.scheduled else "no scheduler is running: start one"
        )
        return f"The run {dag_id} exists already and is not finished; {who}."
    again = f"{program()} run {request.market} --date {request.day} --rerun"
    if request.pipeline != "daily":
        again += f" --pipeline {request.pipeline}"
    again += folder_option(place.settings)
    return f"The run {dag_id} exists already, and is {status}. To run all of it again: {again}"


def _tell_left(request: Request, dag_id: str, crew: Crew) -> None:
    if request.as_json:
        document = {"dag_id": dag_id, "recorded": True, "scheduler": crew.scheduled}
        output.print_json(document)
        return
    if crew.scheduled and crew.leader is not None:
        print(f"{dag_id} is recorded; the scheduler ({crew.leader.process}) starts it.")
        if not crew.workers:
            print("No worker is running: its jobs wait in the queue until one does.")
    else:
        print(
            f"{dag_id} is recorded. No scheduler is running on this database: it starts when one "
            f"does (prometheus beat)."
        )
    for pause in crew.pauses:
        print(f"Paused: {pause}.")


def check_can_work_on(connection: Connection, place: Place, dag_id: str) -> None:
    """
    Refuse to work on a run whose pipeline can not be loaded.

    Raises:
        PipelineError: With every fault of every pipeline.
    """
    pipelines, faults = sound_pipelines(place.settings)
    name: str = connection.execute(
        select(dag_runs.c.pipeline).where(dag_runs.c.dag_id == dag_id)
    ).scalar_one()
    if name not in pipelines:
        raise PipelineError(
            f"the pipeline {name!r} of {dag_id}", faults or ["it is not among the configured ones"]
        )


def work_on(engine: Engine, place: Place, dag_id: str, *, crew: Crew, as_json: bool) -> Summary:
    """Follow a run to its end, with a stack of its own where no scheduler is running."""
    began_at = time.monotonic()
    alone = is_unattended(place, crew)
    goes_on = "The run is recorded: it goes on when a scheduler runs, for example `prometheus up`."
    with stoppable(lambda: f"Stopped. {goes_on}"), ExitStack() as stack:
        view = stack.enter_context(_view(engine, dag_id, as_json=as_json))
        running: Stack | None = None
        if alone:
            view.say(f"no scheduler is running: starting one for {dag_id}{_others(engine, dag_id)}")
            scheduler = place.settings.scheduler.model_copy(update={"create_runs": False})
            settings = place.settings.model_copy(update={"scheduler": scheduler})
            running = stack.enter_context(embedded_stack(settings, place.folder, view.say))
        follow(
            engine,
            view,
            until=lambda progress: finished(progress, frozenset({dag_id})),
            stack=running,
            dag_ids=[dag_id],
            # What a scheduler elsewhere does, or why it does not, is not for this command to judge.
            stalled_after=STALLED_AFTER if alone else None,
        )
    with reading(engine) as connection:
        elapsed = timedelta(seconds=time.monotonic() - began_at)
        return make_summary(connection, [dag_id], elapsed=elapsed)


def _others(engine: Engine, dag_id: str) -> str:
    """Say which other runs a scheduler would go on with: those that are open."""
    with reading(engine) as connection:
        found = connection.execute(
            select(dag_runs.c.dag_id).where(
                dag_runs.c.status == RunStatus.OPEN, dag_runs.c.dag_id != dag_id
            )
        ).scalars()
        others = sorted(found)
    if not others:
        return " alone"
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return f"; meanwhile it goes on with {', '.join(others[:3])}{more}"


def _view(engine: Engine, dag_id: str, *, as_json: bool) -> View:
    console = output.console(stderr=as_json)
    if as_json or not console.is_terminal:
        return Lines(console)
    with reading(engine) as connection:
        market_id: str = connection.execute(
            select(dag_runs.c.market_id).where(dag_runs.c.dag_id == dag_id)
        ).scalar_one()
    return Board(console, dag_id, [market_id])
