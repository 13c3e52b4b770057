"""What the benchmark of pages calls too much."""

from __future__ import annotations

from benchmarks.figures import over_limits
from benchmarks.pages import TIMES, Asked

BARE = Asked("bare", "/", None, [2.0] * TIMES, 3)


def asked(name: str, *, took_ms: float, statements: int, limit_ms: float | None = 300) -> Asked:
    return Asked(name, "/", limit_ms, [took_ms] * TIMES, statements)


def test_a_page_that_is_slow_or_asks_much_is_named() -> None:
    pages = [
        asked("at its limits", took_ms=300, statements=3),
        asked("slow", took_ms=301, statements=3),
        asked("curious", took_ms=10, statements=4),
        asked("no page", took_ms=400, statements=13, limit_ms=None),
    ]
    assert over_limits({page.name: page.row(BARE) for page in pages}) == ["slow", "curious"]


def test_a_rare_slow_answer_is_not_held_against_a_page() -> None:
    rare = Asked("rare", "/", 300, [10.0] * (TIMES - 1) + [900], 3)
    often = Asked("often", "/", 300, [10.0] * (TIMES - 2) + [900] * 2, 3)
    assert over_limits({page.name: page.row(BARE) for page in (rare, often)}) == ["often"]
