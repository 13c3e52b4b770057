"""
What feeds say of holidays: kept as proposals, decided by people.

Of an exchange, a date and a feed there is at most one proposal, the feed's last word. A decision is
a row that never changes: while the feed goes on saying what was decided, it proposes nothing; when
it says something else, that is a new proposal, and what was confirmed stays so until somebody
confirms another word.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from prometheus.core.drafts import read_draft
from prometheus.core.holidays import Holiday, HolidayKind, HolidayState, override_for
from prometheus.core.markets import get_market
from prometheus.core.overrides import Override, Overrides
from prometheus.errors import PrometheusError
from prometheus.persistence.metadata import database_now
from prometheus.persistence.overrides import lock_overrides, read_overrides, record
from prometheus.persistence.tables import audit, market_holidays

_h = market_holidays.c


class DecisionError(PrometheusError):
    """
    A feed's words can not be decided on as asked; nothing was changed.

    Attributes:
        faults: What is wrong, one for each date.
    """

    def __init__(self, exchange: str, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__(f"{exchange}: {'; '.join(faults)}. Nothing was decided.")


@dataclass(frozen=True, slots=True)
class StoredHoliday:
    """A feed's word on a date, and what has become of it."""

    exchange: str
    holiday: Holiday
    source: str
    fetched_at: datetime
    state: HolidayState
    decided_at: datetime | None
    decided_by: str | None
    reason: str | None


def propose_holidays(
    connection: Connection,
    exchange: str,
    source: str,
    first: date,
    last: date,
    holidays: Iterable[Holiday],
) -> list[StoredHoliday]:
    """
    Take down all that a feed says of an exchange between two dates, both included.

    Proposals of these dates that it does not repeat are dropped; nothing that was decided changes.

    Args:
        holidays: At most one a date; those of other dates are ignored.

    Returns:
        By date, what is stored of each of them: a proposal, or the decision that it repeats.
    """
    said = {each.day: each for each in holidays if first <= each.day <= last}
    in_range = (_h.exchange == exchange, _h.source == source, _h.date.between(first, last))
    decided = {
        row.date: row
        for row in connection.execute(
            select(market_holidays)
            .where(*in_range, _h.state != HolidayState.PROPOSED)
            .order_by(_h.holiday_id)
        )
    }
    new = {
        day: each
        for day, each in said.items()
        if day not in decided or not _same(_stored(decided[day]).holiday, each)
    }
    connection.execute(
        delete(market_holidays).where(
            *in_range, _h.state == HolidayState.PROPOSED, _h.date.not_in(list(new))
        )
    )
    rows = [
        {
            "exchange": exchange,
            "date": each.day,
            "name": each.name,
            "kind": each.kind.value,
            "close": each.close,
            "source": source,
            "state": HolidayState.PROPOSED.value,
        }
        for each in sorted(new.values(), key=lambda each: each.day)
    ]
    if rows:
        kind = postgresql if connection.dialect.name == "postgresql" else sqlite
        statement = kind.insert(market_holidays).values(fetched_at=database_now())
        words = ("name", "kind", "close", "fetched_at")
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=[_h.exchange, _h.date, _h.source],
                # Written out: a prepared statement finds no partial index by a parameter.
                index_where=text("state = 'proposed'"),
                set_={name: statement.excluded[name] for name in words},
            ),
            rows,
        )
    newest = {
        row.date: row
        for row in connection.execute(
            select(market_holidays).where(*in_range).order_by(_h.holiday_id)
        )
    }
    return [_stored(newest[day]) for day in sorted(said)]


def decide_holidays(
    connection: Connection,
    exchange: str,
    days: Collection[date],
    state: HolidayState,
    *,
    actor: str,
    reason: str,
) -> list[StoredHoliday]:
    """
    Confirm or reject what is proposed of some dates, all or none, and audit it.

    Args:
        state: CONFIRMED or REJECTED.
        actor: Who decides.
        reason: Why.

    Returns:
        By date, the rows as they are now.

    Raises:
        DecisionError: Nothing is proposed of a date; or what is says too little to be confirmed.
    """
    rows = _proposed_on(connection, exchange, days, state, lock=True)
    connection.execute(
        update(market_holidays)
        .where(_h.holiday_id.in_([row.holiday_id for row in rows.values()]))
        .values(state=state.value, decided_at=database_now(), decided_by=actor, reason=reason)
    )
    decided = [
        _stored(row)
        for row in connection.execute(
            select(market_holidays)
            .where(_h.holiday_id.in_([row.holiday_id for row in rows.values()]))
            .order_by(_h.date)
        )
    ]
    for each in decided:
        connection.execute(
            insert(audit).values(
                actor=actor,
                action=f"holiday {state.value}",
                target=f"{exchange} {each.holiday.day}",
                details={
                    "says": each.holiday.words,
                    "name": each.holiday.name,
                    "source": each.source,
                    "reason": reason,
                },
            )
        )
    return decided


