"""The page of what is wrong, who is at work, what waits, what is paused, and who did what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from sqlalchemy import Row

from prometheus.actors import tell_details
from prometheus.addresses import is_loopback
from prometheus.core.overrides import in_force
from prometheus.dispatch.crew import standbys_of
from prometheus.monitoring.api.markets import tell_override
from prometheus.monitoring.api.operations import tell_audited
from prometheus.monitoring.doorman import host_name
from prometheus.monitoring.installation import Here
from prometheus.monitoring.pages import actions
from prometheus.monitoring.pages.actions import Action
from prometheus.monitoring.pages.pulse import STANDING, Version
from prometheus.monitoring.pages.rendering import run_link, show, top_of, zone_of
from prometheus.monitoring.pages.standing import standing_of
from prometheus.monitoring.pages.words import how_long
from prometheus.orchestration.pauses import Pause
from prometheus.persistence.changes import ALERTS, CREW, RUNS
from prometheus.persistence.listings import QueueLoad, read_bustle
from prometheus.settings import FlowerSettings

router = APIRouter(include_in_schema=False)

_MOST_ALERTS = 50
_MOST_AUDITED = 50
_MOST_SHOWN = 100
"""Of workers, and of what is paused; the page says how many more there are."""


@dataclass(frozen=True, slots=True)
class ShownJob:
    """A job that runs."""

    name: str
    link: str
    took: str


@dataclass(frozen=True, slots=True)
class ShownWorker:
    """A worker, with what it runs."""

    name: str
    pid: int
    queues: Sequence[str]
    alive: bool
    started_at: datetime
    renewed: str
    """How long ago."""
    jobs: Sequence[ShownJob]


@dataclass(frozen=True, slots=True)
class ShownQueue:
    """A queue, with what waits in it."""

    name: str
    workers: int
    load: QueueLoad
    waits: str
    """How long the first has waited."""

    @property
    def is_stranded(self) -> bool:
        """Whether something waits, and nobody listens."""
        return bool(self.load.waiting) and not self.workers


@dataclass(frozen=True, slots=True)
class ShownPause:
    """What is paused, and how that is ended."""

    pause: Pause
    name: str
    action: Action
    zone: str | None
    """Of its market."""


@dataclass(frozen=True, slots=True)
class ShownAlert:
    """An alert, and how it is acknowledged."""

    row: Row[Any]
    action: Action | None
    zone: str | None
    """Of its market, if it is about one."""


@router.get("/operations")
def operations_page(request: Request, here: Here, version: Version) -> HTMLResponse:
    """Show alerts, schedulers, workers, queues, pauses, overrides and the audit."""
    with here.look() as look:
        standing = standing_of(look, here)
        bustle = read_bustle(
            look.connection,
            look.now.wall_at,
            most_alerts=_MOST_ALERTS,
            most_audited=_MOST_AUDITED,
        )
        overrides = in_force()
    now, top = look.now.wall_at, top_of(request)
    crew, loads = bustle.workers, bustle.loads
    # Those first that hold their lease.
    crew.sort(key=lambda each: each[0].expires_at <= now)
    workers = [
        ShownWorker(
            name=row.worker,
            pid=row.pid,
            queues=row.queues,
            alive=row.expires_at > now,
            started_at=row.started_at,
            renewed=how_long(now - row.renewed_at),
            jobs=[_job(each, now, top) for each in running],
        )
        for row, running in crew[:_MOST_SHOWN]
    ]
    listeners = Counter(queue for row, _ in crew if row.expires_at > now for queue in row.queues)
    empty = QueueLoad(0, 0, 0, None)
    queues = [
        ShownQueue(name, listeners.get(name, 0), load, _since(load.waiting_since, now))
        for name in dict.fromkeys((*here.markets(look.now), *sorted(loads)))
        for load in (loads.get(name, empty),)
    ]
    today = (look.now.market_at - timedelta(days=1)).date()  # wherever it still is
    coming = [each for each in overrides.standing() if each.session >= today]
    values = {
        "version": version,
        "shows": [STANDING, RUNS, ALERTS, CREW],
        "standing": standing,
        "alerts": [
            ShownAlert(row, actions.of_alert(row), _zone_of_one(row.markets))
            for row in bustle.alerts
        ],
        "leader": look.leader,
        "standbys": [
            (each, how_long(now - each.renewed_at)) for each in standbys_of(bustle.standbys, now)
        ],
        "workers": workers,
        "more_workers": len(crew) - len(workers),
        "queues": queues,
        "pauses": [
            ShownPause(each, actions.named(each), actions.end_of(each), zone_of(each.market_id))
            for each in standing.pauses[:_MOST_SHOWN]
        ],
        "more_pauses": len(standing.pauses[_MOST_SHOWN:]),
        "withdraw": actions.of_override,
        "zone_of": zone_of,
        "overrides": [tell_override(each, in_force=True) for each in coming],
        "audited": [
            (each, *tell_details(each.details)) for each in map(tell_audited, bustle.audited)
        ],
        "flower": _flower(request, here.settings.flower),
        "link_to": lambda dag_id: run_link(top, dag_id),
    }
    return show(request, "operations.html", values)


def _zone_of_one(markets: Sequence[str]) -> str | None:
    return zone_of(markets[0]) if len(markets) == 1 else None


def _job(row: Row[Any], now: datetime, top: str) -> ShownJob:
    link = run_link(top, row.dag_id, row.job_id)
    return ShownJob(f"{row.job_id} of {row.dag_id}", link, _since(row.begun_at, now))


def _since(at: datetime | None, now: datetime) -> str:
    return how_long(max(now - at, timedelta(0))) if at is not None else ""


def _flower(request: Request, settings: FlowerSettings) -> str | None:
    """Return where Flower is; what is on this machine, only for who looks from it."""
    name = host_name(request.headers.get("host", ""))
    here = f"http://{f'[{name}]' if ':' in name else name}:{settings.port}/"
    if is_loopback(name):
        return settings.url or here
    return None if is_loopback(urlsplit(settings.url).hostname or "localhost") else settings.url
