"""Pages as a browser asks for them: the world and its runs, by real rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import httpx
from sqlalchemy import update

from prometheus.core.holidays import Holiday, HolidayKind
from prometheus.monitoring.app import create_app
from prometheus.monitoring.pages.pulse import STANDING, Pulse
from prometheus.orchestration.planning import SessionRange
from prometheus.persistence import leases, logs, operators
from prometheus.persistence.clock import start_replay
from prometheus.persistence.engine import writing
from prometheus.persistence.holidays import propose_holidays
from prometheus.persistence.tables import dag_runs
from prometheus.settings import load_settings
from tests.integration.monitoring.conftest import SECRET, Web, served
from tests.integration.persistence.world import DAY, HOUR, World, job
from tests.servers import wait_until

COMMON = 1
"""The statement of every page: what time it is, who leads, and what is paused."""
FLOWER = "http://127.0.0.1:5555/"
"""The one link that leads elsewhere."""
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


class Page(HTMLParser):
    """What is in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self._said: list[str] = []
        self.feed(text)
        self.words = re.sub(r"\s+", " ", "".join(f" {each}" for each in self._said))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self._said.append(data)

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            found
            for name, found in self.elements
            if name == tag and wanted.items() <= found.items()
        ]

    def links(self) -> list[str]:
        """All that it names, of whatever kind."""
        return [
            found[name]
            for _, found in self.elements
            for name in ("href", "src", "data-hx-get", "action")
            if name in found
        ]


def show(web: Web, path: str, status: int = 200) -> Page:
    """Ask for a page as a browser does; it says nothing that a strict policy refuses."""
    answer = web.ask(path, headers=BROWSER)
    assert answer.status_code == status, answer.text
    check_page(answer)
    return Page(answer.text)


def check_page(answer: httpx.Response) -> None:
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    page = Page(answer.text)
    for tag, attributes in page.elements:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert tag != "style"
        assert tag != "script" or attributes["src"]
    for link in page.links():
        assert link.startswith(("./", "../", "#", "?")) or link == FLOWER, link
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def stand(world: World, at: datetime, *markets: str) -> None:
    """Let market time stand at an instant, as in a replay."""
    with writing(world.engine) as connection:
        start_replay(
            connection,
            market_at=at,
            speed=0,
            only=SessionRange(date(2012, 11, 21), date(2012, 11, 23)),
            markets=list(markets),
        )


def lead(world: World) -> None:
    """Have a scheduler lead, and tick."""
    with writing(world.engine) as connection:
        at = leases.wall_time(connection)
        for _ in range(2):
            leases.lead(connection, "beat", "host:7:1", lease=timedelta(minutes=9), ticked_at=at)


def test_without_runs_markets_are_shown(web: Web) -> None:
    page = show(web, "/")
    assert len(web.statements) <= COMMON + 1
    assert [each["id"] for each in page.all("section")] == [
        "market-US_EQ",
        "market-EU_EQ",
        "market-ASIA_EQ",
    ]
    assert "No run is at work" in page.words
    assert "The scheduler is silent: no scheduler has led yet" in page.words
    assert len(page.all("strong")) >= 3


def test_a_scheduler_that_ticks_is_not_silent(web: Web, world: World) -> None:
    lead(world)
    assert "silent" not in show(web, "/").words


def test_runs_stand_in_their_markets_with_their_states(web: Web, world: World) -> None:
    today = datetime.now(UTC).date()
    dag = world.run(job("a"), job("b", "a"), day=today)
    failed = world.run(job("a", max_retries=0), pipeline="other", day=today)
    worker = world.worker()
    world.finish(dag, worker, "a")
    world.fail_for_good(failed, "a", worker)
    world.close(failed)
    page = show(web, "/")
    assert len(web.statements) <= COMMON + 1
    told = {each["href"]: each["aria-label"] for each in page.all("a") if "aria-label" in each}
    assert told.keys() == {f"./runs/{dag.dag_id}", f"./runs/{failed.dag_id}"}
    assert "OPEN, 1 of 2 jobs succeeded" in told[f"./runs/{dag.dag_id}"]
    assert "FAILED, 0 of 1 jobs succeeded, 1 failed" in told[f"./runs/{failed.dag_id}"]
    assert "No run is at work" not in page.words


