"""Each rule finds the one fact that breaks it, and nothing is found where nothing is wrong."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from prometheus.core.clock import MarketClock
from prometheus.core.overrides import Override, OverrideKind, Overrides
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.verification import Expectation, StartRecord, Tolerances, checks, judge
from prometheus.verification.history import Audit, Change, History, Pause, Worker
from tests.unit.verification.histories import (
    DEFINITION,
    JOBS,
    SECOND,
    at,
    changed,
    digest,
    done,
    lives,
    many,
    row,
    run,
    run_changed,
    sound,
    still_open,
    with_rows,
    without,
)

Mutation = Callable[[History], History]


def rules(history: History, **asked: Any) -> list[str]:
    return sorted({violation.rule for violation in judge(history, **asked).violations})


def test_nothing_is_found_in_a_sound_history() -> None:
    report = judge(sound())
    assert report.violations == ()
    assert report.ok


def test_nothing_is_found_in_a_sound_history_that_goes_on() -> None:
    assert judge(still_open(), finished=False).violations == ()


def test_what_was_checked_is_counted() -> None:
    counts = judge(sound()).counts
    assert (counts.runs, counts.jobs, counts.executions) == (4, 16, 20)
    assert (counts.successes, counts.again) == (7, 0)
    assert counts.runs_by_state == {"CANCELLED": 1, "FAILED": 2, "SUCCESS": 1}
    assert counts.without_success == {
        "cancelled": 4,
        "expired: its session was missed": 4,
        "expired: its window closed": 1,
    }
    assert counts.windows == 9
    assert counts.other_calendar == 0


def change(execution_id: str, **values: Any) -> Mutation:
    return lambda history: changed(history, execution_id, **values)


def drop(*execution_ids: str) -> Mutation:
    return lambda history: without(history, *execution_ids)


def change_run(day: int, **values: Any) -> Mutation:
    return lambda history: run_changed(history, day, **values)


def redefined(day: int, **values: Any) -> Mutation:
    """Store another definition, with its own hash: one job's values changed."""
    job_id = values.pop("job_id")
    jobs = [{**job, **values} if job["job_id"] == job_id else job for job in JOBS]
    definition = {**DEFINITION, "jobs": jobs}
    return change_run(day, definition=json.dumps(definition), definition_hash=digest(definition))


def no_audit(history: History) -> History:
    return replace(history, audit=[])


def second_run(history: History) -> History:
    return replace(history, runs=[*history.runs, history.runs[0]])


def run_of(market_id: str, day: int) -> Mutation:
    def add(history: History) -> History:
        made = run(
            day, "SUCCESS", "09 21:00", market_id=market_id,
            dag_id=f"{market_id.lower()}_daily_2025-12-{day:02}", created_at=at("09 20:00"),
            trigger="operator", forced=True,
            definition='{"pipeline": "daily", "jobs": []}',
        )  # fmt: skip
        return replace(history, runs=[*history.runs, made])

    return add


def run_past_the_calendar(history: History) -> History:
    history = run_of("US_EQ", 9)(history)
    day = date(2099, 12, 9)
    last = replace(history.runs[-1], as_of_date=day, dag_id=f"us_eq_daily_{day}")
    return replace(history, runs=[*history.runs[:-1], last])


def again(history: History) -> History:
    """A job that has succeeded is run once more, as if it had failed."""
    more = done(
        "prices", 1, "01 22:00:37", attempt_number=3, retries=2, made="01 22:00:05",
        scheduled_at=at("01 22:00:35"), retry_bound_seconds=120, retry_delay_seconds=30,
    )  # fmt: skip
    history = with_rows(history, more)
    return run_changed(history, 1, completed_at=at("01 22:00:45"), updated_at=at("01 22:00:45"))


PAST_WINDOW = (
    " (not tried again: the retry at 2025-12-03 13:30:10 UTC would be at or past the end of its "
    "window, 2025-12-03 13:30:00 UTC)"
)
PAST_RUN = (
    " (not tried again: the retry at 2025-12-02 21:30:10 UTC would be at or past the end of its "
    "run, 2025-12-02 21:30:01 UTC (run_timeout 8h))"
)
NO_HELP = " (not tried again: the error says that it would not help)"

