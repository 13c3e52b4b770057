"""No page and no list asks its database much, however much there is to be shown."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from prometheus.actors import Role
from prometheus.monitoring.guard import PUBLIC
from prometheus.orchestration.planning import SessionRange
from prometheus.passwords import hash_password
from prometheus.persistence import clock, logs, operators, pauses, runs, users
from prometheus.persistence.engine import writing
from tests.integration.monitoring.conftest import Web
from tests.integration.monitoring.test_foreign_sites import walk
from tests.integration.monitoring.test_pages import lead
from tests.integration.persistence.world import DAY, World, job

MOST = 3
"""With the one by which every request asks who makes it."""
MORE: Mapping[str, int] = {
    # Whether anybody is known and who asks; the revision (two), the moment, ends (two), workers,
    # queues and what runs, what waits and is not paused, open runs, their deadlines (two, of which
    # one is kept), and alerts.
    "/metrics": 14,
}
QUERIES: Mapping[str, str] = {
    "/history": "?market=US_EQ&pipeline=test",
    "/runs/{dag_id}": "?job=a&attempt=1",
    "/api/status/pipeline": "?market_id=US_EQ",
}
ENDLESS = "/events"
PASSWORD = "correct horse battery staple"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind of database: the statements are the same ones on both."""
    return sqlite_url


def sign_in(web: Web, world: World) -> dict[str, str]:
    """Make a user; return what a browser sends once they have signed in."""
    with writing(world.engine) as connection:
        users.add_user(connection, "ada", Role.VIEWER, hash_password(PASSWORD), actor="root")
        kept = users.password_hash_of(connection, "ada")
        assert kept is not None
        signed_in = users.sign_in(connection, "ada", kept, timedelta(hours=1))
        assert signed_in is not None
    return {"Cookie": f"{web.cookie}={signed_in[0]}"}


def test_every_page_and_list_asks_few_things(web: Web, world: World) -> None:
    lead(world)
    dags = [
        world.run(job("a"), job("b", "a"), day=DAY - timedelta(days=ago), deadline="close+4h")
        for ago in range(3)
    ]
    dag = dags[0]
    worker = world.worker()
    world.worker(name="silent@h", lease=-timedelta(hours=1))
    running = world.running(dag, "a", worker)
    world.running(dags[1], "a", worker)
    world.claim(world.starts(dags[2], "a"))
    with writing(world.engine) as connection:
        logs.append(connection, running, 1, "a line\n")
        logs.append(connection, running, 2, "another\n")
        pauses.pause(connection, market_id="EU_EQ", reason="it rains", actor="ada")
        pauses.hold(connection, dag.dag_id, "b", reason="it rains", actor="ada")
        operators.skip(connection, dags[1].dag_id, "b", actor="eve", reason="not today")
    range_of_it = {"market": "US_EQ", "first": "2012-11-19", "last": "2012-11-23"}
    started = web.post("/api/v1/backfills", {**range_of_it, "reason": "new prices"})
    cookie = sign_in(web, world)
    runs._dags.clear()  # as if another process had made the runs
    asked = []
    for method, path in walk(web.app.routes):
        if method != "GET" or path == ENDLESS or path.startswith(("/static/", "/api/openapi")):
            continue
        values = {
            "dag_id": dag.dag_id,
            "job": "b",
            "market": "US_EQ",
            "day": DAY.isoformat(),
            "execution_id": running,
            "backfill": started["backfill"]["backfill"],
        }
        answer = web.ask(path.format_map(values) + QUERIES.get(path, ""), headers=cookie)
        assert answer.status_code == (503 if path == "/readyz" else 200), path  # there is no Redis
        is_public = ("GET", path) in PUBLIC
        assert bool(web.asked_who) != is_public, path
        asked.append((path, len(web.asked_who) + len(web.statements)))
    assert len(asked) >= 29
    too_many = {path: count for path, count in asked if count > MORE.get(path, MOST)}
    assert too_many == {}


def test_why_asks_few_things_of_any_run(web: Web, world: World) -> None:
    """Of one that waits for the session before and for a slot, of one that is over or to come."""
    lead(world)
    before, dag, over = (
        world.run(job("a", after_previous=ago == 0), job("b"), day=DAY - timedelta(days=ago))
        for ago in (1, 0, 7)
    )
    worker = world.worker()
    world.running(before, "a", worker)
    world.claim(world.starts(dag, "b"))
    for name in over.jobs:
        world.finish(over, worker, name)
    with writing(world.engine) as connection:
        clock.start_replay(
            connection,
            market_at=datetime(2025, 12, 2, 18, tzinfo=UTC),
            speed=1,
            only=SessionRange(DAY - timedelta(days=7), DAY),
            markets=["US_EQ"],
        )
    cookie = sign_in(web, world)
    asked = {}
    for dag_id, name, kind in (
        (dag.dag_id, "a", "previous"),
        (dag.dag_id, "b", "broker_away"),
        (over.dag_id, "a", "success"),
        ("us_eq_daily_2025-12-25", "run_signals", "never_made"),
    ):
        runs._dags.clear()  # as if another process had made the runs
        of_run = f"/api/v1/runs/{dag_id}"
        for path in (
            *(f"{of_run}/jobs/{name}/why", f"{of_run}/why"),
            *(f"/why/{dag_id}", f"/why/{dag_id}?job={name}"),
        ):
            answer = web.ask(path, headers=cookie)
            assert answer.status_code == 200, path
            if path.endswith(f"{name}/why"):
                assert kind in {each["kind"] for each in answer.json()["reasons"]}
            asked[path] = len(web.asked_who) + len(web.statements)
    assert {path: count for path, count in asked.items() if count > MOST} == {}
