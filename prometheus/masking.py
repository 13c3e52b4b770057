"""Passwords out of what people see: URLs, and texts with URLs in them."""

from __future__ import annotations

import re

from pydantic import SecretStr

_SECRET_PARAMETER = re.compile(
    r"(?i)([?&]\w*(?:password|passwd|secret|token|api_?key)\w*)=[^&\s'\"]*"
)
_NEXT_URL = re.compile(r";(?=[\w+.-]+://)")
"""Between two URLs; any other semicolon may belong to a password."""
_URL_IN_TEXT = re.compile(r"\b[A-Za-z][\w+.-]*://[^\s'\"<>]+")


def safe_url(url: str | SecretStr) -> str:
    """
    Write a URL for people: every password in it becomes ``***``.

    Takes what Celery and SQLAlchemy take, also several URLs joined by ``;``, and passwords whose
    special characters were not quoted.
    """
    text = url.get_secret_value() if isinstance(url, SecretStr) else url
    return ";".join(_without_password(part) for part in _NEXT_URL.split(text))


def safe_text(text: str) -> str:
    """Hide the passwords of the URLs in a text; libraries like to put them into their errors."""
    return _URL_IN_TEXT.sub(lambda match: safe_url(match[0]), text)


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
