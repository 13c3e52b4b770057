"""
Why a job does not run: each cause is brought about by the product itself, and `why` names it.

The rows are written by the store's and the scheduler's own functions; where a worker has to live,
to be busy or to die, it is a real one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from prometheus.core.drafts import Draft, read_draft
from prometheus.core.market_state import MarketState
from prometheus.core.overrides import Overrides, put_in_force
from prometheus.dispatch.names import LEADERSHIP
from prometheus.dispatch.publisher import BrokerUnavailableError
from prometheus.dispatch.scheduler import Scheduler
from prometheus.orchestration.dag import DAG
from prometheus.orchestration.facts import AtWork, JobRef
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.planning import SessionRange
from prometheus.orchestration.reasons import (
    Reason,
    ReasonKind,
    RunReasons,
    explain,
    explain_run,
    explain_unmade,
)
from prometheus.orchestration.sensor import SensorRule
from prometheus.orchestration.session_time import SessionTime
from prometheus.persistence import clock, executions, leases, operators, pauses, reasons
from prometheus.persistence.clock import read_now
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.executions import Publication
from prometheus.persistence.overrides import lock_overrides, read_overrides, record, refresh
from tests.integration.dispatch.conftest import SHORT_LEASE, Installation
from tests.integration.dispatch.schedulers import RecordingBroker, make_scheduler
from tests.integration.persistence.world import DAY, HOUR, LOST, MINUTE, World, job
from tests.servers import REPOSITORY, wait_until

K = ReasonKind
SECOND = timedelta(seconds=1)
US_EQ = reasons.Installation(
    markets=["US_EQ"], leadership=LEADERSHIP, silent_after=30 * SECOND, makes_runs=True
)
AFTER_CLOSE = {"required_state": MarketState.POST_CLOSE}


def utc(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2025, 12, day, hour, minute, tzinfo=UTC)


@pytest.fixture
def world(engine: Engine) -> Iterator[World]:
    """A database whose market clock stands in the SESSION of 2025-12-02, and a scheduler leads."""
    put_in_force(Overrides())
    world = World(engine)
    with writing(engine) as connection:
        only = SessionRange(date(2025, 12, 1), date(2025, 12, 5))
        clock.start_replay(connection, market_at=utc(2, 18), speed=1, only=only, markets=["US_EQ"])
        lead(connection)
    yield world
    put_in_force(Overrides())


def lead(connection: Any, lease: timedelta = HOUR, **options: Any) -> None:
    leases.lead(connection, LEADERSHIP, "desk:77:x", lease=lease, **options)


def turn_clock(world: World, market_at: datetime) -> None:
    with writing(world.engine) as connection:
        only = SessionRange(date(2025, 12, 1), date(2025, 12, 5))
        clock.start_replay(connection, market_at=market_at, speed=1, only=only, markets=["US_EQ"])


def scheduler_of(world: World, broker: RecordingBroker | None = None) -> Scheduler:
    return make_scheduler(world.engine, broker or RecordingBroker(), markets=["US_EQ"])


def read(engine: Engine, dag_id: str, **installation: Any) -> reasons.Case:
    with reading(engine) as connection:
        case = reasons.read_case(connection, dag_id, replace(US_EQ, **installation), refresh)
    assert isinstance(case, reasons.Case)
    return case


def why(
    world: World,
    dag: DAG,
    job_id: str,
    *,
    seen: Callable[[AtWork], AtWork] = lambda at_work: at_work,
    **installation: Any,
) -> tuple[Reason, ...]:
    case = read(world.engine, dag.dag_id, **installation)
    facts = replace(case.facts, at_work=seen(case.facts.at_work))
    return explain(case.snapshot, job_id, case.now.market_at, facts)


def why_run(world: World, dag: DAG) -> RunReasons:
    case = read(world.engine, dag.dag_id)
    return explain_run(case.snapshot, case.now.market_at, case.facts)


def kinds(told: Sequence[Reason]) -> list[ReasonKind]:
    return [each.kind for each in told]


def ask_redis(*busy: str) -> Callable[[AtWork], AtWork]:
    """What Redis says of the workers that have no slot left."""
    return lambda at_work: replace(at_work, busy=frozenset(busy))


def override(world: World, *, kind: str, closes: str | None = None) -> None:
    with writing(world.engine) as connection:
        lock_overrides(connection)
        draft = Draft(
            target="US_EQ",
            session="2025-12-02",
            kind=kind,
            close=closes,
            reason="storm",
            source="nyse.com",
            author="ada",
        )
        now = read_now(connection)
        found = read_overrides(connection)
        record(connection, read_draft(draft, found, now=now.market_at))


# --- what has not been handed out ---------------------------------------------------------------


def test_window_that_has_not_opened(world: World) -> None:
    dag = world.run(job("a", **AFTER_CLOSE))
    window, limit = why(world, dag, "a")
    assert window.kind is K.WINDOW
    assert window.text == (
        "its window opens at 2025-12-02 21:00:00 UTC, with POST_CLOSE of its session"
    )
    assert (window.since, window.until) == (utc(2, 13, 30), utc(2, 21))
    assert window.market_time
    assert not window.wrong
    assert (limit.kind, limit.until) == (K.LIMIT, utc(3, 13, 30))
    assert limit.text == "its window closes at 2025-12-03 13:30:00 UTC"


def test_window_that_an_override_has_moved(world: World) -> None:
    dag = world.run(job("a", **AFTER_CLOSE))
    override(world, kind="early_close", closes="14:00")
    window, _ = why(world, dag, "a")
    assert window.until == utc(2, 19)
    assert window.text.endswith("with POST_CLOSE of its session (early close, override 1: storm)")
    at_the_open = world.run(
        job("a", required_state=MarketState.SESSION), job("b", start=SessionTime.parse("close-1h")),
        pipeline="other",
    )  # fmt: skip
    turn_clock(world, utc(2, 14))
    opening, _ = why(world, at_the_open, "a")
    assert opening.text.endswith(" 14:30:00 UTC, with SESSION of its session"), "nothing moved it"
    closing, _ = why(world, at_the_open, "b")
    assert closing.text.endswith(
        " 18:00:00 UTC, close-1h of its session (early close, override 1: storm)"
    )


def test_window_that_has_passed(world: World) -> None:
    dag = world.run(job("a", **AFTER_CLOSE), job("b", "a"))
    turn_clock(world, utc(3, 13, 30))
    (soon,) = why(world, dag, "a")
    assert soon.kind is K.EXPIRED
    assert soon.then == "the scheduler marks it EXPIRED at its next tick"

    scheduler_of(world).advance()

    (ended,) = why(world, dag, "a")
    assert (ended.kind, ended.text) == (K.EXPIRED, "its window closed at 2025-12-03 13:30:00 UTC")
    assert ended.since == world.latest(dag)["a"].completed_at
    assert ended.then == f"to run it all the same: prometheus retry {dag.dag_id} a"
    assert why_run(world, dag).status is RunStatus.FAILED


def test_upstream_that_has_not_finished_down_to_the_root_cause(world: World) -> None:
    """The root is told once, and of two jobs that wait for the same the first one."""
    dag = world.run(
        job("root", max_retries=2), job("left", "root"), job("right", "root"),
        job("both", "left", "right"), job("late", "both", **AFTER_CLOSE),
    )  # fmt: skip
    scheduler_of(world).advance()
    worker = world.worker()
    world.running(dag, "root", worker)

    told = why(world, dag, "both")

    assert [(each.kind, each.job_id) for each in told] == [
        (K.UPSTREAM, "both"),
        (K.UPSTREAM, "left"),
        (K.RUNNING, "root"),
        (K.LIMIT, "both"),
    ]
    assert told[0].text == "it waits for left (PENDING), right (PENDING)"
    assert told[0].refers_to == (JobRef(dag.dag_id, "left"), JobRef(dag.dag_id, "right"))
    assert told[0].since == utc(2, 13, 30)
    assert told[2].since == world.latest(dag)["root"].started_at
    both = why(world, dag, "late")
    assert kinds(both)[:2] == [K.WINDOW, K.UPSTREAM]
    assert [each.job_id for each in why_run(world, dag).jobs] == [
        "root", "left", "right", "both", "late",
    ]  # fmt: skip


def test_jobs_that_wait_for_the_same_instant_have_one_reason_between_them(world: World) -> None:
    dag = world.run(
        job("a", **AFTER_CLOSE), job("b", "a", **AFTER_CLOSE), job("c", "b", **AFTER_CLOSE)
    )
    assert [(each.kind, each.job_id) for each in why(world, dag, "c")] == [
        (K.WINDOW, "c"),
        (K.UPSTREAM, "c"),
        (K.LIMIT, "c"),
    ]


def test_upstream_that_failed_for_good(world: World) -> None:
    dag = world.run(job("a", max_retries=0), job("b", "a"), job("c", "b"))
    scheduler = scheduler_of(world)
    scheduler.advance()
    world.fail(world.running(dag, "a", world.worker()))

    soon = why(world, dag, "c")
    assert [(each.kind, each.job_id) for each in soon] == [
        (K.UPSTREAM_FAILED, "c"),
        (K.UPSTREAM_FAILED, "b"),
        (K.FAILED, "a"),
    ]
    assert soon[0].then == "the scheduler marks it SKIPPED at its next tick"

    scheduler.advance()

    told = why(world, dag, "c")
    assert kinds(told) == kinds(soon)
    assert told[0].text == "upstream b is SKIPPED"
    assert told[0].since == world.latest(dag)["c"].completed_at
    assert told[2].text == (
        "attempt 1: ValueError: boom (not tried again: attempt 1, max_retries is 0)"
    )
    assert told[2].then == f"to try it again: prometheus retry {dag.dag_id} a"


def test_job_that_waits_for_the_session_before(world: World) -> None:
    before = world.run(job("a", after_previous=True), day=date(2025, 12, 1))
    dag = world.run(job("a", after_previous=True))
    told = why(world, dag, "a")
    assert kinds(told) == [K.PREVIOUS, K.LIMIT]
    assert told[0].text == "it waits for itself in the previous session, where it is PENDING"
    assert told[0].refers_to == (JobRef(before.dag_id, "a"),)
    assert told[0].then == f"why that is so: prometheus why {before.dag_id} a"


def test_job_that_nothing_keeps_is_started_at_the_next_tick(world: World) -> None:
    dag = world.run(job("a"))
    told = why(world, dag, "a")
    assert kinds(told) == [K.RUNNABLE, K.LIMIT]
    assert told[0].since == utc(2, 13, 30)
    scheduler_of(world).advance()
    assert K.RUNNABLE not in kinds(why(world, dag, "a"))


def test_job_that_an_operator_keeps_from_starting(world: World) -> None:
    """Before it is claimed, and when it waits in its queue."""
    dag = world.run(job("a"), job("b"))
    scheduler_of(world).advance()
    world.worker()
    late = world.run(job("a"), pipeline="late")
    with writing(world.engine) as connection:
        pauses.pause(connection, market_id="US_EQ", reason="a bad feed", actor="ada")
        end = read_now(connection).wall_at + HOUR
        pauses.hold(connection, dag.dag_id, "b", reason="look", until=end, actor="ada")
    pending = why(world, late, "a")
    assert kinds(pending) == [K.PAUSED, K.LIMIT]
    assert pending[0].text.startswith("paused: US_EQ, since ")
    assert pending[0].then == "it starts when that ends: prometheus resume --market US_EQ"
    assert pending[0].until is None
    assert why(world, dag, "a")[:-1] == (replace(pending[0], job_id="a"),)
    both = why(world, dag, "b")
    assert kinds(both) == [K.PAUSED, K.PAUSED, K.LIMIT]
    assert [each.until for each in both[:2]] == [end, None]
    assert [each.then for each in both[:2]] == [
        f"it waits for more than that; to end it: prometheus release {dag.dag_id} b",
        "it starts when that ends: prometheus resume --market US_EQ",
    ]
    with writing(world.engine) as connection:
        pauses.resume(connection, market_id="US_EQ", actor="ada")
    assert kinds(why(world, dag, "a", seen=ask_redis())) == [K.IN_QUEUE, K.LIMIT]
    held, limit = why(world, dag, "b")
    assert (held.kind, held.until, limit.kind) == (K.PAUSED, end, K.LIMIT)
    assert held.then == f"it starts when that ends: prometheus release {dag.dag_id} b"


def test_retry_that_is_due_later_than_its_pause_ends(world: World) -> None:
    dag = world.run(job("a", max_retries=3))
    scheduler_of(world).advance()
    world.fail(world.running(dag, "a", world.worker()))
    due = world.now() + 10 * MINUTE
    world.change(world.ids(dag)["a"], scheduled_at=due)
    resume = "prometheus resume --market US_EQ"
    for minutes, then in (
        (5, f"it waits for more than that; to end it: {resume}"),
        (15, f"it starts when that ends: {resume}"),
    ):
        with writing(world.engine) as connection:
            end = read_now(connection).wall_at + minutes * MINUTE
            pauses.pause(connection, market_id="US_EQ", reason="look", until=end, actor="ada")
        told = why(world, dag, "a")
        assert kinds(told) == [K.PAUSED, K.RETRY, K.LIMIT]
        assert [each.until for each in told[:2]] == [end, due]
        assert told[0].then == then
        with writing(world.engine) as connection:
            pauses.resume(connection, market_id="US_EQ", actor="ada")


def test_job_that_is_paused_in_a_queue_that_no_worker_serves(world: World) -> None:
    dag = world.run(job("a"))
    scheduler_of(world).advance()
    with writing(world.engine) as connection:
        pauses.pause(connection, market_id="US_EQ", reason="look", actor="ada")
    told = why(world, dag, "a")
    assert kinds(told) == [K.PAUSED, K.NO_WORKER, K.LIMIT]
    assert told[0].then == (
        "it waits for more than that; to end it: prometheus resume --market US_EQ"
    )
    assert told[1].wrong


def test_retry_in_a_queue_that_no_worker_serves_yet(world: World) -> None:
    """There may be none on purpose until it is due."""
    dag = world.run(job("a", max_retries=3))
    scheduler_of(world).advance()
    worker = world.worker()
    world.fail(world.running(dag, "a", worker))
    world.change(world.ids(dag)["a"], scheduled_at=world.now() + 10 * MINUTE)
    with writing(world.engine) as connection:
        leases.end_worker(connection, worker)
    told = why(world, dag, "a")
    assert kinds(told) == [K.RETRY, K.NO_WORKER, K.LIMIT]
    assert not told[1].wrong


def test_window_that_opens_later_than_a_pause_ends(world: World) -> None:
    dag = world.run(job("a", **AFTER_CLOSE))
    with writing(world.engine) as connection:
        end = read_now(connection).wall_at + HOUR
        pauses.pause(connection, market_id="US_EQ", reason="look", until=end, actor="ada")
    told = why(world, dag, "a")
    assert kinds(told) == [K.WINDOW, K.PAUSED, K.LIMIT]
    assert told[1].then.startswith("it waits for more than that; ")
    turn_clock(world, utc(2, 20, 30))  # of which the hour goes beyond the close
    assert why(world, dag, "a")[1].then.startswith("it starts when that ends: ")


def test_attempt_that_an_operator_asked_for(world: World) -> None:
    dag = world.run(job("a", max_retries=0, **AFTER_CLOSE))
    turn_clock(world, utc(2, 21))
    scheduler_of(world).advance()
    world.fail(world.running(dag, "a", world.worker()))
    world.close(dag)
    with writing(world.engine) as connection:
        operators.retry(connection, dag.dag_id, "a", actor="ada")
    turn_clock(world, utc(3, 18))

    told = why(world, dag, "a")

    assert kinds(told) == [K.RUNNABLE, K.FORCED]
    assert told[1].text == "ada asked for it: its window does not count"
    assert told[1].since == world.latest(dag)["a"].created_at


# --- what was handed out ------------------------------------------------------------------------


def test_retry_that_is_not_due(world: World) -> None:
    dag = world.run(job("a", max_retries=3), job("b", "a"))
    scheduler_of(world).advance()
    first = world.running(dag, "a", world.worker())
    world.fail(first)

    told = why(world, dag, "a")

    failed, due = world.row(first), world.latest(dag)["a"].scheduled_at
    assert kinds(told) == [K.RETRY, K.LIMIT]
    assert (told[0].since, told[0].until) == (failed.completed_at, due)
    assert told[0].text == (
        f"attempt 2 is due at {due:%Y-%m-%d %H:%M:%S} UTC, retry 1 of 3: attempt 1 FAILED at "
        f"{failed.completed_at:%Y-%m-%d %H:%M:%S} UTC, ValueError: boom"
    )
    assert not told[0].market_time
    assert kinds(why(world, dag, "b"))[:2] == [K.UPSTREAM, K.RETRY]


def test_sensor_between_two_polls(world: World) -> None:
    rule = SensorRule(
        every=5 * MINUTE, up_to=15 * MINUTE, expected=None, give_up=6 * HOUR, otherwise="skip"
    )
    dag = world.run(job("ready", sensor=rule), job("prices", "ready"))
    scheduler_of(world).advance()
    worker = world.worker()
    first = world.running(dag, "ready", worker)
    with writing(world.engine) as connection:
        executions.poll(
            connection, first, incarnation=worker, ready=False, found={"why": "no bar of IBM"}
        )

    told = why(world, dag, "ready")

    asked, due = world.row(first).completed_at, world.latest(dag)["ready"].scheduled_at
    assert kinds(told) == [K.POLLING, K.LIMIT]
    assert (told[0].since, told[0].until) == (asked, due)
    assert told[0].text == (
        f"it is asked again at {due:%Y-%m-%d %H:%M:%S} UTC; its answer to poll 1 at "
        f"{asked:%Y-%m-%d %H:%M:%S} UTC was NOT YET, no bar of IBM"
    )
    assert told[0].then == "it gives up at 2025-12-02 19:30:00 UTC; then: skip"
    assert kinds(why(world, dag, "prices"))[:2] == [K.UPSTREAM, K.POLLING]


class Refusing(RecordingBroker):
    """A Redis that is away."""

    def publish(self, publications: Sequence[Publication]) -> None:
        raise BrokerUnavailableError("connection refused")


def test_message_that_could_not_be_sent(world: World) -> None:
    dag = world.run(job("a"))
    world.worker()
    with writing(world.engine) as connection:
        leases.resign(connection, LEADERSHIP, "desk:77:x")
    leader = make_scheduler(world.engine, Refusing(), markets=["US_EQ"], election=True)
    leader.tick()  # claims it, and finds the broker away
    told = why(world, dag, "a")
    assert kinds(told) == [K.UNSENT, K.LIMIT]
    assert told[0].since == world.latest(dag)["a"].scheduled_at

    leader.tick()  # leaves word of it with its lead

    told = why(world, dag, "a")
    assert kinds(told) == [K.BROKER_AWAY, K.LIMIT]
    assert told[0].wrong
    with reading(world.engine) as connection:
        found = leases.leader(connection, LEADERSHIP)
    assert found is not None
    assert told[0].since == found["broker_lost_at"]


def test_queue_that_no_worker_serves(world: World) -> None:
    dag = world.run(job("a"))
    scheduler_of(world).advance()
    never = why(world, dag, "a")
    assert kinds(never) == [K.NO_WORKER, K.LIMIT]
    assert never[0].text == "no worker serves the queue US_EQ"
    assert never[0].then == "start one: prometheus worker US_EQ"
    assert never[0].since == world.latest(dag)["a"].scheduled_at
    assert never[0].wrong

    incarnation = world.worker(name="us@desk")
    assert kinds(why(world, dag, "a", seen=ask_redis())) == [K.IN_QUEUE, K.LIMIT]
    with writing(world.engine) as connection:
        leases.end_worker(connection, incarnation)

    ended = why(world, dag, "a")
    assert kinds(ended) == [K.NO_WORKER, K.LIMIT]
    assert ended[0].text.startswith(
        "no worker serves the queue US_EQ: the last one, us@desk, ended"
    )


def test_worker_whose_lease_has_run_out_serves_no_queue(world: World) -> None:
    dag = world.run(job("a"))
    scheduler_of(world).advance()
    world.worker(name="us@desk", lease=-MINUTE)
    told = why(world, dag, "a")
    assert kinds(told) == [K.NO_WORKER, K.LIMIT]
    assert ": the lease of us@desk ended at " in told[0].text


def test_worker_that_has_time_and_takes_nothing(world: World) -> None:
    """What waits behind others, or waited before the worker came, says nothing of that."""
    dag = world.run(job("a"), job("b"))
    scheduler_of(world).advance()
    world.worker(name="us@desk")
    together = [why(world, dag, each, seen=ask_redis())[0].text for each in ("a", "b")]
    assert "before it" not in together[0]
    assert together[1].endswith("; 1 job before it in the queue")
    ids = world.ids(dag)
    long_ago = world.now() - 5 * MINUTE
    world.change(ids["a"], published_at=long_ago)
    assert kinds(why(world, dag, "a", seen=ask_redis())) == [K.IN_QUEUE, K.LIMIT]

    def here_for_long(at_work: AtWork) -> AtWork:
        workers = tuple(replace(each, started_at=long_ago) for each in at_work.workers)
        return replace(at_work, busy=frozenset(), workers=workers)

    told = why(world, dag, "a", seen=here_for_long)
    assert kinds(told) == [K.DEAF, K.LIMIT]
    assert told[0].text == "us@desk has time, and does not take it"
    assert (told[0].since, told[0].wrong) == (long_ago, True)
    world.change(ids["b"], published_at=long_ago + SECOND)
    behind = why(world, dag, "b", seen=here_for_long)
    assert kinds(behind) == [K.IN_QUEUE, K.LIMIT]
    assert behind[0].text.endswith("; 1 job before it in the queue")


def test_redis_that_does_not_answer_who_asks(world: World) -> None:
    dag = world.run(job("a"))
    scheduler_of(world).advance()
    world.worker()
    fault = "redis://127.0.0.1:1/0 does not answer: refused"
    told = why(world, dag, "a", seen=lambda at_work: replace(at_work, broker_fault=fault))
    assert kinds(told) == [K.BROKER_AWAY, K.LIMIT]
    assert told[0].text == fault


# --- what was started ---------------------------------------------------------------------------


def take_usually(world: World, worker: str, **minutes: int) -> None:
    """Have jobs succeed in three sessions, in as many minutes, in half and in twice as many."""
    for number, times in enumerate((0.5, 1, 2), 1):
        jobs = [job(name) for name in minutes]
        before = world.run(*jobs, day=date(2025, 11, 23 + number), forced=True)
        scheduler_of(world).advance()
        for name, usual in minutes.items():
            ended = world.running(before, name, worker)
            world.succeed(ended, worker)
            took = times * usual * MINUTE
            world.change(ended, started_at=world.row(ended).completed_at - took)
        world.close(before)


def test_what_waits_for_others_is_expected_by_what_these_usually_take(world: World) -> None:
    """Along the longest way through what is still to come; windows that have not opened count."""
    scheduler, worker = scheduler_of(world), world.worker()
    take_usually(world, worker, a=10, b=4, c=2, late=1)
    dag = world.run(
        job("a"), job("b", "a"), job("c"), job("d", "b", "c"), job("late", "a", **AFTER_CLOSE),
        job("e", "late"), job("new", "a"), job("f", "new"),
    )  # fmt: skip
    scheduler.advance()
    world.running(dag, "a", worker)
    started = world.latest(dag)["a"].started_at

    def until(job_id: str) -> datetime | None:
        (found,) = (
            e for e in why(world, dag, job_id) if (e.kind, e.job_id) == (K.UPSTREAM, job_id)
        )
        assert found.market_time
        return found.until

    case = read(world.engine, dag.dag_id)
    a_ends = case.now.clock.market_time(started) + 10 * MINUTE
    assert until("b") == a_ends
    assert until("d") == a_ends + 4 * MINUTE
    assert until("e") == utc(2, 21, 1)
    assert until("f") is None, "nobody knows how long new takes"
    told = why(world, dag, "b")[0].then
    assert (
        told == "it starts when all of them have succeeded, by then if they take as long as usual"
    )
    world.change(world.ids(dag)["a"], started_at=started - 11 * MINUTE)
    assert until("b") is None, "it takes longer than usual"


def test_job_that_waits_for_the_session_before_is_expected_when_that_usually_ends(
    world: World,
) -> None:
    scheduler, worker = scheduler_of(world), world.worker()
    take_usually(world, worker, a=10)
    before = world.run(job("a", after_previous=True), day=date(2025, 12, 1), forced=True)
    dag = world.run(job("a", after_previous=True))
    scheduler.advance()
    world.running(before, "a", worker)
    case = read(world.engine, dag.dag_id)
    told = why(world, dag, "a")[0]
    assert (told.kind, told.market_time) == (K.PREVIOUS, True)
    started = case.now.clock.market_time(world.latest(before)["a"].started_at)
    assert told.until == started + 10 * MINUTE


def test_busy_workers_are_expected_to_have_time_by_what_their_jobs_usually_take(
    world: World,
) -> None:
    """Of other pipelines, too; by their hard limits where nothing is known of them."""
    scheduler, worker = scheduler_of(world), world.worker()
    take_usually(world, worker, a=10, b=4)
    other = world.run(job("a"), job("b"))
    scheduler.advance()
    for name in ("a", "b"):
        world.running(other, name, worker)
    dag = world.run(job("x"), pipeline="other")
    scheduler.advance()

    told = why(world, dag, "x", seen=ask_redis(worker))[0]

    rows = world.latest(other)
    assert (told.kind, told.until) == (K.BUSY, rows["b"].started_at + 4 * MINUTE)
    assert told.then == "it is taken when one of them has ended, as one usually has by then"
    for name in ("a", "b"):
        world.change(world.ids(other)[name], started_at=rows[name].started_at - HOUR)
    late = why(world, dag, "x", seen=ask_redis(worker))[0]
    assert late.until == min(rows[name].hard_limit_at for name in ("a", "b"))
    assert late.then == "it is taken when one of them has ended, at its hard limit"


def test_job_that_runs_says_on_what_and_how_long_it_usually_takes(world: World) -> None:
    scheduler, worker = scheduler_of(world), world.worker()
    for number, minutes in enumerate((2, 4, 9), 1):
        before = world.run(job("a"), day=date(2025, 11, 23 + number), forced=True)
        scheduler.advance()
        ended = world.running(before, "a", worker)
        world.change(ended, started_at=world.now() - minutes * MINUTE)
        world.succeed(ended, worker)
    dag = world.run(job("a", timeout=HOUR))
    scheduler.advance()
    world.running(dag, "a", worker)

    (told,) = why(world, dag, "a")

    row = world.latest(dag)["a"]
    assert told.kind is K.RUNNING
    assert told.text == "attempt 1 runs on w@h; it usually takes 4m"
    assert told.since == row.started_at
    assert told.until is not None
    assert abs(told.until - row.started_at - 4 * MINUTE) < 5 * SECOND
    assert told.then == f"if it has not ended, it times out at {row.started_at + HOUR:%F %T} UTC"
    assert not told.wrong


def test_job_that_was_asked_to_end_and_has(world: World) -> None:
    dag = world.run(job("a"), job("b", "a"))
    scheduler_of(world).advance()
    worker = world.worker()
    running = world.running(dag, "a", worker)
    with writing(world.engine) as connection:
        operators.cancel(connection, dag.dag_id, actor="ada", grace=MINUTE)
    row = world.latest(dag)["a"]

    ending = why(world, dag, "a")
    assert kinds(ending) == [K.ENDING, K.RUNNING]
    assert ending[0].text == f"ada asked it to end at {row.cancel_asked_at:%F %T} UTC"
    assert (ending[0].since, ending[0].until) == (row.cancel_asked_at, row.cancel_at)

    world.succeed(running, worker)
    world.close(dag)
    for name in ("a", "b"):
        (ended,) = why(world, dag, name)
        assert (ended.kind, ended.text) == (K.CANCELLED, "cancelled by ada")
        assert ended.since == world.latest(dag)[name].completed_at
    assert why_run(world, dag).status is RunStatus.CANCELLED


def test_job_whose_run_has_had_its_time(world: World) -> None:
    dag = world.run(job("a"), job("b", "a"), run_timeout=HOUR)
    scheduler_of(world).advance()
    world.running(dag, "a", world.worker())
    limit = why(world, dag, "b")[-1]
    assert limit.text == f"it may wait until {world.run_row(dag).created_at + HOUR:%F %T} UTC"
    assert limit.then.endswith(": its run took longer than its run_timeout, 1h")

    world.made(dag, 2 * HOUR)

    told = why(world, dag, "a")
    assert kinds(told) == [K.ENDING, K.RUNNING]
    assert told[0].text == "its run has had its time: its run_timeout, 1h"


def test_worker_that_is_lost(world: World) -> None:
    dag = world.run(job("a"))
    scheduler_of(world).advance()
    worker = world.worker(name="us@desk", lease=HOUR)
    running = world.running(dag, "a", worker)
    with writing(world.engine) as connection:
        leases.end_worker(connection, worker)  # as who gives it up does
    told = why(world, dag, "a")
    assert kinds(told) == [K.WORKER_LOST]
    assert told[0].text.startswith("worker lost: host h, pid 1, last seen ")
    assert told[0].wrong

    world.fail(running, LOST)

    assert kinds(why(world, dag, "a")) == [K.UNSENT, K.NO_WORKER, K.LIMIT]
    assert world.statuses(dag) == {"a": "QUEUED"}


def test_job_that_overruns_its_hard_limit(world: World) -> None:
    dag = world.run(job("a"))
    scheduler_of(world).advance()
    running = world.running(dag, "a", world.worker())
    over_at = world.now() - SECOND
    world.change(running, hard_limit_at=over_at)
    told = why(world, dag, "a")
    assert kinds(told) == [K.OVERDUE]
    assert told[0].text == "ended without a report by its hard limit on w@h"
    assert told[0].since == over_at


def test_job_that_has_succeeded(world: World) -> None:
    dag = world.run(job("a", max_retries=3), job("b", "a"))
    scheduler, worker = scheduler_of(world), world.worker()
    scheduler.advance()
    world.fail(world.running(dag, "a", worker), LOST)
    second = world.running(dag, "a", worker)
    world.change(second, started_at=world.now() - 90 * SECOND)
    world.succeed(second, worker)
    (told,) = why(world, dag, "a")
    assert (told.kind, told.text) == (K.SUCCESS, "it has succeeded, on attempt 2, in 1m30s")
    assert told.since == world.row(second).completed_at
    assert [each.job_id for each in why_run(world, dag).jobs] == ["b"]


# --- what nobody does for any job ---------------------------------------------------------------


def test_scheduler_that_is_gone_or_silent_or_of_other_markets(world: World) -> None:
    dag = world.run(job("a"))
    with writing(world.engine) as connection:
        lead(connection, ticked_at=leases.wall_time(connection) - MINUTE)
    silent = why(world, dag, "a")
    assert kinds(silent) == [K.SCHEDULER_SILENT, K.RUNNABLE, K.LIMIT]
    assert silent[0].text.startswith("the scheduler desk, pid 77 leads, and has completed no tick")
    assert kinds(why(world, dag, "a", silent_after=HOUR)) == [K.RUNNABLE, K.LIMIT]

    with writing(world.engine) as connection:
        leases.resign(connection, LEADERSHIP, "desk:77:x")
        found = leases.leader(connection, LEADERSHIP)
    assert found is not None
    gone = why(world, dag, "a")
    assert kinds(gone) == [K.NO_SCHEDULER, K.RUNNABLE, K.LIMIT]
    assert gone[0].since == found["expires_at"]
    assert gone[0].text == (
        "no scheduler is running (the last one: desk, pid 77): nothing starts by itself"
    )
    assert [each.kind for each in why_run(world, dag).around] == [K.NO_SCHEDULER]

    elsewhere = why(world, dag, "a", markets=["EU_EQ"])
    assert kinds(elsewhere)[0] is K.MARKET_DISABLED


def test_market_whose_calendar_can_not_be_read(
    world: World, break_sessions: Callable[[str], None]
) -> None:
    dag = world.run(job("a"), job("b", "a"))
    assert kinds(why(world, dag, "b")) == [K.UPSTREAM, K.RUNNABLE, K.LIMIT]
    break_sessions("XNAS")
    told = why(world, dag, "b")
    assert kinds(told) == [K.MARKET_HELD]
    assert told[0].text.startswith("nothing is decided for US_EQ: The sessions of XNAS cannot be")
    assert told[0].wrong
    run = why_run(world, dag)
    assert [(each.job_id, each.reason.kind) for each in run.jobs] == [
        ("a", K.MARKET_HELD),
        ("b", K.MARKET_HELD),
    ]


def test_market_that_another_run_past_its_horizon_holds_up(world: World) -> None:
    """One tick decides about all of a market's runs."""
    dag = world.run(job("a"))
    world.run(job("a"), day=date(2099, 1, 2))
    told = why(world, dag, "a")
    assert kinds(told) == [K.MARKET_HELD]
    assert "2099-01-02 is after the last date" in told[0].text
    scheduler_of(world).advance()
    assert world.statuses(dag) == {"a": "PENDING"}


