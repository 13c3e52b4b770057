"""
The pure packages read no clock and no environment.

import-linter keeps out what would have to be imported from elsewhere; this looks for what the
standard library offers.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import prometheus

ROOT = Path(prometheus.__file__).parent
PURE = ("core", "orchestration")

FORBIDDEN = {
    "datetime.datetime.now",
    "datetime.datetime.today",
    "datetime.datetime.utcnow",
    "datetime.date.today",
    "os.environ",
    "os.getenv",
    "time",
    "random",
    "secrets",
    "threading",
    "uuid",
    "asyncio",
    "socket",
    "subprocess",
}
"""Names, or modules of which nothing may be used."""


def offences(source: str) -> Iterator[str]:
    """Give every use of a forbidden name, however it was imported."""
    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            used = _full_name(node, names)
            if used is not None and any(
                used == name or used.startswith(f"{name}.") for name in FORBIDDEN
            ):
                yield f"line {node.lineno}: {used}"


def _full_name(node: ast.expr, names: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        base = _full_name(node.value, names)
        return f"{base}.{node.attr}" if base else None
    return None


def modules() -> list[Path]:
    return sorted(path for package in PURE for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_pure_module_is_told_the_time_and_asks_nobody(path: Path) -> None:
    assert list(offences(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import datetime\ndatetime.datetime.now()",
        "from datetime import datetime\ndatetime.now(tz=None)",
        "from datetime import datetime as dt\nread = dt.utcnow",
        "from datetime import date\ndate.today()",
        "import datetime as d\nd.date.today()",
        "import time\ntime.monotonic()",
        "from time import monotonic as clock\nclock()",
        "import os\nos.environ['X']",
        "from uuid import uuid4\nuuid4()",
    ],
)
def test_every_way_to_the_clock_is_seen(source: str) -> None:
    assert len(list(offences(source))) >= 1


def test_what_only_looks_like_it_is_allowed() -> None:
    source = """
        from datetime import datetime, time, timedelta
        def at(now: datetime, hour: time) -> datetime:
            return datetime.combine(now, hour) + timedelta(now.hour)
        """
    assert list(offences(textwrap.dedent(source))) == []


def test_the_pure_packages_are_there() -> None:
    """An empty list of modules would pass everything above."""
    assert {path.parent.name for path in modules()} >= set(PURE)
