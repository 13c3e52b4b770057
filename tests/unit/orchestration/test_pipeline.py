"""Pipelines: the standard one, users' own, and everything that is refused when one is loaded."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

import pytest

import prometheus
from prometheus.core.declarations import read_declarations
from prometheus.core.market_state import MarketState
from prometheus.core.markets import declare
from prometheus.errors import PipelineError
from prometheus.orchestration.dag import JobMetadata, JobPriority, WindowRule
from prometheus.orchestration.daily import daily
from prometheus.orchestration.patient_daily import daily as patient_daily
from prometheus.orchestration.pipeline import CatchUp, Pipeline

HERE = __file__


def nothing(ctx: object) -> None:
    """A job that does nothing."""


async def coroutine(ctx: object) -> None:
    """A job that nobody would await."""


def generator(ctx: object) -> Iterator[int]:
    """A job that nobody would iterate over."""
    yield 1


class CallableObject:
    """A job that is an object."""

    def __call__(self, ctx: object) -> None: ...

    def method(self, ctx: object) -> None: ...


class AsyncCallable:
    """A job that is an object that nobody would await."""

    async def __call__(self, ctx: object) -> None: ...


def lending_a_database(function: Callable[[object, str], None]) -> Callable[[object], None]:
    @functools.wraps(function)
    def lent(ctx: object) -> None:
        function(ctx, "database")

    return lent


@lending_a_database
def with_database(ctx: object, database: str) -> None:
    """A job that gets more than its context from its decorator."""


def line() -> int:
    """The line of the caller's next statement."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno + 1


class TestDaily:
    def test_jobs_are_those_of_the_specification(self) -> None:
        post_close, critical, standard = (
            MarketState.POST_CLOSE,
            JobPriority.CRITICAL,
            JobPriority.STANDARD,
        )
        hour = timedelta(hours=1)
        table = {
            "ingest_prices": ((), post_close, critical, 5, hour, False),
            "ingest_factors": ((), post_close, standard, 3, hour, False),
            "compute_returns": (("ingest_prices",), None, critical, 3, hour, False),
            "compute_volatility": (("ingest_prices",), None, critical, 3, hour, False),
            "build_numeric_windows": (
                ("compute_returns", "compute_volatility"),
                None,
                critical,
                3,
                2 * hour,
                False,
            ),
            "update_profiles": (("build_numeric_windows",), post_close, standard, 3, hour, False),
            "run_signals": (
                ("build_numeric_windows", "update_profiles"),
                None,
                critical,
                3,
                hour,
                False,
            ),
            "run_universes": (("run_signals",), None, critical, 3, hour, True),
            "run_books": (("run_universes",), None, critical, 3, hour, True),
        }
        assert {
            name: (
                job.after,
                job.required_state,
                job.priority,
                job.max_retries,
                job.timeout,
                job.after_previous,
            )
            for name, job in daily.jobs.items()
        } == table

    def test_it_runs_for_the_three_equity_markets_and_catches_the_latest_session_up(self) -> None:
        assert daily.name == "daily"
        assert daily.markets == ("US_EQ", "EU_EQ", "ASIA_EQ")
        assert daily.catch_up is CatchUp.LATEST

    def test_retries_wait_a_minute_at_first_and_a_quarter_of_an_hour_at_most(self) -> None:
        for job in daily.jobs.values():
            assert job.retry_base == timedelta(seconds=60)
            assert job.retry_cap == timedelta(seconds=900)

    def test_it_has_no_fault(self) -> None:
        assert daily.faults() == ()

    def test_its_functions_are_not_imported_by_naming_them(self) -> None:
        assert all(isinstance(job.function, str) for job in daily.jobs.values())


