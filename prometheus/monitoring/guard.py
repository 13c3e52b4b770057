"""Who asks: a user who is signed in, a program with a token, or, where are neither, anybody."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from secrets import compare_digest
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from prometheus.actors import Action, Role
from prometheus.addresses import is_loopback
from prometheus.errors import DatabaseError
from prometheus.monitoring.doorman import LOOKS, host_name
from prometheus.monitoring.installation import Installation
from prometheus.monitoring.patience import Shared
from prometheus.monitoring.prefix import link, path_of
from prometheus.passwords import csrf_token
from prometheus.persistence.engine import check_exists, is_unavailable, reading
from prometheus.persistence.users import anybody_known, find_sign_in, find_token
from prometheus.settings import WebSettings

SESSION = "/api/v1/session"
SIGN_IN_PAGE = "/sign-in"
ASSETS = "/static/"
METRICS = "/metrics"
PUBLIC = frozenset(
    {
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/version"),
        ("POST", SESSION),
        ("GET", SIGN_IN_PAGE),
    }
)
"""What everybody may ask, whoever it is: method and path; and the files that pages are made of."""
CSRF_HEADER = "X-CSRF-Token"

_OF_PROXIES = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
_PREVIEW = re.compile(r"/api/v1/(overrides/([^/]+/withdraw/)?|backfills/|holidays/decide/)preview")
"""What is posted and changes nothing; who may look may ask it."""
_ACTION = re.compile(r"/api/v1/(?:[^/]+/)*([^/]+)")
_NAMED_OTHERWISE = {
    "/api/v1/runs": Action.RUN,
    "/api/v1/backfills": Action.BACKFILL,
    "/api/v1/overrides": Action.OVERRIDE,
}
_COOKIE = "prometheus_sign_in"
_PORT = re.compile(r":([0-9]+)$")
_SCRAPE_WAITS_SECONDS = 0.5
"""How long a scrape may ask who makes it; it has little time for all it reads."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whoever asks, where there are users or tokens."""

    name: str
    """As it is audited."""
    role: Role
    expires_at: datetime
    """When the sign-in or the token does."""
    csrf_token: str | None
    """What a page must send with every change; ``None`` of a token."""
    allowed: tuple[Action, ...] | None = None
    """To which actions a token is limited; ``None``: all that the role may."""


