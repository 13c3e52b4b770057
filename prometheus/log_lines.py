"""Log lines: an event's name, and its facts as key=value."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from prometheus.masking import safe_text

_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "data"}


MAX_LENGTH = 30_000
"""Characters of one record that are written; its end and its beginning say most."""


class EventFormatter(logging.Formatter):
    """Writes ``2026-11-23T09:00:00.123Z INFO prometheus.dispatch run_created dag=… market=…``."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record; anything but plain words is written as JSON, so lines stay lines."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = (
            f"{at.removesuffix('+00:00')}Z {record.levelname} {record.name} {record.getMessage()}"
        )
        facts = {
            key: value
            for key, value in vars(record).items()
            if key not in _ORDINARY and value is not None
        }
        line += "".join(f" {key}={_plain(value)}" for key, value in facts.items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        line = safe_text(line)
        if len(line) > MAX_LENGTH:
            half = MAX_LENGTH // 2
            line = f"{line[:half]}... ({len(line) - 2 * half} characters) ...{line[-half:]}"
        return line


QUIET = ("alembic", "httpx", "httpcore")
"""
Loggers of which only warnings are shown.

Alembic names every step it takes; one line of ours says what came of them. httpx has a line for
every request, and httpcore, from DEBUG on, has all that a server sends: secrets, if it echoes them.
"""
QUIET_BUT_FOR_DEBUG = ("celery.app.trace", "celery.worker.strategy")
"""Likewise, unless all of Celery is asked for: of each task they say what a line of ours does."""


def configure(celery_level: int | str = "WARNING") -> None:
    """
    Send the log records of this process to standard error: ours from INFO on.

    Args:
        celery_level: From which level on Celery's own are shown, as its ``--loglevel`` says.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EventFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel("INFO")
    logging.getLogger("celery").setLevel(celery_level)
    asked_for_all = logging.getLogger("celery").level <= logging.DEBUG
    for name in QUIET if asked_for_all else (*QUIET, *QUIET_BUT_FOR_DEBUG):
        logging.getLogger(name).setLevel(logging.WARNING)


def _plain(value: object) -> str:
    text = str(value)
    if _is_word(text):
        return text  # what it must not show is hidden with its line
    text = safe_text(text)  # before it is written as JSON
    return text if _is_word(text) else json.dumps(text)


def _is_word(text: str) -> bool:
    return bool(text) and text.isprintable() and " " not in text
