"""Commands that only look: markets, dag show, db, doctor, help; and the demonstrations."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import prometheus
from prometheus.persistence import migrate
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
    us, eu, asia, *_ = ended.document
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


def test_calendar_at_takes_the_zone_of_a_place(run_command: RunCommand) -> None:
    at = "2026-12-24 12:45 Europe/Paris"
    us, eu, asia, *_ = run_command("calendar", "at", at, "--json").document
    assert (us["state"], eu["state"], asia["state"]) == ("OVERNIGHT", "SESSION", "OVERNIGHT")
    assert run_command("calendar", "at", at).out == run_command("markets", "--at", at).out
    bombay = run_command("calendar", "at", "2026-02-01 12:00 Asia/Kolkata", "XBOM", "--json")
    assert bombay.document[0]["state"] == "SESSION"
    run_command("calendar", "at", "2026-03-29 02:30 Europe/Paris").refused(
        "does not exist", status=2
    )


def test_calendar_show_names_and_marks_the_days_of_a_year(run_command: RunCommand) -> None:
    shown = run_command("calendar", "show", "US_EQ", "2026").out
    assert "November" in shown
    assert "26x 27* 28" in shown
    assert "Thu 2026-11-26  Thanksgiving Day" in shown
    assert "early close 18:00 UTC, Day after Thanksgiving Day" in shown
    document = run_command("calendar", "show", "ASIA_EQ", "2026", "--json").document
    days = {day["date"]: day for day in document["days"]}
    assert len(days) == 365
    assert days["2026-11-23"]["kind"] == "partial"
    assert days["2026-11-23"]["closed_members"] == {"XTKS": "Labor Thanksgiving Day"}
    assert days["2026-01-01"]["kind"] == "holiday"
    run_command("calendar", "show", "US_EQ", "2031").refused("after the last date")


def test_calendar_next_names_what_comes(run_command: RunCommand) -> None:
    at = ("--at", "2026-11-25T15:00Z")
    (found,) = run_command("calendar", "next", "XNYS", *at, "--json").document
    assert found["session"]["session"]["open"] == "2026-11-27T14:30:00+00:00"
    assert found["closed"]["reason"] == "Thanksgiving Day"
    assert "Thanksgiving Day" in run_command("calendar", "next", "US_EQ", *at).out


def test_calendar_horizon_has_a_source_for_every_exchange(run_command: RunCommand) -> None:
    rows = run_command("calendar", "horizon", "--json").document
    assert len(rows) == 75
    assert all(row["source"] for row in rows)
    assert [row["last"] for row in rows] == sorted(row["last"] for row in rows)
    assert "XSHG" in run_command("calendar", "horizon", "XSHG", "XNYS").out


def test_a_damaged_exchange_leaves_the_others_alone(home: Path) -> None:
    """A copy of the package, in which one exchange's file is cut off."""
    package = Path(prometheus.__file__).parent
    shutil.copytree(package, home / "prometheus", ignore=shutil.ignore_patterns("__pycache__"))
    damaged = home / "prometheus" / "core" / "data" / "sessions" / "XPAR.json"
    damaged.write_bytes(damaged.read_bytes()[:500])

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "prometheus.cli", *arguments, "--json"],
            cwd=home,
            env={**os.environ, **environment(), "PYTHONPATH": str(home)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    us, eu, asia, *_ = json.loads(ask("calendar", "at", "2026-11-25T15:00Z").stdout)
    assert "sessions of XPAR cannot be read" in eu["error"]
    assert (us["state"], asia["state"]) == ("SESSION", "OVERNIGHT")
    assert len(json.loads(ask("calendar", "horizon").stdout)) == 75
    findings = {each["name"]: each for each in json.loads(ask("doctor").stdout)["findings"]}
    assert findings["calendar EU_EQ"]["health"] == "fault"
    assert findings["calendar US_EQ"]["health"] == "ok"


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "US_EQ", "2026"),
        ("at", "2026-12-24 12:45 Europe/Paris"),
        ("next", "US_EQ"),
        ("horizon",),
        ("diff", "XNYS", "XLON"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_calendar_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    """It has to answer at once."""
    assert _heavy_imports(arguments) == set()


@pytest.mark.parametrize(
    "arguments",
    [("show", "US_EQ", "2026"), ("at", "2026-12-24 12:45 Europe/Paris")],
    ids=lambda arguments: arguments[0],
)
def test_calendar_imports_a_driver_at_most_beside_a_database(
    arguments: tuple[str, ...], database_url: str
) -> None:
    env = {"PROMETHEUS__DATABASE__URL": database_url}
    # psycopg brings asyncio.
    assert _heavy_imports(arguments, env) <= {"asyncio"}


def _heavy_imports(arguments: tuple[str, ...], env: Mapping[str, str] | None = None) -> set[str]:
    """Return what a command of ``prometheus calendar`` has imported that takes long."""
    code = (
        "import sys; from prometheus.cli.application import run_command; "
        f"sys.argv = ['prometheus', 'calendar', *{arguments}]; run_command(); "
        "heavy = {'sqlalchemy', 'celery', 'redis', 'numpy', 'holidays', 'pydantic', 'asyncio', "
        "'prometheus.settings', 'prometheus.cli.doctor'}; "
        "print(*(heavy & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment(env)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "collects"),
    [
        (("calendar", "at", "2026-12-24T11:45Z"), False),
        (("markets",), False),
        (("db", "current"), True),
        (("--version",), True),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_commands_look_for_garbage_only_while_they_work_and_those_that_end_at_once_never(
    arguments: tuple[str, ...], collects: bool, home: Path
) -> None:
    code = (
        "import atexit, gc, sys; from prometheus.cli import main; "
        "atexit.register("
        "lambda: print(gc.isenabled(), len(gc.get_objects()) < 100, file=sys.stderr)); "
        f"sys.argv = ['prometheus', *{arguments}]; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=home,
        env={**os.environ, **environment()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.split()[-2:] == [str(collects), "True"]


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


def test_dag_show_says_on_which_sessions_a_pipeline_runs(
    run_command: RunCommand, home: Path
) -> None:
    (home / "own.py").write_text(
        "from prometheus import Pipeline\n"
        "monthly = Pipeline('monthly', markets=['US_EQ'], sessions='last of month')\n"
        "monthly.add('jobs:report', start='close+45m')\n"
    )
    modules = {"PROMETHEUS__PIPELINES__MODULES": "own.py"}
    document = run_command(
        "dag", "show", "us_eq_monthly_2012-11-23", "--json", env=modules
    ).document
    assert (document["sessions"], document["included"]) == ("last of month", False)
    assert document["jobs"][0]["window"]["opens_at"] == "2012-11-23T18:45:00+00:00"
    shown = run_command("dag", "show", "us_eq_monthly_2012-11-30", env=modules).out
    assert "runs on the last session of each month: this is one of them" in shown
    assert "close+45m, 2012-11-30 21:45 UTC" in shown


def test_dag_show_goes_by_the_overrides_that_are_recorded(
    run_command: RunCommand, sqlite_url: str
) -> None:
    env = {"PROMETHEUS__DATABASE__URL": sqlite_url}
    why = ("--reason", "fire alarm", "--source", "nyse.com", "--yes")
    early = ("US_EQ", "2027-01-05", "early_close", "--close", "12:00")
    override = ("calendar", "override", "add")
    assert run_command(*override, *early, *why, env=env).status == 0
    assert run_command(*override, "US_EQ", "2027-01-06", "closed", *why, env=env).status == 0

    document = run_command("dag", "show", "us_eq_daily_2027-01-05", "--json", env=env).document
    assert (document["session"]["early_close"], document["session"]["overrides"]) == (True, [1])
    assert document["jobs"][0]["window"]["opens_at"] == "2027-01-05T17:00:00+00:00"
    shown = run_command("dag", "show", "us_eq_daily_2027-01-05", env=env).out
    assert "  early close 17:00 UTC, fire alarm\n  changed by override 1\n" in shown
    run_command("dag", "show", "us_eq_daily_2027-01-06", env=env).refused(
        "US_EQ has no session on 2027-01-06 (fire alarm, override 2)."
    )


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
    run_command("db", "check").refused("There is no database", "prometheus db upgrade")
    first = run_command("db", "upgrade", "--json").document
    assert first["before"] is None
    assert run_command("db", "upgrade", "--json").document["before"] == first["revision"]
    assert run_command("db", "check").status == 0
    assert (home / ".prometheus" / "prometheus.db").exists()


def test_db_downgrade_shows_what_is_lost_and_asks(run_command: RunCommand) -> None:
    run_command("db", "downgrade", "0004").refused("There is no database")
    run_command("db", "upgrade")
    run_command("db", "downgrade", "0099").refused("There is no revision 0099", "0004, ", "base.")
    newest = migrate.head()
    run_command("db", "downgrade", newest).refused(f"is at revision {newest} already")
    asked = run_command("db", "downgrade", "0004")  # nobody answers
    assert (asked.status, "0005  Keep what people say" in asked.out) == (1, True), asked
    shown = run_command("db", "downgrade", "0004", "--json").document
    assert (shown["revision"], shown["decided"]) == (newest, False)
    assert shown["taken_back"] == [f"{number:04}" for number in range(int(newest), 4, -1)]
    assert run_command("db", "check").status == 0

    done = run_command("db", "downgrade", "0004", "--yes", "--json").document
    assert (done["before"], done["revision"], done["decided"]) == (newest, "0004", True)
    checked = run_command("db", "check", "--json")
    assert (checked.status, checked.document["revision"]) == (1, "0004")
    assert run_command("db", "downgrade", "base", "--yes").status == 0
    assert run_command("db", "check", "--json").document["revision"] is None
    assert run_command("db", "upgrade").status == 0


@pytest.mark.slow
def test_db_downgrade_is_refused_while_a_stack_is_at_work(
    run_command: RunCommand, live: Path
) -> None:
    refused = run_command("db", "downgrade", "0004", "--yes", "--folder", live)
    refused.refused("was not changed: the stack with pid ", " is at work on it. Stop all that is.")
    assert run_command("db", "check", "--folder", live).status == 0


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
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert text in done.stdout
    assert list(home.iterdir()) == []
