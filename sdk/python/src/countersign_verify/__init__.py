"""Verifies Countersign identity assertions: who called, for exactly this request.

`AssertionVerifier` applies all rules. The modules `asgi`, `fastapi`, `wsgi`, `flask`, `django` and
`grpc` connect it to frameworks. `testing` is for the tests of services.
"""

from ._claims import (
    Authentication,
    Caller,
    ClientCertificate,
    Revocation,
    SubjectAlternativeNames,
    TokenClaims,
)
from ._errors import AssertionRefused, ConfigurationError, KeysUnavailable
from ._jws import MAX_ASSERTION
from ._replay import InProcessReplayStore, ReplayStore
from ._request import HEADER, RequestParts, only_assertion
from ._verifier import DEFAULT_SKEW, MAX_LIFETIME, MAX_SKEW, AssertionVerifier

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_SKEW",
    "HEADER",
    "MAX_ASSERTION",
    "MAX_LIFETIME",
    "MAX_SKEW",
    "AssertionRefused",
    "AssertionVerifier",
    "Authentication",
    "Caller",
    "ClientCertificate",
    "ConfigurationError",
    "InProcessReplayStore",
    "KeysUnavailable",
    "ReplayStore",
    "RequestParts",
    "Revocation",
    "SubjectAlternativeNames",
    "TokenClaims",
    "only_assertion",
]
