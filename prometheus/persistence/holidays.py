"""
What feeds say of holidays: kept as proposals, decided by people.

Of an exchange, a date and a feed there is at most one proposal, the feed's last word. A decision is
a row that never changes: while the feed goes on saying what was decided, it proposes nothing; when
it says something else, that is a new proposal, and what was confirmed stays so until somebody
confirms another word. A calendar that stops following what was confirmed, because the override was
withdrawn, contradicts the feed again: that is a proposal, too. Deciding anew adds a row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from prometheus.core.drafts import read_draft
from prometheus.core.holidays import (
    Difference,
    Holiday,
    HolidayKind,
    HolidayState,
    find_difference,
    is_followed,
    override_for,
)
from prometheus.core.markets import get_market
from prometheus.core.overrides import Override, Overrides
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import PrometheusError, UnknownMarketError, UnreadableError
from prometheus.persistence.audits import record_audit
from prometheus.persistence.clock import read_now
from prometheus.persistence.metadata import database_now
from prometheus.persistence.overrides import lock_overrides, read_overrides, record
from prometheus.persistence.tables import is_proposed, market_holidays

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

    holiday_id: int
    exchange: str
    holiday: Holiday
    source: str
    fetched_at: datetime
    state: HolidayState
    decided_at: datetime | None
    decided_by: str | None
    reason: str | None
    earlier: StoredHoliday | None = None
    """The decision that was made before on what the same feed says."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """What is made of feeds' words, and how the calendar follows."""

    decided: list[StoredHoliday]
    """By exchange and decision, then by date."""
    overrides: dict[tuple[str, date], Override]
    """Exchange and date -> its override, of those that the calendar did not say already."""

    @property
    def plan(self) -> str:
        """The same text for the same decisions, by which it is seen that they have changed."""
        told = [
            (each.exchange, str(said.day), each.state, said.words, said.name)
            for each in self.decided
            for said in [each.holiday]
        ]
        followed = [(exchange, str(day)) for exchange, day in self.overrides]
        return hashlib.sha256(json.dumps([told, followed]).encode()).hexdigest()[:16]


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
    What was confirmed and is not in force any more is proposed again.

    Args:
        holidays: At most one a date; those of other dates are ignored.

    Returns:
        By date, what is stored of each of them: a proposal, or the decision that it repeats.
    """
    lock_overrides(connection)  # nobody decides or withdraws meanwhile
    said = {each.day: each for each in holidays if first <= each.day <= last}
    in_range = (_h.exchange == exchange, _h.source == source, _h.date.between(first, last))
    decided = {
        row.date: _stored(row)
        for row in connection.execute(
            select(market_holidays)
            .where(*in_range, _h.state != HolidayState.PROPOSED)
            .order_by(_h.holiday_id)
        )
    }
    overrides = read_overrides(connection)
    new = {
        day: each
        for day, each in said.items()
        if day not in decided or not _stands(decided[day], each, overrides)
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


def proposed_holidays(
    connection: Connection,
    exchanges: Collection[str] | None = None,
    first: date | None = None,
    last: date | None = None,
) -> list[StoredHoliday]:
    """
    List what feeds propose and nobody has decided, whether or not the calendar says so already.

    Args:
        exchanges: Those that are meant; all by default.
        first: First date that is meant.
        last: Last one, included.
    """
    query = select(market_holidays).where(is_proposed)
    if exchanges is not None:
        query = query.where(_h.exchange.in_(list(exchanges)))
    if first is not None:
        query = query.where(_h.date >= first)
    if last is not None:
        query = query.where(_h.date <= last)
    found = connection.execute(query.order_by(_h.exchange, _h.date, _h.source))
    return [_stored(row) for row in found]


def differing_holidays(
    connection: Connection,
    exchanges: Collection[str] | None = None,
    first: date | None = None,
    last: date | None = None,
) -> list[tuple[StoredHoliday, Difference]]:
    """
    List what waits for a person: proposals that are not what the calendar in force says.

    Of all exchanges, one that can not be read, which is told elsewhere, or that this release does
    not have, hides no other's.

    Raises:
        UnknownMarketError, UnreadableError: So it is with one that was asked for.
    """
    proposed = proposed_holidays(connection, exchanges, first, last)
    calendars = {}
    for mic in {said.exchange for said in proposed}:
        try:
            calendars[mic] = TradingCalendar(mic)
        except (UnknownMarketError, UnreadableError):
            if exchanges is not None:
                raise
    return [
        (said, difference)
        for said in proposed
        if said.exchange in calendars
        and (difference := find_difference(calendars[said.exchange], said.holiday)) is not None
    ]


def last_said(
    connection: Connection, exchanges: Collection[str], days: Collection[date]
) -> dict[date, dict[str, StoredHoliday]]:
    """
    Find what a person can decide on of some dates.

    Returns:
        Date -> exchange -> what is proposed, otherwise what was decided last.
    """
    statement = (
        select(market_holidays)
        .where(_h.exchange.in_(list(exchanges)), _h.date.in_(list(days)))
        .order_by(_h.state == HolidayState.PROPOSED, _h.holiday_id)
    )
    decided: dict[tuple[str, date, str], StoredHoliday] = {}
    found: dict[date, dict[str, StoredHoliday]] = {day: {} for day in days}
    for row in connection.execute(statement):
        said = _stored(row)
        feed = said.exchange, said.holiday.day, said.source
        if said.state is not HolidayState.PROPOSED:
            decided[feed] = said
        earlier = decided.get(feed)
        if earlier is not None and _same(earlier.holiday, said.holiday):
            said = replace(said, earlier=earlier)
        found[row.date][row.exchange] = said
    return found


def plan_decisions(
    connection: Connection,
    target: str,
    days: Mapping[HolidayState, Collection[date]],
    *,
    actor: str,
    reason: str,
) -> Decisions:
    """
    Say what `decide_as_seen` would do, and raise what it would.

    Args:
        target: An exchange, or a market: then of each date those of its exchanges are meant that
            something is proposed of, otherwise those that something was decided of.
        days: CONFIRMED and REJECTED -> dates, none of them both.
    """
    members = get_market(target).members
    said = last_said(connection, members, [day for each in days.values() for day in each])
    if none := [_nothing_proposed(day) for day, of in sorted(said.items()) if not of]:
        raise DecisionError(target, none)
    meant = {day: _waiting(of) or of.keys() for day, of in said.items()}
    decided = [
        replace(each, state=state, decided_by=actor, reason=reason)
        for exchange in members
        for state, of_state in days.items()
        if (of_exchange := [day for day in of_state if exchange in meant[day]])
        for each in _to_decide_on(connection, exchange, of_exchange, state)
    ]
    now, known = read_now(connection).market_at, read_overrides(connection)
    return Decisions(decided, _overrides_for(_confirmed(decided), known, now))


def _confirmed(decided: Iterable[StoredHoliday]) -> list[StoredHoliday]:
    return [each for each in decided if each.state is HolidayState.CONFIRMED]


def _waiting(of_exchange: Mapping[str, StoredHoliday]) -> set[str]:
    """Return the exchanges of which something is proposed."""
    return {mic for mic, said in of_exchange.items() if said.state is HolidayState.PROPOSED}


def decide_as_seen(
    connection: Connection,
    target: str,
    days: Mapping[HolidayState, Collection[date]],
    seen: str | None,
    *,
    actor: str,
    reason: str,
) -> Decisions:
    """
    Confirm and reject what feeds say of some dates, all or none, and let the calendar follow.

    Args:
        target: As of `plan_decisions`.
        days: As there.
        seen: `Decisions.plan` as it was seen; ``None`` if that does not matter.
        actor: Who decides.
        reason: Why.

    Raises:
        DecisionError: A date can not be decided on so, an override of a person says otherwise, or
            it would be something else than was seen.
        OverrideError: The calendar can not follow.
    """
    lock_overrides(connection)  # nobody proposes, decides or withdraws meanwhile
    planned = plan_decisions(connection, target, days, actor=actor, reason=reason)
    if seen is not None and seen != planned.plan:
        what = "the feed says something else meanwhile, or another has decided: look again"
        raise DecisionError(target, [what])
    decided = [
        each
        for (exchange, state), of_part in groupby(
            planned.decided, key=lambda each: (each.exchange, each.state)
        )
        for each in decide_holidays(
            connection,
            exchange,
            [each.holiday.day for each in of_part],
            state,
            actor=actor,
            reason=reason,
        )
    ]
    now = read_now(connection).market_at
    return Decisions(decided, follow_confirmed(connection, _confirmed(decided), now))


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
    Confirm or reject what a feed says of some dates, all or none, and audit it.

    What was decided before can be decided anew, by another row: a rejected word confirmed, a
    confirmed one either way once the calendar does not follow it any more.

    Args:
        state: CONFIRMED or REJECTED.
        actor: Who decides.
        reason: Why.

    Returns:
        By date, the rows as they are now.

    Raises:
        DecisionError: Nothing is proposed of a date; it was decided so already, or an override has
            to be withdrawn first; or it says too little to be confirmed.
    """
    lock_overrides(connection)  # nobody proposes, decides or withdraws meanwhile
    said = _to_decide_on(connection, exchange, days, state)
    decided = []
    for each in said:
        proposal = _proposed_anew(connection, each)
        row = connection.execute(
            update(market_holidays)
            .where(_h.holiday_id == proposal)
            .values(state=state.value, decided_at=database_now(), decided_by=actor, reason=reason)
            .returning(market_holidays)
        ).one()
        decided.append(replace(_stored(row), earlier=each.earlier))
        details = {
            "says": each.holiday.words,
            "name": each.holiday.name,
            "source": each.source,
            "reason": reason,
        }
        if each.earlier is not None:
            details["earlier"] = f"{each.earlier.state} by {each.earlier.decided_by}"
        record_audit(
            connection,
            actor,
            f"holiday {state.value}",
            f"{exchange} {each.holiday.day}",
            details,
            before=(each.earlier or each).state,
            after=state,
        )
    return decided


