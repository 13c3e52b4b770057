"""Three beats under a replay; the one that leads is frozen and woken, again and again."""

from __future__ import annotations

import bisect
import logging
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from datetime import time as midnight
from pathlib import Path

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.planning import SessionRange
from prometheus.persistence.clock import start_replay
from prometheus.persistence.engine import writing
from prometheus.verification import Expectation
from tests.chaos import judge
from tests.chaos.cluster import Cluster, Shape
from tests.chaos.history import check, read_evidence
from tests.chaos.jobs import MARKETS
from tests.chaos.nodes import BEAT, Node
from tests.chaos.points import AFTER, BEFORE, FREEZE, WITHIN, obeyed, order, withdraw
from tests.servers import wait_until

log = logging.getLogger(__name__)

ANYWHERE = "anywhere"
WHERE = (
    (BEFORE, "advance"),
    (BEFORE, "claim"),
    (WITHIN, "claim"),
    (AFTER, "claim"),
)
"""Points at which a leader is frozen in half of the rounds: it has decided, and not yet written."""
_FIRST, _LAST = date(2005, 1, 3), date(2025, 12, 31)
LEASE = 2.0
"""Of the leader; seconds."""
MAX_WAIT = 1.0
"""Between two looks of a standby at the lead; seconds."""
TAKEN_OVER_WITHIN = LEASE + MAX_WAIT + 5
"""Seconds from the freezing of a leader to the next: its lease, a standby's look, and 5 for a
machine that does more than this."""
_TRIES = 4
"""For each round: half of them order a freeze at a point, which a leader may not pass in time."""


@dataclass(slots=True)
class Rounds:
    """What was done, and what came of it."""

    frozen: dict[str, int] = field(default_factory=dict)
    """Where the leader was."""
    runs: int = 0
    executions: int = 0
    changes_by_beats: int = 0
    claims_by_beats: int = 0
    changes_of_lead: int = 0
    take_overs: list[float] = field(default_factory=list)
    """Seconds from the freezing of a leader to the next one."""
    violations: list[str] = field(default_factory=list)
    seconds: float = 0


def run_beats(rounds: int, folder: Path, seed: str) -> Rounds:
    """
    Freeze the leader past its lease and wake it, while a replay runs as fast as it can.

    Args:
        folder: New; keeps logs and evidence.
    """
    began_at = time.time()
    draw = random.Random(seed)
    result = Rounds()
    shape = Shape(
        beats=3,
        workers=(",".join(MARKETS),),
        concurrency=2,
        modules="tests.chaos.points",
        settings={"SCHEDULER__LEASE": f"{LEASE:g}s", "SCHEDULER__MAX_WAIT": f"{MAX_WAIT:g}s"},
        gated=False,
    )
    with Cluster(seed, shape, folder) as cluster:
        with writing(cluster.engine) as connection:
            start_replay(
                connection,
                market_at=datetime.combine(_FIRST, midnight(), UTC) - timedelta(days=1),
                speed=0,
                only=SessionRange(_FIRST, _LAST),
                markets=list(MARKETS),
            )
        cluster.start()
        wait_until(lambda: cluster.count("dag_runs") >= 3, timeout=90, message="runs are made")
        for _ in range(_TRIES * rounds):
            done = sum(result.frozen.values())
            if done == rounds:
                break
            if _round(cluster, draw, result) and (done + 1) % 10 == 0:
                log.info("%d rounds, %d runs", done + 1, cluster.count("dag_runs"))
        last = _finish(cluster, result)
        _examine(cluster, last, result)
        result.violations += judge_rounds(rounds, result)
        result.violations += judge.read_complaints(folder)
    result.seconds = time.time() - began_at
    return result


def judge_rounds(rounds: int, result: Rounds) -> Iterator[str]:
    """Say if leaders were frozen too rarely, or followed too late."""
    frozen = sum(result.frozen.values())
    if frozen != rounds:
        yield f"only {frozen} of {rounds} leaders were frozen"
    for seconds in result.take_overs:
        if seconds > TAKEN_OVER_WITHIN:
            yield f"the next leader came after {seconds:.1f} s"


