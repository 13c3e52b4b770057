"""What the checker is asked and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from typing import Any


@dataclass(frozen=True, slots=True)
class StartRecord:
    """Evidence from a job itself: the body of one execution began to run."""

    execution_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Expectation:
    """Which sessions must have a run, and no others of these pipelines."""

    pipelines: Mapping[str, Sequence[str]]
    """Pipeline -> the markets it runs for."""
    since: date
    until: date
    """Session dates, both included."""
    sessions: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Pipeline -> on which sessions it runs and what it does on short ones; where not ``every``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """How much time is forgiven."""

    settle: timedelta = timedelta(seconds=15)
    """Between two readings of the clock in one transaction, which may have waited for a lock."""
    forgotten: timedelta = timedelta(minutes=5)
    """After which an open job must have moved, once nothing keeps it waiting."""
    stuck: timedelta = timedelta(minutes=15)
    """After its window's end or hard limit, by when an open job must have ended; and how long none
    may wait in the queue of a worker that has nothing to do, or run with no worker that says so."""
    clock_steps: timedelta = timedelta(0)
    """How far the database's clock may have been set back meanwhile."""


DEFAULT = Tolerances()


@dataclass(frozen=True, slots=True)
class Violation:
    """One fact that must not be."""

    rule: str
    """A short code that stays the same from release to release."""
    message: str
    """In plain words."""
    dag_id: str | None = None
    job_id: str | None = None
    execution_id: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """How much was checked, and what became of it."""

    runs: int = 0
    jobs: int = 0
    executions: int = 0
    successes: int = 0
    """Jobs with exactly one success of their own, and perhaps more that an operator asked for."""
    again: int = 0
    """Successes beyond the first, each asked for by an operator."""
    runs_by_state: Mapping[str, int] = field(default_factory=dict)
    jobs_by_state: Mapping[str, int] = field(default_factory=dict)
    executions_by_state: Mapping[str, int] = field(default_factory=dict)
    without_success: Mapping[str, int] = field(default_factory=dict)
    """Why jobs have no success -> how many."""
    windows: int = 0
    """Starts that were held against a window worked out anew."""
    other_calendar: int = 0
    """Runs that followed another version of the calendar: their stored windows were believed."""
    starts: int = 0
    """Records of started bodies that were compared."""
    changes: int = 0
    """Recorded changes of state that were compared."""


@dataclass(frozen=True, slots=True)
class Report:
    """The checker's answer."""

    violations: tuple[Violation, ...]
    counts: Counts

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.violations

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "ok": self.ok,
            "counts": asdict(self.counts),
            "violations": [asdict(violation) for violation in self.violations],
        }
