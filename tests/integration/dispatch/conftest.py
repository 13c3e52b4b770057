"""Real beats and workers on a database and a Redis of the test's own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Row, select

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.persistence import runs
from prometheus.persistence.engine import create_engine, reading, writing
from prometheus.persistence.migrate import upgrade
from prometheus.persistence.tables import dag_runs, job_executions, worker_incarnations
from prometheus.pipelines.loading import load_pipelines
from tests.conftest import StartProcess
from tests.servers import PostgresServer, Process, wait_until

TRIAL = Path(__file__).parent / "trial.py"
SESSION = date(2026, 11, 20)
SHORT_LEASE = {
    "PROMETHEUS__WORKERS__LEASE": "6s",
    "PROMETHEUS__WORKERS__RENEWAL": "1s",
    "PROMETHEUS__SCHEDULER__MAX_WAIT": "1s",
}
"""Settings with which workers are soon given up."""
_TWO_HOURS = timedelta(hours=2)


@dataclass
class Installation:
    """One database, one broker, and the processes that a test starts on them."""

    database_url: str
    redis_url: str
    start_process: StartProcess
    engine: sqlalchemy.Engine
    settings: dict[str, str] = field(default_factory=dict)
    pipelines: Path = TRIAL
    processes: list[Process] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        return {
            "PROMETHEUS__DATABASE__URL": self.database_url,
            "PROMETHEUS__BROKER__URL": self.redis_url,
            # None of its sessions is due: each test makes the runs it wants.
            "PROMETHEUS__PIPELINES__MODULES": str(self.pipelines),
            "PROMETHEUS__SCHEDULER__CREATE_RUNS": "false",
            **self.settings,
        }

    def beat(self) -> Process:
        return self._start("beat", "beat")

    def worker(self, queues: str = "US_EQ", concurrency: int = 2, pool: str = "prefork") -> Process:
        name = f"worker-{uuid.uuid4().hex[:6]}"
        options = ["-n", f"{name}@%h", "-P", pool, "--without-gossip", "--without-mingle"]
        return self._start(name, "worker", "-Q", queues, "-c", str(concurrency), *options)

    def _start(self, name: str, *arguments: str) -> Process:
        command = ("python", "-P", "-m", "workers", *arguments)
        process = self.start_process(*command, env=self.env, name=name)
        self.processes.append(process)
        return process

    def logged(self, event: str) -> bool:
        """Say whether any process has logged an event."""
        return any(event in process.log.read_text() for process in self.processes)

    def make_run(
        self,
        pipeline: str,
        *,
        market: str = "US_EQ",
        parameters: Mapping[str, Any] | None = None,
        session: date = SESSION,
    ) -> str:
        """Write a run that is due at once, as an operator's is."""
        found = load_pipelines(
            [str(self.pipelines)], visibility_timeout=_TWO_HOURS, folder=self.pipelines.parent
        )
        dag = found[pipeline].dag(market, session)
        with writing(self.engine) as connection:
            runs.create_run(
                connection,
                dag,
                opens_at=datetime.combine(session, time(), UTC),
                trigger="operator",
                calendar_version=TradingCalendar(market).version,
                parameters=parameters or {},
                forced=True,
            )
        return dag.dag_id

    def attempts(self, dag_id: str, job_id: str | None = None) -> list[Row[Any]]:
        """Return the executions of a run, or of one of its jobs, in order of attempts."""
        statement = select(job_executions).where(job_executions.c.dag_id == dag_id)
        if job_id is not None:
            statement = statement.where(job_executions.c.job_id == job_id)
        with reading(self.engine) as connection:
            rows = connection.execute(
                statement.order_by(job_executions.c.attempt_number, job_executions.c.job_id)
            )
            return list(rows)

    def statuses(self, dag_id: str) -> dict[str, list[str]]:
        """Return the states of each job's attempts, oldest first."""
        found: dict[str, list[str]] = {}
        for row in self.attempts(dag_id):
            found.setdefault(row.job_id, []).append(row.status)
        return found

    def workers(self) -> list[Row[Any]]:
        """Return the worker processes that there are or were, the oldest first."""
        with reading(self.engine) as connection:
            rows = connection.execute(
                select(worker_incarnations).order_by(worker_incarnations.c.started_at)
            )
            return list(rows)

    def wait_for_two_leases(self) -> None:
        """Wait until the only worker has renewed for two of `SHORT_LEASE`."""
        (before,) = self.workers()
        wait_until(
            lambda: self.workers()[0].renewed_at - before.renewed_at > timedelta(seconds=12),
            timeout=60,
            message="for two leases it is renewed",
        )

    def run_status(self, dag_id: str) -> str:
        with reading(self.engine) as connection:
            return str(
                connection.execute(
                    select(dag_runs.c.status).where(dag_runs.c.dag_id == dag_id)
                ).scalar_one()
            )

    def wait_for_run(self, dag_id: str, status: str, timeout: float = 60) -> None:
        wait_until(
            lambda: self.run_status(dag_id) == status,
            timeout=timeout,
            message=lambda: f"{dag_id} {status}; {self.run_status(dag_id)} {self.statuses(dag_id)}",
        )


def _installation(url: str, redis_url: str, start_process: StartProcess) -> Iterator[Installation]:
    engine = create_engine(url)
    installation = Installation(url, redis_url, start_process, engine)
    yield installation
    # Asked to end in order, each worker would wait for its jobs.
    for process in installation.processes:
        process.kill()
    engine.dispose()


@pytest.fixture
def installation(
    postgresql_url: str, redis_url: str, start_process: StartProcess
) -> Iterator[Installation]:
    """PostgreSQL and the shared Redis."""
    yield from _installation(postgresql_url, redis_url, start_process)


@pytest.fixture
def sqlite_installation(
    sqlite_url: str, redis_url: str, start_process: StartProcess
) -> Iterator[Installation]:
    """SQLite and the shared Redis."""
    yield from _installation(sqlite_url, redis_url, start_process)


@pytest.fixture
def spare_installation(
    spare_postgres: PostgresServer, redis_url: str, start_process: StartProcess
) -> Iterator[tuple[Installation, PostgresServer]]:
    """A PostgreSQL that the test may stop and start, and the shared Redis."""
    url = spare_postgres.url(spare_postgres.create_database())
    upgrade(url)
    for installation in _installation(url, redis_url, start_process):
        yield installation, spare_postgres


@pytest.fixture
def any_installation(
    database_url: str, redis_url: str, start_process: StartProcess
) -> Iterator[Installation]:
    """Once on SQLite and once on PostgreSQL."""
    yield from _installation(database_url, redis_url, start_process)
