"""What the jobs themselves left: attempts that ran at the same time, and what they wrote again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

from tests.chaos.enemy import Event, Fault

A_MOMENT = 10.0
"""
Wall seconds in which a worker that is back ends what was taken from it: with its next renewal,
which comes after 5 s at most; the rest is for load.
"""


class Excuse(StrEnum):
    """Why two attempts of a job may run at the same time; see the limits of the second promise."""

    WOKE = "the first's worker was frozen, and has just woken"
    MAIN_FROZEN = "the first's main process alone stood still, under a lease of less than 10 s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """From the first line of an attempt's evidence to its last."""

    execution_id: str
    job: tuple[str, str]
    number: int
    """1 for the first attempt of its job."""
    worker: int | None
    """Main process of its worker, by its row."""
    began_at: float
    last_at: float


def overlaps(
    bodies: Iterable[Body], events: Sequence[Event], lease: float
) -> tuple[Counter[Excuse], list[str]]:
    """
    Count the pairs of attempts that ran at the same time with an excuse, and name the others.

    Args:
        lease: Of a worker.
    """
    by_job: dict[tuple[str, str], list[Body]] = defaultdict(list)
    for body in bodies:
        by_job[body.job].append(body)
    excused: Counter[Excuse] = Counter()
    others = []
    for attempts in by_job.values():
        attempts.sort(key=lambda body: body.number)
        for first, second in combinations(attempts, 2):
            if first.last_at <= second.began_at or second.last_at <= first.began_at:
                continue
            excuse = next(_excuses(first, second, events, lease), None)
            if excuse is None:
                seconds = min(first.last_at, second.last_at) - second.began_at
                others.append(
                    f"{first.job}: {first.execution_id} on pid {first.worker} for {seconds:.1f} s "
                    f"beside {second.execution_id}"
                )
            else:
                excused[excuse] += 1
    return excused, others


def _excuses(first: Body, second: Body, events: Sequence[Event], lease: float) -> Iterator[Excuse]:
    for event in events:
        if event.pid != first.worker or event.at > second.began_at:
            continue
        in_time = first.last_at <= event.ends_at + A_MOMENT
        # Its children look themselves, and end after so long.
        children_end_at = event.at + 0.75 * lease + 2
        if event.fault is Fault.WORKER_FREEZE_LONG and in_time:
            yield Excuse.WOKE
        stood_still = event.fault is Fault.WORKER_MAIN_FREEZE and lease < 10
        if stood_still and first.last_at <= children_end_at + A_MOMENT / 2:
            yield Excuse.MAIN_FROZEN


# --- effects -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A block of ``ctx.transaction()`` that was committed."""

    execution_id: str
    job: tuple[str, str]
    block: str
    committed_at: float
    ended_at: float | None
    """When the last change of its attempt's row was committed; ``None``: it never started."""


def written_again(effects: Iterable[Effect]) -> int:
    """Count the blocks that an attempt had committed and a later one of the job did again."""
    writers: Mapping[object, set[str]] = defaultdict(set)
    for each in effects:
        writers[each.job, each.block].add(each.execution_id)
    return sum(len(several) - 1 for several in writers.values())


def written_twice(effects: Iterable[Effect]) -> Iterator[str]:
    """Name the attempts that committed the same block more than once."""
    counts = Counter((each.execution_id, each.block) for each in effects)
    yield from (f"{key} {number} times" for key, number in counts.items() if number > 1)


def written_late(effects: Iterable[Effect]) -> Iterator[str]:
    """
    Name what was committed by an attempt after it had been ended, or taken from its worker.

    A block's transaction holds the lock of its attempt's row, so it must have been committed before
    the one that ended the attempt, which is the last that wrote the row.
    """
    for each in effects:
        if each.ended_at is None or each.committed_at > each.ended_at:
            yield f"{each.execution_id}, block {each.block}"
