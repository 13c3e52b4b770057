"""
The tables of the equity pipeline, all named ``eq_…``.

Rows of one exchange (prices, returns, volatility, windows) are keyed by ``(mic, session_date,
symbol)`` and shared by every market the exchange is in; rows that depend on who else is in the
market (instruments, factors, profiles, signals, universes, books) carry ``market_id`` as well. The
session date stands before the symbol because every query asks for a range of sessions of one
exchange. A value that can not be computed is NULL.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Date,
    Double,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

from prometheus.persistence.metadata import UtcDateTime, metadata

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def _bar_key() -> list[Column[Any]]:
    return [
        Column("mic", String(10), primary_key=True),
        Column("session_date", Date, primary_key=True),
        Column("symbol", String(40), primary_key=True),
    ]


def _market_key() -> list[Column[Any]]:
    return [Column("market_id", String(40), primary_key=True), *_market_bar_key()]


def _market_bar_key() -> list[Column[Any]]:
    return [
        Column("session_date", Date, primary_key=True),
        Column("mic", String(10), primary_key=True),
        Column("symbol", String(40), primary_key=True),
    ]


def _bar_values(*, nullable: bool) -> list[Column[Any]]:
    return [
        Column(name, Double, nullable=nullable)
        for name in ("open", "high", "low", "close", "volume", "adjusted_close")
    ]


def _origin() -> list[Column[Any]]:
    return [
        Column("source", String(200), nullable=False, comment="the feed, in words for people"),
        Column("is_synthetic", Boolean, nullable=False),
        Column("fetched_at", UtcDateTime, nullable=False, comment="when these values came"),
    ]


eq_instruments = Table(
    "eq_instruments",
    metadata,
    *_market_key(),
    Column("name", String(200), nullable=False),
    Column("sector", String(100), comment="NULL where it is not known"),
    Column("currency", String(3), nullable=False),
    *_origin(),
    comment="what the market's feed listed for a session: later jobs look at these only",
)

eq_prices = Table(
    "eq_prices",
    metadata,
    *_bar_key(),
    *_bar_values(nullable=False),
    *_origin(),
    Column("revision", Integer, nullable=False, comment="0, then 1 more each time values changed"),
    comment="bars that passed all checks",
)

eq_price_revisions = Table(
    "eq_price_revisions",
    metadata,
    *_bar_key(),
    Column("revision", Integer, primary_key=True),
    *_bar_values(nullable=False),
    *_origin(),
    Column("replaced_at", UtcDateTime, nullable=False),
    comment="bars as they were before the feed revised them",
)

eq_quarantine = Table(
    "eq_quarantine",
    metadata,
    *_bar_key(),
    *_bar_values(nullable=True),
    *_origin(),
    Column("reason", String(40), nullable=False, comment="which check the bar failed"),
    Column("detail", Text, nullable=False, comment="what it held, in words"),
    comment="bars that failed a check: kept, reported, never computed on",
)

eq_factors = Table(
    "eq_factors",
    metadata,
    Column("market_id", String(40), primary_key=True),
    Column("session_date", Date, primary_key=True),
    Column("factor", String(40), primary_key=True),
    Column("value", Double, nullable=False, comment="simple return over the market's session"),
    Column("available_on", Date, nullable=False, comment="first session that may use it"),
    *_origin(),
)

eq_returns = Table(
    "eq_returns",
    metadata,
    *_bar_key(),
    Column("simple_return", Double, comment="of the adjusted close; NULL after a gap"),
    Column("log_return", Double),
    Column("overnight_return", Double, comment="ln(open / previous close), as traded"),
    Column("intraday_return", Double, comment="ln(close / open), as traded"),
    Column("gap_sessions", Integer, nullable=False, comment="sessions without a bar just before"),
)

eq_volatility = Table(
    "eq_volatility",
    metadata,
    *_bar_key(),
    Column("close_to_close_21", Double, comment="all volatilities are per year (252 sessions)"),
    Column("close_to_close_63", Double),
    Column("close_to_close_252", Double),
    Column("ewma", Double, comment="RiskMetrics, for the session after this one"),
    Column("parkinson_63", Double, comment="intraday: without the overnight move"),
    Column("garman_klass_63", Double, comment="intraday: without the overnight move"),
    Column("returns_used", Integer, nullable=False),
)

eq_windows = Table(
    "eq_windows",
    metadata,
    *_bar_key(),
    Column("length", Integer, nullable=False, comment="sessions, the last one is session_date"),
    Column("channels", Integer, nullable=False, comment="features, then the mask"),
    Column("data", LargeBinary, nullable=False, comment="float32, little endian, row by session"),
    Column("ewma", Double, comment="volatility per year that brings returns back to scale"),
)

eq_profiles = Table(
    "eq_profiles",
    metadata,
    *_market_key(),
    Column("beta", Double),
    Column("blume_beta", Double),
    Column("r_squared", Double),
    Column("idiosyncratic_volatility", Double, comment="per year"),
    Column("adv20", Double, comment="mean traded value, in the instrument's currency"),
    Column("adv60", Double),
    Column("amihud", Double, comment="mean |return| per million of traded value"),
    Column("momentum_12_1", Double),
    Column("return_21", Double),
    Column("max_drawdown_252", Double, comment="negative, or 0"),
    Column("price_to_52w_high", Double),
    Column("last_trade_age", Integer, nullable=False, comment="sessions since its last bar"),
    Column("bars", Integer, nullable=False, comment="bars in the history that was read"),
    Column("loadings", Json, comment="factor to its coefficient in one regression on all"),
    Column("factors_synthetic", Boolean, comment="whether any of these factors is made up"),
)

eq_signals = Table(
    "eq_signals",
    metadata,
    *_market_key(),
    Column("momentum", Double, comment="raw values; NULL where the history is too short"),
    Column("reversal", Double),
    Column("low_volatility", Double),
    Column("momentum_z", Double, comment="winsorised and standardised across the market"),
    Column("reversal_z", Double),
    Column("low_volatility_z", Double),
    Column("score", Double, comment="the weighted sum of the three"),
)

eq_universes = Table(
    "eq_universes",
    metadata,
    *_market_key(),
    Column("is_member", Boolean, nullable=False),
    Column("reason", String(40), nullable=False, comment="why it is in, or out"),
    Column("rank", Integer, comment="by traded value among the eligible, from 1"),
    Column("adv60_usd", Double, comment="by round rates, for comparison only"),
)

eq_books = Table(
    "eq_books",
    metadata,
    *_market_key(),
    Column("weight", Double, nullable=False, comment="share of capital; the rest is cash"),
    Column("target_weight", Double, nullable=False, comment="before turnover and liquidity"),
    Column("previous_weight", Double, nullable=False),
    Column("score", Double),
    Column("volatility", Double),
    Column("reason", String(40), nullable=False),
)

# Of one symbol over time, as pages and people ask.
Index("ix_eq_prices_symbol", eq_prices.c.symbol, eq_prices.c.session_date)
Index("ix_eq_quarantine_fetched_at", eq_quarantine.c.fetched_at)
