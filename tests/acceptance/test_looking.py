"""Commands that only look: markets, dag show, db, doctor, help; and the demonstrations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import RunCommand, environment


def test_help_names_the_commands(run_command: RunCommand) -> None:
    ended = run_command("--help")
    assert ended.status == 0
    assert "replay" in ended.out


@pytest.mark.parametrize(
    "module", ["sqlalchemy", "celery", "redis", "pydantic", "numpy", "alembic"]
)
def test_help_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, prometheus.cli.application; sys.exit({module!r} in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment()}, check=False
    )
    assert done.returncode == 0


def test_markets_at_an_instant(run_command: RunCommand) -> None:
    ended = run_command("markets", "--at", "2012-11-23T04:30Z", "--json")
    us, eu, asia = ended.document
    assert (us["state"], us["reason"]) == ("HOLIDAY", "Thanksgiving Day")
    assert eu["next_transition"] == {"at": "2012-11-23T07:00:00+00:00", "state": "PRE_OPEN"}
    assert asia["in_break"] is True
    assert asia["members"]["XTKS"]["closed"] == "Labor Thanksgiving Day"
    assert "Thanksgiving Day" in run_command("markets", "--at", "2012-11-23T04:30Z").out


def test_markets_of_one_exchange(run_command: RunCommand) -> None:
    assert [each["market"] for each in run_command("markets", "XTKS", "--json").document] == [
        "XTKS"
    ]


@pytest.mark.parametrize(
    ("at", "text"),
    [
        ("2012-11-23T04:30", "has no time zone"),
        ("2012-11-23T04:30", "Write 2012-11-23T04:30Z for UTC"),
        ("noon", "is not an instant such as"),
    ],
)
def test_an_instant_without_a_zone_is_refused(run_command: RunCommand, at: str, text: str) -> None:
    run_command("markets", "--at", at).refused(text, status=2)


def test_an_unknown_market_is_refused(run_command: RunCommand) -> None:
    run_command("markets", "XNYC").refused("'XNYC'", "Did you mean 'XNYS'?")


def test_markets_past_the_horizon(run_command: RunCommand) -> None:
    ended = run_command("markets", "--at", "2099-01-05T12:00Z")
    assert ended.status == 1
    assert "not known" in ended.out


def test_dag_show_has_the_windows_of_the_session(run_command: RunCommand) -> None:
    document = run_command("dag", "show", "us_eq_daily_2012-11-23", "--json").document
    assert document["session"]["early_close"] is True
    jobs = {job["job_id"]: job for job in document["jobs"]}
    assert len(jobs) == 9
    assert jobs["ingest_prices"]["window"] == {
        "opens_at": "2012-11-23T18:00:00+00:00",
        "closes_at": "2012-11-26T13:30:00+00:00",
    }
    by_date = ("--market", "US_EQ", "--date", "2012-11-23")
    assert run_command("dag", "show", *by_date, "--json").document == document
    assert "Fri 13:00 New York" in run_command("dag", "show", *by_date).out


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (("us_eq_daily_2012-11-22",), ("Thanksgiving Day", "2012-11-21 and 2012-11-23")),
        (("us_eq_dayly_2012-11-23",), ("Did you mean 'us_eq_daily_2012-11-23'?",)),
        (("nonsense",), ("names no run", "us_eq_daily_2012-11-23")),
        (("--market", "US_EQ", "--pipeline", "dayly"), ("Did you mean 'daily'?",)),
        (("--market", "XTKS"), ("does not follow XTKS",)),
    ],
)
def test_dag_show_of_what_is_not_there(
    run_command: RunCommand, arguments: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    run_command("dag", "show", *arguments).refused(*texts)


def test_db_upgrade_makes_the_tables_once(run_command: RunCommand, home: Path) -> None:
    run_command("db", "current").refused("There is no database", "prometheus db upgrade")
    first = run_command("db", "upgrade", "--json").document
    assert first["before"] is None
    assert run_command("db", "upgrade", "--json").document["before"] == first["revision"]
    assert run_command("db", "current").status == 0
    assert (home / ".prometheus" / "prometheus.db").exists()


def test_doctor_of_a_new_installation_says_what_to_do(run_command: RunCommand) -> None:
    ended = run_command("doctor", env={"PROMETHEUS__BROKER__URL": "redis://:secret@127.0.0.1:1/0"})
    assert ended.status == 1
    assert "redis://:***@127.0.0.1:1/0 does not answer" in ended.out
    assert "prometheus up" in ended.out
    assert "secret" not in ended.out + ended.err
    document = run_command("doctor", "--json").document
    assert document["healthy"] is False
    health = {finding["name"]: finding["health"] for finding in document["findings"]}
    assert health["pipelines"] == "ok"
    assert health["calendar US_EQ"] == "ok"
    assert health["database"] == "fault"


def test_doctor_names_a_pipeline_that_has_no_market_here(run_command: RunCommand) -> None:
    ended = run_command("doctor", "--json", env={"PROMETHEUS__MARKETS__ENABLED": "XTKS"})
    (found,) = (each for each in ended.document["findings"] if each["name"] == "pipelines")
    assert (found["health"], found["text"]) == ("warning", "daily: 9 jobs for no market")
    assert "daily is for US_EQ, EU_EQ, ASIA_EQ: add" in found["remedy"]


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("demo_market_states", "US_EQ"),
        ("demo_orchestrator", "ingest_prices (CRITICAL)"),
        ("demo_market_aware_daemon", "SUCCESS 9"),
    ],
)
def test_demonstrations_run(home: Path, module: str, text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"prometheus.scripts.{module}", "2012-11-23T18:30Z"],
        cwd=home,
        env={**os.environ, **environment()},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert text in done.stdout
    assert list(home.iterdir()) == []
