"""``prometheus health`` on real rows and a real Redis; what works is in ``test_processes``."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, update

from prometheus.bootstrap import make_celery
from prometheus.dispatch.names import BUSY_KEY, LEADERSHIP
from prometheus.dispatch.publisher import Publisher
from prometheus.persistence import leases
from prometheus.persistence.engine import create_engine, writing
from prometheus.persistence.tables import worker_incarnations
from prometheus.settings import load_settings
from tests.acceptance.conftest import RunCommand, environment
from tests.servers import free_port

HOUR = timedelta(hours=1)
Health = Callable[..., tuple[bool, str]]


@pytest.fixture
def variables(postgresql_url: str, redis_url: str) -> dict[str, str]:
    """The settings of all processes."""
    return {
        "PROMETHEUS__DATABASE__URL": postgresql_url,
        "PROMETHEUS__BROKER__URL": redis_url,
        # A leader is silent after three of them: long, so that a slow machine does not matter.
        "PROMETHEUS__SCHEDULER__LEASE": "10m",
    }


@pytest.fixture
def health(run_command: RunCommand, variables: dict[str, str]) -> Health:
    """A function that runs the command: whether it is healthy, and why."""

    def ask(*arguments: str, **env: str) -> tuple[bool, str]:
        ended = run_command("health", *arguments, "--json", env={**variables, **env})
        assert ended.status == (0 if ended.document["healthy"] else 1), ended
        assert (ended.document["part"], ended.err) == (arguments[0], "")
        return ended.document["healthy"], ended.document["text"]

    return ask


@pytest.fixture
def rows(variables: dict[str, str]) -> Iterator[Engine]:
    """The engine of the installation."""
    engine = create_engine(variables["PROMETHEUS__DATABASE__URL"])
    yield engine
    engine.dispose()


def lead(engine: Engine, *, ticked: timedelta | None, lease: timedelta = HOUR) -> None:
    """Lead as somebody else, whose last tick was some time ago."""
    with writing(engine) as connection:
        leases.lead(connection, LEADERSHIP, "there:7:x", lease=lease)
        ticked_at = leases.wall_time(connection) - ticked if ticked is not None else None
        leases.lead(connection, LEADERSHIP, "there:7:x", lease=lease, ticked_at=ticked_at)


def test_faults_of_a_market_in_the_file_make_nobody_unhealthy(
    rows: Engine, health: Health, tmp_path: Path
) -> None:
    lead(rows, ticked=timedelta(minutes=1))
    (tmp_path / "faulty.toml").write_text('[markets.NORDIC]\nmembers = ["XSTOO"]\n')
    healthy, why = health("beat", PROMETHEUS_CONFIG=str(tmp_path / "faulty.toml"))
    assert healthy, why


def test_a_beat_is_healthy_while_it_completes_ticks(rows: Engine, health: Health) -> None:
    assert health("beat") == (False, "no scheduler has led yet")
    lead(rows, ticked=timedelta(minutes=10))
    healthy, why = health("beat")
    assert healthy, why
    assert "there, pid 7 leads; its last tick was" in why
    lead(rows, ticked=timedelta(minutes=50))
    healthy, why = health("beat")
    assert not healthy
    assert "there, pid 7 leads; its last tick was" in why
    lead(rows, ticked=None)
    assert health("beat") == (False, "there, pid 7 leads, and has not completed a tick")
    lead(rows, ticked=timedelta(0), lease=timedelta(seconds=-1))
    assert health("beat") == (False, "no scheduler leads; the last one was there, pid 7")


def register(engine: Engine, *, since: timedelta) -> None:
    """Write the lease of a worker of US_EQ that came some time ago."""
    with writing(engine) as connection:
        now = leases.register_worker(
            connection, "me", worker="us_eq@here", host=socket.gethostname(), pid=7,
            queues=["US_EQ"], lease=HOUR,
        )  # fmt: skip
        connection.execute(update(worker_incarnations).values(started_at=now - since))


def put_canary(variables: dict[str, str], *, since: timedelta) -> None:
    """Put a canary as the leader does, as if some time ago."""
    app = make_celery(load_settings(variables))
    Publisher(app).send_canaries(["US_EQ"])
    with redis.Redis.from_url(variables["PROMETHEUS__BROKER__URL"]) as client:
        sent: Any = client.rpop("US_EQ")
        message = json.loads(sent)
        expires_at = datetime.fromisoformat(message["headers"]["expires"]).astimezone(UTC)
        message["headers"]["expires"] = (expires_at - since).isoformat()
        client.rpush("US_EQ", json.dumps(message))
    app.close()


@pytest.mark.parametrize("name", [(), ("us_eq@here",)], ids=["this host", "name"])
def test_a_worker_that_leaves_a_canary_is_deaf(
    rows: Engine, health: Health, variables: dict[str, str], name: tuple[str, ...]
) -> None:
    register(rows, since=HOUR)
    put_canary(variables, since=timedelta(minutes=2))
    assert health("worker", *name) == (
        False,
        "deaf: us_eq@here takes nothing from US_EQ, although it has time",
    )


def test_a_busy_worker_is_not_deaf(rows: Engine, health: Health, variables: dict[str, str]) -> None:
    register(rows, since=HOUR)
    put_canary(variables, since=timedelta(minutes=2))
    with redis.Redis.from_url(variables["PROMETHEUS__BROKER__URL"]) as client:
        client.set(f"{BUSY_KEY}me", 1, ex=HOUR)
    healthy, why = health("worker")
    assert healthy, why


@pytest.mark.parametrize(
    ("came", "waits"), [(-HOUR, timedelta(minutes=2)), (HOUR, -HOUR)], ids=["came", "sent"]
)
def test_what_does_not_wait_long_for_a_worker_says_nothing(
    rows: Engine,
    health: Health,
    variables: dict[str, str],
    came: timedelta,
    waits: timedelta,
) -> None:
    """Either is in the future here, so that it stays less than a minute, however slow this is."""
    register(rows, since=came)
    put_canary(variables, since=waits)
    healthy, why = health("worker")
    assert healthy, why


def test_a_worker_without_lease_is_not_healthy(rows: Engine, health: Health) -> None:
    assert health("worker") == (False, "a worker on this host holds no lease")
    host = socket.gethostname()
    assert health("worker", "us_eq") == (False, f"us_eq@{host} holds no lease")


def test_what_does_not_answer_is_said_without_its_password(health: Health) -> None:
    assert health("database")[0]
    assert health("broker")[0]
    port = free_port()
    url = f"postgresql://me:hunter2@127.0.0.1:{port}/x"
    healthy, why = health("database", PROMETHEUS__DATABASE__URL=url)
    assert (healthy, "me:***@127.0.0.1" in why, "hunter2" in why) == (False, True, False)
    url = f"redis://:hunter2@127.0.0.1:{port}/0"
    healthy, why = health("broker", PROMETHEUS__BROKER__URL=url)
    assert (healthy, "does not answer" in why, "hunter2" in why) == (False, True, False)


def test_health_does_without_celery(variables: dict[str, str]) -> None:
    """It is asked every few seconds."""
    code = (
        "import sys; from prometheus.cli.application import run_command; "
        "sys.argv = ['prometheus', 'health', sys.argv[1]]; run_command(); "
        "sys.exit(', '.join({'celery', 'kombu', 'numpy'} & sys.modules.keys()) or 0)"
    )
    for part in ("beat", "worker"):
        done = subprocess.run(
            [sys.executable, "-c", code, part],
            env={**environment(), **variables}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr.strip()) == (0, ""), done.stdout
