"""A cluster at work, an enemy, and what is left of the work when the enemy has gone."""

from __future__ import annotations

import itertools
import json
import logging
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import psycopg
import sqlalchemy

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.dag import dag_id_for
from prometheus.orchestration.planning import SessionRange
from prometheus.persistence.clock import read_now, start_replay
from prometheus.persistence.engine import writing
from tests.chaos.cluster import Cluster, Shape, make_run
from tests.chaos.enemy import LOSSES, TAKES_A_SERVER, Enemy, Event, Fault, Plan
from tests.chaos.history import Figures, examine
from tests.chaos.jobs import MARKETS
from tests.servers import wait_until

log = logging.getLogger(__name__)

LONG: Mapping[Fault, int] = {
    Fault.WORKER_KILL: 100,
    Fault.WORKER_AGAIN: 100,
    Fault.CHILD_KILL: 40,
    Fault.CHILD_KILL_EARLY: 20,
    Fault.WORKER_STOP: 20,
    Fault.WORKER_FREEZE: 10,
    Fault.WORKER_FREEZE_LONG: 15,
    Fault.WORKER_MAIN_FREEZE: 8,
    Fault.WORKER_SKEW: 15,
    Fault.BEAT_KILL: 100,
    Fault.BEAT_FREEZE: 5,
    Fault.BEAT_FREEZE_LONG: 10,
    Fault.BEAT_SKEW: 8,
    Fault.DATABASE_CUT: 8,
    Fault.DATABASE_HANG: 18,
    Fault.DATABASE_MUTE: 6,
    Fault.DATABASE_SLOW: 4,
    Fault.BROKER_CUT: 6,
    Fault.BROKER_HANG: 12,
    Fault.BROKER_LEADER: 10,
    Fault.BROKER_MUTE: 4,
    Fault.BROKER_SLOW: 3,
    Fault.REDIS_KILL: 16,
    Fault.REDIS_LOSS: 4,
    Fault.REDIS_FLUSH: 5,
    Fault.REDIS_DROP: 5,
    Fault.REDIS_DOUBLE: 10,
    Fault.POSTGRES_FAST: 7,
    Fault.POSTGRES_IMMEDIATE: 7,
    Fault.POSTGRES_KILL: 6,
    Fault.POSTGRES_OUTAGE: 3,
}
"""How often what is done in the long form; the thirty that hang are its partitions."""
LONG_JOBS = 20_000
SHORT_JOBS = 750
JOBS_A_SECOND = 5.0
"""Less than the workers can do."""
DRAINED_WITHIN = 120.0
"""
Wall seconds after the enemy's last deed until all is done, beside what has piled up: 45 until the
attempt of a lost worker is rescued, and its successor's chain of jobs of up to eight seconds; or 60
until a message that was lost is sent again, and the same.
"""
_SINCE = date(2024, 1, 2)
"""First session of the runs that operators make."""
_REPLAYED = date(2026, 3, 6)
"""First session of the runs that the beats make: a Friday, whose windows last until Monday."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How long and how hard."""

    jobs: int
    counts: Mapping[Fault, int]
    seconds: float
    """How long the enemy is at work."""
    worker_lease: float
    leader_lease: float
    settings: Mapping[str, str]
    sessions: int
    """How many sessions of each market pass meanwhile."""


def short_form(jobs: int = SHORT_JOBS) -> Form:
    """At most five minutes, with short leases, and a few faults of every kind."""
    part = jobs / LONG_JOBS
    return Form(
        jobs=jobs,
        counts={fault: max(2, round(1.5 * part * count)) for fault, count in LONG.items()}
        | {Fault.POSTGRES_OUTAGE: 1},
        seconds=jobs / JOBS_A_SECOND,
        worker_lease=9,
        leader_lease=4,
        settings={
            "WORKERS__LEASE": "9s",
            "WORKERS__RENEWAL": "2s",
            "SCHEDULER__LEASE": "4s",
            "SCHEDULER__MAX_WAIT": "1s",
            "SCHEDULER__RECONCILE_EVERY": "10s",
        },
        sessions=1,
    )


def long_form(jobs: int = LONG_JOBS) -> Form:
    """With the product's own leases."""
    part = jobs / LONG_JOBS
    return Form(
        jobs=jobs,
        counts={fault: max(1, round(part * count)) for fault, count in LONG.items()},
        seconds=jobs / JOBS_A_SECOND,
        worker_lease=30,
        leader_lease=10,
        settings={},
        sessions=max(1, round(10 * part)),
    )


