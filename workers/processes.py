"""This process and those that it has started: how they are ended, and begun anew."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from billiard import active_children

from prometheus.persistence.engine import longest_under_way
from workers.app import runtime

_PR_SET_PDEATHSIG = 1
_LOOK_EVERY = 0.5
"""Wall seconds between two looks at what this process does with the database."""
_STUCK_AFTER = 2
"""Leases of a worker after which a transaction will not be answered any more."""


def end_with_parent(name: str) -> None:
    """
    Have the kernel end this process with the one that made it, where the kernel is Linux.

    Billiard does it by cffi, if that is there, whose parser of C takes 3.5 MB.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.Signals[name], 0, 0, 0)


def kill_group(leader: int) -> None:
    """Kill what a child of the pool has started, where each child leads a group of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def kill_children() -> None:
    """Kill the pool's children and what they have started."""
    for child in active_children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
        kill_group(child.pid)
        child.join()


def begin_anew() -> None:
    """Become a new process under the same pid, as whoever supervises it knows it."""
    os.execv(sys.executable, sys.orig_argv)  # noqa: S606  our own command line, without a shell


def end_when_stuck(end: Callable[[], None]) -> None:
    """
    Have something done, again and again, while a transaction of this process gets no answer.

    A database that takes what is sent and says nothing, such as a pooler that is paused, would hold
    the process for ever, and no error tells it. SQLite answers or gives up by itself.

    Args:
        end: Called in a thread of its own.
    """
    limit = _STUCK_AFTER * runtime.settings.workers.lease.total_seconds()

    def watch() -> None:
        looks = 0
        while True:
            time.sleep(_LOOK_EVERY)
            looks = looks + 1 if longest_under_way() > limit else 0
            # The second time only: a process that stood still as a whole has just begun again.
            if looks >= 2:
                end()

    if runtime.engine.dialect.name == "postgresql":
        threading.Thread(target=watch, name="database-watch", daemon=True).start()
