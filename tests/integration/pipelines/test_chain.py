"""The nine jobs one after the other, on both databases, over three days of November 2012."""

from __future__ import annotations

import json
import threading
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from sqlalchemy import Connection, Engine, event

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.persistence.engine import reading, writing
from prometheus.pipelines.equities import tables
from prometheus.pipelines.equities.books import run_books
from prometheus.pipelines.equities.errors import MissingInputError
from prometheus.pipelines.equities.factors import ingest_factors, load_factors
from prometheus.pipelines.equities.prices import ingest_prices
from prometheus.pipelines.equities.profiles import update_profiles
from prometheus.pipelines.equities.report import book_weights, run_sources
from prometheus.pipelines.equities.returns import compute_returns
from prometheus.pipelines.equities.signals import run_signals
from prometheus.pipelines.equities.storage import CHUNK
from prometheus.pipelines.equities.windows import build_numeric_windows, decode
from prometheus.sources.errors import SourceError
from prometheus.sources.protocol import FactorReturn, FactorSource, PriceSource, Sources
from prometheus.sources.registry import build_sources
from tests.integration.pipelines.runs import (
    DERIVED,
    FRIDAY,
    JOBS,
    THURSDAY,
    WEDNESDAY,
    Job,
    context,
    everything,
    rows,
    run,
    weights,
)


def test_us_book_follows_real_prices_over_thanksgiving(equity_engine: Engine) -> None:
    first = run(context(equity_engine, "US_EQ", WEDNESDAY))
    second = run(context(equity_engine, "US_EQ", FRIDAY))

    assert first["ingest_prices"]["rows"] == 5
    # 400 sessions of four companies, and FB's since May, but for the session itself.
    assert first["ingest_prices"]["history_rows"] == 4 * 399 + 128
    assert second["ingest_prices"]["history_rows"] == 0
    assert second["ingest_prices"]["source"].startswith("bundled")
    assert not second["ingest_prices"]["is_synthetic"]
    assert second["run_books"]["previous_book"] == "2012-11-21"
    for day, held in ((WEDNESDAY, {"AAPL", "MSFT"}), (FRIDAY, {"AAPL"})):
        book = weights(equity_engine, "US_EQ", day)
        assert set(book) == held
        assert all(0 < weight <= 0.1 + 1e-9 for weight in book.values())
        assert sum(book.values()) <= 0.3 + 1e-9  # all of one sector; the rest is cash
    scores = {
        row["symbol"]: row["score"]
        for row in rows(equity_engine, tables.eq_signals, session_date=WEDNESDAY)
    }
    # Worked out from the file by hand; FB, which has no score, moves no other's.
    assert scores.pop("FB") is None
    assert scores == pytest.approx(
        {"AAPL": 0.613, "MSFT": 0.027, "IBM": -0.236, "GOOG": -0.405}, abs=0.0006
    )
    facebook = rows(
        equity_engine, tables.eq_universes, session_date=FRIDAY, market_id="US_EQ", symbol="FB"
    )
    assert facebook[0]["reason"] == "short_history"
    # The run of the 23rd begins from the book of the 21st.
    before = weights(equity_engine, "US_EQ", WEDNESDAY)
    for row in rows(equity_engine, tables.eq_books, market_id="US_EQ", session_date=FRIDAY):
        assert row["previous_weight"] == before.get(row["symbol"], 0.0)


def test_real_profile_and_signal_of_apple(equity_engine: Engine) -> None:
    """Numbers that can be checked by hand against the file."""
    run(context(equity_engine, "US_EQ", FRIDAY))
    [signal] = rows(equity_engine, tables.eq_signals, session_date=FRIDAY, symbol="AAPL")
    [profile] = rows(equity_engine, tables.eq_profiles, session_date=FRIDAY, symbol="AAPL")
    assert signal["momentum"] == profile["momentum_12_1"]
    assert signal["momentum"] == pytest.approx(0.72553, abs=1e-5)
    assert signal["reversal"] == pytest.approx(-profile["return_21"])
    # 705.07 on 2012-09-21 was the intraday high of the year.
    assert profile["price_to_52w_high"] == pytest.approx(571.5 / 705.07, abs=0.005)
    assert profile["last_trade_age"] == 0
    assert profile["bars"] == 400
    assert sorted(profile["loadings"]) == ["MINVOL", "MKT", "MOM", "QUAL", "SIZE", "VALUE"]
    [returned] = rows(equity_engine, tables.eq_returns, session_date=FRIDAY, symbol="AAPL")
    assert returned["simple_return"] == pytest.approx(571.5 / 561.7 - 1, abs=1e-5)
    assert returned["gap_sessions"] == 0


