"""What is told at the end of a replay, or of a run."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from sqlalchemy import Connection

from prometheus.cli import output, sessions
from prometheus.cli.sessions import Remark
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.persistence.progress import RunSummary, summarise
from prometheus.pipelines.equities.report import BookLine, UsedSource, book_weights, run_sources

_BOOK_OF = "US_EQ"
"""Whose book is shown, if it has one: the market with real prices."""
_MOST_ERRORS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What became of some runs, and what they made."""

    runs: Sequence[RunSummary]
    sources: Mapping[str, Sequence[UsedSource]]
    """Dag id -> feeds that served it."""
    book: tuple[str, date, Sequence[BookLine]] | None
    """Market, session and holdings of the book that is shown."""
    remarks: Sequence[Remark] = ()
    elapsed: timedelta = field(default_factory=timedelta)

    @property
    def succeeded(self) -> bool:
        """Whether there are runs, and all of them are SUCCESS."""
        return bool(self.runs) and all(run.status is RunStatus.SUCCESS for run in self.runs)

    def document(self) -> dict[str, Any]:
        """Describe it for machines."""
        return {
            "succeeded": self.succeeded,
            "seconds": round(self.elapsed.total_seconds(), 3),
            "runs": [
                {
                    **run.document(),
                    "session": _session_document(run.market_id, run.session_date),
                    "sources": [
                        {"kind": used.kind, "name": used.name, "is_synthetic": used.is_synthetic}
                        for used in self.sources.get(run.dag_id, ())
                    ],
                }
                for run in self.runs
            ],
            "closed": [
                {
                    "market": remark.market_id,
                    "date": remark.day,
                    "reason": remark.text,
                    "no_session": remark.closed,
                }
                for remark in self.remarks
            ],
            "book": self.book
            and {
                "market": self.book[0],
                "session_date": self.book[1],
                "holdings": [
                    {
                        "mic": line.mic,
                        "symbol": line.symbol,
                        "name": line.name,
                        "weight": line.weight,
                        "previous_weight": line.previous_weight,
                        "score": line.score,
                        "is_synthetic": line.is_synthetic,
                    }
                    for line in self.book[2]
                ],
                "cash": 1.0 - sum(line.weight for line in self.book[2]),
            },
        }


def make_summary(
    connection: Connection,
    dag_ids: Sequence[str] | None,
    *,
    elapsed: timedelta,
    remarks: Sequence[Remark] = (),
) -> Summary:
    """
    Read what became of runs.

    Args:
        dag_ids: Which; all of the database if not given.
        elapsed: Wall time they took, from the command to the end.
        remarks: Days on which markets or exchanges were closed.
    """
    runs = summarise(connection, dag_ids)
    return Summary(
        runs=runs,
        sources={
            run.dag_id: run_sources(connection, run.market_id, run.session_date) for run in runs
        },
        book=_book(connection, runs),
        remarks=remarks,
        elapsed=elapsed,
    )


def _book(
    connection: Connection, runs: Sequence[RunSummary]
) -> tuple[str, date, Sequence[BookLine]] | None:
    by_wish = sorted(
        (run for run in runs if "SUCCESS" in run.jobs),
        key=lambda run: (run.market_id == _BOOK_OF, run.session_date),
    )
    for run in reversed(by_wish):
        lines = book_weights(connection, run.market_id, run.session_date)
        if lines:
            return run.market_id, run.session_date, lines
    return None


def _session_document(market_id: str, day: date) -> dict[str, Any]:
    calendar = TradingCalendar(market_id)
    if not calendar.is_trading_day(day):  # closed by an override since its run was made
        reason = calendar.reason(day)
        return {"open": None, "close": None, "early_close": False, "reason": reason}
    session = calendar.session(day)
    return {
        "open": session.open,
        "close": session.close,
        "early_close": session.early_close,
        "reason": session.reason,
    }


def print_summary(console: Console, summary: Summary) -> None:
    """Write it for people."""
    _print_runs(console, summary)
    _print_errors(console, summary)
    _print_special(console, summary)
    no_session = [remark for remark in summary.remarks if remark.closed]
    partly = [remark for remark in summary.remarks if not remark.closed]
    if no_session:
        _section(console, "Sessions that had no run")
        for remark in no_session:
            console.print(f"  {remark}", markup=False)
    if partly:
        _section(console, "Sessions of some exchanges only")
        for remark in partly:
            console.print(f"  {remark}", markup=False)
    _print_sources(console, summary)
    _print_book(console, summary)


def _print_special(console: Console, summary: Summary) -> None:
    found = {}
    for run in summary.runs:
        calendar = TradingCalendar(run.market_id)
        if calendar.is_trading_day(run.session_date):
            remark = sessions.special(calendar.session(run.session_date))
        else:
            remark = f"closed, {calendar.reason(run.session_date)}"
        if remark:
            found[run.market_id, run.session_date] = remark
    if found:
        _section(console, "Sessions with special hours")
    for (market_id, day), remark in found.items():
        console.print(f"  {market_id} {day}: {remark}", markup=False)


