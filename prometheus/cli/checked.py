"""The history checker's answer, for people."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from prometheus.cli import output
from prometheus.verification import Report

_MOST_VIOLATIONS = 20
_CHECKED = (
    "one run for each pipeline, market and session, on session dates only",
    "each job of the stored DAG with its attempts, at most one success, none lost",
    "each start inside its window, which was worked out anew from the calendar",
    "each start after the success of all it depends on, and no two attempts at once",
    "each end with its cause, each retry within its bounds, each run as its jobs make it",
    "no finished row that changed afterwards",
)


def verdict(report: Report) -> str:
    """Say in one line what was found: ``"8 runs, 72 jobs, each succeeded exactly once"``."""
    counts = report.counts
    text = f"{output.count(counts.runs, 'run')}, {output.count(counts.jobs, 'job')}"
    if not report.ok:
        return f"{text}; {output.count(len(report.violations), 'violation')}"
    waiting = sum(
        number for why, number in counts.without_success.items() if why.startswith("not finished")
    )
    without = counts.jobs - counts.successes - waiting
    if counts.jobs and counts.successes == counts.jobs:
        text += ", each succeeded exactly once"
    elif counts.jobs:
        text += f"; {counts.successes} succeeded exactly once"
    text += f", {without} say why not" if without else ""
    text += f", {waiting} not finished" if waiting else ""
    return text + (f"; {counts.again} again, as an operator asked" if counts.again else "")


def print_report(console: Console, report: Report) -> None:
    """Write all of it."""
    counts = report.counts
    style = "bold green" if report.ok else "bold red"
    console.print(f"checked: {verdict(report)}", style=style)
    console.print()
    table = output.table("What", "Count", "Of these", right=("Count",))
    table.add_row("Runs", str(counts.runs), _words(counts.runs_by_state))
    table.add_row("Jobs", str(counts.jobs), _words(counts.jobs_by_state))
    table.add_row("Attempts", str(counts.executions), _words(counts.executions_by_state))
    table.add_row("Starts held against a window", str(counts.windows), "")
    missing = sum(counts.without_success.values())
    table.add_row("Jobs without a success", str(missing), _words(counts.without_success))
    if counts.again:
        table.add_row("Further successes, as asked", str(counts.again), "")
    if counts.other_calendar:
        table.add_row(
            "Runs of another calendar", str(counts.other_calendar), "their stored windows count"
        )
    console.print(table)
    console.print()
    console.print("What was checked", style="bold")
    for line in _CHECKED:
        console.print(f"  {line}")
    print_violations(console, report)


def print_violations(console: Console, report: Report) -> None:
    """Write what was found, if anything was: the first of it, and how much more there is."""
    if report.ok:
        return
    console.print()
    console.print("What must not be", style="bold")
    for each in report.violations[:_MOST_VIOLATIONS]:
        where = " ".join(filter(None, (each.dag_id, each.job_id)))
        what = f"{where}: {each.message}" if where else each.message
        console.print(f"  {what} ({each.rule})", markup=False)
    if len(report.violations) > _MOST_VIOLATIONS:
        console.print(f"  and {len(report.violations) - _MOST_VIOLATIONS} more; all with --json")


def _words(tally: Mapping[str, int]) -> str:
    return "\n".join(f"{number} {name}" for name, number in tally.items())
