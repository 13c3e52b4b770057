"""
Pipelines made of a seed: random DAGs of short jobs, each of which leaves its own evidence.

The processes under test load this module; ``CHAOS_SEED`` and ``CHAOS_FOLDER`` say what and where.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text

from prometheus import JobContext, MarketState, Pipeline

MARKETS = ("US_EQ", "EU_EQ", "ASIA_EQ")
PIPELINES = 6
HOPELESS = "hopeless: this job never succeeds"
"""Message of the only final failure that is right."""
EFFECTS = "chaos_effects"
"""Table of what jobs wrote through ``ctx.transaction()``: ``execution_id`` and ``block``."""
WROTE = "wrote:"
"""Before the name of a block, in evidence of its commit."""
_WORD_EVERY = 0.1
SEED, FOLDER, ORDERS = "CHAOS_SEED", "CHAOS_FOLDER", "CHAOS_ORDERS"
"""Variables of the environment: of the pipelines, of evidence, and of orders (see `points`)."""

_STATES = (
    None,
    MarketState.PRE_OPEN,
    MarketState.SESSION,
    MarketState.POST_CLOSE,
    MarketState.OVERNIGHT,
)


class StumbledError(Exception):
    """An error that goes away when the job is tried again."""


class HopelessError(Exception):
    """An error that does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What a job does when it runs."""

    seconds: float
    """How long it works."""
    writes_first: bool
    """Whether a block of its own is committed before it does anything else."""
    holds: float | None
    """How long its transaction stays open, at its end; ``None`` if it writes nothing there."""
    stumbles: float
    """Part of its attempts that fail."""
    hopeless: bool


def make_pipelines(seed: str, folder: Path | None = None) -> dict[str, Pipeline]:
    """
    Make the pipelines of a seed; the same seed always gives the same.

    Args:
        folder: Where jobs leave their evidence; only needed where they run.
    """
    pipelines = [_pipeline(seed, number, folder) for number in range(PIPELINES)]
    return {pipeline.name: pipeline for pipeline in pipelines}


def _pipeline(seed: str, number: int, folder: Path | None) -> Pipeline:
    draw = random.Random(f"{seed}:{number}")
    pipeline = Pipeline(f"chaos_{number}", markets=MARKETS)
    size = draw.randint(8, 20)
    # Phases never go back along the DAG, or a job's window could end before its upstream's begins.
    states = sorted(
        (draw.choices(_STATES, (6, 1, 1, 2, 1))[0] for _ in range(size)), key=_STATES.index
    )
    for place, state in enumerate(states):
        upstream = draw.sample(
            range(place), min(place, draw.choices((0, 1, 2, 3), (2, 4, 3, 1))[0])
        )
        behaviour = Behaviour(
            seconds=draw.uniform(3, 8) if draw.random() < 0.04 else draw.uniform(0.02, 0.8),
            writes_first=draw.random() < 0.3,
            holds=draw.choice((0.0, 0.0, 0.1, 0.5)) if draw.random() < 0.4 else None,
            stumbles=0.05 if draw.random() < 0.3 else 0.0,
            hopeless=place > size // 2 and draw.random() < 0.02,
        )
        options: dict[str, Any] = {}
        if draw.random() < 0.1:
            options["after_previous"] = True
        if state is not None and draw.random() < 0.15:
            options["window"] = "state"
        pipeline.job(
            name=f"job_{place:02}",
            after=[f"job_{each:02}" for each in sorted(upstream)],
            required_state=state,
            priority=draw.choice(("CRITICAL", "STANDARD", "OPTIONAL")),
            max_retries=0 if behaviour.hopeless else 12,
            retry_base="1s",
            retry_cap="2s",
            timeout="2m",
            **options,
        )(_body(behaviour, seed, folder))
    return pipeline


def _body(behaviour: Behaviour, seed: str, folder: Path | None) -> Callable[[JobContext], None]:
    def body(ctx: JobContext) -> None:
        assert folder is not None
        leave(folder, "began", ctx)
        if behaviour.writes_first:
            _write(folder, "first", 0, ctx)
        if behaviour.hopeless:
            raise HopelessError(HOPELESS)
        if _chance(seed, ctx) < behaviour.stumbles:
            raise StumbledError(f"attempt {ctx.attempt_number} stumbled")
        _work(folder, behaviour.seconds, ctx)
        if behaviour.holds is not None:
            _write(folder, "last", behaviour.holds, ctx)
        leave(folder, "ended", ctx)

    return body


def _write(folder: Path, block: str, holds: float, ctx: JobContext) -> None:
    """Write a block of effects, and leave word of it when it is committed."""
    with ctx.transaction() as connection:
        connection.execute(
            text(f"INSERT INTO {EFFECTS} (execution_id, block) VALUES (:id, :block)"),
            {"id": ctx.execution_id, "block": block},
        )
        _work(folder, holds, ctx)
    leave(folder, f"{WROTE}{block}", ctx)


def _work(folder: Path, seconds: float, ctx: JobContext) -> None:
    """Pass the time, and leave word of it every now and then: it may end without another word."""
    ends_at = time.monotonic() + seconds
    while (left := ends_at - time.monotonic()) > 0:
        time.sleep(min(left, _WORD_EVERY))
        leave(folder, "works", ctx)


def _chance(seed: str, ctx: JobContext) -> float:
    """Draw a number that is the same for the same attempt, wherever it runs."""
    key = f"{seed}:{ctx.dag_id}:{ctx.job_id}:{ctx.attempt_number}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8]) / 2**64


_files: dict[int, int] = {}


def leave(folder: Path, what: str, ctx: JobContext) -> None:
    """
    Append a line of evidence to a file of this process, past the database and every clock.

    A line is written whole or not at all, and outlives the death of its process.
    """
    pid = os.getpid()
    if pid not in _files:
        name = folder / f"{pid}-{time.monotonic_ns()}"
        _files[pid] = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(_files[pid], f"{what} {ctx.execution_id} {pid} {time.monotonic_ns()}\n".encode())


def _loaded(environment: Mapping[str, str]) -> dict[str, Pipeline]:
    if SEED not in environment:
        return {}
    return make_pipelines(environment[SEED], Path(environment[FOLDER]))


globals().update(_loaded(os.environ))
