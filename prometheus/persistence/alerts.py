"""
Alerts and their messages, as rows: each is written before it is sent.

A message that is taken while its sender dies is sent again: at least once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    Text,
    and_,
    bindparam,
    cast,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from prometheus.errors import nearest
from prometheus.orchestration.alerts import (
    UNANSWERED,
    AlertKind,
    Cause,
    Change,
    Kept,
    Raise,
    Resolve,
    Severity,
    Told,
    Update,
    reopens_within,
)
from prometheus.orchestration.dag import JobPriority
from prometheus.persistence.audits import record_audit
from prometheus.persistence.metadata import UtcDateTime, database_now
from prometheus.persistence.operators import OperatorError, UnknownTargetError
from prometheus.persistence.tables import alert_deliveries, alerts, is_told_of, leases
from prometheus.persistence.together import Together

_a, _d = alerts.c, alert_deliveries.c

FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(minutes=30)
"""Before a message that was not taken is sent again; it doubles."""
GIVEN_UP_AFTER = timedelta(hours=12)
"""How old a message may be when it is tried a last time."""
_LONGEST_ERROR = 500
_LOOKED_AT = 5_000
"""How many of the last messages are looked at for what was sent lately, however many there are."""
_COUNTED_OF = 1_000
"""Likewise for what is new of the last alerts and messages, every few seconds."""


@dataclass(frozen=True, slots=True)
class Message:
    """What one channel is to be told of an alert."""

    channel: str
    title: str
    body: str


Compose = Callable[[Row[Any], Told, frozenset[str]], Iterable[Message]]
"""
Writes the messages of an alert, from its row, for whichever channels it is for; given those that
have heard of it, which are all that hear that it is over.
"""


# --- what is wrong ------------------------------------------------------------------------------


def read_kept(connection: Connection, now: datetime, quiet: timedelta) -> list[Kept]:
    """
    Read what `decide` compares the causes with.

    Args:
        now: Wall time.
        quiet: As for the decision.
    """
    query = select(alerts).where(
        or_(
            _a.resolved_at.is_(None),
            _a.resolved_at > now - reopens_within(quiet),
            is_told_of,
        )
    )
    return [
        Kept(
            alert_id=row.alert_id,
            key=row.key,
            kind=AlertKind(row.kind),
            summary=row.summary,
            severity=Severity(row.severity),
            details=tuple(row.details),
            markets=tuple(row.markets),
            dag_id=row.dag_id,
            subjects=tuple(row.subjects),
            raised_at=row.raised_at,
            resolved_at=row.resolved_at,
            acknowledged=row.acknowledged_at is not None,
            told=None if row.told is None else Told(row.told),
            told_at=row.told_at,
            told_subjects=tuple(row.told_subjects),
        )
        for row in connection.execute(query)
    ]


def apply_changes(
    connection: Connection, changes: Iterable[Change], now: datetime, compose: Compose
) -> None:
    """
    Bring the rows to what was decided, and write the messages that are due.

    Args:
        now: Wall time, as for the decision.
        compose: Called for each alert that is to be told.
    """
    for change in changes:
        match change:
            case Raise(cause):
                alert_id = connection.execute(
                    insert(alerts)
                    .values(
                        key=cause.key,
                        kind=cause.kind.value,
                        since=cause.since,
                        raised_at=now,
                        times=1,
                        told_subjects=[],
                        **_words(cause),
                    )
                    .returning(_a.alert_id)
                ).scalar_one()
                _tell(connection, alert_id, Told.RAISED, now, compose)
            case Update(alert, cause, tell, anew):
                values: dict[str, Any] = _words(cause)
                if anew:
                    seen_to = dict.fromkeys(("acknowledged_at", "acknowledged_by", "reason"))
                    told = Told.RESOLVED.value if alert.told_at is not None else None
                    values |= {**seen_to, "told": told, "told_subjects": []}
                if not alert.is_open:
                    again = {"since": cause.since, "raised_at": now, "times": _a.times + 1}
                    values |= {"resolved_at": None, **again}
                _change(connection, alert.alert_id, **values)
                if tell:
                    _tell(connection, alert.alert_id, Told.RAISED, now, compose)
            case Resolve(alert, tell, silently):
                values = {} if alert.resolved_at else {"resolved_at": now}
                if silently and alert.told is not None:
                    values["told"] = Told.RESOLVED.value
                if values:
                    _change(connection, alert.alert_id, **values)
                if tell:
                    _tell(connection, alert.alert_id, Told.RESOLVED, now, compose)


def _words(cause: Cause) -> dict[str, Any]:
    return {
        "severity": cause.severity.value,
        "markets": list(cause.markets),
        "pipeline": cause.pipeline,
        "dag_id": cause.dag_id,
        "priority": None if cause.priority is None else int(cause.priority),
        "summary": cause.summary,
        "details": list(cause.details),
        "subjects": list(cause.subjects),
    }


def _change(connection: Connection, alert_id: int, **values: Any) -> None:
    connection.execute(update(alerts).where(_a.alert_id == alert_id).values(values))


def last_raised(connection: Connection, keys: Collection[str]) -> dict[str, datetime]:
    """Return when alerts of some keys were raised last, in wall time: of those that ever were."""
    last = func.max(_a.raised_at).label("at")
    query = select(_a.key, last).where(_a.key.in_(keys)).group_by(_a.key)
    return {row.key: row.at for row in connection.execute(query)}


def _tell(
    connection: Connection, alert_id: int, event: Told, now: datetime, compose: Compose
) -> None:
    row = connection.execute(select(alerts).where(_a.alert_id == alert_id)).one()
    told = sorted({*row.told_subjects, *row.subjects})
    _change(connection, alert_id, told=event.value, told_at=now, told_subjects=told)
    messages = list(compose(row, event, _who_heard(connection, alert_id)))
    # What has not been taken yet is not true any more: where something else is told, or it is over.
    stale = [_d.alert_id == alert_id, _d.state == "pending"]
    if event is Told.RAISED:
        stale.append(_d.channel.in_([message.channel for message in messages]))
    connection.execute(
        update(alert_deliveries).where(*stale).values(state="replaced", ended_at=now)
    )
    for message in messages:
        connection.execute(
            insert(alert_deliveries).values(
                alert_id=alert_id,
                channel=message.channel,
                event=event.value,
                title=message.title,
                body=message.body,
                state="pending",
                tries=0,
                next_try_at=now,
                created_at=now,
            )
        )


def _who_heard(connection: Connection, alert_id: int) -> frozenset[str]:
    """Return the channels that know of an alert, or may: the last they accepted is that it is."""
    # One that is under way, or was when its sender died, has no error.
    accepted = or_(
        _d.state == "sent",
        and_(_d.tries > 0, or_(_d.error.is_(None), _d.error.startswith(UNANSWERED))),
    )
    query = select(_d.channel, _d.event).where(_d.alert_id == alert_id, accepted)
    last = {row.channel: row.event for row in connection.execute(query.order_by(_d.delivery_id))}
    return frozenset(channel for channel, event in last.items() if event == Told.RAISED)


# --- messages -----------------------------------------------------------------------------------


def due_messages(connection: Connection, now: datetime, *, limit: int) -> list[Row[Any]]:
    """
    List the messages to be sent now, the first that was written first.

    Args:
        limit: The most to return of each channel and kind: however many wait, others have theirs.

    Returns:
        Rows of ``alert_deliveries``, with the ``key``, ``kind`` and ``severity`` of their alerts.
    """
    turn = func.row_number().over(partition_by=(_d.channel, _a.kind), order_by=_d.delivery_id)
    due = (
        select(_d.delivery_id, turn.label("turn"))
        .join(alerts)
        .where(_d.state == "pending", _d.next_try_at <= now)
        .subquery()
    )
    query = (
        select(alert_deliveries, _a.key, _a.kind, _a.severity)
        .join(alerts)
        .join(due, due.c.delivery_id == _d.delivery_id)
        .where(due.c.turn <= limit)
        .order_by(_d.delivery_id)
    )
    return list(connection.execute(query))


@dataclass(frozen=True, slots=True)
class Accepted:
    """Messages of one kind of alert that a channel has accepted."""

    count: int
    """Several that came in one count each."""
    last_at: datetime


def accepted_since(connection: Connection, since: datetime) -> dict[str, dict[AlertKind, Accepted]]:
    """Count what channels have accepted after an instant of wall time: channel -> kind -> of it."""
    last = select(func.max(_d.delivery_id) - _LOOKED_AT).scalar_subquery()
    query = (
        select(_d.channel, _a.kind, func.count(), func.max(_d.ended_at))
        .join_from(alert_deliveries, alerts)
        .where(_d.delivery_id > last, _d.state == "sent", _d.ended_at > since)
        .group_by(_d.channel, _a.kind)
    )
    found: dict[str, dict[AlertKind, Accepted]] = {}
    for channel, kind, count, last_at in connection.execute(query):
        found.setdefault(channel, {})[AlertKind(kind)] = Accepted(count, last_at)
    return found


def take_messages(
    connection: Connection, messages: Collection[Row[Any]], now: datetime
) -> list[Row[Any]]:
    """
    Take messages to send them, and return those that nobody else has taken or replaced.

    Whoever does not say what became of them leaves them to be sent again after a pause.
    """
    taken = []
    for each in messages:
        pause = min(FIRST_PAUSE * 2 ** min(each.tries, 10), LONGEST_PAUSE)
        changed = connection.execute(
            update(alert_deliveries)
            .where(
                _d.delivery_id == each.delivery_id,
                _d.state == "pending",
                _d.tries == each.tries,
            )
            .values(tries=each.tries + 1, next_try_at=now + pause, error=None)
        )
        if changed.rowcount == 1:
            taken.append(each)
    return taken


def note_sent(
    connection: Connection, messages: Iterable[Row[Any]], now: datetime, error: str | None
) -> list[int]:
    """
    Note what became of messages that were taken.

    Args:
        error: Why they were not accepted; ``None`` if they were.

    Returns:
        Those that are given up by this.
    """
    given_up = []
    for each in messages:
        values: dict[str, Any] = {"error": error[:_LONGEST_ERROR] if error else None}
        if error is None:
            values |= {"state": "sent", "ended_at": now}
        elif now - each.created_at >= GIVEN_UP_AFTER:
            values |= {"state": "failed", "ended_at": now}
            given_up.append(each.delivery_id)
        # One that was replaced meanwhile has reached its recipients before the other.
        connection.execute(
            update(alert_deliveries)
            .where(_d.delivery_id == each.delivery_id, _d.state == "pending")
            .values(values)
        )
    return given_up


@dataclass(frozen=True, slots=True)
class Undelivered:
    """Messages that a channel has not accepted."""

    waiting: int = 0
    waiting_since: datetime | None = None
    """When the first of those was written."""
    given_up: int = 0
    """Of alerts that are open, and that nobody has acknowledged."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What is kept of what is wrong, for who counts it."""

    looked_at: datetime | None
    """Wall time of the last complete look; ``None`` where there was none."""
    open: Sequence[Any]
    """Alerts that are: ``kind``, ``severity``, ``markets``, ``pipeline``, ``acknowledged_at``."""
    undelivered: Mapping[str, Undelivered]
    """Channel -> messages that reached nobody; one without is left out."""
    missed: Sequence[Any]
    """Missed deadlines that are new: ``alert_id``, ``raised_at``, ``markets``, ``pipeline``."""
    ended: Sequence[Any]
    """Messages that are new in their last ``state``: ``delivery_id``, ``channel``, ``ended_at``."""


