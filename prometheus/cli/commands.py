"""How processes are started, so that they run our packages and no others of their names."""

from __future__ import annotations

import sys

# Without the current folder, where another may have a name of ours.
_PYTHON = (sys.executable, "-P")


def beat_command() -> list[str]:
    """Return the command of a scheduler."""
    return [*_PYTHON, "-m", "workers", "beat", "--loglevel", "INFO"]


def worker_command(*options: str) -> list[str]:
    """Return the command of a worker, with options of Celery's."""
    # The first two are for many workers that watch each other; the database does that here.
    usual = ("--without-gossip", "--without-mingle", "--loglevel", "INFO")
    return [*_PYTHON, "-m", "workers", "worker", *options, *usual]


def web_command() -> list[str]:
    """Return the command of the web app, which is no Celery."""
    return [*_PYTHON, "-m", "prometheus.monitoring"]


def flower_command(*options: str) -> list[str]:
    """Return the command of Flower, with options of its own."""
    # Ours before Celery looks for it in the current folder.
    start = "import workers; from celery.__main__ import main; main()"
    return [*_PYTHON, "-c", start, "-A", "workers", "flower", *options]
