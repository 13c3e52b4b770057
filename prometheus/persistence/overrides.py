"""Calendar overrides: recorded, and read into the process when there are new ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from prometheus.core.exchanges import Break
from prometheus.core.instants import write_instant
from prometheus.core.overrides import Override, Overrides, in_force, put_in_force
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import OverridesChangedError, UnknownMarketError, UnreadableError
from prometheus.persistence.audits import record_audit
from prometheus.persistence.clock import Now, read_now
from prometheus.persistence.stored import COLUMNS, override_of
from prometheus.persistence.tables import calendar_overrides

log = logging.getLogger(__name__)

_o = calendar_overrides.c
_ALL = select(*(_o[name] for name in COLUMNS)).order_by(_o.override_id)


def read_overrides(connection: Connection) -> Overrides:
    """Read all that were recorded, in that order."""
    return Overrides(tuple(map(override_of, connection.execute(_ALL))))


def refresh(connection: Connection, now: Now) -> bool:
    """
    Put in force what the database has, if this process does not go by it yet.

    Args:
        now: Read in this transaction.

    Returns:
        Whether there was anything new.
    """
    if in_force().latest == now.latest_override:
        return False
    found = read_overrides(connection)
    put_in_force(found)
    for each in found.unreadable():
        facts = {"override": each.override_id, "of": each.target, "error": each.fault}
        log.error("override_unreadable", extra=facts)
    return True


def lock_overrides(connection: Connection) -> None:
    """
    Let nobody else record overrides until the transaction ends.

    So ids grow in the order in which rows can be seen, and the last one says which there are.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE calendar_overrides IN SHARE ROW EXCLUSIVE MODE")


def record(connection: Connection, override: Override) -> None:
    """Write an override, made of what `lock_overrides` has fixed, and its audit row."""
    known = read_overrides(connection)
    connection.execute(
        insert(calendar_overrides).values(
            override_id=override.override_id,
            exchange=override.exchange,
            market_id=override.market,
            session=override.session,
            kind=override.kind,
            opens=override.open and str(override.open),
            closes=override.close and str(override.close),
            breaks=written_breaks(override.breaks),
            zone=override.zone,
            reason=override.reason,
            source=override.source,
            announced_at=override.announced_at,
            author=override.author,
            withdraws=override.withdraws,
        )
    )
    details = {
        "override": override.override_id,
        "session": override.session.isoformat(),
        "kind": override.kind,
        "reason": override.reason,
        "withdraws": override.withdraws,
    }
    record_audit(
        connection,
        override.author,
        "override",
        override.target,
        details,
        before=_hours(override, known),
        after=_hours(override, known.plus(override)),
    )


def record_as_seen(
    connection: Connection,
    read: Callable[[Overrides, datetime], Override],
    seen: int | None,
    *,
    what: str,
) -> Override:
    """
    Record an override, unless others were since somebody saw what it would change.

    Args:
        read: Makes it of what has been recorded by now, and market time.
        seen: The last one that was recorded then; ``None`` if that does not matter.
        what: What would be recorded, for whoever is refused.

    Raises:
        OverridesChangedError: Others were recorded.
        OverrideError: It does not hold as things stand.
    """
    lock_overrides(connection)
    known = read_overrides(connection)
    if seen is not None and seen != known.latest:
        if seen < known.latest:
            by = f"{known.rows[-1].author} has recorded override {known.latest} meanwhile"
        else:
            by = f"{seen} is not the last override that was recorded, but {known.latest}"
        raise OverridesChangedError(what, [f"{by}: look again"])
    override = read(known, read_now(connection).market_at)
    record(connection, override)
    return override


def _hours(override: Override, overrides: Overrides) -> dict[str, Any] | str:
    """Say when what an override is about trades on its date, with these overrides."""
    try:
        calendar = TradingCalendar(override.target, overrides=overrides)
    except (UnknownMarketError, UnreadableError):
        return "not known"  # of what there is not any more, one can still be withdrawn
    if not calendar.first <= override.session <= calendar.horizon:
        return "not known"
    if not calendar.is_trading_day(override.session):
        return "closed"
    session = calendar.session(override.session)
    return {
        "opens": write_instant(session.open),
        "closes": write_instant(session.close),
        "breaks": [[write_instant(at) for at in each] for each in session.breaks],
    }


def written_breaks(breaks: tuple[Break, ...] | None) -> str | None:
    """Write breaks as they are stored."""
    if breaks is None:
        return None
    return " ".join(f"{start}-{end}" for start, end in breaks)
