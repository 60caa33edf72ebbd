"""FastAPI: the ASGI middleware, and the caller as a parameter of path operations."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection

from ._claims import Caller
from .asgi import AssertionMiddleware, caller_of

__all__ = ["AssertionMiddleware", "CurrentCaller", "current_caller"]


def current_caller(connection: HTTPConnection) -> Caller:
    """Return the verified caller, as a dependency.

    Raise LookupError on one of the `unverified_paths`, and if the middleware is missing.
    """
    return caller_of(connection)


CurrentCaller = Annotated[Caller, Depends(current_caller)]
