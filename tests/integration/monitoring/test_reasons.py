"""``why``, of runs and of jobs: what the command says, for programs."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from prometheus.cli.why import why
from prometheus.dispatch.names import LEADERSHIP
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence import leases
from prometheus.persistence.engine import writing
from tests.integration.monitoring.conftest import SECRET, Web
from tests.integration.persistence.world import World, job


def said(
    database_url: str, capsys: pytest.CaptureFixture[str], dag_id: str, job_id: str | None = None
) -> dict[str, Any]:
    """What the command says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMETHEUS__DATABASE__URL", database_url)
        why(dag_id, job_id, as_json=True)
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def without_clock(document: Any) -> Any:
    """A document without the times of the look, and with its instants written in one way."""
    text = json.dumps(document).replace("+00:00", "Z")
    found = json.loads(text)
    assert found.pop("wall_at")
    assert found.pop("market_at")
    return found


def test_a_job_says_what_the_command_says(
    web: Web, world: World, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dag = world.run(job("first"), job("second", "first"), forced=True)
    found = web.get(f"/api/v1/runs/{dag.dag_id}/jobs/second/why")
    assert [each["kind"] for each in found["reasons"]] == [
        "no_scheduler",
        "upstream",
        "runnable",
        "forced",
    ]
    assert (found["status"], found["attempt"], found["jobs"]) == ("PENDING", 1, None)
    waits = found["reasons"][1]
    assert waits["refers_to"] == [{"dag_id": dag.dag_id, "job": "first"}]
    told = said(database_url, capsys, dag.dag_id, "second")
    assert without_clock(found) == without_clock(told)


def test_a_run_says_what_the_command_says(
    web: Web, world: World, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dag = world.run(job("first"), job("second", "first"), job("third", "second"), forced=True)
    with writing(world.engine) as connection:
        leases.lead(connection, LEADERSHIP, "desk:7:x", lease=timedelta(hours=1))
    worker = world.worker()
    world.finish(dag, worker, "first")
    world.running(dag, "second", worker)
    found = web.get(f"/api/v1/runs/{dag.dag_id}/why")
    assert (found["job"], found["status"], found["attempt"]) == (None, "OPEN", None)
    assert [(each["job"], each["reason"]["kind"]) for each in found["jobs"]] == [
        ("second", "running"),
        ("third", "upstream"),
    ]
    told = said(database_url, capsys, dag.dag_id)
    assert without_clock(found) == without_clock(told)


def test_a_run_that_is_not_there_says_why(web: Web) -> None:
    found = web.get("/api/v1/runs/us_eq_daily_2025-12-25/why")
    assert (found["status"], found["jobs"]) == (None, None)
    assert found["reasons"][-1]["kind"] == "never_made"
    job_too = web.get("/api/v1/runs/us_eq_daily_2025-12-25/jobs/run_signals/why")
    assert job_too["job"] == "run_signals"


def test_names_that_are_not_known(web: Web, world: World) -> None:
    dag = world.run(job("ingest_prices"))
    runs = "/api/v1/runs"
    assert "Did you mean" in web.problem(f"{runs}/us_eq_tset_2025-12-02/why", 404)
    assert web.problem(f"{runs}/{dag.dag_id}/jobs/ingest_price/why", 404) == (
        f"{dag.dag_id} has no job 'ingest_price'. Did you mean 'ingest_prices'?"
    )
    assert "will have no job 'run_signal'" in web.problem(
        f"{runs}/us_eq_daily_2025-12-25/jobs/run_signal/why", 404
    )


def test_an_error_is_told_without_secrets(web: Web, world: World) -> None:
    dag = world.run(job("a"))
    world.end_waiting({world.ids(dag)["a"]: f"it is {SECRET}"}, JobStatus.EXPIRED)
    found = web.get(f"/api/v1/runs/{dag.dag_id}/jobs/a/why")
    assert "it is ***" in json.dumps(found)
