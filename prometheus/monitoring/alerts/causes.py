"""What is wrong now, by the database, the calendars and the settings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Row
from sqlalchemy.exc import DBAPIError

from prometheus.core.holidays import is_followed
from prometheus.core.horizons import HorizonLevel, horizon_level
from prometheus.core.markets import get_market
from prometheus.core.overrides import in_force
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.crew import count_listeners, judge_leader
from prometheus.errors import NoSessionError, PrometheusError
from prometheus.masking import safe_text
from prometheus.monitoring.installation import Installation, Look
from prometheus.orchestration.alerts import AlertKind, Cause, Kept, Severity, Unseen
from prometheus.orchestration.dag import JobPriority
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.orchestration.planning import REACH, plan_runs, session_bounds, session_of
from prometheus.persistence import troubles
from prometheus.persistence.alerts import last_raised
from prometheus.persistence.deadlines import Due, read_deadlines
from prometheus.persistence.holidays import proposed_holidays
from prometheus.persistence.leases import live_workers
from prometheus.persistence.listings import read_first_seen
from prometheus.persistence.troubles import Ended

LOOKS_BACK = timedelta(days=7)
"""How old a failure may be that is found at the first look of all."""
OVERLAP = timedelta(minutes=10)
"""How long before the last look a failure found only now may be stamped: its transaction
was not committed yet."""
SILENT_LOOKS = 6
"""For how many pauses between looks there must have been no scheduler, or nobody at a queue: others
take over from who ends."""
LOST_WITHIN = timedelta(days=1)
"""How long a worker that was lost is looked for; it may have been one too many."""
_PLANS_BACK = timedelta(days=4)
"""How old a session may be whose run is missed as late; the scheduler knows of older ones."""
_LONGEST_ERROR = 300
_MISSED = "missed:"
"""How the error of a run begins that was missed from the start."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One look."""

    causes: tuple[Cause, ...]
    unseen: frozenset[Unseen]
    forgotten: frozenset[str]
    """Keys of what is not looked for any more."""
    faults: Mapping[str, Exception]
    """Kinds, by commas -> why not, where nobody foresaw it."""


@dataclass(slots=True)
class _Scene:
    """What every question is asked of."""

    look: Look
    here: Installation
    kept: Iterable[Kept]
    since: datetime
    """Failures of before are known already."""
    silent: bool = False
    """Whether no scheduler is at work."""
    deserted: set[str] = field(default_factory=set)
    """Queues in which something waits, and to which nobody listens."""
    unseen: set[Unseen] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)
    """Keys of what is not looked for any more."""

    @property
    def passes_within(self) -> timedelta:
        """For how long what may pass by itself must have been seen."""
        return SILENT_LOOKS * self.here.settings.alerts.look_every

    @property
    def now(self) -> datetime:
        """Wall time, which is also market time: replays are not watched."""
        return self.look.now.wall_at


def read_causes(
    look: Look, here: Installation, kept: Iterable[Kept], looked_at: datetime | None
) -> Seen:
    """
    Say what is wrong.

    Args:
        look: One state of the database.
        kept: The alerts that are kept: what of them has not been put right yet.
        looked_at: Wall time of the look before.
    """
    since = look.now.wall_at - LOOKS_BACK
    if looked_at is not None:
        since = max(since, looked_at - OVERLAP)
    scene = _Scene(look, here, tuple(kept), since)
    causes: list[Cause] = []
    faults: dict[str, Exception] = {}
    for kinds, find in _QUESTIONS.items():
        try:
            causes += find(scene)
        except DBAPIError:
            raise
        except Exception as error:  # noqa: BLE001  what one can not answer takes nothing from others
            faults[",".join(kinds)] = error
            scene.unseen.update((kind, None) for kind in kinds)
    return Seen(tuple(causes), frozenset(scene.unseen), frozenset(scene.forgotten), faults)


# --- who is at work -----------------------------------------------------------------------------


