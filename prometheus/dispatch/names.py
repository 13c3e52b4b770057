"""What is called how in Redis and among the leases; without Celery, for commands that only look."""

from __future__ import annotations

from datetime import timedelta

LEADERSHIP = "beat"
"""The lease of the scheduler that leads."""
BUSY_KEY = "prometheus:busy:"
"""Before a worker's incarnation: all its slots are taken."""
BUSY_FOR = timedelta(seconds=15)
"""How long a worker's word that it is busy counts."""
CANARY_EXPIRES_SECONDS = 60
PRIORITY_STEPS = (0, 3, 6, 9)
"""The priorities of messages; each queue has a list in Redis for each."""
SEPARATOR = ":"
"""Between a queue's name and a priority; a printable one, so that redis-cli can show keys."""


def lists_of(queue: str) -> tuple[str, ...]:
    """Return the keys of a queue's lists, the one that is taken from first at the front."""
    return tuple(f"{queue}{SEPARATOR}{step}" if step else queue for step in PRIORITY_STEPS)
