"""Leases: of worker incarnations on their executions, and of the scheduler that leads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    true,
    update,
)

from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence.metadata import UtcDateTime, database_later, database_now, unhurried
from prometheus.persistence.runs import insert_new, lock_in_order
from prometheus.persistence.tables import (
    Json,
    in_state,
    is_live,
    is_still,
    job_executions,
    leases,
    market_clock,
    standbys,
    worker_incarnations,
)
from prometheus.persistence.together import Together

_w = worker_incarnations.c
_e = job_executions.c
_s = standbys.c

_ON_ITS_WAY_OUT = timedelta(seconds=3)
"""How long after its end an execution may still be named by its worker without being killed."""

# What runs often is built once: building a statement takes longer than running it. A parameter is
# not named like a column, because an UPDATE would set that.
_WALL_TIME = select(database_now())
_UNTIL = database_later(bindparam("lease_seconds", type_=Double))
"""End of a lease that begins now."""


def wall_time(connection: Connection) -> datetime:
    """Return the database's own time."""
    return connection.execute(_WALL_TIME).scalar_one()


def register_worker(
    connection: Connection,
    incarnation: str,
    *,
    worker: str,
    host: str,
    pid: int,
    queues: list[str],
    lease: timedelta,
    slots: int | None = None,
) -> datetime:
    """Write the row of a worker process that has just started; return when its lease began."""
    now = wall_time(connection)
    connection.execute(
        insert(worker_incarnations).values(
            incarnation=incarnation,
            worker=worker,
            host=host,
            pid=pid,
            queues=queues,
            slots=slots,
            expires_at=now + lease,
        )
    )
    return now


@dataclass(frozen=True, slots=True)
class Renewed:
    """A worker's lease was extended."""

    at: datetime
    """Wall time from which it counts."""
    taken: frozenset[str]
    """Executions it named that were taken from it, or cancelled: it must end them."""
    unnamed: dict[str, int | None]
    """Its executions that it has named neither now nor the last time, and the pid of each: whoever
    looks for orphans gives them up as soon as this is committed. Locked until then."""


# The earlier of a worker's last two renewals; where the clock was set back, that is the last one.
_named_since = case(
    (_w.renewed_at < _w.previous_renewed_at, _w.renewed_at), else_=_w.previous_renewed_at
)
_seen_at = func.coalesce(_e.named_at, _e.started_at)
"""When a worker last showed that it runs an execution."""

_RENEW = (
    update(worker_incarnations)
    .where(_w.incarnation == bindparam("of"), _w.ended_at.is_(None))
    .values(previous_renewed_at=_w.renewed_at, renewed_at=database_now(), expires_at=_UNTIL)
    .returning(_w.renewed_at, _named_since.label("named_since"))
)
_NAME_RUNNING = (
    update(job_executions)
    .where(
        _e.execution_id.in_(bindparam("ids", expanding=True)),
        _e.incarnation == bindparam("of"),
        is_still(job_executions, JobStatus.RUNNING),
    )
    .values(named_at=bindparam("now"))
)
# Whoever it was when it started them: an execution is one attempt, and who names it runs it.
_TAKEN = select(_e.execution_id).where(
    _e.execution_id.in_(bindparam("ids", expanding=True)),
    is_still(job_executions, JobStatus.FAILED, JobStatus.CANCELLED),
    or_(_e.completed_at <= bindparam("since"), _e.completed_at >= _e.cancel_at),
)
_UNNAMED = (
    select(_e.execution_id, _e.pid)
    .where(
        is_live,
        in_state(job_executions, JobStatus.RUNNING),
        _e.incarnation == bindparam("of"),
        _seen_at < bindparam("since"),
    )
    .order_by(_e.execution_id)
    .with_for_update(key_share=True)
)


def renew_worker(
    connection: Connection, incarnation: str, *, running: Collection[str], lease: timedelta
) -> Renewed | None:
    """
    Extend a worker's lease, naming what it is running.

    Returns:
        ``None`` when it has none any more: it has ended or was given up.
    """
    asked = {"of": incarnation, "lease_seconds": lease.total_seconds()}
    row = connection.execute(_RENEW, asked).first()
    if row is None:
        return None
    now: datetime = row.renewed_at
    taken: frozenset[str] = frozenset()
    if running:
        lock_in_order(connection, running)
        named = {"ids": list(running), "of": incarnation, "now": now}
        connection.execute(_NAME_RUNNING, named)
        # One that has just ended is on its way out of the worker's list.
        left = {"ids": list(running), "since": now - _ON_ITS_WAY_OUT}
        taken = frozenset(connection.execute(_TAKEN, left).scalars())
    unnamed = connection.execute(_UNNAMED, {"of": incarnation, "since": row.named_since})
    return Renewed(now, taken, {each.execution_id: each.pid for each in unnamed})


