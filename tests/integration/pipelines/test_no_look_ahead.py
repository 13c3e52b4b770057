"""Nothing that happens after a session changes what was computed for it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Double, Engine, Table, select

from prometheus.core.markets import get_market
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.persistence.engine import create_engine, writing
from prometheus.pipelines.equities.storage import upsert
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
from tests.integration.pipelines.runs import (
    DERIVED,
    FRIDAY,
    TABLES,
    THURSDAY,
    WEDNESDAY,
    context,
    create_tables,
    rows,
    run,
)

MARKETS = ("US_EQ", "EU_EQ", "ASIA_EQ")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in which three markets were run on three days."""
    path = tmp_path_factory.mktemp("look_ahead") / "template.db"
    engine = create_engine(f"sqlite:///{path}")
    create_tables(engine)
    for day in (WEDNESDAY, THURSDAY, FRIDAY):
        for market_id in MARKETS:
            if TradingCalendar(market_id).is_trading_day(day):
                run(context(engine, market_id, day))
    engine.dispose()  # the last connection to close empties the write-ahead log into the file
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where examples put their copies."""
    path = tmp_path_factory.mktemp("copies")
    yield path
    shutil.rmtree(path)


def _until(engine: Engine, day: date) -> dict[str, list[dict[str, Any]]]:
    return {
        table.name: [row for row in rows(engine, table) if row["session_date"] <= day]
        for table in DERIVED
    }


def _spoil(engine: Engine, table: Table, after: date, how: str, factor: float) -> None:
    """Delete or alter all rows of later sessions, or invent some for the day after."""
    later = table.c.session_date > after
    with writing(engine) as connection:
        if how == "delete":
            connection.execute(table.delete().where(later))
        elif how == "alter":
            numbers = {
                column.name: column * factor
                for column in table.columns
                if isinstance(column.type, Double)
            }
            if numbers:
                connection.execute(table.update().where(later).values(numbers))
        else:
            # Rows of the session itself, dated after it: wrong in every way.
            found = connection.execute(select(table).where(table.c.session_date == after))
            copies = [
                {**row, "session_date": after + timedelta(days=days)}
                for row in found.mappings()
                for days in (1, 3, 400)
            ]
            for row in copies:
                for column in table.columns:
                    if isinstance(column.type, Double) and row[column.name] is not None:
                        row[column.name] *= factor
            upsert(connection, table, copies)


@pytest.mark.slow
@settings(max_examples=20)
@given(
    market_id=st.sampled_from(MARKETS),
    day=st.sampled_from([WEDNESDAY, FRIDAY]),
    spoiled=st.dictionaries(
        st.sampled_from([table.name for table in TABLES]),
        st.sampled_from(["delete", "alter", "invent"]),
        min_size=1,
    ),
    factor=st.sampled_from([-1.0, 0.0, 0.5, 7.0]),
)
def test_rows_after_the_session_change_nothing(
    template: Path,
    folder: Path,
    market_id: str,
    day: date,
    spoiled: dict[str, str],
    factor: float,
) -> None:
    """Rows later than the session are deleted, altered or invented; then all jobs run again."""
    path = folder / "copy.db"
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    shutil.copy(template, path)
    engine = create_engine(f"sqlite:///{path}")
    try:
        before = _until(engine, day)
        for table in TABLES:
            if table.name in spoiled:
                _spoil(engine, table, day, spoiled[table.name], factor)
        for table in DERIVED:
            with writing(engine) as connection:
                scope = table.c.session_date == day
                if "market_id" in table.c:
                    scope &= table.c.market_id == market_id
                connection.execute(table.delete().where(scope))
        run(context(engine, market_id, day))
        after = _until(engine, day)
        for table in DERIVED:
            wanted, found = (
                [row for row in snapshot[table.name] if _mine(row, market_id)]
                for snapshot in (before, after)
            )
            assert found == wanted, table.name
    finally:
        engine.dispose()


def _mine(row: dict[str, Any], market_id: str) -> bool:
    return row["mic"] in get_market(market_id).members


class _Foreseeing:
    """A price feed whose bars after a day are wild, and which delivers them unasked."""

    name = "synthetic: made-up prices on true session dates"
    is_synthetic = True

    def __init__(self, day: date, factor: float) -> None:
        self._inner = build_sources().prices("EU_EQ")
        self._day = day
        self._factor = factor

    def label(self, on: date) -> SourceLabel:
        return self._inner.label(on)

    def instruments(self, market_id: str, on: date) -> Sequence[Instrument]:
        return self._inner.instruments(market_id, on)

    def bars(self, mic: str, symbols: Sequence[str], start: date, end: date) -> Sequence[Bar]:
        bars = self._inner.bars(mic, symbols, start, self._day + timedelta(days=30))
        return [
            bar
            if bar.session_date <= self._day
            else bar._replace(
                close=bar.close * self._factor, adjusted_close=bar.adjusted_close * self._factor
            )
            for bar in bars
        ]

    def splits(self, mic: str, symbols: Sequence[str], start: date, end: date) -> Sequence[Split]:
        return self._inner.splits(mic, symbols, start, end)


class _ForeseeingSources(Sources):
    def __init__(self, day: date, factor: float) -> None:
        self._prices = _Foreseeing(day, factor)

    def prices(self, market_id: str) -> PriceSource:
        return self._prices

    def factors(self, market_id: str) -> FactorSource:
        return build_sources().factors(market_id)


def test_what_a_feed_knows_of_later_days_changes_nothing(equity_engine: Engine) -> None:
    run(context(equity_engine, "EU_EQ", WEDNESDAY))
    honest = {table.name: rows(equity_engine, table) for table in DERIVED}
    for table in TABLES:
        with writing(equity_engine) as connection:
            connection.execute(table.delete())
    run(context(equity_engine, "EU_EQ", WEDNESDAY, sources=_ForeseeingSources(WEDNESDAY, 3.0)))
    assert {table.name: rows(equity_engine, table) for table in DERIVED} == honest
