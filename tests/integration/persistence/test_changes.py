"""What has changed, told by what it concerns."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import pytest

from prometheus.persistence import leases, operators
from prometheus.persistence.changes import CREW, RUNS, of_market, of_run, read_changes
from prometheus.persistence.engine import reading, writing
from tests.integration.persistence.world import DAY, World, job

OF_US = {RUNS, of_market("US_EQ")}


class Watch:
    """Somebody who looks again and again, in one minute."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._at = world.now()
        self._seen = self._read()

    def _read(self) -> Mapping[str, str]:
        with reading(self._world.engine) as connection:
            return read_changes(connection, self._at)

    def sees(self, *, at: datetime | None = None) -> set[str]:
        """Return what has changed since the last look."""
        self._at = at or self._at
        before, self._seen = self._seen, self._read()
        scopes = before.keys() | self._seen.keys()
        return {each for each in scopes if before.get(each) != self._seen.get(each)}


def test_a_run_that_comes_and_goes_between_two_looks_is_told_of(world: World) -> None:
    worker = world.worker()
    watch = Watch(world)
    dag = world.run(job("a"))
    world.finish(dag, worker, "a")
    world.close(dag)
    assert watch.sees() == {*OF_US, of_run(dag.dag_id)}
    assert watch.sees() == set()


def test_what_ends_earlier_by_its_own_word_is_told_of(world: World) -> None:
    """Instants are of when a transaction began, and another may have been quicker."""
    worker = world.worker()
    dag = world.run(job("a"), job("b"))
    world.finish(dag, worker, "a")
    watch = Watch(world)
    late = world.ids(dag)["b"]
    with writing(world.engine) as connection:
        operators.skip(connection, dag.dag_id, "b", actor="ada", reason="not today")
    at = world.latest(dag)["a"].completed_at - timedelta(milliseconds=1)
    world.change(late, completed_at=at)
    assert watch.sees() == {*OF_US, of_run(dag.dag_id)}


def test_a_new_attempt_of_an_open_run_is_told_of(world: World) -> None:
    dag = world.run(job("a", max_retries=0), job("b"))
    other = world.run(job("a"), day=DAY - timedelta(days=1))
    world.fail_for_good(dag, "a", world.worker())
    watch = Watch(world)
    with writing(world.engine) as connection:
        operators.retry(connection, dag.dag_id, "a", actor="ada")
    seen = watch.sees()
    assert seen >= {*OF_US, of_run(dag.dag_id)}
    assert of_run(other.dag_id) not in seen


@pytest.mark.parametrize("lease", [timedelta(seconds=30), timedelta(minutes=2)])
def test_a_worker_grows_silent_and_then_has_no_lease(world: World, lease: timedelta) -> None:
    world.worker(lease=lease)
    watch = Watch(world)
    began = world.now()
    assert watch.sees(at=began + lease / 4) == set()
    assert watch.sees(at=began + lease * 3 / 4) == {CREW}
    assert watch.sees(at=began + lease) == {CREW}


def test_who_stands_by_is_told_and_when_it_is_silent_and_when_it_ends(world: World) -> None:
    watch = Watch(world)
    lease = timedelta(minutes=1)
    with writing(world.engine) as connection:
        leases.stand_by(connection, "host:7:1", lease=lease)
    assert watch.sees() == {CREW}
    with writing(world.engine) as connection:
        leases.stand_by(connection, "host:7:1", lease=lease)
    assert watch.sees() == set()
    assert watch.sees(at=world.now() + lease) == {CREW}
    with writing(world.engine) as connection:
        leases.end_standby(connection, "host:7:1")
    assert watch.sees() == {CREW}


def test_what_the_scheduler_says_of_the_broker_is_told(world: World) -> None:
    lease = timedelta(minutes=1)
    with writing(world.engine) as connection:
        leases.lead(connection, "beat", "host:7:1", lease=lease)
    watch = Watch(world)
    for lost_at in (world.now(), None):
        with writing(world.engine) as connection:
            leases.lead(connection, "beat", "host:7:1", lease=lease, broker_lost_at=lost_at)
        assert watch.sees() == {CREW}
    assert watch.sees(at=world.now() + lease) == {CREW}
