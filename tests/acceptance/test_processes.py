"""``prometheus beat``, ``worker`` and ``flower``: they become Celery's processes."""

from __future__ import annotations

import base64
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.acceptance.conftest import RunCommand, StartCommand
from tests.conftest import StartProcess
from tests.servers import Process, free_port, wait_until

SECRET = "correct-horse"


@pytest.fixture
def variables(sqlite_url: str, redis_url: str) -> dict[str, str]:
    """The settings of all processes."""
    return {
        "PROMETHEUS__DATABASE__URL": sqlite_url,
        "PROMETHEUS__BROKER__URL": redis_url,
        "PROMETHEUS__SCHEDULER__CREATE_RUNS": "false",
    }


def started_worker(run_command: RunCommand, process: Process, env: dict[str, str]) -> Any:
    """Wait until a process has a worker's lease; return what is known of it."""

    def find() -> Any:
        assert process.running, process.output()
        workers = run_command("status", "--json", env=env).document["workers"]
        return next((each for each in workers if each["pid"] == process.pid), None)

    return wait_until(find, timeout=90, interval=0.3, message="the worker has a lease")


@pytest.mark.parametrize("option", ["--detach", "-D"])
def test_a_worker_that_would_be_one_of_no_app_is_refused(
    start_process: StartProcess, variables: dict[str, str], option: str
) -> None:
    """Celery would start ``python -m celery worker`` in its stead."""
    process = start_process("python", "-m", "workers", "worker", option, env=variables)
    assert process.wait(60) == 2
    assert f"No such option '{option}'" in process.output()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "name", "queues"),
    [
        (("us_eq", "--market", "ASIA_EQ", "--concurrency", "1"), "us_eq+asia_eq", "ASIA_EQ US_EQ"),
        (("--name", "night"), "night", "ASIA_EQ EU_EQ US_EQ"),
    ],
)
def test_a_worker_is_the_process_that_was_started(
    run_command: RunCommand,
    start_command: StartCommand,
    variables: dict[str, str],
    arguments: tuple[str, ...],
    name: str,
    queues: str,
) -> None:
    variables["PROMETHEUS__WORKERS__CONCURRENCY"] = "3"
    process = start_command("worker", *arguments, env=variables)
    found = started_worker(run_command, process, variables)
    assert found["worker"].partition("@")[0] == name
    assert sorted(found["queues"]) == queues.split()
    health = run_command("health", "worker", name, env=variables)
    assert (health.status, name in health.out) == (0, True), health
    jobs = len(psutil.Process(process.pid).children())
    assert jobs == (1 if "--concurrency" in arguments else 3)
    process.send(signal.SIGTERM)
    assert process.wait(60) == 0, process.output()


@pytest.mark.slow
def test_beat_is_the_process_that_was_started(
    run_command: RunCommand, start_command: StartCommand, variables: dict[str, str]
) -> None:
    process = start_command("beat", env=variables)
    leader = wait_until(
        lambda: run_command("status", "--json", env=variables).document["scheduler"],
        timeout=60,
        interval=0.3,
        message="a scheduler is at work",
    )
    assert leader["owner"].split(":")[1] == str(process.pid)
    health = run_command("health", "beat", env=variables)
    assert (health.status, f"pid {process.pid} leads" in health.out) == (0, True), health
    run_command("db", "downgrade", "0004", "--yes", env=variables).refused(
        "was not changed: the beat of ", f"pid {process.pid} is at work on it."
    )
    process.send(signal.SIGTERM)
    assert process.wait(60) == 0, process.output()


@pytest.mark.slow
def test_standby_that_stands_still_is_told_from_one_that_waits(
    run_command: RunCommand, start_command: StartCommand, variables: dict[str, str], tmp_path: Path
) -> None:
    variables |= {"PROMETHEUS__SCHEDULER__LEASE": "3s", "PROMETHEUS__SCHEDULER__MAX_WAIT": "1s"}
    beats = []
    for name in ("first", "second"):
        env = {**variables, "PROMETHEUS__SCHEDULER__HEARTBEAT": str(tmp_path / name)}
        beats.append((start_command("beat", env=env), env))
    wait_until(
        lambda: all(run_command("health", "beat", env=env).status == 0 for _, env in beats),
        timeout=60,
        interval=0.3,
        message="both tick",
    )
    crew = run_command("status", "--json", env=variables).document
    pid = _pid(crew["scheduler"])
    ((standby, env),) = [each for each in beats if each[0].pid != pid]
    assert [(_pid(each), each["alive"]) for each in crew["standbys"]] == [(standby.pid, True)]
    standby.send(signal.SIGSTOP)
    try:
        wait_until(
            lambda: (
                "the scheduler here stands still: it touched "
                in run_command("health", "beat", env=env).out
            ),
            timeout=60,
            interval=0.3,
            message="it stands still",
        )
        assert run_command("health", "beat", env=variables).status == 0
        wait_until(
            lambda: (
                f"pid {standby.pid}, stood by, and is SILENT"
                in run_command("status", env=variables).out
            ),
            timeout=60,
            interval=0.3,
            message="it is silent",
        )
    finally:
        standby.send(signal.SIGCONT)
    wait_until(
        lambda: run_command("health", "beat", env=env).status == 0,
        timeout=60,
        interval=0.3,
        message="it goes on",
    )
    assert f"pid {standby.pid}, stands by" in run_command("status", env=variables).out
    standby.send(signal.SIGTERM)
    assert standby.wait(60) == 0, standby.output()
    assert run_command("status", "--json", env=variables).document["standbys"] == []


