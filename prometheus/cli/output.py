"""What commands print: tables and sentences for people, JSON for machines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prometheus.core.states import MarketState
from prometheus.masking import safe_value
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.orchestration.sensor import Readiness

STYLES: Mapping[str, str] = {
    MarketState.SESSION: "bold green",
    MarketState.PRE_OPEN: "yellow",
    MarketState.POST_CLOSE: "cyan",
    MarketState.OVERNIGHT: "dim",
    MarketState.HOLIDAY: "magenta",
    JobStatus.SUCCESS: "green",
    JobStatus.RUNNING: "bold cyan",
    JobStatus.QUEUED: "yellow",
    JobStatus.PENDING: "dim",
    JobStatus.FAILED: "bold red",
    JobStatus.EXPIRED: "red",
    JobStatus.SKIPPED: "magenta",
    JobStatus.CANCELLED: "magenta",
    RunStatus.OPEN: "bold cyan",
    "NOT YET": "yellow",
    Readiness.LATE: "bold yellow",
    Readiness.READY: "green",
    Readiness.MISSING: "bold red",
}
"""Market states, job states, run states and what sensors say, in their colours."""

_PLAIN_WIDTH = 160
"""Columns where nothing says how many there are: a pipe or a file has no right edge."""


def console(*, stderr: bool = False) -> Console:
    """
    Make a console that colours only on a terminal, and never guesses what to highlight.

    What it prints says nothing of styles: a reason with brackets in it is a reason with brackets.
    """
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PLAIN_WIDTH
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """
    Make a table without borders.

    Args:
        columns: Headings.
        right: Those of them whose values are numbers.
    """
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def coloured(word: str) -> Text:
    """Return a status or state in its colour; the word alone says as much."""
    return Text(str(word), style=STYLES.get(word, ""))


def print_json(document: Any, *, line: bool = False, safe: bool = True) -> None:
    """
    Print one JSON document on standard output.

    Args:
        document: May hold instants and dates (ISO 8601), durations (seconds) and paths.
        line: On a single line, for streams.
        safe: Whether secrets in it are hidden.
    """
    if safe:
        document = safe_value(json.loads(json.dumps(document, default=_as_json)))
    indent = None if line else 2
    print(json.dumps(document, indent=indent, default=_as_json, ensure_ascii=False), flush=True)


def _as_json(value: object) -> object:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, set | frozenset | tuple):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def in_words(span: timedelta) -> str:
    """Write a duration for people: ``"2 d 3 h"``, ``"45 min"``, ``"12 s"``, ``"0.4 s"``."""
    seconds = span.total_seconds()
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 10 and rest:
        return f"{minutes} min {rest} s"
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{minutes} min"


def shortened(text: str, most: int = 300) -> str:
    """Cut what is too long for a line, such as an error's message, and say so."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def count(number: int, noun: str) -> str:
    """Write ``"1 job"`` or ``"9 jobs"``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def utc(instant: datetime) -> str:
    """Write an instant to the minute: ``"2012-11-23 18:00 UTC"``."""
    return f"{instant:%Y-%m-%d %H:%M} UTC"


def utc_seconds(instant: datetime) -> str:
    """Write an instant to the second: ``"2012-11-23 18:00:09 UTC"``."""
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"
