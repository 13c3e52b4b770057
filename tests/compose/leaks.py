"""Looks for secrets by their values, wherever others might see them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from tests.compose.engine import Engine

_CHUNK = 1 << 20


class Watch:
    """Notes every command line of this machine that it sees while the block lasts."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.2):
            for each in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):  # it has ended
                    self.seen.add(each.read_bytes())


def found_in(secrets: Mapping[str, str], text: bytes) -> list[str]:
    """Name the secrets that a text has in it."""
    return [name for name, value in secrets.items() if value.encode() in text]


def found_in_image(engine: Engine, image: str, secrets: Mapping[str, str]) -> tuple[list[str], int]:
    """
    Look through all layers of an image, the removed files in them, and its history.

    Returns:
        The names of the secrets that are there, and how many bytes were looked through.
    """
    process = engine.stream("save", image)
    assert process.stdout is not None
    found, size = _found_in_stream(process.stdout, secrets)
    assert process.wait() == 0
    history = engine.docker("history", "--no-trunc", image).encode()
    return sorted({*found, *found_in(secrets, history)}), size + len(history)


def _found_in_stream(stream: IO[bytes], secrets: Mapping[str, str]) -> tuple[set[str], int]:
    found: set[str] = set()
    size, before = 0, b""
    longest = max(len(value) for value in secrets.values())
    while chunk := stream.read(_CHUNK):
        size += len(chunk)
        found.update(found_in(secrets, before + chunk))
        before = chunk[-longest:]
    return found, size
