"""Pipelines whose jobs are poison to the process that runs them, and one that is not."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from celery.exceptions import Ignore, Reject

from prometheus import JobContext, Pipeline

MARKETS = ["US_EQ", "EU_EQ", "ASIA_EQ"]
MEGABYTE = 2**20

healthy = Pipeline("healthy", markets=MARKETS)


@healthy.job(max_retries=0)
def works(ctx: JobContext) -> int:
    return os.getpid()


dies = Pipeline("dies", markets=MARKETS)
raises = Pipeline("raises", markets=MARKETS)
prints = Pipeline("prints", markets=MARKETS)
eats = Pipeline("eats", markets=MARKETS)
leaves = Pipeline("leaves", markets=MARKETS)
stubborn = Pipeline("stubborn", markets=MARKETS)
talks = Pipeline("talks", markets=MARKETS)


def poison(pipeline: Pipeline, **options: Any) -> Callable[[Any], Any]:
    """A job that is tried again once, at once."""
    retries = {"max_retries": 1, "retry_base": "1s", "retry_cap": "1s"}
    return pipeline.job(**{**retries, **options})


# --- ends of the process


@poison(dies)
def reads_address_zero(ctx: JobContext) -> None:
    ctypes.string_at(0)


@poison(dies)
def aborts(ctx: JobContext) -> None:
    os.abort()


@poison(dies)
def exits_at_once(ctx: JobContext) -> None:
    os._exit(7)


@poison(dies)
def closes_every_file(ctx: JobContext) -> None:
    os.closerange(3, 1024)
    raise RuntimeError("closed them all")


# --- what a job may raise


@poison(raises)
def exits(ctx: JobContext) -> None:
    sys.exit(3)


@poison(raises)
def forks(ctx: JobContext) -> str:
    """Forgets that its copy returns as well."""
    if os.fork():
        _, status = os.wait()
        raise RuntimeError(f"its copy ended with {status}")
    return "the copy"


@poison(raises)
def interrupts(ctx: JobContext) -> None:
    raise KeyboardInterrupt


@poison(raises)
def ends_a_generator(ctx: JobContext) -> None:
    raise GeneratorExit("no more")


@poison(raises)
def ignores(ctx: JobContext) -> None:
    raise Ignore


@poison(raises)
def rejects(ctx: JobContext) -> None:
    raise Reject("not mine", requeue=True)


class NotPicklableError(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()

    def __reduce__(self) -> NoReturn:
        raise TypeError("no way")


@poison(raises)
def can_not_be_pickled(ctx: JobContext) -> None:
    raise NotPicklableError


class SilentError(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


@poison(raises)
def can_not_be_printed(ctx: JobContext) -> None:
    raise SilentError


@poison(raises)
def says_too_much(ctx: JobContext) -> None:
    raise RuntimeError("much " * 4_000_000)


@poison(raises)
def returns_too_much(ctx: JobContext) -> list[str]:
    return ["x" * MEGABYTE] * 50


@poison(raises)
def returns_itself(ctx: JobContext) -> list[Any]:
    round_and_round: list[Any] = []
    round_and_round.append(round_and_round)
    return round_and_round


@poison(raises)
def recurses(ctx: JobContext) -> None:
    recurses(ctx)


# --- output


@poison(prints, max_retries=0)
def prints_lines(ctx: JobContext) -> None:
    line = "x" * 999
    for _ in range(1_000_000):
        print(line)


@poison(prints, max_retries=0)
def prints_one_line(ctx: JobContext) -> None:
    for _ in range(100):
        sys.stderr.write("y" * 10_000_000)


@poison(prints, max_retries=0)
def logs(ctx: JobContext) -> None:
    for _ in range(100):
        ctx.logger.warning("z" * 10_000_000)
    for _ in range(200_000):
        logging.getLogger("of_a_library").warning("w" * 50)


@poison(talks, max_retries=0)
def talks_until_it_is_killed(ctx: JobContext) -> None:
    for number in range(200_000):
        print(f"line {number:6}")
    ctx.logger.error("last words")
    while True:
        time.sleep(0.05)


# --- memory


@poison(eats)
def eats_memory(ctx: JobContext) -> None:
    eaten = []
    while True:
        eaten.append(bytearray(10 * MEGABYTE))


kept: list[bytearray] = []


@poison(eats)
def keeps_what_it_eats(ctx: JobContext) -> None:
    while True:
        kept.append(bytearray(MEGABYTE))


@poison(eats)
def returns_more_than_fits(ctx: JobContext) -> list[str]:
    return ["x" * MEGABYTE] * 2_000


# --- what it leaves behind


@poison(leaves, max_retries=0)
def changes_signals(ctx: JobContext) -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    (Path(ctx.parameters["folder"]) / "pid").write_text(str(os.getpid()))
    raise RuntimeError("changed them")


opened: list[Any] = []


@poison(leaves, max_retries=0)
def leaves_transactions_open(ctx: JobContext) -> None:
    for _ in range(10):
        transaction = ctx.transaction()
        transaction.__enter__()
        opened.append(transaction)


@poison(leaves, max_retries=0)
def leaves_a_thread_that_prints(ctx: JobContext) -> None:
    def run() -> None:
        while True:
            print("t" * 1000)

    threading.Thread(target=run, daemon=True).start()
    raise RuntimeError("left a thread")


@poison(leaves, max_retries=0, timeout="3s")
def too_slow(ctx: JobContext) -> None:
    time.sleep(600)


# --- limits that it does not obey


@poison(stubborn, timeout="1s")
def ignores_every_signal(ctx: JobContext) -> None:
    folder = Path(ctx.parameters["folder"])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (folder / f"child-{ctx.attempt_number}").write_text(str(child.pid))
    while True:
        time.sleep(60)