class TestUsersOwn:
    def test_pipeline_of_the_design_is_built_as_it_is_written(self) -> None:
        my_daily = prometheus.Pipeline("my_daily", markets=["US_EQ", "EU_EQ"])

        @my_daily.job(
            required_state=prometheus.MarketState.POST_CLOSE,
            priority=prometheus.Priority.CRITICAL,
            max_retries=5,
        )
        def ingest_prices(ctx: prometheus.JobContext) -> None: ...

        @my_daily.job(after=[ingest_prices], timeout="30m")
        def compute_returns(ctx: prometheus.JobContext) -> None: ...

        my_daily.check()
        built = my_daily.dag("EU_EQ", date(2025, 12, 2))
        assert built.dag_id == "eu_eq_my_daily_2025-12-02"
        assert built.validate() == ()
        prices, returns = built.jobs.values()
        assert prices.required_state is MarketState.POST_CLOSE
        assert prices.priority is JobPriority.CRITICAL
        assert prices.max_retries == 5
        assert returns.dependencies == ("ingest_prices",)
        assert returns.timeout == timedelta(minutes=30)
        assert returns.required_state is None
        assert returns.priority is JobPriority.STANDARD

    def test_decorated_function_stays_as_it_is(self) -> None:
        pipeline = Pipeline("mine", markets=["US_EQ"])

        def add_one(number: int) -> int:
            return number + 1

        assert pipeline.job()(add_one) is add_one
        assert pipeline.jobs["add_one"].resolve() is add_one

    def test_upstream_may_be_a_function_its_name_or_a_job_named_otherwise(self) -> None:
        pipeline = Pipeline("mine", markets=["US_EQ"])
        pipeline.job(name="other_name")(nothing)
        pipeline.job(name="second", after=[nothing])(lambda ctx: None)
        pipeline.job(name="third", after=["second", "other_name"])(lambda ctx: None)
        assert pipeline.jobs["second"].after == ("other_name",)
        assert pipeline.faults() == ()

    def test_enums_may_be_written_as_text(self) -> None:
        pipeline = Pipeline("mine", markets=["US_EQ"], catch_up="all")
        pipeline.job(required_state="POST_CLOSE", priority="OPTIONAL", window="state")(nothing)
        job = pipeline.jobs["nothing"]
        assert pipeline.catch_up is CatchUp.ALL
        assert job.required_state is MarketState.POST_CLOSE
        assert job.priority is JobPriority.OPTIONAL
        assert job.window is WindowRule.STATE
        assert pipeline.faults() == ()

    @pytest.mark.parametrize(
        ("text", "duration"),
        [
            ("45s", timedelta(seconds=45)),
            ("1h30m", timedelta(minutes=90)),
            (timedelta(minutes=5), timedelta(minutes=5)),
        ],
    )
    def test_durations_are_text_or_timedelta(
        self, text: str | timedelta, duration: timedelta
    ) -> None:
        pipeline = Pipeline("mine", markets=["US_EQ"])
        pipeline.job(timeout=text, retry_base=text, retry_cap=text)(nothing)
        job = pipeline.jobs["nothing"]
        assert (job.timeout, job.retry_base, job.retry_cap) == (duration,) * 3

    def test_a_single_market_may_be_given_as_text(self) -> None:
        pipeline = Pipeline("mine", markets="US_EQ")
        pipeline.job()(nothing)
        assert pipeline.markets == ("US_EQ",)
        assert pipeline.faults() == ()

    def test_a_named_function_is_imported_when_it_is_wanted(self) -> None:
        pipeline = Pipeline("mine", markets=["US_EQ"])
        pipeline.add("json:dumps")
        assert pipeline.jobs["dumps"].resolve()([1]) == "[1]"


def only_fault(define: Callable[[Pipeline], int]) -> tuple[str, int]:
    """The single fault of a pipeline with one job, without its place, and the job's line."""
    pipeline = Pipeline("mine", markets=["US_EQ"])
    number = define(pipeline)
    (fault,) = pipeline.faults()
    place, _, text = fault.partition(": ")
    assert place == f"{HERE}:{number}"
    return text, number


class TestTimeouts:
    def test_there_is_none_unless_it_is_asked_for(self) -> None:
        pipeline = Pipeline("p", markets=["US_EQ"])
        pipeline.job()(nothing)
        dag = pipeline.dag("US_EQ", date(2025, 12, 2))
        assert (dag.run_timeout, dag.jobs["nothing"].queue_timeout) == (None, None)

    def test_they_come_to_every_run(self) -> None:
        pipeline = Pipeline("p", markets=["US_EQ"], run_timeout="4h")
        pipeline.job(queue_timeout="10m")(nothing)
        dag = pipeline.dag("US_EQ", date(2025, 12, 2))
        assert dag.run_timeout == timedelta(hours=4)
        assert dag.jobs["nothing"].queue_timeout == timedelta(minutes=10)
        assert pipeline.faults() == ()

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ("soon", "run_timeout: 'soon' is not a duration; write 45s, 30m"),
            (30, "run_timeout: 30 is not a duration; write 45s, 30m"),
            ("0s", "run_timeout is 0s; it must be whole seconds, at least 1"),
            ("1.5s", "run_timeout is 1.5s; it must be whole seconds, at least 1"),
        ],
    )
    def test_fault_of_the_runs_time_is_told_with_the_pipelines_line(
        self, value: Any, said: str
    ) -> None:
        number = line()
        pipeline = Pipeline("p", markets=["US_EQ"], run_timeout=value)
        pipeline.job()(nothing)
        (fault,) = pipeline.faults()
        assert fault.startswith(f"{__file__}:{number}: {said}")


