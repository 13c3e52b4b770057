"""``/metrics``: what it says is what is, and what can not be read takes nothing else away."""

from __future__ import annotations

import contextlib
import json
import math
import signal
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psutil
import pytest
import redis
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from prometheus.bootstrap import make_celery
from prometheus.core.market_state import MarketState, describe_market
from prometheus.core.overrides import Override, OverrideKind
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch import figures
from prometheus.dispatch.names import LEADERSHIP
from prometheus.dispatch.publisher import Publisher
from prometheus.monitoring.alerts.watching import Watcher
from prometheus.monitoring.app import create_app
from prometheus.monitoring.metrics import CELERY_GAUGES, GAUGES, KEPT_COUNTS, KEPT_TIMES
from prometheus.monitoring.tally import COUNTS, TIMES
from prometheus.orchestration.alerts import AlertKind, Cause, Raise, Severity
from prometheus.orchestration.dag import JobPriority
from prometheus.orchestration.deadlines import Deadline
from prometheus.orchestration.planning import SessionRange
from prometheus.persistence import alerts, executions, leases, migrate, pauses, runs
from prometheus.persistence.clock import start_replay
from prometheus.persistence.engine import create_engine, writing
from prometheus.persistence.overrides import record
from prometheus.persistence.tables import alert_deliveries
from prometheus.release import release
from prometheus.settings import load_settings
from tests.integration.monitoring.conftest import SECRET, Web, served
from tests.integration.persistence.world import HOUR, MINUTE, World, dag_of, job
from tests.servers import PostgresServer, RedisServer, wait_until

DAY_SECONDS = 86_400
MARKETS = ("US_EQ", "EU_EQ", "ASIA_EQ")
DESK = f"json://127.0.0.1:1/{SECRET}"
"""A channel that accepts nothing."""
OPENMETRICS = "application/openmetrics-text"

Samples = dict[str, dict[frozenset[str], float]]
"""Name, ours without its prefix -> the values of its labels, in any order -> value."""


@pytest.fixture
def working(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Web]:
    """An installation of which everything works, on SQLite and on PostgreSQL."""
    lead(database_url)
    with serve(tmp_path, DATABASE__URL=database_url, BROKER__URL=redis_url) as web:
        yield web


def serve(folder: Path, **given: str) -> contextlib.AbstractContextManager[Web]:
    # A leader is silent after three of them: long, so that a slow machine does not matter.
    given = {
        "SCHEDULER__LEASE": "10m",
        "WORKERS__CONCURRENCY": "2",
        "CHANNELS__DESK": DESK,
        **given,
    }
    variables = {f"PROMETHEUS__{name}": value for name, value in given.items()}
    return served(create_app(load_settings(variables, folder)))


def lead(url: str, *, ticked: timedelta = timedelta(0), lease: timedelta = HOUR) -> datetime:
    """Lead as somebody else, whose last tick was some time ago; return when that was."""
    engine = create_engine(url)
    with writing(engine) as connection:
        leases.lead(connection, LEADERSHIP, "there:7:x", lease=lease)
        at = leases.wall_time(connection) - ticked
        leases.lead(connection, LEADERSHIP, "there:7:x", lease=lease, ticked_at=at)
    engine.dispose()
    return at


def scrape(web: Web, *, timeout: float = 60) -> Samples:
    """Scrape once, as a Prometheus server with this timeout; there always is an answer."""
    answer = web.ask("/metrics", headers={"X-Prometheus-Scrape-Timeout-Seconds": str(timeout)})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return samples(text_string_to_metric_families(answer.text))


def samples(families: Iterable[Metric]) -> Samples:
    found: Samples = {}
    for family in families:
        for sample in family.samples:
            name = sample.name.removeprefix("prometheus_markets_")
            assert name != sample.name or name.startswith("celery_")
            of_name = found.setdefault(name, {})
            labels = frozenset(sample.labels.values())
            assert labels not in of_name, sample
            of_name[labels] = sample.value
    return found


def of(*labels: str) -> frozenset[str]:
    return frozenset(labels)


def components(found: Samples) -> dict[str, float]:
    """Component -> whether it is up."""
    return {"".join(labels): value for labels, value in found["component_up"].items()}


ALL_UP = {"database": 1, "tables": 1, "scheduler": 1, "broker": 1}