def _proposed_on(
    connection: Connection,
    exchange: str,
    days: Collection[date],
    state: HolidayState,
    *,
    lock: bool = False,
) -> dict[date, Row[Any]]:
    """Return what is proposed of dates, each of which can be decided on so."""
    proposed = (
        select(market_holidays)
        .where(
            _h.exchange == exchange,
            _h.date.in_(list(days)),
            _h.state == HolidayState.PROPOSED,
        )
        .order_by(_h.holiday_id)
    )
    found = connection.execute(proposed.with_for_update() if lock else proposed)
    rows = {row.date: row for row in found}
    faults = []
    for day in sorted(days):
        if day not in rows:
            faults.append(f"of {day} nothing is proposed")
        elif state is HolidayState.CONFIRMED and not _stored(rows[day]).holiday.can_be_confirmed:
            faults.append(
                f"of {day} the feed does not say enough ({_stored(rows[day]).holiday.words}), "
                f"so it can only be rejected"
            )
    if faults:
        raise DecisionError(exchange, faults)
    return rows


def proposed_of(
    connection: Connection, exchanges: Collection[str], days: Collection[date]
) -> dict[date, set[str]]:
    """Return date -> the exchanges of which something is proposed on it."""
    found: dict[date, set[str]] = {day: set() for day in days}
    rows = connection.execute(
        select(_h.exchange, _h.date).where(
            _h.exchange.in_(list(exchanges)),
            _h.date.in_(list(days)),
            _h.state == HolidayState.PROPOSED,
        )
    )
    for exchange, day in rows:
        found[day].add(exchange)
    return found


def as_decided(
    connection: Connection,
    exchange: str,
    days: Collection[date],
    state: HolidayState,
    *,
    actor: str,
    reason: str,
) -> list[StoredHoliday]:
    """Return what `decide_holidays` would make of some dates, and raise what it would."""
    rows = _proposed_on(connection, exchange, days, state)
    return [
        replace(_stored(row), state=state, decided_by=actor, reason=reason)
        for _, row in sorted(rows.items())
    ]


def follow_confirmed(
    connection: Connection, confirmed: Iterable[StoredHoliday], now: datetime
) -> dict[tuple[str, date], Override]:
    """
    Record the overrides by which calendars follow what was confirmed, in the same transaction.

    Args:
        confirmed: By `decide_holidays`.
        now: Market time.

    Returns:
        Exchange and date -> its override, of those that the calendar did not say already.

    Raises:
        DecisionError: An override of a person says otherwise, and is the stronger.
        OverrideError: It cannot be so.
    """
    lock_overrides(connection)
    overrides = overrides_for(confirmed, read_overrides(connection), now)
    for each in overrides.values():
        record(connection, each)
    return overrides


def overrides_for(
    confirmed: Iterable[StoredHoliday], overrides: Overrides, now: datetime
) -> dict[tuple[str, date], Override]:
    """
    Write the overrides that `follow_confirmed` records.

    Args:
        overrides: What has been recorded so far.
    """
    written: dict[tuple[str, date], Override] = {}
    for each in confirmed:
        day = each.holiday.day
        draft = override_for(
            each.exchange,
            each.holiday,
            overrides,
            source=each.source,
            reason=each.reason or "",
            author=each.decided_by or "",
        )
        if draft is None:
            continue
        if standing := overrides.on(get_market(each.exchange), day):
            number = standing[-1].override_id
            fault = f"override {number} says otherwise of {day}: withdraw that first"
            raise DecisionError(each.exchange, [fault])
        override = written[each.exchange, day] = read_draft(draft, overrides, now=now)
        overrides = overrides.plus(override)
    return written


def _same(left: Holiday, right: Holiday) -> bool:
    """Say whether two words say the same of trading, whatever the day is called."""
    return (left.kind, left.close) == (right.kind, right.close)


def _stored(row: Row[Any]) -> StoredHoliday:
    return StoredHoliday(
        row.exchange,
        Holiday(row.date, row.name, HolidayKind(row.kind), row.close),
        row.source,
        row.fetched_at,
        HolidayState(row.state),
        row.decided_at,
        row.decided_by,
        row.reason,
    )
