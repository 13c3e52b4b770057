"""The description of the API that is checked in."""

from __future__ import annotations

import json
from typing import Any

from tests.servers import REPOSITORY
from tools.openapi import document

FILE = REPOSITORY / "docs" / "openapi.json"


def test_it_is_the_one_that_the_app_gives() -> None:
    """If this fails: python -m tools.openapi > docs/openapi.json"""
    assert json.loads(document()) == json.loads(FILE.read_text(encoding="utf-8"))


def test_every_path_is_told_in_the_page_about_it() -> None:
    page = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    paths: dict[str, Any] = json.loads(document())["paths"]
    for path in paths:
        example = path.replace("{market}", "US_EQ").replace("{dag_id}", "us_eq_daily_2026-11-20")
        example = example.replace("{job}", "run_signals").replace("{execution_id}", "ID")
        example = example.replace("{alert}", "7")
        example = example.replace("{override}", "3").replace("{backfill}", "5")
        assert f"`{example}" in page, path


def test_what_changes_something_is_posted_to_a_path_of_its_own() -> None:
    for path, operations in json.loads(document())["paths"].items():
        if path == "/api/v1/session":  # it is made and ended
            assert set(operations) == {"get", "post", "delete"}
            continue
        # One more of them is posted to it.
        is_list = path in ("/api/v1/runs", "/api/v1/overrides", "/api/v1/backfills")
        assert len(operations) == (2 if is_list else 1), path
        for method, operation in operations.items():
            acts = method == "post" and not path.endswith("/preview")
            assert acts == ("actions" in operation["tags"]) or path == "/api/v1/pauses"