def test_all_is_told_when_all_works(working: Web) -> None:
    found = scrape(working)
    gauges = {gauge.name for gauge in GAUGES} | {f"celery_{gauge.name}" for gauge in CELERY_GAUGES}
    of_times = ("bucket", "sum", "count")
    times = {f"{time.name}_{end}" for time in (*TIMES, *KEPT_TIMES) for end in of_times}
    counts = {count.name for count in (*COUNTS, *KEPT_COUNTS)}
    # No worker is there, nobody has looked for what is wrong, and no run has a deadline.
    untold = {"celery_worker_up", "worker_up", "worker_slots", "worker_busy"}
    untold |= {"alerts_last_look_timestamp_seconds", "deadline_slack_seconds"}
    assert gauges - untold | times | counts | {"build_info"} == set(found)
    assert components(found) == ALL_UP
    assert found["calendar_up"] == {of(name): 1 for name in MARKETS}
    ((build, one),) = found["build_info"].items()
    assert one == 1
    assert {release() or "", migrate.head()} < build
    # Revision, the moment, open runs, what has ended, workers, loads and what they run, what waits
    # and is not paused, open work, alerts; SQLite asks for the table first.
    assert len(working.statements) <= 10


def test_each_format_is_given_to_who_asks_for_it(working: Web) -> None:
    # As the Prometheus server asks.
    asked = f"{OPENMETRICS};version=1.0.0,{OPENMETRICS};version=0.0.1;q=0.75,text/plain;q=0.5"
    answer = working.ask("/metrics", headers={"Accept": asked})
    assert answer.headers["content-type"].startswith(f"{OPENMETRICS}; version=1.0.0")
    parsed = openmetrics.text_string_to_metric_families(answer.text)  # type: ignore[no-untyped-call]
    families: list[Metric] = list(parsed)
    assert set(samples(families)) == set(scrape(working))
    units = {family.name: family.unit for family in families}
    assert units["prometheus_markets_queue_oldest_seconds"] == "seconds"
    for accepted in ("", "*/*", "text/plain;version=no-number", "text/html"):
        answer = working.ask("/metrics", headers={"Accept": accepted})
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_runs_and_queues_under_way(working: Web, world: World) -> None:
    dag = world.run(job("a"), job("b"), job("c"), job("d", max_retries=1), job("e", "d"))
    worker = world.worker()
    world.worker(lease=-HOUR, name="silent@h")
    world.claim(world.starts(dag, "a", "b"))
    world.running(dag, "c", worker)
    world.fail(world.running(dag, "d", worker))
    for execution_id in (world.ids(dag)[name] for name in "ab"):
        world.change(execution_id, scheduled_at=world.now() - HOUR)
    done = world.run(job("a"), pipeline="done")
    world.finish(done, worker, "a")

    found = scrape(working)
    of_run = {labels: value for labels, value in found["executions"].items() if "test" in labels}
    assert of_run == {
        of("US_EQ", "test", "PENDING"): 1,
        of("US_EQ", "test", "QUEUED"): 3,
        of("US_EQ", "test", "RUNNING"): 1,
    }
    # All its executions have ended, and it is open until the next tick.
    assert found["open_runs"][of("US_EQ", "done")] == 1
    assert found["open_runs"][of("US_EQ", "test")] == 1
    assert found["open_runs"][of("EU_EQ", "daily")] == 0
    assert found["executions"][of("US_EQ", "done", "RUNNING")] == 0
    us, eu = (
        {
            next(iter(labels - {queue})): value
            for labels, value in found["queue_executions"].items()
            if queue in labels
        }
        for queue in ("US_EQ", "EU_EQ")
    )
    assert us == {"waiting": 2, "paused": 0, "delayed": 1, "running": 1}
    assert eu == {"waiting": 0, "paused": 0, "delayed": 0, "running": 0}
    assert 3600 <= found["queue_oldest_seconds"][of("US_EQ")] < 7200
    assert found["queue_oldest_seconds"][of("EU_EQ")] == 0
    assert found["workers"][of("US_EQ", "alive")] == 1
    assert found["workers"][of("US_EQ", "silent")] == 1
    assert found["workers"][of("EU_EQ", "alive")] == 0
    # Three that are due or run, by two a worker; and one where nothing is.
    assert found["desired_workers"] == {of("US_EQ"): 2, of("EU_EQ"): 1, of("ASIA_EQ"): 1}

    world.close(done)
    assert of("US_EQ", "done") not in scrape(working)["open_runs"]


