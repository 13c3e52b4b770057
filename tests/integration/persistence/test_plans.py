"""The statements of every tick use indexes, however many finished executions there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from prometheus.orchestration.dag import DAG
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.windows import Window
from prometheus.persistence import (
    alerts,
    deadlines,
    endings,
    executions,
    leases,
    listings,
    progress,
    reasons,
    runs,
    troubles,
)
from prometheus.persistence.changes import read_changes
from prometheus.persistence.clock import read_now
from prometheus.persistence.engine import create_engine, writing
from prometheus.persistence.glance import glance
from prometheus.persistence.overrides import refresh
from tests.integration.persistence.world import BOOM, DAY, World, job

RUNS = 4000
"""Finished runs of nine jobs each: five years of three markets."""
OLD_RUNS = """
    INSERT INTO dag_runs (dag_id, pipeline, market_id, as_of_date, status, forced, trigger,
        definition, definition_hash, parameters, calendar_version, opens_at, completed_at)
    SELECT 'us_eq_old_' || n, 'old', 'US_EQ', date '2000-01-01' + n, 'SUCCESS', false, 'schedule',
        '{}', 'x', '{}', '1', now(), now()
    FROM generate_series(1, :runs) AS n
"""
OLD_EXECUTIONS = """
    INSERT INTO job_executions (execution_id, dag_id, job_id, job_type, market_id, as_of_date,
        status, attempt_number, retries, lost, queue, priority, forced, timeout_seconds,
        publish_count, scheduled_at, published_at, started_at, completed_at)
    SELECT gen_random_uuid()::text, 'us_eq_old_' || n, 'j' || j, 'j' || j, 'US_EQ',
        date '2000-01-01' + n, 'SUCCESS', 1, 0, 0, 'US_EQ', 2, false, 3600, 1,
        now() - interval '1 year', now() - interval '1 year', now(), now() - interval '1 year'
    FROM generate_series(1, :runs) AS n, generate_series(1, 9) AS j
