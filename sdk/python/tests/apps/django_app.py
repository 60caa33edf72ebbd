"""Django: what the tests run in gunicorn (WSGI) and uvicorn (ASGI)."""

from __future__ import annotations

import os

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import re_path

from countersign_verify.django import current_caller

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="none",
        MIDDLEWARE=["countersign_verify.django.AssertionMiddleware"],
        FORCE_SCRIPT_NAME=os.environ.get("FORCE_SCRIPT_NAME"),
        DATA_UPLOAD_MAX_MEMORY_SIZE=1024 * 1024,
        COUNTERSIGN={
            "issuer": "https://gateway.example.org:9080",
            "audience": "orders",
            "jwks_file": os.environ["KEYS"],
            "unverified_paths": ["/healthz"],
            "require_body_binding": "BODIES" in os.environ,
            "root_path": os.environ.get("ROOT_PATH", ""),
        },
    )
    django.setup()


def healthz(request: HttpRequest) -> HttpResponse:
    try:
        return HttpResponse(f"healthz {current_caller(request).sub}")
    except LookupError:
        return HttpResponse("none")


def echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.body)


def order(request: HttpRequest) -> HttpResponse:
    return HttpResponse(current_caller(request).sub)


urlpatterns = [
    re_path(r"^healthz$", healthz),
    re_path(r"^echo$", echo),
    re_path(r"(?s)^.*$", order),
]

application = get_wsgi_application()
asgi_application = get_asgi_application()
