"""Amounts of memory as people write them: ``"512MB"``, ``"2GB"``; a KB is 1024 bytes."""

from __future__ import annotations

import re

_UNITS = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?B)")


class Size(int):
    """A number of bytes that is shown with its unit."""

    def __str__(self) -> str:
        """Write it as `parse_size` reads it, with at most one decimal."""
        for unit, factor in reversed(_UNITS.items()):
            if self >= factor:
                return f"{round(int(self) / factor, 1):g}{unit}"
        return "0"


def parse_size(text: str) -> Size:
    """
    Read an amount of memory.

    Args:
        text: A number with its unit, or ``"0"``.

    Raises:
        ValueError: ``text`` is anything else.
    """
    plain = text.strip().upper().replace(" ", "")
    match = _SIZE.fullmatch(plain)
    if match is None and plain != "0":
        raise ValueError(f"{text!r} is not an amount of memory; write 512MB, 2GB or 0")
    return Size(float(match[1]) * _UNITS[match[2]]) if match else Size(0)
