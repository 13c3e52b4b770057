"""States of markets, their transitions, and everything said about a market at an instant."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prometheus.core.exchanges import exchange_mics, load_exchange
from prometheus.core.market_state import (
    MarketState,
    MarketStateConfig,
    Transition,
    describe_market,
    get_all_market_states,
    get_market_state,
    get_next_state_transition,
)
from prometheus.core.markets import Market, get_market, markets
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import (
    HorizonError,
    NaiveDatetimeError,
    SnapshotError,
    UnknownMarketError,
)

HOLIDAY, OVERNIGHT, PRE_OPEN, SESSION, POST_CLOSE = (
    MarketState.HOLIDAY,
    MarketState.OVERNIGHT,
    MarketState.PRE_OPEN,
    MarketState.SESSION,
    MarketState.POST_CLOSE,
)
STRENGTH = [HOLIDAY, OVERNIGHT, POST_CLOSE, PRE_OPEN, SESSION]
MOMENT = timedelta(microseconds=1)
HOUR = timedelta(hours=1)

EXCHANGES = ("XNYS", "XNAS", "XLON", "XPAR", "XTKS", "XHKG")
MARKETS = ("US_EQ", "EU_EQ", "ASIA_EQ")
SHIPPED = tuple(market.market_id for market in markets())
ROUND_THE_WORLD = Market("WORLD", ("XTKS", "XHKG", "XLON", "XNYS"))

ALWAYS_OPEN = ("24x7", "CRYPTO")

changing = [name for name in SHIPPED if name not in ALWAYS_OPEN]
market_names = st.sampled_from([*changing, *EXCHANGES, ROUND_THE_WORLD])
instants = st.integers(
    int(datetime(1998, 1, 1, tzinfo=UTC).timestamp()) * 10**6,
    int(datetime(2027, 12, 1, tzinfo=UTC).timestamp()) * 10**6,
).map(lambda us: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us))
recent_instants = st.integers(
    int(datetime(2021, 2, 1, tzinfo=UTC).timestamp()),
    int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()),
).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
"""Which every exchange knows."""
buffers = st.integers(0, 20 * 60).map(lambda minutes: timedelta(minutes=minutes))
configs = st.one_of(
    st.just(MarketStateConfig()),
    st.builds(MarketStateConfig, pre_open=buffers, post_close=buffers),
)
trading_days = st.tuples(
    st.sampled_from([*MARKETS, *EXCHANGES]), st.dates(date(1998, 1, 1), date(2027, 12, 1))
).map(lambda pair: (pair[0], TradingCalendar(pair[0]).next_trading_day(pair[1])))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# --- golden instants --------------------------------------------------------------------------

HOURS = [
    # New York changes its clocks three weeks before Europe in spring, a week after it in autumn.
    ("XNYS", "2026-03-06", "14:30-21:00"),
    ("XNYS", "2026-03-09", "13:30-20:00"),
    ("XLON", "2026-03-27", "08:00-16:30"),
    ("XPAR", "2026-03-27", "08:00-16:30"),
    ("XLON", "2026-03-30", "07:00-15:30"),
    ("XPAR", "2026-03-30", "07:00-15:30"),
    ("XLON", "2026-10-26", "08:00-16:30"),
    ("XPAR", "2026-10-26", "08:00-16:30"),
    ("XNYS", "2026-10-26", "13:30-20:00"),
    ("XNYS", "2026-10-30", "13:30-20:00"),
    ("XNYS", "2026-11-02", "14:30-21:00"),
    # Half days.
    ("XNYS", "2026-11-27", "14:30-18:00"),
    ("XNYS", "2026-12-24", "14:30-18:00"),
    ("XLON", "2026-12-24", "08:00-12:30"),
    ("XPAR", "2026-12-24", "08:00-13:05"),
    ("XHKG", "2026-12-24", "01:30-04:00"),
    ("XTKS", "2026-12-24", "00:00-02:30 03:30-06:30"),
    ("XTKS", "2026-12-31", "closed"),
    ("XHKG", "2026-12-31", "01:30-04:00"),
    ("XLON", "2026-12-31", "08:00-12:30"),
    ("XPAR", "2026-12-31", "08:00-13:05"),
    ("XNYS", "2026-12-31", "14:30-21:00"),
    # A closure announced ten days before.
    ("XNYS", "2025-01-09", "closed"),
    ("XNAS", "2025-01-09", "closed"),
    ("XLON", "2025-01-09", "08:00-16:30"),
    ("XPAR", "2025-01-09", "08:00-16:30"),
    ("XTKS", "2025-01-09", "00:00-02:30 03:30-06:30"),
    ("XHKG", "2025-01-09", "01:30-04:00 05:00-08:00"),
    # Tokyo's longer afternoon.
    ("XTKS", "2024-11-01", "00:00-02:30 03:30-06:00"),
    ("XTKS", "2024-11-05", "00:00-02:30 03:30-06:30"),
]


@pytest.mark.parametrize(("mic", "day", "hours"), HOURS)
def test_golden_hours_are_the_states_edges(mic: str, day: str, hours: str) -> None:
    """Hours in UTC as exchange_calendars 4.13.2 gives them with pandas 3.0, read off by hand."""
    if hours == "closed":
        noon = datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=load_exchange(mic).zone)
        assert get_market_state(mic, noon) is HOLIDAY
        return
    parts = [tuple(utc(f"{day}T{edge}") for edge in part.split("-")) for part in hours.split()]
    opens, closes = parts[0][0], parts[-1][1]
    assert get_market_state(mic, opens - HOUR - MOMENT) is OVERNIGHT
    assert get_market_state(mic, opens - HOUR) is PRE_OPEN
    assert get_market_state(mic, opens - MOMENT) is PRE_OPEN
    assert get_market_state(mic, opens) is SESSION
    assert get_market_state(mic, closes - MOMENT) is SESSION
    assert get_market_state(mic, closes) is POST_CLOSE
    assert get_market_state(mic, closes + 2 * HOUR - MOMENT) is POST_CLOSE
    assert get_market_state(mic, closes + 2 * HOUR) is OVERNIGHT
    lunch = [(parts[0][1], parts[1][0])] if len(parts) == 2 else []
    assert list(TradingCalendar(mic).session(date.fromisoformat(day)).breaks) == lunch


@pytest.mark.parametrize(
    ("market", "at", "state"),
    [
        ("EU_EQ", "2026-12-24T06:59", OVERNIGHT),
        ("EU_EQ", "2026-12-24T07:00", PRE_OPEN),
        ("EU_EQ", "2026-12-24T08:00", SESSION),
        ("EU_EQ", "2026-12-24T12:30", SESSION),
        ("EU_EQ", "2026-12-24T13:04", SESSION),
        ("EU_EQ", "2026-12-24T13:05", POST_CLOSE),
        ("EU_EQ", "2026-12-24T15:05", OVERNIGHT),
        # Paris enters the holiday an hour before London, and the market with the last of them.
        ("EU_EQ", "2026-12-24T23:00", OVERNIGHT),
        ("EU_EQ", "2026-12-25T00:00", HOLIDAY),
        ("ASIA_EQ", "2026-11-20T00:00", SESSION),
        ("ASIA_EQ", "2026-11-20T07:59", SESSION),
        ("ASIA_EQ", "2026-11-20T08:00", POST_CLOSE),
        # Tokyo is closed on 2026-11-23, so the market keeps Hong Kong's hours.
        ("ASIA_EQ", "2026-11-23T00:29", OVERNIGHT),
        ("ASIA_EQ", "2026-11-23T00:30", PRE_OPEN),
        ("ASIA_EQ", "2026-11-23T01:30", SESSION),
        ("ASIA_EQ", "2026-11-23T04:30", SESSION),
        ("ASIA_EQ", "2026-11-23T08:00", POST_CLOSE),
        ("US_EQ", "2025-12-02T15:00", SESSION),
        ("US_EQ", "2012-11-22T15:00", HOLIDAY),
        ("US_EQ", "2012-11-23T17:59", SESSION),
        ("US_EQ", "2012-11-23T18:00", POST_CLOSE),
    ],
)
def test_golden_states_of_markets(market: str, at: str, state: MarketState) -> None:
    assert get_market_state(market, utc(at)) is state


@pytest.mark.parametrize(
    ("at", "state"),
    [
        # Friday evening in Tokyo is Friday morning in UTC; Saturday begins there at 15:00 UTC.
        ("2026-11-20T14:59", OVERNIGHT),
        ("2026-11-20T15:00", HOLIDAY),
        # Monday the 16th begins on Sunday at 15:00 UTC, and its PRE_OPEN at 23:00.
        ("2026-11-15T14:59", HOLIDAY),
        ("2026-11-15T15:00", OVERNIGHT),
        ("2026-11-15T23:00", PRE_OPEN),
        ("2026-11-16T00:00", SESSION),
    ],
)
def test_tokyo_days_wrap_at_midnight_in_tokyo(at: str, state: MarketState) -> None:
    assert get_market_state("XTKS", utc(at)) is state


def test_a_market_in_asia_rests_when_its_last_member_enters_the_weekend() -> None:
    assert get_market_state("ASIA_EQ", utc("2026-11-20T15:30")) is OVERNIGHT
    assert get_market_state("ASIA_EQ", utc("2026-11-20T16:00")) is HOLIDAY


def test_a_session_of_asia_belongs_to_its_local_date() -> None:
    """PRE_OPEN of Monday's session is still Sunday in UTC."""
    status = describe_market("ASIA_EQ", utc("2026-11-15T23:30"))
    assert (status.state, status.session_date) == (PRE_OPEN, date(2026, 11, 16))


