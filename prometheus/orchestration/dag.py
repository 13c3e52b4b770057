"""Jobs and the DAG they form: one pipeline, for one market and one session date."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from datetime import date, timedelta
from enum import IntEnum, StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Any

from prometheus.core.market_state import MarketState
from prometheus.core.markets import get_market
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import PipelineError, nearest
from prometheus.orchestration.deadlines import Deadline
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.orchestration.sensor import SensorRule
from prometheus.orchestration.session_rule import EVERY, SessionRule, ShortSessions
from prometheus.orchestration.session_time import SessionTime

__all__ = [
    "DAG",
    "JobMetadata",
    "JobPriority",
    "JobStatus",
    "WindowRule",
    "build_global_dag",
    "build_market_dag",
]

GLOBAL = "GLOBAL"
"""Market id of the DAG that spans markets."""


class JobPriority(IntEnum):
    """Which of several runnable jobs starts first; the lower number does."""

    CRITICAL = 1
    """The day is lost without it."""
    STANDARD = 2
    OPTIONAL = 3
    """Nice to have."""


class WindowRule(StrEnum):
    """When the time in which a job may start ends."""

    SESSION = "session"
    """When the next session's PRE_OPEN begins."""
    STATE = "state"
    """With the phase of the session that the job requires."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobMetadata:
    """What a DAG knows of one job; the function itself stays with the pipeline."""

    job_id: str
    """Unique within its DAG."""
    job_type: str
    """The function's name; the job's name within its pipeline."""
    market_id: str
    dependencies: tuple[str, ...] = ()
    """Job ids within the same DAG that must have succeeded."""
    required_state: MarketState | None = None
    """The phase of the run's own session that opens the job's window; none: when the run opens."""
    start: SessionTime | None = None
    """When its window opens, but not before that phase begins."""
    window: WindowRule = WindowRule.SESSION
    priority: JobPriority = JobPriority.STANDARD
    max_retries: int = 3
    """Further attempts after a failure; lost workers are counted apart."""
    timeout: timedelta = timedelta(hours=1)
    """Soft limit of one attempt; the hard limit is 30 s later."""
    queue_timeout: timedelta | None = None
    """How long an attempt may wait in its queue for a worker; wall time."""
    retry_base: timedelta = timedelta(seconds=60)
    """Bound of the first retry's delay; doubles with each retry."""
    retry_cap: timedelta = timedelta(seconds=900)
    """Largest bound of a retry's delay."""
    after_previous: bool = False
    """
    Wait until the same job of the session before has finished: of the market's previous session on
    which the pipeline runs.
    """

    sensor: SensorRule | None = None
    """How it asks again and gives up, if it is a sensor."""
    deadline: Deadline | None = None
    """By when it must have succeeded; what misses it is told, and goes on."""

    def to_json(self) -> dict[str, Any]:
        """Return the job as JSON values: durations in seconds, enums by name."""
        data: dict[str, Any] = {
            "job_id": self.job_id,
            "job_type": self.job_type,
            "market_id": self.market_id,
            "dependencies": list(self.dependencies),
            "required_state": self.required_state.value if self.required_state else None,
            "window": self.window.value,
            "priority": self.priority.name,
            "max_retries": self.max_retries,
            "timeout_seconds": self.timeout.total_seconds(),
            "retry_base_seconds": self.retry_base.total_seconds(),
            "retry_cap_seconds": self.retry_cap.total_seconds(),
            "after_previous": self.after_previous,
        }
        # Left out where there is none: a new key would make every old run look changed.
        if self.queue_timeout is not None:
            data["queue_timeout_seconds"] = self.queue_timeout.total_seconds()
        if self.start is not None:
            data["start"] = str(self.start)
        if self.sensor is not None:
            data["sensor"] = self.sensor.to_json()
        if self.deadline is not None:
            data["deadline"] = str(self.deadline)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> JobMetadata:
        """Read what `to_json` wrote."""
        state, queue_seconds = data["required_state"], data.get("queue_timeout_seconds")
        start = data.get("start")
        return cls(
            job_id=data["job_id"],
            job_type=data["job_type"],
            market_id=data["market_id"],
            dependencies=tuple(data["dependencies"]),
            required_state=MarketState(state) if state else None,
            start=SessionTime.parse(start) if start else None,
            window=WindowRule(data["window"]),
            priority=JobPriority[data["priority"]],
            max_retries=data["max_retries"],
            timeout=timedelta(seconds=data["timeout_seconds"]),
            queue_timeout=None if queue_seconds is None else timedelta(seconds=queue_seconds),
            retry_base=timedelta(seconds=data["retry_base_seconds"]),
            retry_cap=timedelta(seconds=data["retry_cap_seconds"]),
            after_previous=data["after_previous"],
            sensor=SensorRule.from_json(data["sensor"]) if "sensor" in data else None,
            deadline=Deadline.parse(data["deadline"]) if "deadline" in data else None,
        )


