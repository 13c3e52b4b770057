"""A beat and a worker that die at every point where it matters, again and again."""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import sqlalchemy
from sqlalchemy import func, select

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.persistence.engine import create_engine, reading
from prometheus.persistence.migrate import upgrade
from prometheus.persistence.tables import dag_runs, job_executions
from tests.chaos import judge
from tests.chaos.cluster import make_run
from tests.chaos.history import SHOWN, check, read_evidence
from tests.chaos.jobs import FOLDER, ORDERS
from tests.chaos.nodes import BEAT, WORKER, Node
from tests.chaos.points import (
    DIE,
    DIE_WITH_ALL,
    POINTS,
    crash,
    obeyed,
    order,
)
from tests.history_triggers import record_changes
from tests.servers import PostgresServer, RedisServer, tail, wait_until

log = logging.getLogger(__name__)

KINDS = ("sqlite", "postgresql")
OPEN_RUNS = 10
"""How many runs are kept at work."""
_MARKET = "US_EQ"
_SINCE = date(2000, 1, 3)


@dataclass(slots=True)
class Crashes:
    """What was done to one kind of database, and what came of it."""

    deaths: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """Of each point."""
    runs: int = 0
    attempts: int = 0
    violations: list[str] = field(default_factory=list)
    seconds: float = 0
    """Of all clusters together."""

    def add(self, other: Crashes) -> None:
        """Add what was done in another cluster, to other points."""
        self.deaths |= other.deaths
        self.runs += other.runs
        self.attempts += other.attempts
        self.violations += other.violations
        self.seconds += other.seconds


def run_crash_points(
    kind: str,
    times: int,
    folder: Path,
    seed: str,
    points: Sequence[tuple[str, str, str]] = POINTS,
) -> Crashes:
    """
    Kill at every point, several times, and see every run to its end.

    Args:
        kind: Of database.
        folder: New; keeps logs and evidence.
    """
    began_at = time.time()
    draw = random.Random(f"{seed}:{kind}")
    crashes = Crashes()
    with _stage(kind, folder) as stage:
        for node in stage.nodes.values():
            node.start()
        try:
            for point in points:
                for number in range(times):
                    # A child alone, or the whole worker; a beat has no children.
                    deed = DIE if number % 2 else DIE_WITH_ALL
                    stage.crash(point, deed, draw.randint(0, 2))
                    crashes.deaths[point] = number + 1
                log.info("%s: %s %s %s, %d times", kind, *point, times)
            wait_until(stage.finished, timeout=120, interval=0.3, message="every run completes")
        except AssertionError as error:
            crashes.violations.append(str(error))
        stage.examine(crashes)
    crashes.seconds = time.time() - began_at
    return crashes


def table_of(results: Mapping[str, Crashes]) -> Iterator[str]:
    """Write how often what died where, by kind of database."""
    yield f"{'died at':<32}" + "".join(f"{kind:>12}" for kind in results)
    points = dict.fromkeys(point for crashes in results.values() for point in crashes.deaths)
    for role, when, what in points:
        counts = (crashes.deaths.get((role, when, what), 0) for crashes in results.values())
        yield f"{role:<8} {when:<7} {what:<15}" + "".join(f"{count:>12}" for count in counts)
    for name, values in {
        "deaths": [sum(crashes.deaths.values()) for crashes in results.values()],
        "runs": [crashes.runs for crashes in results.values()],
        "attempts": [crashes.attempts for crashes in results.values()],
        "seconds": [round(crashes.seconds) for crashes in results.values()],
        "violations": [len(crashes.violations) for crashes in results.values()],
    }.items():
        yield f"{name:<32}" + "".join(f"{value:>12}" for value in values)
    for kind, crashes in results.items():
        yield from (f"{kind}: {each}" for each in crashes.violations[:SHOWN])


