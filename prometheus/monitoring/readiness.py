"""Whether everything that an installation needs works."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime

from sqlalchemy.exc import DBAPIError

from prometheus.core.horizons import HorizonLevel, horizon_level
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.broker import NoAnswerError, connected
from prometheus.dispatch.crew import judge_leader, read_leader
from prometheus.errors import DatabaseError, PrometheusError
from prometheus.masking import safe_text, safe_url
from prometheus.monitoring.installation import Installation
from prometheus.persistence import migrate
from prometheus.persistence.engine import check_exists, reading, what_ails


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was examined."""

    name: str
    ok: bool
    text: str


def examine(installation: Installation) -> Iterator[Check]:
    """Examine everything; one fault does not keep the rest from being examined."""
    yield from _database(installation)
    yield _broker(installation)
    today = datetime.now(UTC).date()
    for market_id in installation.settings.markets.enabled:
        yield _calendar(market_id, today)


def _database(installation: Installation) -> Iterator[Check]:
    shown, engine = installation.shown_url, installation.engine
    try:
        check_exists(engine)
        migrate.check(engine)
        with reading(engine) as connection:
            leader = read_leader(connection)
    except migrate.DatabaseRevisionError as error:
        yield Check("database", True, f"{shown} answers")
        yield Check("tables", False, str(error))
    except DatabaseError as error:
        yield Check("database", False, str(error))
    except DBAPIError as error:
        text = f"{shown} {what_ails(error)}"
        yield Check("database", False, safe_text(text))
    else:
        yield Check("database", True, f"{shown} answers")
        yield Check("tables", True, f"those of this release, revision {migrate.head()}")
        yield Check("scheduler", *judge_leader(leader, installation.settings.scheduler.lease))


def _broker(installation: Installation) -> Check:
    url = installation.settings.broker.url
    try:
        with connected(url):
            return Check("broker", True, f"{safe_url(url)} answers")
    except NoAnswerError as error:
        return Check("broker", False, safe_text(str(error)))


def _calendar(market_id: str, today: date) -> Check:
    name = f"calendar {market_id}"
    try:
        calendar = TradingCalendar(market_id)
    except PrometheusError as error:  # the other markets still have theirs
        return Check(name, False, str(error))
    level = horizon_level(calendar.horizon, today)
    text = f"{level}: sessions known to {calendar.horizon}, {calendar.horizon_source}"
    return Check(name, level is not HorizonLevel.ERROR, text)
