"""Who is let through which door: every route is walked as nobody, viewer, operator and admin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine

from prometheus.actors import Action, Role
from prometheus.monitoring.app import create_app
from prometheus.monitoring.doorman import LOOKS
from prometheus.monitoring.guard import action_of
from prometheus.passwords import csrf_token
from prometheus.persistence import users
from prometheus.persistence.engine import create_engine, writing
from prometheus.settings import load_settings
from tests.integration.monitoring.conftest import Web, served
from tests.integration.monitoring.test_foreign_sites import walk
from tests.servers import PLAIN

HOUR = timedelta(hours=1)
PUBLIC = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/version"),
    ("POST", "/api/v1/session"),
    ("GET", "/sign-in"),
    ("GET", "/static/name"),
}
"""All that nobody is answered: written here once more, so that no other is added unseen."""
SIGN_OUT = ("DELETE", "/api/v1/session")
PREVIEWS = {
    ("POST", "/api/v1/backfills/preview"),
    ("POST", "/api/v1/holidays/decide/preview"),
    ("POST", "/api/v1/overrides/preview"),
    ("POST", "/api/v1/overrides/override/withdraw/preview"),
}
"""What is posted and changes nothing."""
OF_ADMINS = {
    ("POST", "/api/v1/overrides"),
    ("POST", "/api/v1/overrides/override/withdraw"),
    ("POST", "/api/v1/holidays/sync"),
    ("POST", "/api/v1/holidays/decide"),
    ("POST", "/api/v1/alerts/test"),
}
"""What all markets stand on."""


@dataclass(frozen=True)
class Doors:
    """An app with a user and a token of each role, and its routes."""

    web: Web
    engine: Engine
    tokens: dict[Role, str]

    def routes(self) -> list[tuple[str, str]]:
        """Every route and method, with something for the parts of its path that vary."""
        found = [
            (method, path.replace("{", "").replace("}", ""))
            for method, path in walk(self.web.app.routes)
        ]
        assert len(found) >= 30
        return [*found, ("GET", "/nothing"), ("POST", "/nothing"), ("GET", "/healthz/")]

    def ask(self, method: str, path: str, **headers: str) -> int:
        """Return the status of an answer; its body is not waited for, and may have no end."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if method not in LOOKS:
            sent.setdefault("Content-Type", "application/json")
        url = f"{self.web.url}{path}"
        with httpx.stream(
            method, url, headers=sent, content=b"{}", timeout=60, verify=PLAIN
        ) as answer:
            return answer.status_code

    def signed_in(self, role: Role) -> tuple[dict[str, str], str]:
        """Sign in anew; return the cookie, and what proves that the page is ours."""
        with writing(self.engine) as connection:
            found = users.sign_in(connection, role.value, "kept", HOUR)
        assert found is not None
        secret, _ = found
        return {"Cookie": f"{self.web.cookie}={secret}"}, csrf_token(secret)

    def with_token(self, role: Role) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[role]}"}


@pytest.fixture
def doors(sqlite_url: str, tmp_path: Path) -> Iterator[Doors]:
    """The app; with actions for everybody, which must not matter where there are users."""
    engine, tokens = create_engine(sqlite_url), {}
    with writing(engine) as connection:
        for role in Role:
            users.add_user(connection, role.value, role, "kept", actor="root")
            tokens[role], _ = users.add_token(connection, role.value, role, HOUR, actor="root")
    variables = {
        "PROMETHEUS__DATABASE__URL": sqlite_url,
        "PROMETHEUS__BROKER__URL": "redis://127.0.0.1:1/0",
        "PROMETHEUS__WEB__ACTIONS": "true",
    }
    with served(create_app(load_settings(variables, tmp_path))) as web:
        yield Doors(web, engine, tokens)
    engine.dispose()


