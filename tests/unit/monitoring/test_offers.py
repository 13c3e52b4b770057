"""What pages offer and what the API can do: the same, but for what is named here."""

from __future__ import annotations

import inspect
import json
import re

from prometheus.monitoring.pages import actions
from tools.openapi import document

NOT_OFFERED = {
    "api/v1/alerts/test": "it tries the settings, which whoever sets them does by a command",
    "api/v1/holidays/sync": "it waits for a feed; the scheduler does it daily, a command at once",
}
"""Actions of the API that no page has a button for."""
NOT_ASKED = {
    "actor": "it is whoever has signed in",
    "announced_at": "now; who records an older announcement has the API and the command",
    "until": "a page asks how long: for",
    "plan": "the script sends what the preview said",
    "latest": "the script sends what the preview said",
}
"""Fields of actions that no page asks for."""


def test_pages_offer_what_the_api_does() -> None:
    source = re.sub(r"\{_path\([^}]*\)\}|\{path\}", "", inspect.getsource(actions))
    ends = {each.rpartition("/")[2] for each in re.findall(r'"[^"\s]*?([a-z-]+/?[a-z-]+)"', source)}
    described = json.loads(document())
    doing = {
        path.lstrip("/"): each["post"]
        for path, each in described["paths"].items()
        if "actions" in each.get("post", {"tags": []})["tags"]
    }
    assert NOT_OFFERED.keys() <= doing.keys()
    missing = {path for path in doing if path.rpartition("/")[2] not in ends}
    assert missing == NOT_OFFERED.keys()
    fields: set[str] = set()
    for path in doing.keys() - NOT_OFFERED.keys():
        asked = doing[path]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        fields |= described["components"]["schemas"][asked.rpartition("/")[2]]["properties"].keys()
    words = set(re.findall(r'"(\w+)"', source))
    assert {each for each in fields if each not in words} == NOT_ASKED.keys()
