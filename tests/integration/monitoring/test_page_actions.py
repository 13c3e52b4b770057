"""Buttons: offered where the API does what they say, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert

from prometheus.actors import Role
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.monitoring.app import create_app
from prometheus.orchestration.dag import DAG
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence import operators, pauses, runs
from prometheus.persistence.engine import writing
from prometheus.persistence.tables import pipelines
from prometheus.settings import load_settings
from tests.integration.monitoring.conftest import SECRET, Web, served
from tests.integration.monitoring.test_markets import say
from tests.integration.monitoring.test_pages import Page, show
from tests.integration.monitoring.test_users import add, browser
from tests.integration.persistence.world import World, job

FIELDS = {"reason": "seen to", "why": "seen to", "for": "1h", "grace": "10s", "downstream": False}
OF_JOB = {"retry", "hold", "release", "skip", "force-success", "cancel"}
OF_RUN = {"retry", "cancel"}


def pending(world: World, dag: DAG) -> None:
    """What a new run is."""


def held(world: World, dag: DAG) -> None:
    with writing(world.engine) as connection:
        pauses.hold(connection, dag.dag_id, "b", reason="not yet", actor="ada")


def queued(world: World, dag: DAG) -> None:
    world.finish(dag, world.worker(), "a")
    world.claim(world.starts(dag, "b"))


def running(world: World, dag: DAG) -> None:
    worker = world.worker()
    world.finish(dag, worker, "a")
    world.running(dag, "b", worker)


def held_and_skipped(world: World, dag: DAG) -> None:
    """A hold does not end with its job."""
    held(world, dag)
    skipped_by_hand(world, dag)


def succeeded(world: World, dag: DAG) -> None:
    world.finish(dag, world.worker(), "a", "b", "c")
    world.close(dag)


def failed(world: World, dag: DAG) -> None:
    worker = world.worker()
    world.finish(dag, worker, "a")
    world.fail_for_good(dag, "b", worker)
    world.end_waiting({world.ids(dag)["c"]: "b failed"}, JobStatus.SKIPPED)
    world.close(dag)


def failed_in_an_open_run(world: World, dag: DAG) -> None:
    worker = world.worker()
    world.finish(dag, worker, "a")
    world.fail_for_good(dag, "b", worker)


def skipped(world: World, dag: DAG) -> None:
    world.fail_for_good(dag, "a", world.worker())
    for name in "bc":
        world.end_waiting({world.ids(dag)[name]: "a failed"}, JobStatus.SKIPPED)
    world.close(dag)


def skipped_by_hand(world: World, dag: DAG) -> None:
    world.finish(dag, world.worker(), "a")
    with writing(world.engine) as connection:
        operators.skip(connection, dag.dag_id, "b", actor="ada", reason="not today")


def expired(world: World, dag: DAG) -> None:
    world.finish(dag, world.worker(), "a")
    world.end_waiting({world.ids(dag)["b"]: "its window has passed"}, JobStatus.EXPIRED)


def cancelled(world: World, dag: DAG) -> None:
    with writing(world.engine) as connection:
        operators.cancel(connection, dag.dag_id, actor="ada")


STAGES = [pending, held, queued, running, held_and_skipped, succeeded, failed,
          failed_in_an_open_run, skipped, skipped_by_hand, expired, cancelled]  # fmt: skip


def buttons(page: Page) -> dict[str, dict[str, str]]:
    """Path of the API -> a button."""
    return {
        "/" + each["data-do"].replace("../", "").removeprefix("./"): each
        for each in page.all("button")
        if "data-do" in each
    }


def body_of(button: dict[str, str]) -> dict[str, object]:
    """What the page sends when all of its fields are filled in."""
    asked = button["data-asks"].split()
    filled = {"reason" if name == "why" else name: FIELDS[name] for name in asked}
    return {**json.loads(button["data-body"]), **filled}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_what_is_offered_is_done_and_what_is_not_is_refused(
    web: Web, world: World, stage: Callable[[World, DAG], None]
) -> None:
    made = 0

    def run() -> str:
        nonlocal made
        made += 1
        dag = world.run(
            *(job("a", max_retries=0), job("b", "a", max_retries=0), job("c", "b")),
            pipeline=f"p{made}",
        )
        stage(world, dag)
        return f"/api/v1/runs/{dag.dag_id}"

    top = run()
    page = show(web, f"{top.removeprefix('/api/v1')}?job=b")
    told = {path.removeprefix(top): button for path, button in buttons(page).items()}
    everything = {*(f"/jobs/b/{name}" for name in OF_JOB), *(f"/{name}" for name in OF_RUN)}
    assert told.keys() <= everything
    for path in everything - told.keys():
        body = {} if path.endswith(("retry", "release")) else {"reason": "seen to"}
        body = {} if path.endswith("cancel") else body
        web.problem_of_post(f"{top}{path}", body, 409)
    for path, button in told.items():
        of_another = run()
        done = web.post(f"{of_another}{path}", body_of(button))
        assert done["actor"].startswith("web ("), path


@pytest.mark.parametrize("under_way", [True, False])
def test_what_depends_on_it_is_run_again_only_where_it_has_ended(
    web: Web, world: World, under_way: bool
) -> None:
    dag, worker = world.run(job("a"), job("b", "a"), job("c", "b")), world.worker()
    world.finish(dag, worker, "a", "b")
    if under_way:
        world.running(dag, "c", worker)
    else:
        world.finish(dag, worker, "c")
    path = f"/api/v1/runs/{dag.dag_id}/jobs/a/retry"
    button = buttons(show(web, f"/runs/{dag.dag_id}?job=a"))[path]
    assert ("downstream" in button["data-asks"].split()) is not under_way
    body = {"downstream": True}
    if under_way:
        assert "c is RUNNING" in web.problem_of_post(path, body, 409)
    else:
        assert web.post(path, body)["jobs"] == ["a", "b", "c"]


def of_yesterday(world: World) -> tuple[DAG, str]:
    """A run of a pipeline that is configured, and its page."""
    dag = world.run(job("a"), pipeline="daily", day=date(2012, 11, 21))
    return dag, f"/runs/{dag.dag_id}"


def test_a_run_is_run_again_when_it_has_ended(web: Web, world: World) -> None:
    dag, path = of_yesterday(world)
    asked = {"market": "US_EQ", "date": "2012-11-21", "pipeline": "daily", "rerun": True}
    assert "/api/v1/runs" not in buttons(show(web, path))
    web.problem_of_post("/api/v1/runs", asked, 409)
    world.finish(dag, world.worker(), "a")
    world.close(dag)
    button = buttons(show(web, path))["/api/v1/runs"]
    assert body_of(button) == {**asked, "reason": "seen to"}
    web.post("/api/v1/runs", asked)
    assert world.statuses(dag) == {"a": "PENDING"}
    assert "/api/v1/runs" not in buttons(show(web, path))


def test_a_run_without_its_session_or_its_pipeline_is_not_run_again(web: Web, world: World) -> None:
    dag, path = of_yesterday(world)
    other = world.run(job("a"), pipeline="gone")
    for each in (dag, other):
        world.finish(each, world.worker(), "a")
        world.close(each)
    say(world, 1, "flood", exchange=None, market="US_EQ", session=dag.as_of_date)
    for where, body in (
        (path, {"date": "2012-11-21"}),
        (f"/runs/{other.dag_id}", {"date": str(other.as_of_date), "pipeline": "gone"}),
    ):
        assert "/api/v1/runs" not in buttons(show(web, where))
        web.problem_of_post("/api/v1/runs", {"market": "US_EQ", "rerun": True, **body}, 404)


def test_a_session_without_a_run_gets_one(web: Web, world: World) -> None:
    page = show(web, "/days/US_EQ/2012-11-21")
    assert "daily (sessions: every) has no run of this session" in page.words
    button = buttons(page)["/api/v1/runs"]
    web.post("/api/v1/runs", body_of(button))
    assert "/api/v1/runs" not in buttons(show(web, "/days/US_EQ/2012-11-21"))
    web.problem_of_post("/api/v1/runs", body_of(button), 409)
    calendar = TradingCalendar("US_EQ")
    to_come = calendar.previous_trading_day(calendar.horizon)
    for day, status in (("2012-11-22", 404), (to_come, 409)):
        assert buttons(show(web, f"/days/US_EQ/{day}")) == {}
        web.problem_of_post("/api/v1/runs", {"market": "US_EQ", "date": f"{day}"}, status)


def test_an_override_is_added_and_withdrawn(web: Web, world: World) -> None:
    add = buttons(show(web, "/calendar?market=US_EQ&year=2012"))["/api/v1/overrides"]
    assert add["data-targets"].split() == ["US_EQ", "XNYS", "XNAS"]
    draft = {
        "target": "US_EQ", "session": "2012-11-21", "kind": "closed", "reason": "storm",
        "source": "s",
    }  # fmt: skip
    assert draft.keys() <= set(add["data-asks"].split())
    assert add["data-preview"] == "./api/v1/overrides/preview"
    web.post("/api/v1/overrides", draft)
    path = "/api/v1/overrides/1/withdraw"
    withdraw = buttons(show(web, "/calendar?market=US_EQ&year=2012"))[path]
    assert withdraw["data-preview"] == f".{path}/preview"
    web.post(path, body_of(withdraw))
    assert path not in buttons(show(web, "/calendar?market=US_EQ&year=2012"))
    web.problem_of_post(path, body_of(withdraw), 422)


def test_an_override_to_come_is_withdrawn_beside_its_name(web: Web, world: World) -> None:
    calendar = TradingCalendar("US_EQ")
    say(world, 1, "flood", session=calendar.previous_trading_day(calendar.horizon))
    button = buttons(show(web, "/operations"))["/api/v1/overrides/1/withdraw"]
    web.post("/api/v1/overrides/1/withdraw", body_of(button))
    assert buttons(show(web, "/operations")) == {}


def test_a_market_is_paused_or_resumed(web: Web, world: World) -> None:
    for name, words in (("Pause", "No job of US_EQ starts"), ("Resume", "start again")):
        page = show(web, "/")
        (button,) = page.all("button", id=f"do-US_EQ-{name}")
        assert json.loads(button["data-body"]) == {"market": "US_EQ"}
        assert words in button["data-told"]
        web.post(f"/{button['data-do'].removeprefix('./')}", body_of(button))
    assert world.audited() == [
        ("web (root)", "pause", "US_EQ"),
        ("web (root)", "resume", "US_EQ"),
    ]


@pytest.mark.parametrize("market", ["US_EQ", None])
def test_a_pipeline_is_paused_or_resumed(web: Web, world: World, market: str | None) -> None:
    """In a market or in all: each by its own button, which leaves the other as it is."""
    world.run(job("a"), pipeline="daily")
    with writing(world.engine) as connection:
        runs.first_seen(connection, "daily", "US_EQ", "every session", world.now())
    place = f"daily-in-{market}" if market else "daily"
    fixed = {"pipeline": "daily"} | ({"market": market} if market else {})
    path = "/history?market=US_EQ&pipeline=daily"
    for name, other in (("Pause", "Resume"), ("Resume", "Pause")):
        page = show(web, path)
        (button,) = page.all("button", id=f"do-{place}-{name}")
        assert json.loads(button["data-body"]) == fixed
        assert page.all("button", id=f"do-{place}-{other}") == []
        web.post(f"/{button['data-do'].removeprefix('./')}", body_of(button))
        paused = name == "Pause"
        assert ("seen to" in show(web, path).words) is paused
        assert ("seen to" in show(web, "/").words) is paused
        ids = [
            each["id"]
            for each in show(web, path).all("button")
            if each.get("id", "").endswith("-Resume")
        ]
        assert ids == ([f"do-{place}-Resume"] if paused else [])


def test_a_pause_of_a_pipeline_is_offered_where_there_are_runs_of_it(
    web: Web, world: World
) -> None:
    names = {each["id"] for each in show(web, "/history?market=US_EQ&pipeline=daily").all("button")
             if "data-do" in each}  # fmt: skip
    assert names == {"do-daily-in-US_EQ-Backfill"}


@pytest.mark.parametrize("market", ["US_EQ", None])
def test_a_pause_of_a_pipeline_is_ended_where_it_is_told(
    web: Web, world: World, market: str | None
) -> None:
    """On World, and on History also when its runs are gone."""
    with writing(world.engine) as connection:
        runs.first_seen(connection, "daily", "US_EQ", "every session", world.now())
        pauses.pause(
            connection, market_id=market, pipeline="daily", reason="new books", actor="bob"
        )
    told_of = [market] if market else ["ASIA_EQ", "EU_EQ", "US_EQ"]
    named = "pipeline daily" + (f" in {market}" if market else "")
    page = show(web, "/")
    assert f"Paused ({named}) since" in page.words
    resumes = [each for each in page.all("button") if each.get("id", "").endswith("-Resume")]
    assert sorted(each["id"] for each in resumes) == [
        f"do-{each}-{named.replace(' ', '-')}-Resume" for each in told_of
    ]
    (of_history,) = (
        each
        for each in show(web, "/history?market=US_EQ&pipeline=daily").all("button")
        if each.get("id", "").endswith("-Resume")
    )
    for each in (*resumes, of_history):
        assert json.loads(each["data-body"]) == json.loads(resumes[0]["data-body"])
    web.post("/api/v1/resume", body_of(of_history))
    assert "new books" not in show(web, "/").words


def test_a_market_that_no_pipeline_follows_is_not_paused(
    database_url: str, variables: dict[str, str], tmp_path: Path, world: World
) -> None:
    given = {**variables, "PROMETHEUS__DATABASE__URL": database_url}
    given |= {"PROMETHEUS__WEB__ACTIONS": "true", "PROMETHEUS__MARKETS__ENABLED": "US_EQ,CRYPTO"}
    with writing(world.engine) as connection:
        runs.first_seen(connection, "daily", "US_EQ", "every session", world.now())
    with served(create_app(load_settings(given, tmp_path))) as web:
        ids = {each["id"] for each in show(web, "/").all("button") if "data-do" in each}
        assert ids == {"do-US_EQ-Pause"}
        asked = {"market": "CRYPTO", "reason": "halted"}
        assert "was ever due in CRYPTO" in web.problem_of_post("/api/v1/pause", asked, 409)


def test_pauses_are_told_where_they_count(web: Web, world: World) -> None:
    dag = world.run(job("a"), job("b"))
    with writing(world.engine) as connection:
        pauses.pause(connection, market_id="US_EQ", reason=f"exchange says {SECRET}", actor="ada")
        connection.execute(
            insert(pipelines).values(
                name=dag.pipeline,
                market_id="US_EQ",
                first_seen_at=world.now(),
                sessions="every session",
            )
        )
        pauses.pause(connection, pipeline=dag.pipeline, reason="new books", actor="bob")
        pauses.hold(connection, dag.dag_id, "a", reason="vendor late", actor="eve")
    world_page = show(web, "/").words
    assert "exchange says ***" in world_page
    assert world_page.count("new books") == 1  # of the market that has runs of it
    run_page = show(web, f"/runs/{dag.dag_id}?job=b").words
    assert "exchange says ***" in run_page
    assert "new books" in run_page
    assert "vendor late" not in run_page
    assert "vendor late" in show(web, f"/runs/{dag.dag_id}?job=a").words
    day_page = show(web, f"/days/US_EQ/{dag.as_of_date}").words
    assert "exchange says ***" in day_page
    assert "new books" in day_page
    assert "Paused" not in show(web, f"/days/EU_EQ/{dag.as_of_date}").words


def test_who_may_not_act_is_offered_nothing(web: Web, world: World, engine: Engine) -> None:
    dag = world.run(job("a"))
    for role in Role:
        add(engine, role.value, role)
        with browser(web, role.value) as client:
            pages = ("/", f"/runs/{dag.dag_id}?job=a", "/days/US_EQ/2012-11-21", "/calendar")
            told = [client.get(path).text for path in pages]
        acts = role is not Role.VIEWER
        assert [("data-do" in text, "<dialog" in text) for text in told[:3]] == [(acts, acts)] * 3
        # On which all markets stand.
        assert ("data-do" in told[3]) == (role is Role.ADMIN)
        assert ("You are a viewer, and look." in told[1]) is not acts


def test_without_users_pages_act_only_where_that_is_set(
    database_url: str, variables: dict[str, str], tmp_path: Path, world: World
) -> None:
    dag = world.run(job("a"), day=datetime.now(UTC).date())
    settings = {**variables, "PROMETHEUS__DATABASE__URL": database_url}
    settings["PROMETHEUS__WEB__ACTIONS"] = "false"
    with served(create_app(load_settings(settings, tmp_path))) as web:
        for path in ("/", f"/runs/{dag.dag_id}?job=a"):
            assert buttons(show(web, path)) == {}
        assert "there are no users who may act" in show(web, f"/runs/{dag.dag_id}").words
