"""``/api/v1/executions``: every attempt, page after page, without secrets."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import update

from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence.engine import writing
from prometheus.persistence.executions import Failure
from prometheus.persistence.tables import dag_runs
from tests.integration.monitoring.conftest import SECRET, Web
from tests.integration.persistence.world import DAY, World, job

PATH = "/api/v1/executions"


def attempts(document: dict[str, Any]) -> set[tuple[str, int]]:
    return {(each["job"], each["attempt"]) for each in document["items"]}


def test_every_attempt_is_listed_the_last_one_first(web: Web, world: World) -> None:
    dag = world.run(job("a", max_retries=1))
    first = world.running(dag, "a", world.worker())
    world.fail(first)
    found = web.get(PATH)
    assert len(web.statements) <= 3
    assert [each["attempt"] for each in found["items"]] == [2, 1]
    second, first_shown = found["items"]
    assert (second["status"], second["retries"], second["worker"]) == ("QUEUED", 1, None)
    assert first_shown["execution_id"] == first
    assert first_shown["status"] == "FAILED"
    assert first_shown["error"] == "ValueError: boom"
    assert first_shown["window"]["opens_at"] < first_shown["window"]["closes_at"]


def test_executions_are_filtered(web: Web, world: World) -> None:
    dag, other = world.run(job("a"), job("b")), world.run(job("a"), pipeline="other")
    worker = world.worker()
    world.finish(dag, worker, "a")
    assert attempts(web.get(PATH, run=dag.dag_id)) == {("a", 1), ("b", 1)}
    assert len(web.get(PATH, job="a")["items"]) == 2
    (done,) = web.get(PATH, status="SUCCESS")["items"]
    assert done["dag_id"] == dag.dag_id
    assert web.get(PATH, worker="w@h")["items"] == [done]
    assert web.get(PATH, worker="nobody")["items"] == []
    assert len(web.get(PATH, market="US_EQ", run=other.dag_id)["items"]) == 1
    assert web.get(PATH, from_=done["started_at"])["items"] == [done]
    assert web.get(PATH, to=done["started_at"])["items"] == []


def test_pages_stay_as_they_are_while_attempts_come(web: Web, world: World) -> None:
    for days in range(2):
        world.run(job("a"), job("b"), job("c"), day=DAY + timedelta(days=days))
    before = {row.execution_id for row in world.rows()}
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = web.get(PATH, **query)
        seen += [each["execution_id"] for each in page["items"]]
        world.run(pipeline=f"later_{len(seen)}")
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert len(seen) == len(set(seen)) == 6
    assert set(seen) == before


def test_instants_have_a_zone(web: Web) -> None:
    naive = web.problem(PATH, 422, from_="2025-12-02T14:30:00")
    assert naive == "query.from: input should have timezone info"
    assert "must be an instant such as" in web.problem(PATH, 422, from_="1764633600")
    assert "must be an instant such as" in web.problem(PATH, 422, to="2025-12-02")
    far = web.problem(PATH, 422, to="9999-12-31T23:00:00-05:00")
    assert "outside the years that have dates" in far
    web.get(PATH, from_="2025-12-02T09:30:00-05:00")


def test_no_secret_of_the_settings_is_told(web: Web, world: World) -> None:
    """Neither as it is nor in a URL, in what jobs have raised and returned."""
    dag = world.run(job("a"), job("b"))
    worker = world.worker()
    leak = f"no answer from https://feed.example/?api_token={SECRET} and password {SECRET}"
    world.fail(world.running(dag, "a", worker), Failure(leak, {"type": "X", "traceback": leak}))
    result = {"url": [f"redis://:{SECRET}@host/0"], SECRET: 1, "other": "postgresql://u:p4ss@h/d"}
    world.succeed(world.running(dag, "b", worker), worker, result)
    found = {each["job"]: each for each in web.get(PATH)["items"]}
    assert found["a"]["status"] == JobStatus.FAILED
    assert found["a"]["error"] == (
        "no answer from https://feed.example/?api_token=*** and password ***"
    )
    assert found["b"]["result"] == {
        "url": ["redis://:***@host/0"],
        "***": 1,
        "other": "postgresql://u:***@h/d",
    }
    web.get(f"/api/v1/runs/{dag.dag_id}")
    web.get("/api/status/pipeline", market_id="US_EQ")


@pytest.mark.parametrize("path", [PATH, "/api/v1/runs/{}", "/api/dag/{}"])
def test_an_argument_stays_secret_once_no_pipeline_has_it_any_more(
    web: Web, world: World, path: str
) -> None:
    """It was rotated, or its pipeline is not loaded: the run's row alone knows it."""
    old = f"rotated{uuid4().hex}"
    dag = world.run(job("a"))
    with writing(world.engine) as connection:
        given = update(dag_runs).values(parameters={"api_token": old, "size": 7})
        connection.execute(given.where(dag_runs.c.dag_id == dag.dag_id))
    worker = world.worker()
    world.succeed(world.running(dag, "a", worker), worker, {"url": f"https://x/?key={old}"})
    answer = json.dumps(web.get(path.format(dag.dag_id)))
    assert "https://x/?key=***" in answer
    assert old not in answer
    assert len(web.statements) <= 3
