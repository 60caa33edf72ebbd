"""Flask: the WSGI middleware around an application, and the caller in its views."""

from __future__ import annotations

from flask import Flask, request

from ._claims import Caller
from ._verifier import AssertionVerifier
from .wsgi import AssertionMiddleware, caller_of

__all__ = ["AssertionMiddleware", "current_caller", "protect"]


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
