"""The processes: beats around the real scheduler, and a model of workers around real attempts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from celery.utils.time import get_exponential_backoff_interval
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from prometheus.dispatch.attempts import Attempts, CutOffError, FencedError, Outage, failure_of
from prometheus.dispatch.publisher import PRIORITY, BrokerUnavailableError
from prometheus.dispatch.scheduler import Pace, Scheduler
from prometheus.errors import PrometheusError
from prometheus.orchestration.dag import JobMetadata, JobPriority
from prometheus.persistence import leases
from prometheus.persistence.engine import is_unavailable, writing
from prometheus.persistence.executions import (
    HARD_LIMIT_GRACE,
    Attempt,
    Cancelled,
    FailedForGood,
    Refused,
    Retried,
)
from tests.simulation.broker import VISIBILITY, Message, Port
from tests.simulation.faults import AT_A_MARK
from tests.simulation.jobs import MARKETS, Part, Way
from tests.simulation.open_runs import CheckedOpenRuns
from tests.simulation.world import Killed, Process, Task, Violation

if TYPE_CHECKING:
    from tests.simulation.year import Year

LEASE = timedelta(seconds=30)
RENEWAL = 5.0
LOOK_EVERY = 0.5
LOOK_AFTER = 3 / 5
SHORT_PAUSE = 3.0
LONG_PAUSE = 5.0
"""Most seconds between two ticks of a beat: now and then while something moves, and otherwise."""
RENEWAL_AT_REST = 10.0
"""Seconds between two renewals of a worker that runs nothing."""
NOTHING_KNOWN = timedelta(days=300)
PACE = Pace(
    max_wait=timedelta(days=400), plan_every=timedelta(days=1), canary_every=timedelta(days=1)
)
"""The scheduler says when the next thing is due, however late; the beat here cuts that itself."""
MAX_LOST = 3


class Actor(Process):
    """A process of the product."""

    def __init__(self, year: Year, name: str) -> None:
        super().__init__(year.world, name)
        self.year = year
        self.attempts = Attempts(year.engine, max_lost=MAX_LOST, worker_lease=LEASE)
        self.port = Port(year.broker, self, self._port_point)

    def _port_point(self, where: str) -> None:
        what, when = where.split()
        self.point(what, when)

    def point(self, what: str, when: str) -> None:
        """Pass a named point of the code, or die there."""

    def make_scheduler(self, *, election: bool) -> Scheduler:
        """Make the scheduler of this process."""
        scheduler = Scheduler(
            self.year.engine,
            self.port,
            self.attempts,
            {self.year.pipeline.name: self.year.pipeline},
            markets=frozenset(MARKETS),
            owner=f"{self.name}:{self.year.uuid4()}",
            pace=PACE,
            election=election,
        )
        scheduler._open = CheckedOpenRuns(
            frozenset(MARKETS), scheduler._previous_run, self.year.engine
        )
        return scheduler

    def freeze(self, least: float, most: float) -> None:
        """Stand still, as after SIGSTOP; the caller with the rest."""
        until = self.world.now + int(self.world.random.uniform(least, most) * 1e6)
        self.frozen_until = max(self.frozen_until, until)  # or it has been stopped already
        self.year.faults.last_until(self.frozen_until)
        if self.world.task is not None and self.world.task.process is self:
            self.world.sleep(0)


class Beat(Actor):
    """Ticks, and dies or freezes at named points of a tick."""

    def __init__(self, year: Year, name: str, *, election: bool) -> None:
        super().__init__(year, name)
        self.scheduler = self.make_scheduler(election=election)
        year.world.start(self, self._live)

    def _live(self) -> None:
        world, year = self.world, self.year
        pause = 0.0
        while True:
            ticks = self.scheduler.totals["ticks"]
            faults = len(year.faults.log)
            wait = timedelta(0)
            try:
                wait = self.scheduler.tick()
                pause = 0.0
            except DBAPIError as error:
                if not is_unavailable(error):
                    raise Violation(year.database.tell(f"tick failed: {error!r}")) from error
                pause = min(2 * pause or 1.0, 5.0)
            except Exception as error:
                raise Violation(year.database.tell(f"tick failed: {error!r}")) from error
            led = self.scheduler.totals["ticks"] > ticks
            # What a fault kept this tick from doing, the next one does.
            whole = led and not pause and len(year.faults.log) == faults
            if whole and wait < NOTHING_KNOWN:
                until = year.quiet_until()
                if until is not None:
                    world.quiet_until = min(until, world.now + int(wait.total_seconds() * 1e6))
            often = led and year.moves and world.random.random() < 0.25
            seconds = min(wait.total_seconds(), SHORT_PAUSE if often else LONG_PAUSE)
            world.come_round(max(pause or seconds, 0.001))

    def point(self, what: str, when: str) -> None:
        faults = self.year.faults
        if what == "names":
            if faults.take(*AT_A_MARK):
                self.freeze(1, 9)  # no longer than it keeps the lead: nobody takes over
            return
        if faults.take(f"beat dies {when} {what}"):
            self.die()
        if when == "before" and faults.take("beat freezes"):
            self.freeze(2, 60)
        if when == "before" and faults.take("beat loses the broker"):
            self.no_broker_until = self.world.now + int(self.world.random.uniform(3, 60) * 1e6)
            faults.last_until(self.no_broker_until)

    def die(self) -> None:
        """End, and be started again after a while."""
        delay = int(self.world.random.uniform(0.5, 10) * 1e6)
        self.year.faults.last_until(self.world.now + delay)
        self.world.call(delay, lambda: self.year.start_beat(self.name))
        self.world.kill(self)


class Worker(Actor):
    """A node: its main process with the heartbeat, and a slot for each child."""

    def __init__(self, year: Year, name: str, slots: int) -> None:
        super().__init__(year, name)
        self.scheduler = self.make_scheduler(election=False)
        self.incarnation = ""
        self.slots = slots
        self.running: dict[Task, str] = {}
        self.held: dict[Message, None] = {}
        self.ready: deque[Message] = deque()
        self.reports: deque[tuple[str, JobMetadata, BaseException]] = deque()
        self.cut_off_rightly: set[str] = set()
        self.asked_in_vain_at = 0
        """When it last could not learn whether others have the database: then it ends its jobs."""
        self.unsure: set[str] = set()
        """What it may have started, or not: the answers were lost, and it gave up asking."""
        self.renewed: tuple[datetime, float] = (year.world.instant(year.world.now), 0.0)
        self._watching = False
        self.registered = False
        self.listens = True
        year.world.start(self, self._live)

    # --- the main process ------------------------------------------------------------------------

    def _live(self) -> None:
        world, outage = self.world, Outage()
        while True:
            try:
                self._register()
                break
            except DBAPIError as error:
                world.sleep(outage.goes_on(error))
        self.registered = True
        self.year.deliver_soon()
        outage = Outage()
        renew_at = world.monotonic() + RENEWAL
        while True:
            world.come_round(max(renew_at - world.monotonic(), 0.0))
            while True:
                try:
                    if world.monotonic() >= renew_at:
                        self._renew()
                        every = RENEWAL if self.running else RENEWAL_AT_REST
                        renew_at = world.monotonic() + every
                    while self.reports:
                        self._report(*self.reports[0])
                        self.reports.popleft()
                    outage.is_over()
                    if not self.listens:
                        self.listens = True
                        self.year.deliver_soon()
                    break
                except DBAPIError as error:
                    if not is_unavailable(error):
                        raise Violation(self.year.database.tell(f"heartbeat: {error!r}")) from error
                    if world.monotonic() >= renew_at:
                        self.listens = False
                    self._watch_soon()
                    world.sleep(outage.goes_on(error))

    def _register(self) -> None:
        self.incarnation = self.year.uuid4()
        self.year.worker_of[self.incarnation] = self
        began = self.world.monotonic()
        with writing(self.year.engine) as connection:
            at = leases.register_worker(
                connection,
                self.incarnation,
                worker=self.name,
                host="simulated",
                pid=1,
                queues=list(MARKETS),
                lease=LEASE,
            )
        self.renewed = at, began

    def _renew(self) -> None:
        began = self.world.monotonic()
        running = dict(self.running)
        names = list(dict.fromkeys(running.values()))
        with writing(self.year.engine) as connection:
            renewed = leases.renew_worker(connection, self.incarnation, running=names, lease=LEASE)
        if renewed is None:
            for task in list(self.running):
                self._end(task)
            self._register()
        else:
            self.renewed = renewed.at, began
            for task, execution_id in running.items():
                if execution_id in renewed.taken:
                    self._end(task)

    def freeze(self, least: float, most: float) -> None:
        self._watch_soon()  # when it wakes, whatever its heartbeat waits for
        super().freeze(least, most)

    def _watch_soon(self) -> None:
        if not self._watching:
            self._watching = True
            self.world.start(self, self._watch)

    def _watch(self) -> None:
        since: float | None = None
        while True:
            renewed_at, began = self.renewed
            silent = timedelta(seconds=self.world.monotonic() - began)
            late = (silent - LOOK_AFTER * LEASE).total_seconds()
            if late < -RENEWAL_AT_REST:
                self._watching = False
                return
            if late < 0 or not self.running:
                since = None
                self.world.sleep(max(LOOK_EVERY, -late))
                continue
            patience = self._patience(renewed_at, silent)
            if patience is None:
                since = None
            else:
                if since is None:
                    since = self.world.monotonic()
                if self.world.monotonic() - since >= patience.total_seconds():
                    self._end_cut_off()
            self.world.sleep(LOOK_EVERY)

    def _patience(self, renewed_at: datetime, silent: timedelta) -> timedelta | None:
        try:
            mark = self.port.read_mark(within=LEASE / 6)
        except BrokerUnavailableError:
            self.asked_in_vain_at = self.world.now
            return LEASE / 10
        if mark is None:
            return None
        if self.incarnation in mark.given_up:
            return timedelta(0)
        if mark.at <= renewed_at + LEASE / 2:
            return None
        by = renewed_at + silent - LOOK_AFTER * LEASE
        others_go_on = mark.reachable_since is None or mark.reachable_since <= by
        return LEASE / 10 if others_go_on else None

    def _end_cut_off(self) -> None:
        ended = dict(self.running)
        for task in ended:
            self._end(task)
        for execution_id in dict.fromkeys(ended.values()):
            # Now, because the report may have to wait for the database.
            if self.year.lately(max(self.asked_in_vain_at, self.ailed_until)):
                self.cut_off_rightly.add(execution_id)
            attempt = self.year.attempts_of.get(execution_id)
            if attempt is not None:
                self.reports.append((execution_id, attempt.job, CutOffError(LEASE)))

    def _report(self, execution_id: str, job: JobMetadata, error: BaseException) -> None:
        outcome = self.attempts.fail(execution_id, failure_of(error), incarnation=self.incarnation)
        if isinstance(outcome, FailedForGood | Cancelled):
            self._advance(outcome.dag_id)

    def _end(self, task: Task) -> None:
        """Kill a child."""
        if task in self.running:
            del self.running[task]
            self.world.end(task)
            self.year.deliver_soon()

    def holds(self, execution_id: str) -> bool:
        """Whether it still runs an attempt, or has yet to report it."""
        return execution_id in self.running.values() or any(
            execution_id == reported for reported, _, _ in self.reports
        )

    @property
    def ailed_until(self) -> int:
        """Until when it stood still, or could not reach the database."""
        return max(self.frozen_until, self.no_database_until)

    # --- messages --------------------------------------------------------------------------------

    @property
    def free(self) -> bool:
        """Whether it would take a message now."""
        return self.well and self.registered and self.listens and len(self.running) < self.slots

    def receive(self, message: Message) -> None:
        """Take a message; one for later is held back in this process."""
        world = self.world
        if message.due > world.now:
            self.held[message] = None
            world.call(message.due - world.now, lambda: self._is_due(message))
        else:
            self._run(message)

    def _is_due(self, message: Message) -> None:
        if self.alive and message in self.held:
            del self.held[message]
            if len(self.running) < self.slots:
                self._run(message)
            else:
                self.ready.append(message)

    def _run(self, message: Message) -> None:
        after = int(self.world.random.uniform(0.001, 0.008) * 1e6)
        task = self.world.start(self, lambda: self._child(message), after)
        self.running[task] = message.execution_id

    def die(self, back_after: float) -> None:
        """Be killed with all children, and started again under the same name."""
        world = self.world
        for message in (*self.held, *self.ready):
            world.call(VISIBILITY * 1_000_000, lambda each=message: self.year.broker.put_back(each))  # type: ignore[misc]
        self.held.clear()
        self.ready.clear()
        self.running.clear()
        back_at = int(back_after * 1e6)
        self.year.faults.last_until(world.now + back_at)
        world.call(back_at, lambda: self.year.start_worker(self.name, self.slots))
        world.kill(self)

    def _soon(self, kind: str, befall: Callable[[], None]) -> None:
        """Let something befall this worker in a moment; another, if it is dead by then."""
        faults = self.year.faults

        def now() -> None:
            if self.alive:
                faults.count(kind)
                befall()
            else:
                faults.put_back(kind)

        if faults.is_due(kind):
            self.world.call(int(self.world.random.uniform(0, 1.5) * 1e6), now)

    def point(self, what: str, when: str) -> None:
        kind = f"worker dies {when} {what}"
        if what in ("start", "finish", "advance") and self.year.faults.take(kind):
            self.die(self.world.random.uniform(0.5, 20))

    # --- a child ---------------------------------------------------------------------------------

    def _child(self, message: Message) -> None:
        task = self.world.task
        assert task is not None
        try:
            self._execute(message)
        finally:
            if self.running.pop(task, None) is not None and self.alive:
                if self.ready:
                    self._run(self.ready.popleft())
                self.year.deliver_soon()
                self.year.tick_soon()

    def _execute(self, message: Message) -> None:
        year, execution_id = self.year, message.execution_id
        self.point("start", "before")
        try:
            outcome = self.attempts.start(
                execution_id,
                worker=self.name,
                incarnation=self.incarnation,
                like=message.queue,
            )
        except SQLAlchemyError:
            self.unsure.add(execution_id)
            return  # the reconciler rings again
        if isinstance(outcome, Refused):
            if outcome.expired is not None:
                self._advance(outcome.expired)
            return
        attempt = outcome.attempt
        self.cut_off_rightly.discard(execution_id)  # what was ended then had not begun
        year.note_start(execution_id, attempt)
        self.point("start", "after")
        part = year.script.part(attempt.dag.dag_id, attempt.job)
        self._befall(part)
        with year.body(self, attempt):
            error = self._work(attempt, part)
        self.point("finish", "before")
        if error is None:
            done = self.attempts.succeed(
                execution_id,
                incarnation=str(attempt.incarnation),
                result=None,
                follow=self.scheduler.decide_after(attempt),
            )
            self.point("finish", "after")
            if done is not None:
                follow = partial(
                    self.scheduler.advance_after, attempt.dag, attempt.job.job_id, done
                )
                self._advance(done.dag_id, follow)
        else:
            self._retry(attempt, error)

    def _befall(self, part: Part) -> None:
        """Let happen what is planned for the next job."""
        world, faults, dice = self.world, self.year.faults, self.world.random
        self._soon("worker dies in a job", lambda: self.die(dice.uniform(5, 40)))
        self._soon("worker dies and comes back at once", lambda: self.die(0.2))
        self._soon("worker freezes", lambda: self.freeze(3, 50))
        if faults.take("worker loses the database"):
            self._lose_database(3, 70)
        # Long enough for another attempt to begin while this one still runs.
        if part.seconds > 40 and faults.take("worker loses the database and the leader stops"):
            self._lose_database(35, 70)
            world.call(int(dice.uniform(6, 16) * 1e6), self.year.stop_leader)
        if faults.take("worker loses the broker"):
            self.no_broker_until = world.now + int(dice.uniform(3, 45) * 1e6)
            faults.last_until(self.no_broker_until)
            world.call(self.no_broker_until - world.now, self.year.deliver_soon)

    def _lose_database(self, least: float, most: float) -> None:
        world = self.world
        self.no_database_until = world.now + int(world.random.uniform(least, most) * 1e6)
        self.year.faults.last_until(self.no_database_until)

    def _work(self, attempt: Attempt, part: Part) -> Exception | None:
        """Do what the job does; return what it raises."""
        world, job = self.world, attempt.job
        fails = part.failures > 0 and self.year.retries_of(attempt.execution_id) < part.failures
        if fails and part.way is Way.SLOW:
            world.sleep(job.timeout.total_seconds())
            slow: Exception = SoftTimeLimitExceeded()
            return slow
        if fails and part.way is Way.DEAF:
            hard = job.timeout + HARD_LIMIT_GRACE
            world.sleep(hard.total_seconds())
            self.reports.append(
                (attempt.execution_id, job, TimeLimitExceeded(hard.total_seconds()))
            )
            world.come_round_at(self, world.now)
            raise Killed
        world.sleep(part.seconds)
        if fails:
            return RuntimeError("of its own")
        if part.writes:
            return self._write(attempt)
        return None

    def _write(self, attempt: Attempt) -> Exception | None:
        """Write something that counts only while the attempt is this worker's."""
        while True:
            try:
                with self.attempts.transaction(
                    attempt.execution_id, attempt.incarnation
                ) as connection:
                    connection.execute(_EFFECT, {"id": attempt.execution_id})
                    if self.year.faults.take("worker freezes in a transaction"):
                        self.freeze(2, 90)
                return None
            except FencedError as error:
                return error
            except DBAPIError:
                self.world.sleep(2)

    def _retry(self, attempt: Attempt, error: Exception) -> None:
        retries = self.year.retries_of(attempt.execution_id)
        base = int(attempt.job.retry_base.total_seconds())
        cap = int(attempt.job.retry_cap.total_seconds())
        countdown = None
        if retries < attempt.job.max_retries:
            countdown = get_exponential_backoff_interval(base, retries, cap, full_jitter=True)
        outcome = self.attempts.fail(
            attempt.execution_id,
            failure_of(error, limit=attempt.job.timeout),
            countdown=countdown,
            incarnation=attempt.incarnation,
            patient=True,
        )
        self.point("finish", "after")
        if isinstance(outcome, FailedForGood | Cancelled):
            self._advance(outcome.dag_id)
        if not isinstance(outcome, Retried):
            return
        try:
            self.year.broker.reach()
            due = self.world.now + int(outcome.countdown * 1e6)
            priority = PRIORITY[JobPriority(attempt.job.priority)]
            message = Message(outcome.successor_id, attempt.job.market_id, priority, due)
            self.year.broker.send(message)
            self.attempts.mark_published(outcome.successor_id)
        except (BrokerUnavailableError, DBAPIError):
            return  # the beat sends it when it is due

    def _advance(self, dag_id: str, decide: Callable[[], object] | None = None) -> None:
        self.point("advance", "before")
        try:
            decide() if decide is not None else self.scheduler.advance(dag_id)
        except (SQLAlchemyError, PrometheusError):
            return
        self.point("advance", "after")


# Under its own name: when the answer to a COMMIT is lost, a job does not know, and writes again.
_EFFECT = text("INSERT OR IGNORE INTO effects (execution_id, at) VALUES (:id, strftime('', ''))")