def test_a_second_run_changes_no_row(equity_engine: Engine) -> None:
    for day in (WEDNESDAY, THURSDAY):
        run(context(equity_engine, "EU_EQ", day))
    before = everything(equity_engine)
    for day in (THURSDAY, WEDNESDAY, THURSDAY):
        run(context(equity_engine, "EU_EQ", day))
    assert everything(equity_engine) == before


def test_a_day_run_late_gives_the_rows_it_would_have_given_in_time(
    equity_engine: Engine,
) -> None:
    """Only the rows of the day itself: a book begins from the last one before it."""
    run(context(equity_engine, "EU_EQ", THURSDAY))
    in_time = {table.name: rows(equity_engine, table, session_date=THURSDAY) for table in DERIVED}
    run(context(equity_engine, "EU_EQ", FRIDAY))
    for table in DERIVED:
        with writing(equity_engine) as connection:
            connection.execute(table.delete().where(table.c.session_date == THURSDAY))
    run(context(equity_engine, "EU_EQ", THURSDAY))
    for table in DERIVED:
        assert rows(equity_engine, table, session_date=THURSDAY) == in_time[table.name]


def test_an_exchange_on_holiday_gets_no_rows_and_keeps_its_weights(
    equity_engine: Engine,
) -> None:
    """Tokyo was closed on 2012-11-23 (Labour Thanksgiving Day), Hong Kong was open."""
    for day in (WEDNESDAY, THURSDAY):
        run(context(equity_engine, "ASIA_EQ", day))
    results = run(context(equity_engine, "ASIA_EQ", FRIDAY))
    exchanges = results["ingest_prices"]["exchanges"]
    assert exchanges["XTKS"] == {"session": False, "rows": 0}
    assert exchanges["XHKG"]["session"]
    for table in (
        tables.eq_prices,
        tables.eq_returns,
        tables.eq_volatility,
        tables.eq_windows,
        tables.eq_profiles,
        tables.eq_signals,
    ):
        found = rows(equity_engine, table, session_date=FRIDAY)
        assert {row["mic"] for row in found} == {"XHKG"}, table.name
    universe = rows(equity_engine, tables.eq_universes, session_date=FRIDAY)
    assert {row["mic"] for row in universe if row["is_member"]} == {"XHKG", "XTKS"}
    before = weights(equity_engine, "ASIA_EQ", THURSDAY)
    after = weights(equity_engine, "ASIA_EQ", FRIDAY)
    tokyo = {symbol: weight for symbol, weight in before.items() if symbol.startswith("SYTKS")}
    assert tokyo
    assert {symbol: weight for symbol, weight in after.items() if symbol in tokyo} == tokyo
    reasons = {row["symbol"]: row["reason"] for row in rows(equity_engine, tables.eq_books)}
    assert all(reasons[symbol] == "not_traded" for symbol in tokyo)


def test_the_first_run_ever_may_fall_on_a_holiday_of_one_exchange(
    equity_engine: Engine,
) -> None:
    """Tokyo's history is loaded all the same; nothing of it can be bought that day."""
    results = run(context(equity_engine, "ASIA_EQ", FRIDAY))
    assert results["ingest_prices"]["history_rows"] > 11 * 350
    assert {symbol[:5] for symbol in weights(equity_engine, "ASIA_EQ", FRIDAY)} == {"SYHKG"}


