"""``/api/v1/session``: signing in and out with a browser."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from pydantic import Field, SecretStr

from prometheus.actors import Action, Role
from prometheus.monitoring.api.models import Instant, Model, Name
from prometheus.monitoring.attempts import Attempts, network_of
from prometheus.monitoring.guard import SESSION, Asking, cookie_name, is_secure, role_of
from prometheus.monitoring.installation import Here
from prometheus.passwords import LONGEST, BusyError, csrf_token, is_password
from prometheus.persistence import users
from prometheus.persistence.engine import check_exists, reading

log = logging.getLogger(__name__)
router = APIRouter(tags=["session"])


class Limits:
    """
    How often somebody may fail to sign in; counted in each web process by itself.

    Of a name fewer from one place than from all: else anybody could keep somebody out.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._by_both = Attempts(10, within_seconds=600, clock=clock)
        self._by_place = Attempts(30, within_seconds=600, clock=clock)
        self._by_name = Attempts(300, within_seconds=600, clock=clock)

    def _of(self, name: str, place: str) -> list[tuple[Attempts, str]]:
        both = f"{place} {name}"
        return [(self._by_place, place), (self._by_both, both), (self._by_name, name)]

    @contextmanager
    def counting(self, name: str, place: str) -> Iterator[None]:
        """
        Count an attempt, unless it ends with an error, and so nobody learned anything.

        Raises:
            HTTPException: There were too many.
        """
        begun: list[tuple[Attempts, str]] = []
        for attempts, key in self._of(name, place):
            if waits := attempts.begin(key):
                _take_back(begun[1:])  # they were not made; what a place asks in vain counts
                raise HTTPException(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    "There were too many attempts to sign in. Wait.",
                    {"Retry-After": str(math.ceil(waits))},
                )
            begun.append((attempts, key))
        try:
            yield
        except BusyError:
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Too many sign in at once. Try again.",
                {"Retry-After": "5"},
            ) from None
        except Exception:
            _take_back(begun)
            raise

    def take_back(self, name: str, place: str) -> None:
        """Let an attempt not count, for it was not in vain."""
        _take_back(self._of(name, place))


def _take_back(begun: Iterable[tuple[Attempts, str]]) -> None:
    for attempts, key in begun:
        attempts.take_back(key)


async def _of_app(request: Request) -> Limits:
    found: Limits = request.app.state.limits
    return found


class Credentials(Model):
    """Who signs in."""

    name: Name
    password: Annotated[SecretStr, Field(max_length=LONGEST)]


class Session(Model):
    """Who asks, and what they may."""

    name: str | None
    """As it is audited; ``null`` where there are no users."""
    role: Role
    expires_at: Instant | None
    """When the sign-in or the token does."""
    csrf_token: str | None
    """What to send as ``X-CSRF-Token`` with every change, of a browser that is signed in."""
    allowed: tuple[Action, ...] | None = None
    """To which actions a token is limited; ``null``: all that the role may."""


@router.get(SESSION)
async def who_asks(here: Here, visitor: Asking) -> Session:
    """Say who asks."""
    role = role_of(visitor, here.settings.web)
    if visitor is None:
        return Session(name=None, role=role, expires_at=None, csrf_token=None)
    return Session(
        name=visitor.name,
        role=role,
        expires_at=visitor.expires_at,
        csrf_token=visitor.csrf_token,
        allowed=visitor.allowed,
    )


@router.post(SESSION)
def sign_in(
    request: Request,
    response: Response,
    here: Here,
    limits: Annotated[Limits, Depends(_of_app)],
    asked: Credentials,
) -> Session:
    """Sign a browser in by a cookie, which no page can read."""
    address = request.client.host if request.client is not None else ""
    with limits.counting(asked.name, network_of(address)):
        check_exists(here.engine)
        with reading(here.engine) as connection:
            kept = users.password_hash_of(connection, asked.name)
        # What was typed as a name may be a password.
        shown = asked.name if kept is not None else None
        is_right = is_password(asked.password.get_secret_value(), kept)
    signed_in = None
    if is_right and kept is not None:
        limits.take_back(asked.name, network_of(address))
        with here.act() as look:
            before = request.cookies.get(cookie_name(request))
            if before is not None:
                users.sign_out(look.connection, before)
            lasting = here.settings.web.sign_in_lasts
            signed_in = users.sign_in(look.connection, asked.name, kept, lasting)
    if signed_in is None:
        log.warning("sign_in_refused", extra={"user": shown, "address": address})
        raise HTTPException(
            HTTPStatus.UNAUTHORIZED,
            "The name or the password is wrong.",
            {"WWW-Authenticate": "Bearer"},
        )
    log.info("signed_in", extra={"user": shown, "address": address})
    secret, known = signed_in
    response.set_cookie(
        cookie_name(request),
        secret,
        max_age=int(here.settings.web.sign_in_lasts.total_seconds()),
        secure=is_secure(request),
        httponly=True,
        samesite="lax",
    )
    return Session(
        name=known.name,
        role=known.role,
        expires_at=known.expires_at,
        csrf_token=csrf_token(secret),
    )


@router.delete(SESSION, status_code=HTTPStatus.NO_CONTENT)
def sign_out(request: Request, response: Response, here: Here) -> None:
    """Sign the browser out; whoever is not signed in stays so."""
    name = cookie_name(request)
    secret = request.cookies.get(name)
    if secret is not None:
        with here.act() as look:
            users.sign_out(look.connection, secret)
        response.delete_cookie(name, secure=is_secure(request), httponly=True, samesite="lax")
