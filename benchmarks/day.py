"""A market day of 100 markets with 500 jobs each, and what several schedulers cost beside it."""

from __future__ import annotations

import bisect
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psutil
from redis import Redis
from sqlalchemy import Engine, delete, func, insert, select, update

from benchmarks import jobs, market_day
from benchmarks.figures import Row, Rows, beside, summary
from benchmarks.flows import make_run
from benchmarks.spent import used_by_family
from prometheus.bootstrap import Runtime, make_runtime
from prometheus.core import markets
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.crew import read_leader
from prometheus.dispatch.publisher import MARK_KEY
from prometheus.dispatch.scheduler import Scheduler
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.orchestration.planning import SessionRange
from prometheus.persistence import clock, migrate
from prometheus.persistence.engine import create_engine, reading, writing
from prometheus.persistence.metadata import database_now
from prometheus.persistence.tables import dag_runs, job_executions, market_clock, run_changes
from prometheus.settings import load_settings
from tests.servers import PostgresServer, Process, RedisServer, tail, wait_until

SESSION = date(2025, 12, 2)
BEGINS = datetime(2025, 12, 1, 16, tzinfo=UTC)
"""Before the first of these sessions opens: those of futures, on the evening before."""
PATIENCE = 600.0
OPEN_RUNS = (10, 25, 50, 100)
CHANGED = (0, 10, 50, 100)
RACERS = (1, 2, 4)
QUIET = 7
"""Ticks of each scheduler that has nothing to do, and of each number of changed runs."""

_e = job_executions.c
_END = (
    update(job_executions)
    .where(_e.status == JobStatus.QUEUED)
    .values(
        status=JobStatus.SUCCESS,
        started_at=database_now(),
        completed_at=database_now(),
        updated_at=database_now(),
    )
)
"""What workers do in the simulated day, all of them at once."""


@dataclass
class Tick:
    """What one tick did, and took."""

    milliseconds: float
    """That passed."""
    spent: float
    """Of a core, by the scheduler, in milliseconds."""
    spent_by_postgres: float
    open_runs: int
    """After it."""
    made: int
    """Runs."""
    claimed: int
    """Jobs, which it has published, too."""


def of_open_runs(most: int) -> str:
    """Name the ticks of the day beside so many open runs."""
    return f"tick of the day, up to {most} runs open"


SPENT = "processor time of it, PostgreSQL's with it"
SCHEDULER, POSTGRES = "scheduler", "PostgreSQL, for it"
DAY_COST = "jobs of the day, claimed and published"
DAY_KEPT = "kept of a job of the day, with its indexes"
BIGGEST = "tick in which most markets open"
BIGGEST_RUNS = f"{BIGGEST}: runs made"
BIGGEST_JOBS = f"{BIGGEST}: jobs claimed and published"
QUIET_TICK = f"tick beside {market_day.COUNT} open runs"
LEADER, STANDBY, UNELECTED = "of the leader", "of a standby", "without election"
RACE = f"1,000 jobs beside {market_day.COUNT} open runs"
LOST = f"{RACE}: claims lost, 2 without election"
MEMORY = f"memory of beat, {market_day.COUNT} open runs"
EMPTY = "no run"


def of_changed(count: int) -> str:
    """Name a tick of the leader beside so many open runs that have changed."""
    return f"{count} of them changed"


def of_racers(count: int) -> str:
    """Name so many schedulers that all do what is due."""
    return f"{count} without election" if count > 1 else "1 scheduler"


def measure_day() -> Rows:
    """
    Simulate a day, and then have several schedulers beside 100 open runs.

    Returns:
        How long ticks take, and what they cost; of quiet ticks what each kind of scheduler costs;
        and of a burst what several at once cost.
    """
    with (
        PostgresServer("--fsync=on", "--full_page_writes=on") as postgres,
        RedisServer("--appendonly", "yes") as redis,
        tempfile.TemporaryDirectory() as temporary,
        ExitStack() as stack,
    ):
        folder = Path(temporary)
        market_day.declare(folder)
        stack.callback(markets.declare, ())
        database = postgres.create_database()
        url = postgres.url(database)
        migrate.upgrade(url)
        environment = {
            "PROMETHEUS__DATABASE__URL": url,
            "PROMETHEUS__BROKER__URL": redis.url,
            "PROMETHEUS__PIPELINES__MODULES": "benchmarks.market_day",
            "PROMETHEUS__MARKETS__ENABLED": ",".join(market_day.MARKETS),
        }
        runtime = make_runtime(load_settings(environment, folder))
        stack.callback(runtime.engine.dispose)
        server = psutil.Process(postgres.pid)
        with redis.client() as client:
            ticks = list(_simulate(runtime, client, server))
        rows = rows_of(ticks)
        with postgres.connect(database) as connection:
            size = connection.execute(
                "SELECT pg_total_relation_size('job_executions')"
                " + pg_total_relation_size('dag_runs')"
            ).fetchone()
        assert size
        count = sum(tick.claimed for tick in ticks)
        rows[DAY_KEPT] = beside("bytes", {"": summary([[size[0] / count]])})
        runtime.scheduler.resign()
        _leave_open(runtime.engine)
        rows |= _measure_several(runtime, server)
        return rows | _measure_memory(environment, folder, postgres)


