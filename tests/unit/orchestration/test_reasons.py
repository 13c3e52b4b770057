"""`explain` says nothing that `decide` does not do, over random DAGs, states, workers and times."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from prometheus.core.clock import MarketClock
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.decisions import (
    Cancel,
    Expire,
    Hold,
    HoldReason,
    RunState,
    Skip,
    Snapshot,
    Start,
    decide,
)
from prometheus.orchestration.facts import (
    AtWork,
    Execution,
    Facts,
    JobRef,
    Leader,
    Running,
    Waiting,
    Worker,
)
from prometheus.orchestration.lifecycle import FINAL, JobStatus
from prometheus.orchestration.pauses import Pause
from prometheus.orchestration.reasons import ReasonKind, explain, explain_run
from tests.unit.orchestration.test_decisions import (
    BEGIN,
    BOUNDS,
    CLOSE,
    DAY,
    MINUTE,
    WALL,
    instants,
    job,
    run_of,
    runs,
)

K = ReasonKind
CALENDAR = TradingCalendar("US_EQ")
SECOND = timedelta(seconds=1)
BESIDES = {K.FORCED, K.LIMIT}
"""What is no reason, and good to know."""
KIND_OF_HOLD = {
    HoldReason.WINDOW: K.WINDOW,
    HoldReason.UPSTREAM: K.UPSTREAM,
    HoldReason.PREVIOUS: K.PREVIOUS,
}

minutes = st.integers(-90, 90).map(lambda number: number * MINUTE)
past = st.integers(1, 300).map(lambda number: WALL - number * MINUTE)


during_the_day = st.integers(-60, 600).map(lambda number: BEGIN + number * MINUTE)
"""While windows open."""
times = instants | during_the_day


@st.composite
def workers(draw: st.DrawFn) -> Worker:
    renewed_at = WALL - draw(st.integers(0, 40)) * SECOND
    return Worker(
        incarnation=draw(st.sampled_from("xyz")),
        name="w@h",
        queues=draw(st.frozensets(st.sampled_from(["US_EQ", "EU_EQ"]), min_size=1)),
        started_at=draw(past),
        renewed_at=renewed_at,
        expires_at=renewed_at + 30 * SECOND,
    )


@st.composite
def leaders(draw: st.DrawFn) -> Leader:
    return Leader(
        owner="h:1:x",
        expires_at=WALL + draw(st.integers(-20, 10)) * SECOND,
        ticked_at=draw(st.none() | past),
        broker_lost_at=draw(st.none() | past),
    )


@st.composite
def attempts(draw: st.DrawFn, run: RunState, job_id: str) -> tuple[Execution, ...]:
    """The rows of a job as its state has them; what the state does not tell is anything."""
    state = run.jobs[job_id]
    started = state.status not in (JobStatus.PENDING, JobStatus.QUEUED)
    asked = state.cancel_asked or draw(st.booleans())
    latest = Execution(
        execution_id=state.execution_id,
        attempt_number=2,
        status=state.status,
        created_at=draw(past),
        timeout=draw(st.integers(1, 400)) * MINUTE,
        scheduled_at=None if state.status is JobStatus.PENDING else state.scheduled_at,
        published_at=draw(st.none() | past),
        started_at=draw(past) if started else None,
        completed_at=WALL - MINUTE if state.status in FINAL else None,
        hard_limit_at=WALL + draw(minutes) if started else None,
        worker="w@h",
        incarnation=draw(st.sampled_from("xyz")) if started else None,
        cancel_asked_at=WALL - MINUTE if asked else None,
        cancel_asked_by="ada" if asked else None,
        cancel_at=WALL + draw(minutes) if asked else None,
        error=draw(st.none() | st.text(max_size=8)),
    )
    before = replace(
        latest,
        execution_id="before",
        attempt_number=1,
        status=draw(st.sampled_from([JobStatus.FAILED, JobStatus.SUCCESS])),
        completed_at=WALL - 2 * MINUTE,
        result=draw(st.none() | st.just({"state": "NOT_YET", "why": "nothing"})),
    )
    return (before, latest) if draw(st.booleans()) else (latest,)


@st.composite
def pauses(draw: st.DrawFn, run: RunState) -> Pause:
    job_id = draw(st.none() | st.sampled_from(sorted(run.jobs)))
    return Pause(
        pause_id=draw(st.integers(1, 9)),
        market_id="US_EQ" if job_id is None else None,
        pipeline=None,
        dag_id=None if job_id is None else run.dag.dag_id,
        job_id=job_id,
        reason="look",
        author="ada",
        since=WALL - MINUTE,
        until=WALL + draw(st.integers(1, 90)) * MINUTE if draw(st.booleans()) else None,
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[Snapshot, Facts]:
    run = draw(runs())
    executions = {job_id: draw(attempts(run, job_id)) for job_id in run.jobs}
    latest = {job_id: found[-1] for job_id, found in executions.items()}
    at_work = AtWork(
        wall_at=WALL,
        leader=draw(st.none() | leaders()),
        silent_after=30 * SECOND,
        workers=tuple(draw(st.lists(workers(), max_size=3, unique_by=lambda w: w.incarnation))),
        last_worker=draw(st.none() | st.tuples(st.just("w@h"), past)),
        running=tuple(
            Running(
                execution_id=each.execution_id,
                job=JobRef(run.dag.dag_id, job_id),
                incarnation=each.incarnation or "",
                hard_limit_at=each.hard_limit_at,
                started_at=each.started_at,
                usual=draw(st.none() | st.just(40 * MINUTE)),
            )
            for job_id, each in latest.items()
            if each.status is JobStatus.RUNNING
        ),
        waiting=tuple(
            Waiting(
                execution_id=each.execution_id,
                job=JobRef(run.dag.dag_id, job_id),
                background=False,
                priority=2,
                published_at=each.published_at,
            )
            for job_id, each in latest.items()
            if each.status is JobStatus.QUEUED
        ),
        enabled=draw(st.sampled_from([True, True, False])),
        locked=draw(st.sampled_from([False, False, True])),
        broker_fault=draw(st.none() | st.none() | st.just("Redis does not answer")),
        busy=draw(st.none() | st.frozensets(st.sampled_from("xyz"))),
    )
    facts = Facts(
        at_work=at_work,
        clock=MarketClock(BEGIN, WALL, 1),
        opens_at=BEGIN,
        trigger="schedule",
        executions=executions,
        calendar=CALENDAR,
        previous_run="us_eq_test_2025-12-01",
        orphans={
            each.execution_id: "worker lost"
            for each in latest.values()
            if each.status is JobStatus.RUNNING and draw(st.booleans())
        },
        usual=draw(st.dictionaries(st.sampled_from(sorted(run.jobs)), st.just(40 * MINUTE))),
    )
    paused = draw(st.lists(pauses(run), max_size=3))
    return Snapshot((run,), BOUNDS, WALL, tuple(paused)), facts


@settings(max_examples=40)
@given(cases(), times)
def test_explanation_never_contradicts_the_decision(
    case: tuple[Snapshot, Facts], now: datetime
) -> None:
    snapshot, facts = case
    (run,) = snapshot.runs
    decisions = {each.job.job_id: each for each in decide(snapshot, now)}
    for job_id, state in run.jobs.items():
        told = explain(snapshot, job_id, now, facts)
        own = [each.kind for each in told if each.job_id == job_id and each.kind not in BESIDES]
        decision = decisions.get(job_id)
        assert own
        assert (K.RUNNABLE in own) == isinstance(decision, Start)
        assert (K.SUCCESS in own) == (state.status is JobStatus.SUCCESS)
        match decision:
            case Start():
                assert own == [K.RUNNABLE]
            case Hold():
                held = (decision.reason, *decision.also)
                paused = [each for each in snapshot.pauses if each.covers(run.dag, job_id)]
                assert (HoldReason.PAUSED in held) == bool(paused)
                others = [KIND_OF_HOLD[each] for each in held if each is not HoldReason.PAUSED]
                assert own == [*others, *[K.PAUSED] * len(paused)]
            case Skip():
                assert own == [K.UPSTREAM_FAILED]
            case Expire():
                assert own == [K.EXPIRED]
            case Cancel():
                assert {K.ENDING, K.WORKER_LOST, K.OVERDUE}.intersection(own)


@settings(max_examples=40)
@given(cases(), during_the_day)
def test_everything_that_holds_a_job_is_told(case: tuple[Snapshot, Facts], now: datetime) -> None:
    """Worked out here from the state, not from the decision."""
    snapshot, facts = case
    (run,) = snapshot.runs
    for decision in decide(snapshot, now):
        if not isinstance(decision, Hold):
            continue
        job_id, state = decision.job.job_id, run.jobs[decision.job.job_id]
        own = {e.kind for e in explain(snapshot, job_id, now, facts) if e.job_id == job_id}
        window = BOUNDS["US_EQ", DAY].window(decision.job)
        forced = run.forced or state.forced
        assert (K.WINDOW in own) == (now < window.opens_at and not forced)
        assert (K.UPSTREAM in own) == any(
            run.jobs[up].status is not JobStatus.SUCCESS for up in decision.job.dependencies
        )
        before = (run.previous or {}).get(job_id, JobStatus.SUCCESS)
        assert (K.PREVIOUS in own) == (decision.job.after_previous and before not in FINAL)


@settings(max_examples=40)
@given(cases(), times)
def test_all_that_pauses_a_job_is_told_and_one_at_most_as_the_last(
    case: tuple[Snapshot, Facts], now: datetime
) -> None:
    snapshot, facts = case
    (run,) = snapshot.runs
    waits = {*(each.job.job_id for each in decide(snapshot, now) if isinstance(each, Hold))}
    decided = {each.job.job_id for each in decide(snapshot, now)}
    for job_id, state in run.jobs.items():
        if job_id not in waits and (state.status is not JobStatus.QUEUED or job_id in decided):
            continue
        told = [e for e in explain(snapshot, job_id, now, facts) if e.job_id == job_id]
        paused = [each for each in told if each.kind is K.PAUSED]
        covering = [each for each in snapshot.pauses if each.covers(run.dag, job_id)]
        assert sorted(each.text for each in paused) == sorted(f"paused: {e}" for e in covering)
        starts = [each for each in paused if each.then.startswith("it starts when that ends: ")]
        assert starts in ([], paused[-1:])


@settings(max_examples=40)
@given(cases(), times)
def test_what_is_expected_is_still_to_come_unless_something_is_wrong(
    case: tuple[Snapshot, Facts], now: datetime
) -> None:
    snapshot, facts = case
    (run,) = snapshot.runs
    for job_id in run.jobs:
        for each in explain(snapshot, job_id, now, facts):
            at = now if each.market_time else WALL
            assert each.until is None or each.until > at or each.wrong, each
            if each.market_time and each.since is not None:
                assert each.since <= now


@settings(max_examples=40)
@given(cases(), times)
def test_each_job_that_is_waited_for_is_told_once_and_waited_for_indeed(
    case: tuple[Snapshot, Facts], now: datetime
) -> None:
    snapshot, facts = case
    (run,) = snapshot.runs
    for job_id in run.jobs:
        below = [e for e in explain(snapshot, job_id, now, facts) if e.job_id not in (None, job_id)]
        names = [each.job_id for each in below]
        assert len(set(names)) == len(names)
        assert set(names) <= set(run.dag.get_dependency_chain(job_id))


@settings(max_examples=40)
@given(cases(), times)
def test_run_tells_of_each_job_what_the_job_tells_first(
    case: tuple[Snapshot, Facts], now: datetime
) -> None:
    snapshot, facts = case
    (run,) = snapshot.runs
    told = explain_run(snapshot, now, facts)
    assert {each.job_id for each in told.jobs} == {
        job_id for job_id, state in run.jobs.items() if state.status is not JobStatus.SUCCESS
    }
    for each in told.jobs:
        own = [e for e in explain(snapshot, each.job_id, now, facts) if e.job_id == each.job_id]
        assert each.reason == own[0]


def test_a_long_chain_is_followed_to_its_end() -> None:
    """Further than Python calls functions inside functions."""
    jobs = [job("job_0", required_state=None)]
    jobs += [job(f"job_{number}", f"job_{number - 1}") for number in range(1, 3000)]
    run = run_of(*jobs, status={"job_0": JobStatus.RUNNING})
    facts = Facts(
        at_work=AtWork(wall_at=WALL, leader=None, silent_after=SECOND),
        clock=MarketClock(),
        opens_at=BEGIN,
        trigger="schedule",
        usual={each.job_id: MINUTE for each in jobs},
        executions={
            each.job_id: (
                Execution(
                    execution_id=each.job_id,
                    attempt_number=1,
                    status=run.jobs[each.job_id].status,
                    created_at=WALL,
                    timeout=MINUTE,
                ),
            )
            for each in jobs
        },
    )
    told = explain(Snapshot((run,), BOUNDS, WALL), "job_2999", CLOSE, facts)
    assert told[-2].job_id == "job_0"
    assert told[-2].kind is K.RUNNING


def test_every_kind_of_reason_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operating.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z_]+)` \|", page, flags=re.MULTILINE)
    assert sorted(listed) == sorted(ReasonKind)
