"""
`decide`: what happens to each job, from what is stored and the time.

Single cases first, then properties over random DAGs, states and instants.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prometheus.core.market_state import MarketState
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import PipelineError, UnknownMarketError
from prometheus.orchestration.dag import (
    DAG,
    JobMetadata,
    JobPriority,
    WindowRule,
    build_market_dag,
    dag_id_for,
    start_order,
)
from prometheus.orchestration.decisions import (
    Cancel,
    Decision,
    Expire,
    Hold,
    HoldReason,
    JobState,
    RunState,
    Skip,
    Snapshot,
    Start,
    decide,
    next_instant,
    next_timeout,
)
from prometheus.orchestration.lifecycle import ALLOWED, BLOCKING, FINAL, LIVE, JobStatus
from prometheus.orchestration.pauses import Pause
from prometheus.orchestration.planning import session_bounds
from prometheus.orchestration.sensor import SensorRule
from prometheus.orchestration.windows import SessionBounds

S = JobStatus
DAY = date(2025, 12, 2)
BOUNDS = {
    (market, day): session_bounds(TradingCalendar(market), day)
    for market in ("US_EQ", "EU_EQ", "ASIA_EQ")
    for day in (DAY, date(2025, 12, 3))
}
US = BOUNDS["US_EQ", DAY]
"""PRE_OPEN 13:30 UTC, open 14:30, close 21:00, overnight 23:00; next PRE_OPEN 13:30."""
BEGIN = US.phases.pre_open_at
CLOSE = US.phases.close_at
END = BEGIN + timedelta(days=1)
WALL = datetime(2026, 5, 5, 12, tzinfo=UTC)
"""Wall time, which in a replay has nothing to do with the market's."""
MINUTE = timedelta(minutes=1)


def job(job_id: str, *dependencies: str, **options: Any) -> JobMetadata:
    return JobMetadata(
        job_id=job_id, job_type=job_id, market_id="US_EQ", dependencies=dependencies, **options
    )


def run_of(
    *jobs: JobMetadata,
    market: str = "US_EQ",
    day: date = DAY,
    status: Mapping[str, JobStatus] | None = None,
    forced_jobs: frozenset[str] = frozenset(),
    scheduled_at: datetime | None = None,
    run_timeout: timedelta | None = None,
    **options: Any,
) -> RunState:
    dag = DAG(
        dag_id_for("test", market, day),
        jobs,
        pipeline="test",
        market_id=market,
        as_of_date=day,
        run_timeout=run_timeout,
    )
    states = {
        each.job_id: JobState(
            f"{dag.dag_id}/{each.job_id}",
            (status or {}).get(each.job_id, S.PENDING),
            forced=each.job_id in forced_jobs,
            scheduled_at=scheduled_at,
        )
        for each in jobs
    }
    return RunState(dag, states, options.pop("previous", None), **options)


def watching(otherwise: str, **status: JobStatus) -> RunState:
    """A sensor that may be asked in PRE_OPEN only, and a job after it."""
    rule = SensorRule(
        every=MINUTE, up_to=MINUTE, expected=None, give_up=60 * MINUTE, otherwise=otherwise
    )
    before_the_open = {"required_state": MarketState.PRE_OPEN, "window": WindowRule.STATE}
    return run_of(
        job("ready", sensor=rule, **before_the_open),
        job("other"),
        job("prices", "ready", "other"),
        status={"other": S.SUCCESS, **status},
    )


def decided(run: RunState, now: datetime, wall_at: datetime | None = None) -> dict[str, Decision]:
    return {each.job.job_id: each for each in decide(Snapshot((run,), BOUNDS, wall_at), now)}


def paused(target: Mapping[str, str], until: datetime | None = None) -> Pause:
    """Give what an operator keeps from starting."""
    return Pause(
        1,
        target.get("market_id"),
        target.get("pipeline"),
        target.get("dag_id"),
        target.get("job_id"),
        reason="a bad feed",
        author="ann",
        since=WALL,
        until=until,
    )


