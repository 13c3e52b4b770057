"""
Copies of this process that go on as other programs of ours, and share the memory of what it has.

A copy has but the thread that made it, and neither connections nor locks survive the copying: so
copies are made before this process has opened a database, imported what is a user's, or started a
thread. Elsewhere than on Linux no copies are made: systems' own libraries do not survive it there.
"""

from __future__ import annotations

import atexit
import codecs
import ctypes
import gc
import io
import locale
import os
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

_PR_SET_PDEATHSIG = 1


def can_fork() -> bool:
    """Say whether a copy of this process is sound."""
    with suppress(OSError):
        return sys.platform == "linux" and len(list(Path("/proc/self/task").iterdir())) == 1
    return False


def load(modules: Iterable[str]) -> None:
    """Import what copies need, so that they share it; nothing where there will be none."""
    if not can_fork():
        return
    gc.disable()
    try:
        for name in modules:
            import_module(name)
    finally:
        gc.freeze()  # a copy that looked for garbage in it would get its own
        gc.enable()


def apart(work: Callable[[], None]) -> None:
    """
    Do something in a copy, so that nothing of it stays here: no module, no connection.

    What it raises is told by the copy, as this command tells it, and ends this process as well.
    """
    if not can_fork():
        work()
        return
    parent = os.getpid()
    _flush()
    pid = os.fork()
    if pid == 0:
        _end_with(parent)
        work()
        _flush()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status < 0:
        print(f"It was ended by {signal.Signals(-status).name}.", file=sys.stderr)
    if status != 0:
        raise SystemExit(status if status > 0 else 128 - status)


class Fork:
    """
    A module that runs in a copy of this process, as ``python -P -m`` runs it in a new one.

    But for ``sys.flags``, which are this process' own.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        title: str,
        environment: Mapping[str, str],
        output: int,
        signals: Iterable[signal.Signals],
        release: Callable[[], None],
    ) -> None:
        """
        Start it.

        Args:
            words: The module and its arguments.
            title: What lists of processes show.
            environment: Instead of this process' own.
            output: A file, for both of its outputs.
            signals: What this process has handlers for; none is lost meanwhile.
            release: Gives these signals back to those who had them.
        """
        self.returncode: int | None = None
        parent = os.getpid()
        _flush()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _go_on(words, title, environment, output, parent, before, release)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def wait(self) -> None:
        """Wait for its end."""
        with suppress(ChildProcessError):
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _go_on(
    words: Sequence[str],
    title: str,
    environment: Mapping[str, str],
    output: int,
    parent: int,
    mask: Iterable[int],
    release: Callable[[], None],
) -> NoReturn:
    """Be another program until it ends, and never return to what this process was doing."""
    status = 1
    try:
        _end_with(parent)
        release()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.setsid()
        _redirect(output)
        os.environ.clear()
        os.environ.update(environment)
        _show_as(title)
        if not sys.flags.safe_path:
            del sys.path[0]
        sys.argv = ["", *words[1:]]
        sys.orig_argv = [sys.executable, "-P", "-m", *words]
        status = _run(words[0])
    except BaseException:  # noqa: BLE001  nothing of it is anybody else's here
        traceback.print_exc()
    finally:
        os._exit(status)


def _run(module: str) -> int:
    status = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            status = end.code or 0
        else:
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001  as Python ends a program
        traceback.print_exc()
    with suppress(Exception):
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001  waits, as Python does
        atexit._run_exitfuncs()  # noqa: SLF001
    with suppress(OSError):
        _flush()
    return status


def _redirect(output: int) -> None:
    """Read nothing, write both outputs to a file at once, and keep no other file open."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for file, number in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(file, number)
    for each in list(Path("/proc/self/fd").iterdir()):
        if int(each.name) > 2:
            with suppress(OSError):  # the one that listed them
                os.close(int(each.name))
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.FileIO(0, closefd=False))  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _writer(1, "surrogateescape")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _writer(2, "backslashreplace")  # type: ignore[misc]


def _writer(number: int, errors: str) -> io.TextIOWrapper:
    file = io.FileIO(number, "w", closefd=False)
    # As Python names it at its start: the locale's own name of it is "UTF-8".
    encoding = codecs.lookup(locale.getpreferredencoding(False)).name
    return io.TextIOWrapper(file, encoding, errors, write_through=True)


def _end_with(parent: int) -> None:
    """Have the kernel end this process together with the one that made it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _show_as(title: str) -> None:
    """Show words of ours instead of those that this process was started with."""
    # Where they are, see proc_pid_stat(5): the kernel shows what stands there.
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
    begin, end = int(fields[45]), int(fields[46])
    if 0 < begin < end:
        words = title.encode().replace(b" ", b"\0")[: end - begin - 1]
        ctypes.memmove(begin, words.ljust(end - begin, b"\0"), end - begin)


def _flush() -> None:
    for stream in filter(None, (sys.stdout, sys.stderr)):  # neither is there if it was closed
        stream.flush()
