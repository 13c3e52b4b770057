"""That the broker is filled again after whatever it lost, and what waits there stays single."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
from celery import Celery
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.publisher import (
    MARK_FOR,
    MARK_KEY,
    BrokerUnavailableError,
    Mark,
    Publisher,
)
from prometheus.dispatch.scheduler import Pace
from prometheus.orchestration.decisions import Start
from prometheus.orchestration.pipeline import Pipeline
from prometheus.persistence import executions, runs
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.executions import Publication
from prometheus.persistence.tables import job_executions
from tests.integration.dispatch.conftest import Installation
from tests.integration.dispatch.schedulers import RecordingBroker, celery_app, make_scheduler, take
from tests.servers import RedisServer, wait_until

JOBS = 200


class Full(RecordingBroker):
    full = False

    def publish(self, publications: Sequence[Publication]) -> None:
        if self.full:
            raise BrokerUnavailableError("out of memory")
        super().publish(publications)


@pytest.fixture
def app(installation: Installation, spare_redis: RedisServer) -> Iterator[Celery]:
    installation.redis_url = spare_redis.url
    with celery_app(installation) as app:
        yield app


@pytest.mark.promise("P8")
def test_10000_waiting_messages_are_not_doubled_and_come_back_at_once_when_all_are_lost(
    installation: Installation, app: Celery, spare_redis: RedisServer
) -> None:
    _make_runs(installation, 50)
    pace = Pace(
        reconcile_every=timedelta(0), reconcile_after=timedelta(0), ring_again_after=timedelta(0)
    )
    publisher = Publisher(app)
    scheduler = make_scheduler(installation.engine, publisher, pace=pace, election=True)
    scheduler.tick()
    assert scheduler.totals["claimed"] == 10_000
    assert len(publisher.waiting_ids(["US_EQ"])) == 10_000

    for _ in range(3):
        began = time.monotonic()
        assert len(publisher.waiting_ids(["US_EQ"])) == 10_000
        reading = time.monotonic() - began
        scheduler.tick()
        print(f"lists of 10,000 read in {reading:.2f} s, tick {time.monotonic() - began:.2f} s")
    assert _waiting(spare_redis) == 10_000
    assert scheduler.totals["rung"] == 0

    # An unhurried leader: only that the mark is gone tells it.
    unhurried = make_scheduler(installation.engine, publisher)
    unhurried.tick()
    assert _waiting(spare_redis) == 10_000
    with spare_redis.client() as client:
        client.flushall()
    began = time.monotonic()
    unhurried.tick()
    print(f"10,000 sent again in {time.monotonic() - began:.2f} s")
    assert len(publisher.waiting_ids(["US_EQ"])) == 10_000
    assert _waiting(spare_redis) == 10_000
    unhurried.tick()
    assert _waiting(spare_redis) == 10_000


@pytest.mark.parametrize("times_before", [1, 12])
def test_emptied_broker_is_filled_at_the_next_tick_however_often_that_happened(
    installation: Installation, app: Celery, spare_redis: RedisServer, times_before: int
) -> None:
    """Single messages are sent again more and more rarely; these are not."""
    _make_runs(installation, 1)
    scheduler = make_scheduler(installation.engine, Publisher(app))
    scheduler.tick()
    for _ in range(times_before):
        with spare_redis.client() as client:
            client.flushall()
        scheduler.tick()
        assert _waiting(spare_redis) == JOBS


@pytest.mark.promise("P8")
@pytest.mark.parametrize("keeps", [True, False], ids=["with its AOF", "without"])
def test_restarted_broker_holds_each_message_once(installation: Installation, keeps: bool) -> None:
    with RedisServer(*(["--appendonly", "yes", "--appendfsync", "always"] if keeps else [])) as it:
        installation.redis_url = it.url
        with celery_app(installation) as app:
            _make_runs(installation, 1)
            scheduler = make_scheduler(installation.engine, Publisher(app))
            scheduler.tick()
            it.kill()
            scheduler.tick()  # finds nobody
            it.start()

            began = time.monotonic()
            wait_until(
                lambda: scheduler.tick() and _waiting(it) >= JOBS,
                timeout=60,
                message="it is filled",
            )
            print(f"filled {time.monotonic() - began:.1f} s after the restart")
            for _ in range(3):
                scheduler.tick()
            ids = [message.headers["id"] for message in take(app)]
            assert len(ids) == JOBS
            assert set(Counter(ids).values()) == {1}


@pytest.mark.promise("P8")
@pytest.mark.parametrize("before", ["never led", "led", "led and stood still"])
def test_what_a_leader_claimed_and_died_before_it_sent_is_sent_at_once_by_the_next(
    installation: Installation, before: str
) -> None:
    class Deadly(RecordingBroker):
        def publish(self, publications: Sequence[Publication]) -> None:
            raise SystemExit

    lease = Pace(lease=timedelta(seconds=1))
    broker = RecordingBroker()
    survivor = make_scheduler(installation.engine, broker, election=True, pace=lease)
    doomed = make_scheduler(installation.engine, Deadly(), election=True, pace=lease)
    if before != "never led":
        survivor.tick()
    if before == "led":
        survivor.resign()
    wait_until(
        lambda: doomed.tick() and doomed.totals["ticks"], timeout=20, message="the other leads"
    )
    _make_runs(installation, 1)
    with pytest.raises(SystemExit):
        doomed.tick()

    # Nobody waits for its messages to seem lost, which takes half a minute.
    wait_until(
        lambda: survivor.tick() and broker.published, timeout=20, message="the lead has passed on"
    )
    assert len({each.execution_id for each in broker.published}) == JOBS == len(broker.published)
    assert survivor.totals["claimed"] == 0
    survivor.tick()
    assert len(broker.published) == JOBS


@pytest.mark.promise("P4")
@pytest.mark.parametrize("lost", ["the answer to a claim", "the database as it can not send"])
def test_what_a_leader_may_have_claimed_and_did_not_send_is_sent_at_its_next_tick(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    away = OperationalError("COMMIT", None, psycopg.OperationalError("closed"))

    def claim(starts: Sequence[Start], *, to_send: bool) -> list[Publication]:
        claimed = really_claim(starts, to_send=to_send)
        if lost == "the answer to a claim":
            raise away
        broker.full = True
        return claimed

    def forget(_connection: object, _execution_ids: object) -> None:
        raise away

    broker = Full()
    scheduler = make_scheduler(installation.engine, broker)
    really_claim = scheduler._claim
    scheduler.tick()
    _make_runs(installation, 1)
    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "_claim", claim)
        patch.setattr(executions, "forget_messages", forget)
        with pytest.raises(OperationalError):
            scheduler.tick()
    assert broker.published == []

    broker.full = False
    scheduler.tick()
    assert len({each.execution_id for each in broker.published}) == JOBS == len(broker.published)


def test_broker_that_is_away_at_the_first_tick_is_looked_through_when_it_is_back(
    installation: Installation,
) -> None:
    class Broker(RecordingBroker):
        away = False

        def waiting_ids(self, queues: Iterable[str]) -> set[str]:
            if self.away:
                raise BrokerUnavailableError("away")
            return super().waiting_ids(queues)

    _make_runs(installation, 1)
    lost = RecordingBroker()
    make_scheduler(installation.engine, lost).tick()
    broker = Broker()
    broker.mark, broker.away = lost.mark, True
    scheduler = make_scheduler(installation.engine, broker)
    scheduler.tick()
    assert broker.published == []

    broker.away = False
    scheduler.tick()
    assert len(broker.published) == JOBS


def test_messages_that_the_broker_refuses_in_the_midst_of_a_tick_are_sent_by_a_later_one(
    installation: Installation,
) -> None:
    class Fickle(RecordingBroker):
        refuses = 1

        def publish(self, publications: Sequence[Publication]) -> None:
            if self.published and self.refuses:
                self.refuses -= 1
                raise BrokerUnavailableError("out of memory")
            super().publish(publications)

    broker = Fickle()
    scheduler = make_scheduler(installation.engine, broker, pace=Pace(publish_after=timedelta(0)))
    scheduler.tick()
    _make_runs(installation, 3)
    scheduler.tick()
    assert 0 < len(broker.published) < 3 * JOBS
    with reading(installation.engine) as connection:
        sent = connection.execute(
            select(func.count()).where(job_executions.c.published_at.is_not(None))
        ).scalar_one()
    assert sent == len(broker.published)
    scheduler.tick()
    ids = {each.execution_id for each in broker.published}
    assert len(ids) == 3 * JOBS == len(broker.published)


@pytest.mark.slow
@pytest.mark.promise("P4")
def test_single_lost_message_is_back_within_60_seconds_and_the_others_stay_single(
    installation: Installation, app: Celery, spare_redis: RedisServer
) -> None:
    _make_runs(installation, 1)
    scheduler = make_scheduler(installation.engine, Publisher(app))
    scheduler.tick()
    with spare_redis.client() as client:
        assert client.rpop("US_EQ:3") is not None
    assert _waiting(spare_redis) == JOBS - 1

    began = time.monotonic()
    wait_until(
        lambda: scheduler.tick() and _waiting(spare_redis) == JOBS,
        timeout=60,
        interval=1,
        message="it is back",
    )
    print(f"back after {time.monotonic() - began:.1f} s")
    assert len(Publisher(app).waiting_ids(["US_EQ"])) == JOBS


def test_leader_that_could_not_fill_the_broker_leaves_no_mark(installation: Installation) -> None:
    """Else nobody would know, once it can be filled, that it has to be."""

    broker = Full()
    scheduler = make_scheduler(installation.engine, broker)
    _make_runs(installation, 1)
    scheduler.tick()
    broker.published, broker.mark, broker.full = [], None, True

    scheduler.tick()
    assert broker.mark is None

    broker.full = False
    scheduler.tick()
    assert len(broker.published) == JOBS
    assert broker.mark is not None


def test_mark_says_who_had_the_database_when_and_outlives_nobody_by_more_than_a_day(
    installation: Installation, app: Celery, spare_redis: RedisServer
) -> None:
    publisher = Publisher(app)
    assert publisher.read_mark() is None
    scheduler = make_scheduler(installation.engine, publisher, election=True)

    scheduler.tick()

    mark = publisher.read_mark()
    assert mark is not None
    assert mark.epoch == 1
    assert mark.reachable_since is not None
    assert timedelta(0) <= mark.at - mark.reachable_since < timedelta(minutes=1)
    assert datetime.now(UTC) - mark.at < timedelta(minutes=1)
    with spare_redis.client() as client:
        assert 0 < client.ttl(MARK_KEY) <= MARK_FOR.total_seconds()


def test_leader_that_was_frozen_does_not_take_out_the_mark_of_the_next(
    app: Celery, spare_redis: RedisServer
) -> None:
    publisher, at = Publisher(app), datetime(2026, 11, 20, 15, tzinfo=UTC)
    first = Mark(at, "first", 1)
    next_one = Mark(at + timedelta(microseconds=1), "next", 2, given_up=frozenset({"cut-off"}))
    publisher.leave_mark(first)
    publisher.leave_mark(next_one)

    publisher.leave_mark(first)
    assert publisher.read_mark() == next_one

    # A database that was restored counts from an earlier epoch on, at a later time.
    restored = Mark(at + timedelta(seconds=1), "restored", 1)
    publisher.leave_mark(restored)
    assert publisher.read_mark() == restored


def test_mark_of_a_release_that_told_less_is_read(app: Celery, spare_redis: RedisServer) -> None:
    with spare_redis.client() as client:
        client.set(MARK_KEY, '{"at": "2026-11-20T15:00:00+00:00", "owner": "a", "epoch": 2}')
    at = datetime(2026, 11, 20, 15, tzinfo=UTC)
    assert Publisher(app).read_mark() == Mark(at, "a", 2)


@pytest.mark.parametrize("left", ["", "x", "[]", '{"at": 1}', '{"at": "now"}', ["x"]], ids=repr)
def test_mark_that_nobody_can_read_is_replaced_and_stops_nothing(
    installation: Installation, app: Celery, spare_redis: RedisServer, left: str | list[str]
) -> None:
    """As a mark that is missing: what waits nowhere is sent."""
    publisher = Publisher(app)
    scheduler = make_scheduler(installation.engine, publisher)
    with spare_redis.client() as client:
        if isinstance(left, str):
            client.set(MARK_KEY, left)
        else:
            client.rpush(MARK_KEY, *left)
    _make_runs(installation, 1)

    scheduler.tick()

    assert _waiting(spare_redis) == JOBS
    assert publisher.read_mark() is not None


def _make_runs(installation: Installation, count: int) -> None:
    """Write runs of 200 independent jobs each."""
    pipeline = Pipeline("wide", markets=["US_EQ"])
    for number in range(JOBS):
        pipeline.add(f"nowhere:job_{number}")
    sessions = TradingCalendar("US_EQ").trading_days(date(2026, 1, 1), date(2026, 11, 20))
    for session in sessions[:count]:
        with writing(installation.engine) as connection:
            runs.create_run(
                connection,
                pipeline.dag("US_EQ", session),
                opens_at=datetime(2026, 1, 1, tzinfo=UTC),
                trigger="operator",
                calendar_version="test",
                parameters={},
                forced=True,
            )


def _waiting(redis: RedisServer) -> int:
    """Count the messages, in whatever list, doubled or not."""
    with redis.client() as client:
        return sum(client.llen(f"US_EQ{step}") for step in ("", ":3", ":6", ":9"))
