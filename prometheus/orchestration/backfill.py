"""What a backfill does with each session of a range: makes its run, runs it again, or neither."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import PrometheusError
from prometheus.orchestration.dag import dag_id_for
from prometheus.orchestration.lifecycle import RunStatus
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.windows import run_opens_at

MOST_SESSIONS = 5_000
"""Of one backfill: nearly twenty years."""
MOST_ACTIVE_RUNS = 100


class BackfillRangeError(PrometheusError):
    """No backfill can be made of a range of dates."""


class Reprocess(StrEnum):
    """Which runs that are there already a backfill runs again."""

    NONE = "none"
    """None of them."""
    FAILED = "failed"
    """Those that are FAILED or CANCELLED."""
    FINISHED = "finished"
    """All but those that are OPEN."""


class BackfillEffect(StrEnum):
    """What a backfill does with a session."""

    NEW = "new"
    """Its run is made."""
    RERUN = "rerun"
    """Every job of its run gets a new attempt."""
    KEPT = "kept"
    """Its run stays as it is."""
    IMPOSSIBLE = "impossible"
    """Nothing can be done."""


@dataclass(frozen=True, slots=True)
class BackfillSession:
    """What a backfill does with one session."""

    session_date: date
    dag_id: str
    effect: BackfillEffect
    why: str = ""
    """Of what is kept or impossible."""


def plan_backfill(
    pipeline: Pipeline,
    calendar: TradingCalendar,
    first: date,
    last: date,
    *,
    existing: Mapping[date, RunStatus],
    taken: Mapping[date, int],
    reprocess: Reprocess,
    now: datetime,
) -> tuple[BackfillSession, ...]:
    """
    Say what a backfill would do with each session of a range, the oldest first.

    Args:
        first: First date, included.
        last: Last date, included.
        existing: Session date to the state of its run, where it has one.
        taken: Session date to the number of another backfill that will come to it.
        now: Market time.

    Raises:
        BackfillRangeError: The range is the wrong way round, too long, or has no session on which
            the pipeline runs.
        HorizonError: The calendar does not know all of it.
    """
    if first > last:
        raise BackfillRangeError(f"The first date, {first}, is after the last, {last}.")
    sessions = pipeline.sessions.sessions(calendar, first, last)
    if not sessions:
        raise BackfillRangeError(
            f"{pipeline.name} runs on {pipeline.sessions.words} of {calendar.market_id}, and from "
            f"{first} to {last} there is none."
        )
    if len(sessions) > MOST_SESSIONS:
        raise BackfillRangeError(
            f"From {first} to {last} there are {len(sessions)} sessions, and a backfill may have "
            f"{MOST_SESSIONS}. Give it shorter ranges, one after the other."
        )
    jobs = pipeline.jobs.values()
    planned = []
    for day in sessions:
        effect, why = BackfillEffect.NEW, ""
        if (other := taken.get(day)) is not None:
            effect, why = BackfillEffect.IMPOSSIBLE, f"backfill {other} will come to it"
        elif (status := existing.get(day)) is not None:
            effect, why = _of_existing(status, reprocess)
        elif (opens_at := run_opens_at(calendar.phases(day), jobs)) > now:
            effect = BackfillEffect.IMPOSSIBLE
            why = f"its session has not begun: a run opens at {opens_at:%Y-%m-%d %H:%M} UTC"
        dag_id = dag_id_for(pipeline.name, calendar.market_id, day)
        planned.append(BackfillSession(day, dag_id, effect, why))
    return tuple(planned)


def _of_existing(status: RunStatus, reprocess: Reprocess) -> tuple[BackfillEffect, str]:
    if status is RunStatus.OPEN:
        return BackfillEffect.KEPT, "its run is not finished"
    if reprocess is Reprocess.FINISHED or (
        reprocess is Reprocess.FAILED and status is not RunStatus.SUCCESS
    ):
        return BackfillEffect.RERUN, ""
    return BackfillEffect.KEPT, f"its run is {status}"
