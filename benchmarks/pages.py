"""How long the web app's pages and lists take beside a million executions, and what they ask."""

from __future__ import annotations

import contextlib
import gc
import http.client
import json
import math
import random
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg
import uvicorn
from fastapi import FastAPI
from psycopg.sql import SQL, Identifier
from sqlalchemy import Engine, event, func, select

from benchmarks.figures import Figure, Row, Rows, beside, summary
from prometheus.core.markets import shipped_markets
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.monitoring.api.paging import write_cursor
from prometheus.monitoring.app import create_app
from prometheus.monitoring.serving import Server
from prometheus.orchestration.dag import DAG, JobMetadata, dag_id_for, definition_hash
from prometheus.orchestration.daily import daily
from prometheus.persistence import migrate
from prometheus.persistence.engine import create_engine, reading
from prometheus.persistence.tables import attempt_logs, dag_runs, job_executions
from prometheus.settings import load_settings
from tests.servers import PostgresServer, RedisServer, wait_until

EXECUTIONS = 1_000_000
TIMES = 20
BARE = "bare FastAPI, three look-ups"
BIG = 2_000
"""Jobs of the one run that is very big."""
MOST_STATEMENTS = 3
MOST_MS = 300
MOST_MS_OF_BIG = 1_000

_PIPELINES = ("daily", "features", "risk", "reports")
_OF_A_SESSION = 4 * 9 * 1.035
"""About how many executions a session has: the jobs of each pipeline, and those tried again."""
_BIG_RUN = "us_eq_big_2026-11-20"


@dataclass
class Asked:
    """A page, list or other answer, and what each time it was asked for took."""

    name: str
    path: str
    limit_ms: float | None = MOST_MS
    """``None`` of what is no page and no list: it may take long, and ask as much as it needs."""
    took_ms: list[float] = field(default_factory=list)
    statements: int = 0
    """The most of any time, without the beginnings and ends of transactions."""

    def row(self, reference: Asked) -> Row:
        """Tell it beside what was asked in turn with it."""
        row = beside("ms", {self.name: self._figure(), BARE: reference._figure()})
        if self.limit_ms is not None:
            row["limits"] = {"p95": self.limit_ms, "statements": MOST_STATEMENTS}
        return row

    def _figure(self) -> Figure:
        # The least time that 95 in a hundred did not exceed.
        p95 = sorted(self.took_ms)[math.ceil(len(self.took_ms) * 0.95) - 1]
        figure = summary([[took] for took in self.took_ms])
        return {**figure, "p95": p95, "statements": self.statements}


def measure_pages(executions: int = EXECUTIONS, times: int = TIMES) -> Rows:
    """
    Fill a database, serve the app on a port of this machine, and ask for everything in turn.

    The app is served in a thread of this process, so that its statements can be counted; what is
    measured goes through its socket and has all that a browser waits for.
    """
    with PostgresServer() as postgres, RedisServer() as redis:
        name = postgres.create_database()
        url = postgres.url(name)
        migrate.upgrade(url)
        with postgres.connect(name) as connection:
            fill(connection, executions)
        return ask_for_all(url, redis.url, times)