def test_session_that_an_override_has_closed(world: World) -> None:
    dag = world.run(job("a", **AFTER_CLOSE))
    override(world, kind="closed")
    (soon,) = why(world, dag, "a")
    assert soon.kind is K.SESSION_CLOSED
    assert soon.text == "its session is closed: storm (override 1)"

    scheduler_of(world).advance()

    assert world.statuses(dag) == {"a": JobStatus.CANCELLED}
    (ended,) = why(world, dag, "a")
    assert (ended.kind, ended.text) == (K.SESSION_CLOSED, "session closed: storm (override 1)")
    assert ended.since == world.latest(dag)["a"].completed_at


# --- what is not there --------------------------------------------------------------------------

daily = Pipeline("everyday", markets=["US_EQ"])


@daily.job(required_state=MarketState.POST_CLOSE)
def closes(_ctx: Any) -> None: ...


last = Pipeline("monthly", markets=["US_EQ"], sessions="last of month")


@last.job()
def sums(_ctx: Any) -> None: ...


def unmade(
    world: World, day: date, pipeline: Pipeline = daily, job_id: str | None = None, **changes: Any
) -> tuple[Reason, ...]:
    with reading(world.engine) as connection:
        here = replace(US_EQ, **changes)
        missing = reasons.read_case(connection, f"us_eq_{pipeline.name}_{day}", here, refresh)
        assert isinstance(missing, reasons.NoRun)
        found = reasons.read_unmade(connection, missing, pipeline, "US_EQ", day, here)
    return explain_unmade(found, job_id, missing.now.market_at)


