"""What ``prometheus status`` and ``retry`` say of runs whose state takes long to reach."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import pytest

from prometheus.dispatch.names import LEADERSHIP
from prometheus.orchestration.deadlines import Deadline
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence import leases, operators
from prometheus.persistence.engine import create_engine, writing
from tests.acceptance.conftest import RunCommand
from tests.integration.persistence.world import LOST, World, job


@pytest.fixture
def env(sqlite_url: str) -> dict[str, str]:
    """The variables of a command that works on the test's own database."""
    return {"PROMETHEUS__DATABASE__URL": sqlite_url}


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    """The same database, to be changed by the test."""
    engine = create_engine(sqlite_url)
    yield World(engine)
    engine.dispose()


def test_of_a_lost_attempt_nobody_knows_how_long_it_took(
    run_command: RunCommand, world: World, env: dict[str, str]
) -> None:
    dag = world.run(job("a"), job("b"))
    worker = world.worker()
    world.succeed(world.running(dag, "a", worker), worker)
    world.fail(world.running(dag, "b", worker), LOST)

    lines = run_command("status", dag.dag_id, env=env).out.splitlines()

    (a,) = (line.split() for line in lines if line.startswith("a "))
    (b,) = (line.split() for line in lines if line.startswith("b "))
    assert (a[2], a[7]) == ("SUCCESS", "s")
    assert (b[2], b[6]) == ("FAILED", "-")
    found = run_command("status", dag.dag_id, "--json", env=env).document
    assert [each["attempts"][0]["lost"] for each in found["jobs"]] == [False, True]


def test_a_missed_deadline_is_told(
    run_command: RunCommand, world: World, env: dict[str, str]
) -> None:
    early = {"deadline": Deadline.parse("close+30m")}
    dag = world.run(job("a", **early), job("b"), deadline="next_open")
    worker = world.worker()
    world.succeed(world.running(dag, "a", worker), worker)

    out = run_command("status", dag.dag_id, env=env).out

    assert "deadline missed: it was due by 2025-12-03 14:30 UTC" in out
    assert ", due by 2025-12-02 21:30 UTC" in out
    found = run_command("status", dag.dag_id, "--json", env=env).document
    assert found["deadline"] == {"at": "2025-12-03T14:30:00+00:00", "done_at": None, "missed": True}
    assert [each["deadline"] and each["deadline"]["missed"] for each in found["jobs"]] == [
        True,
        None,
    ]


def test_a_job_that_was_asked_to_end_says_by_whom_and_until_when(
    run_command: RunCommand, world: World, env: dict[str, str]
) -> None:
    dag = world.run(job("a"))
    world.running(dag, "a", world.worker())
    with writing(world.engine) as connection:
        operators.cancel(connection, dag.dag_id, actor="ada", grace=timedelta(hours=1))
    row = world.latest(dag)["a"]

    out = run_command("status", dag.dag_id, env=env).out

    assert (
        f"a, attempt 1: asked to end by ada at {row.cancel_asked_at:%Y-%m-%d %H:%M:%S} UTC; "
        f"if it has not by {row.cancel_at:%Y-%m-%d %H:%M:%S} UTC, it is killed" in out
    )
    (found,) = run_command("status", dag.dag_id, "--json", env=env).document["jobs"]
    (attempt,) = found["attempts"]
    assert attempt["cancel_asked_by"] == "ada"
    assert attempt["cancel_asked_at"] == row.cancel_asked_at.isoformat()
    assert attempt["cancel_at"] == row.cancel_at.isoformat()


def test_a_new_run_says_that_no_scheduler_would_start_it(
    run_command: RunCommand, world: World, env: dict[str, str]
) -> None:
    dag = world.run(job("a"), forced=True)
    out = run_command("status", dag.dag_id, env=env).out
    assert "scheduler NO SCHEDULER IS RUNNING: nothing starts by itself" in out
    assert "a waits: no scheduler is running, which would start it now" in out
    assert run_command("status", dag.dag_id, "--json", env=env).document["scheduler"] is None

    with writing(world.engine) as connection:
        leases.lead(connection, LEADERSHIP, "host:1:x", lease=timedelta(hours=1))
    world.worker()
    out = run_command("status", dag.dag_id, env=env).out
    assert "RUNNING:" not in out
    assert "a waits: the scheduler starts it at its next tick" in out


