"""
Why a job does not run: what it waits for, since when, until when, and what happens then.

Pure, like the decisions that it explains: what holds a job is asked of `decide` itself, so that no
explanation can say otherwise; all else follows from what is stored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Literal, assert_never

from prometheus.core.durations import format_duration
from prometheus.core.overrides import OverrideKind
from prometheus.core.states import MarketState
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import HorizonError
from prometheus.orchestration.dag import JobMetadata
from prometheus.orchestration.decisions import (
    Cancel,
    Decision,
    Expire,
    Hold,
    HoldReason,
    Skip,
    Snapshot,
    Start,
    decide,
    pauses_of,
)
from prometheus.orchestration.facts import (
    AtWork,
    Execution,
    Facts,
    JobRef,
    Running,
    Turn,
    Waiting,
    Worker,
)
from prometheus.orchestration.following import why_closed
from prometheus.orchestration.lifecycle import (
    BLOCKING,
    FINAL,
    SKIPPED_BY,
    JobStatus,
    RunStatus,
    Trigger,
)
from prometheus.orchestration.pauses import Pause
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.planning import SessionRange, plan_runs, session_bounds
from prometheus.orchestration.sensor import Readiness
from prometheus.orchestration.timeouts import start_timeout
from prometheus.orchestration.windows import SessionBounds, Window, run_opens_at

DEAF_AFTER = timedelta(seconds=60)
"""How long a message may wait for a worker that has time for it."""
UNSENT_AFTER = timedelta(seconds=60)
"""How long a job that is due may be without a message before something must be wrong."""
_MOST_NAMED = 5
"""Jobs or workers that one sentence names."""
_LONGEST_ERROR = 300
"""Characters that are repeated of an error."""
_OPEN, _CLOSE = "open", "close"
_EVENT: Mapping[MarketState | None, str] = {
    MarketState.POST_CLOSE: _CLOSE,
    MarketState.OVERNIGHT: _CLOSE,
    MarketState.PRE_OPEN: _OPEN,
    MarketState.SESSION: _OPEN,
    None: _OPEN,
}
"""What of a session moves the beginning of a phase."""


class ReasonKind(StrEnum):
    """What a job waits for, or has come to."""

    # What nobody does for any job.
    DATABASE_LOCKED = "database_locked"
    """Nobody can write: another transaction holds the database."""
    NO_SCHEDULER = "no_scheduler"
    """No scheduler leads."""
    SCHEDULER_SILENT = "scheduler_silent"
    """One leads, and completes no tick."""
    MARKET_DISABLED = "market_disabled"
    """This installation does not work for the market."""
    MARKET_HELD = "market_held"
    """Nothing is decided for the market: its calendar has no answer."""

    # What has not been handed out.
    WINDOW = "window"
    """Its window has not opened."""
    UPSTREAM = "upstream"
    """Jobs that it depends on have not succeeded yet."""
    PREVIOUS = "previous"
    """The same job of the previous session has not finished."""
    PAUSED = "paused"
    """An operator keeps it from starting."""
    RUNNABLE = "runnable"
    """Nothing keeps it: it is started at the next tick."""

    # What will not run.
    UPSTREAM_FAILED = "upstream_failed"
    """A job that it depends on did not succeed, and will not."""
    SESSION_CLOSED = "session_closed"
    """Its session is none any more."""
    EXPIRED = "expired"
    """Its window closed, or its time ran out, before it started."""
    SKIPPED = "skipped"
    """It was left out: by an operator, or as its sensor's way of giving up."""
    CANCELLED = "cancelled"
    """An operator ended it, or its run had had its time."""
    FAILED = "failed"
    """It failed for good."""

    # What was handed out.
    RETRY = "retry"
    """The attempt before failed, and the next is not due yet."""
    POLLING = "polling"
    """A sensor that has found nothing yet, between two polls."""
    UNSENT = "unsent"
    """It is due, and no message for it was sent yet."""
    BROKER_AWAY = "broker_away"
    """No message reaches a worker: Redis does not answer."""
    NO_WORKER = "no_worker"
    """No live worker serves its queue."""
    BUSY = "busy"
    """All slots of the workers that serve its queue are taken."""
    DEAF = "deaf"
    """A worker has time for it and does not take it."""
    IN_QUEUE = "in_queue"
    """A worker takes it in a moment."""

    # What was started.
    RUNNING = "running"
    """A worker runs it."""
    ENDING = "ending"
    """It runs, and was asked to end or will be."""
    OVERDUE = "overdue"
    """It runs past its hard limit, by which its worker must have ended it."""
    WORKER_SILENT = "worker_silent"
    """Its worker has not been heard of for half of its lease."""
    WORKER_LOST = "worker_lost"
    """Nobody runs it any more, and nobody has written so yet."""
    SUCCESS = "success"
    """It has succeeded."""

    # What is good to know besides.
    FORCED = "forced"
    """Its window does not count, because somebody asked for it."""
    LIMIT = "limit"
    """Until when it may start."""

    # Of a session that a backfill has.
    BACKFILL = "backfill"
    """A backfill makes its run, or runs it again, when its turn comes."""

    # Of a run that is not there.
    NOT_MADE = "not_made"
    """Its run will be made."""
    NEVER_MADE = "never_made"
    """Nothing makes its run by itself."""


_ENDS_BY_TIME = frozenset({ReasonKind.WINDOW, ReasonKind.RETRY, ReasonKind.POLLING})
"""What is over at its ``until``, whatever happens."""


