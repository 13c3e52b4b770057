"""The page of who is at work, what waits, what is paused, and who did what."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi import Request
from sqlalchemy import insert

from prometheus.monitoring.app import create_app
from prometheus.monitoring.pages.operations import _flower
from prometheus.persistence import leases, operators, pauses, tables
from prometheus.persistence.engine import writing
from prometheus.settings import FlowerSettings, SettingsError, load_settings
from tests.integration.monitoring.conftest import SECRET, Web, served
from tests.integration.monitoring.test_page_actions import body_of
from tests.integration.monitoring.test_pages import COMMON, FLOWER, lead, show
from tests.integration.persistence.world import HOUR, World, job


def test_an_installation_that_does_nothing_says_so(web: Web) -> None:
    page = show(web, "/operations")
    for words in (
        "None has led yet.",
        "None is at work.",
        "US_EQ 0 0 0 0",
        "Paused and held Nothing is.",
        "None: sessions from today on are those of the calendar.",
        "Nobody has done anything yet.",
    ):
        assert words in page.words
    (flower,) = (each for each in page.all("a") if each.get("rel") == "noreferrer")
    assert flower["href"] == FLOWER


def test_flower_is_where_the_settings_say(
    sqlite_url: str, variables: dict[str, str], tmp_path: Path
) -> None:
    """Also for who comes by a proxy, of whose hosts the page knows nothing else."""
    url = "https://flower.example.com/x/"
    given = {**variables, "PROMETHEUS__DATABASE__URL": sqlite_url, "PROMETHEUS__FLOWER__URL": url}
    with served(create_app(load_settings(given, tmp_path))) as web:
        told = web.ask("/operations").text
    assert f'<a href="{url}" rel="noreferrer">Flower</a>' in told


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:5600/"])
def test_flower_of_this_machine_is_only_for_who_looks_from_it(url: str) -> None:
    def link(host: str) -> str | None:
        asked = Request({"type": "http", "headers": [(b"host", host.encode())]})
        return _flower(asked, FlowerSettings(url=url))

    assert link("localhost:8765") == (url or "http://localhost:5555/")
    assert link("desk.example") is None


@pytest.mark.parametrize("url", ["flower", "javascript:alert(1)", "//x"])
def test_where_flower_is_is_an_address_of_the_web(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match=r"flower\.url|FLOWER__URL"):
        load_settings({"PROMETHEUS__FLOWER__URL": url}, tmp_path)


def test_it_tells_who_works_on_what_and_what_waits(web: Web, world: World) -> None:
    lead(world)
    dag = world.run(job("a"), job("b"), job("c"))
    other = world.run(job("d"), pipeline="other")
    worker = world.worker(name="us_eq@h")
    world.worker(name="silent@h", lease=-HOUR)
    world.change(world.running(dag, "a", worker), started_at=world.now() - 2 * HOUR)
    (waits,) = world.claim(world.starts(dag, "b"))
    world.change(waits.execution_id, scheduled_at=world.now() - timedelta(minutes=5))
    (stranded,) = world.claim(world.starts(other, "d"))
    world.change(stranded.execution_id, queue="EU_EQ")
    with writing(world.engine) as connection:
        leases.stand_by(connection, "there:8:x", lease=HOUR)
        leases.stand_by(connection, "there:9:x", lease=-HOUR / 2)
    page = show(web, "/operations")
    assert len(web.statements) == COMMON + 1
    assert "there, pid 8 stands by since " in page.words
    assert re.search(r"there, pid 9 stood by since .{19} and is ✗ silent , renewed", page.words)
    assert f"a of {dag.dag_id} , 2 h 0 min" in page.words
    assert "silent@h, pid" in page.words
    assert "✗ ended" in page.words
    assert re.search(r"US_EQ 1 1 5 min \d+ s 0 1", page.words)
    assert "EU_EQ 0 ✗ nobody listens 1" in page.words
    assert f"./runs/{dag.dag_id}?job=a" in page.links()


def test_what_is_paused_is_ended_there_and_what_was_done_is_told(web: Web, world: World) -> None:
    dag = world.run(job("a"), job("b"))
    with writing(world.engine) as connection:
        pauses.pause(connection, market_id="US_EQ", reason=f"my {SECRET}", actor="ada")
        pauses.hold(connection, dag.dag_id, "a", reason="vendor is late", actor="bob")
        operators.skip(connection, dag.dag_id, "b", actor="eve", reason="<b>not today</b>")
    page = show(web, "/operations")
    assert "market US_EQ since" in page.words
    assert "by ada: my ***" in page.words
    assert f"a of {dag.dag_id} since" in page.words
    changed = "jobs b: PENDING → SKIPPED"
    assert f"<b>not today</b> jobs: b; {changed}" in page.words
    assert (
        page.words.index("eve skip") < page.words.index("bob hold") < page.words.index("ada pause")
    )
    buttons = [each for each in page.all("button") if "data-do" in each]
    assert len(buttons) == 2
    for button in buttons:
        web.post(f"/{button['data-do'].removeprefix('./')}", body_of(button))
    assert "Paused and held Nothing is." in show(web, "/operations").words


def test_of_very_many_workers_and_pauses_the_page_says_how_many_it_leaves_out(
    web: Web, world: World
) -> None:
    dag, now = world.run(job("a")), world.now()
    with writing(world.engine) as connection:
        connection.execute(
            insert(tables.pauses),
            [
                {"dag_id": dag.dag_id, "job_id": f"j{number}", "reason": "rain", "author": "ada"}
                for number in range(103)
            ],
        )
        connection.execute(
            insert(tables.worker_incarnations),
            [
                {
                    "incarnation": f"incarnation-{number}",
                    "worker": f"w{number:03}@h",
                    "host": "h",
                    "pid": number,
                    "queues": ["US_EQ"],
                    "expires_at": now + (HOUR if number else -HOUR),
                }
                for number in range(103)
            ],
        )
    page = show(web, "/operations")
    assert "And 3 more: /api/v1/workers lists all." in page.words
    assert "And 3 more: /api/v1/pauses lists all." in page.words
    assert "w000@h" not in page.words  # whoever holds no lease comes last
    assert "US_EQ 102 0" in page.words
    assert (page.words.count("@h, pid"), page.words.count(": rain")) == (100, 100)


def test_the_audit_is_listed_page_after_page(web: Web, world: World) -> None:
    dag = world.run(job("a"), job("b"), job("c"))
    with writing(world.engine) as connection:
        for name, actor in (("a", "ada"), ("b", "bob"), ("c", "ada")):
            operators.skip(connection, dag.dag_id, name, actor=actor, reason=f"my {SECRET}")
    first = web.get("/api/v1/audit", limit=2)
    assert [each["actor"] for each in first["items"]] == ["ada", "bob"]
    details = first["items"][0]["details"]
    assert details.items() >= {"jobs": ["c"], "reason": "my ***"}.items()
    second = web.get("/api/v1/audit", limit=2, cursor=first["next"])
    assert ([each["actor"] for each in second["items"]], second["next"]) == (["ada"], None)
    assert len(web.statements) <= 3
    assert len(web.get("/api/v1/audit", actor="ada", action="skip")["items"]) == 2
    assert len(web.get("/api/v1/audit", target=dag.dag_id)["items"]) == 3
    assert web.get("/api/v1/audit", target="us_eq_none")["items"] == []
    for cursor in ("x", "-1", "9" * 30, "١"):
        assert "The cursor is none" in web.problem("/api/v1/audit", 422, cursor=cursor)
