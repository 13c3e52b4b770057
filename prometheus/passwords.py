"""Passwords of users, which are kept as argon2id hashes, and secrets that are made here."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from functools import cache
from threading import Semaphore

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

SHORTEST = 12
LONGEST = 1000
"""Characters of a password."""

# Each takes 64 MB for a moment, and whoever reaches the sign-in can ask for many at once.
_at_once = Semaphore(2)
_WAITS_SECONDS = 2.0


class BusyError(Exception):
    """Too many passwords are being compared."""


def hash_password(password: str) -> str:
    """
    Return what is kept of a password.

    Raises:
        ValueError: It is too short, or longer than anybody's.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise ValueError(f"a password has {SHORTEST} to {LONGEST} characters")
    return PasswordHasher().hash(password)


def is_password(password: str, kept: str | None) -> bool:
    """
    Say whether a password is the one of which this is kept.

    It takes as long where nothing is kept: the time does not tell which users there are.

    Raises:
        BusyError: So many are that this one would hold up who waits beside it.
    """
    if not _at_once.acquire(timeout=_WAITS_SECONDS):
        raise BusyError
    try:
        PasswordHasher().verify(kept or _nobodys(), password)
    except (VerificationError, InvalidHashError):
        return False
    finally:
        _at_once.release()
    return kept is not None


@cache
def _nobodys() -> str:
    return PasswordHasher().hash(secrets.token_hex())


def make_secret() -> str:
    """Make a secret that nobody guesses: 256 random bits, to be written in URLs and headers."""
    return secrets.token_urlsafe(32)


def secret_hash(secret: str) -> str:
    """
    Return what is kept of a secret of `make_secret`.

    It needs no salt, and no slow hash: there are too many to be tried.
    """
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def csrf_token(secret: str) -> str:
    """
    Return what a page must send beside the cookie that holds a secret.

    Who can only make the browser send the cookie does not know it, and the secret does not follow
    from it.
    """
    return hmac.new(secret.encode("utf-8", "replace"), b"csrf", hashlib.sha256).hexdigest()