def test_a_run_of_long_ago_is_shown_only_while_it_is_open(web: Web, world: World) -> None:
    dag = world.run(job("a"), day=date(2020, 3, 2))
    assert f"./runs/{dag.dag_id}" in show(web, "/").links()
    world.finish(dag, world.worker(), "a")
    world.close(dag)
    assert f"./runs/{dag.dag_id}" not in show(web, "/").links()


def test_in_a_replay_market_time_is_now(web: Web, world: World) -> None:
    stand(world, datetime(2012, 11, 23, 4, 30, tzinfo=UTC), "US_EQ", "ASIA_EQ")
    page = show(web, "/")
    assert [each["id"] for each in page.all("section")] == ["market-US_EQ", "market-ASIA_EQ"]
    assert "market time is 2012-11-23 04:30:00 UTC" in page.words
    assert "HOLIDAY: Thanksgiving Day" in page.words
    assert "OVERNIGHT in 30 min 0 s" in page.words
    assert "SESSION, in a break" in page.words
    assert "break, 04:00 to 05:00 UTC" in page.words
    (clock,) = page.all("span", id="clock")
    assert float(clock["data-speed"]) == 0


def test_one_damaged_calendar_holds_up_no_other_market(
    web: Web, break_sessions: Callable[[str], None]
) -> None:
    break_sessions("XPAR")
    page = show(web, "/")
    assert "sessions of XPAR cannot be read" in page.words
    assert len([each for each in page.all("svg") if each.get("class") == "lane"]) == 2


def test_hostile_names_stay_names(web: Web, world: World) -> None:
    """Names of runs are a user's; one that got into the tables whatever its form is only shown."""
    dag = world.run(day=datetime.now(UTC).date())
    name = """</text><script src=//x>'"&"""
    with writing(world.engine) as connection:
        connection.execute(
            update(dag_runs)
            .where(dag_runs.c.dag_id == dag.dag_id)
            .values(opens_at=leases.wall_time(connection) - HOUR)
        )
    stored = world.run(pipeline=name, day=datetime.now(UTC).date())
    page = show(web, "/")
    assert not [each for each in page.all("script") if each["src"].strip("/") == "x"]
    assert any(stored.dag_id in each.get("aria-label", "") for each in page.all("a"))


def test_what_is_not_there_is_told_on_a_page(web: Web) -> None:
    page = show(web, "/nothing/at/all", 404)
    assert "There is nothing at /nothing/at/all." in page.words
    assert "../../" in page.links()
    # Of the API, and for programs, as ever.
    assert "nothing" in web.problem("/nothing", 404)
    answer = web.ask("/api/v1/runs/nothing", headers=BROWSER)
    assert answer.headers["content-type"] == "application/problem+json"


def test_without_a_database_the_page_says_so(variables: dict[str, str], tmp_path: Any) -> None:
    url = f"postgresql+psycopg://me:{SECRET}@127.0.0.1:1/none"
    settings = load_settings({**variables, "PROMETHEUS__DATABASE__URL": url}, tmp_path)
    with served(create_app(settings)) as web:
        page = show(web, "/", 503)
    assert "127.0.0.1:1/none" in page.words


def test_assets_are_kept_for_ever_and_come_from_here(web: Web) -> None:
    page = show(web, "/")
    links = [link for link in page.links() if "static/" in link]
    assert len(links) >= 3
    for link in links:
        answer = web.ask(link.removeprefix("."))
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert re.search(r"-[0-9a-f]{12}\.\w+$", link)
    for name in ("pages.css", "..%2fworld.py", "htmx.LICENSE.txt"):
        assert web.ask(f"/static/{name}").status_code == 404


