"""What is told of who did what."""

from __future__ import annotations

from typing import Any

import pytest

from prometheus.actors import tell_details


@pytest.mark.parametrize(
    ("details", "told"),
    [
        ({}, ""),
        ({"jobs": ["a", "b"], "force": False}, "jobs: a, b; force: false"),
        ({"reason": "late", "until": None, "before": None, "after": None}, ""),
        (
            {
                "before": {"run": "OPEN", "jobs": {"a": "QUEUED", "b": "SUCCESS"}},
                "after": {"run": "OPEN", "jobs": {"a": "SKIPPED", "b": "SUCCESS"}},
            },
            "jobs a: QUEUED → SKIPPED",
        ),
        ({"before": "viewer", "after": "admin"}, "viewer → admin"),
        ({"before": None, "after": {"role": "admin"}}, "role: nothing → admin"),
        ({"before": {"role": ""}, "after": None}, 'role: "" → nothing'),
        (
            {"before": {"at": {"day": 1}}, "after": {"at": {"day": 2}}},
            "at day: 1 → 2",
        ),
        ({"before": [1], "after": [2]}, "[1] → [2]"),
    ],
)
def test_what_has_changed_is_told_from_what_to_what(details: dict[str, Any], told: str) -> None:
    assert tell_details(details)[1] == told
