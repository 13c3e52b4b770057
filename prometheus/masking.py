"""Secrets out of what people see: passwords in URLs, and whatever the settings keep secret."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

from pydantic import SecretStr

_SECRET_PARAMETER = re.compile(
    r"(?i)([?&]\w*(?:password|passwd|secret|token|api_?key)\w*)=[^&\s'\"]*"
)
_NEXT_URL = re.compile(r";(?=[\w+.-]+://)")
"""Between two URLs; any other semicolon may belong to a password."""
_URL_IN_TEXT = re.compile(r"\b[A-Za-z][\w+.-]*://[^\s'\"<>]+")
_LEAST_SECRET = 8
"""Characters; whoever hides a shorter word makes texts unreadable, and hides nothing."""
_secrets: re.Pattern[str] | None = None


def keep_secret(secrets: Iterable[str]) -> None:
    """Have `safe_text` hide these from now on, wherever they stand, and none from before."""
    global _secrets
    hidden = sorted({each for each in secrets if len(each) >= _LEAST_SECRET}, key=len, reverse=True)
    _secrets = re.compile("|".join(map(re.escape, hidden))) if hidden else None


def passwords_in(url: str) -> Iterator[str]:
    """
    Give the passwords of a URL, or of several joined by ``;``: as written, and unquoted.

    One that is also the user's name, or stands in the rest of the URL, is no secret.
    """
    for part in _NEXT_URL.split(url):
        login, _, place = part.partition("://")[2].rpartition("@")
        user, _, password = login.partition(":")
        if password and password != user and password not in place:
            yield from {password, unquote(password)}


def safe_url(url: str | SecretStr) -> str:
    """
    Write a URL for people: every password in it becomes ``***``.

    Takes what Celery and SQLAlchemy take, also several URLs joined by ``;``, and passwords whose
    special characters were not quoted.
    """
    text = url.get_secret_value() if isinstance(url, SecretStr) else url
    return ";".join(_without_password(part) for part in _NEXT_URL.split(text))


def safe_text(text: str) -> str:
    """
    Hide the passwords of the URLs in a text, and all secrets of the settings.

    Libraries like to put them into their errors, and jobs print what they work with.
    """
    text = _URL_IN_TEXT.sub(lambda match: safe_url(match[0]), text)
    return text if _secrets is None else _secrets.sub("***", text)


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        # Not a URL, so nothing says which part of it is the password.
        return "***" if "@" in url else url
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    if colon:
        rest = f"{user}:***{at}{place}"
    rest = _SECRET_PARAMETER.sub(r"\1=***", rest)
    return f"{scheme}://{rest}"