def test_what_a_worker_takes_is_not_guessed(web: Web, world: World) -> None:
    world.worker()
    found = scrape(web)
    assert "desired_workers" not in found
    assert found["workers"][of("US_EQ", "alive")] == 1


def test_messages_of_every_priority_are_counted(
    working: Web, world: World, database_url: str, redis_url: str
) -> None:
    dag = world.run(
        job("a", priority=JobPriority.CRITICAL),
        job("b", priority=JobPriority.STANDARD),
        job("c", priority=JobPriority.OPTIONAL),
        job("d"),
    )
    messages = world.claim(world.starts(dag))
    messages[-1] = replace(messages[-1], trigger="catch_up")
    variables = {"DATABASE__URL": database_url, "BROKER__URL": redis_url}
    settings = load_settings({f"PROMETHEUS__{name}": each for name, each in variables.items()})
    app = make_celery(settings)
    try:
        Publisher(app).publish(messages)
        Publisher(app).send_canaries(["US_EQ", "EU_EQ"])
    finally:
        app.close()
    assert scrape(working)["queue_messages"] == {of("US_EQ"): 5, of("EU_EQ"): 1, of("ASIA_EQ"): 0}


def test_a_scheduler_that_leads_stands_still_or_has_stopped(web: Web, database_url: str) -> None:
    found = scrape(web)
    assert found["scheduler_leader"] == {of(): 0}
    assert "scheduler_epoch" not in found
    assert "scheduler_last_tick_timestamp_seconds" not in found
    assert components(found)["scheduler"] == 0

    at = lead(database_url)
    found = scrape(web)
    assert found["scheduler_leader"] == found["scheduler_epoch"] == {of(): 1}
    (ticked,) = found["scheduler_last_tick_timestamp_seconds"].values()
    assert math.isclose(ticked, at.timestamp(), rel_tol=0, abs_tol=1e-3)

    lead(database_url, ticked=2 * HOUR)
    found = scrape(web)
    assert found["scheduler_leader"] == {of(): 1}
    assert components(found)["scheduler"] == 0

    lead(database_url, lease=-HOUR)
    found = scrape(web)
    assert found["scheduler_leader"] == {of(): 0}
    assert found["scheduler_epoch"] == {of(): 1}
    assert components(found)["scheduler"] == 0


def test_schedulers_that_stand_by_count_while_they_are_heard(web: Web, world: World) -> None:
    assert scrape(web)["scheduler_standbys"] == {of(): 0}
    with writing(world.engine) as connection:
        leases.stand_by(connection, "there:8:x", lease=HOUR)
        leases.stand_by(connection, "there:9:x", lease=-HOUR / 2)
    assert scrape(web)["scheduler_standbys"] == {of(): 1}


def test_what_schedulers_did_is_told_of_all_of_them(web: Web, database_url: str) -> None:
    engine = create_engine(database_url)
    did: dict[str, int] = defaultdict(int, sent=7, claimed=3)
    for seconds in (0.01, 0.02, 0.2, 45):
        figures.note_tick(did, seconds)
    with writing(engine) as connection:
        leases.lead(connection, LEADERSHIP, "there:7:x", lease=-HOUR)
        leases.lead(connection, LEADERSHIP, "there:7:x", lease=-HOUR, figures=did)
        leases.lead(connection, LEADERSHIP, "here:8:y", lease=HOUR)  # has completed nothing yet
    engine.dispose()
    found = scrape(web)
    acts = {"".join(labels): value for labels, value in found["scheduler_executions_total"].items()}
    assert acts == {"claimed": 3, "lost_claims": 0, "sent": 7, "rung": 0, "rescued": 0}
    assert found["scheduler_tick_seconds_count"] == {of(): 4}
    assert found["scheduler_tick_seconds_sum"] == {of(): 45.23}
    buckets = {"".join(le): value for le, value in found["scheduler_tick_seconds_bucket"].items()}
    assert [buckets[le] for le in ("0.01", "0.03", "0.1", "0.3", "30.0", "+Inf")] == [
        1,
        2,
        2,
        3,
        3,
        4,
    ]


