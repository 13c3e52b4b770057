"""The worker's lease, and the thread that writes what its main process has to report."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from ctypes import c_double
from datetime import datetime, timedelta
from functools import partial
from multiprocessing.sharedctypes import RawValue
from typing import Any
from weakref import WeakSet

from billiard import active_children
from celery import bootsteps
from celery.apps.worker import install_worker_term_hard_handler
from celery.concurrency import prefork
from celery.signals import worker_shutting_down
from celery.worker import state
from celery.worker.request import Request
from sqlalchemy.exc import DBAPIError

from prometheus.dispatch.attempts import CutOffError, Outage
from prometheus.dispatch.publisher import BrokerUnavailableError, Mark
from prometheus.dispatch.tasks import JobTask
from prometheus.errors import PrometheusError
from prometheus.persistence import leases, migrate
from prometheus.persistence.engine import is_contended, is_unavailable, writing
from workers.app import runtime, say_what_will_not_run
from workers.pool import Pool
from workers.processes import begin_anew, end_when_stuck, kill_children, kill_group

log = logging.getLogger(__name__)

_LOOK_EVERY = 0.5
"""Wall seconds after which the thread looks whether it should stop."""

_LOOK_AFTER = 3 / 5
"""Part of the lease after which a worker that could not renew it asks whether others have the
database; half a lease after its last renewal it certainly could not reach it any more. To ask
twice takes a third of the lease when Redis hangs, and what runs must end before the lease does.
Also the part for which a leader must have had the database again: after an outage for all it
rescues nobody for one lease, in which this worker may come back."""
_FROZEN_AFTER = 3 / 4
"""Part of the lease for which a main process may stand still before its children end."""
_STOPS_WITHIN = 10.0
"""Wall seconds in which the last reports must have been written."""
_ENDS_WITHIN = 30.0
"""Wall seconds in which a worker that is told to stop has ended, once it runs nothing."""

Report = Callable[[], object]

reports: queue.Queue[Report] = queue.Queue()
"""Writes what only the main process knows: failures, and messages that it refused."""

listens = threading.Event()
"""Set while this worker takes messages; without the database it leaves them to others."""
listens.set()

_watched_at = RawValue(c_double)
"""When the main process last looked after its jobs; its children see it."""

# SQLite keeps its locks by process and a forked child inherits them, so there the pool may fork a
# child only while this process has no connection open. A PostgreSQL that has no room for another
# connection must find the one that this process has, as it finds the leader's.
_database = threading.Lock()


def _begin_without_connections() -> None:
    """Leave the parent's connections to it: two that use the same one would garble it."""
    runtime.engine.dispose(close=False)
    _database.release()


os.register_at_fork(
    before=_database.acquire,
    after_in_parent=_database.release,
    after_in_child=_begin_without_connections,
)


