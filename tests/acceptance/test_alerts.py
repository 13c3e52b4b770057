"""``prometheus alerts`` as a process."""

from __future__ import annotations

import re
import signal
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.monitoring.alerts.watching import Watcher
from prometheus.monitoring.installation import Installation
from prometheus.orchestration.alerts import AlertKind
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence import runs
from prometheus.persistence.engine import create_engine, reading, writing
from prometheus.persistence.tables import alerts, job_executions
from prometheus.settings import load_settings
from tests.acceptance.conftest import RunCommand, StartCommand
from tests.eodhd.server import TOKEN as FEED_TOKEN
from tests.eodhd.server import Imitation
from tests.integration.monitoring.recipients import receiving
from tests.integration.persistence.world import World, at_once, job
from tests.servers import Process, free_port, wait_until

TOKEN = "T0kenOfTheChannel"


def test_what_is_wrong_is_listed_and_acknowledged(
    run_command: RunCommand, sqlite_url: str, home: Path
) -> None:
    env = {"PROMETHEUS__DATABASE__URL": sqlite_url}
    assert run_command("alerts", env=env).out.strip() == "No alert is open."
    engine = create_engine(sqlite_url)
    world = World(engine)
    dag = world.run(job("a", max_retries=0))
    world.fail_for_good(dag, "a", world.worker())
    here = Installation(load_settings(env, home))
    watcher = Watcher(here)
    assert watcher.look()
    watcher.close()
    here.close()
    engine.dispose()

    shown = run_command("alerts", env=env).out
    assert f"{dag.dag_id}: a failed for good" in shown
    (listed,) = run_command("alerts", "list", "--json", env=env).document
    assert (listed["alert"], listed["kind"], listed["subjects"]) == (1, "job_failed", ["a"])
    ack = ("alerts", "ack", "1", "--reason", "vendor called", "--as", "ada")
    assert run_command(*ack, env=env).status == 0
    assert "acknowledged by ada: vendor called" in run_command("alerts", env=env).out
    run_command(*ack, env=env).refused("was acknowledged by ada already")
    run_command("alerts", "ack", "7", "--reason", "x", env=env).refused("There is no alert 7")


def test_channels_are_tried_one_by_one(run_command: RunCommand, home: Path) -> None:
    run_command("alerts", "test").refused("There are no channels")
    with receiving() as recipients:
        works = f"json://127.0.0.1:{recipients.web_port}/{TOKEN}"
        env = {
            "PROMETHEUS__CHANNELS__DESK": works,
            "PROMETHEUS__CHANNELS__NOBODY": f"json://127.0.0.1:{free_port()}/{TOKEN}",
        }
        both = run_command("alerts", "test", env=env)
        assert both.status == 1
        assert "desk: accepted" in both.out
        assert "nobody: NOT accepted: " in both.out
        (answer,) = run_command("alerts", "test", "desk", "--json", env=env).document
        assert answer == {"channel": "desk", "error": None}
        assert recipients.titles == ["Test: alerts arrive here"] * 2
        unknown = run_command("alerts", "test", "dexk", env=env).refused("Did you mean 'desk'?")
        shown = run_command("config", "show", env=env).out
    assert "desk=json://***" in shown
    assert TOKEN not in both.out + both.err + unknown + shown


# --- all of them, by what people would see -------------------------------------------------------

MARKETS = """
[markets]
enabled = ["AAA", "BBB", "CCC"]

[markets.AAA]
zone = "UTC"
cut = "{cut:%H:%M}"

[markets.BBB]
zone = "UTC"
cut = "{cut:%H:%M}"

[markets.CCC]
zone = "UTC"
cut = "{cut:%H:%M}"
last = {last}

[pipelines]
modules = ["trouble.py"]
"""
PIPELINES = """
import time
from pathlib import Path

from prometheus import JobContext, Pipeline

HERE = Path(__file__).parent

fails = Pipeline("fails", markets=["AAA"])


@fails.job(max_retries=0)
def load(ctx: JobContext) -> None:
    if ctx.attempt_number == 1:
        raise ValueError("the vendor sent nothing")


slow = Pipeline("slow", markets=["AAA"], deadline="open+1h")


@slow.sensor(every="1s", expected="1m", give_up="20h")
def ready(ctx: JobContext) -> bool:
    return (HERE / "goes_on").exists()


missed = Pipeline("missed", markets=["AAA"])


@missed.job()
def settle(ctx: JobContext) -> None: ...


busy = Pipeline("busy", markets=["BBB"])


@busy.job(priority="CRITICAL")
def holds(ctx: JobContext) -> None:
    (HERE / "started").touch()
    while not (HERE / "goes_on").exists():
        time.sleep(0.05)


@busy.job(priority="OPTIONAL", queue_timeout="3s")
def waits(ctx: JobContext) -> None: ...
"""


