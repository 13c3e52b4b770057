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
