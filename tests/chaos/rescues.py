"""By when each attempt of a lost worker must have been taken from it, and what that counts from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tests.chaos.enemy import (
    CUTS_REDIS,
    LEADS_WITHIN,
    OF_POSTGRES,
    SKEWS,
    Event,
    Fault,
)
from tests.chaos.judge import BACK_WITHIN, Attempt, Lead, Life

RESCUED_WITHIN = 15.0
"""
Wall seconds for which an orphan may lie once a leader can rescue it: what is promised beyond the
worker's lease. The product looks for orphans with every tick, so every 3 s at most, and every
second under short leases; the rest is for what a loaded machine adds.
"""
SLOW_TICK = 10.0
"""Wall seconds that a tick may take which has to find out that Redis does not answer."""
_LOSES_MARKS = CUTS_REDIS | {Fault.REDIS_FLUSH}
"""After which a leader's mark must have been there anew before it rescues."""
_LEADER_GONE = frozenset({Fault.BEAT_KILL, Fault.BEAT_FREEZE_LONG, Fault.DATABASE_HANG})
"""After which a standby must lead within the leader's lease and `LEADS_WITHIN`."""


class Since(StrEnum):
    """The last thing that a rescue had to wait for; the classes of all rescues."""

    SEEN = "the last renewal of its worker"
    POSTGRES = "PostgreSQL's return"
    LEADER_GONE = "the end of a leader"
    LEADER_BACK = "the leader's own return to PostgreSQL"
    LEADER_BEGAN = "the start of the beat that led"
    REDIS = "Redis's return"


@dataclass(frozen=True, slots=True)
class Rescue:
    """One attempt that was taken from its worker."""

    execution_id: str
    since: Since
    seconds: float
    """From then on to the rescue."""
    whole: float
    """From the last renewal of its worker to the rescue, whatever came between."""


@dataclass(frozen=True, slots=True)
class _Reason:
    """Something that puts a rescue off, if it begins before the rescue is overdue."""

    begins_at: float
    since: Since
    at: float
    """What `since` names."""


def limits(worker_lease: float, leader_lease: float) -> Mapping[Since, float]:
    """
    Return in how many seconds each class must be rescued.

    Who has not had the database, a scheduler that is new to it or one that has lost it, gives
    nobody up for one lease of the workers; nor does a leader before its mark has been in Redis for
    a quarter of it.
    """
    anew = BACK_WITHIN + worker_lease + RESCUED_WITHIN
    marked = worker_lease / 4
    return {
        Since.SEEN: worker_lease + RESCUED_WITHIN,
        Since.POSTGRES: anew,
        Since.LEADER_GONE: leader_lease + LEADS_WITHIN + marked + RESCUED_WITHIN,
        Since.LEADER_BACK: anew,
        Since.LEADER_BEGAN: anew,
        Since.REDIS: SLOW_TICK + marked + RESCUED_WITHIN,
    }


def rescues(
    attempts: Iterable[Attempt],
    leads: Sequence[Lead],
    beats: Iterable[Life],
    events: Sequence[Event],
    *,
    worker_lease: float,
    leader_lease: float,
) -> Iterator[Rescue]:
    """
    Find out what each rescue had to wait for: whatever allows it the latest moment.

    Nothing excuses a rescue that was overdue when it began; so a rescue that is late is beyond the
    limit of its class. A wrong clock is no excuse for anything.

    Args:
        leads: In order of time.
    """
    allowed = limits(worker_lease, leader_lease)
    began = {life.pid: life.began_at for life in beats}
    ends = [lead.at for lead in leads[1:]] + [float("inf")]
    tenures = list(zip(leads, ends, strict=True))
    of_beats: dict[int | None, list[Event]] = defaultdict(list)
    for event in events:
        if event.pid in began and event.fault not in SKEWS:
            of_beats[event.pid].append(event)
    for each in attempts:
        if not each.message.startswith("worker lost") or each.ended_at is None:
            continue
        lost_at = max(each.lease_ends_at or 0.0, each.started_at or 0.0)
        reasons = [
            _Reason(event.at, Since.POSTGRES, event.ends_at)
            for event in events
            if event.fault in OF_POSTGRES
        ]
        reasons += [
            _Reason(event.at, Since.REDIS, event.ends_at)
            for event in events
            if event.fault in _LOSES_MARKS
        ]
        for lead, until in tenures:
            if until <= lost_at or lead.at >= each.ended_at:
                continue
            if lead.pid in began:
                reasons.append(_Reason(lead.at, Since.LEADER_BEGAN, began[lead.pid]))
            reasons += _of_leader(lead, until, of_beats[lead.pid])
        seen_at = lost_at - worker_lease
        since, at = Since.SEEN, seen_at
        for reason in sorted(reasons, key=lambda reason: reason.begins_at):
            overdue_at = at + allowed[since]
            if reason.begins_at > min(overdue_at, each.ended_at):
                break
            if reason.at + allowed[reason.since] > overdue_at:
                since, at = reason.since, reason.at
        yield Rescue(
            each.execution_id, since, max(0.0, each.ended_at - at), each.ended_at - seen_at
        )


def _of_leader(lead: Lead, until: float, events: Iterable[Event]) -> Iterator[_Reason]:
    """Give what befell a beat while it led, or before and was still felt."""
    for event in events:
        if event.at > until:
            continue
        begins_at = max(lead.at, event.at)
        if event.fault.name.startswith("BROKER"):
            # Another may lead before it has Redis again.
            yield _Reason(begins_at, Since.REDIS, min(event.ends_at, until))
        elif event.ends_at <= until and event.fault is not Fault.BEAT_KILL:
            yield _Reason(begins_at, Since.LEADER_BACK, event.ends_at)
        else:
            # One that is only slow or unheard may lead for as long as that lasts.
            gone = event.fault in _LEADER_GONE and event.at >= lead.at
            yield _Reason(begins_at, Since.LEADER_GONE, event.at if gone else until)
