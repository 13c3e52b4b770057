"""The web app on a port of this machine."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI
from sqlalchemy.exc import DBAPIError

from prometheus.errors import DatabaseError, PrometheusError
from prometheus.memory import give_memory_back
from prometheus.monitoring.app import create_app
from prometheus.monitoring.installation import Installation
from prometheus.monitoring.pages.pulse import Pulse
from prometheus.persistence import migrate
from prometheus.persistence.engine import check_exists, is_unavailable, reading
from prometheus.persistence.users import anybody_let_in
from prometheus.settings import Settings

_ENDS_WITHIN_SECONDS = 5
"""How long requests may go on after SIGTERM."""


class NoUsersError(PrometheusError):
    """The API would answer whoever reaches this machine."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"On {where} the web API would answer whoever reaches this machine, for it has no "
            f"users and no tokens that are still good. Make one (prometheus user add NAME), or "
            f"stay on 127.0.0.1 (PROMETHEUS__WEB__ADDRESS, [web] address in prometheus.toml; no "
            f"hosts) and come from elsewhere by a tunnel: ssh -L 8765:127.0.0.1:8765 HOST"
        )


class Server(uvicorn.Server):
    """A server that ends streams when it is to end; they would have it wait for ever."""

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._pulse: Pulse = app.state.pulse

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin."""
        await super().startup(sockets)
        give_memory_back()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End."""
        self._pulse.close()
        await super().shutdown(sockets)


def serve(settings: Settings) -> None:
    """
    Answer requests until SIGTERM or Ctrl-C.

    Raises:
        NoUsersError: Others than this machine would be answered, and nobody is known.
        PrometheusError: The settings name something that does not exist.
    """
    web = settings.web
    app = create_app(settings, watches=True)
    installation: Installation = app.state.installation
    if not web.only_here and not _anybody_let_in(installation):
        raise NoUsersError(", ".join([web.address, *web.hosts]))
    config = uvicorn.Config(
        app,
        host=web.address,
        port=web.port,
        log_config=None,  # ours is set up
        access_log=False,
        server_header=False,
        ws="none",
        proxy_headers=bool(web.proxies),
        forwarded_allow_ips=list(web.proxies),
        timeout_graceful_shutdown=_ENDS_WITHIN_SECONDS,
    )
    # Both are raised again when everything has ended in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt):
        Server(app, config).run()


def _anybody_let_in(installation: Installation) -> bool:
    """Say whether anybody would be; a database that is away is no reason not to start."""
    try:
        check_exists(installation.engine)
        with reading(installation.engine) as connection:
            return anybody_let_in(connection)
    except DatabaseError:
        return False
    except DBAPIError as error:
        if is_unavailable(error):
            return True  # until it is back, nobody is let in
        migrate.check(installation.engine)
        raise
