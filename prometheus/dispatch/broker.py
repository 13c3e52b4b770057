"""The Redis that carries the messages, asked by those who only look."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from pydantic import SecretStr
from redis.exceptions import RedisError

from prometheus.dispatch.names import lists_of
from prometheus.errors import PrometheusError
from prometheus.masking import safe_url

_TIMEOUT_SECONDS = 3


class NoAnswerError(PrometheusError):
    """Redis can not be asked."""


@contextmanager
def connected(url: SecretStr) -> Iterator[Any]:
    """
    Connect to Redis.

    Args:
        url: As Celery takes it.

    Raises:
        NoAnswerError: It does not answer, or is not a single one, which alone can be asked.
    """
    secret, shown = url.get_secret_value(), safe_url(url)
    if ";" in secret or secret.startswith("rediss+socket://"):
        raise NoAnswerError(f"{shown} can not be asked: only a single Redis can")
    try:
        client = redis.Redis.from_url(
            secret.replace("redis+socket://", "unix://", 1),
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
        )
        try:
            client.ping()
            yield client
        finally:
            client.close()
    except (RedisError, OSError) as error:
        reason = str(error).rstrip(".")
        raise NoAnswerError(f"{shown} does not answer: {reason}") from None


def read_depths(client: Any, queues: Collection[str]) -> dict[str, int]:
    """
    Count the messages that wait in some queues, of every priority and kind, in one round trip.

    Messages that a worker holds back for later, or has just taken, are in none of them.
    """
    with client.pipeline(transaction=False) as pipeline:
        for queue in queues:
            for key in lists_of(queue):
                pipeline.llen(key)
        lengths = iter(pipeline.execute())
    return {queue: sum(next(lengths) for _ in lists_of(queue)) for queue in queues}
