"""Everything on one machine, live, until somebody says stop."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from sqlalchemy import make_url

from prometheus.cli import output
from prometheus.cli.board import Board
from prometheus.cli.commands import imported
from prometheus.cli.embedded import Pages, embedded_stack, stoppable
from prometheus.cli.following import JsonLines, Lines, View, follow
from prometheus.cli.forks import apart, load
from prometheus.cli.places import Place, find_place, opened
from prometheus.cli.stack import FolderInUseError, holder
from prometheus.cli.summary import program, short
from prometheus.configured import configured_pipelines
from prometheus.core.market_state import get_all_market_states
from prometheus.errors import PrometheusError
from prometheus.memory import give_memory_back
from prometheus.persistence import migrate
from prometheus.persistence.clock import read_now
from prometheus.persistence.engine import create_engine, reading
from prometheus.persistence.users import anybody_let_in
from prometheus.settings import Settings, load_settings


class UpError(PrometheusError):
    """The stack can not be started; nothing was changed."""


def live_here(folder: Path | None, *, web: bool, as_json: bool) -> None:
    """
    Start the stack and show what it does, until Ctrl-C.

    Args:
        web: Whether its web app is started, too.

    Raises:
        PrometheusError: It can not be started, or one of its processes died.
    """
    place = find_place(folder)
    busy = holder(place.folder)
    if busy is not None:
        raise FolderInUseError(place.folder, busy)
    apart(partial(_prepare, place, web=web))
    # Makes this year's tables of all markets, which the copies then share as they do modules.
    get_all_market_states(datetime.now(UTC), place.settings.markets.enabled)
    load(imported(web=web))
    with stoppable(lambda: "Stopped; every process has ended."), ExitStack() as stack:
        pages = Pages.of(place.settings) if web else None
        view = stack.enter_context(_view(place, as_json, pages))
        view.say(f"starting Redis, the scheduler and a worker in {place.folder}")
        running = stack.enter_context(
            embedded_stack(
                place.settings, place.folder, view.say, restarts=True, forks=True, pages=pages
            )
        )
        if pages is not None:
            view.say(f"pages: {pages.url}")
        view.say("running")
        give_memory_back()
        engine = stack.enter_context(opened(place))
        follow(engine, view, until=lambda _: False, stack=running, stalled_after=None)


def _prepare(place: Place, *, web: bool) -> None:
    """Make the folder's database if there is none, and refuse what would not do."""
    configured_pipelines(place.settings)  # all faults now, rather than in a child's log
    make_local_database(place)
    with opened(place) as engine, reading(engine) as connection:
        if not read_now(connection).clock.is_live:
            raise UpError(
                f"{place.shown_url} holds a replay, whose market clock is not the wall's. "
                f"Use another data folder: --folder, or PROMETHEUS__DATA__FOLDER."
            )
        if web and not place.settings.web.only_here and not anybody_let_in(connection):
            raise UpError(
                f"On {place.settings.web.address} the pages would answer whoever reaches "
                f"this machine, for there are no users. Make one ({program()} user add "
                f"NAME), or show no pages: --no-web."
            )


def make_local_database(place: Place) -> None:
    """
    Create the tables of the data folder's own SQLite file, if they are not there.

    A database that has tables, or lies elsewhere, is left as it is: bringing it to this release
    is a decision.
    """
    if not place.is_local:
        return
    path = Path(make_url(place.url).database or "")
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(place.url)
    try:
        empty = not path.exists() or migrate.current(engine) is None
    finally:
        engine.dispose()
    if empty:
        migrate.upgrade(place.url)


def _view(place: Place, as_json: bool, pages: Pages | None) -> View:
    if as_json:
        return JsonLines()
    console = output.console()
    if not console.is_terminal:
        return Lines(console)
    note = (
        f"Ctrl-C stops everything in order. Elsewhere: {program()} status"
        f"{folder_option(place.settings)}"
    )
    markets = place.settings.markets.enabled
    return Board(console, "prometheus", markets, pages=pages.url if pages else None, note=note)


def folder_option(settings: Settings) -> str:
    """Return what names the data folder to another command; nothing where it is the usual one."""
    folder = settings.data.folder
    usual = load_settings().data.folder
    return "" if folder == usual else f" --folder {short(folder)}"