def _section(console: Console, title: str) -> None:
    console.print()
    console.print(title, style="bold")


def _print_runs(console: Console, summary: Summary) -> None:
    good = sum(run.status is RunStatus.SUCCESS for run in summary.runs)
    jobs = sum(sum(run.jobs.values()) for run in summary.runs)
    done = sum(run.jobs.get(JobStatus.SUCCESS, 0) for run in summary.runs)
    attempts = sum(run.attempts for run in summary.runs)
    style = "bold green" if summary.succeeded else "bold red"
    console.print(
        f"{output.count(len(summary.runs), 'run')}, {good} SUCCESS; "
        f"{output.count(jobs, 'job')}, {done} SUCCESS, in {output.count(attempts, 'attempt')}; "
        f"{output.in_words(summary.elapsed)}",
        style=style,
    )
    console.print()
    table = output.table(
        "Run", "Session UTC", "Result", "Jobs", "Attempts", "Took", "Prices",
        right=("Jobs", "Attempts", "Took"),
    )  # fmt: skip
    for run in summary.runs:
        calendar = TradingCalendar(run.market_id)
        trades = calendar.is_trading_day(run.session_date)
        hours = sessions.hours(calendar.session(run.session_date)) if trades else "closed"
        table.add_row(
            run.dag_id,
            hours.removesuffix(" UTC"),
            output.coloured(run.status),
            str(sum(run.jobs.values())),
            str(run.attempts),
            output.in_words(run.lasted) if run.lasted is not None else "-",
            _prices(summary.sources.get(run.dag_id, ())),
        )
    console.print(table)


def _prices(used: Sequence[UsedSource]) -> str:
    kinds = sorted(
        "synthetic" if source.is_synthetic else "real" for source in used if source.kind == "prices"
    )
    return " and ".join(dict.fromkeys(kinds)) or "-"


def _print_errors(console: Console, summary: Summary) -> None:
    errors = [(run, *error) for run in summary.runs for error in run.errors]
    if not errors:
        return
    _section(console, "Attempts that did not succeed")
    for run, job, attempt, message in errors[:_MOST_ERRORS]:
        error = output.shortened(message)
        console.print(f"  {run.dag_id} {job}, attempt {attempt}: {error}", markup=False)
    if len(errors) > _MOST_ERRORS:
        console.print(f"  and {len(errors) - _MOST_ERRORS} more")


def _print_sources(console: Console, summary: Summary) -> None:
    names: dict[str, dict[tuple[str, str, bool], None]] = {}
    for run in summary.runs:
        for used in summary.sources.get(run.dag_id, ()):
            names.setdefault(run.market_id, {})[used.kind, used.name, used.is_synthetic] = None
    if not names:
        return
    _section(console, "Where the numbers come from")
    for market_id, used_by_market in names.items():
        for kind, name, is_synthetic in used_by_market:
            truth = "SYNTHETIC" if is_synthetic else "real"
            console.print(f"  {market_id} {kind}: {truth} - {name}", markup=False)


def _print_book(console: Console, summary: Summary) -> None:
    if summary.book is None:
        return
    market_id, day, lines = summary.book
    made_up = ", of synthetic prices" if any(line.is_synthetic for line in lines) else ""
    _section(console, f"{market_id} book after the session of {day:%a} {day}{made_up}")
    table = output.table(
        "  Holding", "", "Weight", "Before", "Score", right=("Weight", "Before", "Score")
    )
    for line in lines:
        score = f"{line.score:+.2f}" if line.score is not None else "-"
        table.add_row(
            f"  {line.symbol}",
            line.name,
            f"{line.weight:.2%}",
            f"{line.previous_weight:.2%}",
            score,
        )
    cash = 1.0 - sum(line.weight for line in lines)
    table.add_row("  cash", "", f"{cash:.2%}", "", "")
    console.print(table)


def program() -> str:
    """Return what to type to run this command again, from this folder."""
    called = Path(sys.argv[0])
    if called.name != "prometheus":
        return f"{short(Path(sys.executable))} -m prometheus.cli"
    found = shutil.which("prometheus")
    if found is not None and Path(found).samefile(called):
        return "prometheus"
    return short(called)


def sibling(name: str) -> str:
    """Return what to type to run another program of this environment."""
    beside = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found is not None and beside.exists() and Path(found).samefile(beside):
        return name
    return short(beside)


def short(path: Path) -> str:
    """Write a path for a shell, from this folder where it lies below it."""
    path = path.absolute()
    try:
        path = path.relative_to(Path.cwd())
    except ValueError:
        return shlex.quote(str(path))
    # A bare name would be looked for on PATH.
    return shlex.quote(str(path) if len(path.parts) > 1 else f"./{path}")


def print_next(console: Console, commands: Sequence[tuple[str, str]]) -> None:
    """
    Write commands to try next, each with what it shows.

    Args:
        commands: Command line and purpose.
    """
    _section(console, "Try next")
    for line, purpose in commands:
        console.print(f"  # {purpose}", style="dim", markup=False, soft_wrap=True)
        console.print(f"  {line}", markup=False, soft_wrap=True)
