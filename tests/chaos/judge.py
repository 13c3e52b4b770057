"""
What must not have happened, judged from plain values: attempts, faults and lines of logs.

Nothing here reads a database, so each judgement is tried on histories that were made up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.enemy import OF_POSTGRES, Event, Fault

BY_ITSELF = ("StumbledError", "HopelessError")
"""With which the messages of failures begin that jobs are made for."""
LOST = ("worker lost", "worker cut off", "ended without a report", "its process ended")
"""With which those begin that only the end, or the silence, of a process can bring."""
ENDS_JOBS = frozenset(
    {
        Fault.WORKER_KILL,
        Fault.WORKER_AGAIN,
        Fault.CHILD_KILL,
        Fault.WORKER_FREEZE,
        Fault.WORKER_FREEZE_LONG,
        Fault.WORKER_MAIN_FREEZE,
        Fault.DATABASE_CUT,
        Fault.DATABASE_HANG,
        Fault.DATABASE_MUTE,
        Fault.DATABASE_SLOW,
    }
)
"""Of a worker, what may end its jobs. Neither a wrong clock does, nor the loss of Redis."""
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
    started_at: float | None = None
    ended_at: float | None = None

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
                and _until(event) + lease >= began
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
            and _until(event) + lease >= each.began_at
            and (
                (event.fault in ENDS_JOBS and event.pid == each.pid)
                or (event.fault in OF_POSTGRES and event.at <= each.began_at + lease)
            )
            for event in events
        )
        if not excused:
            yield f"pid {each.pid}, {each.ended_at - each.began_at:.0f} s after its beginning"


def _until(event: Event) -> float:
    return float("inf") if event.until is None else event.until


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
