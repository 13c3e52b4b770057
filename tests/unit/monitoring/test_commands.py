"""What commands can do and show and what the API can: the same, but for what is named here."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from prometheus.cli.application import make_application
from tools.openapi import document

OTHERWISE = {
    # Left out, they are told with all else that is wrong with the override.
    "calendar override add": {"reason": False, "source": False},
    "calendar override withdraw": {"reason": False},
    # All exchanges of the installation; the API has a request wait for one feed's answer only.
    "calendar sync": {"target": False},
}
"""Command -> what it need not be given, though the API must."""

MISSING = dict.fromkeys(
    (
        "user add",
        "user set-password",
        "user set-role",
        "user remove",
        "token add",
        "token revoke",
        "prune",
    ),
    "it is for who has the machine, not for who was let in",
)
"""Commands that act and that the API has no action for."""

OF_COMMANDS_ONLY = {"folder", "as_json", "wait", "yes"}
"""Where it is done, how it is shown, and what a command asks; the API tells by a preview."""
OF_API_ONLY = {"latest", "plan"}
"""What was seen by a preview; a command knows by itself."""
OTHER_NAMES = {
    "lasting": "for",
    "day": "date",
    "opens": "open",
    "closes": "close",
    "names": "target",  # the API takes one at a time
}
"""Parameter of a command -> field of the API, where the word is one of Python's."""
COMMANDS = {
    "runs": "run",
    "overrides": "calendar override add",
    "withdraw": "calendar override withdraw",
    "ack": "alerts ack",
    "backfills": "backfill start",
    "stop": "backfill stop",
    "sync": "calendar sync",
    "decide": "calendar sync",
    "test": "alerts test",
}
"""Last part of a path -> its command, where that has another name."""

LOOKS = {
    "/version": "--version",
    "/api/v1/markets": "markets",
    "/api/v1/markets/{market}/calendar": "calendar show",
    "/api/v1/pipelines": "dag show",
    "/api/v1/runs": "runs",
    "/api/v1/runs/{dag_id}": "status",
    "/api/v1/runs/{dag_id}/why": "why",
    "/api/v1/runs/{dag_id}/jobs/{job}/why": "why",
    "/api/v1/executions": "executions",
    "/api/v1/executions/{execution_id}/log": "logs",
    "/api/v1/workers": "status",
    "/api/v1/queues": "status",
    "/api/v1/audit": "audit",
    "/api/v1/overrides": "calendar override list",
    "/api/v1/alerts": "alerts list",
    "/api/status/pipeline": "status",
    "/api/dag/{dag_id}": "status",
    "/api/v1/pauses": "status",
    "/api/v1/backfills": "backfill list",
    "/api/v1/backfills/{backfill}/sessions": "backfill show",
    "/api/v1/holidays": "calendar sync",
    "/readyz": "doctor",
}
"""What the API is asked -> the command that shows it."""
LOOKS_OF_API_ONLY = {
    "/healthz": "whether the web process answers, which it alone can say",
    "/api/v1/session": "who asks: of a command it is who has the machine",
}
LOOKS_OF_COMMANDS_ONLY = {
    **dict.fromkeys(
        ("replay", "up", "beat", "worker", "web", "flower"),
        "they are processes",
    ),
    **dict.fromkeys(
        (
            *("config show", "config reference", "user list", "token list", "verify"),
            *("db upgrade", "db check", "db downgrade"),
            *("health beat", "health worker", "health database", "health broker"),
        ),
        "they are for who has the machine, not for who was let in",
    ),
    **dict.fromkeys(
        ("calendar next", "calendar at", "calendar horizon", "calendar diff"),
        "they say in other ways what the calendar of a market says, also of other exchanges",
    ),
}
"""Commands that change nothing of what operators act on, and that the API has no GET for."""
LISTS = {
    "/api/v1/runs": "runs",
    "/api/v1/executions": "executions",
    "/api/v1/alerts": "alerts list",
    "/api/v1/audit": "audit",
    "/api/v1/backfills": "backfill list",
}
"""What takes filters on either side."""
OTHER_FILTERS = {
    "first": "from",
    "last": "to",
    "started_from": "from",
    "started_before": "to",
    "by": "actor",
    "everything": "state",  # open ones, or all
}
"""Parameter of a command that lists -> the one of the API."""