"""
ALERTS = 4000
"""Those that are over."""
WHY = reasons.Installation(
    markets=["US_EQ"], leadership="beat", silent_after=timedelta(seconds=30), makes_runs=True
)


@contextmanager
def statements(connection: Connection) -> Iterator[list[tuple[str, Any]]]:
    """Collect the statements that are sent on a connection, with their parameters."""
    found: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().startswith(("SELECT", "UPDATE", "WITH")):
            found.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(connection, "before_cursor_execute", note)


def _plan(connection: Connection, statement: str, parameters: Any) -> str:
    return "\n".join(connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())


def _make_old(world: World) -> None:
    with writing(world.engine) as connection:
        connection.execute(text(OLD_RUNS), {"runs": RUNS})
        connection.execute(text(OLD_EXECUTIONS), {"runs": RUNS})


def _analyze(world: World) -> None:
    with world.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")


@pytest.fixture
def crowded(postgresql_url: str) -> Iterator[tuple[World, DAG]]:
    """Many finished runs, and one open run whose jobs are in every unfinished state."""
    world = World(create_engine(postgresql_url))
    _make_old(world)
    with writing(world.engine) as connection:
        connection.execute(
            text(
                """
                INSERT INTO worker_incarnations (incarnation, worker, host, pid, queues, expires_at,
                    ended_at)
                SELECT gen_random_uuid()::text, 'w@h', 'h', 1, '["US_EQ"]', now(), now()
                FROM generate_series(1, 5000)
                """
            )
        )
        connection.execute(
            text(
                """
                INSERT INTO alerts (key, kind, severity, markets, summary, details, subjects, since,
                    raised_at, times, resolved_at, told, told_at, told_subjects)
                SELECT n, 'job_failed', 'error', '["US_EQ"]', 'it failed', '[]', '["j1"]', now(),
                    now(), 1, now() - interval '1 year', 'resolved', now(), '["j1"]'
                FROM generate_series(1, :alerts) AS n
                """
            ),
            {"alerts": ALERTS},
        )
    dag = world.run(*(job(name) for name in "abcdef"), job("g", "f"), deadline="close+4h")
    worker = world.worker()
    world.running(dag, "a", worker)
    world.claim(world.starts(dag, "b", "c"))
    with writing(world.engine) as connection:
        executions.mark_published(connection, [world.ids(dag)["c"]])
    _analyze(world)
    yield world, dag
    world.engine.dispose()


def actions(world: World, dag: DAG) -> dict[str, Callable[[Connection], object]]:
    """What the scheduler, the workers, who scrapes metrics and who looks on do all the time."""
    ids, now = world.ids(dag), world.now()
    starts = world.starts(dag, "d", "e")
    worker = world.worker()
    hour = timedelta(hours=1)
    return {
        "open runs": lambda c: runs.read_open_runs(c, lambda _: "us_eq_old_5"),
        "one open run": lambda c: runs.read_open_runs(c, lambda _: None, dag_id=dag.dag_id),
        "what follows a job": lambda c: runs.read_following(c, dag, ["g"], lambda _: None),
        "what else is waited for": lambda c: runs.unfinished_beside(c, dag.dag_id, "f", ["e"]),
        "whether any is live": lambda c: runs.any_live(c, dag.dag_id),
        "that none is live": lambda c: runs.any_live(c, "no run"),
        "claim": lambda c: executions.claim(c, starts, read_now(c)),
        "start": lambda c: executions.start(c, ids["b"], worker="w@h", incarnation=worker),
        "start like another": lambda c: [
            executions.try_start(c, ids["b"], worker="w@h", incarnation=worker, like="plans")
            for _ in range(2)
        ],
        "success": lambda c: executions.succeed(c, ids["b"], incarnation=worker, result=None),
        "success with a claim": lambda c: executions.succeed_and_claim(
            c,
            ids["b"],
            incarnation=worker,
            result=None,
            following=executions.Following(dag, ("d", "e"), starts[0].window, "1", 0),
        ),
        "success beside another": lambda c: executions.succeed_beside(
            c,
            ids["b"],
            incarnation=worker,
            result=None,
            beside=executions.Beside(frozenset({"c"})),
        ),
        "success beside any": lambda c: executions.succeed_beside(
            c, ids["b"], incarnation=worker, result=None, beside=executions.Beside(None)
        ),
        "failure": lambda c: executions.fail(
            c, ids["a"], BOOM, draw_delay=lambda bound: bound, max_lost=3
        ),
        "published": lambda c: executions.mark_published(c, [ids["b"], ids["c"]]),
        "unpublished": lambda c: executions.unpublished(c, now),
        "waiting": lambda c: executions.waiting_in_queue(c, now),
        "news": lambda c: executions.read_news(c, now),
        "glance": lambda c: glance(
            c, now, due_by=now, over_limit_since=now - hour, given_up_since=now - hour
        ),
        "lead": lambda c: leases.lead(c, "beat", "host:7:1", lease=hour),
        "given up": lambda c: leases.given_up(c, hour),
        "untold failures": lambda c: executions.untold_failures(c, ["test"], now - hour),
        "orphans": lambda c: leases.find_orphans(c, now, over_limit_by=hour),
        "lost workers": lambda c: leases.give_up_workers(c, now),
        "live workers": lambda c: leases.live_workers(c, now),
        "renewal": lambda c: leases.renew_worker(c, worker, running=[ids["a"]], lease=hour),
        "skip": lambda c: runs.end_waiting(c, {ids["g"]: "up"}, JobStatus.SKIPPED),
        "expire": lambda c: runs.end_waiting(c, {ids["g"]: "late"}, JobStatus.EXPIRED),
        "close": lambda c: runs.close_run(c, dag.dag_id),
        "answers of sensors": lambda c: executions.results_of(c, dag.dag_id, ["a", "b"]),
        "answers before": lambda c: executions.earlier_results(
            c, executions.Attempt(ids["a"], dag, dag.jobs["a"], 1, {}, worker), 20
        ),
        "queues": lambda c: listings.read_queues(c, now),
        "bustle": lambda c: listings.read_bustle(c, now, most_alerts=50, most_audited=50),
        "open work": listings.read_open_work,
        "open ones": endings.read_open,
        "ended": lambda c: list(endings.read_ended(c, now - timedelta(minutes=1))),
        "ended ones": lambda c: endings.read_attempts(c, list(ids.values())),
        "ended runs": lambda c: endings.read_ended_runs(c, [dag.dag_id]),
        "what jobs wait for": lambda c: endings.read_waits(c, [dag.dag_id]),
        "successes": lambda c: endings.read_successes(c, [dag.dag_id]),
        "deadlines": lambda c: deadlines.read_deadlines(
            c, read_now(c), markets=["US_EQ"], since=now.date()
        ),
        "alerts": lambda c: alerts.read_kept(c, now, timedelta(hours=1)),
        "what is told of alerts": lambda c: alerts.read_watched(c, "alerts", now - hour),
        "loads and what runs": lambda c: listings.read_loads_and_busy(c, now),
        "what is due": lambda c: troubles.waiting_in_queues(c, now),
        "what is late": lambda c: troubles.late_in_queues(c, now),
        "what sensors wait for": troubles.late_sensors,
        "how long a sensor is asked": lambda c: c.execute(
            executions._UNFINISHED, {"of": "no run", "jobs": ["a"]}
        ).all(),
        "of what something ended": lambda c: endings.read_pairs(c, now - timedelta(minutes=1)),
        "changes": lambda c: read_changes(c, now + hour),
        "existing": lambda c: runs.sessions_with_runs(c, "old", "US_EQ", DAY),
        "progress": progress.read_progress,
        "why": lambda c: reasons.read_case(c, dag.dag_id, WHY, refresh),
        "why not yet": why_not_yet,
    }


def why_not_yet(connection: Connection) -> None:
    """Ask for a run of a pipeline that has many, but not of this session."""
    missing = reasons.read_case(connection, f"us_eq_old_{DAY}", WHY, refresh)
    assert isinstance(missing, reasons.NoRun)
    pipeline = Pipeline("old", markets=["US_EQ"])
    reasons.read_unmade(connection, missing, pipeline, "US_EQ", DAY, WHY)


def test_no_statement_of_a_tick_or_a_worker_reads_a_whole_table(
    crowded: tuple[World, DAG],
) -> None:
    world, dag = crowded
    slow: list[str] = []
    looked_at = 0
    for name, act in actions(world, dag).items():
        with world.engine.connect() as connection:
            with statements(connection) as sent:
                act(connection)
            looked_at += len(sent)
            for statement, parameters in sent:
                plan = _plan(connection, statement, parameters)
                if re.search(
                    "Seq Scan on (job_executions|dag_runs|worker_incarnations|alerts)", plan
                ):
                    slow.append(f"{name}: {statement}\n{plan}")
            connection.rollback()
    assert looked_at > len(actions(world, dag))
    assert not slow, "\n\n".join(slow)


def test_a_claim_begins_with_its_ids_also_where_nothing_is_known_of_the_tables(
    postgresql_url: str,
) -> None:
    """As on the first day of a new database: without statistics a table counts as all but empty."""
    world = World(create_engine(postgresql_url))
    jobs = [job(f"j{number}") for number in range(20)]
    dags = [world.run(*jobs, day=DAY + timedelta(days=number)) for number in range(20)]
    starts = world.starts(dags[0])
    with world.engine.connect() as connection:
        with statements(connection) as sent:
            assert len(executions.claim(connection, starts, read_now(connection))) == 20
        [(statement, parameters)] = [each for each in sent if "UPDATE job_executions" in each[0]]
        connection.rollback()
        plan = _plan(connection, statement, parameters)
    assert "pk_job_executions" in plan, plan
    assert not re.search("ix_dag_runs_open|ix_job_executions_status", plan), plan


@pytest.mark.parametrize("known", ["nothing", "that all has ended"])
@pytest.mark.parametrize(
    "what", ["start", "success", "success beside any", "success beside another"]
)
def test_a_start_and_a_success_go_by_keys_whatever_is_known_of_the_tables(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch, what: str, known: str
) -> None:
    """Between two floods nothing is queued or running, and that is when PostgreSQL may count."""
    monkeypatch.setattr(executions, "_alike", {})
    world = World(create_engine(postgresql_url))
    if known != "nothing":
        _make_old(world)
        _analyze(world)
    worker, now = world.worker(), world.now()
    dags = [world.run(job("a"), job("b", "a"), day=DAY + timedelta(days=n)) for n in range(20)]
    for dag in dags[:2]:
        world.claim(world.starts(dag, "a"))
    with world.engine.connect() as connection, statements(connection) as sent:
        for dag in dags[:2]:
            execution_id = world.ids(dag)["a"]
            sent.clear()
            started = executions.try_start(
                connection, execution_id, worker="w@h", incarnation=worker, like="x"
            )
            assert isinstance(started, executions.Started)
        done: executions.Succeeded | None = None
        if what == "success":
            window = Window(now - timedelta(hours=1), now + timedelta(hours=1))
            following = executions.Following(dags[1], ("b",), window, "1", 0)
            sent.clear()
            done = executions.succeed_and_claim(
                connection, execution_id, incarnation=worker, result=None, following=following
            )
            assert done is not None
            assert done.decided
        elif what != "start":
            beside = executions.Beside(None if what == "success beside any" else frozenset("b"))
            sent.clear()
            done = executions.succeed_beside(
                connection,
                execution_id,
                incarnation=worker,
                result=None,
                beside=beside,
            )
            assert done is not None
        [(statement, parameters)] = sent
        plan = _plan(connection, statement, parameters)
    assert "pk_job_executions" in plan, plan
    assert not re.search("ix_dag_runs_(open|market_session)", plan), plan
    assert not re.search("ix_job_executions_(status|live)", plan), plan
    found = plan.count("Index Only Scan Backward using ix_job_executions_queued")
    assert found == ("beside" in what), plan
    assert "Sort" not in plan, plan


UNSENT: dict[str, tuple[int, Callable[[Connection, datetime], object]]] = {
    "unpublished": (1, executions.unpublished),
    "news": (2, executions.read_news),
    "glance": (
        2,
        lambda c, now: glance(
            c, now, due_by=now, over_limit_since=now, given_up_since=now - timedelta(hours=1)
        ),
    ),
}
"""How often a tick reads the index of what is queued without a message, and how it asks."""


@pytest.mark.parametrize("known", ["nothing", "that all has ended", "all"])
def test_a_tick_finds_what_was_not_sent_without_reading_what_was(
    postgresql_url: str, known: str
) -> None:
    """Thousands may wait in queues for hours, and every tick would read all of them."""
    world = World(create_engine(postgresql_url))
    if known != "nothing":
        _make_old(world)
        _analyze(world)
    dags = [
        world.run(*(job(f"j{n}") for n in range(20)), day=DAY + timedelta(days=n)) for n in range(9)
    ]
    sent = [each for dag in dags for each in world.claim(world.starts(dag))]
    with writing(world.engine) as connection:
        executions.mark_published(connection, [each.execution_id for each in sent[1:]])
    if known == "all":
        _analyze(world)
    for name, (times, ask) in UNSENT.items():
        with world.engine.connect() as connection:
            with statements(connection) as asked:
                ask(connection, world.now() + timedelta(hours=1))
            [(statement, parameters)] = asked
            plan = _plan(connection, statement, parameters)
        found = re.findall(r"ix_job_executions_unsent.*\n *Index Cond: .*scheduled_at [<>]", plan)
        assert len(found) == times, f"{name}: {plan}"
        assert "ix_job_executions_queued" not in plan, f"{name}: {plan}"
        # What else reads one that has the queued as well reads the few that run.
        others = re.findall(r"ix_job_executions_(?:status|live).*\n.*", plan)
        assert all("'RUNNING'::text)" in each for each in others), f"{name}: {plan}"
    with world.engine.connect() as connection:
        [only] = executions.unpublished(connection, world.now() + timedelta(hours=1))
        assert only.execution_id == sent[0].execution_id


OF_ALL = {
    "open runs",
    "waiting",
    "queues",
    "bustle",
    "open work",
    "open ones",
    "loads and what runs",
    "what is due",
    "what is late",
    "what sensors wait for",
    "changes",
    "deadlines",
    "progress",
    "why",
}
"""Actions that look through all that is open or queued."""
SMALL = {"ended", "of what something ended"}
"""Those for which PostgreSQL reads all of a table of which it knows nothing, and that is small."""


def _rows_read(plan: dict[str, Any]) -> float:
    """Count what the nodes of a plan came to, and what they threw away."""
    removed = (value for name, value in plan.items() if name.startswith("Rows Removed"))
    here: float = (plan["Actual Rows"] + sum(removed)) * plan["Actual Loops"]
    return here + sum(map(_rows_read, plan.get("Plans", [])))


@pytest.mark.parametrize("known", ["nothing", "that all has ended"])
def test_what_is_read_grows_no_faster_than_what_is_told_whatever_is_known_of_the_tables(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch, known: str
) -> None:
    """In a flood PostgreSQL may go by what it counted before, when nothing was open or queued."""
    monkeypatch.setattr(executions, "_alike", {})
    world = World(create_engine(postgresql_url))
    if known != "nothing":
        _make_old(world)
        _analyze(world)
    with writing(world.engine) as connection:
        for table in ("job_executions", "dag_runs"):
            connection.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = false)"))
    flood = [
        world.run(*(job(f"j{n}") for n in range(10)), day=DAY + timedelta(days=n))
        for n in range(1, 101)
    ]
    queued = world.claim([start for each in flood for start in world.starts(each)])
    dag = world.run(*(job(name) for name in "abcdef"), job("g", "f"), deadline="close+4h")
    world.running(dag, "a", world.worker())
    queued += world.claim(world.starts(dag, "b", "c"))
    with writing(world.engine) as connection:
        executions.mark_published(connection, [each.execution_id for each in queued])
    assert len(queued) == 1002
    found: dict[str, float] = {}
    for name, act in actions(world, dag).items():
        with world.engine.connect() as connection:
            with statements(connection) as sent:
                act(connection)
            connection.rollback()
        for statement, parameters in sent:
            with world.engine.connect() as connection:
                explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
                [told] = connection.exec_driver_sql(explain, parameters).scalar_one()
                connection.rollback()
            found[name] = max(found.get(name, 0), _rows_read(told["Plan"]))
    assert found.keys() >= OF_ALL | SMALL
    of_all = OF_ALL | SMALL if known == "nothing" else OF_ALL
    much = {
        name: rows
        for name, rows in found.items()
        if rows > (10 * len(queued) if name in of_all else 250)
    }
    assert not much


def test_failures_are_found_without_reading_what_went_well(crowded: tuple[World, DAG]) -> None:
    """Every tick looks for the last day's, of which a busy one has millions of successes."""
    world, _ = crowded
    long_ago = world.now() - timedelta(days=800)  # all have finished since
    with world.engine.connect() as connection:
        with statements(connection) as sent:
            executions.untold_failures(connection, ["old", "test"], long_ago)
        [(statement, parameters)] = sent
        plan = _plan(connection, statement, parameters)
    assert "ix_job_executions_failed" in plan, plan


