"""Prices and factors of eodhd.com, from the wire into the tables."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.context import JobContext
from prometheus.persistence.engine import create_engine
from prometheus.pipelines.equities import tables
from prometheus.pipelines.equities.factors import ingest_factors
from prometheus.pipelines.equities.prices import ingest_prices
from prometheus.sources.eodhd.errors import (
    AccessRefusedError,
    NoSuchExchangeError,
    NotFoundError,
    QuotaSpentError,
    UnreadableReplyError,
)
from prometheus.sources.eodhd.naming import EodhdFeed
from prometheus.sources.errors import TooFewRowsError
from prometheus.sources.protocol import Bar, PriceSource
from prometheus.sources.registry import ConfiguredSources, build_sources
from tests.eodhd.server import TOKEN, Answer, Imitation
from tests.integration.pipelines.runs import context, create_tables, everything, rows

TUESDAY, WEDNESDAY, FRIDAY = date(2012, 11, 20), date(2012, 11, 21), date(2012, 11, 23)
US = ("XNAS:AAPL", "XNAS:MSFT", "XNYS:IBM")


@pytest.fixture
def server() -> Iterator[Imitation]:
    """The imitation, on the evening of Wednesday."""
    with Imitation() as imitation:
        yield imitation


def sources(server: Imitation, market_id: str = "US_EQ", **given: Any) -> ConfiguredSources:
    feed = EodhdFeed(SecretStr(TOKEN), url=server.url, **{"symbols": US, **given})
    return build_sources({market_id: "eodhd"}, eodhd=feed, now=lambda: server.now)


def job(engine: Engine, server: Imitation, day: date = WEDNESDAY, **given: Any) -> JobContext:
    market_id = given.pop("market_id", "US_EQ")
    return context(engine, market_id, day, sources=sources(server, market_id, **given))


@pytest.fixture(scope="module")
def _history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with everything up to Tuesday, of which each test has a copy."""
    path = tmp_path_factory.mktemp("eodhd") / "history.db"
    engine = create_engine(f"sqlite:///{path}")
    create_tables(engine)
    with Imitation() as server:
        ingest_prices(job(engine, server, TUESDAY))
    engine.dispose()
    return path


@pytest.fixture
def stocked(tmp_path: Path, _history: Path) -> Iterator[Engine]:
    """An engine on a database with everything up to Tuesday."""
    shutil.copyfile(_history, tmp_path / "stocked.db")
    engine = create_engine(f"sqlite:///{tmp_path / 'stocked.db'}")
    yield engine
    engine.dispose()


def us_prices(server: Imitation) -> PriceSource:
    return sources(server).prices("US_EQ")


def test_history_and_the_session_come_as_they_were_traded(
    equity_engine: Engine, server: Imitation
) -> None:
    result = ingest_prices(job(equity_engine, server))
    assert (result["rows"], result["quarantined"], result["is_synthetic"]) == (3, 0, False)
    assert result["exchanges"] == {
        "XNAS": {"session": True, "rows": 2},
        "XNYS": {"session": True, "rows": 1},
    }
    assert len(rows(equity_engine, tables.eq_prices)) == 3 * 400
    real = build_sources().prices("US_EQ").bars("XNYS", ["IBM"], WEDNESDAY, WEDNESDAY)[0]
    [stored] = rows(equity_engine, tables.eq_prices, session_date=WEDNESDAY, symbol="IBM")
    assert (stored["close"], stored["source"]) == (real.close, result["source"])
    assert stored["source"].startswith("eodhd: ")


def test_a_second_run_asks_for_the_last_sessions_and_changes_nothing(
    stocked: Engine, server: Imitation
) -> None:
    ctx = job(stocked, server)
    ingest_prices(ctx)
    before = everything(stocked)
    server.asked.clear()
    assert ingest_prices(ctx)["revised_rows"] == 0
    assert everything(stocked) == before
    asked = {each.path: each.parameters for each in server.asked}
    assert sorted(server.paths()) == sorted(
        ["exchanges-list"]
        + [f"{kind}/{name}.US" for kind in ("eod", "splits") for name in ("AAPL", "IBM", "MSFT")]
    )
    assert asked["eod/AAPL.US"]["from"] == "2012-11-14"


