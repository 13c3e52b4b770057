"""What measurements come to."""

from __future__ import annotations

import math
from functools import partial

import pytest

from benchmarks.figures import in_turn


@pytest.mark.parametrize(("within", "rounds"), [(math.inf, 4), (0, 2)])
def test_each_is_measured_in_turn_and_what_takes_long_not_so_often(
    within: float, rounds: int
) -> None:
    said: list[str] = []

    def say(name: str) -> list[float]:
        said.append(name)
        return [len(said)]

    figures = in_turn(4, {name: partial(say, name) for name in "ab"}, within=within)
    assert "".join(said) == "ab" * rounds
    assert figures["b"]["least"] == 2
    assert figures["b"]["most"] == 2 * rounds
