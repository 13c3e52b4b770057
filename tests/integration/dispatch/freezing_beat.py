"""A beat that stops itself (SIGSTOP) once, at a point of its tick named on its command line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from celery.__main__ import main

from prometheus.dispatch import scheduler
from prometheus.persistence import executions


def _freezing_after(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, which freezes the process when it has first found something to do."""
    thawed = False

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal thawed
        found = function(*args, **kwargs)
        if found and not thawed:
            thawed = True
            os.kill(os.getpid(), signal.SIGSTOP)
        return found

    return wrapped


if __name__ == "__main__":
    point = sys.argv[1]
    if point == "decided":
        scheduler.decide = _freezing_after(scheduler.decide)  # type: ignore[attr-defined]
    elif point == "claimed":
        executions.claim = _freezing_after(executions.claim)
    else:
        raise SystemExit(f"unknown point {point!r}")
    sys.argv = ["celery", "-A", "workers", "beat"]
    main()
