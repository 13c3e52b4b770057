"""
Kombu's transport and Celery's consumer for messages and ends that nobody could foresee.

Both take what is in a list of Redis for a message of Celery's. One that is not JSON would end the
worker; one without an id would count as a lost connection, be put back, and so end every worker of
its queue, one after the other. And a connection that is lost in the middle of being closed would
end it, too.

It also tells Redis less often what a worker holds, which was half of what a message cost.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from celery.worker import consumer
from kombu.asynchronous import get_event_loop, set_event_loop
from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from kombu.utils.json import dumps
from redis.exceptions import ConnectionError as RedisConnectionError

log = logging.getLogger(__name__)


class UnreadableMessageError(ValueError):
    """A message without the parts that Kombu needs to hand it on."""


class Message(virtual.Message):
    """A message that has all of them."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        try:
            super().__init__(payload, channel=channel, **kwargs)  # type: ignore[no-untyped-call]
            # Needed to note it as taken, and to put it back.
            known = self.delivery_info["exchange"], self.delivery_info["routing_key"]
            str(self.delivery_tag).encode()  # one that can not be would spoil the notes of others
        except Exception as error:
            raise UnreadableMessageError(f"{type(error).__name__}: {error}") from error
        if not all(isinstance(each, str) for each in (*known, self.delivery_tag)):
            raise UnreadableMessageError("its address is not text")


NOTED_AFTER = 0.05
"""Seconds from a message's coming, or its end, to when Redis is told of it."""


class QoS(redis.QoS):
    """
    Tells Redis a moment later which messages this process holds, and of all of them at once.

    Most have been handed to a child by then, and it need not hear of those at all. To tell it of
    each as it comes and as it goes took half of what a message costs a worker's main process. Of
    a worker that is killed in that moment Redis has no note to send its messages again by, when its
    visibility timeout is over; the scheduler does that, much sooner, by their rows.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._pid = os.getpid()
        self._to_note: dict[str, tuple[float, Any]] = {}
        self._in_doubt: set[str] = set()
        """Of those to note, what Redis may know already: it has not answered."""
        self._to_forget: list[str] = []
        self._due = False

    def append(self, message: Any, delivery_tag: str) -> None:
        """Hold a message."""
        loop = self._loop()
        if loop is None:
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call]
            return
        # By the wall clock, by which other workers judge whether it has been held for too long.
        self._to_note[delivery_tag] = time.time(), message
        virtual.QoS.append(self, message, delivery_tag)  # type: ignore[no-untyped-call]
        self._settle_soon(loop)

    def ack(self, delivery_tag: str) -> None:
        """Hold it no longer."""
        loop = self._loop()
        if loop is None:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
            return
        was_to_note = self._to_note.pop(delivery_tag, None) is not None
        if not was_to_note or delivery_tag in self._in_doubt:
            self._to_forget.append(delivery_tag)
            self._settle_soon(loop)
        virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Hold it no longer, or put it back."""
        self.settle()
        super().reject(delivery_tag, requeue=requeue)  # type: ignore[no-untyped-call]

    def settle(self) -> None:
        """Tell Redis now; what it does not take is told it again."""
        if not (self._to_note or self._to_forget):
            return
        taken, self._to_note = self._to_note, {}
        gone, self._to_forget = self._to_forget, []
        try:
            with self.channel.conn_or_acquire() as client:
                # Each by itself, and what frees memory first: a Redis that is full takes no more.
                pipe = client.pipeline(transaction=False)
                if gone:
                    pipe.zrem(self.unacked_index_key, *gone).hdel(self.unacked_key, *gone)
                kept = dict(_kept_forms(taken))
                if kept:
                    pipe.zadd(self.unacked_index_key, {tag: taken[tag][0] for tag in kept})
                    pipe.hset(self.unacked_key, mapping=kept)
                pipe.execute()
        except BaseException:
            self._in_doubt.update(taken)
            self._to_note = {**taken, **self._to_note}
            self._to_forget = gone + self._to_forget
            raise
        self._in_doubt.clear()

    def _loop(self) -> Any:
        """Return the event loop of a worker's main process; elsewhere Redis is told at once."""
        return get_event_loop() if os.getpid() == self._pid else None

    def _settle_soon(self, loop: Any) -> None:
        if not self._due:
            self._due = True
            loop.call_later(NOTED_AFTER, self._when_due)

    def _when_due(self) -> None:
        self._due = False
        if not self.channel.closed:
            self.settle()

    def _settle_if_possible(self) -> None:
        try:
            self.settle()
        except Exception as error:  # noqa: BLE001  what Redis knows is put back all the same
            log.warning("messages_not_noted", extra={"error": str(error)[:200]})

    def restore_unacked(self, client: Any = None) -> None:
        """Put back all that it holds."""
        self._settle_if_possible()
        super().restore_unacked(client)  # type: ignore[no-untyped-call]

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Put back all that it holds, as its channel is closed."""
        self._settle_if_possible()
        super().restore_unacked_once(stderr)  # type: ignore[no-untyped-call]


def _kept_forms(taken: Mapping[str, tuple[float, Any]]) -> Iterator[tuple[str, Any]]:
    for tag, (_, message) in taken.items():
        to = message.delivery_info
        kept = [message._raw, to["exchange"], to["routing_key"]]  # noqa: SLF001  as Kombu does
        try:
            yield tag, dumps(kept)  # type: ignore[no-untyped-call]
        except (ValueError, RecursionError) as error:
            log.error("message_unreadable", extra={"error": str(error)[:200]})


class Channel(redis.Channel):
    """Drops what is no message, and says of a closed connection that it is lost."""

    Message = Message
    QoS = QoS
    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        # Kombu makes one for each message, twice, which is a fifth of what a message costs a
        # worker's main process; all that such a client has is its pool.
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()  # type: ignore[no-untyped-call]
        return self._kept

    def _connparams(self, *args: Any, **kwargs: Any) -> Any:
        # Cut off while it closes, a connection is closed once more, and would put back what it has
        # not acknowledged: by an AttributeError then, which nobody takes for what it is.
        if self.connection.client is None:
            raise RedisConnectionError("the connection is closed")
        return super()._connparams(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, RecursionError) as error:
            # It has left its list, and is in no other.
            log.error("message_unreadable", extra={"error": str(error)[:200]})
            return True


class Transport(redis.Transport):
    """Redis."""

    Channel = Channel

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have a worker's loop read what comes, and be known as its loop to whoever asks."""
        # With a connection that is lost, Celery gives up that name for good.
        set_event_loop(loop)
        super().register_with_event_loop(connection, loop)  # type: ignore[no-untyped-call]