def test_post_close_goes_on_past_midnight() -> None:
    config = MarketStateConfig(post_close=timedelta(hours=10))
    friday_close = utc("2026-11-20T21:00")
    assert get_market_state("XNYS", friday_close + 10 * HOUR - MOMENT, config) is POST_CLOSE
    assert get_market_state("XNYS", friday_close + 10 * HOUR, config) is HOLIDAY
    status = describe_market("XNYS", friday_close + 9 * HOUR, config)
    assert status.session_date == date(2026, 11, 20)
    assert status.closed_members == {"XNYS": "weekend"}


def test_post_close_is_cut_by_the_next_pre_open() -> None:
    config = MarketStateConfig(post_close=timedelta(hours=20))
    tuesday_pre_open = utc("2026-11-17T13:30")
    assert get_market_state("XNYS", tuesday_pre_open - MOMENT, config) is POST_CLOSE
    assert get_market_state("XNYS", tuesday_pre_open, config) is PRE_OPEN
    status = describe_market("XNYS", tuesday_pre_open, config)
    assert status.session_date == date(2026, 11, 17)


def test_a_buffer_of_zero_leaves_its_state_out() -> None:
    config = MarketStateConfig(pre_open=timedelta(0), post_close=timedelta(0))
    session = TradingCalendar("XNYS").session(date(2026, 11, 18))
    assert get_market_state("XNYS", session.open - MOMENT, config) is OVERNIGHT
    assert get_market_state("XNYS", session.close, config) is OVERNIGHT


