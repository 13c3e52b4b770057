"""Who is at work on a database: schedulers and workers, by their leases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine

from prometheus.dispatch.names import LEADERSHIP
from prometheus.orchestration.pauses import Pause
from prometheus.persistence import leases
from prometheus.persistence.engine import is_held
from prometheus.persistence.pauses import read_pauses


@dataclass(frozen=True, slots=True)
class Leader:
    """The scheduler that leads, or the last one that did."""

    owner: str
    epoch: int
    alive: bool
    """Whether its lease holds."""
    tick_age: timedelta | None
    """Wall time since its last tick."""

    @property
    def process(self) -> str:
        """Host and process id."""
        host, pid, *_ = [*self.owner.split(":"), "?"]
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
        found: dict[str, int] = {}
        for worker in self.workers:
            for queue in worker["queues"]:
                found[queue] = found.get(queue, 0) + 1
        return found

    def document(self) -> dict[str, Any]:
        """Describe it for machines."""
        return {
            "locked": self.locked,
            "scheduler": self.leader
            and {
                "owner": self.leader.owner,
                "epoch": self.leader.epoch,
                "alive": self.leader.alive,
                "last_tick_seconds_ago": self.leader.tick_age
                and round(self.leader.tick_age.total_seconds(), 1),
            },
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


def read_crew(connection: Connection) -> Crew:
    """Read who holds a lease."""
    now = leases.wall_time(connection)
    row: dict[str, Any] | None = leases.leader(connection, LEADERSHIP)
    leader = None
    if row is not None:
        leader = Leader(
            owner=row["owner"],
            epoch=row["epoch"],
            alive=row["expires_at"] > now,
            tick_age=now - row["ticked_at"] if row["ticked_at"] else None,
        )
    return Crew(
        now,
        leader,
        tuple(leases.live_workers(connection, now)),
        tuple(leases.silent_workers(connection, now)),
        read_pauses(connection),
    )
