"""What a pool remembers of the jobs that it hands to its children, when Celery has it forget."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from billiard.pool import CLOSE, RUN, ApplyResult
from celery.worker import state

from workers.pool import Pool


class Child:
    def __init__(self, pipe: int) -> None:
        self.inqW_fd = pipe
        self.lives = True

    def _is_alive(self) -> bool:
        return self.lives


class Request:
    def on_accepted(self, pid: int, time_accepted: float) -> None: ...


class PoolWithoutProcesses(Pool):
    def __init__(self) -> None:  # nothing of Celery's, which would fork
        self.synack = False
        self.outbound_buffer: deque[Any] = deque()
        self.child = Child(3)
        self._pool = [self.child]
        self._cache: dict[int, Any] = {}
        self._state = RUN
        self._active_writers: set[Any] = set()
        self._active_writes: set[int] = set()
        self._busy_workers: set[int] = set()
        self.meanwhile: Callable[[], object] = list

    def maintain_pool(self) -> None:
        self.meanwhile()

    def new_job(self, child: Child | None) -> Any:
        """Take a job, and give it to a child."""
        job = ApplyResult(self._cache, None, accept_callback=Request().on_accepted)
        job._write_to = child
        if child is not None:
            self._busy_workers.add(child.inqW_fd)
        return job

    def end_child(self) -> None:
        self.child.lives = False
        self._pool.remove(self.child)


@pytest.fixture
def pool() -> Iterator[PoolWithoutProcesses]:
    yield PoolWithoutProcesses()
    state.reserved_requests.clear()


@pytest.mark.parametrize("phase", [RUN, CLOSE])
def test_what_a_child_has_got_is_remembered(pool: PoolWithoutProcesses, phase: int) -> None:
    job = pool.new_job(pool.child)
    pool._state = phase

    pool.flush()

    assert pool._cache == {job._job: job}
    assert not job.accepted()
    assert len(state.reserved_requests) == 1
    assert pool._busy_workers == {pool.child.inqW_fd}


def test_what_no_child_has_got_is_forgotten(pool: PoolWithoutProcesses) -> None:
    pool.outbound_buffer.append(pool.new_job(None))
    pool.outbound_buffer.append(pool.new_job(pool.child))  # given to one that died, and put back
    dead = Child(4)
    dead.lives = False
    pool.new_job(dead)

    pool.flush()

    assert pool._cache == {}
    assert not state.reserved_requests


def test_child_that_dies_meanwhile_leaves_nothing(pool: PoolWithoutProcesses) -> None:
    pool.new_job(pool.child)
    pool.meanwhile = pool.end_child

    pool.flush()

    assert pool._cache == {}


def test_what_a_child_says_meanwhile_counts(pool: PoolWithoutProcesses) -> None:
    job = pool.new_job(pool.child)

    def die() -> None:
        job._ack(0, 0.0, 17, None)
        pool.end_child()

    pool.meanwhile = die

    pool.flush()

    assert job.accepted()
    assert pool._cache == {job._job: job}
