"""Markets as TOML declares them: their sessions and states, and what is refused."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import UTC, date, datetime, time, timedelta
from itertools import combinations
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prometheus.core.declarations import Declaration, read_declarations
from prometheus.core.exchanges import LocalTime, load_exchange
from prometheus.core.market_state import (
    MarketState,
    describe_market,
    get_market_state,
    get_next_state_transition,
)
from prometheus.core.markets import declare, get_market, markets, shipped_markets
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import HorizonError, UnknownMarketError

HOLIDAY, OVERNIGHT, PRE_OPEN, SESSION, POST_CLOSE = (
    MarketState.HOLIDAY,
    MarketState.OVERNIGHT,
    MarketState.PRE_OPEN,
    MarketState.SESSION,
    MarketState.POST_CLOSE,
)
STRENGTH = [HOLIDAY, OVERNIGHT, POST_CLOSE, PRE_OPEN, SESSION]
MOMENT = timedelta(microseconds=1)
ONE_DAY = timedelta(days=1)
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
ZONES = (
    "America/New_York",
    "Europe/London",
    "Europe/Paris",
    "Australia/Sydney",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def read(tables: dict[str, Any]) -> tuple[tuple[Declaration, ...], list[str]]:
    return read_declarations(
        tables,
        where=lambda path: ".".join(map(str, path)),
        grounds="by the test",
        shipped=shipped_markets(),
    )


@contextmanager
def declared(tables: str | dict[str, Any]) -> Iterator[None]:
    """Let the process know markets for a while."""
    found, faults = read(tomllib.loads(tables) if isinstance(tables, str) else tables)
    assert faults == []
    before = declare(found)
    try:
        yield
    finally:
        declare(before)


# --- what is shipped --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("market", "at", "state", "session"),
    [
        # Sunday 17:00 to Friday 17:00 in New York, in winter and in summer.
        ("FX_GLOB", "2026-11-22T20:59", HOLIDAY, None),
        ("FX_GLOB", "2026-11-22T21:00", PRE_OPEN, "2026-11-23"),
        ("FX_GLOB", "2026-11-22T22:00", SESSION, "2026-11-23"),
        ("FX_GLOB", "2026-11-23T00:00", SESSION, "2026-11-23"),
        ("FX_GLOB", "2026-11-23T21:59", SESSION, "2026-11-23"),
        ("FX_GLOB", "2026-11-23T22:00", SESSION, "2026-11-24"),
        ("FX_GLOB", "2026-11-27T21:59", SESSION, "2026-11-27"),
        ("FX_GLOB", "2026-11-27T22:00", POST_CLOSE, "2026-11-27"),
        ("FX_GLOB", "2026-11-28T12:00", HOLIDAY, None),
        ("FX_GLOB", "2026-07-05T21:00", SESSION, "2026-07-06"),
        # An hour of maintenance at the CME from 16:00 in Chicago.
        ("US_FUT", "2026-11-23T21:59", SESSION, "2026-11-23"),
        ("US_FUT", "2026-11-23T22:00", POST_CLOSE, "2026-11-23"),
        ("US_FUT", "2026-11-23T22:45", PRE_OPEN, "2026-11-24"),
        ("US_FUT", "2026-11-23T23:00", SESSION, "2026-11-24"),
        # Thanksgiving's session ends at noon in Chicago, and Friday's opens as ever.
        ("US_FUT", "2026-11-26T17:59", SESSION, "2026-11-26"),
        ("US_FUT", "2026-11-26T18:00", POST_CLOSE, "2026-11-26"),
        ("US_FUT", "2026-11-26T23:00", SESSION, "2026-11-27"),
        ("US_FUT", "2026-12-25T15:00", HOLIDAY, None),
        ("CRYPTO", "2026-11-28T23:59", SESSION, "2026-11-28"),
        ("CRYPTO", "2026-11-29T00:00", SESSION, "2026-11-29"),
        ("JP_EQ", "2026-11-20T00:00", SESSION, "2026-11-20"),
        ("HK_EQ", "2026-11-20T00:00", OVERNIGHT, None),
        ("UK_EQ", "2026-11-20T08:00", SESSION, "2026-11-20"),
    ],
)
def test_shipped_markets(market: str, at: str, state: MarketState, session: str | None) -> None:
    """Read off the markets' own rules by hand; ``at`` is UTC."""
    status = describe_market(market, utc(at))
    assert (status.state, status.session_date) == (
        state,
        date.fromisoformat(session) if session else None,
    )


@given(
    market=st.sampled_from([market.market_id for market in markets()]),
    offset=st.integers(0, 2200),
)
def test_sessions_of_shipped_markets_follow_each_other(market: str, offset: int) -> None:
    calendar = TradingCalendar(market)
    day = calendar.next_trading_day(date(2021, 1, 1) + offset * ONE_DAY)
    session = calendar.session(day)
    following = calendar.session(calendar.next_trading_day(day))
    assert session.date == day
    assert session.open < session.close <= following.open
    last_moment = session.close - MOMENT
    assert any(
        last_moment.astimezone(load_exchange(mic).zone).date() == day for mic in calendar.members
    )


