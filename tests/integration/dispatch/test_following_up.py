"""What a worker does of itself once its job has succeeded: it starts what waited for that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, select, text

from prometheus.core.states import MarketState
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.publisher import BrokerUnavailableError
from prometheus.dispatch.scheduler import Pace, Scheduler
from prometheus.orchestration.dag import DAG, JobMetadata
from prometheus.orchestration.decisions import Start
from prometheus.persistence import executions, operators, pauses
from prometheus.persistence.clock import read_now
from prometheus.persistence.engine import writing
from prometheus.persistence.executions import (
    Attempt,
    Failure,
    Following,
    Publication,
    Started,
    Succeeded,
)
from tests.integration.dispatch.conftest import Installation
from tests.integration.dispatch.schedulers import (
    RecordingBroker,
    make_attempts,
    make_scheduler,
    register_worker,
)
from tests.integration.persistence.world import DAY, HOUR, World, job
from tests.servers import wait_until


def forced_run(installation: Installation, *jobs: JobMetadata) -> DAG:
    """Make a run that starts at once."""
    version = TradingCalendar("US_EQ").version
    return World(installation.engine).run(*jobs, forced=True, calendar_version=version)


class Worker:
    """Takes what a scheduler has published, in the test's own process."""

    def __init__(self, installation: Installation, of: str | DAG) -> None:
        self.installation = installation
        self.engine = installation.engine
        self.broker = RecordingBroker()
        self.scheduler: Scheduler = make_scheduler(self.engine, self.broker)
        self.attempts = make_attempts(self.engine)
        self.incarnation = register_worker(self.engine)
        self.dag_id = of.dag_id if isinstance(of, DAG) else installation.make_run(of)
        self.begun: dict[str, Attempt] = {}
        self.scheduler.advance(self.dag_id)

    @property
    def published(self) -> list[str]:
        return [each.job_type for each in self.broker.published]

    def begin(self, job_id: str) -> str:
        execution_id: str = self.installation.attempts(self.dag_id, job_id)[-1].execution_id
        started = self.attempts.start(execution_id, worker="test", incarnation=self.incarnation)
        assert isinstance(started, Started)
        self.begun[job_id] = started.attempt
        return execution_id

    def end(self, job_id: str) -> None:
        """Report success, and decide nothing yet."""
        execution_id = self.installation.attempts(self.dag_id, job_id)[-1].execution_id
        done = self.attempts.succeed(execution_id, incarnation=self.incarnation, result=None)
        assert done == Succeeded(self.dag_id)

    def follow(self, job_id: str) -> None:
        self.scheduler.advance_after(self.begun[job_id].dag, job_id, Succeeded(self.dag_id))

    def end_with_claim(self, job_id: str) -> Succeeded | None:
        """Report success, and claim with it what can be."""
        attempt = self.begun[job_id]
        return self.attempts.succeed(
            attempt.execution_id,
            incarnation=self.incarnation,
            result=None,
            follow=self.scheduler.decide_after(attempt),
        )

    def of(self, job_id: str) -> str:
        return self.begun[job_id].execution_id

    def decide(self, job_id: str) -> Following:
        """Decide what starts with a success that is not reported yet."""
        decided = self.scheduler.decide_after(self.begun[job_id])
        assert isinstance(decided, Following)
        return decided

    def end_as_decided(self, job_id: str, decided: Following) -> Succeeded | None:
        """Report success, and claim with it what was decided before."""
        return self.attempts.succeed(
            self.of(job_id),
            incarnation=self.incarnation,
            result=None,
            follow=decided,
        )

    def finish(self, job_id: str) -> None:
        """Do all that a worker does when its job has returned."""
        done = self.end_with_claim(job_id)
        assert done is not None
        self.scheduler.advance_after(self.begun[job_id].dag, job_id, done)

    def run(self, job_id: str) -> None:
        self.begin(job_id)
        self.finish(job_id)

    @contextmanager
    def counting(self) -> Iterator[list[str]]:
        """Write down the statements of the block."""
        found: list[str] = []

        def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            found.append(statement)

        event.listen(self.engine, "before_cursor_execute", note)
        yield found
        event.remove(self.engine, "before_cursor_execute", note)


