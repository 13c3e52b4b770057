"""What became of everything: violations and figures, from evidence, rows and the enemy's diary."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import sqlalchemy

from prometheus.verification import Expectation, Report, StartRecord, read_history
from prometheus.verification import judge as judge_history
from tests.chaos import judge
from tests.chaos.bodies import (
    Body,
    Excuse,
    overlaps,
    written_again,
    written_late,
    written_twice,
)
from tests.chaos.cluster import Cluster
from tests.chaos.enemy import (
    DEATHS,
    LEADS_WITHIN,
    LOSSES,
    OF_POSTGRES,
    REPLACED_WITHIN,
    Event,
    Fault,
)
from tests.chaos.expiries import Expiries, Why
from tests.chaos.jobs import HOPELESS, WROTE
from tests.chaos.rescues import limits, rescues
from tests.chaos.rows import lives_of, read_attempts, read_effects, read_incarnations, read_leads

_RIGHTLY_FAILED = [f"%{HOPELESS}%", "%at or past the end of its window%"]
"""Messages of final failures that nobody is to blame for."""
_RESCUE = "all rescues, from the last renewal, whatever came between"
_TAKE_OVER = "take-over from a leader that was lost"
_TAKE_OVER_AFTER = "take-over from one, from PostgreSQL's return meanwhile"
_REPLACEMENT = "take-over from a leader that alone had lost Redis"
_STOP = "stop of a worker while it worked"
_REFILL = "refill after messages were lost"
_RETURN = "first start after PostgreSQL's return"
SHOWN = 20
"""How many violations of a kind are printed."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One line that a job left."""

    what: str
    """``began``, ``works``, ``ended``, or ``wrote:`` and a block."""
    execution_id: str
    pid: int
    at: datetime


def read_evidence(folder: Path) -> list[Evidence]:
    """Read what all jobs left, in order of time."""
    ahead = time.time() - time.monotonic()  # of this machine's monotonic clock, which jobs stamp by
    found = []
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            what, execution_id, pid, stamp = line.split()
            at = datetime.fromtimestamp(int(stamp) / 1e9 + ahead, UTC)
            found.append(Evidence(what, execution_id, int(pid), at))
    return sorted(found, key=lambda each: each.at)


def bodies_of(evidence: Sequence[Evidence], attempts: Sequence[judge.Attempt]) -> Iterator[Body]:
    """Put together what each attempt left, with its job and its worker."""
    first: dict[str, datetime] = {}
    last: dict[str, datetime] = {}
    for each in evidence:
        first.setdefault(each.execution_id, each.at)
        last[each.execution_id] = each.at
    for attempt in attempts:
        if attempt.execution_id in first:
            yield Body(
                execution_id=attempt.execution_id,
                job=attempt.job,
                number=attempt.number,
                worker=attempt.pid,
                began_at=first[attempt.execution_id].timestamp(),
                last_at=last[attempt.execution_id].timestamp(),
            )


def check(
    engine: sqlalchemy.Engine, evidence: Sequence[Evidence], expect: Expectation | None = None
) -> Report:
    """Have the history checker judge what is finished, with what the jobs left."""
    starts = [StartRecord(each.execution_id, each.at) for each in evidence if each.what == "began"]
    with engine.connect() as connection:
        history = read_history(connection)
    return judge_history(history, finished=True, starts=starts, expect=expect)


