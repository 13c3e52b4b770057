"""``/api/v1/markets``: what they do, and when they trade."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from prometheus.core.days import DayKind, date_there, describe_day
from prometheus.core.market_state import MarketState, MarketStatus, describe_market
from prometheus.core.overrides import Override
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.crew import count_listeners
from prometheus.errors import HorizonError, SnapshotError
from prometheus.masking import safe_text, safe_value
from prometheus.monitoring.api.models import (
    Change,
    Instant,
    IsoDate,
    Model,
    Name,
    RecordedOverride,
    Reply,
    SessionHours,
    times,
)
from prometheus.monitoring.installation import Here
from prometheus.monitoring.problems import QuestionError
from prometheus.persistence import leases
from prometheus.persistence.overrides import written_breaks

router = APIRouter(prefix="/api/v1", tags=["markets"])

_USUAL_SPAN = timedelta(days=30)
_LONGEST_SPAN = timedelta(days=400)


class Member(Model):
    """An exchange of a market."""

    exchange: str
    """MIC; of a market with hours of its own, its name."""
    city: str
    zone: str
    """Name of its time zone."""
    state: MarketState
    closed: str | None
    """Why it has no session on its local date."""


class Market(Model):
    """A market at an instant."""

    market: str
    queue: str
    """Where its jobs wait for a worker."""
    workers: int
    """How many hold a lease and listen to its queue."""
    error: str | None = None
    """Why its state is not known; then all below is ``null``."""
    state: MarketState | None = None
    since: Instant | None = None
    """First instant of the state; ``null`` where that is years ago, as of a market that never
    closes."""
    reason: str | None = None
    """In HOLIDAY, why."""
    in_break: bool | None = None
    session_date: date | None = None
    """Of the session whose PRE_OPEN, SESSION or POST_CLOSE it is."""
    next_session_date: date | None = None
    next_transition: Change | None = None
    """``null`` where the calendar ends before the state changes."""
    members: list[Member] | None = None


class Markets(Reply):
    """The markets that the installation serves."""

    items: list[Market]


class CalendarDay(Model):
    """A date of a market."""

    date: date
    kind: DayKind
    reason: str | None
    """Why there is no session, or why its hours are special."""
    closed_members: dict[str, str]
    """MIC -> why it has no session."""
    session: SessionHours | None
    overrides: list[int]
    """Ids of the overrides that say so."""


class Calendar(Reply):
    """The dates of a market from one to another, both included."""

    market: str
    first: date
    """First date whose sessions are known."""
    horizon: date
    """Last date whose sessions are known."""
    horizon_source: str
    """On what grounds they are."""
    version: str
    days: list[CalendarDay]
    overrides: list[RecordedOverride]
    """Those that hold on these dates."""


class Span(Model):
    """Which dates of a calendar are meant, both included."""

    first: Annotated[IsoDate | None, Field(alias="from")] = None
    """By default today, where the market is."""
    last: Annotated[IsoDate | None, Field(alias="to")] = None
    """By default 30 days after the first; at most 400."""


@router.get("/markets")
def markets(here: Here) -> Markets:
    """List the markets of this installation: state, since when, what comes next, its queue."""
    with here.look() as look:
        listeners = count_listeners(leases.live_workers(look.connection, look.now.wall_at))
        now = look.now
    return Markets(
        **times(now),
        items=[
            _market(market_id, now.market_at, listeners.get(market_id, 0))
            for market_id in here.markets(now)
        ],
    )


def _market(market_id: str, at: datetime, workers: int) -> Market:
    try:
        status = describe_market(market_id, at)
    except (HorizonError, SnapshotError) as error:  # one market's, not another's
        return Market(market=market_id, queue=market_id, workers=workers, error=str(error))
    return Market(
        market=market_id,
        queue=market_id,
        workers=workers,
        state=status.state,
        since=status.since,
        reason=status.reason and safe_text(status.reason),
        in_break=status.in_break,
        session_date=status.session_date,
        next_session_date=status.next_session_date,
        next_transition=Change.of(status.next_transition),
        members=_members(status),
    )


def _members(status: MarketStatus) -> list[Member]:
    return [
        Member(
            exchange=exchange.mic,
            city=exchange.city,
            zone=exchange.zone.key,
            state=status.members[exchange.mic],
            closed=status.closed_members.get(exchange.mic),
        )
        for exchange in TradingCalendar(status.market_id).exchanges
    ]


@router.get("/markets/{market}/calendar")
def calendar(here: Here, market: Name, span: Annotated[Span, Query()]) -> Calendar:
    """
    Show the dates of a market or exchange: sessions, breaks, days off with their reasons.

    Any market that is known here has a calendar, and any exchange by its MIC.
    """
    with here.look() as look:
        now = look.now
    found = TradingCalendar(market)
    first, last = _bounds(span, date_there(found, now.market_at))
    days = [
        describe_day(found, first + timedelta(days=offset))
        for offset in range((last - first).days + 1)
    ]
    return Calendar(
        **times(now),
        market=found.market_id,
        first=found.first,
        horizon=found.horizon,
        horizon_source=found.horizon_source,
        version=found.version,
        days=[
            CalendarDay(
                date=day.date,
                kind=day.kind,
                reason=day.reason and safe_text(day.reason),
                closed_members=safe_value(day.closed_members),
                session=SessionHours.of(day.session) if day.session else None,
                overrides=list(day.overrides),
            )
            for day in days
        ],
        overrides=[
            tell_override(each, in_force=True)
            for day in days
            for each in found.overrides_on(day.date)
        ],
    )


def _bounds(span: Span, today: date) -> tuple[date, date]:
    first = span.first or min(today, span.last or today)
    last = span.last or min(first, date.max - _USUAL_SPAN) + _USUAL_SPAN
    if last < first:
        raise QuestionError(f"The range ends ({last}) before it begins ({first}).")
    if last - first > _LONGEST_SPAN:
        days = (last - first).days
        raise QuestionError(f"The range is {days} days long; ask for {_LONGEST_SPAN.days} at most.")
    return first, last


def tell_override(override: Override, *, in_force: bool) -> RecordedOverride:
    """Describe an override, and whether it holds."""
    return RecordedOverride(
        id=override.override_id,
        exchange=override.exchange,
        market=override.market,
        session=override.session,
        kind=override.kind,
        open=str(override.open) if override.open else None,
        close=str(override.close) if override.close else None,
        breaks=written_breaks(override.breaks),
        zone=override.zone,
        reason=safe_text(override.reason),
        source=safe_text(override.source),
        announced_at=override.announced_at,
        author=safe_text(override.author),
        recorded_at=override.recorded_at,
        withdraws=override.withdraws,
        fault=override.fault,
        in_force=in_force,
    )
