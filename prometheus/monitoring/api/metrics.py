"""``/metrics``: for the monitoring system Prometheus."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from prometheus_client import exposition
from prometheus_client.openmetrics import exposition as openmetrics

from prometheus.monitoring.metrics import Scraper

router = APIRouter()

_OPENMETRICS = "application/openmetrics-text"
_TEXT = "text/plain; version=0.0.4; charset=utf-8"


_USUAL_TIMEOUT = 10.0
"""Seconds for which a Prometheus server waits unless it is told otherwise; it says so itself."""
_LONGEST_TIMEOUT = 60.0
_SHARE = 0.75
"""Of that time, how much of it may be spent on waiting for what does not answer."""


# It is no document of the API: whoever reads it knows the format, and docs/metrics.md the names.
@router.get("/metrics", include_in_schema=False)
def metrics(
    request: Request,
    accept: Annotated[str, Header()] = "",
    timeout: Annotated[
        float, Header(alias="X-Prometheus-Scrape-Timeout-Seconds", gt=0, allow_inf_nan=False)
    ] = _USUAL_TIMEOUT,
) -> Response:
    """Tell the state of the installation: in OpenMetrics if that is asked for, or in plain text."""
    scraper: Scraper = request.app.state.scraper
    registry = scraper.registry(within=_SHARE * min(timeout, _LONGEST_TIMEOUT))
    # The library's own choice fails on versions that are no numbers.
    if _OPENMETRICS in accept:
        kind = openmetrics.CONTENT_TYPE_LATEST
        content = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]  # its own
    else:
        kind = _TEXT
        content = exposition.generate_latest(registry)
    return Response(content, headers={"Content-Type": kind, "Vary": "Accept"})