class TestFaults:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"required_state": "HOLIDAY"}, "required_state is HOLIDAY, which has no session"),
            (
                {"required_state": "CLOSED"},
                "required_state is 'CLOSED'; it must be one of HOLIDAY,",
            ),
            ({"window": "day"}, "window is 'day'; it must be one of session, state"),
            ({"priority": "URGENT"}, "priority is 'URGENT'; it must be one of CRITICAL, STANDARD,"),
            ({"priority": 1}, "priority is 1; it must be one of CRITICAL,"),
            ({"max_retries": -1}, "max_retries is -1; it must be a whole number, 0 or more"),
            ({"max_retries": "5"}, "max_retries is '5'; it must be a whole number, 0 or more"),
            ({"max_retries": True}, "max_retries is True; it must be a whole number, 0 or more"),
            ({"timeout": "soon"}, "timeout: 'soon' is not a duration; write 45s, 30m"),
            ({"timeout": 30}, "timeout: 30 is not a duration; write 45s, 30m"),
            ({"timeout": None}, "timeout: None is not a duration"),
            ({"timeout": "99999999999d"}, "timeout: "),
            ({"timeout": "0s"}, "timeout is 0s; it must be whole seconds, at least 1"),
            ({"timeout": "1.5s"}, "timeout is 1.5s; it must be whole seconds, at least 1"),
            ({"queue_timeout": "soon"}, "queue_timeout: 'soon' is not a duration; write 45s, 30m"),
            ({"queue_timeout": "0s"}, "queue_timeout is 0s; it must be whole seconds, at least 1"),
            ({"queue_timeout": "1.5s"}, "queue_timeout is 1.5s; it must be whole seconds, at"),
            ({"retry_base": "0s"}, "retry_base is 0s; it must be whole seconds, at least 1"),
            ({"retry_base": "20m"}, "retry_cap is shorter than retry_base"),
            ({"retry_cap": "119m"}, "retry_cap is 1h59m; it must be more than a minute below"),
            ({"after": ["nothing_else"]}, "depends on 'nothing_else', which does not exist."),
            ({"after": ["nothing"]}, "cycle: nothing → nothing"),
            ({"after": "ingest"}, "after is ingest; it must be a list: after=[ingest]"),
            ({"after": nothing}, "after is nothing; it must be a list: after=[nothing]"),
            ({"afer": ["ingest"]}, "a job has no afer=. Did you mean 'after'?"),
            ({"name": "with space"}, "its name must be an identifier of at most 100 characters"),
            ({"name": "x" * 101}, "its name must be an identifier of at most 100 characters"),
        ],
    )
    def test_fault_of_a_job_is_told_with_its_line(self, options: dict[str, Any], said: str) -> None:
        def define(pipeline: Pipeline) -> int:
            number = line()
            pipeline.job(**options)(nothing)
            return number

        text, _ = only_fault(define)
        assert said in text

    @pytest.mark.parametrize(
        ("function", "said"),
        [
            (
                lambda: None,
                "cannot be called so (too many positional arguments); it is called with one",
            ),
            (lambda ctx, more: None, "missing a required argument: 'more'"),
            (coroutine, "is async"),
            (generator, "is a generator"),
            (functools.partial(coroutine), "is async"),
            (AsyncCallable(), "is async"),
            (Pipeline, "is no function"),
        ],
    )
    def test_function_that_could_not_do_its_work_is_refused(
        self, function: Callable[..., Any], said: str
    ) -> None:
        pipeline = Pipeline("mine", markets=["US_EQ"])
        pipeline.job(name="a")(function)
        (fault,) = pipeline.faults()
        assert said in fault

    @pytest.mark.parametrize(
        "function",
        [
            with_database,
            functools.partial(lambda ctx, more: None, more=1),
            CallableObject(),
            CallableObject().method,
            lambda *arguments: None,
            lambda ctx, more=1: None,
            print,
        ],
    )
    def test_function_that_can_be_called_with_the_context_is_taken(
        self, function: Callable[..., Any]
    ) -> None:
        pipeline = Pipeline("mine", markets=["US_EQ"])
        pipeline.job(name="a")(function)
        assert pipeline.faults() == ()

    def test_function_without_a_name_must_be_given_one(self) -> None:
        pipeline = Pipeline("mine", markets=["US_EQ"])
        pipeline.job()(functools.partial(nothing))
        (fault,) = pipeline.faults()
        assert "its name must be an identifier of at most 100 characters; give it one" in fault

    def test_name_without_its_keyword_is_told(self) -> None:
        pipeline = Pipeline("mine", markets=["US_EQ"])
        number = line()
        pipeline.job("ingest")(nothing)
        (fault,) = pipeline.faults()
        assert fault == f"{HERE}:{number}: a job's name is given as name='ingest'"
        assert list(pipeline.jobs) == ["ingest"]

    def test_parentheses_that_were_forgotten_are_told(self) -> None:
        pipeline = Pipeline("mine", markets=["US_EQ"])
        number = line()
        pipeline.job(nothing)
        (fault,) = pipeline.faults()
        assert fault == f"{HERE}:{number}: write @….job(), with parentheses"

    def test_on_failure_must_take_the_context_and_the_message(self) -> None:
        pipeline = Pipeline("mine", markets=["US_EQ"], on_failure=nothing)
        pipeline.job()(nothing)
        (fault,) = pipeline.faults()
        assert "on_failure cannot be called so (too many positional arguments)" in fault

    @pytest.mark.parametrize("cap", ["118m59s", "1h"])
    def test_retry_may_wait_until_a_minute_before_the_visibility_timeout(self, cap: str) -> None:
        pipeline = Pipeline("mine", markets=["US_EQ"])
        pipeline.job(retry_cap=cap)(nothing)
        assert pipeline.faults() == ()
        assert pipeline.faults(visibility_timeout=timedelta(minutes=30)) != ()

    @pytest.mark.parametrize(
        ("name", "markets", "said"),
        [
            ("Mine", ["US_EQ"], "'Mine' must be a lower-case identifier"),
            ("my daily", ["US_EQ"], "'my daily' must be a lower-case identifier"),
            ("m" * 101, ["US_EQ"], "must be a lower-case identifier of at most 100 characters"),
            ("mine", [], "it has no markets"),
            ("mine", ["US_EQQ"], "No market or exchange is called 'US_EQQ'. Did you mean 'US_EQ'?"),
        ],
    )
    def test_fault_of_the_pipeline_is_told_with_its_line(
        self, name: str, markets: list[str], said: str
    ) -> None:
        number = line()
        pipeline = Pipeline(name, markets=markets)
        pipeline.job()(nothing)
        (fault,) = pipeline.faults()
        assert fault.startswith(f"{HERE}:{number}: ")
        assert said in fault

    def test_pipeline_without_jobs_is_refused(self) -> None:
        (fault,) = Pipeline("mine", markets=["US_EQ"]).faults()
        assert fault.endswith("it has no jobs")

    def test_unknown_catch_up_is_refused(self) -> None:
        pipeline = Pipeline("mine", markets=["US_EQ"], catch_up="some")
        pipeline.job()(nothing)
        (fault,) = pipeline.faults()
        assert "catch_up is 'some'; it must be one of none, latest, all" in fault

    def test_parameters_that_are_no_json_are_refused(self) -> None:
        pipeline = Pipeline("mine", markets=["US_EQ"], parameters={"since": date(2025, 1, 1)})
        pipeline.job()(nothing)
        (fault,) = pipeline.faults()
        assert "parameters must be JSON values" in fault

    def test_path_without_a_function_is_refused(self) -> None:
        pipeline = Pipeline("mine", markets=["US_EQ"])
        pipeline.add("package.module", name="job")
        (fault,) = pipeline.faults()
        assert "'package.module' is not of the form package.module:function" in fault

    def test_job_defined_twice_is_told_once_with_the_second_line(self) -> None:
        pipeline = Pipeline("mine", markets=["US_EQ"])
        pipeline.job()(nothing)
        number = line()
        pipeline.job()(nothing)
        assert pipeline.faults() == (f"{HERE}:{number}: job 'nothing' is defined twice",)

    def test_fault_of_the_dag_has_the_line_of_the_job_it_is_about(self) -> None:
        pipeline = Pipeline("mine", markets=["US_EQ"])
        pipeline.job(name="ingest")(nothing)
        number = line()
        pipeline.job(name="second", after=["ingst"])(nothing)
        assert pipeline.faults() == (
            (
                f"{HERE}:{number}: job 'second' depends on 'ingst', which does not exist. "
                f"Did you mean 'ingest'?"
            ),
        )

    def test_every_fault_is_told_at_once_and_none_while_it_is_written(self) -> None:
        pipeline = Pipeline("Mine", markets=["NYSE"], catch_up="some")
        pipeline.job(name="a", after=["b"], timeout="x")(nothing)
        pipeline.job(name="b", after=["a", "c"], max_retries=-1)(nothing)
        pipeline.job(name="d", required_state="HOLIDAY", priority="HIGH")(nothing)
        faults = pipeline.faults()
        for said in (
            "catch_up is 'some'",
            "timeout: 'x' is not a duration",
            "priority is 'HIGH'",
            "'Mine' must be a lower-case identifier",
            "No market or exchange is called 'NYSE'",
            "'b' depends on 'c', which does not exist",
            "cycle: a → b → a",
            "max_retries is -1",
            "required_state is HOLIDAY",
        ):
            assert sum(said in fault for fault in faults) == 1, said
        assert len(faults) == 9
        assert all(fault.startswith(f"{HERE}:") for fault in faults)

    def test_check_raises_all_faults(self) -> None:
        pipeline = Pipeline("mine", markets=[])
        with pytest.raises(PipelineError) as raised:
            pipeline.check()
        assert raised.value.faults == pipeline.faults()
        assert str(raised.value).startswith("pipeline 'mine': 2 faults.\n  - ")


