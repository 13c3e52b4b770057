"""What ``ingest_prices`` does with what a feed delivers."""

from __future__ import annotations

import logging
from datetime import date, timedelta

import pytest
from sqlalchemy import Engine

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.context import JobContext
from prometheus.pipelines.equities import tables
from prometheus.pipelines.equities.prices import ingest_prices
from prometheus.pipelines.equities.returns import compute_returns
from prometheus.pipelines.equities.volatility import compute_volatility
from prometheus.sources.errors import SourceError, TooFewRowsError
from prometheus.sources.protocol import Bar, Split
from tests.integration.pipelines.runs import (
    FRIDAY,
    THURSDAY,
    WEDNESDAY,
    ListedPrices,
    ListedSources,
    context,
    flat_prices,
    rows,
    run,
)

SYMBOLS = {f"S{n}": 100.0 for n in range(5)}


@pytest.fixture
def feed() -> ListedPrices:
    """Five companies in London, up to Friday."""
    return flat_prices(FRIDAY, SYMBOLS)


def _context(engine: Engine, feed: ListedPrices, day: date = THURSDAY) -> JobContext:
    return context(engine, "XLON", day, sources=ListedSources(feed))


def test_first_run_loads_400_sessions_and_the_next_one_the_new_day(
    equity_engine: Engine, feed: ListedPrices
) -> None:
    first = ingest_prices(_context(equity_engine, feed, WEDNESDAY))
    assert (first["rows"], first["history_rows"]) == (5, 5 * 399)
    feed.asked.clear()
    second = ingest_prices(_context(equity_engine, feed, THURSDAY))
    assert (second["rows"], second["history_rows"]) == (5, 0)
    sessions = TradingCalendar("XLON").trading_days(WEDNESDAY - timedelta(days=14), THURSDAY)
    assert feed.asked == [("XLON", tuple(sorted(SYMBOLS)), sessions[-6], THURSDAY)]


def test_a_hole_in_the_history_is_filled(equity_engine: Engine, feed: ListedPrices) -> None:
    missing = TradingCalendar("XLON").trading_days(date(2012, 10, 1), THURSDAY)[3]
    bar = feed.bars_by_key["S1", missing]
    feed.drop("S1", missing)
    ingest_prices(_context(equity_engine, feed, WEDNESDAY))
    feed.bars_by_key["S1", missing] = bar
    result = ingest_prices(_context(equity_engine, feed, THURSDAY))
    assert result["history_rows"] == 1
    assert len(rows(equity_engine, tables.eq_prices, session_date=missing)) == 5


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"high": 90.0, "low": 110.0}, "high_below_low"),
        ({"close": 0.0}, "not_positive"),
        ({"close": float("nan")}, "not_a_number"),
        ({"close": 120.0}, "outside_range"),
        ({"volume": -1.0}, "negative_volume"),
        ({"open": 10, "high": 11, "low": 9, "close": 10, "adjusted_close": 10}, "jump"),
    ],
)
def test_a_bad_bar_is_quarantined_reported_and_not_computed_on(
    equity_engine: Engine,
    feed: ListedPrices,
    caplog: pytest.LogCaptureFixture,
    values: dict[str, float],
    reason: str,
) -> None:
    feed.change("S2", THURSDAY, **values)
    ctx = _context(equity_engine, feed)
    with caplog.at_level(logging.WARNING):
        result = ingest_prices(ctx)
    place = {"mic": "XLON", "symbol": "S2", "session_date": "2012-11-22", "reason": reason}
    assert result["quarantined_bars"] == [place]
    assert result["rows"] == 4
    assert [record.message for record in caplog.records] == ["price_quarantined"]
    [held] = rows(equity_engine, tables.eq_quarantine)
    assert (held["symbol"], held["session_date"], held["reason"]) == ("S2", THURSDAY, reason)
    assert held["source"] == feed.name
    run(ctx, [compute_returns, compute_volatility])
    for table in (tables.eq_prices, tables.eq_returns, tables.eq_volatility):
        found = [row["symbol"] for row in rows(equity_engine, table, session_date=THURSDAY)]
        assert found == ["S0", "S1", "S3", "S4"], table.name
    # Again: nothing new to say, and the bar stays where it is.
    again = ingest_prices(ctx)
    assert again["quarantined"] == 0
    assert rows(equity_engine, tables.eq_quarantine) == [held]
    assert again["rows"] == 4


