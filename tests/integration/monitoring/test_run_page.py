"""The page of a run, by real rows: its graph, jobs, attempts, logs, and why."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from sqlalchemy import update

from prometheus.core.market_state import MarketState
from prometheus.orchestration.deadlines import Deadline
from prometheus.orchestration.planning import SessionRange
from prometheus.persistence import logs
from prometheus.persistence.clock import start_replay
from prometheus.persistence.engine import writing
from prometheus.persistence.tables import dag_runs
from tests.integration.monitoring.conftest import SECRET, Web
from tests.integration.monitoring.test_pages import COMMON, Page, show
from tests.integration.persistence.world import BOOM, DAY, World, job

HOSTILE = """</pre></td><script src="//x"></script>'"""


def node(page: Page, name: str) -> dict[str, str]:
    (found,) = (
        each
        for each in page.all("a")
        if each.get("class", "").startswith("node") and each["aria-label"].startswith(f"{name}: ")
    )
    return found


def test_a_run_is_shown_as_graph_and_table(web: Web, world: World) -> None:
    dag = world.run(
        job("a", max_retries=0), job("b", required_state=MarketState.POST_CLOSE), job("c", "a", "b")
    )
    worker = world.worker()
    world.fail_for_good(dag, "a", worker)
    world.running(dag, "b", worker)
    page = show(web, f"/runs/{dag.dag_id}")
    assert len(web.statements) <= COMMON + 1
    assert [node(page, name)["class"] for name in "abc"] == [
        "node failed",
        "node running",
        "node pending",
    ]
    assert len(page.all("path")) == 2
    assert "ValueError: boom" in page.words
    assert "2025-12-02 21:00:00 to 2025-12-03 13:30:00" in page.words
    assert "session of 2025-12-02 , 14:30 to 21:00" in page.words
    assert len(page.all("tr")) == 4
    (why,) = (each for each in page.all("div") if each.get("class") == "why")
    assert why["data-hx-get"] == f"../why/{dag.dag_id}"


def test_deadlines_are_shown_and_what_became_of_them(web: Web, world: World) -> None:
    early = {"deadline": Deadline.parse("close+30m")}
    dag = world.run(job("a", **early), job("b"), deadline="next_open-30m")
    page = show(web, f"/runs/{dag.dag_id}")
    assert "Deadline missed: it was due by 2025-12-03 14:00:00" in page.words
    assert "Deadline missed: it was due by 2025-12-02 21:30:00" in page.words
    assert node(page, "a")["aria-label"] == "a: PENDING, deadline missed"
    assert node(page, "b")["aria-label"] == "b: PENDING"
    worker = world.worker()
    world.succeed(world.running(dag, "a", worker), worker)
    assert ", due by 2025-12-02 21:30:00" in show(web, f"/runs/{dag.dag_id}").words
    told = web.get(f"/api/v1/runs/{dag.dag_id}")
    assert told["deadline"] == {"at": "2025-12-03T14:00:00Z", "done_at": None, "missed": True}
    of_jobs = {each["job"]: each["deadline"] for each in told["jobs"]}
    assert of_jobs["b"] is None
    assert of_jobs["a"]["missed"]
    assert of_jobs["a"]["done_at"] is not None


def test_the_time_that_is_left_is_counted_down(web: Web, world: World) -> None:
    close, only = datetime(2025, 12, 2, 21, tzinfo=UTC), SessionRange(DAY, DAY)
    with writing(world.engine) as connection:
        start_replay(connection, market_at=close, speed=0, only=only, markets=["US_EQ"])
    dag = world.run(job("a", deadline=Deadline.parse("close+4h")))
    page = show(web, f"/runs/{dag.dag_id}")
    assert "Due by 2025-12-03 01:00:00 , in 4 h 0 min" in page.words
    (left,) = (each for each in page.all("span") if "data-until" in each)
    assert left["data-until"] == "2025-12-03T01:00:00+00:00"


