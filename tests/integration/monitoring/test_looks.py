"""What pages rarely are: empty, refused, stale, full of trouble, with a dialog open."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import text

from prometheus.actors import Role
from prometheus.monitoring.pages.pulse import Pulse
from prometheus.persistence.engine import writing
from tests.integration.monitoring import test_browser as browsing
from tests.integration.monitoring.conftest import Web
from tests.integration.monitoring.test_every_action import disagree
from tests.integration.monitoring.test_pages import lead
from tests.integration.monitoring.test_users import add
from tests.integration.persistence.world import World, job

browser = browsing.browser
database_url = browsing.database_url

LOOKS: tuple[tuple[Literal["light", "dark"], int], ...] = (("light", 1280), ("dark", 360))
"""Each colour once and each width once: what is there in one is there in the other."""
TOO_WIDE = """() => [document.documentElement, ...document.querySelectorAll("dialog[open]")]
    .filter((each) => each.scrollWidth > each.clientWidth).map((each) => each.tagName)"""


@pytest.fixture
def page(browser: Browser, web: Web) -> Iterator[Page]:
    """A page that is also refused."""
    with browsing.watched(browser, f"{web.url}/", 401, 404, 503) as page:
        yield page


def look(page: Page) -> None:
    """Check what is shown as axe and a phone's owner would."""
    for scheme, width in LOOKS:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 740})
        assert page.evaluate(TOO_WIDE) == [], (page.url, width)
        assert browsing.serious_faults(page) == [], (page.url, scheme, width)


def test_where_nothing_is_and_nobody_works(page: Page, web: Web, world: World) -> None:
    for path, words in (
        ("/", "The scheduler is silent"),
        ("/days/US_EQ/2012-11-20", "has no run of this session"),
        ("/history?market=US_EQ&pipeline=daily", "There are no runs of it."),
        ("/operations", "Nobody has done anything yet."),
        ("/runs/none", "none"),
    ):
        page.goto(path)
        expect(page.locator("#content")).to_contain_text(words)
        look(page)
    # It would be told.
    page.evaluate("document.querySelector('h1').style.width = '400px'")
    assert page.evaluate(TOO_WIDE) == ["HTML"]


def test_where_much_is_wrong(page: Page, web: Web, world: World) -> None:
    dag = world.run(job("a", max_retries=0), job("b", "a"), job("c"))
    world.fail_for_good(dag, "a", world.worker())
    (stranded,) = world.claim(world.starts(dag, "c"))
    world.change(stranded.execution_id, queue="EU_EQ")
    disagree(world, date(2012, 12, 11))
    for path, words in (
        ("/operations", "nobody listens"),
        ("/calendar?market=US_EQ&year=2012", "Where a feed says otherwise"),
        (f"/why/{dag.dag_id}", "Somebody should look"),
        (f"/why/{dag.dag_id}?job=b", "a"),
    ):
        page.goto(path)
        expect(page.locator("#content")).to_contain_text(words)
        look(page)


def test_what_is_asked_before_something_is_done(page: Page, web: Web, world: World) -> None:
    lead(world)
    dag = world.run(job("a"))
    disagree(world, date(2012, 12, 11))
    reason = page.get_by_label("Reason")
    for path, name in (
        (f"/runs/{dag.dag_id}?job=a", "Hold"),
        (f"/runs/{dag.dag_id}?job=a", "Cancel run"),
        ("/history?market=US_EQ&pipeline=daily", "Backfill"),
        ("/calendar?market=US_EQ&year=2012", "Add override"),
        ("/calendar?market=US_EQ&year=2012", "Confirm"),
    ):
        page.goto(path)
        page.get_by_role("button", name=name, exact=True).click()
        expect(page.locator("#action [type=submit]")).to_be_enabled()
        if name == "Confirm":
            reason.fill("circular")
            browsing.submit(page)
            expect(page.get_by_role("region", name="What changes")).to_be_visible()
        look(page)


def test_who_is_not_known_and_what_is_not_heard(page: Page, web: Web, world: World) -> None:
    page.goto("/")
    pulse: Pulse = web.app.state.pulse
    pulse.close()
    expect(page.locator("#stale")).to_be_visible()
    look(page)
    add(world.engine, "ada", Role.VIEWER)
    page.goto("/")
    expect(page.get_by_role("link", name="Sign in")).to_be_visible()
    look(page)
    page.goto("/sign-in")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    look(page)
    with writing(world.engine) as connection:
        connection.execute(text("ALTER TABLE users RENAME TO mislaid"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    page.goto("/")
    expect(page.locator("h1")).to_have_text("Service Unavailable")
    look(page)
