"""Sessions as the exchanges themselves published them."""

from __future__ import annotations

import csv
from collections import defaultdict
from datetime import date
from pathlib import Path

import pytest

from prometheus.core.exchanges import load_exchange
from prometheus.core.trading_calendar import TradingCalendar
from tools.build_sessions import in_words

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


@pytest.mark.parametrize(
    ("mic", "day", "words"),
    [
        ("XTAI", date(2024, 10, 30), "09:00-13:30"),
        ("XTAI", date(2024, 10, 31), "closed"),
        ("XIDX", date(2025, 8, 18), "closed"),
        ("XMOS", date(2022, 2, 25), "10:00-18:45"),
        ("XMOS", date(2022, 2, 28), "closed"),
        ("XMOS", date(2022, 3, 23), "closed"),
        ("XMOS", date(2022, 3, 24), "10:00-14:00"),
        ("XBOM", date(2015, 2, 28), "09:15-15:30"),
        ("XBOM", date(2020, 2, 1), "09:15-15:30"),
        ("XIDX", date(2012, 12, 28), "09:30-16:00"),
        ("XIDX", date(2020, 3, 26), "09:00-15:50 without 12:00-13:30"),
        ("XIDX", date(2020, 3, 27), "09:00-15:50 without 11:30-14:00"),
        ("XIDX", date(2020, 4, 3), "09:00-14:50 without 11:30-13:30"),
        ("XIDX", date(2026, 11, 26), "09:00-15:50 without 12:00-13:30"),
        ("XIDX", date(2026, 11, 27), "09:00-15:50 without 11:30-14:00"),
        ("XBKK", date(2024, 3, 22), "10:00-16:30 without 12:30-14:30"),
        ("XBKK", date(2024, 3, 25), "10:00-16:30 without 12:30-14:00"),
        ("XKLS", date(2026, 11, 26), "09:00-17:00 without 12:30-14:30"),
        ("XKLS", date(2026, 2, 16), "09:00-12:30"),
        ("XPHS", date(2011, 9, 30), "09:30-12:10"),
        ("XPHS", date(2011, 10, 3), "09:30-13:00"),
        ("XPHS", date(2012, 1, 2), "09:30-15:30 without 12:00-13:30"),
        ("XPHS", date(2020, 3, 16), "09:30-13:00"),
        ("XPHS", date(2021, 12, 6), "09:30-15:00 without 12:00-13:00"),
        ("XPHS", date(2022, 2, 28), "09:30-13:00"),
        ("XPHS", date(2022, 3, 1), "09:30-15:00 without 12:00-13:00"),
        ("XSES", date(2011, 7, 29), "09:00-17:00 without 12:30-14:00"),
        ("XSES", date(2011, 8, 1), "09:00-17:00"),
        ("XSES", date(2017, 11, 13), "09:00-17:00 without 12:00-13:00"),
        ("XSES", date(2026, 12, 24), "09:00-12:00"),
        ("XSES", date(2009, 12, 31), "09:00-12:30"),
        ("XSES", date(2009, 11, 16), "09:00-17:00 without 12:30-14:00"),
        ("XASX", date(2009, 12, 24), "10:00-14:10"),
        ("XBOM", date(2005, 7, 27), "09:15-15:30"),
        ("XBOM", date(2005, 7, 28), "closed"),
        ("XBOM", date(2008, 11, 27), "closed"),
        ("XBOM", date(2009, 5, 8), "09:15-15:30"),
        ("XBOM", date(2014, 10, 15), "closed"),
        ("XBUE", date(2024, 12, 24), "11:00-15:00"),
        ("XBUE", date(2025, 12, 31), "closed"),
        ("XBUE", date(2026, 12, 24), "11:00-15:00"),
        ("XBUE", date(2026, 12, 31), "closed"),
        ("XIST", date(2003, 11, 20), "10:00-18:00"),
        ("XIST", date(2003, 11, 21), "closed"),
        ("XJSE", date(2000, 1, 3), "closed"),
        ("XJSE", date(2017, 12, 29), "09:00-12:00"),
        ("XKAR", date(2025, 6, 6), "closed"),
        ("XKAR", date(2025, 9, 5), "09:32-15:30"),
        ("XKAR", date(2026, 8, 26), "closed"),
        ("XKRX", date(2027, 12, 30), "09:00-15:30"),
        ("XMAD", date(2006, 1, 6), "closed"),
        ("XMAD", date(2009, 1, 6), "09:00-17:30"),
        ("XMAD", date(2009, 12, 31), "closed"),
        ("XNZE", date(2001, 12, 24), "09:00-12:30"),
        ("XTSE", date(2008, 12, 24), "09:30-13:00"),
    ],
)
def test_sessions_that_were_announced(mic: str, day: date, words: str) -> None:
    """In local time; who announced it, and where, is in ``corrections.toml``."""
    assert in_words(load_exchange(mic), day) == words
