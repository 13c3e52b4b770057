"""``prometheus replay``: real processes run past sessions."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

import prometheus
from tests.acceptance.conftest import RunCommand, StartCommand, rows
from tests.servers import PostgresServer, wait_until

OURS = Path(prometheus.__file__).parent
ONE_DAY = ("--from", "2012-11-23", "--to", "2012-11-23", "--market", "US_EQ")
THREE_DAYS = ("--from", "2012-11-21", "--to", "2012-11-23")


def test_one_market_and_day_end_to_end(run_command: RunCommand, home: Path) -> None:
    folder = home / "replay"
    # A package of the user's own may have the name of ours.
    (home / "workers").mkdir()
    (home / "workers" / "__init__.py").write_text("raise SystemExit('not this one')")
    ended = run_command("replay", *ONE_DAY, "--folder", folder)
    assert ended.status == 0, ended.err
    assert "1 run, 1 SUCCESS; 9 jobs, 9 SUCCESS, in 9 attempts" in ended.out
    assert "checked: 1 run, 9 jobs, each succeeded exactly once" in ended.out
    assert "early close 18:00 UTC, Day after Thanksgiving Day" in ended.out
    assert "US_EQ prices: real - bundled" in ended.out
    assert "US_EQ factors: SYNTHETIC" in ended.out
    assert "US_EQ book after the session of Fri 2012-11-23" in ended.out
    assert rows(folder, "SELECT dag_id, status FROM dag_runs") == [
        ("us_eq_daily_2012-11-23", "SUCCESS")
    ]
    # The folder alone is enough to look at it afterwards.
    status = run_command("status", "us_eq_daily_2012-11-23", "--folder", folder, "--json")
    assert [job["status"] for job in status.document["jobs"]] == ["SUCCESS"] * 9


@pytest.mark.slow
@pytest.mark.promise("P1")
def test_three_days_of_three_markets(run_command: RunCommand, home: Path) -> None:
    folder = home / "replay"
    ended = run_command("replay", *THREE_DAYS, "--folder", folder)
    assert ended.status == 0, ended.err
    runs = rows(folder, "SELECT market_id, as_of_date FROM dag_runs WHERE status = 'SUCCESS'")
    assert len(runs) == 8
    assert "checked: 8 runs, 72 jobs, each succeeded exactly once" in ended.out
    assert ("US_EQ", "2012-11-22") not in runs
    jobs = rows(folder, "SELECT dag_id, job_id, status, attempt_number FROM job_executions")
    assert len(jobs) == 72
    assert {(status, attempt) for _, _, status, attempt in jobs} == {("SUCCESS", 1)}
    assert len({(dag_id, job_id) for dag_id, job_id, _, _ in jobs}) == 72
    starts = rows(
        folder,
        "SELECT min(started_market_at) FROM job_executions WHERE dag_id = ?",
        ["us_eq_daily_2012-11-23"],
    )
    assert starts[0][0] >= "2012-11-23 18:00:00"
    assert "US_EQ 2012-11-22: Thanksgiving Day" in ended.out
    assert "ASIA_EQ 2012-11-23: Tokyo closed (Labor Thanksgiving Day), Hong Kong open" in ended.out
    refused = (folder / "logs" / "worker.log").read_text().count("start_refused")
    assert refused == 0, "a message was sent twice"


def test_json_is_one_document_on_standard_output(run_command: RunCommand, home: Path) -> None:
    ended = run_command("replay", *ONE_DAY, "--json")
    document = ended.document
    assert document["succeeded"] is True
    assert Path(document["folder"]).parent == home / ".prometheus" / "replays"
    run = document["runs"][0]
    assert run["jobs"] == {"SUCCESS": 9}
    assert run["session"]["early_close"] is True
    assert document["checked"]["ok"] is True
    assert document["checked"]["counts"]["windows"] == 9
    assert {source["is_synthetic"] for source in run["sources"]} == {True, False}
    holdings = document["book"]["holdings"]
    assert sum(line["weight"] for line in holdings) + document["book"]["cash"] == pytest.approx(1)


@pytest.mark.promise("P3")
def test_a_replay_at_a_speed_waits_for_the_session(run_command: RunCommand, home: Path) -> None:
    folder = home / "replay"
    # From PRE_OPEN at 13:30 to the close at 18:00 in nine seconds.
    ended = run_command("replay", *ONE_DAY, "--speed", "1800", "--folder", folder)
    assert ended.status == 0, ended.err
    starts = rows(folder, "SELECT min(started_market_at) FROM job_executions")
    assert starts[0][0] >= "2012-11-23 18:00:00"


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, ""),
        (signal.SIGINT, "starting Redis"),
        (signal.SIGINT, "opened"),
        (signal.SIGINT, "SUCCESS"),
        (signal.SIGTERM, "jobs"),
    ],
)
def test_a_signal_leaves_no_process(
    start_command: StartCommand, home: Path, number: signal.Signals, moment: str
) -> None:
    process = start_command("replay", *THREE_DAYS, "--folder", home / "replay")
    if moment:
        process.wait_for(moment)
    process.send(number)
    status = process.wait(40)
    if not moment and "init_import_site" in process.output():
        assert status == 1  # Python itself, before any line of ours
    else:
        assert status in (128 + number, -number)
    assert process.family() == []
    # What comes before the first line of ours, Python answers as it does.
    assert ("Traceback" if moment else f"{OURS}/") not in process.output()


def test_a_dead_process_ends_the_replay_with_its_log(
    start_command: StartCommand, home: Path
) -> None:
    process = start_command("replay", *THREE_DAYS, "--folder", home / "replay")
    process.wait_for("opened")
    scheduler = wait_until(
        lambda: [each for each in process.family() if "beat" in _command_line(each)],
        message="the scheduler is running",
    )
    scheduler[0].kill()
    assert process.wait(40) == 1
    assert "beat (pid" in process.output()
    assert "was ended by SIGKILL" in process.output()
    assert "beat.log:" in process.output()
    assert process.family() == []


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_database_with_runs_is_refused_and_left_alone(
    run_command: RunCommand, home: Path
) -> None:
    first = home / "first"
    assert run_command("replay", *ONE_DAY, "--folder", first).status == 0
    before = rows(first, "SELECT * FROM job_executions ORDER BY execution_id")
    ended = run_command(
        "replay",
        *ONE_DAY,
        env={"PROMETHEUS__DATABASE__URL": f"sqlite:///{first / 'prometheus.db'}"},
    )
    ended.refused("has 1 run, the last of session 2012-11-23", "leave PROMETHEUS__DATABASE__URL")
    assert rows(first, "SELECT * FROM job_executions ORDER BY execution_id") == before


def test_a_folder_in_use_is_refused(run_command: RunCommand, home: Path) -> None:
    (home / "replay").mkdir()
    (home / "replay" / "something").touch()
    ended = run_command("replay", *ONE_DAY, "--folder", home / "replay")
    ended.refused("is not empty")


def test_an_unknown_market_names_the_nearest(run_command: RunCommand, home: Path) -> None:
    ended = run_command("replay", *THREE_DAYS, "--market", "US_EQUITY")
    ended.refused("No market or exchange is called 'US_EQUITY'", "Did you mean 'US_EQ'?")
    assert not (home / ".prometheus").exists()


def test_a_range_without_sessions_says_why(run_command: RunCommand) -> None:
    ended = run_command("replay", "--from", "2012-11-22", "--to", "2012-11-22", "--market", "US_EQ")
    ended.refused("US_EQ 2012-11-22: Thanksgiving Day")


def test_dates_past_the_horizon_say_so(run_command: RunCommand) -> None:
    ended = run_command("replay", "--from", "2099-01-04", "--to", "2099-01-05")
    ended.refused("after the last date", "Ask within these dates")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--from", "2012-11-23", "--to", "2012-11-21"), "is before --from"),
        (("--from", "yesterday", "--to", "2012-11-21"), "is not a date such as 2012-11-21"),
        ((*THREE_DAYS, "--speed", "fast"), "is neither jump nor a number above 0"),
        ((*THREE_DAYS, "--speed", "-1"), "is neither jump nor a number above 0"),
        (("--from", "2012-11-21"), "--to"),
    ],
)
def test_wrong_usage(run_command: RunCommand, arguments: tuple[str, ...], text: str) -> None:
    run_command("replay", *arguments).refused(text, status=2)


def test_a_replay_on_an_empty_postgresql(
    run_command: RunCommand, postgres_server: PostgresServer, home: Path
) -> None:
    name = postgres_server.create_database()
    env = {"PROMETHEUS__DATABASE__URL": postgres_server.url(name)}
    folder = home / "replay"
    ended = run_command("replay", *ONE_DAY, "--folder", folder, "--json", env=env)
    assert ended.status == 0, ended.err
    assert ended.document["checked"]["violations"] == []
    assert not (folder / "prometheus.db").exists()
    # The folder remembers where the rows are.
    status = run_command("status", "--folder", folder, "--json", env=env).document
    assert [run["status"] for run in status["recent_runs"]] == ["SUCCESS"]
    run_command("replay", *ONE_DAY, env=env).refused("has 1 run")
    postgres_server.drop_database(name)
