"""The tool that builds the snapshot, as far as it goes without exchange_calendars."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from importlib.resources import files as resource
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prometheus.core.exchanges import exchange_mics, load_exchange, parse_exchange
from tools.build_sessions import (
    BuildError,
    Hours,
    Schedule,
    apply_corrections,
    changes,
    check_entries,
    cross_check,
    dump,
    encode,
    main,
    name_eves,
    rename,
    tell_differences,
    tidy,
)

MONDAY = date(2024, 3, 4)
USUAL = Hours("09:00", "15:00", ("11:30-12:30",))
HORIZON = {
    "mics": ["XXXX"],
    "last": date(2024, 3, 31),
    "source": "somebody",
    "checked": date(2026, 11, 23),
}
REST = {"reason": "because", "source": "somebody", "checked": date(2026, 11, 23)}


def schedule(sessions: dict[date, Hours] | None = None, **changes: Any) -> Schedule:
    """Four weeks of an exchange that trades Monday to Friday."""
    if sessions is None:
        days = (MONDAY + timedelta(days=offset) for offset in range(28))
        sessions = {day: USUAL for day in days if day.weekday() < 5}
    given_values: dict[str, Any] = {
        "mic": "XXXX",
        "zone": "Asia/Tokyo",
        "first": MONDAY,
        "last": MONDAY + timedelta(days=27),
        "horizon_source": "invented",
        "sessions": sessions,
        "boundaries": {MONDAY},
        "weekmasks": [(MONDAY, "1111100")],
    }
    return Schedule(**(given_values | changes))


def correct(subject: Schedule, kind: str, **entry: Any) -> list[str]:
    return apply_corrections(subject, {kind: [{"mic": "XXXX"} | REST | entry]})


# --- corrections ------------------------------------------------------------------------------


def test_a_closure_removes_the_session_and_names_the_day() -> None:
    subject = schedule()
    assert correct(subject, "day", dates=[MONDAY], closed=True, reason="Storm") == []
    assert MONDAY not in subject.sessions
    assert encode(subject, subject.reasons)["closures"] == [
        {"reason": "Storm", "dates": "2024-03-04"}
    ]


def test_a_late_open_drops_the_break_that_has_passed() -> None:
    subject = schedule()
    correct(subject, "day", dates=[MONDAY], open="13:30")
    assert subject.sessions[MONDAY] == Hours("13:30", "15:00")


def test_a_missing_session_is_added_with_the_hours_of_the_one_before() -> None:
    subject = schedule()
    tuesday = MONDAY + timedelta(days=1)
    del subject.sessions[tuesday]
    correct(subject, "day", dates=[tuesday], session=True)
    assert subject.sessions[tuesday] == USUAL
    assert list(subject.sessions) == sorted(subject.sessions)


def test_hours_change_only_where_they_were_what_the_entry_says() -> None:
    subject = schedule()
    subject.sessions[MONDAY] = half_day = Hours("09:00", "11:00")
    until = MONDAY + timedelta(days=6)
    correct(subject, "hours", until=until, was={"breaks": "11:30-12:30"}, breaks="11:00-12:30")
    assert subject.sessions[MONDAY] == half_day
    assert subject.sessions[MONDAY + timedelta(days=4)].breaks == ("11:00-12:30",)
    assert subject.sessions[MONDAY + timedelta(days=7)] == USUAL


def test_hours_of_some_days_of_the_week_leave_the_others_alone() -> None:
    subject = schedule()
    correct(subject, "hours", days="0000100", was={"close": "15:00"}, breaks="11:30-14:00")
    friday = MONDAY + timedelta(days=4)
    assert subject.sessions[friday] == Hours("09:00", "15:00", ("11:30-14:00",))
    assert subject.sessions[friday - timedelta(days=1)] == USUAL


def test_an_entry_the_library_has_caught_up_with_is_reported() -> None:
    assert correct(schedule(), "day", dates=[MONDAY], open="09:00") == [
        "XXXX: changes nothing any more: because"
    ]


@pytest.mark.parametrize("missing", ["reason", "source", "checked"])
def test_an_entry_without_reason_source_or_date_is_refused(missing: str) -> None:
    entry = {"mic": "XXXX", "dates": [MONDAY], "closed": True} | REST
    del entry[missing]
    with pytest.raises(BuildError, match=rf"\[\[day\]\] without {missing}"):
        check_entries(["XXXX"], {"horizon": [HORIZON], "day": [entry]})


def test_every_faulty_entry_is_named_at_once() -> None:
    corrections = {
        "horizon": [HORIZON, HORIZON | {"mics": ["XXXX"]}],
        "hours": [{"mic": "XXXZ"} | REST],
        "difference": [{"mic": "XXXX", "dates": [MONDAY], "source": "somebody"}],
    }
    with pytest.raises(BuildError) as caught:
        check_entries(["XXXX", "YYYY"], corrections)
    faults = str(caught.value).splitlines()[1:]
    assert [fault.strip().partition(":")[0] for fault in faults] == [
        "YYYY has no [[horizon]]",
        "XXXX has 2 horizons",
        "[[hours]] of an unknown exchange",
        "[[difference]] without why, checked",
    ]


@pytest.mark.parametrize(
    ("day", "message"),
    [(date(2023, 1, 2), "outside"), (MONDAY + timedelta(days=5), "no session to correct")],
)
def test_an_entry_for_a_day_it_cannot_apply_to_is_refused(day: date, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        correct(schedule(), "day", dates=[day], open="10:00")


def test_entries_of_other_exchanges_are_left_alone() -> None:
    subject = schedule()
    apply_corrections(subject, {"day": [{"mic": "XNYS", "dates": [MONDAY], "closed": True} | REST]})
    assert MONDAY in subject.sessions


# --- the second opinion -----------------------------------------------------------------------


def new_york(change: Callable[[dict[date, Hours]], Any] = lambda _: None) -> Schedule:
    """NYSE in 2024 as shipped, with a change."""
    shipped = load_exchange("XNYS")
    sessions = {}
    for offset in range(366):
        day = date(2024, 1, 1) + timedelta(days=offset)
        if shipped.is_session(day):
            opens, closes = (at.astimezone(shipped.zone) for at in shipped.bounds(day))
            sessions[day] = Hours(f"{opens:%H:%M}", f"{closes:%H:%M}")
    change(sessions)
    first, last = date(2024, 1, 1), date(2024, 12, 31)
    return schedule(
        sessions,
        mic="XNYS",
        first=first,
        last=last,
        boundaries={first},
        weekmasks=[(first, "1111100")],
    )


def test_a_year_both_agree_on_has_no_faults() -> None:
    assert cross_check(new_york(), {}) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            lambda sessions: sessions.pop(date(2024, 3, 6)),
            "XNYS 2024-03-06: the snapshot says closed, holidays a session",
        ),
        (
            lambda sessions: sessions.update({date(2024, 7, 4): Hours("09:30", "16:00")}),
            "XNYS 2024-07-04: the snapshot says a session, holidays closed (Independence Day)",
        ),
        (
            lambda sessions: sessions.update({date(2024, 7, 3): Hours("09:30", "16:00")}),
            (
                "XNYS 2024-07-03: the snapshot says an ordinary day, "
                "holidays Day before Independence Day (markets close at 1:00pm)"
            ),
        ),
    ],
)
def test_an_unexplained_disagreement_is_a_fault(
    change: Callable[[dict[date, Hours]], Any], fault: str
) -> None:
    assert cross_check(new_york(change), {}) == [fault]


def test_an_explained_disagreement_is_none() -> None:
    explained = {"difference": [{"mic": "XNYS", "dates": [date(2024, 3, 6)]}]}
    assert cross_check(new_york(lambda s: s.pop(date(2024, 3, 6))), explained) == []


@pytest.mark.parametrize("kind", ["difference", "undecided"])
def test_an_entry_about_nothing_is_a_fault(kind: str) -> None:
    about = {kind: [{"mic": "XNYS", "dates": [date(2024, 3, 6)]}]}
    assert cross_check(new_york(lambda s: s.pop(date(2024, 3, 6))), about) == []
    assert cross_check(new_york(), about) == [f"XNYS 2024-03-06: the [[{kind}]] is none"]


def test_days_that_nobody_has_decided_are_told_apart_from_explained_ones() -> None:
    corrections = {
        "difference": [{"dates": [MONDAY, MONDAY + timedelta(days=1)], "why": "it said so"}],
        "undecided": [
            {
                "mic": "XXXX",
                "dates": [MONDAY, date(2009, 4, 30)],
                "why": "no list was read",
                "sought": "the exchange's notices",
                "checked": date(2026, 11, 27),
            },
            {"mic": "XYYY", "dates": [date(2015, 12, 31)], "why": "no list was read"},
        ],
    }
    assert tell_differences(corrections, date(2026, 11, 27)) == [
        "holidays is not followed on 2 days, each explained in corrections.toml",
        "undecided, and explained by nobody: 3 days more, 1 of them since 2016-01-01 or to come",
        "  XXXX 2024-03-04 Mon: no list was read; sought on 2026-11-27: the exchange's notices",
    ]
    del corrections["undecided"]
    assert tell_differences(corrections, date(2026, 11, 27))[1:] == [
        "undecided, and explained by nobody: 0 days more, none of them since 2016-01-01 or to come"
    ]


def test_a_recent_day_stays_undecided_only_where_it_is_said_what_was_looked_through() -> None:
    entry: dict[str, Any] = {"mic": "XXXX", "dates": [date(2015, 12, 31)], "why": "no list"} | REST
    corrections = {"horizon": [HORIZON], "undecided": [entry]}
    check_entries(["XXXX"], corrections)
    entry["dates"].append(date(2016, 1, 4))
    with pytest.raises(BuildError, match=r"\[\[undecided\]\] without sought: "):
        check_entries(["XXXX"], corrections)
    entry["sought"] = "the exchange's notices of that week"
    check_entries(["XXXX"], corrections)


def test_what_is_shipped_leaves_no_recent_day_undecided_without_saying_so() -> None:
    text = (resource("prometheus.core") / "data" / "corrections.toml").read_text(encoding="utf-8")
    corrections = tomllib.loads(text)
    check_entries(exchange_mics(), corrections)
    days = [day for entry in corrections["undecided"] for day in entry["dates"]]
    assert (len(days), max(days)) == (126, date(2015, 12, 31))


# --- the file ---------------------------------------------------------------------------------

CLOCKS = ("08:30", "09:00", "09:30", "12:00", "15:00", "15:30")
hours = st.builds(
    Hours,
    st.sampled_from(("09:00", "08:30", "17:00-1d")),
    st.sampled_from(("15:00", "15:30", "11:00", "00:00+1d")),
    st.sampled_from(((), ("11:30-12:30",), ("09:30-10:00", "10:15-10:30"))),
)


def at(text: str, day: date, zone: ZoneInfo) -> datetime:
    clock, _, shift = text.replace("-1d", "|-1").replace("+1d", "|1").partition("|")
    day += timedelta(days=int(shift or 0))
    return datetime.combine(day, time.fromisoformat(clock), zone).astimezone(UTC)


@given(
    sessions=st.dictionaries(
        st.integers(0, 27).map(lambda offset: MONDAY + timedelta(days=offset)), hours, min_size=1
    ),
    boundary=st.integers(1, 27),
)
def test_what_is_written_is_read_again(sessions: dict[date, Hours], boundary: int) -> None:
    """Whatever the sessions, from ordinary hours and exceptions the same ones come back."""
    subject = schedule(
        dict(sorted(sessions.items())), boundaries={MONDAY, MONDAY + timedelta(days=boundary)}
    )
    exchange = parse_exchange(json.loads(dump(encode(subject, {}))))
    zone = ZoneInfo(subject.zone)
    for offset in range(28):
        day = MONDAY + timedelta(days=offset)
        assert exchange.is_session(day) == (day in sessions)
        if day not in sessions:
            continue
        expected, session = sessions[day], exchange.session(day)
        opens, closes = at(expected.open, day, zone), at(expected.close, day, zone)
        assert (session.open, session.close) == (opens, closes)
        breaks = [tuple(at(edge, day, zone) for edge in b.split("-")) for b in expected.breaks]
        # A break that does not lie inside its session is none.
        assert list(session.breaks) == [b for b in breaks if opens < b[0] and b[1] < closes]


def test_an_early_close_without_a_name_is_named_by_the_closed_day_that_follows() -> None:
    subject = schedule()
    day = [MONDAY + timedelta(days=offset) for offset in range(28)]
    for offset in (1, 7, 8, 15, 22):
        del subject.sessions[day[offset]]
    # Before a closed day, over a weekend before one, and before one that nobody names.
    for offset in (0, 4, 14):
        subject.sessions[day[offset]] = Hours("09:00", "12:00")
    subject.sessions[day[21]] = Hours("10:00", "15:00")  # a late open is none
    named = {day[1]: "Storm", day[5]: "Saturday's fair", day[8]: "Feast", day[22]: "Election"}
    assert name_eves(subject, named) == {day[0]: "Before Storm", day[4]: "Before Feast"}
    assert name_eves(subject, named | {day[4]: "Eve"}) == {day[0]: "Before Storm"}


def test_names_that_read_badly_are_rewritten_and_an_entry_for_none_is_refused() -> None:
    entry = REST | {"mic": "XXXX", "instead": {"Quarta Cinzas": "Ash Wednesday"}}
    tuesday = MONDAY + timedelta(days=1)
    named = {MONDAY: "Carnival", tuesday: "Quarta Cinzas"}
    assert rename(named, entry) == {MONDAY: "Carnival", tuesday: "Ash Wednesday"}
    with pytest.raises(BuildError, match=r"XXXX: .* no day is called Quarta Cinzas"):
        rename({MONDAY: "Carnival"}, entry)


def test_a_city_is_written_only_where_the_zone_is_named_for_another() -> None:
    assert "city" not in encode(schedule(), {})
    assert parse_exchange(json.loads(dump(encode(schedule(), {})))).city == "Tokyo"
    osaka = parse_exchange(json.loads(dump(encode(schedule(city="Osaka"), {}))))
    assert (osaka.city, osaka.zone) == ("Osaka", ZoneInfo("Asia/Tokyo"))


def test_the_same_schedule_gives_the_same_bytes_in_any_order() -> None:
    forwards = schedule()
    backwards = schedule(dict(reversed(forwards.sessions.items())))
    assert dump(encode(forwards, {})) == dump(encode(backwards, {}))


# --- what changed -----------------------------------------------------------------------------


def files(**exchanges: Schedule) -> dict[str, bytes]:
    return {f"{mic}.json": dump(encode(each, {})) for mic, each in exchanges.items()}


def test_changed_sessions_are_told_those_of_the_next_400_days_first() -> None:
    tuesday, thursday = MONDAY + timedelta(days=1), MONDAY + timedelta(days=3)
    friday = MONDAY + timedelta(days=4)
    before, after = schedule(), schedule()
    before.sessions[thursday] = Hours("09:00", "15:00")
    del after.sessions[MONDAY]
    after.sessions[tuesday] = Hours("09:00", "11:00")
    after.sessions[thursday] = Hours("10:00", "15:00")
    after.sessions[friday] = Hours("21:00-1d", "02:00+1d", ("11:30-12:30",))
    assert changes(files(XXXX=before), files(XXXX=after), today=tuesday) == [
        "in the 400 days from 2024-03-05:",
        "  XXXX 2024-03-05 Tue: 09:00-11:00; was 09:00-15:00 without 11:30-12:30",
        "  XXXX 2024-03-07 Thu: 10:00-15:00; was 09:00-15:00",
        (
            "  XXXX 2024-03-08 Fri: 21:00-1d-02:00+1d without 11:30-12:30; "
            "was 09:00-15:00 without 11:30-12:30"
        ),
        "on other dates:",
        "  XXXX 2024-03-04 Mon: closed; was 09:00-15:00 without 11:30-12:30",
    ]


def test_exchanges_that_come_go_or_are_known_further_are_told() -> None:
    longer = schedule(last=MONDAY + timedelta(days=28))
    before = files(GONE=schedule(), KEPT=schedule(), SAME=schedule())
    after = files(KEPT=longer, SAME=schedule(), XNEW=schedule())
    assert changes(before, after, today=MONDAY) == [
        "  GONE: gone",
        "  KEPT: known 2024-03-04 to 2024-04-01, was 2024-03-04 to 2024-03-31",
        "  XNEW: new",
    ]


def test_a_new_name_of_a_closed_day_is_no_change() -> None:
    subject = schedule()
    del subject.sessions[MONDAY]
    before, after = (
        {"XXXX.json": dump(encode(subject, {MONDAY: name}))} for name in ("Storm", "Typhoon")
    )
    assert before != after
    assert changes(before, after, today=MONDAY) == []


@pytest.mark.parametrize(
    ("name", "tidied"),
    [
        ("Day off (substituted from 01/04/2026)", "Day off (substituted from 2026-01-04)"),
        ("Christmas Eve (markets close at 1:00pm)", "Christmas Eve"),
        ("Bridge day 24/7", "Bridge day 24/7"),
        ("Eid al-Fitr (from 1pm)", "Eid al-Fitr"),
        ("Malvinas Day (2005-present)", "Malvinas Day"),
        ("National Flag Day (up to 2010)", "National Flag Day"),
        ("Chuseok (Korean Thanksgiving Day) (-1 day)", "Chuseok (Korean Thanksgiving Day)"),
        ("Eid al-Fitr (estimated)", "Eid al-Fitr (estimated)"),
    ],
)
def test_names_have_no_american_dates_no_times_and_no_rules(name: str, tidied: str) -> None:
    assert tidy(name) == tidied


def test_a_day_on_which_futures_close_with_new_york_has_its_name() -> None:
    found = [load_exchange(mic).closures[date(2025, 1, 9)] for mic in ("CMES", "IEPA", "XCBF")]
    assert found == [load_exchange("XNYS").closures[date(2025, 1, 9)]] * 3


def test_no_shipped_name_has_an_american_date() -> None:
    for mic in exchange_mics():
        exchange = load_exchange(mic)
        names = {*exchange.closures.values(), *exchange.extra_sessions.values()}
        names |= {special.reason for special in exchange.special_hours.values()}
        assert [name for name in names if re.search(r"\d\d/\d\d/\d{4}", name)] == []


def test_a_shipped_name_is_of_one_day_and_in_english() -> None:
    of_days = {
        ("BVMF", date(2026, 2, 18)): "Ash Wednesday",
        ("BVMF", date(2015, 12, 24)): "Christmas Eve",
        ("BVMF", date(2017, 12, 29)): "Last Business Day of the Year",
        ("XSES", date(2026, 2, 16)): "Chinese New Year's Eve",
        ("XSES", date(2026, 12, 31)): "New Year's Eve",
        ("XSES", date(2009, 12, 24)): "Christmas Eve",
        ("XJSE", date(2017, 12, 29)): "Last session before New Year",
        ("XSGO", date(2026, 10, 12)): "Meeting of Two Worlds' Day",
    }
    for (mic, day), name in of_days.items():
        exchange = load_exchange(mic)
        special = exchange.special_hours.get(day)
        assert (special.reason if special else exchange.closures[day]) == name
    for mic in exchange_mics():
        exchange = load_exchange(mic)
        reasons = {special.reason for special in exchange.special_hours.values()}
        assert [name for name in reasons if " or " in name] == []


def test_without_its_libraries_the_tool_says_what_to_install(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They have an environment of their own, which is not this one."""
    assert main(["--check"]) == 1
    assert "pip install exchange_calendars holidays tzdata 'pandas<3.1'" in capsys.readouterr().err
