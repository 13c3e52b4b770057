"""How processes are started, so that they run our packages and no others of their names."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Without the current folder, where another may have a name of ours.
_PYTHON = (sys.executable, "-P")

_OF_CELERY = (
    *("celery.app.amqp", "celery.app.control", "celery.app.events", "celery.app.log"),
    *("celery.apps.beat", "celery.apps.worker", "celery.bin.beat", "celery.bin.worker"),
    *("celery.concurrency.prefork", "celery.fixups.django", "celery.worker.autoscale"),
    *("celery.worker.consumer.delayed_delivery", "celery.worker.strategy"),
    *("prometheus.bootstrap", "prometheus.log_lines", "prometheus.orchestration.daily"),
)
_OF_WEB = (
    *("anyio._backends._asyncio", "uvicorn.lifespan.on", "uvicorn.protocols.http.auto"),
    "prometheus.monitoring.serving",
)


def imported(*, web: bool) -> tuple[str, ...]:
    """Return what a scheduler and a worker import, but for `workers`, which reads the settings."""
    return (*_OF_CELERY, *(_OF_WEB if web else ()))


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


def module_of(command: Sequence[str | Path]) -> list[str]:
    """Return the module that a command of ours runs, and its arguments; nothing of any other."""
    words = [str(each) for each in command]
    return words[3:] if words[:3] == [*_PYTHON, "-m"] else []


def flower_command(*options: str) -> list[str]:
    """Return the command of Flower, with options of its own."""
    # Ours before Celery looks for it in the current folder.
    start = "import workers; from celery.__main__ import main; main()"
    return [*_PYTHON, "-c", start, "-A", "workers", "flower", *options]