_ENDS_BY_ITSELF = _ENDS_BY_TIME - {ReasonKind.POLLING} | {
    ReasonKind.UPSTREAM,
    ReasonKind.PREVIOUS,
    ReasonKind.PAUSED,
}
"""What is expected to be over at its ``until``, if it has one."""
_AT_ONCE = frozenset({ReasonKind.RUNNABLE, ReasonKind.UNSENT, ReasonKind.IN_QUEUE})
"""What takes no time to speak of, unless others are before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One thing that a job waits for, or that has become of it."""

    kind: ReasonKind
    text: str
    """What is so."""
    job_id: str | None = None
    """Whose reason it is: the job's own, or that of a job it waits for; ``None`` of whole runs."""
    then: str = ""
    """What happens next, or what to do."""
    since: datetime | None = None
    """Since when it is so, if that is known."""
    until: datetime | None = None
    """When it is expected to end, if that is known."""
    market_time: bool = False
    """Whether ``since`` and ``until`` are market time; otherwise they are wall time."""
    refers_to: tuple[JobRef, ...] = ()
    """The jobs that it is about."""
    wrong: bool = False
    """Whether somebody should look: it is not how things go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReason:
    """A job of a run and the first of its reasons."""

    job_id: str
    status: JobStatus
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReasons:
    """Where a run stands."""

    status: RunStatus
    around: tuple[Reason, ...]
    """What keeps anything of it from going on."""
    jobs: tuple[JobReason, ...]
    """Those that have not succeeded, in running order."""


def explain(snapshot: Snapshot, job_id: str, now: datetime, facts: Facts) -> tuple[Reason, ...]:
    """
    Say why a job does not run, or what has become of it.

    Args:
        snapshot: One run, open or finished; with the bounds of its session unless ``facts`` say
            why there are none.
        job_id: A job of it.
        now: Market time, aware UTC.
        facts: Read in the same transaction.

    Returns:
        What keeps everything, then what keeps the job itself, in the order in which `decide` asks;
        then the first reason of each job it waits for, down to the root cause, none of them twice;
        then what is good to know besides. Never empty.
    """
    return _Case(snapshot, now, facts).of_job(job_id)


def explain_run(snapshot: Snapshot, now: datetime, facts: Facts) -> RunReasons:
    """Say of a run's jobs that have not succeeded why; the arguments are those of `explain`."""
    return _Case(snapshot, now, facts).of_run()


