"""What ``prometheus prune`` says of what has gone, or would."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from prometheus.cli.application import make_application
from prometheus.persistence.engine import create_engine, writing
from tests.integration.dispatch.test_pruning import make_others

PRUNE = ("prune", "--older-than", "60d")


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sqlite_url: str) -> None:
    """Where ``prometheus`` finds its database."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROMETHEUS__DATABASE__URL", sqlite_url)


def run(*arguments: str) -> str:
    done = CliRunner().invoke(make_application(arguments), arguments)
    return done.output if done.exception is None else str(done.exception)


def test_it_says_what_goes_besides_runs(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    make_others(engine, request_keys=1, alerts=2, backfills=2, worker_incarnations=2)
    told = "Besides: 1 key of a request, 2 alerts, 1 backfill, 2 records of workers.\n"
    assert run(*PRUNE, "--dry-run").endswith(f"would be removed.\n{told}")
    assert run(*PRUNE).endswith(f"removed.\n{told}")
    assert "Besides" not in run(*PRUNE)
    engine.dispose()


def test_what_is_in_its_way_is_named_and_so_is_what_has_gone(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    make_others(engine, request_keys=1, alerts=2, backfills=2)
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE notes (backfill_id REFERENCES backfills)"))
        connection.execute(text("INSERT INTO notes VALUES (1)"))
    said = run(*PRUNE)
    assert "refers to what was to be removed" in said
    assert said.endswith("Removed before: 1 key of a request, 2 alerts.")
    engine.dispose()
