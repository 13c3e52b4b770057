"""Backfills: a range of sessions, so many runs at a time, each of them once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine, select, update

from prometheus.core.overrides import Override, OverrideKind, Overrides, put_in_force
from prometheus.dispatch.scheduler import BEGUN_AT_ONCE, Scheduler
from prometheus.errors import HorizonError
from prometheus.orchestration.backfill import BackfillEffect, BackfillRangeError, Reprocess
from prometheus.orchestration.lifecycle import JobStatus, RunStatus, Trigger
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.planning import SessionRange
from prometheus.orchestration.reasons import explain, explain_run, explain_unmade
from prometheus.persistence import clock, operators, pauses, reasons
from prometheus.persistence.backfills import (
    Backfill,
    BackfillChangedError,
    digest,
    get_backfill,
    plan,
    read_backfill,
    start_backfill,
    stop_backfill,
)
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.executions import Failure
from prometheus.persistence.leases import wall_time
from prometheus.persistence.metadata import database_now
from prometheus.persistence.operators import OperatorError
from prometheus.persistence.overrides import record, refresh
from prometheus.persistence.pruning import forget_some
from prometheus.persistence.tables import audit, dag_runs, job_executions, market_clock
from prometheus.verification import Expectation, check
from tests.integration.dispatch.schedulers import (
    RecordingBroker,
    make_attempts,
    make_scheduler,
    register_worker,
)

US_EQ = reasons.Installation(
    markets=["US_EQ"], leadership="x", silent_after=timedelta(minutes=1), makes_runs=True
)
FIRST, LAST = date(2012, 11, 19), date(2012, 11, 30)
SESSIONS = [date(2012, 11, day) for day in (19, 20, 21, 23, 26, 27, 28, 29, 30)]
"""Without Thanksgiving."""

pages = Pipeline("pages", markets=["US_EQ"])
pages.add("jobs:report", max_retries=0)


class Desk:
    """Schedulers on one database, a worker that the tests play, and an operator."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        with writing(engine) as connection:
            clock.start_replay(
                connection,
                market_at=datetime(2012, 11, 30, 23, tzinfo=UTC),
                speed=1,
                only=SessionRange(FIRST, LAST),
                markets=["US_EQ"],
            )
        self.broker = RecordingBroker()
        self.attempts = make_attempts(engine)
        self.worker = register_worker(engine)
        self.scheduler = self.another()

    def another(self, *more: Pipeline, create_runs: bool = False) -> Scheduler:
        pipelines = {each.name: each for each in (pages, *more)}
        return make_scheduler(
            self.engine, self.broker, pipelines=pipelines, create_runs=create_runs
        )

    def at(self, instant: datetime) -> None:
        """Let it be another time on the market's clock."""
        with writing(self.engine) as connection:
            connection.execute(
                update(market_clock).values(anchor_market_at=instant, anchor_wall_at=database_now())
            )

    def start(
        self,
        *,
        first: date = FIRST,
        last: date = LAST,
        reprocess: Reprocess = Reprocess.NONE,
        at_once: int = 1,
        seen: str | None = None,
    ) -> int:
        with writing(self.engine) as connection:
            number, _ = start_backfill(
                connection,
                pages,
                "US_EQ",
                first,
                last,
                reprocess=reprocess,
                max_active_runs=at_once,
                reason="the vendor corrected its prices",
                actor="ada",
                seen=seen,
            )
        return number

    def effects(self, reprocess: Reprocess, last: date = LAST) -> list[tuple[str, str]]:
        with reading(self.engine) as connection:
            planned = plan(connection, pages, "US_EQ", FIRST, last, reprocess=reprocess)
        return [(str(each.effect), each.why) for each in planned]

    def tick(self) -> list[str]:
        """Tick once; return the sessions of which a job was published."""
        self.broker.published.clear()
        self.scheduler.tick()
        return [each.dag_id.removeprefix("us_eq_pages_") for each in self.broker.published]

    def work(self, *, fails: bool = False) -> None:
        """Run all that is queued, as a worker does, which closes its run."""
        with reading(self.engine) as connection:
            queued = connection.execute(
                select(job_executions.c.execution_id).where(
                    job_executions.c.status == JobStatus.QUEUED
                )
            ).scalars()
            for execution_id in queued.all():
                self.attempts.start(execution_id, worker="test", incarnation=self.worker)
                if fails:
                    failure = Failure("no prices", {"type": "ValueError"})
                    self.attempts.fail(execution_id, failure, incarnation=self.worker)
                else:
                    self.attempts.succeed(execution_id, incarnation=self.worker, result=None)
        self.scheduler.advance()

    def runs(self) -> dict[date, str]:
        with reading(self.engine) as connection:
            rows = connection.execute(select(dag_runs.c.as_of_date, dag_runs.c.status))
            return {row.as_of_date: row.status for row in rows}

    def why(self, day: date, job_id: str | None = None) -> list[tuple[str, str]]:
        """What is said of the run of a session, or of its job, but that no scheduler leads."""
        dag_id = f"us_eq_pages_{day}"
        with reading(self.engine) as connection:
            case = reasons.read_case(connection, dag_id, US_EQ, refresh)
            if isinstance(case, reasons.NoRun):
                unmade = reasons.read_unmade(connection, case, pages, "US_EQ", day, US_EQ)
                told = explain_unmade(unmade, job_id, case.now.market_at)
            elif job_id is None:
                told = explain_run(case.snapshot, case.now.market_at, case.facts).around
            else:
                told = explain(case.snapshot, job_id, case.now.market_at, case.facts)
        return [(str(each.kind), each.text) for each in told if each.kind != "no_scheduler"]

    def told(self, number: int) -> Backfill:
        with reading(self.engine) as connection:
            return get_backfill(connection, number)