_since = bindparam("since", type_=UtcDateTime)
_OF_ALERT = ("alert_id", "raised_at", "markets", "pipeline")


def _last(number: Column[Any], *columns: Column[Any]) -> ReadOnlyColumnCollection[str, Any]:
    """Select from the last rows of a table, at the same cost however many there are."""
    # SQLite finds them by the first condition, PostgreSQL by order and limit.
    least = select(func.max(number) - _COUNTED_OF).scalar_subquery()
    query = select(number, *columns).where(number > least)
    return query.order_by(number.desc()).limit(_COUNTED_OF).subquery().c


_last_alerts = _last(_a.alert_id, _a.kind, _a.raised_at, _a.markets, _a.pipeline)
_last_messages = _last(_d.delivery_id, _d.channel, _d.state, _d.ended_at)
_WATCHED = Together(
    select(leases.c.ticked_at).where(leases.c.name == bindparam("watching")),
    select(_a.kind, _a.severity, _a.markets, _a.pipeline, _a.acknowledged_at).where(
        _a.resolved_at.is_(None)
    ),
    select(_d.channel, func.count().label("number"), func.min(_d.created_at).label("since"))
    .where(_d.state == "pending")
    .group_by(_d.channel),
    select(_d.channel, func.count().label("number"))
    .join_from(alert_deliveries, alerts)
    .where(_a.resolved_at.is_(None), _a.acknowledged_at.is_(None), _d.state == "failed")
    .group_by(_d.channel),
    select(*(_last_alerts[name] for name in _OF_ALERT)).where(
        _last_alerts.kind == AlertKind.DEADLINE_MISSED.value, _last_alerts.raised_at > _since
    ),
    select(*_last_messages).where(_last_messages.ended_at > _since),
)


