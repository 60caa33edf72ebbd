"""Interceptors in real gRPC servers, blocking and asynchronous."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import grpc.aio
import pytest

from countersign_verify import ConfigurationError, InProcessReplayStore, ReplayStore
from countersign_verify.grpc import (
    AssertionInterceptor,
    AsyncAssertionInterceptor,
    current_caller,
)
from countersign_verify.testing import TestGateway
from support import CALLER, HOST

SERVICE = "shop.Orders"
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
parsed: list[bytes] = []


def parse(message: bytes) -> bytes:
    parsed.append(message)
    if message == b"bad":
        raise ValueError(message)
    return message


def sub() -> bytes:
    return current_caller().sub.encode()


class Blocking:
    def unary_unary(self, request: bytes, _: Any) -> bytes:
        return sub() + request

    def unary_stream(self, request: bytes, _: Any) -> Iterator[bytes]:
        for _number in range(2):
            yield sub() + request

    def stream_unary(self, requests: Iterator[bytes], _: Any) -> bytes:
        return sub() + b"".join(requests)

    def stream_stream(self, requests: Iterator[bytes], _: Any) -> Iterator[bytes]:
        for request in requests:
            yield sub() + request


class Asynchronous:
    async def unary_unary(self, request: bytes, _: Any) -> bytes:
        return sub() + request

    async def unary_stream(self, request: bytes, context: Any) -> None:
        for _number in range(2):
            await context.write(sub() + request)

    async def stream_unary(self, requests: AsyncIterator[bytes], _: Any) -> bytes:
        return sub() + b"".join([request async for request in requests])

    async def stream_stream(self, requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield sub() + request


def handlers(service: Any) -> Any:
    methods = {
        kind: getattr(grpc, f"{kind}_rpc_method_handler")(
            getattr(service, kind), request_deserializer=parse
        )
        for kind in KINDS
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)


@contextlib.contextmanager
def blocking_server(verifier: Any) -> Iterator[int]:
    server = grpc.server(
        futures.ThreadPoolExecutor(4), interceptors=[AssertionInterceptor(verifier)]
    )
    server.add_generic_rpc_handlers((handlers(Blocking()),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def aio_server(service: Any) -> Callable[[Any], contextlib.AbstractContextManager[int]]:
    @contextlib.contextmanager
    def serve(verifier: Any) -> Iterator[int]:
        started = threading.Event()
        found: dict[str, Any] = {}

        async def run() -> None:
            server = grpc.aio.server(
                futures.ThreadPoolExecutor(4),
                interceptors=[AsyncAssertionInterceptor(verifier)],
            )
            server.add_generic_rpc_handlers((handlers(service),))
            found["port"] = server.add_insecure_port("127.0.0.1:0")
            found["end"], found["loop"] = asyncio.Event(), asyncio.get_running_loop()
            await server.start()
            started.set()
            await found["end"].wait()
            await server.stop(None)

        thread = threading.Thread(target=lambda: asyncio.run(run()))
        thread.start()
        assert started.wait(20)
        try:
            yield found["port"]
        finally:
            found["loop"].call_soon_threadsafe(found["end"].set)
            thread.join(20)

    return serve


SERVERS: dict[str, Callable[[Any], contextlib.AbstractContextManager[int]]] = {
    "grpc.server": blocking_server,
    "grpc.aio.server": aio_server(Asynchronous()),
    "grpc.aio.server with blocking handlers": aio_server(Blocking()),
}


@pytest.fixture(params=SERVERS)
def server(request: Any) -> Any:
    return SERVERS[request.param]


def call(
    channel: Any, kind: str, *metadata: tuple[str, str], messages: Any = (b"1", b"2")
) -> bytes:
    """Make one call, and return all responses in one."""
    method = getattr(channel, kind)(f"/{SERVICE}/{kind}")
    streams_requests, streams_responses = kind.startswith("stream"), kind.endswith("stream")
    request = iter(messages) if streams_requests else messages[0]
    response = method(request, metadata=metadata, timeout=20)
    return b",".join(response) if streams_responses else bytes(response)


def signed(gateway: TestGateway, kind: str, method: str = "POST") -> tuple[str, str]:
    url = f"https://{HOST}/{SERVICE}/{kind}"
    return "countersign-assertion", gateway.assertion(method, url, sub=CALLER)


def refused(channel: Any, kind: str, *metadata: tuple[str, str], **options: Any) -> tuple[Any, str]:
    with pytest.raises(grpc.RpcError) as error:
        call(channel, kind, *metadata, **options)
    failed: Any = error.value
    trailers = dict(failed.trailing_metadata())
    code = trailers.get("countersign-code", "")
    assert code in failed.details()
    return failed.code(), code


def test_all_kinds_of_methods(server: Any, live_gateway: TestGateway) -> None:
    name = CALLER.encode()
    expected = {
        "unary_unary": name + b"1",
        "unary_stream": name + b"1," + name + b"1",
        "stream_unary": name + b"12",
        "stream_stream": name + b"1," + name + b"2",
    }
    unauthenticated = (grpc.StatusCode.UNAUTHENTICATED, "assertion-missing")
    denied = (grpc.StatusCode.PERMISSION_DENIED, "assertion-path")
    with (
        server(live_gateway.verifier(authority=HOST)) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        for kind in KINDS:
            assert call(channel, kind, signed(live_gateway, kind)) == expected[kind]
            parsed.clear()
            assert refused(channel, kind) == unauthenticated
            assert refused(channel, kind, signed(live_gateway, "other")) == denied
            # Nothing of a refused call is parsed.
            assert parsed == []
            token = signed(live_gateway, kind)
            assert refused(channel, kind, token, token)[1] == "assertion-duplicate"
            get = signed(live_gateway, kind, "GET")
            assert refused(channel, kind, get)[1] == "assertion-method"
        bad = signed(live_gateway, "unary_unary")
        assert refused(channel, "unary_unary", bad, messages=(b"bad",))[0] in (
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.UNKNOWN,
        )


def test_a_refused_stream_does_not_wait_for_a_message(
    server: Any, live_gateway: TestGateway
) -> None:
    never = threading.Event()

    def silent() -> Iterator[bytes]:
        never.wait(20)
        yield b""

    with (
        server(live_gateway.verifier(authority=HOST)) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        for kind in ("stream_unary", "stream_stream"):
            assert refused(channel, kind, messages=silent())[1] == "assertion-missing"
        never.set()


def test_unknown_methods_need_an_assertion(server: Any, live_gateway: TestGateway) -> None:
    with (
        server(live_gateway.verifier(authority=HOST)) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        method: Any = channel.unary_unary(f"/{SERVICE}/unknown")
        for metadata, status in (
            ((), grpc.StatusCode.UNAUTHENTICATED),
            ((signed(live_gateway, "unknown"),), grpc.StatusCode.UNIMPLEMENTED),
        ):
            with pytest.raises(grpc.RpcError) as error:
                method(b"", metadata=metadata, timeout=20)
            failed: Any = error.value
            assert failed.code() == status


def test_replays_and_missing_keys(server: Any, live_gateway: TestGateway) -> None:
    options = {"authority": HOST, "replay_store": InProcessReplayStore()}
    with (
        server(live_gateway.verifier(**options)) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        token = signed(live_gateway, "unary_unary")
        call(channel, "unary_unary", token)
        assert refused(channel, "unary_unary", token) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "assertion-replayed",
        )
    nowhere = live_gateway.verifier(authority=HOST, jwks_url="http://127.0.0.1:1/")
    with (
        server(nowhere) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        token = signed(live_gateway, "unary_unary")
        assert refused(channel, "unary_unary", token) == (
            grpc.StatusCode.UNAVAILABLE,
            "assertion-keys-unavailable",
        )


class BrokenStore(ReplayStore):
    def admit(self, identifier: str, expiry: int, now: int) -> None:
        raise ValueError("password of the store")


def test_errors_of_a_store_are_not_shown(
    server: Any, live_gateway: TestGateway, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        server(live_gateway.verifier(authority=HOST, replay_store=BrokenStore())) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        for kind in KINDS:
            caplog.clear()
            parsed.clear()
            with pytest.raises(grpc.RpcError) as error:
                call(channel, kind, signed(live_gateway, kind))
            failed: Any = error.value
            assert failed.code() == grpc.StatusCode.INTERNAL
            assert failed.details() == "The assertion cannot be checked."
            assert "password of the store" in caplog.text
            assert parsed == []


@pytest.mark.parametrize("interceptor", [AssertionInterceptor, AsyncAssertionInterceptor])
def test_what_grpc_cannot_compare_is_refused(interceptor: Any, live_gateway: TestGateway) -> None:
    with pytest.raises(ConfigurationError, match="authority"):
        interceptor(live_gateway.verifier())
    with pytest.raises(ConfigurationError, match="htb"):
        interceptor(live_gateway.verifier(authority=HOST, require_body_binding=True))


def test_there_is_no_caller_outside_of_a_call() -> None:
    with pytest.raises(LookupError):
        current_caller()
