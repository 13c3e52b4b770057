"""States of every minute of 2015 to 2026, against sessions exported from exchange_calendars.

The sessions come from ``tests/data/oracle_sessions.csv.gz``, which ``tools/export_oracle.py`` wrote
without knowing anything of the snapshot. Both sides are laid out on a grid of minutes in the
exchange's own years 2015 to 2026, 6,311,520 of them or an hour more or less, and compared cell by
cell.

- *Expected:* a plain reading of the definition. Every local date is painted OVERNIGHT or HOLIDAY,
  and over it, weaker states first, POST_CLOSE, PRE_OPEN and SESSION of every session.
- *Found:* `get_market_state` at the first minute, then `get_next_state_transition` from one change
  to the next, each checked with `get_market_state` at the change and a minute before it. And, in a
  test of its own, `get_market_state` asked for each of these minutes.
"""

from __future__ import annotations

import csv
import gzip
import operator
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from importlib.resources import files
from itertools import accumulate, repeat
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from prometheus.core.exchanges import load_exchange
from prometheus.core.market_state import (
    MarketState,
    get_market_state,
    get_next_state_transition,
)
from prometheus.core.trading_calendar import TradingCalendar

ORACLE = Path(__file__).parents[2] / "data" / "oracle_sessions.csv.gz"
MICS = ("XNYS", "XNAS", "XLON", "XPAR", "XTKS", "XHKG")
FIRST, LAST = date(2015, 1, 1), date(2026, 12, 31)
CODE = {state: code for code, state in enumerate(MarketState)}
MINUTE = timedelta(minutes=1)

Grid = NDArray[np.int8]


@dataclass(frozen=True)
class Known:
    open: datetime
    close: datetime
    breaks: tuple[tuple[datetime, datetime], ...]