class _Case:
    """One run and all that is known of it."""

    def __init__(self, snapshot: Snapshot, now: datetime, facts: Facts) -> None:
        (self._run,) = snapshot.runs
        self._pauses = snapshot.pauses
        self._dag = self._run.dag
        self._now = now
        self._facts = facts
        self._wall_at = facts.at_work.wall_at
        self._times_out = snapshot.wall_at is not None
        self._bounds: SessionBounds | None = None
        self._decisions: dict[str, Decision] = {}
        if not (facts.held or facts.closed):
            self._bounds = snapshot.bounds[self._dag.market_id, self._dag.as_of_date]
            self._decisions = {each.job.job_id: each for each in decide(snapshot, now)}
        self._status = {job_id: state.status for job_id, state in self._run.jobs.items()}
        for job_id, decision in self._decisions.items():
            if isinstance(decision, Skip):
                self._status[job_id] = JobStatus.SKIPPED
            elif isinstance(decision, Expire):
                self._status[job_id] = JobStatus.EXPIRED
        self._told: dict[str, list[Reason]] = {}
        self._ends: dict[str, datetime] = {}
        """When jobs are expected to end, in market time, of those of which that is known."""
        if facts.usual:
            for job_id in self._dag.topological_order():  # each by the ends of its upstream
                end = self._expected_end(job_id)
                if end is not None:
                    self._ends[job_id] = end

    # --- the whole ------------------------------------------------------------------------------

    def of_job(self, job_id: str) -> tuple[Reason, ...]:
        own = self._own(job_id)
        below = self._of_upstream(job_id, own)
        besides = (*self._forced(job_id), *self._limits(job_id), *self._turn())
        return (*self._around_job(job_id, own), *own, *below, *besides)

    def of_run(self) -> RunReasons:
        found = [
            JobReason(job_id=job_id, status=self._run.jobs[job_id].status, reason=reason)
            for job_id in self._dag.topological_order()
            if self._run.jobs[job_id].status is not JobStatus.SUCCESS
            and (reason := self._first(job_id)) is not None
        ]
        waits = self._run.status is RunStatus.OPEN
        around = (*self._around, *self._backfilled()) if waits else ()
        return RunReasons(
            status=self._run.status, around=(*around, *self._turn()), jobs=tuple(found)
        )

    def _first(self, job_id: str) -> Reason | None:
        own = self._own(job_id)
        return own[0] if own else next(iter(self._around), None)

    def _of_upstream(self, job_id: str, own: Iterable[Reason]) -> Iterator[Reason]:
        """Yield the first reason of each job that one waits for, directly or not."""
        seen = {job_id}
        shown = {_essence(reason) for reason in own}
        stack = self._waited_for(job_id)[::-1]
        while stack:
            upstream = stack.pop()
            if upstream in seen:
                continue
            seen.add(upstream)
            reason = self._first(upstream)
            # Jobs that wait for the same have one reason between them.
            if reason is not None and _essence(reason) not in shown:
                shown.add(_essence(reason))
                yield reason
            stack += self._waited_for(upstream)[::-1]

    def _waited_for(self, job_id: str) -> list[str]:
        """Return the upstream jobs that keep one from starting, or have kept it."""
        status = self._status[job_id]
        upstream = sorted(self._dag.jobs[job_id].dependencies)
        if status is JobStatus.SKIPPED:
            if (self._attempt(job_id).error or "").startswith(SKIPPED_BY):
                return []
            return [each for each in upstream if self._status[each] in BLOCKING]
        if status is JobStatus.PENDING and job_id in self._decisions:
            return [each for each in upstream if self._status[each] is not JobStatus.SUCCESS]
        return []

    def _around_job(self, job_id: str, own: list[Reason]) -> tuple[Reason, ...]:
        """Return what keeps everything, as far as it concerns a job."""
        status = self._run.jobs[job_id].status
        goes_on = status is JobStatus.RUNNING and own[0].kind is ReasonKind.RUNNING
        if status in FINAL or goes_on:
            return ()
        # What was handed out is not decided about any more.
        return self._around if status is JobStatus.PENDING else self._nobody_acts

    @cached_property
    def _around(self) -> tuple[Reason, ...]:
        held = self._facts.held
        return (*self._nobody_acts, *([_market_held(self._dag.market_id, held)] if held else []))

    @cached_property
    def _nobody_acts(self) -> tuple[Reason, ...]:
        return tuple(_nobody_acts(self._facts.at_work, self._dag.market_id))

    # --- one job --------------------------------------------------------------------------------

    def _own(self, job_id: str) -> list[Reason]:
        """Return what keeps a job itself, or has become of it; empty where nothing is decided."""
        if job_id not in self._told:
            self._told[job_id] = self._find_own(job_id)
        return self._told[job_id]

    def _find_own(self, job_id: str) -> list[Reason]:
        status = self._run.jobs[job_id].status
        if status in FINAL:
            return [self._ended(job_id)]
        if status is JobStatus.RUNNING:
            return [*self._running(job_id)]
        if self._facts.closed:
            text = f"its session is closed: {self._facts.closed}"
            then = "the scheduler cancels it at its next tick; it comes back if the session does"
            kind = ReasonKind.SESSION_CLOSED
            return [Reason(kind=kind, job_id=job_id, text=text, then=then)]
        decision = self._decisions.get(job_id)
        if decision is not None:
            return [*self._decided(job_id, decision)]
        return [*self._queued(job_id)] if status is JobStatus.QUEUED else []

    def _decided(self, job_id: str, decision: Decision) -> Iterator[Reason]:
        match decision:
            case Start():
                yield self._runnable(job_id)
            case Hold():
                reasons = (decision.reason, *decision.also)
                others = [
                    self._hold(job_id, each) for each in reasons if each is not HoldReason.PAUSED
                ]
                yield from others
                yield from self._paused(job_id, others)
            case Skip():
                then = "the scheduler marks it SKIPPED at its next tick"
                yield self._blocked(job_id, decision.reason, then)
            case Expire():
                yield Reason(
                    kind=ReasonKind.EXPIRED,
                    job_id=job_id,
                    text=decision.reason,
                    then="the scheduler marks it EXPIRED at its next tick",
                )
            case Cancel():  # of what runs: see `_running`
                return
            case _:
                assert_never(decision)

    def _runnable(self, job_id: str) -> Reason:
        ended = [
            self._facts.clock.market_time(latest.completed_at)
            for upstream in self._dag.jobs[job_id].dependencies
            if (latest := self._latest(upstream)) is not None and latest.completed_at is not None
        ]
        return Reason(
            kind=ReasonKind.RUNNABLE,
            job_id=job_id,
            text="nothing keeps it from starting",
            then="the scheduler starts it at its next tick",
            since=min(self._now, max([self._waits_since(job_id), *ended])),
            market_time=True,
        )

    def _hold(
        self,
        job_id: str,
        reason: Literal[HoldReason.WINDOW, HoldReason.UPSTREAM, HoldReason.PREVIOUS],
    ) -> Reason:
        match reason:
            case HoldReason.WINDOW:
                return self._before_window(job_id)
            case HoldReason.UPSTREAM:
                waiting = self._waited_for(job_id)
                named = [f"{each} ({self._status[each]})" for each in waiting]
                ends = [self._ends[each] for each in waiting if each in self._ends]
                until = max(ends) if ends and len(ends) == len(waiting) else None
                then = "it starts when all of them have succeeded"
                return Reason(
                    kind=ReasonKind.UPSTREAM,
                    job_id=job_id,
                    text=f"it waits for {_listed(named)}",
                    then=f"{then}, by then if they take as long as usual" if until else then,
                    since=self._waits_since(job_id),
                    until=until,
                    market_time=True,
                    refers_to=self._refs(waiting),
                )
            case HoldReason.PREVIOUS:
                before = (self._run.previous or {})[job_id]
                dag_id = self._facts.previous_run or ""
                return Reason(
                    kind=ReasonKind.PREVIOUS,
                    job_id=job_id,
                    text=f"it waits for itself in the previous session, where it is {before}",
                    then=f"why that is so: prometheus why {dag_id} {job_id}",
                    since=self._waits_since(job_id),
                    until=self._ends_running(job_id, self._facts.previous.get(job_id)),
                    market_time=True,
                    refers_to=(JobRef(dag_id, job_id),),
                )
            case _:
                assert_never(reason)

    def _paused(self, job_id: str, others: list[Reason]) -> Iterator[Reason]:
        """Yield all that pauses a job, beside others that keep it; what ends last comes last."""
        found = pauses_of(self._pauses, self._dag, self._dag.jobs[job_id])
        for pause in found:
            starts = pause is found[-1] and all(self._is_over(each, pause) for each in others)
            yield _paused(pause, job_id, starts=starts)

    def _is_over(self, other: Reason, pause: Pause) -> bool:
        """Say whether something certainly keeps a job no longer than a pause does."""
        if other.kind not in _ENDS_BY_TIME or other.until is None or pause.until is None:
            return False
        end = self._facts.clock.market_time(pause.until) if other.market_time else pause.until
        return other.until <= end

    def _expected_end(self, job_id: str) -> datetime | None:
        """Say when, in market time, a job ends that takes as long as usual, if that is known."""
        usual = self._facts.usual.get(job_id)
        own = self._own(job_id)
        if usual is None or self._status[job_id] in FINAL or not own:
            return None
        if self._run.jobs[job_id].status is JobStatus.RUNNING:
            as_ever = [each.kind for each in own] == [ReasonKind.RUNNING]
            return self._ends_running(job_id, self._latest(job_id)) if as_ever else None
        # A sensor takes as long as what it waits for.
        if self._nobody_acts or not self._serving or self._dag.jobs[job_id].sensor is not None:
            return None
        clock, begins = self._facts.clock, self._now
        for reason in own:
            if reason.kind in _AT_ONCE and not (reason.wrong or reason.refers_to):
                continue
            if reason.kind not in _ENDS_BY_ITSELF or reason.until is None:
                return None
            until = reason.until if reason.market_time else clock.market_time(reason.until)
            begins = max(begins, until)
        end = begins + usual * clock.speed
        return end if end > self._now else None

    def _ends_running(self, job_id: str, attempt: Execution | None) -> datetime | None:
        """Say when, in market time, an attempt usually ends, if it runs and that is to come."""
        usual = self._facts.usual.get(job_id)
        if attempt is None or attempt.status is not JobStatus.RUNNING or usual is None:
            return None
        if attempt.started_at is None or attempt.started_at + usual <= self._wall_at:
            return None
        end = self._facts.clock.market_time(attempt.started_at + usual)
        return end if end > self._now else None

    def _before_window(self, job_id: str) -> Reason:
        return _window_to_come(
            self._dag.jobs[job_id],
            self._window(job_id).opens_at,
            self._dag.as_of_date,
            self._facts.calendar,
            since=self._opened_at,
        )

    def _blocked(self, job_id: str, text: str, then: str, since: datetime | None = None) -> Reason:
        blocking = self._waited_for(job_id)
        return Reason(
            kind=ReasonKind.UPSTREAM_FAILED,
            job_id=job_id,
            text=text,
            then=then,
            since=since,
            refers_to=self._refs(blocking),
        )

    # --- what was handed out --------------------------------------------------------------------

    def _queued(self, job_id: str) -> Iterator[Reason]:
        latest = self._attempt(job_id)
        due_at = latest.scheduled_at
        delayed = due_at is not None and due_at > self._wall_at
        paused = pauses_of(self._pauses, self._dag, self._dag.jobs[job_id])
        if not (delayed or paused):
            yield from self._in_queue(job_id, latest)
            return
        others = [self._delayed(job_id, latest, due_at)] if delayed and due_at is not None else []
        if not self._serving:
            # While nothing is due, there may be none on purpose.
            others.append(self._unserved(job_id, latest, wrong=not delayed))
        yield from self._paused(job_id, others)
        yield from others

    def _delayed(self, job_id: str, latest: Execution, due_at: datetime) -> Reason:
        before = self._before(job_id)
        since = before.completed_at if before is not None else None
        if before is not None and before.status is JobStatus.SUCCESS:
            return self._polling(job_id, before, due_at)
        job = self._dag.jobs[job_id]
        told = f"attempt {latest.attempt_number} is due at {_at(due_at)}"
        if latest.retries:
            told += f", retry {latest.retries} of {job.max_retries}"
        if before is not None and since is not None:
            told += (
                f": attempt {before.attempt_number} {before.status} at {_at(since)}, "
                f"{_shortened(before.error)}"
            )
        return Reason(
            kind=ReasonKind.RETRY,
            job_id=job_id,
            text=told,
            then="a message for it is sent when it is due",
            since=since,
            until=due_at,
        )

    def _polling(self, job_id: str, before: Execution, due_at: datetime) -> Reason:
        found = before.result if isinstance(before.result, dict) else {}
        answer = str(found.get("state", Readiness.NOT_YET)).replace("_", " ")
        why = f", {_shortened(str(found['why']))}" if found.get("why") else ""
        told = f" at {_at(before.completed_at)}" if before.completed_at else ""
        rule = self._dag.jobs[job_id].sensor
        gives_up_at = None
        if self._bounds is not None:
            gives_up_at = self._bounds.gives_up_at(self._dag.jobs[job_id])
        then = ""
        if rule is not None and gives_up_at is not None:
            then = f"it gives up at {_at(gives_up_at)}; then: {rule.otherwise}"
        return Reason(
            kind=ReasonKind.POLLING,
            job_id=job_id,
            text=f"it is asked again at {_at(due_at)}; its answer to poll "
            f"{before.attempt_number}{told} was {answer}{why}",
            then=then,
            since=before.completed_at,
            until=due_at,
        )

    def _in_queue(self, job_id: str, latest: Execution) -> Iterator[Reason]:
        at_work = self._facts.at_work
        leads = at_work.leader is not None and at_work.leader.expires_at > self._wall_at
        lost_at = at_work.leader.broker_lost_at if at_work.leader and leads else None
        if lost_at is not None or at_work.broker_fault is not None:
            yield Reason(
                kind=ReasonKind.BROKER_AWAY,
                job_id=job_id,
                text=at_work.broker_fault or "the scheduler can not reach Redis",
                then="its message is sent, or sent again, when Redis answers",
                since=lost_at or latest.scheduled_at,
                wrong=True,
            )
        elif latest.published_at is None:
            due_at = latest.scheduled_at
            yield Reason(
                kind=ReasonKind.UNSENT,
                job_id=job_id,
                text="it is due, and its message has not been sent yet",
                then="the scheduler sends it within a tick or two",
                since=due_at,
                wrong=due_at is not None and self._wall_at - due_at > UNSENT_AFTER,
            )
        if not self._serving:
            yield self._unserved(job_id, latest)
        elif latest.published_at is not None and lost_at is None and not at_work.broker_fault:
            yield self._served(job_id, latest, latest.published_at, self._serving)

    @cached_property
    def _serving(self) -> list[Worker]:
        """Live workers of the run's queue."""
        return [
            each
            for each in self._facts.at_work.workers
            if self._dag.market_id in each.queues and each.expires_at > self._wall_at
        ]

    def _unserved(self, job_id: str, latest: Execution, *, wrong: bool = True) -> Reason:
        at_work, queue = self._facts.at_work, self._dag.market_id
        lapsed = [each for each in at_work.workers if queue in each.queues]
        before = ""
        since = latest.scheduled_at
        if lapsed:
            last = max(lapsed, key=lambda each: each.expires_at)
            before = f": the lease of {last.name} ended at {_at(last.expires_at)}"
            since = max(filter(None, [since, last.expires_at]))
        elif at_work.last_worker is not None:
            name, ended_at = at_work.last_worker
            before = f": the last one, {name}, ended at {_at(ended_at)}"
            since = max(filter(None, [since, ended_at]))
        return Reason(
            kind=ReasonKind.NO_WORKER,
            job_id=job_id,
            text=f"no worker serves the queue {queue}{before}",
            then=f"start one: prometheus worker {queue}",
            since=since if since is not None and since <= self._wall_at else None,
            wrong=wrong,
        )

    def _served(
        self, job_id: str, latest: Execution, published_at: datetime, serving: list[Worker]
    ) -> Reason:
        at_work = self._facts.at_work
        ahead = self._ahead(latest)
        before_it = f"; {_count(len(ahead), 'job')} before it in the queue" if ahead else ""
        names = {each.incarnation for each in serving}
        runs = [each for each in at_work.running if each.incarnation in names]
        idle = [each for each in serving if each.incarnation not in (at_work.busy or ())]
        if at_work.busy is not None and not idle:
            by, until = self._free_at(runs)
            return Reason(
                kind=ReasonKind.BUSY,
                job_id=job_id,
                text=f"the workers of its queue are busy with {self._named(runs)}{before_it}",
                then=f"it is taken when one of them has ended{by}",
                since=latest.scheduled_at,
                until=until,
                refers_to=tuple(each.job for each in runs),
            )
        heard = _listed([each.name for each in idle])
        if at_work.busy is not None and not ahead:
            # What waited before a worker came did not wait for it.
            waits_since = max(published_at, min(each.started_at for each in idle))
            if self._wall_at - waits_since > DEAF_AFTER:
                return Reason(
                    kind=ReasonKind.DEAF,
                    job_id=job_id,
                    text=f"{heard} has time, and does not take it",
                    then="a worker that hears nothing starts again by itself; if it does not, "
                    "restart it",
                    since=waits_since,
                    refers_to=tuple(each.job for each in runs),
                    wrong=True,
                )
        busy_with = f", which runs {self._named(runs)}" if runs else ""
        return Reason(
            kind=ReasonKind.IN_QUEUE,
            job_id=job_id,
            text=f"its message was sent at {_at(published_at)} to {heard}{busy_with}{before_it}",
            then="a worker takes it as soon as it has time",
            since=latest.scheduled_at,
            refers_to=tuple(each.job for each in ahead),
        )

    def _free_at(self, runs: list[Running]) -> tuple[str, datetime | None]:
        """Say by what the first of those that run is expected to end, and when."""
        usual = [each.started_at + each.usual for each in runs if each.started_at and each.usual]
        limits = [each.hard_limit_at for each in runs if each.hard_limit_at is not None]
        for by, ends in ((", as one usually has by then", usual), (", at its hard limit", limits)):
            to_come = [end for end in ends if end > self._wall_at]
            if to_come:
                return by, min(to_come)
        return "", None

    def _ahead(self, latest: Execution) -> list[Waiting]:
        """Return what waits in the queue and is taken before an execution."""
        waiting = self._facts.at_work.waiting
        mine = next((each for each in waiting if each.execution_id == latest.execution_id), None)
        return [each for each in waiting if mine is not None and each.goes_before(mine)]

    # --- what was started -----------------------------------------------------------------------

    def _running(self, job_id: str) -> Iterator[Reason]:
        latest = self._attempt(job_id)
        worker = self._worker(latest)
        lost = self._facts.orphans.get(latest.execution_id)
        if lost is not None:
            yield self._lost(job_id, latest, worker, lost)
            return
        if latest.cancel_asked_at is not None:
            late = latest.cancel_at is not None and latest.cancel_at <= self._wall_at
            limit = f"; it is killed at {_at(latest.cancel_at)}" if latest.cancel_at else ""
            yield Reason(
                kind=ReasonKind.ENDING,
                job_id=job_id,
                text=f"{latest.cancel_asked_by} asked it to end at {_at(latest.cancel_asked_at)}",
                then=f"it is CANCELLED when it ends{limit}",
                since=latest.cancel_asked_at,
                until=latest.cancel_at,
                wrong=late,
            )
        elif isinstance(decision := self._decisions.get(job_id), Cancel):
            yield Reason(
                kind=ReasonKind.ENDING,
                job_id=job_id,
                text=f"its run has had its time: {decision.by}",
                then="the scheduler asks it to end at its next tick",
            )
        if worker is not None and self._is_silent(worker):
            yield Reason(
                kind=ReasonKind.WORKER_SILENT,
                job_id=job_id,
                text=f"its worker {worker.name} was last heard of at {_at(worker.renewed_at)}",
                then=f"its lease ends at {_at(worker.expires_at)}; unless it is back by then, the "
                f"attempt is FAILED and the job tried again",
                since=worker.renewed_at,
                until=worker.expires_at,
                wrong=True,
            )
        yield self._at_it(job_id, latest)

    def _lost(self, job_id: str, latest: Execution, worker: Worker | None, message: str) -> Reason:
        limit = latest.hard_limit_at
        alive = worker is not None and worker.expires_at > self._wall_at
        if alive and limit is not None and limit <= self._wall_at:
            kind = ReasonKind.OVERDUE
            since: datetime | None = limit
        else:
            kind = ReasonKind.WORKER_LOST
            since = worker.expires_at if worker is not None and not alive else None
        return Reason(
            kind=kind,
            job_id=job_id,
            text=message,
            then="the scheduler makes the attempt FAILED, and the job is tried again unless too "
            "many of its workers were lost",
            since=since,
            wrong=True,
        )

    def _at_it(self, job_id: str, latest: Execution) -> Reason:
        started_at = latest.started_at
        usual = self._facts.usual.get(job_id)
        soft = started_at + latest.timeout if started_at is not None else None
        expected = started_at + usual if started_at is not None and usual is not None else None
        text = f"attempt {latest.attempt_number} runs on {latest.worker}"
        if usual is not None:
            text += f"; it usually takes {format_duration(usual)}"
        then = ""
        if soft is not None and soft > self._wall_at:
            then = f"if it has not ended, it times out at {_at(soft)}"
        elif latest.hard_limit_at is not None:
            then = f"it has timed out; its process is killed at {_at(latest.hard_limit_at)}"
        to_come = [
            each
            for each in (expected, soft, latest.hard_limit_at)
            if each is not None and each > self._wall_at
        ]
        return Reason(
            kind=ReasonKind.RUNNING,
            job_id=job_id,
            text=text,
            then=then,
            since=started_at,
            until=min(to_come, default=None),
            wrong=soft is not None and soft <= self._wall_at,
        )

    def _is_silent(self, worker: Worker) -> bool:
        lease = worker.expires_at - worker.renewed_at
        return self._wall_at - worker.renewed_at > lease / 2

    def _worker(self, latest: Execution) -> Worker | None:
        workers = self._facts.at_work.workers
        return next((each for each in workers if each.incarnation == latest.incarnation), None)

    # --- what has ended -------------------------------------------------------------------------

    def _ended(self, job_id: str) -> Reason:
        state, latest = self._run.jobs[job_id], self._attempt(job_id)
        said = _shortened(latest.error) or str(state.status)
        retry = f"prometheus retry {self._dag.dag_id} {job_id}"
        match state.status:
            case JobStatus.SUCCESS:
                return self._succeeded(job_id, latest)
            case JobStatus.SKIPPED:
                if self._waited_for(job_id):
                    then = "it runs when these are tried again and succeed"
                    return self._blocked(job_id, said, then, latest.completed_at)
                kind, then = ReasonKind.SKIPPED, f"to run it all the same: {retry}"
            case JobStatus.CANCELLED if state.dropped:
                kind, then = ReasonKind.SESSION_CLOSED, "it comes back if its session does"
            case JobStatus.CANCELLED:
                kind, then = ReasonKind.CANCELLED, f"to try it again: {retry}"
            case JobStatus.EXPIRED:
                kind, then = ReasonKind.EXPIRED, f"to run it all the same: {retry}"
            case _:
                kind, then = ReasonKind.FAILED, f"to try it again: {retry}"
                said = f"attempt {latest.attempt_number}: {said}"
        return Reason(kind=kind, job_id=job_id, text=said, then=then, since=latest.completed_at)

    def _succeeded(self, job_id: str, latest: Execution) -> Reason:
        text = f"it has succeeded, on attempt {latest.attempt_number}"
        if latest.started_at is not None and latest.completed_at is not None:
            text += f", in {format_duration(latest.completed_at - latest.started_at)}"
        if self._dag.jobs[job_id].sensor is not None and isinstance(latest.result, dict):
            text += f": {latest.result.get('state', Readiness.READY)}"
        return Reason(kind=ReasonKind.SUCCESS, job_id=job_id, text=text, since=latest.completed_at)

    # --- what is good to know besides -----------------------------------------------------------

    def _forced(self, job_id: str) -> Iterator[Reason]:
        state, latest = self._run.jobs[job_id], self._attempt(job_id)
        if state.forced:
            who = self._facts.asked_by or "an operator"
            yield Reason(
                kind=ReasonKind.FORCED,
                job_id=job_id,
                text=f"{who} asked for it: its window does not count",
                since=latest.created_at,
            )
        elif self._run.forced:
            why: dict[str, str] = {
                Trigger.CATCH_UP: "it catches up on a session that was missed",
                Trigger.BACKFILL: "a backfill asked for its run",
            }
            text = why.get(self._facts.trigger, "an operator asked for its run")
            turn = self._facts.turn
            if self._facts.trigger == Trigger.BACKFILL and turn is not None and turn.begun:
                text = f"{turn} asked for its run"
            yield Reason(
                kind=ReasonKind.FORCED,
                job_id=job_id,
                text=f"{text}: windows do not count",
                since=self._run.created_at,
            )

    def _backfilled(self) -> Iterator[Reason]:
        """Yield which backfill has begun a run that is open."""
        turn = self._facts.turn
        if turn is not None and turn.begun and turn.refused is None:
            yield Reason(
                kind=ReasonKind.FORCED, text=f"{turn} asked for its run: windows do not count"
            )

    def _turn(self) -> Iterator[Reason]:
        """Yield when a backfill runs it again."""
        turn = self._facts.turn
        if turn is not None and not turn.begun:
            yield from _turn_to_come(turn)

    def _limits(self, job_id: str) -> Iterator[Reason]:
        """Yield until when a job that has not started may do so."""
        state, job = self._run.jobs[job_id], self._dag.jobs[job_id]
        decision = self._decisions.get(job_id)
        if self._bounds is None or isinstance(decision, Expire | Skip):
            return
        if state.status not in (JobStatus.PENDING, JobStatus.QUEUED):
            return
        closes_at = self._window(job_id).closes_at
        then = "if it has not started by then, it is EXPIRED and what depends on it SKIPPED"
        if not (self._run.forced or state.forced) and closes_at > self._now:
            following = self._bounds.next_phases
            special = _special(self._facts.calendar, following.session_date) if following else ""
            moved = (
                f"; next session {following.session_date}{special}" if following and special else ""
            )
            yield Reason(
                kind=ReasonKind.LIMIT,
                job_id=job_id,
                text=f"its window closes at {_at(closes_at)}{moved}",
                then=then,
                until=closes_at,
                market_time=True,
            )
        timeout = start_timeout(
            self._dag,
            job,
            created_at=self._run.created_at,
            scheduled_at=state.scheduled_at if state.status is JobStatus.QUEUED else None,
            forced=state.forced,
        )
        if timeout is not None and self._times_out:
            yield Reason(
                kind=ReasonKind.LIMIT,
                job_id=job_id,
                text=f"it may wait until {_at(timeout.at)}",
                then=f"{then}: {timeout.reason}",
                until=timeout.at,
            )

    # --- looking up -----------------------------------------------------------------------------

    def _window(self, job_id: str) -> Window:
        if self._bounds is None:
            raise LookupError(f"{self._dag.dag_id} has no session, and so no windows")
        return self._bounds.window(self._dag.jobs[job_id])

    def _waits_since(self, job_id: str) -> datetime:
        """Return, in market time, since when nothing but other jobs keeps one from starting."""
        if self._run.jobs[job_id].forced:
            made_at = self._facts.clock.market_time(self._attempt(job_id).created_at)
            return min(made_at, self._now)
        if self._run.forced:
            return self._opened_at
        return min(max(self._opened_at, self._window(job_id).opens_at), self._now)

    @cached_property
    def _opened_at(self) -> datetime:
        """Since when there is the run: where it was made before it was due, since then."""
        if self._facts.opens_at <= self._now or self._run.created_at is None:
            return min(self._facts.opens_at, self._now)
        return min(self._facts.clock.market_time(self._run.created_at), self._now)

    def _latest(self, job_id: str) -> Execution | None:
        return next(iter(self._facts.executions.get(job_id, ())[-1:]), None)

    def _attempt(self, job_id: str) -> Execution:
        return self._facts.executions[job_id][-1]

    def _before(self, job_id: str) -> Execution | None:
        return next(iter(self._facts.executions[job_id][-2:-1]), None)

    def _refs(self, job_ids: Iterable[str]) -> tuple[JobRef, ...]:
        return tuple(JobRef(self._dag.dag_id, job_id) for job_id in job_ids)

    def _named(self, runs: list[Running]) -> str:
        return _listed(
            [
                each.job.job_id
                if each.job.dag_id == self._dag.dag_id
                else f"{each.job.job_id} of {each.job.dag_id}"
                for each in runs
            ]
        )