def test_run_that_is_not_made_yet(world: World) -> None:
    told = unmade(world, date(2025, 12, 3), job_id="closes")
    assert [(each.kind, each.until) for each in told] == [
        (K.NOT_MADE, utc(3, 13, 30)),
        (K.WINDOW, utc(3, 21)),
    ]
    assert told[0].text == "its run is made when it opens, at 2025-12-03 13:30:00 UTC"


def test_run_that_the_next_look_makes(world: World) -> None:
    (told,) = unmade(world, DAY)
    assert told.kind is K.NOT_MADE
    assert told.text == "it opened at 2025-12-02 13:30:00 UTC, and has not been made yet"
    assert told.since == utc(2, 13, 30)
    scheduler = make_scheduler(
        world.engine, RecordingBroker(), pipelines={daily.name: daily}, create_runs=True
    )
    scheduler.tick()
    case = read(world.engine, "us_eq_everyday_2025-12-02")
    assert case.run.status is RunStatus.OPEN


@pytest.mark.parametrize(
    ("day", "pipeline", "changes", "text"),
    [
        (date(2025, 12, 6), daily, {}, "US_EQ has no session on 2025-12-06: weekend"),
        (date(2025, 12, 8), daily, {}, "this replay is of the sessions 2025-12-01 to 2025-12-05"),
        (
            date(2025, 12, 3), last, {},
            "monthly runs on the last session of each month, of which 2025-12-03 is none",
        ),
        (
            date(2025, 12, 3), daily, {"makes_runs": False},
            "only operators make runs here: scheduler.create_runs is false",
        ),
    ],
)  # fmt: skip
def test_run_that_is_never_made(
    world: World, day: date, pipeline: Pipeline, changes: dict[str, Any], text: str
) -> None:
    (told,) = unmade(world, day, pipeline, **changes)
    assert (told.kind, told.text) == (K.NEVER_MADE, text)