@pytest.fixture
def desk(engine: Engine) -> Iterator[Desk]:
    """The evening of 30 November 2012, and no run yet."""
    yield Desk(engine)
    put_in_force(Overrides())


def test_no_more_runs_are_open_at_a_time_than_was_said_and_the_oldest_come_first(
    desk: Desk,
) -> None:
    number = desk.start(at_once=2)
    done: list[str] = []
    while not desk.told(number).ended_at:
        begun = desk.tick()
        open_runs = [day for day, status in desk.runs().items() if status == RunStatus.OPEN]
        assert len(open_runs) <= 2
        assert desk.told(number).active == len(open_runs)
        assert desk.tick() == []  # whatever else happens, until one has ended
        done += begun
        assert len(done) <= len(SESSIONS)
        desk.work()
    assert done == [str(day) for day in SESSIONS]
    told = desk.told(number)
    assert (told.sessions, told.succeeded, told.waiting, told.active) == (9, 9, 0, 0)
    assert desk.runs() == dict.fromkeys(SESSIONS, RunStatus.SUCCESS)
    with reading(desk.engine) as connection:
        rows = connection.execute(select(audit).order_by(audit.c.audit_id)).all()
        report = check(
            connection,
            expect=Expectation({"pages": ["US_EQ"]}, FIRST, LAST, {"pages": ("every", "run")}),
        )
    assert [(each.action, each.actor) for each in rows[:2]] == [("backfill", "ada"), ("run", "ada")]
    why = {"backfill": number, "reason": "the vendor corrected its prices"}
    assert [each.details.items() >= why.items() for each in rows[1:]] == [True] * 9
    assert rows[0].details.items() >= {"before": None, "after": {"sessions": 9}}.items()
    assert report.violations == ()


def test_each_session_is_begun_once_whoever_ticks(desk: Desk) -> None:
    """Two schedulers at a time that both think that they lead, again and again."""
    number = desk.start(at_once=4)
    both = (desk.scheduler, desk.another())
    while not desk.told(number).ended_at:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda each: each.tick(), both))
        desk.work()
    told = desk.told(number)
    assert (told.succeeded, told.refused) == (9, 0)
    with reading(desk.engine) as connection:
        attempts = connection.execute(select(job_executions.c.attempt_number)).scalars().all()
    assert attempts == [1] * 9


