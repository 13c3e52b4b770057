"""The prices that are made up."""

from __future__ import annotations

import subprocess
import sys
from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.sources import synthetic
from prometheus.sources.errors import SourceError
from prometheus.sources.synthetic import SyntheticFactors, SyntheticPrices

MARKETS = ["US_EQ", "EU_EQ", "ASIA_EQ"]
START, END = date(2011, 4, 1), date(2012, 11, 23)


def _symbols(mic: str, on: date = END) -> list[str]:
    market = {"XPAR": "EU_EQ", "XTKS": "ASIA_EQ", "XNYS": "US_EQ"}[mic]
    listed = SyntheticPrices().instruments(market, on)
    return [instrument.symbol for instrument in listed if instrument.mic == mic]


@given(
    first=st.dates(date(2005, 1, 1), date(2012, 12, 31)),
    length=st.integers(0, 500),
    later=st.integers(0, 1500),
)
def test_a_bar_is_the_same_whatever_the_range_asked_for(
    first: date, length: int, later: int
) -> None:
    prices = SyntheticPrices()
    symbols = _symbols("XPAR")
    end = first + timedelta(days=length)
    narrow = prices.bars("XPAR", symbols, first, end)
    wide = prices.bars("XPAR", symbols, first - timedelta(days=100), end + timedelta(days=later))
    assert set(narrow) == {bar for bar in wide if first <= bar.session_date <= end}


def test_a_bar_does_not_change_when_the_calendar_gains_a_holiday() -> None:
    def without_one_day(calendar: str, start: date, end: date) -> list[date]:
        days = TradingCalendar(calendar).trading_days(start, end)
        return [day for day in days if day != date(2012, 6, 5)]

    before = SyntheticPrices().bars("XTKS", _symbols("XTKS"), START, END)
    after = SyntheticPrices(session_dates=without_one_day).bars(
        "XTKS", _symbols("XTKS"), START, END
    )
    assert set(after) == {bar for bar in before if bar.session_date != date(2012, 6, 5)}


