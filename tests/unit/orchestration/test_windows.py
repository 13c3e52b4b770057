"""
The windows of jobs, at instants taken from the exchanges' published hours.

New York closed at 13:00 (18:00 UTC) on 2012-11-23, the day after Thanksgiving; London at 16:30 and
Paris at 17:30 local time, both 16:30 UTC in winter; Tokyo at 15:00 until 2024-11-05, Hong Kong at
16:00 (08:00 UTC). Buffers are the defaults, 60 and 120 minutes.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from prometheus.core.market_state import MarketState
from prometheus.core.trading_calendar import Phases, TradingCalendar
from prometheus.orchestration.dag import JobMetadata, WindowRule
from prometheus.orchestration.planning import session_bounds
from prometheus.orchestration.session_time import SessionTime
from prometheus.orchestration.windows import SessionBounds, Window, run_opens_at
from prometheus.verification.windows import window_of

SESSION, STATE = WindowRule.SESSION, WindowRule.STATE


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def job(state: MarketState | None, rule: WindowRule = SESSION) -> JobMetadata:
    return JobMetadata(
        job_id="a", job_type="a", market_id="US_EQ", required_state=state, window=rule
    )


def window(
    market: str, day: str, state: MarketState | None, rule: WindowRule = SESSION
) -> tuple[datetime, datetime]:
    bounds = session_bounds(TradingCalendar(market), date.fromisoformat(day))
    found = bounds.window(job(state, rule))
    return found.opens_at, found.closes_at


@pytest.mark.parametrize(
    ("market", "day", "state", "opens", "closes"),
    [
        # An ordinary Wednesday before a holiday: open until Friday's PRE_OPEN.
        ("US_EQ", "2012-11-21", None, "2012-11-21T13:30", "2012-11-23T13:30"),
        ("US_EQ", "2012-11-21", "PRE_OPEN", "2012-11-21T13:30", "2012-11-23T13:30"),
        ("US_EQ", "2012-11-21", "SESSION", "2012-11-21T14:30", "2012-11-23T13:30"),
        ("US_EQ", "2012-11-21", "POST_CLOSE", "2012-11-21T21:00", "2012-11-23T13:30"),
        ("US_EQ", "2012-11-21", "OVERNIGHT", "2012-11-21T23:00", "2012-11-23T13:30"),
        # The early close, and the weekend after it.
        ("US_EQ", "2012-11-23", "POST_CLOSE", "2012-11-23T18:00", "2012-11-26T13:30"),
        ("US_EQ", "2012-11-23", "OVERNIGHT", "2012-11-23T20:00", "2012-11-26T13:30"),
        # Summer time in New York: one hour earlier in UTC.
        ("US_EQ", "2025-07-02", "POST_CLOSE", "2025-07-02T20:00", "2025-07-03T12:30"),
        # The clocks of New York change between two sessions.
        ("US_EQ", "2025-03-07", "POST_CLOSE", "2025-03-07T21:00", "2025-03-10T12:30"),
        # The first open of Paris and London, the last close of both.
        ("EU_EQ", "2012-11-22", None, "2012-11-22T07:00", "2012-11-23T07:00"),
        ("EU_EQ", "2012-11-22", "POST_CLOSE", "2012-11-22T16:30", "2012-11-23T07:00"),
        # Tokyo opens (00:00 UTC) before its date begins in UTC minus the buffer; Hong Kong closes.
        ("ASIA_EQ", "2012-11-22", None, "2012-11-21T23:00", "2012-11-23T00:30"),
        ("ASIA_EQ", "2012-11-22", "POST_CLOSE", "2012-11-22T08:00", "2012-11-23T00:30"),
        # Labor Thanksgiving Day: Tokyo is closed on the 23rd, Hong Kong alone makes the session.
        ("ASIA_EQ", "2012-11-23", "SESSION", "2012-11-23T01:30", "2012-11-25T23:00"),
        ("ASIA_EQ", "2012-11-23", "POST_CLOSE", "2012-11-23T08:00", "2012-11-25T23:00"),
    ],
)
@pytest.mark.promise("P3")
def test_window_follows_the_runs_own_session_until_the_next_pre_open(
    market: str, day: str, state: str | None, opens: str, closes: str
) -> None:
    required = MarketState(state) if state else None
    assert window(market, day, required) == (at(opens), at(closes))


@pytest.mark.parametrize(
    ("state", "opens", "closes"),
    [
        ("PRE_OPEN", "2012-11-23T13:30", "2012-11-23T14:30"),
        ("SESSION", "2012-11-23T14:30", "2012-11-23T18:00"),
        ("POST_CLOSE", "2012-11-23T18:00", "2012-11-23T20:00"),
        # Saturday begins: HOLIDAY, in New York.
        ("OVERNIGHT", "2012-11-23T20:00", "2012-11-24T05:00"),
    ],
)
def test_state_rule_closes_the_window_with_the_phase(state: str, opens: str, closes: str) -> None:
    assert window("US_EQ", "2012-11-23", MarketState(state), STATE) == (at(opens), at(closes))


def test_post_close_phase_is_cut_by_the_next_pre_open() -> None:
    close = at("2025-01-02T20:00")
    bounds = SessionBounds(
        Phases(
            date(2025, 1, 2), close - timedelta(hours=9), close, close, close + timedelta(hours=2)
        ),
        phases_at(close + timedelta(hours=1)),
    )
    found = bounds.window(job(MarketState.POST_CLOSE, STATE))
    assert found == Window(close, close + timedelta(hours=1))


def phases_at(pre_open: datetime, *, hours: int = 23) -> Phases:
    """A session that opens an hour later, and has no buffer after its close."""
    opens = pre_open + timedelta(hours=1)
    closes = pre_open + timedelta(hours=hours)
    return Phases(opens.date(), pre_open, opens, closes, closes)


def gapless(pre_open: timedelta, session: timedelta, post_close: timedelta) -> SessionBounds:
    """Two sessions a day apart."""
    first = at("2025-01-02T17:00")
    second = first + timedelta(days=1)
    these, following = (
        Phases(opens.date(), opens - pre_open, opens, opens + session, opens + session + post_close)
        for opens in (first, second)
    )
    return SessionBounds(these, following)


DAILY_CUT = gapless(timedelta(0), timedelta(hours=24), timedelta(0))
"""Always open: the next session begins as this one closes."""
FUTURES = gapless(timedelta(hours=1), timedelta(hours=23), timedelta(hours=2))
"""As Chicago's futures: closed for one hour, which PRE_OPEN fills."""
OVERLAP = gapless(timedelta(hours=2), timedelta(hours=23), timedelta(hours=2))
"""PRE_OPEN begins before the session before has closed."""


