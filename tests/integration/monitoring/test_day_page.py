"""The page of a market's day: its runs by their jobs over time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from prometheus.monitoring.pages.gantt import Attempt, Row, draw_gantt, span_of, tell_attempt
from prometheus.orchestration.lifecycle import JobStatus
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


def test_runs_of_a_session_are_drawn(web: Web, world: World) -> None:
    dag = world.run(job("a", max_retries=1), job("b", "a"))
    other = world.run(job("c"), pipeline="other")
    worker = world.worker()
    first = world.running(dag, "a", worker)
    world.fail(first)
    world.change(first, scheduled_at=world.now() - 2 * HOUR, started_at=world.now() - HOUR)
    page = show(web, "/days/US_EQ/2025-12-02")
    assert len(web.statements) <= COMMON + 2
    told = {each["aria-label"]: each["href"] for each in page.all("a") if "aria-label" in each}
    (of_a,) = (label for label in told if label.startswith("a: "))
    assert "attempt 1 FAILED" in of_a
    assert "in its queue 1 h 0 min, ran 1 h 0 min; attempt 2 QUEUED" in of_a
    assert told[of_a] == f"../../runs/{dag.dag_id}?job=a"
    assert {label.partition(":")[0] for label in told} >= {"a", "b", "c"}
    assert page.words.index(other.dag_id) != page.words.index(dag.dag_id)
    assert "Session 14:30 to 21:00" in page.words
    assert "../../days/US_EQ/2025-12-01" in page.links()
    assert "../../days/US_EQ/2025-12-03" in page.links()


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


def test_lengths_below_half_a_second_are_not_told() -> None:
    quick = Attempt(1, JobStatus.SUCCESS, at(1), at(1), at(1), at(1) + timedelta(seconds=0.3))
    assert tell_attempt(quick, NOW) == "attempt 1 SUCCESS"
