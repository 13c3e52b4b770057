"""Pages of lists: where the next one goes on is told by a cursor."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import date, datetime
from typing import Annotated, TypeVar

from pydantic import Field

from prometheus.monitoring.api.models import Model, in_utc
from prometheus.monitoring.problems import QuestionError

T = TypeVar("T", date, datetime)

_LONGEST_NUMBER = 19
"""Digits of what a database takes for no integer any more."""
MOST = 200
"""How many rows a page may have."""


class Page(Model):
    """What every list of several pages takes."""

    cursor: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    """``next`` of the page before."""
    limit: int = Field(default=50, ge=1, le=MOST)
    """How many rows the page may have."""


def write_cursor(at: date, name: str) -> str:
    """Write down which row was the last one of a page."""
    text = json.dumps([at.isoformat(), name])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, read: Callable[[str], T]) -> tuple[T, str] | None:
    """
    Read what `write_cursor` wrote.

    Args:
        read: Reads the row's date or instant.

    Raises:
        QuestionError: It wrote something else.
    """
    if cursor is None:
        return None
    try:
        at, name = json.loads(base64.urlsafe_b64decode(f"{cursor}=="))
        found = read(at), str(name)
    except (ValueError, TypeError, RecursionError):
        raise _no_cursor() from None
    if not found[1].isprintable():
        raise _no_cursor()
    return found


def read_number(cursor: str | None) -> int | None:
    """
    Read the cursor of a list whose rows are numbered, which is the number of a page's last row.

    Raises:
        QuestionError: It is none.
    """
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < _LONGEST_NUMBER):
        raise _no_cursor()
    return int(cursor)


def read_instant(text: str) -> datetime:
    """
    Read the instant of a cursor.

    Raises:
        ValueError: It is none.
    """
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(text)
    return in_utc(at)


def _no_cursor() -> QuestionError:
    return QuestionError("The cursor is none that a page has given: take `next` as it is.")
