"""Who is at work on a database: schedulers and workers, by their leases."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Engine

from prometheus.dispatch.names import LEADERSHIP
from prometheus.orchestration.pauses import Pause
from prometheus.persistence import leases
from prometheus.persistence.engine import is_held
from prometheus.persistence.pauses import read_pauses

SILENT_AFTER_LEASES = 3
"""After how many leases of the leader without a complete tick it is silent."""


@dataclass(frozen=True, slots=True)
class Leader:
    """The scheduler that leads, or the last one that did."""

    owner: str
    epoch: int
    alive: bool
    """Whether its lease holds."""
    ticked_at: datetime | None
    """Wall time of its last tick."""
    tick_age: timedelta | None
    """Wall time since then."""
    figures: Mapping[str, int] = field(default_factory=dict)
    """What this and all earlier leaders have done: see `prometheus.dispatch.figures`."""

    @property
    def process(self) -> str:
        """Host and process id."""
        return _process_of(self.owner)

    def document(self) -> dict[str, Any]:
        """Describe it for machines."""
        age = self.tick_age
        return {
            "owner": self.owner,
            "epoch": self.epoch,
            "alive": self.alive,
            "last_tick_seconds_ago": age and round(age.total_seconds(), 1),
        }


@dataclass(frozen=True, slots=True)
class Standby:
    """A scheduler that waits for the lead."""

    owner: str
    alive: bool
    """Whether it has said so within the time of a lease; otherwise it is silent."""
    since: datetime
    """Wall time, as the next."""
    renewed_at: datetime

    @property
    def process(self) -> str:
        """Host and process id."""
        return _process_of(self.owner)

    def document(self) -> dict[str, Any]:
        """Describe it for machines."""
        return {
            "owner": self.owner,
            "alive": self.alive,
            "since": self.since,
            "renewed_at": self.renewed_at,
        }


def _process_of(owner: str) -> str:
    host, pid, *_ = [*owner.split(":"), "?"]
    return f"{host}, pid {pid}"


@dataclass(frozen=True, slots=True)
class Crew:
    """Everybody at work."""

    at: datetime
    """Wall time of the look."""
    leader: Leader | None
    workers: tuple[dict[str, Any], ...]
    silent: tuple[dict[str, Any], ...]
    """Workers whose lease has run out, and that nobody has given up."""
    standbys: tuple[Standby, ...] = ()
    """Those that wait for the lead, and those that did and are silent."""
    pauses: tuple[Pause, ...] = ()
    """What operators keep from starting."""
    locked: bool = False
    """Whether it was seen that those whose lease has run out can not renew it: see `tried`."""

    @property
    def scheduled(self) -> bool:
        """Whether a scheduler is at work."""
        return self.leader is not None and self.leader.alive

    def tried(self, engine: Engine) -> Crew:
        """
        Find out whether those whose lease has run out could renew it at this moment.

        On SQLite they can not while another transaction holds it; whoever asks must have none.
        """
        lapsed = self.silent or (self.leader is not None and not self.leader.alive)
        return replace(self, locked=bool(lapsed) and is_held(engine))

    def queues(self) -> dict[str, int]:
        """Count the workers that listen to each queue."""
        return count_listeners(self.workers)

    def document(self) -> dict[str, Any]:
        """Describe it for machines."""
        return {
            "locked": self.locked,
            "scheduler": self.leader and self.leader.document(),
            "standbys": [standby.document() for standby in self.standbys],
            "workers": [
                {
                    "worker": worker["worker"],
                    "host": worker["host"],
                    "pid": worker["pid"],
                    "queues": worker["queues"],
                    "started_at": worker["started_at"],
                    "renewed_at": worker["renewed_at"],
                }
                for worker in self.workers
            ],
            "pauses": [
                {
                    "market": pause.market_id,
                    "pipeline": pause.pipeline,
                    "dag_id": pause.dag_id,
                    "job": pause.job_id,
                    "reason": pause.reason,
                    "author": pause.author,
                    "since": pause.since,
                    "until": pause.until,
                }
                for pause in self.pauses
            ],
        }


def read_crew(
    connection: Connection, wall_at: datetime | None = None, *, whole: bool = False
) -> Crew:
    """
    Read who holds a lease.

    Args:
        wall_at: Wall time, if it was read in this transaction already.
        whole: Read also who waits for the lead, and what operators keep from starting: not all
            releases have tables of these.
    """
    at, leader = wall_at or leases.wall_time(connection), read_leader(connection)
    if not whole:
        return crew_of(at, leader, leases.unended_workers(connection))
    workers, standing_by = leases.workers_and_standbys(connection)
    return crew_of(at, leader, workers, standing_by, read_pauses(connection))


def crew_of(
    at: datetime,
    leader: Leader | None,
    workers: Collection[dict[str, Any]],
    standing_by: Iterable[Any] = (),
    pauses: tuple[Pause, ...] = (),
) -> Crew:
    """Tell those whose lease holds at an instant from those whose lease has run out."""
    return Crew(
        at,
        leader,
        tuple(each for each in workers if each["expires_at"] > at),
        tuple(each for each in workers if each["expires_at"] <= at),
        standbys_of(standing_by, at),
        pauses,
    )


def standbys_of(rows: Iterable[Any], at: datetime) -> tuple[Standby, ...]:
    """Say of rows of ``standbys`` what they are at an instant of wall time, the first first."""
    return tuple(
        Standby(row.owner, row.expires_at > at, row.since, row.renewed_at)
        for row in sorted(rows, key=attrgetter("since", "owner"))
    )


def read_leader(connection: Connection) -> Leader | None:
    """Read which scheduler leads, or was the last one to; ``None`` where none ever has."""
    row: dict[str, Any] | None = leases.leader(connection, LEADERSHIP)
    return leader_of(row, row["at"]) if row is not None else None


def leader_of(row: Mapping[str, Any], at: datetime) -> Leader:
    """Say of a row of ``leases`` what it is at an instant of wall time."""
    return Leader(
        owner=row["owner"],
        epoch=row["epoch"],
        alive=row["expires_at"] > at,
        ticked_at=row["ticked_at"],
        tick_age=at - row["ticked_at"] if row["ticked_at"] else None,
        figures=row["figures"] or {},
    )


def count_listeners(workers: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Count the workers that listen to each queue."""
    found: dict[str, int] = {}
    for worker in workers:
        for queue in worker["queues"]:
            found[queue] = found.get(queue, 0) + 1
    return found


def judge_leader(leader: Leader | None, lease: timedelta) -> tuple[bool, str]:
    """
    Say whether a scheduler leads and completes its ticks, and how that shows.

    Args:
        leader: As it was read.
        lease: For how long one that says nothing keeps the lead.
    """
    if leader is None:
        return False, "no scheduler has led yet"
    if not leader.alive:
        return False, f"no scheduler leads; the last one was {leader.process}"
    if leader.tick_age is None:
        return False, f"{leader.process} leads, and has not completed a tick"
    told = f"{leader.process} leads; its last tick was {whole_seconds(leader.tick_age)} ago"
    return leader.tick_age <= SILENT_AFTER_LEASES * lease, told


def whole_seconds(age: timedelta) -> str:
    """Write an age: ``"12 s"``."""
    return f"{max(0, round(age.total_seconds()))} s"