def test_every_result_is_plain_json(equity_engine: Engine) -> None:
    results = run(context(equity_engine, "ASIA_EQ", FRIDAY))
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_books_keep_their_caps_from_session_to_session(equity_engine: Engine) -> None:
    """Twelve sessions, of which Tokyo misses the last."""
    market_id = "ASIA_EQ"
    before: dict[str, float] = {}
    for day in TradingCalendar(market_id).trading_days(date(2012, 11, 8), FRIDAY):
        run(context(equity_engine, market_id, day))
        found = rows(equity_engine, tables.eq_books, market_id=market_id, session_date=day)
        book = {row["symbol"]: row["weight"] for row in found}
        sectors = {
            row["symbol"]: row["sector"]
            for row in rows(
                equity_engine, tables.eq_instruments, market_id=market_id, session_date=day
            )
        }
        assert sum(book.values()) <= 1 + 1e-9
        assert all(0 <= weight <= 0.1 + 1e-9 for weight in book.values())
        for sector in set(sectors.values()):
            inside = [book.get(symbol, 0) for symbol in sectors if sectors[symbol] == sector]
            assert sum(inside) <= 0.3 + 1e-9
        changes = [abs(book.get(name, 0) - before.get(name, 0)) for name in {*book, *before}]
        assert sum(changes) / 2 <= 0.2 + 1e-9
        before = book
    assert sum(before.values()) > 0.2


def test_windows_come_back_as_they_were_made(equity_engine: Engine) -> None:
    run(context(equity_engine, "EU_EQ", THURSDAY))
    for row in rows(equity_engine, tables.eq_windows, session_date=THURSDAY):
        window = decode(row["data"], row["length"], row["channels"])
        assert window.shape == (64, 8)
        assert np.isfinite(window).all()
    young = rows(equity_engine, tables.eq_windows, session_date=THURSDAY, symbol="SYLON06")
    assert decode(young[0]["data"], 64, 8)[:, -1].sum() > 40


def test_short_histories_and_missing_sectors_follow_the_rules(equity_engine: Engine) -> None:
    run(context(equity_engine, "EU_EQ", THURSDAY))
    places = {
        row["symbol"]: row["reason"]
        for row in rows(equity_engine, tables.eq_universes, session_date=THURSDAY)
    }
    assert places["SYLON06"] == "short_history"
    assert places["SYPAR06"] == "missing_sessions"
    assert places["SYPAR04"] == "low_price"
    assert places["SYPAR05"] == "entered"  # it has no sector
    signals = {
        row["symbol"]: row for row in rows(equity_engine, tables.eq_signals, session_date=THURSDAY)
    }
    assert signals["SYLON06"]["momentum"] is None
    assert signals["SYLON06"]["reversal"] is not None
    assert signals["SYLON06"]["reversal_z"] is None
    assert signals["SYLON06"]["score"] is None


def test_the_very_first_session_of_a_feed_does_not_crash(equity_engine: Engine) -> None:
    results = run(context(equity_engine, "US_EQ", date(2000, 3, 1)))
    assert results["ingest_prices"]["rows"] == 3
    assert results["compute_returns"]["rows"] == 0
    assert results["run_books"]["cash"] == 1.0


def test_a_run_after_the_bundled_years_does_not_mix_them(equity_engine: Engine) -> None:
    run(context(equity_engine, "US_EQ", date(2013, 3, 1)))
    run(context(equity_engine, "US_EQ", date(2013, 3, 4)))
    book = rows(equity_engine, tables.eq_books, session_date=date(2013, 3, 4))
    assert {row["reason"] for row in book if row["symbol"] in ("AAPL", "GOOG", "IBM", "MSFT")} <= {
        "written_off"
    }
    assert all(symbol[:2] == "SY" for symbol in weights(equity_engine, "US_EQ", date(2013, 3, 4)))
    with reading(equity_engine) as connection:
        [prices, factors] = run_sources(connection, "US_EQ", date(2013, 3, 4))
    assert prices.is_synthetic
    assert factors.is_synthetic


