"""``prometheus runs``, ``executions`` and ``alerts``: what the API lists, in its words."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from prometheus.cli.application import make_application
from prometheus.monitoring.api.executions import Execution
from prometheus.monitoring.api.runs import Run
from prometheus.persistence.engine import create_engine, writing
from prometheus.persistence.tables import backfills, dag_runs
from tests.integration.persistence.world import DAY, World, job


@pytest.fixture
def world(sqlite_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """A database in which two runs are, and the one of the settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROMETHEUS__DATABASE__URL", sqlite_url)
    monkeypatch.setenv("COLUMNS", "200")
    world = World(create_engine(sqlite_url))
    dag = world.run(job("a", max_retries=0), job("b"), pipeline="gone")
    world.fail_for_good(dag, "a", world.worker())
    world.run(job("a"), day=DAY + timedelta(days=1))
    return world


def run(*arguments: str) -> str:
    done = CliRunner().invoke(make_application(arguments), arguments)
    assert done.exception is None, done.exception
    return done.stdout


def listed(*arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(*arguments, "--json"))
    return found


def test_runs_are_listed_and_filtered(world: World) -> None:
    later, earlier = listed("runs")
    assert set(later) == set(Run.model_fields)
    assert (later["session_date"], earlier["session_date"]) == ("2025-12-03", "2025-12-02")
    assert earlier["jobs"] == {"FAILED": 1, "PENDING": 1}
    assert listed("runs", "--limit", "1") == [later]
    assert listed("runs", "--pipeline", "gone", "--market", "US_EQ") == [earlier]
    assert listed("runs", "--from", "2025-12-03", "--status", "OPEN") == [later]
    assert listed("runs", "--to", "2025-12-02") == [earlier]
    assert "1 PENDING, 1 FAILED" in run("runs")
    assert run("runs", "--market", "EU_EQ") == "There are no such runs.\n"


def test_executions_are_listed_and_filtered(world: World) -> None:
    found = listed("executions")
    assert {(each["dag_id"], each["job"]) for each in found} == {
        *(("us_eq_gone_2025-12-02", name) for name in ("a", "b")),
        ("us_eq_test_2025-12-03", "a"),
    }
    assert set(found[0]) == set(Execution.model_fields)
    (failed,) = listed("executions", "--status", "FAILED")
    assert failed["error"].startswith("ValueError: boom")
    assert (failed["attempt"], failed["worker"]) == (1, "w@h")
    for one in (
        ("--worker", "w@h"),
        ("--run", failed["dag_id"], "--job", "a"),
        ("--from", failed["started_at"], "--market", "US_EQ"),
    ):
        assert listed("executions", *one) == [failed], one
    assert listed("executions", "--to", failed["started_at"]) == []
    assert "ValueError: boom" in run("executions")


def test_backfills_are_listed_and_filtered(world: World) -> None:
    for first in ("2012-11-19", "2012-11-26"):
        range_of_it = ("--from", first, "--to", first, "--reason", "new prices")
        run("backfill", "start", "US_EQ", *range_of_it, "--yes")
    with writing(world.engine) as connection:
        which = backfills.c.backfill_id == 1
        connection.execute(update(backfills).where(which).values(market_id="GONE", pipeline="gone"))
    for filters, numbers in {
        (): [2, 1],
        ("--market", "US_EQ"): [2],
        ("--pipeline", "gone"): [1],
        ("--market", "GONE", "--pipeline", "daily"): [],
    }.items():
        assert [each["backfill"] for each in listed("backfill", "list", *filters)] == numbers
    assert run("backfill", "list", "--market", "EU_EQ") == "No such backfill is open.\n"
    refused = CliRunner().invoke(make_application(), ("backfill", "list", "--pipeline", "dayly"))
    assert "Did you mean 'daily'?" in str(refused.exception)


def test_what_is_not_configured_any_more_is_known_by_what_there_is_of_it(world: World) -> None:
    with writing(world.engine) as connection:
        connection.execute(update(dag_runs).values(market_id="GONE"))
    assert run("alerts", "list", "--market", "GONE") == "No such alert is open.\n"
    refused = ("alerts", "list", "--market", "GONE", "--pipeline", "dayly")
    done = CliRunner().invoke(make_application(), refused)
    assert "Did you mean 'daily'?" in str(done.exception)


@pytest.mark.parametrize("command", ["runs", "executions", "alerts"])
def test_a_market_that_is_not_known_has_a_nearest(world: World, command: str) -> None:
    done = CliRunner().invoke(make_application(), (command, "--market", "US_EQQ"))
    assert "US_EQ" in str(done.exception)
    assert "Did you mean" in str(done.exception)
    assert run(command, "--market", "EU_EQ").startswith(("There are no such", "No such alert"))
