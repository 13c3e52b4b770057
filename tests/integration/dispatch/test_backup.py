"""docs/database.md, followed: a copy is made while a job runs, and the run goes on from it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from prometheus.persistence.engine import create_engine, reading
from prometheus.persistence.migrate import check as check_revision
from prometheus.persistence.migrate import upgrade
from prometheus.verification import check
from tests.conftest import StartProcess
from tests.integration.dispatch.conftest import SHORT_LEASE, Installation
from tests.servers import REPOSITORY, PostgresServer, wait_until

PAGE = REPOSITORY / "docs" / "database.md"


def follow(heading: str, folder: Path, variables: Mapping[str, str]) -> None:
    """Run the commands below a heading of the page."""
    found = re.search(rf"(?ms)^## {heading}\n.*?^```sh\n(.*?)^```", PAGE.read_text())
    assert found is not None, f"{PAGE} has no commands below {heading}"
    done = subprocess.run(
        ["sh", "-euc", found[1]],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done


def kill_all(installation: Installation) -> None:
    for process in installation.processes:
        process.kill()


def work_until_a_job_runs(installation: Installation, folder: Path) -> str:
    installation.settings = dict(SHORT_LEASE)
    installation.beat()
    installation.worker()
    dag_id = installation.make_run("held", parameters={"folder": str(folder)})
    wait_until((folder / "started-1").exists, timeout=120, message="the job has begun")
    return dag_id


def work_goes_on(restored: Installation, dag_id: str, folder: Path) -> None:
    (folder / "go-2").touch()
    check_revision(restored.engine)
    restored.settings = dict(SHORT_LEASE)
    restored.beat()
    restored.worker()
    restored.wait_for_run(dag_id, "SUCCESS", timeout=120)
    assert restored.statuses(dag_id) == {"waits_for_a_file": ["FAILED", "SUCCESS"]}
    lost, _ = restored.attempts(dag_id)
    assert lost.error_message.startswith("worker lost: ")
    with reading(restored.engine) as connection:
        assert check(connection).violations == ()


@pytest.mark.slow
def test_run_goes_on_in_a_restored_postgresql(
    installation: Installation, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    dag_id = work_until_a_job_runs(installation, tmp_path)
    name = postgres_server.create_database()
    url = postgres_server.url(name)
    variables = {
        "PATH": f"{postgres_server.programs}{os.pathsep}{os.environ['PATH']}",
        "DATABASE": installation.database_url.replace("+psycopg", ""),
        "RESTORED": url.replace("+psycopg", ""),
    }
    follow("Back up PostgreSQL", tmp_path, variables)
    kill_all(installation)
    follow("Restore PostgreSQL", tmp_path, variables)

    restored = replace(installation, database_url=url, engine=create_engine(url), processes=[])
    try:
        work_goes_on(restored, dag_id, tmp_path)
    finally:
        kill_all(restored)
        restored.engine.dispose()
        postgres_server.drop_database(name)


@pytest.mark.slow
def test_run_goes_on_in_a_restored_sqlite(
    redis_url: str, start_process: StartProcess, tmp_path: Path
) -> None:
    folder = tmp_path / ".prometheus"
    folder.mkdir()
    url = f"sqlite:///{folder / 'prometheus.db'}"
    upgrade(url)
    installation = Installation(url, redis_url, start_process, create_engine(url))
    try:
        dag_id = work_until_a_job_runs(installation, tmp_path)
        follow("Back up SQLite", tmp_path, {})
        kill_all(installation)
        installation.engine.dispose()
        (folder / "prometheus.db").unlink()
        follow("Restore SQLite", tmp_path, {})
        work_goes_on(installation, dag_id, tmp_path)
    finally:
        kill_all(installation)
        installation.engine.dispose()
