"""What an operator keeps from starting."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from prometheus.orchestration.dag import DAG


@dataclass(frozen=True, slots=True)
class Pause:
    """A market, a pipeline, a pipeline in a market, or one job of a run that may not start."""

    pause_id: int
    market_id: str | None
    """``None``: any market."""
    pipeline: str | None
    """``None``: any pipeline."""
    dag_id: str | None
    """Of a single job: its run."""
    job_id: str | None
    reason: str
    author: str
    since: datetime
    """Wall time, aware UTC."""
    until: datetime | None
    """Wall time at which it ends by itself; ``None``: when somebody ends it."""

    def covers(self, dag: DAG, job_id: str) -> bool:
        """Say whether a job of a run is meant."""
        return (
            self.market_id in (None, dag.market_id)
            and self.pipeline in (None, dag.pipeline)
            and self.dag_id in (None, dag.dag_id)
            and self.job_id in (None, job_id)
        )

    def covers_all(self, market_id: str, pipeline: str) -> bool:
        """Say whether all runs of a pipeline in a market are meant."""
        return (
            self.dag_id is None
            and self.market_id in (None, market_id)
            and self.pipeline in (None, pipeline)
        )

    def __str__(self) -> str:
        what = f"{self.job_id} of {self.dag_id}" if self.dag_id else ""
        what = what or " of ".join(filter(None, (self.pipeline, self.market_id)))
        end = f" until {self.until:%Y-%m-%d %H:%M:%S} UTC" if self.until else ""
        begun = f"{self.since:%Y-%m-%d %H:%M:%S} UTC"
        return f"{what}, since {begun}{end} by {self.author} ({self.reason})"