def versions(web: Web) -> Generator[str, None, None]:
    """What an open page is told, one after the other."""
    with httpx.stream("GET", f"{web.url}/events", timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield line.removeprefix("data: ")


def wait_for_other(told: Generator[str, None, None], version: str) -> str:
    """Go on until the version is another one."""
    return next(each for each in told if each != version)


def test_an_open_page_is_told_of_changes(web: Web, world: World) -> None:
    told = versions(web)
    version = next(told)
    assert next(told) == version
    dag = world.run(job("a"), job("b"))
    version = wait_for_other(told, version)
    worker = world.worker()
    execution_id = world.running(dag, "a", worker)
    version = wait_for_other(told, version)
    with writing(world.engine) as connection:
        logs.append(connection, execution_id, 1, "a line\n")
    version = wait_for_other(told, version)
    world.succeed(execution_id, worker)
    version = wait_for_other(told, version)
    lead(world)
    wait_for_other(told, version)
    told.close()


def test_a_page_has_what_it_was_told_of(web: Web, world: World) -> None:
    told = versions(web)
    before = next(told)
    world.run()
    version = wait_for_other(told, before)
    (live,) = show(web, "/").all("div", id="live")
    assert live["data-version"] == version
    told.close()


def changed_since(told: Generator[str, None, None], version: str) -> tuple[str, set[str]]:
    """Go on until something has changed besides the minute; return the version and what it is."""
    before = json.loads(version)
    for each in told:
        after = json.loads(each)
        of = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        if of - {STANDING}:
            return each, of - {STANDING}
    raise AssertionError("the stream has ended")


def test_a_change_concerns_only_pages_that_show_it(web: Web, world: World) -> None:
    lead(world)
    worker = world.worker()
    done = world.run(job("a", max_retries=0), day=DAY - timedelta(days=1))
    world.fail_for_good(done, "a", worker)
    world.close(done)
    dag = world.run(job("a"), job("b", "a"))
    other = world.run(job("a"), day=DAY + timedelta(days=1))
    execution_id = world.running(dag, "a", worker)
    us = {
        "/",
        "/operations",
        "/history?market=US_EQ&pipeline=test",
        f"/days/US_EQ/{DAY}",
        f"/why/{dag.dag_id}",
    }
    own = {f"/runs/{dag.dag_id}", f"/runs/{dag.dag_id}?job=b"}
    its_log = f"/runs/{dag.dag_id}?job=a"
    finished = {f"/runs/{done.dag_id}?job=a", f"/why/{done.dag_id}"}
    rest = {
        "/calendar?market=US_EQ",
        "/history?market=EU_EQ&pipeline=daily",
        f"/days/EU_EQ/{DAY}",
        f"/runs/{other.dag_id}?job=a",
    }
    shown = {}
    for path in us | own | {its_log} | finished | rest:
        live = show(web, path).all("div", data_live="")[0]
        shown[path] = set(json.loads(live["data-shows"]))
        assert STANDING in shown[path]

    told = versions(web)
    version = next(told)

    def concerns() -> set[str]:
        nonlocal version
        version, changed = changed_since(told, version)
        return {path for path, scopes in shown.items() if scopes & changed}

    for part in (1, 2):
        with writing(world.engine) as connection:
            logs.append(connection, execution_id, part, "a line\n")
        assert concerns() == {its_log}
    world.succeed(execution_id, worker)
    assert concerns() == us | own | {its_log}
    world.worker(name="another@h")
    assert concerns() == {"/operations", f"/why/{dag.dag_id}"}
    with writing(world.engine) as connection:
        storm = Holiday(date(2012, 12, 11), "Storm", HolidayKind.CLOSED)
        propose_holidays(connection, "XNYS", "eodhd", storm.day, storm.day, [storm])
    assert concerns() == {"/calendar?market=US_EQ"}
    with writing(world.engine) as connection:
        operators.retry(connection, done.dag_id, "a", actor="ada")
    assert concerns() == us | finished
    told.close()


def test_however_many_watch_one_reads(web: Web) -> None:
    watching = [versions(web) for _ in range(5)]
    for told in watching:
        next(told)
    web.statements.clear()
    for _ in range(3):
        next(watching[0])
    # Each reading asks what time it is, who leads and what has changed.
    assert len(web.statements) <= 5 * 3
    for told in watching:
        told.close()


def test_while_nobody_watches_nobody_reads(web: Web) -> None:
    told = versions(web)
    next(told)
    told.close()
    pulse: Pulse = web.app.state.pulse
    wait_until(lambda: pulse.watchers == 0, timeout=60)
    # And whoever comes after that is told again.
    again = versions(web)
    next(again)
    next(again)
    again.close()
