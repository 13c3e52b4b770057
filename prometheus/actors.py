"""Who acts on an installation, and why: what an audit says of it."""

from __future__ import annotations

import contextlib
import getpass

LONGEST_REASON = 500


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