def test_link_of_a_chain_starts_the_next_and_the_last_closes_the_run(
    any_installation: Installation,
) -> None:
    worker = Worker(any_installation, "chain")
    for number in range(6):
        assert worker.published == [f"link_{each}" for each in range(number + 1)]
        worker.run(f"link_{number}")
    assert len(worker.published) == 6
    assert any_installation.run_status(worker.dag_id) == "SUCCESS"


def test_it_takes_its_end_with_a_claim(installation: Installation) -> None:
    worker = Worker(installation, "chain")
    worker.begin("link_0")
    with worker.counting() as statements:
        worker.finish("link_0")
    assert [each.split()[0] for each in statements] == ["WITH"]
    assert worker.published == ["link_0", "link_1"]


def _sent(installation: Installation, dag_id: str, job_id: str) -> tuple[bool, int]:
    """Say whether a message is noted, and how many were."""
    row = installation.attempts(dag_id, job_id)[-1]
    return row.published_at is not None, row.publish_count


def test_message_is_noted_with_its_claim(any_installation: Installation) -> None:
    worker = Worker(any_installation, "chain")
    worker.run("link_0")
    assert _sent(any_installation, worker.dag_id, "link_1") == (True, 1)
    joined = Worker(any_installation, "joined")
    joined.run("left")
    joined.run("right")
    assert _sent(any_installation, joined.dag_id, "both") == (True, 1)


def test_message_that_the_broker_did_not_take_is_sent_by_the_scheduler(
    any_installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_publications: object) -> None:
        raise BrokerUnavailableError("away")

    worker = Worker(any_installation, "chain")
    with monkeypatch.context() as patch:
        patch.setattr(worker.broker, "publish", refuse)
        worker.run("link_0")
    assert any_installation.statuses(worker.dag_id)["link_1"] == ["QUEUED"]
    assert _sent(any_installation, worker.dag_id, "link_1") == (False, 1)
    beat = make_scheduler(
        worker.engine, worker.broker, pace=Pace(publish_after=timedelta(0)), election=True
    )
    beat.tick()
    assert worker.published == ["link_0", "link_1"]
    assert _sent(any_installation, worker.dag_id, "link_1") == (True, 2)


def test_message_of_a_worker_that_died_before_it_was_sent_is_found_missing(
    any_installation: Installation,
) -> None:
    worker = Worker(any_installation, "chain")
    at_once = timedelta(0)
    pace = Pace(reconcile_every=at_once, reconcile_after=at_once, ring_again_after=at_once)
    beat = make_scheduler(worker.engine, worker.broker, pace=pace, election=True)
    beat.tick()
    worker.begin("link_0")
    assert worker.end_with_claim("link_0") is not None  # and here it dies
    beat.tick()
    assert worker.published == ["link_0", "link_1"]
    assert beat.totals["rung"] == 1


def test_it_takes_a_lock_a_look_and_a_claim_after_the_last_of_several(
    installation: Installation,
) -> None:
    worker = Worker(installation, "joined")
    worker.run("left")
    worker.begin("right")
    with worker.counting() as statements:
        worker.finish("right")
    verbs = [each.split()[0] for each in statements]
    assert verbs == ["UPDATE", "SELECT", "SELECT", "SELECT", "WITH"]
    assert worker.published == ["left", "right", "both"]


@pytest.mark.parametrize("pipeline", ["joined", "apart"])
def test_while_another_is_queued_it_takes_its_end_alone(
    installation: Installation, pipeline: str
) -> None:
    """Whether what follows waits for the other, too, or nothing does but the end of the run."""
    jobs = [job("left"), job("right"), *([job("both", "left", "right")] * (pipeline == "joined"))]
    dag = forced_run(installation, *jobs)
    worker = Worker(installation, dag)
    worker.begin("left")
    with worker.counting() as statements:
        worker.finish("left")
    assert [each.split()[0] for each in statements] == ["UPDATE"]
    worker.run("right")
    assert worker.published == ["left", "right", *(["both"] * (pipeline == "joined"))]
    assert (installation.run_status(dag.dag_id) == "OPEN") == (pipeline == "joined")


