"""
Shifts the clock of a Python process by what a file says, while it runs.

Python imports this by its name before anything else, from a folder on ``PYTHONPATH``. The file that
``CHAOS_CLOCK`` names holds one double, the seconds to add; whoever writes there moves the clocks of
the process and of all its children. Monotonic clocks stay as they are, as when somebody sets a
machine's time.
"""

import datetime as dt
import mmap
import os
import struct
import time
from pathlib import Path
from typing import Any


def _shift_clocks(path: str) -> None:
    with Path(path).open("rb") as file:
        shared = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    real, real_time, real_time_ns = dt.datetime, time.time, time.time_ns

    def shift() -> float:
        return float(struct.unpack_from("d", shared)[0])

    class Kind(type):
        """Takes real instances for its own: no other are ever made."""

        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, real)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, real)

    class datetime(real, metaclass=Kind):  # type: ignore[misc, valid-type]  # noqa: N801
        __slots__ = ()  # as large as the real one, which compiled modules check

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return real(*args, **kwargs)

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            return real.now(tz) + dt.timedelta(seconds=shift())

        @classmethod
        def utcnow(cls) -> Any:
            return real.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(seconds=shift())

    dt.datetime = datetime  # type: ignore[misc]
    time.time = lambda: real_time() + shift()
    time.time_ns = lambda: real_time_ns() + int(shift() * 1e9)


if "CHAOS_CLOCK" in os.environ:
    _shift_clocks(os.environ["CHAOS_CLOCK"])
