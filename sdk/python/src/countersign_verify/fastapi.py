"""FastAPI: the ASGI middleware, and the caller as a parameter of path operations."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.requests import HTTPConnection

from . import asgi
from ._claims import Caller
from ._verifier import AssertionVerifier
from .asgi import caller_of

__all__ = ["AssertionMiddleware", "CurrentCaller", "current_caller"]


class AssertionMiddleware(asgi.AssertionMiddleware):
    """The middleware of `countersign_verify.asgi`, which also knows `FastAPI(root_path=…)`.

    Around such an application, give the same `root_path` if the paths of requests begin with it.
    Without it, a proxy must have removed it: paths that begin with it are refused.
    """

    def __init__(
        self,
        app: asgi.ASGIApp,
        verifier: AssertionVerifier,
        *,
        root_path: str = "",
        max_body: int = asgi.DEFAULT_MAX_BODY,
    ) -> None:
        super().__init__(app, verifier, root_path=root_path, max_body=max_body)
        if isinstance(app, FastAPI):
            # FastAPI has deprecated it.
            self._own_root_path = getattr(app, "root_path", "")


def current_caller(connection: HTTPConnection) -> Caller:
    """Return the verified caller, as a dependency.

    Raise LookupError on one of the `unverified_paths`, and if the middleware is missing.
    """
    return caller_of(connection)


CurrentCaller = Annotated[Caller, Depends(current_caller)]
