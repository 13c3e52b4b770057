"""States tile time in whatever market is shipped or declared, whatever is laid over it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prometheus.core.exchanges import LocalTime, exchange_mics
from prometheus.core.market_state import (
    MarketState,
    get_market_state,
    get_next_state_transition,
    iter_states,
)
from prometheus.core.markets import get_market, markets
from prometheus.core.overrides import Override, OverrideKind, Overrides, in_force, put_in_force
from prometheus.core.trading_calendar import TradingCalendar
from tests.unit.core.test_declarations import (
    MOMENT,
    ONE_DAY,
    STRENGTH,
    declared,
    near_changes,
    random_markets,
)

AROUND = timedelta(days=4)
EXCHANGES = ("XNYS", "XLON", "XPAR", "XASX", "BVMF", "XTKS", "XHKG", "XNZE", "CMES")
SHIPPED = (*(market.market_id for market in markets()), *exchange_mics())
KINDS = tuple(kind for kind in OverrideKind if kind is not OverrideKind.WITHDRAWN)

near_new_years = st.builds(
    lambda year, seconds: datetime(year, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds),
    st.integers(2017, 2026),
    st.integers(-3 * 86_400, 3 * 86_400),
)


@pytest.fixture(autouse=True)
def _no_override_stays() -> Iterator[None]:
    before = in_force()
    yield
    put_in_force(before)


@st.composite
def random_composites(draw: st.DrawFn) -> dict[str, Any]:
    """Exchanges of any zones, with buffers by duration or each by its own clock."""
    members = draw(st.lists(st.sampled_from(EXCHANGES), min_size=1, max_size=3, unique=True))
    table: dict[str, Any] = {"members": members}
    for key, clock in (("pre_open", "12:00-1d"), ("post_close", "12:00+1d")):
        table[key] = draw(st.sampled_from([f"{draw(st.integers(0, 1200))}m", clock]))
    return table


@st.composite
def random_exceptions(draw: st.DrawFn, table: dict[str, Any], now: datetime) -> dict[str, Any]:
    """Own hours with closed days, and sessions on days that are far from any hours."""
    if "members" in table:
        return table
    days = [now.date() + n * ONE_DAY for n in range(-3, 4)]
    week = [entry["days"] for entry in table.get("hours", ())]
    # What has no hours can not be closed.
    opened = [day for day in days if "hours" not in table or f"{day:%a}" in week]
    closed = draw(st.sets(st.sampled_from(opened), max_size=2)) if opened else set()
    table = table | {"closed": sorted(closed)}
    free = [day for day in days if all(f"{day + n * ONE_DAY:%a}" not in week for n in (-1, 0, 1))]
    if "hours" in table and (free := [day for day in free if day not in closed]):
        table["special"] = {
            day.isoformat(): {"open": "12:00-1d", "close": "11:00"}
            for day in draw(st.sets(st.sampled_from(free), max_size=2))
        }
    return table


@st.composite
def random_overrides(draw: st.DrawFn, name: str, now: datetime) -> Overrides:
    """Anything that could stand in the table for a market or its members, sensible or not."""
    local_times = st.none() | st.builds(
        LocalTime, st.builds(time, st.integers(0, 23), st.sampled_from([0, 30])), st.integers(-1, 1)
    )
    market, rows = get_market(name), []
    for number in range(1, draw(st.integers(0, 3)) + 1):
        target = draw(st.sampled_from([market.market_id, *market.members]))
        is_market = target not in exchange_mics()
        rows.append(
            Override(
                override_id=number,
                market=target if is_market else None,
                exchange=None if is_market else target,
                session=now.date() + draw(st.integers(-3, 3)) * ONE_DAY,
                kind=draw(st.sampled_from(KINDS)),
                open=draw(local_times),
                close=draw(local_times),
                reason="a storm",
                source="the exchange",
                announced_at=now,
                author="ann",
            )
        )
    return Overrides(tuple(rows))


def plain(calendar: TradingCalendar, now: datetime) -> MarketState:
    """Read the definition out loud, an exchange and a session at a time."""
    found = {MarketState.HOLIDAY}
    config = calendar.config
    for exchange in calendar.exchanges:
        if exchange.is_session(now.astimezone(exchange.zone).date()):
            found.add(MarketState.OVERNIGHT)
        for offset in range(-4, 5):
            day = now.date() + offset * ONE_DAY
            if not exchange.is_session(day):
                continue
            opens, closes = exchange.bounds(day)
            for state, start, end in (
                (MarketState.PRE_OPEN, config.pre_open_at(day, opens, exchange.zone), opens),
                (MarketState.SESSION, opens, closes),
                (
                    MarketState.POST_CLOSE,
                    closes,
                    config.post_close_ends_at(day, closes, exchange.zone),
                ),
            ):
                if start <= now < end:
                    found.add(state)
    return max(found, key=STRENGTH.index)


def check_tiling(calendar: TradingCalendar, now: datetime) -> None:
    """
    Go through the states around an instant, of a calendar in force.

    Each is its definition's at both its ends, and the next transition is the first change.
    """
    name = calendar.market_id
    spans = []
    for at, state in iter_states(calendar, now - AROUND):
        spans.append((at, state))
        if at >= now + AROUND:
            break
    for (at, state), (until, following) in pairwise(spans):
        assert at < until
        assert state is not following
        for instant in (at, until - MOMENT, at + (until - at) / 2):
            assert plain(calendar, instant) is state
            assert get_market_state(name, instant) is state
        assert get_next_state_transition(name, at) == (until, following)


@settings(max_examples=40)
@given(
    data=st.data(),
    table=st.one_of(random_markets(), random_composites()),
    now=st.one_of(near_changes, near_new_years).filter(lambda now: now.year < 2027),
)
def test_states_tile_time(data: st.DataObject, table: dict[str, Any], now: datetime) -> None:
    """
    Of declared markets and composites, with closed and special days and overrides, where clocks or
    the year of UTC change.
    """
    with declared({"ANY": data.draw(random_exceptions(table, now))}):
        overrides = data.draw(random_overrides("ANY", now))
        get_market_state("ANY", now)  # whatever is kept of this must not last
        put_in_force(overrides)
        check_tiling(TradingCalendar("ANY"), now)


@settings(max_examples=2)
@given(
    data=st.data(),
    now=st.one_of(near_changes, near_new_years).filter(lambda now: 2021 < now.year < 2026),
)
@pytest.mark.parametrize("name", SHIPPED)
def test_states_of_what_is_shipped_tile_time(name: str, data: st.DataObject, now: datetime) -> None:
    """Of every market and every exchange alone, with overrides."""
    overrides = data.draw(random_overrides(name, now))
    get_market_state(name, now)
    put_in_force(overrides)
    check_tiling(TradingCalendar(name), now)