def end_worker(connection: Connection, incarnation: str) -> None:
    """Note that a worker process has ended; it can start nothing more."""
    connection.execute(
        update(worker_incarnations)
        .where(_w.incarnation == incarnation, _w.ended_at.is_(None))
        .values(ended_at=database_now())
    )


def old_workers(before: datetime) -> Select[tuple[str]]:
    """Select the incarnations that had ended before an instant of wall time, and run nothing."""
    runs = exists().where(is_live, _e.incarnation == _w.incarnation)
    return select(_w.incarnation).where(_w.ended_at < before, ~runs)


@dataclass(frozen=True, slots=True)
class Orphan:
    """A RUNNING execution that nobody is running any more."""

    execution_id: str
    message: str


ORPHANS = (
    select(
        _e.execution_id,
        _e.started_at,
        _e.hard_limit_at,
        _seen_at.label("seen_at"),
        _w.worker,
        _w.host,
        _w.pid,
        _w.renewed_at,
        _named_since.label("named_since"),
        _w.expires_at,
        _w.ended_at,
    )
    .join_from(job_executions, worker_incarnations, _e.incarnation == _w.incarnation, isouter=True)
    .where(
        is_live,
        in_state(job_executions, JobStatus.RUNNING),
        or_(
            _w.incarnation.is_(None),
            _w.ended_at.is_not(None),
            _w.expires_at <= bindparam("now"),
            _e.hard_limit_at <= bindparam("limit"),
            _seen_at < _named_since,
        ),
    )
)


def find_orphans(
    connection: Connection,
    now: datetime,
    *,
    over_limit_by: timedelta,
    gone_for: timedelta | None = None,
) -> list[Orphan]:
    """
    List RUNNING executions whose worker is gone, does not name them, or overran their limit.

    Args:
        now: Wall time.
        over_limit_by: How long after its hard limit an execution is given up.
        gone_for: How long ago a worker that is gone must have ended, or have been given up;
            ``None``: its lease has run out, that is enough.
    """
    rows = connection.execute(ORPHANS, {"now": now, "limit": now - over_limit_by})
    return orphans_of(rows, now, gone_for=gone_for)


def orphans_of(
    rows: Iterable[Any], now: datetime, *, gone_for: timedelta | None = None
) -> list[Orphan]:
    """List what rows of `ORPHANS` are of; see `find_orphans`."""
    orphans = []
    for row in rows:
        if row.worker is None:
            message = "worker lost: there is no record of it"
            orphans.append(Orphan(row.execution_id, message))
        elif row.ended_at is not None or row.expires_at <= now:
            if gone_for is not None and (row.ended_at is None or row.ended_at > now - gone_for):
                continue
            seen = f"{row.renewed_at:%Y-%m-%d %H:%M:%S} UTC"
            message = f"worker lost: host {row.host}, pid {row.pid}, last seen {seen}"
            orphans.append(Orphan(row.execution_id, message))
        else:
            message = f"ended without a report: {row.worker} does not run it any more"
            if row.named_since is None or row.seen_at >= row.named_since:
                message = f"ended without a report by its hard limit on {row.worker}"
            orphans.append(Orphan(row.execution_id, message))
    return orphans


_lapsed = and_(_w.ended_at.is_(None), _w.expires_at <= bindparam("now"))
LAPSED = select(_w.incarnation).where(_lapsed).limit(1)


def any_lapsed(connection: Connection, now: datetime) -> bool:
    """Say whether `give_up_workers` has anything to do."""
    return connection.execute(LAPSED, {"now": now}).first() is not None


_GIVE_UP = (
    update(worker_incarnations)
    .where(_lapsed)
    .values(ended_at=bindparam("now"))  # never before the lease ended, whatever clocks do
    .returning(_w.worker)
)


def give_up_workers(connection: Connection, now: datetime) -> list[str]:
    """End the incarnations whose lease ran out by ``now``; return their node names."""
    return list(connection.execute(_GIVE_UP, {"now": now}).scalars())


