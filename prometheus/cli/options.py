"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, TypeAlias
from zoneinfo import ZoneInfo, available_timezones

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
    """
    Read an instant with its offset or its zone; one without either is refused, never guessed.

    ``2012-11-23T17:30Z``, ``2012-11-23T12:30-05:00`` or ``2012-11-23 12:30 America/New_York``.
    """
    stamp, _, place = text.strip().rpartition(" ")
    zone = _zone(place) if stamp and _ZONE.fullmatch(place) else None
    try:
        instant = datetime.fromisoformat(text if zone is None else stamp)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not an instant such as 2012-11-23T17:30Z") from None
    if zone is not None:
        instant = _on_the_clocks_of(instant, zone, text)
    if instant.utcoffset() is None:
        raise typer.BadParameter(
            f"{text!r} has no time zone, so it could be any of 24 hours. "
            f"Write {_with_zone(text)} for UTC."
        )
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is outside the years that have dates") from None


_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]*")


def _zone(name: str) -> ZoneInfo:
    from prometheus.errors import nearest

    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # a folder of zones is an OSError
        known = nearest(name, available_timezones())
        raise typer.BadParameter(f"{name!r} is not a time zone.{known}") from None


def _on_the_clocks_of(stamp: datetime, zone: ZoneInfo, text: str) -> datetime:
    """Place a local time; where clocks skip it or show it twice, it is refused."""
    if stamp.utcoffset() is not None:
        raise typer.BadParameter(f"{text!r} has both an offset and a zone; write one of them")
    first, second = (stamp.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return first
    shown = first.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == stamp
    either = " or ".join(f"{each.isoformat()}" for each in (first, second))
    raise typer.BadParameter(
        f"{text!r} comes twice, as clocks are set back. Write {either}."
        if shown
        else f"{text!r} does not exist: clocks are set forward over it"
    )


def _with_zone(text: str) -> str:
    return f"{text}Z" if len(text) > len("2012-11-23") else f"{text}T00:00Z"


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
    if not text.strip() or len(text) > _LONGEST_REASON:
        raise typer.BadParameter(f"write a reason of at most {_LONGEST_REASON} characters")
    return " ".join(text.split())


_LONGEST_REASON = 500
Reason: TypeAlias = Annotated[
    str,
    typer.Option(
        "--reason", parser=_read_reason, metavar="TEXT", help="Why, for whoever looks later."
    ),
]
