"""Secrets out of what people see: passwords in URLs, what settings and parameters keep secret."""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from pydantic import SecretStr  # takes a while, and some commands need nothing else of it

TOKEN_PREFIX = "prometheus_"  # noqa: S105  by which those who look for leaked secrets know it
_HIDDEN = "***"
_SHORTEST = 4
"""A secret of fewer characters is part of too many words to be looked for in a text."""
_SECRET_NAME = (
    r"(?i:password|passwd|pwd|passphrase|secret|token|credential|authorization"  # noqa: S105  names
    r"|(?:api|private|access)[-_]?key|(?<![a-z])auth(?![a-z]))"
)
_SECRET_PARAMETER = re.compile(rf"([?&][\w-]*{_SECRET_NAME}[\w-]*)=([^&\s'\"]*)")
_API_TOKEN = re.compile(rf"\b{TOKEN_PREFIX}(?=[a-z0-9_-]*[A-Z])[\w-]{{43}}(?![\w-])")
"""As `make_secret` makes them; what else begins so has no capitals."""
_NEXT_URL = re.compile(r";(?=[\w+.-]+://)")
"""Between two URLs; any other semicolon may belong to a password."""
_URL_IN_TEXT = re.compile(r"\b[A-Za-z][\w+.-]{0,40}://[^\s'\"<>]+")
_PARTS_OF_URL = re.compile(r"[/?&=:@#]")
_HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")
_SHORTEST_TOKEN = 8
_IN_TOKEN = re.compile(r"[A-Z0-9]")
"""Some of it is in every key."""
_adding = Lock()
_of_settings: frozenset[str] = frozenset()
_of_parameters: frozenset[str] = frozenset()
_PLAIN = re.compile(r"[A-Za-z0-9]+")
_LETTERS = 4
"""By how many in a row a secret is looked for first; by fewer, if it has not so many."""
_FEW = 100
"""So many groups of letters are looked for one by one, more by all pieces of the text at once."""
_known: Mapping[int, Mapping[str, tuple[str, ...]]] = {}
"""
What this process keeps secret: length -> letters -> those that stand in no text without these.

It only grows, so a text is looked through for the few alone whose letters it has. Never changed in
place: another thread may be reading it.
"""


def keep_secret(secrets: Iterable[SecretStr]) -> None:
    """
    Have `safe_text` hide these from now on, wherever they stand, and none from before.

    Args:
        secrets: URLs with their passwords, ``user:password`` pairs, passwords and tokens.
    """
    global _of_settings, _known
    words = frozenset(word for each in secrets for word in _words(each.get_secret_value()))
    with _adding:
        _of_settings = words
        _known = _with({}, words | _of_parameters)


def keep_parameters(parameters: Mapping[str, Any]) -> None:
    """
    Have `safe_text` hide from now on the parameters whose names say that they are secret.

    Args:
        parameters: Name -> JSON value; below a name such as ``api_token`` all texts are secret,
            and whole numbers of eight digits or more: shorter ones are part of too many others.
    """
    global _of_parameters, _known
    texts = _secret_texts(parameters, secret=False)
    words = frozenset(word for text in texts for word in _words(text))
    with _adding:  # the web process answers several at once
        if not words <= _of_parameters:
            _known = _with(_known, words - _of_settings - _of_parameters)
            _of_parameters |= words


def safe_url(url: str | SecretStr) -> str:
    """
    Write a URL for people: every password in it becomes ``***``.

    Takes what Celery and SQLAlchemy take, also several URLs joined by ``;``, and passwords whose
    special characters were not quoted.
    """
    text = url if isinstance(url, str) else url.get_secret_value()
    return ";".join(_without_password(part) for part in _NEXT_URL.split(text))


def safe_text(text: str) -> str:
    """
    Hide the passwords of the URLs in a text, tokens of the web API, and all that is kept secret.

    Libraries like to put them into their errors, and jobs print what they work with.
    """
    # Most texts have neither, and to look for a few letters takes a tenth of what a pattern does.
    if "://" in text:
        text = _URL_IN_TEXT.sub(lambda match: safe_url(match[0]), text)
    if TOKEN_PREFIX in text:
        text = _API_TOKEN.sub(_HIDDEN, text)
    return _without(_candidates(text), text)


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
    if _is_long(value):
        return value if safe_text(str(value)) == str(value) else _HIDDEN
    if isinstance(value, list):
        return [safe_value(each) for each in value]
    if isinstance(value, dict):
        return {safe_text(key): safe_value(each) for key, each in value.items()}
    return value