def read_watched(connection: Connection, watching: str, since: datetime) -> Watched:
    """
    Read all of it in one statement.

    Args:
        watching: The lease of who looks.
        since: Wall time after which something is new; of very many, only the last ones are told.
    """
    asked = {"watching": watching, "since": since}
    leased, is_open, waiting, given_up, missed, ended = _WATCHED.read(connection, asked)
    undelivered = {row.channel: Undelivered(row.number, row.since) for row in waiting}
    for row in given_up:
        before = undelivered.get(row.channel, Undelivered())
        undelivered[row.channel] = replace(before, given_up=row.number)
    looked_at = leased[0].ticked_at if leased else None
    return Watched(looked_at, is_open, undelivered, missed, ended)


# --- who looks ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertFilter:
    """Which alerts are meant; what is ``None`` does not matter."""

    is_open: bool | None = None
    kind: AlertKind | None = None
    market_id: str | None = None
    pipeline: str | None = None
    dag_id: str | None = None


def list_alerts(
    connection: Connection, which: AlertFilter, *, before: int | None = None, limit: int
) -> list[tuple[Any, list[Any]]]:
    """
    List alerts, the last one first, each with its messages, the first one first.

    Args:
        before: Number of the last alert of the page before.
        limit: The most to return.

    Returns:
        Rows of ``alerts``, with ``undelivered``: messages that were not taken yet, or given up; and
        those of ``alert_deliveries``.
    """
    asked = alerts_query(which, before).limit(limit)
    listed = select(asked.subquery().c.alert_id)
    told = select(alert_deliveries).where(_d.alert_id.in_(listed))
    rows, messages = Together(asked, told).read(connection, {})
    messages.sort(key=attrgetter("delivery_id"))
    return [
        (row, [each for each in messages if each.alert_id == row.alert_id])
        for row in sorted(rows, key=attrgetter("alert_id"), reverse=True)
    ]