class Guard:
    """
    Lets nobody ask anything but what is public, as soon as there is a user or a token.

    It is said anew in the database at each request: what was revoked or removed, or has got another
    role, is so at once. Where others than this machine are answered, it is so without users, too.
    """

    def __init__(self, app: ASGIApp, installation: Installation) -> None:
        self._app = app
        self._here = installation
        self._web = installation.settings.web
        self._known = Shared(self._is_closed)
        self._closed = True
        """Whether only who is known is answered, by what was seen last, or could not be."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and who makes it as its state's ``visitor``; or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        # Not of request.url, into which the Host header goes: what is routed is the scope's.
        asked = (request.method, path_of(request))
        if _is_public(*asked) or (self._web.public_metrics and asked == ("GET", METRICS)):
            request.state.visitor = None
        else:
            find = self._scraped if asked[1] == METRICS else self._find
            visitor = await run_in_threadpool(find, request)
            if visitor is not None:
                _check_may(visitor, request)
            request.state.visitor = visitor
        await self._app(scope, receive, send)

    def _find(self, request: Request) -> Visitor | None:
        token = _bearer(request)
        secret = request.cookies.get(cookie_name(request))
        check_exists(self._here.engine)
        with reading(self._here.engine) as connection:
            if token is not None:
                if found := find_token(connection, token):
                    name = f"{found.name} (token)"
                    return Visitor(name, found.role, found.expires_at, None, found.allowed)
                raise _nobody("The token is none of ours: it has expired or was revoked.")
            if secret is not None and (found := find_sign_in(connection, secret)):
                return Visitor(found.name, found.role, found.expires_at, csrf_token(secret))
            if self._web.only_here and not anybody_known(connection):
                _check_direct(request)
                return None
        if secret is not None:
            raise _nobody("You are no longer signed in.")
        session = link(request, SESSION)
        raise _nobody(f"Sign in (POST {session}), or send Authorization: Bearer TOKEN.")

    def _scraped(self, request: Request) -> Visitor | None:
        """Find who asks for metrics, which are told on this machine also without a database."""
        with contextlib.suppress(Exception):  # as it was, then: the metrics tell what ails it
            self._closed = self._known.begin().result(_SCRAPE_WAITS_SECONDS)
        if self._closed:
            return self._find(request)
        _check_direct(request)
        return None

    def _is_closed(self) -> bool:
        """Say whether only who is known is answered."""
        if not self._web.only_here:
            return True
        try:
            check_exists(self._here.engine)
            with reading(self._here.engine) as connection:
                return anybody_known(connection)
        except DatabaseError:
            return False  # there is no database, and so nobody in it
        except DBAPIError as error:
            if is_unavailable(error):
                raise
            return False  # its tables are of a release that knew no users


def _check_direct(request: Request) -> None:
    """
    Refuse what a proxy has passed on while everybody is answered who is on this machine.

    Raises:
        HTTPException: It may have come from another one.
    """
    if passed := [name for name in _OF_PROXIES if name in request.headers]:
        raise HTTPException(
            HTTPStatus.FORBIDDEN,
            f"A proxy has passed this on ({passed[0]}), and without users only this machine is "
            f"answered. Make one: prometheus user add NAME --role viewer",
        )


def _is_public(method: str, path: str) -> bool:
    return (method, path) in PUBLIC or (method == "GET" and path.startswith(ASSETS))


def _check_may(visitor: Visitor, request: Request) -> None:
    """
    Refuse what takes another role, or may be asked by a page of somebody else.

    Raises:
        HTTPException: It is.
    """
    if request.method in LOOKS:
        return
    given = request.headers.get(CSRF_HEADER, "")
    if visitor.csrf_token is not None and not compare_digest(
        given.encode(), visitor.csrf_token.encode()
    ):
        raise HTTPException(
            HTTPStatus.FORBIDDEN,
            f"Send {CSRF_HEADER} with the csrf_token of {link(request, SESSION)}. "
            f"Nothing was done.",
        )
    path = path_of(request)
    # Whoever is signed in may sign out.
    if path == SESSION or _PREVIEW.fullmatch(path):
        return
    action = action_of(path)
    if not visitor.role.covers(Role.OPERATOR):
        why = f"{visitor.name} is {visitor.role}, and only an operator acts."
    elif action is not None and not visitor.role.covers(action.role):
        why = f"{visitor.name} is {visitor.role}, and only an {action.role} may {action}."
    elif visitor.allowed is not None and action not in visitor.allowed:
        why = f"{visitor.name} is limited to: {', '.join(visitor.allowed) or 'nothing'}."
    else:
        return
    raise HTTPException(HTTPStatus.FORBIDDEN, f"{why} Nothing was done.")


def action_of(path: str) -> Action | None:
    """Name what is done by a path that is posted to; ``None``: there is nothing."""
    if path in _NAMED_OTHERWISE:
        return _NAMED_OTHERWISE[path]
    found = _ACTION.fullmatch(path)
    last = found[1] if found else None
    return next((each for each in Action if each == last), None)


def _nobody(why: str) -> HTTPException:
    return HTTPException(HTTPStatus.UNAUTHORIZED, why, {"WWW-Authenticate": "Bearer"})


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def is_secure(request: Request) -> bool:
    """Say whether a browser is to send its cookie by https only."""
    web = request.app.state.installation.settings.web
    return bool(web.https) and not is_loopback(host_name(request.headers.get("host", "")))


def cookie_name(request: Request) -> str:
    """
    Name the cookie of a sign-in.

    With ``__Host-``, no other host of the domain can set it; it then is sent to all paths. Browsers
    send what one port has set to all others, where other installations may listen, as they may
    below other paths: so port and path are in it.
    """
    port = _PORT.search(request.headers.get("host", ""))
    name = f"{_COOKIE}_{port[1]}" if port else _COOKIE
    name += link(request, "").replace("/", "+")  # which a name can not have
    return f"__Host-{name}" if is_secure(request) else name


def role_of(visitor: Visitor | None, web: WebSettings) -> Role:
    """Say what whoever asks may do; where there are no users, anybody who is let in."""
    if visitor is not None:
        return visitor.role
    return Role.ADMIN if web.actions else Role.VIEWER


async def _asking(request: Request) -> Visitor | None:
    found: Visitor | None = request.state.visitor
    return found


Asking = Annotated[Visitor | None, Depends(_asking)]
"""Who asks, as an argument of whatever answers; ``None``: anybody, for there are no users."""
