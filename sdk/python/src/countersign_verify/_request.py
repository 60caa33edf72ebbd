"""The parts of a received request to which assertions are bound.

Nothing is decoded, normalized or lower-cased: the gateway signs bytes, and the service compares
bytes. Header fields about other hops (`X-Forwarded-…`, `Forwarded`) are never read. A service
behind another proxy configures its authority and prefix on the verifier.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from ._errors import AssertionRefused
from ._jws import base64url_encode

HEADER: Final = "Countersign-Assertion"
HEADER_LOWERCASE: Final = "countersign-assertion"

NO_TARGET: Final = "the server does not tell the request's target as it was received"
_OTHER_PATH: Final = "the path that the application sees is not the one that was received"
_OTHER_METHOD: Final = "the method that the application sees is not the one that was received"


class RequestParts:
    """Method, authority, path and query of one request, as received.

    `hosts` are the values of all `Host` fields, or the one `:authority` of HTTP/2. `target` is the
    undecoded request target in origin form, `/path?query`. A str is encoded as UTF-8, so give
    bytes if the target may have other ones.

    Raise AssertionRefused (`assertion-request-unclear`) if the target is not a path with an
    optional query.
    """

    __slots__ = ("authority", "method", "path", "query", "question_mark_may_be_lost")

    def __init__(
        self,
        method: str,
        hosts: str | Sequence[str | bytes],
        target: str | bytes,
        *,
        question_mark_may_be_lost: bool = False,
    ) -> None:
        octets = target if isinstance(target, bytes) else target.encode("utf-8", "surrogatepass")
        if not octets.startswith(b"/") or b"#" in octets:
            raise AssertionRefused("assertion-request-unclear")
        path, question_mark, query = octets.partition(b"?")
        self.method = method
        self.path = path
        # None without a `?`, empty if nothing follows it.
        self.query = query if question_mark else None
        # None if it is unclear: no field, several, or no text.
        self.authority = _only_host([hosts] if isinstance(hosts, str) else hosts)
        self.question_mark_may_be_lost = question_mark_may_be_lost

    def __repr__(self) -> str:
        """Show no query, because it may contain secrets that do not belong in logs."""
        return f"RequestParts({self.method!r}, {self.authority!r}, {self.path!r})"


@dataclass(frozen=True, slots=True, repr=False)
class Received:
    """What an adapter reads from its server: the same for all HTTP frameworks."""

    method: str
    target: bytes
    hosts: Sequence[str | bytes]
    assertions: Sequence[str | bytes]
    question_mark_may_be_lost: bool

    def head(self) -> tuple[str, RequestParts]:
        """Return the assertion and what it is compared with, or raise AssertionRefused."""
        return only_assertion(self.assertions), RequestParts(
            self.method,
            self.hosts,
            self.target,
            question_mark_may_be_lost=self.question_mark_may_be_lost,
        )


def check_path(target: bytes, seen: Collection[str], decode: Callable[[bytes], str]) -> None:
    """Refuse a request whose application routes on another path than the one that is verified.

    Servers can be told to do so, some of them by fields of the request. `seen` are the paths that
    the application may route on, decoded with `decode`.
    """
    path = decode(unquote_to_bytes(target.partition(b"?")[0]))
    # `$` in a regular expression also matches before a line feed at the end: Starlette would take
    # `/orders%0A` for `/orders`.
    if path not in seen or path.endswith("\n"):
        raise AssertionRefused("assertion-request-unclear", _OTHER_PATH)


def check_method(method: str) -> None:
    """Refuse a method that applications may regard as another one.

    Methods are case-sensitive, but Django and Flask regard `get` as `GET`. ASGI requires capitals.
    """
    if method != method.upper():
        raise AssertionRefused("assertion-request-unclear", _OTHER_METHOD)


def _only_host(hosts: Sequence[str | bytes]) -> str | None:
    if len(hosts) != 1:
        return None
    host = hosts[0] if isinstance(hosts[0], str) else hosts[0].decode("latin-1")
    # WSGI servers join repeated fields with a comma. No host contains one.
    return host if host.isascii() and host.isprintable() and "," not in host else None


def only_assertion(values: Iterable[str | bytes]) -> str:
    """Return the only field value that may contain an assertion.

    `values` are the values of all `Countersign-Assertion` fields of the request, as received.
    Several assertions in one value are no compact JWS, and are refused later.
    """
    lines = list(values)
    if not lines:
        raise AssertionRefused("assertion-missing")
    if len(lines) > 1:
        raise AssertionRefused("assertion-duplicate")
    value = lines[0]
    # Characters that are no ASCII stay some, so that the parser refuses them.
    return value if isinstance(value, str) else value.decode("latin-1")


def split_url(url: str) -> tuple[str, str] | None:
    """Return the authority and path of an `htu` claim. The scheme is ignored."""
    _, separator, rest = url.partition("://")
    if not separator or "?" in rest or "#" in rest:
        return None
    authority, slash, path = rest.partition("/")
    return (authority, slash + path) if authority and slash else None


def sha256(octets: bytes) -> str:
    """Return the base64url SHA-256, as in `htq` and `htb`."""
    return base64url_encode(hashlib.sha256(octets).digest())


def equal(claim: str, computed: str) -> bool:
    """Compare a hash of the assertion with that of the request in constant time."""
    return hmac.compare_digest(claim.encode("utf-8"), computed.encode("utf-8"))
