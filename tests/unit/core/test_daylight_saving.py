"""Sessions stay put on the exchange's clock, and states follow them, whenever clocks change."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from prometheus.core.exchanges import load_exchange
from prometheus.core.market_state import MarketState, describe_market, get_market_state
from prometheus.core.trading_calendar import TradingCalendar
from tests.unit.core.test_declarations import declared

HOURS = {
    "XNYS": ("09:30", "16:00"),
    "XNAS": ("09:30", "16:00"),
    "XLON": ("08:00", "16:30"),
    "XPAR": ("09:00", "17:30"),
    "XASX": ("10:00", "16:00"),
}


def offset(zone: ZoneInfo, day: date) -> timedelta:
    found = datetime(day.year, day.month, day.day, 12, tzinfo=zone).utcoffset()
    assert found is not None
    return found


def changes(mic: str) -> list[tuple[str, date, timedelta]]:
    """Find the days of 2015 to 2027 on which an exchange's clocks change, and by how much."""
    return [(mic, day, shift) for day, shift in shifts(load_exchange(mic).zone)]


def shifts(zone: ZoneInfo) -> list[tuple[date, timedelta]]:
    found = []
    day = date(2015, 1, 1)
    while day < date(2028, 1, 1):
        shift = offset(zone, day) - offset(zone, day - timedelta(days=1))
        if shift:
            found.append((day, shift))
        day += timedelta(days=1)
    return found


ALL = [change for mic in HOURS for change in changes(mic)]


def test_clocks_change_twice_a_year_where_they_do() -> None:
    assert len(ALL) == 5 * 13 * 2
    assert {shift for _, _, shift in ALL} == {timedelta(hours=1), timedelta(hours=-1)}


@pytest.mark.parametrize("mic", ["XTKS", "XHKG"])
def test_tokyo_and_hong_kong_keep_their_clocks(mic: str) -> None:
    assert changes(mic) == []


@pytest.mark.parametrize(("mic", "day", "shift"), ALL)
def test_local_hours_stay_and_utc_hours_shift(mic: str, day: date, shift: timedelta) -> None:
    calendar, zone = TradingCalendar(mic), load_exchange(mic).zone
    before = calendar.session(calendar.previous_trading_day(day))
    after = calendar.session(calendar.next_trading_day(day - timedelta(days=1)))
    for session in (before, after):
        opens, closes = (edge.astimezone(zone) for edge in (session.open, session.close))
        assert (f"{opens:%H:%M}", f"{closes:%H:%M}") == HOURS[mic]
    apart = timedelta(days=(after.date - before.date).days)
    # Forward clocks bring the open earlier in UTC.
    assert after.open - before.open == apart - shift
    assert after.close - before.close == apart - shift


@pytest.mark.parametrize(("mic", "day", "shift"), ALL)
def test_states_change_at_the_shifted_instants(mic: str, day: date, shift: timedelta) -> None:
    zone = load_exchange(mic).zone
    after = TradingCalendar(mic).next_trading_day(day - timedelta(days=1))
    hour, minute = map(int, HOURS[mic][0].split(":"))
    opens = datetime(after.year, after.month, after.day, hour, minute, tzinfo=zone).astimezone(UTC)
    moment = timedelta(microseconds=1)
    assert get_market_state(mic, opens - moment) is MarketState.PRE_OPEN
    assert get_market_state(mic, opens) is MarketState.SESSION
    # The hour the clocks took away or gave back is where a fixed offset would have opened.
    where_it_was = opens + shift
    expected = MarketState.SESSION if shift > timedelta(0) else MarketState.PRE_OPEN
    assert get_market_state(mic, where_it_was) is expected


@pytest.mark.parametrize(("mic", "day", "shift"), ALL)
def test_the_sunday_on_which_clocks_change_lasts_from_midnight_to_midnight(
    mic: str, day: date, shift: timedelta
) -> None:
    """It has 23 or 25 hours, all of them HOLIDAY."""
    assert day.weekday() == 6
    exchange = load_exchange(mic)
    starts, ends = exchange.midnight(day), exchange.midnight(day + timedelta(days=1))
    assert ends - starts == timedelta(days=1) - shift
    for at in (starts, ends - timedelta(microseconds=1)):
        assert get_market_state(mic, at) is MarketState.HOLIDAY
    # In some years it is Easter.
    monday = exchange.is_session(day + timedelta(days=1))
    expected = MarketState.OVERNIGHT if monday else MarketState.HOLIDAY
    assert get_market_state(mic, ends) is expected


# --- nights in which clocks change ------------------------------------------------------------

CITIES = {
    "America/New_York": (26, 60),
    "Europe/London": (26, 60),
    "Europe/Paris": (26, 60),
    "Australia/Sydney": (26, 60),
    "Australia/Lord_Howe": (26, 30),
    # At midnight, which then comes not at all or twice; never since February 2019.
    "America/Sao_Paulo": (9, 60),
}
"""Zone -> how often its clocks change in these years, and by how many minutes."""


@pytest.fixture(params=CITIES)
def city(request: pytest.FixtureRequest) -> Iterator[str]:
    """A zone in which a market called NIGHT trades from 22:00 to 05:00, every night."""
    hours = {"days": "Mon-Sun", "open": "22:00-1d", "close": "05:00"}
    with declared({"NIGHT": {"zone": request.param, "hours": hours}}):
        yield request.param


def test_a_night_lasts_as_long_as_its_clocks_let_it(city: str) -> None:
    zone, (times, minutes) = ZoneInfo(city), CITIES[city]
    found = shifts(zone)
    assert (len(found), {abs(shift) for _, shift in found}) == (times, {timedelta(minutes=minutes)})
    moment = timedelta(microseconds=1)
    for changed, shift in found:
        for day, length in (
            (changed - timedelta(days=1), timedelta(hours=7)),
            (changed, timedelta(hours=7) - shift),
            (changed + timedelta(days=1), timedelta(hours=7)),
        ):
            session = TradingCalendar("NIGHT").session(day)
            assert session.close - session.open == length
            assert f"{session.open.astimezone(zone):%a %H:%M}" == (
                f"{day - timedelta(days=1):%a} 22:00"
            )
            assert f"{session.close.astimezone(zone):%a %H:%M}" == f"{day:%a} 05:00"
            # Buffers are durations: clocks that change move them with the session.
            for at, state, label in (
                (session.open - timedelta(hours=1), MarketState.PRE_OPEN, day),
                (session.open - moment, MarketState.PRE_OPEN, day),
                (session.open, MarketState.SESSION, day),
                (session.open + length / 2, MarketState.SESSION, day),
                (session.close - moment, MarketState.SESSION, day),
                (session.close, MarketState.POST_CLOSE, day),
                (session.close + timedelta(hours=2) - moment, MarketState.POST_CLOSE, day),
                (session.close + timedelta(hours=2), MarketState.OVERNIGHT, None),
            ):
                status = describe_market("NIGHT", at)
                assert (status.state, status.session_date) == (state, label)
