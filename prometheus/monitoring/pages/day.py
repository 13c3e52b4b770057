"""The page of a market's day: all runs of a session by their jobs, over time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from sqlalchemy import Row

from prometheus.core.days import describe_day
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import HorizonError, UnknownMarketError
from prometheus.monitoring.api.models import IsoDate, Name
from prometheus.monitoring.api.runs import Deadline
from prometheus.monitoring.installation import Here
from prometheus.monitoring.pages import actions, gantt
from prometheus.monitoring.pages.lanes import Band, lay_bands
from prometheus.monitoring.pages.pulse import STANDING, Version
from prometheus.monitoring.pages.rendering import run_link, show, top_of
from prometheus.monitoring.pages.standing import standing_of
from prometheus.orchestration.lifecycle import FINAL, JobStatus
from prometheus.persistence.changes import of_market
from prometheus.persistence.deadlines import deadlines_of_runs
from prometheus.persistence.listings import read_day

router = APIRouter(include_in_schema=False)

_MOST_RUNS = 50
_MOST_ATTEMPTS = 2000
_MOST_STRETCHES = 10
"""Pictures of a run, the latest; each is of a time in which something was done."""
_BANDS_UP_TO = timedelta(days=14)
"""States of the market are drawn for no longer: each would be too narrow to be seen."""


@router.get("/days/{market}/{day}")
def day_page(
    request: Request, here: Here, version: Version, market: Name, day: IsoDate
) -> HTMLResponse:
    """Show the runs of a session of a market."""
    top = top_of(request)
    with here.look() as look:
        try:
            calendar = TradingCalendar(market)  # by the overrides that the look has found
        except UnknownMarketError as error:  # of the settings no more, and of runs that there are
            calendar, unknown = None, error
        market_id = calendar.market_id if calendar is not None else market
        standing = standing_of(look, here)
        most = {"most_runs": _MOST_RUNS + 1, "most_attempts": _MOST_ATTEMPTS + 1}
        runs, rows = read_day(look.connection, market_id, day, **most)
        known = rows if len(rows) <= _MOST_ATTEMPTS else None
        due = deadlines_of_runs(look.connection, runs[:_MOST_RUNS], look.now, known)
        described = describe_day(calendar, day) if calendar is not None else None
    if calendar is None and not runs:
        raise unknown
    now = look.now.wall_at
    zone = calendar.zone.key if calendar is not None else "UTC"
    deadlines = {each.dag_id: Deadline.of(each) for each in due if each.job_id is None}
    followed = {each.name for each in here.pipelines[0].values() if market_id in each.markets}
    followed.update(run.pipeline for run in runs)
    pictures = []
    cut = len(rows) > _MOST_ATTEMPTS or len(runs) > _MOST_RUNS
    for run in runs[:_MOST_RUNS][::-1]:
        of_run = [row for row in rows[:_MOST_ATTEMPTS] if row.dag_id == run.dag_id]
        jobs = _rows(of_run, run, top)
        deadline = deadlines.get(run.dag_id)
        deadline_at = deadline.at if deadline and look.now.clock.is_live else None
        drawn = []
        stretches = gantt.stretches_of(jobs, now)
        cut = cut or len(stretches) > _MOST_STRETCHES
        for stretch in stretches[-_MOST_STRETCHES:]:
            bands: list[Band] = []
            begin, end = gantt.span_of(stretch, now)
            if look.now.clock.is_live and calendar is not None and end - begin <= _BANDS_UP_TO:
                with contextlib.suppress(HorizonError):
                    bands = lay_bands(market_id, begin, end)
            picture = gantt.draw_gantt(stretch, bands, now, zone, deadline_at=deadline_at)
            drawn.append((begin, end, picture))
        pictures.append((run, deadline, drawn))
    values = {
        "version": version,
        "shows": [STANDING, of_market(market_id)],
        "standing": standing,
        "market": market_id,
        "day": day,
        "described": described,
        "zone": zone,
        "pauses": [
            each
            for each in standing.pauses
            if any(each.covers_all(market_id, pipeline) for pipeline in followed)
        ],
        "pictures": pictures,
        "bands": gantt.BAND_HEIGHTS,
        "hatched": gantt.HATCHED,
        "unmade": actions.of_session(
            calendar,
            day,
            here.pipelines[0].values() if market_id in here.settings.markets.enabled else (),
            look.now.market_at,
            {run.pipeline for run in runs},
            standing.pauses,
        )
        if calendar is not None and described is not None and described.session is not None
        else [],
        "cut": cut,
        "neighbours": _neighbours(calendar, day, top) if calendar is not None else [],
        "link_to": lambda dag_id: run_link(top, dag_id),
    }
    return show(request, "day.html", values)


def _rows(rows: Iterable[Row[Any]], run: Row[Any], top: str) -> list[gantt.Row]:
    """Put attempts together by jobs, in the order in which these were due first."""
    by_job: dict[str, list[Row[Any]]] = {}
    for row in rows:
        by_job.setdefault(row.job_id, []).append(row)
    return [
        gantt.Row(job, run_link(top, run.dag_id, job), _attempts(of_job, run.created_at))
        for job, of_job in by_job.items()
    ]


def _attempts(rows: Iterable[Row[Any]], made_at: datetime) -> list[gantt.Attempt]:
    found: list[gantt.Attempt] = []
    for row in sorted(rows, key=lambda row: row.attempt_number):
        before = found[-1].ended_at if found else None
        found.append(
            gantt.Attempt(
                number=row.attempt_number,
                status=JobStatus(row.status),
                waits_from=before or made_at,
                scheduled_at=row.scheduled_at,
                started_at=row.started_at,
                ended_at=row.completed_at if row.status in FINAL else None,
            )
        )
    return found


def _neighbours(calendar: TradingCalendar, day: date, top: str) -> list[tuple[str, str]]:
    """Give the sessions before and after a date, where they are known."""
    found = []
    for find in (calendar.previous_trading_day, calendar.next_trading_day):
        try:
            there = find(day)
        except HorizonError:
            continue
        name = f"← {there}" if there < day else f"{there} →"
        found.append((name, f"{top}days/{quote(calendar.market_id, safe='')}/{there}"))
    return found