def ask_for_all(database: str, broker: str, times: int) -> Rows:
    """
    Serve the app beside a database that is filled, and ask for everything in turn.

    Args:
        database: Its URL.
        broker: That of Redis.

    Returns:
        Milliseconds until all of an answer is there, beside those of a bare app that is asked in
        turn with each.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(
            {
                "PROMETHEUS__DATABASE__URL": database,
                "PROMETHEUS__BROKER__URL": broker,
                "PROMETHEUS__MARKETS__ENABLED": ",".join(shipped_markets()),
                "PROMETHEUS__DATA__FOLDER": folder,
            },
            Path(folder),
        )
        engine = create_engine(database)
        questions = _look(engine)
        app = create_app(settings)
        server = Server(app, _config(app))
        # As `prometheus web` does: to look for garbage in all that is imported, which stays, had
        # one answer in ten take 0.2 s longer.
        gc.collect()
        gc.freeze()
        with _served(server, app, app.state.installation.engine) as ours, _bare(engine) as bare:
            # A process reads the overrides of calendars when it first looks, and when they change.
            ours.ask(Asked("", "/api/v1/overrides"))
            rows = {}
            for each in questions:
                reference = Asked(BARE, "/")
                for _ in range(times):
                    ours.ask(each)
                    bare.ask(reference)
                rows[each.name] = each.row(reference)
            stream = Asked("events: the first", "/events", limit_ms=None)
            ours.follow(stream, times)
            rows[stream.name] = stream.row(reference)
        engine.dispose()
    return rows


# --- what is in the database --------------------------------------------------------------------


def fill(connection: psycopg.Connection, executions: int) -> None:
    """
    Write what an installation would have after years of four pipelines in all shipped markets.

    Of a hundred executions four were tried again; of a thousand runs four broke at a job, whose
    downstream was skipped, and one each was cancelled or missed. The last session is at work.
    """
    markets = list(shipped_markets())
    connection.execute("SELECT setseed(0.5)")
    connection.execute(
        "CREATE TEMP TABLE bench_sessions (dag_id text PRIMARY KEY, closes_at timestamptz,"
        " fate text, breaks_at int)"
    )
    connection.execute("CREATE TEMP TABLE bench_jobs (job_id text, at int)")
    connection.execute("CREATE TEMP TABLE bench_markets AS SELECT unnest(%s::text[])", [markets])
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO bench_jobs VALUES (%s, %s)",
            [(job, number) for number, job in enumerate(daily.jobs, start=1)],
        )
    _copy_runs(connection, markets, executions)
    with _in_bulk(connection):
        connection.execute(Path(__file__).with_suffix(".sql").read_bytes())
    _write_big_run(connection)
    connection.execute("VACUUM ANALYZE")


@contextlib.contextmanager
def _in_bulk(connection: psycopg.Connection) -> Iterator[None]:
    """
    Fill in two thirds of the time: no triggers, no foreign keys, executions indexed afterwards.

    What is written is not compared with foreign keys later either.
    """
    indexes = connection.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'job_executions'"
        " AND NOT EXISTS (SELECT FROM pg_constraint WHERE conname = indexname)"
    ).fetchall()
    connection.execute("SET session_replication_role = replica")
    for name, _ in indexes:
        connection.execute(SQL("DROP INDEX {}").format(Identifier(name)))
    yield
    for _, definition in indexes:
        connection.execute(definition)
    connection.execute("RESET session_replication_role")


def _copy_runs(connection: psycopg.Connection, markets: list[str], executions: int) -> None:
    draw = random.Random(20261128)
    now = datetime.now(UTC)
    found: list[tuple[date, str]] = []
    for market in markets:
        calendar = TradingCalendar(market)
        first = max(calendar.first, date(2010, 1, 4))
        found += [(day, market) for day in calendar.trading_days(first, now.date())]
    found = [
        (day, market)
        for day, market in sorted(found, reverse=True)[: round(executions / _OF_A_SESSION)]
    ]
    runs, fates = [], []
    for day, market in reversed(found):
        phases = TradingCalendar(market).phases(day)
        for pipeline in _PIPELINES:
            dag_id = dag_id_for(pipeline, market, day)
            fate = draw.choices(
                ("well", "broken", "cancelled", "expired"), (0.994, 0.004, 0.001, 0.001)
            )[0]
            breaks_at = draw.randint(2, 8) if fate in ("broken", "cancelled") else None
            status = {"well": "SUCCESS", "cancelled": "CANCELLED"}.get(fate, "FAILED")
            opens_at, closes_at = phases.pre_open_at, phases.close_at
            runs.append((dag_id, pipeline, market, day, status, opens_at, closes_at))
            fates.append((dag_id, closes_at, fate, breaks_at))
    definitions = {}
    for pipeline in _PIPELINES:
        for market in markets:
            dag = daily.dag(market, now.date())
            definition = dag.definition() | {"pipeline": pipeline}
            definitions[pipeline, market] = json.dumps(definition), definition_hash(definition)
    with connection.cursor() as cursor:
        columns = (
            "dag_id, pipeline, market_id, as_of_date, status, opens_at, created_at, completed_at"
        )
        with cursor.copy(
            f"COPY dag_runs ({columns}, definition, definition_hash, forced, trigger, parameters,"
            " calendar_version) FROM STDIN"
        ) as copy:
            for dag_id, pipeline, market, day, status, opens_at, closes_at in runs:
                stored, digest = definitions[pipeline, market]
                ended_at = closes_at + timedelta(minutes=40)
                row = (dag_id, pipeline, market, day, status, opens_at, opens_at, ended_at)
                copy.write_row((*row, stored, digest, False, "schedule", "{}", "1"))
        with cursor.copy("COPY bench_sessions FROM STDIN") as copy:
            for each in fates:
                copy.write_row(each)


def _write_big_run(connection: psycopg.Connection) -> None:
    """Write a run of very many jobs, each of which waits for up to three of the 60 before it."""
    draw = random.Random(7)
    jobs = [
        JobMetadata(
            job_id=f"step_{number:04}",
            job_type="step",
            market_id="US_EQ",
            dependencies=tuple(
                {f"step_{draw.randrange(max(0, number - 60), number):04}" for _ in range(3)}
                if number >= 20
                else ()
            ),
        )
        for number in range(BIG)
    ]
    day = date.fromisoformat(_BIG_RUN[-10:])
    dag = DAG(_BIG_RUN, jobs, pipeline="big", market_id="US_EQ", as_of_date=day)
    definition = dag.definition()
    connection.execute(
        "INSERT INTO dag_runs (dag_id, pipeline, market_id, as_of_date, status, opens_at,"
        " definition, definition_hash, forced, trigger, parameters, calendar_version, created_at,"
        " completed_at) VALUES (%s, 'big', 'US_EQ', %s, 'SUCCESS', now(), %s, %s, false,"
        " 'operator', '{}', '1', now() - interval '7 days', now() - interval '7 days')",
        (_BIG_RUN, day, json.dumps(definition), definition_hash(definition)),
    )
    connection.execute(
        "INSERT INTO job_executions (execution_id, dag_id, job_id, job_type, market_id, as_of_date,"
        " status, attempt_number, retries, lost, queue, priority, forced, timeout_seconds,"
        " scheduled_at, started_at, completed_at, publish_count, created_at)"
        " SELECT gen_random_uuid()::text, %s, 'step_' || lpad(n::text, 4, '0'), 'step', 'US_EQ',"
        " %s, 'SUCCESS', 1, 0, 0, 'US_EQ', 2, false, 3600, at, at, at + interval '30 s', 1,"
        " now() - interval '7 days'"
        " FROM (SELECT n, now() - interval '7 days' + n * interval '1 s' AS at"
        "   FROM generate_series(0, %s) AS n) AS steps",
        (_BIG_RUN, day, BIG - 1),
    )


# --- what is asked ------------------------------------------------------------------------------


def _look(engine: Engine) -> list[Asked]:
    """Find runs and executions worth asking for."""
    e = job_executions.c
    with reading(engine) as connection:
        executions, of_runs = (
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (job_executions, dag_runs)
        )
        logged = connection.execute(
            select(job_executions)
            .join_from(job_executions, attempt_logs)
            .where(e.status == "FAILED")
            .limit(1)
        ).one()
        deep = connection.execute(
            select(e.created_at, e.execution_id)
            .order_by(e.created_at)
            .offset(executions // 10)
            .limit(1)
        ).one()
        early = connection.execute(
            select(dag_runs.c.as_of_date, dag_runs.c.dag_id)
            .order_by(dag_runs.c.as_of_date)
            .offset(of_runs // 10)
            .limit(1)
        ).one()
        at_work = (
            connection.execute(
                select(dag_runs.c.dag_id).where(
                    dag_runs.c.status == "OPEN", dag_runs.c.market_id == "US_EQ"
                )
            )
            .scalars()
            .first()
        )
    return _questions(logged, deep, early, str(at_work))


def _questions(logged: Any, deep: Any, early: Any, at_work: str) -> list[Asked]:
    run = logged.dag_id
    day = at_work[-10:]
    to_come = dag_id_for("daily", "US_EQ", date.fromisoformat(day) + timedelta(days=7))
    year_ago = datetime.now(UTC).replace(microsecond=0) - timedelta(days=365)
    hours = {"from": year_ago, "to": year_ago + timedelta(hours=2)}
    cursor = write_cursor(deep.created_at, deep.execution_id)
    sessions = {"market": "US_EQ", "pipeline": "daily"}
    api = "/api/v1"
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("World", "/", {}),
        ("Market day", f"/days/US_EQ/{day}", {}),
        ("History", "/history", sessions),
        ("History, years ago", "/history", {**sessions, "before": early.as_of_date}),
        ("Run", f"/runs/{run}", {}),
        ("Run at work", f"/runs/{at_work}", {}),
        ("Run, an attempt with its log", f"/runs/{run}",
         {"job": logged.job_id, "attempt": logged.attempt_number}),
        (f"Run of {BIG} jobs", f"/runs/{_BIG_RUN}", {}),
        ("Calendar", "/calendar", {"market": "US_EQ"}),
        ("Operations", "/operations", {}),
        ("Sign in", "/sign-in", {}),
        ("Why, of a run at work", f"/why/{at_work}", {}),
        (f"Why, of the run of {BIG} jobs", f"/why/{_BIG_RUN}", {}),
        ("Why, of a run to come", f"/why/{to_come}", {}),
        ("runs", f"{api}/runs", {}),
        ("runs, 200 far behind", f"{api}/runs",
         {"limit": 200, "cursor": write_cursor(early.as_of_date, early.dag_id)}),
        ("runs of a market", f"{api}/runs", {"market": "US_EQ"}),
        ("runs of a pipeline", f"{api}/runs", {"pipeline": "risk"}),
        ("runs of a pipeline with one", f"{api}/runs", {"pipeline": "big"}),
        ("runs that failed", f"{api}/runs", {"status": "FAILED"}),
        ("runs that were cancelled", f"{api}/runs", {"status": "CANCELLED"}),
        ("runs, open", f"{api}/runs", {"status": "OPEN"}),
        ("runs, between dates", f"{api}/runs", {"from": "2020-03-01", "to": "2020-03-31"}),
        ("run", f"{api}/runs/{run}", {}),
        ("why, of a run at work", f"{api}/runs/{at_work}/why", {}),
        ("why, of a job at work", f"{api}/runs/{at_work}/jobs/run_books/why", {}),
        ("executions", f"{api}/executions", {}),
        ("executions, 200 far behind", f"{api}/executions", {"limit": 200, "cursor": cursor}),
        ("executions of a run", f"{api}/executions", {"run": run}),
        ("executions of a job", f"{api}/executions", {"job": "run_signals"}),
        ("executions of no job", f"{api}/executions", {"job": "run_nothing"}),
        ("executions of a market", f"{api}/executions", {"market": "CRYPTO"}),
        *(
            (f"executions, {state}", f"{api}/executions", {"status": state})
            for state in ("SUCCESS", "FAILED", "SKIPPED", "CANCELLED", "EXPIRED", "PENDING",
                          "QUEUED", "RUNNING")
        ),
        ("executions, FAILED, far behind", f"{api}/executions",
         {"status": "FAILED", "cursor": cursor}),
        ("executions of a worker", f"{api}/executions", {"worker": "us_eq@worker-2"}),
        ("executions of no worker", f"{api}/executions", {"worker": "nobody@nowhere"}),
        ("executions of two hours", f"{api}/executions", hours),
        ("executions until years ago", f"{api}/executions", {"to": "2020-01-01T00:00:00Z"}),
        ("executions of a job in a market", f"{api}/executions",
         {"job": "run_books", "market": "US_EQ", "status": "FAILED"}),
        ("log", f"{api}/executions/{logged.execution_id}/log", {}),
        ("audit", f"{api}/audit", {}),
        ("audit, far behind", f"{api}/audit", {"cursor": 5000}),
        ("audit of somebody", f"{api}/audit", {"actor": "zoe"}),
        ("audit of an action", f"{api}/audit", {"action": "user_add"}),
        ("audit of a run", f"{api}/audit", {"target": run}),
        ("alerts", f"{api}/alerts", {}),
        ("alerts, open", f"{api}/alerts", {"state": "open"}),
        ("alerts of a run", f"{api}/alerts", {"run": run}),
        ("markets", f"{api}/markets", {}),
        ("calendar", f"{api}/markets/US_EQ/calendar", {}),
        ("pipelines", f"{api}/pipelines", {}),
        ("queues", f"{api}/queues", {}),
        ("workers", f"{api}/workers", {}),
        ("pauses", f"{api}/pauses", {}),
        ("overrides", f"{api}/overrides", {"all": "true"}),
        ("holidays", f"{api}/holidays", {}),
        ("backfills", f"{api}/backfills", {}),
        ("sessions of a backfill", f"{api}/backfills/7/sessions", {}),
        ("status of a market", "/api/status/pipeline", {"market_id": "US_EQ"}),
        ("dag", f"/api/dag/{run}", {}),
        ("session", f"{api}/session", {}),
        ("metrics", "/metrics", {}),
        ("readyz", "/readyz", {}),
    ]  # fmt: skip
    made = []
    for name, path, query in asked:
        values = {
            key: value.isoformat() if isinstance(value, date) else value
            for key, value in query.items()
        }
        made.append(Asked(name, f"{path}?{urlencode(values)}" if values else path))
    for each in made:
        if each.name.startswith("Run of"):
            each.limit_ms = MOST_MS_OF_BIG
        elif each.path == "/metrics":
            each.limit_ms = None
    return made


# --- asking -------------------------------------------------------------------------------------


@dataclass
class _Served:
    """An app on a port, and the statements that it has sent since they were last counted."""

    app: FastAPI
    port: int
    statements: int = 0

    def note(self, *_: Any) -> None:
        """Count a statement."""
        self.statements += 1

    def ask(self, asked: Asked) -> None:
        """Ask for a page, and note what that took."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.connect()
        self.statements = 0
        began = time.perf_counter()
        connection.request("GET", asked.path)
        answer = connection.getresponse()
        body = answer.read()
        took = (time.perf_counter() - began) * 1_000
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{asked.path}: {answer.status} {body[:500]!r}")
        asked.took_ms.append(took)
        asked.statements = max(asked.statements, self.statements)

    def follow(self, asked: Asked, times: int) -> None:
        """Ask for the stream of changes, each time until it has told the first one."""
        for _ in range(times):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            connection.connect()
            self.statements = 0
            began = time.perf_counter()
            connection.request("GET", asked.path)
            answer = connection.getresponse()
            while not answer.readline().startswith(b"event: seen"):
                pass
            asked.took_ms.append((time.perf_counter() - began) * 1_000)
            asked.statements = max(asked.statements, self.statements)
            answer.close()
            connection.close()
            wait_until(lambda: self.app.state.pulse.watchers == 0, timeout=60)


@contextlib.contextmanager
def _bare(engine: Engine) -> Iterator[_Served]:
    """Serve an app of a few lines: three look-ups by a key, in a transaction."""
    app = FastAPI()

    @app.get("/")
    def look_up() -> list[str | None]:
        with reading(engine) as connection:
            names = (
                connection.execute(select(dag_runs.c.dag_id).where(dag_runs.c.dag_id == name))
                for name in (_BIG_RUN, "a", "b")
            )
            return [each.scalar() for each in names]

    with _served(uvicorn.Server(_config(app)), app, engine) as served:
        yield served


def _config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(app, log_config=None, access_log=False)


@contextlib.contextmanager
def _served(server: uvicorn.Server, app: FastAPI, engine: Engine) -> Iterator[_Served]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        served = _Served(app, listener.getsockname()[1])
        event.listen(engine, "before_cursor_execute", served.note)
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive(), timeout=60)
            yield served
        finally:
            server.should_exit = True
            thread.join(60)
