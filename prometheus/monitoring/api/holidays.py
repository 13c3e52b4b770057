"""``/api/v1/holidays``: what a feed says and the calendar does not, and what people make of it."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Annotated, Any, Self

from fastapi import APIRouter, Query, Response
from pydantic import Field, model_validator
from sqlalchemy import Connection

from prometheus import feeds
from prometheus.core.holidays import HolidayState
from prometheus.core.markets import get_market
from prometheus.masking import safe_text
from prometheus.monitoring.api.actions import (
    Ask,
    AskWithReason,
    AtDesk,
    Done,
    author_of,
)
from prometheus.monitoring.api.models import (
    Instant,
    IsoDate,
    Model,
    Name,
    Reply,
    times,
)
from prometheus.monitoring.api.overrides import ChangedRun, MarketChange, foresee
from prometheus.monitoring.guard import Asking
from prometheus.monitoring.installation import Here
from prometheus.monitoring.problems import QuestionError
from prometheus.persistence.holidays import (
    Decisions,
    StoredHoliday,
    decide_as_seen,
    differing_holidays,
    plan_decisions,
)
from prometheus.persistence.overrides import read_overrides
from prometheus.sources.eodhd.errors import SOURCE

router = APIRouter(prefix="/api/v1/holidays")

_FEED_MAY_TAKE = timedelta(seconds=30)
"""Somebody waits for it."""
_MOST_DAYS = 100


# --- what is asked ------------------------------------------------------------------------------


class HolidayQuestion(Model):
    """Which dates are meant; of all exchanges, and all dates, by default."""

    target: Name | None = None
    """An exchange (MIC), or a market: all of its exchanges."""
    first: Annotated[IsoDate | None, Field(alias="from")] = None
    last: Annotated[IsoDate | None, Field(alias="to")] = None
    """Included."""


class HolidaySync(Ask):
    """Of whom a feed is asked."""

    target: Name
    """An exchange (MIC), or a market: all of its exchanges."""


class HolidayDraft(AskWithReason):
    """What is made of what a feed says of some dates."""

    target: Name
    """
    An exchange (MIC), or a market: of each date, all of its exchanges that something is proposed
    of.
    """
    confirm: Annotated[tuple[IsoDate, ...], Field(max_length=_MOST_DAYS)] = ()
    """Dates of which it is true; the calendar follows, by overrides."""
    reject: Annotated[tuple[IsoDate, ...], Field(max_length=_MOST_DAYS)] = ()
    """Dates of which it is not, and which are not proposed again."""

    @model_validator(mode="after")
    def _each_one_way(self) -> Self:
        if not (self.confirm or self.reject):
            raise ValueError("name a date in confirm or reject")
        if both := set(self.confirm) & set(self.reject):
            raise ValueError(f"{min(both)} is to be confirmed and rejected")
        return self

    def days(self) -> dict[HolidayState, list[date]]:
        """Return what is made of which dates."""
        return {
            HolidayState.CONFIRMED: sorted(set(self.confirm)),
            HolidayState.REJECTED: sorted(set(self.reject)),
        }


class HolidayDecision(HolidayDraft):
    """A decision to be kept."""

    plan: Name | None = None
    """
    ``plan`` of the preview: it is kept only if it would still do the same. Left out, it is kept
    whatever was seen.
    """


# --- what is answered ---------------------------------------------------------------------------


class HolidayDifference(Model):
    """A date of which a feed and the calendar in force do not say the same."""

    exchange: str
    date: IsoDate
    proposed: str
    """What the feed says: ``closed``, ``open``, ``early close 13:00`` and the like."""
    in_force: str
    """What the calendar says."""
    name: str
    """The holiday, as the feed names it; otherwise as the calendar does."""


class WaitingHoliday(HolidayDifference):
    """One that waits for a person to decide."""

    source: str
    """The feed."""
    fetched_at: Instant
    """When it last said so."""
    can_be_confirmed: bool
    """Whether it says all that a calendar needs to know; otherwise it can only be rejected."""


class WaitingHolidays(Reply):
    """What waits, by exchange and date."""

    items: list[WaitingHoliday]


class AskedExchange(Model):
    """What came of asking about one exchange."""

    exchange: str
    listed: int | None
    """Days that the feed lists; ``null`` if they did not come."""
    error: str | None
    """Why nothing was stored."""


class FoundDifference(HolidayDifference):
    """One that was found just now."""

    state: HolidayState
    """What was decided, if it was."""


class HolidaysSynced(Done):
    """What a feed says of this year; nothing but proposals has changed."""

    source: str
    year: int
    exchanges: list[AskedExchange]
    differences: list[FoundDifference]


class EarlierDecision(Model):
    """What was decided before on what the same feed says."""

    state: HolidayState
    decided_at: Instant
    decided_by: str
    reason: str


class DecidedHoliday(Model):
    """A feed's word on a date, and what is made of it."""

    exchange: str
    date: IsoDate
    proposed: str
    name: str
    source: str
    state: HolidayState
    earlier: EarlierDecision | None
    override: int | None
    """Number of the override by which the calendar follows; ``null`` where it need not."""


