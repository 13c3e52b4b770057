"""Replays: a new folder and database, the market clock turned back, real processes, a summary."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine, func, inspect, make_url, select
from sqlalchemy.exc import DBAPIError

from prometheus.cli import output, sessions
from prometheus.cli.board import Board, Expected
from prometheus.cli.checked import print_violations, verdict
from prometheus.cli.embedded import Pages, embedded_stack, stoppable
from prometheus.cli.following import Lines, View, follow
from prometheus.cli.pipelines import session_choices
from prometheus.cli.places import Place, settings_for, with_url
from prometheus.cli.summary import (
    Summary,
    make_summary,
    print_next,
    print_summary,
    program,
    short,
)
from prometheus.configuration import DATABASE_NAME
from prometheus.configured import configured_pipelines
from prometheus.core.markets import get_market
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.crew import read_crew
from prometheus.errors import DatabaseError, PrometheusError
from prometheus.orchestration.lifecycle import RunStatus
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.planning import SessionRange
from prometheus.orchestration.session_rule import EVERY
from prometheus.orchestration.windows import run_opens_at
from prometheus.persistence import migrate
from prometheus.persistence.clock import read_now, start_replay
from prometheus.persistence.engine import (
    create_engine,
    first_line,
    reading,
    what_ails,
    writing,
)
from prometheus.persistence.progress import Progress
from prometheus.persistence.tables import dag_runs
from prometheus.settings import Settings, listing
from prometheus.verification import Expectation, Report, judge, read_history

REPLAYS = "replays"
"""Folder of replays in the data folder."""


class ReplayError(PrometheusError):
    """A replay that can not be started; nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a user asks of a replay."""

    first: date
    last: date
    """Session dates, both included."""
    markets: tuple[str, ...]
    """Empty for all of the settings."""
    speed: float
    """0 to jump."""
    folder: Path | None
    open: bool
    """Whether pages show it, until somebody says stop."""
    as_json: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A replay that can be started."""

    settings: Settings
    folder: Path
    markets: tuple[str, ...]
    pipelines: Mapping[str, tuple[str, ...]]
    """Pipeline -> those of its markets that are replayed."""
    session_choices: Mapping[str, tuple[str, str]]
    """Pipeline -> on which of their sessions it runs, and what it does on short ones."""
    dag_ids: frozenset[str]
    """The runs that must be finished for the replay to be."""
    market_at: datetime
    """Where the market clock starts."""
    first: date
    last: date
    remarks: tuple[sessions.Remark, ...]
    is_elsewhere: bool
    """Whether processes that are no concern of this command's do it."""

    @property
    def range(self) -> SessionRange:
        """The session dates it is bound to."""
        return SessionRange(self.first, self.last)


def replay_sessions(request: Request) -> bool:
    """
    Run past sessions with real processes, and print what became of them.

    Returns:
        Whether every run succeeded, and the history checker found nothing wrong.

    Raises:
        PrometheusError: It can not be started, a process died, or nothing moved any more.
    """
    began_at = time.monotonic()
    plan = make_plan(request)
    _prepare_database(plan, request)
    engine = create_engine(plan.settings.database.url.get_secret_value())
    try:
        with stoppable(lambda: _stopped(plan)), ExitStack() as around:
            title = f"replay of {request.first} to {request.last}"
            pages = Pages.of(plan.settings) if request.open else None
            with _view(request, plan, title, pages) as view, ExitStack() as stack:
                view.say(f"starting Redis, the scheduler and a worker in {plan.folder}")
                running = stack.enter_context(
                    embedded_stack(plan.settings, plan.folder, view.say, pages=pages)
                )
                if pages is not None:
                    view.say(f"pages: {pages.url}")
                follow(
                    engine,
                    view,
                    until=lambda progress: finished(progress, plan.dag_ids),
                    stack=running,
                )
                if pages is not None:
                    around.enter_context(stack.pop_all())
            succeeded = _conclude(request, plan, engine, began_at)
            if pages is not None:
                print(f"\nIts pages: {pages.url}, until Ctrl-C.", file=sys.stderr)
                running.wait()
        return succeeded
    finally:
        engine.dispose()


