"""Watching runs until they are done: poll, show, notice when nothing moves any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from prometheus.cli import output
from prometheus.cli.embedded import ends_of_logs
from prometheus.cli.sessions import Remark
from prometheus.cli.stack import Stack
from prometheus.errors import PrometheusError
from prometheus.orchestration.lifecycle import FINAL, JobStatus, RunStatus
from prometheus.persistence.engine import reading
from prometheus.persistence.leases import wall_time
from prometheus.persistence.progress import JobProgress, Progress, RunProgress, read_progress

POLL_EVERY = 0.25
"""Wall seconds between two looks; each is a few short reads."""
RESTS_AFTER = 10.0
"""Wall seconds without a change after which fewer looks do."""
REST = 1.0
"""Wall seconds between two looks then; that all processes live is looked at as often as ever."""
STALLED_AFTER = timedelta(seconds=120)
_OVERLAP = timedelta(seconds=2)
"""How far a look reaches back before the last one, as commits become visible after their stamps."""


class StalledError(PrometheusError):
    """Nothing has happened for a while although there is something to do."""


class View(Protocol):
    """Where progress is shown."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def say(self, message: str) -> None:
        """Tell what is being done before there is progress."""

    def show(self, progress: Progress) -> None:
        """Show where the runs stand."""


def follow(
    engine: Engine,
    view: View,
    *,
    until: Callable[[Progress], bool],
    stack: Stack | None = None,
    dag_ids: Sequence[str] = (),
    stalled_after: timedelta | None = STALLED_AFTER,
) -> Progress:
    """
    Show progress until it is what was waited for.

    Args:
        until: Says so.
        stack: Whose processes must live, and whose logs explain a stall.
        dag_ids: Runs to show even if they were finished before; open runs are always shown.
        stalled_after: How long nothing may happen without a reason; ``None`` for ever.

    Returns:
        The last look.

    Raises:
        StalledError: Nothing has happened for too long.
        ProgramError: A process of the stack has died.
        Interrupted: A signal came, and there is a stack.
    """
    runs: dict[str, RunProgress] = {}
    since: datetime | None = None
    seen: object = None
    moved_at = changed_at = time.monotonic()
    while True:
        started_at = time.monotonic()
        try:
            with reading(engine) as connection:
                if since is None:
                    since = wall_time(connection)
                look = read_progress(connection, since=since, dag_ids=() if runs else dag_ids)
        except OperationalError:
            # A server that restarts is waited for, as everything else waits for it.
            look = None
        if look is not None:
            since = look.now.wall_at - _OVERLAP
            runs.update({run.dag_id: run for run in look.runs})
            ordered = sorted(runs.values(), key=lambda run: (run.session_date, run.dag_id))
            progress = Progress(look.now, tuple(ordered))
            view.show(progress)
            if until(progress):
                return progress
            fingerprint = progress.fingerprint()
            if fingerprint != seen:
                seen = fingerprint
                moved_at = changed_at = time.monotonic()
            elif progress.waits_for_time():
                moved_at = time.monotonic()
        idle = timedelta(seconds=time.monotonic() - moved_at)
        if stalled_after is not None and idle > stalled_after:
            what = "the database does not answer" if look is None else "no row has changed"
            logs = ends_of_logs(stack) if stack is not None else ""
            raise StalledError(
                f"{what} for {output.in_words(idle)}, and the runs are not finished.{logs}"
            )
        rests = time.monotonic() - changed_at > RESTS_AFTER
        look_again_at = started_at + (REST if rests else POLL_EVERY)
        while True:
            if stack is not None:
                stack.check()
            left = look_again_at - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(POLL_EVERY, left))


@dataclass(frozen=True, slots=True)
class Change:
    """Something that is worth telling."""

    event: str
    sentence: str
    facts: dict[str, object]
    """JSON values."""