def alerts_query(which: AlertFilter, before: int | None = None) -> Select[Any]:
    """Say which alerts `list_alerts` lists, however many there are."""
    wanted: list[ColumnElement[bool]] = []
    if which.is_open is not None:
        wanted.append(_a.resolved_at.is_(None) if which.is_open else _a.resolved_at.is_not(None))
    if which.market_id is not None:
        wanted.append(cast(_a.markets, Text).contains(f'"{which.market_id}"', autoescape=True))
    for column, value in (
        (_a.kind, which.kind),
        (_a.pipeline, which.pipeline),
        (_a.dag_id, which.dag_id),
    ):
        if value is not None:
            wanted.append(column == value)
    if before is not None:
        wanted.append(_a.alert_id < before)
    failing = (
        select(func.count())
        .where(_d.alert_id == _a.alert_id, _d.error.is_not(None))
        .where(_d.state.in_(("pending", "failed")))
        .scalar_subquery()
    )
    query: Select[Any] = select(alerts, failing.label("undelivered")).where(*wanted)
    return query.order_by(_a.alert_id.desc())


def read_deliveries(
    connection: Connection, alert_ids: Collection[int]
) -> dict[int, list[Row[Any]]]:
    """Read the messages of alerts: alert -> its messages, the first one first."""
    found: dict[int, list[Row[Any]]] = {each: [] for each in alert_ids}
    query = (
        select(alert_deliveries).where(_d.alert_id.in_(list(alert_ids))).order_by(_d.delivery_id)
    )
    for row in connection.execute(query):
        found[row.alert_id].append(row)
    return found


