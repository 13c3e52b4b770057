"""``prometheus health``: whether one part of an installation works, for whoever restarts it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prometheus.cli.options import AsJson, Folder
from prometheus.errors import PrometheusError

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

    from prometheus.cli.places import Place

_LOOK_AGAIN_AFTER = 6.0
"""A busy worker says so every five seconds."""
_LOOK_EVERY = 0.5

application = typer.Typer(
    no_args_is_help=True,
    help="Say whether one part works: ends with 0 or 1, and one line that says why.",
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found."""

    healthy: bool
    text: str


@application.callback()
def _group() -> None:
    """Say whether one part works: ends with 0 or 1, and one line that says why."""


@application.command("beat")
def beat(folder: Folder = None, as_json: AsJson = False) -> None:
    """
    Say whether a scheduler leads and completes its ticks, on whatever machine.

    With PROMETHEUS__SCHEDULER__HEARTBEAT also whether the one here does, which may stand by.
    """
    _answer("beat", folder, as_json, _beat)


@application.command("worker")
def worker(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="A worker, such as us_eq or us_eq@host. Default: all on this host.",
            show_default=False,
        ),
    ] = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """
    Say whether a worker holds its lease, and takes what waits for it unless it is busy.

    One that takes nothing although it has time is deaf, whatever its lease says.
    """
    _answer("worker", folder, as_json, lambda place: _worker(place, name))


@application.command("database")
def database(folder: Folder = None, as_json: AsJson = False) -> None:
    """Say whether the database answers and has this release's tables."""
    _answer("database", folder, as_json, _database)


@application.command("broker")
def broker(folder: Folder = None, as_json: AsJson = False) -> None:
    """Say whether Redis answers."""
    _answer("broker", folder, as_json, _broker)


def _answer(
    part: str, folder: Path | None, as_json: bool, examine: Callable[[Place], Verdict]
) -> None:
    from prometheus.cli.places import find_place

    try:
        found = examine(find_place(folder, holding=True))
    except PrometheusError as error:
        found = Verdict(False, str(error))
    if as_json:
        print(json.dumps({"part": part, "healthy": found.healthy, "text": found.text}))
    else:
        print(f"{'healthy' if found.healthy else 'UNHEALTHY'}: {found.text}")
    if not found.healthy:
        raise typer.Exit(1)


def _database(place: Place) -> Verdict:
    from prometheus.cli.places import opened

    with opened(place):
        return Verdict(True, f"{place.shown_url} answers, with the tables of this release")


def _beat(place: Place) -> Verdict:
    from prometheus.cli.places import opened
    from prometheus.dispatch.crew import SILENT_AFTER_LEASES, judge_leader, read_leader
    from prometheus.persistence.engine import reading

    pace = place.settings.scheduler
    silent_after = SILENT_AFTER_LEASES * pace.lease
    if pace.heartbeat is not None and (still := _stands_still(pace.heartbeat, silent_after)):
        return Verdict(False, still)
    # A tick is noted when the next one begins.
    deadline = time.monotonic() + pace.max_wait.total_seconds() + _LOOK_AGAIN_AFTER
    with opened(place, checked=False) as engine:
        while True:
            with reading(engine) as connection:
                leader = read_leader(connection)
            begun = leader is not None and leader.alive and leader.tick_age is None
            if not begun or time.monotonic() > deadline:
                return Verdict(*judge_leader(leader, pace.lease))
            time.sleep(_LOOK_EVERY)


def _stands_still(heartbeat: Path, silent_after: timedelta) -> str | None:
    """Say of the scheduler that touches a file that it does not."""
    from prometheus.dispatch.crew import whole_seconds

    try:
        age = timedelta(seconds=time.time() - heartbeat.stat().st_mtime)
    except FileNotFoundError:
        return f"the scheduler here has not completed a tick: there is no {heartbeat}"
    if age <= silent_after:
        return None
    return f"the scheduler here stands still: it touched {heartbeat} {whole_seconds(age)} ago"


