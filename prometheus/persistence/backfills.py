"""Backfills: a range of sessions whose runs are made or run again, so many at a time."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import chain, zip_longest
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, func, insert, select, update

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import PrometheusError
from prometheus.orchestration.backfill import (
    BackfillEffect,
    BackfillSession,
    Reprocess,
    plan_backfill,
)
from prometheus.orchestration.facts import Turn
from prometheus.orchestration.lifecycle import RunStatus
from prometheus.orchestration.pauses import Pause
from prometheus.orchestration.pipeline import Pipeline
from prometheus.persistence.audits import record_audit
from prometheus.persistence.clock import read_now
from prometheus.persistence.leases import wall_time
from prometheus.persistence.operators import (
    OperatorError,
    UnknownTargetError,
    run_now,
)
from prometheus.persistence.tables import backfill_sessions, backfills, dag_runs
from prometheus.persistence.tables import is_open as run_is_open
from prometheus.persistence.together import Together

_b = backfills.c
_s = backfill_sessions.c
_r = dag_runs.c
_TO_DO = frozenset({BackfillEffect.NEW, BackfillEffect.RERUN})
_WHYS_TOLD = 3


class BackfillChangedError(OperatorError):
    """A backfill would do something else than it was shown to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfill:
    """A backfill, and how far it has come."""

    backfill_id: int
    pipeline: str
    market_id: str
    first: date
    last: date
    reprocess: Reprocess
    max_active_runs: int
    reason: str
    author: str
    created_at: datetime
    ended_at: datetime | None
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


@dataclass(frozen=True, slots=True)
class DueSession:
    """A session of a backfill whose turn has come."""

    backfill_id: int
    pipeline: str
    market_id: str
    session_date: date
    again: bool
    author: str
    reason: str


def plan(
    connection: Connection,
    pipeline: Pipeline,
    market_id: str,
    first: date,
    last: date,
    *,
    reprocess: Reprocess,
) -> tuple[BackfillSession, ...]:
    """
    Say what a backfill would do, as things stand.

    Raises:
        BackfillRangeError, HorizonError: See `plan_backfill`.
    """
    calendar = TradingCalendar(market_id)
    existing = {
        row.as_of_date: RunStatus(row.status)
        for row in connection.execute(
            select(_r.as_of_date, _r.status).where(
                _r.pipeline == pipeline.name,
                _r.market_id == calendar.market_id,
                _r.as_of_date.between(first, last),
            )
        )
    }
    return plan_backfill(
        pipeline,
        calendar,
        first,
        last,
        existing=existing,
        taken=waiting_sessions(connection, pipeline.name, calendar.market_id),
        reprocess=reprocess,
        now=read_now(connection).market_at,
    )


def digest(planned: Iterable[BackfillSession]) -> str:
    """Return the same text for the same plan, by which it is seen that it has changed."""
    told = [(each.dag_id, each.effect) for each in planned]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def count_effects(planned: Iterable[BackfillSession]) -> dict[BackfillEffect, int]:
    """Count what is done, by what it is; what is not done to any session is left out."""
    found = Counter(each.effect for each in planned)
    return {effect: found[effect] for effect in BackfillEffect if found[effect]}


def start_backfill(
    connection: Connection,
    pipeline: Pipeline,
    market_id: str,
    first: date,
    last: date,
    *,
    reprocess: Reprocess,
    max_active_runs: int,
    reason: str,
    actor: str,
    seen: str | None = None,
) -> tuple[int, tuple[BackfillSession, ...]]:
    """
    Record a backfill: the scheduler makes its runs, the oldest first; windows do not count.

    Args:
        max_active_runs: How many of its runs may be open at a time.
        seen: `digest` of the plan that somebody was shown; ``None`` if that does not matter.

    Returns:
        Its number, and what it does.

    Raises:
        BackfillChangedError: It would do something else than was seen.
        OperatorError: There is nothing to do.
        BackfillRangeError, HorizonError: See `plan_backfill`.
    """
    if connection.dialect.name == "postgresql":  # of two that overlap the second sees the first
        connection.exec_driver_sql("LOCK TABLE backfills IN SHARE ROW EXCLUSIVE MODE")
    planned = plan(connection, pipeline, market_id, first, last, reprocess=reprocess)
    if seen is not None and seen != digest(planned):
        raise BackfillChangedError(
            "Runs have come, ended or opened meanwhile: it would do something else than it was "
            "shown to do. Look again; nothing was done."
        )
    if nothing := nothing_to_do(planned, reprocess):
        raise OperatorError(nothing)
    chosen = [each for each in planned if each.effect in _TO_DO]
    market_id = TradingCalendar(market_id).market_id
    backfill_id: int = connection.execute(
        insert(backfills)
        .values(
            pipeline=pipeline.name,
            market_id=market_id,
            first_session=first,
            last_session=last,
            reprocess=reprocess,
            max_active_runs=max_active_runs,
            reason=reason,
            author=actor,
        )
        .returning(_b.backfill_id)
    ).scalar_one()
    connection.execute(
        insert(backfill_sessions),
        [
            {
                "backfill_id": backfill_id,
                "as_of_date": each.session_date,
                "dag_id": each.dag_id,
                "again": each.effect is BackfillEffect.RERUN,
            }
            for each in chosen
        ],
    )
    details = {
        "pipeline": pipeline.name,
        "market": market_id,
        "first": first.isoformat(),
        "last": last.isoformat(),
        "reprocess": reprocess,
        "max_active_runs": max_active_runs,
        "reason": reason,
    }
    after = {"sessions": len(chosen)}
    record_audit(connection, actor, "backfill", str(backfill_id), details, before=None, after=after)
    return backfill_id, planned


