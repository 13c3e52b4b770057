"""The job ``ingest_prices``: bars from the market's feed into ``eq_prices``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select

from prometheus.dispatch.context import JobContext
from prometheus.pipelines.equities.panel import (
    BAR_FIELDS,
    HISTORY_SESSIONS,
    Floats,
    last_sessions,
    member_exchanges,
    read_grid,
)
from prometheus.pipelines.equities.parameters import number
from prometheus.pipelines.equities.screening import (
    FAULTS,
    FINE,
    JUMP_LIMIT,
    Booleans,
    Fault,
    find_faults,
    find_jumps,
    infer_splits,
    rows_needed,
)
from prometheus.pipelines.equities.storage import CHUNK, delete_keys, replace_rows, upsert
from prometheus.pipelines.equities.tables import (
    eq_instruments,
    eq_price_revisions,
    eq_prices,
    eq_quarantine,
)
from prometheus.sources.errors import SourceError, TooFewRowsError
from prometheus.sources.protocol import Bar, Instrument, PriceSource, SourceLabel

OVERLAP_SESSIONS = 5
"""Stored sessions that are asked for again with the new one: late bars, and re-based closes."""

_SAME_BASIS = 1e-9
"""Relative difference of adjusted closes that is rounding, not a new basis."""

_REPORTED = 20
"""Quarantined or revised bars named in the job's result; the tables have all."""


def ingest_prices(ctx: JobContext) -> dict[str, Any]:
    """
    Load the session's bars, and whatever of the last 400 sessions is missing, of each exchange.

    Bars are examined (`screening`); those that fail go to ``eq_quarantine`` with the reason. A bar
    the feed has revised replaces the stored one, whose values go to ``eq_price_revisions``; the log
    tells of it. Where an adjusted close stands on a new basis (after a split or dividend every
    earlier one changes), the instrument's whole history is asked for again. Running it again
    changes nothing.

    Returns:
        Bars of the session, bars of history, instruments, the source, per-exchange counts, and
        what was revised or quarantined.

    Raises:
        SourceError: The feed does not answer, or has too few bars of a session (retryable).
    """
    source = ctx.sources.prices(ctx.market_id)
    label = source.label(ctx.session_date)
    listed = source.instruments(ctx.market_id, ctx.session_date)
    if not listed:
        raise SourceError(
            label.name,
            f"{label.name} lists no instruments of {ctx.market_id} for "
            f"{ctx.session_date.isoformat()}; at least one was wanted. Check which source is "
            f"configured for this market.",
        )
    deliveries = []
    for mic in member_exchanges(ctx.market_id):
        sessions = last_sessions(mic, ctx.session_date, HISTORY_SESSIONS)
        here = [instrument for instrument in listed if instrument.mic == mic]
        if sessions and here:
            symbols = tuple(sorted(instrument.symbol for instrument in here))
            deliveries.append(_fetch(ctx, source, label, mic, symbols, sessions))

    # Only when no exchange's session is short is anything written.
    fetched_at = datetime.now(UTC)
    _store_instruments(ctx, listed, label, fetched_at)
    for delivery in deliveries:
        _store(ctx, delivery, label, fetched_at)
    return _report(ctx, label, listed, deliveries)


@dataclass(eq=False)
class _Delivery:
    """
    Bars of one exchange: what is stored, with what came now over it.

    Arrays have the shape (sessions, instruments).
    """

    mic: str
    symbols: tuple[str, ...]
    sessions: tuple[date, ...]
    session_date: date
    values: Floats
    """(6, sessions, instruments), NaN where there is no bar."""
    present: Booleans
    stored: Booleans
    """In ``eq_prices``."""
    fresh: Booleans = field(init=False)
    """Came now, and is new or differs from what is stored."""
    faults: NDArray[np.int8] = field(init=False)
    splits: Floats = field(init=False)
    """New shares for one old, as the fresh bars show them; 1 without a split."""
    strays: list[Bar] = field(default_factory=list)
    """Bars on dates that are no session of the exchange."""

    def __post_init__(self) -> None:
        self.fresh = np.zeros(self.present.shape, dtype=bool)
        self.faults = np.full(self.present.shape, FINE, dtype=np.int8)
        self.splits = np.ones(self.present.shape)

    @property
    def has_session(self) -> bool:
        return self.sessions[-1] == self.session_date

    @property
    def accepted(self) -> Booleans:
        mask: Booleans = self.fresh & (self.faults == FINE)
        return mask

    @property
    def refused(self) -> Booleans:
        mask: Booleans = self.fresh & (self.faults != FINE)
        return mask


