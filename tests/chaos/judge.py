"""
What must not have happened, judged from plain values: attempts, faults and lines of logs.

Nothing here reads a database, so each judgement is tried on histories that were made up.
"""

from __future__ import annotations

import bisect
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.enemy import (
    CELERYS_END,
    CUTS_REDIS,
    KILLS,
    LEADS_WITHIN,
    OF_POSTGRES,
    REPLACED_WITHIN,
    SKEWS,
    TAKES_A_SERVER,
    Event,
    Fault,
)

BY_ITSELF = ("StumbledError", "HopelessError")
"""With which the messages of failures begin that jobs are made for."""
LOST = ("worker lost", "worker cut off", "ended without a report", "its process ended")
"""With which those begin that only the end, or the silence, of a process can bring."""
ENDS_JOBS = frozenset(
    {
        Fault.WORKER_KILL,
        Fault.WORKER_AGAIN,
        Fault.CHILD_KILL,
        Fault.CHILD_KILL_EARLY,
        Fault.WORKER_FREEZE,
        Fault.WORKER_FREEZE_LONG,
        Fault.WORKER_MAIN_FREEZE,
        Fault.DATABASE_CUT,
        Fault.DATABASE_HANG,
        Fault.DATABASE_MUTE,
        Fault.DATABASE_SLOW,
    }
)
"""
Of a worker, what may end its jobs. Neither a wrong clock does, nor the loss of Redis, nor a warm
stop, which waits for them.
"""
_REDIS_GONE = frozenset(fault for fault in Fault if fault.name.startswith(("REDIS", "BROKER")))
START_WITHIN = 30.0
"""Wall seconds for which the product tries to write a start while the database is away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One row, with times as wall time in seconds."""

    execution_id: str
    status: str
    message: str = ""
    pid: int | None = None
    """Main process of the worker that started it."""
    queue: str = ""
    priority: int = 2
    """1 is the most urgent."""
    ready_at: float | None = None
    """When nothing but the product stood between it and its start; ``None``: not known, or never"""
    sent: int = 0
    """How many messages for it were sent."""
    started_at: float | None = None
    ended_at: float | None = None
    lease_ends_at: float | None = None
    """Until when its worker's lease lasted in the end."""
    job: tuple[str, str] = ("", "")
    """Run and name."""
    number: int = 1
    """1 for the first of its job."""
    opens_at: float | None = None
    """When its window opens; ``None`` where that does not count."""
    closes_at: float | None = None
    """End of its window; likewise."""
    waits_for: tuple[tuple[str, str], ...] = ()
    """The jobs that must have ended before it."""

    def __str__(self) -> str:
        return f"{self.execution_id} on pid {self.pid}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Incarnation:
    """One lease of a worker."""

    pid: int
    began_at: float
    ended_at: float | None
    """When it stopped or was given up."""


def failed_without_cause(
    attempts: Iterable[Attempt], events: Sequence[Event], lease: float
) -> Iterator[str]:
    """
    Name the attempts that failed though nothing was done to them.

    Whatever was done to a worker may show for one lease longer, until which its silence is borne.
    PostgreSQL's absence excuses what a job itself says of it. It never excuses a lost worker: those
    wait for the database as everybody does, and nobody is given up until it has been there for a
    lease again. Two exceptions, which the product announces: without Redis a worker can not know
    that all others wait too; and a start whose answer was lost may be found to have been written.

    Args:
        lease: Of a worker.
    """
    for each in attempts:
        if each.status != "FAILED" or each.message.startswith(BY_ITSELF):
            continue
        began, ended = each.started_at or 0.0, each.ended_at or 0.0

        def hit(
            faults: Iterable[Fault],
            began: float = began,
            ended: float = ended,
            pid: int | None = each.pid,
        ) -> bool:
            return any(
                event.fault in faults
                and (event.pid is None or event.pid == pid)
                and event.at <= ended
                and event.ends_at + lease >= began
                for event in events
            )

        if hit(ENDS_JOBS):
            continue
        if not each.message.startswith(LOST):
            excused = hit(OF_POSTGRES)
        elif each.message.startswith("worker cut off"):
            excused = hit(OF_POSTGRES) and hit(_REDIS_GONE)
        elif each.message.startswith("ended without a report"):
            excused = hit(OF_POSTGRES, ended=began + START_WITHIN)
        else:
            excused = False
        if not excused:
            yield str(each)