class Consumer(consumer.Consumer):
    """Drops messages that can not be handled, whatever is wrong with them."""

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Make the function that handles each message."""
        handle = super().create_task_handler(*args, **kwargs)

        def on_task_received(message: Any) -> None:
            try:
                _check(message.headers)
                handle(message)
            except Exception as error:
                # Kombu counts KeyError as the loss of its connection.
                if isinstance(error, self.connection_errors) and not isinstance(error, KeyError):
                    raise
                facts = {"error": repr(error)[:200], "size": len(message.body or b"")}
                log.error("message_refused", extra=facts)
                if not message.acknowledged:
                    message.ack_log_error(log, self.connection_errors)

        return on_task_received


def _check(headers: dict[str, Any]) -> None:
    """
    Refuse what Celery would only stumble over when the job is in the pool already.

    Raises:
        UnreadableMessageError: It is not a message as Celery itself sends them.
    """
    limits = headers.get("timelimit") or (None, None)
    sound = (
        isinstance(headers.get("id"), str)
        and isinstance(headers.get("task"), str)
        and isinstance(headers.get("retries", 0), int)
        and isinstance(limits, list | tuple)
        and len(limits) == 2
        and all(limit is None or isinstance(limit, int | float) for limit in limits)
    )
    if not sound:
        raise UnreadableMessageError("it lacks an id or a task, or its limits are not numbers")


def use_transport() -> None:
    """Have all connections of this process that are to Redis made with this transport."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{Transport.__name__}"