def test_what_is_there_is_kept_or_run_again_as_was_said(desk: Desk) -> None:
    desk.start(last=SESSIONS[0])
    desk.tick()
    desk.work(fails=True)
    desk.tick()
    desk.start(first=SESSIONS[1], last=SESSIONS[2], at_once=2)
    desk.tick()
    with reading(desk.engine) as connection:
        first, _ = connection.execute(
            select(job_executions.c.execution_id)
            .where(job_executions.c.status == JobStatus.QUEUED)
            .order_by(job_executions.c.as_of_date)
        ).scalars()
    desk.attempts.start(first, worker="test", incarnation=desk.worker)
    desk.attempts.succeed(first, incarnation=desk.worker, result=None)
    desk.tick()
    failed, succeeded, unfinished = (
        ("kept", "its run is {}"),
        ("kept", "its run is SUCCESS"),
        (
            "kept",
            "its run is not finished",
        ),
    )
    new, rerun = ("new", ""), ("rerun", "")
    end = SESSIONS[3]
    assert desk.effects(Reprocess.NONE, end) == [
        (failed[0], "its run is FAILED"),
        succeeded,
        unfinished,
        new,
    ]
    assert desk.effects(Reprocess.FAILED, end) == [rerun, succeeded, unfinished, new]
    assert desk.effects(Reprocess.FINISHED, end) == [rerun, rerun, unfinished, new]


def test_finished_runs_are_run_again_and_each_that_was_is_audited(desk: Desk) -> None:
    desk.start(last=SESSIONS[1], at_once=2)
    desk.tick()
    desk.work(fails=True)
    desk.tick()
    number = desk.start(last=SESSIONS[1], reprocess=Reprocess.FAILED)
    assert desk.tick() == [str(SESSIONS[0])]
    desk.work()
    assert desk.tick() == [str(SESSIONS[1])]
    desk.work(fails=True)
    desk.tick()
    told = desk.told(number)
    assert (told.succeeded, told.failed, told.ended_at is None) == (1, 1, False)
    with reading(desk.engine) as connection:
        rows = connection.execute(
            select(audit.c.target, audit.c.details)
            .where(audit.c.action == "rerun")
            .order_by(audit.c.audit_id)
        ).all()
        assert not check(connection).violations
    assert [(row.target, row.details["backfill"]) for row in rows] == [
        ("us_eq_pages_2012-11-19", number),
        ("us_eq_pages_2012-11-20", number),
    ]


def test_one_that_is_stopped_makes_no_further_run_and_what_is_open_goes_on(desk: Desk) -> None:
    number = desk.start()
    desk.tick()
    with writing(desk.engine) as connection:
        told = stop_backfill(connection, number, reason="enough", actor="bob")
        details = connection.execute(
            select(audit.c.details).where(audit.c.action == "backfill_stop")
        ).scalar_one()
    assert (told.waiting, told.active, told.stopped_by) == (8, 1, "bob")
    assert details == {"reason": "enough", "before": {"waiting": 8}, "after": None}
    desk.work()
    assert desk.tick() == []
    assert desk.runs() == {SESSIONS[0]: RunStatus.SUCCESS}
    with (
        pytest.raises(OperatorError, match=f"Backfill {number} has ended already"),
        writing(desk.engine) as connection,
    ):
        stop_backfill(connection, number, reason="enough", actor="bob")


def test_session_that_is_gone_when_its_turn_comes_is_refused_and_the_others_go_on(
    desk: Desk,
) -> None:
    number = desk.start(last=SESSIONS[2])
    assert desk.tick() == ["2012-11-19"]
    # Somebody else makes one, and another session turns out to have been none.
    with writing(desk.engine) as connection:
        operators.run_now(connection, pages, "US_EQ", SESSIONS[1], again=False, actor="bob")
        for override_id, mic in enumerate(("XNYS", "XNAS"), 1):
            record(
                connection,
                Override(
                    override_id=override_id,
                    exchange=mic,
                    session=SESSIONS[2],
                    kind=OverrideKind.CLOSED,
                    reason="storm",
                    source="test",
                    announced_at=datetime(2012, 11, 20, tzinfo=UTC),
                    author="bob",
                ),
            )
    for _ in range(5):
        desk.work()
        desk.tick()
    told = desk.told(number)
    assert told.ended_at is not None
    assert (told.sessions, told.succeeded, told.refused) == (3, 1, 2)
    with reading(desk.engine) as connection:
        _, made, closed = read_backfill(connection, number)[1]
    assert "exists already" in made.refused
    assert "2012-11-21" in closed.refused
    assert "storm" in closed.refused