class TestEmptyPhases:
    """A phase that is empty on every session never opens a window that ends with it."""

    @pytest.fixture(autouse=True)
    def _without_a_phase(self) -> Iterator[None]:
        own = {
            "zone": "UTC",
            "hours": {"days": "Mon-Fri", "open": "09:00", "close": "17:00"},
        }
        tables = {
            "BARE": {**own, "pre_open": "0s", "post_close": "0s"},
            # By the clock they last no time either.
            "CLOCK": {**own, "pre_open": "09:00", "post_close": "17:00"},
            "ALWAYS": {"zone": "UTC", "cut": "00:00"},
        }
        declarations, faults = read_declarations(tables, where=str, grounds="", shipped={})
        assert faults == []
        before = declare(declarations)
        yield
        declare(before)

    @pytest.mark.parametrize(
        ("market", "state"),
        [
            ("BARE", "PRE_OPEN"),
            ("BARE", "POST_CLOSE"),
            ("CLOCK", "PRE_OPEN"),
            ("CLOCK", "POST_CLOSE"),
            ("ALWAYS", "POST_CLOSE"),
            ("ALWAYS", "OVERNIGHT"),
        ],
    )
    def test_window_that_never_opens_is_refused(self, market: str, state: str) -> None:
        pipeline = Pipeline("mine", markets=["US_EQ", market])
        pipeline.job(required_state=state, window="state")(nothing)
        (fault,) = pipeline.faults()
        assert f"never opens, because {state} lasts no time on any session of {market}" in fault

    @pytest.mark.parametrize(
        ("market", "state", "window"),
        [
            ("BARE", "SESSION", "state"),
            ("BARE", "OVERNIGHT", "state"),
            ("BARE", "POST_CLOSE", "session"),
            ("CLOCK", "OVERNIGHT", "state"),
            ("ALWAYS", "SESSION", "state"),
            ("ALWAYS", "OVERNIGHT", "session"),
        ],
    )
    def test_window_that_opens_is_not(self, market: str, state: str, window: str) -> None:
        pipeline = Pipeline("mine", markets=[market])
        pipeline.job(required_state=state, window=window)(nothing)
        assert pipeline.faults() == ()

    @pytest.mark.parametrize(
        ("sessions", "said"),
        [
            ("last of week", []),
            ("every", []),
            ("first of week", ["on every session of BARE that is the first of week"]),
        ],
    )
    def test_start_is_looked_for_on_the_sessions_of_the_rule_alone(
        self, sessions: str, said: list[str]
    ) -> None:
        """Twenty hours after a close the next session has begun, but for weekends."""
        built = Pipeline("p", markets=["BARE"], sessions=sessions)
        built.add("jobs:a", start="close+20h")
        assert [fault.partition("start='close+20h' ")[2] for fault in built.faults()] == said

    def test_market_whose_calendar_is_damaged_takes_no_pipeline_from_the_others(
        self, break_sessions: Callable[[str], None]
    ) -> None:
        break_sessions("XWBO")
        pipeline = Pipeline("mine", markets=["XWBO", "XSWX"])
        pipeline.job(start="close+45m")(nothing)
        assert pipeline.faults() == ()

    def test_window_that_ends_before_an_upstream_may_start_is_refused(self) -> None:
        pipeline = Pipeline("mine", markets=["US_EQ"])
        pipeline.job(required_state="POST_CLOSE")(nothing)
        pipeline.job(name="between", after=[nothing])(lambda ctx: None)
        pipeline.job(name="early", after=["between"], required_state="SESSION", window="state")(
            lambda ctx: None
        )
        (fault,) = pipeline.faults()
        assert "job 'early': its window is over too soon: SESSION has ended when nothing" in fault