def _round(cluster: Cluster, draw: random.Random, result: Rounds) -> bool:
    """Freeze a leader and wake it; say whether one was frozen."""
    leader: Node | None = None
    if draw.random() < 0.5:
        where = ANYWHERE
        leader = wait_until(lambda: _leader(cluster), timeout=60, message="a beat leads")
        assert leader is not None
        time.sleep(draw.uniform(0, 0.5))
        leader.freeze()
    else:
        when, what = draw.choice(WHERE)
        where = f"{when} {what}"
        order(cluster.orders, BEAT, when, what, FREEZE, passes=draw.randint(0, 3))
        leader = _passed(cluster, when, what)
        if leader is None:
            return False
    frozen_at = time.time()
    epoch = cluster.count("chaos_leads")
    wait_until(
        lambda: cluster.count("chaos_leads") > epoch,
        timeout=60,
        message=f"another beat leads while {leader} is frozen {where}",
    )
    result.take_overs.append(time.time() - frozen_at)
    time.sleep(draw.uniform(0, 1.5))
    leader.thaw()
    result.frozen[where] = result.frozen.get(where, 0) + 1
    time.sleep(draw.uniform(0, 1))
    return True


def _passed(cluster: Cluster, when: str, what: str) -> Node | None:
    """Wait until a beat has been frozen at a point; ``None`` if none passes it."""
    try:
        wait_until(lambda: obeyed(cluster.orders, BEAT, when, what), timeout=15, interval=0.01)
    except AssertionError:
        if withdraw(cluster.orders, BEAT, when, what):
            return None
    return wait_until(
        lambda: next((node for node in cluster.beats if node.frozen), None),
        timeout=10,
        message="a beat is frozen",
    )


def _leader(cluster: Cluster) -> Node | None:
    with cluster.connect() as connection:
        row = connection.execute(
            "SELECT owner FROM leases WHERE name = 'beat' AND expires_at > clock_timestamp()"
        ).fetchone()
    if row is None:
        return None
    return next((node for node in cluster.beats if f":{node.pid}:" in row[0]), None)


def _finish(cluster: Cluster, result: Rounds) -> date:
    """Let the sessions that were begun end, and no others begin."""
    with cluster.connect() as connection:
        row = connection.execute(
            "UPDATE market_clock SET last_session = (SELECT max(as_of_date) FROM dag_runs) "
            "RETURNING last_session"
        ).fetchone()
    assert row is not None
    last: date = row[0]

    def missing() -> list[str]:
        with cluster.connect() as connection:
            statement = "SELECT market_id, as_of_date, status = 'OPEN' FROM dag_runs"
            is_open = {(row[0], row[1]): row[2] for row in connection.execute(statement)}
        begun = {
            (market_id, day): True
            for market_id in MARKETS
            for day in TradingCalendar(market_id).trading_days(_FIRST, last)
        }
        # With one more, perhaps, that a leader was making who had read the clock before.
        wanted = begun | is_open
        return [f"{market_id} {day}" for (market_id, day), missed in wanted.items() if missed]

    try:
        wait_until(lambda: not missing(), timeout=120, interval=0.5)
    except AssertionError:
        result.violations += [f"not finished: {each}" for each in missing()]
    return last


def _examine(cluster: Cluster, last: date, result: Rounds) -> None:
    evidence = read_evidence(cluster.evidence)
    expect = Expectation({"crash": MARKETS}, _FIRST, last)
    report = check(cluster.engine, evidence, expect)
    result.violations += [f"{each.rule}: {each.message}" for each in report.violations]
    result.runs, result.executions = report.counts.runs, report.counts.executions
    with cluster.connect() as connection:
        # In the order of commits, which is what others see; the lock on the lead's row makes sure
        # that it is also the order of the deeds.
        leads = connection.execute(
            "SELECT pg_xact_commit_timestamp(xmin), role, epoch FROM chaos_leads ORDER BY 1"
        ).fetchall()
        changes = connection.execute(
            "SELECT pg_xact_commit_timestamp(xmin), role, execution_id, old, new "
            "FROM status_changes WHERE role LIKE 'beat%' ORDER BY 1"
        ).fetchall()
    result.changes_of_lead = len(leads)
    result.changes_by_beats = len(changes)
    result.claims_by_beats = sum(new == "QUEUED" for *_, new in changes)
    times = [at for at, _, _ in leads]
    for at, role, execution_id, old, new in changes:
        place = bisect.bisect_right(times, at) - 1
        if place < 0 or leads[place][1] != role:
            holder = leads[place][1] if place >= 0 else "nobody"
            result.violations.append(
                f"{role} made {execution_id} {new} (it was {old}) while {holder} led"
            )
