"""Every action that pages offer, done to its end in a real browser: by keyboard, and by clicks."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from sqlalchemy import select

from prometheus.core.holidays import Holiday, HolidayKind
from prometheus.monitoring.pages import actions
from prometheus.orchestration.alerts import AlertKind, Cause, Raise, Severity
from prometheus.persistence.alerts import apply_changes
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.holidays import propose_holidays
from prometheus.persistence.tables import audit
from tests.integration.monitoring import test_browser as browsing
from tests.integration.monitoring.conftest import Web
from tests.integration.monitoring.test_pages import lead
from tests.integration.persistence.world import World, job

browser = browsing.browser
database_url = browsing.database_url

RUN = "us_eq_daily_2012-11-21"
REASON = "seen to"


@dataclass(frozen=True, slots=True)
class Step:
    """A button that is pressed, and what is true once that is done."""

    name: str
    """On the button."""
    audited: tuple[str, str]
    """Action and target."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """What its dialog asks for besides a reason: name -> what is written."""
    previewed: bool = False
    """It is shown first what would change."""
    stays: bool = False
    """It can be done again."""
    then: str = ""
    """Status of the job, where it is about one."""


# A page -> what is done on it, one after the other, without loading it again.
PAGES = {
    f"/runs/{RUN}?job=a": [
        Step("Hold", ("hold", RUN), {"for": "1h"}, then="PENDING"),
        Step("Release", ("release", RUN), then="PENDING"),
        Step("Force success", ("force_success", RUN), then="SUCCESS"),
        Step("Retry", ("retry", RUN), then="PENDING"),
        Step("Cancel", ("cancel", RUN), {"grace": "10s"}, then="CANCELLED"),
        Step("Retry run", ("retry", RUN), then="PENDING"),
        Step("Cancel run", ("cancel", RUN), {"grace": "10s"}, then="CANCELLED"),
        Step("Run again", ("rerun", RUN), then="PENDING"),
        Step("Skip", ("skip", RUN), then="SKIPPED"),
    ],
    "/": [
        Step("Pause", ("pause", "US_EQ"), {"for": "1d"}),
        Step("Resume", ("resume", "US_EQ")),
    ],
    "/days/US_EQ/2012-11-20": [Step("Run now", ("run", "us_eq_daily_2012-11-20"))],
    "/history?market=US_EQ&pipeline=daily": [
        Step(
            "Backfill",
            ("backfill", "1"),
            {"first": "2012-11-26", "last": "2012-11-27", "reprocess": "none"},
            previewed=True,
            stays=True,
        ),
        Step("Stop", ("backfill_stop", "1")),
    ],
    "/calendar?market=US_EQ&year=2012": [
        Step(
            "Add override",
            ("override", "US_EQ"),
            {"session": "2012-12-04", "kind": "closed", "source": "nyse.com"},
            previewed=True,
            stays=True,
        ),
        Step("Withdraw", ("override", "US_EQ"), previewed=True),
        Step("Confirm", ("holiday confirmed", "XNYS 2012-12-11"), previewed=True),
        Step("Reject", ("holiday rejected", "XNYS 2012-12-12"), previewed=True),
    ],
    "/operations": [Step("Acknowledge", ("alert_ack", "1"))],
}


def disagree(world: World, *days: date) -> None:
    """Have a feed contradict the calendar, and an alert of it."""
    now = world.now()
    cause = Cause(
        key="feed", kind=AlertKind.FEED_DISAGREEMENT, severity=Severity.WARNING,
        summary="eodhd says otherwise", since=now, markets=("US_EQ",),
    )  # fmt: skip
    with writing(world.engine) as connection:
        for day in days:
            storm = Holiday(day, "Storm", HolidayKind.CLOSED)
            propose_holidays(connection, "XNYS", "eodhd", day, day, [storm])
        apply_changes(connection, [Raise(cause)], now, lambda *_: ())


@pytest.fixture
def page(browser: Browser, web: Web) -> Iterator[Page]:
    """A page on which nothing goes wrong, and that asks nobody else."""
    with browsing.watched(browser, f"{web.url}/") as page:
        yield page


def by_keyboard(page: Page, _: Locator, step: Step) -> None:
    """Reach the first button of a name by Tab, press it, fill in its dialog and press that."""
    first = f"""(() => {{
        const named = [...document.querySelectorAll("button")].filter((each) =>
            each.textContent.trim() === {json.dumps(step.name)} && each.checkVisibility());
        return document.activeElement === named[0];
    }})()"""
    reach(page, first, among=300)
    page.keyboard.press("Enter")
    for name, value in {**step.fields, "reason": REASON}.items():
        reach(page, f"document.activeElement.matches('#action [name={name}]')")
        if page.evaluate("document.activeElement.type") == "date":
            # Its keys are those of the system's language.
            page.locator("#action :focus").fill(value)
        else:
            page.keyboard.press("Control+A")
            page.keyboard.type(value)
    doing = page.locator("#action [type=submit]")
    expect(doing).to_be_enabled()
    page.keyboard.press("Enter")
    if step.previewed:
        expect(page.get_by_role("region", name="What changes")).to_be_focused()
        expect(doing).to_be_enabled()
        reach(page, "document.activeElement.matches('#action [type=submit]')")
        page.keyboard.press("Enter")


def reach(page: Page, wanted: str, *, among: int = 20) -> None:
    """Press Tab until what is wanted has the focus, as an expression says."""
    for _ in range(among):
        if page.evaluate(wanted):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{wanted} is not reached by Tab")


def by_clicks(page: Page, button: Locator, step: Step) -> None:
    """Press a button, fill in its dialog and press that: with the mouse."""
    button.click()
    for name, value in {**step.fields, "reason": REASON}.items():
        asked = page.locator(f"#action [name={name}]:enabled")
        if asked.evaluate("each => each.tagName") == "SELECT":
            asked.select_option(value)
        else:
            asked.fill(value)
    browsing.submit(page)
    if step.previewed:
        expect(page.get_by_role("region", name="What changes")).to_be_visible()
        browsing.submit(page)


@pytest.mark.parametrize("do", [by_keyboard, by_clicks])
def test_every_action_is_done_to_its_end(
    page: Page, web: Web, world: World, do: Callable[[Page, Locator, Step], None]
) -> None:
    lead(world)
    dag = world.run(job("a"), pipeline="daily", day=date(2012, 11, 21))
    assert dag.dag_id == RUN
    disagree(world, date(2012, 12, 11), date(2012, 12, 12))
    for path, steps in PAGES.items():
        page.goto(path)
        browsing.mark(page)
        for step in steps:
            buttons = page.get_by_role("button", name=step.name, exact=True)
            expect(buttons.first).to_be_visible()
            before, known = buttons.count(), len(told(world))
            do(page, buttons.first, step)
            expect(page.locator("#done")).to_contain_text(f"Done by web (root). {step.name}: ")
            expect(page.get_by_role("dialog")).to_be_hidden()
            expect(buttons).to_have_count(before if step.stays else before - 1)
            assert ("web (root)", *step.audited, REASON) in told(world)[known:]
            if step.then:
                assert world.statuses(dag) == {"a": step.then}
        assert browsing.was_not_loaded_again(page)


def told(world: World) -> list[tuple[str, str, str, str]]:
    """Who did what to what, and why."""
    with reading(world.engine) as connection:
        rows = connection.execute(select(audit).order_by(audit.c.audit_id)).all()
    assert all({"before", "after"} <= row.details.keys() for row in rows)
    return [(row.actor, row.action, row.target, row.details["reason"]) for row in rows]


def test_every_action_there_is_is_done_above() -> None:
    """By the words on the buttons, as the module has them: a new one is missed here."""
    offered = {
        str(call.args[0].value)
        for call in ast.walk(ast.parse(inspect.getsource(actions)))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in ("Action", "decide")
        and isinstance(call.args[0], ast.Constant)
    }
    done = [step.name for steps in PAGES.values() for step in steps]
    assert sorted(offered) == sorted(done)
