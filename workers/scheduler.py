"""The market-aware beat: Celery's beat service around `prometheus.dispatch.scheduler`."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
from datetime import timedelta
from typing import Any

from celery.beat import Scheduler
from celery.signals import beat_init
from sqlalchemy.exc import DBAPIError

from prometheus.memory import memory_given_back
from prometheus.persistence import migrate
from prometheus.persistence.engine import is_unavailable, let_rest
from prometheus.persistence.migrate import DatabaseRevisionError
from workers.app import runtime, say_what_will_not_run
from workers.processes import end_when_stuck

log = logging.getLogger(__name__)

AFTER_AN_ERROR = timedelta(seconds=1)
"""Doubles with each further error of the database, up to `LONGEST_AFTER_ERRORS`."""
LONGEST_AFTER_ERRORS = timedelta(seconds=10)


class MarketScheduler(Scheduler):
    """
    Ticks by sessions instead of by Celery's own schedule.

    It waits inside `tick`, on a pipe that SIGTERM writes to, because Celery's loop would sleep
    where nothing can wake it, and would end at the first exception.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Not a threading.Event: a signal handler must not wait for a lock, and the main thread,
        # which it interrupts, may hold the event's.
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._closed = False
        self._checked = False
        self._away_for: timedelta | None = None
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        """Refuse to start on a database of another release; say what is left out."""
        say_what_will_not_run()
        self._begin_heartbeat()
        end_when_stuck(_end_beat)
        let_rest(runtime.engine)
        try:
            self._check()
        except DBAPIError as error:
            if not is_unavailable(error):
                raise
            self._wait_for_database(error)  # as after any outage

    def _begin_heartbeat(self) -> None:
        self._heartbeat = runtime.settings.scheduler.heartbeat
        if self._heartbeat is not None:
            try:
                self._heartbeat.touch()
                self._heartbeat.unlink()  # until the first tick, it says nothing
            except OSError as error:
                raise SystemExit(
                    f"prometheus: PROMETHEUS__SCHEDULER__HEARTBEAT={self._heartbeat}: "
                    f"{error.strerror}"
                ) from None

    def _check(self) -> None:
        try:
            migrate.check(runtime.engine)
        except DatabaseRevisionError as error:
            raise SystemExit(f"prometheus: {error}") from None
        self._checked = True

    def _wait_for_database(self, error: DBAPIError) -> timedelta:
        """Say once an outage that the database is away; return how long to leave it alone."""
        if self._away_for is None:
            log.warning("database_unavailable", extra={"error": str(error.orig)})
            self._away_for = AFTER_AN_ERROR
        else:
            self._away_for = min(2 * self._away_for, LONGEST_AFTER_ERRORS)
        return self._away_for

    @property
    def info(self) -> str:
        """The line that Celery's banner shows."""
        return f"    . markets -> {', '.join(runtime.settings.markets.enabled)}"

    def tick(self) -> float:
        """Do what is due, wait for the next thing, and ask to be called again at once."""
        try:
            if not self._checked:
                self._check()
            with memory_given_back():
                wait = runtime.scheduler.tick()
            if self._away_for is not None:
                self._away_for = None
                log.warning("database_back")
        except Exception as error:  # a beat that ends is worse than any error
            if isinstance(error, DBAPIError) and is_unavailable(error):
                wait = self._wait_for_database(error)
            else:
                log.exception("tick_failed")
                wait = AFTER_AN_ERROR
        if self._heartbeat is not None:
            with contextlib.suppress(OSError):  # whoever looks at it says how old it is
                self._heartbeat.touch()
        if select.select([self._woken], [], [], wait.total_seconds())[0]:
            raise SystemExit(0)
        return 0

    def stop(self, *_: object) -> None:
        """End after the tick under way; a signal handler."""
        with contextlib.suppress(BlockingIOError):  # full of earlier signals, which suffice
            os.write(self._wake, b"\0")

    def close(self) -> None:
        """Give up the lead; Celery calls this twice."""
        if not self._closed:
            self._closed = True
            try:
                runtime.scheduler.resign()
            except DBAPIError as error:
                log.warning("lead_not_given_up", extra={"error": str(error.orig)})
        super().close()


def _end_beat() -> None:
    """End the process whose main thread hangs; whatever supervises it starts it again."""
    log.error("beat_ends", extra={"reason": "the database does not answer"})
    os._exit(os.EX_UNAVAILABLE)


@beat_init.connect
def stop_between_ticks(sender: Any, **_: Any) -> None:
    """Let SIGTERM and SIGINT end the beat between two ticks, not in the middle of one."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, sender.scheduler.stop)
        signal.signal(signal.SIGINT, sender.scheduler.stop)