@dataclass(slots=True)
class Figures:
    """What the table shows."""

    violations: dict[str, list[str]] = field(default_factory=dict)
    """What must not be -> each case in words; every kind that was looked for is there."""
    counts: dict[str, int] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of each measurement."""
    limits: dict[str, float] = field(default_factory=dict)
    """Name of a time -> seconds that none may exceed."""

    def forbid(self, kind: str, cases: Iterable[str]) -> None:
        """Note cases of something that must not be, or that there are none."""
        self.violations.setdefault(kind, []).extend(cases)

    def measure(
        self,
        name: str,
        seconds: Sequence[float],
        limit: float | None = None,
        of: Sequence[str] | None = None,
    ) -> None:
        """
        Note a measurement; beyond its limit it is a violation.

        Args:
            of: What each was measured of.
        """
        self.times[name] = sorted(seconds)
        if limit is not None:
            self.limits[name] = limit
            cases = zip(seconds, of or [""] * len(seconds), strict=True)
            self.forbid(
                f"{name} over {limit:g} s",
                (f"{each:.1f} s {what}".rstrip() for each, what in cases if each > limit),
            )

    @property
    def ok(self) -> bool:
        return not any(self.violations.values())

    def document(self) -> dict[str, object]:
        """Return everything as JSON values."""
        return {
            "ok": self.ok,
            "violations": self.violations,
            "counts": self.counts,
            "times": {
                name: {
                    "count": len(seconds),
                    "median": statistics.median(seconds) if seconds else None,
                    "max": max(seconds, default=None),
                    "limit": self.limits.get(name),
                    "all": [round(each, 3) for each in seconds],
                }
                for name, seconds in self.times.items()
            },
        }


def examine(
    cluster: Cluster,
    events: Sequence[Event],
    refills: Sequence[tuple[Event, float | None]],
    expected: set[str],
    *,
    ended: Sequence[str],
    ended_by_celery: Sequence[Event],
    gone_at: float,
    drained_within: float,
    worker_lease: float,
    leader_lease: float,
    began_at: float,
) -> Figures:
    """
    Judge what has happened, once nothing happens any more.

    Args:
        events: What the enemy did.
        refills: After which loss, how many seconds until every lost message was there again.
        expected: The runs that must exist.
        ended: Which processes ended by themselves.
        ended_by_celery: Which workers Celery ended, whose child had just died.
        gone_at: When the enemy had undone all that it did.
        drained_within: In how many seconds after that all must have ended.
    """
    figures = Figures()
    evidence = read_evidence(cluster.evidence)
    _checked(cluster, evidence, figures)
    with cluster.connect() as connection:
        _own_counts(connection, evidence, expected, figures)
        leases = worker_lease, leader_lease
        _judged(cluster, connection, evidence, [*events, *ended_by_celery], leases, figures)
        _take_overs(connection, events, leader_lease, figures)
        _going_on(connection, events, figures)
    figures.measure(
        _REFILL,
        [seconds for _, seconds in refills if seconds is not None],
        60,
    )
    figures.forbid(
        "never refilled", (str(event.fault) for event, seconds in refills if seconds is None)
    )
    _enough(events, figures)
    with cluster.connect() as connection:
        (last_at,) = connection.execute(
            "SELECT extract(epoch FROM max(completed_at))::float8 FROM dag_runs"
        ).fetchone() or (None,)
    figures.measure(
        "from the enemy's end to that of the last run",
        [max(0.0, (last_at or time.time()) - gone_at)],
        round(drained_within),
    )
    figures.forbid("processes that ended by themselves", ended)
    figures.counts["workers that Celery ended, whose child had just died"] = len(ended_by_celery)
    figures.forbid("errors in the logs that no fault brings", judge.read_complaints(cluster.folder))
    for name, number in judge.count_events(cluster.folder, sorted(judge.EXPECTED)).items():
        figures.counts[f"times that logs say {name}"] = number
    figures.counts["seconds"] = round(time.time() - began_at)
    return figures


def _checked(cluster: Cluster, evidence: Sequence[Evidence], figures: Figures) -> None:
    report = check(cluster.engine, evidence)
    figures.forbid("found by the history checker", ())
    for each in report.violations:
        figures.forbid(
            f"checker: {each.rule}",
            [f"{each.dag_id} {each.job_id} {each.execution_id}: {each.message}"],
        )
    counts = report.counts
    figures.counts |= {
        "runs": counts.runs,
        "jobs": counts.jobs,
        "attempts": counts.executions,
        "successes": counts.successes,
        **{f"without success: {why}": number for why, number in counts.without_success.items()},
    }


def _own_counts(
    connection: psycopg.Connection,
    evidence: Sequence[Evidence],
    expected: set[str],
    figures: Figures,
) -> None:
    began = Counter(each.execution_id for each in evidence if each.what == "began")
    ended = {each.execution_id for each in evidence if each.what == "ended"}
    figures.counts["bodies that began"] = sum(began.values())
    figures.forbid(
        "doubled starts",
        (f"{key} began {count} times" for key, count in began.items() if count > 1),
    )
    succeeded = {
        row[0]
        for row in connection.execute(
            "SELECT execution_id FROM job_executions WHERE status = 'SUCCESS'"
        )
    }
    figures.forbid("successes of what did not run to its end", sorted(succeeded - ended))
    existing = {row[0] for row in connection.execute("SELECT dag_id FROM dag_runs")}
    figures.forbid("runs that do not exist", sorted(expected - existing))
    figures.forbid(
        "stuck", _lines(connection, "SELECT dag_id, created_at FROM dag_runs WHERE status = 'OPEN'")
    )
    figures.forbid(
        "lost jobs",
        _lines(
            connection,
            """
            SELECT r.dag_id, d ->> 'job_id'
            FROM dag_runs r, jsonb_array_elements(definition->'jobs') d
            WHERE NOT EXISTS (
                SELECT 1 FROM job_executions e
                WHERE e.dag_id = r.dag_id AND e.job_id = d ->> 'job_id'
                AND (e.status IN ('SUCCESS', 'SKIPPED', 'EXPIRED') OR e.status = 'FAILED'
                     AND e.error_message LIKE ANY (%s))
            )
            """,
            _RIGHTLY_FAILED,
        ),
    )
    figures.forbid(
        "healthy jobs failed for good",
        _lines(
            connection,
            """
            SELECT dag_id, job_id, attempt_number, error_message FROM job_executions e
            WHERE status = 'FAILED' AND NOT error_message LIKE ANY (%s) AND NOT EXISTS (
                SELECT 1 FROM job_executions n WHERE n.dag_id = e.dag_id AND n.job_id = e.job_id
                AND n.attempt_number > e.attempt_number
            )
            """,
            _RIGHTLY_FAILED,
        ),
    )
    figures.forbid(
        "starts outside windows",
        _lines(
            connection,
            """
            SELECT e.dag_id, e.job_id, started_market_at, window_opens_at, window_closes_at
            FROM job_executions e JOIN dag_runs r USING (dag_id)
            WHERE started_at IS NOT NULL AND NOT e.forced AND NOT r.forced
            AND NOT (started_market_at >= window_opens_at AND started_market_at < window_closes_at)
            """,
        ),
    )
    figures.forbid(
        "expired though forced",
        _lines(
            connection,
            "SELECT dag_id, job_id FROM job_executions JOIN dag_runs r USING (dag_id) "
            "WHERE r.forced AND job_executions.status = 'EXPIRED'",
        ),
    )
    effects = read_effects(connection)
    figures.forbid("effects of attempts that had been taken away", written_late(effects))
    figures.forbid("effects written twice", written_twice(effects))
    wrote = {
        f"{each.execution_id} {each.what.removeprefix(WROTE)}"
        for each in evidence
        if each.what.startswith(WROTE)
    }
    there = {f"{each.execution_id} {each.block}" for each in effects}
    figures.forbid(
        "effects that were committed and are not there", judge.lost_effects(wrote, there)
    )
    figures.forbid("no effect was written", [] if wrote else ["by any job"])
    figures.counts["effects, rows that jobs wrote in ctx.transaction()"] = len(effects)
    figures.counts["effects that an attempt had committed, and a later one again"] = written_again(
        effects
    )
    for name, statement in {
        "attempts lost": "SELECT count(*) FROM job_executions "
        "WHERE error_message LIKE 'worker lost%'",
        "attempts that failed": "SELECT count(*) FROM job_executions WHERE status = 'FAILED'",
        "jobs with windows": "SELECT count(DISTINCT (dag_id, job_id)) FROM job_executions "
        "JOIN dag_runs r USING (dag_id) WHERE NOT r.forced",
        "starts of jobs with windows": "SELECT count(started_at) FROM job_executions "
        "JOIN dag_runs r USING (dag_id) WHERE NOT r.forced",
        "messages sent": "SELECT sum(publish_count) FROM job_executions",
        "changes of the lead": "SELECT count(*) FROM chaos_leads",
    }.items():
        (number,) = connection.execute(statement).fetchone() or (0,)
        figures.counts[name] = int(number or 0)


def _judged(
    cluster: Cluster,
    connection: psycopg.Connection,
    evidence: Sequence[Evidence],
    events: Sequence[Event],
    leases: tuple[float, float],
    figures: Figures,
) -> None:
    """Look for healthy attempts and workers that were given up, and for what was left undone."""
    attempts = read_attempts(connection)
    lease, _ = leases
    beats, workers = lives_of(cluster)
    figures.forbid(
        "attempts that failed though nothing was done to their worker",
        judge.failed_without_cause(attempts, events, lease),
    )
    figures.forbid(
        "workers given up though nothing was done to them",
        judge.given_up_without_cause(read_incarnations(connection), events, lease),
    )
    _rescues(attempts, read_leads(connection), beats, events, leases, figures)
    figures.forbid(
        f"workers that took nothing for {judge.HEARS_WITHIN:g} s, of much that was theirs",
        judge.deaf(workers, attempts, events),
    )
    queues = {life.pid: life.queues for life in workers}
    reasons, without = Expiries(attempts, events, queues).judge()
    for why in Why:
        figures.counts[f"windows lost: {why}"] = reasons[why]
    figures.forbid("windows lost though nothing was in the way", without)
    excused, others = overlaps(bodies_of(evidence, attempts), events, lease)
    for excuse in Excuse:
        figures.counts[f"attempts of one job at the same time: {excuse}"] = excused[excuse]
    figures.forbid("attempts of one job at the same time, for no known reason", others)
    away = judge.postgres_away(events)
    figures.measure(
        "from ready, with nothing before it, to started or expired (75 s a message at most)",
        list(judge.waits(attempts, away).values()),
    )
    figures.forbid("forgotten for longer than that", judge.forgotten(attempts, away))
    kills = [event for event in events if event.fault in DEATHS]
    figures.counts["deaths of workers and their children"] = len(kills)
    figures.counts["of them, while the worker ran something"] = judge.at_work(kills, attempts)


def _enough(events: Sequence[Event], figures: Figures) -> None:
    """
    Demand that what is judged has happened: an empty list proves nothing.

    The enemy kills a worker while it runs something, so nearly every kill leaves an attempt to
    rescue. The first beat it hits leads, and later seven of ten do. Runs are made before each loss
    of messages, so that some wait. A quarter of all leaves room for chance. Of the jobs with
    windows, a tenth: in the short form three days pass in a minute, of which the enemy takes most,
    and each window that is lost is explained by itself.
    """
    done = Counter(event.fault for event in events)
    kills = done[Fault.WORKER_KILL] + done[Fault.WORKER_AGAIN]
    losses = sum(done[fault] for fault in LOSSES)
    outages = sum(done[fault] for fault in OF_POSTGRES)
    counts, times = figures.counts, figures.times
    hit = counts["of them, while the worker ran something"]
    needs = {
        "starts of jobs with windows": (
            counts["starts of jobs with windows"],
            counts["jobs with windows"] // 10,
        ),
        "kills of workers at work": (
            hit,
            max(1, counts["deaths of workers and their children"] // 4),
        ),
        "rescues": (len(times[_RESCUE]), max(1, kills // 4)),
        "take-overs": (
            len(times[_TAKE_OVER]) + len(times[_TAKE_OVER_AFTER]),
            max(1, done[Fault.BEAT_KILL] // 4),
        ),
        "take-overs from a leader without Redis": (
            len(times[_REPLACEMENT]),
            max(1, done[Fault.BROKER_LEADER] // 4),
        ),
        "stops of workers": (len(times[_STOP]), 1),
        "refills": (len(times[_REFILL]), max(1, losses // 4)),
        "returns of PostgreSQL": (len(times[_RETURN]), max(1, outages // 4)),
    }
    for name, (found, least) in needs.items():
        figures.counts[f"{name}, of at least {least}"] = found
    figures.forbid("too few to judge by", judge.too_few(needs))


def _rescues(
    attempts: Sequence[judge.Attempt],
    leads: Sequence[judge.Lead],
    beats: Sequence[judge.Life],
    events: Sequence[Event],
    leases: tuple[float, float],
    figures: Figures,
) -> None:
    """Measure how long the attempts of lost workers stayed RUNNING, each class by its own limit."""
    worker_lease, leader_lease = leases
    found = list(
        rescues(
            attempts, leads, beats, events, worker_lease=worker_lease, leader_lease=leader_lease
        )
    )
    for since, limit in limits(worker_lease, leader_lease).items():
        of_class = [each for each in found if each.since is since]
        figures.measure(
            f"rescue, from {since}",
            [each.seconds for each in of_class],
            limit,
            [each.execution_id for each in of_class],
        )
    figures.measure(_RESCUE, [each.whole for each in found])


def _take_overs(
    connection: psycopg.Connection, events: Sequence[Event], lease: float, figures: Figures
) -> None:
    changes = [lead.at for lead in read_leads(connection)]
    found, after_return, missing = judge.take_overs(events, changes, lease)
    figures.measure(_TAKE_OVER, found, lease + LEADS_WITHIN)
    figures.measure(_TAKE_OVER_AFTER, after_return, max(lease, judge.BACK_WITHIN) + LEADS_WITHIN)
    figures.forbid("no take-over", missing)
    found, missing = judge.replacements(events, changes, lease)
    figures.measure(_REPLACEMENT, found, lease + REPLACED_WITHIN)
    figures.forbid("no take-over from a leader that alone had lost Redis", missing)
    figures.measure(_STOP, judge.stops(events), judge.STOPPED_WITHIN)


def _going_on(connection: psycopg.Connection, events: Sequence[Event], figures: Figures) -> None:
    """Measure from PostgreSQL's return, or from when something was due, to the next start."""
    starts = [
        (float(started_at), float(due_at))
        for started_at, due_at in connection.execute(
            "SELECT extract(epoch FROM started_at), extract(epoch FROM scheduled_at) "
            "FROM job_executions WHERE started_at IS NOT NULL ORDER BY 1"
        )
    ]
    outages = [event for event in events if event.fault in OF_POSTGRES]
    found = []
    for event in outages:
        back_at = event.until
        if back_at is None:
            continue
        later = [(started_at, due_at) for started_at, due_at in starts if started_at > back_at]
        if not later or any(back_at < other.at < later[0][0] for other in outages):
            continue
        found.append(later[0][0] - max(back_at, min(due_at for _, due_at in later)))
    figures.measure(_RETURN, found, 30)


def _lines(connection: psycopg.Connection, statement: str, *arguments: object) -> list[str]:
    rows = connection.execute(statement, arguments or None)
    return [" ".join(str(each) for each in row) for row in rows]
