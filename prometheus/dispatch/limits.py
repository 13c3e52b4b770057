"""
What one attempt may take of its worker process, and the state it leaves the process in.

A process of the pool runs one job after the other. What a job takes is bounded here, and what it
changed of the process is put back, so that the next job finds it as it should be.
"""

from __future__ import annotations

# What `signal` asks and does, without the enumerations that it makes of each answer: of all signals
# that takes twenty times as long, before each job and after it. typeshed has it only as `signal`.
import _signal  # type: ignore[import-not-found]
import io
import logging
import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from billiard.common import terminate_handler_fired
from celery.exceptions import TaskPredicate

from prometheus.core.sizes import Size
from prometheus.errors import PrometheusError
from prometheus.masking import safe_text

log = logging.getLogger(__name__)

MAX_OUTPUT = 1_000_000
"""Bytes that an attempt may print on standard output, and again on standard error."""
AUTOMATIC_SHARE = 0.75
"""Of the memory there is: what one process may use when no limit is set."""
_SIGNALS = tuple(_signal.valid_signals())
# Of a container, as it sees itself; the second is that of older kernels.
_CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


class JobMemoryError(PrometheusError):
    """A job wanted more memory than its process may use."""


class JobExitError(PrometheusError):
    """A job raised what ends a process, or what only Celery may raise, instead of an error."""


@contextmanager
def limited(
    memory: int | None, heard: Callable[[str, bytes], None] | None = None
) -> Iterator[None]:
    """
    Hold what runs in the block to its limits; put back what it changed of the process.

    Args:
        memory: Bytes that the process may use meanwhile, its own needs included.
        heard: Is told all that it writes, and to which stream, without secrets.

    Raises:
        JobMemoryError: It wanted more.
        JobExitError: It raised `SystemExit` or the like: the process stays, the attempt fails.
    """
    with _signals_kept(), _output_bounded(heard), _memory_bounded(memory):
        try:
            yield
        except MemoryError as error:
            # What its frames hold is needed for what follows, writing the failure first of all.
            traceback.clear_frames(error.__traceback__)
            if memory is None:
                raise
            raise JobMemoryError(
                f"out of memory: a job's process may use {Size(memory)} "
                f"(workers.memory_limit). {message_of(error)}".rstrip()
            ) from error
        except BaseException as error:
            ordinary = isinstance(error, Exception) and not isinstance(error, TaskPredicate)
            # Somebody ends the process: a worker that stops at once, or a time limit.
            if ordinary or terminate_handler_fired():
                raise
            raise JobExitError(
                f"the job raised {type(error).__qualname__} ({message_of(error)}); a job ends by "
                f"returning, or by an error"
            ) from error


@contextmanager
def unlimited() -> Iterator[None]:
    """
    Let the soft time limit pass, which Celery would let strike while a result is written.

    It arms the limit until its own handlers have returned, and raises it wherever the child is.
    The job has ended, so the limit means nothing.
    """
    # Not masked, which would hold for this thread alone: a library's threads (numpy's, for example)
    # take the signal too, and Python raises it here all the same.
    held = _signal.signal(_signal.SIGUSR1, _signal.SIG_IGN)
    try:
        yield
    finally:
        _signal.signal(_signal.SIGUSR1, held)


def message_of(error: BaseException) -> str:
    """Return an error's message, also of one that can not say it."""
    try:
        return str(error)
    except Exception as fault:  # noqa: BLE001  it is code of the job
        return f"its message can not be read: {type(fault).__qualname__}"


def available_memory() -> int:
    """Return the bytes of memory of this machine, or of its container if that has fewer."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # "max" is no number, and no limit
            found.append(int(path.read_text()))
    return min(found)


def memory_limit(setting: int | None) -> int | None:
    """
    Return the bytes that a job's process may use.

    Args:
        setting: ``None`` for a share of what there is, 0 for no limit.
    """
    return int(available_memory() * AUTOMATIC_SHARE) if setting is None else setting or None


@contextmanager
def _memory_bounded(limit: int | None) -> Iterator[None]:
    if limit is None:
        yield
        return
    # Lifted again for what follows the job: a process that the job has filled must still be able
    # to write what became of it.
    before = resource.getrlimit(resource.RLIMIT_DATA)
    hard = before[1]
    soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Put signal handlers back: without SIGUSR1's, no later job had a soft time limit."""
    kept = {number: _signal.getsignal(number) for number in _SIGNALS}
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
    try:
        yield
    finally:
        for number, handler in kept.items():
            if handler is not None and _signal.getsignal(number) != handler:
                _signal.signal(number, handler)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)


class _Bounded(io.RawIOBase):
    """
    Passes on so many bytes, without the secrets in them, and counts what comes after them.

    Who hears it is told all of it, without them too.
    """

    def __init__(self, name: str, target: IO[bytes]) -> None:
        self._name = name
        self._target = target
        self._left = MAX_OUTPUT
        self.dropped = 0
        self.heard: Callable[[str, bytes], None] | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """Return the real one: what a program of the job's writes to it is not bounded."""
        return self._target.fileno()

    def isatty(self) -> bool:
        return self._target.isatty()

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]  # typeshed has no buffer here
        if not self._left and self.heard is None:
            self.dropped += len(view)
            return len(view)
        # As a whole: half a secret, where it is cut here or by who hears it, could not be found.
        shown = _without_secrets(view)
        passed = shown[: self._left]
        if passed:
            self._target.write(passed)
            self._target.flush()
            self._left -= len(passed)
        self.dropped += len(shown) - len(passed)
        if self.heard is not None:
            self.heard(self._name, shown)
        return len(view)

    def renew(self) -> int:
        """Pass on as many bytes again; return how many were dropped until now."""
        dropped, self.dropped, self._left = self.dropped, 0, MAX_OUTPUT
        return dropped


def _without_secrets(view: memoryview) -> bytes:
    # Whatever bytes they are, they come back as they were.
    text = bytes(view).decode("utf-8", "surrogateescape")
    return safe_text(text).encode("utf-8", "surrogateescape")


_streams: dict[str, _Bounded] = {}


def bound_output() -> None:
    """
    Have this process' output, and what its log handlers write, counted from now on.

    Between two attempts it is bounded as well, in case a thread of the first goes on printing.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        stream.flush()
        bounded = _streams[name] = _Bounded(name, stream.buffer)
        wrapped = io.TextIOWrapper(
            io.BufferedWriter(bounded),
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=True,
        )
        setattr(sys, name, wrapped)
        for handler in _handlers():
            if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
                handler.setStream(wrapped)


def _handlers() -> Iterator[logging.Handler]:
    yield from logging.root.handlers
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            yield from logger.handlers


@contextmanager
def _output_bounded(heard: Callable[[str, bytes], None] | None) -> Iterator[None]:
    _renew_output()
    for bounded in _streams.values():
        bounded.heard = heard
    try:
        yield
    finally:
        for name, dropped in _renew_output().items():
            if dropped:
                facts = {"stream": name, "kept": MAX_OUTPUT, "dropped": dropped}
                log.warning("output_dropped", extra=facts)
        for bounded in _streams.values():
            bounded.heard = None


def _renew_output() -> dict[str, int]:
    for name in _streams:
        with suppress(Exception):  # a stream that the job closed or replaced
            getattr(sys, name).flush()
    return {name: bounded.renew() for name, bounded in _streams.items()}
