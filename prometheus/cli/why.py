"""``prometheus why``: what a run, or a job of it, waits for, since when and until when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus.cli.options import AsJson, Folder, Job, RunId
from prometheus.masking import safe_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from rich.console import Console

    from prometheus.explaining import Answer
    from prometheus.orchestration.pipeline import Pipeline
    from prometheus.orchestration.reasons import Reason
    from prometheus.persistence.clock import Now


def why(dag_id: RunId, job: Job = None, folder: Folder = None, as_json: AsJson = False) -> None:
    """
    Say why a job does not run: all that it waits for, since when, until when, and what comes then.

    Without a JOB, where the run stands, and the first reason of each job that has not succeeded. Of
    a run that is not there, when it will be made, or why it never is.
    """
    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.configured import sound_pipelines
    from prometheus.explaining import answer, read_question
    from prometheus.persistence.engine import reading
    from prometheus.persistence.overrides import refresh

    place = find_place(folder)

    def pipelines() -> Mapping[str, Pipeline]:
        return sound_pipelines(place.settings)[0]

    with opened(place) as engine:
        with reading(engine) as connection:
            question = read_question(connection, dag_id, job, place.settings, pipelines, refresh)
        found = answer(question, engine, place.settings.broker.url)
    if as_json:
        output.print_json(found.document())
    else:
        _print(output.console(), found)


def _print(console: Console, found: Answer) -> None:
    from rich.text import Text

    from prometheus.cli import output

    console.print(" ".join(filter(None, [found.dag_id, found.job_id])), style="bold", end="  ")
    console.print(output.coloured(found.status or "there is no such run"), end="")
    console.print(f", attempt {found.attempt}" if found.attempt is not None else "")
    for number, reason in enumerate(found.reasons, 1):
        console.print()
        of_another = reason.job_id not in (None, found.job_id)
        whose = f"{reason.job_id}: " if of_another and reason.job_id else ""
        style = "bold red" if reason.wrong else ""
        text = safe_text(reason.text)
        console.print(f"{number}. {whose}{text}", style=style, soft_wrap=True)
        if reason.then:
            console.print(f"   {reason.then}", soft_wrap=True)
        if times := _times(reason, found.now):
            console.print(f"   {times}", style="dim", soft_wrap=True)
    if found.jobs:
        console.print()
        table = output.table("Job", "Status", "Why")
        for each in found.jobs:
            style = "bold red" if each.reason.wrong else ""
            table.add_row(
                each.job_id,
                output.coloured(each.status),
                Text(safe_text(each.reason.text), style),
            )
        console.print(table)


def _times(reason: Reason, now: Now) -> str:
    """Write since when something is so, and until when."""
    from prometheus.cli import output

    at = now.market_at if reason.market_time else now.wall_at
    parts = []
    if reason.since is not None:
        parts.append(f"since {output.utc_seconds(reason.since)}{_ago(at, reason.since)}")
    if reason.until is not None:
        parts.append(f"until {output.utc_seconds(reason.until)}{_ago(at, reason.until)}")
    if parts and reason.market_time and not now.clock.is_live:
        parts.append("in market time")
    return ", ".join(parts)


def _ago(now: datetime, instant: datetime) -> str:
    from prometheus.cli import output

    if instant > now:
        return f" (in {output.in_words(instant - now)})"
    return f" ({output.in_words(now - instant)} ago)"
