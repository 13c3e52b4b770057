"""Pages in a real browser: live, by keyboard, and with nothing from outside."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Request,
    Route,
    expect,
    sync_playwright,
)
from sqlalchemy import delete, select

from prometheus.actors import Role
from prometheus.core.holidays import Holiday, HolidayKind
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.monitoring.app import create_app
from prometheus.monitoring.pages import pulse as pulse_module
from prometheus.monitoring.pages.pulse import Pulse
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.passwords import hash_password
from prometheus.persistence import executions, leases, logs, operators, pauses, runs, users
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.holidays import propose_holidays
from prometheus.persistence.tables import audit, sign_ins
from prometheus.settings import load_settings
from tests.integration.monitoring.conftest import Web, served
from tests.integration.monitoring.proxy import PREFIX, proxied
from tests.integration.monitoring.test_markets import say
from tests.integration.monitoring.test_pages import lead, stand
from tests.integration.persistence.world import DAY, World, job
from tests.servers import leave_out, wait_until

PATIENCE = 60_000
"""Milliseconds: the machine may be busy."""
HIDE, SHOW = (
    f"Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }});"
    "document.dispatchEvent(new Event('visibilitychange'))"
    for hidden in ("true", "false")
)
"""As the browser does it for a tab behind another; without a screen it shows all."""
_NAMES = ("chromium", "chromium-browser", "google-chrome")

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium that is installed; none is downloaded."""
    found = next((path for path in map(shutil.which, _NAMES) if path), None)
    if found is None:
        leave_out("no Chromium is on PATH (on Debian: apt install chromium)")
    with sync_playwright() as playwright:
        # Tests may be root, for whom Chromium has no sandbox.
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox"], timeout=PATIENCE
        )
        yield browser
        browser.close()


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind of database: what pages show of both is tried without a browser."""
    return sqlite_url


@pytest.fixture
def page(browser: Browser, web: Web) -> Iterator[Page]:
    """A page on which nothing goes wrong, and that asks nobody else."""
    with watched(browser, f"{web.url}/") as page:
        yield page


@contextlib.contextmanager
def watched(browser: Browser, url: str, *expected: int) -> Iterator[Page]:
    """
    Open a page, and see to it that nothing goes wrong on it, and that it asks below a URL.

    Args:
        expected: Statuses that the browser may tell of besides 409.
    """
    context = browser.new_context(base_url=url, timezone_id="Asia/Kolkata")
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    errors: list[str] = []
    asked: set[str] = set()

    def note_console(message: ConsoleMessage) -> None:
        # What is refused is told to whoever asked for it, and by the browser there.
        status = re.search(r"status of (\d+) \(", message.text)
        refused = status is not None and int(status[1]) in (409, *expected)
        if message.type in ("error", "warning") and not refused:
            errors.append(message.text)

    def note_request(request: Request) -> None:
        asked.add(request.url)

    page.on("console", note_console)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", note_request)
    yield page
    context.close()
    assert errors == []
    assert asked
    assert [each for each in asked if not each.startswith(url)] == []


def mark(page: Page) -> None:
    """Leave something that loading the page again would take away."""
    page.evaluate("window.loadedOnce = true")


def was_not_loaded_again(page: Page) -> bool:
    return page.evaluate("window.loadedOnce === true") is True


def test_the_world_shows_a_run_as_soon_as_it_is_there(page: Page, web: Web, world: World) -> None:
    lead(world)
    page.goto("/")
    expect(page.locator("svg.lane")).to_have_count(3)
    expect(page.locator("#live")).to_contain_text("No run is at work")
    mark(page)
    dag = world.run(job("a"), day=datetime.now(UTC).date())
    link = page.get_by_role("link", name=f"{dag.dag_id}: OPEN")
    expect(link).to_be_visible()
    assert was_not_loaded_again(page)
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/runs/{dag.dag_id}")


def test_a_run_goes_on_while_it_is_looked_at(page: Page, web: Web, world: World) -> None:
    lead(world)
    dag = world.run(job("a", max_retries=0), job("b", "a"))
    page.goto(f"/runs/{dag.dag_id}?job=a")
    row = page.locator("#job-1")
    expect(row).to_contain_text("PENDING")
    expect(page.locator(".why li").first).to_be_visible()
    mark(page)
    page.get_by_role("link", name="b", exact=True).first.focus()
    worker = world.worker()
    execution_id = world.running(dag, "a", worker)
    expect(page.locator(".node.running")).to_have_count(1)
    world.fail(execution_id)
    expect(page.locator(".node.failed")).to_have_count(1)
    expect(page.locator(".why")).to_contain_text("ValueError: boom")
    assert was_not_loaded_again(page)
    # Whoever was about to press a link still is.
    assert page.evaluate("document.activeElement.textContent") == "b"


def are_live(lasted: list[float]) -> bool:
    """Say whether three changes were shown within two seconds; a busy machine may need more."""
    return sum(each < 2 for each in lasted) >= 3


@pytest.mark.parametrize("where", ["World", "Market day", "Run", "History", "Operations"])
def test_what_changes_is_shown_within_two_seconds(
    page: Page, web: Web, world: World, where: str
) -> None:
    """
    From the commit to the words on the page.

    If pages asked less often it would hardly ever be.
    """
    lead(world)
    dag = world.run(job("a"), day=datetime.now(UTC).date())
    execution_id = world.running(dag, "a", world.worker())
    paths = {
        "World": "/",
        "Market day": f"/days/US_EQ/{dag.as_of_date}",
        "Run": f"/runs/{dag.dag_id}?job=a",
        "History": "/history?market=US_EQ&pipeline=test",
        "Operations": "/operations",
    }
    shown = "pre" if where == "Run" else ".warning"
    page.goto(paths[where])
    mark(page)
    lasted: list[float] = []
    while not are_live(lasted) and len(lasted) < 40:
        word = f"number {len(lasted)}."
        with writing(world.engine) as connection:
            if where == "Run":
                logs.append(connection, execution_id, len(lasted) + 1, f"read file {word}\n")
            else:
                pauses.pause(connection, market_id="US_EQ", reason=f"halt {word}", actor="ada")
        changed_at = time.monotonic()
        page.locator(shown, has_text=word).wait_for()
        lasted.append(time.monotonic() - changed_at)
        if where != "Run":
            with writing(world.engine) as connection:
                pauses.resume(connection, market_id="US_EQ", actor="ada")
            page.locator(shown, has_text=word).wait_for(state="detached")
    assert are_live(lasted), lasted
    assert was_not_loaded_again(page)


def test_the_graph_of_a_wide_run_is_scrolled_by_keyboard(
    page: Page, web: Web, world: World
) -> None:
    """What comes after it is not behind all its jobs."""
    jobs = [job("root"), *(job(f"leaf_{number}", "root") for number in range(40))]
    dag = world.run(*jobs)
    page.goto(f"/runs/{dag.dag_id}")
    box = page.get_by_role("group", name=f"Graph of {dag.dag_id}")
    shown, whole = box.evaluate("box => [box.clientHeight, box.scrollHeight]")
    assert 100 < shown <= 640 < whole
    last = box.get_by_role("link", name="leaf_39:")
    expect(last).not_to_be_in_viewport()
    box.focus()
    page.keyboard.press("End")
    expect(last).to_be_in_viewport()
    assert serious_faults(page) == []


def test_a_job_is_held_and_released_by_keyboard(page: Page, web: Web, world: World) -> None:
    lead(world)
    dag = world.run(job("a"))
    page.goto(f"/runs/{dag.dag_id}?job=a")
    mark(page)
    dialog, done = page.get_by_role("dialog"), page.locator("#done")
    hold = page.get_by_role("button", name="Hold")
    hold.focus()
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text(f"a of {dag.dag_id} does not start until it is released")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(hold).to_be_focused()
    assert world.audited() == []
    page.keyboard.press("Enter")
    page.keyboard.type("vendor is late")
    page.keyboard.press("Tab")
    page.keyboard.type("soon")
    page.keyboard.press("Enter")  # soon is no duration
    expect(dialog).to_be_visible()
    assert page.evaluate("document.activeElement.validity.patternMismatch") is True
    page.keyboard.press("Control+A")
    page.keyboard.type("1h 30m")
    expect(dialog.get_by_role("button", name="Hold")).to_be_enabled()
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(done).to_contain_text("Done by web (root). Hold: a.")
    expect(page.locator("#chosen")).to_contain_text("vendor is late")
    page.get_by_role("button", name="Release").click()
    submit(page)
    expect(done).to_contain_text("Release: a")
    expect(page.locator("#chosen")).not_to_contain_text("vendor is late")
    assert [each[1] for each in world.audited()] == ["hold", "release"]
    assert was_not_loaded_again(page)


def test_an_override_is_seen_before_it_is_recorded_and_withdrawn_by_keyboard(
    page: Page, web: Web, world: World
) -> None:
    lead(world)
    calendar = TradingCalendar("US_EQ")
    day = calendar.previous_trading_day(calendar.horizon)
    dag = world.run(job("a"), day=day)
    page.goto(f"/calendar?market=US_EQ&year={day.year}")
    mark(page)
    dialog, done = page.get_by_role("dialog"), page.locator("#done")
    changes, press = page.get_by_role("region", name="What changes"), "Enter"
    page.locator(f"[data-date='{day}']").click()  # on the date, which the button asks for
    expect(dialog.get_by_label("Date of the session")).to_have_value(f"{day}")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Add override").focus()
    page.keyboard.press(press)
    expect(dialog.get_by_label("Exchange or market")).to_be_focused()
    dialog.get_by_label("Date of the session").fill(f"{day}")
    expect(dialog.get_by_label("Closes")).to_be_hidden()
    dialog.get_by_label("What it is").select_option("early_close")
    dialog.get_by_label("Closes").fill("12:00")
    dialog.get_by_label("Reason").fill("storm")
    dialog.get_by_label("Who says so").fill("nyse.com")
    expect(dialog.get_by_role("button", name="Show what changes")).to_be_enabled()
    page.keyboard.press(press)
    expect(changes).to_contain_text("SESSION → POST_CLOSE")
    expect(changes).to_contain_text(f"us_eq_daily_{day}: will be made, with other times")
    assert serious_faults(page) == []
    # What is said anew is shown anew.
    dialog.get_by_label("What it is").select_option("closed")
    expect(changes).to_be_hidden()
    expect(dialog.get_by_role("button", name="Show what changes")).to_be_enabled()
    dialog.get_by_label("Who says so").press(press)
    expect(changes).to_contain_text(f"{dag.dag_id}: is cancelled, then CANCELLED")
    expect(changes).to_be_focused()
    assert world.audited() == []
    expect(dialog.get_by_role("button", name="Add override")).to_be_enabled()
    say(world, 1, "flood", exchange="XLON", session=day)  # meanwhile
    page.keyboard.press("Tab")
    page.keyboard.press(press)
    expect(dialog.get_by_role("alert")).to_contain_text("ada has recorded override 1 meanwhile")
    dialog.get_by_role("button", name="Show what changes").press(press)
    expect(changes).to_be_focused()
    submit(page)
    expect(done).to_contain_text("Done by web (root). Add override: US_EQ.")
    expect(page.locator("#live")).to_contain_text("storm")
    page.get_by_role("button", name="Withdraw").click()
    dialog.get_by_label("Reason").fill("it has passed")
    submit(page)
    expect(changes).to_contain_text("→ SESSION")
    submit(page)
    expect(done).to_contain_text("Withdraw: override 2")
    expect(page.locator("#live")).not_to_contain_text("storm")
    assert [each[0] for each in world.audited()] == ["ada", "web (root)", "web (root)"]
    assert was_not_loaded_again(page)


def test_what_a_feed_says_is_confirmed_after_it_is_seen(page: Page, web: Web, world: World) -> None:
    lead(world)
    day = date(2012, 12, 11)
    with writing(world.engine) as connection:
        storm = Holiday(day, "Storm", HolidayKind.CLOSED)
        propose_holidays(connection, "XNYS", "eodhd", day, day, [storm])
    page.goto("/calendar?market=US_EQ&year=2012")
    mark(page)
    dialog, changes = page.get_by_role("dialog"), page.get_by_role("region", name="What changes")
    page.get_by_role("button", name="Confirm").click()
    expect(dialog).to_contain_text("what eodhd says of XNYS on 2012-12-11: closed")
    dialog.get_by_label("Reason").fill("circular")
    submit(page)
    expect(changes).to_contain_text("XNYS 2012-12-11: closed (Storm), confirmed.")
    expect(changes).to_contain_text("US_EQ does not change: open at XNAS")
    assert world.audited() == []
    submit(page)
    expect(page.locator("#done")).to_contain_text("Confirm: XNYS 2012-12-11")
    expect(page.get_by_role("button", name="Confirm")).to_have_count(0)
    expect(page.locator("#live")).to_contain_text("eodhd, confirmed: circular")
    assert was_not_loaded_again(page)


def test_a_run_is_made_for_a_session_that_has_none(page: Page, web: Web, world: World) -> None:
    lead(world)
    with writing(world.engine) as connection:
        pauses.pause(connection, market_id="US_EQ", reason="halted", actor="ada")
    page.goto("/days/US_EQ/2012-11-21")
    expect(page.locator("#live")).to_contain_text("Paused (market US_EQ)")
    page.get_by_role("button", name="Run now").click()
    waits = "Paused, so it waits: market US_EQ."
    expect(page.get_by_role("dialog")).to_contain_text(waits)
    page.get_by_role("dialog").get_by_label("Why").fill("new prices")
    submit(page)
    expect(page.locator("#done")).to_contain_text("Run now: daily")
    expect(page.locator("#done")).to_contain_text(waits)
    expect(page.get_by_role("link", name="us_eq_daily_2012-11-21", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Run now")).to_have_count(0)
    assert [each[1] for each in world.audited()] == ["pause", "run"]
    with reading(world.engine) as connection:
        details = connection.execute(select(audit.c.details).order_by(audit.c.audit_id)).scalars()
        assert [each["reason"] for each in details] == ["halted", "new prices"]


def test_a_backfill_is_seen_before_it_is_started_and_stopped_by_keyboard(
    page: Page, web: Web, world: World
) -> None:
    lead(world)
    page.goto("/history?market=US_EQ&pipeline=daily")
    mark(page)
    dialog, done, press = page.get_by_role("dialog"), page.locator("#done"), "Enter"
    changes = page.get_by_role("region", name="What changes")
    page.get_by_role("button", name="Backfill").focus()
    page.keyboard.press(press)
    dialog.get_by_label("First date").fill("2012-11-19")
    dialog.get_by_label("Last date").fill("2012-11-23")
    dialog.get_by_label("open at a time").fill("2")
    dialog.get_by_label("Reason").fill("new prices")
    submit(page)
    expect(changes).to_contain_text("4 new.")
    expect(changes).to_contain_text("2012-11-23: new")
    assert serious_faults(page) == []
    assert world.audited() == []
    submit(page)
    expect(done).to_contain_text("Backfill: daily in US_EQ")
    expect(page.locator("#live")).to_contain_text("Of 4 sessions 4 wait")
    page.get_by_role("button", name="Stop").focus()
    page.keyboard.press(press)
    dialog.get_by_label("Reason").fill("enough")
    submit(page)
    expect(page.locator("#live")).not_to_contain_text("Of 4 sessions")
    assert [each[1] for each in world.audited()] == ["backfill", "backfill_stop"]
    assert was_not_loaded_again(page)


def test_a_pipeline_is_paused_and_resumed(page: Page, web: Web, world: World) -> None:
    lead(world)
    dag = world.run(job("a"), day=datetime.now(UTC).date())
    with writing(world.engine) as connection:
        runs.first_seen(connection, dag.pipeline, "US_EQ", "every session", world.now())
    page.goto(f"/history?market=US_EQ&pipeline={dag.pipeline}")
    mark(page)
    offered = page.get_by_role("group", name=f"{dag.pipeline} in US_EQ", exact=True)
    offered.get_by_role("button", name="Pause").click()
    page.get_by_role("dialog").get_by_label("Reason").fill("new books")
    submit(page)
    expect(page.locator("#live")).to_contain_text(f"Paused (pipeline {dag.pipeline} in US_EQ)")
    assert serious_faults(page) == []
    offered.get_by_role("button", name="Resume").click()
    submit(page)
    expect(page.locator("#live")).not_to_contain_text("Paused")
    expect(offered.get_by_role("button", name="Pause")).to_be_visible()
    assert [each[1] for each in world.audited()] == ["pause", "resume"]
    assert was_not_loaded_again(page)


def test_one_press_does_nothing(page: Page, web: Web, world: World) -> None:
    """Nor does a key that is held down, or a second press that comes too soon to have read."""
    lead(world)
    dag = world.run(job("a"), job("b"))
    with writing(world.engine) as connection:
        pauses.hold(connection, dag.dag_id, "a", reason="late", actor="ada")
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"/runs/{dag.dag_id}?job=a")
    dialog = page.get_by_role("dialog")
    for name in ("Release", "Cancel run"):
        page.get_by_role("button", name=name, exact=True).focus()
        for _ in range(20):
            page.keyboard.down("Enter")
        page.keyboard.up("Enter")
        expect(dialog.get_by_role("button", name="Do nothing")).to_be_focused()
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
    # At once, as the second press of a double one may come.
    pressed = """() => {
        document.getElementById("do-a-Release").click();
        const button = document.querySelector("#action [type=submit]");
        button.click();
        return button.disabled;
    }"""
    assert page.evaluate(pressed) is True
    expect(dialog.get_by_role("button", name="Release")).to_be_enabled()
    assert [each[1] for each in world.audited()] == ["hold"]


def test_an_answer_that_comes_late_is_told_of_what_was_asked(
    page: Page, web: Web, world: World
) -> None:
    lead(world)
    page.goto("/")
    dialog = page.get_by_role("dialog")
    asked: list[Route] = []
    page.route("**/api/v1/pause", lambda route: asked.append(route), times=1)
    page.locator("#do-US_EQ-Pause").click()
    dialog.get_by_label("Reason").fill("halted")
    submit(page)
    page.wait_for_function("document.querySelector('#action [type=submit]').disabled")
    page.keyboard.press("Escape")
    page.locator("#do-EU_EQ-Pause").click()
    dialog.get_by_label("Reason").fill("flood")
    asked[0].continue_()
    expect(page.locator("#done")).to_contain_text("Pause: US_EQ")
    expect(dialog.get_by_label("Reason")).to_have_value("flood")
    submit(page)
    expect(page.locator("#done")).to_contain_text("Pause: EU_EQ")
    # The button is another one by now, and whoever pressed it goes on from there.
    expect(page.locator("#do-EU_EQ-Resume")).to_be_focused()
    assert [each[2] for each in world.audited()] == ["US_EQ", "EU_EQ"]


def submit(page: Page) -> None:
    """Press the dialog's button, which waits until there was time to read."""
    page.locator("#action [type=submit]").click()


