"""Forgets the time limits of jobs that have ended."""

from __future__ import annotations

import heapq
from typing import Any

from celery import bootsteps

_FEWEST = 256
"""So many entries are left alone."""


class ForgetTimeLimits(bootsteps.Step):
    """
    Takes cancelled entries out of the event loop's timer.

    The timer would keep each of them until its time has come: with limits of an hour and twenty
    jobs a second, seventy thousand.
    """

    requires = ("celery.worker.components:Hub",)

    def include_if(self, worker: Any) -> bool:
        """Only where there is an event loop."""
        return bool(worker.use_eventloop)

    def create(self, worker: Any) -> None:
        """Look at each turn of the loop, which outlives its connections."""
        worker.hub.on_tick.add(Forgetting(worker.hub.timer))


class Forgetting:
    """
    Looks at a timer's heap when it has doubled, so that a look costs each entry next to nothing.

    Called in the event loop, where alone the heap changes.
    """

    def __init__(self, timer: Any) -> None:
        self._heap: list[Any] = timer._queue  # noqa: SLF001  nothing else takes an entry out
        self._at = _FEWEST

    def __call__(self) -> None:
        """Take out what was cancelled, if it is time."""
        if len(self._heap) < self._at:
            return
        # In place: the loop knows the list, not the timer.
        self._heap[:] = [each for each in self._heap if not each.entry.cancelled]
        heapq.heapify(self._heap)
        self._at = max(_FEWEST, 2 * len(self._heap))
