"""A replay store in Redis, shared by all processes of a service.

If Redis cannot be reached, assertions are refused with status 503 and the code
`assertion-replay-cache-full`: accepting them would allow every replay.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable
from typing import Any, Final, cast

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from ._errors import AssertionRefused, ConfigurationError
from ._jws import base64url_encode
from ._replay import ReplayStore

__all__ = ["RedisReplayStore"]

# Redis' own clock decides when an entry is forgotten, and it may be set back. The highest time seen
# is kept, and assertions that had expired by then are refused: their entries may be gone. An entry
# lives until its expiry, and no longer, so that the memory is bounded. Its value is random for each
# call: a client that repeats a command after a lost answer must not take it for a replay.
_ADMIT: Final = """
local now = tonumber(redis.call('TIME')[1])
local seen = tonumber(redis.call('GET', KEYS[2]) or '0')
if now > seen then redis.call('SET', KEYS[2], now) else now = seen end
local left = tonumber(ARGV[1]) - now
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[2] then return 'admitted' end
if holder then return 'replayed' end
if left <= 0 then return 'expired' end
redis.call('SET', KEYS[1], ARGV[2], 'EX', left)
return 'admitted'
"""


class RedisReplayStore(ReplayStore):
    """Accepts each assertion once in all processes that share a Redis.

    client: a `redis.Redis`, or a `redis.asyncio.Redis` for services that only use `verify_async`
        and one event loop. Give it a `socket_timeout`: requests wait that long for an answer.
    prefix: of all keys. The part in braces keeps them in one slot of a cluster.

    Redis must not evict keys (`maxmemory-policy noeviction`). Its clock must agree with the
    gateway's. If it was ahead by mistake, delete the key `PREFIXclock`.
    """

    def __init__(
        self,
        client: redis.Redis | redis.asyncio.Redis,
        *,
        prefix: str = "{countersign}:jti:",
    ) -> None:
        self._client: Any = client
        self._is_async = isinstance(client, redis.asyncio.Redis | redis.asyncio.RedisCluster)
        self._prefix = prefix

    @classmethod
    def from_url(cls, url: str, *, timeout: float = 1.0) -> RedisReplayStore:
        """Make a store with a client of its own. `timeout` is in seconds."""
        # Requests wait, so the time is not multiplied by repeating.
        retry = Retry(NoBackoff(), 0)
        return cls(
            redis.Redis.from_url(
                url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=retry
            )
        )

    def admit(self, identifier: str, expiry: int, now: int) -> None:  # noqa: ARG002
        """See ReplayStore."""
        if self._is_async:
            raise ConfigurationError("an asynchronous client serves verify_async only")
        try:
            result = self._client.eval(_ADMIT, 2, *self._arguments(identifier, expiry))
        except (RedisError, OSError):
            raise _unavailable() from None
        _decide(result)

    async def admit_async(self, identifier: str, expiry: int, now: int) -> None:
        """See ReplayStore. A blocking client is used in a thread."""
        if not self._is_async:
            await asyncio.to_thread(self.admit, identifier, expiry, now)
            return
        try:
            result = await cast(
                "Awaitable[object]",
                self._client.eval(_ADMIT, 2, *self._arguments(identifier, expiry)),
            )
        except (RedisError, OSError):
            raise _unavailable() from None
        _decide(result)

    def _arguments(self, identifier: str, expiry: int) -> tuple[str, str, int, str]:
        entry = base64url_encode(hashlib.sha256(identifier.encode("utf-8")).digest())
        return self._prefix + entry, self._prefix + "clock", expiry, secrets.token_hex(16)


def _decide(result: object) -> None:
    text = result.decode("ascii", "replace") if isinstance(result, bytes) else result
    if text == "replayed":
        raise AssertionRefused("assertion-replayed")
    if text == "expired":
        raise AssertionRefused("assertion-expired")
    if text != "admitted":
        raise _unavailable()


def _unavailable() -> AssertionRefused:
    return AssertionRefused(
        "assertion-replay-cache-full", "the store of used assertions cannot be reached"
    )
