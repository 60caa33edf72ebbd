"""Problem details (RFC 9457) for refused requests."""

from __future__ import annotations

import json
from http import HTTPStatus

from ._errors import AssertionRefused


def problem(refusal: AssertionRefused) -> tuple[int, list[tuple[str, str]], bytes]:
    """Return status, header fields and body of the response to a refused request."""
    body = json.dumps(
        {
            "type": "about:blank",
            "title": HTTPStatus(refusal.status).phrase,
            "status": refusal.status,
            "code": refusal.code,
            "detail": refusal.detail,
        }
    ).encode("utf-8")
    headers = [
        ("Content-Type", "application/problem+json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        # RFC 9110 section 15.5.2: a 401 must name a scheme. Only the gateway can satisfy this one.
        headers.append(("WWW-Authenticate", "Countersign"))
    return refusal.status, headers, body