class TestPause:
    @pytest.mark.parametrize(
        "target",
        [
            {"market_id": "US_EQ"},
            {"pipeline": "test"},
            {"market_id": "US_EQ", "pipeline": "test"},
            {"dag_id": "us_eq_test_2025-12-02", "job_id": "a"},
        ],
    )
    def test_what_could_start_is_held(self, target: dict[str, str]) -> None:
        run = run_of(job("a"), job("b"))
        until = WALL + 10 * MINUTE
        snapshot = Snapshot((run,), BOUNDS, WALL, (paused(target, until),))
        found = {each.job.job_id: each for each in decide(snapshot, BEGIN)}
        held = found["a"]
        assert isinstance(held, Hold)
        assert (held.reason, held.until) == (HoldReason.PAUSED, until)
        assert held.detail.endswith("by ann (a bad feed)")
        assert isinstance(found["b"], Start if "job_id" in target else Hold)

    @pytest.mark.parametrize(
        "target",
        [
            {"market_id": "EU_EQ"},
            {"pipeline": "other"},
            {"market_id": "US_EQ", "pipeline": "other"},
            {"dag_id": "us_eq_test_2025-12-01", "job_id": "a"},
        ],
    )
    def test_others_start(self, target: dict[str, str]) -> None:
        snapshot = Snapshot((run_of(job("a")),), BOUNDS, WALL, (paused(target),))
        (start,) = decide(snapshot, BEGIN)
        assert isinstance(start, Start)

    def test_forced_jobs_are_held_too_and_windows_pass(self) -> None:
        forced = run_of(job("a"), forced=True)
        late = run_of(job("a", window=WindowRule.STATE, required_state=MarketState.PRE_OPEN))
        pauses = (paused({"market_id": "US_EQ"}),)
        (held,) = decide(Snapshot((forced,), BOUNDS, WALL, pauses), BEGIN)
        assert isinstance(held, Hold)
        (expired,) = decide(Snapshot((late,), BOUNDS, WALL, pauses), CLOSE)
        assert isinstance(expired, Expire)

    def test_of_several_the_one_that_ends_last_is_told(self) -> None:
        run = run_of(job("a"))
        soon, later = WALL + MINUTE, WALL + 2 * MINUTE
        ends = paused({"market_id": "US_EQ"}, soon), paused({"pipeline": "test"}, later)
        (held,) = decide(Snapshot((run,), BOUNDS, WALL, ends), BEGIN)
        assert isinstance(held, Hold)
        assert held.until == later
        for_good = paused({"dag_id": run.dag.dag_id, "job_id": "a"})
        (held,) = decide(Snapshot((run,), BOUNDS, WALL, (*ends, for_good)), BEGIN)
        assert isinstance(held, Hold)
        assert held.until is None

    def test_it_is_told_after_all_else_that_keeps_a_job(self) -> None:
        run = run_of(job("a"), job("b", "a"))
        pauses = (paused({"market_id": "US_EQ"}),)
        found = {
            each.job.job_id: each for each in decide(Snapshot((run,), BOUNDS, WALL, pauses), BEGIN)
        }
        held = found["b"]
        assert isinstance(held, Hold)
        assert (held.reason, held.also) == (HoldReason.UPSTREAM, (HoldReason.PAUSED,))


class TestWindow:
    def test_job_starts_with_its_window(self) -> None:
        run = run_of(job("a", required_state=MarketState.POST_CLOSE))
        early = decided(run, CLOSE - timedelta(microseconds=1))["a"]
        assert isinstance(early, Hold)
        assert early.reason is HoldReason.WINDOW
        assert early.until == CLOSE
        assert early.detail == "its window opens at 2025-12-02 21:00:00 UTC"
        start = decided(run, CLOSE)["a"]
        assert isinstance(start, Start)
        assert start.execution_id == "us_eq_test_2025-12-02/a"
        assert start.window == US.window(run.dag.jobs["a"])
        assert not start.forced

    @pytest.mark.parametrize("status", [S.PENDING, S.QUEUED])
    def test_job_that_has_not_started_expires_with_its_window(self, status: JobStatus) -> None:
        run = run_of(job("a"), status={"a": status})
        late = decided(run, END)["a"]
        assert isinstance(late, Expire)
        assert late.reason == "its window closed at 2025-12-03 13:30:00 UTC"
        assert not isinstance(decided(run, END - timedelta(microseconds=1)).get("a"), Expire)

    def test_running_job_outlives_its_window(self) -> None:
        assert decided(run_of(job("a"), status={"a": S.RUNNING}), END) == {}

    @pytest.mark.parametrize("now", [BEGIN - timedelta(days=9), END + timedelta(days=900)])
    def test_windows_do_not_count_for_a_forced_run(self, now: datetime) -> None:
        run = run_of(job("a", required_state=MarketState.POST_CLOSE), forced=True)
        start = decided(run, now)["a"]
        assert isinstance(start, Start)
        assert start.forced

    def test_windows_do_not_count_for_a_forced_job_but_for_its_neighbours(self) -> None:
        run = run_of(job("a"), job("b"), forced_jobs=frozenset({"a"}))
        decisions = decided(run, END)
        assert isinstance(decisions["a"], Start)
        assert isinstance(decisions["b"], Expire)

    def test_forced_job_that_is_queued_never_expires(self) -> None:
        run = run_of(job("a"), status={"a": S.QUEUED}, forced_jobs=frozenset({"a"}))
        assert decided(run, END) == {}