def given_up_without_cause(
    incarnations: Iterable[Incarnation], events: Sequence[Event], lease: float
) -> Iterator[str]:
    """
    Name the workers whose lease ran out though nothing was done to them.

    A registration whose answer was lost with the database leaves a lease that nobody renews.
    """
    for each in incarnations:
        if each.ended_at is None:
            continue
        excused = any(
            event.at <= each.ended_at
            and event.ends_at + lease >= each.began_at
            and (
                (event.fault in ENDS_JOBS | {Fault.WORKER_STOP} and event.pid == each.pid)
                or (event.fault in OF_POSTGRES and event.at <= each.began_at + lease)
            )
            for event in events
        )
        if not excused:
            yield f"pid {each.pid}, {each.ended_at - each.began_at:.0f} s after its beginning"


def lost_effects(wrote: Iterable[str], there: Collection[str]) -> list[str]:
    """
    Name the attempts whose transaction was said to be committed, and that left nothing.

    Whatever became of them: what is committed stays.

    Args:
        wrote: Those that were told so.
        there: Those that the database has something of.
    """
    return sorted(set(wrote).difference(there))


# --- how long things take ------------------------------------------------------------------------

SENT_AGAIN_WITHIN = 60.0
"""
Wall seconds after which a message that is gone is repeated: it is looked for every 30 s
(``reconcile_every``), once it was sent 25 s ago (``ring_again_after``), by a leader that ticks
every 3 s (``max_wait``).
"""
BACK_WITHIN = 10.0
"""
Wall seconds until a beat has the database: after its return, for which it looks every 10 s at most
(``LONGEST_AFTER_ERRORS``), or after its own start.
"""
LED_AGAIN_WITHIN = 15.0
"""Wall seconds until another leads: a lease of 10 s, a standby's pause of 3 s, and its tick."""
STOPPED_WITHIN = 35.0
"""
Wall seconds until a worker that was told to stop has ended: its longest job takes 8.5 s, and the
last report 10 s at most; the rest is for load.
"""
GOES_ON_WITHIN = 30.0
"""Wall seconds after PostgreSQL's return in which work goes on."""


Starts = Mapping[str, Sequence[tuple[float, int, float]]]
"""By queue, in order: when something started, its priority, and when it was ready."""


def starts_of(attempts: Iterable[Attempt]) -> Starts:
    """Put in order what has started."""
    starts: dict[str, list[tuple[float, int, float]]] = defaultdict(list)
    for each in attempts:
        if each.started_at is not None and each.ready_at is not None:
            starts[each.queue].append((each.started_at, each.priority, each.ready_at))
    for queue in starts.values():
        queue.sort()
    return starts


def next_since(attempt: Attempt, until: float, starts: Starts) -> float | None:
    """
    Tell from when on nothing in its queue was rightly before an attempt that was ready.

    That is what is more urgent, or as urgent and ready earlier. Else a time in which all workers
    are dead would show as waiting of all that is worked off after it.

    Args:
        until: When it waited no more.
    """
    since = attempt.ready_at
    if since is None:
        return None
    queue = starts.get(attempt.queue, ())
    for place in range(bisect.bisect_left(queue, (until,)) - 1, -1, -1):
        at, priority, ready_at = queue[place]
        if at <= since:
            break
        if (priority, ready_at) < (attempt.priority, since):
            return at
    return since


def waits(attempts: Sequence[Attempt], away: Sequence[tuple[float, float]]) -> dict[str, float]:
    """
    Tell how long each attempt waited for its start, or until its window was over.

    Args:
        away: When PostgreSQL was away, or had only just returned: that waiting is not counted.

    Returns:
        Seconds in which it was ready and nothing before it, by execution.
    """
    starts = starts_of(attempts)
    found = {}
    for each in attempts:
        ends_at = each.started_at
        if ends_at is None and each.status == "EXPIRED":
            ends_at = each.ended_at
        since = None if ends_at is None else next_since(each, ends_at, starts)
        if since is not None and ends_at is not None:
            found[each.execution_id] = max(0.0, ends_at - since - covered(since, ends_at, away))
    return found


def waiting_allowed(attempt: Attempt) -> float:
    """
    Return how long an attempt may wait, whatever is done.

    Each message that was sent for it may have been lost, once with the leader that should have
    noticed.
    """
    return max(1, attempt.sent) * (SENT_AGAIN_WITHIN + LED_AGAIN_WITHIN)


def forgotten(attempts: Sequence[Attempt], away: Sequence[tuple[float, float]]) -> Iterator[str]:
    """Name the attempts that waited for longer than they may, whether they started or expired."""
    seconds = waits(attempts, away)
    for each in attempts:
        if seconds.get(each.execution_id, 0) > waiting_allowed(each):
            yield (
                f"{each.execution_id} ({each.status}) waited {seconds[each.execution_id]:.0f} s; "
                f"it was sent {each.sent} times"
            )


