"""FastAPI and Starlette behind uvicorn (both parsers) and hypercorn."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from countersign_verify import (
    AssertionRefused,
    AssertionVerifier,
    ConfigurationError,
    InProcessReplayStore,
)
from countersign_verify.asgi import AssertionMiddleware, caller_of
from countersign_verify.fastapi import AssertionMiddleware as FastAPIMiddleware
from countersign_verify.fastapi import CurrentCaller
from countersign_verify.testing import TestGateway
from http_cases import check_all, check_bodies, send_chunked, signed
from support import CALLER, HOST, IN_TIME, Reply, exchange, hypercorn_server, uvicorn_server

SERVERS: dict[str, Callable[[Any], AbstractContextManager[int]]] = {
    "uvicorn with h11": lambda app: uvicorn_server(app, "h11"),
    "uvicorn with httptools": lambda app: uvicorn_server(app, "httptools"),
    "hypercorn": hypercorn_server,
}


def fastapi_app(verifier: AssertionVerifier, root_path: str = "") -> FastAPI:
    app = FastAPI()
    app.add_middleware(AssertionMiddleware, verifier=verifier, root_path=root_path)

    @app.api_route("/healthz", methods=["GET", "HEAD"], response_class=PlainTextResponse)
    def healthz(request: Request) -> str:
        with contextlib.suppress(LookupError):
            return f"healthz {caller_of(request).sub}"
        return "none"

    async def who(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"mounted {caller_of(request).sub}")

    app.mount("/mounted", Starlette(routes=[Route("/{rest:path}", who)]))

    @app.api_route("/{rest:path}", methods=["GET", "POST"], response_class=PlainTextResponse)
    async def order(caller: CurrentCaller) -> str:
        return caller.sub

    return app


@pytest.fixture(scope="module", params=SERVERS)
def server(request: Any) -> Any:
    return SERVERS[request.param]


@pytest.fixture(scope="module")
def port(server: Any, live_gateway: TestGateway) -> Iterator[int]:
    verifier = live_gateway.verifier(unverified_paths=["/healthz"])
    with server(fastapi_app(verifier)) as port:
        yield port


def test_what_holds_for_every_adapter(port: int, live_gateway: TestGateway) -> None:
    check_all(port, live_gateway)


def test_a_lone_question_mark_is_lost(port: int, live_gateway: TestGateway) -> None:
    reply = exchange(port, "/orders/7?", signed(live_gateway, "GET", "/orders/7?"))
    assert (reply.status, reply.code) == (403, "assertion-query")
    assert "ends with `?`" in reply.problem["detail"]


def test_targets_with_other_bytes_are_compared_or_refused(
    port: int, live_gateway: TestGateway
) -> None:
    target = "/caf\u00e9".encode()
    reply = exchange(port, target, signed(live_gateway, "GET", "/caf\u00e9"))
    assert (reply.status, reply.text) == (200, CALLER) or reply.status == 400
    reply = exchange(port, target, signed(live_gateway, "GET", "/caf%C3%A9"))
    assert reply.status in (400, 403)


def test_mounted_applications_see_the_whole_target(port: int, live_gateway: TestGateway) -> None:
    for target in ("/mounted/a", "/mounted/%61?x", "/mounted/"):
        reply = exchange(port, target, signed(live_gateway, "GET", target))
        assert (reply.status, reply.text) == (200, f"mounted {CALLER}")
    reply = exchange(port, "/mounted/a", signed(live_gateway, "GET", "/a"))
    assert reply.code == "assertion-path"


def test_the_middleware_inside_of_a_mount(server: Any, live_gateway: TestGateway) -> None:
    async def who(request: Request) -> PlainTextResponse:
        return PlainTextResponse(caller_of(request).sub)

    inner = AssertionMiddleware(
        Starlette(routes=[Route("/{rest:path}", who)]), live_gateway.verifier()
    )
    with server(Starlette(routes=[Mount("/outer", inner)])) as port:
        target = "/outer/%61?x=1"
        reply = exchange(port, target, signed(live_gateway, "GET", target))
        assert (reply.status, reply.text) == (200, CALLER)
        for claimed in ("/%61?x=1", "/outer/a?x=1"):
            reply = exchange(port, target, signed(live_gateway, "GET", claimed))
            assert reply.code == "assertion-path"


def test_a_proxy_that_removes_a_prefix(server: Any, live_gateway: TestGateway) -> None:
    verifier = live_gateway.verifier(path_prefix="/api", authority=HOST)
    with server(fastapi_app(verifier)) as port:
        token = signed(live_gateway, "GET", "/api/orders/7")
        reply = exchange(port, "/orders/7", token, hosts=("internal:1",))
        assert (reply.status, reply.text) == (200, CALLER)
        assert exchange(port, "/api/orders/7", token).code == "assertion-path"


def test_uvicorn_adds_its_root_path(live_gateway: TestGateway) -> None:
    # uvicorn puts --root-path in front of the raw path: path_prefix is not needed then.
    verifier = live_gateway.verifier()
    token = signed(live_gateway, "GET", "/api/orders/7")
    app = fastapi_app(verifier, root_path="/api")
    with uvicorn_server(app, "h11", root_path="/api") as port:
        assert exchange(port, "/orders/7", token).text == CALLER
        assert exchange(port, "/orders/7", signed(live_gateway, "GET", "/orders/7")).code == (
            "assertion-path"
        )
    # What the service does not know of could be from a request.
    with uvicorn_server(fastapi_app(verifier), "h11", root_path="/api") as port:
        assert exchange(port, "/orders/7", token).code == "assertion-request-unclear"


def test_a_mount_below_a_root_path(live_gateway: TestGateway) -> None:
    async def who(request: Request) -> PlainTextResponse:
        return PlainTextResponse(caller_of(request).sub)

    inner = AssertionMiddleware(
        Starlette(routes=[Route("/{rest:path}", who)]), live_gateway.verifier(), root_path="/api"
    )
    app = Starlette(routes=[Mount("/outer", inner)])
    with uvicorn_server(app, "h11", root_path="/api") as port:
        token = signed(live_gateway, "GET", "/api/outer/a")
        assert exchange(port, "/outer/a", token).text == CALLER


def outcome(reply: Reply) -> str:
    return reply.text if reply.status == 200 else reply.code


@pytest.mark.filterwarnings("ignore:The `root_path` parameter is deprecated")
@pytest.mark.parametrize("root_path", ["", "/api"])
@pytest.mark.parametrize("is_inside", [False, True])
def test_a_root_path_makes_no_second_path_of_a_route(
    is_inside: bool, root_path: str, server: Any, live_gateway: TestGateway
) -> None:
    # For Starlette, both paths are the route `/orders/7`.
    app = FastAPI(root_path="/api")
    verifier = live_gateway.verifier(unverified_paths=["/healthz", "/api/healthz"])
    protected: Any = app
    if is_inside:
        app.add_middleware(FastAPIMiddleware, verifier=verifier, root_path=root_path)
    else:
        protected = FastAPIMiddleware(app, verifier, root_path=root_path)

    @app.get("/orders/{number}", response_class=PlainTextResponse)
    def order(number: int, caller: CurrentCaller) -> str:
        return f"{number} {caller.sub}"

    @app.get("/healthz", response_class=PlainTextResponse)
    def healthz() -> str:
        return "healthy"

    refused = "assertion-request-unclear"
    with server(protected) as port:
        for prefix in ("", "/api"):
            # Inside, it is unknown whether a proxy removes it: only the whole path is accepted.
            accepted = prefix == root_path and not (is_inside and not root_path)
            target = f"{prefix}/orders/7"
            reply = exchange(port, target, signed(live_gateway, "GET", target))
            assert outcome(reply) == (f"7 {CALLER}" if accepted else refused), prefix
            reply = exchange(port, f"{prefix}/healthz")
            assert outcome(reply) == ("healthy" if accepted else refused), prefix


@pytest.mark.parametrize("root_path", ["api", "/", "/api/"])
def test_other_root_paths_are_no_configuration(root_path: str, live_gateway: TestGateway) -> None:
    with pytest.raises(ConfigurationError, match="root path"):
        AssertionMiddleware(unreachable, live_gateway.verifier(), root_path=root_path)


def test_bodies(server: Any, live_gateway: TestGateway) -> None:
    async def echo(request: Request) -> Response:
        return Response(await request.body())

    app = AssertionMiddleware(
        Starlette(routes=[Route("/echo", echo, methods=["POST"])]),
        live_gateway.verifier(require_body_binding=True),
    )
    with server(app) as port:
        check_bodies(port, live_gateway)
        assert send_chunked(port, live_gateway).body == b"abcdef"
        body = b"x" * (1024 * 1024 + 1)
        token = live_gateway.assertion("POST", f"https://{HOST}/echo", body=body)
        # The server may close the connection while the rest of the body is sent.
        with contextlib.suppress(ConnectionError):
            reply = exchange(port, "/echo", token, method="POST", body=body)
            assert reply.code == "assertion-body-not-bound"


def test_replays(server: Any, live_gateway: TestGateway) -> None:
    verifier = live_gateway.verifier(replay_store=InProcessReplayStore())
    with server(fastapi_app(verifier)) as port:
        token = signed(live_gateway, "GET", "/orders/7")
        assert exchange(port, "/orders/8", token).code == "assertion-path"
        assert exchange(port, "/orders/7", token).status == 200
        assert exchange(port, "/orders/7", token).code == "assertion-replayed"


def handshake(port: int, target: str, *assertions: str) -> http.client.HTTPResponse:
    """Send a WebSocket handshake, and return the response to it."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [f"GET {target} HTTP/1.1", f"Host: {HOST}", "Connection: Upgrade"]
    lines += ["Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
    lines += [f"Countersign-Assertion: {assertion}" for assertion in assertions]
    with socket.create_connection(("127.0.0.1", port), timeout=IN_TIME) as connected:
        connected.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        response = http.client.HTTPResponse(connected)
        response.begin()
        return response


def test_web_sockets(server: Any, live_gateway: TestGateway) -> None:
    callers: list[str] = []

    async def talk(websocket: WebSocket) -> None:
        callers.append(caller_of(websocket).sub)
        await websocket.accept()
        await websocket.close()

    app = AssertionMiddleware(
        Starlette(routes=[WebSocketRoute("/talk", talk)]),
        # A health probe is no WebSocket.
        live_gateway.verifier(unverified_paths=["/talk"]),
    )
    with server(app) as port:
        with handshake(port, "/talk?x=1", signed(live_gateway, "GET", "/talk?x=1")) as response:
            assert response.status == 101
        assert callers == [CALLER]
        for assertions in ((), (signed(live_gateway, "GET", "/talk?x=2"),)):
            with handshake(port, "/talk?x=1", *assertions) as response:
                assert response.status in (401, 403)
        assert callers == [CALLER]


@pytest.mark.parametrize(
    ("version", "method"), [("1.1", "GET"), ("2", "CONNECT"), ("3", "CONNECT")]
)
def test_the_method_of_a_web_socket_handshake(
    version: str, method: str, live_gateway: TestGateway
) -> None:
    for signed_method in ("GET", "CONNECT"):
        token = signed(live_gateway, signed_method, "/")
        scope: dict[str, Any] = {
            "type": "websocket",
            "http_version": version,
            "raw_path": b"/",
            "headers": [(b"host", HOST.encode()), (b"countersign-assertion", token.encode())],
        }
        if signed_method == method:
            with pytest.raises(AssertionError, match="reached"):
                run_scope(live_gateway.verifier(), **scope)
        else:
            (close,) = run_scope(live_gateway.verifier(), **scope)
            assert close["reason"] == "assertion-method"


async def unreachable(*_: object) -> None:
    raise AssertionError("the application must not be reached")


def run_scope(verifier: AssertionVerifier, *, root: str = "", **scope: Any) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        given = {"type": "http", "method": "GET", "path": "/", "headers": [], **scope}
        protected = AssertionMiddleware(unreachable, verifier, root_path=root)
        await protected(given, unreachable, send)  # type: ignore[arg-type]

    asyncio.run(run())
    return sent


@pytest.mark.parametrize("raw_path", [None, "/orders/7", b"/orders/7?x=1"])
def test_servers_without_a_raw_path_are_refused(raw_path: Any, live_gateway: TestGateway) -> None:
    scope = {} if raw_path is None else {"raw_path": raw_path}
    verifier = live_gateway.verifier(unverified_paths=["/", "/orders/7"])
    start, body = run_scope(verifier, query_string=b"", **scope)
    assert start["status"] == 403
    assert b"assertion-request-unclear" in body["body"]


def test_a_raw_path_with_the_query_must_agree(live_gateway: TestGateway) -> None:
    verifier = live_gateway.verifier(unverified_paths=["/"])
    with pytest.raises(AssertionError, match="reached"):
        run_scope(verifier, raw_path=b"/?x", query_string=b"x")
    start, _ = run_scope(verifier, raw_path=b"/?x", query_string=b"y")
    assert start["status"] == 403


@pytest.mark.parametrize(
    "scope",
    [
        {"path": "/admin"},
        {"path": "/"},
        {"path": "/public/admin/"},
        {"raw_path": b"/public%2561dmin", "path": "/publicadmin"},
        {"raw_path": b"/public/%FF", "path": "/public/\xff"},
        {"root_path": "/public"},
        {"root_path": "/other"},
        {"root_path": "/public", "app_root_path": "/public"},
        {"method": "get"},
        {"type": "websocket", "path": "/admin"},
        {"type": "websocket", "root_path": "/public"},
    ],
)
def test_what_the_application_would_see_must_be_what_is_verified(
    scope: dict[str, Any], live_gateway: TestGateway
) -> None:
    given = {"raw_path": b"/public/admin", "path": "/public/admin", "query_string": b"x", **scope}
    verifier = live_gateway.verifier(unverified_paths=["/public/admin"])
    token = signed(live_gateway, "GET", given["raw_path"].decode() + "?x")
    fields = [(b"host", HOST.encode()), (b"countersign-assertion", token.encode())]
    for headers in (fields, []):
        first, *rest = run_scope(verifier, headers=headers, **given)
        if given.get("type") == "websocket":
            assert first["reason"] == "assertion-request-unclear"
        else:
            assert first["status"] == 403
            assert b"assertion-request-unclear" in rest[0]["body"]


@pytest.mark.parametrize("path", ["/", "/orders", "/apple", "/ap", "//api/orders", "/API/orders"])
def test_a_path_outside_of_the_root_path_is_refused(path: str, live_gateway: TestGateway) -> None:
    verifier = live_gateway.verifier(unverified_paths=[path])
    start, body = run_scope(
        verifier, root="/api", root_path="/api", path=path, raw_path=path.encode()
    )
    assert start["status"] == 403
    assert b"assertion-request-unclear" in body["body"]


def test_exceptions_of_the_application_are_its_own(live_gateway: TestGateway) -> None:
    sent: list[Any] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        # As from a verifier that the application calls itself.
        raise AssertionRefused("assertion-missing")

    async def send(message: Any) -> None:
        sent.append(message)

    async def run(**fields: Any) -> None:
        scope = {"type": "http", "method": "GET", "headers": [], "query_string": b"", **fields}
        verifier = live_gateway.verifier(unverified_paths=["/healthz"])
        await AssertionMiddleware(app, verifier)(scope, unreachable, send)  # type: ignore[arg-type]

    token = signed(live_gateway, "GET", "/orders/7").encode()
    for fields in (
        {"raw_path": b"/healthz", "path": "/healthz"},
        {
            "raw_path": b"/orders/7",
            "path": "/orders/7",
            "headers": [(b"host", HOST.encode()), (b"countersign-assertion", token)],
        },
    ):
        sent.clear()
        with pytest.raises(AssertionRefused):
            asyncio.run(run(**fields))
        assert [message["type"] for message in sent] == ["http.response.start"]


def test_unknown_scopes_do_not_pass(live_gateway: TestGateway) -> None:
    with pytest.raises(RuntimeError, match="webtransport"):
        run_scope(live_gateway.verifier(), type="webtransport")


def test_a_callers_scope_is_not_trusted(live_gateway: TestGateway) -> None:
    start, _ = run_scope(live_gateway.verifier(), raw_path=b"/", **{"countersign.caller": "x"})
    assert start["status"] == 401


def test_web_sockets_without_denial_responses_are_closed(live_gateway: TestGateway) -> None:
    (close,) = run_scope(live_gateway.verifier(), type="websocket", raw_path=b"/")
    assert (close["type"], close["code"], close["reason"]) == (
        "websocket.close",
        1008,
        "assertion-missing",
    )


def test_a_unit_test_of_a_service() -> None:
    gateway = TestGateway(audience="orders")
    client = TestClient(fastapi_app(gateway.verifier()))
    headers = gateway.headers("GET", "/orders/7?x=1", sub="spiffe://shop/checkout")
    assert client.get("/orders/7?x=1", headers=headers).text == "spiffe://shop/checkout"
    assert client.get("/orders/8", headers=headers).json()["code"] == "assertion-path"
    assert client.get("/orders/7").status_code == 401
