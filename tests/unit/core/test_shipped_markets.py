"""States tile time in every market and exchange that is shipped, minute by minute."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from numpy.typing import NDArray

from prometheus.core.exchanges import exchange_mics
from prometheus.core.market_state import (
    MarketState,
    describe_market,
    get_market_state,
    get_next_state_transition,
)
from prometheus.core.markets import markets
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import HorizonError

SHIPPED = ("US_EQ", "EU_EQ", "ASIA_EQ", "JP_EQ", "HK_EQ", "UK_EQ", "US_FUT", "FX_GLOB", "CRYPTO")
EVERY = (*SHIPPED, *exchange_mics())
BEGIN, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 12, 20, tzinfo=UTC)
MINUTE, MOMENT, ONE_DAY = timedelta(minutes=1), timedelta(microseconds=1), timedelta(days=1)
MINUTES = (END - BEGIN) // MINUTE
ORDER = (
    MarketState.HOLIDAY,
    MarketState.OVERNIGHT,
    MarketState.POST_CLOSE,
    MarketState.PRE_OPEN,
    MarketState.SESSION,
)
NEVER_CLOSED = ("CRYPTO", "24x7")


def minute(at: datetime) -> int:
    """Count the minutes from the beginning; of an instant outside, the nearest there is."""
    count, rest = divmod(at - BEGIN, MINUTE)
    assert not rest
    return min(max(count, 0), MINUTES)


def defined(calendar: TradingCalendar) -> NDArray[np.int8]:
    """Paint each minute by the definition: the weakest states first, those of all members."""
    painted = np.zeros(MINUTES, np.int8)
    spans: list[tuple[int, datetime, datetime]] = []
    config = calendar.config
    for exchange in calendar.exchanges:
        day = BEGIN.date() - 3 * ONE_DAY
        while day <= END.date() + 3 * ONE_DAY:
            if exchange.is_session(day):
                opens, closes = exchange.bounds(day)
                begins = config.pre_open_at(day, opens, exchange.zone)
                ends = config.post_close_ends_at(day, closes, exchange.zone)
                spans += (
                    (1, exchange.midnight(day), exchange.midnight(day + ONE_DAY)),
                    (2, closes, ends),
                    (3, begins, opens),
                    (4, opens, closes),
                )
            day += ONE_DAY
    for level, start, end in sorted(spans):
        painted[minute(start) : minute(end)] = level
    return painted


def walked(name: str) -> NDArray[np.int8]:
    """Paint what is answered, from one transition to the next."""
    painted = np.full(MINUTES, -1, np.int8)
    at, state = BEGIN, get_market_state(name, BEGIN)
    while at < END:
        try:
            until, following = get_next_state_transition(name, at)
        except HorizonError:
            assert name in NEVER_CLOSED
            until, following = END, state
        else:
            assert following is not state
            assert get_market_state(name, until) is following
        assert until > at
        assert get_market_state(name, until - MOMENT) is state
        painted[minute(at) : minute(until)] = ORDER.index(state)
        at, state = until, following
    return painted


def test_every_shipped_market_is_here() -> None:
    assert tuple(market.market_id for market in markets()) == SHIPPED


@pytest.mark.parametrize("name", EVERY)
def test_states_tile_time_in_every_market(name: str) -> None:
    """Two years of minutes: no gap, no overlap, and each transition is the first change."""
    np.testing.assert_array_equal(walked(name), defined(TradingCalendar(name)))


def over_midnight(
    calendar: TradingCalendar, first: date, last: date
) -> list[tuple[date, datetime]]:
    """List sessions that go on past a midnight of UTC, and that midnight."""
    found = []
    for day in calendar.trading_days(first, last):
        session = calendar.session(day)
        midnight = datetime.combine(session.open.date() + ONE_DAY, datetime.min.time(), UTC)
        if session.open < midnight < session.close:
            found.append((day, midnight))
    return found


CROSSING = {
    name: found
    for name in EVERY
    if (found := over_midnight(TradingCalendar(name), date(2026, 3, 1), date(2026, 4, 15)))
}


def test_sessions_go_on_past_midnight_of_utc_where_they_do() -> None:
    assert list(CROSSING) == ["US_FUT", "FX_GLOB", "CMES", "XASX", "XNZE", "us_futures"]


@pytest.mark.parametrize("name", CROSSING)
def test_a_session_keeps_its_label_across_midnight_of_utc(name: str) -> None:
    """From its open to its last moment, also in the weeks in which clocks change."""
    calendar = TradingCalendar(name)
    for day, midnight in CROSSING[name]:
        session = calendar.session(day)
        for at in (session.open, midnight - MOMENT, midnight, session.close - MOMENT):
            status = describe_market(name, at)
            assert (status.state, status.session_date) == (MarketState.SESSION, day)