def test_always_open_is_cut_into_days_without_a_gap() -> None:
    calendar = TradingCalendar("CRYPTO")
    session = calendar.session(date(2026, 11, 28))
    assert (session.open, session.close) == (utc("2026-11-28T00:00"), utc("2026-11-29T00:00"))
    with pytest.raises(HorizonError):
        get_next_state_transition("CRYPTO", utc("2026-11-28T12:00"))


# --- hours of one's own -----------------------------------------------------------------------

EVENING = """
[NIGHT]
zone = "Europe/Paris"
pre_open = "08:00"
post_close = "00:30+1d"
holidays = [{ country = "FR" }, { market = "XPAR" }]
closed = { 2026-08-17 = "cleaning" }

[[NIGHT.hours]]
days = "Mon-Thu"
open = "09:00"
close = "22:00"
breaks = ["12:00-13:00", "18:00-18:15"]

[[NIGHT.hours]]
days = "Fri"
open = "09:00"
close = "20:00"

[[NIGHT.hours]]
from = 2026-07-01
days = "Mon-Fri"
open = "10:00"
close = "20:00"

[NIGHT.special]
2026-12-23 = { close = "14:00", reason = "Christmas party" }
2026-12-19 = { open = "10:00", close = "16:00", reason = "last Saturday" }
"""


def test_own_hours_by_weekday_and_date_with_buffers_by_the_clock() -> None:
    with declared(EVENING):
        calendar = TradingCalendar("NIGHT")
        monday = calendar.session(date(2026, 6, 15))
        assert (monday.open, monday.close) == (utc("2026-06-15T07:00"), utc("2026-06-15T20:00"))
        assert [(s.hour, e.hour) for s, e in monday.breaks] == [(10, 11), (16, 16)]
        assert calendar.session(date(2026, 6, 19)).close == utc("2026-06-19T18:00")
        assert calendar.session(date(2026, 7, 6)).close == utc("2026-07-06T18:00")
        assert calendar.session(date(2026, 7, 6)).breaks == ()
        phases = calendar.phases(date(2026, 6, 15))
        assert phases.pre_open_at == utc("2026-06-15T06:00")
        assert phases.post_close_ends_at == utc("2026-06-15T22:30")
        assert get_market_state("NIGHT", utc("2026-06-15T22:29")) is POST_CLOSE
        assert get_market_state("NIGHT", utc("2026-06-15T22:30")) is OVERNIGHT
        assert calendar.reason(date(2026, 7, 14)) == "National Day"
        assert calendar.reason(date(2026, 4, 3)) == "Good Friday"  # of the exchange alone
        assert calendar.reason(date(2026, 8, 17)) == "cleaning"
        short = calendar.session(date(2026, 12, 23))
        assert (short.close, short.early_close) == (utc("2026-12-23T13:00"), True)
        assert short.reason == "Christmas party"
        assert calendar.session(date(2026, 12, 19)).open == utc("2026-12-19T09:00")
        assert calendar.reason(date(2026, 12, 12)) == "weekend"


def test_days_off_by_rule_are_believed_for_a_while_only() -> None:
    with declared(EVENING):
        calendar = TradingCalendar("NIGHT")
        # holidays knows Paris' exchange from 2019 on, and says "open" without a word before.
        assert (calendar.first, calendar.horizon) == (date(2019, 1, 1), date(2027, 12, 31))
        assert calendar.horizon_source == (
            "by the test; closed days of FR by rule of holidays; "
            "closed days of XPAR by rule of holidays"
        )
        with pytest.raises(HorizonError):
            calendar.session(date(2028, 1, 3))
    with declared(EVENING.replace("pre_open", "last = 2030-06-28\npre_open")):
        assert TradingCalendar("NIGHT").horizon == date(2030, 6, 28)


def test_a_cut_in_the_afternoon_labels_a_session_with_the_day_it_ends() -> None:
    with declared('[COIN]\nzone = "America/New_York"\ncut = "17:00"\n'):
        session = TradingCalendar("COIN").session(date(2026, 11, 23))
        assert (session.open, session.close) == (utc("2026-11-22T22:00"), utc("2026-11-23T22:00"))
        phases = TradingCalendar("COIN").phases(date(2026, 11, 23))
        assert (phases.pre_open_at, phases.post_close_ends_at) == (session.open, session.close)
        # Clocks go back on the first of November.
        longer = TradingCalendar("COIN").session(date(2026, 11, 1))
        assert longer.close - longer.open == timedelta(hours=25)


def test_a_session_that_clocks_skip_lasts_no_time() -> None:
    """There is no 02:30 in New York on the morning on which it becomes 03:30."""
    hours = '{ days = "Sun", open = "02:30", close = "03:10" }'
    with declared(f'[EARLY]\nzone = "America/New_York"\nhours = {hours}\n'):
        skipped = TradingCalendar("EARLY").session(date(2026, 3, 8))
        assert skipped.open == skipped.close == utc("2026-03-08T07:30")
        assert get_market_state("EARLY", utc("2026-03-08T07:20")) is PRE_OPEN
        assert get_market_state("EARLY", utc("2026-03-08T07:30")) is POST_CLOSE


