"""``/healthz``, ``/readyz``, ``/version``: for whoever restarts the process or sends requests."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from prometheus.core.exchanges import snapshot_version
from prometheus.monitoring import readiness
from prometheus.monitoring.api.models import Model
from prometheus.monitoring.installation import Installation
from prometheus.monitoring.patience import Shared
from prometheus.persistence import migrate
from prometheus.release import release

router = APIRouter(tags=["health"])


class Health(Model):
    """The process answers."""

    status: str = "ok"


class Check(Model):
    """One thing that is needed."""

    name: str
    """``database``, ``tables``, ``broker``, ``scheduler``, or ``calendar`` and a market."""
    ok: bool
    text: str
    """What was found; of what does not work, why."""


class Readiness(Model):
    """Whether everything that is needed works."""

    ready: bool
    checks: list[Check]


class Version(Model):
    """What is installed."""

    release: str | None
    """``null`` of a source tree that is not installed."""
    tables: str
    """The revision of the database's tables that it needs."""
    calendars: str
    """The version of its sessions snapshot."""


@router.get("/healthz")
async def healthz() -> Health:
    """Say that the process answers; nothing else is looked at."""
    return Health()


def examination(installation: Installation) -> Shared[list[readiness.Check]]:
    """Make what all who ask at a time share: however many they are, one thread waits."""
    return Shared(lambda: list(readiness.examine(installation)))


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Something is not."}})
async def readyz(request: Request, response: Response) -> Readiness:
    """Say whether database, tables, broker, scheduler and calendars work: 503 if one does not."""
    shared: Shared[list[readiness.Check]] = request.app.state.examination
    # Whoever goes away does not take it from those who wait for it, too.
    found = await asyncio.shield(asyncio.wrap_future(shared.begin()))
    checks = [Check(name=c.name, ok=c.ok, text=c.text) for c in found]
    ready = all(check.ok for check in checks)
    if not ready:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return Readiness(ready=ready, checks=checks)


@router.get("/version")
def version() -> Version:
    """Name the release, and what comes with it."""
    return Version(release=release(), tables=migrate.head(), calendars=snapshot_version())
