"""Who leads, and that a leader which was frozen writes nothing of what it had decided."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import text

from prometheus.dispatch import figures
from prometheus.dispatch.crew import read_crew, read_leader
from prometheus.dispatch.names import LEADERSHIP
from prometheus.dispatch.publisher import Publisher
from prometheus.dispatch.scheduler import Pace
from prometheus.persistence import leases, operators
from prometheus.persistence.engine import reading, writing
from tests.integration.dispatch.conftest import SHORT_LEASE, Installation
from tests.integration.dispatch.schedulers import RecordingBroker, celery_app, make_scheduler
from tests.servers import Gate, Process, RedisServer, is_written, wait_until

FREEZING_BEAT = Path(__file__).parent / "freezing_beat.py"
LEASE = timedelta(seconds=10)


@pytest.mark.promise("P8")
def test_leader_frozen_between_decision_and_claim_writes_nothing_when_it_wakes(
    installation: Installation,
) -> None:
    """What it decided is still possible: only its fence keeps it from writing it."""
    dag_id = installation.make_run("joined")
    beat = _freezing_beat(installation, "decided")
    _writes_nothing_when_it_wakes(installation, beat)
    assert installation.statuses(dag_id) == {
        "left": ["PENDING"],
        "right": ["PENDING"],
        "both": ["PENDING"],
    }


@pytest.mark.slow
@pytest.mark.promise("P8")
@pytest.mark.parametrize("point", ["rescues", "cancels"])
def test_leader_frozen_before_it_ends_an_attempt_leaves_it_as_it_is_when_it_wakes(
    installation: Installation, tmp_path: Path, point: str
) -> None:
    if point == "rescues":
        installation.settings |= SHORT_LEASE
    beat = _freezing_beat(installation, point)
    worker = installation.worker(concurrency=1)
    parameters = {"folder": str(tmp_path), "then": "returns"}
    dag_id = installation.make_run("asked", parameters=parameters)
    wait_until(lambda: is_written(tmp_path / "started-1"), timeout=60, message="attempt 1 runs")
    for process in worker.family():
        process.kill()
    if point == "cancels":
        with writing(installation.engine) as connection:
            operators.cancel(
                connection, dag_id, "ends_when_asked", actor="ann@desk", grace=timedelta(seconds=1)
            )

    _writes_nothing_when_it_wakes(installation, beat)
    assert installation.statuses(dag_id)["ends_when_asked"] == ["RUNNING"]


@pytest.mark.promise("P4")
def test_leader_frozen_inside_its_transaction_loses_it_and_holds_up_nobody(
    installation: Installation,
) -> None:
    beat = _freezing_beat(installation, "claimed")
    beat.wait_for("leading", timeout=60)
    standby = installation.beat()
    standby.wait_for("standing_by", timeout=60)
    dag_id = installation.make_run("joined")
    wait_until(lambda: _is_frozen(beat), timeout=60, message="it claims and freezes")
    frozen_at = time.monotonic()

    wait_until(lambda: "leading" in standby.output(), timeout=15, message="the standby leads")
    print(f"another led {time.monotonic() - frozen_at:.1f} s after the freeze")
    wait_until(
        lambda: installation.statuses(dag_id)["left"] == ["QUEUED"],
        timeout=10,
        message="the standby claims what the frozen one held",
    )
    beat.send(signal.SIGCONT)
    wait_until(lambda: "standing_by" in beat.output(), timeout=60, message="it stands by")
    assert all(len(states) == 1 for states in installation.statuses(dag_id).values())
    assert beat.output().count("database_unavailable") == 1
    assert "database_back" in beat.output()


@pytest.mark.promise("P4")
def test_take_over_within_15_seconds_whoever_of_many_standbys_it_is(
    installation: Installation,
) -> None:
    leader = installation.beat()
    wait_until(lambda: "leading" in leader.output(), timeout=60, message="the first beat leads")
    standbys = [installation.beat() for _ in range(2)]
    for standby in standbys:
        standby.wait_for("standing_by", timeout=60)

    os.kill(leader.pid, signal.SIGKILL)

    killed_at = time.monotonic()
    wait_until(
        lambda: any("leading" in standby.output() for standby in standbys),
        timeout=15,
        message="one of them leads",
    )
    print(f"taken over {time.monotonic() - killed_at:.1f} s after the kill")
    assert sum("leading" in standby.output() for standby in standbys) == 1


def _writes_nothing_when_it_wakes(installation: Installation, beat: Process) -> None:
    wait_until(lambda: _is_frozen(beat), timeout=60, message="it has decided, and freezes")
    wait_until(lambda: _take_lead(installation), timeout=15, message="another takes the lead")
    before = _written(installation)

    beat.send(signal.SIGCONT)

    wait_until(
        lambda: _take_lead(installation) and "lead_lost" in beat.output(),
        timeout=30,
        message="it sees that it leads no more",
    )
    wait_until(
        lambda: _take_lead(installation) and "standing_by" in beat.output(),
        timeout=30,
        message="it stands by",
    )
    assert _written(installation) == before


@pytest.mark.promise("P4")
def test_standby_takes_over_from_a_leader_that_alone_has_lost_redis(
    installation: Installation, spare_redis: RedisServer
) -> None:
    """And not from one that has lost it as everybody has: there is much to do without it."""
    pace = Pace(lease=timedelta(seconds=1), max_wait=timedelta(milliseconds=200))
    with Gate(("127.0.0.1", spare_redis.port)) as gate, ExitStack() as stack:
        schedulers = []
        for url in (spare_redis.url_at(gate.port), spare_redis.url):
            installation.redis_url = url
            app = stack.enter_context(celery_app(installation))
            schedulers.append(
                make_scheduler(installation.engine, Publisher(app), pace=pace, election=True)
            )
        leader, standby = schedulers

        def tick() -> bool:
            for scheduler in schedulers:
                scheduler.tick()
            return standby.totals["ticks"] > 0

        tick()
        gate.shut()
        dag_id = installation.make_run("joined")
        wait_until(tick, timeout=30, message="the standby leads")
        ticks = leader.totals["ticks"]
        wait_until(
            lambda: tick() and {row.publish_count for row in _queued(installation, dag_id)} == {1},
            timeout=30,
            message="it sends what the other had claimed",
        )
        assert leader.totals["ticks"] == ticks  # it has learnt that it does not lead

        spare_redis.stop()
        led, until = standby.totals["ticks"], time.monotonic() + 3

        def both_are_without() -> bool:
            tick()
            return time.monotonic() > until

        wait_until(both_are_without, timeout=60, message="three leases pass")
        assert standby.totals["ticks"] > led
        assert leader.totals["ticks"] == ticks


def test_who_stands_by_is_known_until_it_leads_or_ends(installation: Installation) -> None:
    pace = Pace(lease=timedelta(hours=1))
    first, second, third = (
        make_scheduler(installation.engine, RecordingBroker(), pace=pace, election=True)
        for _ in range(3)
    )

    def standing_by() -> int:
        with reading(installation.engine) as connection:
            return len(read_crew(connection, whole=True).standbys)

    first.tick()
    assert standing_by() == 0
    for scheduler in (second, third, second):
        scheduler.tick()
    assert standing_by() == 2
    first.resign()
    assert standing_by() == 2
    second.tick()
    assert standing_by() == 1
    first.tick()
    assert standing_by() == 2
    for scheduler in (first, third, third):
        scheduler.resign()
    assert standing_by() == 0
    second.tick()
    assert standing_by() == 0


def test_who_led_and_replaces_a_leader_without_redis_does_not_stand_by_any_more(
    installation: Installation,
) -> None:
    """One that was frozen wakes, learns that another leads, and takes the lead in the same tick."""
    pace = Pace(lease=timedelta(hours=1))
    woken = make_scheduler(installation.engine, RecordingBroker(), pace=pace, election=True)
    woken.tick()
    with writing(installation.engine) as connection:
        lost_at = leases.wall_time(connection) - 2 * pace.lease
        leases.lead(connection, LEADERSHIP, "other", lease=pace.lease, instead_of=1)
        leases.lead(connection, LEADERSHIP, "other", lease=pace.lease, broker_lost_at=lost_at)
    woken.tick()
    with reading(installation.engine) as connection:
        crew = read_crew(connection, whole=True)
    assert crew.leader is not None
    assert (crew.leader.epoch, crew.standbys) == (3, ())


def test_what_ticks_did_adds_up_over_all_that_have_led(installation: Installation) -> None:
    """But for the last of each, which nobody keeps any more."""
    broker = RecordingBroker()
    one, other = (make_scheduler(installation.engine, broker, election=True) for _ in range(2))
    installation.make_run("joined")
    kept = []
    for scheduler, ticks in ((one, 3), (other, 2), (one, 4)):
        for _ in range(ticks):
            scheduler.tick()
        # The last was as slow as none that was kept.
        figures.note_tick(scheduler.totals, 2.0)
        scheduler.resign()
        with reading(installation.engine) as connection:
            leader = read_leader(connection)
        assert leader is not None
        buckets, seconds = figures.histogram(leader.figures)
        kept.append((buckets[-1][1], leader.figures["claimed"], leader.figures["sent"]))
        assert seconds > 0
    assert kept == [(2, 2, 2), (3, 2, 2), (6, 2, 2)]


def _queued(installation: Installation, dag_id: str) -> list[Any]:
    return [row for row in installation.attempts(dag_id) if row.status == "QUEUED"]


def _freezing_beat(installation: Installation, point: str) -> Process:
    command = ("python", FREEZING_BEAT, point)
    beat = installation.start_process(*command, env=installation.env, name="freezing-beat")
    installation.processes.append(beat)
    return beat


def _is_frozen(beat: Process) -> bool:
    return psutil.Process(beat.pid).status() == psutil.STATUS_STOPPED


def _take_lead(installation: Installation) -> bool:
    with writing(installation.engine) as connection:
        return leases.lead(connection, LEADERSHIP, "another", lease=LEASE).leads


def _written(installation: Installation) -> list[tuple[object, ...]]:
    """Return what a leader could have changed: which version of each row there is."""
    with reading(installation.engine) as connection:
        return [
            tuple(row)
            for table in ("dag_runs", "job_executions", "market_clock", "worker_incarnations")
            for row in connection.execute(text(f"SELECT ctid::text, xmin::text FROM {table}"))
        ]