def test_a_market_of_any_exchanges_and_buffers_on_each_ones_clock() -> None:
    with declared('[PAIR]\nmembers = ["XLON", "XNYS"]\npre_open = "07:15"\npost_close = "20:00"\n'):
        phases = TradingCalendar("PAIR").phases(date(2026, 11, 27))  # a half day in New York
        assert phases.pre_open_at == utc("2026-11-27T07:15")
        assert phases.post_close_ends_at == utc("2026-11-28T01:00")
        assert get_market_state("PAIR", utc("2026-11-27T12:14")) is SESSION
        assert describe_market("PAIR", utc("2026-11-27T12:15")).members["XNYS"] is PRE_OPEN
        assert get_market_state("PAIR", utc("2026-11-28T00:59")) is POST_CLOSE
        assert get_market_state("PAIR", utc("2026-11-28T01:00")) is OVERNIGHT


def test_buffers_of_a_shipped_market_and_of_an_exchange_can_be_set() -> None:
    with declared('[US_EQ]\npre_open = "04:00"\n[XLON]\npost_close = "5m"\n'):
        assert get_market("US_EQ").members == ("XNYS", "XNAS")
        assert get_market_state("US_EQ", utc("2026-11-23T09:00")) is PRE_OPEN
        assert get_market("US_EQ").config.post_close == timedelta(hours=2)
        assert get_market_state("XLON", utc("2026-11-23T16:35")) is OVERNIGHT
    assert get_market_state("US_EQ", utc("2026-11-23T09:00")) is OVERNIGHT


def test_a_declaration_replaces_what_was_declared_before() -> None:
    hours = '[MINE]\nzone = "UTC"\nhours = {{ days = "Mon-Fri", open = "{}", close = "17:00" }}\n'
    at = utc("2026-11-23T09:00")
    with declared(hours.format("09:00")):
        assert get_market_state("MINE", at) is SESSION
        version = TradingCalendar("MINE").version
    with declared(hours.format("10:00")):
        assert get_market_state("MINE", at) is PRE_OPEN
        assert TradingCalendar("MINE").version != version
        assert TradingCalendar("XNYS").version == version.partition("+")[0]
    with pytest.raises(UnknownMarketError):
        get_market_state("MINE", at)
    with pytest.raises(UnknownMarketError):
        load_exchange("MINE")


# --- properties -------------------------------------------------------------------------------


@st.composite
def random_markets(draw: st.DrawFn) -> dict[str, Any]:
    """A market whose sessions never overlap, anywhere between noon and noon round its dates."""
    table: dict[str, Any] = {"zone": draw(st.sampled_from(ZONES))}
    minutes = st.integers(0, 24 * 60)
    if draw(st.booleans()):
        table["cut"] = _clock(draw(st.integers(0, 1439)))
    else:
        shift = draw(st.integers(-12 * 60, 12 * 60))
        table["hours"] = []
        for day in draw(st.lists(st.sampled_from(WEEKDAYS), min_size=1, unique=True)):
            four = sorted(draw(st.lists(minutes, min_size=4, max_size=4, unique=True)))
            opens, pause, resumes, closes = (_clock(shift + minute) for minute in four)
            table["hours"].append(
                {"days": day, "open": opens, "close": closes, "breaks": [f"{pause}-{resumes}"]}
            )
    before = "00:00-1d" if "cut" in table else "12:00-1d"
    for key, clock in (("pre_open", before), ("post_close", "12:00+1d")):
        length = f"{draw(st.integers(0, 1200))}m"
        table[key] = draw(st.sampled_from([length, clock]))
    return table


def _clock(minutes: int) -> str:
    days, minute = divmod(minutes, 1440)
    return f"{minute // 60:02}:{minute % 60:02}" + (f"{days:+}d" if days else "")


CHANGES = tuple(
    datetime.combine(day, time(12), UTC)
    for zone in map(ZoneInfo, ZONES)
    for day in (date(2016, 1, 1) + n * ONE_DAY for n in range(365 * 11))
    if datetime.combine(day, time(0), zone).utcoffset()
    != datetime.combine(day + ONE_DAY, time(0), zone).utcoffset()
)
"""Noon of every day on which clocks change in one of the zones."""

near_changes = st.tuples(st.sampled_from(CHANGES), st.integers(-3 * 86_400, 3 * 86_400)).map(
    lambda pair: pair[0] + timedelta(seconds=pair[1])
)


