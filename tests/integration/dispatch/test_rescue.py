"""From when on a scheduler may give workers up: only when they could have renewed their leases."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from sqlalchemy.exc import OperationalError

from prometheus.core.durations import parse_duration
from prometheus.dispatch.publisher import BrokerUnavailableError, Mark
from prometheus.dispatch.scheduler import Pace, Scheduler
from prometheus.persistence.engine import reading
from prometheus.persistence.executions import Publication
from prometheus.persistence.leases import wall_time
from tests.integration.dispatch.conftest import Installation
from tests.integration.dispatch.schedulers import (
    RecordingBroker,
    make_attempts,
    make_scheduler,
    register_worker,
)
from tests.servers import PostgresServer, wait_until

LEASE = timedelta(seconds=2)
"""A worker's, and so how long the database must have been reachable."""


def test_scheduler_that_has_just_started_gives_nobody_up_for_one_lease(
    installation: Installation,
) -> None:
    dag_id = _lose_an_attempt(installation)
    began_at = _now(installation)

    _tick_until_rescued(_rescuer(installation), installation, dag_id)

    assert _rescued_at(installation, dag_id) - began_at >= LEASE


@pytest.mark.promise("P4")
@pytest.mark.parametrize("lead", ["1s", "6s"])
def test_scheduler_that_has_just_got_the_database_back_gives_nobody_up_for_one_lease(
    spare_installation: tuple[Installation, PostgresServer], lead: str
) -> None:
    """The workers could not reach it either, and renew as soon as they can."""
    installation, server = spare_installation
    scheduler = _rescuer(installation, lease=parse_duration(lead))
    _tick_for(LEASE, installation, scheduler)

    server.stop()
    _fail_to_tick_for(LEASE / 2, scheduler)
    server.start()
    dag_id = _lose_an_attempt(installation)
    back_at = _now(installation)
    _tick_until_rescued(scheduler, installation, dag_id)

    assert _rescued_at(installation, dag_id) - back_at >= LEASE


@pytest.mark.promise("P2")
def test_standby_that_takes_the_lead_first_lets_its_mark_be_seen(
    installation: Installation,
) -> None:
    """A worker that is cut off ends its jobs when it sees that others are not."""
    leader, standby = (_rescuer(installation, election=True) for _ in range(2))
    _tick_for(LEASE, installation, leader, standby)
    assert (leader.totals["ticks"] > 0, standby.totals["ticks"]) == (True, 0)

    leader.resign()
    dag_id = _lose_an_attempt(installation)
    leads_at = _now(installation)
    _tick_until_rescued(standby, installation, dag_id)

    assert _rescued_at(installation, dag_id) - leads_at >= LEASE / 4


@pytest.mark.promise("P2")
def test_leader_that_leads_again_first_lets_its_mark_be_seen(installation: Installation) -> None:
    """What it left before it stood by may have been gone in between."""
    leader, standby = (_rescuer(installation, election=True) for _ in range(2))
    _tick_for(LEASE, installation, leader, standby)
    leader.resign()
    _tick_for(LEASE, installation, standby, leader)
    assert standby.totals["ticks"] > 0

    standby.resign()
    dag_id = _lose_an_attempt(installation)
    leads_at = _now(installation)
    _tick_until_rescued(leader, installation, dag_id)

    assert _rescued_at(installation, dag_id) - leads_at >= LEASE / 4


@pytest.mark.promise("P2")
def test_scheduler_without_a_broker_gives_nobody_up(installation: Installation) -> None:
    """Its mark is not seen, nor could the next attempt be sent."""
    broker = _BrokerThatComesBack()
    scheduler = _rescuer(installation, broker=broker)
    _tick_for(LEASE, installation, scheduler)
    broker.is_away = True
    scheduler.tick()
    dag_id = _lose_an_attempt(installation)
    _tick_for(LEASE / 2, installation, scheduler)
    assert installation.attempts(dag_id)[0].status == "RUNNING"

    broker.is_away = False
    back_at = _now(installation)
    _tick_until_rescued(scheduler, installation, dag_id)

    assert _rescued_at(installation, dag_id) - back_at >= LEASE / 4


@pytest.mark.promise("P2")
def test_mark_counts_from_when_it_is_there(installation: Installation) -> None:
    """A tick may send for long before it is, above all to a broker that was emptied."""
    lease = 4 * LEASE
    lost: list[str] = []
    there_at: list[datetime] = []

    class SlowBroker(RecordingBroker):
        def leave_mark(self, mark: Mark) -> None:
            if self.mark is None:
                # For less than what would count as a gap, in which the database was away.
                until = _now(installation) + 0.3 * lease
                wait_until(lambda: _now(installation) > until, timeout=30)
                lost.append(_lose_an_attempt(installation))
                there_at.append(_now(installation))
            super().leave_mark(mark)

    broker = SlowBroker()
    broker.mark = Mark(_now(installation), "another", 0, None)
    pace = Pace(worker_lease=lease, rescue_every=timedelta(0))
    scheduler = make_scheduler(installation.engine, broker, pace=pace)
    _tick_for(lease, installation, scheduler)
    broker.mark = None
    scheduler.tick()
    _tick_until_rescued(scheduler, installation, lost[0])

    assert _rescued_at(installation, lost[0]) - there_at[0] >= lease / 4


