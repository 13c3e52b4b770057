"""What boards and progress lines make of two looks at the database."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Self, cast

import pytest
from rich.console import Console
from sqlalchemy import Engine

from prometheus.cli import following
from prometheus.cli.board import Expected, current_run, draw
from prometheus.cli.following import Changes, Lines, StalledError, follow
from prometheus.cli.sessions import remarks
from prometheus.cli.stack import Stack
from prometheus.core.clock import MarketClock
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.dag import build_market_dag
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.orchestration.planning import SessionRange
from prometheus.orchestration.windows import run_opens_at
from prometheus.persistence import operators
from prometheus.persistence.clock import Now, start_replay
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.progress import (
    JobProgress,
    Progress,
    RunProgress,
    read_progress,
    summarise,
)
from prometheus.persistence.runs import create_run

WALL = datetime(2026, 11, 23, 9, tzinfo=UTC)
CLOSE = datetime(2012, 11, 23, 18, tzinfo=UTC)
MARKETS = ("US_EQ", "EU_EQ", "ASIA_EQ")


def job(name: str, status: JobStatus = JobStatus.PENDING, **values: object) -> JobProgress:
    plain = JobProgress(name, f"id-{name}", status, 1, None, None, None, None)
    return replace(plain, **values)  # type: ignore[arg-type]


def run(*jobs: JobProgress, status: RunStatus = RunStatus.OPEN, day: int = 23) -> RunProgress:
    session_date = date(2012, 11, day)
    return RunProgress(f"us_eq_daily_{session_date}", "daily", "US_EQ", session_date, status, jobs)


def look(*runs: RunProgress, at: datetime = CLOSE, speed: float = 0) -> Progress:
    now = Now(WALL, at, MarketClock(at, WALL, speed), None, None)
    return Progress(now, runs)


def sentences(changes: Changes, progress: Progress) -> list[str]:
    return [change.sentence for _, change in changes.between(progress)]


def test_a_run_is_told_from_its_opening_to_its_end() -> None:
    changes = Changes()
    first, second = job("first"), job("second")
    name = "us_eq_daily_2012-11-23"
    assert sentences(changes, look(run(first, second))) == [f"{name}  opened, 2 jobs"]
    assert sentences(changes, look(run(first, second))) == []
    done = replace(first, status=JobStatus.SUCCESS)
    assert sentences(changes, look(run(done, second))) == [f"{name}  1/2 jobs"]
    both = run(done, replace(second, status=JobStatus.SUCCESS), status=RunStatus.SUCCESS)
    assert sentences(changes, look(both)) == [f"{name}  SUCCESS (2 SUCCESS)"]
    again = run(done, job("second", execution_id="another", attempt_number=2))
    assert sentences(changes, look(again)) == [
        f"{name}  opened again, 2 jobs",
        f"{name}  1/2 jobs",
    ]


def test_a_run_that_has_come_and_gone_between_two_looks_is_told_whole() -> None:
    changes = Changes()
    done = run(job("first", JobStatus.SUCCESS), status=RunStatus.SUCCESS, day=20)
    told_at_first = sentences(changes, look(done))
    assert told_at_first == ["us_eq_daily_2012-11-20  SUCCESS (1 SUCCESS)"]  # it was asked for
    later = run(job("first", JobStatus.SUCCESS), status=RunStatus.SUCCESS)
    assert sentences(changes, look(done, later)) == [
        "us_eq_daily_2012-11-23  opened, 1 job",
        "us_eq_daily_2012-11-23  SUCCESS (1 SUCCESS)",
    ]


def test_failures_are_told_with_their_error() -> None:
    changes = Changes()
    changes.between(look(run(job("first"))))
    retried = job("first", JobStatus.QUEUED, attempt_number=2, error="ValueError: no")
    assert sentences(changes, look(run(retried))) == [
        "us_eq_daily_2012-11-23  attempt 1 of first failed, another follows: ValueError: no"
    ]
    failed = replace(retried, status=JobStatus.FAILED, error="ValueError: never")
    told = sentences(changes, look(run(failed, status=RunStatus.FAILED)))
    assert told[0] == "us_eq_daily_2012-11-23  first FAILED: ValueError: never"
    assert told[1] == "us_eq_daily_2012-11-23  FAILED (1 FAILED)"


def test_a_long_error_is_cut_in_its_line_alone() -> None:
    changes = Changes()
    changes.between(look(run(job("first"))))
    failed = job("first", JobStatus.FAILED, error="E" * 2_000)
    (told,) = (
        change for _, change in changes.between(look(run(failed))) if "error" in change.facts
    )
    assert told.sentence.endswith("first FAILED: " + "E" * 300 + "... (2000 characters)")
    assert told.facts["error"] == "E" * 2_000


def test_closed_days_are_told_when_the_market_clock_reaches_them() -> None:
    changes = Changes(remarks(MARKETS, date(2012, 11, 21), date(2012, 11, 23)))
    assert sentences(changes, look(at=datetime(2012, 11, 21, 12, tzinfo=UTC))) == []
    # A clock that leaps over a day still tells of it.
    assert sentences(changes, look(at=datetime(2012, 11, 23, 12, tzinfo=UTC))) == [
        "US_EQ 2012-11-22: Thanksgiving Day",
        "ASIA_EQ 2012-11-23: Tokyo closed (Labor Thanksgiving Day), Hong Kong open",
    ]


def test_lines_carry_the_market_time() -> None:
    text = io.StringIO()
    lines = Lines(Console(file=text, width=40))
    lines.show(look(run(job("first"))))
    assert text.getvalue() == "2012-11-23 18:00 UTC  us_eq_daily_2012-11-23  opened, 1 job\n"


def test_what_happened_before_the_clock_leapt_keeps_its_own_time() -> None:
    changes = Changes()
    changes.between(look(run(job("first"))))
    done = job("first", JobStatus.SUCCESS, started_market_at=CLOSE)
    opened = RunProgress(
        "eu_eq_daily_2012-11-26", "daily", "EU_EQ", date(2012, 11, 26), RunStatus.OPEN, ()
    )
    monday = datetime(2012, 11, 26, 7, tzinfo=UTC)
    told = changes.between(look(opened, run(done, status=RunStatus.SUCCESS), at=monday))
    assert [(at, change.event) for at, change in told] == [
        (CLOSE, "run_closed"),
        (monday, "run_opened"),
    ]


def test_what_time_ended_has_the_time_of_now() -> None:
    changes = Changes()
    changes.between(look(run(job("first"), job("second"))))
    done = job("first", JobStatus.SUCCESS, started_market_at=CLOSE)
    late = job("second", JobStatus.EXPIRED, error="its window closed")
    monday = datetime(2012, 11, 26, 13, 30, tzinfo=UTC)
    told = changes.between(look(run(done, late, status=RunStatus.FAILED), at=monday))
    assert [(at, change.event) for at, change in told] == [
        (monday, "job_ended"),
        (monday, "run_closed"),
    ]


def test_the_board_shows_a_holiday_with_its_reason() -> None:
    at = datetime(2012, 11, 22, 17, tzinfo=UTC)
    text = _drawn(look(run(job("first"), day=21), at=at))
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("US_EQ"))
    assert "HOLIDAY" in lines[first]
    assert "Thanksgiving Day" in lines[first + 1]
    assert "0 of 8 runs" in text


def test_the_board_names_what_is_queued_and_running() -> None:
    jobs = (job("ingest", JobStatus.RUNNING), job("rest", JobStatus.QUEUED, attempt_number=2))
    text = _drawn(look(run(*jobs)))
    assert "POST_CLOSE" in text
    assert "ingest, rest (attempt 2)" in text
    assert "2012-11-23 14:30-18:00, early close; OVERNIGHT in 2 h, at 20:00" in text


def _drawn(progress: Progress) -> str:
    text = io.StringIO()
    found = remarks(MARKETS, date(2012, 11, 21), date(2012, 11, 23))
    console = Console(file=text, width=160)
    console.print(draw("title", MARKETS, progress, Expected(8, tuple(found)), "note"))
    return text.getvalue()


def test_the_run_at_work_is_the_one_that_is_shown() -> None:
    over = run(job("first", JobStatus.SUCCESS), status=RunStatus.SUCCESS, day=21)
    waiting = run(job("first"), day=22)
    working = run(job("first", JobStatus.RUNNING), day=23)
    assert current_run([over, waiting, working]) is working
    assert current_run([over, waiting]) is waiting
    assert current_run([over]) is over
    assert current_run([]) is None


@pytest.mark.parametrize(
    ("progress", "waits"),
    [
        (look(run(job("first"))), False),
        (look(run(job("first")), speed=60), True),
        (look(run(job("first", JobStatus.QUEUED, scheduled_at=WALL)), speed=60), False),
        (
            look(run(job("first", JobStatus.QUEUED, scheduled_at=WALL + timedelta(seconds=9)))),
            True,
        ),
    ],
    ids=["standing clock", "running clock", "due", "delayed"],
)
def test_there_may_be_a_reason_for_nothing_to_happen(progress: Progress, waits: bool) -> None:
    assert progress.waits_for_time() is waits


class _Shown:
    """Remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[Progress] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, message: str) -> None: ...

    def show(self, progress: Progress) -> None:
        self.seen.append(progress)


