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
from sqlalchemy.exc import OperationalError

from prometheus.persistence import migrate
from prometheus.persistence.migrate import DatabaseRevisionError
from workers.app import runtime, say_what_will_not_run

log = logging.getLogger(__name__)

AFTER_AN_ERROR = timedelta(seconds=1)


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
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        """Refuse to start on a database of another release; say what is left out."""
        say_what_will_not_run()
        try:
            migrate.check(runtime.engine)
            self._checked = True
        except OperationalError as error:
            # It is waited for, as after any outage.
            log.warning("database_unavailable", extra={"error": str(error.orig)})
        except DatabaseRevisionError as error:
            raise SystemExit(f"prometheus: {error}") from None

    @property
    def info(self) -> str:
        """The line that Celery's banner shows."""
        return f"    . markets -> {', '.join(runtime.settings.markets.enabled)}"

    def tick(self) -> float:
        """Do what is due, wait for the next thing, and ask to be called again at once."""
        try:
            if not self._checked:
                migrate.check(runtime.engine)
                self._checked = True
            wait = runtime.scheduler.tick()
        except OperationalError as error:
            log.warning("database_unavailable", extra={"error": str(error.orig)})
            wait = AFTER_AN_ERROR
        except DatabaseRevisionError as error:
            raise SystemExit(f"prometheus: {error}") from None
        except Exception:  # a beat that ends is worse than any error
            log.exception("tick_failed")
            wait = AFTER_AN_ERROR
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
            except OperationalError as error:
                log.warning("database_unavailable", extra={"error": str(error.orig)})
        super().close()


@beat_init.connect
def stop_between_ticks(sender: Any, **_: Any) -> None:
    """Let SIGTERM and SIGINT end the beat between two ticks, not in the middle of one."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, sender.scheduler.stop)
        signal.signal(signal.SIGINT, sender.scheduler.stop)