def _scheduler(scene: _Scene) -> Iterator[Cause]:
    leader = scene.look.leader
    scheduled, told = judge_leader(leader, scene.here.settings.scheduler.lease)
    scene.silent = not scheduled
    if scheduled:
        return
    summary = "no scheduler is at work"
    if leader is not None and leader.alive:
        # Without the age of its last tick, which is another at each look.
        summary, told = "the scheduler completes no tick", f"It is {leader.process}"
    yield Cause(
        key=AlertKind.SCHEDULER_SILENT,
        kind=AlertKind.SCHEDULER_SILENT,
        severity=Severity.CRITICAL,
        summary=summary,
        since=leader.ticked_at if leader is not None and leader.ticked_at else scene.now,
        details=(
            f"{told[:1].upper()}{told[1:]}.",
            "No run is made and no job is started until one is; what runs goes on.",
            "Start one (prometheus beat), or look at its log.",
        ),
        after=scene.passes_within,
    )


def _queues(scene: _Scene) -> Iterator[Cause]:
    waiting = troubles.waiting_in_queues(scene.look.connection, scene.now)
    if not waiting:
        return
    listeners = count_listeners(live_workers(scene.look.connection, scene.now))
    for each in waiting:
        if listeners.get(each.queue):
            continue
        scene.deserted.add(each.queue)
        yield Cause(
            key=f"{AlertKind.QUEUE_WITHOUT_WORKERS}:{each.queue}",
            kind=AlertKind.QUEUE_WITHOUT_WORKERS,
            severity=Severity.CRITICAL,
            summary=f"work is due for {each.queue}, and no worker listens to its queue",
            since=each.since,
            markets=(each.queue,),
            priority=JobPriority(each.priority),
            # Graver work that comes later is told to those who are told of it alone.
            subjects=tuple(
                f"{priority.name} jobs"
                for priority in sorted(JobPriority, reverse=True)
                if priority >= each.priority
            ),
            details=(
                "It starts when a worker comes, unless its windows have closed by then.",
                f"Start one: prometheus worker {each.queue}",
            ),
            after=scene.passes_within,
        )


def _workers(scene: _Scene) -> Iterator[Cause]:
    connection = scene.look.connection
    found = {
        f"{AlertKind.WORKER_LOST}:{each.worker}": each
        for each in troubles.lost_workers(connection, scene.now, LOST_WITHIN)
    }
    replaced = [key for key, each in found.items() if each.replaced]
    # By whichever web process, and however long ago: it is told once that one was lost, however
    # soon a supervisor has started it again.
    raised_at = last_raised(connection, replaced) if replaced else {}
    for key, each in found.items():
        if each.replaced and each.given_up_at <= raised_at.get(key, scene.since):
            continue
        yield Cause(
            key=key,
            kind=AlertKind.WORKER_LOST,
            severity=Severity.ERROR,
            summary=f"worker {each.worker} was lost",
            since=each.seen_at,
            markets=tuple(each.queues),
            details=(
                f"It was pid {each.pid} on {each.host}, and stopped renewing its lease.",
                "What it ran has failed, and is tried again by another worker.",
                "Its place was taken since. Look at its log and at the machine."
                if each.replaced
                else "Look at its log and at the machine, and start it again.",
            ),
        )
    # Nobody says of one that has not come back that it has.
    kept = {each.key for each in scene.kept if each.kind is AlertKind.WORKER_LOST}
    scene.forgotten.update(kept - found.keys())


_BY_ATTEMPTS = (AlertKind.JOB_FAILED, AlertKind.WINDOW_EXPIRED, AlertKind.MISSED_SESSION)
"""What the last attempts of jobs say."""


# --- runs ---------------------------------------------------------------------------------------


def _failures(scene: _Scene) -> Iterator[Cause]:
    connection = scene.look.connection
    open_ones = {
        (each.kind, each.dag_id): each
        for each in scene.kept
        if each.is_open and each.kind in _BY_ATTEMPTS and each.dag_id is not None
    }
    ended = troubles.failed_since(connection, scene.since)
    ended += troubles.failed_or_unfinished(
        connection, {dag_id for _, dag_id in open_ones if dag_id}
    )
    found: dict[tuple[AlertKind, str], dict[str, Ended]] = defaultdict(dict)
    for each in ended:
        kind = _kind_of(each)
        if kind is not None:
            found[kind, each.dag_id][_subject(each)] = each
            continue
        # It is tried again, and not put right before that has succeeded.
        for kind in _BY_ATTEMPTS:
            alert = open_ones.get((kind, each.dag_id))
            for subject in alert.subjects if alert else ():
                if subject.partition(" (")[0] == each.job_id:
                    found[kind, each.dag_id][subject] = each
    for (kind, dag_id), jobs in found.items():
        yield _failure(kind, dag_id, jobs)