def test_volume_that_the_feed_corrects_later_is_a_revision(
    stocked: Engine, server: Imitation, caplog: pytest.LogCaptureFixture
) -> None:
    """Prices were READY, and have come again with other values."""
    server.now = datetime(2012, 11, 21, 21, 20, tzinfo=UTC)
    ctx = job(stocked, server)
    first = ingest_prices(ctx)
    assert (first["rows"], first["revised_bars"]) == (3, [])
    assert "prices_revised" not in caplog.messages
    [early] = rows(stocked, tables.eq_prices, session_date=WEDNESDAY, symbol="IBM")
    server.now = datetime(2012, 11, 22, 4, tzinfo=UTC)
    again = ingest_prices(ctx)
    assert again["revised_rows"] == 3
    revised = [(each["symbol"], each["session_date"]) for each in again["revised_bars"]]
    assert sorted(revised) == [(symbol, "2012-11-21") for symbol in ("AAPL", "IBM", "MSFT")]
    told = [vars(each) for each in caplog.records if each.getMessage() == "prices_revised"]
    assert sum(each["bars"] for each in told) == 3
    assert {each["levelname"] for each in told} == {"WARNING"}
    assert [each["sessions"] for each in told] == [["2012-11-21"]] * len(told)
    [final] = rows(stocked, tables.eq_prices, session_date=WEDNESDAY, symbol="IBM")
    [kept] = rows(stocked, tables.eq_price_revisions, symbol="IBM")
    assert (kept["volume"], final["revision"]) == (early["volume"], 1)
    assert early["volume"] < final["volume"]


def test_bars_that_are_not_there_yet_fail_the_job_until_they_are(
    stocked: Engine, server: Imitation
) -> None:
    ingest_prices(job(stocked, server))
    server.now = datetime(2012, 11, 23, 18, 10, tzinfo=UTC)
    before = everything(stocked)
    with pytest.raises(TooFewRowsError) as caught:
        ingest_prices(job(stocked, server, FRIDAY))
    assert caught.value.retryable
    assert everything(stocked) == before
    server.now = datetime(2012, 11, 23, 18, 20, tzinfo=UTC)
    assert ingest_prices(job(stocked, server, FRIDAY))["rows"] == 3


def test_a_new_basis_of_adjustment_brings_the_whole_history_again(
    stocked: Engine, server: Imitation
) -> None:
    ctx = job(stocked, server)
    ingest_prices(ctx)
    server.rebased["IBM.US"] = 0.99
    assert ingest_prices(ctx)["revised_rows"] == 400
    assert len(rows(stocked, tables.eq_price_revisions, symbol="IBM")) == 400


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"high": 1.0}, "high_below_low"),
        ({"close": None}, "not_a_number"),
        ({"close": 0}, "not_positive"),
        ({"volume": -5}, "negative_volume"),
    ],
)
def test_a_bad_bar_of_the_feed_is_quarantined(
    stocked: Engine, server: Imitation, values: dict[str, Any], reason: str
) -> None:
    server.changed["AAPL.US", WEDNESDAY] = values
    result = ingest_prices(job(stocked, server))
    assert [each["reason"] for each in result["quarantined_bars"]] == [reason]
    assert len(rows(stocked, tables.eq_prices, session_date=WEDNESDAY)) == 2


BROKEN = [
    (Answer(200, b'[{"date": "2012-11-21", "open": 1'), UnreadableReplyError),
    (Answer(200, b"<html>"), UnreadableReplyError),
    (Answer(401, b""), AccessRefusedError),
    (Answer(402, b""), QuotaSpentError),
]


@pytest.mark.parametrize(("answer", "kind"), BROKEN)
def test_whichever_answer_is_broken_nothing_is_stored(
    stocked: Engine, server: Imitation, answer: Answer, kind: type[Exception]
) -> None:
    """Of seven questions (exchanges, and bars and splits of three shares) any may fail."""
    before = everything(stocked)
    whole = server.answer
    for good_ones in range(7):
        server.asked.clear()

        def broken(path: str, parameters: dict[str, str], good_ones: int = good_ones) -> Answer:
            return answer if len(server.asked) == good_ones else whole(path, parameters)

        server.answer = broken  # type: ignore[method-assign]
        with pytest.raises(kind):
            ingest_prices(job(stocked, server))
        assert everything(stocked) == before


