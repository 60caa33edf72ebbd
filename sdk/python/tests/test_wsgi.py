"""Flask and Django behind gunicorn, Django in ASGI, and servers without a raw target."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from flask import Flask
from werkzeug.serving import make_server as make_werkzeug_server

from countersign_verify import AssertionVerifier
from countersign_verify.flask import current_caller, protect
from countersign_verify.testing import TestGateway
from countersign_verify.wsgi import AssertionMiddleware, caller_of
from http_cases import check_all, check_bodies, send_chunked, signed
from support import CALLER, HOST, IN_TIME, exchange, gunicorn_server, process


@pytest.fixture(scope="module")
def keys(live_gateway: TestGateway, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    file.write_text(json.dumps(live_gateway.key_set))
    return file


@pytest.fixture(scope="module", params=["flask_app:app", "django_app:application"])
def port(request: Any, keys: Path) -> Iterator[int]:
    with gunicorn_server(f"apps.{request.param}", {"KEYS": str(keys)}) as port:
        yield port


def test_what_holds_for_every_adapter(port: int, live_gateway: TestGateway) -> None:
    check_all(port, live_gateway)


def test_a_lone_question_mark(port: int, live_gateway: TestGateway) -> None:
    with_mark, without = (signed(live_gateway, "GET", f"/orders/7{end}") for end in ("?", ""))
    assert exchange(port, "/orders/7?", with_mark).text == CALLER
    assert exchange(port, "/orders/7?", without).code == "assertion-query"
    assert exchange(port, "/orders/7", with_mark).code == "assertion-query"


def test_targets_with_other_bytes(port: int, live_gateway: TestGateway) -> None:
    # Some versions of gunicorn refuse them.
    target = "/caf\u00e9?\u00e9".encode()
    reply = exchange(port, target, signed(live_gateway, "GET", "/caf\u00e9?\u00e9"))
    assert (reply.status, reply.text) == (200, CALLER) or reply.status == 400
    reply = exchange(port, target, signed(live_gateway, "GET", "/caf%C3%A9?%C3%A9"))
    assert reply.status in (400, 403)


@pytest.mark.parametrize("app", ["flask_app:echo", "django_app:application"])
def test_bodies(app: str, keys: Path, live_gateway: TestGateway) -> None:
    with gunicorn_server(f"apps.{app}", {"KEYS": str(keys), "BODIES": "1"}) as port:
        check_bodies(port, live_gateway)
        chunked = send_chunked(port, live_gateway)
        if "flask" in app:
            assert chunked.body == b"abcdef"
        else:
            # For Django's views, such bodies are empty in WSGI.
            assert chunked.code == "assertion-body"
        body = b"x" * (1024 * 1024 + 1)
        token = live_gateway.assertion("POST", f"https://{HOST}/echo", body=body)
        with contextlib.suppress(ConnectionError):
            reply = exchange(port, "/echo", token, method="POST", body=body)
            assert reply.code == "assertion-body-not-bound"


@pytest.mark.parametrize("field", ["SCRIPT_NAME", "PATH_INFO", "Script-Name", "Path-Info"])
def test_fields_that_change_gunicorns_path(
    field: str, port: int, live_gateway: TestGateway
) -> None:
    # gunicorn trusts loopback peers: it would remove the prefix from what is routed on.
    token = signed(live_gateway, "GET", "/public/healthz")
    reply = exchange(port, "/public/healthz", token, headers=(f"{field}: /public",))
    assert (reply.status, reply.code) == (403, "assertion-request-unclear")
    # The root view, without an assertion.
    reply = exchange(port, "/healthz", headers=(f"{field}: /healthz",))
    assert (reply.status, reply.code) == (403, "assertion-request-unclear")
    reply = exchange(port, "/public/healthz", token, headers=(f"{field}: ",))
    assert (reply.status, reply.code) == (403, "assertion-request-unclear")


@pytest.mark.parametrize("app", ["flask_app:app", "django_app:application"])
def test_a_mount_of_the_server(app: str, keys: Path, live_gateway: TestGateway) -> None:
    with gunicorn_server(f"apps.{app}", {"KEYS": str(keys), "SCRIPT_NAME": "/app"}) as port:
        for target in ("/app/orders/7", "/app/", "/app", "/app/caf%C3%A9?x=1"):
            reply = exchange(port, target, signed(live_gateway, "GET", target))
            if target == "/app" and "flask" in app:
                # Flask redirects to the root with its slash.
                assert reply.status == 308
            else:
                assert (reply.status, reply.text) == (200, CALLER), target
        reply = exchange(port, "/app/healthz", signed(live_gateway, "GET", "/app/healthz"))
        assert reply.text == f"healthz {CALLER}"
        assert exchange(port, "/app/healthz").code == "assertion-missing"
        # gunicorn would remove this prefix, too: the application would see `/healthz` in both.
        for target in ("/apphealthz", "/apple"):
            reply = exchange(port, target, signed(live_gateway, "GET", target))
            assert (reply.status, reply.code) == (403, "assertion-request-unclear"), target
        field = ("SCRIPT_NAME: /app/orders",)
        token = signed(live_gateway, "GET", "/app/orders/healthz")
        reply = exchange(port, "/app/orders/healthz", token, headers=field)
        assert reply.code == "assertion-request-unclear"


def test_djangos_own_script_name(keys: Path, live_gateway: TestGateway) -> None:
    environment = {"KEYS": str(keys), "FORCE_SCRIPT_NAME": "/app"}
    with gunicorn_server("apps.django_app:application", environment) as port:
        check_all(port, live_gateway)


@pytest.mark.parametrize("root_path", ["", "/app"])
@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_djangos_own_script_name_in_asgi(
    server: str, root_path: str, keys: Path, live_gateway: TestGateway
) -> None:
    # Django removes it if it is there, so that each view has a second path.
    environment = {"KEYS": str(keys), "FORCE_SCRIPT_NAME": "/app", "ROOT_PATH": root_path}
    with asgi_process(ASGI_SERVERS[server], environment) as port:
        for prefix in ("", "/app", "/apple"):
            target = f"{prefix}/orders/7"
            reply = exchange(port, target, signed(live_gateway, "GET", target))
            if prefix == root_path:
                assert (reply.status, reply.text) == (200, CALLER)
            else:
                assert (reply.status, reply.code) == (403, "assertion-request-unclear"), prefix


def test_flask_does_not_see_two_slashes(keys: Path, live_gateway: TestGateway) -> None:
    with gunicorn_server("apps.flask_app:app", {"KEYS": str(keys)}) as port:
        for target in ("//healthz", "//orders/7", "///"):
            reply = exchange(port, target, signed(live_gateway, "GET", target))
            assert (reply.status, reply.code) == (403, "assertion-request-unclear"), target


def test_queries_that_gunicorn_changes(port: int, live_gateway: TestGateway) -> None:
    # The tab is not in QUERY_STRING.
    reply = exchange(port, "/orders/7?x=\t1", signed(live_gateway, "GET", "/orders/7?x=\t1"))
    assert reply.status == 400 or reply.code == "assertion-request-unclear"


@contextlib.contextmanager
def asgi_process(arguments: list[str], environment: dict[str, str]) -> Iterator[int]:
    from support import listening

    with listening() as listener:
        command = [sys.executable, "-m", arguments[0], "--fd", str(listener.fileno())]
        command += [*arguments[1:], "apps.django_app:asgi_application"]
        with process(command, environment, pass_fds=(listener.fileno(),)):
            yield listener.getsockname()[1]


ASGI_SERVERS = {
    "uvicorn": ["uvicorn", "--lifespan", "off", "--log-level", "error"],
    "daphne": ["daphne", "--verbosity", "0"],
}


@pytest.mark.parametrize("server", ASGI_SERVERS)
def test_django_in_asgi(server: str, keys: Path, live_gateway: TestGateway) -> None:
    with asgi_process(ASGI_SERVERS[server], {"KEYS": str(keys)}) as port:
        check_all(port, live_gateway)


def test_the_field_with_daphnes_root_path(keys: Path, live_gateway: TestGateway) -> None:
    # Django removes the root path from what it routes on. Daphne hides the field.
    def attack(port: int, prefix: str) -> tuple[int, str]:
        target = f"{prefix}/healthz"
        token = signed(live_gateway, "GET", target)
        reply = exchange(port, target, token, headers=(f"Daphne-Root-Path: {prefix}",))
        return reply.status, reply.text if reply.status == 200 else reply.code

    refused = (403, "assertion-request-unclear")
    with asgi_process(ASGI_SERVERS["daphne"], {"KEYS": str(keys)}) as port:
        assert attack(port, "/public") == refused
        reply = exchange(port, "/healthz", headers=("Daphne-Root-Path: /healthz",))
        assert (reply.status, reply.code) == refused
    arguments = [*ASGI_SERVERS["daphne"], "--root-path", "/app"]
    with asgi_process(arguments, {"KEYS": str(keys), "ROOT_PATH": "/app"}) as port:
        target = "/app/orders/7"
        assert exchange(port, target, signed(live_gateway, "GET", target)).text == CALLER
        # The configured root path adds nothing.
        assert attack(port, "/app") == (200, f"healthz {CALLER}")
        assert attack(port, "/public") == refused


@contextlib.contextmanager
def wsgiref_server(app: Any) -> Iterator[int]:
    """The server of the standard library, which gives no raw target."""

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join(IN_TIME)


def who(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [caller_of(environ).sub.encode()]


def test_servers_without_a_raw_target_are_refused(live_gateway: TestGateway) -> None:
    verifier = live_gateway.verifier(unverified_paths=["/healthz"])
    with wsgiref_server(AssertionMiddleware(who, verifier)) as port:
        for target in ("/orders/7", "/healthz"):
            reply = exchange(port, target, signed(live_gateway, "GET", target))
            assert (reply.status, reply.code) == (403, "assertion-request-unclear")
            assert "does not tell the request's target" in reply.problem["detail"]


def test_a_target_is_rebuilt_if_that_is_allowed(live_gateway: TestGateway) -> None:
    app = AssertionMiddleware(who, live_gateway.verifier(), rebuild_target=True)
    with wsgiref_server(app) as port:
        for target in ("/orders/7", "/a%20b?x=%31", "/caf%C3%A9", "/~a!$&'()*+,;=:@"):
            reply = exchange(port, target, signed(live_gateway, "GET", target))
            assert (reply.status, reply.text) == (200, CALLER), target
        for target in ("/a%2Fb", "/orders/7?"):
            reply = exchange(port, target, signed(live_gateway, "GET", target))
            assert reply.status == 403, target


def test_werkzeugs_server_gives_the_raw_target(live_gateway: TestGateway) -> None:
    server = make_werkzeug_server("127.0.0.1", 0, AssertionMiddleware(who, live_gateway.verifier()))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        for target in ("/orders/%37?x=1", "/a%2Fb", "/orders/7?"):
            reply = exchange(server.server_port, target, signed(live_gateway, "GET", target))
            assert (reply.status, reply.text) == (200, CALLER), target
        # One of two slashes at the start is removed: from the path only, or in newer versions of
        # Python also from the target.
        reply = exchange(server.server_port, "//a//b", signed(live_gateway, "GET", "//a//b"))
        assert reply.code in ("assertion-request-unclear", "assertion-path")
    finally:
        server.shutdown()
        thread.join(IN_TIME)
        server.server_close()


def call(verifier: AssertionVerifier, environ: dict[str, Any], **options: Any) -> tuple[str, bytes]:
    statuses: list[str] = []
    given: dict[str, Any] = {"REQUEST_METHOD": "GET", "HTTP_HOST": HOST, **environ}
    app = AssertionMiddleware(who, verifier, **options)
    body = b"".join(app(given, lambda status, _: statuses.append(status)))  # type: ignore[arg-type]
    return statuses[0], body


def test_the_member_with_the_target_can_be_named(live_gateway: TestGateway) -> None:
    token = signed(live_gateway, "GET", "/orders/%37")
    environ = {"HTTP_COUNTERSIGN_ASSERTION": token, "server.target": "/orders/%37"}
    environ["PATH_INFO"] = "/orders/7"
    verifier = live_gateway.verifier()
    assert call(verifier, environ, target_key="server.target") == ("200 OK", CALLER.encode())
    assert call(verifier, environ)[0] == "403 Forbidden"
    # Two members that disagree are unclear.
    environ = {**environ, "RAW_URI": "/orders/%37", "REQUEST_URI": "/orders/7"}
    assert b"assertion-request-unclear" in call(verifier, environ)[1]


def test_other_bytes_are_compared(live_gateway: TestGateway) -> None:
    token = signed(live_gateway, "GET", "/caf\u00e9?\u00e9")
    # WSGI texts have one character for each byte.
    environ = {"HTTP_COUNTERSIGN_ASSERTION": token, "RAW_URI": "/caf\xc3\xa9?\xc3\xa9"}
    environ |= {"PATH_INFO": "/caf\xc3\xa9", "QUERY_STRING": "\xc3\xa9"}
    assert call(live_gateway.verifier(), environ)[0] == "200 OK"
    environ["RAW_URI"] = "/caf\xe9?\xc3\xa9"
    environ["PATH_INFO"] = "/caf\xe9"
    assert b"assertion-path" in call(live_gateway.verifier(), environ)[1]


def test_an_environments_caller_is_not_trusted(live_gateway: TestGateway) -> None:
    environ = {"RAW_URI": "/", "PATH_INFO": "/", "countersign.caller": "x"}
    assert call(live_gateway.verifier(), environ)[0] == "401 Unauthorized"


@pytest.mark.parametrize(
    "environ",
    [
        {"PATH_INFO": "/admin"},
        {"PATH_INFO": ""},
        {"SCRIPT_NAME": "/public", "PATH_INFO": "/public/admin"},
        {"SCRIPT_NAME": "/other", "PATH_INFO": "/admin"},
        {"SCRIPT_NAME": "/pub", "PATH_INFO": "lic/admin"},
        {"PATH_INFO": "/public/admin", "HTTP_SCRIPT_NAME": ""},
        {"PATH_INFO": "/public/admin", "HTTP_PATH_INFO": "/admin"},
        {"PATH_INFO": "/public/admin", "REQUEST_METHOD": "get"},
        {"PATH_INFO": "/public/admin", "QUERY_STRING": "y"},
        {"PATH_INFO": "/public/admin", "QUERY_STRING": ""},
    ],
)
def test_what_the_application_would_see_must_be_what_is_verified(
    environ: dict[str, str], live_gateway: TestGateway
) -> None:
    verifier = live_gateway.verifier(unverified_paths=["/public/admin"])
    method = environ.get("REQUEST_METHOD", "GET")
    token = signed(live_gateway, method, "/public/admin?x")
    given = {"RAW_URI": "/public/admin?x", "QUERY_STRING": "x", **environ}
    for more in ({"HTTP_COUNTERSIGN_ASSERTION": token}, {}):
        assert b"assertion-request-unclear" in call(verifier, {**given, **more})[1]


def test_bodies_without_a_known_length(live_gateway: TestGateway) -> None:
    verifier = live_gateway.verifier(require_body_binding=True)
    token = live_gateway.assertion("GET", f"https://{HOST}/", body=b"abc")
    environ = {"RAW_URI": "/", "PATH_INFO": "/", "HTTP_COUNTERSIGN_ASSERTION": token}
    stream = {"wsgi.input": io.BytesIO(b"abcdef")}
    assert call(verifier, {**environ, **stream, "CONTENT_LENGTH": "3"})[0] == "200 OK"
    for more, code in (
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, b"assertion-body-not-bound"),
        ({"CONTENT_LENGTH": "-1"}, b"assertion-request-unclear"),
        ({"CONTENT_LENGTH": "\u0663"}, b"assertion-request-unclear"),
        ({"CONTENT_LENGTH": ""}, b"assertion-body"),
    ):
        stream = {"wsgi.input": io.BytesIO(b"abcdef")}
        assert code in call(verifier, {**environ, **stream, **more})[1]
    stream = {"wsgi.input": io.BytesIO(b"abc")}
    ended = {**environ, **stream, "wsgi.input_terminated": True}
    assert call(verifier, ended)[0] == "200 OK"


def test_a_unit_test_of_a_flask_service() -> None:
    app = Flask(__name__)
    app.add_url_rule("/orders/<name>", view_func=lambda name: current_caller().sub)
    gateway = TestGateway(audience="orders", authority="localhost")
    protect(app, gateway.verifier())
    headers = gateway.headers("GET", "/orders/a%20b", sub="spiffe://shop/checkout")
    assert app.test_client().get("/orders/a%20b", headers=headers).text == "spiffe://shop/checkout"
    assert app.test_client().get("/orders/7", headers=headers).status_code == 403


def test_a_unit_test_of_a_django_service(
    keys: Path, live_gateway: TestGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYS", str(keys))
    from django.core.exceptions import ImproperlyConfigured
    from django.test import AsyncClient, Client, override_settings

    import apps.django_app  # noqa: F401

    os.environ.pop("DJANGO_SETTINGS_MODULE", None)
    gateway = TestGateway(audience="orders")
    options = {"verifier": gateway.verifier(authority="testserver"), "rebuild_target": True}
    headers = gateway.headers("GET", "/orders/7?x=1", sub="spiffe://shop/checkout")
    with override_settings(COUNTERSIGN=options):
        assert Client().get("/orders/7?x=1", headers=headers).content == b"spiffe://shop/checkout"
        assert Client().get("/orders/7", headers=headers).json()["code"] == "assertion-query"
        target = "/caf%C3%A9/%E2%82%AC"
        assert Client().get(target, headers=gateway.headers("GET", target)).status_code == 200

        async def run() -> None:
            client = AsyncClient()
            response = await client.get("/orders/7?x=1", headers=headers)
            assert response.content == b"spiffe://shop/checkout"
            assert (await client.get("/orders/7")).status_code == 401

        asyncio.run(run())
    for wrong in ({}, {"issuer": "https://g"}, {"verifier": 1}, {**options, "audience": "x"}):
        with override_settings(COUNTERSIGN=wrong), pytest.raises(ImproperlyConfigured):
            Client().get("/")