def _essence(reason: Reason) -> tuple[object, ...]:
    return reason.kind, reason.text, reason.until


def _nobody_acts(at_work: AtWork, market_id: str) -> Iterator[Reason]:
    """Yield why no scheduler does anything for a market."""
    leader = at_work.leader
    if not at_work.enabled:
        yield Reason(
            kind=ReasonKind.MARKET_DISABLED,
            text=f"this installation does not work for {market_id}",
            then="name it in markets.enabled of the settings; `prometheus config show` has them",
            wrong=True,
        )
    if at_work.locked:
        yield Reason(
            kind=ReasonKind.DATABASE_LOCKED,
            text="another transaction holds the database, perhaps that of a job inside "
            "ctx.transaction(): nothing is started meanwhile",
            then="it goes on when that has ended",
            wrong=True,
        )
    elif leader is None or leader.expires_at <= at_work.wall_at:
        before = f" (the last one: {leader.process})" if leader is not None else ""
        yield Reason(
            kind=ReasonKind.NO_SCHEDULER,
            text=f"no scheduler is running{before}: nothing starts by itself",
            then="start one: prometheus up, or prometheus beat",
            since=leader.expires_at if leader is not None else None,
            wrong=True,
        )
    elif leader.ticked_at is not None and at_work.wall_at - leader.ticked_at > at_work.silent_after:
        yield Reason(
            kind=ReasonKind.SCHEDULER_SILENT,
            text=f"the scheduler {leader.process} leads, and has completed no tick since "
            f"{_at(leader.ticked_at)}",
            then="its log says what it is at; a standby takes over when it is ended",
            since=leader.ticked_at,
            wrong=True,
        )