@pytest.mark.parametrize("bounds", [DAILY_CUT, FUTURES, OVERLAP])
@pytest.mark.parametrize("state", [None, *(s for s in MarketState if s != MarketState.HOLIDAY)])
def test_without_a_gap_a_window_lasts_until_the_same_phase_of_the_next_session(
    bounds: SessionBounds, state: MarketState | None
) -> None:
    found = bounds.window(job(state))
    assert found.closes_at - found.opens_at == timedelta(days=1)


def test_one_minute_of_gap_is_a_gap() -> None:
    bounds = gapless(timedelta(minutes=59), timedelta(hours=23), timedelta(0))
    found = bounds.window(job(MarketState.POST_CLOSE))
    assert found.closes_at - found.opens_at == timedelta(minutes=1)


@pytest.mark.parametrize("state", [None, *(s for s in MarketState if s != MarketState.HOLIDAY)])
def test_window_stays_open_for_a_day_where_the_next_session_is_not_known(
    state: MarketState | None,
) -> None:
    calendar = TradingCalendar("US_EQ")
    last = calendar.trading_days(calendar.horizon - timedelta(days=30), calendar.horizon)[-1]
    bounds = session_bounds(calendar, last)
    assert bounds.next_phases is None
    found = bounds.window(job(state))
    assert found.closes_at - found.opens_at == timedelta(hours=24)


