"""No page of another site acts here: every route that changes something is walked."""

from __future__ import annotations

import http.client
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from prometheus.monitoring.app import create_app
from prometheus.monitoring.doorman import LONGEST_BODY, LOOKS
from prometheus.monitoring.guard import SESSION
from prometheus.settings import load_settings
from tests.integration.monitoring.conftest import Web, check_problem, served
from tests.servers import PLAIN

FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "http://127.0.0.1"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "http://127.0.0.1.evil.example:{port}"},
    {"Origin": "http://localhost:{port}"},
    {"Origin": "null"},
    {"Origin": "http://[evil"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": ""},
    {"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-site"},
    {"Content-Type": "text/plain"},
    {"Content-Type": "text/plain; application/json"},
    {"Content-Type": "application/x-www-form-urlencoded"},
    {"Content-Type": "multipart/form-data; boundary=application/json"},
    {"Content-Type": ""},
]
"""What browsers say of what pages elsewhere send; ``{port}`` is ours."""


@pytest.fixture
def web(sqlite_url: str, tmp_path: Path) -> Iterator[Web]:
    """The app."""
    variables = {"PROMETHEUS__DATABASE__URL": sqlite_url, "PROMETHEUS__WEB__ACTIONS": "true"}
    settings = load_settings(variables, tmp_path)
    with served(create_app(settings)) as web:
        yield web


def walk(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Every route, described or not, and each of its methods; of a mount, one that may change."""
    for route in routes:
        if (included := getattr(route, "original_router", None)) is not None:
            yield from walk(included.routes)
        else:
            for method in getattr(route, "methods", None) or ["POST"]:
                yield method, route.path


def changing(web: Web) -> list[tuple[str, str]]:
    """Every route that may change something, and each of its methods that may."""
    found = list(walk(web.app.routes))
    described = {
        (method.upper(), path)
        for path, operations in web.app.openapi()["paths"].items()
        for method in operations
    }
    assert described <= set(found)
    return [
        (method, path.replace("{", "").replace("}", ""))
        for method, path in found
        if method not in LOOKS
    ]


def acting(web: Web) -> list[tuple[str, str]]:
    """Those of them that act on the installation: all but signing in and out, and previews."""
    return [
        (method, path)
        for method, path in changing(web)
        if path != SESSION and not path.endswith("/preview")
    ]


def send(web: Web, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    given = {name: value.format(port=web.url.rpartition(":")[2]) for name, value in headers.items()}
    sent = {"Content-Type": "application/json", **given}
    return httpx.request(
        method, f"{web.url}{path}", content=b"{}", headers=sent, timeout=60, verify=PLAIN
    )


def test_no_other_site_changes_anything(web: Web) -> None:
    found = changing(web)
    assert len(found) >= 10
    for method, path in found:
        for headers in FOREIGN:
            web.statements.clear()
            answer = send(web, method, path, headers)
            why = check_problem(answer, 403)
            assert "Nothing was done." in why, (path, headers)
            assert web.statements == [], (path, headers)
            assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "Application/JSON; charset=utf-8"},
        {"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_who_is_here_is_let_in(web: Web, headers: dict[str, str]) -> None:
    for method, path in acting(web):
        # There are no channels by which a test could be sent.
        wanted = (409,) if path.endswith("/alerts/test") else (404, 422)
        assert send(web, method, path, headers).status_code in wanted, path


def test_no_browser_is_told_that_it_may_send_from_elsewhere(web: Web) -> None:
    for _, path in changing(web):
        asked = {
            "Origin": "https://evil.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        }
        answer = httpx.options(f"{web.url}{path}", headers=asked, timeout=60)
        assert answer.status_code == 405
        assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": str(LONGEST_BODY + 1)},
        {"Content-Length": f"{LONGEST_BODY + 1:020}"},
        {"Transfer-Encoding": "chunked"},
    ],
)
def test_a_body_that_is_too_long_is_not_read(web: Web, headers: dict[str, str]) -> None:
    for method, path in changing(web):
        web.statements.clear()
        # Nothing of the body is sent: the answer does not wait for it.
        there = http.client.HTTPConnection(urlsplit(web.url).netloc, timeout=60)
        there.request(method, path, headers={"Content-Type": "application/json", **headers})
        assert there.getresponse().status == 413, path
        assert web.statements == [], path
        there.close()


def test_nothing_is_done_where_actions_are_not_asked_for(sqlite_url: str, tmp_path: Path) -> None:
    settings = load_settings({"PROMETHEUS__DATABASE__URL": sqlite_url}, tmp_path)
    with served(create_app(settings)) as web:
        for method, path in acting(web):
            why = check_problem(send(web, method, path, {}), 403)
            assert "PROMETHEUS__WEB__ACTIONS=true" in why, path
            assert web.statements == [], path
