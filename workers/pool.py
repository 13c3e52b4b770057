"""The pool of a worker's children."""

# ruff: noqa: SLF001  Celery's own pool uses these of its jobs; there is no other way to know it

from __future__ import annotations

from celery.concurrency.asynpool import AsynPool
from celery.worker import state


class Pool(AsynPool):
    """
    A pool that remembers what it has handed to its children.

    When the connection to Redis breaks, or the worker is told to stop, Celery forgets the jobs that
    no child has yet said to have begun. Those that a child has got run all the same: they would be
    held to no limit, and ended because no renewal names them; and a child that is to stop would
    wait half a minute for somebody to read its result.
    """

    def flush(self) -> None:
        """Forget what no child has got: its messages come again."""
        children = {
            job: job._write_to
            for job in self._cache.values()
            if not job._accepted
            and job._write_to is not None
            and job._write_to._is_alive()
            and job not in self.outbound_buffer  # put back by the end of another child
        }
        for job in children:
            job._accepted = True
            state.reserved_requests.add(job._accept_callback.__self__)
        try:
            super().flush()
        finally:
            for job, child in children.items():
                # What a child had said may have been read at its end.
                job._accepted = job._worker_pid is not None
                if not (job._accepted or child in self._pool):
                    job.discard()
