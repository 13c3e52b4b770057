"""The scheduler itself: alone, several at once, stopped and started again."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, func, literal_column, select, update

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch import scheduler as scheduler_module
from prometheus.dispatch.publisher import Publisher
from prometheus.dispatch.scheduler import Pace, Scheduler
from prometheus.orchestration.dag import JobMetadata
from prometheus.orchestration.decisions import Decision, Snapshot, Start, decide
from prometheus.orchestration.planning import session_bounds
from prometheus.persistence import executions, operators, pauses, runs
from prometheus.persistence.clock import Now, read_now
from prometheus.persistence.engine import create_engine, reading, writing
from prometheus.persistence.executions import Attempt, Publication, Started
from prometheus.persistence.tables import dag_runs, job_executions
from tests.integration.dispatch.conftest import TRIAL, Installation
from tests.integration.dispatch.schedulers import (
    RecordingBroker,
    celery_app,
    make_attempts,
    make_scheduler,
    register_worker,
)
from tests.servers import Process, RedisServer, is_written, wait_until


def test_chain_runs_link_after_link_in_the_workers_hands(installation: Installation) -> None:
    installation.beat()
    installation.worker()
    dag_id = installation.make_run("chain")

    installation.wait_for_run(dag_id, "SUCCESS")

    links = sorted(installation.attempts(dag_id), key=lambda row: str(row.job_id))
    gaps = [
        (after.started_at - before.completed_at).total_seconds()
        for before, after in pairwise(links)
    ]
    # The tick comes every 3 s; the worker that finished a link starts the next one itself.
    assert all(gap >= 0 for gap in gaps)
    assert sum(gap < 1 for gap in gaps) == len(gaps)
    assert all(row.publish_count == 1 for row in links)


@pytest.mark.promise("P4")
def test_stopped_beat_and_worker_lose_nothing_and_the_restart_finishes_the_run(
    any_installation: Installation,
) -> None:
    installation = any_installation
    beat, worker = installation.beat(), installation.worker(concurrency=1)
    dag_id = installation.make_run("chain")
    wait_until(
        lambda: any(row.status == "RUNNING" for row in installation.attempts(dag_id)),
        timeout=60,
        message="a link runs",
    )

    os.kill(beat.pid, signal.SIGTERM)
    os.kill(worker.pid, signal.SIGTERM)
    assert beat.wait(timeout=30) == 0
    assert worker.wait(timeout=60) == 0
    left = installation.statuses(dag_id)
    assert not any("RUNNING" in states or "FAILED" in states for states in left.values()), left

    installation.beat()
    installation.worker()
    installation.wait_for_run(dag_id, "SUCCESS")
    assert all(states == ["SUCCESS"] for states in installation.statuses(dag_id).values())


@pytest.mark.promise("P4")
def test_killed_beat_is_replaced_by_its_standby_within_15_seconds(
    installation: Installation,
) -> None:
    first = installation.beat()
    wait_until(lambda: _log(first, "leading"), timeout=60, message="the first beat leads")
    second = installation.beat()
    wait_until(lambda: _log(second, "standing_by"), timeout=60, message="the second stands by")

    os.kill(first.pid, signal.SIGKILL)

    wait_until(lambda: _log(second, "leading"), timeout=15, message="the second beat leads")


def test_stopped_beat_gives_up_the_lead_at_once(installation: Installation) -> None:
    first = installation.beat()
    wait_until(lambda: _log(first, "leading"), timeout=60, message="the first beat leads")
    second = installation.beat()
    wait_until(lambda: _log(second, "standing_by"), timeout=60, message="the second stands by")

    os.kill(first.pid, signal.SIGTERM)

    wait_until(lambda: _log(second, "leading"), timeout=8, message="the second beat leads")


def test_beat_stops_however_many_signals_interrupt_each_other(installation: Installation) -> None:
    beat = installation.beat()
    wait_until(lambda: _log(beat, "leading"), timeout=60, message="the beat leads")

    for _ in range(2_000):
        beat.send(signal.SIGTERM)

    # The last ones may meet an interpreter that has put the default handlers back.
    assert beat.wait(timeout=30) in (0, -signal.SIGTERM)
    standby = installation.beat()
    wait_until(lambda: _log(standby, "leading"), timeout=15, message="another beat leads")


@pytest.mark.promise("P8")
def test_redis_that_hangs_does_not_cost_a_scheduler_its_lead(
    installation: Installation, spare_redis: RedisServer
) -> None:
    """It takes connections and never answers, so each try to send lasts as long as it may."""
    installation.redis_url = spare_redis.url
    markets = ("US_EQ", "EU_EQ", "ASIA_EQ")
    with celery_app(installation) as app:
        leader, standby = (
            make_scheduler(installation.engine, broker, markets=markets, election=True)
            for broker in (Publisher(app), RecordingBroker())
        )
        leader.tick()
        # Each market has messages of its own, and none of them can be sent.
        dag_ids = [installation.make_run("joined", market=market) for market in markets]
        os.kill(spare_redis.pid, signal.SIGSTOP)
        tick = threading.Thread(target=leader.tick, daemon=True)
        tick.start()

        # A tick that lasted longer than the lease would hand the lead over.
        wait_until(
            lambda: standby.tick() and not tick.is_alive(), timeout=30, message="the tick ends"
        )
        assert standby.totals["ticks"] == 0
        assert not any(_sent(installation, dag_id) for dag_id in dag_ids)

        os.kill(spare_redis.pid, signal.SIGCONT)
        wait_until(
            lambda: leader.tick() and all(_sent(installation, each) for each in dag_ids),
            timeout=30,
            message="everything is sent once Redis answers again",
        )


def _sent(installation: Installation, dag_id: str) -> bool:
    """Say whether a message was sent for each execution that was claimed."""
    rows = installation.attempts(dag_id)
    return sorted((row.status, row.publish_count) for row in rows) == [
        ("PENDING", 0),
        ("QUEUED", 1),
        ("QUEUED", 1),
    ]


def _log(process: Any, event: str) -> bool:
    return event in process.log.read_text()


@pytest.mark.promise("P1")
def test_two_schedulers_at_once_start_every_job_exactly_once(installation: Installation) -> None:
    """
    Leadership is off, and both tick from one barrier until all 20 runs are done.

    Chance may let the same one come first each time: then there are more runs.
    """
    engine = installation.engine
    brokers = [RecordingBroker(), RecordingBroker()]
    engines = [create_engine(installation.database_url) for _ in brokers]
    schedulers = [make_scheduler(*pair) for pair in zip(engines, brokers, strict=True)]
    incarnation = register_worker(engine)
    attempts = make_attempts(engine)
    starts: dict[str, int] = {}
    barrier = threading.Barrier(len(schedulers))

    def tick(scheduler: Scheduler) -> None:
        barrier.wait(timeout=60)
        scheduler.tick()

    sessions = [date(2026, 11, day) for day in (16, 17, 18, 19, 20)]
    dag_ids = [
        installation.make_run(pipeline, market=market, session=session)
        for market in ("US_EQ", "EU_EQ")
        for pipeline in ("joined", "chain")
        for session in sessions
    ]
    more = iter([date(2026, 10, day) for day in range(1, 31) if date(2026, 10, day).weekday() < 5])
    for number in range(120):
        # In turn, because the one that reaches the barrier last goes on first.
        order = schedulers if number % 2 else schedulers[::-1]
        threads = [threading.Thread(target=tick, args=[each]) for each in order]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        published = [each for broker in brokers for each in broker.published]
        for publication in published:
            started = attempts.start(
                publication.execution_id, worker="test", incarnation=incarnation
            )
            if isinstance(started, Started):
                starts[publication.execution_id] = starts.get(publication.execution_id, 0) + 1
                attempts.succeed(publication.execution_id, incarnation=incarnation, result=None)
        for broker in brokers:
            broker.published.clear()
        if all(installation.run_status(dag_id) == "SUCCESS" for dag_id in dag_ids):
            if all(scheduler.totals["lost_claims"] for scheduler in schedulers):
                break
            dag_ids.append(installation.make_run("chain", session=next(more)))
    for other in engines:
        other.dispose()

    assert {installation.run_status(dag_id) for dag_id in dag_ids} == {"SUCCESS"}
    for dag_id in dag_ids:
        assert all(states == ["SUCCESS"] for states in installation.statuses(dag_id).values())
    assert set(starts.values()) == {1}
    lost = [scheduler.totals["lost_claims"] for scheduler in schedulers]
    claimed = [scheduler.totals["claimed"] for scheduler in schedulers]
    print(f"claimed {claimed}, lost {lost}")
    assert sum(claimed) == len(starts)
    assert all(count >= 1 for count in lost), f"lost claims: {lost}"


@pytest.mark.slow
def test_two_last_upstreams_finishing_together_start_the_downstream_at_once(
    installation: Installation,
) -> None:
    """200 times: no tick ever happens here, so whatever starts was started by a finisher."""
    engine = installation.engine
    broker = RecordingBroker()
    incarnation = register_worker(engine)
    scheduler = make_scheduler(engine, broker)
    attempts = make_attempts(engine)
    missed = []
    sessions = TradingCalendar("US_EQ").trading_days(date(2026, 1, 1), date(2026, 11, 20))[:200]
    assert len(sessions) == 200
    for session in sessions:
        dag_id = installation.make_run("joined", session=session)
        broker.published.clear()
        scheduler.advance(dag_id)
        upstream = []
        for publication in broker.published:
            started = attempts.start(
                publication.execution_id, worker="test", incarnation=incarnation
            )
            assert isinstance(started, Started)
            upstream.append(started.attempt)
        assert len(upstream) == 2
        barrier = threading.Barrier(2)

        def finish(attempt: Attempt, barrier: threading.Barrier) -> None:
            barrier.wait(timeout=60)
            done = attempts.succeed(
                attempt.execution_id,
                incarnation=incarnation,
                result=None,
                follow=scheduler.decide_after(attempt),
            )
            assert done is not None
            scheduler.advance_after(attempt.dag, attempt.job.job_id, done)

        threads = [threading.Thread(target=finish, args=[attempt, barrier]) for attempt in upstream]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        statuses = installation.statuses(dag_id)
        if statuses["both"] != ["QUEUED"]:
            missed.append((dag_id, statuses))
        assert [each.job_type for each in broker.published].count("both") == 1
    assert missed == []


def test_idle_tick_asks_to_sleep_until_something_is_due(installation: Installation) -> None:
    scheduler = make_scheduler(installation.engine, RecordingBroker())

    assert scheduler.tick() == timedelta(seconds=3)


@pytest.mark.promise("P2")
def test_killed_beat_between_claim_and_publish_is_made_good(installation: Installation) -> None:
    """An execution that is QUEUED and has no message gets one from the next tick."""
    dag_id = installation.make_run("joined")

    class Away(RecordingBroker):
        def publish(self, publications: Sequence[Publication]) -> None:
            raise KeyboardInterrupt  # as abrupt as a process can end without ending this test

    with pytest.raises(KeyboardInterrupt):
        make_scheduler(installation.engine, Away()).advance(dag_id)
    with reading(installation.engine) as connection:
        queued = connection.execute(
            select(func.count()).where(
                job_executions.c.status == "QUEUED", job_executions.c.published_at.is_(None)
            )
        ).scalar_one()
    assert queued == 2

    broker = RecordingBroker()
    scheduler = make_scheduler(installation.engine, broker)
    wait_until(
        lambda: scheduler.tick() and len(broker.published) == 2,
        timeout=30,
        message="both are published",
    )


class StoppedBroker(RecordingBroker):
    """Ends the process that has sent so many batches; knows what was claimed when each was sent."""

    def __init__(self, engine: Engine, stops_after: int) -> None:
        super().__init__()
        self.batches: list[tuple[int, int]] = []
        """Of each its messages, and all that is queued by then."""
        self._engine = engine
        self._stops_after = stops_after

    def publish(self, publications: Sequence[Publication]) -> None:
        super().publish(publications)
        with reading(self._engine) as connection:
            queued = connection.execute(
                select(func.count()).where(job_executions.c.status == "QUEUED")
            ).scalar_one()
        self.batches.append((len(publications), queued))
        if len(self.batches) == self._stops_after:
            raise KeyboardInterrupt


def test_what_can_start_at_once_is_sent_before_the_rest_is_claimed(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_module, "SENT_AT_ONCE", 3)
    sessions = TradingCalendar("US_EQ").trading_days(date(2025, 3, 12), date(2025, 3, 18))
    for session in sessions:
        installation.make_run("joined", session=session)  # of each, two jobs wait for nothing
    broker = StoppedBroker(installation.engine, stops_after=2)
    scheduler = make_scheduler(installation.engine, broker)

    with pytest.raises(KeyboardInterrupt):
        scheduler.advance()

    assert broker.batches == [(3, 3), (3, 6)]
    assert scheduler.advance().claimed == 4
    assert broker.batches == [(3, 3), (3, 6), (3, 9), (1, 10)]
    sent = [publication.execution_id for publication in broker.published]
    assert len(sent) == len({*sent}) == 2 * len(sessions)


@pytest.mark.promise("P8")
def test_claim_from_an_old_snapshot_changes_no_row_of_a_closed_run(
    installation: Installation,
) -> None:
    dag_id = installation.make_run("joined")
    with reading(installation.engine) as connection:
        now = read_now(connection)
        (state,) = runs.read_open_runs(connection, lambda dag: None, dag_id=dag_id)
    bounds = session_bounds(TradingCalendar("US_EQ"), state.dag.as_of_date)
    decisions = decide(Snapshot((state,), {("US_EQ", state.dag.as_of_date): bounds}), now.market_at)
    starts = [decision for decision in decisions if isinstance(decision, Start)]
    with writing(installation.engine) as connection:
        operators.cancel(connection, dag_id, actor="test", grace=timedelta(0))

    with writing(installation.engine) as connection:
        assert executions.claim(connection, starts, read_now(connection)) == []
    assert set(map(tuple, installation.statuses(dag_id).values())) == {("CANCELLED",)}


@pytest.mark.promise("P8")
def test_decision_from_an_old_snapshot_starts_nothing_beside_its_upstreams_new_attempt(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    dag_id = installation.make_run("chain")
    broker = RecordingBroker()
    scheduler = make_scheduler(installation.engine, broker)
    attempts, worker = make_attempts(installation.engine), register_worker(installation.engine)
    scheduler.advance(dag_id)
    (first,) = broker.published
    attempts.start(first.execution_id, worker="test", incarnation=worker)
    attempts.succeed(first.execution_id, incarnation=worker, result=None)

    def decide_and_stand_still(*args: Any, **options: Any) -> tuple[Decision, ...]:
        decisions = decide(*args, **options)
        assert any(isinstance(each, Start) for each in decisions)
        monkeypatch.undo()
        with writing(installation.engine) as connection:
            operators.retry(connection, dag_id, first.job_type, actor="test")
        return decisions

    monkeypatch.setattr(scheduler_module, "decide", decide_and_stand_still)
    assert scheduler.advance(dag_id).lost_claims == 1

    assert broker.published == [first]
    statuses = installation.statuses(dag_id)
    assert statuses.pop(first.job_type) == ["SUCCESS", "PENDING"]
    assert set(map(tuple, statuses.values())) == {("PENDING",)}


@pytest.mark.promise("P6")
def test_one_market_in_trouble_does_not_delay_another(installation: Installation) -> None:
    """The European run asks for a session of which its calendar knows nothing."""
    broken = installation.make_run("joined", market="EU_EQ", session=date(2066, 12, 23))
    healthy = installation.make_run("joined", market="US_EQ")
    broker = RecordingBroker()

    make_scheduler(installation.engine, broker).tick()

    assert {each.dag_id for each in broker.published} == {healthy}
    assert installation.run_status(broken) == "OPEN"


def end(process: Process) -> None:
    process.send(signal.SIGTERM)
    assert process.wait(60) == 0, process.output()


@pytest.mark.slow
@pytest.mark.promise("P6")
def test_market_whose_declaration_has_faults_is_held_alone_until_they_are_mended(
    installation: Installation, tmp_path: Path
) -> None:
    """Whoever is started on the faulty file serves the other markets, and spends no attempt."""
    file = tmp_path / "prometheus.toml"
    file.write_text('[markets.EU_EQ]\npre_open = "soon"\n')
    installation.settings = {
        "PROMETHEUS_CONFIG": str(file),
        "PROMETHEUS__SCHEDULER__RECONCILE_EVERY": "2s",
    }
    beat = installation.beat()
    worker = installation.worker("EU_EQ,US_EQ")
    held = installation.make_run("chain", market="EU_EQ")
    goes_on = installation.make_run("chain", market="US_EQ")
    installation.wait_for_run(goes_on, "SUCCESS")
    assert installation.run_status(held) == "OPEN"
    assert {status for each in installation.statuses(held).values() for status in each} == {
        "PENDING"
    }
    for process in (beat, worker):
        assert "'soon' is no buffer" in process.log.read_text()

    file.write_text('[markets.EU_EQ]\npre_open = "45m"\n')
    end(beat)
    installation.beat()
    # It is told to start what it can not read.
    wait_until(
        lambda: "the sessions of EU_EQ can not be read here" in worker.log.read_text(),
        timeout=60,
        message="the worker refuses",
    )
    end(worker)
    installation.worker("EU_EQ,US_EQ")
    installation.wait_for_run(held, "SUCCESS", timeout=120)
    assert all(each == ["SUCCESS"] for each in installation.statuses(held).values())


def test_paused_market_starts_nothing_and_goes_on_where_it_was(
    installation: Installation, tmp_path: Path
) -> None:
    """What runs goes on; a retry that falls due meanwhile waits as well, and costs nothing more."""
    installation.settings = {"PROMETHEUS__SCHEDULER__MAX_WAIT": "1s"}
    installation.beat()
    installation.worker("EU_EQ,US_EQ")
    runs_on = installation.make_run("retried", parameters={"folder": str(tmp_path)})
    wait_until(lambda: is_written(tmp_path / "started-1"), timeout=60)
    with writing(installation.engine) as connection:
        pauses.pause(connection, market_id="US_EQ", reason="a bad feed", actor="ann")
    (tmp_path / "go-1").touch()
    (tmp_path / "go-2").touch()
    waits = installation.make_run("joined", market="US_EQ")
    goes_on = installation.make_run("chain", market="EU_EQ")
    installation.wait_for_run(goes_on, "SUCCESS")
    # By now the retry has been due for a while: its delay is a second at most.
    assert installation.statuses(runs_on) == {"fails_when_told": ["FAILED", "QUEUED"]}
    assert {each for states in installation.statuses(waits).values() for each in states} == {
        "PENDING"
    }

    with writing(installation.engine) as connection:
        pauses.resume(connection, market_id="US_EQ", actor="ann")
    installation.wait_for_run(runs_on, "SUCCESS")
    installation.wait_for_run(waits, "SUCCESS")
    assert installation.statuses(runs_on) == {"fails_when_told": ["FAILED", "SUCCESS"]}
    assert all(each == ["SUCCESS"] for each in installation.statuses(waits).values())


@pytest.mark.promise("P6")
def test_dead_worker_of_one_market_does_not_delay_another(installation: Installation) -> None:
    installation.beat()
    dead = installation.worker("US_EQ", concurrency=1)
    installation.worker("EU_EQ", concurrency=1)
    wait_until(lambda: len(installation.workers()) == 2, timeout=60, message="both are there")
    dead.send(signal.SIGKILL)
    waits = installation.make_run("chain", market="US_EQ")
    goes_on = installation.make_run("chain", market="EU_EQ")

    installation.wait_for_run(goes_on, "SUCCESS")
    assert installation.run_status(waits) == "OPEN"


def test_row_that_somebody_else_holds_delays_its_own_market_alone(
    installation: Installation,
) -> None:
    """Its run is over and would be closed; the market is the first in order."""
    locked = installation.make_run("joined", market="ASIA_EQ")
    healthy = installation.make_run("joined", market="US_EQ")
    with writing(installation.engine) as connection:
        # Not an operator's any more, so its windows have passed.
        connection.execute(update(dag_runs).where(dag_runs.c.dag_id == locked).values(forced=False))
    broker = RecordingBroker()
    scheduler = make_scheduler(installation.engine, broker, markets=("ASIA_EQ", "US_EQ"))

    with installation.engine.connect() as other, other.begin():
        other.execute(select(func.set_config("idle_in_transaction_session_timeout", "0", True)))
        other.execute(select(dag_runs).where(dag_runs.c.dag_id == locked).with_for_update())
        scheduler.tick()

    assert {each.dag_id for each in broker.published} == {healthy}
    assert installation.run_status(locked) == "OPEN"
    scheduler.tick()
    assert installation.run_status(locked) == "FAILED"


def test_database_whose_clock_is_set_back_is_looked_after_as_before(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader that waited for the old time again would do nothing for an hour."""
    ahead = timedelta(hours=1)

    def read_early(connection: Connection) -> Now:
        now = read_now(connection)
        return replace(now, wall_at=now.wall_at + ahead)

    engine, broker = installation.engine, RecordingBroker()
    pace = Pace(worker_lease=timedelta(0))
    scheduler = make_scheduler(engine, broker, pace=pace)
    register_worker(engine, lease=timedelta(days=1))
    with monkeypatch.context() as patch:
        patch.setattr("prometheus.dispatch.scheduler.read_now", read_early)
        scheduler.tick()
    assert broker.canaries == ["US_EQ"]

    scheduler.tick()
    assert broker.canaries == ["US_EQ"] * 2

    dag_id = installation.make_run("joined")
    scheduler.tick()
    lost = register_worker(engine, lease=timedelta(0))
    (first, _) = broker.published
    make_attempts(engine).start(first.execution_id, worker="test", incarnation=lost)
    wait_until(
        lambda: scheduler.tick() and scheduler.totals["rescued"] == 1,
        timeout=10,
        interval=0.2,
        message=lambda: f"it is rescued: {installation.statuses(dag_id)}",
    )