def test_the_day_after_a_quarantined_bar_has_a_gap_and_no_return(
    equity_engine: Engine, feed: ListedPrices
) -> None:
    feed.change("S2", THURSDAY, close=0.0)
    for day in (THURSDAY, FRIDAY):
        run(_context(equity_engine, feed, day), [ingest_prices, compute_returns])
    [row] = rows(equity_engine, tables.eq_returns, session_date=FRIDAY, symbol="S2")
    assert (row["simple_return"], row["gap_sessions"]) == (None, 1)


def test_a_corrected_bar_leaves_quarantine(equity_engine: Engine, feed: ListedPrices) -> None:
    good = feed.bars_by_key["S2", THURSDAY]
    feed.change("S2", THURSDAY, close=0.0)
    ingest_prices(_context(equity_engine, feed))
    feed.bars_by_key["S2", THURSDAY] = good
    result = ingest_prices(_context(equity_engine, feed, FRIDAY))
    assert result["quarantined"] == 0
    assert rows(equity_engine, tables.eq_quarantine) == []
    assert len(rows(equity_engine, tables.eq_prices, session_date=THURSDAY)) == 5


def test_a_bar_that_turns_bad_goes_to_quarantine_with_its_return(
    equity_engine: Engine, feed: ListedPrices
) -> None:
    ctx = _context(equity_engine, feed)
    run(ctx, [ingest_prices, compute_returns])
    feed.change("S2", THURSDAY, high=1.0)
    run(ctx, [ingest_prices, compute_returns])
    assert len(rows(equity_engine, tables.eq_prices, session_date=THURSDAY)) == 4
    assert len(rows(equity_engine, tables.eq_returns, session_date=THURSDAY)) == 4
    assert len(rows(equity_engine, tables.eq_quarantine)) == 1


def test_a_revised_bar_replaces_the_old_one_which_is_kept(
    equity_engine: Engine, feed: ListedPrices
) -> None:
    ingest_prices(_context(equity_engine, feed))
    [old] = rows(equity_engine, tables.eq_prices, session_date=WEDNESDAY, symbol="S3")
    feed.change("S3", WEDNESDAY, volume=2e6)
    result = ingest_prices(_context(equity_engine, feed))
    assert result["revised_rows"] == 1
    [new] = rows(equity_engine, tables.eq_prices, session_date=WEDNESDAY, symbol="S3")
    [kept] = rows(equity_engine, tables.eq_price_revisions)
    assert (old["volume"], new["volume"], new["revision"]) == (1e6, 2e6, 1)
    assert {name: kept[name] for name in old} == old


def test_bars_that_did_not_change_keep_when_they_were_fetched(
    equity_engine: Engine, feed: ListedPrices
) -> None:
    ingest_prices(_context(equity_engine, feed))
    before = rows(equity_engine, tables.eq_prices)
    ingest_prices(_context(equity_engine, feed))
    assert rows(equity_engine, tables.eq_prices) == before
    assert rows(equity_engine, tables.eq_price_revisions) == []


def test_a_new_basis_of_adjustment_reloads_the_whole_history(
    equity_engine: Engine, feed: ListedPrices
) -> None:
    """A dividend lowers every earlier adjusted close; mixing the two would invent a return."""
    ctx = _context(equity_engine, feed)
    run(ctx, [ingest_prices, compute_returns])
    for (symbol, day), bar in list(feed.bars_by_key.items()):
        if symbol == "S4" and day <= THURSDAY:
            feed.change(symbol, day, adjusted_close=bar.adjusted_close * 0.97)
    later = _context(equity_engine, feed, FRIDAY)
    result = run(later, [ingest_prices, compute_returns])
    assert result["ingest_prices"]["revised_rows"] == 399
    [row] = rows(equity_engine, tables.eq_returns, session_date=FRIDAY, symbol="S4")
    assert row["simple_return"] == pytest.approx(1 / 0.999 / 0.97 - 1)
    [row] = rows(equity_engine, tables.eq_returns, session_date=THURSDAY, symbol="S4")
    assert row["simple_return"] == pytest.approx(1 / 0.999 - 1)


def test_a_split_the_feed_names_is_believed_without_adjusted_closes(
    equity_engine: Engine, feed: ListedPrices
) -> None:
    halves = dict.fromkeys(("open", "high", "low", "close", "adjusted_close"), 50.0)
    feed.change("S1", THURSDAY, **halves)
    feed.splits_known = [Split("XLON", "S1", THURSDAY, 2.0)]
    assert ingest_prices(_context(equity_engine, feed))["quarantined"] == 0