def _kind_of(job: Ended) -> AlertKind | None:
    if job.status in (JobStatus.FAILED, JobStatus.CANCELLED):
        return AlertKind.JOB_FAILED
    if job.status is not JobStatus.EXPIRED:
        return None
    missed = job.attempt == 1 and job.error.startswith(_MISSED)
    return AlertKind.MISSED_SESSION if missed else AlertKind.WINDOW_EXPIRED


def _subject(job: Ended) -> str:
    return job.job_id if job.attempt == 1 else f"{job.job_id} (attempt {job.attempt})"


_SAID = {
    AlertKind.JOB_FAILED: "failed for good",
    AlertKind.WINDOW_EXPIRED: "did not start in time",
    AlertKind.MISSED_SESSION: "the session was missed",
}


def _failure(kind: AlertKind, dag_id: str, jobs: Mapping[str, Ended]) -> Cause:
    first = min(jobs.values(), key=lambda each: (each.at, each.job_id))
    priority = JobPriority(min(each.priority for each in jobs.values()))
    errors = [
        f"{subject}: {_in_a_line(each.error)}"
        for subject, each in sorted(jobs.items())
        if _kind_of(each) is kind
    ]
    if kind is AlertKind.MISSED_SESSION:
        summary, errors = f"{dag_id}: {_SAID[kind]}", errors[:1]
    else:
        names = list(jobs)
        summary = f"{dag_id}: {_listed(names)} {_SAID[kind]}"
    again = sorted({each.job_id for each in jobs.values() if _kind_of(each) is None})
    if again:
        errors.append(f"Tried again now: {', '.join(again)}.")
    return Cause(
        key=f"{kind}:{dag_id}",
        kind=kind,
        severity=Severity.CRITICAL if priority is JobPriority.CRITICAL else Severity.ERROR,
        summary=summary,
        since=first.at,
        markets=(first.market_id,),
        pipeline=first.pipeline,
        dag_id=dag_id,
        priority=priority,
        subjects=tuple(sorted(jobs)),
        details=(
            *errors,
            "Nothing is tried again by itself, and what depends on it is skipped.",
            f"Put right what is wrong, then: prometheus retry {dag_id} (or force-success)",
            "If nobody wants it any more, acknowledge it: nothing more is told of it then.",
        ),
    )


def _deadlines(scene: _Scene) -> Iterator[Cause]:
    kept = [each for each in scene.kept if each.kind is AlertKind.DEADLINE_MISSED]
    told = {each.dag_id for each in kept}
    since = (scene.now - LOOKS_BACK).date()
    for alert in kept:
        session = session_of(alert.dag_id or "")
        if not alert.is_open or session is None:
            continue
        since = min(since, session)  # however old it is
        for market_id in alert.markets:
            try:
                session_bounds(TradingCalendar(market_id), session)
            except NoSessionError:
                continue  # it has no deadline any more
            except PrometheusError:  # which is told as such; whether it is over, nobody knows
                scene.unseen.add((alert.kind, market_id))
    markets = scene.here.markets(scene.look.now)
    missed: dict[str, list[Due]] = defaultdict(list)
    for each in read_deadlines(scene.look.connection, scene.look.now, markets=markets, since=since):
        # What was done too late while nobody looked is told all the same.
        unseen = each.done_at is not None and each.done_at > scene.since and each.dag_id not in told
        if each.missed and (each.done_at is None or unseen):
            missed[each.dag_id].append(each)
    for dag_id, due in missed.items():
        priority = min(each.priority for each in due)
        yield Cause(
            key=f"{AlertKind.DEADLINE_MISSED}:{dag_id}",
            kind=AlertKind.DEADLINE_MISSED,
            severity=Severity.CRITICAL if priority is JobPriority.CRITICAL else Severity.ERROR,
            summary=f"{dag_id}: {_listed([_what(each) for each in due])} missed the deadline",
            since=min(each.deadline_at for each in due),
            markets=(due[0].market_id,),
            pipeline=due[0].pipeline,
            dag_id=dag_id,
            priority=priority,
            subjects=tuple(sorted(_what(each) for each in due)),
            details=(
                *(
                    f"{_what(each)} was due at {each.deadline_at:%Y-%m-%d %H:%M} UTC, and "
                    + (
                        f"succeeded at {each.done_at:%Y-%m-%d %H:%M} UTC."
                        if each.done_at
                        else "is not done."
                    )
                    for each in due
                ),
                "It goes on all the same.",
                f"Ask what it waits for: prometheus why {dag_id}",
            ),
        )


