"""``/api/v1/backfills``: what a backfill would do, starting it, how far it is, stopping it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import Field
from sqlalchemy import Connection

from prometheus.configured import check_names
from prometheus.core.markets import get_market
from prometheus.errors import HorizonError
from prometheus.masking import safe_text
from prometheus.monitoring.api.actions import (
    AskWithReason,
    AtDesk,
    Done,
    runnable_pipeline,
)
from prometheus.monitoring.api.models import Instant, IsoDate, Model, Name, Reply, times
from prometheus.monitoring.api.paging import Page, read_number
from prometheus.monitoring.installation import Here, Installation
from prometheus.monitoring.problems import QuestionError
from prometheus.orchestration.backfill import (
    MOST_ACTIVE_RUNS,
    BackfillEffect,
    BackfillSession,
    Reprocess,
)
from prometheus.orchestration.lifecycle import RunStatus
from prometheus.orchestration.pipeline import Pipeline
from prometheus.persistence import backfills

router = APIRouter(prefix="/api/v1/backfills")

Number = Annotated[int, Path(ge=1, le=2**31 - 1)]


# --- what is asked ------------------------------------------------------------------------------


class BackfillDraft(AskWithReason):
    """Of which sessions runs are made, or run again."""

    market: Name
    pipeline: Name = "daily"
    first: IsoDate
    """First date, included."""
    last: IsoDate
    """Last date, included."""
    reprocess: Reprocess = Reprocess.NONE
    """Which runs that are there already are run again."""
    max_active_runs: Annotated[int, Field(ge=1, le=MOST_ACTIVE_RUNS)] = 1
    """How many of its runs may be open at a time."""


class NewBackfill(BackfillDraft):
    """A backfill to be started."""

    plan: Name | None = None
    """
    ``plan`` of the preview: it is started only if it would still do the same. Left out, it is
    started whatever was seen.
    """


class BackfillQuestion(Page):
    """Which backfills are meant."""

    state: Literal["open", "ended"] | None = None
    market: Name | None = None
    pipeline: Name | None = None


# --- what is answered ---------------------------------------------------------------------------


class PlannedSession(Model):
    """What a backfill would do with a session."""

    session_date: IsoDate
    dag_id: str
    effect: BackfillEffect
    why: str
    """Of what is kept or impossible."""

    @classmethod
    def of(cls, session: BackfillSession) -> PlannedSession:
        """Make one of what was planned."""
        return cls(
            session_date=session.session_date,
            dag_id=session.dag_id,
            effect=session.effect,
            why=session.why,
        )


class BackfillPreview(Reply):
    """What a backfill would do if it were started now; nothing was."""

    plan: str
    """The same for the same plan."""
    counts: dict[BackfillEffect, int]
    sessions: list[PlannedSession]
    """The oldest first."""


class Backfill(Model):
    """A backfill, and how far it has come."""

    backfill: int
    """Its number."""
    pipeline: str
    market: str
    first: IsoDate
    last: IsoDate
    reprocess: Reprocess
    max_active_runs: int
    reason: str
    author: str
    created_at: Instant
    ended_at: Instant | None
    """When its last run ended, or somebody stopped it."""
    stopped_by: str | None
    sessions: int
    waiting: int
    """Sessions whose turn has not come."""
    active: int
    """Runs that are open."""
    succeeded: int
    failed: int
    """Runs that are FAILED or CANCELLED."""
    refused: int
    """Sessions that could not be run when their turn came."""
    removed: int
    """Sessions whose run is there no more: old runs are removed."""


class SessionOfBackfill(Model):
    """What a backfill does, and has done, with a session."""

    session_date: IsoDate
    dag_id: str
    again: bool
    """Its run was there and is run again."""
    begun_at: Instant | None
    """When its turn came."""
    status: RunStatus | None
    """Of its run as it is now; ``null`` before its turn, if it was refused or is there no more."""
    refused: str | None
    """Why it could not be run then."""


class BackfillPage(Reply):
    """Backfills, the latest first."""

    items: list[Backfill]
    next: str | None
    """``cursor`` of the next page, if there is one."""


class BackfillReport(Reply):
    """A backfill with its sessions."""

    backfill: Backfill
    sessions: list[SessionOfBackfill]
    """The oldest first."""


class BackfillStarted(Done):
    """A backfill that was started."""

    backfill: Backfill
    counts: dict[BackfillEffect, int]


class BackfillStopped(Done):
    """A backfill that makes no further run."""

    backfill: Backfill


def tell_backfill(found: backfills.Backfill) -> Backfill:
    """Tell of a backfill what everybody may know."""
    return Backfill(
        backfill=found.backfill_id,
        pipeline=found.pipeline,
        market=found.market_id,
        first=found.first,
        last=found.last,
        reprocess=found.reprocess,
        max_active_runs=found.max_active_runs,
        reason=safe_text(found.reason),
        author=safe_text(found.author),
        created_at=found.created_at,
        ended_at=found.ended_at,
        stopped_by=found.stopped_by and safe_text(found.stopped_by),
        sessions=found.sessions,
        waiting=found.waiting,
        active=found.active,
        succeeded=found.succeeded,
        failed=found.failed,
        refused=found.refused,
        removed=found.removed,
    )


# --- how it is done -----------------------------------------------------------------------------


def _named(here: Installation, ask: BackfillDraft) -> tuple[Pipeline, str]:
    market_id = get_market(ask.market).market_id
    return runnable_pipeline(here, ask.pipeline, market_id), market_id


@router.get("", tags=["operations"])
def list_backfills(here: Here, question: Annotated[BackfillQuestion, Query()]) -> BackfillPage:
    """List backfills, the latest first."""
    with here.look() as look:
        found = backfills.list_backfills(
            look.connection,
            is_open=None if question.state is None else question.state == "open",
            market_id=question.market,
            pipeline=question.pipeline,
            before=read_number(question.cursor),
            limit=question.limit + 1,
        )
        if not found:
            names = {"market": question.market, "pipeline": question.pipeline}
            check_names(look.connection, here.pipelines[0], **names)
    more = len(found) > question.limit
    found = found[: question.limit]
    return BackfillPage(
        **times(look.now),
        items=[tell_backfill(each) for each in found],
        next=str(found[-1].backfill_id) if more else None,
    )


@router.get("/{backfill}/sessions", tags=["operations"])
def show_backfill(here: Here, backfill: Number) -> BackfillReport:
    """Tell how far a backfill is, and what became of each of its sessions."""
    with here.look() as look:
        found, rows = backfills.read_backfill(look.connection, backfill)
    return BackfillReport(
        **times(look.now),
        backfill=tell_backfill(found),
        sessions=[
            SessionOfBackfill(
                session_date=row.as_of_date,
                dag_id=row.dag_id,
                again=row.again,
                begun_at=row.begun_at,
                status=row.status,
                refused=row.refused and safe_text(row.refused),
            )
            for row in rows
        ],
    )


@router.post("/preview", tags=["operations"])
def preview_backfill(here: Here, ask: BackfillDraft) -> BackfillPreview:
    """Say what a backfill would do with each session; changes nothing."""
    pipeline, market_id = _named(here, ask)
    with here.look() as look:
        try:
            planned = backfills.plan(
                look.connection, pipeline, market_id, ask.first, ask.last, reprocess=ask.reprocess
            )
        except HorizonError as error:
            raise QuestionError(str(error)) from None
    return BackfillPreview(
        **times(look.now),
        plan=backfills.digest(planned),
        counts=backfills.count_effects(planned),
        sessions=[PlannedSession.of(each) for each in planned],
    )


@router.post("", tags=["actions"], response_model=BackfillStarted)
def start_backfill(desk: AtDesk, here: Here, ask: NewBackfill) -> Response:
    """Make the runs of a range of sessions, or run them again; windows do not count."""

    def do(connection: Connection) -> dict[str, Any]:
        pipeline, market_id = _named(here, ask)
        try:
            number, planned = backfills.start_backfill(
                connection,
                pipeline,
                market_id,
                ask.first,
                ask.last,
                reprocess=ask.reprocess,
                max_active_runs=ask.max_active_runs,
                reason=ask.reason,
                actor=desk.by(ask),
                seen=ask.plan,
            )
        except HorizonError as error:
            raise QuestionError(str(error)) from None
        found = backfills.get_backfill(connection, number)
        return {"backfill": tell_backfill(found), "counts": backfills.count_effects(planned)}

    return desk.act(ask, do, BackfillStarted)


@router.post("/{backfill}/stop", tags=["actions"], response_model=BackfillStopped)
def stop_backfill(desk: AtDesk, backfill: Number, ask: AskWithReason) -> Response:
    """Let a backfill make no further run; those that are open go on."""

    def do(connection: Connection) -> dict[str, Any]:
        found = backfills.stop_backfill(connection, backfill, reason=ask.reason, actor=desk.by(ask))
        return {"backfill": tell_backfill(found)}

    return desk.act(ask, do, BackfillStopped)
