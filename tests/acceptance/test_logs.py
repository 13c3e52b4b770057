"""``prometheus logs``: what jobs print and log, through the real stack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.conftest import RunCommand, StartCommand
from tests.servers import wait_until

SECRET = "planted-token-0815"
DAG_ID = "us_eq_talks_2012-11-21"
PIPELINE = """
import logging
import os
import sys
import time
from pathlib import Path

from prometheus import JobContext, Pipeline

talks = Pipeline("talks", markets=["US_EQ"])


@talks.job(max_retries=1, retry_base="1s", retry_cap="1s")
def says(ctx: JobContext) -> None:
    print("printed, in Zürich")
    ctx.logger.info("logged", extra={"rows": 7})
    logging.getLogger("mine").warning("by a library")
    print("to standard error, with", os.environ["PROMETHEUS__EODHD__TOKEN"], file=sys.stderr)
    if ctx.attempt_number == 1:
        raise RuntimeError("not today")


@talks.job(after=[says])
def waits(ctx: JobContext) -> None:
    for number in range(30_000):
        print(f"line {number:6}")
    print("waiting", end="")
    print(" for it")
    while not (Path(os.environ["COME"]) / "come").exists():
        time.sleep(0.05)
    print("it has come")
"""


@pytest.mark.slow
def test_what_jobs_write_is_followed_and_kept(
    run_command: RunCommand, start_command: StartCommand, home: Path
) -> None:
    (home / "talks.py").write_text(PIPELINE)
    folder = home / "live"
    env = {
        "PROMETHEUS__PIPELINES__MODULES": "talks.py",
        "PROMETHEUS__SCHEDULER__CREATE_RUNS": "false",
        "PROMETHEUS__EODHD__TOKEN": SECRET,
        "COME": str(home),
    }
    stack = start_command("up", "--folder", folder, env=env)
    stack.wait_for("running", timeout=60)
    run = ("run", "US_EQ", "--pipeline", "talks", "--date", "2012-11-21", "--folder", folder)
    assert run_command(*run, env=env).status == 0
    wait_until(
        lambda: run_command("logs", DAG_ID, "--folder", folder).status == 0,
        timeout=60,
        message="the run is there",
    )
    following = start_command("logs", DAG_ID, "waits", "-f", "--folder", folder)
    following.wait_for("waiting for it\n", timeout=120)
    assert following.running  # live, before it has ended
    (home / "come").touch()
    assert following.wait(60) == 0, following.output()
    seen = following.output()
    assert "it has come\n[SUCCESS " in seen
    # Of 360,000 characters 192 KB are kept, and what is newest is shown once as it is renewed.
    assert " characters are left out ...\n" in seen
    assert seen.count("waiting for it\n") == seen.count("line  29999\n") == 1

    shown = run_command("logs", DAG_ID, "says", "--folder", folder)
    first, second = shown.out.split("==> says, attempt 2 on ")
    for text in (first, second):
        assert "printed, in Zürich\n" in text
        assert " INFO prometheus.job.talks.says logged rows=7\n" in text
        assert " WARNING mine by a library\n" in text
        assert "to standard error, with ***\n" in text
    assert "[FAILED " in first
    assert "] RuntimeError: not today\nTraceback (most recent call last):\n" in first
    assert "[SUCCESS " in second
    one = run_command("logs", DAG_ID, "says", "--attempt", "2", "--folder", folder, "--json")
    documents = [json.loads(line) for line in one.out.splitlines()]
    assert {each["attempt"] for each in documents} == {2}
    assert documents[-1]["status"] == "SUCCESS"
    assert "printed, in Zürich\n" in "".join(each["text"] for each in documents[:-1])
    stack.end()
    for file in [*folder.rglob("*.log"), *folder.glob("prometheus.db*")]:
        assert SECRET.encode() not in file.read_bytes(), file
    assert SECRET not in stack.output() + shown.out + one.out


def test_unknown_runs_jobs_and_attempts_are_named(
    run_command: RunCommand, live: Path, home: Path
) -> None:
    run_command("run", "US_EQ", "--date", "2012-11-21", "--folder", live)
    dag_id = "us_eq_daily_2012-11-21"
    run_command("logs", "us_eq_daily_2012-11-22", "--folder", live).refused(
        "no run 'us_eq_daily_2012-11-22'", f"Did you mean '{dag_id}'?"
    )
    run_command("logs", dag_id, "run_sgnals", "--folder", live).refused(
        "no job 'run_sgnals'", "Did you mean 'run_signals'?"
    )
    run_command("logs", dag_id, "run_signals", "--attempt", "9", "--folder", live).refused(
        "has no attempt 9; its last one is 1"
    )
    run_command("logs", dag_id, "--attempt", "1", "--folder", live).refused(
        "--attempt needs a JOB", status=2
    )
