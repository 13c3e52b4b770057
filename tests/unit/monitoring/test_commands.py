"""What commands can do and what the API can do: the same, but for what is named here."""

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
}
"""Last part of a path -> its command, where that has another name."""


def commands() -> dict[str, set[str]]:
    """All that are audited: name -> what they take."""
    return {
        name: {OTHER_NAMES.get(each, each) for each in parameters} - OF_COMMANDS_ONLY
        for name, parameters in _walk(make_application())
        if "actor" in parameters
    }


def _walk(application: typer.Typer, above: str = "") -> Iterator[tuple[str, set[str]]]:
    for command in application.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        yield f"{above}{name}", set(inspect.signature(command.callback).parameters)
    for group in application.registered_groups:
        assert group.typer_instance is not None
        yield from _walk(
            group.typer_instance, f"{above}{group.name or group.typer_instance.info.name} "
        )


def actions() -> dict[str, set[str]]:
    """All of the API: command -> what the routes that do the same take together."""
    described: dict[str, Any] = json.loads(document())
    found: dict[str, set[str]] = {}
    for path, operations in described["paths"].items():
        if "actions" not in operations.get("post", {"tags": []})["tags"]:
            continue
        operation = operations["post"]
        content = operation["requestBody"]["content"]["application/json"]["schema"]
        body = described["components"]["schemas"][content["$ref"].rpartition("/")[2]]
        names = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
        assert "Idempotency-Key" in {each["name"] for each in operation["parameters"]}, path
        last = path.rpartition("/")[2]
        taken = {*names, *body["properties"]} - OF_API_ONLY
        found.setdefault(COMMANDS.get(last, last), set()).update(taken)
    return found


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
    known = commands()
    for name, taken in actions().items():
        assert taken == known[name], name
