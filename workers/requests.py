"""What a worker's main process knows of a job that one of its children runs."""

from __future__ import annotations

from typing import Any

from celery.worker.request import Request


class JobRequest(Request):
    """
    A request that a cold stop kills.

    Celery would send SIGTERM, which a job may ignore and so hold up the stop; and it would say that
    the job is sent again, which is not so: its row says what becomes of it.
    """

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:  # noqa: ARG002
        """End the child; the heartbeat hands the attempt back."""
        super().cancel(pool, signal="KILL", emit_retry=False)
