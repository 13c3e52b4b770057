"""The monitoring system's own server and tool, on what ``deploy/`` ships and a real stack."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Connection, Engine, insert, select, text, update

from prometheus.core.overrides import OverrideKind
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.names import LEADERSHIP
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence import runs
from prometheus.persistence.engine import create_engine, reading, writing
from prometheus.persistence.tables import (
    alert_deliveries,
    calendar_overrides,
    dag_runs,
    job_executions,
)
from tests.acceptance.conftest import RunCommand, StartCommand
from tests.deployments import DEPLOY
from tests.eodhd.server import TOKEN as FEED_TOKEN
from tests.eodhd.server import Imitation
from tests.servers import (
    REPOSITORY,
    MonitoringServer,
    Process,
    RedisServer,
    find_debian_program,
    free_port,
    leave_out,
    wait_until,
)

SHIPPED = DEPLOY / "prometheus"
DASHBOARD = json.loads((DEPLOY / "grafana" / "markets.json").read_text())
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
def port() -> int:
    """Where the web app answers."""
    return free_port()


@pytest.fixture
def server(port: int, tmp_path: Path) -> Iterator[MonitoringServer]:
    """A server with what is shipped, but for address and pace."""
    binary = program("prometheus")
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    (scrape,) = config["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": ["127.0.0.1:8765"]}]
    scrape["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "alerts.yml").write_text(sooner((SHIPPED / "alerts.yml").read_text()))
    with MonitoringServer(binary, str(tmp_path / "prometheus.yml")) as server:
        yield server


def sooner(shipped: str) -> str:
    """Shorten how long something must be wrong; promtool has tried how long that is."""
    for shown, sought in {
        "> 5": "> 0.25",
        "> 60": "> 5",
        "> 300": "> 5",
        "> 900": "> 10",
        "[2m])) <= 120": "[5s])) <= 5",
    }.items():
        shipped, found = re.subn(f"{re.escape(shown)}$", sought, shipped, flags=re.MULTILINE)
        assert found, shown
    return re.sub(r"for: \d+[mh]", "for: 0s", shipped)


def rules(server: MonitoringServer) -> list[dict[str, Any]]:
    return [rule for group in server.ask("rules")["groups"] for rule in group["rules"]]


def alerted(server: MonitoringServer) -> dict[str, list[dict[str, str]]]:
    """Return the alerts that fire, with the labels of what each fires for."""
    found = {}
    for rule in rules(server):
        assert rule["health"] != "err", rule
        if rule["state"] == "firing":
            found[rule["name"]] = [alert["labels"] for alert in rule["alerts"]]
            for alert in rule["alerts"]:
                said = " ".join(alert["annotations"].values())
                assert "<" not in said, said  # as it shows what it can not fill in
                assert "{{" not in said, said
    return found


def expect(
    server: MonitoringServer, names: Collection[str], *, maybe: Collection[str] = ()
) -> None:
    """Wait until these alerts fire, and no other but those that may."""
    wait_until(
        lambda: set(alerted(server)) - set(maybe) == set(names),
        timeout=PATIENCE,
        interval=0.2,
        message=lambda: f"only {sorted(names)}; there are {sorted(alerted(server))}",
    )


def queries() -> list[str]:
    """Return what the dashboard asks, with everything chosen."""
    chosen = {
        "$job": "markets",
        "$market": ".*",
        "$pipeline": ".*",
        "$__rate_interval": "1m",
        "$__range": "1h",
    }
    found = []
    for target in (each for panel in DASHBOARD["panels"] for each in panel.get("targets", ())):
        query = target["expr"]
        for name, value in chosen.items():
            query = query.replace(name, value)
        assert "$" not in query
        found.append(query)
    return found


def choices(server: MonitoringServer) -> dict[str, set[str]]:
    """Return what the dashboard lets choose, as Grafana asks for it."""
    offered = {}
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            asked = variable["query"]["query"].replace("$job", "markets")
            ((series, label),) = re.findall(r"^label_values\((.+), (\w+)\)$", asked)
            offered[variable["name"]] = set(
                server.ask(f"label/{label}/values", **{"match[]": series})
            )
    return offered


def has_data(server: MonitoringServer, query: str) -> bool:
    """Say whether a query is answered with a number."""
    result = server.ask("query", query=query)["result"]
    return any(math.isfinite(float(series["value"][1])) for series in result)


# --- a live stack -----------------------------------------------------------------------------

MARKETS = """
[markets]
enabled = [{enabled}]

[markets.AAA]
zone = "UTC"
cut = "{cut:%H:%M}"