def prepare_replay(request: Request) -> None:
    """
    Make the configured database ready for a replay that schedulers and workers elsewhere do.

    What was prepared for the same replay stays as it is, so that it may be asked for at each start.

    Raises:
        PrometheusError: It can not be prepared; nothing was changed.
    """
    plan = make_plan(request, elsewhere=True)
    shown_url = Place(plan.settings, plan.folder, None).shown_url
    already = _is_prepared(plan)
    if not already:
        _prepare_database(plan, request)
    if request.as_json:
        output.print_json({"database": shown_url, "prepared": not already})
    else:
        state = "is prepared already for" if already else "is prepared for"
        print(f"{shown_url} {state} the sessions of {request.first} to {request.last}")


def follow_replay(request: Request) -> bool:
    """
    Follow a replay that was prepared to its end, and print what became of it.

    Returns:
        Whether every run succeeded, and the history checker found nothing wrong.

    Raises:
        PrometheusError: It was not prepared.
    """
    began_at = time.monotonic()
    plan = make_plan(request, elsewhere=True)
    if not _is_prepared(plan):
        raise ReplayError(
            f"The database {Place(plan.settings, plan.folder, None).shown_url} is not prepared for "
            f"this replay. Say so first, before schedulers and workers are started on it: "
            f"{program()} replay --prepare, with the same dates and markets."
        )
    engine = create_engine(plan.settings.database.url.get_secret_value())
    try:
        stopped = "Stopped following; those who do the replay go on with it."
        title = f"replay of {request.first} to {request.last}"
        with stoppable(lambda: stopped), _view(request, plan, title) as view:
            follow(
                engine,
                view,
                until=lambda progress: finished(progress, plan.dag_ids),
                dag_ids=sorted(plan.dag_ids),
                # Why those elsewhere do nothing is not for this command to judge.
                stalled_after=None,
            )
        return _conclude(request, plan, engine, began_at)
    finally:
        engine.dispose()


def _conclude(request: Request, plan: Plan, engine: Engine, began_at: float) -> bool:
    """Print what became of a replay; return whether it succeeded."""
    with reading(engine) as connection:
        summary = make_summary(
            connection,
            sorted(plan.dag_ids),
            elapsed=timedelta(seconds=time.monotonic() - began_at),
            remarks=plan.remarks,
        )
        history = read_history(connection)
    expect = Expectation(plan.pipelines, request.first, request.last, plan.session_choices)
    report = judge(history, expect=expect, max_lost=plan.settings.workers.max_lost)
    _tell(request, plan, summary, report)
    return summary.succeeded and report.ok


