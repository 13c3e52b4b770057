"""Options that several commands share, and how their values are read."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, TypeAlias

import typer


def read_date(text: str) -> date:
    """Read ``2012-11-21``."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a date such as 2012-11-21") from None


def read_duration(text: str) -> timedelta:
    """Read ``45s``, ``30m`` or ``1h30m``."""
    from prometheus.core.durations import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def read_instant(text: str) -> datetime:
    """Read ``2012-11-23T17:30Z`` or ``2012-11-23 12:30 America/New_York``; see `parse_instant`."""
    from prometheus.core.instants import parse_instant

    try:
        return parse_instant(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


AsJson: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")
]
Instant: TypeAlias = Annotated[
    datetime | None,
    typer.Argument(
        parser=read_instant,
        metavar="INSTANT",
        help="An instant such as 2012-11-23T17:30Z; now by default.",
    ),
]
Folder: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        "-f",
        file_okay=False,
        help="Data folder, such as a replay's; by default the one of the settings.",
    ),
]
Actor: TypeAlias = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME", help="Who asks, for the audit; by default your login."),
]
Market: TypeAlias = Annotated[
    str, typer.Argument(metavar="MARKET", help="A market, such as US_EQ.", show_default=False)
]
RunId: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="DAG_ID", help="A run, such as us_eq_daily_2012-11-23.", show_default=False
    ),
]
Job: TypeAlias = Annotated[
    str | None,
    typer.Argument(metavar="JOB", help="One job of the run.", show_default=False),
]
TheJob: TypeAlias = Annotated[
    str, typer.Argument(metavar="JOB", help="The job of the run.", show_default=False)
]


def _read_reason(text: str) -> str:
    """Read why something is done; nothing, or what would fill a page, is refused."""
    from prometheus.actors import read_reason

    try:
        return read_reason(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


_reason = typer.Option(
    "--reason",
    parser=_read_reason,
    metavar="TEXT",
    help="Why, for whoever looks later.",
    show_default=False,
)
Reason: TypeAlias = Annotated[str, _reason]
MaybeReason: TypeAlias = Annotated[str | None, _reason]
