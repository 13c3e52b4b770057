"""The pictures of README and docs: each is there, shown, and one that can be taken again."""

from __future__ import annotations

import re

from tests.servers import REPOSITORY
from tools.screenshots import NAMES, PICTURES

MAIN = {"world.png", "run.png", "day.png"}


def shown(page: str) -> set[str]:
    """Name the pictures of a page."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return set(re.findall(r"pictures/([\w.-]+)", text))


def test_readme_shows_the_main_pages() -> None:
    assert shown("README.md") >= MAIN


def test_every_picture_is_shown_and_can_be_taken_again() -> None:
    pages = ["README.md", *(f"docs/{each.name}" for each in (REPOSITORY / "docs").glob("*.md"))]
    there = {each.name for each in PICTURES.iterdir()}
    assert set().union(*map(shown, pages)) == there == {f"{name}.png" for name in NAMES}