@pytest.mark.promise("P2")
def test_worker_that_is_given_up_is_told_before_its_attempt_is_started_again(
    installation: Installation,
) -> None:
    """It may run on beside the database's outage, and looks every half second; from when it can."""
    told: list[tuple[datetime, str]] = []
    told_for = timedelta(seconds=1)

    class SlowBroker(RecordingBroker):
        def leave_mark(self, mark: Mark) -> None:
            if lost and mark.given_up and not told:
                # For less than what would count as a gap, in which the database was away.
                until = _now(installation) + 1.5 * told_for
                wait_until(lambda: _now(installation) > until, timeout=30)
                attempt = installation.attempts(lost[0])[0]
                assert mark.given_up == {attempt.incarnation}
                told.append((_now(installation), attempt.status))
            super().leave_mark(mark)

    lost: list[str] = []
    lease = 4 * LEASE
    pace = Pace(worker_lease=lease, rescue_every=timedelta(0), told_for=told_for)
    scheduler = make_scheduler(installation.engine, SlowBroker(), pace=pace)
    _tick_for(lease, installation, scheduler)
    lost.append(_lose_an_attempt(installation))
    _tick_until_rescued(scheduler, installation, lost[0])

    at, status = told[0]
    assert status == "RUNNING"
    assert _rescued_at(installation, lost[0]) - at >= told_for


class _BrokerThatComesBack(RecordingBroker):
    is_away = False

    def read_mark(self, *, within: timedelta | None = None) -> Mark | None:
        if self.is_away:
            raise BrokerUnavailableError("connection refused")
        return super().read_mark(within=within)


def test_mark_of_a_scheduler_that_has_just_begun_tells_of_the_other_that_rescues(
    installation: Installation,
) -> None:
    """Without election; a worker that is cut off goes by the mark."""
    broker = RecordingBroker()
    old, new = (make_scheduler(installation.engine, broker) for _ in range(2))
    old.tick()
    first = broker.mark
    new.tick()
    new.tick()
    third = broker.mark

    assert first is not None
    assert third is not None
    assert first.owner != third.owner
    assert third.at > first.at
    assert third.reachable_since == first.reachable_since


def test_leader_whose_tick_takes_long_has_had_the_database_all_the_while(
    installation: Installation,
) -> None:
    """Else one with much to do would rescue nobody: a gap of half a worker's lease is an outage."""

    class SlowBroker(RecordingBroker):
        def publish(self, publications: Sequence[Publication]) -> None:
            until = _now(installation) + timedelta(seconds=2)
            wait_until(lambda: _now(installation) > until, timeout=60)
            super().publish(publications)

    markets = ("US_EQ", "EU_EQ", "ASIA_EQ")
    broker = SlowBroker()
    scheduler = make_scheduler(
        installation.engine,
        broker,
        markets=markets,
        pace=Pace(lease=timedelta(seconds=60), worker_lease=timedelta(seconds=10)),
        election=True,
    )
    scheduler.tick()
    assert broker.mark is not None
    since = broker.mark.reachable_since
    for market in markets:
        installation.make_run("joined", market=market)

    scheduler.tick()  # six seconds, and a gap of five
    scheduler.tick()

    assert len(broker.published) >= len(markets)
    assert broker.mark.reachable_since == since


def _rescuer(
    installation: Installation,
    *,
    lease: timedelta = timedelta(seconds=10),
    election: bool = False,
    broker: RecordingBroker | None = None,
) -> Scheduler:
    pace = Pace(lease=lease, worker_lease=LEASE, rescue_every=timedelta(0))
    broker = broker or RecordingBroker()
    return make_scheduler(installation.engine, broker, pace=pace, election=election)


def _lose_an_attempt(installation: Installation) -> str:
    """Start an attempt on a worker whose lease has run out."""
    dag_id = installation.make_run("held")
    broker = RecordingBroker()
    make_scheduler(installation.engine, broker).advance(dag_id)
    (publication,) = broker.published
    make_attempts(installation.engine).start(
        publication.execution_id,
        worker="test",
        incarnation=register_worker(installation.engine, lease=timedelta(0)),
    )
    assert installation.statuses(dag_id) == {"waits_for_a_file": ["RUNNING"]}
    return dag_id


def _now(installation: Installation) -> datetime:
    with reading(installation.engine) as connection:
        return wall_time(connection)


def _tick_for(length: timedelta, installation: Installation, *schedulers: Scheduler) -> None:
    def tick() -> datetime:
        for scheduler in schedulers:
            scheduler.tick()
        return _now(installation)

    began_at = tick()  # from now on each of them has had the database

    wait_until(lambda: tick() - began_at > length, timeout=30, message=f"{length} pass")


def _fail_to_tick_for(length: timedelta, scheduler: Scheduler) -> None:
    until = time.monotonic() + length.total_seconds()

    def fail_to_tick() -> bool:
        with pytest.raises(OperationalError):
            scheduler.tick()
        return time.monotonic() > until

    wait_until(fail_to_tick, timeout=30, message="the outage lasts long enough")


def _tick_until_rescued(scheduler: Scheduler, installation: Installation, dag_id: str) -> None:
    def tick() -> bool:
        scheduler.tick()
        return bool(installation.attempts(dag_id)[0].status == "FAILED")

    wait_until(tick, timeout=30, message="the attempt is rescued")


def _rescued_at(installation: Installation, dag_id: str) -> datetime:
    at: datetime = installation.attempts(dag_id)[0].completed_at
    return at
