"""Running the nine jobs as plain functions, and looking at what they wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from sqlalchemy import Engine, Table, select

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.context import JobContext
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.metadata import metadata
from prometheus.pipelines.equities import tables
from prometheus.pipelines.equities.books import run_books
from prometheus.pipelines.equities.factors import ingest_factors
from prometheus.pipelines.equities.prices import ingest_prices
from prometheus.pipelines.equities.profiles import update_profiles
from prometheus.pipelines.equities.returns import compute_returns
from prometheus.pipelines.equities.signals import run_signals
from prometheus.pipelines.equities.universes import run_universes
from prometheus.pipelines.equities.volatility import compute_volatility
from prometheus.pipelines.equities.windows import build_numeric_windows
from prometheus.sources.protocol import (
    Bar,
    FactorSource,
    Instrument,
    PriceSource,
    SourceLabel,
    Sources,
    Split,
)
from prometheus.sources.registry import build_sources

Job = Callable[[JobContext], dict[str, Any]]

JOBS: tuple[Job, ...] = (
    ingest_prices,
    ingest_factors,
    compute_returns,
    compute_volatility,
    build_numeric_windows,
    update_profiles,
    run_signals,
    run_universes,
    run_books,
)

TABLES: tuple[Table, ...] = tuple(
    table for name, table in metadata.tables.items() if name.startswith("eq_")
)

DERIVED = (
    tables.eq_returns,
    tables.eq_volatility,
    tables.eq_windows,
    tables.eq_profiles,
    tables.eq_signals,
    tables.eq_universes,
    tables.eq_books,
)

WEDNESDAY, THURSDAY, FRIDAY = date(2012, 11, 21), date(2012, 11, 22), date(2012, 11, 23)


def create_tables(engine: Engine) -> None:
    """Create the equity tables alone."""
    metadata.create_all(engine, tables=list(TABLES))


def context(
    engine: Engine,
    market_id: str,
    day: date,
    *,
    sources: Sources | None = None,
    **parameters: object,
) -> JobContext:
    """Make the argument of a job by hand."""
    calendar = TradingCalendar(market_id)
    return JobContext(
        market_id=market_id,
        session=calendar.session(day),
        previous_session=calendar.session(calendar.previous_trading_day(day)),
        pipeline="daily",
        dag_id=f"{market_id.lower()}_daily_{day.isoformat()}",
        job_id="by_hand",
        attempt_number=1,
        execution_id="by-hand",
        begin=lambda: writing(engine),
        sources=sources or build_sources(),
        parameters=parameters,
    )


def run(ctx: JobContext, jobs: Sequence[Job] = JOBS) -> dict[str, dict[str, Any]]:
    """Run jobs in order; return their results by name."""
    return {job.__name__: job(replace(ctx, job_id=job.__name__)) for job in jobs}


def rows(engine: Engine, table: Table, **equal: object) -> list[dict[str, Any]]:
    """Read rows whose columns have these values, in the order of their keys."""
    with reading(engine) as connection:
        found = connection.execute(
            select(table)
            .where(*(table.c[name] == value for name, value in equal.items()))
            .order_by(*table.primary_key)
        )
        return [dict(row) for row in found.mappings()]


def everything(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """Read all equity tables."""
    return {table.name: rows(engine, table) for table in TABLES}


def weights(engine: Engine, market_id: str, day: date) -> dict[str, float]:
    """Read a book: symbol to its weight, without zeros."""
    found = rows(engine, tables.eq_books, market_id=market_id, session_date=day)
    return {row["symbol"]: row["weight"] for row in found if row["weight"] > 0}


@dataclass
class ListedPrices:
    """A price feed that says what it is told to, and remembers what it was asked."""

    bars_by_key: dict[tuple[str, date], Bar]
    listed: list[Instrument]
    name: str = "listed: bars of a test"
    is_synthetic: bool = False
    asked: list[tuple[str, tuple[str, ...], date, date]] = field(default_factory=list)
    splits_known: list[Split] = field(default_factory=list)
    also: list[Bar] = field(default_factory=list)
    """Delivered with every answer, asked for or not."""

    def label(self, on: date) -> SourceLabel:
        return SourceLabel(self.name, self.is_synthetic)

    def instruments(self, market_id: str, on: date) -> Sequence[Instrument]:
        return self.listed

    def bars(self, mic: str, symbols: Sequence[str], start: date, end: date) -> Sequence[Bar]:
        self.asked.append((mic, tuple(symbols), start, end))
        return [
            bar
            for bar in self.bars_by_key.values()
            if bar.mic == mic and bar.symbol in symbols and start <= bar.session_date <= end
        ] + self.also

    def splits(self, mic: str, symbols: Sequence[str], start: date, end: date) -> Sequence[Split]:
        return [split for split in self.splits_known if split.mic == mic]

    def change(self, symbol: str, day: date, **values: Any) -> None:
        """Revise a bar."""
        self.bars_by_key[symbol, day] = self.bars_by_key[symbol, day]._replace(**values)

    def drop(self, symbol: str, day: date) -> None:
        """Take a bar away."""
        del self.bars_by_key[symbol, day]


@dataclass
class ListedSources(Sources):
    """Serves one price feed for every market, and the shipped factors."""

    source: PriceSource

    def prices(self, market_id: str) -> PriceSource:
        return self.source

    def factors(self, market_id: str) -> FactorSource:
        return build_sources().factors(market_id)


def flat_prices(
    until: date, symbols: Mapping[str, float], mic: str = "XLON", sessions: int = 420
) -> ListedPrices:
    """Make a feed whose prices rise by a thousandth a session, from 100 at the end downwards."""
    calendar = TradingCalendar(mic)
    days = calendar.trading_days(date(until.year - 2, 1, 2), until)[-sessions:]
    bars = {}
    for symbol, level in symbols.items():
        for number, day in enumerate(reversed(days)):
            price = level * 0.999**number
            bars[symbol, day] = Bar(
                mic, symbol, day, price, price * 1.01, price * 0.99, price, 1e6, price
            )
    listed = [Instrument(mic, symbol, symbol, "Tech", "GBP") for symbol in sorted(symbols)]
    return ListedPrices(bars, listed)