def test_each_worker_says_how_much_it_can_run_and_does(web: Web, world: World) -> None:
    dag = world.run(job("a"), job("b"), job("c"))
    busy, earlier = world.worker(name="busy@h", slots=4), world.worker(name="earlier@h")
    for name in ("a", "b"):
        world.running(dag, name, busy)
    world.running(dag, "c", earlier)
    world.worker(name="idle@h", slots=2)
    world.worker(name="silent@h", slots=2, lease=-HOUR)
    found = scrape(web)
    up = {of("busy@h"): 1, of("earlier@h"): 1, of("idle@h"): 1, of("silent@h"): 0}
    assert found["worker_up"] == up
    assert found["worker_slots"] == {of("busy@h"): 4, of("idle@h"): 2}
    assert found["worker_busy"] == {of("busy@h"): 2, of("earlier@h"): 1, of("idle@h"): 0}


def test_what_an_operator_keeps_from_starting(working: Web, world: World) -> None:
    first, second = world.run(job("a"), job("b")), world.run(job("a"), job("b"), pipeline="other")
    worker = world.worker()
    world.running(first, "a", worker)

    def told(name: str, pipeline: str) -> float:
        return scrape(working)[name][of("US_EQ", pipeline)]

    assert (told("paused", "test"), told("executions_held", "test")) == (0, 0)
    with writing(world.engine) as connection:
        pauses.hold(connection, second.dag_id, "b", reason="r", actor="ann@desk")
    # One job of a run: its pipeline goes on.
    assert (told("paused", "other"), told("executions_held", "other")) == (0, 1)
    with writing(world.engine) as connection:
        pauses.pause(connection, market_id="US_EQ", reason="r", actor="ann@desk")
    # What runs goes on.
    assert (told("paused", "test"), told("executions_held", "test")) == (1, 1)
    assert (told("paused", "other"), told("executions_held", "other")) == (1, 2)
    assert scrape(working)["paused"][of("EU_EQ", "daily")] == 0
    with writing(world.engine) as connection:
        pauses.resume(connection, market_id="US_EQ", actor="ann@desk")
    assert (told("paused", "test"), told("executions_held", "test")) == (0, 0)


def test_a_pipeline_that_is_paused_hides_nothing_of_its_queue(working: Web, world: World) -> None:
    def due(pipeline: str, *names: str, ago: timedelta) -> None:
        dag = world.run(*map(job, names), pipeline=pipeline)
        world.claim(world.starts(dag, *names))
        for name in names:
            world.change(world.ids(dag)[name], scheduled_at=world.now() - ago)

    def told() -> tuple[float, float, float]:
        found = scrape(working)
        queued = found["queue_executions"]
        return (
            queued[of("US_EQ", "waiting")],
            queued[of("US_EQ", "paused")],
            found["queue_oldest_seconds"][of("US_EQ")] // HOUR.total_seconds(),
        )

    due("daily", "a", "b", ago=5 * HOUR)
    due("other", "a", ago=2 * HOUR)
    assert told() == (3, 0, 5)
    with writing(world.engine) as connection:
        runs.first_seen(connection, "daily", "US_EQ", "every session", world.now())
        pauses.pause(connection, market_id="US_EQ", pipeline="daily", reason="r", actor="ann")
    assert told() == (1, 2, 2)
    with writing(world.engine) as connection:
        pauses.pause(connection, market_id="US_EQ", reason="r", actor="ann")
    assert told() == (0, 3, 0)


