"""The web app, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from prometheus.configuration import SettingsError
from prometheus.monitoring.alerts.watching import Watcher
from prometheus.monitoring.api import (
    actions,
    alerts,
    backfills,
    executions,
    health,
    holidays,
    known,
    logs,
    markets,
    metrics,
    operations,
    overrides,
    pipelines,
    reasons,
    runs,
    session,
)
from prometheus.monitoring.doorman import Doorman
from prometheus.monitoring.guard import Guard
from prometheus.monitoring.installation import Installation
from prometheus.monitoring.metrics import Scraper
from prometheus.monitoring.pages import (
    calendar,
    day,
    history,
    pulse,
    rendering,
    run,
    signing,
    world,
)
from prometheus.monitoring.pages import (
    operations as operations_page,
)
from prometheus.monitoring.prefix import Prefix
from prometheus.monitoring.problems import MEDIA_TYPE, Problem, tell_problems
from prometheus.settings import Settings

_DESCRIPTION = """\
What a market-aware scheduler does: its markets, runs, executions, workers and overrides; and what
operators do with them.

All instants are UTC. Names are those of docs/glossary.md. Every error is a problem of RFC 9457."""


def create_app(settings: Settings, *, watches: bool = False) -> FastAPI:
    """
    Make the web app of an installation; nothing is connected yet.

    Args:
        watches: Whether it looks, while it runs, for what people have to be told.

    Raises:
        PrometheusError: The settings name something that does not exist, or a path of the app's
            own as the one below which a proxy serves it.
    """
    installation = Installation(settings)
    watcher = Watcher(installation) if watches else None

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if watcher is not None:
            watcher.start()
        yield
        if watcher is not None:
            await asyncio.to_thread(watcher.close)
        installation.close()

    app = FastAPI(
        title="Prometheus",
        version="1",
        description=_DESCRIPTION,
        openapi_url="/api/openapi.json",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        responses={"default": {"model": Problem, "description": "There is no answer."}},
        separate_input_output_schemas=False,
        generate_unique_id_function=_name,
    )
    app.state.installation = installation
    app.state.pulse = pulse.pulse_of(installation)
    app.state.scraper = Scraper(installation)
    app.state.examination = health.examination(installation)
    app.state.limits = session.Limits()
    tell_problems(app, rendering.show_problem)
    app.add_middleware(Prefix, prefix=settings.web.root_path)
    app.add_middleware(Doorman, hosts=settings.web.hosts)
    # Inside of what makes problems of errors, and around all that is routed: nothing goes past it.
    app.router.middleware_stack = Guard(app.router.middleware_stack, installation)
    looks = (
        health,
        metrics,
        markets,
        pipelines,
        runs,
        reasons,
        executions,
        logs,
        operations,
        alerts,
        known,
    )
    pages = (rendering, signing, world, run, day, history, calendar, operations_page, pulse)
    routers = [
        each.router for each in (*looks, actions, backfills, overrides, holidays, session, *pages)
    ]
    _check_prefix(settings.web.root_path, routers)
    for router in routers:
        app.include_router(router)
    _describe_problems(app)
    return app


def _check_prefix(prefix: str, routers: Iterable[APIRouter]) -> None:
    """
    Check that nothing of the app's own begins like the prefix.

    Raises:
        SettingsError: Something does, and nobody could tell whether a proxy passed the prefix on.
    """
    routes = (route for router in routers for route in router.routes)
    own = {route.path.split("/")[1] for route in routes if isinstance(route, APIRoute)}
    first = prefix.removeprefix("/").partition("/")[0]
    if first and first in own:
        raise SettingsError(
            [f"web.root_path: {prefix} begins like a path of the web app. Use /prometheus, say."]
        )


def _name(route: APIRoute) -> str:
    return route.name


def _describe_problems(app: FastAPI) -> None:
    """Have the OpenAPI document say of problems what media type they have."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            for path in made()["paths"].values():
                for operation in path.values():
                    content = operation["responses"]["default"]["content"]
                    content[MEDIA_TYPE] = content.pop("application/json")
        document: dict[str, Any] = app.openapi_schema or {}
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI says to extend it