def test_the_end_of_a_job_reads_no_other_but_those_of_its_run_that_are_queued(
    crowded: tuple[World, DAG],
) -> None:
    """Where thousands are, in a flood, each of their ends would go through all of them."""
    world, dag = crowded
    for name in ("success beside another", "success beside any"):
        with world.engine.connect() as connection:
            with statements(connection) as sent:
                actions(world, dag)[name](connection)
            [(statement, parameters)] = sent
            plan = _plan(connection, statement, parameters)
            connection.rollback()
        assert "Scan Backward using ix_job_executions_queued" in plan, plan
        assert "Sort" not in plan, plan


def test_progress_of_a_market_is_told_without_reading_what_has_long_ended(
    crowded: tuple[World, DAG],
) -> None:
    world, _ = crowded
    with world.engine.connect() as connection:
        with statements(connection) as sent:
            progress.read_progress(connection, market_id="US_EQ")
        statement, parameters = sent[-1]
        plan = _plan(connection, statement, parameters)
    assert "Seq Scan on job_executions" not in plan, plan


def test_sqlite_finds_what_was_not_sent_by_its_index_too(sqlite_url: str) -> None:
    world = World(create_engine(sqlite_url))
    for name, (times, ask) in UNSENT.items():
        with world.engine.connect() as connection:
            with statements(connection) as asked:
                ask(connection, world.now())
            [(statement, parameters)] = asked
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            steps = [row.detail for row in plan]
            written = "SELECT sql FROM sqlite_master WHERE name = 'ix_job_executions_unsent'"
            assert "published_at IS NULL" in connection.exec_driver_sql(written).scalar_one()
        found = [
            each for each in steps if re.search(r"ix_job_executions_unsent \(scheduled_at", each)
        ]
        assert len(found) == times, f"{name}: {steps}"


def test_sqlite_reads_no_whole_table_either(sqlite_url: str) -> None:
    world = World(create_engine(sqlite_url))
    dag = world.run(*(job(name) for name in "abcdef"), job("g", "f"), deadline="close+4h")
    world.running(dag, "a", world.worker())
    slow: list[str] = []
    for name, act in actions(world, dag).items():
        with world.engine.connect() as connection:
            with statements(connection) as sent:
                act(connection)
            for statement, parameters in sent:
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                steps = [row.detail for row in plan]
                if name == "untold failures" and "ix_job_executions_failed" not in steps[0]:
                    slow.append(f"{name}: {steps[0]}: {statement}")
                for step in steps:
                    # An index with a condition of its own holds only what is not finished.
                    whole = step.startswith(("SCAN job_executions", "SCAN dag_runs", "SCAN alerts"))
                    if whole and not step.endswith(("ix_job_executions_live", "ix_dag_runs_open")):
                        slow.append(f"{name}: {step}: {statement}")
            connection.rollback()
    world.engine.dispose()
    assert not slow, "\n\n".join(slow)
