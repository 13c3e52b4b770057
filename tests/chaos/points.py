"""
Named points in the product at which a process dies or freezes when it is told to.

The processes under test load this module beside their pipelines; it wraps the functions whose
befores and afters the points are. An order is a folder of files: whoever passes the point takes one
away, and who takes the last obeys what it says.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from prometheus import JobContext, Pipeline
from prometheus.dispatch import attempts, scheduler
from prometheus.dispatch.publisher import Publisher
from prometheus.dispatch.scheduler import Scheduler
from prometheus.persistence import executions
from tests.chaos.jobs import FOLDER, MARKETS, ORDERS, StumbledError, leave
from tests.chaos.nodes import BEAT, WORKER

DIE, DIE_WITH_ALL, FREEZE = "die", "die with all", "freeze"

BEFORE, WITHIN, AFTER = "before", "within", "after"
"""Within: done, and not committed yet."""

BY_SCHEDULER = [
    (BEFORE, "claim"),
    (WITHIN, "claim"),
    (AFTER, "claim"),
    (BEFORE, "publish"),
    (AFTER, "publish"),
    (BEFORE, "advance"),
    (AFTER, "advance"),
]
# A tick notes with its claim what it sends; a worker marks it then.
BY_JOB = [(when, what) for what in ("start", "finish", "mark") for when in (BEFORE, WITHIN, AFTER)]
POINTS = [
    *((BEAT, when, what) for when, what in BY_SCHEDULER),
    *((WORKER, when, what) for when, what in (*BY_JOB, *BY_SCHEDULER)),
]
"""Who passes which points."""


def order(folder: Path, role: str, when: str, what: str, deed: str, *, passes: int = 0) -> None:
    """
    Have a process do something at a point.

    Args:
        passes: How many go by before.
    """
    place = folder / f"{role} {when} {what}"
    place.mkdir(exist_ok=True)
    # Somebody may pass meanwhile: who took the last one before the others are there would obey, and
    # leave them; and who read one that is not written yet would obey something else.
    for number in reversed(range(passes + 1)):
        draft = folder / "draft"
        draft.write_text(deed)
        draft.replace(place / f"{number:03}")


def obeyed(folder: Path, role: str, when: str, what: str) -> bool:
    """Say whether an order was carried out."""
    return not any((folder / f"{role} {when} {what}").iterdir())


def withdraw(folder: Path, role: str, when: str, what: str) -> bool:
    """Take an order back; say whether there was still one."""
    found = False
    for path in (folder / f"{role} {when} {what}").iterdir():
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            found = True
    return found


_main = os.getpid()  # of the worker, also in the children of its pool


def _pass(when: str, what: str) -> None:
    role = BEAT if "beat" in sys.argv else WORKER
    place = Path(os.environ[ORDERS]) / f"{role} {when} {what}"
    try:
        waiting = sorted(place.iterdir(), reverse=True)
    except FileNotFoundError:
        return
    for path in waiting:
        try:
            deed = path.read_text()
            path.unlink()
        except FileNotFoundError:
            continue  # somebody else passes at the same time
        if path.name == "000":
            _obey(deed)
        return


def _obey(deed: str) -> None:
    if deed == DIE_WITH_ALL and os.getpid() != _main:
        os.kill(_main, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGSTOP if deed == FREEZE else signal.SIGKILL)


def _around(function: Callable[..., Any], what: str, *, after: str = AFTER) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        _pass(BEFORE, what)
        result = function(*args, **kwargs)
        _pass(after, what)
        return result

    return wrapper


_here = threading.local()
"""What was written in the transaction under way in this thread."""


def _written(function: Callable[..., Any], what: str, *, before: bool) -> Callable[..., Any]:
    """Wrap what writes inside a transaction, so that its end is the ``after``."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if before:
            _pass(BEFORE, what)
        result = function(*args, **kwargs)
        _pass(WITHIN, what)
        _here.what = what
        return result

    return wrapper


def _ending(
    writing: Callable[..., AbstractContextManager[Connection]],
) -> Callable[..., AbstractContextManager[Connection]]:
    @contextlib.contextmanager
    def wrapper(engine: Engine, **options: Any) -> Iterator[Connection]:
        _here.what = None
        with writing(engine, **options) as connection:
            yield connection
        if _here.what is not None:
            _pass(AFTER, _here.what)

    return wrapper


def _wrap_all() -> None:
    for name, what in {
        "claim": "claim",
        "mark_published": "mark",
        "try_start": "start",
        "succeed": "finish",
        "succeed_and_claim": "finish",
        "succeed_beside": "finish",
        "fail": "finish",
    }.items():
        setattr(executions, name, _written(getattr(executions, name), what, before=True))
    for module in (scheduler, attempts):
        module.writing = _ending(module.writing)  # type: ignore[attr-defined]
        module.each_alone = _ending(module.each_alone)  # type: ignore[attr-defined]
    Publisher.publish = _around(Publisher.publish, "publish")  # type: ignore[method-assign]
    # Of a worker's run, and of all in a tick, which has looked at them by then.
    for name in ("advance", "advance_after", "_advance_open"):
        setattr(Scheduler, name, _around(getattr(Scheduler, name), "advance"))


# --- the jobs ------------------------------------------------------------------------------------

crash = Pipeline("crash", markets=MARKETS)


def _body(name: str) -> Callable[[JobContext], None]:
    def body(ctx: JobContext) -> None:
        leave(Path(os.environ[FOLDER]), "began", ctx)
        if name == "stumbles" and ctx.attempt_number == 1:
            raise StumbledError("the first attempt stumbled")
        leave(Path(os.environ[FOLDER]), "ended", ctx)

    return body


for _name, _after in {
    "first": [],
    "left": ["first"],
    "stumbles": ["first"],
    "last": ["left", "stumbles"],
}.items():
    crash.job(name=_name, after=_after, max_retries=500, retry_base="1s", retry_cap="1s")(
        _body(_name)
    )

if ORDERS in os.environ:
    _wrap_all()
