"""A message that does nothing but be taken: where it stays, nobody who hears serves the queue."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Protocol

from celery import Task

log = logging.getLogger(__name__)

CANARY = "prometheus.canary"


class CanaryTask(Task):
    """Shows that a worker takes messages from a queue."""

    name = CANARY
    ignore_result = True

    def run(self) -> None:
        """Do nothing: that it was taken says everything."""


class Cage(Protocol):
    """What is asked of the message broker."""

    def oldest(self, queues: Collection[str]) -> dict[str, bytes | None]: ...

    def send_canaries(self, queues: Collection[str]) -> None: ...

    def busy(self, incarnations: Collection[str]) -> set[str]: ...


class Canaries:
    """
    Notices a queue that has gone deaf: its workers live and have time, and take nothing from it.

    What waits at the front of a queue, which is taken first, does so only while all its workers
    are busy. Where nothing waits there, a canary is put.
    """

    def __init__(self, broker: Cage) -> None:
        self._broker = broker
        self._untaken: dict[str, bytes] = {}
        """By queue, what waited at its front at the last look though a worker had time."""
        self._deaf: set[str] = set()

    def look(self, workers: Mapping[str, Mapping[str, str]]) -> None:
        """
        Look at every queue that has a live worker, and put a canary where none waits.

        Args:
            workers: Queue -> incarnation -> node name.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        oldest = self._broker.oldest(workers)
        busy = self._broker.busy({name for found in workers.values() for name in found})
        self._broker.send_canaries([queue for queue in workers if oldest[queue] is None])
        untaken: dict[str, bytes] = {}
        for queue, serving in workers.items():
            waits = oldest[queue]
            idle = sorted(worker for name, worker in serving.items() if name not in busy)
            same = waits is not None and waits == self._untaken.get(queue)
            if waits is not None and idle:
                untaken[queue] = waits
            if same and idle and queue not in self._deaf:
                self._deaf.add(queue)
                log.error("queue_deaf", extra={"queue": queue, "workers": ", ".join(idle)})
            elif not same and queue in self._deaf:
                self._deaf.remove(queue)
                log.warning("queue_heard", extra={"queue": queue})
        self._untaken = untaken