def test_job_starts_after_the_last_that_it_waits_for(any_installation: Installation) -> None:
    worker = Worker(any_installation, "joined")
    worker.begin("right")
    worker.run("left")
    assert worker.published == ["left", "right"]
    worker.end("right")
    worker.follow("right")
    assert worker.published == ["left", "right", "both"]
    worker.follow("left")  # late: somebody else has started it
    assert worker.published == ["left", "right", "both"]


def test_job_that_ended_as_it_was_asked_to_starts_nothing(any_installation: Installation) -> None:
    worker = Worker(any_installation, "joined")
    worker.begin("left")
    worker.run("right")
    with writing(worker.engine) as connection:
        operators.cancel(connection, worker.dag_id, "left", actor="test")
    worker.end("left")
    worker.follow("left")
    assert any_installation.statuses(worker.dag_id) == {
        "left": ["CANCELLED"],
        "right": ["SUCCESS"],
        "both": ["SKIPPED"],
    }
    assert any_installation.run_status(worker.dag_id) != "OPEN"


def test_link_that_ended_as_it_was_asked_to_starts_nothing(any_installation: Installation) -> None:
    worker = Worker(any_installation, "chain")
    worker.begin("link_0")
    with writing(worker.engine) as connection:
        operators.cancel(connection, worker.dag_id, "link_0", actor="test")
    worker.finish("link_0")
    assert worker.published == ["link_0"]
    assert any_installation.statuses(worker.dag_id)["link_1"] == ["SKIPPED"]


def test_link_that_was_given_up_starts_nothing(any_installation: Installation) -> None:
    worker = Worker(any_installation, "chain")
    worker.begin("link_0")
    lost = Failure("its worker was lost", {"type": "lost"}, final=True)
    worker.attempts.fail(worker.begun["link_0"].execution_id, lost, incarnation=worker.incarnation)
    assert worker.end_with_claim("link_0") is None
    assert worker.published == ["link_0"]
    assert any_installation.statuses(worker.dag_id)["link_1"] == ["PENDING"]


def test_link_that_somebody_else_has_claimed_is_looked_at_once_more(
    any_installation: Installation,
) -> None:
    worker = Worker(any_installation, "chain")
    worker.begin("link_0")
    decided = worker.decide("link_0")
    assert decided.job_ids == ("link_1",)
    link, (row,) = decided.dag.jobs["link_1"], any_installation.attempts(worker.dag_id, "link_1")
    with writing(worker.engine) as connection:
        start = Start(
            worker.dag_id, link, row.execution_id, decided.window, True, decided.calendar_version
        )
        assert executions.claim(connection, [start], read_now(connection))
    done = worker.end_as_decided("link_0", decided)
    assert done == Succeeded(worker.dag_id)
    worker.scheduler.advance_after(worker.begun["link_0"].dag, "link_0", done)
    assert worker.published == ["link_0"]  # who has claimed it sends it


def test_success_that_waited_for_its_row_starts_nothing_that_was_skipped_meanwhile(
    installation: Installation,
) -> None:
    worker = Worker(installation, "chain")
    worker.begin("link_0")
    decided = worker.decide("link_0")
    row = text(f"SELECT 1 FROM job_executions WHERE execution_id = '{worker.of('link_0')}'")
    waiting = select(func.count()).select_from(text("pg_locks")).where(text("NOT granted"))
    with ThreadPoolExecutor() as threads:
        with writing(worker.engine) as operator:
            operator.execute(text(f"{row} FOR NO KEY UPDATE"))
            ending = threads.submit(worker.end_as_decided, "link_0", decided)
            wait_until(
                lambda: operator.execute(waiting).scalar_one(), timeout=30, message="it waits"
            )
            operators.skip(operator, worker.dag_id, "link_1", actor="test", reason="not today")
        done = ending.result()
    assert done == Succeeded(worker.dag_id)
    worker.scheduler.advance_after(worker.begun["link_0"].dag, "link_0", done)
    assert worker.published == ["link_0"]
    assert installation.statuses(worker.dag_id)["link_1"] == ["SKIPPED"]
    assert installation.run_status(worker.dag_id) != "OPEN"  # nothing else waits


