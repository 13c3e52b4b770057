"""A model of the broker: lists by queue and priority, which lose, double, delay and reorder."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from prometheus.dispatch.publisher import PRIORITY, BrokerUnavailableError, Mark
from prometheus.orchestration.dag import JobPriority
from prometheus.persistence.executions import Publication
from tests.simulation.faults import Faults
from tests.simulation.world import Process, World

VISIBILITY = 7_200
"""Seconds after which what a dead worker held back is delivered again."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message: that an execution may start, at once or at a time."""

    execution_id: str
    queue: str
    priority: int
    due: int = 0
    """Not before this time (a retry's)."""


class Broker:
    """The lists, and who is told that something waits in them."""

    def __init__(self, world: World, faults: Faults) -> None:
        self.world = world
        self.faults = faults
        self.lists: dict[str, tuple[deque[Message], ...]] = {}
        self.down_until = 0
        self.mark: Mark | None = None
        self.waiting = 0
        self.arrived: Callable[[], None] = lambda: None
        """Called when there is something to take."""

    def _lists(self, queue: str) -> tuple[deque[Message], ...]:
        lists = self.lists.get(queue)
        if lists is None:
            lists = self.lists[queue] = (deque(), deque(), deque(), deque())
        return lists

    def reach(self) -> None:
        """Fail as a client does while the broker can not be reached."""
        world = self.world
        task = world.task
        if world.now < self.down_until or (
            task is not None and world.now < task.process.no_broker_until
        ):
            raise BrokerUnavailableError("connection refused")

    def send(self, message: Message) -> None:
        """Take a message in, as well as today's faults allow."""
        faults, world = self.faults, self.world
        if faults.take("broker refuses"):
            self.down_until = world.now + int(world.random.uniform(1, 40) * 1e6)
            faults.last_until(self.down_until)
            world.call(self.down_until - world.now, lambda: self.arrived())
            self.reach()
        if faults.take("message lost"):
            return
        if faults.take("message doubled"):
            self._put(message)
        if faults.take("message late"):
            world.call(int(world.random.uniform(0.5, 60) * 1e6), lambda: self._put(message))
            return
        self._put(message, anywhere=faults.take("message out of order"))
        if faults.take("broker emptied"):
            self.flush()

    def _put(self, message: Message, *, anywhere: bool = False) -> None:
        steps = self._lists(message.queue)
        waiting = steps[message.priority // 3]
        if anywhere:
            steps = (steps[0], steps[-1], waiting, waiting)
            waiting = steps[self.world.random.randrange(4)]
            waiting.appendleft(message)
        else:
            waiting.append(message)
        self.waiting += 1
        self.arrived()

    def put_back(self, message: Message) -> None:
        """Deliver again what a dead worker held."""
        self._put(replace(message, due=0))

    def take(self, queues: Iterable[str]) -> Message | None:
        """Hand out the next message of some queues."""
        for queue in queues:
            for waiting in self._lists(queue):
                if waiting:
                    self.waiting -= 1
                    return waiting.popleft()
        return None

    def flush(self) -> None:
        """Forget everything."""
        for lists in self.lists.values():
            for each in lists:
                each.clear()
        self.waiting = 0
        self.mark = None


class Port:
    """The broker as one process reaches it; what the scheduler calls."""

    def __init__(self, broker: Broker, process: Process, point: Callable[[str], None]) -> None:
        self._broker = broker
        self._process = process
        self._point = point

    def publish(self, publications: Sequence[Publication]) -> None:
        self._point("publish before")
        for each in publications:
            self._broker.reach()
            priority = 9 if each.trigger == "catch_up" else PRIORITY[JobPriority(each.priority)]
            self._broker.send(Message(each.execution_id, each.queue, priority))
        self._point("publish after")

    def oldest(self, queues: Collection[str]) -> dict[str, bytes | None]:
        return dict.fromkeys(queues)  # no queue goes deaf here

    def send_canaries(self, queues: Collection[str]) -> None: ...

    def busy(self, incarnations: Collection[str]) -> set[str]:
        return set()

    def announce_failures(self, failures: Sequence[Publication]) -> None:
        raise AssertionError("the pipeline has no on_failure")

    def waiting_ids(self, queues: Iterable[str]) -> set[str]:
        self._broker.reach()
        return {
            message.execution_id
            for queue in queues
            for waiting in self._broker._lists(queue)
            for message in waiting
        }

    def leave_mark(self, mark: Mark) -> None:
        left = self._broker.mark
        if mark.given_up - (left.given_up if left else frozenset()):
            self._point("names before")
        self._broker.reach()
        left = self._broker.mark
        if left is None or left.epoch <= mark.epoch or left.at <= mark.at:
            self._broker.mark = mark

    def read_mark(self, *, within: timedelta | None = None) -> Mark | None:
        self._broker.reach()
        return self._broker.mark