def nothing_to_do(planned: Sequence[BackfillSession], reprocess: Reprocess) -> str | None:
    """Say why there is nothing to do, if there is nothing."""
    if any(each.effect in _TO_DO for each in planned):
        return None
    whys = Counter(each.why for each in planned)
    told = [f"{count} times, {why}" for why, count in whys.most_common(_WHYS_TOLD)]
    if len(whys) > len(told):
        told.append(f"and {len(whys) - len(told)} other reasons")
    hint = ""
    if reprocess is not Reprocess.FINISHED and any(
        each.effect is BackfillEffect.KEPT for each in planned
    ):
        hint = " To run finished runs again, reprocess those that are finished."
    return f"There is nothing to do for {len(planned)} sessions: {'; '.join(told)}.{hint}"


def stop_backfill(connection: Connection, backfill_id: int, *, reason: str, actor: str) -> Backfill:
    """
    Let a backfill make no further run; those that are open go on.

    Raises:
        UnknownTargetError: There is none of that number.
        OperatorError: It has ended.
    """
    get_backfill(connection, backfill_id)  # says if there is none
    stopped = connection.execute(
        update(backfills)
        .where(_b.backfill_id == backfill_id, _b.ended_at.is_(None))
        .values(ended_at=wall_time(connection), stopped_by=actor)
    )
    if stopped.rowcount == 0:
        raise OperatorError(f"Backfill {backfill_id} has ended already: nothing is to be stopped.")
    found = get_backfill(connection, backfill_id)
    record_audit(
        connection,
        actor,
        "backfill_stop",
        str(backfill_id),
        {"reason": reason},
        before={"waiting": found.waiting},
        after=None,
    )
    return found


def get_backfill(connection: Connection, backfill_id: int) -> Backfill:
    """
    Read one backfill.

    Raises:
        UnknownTargetError: There is none of that number.
    """
    row = connection.execute(_TOLD.where(_b.backfill_id == backfill_id)).first()
    if row is None:
        raise UnknownTargetError(f"There is no backfill {backfill_id}.")
    return backfill_of(row)


def list_backfills(
    connection: Connection,
    *,
    is_open: bool | None = None,
    market_id: str | None = None,
    pipeline: str | None = None,
    before: int | None = None,
    limit: int,
) -> list[Backfill]:
    """
    List backfills, the latest first.

    Args:
        is_open: Those that have not ended, or those that have.
        before: Only those of a smaller number.
    """
    query = backfills_query(
        is_open=is_open, market_id=market_id, pipeline=pipeline, before=before, limit=limit
    )
    return [backfill_of(row) for row in connection.execute(query)]


def backfills_query(
    *,
    is_open: bool | None = None,
    market_id: str | None = None,
    pipeline: str | None = None,
    before: int | None = None,
    limit: int,
) -> Select[Any]:
    """Say what `list_backfills` asks for."""
    wanted = select(_b.backfill_id).order_by(_b.backfill_id.desc()).limit(limit)
    if is_open is not None:
        wanted = wanted.where(_b.ended_at.is_(None) == is_open)
    if market_id is not None:
        wanted = wanted.where(_b.market_id == market_id)
    if pipeline is not None:
        wanted = wanted.where(_b.pipeline == pipeline)
    if before is not None:
        wanted = wanted.where(_b.backfill_id < before)
    # Of no other are the sessions counted.
    return _TOLD.where(_b.backfill_id.in_(wanted)).order_by(_b.backfill_id.desc())