[markets.BBB]
zone = "UTC"
cut = "{cut:%H:%M}"

[markets.ENDING]
zone = "UTC"
cut = "{cut:%H:%M}"
last = {ending}

[markets.SOON]
zone = "UTC"
cut = "{cut:%H:%M}"
last = {soon}

[markets.ENDED]
zone = "UTC"
cut = "{cut:%H:%M}"
last = {ended}
"""
PIPELINES = """
import time
from pathlib import Path

from prometheus import JobContext, Pipeline

HERE = Path(__file__).parent

well = Pipeline("well", markets=["AAA"])


@well.sensor(every="1s", expected="20h", give_up="21h")
def ready(ctx: JobContext) -> bool:
    return (HERE / "ready").exists()


@well.job(after=[ready])
def load(ctx: JobContext) -> None: ...


@well.job(after=[load])
def book(ctx: JobContext) -> None: ...


fails = Pipeline("fails", markets=["AAA"])


@fails.sensor(every="1s", expected="20h", give_up="21h")
def trouble(ctx: JobContext) -> bool:
    return (HERE / "trouble").exists()


@fails.job(after=[trouble], max_retries=0)
def fail(ctx: JobContext) -> None:
    raise ValueError("the vendor sent nothing")


busy = Pipeline("busy", markets=["BBB"], deadline="open+20h")


@busy.sensor(every="1s", expected="20h", give_up="21h")
def bad(ctx: JobContext) -> bool:
    return (HERE / "trouble").exists()


@busy.job(after=[bad], priority="CRITICAL")
def holds(ctx: JobContext) -> None:
    (HERE / "holds").touch()
    while True:
        time.sleep(0.05)


@busy.job(after=[bad], priority="OPTIONAL", queue_timeout="3s")
def expires(ctx: JobContext) -> None: ...


@busy.job(after=[bad], priority="OPTIONAL")
def waits(ctx: JobContext) -> None: ...
"""
TOO_LATE = """
from prometheus import JobContext, Pipeline

missed = Pipeline("missed", markets=["AAA"])


@missed.job()
def settle(ctx: JobContext) -> None: ...


late = Pipeline("late", markets=["AAA"], deadline="open+1h")


@late.sensor(every="1s", expected="1m", give_up="20h")
def vendor(ctx: JobContext) -> bool:
    return False
