"""Virtual time, and processes that live in it: an event queue and greenlets, nothing else."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from greenlet import getcurrent, greenlet

MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Killed(BaseException):
    """What a process dies of; no ``except Exception`` holds it up."""


class Violation(BaseException):
    """A promise was broken; the simulation ends."""


class Process:
    """A beat or a worker: its tasks are killed and frozen together."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.frozen_until = 0
        self.no_database_until = 0
        self.no_broker_until = 0
        self.tasks: dict[Task, None] = {}  # in order: a set's would depend on addresses
        self.notes = 0

    @property
    def well(self) -> bool:
        """Whether it lives, moves and reaches everything."""
        now = self.world.now
        return (
            self.alive
            and self.frozen_until <= now
            and self.no_database_until <= now
            and self.no_broker_until <= now
        )


class Task:
    """One thread of control of a process."""

    __slots__ = ("_work", "done", "due", "line", "number", "periodic", "process")

    def __init__(self, process: Process, work: Callable[[], None], number: int) -> None:
        self.process = process
        self._work = work
        self.number = number
        self.periodic = False
        self.done = False
        self.due = 0
        """Sequence number of the event that goes on with it; an older one is void."""
        self.line = greenlet(self._run)

    def _run(self) -> None:
        try:
            self._work()
        except Killed:
            pass
        finally:
            self.done = True
            self.process.tasks.pop(self, None)


Event = tuple[int, int, Task | None, Callable[[], None] | None]


class World:
    """
    Everything that happens, in the order of virtual time.

    Times are whole microseconds since 1970. Two queues: what is due for its own sake, and what
    only comes round (ticks, renewals). When all is quiet, time leaps over the second.
    """

    def __init__(self, start: datetime, seed: int) -> None:
        self.now = (start - _EPOCH) // MICROSECOND
        self.random = random.Random(seed)
        self.clock_offset = 0
        """How far the database's clock is ahead, in microseconds."""
        self.processes: list[Process] = []
        self.task: Task | None = None
        self.violation: str | None = None
        self.quiet_until: int | None = None
        """Set while nothing but rounds would be made until then."""
        self.wake: Callable[[int], None] = lambda target: None
        """Called before a leap, with where it goes."""
        self._hub = getcurrent()
        self._due: list[Event] = []
        self._rounds: list[Event] = []
        self._number = 0
        self._text_at = -1
        self._text = ""
        self.leaps = 0
        self.events = 0

    # --- clocks ----------------------------------------------------------------------------------

    def at(self, instant: datetime) -> int:
        """Return an instant in microseconds."""
        return (instant - _EPOCH) // MICROSECOND

    def instant(self, at: int) -> datetime:
        """Return a number of microseconds as an instant."""
        return _EPOCH + at * MICROSECOND

    def strftime(self, _format: str, _now: str, later: str = "") -> str:
        """Stand in for the database's function of this name, as the product calls it."""
        if later:
            at = self.instant(self.now + self.clock_offset) + timedelta(
                seconds=float(later.removesuffix(" seconds"))
            )
            return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03}000"
        return self.database_time()

    def database_time(self) -> str:
        """Return the database's time as it keeps it."""
        at = self.now + self.clock_offset
        if at != self._text_at:
            self._text_at = at
            # To the millisecond, as SQLite has it.
            self._text = str(_EPOCH + (at // 1000 * 1000) * MICROSECOND)[:26]
            if len(self._text) == 25 or "." not in self._text:  # a whole second
                self._text = self._text[:19] + ".000000"
        return self._text

    def monotonic(self) -> float:
        """Stand in for ``time.monotonic``."""
        return self.now / 1e6

    def getpid(self) -> int:
        """Stand in for ``os.getpid``: each task of a worker is a child of its own."""
        return self.task.number if self.task is not None else 0

    # --- tasks -----------------------------------------------------------------------------------

    def start(self, process: Process, work: Callable[[], None], after: int = 0) -> Task:
        """Begin a task of a process."""
        self._number += 1
        task = Task(process, work, self._number)
        process.tasks[task] = None
        self._push(self.now + after, task)
        return task

    def call(self, after: int, work: Callable[[], None]) -> None:
        """Have something done later, by nobody's process."""
        self._number += 1
        heapq.heappush(self._due, (self.now + after, self._number, None, work))

    def _push(self, at: int, task: Task, *, round_: bool = False) -> None:
        self._number += 1
        task.due = self._number
        task.periodic = round_
        heapq.heappush(self._rounds if round_ else self._due, (at, self._number, task, None))

    def sleep(self, seconds: float) -> None:
        """Stand in for ``time.sleep``."""
        self._wait(seconds, round_=False)

    def come_round(self, seconds: float) -> None:
        """Wait until the next tick or renewal, which a leap may put off."""
        self._wait(seconds, round_=True)

    def _wait(self, seconds: float, *, round_: bool) -> None:
        task = self.task
        assert task is not None
        if task.done:
            raise Killed  # again: nothing of what it dies in, such as a transaction, takes time
        self._push(self.now + int(seconds * 1e6) + 1, task, round_=round_)
        self._hub.switch()

    def come_round_at(self, process: Process, at: int) -> None:
        """Move the rounds of a process."""
        for task in process.tasks:
            if task.periodic:
                self._push(at, task, round_=True)

    def kill(self, process: Process) -> None:
        """End a process, wherever it is; ends the caller, if it is one of its tasks."""
        process.alive = False
        me = self.task
        for task in list(process.tasks):
            if task is not me:
                self.end(task)
        if me is not None and me.process is process:
            raise Killed

    def end(self, task: Task) -> None:
        """End one task."""
        me = self.task
        task.due = 0
        task.process.tasks.pop(task, None)
        if not task.done:
            self.task = task
            task.done = True
            try:
                if task.line:
                    # Its parent is whoever began it: let it come back here.
                    task.line.parent = getcurrent()
                    task.line.throw(Killed)
            finally:
                self.task = me

    # --- the loop --------------------------------------------------------------------------------

    def run(self, until: int) -> None:
        """Let everything happen up to a time, or to the first violation."""
        due, rounds = self._due, self._rounds
        hub = self._hub = getcurrent()
        while self.violation is None:
            if self.quiet_until is not None:
                self._leap(until)
            if due and (not rounds or due[0] < rounds[0]):
                queue = due
            elif rounds:
                queue = rounds
            else:
                return
            if queue[0][0] > until:
                return
            at, number, task, work = heapq.heappop(queue)
            if task is None:
                self.now = max(self.now, at)
                self.events += 1
                self.task = None
                assert work is not None
                work()
                continue
            if task.due != number or task.done:
                continue
            if task.process.frozen_until > at:
                self._push(task.process.frozen_until, task, round_=task.periodic)
                continue
            self.now = max(self.now, at)
            self.events += 1
            self.task = task
            task.periodic = False
            task.line.parent = hub
            try:
                task.line.switch()
            except Violation as error:
                self.violation = str(error)
            self.task = None

    def _leap(self, until: int) -> None:
        """Go to the next thing due, if nothing but rounds is before it."""
        quiet_until, self.quiet_until = self.quiet_until, None
        target = min(quiet_until or until, until)
        while self._due and self._due[0][2] is not None and self._due[0][2].due != self._due[0][1]:
            heapq.heappop(self._due)  # void
        if self._due:
            target = min(target, self._due[0][0])
        if target - self.now > 15_000_000:
            self.leaps += 1
            self.wake(target)
