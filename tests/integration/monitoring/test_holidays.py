"""What a feed says of holidays, by the API: asked for, looked at, and decided on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest

from prometheus.core.holidays import Holiday, HolidayKind
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.holidays import propose_holidays
from prometheus.persistence.overrides import read_overrides
from tests.eodhd.server import TOKEN, Answer, Imitation
from tests.integration.monitoring.conftest import Web, check_problem
from tests.integration.monitoring.test_page_actions import buttons
from tests.integration.monitoring.test_pages import show
from tests.integration.persistence.world import World

HOLIDAYS = "/api/v1/holidays"
NOW = datetime.now(UTC)
STORM = next(
    day
    for day in TradingCalendar("XNYS").trading_days(date(NOW.year, 3, 1), date(NOW.year, 3, 31))
    if not TradingCalendar("XNYS").session(day).early_close
)
ASKED = {"target": "XNYS", "confirm": [str(STORM)], "reason": "NYSE notice", "actor": "ada"}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind of database: the rows are tried on both beside the command."""
    return sqlite_url


@pytest.fixture
def server() -> Iterator[Imitation]:
    """The feed as it is now, with a closure that the calendar does not have."""
    with Imitation(now=NOW) as imitation:
        imitation.maintenance = False
        imitation.extra_closures["US", STORM] = "Storm"
        yield imitation


@pytest.fixture
def variables(variables: dict[str, str], server: Imitation) -> dict[str, str]:
    """Settings of an app that asks it."""
    feed = {"PROMETHEUS__EODHD__TOKEN": TOKEN, "PROMETHEUS__EODHD__URL": server.url}
    return {**variables, **feed}


def sync(web: Web, target: str = "XNYS") -> Any:
    return web.post(f"{HOLIDAYS}/sync", {"target": target})


def test_what_is_asked_for_waits_until_somebody_confirms_it(web: Web, world: World) -> None:
    synced = sync(web)
    (asked,) = synced["exchanges"]
    assert (asked["exchange"], asked["error"]) == ("XNYS", None)
    assert asked["listed"] >= 9
    assert (synced["source"], synced["year"]) == ("eodhd", NOW.year)
    difference = {
        "exchange": "XNYS", "date": str(STORM), "proposed": "closed", "in_force": "open",
        "name": "Storm",
    }  # fmt: skip
    assert synced["differences"] == [{**difference, "state": "proposed"}]
    (waiting,) = web.get(HOLIDAYS, target="US_EQ", from_=STORM, to=STORM)["items"]
    assert waiting.items() >= {**difference, "can_be_confirmed": True}.items()
    for others in (
        {"target": "XNAS"},
        {"to": date(NOW.year, 1, 1)},
        {"from_": f"{NOW.year}-04-01"},
    ):
        assert web.get(HOLIDAYS, **others)["items"] == []

    foreseen = web.post(f"{HOLIDAYS}/decide/preview", ASKED)
    (planned,) = foreseen["decisions"]
    assert [each["state"] for each in planned["change"]["states"]["XNYS"]["after"]] == ["HOLIDAY"]
    assert planned["change"]["states"]["US_EQ"]["others"] == ["XNAS"]
    assert planned["change"]["is_over"] == (NOW.date() > STORM)
    assert (planned["state"], planned["override"], world.audited()) == ("confirmed", 1, [])

    body = json.dumps({**ASKED, "plan": foreseen["plan"]}).encode()
    first, again = (web.send(f"{HOLIDAYS}/decide", body, key="once") for _ in range(2))
    assert (first.status_code, again.text) == (200, first.text)
    assert again.headers["Idempotency-Replayed"] == "true"
    (decided,) = first.json()["decisions"]
    assert decided == {name: value for name, value in planned.items() if name != "change"}
    assert web.get(HOLIDAYS)["items"] == []
    (override,) = web.get("/api/v1/overrides")["items"]
    assert (override["exchange"], override["kind"]) == ("XNYS", "closed")
    assert override["source"] == "eodhd, confirmed: NYSE notice"
    of_it = [("ada", "holiday confirmed", f"XNYS {STORM}"), ("ada", "override", "XNYS")]
    assert world.audited() == of_it
    why = web.problem_of_post(f"{HOLIDAYS}/decide", ASKED, 409)
    assert f"of {STORM} 'closed' was confirmed by ada already. Nothing was decided." in why
    assert TOKEN not in first.text + json.dumps([synced, waiting, foreseen])


