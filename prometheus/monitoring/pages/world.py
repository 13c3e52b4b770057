"""The first page: every market around now, and what runs for its sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from prometheus.core.days import date_there
from prometheus.core.market_state import MarketStatus, describe_market
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import HorizonError, SnapshotError
from prometheus.monitoring.installation import Here
from prometheus.monitoring.pages import actions
from prometheus.monitoring.pages.actions import Action
from prometheus.monitoring.pages.lanes import AHEAD, BACK, Bar, Lane, draw_lane, lay_bands
from prometheus.monitoring.pages.pulse import STANDING, Version
from prometheus.monitoring.pages.rendering import run_link, show, top_of
from prometheus.monitoring.pages.standing import standing_of
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.orchestration.pauses import Pause
from prometheus.persistence.changes import ALERTS, RUNS
from prometheus.persistence.clock import Now
from prometheus.persistence.timelines import Timeline, read_timelines

router = APIRouter(include_in_schema=False)

_SESSIONS_AROUND = timedelta(days=2)
"""Sessions of dates so far outside of what is drawn may still be at work in it."""
_MOST_RUNS = 500


@dataclass(frozen=True, slots=True)
class ShownMarket:
    """A market on the page."""

    market_id: str
    pauses: list[Pause]
    """Those of all of it, and of its pipelines."""
    actions: list[Action]
    resumes: list[tuple[str, Action]]
    """Pipeline, named with its market where it is paused in that alone -> how to resume it."""
    error: str | None = None
    """Why its state is not known; then there is nothing else."""
    status: MarketStatus | None = None
    zone: str = ""
    today: date | None = None
    """There."""
    picture: Markup | None = None
    runs: int = 0


@router.get("/")
def world(request: Request, here: Here, version: Version) -> HTMLResponse:
    """Show all markets of the installation, half a day back and a day ahead."""
    with here.look() as look:
        now = look.now
        standing = standing_of(look, here)
        listed = here.markets(now)
        rows = read_timelines(
            look.connection,
            listed,
            (now.market_at - BACK - _SESSIONS_AROUND).date(),
            (now.market_at + AHEAD + _SESSIONS_AROUND).date(),
            limit=_MOST_RUNS,
        )
    top = top_of(request)
    bars: dict[str, list[Bar]] = {market_id: [] for market_id in listed}
    for row in rows:
        bar = _bar(row, now, top)
        if bar.start < now.market_at + AHEAD and now.market_at - BACK < bar.end:
            bars[row.run.market_id].append(bar)
    followed: dict[str, set[str]] = {market_id: set() for market_id in listed}
    for each in here.pipelines[0].values():
        for market_id in followed.keys() & set(each.markets):
            followed[market_id].add(each.name)
    for row in rows:
        followed[row.run.market_id].add(row.run.pipeline)
    markets = [
        _market(
            market_id,
            now.market_at,
            found,
            standing.pauses,
            followed[market_id],
        )
        for market_id, found in bars.items()
    ]
    values = {
        "version": version,
        "shows": [STANDING, RUNS, ALERTS],
        "standing": standing,
        "alerts": look.open_alerts,
        "markets": markets,
        "no_runs": not any(bars.values()),
        "cut": len(rows) == _MOST_RUNS,
    }
    return show(request, "world.html", values)


def _market(
    market_id: str,
    at: datetime,
    bars: list[Bar],
    pauses: Collection[Pause],
    pipelines: Collection[str],
) -> ShownMarket:
    """
    Gather what is shown of a market.

    Args:
        pipelines: Those that it has runs of, or may have.
    """
    paused = [
        each
        for each in pauses
        if each.dag_id is None
        and each.market_id in (None, market_id)
        and (each.pipeline is None or each.pipeline in pipelines)
    ]
    acts = actions.of_market(market_id, pauses, has_runs=bool(pipelines))
    resumes = [(actions.named(each), actions.end_of(each)) for each in paused if each.pipeline]
    try:
        calendar = TradingCalendar(market_id)
        status = describe_market(market_id, at)
        lane = Lane(
            market_id=market_id,
            zone=calendar.zone.key,
            bands=lay_bands(market_id, at - BACK, at + AHEAD),
            breaks=[
                pause
                for session in calendar.sessions_between(at - BACK, at + AHEAD)
                for pause in session.breaks
                if at - BACK < pause[1] and pause[0] < at + AHEAD
            ],
            bars=bars,
        )
    except (HorizonError, SnapshotError) as error:  # one market's, not another's
        return ShownMarket(market_id, paused, acts, resumes, error=str(error))
    return ShownMarket(
        market_id,
        paused,
        acts,
        resumes,
        status=status,
        zone=lane.zone,
        today=date_there(calendar, at),
        picture=draw_lane(lane, at),
        runs=len(bars),
    )


def _bar(row: Timeline, now: Now, top: str) -> Bar:
    run = row.run
    start = row.first_started_at or run.opens_at
    end = now.market_at
    if run.completed_at is not None:
        if now.clock.is_live:
            end = run.completed_at
        elif now.clock.stands:  # the clock stood while its jobs ran
            end = row.last_started_at or start
        else:
            end = now.clock.market_time(run.completed_at)
    return Bar(
        dag_id=run.dag_id,
        status=RunStatus(run.status),
        start=start,
        end=max(start, end),
        progress=tell_progress(row.jobs),
        link=run_link(top, run.dag_id),
    )


def tell_progress(counts: Counter[JobStatus]) -> str:
    """Say how far a run is: ``"7 of 9 jobs succeeded, 1 failed"``."""
    told = f"{counts[JobStatus.SUCCESS]} of {counts.total()} jobs succeeded"
    others = (JobStatus.RUNNING, JobStatus.FAILED, JobStatus.SKIPPED, JobStatus.EXPIRED)
    return ", ".join([told, *(f"{counts[each]} {each.lower()}" for each in others if counts[each])])