_was_given_up = _w.ended_at >= _w.expires_at
# The last of them: only so is it certain to be looked for in the index, from its end.
any_given_up = (
    select(func.max(_w.ended_at))
    .where(_w.ended_at > bindparam("since"), _was_given_up)
    .scalar_subquery()
    .is_not(None)
)
"""Whether `give_up_workers` has ended any since then."""
_GIVEN_UP = select(database_now(), _w.incarnation).select_from(
    market_clock.outerjoin(
        worker_incarnations,
        and_(
            # Asked for once: only so does an index begin where this does.
            _w.ended_at > select(database_later(bindparam("seconds"))).scalar_subquery(),
            _was_given_up,
        ),
    )
)


def given_up(connection: Connection, lately: timedelta) -> tuple[datetime, frozenset[str]]:
    """Return the time, and the incarnations that `give_up_workers` has ended so lately."""
    rows = connection.execute(_GIVEN_UP, {"seconds": -lately.total_seconds()}).all()
    return rows[0][0], frozenset(name for _, name in rows if name is not None)


_UNENDED = select(worker_incarnations).where(_w.ended_at.is_(None))


def live_workers(connection: Connection, now: datetime) -> list[dict[str, Any]]:
    """Return the workers that hold a lease: node name, host, pid, queues, start and renewal."""
    return _workers(connection, _w.expires_at > now)


def unended_workers(connection: Connection) -> list[dict[str, Any]]:
    """Return also those whose lease has run out, and that nobody has given up yet."""
    return _workers(connection, true())


def _workers(connection: Connection, which: ColumnElement[bool]) -> list[dict[str, Any]]:
    rows = connection.execute(_UNENDED.where(which).order_by(_w.worker))
    return [dict(row) for row in rows.mappings()]


STANDBYS = select(standbys)
_CREW = Together(_UNENDED, STANDBYS)


def workers_and_standbys(connection: Connection) -> tuple[list[dict[str, Any]], list[Any]]:
    """Return `unended_workers`, and the rows of ``standbys``, in one statement."""
    workers, standing_by = _CREW.read(connection, {})
    return sorted((each._asdict() for each in workers), key=itemgetter("worker")), standing_by


@dataclass(frozen=True, slots=True)
class Leadership:
    """Who leads."""

    owner: str
    epoch: int
    leads: bool
    """Whether the one who asked does."""
    at: datetime
    """Wall time of the answer."""
    broker_lost_at: datetime | None = None
    """Since when somebody else, who leads, can not reach the broker."""
    figures: Mapping[str, int] | None = None
    """What was kept with the lead when it passed on; ``None`` when it did not, or nothing was."""


_KEEP_LEAD = (
    update(leases)
    .where(leases.c.name == bindparam("what"), leases.c.owner == bindparam("who"))
    .values(
        expires_at=_UNTIL,
        ticked_at=bindparam("ticked"),
        broker_lost_at=bindparam("lost", type_=UtcDateTime),
        figures=bindparam("did", type_=Json),
    )
    # Where that is lost, the lead may pass on earlier; whoever had it then writes nothing more.
    .returning(leases.c.epoch, database_now().label("at"), unhurried())
)
_TAKE_LEAD = (
    update(leases)
    .where(
        leases.c.name == bindparam("what"),
        or_(leases.c.expires_at <= database_now(), leases.c.epoch == bindparam("instead_of")),
    )
    .values(
        owner=bindparam("who"),
        epoch=leases.c.epoch + 1,
        expires_at=_UNTIL,
        ticked_at=None,
        broker_lost_at=None,
    )
)
_LEADER_NOW = select(leases, database_now().label("at")).where(leases.c.name == bindparam("what"))