def _fetch(
    ctx: JobContext,
    source: PriceSource,
    label: SourceLabel,
    mic: str,
    symbols: tuple[str, ...],
    sessions: tuple[date, ...],
) -> _Delivery:
    """Ask for what is missing, lay it over what is stored, and examine it."""
    delivery = _read_stored(ctx, label, mic, symbols, sessions)
    starts = _first_wanted(delivery.present)
    whole = [symbol for symbol, start in zip(symbols, starts, strict=True) if start == 0]
    recent = [symbol for symbol, start in zip(symbols, starts, strict=True) if start > 0]
    bars: list[Bar] = []
    if recent:
        start = sessions[min(start for start in starts if start > 0)]
        bars += source.bars(mic, recent, start, sessions[-1])
        rebased = _rebased(delivery, bars)
        if rebased:
            ctx.logger.info(
                "prices_rebased", extra={"mic": mic, "symbols": rebased, "source": label.name}
            )
            bars = [bar for bar in bars if bar.symbol not in rebased]
            whole += rebased
    if whole:
        bars += source.bars(mic, whole, sessions[0], sessions[-1])
    _overlay(delivery, bars)

    counts = delivery.present.sum(axis=1)
    needed = rows_needed(counts[:-1])
    if delivery.has_session and counts[-1] < needed:
        raise TooFewRowsError(label.name, mic, ctx.session_date, int(counts[-1]), needed)
    _examine(ctx, source, delivery)
    return delivery


def _first_wanted(present: Booleans) -> list[int]:
    """
    Say from which session on each instrument's bars are asked for.

    Five sessions before the first that is missing; an instrument whose first session of the window
    is missing (a short history, or none stored yet) is asked for whole.
    """
    sessions = len(present)
    first_missing = np.where(present.all(axis=0), sessions - 1, np.argmin(present, axis=0))
    whole = first_missing == 0
    starts = np.where(whole, 0, np.maximum(first_missing - OVERLAP_SESSIONS, 0))
    return [int(start) for start in starts]


def _read_stored(
    ctx: JobContext,
    label: SourceLabel,
    mic: str,
    symbols: tuple[str, ...],
    sessions: tuple[date, ...],
) -> _Delivery:
    """Read the bars that are stored or quarantined; those of another source count as missing."""
    stored, held = (
        read_grid(ctx, table, BAR_FIELDS, mic, sessions, symbols, source=label.name)
        for table in (eq_prices, eq_quarantine)
    )
    return _Delivery(
        mic=mic,
        symbols=symbols,
        sessions=sessions,
        session_date=ctx.session_date,
        values=np.where(stored.present, stored.values, held.values),
        present=stored.present | held.present,
        stored=stored.present,
    )


def _rebased(delivery: _Delivery, bars: Sequence[Bar]) -> list[str]:
    """Name instruments whose close is as stored, but stands on a new basis of adjustment."""
    row_of = {day: number for number, day in enumerate(delivery.sessions)}
    column_of = {symbol: number for number, symbol in enumerate(delivery.symbols)}
    _, _, _, close, _, adjusted = delivery.values
    found = set()
    for bar in bars:
        row, column = row_of.get(bar.session_date), column_of.get(bar.symbol)
        if row is None or column is None or not delivery.stored[row, column]:
            continue
        before = adjusted[row, column]
        if bar.close == close[row, column] and (
            abs(bar.adjusted_close - before) > _SAME_BASIS * before
        ):
            found.add(bar.symbol)
    return sorted(found)


def _overlay(delivery: _Delivery, bars: Sequence[Bar]) -> None:
    """Put bars over the stored ones; mark those that are new or differ."""
    row_of = {day: number for number, day in enumerate(delivery.sessions)}
    column_of = {symbol: number for number, symbol in enumerate(delivery.symbols)}
    wanted = [bar for bar in bars if bar.mic == delivery.mic and bar.symbol in column_of]
    # A feed that answers with more than was asked must not let the future in.
    first, last = delivery.sessions[0], delivery.sessions[-1]
    wanted = [bar for bar in wanted if first <= bar.session_date <= last]
    delivery.strays = [bar for bar in wanted if bar.session_date not in row_of]
    wanted = [bar for bar in wanted if bar.session_date in row_of]
    if not wanted:
        return
    rows = np.array([row_of[bar.session_date] for bar in wanted])
    columns = np.array([column_of[bar.symbol] for bar in wanted])
    came = np.full_like(delivery.values, np.nan)
    came[:, rows, columns] = np.array([bar[3:] for bar in wanted], dtype=float).T
    here = np.zeros_like(delivery.present)
    here[rows, columns] = True
    same = ((came == delivery.values) | (np.isnan(came) & np.isnan(delivery.values))).all(axis=0)
    delivery.fresh = here & ~(delivery.present & same)
    delivery.values = np.where(here, came, delivery.values)
    delivery.present = delivery.present | here


