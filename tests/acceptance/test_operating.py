"""``prometheus up``, ``run``, ``retry``, ``cancel`` and ``status`` on one machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from prometheus.cli.places import STACK_FILE
from tests.acceptance.conftest import RunCommand, StartCommand, environment, rows
from tests.servers import is_written, wait_until

RUN = ("run", "US_EQ", "--date", "2012-11-21")
DAG_ID = "us_eq_daily_2012-11-21"


def test_up_takes_over_runs_that_are_recorded(run_command: RunCommand, live: Path) -> None:
    ended = run_command(*RUN, "--folder", live, "--wait")
    assert ended.status == 0, ended.err
    assert "1 run, 1 SUCCESS; 9 jobs, 9 SUCCESS" in ended.out
    assert rows(live, 'SELECT "trigger", forced FROM dag_runs') == [("operator", 1)]
    # It exists now: refused, and the way on is named.
    run_command(*RUN, "--folder", live).refused("exists already, and is SUCCESS", "--rerun")
    # Without --wait the scheduler is left alone with it.
    ended = run_command(*RUN, "--folder", live, "--rerun", "--as", "ada")
    assert "is recorded; the scheduler" in ended.out
    wait_until(
        lambda: _statuses(live) == [("SUCCESS", 18)],
        timeout=30,
        message=lambda: f"{_statuses(live)}",
    )
    audit = rows(live, "SELECT actor, action FROM audit ORDER BY audit_id")
    assert [action for _, action in audit] == ["run", "rerun"]
    assert audit[1][0] == "ada"


def test_retry_adds_attempts_and_says_who_does_them(run_command: RunCommand, live: Path) -> None:
    assert run_command(*RUN, "--folder", live, "--wait").status == 0
    ended = run_command("retry", DAG_ID, "run_signals", "--downstream", "--folder", live, "--json")
    jobs = ["run_signals", "run_universes", "run_books"]
    found = ended.document
    assert list(found.pop("ignored_windows")) == jobs
    assert found == {
        "dag_id": DAG_ID,
        "jobs": jobs,
        "scheduler": True,
    }
    wait_until(lambda: _statuses(live) == [("SUCCESS", 12)], timeout=30)
    run_command("retry", DAG_ID, "--folder", live).refused("no job that failed")
    run_command("retry", DAG_ID, "run_sgnals", "--folder", live).refused(
        "no job 'run_sgnals'", "Did you mean 'run_signals'?"
    )
    run_command("cancel", DAG_ID, "--folder", live).refused("nothing to cancel")


@pytest.mark.slow
def test_other_commands_find_the_stack(run_command: RunCommand, live: Path) -> None:
    found = wait_until(
        lambda: _status_with_worker(run_command, live), timeout=30, message="a worker is there"
    )
    assert found["scheduler"]["alive"] is True
    assert sorted(found["workers"][0]["queues"]) == ["ASIA_EQ", "EU_EQ", "US_EQ"]
    assert [market["market"] for market in found["markets"]] == ["US_EQ", "EU_EQ", "ASIA_EQ"]
    doctor = run_command("doctor", "--folder", live)
    assert doctor.status == 0, doctor.out
    assert "Everything needed works." in doctor.out
    word = json.loads((live / "stack.json").read_text())
    assert set(word) == {"pid", "database_url", "broker_url"}
    inspected = subprocess.run(
        [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "workers",
            "inspect",
            "-t",
            "20",
            "active_queues",
            "--json",
        ],
        env={
            **os.environ,
            **environment(),
            "PROMETHEUS__DATABASE__URL": word["database_url"],
            "PROMETHEUS__BROKER__URL": word["broker_url"],
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    queues = next(iter(json.loads(inspected.stdout).values()))
    assert sorted(queue["name"] for queue in queues) == ["ASIA_EQ", "EU_EQ", "US_EQ"]


def test_a_second_up_on_the_folder_is_refused(run_command: RunCommand, live: Path) -> None:
    ended = run_command("up", "--folder", live)
    pid = json.loads((live / "stack.json").read_text())["pid"]
    ended.refused(f"is in use by process {pid}", "--folder")
    assert run_command("status", "--folder", live).status == 0


def test_up_on_a_replay_is_refused(run_command: RunCommand, home: Path) -> None:
    folder = home / "replay"
    range_ = ("--from", "2012-11-23", "--to", "2012-11-23", "--market", "US_EQ")
    assert run_command("replay", *range_, "--folder", folder).status == 0
    run_command("up", "--folder", folder).refused("holds a replay", "another data folder")


def test_up_tells_json_lines_and_ends_on_ctrl_c(start_command: StartCommand, home: Path) -> None:
    process = start_command("up", "--json", "--folder", home / "live")
    process.wait_for('"running"', timeout=60)
    # At any time of any day, some market has a session whose windows are open.
    process.wait_for("run_opened", timeout=60)
    process.send(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.family() == []
    documents = [json.loads(line) for line in process.output().splitlines() if line[:1] == "{"]
    assert {"event", "dag_id", "jobs", "market_at"} == set(
        next(each for each in documents if each["event"] == "run_opened")
    )


PATIENT = """
from pathlib import Path
import time
from prometheus import JobContext, Pipeline

