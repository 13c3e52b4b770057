"""``prometheus doctor``: what is configured, what answers, what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import typer

from prometheus.cli.options import AsJson, Folder

if TYPE_CHECKING:
    from rich.console import Console

    from prometheus.cli.places import Place

_OLDEST_REDIS = (6, 2)
_BROKER_TIMEOUT_SECONDS = 3


class Health(StrEnum):
    """What became of one examination."""

    OK = "ok"
    WARNING = "warning"
    """It works, and there is something to know."""
    ALERT = "alert"
    """It works, and soon it will not unless somebody does something."""
    FAULT = "fault"
    """Something that is needed does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was examined."""

    name: str
    health: Health
    text: str
    remedy: str = ""
    """What to do about it."""


def doctor(folder: Folder = None, as_json: AsJson = False) -> None:
    """
    Examine an installation: settings, pipelines, calendars, database, broker, who is at work.

    Ends with 1 if something that is needed does not work.
    """
    from prometheus.cli import output
    from prometheus.cli.places import find_place
    from prometheus.errors import PrometheusError

    place = None
    findings = []
    try:
        place = find_place(folder)
    except PrometheusError as error:
        findings.append(Finding("settings", Health.FAULT, str(error), "Correct what it names."))
    if place is not None:
        findings += examine(place)
    broken = any(finding.health is Health.FAULT for finding in findings)
    if as_json:
        output.print_json(
            {
                "healthy": not broken,
                "settings": _settings(place),
                "findings": [
                    {
                        "name": finding.name,
                        "health": finding.health,
                        "text": finding.text,
                        "remedy": finding.remedy or None,
                    }
                    for finding in findings
                ],
            }
        )
    else:
        _print(output.console(), place, findings)
    if broken:
        raise typer.Exit(1)


def examine(place: Place) -> Iterator[Finding]:
    """Examine everything; one fault does not keep the rest from being examined."""
    yield _stack(place)
    yield _pipelines(place)
    yield from _calendars(place, datetime.now(UTC).date())
    yield from _database(place)
    yield from _broker(place)


def _settings(place: Place | None) -> list[dict[str, str]]:
    from prometheus.settings import listing

    if place is None:
        return []
    return [
        {
            "name": each.name,
            "value": each.value,
            "origin": place.origins.get(each.name, each.origin),
        }
        for each in listing(place.settings)
    ]


def _stack(place: Place) -> Finding:
    from prometheus.cli.stack import NoRedisServerError, find_redis_server

    if place.stack is not None:
        return Finding("embedded stack", Health.OK, f"running, pid {place.stack.pid}")
    text = f"not running in {place.folder} (not needed in production)"
    try:
        return Finding("embedded stack", Health.OK, f"{text}; its Redis: {find_redis_server()}")
    except NoRedisServerError as error:
        return Finding("embedded stack", Health.WARNING, text, str(error))


def _pipelines(place: Place) -> Finding:
    from prometheus.cli import output
    from prometheus.configured import sound_pipelines

    pipelines, faults = sound_pipelines(place.settings)
    enabled = place.settings.markets.enabled
    told, idle = [], []
    for pipeline in pipelines.values():
        served = [market for market in pipeline.markets if market in enabled]
        jobs = output.count(len(pipeline.jobs), "job")
        told.append(f"{pipeline.name}: {jobs} for {', '.join(served) or 'no market'}")
        if not served:
            idle.append(f"{pipeline.name} is for {', '.join(pipeline.markets)}")
    if faults:
        shown = "".join(f"\n  - {fault}" for fault in faults)
        sound = "; ".join(told) or "none is sound"
        remedy = "Correct the lines it names; until then these pipelines are left out."
        return Finding("pipelines", Health.FAULT, f"{sound}{shown}", remedy)
    if idle:
        remedy = f"{'; '.join(idle)}: add its markets to PROMETHEUS__MARKETS__ENABLED."
        return Finding("pipelines", Health.WARNING, "; ".join(told), remedy)
    return Finding("pipelines", Health.OK, "; ".join(told))


def _calendars(place: Place, today: date) -> Iterator[Finding]:
    from prometheus.core.horizons import HorizonLevel, horizon_level
    from prometheus.core.trading_calendar import TradingCalendar
    from prometheus.errors import PrometheusError

    health = {
        HorizonLevel.OK: Health.OK,
        HorizonLevel.WARNING: Health.WARNING,
        HorizonLevel.ALERT: Health.ALERT,
        HorizonLevel.ERROR: Health.FAULT,
    }
    for market_id in place.settings.markets.enabled:
        name = f"calendar {market_id}"
        try:
            calendar = TradingCalendar(market_id)
        except PrometheusError as error:  # the other markets still have theirs
            yield Finding(name, Health.FAULT, str(error))
            continue
        level = horizon_level(calendar.horizon, today)
        if level is HorizonLevel.ERROR:
            text = f"sessions known only to {calendar.horizon}"
        else:
            left = (calendar.horizon - today).days
            text = f"sessions known to {calendar.horizon}, {left} days from now"
        if level is HorizonLevel.OK:
            yield Finding(name, Health.OK, text)
        else:
            yield Finding(
                name,
                health[level],
                f"{text}, {calendar.horizon_source}",
                "Install a release with a newer sessions snapshot.",
            )


def _database(place: Place) -> Iterator[Finding]:
    from sqlalchemy import text

    from prometheus.cli.places import opened
    from prometheus.dispatch.crew import read_crew
    from prometheus.errors import PrometheusError
    from prometheus.persistence import migrate
    from prometheus.persistence.engine import reading

    remedy = "Start its server, or correct PROMETHEUS__DATABASE__URL."
    if place.is_local:
        remedy = "Run: prometheus up, or prometheus db upgrade."
    try:
        with opened(place, checked=False) as engine:
            with reading(engine) as connection:
                if engine.dialect.name == "postgresql":
                    version = connection.execute(text("SHOW server_version")).scalar_one()
                    told = f"PostgreSQL {version} answers"
                else:
                    version = connection.execute(text("SELECT sqlite_version()")).scalar_one()
                    told = f"SQLite {version}"
            yield Finding("database", Health.OK, f"{place.shown_url}: {told}")
            found, wanted = migrate.current(engine), migrate.head()
            if found != wanted:
                state = f"revision {found}" if found else "no tables"
                yield Finding(
                    "tables",
                    Health.FAULT,
                    f"{state}; this release needs revision {wanted}",
                    "Run: prometheus db upgrade",
                )
                return
            yield Finding("tables", Health.OK, f"revision {found}")
            with reading(engine) as connection:
                crew = read_crew(connection)
    except PrometheusError as error:
        yield Finding("database", Health.FAULT, str(error), remedy)
        return
    yield from _crew(place, crew)


def _crew(place: Place, crew: Any) -> Iterator[Finding]:
    from prometheus.cli import output

    leader = crew.leader
    if crew.scheduled:
        age = output.in_words(leader.tick_age) if leader.tick_age is not None else "?"
        yield Finding("scheduler", Health.OK, f"{leader.process}, last tick {age} ago")
    else:
        yield Finding(
            "scheduler",
            Health.FAULT,
            "none is running, so nothing starts by itself",
            "Run: prometheus up, or prometheus beat.",
        )
    queues = crew.queues()
    for market_id in place.settings.markets.enabled:
        number = queues.get(market_id, 0)
        if number:
            yield Finding(f"queue {market_id}", Health.OK, output.count(number, "worker"))
        else:
            yield Finding(
                f"queue {market_id}",
                Health.FAULT,
                "no worker listens to it",
                f"Run: prometheus up, or prometheus worker {market_id}.",
            )


def _broker(place: Place) -> Iterator[Finding]:
    import redis
    from redis.exceptions import RedisError

    from prometheus.masking import safe_url

    url = place.settings.broker.url.get_secret_value()
    shown = safe_url(url)
    if ";" in url or url.startswith("rediss+socket://"):
        yield Finding("broker", Health.WARNING, f"{shown}: not examined, only a single Redis is")
        return
    address = url.replace("redis+socket://", "unix://", 1)
    try:
        client = redis.Redis.from_url(
            address,
            socket_timeout=_BROKER_TIMEOUT_SECONDS,
            socket_connect_timeout=_BROKER_TIMEOUT_SECONDS,
        )
        try:
            info: Any = client.info()
        finally:
            client.close()
    except (RedisError, OSError, ValueError) as error:
        yield Finding(
            "broker",
            Health.FAULT,
            f"{shown} does not answer: {str(error).rstrip('.')}",
            "Start Redis, or correct PROMETHEUS__BROKER__URL; `prometheus up` brings its own.",
        )
        return
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_REDIS:
        yield Finding(
            "broker",
            Health.FAULT,
            f"{shown}: Redis {version} is older than 6.2",
            "Install Redis 6.2 or later.",
        )
    else:
        yield Finding("broker", Health.OK, f"{shown}: Redis {version} answers")
    policy = info.get("maxmemory_policy", "?")
    if policy == "noeviction":
        yield Finding("broker memory", Health.OK, "noeviction: no message is dropped")
    else:
        yield Finding(
            "broker memory",
            Health.FAULT,
            f"maxmemory-policy is {policy}, so Redis may drop messages",
            "Set `maxmemory-policy noeviction` in redis.conf.",
        )
    if not info.get("aof_enabled"):
        yield Finding(
            "broker durability",
            Health.WARNING,
            "append-only file off: after a crash of Redis, messages are sent again from the rows",
            "Set `appendonly yes` in redis.conf.",
        )


def _print(console: Console, place: Place | None, findings: list[Finding]) -> None:
    from rich.text import Text

    from prometheus.cli import output

    if place is not None:
        console.print("What is configured", style="bold")
        table = output.table("  Setting", "Value", "From")
        for each in _settings(place):
            table.add_row(f"  {each['name']}", Text(each["value"]), Text(each["origin"]))
        console.print(table)
        console.print()
    console.print("What was found", style="bold")
    styles = {
        Health.OK: "green",
        Health.WARNING: "yellow",
        Health.ALERT: "red",
        Health.FAULT: "bold red",
    }
    for finding in findings:
        line = Text("  ")
        line.append(f"{finding.health:<8}", style=styles[finding.health])
        line.append(f"{finding.name}: {finding.text}")
        console.print(line, soft_wrap=True)
        if finding.remedy:
            console.print(Text(f"          {finding.remedy}"), soft_wrap=True)
    faults = sum(finding.health is Health.FAULT for finding in findings)
    console.print()
    if faults:
        console.print(f"{output.count(faults, 'fault')}.", style="bold red")
    else:
        console.print("Everything needed works.", style="bold green")
