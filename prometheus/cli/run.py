"""``prometheus run``: one run now, because an operator says so."""

from __future__ import annotations

from datetime import date
from typing import Annotated

import typer

from prometheus.cli.options import Actor, AsJson, Folder, Market, MaybeReason, read_date


def run(
    market: Market,
    day: Annotated[
        date,
        typer.Option(
            "--date", parser=read_date, metavar="DATE", help="The session's date.",
            show_default=False,
        ),
    ],
    pipeline: Annotated[str, typer.Option(help="The pipeline.")] = "daily",
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Run a finished run again, every job of it.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the run to its end.")
    ] = False,
    reason: MaybeReason = None,
    actor: Actor = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """
    Run a pipeline for one session now; windows do not count, because you say so.

    A scheduler at work on the database takes it over. Where none is, and the database is a local
    file, one is started, and ended with the run.
    """
    from prometheus.cli.running import Request, run_now

    succeeded = run_now(
        Request(
            market=market,
            day=day,
            pipeline=pipeline,
            rerun=rerun,
            wait=wait,
            reason=reason,
            actor=actor,
            folder=folder,
            as_json=as_json,
        )
    )
    if not succeeded:
        raise typer.Exit(1)