def test_splits_that_the_bars_show_are_reported(equity_engine: Engine, feed: ListedPrices) -> None:
    bar = feed.bars_by_key["S1", THURSDAY]
    feed.change(
        "S1", THURSDAY, open=bar.open / 4, high=bar.high / 4, low=bar.low / 4, close=bar.close / 4
    )
    result = ingest_prices(_context(equity_engine, feed))
    assert result["quarantined"] == 0
    assert result["splits"] == [
        {"mic": "XLON", "symbol": "S1", "session_date": "2012-11-22", "ratio": 4.0}
    ]


def test_too_few_bars_fail_and_write_nothing(equity_engine: Engine, feed: ListedPrices) -> None:
    for symbol in ("S0", "S1"):
        feed.drop(symbol, THURSDAY)
    with pytest.raises(
        TooFewRowsError, match="3 bars of XLON for 2012-11-22; at least 4"
    ) as caught:
        ingest_prices(_context(equity_engine, feed))
    assert caught.value.retryable
    assert (caught.value.rows, caught.value.needed) == (3, 4)
    assert rows(equity_engine, tables.eq_prices) == []
    assert rows(equity_engine, tables.eq_instruments) == []


def test_no_bars_at_all_fail_for_a_single_company_too(
    equity_engine: Engine,
) -> None:
    feed = flat_prices(WEDNESDAY, {"S0": 100.0})
    with pytest.raises(TooFewRowsError, match="0 bars"):
        ingest_prices(_context(equity_engine, feed))


def test_bars_of_later_sessions_are_not_let_in(equity_engine: Engine, feed: ListedPrices) -> None:
    feed.also = [feed.bars_by_key["S0", FRIDAY]]
    ingest_prices(_context(equity_engine, feed))
    assert rows(equity_engine, tables.eq_prices, session_date=FRIDAY) == []
    assert rows(equity_engine, tables.eq_quarantine) == []
    assert all(end <= THURSDAY for *_, end in feed.asked)


def test_bars_on_no_session_are_quarantined(equity_engine: Engine, feed: ListedPrices) -> None:
    sunday = date(2012, 11, 18)
    feed.also = [Bar("XLON", "S0", sunday, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)]
    result = ingest_prices(_context(equity_engine, feed))
    assert [bar["reason"] for bar in result["quarantined_bars"]] == ["not_a_session"]
    [held] = rows(equity_engine, tables.eq_quarantine)
    assert held["session_date"] == sunday


def test_bars_of_unknown_symbols_are_passed_over(equity_engine: Engine, feed: ListedPrices) -> None:
    feed.also = [feed.bars_by_key["S0", THURSDAY]._replace(symbol="WHO")]
    assert ingest_prices(_context(equity_engine, feed))["rows"] == 5


def test_bars_of_another_source_are_replaced(equity_engine: Engine, feed: ListedPrices) -> None:
    ingest_prices(_context(equity_engine, feed))
    other = flat_prices(FRIDAY, dict.fromkeys(SYMBOLS, 200.0))
    other.name = "other: a second feed"
    ingest_prices(_context(equity_engine, other))
    found = rows(equity_engine, tables.eq_prices)
    assert {row["source"] for row in found} == {other.name}
    assert {row["revision"] for row in found} == {1}
    assert len(rows(equity_engine, tables.eq_price_revisions)) == 5 * 400


def test_a_feed_without_instruments_fails_in_words(
    equity_engine: Engine, feed: ListedPrices
) -> None:
    feed.listed = []
    with pytest.raises(SourceError, match="lists no instruments of XLON for 2012-11-22"):
        ingest_prices(_context(equity_engine, feed))


def test_apples_crash_of_2000_is_held_back_and_its_split_is_not(equity_engine: Engine) -> None:
    ctx = context(equity_engine, "US_EQ", date(2000, 9, 29))
    result = ingest_prices(ctx)
    assert [(bar["symbol"], bar["reason"]) for bar in result["quarantined_bars"]] == [
        ("AAPL", "jump")
    ]
    assert [(split["symbol"], split["session_date"]) for split in result["splits"]] == [
        ("AAPL", "2000-06-21")
    ]
    next_session = ingest_prices(context(equity_engine, "US_EQ", date(2000, 10, 2)))
    assert next_session["quarantined"] == 0
    assert next_session["rows"] == 3


def test_a_wider_jump_limit_lets_it_in(equity_engine: Engine) -> None:
    ctx = context(equity_engine, "US_EQ", date(2000, 9, 29), jump_limit=0.8)
    assert ingest_prices(ctx)["quarantined"] == 0
