"""The page of a pipeline's last sessions in a market, by real rows."""

from __future__ import annotations

import re
from datetime import date, timedelta

import pytest

from prometheus import Pipeline
from prometheus.monitoring.pages.history import percentile
from prometheus.orchestration.backfill import Reprocess
from prometheus.persistence.backfills import start_backfill
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.listings import RunFilter, list_sittings
from tests.integration.monitoring.conftest import Web
from tests.integration.monitoring.test_pages import COMMON, Page, show
from tests.integration.persistence.world import World, job

DAYS = [date(2025, 12, 2) + timedelta(days=each) for each in range(33)]


def cells(page: Page) -> list[tuple[str, str]]:
    """Title and link of each cell, line by line; what has just begun is told to the minute."""
    return [
        (re.sub(r"(OPEN|FAILED), \d+ s$", r"\1, 0 s", each["title"]), each["href"])
        for each in page.all("a")
        if "title" in each
    ]


def test_sessions_are_shown_by_jobs(web: Web, world: World) -> None:
    worker = world.worker()
    first = world.run(job("b", max_retries=0), job("a", "b"), job("old"), day=DAYS[0])
    world.finish(first, worker, "b", "a", "old")
    world.close(first)
    second = world.run(job("b", max_retries=0), job("a", "b"), day=DAYS[1])
    world.fail_for_good(second, "b", worker)
    for name, row in world.latest(first).items():
        world.change(row.execution_id, started_at=row.completed_at - timedelta(minutes=len(name)))
    page = show(web, "/history?market=US_EQ&pipeline=test")
    assert len(web.statements) <= COMMON + 1
    links = [f"./runs/{dag.dag_id}" for dag in (first, second)]
    assert cells(page) == [
        ("2025-12-02: SUCCESS, 3 min 0 s", links[0]),
        ("2025-12-03: OPEN, 0 s", links[1]),
        # As the latest run has its jobs, and then those that it has no more.
        ("2025-12-02: SUCCESS, 1 min 0 s", f"{links[0]}?job=b"),
        ("2025-12-03: FAILED, 0 s", f"{links[1]}?job=b"),
        ("2025-12-02: SUCCESS, 1 min 0 s", f"{links[0]}?job=a"),
        ("2025-12-03: PENDING", f"{links[1]}?job=a"),
        ("2025-12-02: SUCCESS, 3 min 0 s", f"{links[0]}?job=old"),
    ]
    assert "old 3 min 0 s 3 min 0 s" in page.words
    assert len(page.all("svg", class_="durations")) == 4


def test_earlier_sessions_are_on_pages_before(web: Web, world: World) -> None:
    for day in DAYS:
        world.run(job("a"), day=day)
    page = show(web, "/history?market=US_EQ&pipeline=test")
    shown = [title[:10] for title, link in cells(page) if "?" not in link]
    assert shown == [each.isoformat() for each in DAYS[3:]]
    query = f"?market=US_EQ&pipeline=test&before={DAYS[3]}"
    assert [each["href"] for each in page.all("a") if "before=" in each["href"]] == [query]
    earlier = show(web, f"/history{query}")
    assert [title[:10] for title, link in cells(earlier) if "?" not in link] == [
        each.isoformat() for each in DAYS[:3]
    ]
    assert "Latest sessions" in earlier.words
    assert "Earlier sessions" not in earlier.words


def test_of_very_many_jobs_fewer_sessions_are_shown_each_with_all_of_its_jobs(
    world: World,
) -> None:
    worker = world.worker()
    for day in DAYS[:3]:
        dag = world.run(job("a"), job("b"), day=day)
    world.fail(world.running(dag, "a", worker))  # it is tried again

    def found(limit: int, most_jobs: int) -> tuple[list[tuple[date, int]], bool]:
        with reading(world.engine) as connection:
            which = RunFilter(market_id="US_EQ")
            shown, more, _ = list_sittings(connection, which, limit=limit, most_jobs=most_jobs)
        return [(each.run.as_of_date, len(each.jobs)) for each in shown], more

    newest_first = [(day, 2) for day in DAYS[2::-1]]
    assert found(3, 6) == (newest_first, False)
    assert found(2, 6) == (newest_first[:2], True)
    assert found(3, 5) == (newest_first[:2], True)
    assert found(3, 3) == (newest_first[:1], True)
    assert found(3, 1) == (newest_first[:1], True)


def test_without_runs_it_offers_what_is_configured(web: Web, world: World) -> None:
    page = show(web, "/history")
    assert "There are no runs of it." in page.words
    chosen = [each["href"] for each in page.all("a", aria_current="true")]
    assert chosen == ["?market=US_EQ&pipeline=daily"]
    assert "daily, ASIA_EQ" in page.words
    assert "History of daily in EU_EQ" in show(web, "/history?market=EU_EQ").words
    world.run(job("a"))
    for other in ("market=NOWHERE", "pipeline=test", "market=US_EQ&pipeline=none"):
        assert "There are no runs of it." in show(web, f"/history?{other}").words
    assert web.ask("/history?before=0001-01-01").status_code == 422
    assert web.ask("/history?before=soon").status_code == 422


@pytest.mark.parametrize("has_run", [False, True])
def test_backfills_of_what_is_no_longer_configured_are_shown(
    web: Web, world: World, *, has_run: bool
) -> None:
    if has_run:
        world.run(job("b"), job("a", "b"))
    with writing(world.engine) as connection:
        gone = Pipeline("test", markets=["US_EQ"])
        gone.add("jobs:report")
        for day in (date(2012, 11, 19), date(2012, 11, 20)):
            start_backfill(
                connection, gone, "US_EQ", day, day, reprocess=Reprocess.NONE, max_active_runs=1,
                reason="new prices", actor="ada",
            )  # fmt: skip
    words = show(web, "/history?market=US_EQ&pipeline=test").words
    assert len(web.statements) <= COMMON + 1
    assert words.index("2012-11-20") < words.index("2012-11-19")
    assert ("There are no runs of it." in words) is not has_run


@pytest.mark.parametrize(
    ("values", "percent", "found"), [([3, 1, 2], 50, 2), ([1, 2, 3, 4], 50, 2), ([5], 95, 5),
    (list(range(1, 101)), 95, 95), (list(range(1, 21)), 95, 19)],
)  # fmt: skip
def test_percentiles_are_values_that_there_were(
    values: list[int], percent: int, found: int
) -> None:
    assert percentile([timedelta(seconds=each) for each in values], percent).seconds == found
