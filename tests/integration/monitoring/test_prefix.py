"""The web app below a path of a proxy, which takes it away or passes it on."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from sqlalchemy import Engine

from prometheus.actors import Role
from prometheus.configuration import SettingsError
from prometheus.monitoring.app import create_app
from prometheus.monitoring.guard import PUBLIC
from prometheus.passwords import hash_password
from prometheus.persistence import users
from prometheus.persistence.engine import writing
from prometheus.settings import load_settings
from tests.integration.monitoring.conftest import Web
from tests.integration.monitoring.proxy import PREFIX
from tests.integration.monitoring.test_foreign_sites import walk
from tests.integration.monitoring.test_pages import BROWSER, FLOWER, Page
from tests.integration.persistence.world import DAY, World, job

PASSWORD = "correct horse battery"
HOST = "desk.example"
QUOTED = re.compile(r"""["'`](/[^"'`\s]*)["'`]|url\((/[^)]*)\)""")
"""Whatever a page or script names by its whole path."""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind of database: paths are the same ones on both."""
    return sqlite_url


@pytest.fixture
def variables(variables: dict[str, str]) -> dict[str, str]:
    """Settings of an app that a proxy serves below a path of a host."""
    below = {"PROMETHEUS__WEB__ROOT_PATH": PREFIX, "PROMETHEUS__WEB__HOSTS": HOST}
    return {**variables, **below}


@pytest.fixture
def token(engine: Engine) -> dict[str, str]:
    """What an operator sends, where also a user is known."""
    with writing(engine) as connection:
        users.add_user(connection, "ada", Role.OPERATOR, hash_password(PASSWORD), actor="root")
        lasting = timedelta(hours=1)
        token, _ = users.add_token(connection, "ci", Role.OPERATOR, lasting, actor="root")
    return {"Authorization": f"Bearer {token}"}


def routes_of(web: Web, **values: str) -> list[tuple[str, str]]:
    """Every route but the stream, which has no end; with what its path is about."""
    walked = [(method, path) for method, path in walk(web.app.routes) if path != "/events"]
    assert len(walked) >= 50
    return [
        (method, re.sub(r"{(\w+)}", lambda part: values.get(part[1], "1"), path))
        for method, path in walked
    ]


def test_all_that_is_named_is_below_it(web: Web, world: World, token: dict[str, str]) -> None:
    """Whatever is asked for, as whom, and whether the proxy takes the path away: alike."""
    dag = world.run(job("a"), job("b", "a"))
    running = world.running(dag, "a", world.worker())
    of_run = {"dag_id": dag.dag_id, "job": "b", "execution_id": running}
    routes = routes_of(web, market="US_EQ", day=DAY.isoformat(), **of_run)
    paths = [path for method, path in routes if method == "GET"]
    paths += ["/nothing/at/all", "/api/v1/nothing", "/history?market=US_EQ&pipeline=test"]
    assets: set[str] = set()
    with httpx.Client(base_url=web.url, headers=BROWSER, timeout=60) as client:
        for path in paths:
            for headers in (token, {}):
                answer, other = (
                    client.get(f"{prefix}{path}", headers=headers) for prefix in ("", PREFIX)
                )
                assert answer.status_code == other.status_code, path
                if answer.headers["content-type"].startswith("text/html"):
                    links = Page(answer.text).links()
                    assert links == Page(other.text).links(), path
                    led_to = {urljoin(f"{PREFIX}{path}", link) for link in links}
                    assert all(each.startswith((f"{PREFIX}/", FLOWER)) for each in led_to), path
                    assets |= {each for each in led_to if "/static/" in each and "#" not in each}
                assert outside(answer) + outside(other) == [], path
        assert len(assets) == 4
        for path in assets:
            answer = client.get(path)
            assert answer.status_code == 200
            assert "htmx" in path or outside(answer) == [], path
        described = client.get("/api/openapi.json", headers=token).json()
        assert described["servers"] == [{"url": PREFIX}]


def outside(answer: httpx.Response) -> list[str]:
    """List what an answer names by a whole path that is outside of the prefix."""
    found = [answer.headers[name] for name in ("location", "link") if name in answer.headers]
    kind = answer.headers["content-type"]
    if kind.startswith(("text/html", "text/css", "text/javascript")):
        found += [one or other for one, other in QUOTED.findall(answer.text)]
    if kind == "application/problem+json" or answer.is_error:
        found += re.findall(r"(?<=[ (])/[a-z][^ ,)<]*", answer.text)
    return [each for each in found if not each.startswith(f"{PREFIX}/")]


def test_who_may_ask_what_is_the_same_below_it(web: Web, token: dict[str, str]) -> None:
    routes = [*routes_of(web, name="nothing"), ("GET", "/healthz/"), ("GET", "/nothing")]
    public = {*PUBLIC, ("GET", "/static/nothing")}
    with httpx.Client(base_url=web.url, timeout=60) as client:
        for prefix in ("", PREFIX):
            for method, path in routes:
                sent = {"Content-Type": "application/json"}
                answer = client.request(method, f"{prefix}{path}", headers=sent, content=b"{}")
                assert (answer.status_code != 401) == ((method, path) in public), (method, path)
        spelt = f"{PREFIX.replace('d', '%64')}/metrics"
        assert client.get(spelt).status_code == 401
        assert client.get(spelt, headers=token).status_code == 200
        # What merely begins alike, or has the prefix twice, is none of it.
        for path in ("/desk/jobsmetrics", f"{PREFIX}{PREFIX}/metrics"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers=token).status_code == 404


def test_without_its_last_slash_it_leads_to_the_first_page(web: Web, token: dict[str, str]) -> None:
    for path, led_to in (
        (PREFIX, f"{PREFIX}/"),
        (f"{PREFIX}?times=local", f"{PREFIX}/?times=local"),
    ):
        answer = httpx.get(f"{web.url}{path}", headers=BROWSER, timeout=60)
        assert (answer.status_code, answer.headers["location"]) == (307, led_to)
    answer = httpx.get(f"{web.url}/history/", headers=token, timeout=60)
    assert urlsplit(answer.headers["location"]).path == f"{PREFIX}/history"


def test_a_sign_in_is_that_of_one_path(web: Web, token: dict[str, str]) -> None:
    """And no other host's, where it goes by https."""
    sent = {"Host": HOST, "Origin": f"https://{HOST}"}
    with httpx.Client(base_url=web.url, headers=sent, timeout=60) as client:
        body = {"name": "ada", "password": PASSWORD}
        answer = client.post(f"{PREFIX}/api/v1/session", json=body)
        assert answer.status_code == 200
        name, _, rest = answer.headers["set-cookie"].partition("=")
        secret, *parts = rest.split("; ")
        assert name == "__Host-prometheus_sign_in+desk+jobs"
        assert {"Secure", "HttpOnly", "Path=/"} <= set(parts)
        client.headers.update({"Cookie": f"{name}={secret}"})
        csrf = {"X-CSRF-Token": answer.json()["csrf_token"]}
        key = {"Idempotency-Key": "once"}
        pause = {"market": "US_EQ", "reason": "late"}
        refused = client.post(f"{PREFIX}/api/v1/pause", json=pause)
        assert refused.status_code == 403
        assert f"csrf_token of {PREFIX}/api/v1/session" in refused.json()["detail"]
        elsewhere = {**csrf, "Origin": "https://desk.example.org"}
        assert client.post("/api/v1/pause", json=pause, headers=elsewhere).status_code == 403
        # Whether the proxy takes the path away may change between what is asked and asked again.
        first = client.post(f"{PREFIX}/api/v1/pause", json=pause, headers={**csrf, **key})
        again = client.post("/api/v1/pause", json=pause, headers={**csrf, **key})
        assert first.status_code == again.status_code == 200
        assert first.json() == again.json()
        assert "idempotency-replayed" in again.headers
        assert (
            client.delete(
                f"{PREFIX}/api/v1/session", headers={**csrf, "Content-Type": "application/json"}
            )
            .headers["set-cookie"]
            .startswith(f'{name}="";')
        )
        assert client.get(f"{PREFIX}/api/v1/session").status_code == 401


@pytest.mark.parametrize("prefix", ["/runs", "/api/prometheus", "/sign-in"])
def test_a_path_of_its_own_is_refused(prefix: str, sqlite_url: str, tmp_path: Path) -> None:
    found = {"PROMETHEUS__DATABASE__URL": sqlite_url, "PROMETHEUS__WEB__ROOT_PATH": prefix}
    with pytest.raises(SettingsError, match=r"root_path: .* begins like a path of the web app"):
        create_app(load_settings(found, tmp_path))
