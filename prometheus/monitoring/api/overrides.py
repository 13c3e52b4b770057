"""``/api/v1/overrides``: what an override would change, recording it, and taking it back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import Field
from sqlalchemy import Connection

from prometheus.core.drafts import Draft, read_draft, read_withdrawal
from prometheus.core.market_state import MarketState
from prometheus.core.overrides import Override, Overrides
from prometheus.monitoring.api.actions import Ask, AtDesk, Desk, Done, author_of
from prometheus.monitoring.api.markets import tell_override
from prometheus.monitoring.api.models import (
    Instant,
    Interval,
    IsoDate,
    Model,
    Name,
    RecordedOverride,
    Reply,
    times,
)
from prometheus.monitoring.guard import Asking
from prometheus.monitoring.installation import Here, Installation
from prometheus.orchestration.following import Effect
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.persistence.overrides import read_overrides, record_as_seen
from prometheus.persistence.previews import Change, changes_of

router = APIRouter(prefix="/api/v1/overrides")


# --- what is asked ------------------------------------------------------------------------------


class OverrideDraft(Ask):
    """An override in words."""

    target: Name
    """An exchange (MIC), for every market that has it, or a market."""
    session: IsoDate
    kind: Name
    """``closed``, ``early_close``, ``late_open``, ``special_session`` or ``changed_hours``."""
    open: Name | None = None
    """Local, such as ``10:30``, or ``17:00-1d`` on the day before."""
    close: Name | None = None
    """Local, such as ``13:00``."""
    breaks: Name | None = None
    """``11:30-12:30``, several with blanks between; ``none`` for a session without."""
    zone: Name | None = None
    """Whose clocks the times are of; by default those of the exchange."""
    reason: str
    """Why."""
    source: str
    """Who says so, such as an URL."""
    announced_at: Instant | None = None
    """When it was announced, in market time; now by default."""

    def reader(self, author: str) -> Read:
        """Return what reads it, held against what has been recorded."""
        at = self.announced_at
        said = self.model_dump(
            include={"target", "kind", "open", "close", "breaks", "zone", "reason", "source"}
        )
        draft = Draft(
            **said,
            session=self.session.isoformat(),
            announced_at=at.isoformat() if at is not None else None,
            author=author,
        )
        return lambda known, now: read_draft(draft, known, now=now)


class Withdrawal(Ask):
    """Why an override does not hold any more."""

    reason: str
    """Why."""
    source: str = ""
    """Who says so, such as an URL."""

    def reader(self, override: int, author: str) -> Read:
        """Return what reads it, held against what has been recorded."""
        return lambda known, now: read_withdrawal(
            str(override), known, reason=self.reason, source=self.source, author=author, now=now
        )


class Seen(Model):
    """What was seen before something is recorded."""

    latest: Annotated[int | None, Field(ge=0)] = None
    """
    ``latest`` of the preview: it is recorded only if no other has been since. Left out, it is
    recorded whatever was seen.
    """


class NewOverride(Seen, OverrideDraft):
    """An override to be recorded."""


class NewWithdrawal(Seen, Withdrawal):
    """The withdrawal of an override, to be recorded."""


Read = Callable[[Overrides, datetime], Override]


# --- what is answered ---------------------------------------------------------------------------


class StateInterval(Model):
    """How long a market is in a state; half-open."""

    start: Annotated[Instant, Field(alias="from")]
    end: Annotated[Instant, Field(alias="to")]
    state: MarketState


class MarketChange(Model):
    """The states of a market on the session's date, as they are and as they would be."""

    before: list[StateInterval]
    after: list[StateInterval]
    others: list[str]
    """Its members that the override is not about and that have a session."""
    zone: str
    """Time zone of the exchange, of a market its first one."""


class ChangedJob(Model):
    """What becomes of a job; one whose run is not made yet is PENDING, before and after."""

    job: str
    before: JobStatus
    after: JobStatus
    """After the scheduler's next tick."""
    window_before: Interval | None
    window_after: Interval | None
    gives_up_before: Instant | None
    """Of a sensor."""
    gives_up_after: Instant | None


class ChangedRun(Model):
    """What becomes of a run."""

    dag_id: str
    market: str
    effect: Effect
    told: str
    """The effect in words."""
    status: RunStatus | None
    """Its state then; ``null`` of one that is not made, or not yet."""
    jobs: list[ChangedJob]


class OverridePreview(Reply):
    """What would change if an override were recorded now; nothing was."""

    latest: int
    """The last override that this knows of; 0 where there is none."""
    override: RecordedOverride
    states: dict[str, MarketChange]
    """Of what it is about, and of each market of this installation that it touches."""
    runs: list[ChangedRun]
    """Those of which anything changes; those that are not there yet included."""
    is_over: bool
    """The session has ended, as it was and as it would be: runs that have finished stay."""


class Recorded(Done):
    """An override that was recorded; in force with the next tick."""

    override: RecordedOverride


# --- how it is done -----------------------------------------------------------------------------


@router.post("/preview", tags=["operations"])
def preview_override(here: Here, visitor: Asking, ask: OverrideDraft) -> OverridePreview:
    """Say what would change if an override were recorded; changes nothing."""
    return _preview(here, ask.reader(author_of(ask, visitor)))


@router.post("/{override}/withdraw/preview", tags=["operations"])
def preview_withdrawal(
    here: Here, visitor: Asking, override: int, ask: Withdrawal
) -> OverridePreview:
    """Say what would change if an override were withdrawn; changes nothing."""
    return _preview(here, ask.reader(override, author_of(ask, visitor)))


def foresee(
    here: Installation, connection: Connection, overrides: Iterable[Override], known: Overrides
) -> list[Change]:
    """Work out what overrides would change in an installation; see `changes_of`."""
    return changes_of(
        connection,
        overrides,
        known,
        pipelines=here.pipelines[0].values() if here.settings.scheduler.create_runs else (),
        markets=here.settings.markets.enabled,
    )


def _preview(here: Installation, read: Read) -> OverridePreview:
    with here.look() as look:
        known = read_overrides(look.connection)
        override = read(known, look.now.market_at)
        (change,) = foresee(here, look.connection, [override], known)
    return OverridePreview.model_validate(
        {
            **times(look.now),
            "latest": known.latest,
            "override": tell_override(override, in_force=False),
            **change.document(),
        }
    )


@router.post("", tags=["actions"], response_model=Recorded)
def record_override(desk: AtDesk, ask: NewOverride) -> Response:
    """Record that a session differs; schedulers and workers go by it from their next tick on."""
    what = f"override of {ask.target} on {ask.session}"
    return _record(desk, ask, ask.reader(desk.by(ask)), what)


@router.post("/{override}/withdraw", tags=["actions"], response_model=Recorded)
def withdraw_override(desk: AtDesk, override: int, ask: NewWithdrawal) -> Response:
    """Take an override back: nothing is deleted, and runs that it had cancelled go on."""
    return _record(desk, ask, ask.reader(override, desk.by(ask)), f"withdrawal of {override}")


def _record(desk: Desk, ask: NewOverride | NewWithdrawal, read: Read, what: str) -> Response:
    def do(connection: Connection) -> dict[str, Any]:
        record_as_seen(connection, read, ask.latest, what=what)
        recorded = read_overrides(connection)
        made = recorded.rows[-1]
        return {"override": tell_override(made, in_force=made in recorded.standing())}

    return desk.act(ask, do, Recorded)