_RUN_OF = and_(_r.dag_id == _s.dag_id, _s.begun_at.is_not(None), _s.refused.is_(None))
_TOLD: Select[Any] = (
    select(
        backfills,
        func.count().label("sessions"),
        func.count().filter(_s.begun_at.is_(None)).label("waiting"),
        func.count().filter(run_is_open).label("active"),
        func.count().filter(_r.status == RunStatus.SUCCESS).label("succeeded"),
        func.count().filter(_r.status.in_([RunStatus.FAILED, RunStatus.CANCELLED])).label("failed"),
        func.count().filter(_s.refused.is_not(None)).label("refused_sessions"),
        func.count()
        .filter(_s.begun_at.is_not(None), _s.refused.is_(None), _r.dag_id.is_(None))
        .label("removed"),
    )
    .select_from(backfills.join(backfill_sessions).outerjoin(dag_runs, _RUN_OF))
    .group_by(_b.backfill_id)
)


def backfill_of(row: Any) -> Backfill:
    """Make one of a row of `backfills_query`."""
    return Backfill(
        backfill_id=row.backfill_id,
        pipeline=row.pipeline,
        market_id=row.market_id,
        first=row.first_session,
        last=row.last_session,
        reprocess=Reprocess(row.reprocess),
        max_active_runs=row.max_active_runs,
        reason=row.reason,
        author=row.author,
        created_at=row.created_at,
        ended_at=row.ended_at,
        stopped_by=row.stopped_by,
        sessions=row.sessions,
        waiting=row.waiting,
        active=row.active,
        succeeded=row.succeeded,
        failed=row.failed,
        refused=row.refused_sessions,
        removed=row.removed,
    )


_WITH_SESSIONS = Together(
    _TOLD.where(_b.backfill_id == bindparam("number")),
    select(backfill_sessions, _r.status)
    .select_from(backfill_sessions.outerjoin(dag_runs, _RUN_OF))
    .where(_s.backfill_id == bindparam("number")),
)


def read_backfill(connection: Connection, backfill_id: int) -> tuple[Backfill, list[Any]]:
    """
    Read one backfill, and its sessions, the oldest first, in one statement.

    Returns:
        Of each session its row and the ``status`` of its run, once its turn has come.

    Raises:
        UnknownTargetError: There is none of that number.
    """
    found, sessions = _WITH_SESSIONS.read(connection, {"number": backfill_id})
    if not found:
        raise UnknownTargetError(f"There is no backfill {backfill_id}.")
    return backfill_of(found[0]), sorted(sessions, key=attrgetter("as_of_date"))


_ACTIVE = (
    select(func.count())
    .select_from(backfill_sessions.join(dag_runs, _RUN_OF))
    .where(_s.backfill_id == _b.backfill_id, run_is_open)
    .correlate(backfills)
    .scalar_subquery()
)
"""How many runs of a backfill are open."""
_earlier = backfill_sessions.alias()
_AHEAD = (
    select(func.count())
    .select_from(_earlier)
    .where(
        _earlier.c.backfill_id == _b.backfill_id,
        _earlier.c.as_of_date < bindparam("day"),
        _earlier.c.begun_at.is_(None),
    )
    .correlate(backfills)
    .scalar_subquery()
)
TURN = (
    select(
        *(_b.backfill_id, _b.author, _b.reason, _b.max_active_runs),
        *(_s.again, _s.begun_at, _s.refused),
        _AHEAD.label("ahead"),
        _ACTIVE.label("active"),
    )
    .select_from(backfills.join(backfill_sessions))
    .where(
        _b.pipeline == bindparam("pipeline"),
        _b.market_id == bindparam("market"),
        _s.as_of_date == bindparam("day"),
        _b.ended_at.is_(None) | _s.begun_at.is_not(None),
    )
    .order_by(_b.backfill_id.desc())
    .limit(1)
)
"""The turn of a session in the last backfill that has run it or will."""


def turn_of(
    rows: Sequence[Any], pipeline: str, market_id: str, pauses: Iterable[Pause]
) -> Turn | None:
    """
    Return the turn that `TURN` has found, if any.

    Args:
        pauses: What operators keep from starting.
    """
    if not rows:
        return None
    (row,) = rows
    return Turn(
        backfill_id=row.backfill_id,
        author=row.author,
        reason=row.reason,
        again=row.again,
        begun=row.begun_at is not None,
        refused=row.refused,
        ahead=row.ahead,
        active=row.active,
        max_active_runs=row.max_active_runs,
        pause=next((each for each in pauses if each.covers_all(market_id, pipeline)), None),
    )


