"""Executions to Celery messages, and the reading back of what waits in Redis."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from celery import Celery
from kombu.exceptions import BatchPublishError, OperationalError

from prometheus.dispatch.canary import CANARY
from prometheus.dispatch.names import BUSY_FOR, BUSY_KEY, CANARY_EXPIRES_SECONDS
from prometheus.orchestration.dag import JobPriority
from prometheus.orchestration.lifecycle import BACKGROUND_TRIGGERS
from prometheus.persistence.executions import HARD_LIMIT_GRACE, Publication

log = logging.getLogger(__name__)

# In Celery's Redis transport 0 is the highest priority, and a message without one counts as 0.
STANDARD = 3
PRIORITY: Mapping[int, int] = {
    JobPriority.CRITICAL: 0,
    JobPriority.STANDARD: STANDARD,
    JobPriority.OPTIONAL: 6,
}
ON_FAILURE = "on_failure"
"""Name, within its pipeline, of the task that calls the pipeline's ``on_failure``."""
ON_FAILURE_LIMIT_SECONDS = 300
"""Soft time limit of an ``on_failure``: it tells somebody, it does not work."""
BACKGROUND = 9
"""Of sessions that are caught up: they yield to all live work."""


MARK_KEY = "prometheus:beat:mark"
MARK_FOR = timedelta(days=1)
"""How long a mark outlives the leader that left it."""
_LEAVE_MARK = """
local text = redis.call('MGET', KEYS[1])[1]
local read, left = pcall(cjson.decode, text)
if read and type(left) == 'table' then
    local epoch, at = tonumber(left.epoch), tostring(left.at)
    if epoch and epoch > tonumber(ARGV[2]) and at > ARGV[3] then
        return 0
    end
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[4])
return 1
"""
"""A later leader's mark stays, unless its time is behind: that database was set back."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a scheduler that ticks leaves in Redis: a sign that it has the database."""

    at: datetime
    """When it last had it, by the database's clock."""
    owner: str
    epoch: int
    reachable_since: datetime | None = None
    """Since when it, or another that left its mark lately, has had it without a gap; ``None`` of a
    release that did not tell."""
    given_up: frozenset[str] = frozenset()
    """Worker incarnations that were given up lately: what they ran is started again."""


class BrokerUnavailableError(Exception):
    """Messages could not be sent now; the rows stay QUEUED and are published later."""


