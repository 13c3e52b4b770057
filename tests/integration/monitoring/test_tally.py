"""What has ended is counted once and timed, whatever process wrote it, and when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from prometheus.dispatch.attempts import CutOffError
from prometheus.monitoring.alerts.watching import Watcher
from prometheus.monitoring.installation import WATCHING
from prometheus.monitoring.tally import Tally
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence import executions, leases, operators
from prometheus.persistence.clock import Now, read_now
from prometheus.persistence.engine import create_engine, reading, writing
from prometheus.persistence.executions import Failure
from prometheus.persistence.runs import create_run
from tests.integration.monitoring.test_metrics import Samples, lead, of, samples, scrape, serve
from tests.integration.persistence.world import HOUR, LOST, World, dag_of, job

SECOND = timedelta(seconds=1)
PAIR = of("US_EQ", "test")


class Counting:
    """A tally that looks at a world."""

    def __init__(self, world: World, tally: Tally | None = None) -> None:
        self._world = world
        self._tally = tally or Tally("prometheus_markets")
        self.look()

    def look(self, **otherwise: Any) -> Samples:
        """Look once, with another clock if it is given; return what it then tells."""
        with reading(self._world.engine) as connection:
            now: Now = replace(read_now(connection), **otherwise)
            self._tally.look(connection, now, watching=WATCHING, first_looked_at=lambda at: at)
        return samples(self._tally.families())

    def grown(self, **otherwise: Any) -> dict[str, dict[frozenset[str], float]]:
        """Return what is not zero, without buckets."""
        return {
            name: values
            for name, of_name in self.look(**otherwise).items()
            if not name.endswith("_bucket")
            and (values := {labels: value for labels, value in of_name.items() if value})
        }


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    """One kind of database, where the kind does not matter."""
    engine = create_engine(sqlite_url)
    yield World(engine)
    engine.dispose()


def test_every_end_is_told_once_on_every_database(
    database_url: str, redis_url: str, tmp_path: Any
) -> None:
    lead(database_url)
    world = World(create_engine(database_url))
    worker = world.worker()
    dag = world.run(
        job("before"), *(job(name, max_retries=0) for name in "abcd"), job("e", "d"), job("f", "e")
    )
    world.finish(dag, worker, "before")
    with serve(tmp_path, DATABASE__URL=database_url, BROKER__URL=redis_url) as web:
        first = scrape(web)
        for result in ("SUCCESS", "FAILED", "SKIPPED", "EXPIRED", "CANCELLED"):
            assert first["attempts_total"][PAIR | {result}] == 0
            assert first["attempts_total"][of("EU_EQ", "daily", result)] == 0
        assert first["celery_worker_up"] == {of("h"): 1}
        assert first["celery_active_worker_count"][of("US_EQ")] == 1
        world.finish(dag, worker, "a", "d")
        world.fail_for_good(dag, "b", worker)
        world.end_waiting({world.ids(dag)["c"]: "late"}, JobStatus.EXPIRED)
        world.finish(dag, worker, "e")
        with writing(world.engine) as connection:
            operators.cancel(connection, dag.dag_id, "f", actor="ann")
        told = scrape(web)
        assert told["runs_total"][PAIR | {"FAILED"}] == 1
        for _ in range(2):
            again = scrape(web)
            assert {name: values for name, values in again.items() if name.endswith("_total")} == {
                name: values for name, values in told.items() if name.endswith("_total")
            }
        counted = told["attempts_total"]
        assert {name: counted[PAIR | {name}] for name in JobStatus if PAIR | {name} in counted} == {
            "SUCCESS": 3,
            "FAILED": 1,
            "EXPIRED": 1,
            "CANCELLED": 1,
            "SKIPPED": 0,
        }
        assert told["jobs_failed_total"][PAIR] == 1
        assert told["attempt_run_seconds_count"][PAIR] == 4
        assert told["attempt_queue_seconds_count"][PAIR] == 4
        assert told["dependency_gap_seconds_count"][PAIR] == 1
        assert told["run_seconds_count"][PAIR] == 1
    world.engine.dispose()


def look_for_trouble(world: World, at: datetime) -> None:
    """Look for what is wrong as a web process that has ended since, at an instant."""
    with writing(world.engine) as connection:
        for ticked_at in (None, at):
            leases.lead(connection, WATCHING, "there:7:x", lease=-SECOND, ticked_at=ticked_at)


def ended(world: World, pipeline: str, ago: timedelta) -> None:
    """Let a job fail for good some time ago."""
    dag = world.run(job("a", max_retries=0), pipeline=pipeline)
    world.fail_for_good(dag, "a", world.worker())
    world.close(dag)
    world.change(world.ids(dag)["a"], completed_at=world.now() - ago)


@pytest.mark.parametrize(
    ("ago", "counted"),
    [(2 * HOUR, {"since"}), (30 * 24 * HOUR, {"since", "before", "long ago"}), (None, set())],
)
def test_what_ended_while_nobody_looked_is_counted_when_its_zeros_are_told(
    world: World, ago: timedelta | None, counted: set[str]
) -> None:
    ended(world, "since", HOUR)
    ended(world, "before", 3 * HOUR)
    ended(world, "long ago", 6 * 24 * HOUR)
    ended(world, "too long ago", 8 * 24 * HOUR)
    if ago is not None:
        look_for_trouble(world, world.now() - ago)
    first = Tally("prometheus_markets")
    counting = Counting(world, first)
    zeros = samples(first.families()).get("jobs_failed_total", {})
    assert zeros == {of("US_EQ", pipeline): 0 for pipeline in counted}
    for _ in range(2):
        found = counting.grown()
        expected = {of("US_EQ", pipeline): 1 for pipeline in counted}
        assert found.get("jobs_failed_total", {}) == expected
        assert found.get("runs_total", {}) == {pair | {"FAILED"}: 1 for pair in expected}


def test_what_was_missed_while_the_machine_was_down_is_told_by_the_next_web_process(
    database_url: str, redis_url: str, tmp_path: Any
) -> None:
    """Its own watcher looks before it is scraped, and says that it has."""
    world = World(create_engine(database_url))
    ended(world, "before", 3 * HOUR)
    look_for_trouble(world, world.now() - 2 * HOUR)
    ended(world, "meanwhile", HOUR)
    with writing(world.engine) as connection:
        create_run(
            connection,
            dag_of(job("a"), pipeline="daily"),
            opens_at=leases.wall_time(connection),
            trigger="catch_up",
            calendar_version="1",
            parameters={},
            missed="missed: no scheduler was running",
        )
    given = {"DATABASE__URL": database_url, "BROKER__URL": redis_url}
    with serve(tmp_path, **given) as web:
        watcher = Watcher(web.app.state.installation)
        for _ in range(2):  # the second notes the first
            assert watcher.look()
        for told in (0, 1, 1):
            found = scrape(web)
            assert found["runs_missed_total"][of("US_EQ", "daily")] == told
            assert found["jobs_failed_total"][of("US_EQ", "meanwhile")] == told
            assert of("US_EQ", "before") not in found["jobs_failed_total"]
        # Another one has that one's word for all until now.
        with serve(tmp_path, **given) as another:
            for _ in range(2):
                assert of("US_EQ", "meanwhile") not in scrape(another)["jobs_failed_total"]
        watcher.close()
    world.engine.dispose()


def test_a_failure_that_is_tried_again_is_none_for_good(world: World) -> None:
    counting, worker = Counting(world), world.worker()
    dag = world.run(job("a", max_retries=1), job("b", max_retries=0))
    world.fail(world.running(dag, "a", worker))
    found = counting.grown()
    assert found["attempts_total"] == {PAIR | {"FAILED"}: 1}
    assert "jobs_failed_total" not in found
    world.change(world.ids(dag)["a"], scheduled_at=world.now() - SECOND)
    world.fail(world.running(dag, "a", worker))
    world.fail_for_good(dag, "b", worker)
    assert world.close(dag) == "FAILED"
    # The next attempt of one that an operator asks for does not undo that it had failed for good.
    with writing(world.engine) as connection:
        operators.retry(connection, dag.dag_id, "b", actor="ann")
    found = counting.grown()
    assert found["attempts_total"] == {PAIR | {"FAILED"}: 3}
    assert found["jobs_failed_total"] == {PAIR: 2}


def test_a_lost_attempt_says_why(world: World) -> None:
    counting = Counting(world)
    dag = world.run(*(job(name, max_retries=0) for name in "abcd"))
    alive, gone = world.worker(), world.worker(lease=-HOUR)
    world.running(dag, "a", gone)
    over = world.running(dag, "b", alive)
    world.change(over, hard_limit_at=world.now() - HOUR)
    unnamed = world.running(dag, "c", alive)
    for _ in range(2):
        with writing(world.engine) as connection:
            leases.renew_worker(connection, alive, running=[over], lease=HOUR)
    world.change(unnamed, started_at=world.now() - HOUR)
    with reading(world.engine) as connection:
        orphans = leases.find_orphans(connection, world.now(), over_limit_by=SECOND)
    assert len(orphans) == 3
    for orphan in orphans:
        world.fail(orphan.execution_id, Failure(orphan.message, {"type": "orphan"}, lost=True))
    cut_off = Failure(str(CutOffError(HOUR)), {"type": "CutOffError"}, lost=True)
    world.fail(world.running(dag, "d", alive), cut_off)
    found = counting.grown()
    assert found["attempts_total"] == {PAIR | {"FAILED"}: 4}
    assert found["attempts_lost_total"] == {
        PAIR | {reason}: 1 for reason in ("worker_lost", "over_limit", "no_report", "cut_off")
    }


def test_a_job_that_takes_its_workers_with_it(world: World) -> None:
    counting, worker = Counting(world), world.worker()
    dag = world.run(job("a", max_retries=0), job("b", max_retries=0))
    world.fail(world.running(dag, "a", worker), LOST)
    world.fail_for_good(dag, "b", worker)
    assert "jobs_poisoned_total" not in counting.grown()
    for _ in range(3):  # as often as it may happen
        world.fail(world.running(dag, "a", worker), LOST)
    found = counting.grown()
    assert found["attempts_lost_total"] == {PAIR | {"worker_lost"}: 4}
    assert found["jobs_failed_total"] == {PAIR: 2}
    assert found["jobs_poisoned_total"] == {PAIR: 1}


def timed(world: World, dag: Any, name: str, since: datetime, **lengths: int) -> None:
    """Give an attempt that has ended the times that it would have with these lengths, seconds."""
    at = since + lengths.get("wait", 0) * SECOND
    started = at + lengths["queue"] * SECOND
    world.change(
        world.ids(dag)[name],
        window_opens_at=since,
        scheduled_at=at,
        scheduled_market_at=at,
        started_at=started,
        started_market_at=started,
        completed_at=started + lengths["run"] * SECOND,
    )


def test_where_the_time_went(world: World) -> None:
    counting, worker = Counting(world), world.worker()
    dag = world.run(job("a"), job("b", "a"), job("c", "a"))
    world.finish(dag, worker, "a", "b", "c")
    world.close(dag)
    since = world.now() - 30 * SECOND
    timed(world, dag, "a", since, wait=1, queue=2, run=17)
    timed(world, dag, "b", since, wait=24, queue=5, run=6)
    # Its window opened later than that job had ended: nobody kept it waiting.
    timed(world, dag, "c", since + 22 * SECOND, wait=3, queue=4, run=5)
    world.made(dag, HOUR)
    found = counting.look()
    sums = {
        name: found[f"{name}_sum"][PAIR]
        for name in ("attempt_wait_seconds", "attempt_queue_seconds")
    }
    assert sums == {"attempt_wait_seconds": 28, "attempt_queue_seconds": 11}
    assert found["attempt_run_seconds_sum"][PAIR] == 28
    assert found["attempt_run_seconds_bucket"][PAIR | {"3.0"}] == 0
    assert found["attempt_run_seconds_bucket"][PAIR | {"10.0"}] == 2
    assert found["attempt_run_seconds_bucket"][PAIR | {"+Inf"}] == 3
    assert found["schedule_delay_seconds_sum"][PAIR] == 3
    assert found["schedule_delay_seconds_count"][PAIR] == 1
    # From 20 seconds after the opening, when a ended.
    assert found["dependency_gap_seconds_sum"][PAIR] == 4
    assert found["dependency_gap_seconds_count"][PAIR] == 1
    assert 3000 < found["run_seconds_sum"][PAIR] <= 3600


@pytest.mark.parametrize(("speed", "told"), [(60.0, 1), (0.0, 0)])
def test_waiting_in_a_replay_is_told_in_time_of_the_wall(
    world: World, speed: float, told: int
) -> None:
    counting, worker = Counting(world), world.worker()
    dag = world.run(job("a"))
    world.finish(dag, worker, "a")
    market_at = datetime.fromisoformat("2012-11-23T18:00:00+00:00")
    world.change(
        world.ids(dag)["a"],
        window_opens_at=market_at,
        scheduled_market_at=market_at + 120 * SECOND,
        started_market_at=market_at + 180 * SECOND,
    )
    with reading(world.engine) as connection:
        clock = replace(
            read_now(connection).clock,
            anchor_market_at=market_at,
            anchor_wall_at=world.now(),
            speed=speed,
        )
    found = counting.look(clock=clock)
    assert found["attempt_wait_seconds_count"][PAIR] == told
    assert found["attempt_wait_seconds_sum"][PAIR] == 2 * told
    assert found["schedule_delay_seconds_count"][PAIR] == told
    assert found["attempt_queue_seconds_count"][PAIR] == 1
    assert found["attempt_run_seconds_sum"][PAIR] < 60


def test_what_an_operator_does_takes_no_time(world: World) -> None:
    counting = Counting(world)
    dag = world.run(job("a"), job("b", "a"))
    with writing(world.engine) as connection:
        for name in "ab":
            operators.force_success(
                connection, dag.dag_id, name, actor="ann", reason="done by hand"
            )
    found = counting.grown()
    assert found["attempts_total"] == {PAIR | {"SUCCESS"}: 2, PAIR | {"SKIPPED"}: 2}
    assert found["runs_total"] == {PAIR | {"SUCCESS"}: 1}
    assert set(found) == {"attempts_total", "runs_total"}


def test_a_run_that_is_opened_again_ends_again(world: World) -> None:
    worker = world.worker()
    dag = world.run(job("a", max_retries=0))
    world.fail_for_good(dag, "a", worker)
    counting = Counting(world)
    assert world.close(dag) == "FAILED"
    assert counting.grown()["runs_total"] == {PAIR | {"FAILED"}: 1}
    with writing(world.engine) as connection:
        operators.retry(connection, dag.dag_id, actor="ann")
    counting.look()
    world.finish(dag, worker, "a")
    assert counting.grown()["runs_total"] == {PAIR | {"FAILED"}: 1}  # it is open until a tick
    assert world.close(dag) == "SUCCESS"
    found = counting.grown()
    assert found["runs_total"] == {PAIR | {"FAILED"}: 1, PAIR | {"SUCCESS"}: 1}
    assert found["run_seconds_count"] == {PAIR: 1}


def test_a_session_that_was_missed_is_missed_once(world: World) -> None:
    counting = Counting(world)
    with writing(world.engine) as connection:
        dag = dag_of(job("a"), job("b"))
        create_run(
            connection,
            dag,
            opens_at=world.now(),
            trigger="catch_up",
            calendar_version="1",
            parameters={},
            missed="missed: no scheduler was running",
        )
    found = counting.grown()
    assert found["runs_missed_total"] == {PAIR: 1}
    assert found["runs_total"] == {PAIR | {"FAILED"}: 1}
    assert found["attempts_total"] == {PAIR | {"EXPIRED"}: 2}
    assert "run_seconds_count" not in found
    with writing(world.engine) as connection:
        operators.retry(connection, dag.dag_id, actor="ann")
    world.finish(dag, world.worker(), "a", "b")
    assert world.close(dag) == "SUCCESS"
    found = counting.grown()
    assert found["runs_missed_total"] == {PAIR: 1}
    assert found["runs_total"][PAIR | {"SUCCESS"}] == 1


def test_what_is_committed_late_is_counted_all_the_same(postgresql_url: str) -> None:
    world = World(create_engine(postgresql_url))
    worker = world.worker()
    dag = world.run(job("a"), job("b"))
    late, early = (world.running(dag, name, worker) for name in "ab")
    counting = Counting(world)
    with writing(world.engine) as connection:
        executions.succeed(connection, late, incarnation=worker, result=None)
        world.succeed(early, worker)
        for _ in range(2):
            assert counting.grown()["attempts_total"] == {PAIR | {"SUCCESS"}: 1}
    assert world.row(late).completed_at < world.row(early).completed_at
    for _ in range(2):
        assert counting.grown()["attempts_total"] == {PAIR | {"SUCCESS"}: 2}
    world.engine.dispose()


def test_a_clock_that_is_set_back_counts_nothing_twice(world: World) -> None:
    dag, worker = world.run(*(job(name) for name in "abcd")), world.worker()
    counting = Counting(world)
    world.finish(dag, worker, "a")
    # By less than ends are waited for:
    assert counting.grown(wall_at=world.now() + 20 * SECOND)["attempts_total"] == {
        PAIR | {"SUCCESS"}: 1
    }
    world.finish(dag, worker, "b")
    assert counting.grown()["attempts_total"] == {PAIR | {"SUCCESS"}: 2}
    # By more:
    counting.look(wall_at=world.now() + 2 * HOUR)
    world.finish(dag, worker, "c")
    assert counting.grown()["attempts_total"] == {PAIR | {"SUCCESS"}: 2}
    world.finish(dag, worker, "d")
    assert counting.grown()["attempts_total"] == {PAIR | {"SUCCESS"}: 3}


def test_a_look_that_fails_is_made_up_for(world: World) -> None:
    dag, worker = world.run(job("a"), job("b")), world.worker()
    other = world.run(job("a"), day=date(2025, 12, 3))
    counting = Counting(world)
    world.finish(dag, worker, "a", "b")
    world.close(dag)

    def fail(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "AS again" in statement:
            raise ConnectionError("gone")

    event.listen(world.engine, "before_cursor_execute", fail)
    with pytest.raises(ConnectionError):
        counting.look()
    event.remove(world.engine, "before_cursor_execute", fail)
    world.finish(other, worker, "a")
    world.close(other)
    # However long nobody looked.
    found = counting.grown(wall_at=world.now() + 2 * HOUR)
    assert found["attempts_total"] == {PAIR | {"SUCCESS"}: 3}
    assert found["runs_total"] == {PAIR | {"SUCCESS"}: 2}