# --- what the scheduler does ----------------------------------------------------------------------


def due_sessions(connection: Connection, most: int) -> list[DueSession]:
    """
    List the sessions whose turn has come: of each backfill as many as may be open besides.

    Args:
        most: Of each backfill, at most; one of each in turn.
    """
    due: list[list[DueSession]] = []
    for backfill in connection.execute(
        select(backfills, _ACTIVE.label("active"))
        .where(_b.ended_at.is_(None))
        .order_by(_b.backfill_id)
    ):
        room = min(backfill.max_active_runs - backfill.active, most)
        if room <= 0:
            continue
        rows = connection.execute(
            select(backfill_sessions)
            .where(_s.backfill_id == backfill.backfill_id, _s.begun_at.is_(None))
            .order_by(_s.as_of_date)
            .limit(room)
        )
        due.append(
            [
                DueSession(
                    backfill.backfill_id,
                    backfill.pipeline,
                    backfill.market_id,
                    row.as_of_date,
                    row.again,
                    backfill.author,
                    backfill.reason,
                )
                for row in rows
            ]
        )
    in_turn = chain.from_iterable(zip_longest(*due))
    return [each for each in in_turn if each is not None]


def waiting_sessions(connection: Connection, pipeline: str, market_id: str) -> dict[date, int]:
    """Return the sessions whose turn will come, each with its backfill: nobody else runs them."""
    rows = connection.execute(
        select(_s.as_of_date, _b.backfill_id)
        .join_from(backfills, backfill_sessions)
        .where(
            _b.ended_at.is_(None),
            _b.pipeline == pipeline,
            _b.market_id == market_id,
            _s.begun_at.is_(None),
        )
    )
    return {row.as_of_date: row.backfill_id for row in rows}


def begin_session(connection: Connection, session: DueSession, pipeline: Pipeline) -> str | None:
    """
    Make the run of a session, or run it again; once, whoever comes to it.

    Returns:
        Why that could not be, which is noted with the session.
    """
    # Whoever stops it waits for this, or is seen here.
    standing = connection.execute(
        select(_b.backfill_id)
        .where(_b.backfill_id == session.backfill_id, _b.ended_at.is_(None))
        .with_for_update(key_share=True)
    ).first()
    mine = and_(_s.backfill_id == session.backfill_id, _s.as_of_date == session.session_date)
    begun = standing is not None and connection.execute(
        update(backfill_sessions)
        .where(mine, _s.begun_at.is_(None))
        .values(begun_at=wall_time(connection))
    )
    if not begun or begun.rowcount == 0:
        return None
    try:
        _check_rule(session, pipeline)
        run_now(
            connection,
            pipeline,
            session.market_id,
            session.session_date,
            again=session.again,
            actor=session.author,
            reason=session.reason,
            backfill=session.backfill_id,
        )
    except PrometheusError as error:
        why = str(error)
        connection.execute(update(backfill_sessions).where(mine).values(refused=why))
        return why
    return None


def _check_rule(session: DueSession, pipeline: Pipeline) -> None:
    """Refuse a new run of a session that an override has since taken from the pipeline's rule."""
    day = session.session_date
    calendar = TradingCalendar(session.market_id)
    if (
        not session.again
        and calendar.is_trading_day(day)
        and not pipeline.sessions.sessions(calendar, day, day)
    ):
        raise OperatorError(f"{day} is not among {pipeline.sessions.words} any more.")


def end_backfills(connection: Connection) -> list[int]:
    """End those of which no session waits and no run is open; return their numbers."""
    left = (
        select(_s.backfill_id)
        .select_from(backfill_sessions.outerjoin(dag_runs, _RUN_OF))
        .where(_s.backfill_id == _b.backfill_id, _s.begun_at.is_(None) | run_is_open)
        .correlate(backfills)
        .exists()
    )
    ended = connection.execute(
        update(backfills)
        .where(_b.ended_at.is_(None), ~left)
        .values(ended_at=wall_time(connection))
        .returning(_b.backfill_id)
    )
    return sorted(ended.scalars())


def old_backfills(before: datetime) -> Select[tuple[int]]:
    """Select the numbers of those that had ended before an instant of wall time."""
    # Not the last, on whose number SQLite goes on.
    last = select(func.max(_b.backfill_id)).scalar_subquery()
    return select(_b.backfill_id).where(_b.ended_at < before, _b.backfill_id < last)