# --- properties -------------------------------------------------------------------------------


def plain_state(mic: str, now: datetime, config: MarketStateConfig) -> MarketState:
    """Read the definition out loud, a session at a time."""
    calendar = TradingCalendar(mic)
    pre, post = config.pre_open, config.post_close
    assert isinstance(pre, timedelta)
    assert isinstance(post, timedelta)
    nearby = calendar.sessions_between(now - timedelta(days=12), now + timedelta(days=12))
    found = {HOLIDAY}
    if calendar.is_trading_day(now.astimezone(load_exchange(mic).zone).date()):
        found.add(OVERNIGHT)
    for session in nearby:
        if session.open - pre <= now < session.open:
            found.add(PRE_OPEN)
        if session.open <= now < session.close:
            found.add(SESSION)
        if session.close <= now < session.close + post:
            found.add(POST_CLOSE)
    return max(found, key=STRENGTH.index)


@given(mic=st.sampled_from(EXCHANGES), now=instants, config=configs)
def test_the_state_of_an_exchange_is_its_definition(
    mic: str, now: datetime, config: MarketStateConfig
) -> None:
    assert get_market_state(mic, now, config) is plain_state(mic, now, config)


@given(
    mic=st.sampled_from([*exchange_mics(), "US_FUT", "FX_GLOB", "CRYPTO"]),
    now=recent_instants,
    config=configs,
)
def test_the_states_of_every_exchange_tile_time(
    mic: str, now: datetime, config: MarketStateConfig
) -> None:
    """Each is its definition's, up to a next one that is the first to differ."""
    state = get_market_state(mic, now, config)
    assert state is plain_state(mic, now, config)
    try:
        following = get_next_state_transition(mic, now, config)
    except HorizonError:
        assert mic in ALWAYS_OPEN
        return
    assert following.state is not state
    assert plain_state(mic, following.at, config) is following.state
    assert plain_state(mic, following.at - MOMENT, config) is state


