"""Celery's signals to changes of rows, in the pool's children and in the worker's main process."""

from __future__ import annotations

import logging
from typing import Any

from celery import signals

from prometheus import log_lines
from prometheus.dispatch.tasks import FailureTask, JobTask
from workers.app import app, runtime
from workers.hearing import Hearing
from workers.heartbeat import Heartbeat, reports
from workers.requests import JobRequest

log = logging.getLogger(__name__)

app.steps["worker"].add(Heartbeat)
app.steps["worker"].add(Hearing)
JobTask.Request = FailureTask.Request = JobRequest

_in_child = False


@signals.worker_process_init.connect
def forget_inherited_connections(**_: Any) -> None:
    """Give a new child of the pool connections of its own."""
    global _in_child
    _in_child = True
    runtime.engine.dispose(close=False)


@signals.task_success.connect
def record_success(sender: JobTask, result: Any, **_: Any) -> None:
    """Report success from where the job ran."""
    if isinstance(sender, JobTask):
        sender.finished(sender.request.id, result)


@signals.task_failure.connect
def record_failure(
    sender: JobTask, task_id: str, exception: BaseException, einfo: Any, **_: Any
) -> None:
    """
    Report a failure that no retry has written.

    In the main process (hard limit, dead child) it comes twice and inside the event loop: a thread
    writes it.
    """
    if not isinstance(sender, JobTask):
        return
    trace = str(einfo.traceback) if einfo is not None else None
    if _in_child:
        sender.failed_here(task_id, exception, trace)
    else:
        reports.put((sender, task_id, exception, trace))


@signals.setup_logging.connect
def configure_logging(loglevel: int | str | None = None, **_: Any) -> None:
    """Write log lines our way instead of Celery's."""
    log_lines.configure(loglevel or "WARNING")