class Heartbeat(bootsteps.StartStopStep):
    """
    Holds the lease of this worker process.

    It ends after the pool: a worker that is asked to stop renews its lease until its last job has
    ended.
    """

    requires = ("celery.worker.components:Timer",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._writer = threading.Thread(target=self._write, name="heartbeat", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="lease-watch", daemon=True)
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._try_now = threading.Event()
        self._turned = threading.Event()
        self._turned.set()
        self._cut_off = WeakSet[Request]()
        self._asked_to_stop = False
        self._watches_end = False
        self._worker = worker
        if not issubclass(worker.pool_cls, prefork.TaskPool):
            pool = worker.pool_cls.__module__.rpartition(".")[2]
            raise SystemExit(
                f"prometheus: in the pool {pool!r} no job can be held to its time limit. Start the "
                f"worker without --pool, or with --pool prefork."
            )
        # Here, because Celery has no setting for it that holds with --pool prefork too.
        worker.pool_cls.Pool = Pool

    def start(self, worker: Any) -> None:  # noqa: ARG002
        """Register the process and begin to renew."""
        say_what_will_not_run()
        end_when_stuck(self._begin_anew_if_idle)
        self._queues = sorted(str(name) for name in self._worker.app.amqp.queues.consume_from)
        outage = Outage()
        while True:
            try:
                with _connected():
                    migrate.check(runtime.engine)
                    self._register()
                break
            except PrometheusError as error:
                # Celery would go on without this step, and without a lease nothing could start.
                raise SystemExit(f"prometheus: {error}") from None
            except DBAPIError as error:
                if not is_unavailable(error):
                    raise SystemExit(f"prometheus: {error}") from None
                state.maybe_shutdown()
                time.sleep(outage.goes_on(error))
        outage.is_over()
        worker_shutting_down.connect(self._watch_end)
        worker_shutting_down.connect(self._stop_cold_next)
        self._writer.start()
        _watched_at.value = time.monotonic()
        self._watcher.start()

    def stop(self, worker: Any) -> None:
        """Let the jobs end, write what is left, and end the lease."""
        # Celery may stop its pool before this step or after it.
        if worker.pool is not None:
            worker.pool.stop()
        self._end()

    def terminate(self, worker: Any) -> None:
        """End the jobs, hand them back, and end the lease."""
        if worker.pool is not None:
            worker.pool.terminate()
        # What is handed back must not run any more, whatever it does with SIGTERM.
        kill_children()
        self._end()

    def _end(self) -> None:
        self._stopping.set()
        if self._writer.is_alive():
            self._writer.join(timeout=_STOPS_WITHIN)
        self._ended.set()

    def _begin_anew_if_idle(self) -> None:
        """Leave behind a database that does not answer, once nothing runs here."""
        stops = state.should_stop is not None or state.should_terminate is not None
        if not (stops or state.reserved_requests):
            log.error("worker_restarts", extra={"reason": "the database does not answer"})
            kill_children()
            begin_anew()

    def _watch_end(self, **_: Any) -> None:
        """See to it, in a thread of its own, that what is told to stop ends."""
        if not self._watches_end:
            self._watches_end = True
            threading.Thread(target=self._end_when_stuck, name="end-watch", daemon=True).start()

    def _end_when_stuck(self) -> None:
        """
        End this process if it does not, although nothing runs here any more.

        Celery tells Redis that the worker goes, and goes on trying while Redis is away.
        """
        idle_since = time.monotonic()
        while time.monotonic() - idle_since < _ENDS_WITHIN:
            time.sleep(_LOOK_EVERY)
            if state.reserved_requests and state.should_terminate is None:
                idle_since = time.monotonic()
        log.error("worker_stuck")
        kill_children()
        self._end()
        os._exit(os.EX_OK)

    def _stop_cold_next(self, how: str, **_: Any) -> None:
        """Let a second SIGTERM end the running jobs, for whom the first one waits."""
        if how != "Warm":
            return
        install_worker_term_hard_handler(self._worker, sig="SIGTERM")
        if self._asked_to_stop:
            # The second came while the first was still being handled, and was taken for a first.
            signal.raise_signal(signal.SIGTERM)
        self._asked_to_stop = True
        soft_stop = runtime.settings.workers.soft_stop
        if soft_stop is not None:
            self._send_second(after=soft_stop.total_seconds())

    def _send_second(self, *, after: float) -> None:
        """Have what still runs then handed back, as whoever stops us might do."""
        timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGTERM))
        timer.daemon = True  # if all jobs have ended before, so has the process
        timer.start()

    def _register(self) -> None:
        # Another each time: a registration that seemed to fail may have been committed.
        runtime.incarnation.renew()
        began = time.monotonic()
        with writing(runtime.engine) as connection:
            renewed_at = leases.register_worker(
                connection,
                runtime.incarnation(),
                worker=self._worker.hostname,
                host=socket.gethostname(),
                pid=os.getpid(),
                queues=self._queues,
                lease=runtime.settings.workers.lease,
                slots=self._worker.concurrency,
            )
        self._renewed = renewed_at, began

    def _write(self) -> None:
        """
        Renew and report, one thing after the other; runs in a thread of its own.

        It keeps its own time: Celery's timers stand still while the broker is away.
        """
        every = runtime.settings.workers.renewal.total_seconds()
        renew_at = time.monotonic() + every
        report: Report | None = None
        outage = Outage()
        while not (self._stopping.is_set() and report is None and reports.empty()):
            if report is None:
                with contextlib.suppress(queue.Empty):
                    report = reports.get(timeout=min(_LOOK_EVERY, every))
            if report is None and time.monotonic() < renew_at:
                continue
            reporting = False
            try:
                with _connected():
                    if time.monotonic() >= renew_at:
                        self._renew()
                        renew_at = time.monotonic() + every
                        self._listen(True)
                    if report is not None:
                        reporting = True
                        report()
                        report = None
                outage.is_over()
            except Exception as error:  # without this thread the worker would be given up
                if isinstance(error, DBAPIError) and is_unavailable(error):
                    # Somebody who holds a row for longer than we wait is no reason to leave.
                    if time.monotonic() >= renew_at and not is_contended(error):
                        self._listen(False)
                    self._try_now.wait(outage.goes_on(error))
                    self._try_now.clear()
                else:
                    log.exception("heartbeat_failed")
                    if reporting:
                        report = None
        try:
            with _connected():
                runtime.attempts.hand_back(runtime.incarnation())
                with writing(runtime.engine) as connection:
                    leases.end_worker(connection, runtime.incarnation())
        except DBAPIError as error:
            log.warning("lease_not_ended", extra={"error": str(error.orig)})

    def _renew(self) -> None:
        requests = _running()
        began = time.monotonic()
        with writing(runtime.engine) as connection:
            renewed = leases.renew_worker(
                connection,
                runtime.incarnation(),
                running=sorted({request.id for request in requests}),
                lease=runtime.settings.workers.lease,
            )
            if renewed is not None:
                # Before the commit, which lets the leader start them again.
                self._kill_unheard(renewed.unnamed)
        if renewed is None:
            # Given up: what it runs was failed and can not be reported any more. It goes on with
            # new work as another. Asked anew, because something may have begun meanwhile.
            log.error("lease_lost", extra={"incarnation": runtime.incarnation()})
            self._kill(_running())
            self._register()
        else:
            self._renewed = renewed.at, began
            self._kill(request for request in requests if request.id in renewed.taken)

    def _listen(self, wanted: bool) -> None:
        """
        Take messages, or leave them to others while nothing could start here.

        The event loop does it; a lost connection to Redis keeps what was said last.
        """
        consumer = getattr(self._worker, "consumer", None)  # made after this thread has begun
        if consumer is None or state.should_stop is not None:
            return
        if wanted is listens.is_set() and self._turned.is_set():
            return
        (listens.set if wanted else listens.clear)()
        self._turned.set()

        def turn_all() -> None:
            # As it is wanted by now: the loop takes what waits for it in any order.
            take = listens.is_set()
            turn = consumer.add_task_queue if take else consumer.cancel_task_queue
            for name in self._queues:
                try:
                    turn(name)
                except Exception:  # a channel that is just breaking, if the connection does too
                    self._turned.clear()  # else nobody would: tried again with the next renewal
                    log.warning("queue_not_turned", extra={"queue": name}, exc_info=True)

        consumer.call_soon(turn_all)

    def _watch(self) -> None:
        """
        End what runs before the lease does, if others have the database and can rescue it.

        In a thread that needs no database, because a try to reach one may hang for longer, or for
        ever: then this thread leaves the queues, too.
        """
        lease = runtime.settings.workers.lease
        since: float | None = None
        while not self._ended.wait(_LOOK_EVERY):
            _watched_at.value = time.monotonic()
            if self._silent() > _LOOK_AFTER * lease:
                self._listen(False)
            patience = self._patience(lease)
            if patience is None:
                since = None
                continue
            if since is None:
                since = time.monotonic()
                self._try_now.set()
            # Once more: Redis may have taken so long to answer that the lease is renewed meanwhile.
            late = self._silent() > _LOOK_AFTER * lease
            if late and time.monotonic() - since >= patience.total_seconds():
                self._end_cut_off(CutOffError(lease))

    def _patience(self, lease: timedelta) -> timedelta | None:
        """Return how long what runs may go on unless the lease is renewed; ``None``: for good."""
        renewed_at, _ = self._renewed
        silent = self._silent()
        if silent <= _LOOK_AFTER * lease or not _running():
            return None
        # After an outage for all, others may have been the first to try again.
        patience = lease / 10
        try:
            mark = runtime.publisher.read_mark(within=lease / 6)
        except BrokerUnavailableError:
            return patience  # nobody knows, and going on could be wrong
        except Exception:  # without this thread nothing would end what must not go on
            log.exception("lease_watch_failed")
            return patience
        if mark is not None and runtime.incarnation() in mark.given_up:
            return timedelta(0)
        # By the database's clock, however long ago the leader could leave its mark.
        now = renewed_at + silent
        others_go_on = _others_go_on(
            mark, renewed_at + lease / 2, reachable_by=now - _LOOK_AFTER * lease
        )
        return patience if others_go_on else None

    def _silent(self) -> timedelta:
        """Return how long ago the last renewal began."""
        return timedelta(seconds=time.monotonic() - self._renewed[1])

    def _end_cut_off(self, error: CutOffError) -> None:
        ended = [
            request
            for request in _running()
            if isinstance(request.task, JobTask) and request not in self._cut_off
        ]
        # Not by id: what was ended before it could begin may be told to this worker again.
        self._cut_off.update(ended)
        if ended:
            log.error("worker_cut_off", extra={"jobs": len({request.id for request in ended})})
            self._kill(ended)
            for request in ended:
                # Of this child alone: another may begin the same before this can be reported.
                child = request.worker_pid
                reports.put(partial(request.task.failed, request.id, error, None, pid=child))

    def _kill(self, requests: Iterable[Request]) -> None:
        """
        End the children that run some attempts, whatever they are doing.

        Celery takes such an end for a revocation, and reports no failure.
        """
        for request in requests:
            if request in state.active_requests and isinstance(request.task, JobTask):
                log.warning("attempt_killed", extra={"execution": request.id})
                self._worker.pool.terminate_job(request.worker_pid, signal.SIGKILL)
                kill_group(request.worker_pid)

    def _kill_unheard(self, unnamed: Mapping[str, int | None]) -> None:
        """
        End the children that run attempts of which this process has never heard.

        Celery forgets what it has handed to a child, and our pool does not; but the child's answer
        is not read as long as Redis is away, and nothing holds such a job to its limits.

        Args:
            unnamed: Execution id -> the pid of what started it.
        """
        if not unnamed:
            return
        busy = {request.worker_pid for request in _running()}
        children = {child.pid for child in active_children()}
        for execution_id, pid in unnamed.items():
            # One that has begun something else has left this behind.
            if pid is not None and pid in children and pid not in busy:
                log.warning(
                    "attempt_killed", extra={"execution": execution_id, "reason": "unheard"}
                )
                self._worker.pool.terminate_job(pid, signal.SIGKILL)
                kill_group(pid)


