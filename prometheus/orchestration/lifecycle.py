"""
The life of a job and of a run: their states, and the one table of changes that are allowed.

The database guards the same table (`prometheus.persistence`); a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum


class JobStatus(StrEnum):
    """The state of one execution; a job's state is that of its latest execution."""

    PENDING = "PENDING"
    """Waits for its window, its upstream jobs or the previous session."""
    QUEUED = "QUEUED"
    """Claimed: a message for it is, or will be, in its market's queue."""
    RUNNING = "RUNNING"
    """A worker has started it."""
    SUCCESS = "SUCCESS"
    """Its worker reported success."""
    FAILED = "FAILED"
    """It raised, ran out of time, or its worker was lost. A retry is a new execution."""
    SKIPPED = "SKIPPED"
    """
    It can not run, because an upstream job did not succeed, or an operator said so; or it is a
    sensor that gave up and is to be skipped then.
    """
    CANCELLED = "CANCELLED"
    """An operator ended it, or its run had had its time."""
    EXPIRED = "EXPIRED"
    """It could not start: its window closed, its time ran out, or no worker knows it."""


class RunStatus(StrEnum):
    """The state of a run."""

    OPEN = "OPEN"
    """At least one of its jobs is not finished."""
    SUCCESS = "SUCCESS"
    """Every job succeeded, or was skipped by an operator."""
    FAILED = "FAILED"
    """At least one job failed for good or expired."""
    CANCELLED = "CANCELLED"
    """At least one job was cancelled, and none failed."""


class Trigger(StrEnum):
    """Why a run was made."""

    SCHEDULE = "schedule"
    """Its session came."""
    CATCH_UP = "catch_up"
    """Its session had passed, in an outage."""
    OPERATOR = "operator"
    """Somebody asked for it."""
    BACKFILL = "backfill"
    """Somebody asked for all sessions of a range."""


BACKGROUND_TRIGGERS: frozenset[str] = frozenset({Trigger.CATCH_UP, Trigger.BACKFILL})
"""Of such runs, messages wait behind all others of their queue."""
ASKED_FOR: frozenset[str] = frozenset({Trigger.OPERATOR, Trigger.BACKFILL})
"""Such runs are there because somebody said so."""

_S = JobStatus

ALLOWED: Mapping[JobStatus, frozenset[JobStatus]] = {
    _S.PENDING: frozenset({_S.QUEUED, _S.SKIPPED, _S.CANCELLED, _S.EXPIRED}),
    _S.QUEUED: frozenset({_S.RUNNING, _S.SKIPPED, _S.CANCELLED, _S.EXPIRED}),
    _S.RUNNING: frozenset({_S.SUCCESS, _S.FAILED, _S.SKIPPED, _S.CANCELLED}),
    _S.SUCCESS: frozenset(),
    _S.FAILED: frozenset(),
    _S.SKIPPED: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.EXPIRED: frozenset(),
}
"""State of an execution -> the states it may change to. A finished row never changes."""

SKIPPED_BY = "skipped by "
"""How the message of an execution begins that an operator has skipped."""

FINAL: frozenset[JobStatus] = frozenset(status for status, to in ALLOWED.items() if not to)
LIVE: frozenset[JobStatus] = frozenset({_S.QUEUED, _S.RUNNING})
BLOCKING: frozenset[JobStatus] = FINAL - {_S.SUCCESS}
"""Final states that keep downstream jobs from ever running."""

RUN_ALLOWED: Mapping[RunStatus, frozenset[RunStatus]] = {
    RunStatus.OPEN: frozenset({RunStatus.SUCCESS, RunStatus.FAILED, RunStatus.CANCELLED}),
    # An operator's retry adds a row to a finished run and so opens it again.
    RunStatus.SUCCESS: frozenset({RunStatus.OPEN}),
    RunStatus.FAILED: frozenset({RunStatus.OPEN}),
    RunStatus.CANCELLED: frozenset({RunStatus.OPEN}),
}


def allowed_from(target: JobStatus) -> tuple[JobStatus, ...]:
    """Return the states from which an execution may become ``target``, in order of definition."""
    return tuple(status for status, to in ALLOWED.items() if target in to)


def run_status(jobs: Iterable[JobStatus]) -> RunStatus:
    """
    Derive a run's state from the states of all its jobs.

    Args:
        jobs: The state of the latest execution of each job, in any order.
    """
    statuses = set(jobs)
    if statuses - FINAL:
        return RunStatus.OPEN
    if statuses & {_S.FAILED, _S.EXPIRED}:
        return RunStatus.FAILED
    if _S.CANCELLED in statuses:
        return RunStatus.CANCELLED
    return RunStatus.SUCCESS
