"""The rules, as far as the shared vectors do not show them, and the options."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import pickle
from typing import Any

import pytest

from countersign_verify import (
    AssertionRefused,
    AssertionVerifier,
    ClientCertificate,
    ConfigurationError,
    RequestParts,
    only_assertion,
)
from countersign_verify._errors import REFUSALS
from countersign_verify._request import sha256
from countersign_verify.testing import TestGateway
from support import CALLER, HOST, NOW, Clock

URL = f"https://{HOST}/orders/7"


def request(target: str = "/orders/7", method: str = "GET") -> RequestParts:
    return RequestParts(method, HOST, target)


def code(
    gateway: TestGateway,
    token: str,
    parts: RequestParts | None = None,
    body: bytes | None = None,
    **options: Any,
) -> str:
    """Return the code of the refusal, blocking and asynchronous."""
    verifier = gateway.verifier(**options)
    with pytest.raises(AssertionRefused) as refused:
        verifier.verify(token, parts or request(), body=body)
    with pytest.raises(AssertionRefused) as refused_async:
        asyncio.run(verifier.verify_async(token, parts or request(), body=body))
    assert refused.value.code == refused_async.value.code
    return refused.value.code


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_a_good_assertion_names_the_caller(algorithm: Any, clock: Clock) -> None:
    gateway = TestGateway(audience="orders", algorithm=algorithm, clock=clock)
    token = gateway.assertion(
        "GET",
        URL + "?x=1",
        sub=CALLER,
        trust_domain="example.org",
        token={"iss": "https://idp.example", "sub": "alice", "tenant": [1]},
        claims={"later": {"a": None}},
    )
    caller = gateway.verifier().verify(token, request("/orders/7?x=1"))
    assert (caller.sub, caller.trust_domain) == (CALLER, "example.org")
    assert caller.is_request_bound
    assert caller.certificate is not None
    assert caller.certificate.sans.uri == (CALLER,)
    assert caller.token is not None
    assert (caller.token.sub, caller.token.other) == ("alice", {"tenant": [1]})
    assert (caller.authn.methods, caller.authn.revocation) == (("certificate",), "checked")
    assert (caller.iat, caller.exp) == (NOW, NOW + 30)
    assert caller.claims["later"] == {"a": None}
    assert pickle.loads(pickle.dumps(caller)) == caller
    assert len({caller, dataclasses.replace(caller)}) == 1
    assert dataclasses.asdict(caller)["authn"]["resumed"] is False
    assert CALLER in repr(caller)
    assert "alice" not in repr(caller)
    assert asyncio.run(gateway.verifier().verify_async(token, request("/orders/7?x=1"))) == caller


@pytest.mark.parametrize("sub", ["api-key:batch", "client:corporate/web"])
def test_callers_without_certificate(sub: str, gateway: TestGateway) -> None:
    caller = gateway.verifier().verify(gateway.assertion("GET", URL, sub=sub), request())
    assert (caller.sub, caller.certificate, caller.trust_domain) == (sub, None, None)
    assert (caller.has_certificate, caller.certificate_thumbprint) == (False, None)


@pytest.mark.parametrize("methods", [["certificate"], ["certificate", "token"]])
@pytest.mark.parametrize("compact", [False, True])
def test_callers_with_certificate(compact: bool, methods: list[str], gateway: TestGateway) -> None:
    authn: dict[str, Any] = {
        "methods": methods,
        "trust_domain": "example.org",
        "at": NOW,
        "resumed": False,
    }
    claims: dict[str, Any] = {"authn": authn}
    if compact:
        claims["client_cert"] = None
        authn["x5t#S256"] = sha256(CALLER.encode())
    token = gateway.assertion("GET", URL, sub=CALLER, claims=claims)
    caller = gateway.verifier().verify(token, request())
    assert (caller.sub, caller.trust_domain) == (CALLER, "example.org")
    assert (caller.certificate is None) is compact
    assert (caller.has_certificate, caller.certificate_thumbprint) == (
        True,
        sha256(CALLER.encode()),
    )
    assert pickle.loads(pickle.dumps(caller)) == caller


@pytest.mark.parametrize("thumbprint", [7, ["x"], {}])
def test_a_thumbprint_is_a_text(thumbprint: object, gateway: TestGateway) -> None:
    authn = {"methods": ["certificate"], "at": NOW, "resumed": False, "x5t#S256": thumbprint}
    token = gateway.assertion("GET", URL, claims={"client_cert": None, "authn": authn})
    assert code(gateway, token) == "assertion-claims"


def client_cert(**changes: Any) -> dict[str, Any]:
    """Return claims with a certificate without details."""
    certificate = {
        "x5t#S256": "x",
        "serial": "01",
        "issuer": "CN=Test",
        "not_before": NOW,
        "not_after": NOW,
        "sans": {"uri": [], "dns": [], "email": [], "ip": []},
        "anchor": "a",
    }
    return {"client_cert": {**certificate, **changes}}


def test_what_was_left_out_is_said(gateway: TestGateway) -> None:
    def certificate(**changes: Any) -> ClientCertificate:
        token = gateway.assertion("GET", URL, claims=client_cert(**changes))
        found = gateway.verifier().verify(token, request()).certificate
        assert found is not None
        return found

    whole = certificate()
    assert (whole.issuer, whole.sans_truncated, whole.issuer_truncated) == ("CN=Test", False, False)
    names = certificate(sans_truncated=True)
    assert (names.sans_truncated, names.issuer_truncated) == (True, False)
    issuer = certificate(issuer="", issuer_truncated=True)
    assert (issuer.issuer, issuer.sans_truncated, issuer.issuer_truncated) == ("", False, True)


@pytest.mark.parametrize("name", ["sans_truncated", "issuer_truncated"])
@pytest.mark.parametrize("value", [None, "true", 1])
def test_what_was_left_out_is_said_with_a_boolean(
    name: str, value: object, gateway: TestGateway
) -> None:
    token = gateway.assertion("GET", URL, claims=client_cert(**{name: value}))
    assert code(gateway, token) == "assertion-claims"


def test_time_is_checked_at_each_boundary(gateway: TestGateway, clock: Clock) -> None:
    token = gateway.assertion("GET", URL)
    verifier = gateway.verifier()
    clock.now = NOW + 30 + 10 - 1
    verifier.verify(token, request())
    clock.now += 1
    assert code(gateway, token) == "assertion-expired"
    clock.now = NOW - 10
    verifier.verify(token, request())
    clock.now -= 1
    assert code(gateway, token) == "assertion-not-yet-valid"


@pytest.mark.parametrize(("difference", "is_accepted"), [(29, True), (31, False)])
def test_a_wrong_clock(
    difference: int, is_accepted: bool, gateway: TestGateway, clock: Clock
) -> None:
    token = gateway.assertion("GET", URL, lifetime=1)
    for now, refusal in (
        (NOW - difference, "assertion-not-yet-valid"),
        (NOW + 1 + difference, "assertion-expired"),
    ):
        clock.now = now
        if is_accepted:
            gateway.verifier(skew=30).verify(token, request())
        else:
            assert code(gateway, token, skew=30) == refusal
        assert code(gateway, token) == refusal


def test_bodies_are_compared(gateway: TestGateway) -> None:
    bound = gateway.assertion("POST", URL, body=b"one")
    unbound = gateway.assertion("POST", URL)
    parts = request(method="POST")
    verifier = gateway.verifier()
    assert verifier.verify(bound, parts, body=b"one").matches_body(b"one") is True
    assert verifier.verify(bound, parts).matches_body(b"two") is False
    assert verifier.verify(unbound, parts, body=b"two").matches_body(b"two") is None
    assert code(gateway, bound, parts, b"two") == "assertion-body"
    strict: Any = {"require_body_binding": True}
    gateway.verifier(**strict).verify(bound, parts, body=b"one")
    assert code(gateway, bound, parts, **strict) == "assertion-body-not-bound"
    assert code(gateway, unbound, parts, b"one", **strict) == "assertion-body-not-bound"


def test_caller_bound_assertions_need_permission(gateway: TestGateway) -> None:
    token = gateway.assertion("GET", URL, binding="caller")
    assert code(gateway, token) == "assertion-not-request-bound"
    caller = gateway.verifier(allow_caller_binding=True).verify(token, request("/other"))
    assert not caller.is_request_bound
    for part in ({"txn": "1"}, {"htm": "GET"}, {"jti": "1", "htm": "GET"}, {"htq": "1"}):
        partial = gateway.assertion("GET", URL, binding="caller", claims=part)
        assert code(gateway, partial, allow_caller_binding=True) == "assertion-partial-binding"


def test_proxies_are_configured(gateway: TestGateway) -> None:
    token = gateway.assertion("GET", f"https://{HOST}/api/orders/7")
    behind = gateway.verifier(authority=HOST, path_prefix="/api")
    behind.verify(token, RequestParts("GET", "internal:8080", "/orders/7"))
    behind.verify(token, RequestParts("GET", (), "/orders/7"))
    assert code(gateway, token, authority="other", path_prefix="/api") == "assertion-authority"
    assert code(gateway, token, request("/api/orders/7"), path_prefix="/api") == "assertion-path"
    assert code(gateway, token, RequestParts("GET", (), "/api/orders/7")) == (
        "assertion-request-unclear"
    )


@pytest.mark.parametrize("target", ["*", "", "orders", "http://orders.example.org/", "/a#b"])
def test_other_targets_are_unclear(target: str) -> None:
    with pytest.raises(AssertionRefused, match="assertion-request-unclear"):
        RequestParts("GET", HOST, target)


@pytest.mark.parametrize("hosts", [(), (HOST, HOST), (f"{HOST},{HOST}",), (b"\xff",), ("a\x00",)])
def test_other_hosts_are_unclear(hosts: Any, gateway: TestGateway) -> None:
    parts = RequestParts("GET", hosts, "/orders/7")
    assert code(gateway, gateway.assertion("GET", URL), parts) == "assertion-request-unclear"


def test_one_field_is_expected() -> None:
    assert only_assertion([b"a.b.c"]) == "a.b.c"
    for values, expected in (([], "assertion-missing"), (["a", "b"], "assertion-duplicate")):
        with pytest.raises(AssertionRefused) as refused:
            only_assertion(values)
        assert refused.value.code == expected


def test_nothing_of_a_token_is_shown(gateway: TestGateway) -> None:
    token = gateway.assertion("GET", URL, sub="secret:caller", claims={"aud": "secret-audience"})
    with pytest.raises(AssertionRefused) as refused:
        gateway.verifier().verify(token, request())
    assert "secret" not in str(refused.value) + repr(refused.value)
    assert "secret" not in repr(RequestParts("GET", HOST, "/?secret"))


def test_refusals_have_codes_and_statuses() -> None:
    assert len(REFUSALS) == 27
    for name in REFUSALS:
        refusal = AssertionRefused(name)
        assert (refusal.code, str(refusal)) == (name, f"{name}: {refusal.detail}")
        assert refusal.status in (401, 403, 503)
        for again in (copy.copy(refusal), pickle.loads(pickle.dumps(refusal))):
            assert (again.code, again.detail) == (refusal.code, refusal.detail)


def test_a_stranger_with_the_same_key_id_is_refused(gateway: TestGateway) -> None:
    stranger = TestGateway(audience="orders", issuer=gateway.issuer, clock=Clock(NOW))
    forged = stranger.assertion("GET", URL, header={"kid": gateway.key_id})
    assert code(gateway, forged) == "assertion-signature"
    assert code(gateway, stranger.assertion("GET", URL)) == "assertion-unknown-key"


def test_an_hmac_with_the_public_key_is_refused(gateway: TestGateway) -> None:
    for name in ("HS256", "none", "RS256", "ES384", "es256"):
        token = gateway.assertion("GET", URL, header={"alg": name})
        assert code(gateway, token) == "assertion-algorithm"


def test_key_sets_ignore_unusable_keys(gateway: TestGateway) -> None:
    key = gateway.key_set["keys"][0]
    token = gateway.assertion("GET", URL)
    for change in (
        {"use": "enc"},
        {"use": None},
        {"d": "AA"},
        {"alg": "ES384"},
        {"alg": ["ES256"]},
        {"key_ops": ["sign"]},
        {"key_ops": "verify"},
        {"kty": "oct", "k": "AA"},
        {"crv": "P-384"},
        {"crv": ["P-256"]},
        {"x": key["x"][:-1]},
        {"x": 7},
        {"kid": 7},
    ):
        other = TestGateway(audience="orders").key_set["keys"][0]
        changed = {"keys": [{**key, **change}, other]}
        assert code(gateway, token, keys=changed) == "assertion-unknown-key", change
    good = {name: value for name, value in key.items() if name not in ("kid", "alg", "use")}
    sets: Any = ([good], [key, key], [{**key, "later": 1, "key_ops": ["verify"]}])
    for keys in sets:
        gateway.verifier(keys={"keys": keys}).verify(token, request())
    # Two different keys with one identifier: neither is chosen.
    twice = [key, {**TestGateway(audience="orders").key_set["keys"][0], "kid": key["kid"]}]
    assert code(gateway, token, keys={"keys": twice}) == "assertion-unknown-key"
    # A point that is not on the curve verifies nothing.
    off = {"keys": [{**key, "y": key["x"]}]}
    assert code(gateway, token, keys=off) == "assertion-signature"


@pytest.mark.parametrize(
    "options",
    [
        {"issuer": ""},
        {"audience": ""},
        {"audience": None},
        {"audience": ["orders"]},
        {"keys": None},
        {"keys": {"keys": []}},
        {"keys": "{}"},
        {"keys": "not json"},
        {"keys": b"\xff"},
        {"keys": '{"keys":[],"keys":[]}'},
        {"keys": json.dumps({"keys": [{}] * 129})},
        {"jwks_url": "https://gateway.example.org/keys"},
        {"ca_file": "root.pem"},
        {"skew": 31},
        {"skew": -1},
        {"authority": ""},
        {"authority": "https://orders"},
        {"authority": "user@orders"},
        {"path_prefix": "/"},
        {"path_prefix": "/api/"},
        {"path_prefix": "api"},
        {"path_prefix": "/a?b"},
        {"unverified_paths": "/healthz"},
        {"unverified_paths": ["healthz"]},
        {"unverified_paths": ["/*"]},
        {"unverified_paths": ["/healthz?x"]},
    ],
)
def test_a_verifier_is_not_made_with(options: dict[str, Any], gateway: TestGateway) -> None:
    given: dict[str, Any] = {
        "issuer": gateway.issuer,
        "audience": "orders",
        "keys": gateway.key_set,
        **options,
    }
    with pytest.raises(ConfigurationError):
        AssertionVerifier(**given)


@pytest.mark.parametrize(
    "url",
    [
        "http://gateway.example.org/keys",
        "http://127.0.0.1.example.org/keys",
        "http://10.0.0.1/keys",
        "http://[::2]/keys",
        "ftp://localhost/keys",
        "file:///etc/passwd",
        "https:///keys",
        "https://user@gateway.example.org/keys",
        "https://gateway.example.org/keys#x",
        "https://gateway.example.org/ke ys",
        "https://gateway.example.org/keys\r\nX: y",
        "https://gateway.example.org:x/keys",
        "gateway.example.org/keys",
        "",
    ],
)
def test_keys_are_not_fetched_from(url: str) -> None:
    with pytest.raises(ConfigurationError):
        AssertionVerifier(issuer="https://g", audience="orders", jwks_url=url)


@pytest.mark.parametrize(
    "url",
    [
        "https://g.example/keys",
        "http://localhost:1/",
        "http://127.1.2.3/k",
        "http://[::1]:80/k?x=1",
    ],
)
def test_keys_may_be_fetched_from(url: str) -> None:
    AssertionVerifier(issuer="https://g", audience="orders", jwks_url=url)


def test_unverified_paths_are_exact(gateway: TestGateway) -> None:
    verifier = gateway.verifier(unverified_paths=["/healthz"])
    assert verifier.is_unverified("GET", b"/healthz")
    assert verifier.is_unverified("HEAD", b"/healthz?verbose")
    for method, target in (
        ("POST", b"/healthz"),
        ("get", b"/healthz"),
        ("GET", b"/healthz/"),
        ("GET", b"/%68ealthz"),
        ("GET", b"//healthz"),
        ("GET", b"/healthz;x"),
        ("GET", b"/healthz/../orders"),
    ):
        assert not verifier.is_unverified(method, target)