def plain(table: dict[str, Any], now: datetime) -> tuple[MarketState, set[date]]:
    """Read the declaration out loud: the state, and the dates of the sessions that make it so."""
    zone = ZoneInfo(table["zone"])

    def on(text: str, day: date) -> datetime:
        at = LocalTime.parse(text)
        local = datetime.combine(day + at.days * ONE_DAY, at.at, zone)
        return local.astimezone(UTC)

    of_day: dict[str, tuple[str, str]] = {}
    if "cut" in table:
        cut = table["cut"]
        bounds = ("00:00", "00:00+1d") if cut == "00:00" else (f"{cut}-1d", cut)
        of_day = dict.fromkeys(WEEKDAYS, bounds)
    for entry in table.get("hours", ()):
        of_day[entry["days"]] = (entry["open"], entry["close"])
    found = {HOLIDAY: set[date]()}
    if WEEKDAYS[now.astimezone(zone).weekday()] in of_day:
        found[OVERNIGHT] = set()
    for offset in range(-4, 5):
        day = now.date() + offset * ONE_DAY
        if WEEKDAYS[day.weekday()] not in of_day:
            continue
        opens, closes = (on(text, day) for text in of_day[WEEKDAYS[day.weekday()]])
        closes = max(opens, closes)
        pre, post = table["pre_open"], table["post_close"]
        begins = min(opens, on(pre, day)) if ":" in pre else opens - _minutes(pre)
        ends = max(closes, on(post, day)) if ":" in post else closes + _minutes(post)
        for state, start, end in (
            (PRE_OPEN, begins, opens),
            (SESSION, opens, closes),
            (POST_CLOSE, closes, ends),
        ):
            if start <= now < end:
                found.setdefault(state, set()).add(day)
    state = max(found, key=STRENGTH.index)
    return state, found[state]


def _minutes(text: str) -> timedelta:
    return timedelta(minutes=int(text.removesuffix("m")))


@settings(max_examples=60)
@given(table=random_markets(), now=near_changes)
def test_states_of_any_declared_market_tile_time(table: dict[str, Any], now: datetime) -> None:
    """Each is its declaration's, up to a next one that is the first to differ."""
    with declared({"ANY": table}):
        status = describe_market("ANY", now)
        state, dates = plain(table, now)
        assert status.state is state
        assert (status.session_date in dates) if dates else status.session_date is None
        if "cut" in table:
            assert state is SESSION
            return  # which never ends
        following = get_next_state_transition("ANY", now)
        assert following.state is not state
        assert plain(table, following.at)[0] is following.state
        assert plain(table, following.at - MOMENT)[0] is state
        between = now + (following.at - now) / 2
        assert plain(table, between)[0] is state


@settings(max_examples=30)
@given(table=random_markets(), now=near_changes)
def test_a_session_keeps_its_label_from_open_to_close(table: dict[str, Any], now: datetime) -> None:
    with declared({"ANY": table}):
        session = TradingCalendar("ANY").sessions_around(now, before=0, after=1)[0]
        if session.open == session.close:
            return  # clocks skipped it
        for at in (session.open, session.close - MOMENT):
            status = describe_market("ANY", at)
            assert (status.state, status.session_date) == (SESSION, session.date)


# --- what is refused --------------------------------------------------------------------------

WEEK: dict[str, Any] = {"days": "Mon-Fri", "open": "09:00", "close": "17:00"}
OWN: dict[str, Any] = {"zone": "UTC", "hours": [WEEK]}


def hours(**changes: Any) -> dict[str, Any]:
    return {"zone": "UTC", "hours": [{**WEEK, **changes}]}