def test_messages_of_alerts_that_reach_nobody(working: Web, world: World) -> None:
    found = scrape(working)
    assert set(found["open_alerts"].values()) == {0}
    ended = {of("desk", result): 0 for result in ("sent", "given_up", "replaced")}
    assert found["alert_deliveries_total"] == ended
    nothing = {of("desk", "waiting"): 0, of("desk", "given_up"): 0}
    assert found["alert_messages"] == nothing
    assert found["alert_messages_oldest_seconds"] == {of("desk"): 0}

    watcher = Watcher(working.app.state.installation)
    dag = world.run(job("a", max_retries=0))
    world.fail_for_good(dag, "a", world.worker(lease=24 * HOUR))
    now = world.now()
    for at in (now, now + MINUTE):  # the second notes the first
        assert watcher.look(at)
        watcher.wait_for_sending()
    found = scrape(working)
    told = {labels: number for labels, number in found["open_alerts"].items() if number}
    assert told == {of("job_failed", "error", "new"): 1}
    assert found["alert_messages"] == nothing | {of("desk", "waiting"): 1}
    (looked_at,) = found["alerts_last_look_timestamp_seconds"].values()
    assert math.isclose(looked_at, now.timestamp(), rel_tol=0, abs_tol=1e-3)
    with writing(world.engine) as connection:
        connection.execute(update(alert_deliveries).values(created_at=now - HOUR))
    assert 3600 <= scrape(working)["alert_messages_oldest_seconds"][of("desk")] < 7200

    assert watcher.look(now + 13 * HOUR)
    watcher.wait_for_sending()
    found = scrape(working)
    assert found["alert_messages"] == nothing | {of("desk", "given_up"): 1}
    assert found["alert_messages_oldest_seconds"] == {of("desk"): 0}
    assert found["alert_deliveries_total"] == ended | {of("desk", "given_up"): 1}
    watcher.close()
    with writing(world.engine) as connection:
        alerts.acknowledge(connection, 1, actor="ada", reason="seen on the page")
    found = scrape(working)
    assert found["alert_messages"] == nothing
    told = {labels: number for labels, number in found["open_alerts"].items() if number}
    assert told == {of("job_failed", "error", "acknowledged"): 1}
    assert found["alert_deliveries_total"] == ended | {of("desk", "given_up"): 1}


def raise_alerts(world: World, *of_kinds: tuple[AlertKind, tuple[str, ...], str | None]) -> None:
    """Raise alerts of kinds, as the watcher does: of these markets, and of a pipeline."""
    now = world.now()
    causes = [
        Cause(
            key=f"{kind}:{number}",
            kind=kind,
            severity=Severity.WARNING,
            summary="something",
            since=now,
            markets=markets,
            pipeline=pipeline,
        )
        for number, (kind, markets, pipeline) in enumerate(of_kinds)
    ]
    with writing(world.engine) as connection:
        alerts.apply_changes(connection, map(Raise, causes), now, lambda *_: ())


def test_what_is_late_and_what_feeds_say(working: Web, world: World) -> None:
    found = scrape(working)
    assert found["runs_late"][of("US_EQ", "daily")] == 0
    assert found["feed_disagreements"] == {of(name): 0 for name in MARKETS}
    assert found["deadline_missed_total"][of("EU_EQ", "daily")] == 0
    raise_alerts(
        world,
        (AlertKind.RUN_LATE, ("US_EQ",), "daily"),
        (AlertKind.RUN_LATE, ("US_EQ",), "daily"),
        (AlertKind.FEED_DISAGREEMENT, ("US_EQ", "XNYS"), None),
        (AlertKind.DEADLINE_MISSED, ("EU_EQ",), "daily"),
    )
    for _ in range(2):
        found = scrape(working)
        assert found["runs_late"][of("US_EQ", "daily")] == 2
        assert found["runs_late"][of("EU_EQ", "daily")] == 0
        assert found["feed_disagreements"] == {of(name): int(name == "US_EQ") for name in MARKETS}
        assert found["deadline_missed_total"][of("EU_EQ", "daily")] == 1
        assert found["deadline_missed_total"][of("US_EQ", "daily")] == 0
        told = {labels: number for labels, number in found["open_alerts"].items() if number}
        assert told == {
            of("run_late", "warning", "new"): 2,
            of("feed_disagreement", "warning", "new"): 1,
            of("deadline_missed", "warning", "new"): 1,
        }


def test_how_long_a_deadline_is_away(working: Web, world: World) -> None:
    calendar, day = TradingCalendar("US_EQ"), world.now().date() + timedelta(days=9)
    coming = next(
        each
        for each in (day + timedelta(days=more) for more in range(9))
        if calendar.is_trading_day(each)
    )
    worker = world.worker()
    world.run(job("a"), pipeline="later", day=coming, deadline="close+4h")
    late = world.run(
        job("a", deadline=Deadline.parse("close+1h")),
        job("b"),
        deadline="close+4h",
        pipeline="late",
    )
    found = scrape(working)["deadline_slack_seconds"]
    assert set(found) == {of("US_EQ", "later"), of("US_EQ", "late")}
    assert 8 * DAY_SECONDS < found[of("US_EQ", "later")] < 20 * DAY_SECONDS
    # The first of its two: of 2 December 2025, 17:00 in New York.
    at = datetime(2025, 12, 2, 22, tzinfo=UTC)
    ago = (world.now() - at).total_seconds()
    assert math.isclose(found[of("US_EQ", "late")], -ago, abs_tol=60)
    world.finish(late, worker, "a")
    found = scrape(working)["deadline_slack_seconds"]
    assert math.isclose(found[of("US_EQ", "late")], 3 * 3600 - ago, abs_tol=60)
    world.finish(late, worker, "b")
    assert of("US_EQ", "late") not in scrape(working)["deadline_slack_seconds"]