class TestUpstream:
    @pytest.mark.parametrize("status", [S.PENDING, S.QUEUED, S.RUNNING])
    def test_job_is_held_until_every_upstream_succeeded(self, status: JobStatus) -> None:
        run = run_of(job("a"), job("b"), job("c", "a", "b"), status={"a": S.SUCCESS, "b": status})
        hold = decided(run, BEGIN)["c"]
        assert isinstance(hold, Hold)
        assert hold.reason is HoldReason.UPSTREAM
        assert hold.detail == f"b is {status}"
        assert hold.until is None

    @pytest.mark.parametrize("status", sorted(BLOCKING))
    def test_job_is_skipped_when_an_upstream_can_not_succeed_any_more(
        self, status: JobStatus
    ) -> None:
        run = run_of(job("a"), job("b"), job("c", "a", "b"), status={"a": status, "b": S.RUNNING})
        skip = decided(run, BEGIN)["c"]
        assert isinstance(skip, Skip)
        assert skip.reason == f"upstream a is {status}"

    def test_skipping_reaches_everything_downstream_at_once_and_nothing_else(self) -> None:
        run = run_of(
            job("a"),
            job("b", "a"),
            job("c", "b"),
            job("d", "c", "other"),
            job("other"),
            job("after_other", "other"),
            status={"a": S.FAILED, "other": S.SUCCESS},
        )
        decisions = decided(run, BEGIN)
        assert {name for name, each in decisions.items() if isinstance(each, Skip)} == set("bcd")
        assert isinstance(decisions["after_other"], Start)

    def test_downstream_of_an_expiring_job_is_skipped_in_the_same_decision(self) -> None:
        run = run_of(
            job("a", required_state=MarketState.PRE_OPEN, window=WindowRule.STATE), job("b", "a")
        )
        decisions = decided(run, US.phases.open_at)
        assert isinstance(decisions["a"], Expire)
        skip = decisions["b"]
        assert isinstance(skip, Skip)
        assert skip.reason == "upstream a is EXPIRED"

    @pytest.mark.parametrize("otherwise", ["skip", "continue_stale", "use:synthetic"])
    def test_sensor_that_goes_another_way_is_asked_once_more_after_its_window(
        self, otherwise: str
    ) -> None:
        """While a job after it can still start, which so learns which way to go."""
        run = watching(otherwise)
        assert isinstance(decided(run, US.phases.open_at)["ready"], Start)
        queued = decided(watching(otherwise, ready=S.QUEUED), US.phases.open_at)
        assert set(queued) == {"prices"}, "it is left to its worker"
        assert isinstance(decided(run, END)["ready"], Expire)
        assert isinstance(decided(run, END)["prices"], Expire)

    @pytest.mark.parametrize("otherwise", ["fail", "skip", "continue_stale", "use:synthetic"])
    @pytest.mark.parametrize("limit", ["queue_timeout", "run_timeout"])
    def test_sensor_that_a_timeout_ends_goes_no_other_way(self, limit: str, otherwise: str) -> None:
        rule = SensorRule(
            every=MINUTE, up_to=MINUTE, expected=None, give_up=60 * MINUTE, otherwise=otherwise
        )
        of_queue = 10 * MINUTE if limit == "queue_timeout" else None
        run = run_of(
            job("ready", sensor=rule, queue_timeout=of_queue),
            job("prices", "ready"),
            status={"ready": S.QUEUED},
            scheduled_at=WALL,
            run_timeout=None if of_queue else 10 * MINUTE,
            created_at=WALL,
        )
        decisions = decided(run, BEGIN, WALL + 10 * MINUTE)
        assert isinstance(decisions["ready"], Expire)
        assert isinstance(decisions["prices"], Skip if of_queue else Expire)
        assert "ready" not in decided(run, BEGIN, WALL + 9 * MINUTE)

    def test_sensor_that_fails_expires_with_its_window(self) -> None:
        assert isinstance(decided(watching("fail"), US.phases.open_at)["ready"], Expire)

    def test_sensor_for_whose_way_only_a_job_waits_that_can_not_start_expires(self) -> None:
        blocked = watching("continue_stale", other=S.FAILED)
        assert isinstance(decided(blocked, US.phases.open_at)["ready"], Expire)

    def test_sensor_after_whose_window_nothing_waits_for_it_expires(self) -> None:
        skipped = watching("continue_stale", prices=S.SKIPPED)
        assert isinstance(decided(skipped, US.phases.open_at)["ready"], Expire)

    def test_job_whose_upstream_waits_before_its_window_says_so_first(self) -> None:
        run = run_of(job("a"), job("b", "a", required_state=MarketState.POST_CLOSE))
        hold = decided(run, BEGIN)["b"]
        assert isinstance(hold, Hold)
        assert hold.reason is HoldReason.WINDOW
        assert hold.also == (HoldReason.UPSTREAM,)

    def test_job_that_several_things_keep_says_all_of_them(self) -> None:
        waiting = job("b", "a", required_state=MarketState.POST_CLOSE, after_previous=True)
        run = run_of(job("a"), waiting, previous={"b": S.RUNNING})
        hold = decided(run, BEGIN)["b"]
        assert isinstance(hold, Hold)
        assert hold.reason is HoldReason.WINDOW
        assert hold.also == (HoldReason.UPSTREAM, HoldReason.PREVIOUS)


