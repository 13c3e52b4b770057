"""How processes are started, so that they run our packages and no others of their names."""

from __future__ import annotations

import sys


def celery_command(*arguments: str) -> list[str]:
    """Return the command of one of Celery's processes, such as ``celery_command("beat")``."""
    return [
        # Ours before Celery looks in the current folder, where another may have its name.
        *(sys.executable, "-P", "-c", "import workers; from celery.__main__ import main; main()"),
        *("-A", "workers"),
        *arguments,
    ]


def beat_command() -> list[str]:
    """Return the command of a scheduler."""
    return celery_command("beat", "--loglevel", "INFO")


def worker_command(*options: str) -> list[str]:
    """Return the command of a worker, with options of Celery's."""
    # The first two are for many workers that watch each other; the database does that here.
    usual = ("--without-gossip", "--without-mingle", "--loglevel", "INFO")
    return celery_command("worker", *options, *usual)


def web_command() -> list[str]:
    """Return the command of the web app, which is no Celery."""
    return [sys.executable, "-P", "-m", "prometheus.monitoring"]
