"""Replay stores."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from countersign_verify import (
    AssertionRefused,
    ConfigurationError,
    InProcessReplayStore,
    ReplayStore,
    RequestParts,
)
from countersign_verify.redis import RedisReplayStore
from countersign_verify.testing import TestGateway
from support import HOST, NOW, Clock, in_threads, process, tool

URL = f"https://{HOST}/orders/7"
PARTS = RequestParts("GET", HOST, "/orders/7")


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(AssertionRefused) as refused:
        call()
    return refused.value.code


def test_an_assertion_is_used_once(gateway: TestGateway) -> None:
    verifier = gateway.verifier(replay_store=InProcessReplayStore())
    token = gateway.assertion("GET", URL)
    # A refused request does not use it up.
    other = RequestParts("GET", HOST, "/orders/8")
    assert refusal(lambda: verifier.verify(token, other)) == "assertion-path"
    verifier.verify(token, PARTS)
    assert refusal(lambda: verifier.verify(token, PARTS)) == "assertion-replayed"
    assert refusal(lambda: asyncio.run(verifier.verify_async(token, PARTS))) == "assertion-replayed"
    verifier.verify(gateway.assertion("GET", URL), PARTS)


def test_caller_bound_assertions_may_be_used_again(gateway: TestGateway) -> None:
    verifier = gateway.verifier(replay_store=InProcessReplayStore(), allow_caller_binding=True)
    token = gateway.assertion("GET", URL, binding="caller")
    verifier.verify(token, PARTS)
    verifier.verify(token, PARTS)


def test_only_one_of_many_threads_is_admitted(gateway: TestGateway) -> None:
    verifier = gateway.verifier(replay_store=InProcessReplayStore())
    token = gateway.assertion("GET", URL)
    results = in_threads(16, lambda: verifier.verify(token, PARTS))
    assert sum(not isinstance(result, AssertionRefused) for result in results) == 1


def test_a_full_store_refuses() -> None:
    store = InProcessReplayStore(capacity=2)
    store.admit("a", NOW + 10, NOW)
    store.admit("b", NOW + 20, NOW)
    assert refusal(lambda: store.admit("c", NOW + 30, NOW)) == "assertion-replay-cache-full"
    assert AssertionRefused("assertion-replay-cache-full").status == 503
    store.admit("c", NOW + 30, NOW + 10)
    assert refusal(lambda: store.admit("b", NOW + 20, NOW + 10)) == "assertion-replayed"
    with pytest.raises(ConfigurationError):
        InProcessReplayStore(capacity=0)


def test_the_clock_may_be_set_back(gateway: TestGateway, clock: Clock) -> None:
    verifier = gateway.verifier(replay_store=InProcessReplayStore())
    used, unused = gateway.assertion("GET", URL), gateway.assertion("GET", URL)
    verifier.verify(used, PARTS)
    clock.now += 100
    verifier.verify(gateway.assertion("GET", URL), PARTS)
    clock.now = NOW
    for token in (used, unused):
        assert refusal(lambda token=token: verifier.verify(token, PARTS)) == "assertion-expired"  # type: ignore[misc]


def test_a_store_of_ones_own(gateway: TestGateway) -> None:
    class Refusing(ReplayStore):
        def admit(self, identifier: str, expiry: int, now: int) -> None:
            assert (len(identifier), expiry, now) == (22, NOW + 40, NOW)
            raise AssertionRefused("assertion-replayed")

    verifier = gateway.verifier(replay_store=Refusing())
    token = gateway.assertion("GET", URL)
    assert refusal(lambda: verifier.verify(token, PARTS)) == "assertion-replayed"
    assert refusal(lambda: asyncio.run(verifier.verify_async(token, PARTS))) == "assertion-replayed"


@pytest.fixture(scope="module")
def redis_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("redis") / "redis.sock"
    command = [tool("redis-server"), "--port", "0", "--unixsocket", str(path)]
    command += ["--save", "", "--dir", str(path.parent), "--loglevel", "warning"]
    with process(command):
        client = redis.Redis(
            unix_socket_path=str(path),
            retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.02), 500),
            retry_on_error=[redis.exceptions.ConnectionError, FileNotFoundError],
        )
        client.ping()
        client.close()
        yield path


def test_redis_admits_once(redis_socket: Path) -> None:
    with redis.Redis(unix_socket_path=str(redis_socket)) as client:
        client.flushall()
        now = int(client.time()[0])
        first, second = RedisReplayStore(client), RedisReplayStore(client)
        first.admit("a", now + 40, now)
        assert refusal(lambda: second.admit("a", now + 40, now)) == "assertion-replayed"
        second.admit("b", now + 40, now)
        results = in_threads(16, lambda: second.admit("c", now + 40, now))
        assert sum(result is None for result in results) == 1
        # What had expired by Redis' clock may be forgotten, whatever ours says.
        assert refusal(lambda: first.admit("d", now, now - 40)) == "assertion-expired"
        # Redis' clock was set back: by the highest time seen, this one may be forgotten.
        client.set("{countersign}:jti:clock", now + 100)
        assert refusal(lambda: first.admit("e", now + 100, now)) == "assertion-expired"
        first.admit("e", now + 140, now)
        assert all(client.ttl(key) <= 140 for key in client.scan_iter("*") if b"clock" not in key)


def test_a_repeated_command_is_no_replay(
    redis_socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis.Redis(unix_socket_path=str(redis_socket)) as client:
        client.flushall()
        now = int(client.time()[0])
        send = client.eval

        def send_twice(*arguments: Any) -> Any:
            send(*arguments)
            return send(*arguments)

        monkeypatch.setattr(client, "eval", send_twice)
        RedisReplayStore(client).admit("repeated", now + 40, now)
        assert refusal(lambda: RedisReplayStore(client).admit("repeated", now + 40, now)) == (
            "assertion-replayed"
        )


def test_redis_from_asynchronous_code(redis_socket: Path) -> None:
    async def run() -> None:
        async with redis.asyncio.Redis(unix_socket_path=str(redis_socket)) as client:
            await client.flushall()
            now = int((await client.time())[0])
            store = RedisReplayStore(client)
            await store.admit_async("a", now + 40, now)
            with pytest.raises(AssertionRefused, match="assertion-replayed"):
                await store.admit_async("a", now + 40, now)
            with pytest.raises(ConfigurationError):
                store.admit("a", now + 40, now)
            blocking = RedisReplayStore.from_url(f"unix://{redis_socket}")
            with pytest.raises(AssertionRefused, match="assertion-replayed"):
                await blocking.admit_async("a", now + 40, now)

    asyncio.run(run())


def test_without_redis_assertions_are_refused(gateway: TestGateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        verifier = gateway.verifier(
            replay_store=RedisReplayStore.from_url(f"redis://127.0.0.1:{port}", timeout=0.1)
        )
        token = gateway.assertion("GET", URL)
        assert refusal(lambda: verifier.verify(token, PARTS)) == "assertion-replay-cache-full"
    assert refusal(lambda: verifier.verify(token, PARTS)) == "assertion-replay-cache-full"
    assert refusal(lambda: asyncio.run(verifier.verify_async(token, PARTS))) == (
        "assertion-replay-cache-full"
    )