def test_overnight_phase_of_the_last_known_session_has_an_end() -> None:
    bounds = SessionBounds(DAILY_CUT.phases, None)
    found = bounds.window(job(MarketState.OVERNIGHT, STATE))
    assert found.closes_at - found.opens_at == timedelta(hours=24)


def test_window_is_half_open() -> None:
    found = Window(at("2025-01-01T10:00"), at("2025-01-01T11:00"))
    assert found.opens_at in found
    assert found.closes_at - timedelta(microseconds=1) in found
    assert found.closes_at not in found
    assert found.opens_at - timedelta(microseconds=1) not in found


@pytest.mark.parametrize("market", ["US_EQ", "EU_EQ", "ASIA_EQ"])
def test_windows_of_a_job_never_overlap_nor_leave_a_session_out(market: str) -> None:
    calendar = TradingCalendar(market)
    for state in (None, MarketState.SESSION, MarketState.POST_CLOSE):
        end = at("2024-01-01T00:00")
        for day in calendar.trading_days(date(2024, 1, 2), date(2025, 12, 31)):
            found = session_bounds(calendar, day).window(job(state))
            assert end <= found.opens_at < found.closes_at
            end = found.closes_at


@pytest.mark.parametrize(
    ("day", "start", "state", "rule", "opens", "closes"),
    [
        # The early close of 2012-11-23 moves what starts after it.
        ("2012-11-21", "close+45m", None, SESSION, "2012-11-21T21:45", "2012-11-23T13:30"),
        ("2012-11-23", "close+45m", None, SESSION, "2012-11-23T18:45", "2012-11-26T13:30"),
        ("2012-11-23", "close-30m", "SESSION", STATE, "2012-11-23T17:30", "2012-11-23T18:00"),
        ("2012-11-23", "open-15m", "PRE_OPEN", STATE, "2012-11-23T14:15", "2012-11-23T14:30"),
        # Before PRE_OPEN, where no phase holds it; where one does, with the phase.
        ("2012-11-23", "open-3h", None, SESSION, "2012-11-23T11:30", "2012-11-26T13:30"),
        ("2012-11-23", "open-3h", "PRE_OPEN", SESSION, "2012-11-23T13:30", "2012-11-26T13:30"),
        ("2012-11-23", "open", "POST_CLOSE", SESSION, "2012-11-23T18:00", "2012-11-26T13:30"),
        # On the short session its phase is over before it may start.
        ("2012-11-23", "open+5h", "SESSION", STATE, "2012-11-23T19:30", "2012-11-23T18:00"),
    ],
)
def test_window_may_begin_relative_to_the_session(
    day: str, start: str, state: str | None, rule: WindowRule, opens: str, closes: str
) -> None:
    made = replace(job(MarketState(state) if state else None, rule), start=SessionTime.parse(start))
    calendar = TradingCalendar("US_EQ")
    found = session_bounds(calendar, date.fromisoformat(day)).window(made)
    assert (found.opens_at, found.closes_at) == (at(opens), at(closes))
    anew = window_of(calendar, date.fromisoformat(day), state, rule.value, start)
    assert (anew.opens_at, anew.closes_at) == (at(opens), at(closes))


def test_run_opens_with_its_first_job_where_that_is_before_pre_open() -> None:
    phases = TradingCalendar("US_EQ").phases(date(2012, 11, 23))
    early, late = (replace(job(None), start=SessionTime.parse(t)) for t in ("open-3h", "close+1h"))
    assert run_opens_at(phases, [job(None), late]) == at("2012-11-23T13:30")
    assert run_opens_at(phases, [late, early]) == at("2012-11-23T11:30")


@pytest.mark.parametrize(
    "text", ["open", "close", "open-15m", "close+45m", "close-1h30m", "open+1d", "open-45s"]
)
def test_start_is_written_as_it_is_read(text: str) -> None:
    assert str(SessionTime.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("midnight+1h", "must be 'open' or 'close'"),
        ("close45m", "must be 'open' or 'close'"),
        ("close+45", "is not a duration"),
        ("close+", "must be 'open' or 'close'"),
        ("open-25h", "at most 1d from its session's open"),
    ],
)
def test_start_that_is_no_time_of_a_session_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SessionTime.parse(text)
