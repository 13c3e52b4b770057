"""How long commands take that somebody waits for, as processes of their own."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from statistics import median

from prometheus.persistence import migrate
from tests.servers import PostgresServer

COMMANDS = (
    ("calendar", "show", "US_EQ", "2026"),
    ("calendar", "at", "2026-12-24 12:45 Europe/Paris"),
    ("calendar", "next"),
    ("calendar", "horizon"),
    ("markets",),
)
WITH_OVERRIDES = COMMANDS[:2]
"""Measured beside databases, too, whose overrides they read."""
TIMES = 15


def measure_commands(times: int = TIMES) -> dict[str, dict[str, float]]:
    """
    Measure commands of ``prometheus``: where nothing is configured, and beside databases.

    Returns:
        Command, and the database -> medians: ``wall_ms``, and ``cpu_ms``, which others at work
        matter less to.
    """
    # Installed, they are compiled once, not by each process.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith("PROMETHEUS__")
    }
    with PostgresServer() as postgres, tempfile.TemporaryDirectory() as folder:
        urls = {
            "SQLite": f"sqlite:///{folder}/beside.db",
            "PostgreSQL": postgres.url(postgres.create_database()),
        }
        for url in urls.values():
            migrate.upgrade(url)
        result = {
            " ".join(command): _measure(command, folder, environment, times) for command in COMMANDS
        }
        for command in WITH_OVERRIDES:
            for database, url in urls.items():
                beside = {**environment, "PROMETHEUS__DATABASE__URL": url}
                name = f"{' '.join(command[:2])}, {database}"
                result[name] = _measure(command, folder, beside, times)
    return result


def _measure(
    command: Sequence[str], folder: str, environment: Mapping[str, str], times: int
) -> dict[str, float]:
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
    return {"wall_ms": median(wall[1:]), "cpu_ms": median(cpu[1:])}


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
