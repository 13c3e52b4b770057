"""
A sound history, made by hand, in which nearly everything happens that can.

New York closes at 21:00 UTC in December; its PRE_OPEN begins at 13:30.

- 1 December: ``prices`` fails once and is tried again, the rest succeeds.
- 2 December: the worker of ``prices`` is lost; ``returns`` fails for good, so ``book`` is skipped
  until an operator retries; ``report`` expires with the session.
- 3 December: an operator cancels the run while ``report`` runs.
- 4 December: nobody was there; the session is missed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

from prometheus.core.exchanges import snapshot_version
from prometheus.verification.history import Audit, Change, Execution, History, Run

SECOND = timedelta(seconds=1)
JOBS: list[dict[str, Any]] = [
    {
        "job_id": job_id,
        "job_type": job_id,
        "market_id": "US_EQ",
        "dependencies": dependencies,
        "required_state": state,
        "window": window,
        "priority": "CRITICAL",
        "max_retries": retries,
        "timeout_seconds": 60.0,
        "retry_base_seconds": 60.0,
        "retry_cap_seconds": 900.0,
        "after_previous": job_id == "book",
    }
    for job_id, dependencies, state, window, retries in (
        ("report", [], "SESSION", "state", 0),
        ("prices", [], "POST_CLOSE", "session", 2),
        ("returns", ["prices"], None, "session", 0),
        ("book", ["returns"], None, "session", 0),
    )
]
DEFINITION = {"pipeline": "daily", "jobs": JOBS}


def at(text: str) -> datetime:
    """Read ``"02 21:00:05"``: a day of December 2025, UTC."""
    return datetime.fromisoformat(f"2025-12-{text}").replace(tzinfo=UTC)


def digest(definition: object) -> str:
    canonical = json.dumps(definition, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def run(day: int, status: str, completed: str | None, **values: Any) -> Run:
    made = values.pop("created_at", at(f"{day:02} 13:30:01"))
    ended = at(completed) if completed else None
    fields: dict[str, Any] = {
        "dag_id": f"us_eq_daily_2025-12-{day:02}",
        "pipeline": "daily",
        "market_id": "US_EQ",
        "as_of_date": date(2025, 12, day),
        "status": status,
        "forced": False,
        "trigger": "schedule",
        "definition": json.dumps(DEFINITION),
        "definition_hash": digest(DEFINITION),
        "calendar_version": snapshot_version(),
        "opens_at": at(f"{day:02} 13:30"),
        "created_at": made,
        "updated_at": ended or made,
        "completed_at": ended,
        **values,
    }
    return Run(**fields)


_OPENS = {"report": "14:30", "prices": "21:00", "returns": "13:30", "book": "13:30"}


def row(
    job_id: str,
    day: int,
    status: str,
    *,
    made: str | None = None,
    scheduled: str | None = None,
    started: str | None = None,
    ended: str | None = None,
    **values: Any,
) -> Execution:
    """Make an attempt; times as `at` reads them."""
    made_at = at(made or f"{day:02} 13:30:01")
    scheduled_at, started_at, ended_at = (at(t) if t else None for t in (scheduled, started, ended))
    following = 8 if day == 5 else day + 1  # the 5th is a Friday
    closes_at = at(f"{day:02} 21:00" if job_id == "report" else f"{following:02} 13:30")
    number = values.get("attempt_number", 1)
    fields: dict[str, Any] = {
        "execution_id": f"{job_id}-{day}-{number}",
        "dag_id": f"us_eq_daily_2025-12-{day:02}",
        "job_id": job_id,
        "market_id": "US_EQ",
        "as_of_date": date(2025, 12, day),
        "status": status,
        "attempt_number": number,
        "retries": 0,
        "lost": 0,
        "queue": "US_EQ",
        "priority": 1,
        "forced": False,
        "timeout_seconds": 60,
        "window_opens_at": at(f"{day:02} {_OPENS[job_id]}") if scheduled_at else None,
        "window_closes_at": closes_at if scheduled_at else None,
        "scheduled_at": scheduled_at,
        "scheduled_market_at": scheduled_at,
        "published_at": scheduled_at,
        "started_at": started_at,
        "started_market_at": started_at,
        "named_at": started_at,
        "hard_limit_at": started_at + 90 * SECOND if started_at else None,
        "worker": "worker@host" if started_at else None,
        "incarnation": "i" if started_at else None,
        "retry_bound_seconds": None,
        "retry_delay_seconds": None,
        "completed_at": ended_at,
        "error_message": None,
        "created_at": made_at,
        "updated_at": ended_at or started_at or scheduled_at or made_at,
        **values,
    }
    return Execution(**fields)


def done(job_id: str, day: int, start: str, **values: Any) -> Execution:
    """Make an attempt that succeeded: claimed a second before it began, ended a second after."""
    began = at(start)
    scheduled, ended = ((began + step).strftime("%d %H:%M:%S") for step in (-SECOND, SECOND))
    return row(job_id, day, "SUCCESS", scheduled=scheduled, started=start, ended=ended, **values)


def executions() -> list[Execution]:
    cancelled = {"ended": "03 15:00:09", "error_message": "cancelled by ann@desk"}
    missed = {
        "made": "06 10:00:00",
        "ended": "06 10:00:00",
        "error_message": "missed: no scheduler was running while it was due",
    }
    return [
        done("report", 1, "01 14:30:02"),
        row(
            "prices", 1, "FAILED", scheduled="01 21:00:00", started="01 21:00:01",
            ended="01 21:00:05", error_message="ValueError: no prices",
        ),
        done(
            "prices", 1, "01 21:00:37", attempt_number=2, retries=1, made="01 21:00:05",
            scheduled_at=at("01 21:00:35"), retry_bound_seconds=60, retry_delay_seconds=30,
        ),
        done("returns", 1, "01 21:00:40"),
        done("book", 1, "01 21:00:43"),

        row(
            "report", 2, "EXPIRED", ended="02 21:00:00",
            error_message="its window closed at 2025-12-02 21:00:00 UTC",
        ),
        row(
            "prices", 2, "FAILED", scheduled="02 21:00:00", started="02 21:00:01",
            ended="02 21:00:35", error_message="worker lost: host h, pid 1, last seen never",
        ),
        done(
            "prices", 2, "02 21:00:37", attempt_number=2, lost=1, made="02 21:00:35",
            scheduled_at=at("02 21:00:35"), retry_bound_seconds=0, retry_delay_seconds=0,
        ),
        row(
            "returns", 2, "FAILED", scheduled="02 21:00:39", started="02 21:00:40",
            ended="02 21:00:41",
            error_message="ValueError: no (not tried again: attempt 1, max_retries is 0)",
        ),
        row(
            "book", 2, "SKIPPED", ended="02 21:00:42", error_message="upstream returns is FAILED",
        ),
        done(
            "returns", 2, "04 09:00:02", attempt_number=2, forced=True, made="04 09:00:00",
        ),
        done("book", 2, "04 09:00:05", attempt_number=2, forced=True, made="04 09:00:00"),

        row(
            "report", 3, "CANCELLED", scheduled="03 14:30:00", started="03 14:30:01", **cancelled,
        ),
        row("prices", 3, "CANCELLED", **cancelled),
        row("returns", 3, "CANCELLED", **cancelled),
        row("book", 3, "CANCELLED", **cancelled),

        *(row(job["job_id"], 4, "EXPIRED", **missed) for job in JOBS),
    ]  # fmt: skip


def sound() -> History:
    """Return the whole of it, checked a week later."""
    return History(
        runs=[
            run(1, "SUCCESS", "01 21:00:45"),
            run(2, "FAILED", "04 09:00:07"),
            run(3, "CANCELLED", "03 15:00:09"),
            run(4, "FAILED", "06 10:00:00", created_at=at("06 10:00:00"), trigger="catch_up"),
        ],
        executions=executions(),
        audit=[
            Audit(at("03 15:00:09"), "ann@desk", "cancel", "us_eq_daily_2025-12-03", {}),
            Audit(
                at("04 09:00:00"),
                "ann@desk",
                "retry",
                "us_eq_daily_2025-12-02",
                {"job": "returns", "new_attempts": ["returns", "book"]},
            ),
        ],
        wall_at=at("11 12:00"),
    )


def still_open() -> History:
    """Return a run of 5 December in the middle of its evening, at 21:02 UTC."""
    return History(
        runs=[run(5, "OPEN", None)],
        executions=[
            done("report", 5, "05 14:30:02"),
            done("prices", 5, "05 21:01:00"),
            row("returns", 5, "RUNNING", scheduled="05 21:01:02", started="05 21:01:03"),
            row("book", 5, "PENDING"),
        ],
        audit=[],
        wall_at=at("05 21:02"),
    )


def changed(history: History, execution_id: str, **values: Any) -> History:
    """Return the history with one row changed."""
    rows = [
        replace(each, **values) if each.execution_id == execution_id else each
        for each in history.executions
    ]
    assert rows != history.executions, f"{execution_id} is not changed by {values}"
    return replace(history, executions=rows)


def without(history: History, *execution_ids: str) -> History:
    rows = [each for each in history.executions if each.execution_id not in execution_ids]
    assert len(rows) == len(history.executions) - len(execution_ids)
    return replace(history, executions=rows)


def with_rows(history: History, *rows: Execution) -> History:
    return replace(history, executions=[*history.executions, *rows])


def run_changed(history: History, day: int, **values: Any) -> History:
    runs = [
        replace(each, **values) if each.as_of_date.day == day else each for each in history.runs
    ]
    assert runs != history.runs
    return replace(history, runs=runs)


def lives(history: History) -> list[Change]:
    """Return the changes that a trigger would have written for these rows."""
    ways = {
        "SUCCESS": ["PENDING", "QUEUED", "RUNNING", "SUCCESS"],
        "FAILED": ["PENDING", "QUEUED", "RUNNING", "FAILED"],
    }
    found: list[Change] = []
    for each in history.executions:
        way: Sequence[str] = ways.get(each.status, ["PENDING", each.status])
        if each.retry_bound_seconds is not None:
            way = way[1:]
        found += _changes(each.execution_id, way, len(found))
    return found


def _changes(execution_id: str, way: Iterable[str], first: int) -> list[Change]:
    states = [None, *way]
    return [
        Change(execution_id, old, str(new), at("01 00:00"), first + number)
        for number, (old, new) in enumerate(pairwise(states))
    ]


def many(times: int) -> History:
    """Return the sound history of so many pipelines at once."""
    history = sound()

    def renamed(dag_id: str, number: int) -> str:
        return dag_id.replace("daily", f"p{number}")

    return replace(
        history,
        runs=[
            replace(each, dag_id=renamed(each.dag_id, number), pipeline=f"p{number}")
            for number in range(times)
            for each in history.runs
        ],
        executions=[
            replace(
                each,
                execution_id=f"{each.execution_id}-{number}",
                dag_id=renamed(each.dag_id, number),
            )
            for number in range(times)
            for each in history.executions
        ],
        audit=[
            replace(each, target=renamed(each.target, number))
            for number in range(times)
            for each in history.audit
        ],
    )
