"""Who may ask the web API: users, the browsers in which they are signed in, and tokens."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from prometheus.actors import Action, Role
from prometheus.core.instants import write_instant
from prometheus.errors import PrometheusError, nearest
from prometheus.masking import TOKEN_PREFIX
from prometheus.passwords import make_secret, secret_hash
from prometheus.persistence.audits import record_audit
from prometheus.persistence.leases import wall_time
from prometheus.persistence.metadata import database_now
from prometheus.persistence.runs import insert_new
from prometheus.persistence.tables import api_tokens, sign_ins, users

_u, _t, _s = users.c, api_tokens.c, sign_ins.c


class UserError(PrometheusError):
    """A change of a user or a token that can not be made."""


class UnknownUserError(UserError):
    """There is no user, or no token, of a name."""

    def __init__(self, what: str, name: str, known: Collection[str]) -> None:
        self.name = name
        super().__init__(f"There is no {what} {name!r}.{nearest(name, known)}")


@dataclass(frozen=True, slots=True)
class User:
    """Who may sign in."""

    name: str
    role: Role
    created_at: datetime
    password_set_at: datetime


@dataclass(frozen=True, slots=True)
class Token:
    """What a program shows; of the secret itself nothing is known."""

    name: str
    role: Role
    created_at: datetime
    expires_at: datetime
    allowed: tuple[Action, ...] | None
    """To which actions it is limited; ``None``: all that its role may."""


# --- users --------------------------------------------------------------------------------------


def read_users(connection: Connection) -> list[User]:
    """Return all users, by name."""
    rows = connection.execute(
        select(_u.name, _u.role, _u.created_at, _u.password_set_at).order_by(_u.name)
    )
    return [User(row.name, Role(row.role), row.created_at, row.password_set_at) for row in rows]


def add_user(
    connection: Connection, name: str, role: Role, password_hash: str, *, actor: str
) -> None:
    """
    Let somebody sign in.

    Args:
        password_hash: Of `hash_password`, which takes too long for a transaction.

    Raises:
        UserError: There is a user of this name.
    """
    kept = {"name": name, "role": role.value, "password_hash": password_hash}
    if not insert_new(connection, users, kept):
        raise UserError(f"There is a user {name!r} already.")
    record_audit(connection, actor, "user_add", name, {}, before=None, after=role.value)


def set_password(connection: Connection, name: str, password_hash: str, *, actor: str) -> None:
    """
    Give a user another password; whoever is signed in as this user no longer is.

    Args:
        password_hash: See `add_user`.

    Raises:
        UserError: There is no such user.
    """
    values = {"password_hash": password_hash, "password_set_at": wall_time(connection)}
    changed = connection.execute(update(users).where(_u.name == name).values(values)).rowcount
    _known(connection, name, changed > 0)
    connection.execute(delete(sign_ins).where(_s.user_name == name))
    words = {"before": "a password", "after": "another password"}
    record_audit(connection, actor, "user_set_password", name, {}, **words)


def set_role(connection: Connection, name: str, role: Role, *, actor: str) -> None:
    """
    Give a user another role, from the next request on.

    Raises:
        UserError: There is no such user.
    """
    before = connection.execute(
        select(_u.role).where(_u.name == name).with_for_update()
    ).scalar_one_or_none()
    _known(connection, name, before is not None)
    connection.execute(update(users).where(_u.name == name).values(role=role.value))
    record_audit(connection, actor, "user_set_role", name, {}, before=before, after=role.value)


def remove_user(connection: Connection, name: str, *, actor: str) -> None:
    """
    Let a user ask nothing more, from the next request on.

    Raises:
        UserError: There is no such user.
    """
    role = connection.execute(
        delete(users).where(_u.name == name).returning(_u.role)
    ).scalar_one_or_none()
    _known(connection, name, role is not None)
    record_audit(connection, actor, "user_remove", name, {}, before=role, after=None)


def _known(connection: Connection, name: str, found: bool) -> None:
    if not found:
        raise UnknownUserError("user", name, [user.name for user in read_users(connection)])


# --- tokens -------------------------------------------------------------------------------------


def read_tokens(connection: Connection) -> list[Token]:
    """Return all tokens, by name; those that have expired, too."""
    rows = connection.execute(
        select(_t.name, _t.role, _t.created_at, _t.expires_at, _t.allowed).order_by(_t.name)
    )
    return [
        Token(row.name, Role(row.role), row.created_at, row.expires_at, _actions(row.allowed))
        for row in rows
    ]


def _actions(kept: list[str] | None) -> tuple[Action, ...] | None:
    """Read what a token is limited to; what only another release knows is not among it."""
    return None if kept is None else tuple(each for each in Action if each in kept)


def add_token(
    connection: Connection,
    name: str,
    role: Role,
    lasting: timedelta,
    *,
    allowed: Collection[Action] | None = None,
    actor: str,
) -> tuple[str, datetime]:
    """
    Make a token.

    Args:
        allowed: To which actions it is limited; otherwise it may all that its role may.

    Returns:
        The token, which can not be had again, and when it expires.

    Raises:
        UserError: There is a token of this name, or its role may not what it is limited to.
    """
    for action in allowed or ():
        if not role.covers(action.role):
            raise UserError(f"A token with the role {role} may not {action}: --role {action.role}")
    token = f"{TOKEN_PREFIX}{make_secret()}"
    expires_at = wall_time(connection) + lasting
    kept = {
        "name": name,
        "role": role.value,
        "token_hash": secret_hash(token),
        "expires_at": expires_at,
        "allowed": None if allowed is None else sorted(set(allowed)),
    }
    if not insert_new(connection, api_tokens, kept):
        raise UserError(f"There is a token {name!r} already. Revoke it, or take another name.")
    details: dict[str, Any] = {"expires_at": write_instant(expires_at)}
    if allowed is not None:
        details["allowed"] = kept["allowed"]
    record_audit(connection, actor, "token_add", name, details, before=None, after=role.value)
    return token, expires_at


def revoke_token(connection: Connection, name: str, *, actor: str) -> None:
    """
    Let a token be good for nothing, from the next request on.

    Raises:
        UserError: There is no such token.
    """
    role = connection.execute(
        delete(api_tokens).where(_t.name == name).returning(_t.role)
    ).scalar_one_or_none()
    if role is None:
        known = [token.name for token in read_tokens(connection)]
        raise UnknownUserError("token", name, known)
    record_audit(connection, actor, "token_revoke", name, {}, before=role, after=None)


def anybody_known(connection: Connection) -> bool:
    """
    Say whether there is a user or a token, and so whether all others are refused.

    A token that has expired counts: no door opens because time passes.
    """
    found: bool = connection.execute(
        select(select(_u.name).exists() | select(_t.name).exists())
    ).scalar_one()
    return found


def anybody_let_in(connection: Connection) -> bool:
    """Say whether there is a user, or a token that is still good."""
    good = select(_t.name).where(_t.expires_at > database_now())
    found: bool = connection.execute(select(select(_u.name).exists() | good.exists())).scalar_one()
    return found


# --- who asks -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Known:
    """A user or a token, and until when what was shown is good."""

    name: str
    role: Role
    expires_at: datetime
    allowed: tuple[Action, ...] | None = None
    """See `Token`."""


def find_token(connection: Connection, token: str) -> Known | None:
    """Return the token that this is, unless it has expired."""
    row = connection.execute(
        select(_t.name, _t.role, _t.expires_at, _t.allowed).where(
            _t.token_hash == secret_hash(token), _t.expires_at > database_now()
        )
    ).first()
    return row and Known(row.name, Role(row.role), row.expires_at, _actions(row.allowed))


def find_sign_in(connection: Connection, secret: str) -> Known | None:
    """Return the user who is signed in with a secret, and with the role of this moment."""
    row = connection.execute(
        select(_u.name, _u.role, _s.expires_at)
        .join_from(sign_ins, users)
        .where(_s.secret_hash == secret_hash(secret), _s.expires_at > database_now())
    ).first()
    return row and Known(row.name, Role(row.role), row.expires_at)


def password_hash_of(connection: Connection, name: str) -> str | None:
    """Return what is kept of a user's password; ``None`` if there is no such user."""
    return connection.execute(select(_u.password_hash).where(_u.name == name)).scalar()


def sign_in(
    connection: Connection, name: str, password_hash: str, lasting: timedelta
) -> tuple[str, Known] | None:
    """
    Sign a user in, whose password was right.

    Args:
        password_hash: What it was compared with.

    Returns:
        A secret for the browser, and what it stands for; ``None`` if the user has been removed, or
        given another password, meanwhile.
    """
    # Whoever removes the user or changes the password now waits, and then ends this sign-in, too.
    role = connection.execute(
        select(_u.role)
        .where(_u.name == name, _u.password_hash == password_hash)
        .with_for_update(read=True)
    ).scalar()
    if role is None:
        return None
    now = wall_time(connection)
    connection.execute(delete(sign_ins).where(_s.expires_at <= now))
    secret, expires_at = make_secret(), now + lasting
    kept = {"secret_hash": secret_hash(secret), "user_name": name, "expires_at": expires_at}
    connection.execute(insert(sign_ins).values(kept))
    return secret, Known(name, Role(role), expires_at)


def sign_out(connection: Connection, secret: str) -> None:
    """End the sign-in of a secret, if there is one."""
    connection.execute(delete(sign_ins).where(_s.secret_hash == secret_hash(secret)))
