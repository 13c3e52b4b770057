"""Every error is a problem of RFC 9457, and nobody is answered who means another host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from prometheus.monitoring.app import create_app
from prometheus.settings import load_settings
from tests.integration.monitoring.conftest import SECRET, Web, check_problem, served


@pytest.fixture
def web(sqlite_url: str, variables: dict[str, str], tmp_path: Path) -> Iterator[Web]:
    """The app, with a route that has a fault."""
    settings = load_settings({**variables, "PROMETHEUS__DATABASE__URL": sqlite_url}, tmp_path)
    app = create_app(settings)

    @app.get("/fault")
    def fault() -> None:
        raise RuntimeError(SECRET)

    with served(app) as web:
        yield web


def test_a_path_that_is_not(web: Web) -> None:
    assert web.problem("/api/v2/runs", 404) == "There is nothing at /api/v2/runs."


def test_a_method_that_is_not(web: Web) -> None:
    answer = web.ask("/healthz", method="DELETE", headers={"Content-Type": "application/json"})
    assert check_problem(answer, 405) == "/healthz does not know DELETE."
    assert answer.headers["allow"] == "GET"
    session = web.ask("/api/v1/session", method="OPTIONS")
    assert (session.status_code, session.headers["allow"]) == (405, "DELETE, GET, POST")


def test_what_a_page_is_told_with_a_problem(web: Web) -> None:
    """As a program is: what may be asked, and for how long to wait."""
    page = web.ask("/history", method="OPTIONS", headers={"Accept": "text/html"})
    assert (page.status_code, page.headers["allow"]) == (405, "GET")
    assert page.headers["content-type"] == "text/html; charset=utf-8"


def test_a_fault_of_ours_says_nothing_of_itself(web: Web) -> None:
    assert web.problem("/fault", 500) == "This is a fault of the server; its log says more."


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "192.0.2.1", "127.0.0.1.evil", ""]
)
def test_a_request_for_another_host_is_refused(web: Web, host: str) -> None:
    answer = web.ask("/version", headers={"Host": host})
    assert "PROMETHEUS__WEB__HOSTS" in check_problem(answer, 421)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1:8765", "[::1]", "[::1]:80"]
)
def test_a_request_for_this_machine_is_answered(web: Web, host: str) -> None:
    answer = web.ask("/healthz", headers={"Host": host})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_description_has_problems_for_every_error(web: Web) -> None:
    document = web.get("/api/openapi.json")
    for path in document["paths"].values():
        for operation in path.values():
            assert list(operation["responses"]["default"]["content"]) == [
                "application/problem+json"
            ]
            assert "422" not in operation["responses"]
