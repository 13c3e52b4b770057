"""An installation on PostgreSQL and Redis, every node of which has connections of its own."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg
import redis
import sqlalchemy
from psycopg import sql

from prometheus.orchestration.pipeline import Pipeline
from prometheus.persistence import runs
from prometheus.persistence.engine import create_engine, writing
from prometheus.persistence.migrate import upgrade
from tests.chaos.jobs import EFFECTS, FOLDER, MARKETS, ORDERS, SEED, make_pipelines
from tests.chaos.nodes import BEAT, WORKER, Node
from tests.servers import Gate, PostgresServer, RedisServer

OBSERVERS = f"""
CREATE TABLE {EFFECTS} (
    execution_id text NOT NULL,
    block text NOT NULL,
    at timestamptz DEFAULT clock_timestamp()
);

-- What happened to executions and to the lead, told by the database itself: in the transaction
-- that did it, with the role that did it (each node has its own) and the leader as the row says
-- then. The history checker reads the first five columns.
CREATE TABLE status_changes (
    execution_id text NOT NULL,
    old text,
    new text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seq bigserial PRIMARY KEY,
    role text NOT NULL DEFAULT session_user,
    leader text
);
CREATE FUNCTION chaos_note_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    leader text := (SELECT owner FROM leases WHERE name = 'beat');
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO status_changes (execution_id, new, leader)
        VALUES (NEW.execution_id, NEW.status, leader);
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO status_changes (execution_id, old, new, leader)
        VALUES (OLD.execution_id, OLD.status, 'DELETED', leader);
    -- Also what leaves the state of a finished row as it is: such a row never changes.
    ELSIF OLD.status <> NEW.status OR OLD.completed_at IS NOT NULL THEN
        INSERT INTO status_changes (execution_id, old, new, leader)
        VALUES (NEW.execution_id, OLD.status, NEW.status, leader);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_note_change AFTER INSERT OR UPDATE OR DELETE ON job_executions FOR EACH ROW
    EXECUTE FUNCTION chaos_note_change();

CREATE TABLE chaos_leads (
    number bigserial PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    role text NOT NULL DEFAULT session_user,
    owner text NOT NULL,
    epoch int NOT NULL
);
CREATE FUNCTION chaos_note_lead() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' OR NEW.owner <> OLD.owner THEN
        INSERT INTO chaos_leads (owner, epoch) VALUES (NEW.owner, NEW.epoch);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_note_lead AFTER INSERT OR UPDATE ON leases FOR EACH ROW
    EXECUTE FUNCTION chaos_note_lead();
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Which nodes there are, and how they are set."""

    beats: int
    workers: Sequence[str]
    """The queues of each worker: ``US_EQ,EU_EQ``."""
    concurrency: int
    settings: Mapping[str, str]
    """Of the product, by their names in the environment without their prefix."""
    modules: str = "tests.chaos.jobs"
    """Of the pipelines."""
    gated: bool = True
    """Whether each node reaches the servers through gates of its own."""


def make_run(engine: sqlalchemy.Engine, pipeline: Pipeline, market_id: str, session: date) -> None:
    """Write a run whose windows do not count, as an operator's, unless it exists."""
    with writing(engine) as connection:
        runs.create_run(
            connection,
            pipeline.dag(market_id, session),
            opens_at=datetime.combine(session, time(), UTC),
            trigger="operator",
            calendar_version="chaos",
            parameters={},
            forced=True,
        )


