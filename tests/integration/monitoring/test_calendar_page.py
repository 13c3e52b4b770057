"""The page of a market's year."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from tests.integration.monitoring.conftest import Web
from tests.integration.monitoring.test_markets import say
from tests.integration.monitoring.test_pages import COMMON, show, stand
from tests.integration.persistence.world import World


def test_a_year_has_all_its_dates_and_the_special_ones_by_name(web: Web) -> None:
    page = show(web, "/calendar?market=US_EQ&year=2026")
    assert len(web.statements) <= COMMON + 1  # what waits for a decision
    kinds = [
        each.get("class", "").split()[1]
        for each in page.all("rect")
        if each.get("class", "")[:4] == "day "
    ]
    year, legend = kinds[:-7], kinds[-7:]
    assert len(year) == 365
    assert (year.count("session") + year.count("special"), year.count("holiday")) == (251, 10)
    assert year.count("weekend") == 104
    assert set(legend) == {"session", "special", "partial", "holiday", "weekend", "unknown"}
    assert "US_EQ in 2026" in page.words
    assert "Fri 2026-07-03 closed Independence Day (observed)" in page.words
    early = "Fri 2026-11-27 special hours Day after Thanksgiving Day 2026-11-27 14:30:00 to"
    assert early in page.words
    assert "Fri 2026-11-27: special hours (Day after Thanksgiving Day)" in page.words
    links = [each["href"] for each in page.all("a") if "year=" in each["href"]]
    assert "?market=EU_EQ&year=2026" in links
    assert "?market=US_EQ&year=2027" in links


def test_the_year_is_the_one_that_it_is_there(web: Web, world: World) -> None:
    stand(world, datetime(2012, 11, 23, 12, 0, tzinfo=UTC), "US_EQ")
    page = show(web, "/calendar")
    assert "US_EQ in 2012" in page.words
    assert len([each for each in page.all("rect") if "today" in each.get("class", "").split()]) == 1
    assert "Mon 2012-10-29 closed Hurricane Sandy" in page.words


def test_members_that_are_closed_are_named(web: Web) -> None:
    page = show(web, "/calendar?market=ASIA_EQ&year=2012")
    assert "Fri 2012-11-23 some exchanges closed" in page.words
    assert (
        "XTKS: Labour Thanksgiving Day" in page.words
        or "XTKS: Labor Thanksgiving Day" in page.words
    )


def test_overrides_are_marked_and_named(web: Web, world: World) -> None:
    say(world, 1, "flood")
    page = show(web, "/calendar?market=US_EQ&year=2012")
    dots = page.all("circle", class_="override")
    assert len(dots) == 2  # and the one of the legend
    assert re.search(r"Fri 2012-11-23: special hours \(.+\), by an override", page.words)
    assert "XNYS: flood closed, by ada (s)" in page.words


def test_what_is_not_known_is_said_to_be(web: Web) -> None:
    page = show(web, "/calendar?market=US_EQ&year=2100")
    assert len([each for each in page.all("rect") if each.get("class", "") == "day unknown"]) == 366
    assert "None: the sessions are all alike." in page.words
    assert "NOWHERE" in show(web, "/calendar?market=NOWHERE", 404).words
    show(web, "/calendar?year=12", 422)
