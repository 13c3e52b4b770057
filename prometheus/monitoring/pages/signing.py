"""The page on which somebody signs in."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from prometheus.monitoring.guard import SIGN_IN_PAGE
from prometheus.monitoring.pages.rendering import show

router = APIRouter(include_in_schema=False)


@router.get(SIGN_IN_PAGE)
def sign_in_page(request: Request) -> HTMLResponse:
    """Ask for name and password; the page's script hands them to the API."""
    return show(request, "sign_in.html", {})