def _paused(pause: Pause, job_id: str | None = None, *, starts: bool = True) -> Reason:
    """Say what pauses; whether what it keeps starts when it ends, or waits for more than that."""
    if pause.dag_id is None:
        named = (("--pipeline", pause.pipeline), ("--market", pause.market_id))
        target = " ".join(f"{option} {name}" for option, name in named if name)
        end = f"prometheus resume {target}"
    else:
        end = f"prometheus release {pause.dag_id} {pause.job_id}"
    return Reason(
        kind=ReasonKind.PAUSED,
        job_id=job_id,
        text=f"paused: {pause}",
        then=f"it starts when that ends: {end}"
        if starts
        else f"it waits for more than that; to end it: {end}",
        since=pause.since,
        until=pause.until,
    )


def _turn_to_come(turn: Turn) -> Iterator[Reason]:
    does = "runs it again" if turn.again else "makes its run"
    yield Reason(
        kind=ReasonKind.BACKFILL,
        text=f"{turn} {does} when its turn comes: {_count(turn.ahead, 'session')} before it, "
        f"{turn.active} of at most {_count(turn.max_active_runs, 'run')} open",
        then=f"its turn comes as runs of the backfill end: prometheus backfill show "
        f"{turn.backfill_id}",
    )
    if turn.pause is not None:
        yield _paused(turn.pause)


