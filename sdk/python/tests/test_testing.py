"""The test kit, and what the README shows."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import ModuleType

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from flask import Flask

from countersign_verify import AssertionRefused, RequestParts
from countersign_verify.asgi import AssertionMiddleware
from countersign_verify.fastapi import CurrentCaller
from countersign_verify.flask import current_caller, protect
from countersign_verify.testing import TestGateway
from support import PACKAGE


def test_the_key_set_is_served() -> None:
    gateway = TestGateway(audience="orders")
    with gateway.serve() as url:
        verifier = gateway.verifier(jwks_url=url)
        verifier.verify(gateway.assertion("GET", "/a"), RequestParts("GET", "testserver", "/a"))
        gateway.rotate()
        with pytest.raises(AssertionRefused):
            verifier.verify(gateway.assertion("GET", "/a"), RequestParts("GET", "testserver", "/a"))
        verifier.fetch_keys()
        verifier.verify(gateway.assertion("GET", "/a"), RequestParts("GET", "testserver", "/a"))
        verifier.close()


@pytest.mark.parametrize(
    ("url", "host", "target"),
    [
        ("/a%2Fb?x=1", "testserver", "/a%2Fb?x=1"),
        ("https://h:1/a?", "h:1", "/a?"),
        ("http://[::1]:1", "[::1]:1", "/"),
        ("http://h?x", "h", "/?x"),
        ("/a?b=c/d://e", "testserver", "/a?b=c/d://e"),
    ],
)
def test_urls_are_signed_as_given(url: str, host: str, target: str) -> None:
    gateway = TestGateway(audience="orders")
    gateway.verifier().verify(gateway.assertion("GET", url), RequestParts("GET", host, target))


@pytest.mark.parametrize("url", ["", "orders", "https:///a", "/a#b"])
def test_other_urls_are_errors(url: str) -> None:
    with pytest.raises((ValueError, AssertionRefused)):
        TestGateway(audience="orders").assertion("GET", url)


@pytest.mark.parametrize("name", ["dns:a.example", "mailto:a@example.org", "ip:::1", "uri:x"])
def test_names_are_in_the_certificate(name: str) -> None:
    gateway = TestGateway(audience="orders")
    token = gateway.assertion("GET", "/", sub=name)
    caller = gateway.verifier().verify(token, RequestParts("GET", "testserver", "/"))
    assert caller.certificate is not None
    sans = caller.certificate.sans
    assert name.endswith((*sans.uri, *sans.dns, *sans.email, *sans.ip))


def test_the_fixture_is_found(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ncountersign_audience = orders\n")
    pytester.makepyfile(
        """
        from countersign_verify.testing import TestGateway

        def test_it(countersign_gateway: TestGateway) -> None:
            assert countersign_gateway.audience == "orders"
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_the_fixture_needs_an_audience(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(countersign_gateway): pass")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*set countersign_audience*"])


def test_production_code_does_not_import_the_test_kit() -> None:
    program = """
import sys
import countersign_verify, countersign_verify.asgi, countersign_verify.fastapi
import countersign_verify.wsgi, countersign_verify.flask, countersign_verify.redis
import countersign_verify.grpc
assert not any(name.startswith("countersign_verify.testing") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_core_needs_no_framework() -> None:
    program = """
import sys
import countersign_verify, countersign_verify.asgi, countersign_verify.wsgi
frameworks = {"fastapi", "starlette", "flask", "django", "grpc", "redis", "pytest"}
assert frameworks.isdisjoint(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("orders", PACKAGE / "examples" / "orders.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_works() -> None:
    orders = example()
    gateway = TestGateway(audience="orders")
    client = TestClient(AssertionMiddleware(orders.app, gateway.verifier()))
    headers = gateway.headers("GET", "/orders/7", sub="spiffe://example.org/checkout")
    assert client.get("/orders/7", headers=headers).json() == {
        "number": 7,
        "caller": "spiffe://example.org/checkout",
    }
    assert TestClient(orders.service).get("/orders/7").json()["code"] == "assertion-missing"


def test_the_example_is_short_and_in_the_readme() -> None:
    text = (PACKAGE / "examples" / "orders.py").read_text()
    assert len([line for line in text.splitlines() if line.strip()]) <= 12
    assert f"```python\n{text}```\n" in (PACKAGE / "README.md").read_text()


def test_the_unit_test_of_the_readme_works() -> None:
    readme = (PACKAGE / "README.md").read_text()
    marker = "```python\ndef test_order"
    assert marker in readme
    body = readme[readme.index(marker) + len("```python\n") :].partition("```")[0]
    scope = {
        "TestClient": TestClient,
        "TestGateway": TestGateway,
        "AssertionMiddleware": AssertionMiddleware,
        "app": example().app,
    }
    exec(body, scope)
    scope["test_order"]()


def test_encoded_slashes_are_decoded_before_routes_are_chosen() -> None:
    gateway = TestGateway(audience="orders")
    app = FastAPI()

    @app.get("/{name}")
    def one(name: str, caller: CurrentCaller) -> str:
        return f"one {name} {caller.htu}"

    @app.get("/a/{name}")
    def two(name: str, caller: CurrentCaller) -> str:
        return f"two {name} {caller.htu}"

    client = TestClient(AssertionMiddleware(app, gateway.verifier()))
    reply = client.get("/a%2Fb", headers=gateway.headers("GET", "/a%2Fb"))
    assert reply.json() == "two b https://testserver/a%2Fb"

    other = Flask("other")

    @other.get("/<name>")
    def flask_one(name: str) -> str:
        return f"one {name} {current_caller().htu}"

    @other.get("/a/<name>")
    def flask_two(name: str) -> str:
        return f"two {name} {current_caller().htu}"

    protect(other, gateway.verifier())
    url = "http://localhost/a%2Fb"
    text = other.test_client().get(url, headers=gateway.headers("GET", url)).text
    assert text == "two b https://localhost/a%2Fb"