def test_what_is_refused_is_told_and_what_was_not_heard_is_done_once(
    page: Page, web: Web, world: World
) -> None:
    lead(world)
    dag = world.run(job("a", max_retries=0), job("b", "a"))
    worker = world.worker()
    page.goto(f"/runs/{dag.dag_id}?job=a")
    page.get_by_role("button", name="Cancel", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("How long what runs")).to_have_value("30s")
    world.finish(dag, worker, "a")  # in the meantime
    expect(page.locator("#job-1")).to_contain_text("SUCCESS")
    submit(page)
    expect(dialog.get_by_role("alert")).to_contain_text("has finished already")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Retry", exact=True).click()
    dialog.get_by_role("checkbox").check()
    # b runs by now, so that with what depends on it it can not be tried again.
    execution_id = world.running(dag, "b", worker)
    submit(page)
    expect(dialog.get_by_role("alert")).to_contain_text("b is RUNNING")
    world.succeed(execution_id, worker)
    dialog.get_by_role("checkbox").uncheck()
    sent = []

    def lose(route: Route) -> None:
        sent.append(route.request.headers["idempotency-key"])
        route.fetch()  # it is done, and nobody hears of it
        route.fulfill(body="", status=200)

    page.route("**/retry", lose, times=1)
    submit(page)
    expect(dialog.get_by_role("alert")).to_contain_text("not known whether it was done")
    # Also when it was closed meanwhile, and the job has failed again.
    page.keyboard.press("Escape")
    world.fail_for_good(dag, "a", worker)
    expect(page.locator("#job-1")).to_contain_text("FAILED")
    page.get_by_role("button", name="Retry", exact=True).click()
    with page.expect_request("**/retry") as again:
        submit(page)
    assert again.value.headers["idempotency-key"] == sent[0]
    expect(page.locator("#done")).to_contain_text("when it was asked before")
    assert len([each for each in world.rows(dag.dag_id) if each.job_id == "a"]) == 2


