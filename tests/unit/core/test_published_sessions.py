"""Sessions as the exchanges themselves published them."""

from __future__ import annotations

import csv
from collections import defaultdict
from datetime import date
from pathlib import Path

import pytest

from prometheus.core.exchanges import load_exchange
from prometheus.core.trading_calendar import TradingCalendar

ANSWERS = Path(__file__).parents[2] / "data" / "published_sessions.csv"


def published() -> dict[tuple[str, int], list[dict[str, str]]]:
    """MIC and year -> the lines of the file for them."""
    found = defaultdict(list)
    with ANSWERS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            found[row["mic"], int(row["date"][:4])].append(row)
    return found


@pytest.mark.parametrize(("mic", "year"), sorted(published()))
def test_closed_weekdays_of_a_year_are_those_the_exchange_published(mic: str, year: int) -> None:
    rows = published()[mic, year]
    expected = [row["date"] for row in rows if row["kind"] == "closed"]
    assert [day.isoformat() for day in TradingCalendar(mic).holidays(year)] == expected


@pytest.mark.parametrize(("mic", "year"), sorted(published()))
def test_short_days_of_a_year_are_those_the_exchange_published(mic: str, year: int) -> None:
    calendar, zone = TradingCalendar(mic), load_exchange(mic).zone
    short = [
        session
        for session in map(
            calendar.session, calendar.trading_days(date(year, 1, 1), date(year, 12, 31))
        )
        if session.early_close
    ]
    rows = [row for row in published()[mic, year] if row["kind"] == "early"]
    assert [session.date.isoformat() for session in short] == [row["date"] for row in rows]
    for session, row in zip(short, rows, strict=True):
        if row["close"]:
            assert f"{session.close.astimezone(zone):%H:%M}" == row["close"]
