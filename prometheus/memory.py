"""Memory that has been freed, and that a process would keep."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager

LOOKS_AFTER = 0.1
"""Wall seconds of work after which what it freed is looked for, which takes 0.2 ms and more."""

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
if _trim is not None:
    _trim.argtypes = [ctypes.c_size_t]


def give_memory_back() -> None:
    """Return to the system what has been freed; glibc keeps it for what is as big again."""
    if _trim is not None:
        _trim(0)


@contextmanager
def memory_given_back() -> Iterator[None]:
    """Give back what the block has freed, if it took long enough to have freed much."""
    began = time.monotonic()
    try:
        yield
    finally:
        if time.monotonic() - began > LOOKS_AFTER:
            give_memory_back()
