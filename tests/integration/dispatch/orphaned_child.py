"""A child of a pool whose main process has no lease yet, and then stands still."""

from __future__ import annotations

import time

from workers import heartbeat

if __name__ == "__main__":
    heartbeat._LOOK_EVERY = 0.01
    heartbeat.end_with_a_frozen_worker()
    time.sleep(1)
    print("alive without a lease")
    heartbeat._watched_at.value = 1e-3
    time.sleep(60)
