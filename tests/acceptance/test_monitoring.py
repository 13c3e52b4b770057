"""The monitoring system's own server and tool, on what ``deploy/`` ships and a real stack."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import update

from prometheus.core.overrides import Override, OverrideKind
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.figures import note_tick
from prometheus.dispatch.names import LEADERSHIP
from prometheus.monitoring.alerts.watching import LEASE as WATCHING
from prometheus.orchestration.alerts import AlertKind, Cause, Raise, Severity
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.orchestration.planning import SessionRange
from prometheus.persistence import alerts, leases
from prometheus.persistence.alerts import Message
from prometheus.persistence.clock import start_replay
from prometheus.persistence.engine import create_engine, writing
from prometheus.persistence.overrides import record
from prometheus.persistence.runs import create_run
from prometheus.persistence.tables import alert_deliveries, calendar_overrides
from tests.acceptance.conftest import StartCommand
from tests.deployments import DEPLOY
from tests.integration.persistence.world import HOUR, LOST, World, dag_of, job
from tests.servers import (
    REPOSITORY,
    MonitoringServer,
    RedisServer,
    find_debian_program,
    free_port,
    leave_out,
    wait_until,
)

SHIPPED = DEPLOY / "prometheus"
PATIENCE = 60


def program(name: str) -> str:
    """Find one of the two programs; none is downloaded."""
    found = find_debian_program(name, f"{name}, version")
    if found is None:
        leave_out(f"no {name} of the monitoring system is on PATH (Debian: prometheus)")
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
    ids=" ".join,
)
def test_its_tool_approves_of_what_is_shipped(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [program("promtool"), *arguments],
        cwd=SHIPPED,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def world(postgresql_url: str) -> Iterator[World]:
    engine = create_engine(postgresql_url)
    yield World(engine)
    engine.dispose()


@pytest.fixture
def port() -> int:
    """Where the web app answers."""
    return free_port()


@pytest.fixture
def server(port: int, tmp_path: Path) -> Iterator[MonitoringServer]:
    """A server with the shipped rules, and the shipped configuration but for address and pace."""
    binary = program("prometheus")
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    (scrape,) = config["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": ["127.0.0.1:8765"]}]
    scrape["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(SHIPPED / "alerts.yml", tmp_path)
    with MonitoringServer(binary, str(tmp_path / "prometheus.yml")) as server:
        yield server


def rules(server: MonitoringServer) -> list[dict[str, Any]]:
    return [rule for group in server.ask("rules")["groups"] for rule in group["rules"]]


def alerted(server: MonitoringServer) -> set[str]:
    """Name the alerts whose case is given; how long it must be, promtool has tried."""
    found = set()
    for rule in rules(server):
        assert rule["health"] != "err", rule
        if rule["state"] != "inactive":
            found.add(rule["name"])
            for alert in rule["alerts"]:
                said = " ".join(alert["annotations"].values())
                assert "<" not in said, said  # as it shows what it can not fill in
                assert "{{" not in said, said
    return found


def expect(server: MonitoringServer, *names: str, none_of: Collection[str] = ()) -> None:
    """Wait until these alert; of all others, nothing is said unless they are named."""

    def is_so() -> bool:
        found = alerted(server)
        return set(names) <= found and not found & set(none_of)

    wait_until(
        is_so,
        timeout=PATIENCE,
        interval=0.2,
        message=lambda: f"{names}, none of {none_of}; there are {alerted(server)}",
    )


def all_but(server: MonitoringServer, *names: str) -> set[str]:
    return {rule["name"] for rule in rules(server)} - set(names)


def queries() -> list[str]:
    """Return what the dashboard asks, with everything chosen."""
    dashboard = json.loads((DEPLOY / "grafana" / "markets.json").read_text())
    chosen = {
        "$job": "markets",
        "$market": ".*",
        "$pipeline": ".*",
        "$__rate_interval": "1m",
        "$__range": "1h",
    }
    found = []
    for target in (each for panel in dashboard["panels"] for each in panel.get("targets", ())):
        query = target["expr"]
        for name, value in chosen.items():
            query = query.replace(name, value)
        assert "$" not in query
        found.append(query)
    return found


def has_data(server: MonitoringServer, query: str) -> bool:
    """Say whether a query is answered with a number."""
    result = server.ask("query", query=query)["result"]
    return any(math.isfinite(float(series["value"][1])) for series in result)


def lead(
    world: World,
    name: str = LEADERSHIP,
    *,
    ticked: timedelta = timedelta(0),
    lease: timedelta = HOUR,
    figures: Mapping[str, int] | None = None,
) -> None:
    """Lead as somebody whose last tick, or look, was some time ago."""
    with writing(world.engine) as connection:
        at = leases.wall_time(connection) - ticked
        for tick in (None, at):  # who only begins to lead has no tick yet
            leases.lead(connection, name, "there:7:x", lease=lease, ticked_at=tick, figures=figures)


def stand(world: World, at: date) -> None:
    """Let market time stand on a day."""
    with writing(world.engine) as connection:
        start_replay(
            connection,
            market_at=datetime(at.year, at.month, at.day, 12, tzinfo=UTC),
            speed=0,
            only=SessionRange(at, at),
            markets=["US_EQ"],
        )


def break_overrides(world: World) -> None:
    """Record an override of a coming session that nobody can read."""
    override = Override(
        override_id=1,
        exchange="XNYS",
        session=datetime.now(UTC).date() + timedelta(days=3),
        kind=OverrideKind.CLOSED,
        reason="a storm",
        source="s",
        announced_at=datetime.now(UTC),
        author="ada",
    )
    with writing(world.engine) as connection:
        record(connection, override)
        connection.execute(update(calendar_overrides).values(opens="noon"))


def tell_nobody(world: World) -> None:
    """Raise an alert that one channel has not accepted for hours, and another never will."""
    at = world.now() - 2 * HOUR
    cause = Cause(
        key="k", kind=AlertKind.JOB_FAILED, severity=Severity.ERROR, summary="failed", since=at
    )
    messages = [Message(channel, "failed", "") for channel in ("desk", "gone")]
    gone = alert_deliveries.c.channel == "gone"
    with writing(world.engine) as connection:
        alerts.apply_changes(connection, [Raise(cause)], at, lambda *_: messages)
        ended = update(alert_deliveries).where(gone).values(state="failed", ended_at=at)
        connection.execute(ended)


@pytest.mark.slow
def test_every_panel_has_data_and_every_alert_its_case(
    start_command: StartCommand,
    server: MonitoringServer,
    world: World,
    port: int,
    spare_redis: RedisServer,
    tmp_path: Path,
) -> None:
    env = {
        "PROMETHEUS__DATABASE__URL": world.engine.url.render_as_string(hide_password=False),
        "PROMETHEUS__BROKER__URL": spare_redis.url,
        "PROMETHEUS__WORKERS__CONCURRENCY": "2",
        "PROMETHEUS__WEB__PORT": str(port),
        "PROMETHEUS__CHANNELS__DESK": "json://127.0.0.1:1",
    }
    with writing(world.engine) as connection:  # so that what we say of it stays so
        leases.lead(connection, WATCHING, "there:7:x", lease=HOUR)
    web = start_command("web", env=env)
    expect(server, "MarketsAlertsNeverWatched", none_of={"MarketsAlertsNotWatched"})
    lead(world, WATCHING)

    # All is well.
    did: dict[str, int] = defaultdict(int)
    lead(world, figures=did)
    worker = world.worker(slots=2)
    well = world.run(job("a"), job("b", "a"))
    bad = world.run(job("fails", max_retries=0), job("late"), pipeline="bad")
    lost = world.run(job("lost"), pipeline="lost")
    counted = 'prometheus_markets_runs_total{pipeline="test"}'
    wait_until(lambda: has_data(server, counted), timeout=PATIENCE, interval=0.2)
    world.finish(well, worker, "a", "b")
    assert world.close(well) == RunStatus.SUCCESS
    note_tick(did, 0.2)
    lead(world, figures=did)
    wait_until(
        lambda: all(has_data(server, query) for query in queries()),
        timeout=PATIENCE,
        interval=0.2,
        message=lambda: str([each for each in queries() if not has_data(server, each)]),
    )
    expect(server, none_of=all_but(server))

    # All that can go wrong together.
    world.fail_for_good(bad, "fails", worker)
    world.end_waiting({world.ids(bad)["late"]: "its window closed"}, JobStatus.EXPIRED)
    assert world.close(bad) == RunStatus.FAILED
    world.fail(world.running(lost, "lost", worker), LOST)
    world.change(world.ids(lost)["lost"], scheduled_at=world.now() - HOUR)
    with writing(world.engine) as connection:
        leases.end_worker(connection, worker)
        create_run(
            connection,
            dag_of(job("a"), pipeline="daily"),
            opens_at=world.now(),
            trigger="catch_up",
            calendar_version="1",
            parameters={},
            missed="missed: no scheduler was running",
        )
    break_overrides(world)
    tell_nobody(world)
    lead(world, WATCHING, ticked=2 * HOUR)
    for _ in range(9):
        note_tick(did, 20)
    lead(world, ticked=2 * HOUR, figures=did)
    wrong = {
        *("MarketsJobFailed", "MarketsWindowExpired", "MarketsRunFailed", "MarketsWorkerLost"),
        *("MarketsQueueWithoutWorkers", "MarketsQueueOld", "MarketsSessionMissed"),
        *("MarketsAlertsNotWatched", "MarketsAlertsNotDelivered", "MarketsAlertsGivenUp"),
        *("MarketsOverridesUnreadable", "MarketsTicksSlow"),
    }
    silent = "MarketsSchedulerSilent"
    expect(server, *wrong, silent, none_of=all_but(server, *wrong, silent))
    lead(world, ticked=2 * HOUR, lease=-HOUR, figures=did)
    spare_redis.stop()
    gone = {"MarketsNoLeader", "MarketsComponentDown"}
    expect(server, *wrong, *gone, none_of=all_but(server, *wrong, *gone))

    # A calendar ends.
    horizon = TradingCalendar("US_EQ").horizon
    calendars = {each for each in all_but(server) if each.startswith("MarketsCalendar")}
    for left, name in ((90, "Ending"), (30, "EndsSoon"), (-1, "Ended")):
        alert = f"MarketsCalendar{name}"
        stand(world, horizon - timedelta(days=left))
        expect(server, alert, none_of=calendars - {alert})
    web.send(signal.SIGTERM)
    web.wait(PATIENCE)
    expect(server, "MarketsAbsent", "MarketsWebDown", none_of=calendars)

    # Another installation of the same, whose data is damaged.
    shutil.copytree(REPOSITORY / "prometheus", tmp_path / "damaged" / "prometheus")
    (tmp_path / "damaged" / "migrations").symlink_to(REPOSITORY / "migrations")
    (sessions,) = (tmp_path / "damaged").rglob("XNYS.json")
    sessions.write_text("{")
    start_command("web", env={**env, "PYTHONPATH": str(tmp_path / "damaged")})
    expect(
        server,
        "MarketsCalendarUnreadable",
        none_of={"MarketsAbsent", "MarketsWebDown", "MarketsCalendarEnded"},
    )
