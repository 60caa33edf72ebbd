"""Django: a middleware for WSGI and ASGI.

    MIDDLEWARE = ["countersign_verify.django.AssertionMiddleware", …]
    COUNTERSIGN = {"issuer": "https://…", "audience": "orders", "jwks_url": "https://…"}

It must be the first middleware. `COUNTERSIGN` has the options of AssertionVerifier, or `verifier`
with one. `target_key` and `rebuild_target` are those of `wsgi.AssertionMiddleware`; Django's test
client needs the latter. `root_path` is that of `asgi.AssertionMiddleware`; in ASGI, give it also
for `FORCE_SCRIPT_NAME`, unless a proxy removes that from the path. Views call
`current_caller(request)`. With `require_body_binding`, bodies have Django's own limit,
`DATA_UPLOAD_MAX_MEMORY_SIZE`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, RequestDataTooBig
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, UnreadablePostError
from django.http.response import HttpResponseBase
from django.utils.encoding import repercent_broken_unicode

from . import asgi, wsgi
from ._claims import Caller
from ._errors import AssertionRefused, ConfigurationError
from ._problem import problem
from ._request import Received
from ._verifier import AssertionVerifier

__all__ = ["AssertionMiddleware", "current_caller"]

_CALLER = "countersign_caller"

_log = logging.getLogger("countersign_verify")

Response: TypeAlias = HttpResponseBase | Awaitable[HttpResponseBase]


class AssertionMiddleware:
    """Lets only requests with a verified assertion reach the views."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Response]) -> None:
        self._get_response = get_response
        options: dict[str, Any] = dict(getattr(settings, "COUNTERSIGN", {}))
        self._target_key: str | None = options.pop("target_key", None)
        self._rebuild_target: bool = options.pop("rebuild_target", False)
        root_path: str = options.pop("root_path", "")
        verifier = options.pop("verifier", None)
        if isinstance(verifier, AssertionVerifier) and not options:
            self._verifier = verifier
        else:
            try:
                self._verifier = AssertionVerifier(**options)
            except (ConfigurationError, TypeError) as error:
                raise ImproperlyConfigured(f"COUNTERSIGN: {error}") from error
        try:
            self._root_path = asgi.checked_root_path(root_path)
        except ConfigurationError as error:
            raise ImproperlyConfigured(f"COUNTERSIGN: {error}") from error
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Response:
        """Handle one request."""
        if self._is_async:
            return self._handle_async(request)
        try:
            received = self._received(request)
            if not self._verifier.is_unverified(received.method, received.target):
                caller = self._verifier.verify_head(*received.head())
                self._check_body(request, caller)
                self._verifier.admit(caller)
                setattr(request, _CALLER, caller)
        except AssertionRefused as refusal:
            return _refuse(request, refusal)
        return self._get_response(request)

    async def _handle_async(self, request: HttpRequest) -> HttpResponseBase:
        try:
            received = self._received(request)
            if not self._verifier.is_unverified(received.method, received.target):
                caller = await self._verifier.verify_head_async(*received.head())
                self._check_body(request, caller)
                await self._verifier.admit_async(caller)
                setattr(request, _CALLER, caller)
        except AssertionRefused as refusal:
            return _refuse(request, refusal)
        return await cast("Awaitable[HttpResponseBase]", self._get_response(request))

    def _received(self, request: HttpRequest) -> Received:
        if not isinstance(request, ASGIRequest):
            return self._received_wsgi(request)
        scope = dict(request.scope)
        if "raw_path" not in scope and self._rebuild_target:
            scope["raw_path"] = wsgi.encoded_target(scope["path"].encode("utf-8"), "")
            # Django's test client gives a text.
            if isinstance(query := scope.get("query_string"), str):
                scope["query_string"] = query.encode("utf-8")
        return asgi.received(
            scope,
            root_path=self._root_path,
            own_root_path=settings.FORCE_SCRIPT_NAME or "",
        )

    def _received_wsgi(self, request: HttpRequest) -> Received:
        # Django has replaced both members of the environment by what it decoded.
        script_name, path_info = request.META["SCRIPT_NAME"], request.path_info
        paths = {script_name + path_info}
        if path_info == "/":
            # The same as an empty path for Django.
            paths.add(script_name)
        if settings.FORCE_SCRIPT_NAME is not None:
            # For links only, if a proxy removes it: views are chosen by path_info.
            paths.add(path_info)
        return wsgi.received_for(
            request.META,
            paths,
            target_key=self._target_key,
            rebuilt_path=(script_name + path_info).encode("utf-8")
            if self._rebuild_target
            else None,
            decode=lambda raw: repercent_broken_unicode(raw).decode("utf-8"),
        )

    def _check_body(self, request: HttpRequest, caller: Caller) -> None:
        if not self._verifier.requires_body:
            return
        try:
            # Without `htb` the request is refused anyway. Django keeps the body for the view.
            body = None if caller.htb is None else request.body
        except RequestDataTooBig:
            raise AssertionRefused(
                "assertion-body-not-bound", "the request's body is too long to be verified"
            ) from None
        except UnreadablePostError:
            raise AssertionRefused("assertion-body", "the request's body is incomplete") from None
        self._verifier.check_body(caller, body)


def current_caller(request: HttpRequest) -> Caller:
    """Return the verified caller of a request.

    Raise LookupError on one of the `unverified_paths`, and if the middleware is missing.
    """
    caller = getattr(request, _CALLER, None)
    if not isinstance(caller, Caller):
        raise LookupError("the request has no verified caller")
    return caller


def _refuse(request: HttpRequest, refusal: AssertionRefused) -> HttpResponse:
    _log.info("refused: %s", refusal)
    status, headers, body = problem(refusal)
    response = HttpResponse(b"" if request.method == "HEAD" else body, status=status)
    for name, value in headers:
        response[name] = value
    return response
