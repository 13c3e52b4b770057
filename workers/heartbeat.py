"""The worker's lease, and the thread that writes what its main process has to report."""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import bootsteps
from celery.concurrency import prefork
from celery.worker import state
from celery.worker.request import Request
from sqlalchemy.exc import OperationalError

from prometheus.dispatch.tasks import JobTask
from prometheus.errors import PrometheusError
from prometheus.persistence import leases, migrate
from prometheus.persistence.engine import writing
from workers.app import runtime, say_what_will_not_run

log = logging.getLogger(__name__)

_LOOK_EVERY = 0.5
"""Wall seconds after which the thread looks whether it should stop."""

Report = tuple[JobTask, str, BaseException, str | None]

reports: queue.Queue[Report] = queue.Queue()
"""Failures that only the main process knows of."""

# SQLite keeps its locks by process and a forked child inherits them, so the pool may fork a child
# only while this process has no connection open.
_database = threading.Lock()
os.register_at_fork(
    before=_database.acquire,
    after_in_parent=_database.release,
    after_in_child=_database.release,
)


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
        self._stopping = threading.Event()
        self._worker = worker
        if not issubclass(worker.pool_cls, prefork.TaskPool):
            pool = worker.pool_cls.__module__.rpartition(".")[2]
            raise SystemExit(
                f"prometheus: in the pool {pool!r} no job can be held to its time limit. Start the "
                f"worker without --pool, or with --pool prefork."
            )

    def start(self, worker: Any) -> None:  # noqa: ARG002
        """Register the process and begin to renew."""
        say_what_will_not_run()
        try:
            with _connected():
                migrate.check(runtime.engine)
                self._register()
        except (PrometheusError, OperationalError) as error:
            # Celery would go on without this step, and without a lease nothing could start.
            raise SystemExit(f"prometheus: {error}") from None
        self._thread.start()

    def stop(self, worker: Any) -> None:  # noqa: ARG002
        """Write what is left, and end the lease."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _register(self) -> None:
        with writing(runtime.engine) as connection:
            leases.register_worker(
                connection,
                runtime.incarnation(),
                worker=self._worker.hostname,
                host=socket.gethostname(),
                pid=os.getpid(),
                queues=sorted(str(name) for name in self._worker.app.amqp.queues.consume_from),
                lease=runtime.settings.workers.lease,
            )

    def _write(self) -> None:
        """
        Renew and report, one thing after the other; runs in a thread of its own.

        It keeps its own time: Celery's timers stand still while the broker is away.
        """
        every = runtime.settings.workers.renewal.total_seconds()
        renew_at = time.monotonic() + every
        while not (self._stopping.is_set() and reports.empty()):
            try:
                report = reports.get(timeout=min(_LOOK_EVERY, every))
            except queue.Empty:
                report = None
            if report is None and time.monotonic() < renew_at:
                continue
            try:
                with _connected():
                    if report is not None:
                        task, execution_id, error, trace = report
                        task.failed(execution_id, error, trace)
                    if time.monotonic() >= renew_at:
                        self._renew()
                        renew_at = time.monotonic() + every
            except OperationalError as error:
                log.warning("database_unavailable", extra={"error": str(error.orig)})
            except Exception:  # without this thread the worker would be given up
                log.exception("heartbeat_failed")
        try:
            with _connected(), writing(runtime.engine) as connection:
                leases.end_worker(connection, runtime.incarnation())
        except OperationalError as error:
            log.warning("database_unavailable", extra={"error": str(error.orig)})

    def _renew(self) -> None:
        running = _running()
        with writing(runtime.engine) as connection:
            renewed = leases.renew_worker(
                connection,
                runtime.incarnation(),
                running=running,
                lease=runtime.settings.workers.lease,
            )
        if renewed is None:
            # Given up: what it runs was failed and can not be reported any more. It goes on with
            # new work as another.
            log.error("lease_lost", extra={"incarnation": runtime.incarnation()})
            self._kill(running.values())
            runtime.incarnation.renew()
            self._register()
        else:
            self._kill(running[execution_id] for execution_id in renewed.taken)

    def _kill(self, requests: Iterable[Request]) -> None:
        """
        End the children that run some attempts, whatever they are doing.

        Celery takes such an end for a revocation, and reports no failure.
        """
        for request in requests:
            if request in state.active_requests and isinstance(request.task, JobTask):
                log.warning("attempt_killed", extra={"execution": request.id})
                self._worker.pool.terminate_job(request.worker_pid, signal.SIGKILL)


@contextmanager
def _connected() -> Iterator[None]:
    """Use the database from the main process: no child is forked meanwhile."""
    with _database:
        try:
            yield
        finally:
            runtime.engine.dispose()


def _running() -> dict[str, Request]:
    """Return the requests that children have accepted, by their ids."""
    while True:
        try:
            return {request.id: request for request in tuple(state.active_requests)}
        except RuntimeError:
            # The event loop changed the set while it was copied.
            continue