def _worker(place: Place, name: str | None) -> Verdict:
    from prometheus.cli.places import opened
    from prometheus.dispatch.broker import connected
    from prometheus.dispatch.crew import whole_seconds

    with opened(place, checked=False) as engine:
        now, found = _find_workers(engine, name)
        if not found:
            return Verdict(
                False, f"{_whole(name) if name else 'a worker on this host'} holds no lease"
            )
        names = ", ".join(each["worker"] for each in found)
        with connected(place.settings.broker.url) as redis:
            suspects = _deaf(engine, redis, now, found)
            if suspects:
                # Between two jobs a worker may seem to have time; what it then takes is gone.
                time.sleep(_LOOK_AGAIN_AFTER)
                again = _deaf(engine, redis, now, found)
                suspects = {key: each for key, each in suspects.items() if again.get(key) == each}
        if suspects:
            told = [f"{worker} takes nothing from {queue}" for worker, queue in suspects]
            return Verdict(False, f"deaf: {'; '.join(told)}, although it has time")
        seen = max(now - each["renewed_at"] for each in found)
        age = whole_seconds(seen)
        return Verdict(True, f"{names} holds its lease, renewed {age} ago, and hears")


def _find_workers(engine: Engine, name: str | None) -> tuple[datetime, list[dict[str, Any]]]:
    """Return the workers that are meant and hold a lease, and the time of the look."""
    from prometheus.persistence import leases
    from prometheus.persistence.engine import reading

    with reading(engine) as connection:
        now = leases.wall_time(connection)
        workers = leases.live_workers(connection, now)
    if name is None:
        return now, [each for each in workers if each["host"] == socket.gethostname()]
    return now, [each for each in workers if each["worker"] == _whole(name)]


def _whole(name: str) -> str:
    """Write a worker's name with its host, by default this one."""
    return name if "@" in name else f"{name}@{socket.gethostname()}"


def _deaf(
    engine: Engine, redis: Any, now: datetime, workers: list[dict[str, Any]]
) -> dict[tuple[str, str], bytes]:
    """
    Find what waits too long for workers that have time.

    Returns:
        Node name and queue -> the message at the queue's front.
    """
    from prometheus.dispatch.names import BUSY_KEY
    from prometheus.orchestration.reasons import DEAF_AFTER

    found: dict[tuple[str, str], bytes] = {}
    for each in workers:
        if redis.exists(f"{BUSY_KEY}{each['incarnation']}"):
            continue
        for queue in each["queues"]:
            message: bytes | None = redis.lindex(queue, -1)  # of the highest priority
            sent_at = _sent_at(engine, message) if message is not None else None
            if message is None or sent_at is None:
                continue
            # What waited before it came did not wait for it.
            if now - max(sent_at, each["started_at"]) > DEAF_AFTER:
                found[each["worker"], queue] = message
    return found


def _sent_at(engine: Engine, message: bytes) -> datetime | None:
    """Return when a canary, or the message of an execution, was sent; ``None``: not known."""
    from sqlalchemy import select

    from prometheus.dispatch.names import CANARY_EXPIRES_SECONDS
    from prometheus.persistence.engine import reading
    from prometheus.persistence.tables import job_executions

    try:
        headers = json.loads(message)["headers"]
        if headers.get("expires"):
            expires_at = datetime.fromisoformat(headers["expires"])
            return expires_at.astimezone(UTC) - timedelta(seconds=CANARY_EXPIRES_SECONDS)
        execution_id = str(headers["id"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # no message of ours
    with reading(engine) as connection:
        sent_at: datetime | None = connection.execute(
            select(job_executions.c.published_at).where(
                job_executions.c.execution_id == execution_id
            )
        ).scalar_one_or_none()
    return sent_at


def _broker(place: Place) -> Verdict:
    from prometheus.dispatch.broker import connected
    from prometheus.masking import safe_url

    url = place.settings.broker.url
    with connected(url):
        return Verdict(True, f"{safe_url(url)} answers")
