"""Questions about finished runs, for the command line and pages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from sqlalchemy import Connection, and_, select

from prometheus.pipelines.equities.tables import eq_books, eq_factors, eq_instruments


@dataclass(frozen=True, slots=True)
class BookLine:
    """One holding of a book."""

    mic: str
    symbol: str
    name: str
    sector: str | None
    weight: float
    """Share of capital."""
    previous_weight: float
    score: float | None
    reason: str
    source: str
    is_synthetic: bool


@dataclass(frozen=True, slots=True)
class UsedSource:
    """A feed that served a run."""

    kind: str
    """``prices`` or ``factors``."""
    name: str
    is_synthetic: bool


def book_weights(connection: Connection, market_id: str, session_date: date) -> list[BookLine]:
    """Return what the book of a session holds, the largest weight first; the rest is cash."""
    books, listed = eq_books.c, eq_instruments.c
    rows = connection.execute(
        select(
            books.mic,
            books.symbol,
            listed.name,
            listed.sector,
            books.weight,
            books.previous_weight,
            books.score,
            books.reason,
            listed.source,
            listed.is_synthetic,
        )
        .join_from(
            eq_books,
            eq_instruments,
            and_(
                listed.market_id == books.market_id,
                listed.session_date == books.session_date,
                listed.mic == books.mic,
                listed.symbol == books.symbol,
            ),
        )
        .where(books.market_id == market_id, books.session_date == session_date, books.weight > 0)
        .order_by(books.weight.desc(), books.symbol)
    )
    return [BookLine(**row) for row in rows.mappings()]


def run_sources(connection: Connection, market_id: str, session_date: date) -> list[UsedSource]:
    """Return the feeds that served a run, price feeds first; empty before its ingestion."""
    listed, factors = eq_instruments.c, eq_factors.c
    prices = connection.execute(
        select(listed.source, listed.is_synthetic)
        .where(listed.market_id == market_id, listed.session_date == session_date)
        .distinct()
        .order_by(listed.source)
    )
    used = [UsedSource("prices", row.source, row.is_synthetic) for row in prices]
    rows = connection.execute(
        select(factors.source, factors.is_synthetic)
        .where(factors.market_id == market_id, factors.session_date == session_date)
        .distinct()
        .order_by(factors.source)
    )
    return used + [UsedSource("factors", row.source, row.is_synthetic) for row in rows]
