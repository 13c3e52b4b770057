"""``prometheus logs``: what the attempts of a run printed and logged."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prometheus.cli.options import AsJson, Job, RunId
from prometheus.errors import PrometheusError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy import Connection

    from prometheus.persistence.logs import LoggedAttempt, LogPart

_LOOK_EVERY = 0.5
"""Wall seconds between two looks; workers keep lines as often."""

_OVERLAP = timedelta(minutes=1)
"""Ends are stamped when their transactions begin, and seen when these have ended."""


class NoSuchAttemptError(PrometheusError):
    """There is no such run, job or attempt."""


def logs(
    dag_id: RunId,
    job: Job = None,
    attempt: Annotated[
        int | None,
        typer.Option(
            "--attempt", min=1, help="One attempt of the JOB. Default: all.", show_default=False
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job, or the run, has ended.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            file_okay=False,
            help="Data folder, such as a replay's; by default the one of the settings.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """
    Show what the attempts of a run, or of one job of it, printed and logged, and how they ended.

    Of each attempt the first 128 KB and the newest 64 KB are kept, while it runs, too: a line says
    how much between them is left out. What programs that a job starts write by themselves stands in
    the worker's own log only.
    """
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence.engine import reading
    from prometheus.persistence.logs import read

    if attempt is not None and job is None:
        raise typer.BadParameter("--attempt needs a JOB whose attempt it means")
    show: _Shown = _JsonLines() if as_json else _Lines()
    with opened(find_place(folder)) as engine:
        while True:
            with reading(engine) as connection:
                goes_on = _goes_on(connection, dag_id, job, attempt)
                # What has slipped through is shown at the last look, which reads everything.
                since = show.ended_at - _OVERLAP if show.ended_at and goes_on else None
                found = read(
                    connection,
                    dag_id,
                    job,
                    attempt,
                    after=show.seen,
                    ended=show.ended,
                    since=since,
                )
            show(found)
            if not (follow and goes_on):
                break
            time.sleep(_LOOK_EVERY)
    if not (as_json or show.seen or show.ended or found):
        print("Nothing of it has started yet.")


def _goes_on(connection: Connection, dag_id: str, job: str | None, attempt: int | None) -> bool:
    """
    Say whether there may be more to see.

    Raises:
        NoSuchAttemptError: There is no such run, job or attempt.
    """
    from sqlalchemy import select

    from prometheus.orchestration.lifecycle import FINAL, RunStatus
    from prometheus.persistence.listings import latest_runs
    from prometheus.persistence.tables import dag_runs, job_executions

    status = connection.execute(
        select(dag_runs.c.status).where(dag_runs.c.dag_id == dag_id)
    ).scalar_one_or_none()
    if status is None:
        hint = nearest(dag_id, latest_runs(connection))
        raise NoSuchAttemptError(f"There is no run {dag_id!r}.{hint}")
    if job is None:
        return bool(status == RunStatus.OPEN)
    e = job_executions.c
    rows = connection.execute(
        select(e.job_id, e.attempt_number, e.status).where(e.dag_id == dag_id)
    ).all()
    mine = {row.attempt_number: row.status for row in rows if row.job_id == job}
    if not mine:
        hint = nearest(job, {row.job_id for row in rows})
        raise NoSuchAttemptError(f"{dag_id} has no job {job!r}.{hint}")
    if attempt is None:
        return mine[max(mine)] not in FINAL
    if attempt not in mine:
        raise NoSuchAttemptError(
            f"{job} of {dag_id} has no attempt {attempt}; its last one is {max(mine)}."
        )
    return mine[attempt] not in FINAL


class _Shown:
    """Shows each part of each attempt once, and each end."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}
        """Execution id -> the last part of it that was shown."""
        self.ended: set[str] = set()
        """Executions whose end was shown."""
        self.ended_at: datetime | None = None
        """When the last of them ended."""
        self._known: dict[str, int] = {}
        """Execution id -> characters behind its first 128 KB that were shown or said to be left
        out."""

    def __call__(self, attempts: Iterable[LoggedAttempt]) -> None:
        from prometheus.orchestration.lifecycle import FINAL

        for attempt in attempts:
            for part in attempt.parts:
                text = self._unseen(attempt, part)
                if text:
                    self.show_part(attempt, part, text)
                self.seen[attempt.execution_id] = part.part
            if attempt.status in FINAL:
                self.show_end(attempt)
                self.ended.add(attempt.execution_id)
                ends = filter(None, (self.ended_at, attempt.completed_at))
                self.ended_at = max(ends, default=None)

    def _unseen(self, attempt: LoggedAttempt, part: LogPart) -> str:
        from prometheus.dispatch.attempt_log import news

        if not part.is_end:
            return part.text
        known = self._known.get(attempt.execution_id, 0)
        text, self._known[attempt.execution_id] = news(part.text, known)
        return text

    def show_part(self, attempt: LoggedAttempt, part: LogPart, text: str) -> None:
        raise NotImplementedError

    def show_end(self, attempt: LoggedAttempt) -> None:
        raise NotImplementedError


class _Lines(_Shown):
    """Prints lines as they were written, with a heading wherever another attempt goes on."""

    def __init__(self) -> None:
        super().__init__()
        self._last: str | None = None

    def show_part(self, attempt: LoggedAttempt, _: LogPart, text: str) -> None:
        self._head(attempt)
        print(text, end="", flush=True)

    def show_end(self, attempt: LoggedAttempt) -> None:
        from prometheus.cli import output
        from prometheus.dispatch.attempt_log import readable

        self._head(attempt)
        at = f" {output.utc_seconds(attempt.completed_at)}" if attempt.completed_at else ""
        why = f" {readable(attempt.error)}" if attempt.error else ""
        print(f"[{attempt.status}{at}]{why}")
        print(readable(attempt.traceback or ""), end="", flush=True)

    def _head(self, attempt: LoggedAttempt) -> None:
        if attempt.execution_id != self._last:
            place = f" on {attempt.worker}" if attempt.worker else ""
            print(f"==> {attempt.job_id}, attempt {attempt.attempt_number}{place} <==")
            self._last = attempt.execution_id


class _JsonLines(_Shown):
    """Prints a JSON document for each part, and one for each end."""

    def show_part(self, attempt: LoggedAttempt, part: LogPart, text: str) -> None:
        self._print(attempt, part=part.part, at=part.at, text=text)

    def show_end(self, attempt: LoggedAttempt) -> None:
        self._print(
            attempt,
            status=attempt.status,
            worker=attempt.worker,
            started_at=attempt.started_at,
            completed_at=attempt.completed_at,
            error=attempt.error,
            traceback=attempt.traceback,
        )

    @staticmethod
    def _print(attempt: LoggedAttempt, **facts: object) -> None:
        from prometheus.cli import output

        about = {
            "execution_id": attempt.execution_id,
            "job": attempt.job_id,
            "attempt": attempt.attempt_number,
        }
        output.print_json({**about, **facts}, line=True)
