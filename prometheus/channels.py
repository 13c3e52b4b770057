"""Channels: where messages are sent, by apprise; an URL says all of it, and is a secret."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import timedelta
from typing import Literal, TypeAlias

from pydantic import SecretStr

from prometheus.masking import safe_text

PATIENCE = timedelta(seconds=30)
"""How long a channel may take to accept a message."""
Tone: TypeAlias = Literal["info", "success", "warning", "failure"]
_LOGGER = "apprise"
_said = threading.local()
"""What apprise has logged in this thread, which alone tells why something was not accepted."""


class _Listener(logging.Handler):
    """Keeps the words of the thread that sends, and lets nobody else have them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        lines: list[str] | None = getattr(_said, "lines", None)
        if lines is not None and record.levelno >= logging.WARNING:
            lines.append(record.getMessage())


def send(
    url: SecretStr, title: str, body: str, *, tone: Tone = "info", patience: timedelta = PATIENCE
) -> str | None:
    """
    Send a message, and wait until it is accepted or not.

    Args:
        url: As apprise takes it: ``mailto://``, ``slack://``, ``json://`` and a hundred more.
        tone: How grave it is, which services show, or open and close incidents by.

    Returns:
        What went wrong, without secrets; ``None`` if it was accepted.
    """
    answer: Future[str | None] = Future()

    def fulfil() -> None:
        try:
            answer.set_result(_send(url.get_secret_value(), title, body, tone))
        except Exception as error:  # noqa: BLE001  of a plugin: it says what there is to say
            answer.set_result(f"{type(error).__name__}: {error}")

    # What never answers keeps a thread, and no process that is to end.
    threading.Thread(target=fulfil, name="send", daemon=True).start()
    try:
        error = answer.result(patience.total_seconds())
    except FutureTimeoutError:
        return f"no answer within {patience.total_seconds():.0f} s"
    return safe_text(error) if error is not None else None


def _send(url: str, title: str, body: str, tone: Tone) -> str | None:
    import apprise  # takes a while, and most processes never send anything

    _listen()
    lines: list[str] = []
    _said.lines = lines
    plugin = apprise.Apprise.instantiate(
        url, asset=apprise.AppriseAsset(app_id="Prometheus", async_mode=False)
    )
    if plugin is None:
        return _last(lines) or "apprise can not use its URL"
    # Services refuse what is longer than they take.
    plugin.overflow_mode = apprise.OverflowMode.TRUNCATE
    kind = apprise.NotifyType(tone)
    if plugin.notify(
        title=title, body=body, notify_type=kind, body_format=apprise.NotifyFormat.TEXT
    ):
        return None
    return _last(lines) or "it was not accepted"


def _listen() -> None:
    logger = logging.getLogger(_LOGGER)
    if not any(isinstance(each, _Listener) for each in logger.handlers):
        logger.addHandler(_Listener())
        logger.propagate = False


def _last(lines: list[str]) -> str:
    return " ".join(lines[-1].split()) if lines else ""
