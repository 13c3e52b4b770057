"""``prometheus prune`` while a beat is at work, and after another one has taken over."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine, select, update

from prometheus.dispatch.names import LEADERSHIP
from prometheus.orchestration.lifecycle import RunStatus
from prometheus.orchestration.planning import SessionRange
from prometheus.persistence import clock, leases, runs
from prometheus.persistence.engine import create_engine, reading, writing
from prometheus.persistence.metadata import database_now
from prometheus.persistence.tables import audit, dag_runs
from tests.acceptance.conftest import RunCommand, StartCommand
from tests.servers import Process, wait_until

NOW = datetime(2012, 11, 21, 15, tzinfo=UTC)
OLD = [date(2012, 9, day) for day in (17, 18, 19, 20, 21)]
KEPT = [date(2012, 9, 24)]
PRUNE = ("prune", "--older-than", "60d", "--json")


@pytest.fixture
def rows(database_url: str) -> Iterator[Engine]:
    """The engine of a database whose scheduler has some sessions of long ago to look after."""
    engine = create_engine(database_url)
    with writing(engine) as connection:
        only = SessionRange(OLD[0], KEPT[-1])
        clock.start_replay(connection, market_at=NOW, speed=1, only=only, markets=["US_EQ"])
        runs.first_seen(connection, "daily", "US_EQ", "every session", NOW - timedelta(days=120))
    yield engine
    engine.dispose()


@pytest.mark.slow
def test_a_beat_at_work_and_its_successor_make_nothing_again(
    rows: Engine,
    database_url: str,
    redis_url: str,
    run_command: RunCommand,
    start_command: StartCommand,
) -> None:
    env = {
        "PROMETHEUS__DATABASE__URL": database_url,
        "PROMETHEUS__BROKER__URL": redis_url,
        "PROMETHEUS__MARKETS__ENABLED": "US_EQ",
    }
    beat = start_command("beat", env=env)
    wait_until(
        lambda: sessions(rows) == [*OLD, *KEPT] or not beat.running,
        timeout=120,
        message=lambda: f"all runs are made\n{beat.output()}",
    )
    with writing(rows) as connection:
        now = connection.execute(select(database_now())).scalar_one()
        connection.execute(
            update(dag_runs)
            .where(dag_runs.c.as_of_date.in_(OLD))
            .values(status=RunStatus.FAILED, completed_at=now - timedelta(days=100))
        )
    expected = {
        "sessions_before": "2012-09-22",
        "runs": 5,
        "executions": 45,
        "first_session": "2012-09-17",
        "last_session": "2012-09-21",
    }
    asked = run_command(*PRUNE, "--dry-run", env=env)
    assert asked.document.items() >= {**expected, "dry_run": True}.items(), asked
    assert sessions(rows) == [*OLD, *KEPT]
    done = run_command(*PRUNE, "--reason", "the disk is full", "--as", "ada", env=env)
    assert done.document.items() >= {**expected, "dry_run": False}.items(), done
    with reading(rows) as connection:
        actor, details = connection.execute(select(audit.c.actor, audit.c.details)).one()
    assert (actor, details["reason"], details["before"]["runs"]) == ("ada", "the disk is full", 5)
    wait_for_tick(rows, beat)
    beat.end()
    wait_for_tick(rows, start_command("beat", env=env))
    assert sessions(rows) == KEPT
    run_command("prune", "--older-than", "3d", env=env).refused("Runs of the last 30 days stay")


def sessions(engine: Engine) -> list[date]:
    with reading(engine) as connection:
        days = connection.execute(select(dag_runs.c.as_of_date).order_by(dag_runs.c.as_of_date))
        return list(days.scalars())


def wait_for_tick(engine: Engine, beat: Process) -> None:
    """Wait until a beat has completed a tick that began after now."""
    with reading(engine) as connection:
        now = leases.wall_time(connection)

    def ticked() -> bool:
        assert beat.running, beat.output()
        with reading(engine) as connection:
            leader = leases.leader(connection, LEADERSHIP)
        assert leader is not None
        ticked_at = leader["ticked_at"]
        return isinstance(ticked_at, datetime) and ticked_at > now

    wait_until(ticked, timeout=120, message=lambda: f"a tick\n{beat.output()}")
