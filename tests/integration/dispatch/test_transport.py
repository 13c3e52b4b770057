"""Connections to Redis, as workers have them, that end in the middle of something."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import kombu
import pytest

from prometheus.dispatch.transport import Transport
from tests.servers import wait_until

KOMBU: Any = kombu
"""Of which mypy knows too little."""


@pytest.fixture
def connection(redis_url: str) -> Iterator[Any]:
    """One that has taken a message and not acknowledged it."""
    taken: list[Any] = []
    queue = KOMBU.Queue("US_EQ", routing_key="US_EQ")
    with KOMBU.Connection(redis_url, transport=Transport) as connection:
        KOMBU.Producer(connection.channel()).publish({}, routing_key="US_EQ", declare=[queue])
        consumer = KOMBU.Consumer(connection.default_channel, [queue])
        consumer.register_callback(lambda body, message: taken.append(message))
        consumer.consume()

        def take() -> bool:
            with contextlib.suppress(socket.timeout):
                connection.drain_events(timeout=1)
            return bool(taken)

        wait_until(take, timeout=30, message="a message is taken")
        yield connection


def test_connection_that_is_cut_off_while_it_closes_can_be_closed_again(
    connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker does so when it loses Redis; an error of another kind would end it."""

    channel = connection.default_channel

    def cut_off() -> None:
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr(connection, "_do_close_self", cut_off)
        connection.collect(socket_timeout=1)
    assert not channel.closed
    connection.close()
    assert channel.closed