def make_plan(request: Request, *, elsewhere: bool = False) -> Plan:
    """
    Check everything about a replay that can be checked before anything is made.

    Args:
        elsewhere: Go by the configured database and data folder, whatever they are, instead of
            new ones.

    Raises:
        PrometheusError: Settings or pipelines with faults, an unknown market, dates outside a
            calendar, no session in the range, a folder that is in use.
    """
    settings = settings_for(None)
    markets = tuple(
        get_market(name).market_id for name in request.markets or settings.markets.enabled
    )
    enabled = settings.markets.model_copy(update={"enabled": markets})
    settings = settings.model_copy(update={"markets": enabled})
    pipelines = configured_pipelines(settings)
    remarks = tuple(sessions.remarks(markets, request.first, request.last))
    expected = _expected(pipelines.values(), markets, request)
    if not expected:
        told = "".join(f"\n  {remark}" for remark in remarks) or " They are weekends."
        told += "".join(
            f"\n  {pipeline.name} runs on {pipeline.sessions.words}"
            for pipeline in pipelines.values()
            if pipeline.sessions != EVERY
        )
        raise ReplayError(
            f"No pipeline has a session of {', '.join(markets)} from {request.first} to "
            f"{request.last}.{told}"
        )
    now = datetime.now(UTC)
    future = sorted(dag_id for dag_id, _, closes_at in expected if closes_at > now)
    if future:
        raise ReplayError(
            f"A replay is of past sessions, and these have not ended: {', '.join(future[:3])}"
            + (f" and {len(future) - 3} more." if len(future) > 3 else ".")
        )
    folder = settings.data.folder if elsewhere else _new_folder(request, settings)
    if not elsewhere and _is_default(settings, "database.url"):
        settings = with_url(settings, f"sqlite:///{folder / DATABASE_NAME}")
    data = settings.data.model_copy(update={"folder": folder})
    return Plan(
        settings=settings.model_copy(update={"data": data}),
        folder=folder,
        markets=markets,
        pipelines={
            pipeline.name: tuple(market for market in pipeline.markets if market in markets)
            for pipeline in pipelines.values()
        },
        session_choices=session_choices(pipelines),
        dag_ids=frozenset(dag_id for dag_id, _, _ in expected),
        market_at=min(opens_at for _, opens_at, _ in expected),
        first=request.first,
        last=request.last,
        remarks=remarks,
        is_elsewhere=elsewhere,
    )


def _expected(
    pipelines: Iterable[Pipeline], markets: Sequence[str], request: Request
) -> list[tuple[str, datetime, datetime]]:
    """List the runs of the range: dag id, when the run opens, and when its session closes."""
    found = []
    for pipeline in pipelines:
        for market_id in pipeline.markets:
            if market_id not in markets:
                continue
            calendar = TradingCalendar(market_id)
            for day in pipeline.sessions.sessions(calendar, request.first, request.last):
                phases, dag = calendar.phases(day), pipeline.dag(market_id, day)
                found.append((dag.dag_id, run_opens_at(phases, dag), phases.close_at))
    return found


def _new_folder(request: Request, settings: Settings) -> Path:
    """Choose the replay's folder; it is made by whoever writes there first."""
    if request.folder is None:
        now = datetime.now(UTC)
        name = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
        return settings.data.folder / REPLAYS / name
    folder = request.folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        raise ReplayError(
            f"{folder} is not empty, and a replay begins with nothing. Name a new folder, or "
            f"leave --folder out."
        )
    return folder


def _is_default(settings: Settings, name: str) -> bool:
    return any(each.name == name and each.origin == "default" for each in listing(settings))


def _prepare_database(plan: Plan, request: Request) -> None:
    """
    Make the replay's tables and turn its market clock back.

    Raises:
        ReplayError: The database that is configured has runs, or a scheduler at work.
        DatabaseError: It does not answer.
    """
    url = plan.settings.database.url.get_secret_value()
    place = Place(plan.settings, plan.folder, None)
    engine = create_engine(url)
    if place.is_local:
        plan.folder.mkdir(parents=True, exist_ok=True)
    try:
        _refuse_live_database(engine, place.shown_url)
        migrate.upgrade(url)
        with writing(engine) as connection:
            start_replay(
                connection,
                market_at=plan.market_at,
                speed=request.speed,
                only=plan.range,
                markets=list(plan.markets),
            )
    except DBAPIError as error:
        raise DatabaseError(
            f"The database {place.shown_url} does not answer: {first_line(error)}. Leave "
            f"PROMETHEUS__DATABASE__URL unset, and the replay makes a database of its own."
        ) from None
    finally:
        engine.dispose()


