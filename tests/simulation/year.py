"""One simulated year: three markets, twenty jobs a session, and everything that goes wrong."""

from __future__ import annotations

import gc
import hashlib
import logging
import random
import time
import types
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch import attempts as attempts_module
from prometheus.dispatch import scheduler as scheduler_module
from prometheus.orchestration import planning
from prometheus.orchestration.dag import JobMetadata, dag_id_for
from prometheus.orchestration.planning import session_bounds
from prometheus.orchestration.windows import SessionBounds, Window
from prometheus.persistence import executions, runs
from prometheus.persistence.engine import is_unavailable
from prometheus.persistence.executions import Attempt
from prometheus.verification import Expectation, StartRecord, Tolerances, check
from tests.simulation.actors import LEASE, Actor, Beat, Worker
from tests.simulation.broker import Broker
from tests.simulation.checks import TRIGGERS, judge_run
from tests.simulation.database import Database, as_engine
from tests.simulation.defects import DEFECTS
from tests.simulation.faults import CLOCK_STEPS, EACH, Faults
from tests.simulation.jobs import MARKETS, Script, make_pipeline
from tests.simulation.world import Violation, World

FIRST_YEAR, YEARS = 2004, 22
"""Years whose sessions are known for all three markets."""
LAST_RUNS = timedelta(days=8)
"""After the last session that must have had its run, until that has surely ended."""
SECOND = 1_000_000
A_MOMENT = 5 * SECOND
"""For how long a worker that has just woken may run what has been given to another."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a year."""

    year: int
    seed: int
    digest: str
    violation: str | None
    jobs: int
    runs: int
    attempts: int
    sessions_after_dst: int
    days: float
    """Virtual days until the end, or until the violation."""
    faults: dict[str, int]
    statuses: dict[str, int]
    cpu_seconds: float
    wall_seconds: float
    figures: dict[str, int] = field(default_factory=dict)