def _make_runs(engine: Engine, days: Sequence[int]) -> list[str]:
    made = []
    with writing(engine) as connection:
        for day in days:
            dag = build_market_dag("US_EQ", date(2012, 11, day))
            phases = TradingCalendar("US_EQ").phases(dag.as_of_date)
            create_run(
                connection,
                dag,
                opens_at=run_opens_at(phases, dag),
                trigger="operator",
                calendar_version="test",
                parameters={},
            )
            made.append(dag.dag_id)
    return made


def test_following_a_stalled_run_ends_with_an_error(engine: Engine) -> None:
    _make_runs(engine, [21])
    only = SessionRange(date(2012, 11, 21), date(2012, 11, 21))
    with writing(engine) as connection:
        start_replay(connection, market_at=CLOSE, speed=0, only=only, markets=["US_EQ"])
    with pytest.raises(StalledError, match="no row has changed for"):
        follow(
            engine,
            _Shown(),
            until=lambda _: False,
            stalled_after=timedelta(seconds=0.3),
        )


def test_following_keeps_runs_that_have_finished(engine: Engine) -> None:
    first, second = _make_runs(engine, [20, 21])
    view = _Shown()

    def until(progress: Progress) -> bool:
        if len(view.seen) < 3:
            with writing(engine) as connection:
                operators.cancel(connection, [first, second][len(view.seen) - 1], actor="test")
        return len(view.seen) == 4

    last = follow(engine, view, until=until)
    assert [run.status for run in last.runs] == [RunStatus.CANCELLED] * 2
    assert [len(progress.runs) for progress in view.seen] == [2] * 4


