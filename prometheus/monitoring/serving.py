"""The web app on a port of this machine."""

from __future__ import annotations

import contextlib
import socket

import uvicorn
from fastapi import FastAPI

from prometheus.addresses import is_loopback
from prometheus.errors import PrometheusError
from prometheus.monitoring.app import create_app
from prometheus.monitoring.pages.pulse import Pulse
from prometheus.settings import Settings

_ENDS_WITHIN_SECONDS = 5
"""How long requests may go on after SIGTERM."""


class NoUsersError(PrometheusError):
    """The API would answer whoever reaches this machine."""

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__(
            f"On {address} the web API would answer whoever reaches this machine, for it has no "
            f"users yet. Stay on 127.0.0.1 (PROMETHEUS__WEB__ADDRESS, [web] address in "
            f"prometheus.toml), and come from elsewhere by a tunnel: "
            f"ssh -L 8765:127.0.0.1:8765 HOST"
        )


class Server(uvicorn.Server):
    """A server that ends streams when it is to end; they would have it wait for ever."""

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._pulse: Pulse = app.state.pulse

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End."""
        self._pulse.close()
        await super().shutdown(sockets)


def serve(settings: Settings) -> None:
    """
    Answer requests until SIGTERM or Ctrl-C.

    Raises:
        NoUsersError: The address is not this machine's own.
        PrometheusError: The settings name something that does not exist.
    """
    address = settings.web.address
    if not is_loopback(address):
        raise NoUsersError(address)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=address,
        port=settings.web.port,
        log_config=None,  # ours is set up
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_ENDS_WITHIN_SECONDS,
    )
    with contextlib.suppress(KeyboardInterrupt):  # raised again when everything has ended in order
        Server(app, config).run()
