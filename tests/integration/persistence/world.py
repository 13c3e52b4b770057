"""Runs, workers and moments for the tests of the store, made through its own functions."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Engine, Row, insert, select, update

from prometheus.orchestration.dag import DAG, JobMetadata, dag_id_for
from prometheus.orchestration.deadlines import Deadline
from prometheus.orchestration.decisions import Start
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.orchestration.windows import Window
from prometheus.persistence import executions, leases, runs
from prometheus.persistence.clock import read_now
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.executions import (
    FailOutcome,
    Failure,
    Publication,
    Refused,
    Started,
)
from prometheus.persistence.tables import audit, dag_runs, job_executions

T = TypeVar("T")

DAY = date(2025, 12, 2)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
BOOM = Failure("ValueError: boom", {"type": "ValueError"})
LOST = Failure("worker lost: host h, pid 1, last seen never", {"type": "orphan"}, lost=True)


def job(job_id: str, *dependencies: str, **options: Any) -> JobMetadata:
    return JobMetadata(
        job_id=job_id, job_type=job_id, market_id="US_EQ", dependencies=dependencies, **options
    )


def dag_of(
    *jobs: JobMetadata,
    pipeline: str = "test",
    day: date = DAY,
    run_timeout: timedelta | None = None,
    deadline: str | None = None,
) -> DAG:
    return DAG(
        dag_id_for(pipeline, "US_EQ", day),
        jobs,
        pipeline=pipeline,
        market_id="US_EQ",
        as_of_date=day,
        run_timeout=run_timeout,
        deadline=Deadline.parse(deadline) if deadline else None,
    )


def at_once(calls: Iterable[Callable[[], T]]) -> list[T]:
    """Call all from threads that leave one barrier together; return what they returned."""
    waiting = list(calls)
    barrier = threading.Barrier(len(waiting))

    def call(function: Callable[[], T]) -> T:
        barrier.wait(30)
        return function()

    with ThreadPoolExecutor(len(waiting)) as pool:
        return [future.result(60) for future in [pool.submit(call, each) for each in waiting]]


class World:
    """One database and what happens in it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def is_postgresql(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    def now(self) -> datetime:
        with reading(self.engine) as connection:
            return leases.wall_time(connection)

    def create(
        self,
        dag: DAG,
        *,
        forced: bool = False,
        missed: str | None = None,
        calendar_version: str = "1",
    ) -> bool:
        with writing(self.engine) as connection:
            return runs.create_run(
                connection,
                dag,
                opens_at=datetime(2025, 12, 2, 13, 30, tzinfo=UTC),
                trigger="schedule",
                calendar_version=calendar_version,
                parameters={"answer": 42},
                forced=forced,
                missed=missed,
            )

    def run(self, *jobs: JobMetadata, **options: Any) -> DAG:
        """Create a run of these jobs; `pipeline` and `day` tell it from others."""
        of_dag = ("pipeline", "day", "run_timeout", "deadline")
        names = {key: options.pop(key) for key in of_dag if key in options}
        dag = dag_of(*(jobs or (job("a"),)), **names)
        assert self.create(dag, **options)
        return dag

    # --- looking -----------------------------------------------------------------------------

    def rows(self, dag_id: str | None = None) -> list[Row[Any]]:
        statement = select(job_executions).order_by(
            job_executions.c.dag_id, job_executions.c.job_id, job_executions.c.attempt_number
        )
        if dag_id is not None:
            statement = statement.where(job_executions.c.dag_id == dag_id)
        with reading(self.engine) as connection:
            return list(connection.execute(statement))

    def row(self, execution_id: str) -> Row[Any]:
        with reading(self.engine) as connection:
            return connection.execute(
                select(job_executions).where(job_executions.c.execution_id == execution_id)
            ).one()

    def latest(self, dag: DAG) -> dict[str, Row[Any]]:
        return {row.job_id: row for row in self.rows(dag.dag_id)}

    def ids(self, dag: DAG) -> dict[str, str]:
        return {name: row.execution_id for name, row in self.latest(dag).items()}

    def statuses(self, dag: DAG) -> dict[str, str]:
        return {name: row.status for name, row in self.latest(dag).items()}

    def run_row(self, dag: DAG) -> Row[Any]:
        with reading(self.engine) as connection:
            return connection.execute(select(dag_runs).where(dag_runs.c.dag_id == dag.dag_id)).one()

    def run_status(self, dag: DAG) -> RunStatus:
        return RunStatus(self.run_row(dag).status)

    def audited(self) -> list[tuple[str, str, str]]:
        with reading(self.engine) as connection:
            rows = connection.execute(select(audit).order_by(audit.c.audit_id))
            return [(row.actor, row.action, row.target) for row in rows]

    # --- acting ------------------------------------------------------------------------------

    def starts(
        self,
        dag: DAG,
        *job_ids: str,
        opens: timedelta = -HOUR,
        closes: timedelta = HOUR,
        forced: bool = False,
    ) -> list[Start]:
        """Decisions to start jobs, with a window around now."""
        now, ids = self.now(), self.ids(dag)
        window = Window(now + opens, now + closes)
        followed = self.run_row(dag).calendar_version
        return [
            Start(dag.dag_id, dag.jobs[name], ids[name], window, forced, followed)
            for name in (job_ids or tuple(dag.jobs))
        ]

    def claim(self, starts: Iterable[Start]) -> list[Publication]:
        with writing(self.engine) as connection:
            return executions.claim(connection, list(starts), read_now(connection))

    def worker(
        self, *, lease: timedelta = 10 * MINUTE, name: str = "w@h", slots: int | None = None
    ) -> str:
        incarnation = str(uuid.uuid4())
        with writing(self.engine) as connection:
            leases.register_worker(
                connection,
                incarnation,
                worker=name,
                host="h",
                pid=1,
                queues=["US_EQ"],
                lease=lease,
                slots=slots,
            )
        return incarnation

    def start(self, execution_id: str, incarnation: str) -> Started | Refused:
        with writing(self.engine) as connection:
            return executions.start(connection, execution_id, worker="w@h", incarnation=incarnation)

    def running(self, dag: DAG, job_id: str, incarnation: str, **window: Any) -> str:
        """Bring a PENDING or QUEUED job to RUNNING; return its execution id."""
        if self.latest(dag)[job_id].status == JobStatus.PENDING:
            assert len(self.claim(self.starts(dag, job_id, **window))) == 1
        execution_id = self.ids(dag)[job_id]
        started = self.start(execution_id, incarnation)
        assert isinstance(started, Started), started
        return execution_id

    def succeed(self, execution_id: str, incarnation: str, result: Any = None) -> str | None:
        with writing(self.engine) as connection:
            return executions.succeed(
                connection, execution_id, incarnation=incarnation, result=result
            )

    def fail(
        self,
        execution_id: str,
        failure: Failure = BOOM,
        *,
        draw: Callable[[int], int] = lambda bound: bound,
        max_lost: int = 3,
        incarnation: str | None = None,
        pid: int | None = None,
    ) -> FailOutcome:
        with writing(self.engine) as connection:
            return executions.fail(
                connection,
                execution_id,
                failure,
                draw_delay=draw,
                max_lost=max_lost,
                incarnation=incarnation,
                pid=pid,
            )

    def end_waiting(self, reasons: Mapping[str, str], status: JobStatus) -> list[str]:
        with writing(self.engine) as connection:
            return runs.end_waiting(connection, reasons, status)

    def close(self, dag: DAG) -> RunStatus | None:
        with writing(self.engine) as connection:
            return runs.close_run(connection, dag.dag_id)

    def finish(self, dag: DAG, incarnation: str, *job_ids: str) -> None:
        """Run jobs to SUCCESS, one after the other."""
        for name in job_ids:
            self.succeed(self.running(dag, name, incarnation), incarnation)

    def fail_for_good(self, dag: DAG, job_id: str, incarnation: str) -> None:
        """Run a job that allows no retry to FAILED."""
        assert dag.jobs[job_id].max_retries == 0
        self.fail(self.running(dag, job_id, incarnation))

    def change(self, execution_id: str, **values: Any) -> None:
        """Write columns past the store's functions, to make a state that takes long to reach."""
        with writing(self.engine) as connection:
            connection.execute(
                update(job_executions)
                .where(job_executions.c.execution_id == execution_id)
                .values(**values)
            )

    def made(self, dag: DAG, ago: timedelta) -> None:
        """Turn the making of a run back."""
        with writing(self.engine) as connection:
            connection.execute(
                update(dag_runs)
                .where(dag_runs.c.dag_id == dag.dag_id)
                .values(created_at=leases.wall_time(connection) - ago)
            )

    def insert(self, **values: Any) -> str:
        """Write an execution past the store's functions."""
        dag = dag_of(job("a"))
        row = runs.new_execution(dag, dag.jobs["a"], **values)
        with writing(self.engine) as connection:
            connection.execute(insert(job_executions).values(**row))
        return str(row["execution_id"])
