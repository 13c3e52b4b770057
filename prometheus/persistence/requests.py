"""Requests that came with a key of their own: each of them acts once, however often it comes."""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy import Connection, Select, select, update

from prometheus.errors import PrometheusError
from prometheus.persistence.runs import insert_new
from prometheus.persistence.tables import request_keys

_k = request_keys.c


class KeyReusedError(PrometheusError):
    """A key came with another request than the one that it was first given to."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(
            f"The Idempotency-Key {key!r} was given to another request before. Make a new one for "
            f"each action, and repeat it only with the same body."
        )


def take_key(connection: Connection, key: str, request: str) -> str | None:
    """
    Take a key for a request, in the transaction that does what the request asks for.

    Another transaction that has taken it and goes on is waited for.

    Args:
        request: What is asked for: the same text for the same request.

    Returns:
        The answer that the request was given, if it came before: nothing is to be done. Otherwise
        ``None``, and the answer is to be kept with `keep_answer`.

    Raises:
        KeyReusedError: The key is another request's.
    """
    # Nobody else sees it before its answer stands there.
    kept = {"key": key, "request_hash": _hash(request), "answer": ""}
    if insert_new(connection, request_keys, kept):
        return None
    return read_answer(connection, key, request)


def read_answer(connection: Connection, key: str, request: str) -> str | None:
    """
    Return the answer that a request was given before, if it came.

    Raises:
        KeyReusedError: The key is another request's.
    """
    before = connection.execute(select(request_keys).where(_k.key == key)).one_or_none()
    if before is None:
        return None
    if before.request_hash != _hash(request):
        raise KeyReusedError(key)
    answer: str = before.answer
    return answer


def _hash(request: str) -> str:
    return hashlib.sha256(request.encode()).hexdigest()


def keep_answer(connection: Connection, key: str, answer: str) -> None:
    """Keep what a request was answered, beside the key that it has taken."""
    connection.execute(update(request_keys).where(_k.key == key).values(answer=answer))


def old_keys(before: datetime) -> Select[tuple[str]]:
    """Select the keys that were taken before an instant of wall time."""
    return select(_k.key).where(_k.created_at < before)