def test_a_job_has_its_attempts_and_a_log_of_each(web: Web, world: World) -> None:
    dag = world.run(job("a", max_retries=1))
    worker = world.worker()
    first = world.running(dag, "a", worker)
    with writing(world.engine) as connection:
        logs.append(connection, first, 1, "hello\n")
        logs.append(connection, first, 2, f"my {SECRET} {HOSTILE}\n")
    world.fail(first, type(BOOM)("E: no", {"traceback": f"Traceback of {SECRET}\n"}))
    page = show(web, f"/runs/{dag.dag_id}?job=a&attempt=1")
    assert len(web.statements) <= COMMON + 1
    assert "chosen" in node(page, "a")["class"]
    assert "hello" in page.words
    assert f"my *** {HOSTILE}" in page.words
    assert "Traceback of ***" in page.words
    assert not [each for each in page.all("script") if each["src"] == "//x"]
    latest = show(web, f"/runs/{dag.dag_id}?job=a")
    assert "It has logged nothing yet." in latest.words
    attempts = [each["href"] for each in latest.all("a") if "attempt=" in each.get("href", "")]
    assert attempts == [f"../runs/{dag.dag_id}?job=a&attempt={n}#chosen" for n in (2, 1)]


def test_errors_and_names_stay_words_and_have_no_secrets(web: Web, world: World) -> None:
    dag = world.run(job("a", max_retries=0))
    execution_id = world.running(dag, "a", world.worker())
    world.fail(execution_id, type(BOOM)(f"E: {SECRET} {HOSTILE}", {}))
    page = show(web, f"/runs/{dag.dag_id}?job=a")
    assert f"E: *** {HOSTILE}" in page.words
    assert not [each for each in page.all("script") if each["src"] == "//x"]


def test_why_is_told_of_a_run_and_of_a_job(web: Web, world: World) -> None:
    dag = world.run(job("a", max_retries=0), job("b", "a"))
    world.fail_for_good(dag, "a", world.worker())
    page = show(web, f"/why/{dag.dag_id}")
    assert page.all("div", id="why")
    assert f"../runs/{dag.dag_id}?job=a" in page.links()
    assert "ValueError: boom" in page.words
    found = web.get(f"/api/v1/runs/{dag.dag_id}/jobs/b/why")
    of_job = show(web, f"/why/{dag.dag_id}?job=b")
    for reason in found["reasons"]:
        assert reason["text"] in of_job.words


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/runs/us_eq_tets_2025-12-02", "There is no run 'us_eq_tets_2025-12-02'. Did you mean"),
        ("/runs/us_eq_test_2025-12-02?job=x", "us_eq_test_2025-12-02 has no job 'x'"),
        ("/runs/us_eq_test_2025-12-02?job=a&attempt=7", "has no attempt 7"),
        ("/why/us_eq_test_2025-12-02?job=x", "us_eq_test_2025-12-02 has no job 'x'"),
        ("/why/nothing", "There is no run 'nothing'"),
    ],
)
def test_what_is_not_there_is_told(web: Web, world: World, path: str, why: str) -> None:
    world.run()
    assert why in show(web, path, 404).words
    assert show(web, path, 404).all("a", class_="home")


def test_a_run_without_a_session_says_why(web: Web, world: World) -> None:
    dag = world.run(day=date(2025, 12, 25))
    assert "It has no windows by the calendar as it is now: Christmas Day" in (
        show(web, f"/runs/{dag.dag_id}").words
    )


def test_a_run_of_another_release_is_told(web: Web, world: World) -> None:
    dag = world.run()
    with writing(world.engine) as connection:
        connection.execute(
            update(dag_runs).where(dag_runs.c.dag_id == dag.dag_id).values(definition={})
        )
    assert "can not be read" in show(web, f"/runs/{dag.dag_id}", 409).words


def test_a_large_run_is_drawn(web: Web, world: World) -> None:
    names = [f"job_{number}" for number in range(300)]
    jobs = [job(names[0])] + [job(name, names[at // 3]) for at, name in enumerate(names[1:])]
    dag = world.run(*jobs, day=datetime.now(UTC).date())
    page = show(web, f"/runs/{dag.dag_id}")
    assert len(page.all("tr")) == len(names) + 1
    assert len(page.all("path")) == len(names) - 1