@pytest.mark.parametrize(
    ("mic", "at"), [("XNZE", "2026-11-25T23:59"), ("XNZE", "2026-11-26T00:01")]
)
def test_a_session_keeps_its_label_across_midnight_of_utc(mic: str, at: str) -> None:
    status = describe_market(mic, utc(at))
    assert (status.state, status.session_date) == (SESSION, date(2026, 11, 26))


@given(market=market_names, now=instants, config=configs)
def test_the_state_of_a_market_is_the_highest_of_its_members(
    market: str | Market, now: datetime, config: MarketStateConfig
) -> None:
    members = [get_market_state(mic, now, config) for mic in get_market(market).members]
    assert get_market_state(market, now, config) is max(members, key=STRENGTH.index)


@given(market=market_names, now=instants, config=configs, share=st.floats(0, 1))
@example(
    market="US_EQ", now=utc("2012-12-31T23:59"), config=MarketStateConfig(), share=0.5
)  # a state that lasts over the year of UTC in which it began
def test_a_state_lasts_until_the_next_transition_and_no_longer(
    market: str | Market, now: datetime, config: MarketStateConfig, share: float
) -> None:
    state = get_market_state(market, now, config)
    following = get_next_state_transition(market, now, config)
    assert following.at > now
    assert following.state is not state
    assert get_market_state(market, following.at, config) is following.state
    assert get_market_state(market, following.at - MOMENT, config) is state
    between = now + (following.at - now - MOMENT) * share
    assert get_market_state(market, between, config) is state


@given(market=market_names, now=instants)
def test_transitions_follow_each_other_forward(market: str | Market, now: datetime) -> None:
    at = now
    for _ in range(12):
        following = get_next_state_transition(market, at)
        assert following.at > at
        at = following.at
    assert at - now < timedelta(days=35)


@given(market_and_day=trading_days)
def test_phases_include_their_beginning_and_exclude_their_end(
    market_and_day: tuple[str, date],
) -> None:
    market, day = market_and_day
    phases = TradingCalendar(market).phases(day)
    assert get_market_state(market, phases.pre_open_at) is PRE_OPEN
    assert get_market_state(market, phases.open_at - MOMENT) is PRE_OPEN
    assert get_market_state(market, phases.open_at) is SESSION
    assert get_market_state(market, phases.close_at - MOMENT) is SESSION
    assert get_market_state(market, phases.close_at) is POST_CLOSE
    assert get_market_state(market, phases.post_close_ends_at - MOMENT) is POST_CLOSE
    assert get_market_state(market, phases.post_close_ends_at) is not POST_CLOSE


@given(market=market_names, now=instants, minutes=st.integers(-14 * 60, 14 * 60))
def test_the_zone_an_instant_is_written_in_does_not_matter(
    market: str | Market, now: datetime, minutes: int
) -> None:
    elsewhere = now.astimezone(timezone(timedelta(minutes=minutes)))
    assert get_market_state(market, elsewhere) is get_market_state(market, now)
    assert get_next_state_transition(market, elsewhere) == get_next_state_transition(market, now)


@given(market=market_names, now=instants, config=configs)
def test_what_is_described_agrees_with_itself(
    market: str | Market, now: datetime, config: MarketStateConfig
) -> None:
    status = describe_market(market, now, config)
    calendar = TradingCalendar(market)
    assert status.state is get_market_state(market, now, config)
    assert status.next_transition == get_next_state_transition(market, now, config)
    assert list(status.members) == list(calendar.members)
    assert (status.session_date is None) == (status.state in (HOLIDAY, OVERNIGHT))
    assert (status.reason is not None) == (status.state is HOLIDAY)
    assert not status.in_break or status.state is SESSION
    assert status.next_session_date is not None
    assert calendar.session(status.next_session_date).open > now
    if status.session_date is not None:
        mics = [mic for mic, state in status.members.items() if state is status.state]
        held = [
            TradingCalendar(mic, config).phases(status.session_date)
            for mic in mics
            if TradingCalendar(mic).is_trading_day(status.session_date)
        ]
        assert any(p.pre_open_at <= now < p.post_close_ends_at for p in held)


# --- everything about a market at once --------------------------------------------------------


def test_thanksgiving_is_a_holiday_with_its_name() -> None:
    status = describe_market("US_EQ", utc("2012-11-22T15:00"))
    assert status.state is HOLIDAY
    assert status.reason == "Thanksgiving Day"
    assert status.session_date is None
    assert status.next_session_date == date(2012, 11, 23)
    assert status.members == {"XNYS": HOLIDAY, "XNAS": HOLIDAY}
    assert status.next_transition == Transition(utc("2012-11-23T05:00"), OVERNIGHT)
    assert not status.partial


