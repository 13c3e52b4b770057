"""The jobs of the simulated pipeline, and what is written for each of them to do."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from prometheus.core.states import MarketState
from prometheus.orchestration.dag import DAG, JobMetadata, JobPriority, WindowRule
from prometheus.orchestration.pipeline import JobOptions, Pipeline

MARKETS = ("US_EQ", "EU_EQ", "ASIA_EQ")
LONG = 25
"""Percent of the jobs that run so long that another attempt could begin meanwhile."""


def _job(*after: str, state: MarketState | None = None, **options: object) -> JobOptions:
    return cast(
        "JobOptions", {"after": after, "required_state": state, "timeout": "10m", **options}
    )


_BEFORE, _DURING, _AFTER, _NIGHT = (
    MarketState.PRE_OPEN,
    MarketState.SESSION,
    MarketState.POST_CLOSE,
    MarketState.OVERNIGHT,
)
_WITH_PHASE = WindowRule.STATE
_FIRST, _LAST = JobPriority.CRITICAL, JobPriority.OPTIONAL

_JOBS: Mapping[str, JobOptions] = {
    "check_feed": _job(priority=_FIRST),
    "load_calendar": _job(max_retries=1),
    "corporate_actions": _job("check_feed", state=_BEFORE, window=_WITH_PHASE),
    "limits": _job("load_calendar", state=_BEFORE, priority=_FIRST),
    "warm_up": _job("limits", state=_BEFORE, priority=_LAST, max_retries=0),
    "opening_prices": _job("check_feed", state=_DURING, priority=_FIRST),
    "watch": _job("opening_prices", state=_DURING, window=_WITH_PHASE),
    "notes": _job(state=_DURING, priority=_LAST),
    "ingest_prices": _job("check_feed", state=_AFTER, priority=_FIRST, max_retries=5),
    "returns": _job("ingest_prices"),
    "volatility": _job("returns", state=_AFTER),
    "factors": _job("returns", window=WindowRule.SESSION),
    "profiles": _job("volatility", "factors", priority=_FIRST),
    "signals": _job("profiles", priority=_FIRST),
    "universe": _job("signals", after_previous=True),
    "book": _job("universe", after_previous=True, priority=_FIRST),
    "report": _job("book", state=_AFTER, priority=_LAST),
    "archive": _job("report", state=_NIGHT, priority=_LAST),
    "clean_up": _job("archive", state=_NIGHT, window=_WITH_PHASE, priority=_LAST),
    "backup": _job(state=_NIGHT, max_retries=2),
}


def make_pipeline() -> Pipeline:
    """Make the pipeline of 20 jobs, with windows in all phases."""
    pipeline = Pipeline("simulated", markets=MARKETS)
    for name, options in _JOBS.items():
        pipeline.add("tests.simulation.jobs:nothing", name=name, **options)
    pipeline.check()
    return pipeline


class Way(StrEnum):
    """How a job fails of its own."""

    RAISES = "raises"
    SLOW = "slow"
    """It runs into its soft limit."""
    DEAF = "deaf"
    """It swallows the soft limit, and its worker kills it at the hard one."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one job of one run does."""

    seconds: float
    failures: int
    """How many attempts fail of their own before one succeeds."""
    way: Way

    @property
    def writes(self) -> bool:
        """Whether it writes something before it returns."""
        return self.seconds < 0.7


class Script:
    """What each job does, by its name and the seed alone."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def part(self, dag_id: str, job: JobMetadata) -> Part:
        """Return what a job does; the same whenever it is asked."""
        dice = zlib.crc32(f"{self._seed}/{dag_id}/{job.job_id}".encode())
        seconds = 0.1 + (dice % 1000) / 1000 * 1.9
        if dice // 1000 % 100 < LONG:
            seconds = 30 + dice % 400  # a long one
        chance = dice // 100_000 % 1000
        failures = 0
        if chance < 5:
            failures = job.max_retries + 1
        elif chance < 45:
            failures = min(1 + chance % 2, job.max_retries)
        way = (Way.RAISES, Way.RAISES, Way.RAISES, Way.SLOW, Way.DEAF)[dice // 7 % 5]
        return Part(seconds, failures, way)

    def fate(self, dag: DAG) -> dict[str, str]:
        """Return how each job of a run must end, if nothing but itself stands in its way."""
        fate: dict[str, str] = {}
        for job_id in dag.topological_order():
            job = dag.jobs[job_id]
            if any(fate[upstream] != "SUCCESS" for upstream in job.dependencies):
                fate[job_id] = "SKIPPED"
            elif self.part(dag.dag_id, job).failures > job.max_retries:
                fate[job_id] = "FAILED"
            else:
                fate[job_id] = "SUCCESS"
        return fate