class TestPrevious:
    @pytest.mark.parametrize("status", [S.PENDING, S.QUEUED, S.RUNNING])
    def test_job_waits_for_itself_in_the_previous_session(self, status: JobStatus) -> None:
        run = run_of(job("a", after_previous=True), previous={"a": status})
        hold = decided(run, BEGIN)["a"]
        assert isinstance(hold, Hold)
        assert hold.reason is HoldReason.PREVIOUS
        assert hold.detail == f"in the previous session it is {status}"

    @pytest.mark.parametrize("status", sorted(FINAL))
    def test_any_end_in_the_previous_session_will_do(self, status: JobStatus) -> None:
        run = run_of(job("a", after_previous=True), previous={"a": status})
        assert isinstance(decided(run, BEGIN)["a"], Start)

    @pytest.mark.parametrize("previous", [None, {}, {"other": S.PENDING}])
    def test_previous_session_without_this_job_holds_nothing(
        self, previous: dict[str, JobStatus] | None
    ) -> None:
        run = run_of(job("a", after_previous=True), previous=previous)
        assert isinstance(decided(run, BEGIN)["a"], Start)

    def test_other_jobs_do_not_wait_for_the_previous_session(self) -> None:
        run = run_of(job("a"), previous={"a": S.RUNNING})
        assert isinstance(decided(run, BEGIN)["a"], Start)

    def test_forced_run_waits_for_the_previous_session_too(self) -> None:
        run = run_of(job("a", after_previous=True), previous={"a": S.PENDING}, forced=True)
        assert isinstance(decided(run, BEGIN)["a"], Hold)


class TestWhole:
    def test_standard_pipeline_walks_through_its_day(self) -> None:
        dag = build_market_dag("US_EQ", DAY)
        status = dict.fromkeys(dag.jobs, S.PENDING)
        walked: list[list[str]] = []
        for _ in range(7):
            run = run_of(*dag.jobs.values(), status=status)
            started = [n for n, each in decided(run, CLOSE).items() if isinstance(each, Start)]
            walked.append(started)
            status |= dict.fromkeys(started, S.SUCCESS)
        assert walked == [
            ["ingest_prices", "ingest_factors"],
            ["compute_returns", "compute_volatility"],
            ["build_numeric_windows"],
            ["update_profiles"],
            ["run_signals"],
            ["run_universes"],
            ["run_books"],
        ]

    def test_starts_of_all_runs_come_first_by_priority_then_job(self) -> None:
        runs = tuple(
            run_of(
                job("b", priority=JobPriority.CRITICAL),
                job("a", priority=JobPriority.OPTIONAL),
                job("c", "a"),
                market=market,
            )
            for market in ("US_EQ", "EU_EQ")
        )
        decisions = decide(Snapshot(runs, BOUNDS), BEGIN)
        assert [(each.job.job_id, each.dag_id[:2]) for each in decisions] == [
            ("b", "eu"),
            ("b", "us"),
            ("a", "eu"),
            ("a", "us"),
            ("c", "eu"),
            ("c", "us"),
        ]

    def test_nothing_to_do_is_no_decision(self) -> None:
        assert decide(Snapshot((), BOUNDS), BEGIN) == ()

    def test_run_of_a_market_without_windows_is_an_error(self) -> None:
        snapshot = Snapshot((run_of(job("a")),), {("EU_EQ", DAY): BOUNDS["EU_EQ", DAY]})
        with pytest.raises(UnknownMarketError, match="US_EQ"):
            decide(snapshot, BEGIN)
        with pytest.raises(UnknownMarketError, match="US_EQ"):
            next_instant(snapshot, BEGIN)

    def test_run_of_a_broken_dag_is_an_error(self) -> None:
        with pytest.raises(PipelineError, match="cycle"):
            decide(Snapshot((run_of(job("a", "a")),), BOUNDS), BEGIN)


