"""What the tests share: a clock, raw HTTP, servers that the tests control, and private CAs."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import http.client
import ipaddress
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from countersign_verify import HEADER

NOW = 1_770_000_000
HOST = "orders.example.org"
CALLER = "spiffe://example.org/ns/shop/sa/checkout"
TESTS = Path(__file__).parent
PACKAGE = TESTS.parent
IN_TIME = 20.0


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def lacking(what: str) -> None:
    """Skip the test, or fail where everything is required."""
    if os.environ.get("COUNTERSIGN_REQUIRE_TOOLS") == "1":
        pytest.fail(f"required, but missing: {what}")
    pytest.skip(what)


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        lacking(name)
    assert found is not None
    return found


@dataclass(frozen=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["Content-Type"] == "application/problem+json"
        assert self.headers["Cache-Control"] == "no-store"
        assert (self.headers["WWW-Authenticate"] is not None) == (self.status == 401)
        problem: dict[str, Any] = json.loads(self.body)
        assert problem["status"] == self.status
        assert set(problem) == {"type", "title", "status", "code", "detail"}
        return problem

    @property
    def code(self) -> str:
        return str(self.problem["code"])


def exchange(
    port: int,
    target: str | bytes,
    *assertions: str,
    method: str = "GET",
    hosts: tuple[str, ...] = (HOST,),
    headers: tuple[str, ...] = (),
    body: bytes = b"",
    trailer: bytes = b"",
    tls: ssl.SSLContext | None = None,
) -> Reply:
    """Send one request, byte by byte as given, and return the reply.

    `body` is announced by Content-Length, `trailer` is not.
    """
    octets = target if isinstance(target, bytes) else target.encode("latin-1")
    lines = [f"Host: {host}" for host in hosts]
    lines += [f"{HEADER}: {assertion}" for assertion in assertions]
    lines += ["Connection: close", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    head = method.encode() + b" " + octets + b" HTTP/1.1\r\n"
    head += "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    with contextlib.ExitStack() as stack:
        connected = stack.enter_context(
            socket.create_connection(("127.0.0.1", port), timeout=IN_TIME)
        )
        if tls is not None:
            connected = stack.enter_context(tls.wrap_socket(connected, server_hostname="localhost"))
        connected.sendall(head + body + trailer)
        response = http.client.HTTPResponse(connected, method=method)
        response.begin()
        with response:
            return Reply(response.status, response.headers, response.read())


def listening() -> socket.socket:
    """Return a socket that accepts connections already, on a port of its own."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    return listener


@contextlib.contextmanager
def uvicorn_server(app: Any, http_parser: str, **options: Any) -> Iterator[int]:
    import uvicorn

    listener = listening()
    options = {"lifespan": "auto", "ws": "wsproto", "log_config": None, **options}
    config = uvicorn.Config(app, http=http_parser, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(IN_TIME)
        listener.close()


@contextlib.contextmanager
def hypercorn_server(app: Any) -> Iterator[int]:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    listener = listening()
    port = int(listener.getsockname()[1])
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = None
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    ready = threading.Event()

    async def run() -> None:
        end = asyncio.Event()
        started.append((asyncio.get_running_loop(), end))
        ready.set()
        await serve(app, config, shutdown_trigger=end.wait)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert ready.wait(IN_TIME)
    try:
        yield port
    finally:
        loop, end = started[0]
        loop.call_soon_threadsafe(end.set)
        thread.join(IN_TIME)


@contextlib.contextmanager
def gunicorn_server(app: str, environment: Mapping[str, str]) -> Iterator[int]:
    """Run an application of tests/apps in a worker of gunicorn."""
    listener = listening()
    with (
        listener,
        process(
            [
                sys.executable,
                "-m",
                "gunicorn",
                "--bind",
                f"fd://{listener.fileno()}",
                "--worker-class",
                "gthread",
                "--threads",
                "4",
                "--log-level",
                "error",
                app,
            ],
            environment,
            pass_fds=(listener.fileno(),),
        ),
    ):
        yield listener.getsockname()[1]


@contextlib.contextmanager
def process(
    command: list[str], environment: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(
        command, cwd=TESTS, env={**os.environ, **(environment or {})}, **options
    )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(IN_TIME)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


class KeyEndpoint:
    """A key server whose answers a test decides."""

    def __init__(self) -> None:
        self.requests: list[dict[str, str]] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body: bytes = b""
        # Cleared, no request is answered.
        self.open = threading.Event()
        self.open.set()
        self.arrived = threading.Semaphore(0)
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.requests.append({"path": self.path, **dict(self.headers.items())})
                endpoint.arrived.release()
                endpoint.open.wait(IN_TIME)
                with contextlib.suppress(OSError):
                    self.send_response(endpoint.status)
                    for name, value in endpoint.headers.items():
                        self.send_header(name, value)
                    if "Content-Length" not in endpoint.headers:
                        self.send_header("Content-Length", str(len(endpoint.body)))
                    self.end_headers()
                    self.wfile.write(endpoint.body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 256

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._scheme = "http"

    def with_tls(self, context: ssl.SSLContext) -> KeyEndpoint:
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._scheme = "https"
        return self

    def serves(self, key_set: Mapping[str, Any]) -> KeyEndpoint:
        self.body = json.dumps(key_set).encode()
        return self

    @property
    def url(self) -> str:
        return f"{self._scheme}://localhost:{self._server.server_port}/keys"

    def __enter__(self) -> KeyEndpoint:  # noqa: PYI034
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.open.set()
        self._server.shutdown()
        self._thread.join(IN_TIME)
        self._server.server_close()


@dataclass(frozen=True)
class PrivateCa:
    root_file: Path
    server: ssl.SSLContext


def private_ca(directory: Path, name: str = "localhost") -> PrivateCa:
    """Make an authority and a server certificate for `name`."""
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)

    def builder(subject: str, issuer: str, public: Any) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
        )

    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = (
        builder("Test Root", "Test Root", root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    leaf = (
        builder(name, "Test Root", key.public_key())
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            ),
            critical=False,
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    root_file, chain = directory / "root.pem", directory / "chain.pem"
    root_file.write_bytes(root.public_bytes(pem))
    chain.write_bytes(
        leaf.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return PrivateCa(root_file, context)


def in_threads(count: int, call: Callable[[], object]) -> list[object]:
    """Call in so many threads at once. Return the results, or the exceptions."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:  # noqa: BLE001 - the result of the test
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(IN_TIME)
    assert len(results) == count
    return results