def test_a_partial_day_names_the_member_that_is_closed() -> None:
    status = describe_market("ASIA_EQ", utc("2012-11-23T04:30"))
    assert status.state is SESSION
    assert status.reason is None
    assert status.members == {"XTKS": HOLIDAY, "XHKG": SESSION}
    assert status.closed_members == {"XTKS": "Labor Thanksgiving Day"}
    assert status.partial
    assert status.in_break
    assert status.session_date == date(2012, 11, 23)
    assert status.next_session_date == date(2012, 11, 26)


def test_a_lunch_break_stays_session() -> None:
    lunch = utc("2026-11-20T03:00")
    assert describe_market("XTKS", lunch).in_break
    assert get_market_state("XTKS", lunch) is SESSION
    assert get_next_state_transition("XTKS", lunch) == Transition(
        utc("2026-11-20T06:30"), POST_CLOSE
    )
    # Hong Kong trades while Tokyo eats.
    assert not describe_market("ASIA_EQ", lunch).in_break


def test_a_break_includes_its_beginning_and_excludes_its_end() -> None:
    starts, ends = utc("2026-11-20T02:30"), utc("2026-11-20T03:30")
    assert [
        describe_market("XTKS", at).in_break
        for at in (starts - MOMENT, starts, ends - MOMENT, ends)
    ] == [False, True, True, False]


def test_a_weekend_is_its_own_reason() -> None:
    assert describe_market("EU_EQ", utc("2026-11-21T12:00")).reason == "weekend"


def test_members_that_are_closed_for_different_reasons_are_named() -> None:
    status = describe_market("EU_EQ", utc("2022-12-26T12:00"))
    assert status.reason == "XPAR: Saint Stephen's Day; XLON: Boxing Day"


@pytest.mark.parametrize(
    ("market", "at", "since"),
    [
        ("US_EQ", "2012-11-22T15:00", "2012-11-22T05:00"),  # Thanksgiving begins at midnight
        ("US_EQ", "2012-11-23T14:30", "2012-11-23T14:30"),  # the open itself
        ("XNYS", "2026-01-01T12:00", "2026-01-01T05:00"),
        ("XNYS", "2026-01-01T03:00", "2025-12-31T23:00"),  # of the year before
        ("XLON", "2022-01-01T12:00", "2022-01-01T00:00"),  # with the year
        ("CRYPTO", "2026-01-01T12:00", None),  # never closes
        ("XNYS", "1990-01-01T08:00", None),  # the calendar begins
    ],
)
def test_a_state_has_a_first_instant(market: str, at: str, since: str | None) -> None:
    assert describe_market(market, utc(at)).since == (utc(since) if since else None)


@given(market=market_names, now=instants)
def test_a_state_lasts_since_its_first_instant_and_no_longer(
    market: str | Market, now: datetime
) -> None:
    status = describe_market(market, now)
    assert status.since is not None
    assert status.since <= now
    assert get_market_state(market, status.since) is status.state
    assert get_market_state(market, status.since - MOMENT) is not status.state
    following = get_next_state_transition(market, status.since)
    assert now < following.at


def test_all_markets_are_answered_by_name() -> None:
    assert get_all_market_states(utc("2026-11-20T14:30")) == {
        "US_EQ": SESSION,
        "EU_EQ": SESSION,
        "ASIA_EQ": OVERNIGHT,
    }
    assert get_all_market_states(utc("2026-11-20T14:30"), ["XPAR"]) == {"XPAR": SESSION}


@pytest.mark.promise("P6")
def test_a_market_whose_calendar_has_ended_takes_no_answer_from_the_others() -> None:
    states = get_all_market_states(utc("2027-06-01T15:00"), ["XSHG", "US_EQ", "EU_EQ"])
    assert states == {"US_EQ": SESSION, "EU_EQ": SESSION}
    assert list(states.unknown) == ["XSHG"]
    with pytest.raises(HorizonError, match="XSHG"):
        states["XSHG"]
    with pytest.raises(KeyError):
        states["XKRX"]


def test_a_market_whose_file_is_damaged_takes_no_answer_from_the_others(
    break_sessions: Callable[[str], None],
) -> None:
    break_sessions("XWBO")
    # Of a year that no other test asks for: the tables of others are kept.
    states = get_all_market_states(utc("1993-06-02T11:00"), ["XWBO", "XSWX"])
    assert states == {"XSWX": SESSION}
    assert type(states.unknown["XWBO"]) is SnapshotError