def acknowledge(connection: Connection, alert_id: int, *, actor: str, reason: str) -> Row[Any]:
    """
    Let nothing more be told of an alert, because somebody sees to it; audited.

    Returns:
        Its row as it is now.

    Raises:
        OperatorError: There is no such alert, or it is over or acknowledged already.
    """
    row = connection.execute(
        select(alerts).where(_a.alert_id == alert_id).with_for_update()
    ).first()
    if row is None:
        last = select(_a.alert_id).where(_a.resolved_at.is_(None)).order_by(_a.alert_id.desc())
        known = [str(each) for each in connection.execute(last.limit(200)).scalars()]
        raise UnknownTargetError(f"There is no alert {alert_id}.{nearest(str(alert_id), known)}")
    if row.resolved_at is not None:
        raise OperatorError(f"Alert {alert_id} is over since {row.resolved_at:%Y-%m-%d %H:%M} UTC.")
    if row.acknowledged_at is not None:
        raise OperatorError(
            f"Alert {alert_id} was acknowledged by {row.acknowledged_by} already: {row.reason}"
        )
    connection.execute(
        update(alert_deliveries)
        .where(_d.alert_id == alert_id, _d.state == "pending")
        .values(state="replaced", ended_at=database_now())
    )
    changed = connection.execute(
        update(alerts)
        .where(_a.alert_id == alert_id)
        .values(acknowledged_at=database_now(), acknowledged_by=actor, reason=reason)
        .returning(alerts)
    ).one()
    record_audit(
        connection,
        actor,
        "alert_ack",
        row.dag_id or str(alert_id),
        {"alert": row.key, "reason": reason},
        before="open",
        after="acknowledged",
    )
    return changed


def record_test(connection: Connection, errors: Mapping[str, str | None], *, actor: str) -> None:
    """
    Write down that messages were sent as a test.

    Args:
        errors: See `send_tests`.
    """
    details = {
        "channels": list(errors),
        "errors": {name: error for name, error in errors.items() if error is not None},
    }
    record_audit(connection, actor, "alert_test", "channels", details, before=None, after=None)


def old_alerts(before: datetime) -> Select[tuple[int]]:
    """Select the numbers of alerts that were over before an instant of wall time."""
    return select(_a.alert_id).where(_a.resolved_at < before)


def facts_of(row: Row[Any]) -> Mapping[str, Collection[str]]:
    """Return what a route asks of an alert."""
    return {
        "kind": [row.kind],
        "severity": [row.severity],
        "market": row.markets,
        "pipeline": [row.pipeline] if row.pipeline else [],
        "priority": [JobPriority(row.priority).name] if row.priority else [],
    }
