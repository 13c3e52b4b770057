"""How often something may be tried in vain."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address, ip_network

_MOST_KEYS = 10_000
"""Of whom is counted; beyond them, who tried longest ago is forgotten."""


def network_of(address: str) -> str:
    """Return whom an address belongs to: of IPv6, everybody has 2**64 of them or more."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv4Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ip_network((found.packed, 64), strict=False))


class Attempts:
    """
    Counts, in this process, what each of many has tried lately.

    An attempt counts from when it begins, so that many at once are no more than many in turn.
    """

    def __init__(
        self, most: int, within_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._within = within_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._begun: OrderedDict[str, deque[float]] = OrderedDict()

    def begin(self, key: str) -> float:
        """Count an attempt; return after how many seconds it may be made, 0 if it may be now."""
        now = self._clock()
        with self._lock:
            begun = self._begun.setdefault(key, deque())
            self._begun.move_to_end(key)
            while begun and begun[0] <= now - self._within:
                begun.popleft()
            if len(begun) >= self._most:
                return begun[0] + self._within - now
            begun.append(now)
            if len(self._begun) > _MOST_KEYS:
                self._begun.popitem(last=False)
            return 0.0

    def take_back(self, key: str) -> None:
        """Let the last attempt not count, for it was not in vain."""
        with self._lock:
            if begun := self._begun.get(key):
                begun.pop()