def commands() -> dict[str, dict[str, bool]]:
    """All that are audited: name -> what they take, and whether it must be given."""
    return {
        name: {
            OTHER_NAMES.get(each, each): required
            for each, required in parameters.items()
            if each not in OF_COMMANDS_ONLY
        }
        for name, parameters in _walk(make_application())
        if "actor" in parameters
    }


def looks() -> dict[str, set[str]]:
    """All others: name -> what they take."""
    return {
        name: set(parameters)
        for name, parameters in _walk(make_application())
        if "actor" not in parameters
    }


def _walk(application: typer.Typer, above: str = "") -> Iterator[tuple[str, dict[str, bool]]]:
    for command in application.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        yield (
            f"{above}{name}",
            {
                each.name: each.default is each.empty
                for each in inspect.signature(command.callback).parameters.values()
            },
        )
    for group in application.registered_groups:
        assert group.typer_instance is not None
        yield from _walk(
            group.typer_instance, f"{above}{group.name or group.typer_instance.info.name} "
        )


def actions() -> dict[str, list[dict[str, bool]]]:
    """All of the API: command -> of each route that does the same what it takes, and must have."""
    described: dict[str, Any] = json.loads(document())
    found: dict[str, list[dict[str, bool]]] = {}
    for path, operations in described["paths"].items():
        if "actions" not in operations.get("post", {"tags": []})["tags"]:
            continue
        operation = operations["post"]
        content = operation["requestBody"]["content"]["application/json"]["schema"]
        body = described["components"]["schemas"][content["$ref"].rpartition("/")[2]]
        names = {each["name"]: True for each in operation["parameters"] if each["in"] == "path"}
        assert "Idempotency-Key" in {each["name"] for each in operation["parameters"]}, path
        last = path.rpartition("/")[2]
        taken = {
            name: name in body.get("required", ())
            for name in body["properties"]
            if name not in OF_API_ONLY
        }
        found.setdefault(COMMANDS.get(last, last), []).append({**names, **taken})
    return found


def questions() -> dict[str, set[str]]:
    """All GETs of the API: path -> what they take."""
    paths: dict[str, Any] = json.loads(document())["paths"]
    return {
        path: {each["name"] for each in operations["get"].get("parameters", ())}
        for path, operations in paths.items()
        if "get" in operations
    }


def test_commands_and_api_do_the_same() -> None:
    assert set(MISSING) <= set(commands())
    assert set(commands()) - set(MISSING) == set(actions())


def test_each_is_explained() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operating.md").read_text(encoding="utf-8")
    assert [name for name in actions() if f"`prometheus {name}`" not in page] == []
    paths = [
        re.sub(r"\{\w+\}", "NUMBER", path.replace("{dag_id}", "RUN").replace("{job}", "JOB"))
        for path, operations in json.loads(document())["paths"].items()
        if "actions" in operations.get("post", {"tags": []})["tags"]
    ]
    assert [path for path in paths if f"`{path}`" not in page] == []


def test_they_take_the_same() -> None:
    """What one of several routes must have, the command that does what they all do may."""
    known = commands()
    for name, routes in actions().items():
        taken: dict[str, bool] = {}
        for each in {field for route in routes for field in route}:
            taken[each] = all(route.get(each, False) for route in routes)
        assert {**taken, **OTHERWISE.get(name, {})} == known[name], name


def test_commands_and_api_show_the_same() -> None:
    assert set(questions()) == {*LOOKS, *LOOKS_OF_API_ONLY}
    shown = {name for name in LOOKS.values() if name not in ("--version", *commands())}
    assert shown.isdisjoint(LOOKS_OF_COMMANDS_ONLY)
    assert set(looks()) == {*shown, *LOOKS_OF_COMMANDS_ONLY}


def test_lists_take_the_same_filters() -> None:
    known = looks()
    for path, name in LISTS.items():
        filters = {OTHER_FILTERS.get(each, each) for each in known[name]}
        assert filters - {"folder", "as_json"} == questions()[path] - {"cursor"}, name
