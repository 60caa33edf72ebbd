"""ASGI: a middleware for Starlette, FastAPI and every other ASGI application.

It needs the server's `raw_path`, which uvicorn and hypercorn give. ASGI does not
show whether an empty query had a `?`: an assertion for such a target (`/orders?`) is refused.
Applications route on `path`. It must be the decoded `raw_path`, and `root_path` must be the
configured one: Daphne takes it from a field of the request. Frameworks remove it from `path`.

Event loops other than asyncio's (trio) are not supported.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ._claims import Caller
from ._errors import AssertionRefused, ConfigurationError
from ._problem import problem
from ._request import HEADER_LOWERCASE, NO_TARGET, Received, check_method, check_path
from ._verifier import AssertionVerifier

__all__ = ["AssertionMiddleware", "caller_of"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_CALLER = "countersign.caller"
# Bodies are kept in memory while their hash is computed, if the verifier requires body binding.
DEFAULT_MAX_BODY = 1024 * 1024

_OTHER_ROOT_PATH = "the request's root path is not the configured one"

_log = logging.getLogger("countersign_verify")


class AssertionMiddleware:
    """Lets only requests with a verified assertion reach the application.

    Refused requests get problem details; refused WebSocket connections are not accepted. Add it
    last, so that it is the outermost middleware.

    root_path: the one that the server is started with (`--root-path`), or that of FastAPI if the
        middleware is inside. Requests with another one are refused, and so are paths that do not
        begin with it. Starlette's own mounts are recognized.
    max_body: the longest body in bytes, if the verifier requires body binding.
    """

    def __init__(
        self,
        app: ASGIApp,
        verifier: AssertionVerifier,
        *,
        root_path: str = "",
        max_body: int = DEFAULT_MAX_BODY,
    ) -> None:
        self._app = app
        self._verifier = verifier
        self._root_path = checked_root_path(root_path)
        # Of a framework that replaces the server's.
        self._own_root_path = ""
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection or request."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._app(scope, receive, send)
            return
        if kind not in ("http", "websocket"):
            # Nothing unknown passes without a check.
            raise RuntimeError(f"ASGI connections of type {kind!r} cannot be verified")
        # Nothing but this middleware sets the caller.
        scope = {name: value for name, value in scope.items() if name != _CALLER}
        try:
            caller, receive = await self._check(scope, receive)
        except AssertionRefused as refusal:
            _log.info("refused: %s", refusal)
            await _refuse(scope, send, refusal)
            return
        if caller is not None:
            scope[_CALLER] = caller
        # Outside of the `try`: exceptions of the application are its own.
        await self._app(scope, receive, send)

    async def _check(self, scope: Scope, receive: Receive) -> tuple[Caller | None, Receive]:
        """Return the caller, None on an unverified path, and the application's `receive`."""
        request = received(scope, root_path=self._root_path, own_root_path=self._own_root_path)
        kind = scope["type"]
        if kind == "http" and self._verifier.is_unverified(request.method, request.target):
            return None, receive
        caller = await self._verifier.verify_head_async(*request.head())
        if self._verifier.requires_body:
            body, receive = await self._body(kind, caller, receive)
            self._verifier.check_body(caller, body)
        await self._verifier.admit_async(caller)
        return caller, receive

    async def _body(
        self, kind: str, caller: Caller, receive: Receive
    ) -> tuple[bytes | None, Receive]:
        """Return the whole body, and a `receive` that gives it to the application again."""
        # Without `htb` the request is refused anyway. A WebSocket handshake has no body.
        if caller.htb is None:
            return None, receive
        if kind == "websocket":
            return b"", receive
        parts: list[bytes] = []
        length = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise AssertionRefused("assertion-body", "the request's body is incomplete")
            part: bytes = message.get("body", b"")
            length += len(part)
            if length > self._max_body:
                raise AssertionRefused(
                    "assertion-body-not-bound", "the request's body is too long to be verified"
                )
            parts.append(part)
            if not message.get("more_body", False):
                break
        body = b"".join(parts)
        is_given = False

        async def receive_again() -> Message:
            nonlocal is_given
            if is_given:
                return await receive()
            is_given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return body, receive_again