def test_what_no_worker_can_have_heard_of(working: Web, world: World) -> None:
    dag = world.run(job("a"), job("b"), job("c"))
    world.claim(world.starts(dag))
    ids = world.ids(dag)
    for name in "ab":
        world.change(ids[name], scheduled_at=world.now() - HOUR)
    world.change(ids["c"], scheduled_at=world.now() + HOUR)  # not yet
    with writing(world.engine) as connection:
        executions.mark_published(connection, [ids["a"]])
    found = scrape(working)
    assert found["outbox_pending"] == {of(name): int(name == "US_EQ") for name in MARKETS}
    assert 3600 <= found["outbox_oldest_seconds"][of("US_EQ")] < 7200
    with writing(world.engine) as connection:
        pauses.pause(connection, market_id="US_EQ", reason="r", actor="ann")
    found = scrape(working)
    assert found["outbox_pending"][of("US_EQ")] == 0
    assert found["outbox_oldest_seconds"][of("US_EQ")] == 0


def test_calendars_say_state_transition_and_horizon(working: Web) -> None:
    found = scrape(working)
    (seconds,) = found["market_time_timestamp_seconds"].values()
    at = datetime.fromtimestamp(seconds, UTC)
    for market_id in MARKETS:
        status = describe_market(market_id, at)
        states = {state: found["market_state"][of(market_id, state)] for state in MarketState}
        assert states == {state: state is status.state for state in MarketState}
        assert status.next_transition is not None
        transition = found["market_next_transition_timestamp_seconds"][of(market_id)]
        assert transition == status.next_transition.at.timestamp()
        left = TradingCalendar(market_id).horizon - at.date()
        assert found["calendar_horizon_seconds"][of(market_id)] == left.days * DAY_SECONDS
        assert found["calendar_overrides"][of(market_id, "in_force")] == 0


def stand(world: World, at: datetime) -> None:
    """Let market time stand at an instant, as in a replay."""
    with writing(world.engine) as connection:
        only = SessionRange(date(2012, 11, 21), date(2012, 11, 23))
        start_replay(connection, market_at=at, speed=0, only=only, markets=["US_EQ"])


def close(world: World, override_id: int, session: date) -> None:
    """Record that New York has no session."""
    override = Override(
        override_id=override_id,
        exchange="XNYS",
        session=session,
        kind=OverrideKind.CLOSED,
        reason="a storm",
        source="s",
        announced_at=datetime(2012, 11, 20, tzinfo=UTC),
        author="ada",
    )
    with writing(world.engine) as connection:
        record(connection, override)


def test_a_replay_is_told_by_its_own_clock_and_markets(working: Web, world: World) -> None:
    at = datetime(2012, 11, 23, 17, 30, tzinfo=UTC)
    stand(world, at)
    found = scrape(working)
    assert found["market_time_timestamp_seconds"] == {of(): at.timestamp()}
    assert found["market_state"][of("US_EQ", "SESSION")] == 1
    assert found["calendar_up"] == {of("US_EQ"): 1}
    closes_early = datetime(2012, 11, 23, 18, 0, tzinfo=UTC).timestamp()
    assert found["market_next_transition_timestamp_seconds"] == {of("US_EQ"): closes_early}
    assert set(found["queue_messages"]) == {of("US_EQ")}


def test_overrides_to_come_are_counted_and_followed(working: Web, world: World) -> None:
    stand(world, datetime(2012, 11, 23, 17, 30, tzinfo=UTC))
    close(world, 1, date(2012, 11, 23))
    close(world, 2, date(2012, 11, 21))
    found = scrape(working)
    assert found["calendar_overrides"] == {
        of("US_EQ", "in_force"): 1,
        of("US_EQ", "unreadable"): 0,
    }