def test_a_day_without_trading_has_no_bar(server: Imitation) -> None:
    """The feed repeats the last price, with a volume of nothing."""
    server.filled_days.add(("IBM.US", date(2012, 11, 20)))
    found = us_prices(server).bars("XNYS", ["IBM"], date(2012, 11, 19), WEDNESDAY)
    assert [bar.session_date.day for bar in found] == [19, 21]


def test_volume_is_as_traded_and_splits_are_told(server: Imitation) -> None:
    first, last = date(2005, 2, 25), date(2005, 2, 28)
    feed = us_prices(server)
    real = build_sources().prices("US_EQ")
    found = {bar.session_date: bar for bar in feed.bars("XNAS", ["AAPL"], first, last)}
    wanted = {bar.session_date: bar for bar in real.bars("XNAS", ["AAPL"], first, last)}
    assert {day: bar.volume for day, bar in found.items()} == {
        day: bar.volume for day, bar in wanted.items()
    }
    assert found[first].close / found[last].close > 1.9
    questions = len(server.asked)
    assert list(feed.splits("XNAS", ["AAPL"], first, last)) == list(
        real.splits("XNAS", ["AAPL"], first, last)
    )
    assert len(server.asked) == questions, "the splits came with the bars"


def test_splits_of_symbols_that_were_not_asked_for_are_fetched(server: Imitation) -> None:
    found = us_prices(server).splits("XNAS", ["MSFT"], date(2000, 1, 1), WEDNESDAY)
    assert [(split.symbol, split.session_date.year) for split in found] == [("MSFT", 2003)]


def test_a_split_to_come_has_changed_no_volume_yet(server: Imitation) -> None:
    [before] = us_prices(server).bars("XNYS", ["IBM"], WEDNESDAY, WEDNESDAY)
    whole = server.answer

    def announced(path: str, parameters: dict[str, str]) -> Answer:
        if path == "splits/IBM.US":
            return Answer(200, b'[{"date": "2999-01-04", "split": "2.000000/1.000000"}]')
        return whole(path, parameters)

    server.answer = announced  # type: ignore[method-assign]
    [after] = us_prices(server).bars("XNYS", ["IBM"], WEDNESDAY, WEDNESDAY)
    assert after == before


def test_pence_become_pounds_and_another_currency_stays(server: Imitation) -> None:
    feed = sources(
        server,
        "EU_EQ",
        symbols=("XLON:VOD", "XLON:CPG:USD", "XPAR:AIR"),
        factors=("EU_EQ:MKT=VTI.US",),
    ).prices("EU_EQ")
    listed = feed.instruments("EU_EQ", WEDNESDAY)
    assert [(each.symbol, each.currency) for each in listed] == [
        ("CPG", "USD"),
        ("VOD", "GBP"),
        ("AIR", "EUR"),
    ]
    [dollars] = feed.bars("XLON", ["CPG"], WEDNESDAY, WEDNESDAY)
    [pounds] = feed.bars("XLON", ["VOD"], WEDNESDAY, WEDNESDAY)
    assert dollars.close > 50
    assert all(value < 2 for value in (*pounds[3:7], pounds.adjusted_close))
    assert pounds.volume > 1000


def test_no_later_bar_comes_though_the_feed_has_it(server: Imitation) -> None:
    """Also from a server that does not heed the dates."""
    whole = server.answer
    server.answer = lambda path, parameters: whole(  # type: ignore[method-assign]
        path, {key: value for key, value in parameters.items() if key not in ("from", "to")}
    )
    days = (date(2012, 11, 1), date(2012, 11, 2))
    found: list[Bar] = list(us_prices(server).bars("XNYS", ["IBM"], *days))
    assert {bar.session_date for bar in found} == set(days)


ASIA: dict[str, Any] = {
    "symbols": ("XTKS:7203", "XHKG:0005"),
    "factors": ("ASIA_EQ:MKT=VTI.US",),
}