slow = Pipeline("slow", markets=["US_EQ"])

@slow.job()
def work(ctx: JobContext) -> None:
    Path(f"attempt{ctx.attempt_number}").touch()
    if ctx.attempt_number == 1:
        time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.promise("P4")
def test_up_goes_on_whatever_process_dies(
    run_command: RunCommand, start_command: StartCommand, home: Path
) -> None:
    (home / "slow.py").write_text(PATIENT)
    env = {
        "PROMETHEUS__PIPELINES__MODULES": "slow.py",
        "PROMETHEUS__SCHEDULER__CREATE_RUNS": "false",
    }
    process, folder = start_command("up", env=env), home / ".prometheus"
    process.wait_for("running", timeout=60)
    assert run_command(*RUN, "--pipeline", "slow", env=env).status == 0
    wait_until((home / "attempt1").exists, timeout=60, message="the job runs")
    for name in ("worker", "beat", "redis-server"):
        died = _child(folder, name)
        died.kill()
        wait_until(
            lambda name=name, died=died: _child(folder, name).pid != died.pid,  # type: ignore[misc]
            timeout=30,
            message=f"{name} is started again",
        )
    wait_until(
        lambda: rows(folder, "SELECT status FROM dag_runs") == [("SUCCESS",)],
        timeout=150,
        message="the run succeeds",
    )
    ((lost,), (error,)) = rows(folder, "SELECT error_message FROM job_executions ORDER BY 1 DESC")
    assert lost.startswith("worker lost: host")
    assert error is None


def _child(folder: Path, name: str) -> psutil.Process:
    """Find a process of the stack of a folder by a word of its command line."""
    supervisor = psutil.Process(json.loads((folder / STACK_FILE).read_text())["pid"])

    def find() -> list[psutil.Process]:
        return [each for each in supervisor.children() if name in _words(each)]

    return wait_until(find, message=f"{name} is there")[0]


def _words(process: psutil.Process) -> list[str]:
    try:
        return [Path(word).name for part in process.cmdline() for word in part.split()]
    except psutil.Error:  # it has ended
        return []


@pytest.mark.slow
def test_run_without_a_scheduler_starts_one_for_this_run_alone(
    run_command: RunCommand, home: Path
) -> None:
    ended = run_command(*RUN, "--json")
    assert ended.status == 0, ended.err
    assert ended.document["succeeded"] is True
    assert f"starting one for {DAG_ID} alone" in ended.err
    data = home / ".prometheus"
    # No other session is caught up: the scheduler was there for this run.
    assert rows(data, "SELECT dag_id, status FROM dag_runs") == [(DAG_ID, "SUCCESS")]
    again = run_command(*RUN).refused("exists already, and is SUCCESS", "--rerun")
    assert "run US_EQ --date 2012-11-21 --rerun" in again
    status = run_command("status")
    assert "NO SCHEDULER IS RUNNING" in status.out
    assert DAG_ID in status.out


SLOW = """
import os, time
from pathlib import Path
from prometheus import JobContext, Pipeline

slow = Pipeline("slow", markets=["US_EQ"])

@slow.job()
def sleep(ctx: JobContext) -> None:
    Path(ctx.parameters["pid"]).write_text(str(os.getpid()))
    time.sleep(600)

@slow.job(after=[sleep])
def dream(ctx: JobContext) -> None: ...

slow.parameters["pid"] = os.environ["PID_FILE"]
"""


@pytest.mark.slow
def test_cancel_ends_what_is_running(
    run_command: RunCommand, start_command: StartCommand, home: Path
) -> None:
    (home / "slow.py").write_text(SLOW)
    pid_file = home / "pid"
    env = {"PROMETHEUS__PIPELINES__MODULES": "slow.py", "PID_FILE": str(pid_file)}
    run = start_command("run", "US_EQ", "--date", "2012-11-21", "--pipeline", "slow", env=env)
    wait_until(lambda: is_written(pid_file), timeout=60)
    pid = int(pid_file.read_text())
    ask = ("cancel", "us_eq_slow_2012-11-21", "--as", "ada", "--reason", "it sleeps")
    run_command(*ask, "--grace", "soon", env=env).refused("'soon' is not a duration", status=2)
    asked = run_command(*ask, "--grace", "1h", env=env)
    assert asked.status == 0, asked.err
    assert "asked sleep to end; if it has not by 20" in asked.out
    asked = run_command(*ask, "--grace", "1s", "--json", env=env)
    (job,) = asked.document["jobs"]
    assert (job["job"], job["was_running"], asked.document["scheduler"]) == ("sleep", True, True)
    assert datetime.fromisoformat(job["cancel_at"]).utcoffset() == timedelta(0)
    assert run.wait(60) == 1
    wait_until(lambda: not psutil.pid_exists(pid), message="the job's process has ended")
    found = run_command("status", "us_eq_slow_2012-11-21", "--json", env=env).document
    assert found["status"] == "CANCELLED"
    assert {job["job"]: job["attempts"][-1]["error"] for job in found["jobs"]} == {
        "sleep": "cancelled by ada: it had not ended in time",
        "dream": "cancelled by ada",
    }
    assert reasons(home / ".prometheus")["cancel"] == "it sleeps"


