"""Show what would run: the states of the markets, the DAG of each, and the scheduler's decision.

python -m prometheus.scripts.demo_orchestrator
python -m prometheus.scripts.demo_orchestrator 2012-11-23T18:30Z

Nothing is started and no server is needed: the decision is a function from what is known and the
time to what happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import typer

from prometheus.cli.options import Instant
from prometheus.cli.output import in_words, utc
from prometheus.core.market_state import MarketStatus, describe_market
from prometheus.core.markets import markets
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import PrometheusError
from prometheus.orchestration.dag import DAG, build_market_dag
from prometheus.orchestration.decisions import (
    Hold,
    JobState,
    RunState,
    Snapshot,
    Start,
    decide,
)
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.orchestration.planning import session_bounds
from prometheus.orchestration.windows import SessionBounds


def open_run(market_id: str, at: datetime) -> tuple[DAG, SessionBounds]:
    """
    Build the run that the scheduler would work on: of the last session whose PRE_OPEN has begun.

    Raises:
        HorizonError: the market's sessions are not known at that time.
    """
    calendar = TradingCalendar(market_id)
    around = calendar.sessions_around(at, before=1, after=1)
    begun = [s for s in around if calendar.phases(s.date).pre_open_at <= at] or list(around)
    dag = build_market_dag(market_id, begun[-1].date)
    return dag, session_bounds(calendar, dag.as_of_date)


def waves(dag: DAG, bounds: SessionBounds, at: datetime) -> Iterator[list[str]]:
    """Decide again and again, as if the market stood still and every started job succeeded."""
    status = dict.fromkeys(dag.jobs, JobStatus.PENDING)
    while True:
        started = [d for d in _decide(dag, bounds, status, at) if isinstance(d, Start)]
        if not started:
            return
        yield [f"{start.job.job_id} ({start.job.priority.name})" for start in started]
        status.update((start.job.job_id, JobStatus.SUCCESS) for start in started)


def _decide(
    dag: DAG, bounds: SessionBounds, status: dict[str, JobStatus], at: datetime
) -> tuple[object, ...]:
    jobs = {job_id: JobState(job_id, state) for job_id, state in status.items()}
    run = RunState(dag, jobs, previous=None)
    return decide(Snapshot((run,), {(dag.market_id, dag.as_of_date): bounds}), at)


def describe(status: MarketStatus) -> list[str]:
    """Say what would run in one market."""
    reason = f" ({status.reason})" if status.reason else ""
    lines = [f"{status.market_id:<9} {status.state}{reason}"]
    if status.next_transition is not None:
        at, state = status.next_transition
        lines.append(f"  {state} follows in {in_words(at - status.at)}, {utc(at)}")
    dag, bounds = open_run(status.market_id, status.at)
    lines.append(f"  {dag.dag_id}: {len(dag)} jobs, no fault")
    runnable = dag.get_runnable_jobs(set(), set(), status.state)
    by_state = ", ".join(f"{job.job_type} ({job.priority.name})" for job in runnable) or "nothing"
    lines.append(f"  the state alone would allow: {by_state}")
    found = list(waves(dag, bounds, status.at))
    for number, started in enumerate(found):
        when = "with nothing done yet, the scheduler starts" if number == 0 else "then"
        lines.append(f"  {when}: {', '.join(started)}")
    pending = dict.fromkeys(dag.jobs, JobStatus.PENDING)
    held = [d for d in _decide(dag, bounds, pending, status.at) if isinstance(d, Hold)]
    if not found:
        if held:
            lines.append(f"  the scheduler starts nothing: {held[0].job.job_id} waits, as "
                         f"{held[0].detail}")  # fmt: skip
        else:
            lines.append("  the scheduler starts nothing: the windows of this session have closed")
    return lines


def main(at: Instant = None) -> None:
    """Show what the scheduler would run in every market; 1 if a calendar has no answer."""
    at = at or datetime.now(UTC)
    print(f"{at:%A %Y-%m-%d %H:%M:%S} UTC")
    missing = False
    for market in markets():
        print()
        try:
            print("\n".join(describe(describe_market(market, at))))
        except PrometheusError as error:
            missing = True
            print(f"{market.market_id:<9} not known: {error}")
    if missing:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
