"""Prices of one exchange as arrays: rows are sessions, columns are instruments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Table, select

from prometheus.core.markets import get_market
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.context import JobContext
from prometheus.errors import HorizonError
from prometheus.pipelines.equities.errors import MissingInputError
from prometheus.pipelines.equities.tables import eq_instruments, eq_prices

Floats = NDArray[np.float64]
"""Doubles; a missing value is NaN."""

HISTORY_SESSIONS = 400
"""Sessions that are loaded and read: a year to standardise by, a window of 64, and some more."""

READ_ROWS = 10_000
"""Rows that are read in one transaction: some 50 ms."""

BAR_FIELDS = ("open", "high", "low", "close", "volume", "adjusted_close")


@dataclass(frozen=True, slots=True)
class Listed:
    """An instrument as its market's feed listed it for a session."""

    mic: str
    symbol: str
    sector: str | None
    currency: str
    is_synthetic: bool


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """
    The bars of one exchange's instruments over its last sessions.

    Arrays have the shape (sessions, instruments).
    """

    mic: str
    session_date: date
    """The run's; the exchange may have none of this date."""
    dates: tuple[date, ...]
    """Sessions of the exchange, ascending, none after `session_date`."""
    instruments: tuple[Listed, ...]
    """By symbol."""
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    adjusted_close: Floats

    @property
    def has_session(self) -> bool:
        """Whether the exchange has a session on the run's date."""
        return bool(self.dates) and self.dates[-1] == self.session_date

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(instrument.symbol for instrument in self.instruments)

    @property
    def scope(self) -> dict[str, Any]:
        """The keys of the panel's rows of the run's date, as `replace_rows` takes them."""
        return {"mic": self.mic, "session_date": self.session_date, "symbol": self.symbols}

    @property
    def traded(self) -> NDArray[np.bool_]:
        """Which instruments have a bar on the run's date, (instruments,)."""
        if not self.has_session:
            return np.zeros(len(self.instruments), dtype=bool)
        here: NDArray[np.bool_] = ~np.isnan(self.close[-1])
        return here


def member_exchanges(market_id: str) -> tuple[str, ...]:
    """Return the exchanges of a market, in alphabetical order."""
    return tuple(sorted(get_market(market_id).members))


def last_sessions(calendar_id: str, until: date, count: int) -> tuple[date, ...]:
    """
    Return the last `count` session dates of an exchange or market, `until` included.

    Fewer where its known sessions begin later.
    """
    calendar = TradingCalendar(calendar_id)
    # At least 5 sessions in 8 days, whatever the holidays, plus a fortnight's closure.
    start = until - timedelta(days=count * 8 // 5 + 20)
    try:
        days = calendar.trading_days(start, until)
    except HorizonError as error:
        first = error.first
        days = calendar.trading_days(first, until) if start < first <= until else []
    return tuple(days[-count:])


def load_instruments(connection: Connection, market_id: str, session_date: date) -> list[Listed]:
    """
    Read what the market's feed listed for a session, by exchange and symbol.

    Raises:
        MissingInputError: Nothing, so `ingest_prices` has not run.
    """
    table = eq_instruments.c
    rows = connection.execute(
        select(table.mic, table.symbol, table.sector, table.currency, table.is_synthetic)
        .where(table.market_id == market_id, table.session_date == session_date)
        .order_by(table.mic, table.symbol)
    )
    found = [Listed(*row) for row in rows]
    if not found:
        raise MissingInputError("eq_instruments", market_id, session_date, "ingest_prices")
    return found


def load_panels(ctx: JobContext, sessions: int = HISTORY_SESSIONS) -> list[Panel]:
    """
    Read the market's prices up to and including the run's session, an exchange at a time.

    Returns:
        One panel for each exchange with instruments, by MIC; also for exchanges that are closed
        on the run's date, whose panel ends with their last session before it.

    Raises:
        MissingInputError: `ingest_prices` has not run for this session.
    """
    spans = {
        mic: last_sessions(mic, ctx.session_date, sessions)
        for mic in member_exchanges(ctx.market_id)
    }
    with ctx.transaction() as connection:
        listed = load_instruments(connection, ctx.market_id, ctx.session_date)
    panels = []
    for mic, dates in spans.items():
        instruments = tuple(item for item in listed if item.mic == mic)
        if dates and instruments:
            symbols = tuple(item.symbol for item in instruments)
            grid = read_grid(ctx, eq_prices, BAR_FIELDS, mic, dates, symbols)
            panels.append(Panel(mic, ctx.session_date, dates, instruments, *grid.values))
    return panels


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Rows of a table laid out by session and instrument."""

    present: NDArray[np.bool_]
    """(sessions, instruments), where there is a row."""
    values: Floats
    """(columns, sessions, instruments), NaN where there is no row or the value is NULL."""


def read_grid(
    ctx: JobContext,
    table: Table,
    columns: Sequence[str],
    mic: str,
    dates: Sequence[date],
    symbols: Sequence[str],
    **equal: object,
) -> Grid:
    """
    Read number columns of one exchange's rows.

    In transactions of at most `READ_ROWS` rows each: on SQLite every one holds the write lock.

    Args:
        ctx: The job.
        table: With the columns ``mic``, ``session_date`` and ``symbol``.
        columns: What to read.
        mic: The exchange.
        dates: Sessions, ascending, at least one; rows of other dates are left out.
        symbols: Instruments; rows of others are left out.
        equal: Columns and the values that rows must have.
    """
    row_of = {day: number for number, day in enumerate(dates)}
    column_of = {symbol: number for number, symbol in enumerate(symbols)}
    present = np.zeros((len(dates), len(symbols)), dtype=bool)
    values = np.full((len(columns), *present.shape), np.nan)
    step = max(1, READ_ROWS // max(1, len(symbols)))
    for start in range(0, len(dates), step):
        span = dates[start : start + step]
        query = select(
            table.c.session_date, table.c.symbol, *(table.c[name] for name in columns)
        ).where(
            table.c.mic == mic,
            table.c.session_date >= span[0],
            table.c.session_date <= span[-1],
            *(table.c[name] == value for name, value in equal.items()),
        )
        with ctx.transaction() as connection:
            found = connection.execute(query).all()
        rows = [row for row in found if row[0] in row_of and row[1] in column_of]
        if rows:
            at = ([row_of[row[0]] for row in rows], [column_of[row[1]] for row in rows])
            present[at] = True
            values[:, *at] = np.array([row[2:] for row in rows], dtype=float).T
    return Grid(present, values)


def optional(value: float) -> float | None:
    """Turn a number into what a database holds: NULL where it is not finite."""
    return float(value) if np.isfinite(value) else None


def or_nan(values: Sequence[float | None]) -> Floats:
    """Turn what a database holds into an array: NaN where it is NULL."""
    return np.array([np.nan if value is None else value for value in values], dtype=float)
