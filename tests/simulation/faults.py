"""What goes wrong, and how often; all of it drawn from the seed."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence

from tests.simulation.world import World

POINTS_OF_BEAT = tuple(
    f"beat dies {when} {what}"
    for what in ("claim", "publish", "mark")
    for when in ("before", "after")
)
POINTS_OF_WORKER = tuple(
    f"worker dies {when} {what}"
    for what in ("start", "finish", "advance")
    for when in ("before", "after")
)
AT_A_MESSAGE = (
    "message lost",
    "message doubled",
    "message late",
    "message out of order",
    "broker emptied",
    "broker refuses",
)
AT_A_COMMIT = ("answer of a COMMIT lost", "serialization failure")
AT_A_JOB = (
    "worker dies in a job",
    "worker dies and comes back at once",
    "worker freezes",
    "worker loses the database",
    "worker loses the database and the leader stops",
    "worker loses the broker",
)
AT_A_BEAT = ("beat freezes", "beat freezes in a plan", "beat loses the broker")
AT_A_TRANSACTION = ("worker freezes in a transaction",)
AT_A_MARK = ("beat freezes as it names who was given up",)
CLOCK_STEPS = ("clock goes forward", "clock goes back")
AT_A_TIME = (
    "database slow",
    "database away for less than a lease",
    "database away for more than a lease",
    *CLOCK_STEPS,
)
KINDS = (
    *AT_A_MESSAGE,
    *AT_A_COMMIT,
    *AT_A_JOB,
    *AT_A_BEAT,
    *AT_A_TIME,
    *POINTS_OF_BEAT,
    *POINTS_OF_WORKER,
    *AT_A_TRANSACTION,
    *AT_A_MARK,
)
A_DAY = 86_400_000_000
EACH = 54
"""How often each kind is planned in a year; at least 50 must have come to pass."""


class Faults:
    """
    Faults that wait for the next thing they can befall, and a count of those that have.

    A fault is planned for a time near a burst of work, and happens to the next message, COMMIT, job
    or point in the code of its kind.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._armed: dict[str, int] = dict.fromkeys(KINDS, 0)
        self._over_for_good = False
        self.happened: Counter[str] = Counter()
        self.now: dict[str, Callable[[], bool]] = {}
        """Kind -> what to do at its time, of the kinds that wait for nothing; false: not now."""
        self.log: list[str] = []
        self._began: list[int] = []
        self._over: list[int] = []

    def plan(self, bursts: Sequence[int], seed: int) -> None:
        """Spread a year's faults over some of its bursts of work."""
        dice = random.Random(seed)
        bad = sorted(dice.sample(bursts, min(len(bursts), 6 * EACH)))
        for kind in KINDS:
            for _ in range(EACH):
                at = dice.choice(bad) + int(dice.uniform(-0.5, 5) * 1e6)
                after = max(0, at - self._world.now)
                self._world.call(after, lambda kind=kind: self._arm(kind))  # type: ignore[misc]

    def _arm(self, kind: str) -> None:
        if kind not in self.now:
            self._armed[kind] += 1
        elif not self._over_for_good:
            if self.now[kind]():
                self.count(kind)
            else:
                self._world.call(A_DAY, lambda: self._arm(kind))

    def take(self, kind: str) -> bool:
        """Let a fault of some kind happen now, if one is waiting for it."""
        if not self.is_due(kind):
            return False
        self.count(kind)
        return True

    def is_due(self, kind: str) -> bool:
        """Hand out a fault that waits, to be counted when it comes to pass, or put back."""
        if not self._armed[kind]:
            return False
        self._armed[kind] -= 1
        return True

    def put_back(self, kind: str) -> None:
        """Have a fault that could not happen befall the next thing of its kind."""
        if not self._over_for_good:
            self._armed[kind] += 1

    def count(self, kind: str) -> None:
        """Note that a fault came to pass."""
        self.happened[kind] += 1
        task = self._world.task
        who = task.process.name if task is not None else ""
        self.log.append(f"{self._world.now} {kind} {who}")
        self.last_until(self._world.now)

    def last_until(self, at: int) -> None:
        """Note that something is wrong from now until a time."""
        ahead = self._world.clock_offset
        began, over = self._world.now + ahead, at + ahead
        if self._began:
            began, over = max(began, self._began[-1]), max(over, self._over[-1])
        self._began.append(began)
        self._over.append(over)

    def over_at(self, at: int) -> int:
        """Say when, by the database's clock, all was over that had begun to be wrong by a time."""
        number = bisect_right(self._began, at)
        return self._over[number - 1] if number else 0

    def quiet_for(self, since: int, until: int) -> int:
        """Return the longest time between two, by the database's clock, with nothing wrong."""
        number = bisect_right(self._began, since)
        quiet_since = max(since, self._over[number - 1] if number else 0)
        longest = 0
        while number < len(self._began) and self._began[number] <= until:
            longest = max(longest, self._began[number] - quiet_since)
            quiet_since = max(quiet_since, self._over[number])
            number += 1
        return max(longest, until - quiet_since)

    def forget(self) -> None:
        """Let nothing that is still waiting happen."""
        self._armed = dict.fromkeys(KINDS, 0)
        self._over_for_good = True
