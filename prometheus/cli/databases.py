"""``prometheus db``: the tables and their revision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from prometheus.cli.options import AsJson, Folder

if TYPE_CHECKING:
    from sqlalchemy import Engine

application = typer.Typer(no_args_is_help=True, help="Bring the database to a release.")


@application.callback()
def _group() -> None:
    """Bring the database to a release."""


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
    from prometheus.cli.places import find_place
    from prometheus.errors import DatabaseError
    from prometheus.persistence import migrate
    from prometheus.persistence.engine import create_engine, what_ails

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


@application.command("check")
def check(folder: Folder = None, as_json: AsJson = False) -> None:
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


@application.command("downgrade")
def downgrade(
    revision: Annotated[
        str,
        typer.Argument(
            metavar="REVISION",
            help="The earlier release's, which its `prometheus db check` names; `base` drops all.",
            show_default=False,
        ),
    ],
    folder: Folder = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """
    Take the database back to the tables of an earlier release, for going back to that.

    What only later releases know is lost: it is shown first, and it asks. With --json and without
    --yes it only shows. While a beat or a worker of this release is at work it is refused.
    """
    from sqlalchemy.exc import DBAPIError

    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.errors import DatabaseError
    from prometheus.persistence import migrate
    from prometheus.persistence.engine import what_ails

    place = find_place(folder)
    begin = f"The database {place.shown_url} was not changed: "
    try:
        with opened(place, checked=False) as engine:
            before = migrate.current(engine)
            steps = migrate.steps_back(engine, revision)
            if not steps:
                raise DatabaseError(f"{begin}it is at revision {before or 'none'} already.")
            busy = [f"the stack with pid {place.stack.pid}"] if place.stack is not None else []
            if before == migrate.head():
                busy += _at_work(engine)
            if busy:
                raise DatabaseError(f"{begin}{busy[0]} is at work on it. Stop all that is.")
        if not as_json:
            for step in steps:
                print(f"{step.revision}  {step.title}\n      {step.words}")
        decided = yes or (not as_json and typer.confirm("Take this back?"))
        if decided:
            migrate.downgrade(place.url, revision)
    except DBAPIError as error:
        raise DatabaseError(f"{begin}it {what_ails(error)}") from None
    after = steps[-1].below if decided else before
    if as_json:
        document = {
            "database": place.shown_url,
            "before": before,
            "revision": after,
            "taken_back": [step.revision for step in steps],
            "decided": decided,
        }
        output.print_json(document)
    elif decided:
        print(f"{place.shown_url}: {before} -> {after or 'no tables'}")
    else:
        print("Nothing was changed.")
    if not (decided or as_json):
        raise typer.Exit(1)


def _at_work(engine: Engine) -> list[str]:
    """Name the beat and the workers that hold a lease."""
    from prometheus.dispatch.crew import read_crew
    from prometheus.persistence.engine import reading

    with reading(engine) as connection:
        crew = read_crew(connection)
    leads = [crew.leader.process] if crew.leader is not None and crew.leader.alive else []
    return [*(f"the beat of {each}" for each in leads), *(each["worker"] for each in crew.workers)]
