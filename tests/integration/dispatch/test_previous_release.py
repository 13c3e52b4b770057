"""A worker of the release before works on beside a beat of this one, on its tables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy

from prometheus.persistence.engine import create_engine, reading
from prometheus.persistence.migrate import upgrade
from prometheus.verification import check
from tests.conftest import StartProcess
from tests.integration.dispatch.conftest import TRIAL, Installation
from tests.servers import REPOSITORY, PostgresServer, wait_until

UPGRADE = "import sys; from prometheus.persistence.migrate import upgrade; upgrade(sys.argv[1])"


def git(*arguments: str) -> bytes | None:
    """Ask about this checkout; ``None`` without git, or without an answer."""
    command = ["git", "-C", str(REPOSITORY), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


@pytest.fixture
def previous_release(tmp_path: Path) -> Path:
    """The source tree of the last release."""
    tag = git("describe", "--tags", "--abbrev=0", "--match", "v*")
    archive = git("archive", tag.decode().strip()) if tag else None
    if archive is None:
        pytest.skip("no release has been made yet, or this is no checkout that knows its tags")
    folder = tmp_path / "previous"
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    return folder


@pytest.mark.slow
def test_worker_of_the_release_before_finishes_its_jobs(
    previous_release: Path,
    postgres_server: PostgresServer,
    redis_url: str,
    start_process: StartProcess,
    tmp_path: Path,
) -> None:
    """Tables, messages and definitions of pipelines are those of both."""
    name = postgres_server.create_database()
    url = postgres_server.url(name)
    its_own = {"PYTHONPATH": str(previous_release)}
    subprocess.run(
        [sys.executable, "-c", UPGRADE, url],
        cwd=previous_release,
        env={**os.environ, **its_own},
        check=True,
    )
    pipelines = previous_release / TRIAL.relative_to(REPOSITORY)
    engine = create_engine(url)
    installation = Installation(url, redis_url, start_process, engine, pipelines=pipelines)
    worker = start_process(
        *("celery", "-A", "workers", "worker", "-Q", "US_EQ", "-c", "1"),
        env={**installation.env, **its_own},
        cwd=previous_release,
        name="previous",
    )
    installation.processes.append(worker)

    def registered() -> bool:
        with reading(engine) as connection:
            found = connection.execute(sqlalchemy.text("SELECT count(*) FROM worker_incarnations"))
            return bool(found.scalar_one())

    try:
        wait_until(registered, timeout=120, message=lambda: f"it works\n{worker.output()}")
        upgrade(url)
        installation.beat()
        dag_id = installation.make_run("held", parameters={"folder": str(tmp_path)})
        wait_until(
            (tmp_path / "started-1").exists,
            timeout=120,
            message=lambda: f"the job has begun\n{worker.output()}",
        )
        (tmp_path / "go-1").touch()
        installation.wait_for_run(dag_id, "SUCCESS")
        assert installation.statuses(dag_id) == {"waits_for_a_file": ["SUCCESS"]}
        with reading(engine) as connection:
            assert check(connection).violations == ()
    finally:
        for process in installation.processes:
            process.kill()
        engine.dispose()
        postgres_server.drop_database(name)