def form_of(jobs: int) -> Form:
    """Choose by size: with fewer than 2,000 jobs, no fault would come after a long lease's end."""
    return short_form(jobs) if jobs < 2_000 else long_form(jobs)


class Feeder:
    """Makes runs as operators do, at a pace, whenever PostgreSQL is there."""

    def __init__(self, cluster: Cluster, draw: random.Random) -> None:
        self.made: set[str] = set()
        self.jobs = 0
        self._cluster = cluster
        self._keys = self._all(draw)
        self._next = next(self._keys)

    def feed(self, jobs: float) -> None:
        """Make runs until so many jobs were made in all."""
        try:
            while self.jobs < jobs:
                pipeline, market_id, session = self._next
                # One that exists was made, and the answer lost.
                make_run(
                    self._cluster.engine, self._cluster.pipelines[pipeline], market_id, session
                )
                self.made.add(dag_id_for(pipeline, market_id, session))
                self.jobs += len(self._cluster.pipelines[pipeline].jobs)
                self._next = next(self._keys)
        except sqlalchemy.exc.OperationalError:
            log.info("no run can be made now")

    def burst(self) -> None:
        """Make more at once than the workers can start."""
        self.feed(self.jobs + 50)

    def _all(self, draw: random.Random) -> Iterator[tuple[str, str, date]]:
        """Give pipeline, market and session of each run, every session before the next one."""
        calendars = {market_id: TradingCalendar(market_id) for market_id in MARKETS}
        for day in itertools.count():
            session = _SINCE + timedelta(days=day)
            keys = [
                (pipeline, market_id, session)
                for pipeline in self._cluster.pipelines
                for market_id, calendar in calendars.items()
                if calendar.is_trading_day(session)
            ]
            draw.shuffle(keys)
            yield from keys


class Refills:
    """Watches how long it takes until what Redis has lost is there again."""

    def __init__(self, cluster: Cluster) -> None:
        self.done: list[tuple[Event, float | None]] = []
        self._cluster = cluster
        self._open: dict[int, tuple[Event, set[str]]] = {}
        self._seen = 0
        self._look_at = 0.0

    def watch(self, events: list[Event]) -> None:
        """Look again, now and then."""
        for number, event in enumerate(events[self._seen :], self._seen):
            if event.fault in LOSSES and event.lost:
                self._open[number] = (event, set(event.lost))
            self._seen = number + 1
        if not self._open or time.time() < self._look_at:
            return
        self._look_at = time.time() + 0.5
        servers = self._cluster
        if not (servers.redis.running and servers.postgres.running):
            return
        try:
            there = servers.waiting_ids()
            with servers.connect() as connection:
                queued = {
                    row[0]
                    for row in connection.execute(
                        "SELECT execution_id FROM job_executions WHERE status = 'QUEUED'"
                    )
                }
        except (psycopg.OperationalError, OSError):
            return
        for number, (event, lost) in list(self._open.items()):
            lost &= queued - there
            if event.until is not None and not lost:
                self.done.append((event, time.time() - refilled_since(event, events)))
                del self._open[number]

    def end(self) -> None:
        """Note what was never refilled."""
        self.done += [(event, None) for event, _ in self._open.values()]
        self._open.clear()


def refilled_since(loss: Event, events: Iterable[Event]) -> float:
    """
    Return the moment from which a refill could go on undisturbed.

    That is the end of the loss, or of what came later and took a server away or some of the same
    messages once more.
    """
    return max(
        each.until
        for each in events
        if each.until is not None
        and each.until >= (loss.until or loss.at)
        and (each is loss or each.fault in TAKES_A_SERVER or each.lost & loss.lost)
    )


