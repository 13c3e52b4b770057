"""The page of a pipeline's last sessions in a market: what became of its jobs, and in what time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup
from sqlalchemy import Row

from prometheus.monitoring.api.models import IsoDate, Name
from prometheus.monitoring.installation import Here, Installation
from prometheus.monitoring.pages import actions
from prometheus.monitoring.pages.actions import Action
from prometheus.monitoring.pages.pulse import STANDING, Version
from prometheus.monitoring.pages.rendering import run_link, show, top_of
from prometheus.monitoring.pages.standing import standing_of
from prometheus.monitoring.pages.svg import element
from prometheus.monitoring.pages.words import how_long
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.orchestration.pauses import Pause
from prometheus.persistence.backfills import Backfill, backfill_of, backfills_query
from prometheus.persistence.changes import BACKFILLS, RUNS, of_market
from prometheus.persistence.clock import Now
from prometheus.persistence.listings import RunFilter, Sitting, latest_definition, list_sittings
from prometheus.persistence.runs import UnreadableRunError, stored_dag

router = APIRouter(include_in_schema=False)

_MOST_SESSIONS = 30
_MOST_CELLS = 6000
"""Of runs with very many jobs fewer sessions are shown."""
_MOST_BACKFILLS = 20
"""Of those that go on."""
_BAR, _GAP, _HEIGHT = 5, 1, 26


@dataclass(frozen=True, slots=True)
class Cell:
    """What became of a job, or of a run, in a session."""

    status: str
    told: str
    link: str
    took: timedelta | None
    """``None`` of what has not ended well, which says nothing of how long it takes."""


@dataclass(frozen=True, slots=True)
class Line:
    """A job, or the run as a whole, over the sessions."""

    name: str
    cells: Sequence[Cell | None]
    """One a session, the oldest first; ``None``: there was no such job."""
    median: str = ""
    p95: str = ""
    picture: Markup | None = None


@router.get("/history")
def history_page(
    request: Request,
    here: Here,
    version: Version,
    market: Name | None = None,
    pipeline: Name | None = None,
    before: Annotated[IsoDate | None, Query(gt=date.min)] = None,
) -> HTMLResponse:
    """Show what has run for the last sessions of a market, or for those before a date."""
    pairs = _pairs(here)
    if market is None or pipeline is None:
        fitting = (
            each for each in pairs if market in (None, each[0]) and pipeline in (None, each[1])
        )
        market, pipeline = next(fitting, (market, pipeline))
    configured = here.pipelines[0].get(pipeline or "") if (market, pipeline) in pairs else None
    top = top_of(request)
    sittings: list[Sitting] = []
    more = False
    jobs: Sequence[str] = ()
    paused: list[Pause] = []
    offered: list[tuple[str, list[Action]]] = []
    going_on: list[Backfill] = []
    with here.look() as look:
        standing = standing_of(look, here)
        last = before - timedelta(days=1) if before is not None else None
        backfills = backfills_query(
            is_open=True, market_id=market, pipeline=pipeline, limit=_MOST_BACKFILLS
        )
        if market is not None and pipeline is not None:
            which = RunFilter(market_id=market, pipeline=pipeline, last=last)
            beside = [backfills] if look.now.open_backfills else []
            if configured is None:
                beside.append(latest_definition(which))
            sittings, more, told = list_sittings(
                look.connection,
                which,
                limit=_MOST_SESSIONS,
                most_jobs=_MOST_CELLS,
                beside=beside,
            )
            if configured is None:
                jobs = _jobs(told.pop())
            going_on = [backfill_of(row) for rows in told for row in rows]
        elif look.now.open_backfills:
            going_on = [backfill_of(row) for row in look.connection.execute(backfills)]
    going_on.sort(key=lambda each: each.backfill_id, reverse=True)
    if configured is not None and market is not None and sittings:
        jobs = configured.dag(market, sittings[0].run.as_of_date).topological_order()
    others = {job for each in sittings for job in each.jobs}.difference(jobs)
    shown = sittings[::-1]
    run_cells = [_of_run(each, look.now, top) for each in shown]
    lines = [_line("run", run_cells)] if shown else []
    for job in (*jobs, *sorted(others)):
        cells = [_of_job(each.jobs.get(job), look.now, top) for each in shown]
        if any(cells):
            lines.append(_line(job, cells))
    if market is not None and pipeline is not None:
        paused = actions.covering(standing.pauses, market, pipeline)
        here_only = []
        if configured is not None:
            here_only.append(actions.of_history(pipeline, market, paused))
        had_runs = bool(sittings)
        here_only += actions.of_pipeline(pipeline, market, paused, has_runs=had_runs)
        offered.append((pipeline, actions.of_pipeline(pipeline, None, paused, has_runs=had_runs)))
        offered.insert(0, (f"{pipeline} in {market}", here_only))
    values = {
        "version": version,
        "shows": [STANDING, of_market(market) if market is not None else RUNS, BACKFILLS],
        "standing": standing,
        "market": market,
        "pipeline": pipeline,
        "pairs": [
            (f"{each[1]}, {each[0]}", _link(*each), each == (market, pipeline)) for each in pairs
        ],
        "paused": paused,
        "offered": offered,
        "backfills": going_on,
        "stop": actions.of_backfill,
        "sessions": [each.run.as_of_date for each in shown],
        "lines": lines,
        "older": _link(market, pipeline, shown[0].run.as_of_date) if more else None,
        "newest": _link(market, pipeline) if before is not None else None,
    }
    return show(request, "history.html", values)


def _pairs(here: Installation) -> list[tuple[str, str]]:
    """Give the markets and pipelines that are configured."""
    found, _ = here.pipelines
    return [
        (market_id, each.name)
        for each in found.values()
        for market_id in each.markets
        if market_id in here.settings.markets.enabled
    ]


def _link(market: str | None, pipeline: str | None, before: date | None = None) -> str:
    asked = {"market": market, "pipeline": pipeline, "before": before}
    return "?" + urlencode({name: value for name, value in asked.items() if value is not None})


def _jobs(latest: Iterable[Any]) -> Sequence[str]:
    """Give the jobs of the latest run, upstream first; none of a run that can not be read."""
    try:
        return next((stored_dag(row).topological_order() for row in latest), ())
    except UnreadableRunError:
        return ()


def _of_job(row: Row[Any] | None, now: Now, top: str) -> Cell | None:
    if row is None:
        return None
    took = None
    if row.started_at is not None:
        took = max((row.ended_at or now.wall_at) - row.started_at, timedelta(0))
    told = [row.state]
    if row.attempt_number > 1:
        told.append(f"attempt {row.attempt_number}")
    return _cell(row.state, told, run_link(top, row.dag_id, row.job_id), took)


def _of_run(sitting: Sitting, now: Now, top: str) -> Cell:
    row = sitting.run
    starts = [each.started_at for each in sitting.jobs.values() if each.started_at is not None]
    ended: datetime = row.completed_at or now.wall_at
    took = max(ended - min(starts), timedelta(0)) if starts else None
    return _cell(row.status, [row.status], run_link(top, row.dag_id), took)


def _cell(status: str, told: list[str], link: str, took: timedelta | None) -> Cell:
    words = ", ".join([*told, *([how_long(took)] if took is not None else [])])
    return Cell(status, words, link, took if status == JobStatus.SUCCESS else None)


def _line(name: str, cells: Sequence[Cell | None]) -> Line:
    times = [each.took if each is not None else None for each in cells]
    known = [each for each in times if each is not None]
    if not known:
        return Line(name, cells)
    median = percentile(known, 50)
    return Line(
        name,
        cells,
        median=how_long(median),
        p95=how_long(percentile(known, 95)),
        picture=_draw(name, times, median),
    )


def percentile(values: Iterable[timedelta], percent: int) -> timedelta:
    """Return the least of some values that so many percent of them do not exceed."""
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


def _draw(name: str, times: Sequence[timedelta | None], median: timedelta) -> Markup:
    """Draw how long it took, a bar a session, and the median as a line."""
    longest = max(each for each in times if each is not None)
    whole = longest.total_seconds() or 1
    bars = [
        element(
            "rect",
            class_="took",
            x=at * (_BAR + _GAP),
            y=_HEIGHT - (height := max(1.0, each.total_seconds() / whole * (_HEIGHT - 2))),
            width=_BAR,
            height=height,
        )
        for at, each in enumerate(times)
        if each is not None
    ]
    width = len(times) * (_BAR + _GAP)
    at = _HEIGHT - max(1.0, median.total_seconds() / whole * (_HEIGHT - 2))
    bars.append(element("line", class_="median", x1=0, x2=width, y1=at, y2=at))
    return element(
        "svg",
        element("title", f"{name}: how long it took, at most {how_long(longest)}"),
        *bars,
        class_="durations",
        role="img",
        viewBox=f"0 0 {width} {_HEIGHT}",
        width=width,
        height=_HEIGHT,
    )
