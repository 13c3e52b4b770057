"""Connections to Redis, as workers have them, that end in the middle of something."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import kombu
import pytest
import redis
from kombu.asynchronous import Hub, set_event_loop

from prometheus.dispatch import transport
from prometheus.dispatch.transport import Transport
from tests.servers import wait_until

KOMBU: Any = kombu
HUB: Any = Hub
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


UNACKED = ("unacked", "unacked_index")
"""Where Redis is told what is held."""


class Held:
    """A connection with an event loop, as a worker's main process has it."""

    def __init__(self, url: str) -> None:
        self.taken: list[Any] = []
        self._queue = KOMBU.Queue("US_EQ", routing_key="US_EQ")
        self._connection = KOMBU.Connection(url, transport=Transport)
        consumer = KOMBU.Consumer(self._connection.default_channel, [self._queue])
        consumer.register_callback(lambda body, message: self.taken.append(message))
        consumer.consume()
        self.loop = HUB()
        self._connection.register_with_event_loop(self.loop)
        self._turns = self.loop.create_loop()
        self.redis = redis.Redis.from_url(url)

    def send(self, count: int) -> None:
        """Send messages."""
        producer = KOMBU.Producer(self._connection.channel())
        for number in range(count):
            producer.publish({"number": number}, routing_key="US_EQ", declare=[self._queue])

    def take(self, count: int) -> None:
        """Let the loop turn until so many have come."""
        wait_until(
            lambda: self.turn() and len(self.taken) == count,
            timeout=30,
            interval=0,
            message="they come",
        )

    def turn(self) -> bool:
        """Let the loop turn once."""
        next(self._turns)
        return True

    def noted(self) -> tuple[int, int]:
        """Return of how many messages Redis has a note, in each of both places."""
        return self.redis.hlen(UNACKED[0]), self.redis.zcard(UNACKED[1])

    def close(self) -> None:
        """Close it, which puts back what is held."""
        self._connection.close()

    def end(self) -> None:
        """Close all."""
        self.close()
        self.redis.close()
        self.loop.close()


@pytest.fixture
def held(redis_url: str) -> Iterator[Held]:
    held = Held(redis_url)
    try:
        yield held
    finally:
        set_event_loop(None)
        held.end()


class TestNotes:
    """Redis learns a moment later which messages a worker holds."""

    def test_what_is_held_is_noted_and_what_is_done_is_forgotten(self, held: Held) -> None:
        held.send(3)
        held.take(3)
        wait_until(lambda: held.turn() and held.noted() == (3, 3), timeout=30, message="noted")
        for message in held.taken[:2]:
            message.ack()
        wait_until(lambda: held.turn() and held.noted() == (1, 1), timeout=30, message="forgotten")

    def test_of_what_is_done_in_that_moment_it_never_learns(
        self, held: Held, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transport, "NOTED_AFTER", 2)
        held.send(2)
        held.take(2)
        for message in held.taken:
            message.ack()
        asked: list[str] = []
        execute = redis.client.Pipeline.execute

        def ask(pipe: Any, *args: Any) -> Any:
            asked.append("asked")
            return execute(pipe, *args)

        monkeypatch.setattr(redis.client.Pipeline, "execute", ask)
        channel = held.taken[0].channel
        wait_until(lambda: held.turn() and not channel.qos._due, timeout=30, message="it is time")
        assert asked == []
        assert held.noted() == (0, 0)
        held.send(1)
        held.take(3)
        wait_until(lambda: held.turn() and asked, timeout=30, message="the next is noted")

    @pytest.mark.parametrize("noted", [False, True])
    def test_all_that_is_held_is_put_back_by_a_close(
        self, held: Held, noted: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not noted:
            monkeypatch.setattr(transport, "NOTED_AFTER", 3600)
        held.send(3)
        held.take(3)
        if noted:
            wait_until(lambda: held.turn() and held.noted() == (3, 3), timeout=30, message="noted")
        else:
            assert held.noted() == (0, 0)
        held.taken[0].ack()
        held.close()
        assert held.redis.llen("US_EQ") == 2
        assert held.noted() == (0, 0)

    def test_what_is_done_as_it_closes_is_forgotten(self, held: Held) -> None:
        held.send(2)
        held.take(2)
        wait_until(lambda: held.turn() and held.noted() == (2, 2), timeout=30, message="noted")
        for message in held.taken:
            message.ack()
        held.close()
        assert (held.redis.llen("US_EQ"), held.noted()) == (0, (0, 0))

    def test_what_redis_did_not_take_it_is_told_again(
        self, held: Held, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transport, "NOTED_AFTER", 3600)
        held.send(3)
        before = time.time()
        held.take(3)
        qos = held.taken[0].channel.qos
        execute = redis.client.Pipeline.execute

        def cut_off(pipe: Any, *args: Any) -> Any:
            execute(pipe, *args)
            raise redis.ConnectionError("cut off before the answer")

        with monkeypatch.context() as patch:
            patch.setattr(redis.client.Pipeline, "execute", cut_off)
            with pytest.raises(redis.ConnectionError):
                qos.settle()
        held.taken[0].ack()
        qos.settle()
        assert held.noted() == (2, 2)
        held.taken[1].ack()
        qos.settle()
        noted: Any = held.redis.zrange(UNACKED[1], 0, -1, withscores=True)
        ((tag, taken_at),) = noted
        assert tag.decode() == held.taken[2].delivery_tag
        assert before <= taken_at <= time.time()

    def test_what_is_put_back_by_itself_is_there_at_once(self, held: Held) -> None:
        held.send(1)
        held.take(1)
        held.taken[0].requeue()
        assert (held.redis.llen("US_EQ"), held.noted()) == (1, (0, 0))

    def test_where_no_loop_turns_redis_learns_it_at_once(self, connection: Any) -> None:
        with connection.channel() as channel:
            assert channel.client.hlen(UNACKED[0]) == 1
