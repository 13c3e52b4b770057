"""What is let in, before anything is asked: requests for a host of ours, by no page elsewhere."""

from __future__ import annotations

import re
from collections.abc import Collection
from http import HTTPStatus
from urllib.parse import urlsplit

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
LONGEST_BODY = 65_536
"""Bytes of a request; the rest of the app reads it into memory whole."""
_LENGTH = re.compile(r"[0-9]{1,9}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]+)(:[0-9]{1,5})?")

LOOKS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing, whatever they are asked of."""


class Doorman:
    """
    Refuses requests that name another host than ours, and changes that a page elsewhere asks for.

    A page of whatever site may let its name lead to 127.0.0.1, and a browser that shows it would
    then read the API for that site. The name it asks for gives it away.

    Such a page may also send to 127.0.0.1 without reading what comes back, and that would be enough
    to act. So whatever changes something must be said in JSON, which a browser sends for no other
    site without having asked us first, and come from no other site by what the browser says of it.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = ()) -> None:
        """
        Stand before an app.

        Args:
            hosts: Names by which it may be asked, beside those of this machine.
        """
        self._app = app
        self._hosts = frozenset(hosts)

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

        headers = Headers(scope=scope)
        host = headers.get("host", "")
        answer: ASGIApp = self._app
        name = host_name(host) if _HOST.fullmatch(host) else ""
        if not is_loopback(name) and name not in self._hosts:
            answer = respond(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"The request is for {host[:200]!r}. Ask 127.0.0.1 or localhost, on this machine, "
                f"or a name of PROMETHEUS__WEB__HOSTS ([web] hosts in prometheus.toml).",
            )
        elif scope["method"] not in LOOKS and (fault := _foreign(headers, host)):
            answer = respond(HTTPStatus.FORBIDDEN, f"{fault} Nothing was done.")
        elif _is_too_long(headers):
            answer = respond(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"Send a body of at most {LONGEST_BODY} bytes, with its Content-Length.",
            )
        await answer(scope, receive, send_with_headers)


def _foreign(headers: Headers, host: str) -> str | None:
    """Say why a request that would change something may be another site's."""
    for site in headers.getlist("sec-fetch-site"):
        if site not in ("same-origin", "none"):
            return f"The browser says that another site sends it (Sec-Fetch-Site: {site[:200]!r})."
    for origin in headers.getlist("origin"):
        if _place(origin) != host.lower():
            return f"It comes from {origin[:200]!r}, and only pages of {host} may act on it."
    kind = headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        return f"It is {kind[:200]!r}. Send JSON, with Content-Type: application/json."
    return None


def _is_too_long(headers: Headers) -> bool:
    """Say whether a body has, or may have, more than any action takes."""
    length = headers.get("content-length", "0")
    return (
        "transfer-encoding" in headers
        or not _LENGTH.fullmatch(length)
        or int(length) > LONGEST_BODY
    )


def _place(origin: str) -> str | None:
    """Return the host and port of an Origin header; ``None`` of one that has none."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def host_name(host: str) -> str:
    """Return a Host header without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