def test_a_worker_that_is_gone_is_seen_to_be(page: Page, web: Web, world: World) -> None:
    """Its lease ends, and nothing in the database changes."""
    lead(world)
    world.worker(name="us_eq@h", lease=timedelta(seconds=4))
    page.goto("/operations")
    mark(page)
    row = page.get_by_role("row").filter(has_text="us_eq@h")
    expect(row).to_contain_text("✗ ended")
    assert was_not_loaded_again(page)


def test_the_panel_follows_workers_and_the_broker(page: Page, web: Web, world: World) -> None:
    """Also where market time stands, and nothing changes but a lease."""
    stand(world, datetime(2012, 11, 23, 19, 0, tzinfo=UTC), "US_EQ")
    lead(world)
    world.worker(name="first@h", lease=timedelta(seconds=5))
    dag = world.run(job("a"))
    (sent,) = world.claim(world.starts(dag, "a", forced=True))
    with writing(world.engine) as connection:
        executions.mark_published(connection, [sent.execution_id])
    pages = (page, page.context.new_page())
    for each, path in zip(pages, ("runs", "why"), strict=True):
        each.goto(f"/{path}/{dag.dag_id}?job=a")
        expect(each.locator(".why li").first).to_be_visible()
        mark(each)
    for each in pages:
        expect(each.locator(".why")).to_contain_text(
            "no worker serves the queue US_EQ: the lease of first@h ended"
        )
    world.worker(name="second@h")
    for each in pages:
        expect(each.locator(".why")).not_to_contain_text("no worker serves")
    # There is no Redis, and so the panel says since when the scheduler misses it.
    lasted: list[float] = []
    while not are_live(lasted) and len(lasted) < 40:
        lost_at = world.now() - timedelta(hours=1)
        with writing(world.engine) as connection:
            leases.lead(
                connection,
                "beat",
                "host:7:1",
                lease=timedelta(minutes=9),
                ticked_at=world.now(),
                broker_lost_at=lost_at,
            )
        changed_at = time.monotonic()
        page.locator(f".why time[data-at='{lost_at.isoformat()}']").wait_for()
        lasted.append(time.monotonic() - changed_at)
    assert are_live(lasted), lasted
    assert all(map(was_not_loaded_again, pages))


