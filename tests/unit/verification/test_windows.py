"""
The checker's windows: at instants from published hours, and beside those of the scheduler.

Two works of the same rules that share no code: where they differ, one of them is wrong.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from prometheus.core.states import MarketState
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.dag import JobMetadata, WindowRule
from prometheus.orchestration.planning import session_bounds
from prometheus.verification.windows import window_of

EXCHANGES = ("XNYS", "XNAS", "XLON", "XPAR", "XTKS", "XHKG", "XTAE", "BVMF")
STATES = (None, "PRE_OPEN", "SESSION", "POST_CLOSE", "OVERNIGHT")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("market", "day", "state", "rule", "opens", "closes"),
    [
        # New York closed at 13:00 (18:00 UTC) on the day after Thanksgiving.
        ("US_EQ", "2012-11-21", None, "session", "2012-11-21T13:30", "2012-11-23T13:30"),
        ("US_EQ", "2012-11-23", "POST_CLOSE", "session", "2012-11-23T18:00", "2012-11-26T13:30"),
        ("US_EQ", "2012-11-23", "POST_CLOSE", "state", "2012-11-23T18:00", "2012-11-23T20:00"),
        ("US_EQ", "2012-11-23", "OVERNIGHT", "state", "2012-11-23T20:00", "2012-11-24T05:00"),
        ("US_EQ", "2012-11-23", "PRE_OPEN", "state", "2012-11-23T13:30", "2012-11-23T14:30"),
        # Tokyo and Hong Kong: the first open, the last close.
        ("ASIA_EQ", "2012-11-22", "SESSION", "state", "2012-11-22T00:00", "2012-11-22T08:00"),
        ("ASIA_EQ", "2012-11-22", None, "session", "2012-11-21T23:00", "2012-11-23T00:30"),
        ("EU_EQ", "2012-11-22", "POST_CLOSE", "session", "2012-11-22T16:30", "2012-11-23T07:00"),
    ],
)
def test_window_follows_the_session(
    market: str, day: str, state: str | None, rule: str, opens: str, closes: str
) -> None:
    found = window_of(TradingCalendar(market), date.fromisoformat(day), state, rule)
    assert (found.opens_at, found.closes_at) == (at(opens), at(closes))


@pytest.mark.parametrize("market", ["US_EQ", "EU_EQ", "ASIA_EQ", *EXCHANGES])
@pytest.mark.promise("P3")
def test_both_works_agree(market: str) -> None:
    calendar = TradingCalendar(market)
    days = calendar.trading_days(date(2022, 1, 3), date(2025, 12, 31))
    days += calendar.trading_days(calendar.horizon - timedelta(days=20), calendar.horizon)
    for day in days:
        bounds = session_bounds(calendar, day)
        for state in STATES:
            for rule in WindowRule:
                if state is None and rule is WindowRule.STATE:
                    continue
                job = JobMetadata(
                    job_id="a",
                    job_type="a",
                    market_id=market,
                    required_state=MarketState(state) if state else None,
                    window=rule,
                )
                due = bounds.window(job)
                found = window_of(calendar, day, state, rule.value)
                assert (found.opens_at, found.closes_at) == (due.opens_at, due.closes_at), (
                    day,
                    state,
                    rule,
                )


def test_a_holiday_is_no_phase() -> None:
    with pytest.raises(ValueError, match="HOLIDAY is no phase"):
        window_of(TradingCalendar("US_EQ"), date(2012, 11, 23), "HOLIDAY", "session")