def lead(
    connection: Connection,
    name: str,
    owner: str,
    *,
    lease: timedelta,
    ticked_at: datetime | None = None,
    broker_lost_at: datetime | None = None,
    figures: Mapping[str, int] | None = None,
    instead_of: int | None = None,
) -> Leadership:
    """
    Take, keep or look at the lead; by the database's clock.

    The lead passes when its lease has run out, or to whoever asks for it in place of its epoch;
    each change of owner raises the epoch.

    Args:
        ticked_at: When the one who asks last completed a tick; kept with the lead, if it is his.
        broker_lost_at: Since when he can not reach the broker; likewise.
        figures: What he and those before him have done; likewise, and until another keeps his.
        instead_of: An epoch whose leader is replaced although its lease has not run out.
    """
    kept = go_on_leading(
        connection,
        name,
        owner,
        lease=lease,
        ticked_at=ticked_at,
        broker_lost_at=broker_lost_at,
        figures=figures,
    )
    if kept is not None:
        return kept
    asked = {"what": name, "who": owner, "lease_seconds": lease.total_seconds()}
    connection.execute(_TAKE_LEAD, {**asked, "instead_of": instead_of})
    row = connection.execute(_LEADER_NOW, {"what": name}).first()
    if row is None:
        until = wall_time(connection) + lease
        insert_new(
            connection, leases, {"name": name, "owner": owner, "epoch": 1, "expires_at": until}
        )
        row = connection.execute(_LEADER_NOW, {"what": name}).one()
    leads = row.owner == owner
    return Leadership(row.owner, row.epoch, leads, row.at, row.broker_lost_at, row.figures)


def go_on_leading(
    connection: Connection,
    name: str,
    owner: str,
    *,
    lease: timedelta,
    ticked_at: datetime | None,
    broker_lost_at: datetime | None,
    figures: Mapping[str, int] | None,
) -> Leadership | None:
    """Do what `lead` does, in one statement, where the one who asks leads; otherwise nothing."""
    asked = {"what": name, "who": owner, "lease_seconds": lease.total_seconds()}
    told = {"ticked": ticked_at, "lost": broker_lost_at, "did": figures}
    kept = connection.execute(_KEEP_LEAD, {**asked, **told}).first()
    return None if kept is None else Leadership(owner, kept.epoch, leads=True, at=kept.at)


_KEEP_EPOCH = (
    update(leases)
    .where(
        leases.c.name == bindparam("what"),
        leases.c.owner == bindparam("who"),
        leases.c.epoch == bindparam("of"),
        leases.c.expires_at > database_now(),
    )
    .values(expires_at=_UNTIL)
    .returning(database_now())
)


def keep_lead(
    connection: Connection, name: str, owner: str, epoch: int, *, lease: timedelta
) -> datetime | None:
    """
    Extend a lead that still holds; nobody else can take it before this transaction ends.

    Args:
        epoch: Of the lead as it was taken.

    Returns:
        Wall time from which it counts; ``None`` when it does not hold: its owner or epoch is
        another, or its lease has run out.
    """
    asked = {"what": name, "who": owner, "of": epoch, "lease_seconds": lease.total_seconds()}
    return connection.execute(_KEEP_EPOCH, asked).scalar_one_or_none()


def resign(connection: Connection, name: str, owner: str) -> None:
    """Give the lead up, so that a standby takes it at once."""
    connection.execute(
        update(leases)
        .where(leases.c.name == name, leases.c.owner == owner)
        .values(expires_at=database_now())
    )


_STAND_BY = (
    update(standbys)
    .where(_s.owner == bindparam("who"))
    .values(renewed_at=database_now(), expires_at=_UNTIL)
)
_END_STANDBY = delete(standbys).where(_s.owner == bindparam("who"))
_FORGOTTEN_AFTER = timedelta(hours=1)
"""How long one that says nothing is still told of, where there is another."""
_LONG_SILENT = select(_s.owner).where(
    _s.expires_at < database_later(literal(-_FORGOTTEN_AFTER.total_seconds(), Double))
)
# Two that wake after an hour may each have renewed what the other would remove.
_FORGET_STANDBYS = delete(standbys).where(
    _s.owner.in_(_LONG_SILENT.with_for_update(skip_locked=True))
)


def stand_by(connection: Connection, owner: str, *, lease: timedelta) -> None:
    """
    Note that a scheduler waits for the lead; forget those that have long been silent.

    Args:
        lease: From when on it is silent, if it does not say so again.
    """
    asked = {"who": owner, "lease_seconds": lease.total_seconds()}
    if not connection.execute(_STAND_BY, asked).rowcount:
        until = wall_time(connection) + lease
        insert_new(connection, standbys, {"owner": owner, "expires_at": until})
    connection.execute(_FORGET_STANDBYS)


def end_standby(connection: Connection, owner: str) -> None:
    """Note that a scheduler does not wait any more."""
    connection.execute(_END_STANDBY, {"who": owner})


def leader(connection: Connection, name: str) -> dict[str, object] | None:
    """Return the lease of that name: owner, epoch, expires_at, ticked_at; and wall time, at."""
    row = connection.execute(_LEADER_NOW, {"what": name}).mappings().first()
    return dict(row) if row else None
