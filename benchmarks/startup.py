"""What it takes to begin: imports, calendars, and commands that somebody waits for."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence

from benchmarks.figures import Rows, beside, in_turn
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
ROUNDS = 5

CELERY = "from celery import Celery"
STATEMENTS = {
    "import prometheus": ("", "import prometheus"),
    "three default markets": (
        """
from datetime import UTC, datetime
from prometheus.core.market_state import get_market_state
now = datetime(2026, 11, 27, 15, tzinfo=UTC)
""",
        "for each in ('US_EQ', 'EU_EQ', 'ASIA_EQ'): get_market_state(each, now)",
    ),
}
"""What is measured inside a new process -> what comes before, and the statement."""


def measure_startup() -> Rows:
    """
    Measure imports inside new processes, and commands of ``prometheus`` as processes.

    Returns:
        Milliseconds of processor time, beside those of importing Celery; of the commands, beside a
        process that does nothing else.
    """
    # Installed, they are compiled once, not by each process.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith("PROMETHEUS__")
    }
    with PostgresServer() as postgres, tempfile.TemporaryDirectory() as folder:
        inside = {
            name: _inside(before, statement, environment)
            for name, (before, statement) in {**STATEMENTS, CELERY: ("", CELERY)}.items()
        }
        whole = {" ".join(command): _command(command, folder, environment) for command in COMMANDS}
        urls = {
            "SQLite": f"sqlite:///{folder}/beside.db",
            "PostgreSQL": postgres.url(postgres.create_database()),
        }
        for database, url in urls.items():
            migrate.upgrade(url)
            configured = {**environment, "PROMETHEUS__DATABASE__URL": url}
            for command in WITH_OVERRIDES:
                name = f"{' '.join(command[:2])}, {database}"
                whole[name] = _command(command, folder, configured)
        process = f"a process, {CELERY}"
        whole[process] = _process([sys.executable, "-c", CELERY], folder, environment)
        for measure in (*inside.values(), *whole.values()):
            measure()  # compiles what has changed
        rows: Rows = {}
        for subjects, reference in ((inside, CELERY), (whole, process)):
            figures = in_turn(ROUNDS, subjects)
            for name in subjects:
                if name != reference:
                    found = {name: figures[name], reference: figures[reference]}
                    rows[name] = beside("ms", found)
    return rows


def _inside(
    before: str, statement: str, environment: Mapping[str, str]
) -> Callable[[], list[float]]:
    code = (
        f"import time\n{before}\nbegan = time.process_time()\n{statement}\n"
        "print((time.process_time() - began) * 1000)"
    )

    def measure() -> list[float]:
        command = [sys.executable, "-c", code]
        return [float(subprocess.check_output(command, env=environment, text=True))]

    return measure


def _command(
    command: Sequence[str], folder: str, environment: Mapping[str, str]
) -> Callable[[], list[float]]:
    return _process([sys.executable, "-m", "prometheus.cli", *command], folder, environment)


def _process(
    command: Sequence[str], folder: str, environment: Mapping[str, str]
) -> Callable[[], list[float]]:
    def measure() -> list[float]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return [(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1_000]

    return measure
