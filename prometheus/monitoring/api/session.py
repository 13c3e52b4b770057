"""``/api/v1/session``: signing in and out with a browser."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from pydantic import Field, SecretStr

from prometheus.actors import Role
from prometheus.monitoring.api.models import Instant, Model, Name
from prometheus.monitoring.attempts import Attempts
from prometheus.monitoring.guard import SESSION, Asking, cookie_name, is_secure
from prometheus.monitoring.installation import Here
from prometheus.passwords import LONGEST, csrf_token, is_password
from prometheus.persistence import users
from prometheus.persistence.engine import check_exists, reading

log = logging.getLogger(__name__)
router = APIRouter(tags=["session"])


class Limits:
    """How often somebody may fail to sign in; counted in each web process by itself."""

    def __init__(self) -> None:
        self.by_name = Attempts(10, within_seconds=600)
        self.by_address = Attempts(30, within_seconds=600)


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


@router.get(SESSION)
async def who_asks(here: Here, visitor: Asking) -> Session:
    """Say who asks."""
    if visitor is None:
        role = Role.OPERATOR if here.settings.web.actions else Role.VIEWER
        return Session(name=None, role=role, expires_at=None, csrf_token=None)
    return Session(
        name=visitor.name,
        role=visitor.role,
        expires_at=visitor.expires_at,
        csrf_token=visitor.csrf_token,
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
    if waits := limits.by_address.begin(address) or limits.by_name.begin(asked.name):
        raise HTTPException(
            HTTPStatus.TOO_MANY_REQUESTS,
            "There were too many attempts to sign in. Wait.",
            {"Retry-After": str(math.ceil(waits))},
        )
    check_exists(here.engine)
    with reading(here.engine) as connection:
        kept = users.password_hash_of(connection, asked.name)
    # What was typed as a name may be a password.
    shown = asked.name if kept is not None else None
    signed_in = None
    if is_password(asked.password.get_secret_value(), kept) and kept is not None:
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
    limits.by_name.take_back(asked.name)
    limits.by_address.take_back(address)
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
