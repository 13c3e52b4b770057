"""The snapshot as it is shipped and read."""

from __future__ import annotations

import hashlib
import json
import shutil
from datetime import UTC, date, datetime, time, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from prometheus.core.exchanges import (
    LocalTime,
    exchange_mics,
    load_exchange,
    parse_exchange,
    snapshot_version,
)
from prometheus.errors import SnapshotError, UnknownMarketError

SNAPSHOT = files("prometheus.core") / "data" / "sessions"
TODAY = date(2026, 11, 23)


def document(**changes: Any) -> dict[str, Any]:
    """An exchange of the kind that the shipped six are not: overnight, weekends, moved weeks."""
    return {
        "format": 1,
        "mic": "XXXX",
        "zone": "America/Chicago",
        "first": "2024-01-01",
        "last": "2024-12-31",
        "horizon_source": "invented",
        "weeks": [
            {"from": "2024-01-01", "days": "1111001"},
            {"from": "2024-07-01", "days": "1111100"},
        ],
        "hours": [
            {
                "from": "2024-01-01",
                "open": "17:00-1d",
                "close": "16:00",
                "breaks": "20:00-1d-20:30-1d",
            },
            {"from": "2024-07-01", "open": "17:00-1d", "close": "17:00", "breaks": ""},
        ],
        "closures": [{"reason": "Founders", "dates": "2024-02-05 2024-02-06"}],
        "extra_sessions": [{"reason": "Festival", "dates": "2024-11-02"}],
        "special_hours": [
            {"reason": "Eve", "close": "12:00", "dates": "2024-02-07"},
            {
                "reason": "Drill",
                "open": "09:00",
                "breaks": "10:00-10:30 11:00-11:15",
                "dates": "2024-02-08",
            },
        ],
        **changes,
    }


FIRST_SIX = ("XNYS", "XNAS", "XLON", "XPAR", "XTKS", "XHKG")
YEAR_BY_YEAR = {
    *("AIXK", "ASEX", "XBKK", "XBOM", "XBUE", "XIDX", "XKAR", "XKLS", "XMOS", "XPHS", "XSES"),
    *("XSHG", "XTAI"),
}
"""Exchanges whose sessions nobody can know further than to the end of this year."""


def test_every_exchange_is_shipped() -> None:
    """All 71 of exchange_calendars, and XNAS."""
    assert len(exchange_mics()) == 72
    assert {*FIRST_SIX, *YEAR_BY_YEAR, "24x7", "24x5", "us_futures"} < set(exchange_mics())
    assert list(exchange_mics()) == sorted(exchange_mics())


def test_the_snapshot_takes_less_than_a_megabyte() -> None:
    assert sum(len(path.read_bytes()) for path in SNAPSHOT.iterdir()) < 1_000_000


def test_version_names_its_sources_and_the_digest_of_the_files() -> None:
    """A file edited by hand, or forgotten in a commit, would carry the version of another."""
    content = b"".join((SNAPSHOT / f"{mic}.json").read_bytes() for mic in sorted(exchange_mics()))
    sources = json.loads((SNAPSHOT / "snapshot.json").read_text())["sources"]
    digest = hashlib.sha256(content).hexdigest()[:10]
    assert snapshot_version() == (
        f"xc{sources['exchange_calendars']}-tz{sources['tzdata']}-{digest}"
    )


def test_sessions_are_known_as_far_as_can_be_with_a_source() -> None:
    for exchange in map(load_exchange, exchange_mics()):
        assert exchange.horizon_source
        by_year = exchange.mic in YEAR_BY_YEAR
        assert (exchange.last == date(2026, 12, 31)) == by_year, exchange.mic
        assert by_year or exchange.last >= TODAY + timedelta(days=365)


def test_sessions_reach_back_to_1990_or_to_where_the_source_begins() -> None:
    later = {"AIXK": 2017, "XBOM": 1997, "XSAU": 2021, "XTKS": 1997}
    for exchange in map(load_exchange, exchange_mics()):
        if exchange.mic == "XSHG":
            assert exchange.first == date(1990, 12, 3)
        else:
            assert exchange.first == date(later.get(exchange.mic, 1990), 1, 1)