def _examine(ctx: JobContext, source: PriceSource, delivery: _Delivery) -> None:
    """Give every fresh bar its verdict; stored bars keep theirs."""
    if not delivery.fresh.any():
        return
    faults = find_faults(delivery.values, delivery.present)
    row_of = {day: number for number, day in enumerate(delivery.sessions)}
    log_splits = np.zeros(delivery.present.shape)
    first, last = delivery.sessions[0], delivery.sessions[-1]
    for split in source.splits(delivery.mic, delivery.symbols, first, last):
        row = row_of.get(split.session_date)
        if row is not None and split.symbol in delivery.symbols and split.ratio > 0:
            log_splits[row, delivery.symbols.index(split.symbol)] += np.log(split.ratio)
    _, _, _, close, _, adjusted = delivery.values
    usable = delivery.present & (faults == FINE)
    limit = number(ctx.parameters, "jump_limit", JUMP_LIMIT, low=0.01)
    jumps = find_jumps(close, adjusted, usable, log_splits, limit)
    faults[jumps] = FAULTS.index(Fault.JUMP)
    delivery.faults = faults
    ratios = infer_splits(close, adjusted, usable, limit)
    delivery.splits = np.where(delivery.accepted, ratios, 1.0)


def _store(ctx: JobContext, delivery: _Delivery, label: SourceLabel, fetched_at: datetime) -> None:
    """Write the fresh bars to where they belong, in chunks of a transaction each."""
    places = np.argwhere(delivery.fresh)
    for start in range(0, len(places), CHUNK):
        chunk = places[start : start + CHUNK]
        good, bad = [], []
        for row, column in chunk.tolist():
            values = delivery.values[:, row, column].tolist()
            record = {
                "mic": delivery.mic,
                "session_date": delivery.sessions[row],
                "symbol": delivery.symbols[column],
                **dict(zip(BAR_FIELDS, values, strict=True)),
                "source": label.name,
                "is_synthetic": label.is_synthetic,
                "fetched_at": fetched_at,
            }
            fault = int(delivery.faults[row, column])
            if fault == FINE:
                good.append({**record, "revision": 0})
            else:
                bad.append(_quarantine_row(record, FAULTS[fault]))
        with ctx.transaction() as connection:
            _make_room(connection, delivery, chunk, good, fetched_at)
            upsert(connection, eq_prices, good)
            upsert(connection, eq_quarantine, bad)
    if delivery.strays:
        rows = [
            _quarantine_row(
                {
                    **dict(zip(Bar._fields, bar, strict=True)),
                    "source": label.name,
                    "is_synthetic": label.is_synthetic,
                    "fetched_at": fetched_at,
                },
                Fault.NOT_A_SESSION,
            )
            for bar in {(bar.symbol, bar.session_date): bar for bar in delivery.strays}.values()
        ]
        with ctx.transaction() as connection:
            upsert(connection, eq_quarantine, rows)
    for row in _refused(delivery):
        ctx.logger.warning("price_quarantined", extra={"mic": delivery.mic, **row})
    revised = _revised(delivery)
    if revised:
        sessions = sorted({row["session_date"] for row in revised})
        facts = {"mic": delivery.mic, "bars": len(revised), "sessions": sessions}
        ctx.logger.warning("prices_revised", extra={**facts, "source": label.name})


def _make_room(
    connection: Connection,
    delivery: _Delivery,
    places: NDArray[np.intp],
    good: list[dict[str, Any]],
    now: datetime,
) -> None:
    """
    Take away what is stored under the keys of fresh bars, of whatever source.

    Values that were in ``eq_prices`` are kept in ``eq_price_revisions``; their successors get the
    next number.
    """
    first, last = places[:, 0].min(), places[:, 0].max()
    coming = {(delivery.sessions[row], delivery.symbols[column]) for row, column in places.tolist()}
    found: dict[str, list[dict[str, Any]]] = {}
    for table in (eq_prices, eq_quarantine):
        rows = connection.execute(
            select(table).where(
                table.c.mic == delivery.mic,
                table.c.session_date >= delivery.sessions[first],
                table.c.session_date <= delivery.sessions[last],
            )
        ).mappings()
        found[table.name] = [
            dict(row) for row in rows if (row["session_date"], row["symbol"]) in coming
        ]
        delete_keys(connection, table, map(_key, found[table.name]))
    replaced = found[eq_prices.name]
    upsert(connection, eq_price_revisions, [{**row, "replaced_at": now} for row in replaced])
    numbers = {(row["session_date"], row["symbol"]): row["revision"] for row in replaced}
    for record in good:
        before = numbers.get((record["session_date"], record["symbol"]))
        if before is not None:
            record["revision"] = before + 1


