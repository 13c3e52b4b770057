"""Workers that leave their queues while they could start nothing, and take messages again."""

from __future__ import annotations

from pathlib import Path

from tests.integration.dispatch.conftest import Installation
from tests.servers import RedisServer

TURNING_WORKER = Path(__file__).parent / "turning_worker.py"


def test_worker_ends_as_it_was_told_last_however_often_its_loop_came_round(
    installation: Installation, redis_server: RedisServer
) -> None:
    """While Redis is away its event loop takes nothing, and orders of both kinds pile up."""
    process = installation.start_process(
        "python", TURNING_WORKER, str(redis_server.port), env=installation.env, name="worker"
    )
    assert process.wait(60) == 0, process.output()
