"""Pages out of templates, with links that work below any prefix of a path."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from prometheus.actors import LONGEST_REASON, Role
from prometheus.core.drafts import LONGEST_TEXT, TAKES
from prometheus.core.durations import format_duration
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import PrometheusError
from prometheus.masking import safe_text
from prometheus.monitoring.guard import ASSETS, SIGN_IN_PAGE, role_of
from prometheus.monitoring.pages import words
from prometheus.monitoring.pages.actions import named
from prometheus.monitoring.pages.assets import read_assets
from prometheus.monitoring.prefix import path_of
from prometheus.monitoring.problems import Problem
from prometheus.orchestration.backfill import MOST_ACTIVE_RUNS, Reprocess
from prometheus.persistence.operators import CANCEL_GRACE
from prometheus.release import release

router = APIRouter(include_in_schema=False)

_ASSETS = read_assets()
_BY_HASHED_NAME = {asset.hashed_name: asset for asset in _ASSETS.values()}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
}
_templates = Environment(
    loader=PackageLoader("prometheus.monitoring.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.globals.update(
    assets={name: asset.hashed_name for name, asset in _ASSETS.items()},
    marks=words.MARKS,
    state_marks=words.STATE_MARKS,
    deadline_mark=words.DEADLINE,
    release=release(),
    longest_reason=LONGEST_REASON,
    longest_text=LONGEST_TEXT,
    reprocess=[each.value for each in Reprocess],
    most_active_runs=MOST_ACTIVE_RUNS,
    override_kinds={
        kind.value: sorted({*takes, "zone"} if takes else ()) for kind, takes in TAKES.items()
    },
    cancel_grace=format_duration(CANCEL_GRACE),
    sign_in_page=SIGN_IN_PAGE.lstrip("/"),
)
_templates.filters.update(
    clock_time=words.clock_time,
    day_time=words.day_time,
    how_long=words.how_long,
    named=named,
    safe_text=safe_text,
)


def show(
    request: Request, template: str, values: Mapping[str, Any], status: int = HTTPStatus.OK
) -> HTMLResponse:
    """Make a page."""
    visitor = getattr(request.state, "visitor", None)  # none yet where the guard refuses
    web = request.app.state.installation.settings.web
    text = _templates.get_template(template).render(
        top=top_of(request),
        page=path_of(request).lstrip("/"),
        asked=safe_text(request.url.query),
        user=visitor.name if visitor is not None else None,
        role=role_of(visitor, web),
        acts=role_of(visitor, web).covers(Role.OPERATOR),
        administers=role_of(visitor, web).covers(Role.ADMIN),
        **values,
    )
    return HTMLResponse(text, status, headers=_HEADERS)


def top_of(request: Request) -> str:
    """
    Return the way from a page to the first one: ``"./"``, ``"../"``, and so on.

    A browser follows it below whatever prefix a proxy has put before the path.
    """
    raw: bytes = request.scope["raw_path"]
    prefix: str = request.scope.get("root_path", "")
    depth = raw.count(b"/") - prefix.count("/") - 1
    return "../" * depth or "./"


def run_link(top: str, dag_id: str, job: str | None = None, attempt: int | None = None) -> str:
    """
    Return the way to the page of a run, or of a job of it, or of an attempt of that.

    Args:
        top: See `top_of`.
    """
    asked = {"job": job, "attempt": attempt}
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    return f"{top}runs/{quote(dag_id, safe='')}" + (f"?{query}" if query else "")


def zone_of(market_id: str | None) -> str | None:
    """Name the zone of a market's or an exchange's clocks; ``None`` where it is not known."""
    if market_id is None:  # a pause of a pipeline in all markets has none
        return None
    try:
        return TradingCalendar(market_id).zone.key
    except PrometheusError:
        return None


def _wants_page(request: Request) -> bool:
    """Say whether whoever asks is a browser, and not of the API."""
    return not path_of(request).startswith("/api/") and "text/html" in request.headers.get(
        "accept", ""
    )


def show_problem(request: Request, problem: Problem) -> HTMLResponse | None:
    """Make the page of what went wrong, for whoever wants one."""
    if not _wants_page(request):
        return None
    return show(request, "problem.html", {"problem": problem}, problem.status)


@router.get(f"{ASSETS}{{name}}")
def asset(name: str) -> Response:
    """Send a file that pages name."""
    found = _BY_HASHED_NAME.get(name)
    if found is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return Response(
        found.content,
        media_type=found.media_type,
        headers={
            "Cache-Control": "public, max-age=31536000, immutable",
            "Cross-Origin-Resource-Policy": "same-origin",
        },
    )
