"""The page of a market's day: its runs by their jobs over time."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import update

from prometheus.core.days import describe_day
from prometheus.core.states import MarketState
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.monitoring.pages.calendar import KINDS, draw_year
from prometheus.monitoring.pages.gantt import Attempt, Row, draw_gantt, span_of, tell_attempt
from prometheus.monitoring.pages.lanes import Band
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence import operators
from prometheus.persistence.engine import writing
from prometheus.persistence.tables import dag_runs, job_executions
from tests.integration.monitoring.conftest import Web
from tests.integration.monitoring.test_pages import COMMON, show
from tests.integration.persistence.world import HOUR, World, job

NOW = datetime(2025, 12, 2, 21, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("attempt", "told"),
    [
        (
            Attempt(1, JobStatus.SUCCESS, at(60), at(50), at(48), at(40)),
            "attempt 1 SUCCESS, waited 10 min 0 s, in its queue 2 min 0 s, ran 8 min 0 s",
        ),
        (
            Attempt(2, JobStatus.RUNNING, at(9), at(9), at(9), None),
            "attempt 2 RUNNING, ran 9 min 0 s",
        ),
        (
            Attempt(1, JobStatus.PENDING, at(5), None, None, None),
            "attempt 1 PENDING, waited 5 min 0 s",
        ),
        (
            Attempt(1, JobStatus.QUEUED, at(5), at(3), None, None),
            "attempt 1 QUEUED, waited 2 min 0 s, in its queue 3 min 0 s",
        ),
        (
            Attempt(1, JobStatus.SKIPPED, at(5), None, None, at(4)),
            "attempt 1 SKIPPED, waited 1 min 0 s",
        ),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_an_attempt_is_told_by_what_it_did(attempt: Attempt, told: str) -> None:
    assert tell_attempt(attempt, NOW) == told
    picture = draw_gantt([Row("a", "./a", [attempt])], [], NOW)
    assert told in picture
    assert picture.count('class="bar') == (attempt.started_at is not None)
    assert ('class="queues"' in picture) == ("in its queue" in told)


def test_what_goes_on_does_so_until_now() -> None:
    row = Row("a", "./a", [Attempt(1, JobStatus.RUNNING, at(60), at(50), at(48), None)])
    begin, end = span_of([row], NOW)
    assert begin < at(50)
    assert end > NOW
    ended = Row("a", "./a", [Attempt(1, JobStatus.SUCCESS, at(60), at(50), at(48), at(40))])
    assert span_of([ended], NOW)[1] < at(39)
    assert span_of([], NOW) == (NOW - timedelta(seconds=1), NOW + timedelta(seconds=1))


def test_a_deadline_is_marked_where_it_is_in_the_time_that_is_shown() -> None:
    row = Row("a", "./a", [Attempt(1, JobStatus.SUCCESS, at(60), at(50), at(48), at(40))])
    picture = draw_gantt([row], [], NOW, deadline_at=at(45))
    assert "<title>deadline, 2025-12-02 20:15:00 UTC</title>" in picture
    assert 'class="deadline"' not in draw_gantt([row], [], NOW, deadline_at=at(-60))


def shape(picture: str) -> str:
    """What is left of a picture without what only colours it, or says what it is of."""
    plain = re.sub(r"<title>.*?</title>|class=\"[^\"]*\"|data-date=\"[^\"]*\"", "", picture)
    return re.sub(r" +", " ", plain)


def test_states_of_the_market_differ_without_their_colours() -> None:
    row = Row("a", "./a", [Attempt(1, JobStatus.SUCCESS, at(60), at(50), at(48), at(40))])
    states = (*MarketState, None)
    drawn = {shape(draw_gantt([row], [Band(each, at(55), at(45))], NOW)) for each in states}
    assert len(drawn) == len(states)


def test_dates_of_a_calendar_differ_without_their_colours() -> None:
    day = describe_day(TradingCalendar("US_EQ"), date(2025, 12, 2))
    drawn = {shape(draw_year([replace(day, kind=each)], date(2025, 1, 1))) for each in KINDS}
    assert len(drawn) == len(KINDS)


def test_a_session_that_is_run_again_years_later_is_drawn_in_two(web: Web, world: World) -> None:
    dag = world.run(job("a"), job("b"), day=date(2015, 6, 1))
    world.finish(dag, world.worker(), "a", "b")
    world.close(dag)
    then = datetime(2015, 6, 1, 20, tzinfo=UTC)
    for row in world.latest(dag).values():
        world.change(row.execution_id, scheduled_at=then, started_at=then, completed_at=then + HOUR)
    with writing(world.engine) as connection:
        operators.retry(connection, dag.dag_id, "b", actor="ada")
    world.finish(dag, world.worker(), "b")
    page = show(web, "/days/US_EQ/2015-06-01")
    assert len(page.all("svg", class_="gantt")) == 2
    told = [each["aria-label"] for each in page.all("a") if "attempt" in each.get("aria-label", "")]
    assert [each.split(",")[0] for each in told] == [
        "a: attempt 1 SUCCESS",
        "b: attempt 1 SUCCESS",
        "b: attempt 2 SUCCESS",
    ]
    bands = [each for each in page.all("rect") if each.get("class", "").startswith("band")]
    assert 2 <= len(bands) < 40
    for begin in ("2015-06-01 19:58", world.now().strftime("%Y-%m-%d")):
        assert f" {begin}" in page.words
    assert any(
        "over time, from 2015-06-01" in each.get("aria-label", "") for each in page.all("div")
    )


def test_what_waits_over_a_weekend_is_drawn_in_one(web: Web, world: World) -> None:
    dag = world.run(job("a"), job("b", "a"))
    worker = world.worker()
    first = world.running(dag, "a", worker)
    world.succeed(first, worker)
    ago = world.now() - 49 * HOUR
    world.change(first, scheduled_at=ago, started_at=ago, completed_at=ago)
    world.made(dag, 49 * HOUR)
    page = show(web, "/days/US_EQ/2025-12-02")
    assert len(page.all("svg", class_="gantt")) == 1


def test_runs_of_a_session_are_drawn(web: Web, world: World) -> None:
    dag = world.run(job("a", max_retries=1), job("b", "a"), deadline="next_open-30m")
    other = world.run(job("c"), pipeline="other")
    worker = world.worker()
    first = world.running(dag, "a", worker)
    world.fail(first)
    world.change(first, scheduled_at=world.now() - 2 * HOUR, started_at=world.now() - HOUR)
    page = show(web, "/days/US_EQ/2025-12-02")
    assert len(web.statements) <= COMMON + 1
    assert page.words.count("Deadline missed: it was due by 2025-12-03 14:00:00") == 1
    told = {each["aria-label"]: each["href"] for each in page.all("a") if "aria-label" in each}
    (of_a,) = (label for label in told if label.startswith("a: "))
    assert "attempt 1 FAILED" in of_a
    assert "in its queue 1 h 0 min, ran 1 h 0 min; attempt 2 QUEUED" in of_a
    assert told[of_a] == f"../../runs/{dag.dag_id}?job=a"
    assert {label.partition(":")[0] for label in told} >= {"a", "b", "c"}
    assert page.words.index(other.dag_id) < page.words.index(dag.dag_id)
    assert "Session 14:30 to 21:00" in page.words
    assert "../../days/US_EQ/2025-12-01" in page.links()
    assert "../../days/US_EQ/2025-12-03" in page.links()


def test_a_job_that_was_skipped_and_tried_again_has_its_attempts_in_order(
    web: Web, world: World
) -> None:
    """A skipped one never was due, and so is none of the first by its time."""
    dag = world.run(job("a", max_retries=0), job("b", "a", max_retries=0))
    worker = world.worker()
    world.fail_for_good(dag, "a", worker)
    world.end_waiting({world.ids(dag)["b"]: "a failed"}, JobStatus.SKIPPED)
    world.close(dag)
    with writing(world.engine) as connection:
        operators.retry(connection, dag.dag_id, actor="ada")
    world.finish(dag, worker, "a", "b")
    page = show(web, "/days/US_EQ/2025-12-02")
    (told,) = (
        each["aria-label"] for each in page.all("a") if each.get("aria-label", "").startswith("b: ")
    )
    assert re.fullmatch(r"b: attempt 1 SKIPPED.*; attempt 2 SUCCESS.*", told)


def test_its_hours_are_those_of_the_exchange_where_asked(web: Web, world: World) -> None:
    dag = world.run(job("a"))
    world.finish(dag, world.worker(), "a")
    page = show(web, "/days/US_EQ/2025-12-02")
    hours = page.all("text", class_="hour")
    assert {each["data-zone"] for each in hours} == {"America/New_York"}


def test_long_spans_have_dates(web: Web, world: World) -> None:
    row = Row(
        "a", "./a", [Attempt(1, JobStatus.SUCCESS, at(0), at(1440 * 120), at(1440 * 120), at(0))]
    )
    picture = draw_gantt([row], [], NOW)
    assert picture.count('data-form="day"') == picture.count('class="hour"') <= 9
    over_midnight = Row(
        "a", "./a", [Attempt(1, JobStatus.SUCCESS, at(0), at(60), at(60), at(-400))]
    )
    picture = draw_gantt([over_midnight], [], NOW)
    assert picture.count('data-form="day"') == 1
    assert ">12-03 00:00<" in picture


def test_runs_of_a_market_that_is_no_more_are_shown(web: Web, world: World) -> None:
    dag = world.run(job("a"))
    with writing(world.engine) as connection:
        connection.execute(update(dag_runs).values(market_id="NORDIC"))
        connection.execute(update(job_executions).values(market_id="NORDIC"))
    page = show(web, "/days/NORDIC/2025-12-02")
    assert "The market is in the settings no more." in page.words
    assert dag.dag_id in page.words


def test_a_day_without_runs_says_what_it_is(web: Web) -> None:
    page = show(web, "/days/US_EQ/2025-12-25")
    assert "No session: Christmas Day" in page.words
    assert "No run is of this day." in page.words
    assert "No run is of this day." in show(web, "/days/US_EQ/2100-01-01").words
    show(web, "/days/NOWHERE/2025-12-25", 404)
    show(web, "/days/US_EQ/soon", 422)


def test_it_is_linked_from_the_run_and_from_the_world(web: Web, world: World) -> None:
    dag = world.run(job("a"))
    assert "../days/US_EQ/2025-12-02" in show(web, f"/runs/{dag.dag_id}").links()
    assert any(link.startswith("./days/US_EQ/20") for link in show(web, "/").links())


def test_what_is_due_later_waits_until_then() -> None:
    later = Attempt(2, JobStatus.QUEUED, at(2), at(-8), None, None)
    assert tell_attempt(later, NOW) == "attempt 2 QUEUED, waits until 21:08:00 UTC"


def test_lengths_below_half_a_second_are_not_told() -> None:
    quick = Attempt(1, JobStatus.SUCCESS, at(1), at(1), at(1), at(1) + timedelta(seconds=0.3))
    assert tell_attempt(quick, NOW) == "attempt 1 SUCCESS"
