"""What an attempt prints and logs, on its way from its process to the database."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import defaultdict
from contextlib import suppress
from typing import Protocol

from prometheus.dispatch.attempts import storable

log = logging.getLogger(__name__)

FLUSH_EVERY = 0.5
"""Wall seconds after which lines are kept while their attempt goes on."""
_RENEWED = 32_768
"""Characters of its end that are kept anew in a second, while it writes without a pause."""
FIRST, LAST = 131_072, 65_536
"""Characters of an attempt that are kept: so many of its beginning, and so many of its end."""
_LONGEST_LINE = 8_192
"""Bytes of a line that are kept before it has ended."""
_LEFT_OUT = "... {} characters are left out ...\n"
"""First line of the end of an attempt, where something is missing before it."""
_TOLD = re.compile(_LEFT_OUT.replace(".", r"\.").format(r"(\d{1,15})"))
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)", re.DOTALL)
"""What moves the cursor of a terminal, colours it, or names its window."""
_OVERWRITTEN = re.compile(r"^[^\n]*\r(?!\n)", re.MULTILINE)
"""What a progress bar has written over."""
_CONTROLS = re.compile(r"[\x01-\x08\x0b-\x1f\x7f-\x9f]")


class Keep(Protocol):
    """Writes what an attempt has written; what raises may have written it all the same."""

    def __call__(self, part: int, text: str, end: str, *, last: bool) -> None:
        """
        Write some lines behind those that were written before, and the newest of all.

        Args:
            part: Number of the lines, from 1: they are kept once, however often they are written.
            text: The lines; empty if none have come.
            end: What has come behind the first 128 KB, in place of what was so before; empty if
                nothing has come since.
            last: Whether nothing follows, so that it is worth waiting for the database.
        """


class AttemptLog:
    """
    Collects whole lines, and keeps them every half second and at the end.

    Once the first 128 KB are full, what is newest takes the place of what was, each time: who looks
    on sees how it goes on, and what is killed has left its last words. As that is up to 64 KB, it
    is done every two seconds only while it writes without a pause.

    Its own thread keeps them, so that neither a job that writes nothing for long nor a database
    that is slow holds anything up.
    """

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._process = os.getpid()
        # What is collected as garbage under it may write, too.
        self._lock = threading.RLock()
        self._keeping = threading.Lock()
        self._unfinished: defaultdict[str, bytes] = defaultdict(bytes)
        self._waiting = ""
        self._part = 1
        self._perhaps_kept = ""
        self._room = FIRST
        self._behind = bytearray()
        self._end = ""
        self._left_out = 0
        self._grown = False
        self._writes = False
        self._renew_at = 0.0
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def write(self, stream: str, data: bytes) -> None:
        """Take what was written to one of the process' streams."""
        if self._closed.is_set():
            return
        if os.getpid() != self._process:
            return  # of a process that the job forked, and in which the lock may never be released
        with self._lock:
            whole, newline, rest = (self._unfinished[stream] + data).rpartition(b"\n")
            if len(rest) > _LONGEST_LINE:
                whole, newline, rest = whole + newline + rest, b"\n", b""
            self._unfinished[stream] = rest
            self._take(whole + newline)
            if self._thread is None and self._waiting:
                self._thread = threading.Thread(target=self._work, name="attempt-log", daemon=True)
                with suppress(RuntimeError):  # a job that leaves no memory for it keeps its lines
                    self._thread.start()

    def close(self) -> None:
        """Keep what is left; of what is written from now on nothing is."""
        self._closed.set()
        with self._lock:
            for rest in self._unfinished.values():
                self._take(rest + b"\n" if rest else b"")
            self._unfinished.clear()
        self._flush(last=True)

    def _take(self, data: bytes) -> None:
        if not data:
            return
        self._writes = True
        if self._room:
            text = readable(data.decode("utf-8", "replace"))
            self._waiting += text[: self._room]
            self._end = text[self._room :]
            self._room -= min(len(text), self._room)
            self._grown = bool(self._end)
            return
        # Most of very much is left out again, so it is made readable only when it is kept; whole
        # lines go, so that no secret is cut before it is masked.
        self._behind += data
        self._grown = True
        if len(self._behind) > 4 * LAST:
            gone = self._behind.find(b"\n", len(self._behind) - 2 * LAST, -1) + 1
            # What stands before it goes with it, so that nothing is missing within what is kept.
            self._left_out += len(self._end) + len(self._behind[:gone].decode("utf-8", "replace"))
            self._end = ""
            del self._behind[:gone]

    def _newest(self) -> str:
        """Return the end as it is by now; empty if nothing has come since it was last kept."""
        if not self._grown:
            return ""
        self._end += readable(self._behind.decode("utf-8", "replace"))
        self._behind.clear()
        over = max(0, len(self._end) - LAST)
        self._left_out += over
        self._end = self._end[over:]
        self._grown = False
        return (_LEFT_OUT.format(self._left_out) if self._left_out else "") + self._end

    def _work(self) -> None:
        while not self._closed.wait(FLUSH_EVERY):
            self._flush()

    def _flush(self, *, last: bool = False) -> None:
        with self._keeping:
            # What failed to be written, but may have been, is so by itself, as it was; then what
            # has come since.
            again = bool(self._perhaps_kept)
            if self._write(last=last) and again:
                self._write(last=last)

    def _write(self, *, last: bool) -> bool:
        with self._lock:
            if not self._perhaps_kept:
                self._perhaps_kept, self._waiting = self._waiting, ""
            text = self._perhaps_kept
            paused, self._writes = not self._writes, False
            due = last or paused or time.monotonic() >= self._renew_at
            # Whoever has read it reads on behind it.
            end = self._newest() if due and not self._waiting else ""
        if not (text or end):
            return True
        try:
            self._keep(self._part, text, end, last=last)
        except Exception as error:  # noqa: BLE001  no job fails, and no thread ends, of its log
            if last:  # it stands in the worker's own log all the same
                log.warning("log_not_kept", extra={"error": str(error)})
            with self._lock:
                self._grown = self._grown or bool(end)
            return False
        if end:
            self._renew_at = time.monotonic() + len(end) / _RENEWED
        if text:
            self._perhaps_kept = ""
            self._part += 1
        return True


def news(end: str, known: int) -> tuple[str, int]:
    """
    Return what is new in the end of an attempt, and how much of it is known then.

    Args:
        end: As it was kept.
        known: Characters behind the first 128 KB that were seen before; 0 for none.

    Returns:
        The text begins by saying so if something was left out since.
    """
    told = _TOLD.match(end)
    begins, text = (int(told[1]), end[told.end() :]) if told else (0, end)
    reached = max(known, begins + len(text))
    if begins > known:
        return _LEFT_OUT.format(begins - known) + text, reached
    return text[known - begins :], reached


def readable(text: str) -> str:
    """Make lines of output fit to be kept and shown on any terminal or page."""
    text = _OVERWRITTEN.sub("", text.replace("\r\n", "\n"))
    return storable(_CONTROLS.sub("", _ESCAPES.sub("", text)))
