"""Who is let in, before anything is asked: requests made to this machine by its own name."""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prometheus.addresses import is_loopback
from prometheus.monitoring.problems import respond

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
"""Of every response."""


class Doorman:
    """
    Refuses requests that name another host than this machine.

    A page of whatever site may let its name lead to 127.0.0.1, and a browser that shows it would
    then read the API for that site. The name it asks for gives it away.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        host = Headers(scope=scope).get("host", "")
        if is_loopback(_name(host)):
            await self._app(scope, receive, send_with_headers)
            return
        refusal = respond(
            HTTPStatus.MISDIRECTED_REQUEST,
            f"The request is for {host[:200]!r}. Ask 127.0.0.1 or localhost: without users, only "
            f"this machine is answered.",
        )
        await refusal(scope, receive, send_with_headers)


def _name(host: str) -> str:
    """Return a Host header without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
