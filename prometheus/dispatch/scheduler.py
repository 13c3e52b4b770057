"""
The scheduler: decide, claim, publish; and, at each tick, everything that time alone changes.

Two things come here: the beat at each tick, for all open runs, and a worker whose job has just
reached a final state, for its own run: after a success, for what can follow.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from prometheus.core.horizons import HorizonLevel, horizon_level
from prometheus.core.markets import get_market
from prometheus.core.overrides import in_force
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch import figures
from prometheus.dispatch.attempts import Attempts
from prometheus.dispatch.canary import Cage, Canaries
from prometheus.dispatch.names import LEADERSHIP
from prometheus.dispatch.open_runs import READ_ALL_EVERY, OpenRuns
from prometheus.dispatch.publisher import BrokerUnavailableError, Mark, failure_task_id
from prometheus.errors import PrometheusError
from prometheus.orchestration.dag import DAG, JobMetadata, dag_id_for, start_order
from prometheus.orchestration.decisions import (
    Cancel,
    Decision,
    Expire,
    Hold,
    RunState,
    Skip,
    Snapshot,
    Start,
    decide,
    next_instant,
    next_timeout,
)
from prometheus.orchestration.following import follow, is_behind
from prometheus.orchestration.lifecycle import FINAL, LIVE, JobStatus, RunStatus, Trigger
from prometheus.orchestration.pauses import Pause
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.planning import REACH, next_opening, plan_runs, session_bounds
from prometheus.orchestration.windows import SessionBounds
from prometheus.persistence import (
    backfills,
    clock,
    executions,
    following,
    leases,
    overrides,
    run_changes,
    runs,
)
from prometheus.persistence.clock import Now, read_now
from prometheus.persistence.engine import (
    each_alone,
    is_contended,
    is_unavailable,
    reading,
    writing,
)
from prometheus.persistence.executions import (
    Attempt,
    Beside,
    Following,
    News,
    NotOurs,
    Publication,
    Succeeded,
)
from prometheus.persistence.glance import Glance, glance
from prometheus.persistence.operators import CANCEL_GRACE
from prometheus.persistence.pauses import read_pauses

log = logging.getLogger(__name__)

SENT_AT_ONCE = 250
"""Executions that are claimed, and whose messages are sent, in one round trip."""
BEGUN_AT_ONCE = 10
"""Sessions of backfills that one tick begins: live runs do not wait for more than these."""
GIVEN_UP_FOR = timedelta(hours=1)
"""How long the mark names a worker that was given up: one that stood still with its whole machine
may wake that late, still cut off."""


class LeadLostError(PrometheusError):
    """The lead has passed on, or its lease has run out, while this leader was in its tick."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        super().__init__(f"the lead of epoch {epoch} does not hold any more")


class Broker(Cage, Protocol):
    """What the scheduler asks of the message broker."""

    def publish(self, publications: Sequence[Publication]) -> None: ...

    def announce_failures(self, failures: Sequence[Publication]) -> None: ...

    def waiting_ids(self, queues: Iterable[str]) -> set[str]: ...

    def leave_mark(self, mark: Mark) -> None: ...

    def read_mark(self, *, within: timedelta | None = None) -> Mark | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often the scheduler does what; all of it wall time."""

    max_wait: timedelta = timedelta(seconds=3)
    """Longest pause between two ticks."""
    jump_wait: timedelta = timedelta(milliseconds=50)
    """Pause between two ticks of a replay that jumps."""
    lease: timedelta = timedelta(seconds=10)
    """How long a leader that says nothing keeps the lead."""
    worker_lease: timedelta = timedelta(seconds=30)
    """How long a database must have been reachable before anybody is rescued; the scheduler's mark
    must have been in the broker for a quarter of it."""
    plan_every: timedelta = timedelta(seconds=60)
    """How often missing runs are looked for; and at each opening."""
    publish_after: timedelta = timedelta(seconds=1)
    """A due execution without a message is left this long to whoever claimed it."""
    reconcile_every: timedelta = timedelta(seconds=30)
    reconcile_after: timedelta = timedelta(seconds=10)
    """Rows due for less are not looked for in the broker."""
    ring_again_after: timedelta = timedelta(seconds=25)
    """After which a message that is in no list is repeated, however often it was. With the interval
    and a pause between two ticks, less than a minute."""
    ring_again_at_most: timedelta = timedelta(minutes=10)
    """Of an ``on_failure`` that nobody takes, whose repetitions double."""
    canary_every: timedelta = timedelta(seconds=30)
    """How often a deaf queue is looked for; it is said at the second look at the latest."""
    told_for: timedelta = timedelta(seconds=2)
    """How long a worker that was given up has been named in the mark before what it ran is started
    again: it looks there every half second."""
    rescue_every: timedelta = timedelta(seconds=1)
    """How often, at most, orphans are looked for."""
    tell_failures_for: timedelta = timedelta(days=1)
    """How old a final failure may be when ``on_failure`` is called for it."""
    backfill_wait: timedelta = timedelta(seconds=1)
    """Longest pause between two ticks while there is a backfill, whose next run waits for one."""
    over_limit_by: timedelta = timedelta(seconds=60)
    """How long after its hard limit an execution is given up."""


@dataclass(frozen=True, slots=True)
class Advanced:
    """What one pass over the open runs did."""

    claimed: int = 0
    lost_claims: int = 0
    """Starts that somebody else had claimed first, or that were no longer possible."""
    next_at: datetime | None = None
    """Market time at which time alone next changes a decision."""
    next_wall_at: datetime | None = None
    """Wall time at which it does."""
    busy: bool = False
    """Whether anything is queued or running, or was just claimed."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What one pass over open runs goes by, as of one moment."""

    now: Now
    states: Sequence[RunState]
    paused: tuple[Pause, ...]
    due: datetime | None
    """The first wall time from then on at which an execution without a message is due."""


@dataclass(frozen=True, slots=True)
class _Told:
    """An ``on_failure`` that was asked for."""

    again_at: datetime
    """When to ask again, if it has not been called and no message for it waits."""
    count: int


