"""What recipients read: what is wrong, where, since when, what happens next and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from sqlalchemy import Row

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import PrometheusError
from prometheus.masking import safe_text
from prometheus.orchestration.alerts import Route, Told
from prometheus.persistence.alerts import Compose, Message, facts_of

_LONGEST_TITLE = 200
_MOST_LISTED = 20


def composer(routes: Mapping[str, Route], pages: str) -> Compose:
    """
    Make what writes the messages of an alert.

    Args:
        routes: Channel -> which alerts it gets.
        pages: Where people find them; empty where nobody does.
    """

    def compose(alert: Row[Any], event: Told, known: frozenset[str]) -> Iterator[Message]:
        facts = facts_of(alert)
        title, body = write(alert, event, pages)
        for channel, route in routes.items():
            if channel in known if event is Told.RESOLVED else route.takes(facts):
                yield Message(channel, title, body)

    return compose


def write(alert: Row[Any], event: Told, pages: str) -> tuple[str, str]:
    """
    Write the title and the text of a message, without secrets.

    Args:
        pages: Where people find them; empty where nobody does.
    """
    over = event is Told.RESOLVED
    title = f"{'Over' if over else alert.severity.capitalize()}: {alert.summary}"
    lines = [f"Alert {alert.alert_id}, {alert.kind}"]
    lines += _line("markets", alert.markets)
    lines += _line("run", [alert.dag_id])
    lines += _line("about", _first(alert.subjects))
    lines.append(f"since: {_instant(alert.since, alert.markets)}")
    if over:
        lines.append(f"over: {_instant(alert.resolved_at, alert.markets)}")
    else:
        lines += ["", *_first(alert.details)]
        lines += [
            "",
            f"Seen to by you? prometheus alerts ack {alert.alert_id} --reason TEXT",
        ]
    if pages:
        page = f"runs/{quote(alert.dag_id, safe='')}" if alert.dag_id else "operations"
        lines += ["", f"{pages}/{page}"]
    return safe_text(title)[:_LONGEST_TITLE], safe_text("\n".join(lines))


def _first(values: Sequence[str]) -> Sequence[str]:
    """Return so many that a message stays one that people read, and say how many more there are."""
    left = len(values) - _MOST_LISTED
    return [*values[:_MOST_LISTED], f"and {left} more"] if left > 0 else values


def _line(name: str, values: Iterable[str | None]) -> list[str]:
    words = ", ".join(each for each in values if each)
    return [f"{name}: {words}"] if words else []


def _instant(at: datetime, markets: Iterable[str]) -> str:
    """Write an instant in UTC, and as the clocks of the market's first exchange show it."""
    text = f"{at:%Y-%m-%d %H:%M} UTC"
    for market_id in markets:
        try:
            zone = TradingCalendar(market_id).zone
        except PrometheusError:
            return text
        return f"{text} ({at.astimezone(zone):%Y-%m-%d %H:%M} {zone.key})"
    return text