class Publisher:
    """Sends one message an execution; the row is QUEUED and committed before."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        transport = app.connection_for_write()
        # Kombu counts KeyError among them, which is what a queue that does not exist raises.
        lost = tuple(error for error in transport.connection_errors if error is not KeyError)
        # What Redis refuses (out of memory, read only, a full disk) it takes later.
        refused = transport.channel_errors
        self._errors = (OperationalError, BatchPublishError, OSError, *lost, *refused)

    def publish(self, publications: Sequence[Publication]) -> None:
        """
        Send messages, all in one round trip.

        Raises:
            BrokerUnavailableError: Some or all may not have been sent. Sending again is safe.
        """
        with self._sending() as producer:
            for each in publications:
                background = each.trigger in BACKGROUND_TRIGGERS
                self._send(
                    producer,
                    each.job_type,
                    each,
                    task_id=each.execution_id,
                    # One that somebody wrote by hand must not hold up the others.
                    priority=BACKGROUND if background else PRIORITY.get(each.priority, STANDARD),
                    limit=each.timeout_seconds,
                    retries=each.retries,
                )

    def _send(
        self,
        producer: object,
        name: str,
        of: Publication,
        *,
        task_id: str,
        priority: int,
        limit: int,
        retries: int = 0,
    ) -> None:
        # As Celery's send_task does, without the greater part of it: to look up how the task is
        # routed and run, to write out any arguments whatever, and to ask whether its queue is
        # declared, which is for the workers that take from it.
        amqp, parent = self._app.amqp, self._app.current_worker_task
        task = task_name(of.pipeline, name)
        message = amqp.create_task_message(
            task_id,
            task,
            args=[of.execution_id],
            argsrepr=repr([of.execution_id]),
            kwargsrepr="{}",
            soft_time_limit=limit,
            time_limit=limit + int(HARD_LIMIT_GRACE.total_seconds()),
            retries=retries,
            ignore_result=True,
            root_id=(parent.request.root_id or parent.request.id) if parent else None,
            parent_id=parent.request.id if parent else None,
        )
        # Without trying again: a tick must not hang on a broker that is away; the rows are sent by
        # a later one.
        amqp.send_task_message(
            producer, task, message, queue=of.queue, priority=priority, declare=[], retry=False
        )

    def announce_failures(self, failures: Sequence[Publication]) -> None:
        """
        Have ``on_failure`` called in a worker of each failure's market.

        Raises:
            BrokerUnavailableError: Some or all may not have been sent. Sending again is safe.
        """
        with self._sending() as producer:
            for failure in failures:
                self._send(
                    producer,
                    ON_FAILURE,
                    failure,
                    task_id=failure_task_id(failure.execution_id),
                    priority=STANDARD,
                    limit=ON_FAILURE_LIMIT_SECONDS,
                )

    @contextmanager
    def _sending(self) -> Iterator[object]:
        try:
            with self._app.producer_or_acquire() as producer, producer.batch():
                yield producer
        except self._errors as error:
            raise BrokerUnavailableError(str(error)) from error

    def leave_mark(self, mark: Mark) -> None:
        """
        Leave the leader's mark in place of the last one, if that is no later leader's.

        One that was frozen on its way here must not take out the names that another has told.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        since = mark.reachable_since
        at = mark.at.isoformat()
        said = {
            "at": at,
            "owner": mark.owner,
            "epoch": mark.epoch,
            "reachable_since": since.isoformat() if since else None,
            "given_up": sorted(mark.given_up),
        }
        with self._redis() as redis:
            left_for = int(MARK_FOR.total_seconds())
            redis.eval(_LEAVE_MARK, 1, MARK_KEY, json.dumps(said), mark.epoch, at, left_for)

    def read_mark(self, *, within: timedelta | None = None) -> Mark | None:
        """
        Return the mark that a leader last left; ``None`` if there is none.

        Args:
            within: About how long it may take, on a connection of its own; by default as long as
                publishing may.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        with self._redis() if within is None else self._fresh_redis(within) as redis:
            (text,) = redis.mget([MARK_KEY])  # which refuses no kind of value
        if text is None:
            return None
        try:
            mark = json.loads(text)
            at, since = datetime.fromisoformat(mark["at"]), mark.get("reachable_since")
            reachable_since = datetime.fromisoformat(since) if since else None
            given_up = frozenset(mark.get("given_up", ()))
            return Mark(at, mark["owner"], mark["epoch"], reachable_since, given_up)
        except (ValueError, KeyError, TypeError):
            log.warning("mark_unreadable", extra={"size": len(text)})  # another release's
            return None

    def oldest(self, queues: Collection[str]) -> dict[str, bytes | None]:
        """
        Return the message that is taken next from each of some queues, if one of the highest
        priority waits there.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        with self._channel() as channel:
            return {
                queue: channel.client.lindex(channel._q_for_pri(queue, 0), -1)  # noqa: SLF001
                for queue in queues
            }

    def send_canaries(self, queues: Collection[str]) -> None:
        """
        Put a message that does nothing at the front of some queues.

        Raises:
            BrokerUnavailableError: Some or all may not have been sent.
        """
        with self._sending() as producer:
            for queue in queues:
                self._app.send_task(
                    CANARY,
                    queue=queue,
                    priority=PRIORITY[JobPriority.CRITICAL],
                    expires=CANARY_EXPIRES_SECONDS,
                    ignore_result=True,
                    producer=producer,
                    retry=False,
                )

    def note_busy(self, incarnation: str) -> None:
        """
        Note that all slots of a worker are taken now.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        with self._redis() as redis:
            redis.set(f"{BUSY_KEY}{incarnation}", 1, ex=BUSY_FOR)

    def busy(self, incarnations: Collection[str]) -> set[str]:
        """
        Return the workers that have lately said that all their slots are taken.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        asked = sorted(incarnations)
        if not asked:
            return set()
        with self._redis() as redis:
            said = redis.mget([f"{BUSY_KEY}{incarnation}" for incarnation in asked])
        return {name for name, value in zip(asked, said, strict=True) if value is not None}

    @contextmanager
    def _redis(self) -> Iterator[Any]:
        with self._channel() as channel:
            yield channel.client

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        try:
            with self._app.producer_or_acquire() as producer:
                yield producer.channel
        except self._errors as error:
            raise BrokerUnavailableError(str(error)) from error

    @contextmanager
    def _fresh_redis(self, within: timedelta) -> Iterator[Any]:
        half = within.total_seconds() / 2
        options = {"socket_timeout": half, "socket_connect_timeout": half, "max_retries": 0}
        try:
            with self._app.connection_for_read(transport_options=options) as connection:
                yield connection.default_channel.client
        except self._errors as error:
            raise BrokerUnavailableError(str(error)) from error

    def waiting_ids(self, queues: Iterable[str]) -> set[str]:
        """
        Return the ids of the messages that wait in the lists of some queues.

        Messages that a worker holds back for later, or has just taken, are in none of them.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        found: set[str] = set()
        try:
            with self._app.connection_for_read() as connection:
                channel = connection.default_channel
                for queue in queues:
                    for step in channel.priority_steps:
                        # Kombu has no public name for the list of a priority.
                        key = channel._q_for_pri(queue, step)  # noqa: SLF001
                        for raw in channel.client.lrange(key, 0, -1):
                            found.add(_message_id(raw))
        except self._errors as error:
            raise BrokerUnavailableError(str(error)) from error
        return found


def failure_task_id(execution_id: str) -> str:
    """Celery's id of the message that has ``on_failure`` called for an execution."""
    return f"{execution_id}:{ON_FAILURE}"


def task_name(pipeline: str, job_type: str) -> str:
    """Name of a job's Celery task: ``daily.ingest_prices``."""
    return f"{pipeline}.{job_type}"


def _message_id(raw: bytes | str) -> str:
    """Return a stored message's task id; a message that is not ours has none."""
    try:
        return str(json.loads(raw)["headers"]["id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        log.warning("message_unreadable", extra={"size": len(raw)})
        return ""