def test_every_day_of_every_exchange_is_closed_for_a_reason_or_a_session_in_order() -> None:
    """Sessions of an exchange neither overlap nor stand still, and each closed day says why."""
    for exchange in map(load_exchange, exchange_mics()):
        day, closed_until = date(2024, 1, 1), None
        while day <= exchange.last:
            if exchange.is_session(day):
                session = exchange.session(day)
                edges = [session.open, *(e for pause in session.breaks for e in pause)]
                edges.append(session.close)
                assert edges == sorted(set(edges)), (exchange.mic, day)
                assert closed_until is None or closed_until <= session.open, (exchange.mic, day)
                closed_until = session.close
            else:
                assert exchange.reason(day), (exchange.mic, day)
            day += timedelta(days=1)


def test_an_unknown_mic_names_the_nearest() -> None:
    with pytest.raises(UnknownMarketError, match="Did you mean 'XNYS'"):
        load_exchange("XNYC")


def test_an_exchange_is_read_once() -> None:
    assert load_exchange("XNYS") is load_exchange("XNYS")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("09:30", LocalTime(time(9, 30))),
        ("16:59:30", LocalTime(time(16, 59, 30))),
        ("17:00-1d", LocalTime(time(17), -1)),
        ("00:00+1d", LocalTime(time(0), 1)),
    ],
)
def test_local_times_may_fall_on_the_day_before_or_after(text: str, expected: LocalTime) -> None:
    assert LocalTime.parse(text) == expected


@pytest.mark.parametrize("text", ["9:30", "25:00", "09:30-1", "", "noon"])
def test_a_malformed_local_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"local time|hour must be"):
        LocalTime.parse(text)


def test_a_session_may_open_on_the_calendar_day_before_its_date() -> None:
    session = parse_exchange(document()).session(date(2024, 1, 8))
    assert session.open == datetime(2024, 1, 7, 23, 0, tzinfo=UTC)
    assert session.close == datetime(2024, 1, 8, 22, 0, tzinfo=UTC)
    assert session.breaks == (
        (datetime(2024, 1, 8, 2, 0, tzinfo=UTC), datetime(2024, 1, 8, 2, 30, tzinfo=UTC)),
    )


def test_the_trading_week_changes_on_its_effective_date() -> None:
    exchange = parse_exchange(document())
    sunday, friday = date(2024, 6, 30), date(2024, 6, 28)
    assert exchange.is_session(sunday)
    assert exchange.reason(friday) == "weekend"
    assert exchange.reason(date(2024, 7, 7)) == "weekend"
    assert exchange.is_session(date(2024, 7, 5))


def test_ordinary_hours_change_on_their_effective_date() -> None:
    exchange = parse_exchange(document())
    assert exchange.bounds(date(2024, 6, 30))[1] == datetime(2024, 6, 30, 21, 0, tzinfo=UTC)
    assert exchange.bounds(date(2024, 7, 1))[1] == datetime(2024, 7, 1, 22, 0, tzinfo=UTC)


def test_a_day_of_the_week_may_have_ordinary_hours_of_its_own() -> None:
    hours = [
        {"from": "2024-01-01", "open": "10:00", "close": "17:00", "breaks": ""},
        {"from": "2024-02-01", "days": "0000100", "open": "10:00", "close": "14:00", "breaks": ""},
        {"from": "2024-07-01", "days": "0000100", "open": "10:00", "close": "13:00", "breaks": ""},
    ]
    exchange = parse_exchange(document(hours=hours, zone="UTC", special_hours=[]))
    fridays = (date(2024, 1, 26), date(2024, 2, 2), date(2024, 7, 5))
    assert [exchange.bounds(friday)[1].hour for friday in fridays] == [17, 14, 13]
    assert exchange.bounds(date(2024, 7, 4))[1].hour == 17
    assert not exchange.session(date(2024, 7, 5)).early_close


def test_tel_aviv_closes_early_on_fridays_and_on_no_other_ordinary_day() -> None:
    exchange = load_exchange("XTAE")
    friday, thursday = (exchange.session(date(2026, 11, day)) for day in (20, 19))
    assert f"{friday.close.astimezone(exchange.zone):%H:%M}" == "13:50"
    assert f"{thursday.close.astimezone(exchange.zone):%H:%M}" == "17:15"
    assert (friday.early_close, thursday.early_close) == (False, False)


