"""The web app on a port, in a thread of the test's own process: what it sends can be watched."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy import Engine, event

from prometheus.core.overrides import Overrides, put_in_force
from prometheus.monitoring.app import create_app
from prometheus.monitoring.installation import Installation
from prometheus.monitoring.serving import Server
from prometheus.settings import load_settings
from tests.integration.persistence.world import World
from tests.servers import PLAIN, wait_until

SECRET = "correct-horse-battery"
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_ANY_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d\S*( UTC)?")


@dataclass
class Web:
    """An app that is served, and what it asks its database."""

    app: FastAPI
    url: str
    statements: list[str] = field(default_factory=list)
    """
    SQL since it was last emptied, without the beginnings of transactions and the one by which every
    request asks who makes it.
    """
    asked_who: list[str] = field(default_factory=list)
    """That one."""

    @property
    def cookie(self) -> str:
        """The name of the cookie of a sign-in."""
        return f"prometheus_sign_in_{self.url.rpartition(':')[2]}"

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> httpx.Response:
        """Send a request; whatever comes back says nothing secret and tells instants in UTC."""
        # A parameter that is a word of Python's: from_.
        params = {name.rstrip("_"): value for name, value in query.items()}
        self.statements.clear()
        self.asked_who.clear()
        return self._checked(
            httpx.request(
                method,
                f"{self.url}{path}",
                params=params or None,
                headers=headers,
                timeout=60,
                verify=PLAIN,
            )
        )

    def get(self, path: str, **query: Any) -> Any:
        """Ask for what is there; return the document."""
        answer = self.ask(path, **query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def problem(self, path: str, status: int, /, **query: Any) -> str:
        """Ask for what can not be had; return why."""
        answer = self.ask(path, **query)
        return check_problem(answer, status)

    def send(self, path: str, content: bytes, *, key: str | None = None) -> httpx.Response:
        """Post what is said to be JSON; see `ask`."""
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        return self._checked(
            httpx.post(
                f"{self.url}{path}", content=content, headers=headers, timeout=60, verify=PLAIN
            )
        )

    def post(self, path: str, body: Any) -> Any:
        """Do what can be done; return the document."""
        answer = self.send(path, json.dumps(body).encode())
        assert answer.status_code == 200, answer.text
        return answer.json()

    def problem_of_post(self, path: str, body: Any, status: int) -> str:
        """Try what can not be done; return why."""
        return check_problem(self.send(path, json.dumps(body).encode()), status)

    @staticmethod
    def _checked(answer: httpx.Response) -> httpx.Response:
        assert SECRET not in answer.text
        if answer.headers["content-type"].endswith("json"):
            check_instants(answer.json())
        return answer


def check_problem(answer: httpx.Response, status: int) -> str:
    """Check that a response is a problem of RFC 9457; return its detail."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["type"], problem["status"]) == ("about:blank", status)
    assert problem["title"]
    detail: str = problem["detail"]
    assert detail
    return detail


def check_instants(document: Any) -> None:
    """Check that whatever looks like an instant is one in UTC, with its Z."""
    if isinstance(document, dict):
        for name, value in document.items():
            if name.endswith("_at") and isinstance(value, str):
                assert _INSTANT.fullmatch(value), (name, value)
            check_instants(value)
    elif isinstance(document, list):
        for value in document:
            check_instants(value)
    elif isinstance(document, str) and _ANY_INSTANT.fullmatch(document):
        assert _INSTANT.fullmatch(document), document


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[Web]:
    """Serve an app on a free port of this machine."""
    installation: Installation = app.state.installation
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = Server(app, uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        web = Web(app, f"http://127.0.0.1:{listener.getsockname()[1]}")

        def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith(("BEGIN", "PRAGMA query_only")):
                return
            of_guard = any(
                f"FROM {each}" in statement for each in ("users", "api_tokens", "sign_ins")
            )
            (web.asked_who if of_guard else web.statements).append(statement)

        event.listen(installation.engine, "before_cursor_execute", note)
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive(), timeout=60)
            yield web
        finally:
            server.should_exit = True
            thread.join(60)
            put_in_force(Overrides())
    assert not thread.is_alive()


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """Settings of the installation besides its database; most of what can be secret is."""
    return {
        "PROMETHEUS__BROKER__URL": f"redis://:{SECRET}@127.0.0.1:1/0",
        "PROMETHEUS__FLOWER__BASIC_AUTH": f"me:{SECRET}",
        "PROMETHEUS__EODHD__TOKEN": SECRET,
        "PROMETHEUS__WEB__ACTIONS": "true",
        "PROMETHEUS__DATA__FOLDER": str(tmp_path / "data"),
    }


@pytest.fixture
def web(database_url: str, variables: dict[str, str], tmp_path: Path) -> Iterator[Web]:
    """The app on a new database, of each kind in turn."""
    settings = load_settings({**variables, "PROMETHEUS__DATABASE__URL": database_url}, tmp_path)
    with served(create_app(settings)) as web:
        yield web


@pytest.fixture
def world(engine: Engine) -> World:
    """The database that the app looks at, to be changed by the test."""
    return World(engine)
