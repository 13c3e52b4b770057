"""``prometheus why`` as a command: what it prints, in JSON too, and what it refuses."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.names import LEADERSHIP
from prometheus.persistence import leases
from prometheus.persistence.engine import create_engine, writing
from tests.acceptance.conftest import RunCommand
from tests.integration.persistence.world import World, job

RUN = "us_eq_test_2025-12-02"


@pytest.fixture
def env(sqlite_url: str) -> dict[str, str]:
    """The variables of a command that works on the test's own database."""
    return {"PROMETHEUS__DATABASE__URL": sqlite_url}


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    """The same database, to be changed by the test."""
    engine = create_engine(sqlite_url)
    yield World(engine)
    engine.dispose()


def test_job_with_all_that_it_waits_for(
    run_command: RunCommand, world: World, env: dict[str, str]
) -> None:
    dag = world.run(job("first"), job("second", "first"), forced=True)

    out = run_command("why", RUN, "second", env=env).out

    made = f"{world.run_row(dag).created_at:%Y-%m-%d %H:%M:%S} UTC ("
    assert f"{RUN} second  PENDING, attempt 1\n" in out
    assert "1. no scheduler is running: nothing starts by itself\n   start one: prometheus" in out
    assert "2. it waits for first (PENDING)\n   it starts when all of them have" in out
    assert "3. first: nothing keeps it from starting\n   the scheduler starts it at its" in out
    assert "4. an operator asked for its run: windows do not count\n" in out
    assert f"   since {made}" in out

    document = run_command("why", RUN, "second", "--json", env=env).document
    assert [each["kind"] for each in document["reasons"]] == [
        "no_scheduler",
        "upstream",
        "runnable",
        "forced",
    ]
    assert (document["dag_id"], document["job"], document["status"]) == (RUN, "second", "PENDING")
    assert document["reasons"][0]["wrong"] is True
    waits = document["reasons"][1]
    assert waits["refers_to"] == [{"dag_id": RUN, "job": "first"}]
    assert waits["clock"] == "market"
    assert waits["until"] is None


def test_run_with_the_first_reason_of_each_job(
    run_command: RunCommand, world: World, env: dict[str, str]
) -> None:
    dag = world.run(job("first"), job("second", "first"), job("third", "second"), forced=True)
    with writing(world.engine) as connection:
        leases.lead(connection, LEADERSHIP, "desk:7:x", lease=timedelta(hours=1))
    worker = world.worker()
    world.finish(dag, worker, "first")
    world.running(dag, "second", worker)

    lines = [line.rstrip() for line in run_command("why", RUN, env=env).out.splitlines()]

    assert lines[0] == f"{RUN}  OPEN"
    assert not any(line.startswith("first ") for line in lines), "it has succeeded"
    (second,) = (line.split(maxsplit=2) for line in lines if line.startswith("second "))
    (third,) = (line.split(maxsplit=2) for line in lines if line.startswith("third "))
    assert second[1:] == ["RUNNING", "attempt 1 runs on w@h"]
    assert third[1:] == ["PENDING", "it waits for second (RUNNING)"]
    document = run_command("why", RUN, "--json", env=env).document
    assert document["reasons"] == []
    assert [(each["job"], each["reason"]["kind"]) for each in document["jobs"]] == [
        ("second", "running"),
        ("third", "upstream"),
    ]


def test_scheduler_that_can_not_renew_in_a_locked_database_is_not_called_gone(
    run_command: RunCommand, world: World, env: dict[str, str], sqlite_url: str
) -> None:
    world.run(job("a"), forced=True)
    with writing(world.engine) as connection:
        leases.lead(connection, LEADERSHIP, "desk:7:x", lease=timedelta(seconds=-1))
    gone = run_command("why", RUN, "a", "--json", env=env).document
    assert gone["reasons"][0]["kind"] == "no_scheduler"
    path = sqlite_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        held = run_command("why", RUN, "a", "--json", env=env).document
    assert [each["kind"] for each in held["reasons"]] == ["database_locked", "runnable", "forced"]


def test_names_that_are_not_known(
    run_command: RunCommand, world: World, env: dict[str, str]
) -> None:
    world.run(job("ingest_prices"))
    run_command("why", "us_eq_tset_2025-12-02", env=env).refused(f"Did you mean '{RUN}'?")
    run_command("why", RUN, "ingest_price", env=env).refused(
        f"{RUN} has no job 'ingest_price'. Did you mean 'ingest_prices'?"
    )
    run_command("why", "us_eq_daily_2026-11-30", "run_signal", env=env).refused(
        "us_eq_daily_2026-11-30 will have no job 'run_signal'. Did you mean 'run_signals'?"
    )
    run_command("why", "yesterday", "--json", env=env).refused("There is no run 'yesterday'")


def test_runs_that_are_not_there(
    run_command: RunCommand, world: World, env: dict[str, str]
) -> None:
    with writing(world.engine) as connection:
        leases.lead(connection, LEADERSHIP, "desk:7:x", lease=timedelta(hours=1))
    calendar = TradingCalendar("US_EQ")
    today = datetime.now(UTC).date()
    day = calendar.next_trading_day(today + timedelta(days=1))
    phases = calendar.phases(day)

    asked = ("why", f"us_eq_daily_{day}", "ingest_prices")
    document = run_command(*asked, "--json", env=env).document

    assert [(each["kind"], each["until"]) for each in document["reasons"]] == [
        ("not_made", phases.pre_open_at.isoformat()),
        ("window", phases.close_at.isoformat()),
    ]
    out = run_command("why", f"us_eq_daily_{day}", env=env).out
    assert f"us_eq_daily_{day}  there is no such run\n" in out
    christmas = run_command("why", "us_eq_daily_2025-12-25", env=env).out
    assert "1. US_EQ has no session on 2025-12-25: Christmas Day\n" in christmas
    old = run_command("why", "us_eq_daily_2012-11-21", env=env).out
    assert "to make it all the same: prometheus run US_EQ --date 2012-11-21" in old
    beyond = run_command("why", "us_eq_daily_2099-01-02", env=env).out
    assert "1. nothing is decided for US_EQ: 2099-01-02 is after the last date" in beyond
    other = {**env, "PROMETHEUS__MARKETS__ENABLED": "EU_EQ"}
    elsewhere = run_command("why", f"us_eq_daily_{day}", env=other).out
    assert "1. this installation does not work for US_EQ\n" in elsewhere
