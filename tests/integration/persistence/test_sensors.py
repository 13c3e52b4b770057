"""Polls of sensors in the store: what each costs, when the next one is, and how they give up."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any
from unittest.mock import ANY

import pytest

from prometheus.core.holidays import Holiday, HolidayKind, HolidayState
from prometheus.orchestration.dag import DAG, JobMetadata
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.orchestration.planning import SessionRange
from prometheus.orchestration.sensor import Readiness, SensorRule
from prometheus.persistence import clock, executions
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.executions import (
    Attempt,
    FailedForGood,
    Failure,
    GaveUp,
    Polled,
    Refused,
    Started,
)
from prometheus.persistence.holidays import decide_holidays, propose_holidays
from prometheus.persistence.runs import still_ready
from tests.integration.persistence.world import BOOM, HOUR, LOST, MINUTE, World, job

SECOND = timedelta(seconds=1)


def sensor(**rule: Any) -> JobMetadata:
    values = {
        "every": 5 * MINUTE,
        "up_to": 15 * MINUTE,
        "expected": None,
        "give_up": 6 * HOUR,
        "otherwise": "fail",
        **rule,
    }
    return job("ready", sensor=SensorRule(**values), max_retries=2)


def run(world: World, **rule: Any) -> DAG:
    return world.run(sensor(**rule), job("prices", "ready"))


def poll(
    world: World, execution_id: str, worker: str, ready: bool = False, **found: Any
) -> Polled | None:
    with writing(world.engine) as connection:
        return executions.poll(
            connection, execution_id, incarnation=worker, ready=ready, found={"seen": 3, **found}
        )


def next_poll(world: World, dag: DAG, worker: str) -> str:
    """Start the poll that waits for its time, as if that had come."""
    row = world.latest(dag)["ready"]
    world.change(row.execution_id, scheduled_at=world.now() - SECOND)
    return world.running(dag, "ready", worker)


def test_poll_that_finds_nothing_is_no_failure_and_the_next_one_waits(world: World) -> None:
    dag, worker = run(world), world.worker()
    first = world.running(dag, "ready", worker)
    assert poll(world, first, worker) == Polled(dag.dag_id, Readiness.NOT_YET)

    row, following = world.row(first), world.latest(dag)["ready"]
    assert (row.status, row.error_message) == (JobStatus.SUCCESS, None)
    assert row.result == {"seen": 3, "state": "NOT_YET"}
    assert (following.status, following.attempt_number) == (JobStatus.QUEUED, 2)
    assert (following.retries, following.lost) == (0, 0)
    assert abs(following.scheduled_at - row.completed_at - 5 * MINUTE) < SECOND
    assert following.window_closes_at == row.window_closes_at
    # It holds no worker, and the job has not succeeded.
    assert isinstance(world.start(following.execution_id, worker), Refused)
    with writing(world.engine) as connection:
        still = still_ready(connection, world.starts(dag, "prices"))
    assert still == []
    assert world.close(dag) is None


def test_pauses_double_up_to_the_longest_and_the_last_poll_is_when_it_gives_up(
    world: World,
) -> None:
    # The window has been open for an hour.
    dag, worker = run(world, give_up=HOUR + 12 * MINUTE), world.worker()
    pauses: list[float] = []
    for _ in range(4):
        execution_id = (
            next_poll(world, dag, worker) if pauses else world.running(dag, "ready", worker)
        )
        poll(world, execution_id, worker)
        pauses.append(world.latest(dag)["ready"].retry_delay_seconds / 60)
    assert pauses == [5, 10, pytest.approx(12, abs=0.1), pytest.approx(12, abs=0.1)]


def test_a_failure_costs_a_retry_and_an_answer_gives_it_back(world: World) -> None:
    dag, worker = run(world), world.worker()
    world.fail(world.running(dag, "ready", worker), incarnation=worker)
    assert world.latest(dag)["ready"].retries == 1
    poll(world, next_poll(world, dag, worker), worker)
    assert world.latest(dag)["ready"].retries == 0


@pytest.mark.parametrize(
    ("expected", "late"), [(None, False), (2 * HOUR, False), (30 * MINUTE, True)]
)
def test_what_has_not_come_when_it_was_expected_is_late(
    world: World, expected: timedelta | None, late: bool
) -> None:
    dag, worker = run(world, expected=expected), world.worker()
    outcome = poll(world, world.running(dag, "ready", worker), worker)
    assert outcome == Polled(dag.dag_id, Readiness.LATE if late else Readiness.NOT_YET)
    outcome = poll(world, next_poll(world, dag, worker), worker, ready=True)
    assert outcome == Polled(dag.dag_id, Readiness.READY)
    result = {"seen": 3, "state": "READY"} | ({"late": True} if late else {})
    assert world.latest(dag)["ready"].result == result
    assert world.statuses(dag)["ready"] == JobStatus.SUCCESS


def test_clock_that_jumps_waits_for_nothing(world: World) -> None:
    """It stands while anything is queued, so that what has not come would never be given up."""
    dag, worker = run(world), world.worker()
    execution_id = world.running(dag, "ready", worker)
    with writing(world.engine) as connection:
        only = SessionRange(dag.as_of_date, dag.as_of_date)
        clock.start_replay(connection, market_at=world.now(), speed=0, only=only, markets=[])
    assert poll(world, execution_id, worker) == Polled(dag.dag_id, Readiness.MISSING, ANY)


def test_pause_is_market_time_in_a_replay_that_is_faster(world: World) -> None:
    dag, worker = run(world), world.worker()
    execution_id = world.running(dag, "ready", worker)
    with writing(world.engine) as connection:
        only = SessionRange(dag.as_of_date, dag.as_of_date)
        clock.start_replay(connection, market_at=world.now(), speed=60, only=only, markets=[])
    assert poll(world, execution_id, worker) == Polled(dag.dag_id, Readiness.NOT_YET)
    following = world.latest(dag)["ready"]
    wait = following.scheduled_at - world.row(execution_id).completed_at
    assert abs(wait - timedelta(seconds=5)) < SECOND
    assert following.retry_delay_seconds == 300


@pytest.mark.parametrize(
    ("otherwise", "status", "result", "run_status"),
    [
        ("fail", JobStatus.FAILED, {}, RunStatus.FAILED),
        ("skip", JobStatus.SKIPPED, {}, RunStatus.SUCCESS),
        ("continue_stale", JobStatus.SUCCESS, {"stale": True}, None),
        ("use:synthetic", JobStatus.SUCCESS, {"stale": False, "source": "synthetic"}, None),
    ],
)
def test_what_becomes_of_it_when_it_gives_up(
    world: World,
    otherwise: str,
    status: JobStatus,
    result: dict[str, Any],
    run_status: RunStatus | None,
) -> None:
    # The window has been open for an hour: longer than it waits. Still it is polled once.
    dag, worker = run(world, give_up=30 * MINUTE, otherwise=otherwise), world.worker()
    execution_id = world.running(dag, "ready", worker)
    outcome = poll(world, execution_id, worker)
    assert outcome is not None
    assert outcome.state is Readiness.MISSING
    row = world.row(execution_id)
    assert row.status == status
    assert row.result == {"seen": 3, "state": "MISSING", **result}
    assert len(world.rows(dag.dag_id)) == 2, "no further poll"
    if run_status is None:
        assert world.claim(world.starts(dag, "prices"))
        with reading(world.engine) as connection:
            assert executions.results_of(connection, dag.dag_id, ["ready"])["ready"] == row.result
        return
    assert "MISSING: it had not come at" in row.error_message
    assert row.error_message.endswith(f"up (not tried again: give_up=30m, otherwise={otherwise})")
    waiting = {world.ids(dag)["prices"]: f"upstream ready is {status}"}
    assert world.end_waiting(waiting, JobStatus.SKIPPED)
    assert world.close(dag) is run_status


def test_window_that_ends_before_the_next_poll_ends_the_waiting(world: World) -> None:
    dag, worker = run(world), world.worker()
    execution_id = world.running(dag, "ready", worker, closes=4 * MINUTE)
    outcome = poll(world, execution_id, worker, why="no bar of IBM")
    assert outcome is not None
    assert outcome.state is Readiness.MISSING
    row = world.row(execution_id)
    assert row.error_message == outcome.detail
    ends = f"its window ends at {row.window_closes_at:%Y-%m-%d %H:%M:%S} UTC"
    assert outcome.detail.endswith(f"(not tried again: {ends}, otherwise=fail): no bar of IBM")


def test_why_it_has_not_come_is_told_and_cut(world: World) -> None:
    dag, worker = run(world), world.worker()
    outcome = poll(world, world.running(dag, "ready", worker), worker, why="x" * 600)
    assert outcome == Polled(dag.dag_id, Readiness.NOT_YET, "x" * 500)


def test_sensor_of_a_day_that_is_a_session_no_more_gives_up(world: World) -> None:
    saturday = date(2025, 12, 6)
    dag, worker = world.run(sensor(), job("prices", "ready"), day=saturday), world.worker()
    outcome = poll(world, world.running(dag, "ready", worker), worker)
    assert outcome is not None
    assert outcome.state is Readiness.MISSING
    assert "(not tried again: its session is none any more, otherwise=fail)" in outcome.detail


def test_only_the_last_answers_are_asked_for(world: World) -> None:
    """Of a sensor that waits for hours there are hundreds."""
    worker = world.worker()
    for day, polls in ((1, 3), (2, 2)):
        dag = world.run(sensor(), job("prices", "ready"), day=date(2025, 12, day))
        for number in range(polls):
            execution_id = (
                next_poll(world, dag, worker) if number else world.running(dag, "ready", worker)
            )
            poll(world, execution_id, worker, ready=number == polls - 1, number=number)
    dag = world.run(sensor(), job("prices", "ready"), day=date(2025, 12, 3))
    execution_id = world.running(dag, "ready", worker)
    with reading(world.engine) as connection:
        attempt = Attempt(execution_id, dag, dag.jobs["ready"], 1, {}, worker)
        earlier = executions.earlier_results(connection, attempt, 20)
        assert executions.earlier_results(connection, attempt, 1) == earlier[:1]
        last = executions.results_of(connection, "us_eq_test_2025-12-01", ["ready", "prices"])
    assert [found["number"] for found in earlier] == [1, 2]
    assert last == {"ready": {"seen": 3, "number": 2, "state": "READY"}}


def test_poll_that_was_cancelled_is_and_asks_no_more(world: World) -> None:
    dag, worker = run(world), world.worker()
    execution_id = world.running(dag, "ready", worker)
    with writing(world.engine) as connection:
        executions.ask_to_end(connection, {execution_id: "ann"}, grace=MINUTE)
    assert poll(world, execution_id, worker) == Polled(dag.dag_id, None)
    assert world.statuses(dag)["ready"] == JobStatus.CANCELLED
    assert world.latest(dag)["ready"].attempt_number == 1


def test_poll_is_reported_once_and_by_its_worker_alone(world: World) -> None:
    dag, worker = run(world), world.worker()
    execution_id = world.running(dag, "ready", worker)
    assert poll(world, execution_id, world.worker(name="x@h")) is None
    assert poll(world, execution_id, worker) is not None
    assert poll(world, execution_id, worker) is None
    assert world.latest(dag)["ready"].attempt_number == 2
    with reading(world.engine) as connection:
        assert executions.polled(connection, execution_id, worker) == Polled(dag.dag_id, None)


REFUSED = Failure("NoTokenError: refused", {"type": "NoTokenError"}, final=True)


@pytest.mark.parametrize(
    ("failure", "values", "why"),
    [
        (BOOM, {"retries": 2}, "attempt 1, max_retries is 2"),
        (LOST, {"lost": 3}, "4 workers were lost with it"),
        (REFUSED, {}, "the error says that it would not help"),
        (BOOM, {}, "the retry at "),
    ],
    ids=["errors", "lost workers", "refused", "window"],
)
@pytest.mark.parametrize(
    ("otherwise", "status", "result", "run_status"),
    [
        ("fail", JobStatus.FAILED, None, RunStatus.FAILED),
        ("skip", JobStatus.SKIPPED, {}, RunStatus.SUCCESS),
        ("continue_stale", JobStatus.SUCCESS, {"stale": True}, None),
        ("use:synthetic", JobStatus.SUCCESS, {"stale": False, "source": "synthetic"}, None),
    ],
)
def test_whatever_ends_it_for_good_it_goes_the_way_that_is_declared(
    world: World,
    failure: Failure,
    values: dict[str, Any],
    why: str,
    otherwise: str,
    status: JobStatus,
    result: dict[str, Any] | None,
    run_status: RunStatus | None,
) -> None:
    dag, worker = run(world, otherwise=otherwise), world.worker()
    closes = MINUTE / 2 if why == "the retry at " else HOUR
    execution_id = world.running(dag, "ready", worker, closes=closes)
    if values:
        world.change(execution_id, **values)
    outcome = world.fail(execution_id, failure, incarnation=worker)

    row = world.row(execution_id)
    assert row.status == status
    assert len(world.rows(dag.dag_id)) == 2, "no further attempt"
    if result is None:
        assert isinstance(outcome, FailedForGood)
        return
    assert isinstance(outcome, GaveUp)
    assert outcome.message.startswith(f"{failure.message} (not tried again: {why}")
    assert row.result == {"state": "MISSING", "why": outcome.message, **result}
    if run_status is None:
        assert row.error_message is None
        assert world.claim(world.starts(dag, "prices"))
        return
    assert (row.error_message, row.error_details) == (outcome.message, failure.details)
    waiting = {world.ids(dag)["prices"]: f"upstream ready is {status}"}
    assert world.end_waiting(waiting, JobStatus.SKIPPED)
    assert world.close(dag) is run_status


def test_error_that_leaves_a_retry_gives_nothing_up(world: World) -> None:
    dag, worker = run(world, otherwise="continue_stale"), world.worker()
    world.fail(world.running(dag, "ready", worker), incarnation=worker)
    assert world.statuses(dag)["ready"] == JobStatus.QUEUED


@pytest.mark.parametrize("otherwise", ["fail", "skip", "continue_stale"])
def test_sensor_whose_worker_comes_after_its_window_is_asked_once(
    world: World, otherwise: str
) -> None:
    dag, worker = run(world, otherwise=otherwise), world.worker()
    world.claim(world.starts(dag, "ready"))
    execution_id = world.ids(dag)["ready"]
    world.change(execution_id, window_closes_at=world.now() - MINUTE)
    world.change(world.ids(dag)["prices"], forced=True)
    started = world.start(execution_id, worker)
    if otherwise == "fail":
        assert isinstance(started, Refused)
        assert started.expired == dag.dag_id
        return
    assert isinstance(started, Started)
    outcome = poll(world, execution_id, worker)
    assert outcome is not None
    assert outcome.state is Readiness.MISSING
    assert len(world.rows(dag.dag_id)) == 2


def test_sensor_is_not_asked_after_its_window_for_nobody(world: World) -> None:
    """What waits for it can not start either: its window, of a session long past, has closed."""
    dag, worker = run(world, otherwise="continue_stale"), world.worker()
    world.claim(world.starts(dag, "ready"))
    execution_id = world.ids(dag)["ready"]
    world.change(execution_id, window_closes_at=world.now() - MINUTE)
    started = world.start(execution_id, worker)
    assert isinstance(started, Refused)
    assert started.expired == dag.dag_id


def test_sensor_asked_after_its_window_may_find_that_it_has_come(world: World) -> None:
    dag, worker = run(world, otherwise="continue_stale"), world.worker()
    world.claim(world.starts(dag, "ready"))
    execution_id = world.ids(dag)["ready"]
    world.change(execution_id, window_closes_at=world.now() - MINUTE)
    world.change(world.ids(dag)["prices"], forced=True)
    assert isinstance(world.start(execution_id, worker), Started)
    assert poll(world, execution_id, worker, ready=True) == Polled(dag.dag_id, Readiness.READY)


def test_closure_that_a_feed_proposes_is_told_of_while_it_waits(world: World) -> None:
    """Until a person has decided: no calendar follows a feed alone."""
    dag, worker = run(world), world.worker()
    first, last = date(2025, 1, 1), date(2025, 12, 31)
    closed = Holiday(dag.as_of_date, "Day of Mourning", HolidayKind.CLOSED)
    other_days = [
        Holiday(dag.as_of_date - timedelta(days=1), "Another day", HolidayKind.CLOSED),
        Holiday(dag.as_of_date + timedelta(days=1), "Bank holiday", HolidayKind.BANK),
    ]
    with writing(world.engine) as connection:
        for mic in ("XNYS", "XLON"):
            propose_holidays(connection, mic, "eodhd", first, last, [closed, *other_days])
    outcome = poll(world, world.running(dag, "ready", worker), worker, why="no bar of IBM")
    said = (
        "no bar of IBM; eodhd proposes that XNYS is closed on 2025-12-02 (Day of Mourning): decide "
        "with prometheus calendar sync XNYS --confirm 2025-12-02 or --reject 2025-12-02"
    )
    assert outcome == Polled(dag.dag_id, Readiness.NOT_YET, said)
    (polled, _) = (row for row in world.rows(dag.dag_id) if row.job_id == "ready")
    assert polled.result == {"seen": 3, "state": "NOT_YET", "why": said}

    with writing(world.engine) as connection:
        decide_holidays(
            connection, "XNYS", [dag.as_of_date], HolidayState.REJECTED, actor="ann", reason="no"
        )
    outcome = poll(world, next_poll(world, dag, worker), worker)
    assert outcome == Polled(dag.dag_id, Readiness.NOT_YET)