def test_a_page_is_not_asked_for_because_of_what_it_does_not_show(
    page: Page, web: Web, world: World
) -> None:
    lead(world)
    worker = world.worker()
    done = world.run(job("a"), day=DAY - timedelta(days=1))
    world.finish(done, worker, "a")
    world.close(done)
    dag = world.run(job("a"))
    execution_id = world.running(dag, "a", worker)
    page.goto(f"/runs/{dag.dag_id}?job=a")
    others = [page.context.new_page() for _ in range(3)]
    for other, path in zip(
        others, (f"/runs/{done.dag_id}?job=a", "/calendar", "/history"), strict=True
    ):
        other.goto(path)
        expect(other.locator("#live")).to_be_visible()
    asked: list[str] = []
    page.context.on("request", lambda request: asked.append(request.url))
    for number in range(1, 5):
        with writing(world.engine) as connection:
            logs.append(connection, execution_id, number, f"line {number}\n")
        expect(page.locator("pre")).to_contain_text(f"line {number}")
    of_page = [url for url in asked if url.endswith(f"/runs/{dag.dag_id}?job=a")]
    assert len(of_page) >= 4
    # Once a minute a page asks for itself anyhow.
    assert all(asked.count(url) <= 1 for url in asked if url not in (*of_page, f"{web.url}/events"))


