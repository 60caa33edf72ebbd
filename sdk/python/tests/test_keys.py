"""Fetching and caching keys: hostile servers, floods, rotation and clocks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from countersign_verify import (
    AssertionRefused,
    AssertionVerifier,
    Caller,
    ConfigurationError,
    KeysUnavailable,
    RequestParts,
    _fetch,
    _key_cache,
)
from countersign_verify.testing import TestGateway
from support import HOST, IN_TIME, NOW, Clock, KeyEndpoint, in_threads, private_ca

URL = f"https://{HOST}/orders/7"


@pytest.fixture
def endpoint(gateway: TestGateway) -> Iterator[KeyEndpoint]:
    with KeyEndpoint() as endpoint:
        yield endpoint.serves(gateway.key_set)


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fetch, "FETCH_TIMEOUT", 0.4)
    monkeypatch.setattr(_key_cache, "WAIT_TIMEOUT", 0.6)


def verify(verifier: AssertionVerifier, gateway: TestGateway, **header: str) -> Caller:
    token = gateway.assertion("GET", URL, header=header)
    return verifier.verify(token, RequestParts("GET", HOST, "/orders/7"))


def code(verifier: AssertionVerifier, gateway: TestGateway, **header: str) -> str:
    with pytest.raises(AssertionRefused) as refused:
        verify(verifier, gateway, **header)
    return refused.value.code


def test_keys_are_fetched_when_first_needed_and_kept(
    gateway: TestGateway, endpoint: KeyEndpoint, clock: Clock
) -> None:
    endpoint.headers["Cache-Control"] = "public, max-age=600"
    verifier = gateway.verifier(jwks_url=endpoint.url)
    assert endpoint.requests == []
    for _ in range(3):
        verify(verifier, gateway)
    clock.now += 599
    verify(verifier, gateway)
    assert len(endpoint.requests) == 1
    clock.now += 1
    verify(verifier, gateway)
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 300),
        ({"Cache-Control": "max-age=1"}, 60),
        ({"Cache-Control": "max-age=1000000"}, 86400),
        ({"Cache-Control": "no-store, max-age=600"}, 60),
        ({"Cache-Control": "no-cache"}, 60),
        ({"Cache-Control": "max-age=600", "Age": "100"}, 500),
        ({"Cache-Control": "max-age=600", "Age": "-1"}, 600),
        ({"Cache-Control": "max-age=x"}, 300),
        ({"Cache-Control": "max-age=" + "9" * 5000}, 300),
    ],
)
def test_the_server_says_how_long_keys_are_fresh(headers: dict[str, str], seconds: int) -> None:
    from http.client import HTTPMessage

    message = HTTPMessage()
    for name, value in headers.items():
        message[name] = value
    assert _fetch.freshness(message) == seconds


def test_an_unknown_key_is_asked_for_once(
    gateway: TestGateway, endpoint: KeyEndpoint, clock: Clock
) -> None:
    verifier = gateway.verifier(jwks_url=endpoint.url)
    verify(verifier, gateway)
    clock.now += _key_cache.MINIMUM_INTERVAL
    for _ in range(3):
        assert code(verifier, gateway, kid="stranger") == "assertion-unknown-key"
    assert len(endpoint.requests) == 2
    clock.now += _key_cache.UNKNOWN_KEY_SECONDS - 1
    assert code(verifier, gateway, kid="stranger") == "assertion-unknown-key"
    assert len(endpoint.requests) == 2


def test_a_flood_of_unknown_keys_causes_few_fetches(
    gateway: TestGateway, endpoint: KeyEndpoint, clock: Clock
) -> None:
    verifier = gateway.verifier(jwks_url=endpoint.url)
    verifier.fetch_keys()
    source = verifier._keys
    seconds = 20
    for _ in range(seconds):
        # 10,000 in each second of the verifier's clock.
        for number in range(10_000):
            source.for_key(f"{clock.now} {number}")
        clock.now += 1
    assert 1 < len(endpoint.requests) <= 1 + seconds / _key_cache.MINIMUM_INTERVAL
    assert len(source._unknown) <= _key_cache.MAX_UNKNOWN_KEYS  # type: ignore[attr-defined]
    verify(verifier, gateway)


def test_a_flood_does_not_keep_a_new_key_out(
    gateway: TestGateway, endpoint: KeyEndpoint, clock: Clock
) -> None:
    verifier = gateway.verifier(jwks_url=endpoint.url)
    verify(verifier, gateway)
    clock.now += _key_cache.MINIMUM_INTERVAL
    gateway.rotate()
    assert code(verifier, gateway, kid="stranger") == "assertion-unknown-key"
    endpoint.serves(gateway.key_set)
    assert code(verifier, gateway) == "assertion-unknown-key"
    clock.now += _key_cache.MINIMUM_INTERVAL
    verify(verifier, gateway)


def test_keys_rotate(gateway: TestGateway, endpoint: KeyEndpoint, clock: Clock) -> None:
    verifier = gateway.verifier(jwks_url=endpoint.url)
    old = gateway.assertion("GET", URL, lifetime=300)
    parts = RequestParts("GET", HOST, "/orders/7")
    verifier.verify(old, parts)
    # The next key is published before it is used.
    gateway.rotate()
    endpoint.serves(gateway.key_set)
    clock.now += _key_cache.MINIMUM_INTERVAL
    verify(verifier, gateway)
    verifier.verify(old, parts)
    assert len(endpoint.requests) == 2
    # A key that a fresh set does not contain is not used any more.
    gateway.rotate(keep_old=False)
    endpoint.serves(gateway.key_set)
    clock.now += _key_cache.MINIMUM_INTERVAL
    verify(verifier, gateway)
    with pytest.raises(AssertionRefused, match="assertion-unknown-key"):
        verifier.verify(old, parts)


def test_a_burst_at_the_start_is_one_fetch(gateway: TestGateway, endpoint: KeyEndpoint) -> None:
    endpoint.open.clear()
    verifier = gateway.verifier(jwks_url=endpoint.url)

    def answer() -> None:
        endpoint.arrived.acquire()
        endpoint.open.set()

    threading.Thread(target=answer).start()
    results = in_threads(30, lambda: verify(verifier, gateway))
    assert all(isinstance(result, Caller) for result in results), results
    assert len(endpoint.requests) == 1


def test_waiting_calls_share_a_failure(
    gateway: TestGateway, endpoint: KeyEndpoint, short_timeouts: None
) -> None:
    endpoint.open.clear()
    verifier = gateway.verifier(jwks_url=endpoint.url)
    started = time.monotonic()
    results = in_threads(30, lambda: verify(verifier, gateway))
    assert {getattr(result, "code", None) for result in results} == {"assertion-keys-unavailable"}
    assert time.monotonic() - started < 5
    assert len(endpoint.requests) == 1


def test_asynchronous_calls_share_a_fetch_and_do_not_block(
    gateway: TestGateway, endpoint: KeyEndpoint
) -> None:
    endpoint.open.clear()
    verifier = gateway.verifier(jwks_url=endpoint.url)
    parts = RequestParts("GET", HOST, "/orders/7")
    token = gateway.assertion("GET", URL)

    async def run() -> None:
        calls = [asyncio.create_task(verifier.verify_async(token, parts)) for _ in range(30)]
        # One of them is cancelled while it waits. The others are not affected.
        await asyncio.to_thread(endpoint.arrived.acquire)
        calls[0].cancel()
        assert not any(call.done() for call in calls[1:])
        endpoint.open.set()
        callers = await asyncio.gather(*calls[1:])
        assert len(callers) == 29
        with contextlib.suppress(asyncio.CancelledError):
            await calls[0]

    asyncio.run(run())
    assert len(endpoint.requests) == 1


def test_a_limited_number_of_calls_waits(
    gateway: TestGateway, endpoint: KeyEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_key_cache, "MAX_WAITING", 5)
    endpoint.open.clear()
    verifier = gateway.verifier(jwks_url=endpoint.url)
    parts = RequestParts("GET", HOST, "/orders/7")
    token = gateway.assertion("GET", URL)

    async def run() -> list[Any]:
        calls = [asyncio.create_task(verifier.verify_async(token, parts)) for _ in range(20)]
        await asyncio.to_thread(endpoint.arrived.acquire)
        endpoint.open.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    results = asyncio.run(run())
    assert sum(isinstance(result, Caller) for result in results) == 6
    busy = [result for result in results if isinstance(result, AssertionRefused)]
    assert {refusal.code for refusal in busy} == {"assertion-keys-unavailable"}
    assert "too many calls wait" in busy[0].detail


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (301, {"Location": "/other"}, b""),
        (302, {"Location": "http://127.0.0.1:1/"}, b""),
        (304, {}, b""),
        (204, {}, b""),
        (404, {}, b""),
        (500, {}, b"{}"),
        (200, {}, b""),
        (200, {"Content-Type": "text/html"}, b"<html><body>Sign in</body></html>"),
        (200, {}, b"[]"),
        (200, {}, b'{"keys":{}}'),
        (200, {}, b'{"keys":[1]}'),
        (200, {}, b'{"keys":[],"keys":[]}'),
        (200, {}, b" " * (10 * 1024 * 1024)),
        (200, {"Content-Length": "1000"}, b'{"keys":[]}'),
        (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b"),
    ],
)
def test_useless_answers_do_not_replace_keys(
    status: int,
    headers: dict[str, str],
    body: bytes,
    gateway: TestGateway,
    endpoint: KeyEndpoint,
    clock: Clock,
) -> None:
    fresh = gateway.verifier(jwks_url=endpoint.url)
    fresh.fetch_keys()
    endpoint.status, endpoint.headers, endpoint.body = status, headers, body
    clock.now += 1000
    verify(fresh, gateway)
    without = gateway.verifier(jwks_url=endpoint.url)
    assert code(without, gateway) == "assertion-keys-unavailable"
    with pytest.raises(KeysUnavailable):
        without.fetch_keys()
    with pytest.raises(KeysUnavailable):
        asyncio.run(without.fetch_keys_async())
    assert all(request["path"] == "/keys" for request in endpoint.requests)


def test_another_issuers_keys_verify_nothing(gateway: TestGateway, endpoint: KeyEndpoint) -> None:
    endpoint.serves(TestGateway(audience="orders").key_set)
    verifier = gateway.verifier(jwks_url=endpoint.url)
    assert code(verifier, gateway) == "assertion-unknown-key"


def test_a_server_that_trickles_costs_bounded_time(
    gateway: TestGateway, short_timeouts: None
) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    end = threading.Event()

    def trickle() -> None:
        connected, _ = listener.accept()
        with connected, contextlib.suppress(OSError):
            connected.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not end.wait(0.05):
                connected.sendall(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    verifier = gateway.verifier(jwks_url=f"http://127.0.0.1:{listener.getsockname()[1]}/")
    started = time.monotonic()
    with pytest.raises(KeysUnavailable, match="in time"):
        verifier.fetch_keys()
    assert time.monotonic() - started < 5
    end.set()
    thread.join(IN_TIME)
    listener.close()


def test_a_call_waits_for_five_seconds_at_most() -> None:
    assert 4 < _fetch.FETCH_TIMEOUT < _key_cache.WAIT_TIMEOUT <= 5


def test_nobody_listens(gateway: TestGateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    verifier = gateway.verifier(jwks_url=f"http://127.0.0.1:{port}/")
    with pytest.raises(KeysUnavailable, match="cannot be reached"):
        verifier.fetch_keys()
    assert code(verifier, gateway) == "assertion-keys-unavailable"


def test_the_last_good_keys_serve_for_a_day(
    gateway: TestGateway, endpoint: KeyEndpoint, clock: Clock
) -> None:
    verifier = gateway.verifier(jwks_url=endpoint.url)
    verify(verifier, gateway)
    endpoint.status = 500
    clock.now += _key_cache.LAST_GOOD_SECONDS - 1
    verify(verifier, gateway)
    # An unknown key may be newer than these keys.
    assert code(verifier, gateway, kid="stranger") == "assertion-keys-unavailable"
    clock.now += 1
    assert code(verifier, gateway) == "assertion-keys-unavailable"
    endpoint.status = 200
    clock.now += _key_cache.MINIMUM_INTERVAL
    verify(verifier, gateway)


def test_unchanged_keys_are_confirmed(
    gateway: TestGateway, endpoint: KeyEndpoint, clock: Clock
) -> None:
    endpoint.headers["ETag"] = '"1"'
    verifier = gateway.verifier(jwks_url=endpoint.url)
    verify(verifier, gateway)
    endpoint.status, endpoint.body = 304, b""
    clock.now += 1000
    verify(verifier, gateway)
    assert endpoint.requests[1]["If-None-Match"] == '"1"'
    clock.now += 299
    verify(verifier, gateway)
    assert len(endpoint.requests) == 2


def test_keys_age_after_the_clock_is_set_back(
    gateway: TestGateway, endpoint: KeyEndpoint, clock: Clock
) -> None:
    clock.now += 1_000_000
    verifier = gateway.verifier(jwks_url=endpoint.url)
    verify(verifier, gateway)
    clock.now = NOW
    verify(verifier, gateway)
    clock.now += 300
    verify(verifier, gateway)
    assert len(endpoint.requests) == 2


def test_a_fetch_before_the_first_request(gateway: TestGateway, endpoint: KeyEndpoint) -> None:
    verifier = gateway.verifier(jwks_url=endpoint.url)
    verifier.fetch_keys()
    asyncio.run(verifier.fetch_keys_async())
    verify(verifier, gateway)
    assert len(endpoint.requests) == 2


def test_keys_are_refreshed_in_the_background(
    gateway: TestGateway, endpoint: KeyEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_key_cache.RemoteKeys, "refresh_in", lambda _: 0.01)
    verifier = gateway.verifier(jwks_url=endpoint.url)
    verifier.fetch_keys()
    for _ in range(3):
        assert endpoint.arrived.acquire(timeout=IN_TIME)
    threads = [thread for thread in threading.enumerate() if thread.name == "countersign-refresh"]
    del verifier
    gc.collect()
    for thread in threads:
        thread.join(IN_TIME)
        assert not thread.is_alive()


def test_closing_ends_the_refresh(gateway: TestGateway, endpoint: KeyEndpoint) -> None:
    verifier = gateway.verifier(jwks_url=endpoint.url)
    verifier.fetch_keys()
    refresher = verifier._keys._refresher  # type: ignore[attr-defined]
    assert refresher.is_alive()
    verifier.close()
    refresher.join(IN_TIME)
    assert not refresher.is_alive()
    verify(verifier, gateway)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_worker_does_not_wait_for_its_parents_fetch(
    gateway: TestGateway, endpoint: KeyEndpoint
) -> None:
    endpoint.open.clear()
    verifier = gateway.verifier(jwks_url=endpoint.url)
    fetching = threading.Thread(target=lambda: in_threads(1, verifier.fetch_keys))
    fetching.start()
    assert endpoint.arrived.acquire(timeout=IN_TIME)
    source: Any = verifier._keys
    source._lock.acquire()
    child = os.fork()
    if child == 0:
        # Only this thread lives here. It must neither wait for the lock nor for the fetch.
        status = 1
        with contextlib.suppress(BaseException):
            status = 0 if source._running is None and source._lock.acquire(timeout=5) else 1
        os._exit(status)
    source._lock.release()
    endpoint.open.set()
    fetching.join(IN_TIME)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_keys_behind_a_private_authority(gateway: TestGateway, tmp_path: Path) -> None:
    authority = private_ca(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    stranger = private_ca(other)
    with KeyEndpoint().with_tls(authority.server) as endpoint:
        endpoint.serves(gateway.key_set)
        verify(gateway.verifier(jwks_url=endpoint.url, ca_file=authority.root_file), gateway)
        by_address = endpoint.url.replace("localhost", "127.0.0.1")
        verify(gateway.verifier(jwks_url=by_address, ca_file=authority.root_file), gateway)
        for options in ({}, {"ca_file": stranger.root_file}):
            verifier = gateway.verifier(jwks_url=endpoint.url, **options)
            with pytest.raises(KeysUnavailable, match="cannot be reached"):
                verifier.fetch_keys()


def test_the_certificate_must_have_the_servers_name(gateway: TestGateway, tmp_path: Path) -> None:
    authority = private_ca(tmp_path, name="gateway.example.org")
    with KeyEndpoint().with_tls(authority.server) as endpoint:
        endpoint.serves(gateway.key_set)
        verifier = gateway.verifier(jwks_url=endpoint.url, ca_file=authority.root_file)
        with pytest.raises(KeysUnavailable, match="cannot be reached"):
            verifier.fetch_keys()


@pytest.mark.parametrize("change", ["absent", "empty", "indented", "key", "damaged"])
def test_no_root_is_left_out_without_a_word(
    change: str, gateway: TestGateway, tmp_path: Path
) -> None:
    root = private_ca(tmp_path).root_file
    text = root.read_text()
    if change == "absent":
        root.unlink()
    else:
        root.write_text(
            {
                "empty": "",
                "indented": text + " " + text,
                "key": text + text.replace("CERTIFICATE", "PRIVATE KEY"),
                "damaged": text.replace("MII", "MIX", 1),
            }[change]
        )
    with pytest.raises(ConfigurationError, match="ca_file"):
        gateway.verifier(jwks_url="https://localhost/", ca_file=root)


def test_a_file_of_keys_is_read_again(gateway: TestGateway, tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(gateway.key_set))
    verifier = gateway.verifier(jwks_file=file)
    verify(verifier, gateway)
    gateway.rotate(keep_old=False)
    file.write_text(json.dumps(gateway.key_set) + "\n")
    verifier.fetch_keys()
    verify(verifier, gateway)
    # Unusable content does not replace the last good keys, for a day.
    file.write_text("<html>")
    with pytest.raises(KeysUnavailable):
        verifier.fetch_keys()
    verify(verifier, gateway)
    clock.now += _key_cache.LAST_GOOD_SECONDS
    assert code(verifier, gateway) == "assertion-keys-unavailable"
    file.write_text(json.dumps(gateway.key_set))
    verifier.fetch_keys()
    verify(verifier, gateway)


def test_a_changed_file_is_noticed_within_a_second(
    gateway: TestGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_key_cache, "_FILE_INTERVAL", 0.0)
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(gateway.key_set))
    verifier = gateway.verifier(jwks_file=str(file))
    gateway.rotate()
    file.write_text(json.dumps(gateway.key_set))
    verify(verifier, gateway)


@pytest.mark.parametrize("content", [None, "", '{"keys":[]}'])
def test_a_file_without_keys(content: str | None, gateway: TestGateway, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigurationError, match="jwks_file"):
        gateway.verifier(jwks_file=file)