class TestTimeouts:
    def test_job_that_waits_in_its_queue_for_too_long_expires(self) -> None:
        run = run_of(
            job("a", queue_timeout=10 * MINUTE),
            job("b"),
            job("c", "a"),
            status={"a": S.QUEUED, "b": S.QUEUED},
            scheduled_at=WALL,
        )
        early = decided(run, BEGIN, WALL + 10 * MINUTE - timedelta(microseconds=1))
        assert set(early) == {"c"}
        late = decided(run, BEGIN, WALL + 10 * MINUTE)
        assert isinstance(late["a"], Expire)
        assert late["a"].reason == "no worker took it from its queue within its queue_timeout, 10m"
        assert isinstance(late["c"], Skip)
        assert late["c"].reason == "upstream a is EXPIRED"
        assert "b" not in late

    def test_retry_waits_for_its_time_before_it_waits_in_its_queue(self) -> None:
        run = run_of(
            job("a", queue_timeout=10 * MINUTE),
            status={"a": S.QUEUED},
            scheduled_at=WALL + 15 * MINUTE,
        )
        assert decided(run, BEGIN, WALL + 24 * MINUTE) == {}
        assert set(decided(run, BEGIN, WALL + 25 * MINUTE)) == {"a"}

    @pytest.mark.parametrize("status", [S.PENDING, S.QUEUED])
    @pytest.mark.parametrize("forced", [False, True])
    def test_nothing_starts_once_the_run_has_had_its_time(
        self, status: JobStatus, forced: bool
    ) -> None:
        """A run that is forced has no windows, and ends in time all the same."""
        run = run_of(
            job("a"),
            job("b", "a"),
            status={"a": status},
            run_timeout=timedelta(hours=4),
            created_at=WALL,
            forced=forced,
        )
        early = decided(run, BEGIN, WALL + timedelta(hours=4, microseconds=-1))
        assert not any(isinstance(each, Expire) for each in early.values())
        late = decided(run, BEGIN, WALL + timedelta(hours=4))
        assert {type(each) for each in late.values()} == {Expire}
        assert late["a"].reason == "its run took longer than its run_timeout, 4h"  # type: ignore[union-attr]

    def test_attempt_of_an_operator_has_all_the_time_it_takes(self) -> None:
        run = run_of(
            job("a"),
            forced_jobs=frozenset({"a"}),
            run_timeout=timedelta(hours=4),
            created_at=WALL,
        )
        assert isinstance(decided(run, END, WALL + timedelta(days=3))["a"], Start)

    def test_what_runs_already_is_left_alone(self) -> None:
        run = run_of(
            job("a", queue_timeout=MINUTE),
            status={"a": S.RUNNING},
            scheduled_at=WALL,
        )
        assert decided(run, BEGIN, WALL + timedelta(days=1)) == {}

    @pytest.mark.parametrize("forced", [False, True])
    def test_what_runs_when_its_run_has_had_its_time_is_asked_to_end_once(
        self, forced: bool
    ) -> None:
        run = run_of(
            job("a"),
            status={"a": S.RUNNING},
            run_timeout=timedelta(hours=4),
            created_at=WALL,
            forced=forced,
        )
        assert decided(run, BEGIN, WALL + timedelta(hours=4, microseconds=-1)) == {}
        end = WALL + timedelta(hours=4)
        assert next_timeout(Snapshot((run,), BOUNDS, WALL)) == end
        (cancel,) = decide(Snapshot((run,), BOUNDS, end), BEGIN)
        assert isinstance(cancel, Cancel)
        assert (cancel.execution_id, cancel.by) == (
            "us_eq_test_2025-12-02/a",
            "its run_timeout, 4h",
        )
        asked = replace(run, jobs={"a": run.jobs["a"]._replace(cancel_asked=True)})
        assert decided(asked, BEGIN, end) == {}
        by_an_operator = replace(run, jobs={"a": run.jobs["a"]._replace(forced=True)})
        assert decided(by_an_operator, BEGIN, end) == {}

    def test_where_no_wall_time_passes_nothing_times_out(self) -> None:
        run = run_of(job("a"), run_timeout=MINUTE, created_at=WALL)
        assert isinstance(decided(run, BEGIN)["a"], Start)
        assert next_timeout(Snapshot((run,), BOUNDS)) is None

    def test_next_one_is_the_first_that_is_still_to_come(self) -> None:
        run = run_of(
            job("a", queue_timeout=10 * MINUTE),
            job("b", queue_timeout=20 * MINUTE),
            job("c"),
            status={"a": S.QUEUED, "b": S.QUEUED, "c": S.SUCCESS},
            scheduled_at=WALL,
            run_timeout=30 * MINUTE,
            created_at=WALL,
        )
        found = [
            next_timeout(Snapshot((run,), BOUNDS, WALL + minutes * MINUTE))
            for minutes in (0, 10, 20, 30)
        ]
        assert found == [WALL + 10 * MINUTE, WALL + 20 * MINUTE, None, None]
        pending = run_of(job("c"), run_timeout=30 * MINUTE, created_at=WALL)
        assert next_timeout(Snapshot((pending,), BOUNDS, WALL)) == WALL + 30 * MINUTE


class TestNextInstant:
    def test_it_is_the_next_opening_or_closing_of_an_unfinished_jobs_window(self) -> None:
        run = run_of(job("a", required_state=MarketState.POST_CLOSE), job("b"))
        snapshot = Snapshot((run,), BOUNDS)
        assert next_instant(snapshot, BEGIN) == CLOSE
        assert next_instant(snapshot, CLOSE) == END
        assert next_instant(snapshot, END) is None

    def test_finished_running_and_forced_jobs_wait_for_no_instant(self) -> None:
        jobs = [job(name) for name in ("a", "b", "c")]
        run = run_of(*jobs, status={"a": S.SUCCESS, "b": S.RUNNING}, forced_jobs=frozenset({"c"}))
        assert next_instant(Snapshot((run,), BOUNDS), BEGIN) is None
        forced = run_of(*jobs, forced=True)
        assert next_instant(Snapshot((forced,), BOUNDS), BEGIN) is None


# --- properties ----------------------------------------------------------------------------------

NAMES = [f"job_{letter}" for letter in "abcdefghijkl"]
STATES = [None, *(state for state in MarketState if state is not MarketState.HOLIDAY)]