def _key(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("mic", "session_date", "symbol")}


def _quarantine_row(record: dict[str, Any], fault: Fault) -> dict[str, Any]:
    values = {name: record[name] for name in BAR_FIELDS}
    # NaN is NULL on SQLite and a value of its own on PostgreSQL; here it is NULL on both.
    cleaned = {name: value if np.isfinite(value) else None for name, value in values.items()}
    detail = ", ".join(f"{name} {value:g}" for name, value in values.items())
    return {**record, **cleaned, "reason": fault.value, "detail": detail}


def _store_instruments(
    ctx: JobContext, listed: Sequence[Instrument], label: SourceLabel, fetched_at: datetime
) -> None:
    """Write the market's instruments of the session, unless the same are there already."""
    scope = {"market_id": ctx.market_id, "session_date": ctx.session_date}
    rows = [
        {
            **scope,
            "mic": instrument.mic,
            "symbol": instrument.symbol,
            "name": instrument.name,
            "sector": instrument.sector,
            "currency": instrument.currency,
            "source": label.name,
            "is_synthetic": label.is_synthetic,
            "fetched_at": fetched_at,
        }
        for instrument in listed
    ]
    table = eq_instruments
    with ctx.transaction() as connection:
        stored = connection.execute(
            select(table).where(*(table.c[name] == value for name, value in scope.items()))
        ).mappings()
        before = {(row["mic"], row["symbol"]): dict(row) for row in stored}
    if len(before) == len(rows) and all(
        {**before.get((row["mic"], row["symbol"]), {}), "fetched_at": fetched_at} == row
        for row in rows
    ):
        return
    replace_rows(ctx, table, scope, rows)


def _refused(delivery: _Delivery) -> list[dict[str, str]]:
    found = [
        {
            "symbol": delivery.symbols[column],
            "session_date": delivery.sessions[row].isoformat(),
            "reason": FAULTS[delivery.faults[row, column]].value,
        }
        for row, column in np.argwhere(delivery.refused)
    ]
    found += [
        {
            "symbol": bar.symbol,
            "session_date": bar.session_date.isoformat(),
            "reason": Fault.NOT_A_SESSION.value,
        }
        for bar in delivery.strays
    ]
    return found


def _revised(delivery: _Delivery) -> list[dict[str, str]]:
    """List the stored bars that came again with other values."""
    return [
        {
            "symbol": delivery.symbols[column],
            "session_date": delivery.sessions[row].isoformat(),
        }
        for row, column in np.argwhere(delivery.accepted & delivery.stored)
    ]


def _report(
    ctx: JobContext,
    label: SourceLabel,
    listed: Sequence[Instrument],
    deliveries: Sequence[_Delivery],
) -> dict[str, Any]:
    exchanges: dict[str, dict[str, Any]] = {}
    history = 0
    revised: list[dict[str, str]] = []
    quarantined: list[dict[str, str]] = []
    splits: list[dict[str, Any]] = []
    for delivery in deliveries:
        good = (delivery.stored & ~delivery.fresh) | delivery.accepted
        rows = int(good[-1].sum()) if delivery.has_session else 0
        exchanges[delivery.mic] = {"session": delivery.has_session, "rows": rows}
        new = delivery.accepted & ~delivery.stored
        history += int(new.sum()) - (int(new[-1].sum()) if delivery.has_session else 0)
        revised += [{"mic": delivery.mic, **row} for row in _revised(delivery)]
        quarantined += [{"mic": delivery.mic, **row} for row in _refused(delivery)]
        splits += [
            {
                "mic": delivery.mic,
                "symbol": delivery.symbols[column],
                "session_date": delivery.sessions[row].isoformat(),
                "ratio": round(float(delivery.splits[row, column]), 4),
            }
            for row, column in np.argwhere(delivery.splits != 1.0)
        ]
    result: dict[str, Any] = {
        "source": label.name,
        "is_synthetic": label.is_synthetic,
        "instruments": len(listed),
        "rows": sum(exchange["rows"] for exchange in exchanges.values()),
        "history_rows": history,
        "revised_rows": len(revised),
        "revised_bars": revised[:_REPORTED],
        "exchanges": exchanges,
        "quarantined": len(quarantined),
        "quarantined_bars": quarantined[:_REPORTED],
        "splits": splits,
    }
    ctx.logger.info("prices_ingested", extra={"ingested": result})
    return result