def caller_of(connection: Any) -> Caller:  # noqa: ANN401 - a scope, or what wraps one
    """Return the caller of a scope, or of a Starlette request or WebSocket.

    Raise LookupError if there is none: the path is one of `unverified_paths`, or the middleware is
    missing.
    """
    scope = connection if isinstance(connection, dict) else connection.scope
    caller = scope.get(_CALLER)
    if not isinstance(caller, Caller):
        raise LookupError("the request has no verified caller")
    return caller


def checked_root_path(root_path: str) -> str:
    """Return a root path, or raise ConfigurationError."""
    if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
        raise ConfigurationError("the root path must begin with `/` and not end with it")
    return root_path


def received(scope: Scope, *, root_path: str, own_root_path: str = "") -> Received:
    """Read what is verified from a scope.

    `own_root_path` is what the framework uses instead of the server's root path.
    """
    _check_root_path(scope, root_path, own_root_path)
    raw_path, query = scope.get("raw_path"), scope.get("query_string", b"")
    if not isinstance(raw_path, bytes) or not isinstance(query, bytes):
        raise AssertionRefused("assertion-request-unclear", NO_TARGET)
    path, question_mark, rest = raw_path.partition(b"?")
    # Older test clients of Starlette add the query to the raw path, against the specification.
    if question_mark and rest != query:
        raise AssertionRefused("assertion-request-unclear", NO_TARGET)
    method = scope["method"] if scope["type"] == "http" else _handshake_method(scope)
    check_method(method)
    # Servers decode like this, also what is no UTF-8.
    check_path(raw_path, (scope["path"],), lambda raw: raw.decode("utf-8", "replace"))
    return Received(
        method=method,
        target=path + b"?" + query if query or question_mark else path,
        hosts=_values(scope, b"host"),
        assertions=_values(scope, HEADER_LOWERCASE.encode("ascii")),
        question_mark_may_be_lost=True,
    )


def _handshake_method(scope: Scope) -> str:
    # RFC 8441: from HTTP/2 on, the handshake of a WebSocket connection is an extended CONNECT.
    return "GET" if scope.get("http_version", "1.1").startswith("1") else "CONNECT"


def _check_root_path(scope: Scope, root_path: str, own_root_path: str) -> None:
    """Refuse other root paths, and the second path of a route.

    Frameworks remove the root path from paths that begin with it and route others as they are:
    `/api/orders` and `/orders` are then one route, but two paths in the gateway's policy.
    """
    path: str = scope["path"]
    if own_root_path and not root_path:
        # For links only: a proxy has removed it from the path.
        if path.startswith(own_root_path):
            raise AssertionRefused("assertion-request-unclear", _OTHER_ROOT_PATH)
        return
    # Starlette's mounts add to `root_path`, and keep the server's in `app_root_path`.
    given = own_root_path or scope.get("app_root_path", scope.get("root_path")) or ""
    is_below = not root_path or f"{path}/".startswith(f"{root_path}/")
    if given != root_path or not is_below:
        raise AssertionRefused("assertion-request-unclear", _OTHER_ROOT_PATH)


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for field, value in scope["headers"] if field.lower() == name]


async def _refuse(scope: Scope, send: Send, refusal: AssertionRefused) -> None:
    status, fields, body = problem(refusal)
    headers = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in fields]
    if scope["type"] == "http":
        prefix = "http.response"
    elif "websocket.http.response" in (scope.get("extensions") or {}):
        prefix = "websocket.http.response"
    else:
        # The server then answers with status 403.
        await send({"type": "websocket.close", "code": 1008, "reason": refusal.code})
        return
    is_head = scope.get("method") == "HEAD"
    await send({"type": f"{prefix}.start", "status": status, "headers": headers})
    await send({"type": f"{prefix}.body", "body": b"" if is_head else body})