def test_a_run_whose_session_an_override_has_closed_is_shown_with_the_reason(
    run_command: RunCommand, world: World, env: dict[str, str]
) -> None:
    dag = world.run(job("a"))
    session = "  session Tue 2025-12-02, "
    shown = run_command("status", dag.dag_id, env=env).out
    assert f"{session}14:30-21:00 UTC\n" in shown
    assert "\n  calendar 1\n" in shown
    reason = "fire [/b] :bell: alarm"
    words = ("US_EQ", "2025-12-02", "closed", "--reason", reason, "--source", "nyse.com")
    added = run_command("calendar", "override", "add", *words, "--yes", env=env)
    assert added.status == 0, added

    still_open = run_command("status", dag.dag_id, env=env)
    assert f"{session}closed: {reason}, override 1\n" in still_open.out, still_open
    assert run_command("status", dag.dag_id, "--json", env=env).document["status"] == "OPEN"

    told = f"session closed: {reason} (override 1)"
    world.end_waiting({world.ids(dag)["a"]: told}, JobStatus.CANCELLED)
    world.close(dag)
    ended = run_command("status", dag.dag_id, env=env)
    assert ended.status == 0, ended
    assert f"{dag.dag_id}  CANCELLED\n{session}closed: {reason}, override 1\n" in ended.out
    assert f"a, attempt 1: {told}" in ended.out

    closed_by = f"its session is closed by override 1 ({reason}): withdraw that first"
    run_command("retry", dag.dag_id, env=env).refused(closed_by)
    run_command("run", "US_EQ", "--date", "2025-12-02", env=env).refused(
        f"US_EQ has no session on 2025-12-02 ({reason}, override 1)."
    )
    assert world.rows("us_eq_daily_2025-12-02") == []


def test_run_makes_a_run_of_a_session_that_an_override_adds(
    run_command: RunCommand, world: World, env: dict[str, str]
) -> None:
    with writing(world.engine) as connection:
        leases.lead(connection, LEADERSHIP, "host:7:x", lease=timedelta(hours=1))
    words = ("US_EQ", "2025-12-06", "special_session", "--open", "09:30", "--close", "16:00")
    why = ("--reason", "a trial", "--source", "nyse.com", "--yes")
    assert run_command("calendar", "override", "add", *words, *why, env=env).status == 0

    told = run_command("run", "US_EQ", "--date", "2025-12-06", env=env).out
    assert "us_eq_daily_2025-12-06 is recorded" in told
    shown = run_command("status", "us_eq_daily_2025-12-06", env=env).out
    assert "  session Sat 2025-12-06, 14:30-21:00 UTC, a trial\n" in shown
    assert "+override.1\n" in shown


@pytest.fixture
def held(sqlite_url: str) -> Iterator[None]:
    """Another transaction holds the database, as that of a job may do for long."""
    path = sqlite_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def _lapsed(world: World) -> None:
    """Let the leases of a scheduler and a worker have run out."""
    with writing(world.engine) as connection:
        leases.lead(connection, LEADERSHIP, "host:7:x", lease=timedelta(seconds=-1))
    world.worker(lease=timedelta(seconds=-1))


def test_who_can_not_renew_in_a_locked_database_is_not_called_gone(
    run_command: RunCommand,
    world: World,
    env: dict[str, str],
    request: pytest.FixtureRequest,
) -> None:
    _lapsed(world)
    free = run_command("status", env=env).out
    assert "NO SCHEDULER IS RUNNING (the last one: host, pid 7)" in free
    assert "NO WORKER IS RUNNING" in free

    request.getfixturevalue("held")

    out = run_command("status", env=env).out
    assert "LOCKED: another transaction holds it, perhaps that of a job" in out
    assert "scheduler host, pid 7, last tick" in out
    assert "worker    w@h, pid 1, queues US_EQ, seen" in out
    assert out.count("ago; whether it still runs is not known") == 2
    assert "IS RUNNING" not in out
    assert run_command("status", "--json", env=env).document["locked"] is True


@pytest.mark.slow
@pytest.mark.usefixtures("held")
def test_a_command_that_waited_in_vain_to_write_says_for_what(
    run_command: RunCommand, env: dict[str, str]
) -> None:
    ended = run_command("cancel", "us_eq_test_2025-12-02", env=env)
    told = ended.refused("is locked: another transaction holds it", "ctx.transaction()", "again")
    assert "at the server" not in told


def test_retry_names_the_window_that_it_ignores(
    run_command: RunCommand, world: World, env: dict[str, str]
) -> None:
    dag = world.run(job("a", max_retries=0), job("b"))
    worker = world.worker()
    with writing(world.engine) as connection:
        leases.lead(connection, LEADERSHIP, "host:7:x", lease=timedelta(hours=1))
    world.succeed(world.running(dag, "b", worker), worker)
    world.fail_for_good(dag, "a", worker)

    told = run_command("retry", dag.dag_id, "a", env=env).out

    span = "2025-12-02 13:30 UTC to 2025-12-03 13:30 UTC"
    assert "a new attempt of a. Windows do not count for it." in told
    assert f"Ignored: the window {span}, which is over, of a." in told
    again = run_command("retry", dag.dag_id, "b", "--json", env=env).document
    opens_at, closes_at = "2025-12-02T13:30:00+00:00", "2025-12-03T13:30:00+00:00"
    assert again["ignored_windows"] == {"b": {"opens_at": opens_at, "closes_at": closes_at}}
    lines = run_command("status", dag.dag_id, env=env).out.splitlines()
    attempts = [line for line in lines if line.lstrip(" ab").startswith(("1 ", "2, forced "))]
    assert len(attempts) == 4