def postgres_away(
    events: Iterable[Event], tail: float = GOES_ON_WITHIN
) -> list[tuple[float, float]]:
    """Return when PostgreSQL was away, each time until a while after its return, in order."""
    return sorted((each.at, each.ends_at + tail) for each in events if each.fault in OF_POSTGRES)


# --- who should have done something --------------------------------------------------------------

HEARS_WITHIN = 60.0
"""Wall seconds in which a worker must take something again: what is promised of Redis's return."""
UP_WITHIN = 20.0
"""Wall seconds that are left to a worker to start, or to connect again, before they count."""
HEARD_BY_OTHERS = 30
"""
Of its jobs that others begin while a worker takes nothing. It shares each queue with two others at
most, and Redis hands a message to who has waited longest: by chance alone it would miss so many
once in 200,000 times.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """A process of a node."""

    name: str
    pid: int
    began_at: float
    queues: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Lead:
    """The lead passed to a beat's process."""

    at: float
    pid: int


def take_overs(
    events: Sequence[Event], changes: Sequence[float], lease: float
) -> tuple[list[float], list[float], list[str]]:
    """
    Tell how long it took each time until another led, and after which fault none did.

    PostgreSQL's absence does not count, nor that its return is noticed after `BACK_WITHIN` at most.
    A leader that comes back before a standby has had it for long enough may lead on.

    Args:
        changes: When the lead passed, in order.
        lease: Of the leader.

    Returns:
        Seconds from the end of each leader to the next; from PostgreSQL's return, where it was away
        meanwhile; and what was done to the leaders that nobody replaced.
    """
    away = postgres_away(events, tail=0)
    noticed = postgres_away(events, tail=max(0.0, BACK_WITHIN - lease))
    found, after_return, missing = [], [], []
    for event in events:
        if event.led and event.fault is Fault.BEAT_KILL:
            back_at = float("inf")  # its successor is another
        elif event.led and event.fault in (Fault.BEAT_FREEZE_LONG, Fault.DATABASE_HANG):
            back_at = event.ends_at
        else:
            continue
        passed_at = next((at for at in changes if event.at < at <= back_at), None)
        if passed_at is not None:
            returns = [until for _, until in away if event.at < until < passed_at]
            if returns:
                after_return.append(passed_at - max(returns))
            else:
                found.append(passed_at - event.at)
        elif max(_clear(event.at, back_at, noticed)) > lease + LEADS_WITHIN:
            missing.append(f"{event.node}: {event.fault}")
    return found, after_return, missing


def replacements(
    events: Sequence[Event], changes: Sequence[float], lease: float
) -> tuple[list[float], list[str]]:
    """
    Tell how long it took each time until another led than who alone had lost Redis.

    Neither PostgreSQL's absence counts nor Redis's own, in which there is nobody better.

    Args:
        changes: When the lead passed, in order.
        lease: Of the leader.

    Returns:
        Seconds from the loss, or from the servers' return, to the next leader; and the leaders that
        nobody replaced.
    """
    away = sorted((each.at, each.ends_at) for each in events if each.fault in TAKES_A_SERVER)
    found, missing = [], []
    for event in events:
        if event.fault is not Fault.BROKER_LEADER or not event.led:
            continue
        passed_at = next((at for at in changes if event.at < at <= event.ends_at), None)
        if passed_at is not None:
            since = max([event.at, *(until for _, until in away if event.at < until < passed_at)])
            found.append(passed_at - since)
        elif max(_clear(event.at, event.ends_at, away)) > lease + REPLACED_WITHIN:
            missing.append(f"{event.node}: {event.fault}")
    return found, missing


def stops(events: Iterable[Event]) -> list[float]:
    """Tell how long each worker that was told to stop took; the servers' absence is left out."""
    listed = list(events)
    away = sorted((each.at, each.ends_at) for each in listed if each.fault in TAKES_A_SERVER)
    return [
        each.ends_at - each.at - covered(each.at, each.ends_at, away)
        for each in listed
        if each.fault is Fault.WORKER_STOP
    ]


