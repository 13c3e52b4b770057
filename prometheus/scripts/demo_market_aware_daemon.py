"""Let the scheduler tick until all is done, with a real Redis and a real worker, and count.

python -m prometheus.scripts.demo_market_aware_daemon
python -m prometheus.scripts.demo_market_aware_daemon 2012-11-23T18:00Z

It works on a temporary SQLite database, on the sessions whose time it is, or was at the instant
that is given. Nothing of it is left at the end.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import typer

from prometheus.bootstrap import Runtime, make_runtime
from prometheus.cli.options import Instant
from prometheus.cli.stack import Interrupted, Stack, worker_program
from prometheus.configuration import DATABASE_NAME
from prometheus.core.market_state import get_market_state
from prometheus.errors import PrometheusError
from prometheus.orchestration.lifecycle import LIVE, JobStatus
from prometheus.orchestration.planning import SessionRange
from prometheus.persistence import migrate
from prometheus.persistence.clock import read_now, start_replay
from prometheus.persistence.engine import create_engine, reading, writing
from prometheus.persistence.leases import wall_time
from prometheus.persistence.progress import Progress, read_progress
from prometheus.settings import load_settings

MOST_TICKS = 240
"""A slow machine needs half a minute until its worker is there, and more for the jobs."""
PAUSE = timedelta(milliseconds=500)
"""Shorter than the scheduler would wait by itself, so that there is something to see."""
SHOWN = (
    JobStatus.SUCCESS,
    JobStatus.RUNNING,
    JobStatus.FAILED,
    JobStatus.QUEUED,
    JobStatus.PENDING,
)


def prepare(url: str, at: datetime | None) -> None:
    """Make the tables; with an instant, set the market clock to it, at the pace of the wall's."""
    migrate.upgrade(url)
    if at is None:
        return
    engine = create_engine(url)
    around = SessionRange((at - timedelta(days=7)).date(), (at + timedelta(days=7)).date())
    markets = list(load_settings().markets.enabled)
    with writing(engine) as connection:
        start_replay(connection, market_at=at, speed=1.0, only=around, markets=markets)
    engine.dispose()


def tick(runtime: Runtime, since: datetime) -> Progress:
    """Do what a beat does, once, and look at what has come of it."""
    runtime.scheduler.tick()
    with reading(runtime.engine) as connection:
        return read_progress(connection, since=since)


def describe(progress: Progress, markets: Sequence[str]) -> list[str]:
    """Write how many jobs of each market are in which state."""
    lines = []
    for market_id in markets:
        state = get_market_state(market_id, progress.now.market_at)
        runs = progress.of_market(market_id)
        counts = {status: sum(run.counts().get(status, 0) for run in runs) for status in SHOWN}
        numbers = "  ".join(f"{status} {counts[status]}" for status in SHOWN)
        names = ", ".join(run.dag_id for run in runs) or "no session is due"
        lines.append(f"  {market_id:<8} {state:<10}  {numbers}  ({names})")
    return lines


def settled(progress: Progress) -> bool:
    """Say whether only time can change anything: nothing is queued or running."""
    return bool(progress.runs) and not any(run.named(*LIVE) for run in progress.runs)


def ticks(folder: Path, at: datetime | None) -> int:
    """
    Run the demonstration in a folder.

    Returns:
        How many jobs failed.
    """
    url = f"sqlite:///{folder / DATABASE_NAME}"
    prepare(url, at)
    with Stack(folder, database_url=url) as stack:
        settings = load_settings({**os.environ, **stack.environment})
        markets = settings.markets.enabled
        stack.start(worker_program(markets))
        runtime = make_runtime(settings)
        try:
            with reading(runtime.engine) as connection:
                since = wall_time(connection)
                live = read_now(connection).clock.is_live
            print("Ticks of the scheduler, " + ("live." if live else "at the time you gave."))
            shown: list[str] = []
            for number in range(1, MOST_TICKS + 1):
                progress = tick(runtime, since)
                lines = describe(progress, markets)
                if lines != shown:
                    print(f"\ntick {number}, {progress.now.market_at:%Y-%m-%d %H:%M:%S} UTC")
                    print("\n".join(lines))
                    shown = lines
                if settled(progress):
                    break
                stack.pause(PAUSE)
        finally:
            runtime.engine.dispose()
            runtime.app.close()
    if settled(progress):
        print("\nWhat is PENDING waits for its market; everything else is done.")
    else:
        print(f"\nThe demonstration ends after {MOST_TICKS} ticks, though jobs are still at work.")
    return sum(len(run.named(JobStatus.FAILED)) for run in progress.runs)


def main(at: Instant = None) -> None:
    """Show some real ticks of the scheduler, with counts of jobs by state; 1 if a job failed."""
    try:
        with tempfile.TemporaryDirectory(prefix="prometheus-demo-") as folder:
            failed = ticks(Path(folder), at)
    except PrometheusError as error:
        print(f"demo_market_aware_daemon: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except Interrupted as interrupted:
        raise typer.Exit(128 + interrupted.number) from None
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