"""
HOUR = timedelta(hours=1)
DAY = 24 * HOUR
WATCH = """
INSERT INTO leases (name, owner, epoch, expires_at) VALUES ('alerts', 'there:7:x', 1, now())
ON CONFLICT (name) DO UPDATE SET owner = leases.owner
"""
"""What keeps others from watching for what is wrong, until it is undone."""


class Live:
    """The stack of one installation: its commands, and what is done to it."""

    def __init__(
        self,
        start_command: StartCommand,
        run_command: RunCommand,
        engine: Engine,
        redis: RedisServer,
        home: Path,
        port: int,
    ) -> None:
        self.start_command = start_command
        self.run_command = run_command
        self.engine = engine
        self.home = home
        now = datetime.now(UTC)
        # Half a day away from where one session ends and the next one begins.
        self.cut = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=12)
        self.markets = MARKETS.format(
            enabled="{enabled}",
            cut=self.cut,
            ending=(now + 60 * DAY).date(),
            soon=(now + 20 * DAY).date(),
            ended=(now - 2 * DAY).date(),
        )
        (home / "well.py").write_text(PIPELINES)
        (home / "too_late.py").write_text(TOO_LATE)
        self.enable("AAA", "BBB", "US_EQ")
        self.env = {
            "PROMETHEUS__DATABASE__URL": engine.url.render_as_string(hide_password=False),
            "PROMETHEUS__BROKER__URL": redis.url,
            "PROMETHEUS__PIPELINES__MODULES": "well.py,too_late.py",
            "PROMETHEUS__CHANNELS__DESK": f"json://127.0.0.1:{free_port()}",
            "PROMETHEUS__CHANNELS__GONE": f"json://127.0.0.1:{free_port()}",
            "PROMETHEUS__ALERTS__QUIET": "1s",
            "PROMETHEUS__ALERTS__LOOK_EVERY": "1s",
            "PROMETHEUS__SCHEDULER__MAX_WAIT": "1s",
            "PROMETHEUS__SCHEDULER__LEASE": "20s",
            "PROMETHEUS__WORKERS__CONCURRENCY": "2",
            "PROMETHEUS__WORKERS__LEASE": "15s",
            "PROMETHEUS__WORKERS__MAX_LOST": "0",
            "PROMETHEUS__WORKERS__RENEWAL": "1s",
            "PROMETHEUS__WEB__PORT": str(port),
        }

    def enable(self, *markets: str) -> None:
        """Say which markets the installation has."""
        enabled = ", ".join(f'"{each}"' for each in markets)
        (self.home / "prometheus.toml").write_text(self.markets.format(enabled=enabled))

    def command(self, *arguments: str, **env: str) -> Process:
        """Start one of its processes."""
        return self.start_command(*arguments, env={**self.env, **env})

    def touch(self, name: str) -> None:
        """Let a sensor find what it looks for."""
        (self.home / name).touch()

    def has_begun(self, job_id: str) -> bool:
        """Say whether an attempt of a job has started."""
        waits = [JobStatus.PENDING, JobStatus.QUEUED]
        of = (job_executions.c.job_id == job_id, job_executions.c.status.not_in(waits))
        with reading(self.engine) as connection:
            return connection.execute(select(job_executions).where(*of)).first() is not None

    def run_of(self, pipeline: str) -> str:
        """Return the run of a pipeline."""
        with reading(self.engine) as connection:
            return str(
                connection.execute(
                    select(dag_runs.c.dag_id).where(dag_runs.c.pipeline == pipeline)
                ).scalar_one()
            )

    def do(self, *arguments: str, **env: str) -> None:
        """Run a command that succeeds."""
        done = self.run_command(*arguments, env={**self.env, **env})
        assert done.status == 0, done

    def override_that_nobody_can_read(self) -> None:
        """
        Record an override of a coming session as no release writes it.

        At once, and not one that is damaged afterwards: what a process has read, it keeps.
        """
        now = datetime.now(UTC)
        override = {
            "override_id": 1,
            "market_id": "AAA",
            "session": (now + 3 * DAY).date(),
            "kind": OverrideKind.LATE_OPEN.value,
            "opens": "noon",
            "reason": "a storm",
            "source": "s",
            "announced_at": now,
            "author": "op",
        }
        with writing(self.engine) as connection:
            connection.execute(insert(calendar_overrides).values(override))

    def give_up(self, channel: str) -> None:
        """Let a channel have been tried for more than half a day."""
        ago = datetime.now(UTC) - 13 * HOUR
        of = alert_deliveries.c.channel == channel
        with writing(self.engine) as connection:
            connection.execute(
                update(alert_deliveries).where(of).values(created_at=ago, next_try_at=ago)
            )

    def block_a_tick(self) -> None:
        """Keep the scheduler from renewing its lead until it has waited for three seconds."""
        lead = f"SELECT 1 FROM leases WHERE name = '{LEADERSHIP}' FOR UPDATE"
        waits = text(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND clock_timestamp() - query_start > interval '3 s'"
        )
        with holding(self.engine, lead) as connection:
            wait_until(lambda: connection.execute(waits).scalar_one() > 0, timeout=PATIENCE)


@pytest.fixture
def live(
    start_command: StartCommand,
    run_command: RunCommand,
    postgresql_url: str,
    spare_redis: RedisServer,
    home: Path,
    port: int,
) -> Iterator[Live]:
    engine = create_engine(postgresql_url)
    yield Live(start_command, run_command, engine, spare_redis, home, port)
    engine.dispose()


@contextmanager
def holding(engine: Engine, statement: str) -> Iterator[Connection]:
    """Hold what a statement locks, as somebody who went to lunch in the middle of a transaction."""
    with engine.connect() as connection:
        connection.execute(text("SET idle_in_transaction_session_timeout = 0"))
        connection.execute(text(statement))
        yield connection
        connection.rollback()


@pytest.mark.slow
def test_every_panel_has_data_and_every_alert_its_case(
    live: Live,
    server: MonitoringServer,
    spare_redis: RedisServer,
    tmp_path: Path,
) -> None:
    """Rows are written for what takes hours, and for what only damage can bring about."""
    # A scheduler never was, and nobody has looked for what is wrong.
    with holding(live.engine, WATCH):
        web = live.command("web")
        expect(server, {"MarketsNoLeader", "MarketsAlertsNeverWatched"})
        live.command("worker", "AAA")
        worker = live.command("worker", "BBB", "--concurrency", "1")
        beat = live.command("beat", PROMETHEUS__PIPELINES__MODULES="well.py")
        expect(server, {"MarketsAlertsNeverWatched"})

    # All is well.
    wait_until(lambda: all(map(live.has_begun, ("ready", "trouble", "bad"))), timeout=PATIENCE)
    expect(server, ())
    live.touch("ready")
    wait_until(
        lambda: all(has_data(server, query) for query in queries()),
        timeout=PATIENCE,
        interval=0.2,
        message=lambda: str([each for each in queries() if not has_data(server, each)]),
    )
    expect(server, ())
    assert choices(server) == {
        "job": {"markets"},
        "market": {"AAA", "BBB", "US_EQ"},
        "pipeline": {"busy", "fails", "late", "missed", "well"},
    }

    # All that can go wrong together.
    slow = {"MarketsTicksSlow"}  # by an average, which the next ticks lower
    while not slow & alerted(server).keys():
        live.block_a_tick()
    live.touch("trouble")
    wait_until((live.home / "holds").exists, timeout=PATIENCE)
    wrong = {"MarketsJobFailed", "MarketsRunFailed", "MarketsWindowExpired", "MarketsQueueOld"}
    wrong |= {"MarketsAlertsNotDelivered", "MarketsAlertsUnanswered"}
    expect(server, wrong, maybe=slow)
    worker.kill()
    wrong |= {"MarketsWorkerLost", "MarketsJobPoisoned", "MarketsQueueWithoutWorkers"}
    expect(server, wrong, maybe=slow)
    with Imitation(now=datetime.now(UTC)) as feed:
        storm = TradingCalendar("XNYS").next_trading_day((datetime.now(UTC) + 7 * DAY).date())
        feed.extra_closures["US", storm] = "Storm"
        feed.maintenance = False
        live.do(
            *("calendar", "sync", "XNYS"),
            PROMETHEUS__EODHD__TOKEN=FEED_TOKEN,
            PROMETHEUS__EODHD__URL=feed.url,
        )
    wrong.add("MarketsFeedDisagrees")
    expect(server, wrong, maybe=slow)
    live.override_that_nobody_can_read()
    live.give_up("gone")
    wrong |= {"MarketsOverridesUnreadable", "MarketsAlertsGivenUp"}
    expect(server, wrong, maybe=slow)
    with holding(live.engine, WATCH):
        expect(server, {*wrong, "MarketsAlertsNotWatched"}, maybe=slow)
    expect(server, wrong, maybe=slow)

    # A scheduler stands still, is gone, and comes back after a session.
    beat.send(signal.SIGSTOP)
    expect(server, {*wrong, "MarketsSchedulerSilent"}, maybe=slow)
    beat.kill()
    expect(server, {*wrong, "MarketsNoLeader"}, maybe=slow)
    with writing(live.engine) as connection:  # as if it had stood still since before it
        runs.first_seen(connection, "missed", "AAA", "every session", live.cut - HOUR)
    live.command("beat")
    wrong |= {"MarketsSessionMissed", "MarketsRunLate", "MarketsDeadlineMissed"}
    expect(server, wrong, maybe=slow)
    spare_redis.stop()
    expect(server, {*wrong, "MarketsComponentDown"}, maybe=slow)
    live.do("retry", live.run_of("fails"))
    expect(server, {*wrong, "MarketsComponentDown", "MarketsOutboxPending"}, maybe=slow)
    before = {*wrong, *slow}  # what has been counted stays an alert for ten minutes
    web.send(signal.SIGTERM)
    expect(server, {"MarketsAbsent", "MarketsWebDown"}, maybe=before)

    # Another installation of the same, with calendars that end, and one that is damaged.
    shutil.copytree(REPOSITORY / "prometheus", tmp_path / "damaged" / "prometheus")
    (tmp_path / "damaged" / "migrations").symlink_to(REPOSITORY / "migrations")
    (sessions,) = (tmp_path / "damaged").rglob("XNYS.json")
    sessions.write_text("{")
    spare_redis.start()
    live.enable("AAA", "BBB", "US_EQ", "ENDING", "SOON", "ENDED")
    live.command("web", PYTHONPATH=str(tmp_path / "damaged"))
    of = {
        "MarketsCalendarEnding": "ENDING",
        "MarketsCalendarEndsSoon": "SOON",
        "MarketsCalendarEnded": "ENDED",
        "MarketsCalendarUnreadable": "US_EQ",
    }
    expect(server, of, maybe=before)
    found = alerted(server)
    assert {name: [each["market"] for each in found[name]] for name in of} == {
        name: [market] for name, market in of.items()
    }
    fired = server.ask("query", query='max_over_time(ALERTS{alertstate="firing"}[1h])')["result"]
    assert {each["metric"]["alertname"] for each in fired} == {
        each["name"] for each in rules(server)
    }
