"""What is done to the processes and their servers, and when: drawn from a seed."""

from __future__ import annotations

import heapq
import itertools
import logging
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, LiteralString

import psycopg

from tests.chaos.cluster import Cluster
from tests.chaos.nodes import BEAT, WORKER, Node
from tests.servers import Gate, tail

log = logging.getLogger(__name__)


class Fault(StrEnum):
    """What can be done."""

    WORKER_KILL = "worker killed, started again later"
    WORKER_AGAIN = "worker killed, started again at once"
    CHILD_KILL = "child of a worker killed"
    CHILD_KILL_EARLY = "child of a worker killed as its job begins"
    WORKER_STOP = "worker told to stop while it works, started again when it has"
    WORKER_FREEZE = "worker stopped, continued within its lease"
    WORKER_FREEZE_LONG = "worker stopped for longer than its lease"
    WORKER_MAIN_FREEZE = "main process alone stopped for longer than its lease"
    WORKER_SKEW = "clock of a worker set off"
    BEAT_KILL = "beat killed"
    BEAT_FREEZE = "beat stopped, continued within its lease"
    BEAT_FREEZE_LONG = "beat stopped for longer than its lease"
    BEAT_SKEW = "clock of a beat set off"
    DATABASE_CUT = "connections to PostgreSQL cut"
    DATABASE_HANG = "cut off from PostgreSQL, longer than the lease"
    DATABASE_MUTE = "PostgreSQL's answers lost"
    DATABASE_SLOW = "PostgreSQL slow"
    BROKER_CUT = "connections to Redis cut"
    BROKER_HANG = "cut off from Redis, longer than the lease"
    BROKER_LEADER = "leader alone cut off from Redis, until another leads"
    BROKER_MUTE = "Redis' answers lost"
    BROKER_SLOW = "Redis slow"
    REDIS_KILL = "Redis killed"
    REDIS_LOSS = "Redis killed, its file lost"
    REDIS_FLUSH = "Redis flushed"
    REDIS_DROP = "half of the waiting messages lost"
    REDIS_DOUBLE = "waiting messages doubled"
    POSTGRES_FAST = "PostgreSQL restarted (fast)"
    POSTGRES_IMMEDIATE = "PostgreSQL restarted (immediate)"
    POSTGRES_KILL = "PostgreSQL killed"
    POSTGRES_OUTAGE = "PostgreSQL away for longer than a lease"


OF_SERVERS = frozenset(
    {
        Fault.REDIS_KILL,
        Fault.REDIS_LOSS,
        Fault.REDIS_FLUSH,
        Fault.REDIS_DROP,
        Fault.REDIS_DOUBLE,
        Fault.POSTGRES_FAST,
        Fault.POSTGRES_IMMEDIATE,
        Fault.POSTGRES_KILL,
        Fault.POSTGRES_OUTAGE,
    }
)
"""One at a time."""
OF_POSTGRES = frozenset(fault for fault in OF_SERVERS if fault.name.startswith("POSTGRES"))
LOSSES = frozenset({Fault.REDIS_LOSS, Fault.REDIS_FLUSH, Fault.REDIS_DROP})
"""After which messages are missing in Redis."""
CUTS_REDIS = frozenset({Fault.REDIS_KILL, Fault.REDIS_LOSS})
"""After which every connection to Redis is made anew."""
TAKES_A_SERVER = OF_POSTGRES | CUTS_REDIS
"""While one of these lasts, nothing can be refilled."""
SKEWS = frozenset({Fault.WORKER_SKEW, Fault.BEAT_SKEW})
"""A wrong clock is no excuse for anything."""
OF_BEATS = frozenset(fault for fault in Fault if fault.name.startswith("BEAT")) | {
    Fault.BROKER_LEADER
}
KILLS = frozenset({Fault.WORKER_KILL, Fault.WORKER_AGAIN, Fault.BEAT_KILL})
CELERYS_END = re.compile(
    r"Unrecoverable error: (WorkerLostError\('Could not start worker processes'\)"
    r"|ValueError\('file descriptor is None'\))"
)
"""
With which Celery ends a worker when a child is dead at the moment its loop begins, first or after
the loss of Redis. Known and counted: who supervises the worker must start it again.
"""
DEATHS = frozenset(
    {Fault.WORKER_KILL, Fault.WORKER_AGAIN, Fault.CHILD_KILL, Fault.CHILD_KILL_EARLY}
)
"""Of workers and their children."""
AT_WORK = DEATHS | {Fault.WORKER_STOP}
"""For which the enemy waits until a worker runs something, though not for ever."""
LEADS_WITHIN = 5.0
"""Wall seconds beyond the lease of a leader that is gone, until another leads."""
REPLACED_WITHIN = 15.0
"""
Wall seconds beyond the lease of a leader that alone has lost Redis, until a standby leads: up to
3 s until the leader's tick, several tries of up to 4 s until it knows, up to 3 s until it says so,
and as long until a standby looks.
"""
STOPS_WITHIN = 60.0
"""Wall seconds after which a worker that was told to stop is ended, which is a violation."""
_ENDS_LEADS = frozenset({Fault.BEAT_KILL, Fault.BEAT_FREEZE_LONG})
_YOUNG = 6.0
"""Wall seconds for which a process that was started is spared."""
_LOOK_EVERY, _LOOKS = 0.2, 75