def test_what_happens_is_seen_on_every_page(page: Page, web: Web, world: World) -> None:
    lead(world)
    dag = world.run(job("a", max_retries=0))
    worker = world.worker()
    for number, path in enumerate(
        ("/history?market=US_EQ&pipeline=test", "/days/US_EQ/2025-12-02"), start=1
    ):
        page.goto(path)
        mark(page)
        execution_id = world.running(dag, "a", worker)
        seen = page.locator("#live").get_by_role("link", name=re.compile("RUNNING|▶"))
        expect(seen.first).to_be_visible()
        world.fail(execution_id)
        failed = page.locator("#live").get_by_role("link", name=re.compile("FAILED|✗"))
        expect(failed.first).to_be_visible()
        assert was_not_loaded_again(page)
        with writing(world.engine) as connection:
            operators.retry(connection, dag.dag_id, "a", actor="ada")
        assert len(world.rows(dag.dag_id)) == number + 1


def sign_in(page: Page, world: World, leads_to: str) -> None:
    """Make a viewer, and sign in as that one."""
    with writing(world.engine) as connection:
        kept = hash_password("correct horse battery")
        users.add_user(connection, "ada", Role.VIEWER, kept, actor="root")
    page.goto(f"/sign-in?next={leads_to}")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("correct horse battery")
    page.keyboard.press("Enter")


