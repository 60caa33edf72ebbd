"""Requests that every HTTP adapter is tested with, through real servers."""

from __future__ import annotations

from countersign_verify.testing import TestGateway
from support import CALLER, HOST, Reply, exchange

# Targets that must arrive as they were sent.
TARGETS = (
    "/orders/7",
    "/orders/%37",
    "/a%2Fb/c",
    "/a%2fb/c",
    "/orders/7;v=1/x",
    "/a+b",
    "/a%20b",
    "/caf%C3%A9",
    "/%C3%28",
    "/a/./b/../c",
    "/orders//7",
    "/orders/7/",
    "/%00",
    "/%25%37",
    "/~a!$&'()*,=:@",
    "/orders/7?x=1",
    "/orders/7?x=1&x=%31+2",
    "/orders/7??",
    "/orders/7?a=/b?c",
    "/orders/7?%",
    "/",
)

# (signed, sent, code): targets that frameworks may regard as equal.
CONFUSIONS = (
    ("/orders/7", "/orders/%37", "assertion-path"),
    ("/orders/%37", "/orders/7", "assertion-path"),
    ("/a/b", "/a%2Fb", "assertion-path"),
    ("/a%2Fb", "/a%2fb", "assertion-path"),
    ("/orders/7", "/orders/7;v=1", "assertion-path"),
    ("/orders/7", "//orders/7", "assertion-path"),
    ("/orders/7", "/orders/7/", "assertion-path"),
    ("/orders/7", "/orders/x/../7", "assertion-path"),
    ("/a b".replace(" ", "%20"), "/a+b", "assertion-path"),
    ("/orders/7", "/Orders/7", "assertion-path"),
    ("/orders/7", "/orders/7?x=1", "assertion-query"),
    ("/orders/7?x=1", "/orders/7", "assertion-query"),
    ("/orders/7?x=1", "/orders/7?x=%31", "assertion-query"),
    ("/orders/7?x=1&y=2", "/orders/7?y=2&x=1", "assertion-query"),
    ("/orders/7?x=+", "/orders/7?x=%20", "assertion-query"),
    ("/orders/7?", "/orders/7", "assertion-query"),
)


def check_all(port: int, gateway: TestGateway) -> None:
    """Check what holds for every adapter behind every server.

    The application answers with the caller's `sub`, and with `none` on /healthz. If that sees a
    caller, it answers with other words.
    """
    check_targets(port, gateway)
    check_similar_paths(port, gateway)
    check_hosts(port, gateway)
    check_refusals(port, gateway)
    check_unverified_paths(port, gateway)
    check_other_paths(port, gateway)


def signed(gateway: TestGateway, method: str, target: str, host: str = HOST) -> str:
    return gateway.assertion(method, f"https://{host}{target}", sub=CALLER)


def check_targets(port: int, gateway: TestGateway) -> None:
    for target in TARGETS:
        reply = exchange(port, target, signed(gateway, "GET", target))
        assert (reply.status, reply.text) == (200, CALLER), target
    for claimed, sent, code in CONFUSIONS:
        reply = exchange(port, sent, signed(gateway, "GET", claimed))
        # Flask's middleware refuses two slashes first.
        codes = (code, "assertion-request-unclear") if sent.startswith("//") else (code,)
        assert (reply.status, reply.code in codes) == (403, True), (claimed, sent)


def check_similar_paths(port: int, gateway: TestGateway) -> None:
    """Check paths that a framework could take for another one."""
    for target in ("//healthz", "///healthz", "//orders//7"):
        reply = exchange(port, target, signed(gateway, "GET", target))
        # Flask's are refused.
        if reply.status != 403 or reply.code != "assertion-request-unclear":
            assert (reply.status, reply.text) == (200, CALLER), target
    for target in ("/healthz%0A", "/orders/7%0a", "/%0A"):
        reply = exchange(port, target, signed(gateway, "GET", target))
        assert (reply.status, reply.code) == (403, "assertion-request-unclear"), target


def check_hosts(port: int, gateway: TestGateway) -> None:
    for host in ("orders.example.org:8443", "[::1]", "[2001:db8::1]:8443", "127.0.0.1:80"):
        reply = exchange(port, "/", signed(gateway, "GET", "/", host), hosts=(host,))
        assert (reply.status, reply.text) == (200, CALLER), host
    token = signed(gateway, "GET", "/")
    for host in ("Orders.example.org", f"{HOST}:443", f"{HOST}.", "evil.example"):
        forwarded = ("X-Forwarded-Host: " + HOST, "Forwarded: host=" + HOST)
        reply = exchange(port, "/", token, hosts=(host,), headers=forwarded)
        assert (reply.status, reply.code) == (403, "assertion-authority"), host
    for hosts in ((HOST, HOST), (HOST, "evil.example"), ("evil.example", HOST)):
        # Some servers refuse this themselves.
        reply = exchange(port, "/", token, hosts=hosts)
        assert reply.status in (400, 403), hosts
        if reply.status == 403:
            assert reply.code == "assertion-request-unclear"