FAILING = """
from prometheus import JobContext, Pipeline

fragile = Pipeline("fragile", markets=["US_EQ"])

@fragile.job(max_retries=0)
def work(ctx: JobContext) -> None:
    raise ValueError("no such thing as a free lunch")

@fragile.job(after=[work])
def dine(ctx: JobContext) -> None: ...
"""


@pytest.mark.slow
def test_a_failed_run_fails_the_command_and_shows_the_error(
    run_command: RunCommand, home: Path
) -> None:
    (home / "fragile.py").write_text(FAILING)
    env = {"PROMETHEUS__PIPELINES__MODULES": "fragile.py"}
    command = ("run", "US_EQ", "--date", "2012-11-21", "--pipeline", "fragile")
    ended = run_command(*command, "--reason", "a look", env=env)
    assert ended.status == 1
    assert "1 run, 0 SUCCESS" in ended.out
    assert "no such thing as a free lunch" in ended.out
    assert "upstream work is FAILED" in ended.out
    retried = run_command("retry", "us_eq_fragile_2012-11-21", "--reason", "a new day", env=env)
    assert retried.status == 1, "it was tried again at once, and failed again"
    assert reasons(home / ".prometheus") == {"run": "a look", "retry": "a new day"}
    assert "a new attempt of work, dine" in retried.out
    assert "no scheduler is running: starting one" in retried.err + retried.out
    attempts = "SELECT attempt_number, status FROM job_executions WHERE job_id = 'work'"
    twice = [(1, "FAILED"), (2, "FAILED")]
    assert rows(home / ".prometheus", attempts) == twice
    # What could not be worked on is not begun.
    (home / "fragile.py").write_text(FAILING + "1 / 0\n")
    refused = run_command("retry", "us_eq_fragile_2012-11-21", env=env)
    refused.refused("the pipeline 'fragile' of us_eq_fragile_2012-11-21", "ZeroDivisionError")
    assert rows(home / ".prometheus", attempts) == twice


@pytest.mark.slow
def test_what_was_done_by_hand_counts_and_what_is_not_wanted_is_skipped(
    run_command: RunCommand, start_command: StartCommand, home: Path
) -> None:
    (home / "fragile.py").write_text(FAILING)
    env = {"PROMETHEUS__PIPELINES__MODULES": "fragile.py"}
    run = ("run", "US_EQ", "--date", "2012-11-21", "--pipeline", "fragile")
    assert run_command(*run, env=env).status == 1
    force = ("force-success", "us_eq_fragile_2012-11-21", "work", "--as", "ada")
    run_command(*force, env=env).refused("--reason", status=2)
    run_command(*force, "--reason", " ", env=env).refused("write a reason", status=2)
    forced = run_command(*force, "--reason", "bought by hand", env=env)
    assert forced.status == 0, forced.err
    assert "work counts as succeeded." in forced.out
    assert "A new attempt of dine." in forced.out
    assert "No scheduler is running" in forced.out
    skip = ("skip", "us_eq_fragile_2012-11-21", "dine", "--reason", "not hungry", "--json")
    assert run_command(*skip, env=env).document == {
        "dag_id": "us_eq_fragile_2012-11-21",
        "job": "dine",
    }
    status = run_command("status", "us_eq_fragile_2012-11-21", "--json", env=env).document
    assert status["status"] == "SUCCESS"
    assert {each["job"]: each["attempts"][-1]["status"] for each in status["jobs"]} == {
        "work": "SUCCESS",
        "dine": "SKIPPED",
    }
    verified = run_command("verify", env=env)
    assert verified.status == 0, verified.out + verified.err
    audit = rows(home / ".prometheus", "SELECT actor, action FROM audit ORDER BY audit_id")
    assert audit[1] == ("ada", "force_success")