def run_chaos(seed: str, form: Form, folder: Path) -> tuple[Figures, Enemy]:
    """
    Let an enemy loose on a cluster at work, and examine what is left.

    Args:
        seed: Of the pipelines, the runs and the enemy.
        folder: New; keeps logs and evidence.
    """
    began_at = time.time()
    draw = random.Random(seed)
    shape = Shape(
        beats=3,
        workers=("US_EQ,EU_EQ", "EU_EQ,ASIA_EQ", "ASIA_EQ,US_EQ", "US_EQ,EU_EQ,ASIA_EQ"),
        concurrency=2,
        settings={
            # The enemy hits more often than any job could stand; poison is another test's matter.
            "WORKERS__MAX_LOST": "100",
            **form.settings,
        },
    )
    with Cluster(seed, shape, folder) as cluster:
        sessions = _sessions(form.sessions)
        # Slowly, until the cluster is at work: windows must not pass before anybody looks.
        _start_clock(cluster, sessions, speed=1)
        cluster.start()
        feeder = Feeder(cluster, draw)
        refills = Refills(cluster)
        feeder.feed(60)
        wait_until(lambda: _successes(cluster) >= 10, timeout=90, message="the cluster is at work")
        log.info("at work after %.0f s", time.time() - began_at)
        _start_clock(cluster, sessions, within=form.seconds)
        plan = Plan(
            seconds=form.seconds,
            counts=form.counts,
            worker_lease=form.worker_lease,
            leader_lease=form.leader_lease,
        )
        enemy = Enemy(cluster, plan, draw, before_loss=feeder.burst)
        struck_at = time.time()
        fed_at = 0.0
        while not enemy.done or feeder.jobs < form.jobs:
            enemy.act()
            refills.watch(enemy.events)
            if cluster.postgres.running and time.time() > fed_at:
                fed_at = time.time() + 3  # several at once, so that some wait
                enemy.keep_running()
                feeder.feed((time.time() - struck_at) * JOBS_A_SECOND)
            time.sleep(0.05)
        enemy.relent()
        gone_at = time.time()
        left = _unfinished(cluster)
        log.info("the enemy has gone after %.0f s", time.time() - began_at)
        expected = feeder.made | _planned(cluster, sessions)
        drained_within = DRAINED_WITHIN + left / JOBS_A_SECOND
        # Longer than is allowed: what is judged in the midst of work looks worse than late.
        _drain(cluster, enemy, refills, 1.5 * drained_within)
        refills.end()
        figures = examine(
            cluster,
            enemy.events,
            refills.done,
            expected,
            ended=enemy.ended,
            ended_by_celery=enemy.ended_by_celery,
            gone_at=gone_at,
            drained_within=drained_within,
            worker_lease=form.worker_lease,
            leader_lease=form.leader_lease,
            began_at=began_at,
        )
    return figures, enemy


def save_figures(folder: Path, seed: str, form: Form, figures: Figures, enemy: Enemy) -> None:
    """Write all that was done and measured, and the seed, beside the logs."""
    document = {
        "seed": seed,
        "settings": dict(form.settings),
        "faults": {str(fault): number for fault, number in sorted(enemy.counts.items())},
        **figures.document(),
        "events": [event.document(enemy.began_at) for event in enemy.events],
    }
    (folder / "figures.json").write_text(json.dumps(document, indent=2))


def _drain(cluster: Cluster, enemy: Enemy, refills: Refills, seconds: float) -> None:
    def drained() -> bool:
        enemy.keep_running()
        refills.watch(enemy.events)
        return cluster.count("dag_runs", "status = 'OPEN'") == 0

    try:
        wait_until(drained, timeout=seconds, interval=0.5)
    except AssertionError:
        log.warning("not drained within %g s", seconds)


def _sessions(count: int) -> SessionRange:
    last = _REPLAYED
    for _ in range(count - 1):
        last = max(TradingCalendar(market_id).next_trading_day(last) for market_id in MARKETS)
    return SessionRange(_REPLAYED, last)


def _start_clock(
    cluster: Cluster, sessions: SessionRange, *, speed: float = 0, within: float = 0
) -> None:
    """
    Turn the market clock back to before the first session, or have one that was go on faster.

    Args:
        within: In how many seconds the enemy will have gone; the last window opens earlier. Given
            instead of a speed.
    """
    first = min(
        TradingCalendar(market_id).phases(sessions.first).pre_open_at for market_id in MARKETS
    )
    last = max(
        TradingCalendar(market_id).phases(sessions.last).post_close_ends_at for market_id in MARKETS
    )
    begins_at: datetime = first - timedelta(minutes=30)
    with writing(cluster.engine) as connection:
        now = read_now(connection)
        start_replay(
            connection,
            # From where it is, so that no stamp of this moment lies between two clocks.
            market_at=begins_at if now.clock.is_live else now.market_at,
            speed=speed or (last - begins_at).total_seconds() / (0.9 * within),
            only=sessions,
            markets=list(MARKETS),
        )


def _planned(cluster: Cluster, sessions: SessionRange) -> set[str]:
    """Name the runs that the beats must have made."""
    return {
        dag_id_for(pipeline, market_id, session)
        for pipeline in cluster.pipelines
        for market_id in MARKETS
        for session in TradingCalendar(market_id).trading_days(sessions.first, sessions.last)
    }


def _successes(cluster: Cluster) -> int:
    return cluster.count("job_executions", "status = 'SUCCESS'")


def _unfinished(cluster: Cluster) -> int:
    return cluster.count("job_executions", "completed_at IS NULL")
