"""Waiting for what may never answer, without waiting for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """
    A reading that all who ask for it at a time share.

    However often somebody asks for what does not answer, one thread waits for it.
    """

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._under_way: Future[T] | None = None

    def begin(self) -> Future[T]:
        """Begin to read, unless it is being read; return what will be the answer."""
        with self._lock:
            if self._under_way is None or self._under_way.done():
                self._under_way = Future()
                # The process does not wait for it when it ends.
                threading.Thread(target=self._fulfil, args=(self._under_way,), daemon=True).start()
            return self._under_way

    def _fulfil(self, answer: Future[T]) -> None:
        try:
            answer.set_result(self._read())
        except Exception as error:  # noqa: BLE001  whoever waits for the answer is told
            answer.set_exception(error)
