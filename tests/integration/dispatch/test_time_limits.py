"""What a worker keeps of time limits."""

from __future__ import annotations

import re
from pathlib import Path

from tests.integration.dispatch.conftest import Installation

IDLE_WORKER = Path(__file__).parent / "idle_worker.py"


def test_time_limits_of_jobs_that_have_ended_are_forgotten(installation: Installation) -> None:
    """Celery keeps each until its time has come: an hour of jobs, with the default limit."""
    ended, running = 20_000, 500
    process = installation.start_process(
        "python", IDLE_WORKER, str(ended), str(running), env=installation.env, name="worker"
    )
    assert process.wait(60) == 0, process.output()
    most = re.search(r"at most (\d+) entries", process.output())
    assert most is not None, process.output()
    assert int(most[1]) <= 2 * running + 1