def test_where_nothing_changes_only_the_processes_are_looked_at_as_often(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until something changes."""
    (first,) = _make_runs(engine, [20])
    monkeypatch.setattr(following, "RESTS_AFTER", 2.0)
    monkeypatch.setattr(following, "POLL_EVERY", 0.01)
    checks: list[int] = []
    rested: list[int] = []

    class Counted:
        """Stands for a stack whose processes live."""

        looks = 0

        def check(self) -> None:
            self.looks += 1

    counted = Counted()

    def until(_: Progress) -> bool:
        checks.append(counted.looks)
        if not rested and len(checks) > 1 and checks[-1] - checks[-2] > 10:
            rested.append(len(checks))
            with writing(engine) as connection:
                operators.cancel(connection, first, actor="test")
        return bool(rested) and len(checks) == rested[0] + 2

    follow(engine, _Shown(), until=until, stack=cast("Stack", counted))
    between = [after - before for before, after in pairwise(checks)]
    assert rested[0] > 3, "it rested before anything could change"
    assert between[-1] <= 3, "it goes on resting though a run has changed"


def test_progress_has_the_latest_attempt_of_each_job(engine: Engine) -> None:
    (dag_id,) = _make_runs(engine, [21])
    with writing(engine) as connection:
        operators.cancel(connection, dag_id, actor="ada")
        operators.retry(connection, dag_id, "ingest_prices", actor="ada")
    with reading(engine) as connection:
        (found,) = read_progress(connection).runs
        (summary,) = summarise(connection, [dag_id])
    assert len(found.jobs) == 9
    ingest = next(each for each in found.jobs if each.job_id == "ingest_prices")
    assert (ingest.status, ingest.attempt_number) == (JobStatus.PENDING, 2)
    assert ingest.error == "cancelled by ada"
    assert summary.jobs == {JobStatus.CANCELLED: 8, JobStatus.PENDING: 1}
    assert summary.attempts == 0
    assert len(summary.errors) == 9
