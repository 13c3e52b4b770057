"""``/api/v1/runs``: pages of runs, and one run as its DAG."""

from __future__ import annotations

import base64
import json
from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from prometheus.core.market_state import MarketState
from prometheus.orchestration.dag import JobPriority
from prometheus.persistence.engine import writing
from prometheus.persistence.tables import backfills, dag_runs, job_executions
from tests.integration.monitoring.conftest import Web
from tests.integration.persistence.world import DAY, World, job


def ids(document: dict[str, Any]) -> list[str]:
    return [each["dag_id"] for each in document["items"]]


def pages(web: Web, path: str, **query: Any) -> list[dict[str, Any]]:
    """All pages of a list."""
    found = [web.get(path, **query)]
    while found[-1]["next"] is not None:
        found.append(web.get(path, **query, cursor=found[-1]["next"]))
    return found


def test_no_runs(web: Web) -> None:
    found = web.get("/api/v1/runs")
    assert (found["items"], found["next"]) == ([], None)


def test_a_run_is_listed_with_the_states_of_its_jobs(web: Web, world: World) -> None:
    dag = world.run(job("a", max_retries=1), job("b", "a"), job("c"))
    worker = world.worker()
    world.fail(world.running(dag, "a", worker))
    world.finish(dag, worker, "c")
    (found,) = web.get("/api/v1/runs")["items"]
    assert found["dag_id"] == "us_eq_test_2025-12-02"
    assert (found["market"], found["pipeline"], found["session_date"]) == (
        "US_EQ",
        "test",
        "2025-12-02",
    )
    assert found["status"] == "OPEN"
    assert found["jobs"] == {"PENDING": 1, "QUEUED": 1, "SUCCESS": 1}
    assert found["opens_at"] == "2025-12-02T13:30:00Z"
    assert found["completed_at"] is None
    assert len(web.statements) <= 3


def test_runs_are_filtered(web: Web, world: World) -> None:
    for pipeline, days in (("one", 0), ("one", 1), ("two", 0)):
        world.run(pipeline=pipeline, day=DAY + timedelta(days=days))
    closed = world.run(pipeline="gone", missed="the scheduler was away")
    one = ["us_eq_one_2025-12-03", "us_eq_one_2025-12-02"]
    assert ids(web.get("/api/v1/runs", pipeline="one")) == one
    assert ids(web.get("/api/v1/runs", status="FAILED")) == [closed.dag_id]
    assert ids(web.get("/api/v1/runs", from_="2025-12-03")) == one[:1]
    assert ids(web.get("/api/v1/runs", to="2025-12-02", pipeline="one")) == one[1:]
    assert len(ids(web.get("/api/v1/runs", market="US_EQ"))) == 4
    assert ids(web.get("/api/v1/runs", market="EU_EQ")) == []


def test_pages_stay_as_they_are_while_runs_come(web: Web, world: World) -> None:
    """Runs that come meanwhile, before and behind the page, put none on two pages or on none."""
    before = {world.run(day=DAY + timedelta(days=days)).dag_id for days in range(5)}
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    for number in range(9):
        page = web.get("/api/v1/runs", **query)
        seen += ids(page)
        world.run(pipeline="later", day=DAY + timedelta(days=9 + number))
        world.run(pipeline="earlier", day=DAY - timedelta(days=1 + number))
        if page["next"] is None or len(seen) > 9:
            break
        query["cursor"] = page["next"]
    assert len(seen) == len(set(seen))
    assert before <= set(seen)
    assert not any("later" in each for each in seen)


def test_a_page_has_at_most_what_was_asked_for(web: Web, world: World) -> None:
    """Also where it ends between runs of the same session."""
    made = {world.run(pipeline=name).dag_id for name in ("a", "b", "c", "d")}
    for limit, sizes in ((2, [2, 2]), (3, [3, 1]), (4, [4])):
        found = pages(web, "/api/v1/runs", limit=limit)
        assert [len(page["items"]) for page in found] == sizes
        assert {dag_id for page in found for dag_id in ids(page)} == made


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ({"limit": 0}, "query.limit: input should be greater than or equal to 1"),
        ({"limit": 201}, "query.limit: input should be less than or equal to 200"),
        ({"limit": "many"}, "query.limit: input should be a valid integer"),
        ({"maket": "US_EQ"}, "query.maket: extra inputs are not permitted"),
        ({"first": "2025-12-02"}, "query.first: extra inputs are not permitted"),
        ({"status": "DONE"}, "query.status: input should be 'OPEN'"),
        ({"from_": "yesterday"}, "query.from: must be a date such as 2012-11-23"),
        ({"to": "1764633600"}, "query.to: must be a date such as 2012-11-23"),
        ({"market": "US\x00EQ"}, "query.market: string should match pattern"),
        ({"cursor": "x"}, "The cursor is none that a page has given"),
        ({"cursor": "W10"}, "The cursor is none that a page has given"),
        ({"cursor": "WyIyMDI1LTEyLTAyIiwgIlx1MDAwMCJd"}, "The cursor is none that a page has"),
    ],
)
def test_what_can_not_be_asked_is_told(web: Web, query: dict[str, Any], why: str) -> None:
    assert why in web.problem("/api/v1/runs", 422, **query)


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59-10:00"])
def test_a_cursor_of_an_instant_that_is_none_in_utc_is_refused(web: Web, at: str) -> None:
    cursor = base64.urlsafe_b64encode(json.dumps([at, "x"]).encode()).decode().rstrip("=")
    for path in ("runs", "executions", "backfills", "alerts", "audit"):
        assert "The cursor is none" in web.problem(f"/api/v1/{path}", 422, cursor=cursor)


