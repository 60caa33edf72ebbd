"""Flask: the WSGI middleware around an application, and the caller in its views."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Flask, request

from . import wsgi
from ._claims import Caller
from ._errors import AssertionRefused
from ._verifier import AssertionVerifier
from .wsgi import caller_of

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["AssertionMiddleware", "current_caller", "protect"]


class AssertionMiddleware(wsgi.AssertionMiddleware):
    """The middleware of `countersign_verify.wsgi`, for Flask."""

    def _check(self, environ: WSGIEnvironment) -> None:
        # Werkzeug routes `//orders` as `/orders`, whatever `merge_slashes` is.
        if environ.get("PATH_INFO", "").startswith("//"):
            raise AssertionRefused("assertion-request-unclear")
        super()._check(environ)


def protect(
    app: Flask,
    verifier: AssertionVerifier,
    *,
    target_key: str | None = None,
    rebuild_target: bool = False,
) -> None:
    """Verify all requests of an application. Call it after all other WSGI middleware was added.

    The options are those of `wsgi.AssertionMiddleware`.
    """
    app.wsgi_app = AssertionMiddleware(  # type: ignore[method-assign]
        app.wsgi_app, verifier, target_key=target_key, rebuild_target=rebuild_target
    )


def current_caller() -> Caller:
    """Return the verified caller of the current request.

    Raise LookupError on one of the `unverified_paths`, and if the application is not protected.
    """
    return caller_of(request.environ)