class DAG:
    """The jobs of one pipeline for one market and session date, and what each waits for."""

    def __init__(
        self,
        dag_id: str,
        jobs: Iterable[JobMetadata],
        *,
        pipeline: str,
        market_id: str,
        as_of_date: date,
        run_timeout: timedelta | None = None,
        sessions: SessionRule = EVERY,
        deadline: Deadline | None = None,
    ) -> None:
        """
        Args:
            dag_id: Also the id of the run made of it, for example ``us_eq_daily_2025-12-02``.
            jobs: In any order. Faults are for `validate` to find.
            pipeline: Name of the pipeline.
            market_id: Market whose sessions it follows, or ``GLOBAL``.
            as_of_date: The session's date.
            run_timeout: How long a run of it may take from when it was made; wall time.
            sessions: On which of the market's sessions the pipeline runs.
            deadline: By when a run of it must have succeeded.
        """
        self.dag_id = dag_id
        self.pipeline = pipeline
        self.market_id = market_id
        self.as_of_date = as_of_date
        self.run_timeout = run_timeout
        self.sessions = sessions
        self.deadline = deadline
        listed = tuple(jobs)
        self.jobs: Mapping[str, JobMetadata] = MappingProxyType({job.job_id: job for job in listed})
        count = Counter(job.job_id for job in listed)
        self._twice = sorted(job_id for job_id, times in count.items() if times > 1)

    def alike(self, dag_id: str, market_id: str, as_of_date: date) -> DAG:
        """
        Return another run's DAG of the same jobs.

        Both share them, and all that was worked out from them: nothing kept may follow from the
        session.
        """
        other = copy(self)
        other.dag_id, other.market_id, other.as_of_date = dag_id, market_id, as_of_date
        return other

    def __repr__(self) -> str:
        return f"DAG({self.dag_id!r}, {len(self.jobs)} jobs)"

    def __iter__(self) -> Iterator[JobMetadata]:
        return iter(self.jobs.values())

    def __len__(self) -> int:
        return len(self.jobs)

    @cached_property
    def has_timeouts(self) -> bool:
        """Whether the run, or any of its jobs in its queue, may take too long."""
        return self.run_timeout is not None or any(job.queue_timeout is not None for job in self)

    @cached_property
    def has_deadlines(self) -> bool:
        """Whether the run, or any of its jobs, must have succeeded by some time."""
        return self.deadline is not None or any(job.deadline is not None for job in self)

    @cached_property
    def sensors(self) -> frozenset[str]:
        """The ids of the jobs that are sensors."""
        return frozenset(job.job_id for job in self if job.sensor is not None)

    @cached_property
    def after_previous(self) -> tuple[str, ...]:
        """The ids of the jobs that may have to wait for the market's previous session."""
        return tuple(job.job_id for job in self if job.after_previous)

    def get_runnable_jobs(
        self,
        completed_jobs: Collection[str],
        running_jobs: Collection[str],
        current_market_state: MarketState,
    ) -> list[JobMetadata]:
        """
        List the jobs that could start now, if the market's state of the moment decided alone.

        The scheduler asks `prometheus.orchestration.decisions.decide` instead, which follows the
        run's own session.

        Args:
            completed_jobs: Ids of the jobs that have succeeded.
            running_jobs: Ids of the jobs that are queued or running.
            current_market_state: A job that requires a state runs only in this one.

        Returns:
            Jobs by priority, CRITICAL first, then by id.
        """
        completed, busy = set(completed_jobs), set(running_jobs)
        runnable = [
            job
            for job in self
            if job.job_id not in completed
            and job.job_id not in busy
            and (job.required_state is None or job.required_state == current_market_state)
            and completed.issuperset(job.dependencies)
        ]
        return sorted(runnable, key=start_order)

    def get_dependency_chain(self, job_id: str) -> list[str]:
        """
        List everything that must succeed before a job, and the job itself.

        Returns:
            Job ids, upstream before downstream, ``job_id`` last.

        Raises:
            PipelineError: The DAG has no such job, or it has faults.
        """
        if job_id not in self.jobs:
            raise PipelineError(
                self.dag_id, [f"it has no job {job_id!r}.{nearest(job_id, self.jobs)}"]
            )
        order = self.topological_order()
        wanted = {job_id}
        for candidate in reversed(order):
            if candidate in wanted:
                wanted.update(self.jobs[candidate].dependencies)
        return [candidate for candidate in order if candidate in wanted]

    def downstream_of(self, job_id: str) -> list[str]:
        """Return the ids of all jobs that need ``job_id``, directly or not, in running order."""
        reached = {job_id}
        found = []
        for candidate in self.topological_order():
            if not reached.isdisjoint(self.jobs[candidate].dependencies):
                reached.add(candidate)
                found.append(candidate)
        return found

    def waiting_for(self, job_id: str) -> Sequence[JobMetadata]:
        """Return the jobs that name ``job_id`` among those they need."""
        return self._waiting.get(job_id, ())

    @cached_property
    def _waiting(self) -> Mapping[str, Sequence[JobMetadata]]:
        waiting: dict[str, list[JobMetadata]] = {}
        for job in self:
            for upstream in dict.fromkeys(job.dependencies):
                waiting.setdefault(upstream, []).append(job)
        return waiting

    def topological_order(self) -> tuple[str, ...]:
        """
        Return all job ids, upstream before downstream; ties in the order of definition.

        Raises:
            PipelineError: The DAG has faults.
        """
        order, faults = self._examined
        if faults:
            raise PipelineError(self.dag_id, faults)
        return order

    def validate(self) -> tuple[str, ...]:
        """
        List every fault: jobs defined twice, unknown dependencies, cycles with their path.

        Returns:
            One sentence a fault; empty when the DAG can run. Linear in jobs and edges.
        """
        return self._examined[1]

    @cached_property
    def _examined(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        faults = [f"job {job_id!r} is defined twice" for job_id in self._twice]
        waits_for: dict[str, set[str]] = {}
        downstream: dict[str, list[str]] = {job_id: [] for job_id in self.jobs}
        for job in self:
            waits_for[job.job_id] = set()
            for upstream in job.dependencies:
                if upstream not in self.jobs:
                    # Looking for the nearest of n names takes n steps: not for every fault of many.
                    hint = nearest(upstream, self.jobs) if len(faults) < _MOST_HINTS else ""
                    faults.append(
                        f"job {job.job_id!r} depends on {upstream!r}, which does not exist.{hint}"
                    )
                elif upstream not in waits_for[job.job_id]:
                    waits_for[job.job_id].add(upstream)
                    downstream[upstream].append(job.job_id)
        left = {job_id: len(upstream) for job_id, upstream in waits_for.items()}
        order = [job_id for job_id, count in left.items() if count == 0]
        for job_id in order:  # grows while it is walked: Kahn's algorithm
            for below in downstream[job_id]:
                left[below] -= 1
                if left[below] == 0:
                    order.append(below)
        ordered = set(order)
        stuck = {
            job_id: waits_for[job_id] - ordered for job_id in self.jobs if job_id not in ordered
        }
        faults += sorted(f"cycle: {' → '.join(path)}" for path in _cycles(stuck))
        return tuple(order), tuple(faults)

    def definition(self) -> dict[str, Any]:
        """Return the DAG as JSON values, to be stored with its run."""
        definition: dict[str, Any] = {
            "pipeline": self.pipeline,
            "jobs": [job.to_json() for job in self],
        }
        if self.run_timeout is not None:
            definition["run_timeout_seconds"] = self.run_timeout.total_seconds()
        if self.deadline is not None:
            definition["deadline"] = str(self.deadline)
        if self.sessions.period is not None:
            definition["sessions"] = str(self.sessions)
        if self.sessions.short_sessions is not ShortSessions.RUN:
            definition["short_sessions"] = self.sessions.short_sessions.value
        return definition


def sessions_of(definition: Mapping[str, Any]) -> SessionRule:
    """Read from a definition on which sessions its pipeline runs."""
    short_sessions = ShortSessions(definition.get("short_sessions", ShortSessions.RUN))
    return SessionRule.parse(definition.get("sessions", str(EVERY)), short_sessions)


def definition_hash(definition: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a definition: equal for equal jobs in the same order."""
    canonical = json.dumps(definition, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def start_order(job: JobMetadata) -> tuple[JobPriority, str]:
    """Sort key of runnable jobs: priority, then id."""
    return job.priority, job.job_id


def dag_id_for(pipeline: str, market_id: str, as_of_date: date) -> str:
    """Name the run of a pipeline for a market and session: ``us_eq_daily_2025-12-02``."""
    return f"{market_id.lower()}_{pipeline}_{as_of_date.isoformat()}"


def build_market_dag(market_id: str, as_of_date: date) -> DAG:
    """
    Build the DAG of the standard pipeline ``daily`` for one market.

    Args:
        market_id: A market, for example ``US_EQ``.
        as_of_date: Any date; whether the market has a session on it is not asked here.

    Raises:
        UnknownMarketError: No market has this name.
    """
    from prometheus.orchestration.daily import daily  # it is built of what this module defines

    return daily.dag(get_market(market_id).market_id, as_of_date)


def build_global_dag(as_of_date: date, regional_dags: Iterable[DAG] | Mapping[str, DAG]) -> DAG:
    """
    Join the DAGs of several markets, below one GLOBAL job that waits for all their signals.

    Markets without a session on ``as_of_date`` are left out. Job ids become
    ``us_eq_daily_2025-12-02/run_signals``.

    Args:
        as_of_date: The session date.
        regional_dags: DAGs of markets, or a mapping whose values they are.

    Raises:
        PipelineError: The DAGs have faults, one has no ``run_signals``, or no market is open.
    """
    dags = regional_dags.values() if isinstance(regional_dags, Mapping) else regional_dags
    open_dags = [dag for dag in dags if TradingCalendar(dag.market_id).is_trading_day(as_of_date)]
    dag_id = dag_id_for("daily", GLOBAL, as_of_date)
    faults = [f"{dag.dag_id}: {fault}" for dag in open_dags for fault in dag.validate()]
    faults += [
        f"{dag.dag_id} has no job {_SIGNALS!r}" for dag in open_dags if _SIGNALS not in dag.jobs
    ]
    faults += [
        f"{dag.dag_id} is for {dag.as_of_date.isoformat()}, not {as_of_date.isoformat()}"
        for dag in open_dags
        if dag.as_of_date != as_of_date
    ]
    twice = Counter(dag.dag_id for dag in open_dags)
    faults += [f"{name} is given {times} times" for name, times in twice.items() if times > 1]
    if not open_dags:
        faults.append(f"none of the markets has a session on {as_of_date.isoformat()}")
    if faults:
        raise PipelineError(dag_id, faults)
    jobs = [
        replace(
            job,
            job_id=f"{dag.dag_id}/{job.job_id}",
            dependencies=tuple(f"{dag.dag_id}/{upstream}" for upstream in job.dependencies),
        )
        for dag in open_dags
        for job in dag
    ]
    jobs.append(
        JobMetadata(
            job_id="combine_signals",
            job_type="combine_signals",
            market_id=GLOBAL,
            dependencies=tuple(f"{dag.dag_id}/{_SIGNALS}" for dag in open_dags),
            priority=JobPriority.CRITICAL,
        )
    )
    return DAG(dag_id, jobs, pipeline="daily", market_id=GLOBAL, as_of_date=as_of_date)


_SIGNALS = "run_signals"
_MOST_HINTS = 20
"""So many faults of one DAG name the nearest job."""


def _cycles(stuck: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """
    Yield one cycle of each group of jobs that all wait for one another.

    Args:
        stuck: Job -> those of its dependencies that can never finish.

    Yields:
        A path in running order whose last job is its first again.
    """
    for group in _strong_components(stuck):
        job_id = min(group)
        if len(group) == 1 and job_id not in stuck[job_id]:
            continue  # only waits for a cycle
        path: list[str] = []
        position: dict[str, int] = {}
        # Inside a group every job waits for another of the group: a walk upstream comes round.
        while job_id not in position:
            position[job_id] = len(path)
            path.append(job_id)
            job_id = min(stuck[job_id] & group)
        cycle = path[position[job_id] :]
        yield [job_id, *reversed(cycle)]


def _strong_components(edges: Mapping[str, set[str]]) -> Iterator[set[str]]:
    """Yield the strongly connected components of a graph (Tarjan 1972, without recursion)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    for root in edges:
        if root in index:
            continue
        work = [(root, iter(edges[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, neighbours = work[-1]
            for neighbour in neighbours:
                if neighbour not in index:
                    index[neighbour] = low[neighbour] = len(index)
                    stack.append(neighbour)
                    on_stack.add(neighbour)
                    work.append((neighbour, iter(edges[neighbour])))
                    break
                if neighbour in on_stack:
                    low[node] = min(low[node], index[neighbour])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = _pop(stack, node)
                    on_stack -= component
                    yield component


def _pop(stack: list[str], until: str) -> set[str]:
    """Take from the top of a stack down to and including ``until``."""
    taken = set()
    while True:
        taken.add(stack.pop())
        if until in taken:
            return taken
