"""Celery's signals to changes of rows, in the pool's children and in the worker's main process."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
from functools import partial
from importlib import import_module
from typing import Any

from celery import platforms, signals
from celery.exceptions import TimeLimitExceeded

from prometheus import log_lines
from prometheus.dispatch.limits import bound_output
from prometheus.dispatch.tasks import FailureTask, JobTask
from prometheus.persistence import refusals
from prometheus.persistence.engine import let_rest, writing
from workers.app import app, runtime
from workers.hearing import Hearing
from workers.heartbeat import Heartbeat, end_with_a_frozen_worker, listens, reports
from workers.processes import end_with_parent
from workers.requests import JobRequest
from workers.time_limits import ForgetTimeLimits

log = logging.getLogger(__name__)

app.steps["worker"].add(Heartbeat)
app.steps["worker"].add(Hearing)
app.steps["worker"].add(ForgetTimeLimits)
JobTask.Request = FailureTask.Request = JobRequest
platforms.set_pdeathsig = end_with_parent

_in_child = False


@signals.worker_init.connect
def load_before_children(**_: Any) -> None:
    """
    Import what our own jobs need before the pool makes its children, which then share it.

    Users' jobs are imported by the children that run them, as ever: nobody knows what their modules
    open or start, and one that can not be imported fails its own attempts alone. Elsewhere than on
    Linux so are ours: numpy may have been at work in a library of the system that survives no fork.
    """
    if sys.platform != "linux":
        return
    jobs = [job for each in runtime.pipelines.values() for job in each.jobs.values()]
    ours = [job for job in jobs if str(job.function).startswith("prometheus.")]
    for job in ours:
        with contextlib.suppress(Exception):  # its attempts say what is wrong
            job.resolve()
    if ours:
        import_module("prometheus.sources.registry")
        import_module("numpy.ma")  # `unique` looks into it
        import_module("numpy.random")  # synthetic prices are drawn with it
    gc.collect()
    gc.freeze()  # a child that looked for garbage in it would get its own copy


@signals.worker_process_init.connect
def prepare_child(**_: Any) -> None:
    """Give a new child of the pool its bounds, and let its connection to the database rest."""
    global _in_child
    _in_child = True
    bound_output()
    if sys.platform == "linux":  # elsewhere nothing would end it with its parent
        # Celery then kills all that a job has started together with it, at its hard limit.
        os.setpgid(0, 0)
    end_with_a_frozen_worker()
    let_rest(runtime.engine)


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
        unheard = isinstance(exception, TimeLimitExceeded) and not listens.is_set()
        reports.put(partial(sender.failed, task_id, exception, trace, unheard=unheard))


@signals.task_unknown.connect
def record_refusal(name: str, id: str, **_: Any) -> None:  # noqa: A002  the name is Celery's
    """Note that this worker's code has no such job; the message is gone."""
    reports.put(partial(_refuse, id, name))


def _refuse(execution_id: str, task: str) -> None:
    with writing(runtime.engine) as connection:
        reason = refusals.refuse(
            connection, execution_id, task=task, incarnation=runtime.incarnation()
        )
    if reason is not None:
        log.error("job_expired", extra={"execution": execution_id, "reason": reason})


@signals.setup_logging.connect
def configure_logging(loglevel: int | str | None = None, **_: Any) -> None:
    """Write log lines our way instead of Celery's."""
    log_lines.configure(loglevel or "WARNING")
