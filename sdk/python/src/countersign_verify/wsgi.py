"""WSGI: a middleware for Flask, Django and every other WSGI application.

WSGI has no member for the undecoded target. gunicorn gives `RAW_URI`, uWSGI `REQUEST_URI`,
Werkzeug's server both. With other servers all requests are refused, unless
`target_key` names the member, or `rebuild_target` allows to encode the decoded path again.

Applications route on PATH_INFO. SCRIPT_NAME and PATH_INFO together must be the decoded path of that
target, and must not come from fields of the request (`Script-Name`), as gunicorn allows to loopback
peers. QUERY_STRING must be the query of that target. Servers that merge slashes or rewrite paths
are therefore refused.

WSGI servers join repeated fields with a comma. Such a value does not verify.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Collection, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from ._claims import Caller
from ._errors import AssertionRefused
from ._problem import problem
from ._request import HEADER, NO_TARGET, Received, check_method, check_path
from ._verifier import AssertionVerifier

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["AssertionMiddleware", "caller_of"]

_CALLER: Final = "countersign.caller"
_ASSERTION: Final = "HTTP_" + HEADER.upper().replace("-", "_")
_TARGET_KEYS: Final = ("RAW_URI", "REQUEST_URI")
# gunicorn removes the value of a field SCRIPT_NAME from the path, if the peer is a trusted proxy.
_PATH_FIELDS: Final = ("HTTP_SCRIPT_NAME", "HTTP_PATH_INFO")
# Characters of a path that need no percent encoding (RFC 3986 section 3.3).
_PATH_CHARACTERS: Final = "/!$&'()*+,;=:@~"
_OTHER_QUERY: Final = "the query that the application sees is not the one that was received"
DEFAULT_MAX_BODY: Final = 1024 * 1024

_log = logging.getLogger("countersign_verify")


class AssertionMiddleware:
    """Lets only requests with a verified assertion reach the application.

    Refused requests get problem details. It must be the outermost middleware.

    target_key: the member of the environment with the undecoded target, if it is neither RAW_URI
        nor REQUEST_URI. It must come from the server, never from a header field.
    rebuild_target: for servers without such a member, and for Django's test client: encode
        PATH_INFO again. Targets with unusual encoding (`%37`, `%2F`, a lone `?`) are then refused.
    max_body: the longest body in bytes, if the verifier requires body binding.
    """

    def __init__(
        self,
        app: WSGIApplication,
        verifier: AssertionVerifier,
        *,
        target_key: str | None = None,
        rebuild_target: bool = False,
        max_body: int = DEFAULT_MAX_BODY,
    ) -> None:
        self._app = app
        self._verifier = verifier
        self._target_key = target_key
        self._rebuild_target = rebuild_target
        self._max_body = max_body

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Handle one request."""
        try:
            self._check(environ)
        except AssertionRefused as refusal:
            _log.info("refused: %s", refusal)
            status, headers, body = problem(refusal)
            start_response(f"{status} {HTTPStatus(status).phrase}", headers)
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
        return self._app(environ, start_response)

    def _check(self, environ: WSGIEnvironment) -> None:
        """Put the caller into the environment, or raise AssertionRefused."""
        # Nothing but this middleware sets the caller.
        environ.pop(_CALLER, None)
        request = received(
            environ, target_key=self._target_key, rebuild_target=self._rebuild_target
        )
        if self._verifier.is_unverified(request.method, request.target):
            return
        caller = self._verifier.verify_head(*request.head())
        if self._verifier.requires_body:
            # Without `htb` the request is refused anyway.
            body = None if caller.htb is None else _body(environ, self._max_body)
            self._verifier.check_body(caller, body)
        self._verifier.admit(caller)
        environ[_CALLER] = caller


def caller_of(environ: dict[str, Any]) -> Caller:
    """Return the caller of a WSGI environment.

    Raise LookupError if there is none: the path is one of `unverified_paths`, or the middleware is
    missing.
    """
    caller = environ.get(_CALLER)
    if not isinstance(caller, Caller):
        raise LookupError("the request has no verified caller")
    return caller


def received(environ: WSGIEnvironment, *, target_key: str | None, rebuild_target: bool) -> Received:
    """Read what is verified from an environment."""
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return received_for(
        environ,
        (path,),
        target_key=target_key,
        rebuilt_path=path.encode("latin-1") if rebuild_target else None,
        decode=lambda raw: raw.decode("latin-1"),
    )


def received_for(
    environ: WSGIEnvironment,
    paths: Collection[str],
    *,
    target_key: str | None,
    rebuilt_path: bytes | None,
    decode: Callable[[bytes], str],
) -> Received:
    """Read what is verified from an environment whose application sees one of `paths`.

    `rebuilt_path` is used if the server gives no target.
    """
    keys = _TARGET_KEYS if target_key is None else (target_key,)
    targets = {str(environ[key]) for key in keys if key in environ}
    if len(targets) == 1:
        target = targets.pop().encode("latin-1", "replace")
        is_rebuilt = False
    elif targets or rebuilt_path is None:
        raise AssertionRefused("assertion-request-unclear", NO_TARGET)
    else:
        target = encoded_target(rebuilt_path, environ.get("QUERY_STRING", ""))
        is_rebuilt = True
    check_method(environ["REQUEST_METHOD"])
    if any(name in environ for name in _PATH_FIELDS):
        raise AssertionRefused(
            "assertion-request-unclear", "the request has a field that can change its path"
        )
    # A mount ends where a segment does: `/app` is not the mount of `/apple`.
    if environ.get("PATH_INFO", "")[:1] not in ("", "/"):
        raise AssertionRefused("assertion-request-unclear")
    check_path(target, paths, decode)
    # Servers parse it in their own way: gunicorn leaves out tabs.
    if environ.get("QUERY_STRING", "").encode("latin-1", "replace") != target.partition(b"?")[2]:
        raise AssertionRefused("assertion-request-unclear", _OTHER_QUERY)
    return Received(
        method=environ["REQUEST_METHOD"],
        target=target,
        hosts=_values(environ, "HTTP_HOST"),
        assertions=_values(environ, _ASSERTION),
        question_mark_may_be_lost=is_rebuilt,
    )


def encoded_target(path: bytes, query: str) -> bytes:
    """Encode a decoded path again. An unusual original encoding is lost."""
    target = quote(path, safe=_PATH_CHARACTERS)
    return (f"{target}?{query}" if query else target).encode("latin-1", "replace")


def _values(environ: WSGIEnvironment, name: str) -> list[str]:
    return [environ[name]] if name in environ else []


def _body(environ: WSGIEnvironment, max_body: int) -> bytes:
    """Return the whole body, and leave a copy for the application."""
    length = environ.get("CONTENT_LENGTH") or ""
    if length:
        if not (length.isascii() and length.isdigit()):
            raise AssertionRefused("assertion-request-unclear")
        limit = int(length)
    elif environ.get("wsgi.input_terminated"):
        limit = max_body + 1
    elif environ.get("HTTP_TRANSFER_ENCODING"):
        # Reading could wait forever, because the stream has no end.
        raise AssertionRefused("assertion-body-not-bound", "the request's body has no length")
    else:
        limit = 0
    body = _read(environ["wsgi.input"], min(limit, max_body + 1))
    if len(body) > max_body:
        raise AssertionRefused(
            "assertion-body-not-bound", "the request's body is too long to be verified"
        )
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def _read(stream: Any, limit: int) -> bytes:  # noqa: ANN401 - WSGI names no type
    parts: list[bytes] = []
    while limit > 0:
        part: bytes = stream.read(min(limit, 64 * 1024))
        if not part:
            break
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)