def test_bars_are_the_same_in_another_process() -> None:
    code = (
        "from datetime import date\n"
        "from prometheus.sources.synthetic import SyntheticPrices\n"
        "day = date(2012, 11, 22)\n"
        "print(SyntheticPrices().bars('XPAR', ['SYPAR01', 'SYPAR02'], day, day))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    day = date(2012, 11, 22)
    here = SyntheticPrices().bars("XPAR", ["SYPAR01", "SYPAR02"], day, day)
    assert answer.strip() == str(here)


def test_known_bar_stays_as_it_was_first_shipped() -> None:
    """A change of this number changes every synthetic history that users have stored."""
    day = date(2012, 11, 22)
    [bar] = SyntheticPrices().bars("XTKS", ["SYTKS01"], day, day)
    assert bar[3:] == (2439.0, 2455.0, 2432.0, 2435.0, 1232432.0, 2435.0)


def test_another_seed_gives_other_bars() -> None:
    one = SyntheticPrices(seed=1).bars("XPAR", ["SYPAR01"], START, END)
    other = SyntheticPrices(seed=2).bars("XPAR", ["SYPAR01"], START, END)
    assert {bar.session_date for bar in one} == {bar.session_date for bar in other}
    assert not set(one) & set(other)


@pytest.mark.parametrize("market_id", MARKETS)
@pytest.mark.parametrize("end", [END, date(2026, 11, 20)])
def test_bars_are_consistent_and_believable(market_id: str, end: date) -> None:
    prices = SyntheticPrices()
    start = end - timedelta(days=600)
    for instrument in prices.instruments(market_id, end):
        bars = prices.bars(instrument.mic, [instrument.symbol], start, end)
        opened, high, low, close, volume, adjusted = np.array([bar[3:] for bar in bars]).T
        assert (high >= np.maximum(opened, close)).all()
        assert (low <= np.minimum(opened, close)).all()
        assert (low > 0).all()
        assert (volume > 0).all()
        moves = np.diff(np.log(adjusted))
        assert np.abs(moves).max() < 0.5
        assert 0.08 < moves.std() * np.sqrt(252) < 0.80


@pytest.mark.parametrize("mic", ["XPAR", "XTKS", "XNYS"])
def test_bars_lie_on_the_true_sessions_of_their_exchange(mic: str) -> None:
    bars = SyntheticPrices().bars(mic, _symbols(mic)[:1], START, END)
    assert [bar.session_date for bar in bars] == TradingCalendar(mic).trading_days(START, END)


@pytest.mark.parametrize("market_id", MARKETS)
def test_instruments_exercise_the_rules(market_id: str) -> None:
    """Each market has a young listing, a rarely traded, a cheap and a sectorless company."""
    prices = SyntheticPrices()
    listed = prices.instruments(market_id, END)
    assert any(instrument.sector is None for instrument in listed)
    bars = {
        instrument.symbol: prices.bars(instrument.mic, [instrument.symbol], START, END)
        for instrument in listed
    }
    counts = sorted(len(found) for found in bars.values())
    assert counts[0] < 252
    assert 0.85 * counts[-1] < counts[1] < 0.96 * counts[-1]


def test_a_company_is_listed_from_its_first_day() -> None:
    prices = SyntheticPrices()
    symbols = [i.symbol for i in prices.instruments("EU_EQ", date(2012, 6, 1))]
    later = [i.symbol for i in prices.instruments("EU_EQ", date(2012, 6, 4))]
    assert sorted(set(later) - set(symbols)) == ["SYLON06"]
    first = prices.bars("XLON", ["SYLON06"], START, END)[0]
    assert first.session_date == date(2012, 6, 6)  # the 4th and 5th were bank holidays


def test_split_halves_the_price_and_not_the_adjusted_close() -> None:
    prices = SyntheticPrices()
    [split] = prices.splits("XPAR", ["SYPAR01", "SYPAR02"], START, END)
    before, after = prices.bars("XPAR", ["SYPAR02"], date(2012, 3, 13), date(2012, 3, 14))
    assert (split.symbol, split.session_date, split.ratio) == ("SYPAR02", date(2012, 3, 14), 2.0)
    assert after.close / before.close == pytest.approx(0.5, abs=0.05)
    assert after.adjusted_close / before.adjusted_close == pytest.approx(1.0, abs=0.1)


def test_symbols_and_names_can_not_be_taken_for_companies() -> None:
    for market_id in MARKETS:
        for instrument in SyntheticPrices().instruments(market_id, END):
            assert instrument.symbol.startswith("SY")
            assert instrument.name.startswith("Synthetic ")
    assert SyntheticPrices().is_synthetic
    assert SyntheticPrices().label(END).name.startswith("synthetic")


def test_companies_load_on_the_market_factor() -> None:
    """A market that moves together: the mean correlation with the factor is substantial."""
    prices = SyntheticPrices()
    factor = {
        row.session_date: np.log1p(row.value)
        for row in SyntheticFactors().returns("EU_EQ", START, END)
        if row.factor == "MKT"
    }
    correlations = []
    for symbol in _symbols("XPAR")[:5]:
        bars = prices.bars("XPAR", [symbol], START, END)
        moves = np.diff(np.log([bar.adjusted_close for bar in bars]))
        market = [factor[bar.session_date] for bar in bars[1:]]
        correlations.append(np.corrcoef(moves, market)[0, 1])
    assert np.mean(correlations) > 0.3


def test_factor_returns_compound_over_a_wider_range_alike() -> None:
    factors = SyntheticFactors()
    narrow = factors.returns("ASIA_EQ", date(2012, 11, 1), END)
    wide = factors.returns("ASIA_EQ", START, END)
    assert set(narrow) <= set(wide)
    assert {row.session_date for row in narrow} == set(
        TradingCalendar("ASIA_EQ").trading_days(date(2012, 11, 1), END)
    )


def test_dates_before_the_first_are_refused_in_words() -> None:
    with pytest.raises(SourceError, match="begin on 1990-01-01"):
        SyntheticPrices().bars("XPAR", ["SYPAR01"], date(1980, 1, 1), date(1980, 2, 1))


def test_an_exchange_of_the_users_own_has_companies_too() -> None:
    def every_weekday(calendar: str, start: date, end: date) -> list[date]:
        days = [start + timedelta(days=n) for n in range((end - start).days + 1)]
        return [day for day in days if day.weekday() < 5]

    prices = SyntheticPrices(members=lambda _: ["XTST"], session_dates=every_weekday)
    listed = prices.instruments("MY_MARKET", END)
    bars = prices.bars("XTST", [listed[0].symbol], date(2012, 11, 19), END)
    assert listed[0].symbol == "SYTST01"
    assert len(bars) == 5


def test_reverting_sum_equals_its_recursion() -> None:
    shocks = np.random.default_rng(5).standard_normal(10_000)
    level, expected = 0.0, []
    for shock in shocks:
        level = 0.98 * level + shock
        expected.append(level)
    np.testing.assert_allclose(synthetic._revert(shocks, 0.98), expected, rtol=1e-9, atol=1e-9)


def test_few_years_of_all_exchanges_are_kept() -> None:
    """A process of a worker that has served all markets keeps them for as long as it lives."""
    day = date(2026, 11, 20)
    for mic in ("XPAR", "XTKS", "XNYS"):
        start = TradingCalendar(mic).trading_days(day - timedelta(days=580), day)[0]
        SyntheticPrices().bars(mic, _symbols(mic), start, day)
        before = synthetic._paths.cache_info().misses
        SyntheticPrices().bars(mic, _symbols(mic), day, day)
        assert synthetic._paths.cache_info().misses == before
        first = synthetic._first_day(day, day)
        kept = synthetic._paths(synthetic.DEFAULT_SEED, mic, first, synthetic._days_until(day))
        assert kept.bars.shape[1] == (date(2027, 1, 1) - date(2024, 1, 1)).days
        assert kept.bars.base is None