def _with(
    known: Mapping[int, Mapping[str, tuple[str, ...]]], words: Iterable[str]
) -> Mapping[int, Mapping[str, tuple[str, ...]]]:
    """Add secrets to those that are known."""
    grown = {length: dict(by_letters) for length, by_letters in known.items()}
    for word in words:
        if len(word) < _SHORTEST:
            continue
        plain = max(_PLAIN.findall(word), key=len, default="")
        length = min(len(plain), _LETTERS)
        by_letters = grown.setdefault(length, {})
        # The rarest: what many begin with tells none from another.
        letters = min(_pieces(plain, length), key=lambda each: len(by_letters.get(each, ())))
        by_letters[letters] = (*by_letters.get(letters, ()), word)
    return grown


def _pieces(text: str, length: int) -> set[str]:
    return {text[at : at + length] for at in range(len(text) - length + 1)}


def _candidates(text: str) -> Iterator[str]:
    for length, by_letters in _known.items():
        if len(by_letters) <= _FEW:
            here = {letters for letters in by_letters if letters in text}
        else:
            here = by_letters.keys() & _pieces(text, length)
        for letters in here:
            yield from by_letters[letters]


def _without(words: Iterable[str], text: str) -> str:
    """Hide each place where one of these stands; places that overlap, as one."""
    hidden: list[tuple[int, int]] = []
    for start, end in sorted(place for word in words for place in _places(word, text)):
        if hidden and start < hidden[-1][1]:
            start, before = hidden.pop()
            end = max(end, before)
        hidden.append((start, end))
    shown, reached = "", 0
    for start, end in hidden:
        shown += text[reached:start] + _HIDDEN
        reached = end
    return shown + text[reached:]


def _places(word: str, text: str) -> Iterator[tuple[int, int]]:
    pattern = _pattern_of(word)
    match = pattern.search(text)
    while match is not None:
        yield match.span()
        match = pattern.search(text, match.start() + 1)


@cache
def _pattern_of(word: str) -> re.Pattern[str]:
    return re.compile("".join(map(_spelt, word)))


def _spelt(character: str) -> str:
    """Match a character however URLs, JSON, Python and HTML write it, one inside another too."""
    if character.isascii() and character.isalnum():
        return character
    escapes = {json.dumps(character)[1:-1], ascii(character)[1:-1]}
    ways = {
        re.escape(character),
        f"(?i:{re.escape(quote(character, safe=''))})",
        re.escape(html.escape(character)),
        f"&#{ord(character)};",
        *(re.escape(each.lstrip("\\")).replace(r"\\", r"\\+") for each in escapes - {r"\\"}),
        *([r"\+"] if character == " " else []),
    }
    return rf"\\{{0,15}}(?:{'|'.join(sorted(ways))})"


def _is_long(value: Any) -> bool:
    """Say whether a value is a number that can be looked for in texts."""
    return isinstance(value, int) and len(str(abs(value))) >= _SHORTEST_TOKEN


def _secret_texts(value: Any, *, secret: bool) -> Iterator[str]:
    if secret and (isinstance(value, str) or _is_long(value)):
        yield str(value)
    elif isinstance(value, list):
        for each in value:
            yield from _secret_texts(each, secret=secret)
    elif isinstance(value, Mapping):
        for name, each in value.items():
            named = re.search(_SECRET_NAME, str(name)) is not None
            yield from _secret_texts(each, secret=secret or named)


def _words(secret: str) -> Iterator[str]:
    """
    Give the parts of a secret that are so by themselves, as they are and as headers have them.

    A password that is also the user's name, or stands in the rest of its URL, is none: to hide
    such a word makes texts unreadable.
    """
    for part in _NEXT_URL.split(secret):
        _, is_url, rest = part.partition("://")
        found = [match[2] for match in _SECRET_PARAMETER.finditer(rest)]
        pairs = [] if is_url else part.split(",")
        if is_url:
            login, _, place = rest.rpartition("@")
            user, _, password = login.partition(":")
            if password != user and password not in place:
                found.append(password)
                pairs.append(login)
        else:
            found += [part, *(pair.partition(":")[2] for pair in pairs)]
        for word in (*found, *(unquote(word) for word in found)):
            if len(word) >= _SHORTEST:
                yield from (word, *_in_base64(word))
        for pair in pairs:
            if len(pair.partition(":")[2]) >= _SHORTEST:
                yield from _in_base64(unquote(pair))


def _in_base64(text: str) -> Iterator[str]:
    for encode in (b64encode, urlsafe_b64encode):
        yield encode(text.encode("utf-8", "surrogateescape")).decode().rstrip("=")


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
