"""Users, sign-ins and tokens as the web API has them, on both databases."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, select, update

from prometheus.actors import Action, Role
from prometheus.monitoring.api.session import Limits
from prometheus.monitoring.app import create_app
from prometheus.passwords import hash_password
from prometheus.persistence import users
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.leases import wall_time
from prometheus.persistence.tables import api_tokens, audit, sign_ins
from prometheus.settings import load_settings
from tests.integration.monitoring.conftest import Web, check_problem, served
from tests.integration.persistence.world import World, job
from tests.servers import PLAIN, PostgresServer

PASSWORD = "correct horse battery staple"
KEPT = hash_password(PASSWORD)
HOUR = timedelta(hours=1)
PAUSE = {"market": "US_EQ", "reason": "a bad feed"}

Serve = Callable[..., AbstractContextManager[Web]]


@pytest.fixture
def serve(database_url: str, variables: dict[str, str], tmp_path: Path) -> Serve:
    """A function that serves the app with some settings."""

    def served_with(**given: str) -> AbstractContextManager[Web]:
        settings = {f"PROMETHEUS__{name}": value for name, value in given.items()}
        base = {**variables, "PROMETHEUS__WEB__ACTIONS": "false"}
        base["PROMETHEUS__DATABASE__URL"] = database_url
        return served(create_app(load_settings({**base, **settings}, tmp_path)))

    return served_with


@pytest.fixture
def web(serve: Serve) -> Iterator[Web]:
    """The app, without actions for everybody."""
    with serve() as web:
        yield web


def add(engine: Engine, name: str, role: Role) -> None:
    with writing(engine) as connection:
        users.add_user(connection, name, role, KEPT, actor="root")


def add_token(engine: Engine, name: str, role: Role, lasting: timedelta = HOUR) -> dict[str, str]:
    with writing(engine) as connection:
        token, _ = users.add_token(connection, name, role, lasting, actor="root")
    return {"Authorization": f"Bearer {token}"}


def sign_in(
    web: Web, name: str, password: str = PASSWORD, headers: dict[str, str] | None = None
) -> httpx.Response:
    credentials = {"name": name, "password": password}
    return httpx.post(
        f"{web.url}/api/v1/session",
        json=credentials,
        headers=headers or {},
        timeout=60,
        verify=PLAIN,
    )


def browser(web: Web, name: str) -> httpx.Client:
    """A browser in which a user is signed in, with a page of ours."""
    answer = sign_in(web, name)
    assert answer.status_code == 200, answer.text
    client = httpx.Client(base_url=web.url, cookies=answer.cookies, timeout=60, verify=PLAIN)
    client.headers["X-CSRF-Token"] = answer.json()["csrf_token"]
    return client


def status(web: Web, headers: dict[str, str], path: str = "/api/v1/runs") -> int:
    return httpx.get(f"{web.url}{path}", headers=headers, timeout=60, verify=PLAIN).status_code


class TestSignIn:
    def test_without_users_this_machine_is_answered(self, web: Web) -> None:
        assert web.get("/api/v1/session") == {
            "name": None,
            "role": "viewer",
            "expires_at": None,
            "csrf_token": None,
            "allowed": None,
        }
        assert web.get("/api/v1/runs")["items"] == []
        assert status(web, {"Cookie": f"{web.cookie}=of-another"}) == 200
        assert "actions = true" in web.problem_of_post("/api/v1/pause", PAUSE, 403)

    def test_without_users_nothing_is_answered_that_a_proxy_has_passed_on(self, web: Web) -> None:
        """It says that it is of this machine, and may be anybody's."""
        for header in ("Forwarded", "X-Forwarded-For", "X-Real-IP"):
            passed = {header: "192.0.2.7"}
            for path in ("/", "/api/v1/runs", "/metrics"):
                assert status(web, passed, path) == 403, (header, path)
            assert status(web, passed, "/healthz") == 200

    def test_from_the_first_user_on_nobody_else_is(self, web: Web, engine: Engine) -> None:
        assert status(web, {}) == 200
        add(engine, "ada", Role.VIEWER)
        assert "Sign in (POST /api/v1/session)" in web.problem("/api/v1/runs", 401)
        assert web.ask("/api/v1/runs").headers["www-authenticate"] == "Bearer"
        assert web.ask("/metrics").status_code == 401
        with writing(engine) as connection:
            users.remove_user(connection, "ada", actor="root")
        assert status(web, {}) == 200
        assert web.ask("/metrics").status_code == 200

    def test_who_signs_in_is_known_until_signed_out(self, web: Web, engine: Engine) -> None:
        add(engine, "ada", Role.OPERATOR)
        answer = sign_in(web, "ada")
        (cookie,) = answer.headers.get_list("set-cookie")
        parts = [each.strip() for each in cookie.split(";")]
        assert parts[0].startswith(f"{web.cookie}=")
        assert {"HttpOnly", "SameSite=lax", "Path=/", "Max-Age=43200"} < set(parts)
        assert "Secure" not in parts  # http://127.0.0.1 has no other
        with browser(web, "ada") as page:
            found = page.get("/api/v1/session").json()
            assert (found["name"], found["role"]) == ("ada", "operator")
            assert found["csrf_token"] == page.headers["X-CSRF-Token"]
            paused = page.post("/api/v1/pause", json=PAUSE)
            assert paused.json()["actor"] == "ada"
            ended = page.delete("/api/v1/session", headers={"Content-Type": "application/json"})
            assert ended.status_code == 204
            assert web.cookie not in page.cookies
        # Who has kept the cookie has nothing.
        secret = parts[0]
        assert status(web, {"Cookie": secret}) == 200
        gone = httpx.delete(
            f"{web.url}/api/v1/session",
            headers={
                "Cookie": secret,
                "Content-Type": "application/json",
                "X-CSRF-Token": answer.json()["csrf_token"],
            },
            timeout=60,
        )
        assert gone.status_code == 204
        assert status(web, {"Cookie": secret}) == 401

    def test_each_sign_in_has_a_new_secret_and_ends_the_one_before(
        self, web: Web, engine: Engine
    ) -> None:
        add(engine, "ada", Role.VIEWER)
        planted = {"Cookie": f"{web.cookie}=planted"}
        first = sign_in(web, "ada", headers=planted).cookies[web.cookie]
        assert first != "planted"
        before = {"Cookie": f"{web.cookie}={first}"}
        second = sign_in(web, "ada", headers=before).cookies[web.cookie]
        assert second != first
        assert status(web, before) == 401
        assert status(web, {"Cookie": f"{web.cookie}={second}"}) == 200

    def test_a_port_of_this_machine_has_a_cookie_of_its_own(
        self, web: Web, serve: Serve, engine: Engine
    ) -> None:
        """A browser sends what one of them has set to the other, too."""
        add(engine, "ada", Role.VIEWER)
        with serve() as other, browser(web, "ada") as page:
            page.cookies.update(sign_in(other, "ada").cookies)
            for each in (web, other):
                assert page.get(f"{each.url}/api/v1/session").status_code == 200
            assert {web.cookie, other.cookie} == set(page.cookies)

    def test_a_wrong_password_and_an_unknown_name_are_told_alike(
        self, web: Web, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from argon2 import PasswordHasher

        add(engine, "ada", Role.VIEWER)
        hashed: list[str] = []
        verify = PasswordHasher.verify

        def noted(self: PasswordHasher, kept: str, password: str) -> Any:
            hashed.append(kept)
            return verify(self, kept, password)

        monkeypatch.setattr(PasswordHasher, "verify", noted)
        why = {check_problem(sign_in(web, name, "wrong"), 401) for name in ("ada", "bob")}
        assert why == {"The name or the password is wrong."}
        # As much work for either: the time tells no more than the words.
        assert len(hashed) == 2
        assert hashed[0] == KEPT
        assert hashed[0].split("$")[:4] == hashed[1].split("$")[:4]

    def test_it_is_not_tried_for_ever(
        self, web: Web, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [0.0]
        web.app.state.limits = Limits(lambda: now[0])
        add(engine, "ada", Role.VIEWER)
        for _ in range(10):
            assert sign_in(web, "ada", "wrong").status_code == 401
        refused = sign_in(web, "ada")
        assert "Wait." in check_problem(refused, 429)
        assert refused.headers["retry-after"] == "600"
        answers = [sign_in(web, f"x{number}", "wrong").status_code for number in range(20)]
        assert answers == [401] * 19 + [429]
        now[0] = 600.0
        # What is right does not count.
        assert [sign_in(web, "ada").status_code for _ in range(6)] == [200] * 6

    def test_what_is_no_sign_in_is_refused_without_its_words(self, web: Web) -> None:
        for body in ({"name": "ada", "password": 7}, {"name": "ada"}, {"password": PASSWORD}):
            answer = web.send("/api/v1/session", httpx.Request("POST", "x:", json=body).content)
            assert answer.status_code == 422
            assert PASSWORD not in answer.text


class TestEnds:
    def test_a_sign_in_expires(self, web: Web, engine: Engine) -> None:
        add(engine, "ada", Role.VIEWER)
        with browser(web, "ada") as page:
            assert page.get("/api/v1/runs").status_code == 200
            with writing(engine) as connection:
                connection.execute(update(sign_ins).values(expires_at=wall_time(connection)))
            assert "no longer signed in" in check_problem(page.get("/api/v1/runs"), 401)
        browser(web, "ada").close()
        with reading(engine) as connection:  # those that have expired are not kept
            assert len(connection.execute(select(sign_ins)).all()) == 1

    def test_a_sign_in_lasts_as_long_as_is_set(self, serve: Serve, engine: Engine) -> None:
        add(engine, "ada", Role.VIEWER)
        with serve(WEB__SIGN_IN_LASTS="5m") as web:
            assert "Max-Age=300;" in sign_in(web, "ada").headers["set-cookie"]
        with reading(engine) as connection:
            (kept,) = connection.execute(select(sign_ins)).all()
            assert kept.expires_at - kept.created_at < timedelta(minutes=6)

    def test_a_user_who_is_removed_or_has_another_password_is_signed_in_nowhere(
        self, web: Web, engine: Engine
    ) -> None:
        add(engine, "ada", Role.VIEWER)
        add(engine, "bob", Role.VIEWER)
        with browser(web, "ada") as ada, browser(web, "bob") as bob:
            with writing(engine) as connection:
                users.remove_user(connection, "ada", actor="root")
                users.set_password(connection, "bob", KEPT, actor="root")
            assert ada.get("/api/v1/runs").status_code == 401
            assert bob.get("/api/v1/runs").status_code == 401
        assert sign_in(web, "ada").status_code == 401

    def test_another_role_holds_at_once(self, web: Web, engine: Engine) -> None:
        add(engine, "ada", Role.VIEWER)
        with browser(web, "ada") as page:
            assert "ada is viewer" in check_problem(page.post("/api/v1/pause", json=PAUSE), 403)
            with writing(engine) as connection:
                users.set_role(connection, "ada", Role.OPERATOR, actor="root")
            assert page.post("/api/v1/pause", json=PAUSE).status_code == 200

    def test_a_password_that_is_changed_while_it_is_compared_signs_nobody_in(
        self, engine: Engine
    ) -> None:
        add(engine, "ada", Role.VIEWER)
        with writing(engine) as connection:
            users.set_password(connection, "ada", "another", actor="root")
            assert users.sign_in(connection, "ada", KEPT, HOUR) is None
            assert users.sign_in(connection, "bob", KEPT, HOUR) is None

    def test_a_token_that_is_revoked_or_has_expired_is_good_for_nothing(
        self, web: Web, engine: Engine
    ) -> None:
        add(engine, "ada", Role.VIEWER)
        ci, old = add_token(engine, "ci", Role.VIEWER), add_token(engine, "old", Role.VIEWER)
        assert status(web, ci) == status(web, old) == 200
        assert status(web, ci, "/metrics") == 200
        with writing(engine) as connection:
            users.revoke_token(connection, "ci", actor="root")
            connection.execute(update(api_tokens).values(expires_at=wall_time(connection)))
        assert status(web, ci) == status(web, old) == 401
        assert status(web, ci, "/metrics") == 401

    def test_an_expired_token_opens_nothing(self, web: Web, engine: Engine) -> None:
        old = add_token(engine, "old", Role.VIEWER)
        assert status(web, {}) == status(web, {}, "/metrics") == 401
        with writing(engine) as connection:
            connection.execute(update(api_tokens).values(expires_at=wall_time(connection)))
            assert not users.anybody_let_in(connection)
        assert status(web, {}) == status(web, {}, "/metrics") == status(web, old) == 401

    def test_a_token_is_told_to_what_it_is_limited(self, web: Web, engine: Engine) -> None:
        whole = add_token(engine, "whole", Role.OPERATOR)
        with writing(engine) as connection:
            allowed = [Action.RETRY, Action.RUN]
            token, _ = users.add_token(
                connection, "ci", Role.OPERATOR, HOUR, allowed=allowed, actor="root"
            )

        def told(headers: dict[str, str]) -> Any:
            return web.ask("/api/v1/session", headers=headers).json()["allowed"]

        assert sorted(told({"Authorization": f"Bearer {token}"})) == ["retry", "run"]
        assert told(whole) is None


class TestActing:
    def test_a_token_acts_under_its_name_and_no_other(
        self, web: Web, engine: Engine, world: World
    ) -> None:
        dag = world.run(job("a"))
        headers = add_token(engine, "ci", Role.OPERATOR)
        path = f"{web.url}/api/v1/runs/{dag.dag_id}/jobs/a/skip"
        other = {"reason": "done", "actor": "ada"}
        refused = httpx.post(path, json=other, headers=headers, timeout=60)
        assert "You are ci (token), and actor names 'ada'" in check_problem(refused, 403)
        assert world.statuses(dag) == {"a": "PENDING"}
        same = {"reason": "done", "actor": "ci (token)"}
        assert httpx.post(path, json=same, headers=headers, timeout=60).status_code == 200
        assert world.audited()[-1] == ("ci (token)", "skip", dag.dag_id)

    def test_an_idempotency_key_is_of_who_made_it_up(self, web: Web, engine: Engine) -> None:
        ci, other = (add_token(engine, name, Role.OPERATOR) for name in ("ci", "other"))
        key = {"Idempotency-Key": "k"}

        def pause(headers: dict[str, str]) -> httpx.Response:
            return httpx.post(
                f"{web.url}/api/v1/pause", json=PAUSE, headers={**headers, **key}, timeout=60
            )

        assert pause(ci).status_code == 200
        assert pause(ci).headers["idempotency-replayed"] == "true"
        assert "given to another request" in check_problem(pause(other), 422)


class TestElsewhere:
    def test_a_name_of_ours_is_answered_to_who_is_known(self, serve: Serve, engine: Engine) -> None:
        add(engine, "ada", Role.VIEWER)
        with serve(WEB__HOSTS="scheduler.example") as web:
            there = {"Host": "scheduler.example"}
            assert status(web, there) == 401
            assert status(web, there, "/healthz") == 200
            assert status(web, {"Host": "evil.example"}, "/healthz") == 421
            answer = sign_in(web, "ada", headers=there)
            (cookie,) = answer.headers.get_list("set-cookie")
            assert cookie.startswith("__Host-prometheus_sign_in=")
            assert "; Secure" in cookie
            shown = {"Cookie": cookie.partition(";")[0]}
            assert status(web, {**there, **shown}) == 200
            assert status(web, shown) == 401  # it is that name's
        with serve(WEB__HOSTS="scheduler.example", WEB__HTTPS="false") as web:
            answer = sign_in(web, "ada", headers=there)
            assert "Secure" not in answer.headers["set-cookie"]

    @pytest.mark.parametrize("given", [{"WEB__ADDRESS": "0.0.0.0"}, {"WEB__HOSTS": "a.example"}])
    def test_without_users_nobody_is_answered(self, serve: Serve, given: dict[str, str]) -> None:
        with serve(**given) as web:
            assert status(web, {}) == status(web, {}, "/metrics") == 401
            assert status(web, {}, "/healthz") == 200

    def test_metrics_may_be_told_to_everybody(self, serve: Serve, engine: Engine) -> None:
        add(engine, "ada", Role.VIEWER)
        with serve(WEB__PUBLIC_METRICS="true") as web:
            assert status(web, {}, "/metrics") == 200
            assert status(web, {}) == 401


def test_a_database_that_is_away_lets_nobody_in(
    spare_postgres: PostgresServer, tmp_path: Path
) -> None:
    from prometheus.persistence import migrate
    from prometheus.persistence.engine import create_engine

    url = spare_postgres.url(spare_postgres.create_database())
    migrate.upgrade(url)
    engine = create_engine(url)
    add(engine, "ada", Role.VIEWER)
    engine.dispose()
    settings = load_settings({"PROMETHEUS__DATABASE__URL": url}, tmp_path)
    with served(create_app(settings)) as web:
        assert status(web, {}, "/metrics") == 401
        spare_postgres.stop()
        assert {sign_in(web, "ada").status_code for _ in range(12)} == {503}  # none is counted
        assert status(web, {}, "/api/v1/markets") == 503
        assert status(web, {}, "/metrics") == 503
        assert status(web, {"Authorization": "Bearer x"}) == 503
    with served(create_app(settings)) as web:  # which has never seen that there is a user
        assert status(web, {}, "/metrics") == 503


def test_no_secret_is_told_or_kept(
    web: Web, engine: Engine, caplog: pytest.LogCaptureFixture, database_url: str
) -> None:
    caplog.set_level(logging.DEBUG)
    add(engine, "ada", Role.OPERATOR)
    bearer = add_token(engine, "ci", Role.OPERATOR)["Authorization"].removeprefix("Bearer ")
    sign_in(web, PASSWORD, "wrong")  # typed into the wrong field
    with browser(web, "ada") as page:
        page.post("/api/v1/pause", json=PAUSE)
        secret = page.cookies[web.cookie]
        told = [page.get(path).text for path in ("/api/v1/session", "/api/v1/pauses", "/metrics")]
    ours = [each for each in caplog.records if each.name.startswith("prometheus")]
    assert {each.message for each in ours} >= {"sign_in_refused", "signed_in"}
    with reading(engine) as connection:
        rows = [
            str(tuple(row))
            for table in (audit, sign_ins, api_tokens)
            for row in connection.execute(select(table))
        ]
    logged = [str(vars(each)) for each in ours]
    for text in (*told, *rows, *logged):
        for hidden in (PASSWORD, KEPT, bearer, secret):
            assert hidden not in text
