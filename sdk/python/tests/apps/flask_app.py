"""Flask: what the tests of WSGI run in gunicorn."""

from __future__ import annotations

import os

from flask import Flask, request

from countersign_verify import AssertionVerifier
from countersign_verify.flask import current_caller, protect

KEYS = os.environ["KEYS"]
ISSUER = "https://gateway.example.org:9080"

app = Flask(__name__)


@app.route("/healthz")
def healthz() -> str:
    try:
        return f"healthz {current_caller().sub}"
    except LookupError:
        return "none"


@app.route("/", defaults={"rest": ""}, methods=["GET", "POST"])
@app.route("/<path:rest>", methods=["GET", "POST"])
def order(rest: str) -> str:
    return current_caller().sub


# Flask would answer `//orders` with a redirect.
app.url_map.merge_slashes = False
protect(
    app,
    AssertionVerifier(
        issuer=ISSUER, audience="orders", jwks_file=KEYS, unverified_paths=["/healthz"]
    ),
)

echo = Flask("echo")


@echo.post("/echo")
def send_back() -> bytes:
    return request.get_data()


protect(
    echo,
    AssertionVerifier(issuer=ISSUER, audience="orders", jwks_file=KEYS, require_body_binding=True),
)