def _pid(crew: dict[str, Any]) -> int:
    return int(crew["owner"].split(":")[1])


def test_heartbeat_that_can_not_be_kept_is_refused(
    run_command: RunCommand, variables: dict[str, str], tmp_path: Path
) -> None:
    variables["PROMETHEUS__SCHEDULER__HEARTBEAT"] = str(tmp_path / "nowhere" / "beat")
    run_command("beat", env=variables).refused("nowhere/beat: No such file or directory")
    health = run_command("health", "beat", env=variables)
    assert (health.status, "has not completed a tick: there is no" in health.out) == (1, True)


def test_what_celery_ends_with_is_the_status(
    run_command: RunCommand, variables: dict[str, str], tmp_path: Path
) -> None:
    variables["PROMETHEUS__DATABASE__URL"] = f"sqlite:///{tmp_path / 'empty.db'}"
    run_command("beat", env=variables).refused("Run: prometheus db upgrade")


def test_a_worker_of_a_market_that_is_not(run_command: RunCommand) -> None:
    run_command("worker", "us_eqq").refused("'us_eqq'", "Did you mean 'US_EQ'?")
    run_command("worker", "--market", "JP_EQ").refused(
        "JP_EQ is not among the markets", "US_EQ, EU_EQ, ASIA_EQ", "PROMETHEUS__MARKETS__ENABLED"
    )
    run_command("worker", "US_EQ", "--name", "a@b").refused("'a@b' is not a name", status=2)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "flower.example"])
def test_flower_is_not_open_to_all(run_command: RunCommand, address: str) -> None:
    run_command("flower", "--address", address).refused(
        f"On {address} Flower would show", "PROMETHEUS__FLOWER__BASIC_AUTH_FILE"
    )


@pytest.mark.parametrize("secret", [SECRET, f":{SECRET}", f"me:{SECRET},you"])
def test_a_password_without_user_is_refused_and_not_shown(
    run_command: RunCommand, secret: str
) -> None:
    ended = run_command("flower", env={"PROMETHEUS__FLOWER__BASIC_AUTH": secret})
    assert SECRET not in ended.refused("PROMETHEUS__FLOWER__BASIC_AUTH: must be user:password")


@pytest.mark.slow
def test_flower_shows_and_changes_nothing(
    start_command: StartCommand, variables: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "password").write_text(f"me:{SECRET}\n")
    port = free_port()
    process = start_command(
        *("flower", "--port", str(port)),
        env={**variables, "PROMETHEUS__FLOWER__BASIC_AUTH_FILE": str(tmp_path / "password")},
    )
    pages = f"http://127.0.0.1:{port}"
    wait_until(
        lambda: asked(f"{pages}/healthcheck")[0] == 200 or not process.running,
        timeout=60,
        interval=0.3,
        message=lambda: f"Flower answers\n{process.output()}",
    )
    assert asked(f"{pages}/workers")[0] == 401
    status, page = asked(f"{pages}/workers", SECRET)
    assert status == 200
    assert "Flower" in page
    status, why = asked(f"{pages}/api/worker/shutdown/us_eq@here", SECRET, method="POST")
    assert (status, why) == (403, "Read only mode is enabled")
    assert SECRET not in process.output() + " ".join(psutil.Process(process.pid).cmdline())
    end_flower(process)


def end_flower(process: Process) -> None:
    """Ask it to end; again, since it ends by an exception that Python may swallow in a callback."""

    def ended() -> bool:
        if process.running:
            process.send(signal.SIGTERM)
        return not process.running

    wait_until(ended, timeout=60, interval=3, message=lambda: f"Flower ends\n{process.output()}")
    assert process.wait() == 0, process.output()


def asked(url: str, password: str = "", *, method: str = "GET") -> tuple[int, str]:
    """Ask Flower; 0 while nobody answers."""
    request = urllib.request.Request(url, method=method)
    if password:
        token = base64.b64encode(f"me:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""