def test_a_run_is_shown_as_its_dag(web: Web, world: World) -> None:
    dag = world.run(
        job("a", priority=JobPriority.CRITICAL),
        job("b", "a", required_state=MarketState.POST_CLOSE),
        job("c", "a", "b"),
    )
    world.running(dag, "a", world.worker())
    found = web.get(f"/api/v1/runs/{dag.dag_id}")
    assert len(web.statements) <= 3
    assert found["run"]["jobs"] == {"PENDING": 2, "RUNNING": 1}
    assert [each["job"] for each in found["jobs"]] == ["a", "b", "c"]
    assert found["edges"] == [
        {"upstream": "a", "downstream": "b"},
        {"upstream": "a", "downstream": "c"},
        {"upstream": "b", "downstream": "c"},
    ]
    a, b, _ = found["jobs"]
    assert (a["status"], a["priority"], a["attempts"]) == ("RUNNING", "CRITICAL", 1)
    assert a["execution"]["worker"] == "w@h"
    assert b["window"] == {"opens_at": "2025-12-02T21:00:00Z", "closes_at": "2025-12-03T13:30:00Z"}
    assert found["session"]["open_at"] == "2025-12-02T14:30:00Z"
    assert found["closed"] is None
    assert web.get(f"/api/dag/{dag.dag_id}")["jobs"] == found["jobs"]


def test_a_run_without_a_session_says_why(web: Web, world: World) -> None:
    dag = world.run(day=date(2025, 12, 25))
    found = web.get(f"/api/v1/runs/{dag.dag_id}")
    assert (found["session"], found["closed"]) == (None, "Christmas Day")
    assert [each["window"] for each in found["jobs"]] == [None]


@pytest.mark.parametrize("path", ["/api/v1/runs", "/api/dag"])
def test_a_run_that_is_not_has_a_nearest(web: Web, world: World, path: str) -> None:
    dag = world.run()
    why = web.problem(f"{path}/us_eq_tets_2025-12-02", 404)
    assert why == f"There is no run 'us_eq_tets_2025-12-02'. Did you mean {dag.dag_id!r}?"
    assert len(web.statements) <= 3


def test_a_name_of_which_there_is_nothing_has_a_nearest(web: Web, world: World) -> None:
    for path in ("/api/v1/runs", "/api/v1/executions"):
        why = web.problem(path, 404, market="US_EQQ")
        assert "'US_EQQ'" in why
        assert "US_EQ'" in why
        assert web.get(path, market="EU_EQ")["items"] == []  # which is known, and has no runs
    why = web.problem("/api/v1/runs", 404, pipeline="dayly")
    assert why == "There is no pipeline 'dayly', nor anything of one. Did you mean 'daily'?"
    assert web.get("/api/v1/runs", pipeline="daily")["items"] == []
    world.run(pipeline="gone")
    with writing(world.engine) as connection:
        connection.execute(update(dag_runs).values(market_id="GONE"))
        connection.execute(update(job_executions).values(market_id="GONE"))
    for path in ("/api/v1/runs", "/api/v1/executions"):
        assert len(web.get(path, market="GONE")["items"]) == 1
        # Nothing of it is meant, but there is something.
        assert web.get(path, market="GONE", status="FAILED")["items"] == []
        assert len(web.statements) <= 3
    assert web.get("/api/v1/runs", pipeline="gone", status="FAILED")["items"] == []
    assert len(web.statements) <= 3


def test_a_name_is_known_where_anything_has_it(web: Web, world: World) -> None:
    """Whatever list is asked for, and whichever of two names is not known."""
    gone = {"market": "GONE", "pipeline": "gone"}
    paths = [f"/api/v1/{name}" for name in ("alerts", "backfills", "runs")]
    for path in paths:
        for names in ({"market": "US_EQQ"}, {"market": "US_EQ", "pipeline": "dayly"}):
            assert "Did you mean" in web.problem(path, 404, **names), (path, names)
    asked = {"market": "US_EQ", "first": "2012-11-19", "last": "2012-11-23", "reason": "x"}
    web.post("/api/v1/backfills", asked)
    with writing(world.engine) as connection:
        connection.execute(update(backfills).values(market_id="GONE", pipeline="gone"))
    assert len(web.get("/api/v1/backfills", **gone)["items"]) == 1
    for path in paths:
        assert web.get(path, market="GONE", pipeline="daily")["items"] == []
        assert "'dayly'" in web.problem(path, 404, market="GONE", pipeline="dayly")


def test_a_run_of_another_release_is_told_and_holds_up_no_other(web: Web, world: World) -> None:
    dag, other = world.run(), world.run(pipeline="other")
    with writing(world.engine) as connection:
        connection.execute(
            update(dag_runs).where(dag_runs.c.dag_id == dag.dag_id).values(definition={})
        )
    assert "can not be read" in web.problem(f"/api/v1/runs/{dag.dag_id}", 409)
    assert len(ids(web.get("/api/v1/runs"))) == 2
    web.get(f"/api/v1/runs/{other.dag_id}")
