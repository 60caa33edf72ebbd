"""The sources of the gateway's keys: a fixed set, a file, or a URL with its cache.

The cache of a URL follows the Rust package. The address is fixed, and a token cannot change it. A
flood of unknown key identifiers causes at most one fetch per MINIMUM_INTERVAL. Requests that need
keys while a fetch runs wait for its outcome and share it, also if it failed: a server that does
not respond costs each request the time of at most one fetch. Fetches run in threads of their own,
so that they serve blocking and asynchronous callers, and go on if a request is cancelled.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import logging
import os
import random
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ._errors import ConfigurationError, KeysUnavailable
from ._fetch import KeyServer
from ._keys import MAX_KEY_SET_BYTES, KeySet, KeySetError

# Minimum number of seconds between the end of a fetch and the start of the next one.
MINIMUM_INTERVAL: Final = 5

# The same minimum while there are no keys at all.
MINIMUM_INTERVAL_WITHOUT_KEYS: Final = 1

# How many seconds the last good keys may be used after they were last confirmed.
LAST_GOOD_SECONDS: Final = 24 * 60 * 60

# If a fetch did not find a key identifier, the identifier causes no fetch for this many seconds.
UNKNOWN_KEY_SECONDS: Final = 30

# Maximum number of unknown key identifiers that are remembered.
MAX_UNKNOWN_KEYS: Final = 256

# Maximum number of calls that wait for a fetch that another call started.
MAX_WAITING: Final = 1024

# Maximum number of seconds that a call waits for a fetch.
WAIT_TIMEOUT: Final = 5.0

# How often the file of a key set is looked at, in seconds.
_FILE_INTERVAL: Final = 1.0

_BUSY = "too many calls wait for the key server already"
_TIMED_OUT = "the key server did not answer in time"
_NOT_FETCHED = "nothing was fetched recently"

Clock = Callable[[], int]

_log = logging.getLogger("countersign_verify")


class KeySource(ABC):
    """Where a verifier finds the gateway's keys. All methods may be called from any thread."""

    @abstractmethod
    def for_key(self, key_id: str) -> KeySet:
        """Return the keys for a token that names `key_id`. May block.

        Raise KeysUnavailable if there are none.
        """

    async def for_key_async(self, key_id: str) -> KeySet:
        """Do the same without blocking the event loop."""
        return self.for_key(key_id)

    def fetch_now(self) -> None:  # noqa: B027 - a fixed set is never fetched
        """Fetch the keys now. Raise KeysUnavailable if that fails. May block."""

    async def fetch_now_async(self) -> None:
        """Do the same without blocking the event loop."""
        self.fetch_now()

    def close(self) -> None:  # noqa: B027 - most sources have nothing to close
        """End what runs in the background."""


class FixedKeys(KeySource):
    """A key set that never changes."""

    def __init__(self, keys: KeySet) -> None:
        if not len(keys):
            raise ConfigurationError("the key set has no usable key")
        self._keys = keys

    def for_key(self, key_id: str) -> KeySet:  # noqa: ARG002
        """See KeySource."""
        return self._keys