def _is_prepared(plan: Plan) -> bool:
    """
    Say whether the database's market clock is that of this replay.

    Raises:
        DatabaseError: The database does not answer.
    """
    url = plan.settings.database.url.get_secret_value()
    if url.startswith("sqlite") and not Path(make_url(url).database or "").is_file():
        return False  # opening it would make an empty one
    engine = create_engine(url)
    try:
        if migrate.current(engine) != migrate.head():
            return False
        with reading(engine) as connection:
            now = read_now(connection)
    except DBAPIError as error:
        shown_url = Place(plan.settings, plan.folder, None).shown_url
        raise DatabaseError(f"The database {shown_url} {what_ails(error)}") from None
    finally:
        engine.dispose()
    return now.only == plan.range and now.markets == frozenset(plan.markets)


def _refuse_live_database(engine: Engine, shown_url: str) -> None:
    if not inspect(engine).has_table(dag_runs.name):
        return
    remedy = (
        "A replay needs a database without runs: leave PROMETHEUS__DATABASE__URL unset, and it "
        "makes one of its own, or name an empty database."
    )
    with reading(engine) as connection:
        number, last = connection.execute(
            select(func.count(), func.max(dag_runs.c.as_of_date)).select_from(dag_runs)
        ).one()
        if number:
            raise ReplayError(
                f"The database {shown_url} has {output.count(number, 'run')}, the last of session "
                f"{last}. {remedy}"
            )
        if migrate.current(engine) == migrate.head():
            crew = read_crew(connection)
            if crew.scheduled and crew.leader is not None:
                raise ReplayError(
                    f"A scheduler is at work on the database {shown_url} ({crew.leader.process}). "
                    f"{remedy}"
                )


def finished(progress: Progress, dag_ids: frozenset[str]) -> bool:
    """Say whether all of some runs exist and are finished."""
    over = {run.dag_id for run in progress.runs if run.status is not RunStatus.OPEN}
    return dag_ids <= over


def _view(request: Request, plan: Plan, title: str, pages: Pages | None = None) -> View:
    console = output.console(stderr=request.as_json)
    if request.as_json or not console.is_terminal:
        return Lines(console, plan.remarks)
    return Board(
        console,
        title,
        plan.markets,
        expected=Expected(len(plan.dag_ids), plan.remarks),
        pages=pages.url if pages else None,
    )


def _tell(request: Request, plan: Plan, summary: Summary, report: Report) -> None:
    place = Place(plan.settings, plan.folder, None)
    if request.as_json:
        output.print_json(
            {
                "folder": plan.folder,
                "database": place.shown_url,
                "from": request.first,
                "to": request.last,
                "markets": list(plan.markets),
                **summary.document(),
                "checked": report.to_json(),
            }
        )
        return
    console = output.console()
    console.print()
    print_summary(console, summary)
    console.print()
    style = "bold green" if report.ok else "bold red"
    console.print(f"checked: {verdict(report)}", style=style)
    print_violations(console, report)
    console.print()
    console.print("Where the rows are", style="bold")
    console.print(f"  {place.shown_url}", markup=False, soft_wrap=True)
    print_next(console, _next_commands(plan, summary))


def _next_commands(plan: Plan, summary: Summary) -> list[tuple[str, str]]:
    me = program()
    folder = "" if plan.is_elsewhere else f" --folder {short(plan.folder)}"
    last = summary.runs[-1]
    commands = [
        (f"{me} status{folder}", "all runs of this replay"),
        (f"{me} status {last.dag_id}{folder}", "one run: its jobs and attempts"),
        (f"{me} markets", "what every market is doing now"),
    ]
    if _is_default(plan.settings, "pipelines.modules") and not plan.is_elsewhere:
        # Pipelines that only this command's environment named are not there for the next one.
        commands += [
            (f"{me} dag show {last.dag_id}", "when each of its jobs may start, and after what"),
            (f"{me} up", "the same live"),
        ]
    return commands


def _stopped(plan: Plan) -> str:
    shown = Place(plan.settings, plan.folder, None).shown_url
    return f"Stopped; every process has ended. What was done is in {shown}"