@pytest.mark.parametrize(
    ("name", "table", "said"),
    [
        ("M", {"members": ["XNYC"]}, "M.members: no exchange is called 'XNYC'. Did you mean 'XNYS"),
        ("M", {"members": ["XNYS", "XNYS"]}, "M.members: XNYS is named twice"),
        ("M", {"members": []}, "M.members: [] must be a list of MICs such as"),
        ("M", {"members": ["XNYS"], "buffer": "1h"}, "M.buffer: no such key. Known: "),
        (
            "M",
            {**OWN, "days": "Mon-Fri"},
            "M.days: no such key. It belongs inside hours: hours = [{ days = ",
        ),
        ("M", {"members": ["XNYS"], "close": "17:00"}, "M.close: no such key. It belongs inside"),
        ("M", {"members": ["XNYS"], "preopen": "1h"}, "M.preopen: no such key. Did you mean 'pre_"),
        (
            "M",
            {"members": ["XNYS"], **OWN},
            "M.zone: a market has either members or hours of its own, and zone, hours",
        ),
        ("M", {}, "M: it says nothing of when it trades; write members"),
        ("M", {"hours": [WEEK]}, "M: its zone is missing; write zone"),
        ("M", {**OWN, "zone": "Europe/Pariss"}, "M.zone: no zone is called 'Europe/Pariss'. Did "),
        ("M", {**OWN, "zone": "../etc"}, "M.zone: no zone is called '../etc'."),
        ("M", {**OWN, "zone": "Europe"}, "M.zone: no zone is called 'Europe'."),
        ("M", {**OWN, "cut": "00:00"}, "M.cut: a market has either hours or a cut, not both"),
        ("M", {"zone": "UTC", "cut": "24:00"}, "M.cut: '24:00' is no local time; write"),
        ("M", {"zone": "UTC", "cut": "17:00-1d"}, "M.cut: 17:00-1d must be a time of day alone"),
        ("M", hours(days="Mon-Fir"), "M.hours.0.days: no day is called 'Fir'. Did you mean 'Fri'?"),
        ("M", hours(days=5), "M.hours.0.days: 5 must be days such as"),
        ("M", hours(close="08:00"), "M.hours.0.close: 08:00 is not after the open, 09:00; "),
        ("M", hours(close="9:00"), "M.hours.0.close: '9:00' is no local time"),
        ("M", hours(close="13:00+1d"), "M.hours.0.close: 13:00+1d is too far from the session's"),
        ("M", hours(open="09:00-1d", close="10:00"), "M.hours.0.open: 09:00-1d is too far from"),
        (
            "M",
            hours(open="16:00-1d"),
            "M.hours: from 1990-01-01 the session of Mon closes at 17:00",
        ),
        ("M", hours(breaks=["16:00-18:00"]), "M.hours.0.breaks: break 16:00-18:00 is not inside"),
        ("M", hours(breaks=["13:00-12:00"]), "M.hours.0.breaks: break 13:00-12:00 does not end"),
        ("M", hours(breaks=["noon"]), "M.hours.0.breaks: 'noon' is no break such as"),
        (
            "M",
            hours(breaks=["12:00-13:00", "12:30-14:00"]),
            "M.hours.0.breaks: break 12:30-14:00 begins before the one before it has ended",
        ),
        ("M", hours(clsoe="17:00"), "M.hours.0.clsoe: no such key. Did you mean 'close'?"),
        (
            "M",
            {"zone": "UTC", "hours": [{"days": "Mon"}]},
            "M.hours.0: its open and close must be said",
        ),
        (
            "M",
            {"zone": "UTC", "hours": [WEEK, WEEK]},
            "M.hours.1.days: Mon, Tue, Wed, Thu, Fri from",
        ),
        (
            "M",
            {
                "zone": "UTC",
                "hours": [
                    {**WEEK, "from": date(2026, 2, 1)},
                    {**WEEK, "from": date(2026, 1, 1)},
                ],
            },
            "M.hours.1.from: from 2026-01-01 comes after from 2026-02-01; write the hours in the",
        ),
        ("M", hours(**{"from": "soon"}), "M.hours.0.from: 'soon' is no date such as 2026-12-24"),
        ("M", {**OWN, "holidays": {"country": "UQ"}}, "M.holidays: holidays has no country 'UQ'."),
        (
            "M",
            {**OWN, "holidays": {"market": "XNYX"}},
            "M.holidays: holidays has no market 'XNYX'. Did you mean 'XNYS'?",
        ),
        (
            "M",
            {**OWN, "holidays": {"country": "US", "subdivision": "QQ"}},
            "M.holidays: holidays has no subdivision 'QQ' of US.",
        ),
        ("M", {**OWN, "holidays": {"exchange": "CMEX"}}, "M.holidays: no exchange is called 'CMEX"),
        ("M", {**OWN, "holidays": {}}, "M.holidays: it needs one of country, market, exchange"),
        ("M", {**OWN, "holidays": "US"}, "M.holidays: 'US' must be a table such as"),
        ("M", {**OWN, "closed": {"24.12.": "Eve"}}, "M.closed.24.12.: '24.12.' is no date such"),
        ("M", {**OWN, "closed": ["2026-12-26"]}, "M.closed.2026-12-26: Saturday has no hours; it"),
        (
            "M",
            hours(**{"from": date(2027, 1, 4)}) | {"closed": {"2027-01-10": "Snow"}},
            "M.closed.2027-01-10: Sunday has no hours; it is closed anyway",
        ),
        ("M", {**OWN, "closed": {"2026-12-24": 1}}, "M.closed.2026-12-24: 1 is no reason such as"),
        ("M", {**OWN, "closed": {"2026-12-24": " "}}, "M.closed.2026-12-24: ' ' is no reason such"),
        (
            "M",
            {**OWN, "special": {"2026-12-24": {"close": "13:00", "reason": ""}}},
            "M.special.2026-12-24.reason: '' is no reason such as",
        ),
        (
            "M",
            {**OWN, "special": {"2026-12-24": {"close": "13:00", "reason": "\t"}}},
            "M.special.2026-12-24.reason: '\\t' is no reason such as",
        ),
        (
            "M",
            {**OWN, "special": {"2026-12-26": {"close": "13:00"}}},
            "M.special.2026-12-26: Saturday has no hours; a session on it needs open and close",
        ),
        (
            "M",
            {**OWN, "special": {"2026-12-24": {"close": "08:00"}}},
            "M.special.2026-12-24.close: 08:00 is not after the open, 09:00",
        ),
        (
            "M",
            {**OWN, "closed": ["2026-12-24"], "special": {"2026-12-24": {"close": "13:00"}}},
            "M.special.2026-12-24: 2026-12-24 is listed as closed too",
        ),
        (
            "M",
            {**OWN, "last": date(1980, 1, 1)},
            "M.last: it is known from 1990-01-01 to 1980-01-01",
        ),
        (
            "M",
            {**OWN, "last": date(2018, 6, 1), "holidays": {"market": "XPAR"}},
            "M.last: it is known from 2019-01-01 to 2018-06-01, which is no day at all;",
        ),
        (
            "M",
            {**OWN, "last": date(2026, 12, 31), "closed": ["2026-12-24", "2027-01-01"]},
            "M.closed.2027-01-01: 2027-01-01 is after last, 2026-12-31",
        ),
        (
            "M",
            {**OWN, "last": date(2026, 12, 23), "special": {"2026-12-24": {"close": "13:00"}}},
            "M.special.2026-12-24: 2026-12-24 is after last, 2026-12-23",
        ),
        ("M", hours(**{"from": date(2090, 1, 1)}), "M.hours: it is known from 2090-01-01 to 20"),
        ("M", {**OWN, "pre_open": 30}, "M.pre_open: 30 is no buffer; write a duration such as"),
        ("M", {**OWN, "pre_open": "1.5s"}, "M.pre_open: '1.5s' is no buffer; write a duration"),
        ("M", {**OWN, "pre_open": "10:00"}, "M.pre_open: 10:00 is after the open, 09:00"),
        ("M", {**OWN, "post_close": "08:00"}, "M.post_close: 08:00 is before the close, 17:00"),
        ("US_EQ", {"pre_open": "10:00"}, "US_EQ.pre_open: 10:00 is after the open, 09:30"),
        ("XLON", {"post_close": "16:00"}, "XLON.post_close: 16:00 is before the close, 16:30"),
        ("XNYS", {"members": ["XNAS"]}, "XNYS.members: the name XNYS is taken, by a market or an"),
        ("CRYPTO", OWN, "CRYPTO.zone: the name CRYPTO is taken, by a market or an exchange"),
        ("crypto", OWN, "crypto: 'crypto' differs from 'CRYPTO' in its capitals only"),
        ("MY:EQ", OWN, "MY:EQ: 'MY:EQ' cannot be the name of a queue; write letters, digits and"),
        ("Global", OWN, "Global: the name Global is kept for something else. Choose another name"),
        ("unacked", OWN, "unacked: the name unacked is kept for something else."),
        ("M", {"members": ["US_EQ"]}, "M.members: no exchange is called 'US_EQ'. It is a market, "),
        ("M", {**OWN, "last": date(9999, 12, 31)}, "M.last: 9999-12-31 is too far off; write a "),
        ("M", hours(**{"from": date.min}), "M.hours.0.from: 0001-01-01 is too far off; write a"),
        ("M", {**OWN, "closed": [date.max]}, "M.closed.9999-12-31: 9999-12-31 is too far off;"),
        ("M", {**OWN, "special": {"0001-01-01": {}}}, "M.special.0001-01-01: 0001-01-01 is too"),
        ("M", {**OWN, "pre_open": "25h"}, "M.pre_open: '25h' is no buffer; write a duration such"),
        ("M", {**OWN, "post_close": "99999999999d"}, "M.post_close: '99999999999d' is no buffer"),
        ("M", {**OWN, "pre_open": "08:00-2d"}, "M.pre_open: '08:00-2d' is no buffer; write a"),
        (
            "M",
            {**OWN, "special": {"2026-12-24": {"close": "10:00+1d"}}},
            "M.special.2026-12-24: its session overlaps that of 2026-12-25",
        ),
    ],
)
def test_what_is_wrong_is_said_once(name: str, table: dict[str, Any], said: str) -> None:
    found, faults = read({name: table})
    assert [list(each.faults) for each in found] == [faults]
    assert [fault[: len(said)] for fault in faults] == [said]


