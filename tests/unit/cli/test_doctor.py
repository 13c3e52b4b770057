"""What the doctor says of calendars that end or can not be read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from prometheus.cli.doctor import _calendars
from prometheus.cli.places import Place, settings_for
from prometheus.core.trading_calendar import TradingCalendar


@pytest.mark.parametrize(
    ("days_left", "health"),
    [(91, "ok"), (90, "warning"), (31, "warning"), (30, "alert"), (0, "alert"), (-1, "fault")],
)
def test_a_calendar_that_ends_is_said_louder_as_it_comes(
    tmp_path: Path, days_left: int, health: str
) -> None:
    settings = settings_for(tmp_path, {"PROMETHEUS__MARKETS__ENABLED": "XSHG,XNYS"})
    calendar = TradingCalendar("XSHG")
    today = calendar.horizon - timedelta(days=days_left)
    ending, other = _calendars(Place(settings, tmp_path, None), today)
    assert (ending.name, ending.health) == ("calendar XSHG", health)
    assert (other.name, other.health) == ("calendar XNYS", "ok")
    if health != "ok":
        assert calendar.horizon_source in ending.text
        assert "newer sessions snapshot" in ending.remedy


def test_a_calendar_that_can_not_be_read_is_the_fault_of_its_market(
    tmp_path: Path, break_sessions: Callable[[str], None]
) -> None:
    settings = settings_for(tmp_path, {"PROMETHEUS__MARKETS__ENABLED": "EU_EQ,US_EQ"})
    break_sessions("XPAR")
    today = TradingCalendar("US_EQ").horizon - timedelta(days=365)
    broken, other = _calendars(Place(settings, tmp_path, None), today)
    assert (broken.name, broken.health) == ("calendar EU_EQ", "fault")
    assert "sessions of XPAR" in broken.text
    assert (other.name, other.health) == ("calendar US_EQ", "ok")