def test_run_of_a_market_that_is_not_served(world: World) -> None:
    told = unmade(world, date(2025, 12, 3), markets=["EU_EQ"])
    assert kinds(told) == [K.MARKET_DISABLED, K.NOT_MADE]


# --- with real workers --------------------------------------------------------------------------


def asked(installation: Installation, *arguments: str) -> dict[str, Any]:
    """Return what the command says."""
    done = subprocess.run(
        [sys.executable, "-m", "prometheus.cli", "why", *arguments, "--json"],
        env={**os.environ, **installation.env, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def told_kinds(document: dict[str, Any]) -> list[str]:
    return [each["kind"] for each in document["reasons"]]


def wait_for(installation: Installation, *arguments: str, kind: str) -> dict[str, Any]:
    """Ask until the first reason is of a kind."""
    said: dict[str, Any] = {}

    def is_so() -> bool:
        nonlocal said
        said = asked(installation, *arguments)
        return told_kinds(said)[:1] == [kind]

    wait_until(is_so, timeout=120, interval=0.5, message=lambda: f"{kind}: {said}")
    return said


def test_busy_worker_and_what_is_before_a_job_in_its_queue(
    installation: Installation, tmp_path: Path
) -> None:
    installation.beat()
    parameters = {"folder": str(tmp_path)}
    first = installation.make_run("held", parameters=parameters)
    no_worker = wait_for(installation, first, "waits_for_a_file", kind="no_worker")
    assert no_worker["reasons"][0]["wrong"] is True

    installation.worker(concurrency=1)
    wait_until((tmp_path / "started-1").exists, timeout=60, message="the first one starts")
    running = asked(installation, first, "waits_for_a_file")
    assert told_kinds(running) == ["running", "forced"]
    (row,) = installation.attempts(first)
    assert running["reasons"][0]["text"] == f"attempt 1 runs on {row.worker}"
    assert running["reasons"][0]["since"] == row.started_at.isoformat()
    second = installation.make_run("held", parameters=parameters, session=date(2026, 11, 19))
    third = installation.make_run("held", parameters=parameters, session=date(2026, 11, 18))

    told = [
        wait_for(installation, each, "waits_for_a_file", kind="busy")["reasons"][0]
        for each in (second, third)
    ]
    for each in told:
        assert each["refers_to"] == [{"dag_id": first, "job": "waits_for_a_file"}]
        assert each["until"] == row.hard_limit_at.isoformat()
        assert f"are busy with waits_for_a_file of {first}" in each["text"]
    before = sorted(each["text"].partition("; ")[2] for each in told)
    assert before == ["", "1 job before it in the queue"]
    (tmp_path / "go-1").touch()
    for dag_id in (first, second, third):
        installation.wait_for_run(dag_id, "SUCCESS")
    (ended, _) = asked(installation, first, "waits_for_a_file")["reasons"]
    assert ended["text"].startswith("it has succeeded, on attempt 1, in ")


@pytest.mark.slow
def test_worker_that_dies_is_silent_then_lost_and_then_its_job_is_tried_again(
    installation: Installation, tmp_path: Path
) -> None:
    installation.settings = {**SHORT_LEASE, "PROMETHEUS__WORKERS__LEASE": "12s"}
    beat = installation.beat()
    worker = installation.worker(concurrency=1)
    dag_id = installation.make_run("held", parameters={"folder": str(tmp_path)})
    wait_until((tmp_path / "started-1").exists, timeout=60, message="it starts")

    def comes_to(kind: ReasonKind) -> Reason:
        told: tuple[Reason, ...] = ()

        def is_so() -> list[Reason]:
            nonlocal told
            case = read(installation.engine, dag_id)
            told = explain(case.snapshot, "waits_for_a_file", case.now.market_at, case.facts)
            return [each for each in told if each.kind is kind]

        return wait_until(is_so, timeout=120, message=lambda: f"{kind}: {told}")[0]

    assert not comes_to(K.RUNNING).wrong
    beat.kill()
    worker.kill()

    silent = comes_to(K.WORKER_SILENT)
    (lease,) = installation.workers()
    assert (silent.since, silent.until) == (lease.renewed_at, lease.expires_at)
    lost = comes_to(K.WORKER_LOST)
    assert lost.since == lease.expires_at
    assert lost.text.startswith(f"worker lost: host {lease.host}, pid {worker.pid}, last seen ")
    assert comes_to(K.NO_SCHEDULER).wrong

    installation.beat()
    unserved = comes_to(K.NO_WORKER)
    assert f"the last one, {lease.worker}, ended at " in unserved.text
    assert installation.statuses(dag_id) == {"waits_for_a_file": ["FAILED", "QUEUED"]}
