"""A worker that is not started and gets many time limits; prints how many its timer keeps."""

from __future__ import annotations

import heapq
import sys

from workers import app

if __name__ == "__main__":
    ended, running = int(sys.argv[1]), int(sys.argv[2])
    worker = app.WorkController(queues="US_EQ", pool_cls="prefork", concurrency=1)
    timer = worker.hub.timer
    fired = [timer.call_after(3600 + number, print) for number in reversed(range(running))]
    most = 0
    for _ in range(ended):
        timer.call_after(3600, print).cancel()
        for look in worker.hub.on_tick:
            look()
        most = max(most, len(timer))
    left = [heapq.heappop(timer._queue).entry for _ in range(len(timer))]
    kept = [entry for entry in left if not entry.cancelled]
    assert kept == fired[::-1], "a time limit of what runs was lost, or comes at another time"
    print(f"at most {most} entries")
