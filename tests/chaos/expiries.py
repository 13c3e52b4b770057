"""Why each window was lost: what held a job up until it was over, or what its way to it took."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum

from tests.chaos.enemy import CUTS_REDIS, LOSSES, OF_POSTGRES, SKEWS, Event
from tests.chaos.judge import (
    GOES_ON_WITHIN,
    LED_AGAIN_WITHIN,
    SENT_AGAIN_WITHIN,
    UP_WITHIN,
    Attempt,
    covered,
    next_since,
    starts_of,
)

AT_ONCE = 8.0
"""
Wall seconds in which a healthy installation starts what is ready and has nothing before it: a tick
every 3 s, a message that is sent a second later if the first to do it died, and as much for load.
"""
LONGEST_JOB = 8.5
"""Wall seconds that a job works at most, and holds its transaction."""
Span = tuple[float, float]


class Why(StrEnum):
    """What a window was lost to; the reasons of all."""

    POSTGRES = "PostgreSQL was away, or had only just returned"
    REDIS = "Redis was away, or had lost messages"
    LEADER = "the leader was hit"
    WORKER = "a worker of its queue was hit"
    TOGETHER = "several of these, one after the other"
    RETRIES = "attempts of it, or of what it waits for, had failed or were lost"
    QUEUE = "others were rightly before it"
    WORK = "what it waits for took its time"
    SHORT = f"no more than {AT_ONCE:g} s were left"


_FAULTS = (Why.POSTGRES, Why.REDIS, Why.LEADER, Why.WORKER)


class Expiries:
    """Explains lost windows by rows and faults."""

    def __init__(
        self,
        attempts: Sequence[Attempt],
        events: Sequence[Event],
        queues: Mapping[int, frozenset[str]],
    ) -> None:
        """
        Args:
            queues: By main process, what each worker takes from.
        """
        self._attempts = attempts
        self._events = events
        self._queues = queues
        self._starts = starts_of(attempts)
        self._by_job: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
        for each in attempts:
            self._by_job[each.job].append(each)
        for of_job in self._by_job.values():
            of_job.sort(key=lambda each: each.number)

    def judge(self) -> tuple[Counter[Why], list[str]]:
        """Count the reasons, and name what was lost without one."""
        reasons: Counter[Why] = Counter()
        without = []
        for each in self._attempts:
            if each.status != "EXPIRED":
                continue
            why = self.explain(each)
            if isinstance(why, Why):
                reasons[why] += 1
            else:
                without.append(why)
        return reasons, without

    def explain(self, expired: Attempt) -> Why | str:
        """
        Follow what an attempt waited for, step by step back, until something explains the loss.

        Returns:
            The first fault on that way; else what it had to wait for; or in words what was late on
            it though nothing was in its way.
        """
        each, until = expired, expired.closes_at or expired.ended_at or 0.0
        ordinary = {Why.SHORT}
        while True:
            before = self._before(each, until)
            looks = [
                (self._waiting(each, until), each, "waited for too long"),
                (self._working(before), before, "ran for too long")
                if before is not None
                else (self._making(each), each, "got its run too late"),
            ]
            for why, who, what in looks:
                if why is None:
                    return f"{expired.execution_id}: {who.execution_id} {what}"
                if why in _FAULTS or why is Why.TOGETHER:
                    return why
                ordinary.add(why)
            if before is None:
                # Of what explains it, that which is less usual.
                return next(why for why in Why if why in ordinary)
            ordinary.add(Why.RETRIES if before.job == each.job else Why.WORK)
            each, until = before, min(until, before.started_at or until)

    def _before(self, each: Attempt, until: float) -> Attempt | None:
        """Return the attempt that had to end before another could start, if there is one."""
        if each.number > 1:
            return next(one for one in self._by_job[each.job] if one.number == each.number - 1)
        lasts = [self._by_job[key][-1] for key in each.waits_for if self._by_job.get(key)]
        if each.ready_at is None or each.ready_at >= until:
            late = [one for one in lasts if one.ended_at is None or one.ended_at >= until]
            late = late or [one for one in lasts if one.status != "SUCCESS"]
            return min(late, key=lambda one: one.started_at or float("inf"), default=None)
        last = max(lasts, key=lambda one: one.ended_at or 0.0, default=None)
        if last is None or (last.ended_at or 0.0) < each.ready_at - 1e-3:
            return None  # its window, or its run, came later
        return last

    def _waiting(self, each: Attempt, until: float) -> Why | None:
        """Say what kept something waiting that was ready; ``None`` if nothing did."""
        if each.ready_at is None or until - each.ready_at <= AT_ONCE:
            return Why.SHORT
        since = next_since(each, until, self._starts) or each.ready_at
        if until - since > AT_ONCE:
            return self._fault(since, until, each.queue, sent_at=each.ready_at)
        # What piled up before it may be left of a fault.
        piled_up = self._fault(each.ready_at, until, each.queue, sent_at=each.ready_at)
        return piled_up or Why.QUEUE

    def _making(self, first: Attempt) -> Why | None:
        """Say what delayed a run whose first job could have started earlier."""
        if first.opens_at is None or first.ready_at is None:
            return Why.SHORT
        if first.ready_at - first.opens_at <= AT_ONCE:
            return Why.SHORT
        return self._fault(first.opens_at, first.ready_at)

    def _working(self, each: Attempt) -> Why | None:
        """Say what made an attempt run for longer than any job does."""
        if each.started_at is None or each.ended_at is None or each.status != "SUCCESS":
            return Why.SHORT
        if each.ended_at - each.started_at <= LONGEST_JOB + AT_ONCE:
            return Why.WORK
        return self._fault(each.started_at + LONGEST_JOB, each.ended_at, each.queue)

    def _fault(
        self, since: float, until: float, queue: str = "", *, sent_at: float = float("inf")
    ) -> Why | None:
        """
        Say which faults cover a time but for what is ordinary; ``None`` if none do.

        Args:
            sent_at: From when on its message may have been with a worker of its queue.
        """
        together: list[Span] = []
        for why in _FAULTS:
            spans = sorted(self._spans(why, queue, sent_at))
            if until - since - covered(since, until, spans) <= AT_ONCE:
                return why
            together += spans
        left = until - since - covered(since, until, sorted(together))
        return Why.TOGETHER if left <= AT_ONCE else None

    def _spans(self, why: Why, queue: str, sent_at: float) -> Iterator[Span]:
        """Give when a kind of fault could be felt."""
        for event in self._events:
            if event.fault in SKEWS:
                continue
            if event.fault in OF_POSTGRES:
                kind, tail = Why.POSTGRES, GOES_ON_WITHIN
            elif event.fault in LOSSES | CUTS_REDIS:
                kind, tail = Why.REDIS, SENT_AGAIN_WITHIN + LED_AGAIN_WITHIN
            elif event.led:
                kind, tail = Why.LEADER, LED_AGAIN_WITHIN
            elif event.pid is not None and queue in self._queues.get(event.pid, ()):
                # What it had taken is missed only after a while; what came later, others have.
                had_it = sent_at <= event.ends_at
                kind = Why.WORKER
                tail = SENT_AGAIN_WITHIN + LED_AGAIN_WITHIN if had_it else UP_WITHIN
            else:
                continue
            if kind is why:
                yield event.at, event.ends_at + tail