@cache
def oracle() -> dict[str, dict[date, Known]]:
    """MIC -> session date -> what exchange_calendars says."""
    found: dict[str, dict[date, Known]] = defaultdict(dict)
    with gzip.open(ORACLE, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            breaks: tuple[tuple[datetime, datetime], ...] = ()
            if row["break_start"]:
                breaks = ((instant(row["break_start"]), instant(row["break_end"])),)
            found[row["mic"]][date.fromisoformat(row["session"])] = Known(
                instant(row["open"]), instant(row["close"]), breaks
            )
    return found


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@cache
def listed_corrections() -> dict[tuple[str, date], dict[str, str]]:
    """MIC and date -> the entry of the corrections file, of the years that are compared."""
    text = (files("prometheus.core") / "data" / "corrections.toml").read_text(encoding="utf-8")
    document = tomllib.loads(text)
    for entry in document["hours"]:
        if entry["mic"] in MICS:
            assert entry["until"] < FIRST, "an hours entry in these years is not foreseen here"
    return {
        (entry["mic"], day): entry
        for entry in document["day"]
        for day in entry["dates"]
        if entry["mic"] in MICS and FIRST <= day <= LAST
    }


def corrected(mic: str) -> dict[date, Known]:
    """The oracle's sessions with the listed corrections."""
    sessions = dict(oracle()[mic])
    zone = load_exchange(mic).zone
    for (of_mic, day), entry in listed_corrections().items():
        if of_mic != mic:
            continue
        if entry.get("closed"):
            del sessions[day]
            continue
        assert set(entry) >= {"open"}, "only closures and late opens are foreseen here"
        opens = datetime.combine(day, time.fromisoformat(entry["open"]), zone).astimezone(UTC)
        pauses = tuple(pause for pause in sessions[day].breaks if pause[0] > opens)
        sessions[day] = Known(opens, sessions[day].close, pauses)
    return sessions


def bounds(mic: str) -> tuple[datetime, datetime]:
    """From the local midnight that begins 2015 to the one that ends 2026, in UTC."""
    zone = load_exchange(mic).zone
    return (
        datetime.combine(FIRST, time(), zone).astimezone(UTC),
        datetime.combine(LAST + timedelta(days=1), time(), zone).astimezone(UTC),
    )


class Painter:
    """A grid of one small number a minute, painted by intervals."""

    def __init__(self, mic: str) -> None:
        self.start, self.end = bounds(mic)
        self.cells: Grid = np.zeros((self.end - self.start) // MINUTE, dtype=np.int8)

    def paint(self, start: datetime, end: datetime, value: int) -> None:
        assert (start - self.start) % MINUTE == timedelta(0), "not on a whole minute"
        low, high = ((max(at, self.start) - self.start) // MINUTE for at in (start, end))
        self.cells[low:high] = value


def expected_states(mic: str, sessions: dict[date, Known]) -> Grid:
    """Read the five states off a list of sessions, with buffers of 60 and 120 minutes."""
    zone = load_exchange(mic).zone
    painter = Painter(mic)
    day = FIRST
    while day <= LAST:
        midnight, next_midnight = (
            datetime.combine(each, time(), zone).astimezone(UTC)
            for each in (day, day + timedelta(days=1))
        )
        state = MarketState.OVERNIGHT if day in sessions else MarketState.HOLIDAY
        painter.paint(midnight, next_midnight, CODE[state])
        day += timedelta(days=1)
    for known in sessions.values():
        painter.paint(known.close, known.close + 120 * MINUTE, CODE[MarketState.POST_CLOSE])
    for known in sessions.values():
        painter.paint(known.open - 60 * MINUTE, known.open, CODE[MarketState.PRE_OPEN])
    for known in sessions.values():
        painter.paint(known.open, known.close, CODE[MarketState.SESSION])
    return painter.cells


def expected_breaks(mic: str, sessions: dict[date, Known]) -> Grid:
    painter = Painter(mic)
    for known in sessions.values():
        for start, end in known.breaks:
            painter.paint(start, end, 1)
    return painter.cells


def found_states(mic: str) -> Grid:
    painter = Painter(mic)
    at, state = painter.start, get_market_state(mic, painter.start)
    while at < painter.end:
        following = get_next_state_transition(mic, at)
        assert get_market_state(mic, following.at - MINUTE) is state
        assert get_market_state(mic, following.at) is following.state is not state
        painter.paint(at, min(following.at, painter.end), CODE[state])
        at, state = following
    return painter.cells


def found_breaks(mic: str) -> Grid:
    calendar, painter = TradingCalendar(mic), Painter(mic)
    for day in calendar.trading_days(FIRST, LAST):
        for start, end in calendar.session(day).breaks:
            painter.paint(start, end, 1)
    return painter.cells


def local_dates(mic: str, minutes: NDArray[np.intp]) -> set[date]:
    """The exchange's own dates on which these cells of its grid lie."""
    start, zone = bounds(mic)[0], load_exchange(mic).zone
    return {(start + int(minute) * MINUTE).astimezone(zone).date() for minute in minutes}


@pytest.mark.parametrize("mic", MICS)
def test_every_minute_has_the_state_of_the_oracles_sessions_as_corrected(mic: str) -> None:
    found, expected = found_states(mic), expected_states(mic, corrected(mic))
    assert len(found) >= 6_311_460
    different = np.flatnonzero(found != expected)
    assert different.size == 0, sorted(local_dates(mic, different))


@pytest.mark.parametrize("mic", MICS)
def test_every_minute_is_in_a_break_when_the_oracle_says_so(mic: str) -> None:
    different = np.flatnonzero(found_breaks(mic) != expected_breaks(mic, corrected(mic)))
    assert different.size == 0, sorted(local_dates(mic, different))


@pytest.mark.parametrize("mic", MICS)
def test_without_the_corrections_only_their_days_differ(mic: str) -> None:
    """Every listed correction is needed, and there is no other difference."""
    sessions = oracle()[mic]
    states = np.flatnonzero(found_states(mic) != expected_states(mic, sessions))
    breaks = np.flatnonzero(found_breaks(mic) != expected_breaks(mic, sessions))
    listed = {day for of_mic, day in listed_corrections() if of_mic == mic}
    assert local_dates(mic, states) | local_dates(mic, breaks) == listed


def test_the_corrections_of_these_years_are_five_days_of_hong_kong_weather() -> None:
    assert sorted(listed_corrections()) == [
        ("XHKG", date(2020, 8, 19)),
        ("XHKG", date(2021, 6, 28)),
        ("XHKG", date(2023, 9, 1)),
        ("XHKG", date(2023, 9, 8)),
        ("XHKG", date(2023, 10, 9)),
    ]
    for entry in listed_corrections().values():
        assert entry["source"]
        assert entry["url"].startswith("https://")


@pytest.mark.parametrize("mic", MICS)
def test_every_minute_asked_for_itself_has_the_same_state(mic: str) -> None:
    expected = expected_states(mic, corrected(mic))
    minutes = accumulate(repeat(MINUTE, len(expected) - 1), operator.add, initial=bounds(mic)[0])
    found = bytes(map(CODE.__getitem__, map(get_market_state, repeat(mic), minutes)))
    different = np.flatnonzero(np.frombuffer(found, dtype=np.int8) != expected)
    assert different.size == 0, sorted(local_dates(mic, different))
