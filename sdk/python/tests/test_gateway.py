"""FastAPI in uvicorn and Flask in gunicorn behind a real gateway."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import grpc
import pytest

from countersign_verify import AssertionVerifier
from countersign_verify._jws import base64url_decode, base64url_encode
from http_cases import TARGETS
from support import (
    IN_TIME,
    Reply,
    exchange,
    gunicorn_server,
    hypercorn_server,
    lacking,
    process,
    uvicorn_server,
)
from test_asgi import fastapi_app
from test_grpc import KINDS, SERVERS, call, refused

ISSUER = "https://gateway.example.org:9080"
CLIENT = "spiffe://example.org/client"

GRPC_FILES = ("trust.pem", "issued/client.key", "issued/client.pem")

CONFIGURATION = """
[listener]
address = "127.0.0.1:0"
certificate = "certs/issued/gateway.pem"
private_key = "certs/issued/gateway.key"

[[trust_domain]]
name = "example.org"
roots = ["certs/trust.pem"]
revocation = "off"

[assertion]
issuer = "{issuer}"
keys = "certs/signing"

[public]
address = "127.0.0.1:0"

[[upstream]]
name = "orders"
endpoints = ["http://127.0.0.1:{port}"]
{upstream}

[[route]]
name = "orders"
paths = ["/**"]
callers = ["*"]
upstream = "orders"
audience = "orders"
"""


@dataclass(frozen=True)
class Gateway:
    """A gateway and what its callers and services need."""

    directory: Path
    listener: int
    public: int

    def send(self, target: str | bytes, *headers: str, method: str = "GET") -> Reply:
        context = ssl.create_default_context(cafile=self.directory / "certs/trust.pem")
        issued = self.directory / "certs/issued"
        context.load_cert_chain(issued / "client.pem", issued / "client.key")
        host = f"localhost:{self.listener}"
        return exchange(
            self.listener, target, hosts=(host,), headers=headers, method=method, tls=context
        )


@pytest.fixture(scope="module")
def binary() -> str:
    found = os.environ.get("COUNTERSIGN_BINARY")
    if found is None:
        lacking("COUNTERSIGN_BINARY names no gateway")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def files(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("gateway")
    command = [binary, "init", str(directory), "--trust-domain", "example.org"]
    command += ["--host", "localhost", "--upstream", "http://127.0.0.1:9", "--no-passphrase"]
    subprocess.run(command, check=True, capture_output=True, timeout=IN_TIME)
    return directory


@contextlib.contextmanager
def running(binary: str, files: Path, port: int, upstream: str = "") -> Iterator[Gateway]:
    """Start a gateway in front of the service at this port."""
    config = files / f"{port}.toml"
    config.write_text(CONFIGURATION.format(issuer=ISSUER, port=port, upstream=upstream))
    ready = files / f"{port}.json"
    command = [binary, "serve", "--config", str(config), "--ready-file", str(ready)]
    with process(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as started:
        output: list[bytes] = []
        assert started.stderr is not None

        def read(lines: IO[bytes]) -> None:
            with lines:
                output.extend(lines)

        reader = threading.Thread(target=read, args=(started.stderr,))
        reader.start()
        deadline = time.monotonic() + IN_TIME
        # The file appears in one step. Nothing else tells when the gateway is ready.
        while not ready.exists():
            assert started.poll() is None, b"".join(output).decode()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        addresses = json.loads(ready.read_bytes())
        ports = [int(addresses[name].rpartition(":")[2]) for name in ("listener", "public")]
        yield Gateway(files, *ports)
        started.terminate()
        reader.join(IN_TIME)


def check_requests(gateway: Gateway) -> None:
    passed = []
    for target in TARGETS:
        reply = gateway.send(target)
        if reply.status == 200:
            assert reply.text == CLIENT, target
            passed.append(target)
        else:
            # The gateway refuses some targets itself, but the service none that it forwards.
            code = json.loads(reply.body)["code"]
            assert not code.startswith("assertion-"), (target, code)
    assert {"/orders/%37", "/orders/7;v=1/x", "/a+b", "/caf%C3%A9", "/orders/7??"} <= set(passed)
    assert gateway.send("/orders/7", method="POST").text == CLIENT
    forged = gateway.send("/orders/7", "Countersign-Assertion: a.b.c", "Countersign-Caller: x")
    assert forged.text == CLIENT


@pytest.fixture(scope="module")
def keys(binary: str, files: Path) -> Path:
    """The gateway's key set in a file."""
    command = [binary, "keys", "jwks", "--dir", str(files / "certs/signing")]
    exported = subprocess.run(command, check=True, capture_output=True, timeout=IN_TIME)
    file = files / "keys.json"
    file.write_bytes(exported.stdout)
    return file