def test_whoever_signs_in_sees_the_markets_and_signs_out_again(
    page: Page, web: Web, world: World
) -> None:
    sign_in(page, world, "")
    expect(page.locator("svg.lane")).to_have_count(3)
    button = page.get_by_role("button", name="Sign out")
    expect(button).to_have_attribute("title", "ada")
    button.click()
    page.wait_for_url("**/sign-in")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    assert page.request.get("/").status == 401


def test_a_page_asks_for_nothing_more_while_its_user_signs_out(
    page: Page, web: Web, world: World
) -> None:
    """It would ask as nobody, and say of what is refused that the sign-in has ended."""
    page.clock.install()
    sign_in(page, world, "operations")
    expect(page.get_by_role("heading", name="Operations")).to_be_visible()
    ended: list[Route] = []

    def hold(route: Route) -> None:
        if route.request.method == "DELETE":
            route.fetch()
            ended.append(route)
        else:
            route.continue_()

    page.route("**/api/v1/session", hold)
    page.get_by_role("button", name="Sign out").click()
    wait_until(lambda: page.request.get("/").status == 401 and bool(ended), timeout=60)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    world.run(job("a"))
    page.evaluate(
        "window.told = 0;"
        "const url = new URL(document.body.dataset.events, location.href).href;"
        "new BroadcastChannel(url).addEventListener('message', () => { window.told++; });"
    )
    # What was read last before that may be told after it; the next has it.
    wait_until(lambda: page.evaluate("window.told") >= 2, timeout=60)
    page.clock.run_for("00:10")
    assert asked == []
    ended[0].fulfill(status=204)
    page.wait_for_url("**/sign-in")


@pytest.mark.parametrize("holds", [True, False], ids=["who leaves has the stream", "it has"])
def test_another_page_is_told_when_its_user_has_signed_out(
    page: Page, web: Web, world: World, holds: bool
) -> None:
    """
    It comes to hold the stream, and not before the session has ended: it would keep it.

    Or it has held it all along, and hears that nothing has changed, which it may ask no longer.
    """
    with page.expect_response("**/events"):
        sign_in(page, world, "")
    other = page.context.new_page()
    if holds:
        other.goto("/")
        expect(other.locator("svg.lane")).to_have_count(3)
    else:
        page.goto("about:blank")
        with other.expect_response("**/events"):
            other.goto("/operations")
        page.goto("/")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in")
    # Sooner than a stream that nobody may have any more comes to its end.
    stale = other.locator("#stale")
    expect(stale).to_contain_text("Your sign-in has ended.", timeout=PATIENCE / 2)
    expect(stale).to_contain_text(re.compile(r"ended\. .*Data ([89]|\d\d) s old"))


def test_eight_pages_of_a_browser_share_a_stream(page: Page, web: Web, world: World) -> None:
    """A browser has six connections to a host; a stream each would leave none to load by."""
    lead(world)
    dag = world.run(job("a"))
    pulse: Pulse = web.app.state.pulse
    others = [page.context.new_page() for _ in range(7)]
    for each in (page, *others):
        each.goto(f"/runs/{dag.dag_id}")
        mark(each)
    wait_until(lambda: pulse.watchers == 1, timeout=60)
    last = others[-1]
    last.get_by_role("button", name="Cancel run", exact=True).click()
    submit(last)
    expect(last.locator("#done")).to_contain_text("Cancel run")
    for each in (page, *others):
        expect(each.locator("#job-1")).to_contain_text("CANCELLED")
    # Whoever holds the stream goes, and then the next one is no longer looked at.
    page.goto("about:blank")
    others[0].evaluate(HIDE)
    with writing(world.engine) as connection:
        operators.retry(connection, dag.dag_id, "a", actor="ada")
    for each in others[1:]:
        expect(each.locator("#job-1")).to_contain_text("PENDING")
        assert was_not_loaded_again(each)
    expect(others[0].locator("#job-1")).to_contain_text("CANCELLED")
    for each in others[1:]:
        each.evaluate(HIDE)
    wait_until(lambda: pulse.watchers == 0, timeout=60)
    others[0].evaluate(SHOW)
    expect(others[0].locator("#job-1")).to_contain_text("PENDING")
    expect(others[0].locator("#stale")).to_be_hidden()
    # One that the browser opens again is there for a moment beside the one before.
    wait_until(lambda: pulse.watchers == 1, timeout=60)