def test_what_can_not_be_done_is_refused_whole(desk: Desk) -> None:
    desk.at(datetime(2012, 11, 20, 9, tzinfo=UTC))
    begun = [effect for effect, _ in desk.effects(Reprocess.NONE)]
    assert begun == [BackfillEffect.NEW, *[BackfillEffect.IMPOSSIBLE] * 8]
    _, why = desk.effects(Reprocess.NONE)[1]
    assert why == "its session has not begun: a run opens at 2012-11-20 13:30 UTC"
    with pytest.raises(OperatorError, match=r"nothing to do for 1 sessions: 1 times, its session"):
        desk.start(first=LAST)
    with pytest.raises(BackfillRangeError, match="is after the last"):
        desk.start(first=LAST, last=FIRST)
    with pytest.raises(BackfillRangeError, match=r"pages runs on every session of US_EQ.* none"):
        desk.start(first=date(2012, 11, 22), last=date(2012, 11, 22))
    with pytest.raises(BackfillRangeError, match="a backfill may have 5000"):
        desk.start(first=date(1990, 1, 1))
    with pytest.raises(HorizonError):
        desk.start(first=date(1900, 1, 1))
    number = desk.start()
    with pytest.raises(OperatorError, match=f"backfill {number} will come to it"):
        desk.start()


def test_of_two_that_are_started_at_once_one_gets_each_session(desk: Desk) -> None:
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(desk.start, at_once=9) for _ in range(2)]
    (refused,) = (each.exception() for each in asked if each.exception() is not None)
    assert isinstance(refused, OperatorError)
    assert "will come to it" in str(refused)
    assert len(desk.tick()) == 9


def test_sessions_that_it_will_come_to_are_not_missed(desk: Desk) -> None:
    """One that is started while no scheduler is there to make the runs of the last days."""
    desk.at(datetime(2012, 11, 19, 23, tzinfo=UTC))
    desk.another(create_runs=True).tick()
    desk.work()
    desk.at(datetime(2012, 11, 30, 15, tzinfo=UTC))
    number = desk.start(last=SESSIONS[-2])
    desk.scheduler = desk.another(create_runs=True)
    while not desk.told(number).ended_at:
        desk.tick()
        desk.work()
    told = desk.told(number)
    assert (told.sessions, told.succeeded, told.refused) == (7, 7, 0)


