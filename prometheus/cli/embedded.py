"""The embedded stack, with the processes of this product in it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from prometheus.cli.places import STACK_FILE
from prometheus.cli.stack import (
    Interrupted,
    Stack,
    StackError,
    beat_program,
    web_program,
    worker_program,
)
from prometheus.errors import PrometheusError
from prometheus.masking import safe_url
from prometheus.settings import Settings, load_settings

_MOST_CHILDREN = 4
"""Jobs at once where nothing is configured: on a big machine, the start of more takes longer than
most pipelines."""


@dataclass(frozen=True, slots=True)
class Pages:
    """Where pages are shown."""

    port: int
    url: str

    @classmethod
    def of(cls, settings: Settings) -> Pages:
        """
        Choose the port of the settings, or, where something listens there, a free one.

        Raises:
            StackError: The address of the settings is none of this machine.
        """
        host = settings.web.address
        port = _free_port(host, settings.web.port) or _free_port(host, 0)
        if port is None:
            raise StackError(
                f"The pages can not be shown on {host}, which is no address of this machine. Use "
                f"another (PROMETHEUS__WEB__ADDRESS, [web] address in prometheus.toml), or none "
                f"of them: --no-web."
            )
        name = _OF_ALL.get(host, host)
        if ":" in name:
            name = f"[{name}]"
        return cls(port, f"http://{name}:{port}{settings.web.root_path}")


_OF_ALL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
"""An address that stands for all of this machine -> the one to ask."""


def _free_port(host: str, port: int) -> int | None:
    """Return a port on which nothing listens; ``None`` if there something does."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError:
        return None


@contextmanager
def embedded_stack(
    settings: Settings,
    folder: Path,
    say: Callable[[str], None],
    *,
    restarts: bool = False,
    forks: bool = False,
    pages: Pages | None = None,
) -> Iterator[Stack]:
    """
    Run Redis, the scheduler and a worker for all markets in a data folder, and maybe the pages.

    Other commands find them by the file that is left in the folder.

    Args:
        settings: Its database, markets and scheduler are the processes'; what else they need they
            read from where this process did.
        folder: The data folder; held while the block lasts.
        say: Tells the person who waits.
        restarts: Whether processes that die are started again.
        forks: Whether they may be copies of this process, see `Stack`.
        pages: Where the web app is to show them.

    Raises:
        StackError: The folder is in use, there is no Redis, or a process died.
        Interrupted: A signal came.
    """
    environment = {
        "PROMETHEUS__DATA__FOLDER": str(folder),
        "PROMETHEUS__MARKETS__ENABLED": ",".join(settings.markets.enabled),
        "PROMETHEUS__SCHEDULER__CREATE_RUNS": str(settings.scheduler.create_runs).lower(),
    }
    if pages is not None:
        environment["PROMETHEUS__WEB__PORT"] = str(pages.port)
    with Stack(
        folder,
        environment=environment,
        database_url=_url(settings),
        say=say,
        restarts=restarts,
        forks=forks,
    ) as stack:
        _leave_word(stack, settings)
        concurrency = settings.workers.concurrency or min(os.cpu_count() or 1, _MOST_CHILDREN)
        stack.start(
            beat_program(),
            worker_program(settings.markets.enabled, concurrency=concurrency),
            *([web_program(pages.url)] if pages is not None else []),
        )
        yield stack


@contextmanager
def stoppable(say: Callable[[], str]) -> Iterator[None]:
    """
    Make Ctrl-C and SIGTERM an ordinary end of the command, with the status that shells expect.

    Args:
        say: What to tell on standard error.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        print(say(), file=sys.stderr)
        number = interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT
        raise SystemExit(128 + number) from None


def ends_of_logs(stack: Stack, lines: int = 15) -> str:
    """Return the last lines of every process' log."""
    text = ""
    for name in stack.pids:
        log = stack.log(name)
        with contextlib.suppress(OSError):
            last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
            text += f"\nThe end of {log}:" + "".join(f"\n  {line}" for line in last)
    return text


def _url(settings: Settings) -> str | None:
    """Return the database's URL if the processes would not find it by themselves."""
    url = settings.database.url
    try:
        if load_settings().database.url == url:
            return None  # a password that is in a file need not be in an environment
    except PrometheusError:
        pass
    return url.get_secret_value()


def _leave_word(stack: Stack, settings: Settings) -> None:
    """Tell other commands where the stack's database and broker are; no password is in it."""
    document = {
        "pid": os.getpid(),
        "database_url": safe_url(settings.database.url),
        "broker_url": safe_url(SecretStr(stack.broker_url)),
    }
    path = stack.folder / STACK_FILE
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    fresh.replace(path)
