"""How far a tool that takes minutes has come."""

from __future__ import annotations

import time

OFTEN = 5.0
"""Seconds between two lines."""


class Progress:
    """Prints now and then how many of the exchanges are done: ``  31 of 72, XHKG, 48 s``."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._began = self._said = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self._began

    def say(self, done: int, name: str) -> None:
        """Print a line, unless the last one was printed a moment ago."""
        if time.monotonic() - self._said >= OFTEN:
            self._said = time.monotonic()
            print(f"  {done} of {self._total}, {name}, {self.seconds:.0f} s", flush=True)