class Cluster:
    """Servers, gates and nodes, ended together."""

    def __init__(self, seed: str, shape: Shape, folder: Path) -> None:
        """
        Args:
            seed: Of the pipelines.
            folder: New; keeps logs and evidence.
        """
        self.shape = shape
        self.folder = folder
        self.evidence = folder / "evidence"
        self.orders = folder / "orders"
        for each in (self.evidence, self.orders):
            each.mkdir(parents=True)
        self.pipelines: dict[str, Pipeline] = make_pipelines(seed)
        self.postgres = PostgresServer("--track_commit_timestamp=on", "--log_lock_waits=on")
        self.redis = RedisServer("--appendonly", "yes")
        self.nodes: list[Node] = []
        self.engine: sqlalchemy.Engine
        self._seed = seed
        self._database = ""
        self._stack = ExitStack()

    @property
    def beats(self) -> list[Node]:
        return [node for node in self.nodes if node.kind == BEAT]

    @property
    def workers(self) -> list[Node]:
        return [node for node in self.nodes if node.kind == WORKER]

    def __enter__(self) -> Self:
        try:
            self._stack.enter_context(self.postgres)
            self._stack.enter_context(self.redis)
            self._database = self.postgres.create_database()
            url = self.postgres.url(self._database)
            upgrade(url)
            self.engine = create_engine(url)
            self._stack.callback(self.engine.dispose)
            with self.connect() as connection:
                connection.execute(OBSERVERS)
            self._make_nodes()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def start(self) -> None:
        """Start every node."""
        for node in self.nodes:
            node.start()

    def connect(self) -> psycopg.Connection:
        """Open a plain connection past all gates, in autocommit mode."""
        return self.postgres.connect(self._database)

    def count(self, table: LiteralString, condition: LiteralString = "true") -> int:
        """Return how many rows of a table meet a condition."""
        with self.connect() as connection:
            (number,) = connection.execute(
                f"SELECT count(*) FROM {table} WHERE {condition}"
            ).fetchone() or (0,)
        return int(number)

    def waiting_ids(self) -> frozenset[str]:
        """Return the ids of the messages that wait in the markets' lists."""
        with self.redis.client() as client:
            return frozenset(_id_of(raw) for _, raw in _waiting(client))

    def double_messages(self) -> None:
        """Put a second one right beside every message that waits, so that two take it at once."""
        with self.redis.client() as client:
            for key, raw in list(_waiting(client)):
                client.linsert(key, "BEFORE", raw, raw)

    def lose_messages(self, draw: random.Random) -> frozenset[str]:
        """Take half of the messages that wait away; return their ids."""
        with self.redis.client() as client:
            return frozenset(
                _id_of(raw)
                for key, raw in list(_waiting(client))
                if draw.random() < 0.5 and client.lrem(key, 0, raw)
            )

    def _make_nodes(self) -> None:
        names = [f"beat_{number}" for number in range(1, self.shape.beats + 1)]
        for name in names:
            self._add(name, BEAT, ("beat",))
        for number, queues in enumerate(self.shape.workers, 1):
            options = ("-n", f"worker_{number}@%h", "-c", str(self.shape.concurrency))
            arguments = ("worker", "-Q", queues, *options, "--without-gossip", "--without-mingle")
            self._add(f"worker_{number}", WORKER, arguments)

    def _add(self, name: str, kind: str, arguments: Sequence[str]) -> None:
        with self.connect() as connection:
            # A role of its own, which the database can tell from others.
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN SUPERUSER").format(sql.Identifier(name))
            )
        database = broker = None
        database_url = self.postgres.url(self._database, name)
        broker_url = self.redis.url
        if self.shape.gated:
            database = self._stack.enter_context(Gate(self.postgres.socket))
            broker = self._stack.enter_context(Gate(self.redis.socket))
            database_url = self.postgres.url_at(database.port, self._database, name)
            broker_url = self.redis.url_at(broker.port)
        env = {
            "PROMETHEUS__DATABASE__URL": database_url,
            "PROMETHEUS__BROKER__URL": broker_url,
            "PROMETHEUS__PIPELINES__MODULES": self.shape.modules,
            SEED: self._seed,
            FOLDER: str(self.evidence),
            ORDERS: str(self.orders),
            **{f"PROMETHEUS__{key}": value for key, value in self.shape.settings.items()},
        }
        node = Node(
            name,
            kind,
            arguments,
            env=env,
            folder=self.folder,
            database=database,
            broker=broker,
        )
        self.nodes.append(node)
        self._stack.callback(node.end)


def _waiting(client: redis.Redis) -> Iterator[tuple[bytes, bytes]]:
    """Give the key and the text of every message that waits."""
    for market_id in MARKETS:
        for key in (market_id.encode(), *client.scan_iter(f"{market_id}:*")):
            if client.type(key) == b"list":
                messages: Any = client.lrange(key, 0, -1)
                yield from ((key, raw) for raw in messages)


def _id_of(raw: bytes) -> str:
    return str(json.loads(raw)["headers"]["id"])