def test_report_names_holdings_and_sources(equity_engine: Engine) -> None:
    run(context(equity_engine, "US_EQ", FRIDAY))
    with reading(equity_engine) as connection:
        lines = book_weights(connection, "US_EQ", FRIDAY)
        used = run_sources(connection, "US_EQ", FRIDAY)
        assert book_weights(connection, "US_EQ", THURSDAY) == []
        assert run_sources(connection, "US_EQ", THURSDAY) == []
    assert [line.weight for line in lines] == sorted((line.weight for line in lines), reverse=True)
    assert {line.name for line in lines} >= {"Apple Inc."}
    assert not any(line.is_synthetic for line in lines)
    assert [(source.kind, source.is_synthetic) for source in used] == [
        ("prices", False),
        ("factors", False),
        ("factors", True),
    ]


def test_jobs_out_of_order_say_which_one_to_run(equity_engine: Engine) -> None:
    ctx = context(equity_engine, "US_EQ", FRIDAY)

    def missing(job: Job) -> str:
        with pytest.raises(MissingInputError) as caught:
            job(ctx)
        return caught.value.writer

    for job in JOBS[2:]:
        assert missing(job) == "ingest_prices"
    ingest_prices(ctx)
    assert missing(build_numeric_windows) == "compute_returns"
    compute_returns(ctx)
    assert missing(build_numeric_windows) == "compute_volatility"
    assert missing(update_profiles) == "build_numeric_windows"
    assert missing(run_signals) == "update_profiles"
    assert missing(run_books) == "run_universes"


def test_prices_are_written_in_short_transactions(equity_engine: Engine) -> None:
    written: list[int] = []
    largest = [0]

    def count(
        connection: Connection,
        cursor: object,
        statement: str,
        parameters: object,
        execution: object,
        many: bool,
    ) -> None:
        if statement.startswith("INSERT") and isinstance(parameters, list):
            written.append(len(parameters))

    def finish(connection: Connection) -> None:
        largest[0] = max(largest[0], sum(written))
        written.clear()

    event.listen(equity_engine, "before_cursor_execute", count)
    event.listen(equity_engine, "commit", finish)
    run(context(equity_engine, "EU_EQ", THURSDAY))
    assert 0 < largest[0] <= CHUNK


class _FailingFactors:
    name = "failing: a feed that is down"

    def returns(self, market_id: str, start: date, end: date) -> list[FactorReturn]:
        raise SourceError(self.name, "the feed is down; try again")


class _WithoutFactors(Sources):
    def prices(self, market_id: str) -> PriceSource:
        return build_sources().prices(market_id)

    def factors(self, market_id: str) -> FactorSource:
        return _FailingFactors()


def test_books_are_made_even_when_the_factor_feed_is_down(equity_engine: Engine) -> None:
    """Factors are a job of their own that nothing waits for; betas are missing, and said to be."""
    ctx = context(equity_engine, "US_EQ", FRIDAY, sources=_WithoutFactors())
    with pytest.raises(SourceError):
        ingest_factors(ctx)
    results = run(ctx, [job for job in JOBS if job is not ingest_factors])
    assert results["update_profiles"]["factors_missing"] == "the feed is down; try again"
    assert results["update_profiles"]["with_beta"] == 0
    assert weights(equity_engine, "US_EQ", FRIDAY)


def test_profiles_are_the_same_whether_factors_came_first_or_not(equity_engine: Engine) -> None:
    ctx = context(equity_engine, "US_EQ", FRIDAY)
    run(ctx, [job for job in JOBS if job is not ingest_factors])
    before = rows(equity_engine, tables.eq_profiles)
    run(ctx)
    assert rows(equity_engine, tables.eq_profiles) == before


def test_two_jobs_may_load_the_same_factors_at_once(equity_engine: Engine) -> None:
    ctx = context(equity_engine, "EU_EQ", THURSDAY)
    barrier = threading.Barrier(2)
    failures: list[BaseException] = []

    def begin() -> AbstractContextManager[Connection]:
        return writing(equity_engine)

    def load() -> None:
        try:
            barrier.wait(timeout=30)
            load_factors(replace(ctx, begin=begin))
        except BaseException as error:  # noqa: BLE001  shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert failures == []
    assert len(rows(equity_engine, tables.eq_factors, session_date=THURSDAY)) == 6
    assert len(rows(equity_engine, tables.eq_factors, factor="MKT")) == 400