def test_an_unknown_market_and_a_naive_instant_are_the_callers_mistakes() -> None:
    with pytest.raises(UnknownMarketError):
        get_all_market_states(utc("2026-11-20T14:30"), ["US_EQ", "XXXX"])
    with pytest.raises(NaiveDatetimeError):
        get_all_market_states(utc("2026-11-20T14:30").replace(tzinfo=None), [])


def test_a_market_of_ones_own_is_passed_as_a_value() -> None:
    mine = Market("MINE", ("XLON", "XNYS"), MarketStateConfig(pre_open=timedelta(0)))
    assert get_market_state(mine, utc("2026-11-20T07:59")) is OVERNIGHT
    assert get_market_state(mine, utc("2026-11-20T20:59")) is SESSION
    assert get_market_state("XLON", utc("2026-11-20T07:59")) is PRE_OPEN


# --- bad input and bounds ---------------------------------------------------------------------

ASK: list[Callable[[Any, Any], Any]] = [
    get_market_state,
    get_next_state_transition,
    describe_market,
]


@pytest.mark.parametrize("ask", ASK)
def test_an_instant_without_a_zone_is_refused(ask: Callable[[Any, Any], Any]) -> None:
    naive = datetime(2026, 11, 23, 15, 0)  # noqa: DTZ001 - the fault under test
    with pytest.raises(NaiveDatetimeError, match="Pass an aware datetime"):
        ask("US_EQ", naive)


@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize("value", [date(2026, 11, 23), "2026-11-23T15:00Z", 1_795_000_000, None])
def test_what_is_no_datetime_is_refused(ask: Callable[[Any, Any], Any], value: Any) -> None:
    with pytest.raises(TypeError, match="pass an aware datetime"):
        ask("US_EQ", value)


@pytest.mark.parametrize("ask", ASK)
def test_an_unknown_market_is_answered_with_the_nearest(ask: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(UnknownMarketError, match="Did you mean 'US_EQ'"):
        ask("US_EQUITY", utc("2026-11-23T15:00"))


@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize(
    ("at", "side"),
    [
        (datetime.min.replace(tzinfo=UTC), "before the first"),
        (utc("1990-01-01T04:59"), "before the first"),
        (utc("2029-01-01T05:00"), "after the last"),
        (utc("2031-06-01T00:00"), "after the last"),
        (datetime.max.replace(tzinfo=UTC), "after the last"),
    ],
)
def test_outside_the_calendar_there_is_an_error_and_no_guess(
    ask: Callable[[Any, Any], Any], at: datetime, side: str
) -> None:
    with pytest.raises(
        HorizonError, match=rf"{side} date .* US_EQ .* \(1990-01-01 to 2028-12-31\)"
    ):
        ask("US_EQ", at)


def test_the_calendar_ends_with_the_last_local_date() -> None:
    """For Asia that is in the afternoon of UTC, where Tokyo's new year begins."""
    assert get_market_state("ASIA_EQ", utc("2027-12-31T14:59")) is OVERNIGHT
    with pytest.raises(HorizonError, match="after the last"):
        get_market_state("ASIA_EQ", utc("2027-12-31T15:00"))
    assert get_market_state("US_EQ", utc("1990-01-01T05:00")) is HOLIDAY


def test_a_transition_past_the_end_is_not_invented() -> None:
    last = utc("2028-12-31T12:00")
    assert get_market_state("US_EQ", last) is HOLIDAY
    with pytest.raises(HorizonError, match="2029-01-01T05:00"):
        get_next_state_transition("US_EQ", last)
    status = describe_market("US_EQ", last)
    assert status.next_transition is None
    assert status.next_session_date is None


def test_what_cannot_be_known_because_of_long_buffers_is_not_guessed() -> None:
    """The session after the last date may exist, and would begin to open before that date ends."""
    config = MarketStateConfig(pre_open=timedelta(hours=12))
    assert get_market_state("XNYS", utc("2029-01-01T02:29"), config) is HOLIDAY
    with pytest.raises(HorizonError):
        get_market_state("XNYS", utc("2029-01-01T02:30"), config)


def test_any_zone_of_the_world_is_accepted() -> None:
    here = datetime(2026, 11, 20, 9, 30, tzinfo=ZoneInfo("America/New_York"))
    assert get_market_state("US_EQ", here) is SESSION
    assert get_market_state("US_EQ", here - MOMENT) is PRE_OPEN