@st.composite
def job_lists(draw: st.DrawFn) -> list[JobMetadata]:
    """Up to twelve jobs without a cycle, defined in any order, and named in any order too."""
    count = draw(st.integers(1, 12))
    names = draw(st.permutations(NAMES[:count]))
    jobs = [
        job(
            name,
            *draw(st.lists(st.sampled_from(names[:place]), max_size=3, unique=True))
            if place
            else (),
            required_state=draw(st.sampled_from(STATES)),
            window=draw(st.sampled_from(list(WindowRule))),
            priority=draw(st.sampled_from(list(JobPriority))),
            after_previous=draw(st.booleans()),
            queue_timeout=draw(st.sampled_from([None, None, 10 * MINUTE, 60 * MINUTE])),
        )
        for place, name in enumerate(names)
    ]
    return draw(st.permutations(jobs))


@st.composite
def runs(draw: st.DrawFn, *, market: str = "US_EQ", day: date = DAY) -> RunState:
    """A run in any state, also in states that no history leads to."""
    jobs = draw(job_lists())
    names = [each.job_id for each in jobs]
    statuses = st.sampled_from([S.PENDING, S.PENDING, S.SUCCESS, S.SUCCESS, *JobStatus])
    previous = st.none() | st.dictionaries(st.sampled_from(names), statuses)
    return run_of(
        *jobs,
        market=market,
        day=day,
        status={name: draw(statuses) for name in names},
        forced_jobs=draw(st.frozensets(st.sampled_from(names), max_size=2)),
        previous=draw(previous),
        forced=draw(st.sampled_from([False, False, False, True])),
        scheduled_at=WALL + draw(st.integers(-90, 30)) * MINUTE,
        run_timeout=draw(st.sampled_from([None, None, 60 * MINUTE, 240 * MINUTE])),
        created_at=WALL - draw(st.integers(0, 300)) * MINUTE,
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    keys = draw(st.lists(st.sampled_from(sorted(BOUNDS)), min_size=1, max_size=3, unique=True))
    found = tuple(draw(runs(market=market, day=day)) for market, day in keys)
    return Snapshot(found, BOUNDS, draw(st.sampled_from([None, WALL, WALL + 10 * MINUTE])))


instants = st.one_of(
    st.integers(-60, 60 * 51).map(lambda minutes: BEGIN + timedelta(minutes=minutes)),
    st.sampled_from(
        sorted(
            {
                instant
                for bounds in BOUNDS.values()
                for instant in (
                    bounds.phases.pre_open_at,
                    bounds.phases.open_at,
                    bounds.phases.close_at,
                    bounds.phases.post_close_ends_at,
                )
            }
        )
    ),
)

AFTER = {Start: S.QUEUED, Skip: S.SKIPPED, Expire: S.EXPIRED}


def applied(snapshot: Snapshot, decisions: tuple[Decision, ...]) -> Snapshot:
    """Carry decisions out in memory; each must be a change that the lifecycle allows."""
    changes: dict[tuple[str, str], JobStatus] = {
        (each.dag_id, each.job.job_id): AFTER[type(each)]
        for each in decisions
        if not isinstance(each, Hold | Cancel)
    }
    asked = {each.execution_id for each in decisions if isinstance(each, Cancel)}

    def state(run: RunState, job_id: str) -> JobState:
        before = run.jobs[job_id]
        after = changes.get((run.dag.dag_id, job_id))
        if before.execution_id in asked:
            return before._replace(cancel_asked=True)
        if after is None:
            return before
        assert after in ALLOWED[before.status]
        if after is S.QUEUED:
            return before._replace(status=after, scheduled_at=snapshot.wall_at)
        return before._replace(status=after)

    return replace(
        snapshot,
        runs=tuple(
            replace(run, jobs={job_id: state(run, job_id) for job_id in run.jobs})
            for run in snapshot.runs
        ),
    )


def run_in(snapshot: Snapshot, dag_id: str) -> RunState:
    return next(run for run in snapshot.runs if run.dag.dag_id == dag_id)


@given(snapshots(), instants, st.randoms(use_true_random=False))
def test_order_of_rows_never_changes_a_decision(
    snapshot: Snapshot, now: datetime, shuffle: random.Random
) -> None:
    def shuffled(mapping: Mapping[Any, Any]) -> dict[Any, Any]:
        items = list(mapping.items())
        shuffle.shuffle(items)
        return dict(items)

    rows = [
        replace(
            run,
            jobs=shuffled(run.jobs),
            previous=None if run.previous is None else shuffled(run.previous),
        )
        for run in snapshot.runs
    ]
    shuffle.shuffle(rows)
    other = Snapshot(tuple(rows), shuffled(BOUNDS), snapshot.wall_at)
    assert decide(other, now) == decide(snapshot, now)


@given(snapshots(), instants)
def test_what_does_not_ask_why_jobs_are_held_is_told_all_the_rest(
    snapshot: Snapshot, now: datetime
) -> None:
    told = tuple(each for each in decide(snapshot, now) if not isinstance(each, Hold))
    assert decide(snapshot, now, holds=False) == told


@given(snapshots(), instants, st.data())
def test_starts_of_some_jobs_need_no_more_of_a_run_than_those_and_what_they_wait_for(
    snapshot: Snapshot, now: datetime, data: st.DataObject
) -> None:
    run = data.draw(st.sampled_from(snapshot.runs))
    jobs = data.draw(st.sets(st.sampled_from(sorted(run.dag.jobs))))
    needed = {up for job_id in jobs for up in run.dag.jobs[job_id].dependencies} | jobs
    part = replace(run, jobs={job_id: run.jobs[job_id] for job_id in needed})
    some = decide(replace(snapshot, runs=(part,)), now, holds=False, jobs=jobs)
    every = decide(replace(snapshot, runs=(run,)), now, holds=False)
    starts = [each for each in every if isinstance(each, Start) and each.job.job_id in jobs]
    assert [each for each in some if isinstance(each, Start)] == starts


@given(snapshots(), instants)
def test_deciding_again_after_applying_at_the_same_instant_changes_nothing(
    snapshot: Snapshot, now: datetime
) -> None:
    after = applied(snapshot, decide(snapshot, now))
    assert all(isinstance(each, Hold) for each in decide(after, now))


@given(snapshots(), instants)
def test_every_pending_job_gets_one_decision_and_others_only_when_their_time_is_over(
    snapshot: Snapshot, now: datetime
) -> None:
    decisions = decide(snapshot, now)
    named = [(each.dag_id, each.job.job_id) for each in decisions]
    assert len(set(named)) == len(named)
    pending = {
        (run.dag.dag_id, job_id)
        for run in snapshot.runs
        for job_id, state in run.jobs.items()
        if state.status is S.PENDING
    }
    assert pending <= set(named)
    for each in decisions:
        state = run_in(snapshot, each.dag_id).jobs[each.job.job_id]
        assert each.execution_id == state.execution_id
        if (each.dag_id, each.job.job_id) not in pending:
            assert isinstance(each, Expire | Cancel)
            assert state.status is (S.QUEUED if isinstance(each, Expire) else S.RUNNING)


@given(snapshots(), instants)
@pytest.mark.promise("P3")
def test_nothing_starts_before_its_upstream_succeeded_nor_outside_its_window_unless_forced(
    snapshot: Snapshot, now: datetime
) -> None:
    for each in decide(snapshot, now):
        if not isinstance(each, Start):
            continue
        run = run_in(snapshot, each.dag_id)
        assert all(run.jobs[up].status is S.SUCCESS for up in each.job.dependencies)
        bounds = BOUNDS[run.dag.market_id, run.dag.as_of_date]
        assert each.window == bounds.window(each.job)
        assert each.forced == (run.forced or run.jobs[each.job.job_id].forced)
        assert each.forced or each.window.opens_at <= now < each.window.closes_at
        if each.job.after_previous and run.previous is not None:
            assert run.previous.get(each.job.job_id, S.SUCCESS) in FINAL


@given(snapshots(), instants)
def test_starts_come_first_sorted_by_priority_then_job_id(
    snapshot: Snapshot, now: datetime
) -> None:
    decisions = decide(snapshot, now)
    starts = [each for each in decisions if isinstance(each, Start)]
    assert list(decisions[: len(starts)]) == starts
    assert starts == sorted(starts, key=lambda each: (start_order(each.job), each.dag_id))


@given(snapshots(), instants)
def test_within_a_run_upstream_is_decided_before_downstream(
    snapshot: Snapshot, now: datetime
) -> None:
    places: dict[str, dict[str, int]] = defaultdict(dict)
    for place, each in enumerate(decide(snapshot, now)):
        if not isinstance(each, Start):
            places[each.dag_id][each.job.job_id] = place
    for dag_id, found in places.items():
        dag = run_in(snapshot, dag_id).dag
        for job_id, place in found.items():
            assert all(found[up] < place for up in dag.jobs[job_id].dependencies if up in found)


@given(snapshots(), instants)
def test_skipping_reaches_everything_downstream_of_a_blocked_job(
    snapshot: Snapshot, now: datetime
) -> None:
    after = applied(snapshot, decide(snapshot, now))
    for before_run, run in zip(snapshot.runs, after.runs, strict=True):
        for job_id, state in run.jobs.items():
            if state.status not in BLOCKING:
                continue
            for below in run.dag.downstream_of(job_id):
                if before_run.jobs[below].status is S.PENDING and all(
                    before_run.jobs[between].status is S.PENDING
                    for between in run.dag.downstream_of(job_id)
                    if below in run.dag.downstream_of(between)
                ):
                    assert run.jobs[below].status in (S.SKIPPED, S.EXPIRED)


@given(snapshots(), instants)
def test_skip_and_expiry_have_a_cause(snapshot: Snapshot, now: datetime) -> None:
    decisions = decide(snapshot, now)
    after = applied(snapshot, decisions)
    for each in decisions:
        run = run_in(after, each.dag_id)
        if isinstance(each, Skip):
            blocking = [u for u in each.job.dependencies if run.jobs[u].status in BLOCKING]
            assert blocking
            assert all(f"upstream {up} is {run.jobs[up].status}" in each.reason for up in blocking)
        if isinstance(each, Expire):
            bounds = BOUNDS[run.dag.market_id, run.dag.as_of_date]
            state = run.jobs[each.job.job_id]
            forced = run.forced or state.forced
            closed = not forced and now >= bounds.window(each.job).closes_at
            before = run_in(snapshot, each.dag_id).jobs[each.job.job_id]
            waited = before.status is S.QUEUED and _passed(
                snapshot, state.scheduled_at, each.job.queue_timeout
            )
            late = not state.forced and _passed(snapshot, run.created_at, run.dag.run_timeout)
            assert closed or waited or late


def _passed(snapshot: Snapshot, since: datetime | None, allowed: timedelta | None) -> bool:
    return (
        snapshot.wall_at is not None
        and since is not None
        and allowed is not None
        and snapshot.wall_at - since >= allowed
    )


@given(snapshots(), instants)
def test_one_runs_decisions_do_not_depend_on_the_others(snapshot: Snapshot, now: datetime) -> None:
    together = decide(snapshot, now)
    for run in snapshot.runs:
        alone = decide(replace(snapshot, runs=(run,)), now)
        assert set(alone) == {each for each in together if each.dag_id == run.dag.dag_id}


@given(snapshots(), instants, st.integers(1, 3000))
def test_time_alone_changes_no_decision_before_the_next_instant(
    snapshot: Snapshot, now: datetime, minutes: int
) -> None:
    until = next_instant(snapshot, now)
    assert until is None or until > now
    later = now + timedelta(minutes=minutes)
    assume(until is None or later < until)
    assert decide(snapshot, later) == decide(snapshot, now)


@given(snapshots(), instants, st.integers(1, 300))
def test_wall_time_alone_changes_no_decision_before_the_next_timeout(
    snapshot: Snapshot, now: datetime, minutes: int
) -> None:
    assume(snapshot.wall_at is not None)
    assert snapshot.wall_at is not None
    until = next_timeout(snapshot)
    assert until is None or until > snapshot.wall_at
    later = snapshot.wall_at + timedelta(minutes=minutes)
    assume(until is None or later < until)
    assert decide(replace(snapshot, wall_at=later), now) == decide(snapshot, now)


@given(snapshots(), instants)
def test_nothing_starts_in_a_run_that_has_had_its_time(snapshot: Snapshot, now: datetime) -> None:
    for each in decide(snapshot, now):
        run = run_in(snapshot, each.dag_id)
        if isinstance(each, Start) and not run.jobs[each.job.job_id].forced:
            assert not _passed(snapshot, run.created_at, run.dag.run_timeout)


@settings(max_examples=200)
@given(snapshots(), st.randoms(use_true_random=False))
def test_random_life_always_ends_with_every_job_final_once_its_windows_have_passed(
    snapshot: Snapshot, chance: random.Random
) -> None:
    # Every run begins whole, as it is created; the previous session's jobs have ended.
    current = replace(
        snapshot,
        runs=tuple(
            replace(
                run,
                previous=None,
                jobs={name: each._replace(status=S.PENDING) for name, each in run.jobs.items()},
            )
            for run in snapshot.runs
        ),
    )
    now = BEGIN - timedelta(hours=1)
    started: set[tuple[str, str]] = set()
    for _ in range(1000):
        decisions = decide(current, now)
        for each in decisions:
            if isinstance(each, Start):
                assert (each.dag_id, each.job.job_id) not in started
                started.add((each.dag_id, each.job.job_id))
        current = applied(current, decisions)
        # What workers do: at least one thing, if there is anything to do.
        live = [
            (run.dag.dag_id, name)
            for run in current.runs
            for name, state in run.jobs.items()
            if state.status in LIVE
        ]
        chosen = {each for each in live if chance.random() < 0.5} or set(live[:1])
        current = replace(
            current,
            runs=tuple(
                replace(
                    run,
                    jobs={
                        name: state._replace(
                            status=chance.choice(sorted(ALLOWED[state.status] - {S.EXPIRED}))
                        )
                        if (run.dag.dag_id, name) in chosen
                        else state
                        for name, state in run.jobs.items()
                    },
                )
                for run in current.runs
            ),
        )
        if not live:
            until = next_instant(current, now)
            if until is None:
                break
            now = until
        elif chance.random() < 0.2:
            now += timedelta(hours=chance.randrange(1, 8))
    else:
        pytest.fail("it goes on for ever")
    assert all(state.status in FINAL for run in current.runs for state in run.jobs.values())


def test_bounds_are_those_of_the_calendar() -> None:
    assert isinstance(US, SessionBounds)
    assert datetime(2025, 12, 2, 13, 30, tzinfo=UTC) == BEGIN
    assert datetime(2025, 12, 3, 13, 30, tzinfo=UTC) == END