def test_one_broken_calendar_takes_nothing_from_the_others(
    working: Web, break_sessions: Callable[[str], None]
) -> None:
    break_sessions("XPAR")
    found = scrape(working)
    assert found["calendar_up"] == {of("US_EQ"): 1, of("EU_EQ"): 0, of("ASIA_EQ"): 1}
    assert set(found["calendar_horizon_seconds"]) == {of("US_EQ"), of("ASIA_EQ")}
    assert {labels & set(MARKETS) for labels in found["market_state"]} == {
        of("US_EQ"),
        of("ASIA_EQ"),
    }
    assert components(found) == ALL_UP


def test_a_calendar_that_has_ended_says_so(working: Web, world: World) -> None:
    horizon = TradingCalendar("US_EQ").horizon
    stand(world, datetime(horizon.year, horizon.month, horizon.day, tzinfo=UTC) + 48 * HOUR)
    found = scrape(working)
    assert found["calendar_up"] == {of("US_EQ"): 0}
    assert found["calendar_horizon_seconds"] == {of("US_EQ"): -2 * DAY_SECONDS}
    assert "market_state" not in found


def test_redis_that_is_away_takes_nothing_else_away(
    database_url: str, spare_redis: RedisServer, tmp_path: Path
) -> None:
    lead(database_url)
    with serve(tmp_path, DATABASE__URL=database_url, BROKER__URL=spare_redis.url) as web:
        everything = set(scrape(web))
        spare_redis.stop()
        found = scrape(web)
        assert components(found) == {**ALL_UP, "broker": 0}
        assert set(found) == everything - {"queue_messages", "celery_queue_length"}
        spare_redis.start()
        assert components(scrape(web)) == ALL_UP