def test_what_can_not_be_read_hides_nothing_and_is_no_empty_answer(
    web: Web, world: World, break_sessions: Callable[[str], None]
) -> None:
    closed = Holiday(STORM, "Storm", HolidayKind.CLOSED)
    with writing(world.engine) as connection:
        for exchange in ("XNYS", "XPAR", "XOLD"):  # the last is in no snapshot
            propose_holidays(connection, exchange, "feed", STORM, STORM, [closed])
    break_sessions("XPAR")
    assert [each["exchange"] for each in web.get(HOLIDAYS)["items"]] == ["XNYS"]
    assert [each["exchange"] for each in web.get(HOLIDAYS, target="US_EQ")["items"]] == ["XNYS"]
    for target in ("XPAR", "EU_EQ"):
        why = web.problem(f"{HOLIDAYS}?target={target}", 503)
        assert "sessions of XPAR cannot be read" in why


def test_what_was_seen_is_not_decided_once_the_feed_says_something_else(
    web: Web, world: World, server: Imitation
) -> None:
    sync(web)
    seen = web.post(f"{HOLIDAYS}/decide/preview", ASKED)["plan"]
    server.extra_closures["US", STORM] = "Flood"
    sync(web)
    why = web.problem_of_post(f"{HOLIDAYS}/decide", {**ASKED, "plan": seen}, 409)
    assert "the feed says something else meanwhile, or another has decided: look again" in why
    assert world.audited() == []
    rejected = {"target": "US_EQ", "reject": [str(STORM)], "reason": "it opens"}
    (planned,) = web.post(f"{HOLIDAYS}/decide/preview", rejected)["decisions"]
    assert (planned["exchange"], planned["change"], planned["override"]) == ("XNYS", None, None)
    web.post(f"{HOLIDAYS}/decide", rejected)
    assert web.get(HOLIDAYS)["items"] == []
    (found,) = sync(web)["differences"]
    assert (found["name"], found["state"]) == ("Flood", "rejected")
    (planned,) = web.post(f"{HOLIDAYS}/decide/preview", ASKED)["decisions"]
    assert (planned["earlier"]["state"], planned["earlier"]["reason"]) == ("rejected", "it opens")


def test_what_can_not_be_asked_or_decided_is_told(web: Web, server: Imitation) -> None:
    server.answers.append(Answer(401, f"?api_token={TOKEN}".encode()))
    refused, asked = sync(web, "US_EQ")["exchanges"]
    assert "the token was refused (401)" in refused["error"]
    assert (refused["listed"], asked["error"]) == (None, None)
    assert TOKEN not in refused["error"]
    path = f"{HOLIDAYS}/sync"
    why = web.problem_of_post(path, {"target": "CRYPTO"}, 422)
    assert why == "CRYPTO: no feed knows what is no exchange"
    web.problem_of_post(path, {"target": "XNYZ"}, 404)
    for decide in (f"{HOLIDAYS}/decide", f"{HOLIDAYS}/decide/preview"):
        why = web.problem_of_post(decide, {**ASKED, "reject": [str(STORM)]}, 422)
        assert f"{STORM} is to be confirmed and rejected" in why
        assert "name a date" in web.problem_of_post(decide, {**ASKED, "confirm": []}, 422)
        unheard = web.problem_of_post(decide, {**ASKED, "confirm": ["2027-01-07"]}, 409)
        assert unheard == "XNYS: of 2027-01-07 nothing is proposed. Nothing was decided."


class TestWithoutToken:
    """Where no feed is configured."""

    @pytest.fixture
    def variables(self, variables: dict[str, str]) -> dict[str, str]:
        return {**variables, "PROMETHEUS__EODHD__TOKEN": ""}

    def test_nothing_is_asked(self, web: Web, server: Imitation) -> None:
        answer = web.send(f"{HOLIDAYS}/sync", b'{"target": "XNYS"}')
        assert "Set PROMETHEUS__EODHD__TOKEN" in check_problem(answer, 409)
        assert server.asked == []


def test_the_page_of_the_year_offers_to_decide(web: Web, world: World) -> None:
    year = f"/calendar?market=US_EQ&year={NOW.year}"
    assert "Where a feed says otherwise" not in show(web, year).words
    sync(web)
    page = show(web, year)
    assert f"{STORM:%a} {STORM} XNYS closed open Storm eodhd" in page.words
    assert f"of XNYS on {STORM}: closed" in json.dumps(page.all("button"))
    confirm, reject = page.all("button", data_preview="./api/v1/holidays/decide/preview")
    assert buttons(page)["/api/v1/holidays/decide"] == reject
    for button, state in ((confirm, "confirmed"), (reject, "rejected")):
        body = {**json.loads(button["data-body"]), "reason": "a notice"}
        (planned,) = web.post(f"{HOLIDAYS}/decide/preview", body)["decisions"]
        assert (planned["exchange"], planned["state"]) == ("XNYS", state)
    web.post(f"{HOLIDAYS}/decide", body)
    assert "Where a feed says otherwise" not in show(web, year).words
    with reading(world.engine) as connection:
        assert read_overrides(connection).rows == ()
