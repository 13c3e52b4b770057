"""The pool of a worker's children."""

# ruff: noqa: SLF001  Celery's own pool uses these of its jobs; there is no other way to know it

from __future__ import annotations

from celery.concurrency.asynpool import AsynPool


class Pool(AsynPool):
    """
    A pool that remembers what it has handed to its children.

    When the connection to Redis breaks, or the worker is told to stop, Celery forgets the jobs that
    no child has yet said to have begun. Those that a child has got run all the same: they would be
    held to no limit and named in no renewal, and at the end the child would wait half a minute for
    somebody to read its result.
    """

    def flush(self) -> None:
        """Forget what no child has got: its messages come again."""
        handed_over = [
            job
            for job in self._cache.values()
            if not job._accepted and job._write_to is not None and job._write_to._is_alive()
        ]
        for job in handed_over:
            job._accepted = True
        try:
            super().flush()
        finally:
            for job in handed_over:
                # A child may have died meanwhile, and what it had said have been read.
                job._accepted = job._worker_pid is not None