@dataclass(slots=True)
class Event:
    """One fault as it happened; times are wall time."""

    fault: Fault
    at: float
    until: float | None = None
    """When it was undone; ``None`` while it lasts."""
    node: str | None = None
    pid: int | None = None
    """Main process of the node when it was hit."""
    led: bool = False
    """Whether the node was the leader."""
    lost: frozenset[str] = frozenset()
    """Executions whose waiting messages were lost."""

    @property
    def ends_at(self) -> float:
        """When it was undone; later than everything while it lasts."""
        return float("inf") if self.until is None else self.until

    def document(self, began_at: float) -> dict[str, object]:
        """Return it as JSON values, with times in seconds since the beginning."""
        return {
            "fault": str(self.fault),
            "at": round(self.at - began_at, 1),
            "until": None if self.until is None else round(self.until - began_at, 1),
            "node": self.node,
            "led": self.led,
            "lost": len(self.lost),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the enemy is to do."""

    seconds: float
    """In which time."""
    counts: Mapping[Fault, int]
    worker_lease: float
    leader_lease: float


@dataclass(order=True, slots=True)
class _Due:
    at: float
    number: int
    act: Callable[[], None] = field(compare=False)


class Enemy:
    """Does to a cluster what a plan says."""

    def __init__(
        self,
        cluster: Cluster,
        plan: Plan,
        draw: random.Random,
        *,
        before_loss: Callable[[], None],
    ) -> None:
        """
        Args:
            before_loss: Called before Redis loses what it has, so that it has something to lose.
        """
        self.events: list[Event] = []
        self.ended: list[str] = []
        """What has ended though nothing was done to it."""
        self.ended_by_celery: list[Event] = []
        """What Celery has ended because a child had just died; see `CELERYS_END`."""
        self._cluster = cluster
        self._plan = plan
        self._draw = draw
        self._before_loss = before_loss
        self._due: list[_Due] = []
        self._numbers = itertools.count()
        self._hurt: set[Node] = set()
        self._servers_hurt = False
        self.began_at = time.time()
        for kind, count in plan.counts.items():
            # Spread evenly, each at a random place in its part of the time.
            for place in range(count):
                at = self.began_at + plan.seconds * (place + draw.random()) / count
                self._at(at, lambda kind=kind: self._strike(kind))  # type: ignore[misc]

    @property
    def done(self) -> bool:
        """Whether everything was done, and undone."""
        return not self._due

    @property
    def counts(self) -> Counter[Fault]:
        """How often each thing was done."""
        return Counter(event.fault for event in self.events)

    def act(self) -> None:
        """Do what is due by now."""
        while self._due and self._due[0].at <= time.time():
            heapq.heappop(self._due).act()

    def relent(self) -> None:
        """Undo everything that lasts, and start what is dead."""
        self._due.clear()
        if not self._cluster.postgres.running:
            self._cluster.postgres.start()
        if not self._cluster.redis.running:
            self._cluster.redis.start()
        for node in self._cluster.nodes:
            node.skew(0)
            node.thaw()
            for gate in node.gates():
                gate.open()
        self.keep_running()
        self._hurt.clear()
        for node in self._cluster.nodes:
            if not node.running:
                node.start()
        for event in self.events:
            if event.until is None:
                event.until = time.time()

    def keep_running(self) -> None:
        """Start what has ended by itself, as a supervisor does, and note it: nothing should."""
        for node in self._cluster.nodes:
            if not node.running and node not in self._hurt:
                log.warning("%s ended by itself; see %s", node, node.log)
                if CELERYS_END.search(tail(node.log)):
                    now = time.time()
                    end = Event(Fault.CHILD_KILL, now, now, node=node.name, pid=node.pid)
                    self.ended_by_celery.append(end)
                else:
                    self.ended.append(f"{node}, pid {node.pid}; see {node.log}")
                node.start()

    # --- choosing --------------------------------------------------------------------------------

    def _strike(self, fault: Fault, looks: int = 0) -> None:
        if fault in OF_SERVERS:
            if self._servers_hurt:
                self._later(1, lambda: self._strike(fault))
                return
            self._servers_hurt = True
            self._hit_server(Event(fault, time.time()))
            return
        if fault is Fault.CHILD_KILL_EARLY:
            self._strike_early()
            return
        # Celery ends a worker that loses its children before its loop has begun, so those of one
        # that may still be starting are spared; they end themselves when their main process stands.
        busy = fault in (Fault.CHILD_KILL, Fault.WORKER_MAIN_FREEZE) or (
            fault in AT_WORK and looks < _LOOKS
        )
        node = self._choose(fault, busy=busy)
        if node is None:
            pause = _LOOK_EVERY if fault in AT_WORK else 1
            self._later(pause, lambda: self._strike(fault, looks + 1))
            return
        self._hurt.add(node)
        self._hit_node(Event(fault, time.time(), node=node.name, pid=node.pid), node)

    def _strike_early(self) -> None:
        """Kill a child whose job has begun a moment ago."""
        for worker_pid, pid in self._just_begun():
            for node in self._cluster.workers:
                hale = node not in self._hurt and node.alive_for > _YOUNG
                if hale and node.pid == worker_pid and node.kill_child(pid):
                    log.info("%s: %s", node, Fault.CHILD_KILL_EARLY)
                    now = time.time()
                    early = Event(Fault.CHILD_KILL_EARLY, now, now, node.name, node.pid)
                    self.events.append(early)
                    return
        self._later(0.05, self._strike_early)

    def _just_begun(self) -> list[tuple[int, int]]:
        """Return main process and child of what has begun a moment ago."""
        return self._ask(
            "SELECT w.pid, e.pid FROM job_executions e JOIN worker_incarnations w "
            "USING (incarnation) WHERE e.status = 'RUNNING' "
            "AND e.started_at > clock_timestamp() - interval '0.2 s'"
        )

    def _choose(self, fault: Fault, *, busy: bool) -> Node | None:
        """
        Choose whom to hit; a node that suffers already, or has only just come up, is spared.

        Args:
            busy: Only one that runs something.
        """
        kind = BEAT if fault in OF_BEATS else WORKER
        if fault.name.startswith(("DATABASE", "BROKER")) and self._draw.random() < 0.3:
            kind = BEAT
        nodes = [node for node in self._cluster.nodes if node.kind == kind]
        hale = [node for node in nodes if node not in self._hurt and node.alive_for > _YOUNG]
        if kind == BEAT and len(hale) < len(nodes):
            return None  # one that can lead must be left, or there is nothing to measure
        if busy:
            working = self._working()
            hale = [node for node in hale if node.pid in working]
        if not hale:
            return None
        # Until a leader was lost, nobody else is: there must be a take-over to measure.
        if fault in _ENDS_LEADS and not any(
            event.led and event.fault in _ENDS_LEADS for event in self.events
        ):
            return next((node for node in hale if self._leads(node)), None)
        if fault is Fault.BROKER_LEADER:
            return next((node for node in hale if self._leads(node)), None)
        if kind == BEAT and self._draw.random() < 0.7:
            return next((node for node in hale if self._leads(node)), None) or hale[0]
        return self._draw.choice(hale)

    def _working(self) -> set[int]:
        """Return the main processes of workers that run something; none if PostgreSQL is away."""
        rows = self._ask(
            "SELECT w.pid FROM job_executions JOIN worker_incarnations w "
            "USING (incarnation) WHERE status = 'RUNNING'"
        )
        return {pid for (pid,) in rows}

    def _ask(self, statement: LiteralString) -> list[Any]:
        """Return the rows of an answer; none if PostgreSQL is away."""
        try:
            with self._cluster.connect() as connection:
                return connection.execute(statement).fetchall()
        except psycopg.OperationalError:
            return []

    def _leads(self, node: Node) -> bool:
        owner = self.leader()
        return owner is not None and f":{node.pid}:" in owner

    def leader(self) -> str | None:
        """Return the owner of the lead, if PostgreSQL can say."""
        rows = self._ask("SELECT owner FROM leases WHERE name = 'beat'")
        return str(rows[0][0]) if rows else None

    # --- hitting nodes ---------------------------------------------------------------------------

    def _hit_node(self, event: Event, node: Node) -> None:
        self.events.append(event)
        event.led = node.kind == BEAT and self._leads(node)
        lease = self._plan.worker_lease if node.kind == WORKER else self._plan.leader_lease
        # For so long that a standby must have taken over, not only may.
        least = 2 if node.kind == WORKER else LEADS_WITHIN + 0.5
        long, short = lease + self._draw.uniform(least, 8), self._draw.uniform(0.2, 0.6) * lease
        log.info("%s: %s%s", node, event.fault, " (the leader)" if event.led else "")
        match event.fault:
            case Fault.WORKER_KILL | Fault.BEAT_KILL:
                node.kill()
                self._undo(event, node, self._draw.uniform(1, 10), node.start)
            case Fault.WORKER_AGAIN:
                node.kill()
                self._undo(event, node, 0, node.start)
            case Fault.CHILD_KILL:
                children = node.children()
                if not (children and node.kill_child(self._draw.choice(children).pid)):
                    # It was between two children: another time.
                    self.events.remove(event)
                    self._later(1, lambda: self._strike(event.fault))
                self._undo(event, node, 0)
            case Fault.WORKER_STOP:
                node.ask_to_stop()
                self._start_when_ended(event, node)
            case Fault.BROKER_LEADER:
                gate = self._gate(event, node)
                self._draw.choice((gate.hang, gate.shut))()
                self._open_when_replaced(event, node, gate)
            case Fault.WORKER_FREEZE | Fault.BEAT_FREEZE:
                node.freeze()
                self._undo(event, node, short, node.thaw)
            case Fault.WORKER_FREEZE_LONG | Fault.BEAT_FREEZE_LONG:
                node.freeze()
                self._undo(event, node, long, node.thaw)
            case Fault.WORKER_MAIN_FREEZE:
                node.freeze(children=False)
                self._undo(event, node, long, node.thaw)
            case Fault.WORKER_SKEW | Fault.BEAT_SKEW:
                node.skew(self._draw.choice((-1, 1)) * self._draw.choice((7, 90, 3700, 90_000)))
                self._undo(event, node, self._draw.uniform(5, 25), lambda: node.skew(0))
            case Fault.DATABASE_CUT | Fault.BROKER_CUT:
                self._gate(event, node).cut()
                self._undo(event, node, 0)
            case Fault.DATABASE_HANG | Fault.BROKER_HANG:
                gate = self._gate(event, node)
                self._draw.choice((gate.hang, gate.shut))()
                self._undo(event, node, long, gate.open)
            case Fault.DATABASE_MUTE | Fault.BROKER_MUTE:
                gate = self._gate(event, node)
                gate.mute()
                self._undo(event, node, short, gate.mend)
            case Fault.DATABASE_SLOW | Fault.BROKER_SLOW:
                gate = self._gate(event, node)
                gate.slow(self._draw.uniform(0.02, 0.2))
                self._undo(event, node, long, gate.open)
            case _:
                raise AssertionError(event.fault)

    def _gate(self, event: Event, node: Node) -> Gate:
        gate = node.database if event.fault.name.startswith("DATABASE") else node.broker
        assert gate is not None
        return gate

    def _undo(
        self, event: Event, node: Node, after: float, act: Callable[[], object] | None = None
    ) -> None:
        def undo() -> None:
            if act is not None:
                act()
            event.until = time.time()
            self._hurt.discard(node)

        self._later(after, undo)

    def _start_when_ended(self, event: Event, node: Node) -> None:
        if node.running and time.time() < event.at + STOPS_WITHIN:
            self._later(0.3, lambda: self._start_when_ended(event, node))
            return
        if node.running:
            self.ended.append(f"{node} did not end within {STOPS_WITHIN:g} s; see {node.log}")
            node.kill()
        self._undo(event, node, 0, node.start)

    def _open_when_replaced(self, event: Event, node: Node, gate: Gate) -> None:
        waits_until = event.at + self._plan.leader_lease + REPLACED_WITHIN + 1
        if (self.leader() is None or self._leads(node)) and time.time() < waits_until:
            self._later(0.5, lambda: self._open_when_replaced(event, node, gate))
        else:
            self._undo(event, node, self._draw.uniform(0, 3), gate.open)

    # --- hitting servers -------------------------------------------------------------------------

    def _hit_server(self, event: Event) -> None:
        log.info("%s", event.fault)
        postgres, broker = self._cluster.postgres, self._cluster.redis
        if event.fault in LOSSES or event.fault is Fault.REDIS_DOUBLE:
            self._before_loss()
            self._later(1, lambda: self._hit_messages(event))
            return
        self.events.append(event)
        match event.fault:
            case Fault.REDIS_KILL:
                broker.kill()
                self._heal(event, self._draw.uniform(0.5, 8), broker.start)
            case Fault.POSTGRES_FAST:
                postgres.stop()
                self._heal(event, self._draw.uniform(0, 5), postgres.start)
            case Fault.POSTGRES_IMMEDIATE:
                postgres.end_with(signal.SIGQUIT)
                self._heal(event, self._draw.uniform(0, 5), postgres.start)
            case Fault.POSTGRES_KILL:
                postgres.kill()
                self._heal(event, self._draw.uniform(0, 5), postgres.start)
            case Fault.POSTGRES_OUTAGE:
                postgres.end_with(signal.SIGQUIT)
                lasts = self._plan.worker_lease + self._draw.uniform(5, 15)
                self._heal(event, lasts, postgres.start)
            case _:
                raise AssertionError(event.fault)

    def _hit_messages(self, event: Event) -> None:
        broker = self._cluster.redis
        event.at = time.time()
        self.events.append(event)
        match event.fault:
            case Fault.REDIS_DOUBLE:
                self._cluster.double_messages()
                self._heal(event, 0)
            case Fault.REDIS_DROP:
                event.lost = self._cluster.lose_messages(self._draw)
                self._heal(event, 0)
            case Fault.REDIS_FLUSH:
                event.lost = self._cluster.waiting_ids()
                with broker.client() as client:
                    client.flushall()
                self._heal(event, 0)
            case _:
                event.lost = self._cluster.waiting_ids()
                broker.kill()
                broker.forget()
                self._heal(event, self._draw.uniform(0.5, 8), broker.start)

    def _heal(self, event: Event, after: float, act: Callable[[], object] | None = None) -> None:
        def heal() -> None:
            if act is not None:
                act()
            event.until = time.time()
            self._servers_hurt = False

        self._later(after, heal)

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        self._at(time.time() + seconds, act)

    def _at(self, at: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, _Due(at, next(self._numbers), act))
