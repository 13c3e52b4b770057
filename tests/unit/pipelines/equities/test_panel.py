"""Which sessions a run reads."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.pipelines.equities.panel import (
    Listed,
    Panel,
    last_sessions,
    member_exchanges,
    optional,
    or_nan,
)


@pytest.mark.parametrize("mic", ["XNYS", "XLON", "XTKS", "XHKG"])
@pytest.mark.parametrize("until", [date(2012, 11, 23), date(2001, 9, 21), date(2019, 5, 7)])
def test_last_sessions_are_as_many_as_asked_for_and_end_with_the_date(
    mic: str, until: date
) -> None:
    """Also over the longest closures: New York in 2001, Tokyo's Golden Week of 2019."""
    found = last_sessions(mic, until, 400)
    calendar = TradingCalendar(mic)
    assert len(found) == 400
    assert list(found) == calendar.trading_days(found[0], until)
    assert found[-1] == until or not calendar.is_trading_day(until)


def test_last_sessions_are_fewer_where_the_calendar_begins() -> None:
    first = TradingCalendar("XNYS").trading_days(date(1990, 1, 2), date(1990, 1, 10))
    found = last_sessions("XNYS", date(1990, 1, 10), 400)
    assert list(found) == first


def test_exchanges_of_a_market_are_in_alphabetical_order() -> None:
    assert member_exchanges("US_EQ") == ("XNAS", "XNYS")


def test_nothing_traded_on_a_holiday_of_the_exchange() -> None:
    prices = np.ones((2, 1))
    item = Listed("XTKS", "A", None, "JPY", True)
    days = (date(2012, 11, 21), date(2012, 11, 22))
    closed = Panel("XTKS", date(2012, 11, 23), days, (item,), *[prices] * 6)
    opened = Panel("XTKS", date(2012, 11, 22), days, (item,), *[prices] * 6)
    assert (closed.has_session, bool(closed.traded[0])) == (False, False)
    assert (opened.has_session, bool(opened.traded[0])) == (True, True)


def test_numbers_that_are_not_finite_are_null_in_the_database() -> None:
    assert [optional(value) for value in (1.5, np.nan, np.inf)] == [1.5, None, None]
    np.testing.assert_array_equal(or_nan([1.5, None]), [1.5, np.nan])