class Scheduler:
    """One scheduler of one process; any number may work at once."""

    def __init__(
        self,
        engine: Engine,
        broker: Broker,
        attempts: Attempts,
        pipelines: Mapping[str, Pipeline],
        *,
        markets: frozenset[str],
        owner: str,
        pace: Pace = Pace(),
        election: bool = True,
        create_runs: bool = True,
    ) -> None:
        """
        Args:
            engine: The database.
            broker: Where claimed executions are published.
            attempts: Fails orphans.
            pipelines: By name; their runs are created.
            markets: Those this installation works for; others' sessions make no runs.
            owner: Unique name of this process, for the leader's lease.
            pace: How often it does what.
            election: Whether only the leader ticks; without it, every scheduler does.
            create_runs: Whether sessions make runs; without it, only those that operators make.
        """
        self._engine = engine
        self._broker = broker
        self._attempts = attempts
        self._pipelines = pipelines
        self._markets = markets
        self._owner = owner
        self._pace = pace
        self._election = election
        self._create_runs = create_runs
        self._open = OpenRuns(markets, self._previous_run)
        self._leads: bool | None = None
        self._epoch: int | None = None
        self._plan_at: datetime | None = None
        self._opening_at: datetime | None = None
        self._seen: set[tuple[str, str]] = set()
        self._planned_until: dict[tuple[str, str], date] = {}
        self._reconcile_at: datetime | None = None
        self._rescue_at: datetime | None = None
        self._canaries = Canaries(broker)
        self._canaries_at: datetime | None = None
        self._not_rescued: set[str] = set()
        self._not_backfilled: set[int] = set()
        self._told: dict[str, _Told] = {}
        self._overrides: int | None = None
        self._reopens = False
        self._broker_away = False
        self._broker_lost_at: datetime | None = None
        self._warned: dict[str, tuple[HorizonLevel, date]] = {}
        self._marked_since: datetime | None = None
        self._named: frozenset[str] = frozenset()
        self._named_since: datetime | None = None
        self._other_mark: Mark | None = None
        self._reachable_since: datetime | None = None
        self._reached_at: datetime | None = None
        self._ticked_at: datetime | None = None
        self.totals: dict[str, int] = defaultdict(int)
        """Counts of what this scheduler did: ticks, `figures.ACTS`, and how long ticks took."""
        self._before: Mapping[str, int] = {}
        """What those that led before did."""

    # --- one run, or all of them -----------------------------------------------------------------

    def advance(self, dag_id: str | None = None) -> Advanced:
        """
        Decide, claim and publish.

        Args:
            dag_id: One run; all open runs if not given.
        """
        if dag_id is None:
            return self._advance_open(self._look())
        self._broker_away = False
        return self._advance(self._look_at(dag_id), alone=True)

    def _advance_open(self, look: _Look) -> Advanced:
        # What a worker advances is brought to its calendar by whoever leads.
        if behind := self._follow_calendars(look.states):
            look = self._look()
            self._open.note(behind)  # one that could not be brought is tried again
        total = self._advance(look, alone=False)
        known = self._open.sums()
        return replace(
            total,
            next_at=known.next_at,
            next_wall_at=_earlier(total.next_wall_at, known.next_wall_at),
            busy=total.busy or known.live,
        )

    def _advance(self, look: _Look, *, alone: bool) -> Advanced:
        now, states, paused, due = look.now, look.states, look.paused, look.due
        total = Advanced(next_wall_at=due + self._pace.publish_after if due else None)
        by_market: dict[str, list[RunState]] = defaultdict(list)
        for state in states:
            by_market[state.dag.market_id].append(state)
        for market_id in sorted(by_market.keys() & self._markets):
            try:
                done = self._advance_market(by_market[market_id], now, paused, alone=alone)
            except Exception as error:  # one market's trouble never delays another's
                if _ends_tick(error):
                    raise
                _say("market_held", error, market=market_id)
                total = replace(total, busy=True)
                continue
            total = Advanced(
                total.claimed + done.claimed,
                total.lost_claims + done.lost_claims,
                next_wall_at=total.next_wall_at,
                busy=total.busy or done.busy,
            )
        if total.claimed and self._broker_away:
            sent_at = now.wall_at + self._pace.publish_after
            total = replace(total, next_wall_at=_earlier(total.next_wall_at, sent_at))
        self.totals["claimed"] += total.claimed
        self.totals["lost_claims"] += total.lost_claims
        return total

    def decide_after(self, attempt: Attempt) -> Following | Beside | None:
        """
        Decide what starts with the success of an attempt, which is not written yet.

        Returns:
            What starts, where that is for this job alone to say, or what else that waits for;
            ``None`` where more has to be known than this process knows: `advance_after` decides.
        """
        dag, job_id = attempt.dag, attempt.job.job_id
        following = dag.waiting_for(job_id)
        if not following:
            return Beside(None)
        if any(each.sensor is not None for each in following):
            return None
        others = frozenset.intersection(*(frozenset(each.dependencies) for each in following))
        if others := others - {job_id}:
            return Beside(others)
        if (
            dag.market_id not in self._markets
            or dag.has_timeouts
            or any(each.after_previous or len(each.dependencies) > 1 for each in following)
        ):
            return None
        try:
            known, version = in_force().latest, TradingCalendar(dag.market_id).version
            bounds = _bounds_of(dag)
            windows = {bounds.window(each) for each in following}
        except PrometheusError:
            return None  # is said where its market is worked on
        except Exception as error:  # noqa: BLE001  the success is written whatever goes wrong
            _say("not_decided_at_once", error, dag=dag.dag_id)
            return None
        if version != attempt.calendar_version or len(windows) > 1:
            return None
        job_ids = tuple(each.job_id for each in sorted(following, key=start_order))
        return Following(dag, job_ids, windows.pop(), version, known)

    def advance_after(self, dag: DAG, job_id: str, done: Succeeded) -> None:
        """
        Publish what was claimed with a job's success; decide, claim and publish what else follows.

        That costs what waits for the job, whatever else its run has. Where there is more to do than
        to start what waited for it, `advance` does it.

        Args:
            done: What `decide_after` led to.
        """
        self._broker_away = False
        self._publish(done.claimed, noted=True)
        self.totals["claimed"] += len(done.claimed)
        if not (done.decided or self._start_following(dag, job_id)):
            self.advance(dag.dag_id)

    def _start_following(self, dag: DAG, job_id: str) -> bool:
        """Start what waited for a job, if it can; say whether that is all that there is to do."""
        following = dag.waiting_for(job_id)
        if any(each.sensor is not None for each in following):
            return False
        if all(len(each.dependencies) > 1 for each in following):
            # Most often others of them are not through. Who looks has committed its own end, so of
            # two last ones the later finds both.
            others = {up for each in following for up in each.dependencies} - {job_id}
            with each_alone(self._engine, reads=True) as connection:
                unfinished: Mapping[str, JobStatus] | None = {}
                if following:
                    unfinished = runs.unfinished_beside(connection, dag.dag_id, job_id, others)
                if unfinished is None:
                    return False
                following = [
                    each for each in following if unfinished.keys().isdisjoint(each.dependencies)
                ]
                if not following:
                    # Whatever is live looks again when it ends. What waits for nothing live may be
                    # about to be skipped by somebody who does not know yet that this one has ended.
                    return not LIVE.isdisjoint(unfinished.values()) or runs.any_live(
                        connection, dag.dag_id
                    )
        known = in_force().latest
        try:
            bounds = _bounds_of(dag)
        except PrometheusError:
            return False
        with self._writing() as connection:
            # So that no operator gives what they wait for another attempt meanwhile. In a statement
            # of its own: the next one sees what was committed before the lock was granted.
            runs.lock_runs(connection, [dag.dag_id])
            decided = self._decide_following(connection, dag, following, known, bounds)
            if decided is None:
                return False
            starts, now = decided
            claimed = executions.claim(connection, starts, now, to_send=True)
        self._publish(claimed, noted=True)
        self.totals["claimed"] += len(claimed)
        return True

    def _decide_following(
        self,
        connection: Connection,
        dag: DAG,
        following: Sequence[JobMetadata],
        known: int,
        bounds: SessionBounds,
    ) -> tuple[list[Start], Now] | None:
        """
        Decide for some jobs of a run.

        Args:
            known: The last override that the bounds go by.
            bounds: Of its session.

        Returns:
            What starts, and when that was decided; ``None`` where there is more to do.
        """
        if dag.market_id not in self._markets:
            return None
        jobs = [each.job_id for each in following]
        found = runs.read_following(connection, dag, jobs, self._previous_run)
        if found is None:
            return None
        now, state = found
        if now.latest_override != known:
            return None
        snapshot = Snapshot(
            (state,),
            {(dag.market_id, dag.as_of_date): bounds},
            now.wall_at,
            read_pauses(connection) if now.standing_pauses else (),
        )
        decisions = decide(snapshot, now.market_at, holds=False, jobs=jobs)
        starts = [decision for decision in decisions if isinstance(decision, Start)]
        over = all(state.jobs[name].status in FINAL for name in jobs)
        return None if over or len(starts) < len(decisions) else (starts, now)

    def _look_at(self, dag_id: str) -> _Look:
        """Look at one run, if it is open."""
        with reading(self._engine) as connection:
            now = read_now(connection)
            overrides.refresh(connection, now)
            states = runs.read_open_runs(connection, self._previous_run, dag_id=dag_id)
            paused = read_pauses(connection) if now.standing_pauses else ()
        # A worker that advances its own run does not wait for anything.
        return _Look(now, states, paused, due=None)

    def _look(self) -> _Look:
        """Look at all open runs that are due; without the lead, these are all open runs."""
        may_take = self._epoch is not None or not self._election
        while True:
            with reading(self._engine) as connection:
                now = read_now(connection)
                overrides.refresh(connection, now)
                news = executions.read_news(connection, self._due_by(now))
                look = self._look_in(connection, now, news, may_take=may_take)
            if look is not None:
                return look
            self._take_changes()
            # What was noted since then, the next tick takes; this one may well have read it.
            may_take = False

    def _due_by(self, now: Now) -> datetime:
        """Return since when a message must have been missing to be sent again."""
        return now.wall_at - self._pace.publish_after

    def _look_in(
        self, connection: Connection, now: Now, news: News, *, may_take: bool
    ) -> _Look | None:
        """
        Do what `_look` does in a transaction that sees the overrides that are in force.

        Returns:
            ``None``: there are changes that have to be taken first.
        """
        if news.noted and may_take:
            return None
        self._open.read(connection, now, self._epoch)
        paused = read_pauses(connection) if now.standing_pauses else ()
        return _Look(now, self._open.take_due(now, paused), paused, news.due)

    def _take_changes(self) -> None:
        more = True
        while more:
            try:
                with self._writing() as connection:
                    if self._epoch is None:
                        # Without election all is read at each tick; another may lead beside this.
                        run_changes.drop_unled(connection, LEADERSHIP, for_long=READ_ALL_EVERY)
                        return
                    changed, more = run_changes.take(connection)
            except BaseException:
                self._open.forget()  # they may be gone: nobody knows whether it was committed
                raise
            self._open.note(changed)

    def _follow_calendars(self, states: Sequence[RunState]) -> list[str]:
        """Bring runs to the calendars in force; return those that were to be brought."""
        behind: list[str] = []
        calendars: dict[str, TradingCalendar] = {}
        for state in states:
            market_id = state.dag.market_id
            if market_id not in self._markets:
                continue
            try:
                if market_id not in calendars:
                    calendars[market_id] = TradingCalendar(market_id)
                if is_behind(state, calendars[market_id]):
                    behind.append(state.dag.dag_id)
            except PrometheusError:
                continue  # is said where the market is worked on
        if self._reopens:
            sessions = {
                (market_id, each.session)
                for market_id in self._markets
                for each in in_force().touching(get_market(market_id))
            }
            with reading(self._engine) as connection:
                behind += following.runs_closed_by_calendar(connection, sessions)
        reopens, all_followed = self._reopens, True
        for dag_id in behind:
            try:
                self._follow_calendar(dag_id)
            except Exception as error:  # one run's trouble never delays another's
                if _ends_tick(error):
                    raise
                all_followed = False
                _say("calendar_not_followed", error, dag=dag_id)
        # Not before: a database that goes away in the midst of it is back by a later tick.
        self._reopens = reopens and not all_followed
        return behind

    def _follow_calendar(self, dag_id: str) -> None:
        with self._writing() as connection:
            now = read_now(connection)
            if now.latest_override != in_force().latest:
                return  # others were recorded a moment ago: the next tick goes by them
            for run in runs.read_runs(connection, [dag_id], self._previous_run):
                following.lock_run(connection, run)
            for run in runs.read_runs(connection, [dag_id], self._previous_run):
                calendar = TradingCalendar(run.dag.market_id)
                change = follow(run, calendar, now.market_at)
                if run.status is not RunStatus.OPEN and not change.again:
                    return
                status = following.apply_following(connection, run, change, calendar.version)
                facts = {
                    "dag": dag_id,
                    "calendar": calendar.version,
                    "cancelled": len(change.cancelled),
                    "again": len(change.again),
                }
                level = logging.WARNING if change.cancelled or change.again else logging.INFO
                log.log(level, "calendar_followed", extra=facts)
                if status is not None:
                    log.info("run_closed", extra={"dag": dag_id, "status": status.value})

    def _advance_market(
        self, states: list[RunState], now: Now, paused: tuple[Pause, ...], *, alone: bool
    ) -> Advanced:
        calendar = TradingCalendar(states[0].dag.market_id)
        # Nothing is decided about a run whose session there is no more; what runs of it goes on.
        runs_of_sessions = [
            state
            for state in states
            if calendar.is_trading_day(state.dag.as_of_date)
            # Brought to its calendar, and then decided about, by whoever leads.
            and not (alone and is_behind(state, calendar))
        ]
        snapshot = Snapshot(
            runs=tuple(runs_of_sessions),
            bounds={
                (state.dag.market_id, state.dag.as_of_date): session_bounds(
                    calendar, state.dag.as_of_date
                )
                for state in runs_of_sessions
            },
            wall_at=now.wall_at,
            pauses=paused,
        )
        decisions = decide(snapshot, now.market_at, holds=False)
        starts = [decision for decision in decisions if isinstance(decision, Start)]
        self._apply(states, decisions)
        claimed = 0
        # So that the first run while the others are claimed, and no claim of a worker takes so long
        # that its messages seem forgotten to another process.
        for begin in range(0, len(starts), SENT_AT_ONCE):
            # A tick notes them as sent with the claim, one change of each row less: what it could
            # not send is missed at the next one. Where it is known that they can not be sent, they
            # would have to be forgotten again.
            noted = not (alone or self._broker_away)
            try:
                publications = self._claim(starts[begin : begin + SENT_AT_ONCE], to_send=noted)
                self._publish(publications, noted=noted)
            except BaseException:
                self._reconcile_at = None  # nobody knows what of it was committed, or sent
                raise
            claimed += len(publications)
        if not alone:
            self._settle(states, snapshot, now, {decision.dag_id for decision in decisions})
        return Advanced(claimed=claimed, lost_claims=len(starts) - claimed, busy=bool(starts))

    def _settle(
        self, states: list[RunState], snapshot: Snapshot, now: Now, decided: set[str]
    ) -> None:
        """Note for each run when it is looked at again if it does not change."""
        alone = {run.dag.dag_id: replace(snapshot, runs=(run,)) for run in snapshot.runs}
        for state in states:
            dag_id = state.dag.dag_id
            over = all(job.status in FINAL for job in state.jobs.values())
            by_itself = alone.get(dag_id)
            self._open.settle(
                dag_id,
                restless=over or dag_id in decided,
                next_at=next_instant(by_itself, now.market_at) if by_itself else None,
                next_wall_at=next_timeout(by_itself) if by_itself else None,
            )

    def _claim(self, starts: Sequence[Start], *, to_send: bool) -> list[Publication]:
        with self._writing() as connection:
            runs.lock_runs(connection, {start.dag_id for start in starts if start.job.dependencies})
            ready = runs.still_ready(connection, starts)
            if not ready:
                return []
            return executions.claim(connection, ready, read_now(connection), to_send=to_send)

    def _apply(self, states: list[RunState], decisions: Sequence[Decision]) -> None:
        """Do what was decided but for starts, and close the runs that are over."""
        skipped: dict[str, str] = {}
        expired: dict[str, Expire] = {}
        overdue: dict[str, Cancel] = {}
        ended: dict[str, set[str]] = defaultdict(set)
        for decision in decisions:
            match decision:
                case Skip():
                    skipped[decision.execution_id] = decision.reason
                    ended[decision.dag_id].add(decision.job.job_id)
                case Expire():
                    expired[decision.execution_id] = decision
                    ended[decision.dag_id].add(decision.job.job_id)
                case Cancel():
                    overdue[decision.execution_id] = decision
                case Start() | Hold():  # those are claimed by `_claim`, these were not asked for
                    pass
        over = [
            state.dag.dag_id
            for state in states
            if all(
                job.status in FINAL or job_id in ended[state.dag.dag_id]
                for job_id, job in state.jobs.items()
            )
        ]
        if not (skipped or expired or overdue or over):
            return
        closed: dict[str, str] = {}
        by_calendar = {state.dag.dag_id: state.calendar_version for state in states}
        with self._writing() as connection:
            followed = runs.lock_runs(connection, {*ended, *over})
            # By a calendar that its run follows no longer, nothing has expired.
            expired = {
                execution_id: each
                for execution_id, each in expired.items()
                if followed.get(each.dag_id) == by_calendar[each.dag_id]
            }
            # First, because it waits for its rows; those below are passed over if they are held.
            asked = executions.ask_to_end(
                connection,
                {execution_id: each.by for execution_id, each in overdue.items()},
                grace=CANCEL_GRACE,
            )
            late = runs.end_waiting(
                connection,
                {execution_id: each.reason for execution_id, each in expired.items()},
                JobStatus.EXPIRED,
            )
            # After those: what they hold up is skipped only while the rows say that they do.
            runs.end_waiting(connection, skipped, JobStatus.SKIPPED)
            for dag_id in sorted(over):
                status = runs.close_run(connection, dag_id)
                if status is not None:
                    closed[dag_id] = status.value
        for execution_id in late:
            each = expired[execution_id]
            facts = {"dag": each.dag_id, "job": each.job.job_id, "reason": each.reason}
            log.warning("job_expired", extra=facts)
        for execution_id in asked:
            late_job = overdue[execution_id]
            facts = {"dag": late_job.dag_id, "job": late_job.job.job_id, "by": late_job.by}
            log.warning("job_asked_to_end", extra=facts)
        for dag_id, result in closed.items():
            log.info("run_closed", extra={"dag": dag_id, "status": result})

    def _publish(self, publications: Sequence[Publication], *, noted: bool = False) -> None:
        """
        Send messages.

        Args:
            noted: Their claim has noted that they are sent.
        """
        # Another installation on the same database may work for other markets.
        ours = [each for each in publications if each.queue in self._markets]
        for begin in range(0, len(ours), SENT_AT_ONCE):
            batch = ours[begin : begin + SENT_AT_ONCE]
            sent = self._send(batch)
            if sent:
                self.totals["sent"] += len(batch)
            if sent != noted:
                note = executions.mark_published if sent else executions.forget_messages
                with self._writing() as connection:
                    note(connection, [each.execution_id for each in batch])

    def _send(self, batch: Sequence[Publication]) -> bool:
        """Send messages unless the broker is known to be away; say whether they were sent."""
        if self._broker_away:
            return False
        try:
            self._broker.publish(batch)
        except BrokerUnavailableError as error:
            self._lose_broker(error)
            return False
        return True

    def _lose_broker(self, error: BrokerUnavailableError) -> None:
        # Each further try may take as long as a time-out; the next tick is soon enough.
        self._broker_away = True
        self._marked_since = None
        if self._broker_lost_at is None:
            log.warning("broker_unavailable", extra={"error": str(error)})
            self._broker_lost_at = self._reached_at

    def _previous_run(self, dag: DAG) -> str | None:
        try:
            before = dag.sessions.previous(TradingCalendar(dag.market_id), dag.as_of_date)
        except PrometheusError:
            return None
        return dag_id_for(dag.pipeline, dag.market_id, before)

    # --- the tick --------------------------------------------------------------------------------

    def tick(self) -> timedelta:
        """
        Do all that is due.

        Returns:
            Wall time until the next thing that is known to be due, at most ``max_wait``.
        """
        try:
            return self._tick()
        except LeadLostError as error:
            log.warning("lead_lost", extra={"epoch": error.epoch})
            return self._pace.max_wait

    def _tick(self) -> timedelta:
        began = time.monotonic()
        self._broker_away = False
        if self._election and not self._lead():
            return self._pace.max_wait
        self.totals["ticks"] += 1
        seen = self._see_quiet()
        if seen is not None:
            now = seen.now
            self._refill(now, nobody_given_up=True)
            self._reconcile(now)
            look: _Look | None = _Look(now, self._open.take_due(now, ()), (), seen.due)
        else:
            now, look = self._do_what_is_due()
        advanced = self._advance_open(look or self._look())
        self._tell_failures(now)
        self._look_for_deaf_queues(now)
        if self._broker_lost_at is not None and not self._broker_away:
            log.warning("broker_back")
            self._broker_lost_at = None
        self._ticked_at = now.wall_at
        figures.note_tick(self.totals, time.monotonic() - began)
        if now.jumps:
            return self._jump(now, advanced)
        return self._pause(now, advanced)

    def _see_quiet(self) -> Glance | None:
        """
        Glance at what a tick looks after; by the lead, which this scheduler has just kept.

        Returns:
            ``None``, where there may be more to read than that, or to do than each tick does.
        """
        at = self._reached_at
        if self._epoch is None or at is None:
            return None  # without the lead all open runs are read
        with each_alone(self._engine, reads=True) as connection:
            seen = glance(
                connection,
                at,
                due_by=at - self._pace.publish_after,
                over_limit_since=at - self._pace.over_limit_by,
                given_up_since=at - GIVEN_UP_FOR,
            )
        self._note_reachable(seen.now.wall_at)
        quiet = (
            seen.quiet
            and seen.now.latest_override == in_force().latest == self._overrides
            and self._open.is_read(seen.now, self._epoch)
            and not self._has_to_plan(seen.now)
        )
        return seen if quiet else None

    def _do_what_is_due(self) -> tuple[Now, _Look | None]:
        """
        Do what comes before the open runs.

        Returns:
            The time at its beginning, and the look at the open runs as of then; ``None``: they have
            to be looked at once more.
        """
        with reading(self._engine) as connection:
            now = read_now(connection)
            self._note_reachable(now.wall_at)
            self._refresh(connection, now)
            rescues = self._may_rescue(now)
            lapsed = rescues and leases.any_lapsed(connection, now.wall_at)
            orphans = self._find_orphans(connection, now) if rescues else []
            due_by = self._due_by(now)
            news = executions.read_news(connection, due_by)
            forgotten = executions.unpublished(connection, due_by) if news.unsent else []
            plans = self._has_to_plan(now)
            # Where nothing comes before it that changes a run, it need not be looked once more.
            acts = lapsed or orphans or news.late or forgotten or plans or now.open_backfills
            look = None if acts else self._look_in(connection, now, news, may_take=True)
        if lapsed:
            self._give_up_workers(now)
            # Now: before what they ran is started again, by whomever, they must find it in a mark.
            self._refill(now)
        self._rescue(orphans)
        if news.late:
            self._attempts.end_cancelled(self._hold_lead)
        self._publish(forgotten)
        self._refill(now)
        self._reconcile(now)
        if plans:
            self._plan(now)
        if now.open_backfills:
            self._backfill()
        return now, look

    def _refresh(self, connection: Connection, now: Now) -> None:
        """Go by the overrides that were recorded, and look anew at all that follows from them."""
        overrides.refresh(connection, now)
        if self._overrides != in_force().latest:
            self._overrides = in_force().latest
            self._reopens = True
            self._planned_until.clear()
            self._plan_at = self._opening_at = None

    def _lead(self) -> bool:
        leadership = self._ask_to_lead()
        if self._should_replace(leadership):
            facts = {"epoch": leadership.epoch, "leader": leadership.owner}
            log.warning("leader_without_broker", extra=facts)
            leadership = self._ask_to_lead(instead_of=leadership.epoch)
        self._note_reachable(leadership.at)
        before, self._epoch = self._epoch, leadership.epoch if leadership.leads else None
        # Also when it has the lead again, and has not learnt that another had it in between.
        if leadership.leads != self._leads or self._epoch != before:
            self._leads = leadership.leads
            event = "leading" if leadership.leads else "standing_by"
            log.info(event, extra={"epoch": leadership.epoch, "leader": leadership.owner})
            self._plan_at = self._opening_at = None
            self._broker_lost_at = None
            self._marked_since = None
            self._reconcile_at = None
            self._overrides = None  # who led before may not have come to follow them
        if leadership.leads and leadership.figures is not None:
            kept = leadership.figures
            names = {**kept, **self.totals}
            self._before = {name: kept.get(name, 0) - self.totals[name] for name in names}
        return leadership.leads

    def _ask_to_lead(self, *, instead_of: int | None = None) -> leases.Leadership:
        told: dict[str, Any] = {
            "lease": self._pace.lease,
            "ticked_at": self._ticked_at,
            "broker_lost_at": self._broker_lost_at,
            "figures": self._figures(),
        }
        if self._epoch is not None:
            with each_alone(self._engine) as connection:
                kept = leases.go_on_leading(connection, LEADERSHIP, self._owner, **told)
            if kept is not None and kept.epoch == self._epoch:
                return kept
        with writing(self._engine) as connection:
            leadership = leases.lead(
                connection, LEADERSHIP, self._owner, **told, instead_of=instead_of
            )
            if not leadership.leads:
                leases.stand_by(connection, self._owner, lease=self._pace.lease)
            elif leadership.epoch != self._epoch:
                leases.end_standby(connection, self._owner)
        return leadership

    def _figures(self) -> dict[str, int]:
        """Add up what this scheduler and those that led before did."""
        names = {**self._before, **self.totals}
        return {name: self._before.get(name, 0) + self.totals[name] for name in names}

    def _should_replace(self, leadership: leases.Leadership) -> bool:
        """Say whether another leads that has had no broker for a lease, and this one has it."""
        lost_at = leadership.broker_lost_at
        if lost_at is None or leadership.at - lost_at <= self._pace.lease:
            return False
        try:
            # Where it hangs, a standby must be back in time for the lead of one that dies.
            self._broker.read_mark(within=self._pace.max_wait / 2)
        except BrokerUnavailableError:
            return False  # nobody has it: who leads goes on with all that needs none
        return True

    def _hold_lead(self, connection: Connection) -> None:
        """
        Make sure of the lead until the transaction ends, and extend it: this leader works.

        One that was frozen finds its lease over when it wakes, perhaps another in its place, and
        must write nothing that it decided before.

        Raises:
            LeadLostError: It does not lead any more.
        """
        if self._epoch is None:
            return
        kept_at = leases.keep_lead(
            connection, LEADERSHIP, self._owner, self._epoch, lease=self._pace.lease
        )
        if kept_at is None:
            raise LeadLostError(self._epoch)
        # A tick that takes long is no outage.
        self._note_reachable(kept_at)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """Open a transaction that may write while this scheduler leads, if it is one that does."""
        with writing(self._engine) as connection:
            self._hold_lead(connection)
            yield connection

    def _note_reachable(self, at: datetime) -> None:
        """Note that the database answered; a standby does too, so that it can rescue at once."""
        since, before = self._reachable_since, self._reached_at
        # A gap in which a worker's lease may have run out, or nearly. Also where the clock was set
        # back, which is not waited for.
        gap = min(self._pace.lease, self._pace.worker_lease / 2)
        if since is None or before is None or at < since or at - before > gap:
            self._reachable_since = at
        self._reached_at = at

    def resign(self) -> None:
        """Let a standby take the lead at once; or, as one, do not wait for it any more."""
        if self._leads is None:
            return
        led, self._leads, self._epoch = self._leads, None, None
        with writing(self._engine) as connection:
            if led:
                leases.resign(connection, LEADERSHIP, self._owner)
            else:
                leases.end_standby(connection, self._owner)

    def _has_to_plan(self, now: Now) -> bool:
        """Say whether missing runs are looked for in this tick."""
        opened = self._opening_at is not None and now.market_at >= self._opening_at
        due = opened or _is_due(self._plan_at, now, self._pace.plan_every)
        return self._create_runs and due

    def _plan(self, now: Now) -> None:
        openings = []
        again = False
        for pipeline in self._pipelines.values():
            for market_id in pipeline.markets:
                if market_id not in (now.markets or self._markets):
                    continue
                try:
                    self._plan_market(pipeline, market_id, now)
                    calendar = TradingCalendar(market_id)
                    opening = next_opening(pipeline, calendar, now.market_at, only=now.only)
                except Exception as error:  # one market's trouble never delays another's
                    if _ends_tick(error):
                        raise
                    _say("market_not_planned", error, market=market_id)
                    again = again or is_contended(error)  # the next tick may win
                    continue
                if opening is not None:
                    openings.append(opening)
        self._opening_at = min(openings, default=None)
        self._plan_at = now.wall_at if again else now.wall_at + self._pace.plan_every

    def _warn_of_horizon(self, calendar: TradingCalendar, now: Now) -> None:
        """Say that a calendar is about to end, or has: once a day, whoever leads by then."""
        today = now.market_at.date()
        level = horizon_level(calendar.horizon, today)
        market_id = calendar.market_id
        if level is HorizonLevel.OK or self._warned.get(market_id) == (level, today):
            return
        with self._writing() as connection:
            unsaid = runs.note_horizon(connection, market_id, level, today)
        self._warned[market_id] = level, today
        if unsaid:
            facts = {
                "market": market_id,
                "level": level.value,
                "days": (calendar.horizon - today).days,
                "last": calendar.horizon,
                "source": calendar.horizon_source,
            }
            urgent = level is not HorizonLevel.WARNING
            log.log(logging.ERROR if urgent else logging.WARNING, "calendar_ends", extra=facts)

    def _plan_market(self, pipeline: Pipeline, market_id: str, now: Now) -> None:
        calendar = TradingCalendar(market_id)
        self._warn_of_horizon(calendar, now)
        if (now.market_at - REACH).date() > calendar.horizon:
            return  # said above, once a day; no session is known that could have a run
        key = pipeline.name, market_id
        since = self._planned_until.get(key, date.min)
        if key not in self._seen:
            with self._writing() as connection:
                runs.first_seen(
                    connection, pipeline.name, market_id, pipeline.sessions.words, now.market_at
                )
            self._seen.add(key)
        # Both as of one moment: what has been removed since must not look as if it were missed.
        with reading(self._engine) as connection:
            first_seen_at = runs.seen_since(connection, pipeline.name, market_id)
            existing = runs.sessions_with_runs(
                connection,
                pipeline.name,
                market_id,
                max(first_seen_at.date() - timedelta(days=30), since),
            )
            # Whose runs a backfill will make, which somebody has asked for: they are not missed.
            existing |= backfills.waiting_sessions(connection, pipeline.name, market_id).keys()
        for planned in plan_runs(
            pipeline,
            calendar,
            market_id,
            existing=existing,
            first_seen_at=first_seen_at,
            now=now.market_at,
            only=now.only,
            since=since,
        ):
            with self._writing() as connection:
                made = runs.create_run(
                    connection,
                    planned.dag,
                    opens_at=planned.opens_at,
                    trigger=Trigger.CATCH_UP
                    if planned.forced or planned.missed
                    else Trigger.SCHEDULE,
                    calendar_version=calendar.version,
                    parameters=pipeline.parameters,
                    forced=planned.forced,
                    missed=planned.missed,
                )
            if made:
                event = "session_missed" if planned.missed else "run_created"
                level = logging.WARNING if planned.missed else logging.INFO
                log.log(level, event, extra={"dag": planned.dag.dag_id, "reason": planned.missed})
        # All that have opened have their runs now: not looked at again, however many there are.
        self._planned_until[key] = (now.market_at - REACH).date()

    def _backfill(self) -> None:
        """Begin the sessions of backfills whose turn has come, and end those that are through."""
        with reading(self._engine) as connection:
            due = backfills.due_sessions(connection, BEGUN_AT_ONCE)
        # What could not be begun before comes last, so that it takes no other's turn.
        due.sort(key=lambda each: each.backfill_id in self._not_backfilled)
        tried = 0
        for session in due:
            if tried == BEGUN_AT_ONCE:
                break
            number = session.backfill_id
            pipeline = self._pipelines.get(session.pipeline)
            facts = {"backfill": number, "session": session.session_date}
            if pipeline is None or session.market_id not in self._markets:
                if number not in self._not_backfilled:  # once is enough
                    self._not_backfilled.add(number)
                    told = {"pipeline": session.pipeline, "market": session.market_id}
                    log.warning("backfill_held", extra={**facts, **told})
                continue
            tried += 1
            try:
                with self._writing() as connection:
                    refused = backfills.begin_session(connection, session, pipeline)
            except Exception as error:  # one session's trouble never delays what is due
                if _ends_tick(error):
                    raise
                if number not in self._not_backfilled:
                    self._not_backfilled.add(number)
                    _say("session_not_backfilled", error, backfill=str(number))
                continue
            if refused is not None:
                log.warning("backfill_refused", extra={**facts, "reason": refused})
        with self._writing() as connection:
            ended = backfills.end_backfills(connection)
        for number in ended:
            log.info("backfill_ended", extra={"backfill": number})

    def _may_rescue(self, now: Now) -> bool:
        """Say whether orphans are looked for in this tick."""
        # A scheduler that could not reach the database does not know who renewed meanwhile.
        since = self._reachable_since
        if since is None or now.wall_at - since < self._pace.worker_lease:
            return False
        # A worker that is cut off ends its jobs when it sees the mark of one that is not: not
        # before it had the time to, whoever led before and whether or not Redis was there.
        since = self._marked_since
        if since is None or now.wall_at - since < self._pace.worker_lease / 4:
            return False
        if self._telling_for(now) > timedelta(0):
            return False
        if not _is_due(self._rescue_at, now, self._pace.rescue_every):
            return False
        self._rescue_at = now.wall_at + self._pace.rescue_every
        return True

    def _telling_for(self, now: Now) -> timedelta:
        """Return for how long whoever was given up must still be named before any rescue."""
        if self._named_since is None:
            return timedelta(0)
        return self._named_since + self._pace.told_for - now.wall_at

    def _find_orphans(self, connection: Connection, now: Now) -> list[leases.Orphan]:
        # Only of workers whose leases have been ended: none can renew between this and the failing.
        return leases.find_orphans(
            connection,
            now.wall_at,
            over_limit_by=self._pace.over_limit_by,
            gone_for=self._pace.told_for,
        )

    def _give_up_workers(self, now: Now) -> None:
        """End the leases that have run out."""
        with self._writing() as connection:
            lost = leases.give_up_workers(connection, now.wall_at)
        for worker in lost:
            log.warning("worker_lost", extra={"worker": worker})

    def _rescue(self, orphans: Sequence[leases.Orphan]) -> None:
        for orphan in orphans:
            failure = executions.Failure(orphan.message, {"type": "orphan"}, lost=True)
            try:
                outcome = self._attempts.fail(orphan.execution_id, failure, guard=self._hold_lead)
            except Exception as error:  # a run that can not be read never delays another's
                if _ends_tick(error):
                    raise
                if orphan.execution_id not in self._not_rescued:  # once is enough
                    self._not_rescued.add(orphan.execution_id)
                    _say("not_rescued", error, execution=orphan.execution_id)
                continue
            if not isinstance(outcome, NotOurs):  # its worker reported meanwhile
                self.totals["rescued"] += 1
                facts = {"execution": orphan.execution_id, "reason": orphan.message}
                log.warning("execution_rescued", extra=facts)

    def _refill(self, now: Now, *, nobody_given_up: bool = False) -> None:
        """
        Fill a broker that has lost everything, and leave the mark that tells so next time.

        Args:
            nobody_given_up: Whether that was so lately as of ``now``, which has just been read.
        """
        if self._broker_away:
            return
        try:
            mark = self._broker.read_mark()
            if mark is None:
                self._marked_since, self._named = None, frozenset()
                self._reconcile(now, everything=True)
            # Not where something could not be sent: then the next tick must still miss the mark.
            if not self._broker_away:
                since = self._earliest_reachable_since(mark, now)
                at, given_up = now.wall_at, frozenset[str]()
                if mark is None or mark.given_up or not nobody_given_up:
                    # Not the tick's own time: it may have sent thousands of messages since.
                    with each_alone(self._engine, reads=True) as connection:
                        at, given_up = leases.given_up(connection, GIVEN_UP_FOR)
                self._broker.leave_mark(Mark(at, self._owner, self._epoch or 0, since, given_up))
                # From now: Redis may have been slow, or this process stood still.
                if given_up - self._named or (given_up and _is_unknown(self._named_since, now)):
                    self._named_since = self._wall_time()
                if _is_unknown(self._marked_since, now):
                    self._marked_since = self._wall_time()
                self._named = given_up
        except BrokerUnavailableError as error:
            self._lose_broker(error)

    def _wall_time(self) -> datetime:
        with each_alone(self._engine, reads=True) as connection:
            return leases.wall_time(connection)

    def _earliest_reachable_since(self, mark: Mark | None, now: Now) -> datetime | None:
        """
        Return since when a scheduler has had the database: this one, or another that lives.

        Without election several leave their mark in turn, and each of them rescues: a worker that
        is cut off must go by the one that does so first.
        """
        if mark is not None and mark.owner != self._owner:
            self._other_mark = mark
        # The last mark of one that ticks more rarely than this is seldom the one that is there.
        other, since = self._other_mark, self._reachable_since
        if (
            since is None
            or other is None
            or other.reachable_since is None
            or abs(now.wall_at - other.at) > self._pace.lease
        ):
            return since
        return min(since, other.reachable_since)

    def _reconcile(self, now: Now, *, everything: bool = False) -> None:
        """
        Send again what is due and waits in no list.

        Args:
            everything: At once, however lately and often it was sent; so the first time, because
                whoever led before may have ended as it was to send what it had claimed.
        """
        everything = everything or self._reconcile_at is None
        is_due = everything or _is_due(self._reconcile_at, now, self._pace.reconcile_every)
        if self._broker_away or not is_due:
            return
        self._reconcile_at = now.wall_at + self._pace.reconcile_every
        left_alone = timedelta(0) if everything else self._pace.reconcile_after
        with reading(self._engine) as connection:
            waiting = executions.waiting_in_queue(connection, now.wall_at - left_alone)
        due = [
            publication
            for publication, published_at in waiting
            if publication.queue in self._markets
            and (everything or now.wall_at >= published_at + self._pace.ring_again_after)
        ]
        if not due:
            return
        there = self._waiting({publication.queue for publication in due})
        if there is not None:
            missing = [publication for publication in due if publication.execution_id not in there]
            if missing:
                log.warning("messages_missing", extra={"count": len(missing)})
                self.totals["rung"] += len(missing)
                self._publish(missing)
        if self._broker_away:
            self._reconcile_at = None  # once it is back, everything

    def _waiting(self, queues: set[str]) -> set[str] | None:
        """Return the ids that wait in the broker; ``None`` if it does not answer."""
        if self._broker_away:
            return None
        try:
            return self._broker.waiting_ids(queues)
        except BrokerUnavailableError as error:
            self._lose_broker(error)
            return None

    def _tell_failures(self, now: Now) -> None:
        names = [each.name for each in self._pipelines.values() if each.on_failure is not None]
        if not names:
            return
        with reading(self._engine) as connection:
            untold = executions.untold_failures(
                connection, names, now.wall_at - self._pace.tell_failures_for
            )
        ours = {each.execution_id: each for each in untold if each.queue in self._markets}
        # Asked for already: looked for again later, and ever more rarely.
        self._told = {key: value for key, value in self._told.items() if key in ours}
        due = [
            each
            for key, each in ours.items()
            if key not in self._told or self._told[key].again_at <= now.wall_at
        ]
        if not due:
            return
        there = self._waiting({each.queue for each in due})
        if there is None:
            return
        missing = [each for each in due if failure_task_id(each.execution_id) not in there]
        try:
            self._broker.announce_failures(missing)
        except BrokerUnavailableError as error:
            self._lose_broker(error)
            return
        for each in due:
            count = (
                self._told[each.execution_id].count + 1 if each.execution_id in self._told else 1
            )
            self._told[each.execution_id] = _Told(now.wall_at + self._ring_again(count), count)

    def _look_for_deaf_queues(self, now: Now) -> None:
        if self._broker_away or not _is_due(self._canaries_at, now, self._pace.canary_every):
            return
        self._canaries_at = now.wall_at + self._pace.canary_every
        workers: dict[str, dict[str, str]] = defaultdict(dict)
        with reading(self._engine) as connection:
            for worker in leases.live_workers(connection, now.wall_at):
                for queue in self._markets.intersection(worker["queues"]):
                    workers[queue][worker["incarnation"]] = worker["worker"]
        try:
            self._canaries.look(workers)
        except BrokerUnavailableError as error:
            self._lose_broker(error)

    def _ring_again(self, count: int) -> timedelta:
        doubled: timedelta = self._pace.ring_again_after * 2 ** min(count - 1, 16)
        return min(doubled, self._pace.ring_again_at_most)

    def _jump(self, now: Now, advanced: Advanced) -> timedelta:
        """Move a standing market clock to the next thing due, once nothing is on its way."""
        if advanced.busy:
            return self._pace.jump_wait
        target = _earlier(advanced.next_at, self._opening_at)
        if target is None or target <= now.market_at:
            return self._pace.jump_wait
        with self._writing() as connection:
            moved = clock.jump_to(connection, target, seen=now.market_at)
        if moved:
            log.info("clock_jumped", extra={"market_at": target.isoformat()})
        return timedelta(0)

    def _pause(self, now: Now, advanced: Advanced) -> timedelta:
        waits = [self._pace.backfill_wait if now.open_backfills else self._pace.max_wait]
        market_next = _earlier(advanced.next_at, self._opening_at)
        if market_next is not None:
            waits.append(now.clock.wall_delay(market_next - now.market_at))
        if advanced.next_wall_at is not None:
            waits.append(advanced.next_wall_at - now.wall_at)
        if (telling_for := self._telling_for(now)) > timedelta(0):
            waits.append(telling_for)
        return max(timedelta(0), min(waits))


