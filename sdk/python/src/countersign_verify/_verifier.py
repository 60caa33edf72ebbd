"""Verifies an assertion against the request that contains it.

The order is: form, type, key, signature, issuer and audience, time, binding, body, replay. The
payload is not read before the signature was verified. The service decides what the caller may do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

from . import _jws
from ._claims import Caller, caller_from
from ._errors import AssertionRefused, ConfigurationError, KeysUnavailable
from ._json import StrictJsonError, parse_object
from ._key_cache import FileKeys, FixedKeys, KeySource, RemoteKeys
from ._keys import KeySet, KeySetError
from ._replay import ReplayStore
from ._request import RequestParts, equal, sha256, split_url

MAX_SKEW: Final = 30
DEFAULT_SKEW: Final = 10
MAX_LIFETIME: Final = 300


class AssertionVerifier:
    """Verifies assertions of one gateway for one service.

    It may be shared by all threads and event loops of a process. Nothing is fetched before the
    first request, unless `fetch_keys` is called.

    issuer: the gateway, compared exactly with `iss`.
    audience: this service, compared exactly with `aud`.
    jwks_url, jwks_file, keys: exactly one of them. The URL of the gateway's key set, usually
        `ISSUER/.well-known/jwks.json`; a file with it, which is read again when it changes; or the
        set itself, as JSON text or dict.
    ca_file: PEM file with the root certificates for jwks_url, for gateways with a private
        authority. By default those of the system.
    authority: what the gateway sends as `Host`. Needed if a proxy between gateway and service
        changes it. The request's own is then ignored.
    path_prefix: what such a proxy removes from the path: `/api` if the gateway sends `/api/orders`
        and this service receives `/orders`.
    skew: allowed difference of the clocks in seconds, at most 30.
    replay_store: accepts each request-bound assertion only once.
    unverified_paths: exact raw paths that GET and HEAD may use without an assertion, for health
        probes. Handlers then see no caller. For the adapters only.
    allow_caller_binding: also accept assertions that are not bound to a request. If such an
        assertion is stolen, it can be used for any request until it expires.
    require_body_binding: accept only assertions with `htb`, and compare the body. The adapters
        then read the whole body before the handler runs.
    clock: returns the seconds since 1970, for tests.
    """

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        jwks_url: str | None = None,
        jwks_file: str | Path | None = None,
        keys: KeySet | Mapping[str, Any] | str | bytes | None = None,
        ca_file: str | Path | None = None,
        authority: str | None = None,
        path_prefix: str | None = None,
        skew: int = DEFAULT_SKEW,
        replay_store: ReplayStore | None = None,
        unverified_paths: Collection[str] = (),
        allow_caller_binding: bool = False,
        require_body_binding: bool = False,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._clock = _system_clock if clock is None else clock
        self._issuer = _text("issuer", issuer)
        self._audience = _text("audience", audience)
        self._authority = _checked_authority(authority)
        self._path_prefix = _checked_prefix(path_prefix or "")
        self._skew = _checked_skew(skew)
        self._replay_store = replay_store
        self._unverified_paths = _checked_paths(unverified_paths)
        self._allow_caller_binding = allow_caller_binding
        self._require_body_binding = require_body_binding
        self._keys = self._key_source(jwks_url, jwks_file, keys, ca_file)

    @property
    def audience(self) -> str:
        """This service's audience."""
        return self._audience

    @property
    def authority(self) -> str | None:
        """The configured authority."""
        return self._authority

    @property
    def requires_body(self) -> bool:
        """Whether the body is needed for verifying."""
        return self._require_body_binding

    def verify(self, assertion: str, request: RequestParts, *, body: bytes | None = None) -> Caller:
        """Verify an assertion for a request. May block for at most 5 seconds to fetch keys.

        With `body`, `htb` is compared if it is present. Raise AssertionRefused with the first rule
        that is broken.
        """
        caller = self.verify_head(assertion, request)
        self.check_body(caller, body)
        self.admit(caller)
        return caller

    async def verify_async(
        self, assertion: str, request: RequestParts, *, body: bytes | None = None
    ) -> Caller:
        """Do the same without blocking the event loop."""
        caller = await self.verify_head_async(assertion, request)
        self.check_body(caller, body)
        await self.admit_async(caller)
        return caller

    def fetch_keys(self) -> None:
        """Fetch the keys now, so that the first request need not wait.

        Raise KeysUnavailable if that fails. The verifier stays usable and tries again.
        """
        self._keys.fetch_now()

    async def fetch_keys_async(self) -> None:
        """Do the same without blocking the event loop."""
        await self._keys.fetch_now_async()

    def close(self) -> None:
        """End the background refresh of the keys."""
        self._keys.close()

    # For adapters, which read a body only after the head was verified. All three steps are needed,
    # in this order.

    def verify_head(self, assertion: str, request: RequestParts) -> Caller:
        """Check everything but the body and the replay store."""
        jws = _jws.parse(assertion)
        try:
            keys = self._keys.for_key(jws.header.key_id)
        except KeysUnavailable as error:
            raise error.refusal() from None
        return self._caller(jws, keys, request)

    async def verify_head_async(self, assertion: str, request: RequestParts) -> Caller:
        """Do the same without blocking the event loop."""
        jws = _jws.parse(assertion)
        try:
            keys = await self._keys.for_key_async(jws.header.key_id)
        except KeysUnavailable as error:
            raise error.refusal() from None
        return self._caller(jws, keys, request)

    def check_body(self, caller: Caller, body: bytes | None) -> None:
        """Compare the body with `htb`, if both are present or if that is required."""
        if caller.htb is not None and body is not None:
            if not equal(caller.htb, sha256(body)):
                raise AssertionRefused("assertion-body")
        elif self._require_body_binding:
            raise AssertionRefused("assertion-body-not-bound")

    def admit(self, caller: Caller) -> None:
        """Use up the assertion. Last, so that a refused assertion is not used up."""
        if self._replay_store is not None and caller.jti is not None:
            self._replay_store.admit(caller.jti, caller.exp + self._skew, self._clock())

    async def admit_async(self, caller: Caller) -> None:
        """Do the same without blocking the event loop."""
        if self._replay_store is not None and caller.jti is not None:
            await self._replay_store.admit_async(caller.jti, caller.exp + self._skew, self._clock())

    def is_unverified(self, method: str, target: bytes) -> bool:
        """Return whether a request needs no assertion, by its method and raw target."""
        return method in ("GET", "HEAD") and target.partition(b"?")[0] in self._unverified_paths

    def __repr__(self) -> str:
        return f"AssertionVerifier(issuer={self._issuer!r}, audience={self._audience!r})"

    def _key_source(
        self,
        jwks_url: str | None,
        jwks_file: str | Path | None,
        keys: KeySet | Mapping[str, Any] | str | bytes | None,
        ca_file: str | Path | None,
    ) -> KeySource:
        given = sum(source is not None for source in (jwks_url, jwks_file, keys))
        if given != 1:
            raise ConfigurationError("give exactly one of jwks_url, jwks_file and keys")
        if jwks_url is not None:
            return RemoteKeys(jwks_url, ca_file, self._clock)
        if ca_file is not None:
            raise ConfigurationError("ca_file is for jwks_url only")
        if jwks_file is not None:
            return FileKeys(jwks_file, self._clock)
        assert keys is not None  # noqa: S101 - counted above
        try:
            return FixedKeys(KeySet.from_value(keys))
        except KeySetError as error:
            raise ConfigurationError(f"the key set is not usable: {error}") from None

    def _caller(self, jws: _jws.CompactJws, keys: KeySet, request: RequestParts) -> Caller:
        payload = keys.verify(jws)
        try:
            claims = parse_object(payload, "payload")
        except StrictJsonError as error:
            raise AssertionRefused(
                "assertion-malformed", f"the assertion is malformed: {error}"
            ) from None
        caller = caller_from(claims)
        if caller.iss != self._issuer:
            raise AssertionRefused("assertion-issuer")
        if caller.aud != self._audience:
            raise AssertionRefused("assertion-audience")
        self._check_time(caller)
        self._check_binding(caller)
        if caller.htm is not None and caller.htu is not None:
            self._check_request(caller.htm, caller.htu, caller.htq, request)
        return caller

    def _check_time(self, caller: Caller) -> None:
        if not 1 <= caller.exp - caller.iat <= MAX_LIFETIME:
            raise AssertionRefused("assertion-lifetime")
        now = self._clock()
        if caller.iat > now + self._skew:
            raise AssertionRefused("assertion-not-yet-valid")
        # RFC 7519 section 4.1.4: "on or after" `exp` is too late.
        if now >= caller.exp + self._skew:
            raise AssertionRefused("assertion-expired")

    def _check_binding(self, caller: Caller) -> None:
        if caller.is_request_bound:
            return
        bound = (caller.htm, caller.htu, caller.jti, caller.htq, caller.htb, caller.txn)
        if any(claim is not None for claim in bound):
            raise AssertionRefused("assertion-partial-binding")
        if not self._allow_caller_binding:
            raise AssertionRefused("assertion-not-request-bound")

    def _check_request(
        self, method: str, url: str, query_hash: str | None, request: RequestParts
    ) -> None:
        """Compare byte by byte, without decoding.

        The scheme is ignored, because a service cannot know how its caller reached the gateway.
        """
        split = split_url(url)
        if split is None:
            raise AssertionRefused("assertion-claims")
        authority, path = split
        if method != request.method:
            raise AssertionRefused("assertion-method")
        expected = request.authority if self._authority is None else self._authority
        if expected is None:
            raise AssertionRefused("assertion-request-unclear")
        if authority != expected:
            raise AssertionRefused("assertion-authority")
        # Comparing with the prefix in front is the same as removing it from the claim.
        if path.encode("utf-8") != self._path_prefix.encode("utf-8") + request.path:
            raise AssertionRefused("assertion-path")
        if query_hash is None or request.query is None:
            matches = query_hash is None and request.query is None
        else:
            matches = equal(query_hash, sha256(request.query))
        if not matches:
            if request.question_mark_may_be_lost and query_hash == sha256(b""):
                raise AssertionRefused(
                    "assertion-query",
                    "the assertion is for a target that ends with `?`, which this server does not"
                    " show to applications",
                )
            raise AssertionRefused("assertion-query")


