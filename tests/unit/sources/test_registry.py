"""Which feed serves which market."""

from __future__ import annotations

from datetime import date

import pytest
from pydantic import SecretStr

from prometheus.sources.bundled import INSTRUMENTS
from prometheus.sources.choice import BUNDLED_EXCHANGES
from prometheus.sources.eodhd.naming import EodhdFeed
from prometheus.sources.errors import (
    SourceConfigurationError,
    SourceError,
    UnknownSourceError,
)
from prometheus.sources.registry import build_sources

BUNDLED_DAY = date(2012, 11, 21)
LATER_DAY = date(2026, 11, 20)


def test_us_sessions_of_the_bundled_years_are_real() -> None:
    source = build_sources().prices("US_EQ")
    listed = source.instruments("US_EQ", BUNDLED_DAY)
    assert [i.symbol for i in listed] == ["AAPL", "FB", "GOOG", "MSFT", "IBM"]
    assert not source.label(BUNDLED_DAY).is_synthetic
    assert source.name.startswith("bundled")


@pytest.mark.parametrize("day", [date(2000, 2, 29), date(2013, 3, 4), LATER_DAY])
def test_us_sessions_of_other_years_are_synthetic_throughout(day: date) -> None:
    """Also the history of such a run, so that it never turns from made-up to real half way."""
    source = build_sources().prices("US_EQ")
    assert source.label(day).is_synthetic
    symbols = [i.symbol for i in source.instruments("US_EQ", day) if i.mic == "XNAS"]
    bars = source.bars("XNAS", symbols, date(day.year - 1, day.month, day.day - 1), day)
    assert bars
    assert {bar.symbol[:2] for bar in bars} == {"SY"}


@pytest.mark.parametrize("market_id", ["EU_EQ", "ASIA_EQ"])
def test_other_markets_are_synthetic_in_all_years(market_id: str) -> None:
    source = build_sources().prices(market_id)
    assert source.is_synthetic
    assert source.label(BUNDLED_DAY).is_synthetic


def test_factors_of_the_bundled_years_say_which_are_real() -> None:
    factors = build_sources().factors("US_EQ")
    rows = factors.returns("US_EQ", BUNDLED_DAY, BUNDLED_DAY)
    assert {row.factor: row.is_synthetic for row in rows} == {
        "MKT": False,
        "MOM": True,
        "QUAL": True,
        "SIZE": True,
        "MINVOL": True,
        "VALUE": True,
    }
    assert all(row.is_synthetic for row in factors.returns("US_EQ", LATER_DAY, LATER_DAY))


def test_a_market_can_be_made_synthetic() -> None:
    sources = build_sources({"US_EQ": "synthetic"})
    assert sources.prices("US_EQ").label(BUNDLED_DAY).is_synthetic
    assert sources.source_name("US_EQ") == "synthetic"


def test_one_exchange_of_the_bundled_file_can_be_a_market() -> None:
    source = build_sources({"XNYS": "bundled"}).prices("XNYS")
    assert [i.symbol for i in source.instruments("XNYS", BUNDLED_DAY)] == ["IBM"]


def test_unknown_source_names_the_nearest() -> None:
    with pytest.raises(UnknownSourceError, match="Did you mean 'bundled'"):
        build_sources({"US_EQ": "bundeld"})


def test_eodhd_serves_a_market_only_with_all_that_it_needs() -> None:
    """Nothing else is put in its place: that would trade on made-up prices unasked."""
    with pytest.raises(SourceConfigurationError) as caught:
        build_sources({"EU_EQ": "eodhd"})
    for said in ("needs a token", "needs symbols on XPAR or XLON", "stands for the market"):
        assert said in str(caught.value)
    feed = EodhdFeed(SecretStr("abc"), symbols=("XNAS:AAPL",))
    sources = build_sources({"US_EQ": "eodhd"}, eodhd=feed)
    assert sources.prices("US_EQ").name.startswith("eodhd: ")
    assert sources.factors("US_EQ").name.startswith("eodhd: ")
    assert sources.prices("EU_EQ").is_synthetic


def test_bundled_prices_of_another_market_are_refused() -> None:
    with pytest.raises(SourceConfigurationError, match="XNAS, XNYS only"):
        build_sources({"EU_EQ": "bundled"})


def test_exchanges_of_the_bundled_file_are_those_that_the_choice_knows() -> None:
    assert {instrument.mic for instrument in INSTRUMENTS} == BUNDLED_EXCHANGES


def test_only_feed_failures_are_worth_another_attempt() -> None:
    assert SourceError.retryable
    assert not SourceConfigurationError.retryable