class HolidayChange(Model):
    """What a decision would change."""

    states: dict[str, MarketChange]
    """On the date, of the exchange and of each market of this installation that has it."""
    runs: list[ChangedRun]
    """Those of which anything changes; those that are not there yet included."""
    is_over: bool
    """The session has ended, as it was and as it would be: runs that have finished stay."""


class PlannedHoliday(DecidedHoliday):
    """A decision that would be made."""

    change: HolidayChange | None
    """``null`` where the calendar does not change."""


class HolidayPreview(Reply):
    """What would be decided now, and what that would change; nothing was."""

    plan: str
    """The same for the same decisions."""
    decisions: list[PlannedHoliday]
    """Each laid over those before it."""


class HolidaysDecided(Done):
    """What was decided; calendars follow with the next tick."""

    decisions: list[DecidedHoliday]


# --- how it is done -----------------------------------------------------------------------------


@router.get("", tags=["operations"])
def waiting_holidays(here: Here, question: Annotated[HolidayQuestion, Query()]) -> WaitingHolidays:
    """List where a feed and the calendar do not agree, and nobody has decided."""
    mics = get_market(question.target).members if question.target else None
    with here.look() as look:
        found = differing_holidays(look.connection, mics, question.first, question.last)
    return WaitingHolidays(
        **times(look.now),
        items=[
            WaitingHoliday(
                exchange=said.exchange,
                date=said.holiday.day,
                proposed=difference.proposed,
                in_force=difference.in_force,
                name=safe_text(difference.name),
                source=said.source,
                fetched_at=said.fetched_at,
                can_be_confirmed=said.holiday.can_be_confirmed,
            )
            for said, difference in found
        ],
    )


@router.post("/sync", tags=["actions"], response_model=HolidaysSynced)
def sync_holidays(desk: AtDesk, here: Here, ask: HolidaySync) -> Response:
    """Ask eodhd.com for this year's holidays, and keep what it says as proposals."""
    desk.by(ask)
    if (before := desk.answered(ask)) is not None:
        return before
    mics = feeds.exchanges([ask.target])
    if not mics:
        raise QuestionError(f"{ask.target}: no feed knows what is no exchange")
    client = feeds.make_client(here.settings)
    with here.look() as look:
        year = look.now.wall_at.year
    # Not while anything waits for the database to be written.
    answers = feeds.ask(client, mics, year, within=_FEED_MAY_TAKE)

    def do(connection: Connection) -> dict[str, Any]:
        synced = [feeds.propose(connection, mic, answers[mic], year) for mic in mics]
        return {
            "source": SOURCE,
            "year": year,
            "exchanges": [
                AskedExchange(
                    exchange=each.exchange,
                    listed=None if each.error else each.listed,
                    error=safe_text(str(each.error)) if each.error else None,
                )
                for each in synced
            ],
            "differences": [
                FoundDifference(
                    exchange=difference.mic,
                    date=difference.day,
                    proposed=difference.proposed,
                    in_force=difference.in_force,
                    name=safe_text(difference.name),
                    state=state,
                )
                for each in synced
                for difference, state in each.differences
            ],
        }

    return desk.act(ask, do, HolidaysSynced)


@router.post("/decide/preview", tags=["operations"])
def preview_decision(here: Here, visitor: Asking, ask: HolidayDraft) -> HolidayPreview:
    """Say what deciding on a feed's words would change; changes nothing."""
    by = author_of(ask, visitor)
    with here.look() as look:
        found = plan_decisions(look.connection, ask.target, ask.days(), actor=by, reason=ask.reason)
        known = read_overrides(look.connection)
        changes = foresee(here, look.connection, found.overrides.values(), known)
    told = (HolidayChange.model_validate(change.document()) for change in changes)
    of = dict(zip(found.overrides, told, strict=True))
    return HolidayPreview(
        **times(look.now),
        plan=found.plan,
        decisions=[
            PlannedHoliday(**_facts(each, found), change=of.get((each.exchange, each.holiday.day)))
            for each in found.decided
        ],
    )


@router.post("/decide", tags=["actions"], response_model=HolidaysDecided)
def decide_holidays(desk: AtDesk, ask: HolidayDecision) -> Response:
    """Confirm or reject what a feed says of some dates, all or none."""

    def do(connection: Connection) -> dict[str, Any]:
        words = {"actor": desk.by(ask), "reason": ask.reason}
        found = decide_as_seen(connection, ask.target, ask.days(), ask.plan, **words)
        return {"decisions": [DecidedHoliday(**_facts(each, found)) for each in found.decided]}

    return desk.act(ask, do, HolidaysDecided)


def _facts(said: StoredHoliday, found: Decisions) -> dict[str, Any]:
    override = found.overrides.get((said.exchange, said.holiday.day))
    return {
        "exchange": said.exchange,
        "date": said.holiday.day,
        "proposed": said.holiday.words,
        "name": safe_text(said.holiday.name),
        "source": said.source,
        "state": said.state,
        "earlier": said.earlier and _tell_earlier(said.earlier),
        "override": override and override.override_id,
    }


def _tell_earlier(said: StoredHoliday) -> EarlierDecision:
    assert said.decided_at is not None  # noqa: S101  it was decided
    return EarlierDecision(
        state=said.state,
        decided_at=said.decided_at,
        decided_by=safe_text(said.decided_by or ""),
        reason=safe_text(said.reason or ""),
    )