def test_fastapi_behind_a_gateway(binary: str, files: Path) -> None:
    applications: list[Any] = []
    seen: list[dict[bytes, bytes]] = []

    async def late(scope: Any, receive: Any, send: Any) -> None:
        # The gateway needs the service's port, and the service the gateway's.
        seen.append(dict(scope["headers"]))
        await applications[0](scope, receive, send)

    with (
        uvicorn_server(late, "httptools", lifespan="off") as port,
        running(binary, files, port) as gateway,
    ):
        verifier = AssertionVerifier(
            issuer=ISSUER,
            audience="orders",
            jwks_url=f"https://localhost:{gateway.public}/.well-known/jwks.json",
            ca_file=files / "certs/trust.pem",
        )
        verifier.fetch_keys()
        applications.append(fastapi_app(verifier))
        check_requests(gateway)
        lone = gateway.send("/orders/7?")
        assert (lone.status, lone.code) == (403, "assertion-query")
        # Around the gateway, with an assertion that it made.
        assert gateway.send("/orders/7?x=1").text == CLIENT
        token = seen[-1][b"countersign-assertion"].decode()
        hosts = (seen[-1][b"host"].decode(),)
        assert exchange(port, "/orders/7?x=1", token, hosts=hosts).text == CLIENT
        check_around(port, token, hosts)


def check_around(port: int, token: str, hosts: tuple[str, ...]) -> None:
    """Check what somebody gets who saw an assertion and reaches the service directly."""
    target = "/orders/7?x=1"
    header, payload, signature = token.split(".")
    none = base64url_encode(b'{"alg":"none","typ":"countersign+jwt","kid":"x"}')
    claims = json.loads(base64url_decode(payload))
    altered = base64url_encode(json.dumps({**claims, "sub": "spiffe://evil"}).encode())
    for code, sent, tokens in (
        ("assertion-missing", target, ()),
        ("assertion-duplicate", target, (token, token)),
        ("assertion-malformed", target, (f"{token},{token}",)),
        ("assertion-malformed", target, (f"{header}.{payload}.",)),
        ("assertion-malformed", target, (f"{header}.{payload}",)),
        ("assertion-malformed", target, (f"{token}=",)),
        ("assertion-malformed", target, (f"{token}.x",)),
        ("assertion-malformed", target, ("x" * 5000,)),
        ("assertion-algorithm", target, (f"{none}.{payload}.{signature}",)),
        ("assertion-signature", target, (f"{header}.{altered}.{signature}",)),
        ("assertion-signature", target, (f"{header}.{payload}.{signature[:84]}",)),
        ("assertion-path", "/orders/8?x=1", (token,)),
        ("assertion-path", "/orders/%37?x=1", (token,)),
        ("assertion-path", "/orders/7/?x=1", (token,)),
        ("assertion-query", "/orders/7", (token,)),
        ("assertion-query", "/orders/7?x=2", (token,)),
        ("assertion-query", "/orders/7?x=%31", (token,)),
    ):
        assert exchange(port, sent, *tokens, hosts=hosts).code == code, (sent, tokens)
    assert exchange(port, target, token, hosts=hosts, method="POST").code == "assertion-method"
    assert exchange(port, target, token, hosts=("evil.example",)).code == "assertion-authority"
    spoofed = ("X-Forwarded-Host: " + hosts[0],)
    assert exchange(port, target, token, hosts=("evil.example",), headers=spoofed).code == (
        "assertion-authority"
    )


def test_flask_behind_a_gateway(binary: str, files: Path, keys: Path) -> None:
    with (
        gunicorn_server("apps.flask_app:app", {"KEYS": str(keys)}) as port,
        running(binary, files, port) as gateway,
    ):
        check_requests(gateway)
        assert gateway.send("/orders/7?").text == CLIENT
        assert exchange(port, "/orders/7").code == "assertion-missing"


def test_http2_behind_a_gateway(binary: str, files: Path, keys: Path) -> None:
    verifier = AssertionVerifier(issuer=ISSUER, audience="orders", jwks_file=keys)
    with (
        hypercorn_server(fastapi_app(verifier)) as port,
        running(binary, files, port, 'protocol = "h2"') as gateway,
    ):
        check_requests(gateway)


def test_grpc_behind_a_gateway(binary: str, files: Path, keys: Path) -> None:
    authority = "orders.example.org:8443"
    verifier = AssertionVerifier(
        issuer=ISSUER, audience="orders", jwks_file=keys, authority=authority
    )
    certs = files / "certs"
    credentials = grpc.ssl_channel_credentials(
        *((certs / name).read_bytes() for name in GRPC_FILES)
    )
    for serve in SERVERS.values():
        with (
            serve(verifier) as port,
            running(binary, files, port, f'protocol = "h2"\nhost = "{authority}"') as gateway,
            grpc.secure_channel(f"localhost:{gateway.listener}", credentials) as channel,
        ):
            for kind in KINDS:
                assert call(channel, kind).startswith(CLIENT.encode())
            with grpc.insecure_channel(f"127.0.0.1:{port}") as around:
                assert refused(around, "unary_unary")[1] == "assertion-missing"