@pytest.mark.parametrize("taken_away", [True, False], ids=["taken away", "passed on"])
def test_below_a_path_of_a_proxy_everything_works(
    browser: Browser,
    sqlite_url: str,
    variables: dict[str, str],
    world: World,
    tmp_path: Path,
    taken_away: bool,
) -> None:
    """Nothing leaves it: not what is loaded or clicked, live or done, nor signing in and out."""
    lead(world)
    dag = world.run(job("a"), day=datetime.now(UTC).date())
    with writing(world.engine) as connection:
        kept = hash_password("correct horse battery")
        users.add_user(connection, "ada", Role.OPERATOR, kept, actor="root")
    below = {"PROMETHEUS__DATABASE__URL": sqlite_url, "PROMETHEUS__WEB__ROOT_PATH": PREFIX}
    app = create_app(load_settings({**variables, **below}, tmp_path))
    with (
        served(app) as web,
        proxied(web.url, taken_away=taken_away) as proxy,
        watched(browser, f"{proxy.url}/") as page,
    ):
        page.goto("sign-in")
        page.get_by_label("Name").fill("ada")
        page.get_by_label("Password").fill("correct horse battery")
        page.keyboard.press("Enter")
        expect(page.locator("svg.lane")).to_have_count(3)
        assert page.url == f"{proxy.url}/"
        for name in ("History", "Calendar", "Operations", "World"):
            page.get_by_role("link", name=name, exact=True).click()
            expect(page.get_by_role("link", name=name, exact=True)).to_have_attribute(
                "aria-current", "page"
            )
        page.get_by_role("link", name=f"{dag.dag_id}: OPEN").click()
        page.goto(f"days/US_EQ/{dag.as_of_date}")
        page.get_by_role("link", name=dag.dag_id, exact=True).click()
        page.get_by_role("link", name="a", exact=True).first.click()
        expect(page.locator(".why li").first).to_be_visible()
        mark(page)
        world.running(dag, "a", world.worker())
        expect(page.locator(".node.running")).to_have_count(1)
        page.get_by_role("button", name="Cancel run", exact=True).click()
        submit(page)
        expect(page.locator("#done")).to_contain_text("Done by ada. Cancel run")
        assert was_not_loaded_again(page)
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("button", name="Sign in")).to_be_visible()
        assert page.url == f"{proxy.url}/sign-in"
        assert proxy.strays == []


def test_a_page_that_hears_nothing_says_how_old_it_is(page: Page, web: Web, world: World) -> None:
    page.goto("/")
    expect(page.locator("#stale")).to_be_hidden()
    pulse: Pulse = web.app.state.pulse
    pulse.close()
    expect(page.locator("#stale")).to_contain_text(re.compile(r"Data \d+ s old"))
    expect(page.locator("#live")).to_contain_text("The scheduler is silent")


def test_whoever_has_to_sign_in_comes_back_to_where_that_was(
    browser: Browser,
    sqlite_url: str,
    variables: dict[str, str],
    world: World,
    tmp_path: Path,
) -> None:
    """Below a path of a proxy, and nowhere else."""
    lead(world)
    dag = world.run(job("a"))
    with writing(world.engine) as connection:
        kept = hash_password("correct horse battery")
        users.add_user(connection, "ada", Role.OPERATOR, kept, actor="root")
    below = {"PROMETHEUS__DATABASE__URL": sqlite_url, "PROMETHEUS__WEB__ROOT_PATH": PREFIX}
    app = create_app(load_settings({**variables, **below}, tmp_path))

    def sign_in(page: Page, leads_to: str) -> None:
        page.get_by_label("Name").fill("ada")
        page.get_by_label("Password").fill("correct horse battery")
        page.keyboard.press("Enter")
        page.wait_for_url(leads_to)

    with (
        served(app) as web,
        proxied(web.url, taken_away=True) as proxy,
        watched(browser, f"{proxy.url}/", 401) as page,
    ):
        asked = f"{proxy.url}/runs/{dag.dag_id}?job=a"
        page.goto(asked)
        page.get_by_role("link", name="Sign in").click()
        sign_in(page, asked)
        expect(page.locator("#job-1")).to_contain_text("PENDING")
        stale = page.locator("#stale")
        told = stale.get_by_role("status")
        expect(stale).to_be_hidden()
        with writing(world.engine) as connection:
            connection.execute(delete(sign_ins))
        world.running(dag, "a", world.worker())
        expect(told).to_have_text("Your sign-in has ended.")
        # It is read out once, not with every second that passes.
        watch = """status => {
            window.saidAgain = 0;
            const options = { childList: true, characterData: true, subtree: true };
            new MutationObserver(() => window.saidAgain++).observe(status, options);
        }"""
        told.evaluate(watch)
        before = stale.inner_text()
        expect(stale).not_to_have_text(before)
        assert page.evaluate("window.saidAgain") == 0
        assert stale.evaluate("element => element.closest('[role=status], [aria-live]')") is None
        stale.get_by_role("link", name="Sign in").click()
        sign_in(page, asked)
        expect(page.locator("#job-1")).to_contain_text("RUNNING")
        for other in ("https://a.example/", "//a.example", "/operations", "javascript:0", "../x"):
            page.goto(f"sign-in?{urlencode({'next': other})}")
            sign_in(page, f"{proxy.url}/")
        assert proxy.strays == []


