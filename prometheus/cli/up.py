"""``prometheus up``: everything on one machine, live."""

from __future__ import annotations

from typing import Annotated

import typer

from prometheus.cli.options import AsJson, Folder


def up(
    web: Annotated[
        bool,
        typer.Option(
            "--web/--no-web",
            help="Show pages, on the port of [web] or, if something listens there, on a free one.",
        ),
    ] = True,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """
    Run everything here, live, until Ctrl-C: Redis, the scheduler, a worker and the pages.

    A process that dies is started again. The rows are in a SQLite file in the data folder, unless
    a database is configured. With --json, every change is a JSON document on a line of its own.
    """
    from prometheus.cli.living import live_here

    live_here(folder, web=web, as_json=as_json)
