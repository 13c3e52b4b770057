"""Beats and workers as the enemy sees them: processes that can be killed, frozen and cut off."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.servers import Gate, Process

BEAT, WORKER = "beat", "worker"
_CLOCKS = Path(__file__).parent / "clock"
"""Folder of the module that Python imports by itself, and that shifts its clock."""


@dataclass(frozen=True, slots=True)
class Life:
    """One process of a node, from its start to its end."""

    pid: int
    began_at: float
    """Wall time."""


class Node:
    """
    A beat or a worker that is started again and again under the same name.

    Attributes:
        lives: Its processes, the present one last.
        database: What it reaches PostgreSQL through; ``None`` where it has no gate.
        broker: What it reaches Redis through.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        folder: Path,
        database: Gate | None = None,
        broker: Gate | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.database = database
        self.broker = broker
        self.lives: list[Life] = []
        self.log = folder / f"{name}.log"
        self._clock = folder / f"{name}.clock"
        self._command = ("python", "-P", "-m", "workers", *arguments)
        self._env = {**env, "PYTHONPATH": str(_CLOCKS), "CHAOS_CLOCK": str(self._clock)}
        self._process: Process | None = None
        self.skew(0)

    def __repr__(self) -> str:
        return self.name

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def frozen(self) -> bool:
        """Whether its main process stands."""
        return self.running and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def alive_for(self) -> float:
        """Seconds since its process was started; 0 when it has ended."""
        return time.time() - self.lives[-1].began_at if self.running else 0.0

    def start(self) -> None:
        """Start a process under this node's name, without waiting for anything."""
        assert not self.running, f"{self.name} is running already"
        self._process = Process(self._command, log=self.log, env=self._env, name=self.name)
        self.lives.append(Life(self._process.pid, time.time()))

    def kill(self) -> None:
        """Kill the main process; on Linux the kernel kills its children with it."""
        assert self._process is not None
        self._process.send(signal.SIGKILL)
        self._process.wait()

    def children(self) -> list[psutil.Process]:
        """Return the pool's children."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []

    def kill_child(self, pid: int) -> bool:
        """Kill one of the pool's children, if it is one."""
        for child in self.children():
            if child.pid == pid:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
                return True
        return False

    def ask_to_stop(self) -> None:
        """Let it end when its jobs have, as a supervisor does."""
        assert self._process is not None
        self._process.send(signal.SIGTERM)

    def freeze(self, *, children: bool = True) -> None:
        """Stop it where it is: as a whole, or its main process alone."""
        self._signal(signal.SIGSTOP, children=children)

    def thaw(self) -> None:
        """Let everything of it go on."""
        self._signal(signal.SIGCONT, children=True)

    def _signal(self, number: signal.Signals, *, children: bool) -> None:
        pids = [self.pid] if self.running else []
        if children:
            pids += [child.pid for child in self.children()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def skew(self, seconds: float) -> None:
        """Set the clock of all its processes off by so much."""
        with self._clock.open("r+b" if self._clock.exists() else "wb") as file:
            file.write(struct.pack("d", seconds))

    def end(self) -> None:
        """End it without waiting for its jobs."""
        if self._process is not None:
            self.thaw()
            self._process.end(timeout=1)

    def gates(self) -> Iterator[Gate]:
        """Return what it reaches its servers through."""
        yield from (gate for gate in (self.database, self.broker) if gate is not None)