def test_what_is_paused_is_shown_and_starts_when_it_is_not(
    run_command: RunCommand, live: Path
) -> None:
    on = ("--folder", live)
    paused = run_command("pause", "--market", "US_EQ", "--reason", "a bad feed", "--as", "ada", *on)
    assert paused.status == 0, paused.err
    assert "Paused: US_EQ, since 20" in paused.out
    again = ("pause", "--market", "US_EQ", "--reason", "again")
    run_command(*again, *on).refused("It is paused already: US_EQ", "by ada (a bad feed)")
    told = run_command(*RUN, *on)
    assert "Paused: US_EQ, since" in told.out
    hold = ("hold", DAG_ID, "run_books", "--reason", "look first", "--for", "2h", "--json")
    held = run_command(*hold, *on).document
    since, until = (datetime.fromisoformat(held[key]) for key in ("since", "until"))
    assert timedelta(hours=1, minutes=59) < until - since <= timedelta(hours=2)
    status = run_command("status", *on)
    assert "paused    US_EQ, since 20" in status.out
    assert f"paused    run_books of {DAG_ID}, since 20" in status.out
    shown = run_command("status", DAG_ID, *on)
    assert "paused: US_EQ, since 20" in shown.out
    resumed = run_command("resume", "--market", "US_EQ", "--reason", "it is back", *on)
    assert "No longer paused: US_EQ" in resumed.out
    assert f"Paused still: run_books of {DAG_ID}" in resumed.out
    wait_until(
        lambda: ("SUCCESS", 8) in _statuses(live),
        timeout=60,
        message=lambda: f"all others run: {_statuses(live)}",
    )
    assert ("PENDING", 1) in _statuses(live)
    assert run_command("release", DAG_ID, "run_books", "--reason", "seen", *on).status == 0
    assert reasons(live).items() >= {"resume": "it is back", "release": "seen"}.items()
    wait_until(lambda: _statuses(live) == [("SUCCESS", 9)], timeout=60)
    assert run_command("verify", *on).status == 0
    run_command("resume", "--market", "US_EQ", *on).refused("US_EQ is not paused", "Nothing is.")
    run_command("pause", "--reason", "x", *on).refused("name a --market", status=2)
    run_command("pause", "--market", "US_EQQ", "--reason", "x", *on).refused("'US_EQ'")
    both = ("--until", "2999-01-01T00:00Z", "--for", "2h")
    run_command("pause", "--market", "US_EQ", "--reason", "x", *both, *on).refused(
        "either --until or --for", status=2
    )


def test_a_date_without_a_session_names_the_nearest(run_command: RunCommand, home: Path) -> None:
    ended = run_command("run", "US_EQ", "--date", "2012-11-22")
    ended.refused("Thanksgiving Day", "2012-11-21 and 2012-11-23")
    assert not (home / ".prometheus").exists()


def test_rerun_of_nothing_is_refused(run_command: RunCommand) -> None:
    run_command(*RUN, "--rerun").refused(f"There is no run {DAG_ID} to run again")


def reasons(folder: Path) -> dict[str, str | None]:
    """Why what was done was done, by what it was."""
    found = rows(folder, "SELECT action, details FROM audit ORDER BY audit_id")
    return {action: json.loads(details)["reason"] for action, details in found}


def _statuses(folder: Path) -> list[tuple[str, int]]:
    return rows(folder, "SELECT status, count(*) FROM job_executions GROUP BY status")


def _status_with_worker(run_command: RunCommand, folder: Path) -> Any:
    found = run_command("status", "--folder", folder, "--json").document
    return found if found["workers"] and found["scheduler"] else None


@pytest.mark.slow
def test_second_ctrl_c_hands_back_what_runs(
    run_command: RunCommand, start_command: StartCommand, home: Path
) -> None:
    """The next stack begins it at once, at no cost, instead of after the lost worker's lease."""
    (home / "slow.py").write_text(SLOW)
    pid_file = home / "pid"
    env = {"PROMETHEUS__PIPELINES__MODULES": "slow.py", "PID_FILE": str(pid_file)}
    run = start_command("run", "US_EQ", "--date", "2012-11-21", "--pipeline", "slow", env=env)
    wait_until(lambda: is_written(pid_file), timeout=60)
    pid = int(pid_file.read_text())
    family = run.family()

    run.send(signal.SIGINT)
    run.wait_for("waiting for worker to end")
    run.send(signal.SIGINT)
    run.wait(30)
    wait_until(lambda: not any(each.is_running() for each in family), message="all have ended")
    assert not psutil.pid_exists(pid)

    found = run_command("status", "us_eq_slow_2012-11-21", "--json", env=env).document
    (sleeps,) = (job for job in found["jobs"] if job["job"] == "sleep")
    assert [each["status"] for each in sleeps["attempts"]] == ["FAILED", "QUEUED"]
    assert sleeps["attempts"][0]["error"] == "handed back: worker stopped"
