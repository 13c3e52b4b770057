"""The live board: every market's clock, state and current run on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from prometheus.cli import output, sessions
from prometheus.core.market_state import MarketState, describe_market
from prometheus.errors import HorizonError, UnreadableError
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.persistence.progress import Progress, RunProgress

if TYPE_CHECKING:
    from prometheus.core.market_state import MarketStatus

_BAR = 9
"""Columns of a run's bar: of the standard pipeline, one a job."""
_RUN = len("daily 11-23")


@dataclass(frozen=True, slots=True)
class Expected:
    """What a board counts towards, where the end is known."""

    runs: int
    remarks: tuple[sessions.Remark, ...] = ()
    """Days of the range on which some or all of a market is closed."""


class Board:
    """Draws `Progress` over itself until it is closed; then nothing of it is left."""

    def __init__(
        self,
        console: Console,
        title: str,
        market_ids: Sequence[str],
        *,
        expected: Expected | None = None,
        pages: str | None = None,
        note: str = "Ctrl-C stops everything in order",
    ) -> None:
        self._title = title
        self._market_ids = market_ids
        self._expected = expected
        self._note = f"Pages: {pages}. {note}" if pages else note
        self._message = "starting Redis, the scheduler and a worker"
        self._live = Live(
            Text(f"{title}: {self._message} …"),
            console=console,
            auto_refresh=False,
            transient=True,
        )

    def __enter__(self) -> Board:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, message: str) -> None:
        """Show what is being done while there is no progress to show."""
        self._message = message
        self._live.update(Text(f"{self._title}: {message} …"), refresh=True)

    def show(self, progress: Progress) -> None:
        """Draw."""
        self._live.update(
            draw(self._title, self._market_ids, progress, self._expected, self._note), refresh=True
        )


def draw(
    title: str,
    market_ids: Sequence[str],
    progress: Progress,
    expected: Expected | None = None,
    note: str = "",
) -> RenderableType:
    """Lay out one picture of the board."""
    parts: list[RenderableType] = [
        _heading(title, progress),
        Text(),
        _markets(market_ids, progress),
    ]
    if expected is not None:
        parts += [Text(), _overall(progress, expected)]
        today = progress.now.market_at.date()
        parts += [
            Text(f"  {'no session: ' if remark.closed else ''}{remark}", style="magenta")
            for remark in expected.remarks
            if abs(remark.day - today) <= timedelta(days=1)
        ]
    if note:
        parts += [Text(), Text(note, style="dim")]
    return Group(*parts)


def _heading(title: str, progress: Progress) -> Text:
    at = progress.now.market_at
    text = Text(title, style="bold")
    if not progress.now.clock.is_live:
        speed = progress.now.clock.speed
        pace = f"{speed:g} times as fast" if speed else "jumping to the next thing due"
        text.append(f", {pace}", style="not bold dim")
    text.append(f"\nmarket time {at:%a %Y-%m-%d %H:%M:%S} UTC", style="bold cyan")
    return text


def _markets(market_ids: Sequence[str], progress: Progress) -> Group:
    """Lay out two lines a market: state and run, then session and what comes next."""
    runs = {market_id: current_run(progress.of_market(market_id)) for market_id in market_ids}
    names = {market_id: _run_name(run) for market_id, run in runs.items()}
    # Columns that changed their width would make the whole board jump.
    widths = (
        max(map(len, market_ids)),
        max(map(len, MarketState)),
        max(_RUN, *map(len, names.values())),
        _BAR + 6,
        None,
    )
    lines: list[RenderableType] = []
    for market_id, run in runs.items():
        state, details = _market(market_id, progress.now.market_at)
        grid = Table.grid(padding=(0, 2, 0, 0))
        for width in widths:
            grid.add_column(width=width, no_wrap=True, overflow="ellipsis")
        bar, jobs = _run_cells(run)
        grid.add_row(Text(market_id, style="bold"), state, names[market_id], bar, jobs)
        indent = " " * (max(map(len, market_ids)) + 2)
        lines += [grid, Text(f"{indent}{details}", style="dim", no_wrap=True, overflow="ellipsis")]
    return Group(*lines)


def current_run(runs: Sequence[RunProgress]) -> RunProgress | None:
    """Choose the run to show: one that is being worked on, else open, else the last finished."""
    at_work = [run for run in runs if run.named(JobStatus.QUEUED, JobStatus.RUNNING)]
    unfinished = [run for run in runs if run.status is RunStatus.OPEN]
    for candidates in (at_work, unfinished):
        if candidates:
            return candidates[0]
    return runs[-1] if runs else None


def _market(market_id: str, at: datetime) -> tuple[Text, str]:
    try:
        status = describe_market(market_id, at)
    except HorizonError:
        return Text("not known"), "the calendar ends"
    except UnreadableError:
        return Text("not known"), "the calendar can not be read"
    details = [_session(status)]
    if status.next_transition is not None:
        next_at, next_state = status.next_transition
        wait = output.in_words(next_at - at)
        details.append(f"{next_state} in {wait}, at {next_at:%H:%M}")
    return output.coloured(status.state), "; ".join(filter(None, details))


def _session(status: MarketStatus) -> str:
    if status.session_date is None:
        return status.reason or ""
    session = sessions.of_market(status.market_id, status.session_date)
    text = f"{status.session_date} {session.open:%H:%M}-{session.close:%H:%M}"
    text += ", early close" if session.early_close else ""
    return f"{text}, lunch break" if status.in_break else text


def _run_name(run: RunProgress | None) -> str:
    return f"{run.pipeline} {run.session_date:%m-%d}" if run is not None else "-"


def _run_cells(run: RunProgress | None) -> tuple[RenderableType, RenderableType]:
    if run is None:
        return "", ""
    total = len(run.jobs)
    bar = Table.grid(padding=(0, 1))
    bar.add_row(_bar(total, run.finished, _BAR), Text(f"{run.finished}/{total}"))
    return bar, _jobs_now(run)


def _jobs_now(run: RunProgress) -> Text:
    if run.status is not RunStatus.OPEN:
        return output.coloured(run.status)
    text = Text()
    for status in (JobStatus.FAILED, JobStatus.RUNNING, JobStatus.QUEUED):
        for job in run.jobs:
            if job.status is status:
                text.append(", " if text else "")
                text.append(job.job_id, style=output.STYLES[status])
                if status is JobStatus.QUEUED and job.attempt_number > 1:
                    text.append(f" (attempt {job.attempt_number})", style="red")
    # Between two jobs, for a moment, or for the window of a later one.
    waits = "waits" if run.finished else "waits for its window"
    return text or Text(waits, style="dim")


def _overall(progress: Progress, expected: Expected) -> Table:
    closed = sum(run.status is not RunStatus.OPEN for run in progress.runs)
    jobs = sum(run.finished for run in progress.runs)
    grid = Table.grid(padding=(0, 2))
    grid.add_row(
        _bar(expected.runs, closed, 40),
        f"{closed} of {output.count(expected.runs, 'run')}, {output.count(jobs, 'job')} finished",
    )
    return grid


def _bar(total: int, completed: int, width: int) -> ProgressBar:
    return ProgressBar(
        total=max(total, 1),
        completed=completed,
        width=width,
        complete_style="cyan",
        finished_style="green",
    )
