"""Markets and their names."""

from __future__ import annotations

from datetime import timedelta

import pytest

from prometheus.core.markets import Market, get_market, markets
from prometheus.core.states import MarketStateConfig
from prometheus.errors import UnknownMarketError


def test_nine_markets_are_shipped() -> None:
    assert {market.market_id: market.members for market in markets()} == {
        "US_EQ": ("XNYS", "XNAS"),
        "EU_EQ": ("XPAR", "XLON"),
        "ASIA_EQ": ("XTKS", "XHKG"),
        "JP_EQ": ("XTKS",),
        "HK_EQ": ("XHKG",),
        "UK_EQ": ("XLON",),
        "US_FUT": ("US_FUT",),
        "FX_GLOB": ("FX_GLOB",),
        "CRYPTO": ("CRYPTO",),
    }


def test_buffers_are_an_hour_before_and_two_after_by_default() -> None:
    assert get_market("US_EQ").config == MarketStateConfig(
        pre_open=timedelta(minutes=60), post_close=timedelta(minutes=120)
    )


def test_a_mic_is_a_market_of_one_exchange() -> None:
    assert get_market("XTKS") == Market("XTKS", ("XTKS",))


def test_a_market_value_stands_for_itself() -> None:
    mine = Market("PACIFIC", ("XTKS",))
    assert get_market(mine) is mine


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("US_EQS", "US_EQ"), ("us_eq", "US_EQ"), ("XTKK", "XTKS")]
)
def test_an_unknown_name_is_answered_with_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UnknownMarketError, match=f"Did you mean '{nearest}'") as caught:
        get_market(wrong)
    assert caught.value.name == wrong


def test_a_name_that_resembles_nothing_is_answered_with_some() -> None:
    with pytest.raises(UnknownMarketError, match=r"Known: 24x5, .*ASIA_EQ, .* and 69 more"):
        get_market("MOON")


@pytest.mark.parametrize("members", [(), ("XNYS", "XNYS")])
def test_a_market_needs_members_each_named_once(members: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="member"):
        Market("ODD", members)


@pytest.mark.parametrize(
    "buffers", [{"pre_open": timedelta(-1)}, {"post_close": timedelta(milliseconds=1500)}]
)
def test_a_buffer_is_zero_or_more_whole_seconds(buffers: dict[str, timedelta]) -> None:
    with pytest.raises(ValueError, match="whole seconds"):
        MarketStateConfig(**buffers)
