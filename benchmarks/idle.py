"""What everything takes while nothing happens: memory, and time of the processors."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.figures import Figure, Rows, summary
from benchmarks.flows import Bare
from benchmarks.spent import used
from tests.servers import Process, RedisServer, free_port, tail, wait_until

WATCHED = 30.0
"""Seconds."""
QUIET = 12.0
"""Seconds without news after which all has run that can: jobs of an open market wait for its close,
and who follows them rests."""
CELERY = "a bare Celery worker"
ALL, WORKER, CHILD = "the whole stack", "worker", "each child of a worker"


def measure_idle() -> Rows:
    """
    Start ``prometheus up`` in an empty folder, and watch it once it has nothing to do.

    Returns:
        Of each kind of process the proportional share of memory in MB (PSS: what several share
        counts once), and the part of one core that all of them used, in percent. Children are
        compared with those of a bare Celery worker that is watched at the same time; the stack with
        it and its children; all else with it without them.
    """
    with tempfile.TemporaryDirectory() as temporary, RedisServer() as redis:
        folder = Path(temporary)
        log = folder / "up.log"
        environment = {"PROMETHEUS__WEB__PORT": str(free_port()), "HOME": temporary}
        bare = Bare("bare", redis.url, "", folder)
        up = Process(["prometheus", "up"], log=log, cwd=folder, env=environment)
        try:
            bare.run("nine")
            # The last sessions come first, so the workers have loaded what jobs need.
            wait_until(
                lambda: _has_come_to_rest(log) or not up.running,
                timeout=120,
                interval=0.5,
                message=lambda: f"what can run of the last sessions has run\n{tail(log)}",
            )
            return _watch(psutil.Process(up.pid), psutil.Process(bare.pid))
        finally:
            up.end()
            bare.end()


def _has_come_to_rest(log: Path) -> bool:
    said = log.read_text()
    assert "FAILED" not in said, said
    return time.time() - log.stat().st_mtime > QUIET and "SUCCESS (9 SUCCESS)" in said


def _watch(up: psutil.Process, bare: psutil.Process) -> Rows:
    stacks = [[each, *each.children(recursive=True)] for each in (up, bare)]
    before = [used(stack) for stack in stacks]
    time.sleep(WATCHED)
    percents = [
        (used(stack) - then) / WATCHED * 100 for stack, then in zip(stacks, before, strict=True)
    ]
    ours, theirs = map(_memory, stacks)
    rows: Rows = {
        f"memory of {kind}": {
            "unit": "MB",
            "ours": figure,
            "references": {CELERY: theirs.get(kind, theirs[WORKER])},
        }
        for kind, figure in ours.items()
    }
    rows[f"processor time of {ALL}"] = {
        "unit": "% of a core",
        "ours": _figure([percents[0]]),
        "references": {CELERY: _figure([percents[1]])},
    }
    return rows


def _memory(stack: list[psutil.Process]) -> dict[str, Figure]:
    kinds: dict[str, list[float]] = {}
    for process in stack:
        kinds.setdefault(_kind(process), []).append(process.memory_full_info().pss / 1e6)
    total = sum(sum(each) for each in kinds.values())
    return {kind: _figure(each) for kind, each in {**kinds, ALL: [total]}.items()}


def _figure(values: list[float]) -> Figure:
    return summary([[value] for value in values])


def _kind(process: psutil.Process) -> str:
    command = process.cmdline()
    if "redis-server" in command[0]:
        return "Redis"
    words = {"beat": "beat", "web": "web", "prometheus.monitoring": "web", "up": "up"}
    for word, kind in words.items():
        if word in command:
            return kind
    parent = process.parent()
    return CHILD if parent and parent.cmdline() == command else WORKER