class FileKeys(KeySource):
    """A key set in a file, which is read again when it changes.

    If the new content cannot be used, the last good keys are used for at most 24 hours.
    """

    def __init__(self, path: str | Path, clock: Clock) -> None:
        self._path = Path(path)
        self._clock = clock
        self._lock = threading.Lock()
        try:
            # The stamp is older than the content, so that a change in between is noticed.
            self._stamp = self._look()
            keys = self._read()
        except (OSError, KeySetError) as error:
            raise ConfigurationError(f"jwks_file: {error}") from None
        if not len(keys):
            raise ConfigurationError("jwks_file: the key set has no usable key")
        self._keys = keys
        self._confirmed_at = clock()
        self._looked_at = time.monotonic()
        _sources.add(self)

    def for_key(self, key_id: str) -> KeySet:  # noqa: ARG002
        """See KeySource."""
        with self._lock:
            if time.monotonic() - self._looked_at >= _FILE_INTERVAL:
                self._refresh()
            # If the clock was set back, the age counts from the new time.
            now = self._clock()
            self._confirmed_at = min(self._confirmed_at, now)
            if now >= self._confirmed_at + LAST_GOOD_SECONDS:
                raise KeysUnavailable("the file of keys cannot be used")
            return self._keys

    def fetch_now(self) -> None:
        """See KeySource."""
        with self._lock:
            if not self._refresh():
                raise KeysUnavailable("the file of keys cannot be used")

    def after_fork(self) -> None:
        """Replace what another thread of the parent process may have held."""
        self._lock = threading.Lock()

    def _refresh(self) -> bool:
        self._looked_at = time.monotonic()
        try:
            stamp = self._look()
            if stamp != self._stamp:
                keys = self._read()
                if not len(keys):
                    raise KeySetError("the key set has no usable key")
                self._stamp, self._keys = stamp, keys
        except (OSError, KeySetError) as error:
            _log.warning("the file of keys cannot be used: %s", error)
            return False
        self._confirmed_at = self._clock()
        return True

    def _look(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> KeySet:
        with self._path.open("rb") as file:
            return KeySet.parse(file.read(MAX_KEY_SET_BYTES + 1))


@dataclass(slots=True)
class _Cached:
    keys: KeySet
    entity_tag: str | None
    confirmed_at: int
    fresh_until: int


class _Fetch:
    """A fetch that has not ended. Its outcome is the problem, or None if it succeeded."""

    __slots__ = ("number", "outcome")

    def __init__(self, number: int) -> None:
        self.number = number
        self.outcome: concurrent.futures.Future[str | None] = concurrent.futures.Future()
        # A running future cannot be cancelled by one of those who wait for it.
        self.outcome.set_running_or_notify_cancel()


@dataclass(frozen=True, slots=True)
class _Step:
    """How a call gets the keys: it starts a fetch, or waits for that of another call."""

    fetch: _Fetch
    is_new: bool


class RemoteKeys(KeySource):
    """The keys at one address."""

    def __init__(self, url: str, ca_file: str | Path | None, clock: Clock) -> None:
        self._server = KeyServer(url, ca_file)
        self._clock = clock
        self._cached: _Cached | None = None
        self._last_problem: str | None = None
        # Hashes of identifiers that were not found, and the time until which they are remembered.
        self._unknown: dict[bytes, int] = {}
        self._closed = threading.Event()
        self.after_fork()
        _sources.add(self)

    def after_fork(self) -> None:
        """Forget what only other threads of the parent process could have finished."""
        self._lock = threading.Lock()
        self._running: _Fetch | None = None
        self._last_attempt: int | None = None
        self._fetches = 0
        self._waiting = 0
        self._refresher: threading.Thread | None = None

    def for_key(self, key_id: str) -> KeySet:
        """See KeySource. Waits at most 5 seconds."""
        step = self._next_step(key_id)
        if isinstance(step, KeySet):
            return step
        problem = self._wait(step)
        return self._keys_for(key_id, fetched=step.is_new and problem is None)

    async def for_key_async(self, key_id: str) -> KeySet:
        """See KeySource. Waits at most 5 seconds."""
        step = self._next_step(key_id)
        if isinstance(step, KeySet):
            return step
        problem = await self._wait_async(step)
        return self._keys_for(key_id, fetched=step.is_new and problem is None)

    def fetch_now(self) -> None:
        """See KeySource. If a fetch runs already, share its outcome."""
        problem = self._wait(self._join_or_begin())
        if problem is not None:
            raise KeysUnavailable(problem)

    async def fetch_now_async(self) -> None:
        """See KeySource. If a fetch runs already, share its outcome."""
        problem = await self._wait_async(self._join_or_begin())
        if problem is not None:
            raise KeysUnavailable(problem)

    def close(self) -> None:
        """See KeySource. Fetches on demand stay possible."""
        self._closed.set()

    # Deciding. All of these are short, so they may be called on an event loop.

    def _next_step(self, key_id: str) -> KeySet | _Step:
        now = self._clock()
        with self._lock:
            self._follow_clock(now)
            keys = self._settled(key_id, now)
            if keys is not None:
                return keys
            if self._running is not None or self._may_fetch(now):
                step = self._join_or_begin_locked(now)
            else:
                return self._keys_for_locked(key_id, now, fetched=False)
        self._start_if_new(step)
        return step

    def _settled(self, key_id: str, now: int) -> KeySet | None:
        """Return the keys if no fetch is needed for `key_id`."""
        cached = self._usable(now)
        if cached is None:
            return None
        is_fresh = now < cached.fresh_until
        if cached.keys.has(key_id):
            # No call waits for another call's fetch while the old keys may be used, because the
            # server may be slow.
            is_settled = is_fresh or self._running is not None
        else:
            is_settled = is_fresh and self._is_known_unknown(key_id, now)
        return cached.keys if is_settled else None

    def _may_fetch(self, now: int) -> bool:
        interval = MINIMUM_INTERVAL_WITHOUT_KEYS if self._usable(now) is None else MINIMUM_INTERVAL
        # If the clock was set to an earlier time, fetching must not stop.
        return self._last_attempt is None or abs(now - self._last_attempt) >= interval

    def _usable(self, now: int) -> _Cached | None:
        cached = self._cached
        if cached is None or now >= cached.confirmed_at + LAST_GOOD_SECONDS:
            return None
        return cached

    def _follow_clock(self, now: int) -> None:
        """If the clock was set back, count the age of the keys from the new time.

        Otherwise keys that were fetched while the clock was ahead would stay fresh until it reaches
        that time again.
        """
        cached = self._cached
        if cached is not None and now < cached.confirmed_at:
            cached.fresh_until += now - cached.confirmed_at
            cached.confirmed_at = now

    def _keys_for(self, key_id: str, *, fetched: bool) -> KeySet:
        now = self._clock()
        with self._lock:
            return self._keys_for_locked(key_id, now, fetched=fetched)

    def _keys_for_locked(self, key_id: str, now: int, *, fetched: bool) -> KeySet:
        """Return the keys to a call that fetches no more.

        `fetched`: they were fetched after the call began. Only then it is known that an unknown
        key is not published.
        """
        cached = self._usable(now)
        if cached is None:
            raise self._unavailable()
        if not cached.keys.has(key_id):
            # The key may be newer than the cached keys, so that the result is unknown.
            if now >= cached.fresh_until:
                raise self._unavailable()
            if fetched:
                self._remember_unknown(key_id, now)
        return cached.keys

    def _unavailable(self) -> KeysUnavailable:
        return KeysUnavailable(self._last_problem or _NOT_FETCHED)

    def _is_known_unknown(self, key_id: str, now: int) -> bool:
        until = self._unknown.get(_hashed(key_id))
        return until is not None and _is_remembered(until, now)

    def _remember_unknown(self, key_id: str, now: int) -> None:
        self._unknown = {
            key: until for key, until in self._unknown.items() if _is_remembered(until, now)
        }
        # If the table is full, the minimum interval still limits the fetches.
        if len(self._unknown) < MAX_UNKNOWN_KEYS:
            self._unknown[_hashed(key_id)] = now + UNKNOWN_KEY_SECONDS

    # Waiting.

    def _wait(self, step: _Step) -> str | None:
        with self._place(step):
            try:
                return step.fetch.outcome.result(WAIT_TIMEOUT)
            except concurrent.futures.TimeoutError:
                return self._give_up(step.fetch)

    async def _wait_async(self, step: _Step) -> str | None:
        with self._place(step):
            try:
                outcome = asyncio.wrap_future(step.fetch.outcome)
                return await asyncio.wait_for(outcome, WAIT_TIMEOUT)
            except asyncio.TimeoutError:
                return self._give_up(step.fetch)

    @contextlib.contextmanager
    def _place(self, step: _Step) -> Iterator[None]:
        """Take one of the places for calls that wait for the fetch of another call."""
        if step.is_new:
            yield
            return
        with self._lock:
            if self._waiting >= MAX_WAITING:
                raise KeysUnavailable(_BUSY)
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    def _give_up(self, fetch: _Fetch) -> str:
        """Let the next call start another fetch."""
        with self._lock:
            self._end(fetch, _TIMED_OUT)
        return _TIMED_OUT

    # Fetching.

    def _join_or_begin(self) -> _Step:
        now = self._clock()
        with self._lock:
            step = self._join_or_begin_locked(now)
        self._start_if_new(step)
        return step

    def _join_or_begin_locked(self, now: int) -> _Step:
        if self._running is not None:
            return _Step(self._running, is_new=False)
        self._fetches += 1
        self._last_attempt = now
        self._running = _Fetch(self._fetches)
        return _Step(self._running, is_new=True)

    def _start_if_new(self, step: _Step) -> None:
        if not step.is_new:
            return
        thread = threading.Thread(
            target=self._run, args=(step.fetch,), name="countersign-keys", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            # No thread can be started.
            self._finish(step.fetch, "the key server cannot be reached")

    def _run(self, fetch: _Fetch) -> None:
        problem: str | None = "the key server cannot be reached"
        try:
            problem = self._fetch_once(fetch)
        finally:
            self._finish(fetch, problem)

    def _finish(self, fetch: _Fetch, problem: str | None) -> None:
        now = self._clock()
        with self._lock:
            # The interval begins when the fetch ends. Otherwise the next call could fetch again at
            # once after a slow failure.
            self._last_attempt = now
            self._end(fetch, problem)
            self._keep_fresh()
        if problem is not None:
            _log.warning("cannot fetch the gateway's keys from %s: %s", self._server.url, problem)
        fetch.outcome.set_result(problem)

    def _end(self, fetch: _Fetch, problem: str | None) -> None:
        """Record the outcome, unless the fetch was given up before."""
        if self._running is fetch:
            self._running = None
            self._last_problem = problem

    def _fetch_once(self, fetch: _Fetch) -> str | None:
        with self._lock:
            entity_tag = None if self._cached is None else self._cached.entity_tag
        try:
            response = self._server.get(entity_tag)
            keys = None if response.body is None else KeySet.parse(response.body)
        except KeysUnavailable as error:
            return error.problem
        except KeySetError as error:
            return f"the answer is not a key set: {error}"
        now = self._clock()
        with self._lock:
            # After a fetch was given up, a later one may have stored newer keys.
            if self._running is not fetch:
                return _TIMED_OUT
            if keys is not None:
                self._unknown.clear()
                self._cached = _Cached(keys, response.entity_tag, now, now + response.fresh_for)
            elif self._cached is not None:
                self._cached.confirmed_at = now
                self._cached.fresh_until = now + response.fresh_for
        return None

    # Refreshing in the background, so that requests need not wait for stale keys.

    def _keep_fresh(self) -> None:
        if self._refresher is None and not self._closed.is_set():
            self._refresher = threading.Thread(
                target=_refresh,
                args=(weakref.ref(self), self._closed),
                name="countersign-refresh",
                daemon=True,
            )
            weakref.finalize(self, self._closed.set)
            # If no thread can be started, requests fetch the keys.
            with contextlib.suppress(RuntimeError):
                self._refresher.start()

    def refresh_in(self) -> float:
        """Return the number of seconds until the keys should be fetched again."""
        now = self._clock()
        with self._lock:
            cached = self._usable(now)
            left = 0 if cached is None else cached.fresh_until - now
        # Early enough for a slow server, and not at the same time in all processes.
        return max(left * random.uniform(0.7, 0.9), 2.0 * MINIMUM_INTERVAL)  # noqa: S311


def _refresh(source: weakref.ref[RemoteKeys], closed: threading.Event) -> None:
    """Fetch the keys before they become stale, until the source is closed or collected."""
    while True:
        keys = source()
        if keys is None:
            return
        seconds = keys.refresh_in()
        del keys
        if closed.wait(seconds):
            return
        keys = source()
        if keys is not None:
            with contextlib.suppress(KeysUnavailable):
                keys.fetch_now()


def _hashed(key_id: str) -> bytes:
    return hashlib.sha256(key_id.encode("utf-8")).digest()


def _is_remembered(until: int, now: int) -> bool:
    # A time that is too far ahead was set before the clock was set to an earlier time.
    return now < until <= now + UNKNOWN_KEY_SECONDS


_sources: weakref.WeakSet[RemoteKeys | FileKeys] = weakref.WeakSet()


def _after_fork() -> None:
    for source in list(_sources):
        source.after_fork()


if hasattr(os, "register_at_fork"):
    # Servers load the application and then fork their workers.
    os.register_at_fork(after_in_child=_after_fork)
