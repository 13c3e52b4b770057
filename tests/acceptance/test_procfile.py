"""The Procfile, started by honcho, on PostgreSQL."""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import RunCommand, environment
from tests.conftest import StartProcess
from tests.servers import REPOSITORY, Process, free_port, wait_until

MARKETS = ["ASIA_EQ", "EU_EQ", "US_EQ"]
THREE_DAYS = (
    *("--from", "2012-11-21", "--to", "2012-11-23"),
    *(argument for market in MARKETS for argument in ("--market", market)),
)
"""Those of ``make run``."""


@pytest.fixture
def variables(postgresql_url: str, home: Path) -> dict[str, str]:
    """The settings of all processes."""
    port = str(free_port())
    return {
        "PROMETHEUS__DATABASE__URL": postgresql_url,
        "PROMETHEUS__BROKER__URL": f"redis://127.0.0.1:{port}/0",
        "PROMETHEUS__DATA__FOLDER": str(home / "data"),
        "PROMETHEUS__WORKERS__CONCURRENCY": "1",
        # As in an activated environment: honcho finds prometheus and redis-server there.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "REDIS_PORT": port,
        "PROMETHEUS__FLOWER__PORT": str(free_port()),
        "PROMETHEUS__WEB__PORT": str(free_port()),
    }


@pytest.fixture
def honcho(
    start_process: StartProcess, run_command: RunCommand, variables: Mapping[str, str]
) -> Iterator[Process]:
    """All processes of the Procfile, on a database that was made ready for a replay."""
    prepared = run_command("replay", *THREE_DAYS, "--prepare", env=variables)
    assert prepared.status == 0, prepared
    process = start_process(
        "honcho", "--no-colour", "start", env=environment(variables), cwd=REPOSITORY, name="honcho"
    )
    yield process
    process.end()
    assert process.family() == []


@pytest.mark.slow
def test_three_days_are_replayed_and_everything_answers(
    honcho: Process,
    variables: Mapping[str, str],
    run_command: RunCommand,
    start_process: StartProcess,
) -> None:
    wait_until(
        lambda: _at_work(run_command, variables),
        timeout=90,
        interval=0.3,
        message="a scheduler and three workers are at work",
    )
    ended = run_command("replay", *THREE_DAYS, "--follow", "--json", env=variables, timeout=400)
    assert ended.status == 0, ended.err
    assert [run["jobs"] for run in ended.document["runs"]] == 8 * [{"SUCCESS": 9}]
    assert ended.document["checked"]["ok"] is True

    doctor = run_command("doctor", "--json", env=variables)
    assert doctor.document["healthy"] is True, doctor.out

    check_api(f"http://127.0.0.1:{variables['PROMETHEUS__WEB__PORT']}")

    registered = _inspect(start_process, variables, "registered")
    assert {name.partition("@")[0] for name in registered} == {"us_eq", "eu_eq", "asia_eq"}
    for tasks in registered.values():
        assert "daily.ingest_prices" in tasks
        assert "daily.run_books" in tasks
    queues = _inspect(start_process, variables, "active_queues")
    assert sorted(queue["name"] for each in queues.values() for queue in each) == MARKETS

    wait_until(
        lambda: _page(f"http://127.0.0.1:{variables['PROMETHEUS__FLOWER__PORT']}/workers"),
        timeout=30,
        interval=0.3,
        message="flower's page names the worker of US_EQ",
    )


def check_api(url: str) -> None:
    """Ask the web API for what was replayed, a page at a time."""
    ready = httpx.get(f"{url}/readyz", timeout=60)
    assert ready.status_code == 200, ready.text
    runs = httpx.get(f"{url}/api/v1/runs", timeout=60).json()
    assert [run["jobs"] for run in runs["items"]] == 8 * [{"SUCCESS": 9}]
    sizes, found, cursor = [], set(), None
    while True:
        query = {"limit": "50", "status": "SUCCESS", **({"cursor": cursor} if cursor else {})}
        page = httpx.get(f"{url}/api/v1/executions", params=query, timeout=60).json()
        sizes.append(len(page["items"]))
        found |= {each["execution_id"] for each in page["items"]}
        cursor = page["next"]
        if cursor is None:
            break
    assert (sizes, len(found)) == ([50, 22], 72)


def _at_work(run_command: RunCommand, variables: Mapping[str, str]) -> bool:
    found = run_command("status", "--json", env=variables).document
    queues = sorted(queue for worker in found["workers"] for queue in worker["queues"])
    return found["scheduler"] is not None and queues == MARKETS


def _inspect(start_process: StartProcess, variables: Mapping[str, str], what: str) -> Any:
    process = start_process(
        *("celery", "-A", "workers", "inspect", what, "--json"),
        env=environment(variables),
        cwd=REPOSITORY,
    )
    assert process.wait(60) == 0, process.output()
    answers = [line for line in process.output().splitlines() if line.startswith("{")]
    return json.loads(answers[-1])


def _page(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            text: str = answer.read().decode()
    except (urllib.error.URLError, OSError):
        return None
    return text if "us_eq@" in text else None