@pytest.mark.slow
@pytest.mark.promise("P7")
def test_whatever_goes_wrong_is_told_once_by_web_and_by_mail_and_so_is_its_end(
    run_command: RunCommand,
    start_command: StartCommand,
    sqlite_url: str,
    redis_url: str,
    home: Path,
) -> None:
    """Each kind caused by what would cause it: beat, workers, a feed and what operators do."""
    now = datetime.now(UTC)
    # Half a day away from where one session ends and the next one begins.
    begun = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=12)
    last = (now + timedelta(days=20)).date()
    (home / "prometheus.toml").write_text(MARKETS.format(cut=begun, last=last))
    (home / "trouble.py").write_text(PIPELINES)
    storm = TradingCalendar("XNYS").next_trading_day(now.date() + timedelta(days=7))
    processes: list[Process] = []
    engine = create_engine(sqlite_url)
    with writing(engine) as connection:  # as if all had stood still since before this session
        known = ("missed", "AAA", "every session", begun - timedelta(hours=1))
        runs.first_seen(connection, *known)
    with receiving() as recipients, Imitation(now=now) as feed:
        feed.extra_closures["US", storm] = "Storm"
        feed.maintenance = False
        mail = f"mailto://127.0.0.1:{recipients.mail_port}?from=a@b.example&to=c@d.example"
        env = {
            "PROMETHEUS__DATABASE__URL": sqlite_url,
            "PROMETHEUS__BROKER__URL": redis_url,
            "PROMETHEUS__CHANNELS__HOOK": f"json://127.0.0.1:{recipients.web_port}/{TOKEN}",
            "PROMETHEUS__CHANNELS__MAIL": f"{mail}&mode=insecure",
            "PROMETHEUS__ALERTS__PING_URL": f"http://127.0.0.1:{recipients.web_port}/ping",
            "PROMETHEUS__ALERTS__QUIET": "1s",
            "PROMETHEUS__ALERTS__LOOK_EVERY": "1s",
            "PROMETHEUS__SCHEDULER__MAX_WAIT": "1s",
            "PROMETHEUS__SCHEDULER__LEASE": "10s",
            "PROMETHEUS__WORKERS__LEASE": "15s",
            "PROMETHEUS__WORKERS__RENEWAL": "1s",
            "PROMETHEUS__EODHD__TOKEN": FEED_TOKEN,
            "PROMETHEUS__EODHD__URL": feed.url,
        }

        def told(*kinds: str, over: bool = False) -> bool:
            with reading(engine) as connection:
                rows = connection.execute(select(alerts)).all()
            return {row.kind for row in rows if (row.told == "resolved") is over} >= set(kinds)

        def start(*command: str) -> Process:
            processes.append(start_command(*command, env=env))
            return processes[-1]

        def do(*command: str) -> None:
            done = run_command(*command, env=env)
            assert done.status == 0, done

        beat, one = start("beat"), start("worker", "BBB", "--concurrency", "1")
        start("worker", "AAA")
        do("calendar", "sync", "XNYS")
        # Once all are at work, and one of them for too long, somebody begins to watch.
        wait_until(lambda: {"waits", "load"} <= {row.job_id for row in ended(engine)}, timeout=90)
        web = start("web")
        one.kill()
        raised = sorted(set(AlertKind) - {AlertKind.SCHEDULER_SILENT})
        wait_until(lambda: told(*raised), timeout=90)

        # What ends them, but for a calendar, which goes no further before another is installed.
        ends = sorted(set(raised) - {AlertKind.CALENDAR_HORIZON})
        with reading(engine) as connection:
            dags = {
                row.kind: row.dag_id for row in connection.execute(select(alerts)) if row.dag_id
            }
        (home / "goes_on").touch()
        start("worker", "BBB", "--concurrency", "1")
        reject = ("calendar", "sync", "XNYS", "--reject", storm.isoformat(), "--reason", "no")
        force = ("force-success", dags["missed_session"], "settle", "--reason", "by hand")
        at_once(
            [
                lambda: do("retry", dags["job_failed"]),
                lambda: do(*force),
                lambda: do(*reject, "--yes"),
            ]
        )
        wait_until(lambda: told("queue_without_workers", over=True), timeout=60)
        do("retry", dags["window_expired"])
        wait_until(lambda: told(*ends, over=True), timeout=90)
        beat.send(signal.SIGSTOP)
        wait_until(lambda: told("scheduler_silent"), timeout=60)
        beat.send(signal.SIGCONT)
        wait_until(lambda: told("scheduler_silent", over=True), timeout=60)

        with reading(engine) as connection:
            rows = connection.execute(select(alerts)).all()
        assert sorted(row.kind for row in rows) == sorted(AlertKind)
        # What was told of it first; when it goes on, it leads a moment before its first tick.
        first = {AlertKind.SCHEDULER_SILENT: "no scheduler is at work"}
        said = [
            f"{row.severity.capitalize()}: {first.get(AlertKind(row.kind), row.summary)}"
            for row in rows
        ]
        said += [f"Over: {row.summary}" for row in rows if row.resolved_at is not None]
        assert len(said) == 2 * len(AlertKind) - 1

        def arrived() -> list[list[str]]:
            posts = [(each["title"], each["message"]) for each in recipients.posts]
            return [each_of(posts), each_of(recipients.mails)]

        wait_until(lambda: min(map(len, arrived())) >= len(said), message=lambda: str(arrived()))
        for titles in arrived():
            assert Counter(titles) == Counter(said)
        assert set(recipients.asked) == {"/ping"}
        web.send(signal.SIGTERM)
        assert web.wait(60) == 0
        assert TOKEN not in web.output()
    for process in processes:
        process.kill()
    engine.dispose()


def ended(engine: Engine) -> list[Any]:
    """Return the attempts that have failed or expired, of jobs."""
    wanted = job_executions.c.status.in_([JobStatus.FAILED, JobStatus.EXPIRED])
    with reading(engine) as connection:
        return list(connection.execute(select(job_executions).where(wanted)))


def each_of(messages: list[tuple[str, str]]) -> list[str]:
    """Return the titles of messages, also of those that came in one."""
    titles = []
    for title, body in messages:
        many = re.findall(r"(?m)^- (.*?)\r?$", body) if " messages: " in title else []
        titles += many or [title]
    return titles
