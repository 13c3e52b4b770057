"""What a worker's main process knows of a job that one of its children runs."""

from __future__ import annotations

from typing import Any

from billiard.exceptions import WorkerLostError
from celery.worker.request import Request

from workers.processes import kill_group


class JobRequest(Request):
    """A request whose child ends with all that it has started."""

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:  # noqa: ARG002
        """
        End the child in a cold stop; the heartbeat hands the attempt back.

        Celery would send SIGTERM, which a job may ignore and so hold up the stop; and it would say
        that the job is sent again, which is not so: its row says what becomes of it.
        """
        super().cancel(pool, signal="KILL", emit_retry=False)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> None:
        """End what a child left behind that died by itself, before the next attempt begins."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if self.worker_pid and isinstance(error, WorkerLostError | SystemExit | KeyboardInterrupt):
            kill_group(self.worker_pid)
        super().on_failure(exc_info, *args, **kwargs)
