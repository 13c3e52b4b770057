"""docs/promises.md names the tests that hold each promise; each is there, and says so itself."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache

import pytest

from tests.servers import REPOSITORY

PROMISES = [f"P{number}" for number in range(1, 9)]
_SECTION = re.compile(r"^## (P\d+):", re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/]+\.py(?:::\w+)+)`")


@cache
def listed() -> dict[str, set[str]]:
    """Read which tests the page names under each promise."""
    parts = _SECTION.split((REPOSITORY / "docs" / "promises.md").read_text(encoding="utf-8"))
    return {
        name: set(_TEST.findall(text)) for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


@cache
def marked() -> dict[str, set[str]]:
    """Read which tests are marked with each promise."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        name = path.relative_to(REPOSITORY).as_posix()
        for test, promises in found_in(name):
            for promise in promises:
                found[promise].add(test)
    return found


@cache
def found_in(path: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Read the tests of a file, each with the promises that it is marked with."""
    file = REPOSITORY / path
    if not file.is_file():
        return ()
    return tuple(_tests(ast.parse(file.read_text(encoding="utf-8")), path, ()))


def _tests(
    node: ast.Module | ast.ClassDef, name: str, outer: tuple[str, ...]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    for each in node.body:
        if isinstance(each, ast.ClassDef):
            yield from _tests(each, f"{name}::{each.name}", (*outer, *_promises(each)))
        elif isinstance(each, ast.FunctionDef) and each.name.startswith("test_"):
            yield f"{name}::{each.name}", (*outer, *_promises(each))


def _promises(node: ast.ClassDef | ast.FunctionDef) -> Iterator[str]:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.promise":
            yield from (str(ast.literal_eval(argument)) for argument in decorator.args)


def test_the_page_has_all_promises() -> None:
    assert list(listed()) == PROMISES


@pytest.mark.parametrize("promise", PROMISES)
def test_every_test_that_the_page_names_is_there(promise: str) -> None:
    there = {
        test for path in {each.partition("::")[0] for each in listed()[promise]}
        for test, _ in found_in(path)
    }  # fmt: skip
    assert listed()[promise] - there == set()


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_is_held_by_the_tests_that_are_marked_with_it(promise: str) -> None:
    """A test that is marked is listed, so that the page can be believed to be whole."""
    assert marked()[promise]
    assert marked()[promise] == listed()[promise]


def test_no_test_holds_a_promise_that_nobody_made() -> None:
    assert set(marked()) == set(PROMISES)
