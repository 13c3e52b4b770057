"""The DAG of jobs: what is refused, what is runnable, what is stored."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prometheus.core.market_state import (
    MarketState,
    get_all_market_states,
    get_market_state,
)
from prometheus.errors import PipelineError, UnknownMarketError
from prometheus.orchestration.dag import (
    DAG,
    JobMetadata,
    JobPriority,
    JobStatus,
    WindowRule,
    build_global_dag,
    build_market_dag,
    definition_hash,
    sessions_of,
)
from prometheus.orchestration.session_rule import EVERY, SessionRule, ShortSessions
from prometheus.orchestration.session_time import SessionTime

DAY = date(2025, 12, 2)


def job(job_id: str, *dependencies: str, **options: Any) -> JobMetadata:
    return JobMetadata(
        job_id=job_id,
        job_type=job_id,
        market_id="US_EQ",
        dependencies=dependencies,
        **options,
    )


def dag(*jobs: JobMetadata) -> DAG:
    return DAG("us_eq_test_2025-12-02", jobs, pipeline="test", market_id="US_EQ", as_of_date=DAY)


def test_examples_of_the_specification_run_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    state = get_market_state("US_EQ", datetime(2025, 12, 2, 15, 0, tzinfo=UTC))
    states = get_all_market_states(datetime(2026, 11, 23, 9, tzinfo=UTC))
    built = build_market_dag("US_EQ", date(2025, 12, 2))
    runnable = built.get_runnable_jobs(
        completed_jobs={"ingest_prices"},
        running_jobs=set(),
        current_market_state=MarketState.POST_CLOSE,
    )
    for each in runnable:
        print(f"- {each.job_type} (priority: {each.priority.name})")

    assert state is MarketState.SESSION
    assert set(states) == {"US_EQ", "EU_EQ", "ASIA_EQ"}
    assert len(built.jobs) == 9
    assert built.validate() == ()
    assert capsys.readouterr().out.splitlines() == [
        "- compute_returns (priority: CRITICAL)",
        "- compute_volatility (priority: CRITICAL)",
        "- ingest_factors (priority: STANDARD)",
    ]


class TestFaults:
    def test_dag_without_faults_has_none(self) -> None:
        assert dag(job("a"), job("b", "a"), job("c", "a", "b")).validate() == ()

    def test_empty_dag_has_none(self) -> None:
        assert dag().validate() == ()

    def test_cycle_is_told_with_its_path_in_running_order(self) -> None:
        # b waits for a, c for b, a for c: whoever ran first would be followed by b, then c.
        assert dag(job("a", "c"), job("b", "a"), job("c", "b")).validate() == (
            "cycle: a → b → c → a",
        )

    def test_job_that_waits_for_itself_is_a_cycle(self) -> None:
        assert dag(job("a", "a"), job("b")).validate() == ("cycle: a → a",)

    def test_each_independent_cycle_is_told_once(self) -> None:
        faults = dag(
            job("c", "d"), job("d", "c"), job("alone"), job("b", "a", "alone"), job("a", "b")
        ).validate()
        assert faults == ("cycle: a → b → a", "cycle: c → d → c")

    def test_job_that_only_waits_for_a_cycle_is_not_in_it(self) -> None:
        assert dag(job("a", "b"), job("b", "a"), job("last", "b")).validate() == (
            "cycle: a → b → a",
        )

    def test_unknown_dependency_names_the_nearest_job(self) -> None:
        assert dag(job("ingest_prices"), job("b", "ingest_price")).validate() == (
            (
                "job 'b' depends on 'ingest_price', which does not exist. "
                "Did you mean 'ingest_prices'?"
            ),
        )

    def test_job_defined_twice_is_told(self) -> None:
        assert dag(job("a"), job("b"), job("a", "b")).validate() == ("job 'a' is defined twice",)

    def test_very_same_job_listed_twice_is_told(self) -> None:
        same = job("a")
        assert dag(same, same).validate() == ("job 'a' is defined twice",)

    def test_all_faults_are_told_at_once(self) -> None:
        faults = dag(
            job("a", "c"), job("b", "a"), job("c", "b"), job("d", "nowhere"), job("e"), job("e")
        ).validate()
        assert len(faults) == 3
        assert faults[0] == "job 'e' is defined twice"
        assert faults[1].startswith("job 'd' depends on 'nowhere', which does not exist.")
        assert faults[2] == "cycle: a → b → c → a"

    def test_dependency_named_twice_is_harmless(self) -> None:
        built = dag(job("a"), job("b", "a", "a"))
        assert built.validate() == ()
        assert built.topological_order() == ("a", "b")

    def test_faults_keep_a_dag_from_being_ordered(self) -> None:
        with pytest.raises(PipelineError, match="cycle: a → a") as raised:
            dag(job("a", "a")).topological_order()
        assert raised.value.faults == ("cycle: a → a",)

    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=25))
    def test_every_cycle_told_is_one_and_none_told_means_there_is_none(
        self, edges: list[tuple[int, int]]
    ) -> None:
        names = [f"j{number}" for number in range(10)]
        built = dag(
            *(
                job(name, *sorted({names[up] for up, down in edges if names[down] == name}))
                for name in names
            )
        )
        faults = built.validate()
        for fault in faults:
            path = fault.removeprefix("cycle: ").split(" → ")
            assert path[0] == path[-1]
            for before, after in itertools.pairwise(path):
                assert before in built.jobs[after].dependencies
        if not faults:
            order = {name: place for place, name in enumerate(built.topological_order())}
            assert set(order) == set(names)
            assert all(order[names[up]] < order[names[down]] for up, down in edges)


def lines_run(function: Callable[[], object]) -> int:
    """Count the lines of Python that a call runs, in all functions: a clock that cannot jitter."""
    count = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def chain(length: int) -> DAG:
    return dag(*(job(f"j{n}", *([f"j{n - 1}"] if n else [])) for n in range(length)))


def ring(length: int) -> DAG:
    return dag(*(job(f"j{n}", f"j{(n - 1) % length}") for n in range(length)))


def fan(length: int) -> DAG:
    middle = [f"m{n}" for n in range(length)]
    return dag(job("first"), *(job(name, "first") for name in middle), job("last", *middle))


def unknown(length: int) -> DAG:
    return dag(*(job(f"j{n}", f"nowhere{n}") for n in range(length)))


class TestCost:
    @pytest.mark.parametrize("shape", [chain, ring, fan])
    def test_validating_ten_times_the_jobs_takes_ten_times_the_steps(
        self, shape: Callable[[int], DAG]
    ) -> None:
        small, large = shape(300), shape(3000)
        ratio = lines_run(large.validate) / lines_run(small.validate)
        assert 9 < ratio < 11

    def test_looking_for_near_names_does_not_grow_with_the_faults(self) -> None:
        # The first twenty faults look through all names; the others must not.
        small, large = unknown(300), unknown(3000)
        assert lines_run(large.validate) / lines_run(small.validate) < 20
        assert len(large.validate()) == 3000

    def test_ten_thousand_jobs_in_a_row_are_no_recursion(self) -> None:
        assert chain(10_000).validate() == ()
        assert len(ring(10_000).validate()) == 1


class TestQuestions:
    def test_dependency_chain_is_upstream_first_and_the_job_last(self) -> None:
        built = build_market_dag("US_EQ", DAY)
        assert built.get_dependency_chain("build_numeric_windows") == [
            "ingest_prices",
            "compute_returns",
            "compute_volatility",
            "build_numeric_windows",
        ]
        assert built.get_dependency_chain("ingest_factors") == ["ingest_factors"]

    def test_dependency_chain_of_an_unknown_job_names_the_nearest(self) -> None:
        with pytest.raises(PipelineError, match="Did you mean 'run_books'"):
            build_market_dag("US_EQ", DAY).get_dependency_chain("run_book")

    def test_downstream_is_everything_below_in_running_order(self) -> None:
        built = build_market_dag("US_EQ", DAY)
        assert built.downstream_of("update_profiles") == [
            "run_signals",
            "run_universes",
            "run_books",
        ]
        assert built.downstream_of("run_books") == []

    def test_runnable_jobs_come_by_priority_then_id(self) -> None:
        built = dag(
            job("z", priority=JobPriority.CRITICAL),
            job("b", priority=JobPriority.STANDARD),
            job("a", priority=JobPriority.OPTIONAL),
            job("c", priority=JobPriority.CRITICAL),
        )
        runnable = built.get_runnable_jobs(set(), set(), MarketState.SESSION)
        assert [each.job_id for each in runnable] == ["c", "z", "b", "a"]

    def test_completed_and_running_jobs_are_not_runnable(self) -> None:
        built = dag(job("a"), job("b"), job("c", "a"))
        runnable = built.get_runnable_jobs({"a"}, {"b"}, MarketState.SESSION)
        assert [each.job_id for each in runnable] == ["c"]

    def test_job_waits_until_every_upstream_completed(self) -> None:
        built = dag(job("a"), job("b"), job("c", "a", "b"))
        assert [e.job_id for e in built.get_runnable_jobs(["a"], [], MarketState.SESSION)] == ["b"]

    @pytest.mark.parametrize("state", list(MarketState))
    def test_job_with_a_required_state_is_runnable_in_that_state_only(
        self, state: MarketState
    ) -> None:
        built = dag(job("a", required_state=MarketState.POST_CLOSE), job("b"))
        runnable = {each.job_id for each in built.get_runnable_jobs(set(), set(), state)}
        assert runnable == ({"a", "b"} if state is MarketState.POST_CLOSE else {"b"})

    def test_statuses_are_offered_beside_the_dag(self) -> None:
        assert {status.value for status in JobStatus} == {
            "PENDING",
            "QUEUED",
            "RUNNING",
            "SUCCESS",
            "FAILED",
            "SKIPPED",
            "CANCELLED",
            "EXPIRED",
        }

    def test_jobs_can_not_be_changed_from_outside(self) -> None:
        built = build_market_dag("US_EQ", DAY)
        with pytest.raises(TypeError):
            built.jobs["extra"] = job("extra")  # type: ignore[index]  # what the test is about


seconds = st.integers(1, 100_000).map(lambda number: timedelta(seconds=number))
metadata = st.builds(
    JobMetadata,
    job_id=st.text(min_size=1, max_size=8),
    job_type=st.text(min_size=1, max_size=8),
    market_id=st.sampled_from(["US_EQ", "EU_EQ"]),
    dependencies=st.lists(st.text(max_size=5), max_size=4).map(tuple),
    required_state=st.none() | st.sampled_from(list(MarketState)),
    window=st.sampled_from(list(WindowRule)),
    priority=st.sampled_from(list(JobPriority)),
    max_retries=st.integers(0, 50),
    timeout=seconds,
    queue_timeout=st.none() | seconds,
    retry_base=seconds,
    retry_cap=seconds,
    after_previous=st.booleans(),
    start=st.none()
    | st.builds(
        SessionTime,
        st.sampled_from(["open", "close"]),
        st.integers(-86_400, 86_400).map(lambda number: timedelta(seconds=number)),
    ),
)


class TestStored:
    @given(metadata)
    def test_job_comes_back_from_json_as_it_was(self, original: JobMetadata) -> None:
        text = json.dumps(original.to_json())
        assert JobMetadata.from_json(json.loads(text)) == original

    def test_time_outs_are_written_only_where_there_are_any(self) -> None:
        """What an earlier release stored is read, and is equal to what this one writes."""
        plain = build_market_dag("US_EQ", DAY).definition()
        assert set(plain) == {"pipeline", "jobs"}
        assert not any("queue_timeout_seconds" in each for each in plain["jobs"])
        limited = DAG(
            "d",
            [job("a", queue_timeout=timedelta(minutes=10))],
            pipeline="p",
            market_id="US_EQ",
            as_of_date=DAY,
            run_timeout=timedelta(hours=4),
        ).definition()
        assert limited["run_timeout_seconds"] == 14_400
        assert limited["jobs"][0]["queue_timeout_seconds"] == 600

    def test_equal_dags_have_equal_hashes_whatever_the_order_of_keys(self) -> None:
        definition = build_market_dag("US_EQ", DAY).definition()
        shuffled = json.loads(json.dumps(definition, sort_keys=True))
        assert definition_hash(shuffled) == definition_hash(definition)
        # Stored with every run: a change here makes old runs look changed.
        again = build_market_dag("US_EQ", DAY).definition()
        assert definition_hash(again) == definition_hash(definition)
        known = "f5fe19c50ac9b0bf478bbbfadd844d0c4781be8de61dfb79ea9cf066766fb604"
        assert definition_hash(definition) == known

    def test_sessions_and_starts_are_written_only_where_something_is_said_of_them(self) -> None:
        plain = build_market_dag("US_EQ", DAY).definition()
        assert sessions_of(plain) == EVERY
        assert not any("start" in each for each in plain["jobs"])
        monthly = DAG(
            "d",
            [job("a", start=SessionTime("close", timedelta(minutes=45)))],
            pipeline="p",
            market_id="US_EQ",
            as_of_date=DAY,
            sessions=SessionRule.parse("last of month", ShortSessions.SKIP),
        )
        stored = json.loads(json.dumps(monthly.definition()))
        assert (stored["sessions"], stored["short_sessions"]) == ("last of month", "skip")
        assert stored["jobs"][0]["start"] == "close+45m"
        assert sessions_of(stored) == monthly.sessions

    @pytest.mark.parametrize(
        "change",
        [
            {"max_retries": 4},
            {"timeout": timedelta(hours=2)},
            {"priority": JobPriority.OPTIONAL},
            {"dependencies": ("b",)},
            {"required_state": MarketState.SESSION},
            {"window": WindowRule.STATE},
            {"after_previous": True},
            {"queue_timeout": timedelta(minutes=10)},
            {"start": SessionTime("open")},
        ],
    )
    def test_any_change_of_a_job_changes_the_hash(self, change: dict[str, Any]) -> None:
        dependencies = change.get("dependencies", ())
        options = {key: value for key, value in change.items() if key != "dependencies"}
        plain = dag(job("a"), job("b")).definition()
        changed = dag(job("a", *dependencies, **options), job("b")).definition()
        assert definition_hash(plain) != definition_hash(changed)


class TestGlobalDag:
    @staticmethod
    def regional(day: date) -> dict[str, DAG]:
        return {m: build_market_dag(m, day) for m in ("US_EQ", "EU_EQ", "ASIA_EQ")}

    def test_global_job_waits_for_every_markets_signals(self) -> None:
        built = build_global_dag(DAY, self.regional(DAY))
        assert built.dag_id == "global_daily_2025-12-02"
        assert built.validate() == ()
        assert len(built.jobs) == 28
        (last,) = (each for each in built if each.market_id == "GLOBAL")
        assert set(last.dependencies) == {
            "us_eq_daily_2025-12-02/run_signals",
            "eu_eq_daily_2025-12-02/run_signals",
            "asia_eq_daily_2025-12-02/run_signals",
        }
        assert last.required_state is None

    def test_a_list_of_dags_is_as_good_as_a_mapping(self) -> None:
        regional = self.regional(DAY)
        from_list = build_global_dag(DAY, list(regional.values()))
        assert from_list.definition() == build_global_dag(DAY, regional).definition()

    def test_dependencies_stay_within_their_market(self) -> None:
        built = build_global_dag(DAY, self.regional(DAY))
        books = built.jobs["eu_eq_daily_2025-12-02/run_books"]
        assert books.dependencies == ("eu_eq_daily_2025-12-02/run_universes",)
        assert books.market_id == "EU_EQ"

    def test_market_on_holiday_is_left_out(self) -> None:
        thanksgiving = date(2012, 11, 22)
        built = build_global_dag(thanksgiving, self.regional(thanksgiving))
        assert len(built.jobs) == 19
        assert not any(each.startswith("us_eq") for each in built.jobs)

    def test_day_without_any_session_is_refused(self) -> None:
        saturday = date(2025, 12, 6)
        with pytest.raises(PipelineError, match="none of the markets has a session on 2025-12-06"):
            build_global_dag(saturday, self.regional(saturday))

    def test_dag_of_another_date_is_refused(self) -> None:
        other = build_market_dag("US_EQ", date(2025, 12, 3))
        with pytest.raises(PipelineError, match="is for 2025-12-03, not 2025-12-02"):
            build_global_dag(DAY, [other])

    def test_dag_given_twice_is_refused(self) -> None:
        with pytest.raises(PipelineError, match="us_eq_daily_2025-12-02 is given 2 times"):
            build_global_dag(DAY, [build_market_dag("US_EQ", DAY)] * 2)

    def test_all_faults_of_all_dags_are_told_at_once(self) -> None:
        broken = dag(job("a", "a"))
        with pytest.raises(PipelineError) as raised:
            build_global_dag(DAY, [broken])
        assert raised.value.faults == (
            "us_eq_test_2025-12-02: cycle: a → a",
            "us_eq_test_2025-12-02 has no job 'run_signals'",
        )


def test_market_dag_accepts_any_date() -> None:
    assert len(build_market_dag("US_EQ", date(2012, 11, 22)).jobs) == 9


def test_market_dag_of_an_unknown_market_names_the_nearest() -> None:
    with pytest.raises(UnknownMarketError, match="US_EQ"):
        build_market_dag("US_EQQ", DAY)