# --- the day -------------------------------------------------------------------------------------


def _simulate(runtime: Runtime, redis: Redis, server: psutil.Process) -> Iterator[Tick]:
    """Let the clock leap from one thing due to the next, and workers end at once what is queued."""
    with writing(runtime.engine) as connection:
        only = SessionRange(SESSION, SESSION)
        every = list(market_day.MARKETS)
        clock.start_replay(connection, market_at=BEGINS, speed=0, only=only, markets=every)
    scheduler = runtime.scheduler
    deadline = time.monotonic() + PATIENCE
    all_made = 0
    while True:
        assert time.monotonic() < deadline, "the day is over"
        claimed = scheduler.totals["claimed"]
        theirs, own, began = used_by_family(server), time.process_time(), time.perf_counter()
        scheduler.tick()
        took, own = time.perf_counter() - began, time.process_time() - own
        theirs = used_by_family(server) - theirs
        with writing(runtime.engine) as connection:
            made, unfinished = connection.execute(
                select(func.count(), func.count().filter(dag_runs.c.completed_at.is_(None)))
            ).one()
            connection.execute(_END)
        # What workers would have taken; without its mark Redis would be taken for emptied.
        queues = [key for key in redis.scan_iter(count=1_000) if key != MARK_KEY.encode()]
        if queues:
            redis.delete(*queues)
        yield Tick(
            took * 1_000,
            own * 1_000,
            theirs * 1_000,
            unfinished,
            made - all_made,
            scheduler.totals["claimed"] - claimed,
        )
        all_made = made
        if made == market_day.COUNT and not unfinished:
            return


def rows_of(ticks: Sequence[Tick]) -> Rows:
    """Sum a day up."""
    by_open: dict[int, list[Tick]] = defaultdict(list)
    for tick in ticks:
        by_open[OPEN_RUNS[bisect.bisect_left(OPEN_RUNS, tick.open_runs)]].append(tick)
    rows = {of_open_runs(most): _row_of(by_open[most]) for most in OPEN_RUNS if by_open[most]}
    biggest = max(ticks, key=lambda tick: tick.made)
    rows[BIGGEST] = _row_of([biggest])
    claimed = sum(tick.claimed for tick in ticks)
    costs = {
        SCHEDULER: sum(tick.spent for tick in ticks) / claimed,
        POSTGRES: sum(tick.spent_by_postgres for tick in ticks) / claimed,
    }
    rows[DAY_COST] = beside(
        "ms of a core each", {name: summary([[cost]]) for name, cost in costs.items()}
    )
    for what, count in ((BIGGEST_RUNS, biggest.made), (BIGGEST_JOBS, biggest.claimed)):
        rows[what] = beside("in that tick", {"": summary([[count]])})
    return rows


def _row_of(ticks: Sequence[Tick]) -> Row:
    figures = {
        "passed": summary([[tick.milliseconds] for tick in ticks]),
        SPENT: summary([[tick.spent + tick.spent_by_postgres] for tick in ticks]),
    }
    return beside("ms", figures)


# --- several schedulers --------------------------------------------------------------------------


def _leave_open(engine: Engine) -> None:
    """Have 100 open runs that wait for their session, by a clock that goes."""
    with writing(engine) as connection:
        connection.execute(delete(dag_runs))
        connection.execute(
            update(market_clock).values(
                anchor_market_at=None,
                anchor_wall_at=None,
                first_session=None,
                last_session=None,
                markets=None,
                speed=1,
            )
        )
        for market_id in market_day.MARKETS:
            calendar = TradingCalendar(market_id)
            session = calendar.next_trading_day(datetime.now(UTC).date() + timedelta(days=7))
            make_run(connection, market_day.market_day, calendar, session, forced=False)


