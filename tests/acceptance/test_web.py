"""``prometheus web`` as a process."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.acceptance.conftest import RunCommand, StartCommand
from tests.servers import PLAIN, REPOSITORY, Process, free_port, wait_until

SECRET = "correct-horse"


def answering(process: Process, url: str) -> None:
    """Wait until the web app answers."""

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/healthz", timeout=10, verify=PLAIN).status_code == 200
        except httpx.TransportError:
            return not process.running

    wait_until(answers, timeout=60, interval=0.2, message=process.output)
    assert process.running, process.output()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_until_it_is_told_to_stop(
    start_command: StartCommand, sqlite_url: str, home: Path, stop: signal.Signals
) -> None:
    port = free_port()
    # A package of the user's own may have the name of ours.
    (home / "prometheus").mkdir()
    (home / "prometheus" / "__init__.py").write_text("raise SystemExit('not this one')")
    env = {
        "PROMETHEUS__DATABASE__URL": sqlite_url,
        "PROMETHEUS__BROKER__URL": f"redis://:{SECRET}@127.0.0.1:1/0",
    }
    process = start_command("web", "--port", str(port), env=env)
    url = f"http://127.0.0.1:{port}"
    answering(process, url)
    found = httpx.get(f"{url}/readyz", timeout=60)
    assert found.status_code == 503
    by_name = {each["name"]: each for each in found.json()["checks"]}
    assert by_name["tables"]["ok"]
    assert "server" not in found.headers
    assert not by_name["broker"]["ok"]
    assert SECRET not in " ".join(psutil.Process(process.pid).cmdline())
    process.send(stop)
    assert process.wait(60) == 0
    assert "Traceback" not in process.output()
    assert SECRET not in process.output() + found.text


def test_everything_comes_up_with_its_pages(start_command: StartCommand, home: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        below = {"PROMETHEUS__WEB__PORT": str(taken), "PROMETHEUS__WEB__ROOT_PATH": "/desk"}
        begun = time.monotonic()
        process = start_command("up", env=below)
        url = pages_of(process, "pages: ")
    wait_until(partial(shows_lanes, f"{url}/"), timeout=120, message=process.output)
    took = time.monotonic() - begun
    assert url.endswith("/desk")
    assert f":{taken}/" not in url
    (web,) = (each for each in process.family() if each.cmdline()[:2] == ["prometheus", "web"])
    # What the page is promised in, on a machine that has a processor for it.
    assert took - sum(map(waited_for_processor, (process.pid, web.pid))) < 10
    web.kill()
    process.wait_for("web (pid", timeout=60)  # starting it again
    wait_until(lambda: answers(url), timeout=60, message="the pages are there again")
    process.send(signal.SIGTERM)
    process.wait(60)
    assert process.family() == []
    assert not answers(url)


def test_pages_for_others_are_refused_without_users(
    run_command: RunCommand, start_command: StartCommand
) -> None:
    everywhere = {"PROMETHEUS__WEB__ADDRESS": "0.0.0.0"}
    run_command("up", env=everywhere).refused(
        "On 0.0.0.0 the pages would answer whoever reaches this machine",
        "user add NAME",
        "--no-web",
    )
    nowhere = {"PROMETHEUS__WEB__ADDRESS": "192.0.2.1", "PROMETHEUS__DATA__FOLDER": "known"}
    assert run_command("db", "upgrade", env=nowhere).status == 0
    assert run_command("token", "add", "ci", env=nowhere).status == 0
    run_command("up", env=nowhere).refused("192.0.2.1, which is no address of this machine")
    known = {**everywhere, "PROMETHEUS__DATA__FOLDER": "known"}
    url = pages_of(start_command("up", env=known), "pages: ")
    assert answers(url)
    assert httpx.get(f"{url}/api/v1/runs", timeout=60).status_code == 401


def test_without_pages_nothing_listens(start_command: StartCommand) -> None:
    process = start_command("up", "--no-web")
    process.wait_for("running", timeout=60)
    assert "http:" not in process.output()
    assert not [each for each in process.family() if each.net_connections("tcp4")]


def test_a_replay_stays_open_for_whoever_looks_at_it(
    start_command: StartCommand, home: Path
) -> None:
    process = start_command(
        *("replay", "--from", "2012-11-21", "--to", "2012-11-23", "--market", "US_EQ", "--open")
    )
    url = pages_of(process, "Its pages: ")
    assert "checked: 2 runs, 18 jobs" in process.output()
    first, last = "us_eq_daily_2012-11-21", "us_eq_daily_2012-11-23"
    found = httpx.get(f"{url}/api/v1/runs", timeout=60).json()["items"]
    assert sorted((each["dag_id"], each["jobs"]["SUCCESS"]) for each in found) == [
        (first, 9),
        (last, 9),
    ]
    for path, words in {
        "": ("Replay: market time is", f"{last}: SUCCESS"),
        "/days/US_EQ/2012-11-21": (f"/runs/{first}", "SUCCESS"),
        "/history?market=US_EQ&pipeline=daily": ("2012-11-21: SUCCESS", "2012-11-23: SUCCESS"),
        f"/runs/{last}": ("(early close)", "run_books"),
    }.items():
        page = httpx.get(f"{url}{path}", headers={"Accept": "text/html"}, timeout=60)
        assert [each for each in words if each not in page.text] == [], path
        assert "The scheduler is silent" not in page.text
    process.send(signal.SIGINT)
    assert process.wait(60) == 0, process.output()
    assert process.family() == []


def waited_for_processor(pid: int) -> float:
    """Return for how many seconds a process could have gone on, and others did, as Linux counts."""
    if sys.platform != "linux":
        return 0
    _, waited, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    return int(waited) / 1e9


def shows_lanes(url: str) -> bool:
    try:
        answer = httpx.get(url, headers={"Accept": "text/html"}, timeout=60)
    except httpx.TransportError:
        return False
    return (
        answer.status_code == 200
        and all(f'id="market-{market}"' in answer.text for market in ("US_EQ", "EU_EQ", "ASIA_EQ"))
        and answer.text.count('class="lane"') == 3
    )


def test_make_run_leaves_its_pages_open_when_asked() -> None:
    def run_line(*asked: str) -> list[str]:
        command = ["make", "--dry-run", "run", *asked]
        said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        told = said.stdout.replace("\\\n", " ").splitlines()
        (line,) = (each for each in told if "/prometheus replay" in each)
        return shlex.split(line)

    assert run_line("OPEN=1") == [*run_line(), "--open"]
    assert "--open" not in run_line()


def pages_of(process: Process, words: str) -> str:
    """Wait until a process says where its pages are."""
    process.wait_for(words, timeout=120)
    found = re.findall(rf"{words}(http://127\.0\.0\.1:\d+[/a-z]*)", process.output())
    return str(found[-1])


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=60, verify=PLAIN).status_code == 200
    except httpx.TransportError:
        return False


def test_it_is_about_the_stack_of_a_folder(live: Path, start_command: StartCommand) -> None:
    port = free_port()
    process = start_command("web", "--port", str(port), "--folder", live)
    answering(process, f"http://127.0.0.1:{port}")
    wait_until(
        lambda: (
            httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=60, verify=PLAIN).status_code
            == 200
        ),
        timeout=60,
        interval=0.3,
        message=lambda: httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=60).text,
    )


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "web.example"])
def test_it_is_not_open_to_all(run_command: RunCommand, address: str) -> None:
    run_command("web", "--address", address).refused(
        f"On {address} the web API would answer whoever reaches this machine",
        "no users and no tokens that are still good",
        "prometheus user add NAME",
        "PROMETHEUS__WEB__ADDRESS",
    )


def test_a_name_for_others_is_refused_without_users(
    run_command: RunCommand, sqlite_url: str
) -> None:
    env = {"PROMETHEUS__DATABASE__URL": sqlite_url, "PROMETHEUS__WEB__HOSTS": "web.example"}
    run_command("web", "--port", str(free_port()), env=env).refused("On 127.0.0.1, web.example")


def test_with_users_it_answers_to_a_name_for_others(
    run_command: RunCommand, start_command: StartCommand, sqlite_url: str, home: Path
) -> None:
    password = home / "password"
    password.write_text("correct horse battery staple\n")
    env = {"PROMETHEUS__DATABASE__URL": sqlite_url}
    made = run_command("user", "add", "ada", "--password-file", password, env=env)
    assert made.status == 0, made.err
    port = free_port()
    hosts = {"PROMETHEUS__WEB__HOSTS": "web.example"}
    process = start_command("web", "--port", str(port), env={**env, **hosts})
    url = f"http://127.0.0.1:{port}"
    answering(process, url)
    there = {"Host": "web.example"}
    assert httpx.get(f"{url}/api/v1/runs", headers=there, timeout=60).status_code == 401
    credentials = {"name": "ada", "password": "correct horse battery staple"}
    session = httpx.post(f"{url}/api/v1/session", json=credentials, headers=there, timeout=60)
    assert session.status_code == 200, session.text
    process.send(signal.SIGTERM)
    process.wait(60)
    assert "signed_in user=ada address=127.0.0.1" in process.output()
    assert "correct horse" not in process.output()


def test_a_port_that_is_taken_is_told(run_command: RunCommand, sqlite_url: str) -> None:
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        ended = run_command("web", "--port", port, env={"PROMETHEUS__DATABASE__URL": sqlite_url})
    assert ended.status != 0
    assert "address already in use" in ended.err
    assert "Traceback" not in ended.err


def test_a_replay_is_told_as_the_command_line_tells_it(
    run_command: RunCommand, start_command: StartCommand, home: Path
) -> None:
    folder, run = home / "replay", "us_eq_daily_2012-11-23"
    day = ("--from", "2012-11-23", "--to", "2012-11-23", "--market", "US_EQ")
    assert run_command("replay", *day, "--folder", folder).status == 0
    port = free_port()
    process = start_command("web", "--port", str(port), "--folder", folder)
    answering(process, f"http://127.0.0.1:{port}")

    def get(path: str) -> Any:
        answer = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    told = get(f"/api/v1/runs/{run}")
    shown = run_command("status", run, "--folder", folder, "--json").document
    assert told["run"]["status"] == shown["status"] == "SUCCESS"
    assert [(each["job"], each["status"]) for each in told["jobs"]] == [
        (each["job"], each["status"]) for each in shown["jobs"]
    ]
    assert [each["execution"]["execution_id"] for each in told["jobs"]] == [
        each["attempts"][-1]["execution_id"] for each in shown["jobs"]
    ]
    edges = {(each["upstream"], each["downstream"]) for each in told["edges"]}
    assert edges == {(above, each["job"]) for each in shown["jobs"] for above in each["after"]}
    dag = run_command("dag", "show", run, "--json").document
    assert {each["job"]: instants(each["window"]) for each in told["jobs"]} == {
        each["job_id"]: instants(each["window"]) for each in dag["jobs"]
    }
    (executions, markets, overview) = (
        get(f"/api/v1/executions?run={run}")["items"],
        get("/api/v1/markets")["items"],
        run_command("status", "--folder", folder, "--json").document,
    )
    assert len(executions) == 9
    # The clock of a replay that is over stands.
    (market,) = markets
    (described,) = overview["markets"]
    assert (market["market"], market["state"]) == ("US_EQ", described["state"])
    assert instants(market["next_transition"]) == instants(described["next_transition"])
    assert [each["dag_id"] for each in get("/api/v1/runs")["items"]] == [run]


def instants(document: dict[str, str]) -> dict[str, object]:
    """Read the instants of a document, however they are written."""
    return {
        name: datetime.fromisoformat(value) if name.endswith("at") else value
        for name, value in document.items()
    }
