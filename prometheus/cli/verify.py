"""``prometheus verify``: the history checker, on the rows of an installation."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from prometheus.cli.options import AsJson, Folder, read_date

if TYPE_CHECKING:
    from prometheus.settings import Settings
    from prometheus.verification import Expectation


def verify(
    first: Annotated[
        date | None,
        typer.Option(
            "--from", parser=read_date, metavar="DATE", show_default=False,
            help="With --to: every session from this date on must have a run.",
        ),
    ] = None,
    last: Annotated[
        date | None,
        typer.Option(
            "--to", parser=read_date, metavar="DATE", help="Last such date, included.",
            show_default=False,
        ),
    ] = None,
    finished: Annotated[
        bool, typer.Option("--finished", help="Nothing may be open any more.")
    ] = False,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """
    Check that every job of every run succeeded exactly once, or says why not.

    And that nothing happened which must not: see what it prints. The checker shares no code with
    the scheduler; it reads the rows and works the windows out anew from the calendar. Ends with 1
    if it finds anything.
    """
    if (first is None) != (last is None):
        raise typer.BadParameter("give both --from and --to, or neither")
    if first is not None and last is not None and last < first:
        raise typer.BadParameter(f"--to {last} is before --from {first}")
    from prometheus.cli import output
    from prometheus.cli.checked import print_report
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence.engine import reading
    from prometheus.verification import judge, read_history

    place = find_place(folder)
    expect = None
    if first is not None and last is not None:
        expect = _expected(place.settings, first, last)
    with opened(place) as engine, reading(engine) as connection:
        history = read_history(connection)
    report = judge(history, finished=finished, expect=expect)
    if as_json:
        output.print_json({"database": place.shown_url, **report.to_json()})
    else:
        print_report(output.console(), report)
    if not report.ok:
        raise typer.Exit(1)


def _expected(settings: Settings, first: date, last: date) -> Expectation:
    from prometheus.cli.pipelines import session_choices
    from prometheus.configured import configured_pipelines
    from prometheus.verification import Expectation

    pipelines = configured_pipelines(settings)
    return Expectation(
        {
            pipeline.name: [
                market for market in pipeline.markets if market in settings.markets.enabled
            ]
            for pipeline in pipelines.values()
        },
        first,
        last,
        session_choices(pipelines),
    )