def _what(due: Due) -> str:
    return due.job_id or "the run"


def _listed(names: list[str], most: int = 4) -> str:
    if len(names) <= most:
        return ", ".join(sorted(names))
    return f"{', '.join(sorted(names)[:most])} and {len(names) - most} more jobs"


def _in_a_line(error: str) -> str:
    text = " ".join(safe_text(error).split())
    return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}…"


def _late(scene: _Scene) -> Iterator[Cause]:
    allowed = scene.here.settings.alerts.late_after
    connection = scene.look.connection
    waits: dict[str, list[Row[tuple[object, ...]]]] = defaultdict(list)
    for row in troubles.late_in_queues(connection, scene.now - allowed):
        if row.queue not in scene.deserted:  # which is told as such
            waits[row.dag_id].append(row)
    sensors: dict[str, list[Row[tuple[object, ...]]]] = defaultdict(list)
    for row in troubles.late_sensors(connection):
        sensors[row.dag_id].append(row)
    for dag_id in {**waits, **sensors}:
        rows = [*waits[dag_id], *sensors[dag_id]]
        told = []
        if waits[dag_id]:
            jobs = sorted(str(row.job_id) for row in waits[dag_id])
            told.append(f"{_listed(jobs)} can start, and no worker has taken it")
        if sensors[dag_id]:
            jobs = sorted(str(row.job_id) for row in sensors[dag_id])
            told.append(f"what {_listed(jobs)} waits for is late")
        yield Cause(
            key=f"{AlertKind.RUN_LATE}:{dag_id}",
            kind=AlertKind.RUN_LATE,
            severity=Severity.WARNING,
            summary=f"{dag_id}: {'; '.join(told)}",
            since=min(
                *(row.scheduled_at for row in waits[dag_id]),
                *(row.completed_at for row in sensors[dag_id]),
                scene.now,
            ),
            markets=(rows[0].market_id,),
            pipeline=rows[0].pipeline,
            dag_id=dag_id,
            priority=JobPriority(min(row.priority for row in rows)),
            subjects=tuple(sorted(str(row.job_id) for row in rows)),
            details=(
                "It goes on by itself when a worker is free, or what it waits for has come.",
                f"Ask: prometheus why {dag_id}",
            ),
        )
    yield from _unmade(scene, allowed)


def _unmade(scene: _Scene, allowed: timedelta) -> Iterator[Cause]:
    """Name the runs that should have been made; while no scheduler is at work, that is told."""
    if scene.silent or not scene.here.settings.scheduler.create_runs:
        return
    now, markets = scene.now, set(scene.here.markets(scene.look.now))
    day = (now - _PLANS_BACK - REACH).date()
    first_seen = read_first_seen(scene.look.connection)
    existing = troubles.sessions_with_runs_since(scene.look.connection, day)
    for pipeline in scene.here.pipelines[0].values():
        for market_id in pipeline.markets:
            key = pipeline.name, market_id
            if market_id not in markets or key not in first_seen:
                continue
            try:
                planned = plan_runs(
                    pipeline,
                    TradingCalendar(market_id),
                    market_id,
                    existing=existing.get(key, ()),
                    first_seen_at=first_seen[key],
                    now=now,
                    since=(now - _PLANS_BACK).date(),
                )
            except PrometheusError:
                scene.unseen.add(
                    (AlertKind.RUN_LATE, market_id)
                )  # that there is no calendar is told as such
                continue
            for each in planned:
                if now - each.opens_at < allowed:
                    continue
                dag_id = each.dag.dag_id
                priorities = [job.priority for job in each.dag]
                yield Cause(
                    key=f"{AlertKind.RUN_LATE}:{dag_id}",
                    kind=AlertKind.RUN_LATE,
                    severity=Severity.ERROR,
                    summary=f"{dag_id} should have been made, and was not",
                    since=each.opens_at,
                    markets=(market_id,),
                    pipeline=pipeline.name,
                    dag_id=dag_id,
                    priority=min(priorities),
                    subjects=("not made",),
                    details=(
                        "The log of the scheduler says why (market_not_planned).",
                        f"Ask: prometheus why {dag_id}",
                    ),
                )


