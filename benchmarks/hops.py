"""
A process that does with jobs what a child of a worker does with the database, and nothing else.

    python -m benchmarks.hops MARKET

begins on each line of its input, which is a number of chains of 50 jobs in that market, and answers
how many jobs it ended, when it began and ended, and what processor time that took.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from datetime import date, timedelta
from itertools import islice

from benchmarks import jobs
from benchmarks.flows import make_run
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.attempts import Attempts
from prometheus.dispatch.publisher import Mark
from prometheus.dispatch.scheduler import Scheduler
from prometheus.orchestration.pipeline import Pipeline
from prometheus.persistence import leases
from prometheus.persistence.engine import create_engine, writing
from prometheus.persistence.executions import (
    Publication,
    Started,
)

LEASE = timedelta(hours=1)


class Lists:
    """A broker that keeps what is published in this process, and never fails."""

    def __init__(self) -> None:
        self.waiting: deque[Publication] = deque()
        self.mark: Mark | None = None

    def publish(self, publications: Sequence[Publication]) -> None:
        """Take messages in."""
        self.waiting.extend(publications)

    def announce_failures(self, failures: Sequence[Publication]) -> None:
        """Take nothing in: nothing fails here."""
        assert not failures

    def waiting_ids(self, queues: Iterable[str]) -> set[str]:
        """Name what has not been taken."""
        wanted = set(queues)
        return {each.execution_id for each in self.waiting if each.queue in wanted}

    def leave_mark(self, mark: Mark) -> None:
        """Keep the mark."""
        self.mark = mark

    def read_mark(self, *, within: timedelta | None = None) -> Mark | None:  # noqa: ARG002
        """Return it."""
        return self.mark

    def oldest(self, queues: Collection[str]) -> dict[str, bytes | None]:
        """Have nothing there that a canary would wait behind."""
        return dict.fromkeys(queues)

    def send_canaries(self, queues: Collection[str]) -> None:
        """Take them as a worker does, at once."""

    def busy(self, incarnations: Collection[str]) -> set[str]:  # noqa: ARG002
        """Have nobody who is busy."""
        return set()


class Hopper:
    """The database's side of a child of a worker."""

    def __init__(self, url: str, market: str, pipelines: Sequence[Pipeline]) -> None:
        self.engine = create_engine(url)
        self.broker = Lists()
        self.incarnation = str(uuid.uuid4())
        self.attempts = Attempts(self.engine, max_lost=3, worker_lease=LEASE)
        self.scheduler = Scheduler(
            self.engine,
            self.broker,
            self.attempts,
            {each.name: each for each in pipelines},
            markets=frozenset({market}),
            owner=self.incarnation,
        )
        with writing(self.engine) as connection:
            leases.register_worker(
                connection,
                self.incarnation,
                worker=market,
                host="here",
                pid=os.getpid(),
                queues=[market],
                lease=LEASE,
            )

    def work(self) -> int:
        """Run whatever is published, and what follows from it; return how many that was."""
        count = 0
        while self.broker.waiting:
            published = self.broker.waiting.popleft()
            execution_id = published.execution_id
            started = self.attempts.start(
                execution_id,
                worker="here",
                incarnation=self.incarnation,
                like=f"{published.pipeline}.{published.queue}",
            )
            assert isinstance(started, Started), started
            attempt = started.attempt

            done = self.attempts.succeed(
                execution_id,
                incarnation=self.incarnation,
                result=None,
                follow=self.scheduler.decide_after(attempt),
            )
            assert done
            self.scheduler.advance_after(attempt.dag, attempt.job.job_id, done)
            count += 1
        return count


def main() -> None:
    """Run chains, as often as asked."""
    market = sys.argv[1]
    hopper = Hopper(os.environ["BENCH_URL"], market, [jobs.chain])
    calendar = TradingCalendar(market)
    days = iter(calendar.trading_days(date(2015, 1, 5), date(2025, 12, 31)))
    for line in sys.stdin:
        with writing(hopper.engine) as connection:
            sessions = list(islice(days, int(line)))
            for session in sessions:
                make_run(connection, jobs.chain, calendar, session)
        for session in sessions:
            hopper.scheduler.advance(jobs.chain.dag(market, session).dag_id)
        print("ready", flush=True)
        sys.stdin.readline()
        began, spent = time.time(), time.process_time()
        count = hopper.work()
        print(count, began, time.time(), time.process_time() - spent, flush=True)


if __name__ == "__main__":
    main()
