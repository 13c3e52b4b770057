"""
What has ended, counted and timed by this process from the rows of the database.

Whatever process wrote an end, or was killed before it could, it is a row; so nobody else needs to
count, or a port to tell it on. So it is with missed deadlines, and with messages of alerts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import prometheus_client
from prometheus_client import Counter, Histogram, Metric
from sqlalchemy import Connection, Row

from prometheus.orchestration.lifecycle import FINAL, JobStatus, RunStatus, Trigger
from prometheus.persistence import endings
from prometheus.persistence.alerts import Watched, read_watched
from prometheus.persistence.clock import Now
from prometheus.persistence.endings import Waits

# When each of them began: as many names again, which nobody asks for. It holds for the process.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # its own

_OVERLAP = timedelta(minutes=1)
"""
How long after its stamp an end is seen at the latest. It is written when its transaction commits,
and ours wait for no lock, and stand still, longer than five seconds.
"""
_LOOKS_BACK = timedelta(days=7)
"""How long ago what is counted may have ended while no process did."""
_BUCKETS = (
    *(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
    *(60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 28_800, 86_400),
)
"""Seconds: from 10 ms to a day."""
_LOST = {
    "worker lost": "worker_lost",
    "worker cut off": "cut_off",
    "ended without a report by its hard limit": "over_limit",
    "ended without a report": "no_report",
}
"""How the error begins of an attempt that was taken from its worker -> reason; the first counts."""
_DELIVERED = {"sent": "sent", "failed": "given_up", "replaced": "replaced"}
"""State of a message that has ended -> result."""
_RESULTS = tuple(status for status in JobStatus if status in FINAL)
_RUN_RESULTS = tuple(status for status in RunStatus if status is not RunStatus.OPEN)
_PAIR = ("market", "pipeline")


@dataclass(frozen=True, slots=True)
class Count:
    """A counter; docs/metrics.md has the same."""

    name: str
    """Without the prefix."""
    text: str
    label: tuple[str, tuple[str, ...]] | None = None
    """One more than those it is counted of, and all its values."""
    of: tuple[str, ...] = _PAIR

    @property
    def labels(self) -> tuple[str, ...]:
        return (*self.of, self.label[0]) if self.label else self.of


@dataclass(frozen=True, slots=True)
class Time:
    """A histogram of seconds; docs/metrics.md has the same."""

    name: str
    """Without the prefix."""
    text: str
    labels: tuple[str, ...] = _PAIR


_RUNS = Count("runs_total", "Runs that have ended.", ("result", _RUN_RESULTS))
_MISSED = Count(
    "runs_missed_total",
    "Runs that were made too late to run: no scheduler was there while they were due. They are "
    "FAILED runs, too.",
)
_ATTEMPTS = Count("attempts_total", "Attempts that have ended.", ("result", _RESULTS))
_FAILED = Count("jobs_failed_total", "FAILED attempts after which no other follows by itself.")
_LOST_ATTEMPTS = Count(
    "attempts_lost_total",
    "Attempts that were taken from their worker because it, or its report, was lost.",
    ("reason", tuple(_LOST.values())),
)
_POISON = Count(
    "jobs_poisoned_total",
    "Jobs that took as many workers with them as workers.max_lost allows, and one more: they are "
    "not tried again. They have failed for good, too.",
)
_LATE = Count(
    "deadline_missed_total",
    "Runs that have missed a deadline, their own or one of a job; as alerts are raised.",
)
_SENT = Count(
    "alert_deliveries_total",
    "Messages of alerts that are not sent any more: sent were accepted, given_up never were, "
    "replaced were not true any more, or somebody saw to it.",
    ("result", tuple(_DELIVERED.values())),
    of=("channel",),
)
COUNTS = (_RUNS, _MISSED, _ATTEMPTS, _FAILED, _LOST_ATTEMPTS, _POISON, _LATE, _SENT)

_RUN_TIME = Time(
    "run_seconds",
    "From when a run was made, when its first window opens, to its end; not of runs that were "
    "missed or that an operator gave further attempts.",
)
_DELAY = Time(
    "schedule_delay_seconds",
    "From the opening of its window to its start, of first attempts that wait for no other job.",
)
_WAIT = Time(
    "attempt_wait_seconds",
    "From the opening of its window to when it was queued, of first attempts: it waited for other "
    "jobs, or for the scheduler.",
)
_GAP = Time(
    "dependency_gap_seconds",
    "From the end of the last job that it waited for to when it was queued.",
)
_QUEUE = Time("attempt_queue_seconds", "From when an attempt was queued and due to its start.")
_RUN = Time("attempt_run_seconds", "From an attempt's start to its end.")
TIMES = (_RUN_TIME, _DELAY, _WAIT, _GAP, _QUEUE, _RUN)


class Tally:
    """
    Counters of what ends from the first look on, and since there was none to look.

    A run that ends and is opened again between two looks has not ended.
    """

    def __init__(self, prefix: str) -> None:
        self._counters = {
            count: Counter(f"{prefix}_{count.name}", count.text, count.labels, registry=None)
            for count in COUNTS
        }
        self._histograms = {
            time: Histogram(
                *(f"{prefix}_{time.name}", time.text, time.labels),
                unit="seconds",
                registry=None,
                buckets=_BUCKETS,
            )
            for time in TIMES
        }
        self._pairs: set[tuple[str, str]] = set()
        self._channels: set[str] = set()
        self._since: datetime | None = None
        """Wall time: what ended by then has been counted, or had ended before the first look."""
        self._seen: set[str] = set()
        """Attempts that ended after it, and have been counted."""
        self._ends: dict[str, datetime] = {}
        """Their runs that have been counted -> when they ended."""
        self._open: set[str] = set()
        """Runs that were open."""
        self._waits: dict[str, Mapping[str, Waits]] = {}
        self._told: set[tuple[str, int, datetime]] = set()
        """Alerts and messages that are newer than it, and have been counted."""

    def families(self) -> Iterator[Metric]:
        """Tell what has been counted."""
        for family in (*self._counters.values(), *self._histograms.values()):
            yield from family.collect()

    def begin(self, market_id: str, pipeline: str) -> None:
        """Tell zeros of a pipeline, so that the first of anything is seen as a growth."""
        if (market_id, pipeline) in self._pairs:
            return
        self._pairs.add((market_id, pipeline))
        self._begin(_PAIR, market_id, pipeline)
        for histogram in self._histograms.values():
            histogram.labels(market_id, pipeline)

    def begin_channel(self, channel: str) -> None:
        """Tell zeros of a channel, likewise."""
        if channel not in self._channels:
            self._channels.add(channel)
            self._begin(_SENT.of, channel)

    def _begin(self, of: tuple[str, ...], *labels: str) -> None:
        for count, counter in self._counters.items():
            if count.of == of:
                for value in count.label[1] if count.label else [None]:
                    counter.labels(*labels, *([value] if value else []))

    def look(
        self,
        connection: Connection,
        now: Now,
        *,
        watching: str,
        first_looked_at: Callable[[datetime | None], datetime | None],
    ) -> tuple[Sequence[Row[Any]], Watched]:
        """
        Count what has ended since the last look; by one thread at a time.

        Where it is left by an error, the next look goes on; nothing is counted twice. At the first
        one, or when the clock was set back by more than the overlap, nothing is counted: what has
        ended since a process before this one was at work is, at the second, when its zeros have
        been told.

        Args:
            watching: The lease of who looks for what is wrong, which tells until when one was.
            first_looked_at: Says what it told before this process looked itself, of what it tells.

        Returns:
            The open runs, and what is kept of what is wrong.
        """
        since = self._since
        is_first = since is None
        counts = since is not None and since < now.wall_at
        if since is None or not counts:
            since, self._seen, self._ends = now.wall_at - _OVERLAP, set(), {}
            self._told = set()
        until = max(since, now.wall_at - _OVERLAP)
        runs = endings.read_open(connection)
        for row in runs:
            self.begin(row.market_id, row.pipeline)
        longest = now.wall_at - _LOOKS_BACK
        watched = read_watched(connection, watching, longest if is_first else since)
        at_work = first_looked_at(watched.looked_at) if is_first else None
        if at_work is not None and at_work < now.wall_at:
            earliest = max(at_work, longest) - _OVERLAP
            for row in endings.read_pairs(connection, earliest):
                self.begin(row.market_id, row.pipeline)
            self._begin_watched(watched)
            self._since, self._open = earliest, {row.dag_id for row in runs}
            return runs, watched
        self._count_watched(watched, counts=counts)
        now_open = {row.dag_id for row in runs}
        recent: set[str] = set()
        recent_runs: set[str] = set()
        for rows in endings.read_ended(connection, since):
            fresh = {row.execution_id for row in rows} - self._seen
            of = {
                row.dag_id
                for row in rows
                if row.execution_id in fresh or row.dag_id not in self._ends
            }
            self._count_attempts(connection, fresh, now, counts=counts)
            self._count_runs(connection, of - now_open, counts=counts)
            for row in rows:
                if row.completed_at > until:
                    recent.add(row.execution_id)
                    recent_runs.add(row.dag_id)
        self._count_runs(connection, self._open - now_open, counts=counts)
        self._since, self._seen, self._open = until, recent, now_open
        self._ends = {dag_id: at for dag_id, at in self._ends.items() if dag_id in recent_runs}
        return runs, watched

    def _begin_watched(self, watched: Watched) -> None:
        for row in watched.missed:
            self.begin(row.markets[0], row.pipeline)
        for row in watched.ended:
            self.begin_channel(row.channel)

    def _count_watched(self, watched: Watched, *, counts: bool) -> None:
        self._begin_watched(watched)
        recent: set[tuple[str, int, datetime]] = set()
        for row in watched.missed:
            each = "alert", row.alert_id, row.raised_at
            if counts and each not in self._told:
                self._counters[_LATE].labels(row.markets[0], row.pipeline).inc()
            recent.add(each)
        for row in watched.ended:
            each = "message", row.delivery_id, row.ended_at
            if counts and each not in self._told:
                self._counters[_SENT].labels(row.channel, _DELIVERED[row.state]).inc()
            recent.add(each)
        self._told = recent

    def _count_runs(
        self, connection: Connection, dag_ids: Collection[str], *, counts: bool
    ) -> None:
        if not dag_ids:
            return
        for row in endings.read_ended_runs(connection, dag_ids):
            counted = self._ends.get(row.dag_id) == row.completed_at
            self._ends[row.dag_id] = row.completed_at
            if counted or not counts:
                continue
            pair = (row.market_id, row.pipeline)
            self.begin(*pair)
            self._counters[_RUNS].labels(*pair, row.status).inc()
            if row.again:
                continue
            if row.trigger == Trigger.CATCH_UP and not row.forced:
                self._counters[_MISSED].labels(*pair).inc()
            else:
                self._observe(_RUN_TIME, pair, row.completed_at - row.created_at)

    def _count_attempts(
        self, connection: Connection, execution_ids: Collection[str], now: Now, *, counts: bool
    ) -> None:
        if execution_ids and counts:
            rows = endings.read_attempts(connection, execution_ids)
            unread = {row.definition_hash: row.dag_id for row in rows}
            missing = [unread[each] for each in unread.keys() - self._waits.keys()]
            if missing:
                self._waits |= endings.read_waits(connection, missing)
            successes = self._read_successes(connection, rows)
            for row in rows:
                self._seen.add(row.execution_id)  # before: whatever ails it, it is not met again
                self._count_attempt(row, now, successes)
        self._seen.update(execution_ids)

    def _read_successes(
        self, connection: Connection, rows: Sequence[Row[Any]]
    ) -> dict[tuple[str, str], datetime]:
        dag_ids = {row.dag_id for row in rows if row.scheduled_at and self._waits_of(row).jobs}
        return endings.read_successes(connection, dag_ids) if dag_ids else {}

    def _waits_of(self, row: Row[Any]) -> Waits:
        return self._waits[row.definition_hash].get(row.job_id, Waits((), True))

    def _count_attempt(
        self, row: Row[Any], now: Now, successes: Mapping[tuple[str, str], datetime]
    ) -> None:
        pair = (row.market_id, row.pipeline)
        self.begin(*pair)
        self._counters[_ATTEMPTS].labels(*pair, row.status).inc()
        if row.for_good:
            self._counters[_FAILED].labels(*pair).inc()
        lost = next((_LOST[begin] for begin in _LOST if (row.error or "").startswith(begin)), None)
        if lost:
            self._counters[_LOST_ATTEMPTS].labels(*pair, lost).inc()
            if row.for_good and row.poison:
                self._counters[_POISON].labels(*pair).inc()
        if row.scheduled_at and not now.jumps:  # where the clock leaps, waiting takes no time
            self._time_waiting(pair, row, now, successes)
        if row.worker:  # not what an operator forced to be a success
            self._observe(_QUEUE, pair, row.started_at - row.scheduled_at)
            self._observe(_RUN, pair, row.completed_at - row.started_at)

    def _time_waiting(
        self,
        pair: tuple[str, str],
        row: Row[Any],
        now: Now,
        successes: Mapping[tuple[str, str], datetime],
    ) -> None:
        waits = self._waits_of(row)
        opened_at = datetime.min.replace(tzinfo=row.scheduled_at.tzinfo)
        if row.window_opens_at and not row.forced:
            wait = now.clock.wall_delay(row.scheduled_market_at - row.window_opens_at)
            opened_at = row.scheduled_at - wait
            if row.attempt_number == 1:
                self._observe(_WAIT, pair, wait)
                if row.started_at and not (waits.jobs or waits.previous):
                    self._observe(_DELAY, pair, row.started_at - opened_at)
        if row.claimed and waits.jobs and not waits.previous:
            ended = [successes.get((row.dag_id, job_id)) for job_id in waits.jobs]
            last = max((at for at in ended if at), default=None)
            # Not one that waited for its window still, or whose upstream ran again since.
            if last and None not in ended and opened_at <= last <= row.scheduled_at:
                self._observe(_GAP, pair, row.scheduled_at - last)

    def _observe(self, time: Time, pair: tuple[str, str], length: timedelta) -> None:
        # Negative where a clock was set back.
        self._histograms[time].labels(*pair).observe(max(0.0, length.total_seconds()))
