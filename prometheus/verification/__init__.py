"""
The history checker: looks at what a database says has happened, and finds what must not be.

It imports nothing of the scheduler, so that both would have to be wrong in the same way.
"""

from prometheus.verification.checks import check, judge
from prometheus.verification.history import read_history
from prometheus.verification.report import (
    Counts,
    Expectation,
    Report,
    StartRecord,
    Tolerances,
    Violation,
)

__all__ = [
    "Counts",
    "Expectation",
    "Report",
    "StartRecord",
    "Tolerances",
    "Violation",
    "check",
    "judge",
    "read_history",
]
