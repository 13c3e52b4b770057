"""How long commands take that somebody waits for, as processes of their own."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from statistics import median

COMMANDS = (
    ("calendar", "show", "US_EQ", "2026"),
    ("calendar", "at", "2026-12-24 12:45 Europe/Paris"),
    ("calendar", "next"),
    ("calendar", "horizon"),
    ("markets",),
)
TIMES = 15


def measure_commands(times: int = TIMES) -> dict[str, dict[str, float]]:
    """
    Measure commands of ``prometheus``, where nothing is configured.

    Returns:
        Command -> medians: ``wall_ms``, and ``cpu_ms``, which others at work matter less to.
    """
    # Installed, they are compiled once, not by each process.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith("PROMETHEUS__")
    }
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            wall, cpu = [], []
            for _ in range(times + 1):
                before, began = _cpu_of_children(), time.perf_counter()
                subprocess.run(
                    [sys.executable, "-m", "prometheus.cli", *command],
                    cwd=folder,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    check=True,
                )
                wall.append((time.perf_counter() - began) * 1000)
                cpu.append((_cpu_of_children() - before) * 1000)
            # The first one compiled what had changed.
            result[" ".join(command)] = {"wall_ms": median(wall[1:]), "cpu_ms": median(cpu[1:])}
    return result


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
