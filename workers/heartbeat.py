"""The worker's lease, and the thread that writes what its main process has to report."""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
from typing import Any

from celery import bootsteps
from celery.worker import state
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from prometheus.dispatch.tasks import JobTask
from prometheus.errors import PrometheusError
from prometheus.persistence import leases, migrate
from prometheus.persistence.engine import writing
from workers.app import runtime

log = logging.getLogger(__name__)

Report = tuple[JobTask, str, BaseException, str | None]

reports: queue.Queue[Report | None] = queue.Queue()
"""Failures that only the main process knows of; ``None`` is a renewal that is due."""


class Heartbeat(bootsteps.StartStopStep):
    """
    Holds the lease of this worker process.

    It needs only the timer, so that Celery stops it after the pool: a worker that is asked to stop
    renews its lease until its last job has ended.
    """

    requires = ("celery.worker.components:Timer",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._thread = threading.Thread(target=self._write, name="heartbeat", daemon=True)
        self._stopping = False
        self._entry: Any = None
        self._worker = worker

    def start(self, worker: Any) -> None:
        """Register the process and begin to renew."""
        try:
            migrate.check(runtime.engine)
            self._register()
        except (PrometheusError, OperationalError) as error:
            # Celery would go on without this step, and without a lease nothing could start.
            raise SystemExit(f"prometheus: {error}") from None
        self._thread.start()
        every = runtime.settings.workers.renewal.total_seconds()
        self._entry = worker.timer.call_repeatedly(every, reports.put, (None,))

    def stop(self, worker: Any) -> None:  # noqa: ARG002
        """Write what is left, and end the lease."""
        if self._entry is not None:
            self._entry.cancel()
        self._stopping = True
        reports.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _register(self) -> None:
        with writing(runtime.engine) as connection:
            leases.register_worker(
                connection,
                runtime.incarnation,
                worker=self._worker.hostname,
                host=socket.gethostname(),
                pid=os.getpid(),
                queues=sorted(str(name) for name in self._worker.app.amqp.queues.consume_from),
                lease=runtime.settings.workers.lease,
            )

    def _write(self) -> None:
        """Renew and report, one thing after the other; runs in a thread of its own."""
        while True:
            report = reports.get()
            try:
                if report is None:
                    self._renew()
                else:
                    task, execution_id, error, trace = report
                    task.failed(execution_id, error, trace)
            except SQLAlchemyError as error:
                log.warning("database_unavailable", extra={"error": str(error)})
            if self._stopping and reports.empty():
                break
        try:
            with writing(runtime.engine) as connection:
                leases.end_worker(connection, runtime.incarnation)
        except SQLAlchemyError as error:
            log.warning("database_unavailable", extra={"error": str(error)})

    def _renew(self) -> None:
        running = {request.id for request in tuple(state.active_requests)}
        with writing(runtime.engine) as connection:
            held = leases.renew_worker(
                connection,
                runtime.incarnation,
                running=running,
                lease=runtime.settings.workers.lease,
            )
        if not held:
            log.error("lease_lost", extra={"incarnation": runtime.incarnation})