def _to_decide_on(
    connection: Connection, exchange: str, days: Collection[date], state: HolidayState
) -> list[StoredHoliday]:
    """Return by date what a feed says of each, which can be decided on so."""
    said = last_said(connection, [exchange], days)
    overrides = read_overrides(connection)
    found, faults = [], []
    for day in sorted(days):
        each = said[day].get(exchange)
        if each is None:
            faults.append(_nothing_proposed(day))
        elif (fault := _fault(each, state, overrides)) is not None:
            faults.append(f"of {day} {fault}")
        else:
            found.append(each)
    if faults:
        raise DecisionError(exchange, faults)
    return found


def _nothing_proposed(day: date) -> str:
    """Write that no feed has said anything of a date."""
    return f"of {day} nothing is proposed"


def _fault(said: StoredHoliday, state: HolidayState, overrides: Overrides) -> str | None:
    """Say why something can not be decided on so, if it can not."""
    words = said.holiday.words
    if state is HolidayState.CONFIRMED and not said.holiday.can_be_confirmed:
        return f"the feed does not say enough ({words}), so it can only be rejected"
    already = f"{words!r} was {said.state} by {said.decided_by} already"
    if said.state is HolidayState.REJECTED and state is HolidayState.REJECTED:
        return already
    if said.state is not HolidayState.CONFIRMED:
        return None
    if not is_followed(said.exchange, said.holiday, overrides):
        return None
    if state is HolidayState.CONFIRMED:
        return already
    if standing := overrides.on(get_market(said.exchange), said.holiday.day):
        return f"{already}, and holds by override {standing[-1].override_id}: withdraw that first"
    return None