# --- calendars ----------------------------------------------------------------------------------

_LEVELS = (HorizonLevel.WARNING, HorizonLevel.ALERT, HorizonLevel.ERROR)
_SEVERITIES = {
    HorizonLevel.WARNING: Severity.WARNING,
    HorizonLevel.ALERT: Severity.ERROR,
    HorizonLevel.ERROR: Severity.CRITICAL,
}


def _horizons(scene: _Scene) -> Iterator[Cause]:
    for market_id in scene.here.markets(scene.look.now):
        key = f"{AlertKind.CALENDAR_HORIZON}:{market_id}"
        try:
            calendar = TradingCalendar(market_id)
        except PrometheusError as error:  # the other markets still have theirs
            yield Cause(
                key=key,
                kind=AlertKind.CALENDAR_HORIZON,
                severity=Severity.CRITICAL,
                summary=f"the calendar of {market_id} can not be read",
                since=scene.now,
                markets=(market_id,),
                subjects=("unreadable",),
                details=(_in_a_line(str(error)), "Its runs are held until it can be."),
            )
            continue
        level = horizon_level(calendar.horizon, scene.now.date())
        if level is HorizonLevel.OK:
            continue
        ended = level is HorizonLevel.ERROR
        yield Cause(
            key=key,
            kind=AlertKind.CALENDAR_HORIZON,
            severity=_SEVERITIES[level],
            summary=f"the calendar of {market_id} {'ended' if ended else 'ends'} on "
            f"{calendar.horizon}",
            since=scene.now,
            markets=(market_id,),
            # The louder one is another, so that it is told again.
            subjects=tuple(_LEVELS[: _LEVELS.index(level) + 1]),
            details=(
                f"Its sessions are those of {calendar.horizon_source}.",
                "No run is made of a session that is not known."
                if ended
                else "Of sessions after that date no run will be made.",
                "Install a release with a newer sessions snapshot.",
            ),
        )


def _feeds(scene: _Scene) -> Iterator[Cause]:
    for said in proposed_holidays(scene.look.connection, first=scene.now.date()):
        holiday = said.holiday
        if is_followed(said.exchange, holiday, in_force()):
            continue
        markets = [
            name
            for name in scene.here.markets(scene.look.now)
            if said.exchange in get_market(name).members
        ]
        decide = f"prometheus calendar sync {said.exchange} --confirm {holiday.day} --reason TEXT"
        yield Cause(
            key=f"{AlertKind.FEED_DISAGREEMENT}:{said.exchange}:{holiday.day}:{said.source}",
            kind=AlertKind.FEED_DISAGREEMENT,
            severity=Severity.WARNING,
            summary=f"{said.source} says of {said.exchange} on {holiday.day}: {holiday.words}, and "
            f"the calendar says otherwise",
            since=said.fetched_at,
            markets=tuple(dict.fromkeys((*markets, said.exchange))),
            subjects=(holiday.words,),
            details=(
                f"It calls the day {_in_a_line(holiday.name)}.",
                "The calendar stays as it is until somebody decides.",
                f"Decide: {decide} (or --reject)",
            ),
        )


_QUESTIONS: Mapping[tuple[AlertKind, ...], Callable[[_Scene], Iterator[Cause]]] = {
    # First, for what follows from them is not told besides.
    (AlertKind.SCHEDULER_SILENT,): _scheduler,
    (AlertKind.QUEUE_WITHOUT_WORKERS,): _queues,
    (AlertKind.WORKER_LOST,): _workers,
    _BY_ATTEMPTS: _failures,
    (AlertKind.DEADLINE_MISSED,): _deadlines,
    (AlertKind.RUN_LATE,): _late,
    (AlertKind.CALENDAR_HORIZON,): _horizons,
    (AlertKind.FEED_DISAGREEMENT,): _feeds,
}
"""Kinds -> who finds what of them is wrong."""
