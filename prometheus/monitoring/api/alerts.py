"""``/api/v1/alerts``: what is wrong, what was, and who knows of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from sqlalchemy import Connection

from prometheus.channels import send_tests
from prometheus.configured import check_names
from prometheus.masking import safe_text
from prometheus.monitoring.api.actions import Ask, AskWithReason, AtDesk, Done
from prometheus.monitoring.api.models import Instant, Model, Name, Reply, times
from prometheus.monitoring.api.paging import Page, read_number
from prometheus.monitoring.installation import Here
from prometheus.orchestration.alerts import AlertKind, Severity, Told
from prometheus.orchestration.dag import JobPriority
from prometheus.persistence.alerts import (
    AlertFilter,
    acknowledge,
    list_alerts,
    read_deliveries,
    record_test,
)

router = APIRouter(prefix="/api/v1", tags=["alerts"])

_LARGEST = 2**31 - 1
"""The largest number that the column can hold."""


class Delivery(Model):
    """A message of an alert."""

    channel: str
    event: Told
    """What it says."""
    state: Literal["pending", "sent", "failed", "replaced"]
    """``failed``: given up; ``replaced``: it was not true any more before it was accepted."""
    tries: int
    error: str | None
    """Of the last try that failed."""
    created_at: Instant
    ended_at: Instant | None


class Alert(Model):
    """Something that is or was wrong."""

    alert: int
    """Its number."""
    key: str
    """The same for the same trouble."""
    kind: AlertKind
    severity: Severity
    summary: str
    details: list[str]
    """What happens next, and what to do."""
    markets: list[str]
    """Those it is about; none where it is about all."""
    pipeline: str | None
    dag_id: str | None
    priority: JobPriority | None
    """The highest of the jobs it is about, 1 for CRITICAL."""
    subjects: list[str]
    """What of it is wrong, such as jobs."""
    since: Instant
    """When the trouble began."""
    raised_at: Instant
    times: int
    """How often it was raised."""
    resolved_at: Instant | None
    told: Told | None
    """What recipients were told last."""
    told_at: Instant | None
    acknowledged_at: Instant | None
    """From then on nothing is told."""
    acknowledged_by: str | None
    reason: str | None
    deliveries: list[Delivery]


class AlertQuestion(Page):
    """Which alerts are meant."""

    state: Literal["open", "resolved"] | None = None
    kind: AlertKind | None = None
    market: Name | None = None
    pipeline: Name | None = None
    run: Name | None = None


class AlertPage(Reply):
    """Alerts, the last one first."""

    items: list[Alert]
    next: str | None
    """``cursor`` of the next page, if there is one."""


class Acknowledged(Done):
    """An alert of which nothing more is told."""

    alert: Alert


class AlertTest(Ask):
    """By what a message is sent, to see that it arrives."""

    channel: Name | None = None
    """One channel; otherwise all of them."""


class TestedChannel(Model):
    """What a channel answered."""

    channel: str
    error: str | None
    """Why it did not accept the message; ``null``: it did."""


class Tested(Done):
    """Messages that were sent as a test."""

    channels: list[TestedChannel]


def tell_alert(row: Any, deliveries: list[Any]) -> Alert:
    """Tell of an alert what everybody may know."""
    return Alert(
        alert=row.alert_id,
        key=safe_text(row.key),
        kind=AlertKind(row.kind),
        severity=Severity(row.severity),
        summary=safe_text(row.summary),
        details=[safe_text(each) for each in row.details],
        markets=row.markets,
        pipeline=row.pipeline,
        dag_id=row.dag_id,
        priority=None if row.priority is None else JobPriority(row.priority),
        subjects=[safe_text(each) for each in row.subjects],
        since=row.since,
        raised_at=row.raised_at,
        times=row.times,
        resolved_at=row.resolved_at,
        told=None if row.told is None else Told(row.told),
        told_at=row.told_at,
        acknowledged_at=row.acknowledged_at,
        acknowledged_by=row.acknowledged_by and safe_text(row.acknowledged_by),
        reason=row.reason and safe_text(row.reason),
        deliveries=[
            Delivery(
                channel=each.channel,
                event=Told(each.event),
                state=each.state,
                tries=each.tries,
                error=each.error and safe_text(each.error),
                created_at=each.created_at,
                ended_at=each.ended_at,
            )
            for each in deliveries
        ],
    )


@router.get("/alerts")
def alerts(here: Here, question: Annotated[AlertQuestion, Query()]) -> AlertPage:
    """List alerts with their messages, the last one first."""
    before = read_number(question.cursor)
    which = AlertFilter(
        is_open=None if question.state is None else question.state == "open",
        kind=question.kind,
        market_id=question.market,
        pipeline=question.pipeline,
        dag_id=question.run,
    )
    with here.look() as look:
        rows = list_alerts(look.connection, which, before=before, limit=question.limit + 1)
        if not rows:
            names = {"market": question.market, "pipeline": question.pipeline}
            check_names(look.connection, here.pipelines[0], **names)
    more = len(rows) > question.limit
    rows = rows[: question.limit]
    return AlertPage(
        **times(look.now),
        items=[tell_alert(row, deliveries) for row, deliveries in rows],
        next=str(rows[-1][0].alert_id) if more else None,
    )


@router.post("/alerts/{alert}/ack", tags=["actions"], response_model=Acknowledged)
def acknowledge_alert(
    desk: AtDesk, alert: Annotated[int, Path(ge=1, le=_LARGEST)], ask: AskWithReason
) -> Response:
    """Let nothing more be told of an alert, because somebody sees to it."""

    def do(connection: Connection) -> dict[str, Any]:
        row = acknowledge(connection, alert, actor=desk.by(ask), reason=ask.reason)
        return {"alert": tell_alert(row, read_deliveries(connection, [alert])[alert])}

    return desk.act(ask, do, Acknowledged)


@router.post("/alerts/test", tags=["actions"], response_model=Tested)
def test_alerts(desk: AtDesk, here: Here, ask: AlertTest) -> Response:
    """Send a message by each channel, and say what came back."""
    desk.by(ask)
    if (before := desk.answered(ask)) is not None:
        return before
    # Not while anything waits for the database to be written.
    errors = send_tests(here.settings.channels, ask.channel)

    def do(connection: Connection) -> dict[str, Any]:
        record_test(connection, errors, actor=desk.by(ask))
        tested = [TestedChannel(channel=name, error=error) for name, error in errors.items()]
        return {"channels": tested}

    return desk.act(ask, do, Tested)