def test_what_refuses_a_page_is_told_in_its_words(
    browser: Browser, web: Web, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead(world)
    with watched(browser, f"{web.url}/", 500, 503) as page:
        page.goto("/")
        told = page.locator("#stale").get_by_role("status")
        page.route(re.compile(r"/\??$"), lambda route: route.fulfill(status=500, body="no page"))
        world.run(job("a"), day=datetime.now(UTC).date())
        expect(told).to_have_text("The server answers 500.")
        page.unroute_all()
        expect(page.locator("#stale")).to_be_hidden()
        monkeypatch.setattr(pulse_module, "_MOST_WATCHERS", 0)
        page.goto("/operations")
        expect(told).to_have_text("Too many pages are open.")
        expect(page.locator("#stale")).to_contain_text(re.compile(r"Data \d+ s old"))
        expect(page.locator("#stale").get_by_role("link")).to_be_hidden()


def test_times_are_those_of_the_clocks_one_asks_for(page: Page, web: Web, world: World) -> None:
    stand(world, datetime(2012, 11, 23, 12, 0, tzinfo=UTC), "US_EQ")
    page.goto("/")
    change = page.locator("#market-US_EQ .told time")
    expect(change).to_have_text("13:30")
    for name, told in (("Exchange", "08:30"), ("Local", "19:00"), ("UTC", "13:30")):
        button = page.get_by_role("button", name=name, exact=True)
        button.focus()
        page.keyboard.press("Enter")
        expect(change).to_have_text(told)
        expect(button).to_have_attribute("aria-pressed", "true")
    with writing(world.engine) as connection:
        pauses.pause(connection, market_id="US_EQ", reason="halted", actor="ada")
        since = pauses.read_pauses(connection)[0].since
    page.goto("/operations?times=exchange")
    there = since.astimezone(ZoneInfo("America/New_York"))
    paused = page.locator("#live .warning time")
    expect(paused).to_have_text(f"{there:%Y-%m-%d %H:%M:%S}")
    # Of no market, it says whose clocks it is of.
    audited = page.get_by_role("row").filter(has_text="halted").locator("time")
    expect(audited).to_have_text(re.compile(r"\d\d:\d\d:\d\d UTC$"))
    dag = world.run(job("a"), forced=True)
    page.goto(f"/why/{dag.dag_id}?job=a&times=exchange")
    expect(page.locator("#why time").first).to_have_attribute("title", re.compile("New_York$"))


def test_what_is_left_to_the_next_change_of_a_market_grows_less(page: Page, web: Web) -> None:
    page.clock.install()
    # It hears of nothing, and so asks for nothing: the time of a request under way would run out.
    page.route("**/events", lambda route: route.fulfill(status=204))
    page.goto("/")
    left = page.locator("[data-until]").first
    before = left.text_content() or ""
    page.clock.pause_at(datetime.now(UTC) + timedelta(seconds=10))
    expect(page.locator(".htmx-request")).to_have_count(0)
    page.clock.fast_forward("02:00:00")
    expect(left).not_to_have_text(before)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_pages_have_no_serious_fault_by_axe(
    page: Page, web: Web, world: World, scheme: Literal["light", "dark"], width: int
) -> None:
    """Every page with all that it can have, and the dialog of an action."""
    today = datetime.now(UTC).date()
    dag = world.run(*(job(name, max_retries=0) for name in "abcdefg"), day=today)
    worker = world.worker()
    world.fail_for_good(dag, "a", worker)
    world.running(dag, "b", worker)
    world.finish(dag, worker, "c")
    ids = world.ids(dag)
    for name, status in (("d", JobStatus.SKIPPED), ("e", JobStatus.EXPIRED)):
        world.end_waiting({ids[name]: "so"}, status)
    world.claim(world.starts(dag, "f"))
    with writing(world.engine) as connection:
        pauses.pause(connection, market_id="US_EQ", reason="halted", actor="ada")
        pauses.hold(connection, dag.dag_id, "g", reason="late", actor="ada")
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    for path in (
        "/",
        f"/runs/{dag.dag_id}?job=a",
        f"/runs/{dag.dag_id}?job=g",
        f"/days/US_EQ/{today}",
        "/history?market=US_EQ&pipeline=test",
        "/calendar",
        "/operations",
        f"/why/{dag.dag_id}?job=a",
        "/sign-in",
    ):
        page.goto(path)
        assert serious_faults(page) == [], path
    page.goto(f"/runs/{dag.dag_id}?job=g")
    page.get_by_role("button", name="Skip").click()
    assert serious_faults(page) == []
    # It would be told.
    page.evaluate("document.querySelector('dialog button').textContent = ''")
    assert [rule for rule, _ in serious_faults(page)] == ["button-name"]


def serious_faults(page: Page) -> list[tuple[str, str]]:
    """What axe calls serious or critical: rule, and the first element that breaks it."""
    found = Axe().run(page).response["violations"]
    return [
        (each["id"], each["nodes"][0]["html"])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_light_or_dark_and_fits_a_phone(
    page: Page, web: Web, world: World, scheme: str
) -> None:
    dag = world.run(job("a"), job("b", "a"), day=datetime.now(UTC).date())
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": 360, "height": 740})
    colours = set()
    day = f"/days/US_EQ/{dag.as_of_date}"
    history = "/history?market=US_EQ&pipeline=test"
    run, why = f"/runs/{dag.dag_id}?job=a", f"/why/{dag.dag_id}?job=a"
    for path in ("/", run, why, day, history, "/calendar", "/operations", "/sign-in"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.get_by_role("button", name="Light or dark").click()
        colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.evaluate("localStorage.clear()")
    assert colours == {"rgb(255, 255, 255)", "rgb(20, 24, 28)"}