def _system_clock() -> int:
    return int(time.time())


def _text(name: str, value: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"no {name}: it must be a text that is not empty")
    return value


def _checked_authority(authority: str | None) -> str | None:
    if authority is not None and (not authority or any(c in authority for c in "/?#@ ")):
        raise ConfigurationError("the authority must be as in a Host field: `name` or `name:port`")
    return authority


def _checked_prefix(prefix: str) -> str:
    if prefix and (
        not prefix.startswith("/") or prefix.endswith("/") or any(c in prefix for c in "?#")
    ):
        raise ConfigurationError("the path prefix must begin with `/` and not end with it")
    return prefix


def _checked_skew(skew: int) -> int:
    if not 0 <= skew <= MAX_SKEW:
        raise ConfigurationError("the skew must be between 0 and 30 seconds")
    return int(skew)


def _checked_paths(paths: Collection[str]) -> frozenset[bytes]:
    # A single text is a collection of its characters.
    if isinstance(paths, str):
        raise ConfigurationError("unverified_paths must be a list of paths")
    for path in paths:
        if not path.startswith("/") or not path.isascii() or any(c in path for c in "?#*"):
            raise ConfigurationError(
                "unverified_paths must be exact raw paths, without query and patterns"
            )
    return frozenset(path.encode("ascii") for path in paths)