@pytest.mark.parametrize(
    ("zone", "before", "after", "shift"),
    [
        ("Australia/Lord_Howe", date(2024, 4, 5), date(2024, 4, 8), timedelta(minutes=-30)),
        ("Australia/Lord_Howe", date(2024, 10, 4), date(2024, 10, 7), timedelta(minutes=30)),
        ("America/Sao_Paulo", date(2018, 11, 2), date(2018, 11, 5), timedelta(hours=1)),
        ("America/Sao_Paulo", date(2019, 2, 15), date(2019, 2, 18), timedelta(hours=-1)),
    ],
)
def test_hours_stay_on_clocks_that_change_by_half_an_hour_or_at_midnight(
    zone: str, before: date, after: date, shift: timedelta
) -> None:
    hours = [{"from": "2018-01-01", "open": "10:00", "close": "16:00", "breaks": ""}]
    exchange = parse_exchange(document(hours=hours, zone=zone))
    for earlier, later in zip(exchange.bounds(before), exchange.bounds(after), strict=True):
        assert later - earlier == timedelta(days=3) - shift


def test_a_damaged_file_is_named_with_its_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(str(SNAPSHOT), tmp_path / "sessions")
    (tmp_path / "sessions" / "XPAR.json").write_text("{")
    monkeypatch.setattr("prometheus.core.exchanges._DATA", tmp_path / "sessions")
    load_exchange.cache_clear()
    try:
        with pytest.raises(SnapshotError, match=r"sessions of XPAR .* other exchanges"):
            load_exchange("XPAR")
        assert load_exchange("XLON").mic == "XLON"
    finally:
        load_exchange.cache_clear()


@pytest.mark.parametrize(
    "changes",
    [
        {"weeks": []},
        {"weeks": [{"from": "1990-01-01", "days": "11111"}]},
        {"weeks": 5},
        {"hours": []},
        {"hours": [5]},
        {"closures": [{"reason": "x", "dates": 5}]},
        {"closures": {"reason": "x"}},
        {"special_hours": None},
        {"zone": "Mars/Phobos"},
        {"first": 19900101},
    ],
)
def test_a_file_that_is_json_but_no_exchange_is_named_too(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {**json.loads((SNAPSHOT / "XPAR.json").read_text()), **changes}
    (tmp_path / "XPAR.json").write_text(json.dumps(found))
    monkeypatch.setattr("prometheus.core.exchanges._DATA", tmp_path)
    load_exchange.cache_clear()
    try:
        with pytest.raises(SnapshotError, match=r"sessions of XPAR .* other exchanges"):
            load_exchange("XPAR")
    finally:
        load_exchange.cache_clear()


def test_a_closure_has_its_reason_and_an_extra_session_its_own() -> None:
    exchange = parse_exchange(document())
    assert exchange.reason(date(2024, 2, 5)) == "Founders"
    assert exchange.reason(date(2024, 11, 2)) is None
    assert exchange.session(date(2024, 11, 2)).reason == "Festival"


def test_special_hours_replace_only_what_they_name() -> None:
    exchange = parse_exchange(document())
    eve = exchange.session(date(2024, 2, 7))
    assert (eve.early_close, eve.late_open, eve.reason) == (True, False, "Eve")
    assert eve.open == datetime(2024, 2, 6, 23, 0, tzinfo=UTC)
    assert eve.close == datetime(2024, 2, 7, 18, 0, tzinfo=UTC)
    assert len(eve.breaks) == 1

    drill = exchange.session(date(2024, 2, 8))
    assert (drill.early_close, drill.late_open) == (False, True)
    assert [start.hour for start, _ in drill.breaks] == [16, 17]


def test_a_session_without_time_for_the_break_has_none() -> None:
    exchange = load_exchange("XHKG")
    assert exchange.session(date(2026, 12, 24)).breaks == ()
    assert exchange.session(date(2023, 10, 9)).breaks == ()


def test_a_file_of_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="format 2, expected 1"):
        parse_exchange(document(format=2))


@pytest.mark.parametrize(
    ("zone", "day", "expected"),
    [
        # Clocks skipped midnight: the day began at what had been 00:00 in the old offset.
        ("America/Sao_Paulo", date(2018, 11, 4), datetime(2018, 11, 4, 3, 0, tzinfo=UTC)),
        ("Africa/Cairo", date(2026, 4, 24), datetime(2026, 4, 23, 22, 0, tzinfo=UTC)),
        # Midnight came twice: the day began with the first.
        ("America/Havana", date(2024, 11, 3), datetime(2024, 11, 3, 4, 0, tzinfo=UTC)),
        ("Asia/Tokyo", date(2024, 11, 3), datetime(2024, 11, 2, 15, 0, tzinfo=UTC)),
    ],
)
def test_a_local_date_begins_where_its_zone_says(zone: str, day: date, expected: datetime) -> None:
    exchange = parse_exchange(document(zone=zone))
    assert exchange.zone == ZoneInfo(zone)
    assert exchange.midnight(day) == expected
