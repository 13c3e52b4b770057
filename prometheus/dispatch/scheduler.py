"""
The scheduler: decide, claim, publish; and, at each tick, everything that time alone changes.

Two things come here: the beat at each tick, for all open runs, and a worker whose job has just
reached a final state, for its own run.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.attempts import Attempts
from prometheus.dispatch.publisher import BrokerUnavailableError
from prometheus.errors import PrometheusError
from prometheus.orchestration.dag import DAG, dag_id_for
from prometheus.orchestration.decisions import (
    Decision,
    Expire,
    Hold,
    RunState,
    Skip,
    Snapshot,
    Start,
    decide,
    next_instant,
)
from prometheus.orchestration.lifecycle import FINAL, LIVE, JobStatus
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.planning import next_opening, plan_runs, session_bounds
from prometheus.orchestration.windows import SessionBounds
from prometheus.persistence import clock, executions, leases, runs
from prometheus.persistence.clock import Now, read_now
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.executions import Publication

log = logging.getLogger(__name__)

LEADERSHIP = "beat"


class Broker(Protocol):
    """What the scheduler asks of the message broker."""

    def publish(self, publications: Sequence[Publication]) -> None: ...

    def announce_failures(self, failures: Sequence[Publication]) -> None: ...

    def waiting_ids(self, queues: Iterable[str]) -> set[str]: ...


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
    """How long a database must have been reachable before anybody is rescued."""
    plan_every: timedelta = timedelta(seconds=60)
    """How often missing runs are looked for; and at each opening."""
    publish_after: timedelta = timedelta(seconds=1)
    """A due execution without a message is left this long to whoever claimed it."""
    reconcile_every: timedelta = timedelta(seconds=30)
    reconcile_after: timedelta = timedelta(seconds=10)
    """Rows due for less are not looked for in the broker."""
    ring_again_after: timedelta = timedelta(seconds=30)
    """First repetition of a message that is in no list; doubles with each one."""
    ring_again_at_most: timedelta = timedelta(minutes=10)
    rescue_every: timedelta = timedelta(seconds=1)
    """How often, at most, orphans are looked for."""
    tell_failures_for: timedelta = timedelta(days=1)
    """How old a final failure may be when ``on_failure`` is called for it."""
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
    busy: bool = False
    """Whether anything is queued or running, or was just claimed."""


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
        self._leads: bool | None = None
        self._plan_at: datetime | None = None
        self._opening_at: datetime | None = None
        self._reconcile_at: datetime | None = None
        self._rescue_at: datetime | None = None
        self._tell_at: dict[str, datetime] = {}
        self._reachable_since: datetime | None = None
        self._last_tick_at: datetime | None = None
        self.totals: dict[str, int] = defaultdict(int)
        """Counts of what this scheduler did: ticks, claimed, lost_claims, rescued, rung."""

    # --- one run, or all of them -----------------------------------------------------------------

    def advance(self, dag_id: str | None = None) -> Advanced:
        """
        Decide, claim and publish.

        Args:
            dag_id: One run; all open runs if not given.
        """
        with reading(self._engine) as connection:
            now = read_now(connection)
            states = runs.read_open_runs(connection, self._previous_run, dag_id=dag_id)
        by_market: dict[str, list[RunState]] = defaultdict(list)
        for state in states:
            by_market[state.dag.market_id].append(state)
        total = Advanced()
        for market_id in sorted(by_market.keys() & self._markets):
            try:
                done = self._advance_market(by_market[market_id], now)
            except SQLAlchemyError:
                raise
            except Exception:  # one market's trouble, whatever it is, never delays another's
                log.exception("market_held", extra={"market": market_id})
                continue
            total = Advanced(
                total.claimed + done.claimed,
                total.lost_claims + done.lost_claims,
                _earlier(total.next_at, done.next_at),
                total.busy or done.busy,
            )
        self.totals["claimed"] += total.claimed
        self.totals["lost_claims"] += total.lost_claims
        return total

    def _advance_market(self, states: list[RunState], now: Now) -> Advanced:
        snapshot = Snapshot(
            runs=tuple(states),
            bounds={
                (state.dag.market_id, state.dag.as_of_date): self._bounds(state.dag)
                for state in states
            },
        )
        decisions = decide(snapshot, now.market_at)
        starts = [decision for decision in decisions if isinstance(decision, Start)]
        claimed = self._apply(states, decisions)
        self._publish(claimed)
        live = any(job.status in LIVE for state in states for job in state.jobs.values())
        return Advanced(
            claimed=len(claimed),
            lost_claims=len(starts) - len(claimed),
            next_at=next_instant(snapshot, now.market_at),
            busy=live or bool(starts),
        )

    def _apply(self, states: list[RunState], decisions: Sequence[Decision]) -> list[Publication]:
        skipped: dict[str, str] = {}
        expired: dict[str, str] = {}
        starts: list[Start] = []
        ended: dict[str, set[str]] = defaultdict(set)
        for decision in decisions:
            match decision:
                case Start():
                    starts.append(decision)
                case Skip():
                    skipped[decision.execution_id] = decision.reason
                    ended[decision.dag_id].add(decision.job.job_id)
                case Expire():
                    expired[decision.execution_id] = decision.reason
                    ended[decision.dag_id].add(decision.job.job_id)
                    log.warning(
                        "job_expired",
                        extra={
                            "dag": decision.dag_id,
                            "job": decision.job.job_id,
                            "reason": decision.reason,
                        },
                    )
                case Hold():
                    pass
        over = [
            state.dag.dag_id
            for state in states
            if all(
                job.status in FINAL or job_id in ended[state.dag.dag_id]
                for job_id, job in state.jobs.items()
            )
        ]
        if not (starts or skipped or expired or over):
            return []
        with writing(self._engine) as connection:
            runs.lock_runs(connection, {*ended, *over})
            runs.end_waiting(connection, skipped, JobStatus.SKIPPED)
            runs.end_waiting(connection, expired, JobStatus.EXPIRED)
            claimed = executions.claim(connection, starts, read_now(connection)) if starts else []
            for dag_id in sorted(over):
                status = runs.close_run(connection, dag_id)
                if status is not None:
                    log.info("run_closed", extra={"dag": dag_id, "status": status.value})
        return claimed

    def _publish(self, publications: Sequence[Publication]) -> None:
        # Another installation on the same database may work for other markets.
        ours = [each for each in publications if each.queue in self._markets]
        if not ours:
            return
        try:
            self._broker.publish(ours)
        except BrokerUnavailableError as error:
            log.warning("broker_unavailable", extra={"error": str(error)})
            return
        with writing(self._engine) as connection:
            executions.mark_published(connection, [each.execution_id for each in ours])

    def _bounds(self, dag: DAG) -> SessionBounds:
        return session_bounds(TradingCalendar(dag.market_id), dag.as_of_date)

    def _previous_run(self, dag: DAG) -> str | None:
        try:
            before = TradingCalendar(dag.market_id).previous_trading_day(dag.as_of_date)
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
        if self._election and not self._lead():
            return self._pace.max_wait
        self.totals["ticks"] += 1
        with reading(self._engine) as connection:
            now = read_now(connection)
        if self._last_tick_at is None or now.wall_at - self._last_tick_at > self._pace.lease:
            self._reachable_since = now.wall_at
        self._last_tick_at = now.wall_at
        if self._create_runs:
            self._plan(now)
        self._rescue(now)
        self._publish_forgotten(now)
        self._reconcile(now)
        advanced = self.advance()
        self._tell_failures(now)
        if now.jumps:
            return self._jump(now, advanced)
        return self._pause(now, advanced)

    def _lead(self) -> bool:
        with writing(self._engine) as connection:
            leadership = leases.lead(connection, LEADERSHIP, self._owner, lease=self._pace.lease)
        if leadership.leads != self._leads:
            self._leads = leadership.leads
            event = "leading" if leadership.leads else "standing_by"
            log.info(event, extra={"epoch": leadership.epoch, "leader": leadership.owner})
            self._plan_at = self._opening_at = None
        return leadership.leads

    def resign(self) -> None:
        """Let a standby take the lead at once."""
        if self._leads:
            self._leads = False
            with writing(self._engine) as connection:
                leases.resign(connection, LEADERSHIP, self._owner)

    def _plan(self, now: Now) -> None:
        opened = self._opening_at is not None and now.market_at >= self._opening_at
        if not opened and self._plan_at is not None and now.wall_at < self._plan_at:
            return
        openings = []
        for pipeline in self._pipelines.values():
            for market_id in pipeline.markets:
                if market_id not in (now.markets or self._markets):
                    continue
                try:
                    self._plan_market(pipeline, market_id, now)
                    opening = next_opening(TradingCalendar(market_id), now.market_at, only=now.only)
                except SQLAlchemyError:
                    raise
                except Exception:  # one market's trouble, whatever it is, never delays another's
                    log.exception("market_not_planned", extra={"market": market_id})
                    continue
                if opening is not None:
                    openings.append(opening)
        self._opening_at = min(openings, default=None)
        self._plan_at = now.wall_at + self._pace.plan_every

    def _plan_market(self, pipeline: Pipeline, market_id: str, now: Now) -> None:
        calendar = TradingCalendar(market_id)
        with writing(self._engine) as connection:
            first_seen_at = runs.first_seen(connection, pipeline.name, now.market_at)
            existing = runs.sessions_with_runs(
                connection, pipeline.name, market_id, first_seen_at.date() - timedelta(days=30)
            )
        for planned in plan_runs(
            pipeline,
            calendar,
            market_id,
            existing=existing,
            first_seen_at=first_seen_at,
            now=now.market_at,
            only=now.only,
        ):
            with writing(self._engine) as connection:
                made = runs.create_run(
                    connection,
                    planned.dag,
                    opens_at=planned.bounds.opens_at,
                    trigger="catch_up" if planned.forced or planned.missed else "schedule",
                    calendar_version=calendar.version,
                    parameters=pipeline.parameters,
                    forced=planned.forced,
                    missed=planned.missed,
                )
            if made:
                event = "session_missed" if planned.missed else "run_created"
                level = logging.WARNING if planned.missed else logging.INFO
                log.log(level, event, extra={"dag": planned.dag.dag_id, "reason": planned.missed})

    def _rescue(self, now: Now) -> None:
        # A scheduler that could not reach the database does not know who renewed meanwhile.
        since = self._reachable_since
        if since is None or now.wall_at - since < self._pace.worker_lease:
            return
        if self._rescue_at is not None and now.wall_at < self._rescue_at:
            return
        self._rescue_at = now.wall_at + self._pace.rescue_every
        # First their leases end, so that none can renew between the finding and the failing.
        with writing(self._engine) as connection:
            for worker in leases.give_up_workers(connection, now.wall_at):
                log.warning("worker_lost", extra={"worker": worker})
        with reading(self._engine) as connection:
            orphans = leases.find_orphans(
                connection, now.wall_at, over_limit_by=self._pace.over_limit_by
            )
        for orphan in orphans:
            log.warning(
                "execution_rescued",
                extra={"execution": orphan.execution_id, "reason": orphan.message},
            )
            self._attempts.fail(
                orphan.execution_id,
                executions.Failure(orphan.message, {"type": "orphan"}, lost=orphan.lost),
            )
            self.totals["rescued"] += 1

    def _publish_forgotten(self, now: Now) -> None:
        with reading(self._engine) as connection:
            forgotten = executions.unpublished(connection, now.wall_at - self._pace.publish_after)
        self._publish(forgotten)

    def _reconcile(self, now: Now) -> None:
        if self._reconcile_at is not None and now.wall_at < self._reconcile_at:
            return
        self._reconcile_at = now.wall_at + self._pace.reconcile_every
        with reading(self._engine) as connection:
            waiting = executions.waiting_in_queue(
                connection, now.wall_at - self._pace.reconcile_after
            )
        due = [
            publication
            for publication, published_at, count in waiting
            if now.wall_at >= published_at + self._ring_again(count)
        ]
        if not due:
            return
        try:
            there = self._broker.waiting_ids({publication.queue for publication in due})
        except BrokerUnavailableError as error:
            log.warning("broker_unavailable", extra={"error": str(error)})
            return
        missing = [publication for publication in due if publication.execution_id not in there]
        if missing:
            log.warning("messages_missing", extra={"count": len(missing)})
            self.totals["rung"] += len(missing)
            self._publish(missing)

    def _tell_failures(self, now: Now) -> None:
        names = [each.name for each in self._pipelines.values() if each.on_failure is not None]
        if not names:
            return
        with reading(self._engine) as connection:
            untold = executions.untold_failures(
                connection, names, now.wall_at - self._pace.tell_failures_for
            )
        # A message that was lost is sent again; one that waits for a worker is not doubled.
        again_at = now.wall_at + self._pace.ring_again_after
        due = [
            each
            for each in untold
            if self._tell_at.get(each.execution_id, now.wall_at) <= now.wall_at
        ]
        self._tell_at = {
            each.execution_id: self._tell_at.get(each.execution_id, again_at) for each in untold
        }
        if not due:
            return
        try:
            self._broker.announce_failures(due)
        except BrokerUnavailableError as error:
            log.warning("broker_unavailable", extra={"error": str(error)})
            return
        self._tell_at |= {each.execution_id: again_at for each in due}

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
        with writing(self._engine) as connection:
            moved = clock.jump_to(connection, target, seen=now.market_at)
        if moved:
            log.info("clock_jumped", extra={"market_at": target.isoformat()})
        return timedelta(0)

    def _pause(self, now: Now, advanced: Advanced) -> timedelta:
        waits = [self._pace.max_wait]
        market_next = _earlier(advanced.next_at, self._opening_at)
        if market_next is not None:
            waits.append(now.wall_delay(market_next - now.market_at))
        with reading(self._engine) as connection:
            wall_next = executions.next_due(connection, now.wall_at)
        if wall_next is not None:
            waits.append(wall_next + self._pace.publish_after - now.wall_at)
        return max(timedelta(0), min(waits))


def _earlier(left: datetime | None, right: datetime | None) -> datetime | None:
    if left is None or right is None:
        return left or right
    return min(left, right)