@dataclass(slots=True)
class _Stage:
    engine: sqlalchemy.Engine
    nodes: dict[str, Node]
    orders: Path
    evidence: Path
    sessions: Iterator[date]

    def crash(self, point: tuple[str, str, str], deed: str, passes: int) -> None:
        """Have a process die at a point, and start again what is dead."""
        role = point[0]
        node = self.nodes[role]
        before = node.pid
        order(self.orders, *point, deed, passes=passes)

        def died() -> bool:
            self.feed()
            return obeyed(self.orders, *point)

        wait_until(
            died,
            timeout=180,
            interval=0.1,
            message=lambda: f"{' '.join(point)} is passed\n{tail(node.log)}",
        )
        if role == BEAT or deed == DIE_WITH_ALL:
            wait_until(lambda: not node.running, timeout=30, message=f"{node} dies")
            assert node.pid == before
            node.start()

    def feed(self) -> None:
        """Keep some runs open."""
        for _ in range(OPEN_RUNS - self._open()):
            session = next(self.sessions)
            make_run(self.engine, crash, _MARKET, session)

    def finished(self) -> bool:
        return self._open() == 0

    def _open(self) -> int:
        with reading(self.engine) as connection:
            return int(
                connection.execute(
                    select(func.count()).where(dag_runs.c.status == RunStatus.OPEN)
                ).scalar_one()
            )

    def examine(self, crashes: Crashes) -> None:
        evidence = read_evidence(self.evidence)
        report = check(self.engine, evidence)
        with reading(self.engine) as connection:
            by_state = {
                str(row[0]): int(row[1])
                for row in connection.execute(
                    select(dag_runs.c.status, func.count()).group_by(dag_runs.c.status)
                )
            }
            unended = set(
                connection.execute(
                    select(job_executions.c.execution_id).where(
                        job_executions.c.status == JobStatus.SUCCESS
                    )
                ).scalars()
            ) - {each.execution_id for each in evidence if each.what == "ended"}
        crashes.runs = report.counts.runs
        crashes.attempts = report.counts.executions
        crashes.violations += [
            f"{number} runs are {state}" for state, number in by_state.items() if state != "SUCCESS"
        ]
        crashes.violations += [f"{key} succeeded without running to its end" for key in unended]
        crashes.violations += [f"{each.rule}: {each.message}" for each in report.violations]
        crashes.violations += judge.read_complaints(self.evidence.parent)


@contextmanager
def _stage(kind: str, folder: Path) -> Iterator[_Stage]:
    orders, evidence = folder / "orders", folder / "evidence"
    for each in (orders, evidence):
        each.mkdir(parents=True)
    with ExitStack() as stack:
        broker = stack.enter_context(RedisServer("--appendonly", "yes"))
        if kind == "postgresql":
            server = stack.enter_context(PostgresServer())
            url = server.url(server.create_database())
        else:
            url = f"sqlite:///{folder / 'crash.db'}"
        upgrade(url)
        engine = create_engine(url)
        stack.callback(engine.dispose)
        record_changes(engine)
        env = {
            "PROMETHEUS__DATABASE__URL": url,
            "PROMETHEUS__BROKER__URL": broker.url,
            "PROMETHEUS__PIPELINES__MODULES": "tests.chaos.points",
            "PROMETHEUS__MARKETS__ENABLED": _MARKET,
            "PROMETHEUS__SCHEDULER__CREATE_RUNS": "false",
            "PROMETHEUS__SCHEDULER__LEASE": "4s",
            "PROMETHEUS__SCHEDULER__MAX_WAIT": "1s",
            "PROMETHEUS__SCHEDULER__RECONCILE_EVERY": "5s",
            "PROMETHEUS__WORKERS__LEASE": "6s",
            "PROMETHEUS__WORKERS__RENEWAL": "2s",
            "PROMETHEUS__WORKERS__MAX_LOST": "500",
            ORDERS: str(orders),
            FOLDER: str(evidence),
        }
        options = ("-Q", _MARKET, "-c", "2", "-n", "crashes@%h")
        arguments = {
            BEAT: ("beat",),
            WORKER: ("worker", *options, "--without-gossip", "--without-mingle"),
        }
        nodes = {
            role: Node(role, role, arguments[role], env=env, folder=folder) for role in arguments
        }
        for node in nodes.values():
            stack.callback(node.end)
        calendar = TradingCalendar(_MARKET)
        days = (_SINCE + timedelta(days=number) for number in itertools.count())
        yield _Stage(engine, nodes, orders, evidence, filter(calendar.is_trading_day, days))