def end_with_a_frozen_worker() -> None:
    """
    Kill this child of the pool, in a thread of its own, when its main process stands still.

    That could neither renew the lease nor end the job, which would go on beside its successor.
    """
    limit = _FROZEN_AFTER * runtime.settings.workers.lease.total_seconds()

    def watch() -> None:
        looks = 0
        # The second time only: a machine that stood still as a whole has just begun again.
        while looks < 2:
            time.sleep(2 * _LOOK_EVERY)
            # Nought without a lease: Celery may start its pool earlier, and then no job runs yet.
            late = 0 < _watched_at.value < time.monotonic() - limit
            looks = looks + 1 if late else 0
        log.error("worker_frozen")
        kill_group(os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


@contextmanager
def _connected() -> Iterator[None]:
    """Use the database from the main process; on SQLite no child is forked meanwhile."""
    if runtime.engine.dialect.name != "sqlite":
        yield
        return
    with _database:
        try:
            yield
        finally:
            runtime.engine.dispose()


def _others_go_on(mark: Mark | None, since: datetime, *, reachable_by: datetime) -> bool:
    """
    Say whether a leader has the database that this process can not reach, and could soon rescue.

    Args:
        since: A time of the database's at which this process could not reach it any more.
        reachable_by: When a leader must have had it by, to rescue before this process is back.
    """
    # A leader that goes on leaves another mark within seconds, whatever Redis has forgotten.
    if mark is None or mark.at <= since:
        return False
    return mark.reachable_since is None or mark.reachable_since <= reachable_by


def _running() -> list[Request]:
    """
    Return the requests that children have accepted.

    Two of one id, while the message that came second has not been refused yet.
    """
    while True:
        try:
            return list(state.active_requests)
        except RuntimeError:
            # The event loop changed the set while it was copied.
            continue