@pytest.mark.promise("P6")
def test_broken_pipeline_file_does_not_delay_the_others(
    installation: Installation, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(
        "from prometheus import Pipeline\nmine = Pipeline('mine', markets=['NYSE'])\n"
    )
    installation.settings["PROMETHEUS__PIPELINES__MODULES"] = f"{broken},{TRIAL}"

    processes = [installation.beat(), installation.worker()]

    installation.wait_for_run(installation.make_run("joined"), "SUCCESS")
    for process in processes:
        assert f"pipeline_left_out fault={broken}:2: " in process.output().replace('"', "")


def test_pipeline_without_an_enabled_market_is_said_aloud(installation: Installation) -> None:
    installation.settings["PROMETHEUS__MARKETS__ENABLED"] = "XTKS"
    for process in (installation.beat(), installation.worker("XTKS")):
        process.wait_for("no_market_enabled pipeline=joined", timeout=60)


def test_worker_that_could_not_end_a_job_in_time_is_refused(installation: Installation) -> None:
    worker = installation.worker(pool="threads")
    assert worker.wait(timeout=60) != 0
    assert "Start the worker without --pool" in worker.output()


def _waits_for_itself(**changes: object) -> dict[str, Any]:
    left = JobMetadata(job_id="left", job_type="left", market_id="US_EQ", dependencies=("left",))
    return {"jobs": [{**left.to_json(), **changes}]}


@pytest.mark.parametrize(
    "definition",
    [
        pytest.param([], id="list"),
        pytest.param({"jobs": [{"job_id": "left"}]}, id="job without its fields"),
        pytest.param(_waits_for_itself(job_id=["left"]), id="id that is no text"),
        pytest.param(_waits_for_itself(timeout_seconds=1e99), id="too long a time limit"),
        pytest.param(_waits_for_itself(), id="cycle"),
    ],
)
@pytest.mark.promise("P6")
def test_run_that_can_not_be_read_does_not_delay_the_others_of_its_market(
    installation: Installation, definition: object, caplog: pytest.LogCaptureFixture
) -> None:
    unreadable, *healthy = _joined_runs(installation)
    _store_definition(installation, unreadable, definition)
    broker = RecordingBroker()

    make_scheduler(installation.engine, broker).tick()

    assert {each.dag_id for each in broker.published} == set(healthy)
    assert installation.run_status(unreadable) == "OPEN"
    said = [record for record in caplog.records if record.message == "run_unreadable"]
    assert [vars(record)["dag"] for record in said] == [unreadable]


def test_run_whose_definition_is_not_json_does_not_delay_the_others(
    sqlite_installation: Installation,
) -> None:
    """SQLite keeps any text; PostgreSQL takes none that is not JSON."""
    unreadable, *healthy = _joined_runs(sqlite_installation)
    _store_definition(sqlite_installation, unreadable, literal_column("'{\"jobs\": ['"))
    broker = RecordingBroker()

    make_scheduler(sqlite_installation.engine, broker).tick()

    assert {each.dag_id for each in broker.published} == set(healthy)


@pytest.mark.promise("P6")
def test_lost_attempt_of_a_run_that_can_not_be_read_does_not_delay_the_others(
    installation: Installation,
) -> None:
    """It can be neither failed nor tried again before somebody can read its run."""
    unreadable, *healthy = _joined_runs(installation)
    engine, broker = installation.engine, RecordingBroker()
    scheduler = make_scheduler(engine, broker, pace=Pace(worker_lease=timedelta(0)))
    scheduler.advance(unreadable)
    attempts, lost = make_attempts(engine), register_worker(engine, lease=timedelta(0))
    for publication in broker.published:
        attempts.start(publication.execution_id, worker="test", incarnation=lost)
    broker.published.clear()
    _store_definition(installation, unreadable, [])

    scheduler.tick()  # leaves its mark, before which nobody is given up
    scheduler.tick()

    assert {each.dag_id for each in broker.published} == set(healthy)
    assert installation.statuses(unreadable)["left"] == ["RUNNING"]


def _joined_runs(installation: Installation) -> list[str]:
    sessions = (date(2026, 11, day) for day in (18, 17, 19))
    return [installation.make_run("joined", session=session) for session in sessions]


def _store_definition(installation: Installation, dag_id: str, definition: object) -> None:
    with writing(installation.engine) as connection:
        connection.execute(
            update(dag_runs)
            .where(dag_runs.c.dag_id == dag_id)
            # A process parses each definition once, and knows it by its hash.
            .values(definition=definition, definition_hash=uuid.uuid4().hex)
        )
