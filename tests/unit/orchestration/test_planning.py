"""Which runs should exist, and what becomes of sessions that were missed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prometheus.core.declarations import read_declarations
from prometheus.core.markets import declare
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import HorizonError
from prometheus.orchestration.pipeline import CatchUp, Pipeline
from prometheus.orchestration.planning import (
    PlannedRun,
    SessionRange,
    next_opening,
    plan_runs,
    session_bounds,
)

US = TradingCalendar("US_EQ")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def pipeline(catch_up: CatchUp, *, state: str | None = "POST_CLOSE") -> Pipeline:
    built = Pipeline("nightly", markets=["US_EQ"], catch_up=catch_up)
    built.add("jobs:first", required_state=state)
    built.add("jobs:second", after=["first"])
    return built


def plan(
    catch_up: CatchUp,
    *,
    now: str,
    first_seen: str = "2012-11-01T00:00",
    existing: tuple[str, ...] = (),
    only: tuple[str, str] | None = None,
    state: str | None = "POST_CLOSE",
) -> tuple[PlannedRun, ...]:
    return plan_runs(
        pipeline(catch_up, state=state),
        US,
        "US_EQ",
        existing={date.fromisoformat(day) for day in existing},
        first_seen_at=at(first_seen),
        now=at(now),
        only=SessionRange(*map(date.fromisoformat, only)) if only else None,
    )


NIGHTLY = pipeline(CatchUp.LATEST)


def shown(runs: tuple[PlannedRun, ...]) -> list[tuple[str, str]]:
    return [
        (run.dag.as_of_date.isoformat(), "missed" if run.missed else "forced" if run.forced else "")
        for run in runs
    ]


UNTIL_THE_19TH = ("2012-10-31", *(f"2012-11-{day:02}" for day in range(1, 20)))
"""Existing runs; the dates without a session among them do no harm."""


class TestLive:
    def test_run_is_planned_from_the_sessions_pre_open_on(self) -> None:
        before = plan(CatchUp.LATEST, now="2012-11-20T14:29:59", existing=UNTIL_THE_19TH)
        # 20 November 2012: PRE_OPEN at 08:30 in New York.
        early = plan(CatchUp.LATEST, now="2012-11-20T13:29:59", existing=UNTIL_THE_19TH)
        at_once = plan(CatchUp.LATEST, now="2012-11-20T13:30:00", existing=UNTIL_THE_19TH)
        assert shown(early) == []
        assert shown(at_once) == shown(before) == [("2012-11-20", "")]
        assert at_once[0].dag.dag_id == "us_eq_nightly_2012-11-20"
        assert at_once[0].bounds == session_bounds(US, date(2012, 11, 20))

    def test_run_that_exists_is_not_planned_again(self) -> None:
        existing = (*UNTIL_THE_19TH, "2012-11-20")
        assert plan(CatchUp.ALL, now="2012-11-20T22:00", existing=existing) == ()

    def test_sessions_that_are_known_to_have_their_runs_are_not_looked_at(self) -> None:
        def planned(since: date) -> list[tuple[str, str]]:
            runs = plan_runs(
                pipeline(CatchUp.ALL),
                US,
                "US_EQ",
                existing=(),
                first_seen_at=at("2012-11-14T00:00"),
                now=at("2012-11-20T22:00"),
                since=since,
            )
            return shown(runs)

        assert planned(date(2012, 11, 19)) == [("2012-11-19", "forced"), ("2012-11-20", "")]
        assert planned(date.min)[-2:] == planned(date(2012, 11, 19))
        assert len(planned(date.min)) > 2

    @pytest.mark.parametrize("now", ["2012-11-22T14:30", "2012-11-22T21:30", "2012-11-24T12:00"])
    def test_holidays_and_weekends_make_no_run(self, now: str) -> None:
        existing = (*UNTIL_THE_19TH, "2012-11-20", "2012-11-21", "2012-11-23")
        assert plan(CatchUp.ALL, now=now, existing=existing) == ()

    @pytest.mark.promise("P1")
    def test_no_day_of_two_months_has_a_run_without_a_session(self) -> None:
        runs = plan(CatchUp.ALL, now="2013-01-05T00:00", first_seen="2012-11-01T00:00")
        sessions = US.trading_days(date(2012, 11, 1), date(2013, 1, 4))
        assert {run.dag.as_of_date for run in runs} <= {date(2012, 10, 31), *sessions}
        assert {run.dag.as_of_date for run in runs} >= set(sessions)


class TestCatchUp:
    """An outage from the evening of the 20th to the 28th; sessions 21, 23, 26 and 27."""

    def plan(self, catch_up: CatchUp) -> tuple[PlannedRun, ...]:
        return plan(
            catch_up,
            now="2012-11-28T12:00",
            existing=(*UNTIL_THE_19TH, "2012-11-20"),
        )

    @pytest.mark.promise("P7")
    def test_latest_runs_the_session_whose_windows_are_open_and_names_the_others_missed(
        self,
    ) -> None:
        assert shown(self.plan(CatchUp.LATEST)) == [
            ("2012-11-21", "missed"),
            ("2012-11-23", "missed"),
            ("2012-11-26", "missed"),
            ("2012-11-27", ""),
        ]

    def test_all_forces_the_missed_sessions_oldest_first(self) -> None:
        assert shown(self.plan(CatchUp.ALL)) == [
            ("2012-11-21", "forced"),
            ("2012-11-23", "forced"),
            ("2012-11-26", "forced"),
            ("2012-11-27", ""),
        ]

    def test_none_runs_nothing_late(self) -> None:
        assert shown(self.plan(CatchUp.NONE)) == [
            ("2012-11-21", "missed"),
            ("2012-11-23", "missed"),
            ("2012-11-26", "missed"),
            ("2012-11-27", "missed"),
        ]

    def test_reason_says_until_when_it_was_due_and_which_policy_left_it(self) -> None:
        run = self.plan(CatchUp.LATEST)[1]  # of Friday the 23rd
        assert run.missed == (
            "missed: no scheduler was running while it was due (until 2012-11-26 13:30 UTC), "
            "and catch_up is latest"
        )

    def test_all_stops_at_the_latest_ten_in_a_row(self) -> None:
        runs = plan(CatchUp.ALL, now="2012-12-10T12:00", existing=UNTIL_THE_19TH)
        sessions = US.trading_days(date(2012, 11, 20), date(2012, 12, 7))
        assert [run.dag.as_of_date for run in runs] == sessions
        kinds = [kind for _, kind in shown(runs)]
        assert kinds == ["missed"] * (len(sessions) - 11) + ["forced"] * 10 + [""]
        assert "catch_up is all, at most 10" in str(runs[0].missed)

    def test_planning_goes_on_where_a_crash_left_it(self) -> None:
        whole = shown(plan(CatchUp.ALL, now="2012-12-10T12:00", existing=UNTIL_THE_19TH))
        for done in range(len(whole)):
            existing = (*UNTIL_THE_19TH, *(day for day, _ in whole[:done]))
            rest = plan(CatchUp.ALL, now="2012-12-10T12:00", existing=existing)
            assert shown(rest) == whole[done:]


class TestNone:
    def test_scheduler_that_is_a_little_late_is_on_time(self) -> None:
        existing = UNTIL_THE_19TH
        assert shown(
            plan(CatchUp.NONE, now="2012-11-20T13:34:59", existing=existing, state=None)
        ) == [("2012-11-20", "")]
        assert shown(
            plan(CatchUp.NONE, now="2012-11-20T13:35:00", existing=existing, state=None)
        ) == [("2012-11-20", "missed")]

    def test_run_waits_for_its_first_window(self) -> None:
        built = Pipeline("nightly", markets=["US_EQ"], catch_up=CatchUp.NONE)
        built.add("jobs:only", required_state="POST_CLOSE")
        runs = plan_runs(
            built,
            US,
            "US_EQ",
            existing={date.fromisoformat(day) for day in UNTIL_THE_19TH},
            first_seen_at=at("2012-11-01T00:00"),
            now=at("2012-11-20T20:59"),
        )
        assert shown(runs) == [("2012-11-20", "")]

    def test_session_that_was_late_when_the_pipeline_came_is_none_of_its_business(self) -> None:
        for now in ("2012-11-20T16:00", "2012-11-20T22:00", "2012-11-21T13:29"):
            runs = plan(CatchUp.NONE, now=now, first_seen="2012-11-20T16:00", state=None)
            assert runs == ()
        later = plan(
            CatchUp.NONE, now="2012-11-21T13:30", first_seen="2012-11-20T16:00", state=None
        )
        assert shown(later) == [("2012-11-21", "")]


class TestFirstSeen:
    @pytest.mark.parametrize("catch_up", [CatchUp.LATEST, CatchUp.ALL])
    def test_new_pipeline_runs_the_latest_session_while_its_windows_are_open(
        self, catch_up: CatchUp
    ) -> None:
        # Saturday; Friday's windows are open until Monday.
        runs = plan(catch_up, now="2012-11-24T12:00", first_seen="2012-11-24T12:00")
        assert shown(runs) == [("2012-11-23", "")]

    @pytest.mark.parametrize("catch_up", list(CatchUp))
    def test_sessions_over_before_the_pipeline_came_are_none_of_its_business(
        self, catch_up: CatchUp
    ) -> None:
        runs = plan(catch_up, now="2012-11-26T13:30", first_seen="2012-11-26T13:30")
        assert shown(runs) == [("2012-11-26", "")]

    def test_session_that_was_open_when_the_pipeline_came_can_be_missed(self) -> None:
        runs = plan(CatchUp.ALL, now="2012-11-28T12:00", first_seen="2012-11-24T12:00")
        assert shown(runs) == [
            ("2012-11-23", "forced"),
            ("2012-11-26", "forced"),
            ("2012-11-27", ""),
        ]

    def test_long_holidays_do_not_hide_a_window_that_is_still_open(self) -> None:
        # Golden Week 2019: Tokyo alone was closed for ten days.
        tokyo = TradingCalendar("XTKS")
        built = Pipeline("nightly", markets=["XTKS"])
        built.add("jobs:only", required_state="POST_CLOSE")
        now = at("2019-05-06T12:00")
        runs = plan_runs(built, tokyo, "XTKS", existing=(), first_seen_at=now, now=now)
        assert shown(runs) == [("2019-04-26", "")]


class TestBounds:
    def test_replay_runs_only_the_sessions_of_its_bounds(self) -> None:
        runs = plan(
            CatchUp.ALL,
            now="2012-11-28T12:00",
            first_seen="2012-11-21T13:30",
            only=("2012-11-21", "2012-11-23"),
        )
        assert [day for day, _ in shown(runs)] == ["2012-11-21", "2012-11-23"]

    def test_nothing_before_a_replays_first_session_is_caught_up(self) -> None:
        runs = plan(
            CatchUp.ALL,
            now="2012-11-21T13:30",
            first_seen="2012-11-21T13:30",
            only=("2012-11-21", "2012-11-23"),
        )
        assert shown(runs) == [("2012-11-21", "")]


class TestHorizon:
    def test_session_on_the_last_known_date_is_planned(self) -> None:
        last = US.trading_days(US.horizon - timedelta(days=10), US.horizon)[-1]
        now = US.phases(last).close_at
        runs = plan_runs(
            pipeline(CatchUp.LATEST), US, "US_EQ", existing=(), first_seen_at=now, now=now
        )
        assert [run.dag.as_of_date for run in runs][-1] == last

    def test_time_past_the_calendar_is_an_error_not_an_empty_plan(self) -> None:
        now = datetime.combine(US.horizon, datetime.min.time(), UTC) + timedelta(days=3)
        with pytest.raises(HorizonError, match="install a release"):
            plan_runs(
                pipeline(CatchUp.LATEST),
                US,
                "US_EQ",
                existing=(),
                first_seen_at=now - timedelta(days=100),
                now=now,
            )

    def test_calendars_first_date_can_be_planned(self) -> None:
        now = datetime.combine(US.first, datetime.min.time(), UTC) + timedelta(days=5)
        runs = plan_runs(
            pipeline(CatchUp.LATEST), US, "US_EQ", existing=(), first_seen_at=now, now=now
        )
        assert len(runs) == 1


class TestFarFromMidnight:
    """Markets whose sessions begin far from midnight UTC of their date."""

    @pytest.fixture(autouse=True)
    def _declared(self) -> Iterator[None]:
        tables = {
            # Opens at 11:00 the day before in Auckland: 22:00 UTC two days before its date.
            "FAR": {
                "zone": "Pacific/Auckland",
                "hours": {"days": "Mon-Fri", "open": "12:00-1d", "close": "10:00"},
                "pre_open": "24h",
            },
            "LATER": {
                "zone": "UTC",
                "hours": {
                    "from": date(2027, 1, 4),
                    "days": "Mon-Fri",
                    "open": "09:00",
                    "close": "17:00",
                },
            },
        }
        declarations, faults = read_declarations(tables, where=str, grounds="", shipped={})
        assert faults == []
        before = declare(declarations)
        yield
        declare(before)

    @pytest.mark.parametrize("start", ["open-24h", None])
    def test_run_is_made_when_it_opens(self, start: str | None) -> None:
        calendar = TradingCalendar("FAR")
        built = Pipeline("early", markets=["FAR"])
        built.add("jobs:first", start=start)
        opens_at = calendar.phases(date(2026, 11, 25)).open_at - timedelta(hours=24)
        assert opens_at == at("2026-11-22T23:00")
        assert next_opening(built, calendar, opens_at - timedelta(seconds=1)) == opens_at
        runs = plan_runs(built, calendar, "FAR", existing=(), first_seen_at=opens_at, now=opens_at)
        assert runs[-1].dag.as_of_date == date(2026, 11, 25)

    def test_market_that_has_not_begun_has_no_runs_and_no_fault(self) -> None:
        calendar = TradingCalendar("LATER")
        now = at("2026-11-26T12:00")
        built = Pipeline("later", markets=["LATER"])
        built.add("jobs:first")
        assert plan_runs(built, calendar, "LATER", existing=(), first_seen_at=now, now=now) == ()
        assert next_opening(built, calendar, now) == at("2027-01-04T08:00")


class TestNextOpening:
    @pytest.mark.parametrize(
        ("now", "expected"),
        [
            ("2012-11-21T13:29:59", "2012-11-21T13:30"),
            ("2012-11-21T13:30", "2012-11-23T13:30"),
            ("2012-11-23T20:00", "2012-11-26T13:30"),
        ],
    )
    def test_next_opening_is_the_next_sessions_pre_open(self, now: str, expected: str) -> None:
        assert next_opening(NIGHTLY, US, at(now)) == at(expected)

    def test_next_opening_keeps_to_a_replays_bounds(self) -> None:
        only = SessionRange(date(2012, 11, 21), date(2012, 11, 23))
        assert next_opening(NIGHTLY, US, at("2012-10-01T00:00"), only=only) == at(
            "2012-11-21T13:30"
        )
        assert next_opening(NIGHTLY, US, at("2012-11-22T00:00"), only=only) == at(
            "2012-11-23T13:30"
        )
        assert next_opening(NIGHTLY, US, at("2012-11-23T13:30"), only=only) is None

    def test_replay_may_begin_with_the_calendars_first_date(self) -> None:
        only = SessionRange(US.first, US.first + timedelta(days=7))
        begin = datetime.combine(US.first, datetime.min.time(), UTC) - timedelta(days=1)
        first = US.trading_days(US.first, US.first + timedelta(days=7))[0]
        assert next_opening(NIGHTLY, US, begin, only=only) == US.phases(first).pre_open_at

    def test_there_is_none_past_the_horizon(self) -> None:
        end = datetime.combine(US.horizon, datetime.min.time(), UTC)
        assert next_opening(NIGHTLY, US, end + timedelta(days=1)) is None
        assert next_opening(NIGHTLY, US, end + timedelta(days=1000)) is None


@given(
    seen=st.integers(0, 60 * 24),
    later=st.integers(0, 60 * 24),
    done=st.sets(st.integers(0, 60)),
    catch_up=st.sampled_from(list(CatchUp)),
)
def test_plans_are_in_order_new_and_never_of_the_future(
    seen: int, later: int, done: set[int], catch_up: CatchUp
) -> None:
    first_seen = at("2012-10-20T00:00") + timedelta(hours=seen)
    now = first_seen + timedelta(hours=later)
    existing = {date(2012, 10, 15) + timedelta(days=number) for number in done}
    runs = plan_runs(
        pipeline(catch_up),
        US,
        "US_EQ",
        existing=existing,
        first_seen_at=first_seen,
        now=now,
    )
    days = [run.dag.as_of_date for run in runs]
    assert days == sorted(set(days))
    assert existing.isdisjoint(days)
    assert all(US.is_trading_day(day) for day in days)
    assert all(run.opens_at <= now for run in runs)
    assert sum(run.forced for run in runs) <= (10 if catch_up is CatchUp.ALL else 0)
    assert not any(run.forced and run.missed for run in runs)
    # Planned again after it was carried out, at the same instant: nothing is left to do.
    assert (
        plan_runs(
            pipeline(catch_up),
            US,
            "US_EQ",
            existing=existing | set(days),
            first_seen_at=first_seen,
            now=now,
        )
        == ()
    )


MONTHLY = Pipeline("monthly", markets=["US_EQ"], sessions="last of month", catch_up=CatchUp.ALL)
MONTHLY.add("jobs:first", start="close+45m")


def plan_monthly(
    now: str,
    *,
    existing: tuple[str, ...] = (),
    calendar: TradingCalendar = US,
    first_seen: str = "2012-10-10T00:00",
) -> list[tuple[str, str]]:
    return shown(
        plan_runs(
            MONTHLY,
            calendar,
            "US_EQ",
            existing={date.fromisoformat(day) for day in existing},
            first_seen_at=at(first_seen),
            now=at(now),
        )
    )


class TestSessions:
    def test_only_the_sessions_of_the_rule_have_runs_and_no_other_is_missed(self) -> None:
        assert plan_monthly("2012-11-29T22:00", existing=("2012-10-31",)) == []
        assert plan_monthly("2012-11-30T13:29", existing=("2012-10-31",)) == []
        assert plan_monthly("2012-11-30T13:30", existing=("2012-10-31",)) == [("2012-11-30", "")]
        assert plan_monthly("2012-12-10T22:00") == [
            ("2012-10-31", "forced"),
            ("2012-11-30", "forced"),
        ]

    def test_next_opening_is_that_of_the_next_session_of_the_rule(self) -> None:
        assert next_opening(MONTHLY, US, at("2012-11-30T13:30")) == at("2012-12-31T13:30")

    def test_run_of_a_job_before_pre_open_opens_with_it(self) -> None:
        early = Pipeline("early", markets=["US_EQ"])
        early.add("jobs:first", start="open-6h")
        assert next_opening(early, US, at("2012-11-22T00:00")) == at("2012-11-23T08:30")
        before, then = (
            plan_runs(
                early,
                US,
                "US_EQ",
                existing={date(2012, 11, 21)},
                first_seen_at=at("2012-11-21T15:00"),
                now=at(now),
            )
            for now in ("2012-11-23T08:29", "2012-11-23T08:30")
        )
        assert (shown(before), shown(then)) == ([], [("2012-11-23", "")])

    def test_session_of_which_it_is_not_known_waits_and_is_said_after_those_that_are(self) -> None:
        cut = TradingCalendar("US_EQ")
        cut.horizon = date(2012, 12, 20)

        def plan_cut(now: str, *existing: str) -> list[tuple[str, str]]:
            seen = "2012-11-20T00:00"
            return plan_monthly(now, existing=existing, calendar=cut, first_seen=seen)

        assert plan_cut("2012-12-19T22:00", "2012-11-30") == []
        assert plan_cut("2012-12-20T22:00") == [("2012-11-30", "forced")]
        with pytest.raises(HorizonError, match="2012-12-21 is after the last date"):
            plan_cut("2012-12-20T22:00", "2012-11-30")