class TestSessions:
    def test_every_session_is_the_default(self) -> None:
        assert str(Pipeline("p", markets=["US_EQ"]).sessions) == "every"

    def test_faults_of_sessions_and_starts_are_told_with_their_lines(self) -> None:
        first = line()
        built = Pipeline(
            "p", markets=["US_EQ"], sessions="24th of month", short_sessions="maybe"
        )  # fmt: skip
        second = line()
        built.add("jobs:a", start="noon+1h")
        built.add("jobs:b", start="close+3h", required_state="POST_CLOSE", window="state")
        built.add("jobs:c", start="close+20h")
        built.add("jobs:d", start=45)  # type: ignore[arg-type]
        built.add("jobs:e", start="close+1h", required_state="SESSION", window="state")
        said = [fault.removeprefix(f"{HERE}:") for fault in built.faults()]
        assert [int(fault.partition(":")[0]) - first for fault in said[:1]] == [0]
        assert "short_sessions is 'maybe'; it must be one of run, skip" in said[0]
        assert said[1].startswith(f"{second}: start is 'noon+1h'; it must be 'open' or 'close'")
        assert said[2].startswith(f"{second + 3}: start is 45; it must be text")
        assert said[3].endswith(
            "sessions is '24th of month'; no month of US_EQ has so many sessions"
        )
        never = "its window never opens, because it is over before start="
        assert [fault for fault in said if never in fault] == [
            f"{second + 1}: job 'b': {never}'close+3h' on every session of US_EQ",
            f"{second + 4}: job 'e': {never}'close+1h' on every session of US_EQ",
        ]
        # That of c opens over weekends only, which is what it asks for.

    def test_what_is_no_rule_is_refused(self) -> None:
        for text in ("monthly", 3):
            built = Pipeline("p", markets=["US_EQ"], sessions=text)  # type: ignore[arg-type]
            built.add("jobs:a")
            (fault,) = built.faults()
            assert f"sessions is {text!r}; it must be 'every', or 'first'" in fault