class Changes:
    """Compares each look with the one before it and tells what is worth telling."""

    def __init__(self, remarks: Sequence[Remark] = ()) -> None:
        self._runs: dict[str, RunProgress] | None = None
        self._remarks = list(remarks)

    def between(self, progress: Progress) -> list[tuple[datetime, Change]]:
        """
        Compare with the look before.

        Returns:
            What has changed and at what market time, the earliest first.
        """
        found: list[tuple[datetime, Change]] = []
        today = progress.now.market_at.date()
        while self._remarks and self._remarks[0].day <= today:
            remark = self._remarks.pop(0)
            closed = {"market": remark.market_id, "day": remark.day, "reason": remark.text}
            found.append((progress.now.market_at, Change("market_closed", f"{remark}", closed)))
        for run in progress.runs:
            before = (self._runs or {}).get(run.dag_id)
            if before != run:
                at = run.moved_at(progress.now)
                if self._runs is not None and before is None and run.status is not RunStatus.OPEN:
                    found.append((at, _opened(run)))  # and closed again since
                found += [(at, change) for change in _run_changes(before, run)]
        self._runs = {run.dag_id: run for run in progress.runs}
        return sorted(found, key=lambda each: each[0])


def _run_changes(before: RunProgress | None, run: RunProgress) -> list[Change]:
    facts: dict[str, object] = {"dag_id": run.dag_id}
    found: list[Change] = []
    if run.status is RunStatus.OPEN and (before is None or before.status != run.status):
        found.append(_opened(run, again=before is not None))
    earlier = {job.job_id: job for job in before.jobs} if before else {}
    for job in run.jobs:
        found += _job_changes(run, earlier.get(job.job_id), job)
    total = len(run.jobs)
    if run.status is not RunStatus.OPEN and (before is None or before.status != run.status):
        counts = run.counts()
        told = ", ".join(f"{number} {status}" for status, number in counts.items())
        told = f"{run.dag_id}  {run.status} ({told})"
        found.append(Change("run_closed", told, {**facts, "status": run.status}))
    elif run.finished and run.finished != (before.finished if before else 0):
        told = f"{run.dag_id}  {run.finished}/{total} jobs"
        facts |= {"finished": run.finished, "jobs": total}
        found.append(Change("run_progress", told, facts))
    return found


def _opened(run: RunProgress, *, again: bool = False) -> Change:
    word = "opened again" if again else "opened"
    told = f"{run.dag_id}  {word}, {output.count(len(run.jobs), 'job')}"
    return Change("run_opened", told, {"dag_id": run.dag_id, "jobs": len(run.jobs)})


def _job_changes(run: RunProgress, before: JobProgress | None, job: JobProgress) -> list[Change]:
    if job.error is None or (before is not None and before.error == job.error):
        return []
    facts: dict[str, object] = {
        "dag_id": run.dag_id,
        "job": job.job_id,
        "attempt": job.attempt_number,
        "status": job.status,
        "error": job.error,
    }
    error = output.shortened(job.error)
    if job.status in FINAL:
        told = f"{run.dag_id}  {job.job_id} {job.status}: {error}"
        return [Change("job_ended", told, facts)]
    if job.status is JobStatus.QUEUED:
        failed = f"attempt {job.attempt_number - 1} of {job.job_id} failed, another follows"
        return [Change("job_retried", f"{run.dag_id}  {failed}: {error}", facts)]
    return []


class Lines:
    """Writes a line for each noteworthy change: for pipes, files and terminals without a cursor."""

    def __init__(self, console: Console, remarks: Sequence[Remark] = ()) -> None:
        self._console = console
        self._changes = Changes(remarks)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, message: str) -> None:
        """Write what is being done."""
        self._write(message)

    def show(self, progress: Progress) -> None:
        """Write what has changed since the last time, with the market time."""
        for at, change in self._changes.between(progress):
            self._write(f"{output.utc(at)}  {change.sentence}")

    def _write(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, markup=False)


class JsonLines:
    """Prints a JSON document for each noteworthy change, on a line of its own."""

    def __init__(self, remarks: Sequence[Remark] = ()) -> None:
        self._changes = Changes(remarks)

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, message: str) -> None:
        """Print what is being done."""
        output.print_json({"event": "message", "message": message}, line=True)

    def show(self, progress: Progress) -> None:
        """Print what has changed since the last time."""
        for at, change in self._changes.between(progress):
            output.print_json({"event": change.event, "market_at": at, **change.facts}, line=True)