def test_only_what_is_listed_answers_nobody(doors: Doors) -> None:
    answers = {route: doors.ask(*route) for route in doors.routes()}
    assert {route for route, status in answers.items() if status != 401} == PUBLIC
    stale = {"Cookie": f"{doors.web.cookie}=stale"}
    wrong = {"Authorization": "Bearer prometheus_wrong"}
    for headers in (stale, wrong, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}):
        answers = {route: doors.ask(*route, **headers) for route in doors.routes()}
        assert {route for route, status in answers.items() if status != 401} == PUBLIC, headers


@pytest.mark.parametrize("role", Role)
def test_a_role_may_what_it_covers_and_no_more(doors: Doors, role: Role) -> None:
    for method, path in doors.routes():
        acts = method not in LOOKS and (method, path) not in {*PUBLIC, *PREVIEWS, SIGN_OUT}
        refused = acts and (
            role is Role.VIEWER or ((method, path) in OF_ADMINS and role is Role.OPERATOR)
        )
        cookie, csrf = doors.signed_in(role)
        for headers in ({**cookie, "X-CSRF-Token": csrf}, doors.with_token(role)):
            status = doors.ask(method, path, **headers)
            assert status != 401, (method, path, headers)
            assert (status == 403) == refused, (method, path, headers, status)


def test_a_limited_token_acts_as_it_was_allowed_to_and_no_more(doors: Doors) -> None:
    acting = {
        (method, path): action_of(path)
        for method, path in doors.routes()
        if method not in LOOKS and (method, path) not in {*PUBLIC, *PREVIEWS, SIGN_OUT}
    }
    del acting["POST", "/nothing"]
    # Each action has its name, by which a token is given it.
    assert set(acting.values()) == set(Action)
    assert {route for route, action in acting.items() if action and action.role is Role.ADMIN} == (
        OF_ADMINS
    )
    for action in (Action.RETRY, Action.TEST):  # one of operators, one of admins
        with writing(doors.engine) as connection:
            token, _ = users.add_token(
                connection, f"only-{action}", Role.ADMIN, HOUR, allowed=[action], actor="root"
            )
        headers = {"Authorization": f"Bearer {token}"}
        for route, needed in acting.items():
            assert (doors.ask(*route, **headers) == 403) == (needed is not action), (action, route)
    assert doors.ask("POST", "/nothing", **headers) == 403
    for look in (*PREVIEWS, ("GET", "/api/v1/runs")):
        assert doors.ask(*look, **headers) != 403, look
    answer = httpx.post(
        f"{doors.web.url}/api/v1/pause", json={}, headers=headers, timeout=60
    ).json()
    assert answer["detail"] == "only-test (token) is limited to: test. Nothing was done."


@pytest.mark.parametrize("role", Role)
def test_no_change_is_made_for_a_cookie_alone(doors: Doors, role: Role) -> None:
    cookie, csrf = doors.signed_in(role)
    other = doors.signed_in(role)[1]
    for method, path in doors.routes():
        if method in LOOKS or (method, path) in PUBLIC:
            continue
        for given in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": other}):
            sent = {**cookie, **given}
            assert doors.ask(method, path, **sent) == 403, (method, path, given)
    assert doors.ask("GET", "/api/v1/runs", **cookie) == 200  # nobody was signed out
    assert doors.ask(*SIGN_OUT, **cookie, X_CSRF_Token=csrf) == 204


@pytest.mark.parametrize("role", Role)
def test_no_page_elsewhere_changes_anything_with_a_cookie_and_what_belongs_to_it(
    doors: Doors, role: Role
) -> None:
    cookie, csrf = doors.signed_in(role)
    for method, path in doors.routes():
        if method in LOOKS:
            continue
        for headers in ({**cookie, "X-CSRF-Token": csrf}, doors.with_token(role)):
            for foreign in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "same-site"}):
                status = doors.ask(method, path, **headers, **foreign)
                assert status == 403, (method, path, foreign)
    assert doors.ask("GET", "/api/v1/runs", **cookie) == 200


@pytest.mark.parametrize("host", ["localhost:/healthz?", "[::1]/healthz?", "localhost/healthz?"])
def test_a_host_with_a_path_in_it_opens_nothing(doors: Doors, host: str) -> None:
    assert doors.ask("GET", "/api/v1/runs", Host=host) == 421
