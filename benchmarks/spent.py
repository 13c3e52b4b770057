"""The time of processors that processes have used."""

from __future__ import annotations

import time
from collections.abc import Iterable

import psutil


def used(processes: Iterable[psutil.Process]) -> float:
    """Return the seconds that some processes have used, of those alone."""
    # The clocks of other processes, see clock_getcpuclockid(3): psutil's count hundredths of
    # a second, of which an idle process uses few.
    return sum(time.clock_gettime(~process.pid << 3 | 2) for process in processes)


def used_by_family(process: psutil.Process) -> float:
    """Return the seconds that a process and all it started have used, also those that ended."""
    reaped = process.cpu_times()
    ended = float(reaped.children_user + reaped.children_system)
    return used([process, *process.children(recursive=True)]) + ended
