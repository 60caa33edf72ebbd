"""A gateway for the unit tests of services: makes keys and signs assertions, without a network.

    gateway = TestGateway(audience="orders")
    app = make_app(gateway.verifier())
    response = client.get("/orders/7", headers=gateway.headers("GET", "/orders/7", sub="spiffe://…"))

pytest finds the fixture `countersign_gateway` by itself. Its audience is the option
`countersign_audience` of pytest's configuration.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .._jws import TYP, base64url_encode
from .._keys import thumbprint
from .._request import HEADER, RequestParts, sha256, split_url
from .._verifier import AssertionVerifier

__all__ = ["TestGateway"]

Algorithm = Literal["ES256", "EdDSA"]


class TestGateway:
    """Signs assertions as a gateway does, with a key of its own.

    audience: of the service under test.
    issuer: of the assertions.
    authority: of URLs that are given as a path only. `testserver` is that of the test clients of
        Starlette, FastAPI and Django; Flask's is `localhost`.
    algorithm: `ES256` or `EdDSA`.
    clock: returns the seconds since 1970, for the assertions and for the verifiers.
    """

    # Keeps pytest from collecting it as a class of tests.
    __test__ = False

    def __init__(
        self,
        *,
        audience: str,
        issuer: str = "https://gateway.test",
        authority: str = "testserver",
        algorithm: Algorithm = "ES256",
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.audience = audience
        self.issuer = issuer
        self.authority = authority
        self._algorithm = algorithm
        self._clock = clock or (lambda: int(time.time()))
        self._key = _Key(algorithm)
        self._published = [self._key]

    @property
    def key_set(self) -> dict[str, Any]:
        """The published JWK set."""
        return {"keys": [key.jwk for key in self._published]}

    @property
    def key_id(self) -> str:
        """The identifier of the key that signs."""
        return self._key.key_id

    def verifier(self, **options: Any) -> AssertionVerifier:  # noqa: ANN401 - those of the class
        """Return a verifier that knows this gateway's keys as they are now.

        `options` are those of AssertionVerifier.
        """
        sources = {"jwks_url", "jwks_file", "keys"}
        given: dict[str, Any] = {
            "issuer": self.issuer,
            "audience": self.audience,
            "clock": self._clock,
            **options,
        }
        if sources.isdisjoint(options):
            given["keys"] = self.key_set
        return AssertionVerifier(**given)

    def headers(
        self,
        method: str,
        url: str,
        *,
        sub: str = "spiffe://test.example/caller",
        **options: Any,  # noqa: ANN401 - those of assertion()
    ) -> dict[str, str]:
        """Return the header field for one request. `options` are those of `assertion`."""
        return {HEADER: self.assertion(method, url, sub=sub, **options)}

    def assertion(
        self,
        method: str,
        url: str,
        *,
        sub: str = "spiffe://test.example/caller",
        trust_domain: str = "test.example",
        token: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        binding: Literal["request", "caller"] = "request",
        lifetime: int = 30,
        claims: Mapping[str, Any] | None = None,
        header: Mapping[str, Any] | None = None,
    ) -> str:
        """Return a signed assertion.

        url: as the service receives it, undecoded: `https://host/path?query` or `/path?query`.
        token: the claims of an access token of the caller.
        body: binds this body.
        claims, header: replace members of the payload and of the header; None removes one.
        """
        members = self._claims(sub, trust_domain, lifetime)
        if token is not None:
            members["token"] = dict(token)
        if binding == "request":
            members.update(self._binding(method, url))
            if body is not None:
                members["htb"] = sha256(body)
        payload = json.dumps(_replaced(members, claims)).encode("utf-8")
        fields = _replaced({"typ": TYP, "kid": self._key.key_id}, header)
        return self._key.sign(payload, fields)

    def rotate(self, *, keep_old: bool = True) -> None:
        """Sign with a new key from now on. Verifiers with a fixed key set do not learn of it."""
        self._key = _Key(self._algorithm)
        self._published = [*self._published, self._key] if keep_old else [self._key]

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        """Serve the key set on a loopback address. Gives its URL."""
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(gateway.key_set).encode("utf-8")
                self.send_response(200)
                self.send_header("Content-Type", "application/jwk-set+json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}/.well-known/jwks.json"
            finally:
                server.shutdown()
                thread.join()

    def _claims(self, sub: str, trust_domain: str, lifetime: int) -> dict[str, Any]:
        now = self._clock()
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": sub,
            "iat": now,
            "exp": now + lifetime,
        }
        if sub.startswith(("api-key:", "client:")):
            method = "api-key" if sub.startswith("api-key:") else "token"
            claims["authn"] = {"methods": [method], "at": now, "resumed": False}
            return claims
        claims["client_cert"] = {
            "x5t#S256": sha256(sub.encode("utf-8")),
            "serial": "01",
            "issuer": "CN=Test",
            "not_before": now - 3600,
            "not_after": now + 3600,
            "sans": _sans(sub),
            "anchor": sha256(b"test"),
        }
        claims["authn"] = {
            "methods": ["certificate"],
            "trust_domain": trust_domain,
            "revocation": "checked",
            "at": now,
            "resumed": False,
        }
        return claims

    def _binding(self, method: str, url: str) -> dict[str, str]:
        path, question_mark, query = url.partition("?")
        full = f"https://{self.authority}{path}" if path.startswith("/") else path
        if split_url(full) is None:
            # An empty path is sent as a slash.
            full += "/"
        split = split_url(full)
        if split is None:
            raise ValueError("the URL must be https://host/path?query or /path?query")
        # The verifier must be able to compare it.
        RequestParts(method, split[0], split[1])
        binding = {
            "jti": secrets.token_urlsafe(16),
            "htm": method,
            "htu": f"https://{split[0]}{split[1]}",
        }
        if question_mark:
            binding["htq"] = sha256(query.encode("utf-8"))
        return binding


class _Key:
    """A private key that exists in memory only."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm
        self._private: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
        coordinates: tuple[bytes, ...]
        if algorithm == "ES256":
            self._private = ec.generate_private_key(ec.SECP256R1())
            point = self._private.public_key().public_bytes(
                Encoding.X962, PublicFormat.UncompressedPoint
            )
            kty, curve, coordinates = "EC", "P-256", (point[1:33], point[33:])
        else:
            self._private = ed25519.Ed25519PrivateKey.generate()
            octets = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            kty, curve, coordinates = "OKP", "Ed25519", (octets,)
        material = tuple(base64url_encode(part) for part in coordinates)
        self.key_id = thumbprint(kty, curve, material)
        self.jwk: dict[str, Any] = {
            "kty": kty,
            "crv": curve,
            **dict(zip(("x", "y"), material, strict=False)),
            "kid": self.key_id,
            "alg": algorithm,
            "use": "sig",
        }

    def sign(self, payload: bytes, header: Mapping[str, Any]) -> str:
        fields = {"alg": self._algorithm, **header}
        text = json.dumps(fields, separators=(",", ":")).encode("utf-8")
        signing_input = f"{base64url_encode(text)}.{base64url_encode(payload)}".encode("ascii")
        algorithm = jwt.get_algorithm_by_name(self._algorithm)
        signature = algorithm.sign(signing_input, self._private)
        return f"{signing_input.decode('ascii')}.{base64url_encode(signature)}"


def _sans(sub: str) -> dict[str, list[str]]:
    sans: dict[str, list[str]] = {"uri": [], "dns": [], "email": [], "ip": []}
    for prefix, kind in (("dns:", "dns"), ("mailto:", "email"), ("ip:", "ip")):
        if sub.startswith(prefix):
            sans[kind] = [sub.removeprefix(prefix)]
            return sans
    sans["uri"] = [sub]
    return sans


def _replaced(members: dict[str, Any], changes: Mapping[str, Any] | None) -> dict[str, Any]:
    changed = {**members, **(changes or {})}
    return {name: value for name, value in changed.items() if value is not None}
