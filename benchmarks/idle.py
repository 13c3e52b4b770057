"""What everything takes while nothing happens: memory, and time of the processors."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import psutil

from tests.servers import Process, free_port, tail, wait_until

WATCHED = 30.0
"""Seconds."""
MARKETS = 3
"""Of the standard pipeline."""


def measure_idle() -> dict[str, dict[str, float]]:
    """
    Start ``prometheus up`` in an empty folder, and watch it once it has nothing to do.

    Returns:
        Kind of process -> how many there are, their proportional share of memory in MB (PSS: what
        several share counts once), and the part of one core that they used, in percent.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        log = folder / "up.log"
        environment = {"PROMETHEUS__WEB__PORT": str(free_port()), "HOME": temporary}
        up = Process(["prometheus", "up"], log=log, cwd=folder, env=environment)
        try:
            # The last sessions come first, so the workers have loaded what jobs need.
            wait_until(
                lambda: _all_have_run(log) or not up.running,
                timeout=120,
                interval=0.5,
                message=lambda: f"the last sessions have run\n{tail(log)}",
            )
            return _watch(psutil.Process(up.pid))
        finally:
            up.end()


def _all_have_run(log: Path) -> bool:
    return log.read_text().count("SUCCESS (9 SUCCESS)") == MARKETS


def _watch(stack: psutil.Process) -> dict[str, dict[str, float]]:
    processes = [stack, *stack.children(recursive=True)]
    before = [_used(process) for process in processes]
    time.sleep(WATCHED)
    kinds: dict[str, dict[str, float]] = {}
    for process, used in zip(processes, before, strict=True):
        kind = kinds.setdefault(_kind(process), {"count": 0, "pss_mb": 0, "core_percent": 0})
        kind["count"] += 1
        kind["pss_mb"] += process.memory_full_info().pss / 1e6
        kind["core_percent"] += (_used(process) - used) / WATCHED * 100
    kinds["all of it"] = {
        key: sum(kind[key] for kind in kinds.values())
        for key in ("count", "pss_mb", "core_percent")
    }
    return kinds


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _kind(process: psutil.Process) -> str:
    command = process.cmdline()
    if "redis-server" in command[0]:
        return "Redis"
    for word, kind in (("beat", "beat"), ("prometheus.monitoring", "web"), ("up", "up")):
        if word in command:
            return kind
    parent = process.parent()
    return "worker's child" if parent and parent.cmdline() == command else "worker"