class Year:
    """The world of one year."""

    def __init__(self, seed: int, *, defect: str | None = None, days: int | None = None) -> None:
        """
        Args:
            seed: Draws everything that chance decides, and the year.
            defect: What to break on purpose; see `tests.simulation.defects`.
            days: Only so many, from the first of January on.
        """
        self.seed = seed
        self.year = FIRST_YEAR + seed % YEARS
        self.start = datetime(self.year, 1, 1, tzinfo=UTC)
        self.world = World(self.start, seed)
        self.database = Database(self.world)
        self.engine = as_engine(self.database)
        self.faults = Faults(self.world)
        self.broker = Broker(self.world, self.faults)
        self.broker.arrived = self.deliver_soon
        self.pipeline = make_pipeline()
        self.script = Script(seed)
        self.beats: dict[str, Beat] = {}
        self.workers: dict[str, Worker] = {}
        self.worker_of: dict[str, Worker] = {}
        """Incarnation -> the worker that had it."""
        self.started: dict[str, datetime] = {}
        self.attempts_of: dict[str, Attempt] = {}
        self._bodies: defaultdict[tuple[str, str], dict[str, Worker]] = defaultdict(dict)
        """Run and job -> its attempts that run, and where; by the jobs, whatever the rows say."""
        self.closed: list[str] = []
        self.jobs = 0
        self._defect = defect
        self._days = days
        self._delivering = False
        self._ids = random.Random(seed ^ 0x5EED)
        self._turn = 0

    # --- what the processes ask of it ------------------------------------------------------------

    def uuid4(self) -> str:
        """Stand in for ``uuid.uuid4``."""
        number = self._ids.getrandbits(128)
        text = f"{number:032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"

    def retries_of(self, execution_id: str) -> int:
        """Say how many attempts of its job had failed before an execution."""
        found: tuple[int] = self.database.raw.execute(
            "SELECT retries FROM job_executions WHERE execution_id = ?", (execution_id,)
        ).fetchone()
        return found[0]

    def note_start(self, execution_id: str, attempt: Attempt) -> None:
        """Remember what a worker begins to run."""
        if execution_id in self.started:
            raise Violation(self.database.tell(f"P2: {execution_id} was started twice"))
        self.started[execution_id] = self.world.instant(self.world.now + self.world.clock_offset)
        self.attempts_of[execution_id] = attempt

    @contextmanager
    def body(self, worker: Worker, attempt: Attempt) -> Iterator[None]:
        """Hold while an attempt's job runs: no other attempt of the job may run as well."""
        bodies = self._bodies[attempt.dag.dag_id, attempt.job.job_id]
        for other_id, other in bodies.items():
            self._judge_beside(other_id, other, attempt)
        bodies[attempt.execution_id] = worker
        try:
            yield
        finally:
            del bodies[attempt.execution_id]

    def _judge_beside(self, other_id: str, other: Worker, attempt: Attempt) -> None:
        """
        Judge that a job begins while an earlier attempt has not ended.

        One that stands still does nothing; when it wakes, it may run for a moment.
        """
        world = self.world
        bodies = self._bodies[attempt.dag.dag_id, attempt.job.job_id]
        wakes_at = other.frozen_until + A_MOMENT

        def again() -> None:
            if other_id in bodies and attempt.execution_id in bodies:
                self._judge_beside(other_id, other, attempt)

        if wakes_at > world.now:
            world.call(wakes_at - world.now, again)
        else:
            self._found(
                f"P2: two attempts of {attempt.dag.dag_id} {attempt.job.job_id} at once:"
                f" {other_id} on {other.name}, {attempt.execution_id}"
            )

    def deliver_soon(self) -> None:
        """Let the workers look into the lists."""
        if not self._delivering and self.broker.waiting:
            self._delivering = True
            self.world.call(500, self._deliver)

    def _deliver(self) -> None:
        self._delivering = False
        if self.broker.down_until > self.world.now:
            return
        while self.broker.waiting:
            free = [worker for worker in self.workers.values() if worker.free]
            if not free:
                return
            worker = free[self.world.random.randrange(len(free))]
            self._turn = (self._turn + 1) % len(MARKETS)
            message = self.broker.take((*MARKETS[self._turn :], *MARKETS[: self._turn]))
            if message is None:
                return
            worker.receive(message)

    def quiet_until(self) -> int | None:
        """
        Say until when only rounds would be made: nothing is wrong, and nothing is due.

        Returns:
            ``None`` if something is. Otherwise the first time at which something queued is due, if
            there is any: the scheduler does not wait for what has its message, but must come and
            see whether that was lost.
        """
        world, database = self.world, self.database
        workers = [each for each in self.workers.values() if each.alive]
        if (
            self.broker.waiting
            or max(database.away_until, database.slow_until) > world.now
            or database.holder is not None
            or not all(beat.well for beat in self.beats.values() if beat.alive)
            or any(each.reports or each.ready for each in workers)
        ):
            return None
        running = 0
        for worker in workers:
            if worker.running and not worker.well:
                return None
            running += len(worker.running)
        found: tuple[int, str | None] = database.raw.execute(
            "SELECT count(*) FILTER (WHERE status = 'RUNNING'),"
            " min(scheduled_at) FILTER (WHERE status = 'QUEUED')"
            " FROM job_executions WHERE status IN ('QUEUED', 'RUNNING')"
        ).fetchone()
        if found[0] != running or (found[1] or "9") <= world.database_time():
            return None
        if found[1] is None:
            return world.at(datetime.max.replace(tzinfo=UTC))
        due = datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
        return world.at(due) - world.clock_offset

    @property
    def moves(self) -> bool:
        """Whether a worker runs something, or a message waits."""
        return bool(self.broker.waiting) or any(each.running for each in self.workers.values())

    def tick_soon(self) -> None:
        """Let the leader see at once that all is done, if it is."""
        if not self.moves:
            for beat in self.beats.values():
                if _leads(beat):
                    self.world.come_round_at(beat, self.world.now + SECOND // 4)

    def wake(self, target: int) -> None:
        """Have everybody make the rounds that a leap left out: the last ones before its end."""
        world = self.world
        resting: list[Worker] = []
        renewed_at = world.instant(target - SECOND + world.clock_offset)
        for worker in self.workers.values():
            if worker.well:
                worker.renewed = renewed_at, (target - SECOND) / 1e6
                world.come_round_at(worker, target - SECOND)
                if worker.registered and not worker.running:
                    resting.append(worker)
        # Of a worker that runs nothing, a renewal only stamps its row, if it has not been given up:
        # that is done for all of them at once, and each comes round by itself a while later.
        if self.database.stamp_renewals(
            [worker.incarnation for worker in resting], renewed_at, LEASE
        ):
            for worker in resting:
                world.come_round_at(worker, target + int(world.random.uniform(0, 9) * SECOND))
        beats = [beat for beat in self.beats.values() if beat.well]
        for number, beat in enumerate(sorted(beats, key=lambda each: not _leads(each))):
            if target - world.now > 40 * SECOND:
                for back in (36, 27, 18, 9):
                    at = world.instant(target - back * SECOND + world.clock_offset)
                    beat.scheduler._note_reachable(at)
            world.come_round_at(beat, target + number * SECOND // 2)

    def start_beat(self, name: str) -> None:
        """Start a beat; now and then one that does not ask who leads."""
        election = self.world.random.random() > 0.15
        self.beats[name] = Beat(self, name, election=election)

    def stop_leader(self) -> None:
        """Let the beat that leads die, or stand still for a while."""
        for beat in [each for each in self.beats.values() if each.alive and _leads(each)]:
            if self.world.random.random() < 0.5:
                beat.die()
            else:
                beat.freeze(5, 40)

    def start_worker(self, name: str, slots: int) -> None:
        """Start a worker."""
        self.workers[name] = Worker(self, name, slots)

    # --- faults that happen at a time ------------------------------------------------------------

    def _plan_faults(self) -> None:
        world, database, dice = self.world, self.database, self.world.random

        def away(least: float, most: float) -> Callable[[], bool]:
            def begin() -> bool:
                if database.away_until > world.now:
                    return False
                database.away_until = world.now + int(dice.uniform(least, most) * SECOND)
                self.faults.last_until(database.away_until)
                database.drop_holder()
                return True

            return begin

        def slow() -> bool:
            database.slow_until = world.now + int(dice.uniform(3, 15) * SECOND)
            self.faults.last_until(database.slow_until)
            return True

        def step(sign: int) -> Callable[[], bool]:
            def jump() -> bool:
                room = 8 * SECOND - sign * world.clock_offset
                if room < SECOND // 2:
                    return False  # when it has been set the other way
                by = min(int(dice.uniform(0.5, 5) * SECOND), room)
                world.clock_offset += sign * by
                return True

            return jump

        self.faults.now = {
            "database slow": slow,
            "database away for less than a lease": away(1, 25),
            "database away for more than a lease": away(31, 60),
            CLOCK_STEPS[0]: step(1),
            CLOCK_STEPS[1]: step(-1),
        }
        database.lose_answer = lambda: self.faults.take("answer of a COMMIT lost")
        database.refuse_commit = lambda: self.faults.take("serialization failure")
        bursts = []
        for market in MARKETS:
            calendar = TradingCalendar(market)
            for day in calendar.trading_days(date(self.year, 1, 3), date(self.year, 12, 18)):
                phases = calendar.phases(day)
                bursts += [
                    phases.pre_open_at,
                    phases.open_at,
                    phases.close_at,
                    phases.post_close_ends_at,
                ]
        self.faults.plan(sorted(world.at(each) for each in bursts), self.seed)
        december = world.at(datetime(self.year, 12, 12, tzinfo=UTC))
        world.call(december - world.now, self._step_in_turn)

    def _step_in_turn(self) -> None:
        """Make up for clock steps that had no room, because most were to the same side."""
        steps = sorted(CLOCK_STEPS, key=self.faults.happened.__getitem__)
        if self.faults.happened[steps[0]] < EACH:
            self.faults.count(next(kind for kind in steps if self.faults.now[kind]()))
            self.world.call(3 * 3600 * SECOND, self._step_in_turn)

    # --- running ---------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Live through the year."""
        began, cpu = time.perf_counter(), time.process_time()
        collect = gc.isenabled()
        gc.disable()
        gc.freeze()
        try:
            with ExitStack() as stack:
                self._enter(stack)
                self._live()
        finally:
            gc.unfreeze()
            if collect:
                gc.enable()
        return self._outcome(time.perf_counter() - began, time.process_time() - cpu)

    def _enter(self, stack: ExitStack) -> None:
        """Put virtual time, seeded chance and the named points in place of the real ones."""
        world = self.world
        random.seed(self.seed)  # Celery draws from it
        clock = types.SimpleNamespace(monotonic=world.monotonic, sleep=world.sleep)
        previous = TradingCalendar.previous_trading_day
        bounds = _remembered(lambda calendar, day: Bounds(session_bounds(calendar, day)))
        put: list[tuple[Any, str, Any]] = [
            (attempts_module, "time", clock),
            (scheduler_module, "time", clock),
            (attempts_module, "os", types.SimpleNamespace(getpid=world.getpid)),
            (runs, "uuid", types.SimpleNamespace(uuid4=self.uuid4, UUID=uuid.UUID)),
            (executions, "_alike", {}),
            (executions, "claim", self._with_points("claim", executions.claim)),
            (executions, "mark_published", self._with_points("mark", executions.mark_published)),
            (scheduler_module, "plan_runs", self._freezing(planning.plan_runs)),
            # Pure functions of a calendar and a date: asked for again and again, worked out once.
            (scheduler_module, "session_bounds", bounds),
            (planning, "session_bounds", bounds),
            (TradingCalendar, "phases", _remembered(TradingCalendar.phases)),
            (TradingCalendar, "previous_trading_day", _remembered(previous)),
            (scheduler_module, "TradingCalendar", lru_cache(maxsize=None)(TradingCalendar)),
            (executions, "read_now", self.database.read_now),
            (scheduler_module, "read_now", self.database.read_now),
            (scheduler_module, "reading", lambda engine: engine.read()),
            (scheduler_module, "writing", lambda engine: engine.begin()),
            (scheduler_module, "each_alone", lambda engine, **_: engine.each_alone()),
            (attempts_module, "writing", lambda engine: engine.begin()),
            (attempts_module, "each_alone", lambda engine, **_: engine.each_alone()),
            (self.pipeline, "dag", lru_cache(maxsize=None)(self.pipeline.dag)),
        ]
        for module, name, value in put:
            stack.enter_context(mock.patch.object(module, name, value))
        watch = _Watch(self)
        logger = logging.getLogger("prometheus")
        logger.addHandler(watch)
        stack.callback(logger.removeHandler, watch)
        propagate, logger.propagate = logger.propagate, False
        level = logger.level
        logger.setLevel(logging.ERROR)
        stack.callback(setattr, logger, "propagate", propagate)
        stack.callback(logger.setLevel, level)
        self.database.create(TRIGGERS)
        jobs = list(self.pipeline.dag(MARKETS[0], self.start.date()))
        needs = [(job.job_id, each) for job in jobs for each in job.dependencies]
        self.database.raw.executemany("INSERT INTO needs VALUES (?, ?)", needs)
        if self._defect is not None:
            DEFECTS[self._defect](stack, self.database)

    def _with_points(self, what: str, function: Callable[..., object]) -> Callable[..., object]:
        def passed(*args: object, **kwargs: object) -> object:
            actor = self._actor()
            if actor is None:
                return function(*args, **kwargs)
            actor.point(what, "before")
            result = function(*args, **kwargs)
            actor.point(what, "after")
            return result

        return passed

    def _freezing(self, function: Callable[..., object]) -> Callable[..., object]:
        def planned(*args: object, **kwargs: object) -> object:
            result = function(*args, **kwargs)
            actor = self._actor()
            if result and isinstance(actor, Beat) and self.faults.take("beat freezes in a plan"):
                actor.freeze(8, 70)
            return result

        return planned

    def _actor(self) -> Actor | None:
        task = self.world.task
        return task.process if task is not None and isinstance(task.process, Actor) else None

    def _live(self) -> None:
        world = self.world
        world.wake = self.wake
        raw = self.database.raw
        raw.create_function("closed", 1, self.closed.append)
        raw.create_function("given_up", 1, self._judge_given_up)
        raw.create_function("taken", 3, self._judge_taken)
        self._plan_faults()
        for name in ("beat-1", "beat-2"):
            self.beats[name] = Beat(self, name, election=True)
        for name in ("worker-1", "worker-2", "worker-3"):
            self.start_worker(name, 4)
        day, end = self.start, self._end()
        last_fault = datetime(self.year, 12, 22, tzinfo=UTC)
        while day < end and world.violation is None:
            day = min(day + timedelta(days=5), end)
            world.run(world.at(day))
            self._judge_closed()
            if day >= last_fault:
                self.faults.forget()
        if world.violation is None:
            self._judge_sessions()
        if world.violation is None:
            self._check_history()

    def _end(self) -> datetime:
        if self._days is not None:
            return self.start + timedelta(days=self._days)
        return datetime(self.year, 12, 31, tzinfo=UTC) + LAST_RUNS

    def _last_session(self) -> date:
        """Return the last day whose runs must have ended."""
        # The first of January, a holiday everywhere, where no session can have had its run.
        return max(self.start, self._end() - LAST_RUNS).date()

    def _judge_closed(self) -> None:
        for dag_id in self.closed:
            name, _, day = dag_id.rpartition("_")
            if day < self.start.date().isoformat():
                continue  # its windows had closed in part before the year began
            self.jobs += 20
            market = name.removesuffix(f"_{self.pipeline.name}").upper()
            dag = self.pipeline.dag(market, date.fromisoformat(day))
            before = TradingCalendar(market).previous_trading_day(dag.as_of_date)
            earlier = dag_id_for(self.pipeline.name, market, before)
            wrong = judge_run(self.database, self.script, self.faults, dag, earlier)
            if wrong is not None:
                self._found(wrong)
        self.closed.clear()

    def _found(self, wrong: str) -> None:
        if self.world.violation is None:
            self.world.violation = self.database.tell(wrong)

    def _judge_given_up(self, incarnation: str) -> None:
        """Only a worker may be given up that is dead, or could not renew."""
        if not self._may_be_lost(incarnation):
            self._found(f"P2: {self.worker_of[incarnation].name}, a healthy worker, was given up")

    def _judge_taken(self, execution_id: str, incarnation: str, hard_limit_at: str) -> None:
        """Only what its worker runs no more may be called lost, and what is past its limit."""
        worker = self.worker_of[incarnation]
        if self._may_be_lost(incarnation) or hard_limit_at <= self.world.database_time():
            return
        if execution_id in worker.cut_off_rightly:
            return
        if execution_id not in worker.unsure or worker.holds(execution_id):
            self._found(f"P2: {execution_id} was taken from {worker.name}, a healthy worker")

    def _may_be_lost(self, incarnation: str) -> bool:
        worker = self.worker_of[incarnation]
        return (
            not worker.alive
            or worker.incarnation != incarnation  # was given up, and has begun anew
            or self.lately(worker.ailed_until)
        )

    def lately(self, at: int) -> bool:
        """Say whether it is less than a lease ago."""
        return self.world.now - at < LEASE // timedelta(microseconds=1)

    def _judge_sessions(self) -> None:
        """Every session has had its run, and every run has ended, but for those of the end."""
        for market in MARKETS:
            for day in TradingCalendar(market).trading_days(
                self.start.date(), self._last_session()
            ):
                found = self.database.raw.execute(
                    "SELECT status FROM dag_runs WHERE market_id = ? AND as_of_date = ?",
                    (market, day.isoformat()),
                ).fetchall()
                if len(found) != 1 or found[0][0] == "OPEN":
                    self.world.violation = f"P1: {market} {day} has {found}"
                    return

    def _check_history(self) -> None:
        """Have the independent checker look at what the database says."""
        first, last = self.start.date(), self._last_session()
        expect = Expectation({self.pipeline.name: MARKETS}, first, last)
        with self.database.sqlalchemy() as connection:
            report = check(
                connection,
                finished=False,  # the runs of the last sessions are still open
                starts=[StartRecord(name, at) for name, at in self.started.items()],
                expect=expect,
                tolerances=Tolerances(clock_steps=timedelta(seconds=16)),
                now=self.world.instant(self.world.now),
            )
        if report.violations:
            first_found = report.violations[0]
            self.world.violation = f"{len(report.violations)} found by the checker: {first_found}"

    def _outcome(self, wall: float, cpu: float) -> Outcome:
        raw = self.database.raw
        digest = hashlib.sha256()
        for line in self.faults.log:
            digest.update(line.encode())
        for table in ("dag_runs", "job_executions", "worker_incarnations", "leases"):
            for row in raw.execute(f"SELECT * FROM {table} ORDER BY rowid"):
                digest.update(repr(row).encode())
        digest.update(repr(self.world.violation).encode())
        statuses = dict(
            raw.execute("SELECT status, count(*) FROM job_executions GROUP BY 1 ORDER BY 1")
        )
        counts = Counter(self.faults.happened)
        ticks = sum(beat.scheduler.totals["ticks"] for beat in self.beats.values())
        return Outcome(
            year=self.year,
            seed=self.seed,
            digest=digest.hexdigest(),
            violation=self.world.violation,
            jobs=self.jobs,
            runs=raw.execute("SELECT count(*) FROM dag_runs").fetchone()[0],
            attempts=raw.execute("SELECT count(*) FROM job_executions").fetchone()[0],
            sessions_after_dst=_sessions_after_dst(self.year),
            days=(self.world.now - self.world.at(self.start)) / SECOND / 86_400,
            faults={kind: counts[kind] for kind in self.faults._armed},
            statuses=statuses,
            cpu_seconds=cpu,
            wall_seconds=wall,
            figures={
                "events": self.world.events,
                "leaps": self.world.leaps,
                "transactions": self.database.transactions,
                "ticks of the last beats": ticks,
            },
        )


Task = tuple[int, str | None, int | None]
"""A seed, a defect and a number of days."""


def live(task: Task) -> Outcome:
    """Live through one year; for a pool of processes."""
    seed, defect, days = task
    return Year(seed, defect=defect, days=days).run()


def _leads(beat: Beat) -> bool:
    return bool(beat.scheduler._leads)


class Bounds:
    """The bounds of a session, with the windows that were made of them."""

    def __init__(self, bounds: SessionBounds) -> None:
        self._bounds = bounds
        self._windows: dict[object, Window] = {}
        self.phases = bounds.phases

    def window(self, job: JobMetadata) -> Window:
        key = job.required_state, job.start, job.window
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = self._bounds.window(job)
        return window


def _remembered(function: Callable[..., object]) -> Callable[..., object]:
    """Keep what a pure function of a calendar and a date has answered."""
    known: dict[tuple[str, date], object] = {}

    def answered(calendar: TradingCalendar, session_date: date) -> object:
        key = calendar.market_id, session_date
        if key not in known:
            known[key] = function(calendar, session_date)
        return known[key]

    return answered


class _Watch(logging.Handler):
    """What the product catches and only logs is a violation all the same."""

    FORBIDDEN = ("market_held", "market_not_planned", "not_rescued", "run_unreadable")

    def __init__(self, year: Year) -> None:
        super().__init__()
        self._year = year

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and is_unavailable(error):
            return  # the database's trouble, which the next tick makes good
        if record.msg in self.FORBIDDEN and self._year.world.violation is None:
            self._year.world.violation = self._year.database.tell(f"{record.msg}: {error!r}")


def _sessions_after_dst(year: int) -> int:
    """Count the sessions before which a clock of their market was changed."""
    count = 0
    for market, zone in (("US_EQ", "America/New_York"), ("EU_EQ", "Europe/Paris")):
        days = TradingCalendar(market).trading_days(date(year, 1, 1), date(year, 12, 31))
        noons = [
            datetime(each.year, each.month, each.day, 12, tzinfo=ZoneInfo(zone)) for each in days
        ]
        count += sum(a.utcoffset() != b.utcoffset() for a, b in pairwise(noons))
    return count
