"""Channels: where messages are sent, by apprise; an URL says all of it, and is a secret."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import timedelta
from hashlib import sha256
from typing import Any, Literal, TypeAlias
from urllib.parse import quote, urlencode

from pydantic import SecretStr

from prometheus.errors import PrometheusError, nearest
from prometheus.masking import safe_text
from prometheus.orchestration.alerts import UNANSWERED

PATIENCE = timedelta(seconds=30)
"""How long a channel may take to accept a message."""
Tone: TypeAlias = Literal["info", "success", "warning", "failure"]
_LOGGER = "apprise"
_KEYS: Mapping[str, str] = {
    "firehydrant": "dedup",
    "goalert": "dedup",
    "goalerts": "dedup",
    "ilert": "dedup",
    "incidentio": "dedup",
    "jira": "alias",
    "opsgenie": "alias",
    "opsimate": "dedup",
    "opsimates": "dedup",
    "pagerduty": "dedup",
    "pagertree": "thirdparty",
    "signl4": "external_id",
    "splunk": "entity_id",
    "squadcast": "dedup",
    "victorops": "entity_id",
}
"""Services that keep incidents by a key -> what their URL calls it, by apprise 2.3.0."""
_LONGEST_KEY = 200
"""PagerDuty takes 255 characters, the others more."""
_said = threading.local()
"""What apprise has logged in this thread, which alone tells why something was not accepted."""


class UnknownChannelError(PrometheusError):
    """There is no channel of that name."""


class NoChannelsError(PrometheusError):
    """There are no channels at all."""


class _Listener(logging.Handler):
    """Keeps the words of the thread that sends, and lets nobody else have them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        lines: list[str] | None = getattr(_said, "lines", None)
        if lines is not None and record.levelno >= logging.WARNING:
            lines.append(record.getMessage())


def keeps_incidents(url: SecretStr) -> bool:
    """Say whether an URL is of a service that opens and closes incidents by a key."""
    return _parts(url.get_secret_value()).get("schema") in _KEYS


def send(
    url: SecretStr,
    title: str,
    body: str,
    *,
    tone: Tone = "info",
    key: str | None = None,
    patience: timedelta = PATIENCE,
) -> str | None:
    """
    Send a message, and wait until it is accepted or not.

    Args:
        url: As apprise takes it: ``mailto://``, ``slack://``, ``json://`` and a hundred more.
        tone: How grave it is, which services show, or open and close incidents by.
        key: Of the incident that it opens, or closes with the tone ``success``, where the service
            keeps incidents; unless the URL itself says which one.

    Returns:
        What went wrong, without secrets; ``None`` if it was accepted.
    """
    answer: Future[str | None] = Future()

    def fulfil() -> None:
        try:
            answer.set_result(_send(url.get_secret_value(), title, body, tone, key, patience))
        except Exception as error:  # noqa: BLE001  of a plugin: it says what there is to say
            answer.set_result(f"{type(error).__name__}: {error}")

    # What never answers keeps a thread, and no process that is to end.
    threading.Thread(target=fulfil, name="send", daemon=True).start()
    try:
        error = answer.result(patience.total_seconds())
    except FutureTimeoutError:
        return f"{UNANSWERED} {patience.total_seconds():.0f} s"
    return safe_text(error) if error is not None else None


def send_tests(channels: Mapping[str, SecretStr], channel: str | None) -> dict[str, str | None]:
    """
    Send a message by each channel at once, or by one of them, and wait for what comes back.

    Returns:
        Channel -> what went wrong; ``None``: it was accepted.

    Raises:
        UnknownChannelError, NoChannelsError: There is nothing to send by.
    """
    if channel is not None and channel not in channels:
        raise UnknownChannelError(f"There is no channel {channel!r}.{nearest(channel, channels)}")
    if not channels:
        raise NoChannelsError(
            "There are no channels. Name one under [channels] in prometheus.toml, or by "
            "PROMETHEUS__CHANNELS__NAME: a URL such as mailto://user:password@host."
        )
    names = [name for name in channels if channel in (None, name)]
    text = "This is a test: somebody asked for it. Nothing is wrong."

    def send_test(name: str) -> str | None:
        return send(channels[name], "Test: alerts arrive here", text)

    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(send_test, names), strict=True))


def _send(
    url: str, title: str, body: str, tone: Tone, key: str | None, patience: timedelta
) -> str | None:
    import apprise  # takes a while, and most processes never send anything

    _listen()
    lines: list[str] = []
    _said.lines = lines
    if key is not None:
        url = _naming_incident(url, key)
    plugin = apprise.Apprise.instantiate(
        url, asset=apprise.AppriseAsset(app_id="Prometheus", async_mode=False)
    )
    if plugin is None:
        return _last(lines) or "apprise can not use its URL"
    if plugin.socket_read_timeout == apprise.URLBase.socket_read_timeout:  # the URL says nothing
        plugin.socket_read_timeout = patience.total_seconds()
    # Services refuse what is longer than they take.
    plugin.overflow_mode = apprise.OverflowMode.TRUNCATE
    kind = apprise.NotifyType(tone)
    if plugin.notify(
        title=title, body=body, notify_type=kind, body_format=apprise.NotifyFormat.TEXT
    ):
        return None
    return _last(lines) or "it was not accepted"


def _naming_incident(url: str, key: str) -> str:
    """Have a service that keeps incidents open, or close, the one of a key."""
    parts = _parts(url)
    name = _KEYS.get(parts.get("schema", ""))
    if name is None or parts.get(name):
        return url
    if len(key) > _LONGEST_KEY:
        key = sha256(key.encode()).hexdigest()
    said = {name: key} if parts.get("action") else {name: key, "action": "map"}
    return f"{url}{'&' if '?' in url else '?'}{urlencode(said, quote_via=quote)}"


def _parts(url: str) -> Mapping[str, Any]:
    """Take an URL apart, as its service does; nothing where there is no such service."""
    import apprise

    _listen()
    parts: Mapping[str, Any] | None = apprise.plugins.url_to_dict(url)  # type: ignore[no-untyped-call]  # theirs
    return parts or {}


def _listen() -> None:
    logger = logging.getLogger(_LOGGER)
    if not any(isinstance(each, _Listener) for each in logger.handlers):
        logger.addHandler(_Listener())
        logger.propagate = False


def _last(lines: list[str]) -> str:
    return " ".join(lines[-1].split()) if lines else ""