def test_a_tick_begins_some_of_each_and_their_jobs_yield_to_live_ones(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prometheus.dispatch.scheduler.BEGUN_AT_ONCE", 4)
    with writing(desk.engine) as connection:
        operators.run_now(connection, pages, "US_EQ", FIRST, again=False, actor="bob")
    desk.tick()
    desk.work()
    desk.start(last=SESSIONS[4], reprocess=Reprocess.FINISHED, at_once=5)
    desk.start(first=SESSIONS[5], at_once=5)
    days = [str(SESSIONS[number]) for number in (0, 1, 5, 6)]
    assert sorted(desk.tick()) == days
    assert {each.trigger for each in desk.broker.published} == {Trigger.BACKFILL}


def test_those_that_are_forgotten_leave_their_numbers_to_nobody(desk: Desk) -> None:
    first, second = desk.start(last=FIRST), desk.start(first=SESSIONS[1], last=SESSIONS[1])
    for number in (first, second):
        with writing(desk.engine) as connection:
            stop_backfill(connection, number, reason="enough", actor="bob")
    with writing(desk.engine) as connection:
        assert forget_some(connection, "backfills", wall_time(connection)) == 1
    assert desk.start() == second + 1


def test_why_tells_of_the_backfill_that_runs_it_or_will(desk: Desk) -> None:
    by = "backfill 1 by ada (the vendor corrected its prices)"
    waits = "makes its run when its turn comes: {} before it, {} of at most 1 run open"
    desk.start(last=SESSIONS[2])
    assert desk.why(SESSIONS[1]) == [("backfill", f"{by} {waits.format('1 session', 0)}")]
    desk.tick()
    assert desk.why(SESSIONS[1], "report") == [
        ("backfill", f"{by} {waits.format('0 sessions', 1)}")
    ]
    begun = ("forced", f"{by} asked for its run: windows do not count")
    assert desk.why(SESSIONS[0]) == [begun]
    assert begun in desk.why(SESSIONS[0], "report")
    desk.work()
    assert desk.why(SESSIONS[0]) == []
    for _ in range(2):
        desk.tick()
        desk.work()
    desk.tick()
    again = desk.start(last=SESSIONS[1], reprocess=Reprocess.FINISHED)
    with writing(desk.engine) as connection:
        pauses.pause(connection, market_id="US_EQ", reason="look first", actor="bob")
    by = f"backfill {again} by ada (the vendor corrected its prices)"
    waits = "runs it again when its turn comes: 1 session before it, 0 of at most 1 run open"
    (turn, (kind, _)) = desk.why(SESSIONS[1])
    assert (turn, kind) == (("backfill", f"{by} {waits}"), "paused")
    assert turn in desk.why(SESSIONS[1], "report")
    desk.tick()
    asked = f"backfill {again} by ada asked for it: its window does not count"
    assert ("forced", asked) in desk.why(SESSIONS[0], "report")


def test_one_that_would_do_something_else_than_was_shown_is_not_begun(desk: Desk) -> None:
    with reading(desk.engine) as connection:
        shown = plan(connection, pages, "US_EQ", FIRST, LAST, reprocess=Reprocess.NONE)
    with writing(desk.engine) as connection:
        operators.run_now(connection, pages, "US_EQ", FIRST, again=False, actor="bob")
    with pytest.raises(BackfillChangedError):
        desk.start(seen=digest(shown))
    with reading(desk.engine) as connection:
        shown = plan(connection, pages, "US_EQ", FIRST, LAST, reprocess=Reprocess.NONE)
    assert desk.told(desk.start(seen=digest(shown))).sessions == 8


def test_one_of_a_pipeline_that_this_release_has_not_waits_for_one_that_has(desk: Desk) -> None:
    number = desk.start(last=FIRST)
    make_scheduler(desk.engine, desk.broker).tick()
    assert desk.told(number).waiting == 1
    assert desk.tick() == ["2012-11-19"]


def start_many(desk: Desk, pipeline: Pipeline) -> None:
    """Start as many backfills of a session as a tick begins."""
    with writing(desk.engine) as connection:
        for week in range(BEGUN_AT_ONCE):
            session = SESSIONS[2] - timedelta(weeks=week)
            start_backfill(
                connection,
                pipeline,
                "US_EQ",
                session,
                session,
                reprocess=Reprocess.NONE,
                max_active_runs=1,
                reason="x",
                actor="ada",
            )


def test_those_that_wait_for_another_release_leave_others_their_turn(desk: Desk) -> None:
    gone = Pipeline("gone", markets=["US_EQ"])
    gone.add("jobs:report", max_retries=0)
    start_many(desk, gone)
    desk.start(last=FIRST)
    assert desk.tick() == ["2012-11-19"]


def test_those_that_can_not_be_begun_leave_others_their_turn(desk: Desk) -> None:
    broken = Pipeline("broken", markets=["US_EQ"])
    broken.add("jobs:report", max_retries=0)
    start_many(desk, broken)
    broken.parameters["limit"] = object()  # which no row takes
    desk.start(last=FIRST)
    desk.scheduler = desk.another(broken)
    assert [*desk.tick(), *desk.tick()] == ["2012-11-19"]
