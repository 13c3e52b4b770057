"""The path below which a proxy serves the app, whether it takes it away or passes it on."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class Prefix:
    """
    Has every path begin with the prefix, as ASGI wants it; what is routed is the rest.

    Whatever comes without it, from a proxy that has taken it away or past any, is answered alike.
    Which it is can be told, for no path of the app's own begins like the prefix.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        """
        Stand before an app.

        Args:
            prefix: Such as ``/prometheus``; empty where there is none.
        """
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        answer: ASGIApp = self._app
        if scope["type"] == "http" and self._prefix:
            # In place: what makes pages of errors stands before this, and has the same scope.
            scope["root_path"] = self._prefix
            if scope["path"] == self._prefix:  # from where links would lead out of it
                asked = scope["query_string"].decode("latin-1")
                answer = RedirectResponse(f"{self._prefix}/" + (f"?{asked}" if asked else ""))
            elif not scope["path"].startswith(f"{self._prefix}/"):
                scope["path"] = self._prefix + scope["path"]
                scope["raw_path"] = self._prefix.encode() + scope["raw_path"]
        await answer(scope, receive, send)


def path_of(request: Request) -> str:
    """Return what is asked for, without the prefix."""
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", ""))


def link(request: Request, path: str) -> str:
    """Return a path of the app's own as it is asked for, with the prefix."""
    prefix: str = request.scope.get("root_path", "")
    return prefix + path