def _market_held(market_id: str, why: str) -> Reason:
    return Reason(
        kind=ReasonKind.MARKET_HELD,
        text=f"nothing is decided for {market_id}: {why}",
        then="it goes on by itself when its calendar has an answer",
        wrong=True,
    )


def _at(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"


def _listed(names: list[str]) -> str:
    shown = names[:_MOST_NAMED]
    left = len(names) - len(shown)
    return ", ".join([*shown, f"and {left} more"] if left else shown)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _shortened(text: str | None) -> str:
    told = text or ""
    return told if len(told) <= _LONGEST_ERROR else f"{told[:_LONGEST_ERROR]}..."


def _window_to_come(
    job: JobMetadata,
    opens_at: datetime,
    day: date,
    calendar: TradingCalendar | None,
    *,
    since: datetime | None = None,
) -> Reason:
    state = job.required_state
    event = job.start.event if job.start is not None else _EVENT[state]
    opener = f"with {state or MarketState.PRE_OPEN} of its session"
    if job.start is not None:
        opener = f"{job.start} of its session" + (f", not before {state}" if state else "")
    return Reason(
        kind=ReasonKind.WINDOW,
        job_id=job.job_id,
        text=f"its window opens at {_at(opens_at)}, {opener}{_special(calendar, day, event)}",
        then="it starts then, if the jobs it depends on have succeeded",
        since=since,
        until=opens_at,
        market_time=True,
    )


def _special(calendar: TradingCalendar | None, day: date, event: str = _OPEN) -> str:
    """Say what is special about a session's open or close, and which overrides made it so."""
    if calendar is None:
        return ""
    session = calendar.session(day)
    words, other = ["late open"] * session.late_open, OverrideKind.EARLY_CLOSE
    if event != _OPEN:
        words, other = ["early close"] * session.early_close, OverrideKind.LATE_OPEN
    overrides = [each for each in calendar.overrides_on(day) if each.kind is not other]
    if overrides:
        words += [f"override {each.override_id}: {each.reason}" for each in overrides]
    elif words and session.reason:
        words.append(session.reason)
    return f" ({', '.join(words)})" if words else ""


# --- of a run that is not there -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmade:
    """A run that is not there, and what decides whether it will be."""

    pipeline: Pipeline
    market_id: str
    session_date: date
    at_work: AtWork
    calendar: TradingCalendar | None
    """Of its market; ``None`` where it can not be read."""
    held: str | None
    """Why it can not."""
    existing: Collection[date]
    """Session dates that have a run, as `plan_runs` asks for them."""
    first_seen_at: datetime | None
    """When the database first saw the pipeline, in market time; ``None`` if it never did."""
    only: SessionRange | None
    """The sessions that a replay is bound to."""
    makes_runs: bool
    """Whether sessions make runs here, or operators alone."""
    turn: Turn | None
    """Of the last backfill that was to make it."""


def explain_unmade(run: Unmade, job_id: str | None, now: datetime) -> tuple[Reason, ...]:
    """
    Say why a run is not there, and when it will be.

    Args:
        run: A pipeline, a market and a session date.
        job_id: A job of it, to say also when that could start.
        now: Market time, aware UTC.
    """
    around = _nobody_acts(run.at_work, run.market_id)
    if run.calendar is None:
        return (*around, _market_held(run.market_id, run.held or ""))
    try:
        return (*around, *_unmade(run, run.calendar, job_id, now))
    except HorizonError as error:
        return (*around, _market_held(run.market_id, str(error)))


def _unmade(
    run: Unmade, calendar: TradingCalendar, job_id: str | None, now: datetime
) -> Iterator[Reason]:
    day, pipeline = run.session_date, run.pipeline
    by_hand = f"to make it all the same: prometheus run {run.market_id} --date {day}"
    by_hand += f" --pipeline {pipeline.name}"
    turn = run.turn
    if turn is not None and not turn.begun:
        yield from _turn_to_come(turn)
        if calendar.is_trading_day(day):
            return
    elif turn is not None and turn.refused is not None:
        yield Reason(kind=ReasonKind.BACKFILL, text=f"{turn} could not run it: {turn.refused}")
    never = _why_never(run, calendar)
    if never is not None:
        then = by_hand if calendar.is_trading_day(day) else ""
        yield Reason(kind=ReasonKind.NEVER_MADE, text=never, then=then)
        return
    dag = pipeline.dag(run.market_id, day)
    opens_at = run_opens_at(calendar.phases(day), dag)
    if opens_at > now:
        yield Reason(
            kind=ReasonKind.NOT_MADE,
            text=f"its run is made when it opens, at {_at(opens_at)}{_special(calendar, day)}",
            then="its jobs start as their windows open and the jobs they depend on succeed",
            until=opens_at,
            market_time=True,
        )
    else:
        yield _overdue_run(run, calendar, opens_at, by_hand, now)
    if job_id is None:
        return
    window = session_bounds(calendar, day).window(dag.jobs[job_id])
    if window.opens_at > now:
        yield _window_to_come(dag.jobs[job_id], window.opens_at, day, calendar)


def _why_never(run: Unmade, calendar: TradingCalendar) -> str | None:
    """Say why no run is made of a session; ``None`` if one is."""
    day, pipeline = run.session_date, run.pipeline
    if not calendar.is_trading_day(day):
        return f"{run.market_id} has no session on {day}: {why_closed(calendar, day)}"
    if run.only is not None and not run.only.first <= day <= run.only.last:
        return f"this replay is of the sessions {run.only.first} to {run.only.last}"
    if not pipeline.sessions.includes(calendar, day):
        return f"{pipeline.name} runs on {pipeline.sessions.words}, of which {day} is none"
    if not run.makes_runs:
        return "only operators make runs here: scheduler.create_runs is false"
    return None


def _overdue_run(
    run: Unmade, calendar: TradingCalendar, opens_at: datetime, by_hand: str, now: datetime
) -> Reason:
    """Say what becomes of a run that could have been made; the scheduler's own plan knows."""
    first_seen_at = run.first_seen_at or now
    planned = plan_runs(
        run.pipeline,
        calendar,
        run.market_id,
        existing=run.existing,
        first_seen_at=first_seen_at,
        now=now,
        only=run.only,
    )
    mine = next((each for each in planned if each.dag.as_of_date == run.session_date), None)
    if mine is None:
        seen = f"this database first saw {run.pipeline.name} at {_at(first_seen_at)}"
        return Reason(
            kind=ReasonKind.NEVER_MADE,
            text=f"{seen}, and its windows had closed by then; or it was there, and was pruned",
            then=by_hand,
        )
    return Reason(
        kind=ReasonKind.NOT_MADE,
        text=mine.missed or f"it opened at {_at(opens_at)}, and has not been made yet",
        then="the scheduler makes it within a minute"
        + (", FAILED, with all its jobs EXPIRED" if mine.missed else ""),
        since=opens_at,
        market_time=True,
    )