SOUND: dict[str, Any] = {
    "zone": "UTC",
    "hours": [
        {"days": "Mon", "open": "09:00", "close": "17:00", "breaks": ["12:00-13:00"]},
        {"days": "Tue-Thu", "open": "09:00", "close": "17:00"},
        {"days": "Fri", "open": "09:00", "close": "16:00"},
        {"days": "Mon-Fri", "open": "10:00", "close": "18:00", "from": date(2026, 7, 1)},
    ],
    "pre_open": "08:00",
    "post_close": "20:00",
    "holidays": [{"country": "US"}, {"market": "XNYS"}],
    "closed": {"2026-08-03": "cleaning"},
    "special": {
        "2026-08-04": {"close": "13:00", "reason": "party"},
        "2026-08-08": {"open": "10:00", "close": "12:00"},
    },
    "last": date(2027, 6, 30),
}
FLAWS: dict[str, tuple[tuple[str | int, ...], Any]] = {
    "M.preopen: no such key": (("preopen",), "1h"),
    "M.zone: no zone": (("zone",), "Europe/Pariss"),
    "M.hours.0.open: '9' is no local time": (("hours", 0, "open"), "9"),
    "M.hours.0.breaks: 'noon' is no break": (("hours", 0, "breaks", 0), "noon"),
    "M.hours.1.clsoe: no such key": (("hours", 1, "clsoe"), "17:00"),
    "M.hours.1.close: 08:00 is not after": (("hours", 1, "close"), "08:00"),
    "M.hours.1.breaks: break 14:00-12:00": (("hours", 1, "breaks"), ["14:00-12:00"]),
    "M.hours.2.days: no day is called 'Fir'": (("hours", 2, "days"), "Fir"),
    "M.hours.2.close: 13:00+1d is too far": (("hours", 2, "close"), "13:00+1d"),
    "M.hours.3.breaks: break 09:00-11:00 is not": (("hours", 3, "breaks"), ["09:00-11:00"]),
    "M.pre_open: 10:30 is after the open": (("pre_open",), "10:30"),
    "M.post_close: 17:30 is before the close": (("post_close",), "17:30"),
    "M.holidays.0: holidays has no country": (("holidays", 0, "country"), "UQ"),
    "M.holidays.1.contry: no such key": (("holidays", 1, "contry"), "US"),
    "M.closed.2026-08-03: '' is no reason": (("closed", "2026-08-03"), ""),
    "M.closed.31.12.: '31.12.' is no date": (("closed", "31.12."), "Eve"),
    "M.closed.2026-08-02: Sunday has no hours": (("closed", "2026-08-02"), "cleaning"),
    "M.special.2026-08-04.close: 09:00 is not": (("special", "2026-08-04", "close"), "09:00"),
    "M.special.2026-08-04.reason: '' is no": (("special", "2026-08-04", "reason"), ""),
    "M.special.2026-08-08.breaks: break 09:00-11:00": (
        ("special", "2026-08-08", "breaks"),
        ["09:00-11:00"],
    ),
    "M.special.2026-08-09: Sunday has no hours": (("special", "2026-08-09"), {"open": "09:00"}),
    "M.special.2026-08-03: 2026-08-03 is listed as closed": (
        ("special", "2026-08-03"),
        {"close": "13:00", "reason": ""},
    ),
    "M.special.2026-08-11: its session overlaps": (
        ("special", "2026-08-11"),
        {"close": "11:00+1d"},
    ),
    "M.last: it is known from 1990-01-01 to 1980-01-01": (("last",), date(1980, 1, 1)),
}
"""What is said of one flaw of `SOUND` -> where it is, and what stands there."""


