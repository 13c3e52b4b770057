"""``prometheus web`` as a process."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import psutil
import pytest

from tests.acceptance.conftest import RunCommand, StartCommand
from tests.servers import Process, free_port, wait_until

SECRET = "correct-horse"


def answering(process: Process, url: str) -> None:
    """Wait until the web app answers."""

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/healthz", timeout=10).status_code == 200
        except httpx.TransportError:
            return not process.running

    wait_until(answers, timeout=60, interval=0.2, message=process.output)
    assert process.running, process.output()


def test_it_answers_until_it_is_told_to_stop(
    start_command: StartCommand, sqlite_url: str, home: Path
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
    process.send(signal.SIGTERM)
    process.wait(60)
    assert "Traceback" not in process.output()
    assert SECRET not in process.output() + found.text


def test_it_is_about_the_stack_of_a_folder(live: Path, start_command: StartCommand) -> None:
    port = free_port()
    process = start_command("web", "--port", str(port), "--folder", live)
    answering(process, f"http://127.0.0.1:{port}")
    wait_until(
        lambda: httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=60).status_code == 200,
        timeout=60,
        interval=0.3,
        message=lambda: httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=60).text,
    )


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "web.example"])
def test_it_is_not_open_to_all(run_command: RunCommand, address: str) -> None:
    run_command("web", "--address", address).refused(
        f"On {address} the web API would answer whoever reaches this machine",
        "no users yet",
        "PROMETHEUS__WEB__ADDRESS",
    )


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
