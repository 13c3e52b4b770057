"""What is shown of markets whose calendar can not be read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO

from rich.console import Console

from prometheus.cli import board
from prometheus.cli.status import _market_table
from prometheus.core.clock import MarketClock
from prometheus.persistence.clock import Now

AT = datetime(2026, 11, 20, 15, tzinfo=UTC)


def test_a_market_that_can_not_be_read_is_shown_beside_the_others(
    break_sessions: Callable[[str], None],
) -> None:
    break_sessions("XPAR")
    out = StringIO()
    now = Now(AT, AT, MarketClock(), None, None)
    Console(file=out, width=200).print(_market_table(["EU_EQ", "US_EQ"], now))
    heading, broken, *_, other = out.getvalue().splitlines()
    assert heading.split() == ["Market", "State", "Session", "Next"]
    assert broken.startswith("EU_EQ   not known  The sessions of XPAR cannot be read")
    assert other.startswith("US_EQ   SESSION")
    assert [str(each) for each in board._market("EU_EQ", AT)] == [
        "not known",
        "the calendar can not be read",
    ]