def flawed(*flaws: tuple[tuple[str | int, ...], Any]) -> list[str]:
    table = deepcopy(SOUND)
    for path, value in flaws:
        inner: Any = table
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
    return read({"M": table})[1]


def test_no_fault_hides_another_one() -> None:
    """What is said of each flaw alone is said of it beside every other one, too."""
    assert flawed() == []
    alone = {said: flawed(flaw) for said, flaw in FLAWS.items()}
    for said, faults in alone.items():
        assert said in "\n".join(faults)
        if "known from" not in said:  # which years days off are known is another matter
            assert len(faults) == 1 + ("is listed as closed" in said), faults
    for (first, flaw), (second, other) in combinations(FLAWS.items(), 2):
        if flaw[0] != other[0]:
            faults = flawed(flaw, other)
            hidden = [fault for fault in (*alone[first], *alone[second]) if fault not in faults]
            assert hidden == [], f"{first} and {second}: {faults}"


def test_what_is_wrong_beside_a_wrong_choice_is_said_too() -> None:
    """A name that is taken, members beside hours, a bracket too many: all of it stays as it is."""
    wrong: dict[str, Any] = {"zone": "Pariss", "closed": {"2026-12-24": ""}}
    clocks: dict[str, Any] = {"pre_open": "10:00"}
    for name, table, said in (
        ("XNYS", {"members": ["XNYC"]}, ["the name XNYS is taken", "called 'XNYC'"]),
        ("XNYS", {"membrs": 1} | clocks, ["no such key", "is after the open"]),
        (
            "M",
            {"members": ["XNYC", "XNYS"]} | wrong,
            ["has either members or hours", "'XNYC'", "'Pariss'", "'' is no reason"],
        ),
        ("M", {"members": ["XNYC", "XNYS"]} | clocks, ["'XNYC'", "is after the open"]),
        ("M", {"hour": []} | wrong, ["no such key", "'Pariss'", "'' is no reason"]),
        (
            "M",
            {"zone": "UTC", "hours": [], "cut": "9"},
            ["'9' is no local", "must be a list", "either hours or a cut"],
        ),
        ("M", [wrong | {"cut": "00:00"}], ["is one table", "'Pariss'", "'' is no reason"]),
        (
            "M",
            OWN | {"holidays": {"country": "UQ", "market": "XNYX"}},
            ["needs one of", "country 'UQ'", "market 'XNYX'"],
        ),
    ):
        faults = read({name: table})[1]
        assert len(faults) == len(said), faults
        assert [text for text in said if text not in "\n".join(faults)] == []