def check_refusals(port: int, gateway: TestGateway) -> None:
    token = signed(gateway, "GET", "/orders/7")
    assert exchange(port, "/orders/7").code == "assertion-missing"
    assert exchange(port, "/orders/7", method="HEAD").status == 401
    assert exchange(port, "/orders/7", method="HEAD").body == b""
    # Servers that join fields make a list of them, which is no token.
    assert exchange(port, "/orders/7", token, token).code in (
        "assertion-duplicate",
        "assertion-malformed",
    )
    assert exchange(port, "/orders/7", "").code in ("assertion-missing", "assertion-malformed")
    assert exchange(port, "/orders/7", token + "\xe9").status in (400, 401)
    assert exchange(port, "/orders/7", token, method="POST").code == "assertion-method"
    stranger = TestGateway(audience="orders", issuer=gateway.issuer)
    forged = signed(stranger, "GET", "/orders/7")
    assert exchange(port, "/orders/7", forged).code == "assertion-unknown-key"
    other = gateway.assertion("GET", f"https://{HOST}/orders/7", claims={"aud": "payments"})
    assert exchange(port, "/orders/7", other).code == "assertion-audience"
    # Fields that look like the adapters' own names set no caller.
    fake = ("countersign.caller: x", "Countersign-Caller: x", "RAW-URI: /", "REQUEST-URI: /")
    assert exchange(port, "/orders/7", headers=fake).code == "assertion-missing"
    # Absolute form is not what a gateway sends. Some servers show its path only, and then the Host
    # field is compared.
    absolute = exchange(port, f"http://{HOST}/orders/7", token)
    assert absolute.status in (200, 400, 403)
    if absolute.status == 403:
        assert absolute.code == "assertion-request-unclear"
    hosts = ("evil.example",)
    assert exchange(port, f"http://{HOST}/orders/7", token, hosts=hosts).status in (400, 403)
    options = exchange(port, "*", signed(gateway, "OPTIONS", "/"), method="OPTIONS")
    assert options.status in (400, 403)


def check_unverified_paths(port: int, gateway: TestGateway) -> None:
    for headers in ((), (f"Countersign-Assertion: {signed(gateway, 'GET', '/healthz')}",)):
        reply = exchange(port, "/healthz", headers=headers)
        assert (reply.status, reply.text) == (200, "none")
    assert exchange(port, "/healthz", method="HEAD").status == 200
    assert exchange(port, "/healthz", method="POST").code == "assertion-missing"
    for target in ("/%68ealthz", "//healthz", "/healthz/", "/healthz;", "/x/../healthz"):
        codes = ["assertion-missing"]
        if target.startswith("//"):
            codes.append("assertion-request-unclear")
        assert exchange(port, target).code in codes, target


def check_other_paths(port: int, gateway: TestGateway) -> None:
    """Check fields by which servers change the path, and methods in small letters."""
    for name in ("SCRIPT_NAME", "Script-Name", "PATH_INFO", "Path-Info", "Daphne-Root-Path"):
        for target, prefix in (("/public/healthz", "/public"), ("/healthz", "/healthz")):
            tokens = [signed(gateway, "GET", target)] if prefix == "/public" else []
            reply = exchange(port, target, *tokens, headers=(f"{name}: {prefix}",))
            # The field is refused, or has no effect.
            if reply.status == 403:
                assert reply.code == "assertion-request-unclear"
            elif reply.status != 400:
                assert (reply.status, reply.text) == (200, CALLER if tokens else "none"), name
    # Hypercorn converts methods to capitals. That is then also what is verified.
    reply = exchange(port, "/orders/7", signed(gateway, "get", "/orders/7"), method="get")
    assert reply.status in (400, 403, 405)


def check_bodies(port: int, gateway: TestGateway) -> None:
    """Check an application that requires body binding, up to 1 MiB, and sends bodies back."""
    url = f"https://{HOST}/echo"
    body = b"x" * 300_000
    bound = gateway.assertion("POST", url, body=body)
    assert exchange(port, "/echo", bound, method="POST", body=body).body == body
    other = exchange(port, "/echo", bound, method="POST", body=b"y" * 300_000)
    assert (other.status, other.code) == (403, "assertion-body")
    assert exchange(port, "/echo", bound, method="POST").code == "assertion-body"
    unbound = gateway.assertion("POST", url)
    assert exchange(port, "/echo", unbound, method="POST", body=body).code == (
        "assertion-body-not-bound"
    )
    empty = gateway.assertion("POST", url, body=b"")
    assert exchange(port, "/echo", empty, method="POST").body == b""


def send_chunked(port: int, gateway: TestGateway) -> Reply:
    """Send a body without a known length to the same application."""
    return exchange(
        port,
        "/echo",
        gateway.assertion("POST", f"https://{HOST}/echo", body=b"abcdef"),
        method="POST",
        headers=("Transfer-Encoding: chunked",),
        trailer=b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n",
    )
