"""``prometheus beat``, ``worker``, ``web``, ``flower``: one process each, for who supervises it."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from prometheus.addresses import is_loopback
from prometheus.cli.commands import (
    beat_command,
    flower_command,
    web_command,
    worker_command,
)
from prometheus.cli.options import Folder
from prometheus.configuration import PREFIX
from prometheus.errors import PrometheusError

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


class NotServedError(PrometheusError):
    """A market that exists, and that this installation does not serve."""

    def __init__(self, name: str, enabled: Sequence[str]) -> None:
        self.name = name
        super().__init__(
            f"{name} is not among the markets that this installation serves "
            f"({', '.join(enabled)}). Add it to PROMETHEUS__MARKETS__ENABLED "
            f"([markets] enabled in prometheus.toml)."
        )


class OpenToAllError(PrometheusError):
    """Flower would answer whoever reaches this machine."""

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__(
            f"On {address} Flower would show every job to whoever reaches this machine. Name a "
            f"file with user:password in PROMETHEUS__FLOWER__BASIC_AUTH_FILE, or stay on 127.0.0.1."
        )


def beat() -> None:
    """
    Run a scheduler, until SIGTERM or Ctrl-C. Start two, on two machines: one leads.

    It takes its settings from the environment and prometheus.toml, and says on standard error what
    it does.
    """
    _become(beat_command())


def worker(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MARKET]...",
            help="Markets to serve; by default all of the settings.",
            show_default=False,
        ),
    ] = None,
    market: Annotated[
        list[str] | None,
        typer.Option(help="The same as an option, as often as needed.", show_default=False),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Jobs at once, each in a process of its own. Default: that of the settings.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Its name before the @ of its host. Default: its markets. Two workers of the same "
            "markets on one machine need two names.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """
    Run a worker for some markets, until SIGTERM or Ctrl-C: then it ends when its jobs have.

    What still runs after PROMETHEUS__WORKERS__SOFT_STOP, if that is set, is handed back, and with a
    second SIGTERM, or SIGQUIT, at once. It takes its settings from the
    environment and prometheus.toml, and says on standard error what it does.
    """
    from prometheus.settings import load_settings

    if name is not None and not _NAME.fullmatch(name):
        raise typer.BadParameter(f"{name!r} is not a name of letters, digits, and _ . + -")
    chosen = [*(names or ()), *(market or ())]
    enabled = load_settings(holding=True).markets.enabled
    queues = list(dict.fromkeys(_served(each, enabled) for each in chosen)) or list(enabled)
    node = name or ("+".join(queues).lower() if chosen else "worker")
    options = ["--queues", ",".join(queues), "--hostname", f"{node}@%h"]
    if concurrency is not None:
        options += ["--concurrency", str(concurrency)]
    _become(worker_command(*options))


def web(
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Default: that of the settings, 8765.", show_default=False
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Where it listens. Default: that of the settings, 127.0.0.1. Without users "
            "or tokens, any other than this machine's own is refused.",
            show_default=False,
        ),
    ] = None,
    folder: Folder = None,
) -> None:
    """
    Run the web app, until SIGTERM or Ctrl-C: pages of what is, what runs and what has been.

    The same is in JSON below /api/v1, described by /api/openapi.json; /readyz says whether
    everything that is needed works, and /metrics more.
    """
    from prometheus.cli.places import find_place

    place = find_place(folder)
    found = {
        "DATA__FOLDER": str(place.folder),
        "DATABASE__URL": place.url,
        "BROKER__URL": place.settings.broker.url.get_secret_value(),
        "WEB__PORT": str(port or place.settings.web.port),
        "WEB__ADDRESS": address or place.settings.web.address,
    }
    # Not as options, which whoever lists processes would see.
    os.environ.update({f"{PREFIX}{name}": value for name, value in found.items()})
    _become(web_command())


def flower(
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Default: that of the settings, 5555.", show_default=False
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Where it listens. Default: that of the settings, 127.0.0.1. Others are refused "
            "unless PROMETHEUS__FLOWER__BASIC_AUTH is set.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """
    Run Flower, Celery's web pages: workers, queues and tasks by name, to look at only.

    What operators do belongs to `prometheus retry` and `cancel`, which leave an audit.
    """
    from prometheus.settings import load_settings

    settings = load_settings(holding=True).flower
    listens_at = address or settings.address
    secret = settings.basic_auth.get_secret_value()
    if not secret and not is_loopback(listens_at):
        raise OpenToAllError(listens_at)
    if secret:
        # Not as an option, which whoever lists processes would see.
        os.environ["FLOWER_BASIC_AUTH"] = secret
    options = [f"--address={listens_at}", f"--port={port or settings.port}", "--read_only=true"]
    _become(flower_command(*options))


def _served(name: str, enabled: Sequence[str]) -> str:
    """Find a market among those that are served, in whatever case it is written."""
    from prometheus.core.markets import get_market

    folded = {each.casefold(): each for each in enabled}
    if name.casefold() in folded:
        return folded[name.casefold()]
    raise NotServedError(get_market(name).market_id, enabled)


def _become(command: list[str]) -> NoReturn:
    """Go on as another program: whoever started this process keeps its pid, signals and status."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)  # noqa: S606  our own command line, without a shell