def test_a_change_of_hours_in_the_middle_of_a_session_is_refused() -> None:
    early: dict[str, Any] = {"days": "Mon-Fri", "open": "17:00-1d", "close": "17:00"}
    late = early | {"open": "16:00-1d", "close": "16:00", "from": date(2026, 11, 24)}
    (fault,) = read({"M": {"zone": "UTC", "hours": [early, late]}})[1]
    assert fault == (
        "M.hours: from 2026-11-24 the session of Mon closes at 17:00, after that of Tue has "
        "opened at 16:00-1d"
    )


LONG: dict[str, Any] = {"open": "09:00", "close": "12:00+1d"}
"""From Friday the 18th, a day with hours, into Saturday the 19th, which has none."""


@pytest.mark.parametrize(
    ("special", "closed", "said"),
    [
        (
            {"2026-12-18": LONG, "2026-12-19": {"open": "10:00", "close": "16:00"}},
            [],
            ["its session overlaps that of 2026-12-19", "its session overlaps that of 2026-12-18"],
        ),
        ({"2026-12-18": LONG, "2026-12-19": {"open": "12:00", "close": "16:00"}}, [], []),
        ({"2026-12-17": LONG}, [], ["its session overlaps that of 2026-12-18"]),
        ({"2026-12-17": LONG, "2026-12-18": {"open": "13:00"}}, [], []),
        ({"2026-12-17": LONG}, ["2026-12-18"], []),
    ],
)
def test_special_days_are_held_against_what_is_next_to_them(
    special: dict[str, Any], closed: list[str], said: list[str]
) -> None:
    faults = read({"M": {**OWN, "special": special, "closed": closed}})[1]
    assert [fault.partition(": ")[2] for fault in faults] == said


def test_a_special_day_without_hours_has_the_breaks_that_it_names_alone() -> None:
    table = hours(breaks=["12:00-13:00"])
    saturday = {"open": "10:00", "close": "16:00"}
    friday = {"close": "16:00"}
    table["special"] = {
        "2026-12-18": friday,
        "2026-12-19": saturday,
        "2026-12-26": saturday | {"breaks": "11:00-11:30"},
    }
    with declared({"M": table}):
        calendar = TradingCalendar("M")
        breaks = [calendar.session(date(2026, 12, day)).breaks for day in (18, 19, 26)]
    assert breaks == [
        ((utc("2026-12-18T12:00"), utc("2026-12-18T13:00")),),
        (),
        ((utc("2026-12-26T11:00"), utc("2026-12-26T11:30")),),
    ]


def test_a_market_may_be_declared_to_the_last_date_there_is_and_no_further() -> None:
    with declared({"M": {**OWN, "last": date(2100, 12, 31)}}):
        assert get_market_state("M", utc("2100-12-30T12:00")) is SESSION


ODD: list[Any] = [
    1, 1.5, float("nan"), True, "", " ", "x", "\0", "09:00-09:00", [], {}, [[]], [{}], [1],
    {"x": 1}, date(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC), time(9), "24x7",
    "99999d", "1900-01-01",
]  # fmt: skip


def test_whatever_a_value_is_it_is_read_or_refused() -> None:
    """Nothing of a file ends a process with anything else than its faults."""
    entry = WEEK | {"breaks": ["12:00-13:00"], "from": date(2026, 1, 1)}
    whole: dict[str, Any] = {
        "zone": "UTC",
        "hours": [entry],
        "pre_open": "1h",
        "post_close": "1h",
        "holidays": [{"country": "US", "subdivision": "CA"}],
        "closed": {"2026-12-24": "Eve"},
        "special": {"2026-12-23": {"close": "13:00", "reason": "Eve", "breaks": []}},
        "last": date(2027, 1, 1),
    }
    tables: list[Any] = [*ODD]
    for odd in ODD:
        tables += [{**whole, key: odd} for key in (*whole, "cut", "members")]
        tables += [{"zone": "UTC", "cut": odd}, {"members": odd}, {"members": [odd]}]
        tables += [{**whole, "hours": [{**entry, key: odd}]} for key in entry]
        tables += [{**whole, "hours": [odd]}, {**whole, "holidays": [odd]}]
        tables += [{**whole, "holidays": {key: odd}} for key in ("country", "market", "exchange")]
        tables += [{**whole, "holidays": {"country": "US", "subdivision": odd}}]
        tables += [{**whole, "closed": {"2026-12-24": odd}}, {**whole, "closed": [odd]}]
        tables += [{**whole, "special": {"2026-12-24": odd}}]
        tables += [
            {**whole, "special": {"2026-12-24": {key: odd}}}
            for key in ("open", "close", "breaks", "reason")
        ]
    for table in tables:
        ((found,), faults) = read({"M": table})
        assert list(found.faults) == faults, table
        assert faults or found.members, table