def _is_due(at: datetime | None, now: Now, every: timedelta) -> bool:
    """Say whether it is time again; a clock that was set back is not waited for."""
    return at is None or now.wall_at >= at or at - now.wall_at > every


def _is_unknown(at: datetime | None, now: Now) -> bool:
    """Say whether a time is not known, or not any more because the clock was set back."""
    return at is None or at > now.wall_at


def _ends_tick(error: Exception) -> bool:
    """Say whether an error is no single market's or job's."""
    return isinstance(error, LeadLostError) or (is_unavailable(error) and not is_contended(error))


def _bounds_of(dag: DAG) -> SessionBounds:
    """
    Return the bounds of a run's session.

    Raises:
        PrometheusError: Its market's calendar has no such session, or can not be read.
    """
    return session_bounds(TradingCalendar(dag.market_id), dag.as_of_date)


def _say(event: str, error: Exception, **facts: str) -> None:
    """Log what went wrong for one market or job; being held up by others is no error of ours."""
    if isinstance(error, DBAPIError) and is_contended(error):
        log.warning(event, extra={**facts, "error": str(error.orig)})
    else:
        log.error(event, extra=facts, exc_info=error)


def _earlier(left: datetime | None, right: datetime | None) -> datetime | None:
    if left is None or right is None:
        return left or right
    return min(left, right)
