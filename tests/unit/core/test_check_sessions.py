"""What the entries of ``corrections.toml`` make of somebody else's sessions."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tools.check_sessions import Known, corrected, main, ours

TOKYO = ZoneInfo("Asia/Tokyo")
FRIDAY, MONDAY = date(2024, 3, 1), date(2024, 3, 4)
SATURDAY = date(2024, 3, 2)
NONE: dict[str, Any] = {"hours": [], "day": []}


def known(day: date, opens: str, closes: str, *breaks: tuple[str, str]) -> Known:
    def at(text: str) -> int:
        hour, minute = map(int, text.split(":"))
        return int(datetime(day.year, day.month, day.day, hour, minute, tzinfo=TOKYO).timestamp())

    return Known(at(opens), at(closes), tuple((at(start), at(end)) for start, end in breaks))


LUNCH = ("11:30", "12:30")
THEIRS = {day: known(day, "09:00", "15:00", LUNCH) for day in (FRIDAY, MONDAY)}


def correct(kind: str, **entry: Any) -> dict[date, Known | None]:
    """Apply one entry, and return the sessions that are said to have changed."""
    whole = {"mic": "XXXX", "reason": "because", "source": "somebody"} | entry
    found, why = corrected(NONE | {kind: [whole]}, "XXXX", TOKYO, THEIRS)
    unsaid = [day for day in found.keys() | THEIRS.keys() if day not in why]
    assert all(found[day] == THEIRS[day] for day in unsaid)
    assert set(why.values()) <= {"because [somebody]"}
    return {day: found.get(day) for day in why}


def test_an_entry_changes_only_what_it_names() -> None:
    assert correct("hours", was={"open": "09:00"}, open="09:30") == {
        day: known(day, "09:30", "15:00", LUNCH) for day in (FRIDAY, MONDAY)
    }
    assert correct("hours", was={"breaks": "11:30-12:30"}, breaks="") == {
        day: known(day, "09:00", "15:00") for day in (FRIDAY, MONDAY)
    }


@pytest.mark.parametrize(
    "narrower",
    [
        {"from": MONDAY},
        {"days": "1111011"},
        {"until": FRIDAY, "days": "0000100", "was": {"close": "14:00"}},
        {"was": {"breaks": "11:30-13:00"}},
    ],
)
def test_an_entry_changes_no_session_it_is_not_for(narrower: dict[str, Any]) -> None:
    found = correct("hours", **{"was": {"close": "15:00"}, "close": "15:30"} | narrower)
    assert FRIDAY not in found
    assert correct("hours", was={"close": "15:00"}, close="15:30", mic="XYYY") == {}


def test_a_day_is_closed_shortened_or_added() -> None:
    assert correct("day", dates=[MONDAY], closed=True) == {MONDAY: None}
    # The break that a short day does not reach goes with it.
    assert correct("day", dates=[MONDAY], close="11:00") == {
        MONDAY: known(MONDAY, "09:00", "11:00")
    }
    assert correct("day", dates=[SATURDAY], session=True, close="14:00") == {
        SATURDAY: known(SATURDAY, "09:00", "14:00", LUNCH)
    }


def test_an_entry_that_changes_nothing_explains_nothing() -> None:
    assert correct("day", dates=[MONDAY], close="15:00") == {}
    assert correct("day", dates=[SATURDAY], closed=True) == {}


# --- the whole comparison, with what exchange_calendars might say of XWAR, which has no entry ---

WARSAW = ours("XWAR")
SESSION = date(2024, 3, 5)


def compare(monkeypatch: pytest.MonkeyPatch, theirs: dict[date, Known]) -> int:
    monkeypatch.setattr("tools.check_sessions.theirs", lambda _: theirs)
    return main(["XWAR", "--probes", "2000"])


def test_sessions_that_are_equal_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(monkeypatch, WARSAW) == 0
    said = capsys.readouterr().out
    assert f"{len(WARSAW):,} sessions, 2,000 random minutes: 0 unexplained differences" in said


@pytest.mark.parametrize(
    "session",
    [
        None,
        replace(WARSAW[SESSION], open=WARSAW[SESSION].open + 60),
        replace(WARSAW[SESSION], close=WARSAW[SESSION].close + 60),
        replace(WARSAW[SESSION], breaks=((WARSAW[SESSION].open + 60, WARSAW[SESSION].open + 120),)),
    ],
    ids=["none", "open", "close", "breaks"],
)
def test_one_session_that_differs_fails_the_comparison(
    session: Known | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = {day: known for day, known in WARSAW.items() if day != SESSION}
    if session is not None:
        theirs |= {SESSION: session}
    assert compare(monkeypatch, dict(sorted(theirs.items()))) == 1
    assert f"XWAR {SESSION}: {WARSAW[SESSION]}, expected {session}" in capsys.readouterr().err


def test_minutes_are_asked_for_beside_the_sessions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where all sessions are as expected, but another state is answered."""
    monkeypatch.setattr("tools.check_sessions.POST_CLOSE", 150 * 60)
    assert compare(monkeypatch, WARSAW) == 1
    assert "OVERNIGHT, expected POST_CLOSE" in capsys.readouterr().err
