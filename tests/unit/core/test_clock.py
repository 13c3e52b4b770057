"""The market clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prometheus.core.clock import MarketClock
from prometheus.errors import NaiveDatetimeError

WALL = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
MARKET = datetime(2012, 11, 21, 13, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_live_market_time_is_wall_time() -> None:
    clock = MarketClock()
    assert clock.is_live
    assert clock.market_time(WALL) == WALL
    assert clock.wall_delay(MINUTE) == MINUTE


def test_a_replay_begins_at_its_anchor() -> None:
    assert MarketClock(MARKET, WALL, 60).market_time(WALL) == MARKET


def test_market_time_passes_at_the_speed() -> None:
    clock = MarketClock(MARKET, WALL, 60)
    assert clock.market_time(WALL + MINUTE) == MARKET + timedelta(hours=1)


def test_a_countdown_is_divided_by_the_speed() -> None:
    assert MarketClock(MARKET, WALL, 60).wall_delay(timedelta(hours=1)) == MINUTE


def test_a_standing_clock_shows_its_anchor_whatever_the_wall_says() -> None:
    clock = MarketClock(MARKET, WALL, 0)
    assert clock.stands
    assert clock.market_time(WALL + timedelta(days=3)) == MARKET


def test_nothing_is_waited_for_on_a_standing_clock() -> None:
    assert MarketClock(MARKET, WALL, 0).wall_delay(timedelta(hours=1)) == timedelta(0)


@pytest.mark.parametrize(
    ("market_at", "wall_at", "speed"),
    [
        (MARKET, None, 1),
        (None, WALL, 1),
        (None, None, 60),
        (MARKET, WALL, -1),
        (MARKET, WALL, float("inf")),
        (MARKET, WALL, float("nan")),
    ],
)
def test_a_clock_that_makes_no_sense_is_refused(
    market_at: datetime | None, wall_at: datetime | None, speed: float
) -> None:
    with pytest.raises(ValueError, match=r"anchor|speed"):
        MarketClock(market_at, wall_at, speed)


def test_naive_instants_are_refused() -> None:
    with pytest.raises(NaiveDatetimeError, match="anchor_market_at"):
        MarketClock(MARKET.replace(tzinfo=None), WALL, 1)
    with pytest.raises(NaiveDatetimeError, match="wall_now"):
        MarketClock().market_time(WALL.replace(tzinfo=None))


@given(
    speed=st.floats(0.001, 10_000),
    seconds=st.lists(st.integers(0, 100_000), min_size=2, max_size=10),
)
def test_market_time_never_runs_backwards(speed: float, seconds: list[int]) -> None:
    clock = MarketClock(MARKET, WALL, speed)
    shown = [clock.market_time(WALL + timedelta(seconds=s)) for s in sorted(seconds)]
    assert shown == sorted(shown)


@given(speed=st.floats(0.01, 10_000), delay=st.integers(0, 1_000_000))
def test_a_countdown_ends_when_market_time_has_passed_by_it(speed: float, delay: int) -> None:
    clock = MarketClock(MARKET, WALL, speed)
    reached = clock.market_time(WALL + clock.wall_delay(timedelta(seconds=delay)))
    # Both directions round to microseconds, one of which the speed then multiplies.
    assert abs(reached - MARKET - timedelta(seconds=delay)) <= timedelta(microseconds=speed + 1)
