"""Remembers the `jti` of accepted assertions, so that each one is accepted only once."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import threading
from abc import ABC, abstractmethod

from ._errors import AssertionRefused, ConfigurationError


class ReplayStore(ABC):
    """Remembers which assertions were accepted.

    A store must never forget an identifier that could still be replayed, also if the clock is set
    back. If it cannot decide, it must refuse.
    """

    @abstractmethod
    def admit(self, identifier: str, expiry: int, now: int) -> None:
        """Remember `identifier` until `expiry`, or refuse it.

        `expiry` and `now` are seconds since 1970, and `expiry` includes the skew. Raise
        AssertionRefused: `assertion-replayed` if the identifier is remembered, `assertion-expired`
        if it could have been forgotten, `assertion-replay-cache-full` (status 503) if the store
        cannot decide. May block.
        """

    async def admit_async(self, identifier: str, expiry: int, now: int) -> None:
        """Do the same without blocking the event loop: by default in a thread."""
        await asyncio.to_thread(self.admit, identifier, expiry, now)


class InProcessReplayStore(ReplayStore):
    """A store in the memory of this process, for at most `capacity` assertions.

    Other processes do not see it. Use it only if one process serves all requests: with several
    workers, an assertion can be used once with each.

    If it is full of assertions that could still be replayed, further ones are refused with status
    503. Choose at least the number of requests in 40 seconds (lifetime and skew).

    The clock may be set back. A forgotten assertion would then be valid again, so the store
    refuses every assertion that expires no later than one that it has forgotten.
    """

    def __init__(self, capacity: int = 100_000) -> None:
        if capacity < 1:
            raise ConfigurationError("a replay store needs a capacity of at least 1")
        self._capacity = capacity
        self._lock = threading.Lock()
        # Hashes, so that all entries have the same size.
        self._seen: set[bytes] = set()
        self._by_expiry: list[tuple[int, bytes]] = []
        self._forgotten_until = 0

    def admit(self, identifier: str, expiry: int, now: int) -> None:
        """See ReplayStore."""
        entry = hashlib.sha256(identifier.encode("utf-8")).digest()
        with self._lock:
            self._forget_expired(now)
            if entry in self._seen:
                raise AssertionRefused("assertion-replayed")
            if expiry <= self._forgotten_until:
                raise AssertionRefused("assertion-expired")
            if len(self._seen) >= self._capacity:
                raise AssertionRefused("assertion-replay-cache-full")
            self._seen.add(entry)
            heapq.heappush(self._by_expiry, (expiry, entry))

    async def admit_async(self, identifier: str, expiry: int, now: int) -> None:
        """See ReplayStore. Never waits, so that it needs no thread."""
        self.admit(identifier, expiry, now)

    def _forget_expired(self, now: int) -> None:
        while self._by_expiry and self._by_expiry[0][0] <= now:
            expiry, entry = heapq.heappop(self._by_expiry)
            self._forgotten_until = max(self._forgotten_until, expiry)
            self._seen.discard(entry)