MUTATIONS: list[tuple[str, Mutation, list[str]]] = [
    # Runs.
    ("two runs of a session", second_run, ["run-twice"]),
    ("a run on a holiday", run_of("US_EQ", 25), ["closed-day", "definition"]),
    ("a run on a Sunday", run_of("US_EQ", 7), ["closed-day", "definition"]),
    ("a run of no market", run_of("MARS", 9), ["definition", "unknown-market"]),
    ("a run past its calendar", run_past_the_calendar, ["definition", "unknown-day"]),
    ("a run with another's name", change_run(1, dag_id="x"), ["missing-job", "run-name", "stray"]),
    ("a run made too early", change_run(1, created_at=at("01 13:00")), ["run-early"]),
    ("a run that opens late", change_run(1, opens_at=at("01 13:31")), ["run-opens"]),
    ("a run better than its jobs", change_run(2, status="SUCCESS"), ["run-status"]),
    ("a run worse than its jobs", change_run(1, status="FAILED"), ["run-status"]),
    ("a cancelled run called failed", change_run(3, status="FAILED"), ["run-status"]),
    ("a run without its end", change_run(1, completed_at=None), ["run-status"]),
    (
        "a run that was never closed",
        change_run(1, status="OPEN", completed_at=None),
        ["unfinished"],
    ),
    (
        "a run closed before its last job",
        change_run(1, completed_at=at("01 21:00:41"), updated_at=at("01 21:00:41")),
        ["run-stamps"],
    ),
    (
        "a run completed before it was made",
        change_run(4, completed_at=at("05 10:00"), updated_at=at("05 10:00")),
        ["run-stamps"],
    ),
    ("a closed run that changed", change_run(1, updated_at=at("02 00:00")), ["changed-after-end"]),
    # Definitions.
    ("a definition that was changed", change_run(1, definition_hash="x"), ["definition"]),
    ("a definition that is no JSON", change_run(1, definition="{"), ["definition"]),
    (
        "a dependency that is not there",
        redefined(3, job_id="returns", dependencies=["prizes"]),
        ["definition"],
    ),
    # Rows and their numbers.
    ("a job without a row", drop("report-1-1"), ["missing-job"]),
    (
        "a job that no definition has",
        change("report-1-1", job_id="rep"),
        ["missing-job", "unknown-job"],
    ),
    ("a gap in the attempts", drop("prices-1-1"), ["attempt-numbers"]),
    (
        "an attempt twice",
        lambda history: with_rows(
            history, replace(history.executions[-1], execution_id="another")
        ),
        ["attempt-numbers", "successor"],
    ),
    (
        "two live rows",
        change(
            "prices-1-1", status="RUNNING", completed_at=None, error_message=None,
            updated_at=at("01 21:00:01"),
        ),
        ["two-live"],
    ),
    ("a row of another queue", change("report-1-1", queue="EU_EQ"), ["copy"]),
    ("a row of another day", change("report-1-1", as_of_date=date(2025, 12, 2)), ["copy"]),
    ("another priority", change("report-1-1", priority=3), ["copy"]),
    ("another limit", change("report-1-1", timeout_seconds=61), ["copy"]),
    # Attempts one after the other.
    (
        "attempts that overlap",
        change("prices-1-1", completed_at=at("01 21:00:38"), updated_at=at("01 21:00:38")),
        ["overlap", "retry-delay"],
    ),
    (
        "an operator's attempt without an audit",
        lambda history: replace(history, audit=history.audit[:1]),
        ["operator-without-audit"],
    ),
    (
        "an audit of other jobs",
        lambda history: replace(
            history,
            audit=[
                history.audit[0],
                replace(history.audit[1], details={"new_attempts": ["returns"]}),
            ],
        ),
        ["operator-without-audit"],
    ),
    ("a success that was tried again", again, ["after-success", "success-twice"]),
    (
        "a retry of what was skipped",
        change("book-2-2", forced=False, retry_bound_seconds=0),
        ["outside-window", "successor"],
    ),
    ("a retry that was not counted", change("prices-1-2", retries=0), ["counters"]),
    ("a retry counted twice", change("prices-1-2", retries=2), ["counters"]),
    ("a lost worker counted as a retry", change("prices-2-2", lost=0, retries=1), ["counters"]),
    ("a retry counted as a lost worker", change("prices-1-2", retries=0, lost=1), ["counters"]),
    (
        "a wait for a lost worker",
        change("prices-2-2", retry_bound_seconds=60, retry_delay_seconds=5),
        ["retry-delay"],
    ),
    (
        "what was handed back counted as a retry",
        change("prices-1-1", error_message="handed back: worker stopped"),
        ["counters"],
    ),
    ("a first attempt with retries behind it", change("returns-2-1", retries=1), ["counters"]),
    ("an operator's that goes on counting", change("returns-2-2", lost=1), ["counters"]),
    ("a retry too many", redefined(1, job_id="prices", max_retries=0), ["counters"]),
    ("a wrong bound", change("prices-1-2", retry_bound_seconds=120), ["retry-delay"]),
    (
        "a delay beyond its bound",
        change("prices-1-2", retry_bound_seconds=60, retry_delay_seconds=61),
        ["retry-delay"],
    ),
    ("a delay not kept", change("prices-1-2", retry_delay_seconds=55), ["retry-delay"]),
    ("a delay below zero", change("prices-1-2", retry_delay_seconds=-1), ["retry-delay"]),
    (
        "a failure that says it is final and is not",
        change("returns-2-1", error_message="ValueError: no"),
        ["not-retried"],
    ),
    (
        "a failure without a next attempt",
        change("prices-1-2", forced=True, retry_bound_seconds=None),
        ["counters", "not-retried", "operator-without-audit"],
    ),
    (
        "retries that were left",
        redefined(2, job_id="returns", max_retries=1),
        ["not-retried"],
    ),
    (
        "a window that did not count",
        lambda history: run_changed(
            changed(
                history,
                "returns-2-1",
                error_message=f"ValueError: no{PAST_WINDOW}",
            ),
            2,
            forced=True,
            trigger="operator",
        ),
        ["expired", "not-retried"],
    ),
    # Windows.
    (
        "a start before its window",
        change("report-1-1", started_market_at=at("01 14:29:59")),
        ["outside-window"],
    ),
    (
        "a start as its window closes",
        change("report-1-1", started_market_at=at("01 21:00")),
        ["market-time", "outside-window"],
    ),
    (
        "a claim before its window",
        change("report-1-1", scheduled_market_at=at("01 14:29:59")),
        ["outside-window"],
    ),
    (
        "a window that is not the session's",
        change("report-1-1", window_closes_at=at("01 21:30")),
        ["window-differs"],
    ),
    (
        "a window and a start that are both too late",
        change("report-1-1", window_closes_at=at("02 21:00"), started_market_at=at("01 21:00:03")),
        ["market-time", "outside-window", "window-differs"],
    ),
    (
        "market time that is not wall time",
        change("report-1-1", started_market_at=at("01 15:00")),
        ["market-time"],
    ),
    # What must come first.
    (
        "a start before its upstream's end",
        change("prices-1-2", completed_at=at("01 21:00:41"), updated_at=at("01 21:00:41")),
        ["upstream"],
    ),
    (
        "a start while its upstream is tried again",
        change(
            "returns-1-1", scheduled_at=at("01 21:00:06"), scheduled_market_at=at("01 21:00:06")
        ),
        ["upstream"],
    ),
    (
        "a start before the previous session's end",
        lambda history: run_changed(
            changed(
                history, "book-1-1", completed_at=at("04 09:00:06"), updated_at=at("04 09:00:06")
            ),
            1, completed_at=at("04 09:00:06"), updated_at=at("04 09:00:06"),
        ),
        ["previous"],
    ),
    # Single rows.
    ("a state that does not exist", change("report-4-1", status="LATE"), ["columns", "run-status"]),
    ("a success that never started", change("report-1-1", started_at=None), ["columns"]),
    ("a success with an error", change("report-1-1", error_message="no"), ["columns"]),
    ("a failure without an error", change("prices-1-1", error_message=None), ["columns"]),
    ("a start without a worker", change("report-1-1", worker=None), ["columns"]),
    ("an end without a reason", change("book-2-1", error_message=None), ["columns"]),
    ("a skipped row that started", change("book-2-1", started_at=at("02 21:00:41")), ["skipped"]),
    ("stamps out of order", change("report-1-1", created_at=at("01 14:30:02")), ["stamps"]),
    (
        "a start before its schedule",
        change("report-1-1", started_at=at("01 14:30:00")),
        ["stamps"],
    ),
    ("an end before its start", change("report-1-1", started_at=at("01 14:30:04")), ["stamps"]),
    (
        "a retry before its time",
        change("prices-1-2", started_at=at("01 21:00:10"), started_market_at=at("01 21:00:10")),
        ["stamps"],
    ),
    (
        "a finished row that changed",
        change("report-1-1", updated_at=at("01 14:31")),
        ["changed-after-end"],
    ),
    (
        "a message for a finished row",
        change("report-1-1", published_at=at("01 14:31")),
        ["changed-after-end"],
    ),
    (
        "a worker that names a finished row",
        change("report-1-1", named_at=at("01 14:31")),
        ["changed-after-end"],
    ),
    (
        "a start while it was held",
        lambda history: replace(
            history,
            pauses=[
                Pause(None, None, "us_eq_daily_2025-12-01", "prices", at("01 20:00"), None, None)
            ],
        ),
        ["started-paused"],
    ),
    # Ends and their causes.
    (
        "a skip without a cause",
        change("book-2-1", completed_at=at("02 21:00:20"), updated_at=at("02 21:00:20")),
        ["skipped"],
    ),
    ("a cancel without an audit", no_audit, ["cancelled", "operator-without-audit"]),
    (
        "a cancel before it was asked for",
        lambda history: replace(
            history, audit=[replace(history.audit[0], at=at("03 16:00")), history.audit[1]]
        ),
        ["cancelled"],
    ),
    (
        "an expiry in its window",
        change("report-2-1", completed_at=at("02 20:00"), updated_at=at("02 20:00")),
        ["expired"],
    ),
    (
        "an expiry without a reason",
        change("report-2-1", error_message="because"),
        ["expired"],
    ),
    (
        "a cancel that a success ignored",
        change("report-1-1", cancel_asked_at=at("01 14:30:02")),
        ["cancel-ignored"],
    ),
    ("an expiry of what is forced", change("report-2-1", forced=True), ["expired", "forced"]),
    # What is forced.
    ("a scheduled run that is forced", change_run(1, forced=True), ["forced"]),
    (
        "a run caught up in its time",
        change_run(1, forced=True, trigger="catch_up"),
        ["forced"],
    ),
    ("a first attempt that is forced", change("report-1-1", forced=True), ["forced"]),
    ("a retry that is forced", change("prices-1-2", forced=True), ["forced"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("mutation", "found"),
    [pytest.param(mutation, found, id=name) for name, mutation, found in MUTATIONS],
)
def test_one_broken_fact_is_found(mutation: Mutation, found: list[str]) -> None:
    assert rules(mutation(sound())) == sorted(found)


def unfounded(
    message: str,
    ended: str = "02 21:00:41",
    *,
    run_timeout: float | None = None,
    clock: MarketClock | None = None,
    max_lost: int | None = None,
    **values: Any,
) -> list[str]:
    """Let an attempt of returns on the 2nd fail for good; say what is found of its reason."""
    jobs = [{**each, "max_retries": 9} if each["job_id"] == "returns" else each for each in JOBS]
    definition = {**DEFINITION, "jobs": jobs, "run_timeout_seconds": run_timeout}
    history = run_changed(
        sound(), 2, definition=json.dumps(definition), definition_hash=digest(definition)
    )
    began = at(ended) - SECOND
    history = changed(
        history, "returns-2-1", error_message=message, started_at=began, started_market_at=began,
        completed_at=at(ended), updated_at=at(ended), **values,
    )  # fmt: skip
    history = replace(history, clock=clock or history.clock)
    found = judge(history, max_lost=max_lost).violations
    return [each.message for each in found if each.rule == "not-retried"]


LATE = "03 13:29:40"
"""20 seconds before the window of the 2nd closes."""
LEAPS = MarketClock(at("11 12:00"), at("01 12:00"), 0)
LOST_3 = "worker lost: host h, pid 1, last seen never"


@pytest.mark.parametrize(
    ("message", "asked"),
    [
        ("ValueError: no (not tried again: attempt 1, max_retries is 9)", {"retries": 9}),
        (f"ValueError: no{PAST_WINDOW}", {"ended": LATE}),
        (f"handed back: worker stopped{PAST_WINDOW}", {"ended": "03 13:30:10"}),
        # How long such an error asked to wait is not written down.
        (f"QuotaSpentError: no{PAST_WINDOW}", {}),
        (f"ValueError: no{PAST_RUN}", {"ended": "02 21:29:40", "run_timeout": 28_800}),
        (f"{LOST_3} (not tried again: 4 workers were lost with it)", {"lost": 3}),
        (f"{LOST_3} (not tried again: 4 workers were lost with it)", {"lost": 3, "max_lost": 3}),
        (f"BarredError: no{NO_HELP}", {}),
        # What the clock said then is not known.
        (f"ValueError: no{PAST_WINDOW}", {"clock": LEAPS}),
        (f"ValueError: no{PAST_WINDOW}", {"clock": MarketClock(at("11 12:00"), at("11 12:00"), 1)}),
    ],
)  # fmt: skip
def test_a_failure_is_final_for_a_reason_that_is_true(message: str, asked: dict[str, Any]) -> None:
    assert unfounded(message, **asked) == []


@pytest.mark.parametrize(
    ("message", "asked", "found"),
    [
        # What the job itself says is no reason, wherever it says it.
        ("ValueError: the order was not tried again", {}, "no next attempt was written"),
        ("ValueError: at the end of its window", {}, "no next attempt was written"),
        (f"ValueError:{NO_HELP} nor did", {}, "no next attempt was written"),
        (f"ValueError: no{NO_HELP}", {}, "such an error can not say"),
        (f"timed out after 60 s{NO_HELP}", {}, "such an error can not say"),
        (
            "ValueError: no (not tried again: attempt 1, max_retries is 9)", {"retries": 8},
            "only 8 of 9 retries were used",
        ),
        (
            "ValueError: no (not tried again: attempt 1, max_retries is 8)", {"retries": 9},
            "max_retries is 9, not 8",
        ),
        (
            "ValueError: no (not tried again: attempt 2, max_retries is 9)", {"retries": 9},
            "it is attempt 1, not 2",
        ),
        (
            f"{LOST_3} (not tried again: attempt 1, max_retries is 9)", {"retries": 9},
            "such an end costs no retry",
        ),
        (
            f"{LOST_3} (not tried again: 4 workers were lost with it)", {},
            "1 workers were lost with it, and not 4",
        ),
        (
            "ValueError: no (not tried again: 4 workers were lost with it)", {"lost": 3},
            "3 workers were lost with it, and not 4",
        ),
        (
            f"{LOST_3} (not tried again: 4 workers were lost with it)",
            {"lost": 3, "max_lost": 4},
            "only 4 workers were lost with it, but max_lost is 4",
        ),
        (f"ValueError: no{PAST_WINDOW}", {}, "not at 2025-12-03 13:30:10"),
        (f"ValueError: no{PAST_WINDOW}", {"ended": "03 13:30:12"}, "not at 2025-12-03 13:30:10"),
        (f"{LOST_3}{PAST_WINDOW}", {"ended": LATE}, "not at 2025-12-03 13:30:10"),
        (f"ValueError: no{PAST_WINDOW}", {"ended": LATE, "forced": True}, "but it is forced"),
        (
            f"ValueError: no{PAST_WINDOW}",
            {"ended": LATE, "window_closes_at": at("03 13:31")},
            "its window closes at 2025-12-03 13:31:00",
        ),
        (
            f"ValueError: no{PAST_WINDOW.replace('13:30:10', '13:29:59')}", {"ended": LATE},
            "would have been in time",
        ),
        (
            f"ValueError: no{PAST_WINDOW.replace('13:30:10', '13:29:59')}", {"clock": LEAPS},
            "would have been in time",
        ),
        (
            # In a replay no error can ask for a wait.
            f"QuotaSpentError: no{PAST_WINDOW}",
            {"clock": MarketClock(at("01 12:00"), at("01 12:00"), 1)},
            "not at 2025-12-03 13:30:10",
        ),
        (f"ValueError: no{PAST_RUN}", {"ended": "02 21:29:40"}, "which does not count for it"),
        (
            f"ValueError: no{PAST_RUN}",
            {"ended": "02 21:29:40", "run_timeout": 28_860},
            "its run's time ends at 2025-12-02 21:31:01",
        ),
        (
            f"ValueError: no{PAST_RUN}",
            {"ended": "02 21:29:40", "run_timeout": 28_800, "forced": True},
            "which does not count for it",
        ),
        (
            f"ValueError: no{PAST_RUN}", {"run_timeout": 28_800},
            "not at 2025-12-02 21:30:10",
        ),
        (
            f"ValueError: no{PAST_RUN.replace('21:30:10', '21:29:59')}",
            {"ended": "02 21:29:40", "run_timeout": 28_800},
            "would have been in time",
        ),
    ],
)  # fmt: skip
def test_a_failure_that_is_final_for_no_true_reason_is_found(
    message: str, asked: dict[str, Any], found: str
) -> None:
    (fault,) = unfounded(message, **asked)
    assert found in fault


def workers(incarnation: str = "i", **values: Any) -> dict[str, Worker]:
    there = {
        "worker": "worker@host",
        "queues": ("US_EQ",),
        "started_at": at("01 13:00"),
        "expires_at": at("06 00:00"),
        "ended_at": None,
    }
    return {incarnation: Worker(incarnation, **{**there, **values})}


def test_a_start_by_a_worker_that_was_not_there_is_found() -> None:
    assert rules(replace(sound(), workers=workers())) == []
    assert rules(replace(sound(), workers=workers("another"))) == []
    assert rules(replace(sound(), workers=workers(ended_at=at("04 08:00")))) == ["worker-gone"]
    assert rules(replace(sound(), workers=workers(started_at=at("01 20:00")))) == ["worker-gone"]


@pytest.mark.parametrize(
    ("ended_at", "found"),
    [("02 21:00:34", []), ("02 21:00:36", ["rescued-early"]), (None, ["rescued-early"])],
)
def test_an_attempt_that_was_taken_from_a_worker_before_its_end_is_found(
    ended_at: str | None, found: list[str]
) -> None:
    history = changed(
        sound(), "prices-2-1", incarnation="lost",
        error_message="worker lost: host h, pid 1, last seen 2025-12-02 21:00:04 UTC",
    )  # fmt: skip
    lost = workers("lost", ended_at=at(ended_at) if ended_at else None)
    assert rules(replace(history, workers=workers() | lost)) == found


def test_an_attempt_that_was_given_up_before_its_limit_is_found() -> None:
    message = "ended without a report by its hard limit on worker@host"
    history = changed(sound(), "prices-2-1", error_message=message)
    assert rules(history) == ["rescued-early"]
    assert rules(changed(history, "prices-2-1", hard_limit_at=at("02 21:00:34"))) == []


def test_every_rule_is_broken_somewhere_in_this_file() -> None:
    codes = set(re.findall(r'(?:_of|_of_run|Violation)\(\s*"([a-z-]+)"', source()))
    assert len(codes) > 40
    here = Path(__file__).read_text(encoding="utf-8")
    assert [code for code in sorted(codes) if f'"{code}"' not in here] == []


def source() -> str:
    return Path(checks.__file__).read_text(encoding="utf-8")


def test_a_job_that_no_worker_knew_expires_and_is_counted_as_that() -> None:
    reason = "no worker of US_EQ knows the job daily.report: 5 messages for it were refused."
    report = judge(changed(sound(), "report-2-1", error_message=reason))
    assert report.violations == ()
    assert "expired: no worker knows the job" in report.counts.without_success


def test_bound_of_the_two_thousandth_retry_is_the_cap() -> None:
    history = changed(sound(), "prices-1-1", retries=1_999)
    history = redefined(1, job_id="prices", max_retries=3_000)(history)
    history = changed(history, "prices-1-2", retries=2_000, retry_bound_seconds=900)
    assert "retry-delay" not in rules(history)
    assert "retry-delay" in rules(changed(history, "prices-1-2", retry_bound_seconds=901))


def test_a_retry_past_its_window_is_found() -> None:
    late = at("02 13:30:00")
    history = changed(
        sound(), "prices-1-1",
        started_at=at("02 13:29:40"), started_market_at=at("02 13:29:40"), named_at=None,
        completed_at=at("02 13:29:50"), updated_at=at("02 13:29:50"), hard_limit_at=None,
    )  # fmt: skip
    history = changed(
        history, "prices-1-2",
        created_at=at("02 13:29:50"), scheduled_at=late, scheduled_market_at=late,
        retry_delay_seconds=10, started_at=None, started_market_at=None, worker=None,
        incarnation=None, named_at=None, published_at=None, status="EXPIRED",
        completed_at=late, updated_at=late,
        error_message="its window closed at 2025-12-02 13:30:00 UTC",
    )  # fmt: skip
    assert "retry-late" in rules(history)


@pytest.mark.parametrize(
    ("mutation", "message"),
    [
        (
            change_run(4, completed_at=at("05 10:00"), updated_at=at("05 10:00")),
            "it was completed before it was made",
        ),
        (change("prices-1-2", retry_delay_seconds=-1), "its delay is -1 s, not 0 to 60 s"),
        (change("prices-1-2", retry_delay_seconds=61), "its delay is 61 s, not 0 to 60 s"),
        (
            lambda history: run_changed(
                changed(history, "report-1-1", window_opens_at=None), 1, calendar_version="older"
            ),
            "started at 2025-12-01 14:30:02.000 UTC without a window",
        ),
    ],
)
def test_each_side_of_a_fact_is_named(mutation: Mutation, message: str) -> None:
    assert message in {each.message for each in judge(mutation(sound())).violations}


def test_delay_of_a_retry_counts_from_the_instant_that_the_error_named() -> None:
    def told(at: str) -> History:
        history = changed(
            sound(),
            "prices-1-1",
            error_message=f"QuotaSpentError: no (next try not before 2025-12-01 {at} UTC)",
        )
        return changed(history, "prices-1-2", retry_delay_seconds=10)

    assert not judge(told("21:00:25")).violations
    assert rules(told("21:00:05")) == ["retry-delay"]


def limited(history: History, day: int, *, job: str, queue: float, run: float) -> History:
    """Give a day's run a limit, and one of its jobs one in its queue."""
    jobs = [
        {**each, "queue_timeout_seconds": queue} if each["job_id"] == job else each for each in JOBS
    ]
    definition = {**DEFINITION, "jobs": jobs, "run_timeout_seconds": run}
    text = json.dumps(definition)
    return run_changed(history, day, definition=text, definition_hash=digest(definition))


def test_a_start_past_its_time_outs_is_found() -> None:
    fine = limited(sound(), 1, job="report", queue=60, run=86_400)
    assert rules(fine) == []
    assert rules(limited(sound(), 1, job="report", queue=60, run=3_500)) == ["too-late"]
    late = changed(
        fine, "report-1-1",
        started_at=at("01 14:31:20"), started_market_at=at("01 14:31:20"), named_at=None,
        completed_at=at("01 14:31:21"), updated_at=at("01 14:31:21"),
    )  # fmt: skip
    assert rules(late) == ["too-late"]


@pytest.mark.parametrize(
    ("reason", "run_seconds", "found"),
    [
        ("its run took longer than its run_timeout, 2 h", 7_200, []),
        ("its run took longer than its run_timeout, 8 h", 28_800, ["expired"]),
        ("no worker took it from its queue within its queue_timeout, 1 h", 7_200, ["expired"]),
    ],
)
def test_an_expiry_by_a_time_out_is_after_it(
    reason: str, run_seconds: float, found: list[str]
) -> None:
    history = limited(sound(), 2, job="prices", queue=3_600, run=run_seconds)
    expired = changed(history, "report-2-1", error_message=reason)
    violations = judge(expired).violations
    # The run of that day took longer than any of these limits, and the others are found too.
    assert [each.rule for each in violations if each.job_id == "report"] == found


@pytest.mark.parametrize(
    "message",
    [
        "worker cut off: it could not renew its lease of 30 s while others had the database",
        "ended without a report: w@h does not run it any more",
        "handed back: worker stopped",
    ],
)
def test_what_no_job_is_to_blame_for_costs_no_retry_and_no_delay(message: str) -> None:
    lost = 0 if message.startswith("handed back") else 1
    history = changed(sound(), "prices-2-1", error_message=message)
    assert rules(with_next(history, lost=lost, retries=0)) == []
    assert rules(with_next(history, lost=1 - lost, retries=0)) == ["counters"]
    assert rules(with_next(history, lost=0, retries=1)) == ["counters"]


def with_next(history: History, **values: Any) -> History:
    rows = [
        replace(each, **values) if each.execution_id == "prices-2-2" else each
        for each in history.executions
    ]
    return replace(history, executions=rows)


# --- what does not count -----------------------------------------------------------------------


def test_forced_runs_may_start_whenever_somebody_says() -> None:
    history = changed(
        sound(), "report-1-1", started_market_at=at("01 14:30:01"), window_opens_at=at("01 20:00")
    )
    assert rules(history) == ["window-differs"]
    assert rules(run_changed(history, 1, forced=True, trigger="operator")) == []


def test_a_run_of_another_calendar_keeps_to_the_window_it_was_given() -> None:
    history = changed(sound(), "report-1-1", window_closes_at=at("01 22:00"))
    history = run_changed(history, 1, calendar_version="older")
    report = judge(history)
    assert report.violations == ()
    assert report.counts.other_calendar == 1
    late = changed(history, "report-1-1", started_market_at=at("01 22:00"))
    assert "outside-window" in rules(late)


def test_a_job_may_follow_an_earlier_success_that_was_run_again_later() -> None:
    history = with_rows(
        sound(), done("prices", 1, "02 09:00:05", attempt_number=3, forced=True, made="02 09:00:00")
    )
    history = run_changed(history, 1, completed_at=at("02 09:00:07"), updated_at=at("02 09:00:07"))
    audit = replace(sound().audit[1], at=at("02 09:00:00"), target="us_eq_daily_2025-12-01")
    audit = replace(audit, details={"new_attempts": ["prices"]})
    history = replace(history, audit=[*history.audit, audit])
    report = judge(history)
    assert report.violations == ()
    assert report.counts.again == 1


def test_stamps_of_a_clock_that_was_set_back_are_forgiven_if_asked() -> None:
    history = changed(sound(), "report-1-1", created_at=at("01 14:30:10"))
    assert rules(history) == ["stamps"]
    assert rules(history, tolerances=Tolerances(clock_steps=timedelta(minutes=1))) == []


def test_claim_before_its_upstream_was_there_is_forgiven_to_a_clock_that_was_set_back() -> None:
    history = changed(sound(), "prices-1-2", created_at=at("01 21:00:45"))
    assert "upstream" in rules(history)
    assert rules(history, tolerances=Tolerances(clock_steps=timedelta(minutes=1))) == []


def test_runs_that_an_operator_or_a_catch_up_forced_are_let_be() -> None:
    assert rules(run_changed(sound(), 3, forced=True, trigger="operator")) == []
    assert rules(run_changed(sound(), 4, forced=True, trigger="catch_up")) == []


def replayed(speed: float) -> History:
    """Return the sound history as a replay, 300 days later."""
    wall = timedelta(days=300)
    since = at("01 00:00") if speed else at("11 12:00")  # where it stands
    clock = MarketClock(since, since + wall, speed)
    names = ("created_at", "scheduled_at", "started_at", "completed_at", "published_at")
    history = replace(sound(), clock=clock, wall_at=at("11 12:00") + wall)
    return replace(
        history,
        executions=[
            replace(
                each,
                **{
                    name: getattr(each, name) and getattr(each, name) + wall
                    for name in (*names, "named_at", "updated_at")
                },
            )
            for each in history.executions
        ],
        runs=[
            replace(
                each,
                created_at=each.created_at + wall,
                updated_at=each.updated_at + wall,
                completed_at=each.completed_at and each.completed_at + wall,
            )
            for each in history.runs
        ],
        audit=[replace(each, at=each.at + wall) for each in history.audit],
    )


def test_in_a_replay_windows_follow_market_time_and_stamps_wall_time() -> None:
    history = replayed(0)
    assert judge(history).violations == ()
    early = changed(history, "report-1-1", started_market_at=at("01 14:29"))
    assert rules(early) == ["outside-window"]


@pytest.mark.parametrize("by", [-20 * SECOND, 2 * SECOND])
def test_at_a_speed_market_time_is_held_against_the_stamps(by: timedelta) -> None:
    history = replayed(1)
    assert judge(history).violations == ()
    row = next(each for each in history.executions if each.execution_id == "prices-1-1")
    assert row.started_market_at is not None
    wrong = changed(history, "prices-1-1", started_market_at=row.started_market_at + by)
    assert "market-time" in rules(wrong)


def test_what_followed_an_earlier_clock_is_not_held_against_a_later_one() -> None:
    history = replayed(1)
    assert history.clock.anchor_market_at is not None
    later = MarketClock(history.clock.anchor_market_at, history.wall_at, 9)
    assert "market-time" not in rules(replace(history, clock=later))


def test_in_a_replay_nothing_expires_before_its_clock_has_come_so_far() -> None:
    clock = MarketClock(at("02 20:00"), at("11 12:00"), 0)
    assert "expired" in rules(replace(sound(), clock=clock))


def test_columns_of_a_cancel_stand_for_its_audit() -> None:
    history = changed(sound(), "report-3-1", cancel_asked_at=at("03 15:00:00"))
    history = replace(history, audit=[history.audit[1]])
    found = judge(history).violations
    assert {violation.job_id for violation in found} == {"prices", "returns", "book"}
    late = changed(history, "report-3-1", cancel_asked_at=at("03 16:00:00"))
    assert "report" in {violation.job_id for violation in judge(late).violations}


# --- what is still open ------------------------------------------------------------------------


def test_an_open_run_is_a_fault_only_of_a_history_that_should_be_finished() -> None:
    assert rules(still_open()) == ["unfinished"]


def test_a_job_that_nothing_keeps_waiting_is_found() -> None:
    history = changed(
        still_open(), "returns-5-1", status="SUCCESS", completed_at=at("05 21:01:05"),
        updated_at=at("05 21:01:05"),
    )  # fmt: skip
    assert rules(history, finished=False) == []
    assert rules(history, finished=False, now=at("05 21:10")) == ["forgotten"]


def test_a_job_that_waits_for_its_window_is_not_forgotten() -> None:
    history = changed(
        still_open(), "prices-5-1", status="PENDING", scheduled_at=None, scheduled_market_at=None,
        published_at=None, started_at=None, started_market_at=None, named_at=None, worker=None,
        completed_at=None,
    )  # fmt: skip
    history = without(history, "returns-5-1", "book-5-1")
    history = with_rows(history, row("returns", 5, "PENDING"), row("book", 5, "PENDING"))
    assert rules(history, finished=False, now=at("05 21:04")) == []
    assert rules(history, finished=False, now=at("05 21:06")) == ["forgotten"]


def test_a_job_below_a_failure_must_be_skipped() -> None:
    history = changed(
        still_open(), "returns-5-1", status="FAILED", completed_at=at("05 21:01:05"),
        updated_at=at("05 21:01:05"),
        error_message="E: no (not tried again: attempt 1, max_retries is 0)",
    )  # fmt: skip
    assert rules(history, finished=False, now=at("05 21:05")) == []
    assert rules(history, finished=False, now=at("05 21:07")) == ["forgotten"]


def test_a_job_waits_for_the_session_before() -> None:
    history = changed(
        still_open(), "returns-5-1", status="SUCCESS", completed_at=at("05 21:01:05"),
        updated_at=at("05 21:01:05"),
    )  # fmt: skip
    yesterday = replace(run(4, "OPEN", None), definition=history.runs[0].definition)
    waiting = row("book", 4, "RUNNING", scheduled="04 21:01:02", started="04 21:01:03")
    others = [
        done(name, 4, f"04 21:00:{second}")
        for name, second in (("prices", "01"), ("returns", "04"))
    ]
    report = done("report", 4, "04 15:00:00")
    history = replace(history, runs=[*history.runs, yesterday])
    history = with_rows(history, waiting, *others, report)
    found = judge(history, finished=False, now=at("05 21:10")).violations
    assert [(each.rule, each.execution_id) for each in found] == [("stuck", "book-4-1")]


def test_work_is_late_only_as_far_as_a_scheduler_was_there() -> None:
    history = changed(
        still_open(), "returns-5-1", status="SUCCESS", completed_at=at("05 21:01:05"),
        updated_at=at("05 21:01:05"),
    )  # fmt: skip
    history = replace(history, wall_at=at("05 23:00"))
    assert rules(history, finished=False) == ["forgotten"]
    assert rules(replace(history, ticked_at=at("05 21:02")), finished=False) == []


def test_a_job_past_its_limit_is_stuck() -> None:
    history = changed(still_open(), "returns-5-1", named_at=at("05 21:16"))
    assert rules(history, finished=False, now=at("05 21:17")) == []
    assert rules(history, finished=False, now=at("05 21:18")) == ["stuck"]


def test_a_job_that_no_worker_names_is_stuck() -> None:
    history = changed(still_open(), "returns-5-1", hard_limit_at=at("06 21:00"))
    assert rules(history, finished=False, now=at("05 21:16")) == []
    assert rules(history, finished=False, now=at("05 21:17")) == ["stuck"]
    named = changed(history, "returns-5-1", named_at=at("05 21:10"))
    assert rules(named, finished=False, now=at("05 21:17")) == []


def queued(**values: Any) -> History:
    """On the 5th, returns waits in its queue, and a worker that takes from it has run the rest."""
    history = changed(
        still_open(), "returns-5-1", status="QUEUED", started_at=None, started_market_at=None,
        worker=None, named_at=None, incarnation=None, hard_limit_at=None, **values,
    )  # fmt: skip
    return replace(history, workers=workers(expires_at=at("05 22:00")))


@pytest.mark.parametrize("values", [{}, {"forced": True}])
def test_a_job_whose_message_is_lost_is_stuck(values: dict[str, Any]) -> None:
    history = queued(**values)
    asked: dict[str, Any] = {"finished": False, "now": at("05 21:17")}
    assert rules(history, finished=False, now=at("05 21:16")) == ["forced"] * len(values)
    assert "stuck" in rules(history, **asked)
    assert "stuck" in rules(run_changed(history, 5, forced=True, trigger="operator"), **asked)
    # Nothing is known of one that is not due yet, or that nobody could have taken.
    for waits in (
        changed(history, "returns-5-1", scheduled_at=at("05 21:03")),
        replace(history, workers=workers(expires_at=at("05 21:10"))),
        replace(history, workers=workers(expires_at=at("05 22:00"), ended_at=at("05 21:10"))),
        replace(history, workers=workers(expires_at=at("05 22:00"), queues=("EU_EQ",))),
        replace(history, workers=workers(expires_at=at("05 22:00"), started_at=at("05 21:05"))),
        with_rows(history, done("report", 4, "05 21:05:00")),
        with_rows(history, row("report", 4, "RUNNING", scheduled="04 15:00", started="04 15:00")),
    ):
        assert "stuck" not in {
            found.rule for found in judge(waits, **asked).violations if found.job_id == "returns"
        }


def test_a_job_whose_message_is_lost_is_stuck_in_a_replay() -> None:
    history = replace(queued(), clock=MarketClock(at("05 21:01:02"), at("05 21:01:02"), 0))
    assert rules(history, finished=False, now=at("05 21:16")) == []
    assert rules(history, finished=False, now=at("05 21:17")) == ["stuck"]


def test_a_job_whose_window_was_moved_waits_for_it() -> None:
    history = queued(window_opens_at=at("05 22:00"))
    moved = run_changed(history, 5, calendar_version="older")
    assert "stuck" not in rules(moved, finished=False, now=at("05 21:17"))
    forced = changed(moved, "returns-5-1", forced=True)
    assert "stuck" in rules(forced, finished=False, now=at("05 21:17"))


def test_a_job_past_its_window_is_stuck() -> None:
    history = changed(
        still_open(), "returns-5-1", status="QUEUED", started_at=None, started_market_at=None,
        worker=None, named_at=None, incarnation=None,
    )  # fmt: skip
    assert rules(history, finished=False, now=at("08 13:44")) == []
    found = judge(history, finished=False, now=at("08 13:46")).violations
    assert [(each.rule, each.job_id) for each in found] == [("stuck", "returns"), ("stuck", "book")]


def test_a_run_whose_jobs_have_ended_is_stuck() -> None:
    history = replace(sound(), runs=[run(1, "OPEN", None)])
    rows = [each for each in history.executions if each.as_of_date.day == 1]
    history = replace(history, executions=rows)
    assert rules(history, finished=False, now=at("01 21:02")) == []
    assert rules(history, finished=False) == ["stuck"]


# --- what is expected --------------------------------------------------------------------------

FOUR_DAYS = Expectation({"daily": ["US_EQ"]}, date(2025, 12, 1), date(2025, 12, 4))


def test_all_sessions_that_are_expected_are_there() -> None:
    assert rules(sound(), expect=FOUR_DAYS) == []


def test_a_session_without_a_run_is_found() -> None:
    report = judge(sound(), expect=replace(FOUR_DAYS, until=date(2025, 12, 7)))
    assert [(each.rule, each.message) for each in report.violations] == [
        ("run-missing", "daily has no run for US_EQ on 2025-12-05")
    ]


def test_a_market_without_runs_is_found() -> None:
    expect = replace(FOUR_DAYS, pipelines={"daily": ["US_EQ", "EU_EQ"]})
    assert len(judge(sound(), expect=expect).violations) == 4


def test_a_run_of_another_market_is_found() -> None:
    assert rules(sound(), expect=replace(FOUR_DAYS, pipelines={"daily": []})) == ["wrong-market"]
    expect = replace(FOUR_DAYS, pipelines={"daily": ["US_EQ", "MARS"]})
    assert rules(sound(), expect=expect) == ["unknown-market"]


def ruled(**rule: str) -> Mutation:
    definition = {**DEFINITION, **rule}
    return change_run(1, definition=json.dumps(definition), definition_hash=digest(definition))


def test_a_run_of_a_session_that_its_pipeline_leaves_out_is_found() -> None:
    assert rules(ruled(sessions="first of month")(sound())) == []
    assert rules(ruled(sessions="2nd of month")(sound())) == ["other-session"]
    assert rules(ruled(sessions="last of week")(sound())) == ["other-session"]
    assert rules(ruled(short_sessions="skip")(sound())) == []
    by_operator = change_run(1, trigger="operator", forced=True)
    assert "other-session" not in rules(by_operator(ruled(sessions="2nd of week")(sound())))
    assert rules(ruled(sessions="monthly")(sound())) == rules(
        change_run(1, definition="{}")(sound())
    )


def test_a_run_that_opens_with_its_first_job_is_fine() -> None:
    early = redefined(1, job_id="returns", start="open-1h30m")(sound())
    assert "run-opens" in rules(early)
    opened = run_changed(early, 1, opens_at=at("01 13:00"))
    assert "run-opens" not in rules(opened)


SENSOR = {"every_seconds": 300.0, "up_to_seconds": 900.0, "expected": None, "give_up": "6h"}


def polling(otherwise: str = "fail", *, give_up: str = "6h", **following: Any) -> History:
    """On the 1st, prices are a sensor whose first poll finds nothing."""
    sensor = {**SENSOR, "otherwise": otherwise, "give_up": give_up}
    history = redefined(1, job_id="prices", sensor=sensor)(sound())
    history = changed(history, "prices-1-1", status="SUCCESS", error_message=None)
    costs = {"retries": 0, "retry_bound_seconds": 300, "retry_delay_seconds": 300}
    return changed(history, "prices-1-2", **{**costs, **following})


def test_a_poll_that_finds_nothing_is_followed_by_another() -> None:
    report = judge(polling())
    assert report.violations == ()
    assert report.counts.successes == judge(sound()).counts.successes
    assert report.counts.again == judge(sound()).counts.again


def test_a_poll_that_costs_something_or_comes_at_the_wrong_time_is_found() -> None:
    assert rules(polling(retries=1)) == ["counters"]
    assert rules(polling(lost=1)) == ["counters"]
    assert rules(polling(retry_delay_seconds=400)) == ["poll-delay"]
    assert rules(polling(retry_delay_seconds=0)) == ["poll-delay"]
    assert "retry-late" in rules(polling(scheduled_market_at=at("02 13:30")))


def test_a_sensor_that_is_skipped_when_it_gives_up_may_have_started() -> None:
    gone = missing("give_up=1s", "skip")

    def skipped(otherwise: str) -> list[str]:
        history = polling(otherwise, give_up="1s")
        return rules(changed(history, "prices-1-2", status="SKIPPED", error_message=gone))

    assert "skipped" in skipped("fail")
    assert "skipped" not in skipped("skip")


def test_a_sensor_that_is_skipped_for_an_error_says_why_it_is_final() -> None:
    def found(message: str) -> list[str]:
        history = polling("skip", retries=0, retry_bound_seconds=300)
        return rules(changed(history, "prices-1-2", status="SKIPPED", error_message=message))

    assert "skipped" in found("ValueError: boom")
    assert "skipped" in found("ValueError: boom (not tried again: attempt 2, max_retries is 99)")
    assert "skipped" not in found(
        "NoTokenError: refused (not tried again: the error says that it would not help)"
    )


@pytest.mark.parametrize(
    ("otherwise", "found"), [("fail", True), ("skip", False), ("continue_stale", False)]
)
def test_only_a_sensor_that_goes_another_way_may_start_after_its_window(
    otherwise: str, found: bool
) -> None:
    """Its own ends with POST_CLOSE, that of the job that waits for it with the next PRE_OPEN."""
    assert ("outside-window" in rules(polled_at(at("01 23:31"), otherwise))) is found


def test_no_sensor_may_start_when_no_job_that_waits_for_it_could() -> None:
    assert "outside-window" in rules(polled_at(at("02 13:31"), "skip"))


def polled_at(late: datetime, otherwise: str) -> History:
    sensor = {**SENSOR, "otherwise": otherwise}
    history = redefined(1, job_id="prices", sensor=sensor, window="state")(polling(otherwise))
    return changed(
        history, "prices-1-2", started_at=late, started_market_at=late, completed_at=late,
        updated_at=late, window_closes_at=at("01 23:00"),
    )  # fmt: skip


def missing(end: str, otherwise: str = "fail", at: str = "21:00:38") -> str:
    return (
        f"MISSING: it had not come at 2025-12-01 {at} UTC, when the sensor gave up "
        f"(not tried again: {end}, otherwise={otherwise}): the feed says no"
    )


CLOSES = "its window ends at 2025-12-02 13:30:00 UTC"


@pytest.mark.parametrize(
    ("message", "give_up", "values", "found"),
    [
        (missing("give_up=1s"), "1s", {}, ""),
        (missing("give_up=close+30s"), "close+30s", {}, ""),
        (missing("give_up=6h"), "6h", {}, "not to give up before 2025-12-02 03:00:00"),
        (missing("give_up=open+7h"), "open+7h", {}, "not to give up before 2025-12-01 21:30:00"),
        (missing("give_up=1s"), "6h", {}, "it had no reason to give up: give_up=1s"),
        (missing("give_up=1s", at="21:10:00"), "1s", {}, "it gave up at 2025-12-01 21:00:38"),
        (missing("give_up=1s", "skip"), "1s", {}, "it is no sensor that may so give up"),
        (missing(CLOSES), "6h", {}, "it could have asked again, 0:10:00 later"),
        (missing(CLOSES), "6h", {"window_closes_at": at("01 21:05")}, "does not close at"),
        (missing(CLOSES), "6h", {"forced": True}, "it is forced"),
        (missing("its session is none any more"), "6h", {}, "its session was never closed"),
        (missing("a clock that leaps waits for nothing"), "6h", {}, "it had no reason to give up"),
        (f"ValueError: {missing('give_up=1s')}", "1s", {}, "no next attempt was written"),
    ],
)
def test_what_a_sensor_says_when_it_gives_up_is_held_against_its_rule(
    message: str, give_up: str, values: dict[str, Any], found: str
) -> None:
    history = polling(give_up=give_up)
    history = changed(history, "prices-1-2", status="FAILED", error_message=message, **values)
    faults = [each.message for each in judge(history).violations if each.rule == "not-retried"]
    assert [found in fault for fault in faults] == [True] * bool(found)
    if not found:
        assert "failed: what it waited for did not come" in judge(history).counts.without_success


def test_a_sensor_gives_up_for_its_window_when_the_next_poll_would_be_past_it() -> None:
    late = at("02 13:25")
    history = changed(
        polling(), "prices-1-2", status="FAILED", started_at=late, started_market_at=late,
        completed_at=late, updated_at=late, error_message=missing(CLOSES).replace(
            "2025-12-01 21:00:38", "2025-12-02 13:25:00"
        ),
    )  # fmt: skip
    assert "not-retried" not in rules(history)


def test_a_sensor_gives_up_at_once_where_the_clock_leaps() -> None:
    message = missing("a clock that leaps waits for nothing")
    history = changed(polling(), "prices-1-2", status="FAILED", error_message=message)
    assert "not-retried" not in rules(replace(history, clock=LEAPS))


def test_sessions_that_a_pipeline_leaves_out_are_not_missing() -> None:
    until = date(2025, 12, 31)
    left_out = replace(FOUR_DAYS, until=until, sessions={"daily": ("first of month", "run")})
    assert rules(sound(), expect=left_out) == []
    weekly = replace(FOUR_DAYS, until=until, sessions={"daily": ("last of week", "skip")})
    report = judge(sound(), expect=weekly)
    missing = [each.message[-10:] for each in report.violations if each.rule == "run-missing"]
    assert missing == ["2025-12-05", "2025-12-12", "2025-12-19", "2025-12-26"]


# --- evidence of the jobs themselves -----------------------------------------------------------


def evidence() -> list[StartRecord]:
    return [
        StartRecord(each.execution_id, each.started_at)
        for each in sound().executions
        if each.started_at is not None
    ]


def test_bodies_that_ran_once_are_fine() -> None:
    report = judge(sound(), starts=evidence())
    assert report.ok
    assert report.counts.starts == 11


def test_a_body_that_ran_twice_is_found() -> None:
    starts = [*evidence(), StartRecord("prices-1-1", at("01 21:00:04"))]
    (found,) = judge(sound(), starts=starts).violations
    assert (found.rule, found.execution_id) == ("doubled-start", "prices-1-1")


def test_a_body_of_a_row_that_never_started_is_found() -> None:
    starts = [*evidence(), StartRecord("book-3-1", at("03 15:00:10"))]
    assert rules(sound(), starts=starts) == ["unrecorded-start"]


def test_a_body_of_no_row_is_found() -> None:
    starts = [*evidence(), StartRecord("nobody", at("03 15:00:10"))]
    assert rules(sound(), starts=starts) == ["unknown-start"]


def test_a_success_that_nobody_ran_is_found() -> None:
    starts = [each for each in evidence() if each.execution_id != "report-1-1"]
    assert rules(sound(), starts=starts) == ["success-without-start"]
    # One that failed may have been killed before it could say so.
    starts = [each for each in evidence() if each.execution_id != "prices-1-1"]
    assert rules(sound(), starts=starts) == []


# --- recorded changes --------------------------------------------------------------------------


def with_changes(edit: Callable[[list[Change]], list[Change]]) -> History:
    return replace(sound(), changes=edit(lives(sound())))


def test_allowed_changes_are_fine() -> None:
    report = judge(with_changes(list))
    assert report.violations == ()
    assert report.counts.changes > 40


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (
            lambda all_: [*all_, Change("report-1-1", "SUCCESS", "FAILED", at("02 00:00"), 900)],
            ["change-gap", "changed-after-end"],
        ),
        (
            lambda all_: [*all_, Change("report-1-1", "SUCCESS", "SUCCESS", at("02 00:00"), 900)],
            ["changed-after-end"],
        ),
        (
            lambda all_: [*all_, Change("report-1-1", "SUCCESS", "DELETED", at("02 00:00"), 900)],
            ["change-gap", "changed-after-end"],
        ),
        (
            # Claimed twice: the second worker took it from the first.
            lambda all_: [
                *(each for each in all_ if each.execution_id != "report-1-1"),
                *_way("report-1-1", None, "PENDING", "QUEUED", "RUNNING", "RUNNING", "SUCCESS"),
            ],
            ["illegal-change"],
        ),
        (
            lambda all_: [
                *(each for each in all_ if each.execution_id != "report-1-1"),
                *_way("report-1-1", None, "PENDING", "RUNNING", "SUCCESS"),
            ],
            ["illegal-change"],
        ),
        (
            lambda all_: [
                *(each for each in all_ if each.execution_id != "report-1-1"),
                *_way("report-1-1", None, "PENDING", "QUEUED"),
                *_way("report-1-1", "RUNNING", "SUCCESS", first=600),
            ],
            ["change-gap"],
        ),
        (
            lambda all_: [each for each in all_ if each.seq != 3],
            ["change-gap"],
        ),
    ],
)
def test_a_change_that_is_not_allowed_is_found(
    edit: Callable[[list[Change]], list[Change]], found: list[str]
) -> None:
    assert rules(with_changes(edit)) == found