def deaf(
    workers: Sequence[Life], attempts: Iterable[Attempt], events: Sequence[Event]
) -> Iterator[str]:
    """
    Name the workers that took nothing for too long while others took what was theirs too.

    Time in which something was done to a worker or its servers, and a while after it, is left out;
    but it does not begin anew: one that went deaf when Redis was started again stays deaf.
    """
    began = sorted(
        (each.started_at, each.queue, each.pid) for each in attempts if each.started_at is not None
    )
    for life in workers:
        spans = [(life.began_at, life.began_at + UP_WITHIN)]
        later = [
            each.began_at
            for each in workers
            if each.name == life.name and each.began_at > life.began_at
        ]
        ends_at = min(later, default=float("inf"))
        for event in events:
            if event.pid == life.pid and event.fault in KILLS:
                ends_at = min(ends_at, event.at)
            elif (event.pid == life.pid and event.fault not in SKEWS) or (
                event.fault in OF_POSTGRES | CUTS_REDIS
            ):
                spans.append((event.at, event.ends_at + UP_WITHIN))
        spans.sort()
        theirs = [
            (at, pid)
            for at, queue, pid in began
            if life.began_at < at < ends_at and queue in life.queues
        ]
        since, missed = life.began_at, 0
        for at, pid in theirs:
            if pid == life.pid:
                since, missed = at, 0
                continue
            missed += not covered(at, at + 1e-6, spans)
            silent = at - since - covered(since, at, spans)
            if silent > HEARS_WITHIN and missed >= HEARD_BY_OTHERS:
                yield (
                    f"{life.name}, pid {life.pid}: nothing for {silent:.0f} s, while others began "
                    f"{missed} of its jobs"
                )
                break


def _clear(begin: float, end: float, spans: Iterable[tuple[float, float]]) -> Iterator[float]:
    """Give the lengths of the parts of a time that lie in none of several, which are in order."""
    for span_begin, span_end in spans:
        if span_begin > begin:
            yield max(0.0, min(end, span_begin) - begin)
        begin = max(begin, span_end)
    yield max(0.0, end - begin)


def at_work(kills: Iterable[Event], attempts: Iterable[Attempt]) -> int:
    """Count the kills that hit a worker which ran something."""
    spans: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for each in attempts:
        if each.pid is not None and each.started_at is not None:
            ended_at = float("inf") if each.ended_at is None else each.ended_at
            spans[each.pid].append((each.started_at, ended_at))
    return sum(
        any(began <= kill.at <= ended for began, ended in spans[kill.pid])
        for kill in kills
        if kill.pid is not None
    )


def too_few(needs: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    """
    Name what happened too rarely for its absence of violations to mean anything.

    Args:
        needs: What -> how often it was measured, and how often it must be.
    """
    for name, (found, least) in needs.items():
        if found < least:
            yield f"{name}: {found}, at least {least} are needed"


def covered(begin: float, end: float, spans: Iterable[tuple[float, float]]) -> float:
    """Return how many of the seconds of a time lie in any of several, which are in order."""
    total, done = 0.0, begin
    for span_begin, span_end in spans:
        low, high = max(done, span_begin), min(end, span_end)
        if high > low:
            total += high - low
            done = high
    return total


# --- what processes say of themselves ------------------------------------------------------------

EXPECTED = frozenset(
    {
        "job_failed",
        "lease_lost",
        "worker_cut_off",
        "worker_frozen",
        "worker_deaf",
        "queue_deaf",
    }
)
"""Errors that faults bring, and after which the product mends itself; its deeds are judged."""
_ERROR = re.compile(r"^\S+Z (?:ERROR|CRITICAL) ((?:prometheus|workers)\.\S+) (\w+)")
_FATAL = re.compile(r"^\S+Z CRITICAL celery\.\S+ Unrecoverable error|^Fatal Python error")


def complaints(lines: Iterable[str]) -> Iterator[str]:
    """Give the lines of a log in which the product tells of an error that no fault should bring."""
    for line in lines:
        if CELERYS_END.search(line):
            continue
        error = _ERROR.match(line)
        if (error is not None and error[2] not in EXPECTED) or _FATAL.match(line):
            yield line.strip()


def read_complaints(folder: Path) -> list[str]:
    """Do so for all logs of a folder."""
    found = []
    for log in sorted(folder.glob("*.log")):
        with log.open(errors="replace") as lines:
            found += [f"{log.name}: {each[:300]}" for each in complaints(lines)]
    return found


def count_events(folder: Path, names: Iterable[str]) -> Mapping[str, int]:
    """Count how often the logs tell of what is expected."""
    text = "\n".join(log.read_text(errors="replace") for log in folder.glob("*.log"))
    return {name: len(re.findall(rf"^\S+Z \w+ \S+ {name}\b", text, re.MULTILINE)) for name in names}
