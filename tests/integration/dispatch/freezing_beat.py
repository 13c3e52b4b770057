"""A beat that stops itself (SIGSTOP) once, at a point of its tick named on its command line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from celery.__main__ import main

from prometheus.dispatch import scheduler
from prometheus.dispatch.attempts import Attempts
from prometheus.persistence import executions

_frozen = False


def _freeze() -> None:
    global _frozen
    if not _frozen:
        _frozen = True
        os.kill(os.getpid(), signal.SIGSTOP)


def _freezing_after(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, which freezes the process when it has first found something to do."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        found = function(*args, **kwargs)
        if found:
            _freeze()
        return found

    return wrapped


def _freezing_before(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, which freezes the process when it is first called."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        _freeze()
        return function(*args, **kwargs)

    return wrapped


if __name__ == "__main__":
    point = sys.argv[1]
    if point == "decided":
        scheduler.decide = _freezing_after(scheduler.decide)  # type: ignore[attr-defined]
    elif point == "claimed":
        executions.claim = _freezing_after(executions.claim)
    elif point == "rescues":
        Attempts.fail = _freezing_before(Attempts.fail)  # type: ignore[method-assign]
    elif point == "cancels":
        Attempts.end_cancelled = _freezing_before(Attempts.end_cancelled)  # type: ignore[method-assign]
    else:
        raise SystemExit(f"unknown point {point!r}")
    sys.argv = ["celery", "-A", "workers", "beat"]
    main()
