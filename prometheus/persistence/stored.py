"""
Calendar overrides as their table has them, read with a database's driver and nothing more.

For commands that only look at calendars: SQLAlchemy takes longer to import than they to answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from prometheus.core.exchanges import LocalTime, exchange_mics, parse_breaks
from prometheus.core.overrides import Override, OverrideKind, Overrides
from prometheus.errors import PrometheusError

COLUMNS = (
    "override_id",
    "exchange",
    "market_id",
    "session",
    "kind",
    "opens",
    "closes",
    "breaks",
    "zone",
    "reason",
    "source",
    "announced_at",
    "author",
    "recorded_at",
    "withdraws",
)
"""Of ``calendar_overrides``, as `override_of` takes them."""
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM calendar_overrides ORDER BY override_id"  # noqa: S608
_PATIENCE_SECONDS = 3
"""How long somebody who only looks waits for a server."""


class StoredOverridesError(PrometheusError):
    """Which overrides were recorded can not be told; the message goes on after the database."""


def override_of(row: Sequence[Any]) -> Override:
    """
    Read a row; its dates and instants may be text, as SQLite keeps them.

    One that somebody wrote past our commands, or on a machine that knows other zones, has a fault.
    """
    (number, exchange, market, session, kind, opens, closes, breaks, zone, *words) = row
    reason, source, announced_at, author, recorded_at, withdraws = words
    try:
        said = _said(exchange, kind, opens, closes, breaks, zone)
    except ValueError as error:
        said = {"kind": OverrideKind.WITHDRAWN, "fault": str(error)}
    return Override(
        override_id=number,
        exchange=exchange,
        market=market,
        session=date.fromisoformat(session) if isinstance(session, str) else session,
        **said,
        reason=reason,
        source=source,
        announced_at=_instant(announced_at),
        author=author,
        recorded_at=_instant(recorded_at),
        withdraws=withdraws,
    )


def _said(
    exchange: str | None,
    kind: str,
    opens: str | None,
    closes: str | None,
    breaks: str | None,
    zone: str | None,
) -> dict[str, Any]:
    if exchange is not None and exchange not in exchange_mics():
        raise ValueError(f"no exchange is called {exchange!r}")
    if zone is not None:
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"no zone is called {zone!r} here") from None
    return {
        "kind": OverrideKind(kind),
        "open": LocalTime.parse(opens) if opens else None,
        "close": LocalTime.parse(closes) if closes else None,
        "breaks": None if breaks is None else parse_breaks(breaks),
        "zone": zone,
    }


def _instant(value: datetime | str) -> datetime:
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def read_stored(url: str) -> Overrides:
    """
    Read all overrides that a database keeps.

    Args:
        url: Of SQLite or PostgreSQL, with its password.

    Returns:
        No override where there is no database yet, or none of our tables in it.

    Raises:
        StoredOverridesError: The database does not answer, or has what cannot be read.
    """
    scheme, _, rest = url.partition("://")
    try:
        if scheme.startswith("sqlite"):
            rows = _rows_of_sqlite(Path(rest.partition("?")[0].removeprefix("/")))
        else:
            rows = _rows_of_postgresql(f"postgresql://{rest}")
        return Overrides(tuple(map(override_of, rows)))
    except ValueError as error:
        raise StoredOverridesError(f"has an override that can not be read: {error}") from None


def _rows_of_sqlite(path: Path) -> Iterable[Sequence[Any]]:
    import sqlite3

    if not path.is_file():
        return []
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            named = "SELECT 1 FROM sqlite_master WHERE name = 'calendar_overrides'"
            if connection.execute(named).fetchone() is None:
                return []
            return connection.execute(_SELECT).fetchall()
    except sqlite3.Error as error:
        raise StoredOverridesError(f"does not answer: {error}") from None


def _rows_of_postgresql(url: str) -> Iterable[Sequence[Any]]:
    import psycopg

    try:
        with psycopg.connect(url, connect_timeout=_PATIENCE_SECONDS) as connection:
            return connection.execute(_SELECT).fetchall()
    except psycopg.errors.UndefinedTable:
        return []
    except psycopg.ProgrammingError:
        # libpq reads no such URL, and says so with what may be a password.
        raise StoredOverridesError("has a URL that psycopg does not read") from None
    except psycopg.Error as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise StoredOverridesError(f"does not answer: {line}") from None
