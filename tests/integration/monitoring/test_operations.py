"""``/api/v1/workers``, ``queues``, ``pipelines``, and the known paths."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from prometheus.dispatch.names import LEADERSHIP
from prometheus.monitoring.app import create_app
from prometheus.persistence import leases
from prometheus.persistence.engine import writing
from prometheus.settings import load_settings
from tests.integration.monitoring.conftest import Web, served
from tests.integration.persistence.world import DAY, HOUR, World, job


def test_who_is_at_work_holds_a_lease(web: Web, world: World) -> None:
    assert web.get("/api/v1/workers")["scheduler"] is None
    alive, silent = world.worker(), world.worker(lease=-HOUR, name="silent@h")
    ended = world.worker(name="ended@h")
    with writing(world.engine) as connection:
        leases.end_worker(connection, ended)
        at = leases.wall_time(connection)
        leases.lead(connection, LEADERSHIP, "there:7:x", lease=HOUR)
        leases.lead(connection, LEADERSHIP, "there:7:x", lease=HOUR, ticked_at=at)
        leases.stand_by(connection, "there:8:x", lease=HOUR)
        leases.stand_by(connection, "there:9:x", lease=-HOUR / 2)
    found = web.get("/api/v1/workers")
    assert len(web.statements) <= 3
    assert [(each["incarnation"], each["alive"]) for each in found["items"]] == [
        (alive, True),
        (silent, False),
    ]
    assert found["items"][0]["queues"] == ["US_EQ"]
    assert (found["scheduler"]["owner"], found["scheduler"]["alive"]) == ("there:7:x", True)
    assert found["scheduler"]["last_tick_seconds_ago"] >= 0
    assert [(each["owner"], each["alive"]) for each in found["standbys"]] == [
        ("there:8:x", True),
        ("there:9:x", False),
    ]


def test_a_queue_says_what_waits_in_it_and_who_listens(web: Web, world: World) -> None:
    dag = world.run(job("a"), job("b"), job("c"), job("d", max_retries=1))
    worker = world.worker()
    world.claim(world.starts(dag, "a", "b"))
    world.running(dag, "c", worker)
    world.fail(world.running(dag, "d", worker))
    us, eu, asia = web.get("/api/v1/queues")["items"]
    assert len(web.statements) <= 3
    since = min(row.scheduled_at for row in world.latest(dag).values() if row.job_id in "ab")
    assert us == {
        "queue": "US_EQ",
        "workers": 1,
        "waiting": 2,
        "delayed": 1,
        "running": 1,
        "waiting_since": since.isoformat().replace("+00:00", "Z"),
    }
    assert (eu["queue"], asia["queue"]) == ("EU_EQ", "ASIA_EQ")
    assert (eu["workers"], eu["waiting"], eu["waiting_since"]) == (0, 0, None)


def test_pipelines_are_those_of_the_settings(web: Web) -> None:
    found = web.get("/api/v1/pipelines")
    assert len(web.statements) <= 3
    (daily,) = found["items"]
    assert daily["pipeline"] == "daily"
    assert [each["market"] for each in daily["markets"]] == ["US_EQ", "EU_EQ", "ASIA_EQ"]
    assert all(each["enabled"] for each in daily["markets"])
    first = daily["jobs"][0]
    assert (first["job"], first["after"], first["required_state"]) == (
        "ingest_prices",
        [],
        "POST_CLOSE",
    )
    assert len(daily["jobs"]) == 9
    assert found["faults"] == []


def test_a_pipeline_with_faults_is_left_out_and_named(sqlite_url: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from prometheus import Pipeline\n"
        "mine = Pipeline('mine', markets=['US_EQ'])\n"
        "@mine.job(after=['nothing'])\n"
        "def a(ctx): ...\n"
    )
    modules = f"prometheus.orchestration.daily:daily,{tmp_path / 'mine.py'}"
    settings = load_settings(
        {"PROMETHEUS__DATABASE__URL": sqlite_url, "PROMETHEUS__PIPELINES__MODULES": modules},
        tmp_path,
    )
    with served(create_app(settings)) as web:
        found = web.get("/api/v1/pipelines")
    assert [each["pipeline"] for each in found["items"]] == ["daily"]
    (fault,) = found["faults"]
    assert "mine.py" in fault
    assert "'nothing'" in fault


def test_a_markets_pipeline_status_has_open_and_latest_runs(web: Web, world: World) -> None:
    worker = world.worker()
    days = [DAY + timedelta(days=number) for number in range(3)]
    oldest = world.run(job("a"), day=days[0])
    done = [world.run(job("a"), day=day) for day in days[1:]]
    for dag in done:
        world.finish(dag, worker, "a")
        world.close(dag)
    other = world.run(job("a", max_retries=1), pipeline="other")
    world.fail(world.running(other, "a", worker))
    found = web.get("/api/status/pipeline", market_id="US_EQ")
    assert len(web.statements) <= 3
    assert found["market_id"] == "US_EQ"
    assert [(run["dag_id"], run["status"]) for run in found["runs"]] == [
        (other.dag_id, "OPEN"),
        (oldest.dag_id, "OPEN"),
        (done[1].dag_id, "SUCCESS"),
    ]
    (retried,) = found["runs"][0]["jobs"]
    assert (retried["job_id"], retried["status"], retried["attempt_number"]) == ("a", "QUEUED", 2)
    assert retried["error_message"] == "ValueError: boom"
    assert web.get("/api/status/pipeline", market_id="EU_EQ")["runs"] == []


def test_a_status_needs_a_market(web: Web) -> None:
    assert web.problem("/api/status/pipeline", 422) == "query.market_id: field required"
    assert "Did you mean" in web.problem("/api/status/pipeline", 404, market_id="US_QE")
