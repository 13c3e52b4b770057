"""How loudly to speak of a calendar's end."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from prometheus.core.horizons import HorizonLevel, horizon_level

LAST = date(2026, 12, 31)


@pytest.mark.parametrize(
    ("days_left", "level"),
    [
        (400, HorizonLevel.OK),
        (91, HorizonLevel.OK),
        (90, HorizonLevel.WARNING),
        (31, HorizonLevel.WARNING),
        (30, HorizonLevel.ALERT),
        (0, HorizonLevel.ALERT),
        (-1, HorizonLevel.ERROR),
    ],
)
def test_the_end_is_said_louder_as_it_comes(days_left: int, level: HorizonLevel) -> None:
    assert horizon_level(LAST, LAST - timedelta(days=days_left)) is level
