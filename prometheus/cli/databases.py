"""``prometheus db``: the tables and their revision."""

from __future__ import annotations

from typing import Annotated

import typer

from prometheus.cli.options import AsJson, Folder

application = typer.Typer(no_args_is_help=True, help="Bring the database to this release.")


@application.callback()
def _group() -> None:
    """Bring the database to this release."""


@application.command("upgrade")
def upgrade(
    folder: Folder = None,
    revision: Annotated[str, typer.Option(help="Upgrade to this revision.")] = "head",
    as_json: AsJson = False,
) -> None:
    """Create the tables, or bring them to this release; no row is lost."""
    from pathlib import Path

    from alembic.util import CommandError
    from sqlalchemy import make_url
    from sqlalchemy.exc import DBAPIError

    from prometheus.cli import output
    from prometheus.cli.places import DatabaseError, find_place, what_ails
    from prometheus.persistence import migrate
    from prometheus.persistence.engine import create_engine

    place = find_place(folder)
    engine = create_engine(place.url)
    if engine.dialect.name == "sqlite":
        Path(make_url(place.url).database or "").parent.mkdir(parents=True, exist_ok=True)
    try:
        before = migrate.current(engine)
        migrate.upgrade(place.url, revision)
        after = migrate.current(engine)
    except DBAPIError as error:
        raise DatabaseError(
            f"The database {place.shown_url} was not upgraded: it {what_ails(error)}"
        ) from None
    except CommandError as error:
        raise DatabaseError(
            f"The database {place.shown_url} was not upgraded: {error} "
            f"It may be of a newer release than this one."
        ) from None
    finally:
        engine.dispose()
    if as_json:
        output.print_json({"database": place.shown_url, "before": before, "revision": after})
    elif before == after:
        print(f"{place.shown_url} is at revision {after} already.")
    else:
        print(f"{place.shown_url}: {before or 'no tables'} -> {after}")


@application.command("current")
def current(folder: Folder = None, as_json: AsJson = False) -> None:
    """Show the database's revision; ends with 1 if it is not this release's."""
    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence import migrate

    place = find_place(folder)
    with opened(place, checked=False) as engine:
        found = migrate.current(engine)
    wanted = migrate.head()
    if as_json:
        document = {"database": place.shown_url, "revision": found, "wanted": wanted}
        output.print_json(document)
    else:
        state = "up to date" if found == wanted else f"this release needs {wanted}"
        print(f"{place.shown_url}: {found or 'no tables'}, {state}")
        if found != wanted:
            print("Run: prometheus db upgrade")
    if found != wanted:
        raise typer.Exit(1)