def test_a_market_without_an_exchange_at_the_feed_is_told_so(
    stocked: Engine, server: Imitation
) -> None:
    with pytest.raises(NoSuchExchangeError) as caught:
        ingest_prices(job(stocked, server, market_id="ASIA_EQ", **ASIA))
    assert "no such exchange as XHKG (HK), XTKS (TSE) in its list" in str(caught.value)
    assert not caught.value.retryable
    assert server.paths() == ["exchanges-list"]


def test_an_exchange_that_the_feed_lacks_does_not_hold_up_the_others(
    stocked: Engine, server: Imitation, caplog: pytest.LogCaptureFixture
) -> None:
    """Paris is taken for one that is missing; London goes on."""
    ctx = job(
        stocked,
        server,
        market_id="EU_EQ",
        symbols=("XLON:VOD", "XPAR:AIR"),
        factors=("EU_EQ:MKT=VTI.US",),
    )
    server.answers.append(Answer(200, b'[{"Name": "London", "Code": "LSE"}]'))
    with caplog.at_level(logging.WARNING):
        result = ingest_prices(ctx)
    assert result["exchanges"] == {"XLON": {"session": True, "rows": 1}}
    [record] = [each for each in caplog.records if each.message == "eodhd_no_such_exchange"]
    assert (vars(record)["mic"], vars(record)["code"]) == ("XPAR", "PA")


def test_an_exchange_named_by_hand_is_asked_whatever_the_list_says(server: Imitation) -> None:
    feed = sources(server, "ASIA_EQ", **ASIA, codes=("XTKS=TSE", "XHKG=HK")).prices("ASIA_EQ")
    assert len(feed.instruments("ASIA_EQ", WEDNESDAY)) == 2
    assert server.paths() == []
    with pytest.raises(NotFoundError, match=r"eod/7203\.TSE"):
        feed.bars("XTKS", ["7203"], WEDNESDAY, WEDNESDAY)


def test_one_symbol_that_the_feed_lacks_does_not_hold_up_the_others(
    server: Imitation, caplog: pytest.LogCaptureFixture
) -> None:
    feed = sources(server, symbols=(*US, "XNYS:GONE")).prices("US_EQ")
    found = feed.bars("XNYS", ["IBM", "GONE"], WEDNESDAY, WEDNESDAY)
    assert [bar.symbol for bar in found] == ["IBM"]
    assert [vars(each)["symbol"] for each in caplog.records if "unknown" in each.message] == [
        "GONE"
    ]


def test_factors_are_the_total_returns_of_funds(stocked: Engine, server: Imitation) -> None:
    result = ingest_factors(job(stocked, server))
    assert sorted(result["factors"]) == ["MINVOL", "MKT", "MOM", "QUAL", "SIZE", "VALUE"]
    assert result["factors"]["MOM"] == {"source": "eodhd: MTUM.US", "is_synthetic": False}
    assert (result["rows"], result["history_rows"]) == (6, 6 * 399)
    assert sorted(server.paths()) == sorted(
        f"eod/{name}.US" for name in ("VTI", "MTUM", "QUAL", "SIZE", "USMV", "VLUE")
    )
    again = ingest_factors(job(stocked, server))
    assert again["history_rows"] == 0


def test_a_factor_without_a_neighbour_or_with_a_wild_price_is_left_out(
    server: Imitation, caplog: pytest.LogCaptureFixture
) -> None:
    monday, tuesday = date(2012, 11, 19), date(2012, 11, 20)
    server.changed["VTI.US", tuesday] = {"adjusted_close": None}
    server.changed["MTUM.US", WEDNESDAY] = {"adjusted_close": 1e6}
    server.changed["QUAL.US", WEDNESDAY] = {"adjusted_close": 0}
    feed = sources(server).factors("US_EQ")
    found = feed.returns("US_EQ", monday, WEDNESDAY)
    days = {
        name: [row.session_date.day for row in found if row.factor == name]
        for name in ("MKT", "MOM", "QUAL", "SIZE")
    }
    assert days == {"MKT": [19], "MOM": [19, 20], "QUAL": [19, 20], "SIZE": [19, 20, 21]}
    assert [vars(each)["source"] for each in caplog.records if "left_out" in each.message] == [
        "eodhd: MTUM.US"
    ]
    assert len(TradingCalendar("US_EQ").trading_days(monday, WEDNESDAY)) == 3
