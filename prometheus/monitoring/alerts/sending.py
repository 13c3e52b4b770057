"""Messages go out: each channel by a thread of its own, so that none waits for another."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Engine, Row

from prometheus import channels
from prometheus.orchestration.alerts import AlertKind, Severity, Told
from prometheus.persistence import alerts
from prometheus.persistence.alerts import Accepted
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.leases import wall_time

log = logging.getLogger(__name__)

_SINGLY = 5
"""How many messages a channel gets one by one; more than that come in one."""
_AT_ONCE = 100
"""How many that one lists; further ones have their turn at the next look."""
_IN_AN_HOUR = 20
"""How many messages of one kind a channel gets in an hour before they are gathered."""
_GATHERED_FOR = timedelta(minutes=10)
"""How long they are, until there are fewer."""


class Sender:
    """Sends what is due; nothing that is under way is sent by it a second time."""

    def __init__(
        self,
        engine: Engine,
        urls: Mapping[str, SecretStr],
        *,
        patience: timedelta = channels.PATIENCE,
    ) -> None:
        self._engine = engine
        self._urls = urls
        self._patience = patience
        self._busy: dict[str, threading.Thread] = {}

    def begin(self, at: datetime | None = None) -> None:
        """
        Begin to send what is due on every channel on which nothing is being sent.

        Args:
            at: Wall time; the database's own if not given.
        """
        with reading(self._engine) as connection:
            now = at or wall_time(connection)
            due = alerts.due_messages(connection, now, limit=_AT_ONCE)
            accepted = alerts.accepted_since(connection, now - timedelta(hours=1)) if due else {}
        by_channel: dict[str, list[Row[Any]]] = {}
        for each in due:
            by_channel.setdefault(each.channel, []).append(each)
        for channel, messages in by_channel.items():
            under_way = self._busy.get(channel)
            if under_way is not None and under_way.is_alive():
                continue
            batches = _batches(messages, accepted.get(channel, {}), now)
            # The process does not wait for it when it ends.
            thread = threading.Thread(
                target=self._go,
                args=(channel, messages, batches, at),
                name=f"to {channel}",
                daemon=True,
            )
            self._busy[channel] = thread
            thread.start()

    def wait(self, timeout: float) -> None:
        """Wait until nothing is under way any more."""
        for thread in tuple(self._busy.values()):
            thread.join(timeout)

    def _go(
        self,
        channel: str,
        messages: Sequence[Row[Any]],
        batches: Iterable[Sequence[Row[Any]]],
        at: datetime | None,
    ) -> None:
        try:
            url = self._urls.get(channel)
            if url is not None and channels.keeps_incidents(url):
                # An incident is opened and closed by a message of its own.
                batches = [[each] for each in messages]
            for batch in batches:
                if not self._send(channel, batch, at):
                    return  # the others have their turn by and by
        except Exception as error:  # noqa: BLE001  most likely the database's: they are tried again
            log.warning("alert_not_noted", extra={"channel": channel, "error": str(error)})

    def _send(self, channel: str, messages: Sequence[Row[Any]], at: datetime | None) -> bool:
        with writing(self._engine) as connection:
            now = at or wall_time(connection)
            taken = alerts.take_messages(connection, messages, now)
        if not taken:
            return True
        url = self._urls.get(channel)
        if url is None:
            error: str | None = "there is no such channel in the settings any more"
        else:
            key = taken[0].key if len(taken) == 1 else None
            error = channels.send(
                url, *_text(taken), tone=_tone(taken), key=key, patience=self._patience
            )
        with writing(self._engine) as connection:
            now = at or wall_time(connection)
            given_up = alerts.note_sent(connection, taken, now, error)
        facts = {"channel": channel, "messages": len(taken), "error": error}
        if error is None:
            log.info("alert_sent", extra=facts)
        else:
            event = "alert_given_up" if given_up else "alert_not_sent"
            log.log(logging.ERROR if given_up else logging.WARNING, event, extra=facts)
        return error is None


def _batches(
    messages: Sequence[Row[Any]], accepted: Mapping[AlertKind, Accepted], now: datetime
) -> Iterator[Sequence[Row[Any]]]:
    """
    Divide what is due on a channel into messages; what there is too much of waits to be gathered.

    Args:
        accepted: Kind -> what of it the channel has accepted in the last hour.
    """
    usual = []
    gathered: dict[str, list[Row[Any]]] = {}
    for each in messages:
        lately = accepted.get(AlertKind(each.kind))
        if lately is None or lately.count < _IN_AN_HOUR:
            usual.append(each)
        elif now - lately.last_at >= _GATHERED_FOR:
            gathered.setdefault(each.kind, []).append(each)
    if len(usual) > _SINGLY:
        yield usual[:_AT_ONCE]
    else:
        yield from ([each] for each in usual)
    yield from gathered.values()


def _tone(messages: Sequence[Row[Any]]) -> channels.Tone:
    """Return how grave it is, by which some services open and close incidents."""
    raised = {each.severity for each in messages if each.event == Told.RAISED}
    if not raised:
        return "success"
    return "warning" if raised == {Severity.WARNING} else "failure"


def _text(messages: Sequence[Row[Any]]) -> tuple[str, str]:
    """Return the title and text of one message, or of many in one."""
    if len(messages) == 1:
        return messages[0].title, messages[0].body
    lines = [f"- {each.title}" for each in messages]
    lines += ["", "All of them: prometheus alerts"]
    return f"{len(messages)} messages: {messages[0].title}", "\n".join(lines)
