"""Secrets out of what people see: passwords in URLs, and whatever the settings keep secret."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, unquote

from pydantic import SecretStr

_HIDDEN = "***"
_SHORTEST = 4
"""A secret of fewer characters is part of too many words to be looked for in a text."""
_SECRET_PARAMETER = re.compile(
    r"(?i)([?&]\w*(?:password|passwd|secret|token|api_?key)\w*)=([^&\s'\"]*)"
)
_NEXT_URL = re.compile(r";(?=[\w+.-]+://)")
"""Between two URLs; any other semicolon may belong to a password."""
_URL_IN_TEXT = re.compile(r"\b[A-Za-z][\w+.-]{0,40}://[^\s'\"<>]+")
_PARTS_OF_URL = re.compile(r"[/?&=:@#]")
_HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")
_SHORTEST_TOKEN = 8
_IN_TOKEN = re.compile(r"[A-Z0-9]")
"""Some of it is in every key."""
_secrets: tuple[str, ...] = ()
"""What this process keeps secret, the longest first: another may be a part of it."""


def keep_secret(secrets: Iterable[SecretStr]) -> None:
    """
    Have `safe_text` hide these from now on, wherever they stand, and none from before.

    Args:
        secrets: URLs with their passwords, ``user:password`` pairs, passwords and tokens.
    """
    global _secrets
    words = {word for each in secrets for word in _words(each.get_secret_value())}
    _secrets = tuple(sorted((w for w in words if len(w) >= _SHORTEST), key=len, reverse=True))


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
    for secret in _secrets:
        text = text.replace(secret, _HIDDEN)
    return text


def tokens(url: str) -> tuple[str, ...]:
    """
    Return the parts of a URL that look like keys, wherever they stand in it.

    Services put them in the place of a host, into the path and behind the question mark. A part
    that is a word, or the name of a host, is none: to hide it makes texts unreadable.
    """
    _, _, rest = url.partition("://")
    return tuple(
        part
        for part in _PARTS_OF_URL.split(rest)
        if len(part) >= _SHORTEST_TOKEN and _IN_TOKEN.search(part) and not _HOST.fullmatch(part)
    )


def safe_value(value: Any) -> Any:
    """Do so in all texts of a JSON value, its keys included."""
    if isinstance(value, str):
        return safe_text(value)
    if isinstance(value, list):
        return [safe_value(each) for each in value]
    if isinstance(value, dict):
        return {safe_text(key): safe_value(each) for key, each in value.items()}
    return value


def _words(secret: str) -> Iterator[str]:
    """
    Give the parts of a secret that are so by themselves, as they are and as URLs write them.

    A password that is also the user's name, or stands in the rest of its URL, is none: to hide
    such a word makes texts unreadable.
    """
    for part in _NEXT_URL.split(secret):
        _, is_url, rest = part.partition("://")
        found = [match[2] for match in _SECRET_PARAMETER.finditer(rest)]
        if is_url:
            login, _, place = rest.rpartition("@")
            user, _, password = login.partition(":")
            found += [password] if password != user and password not in place else []
        else:
            found += [part, *(pair.partition(":")[2] for pair in part.split(","))]
        for word in found:
            yield from (word, unquote(word), quote(word, safe=""))


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
