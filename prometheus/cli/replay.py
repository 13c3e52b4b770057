"""``prometheus replay``: past sessions, run by real processes while the market clock leaps."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from prometheus.cli.options import AsJson, read_date


def read_speed(text: str) -> float:
    """Read ``jump`` (0) or how many times as fast as the wall clock."""
    if text == "jump":
        return 0.0
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = math.nan
    if not (math.isfinite(speed) and speed > 0):
        raise typer.BadParameter(f"{text!r} is neither jump nor a number above 0, such as 60")
    return speed


def replay(
    first: Annotated[
        date,
        typer.Option(
            "--from", parser=read_date, metavar="DATE", help="First session date.",
            show_default=False,
        ),
    ],
    last: Annotated[
        date,
        typer.Option(
            "--to", parser=read_date, metavar="DATE", help="Last session date, included.",
            show_default=False,
        ),
    ],
    market: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this market; may be given several times. Default: all of the settings.",
            show_default=False,
        ),
    ] = None,
    speed: Annotated[
        float,
        typer.Option(
            parser=read_speed, metavar="jump|N",
            help="Leap to the next thing due, or run N times as fast as the wall clock.",
        ),
    ] = "jump",  # type: ignore[assignment]  # the text that its parser reads
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", "-f", file_okay=False, show_default=False,
            help="New folder for database, logs and Redis. Default: a new one in the data folder.",
        ),
    ] = None,
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare",
            help="Only make the tables of the configured database and turn its market clock back. "
            "The schedulers and workers that are started on it then do the rest.",
        ),
    ] = False,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Only follow a replay that was prepared, to its end.",
        ),
    ] = False,
    open_: Annotated[
        bool,
        typer.Option(
            "--open", help="Show it on pages while it goes on, and afterwards until Ctrl-C.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """
    Run past sessions again, on a database and a Redis of their own.

    Real processes do it: Redis, the scheduler, a worker. Only the market clock is not the wall's.
    Ends with 0 if every run succeeded, and the history checker (`prometheus verify`) found nothing
    wrong.
    """
    if last < first:
        raise typer.BadParameter(f"--to {last} is before --from {first}")
    if prepare and follow:
        raise typer.BadParameter("--prepare and --follow are two steps, with the start between")
    if open_ and (prepare or follow):
        raise typer.BadParameter("--open is for a replay that this command does")
    if folder is not None and (prepare or follow):
        raise typer.BadParameter("--prepare and --follow go by the configured database")
    from prometheus.cli import replaying

    request = replaying.Request(
        first=first,
        last=last,
        markets=tuple(dict.fromkeys(market or ())),
        speed=speed,
        folder=folder,
        open=open_,
        as_json=as_json,
    )
    if prepare:
        replaying.prepare_replay(request)
        return
    act = replaying.follow_replay if follow else replaying.replay_sessions
    if not act(request):
        raise typer.Exit(1)