def _proposed_anew(connection: Connection, said: StoredHoliday) -> int:
    """Return the row to decide on: the proposal, or one that repeats what was decided."""
    if said.state is HolidayState.PROPOSED:
        return said.holiday_id
    holiday = said.holiday
    added: int = connection.execute(
        insert(market_holidays)
        .values(
            exchange=said.exchange,
            date=holiday.day,
            name=holiday.name,
            kind=holiday.kind.value,
            close=holiday.close,
            source=said.source,
            fetched_at=said.fetched_at,
            state=HolidayState.PROPOSED.value,
        )
        .returning(_h.holiday_id)
    ).scalar_one()
    return added


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
    overrides = _overrides_for(confirmed, read_overrides(connection), now)
    for each in overrides.values():
        record(connection, each)
    return overrides


def _overrides_for(
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


def _stands(decided: StoredHoliday, holiday: Holiday, overrides: Overrides) -> bool:
    """Say whether a decision answers what the feed says now."""
    if not _same(decided.holiday, holiday):
        return False
    if decided.state is HolidayState.REJECTED:
        return True
    return is_followed(decided.exchange, holiday, overrides)


def _same(left: Holiday, right: Holiday) -> bool:
    """Say whether two words say the same of trading, whatever the day is called."""
    return (left.kind, left.close) == (right.kind, right.close)


def _stored(row: Row[Any]) -> StoredHoliday:
    return StoredHoliday(
        row.holiday_id,
        row.exchange,
        Holiday(row.date, row.name, HolidayKind(row.kind), row.close),
        row.source,
        row.fetched_at,
        HolidayState(row.state),
        row.decided_at,
        row.decided_by,
        row.reason,
    )
