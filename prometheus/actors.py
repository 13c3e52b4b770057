"""Who acts on an installation, what they may, and why: what an audit says of it."""

from __future__ import annotations

import contextlib
import getpass
import json
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

LONGEST_REASON = 500
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")


class Role(StrEnum):
    """What a user or a token may do over the web; each may do what those before it may."""

    VIEWER = "viewer"
    """Look at everything."""
    OPERATOR = "operator"
    """Act on runs, jobs, pauses, backfills and alerts."""
    ADMIN = "admin"
    """Also change what all markets stand on: overrides, holidays; and send test alerts."""

    def covers(self, needed: Role) -> bool:
        """Say whether who has this role may do what takes another."""
        roles = list(Role)
        return roles.index(self) >= roles.index(needed)


class Action(StrEnum):
    """What can be done by the API, as its paths name it; a token may be limited to some."""

    RUN = "run"
    RETRY = "retry"
    CANCEL = "cancel"
    SKIP = "skip"
    FORCE_SUCCESS = "force-success"
    HOLD = "hold"
    RELEASE = "release"
    PAUSE = "pause"
    RESUME = "resume"
    BACKFILL = "backfill"
    STOP = "stop"
    """Of a backfill."""
    ACK = "ack"
    """Of an alert."""
    OVERRIDE = "override"
    WITHDRAW = "withdraw"
    """Of an override."""
    SYNC = "sync"
    """Ask a feed for holidays."""
    DECIDE = "decide"
    """On what a feed says of holidays."""
    TEST = "test"
    """Send a message by the channels."""

    @property
    def role(self) -> Role:
        """The least that may do it."""
        return Role.ADMIN if self in _OF_ADMINS else Role.OPERATOR


_OF_ADMINS = frozenset({Action.OVERRIDE, Action.WITHDRAW, Action.SYNC, Action.DECIDE, Action.TEST})


def read_name(text: str) -> str:
    """
    Read the name of a user or of a token.

    Raises:
        ValueError: It could be mistaken for another, or for something else.
    """
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"{text[:80]!r} is no name: write up to 64 of a-z, 0-9, . _ @ -, a letter or digit "
            f"first"
        )
    return text


def login() -> str:
    """Name the operating system's user that this process is of."""
    with contextlib.suppress(OSError, KeyError, ImportError):
        # A process in a container may have a number without a name.
        return getpass.getuser()
    return "unknown"


def read_reason(text: str) -> str:
    """
    Read why something is done, as one line.

    Raises:
        ValueError: It is empty, would fill a page, or has signs that a terminal would obey.
    """
    line = " ".join(text.split())
    if not line or len(text) > LONGEST_REASON or not line.isprintable():
        raise ValueError(f"write a reason of at most {LONGEST_REASON} printable characters")
    return line


def tell_details(details: Mapping[str, Any]) -> tuple[str, str]:
    """
    Return why something was done, and what else its audit row says.

    What has changed comes last: ``run: us_eq_daily_2026-11-20; jobs b: QUEUED → SKIPPED``.
    """
    told = [
        f"{name}: {_written(value)}"
        for name, value in details.items()
        if name not in ("reason", "before", "after") and value is not None
    ]
    before, after = details.get("before"), details.get("after")
    if isinstance(before, Mapping) or isinstance(after, Mapping):
        was, now = dict(_each_of(before)), dict(_each_of(after))
        told += [
            f"{name}: {_written(was.get(name))} → {_written(now.get(name))}"
            for name in {**was, **now}
            if was.get(name) != now.get(name)
        ]
    elif before != after:
        told.append(f"{_written(before)} → {_written(after)}")
    return details.get("reason") or "", "; ".join(told)


def _each_of(values: Any) -> Iterator[tuple[str, Any]]:
    """Give what is changed one by one: of a mapping in it, such as jobs, each for itself."""
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping):
            yield from ((f"{name} {inner}", each) for inner, each in value.items())
        else:
            yield name, value


def _written(value: Any) -> str:
    """Write a JSON value for people."""
    if value is None:
        return "nothing"
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False)