class TestSensors:
    def test_what_is_said_of_a_sensor_is_stored_with_its_run(self) -> None:
        built = Pipeline("p", markets=["US_EQ"])

        @built.sensor(start="close+20m", expected="close+30m", give_up="close+6h", otherwise="skip")
        def ready(ctx: object) -> bool:
            return True

        built.add_sensor("jobs:other", every="1m", up_to="4m", give_up="90m", timeout="10s")
        built.add_sensor("jobs:seldom", every="30m")
        built.add("jobs:after", after=[ready, "other"])
        assert built.faults() == ()
        stored = built.dag("US_EQ", date(2025, 12, 2)).definition()["jobs"]
        assert stored[0]["sensor"] == {
            "every_seconds": 300.0,
            "up_to_seconds": 900.0,
            "expected": "close+30m",
            "give_up": "close+6h",
            "otherwise": "skip",
        }
        assert (stored[0]["start"], stored[0]["timeout_seconds"]) == ("close+20m", 120)
        assert stored[1]["sensor"]["give_up"] == "1h30m"
        assert stored[1]["timeout_seconds"] == 10
        assert stored[2]["sensor"]["up_to_seconds"] == 1800
        assert "sensor" not in stored[3]
        read = [JobMetadata.from_json(each) for each in stored]
        assert [job.to_json() for job in read] == stored

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"every": "0.5s"}, "every is 0.5s; it must be whole seconds, at least 1"),
            ({"every": "9d", "up_to": "10m"}, "up_to is 10m, and every is 9d; pauses only become"),
            ({"up_to": "367d"}, "up_to is 367d; it must be at most 366d"),
            ({"give_up": None}, "give_up is None; it must be text, such as 'close+6h'"),
            ({"give_up": "0s"}, "give_up is '0s'; a duration must be more than nothing"),
            ({"give_up": "999999d"}, "give_up is '999999d'; a duration must be more than nothing"),
            ({"otherwise": 5}, "otherwise is 5; it must be one of fail, skip"),
            ({"start": "close+9m", "give_up": "close+9m"}, "give_up='close+9m' is over when it is"),
            ({"expected": "6h"}, "is not between when it is first asked and give_up='6h' on every"),
            ({"start": "close", "expected": "open+1h"}, "expected='open+1h' is not between when"),
            ({"give_up": "noon"}, "give_up is 'noon'; 'noon' is not a duration"),
            ({"expected": "close+2d"}, "expected is 'close+2d'; it must be at most 1d"),
            ({"otherwise": "hope"}, "otherwise is 'hope'; it must be one of fail, skip"),
            ({"otherwise": "use:"}, "otherwise is 'use:'; it must be one of fail, skip"),
            ({"expected": {"US_EQ": "noon"}}, "expected of US_EQ is 'noon'; 'noon' is not a dur"),
            ({"give_up": {"US_EQ": "1s"}, "expected": "2h"}, "is not between when it is first"),
            ({"give_up": {}}, "give_up says nothing of US_EQ"),
            (
                {"give_up": {"US_EQ": "4h", "US_EP": "5h"}},
                "give_up is of 'US_EP', no market of the pipeline. Did you mean 'US_EQ'?",
            ),
            ({"evry": "1m"}, "a sensor has no evry=. Did you mean 'every'?"),
        ],
    )
    def test_fault_of_a_sensor_is_told_with_its_line(
        self, options: dict[str, Any], said: str
    ) -> None:
        built = Pipeline("p", markets=["US_EQ"])
        where = line()
        built.add_sensor("jobs:ready", **options)
        (fault,) = built.faults()
        assert fault.startswith(f"{HERE}:{where}: ")
        assert said in fault

    def test_times_of_a_sensor_may_be_told_by_market(self) -> None:
        built = Pipeline("p", markets=["US_EQ", "EU_EQ"])
        expected = {"US_EQ": "close+30m", "EU_EQ": "close+3h"}
        built.add_sensor("jobs:ready", start="close", expected=expected, give_up="close+6h")
        built.add_sensor("jobs:other", give_up={"US_EQ": "5h", "EU_EQ": "close+8h"})
        assert built.faults() == ()

        def limits(market: str) -> list[tuple[str, str]]:
            jobs = built.dag(market, date(2025, 12, 2)).definition()["jobs"]
            return [(each["sensor"]["expected"], each["sensor"]["give_up"]) for each in jobs]

        assert limits("US_EQ") == [("close+30m", "close+6h"), (None, "5h")]
        assert limits("EU_EQ") == [("close+3h", "close+6h"), (None, "close+8h")]

    def test_patient_daily_pipeline_waits_for_its_prices(self) -> None:
        assert patient_daily.faults() == ()
        jobs = patient_daily.jobs
        assert set(jobs) == {*daily.jobs, "prices_ready"}
        assert jobs["ingest_prices"].after == ("prices_ready",)
        assert jobs["prices_ready"].resolve().__name__ == "prices_ready"