def test_success_is_written_whatever_goes_wrong_with_what_follows(
    any_installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(any_installation, "chain")
    worker.begin("link_0")
    with monkeypatch.context() as patch:
        patch.delattr("prometheus.dispatch.scheduler.session_bounds")
        done = worker.end_with_claim("link_0")
    assert done is not None
    assert any_installation.statuses(worker.dag_id)["link_0"] == ["SUCCESS"]
    worker.scheduler.advance_after(worker.begun["link_0"].dag, "link_0", done)
    assert worker.published == ["link_0", "link_1"]


def _begun(installation: Installation, *jobs: JobMetadata, **options: Any) -> Worker:
    """Start job a of a run of these jobs, which starts at once."""
    version = TradingCalendar("US_EQ").version
    dag = World(installation.engine).run(*jobs, forced=True, calendar_version=version, **options)
    worker = Worker(installation, dag)
    worker.begin("a")
    return worker


@pytest.mark.promise("P2")
def test_what_waits_for_more_than_one_is_not_claimed_with_the_first(
    any_installation: Installation,
) -> None:
    jobs = job("a"), job("z"), job("p", "a"), job("q", "a", "z")
    worker = _begun(any_installation, *jobs)
    worker.finish("a")
    assert worker.published == ["a", "z", "p"]
    assert any_installation.statuses(worker.dag_id)["q"] == ["PENDING"]


def test_what_waits_for_the_session_before_is_not_claimed_with_a_success(
    any_installation: Installation,
) -> None:
    calendar = TradingCalendar("US_EQ")
    before = calendar.previous_trading_day(DAY)
    World(any_installation.engine).run(job("b"), day=before, calendar_version=calendar.version)
    worker = _begun(any_installation, job("a"), job("b", "a", after_previous=True))
    worker.finish("a")
    assert any_installation.statuses(worker.dag_id)["b"] == ["PENDING"]


def test_run_that_has_had_its_time_starts_nothing_with_a_success(
    any_installation: Installation,
) -> None:
    worker = _begun(any_installation, job("a"), job("b", "a"), run_timeout=4 * HOUR)
    World(any_installation.engine).made(worker.begun["a"].dag, ago=5 * HOUR)
    worker.finish("a")
    assert any_installation.statuses(worker.dag_id)["b"] == ["EXPIRED"]


def test_market_of_another_installation_is_left_to_it(any_installation: Installation) -> None:
    worker = _begun(any_installation, job("a"), job("b", "a"))
    other = make_scheduler(worker.engine, worker.broker, markets=["EU_EQ"])
    assert other.decide_after(worker.begun["a"]) is None


@pytest.mark.promise("P3")
def test_nothing_is_decided_by_a_calendar_that_the_run_does_not_follow(
    any_installation: Installation,
) -> None:
    worker = _begun(any_installation, job("a"), job("b", "a"))
    attempt = worker.begun["a"]
    assert isinstance(worker.scheduler.decide_after(attempt), Following)
    assert worker.scheduler.decide_after(replace(attempt, calendar_version="2")) is None


@pytest.mark.promise("P3")
def test_jobs_with_two_windows_are_not_claimed_with_one(any_installation: Installation) -> None:
    later = job("c", "a", required_state=MarketState.POST_CLOSE)
    worker = _begun(any_installation, job("a"), job("b", "a"), later)
    worker.finish("a")
    opens = [
        any_installation.attempts(worker.dag_id, name)[-1].window_opens_at for name in ("b", "c")
    ]
    assert opens[0] < opens[1]


def test_none_of_several_batches_is_noted_as_sent_that_the_broker_did_not_take(
    any_installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prometheus.dispatch.scheduler.SENT_AT_ONCE", 2)
    worker = _begun(any_installation, job("a"), *(job(name, "a") for name in "bcdef"))
    publish = worker.broker.publish

    def take_the_first(publications: Sequence[Publication]) -> None:
        if publications[0].job_type != "b":
            raise BrokerUnavailableError("away")
        publish(publications)

    monkeypatch.setattr(worker.broker, "publish", take_the_first)
    worker.finish("a")
    sent = [_sent(any_installation, worker.dag_id, name)[0] for name in "bcdef"]
    assert sent == [True, True, False, False, False]


@pytest.mark.promise("P8")
def test_job_that_runs_is_given_no_other_attempt(any_installation: Installation) -> None:
    """Or what follows could not be claimed with its success."""
    worker = Worker(any_installation, "chain")
    worker.begin("link_0")
    with writing(worker.engine) as connection, pytest.raises(operators.OperatorError):
        operators.retry(connection, worker.dag_id, "link_0", actor="test")
    worker.finish("link_0")
    assert worker.published == ["link_0", "link_1"]


def test_run_whose_last_jobs_were_skipped_meanwhile_is_closed(
    any_installation: Installation,
) -> None:
    worker = Worker(any_installation, "joined")
    worker.run("left")
    worker.begin("right")
    with writing(worker.engine) as connection:
        operators.skip(connection, worker.dag_id, "both", actor="test", reason="not today")
    worker.end("right")
    worker.follow("right")
    assert any_installation.run_status(worker.dag_id) != "OPEN"


@pytest.mark.parametrize("last", ["aside", "left"])
def test_last_to_end_closes_the_run_whoever_is_about_to_skip_the_rest(
    any_installation: Installation, last: str
) -> None:
    """A worker whose job failed may have looked before the last job ended, and skip only then."""
    jobs = [job("aside"), job("left"), job("fails"), job("below", "fails")]
    dag = forced_run(any_installation, *jobs, job("both", "below", "left"))
    worker = Worker(any_installation, dag)
    for name in {"aside", "left"} - {last}:
        worker.run(name)
    worker.begin(last)
    failure = Failure("ValueError: boom", {"type": "ValueError"}, final=True)
    worker.attempts.fail(worker.begin("fails"), failure, incarnation=worker.incarnation)
    worker.end(last)
    worker.follow(last)
    assert any_installation.run_status(worker.dag_id) == "FAILED"


def test_job_that_is_held_is_not_started(any_installation: Installation) -> None:
    worker = Worker(any_installation, "chain")
    with writing(worker.engine) as connection:
        pauses.hold(connection, worker.dag_id, "link_1", reason="wait", actor="test")
    worker.run("link_0")
    assert worker.published == ["link_0"]
    assert any_installation.statuses(worker.dag_id)["link_1"] == ["PENDING"]


@pytest.mark.promise("P8")
def test_new_attempt_of_what_a_job_waits_for_is_seen_though_it_is_not_committed_yet(
    installation: Installation,
) -> None:
    worker = Worker(installation, "chain")
    worker.begin("link_0")
    worker.end("link_0")
    waiting = select(func.count()).select_from(text("pg_locks")).where(text("NOT granted"))
    with ThreadPoolExecutor() as threads:
        with writing(worker.engine) as operator:
            operators.retry(operator, worker.dag_id, "link_0", actor="test")
            following = threads.submit(worker.follow, "link_0")
            wait_until(
                lambda: operator.execute(waiting).scalar_one(), timeout=30, message="it waits"
            )
        following.result()
    assert installation.statuses(worker.dag_id)["link_1"] == ["PENDING"]
    assert "link_1" not in worker.published