def test_what_is_no_queue_is_told_of_the_broker_only(working: Web, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("US_EQ", "no list")
    found = scrape(working)
    assert components(found) == {**ALL_UP, "broker": 0}
    assert "queue_messages" not in found


OF_THE_DATABASE = {
    *(
        "scheduler_leader",
        "scheduler_standbys",
        "scheduler_epoch",
        "scheduler_last_tick_timestamp_seconds",
    ),
    *("workers", "desired_workers", "queue_executions", "queue_oldest_seconds"),
    *("open_runs", "executions", "executions_held", "paused"),
    *("open_alerts", "alert_messages", "alert_messages_oldest_seconds"),
    *("outbox_pending", "outbox_oldest_seconds", "runs_late", "feed_disagreements"),
    "celery_active_worker_count",
    *("scheduler_executions_total", "scheduler_tick_seconds_bucket"),
    *("scheduler_tick_seconds_sum", "scheduler_tick_seconds_count"),
}


def test_a_database_that_is_away_takes_only_what_is_in_it(
    spare_postgres: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    url = spare_postgres.url(spare_postgres.create_database())
    migrate.upgrade(url)
    lead(url)
    with serve(tmp_path, DATABASE__URL=url, BROKER__URL=redis_url) as web:
        everything = set(scrape(web))
        spare_postgres.stop()
        found = scrape(web)
        assert components(found) == {"database": 0, "broker": 1}
        assert everything - set(found) == OF_THE_DATABASE
        assert found["calendar_up"] == {of(name): 1 for name in MARKETS}
        spare_postgres.start()
        assert components(scrape(web)) == ALL_UP


def test_a_replay_goes_on_by_its_clock_while_its_database_is_away(
    spare_postgres: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    url = spare_postgres.url(spare_postgres.create_database())
    migrate.upgrade(url)
    engine = create_engine(url)
    at = datetime(2012, 11, 23, 17, 30, tzinfo=UTC)
    stand(World(engine), at)
    close(World(engine), 1, date(2012, 11, 23))
    engine.dispose()
    with serve(tmp_path, DATABASE__URL=url, BROKER__URL=redis_url) as web:
        before = scrape(web)
        spare_postgres.stop()
        found = scrape(web)
        for name in (
            "market_time_timestamp_seconds",
            "market_state",
            "calendar_overrides",
            "calendar_up",
        ):
            assert found[name] == before[name]


@contextlib.contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Stop processes as a machine that hangs does: connections stay, and nobody answers."""
    processes = [psutil.Process(pid) for pid in pids]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def test_a_database_that_never_answers_is_not_waited_for(
    spare_postgres: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    url = spare_postgres.url(spare_postgres.create_database())
    migrate.upgrade(url)
    lead(url)
    with serve(tmp_path, DATABASE__URL=url, BROKER__URL=redis_url) as web:
        assert components(scrape(web)) == ALL_UP
        children = psutil.Process(spare_postgres.pid).children(recursive=True)
        with frozen(spare_postgres.pid, *(child.pid for child in children)):
            # However many ask: one of them waits for it, and one to know who asks.
            with ThreadPoolExecutor(4) as pool:
                several = list(pool.map(lambda _: scrape(web, timeout=4), range(8)))
            assert {components(found)["database"] for found in several} == {0}
            pool_of_web = web.app.state.installation.engine.pool
            assert pool_of_web.checkedout() <= 2
        wait_until(lambda: components(scrape(web)) == ALL_UP, timeout=60)


def test_redis_that_never_answers_is_not_waited_for(
    sqlite_url: str, spare_redis: RedisServer, tmp_path: Path
) -> None:
    lead(sqlite_url)
    with serve(tmp_path, DATABASE__URL=sqlite_url, BROKER__URL=spare_redis.url) as web:
        with frozen(spare_redis.pid):
            assert components(scrape(web, timeout=4))["broker"] == 0
        wait_until(lambda: components(scrape(web)) == ALL_UP, timeout=60)


def test_tables_of_another_release_are_told(
    empty_database_url: str, redis_url: str, tmp_path: Path
) -> None:
    if empty_database_url.startswith("sqlite"):
        Path(empty_database_url.removeprefix("sqlite:///")).touch()
    with serve(tmp_path, DATABASE__URL=empty_database_url, BROKER__URL=redis_url) as web:
        assert components(scrape(web)) == {"database": 1, "tables": 0, "broker": 1}


def test_nothing_at_all_is_told_too(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    url = f"redis://:{SECRET}@127.0.0.1:1/0"
    with serve(tmp_path, DATABASE__URL=f"sqlite:///{path}", BROKER__URL=url) as web:
        found = scrape(web)
    assert components(found) == {"database": 0, "broker": 0}
    assert found["calendar_up"] == {of(name): 1 for name in MARKETS}
    assert not path.exists()


def test_what_nobody_foresaw_takes_nothing_else_away(
    sqlite_url: str, redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine(sqlite_url)
    World(engine).worker()
    with writing(engine) as connection:
        connection.exec_driver_sql("UPDATE worker_incarnations SET queues = 'no list'")
    engine.dispose()
    with serve(tmp_path, DATABASE__URL=sqlite_url, BROKER__URL=redis_url) as web:
        assert components(scrape(web)) == {"database": 0, "broker": 1}
    (logged,) = (each for each in caplog.records if each.message == "metrics_incomplete")
    assert logged.exc_info is not None
    assert logged.exc_info[0] is json.JSONDecodeError


def test_scrapes_at_once_say_the_same(working: Web, world: World) -> None:
    dag = world.run(job("a"), job("b"))
    world.running(dag, "a", world.worker())
    with ThreadPoolExecutor(8) as pool:
        several = list(pool.map(lambda _: scrape(working), range(16)))
    for found in several:
        assert components(found) == ALL_UP
        assert found["executions"][of("US_EQ", "test", "RUNNING")] == 1
        assert found["executions"][of("US_EQ", "test", "PENDING")] == 1


def test_components_are_those_of_readyz(working: Web, database_url: str) -> None:
    def readiness() -> dict[str, float]:
        checks = working.ask("/readyz").json()["checks"]
        return {each["name"].removeprefix("calendar "): each["ok"] for each in checks}

    for lease in (HOUR, -HOUR):
        lead(database_url, lease=lease)
        found = scrape(working)
        calendars = {"".join(labels): value for labels, value in found["calendar_up"].items()}
        assert components(found) | calendars == readiness()


def test_no_label_is_of_a_single_run(working: Web, world: World) -> None:
    dag = world.run(job("a_job_of_its_own"))
    world.running(dag, "a_job_of_its_own", world.worker())
    answer = working.ask("/metrics").text
    assert dag_of(job("a")).dag_id not in answer
    assert "a_job_of_its_own" not in answer
    assert "there:7" not in answer