def _way(execution_id: str, *states: str | None, first: int = 500) -> list[Change]:
    return [
        Change(execution_id, old, str(new), at("01 00:00") + number * SECOND, number)
        for number, (old, new) in enumerate(pairwise(states), first)
    ]


def test_the_report_is_json() -> None:
    document = json.loads(json.dumps(judge(run_changed(sound(), 1, status="FAILED")).to_json()))
    assert document["ok"] is False
    assert document["violations"] == [
        {
            "rule": "run-status",
            "message": "it is FAILED, but its jobs make it SUCCESS",
            "dag_id": "us_eq_daily_2025-12-01",
            "job_id": None,
            "execution_id": None,
        }
    ]
    assert document["counts"]["successes"] == 7


def test_a_hundred_thousand_rows_take_a_few_seconds() -> None:
    history = many(5_000)
    assert len(history.executions) == 100_000
    began_at = time.process_time()
    report = judge(history)
    took = time.process_time() - began_at
    assert report.ok
    assert took < 20, "about 3 s on an idle machine"


@pytest.mark.parametrize("word", ["before", "from"])
def test_the_calendar_that_a_run_left_is_read_by_either_word(word: str) -> None:
    """Earlier releases wrote the other one."""
    first = Override(
        override_id=7,
        exchange="XNYS",
        session=date(2025, 12, 5),
        kind=OverrideKind.CLOSED,
        reason="mourning",
        source="a circular",
        announced_at=at("04 09:00:00"),
        author="ada",
    )
    later = replace(first, override_id=8, session=date(2025, 12, 8))
    (run,) = still_open().runs
    version = TradingCalendar("US_EQ", overrides=Overrides((first,))).version
    row = Audit(at("05 09:00:00"), "scheduler", "calendar", run.dag_id, {word: version})
    history = replace(still_open(), audit=[row], overrides=Overrides((first, later)))
    case = checks.make_case(
        history,
        finished=False,
        starts=(),
        expect=None,
        tolerances=Tolerances(),
        now=None,
        max_lost=None,
    )
    assert [each.version for each in case.runs[0].before] == [version]