def _measure_several(runtime: Runtime, server: psutil.Process) -> Rows:
    opened = [create_engine(runtime.settings.database.url.get_secret_value()) for _ in range(6)]
    leader, standby, *others = (
        Scheduler(
            engine,
            runtime.publisher,
            runtime.attempts,
            runtime.pipelines,
            markets=frozenset(market_day.MARKETS),
            owner=f"scheduler {number}",
            election=number < 2,
            create_runs=False,
        )
        for number, engine in enumerate(opened)
    )
    costs: dict[str, list[list[float]]] = defaultdict(list)
    for _ in range(QUIET):
        for name, scheduler in ((LEADER, leader), (STANDBY, standby), (UNELECTED, others[0])):
            costs[name].append(_spent(server, scheduler.tick))
        for count in CHANGED[1:]:
            _change(runtime.engine, count)
            costs[of_changed(count)].append(_spent(server, leader.tick))
    quiet = {name: summary(each[1:]) for name, each in costs.items()}  # the first reads all
    leader.resign()
    standby.resign()
    spent: dict[str, list[list[float]]] = defaultdict(list)
    lost: dict[str, list[list[float]]] = defaultdict(list)
    for _ in range(3):
        for count in RACERS:
            _burst(runtime.engine)
            before = sum(each.totals["lost_claims"] for each in others)
            racing = [threading.Thread(target=each.tick) for each in others[:count]]

            def race(racing: list[threading.Thread] = racing) -> None:
                for each in racing:
                    each.start()
                for each in racing:
                    each.join()

            spent[of_racers(count)].append(_spent(server, race))
            after = sum(each.totals["lost_claims"] for each in others)
            if count > 1:  # alone it loses none
                lost[of_racers(count)].append([float(after - before)])
    for engine in opened:
        engine.dispose()
    races = {name: summary(each) for name, each in spent.items()}
    return {
        QUIET_TICK: beside("ms of a core", quiet),
        RACE: beside("ms of a core", races),
        LOST: beside("", {name: summary(each) for name, each in lost.items()}),
    }


def _spent(server: psutil.Process, work: Callable[[], object]) -> list[float]:
    """Return the milliseconds of a core that this process and PostgreSQL spend on something."""
    theirs, own = used_by_family(server), time.process_time()
    work()
    return [(time.process_time() - own + used_by_family(server) - theirs) * 1_000]


def _change(engine: Engine, count: int) -> None:
    """Note some open runs as written to, as triggers do."""
    some = select(dag_runs.c.dag_id).where(dag_runs.c.completed_at.is_(None)).limit(count)
    with writing(engine) as connection:
        connection.execute(insert(run_changes).from_select(["dag_id"], some))


def _burst(engine: Engine) -> None:
    """Have twenty markets begin fifty jobs each."""
    pipeline = jobs.fifty
    with writing(engine) as connection:
        connection.execute(delete(dag_runs).where(dag_runs.c.pipeline == pipeline.name))
        for market_id in jobs.MARKETS:
            calendar = TradingCalendar(market_id)
            make_run(connection, pipeline, calendar, calendar.previous_trading_day(SESSION))


def _measure_memory(environment: dict[str, str], folder: Path, postgres: PostgresServer) -> Rows:
    empty = postgres.url(postgres.create_database())
    migrate.upgrade(empty)
    beat = {**environment, "PROMETHEUS__SCHEDULER__CREATE_RUNS": "false"}
    figures = {
        name: summary([[_memory_of_beat({**beat, "PROMETHEUS__DATABASE__URL": url}, folder)]])
        for name, url in ((MEMORY, beat["PROMETHEUS__DATABASE__URL"]), (EMPTY, empty))
    }
    return {MEMORY: beside("MB", figures)}


def _memory_of_beat(environment: dict[str, str], folder: Path) -> float:
    """Return the megabytes (PSS) of a beat that has led for a tick."""
    log = folder / "beat.log"
    beat = Process(["prometheus", "beat"], log=log, cwd=folder, env=environment)
    engine = create_engine(environment["PROMETHEUS__DATABASE__URL"])
    try:
        wait_until(
            lambda: _has_ticked(engine, beat.pid) or not beat.running,
            timeout=PATIENCE,
            interval=0.2,
            message=lambda: f"beat has ticked\n{tail(log)}",
        )
        memory: float = psutil.Process(beat.pid).memory_full_info().pss / 1e6
    finally:
        beat.end()
        engine.dispose()
    return memory


def _has_ticked(engine: Engine, pid: int) -> bool:
    """Say whether a process leads and has told of a whole tick, which it does at its next one."""
    with reading(engine) as connection:
        leader = read_leader(connection)
    return leader is not None and f":{pid}:" in leader.owner and leader.ticked_at is not None
