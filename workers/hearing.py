"""A worker that has gone deaf: it lives and has time, and does not take what waits for it."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from typing import Any

from celery import bootsteps
from celery.signals import worker_shutting_down
from celery.worker import state

from prometheus.dispatch.publisher import BrokerUnavailableError
from workers.app import runtime
from workers.heartbeat import listens
from workers.processes import begin_anew, kill_children

log = logging.getLogger(__name__)

LOOK_EVERY = 5.0
"""Wall seconds between two looks."""
DEAF_AFTER = 12
"""Looks in a row at which the same message waited though there was time for it: a minute."""
STOPS_WITHIN = 30.0
"""Wall seconds in which an event loop that runs has stopped a worker that does nothing."""


class Hearing(bootsteps.StartStopStep):
    """
    Looks what waits at the front of this worker's queues, where the leader puts a canary.

    A connection to Redis that died without a word, or a consumer that was cancelled, shows in
    nothing else: the worker goes on renewing its lease. It says so, and begins anew.
    """

    requires = ("celery.worker.components:Timer",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._worker = worker
        self._stopping = threading.Event()
        self._is_told_to_stop = False
        self._queues: list[str] = []
        self._looks: dict[str, tuple[bytes, int]] = {}
        """By queue, what waits at its front, and the number of looks at which it did."""
        self._said = False
        worker_shutting_down.connect(self._note_stop)

    def _note_stop(self, **_: Any) -> None:
        self._is_told_to_stop = True

    def _begin_anew(self) -> None:
        """Become a new process, unless somebody has asked this worker to stop meanwhile."""
        if not self._is_told_to_stop:
            begin_anew()

    def start(self, worker: Any) -> None:  # noqa: ARG002
        """Begin to look; in a thread, because the event loop may be what is deaf."""
        # Kept, because a queue that is cancelled by remote control is taken from Celery's own list.
        self._queues = [str(name) for name in runtime.app.amqp.queues.consume_from]
        threading.Thread(target=self._listen, name="hearing", daemon=True).start()

    def stop(self, worker: Any) -> None:  # noqa: ARG002
        """Look no more."""
        self._stopping.set()

    def _listen(self) -> None:
        while not self._stopping.wait(LOOK_EVERY):
            try:
                self._look()
            except BrokerUnavailableError:
                self._looks.clear()  # nobody can hear now; Celery says so, and connects again
            except Exception:  # a worker that does not look is no worse than none that could
                log.exception("hearing_failed")

    def _look(self) -> None:
        stops = state.should_stop is not None or state.should_terminate is not None
        if stops or not listens.is_set():
            return  # it takes nothing on purpose
        if len(state.reserved_requests) >= self._worker.concurrency:
            runtime.publisher.note_busy(runtime.incarnation())
            self._looks.clear()
            return
        before, self._looks = self._looks, {}
        for queue, waits in runtime.publisher.oldest(self._queues).items():
            if waits is not None:
                seen, looks = before.get(queue, (waits, 0))
                self._looks[queue] = (waits, looks + 1 if seen == waits else 1)
        deaf = sorted(queue for queue, (_, looks) in self._looks.items() if looks > DEAF_AFTER)
        if not deaf:
            self._said = False
            return
        if not self._said:
            self._said = True
            log.error("worker_deaf", extra={"queues": ", ".join(deaf)})
        # What runs ends first: a deaf worker takes nothing new.
        if not state.reserved_requests:
            log.warning("worker_restarts", extra={"queues": ", ".join(deaf)})
            atexit.register(self._begin_anew)
            state.should_stop = os.EX_OK
            if not self._stopping.wait(STOPS_WITHIN):
                log.error("worker_stuck")
                kill_children()
                self._begin_anew()
                os._exit(os.EX_OK)  # told to stop, which the event loop can not do
